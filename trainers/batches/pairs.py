# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Batches of queries with one passage each, for contrastive pre-training."""

from __future__ import annotations

import numpy as np
import torch

from retort.students.hashing import hash_text
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.batches.sampling import picked
from retort.trainers.candidates.lists import texts_of
from retort.trainers.data.weak_pairs import pairs_of
from retort.trainers.roles import BatchSource, StageInputs


class PairBatches(BatchSource):
    """
    Queries, each with a list of one candidate: a document of its own, from which the query's text is removed.

    Other passages of the batch are negatives, but for those of the query's own documents, of equal text, and the query
    itself. Queries are the data's, or those that the stage's `queries` makes of documents; `selector` may choose among
    them.

    ```yaml
    batches: pairs
    queries: {type: retort.trainers.data.weak_pairs.WeakPairs}
    training: {batch_size: 256, cache_gradients: true}
    ```
    """

    brings_lists = True
    cuts_passages = True

    def open(self, inputs: StageInputs) -> None:
        """Pair the queries with their passages; teachers give vectors of these."""
        data, context = inputs.context.data, inputs.context
        self._inputs, self._queries, self._pairs = inputs, data.queries, pairs_of(data)
        passages = self._pairs.passages
        self._vectors = {
            name: (
                context.teacher_cache(name, "query", data.queries),
                context.teacher_cache(name, "document", passages),
            )
            for name in inputs.vector_teachers
        }
        self.size = self.queries_with_positive = len(self._pairs.rows)
        self.lists_hash = hash_text(f"{data.queries.hash} {passages.hash}")

    def batch(self, step: int) -> CandidateBatch:
        """Build the batch of a step, on the CPU; a pair stands in it once."""
        drawn = np.unique(picked(self._inputs.seed, self.size, self._inputs.batch_size, step)[0])
        queries, rows = self._pairs.queries[drawn], self._pairs.rows[drawn]
        unique = np.unique(rows)
        index = np.searchsorted(unique, rows)[:, None]
        query_items, items = self._queries.item_ids[queries], self._pairs.passages.item_ids[unique]
        return CandidateBatch(
            queries=texts_of(self._queries, queries),
            documents=texts_of(self._pairs.passages, unique),
            index=torch.from_numpy(index),
            labels=torch.ones(index.shape, dtype=torch.int8),
            mask=torch.ones(index.shape, dtype=torch.bool),
            known_positive=torch.from_numpy(self._pairs.never_negative(queries, unique)),
            sources=torch.full(index.shape, -1, dtype=torch.int8),
            teacher_vectors={
                name: (torch.from_numpy(q.gather(query_items)), torch.from_numpy(d.gather(items)))
                for name, (q, d) in self._vectors.items()
            },
            query_items=[item.tobytes() for item in query_items],
            document_items=[item.tobytes() for item in items],
        )
