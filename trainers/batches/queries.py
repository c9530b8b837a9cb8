# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Batches of queries and of sentences in their place."""

from __future__ import annotations

import numpy as np
import torch

from retort.trainers.batches.base import CandidateBatch
from retort.trainers.batches.sampling import picked
from retort.trainers.candidates.lists import texts_of
from retort.trainers.data.pseudo_queries import sentences_of
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.roles import BatchSource, StageInputs


class QueryBatches(BatchSource):
    """
    Queries without documents, for query encoders whose documents have nothing to learn.

    Half of each batch are sentences of the corpus, as if somebody had asked them: a few thousand queries say little
    about its words. What is held out for dev has no part in it: dev's own queries were made of it.

    ```yaml
    batches: queries
    objectives: [{type: retort.trainers.objectives.Alignment}]
    ```
    """

    def query_texts(self, data: RetrievalData) -> list[str]:
        """List the queries, and then the sentences."""
        corpus, held = data.corpus, data.held_out_rows()
        texts = (text for text, first in zip(corpus.texts, corpus.first_rows, strict=True) if first not in held)
        return [*data.queries.texts, *dict.fromkeys(s for text in texts for s in sentences_of(text))]

    def open(self, inputs: StageInputs) -> None:
        """Take up the queries and the sentences, and what teachers give of them."""
        queries, texts = inputs.context.data.queries, self.query_texts(inputs.context.data)
        self._texts = TextStore(map(str, range(len(texts))), texts)
        self._caches = {
            name: inputs.context.teacher_cache(name, "query", self._texts) for name in inputs.vector_teachers
        }
        self._seed = inputs.seed
        self._sentences = inputs.batch_size // 2 if len(texts) > len(queries) else 0
        self._queries = inputs.batch_size - self._sentences
        self.size = len(queries)

    def batch(self, step: int) -> CandidateBatch:
        """Build the batch of a step, on the CPU."""
        asked = picked(f"{self._seed} query", self.size, self._queries, step)[0]
        others = len(self._texts) - self.size
        said = picked(f"{self._seed} sentence", others, self._sentences, step)[0] + self.size if others else asked[:0]
        rows = np.unique(np.concatenate([asked, said]))
        items = self._texts.item_ids[rows]
        vectors = {name: torch.from_numpy(cache.gather(items)) for name, cache in self._caches.items()}
        return CandidateBatch.without_lists(
            texts_of(self._texts, rows),
            [],
            teacher_vectors={name: (found, found[:0]) for name, found in vectors.items()},
            query_items=[item.tobytes() for item in items],
        )
