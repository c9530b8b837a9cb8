# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""BM25 as a teacher: what words alone can teach."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.languages import ENGLISH, language_of
from retort.trainers.roles import Ask, Teacher
from retort.trainers.search import BM25, K1, B


class BM25Teacher(Teacher):
    """
    BM25's scores over the corpus, from 0 to some tens: a softmax over them wants a temperature of a few units.

    ```yaml
    teachers: {words: {type: retort.trainers.teachers.bm25.BM25Teacher}}
    ```
    """

    gives = "scores"
    costs = "nothing"
    corpus_dependent = True

    def __init__(self) -> None:
        self._index: BM25 | None = None
        self._corpus: TextStore | None = None

    @property
    def key(self) -> str:
        """Its parameters; the store adds what `data_key` gives."""
        return f"bm25-{K1}-{B}"

    def data_key(self, data: RetrievalData) -> str:
        """The corpus, and its language unless that is English, as all were taken for before."""
        language = language_of(data.corpus.texts)
        return data.corpus.hash if language == ENGLISH else f"{data.corpus.hash} {language}"

    def open(self, data: RetrievalData) -> None:
        """Index the corpus, once while it is the same."""
        if self._corpus is not data.corpus:
            self._index, self._corpus = BM25(data.corpus.texts), data.corpus

    def score(self, asks: list[Ask]) -> Iterator[np.ndarray]:
        """Score lists; see `Teacher.score`."""
        if self._index is None or self._corpus is None:
            msg = "open it first."
            raise RuntimeError(msg)
        rows = self._corpus.rows
        for ask, scores in zip(asks, self._index.scores([a.query for a in asks]), strict=True):
            yield scores[[rows[i] for i in ask.document_ids]].astype(np.float32)
