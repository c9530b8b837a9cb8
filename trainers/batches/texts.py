# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Batches of mere texts: queries and documents without lists."""

from __future__ import annotations

import numpy as np
import torch

from retort.trainers.batches.base import CandidateBatch
from retort.trainers.batches.sampling import TeacherVectors, picked
from retort.trainers.candidates.lists import texts_of
from retort.trainers.context import TrainingContext


class TextBatches:
    """
    Mere texts: any queries and any documents, without lists. Enough for alignment and in-batch scores, no label needed.

    :param context:
        Data and models.
    :param batch_size:
        Texts a step; queries and documents by their share in the data.
    :param vector_teachers:
        Teachers whose vectors the stage needs.
    :param seed:
        Seed of the order.
    """

    def __init__(self, context: TrainingContext, *, batch_size: int, vector_teachers: list[str], seed: object) -> None:
        self._bench = context
        self._seed = seed
        self._vectors = TeacherVectors(context, vector_teachers)
        queries, documents = len(context.data.queries), len(context.data.corpus)
        self._documents = max(1, round(batch_size * documents / (queries + documents)))
        self._queries = max(1, batch_size - self._documents)
        self.size = queries
        self.queries_with_positive = 0
        self.lists_hash = ""

    def batch(self, step: int) -> CandidateBatch:
        """Build the batch of a step, on the CPU."""
        data = self._bench.data
        query_rows = np.unique(picked(f"{self._seed} query", len(data.queries), self._queries, step)[0])
        rows = np.unique(picked(f"{self._seed} document", len(data.corpus), self._documents, step)[0])
        query_items, document_items = data.queries.item_ids[query_rows], data.corpus.item_ids[rows]
        empty = (len(query_rows), 0)
        return CandidateBatch(
            queries=texts_of(data.queries, query_rows),
            documents=texts_of(data.corpus, rows),
            index=torch.zeros(empty, dtype=torch.int64),
            labels=torch.zeros(empty, dtype=torch.int8),
            mask=torch.zeros(empty, dtype=torch.bool),
            known_positive=torch.zeros((len(query_rows), len(rows)), dtype=torch.bool),
            sources=torch.zeros(empty, dtype=torch.int8),
            teacher_vectors=self._vectors.of(query_items, document_items),
            query_items=[item.tobytes() for item in query_items],
            document_items=[item.tobytes() for item in document_items],
        )
