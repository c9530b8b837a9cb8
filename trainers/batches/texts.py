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
from retort.trainers.data.made_texts import made_texts
from retort.trainers.roles import BatchSource, StageInputs


class TextBatches(BatchSource):
    """
    Mere texts: any queries and any documents, without lists, by their share in the data.

    Enough for alignment and in-batch scores; no label is needed.

    :param made:
        How many texts of random words to mix in, against forgetting (see `data.made_texts`): teachers are asked for
        them, too. 0 mixes none in.
    :param share:
        Their share in a batch's documents.
    :raises ValueError:
        If the share is not between 0 and 1.

    ```yaml
    batches: {type: retort.trainers.batches.texts.TextBatches, init_parameters: {made: 10000, share: 0.25}}
    ```
    """

    def __init__(self, *, made: int = 0, share: float = 0.25) -> None:
        if made < 0 or not 0 < share < 1:
            msg = f"TextBatches: made is at least 0 and share between 0 and 1; they are {made} and {share}."
            raise ValueError(msg)
        self.made, self.share = made, share

    def open(self, inputs: StageInputs) -> None:
        """Take up the data, and what teachers give of it."""
        self._data, self._seed = inputs.context.data, inputs.seed
        self._vectors = TeacherVectors(inputs.context, inputs.vector_teachers)
        queries, documents = len(self._data.queries), len(self._data.corpus)
        self._documents = max(1, round(inputs.batch_size * documents / (queries + documents)))
        self._queries = max(1, inputs.batch_size - self._documents)
        self.size = queries
        self._made_a_batch = round(self.share * self._documents) if self.made else 0
        if self._made_a_batch:
            self._made = made_texts(inputs.student.tokenizer, self.made)
            self._of_made = {
                name: inputs.context.teacher_cache(name, "document", self._made) for name in inputs.vector_teachers
            }

    def batch(self, step: int) -> CandidateBatch:
        """Build the batch of a step, on the CPU."""
        data = self._data
        made = self._made_a_batch
        query_rows = np.unique(picked(f"{self._seed} query", len(data.queries), self._queries, step)[0])
        rows = np.unique(picked(f"{self._seed} document", len(data.corpus), self._documents - made, step)[0])
        query_items, document_items = data.queries.item_ids[query_rows], data.corpus.item_ids[rows]
        vectors = self._vectors.of(query_items, document_items)
        texts = texts_of(data.corpus, rows)
        if made:
            rows = np.unique(picked(f"{self._seed} made", len(self._made), made, step)[0])
            items = self._made.item_ids[rows]
            texts, document_items = [*texts, *texts_of(self._made, rows)], np.concatenate([document_items, items])
            for name, cache in self._of_made.items():
                asked, found = vectors[name]
                vectors[name] = asked, torch.cat([found, torch.from_numpy(cache.gather(items))])
        return CandidateBatch.without_lists(
            texts_of(data.queries, query_rows),
            texts,
            teacher_vectors=vectors,
            query_items=[item.tobytes() for item in query_items],
            document_items=[item.tobytes() for item in document_items],
        )
