# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Retrieves documents by a student's embeddings, and only by those of the right student."""

import asyncio
import logging
import math
from collections import defaultdict
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from haystack import Document, component
from haystack.dataclasses import SparseEmbedding
from haystack.document_stores.types import FilterPolicy, apply_filter_policy
from qdrant_client.http.models import Filter

from haystack_integrations.components.retrievers.retort.qdrant_server import ServerIndex, search_params
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.students import (
    SPACE_STAMP,
    SPARSE_SPACE_STAMP,
    SPARSE_STUDENT_STAMP,
    STUDENT_STAMP,
    VIEW_OF,
    read_space,
)
from retort.students.checks import positive
from retort.students.files import found_from_index
from retort.students.fusing import rank_points, score_points

logger = logging.getLogger(__name__)


# Inputs for the space of an embedding, and for the embedding.
_INPUTS = {
    "space": ("query_embedding", "embedding"),
    "sparse_space": ("query_sparse_embedding", "sparse_embedding"),
}
_GROUP_SEARCH = 16  # times as many documents as all groups hold


class SpaceMismatchError(ValueError):
    """The query and the index were embedded by models whose vectors cannot be compared."""


@component
class StudentRetriever:
    """
    Finds the documents nearest to a query's embedding.

    It searches a folder (`QdrantEdgeDocumentStore`) or a Qdrant server (qdrant-haystack's `QdrantDocumentStore`), and
    gives the raw similarity as score from both.

    Given a sparse embedding, it searches by that; given both, it searches twice and fuses the two rankings by their
    ranks (reciprocal rank fusion, Cormack et al. 2009): $\\sum_i w_i / (60 + r_i)$ is then the score.

    Of documents with several views (`StudentMultiViewDocumentEmbedder`) it finds the best view of each, and searches
    on until there are `top_k` documents.

    Connect an embedder by the names of its outputs: its embedding and its `space`. Haystack refuses to connect the two
    components by their names alone.

    Vectors of two models can have one dimension and mean nothing to each other. `StudentDocumentEmbedder` stamps
    every document with its model's space; this retriever compares the stamps of what it found with the space of the
    query, and refuses to answer from an index of another one.

    ### Usage example

    ```python
    from haystack_integrations.components.retrievers.retort import StudentRetriever
    from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore

    retriever = StudentRetriever(document_store=QdrantEdgeDocumentStore(path="runs/quickstart/index"))
    retriever.run(query_embedding=embedding, space=space)["documents"]
    ```
    """

    def __init__(
        self,
        *,
        document_store: QdrantEdgeDocumentStore | QdrantDocumentStore,
        top_k: int = 10,
        filters: dict[str, Any] | Filter | None = None,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
        score_threshold: float | None = None,
        return_embedding: bool = False,
        hnsw_ef: int | None = None,
        exact: bool | None = None,
        rescore: bool | None = None,
        oversampling: float | None = None,
        ignore_quantization: bool | None = None,
        student: str | None = None,
        allow_unstamped: bool = False,
        fusion: Literal["ranks", "scores"] = "ranks",
        fusion_weights: list[float] | None = None,
        fusion_depth: int = 100,
        trust_remote_code: bool = False,
        scale_score: bool = False,
        group_by: str | None = None,
        group_size: int | None = 3,
    ) -> None:
        """
        Create the retriever.

        :param document_store:
            Where to search.
        :param top_k:
            Documents to return, at most; with `group_by`, groups of them.
        :param filters:
            Haystack filters; for a server also native ones, which YAML cannot hold.
        :param filter_policy:
            Whether filters given to `run` replace these or are merged with them.
        :param score_threshold:
            Leave out documents below it.
        :param return_embedding:
            Return the documents' vectors, too.
        :param hnsw_ef:
            Width of the graph search: larger finds more of the true neighbours, and is slower.
        :param exact:
            Search without the graph.
        :param rescore:
            Where the store quantises embeddings: score what they found once more, by the original ones. A folder does
            so by default.
        :param oversampling:
            Where the store quantises embeddings: find so many times `top_k` by them, of which rescoring chooses.
        :param ignore_quantization:
            Where the store quantises embeddings: search by the original ones.
        :param student:
            Model that embeds the queries, for pipelines where `space` is not connected.
        :param allow_unstamped:
            Answer from an index whose documents carry no stamp, embedded by something else than
            `StudentDocumentEmbedder`.
        :param fusion:
            With both embeddings, what is added up: reciprocal `ranks`; or `scores`, of each ranking between 0 and 1 for
            its best (see `retort.students.fusing.score_points`): better where one of the two is sure of what it found.
            0 is the worst of those found; of a sparse ranking of fewer than `fusion_depth`, which has all documents
            that share a term with the query, it is the score 0.
        :param fusion_weights:
            With both embeddings: weights of the dense and of the sparse ranking; None is the same for both.
        :param fusion_depth:
            With both embeddings: how many documents of each ranking are fused.
        :param trust_remote_code:
            Run code that `student` brings along.
        :param scale_score:
            Scores between 0 and 1, as Haystack scales them: $(s + 1) / 2$ of a store of `similarity="cosine"`, else
            $1 / (1 + e^{-s / 100})$. A `score_threshold` is compared with $s$. A fused score is not scaled.
        :param group_by:
            Meta field, with or without `meta.`: return the best documents of each of its values, group after group, the
            one with the best document first. Documents that have no such field are left out; one whose field is a list
            is in the groups of all its values.
        :param group_size:
            With `group_by`: documents of a group, at most. A search looks at 16 times as many as are asked for.
        :raises ValueError:
            If `top_k`, `group_size`, `fusion_depth` or `hnsw_ef` is not above 0, `fusion` is another word, there are
            not two weights of at least 0, `oversampling` is below 1, or the store is of another kind.
        """
        if oversampling is not None and oversampling < 1:
            msg = f"oversampling must be 1 or more; it is {oversampling}."
            raise ValueError(msg)
        if fusion not in ("ranks", "scores"):
            msg = f"fusion must be 'ranks' or 'scores'; it is {fusion!r}."
            raise ValueError(msg)
        if fusion_weights is not None and (
            len(fusion_weights) != 2 or not all(0 <= weight < math.inf for weight in fusion_weights)  # noqa: PLR2004
        ):
            msg = f"fusion_weights must be two numbers of at least 0, dense and sparse; they are {fusion_weights}."
            raise ValueError(msg)
        self._index: QdrantEdgeDocumentStore | ServerIndex
        ef = None if hnsw_ef is None else positive("hnsw_ef", hnsw_ef)
        self._search: dict[str, Any] = {"hnsw_ef": ef, "exact": exact}
        quantization: dict[str, Any] = {
            "rescore": rescore,
            "oversampling": oversampling,
            "ignore_quantization": ignore_quantization,
        }
        if isinstance(document_store, QdrantDocumentStore):
            self._index = ServerIndex(document_store)
            self._search = {"params": search_params(**self._search, **quantization)}
        elif not isinstance(document_store, QdrantEdgeDocumentStore):
            kind = type(document_store).__name__
            msg = f"document_store must be a QdrantEdgeDocumentStore or a QdrantDocumentStore, not {kind}."
            raise ValueError(msg)
        else:
            self._index = document_store
            self._search |= quantization
        self.document_store = document_store
        self.top_k = positive("top_k", top_k)
        self.filters = filters
        policy = filter_policy if isinstance(filter_policy, FilterPolicy) else FilterPolicy.from_str(filter_policy)
        self.filter_policy = policy.value
        self.score_threshold = score_threshold
        self.return_embedding = return_embedding
        self.hnsw_ef = hnsw_ef
        self.exact = exact
        self.rescore = rescore
        self.oversampling = oversampling
        self.ignore_quantization = ignore_quantization
        self.student = student
        self.allow_unstamped = allow_unstamped
        self.fusion = fusion
        self.fusion_weights = fusion_weights
        self.fusion_depth = positive("fusion_depth", fusion_depth)
        self.trust_remote_code = trust_remote_code
        self.scale_score = scale_score
        self.group_by = group_by
        self.group_size = 3 if group_size is None else positive("group_size", group_size)
        self._space: str | None = None
        self._warned = False

    def warm_up(self) -> None:
        """
        Read the space of `student`, if one is named.

        :raises ValueError:
            If an embedder's `space` is connected without its embedding: before the pipeline runs.
        """
        sockets: Any = self.__haystack_input__  # type: ignore[attr-defined]  # Haystack's decorator adds it
        for space, embeddings in _INPUTS.items():
            senders = getattr(sockets, space).senders
            if senders and not any(getattr(sockets, name).senders for name in embeddings):
                output = embeddings[0].removeprefix("query_")
                msg = (
                    f"{senders[0]} gives StudentRetriever its space without an embedding. Add: "
                    f"pipeline.connect('{senders[0]}.{output}', 'RETRIEVER.{embeddings[0]}')."
                )
                raise ValueError(msg)
        if self.student is not None and self._space is None:
            self._space = read_space(self.student, trust_remote_code=self.trust_remote_code)

    async def warm_up_async(self) -> None:
        """Read the space of `student` in a thread; see `warm_up`."""
        await asyncio.to_thread(self.warm_up)

    def close(self) -> None:
        """Close the document store."""
        self._index.close()

    async def close_async(self) -> None:
        """Close the document store, and what `run_async` opened."""
        await self._index.close_async()

    @component.output_types(documents=list[Document])
    def run(
        self,
        query_embedding: list[float] | None = None,
        space: str | None = None,
        filters: dict[str, Any] | Filter | None = None,
        top_k: int | None = None,
        score_threshold: float | None = None,
        query_sparse_embedding: SparseEmbedding | None = None,
        sparse_space: str | None = None,
        embedding: list[float] | None = None,
        sparse_embedding: SparseEmbedding | None = None,
        scale_score: bool | None = None,
        group_by: str | None = None,
        group_size: int | None = None,
        return_embedding: bool | None = None,
    ) -> dict[str, Any]:
        """
        Find the nearest documents.

        :param query_embedding:
            The query's vector, or none for a search by the sparse one alone.
        :param space:
            Space of the model that made it (an output of `StudentTextEmbedder`).
        :param filters:
            Haystack filters for this query; for a server also native ones.
        :param top_k:
            Documents to return, at most, for this query.
        :param score_threshold:
            Leave out documents below it, for this query. With both embeddings it bounds the fused score.
        :param query_sparse_embedding:
            The query's sparse vector, from `StudentSparseTextEmbedder`.
        :param sparse_space:
            Space of the model that made it.
        :param embedding:
            The same as `query_embedding`, by the name that it has as an embedder's output.
        :param sparse_embedding:
            The same as `query_sparse_embedding`, by the name that it has as an embedder's output.
        :param scale_score:
            Whether to scale the scores, for this query.
        :param group_by:
            Meta field to group by, for this query.
        :param group_size:
            Documents of a group, at most, for this query.
        :param return_embedding:
            Whether the documents have their embeddings, for this query.
        :returns:
            `documents`, best first, with scores.
        :raises SpaceMismatchError:
            If the index was built by a model of another space, or is not stamped.
        :raises ValueError:
            If there is no embedding or one under two names, `top_k` or `group_size` is not above 0, or scores of two
            embeddings are to be scaled.
        """
        self.warm_up()
        queries = _given(
            _one_of(query_embedding=query_embedding, embedding=embedding),
            _one_of(query_sparse_embedding=query_sparse_embedding, sparse_embedding=sparse_embedding),
        )
        answer = self._answer(len(queries), top_k, score_threshold, scale_score, group_by, group_size, return_embedding)
        found = []
        for query in queries:
            options, depth = self._arguments(filters, answer), answer.depth
            while True:
                hits = self._index.search(query, **options | {"top_k": depth})
                if not answer.wants_more(hits, depth):
                    break
                depth *= 2
            found.append(_Ranking(_best_views(hits)[: answer.kept], is_whole=len(hits) < depth))
        sample = None if all(ranking.documents for ranking in found) else self._index.sample_meta()
        return {"documents": self._joined(queries, found, sample, space, sparse_space, answer)}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query_embedding: list[float] | None = None,
        space: str | None = None,
        filters: dict[str, Any] | Filter | None = None,
        top_k: int | None = None,
        score_threshold: float | None = None,
        query_sparse_embedding: SparseEmbedding | None = None,
        sparse_space: str | None = None,
        embedding: list[float] | None = None,
        sparse_embedding: SparseEmbedding | None = None,
        scale_score: bool | None = None,
        group_by: str | None = None,
        group_size: int | None = None,
        return_embedding: bool | None = None,
    ) -> dict[str, Any]:
        """
        Find the nearest documents; parameters and result as `run`.

        :param query_embedding:
            The query's vector, or none for a search by the sparse one alone.
        :param space:
            Space of the model that made it.
        :param filters:
            Haystack filters for this query; for a server also native ones.
        :param top_k:
            Documents to return, at most, for this query.
        :param score_threshold:
            Leave out documents below it, for this query. With both embeddings it bounds the fused score.
        :param query_sparse_embedding:
            The query's sparse vector, from `StudentSparseTextEmbedder`.
        :param sparse_space:
            Space of the model that made it.
        :param embedding:
            The same as `query_embedding`, by the name that it has as an embedder's output.
        :param sparse_embedding:
            The same as `query_sparse_embedding`, by the name that it has as an embedder's output.
        :param scale_score:
            Whether to scale the scores, for this query.
        :param group_by:
            Meta field to group by, for this query.
        :param group_size:
            Documents of a group, at most, for this query.
        :param return_embedding:
            Whether the documents have their embeddings, for this query.
        :returns:
            `documents`, best first, with scores.
        """
        await asyncio.to_thread(self.warm_up)
        queries = _given(
            _one_of(query_embedding=query_embedding, embedding=embedding),
            _one_of(query_sparse_embedding=query_sparse_embedding, sparse_embedding=sparse_embedding),
        )
        answer = self._answer(len(queries), top_k, score_threshold, scale_score, group_by, group_size, return_embedding)
        found = []
        for query in queries:
            options, depth = self._arguments(filters, answer), answer.depth
            while True:
                hits = await self._index.search_async(query, **options | {"top_k": depth})
                if not answer.wants_more(hits, depth):
                    break
                depth *= 2
            found.append(_Ranking(_best_views(hits)[: answer.kept], is_whole=len(hits) < depth))
        sample = (
            None if all(ranking.documents for ranking in found) else await asyncio.to_thread(self._index.sample_meta)
        )
        return {"documents": self._joined(queries, found, sample, space, sparse_space, answer)}

    def _answer(
        self,
        queries: int,
        top_k: int | None,
        score_threshold: float | None,
        scale_score: bool | None,
        group_by: str | None,
        group_size: int | None,
        return_embedding: bool | None,
    ) -> "_Answer":
        """Say what a query asks for, over what the retriever was set to."""
        wanted = self.top_k if top_k is None else positive("top_k", top_k)
        size = self.group_size if group_size is None else positive("group_size", group_size)
        field = (self.group_by if group_by is None else group_by) or None
        scales = self.scale_score if scale_score is None else scale_score
        if scales and queries > 1:
            msg = "scale_score scales the scores of one embedding; those of two are fused. Leave it out."
            raise ValueError(msg)
        depth = wanted * size if field else wanted
        return _Answer(
            top_k=wanted,
            depth=max(depth, self.fusion_depth) if queries > 1 else depth,
            threshold=self.score_threshold if score_threshold is None else score_threshold,
            scales=scales,
            group_by=None if field is None else field.removeprefix("meta."),
            group_size=size,
            embedding=self.return_embedding if return_embedding is None else return_embedding,
        )

    def _arguments(self, filters: dict[str, Any] | Filter | None, answer: "_Answer") -> dict[str, Any]:
        # No threshold: what it leaves out would keep its stamp to itself.
        return {
            "top_k": answer.depth,
            "filters": self._filters(filters),
            "return_embedding": answer.embedding,
            **self._search,
        }

    def _joined(
        self,
        queries: list[list[float] | SparseEmbedding],
        found: list["_Ranking"],
        sample: dict[str, Any] | None,
        space: str | None,
        sparse_space: str | None,
        answer: "_Answer",
    ) -> list[Document]:
        """Check the stamps of what each query found, or of a sample, and make one ranking of two."""
        for query, ranking in zip(queries, found, strict=True):
            metas = [d.meta for d in ranking.documents]
            if isinstance(query, SparseEmbedding):
                self._check(metas, sample, sparse_space, SPARSE_SPACE_STAMP, SPARSE_STUDENT_STAMP)
            else:
                self._check(metas, sample, space or self._space, SPACE_STAMP, STUDENT_STAMP)
        documents = found[0].documents if len(found) == 1 else self._fused(*found)
        least = answer.threshold
        best = answer.best([d for d in documents if least is None or (d.score or 0.0) >= least])
        if not answer.scales:
            return best
        cosine = self.document_store.similarity == "cosine" and not isinstance(queries[0], SparseEmbedding)
        return [replace(d, score=_scaled(d.score or 0.0, cosine=cosine)) for d in best]

    def _fused(self, dense: "_Ranking", sparse: "_Ranking") -> list[Document]:
        first = dense.documents
        unstamped = not any(SPARSE_SPACE_STAMP in d.meta for d in first)
        if first and not sparse.documents and unstamped and not self.allow_unstamped:
            place, mend = self._place()
            msg = (
                f"The documents of the index at {place} have no sparse embeddings. {mend}, with --sparse STUDENT; or "
                "set allow_unstamped=True if something else embedded them."
            )
            raise SpaceMismatchError(msg)
        scores: dict[str, float] = defaultdict(float)
        # A sparse search finds what shares a term with the query. Where that is all, what it did not find has 0.
        floors = (None, 0.0 if sparse.is_whole else None)
        for weight, ranking, floor in zip(self.fusion_weights or [1.0, 1.0], (dense, sparse), floors, strict=True):
            points = _points(ranking.documents, self.fusion, floor)
            for document, worth in zip(ranking.documents, points, strict=True):
                scores[document.id] += weight * worth
        by_id = {document.id: document for ranking in (dense, sparse) for document in ranking.documents}
        best = sorted(scores, key=lambda key: (-scores[key], key))
        return [replace(by_id[key], score=scores[key]) for key in best]

    def _filters(self, filters: dict[str, Any] | Filter | None) -> dict[str, Any] | Filter | None:
        policy = FilterPolicy.from_str(self.filter_policy)
        if not isinstance(filters, Filter) and not isinstance(self.filters, Filter):
            return apply_filter_policy(policy, self.filters, filters)
        if policy is FilterPolicy.MERGE and filters and self.filters:
            msg = "Native filters cannot be merged: set filter_policy='replace', or give Haystack filters."
            raise ValueError(msg)
        return filters or self.filters

    def _place(self) -> tuple[str, str]:
        """Say where the index is, and how to build it anew."""
        if isinstance(self._index, ServerIndex):
            return self._index.address, f"Re-index {self._index.how_to_index}"
        place = self._index.path
        return place, f"Re-index with `retort index STUDENT --documents DIR --store {place}`"

    def _stamping(self) -> str:
        """Say what stamps the index."""
        if isinstance(self._index, ServerIndex) and self._index.is_local:  # the command line does not know it
            return "`retort.stamp(document_store, student)` in Python"
        return f"`retort stamp {self._place()[0]} --student {self.student or 'DIR'}`"

    def _check(
        self,
        found: list[dict[str, Any]],
        sample: dict[str, Any] | None,
        space: str | None,
        space_stamp: str,
        student_stamp: str,
    ) -> None:
        if space is None:
            if not self._warned:
                self._warned = True
                logger.warning(
                    "StudentRetriever does not know which model embedded the query: connect the embedder's `space` to "
                    "it (to `sparse_space` from a sparse one), or name the `student`. Only the dimension was checked."
                )
            return
        if not found and sample is not None and space_stamp in sample:  # without, it may be one that has no embedding
            found = [sample]
        for meta in found:
            stamp = meta.get(space_stamp)
            if stamp == space or (stamp is None and self.allow_unstamped):
                continue
            place, mend = self._place()
            if stamp is None:
                msg = (
                    f"The documents of the index at {place} carry no stamp: nobody can tell which model embedded them. "
                    f"If it is one that this student was trained for, compare and stamp it: {self._stamping()}. "
                    f"{mend}, or set allow_unstamped=True if you know that it was this one."
                )
            else:
                built_by = found_from_index(meta.get(student_stamp, "an unnamed student"), place)
                msg = (
                    f"The index at {place} was built by {built_by} (space {stamp!s:.12}); the query was embedded in "
                    f"space {space[:12]}. Their vectors cannot be compared. {mend}, or ask with {built_by} (and, if "
                    "its documents have a prefix or suffix, name it as document_prefix and document_suffix)."
                )
            raise SpaceMismatchError(msg)


class _Ranking(NamedTuple):
    """What was found by one embedding, and whether that is all there is."""

    documents: list[Document]
    is_whole: bool


class _Answer(NamedTuple):
    """What a query asks for; `depth` is how many documents are searched for at first."""

    top_k: int
    depth: int
    threshold: float | None
    scales: bool
    group_by: str | None
    group_size: int
    embedding: bool

    @property
    def kept(self) -> int:
        """How many of a ranking's documents count."""
        return self.depth if self.group_by is None else self.depth * _GROUP_SEARCH

    def wants_more(self, hits: list[Document], depth: int) -> bool:
        """Tell whether views of few documents, or few groups, took the places of others."""
        if len(hits) < depth:
            return False
        views = _best_views(hits)
        if self.group_by is None:
            return len(views) < self.depth
        groups = self._groups(views)
        full = [group for group in groups[: self.top_k] if len(group) == self.group_size]
        return len(full) < self.top_k and depth < self.kept

    def best(self, documents: list[Document]) -> list[Document]:
        """Choose of a ranking what is returned."""
        if self.group_by is None:
            return documents[: self.top_k]
        return [document for group in self._groups(documents)[: self.top_k] for document in group]

    def _groups(self, documents: list[Document]) -> list[list[Document]]:
        groups: dict[tuple[type, Any], list[Document]] = defaultdict(list)
        for document in documents:
            value: Any = document.meta
            for key in str(self.group_by).split("."):
                value = value.get(key) if isinstance(value, dict) else None
            each = value if isinstance(value, list) else [value]
            for place in dict.fromkeys((type(one), one) for one in each if isinstance(one, (str, int, float))):
                groups[place].append(document)
        return [group[: self.group_size] for group in groups.values()]


def _one_of(**inputs: Any) -> Any:
    """Return the one that there is."""
    present = [name for name, value in inputs.items() if value is not None]
    if len(present) > 1:
        msg = f"StudentRetriever got {' and '.join(present)}, which are the same: give one."
        raise ValueError(msg)
    return inputs[present[0]] if present else None


def _scaled(score: float, *, cosine: bool) -> float:
    return (score + 1) / 2 if cosine else 1 / (1 + math.exp(-max(score, -7e4) / 100))  # exp(700) is the last


def _given(dense: list[float] | None, sparse: SparseEmbedding | None) -> list[list[float] | SparseEmbedding]:
    queries: list[list[float] | SparseEmbedding] = [q for q in (dense, sparse) if q is not None]
    if not queries:
        msg = "StudentRetriever needs query_embedding, query_sparse_embedding, or both."
        raise ValueError(msg)
    return queries


def _best_views(hits: list[Document]) -> list[Document]:
    """Keep each document's first view, under the document's own id."""
    best: dict[str, Document] = {}
    for hit in hits:
        whole = str(hit.meta.get(VIEW_OF, hit.id))
        if whole not in best:
            best[whole] = hit if hit.id == whole else replace(hit, id=whole)
    return list(best.values())


def _points(documents: list[Document], fusion: str, floor: float | None) -> list[float]:
    """Say what one ranking gives each of its documents, best first."""
    if fusion == "ranks":
        return rank_points(len(documents))
    return score_points([document.score or 0.0 for document in documents], floor)
