# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Random documents as candidates."""

from __future__ import annotations

import numpy as np

from retort.students.hashing import hash_text
from retort.students.images import ImageFile
from retort.trainers.data.texts import Item, TextStore
from retort.trainers.roles import Context, Miner
from retort.trainers.runtime.rng import rng_for


class RandomMiner(Miner):
    """
    Draws documents at random: easy negatives, and what a list needs to show where the corpus lies.

    :param depth:
        Documents a query.
    :param seed:
        Seed of the draws; a query has the same ones each time.

    ```yaml
    candidates:
      random: {type: retort.trainers.candidates.drawn.RandomMiner, init_parameters: {depth: 2}}
    ```
    """

    depth: int

    def __init__(self, *, depth: int = 2, seed: int = 0) -> None:
        self.depth, self.seed = depth, seed

    def key(self, context: Context) -> str:
        """Identify the lists: they change with corpus and queries."""
        return hash_text(f"random {self.depth} {self.seed} {context.data.corpus.hash} {context.data.queries.hash}")

    def mine(self, context: Context, queries: TextStore) -> tuple[np.ndarray, np.ndarray]:
        """
        Draw documents for each query.

        :param context:
            Data and models.
        :param queries:
            `q` queries.
        :returns:
            Rows `[q, depth]`, fewer where the corpus is smaller, and scores of 0.
        """
        size = len(context.data.corpus)
        depth = min(self.depth, size)
        drawn = [rng_for(self.seed, "random", _name(item)).choice(size, depth, replace=False) for item in queries.items]
        rows = np.array(drawn, dtype=np.int64).reshape(len(queries), depth)
        return rows, np.zeros(rows.shape, dtype=np.float32)


def _name(item: Item) -> str:
    """Name an item by what it is, wherever it lies."""
    return item.item.hex() if isinstance(item, ImageFile) else item
