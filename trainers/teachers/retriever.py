# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Any Haystack retriever as teacher: what it finds has its score, what it does not find has none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from retort.students.hashing import hash_text
from retort.trainers.candidates.retriever import HaystackRetriever
from retort.trainers.data.texts import RetrievalData
from retort.trainers.roles import Ask, Teacher


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
        `concurrency`, `allowed_modules`.
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

    @property
    def key(self) -> str:
        """The components' key and the depth; the store adds the corpus."""
        return hash_text(f"retriever {self._depth} {self._retriever.key}")

    def open(self, data: RetrievalData) -> None:
        """Fill the retriever's document store if it is empty."""
        self._retriever.open(data.corpus)

    def score(self, asks: list[Ask]) -> Iterator[np.ndarray]:
        """Score lists, one search each; see `Teacher.score`."""
        found = self._retriever.search([ask.query for ask in asks], self._depth)
        for ask, scores in zip(asks, found, strict=True):
            yield np.array([scores.get(i, np.nan) for i in ask.document_ids], dtype=np.float32)
