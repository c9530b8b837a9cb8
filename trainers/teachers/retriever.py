# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Any Haystack retriever as teacher: what it finds has its score, what it does not find has none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from retort.students.hashing import hash_text
from retort.trainers.candidates.retriever import HaystackRetriever
from retort.trainers.data.texts import RetrievalData, TextStore, item_id
from retort.trainers.roles import Ask, Teacher
from retort.trainers.teachers.calls import Refusal


class RetrieverTeacher(Teacher):
    """
    A Haystack retriever, as YAML would name it.

    It searches the whole corpus; a list's documents beyond `depth` stay without a score, and objectives leave them out.

    :param retriever:
        `{type, init_parameters}` of a component whose `run` takes `query` or `query_embedding`.
    :param depth:
        Documents to retrieve for each query.
    :param options:
        Further parameters of `HaystackRetriever`: `text_embedder`, `document_embedder`, `revision`, `retries`,
        `concurrency`, `max_calls`, `allowed_modules`.

    ```yaml
    teachers:
      engine:
        type: retort.trainers.teachers.retriever.RetrieverTeacher
        init_parameters:
          depth: 100
          retriever:
            type: haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever
            init_parameters:
              document_store: {type: haystack.document_stores.in_memory.document_store.InMemoryDocumentStore}
    ```
    """

    gives = "scores"
    corpus_dependent = True

    def __init__(
        self,
        *,
        retriever: dict[str, Any],
        depth: int = 200,
        allowed_modules: list[str] | None = None,
        **options: Any,
    ) -> None:
        self._depth = depth
        self._retriever = HaystackRetriever(retriever=retriever, allowed_modules=allowed_modules, **options)
        self._cache: Path | None = None
        self._corpus: TextStore | None = None

    @property
    def key(self) -> str:
        """The components' key and the depth; the store adds the corpus."""
        return hash_text(f"retriever {self._depth} {self._retriever.key}")

    @property
    def former_key(self) -> str:  # type: ignore[override]
        """The key as it was when every parameter counted."""
        return hash_text(f"retriever {self._depth} {self._retriever.former_key}")

    def keep_in(self, cache: Path) -> None:
        """Keep in a cache folder what remote embedders give, and what remote retrievers find."""
        self._retriever.keep_in(cache)
        self._cache = cache

    def open(self, data: RetrievalData) -> None:
        """Fill the retriever's document store; see `HaystackRetriever.open`."""
        self._retriever.open(data.corpus)
        self._corpus = data.corpus

    def score(self, asks: list[Ask]) -> Iterator[np.ndarray]:
        """Score lists, one search each; see `Teacher.score`."""
        found = self._retriever.search([ask.query for ask in asks], self._depth)
        for ask, scores in zip(asks, found, strict=True):
            yield _scores(ask, scores)

    def score_parts(self, asks: list[Ask]) -> Iterator[tuple[Ask, np.ndarray | str]]:
        """
        Score lists, one search each; see `Teacher.score_parts`.

        What a remote retriever finds for a query is kept: later lists of it cost nothing.
        """
        if self._retriever.asks_per_query and self._cache is not None and self._corpus is not None:
            lists: dict[bytes, list[Ask]] = {}
            for ask in asks:
                lists.setdefault(item_id(ask.query), []).append(ask)
            queries = {item: own[0].query for item, own in lists.items()}
            for item, found in self._retriever.search_kept(self._cache, self._corpus, self._depth, queries):
                for ask in lists[item]:
                    yield ask, found.cause if isinstance(found, Refusal) else _scores(ask, found)
            return
        for number, found in self._retriever.search_parts([ask.query for ask in asks], self._depth):
            yield asks[number], found.cause if isinstance(found, Refusal) else _scores(asks[number], found)


def _scores(ask: Ask, found: dict[str, float]) -> np.ndarray:
    return np.array([found.get(i, np.nan) for i in ask.document_ids], dtype=np.float32)
