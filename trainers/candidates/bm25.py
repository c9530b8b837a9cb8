# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""BM25: the lexical miner and the baseline that every student must be compared with."""

from __future__ import annotations

import numpy as np

from retort.students.hashing import hash_text
from retort.trainers.data.texts import TextStore
from retort.trainers.languages import ENGLISH, language_of
from retort.trainers.roles import Context, Miner
from retort.trainers.search import K1, B


class BM25Miner(Miner):
    """
    Mines the passages that share words with a query.

    :param depth:
        Passages a query.

    ```yaml
    candidates:
      bm25: {type: retort.trainers.candidates.bm25.BM25Miner, init_parameters: {depth: 100}}
    ```
    """

    depth: int

    def __init__(self, *, depth: int = 50) -> None:
        self.depth = depth

    def key(self, context: Context) -> str:
        """Identify the mined lists: they change with the corpus and the queries."""
        language = language_of(context.data.corpus.texts)
        rules = f"{K1} {B}" if language == ENGLISH else f"{K1} {B} {language}"
        return hash_text(f"bm25 hits {rules} {self.depth} {context.data.corpus.hash} {context.data.queries.hash}")

    def mine(self, context: Context, queries: TextStore) -> tuple[np.ndarray, np.ndarray]:
        """
        Rank the corpus for each query.

        :param context:
            Data and models.
        :param queries:
            `q` queries.
        :returns:
            Rows `[q, depth]` and scores `[q, depth]`, best first, positives included; -1 and NaN where fewer share a
            word with the query.
        """
        return context.bm25.search(queries.texts, self.depth)
