# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Sparse mining: the passages that a learned sparse retriever (SPLADE) takes for relevant."""

from __future__ import annotations

from typing import Any

import numpy as np

from retort.students.hashing import hash_text
from retort.trainers.data.texts import TextStore
from retort.trainers.roles import Context, Miner
from retort.trainers.search import search_vectors
from retort.trainers.teachers.sparse_encoder import SparseEncoderTeacher


class SparseMiner(Miner):
    """
    Mines with a sparse encoder. The student itself, where it is one, mines by `DenseMiner`.

    :param model:
        A folder, a Hub id, or `package:NAME/SUBFOLDER`.
    :param depth:
        Passages a query.
    :param options:
        As those of `SparseEncoderTeacher`.

    ```yaml
    candidates:
      splade:
        type: retort.trainers.candidates.sparse.SparseMiner
        init_parameters: {model: naver/splade-cocondenser-ensembledistil, depth: 200}
    ```
    """

    depth: int

    def __init__(self, *, model: str, depth: int = 50, **options: Any) -> None:
        self._encoder = SparseEncoderTeacher(model=model, **options)
        self.depth = depth
        self._documents: tuple[str, Any] = ("", None)

    def key(self, context: Context) -> str:
        """Identify the mined lists: they change with corpus, queries and the model's weights."""
        return hash_text(
            f"sparse hits {self._encoder.key} {self.depth} {context.data.corpus.hash} {context.data.queries.hash}"
        )

    def mine(self, context: Context, queries: TextStore) -> tuple[np.ndarray, np.ndarray]:
        """
        Rank the corpus for each query.

        :param context:
            Data and models.
        :param queries:
            `q` queries.
        :returns:
            Rows `[q, depth]` and scores `[q, depth]`, best first, positives included; -1 and NaN where fewer score
            above 0.
        """
        student = self._encoder.student
        if self._documents[0] != context.data.corpus.hash:
            self._documents = (context.data.corpus.hash, student.encode_document(context.data.corpus.texts))
        asked = student.encode_query(queries.texts)
        return search_vectors(asked, self._documents[1], self.depth, similarity=student.manifest.similarity)
