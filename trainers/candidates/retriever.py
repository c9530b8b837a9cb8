# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Any Haystack retriever as a miner."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retort.students.hashing import hash_text
from retort.students.towers import Side
from retort.trainers.data.texts import TextStore
from retort.trainers.roles import Context, Miner
from retort.trainers.runtime.errors import RecipeError, TeacherError
from retort.trainers.runtime.progress import progress_bar
from retort.trainers.teachers.calls import Refusal, in_order
from retort.trainers.teachers.embedder import Embedders
from retort.trainers.teachers.haystack import EMBEDDERS, HaystackComponents
from retort.trainers.teachers.vector_cache import VectorCache

if TYPE_CHECKING:
    from haystack import Document

logger = logging.getLogger(__name__)

WRITE_BLOCK = 1024
REMOTE_BLOCK = 32  # documents that are paid together
# What an embedder gives, by the names under which retrievers take it.
_HANDED_ON = {"query_embedding": "embedding", "query_sparse_embedding": "sparse_embedding", "space": "space"}


class HaystackRetriever:
    """
    A retriever with its embedder, searching one corpus.

    :param retriever:
        `{type, init_parameters}` of a component whose `run` takes `query`, `query_embedding` or
        `query_sparse_embedding`.
    :param text_embedder:
        `{type, init_parameters}` of the embedder of queries, where the retriever takes an embedding.
    :param document_embedder:
        `{type, init_parameters}` of the embedder of documents, where an empty document store is to be filled.
    :param revision:
        Version of a model behind a remote interface; required where a component has an API key.
    :param retries:
        How often a failed call is repeated; None: 5 times for remote components, never for local ones.
    :param concurrency:
        Calls at a time.
    :param max_calls:
        Calls in a run, at most; then it stops, and what came is kept. None: any number.
    :param allowed_modules:
        Further modules that the components may come from (filled from `--allow`).
    :raises RecipeError:
        If the component is no retriever, or an embedder is missing.
    """

    def __init__(
        self,
        *,
        retriever: dict[str, Any],
        text_embedder: dict[str, Any] | None = None,
        document_embedder: dict[str, Any] | None = None,
        revision: str | None = None,
        retries: int | None = None,
        concurrency: int = 1,
        max_calls: int | None = None,
        allowed_modules: list[str] | None = None,
    ) -> None:
        given = {"retriever": retriever, "text_embedder": text_embedder, "document_embedder": document_embedder}
        self._specs = {name: spec for name, spec in given.items() if spec is not None}
        options: dict[str, Any] = {
            "revision": revision,
            "retries": retries,
            "concurrency": concurrency,
            "max_calls": max_calls,
            "allowed_modules": allowed_modules,
        }
        self._components = HaystackComponents(self._specs, **options)
        self._type = retriever["type"]
        self._takes = self._components.parameters("retriever")
        if "query" not in self._takes and text_embedder is None:
            msg = f"retriever: {self._type} takes an embedding; name the text_embedder that makes it."
            raise RecipeError(msg)
        self._known: dict[str, int] = {}
        # Remote embedders: what they give is kept.
        dense = "query_embedding" in self._takes and "query_sparse_embedding" not in self._takes
        paid = {
            name: self._specs[embedder]
            for name, embedder in EMBEDDERS.items()
            if dense and self._components.asks_server(embedder)
        }
        self._embedders = Embedders(paid, **options) if paid else None
        self._paid = set(paid)
        self._cache: Path | None = None

    def keep_in(self, cache: Path) -> None:
        """Keep the vectors that remote embedders give in a cache folder, for teachers of vectors as well."""
        self._cache = cache

    def _kept_vectors(self, texts: TextStore, side: Side) -> np.ndarray | None:
        """`[n, d]`, NaN where a text is refused; None where they are not kept."""
        embedders = self._embedders
        if embedders is None or self._cache is None or ("text" if side == "query" else side) not in self._paid:
            return None
        cache = VectorCache(self._cache, embedders.vectors_key(side), side)
        with progress_bar(f"{self._type}: {side} texts", len(texts)) as update:
            cache.fill(texts, lambda block: embedders.encode_parts(block, side), update)
        return cache.gather(texts.item_ids)

    @property
    def key(self) -> str:
        """The components' key (see `HaystackComponents`)."""
        return self._components.key

    @property
    def former_key(self) -> str:
        """The key as it was when every parameter counted."""
        return self._components.former_key

    def open(self, corpus: TextStore) -> None:
        """
        Fill the retriever's document store, or go on with what a kill left half filled.

        One that holds as many documents, or does not begin with the corpus's first, is searched as it is.

        :param corpus:
            What is searched; ids of documents are its ids.
        """
        from haystack import Document
        from haystack.document_stores.types import DuplicatePolicy

        self._known = corpus.rows
        store = self._components["retriever"].document_store if self._has_store() else None
        if store is None or (held := store.count_documents()) >= len(corpus):
            return
        first = {"field": "id", "operator": "==", "value": corpus.ids[0]}
        if held and not store.filter_documents(filters=first):
            return
        if held:
            logger.warning("The index holds %d of %d documents; it is filled up.", held, len(corpus))
        vectors = self._kept_vectors(corpus, "document")
        for start in range(held // WRITE_BLOCK * WRITE_BLOCK, len(corpus), WRITE_BLOCK):
            part = slice(start, start + WRITE_BLOCK)
            documents = [Document(id=i, content=t) for i, t in zip(corpus.ids[part], corpus.texts[part], strict=True)]
            if vectors is not None:
                pairs = zip(documents, vectors[part], strict=True)
                documents = [replace(d, embedding=v.tolist()) for d, v in pairs if not np.isnan(v).any()]
            if vectors is not None or "document_embedder" not in self._specs:
                store.write_documents(documents, policy=DuplicatePolicy.OVERWRITE)
                continue
            size = REMOTE_BLOCK if self._components.remote else WRITE_BLOCK
            calls = [documents[i : i + size] for i in range(0, len(documents), size)]
            for _, embedded in self._components.each(self._embed, calls, probe=[Document(content="text")]):
                if isinstance(embedded, Refusal):
                    msg = f"{self._specs['document_embedder']['type']} refuses documents: {embedded.cause}"
                    raise TeacherError(msg)
                store.write_documents(embedded, policy=DuplicatePolicy.OVERWRITE)

    def _embed(self, documents: list[Document]) -> list[Document]:
        try:
            return self._components.warm["document_embedder"].run(documents=documents)["documents"]
        except Exception as error:
            which = f"{len(documents)} documents, from {documents[0].id!r} on"
            msg = f"{self._specs['document_embedder']['type']} failed on {which}: {error}"
            raise TeacherError(msg) from error

    def _has_store(self) -> bool:
        return "document_store" in vars(self._components["retriever"])

    def search(self, queries: list[str], top_k: int) -> Iterator[dict[str, float]]:
        """
        Search for one query after the other.

        :param queries:
            The queries.
        :param top_k:
            Documents a query, at most.
        :returns:
            Per query the ids that were found, best first, with their scores (NaN without one).
        :raises TeacherError:
            If the retriever fails, or finds what is not in the corpus.
        """

        for found in in_order(self.search_parts(queries, top_k)):
            if isinstance(found, Refusal):
                logger.warning("%s refuses a query, which finds nothing: %s", self._type, found.cause)
            yield {} if isinstance(found, Refusal) else found

    def search_parts(self, queries: list[str], top_k: int) -> Iterator[tuple[int, dict[str, float] | Refusal]]:
        """Search, as `search` does, and give the numbers of the queries; what came after a failure is among them."""

        vectors = self._kept_vectors(TextStore(map(str, range(len(queries))), queries), "query")

        def once(numbered: tuple[int, str]) -> dict[str, float]:
            number, query = numbered
            return self._search(query, top_k, None if vectors is None or number < 0 else vectors[number].tolist())

        if vectors is not None and not self._components.asks_server("retriever"):
            for number, query in enumerate(queries):
                refused = np.isnan(vectors[number]).any()
                yield number, Refusal("its embedder refuses it.") if refused else once((number, query))
            return
        for (number, _), found in self._components.each(once, list(enumerate(queries)), probe=(-1, "text")):
            yield number, found

    def _search(self, query: str, top_k: int, vector: list[float] | None = None) -> dict[str, float]:
        try:
            inputs: dict[str, Any] = {"query": query} if "query" in self._takes else {}
            if vector is not None:
                inputs["query_embedding"] = vector
            elif "text_embedder" in self._specs:
                made = self._components.warm["text_embedder"].run(text=query)
                inputs |= {to: made[name] for to, name in _HANDED_ON.items() if to in self._takes and name in made}
            options = {"top_k": top_k} if "top_k" in self._takes else {}
            found = self._components.warm["retriever"].run(**inputs, **options)["documents"]
        except Exception as error:
            msg = f"{self._type} failed on the query {query!r}: {error}"
            raise TeacherError(msg) from error
        if strange := [d.id for d in found if d.id not in self._known]:
            msg = (
                f"{self._type} found the document {strange[0]!r}, which is not in the corpus. Its index must hold the "
                "corpus under the same ids, or be empty: it is then filled."
            )
            raise TeacherError(msg)
        scores: dict[str, float] = {}
        for document in found[:top_k]:
            scores.setdefault(document.id, math.nan if document.score is None else float(document.score))
        return scores


class RetrieverMiner(Miner):
    """
    Mines what a Haystack retriever finds.

    :param retriever:
        As in `HaystackRetriever`.
    :param depth:
        Passages a query.
    :param options:
        Further parameters of `HaystackRetriever`.
    """

    depth: int

    def __init__(
        self,
        *,
        retriever: dict[str, Any],
        depth: int = 50,
        allowed_modules: list[str] | None = None,
        **options: Any,
    ) -> None:
        self.depth = depth
        self._retriever = HaystackRetriever(retriever=retriever, allowed_modules=allowed_modules, **options)
        self._opened: str | None = None

    @cached_property
    def _components_key(self) -> str:
        return self._retriever.key

    def key(self, context: Context) -> str:
        """Identify the mined lists: they change with the components, the corpus and the queries."""
        data = f"{context.data.corpus.hash} {context.data.queries.hash}"
        return hash_text(f"retriever {self._components_key} {self.depth} {data}")

    def mine(self, context: Context, queries: TextStore) -> tuple[np.ndarray, np.ndarray]:
        """
        Search for each query.

        :param context:
            Data and models.
        :param queries:
            `q` queries.
        :returns:
            Rows `[q, depth]` and scores `[q, depth]`, best first, positives included; -1 where fewer were found. A
            document of the score 0 was not: Haystack's BM25 (Okapi) fills its lists with those that share no word.
        """
        if self._opened != context.data.corpus.hash:
            self._retriever.keep_in(context.cache)
            self._retriever.open(context.data.corpus)
            self._opened = context.data.corpus.hash
        rows = np.full((len(queries), self.depth), -1, dtype=np.int64)
        scores = np.full((len(queries), self.depth), np.nan, dtype=np.float32)
        for i, listed in enumerate(self._retriever.search(queries.texts, self.depth)):
            found = {document: score for document, score in listed.items() if score != 0}
            rows[i, : len(found)] = [context.data.corpus.rows[d] for d in found]
            scores[i, : len(found)] = list(found.values())
        return rows, scores
