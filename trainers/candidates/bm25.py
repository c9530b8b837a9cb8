# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""BM25: the lexical miner and the baseline that every student must be compared with."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from retort.students.hashing import hash_text
from retort.trainers.data.texts import TextStore

if TYPE_CHECKING:
    from retort.trainers.context import Workbench

K1, B = 0.9, 0.4


class BM25:
    """
    Lucene's BM25 with k1 0.9, b 0.4, Porter stemmer and English stop words, over `bm25s`.

    :param texts:
        The documents.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s
        import Stemmer

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # importing it sets DEBUG
        self._stemmer = Stemmer.Stemmer("porter")
        self._index = bm25s.BM25(method="lucene", k1=K1, b=B)
        self._size = len(texts)
        self._index.index(self._tokens(texts), show_progress=False)

    def _tokens(self, texts: Sequence[str]) -> list[list[str]]:
        import bm25s

        return bm25s.tokenize(
            list(texts),
            stopwords="en",
            stemmer=self._stemmer,
            return_ids=False,
            show_progress=False,
        )

    def search(self, queries: Sequence[str], top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """
        Find the best documents; ties go to the earlier document.

        :param queries:
            `q` query texts.
        :param top_k:
            Documents a query, at most.
        :returns:
            Rows `[q, k]` int64 and scores `[q, k]` float32, best first.
        """
        top_k = min(top_k, self._size)
        rows = np.empty((len(queries), top_k), dtype=np.int64)
        scores = np.empty((len(queries), top_k), dtype=np.float32)
        for i, found in enumerate(self.scores(queries)):
            rows[i] = best = top_rows(found, top_k)
            scores[i] = found[best]
        return rows, scores

    def scores(self, queries: Sequence[str]) -> Iterator[np.ndarray]:
        """Score all documents, `[n]` float32, for one query after the other."""
        for tokens in self._tokens(queries):
            known = [t for t in tokens if t in self._index.vocab_dict]
            yield self._index.get_scores(known) if known else np.zeros(self._size, dtype=np.float32)


def top_rows(scores: np.ndarray, top_k: int) -> np.ndarray:
    """Return the rows of the `top_k` highest scores, best first, ties by row (also at the cut)."""
    if top_k >= len(scores):
        return np.argsort(-scores, kind="stable")
    cut = np.partition(scores, len(scores) - top_k)[len(scores) - top_k]
    above, at = np.flatnonzero(scores > cut), np.flatnonzero(scores == cut)
    chosen = np.concatenate([above, at[: top_k - len(above)]])
    return chosen[np.lexsort((chosen, -scores[chosen]))]


class BM25Miner:
    """
    Mines the passages that share words with a query.

    :param depth:
        Passages a query.
    """

    teachers: tuple[str, ...] = ()

    def __init__(self, *, depth: int = 50) -> None:
        self.depth = depth

    def key(self, bench: Workbench) -> str:
        """Identify the mined lists: they change with the corpus and the queries."""
        return hash_text(f"bm25 {K1} {B} {self.depth} {bench.data.corpus.hash} {bench.data.queries.hash}")

    def mine(self, bench: Workbench, queries: TextStore) -> tuple[np.ndarray, np.ndarray]:
        """
        Rank the corpus for each query.

        :param bench:
            Data and models at hand.
        :param queries:
            `q` queries.
        :returns:
            Rows `[q, depth]` and scores `[q, depth]`, best first, positives included.
        """
        return bench.bm25.search(queries.texts, self.depth)
