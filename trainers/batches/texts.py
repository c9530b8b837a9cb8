# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Batches of mere texts: queries and documents without lists."""

from __future__ import annotations

import numpy as np

from retort.trainers.batches.base import CandidateBatch
from retort.trainers.batches.sampling import TeacherVectors, picked
from retort.trainers.candidates.lists import texts_of
from retort.trainers.roles import BatchSource, StageInputs


class TextBatches(BatchSource):
    """
    Mere texts: any queries and any documents, without lists, by their share in the data.

    Enough for alignment and in-batch scores; no label is needed.
    """

    def open(self, inputs: StageInputs) -> None:
        """Take up the data, and what teachers give of it."""
        self._data, self._seed = inputs.context.data, inputs.seed
        self._vectors = TeacherVectors(inputs.context, inputs.vector_teachers)
        queries, documents = len(self._data.queries), len(self._data.corpus)
        self._documents = max(1, round(inputs.batch_size * documents / (queries + documents)))
        self._queries = max(1, inputs.batch_size - self._documents)
        self.size = queries

    def batch(self, step: int) -> CandidateBatch:
        """Build the batch of a step, on the CPU."""
        data = self._data
        query_rows = np.unique(picked(f"{self._seed} query", len(data.queries), self._queries, step)[0])
        rows = np.unique(picked(f"{self._seed} document", len(data.corpus), self._documents, step)[0])
        query_items, document_items = data.queries.item_ids[query_rows], data.corpus.item_ids[rows]
        return CandidateBatch.without_lists(
            texts_of(data.queries, query_rows),
            texts_of(data.corpus, rows),
            teacher_vectors=self._vectors.of(query_items, document_items),
            query_items=[item.tobytes() for item in query_items],
            document_items=[item.tobytes() for item in document_items],
        )
