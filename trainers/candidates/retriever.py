# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Any Haystack retriever as a miner."""

from __future__ import annotations

import json
import logging
import math
import unicodedata
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retort.students.hashing import hash_text
from retort.students.images import ImageFile
from retort.students.towers import Side
from retort.trainers.data.texts import TextStore
from retort.trainers.roles import Context, Miner
from retort.trainers.runtime.errors import RecipeError, TeacherError
from retort.trainers.runtime.locks import sole_writer
from retort.trainers.runtime.progress import progress_bar
from retort.trainers.teachers.cache_folder import SetAside, append_line
from retort.trainers.teachers.calls import SECONDS_A_CALL, Refusal, in_order
from retort.trainers.teachers.embedder import Embedders
from retort.trainers.teachers.haystack import EMBEDDERS, HaystackComponents
from retort.trainers.teachers.vector_cache import VectorCache

if TYPE_CHECKING:
    from haystack import Document

logger = logging.getLogger(__name__)

WRITE_BLOCK = 1024
REMOTE_BLOCK = 32  # documents that are paid together
SAMPLE = 64  # documents of an index that are compared with the corpus
INDEX_MEND = "Its index must hold the corpus under the same ids, or be empty: it is then filled."
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
        Calls in a run, at most, those of its embedders included; then it stops, and what came is kept. None: any
        number.
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
        self._embedders = Embedders(paid, **options, shares=self._components) if paid else None
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
    def asks_per_query(self) -> bool:
        """Whether each search asks a server, beyond what `keep_in` keeps."""
        embeds = self._components.asks_server("text_embedder") and "text" not in self._paid
        return embeds or self._components.asks_server("retriever")

    def assumed_seconds(self, queries: int) -> float | None:
        """Assume how long so many searches take, where a server is asked; None: none is."""
        return self._components.assumed_seconds(queries, SECONDS_A_CALL) if self.asks_per_query else None

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
        Fill the retriever's document store with what it lacks of the corpus.

        Up to `SAMPLE` documents of a store that is not empty are compared with the corpus. One that has none of them is
        searched as it is.

        :param corpus:
            What is searched; ids of documents are its ids.
        :raises TeacherError:
            If the store holds other texts under these ids, or other documents in the place of some; or if an embedder
            fails.
        """
        from haystack import Document
        from haystack.document_stores.types import DuplicatePolicy

        self._known = corpus.rows
        store = self._components["retriever"].document_store if self._has_store() else None
        if store is None or not len(corpus):
            return
        if held := store.count_documents():
            sample = np.unique(np.linspace(0, len(corpus) - 1, SAMPLE).astype(int)).tolist()
            there = self._held_rows(store, corpus, sample)
            if there and held >= len(corpus) and (lacking := [row for row in sample if row not in there]):
                msg = (
                    f"The index of {self._type} holds {held} documents, but not {corpus.ids[lacking[0]]!r} of the "
                    f"corpus. {INDEX_MEND}"
                )
                raise TeacherError(msg)
            if not there or held >= len(corpus):
                return
            logger.warning("The index holds %d documents, the corpus %d; it is filled up.", held, len(corpus))
        vectors = self._kept_vectors(corpus, "document")
        left = held
        for start in range(0, len(corpus), WRITE_BLOCK):
            rows = range(start, min(start + WRITE_BLOCK, len(corpus)))
            there = self._held_rows(store, corpus, rows) if left > 0 else set()
            left -= len(there)
            missing = [row for row in rows if row not in there]
            documents = [Document(id=corpus.ids[row], content=corpus.texts[row]) for row in missing]
            if vectors is not None:
                pairs = zip(documents, vectors[missing], strict=True)
                documents = [replace(d, embedding=v.tolist()) for d, v in pairs if not np.isnan(v).any()]
            if not documents:
                continue
            if vectors is not None or "document_embedder" not in self._specs:
                store.write_documents(documents, policy=DuplicatePolicy.OVERWRITE)
                continue
            size = REMOTE_BLOCK if self._components.remote else WRITE_BLOCK
            calls = [documents[i : i + size] for i in range(0, len(documents), size)]
            probe = (-1, [Document(content="text")])
            answers = self._components.each(lambda one: self._embed(one[1]), list(enumerate(calls)), probe=probe)
            for embedded in in_order((number, answer) for (number, _), answer in answers):
                if isinstance(embedded, Refusal):
                    msg = f"{self._specs['document_embedder']['type']} refuses documents: {embedded.cause}"
                    raise TeacherError(msg)
                store.write_documents(embedded, policy=DuplicatePolicy.OVERWRITE)

    def _held_rows(self, store: Any, corpus: TextStore, rows: Collection[int]) -> set[int]:
        """Return which of these rows of the corpus a store holds; refuse it if their texts are others."""
        ids = [corpus.ids[row] for row in rows]
        documents = store.filter_documents(filters={"field": "id", "operator": "in", "value": ids})
        held = {corpus.rows[d.id]: d.content for d in documents if d.id in corpus.rows}
        for row, content in held.items():
            text, title = corpus.items[row], corpus.titles[row]
            if content is None or isinstance(text, ImageFile):
                continue
            if _words(content) not in (_words(text), _words(text.removeprefix(title))):
                msg = (
                    f"The index of {self._type} holds another text under the id {corpus.ids[row]!r} than the corpus. "
                    f"{INDEX_MEND}"
                )
                raise TeacherError(msg)
        return {*held}

    def _embed(self, documents: list[Document]) -> list[Document]:
        question = f"{len(documents)} documents, from {documents[0].id!r} on"
        return self._components.answer("document_embedder", "documents", question, documents=documents)

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

        refused = set() if vectors is None else {*np.flatnonzero(np.isnan(vectors).any(axis=1)).tolist()}
        rest = [(number, query) for number, query in enumerate(queries) if number not in refused]
        local = vectors is not None and not self._components.asks_server("retriever")
        answers = (
            ((numbered, once(numbered)) for numbered in rest)
            if local
            else self._components.each(once, rest, probe=(-1, "text"))
        )
        yield from ((number, Refusal("its embedder refuses it.")) for number in sorted(refused))
        yield from ((number, found) for (number, _), found in answers)

    def search_kept(
        self, cache: Path, corpus: TextStore, top_k: int, queries: dict[bytes, str]
    ) -> Iterator[tuple[bytes, dict[str, float] | Refusal]]:
        """
        Search for the queries that nobody searched for before, and keep what is found for each.

        :param cache:
            The cache folder.
        :param corpus:
            What is searched.
        :param top_k:
            Documents a query, at most.
        :param queries:
            The queries by their item ids.
        :returns:
            Each item id with what was found, first what was kept.
        :raises TeacherError:
            As `search`.
        """
        folder = cache / "searches" / hash_text(f"retriever {self.key} {top_k} {corpus.hash}")
        folder.mkdir(parents=True, exist_ok=True)
        with sole_writer(folder, folder / ".lock"):
            kept, refused = _Hits(folder / "hits.jsonl"), SetAside(folder)
            refused.read()
            known = kept.read({*queries}, corpus.rows)
            before: dict[bytes, Any] = {i: Refusal("it was refused before.") for i in queries if i in refused.items}
            yield from (before | known).items()
            asked = [item for item in queries if item not in known and item not in before]
            try:
                for number, hits in self.search_parts([queries[item] for item in asked], top_k):
                    item = asked[number]
                    if isinstance(hits, Refusal):
                        refused.add([item], queries[item], hits.cause)
                    else:
                        kept.add(item, hits)
                    yield item, hits
            finally:
                refused.summary()

    def _search(self, query: str, top_k: int, vector: list[float] | None = None) -> dict[str, float]:
        try:
            inputs: dict[str, Any] = {"query": query} if "query" in self._takes else {}
            if vector is not None:
                inputs["query_embedding"] = vector
            elif "text_embedder" in self._specs:
                made = self._components.warm["text_embedder"].run(text=query)
                inputs |= {to: made[name] for to, name in _HANDED_ON.items() if to in self._takes and name in made}
        except Exception as error:
            msg = f"{self._type} failed on the query {query!r}: {error}"
            raise TeacherError(msg) from error
        inputs |= {"top_k": top_k} if "top_k" in self._takes else {}
        found = self._components.answer("retriever", "documents", f"the query {query!r}", **inputs)
        if strange := [d.id for d in found if d.id not in self._known]:
            msg = f"{self._type} found the document {strange[0]!r}, which is not in the corpus. {INDEX_MEND}"
            raise TeacherError(msg)
        scores: dict[str, float] = {}
        for document in found[:top_k]:
            scores.setdefault(document.id, math.nan if document.score is None else float(document.score))
        return scores


class RetrieverMiner(Miner):
    """
    Mines what a Haystack retriever finds.

    What a remote one finds is kept query by query, in `hits.jsonl` below `searches` of the cache. What it refuses is
    set aside in `refused.jsonl`.

    :param retriever:
        As in `HaystackRetriever`.
    :param depth:
        Passages a query.
    :param options:
        Further parameters of `HaystackRetriever`.

    ```yaml
    candidates:
      engine:
        type: retort.trainers.candidates.retriever.RetrieverMiner
        init_parameters:
          retriever:
            type: haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever
            init_parameters:
              document_store: {type: haystack.document_stores.in_memory.document_store.InMemoryDocumentStore}
    ```
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

    def key(self, context: Context) -> str:
        """Identify the mined lists: they change with the components, the corpus and the queries."""
        data = f"{context.data.corpus.hash} {context.data.queries.hash}"
        return hash_text(f"retriever {self._retriever.key} {self.depth} {data}")

    def assumed_seconds(self, queries: int) -> float | None:
        """Assume half a second a search of a server."""
        return self._retriever.assumed_seconds(queries)

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
        :raises TeacherError:
            If the retriever fails. What a server found before is kept.
        """
        if self._opened != context.data.corpus.hash:
            self._retriever.keep_in(context.cache)
            self._retriever.open(context.data.corpus)
            self._opened = context.data.corpus.hash
        rows = np.full((len(queries), self.depth), -1, dtype=np.int64)
        scores = np.full((len(queries), self.depth), np.nan, dtype=np.float32)
        remote = self._retriever.asks_per_query
        lists = self._search_kept(context, queries) if remote else self._retriever.search(queries.texts, self.depth)
        for i, listed in enumerate(lists):
            found = {document: score for document, score in listed.items() if score != 0}
            rows[i, : len(found)] = [context.data.corpus.rows[d] for d in found]
            scores[i, : len(found)] = list(found.values())
        return rows, scores

    def _search_kept(self, context: Context, queries: TextStore) -> list[dict[str, float]]:
        items = [item.tobytes() for item in queries.item_ids]
        asked = dict(zip(items, queries.texts, strict=True))
        known: dict[bytes, dict[str, float]] = {}
        try:
            for item, hits in self._retriever.search_kept(context.cache, context.data.corpus, self.depth, asked):
                if not isinstance(hits, Refusal):
                    known[item] = hits
        except TeacherError as error:
            if not known:
                raise
            msg = (
                f"{error} Kept: searches for {len(known)} of {len(asked)} queries; the same command (train: "
                "with --resume) goes on from there."
            )
            raise TeacherError(msg) from error
        return [known.get(item, {}) for item in items]


class _Hits:
    """
    What was found for queries, one a line: the query's item id, and documents with their scores, best first.

    :param path:
        The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, items: Collection[bytes], known: Collection[str]) -> dict[bytes, dict[str, float]]:
        """
        Read what was found for some queries; damaged lines are passed over.

        :param items:
            The queries' item ids.
        :param known:
            Ids of the corpus.
        """
        found: dict[bytes, dict[str, float]] = {}
        if not self._path.is_file():
            return found
        with self._path.open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                with suppress(ValueError, TypeError, LookupError, AttributeError):
                    item = bytes.fromhex(line[2:34])  # most lines are of other queries, and need not be parsed
                    if item in items:
                        listed = json.loads(line)[1]
                        scores = {i: math.nan if s is None else float(s) for i, s in listed.items()}
                        if all(i in known for i in scores):
                            found[item] = scores
        return found

    def add(self, item: bytes, hits: dict[str, float]) -> None:
        """Write what was found for a query."""
        scores = {i: None if math.isnan(score) else score for i, score in hits.items()}
        append_line(self._path, [item.hex(), scores])


def _words(text: str) -> list[str]:
    return unicodedata.normalize("NFC", text).split()
