# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Retrieves documents by a student's embeddings, and only by those of the right student."""

import asyncio
import logging
from collections import defaultdict
from dataclasses import replace
from typing import Any, Literal

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
    ) -> None:
        """
        Create the retriever.

        :param document_store:
            Where to search.
        :param top_k:
            Documents to return, at most.
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
            With both embeddings, what is added up: reciprocal `ranks`; or `scores`, of each ranking between 0 for the
            worst of those found and 1 for the best: better where one of the two is sure of what it found.
        :param fusion_weights:
            With both embeddings: weights of the dense and of the sparse ranking; None is the same for both.
        :param fusion_depth:
            With both embeddings: how many documents of each ranking are fused.
        :param trust_remote_code:
            Run code that `student` brings along.
        :raises ValueError:
            If `top_k` or `fusion_depth` is not above 0, `fusion` is another word, there are not two weights of at least
            0, `oversampling` is below 1, or the store is of another kind.
        """
        if oversampling is not None and oversampling < 1:
            msg = f"oversampling must be 1 or more; it is {oversampling}."
            raise ValueError(msg)
        if fusion not in ("ranks", "scores"):
            msg = f"fusion must be 'ranks' or 'scores'; it is {fusion!r}."
            raise ValueError(msg)
        if fusion_weights is not None and (len(fusion_weights) != 2 or min(fusion_weights) < 0):  # noqa: PLR2004
            msg = f"fusion_weights must be two numbers of at least 0, dense and sparse; they are {fusion_weights}."
            raise ValueError(msg)
        self._index: QdrantEdgeDocumentStore | ServerIndex
        self._search: dict[str, Any] = {"hnsw_ef": hnsw_ef, "exact": exact}
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
        self._space: str | None = None
        self._warned = False

    def warm_up(self) -> None:
        """Read the space of `student`, if one is named."""
        if self.student is not None and self._space is None:
            self._space = read_space(self.student, trust_remote_code=self.trust_remote_code)

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
        :returns:
            `documents`, best first, with scores.
        :raises SpaceMismatchError:
            If the index was built by a model of another space, or is not stamped.
        :raises ValueError:
            If there is no embedding, or `top_k` is not above 0.
        """
        self.warm_up()
        queries = _given(query_embedding, query_sparse_embedding)
        arguments = self._arguments(filters, top_k, fused=len(queries) > 1)
        found = []
        for query in queries:
            depth = arguments["top_k"]
            while True:
                hits = self._index.search(query, **arguments | {"top_k": depth})
                if not _wants_more(hits, depth, arguments["top_k"]):
                    break
                depth *= 2
            found.append(_best_views(hits)[: arguments["top_k"]])
        sample = None if all(found) else self._index.sample_meta()
        return {"documents": self._joined(queries, found, sample, space, sparse_space, top_k, score_threshold)}

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
        :returns:
            `documents`, best first, with scores.
        """
        await asyncio.to_thread(self.warm_up)
        queries = _given(query_embedding, query_sparse_embedding)
        arguments = self._arguments(filters, top_k, fused=len(queries) > 1)
        found = []
        for query in queries:
            depth = arguments["top_k"]
            while True:
                hits = await self._index.search_async(query, **arguments | {"top_k": depth})
                if not _wants_more(hits, depth, arguments["top_k"]):
                    break
                depth *= 2
            found.append(_best_views(hits)[: arguments["top_k"]])
        sample = None if all(found) else await asyncio.to_thread(self._index.sample_meta)
        return {"documents": self._joined(queries, found, sample, space, sparse_space, top_k, score_threshold)}

    def _arguments(self, filters: dict[str, Any] | Filter | None, top_k: int | None, *, fused: bool) -> dict[str, Any]:
        wanted = self.top_k if top_k is None else positive("top_k", top_k)
        # No threshold: what it leaves out would keep its stamp to itself.
        return {
            "top_k": max(wanted, self.fusion_depth) if fused else wanted,
            "filters": self._filters(filters),
            "return_embedding": self.return_embedding,
            **self._search,
        }

    def _joined(
        self,
        queries: list[list[float] | SparseEmbedding],
        found: list[list[Document]],
        sample: dict[str, Any] | None,
        space: str | None,
        sparse_space: str | None,
        top_k: int | None,
        score_threshold: float | None,
    ) -> list[Document]:
        """Check the stamps of what each query found, or of a sample, and make one ranking of two."""
        for query, documents in zip(queries, found, strict=True):
            metas = [d.meta for d in documents]
            if isinstance(query, SparseEmbedding):
                self._check(metas, sample, sparse_space, SPARSE_SPACE_STAMP, SPARSE_STUDENT_STAMP)
            else:
                self._check(metas, sample, space or self._space, SPACE_STAMP, STUDENT_STAMP)
        least = self.score_threshold if score_threshold is None else score_threshold
        if len(found) == 1:
            return [d for d in found[0] if least is None or (d.score or 0.0) >= least]
        if found[0] and not found[1] and not any(SPARSE_SPACE_STAMP in d.meta for d in found[0]):
            place, mend = self._place()
            msg = f"The documents of the index at {place} have no sparse embeddings. {mend}, with --sparse STUDENT."
            raise SpaceMismatchError(msg)
        scores: dict[str, float] = defaultdict(float)
        for weight, documents in zip(self.fusion_weights or [1.0, 1.0], found, strict=True):
            for document, points in zip(documents, _points(documents, self.fusion), strict=True):
                scores[document.id] += weight * points
        by_id = {document.id: document for documents in found for document in documents}
        best = sorted(scores, key=lambda key: (-scores[key], key))[: self.top_k if top_k is None else top_k]
        return [replace(by_id[key], score=scores[key]) for key in best if least is None or scores[key] >= least]

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
                    f"{mend}, or set allow_unstamped=True if you know that it was this one."
                )
            else:
                built_by = found_from_index(meta.get(student_stamp, "an unnamed student"), place)
                msg = (
                    f"The index at {place} was built by {built_by} (space {stamp[:12]}); the query was embedded in "
                    f"space {space[:12]}. Their vectors cannot be compared. {mend}, or ask with {built_by} (and, if "
                    "its documents have a prefix or suffix, name it as document_prefix and document_suffix)."
                )
            raise SpaceMismatchError(msg)


def _given(dense: list[float] | None, sparse: SparseEmbedding | None) -> list[list[float] | SparseEmbedding]:
    queries: list[list[float] | SparseEmbedding] = [q for q in (dense, sparse) if q is not None]
    if not queries:
        msg = "StudentRetriever needs query_embedding, query_sparse_embedding, or both."
        raise ValueError(msg)
    return queries


def _wants_more(hits: list[Document], depth: int, wanted: int) -> bool:
    """Tell whether views of few documents took the places of others."""
    return len(hits) == depth and len(_best_views(hits)) < wanted


def _best_views(hits: list[Document]) -> list[Document]:
    """Keep each document's first view, under the document's own id."""
    best: dict[str, Document] = {}
    for hit in hits:
        whole = hit.meta.get(VIEW_OF, hit.id)
        if whole not in best:
            best[whole] = hit if hit.id == whole else replace(hit, id=whole)
    return list(best.values())


def _points(documents: list[Document], fusion: str) -> list[float]:
    """Say what one ranking gives each of its documents, best first."""
    if fusion == "ranks":
        return rank_points(len(documents))
    return score_points([document.score or 0.0 for document in documents])
