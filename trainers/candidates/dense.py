# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Dense mining: the passages that a bi-encoder takes for relevant."""

from __future__ import annotations

import numpy as np

from retort.students.hashing import hash_text
from retort.trainers.data.texts import TextStore
from retort.trainers.roles import Context, Miner
from retort.trainers.search import search_vectors


class DenseMiner(Miner):
    """
    Mines with a bi-encoder, dense or sparse: a teacher by its vectors, or the student as it is at the stage's start.

    :param model:
        Name of a teacher of the recipe, or `student`.
    :param depth:
        Passages a query.

    ```yaml
    candidates:
      own: {type: retort.trainers.candidates.dense.DenseMiner, init_parameters: {model: student, depth: 100}}
    ```
    """

    depth: int

    def __init__(self, *, model: str, depth: int = 50) -> None:
        self.model = model
        self.depth = depth
        self.teachers = () if model == "student" else (model,)

    def key(self, context: Context) -> str:
        """Identify the mined lists: they change with corpus, queries and the model's weights."""
        weights = context.model_key(self.model)
        return hash_text(f"dense {weights} {self.depth} {context.data.corpus.hash} {context.data.queries.hash}")

    def mine(self, context: Context, queries: TextStore) -> tuple[np.ndarray, np.ndarray]:
        """
        Rank the corpus for each query.

        :param context:
            Data and models.
        :param queries:
            `q` queries.
        :returns:
            Rows `[q, depth]` and scores `[q, depth]`, best first, positives included; -1 and NaN where the vectors are
            sparse and fewer score above 0.
        """
        documents = context.vectors(self.model, "document")
        asked = context.vectors(self.model, "query")[[context.data.queries.rows[i] for i in queries.ids]]
        return search_vectors(asked, documents, self.depth, similarity=context.similarity(self.model))
