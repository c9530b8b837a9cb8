# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Candidates that the training data itself gives."""

from __future__ import annotations

import math

import numpy as np

from retort.students.hashing import hash_text
from retort.trainers.data.texts import TextStore
from retort.trainers.roles import Context, Miner
from retort.trainers.runtime.errors import DataError


class GivenMiner(Miner):
    """
    Takes the documents that the training data gives for each query, as hard negatives mined elsewhere.

    :param depth:
        Documents a query, at most; None takes all.

    ```yaml
    candidates:
      given: {type: retort.trainers.candidates.given.GivenMiner, init_parameters: {depth: 30}}
    ```
    """

    def __init__(self, *, depth: int | None = None) -> None:
        self.depth = depth

    def key(self, context: Context) -> str:
        """
        Identify the lists: they change with the data.

        :raises DataError:
            If the data gives no lists.
        """
        if not context.data.given:
            msg = (
                f"{context.data.name} gives no documents for its queries; files of examples do, BEIR folders do not. "
                "Take another miner."
            )
            raise DataError(msg)
        return hash_text(f"given {self.depth} {context.data.hash}")

    def mine(self, context: Context, queries: TextStore) -> tuple[np.ndarray, np.ndarray]:
        """
        Look up what is given for each query.

        :param context:
            Data and models.
        :param queries:
            `q` queries.
        :returns:
            Rows `[q, k]` and scores `[q, k]`: best score first, then those without a score (NaN) in the data's order,
            positives included; `k` is the longest list's length. Shorter lists end in rows of -1.
        """
        lists = [sorted(context.data.given.get(q, {}).items(), key=_rank)[: self.depth] for q in queries.ids]
        shape = (len(lists), max((len(found) for found in lists), default=0))
        rows, scores = np.full(shape, -1, dtype=np.int64), np.full(shape, np.nan, dtype=np.float32)
        for i, found in enumerate(lists):
            rows[i, : len(found)] = [context.data.corpus.rows[document] for document, _ in found]
            scores[i, : len(found)] = [score for _, score in found]
        return rows, scores


def _rank(entry: tuple[str, float]) -> float:
    return math.inf if math.isnan(entry[1]) else -entry[1]
