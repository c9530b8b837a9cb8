# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Where a stage's batches come from.

A batch is a pure function of seed, stage and step: training can stop and go on at any step without replaying any.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from retort.trainers.batches.base import CandidateBatch
from retort.trainers.batches.sampling import TeacherVectors, picked
from retort.trainers.candidates.lists import CandidateLists, texts_of
from retort.trainers.candidates.sampling import Sampling, draw
from retort.trainers.context import TrainingContext
from retort.trainers.roles import TextRequest, TextTransform
from retort.trainers.runtime.rng import rng_for


class ListBatches:
    """
    Queries with candidate lists: one positive and sampled negatives each.

    :param context:
        Data and models.
    :param lists:
        The candidate lists.
    :param batch_size:
        Queries a step, over all ranks and accumulation steps.
    :param steps:
        Steps of the stage.
    :param negatives:
        Negatives a query; a query with fewer has a shorter list.
    :param order:
        `random`: negatives drawn without replacement, anew each epoch; `top`: the first of the list.
    :param sampling:
        How `random` draws: `union`, `multiset` or `balanced` (see `sampling.draw`).
    :param positives:
        `random`: one of the query's positives, drawn anew each epoch; `first`; `all`.
    :param texts:
        What makes the documents' texts of a list; None takes the documents alone.
    :param vector_teachers:
        Teachers whose vectors the stage needs.
    :param seed:
        Seed of orders and draws.
    :param keep:
        Query rows to train on; None keeps all.
    """

    def __init__(
        self,
        context: TrainingContext,
        lists: CandidateLists,
        *,
        batch_size: int,
        steps: int,
        negatives: int,
        order: Literal["random", "top"] = "random",
        sampling: Sampling = "union",
        positives: Literal["random", "first", "all"] = "random",
        texts: TextTransform | None = None,
        vector_teachers: list[str],
        seed: object,
        keep: np.ndarray | None = None,
    ) -> None:
        self._bench = context
        self._lists = lists
        self._batch_size = batch_size
        self._steps = steps
        self._negatives = negatives
        self._order = order
        self._sampling: Sampling = sampling
        self._positives = positives
        self._texts = texts
        self._seed = seed
        self._keep = np.arange(len(lists)) if keep is None else keep
        self._vectors = TeacherVectors(context, vector_teachers)
        self._known = context.data.positives()
        self.lists_hash = lists.hash

    @property
    def queries_with_positive(self) -> int:
        """How many queries of the source have a positive."""
        return sum(len(self._known[self._lists.query_rows[i]]) > 0 for i in self._keep)

    @property
    def size(self) -> int:
        """Queries of the source."""
        return len(self._keep)

    def _entries(self, number: int, epoch: int) -> np.ndarray:
        """Choose the entries of one list."""
        lists = self._lists
        span = np.arange(lists.offsets[number], lists.offsets[number + 1])
        positive, negative = span[lists.labels[span] == 1], span[lists.labels[span] != 1]
        rng = rng_for(self._seed, "draw", epoch, number)
        if self._positives == "random" and len(positive):
            positive = rng.choice(positive, 1)
        elif self._positives == "first":
            positive = positive[:1]
        if self._order == "top":
            return np.concatenate([positive, negative[: self._negatives]])
        drawn = draw(lists.found_by[negative], self._negatives, self._sampling, rng)
        return np.concatenate([positive, negative[drawn]])

    def used(self, steps: range) -> np.ndarray:
        """`[m]` bool: the entries that some batch of these steps holds. Only these need teacher scores."""
        found = np.zeros(len(self._lists.rows), dtype=bool)
        for step in steps:
            found[np.concatenate(self._chosen(step)[2])] = True
        return found

    def _chosen(self, step: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Choose a step's lists, the epoch that each is of, and its entries."""
        places, epochs = picked(self._seed, len(self._keep), self._batch_size, step)
        numbers = self._keep[places]
        return numbers, epochs, [self._entries(int(n), int(epoch)) for n, epoch in zip(numbers, epochs, strict=True)]

    def batch(self, step: int) -> CandidateBatch:
        """Build the batch of a step, on the CPU."""
        data, lists = self._bench.data, self._lists
        numbers, epochs, chosen = self._chosen(step)
        query_rows = lists.query_rows[numbers]
        rows = np.concatenate([lists.rows[c] for c in chosen])
        unique = np.unique(rows) if self._texts is None else rows  # a document has a text for each list
        starts = np.cumsum([0, *(len(c) for c in chosen)])
        shape = (len(numbers), max(len(c) for c in chosen))
        index = np.zeros(shape, dtype=np.int64)
        labels, sources = np.full(shape, -1, dtype=np.int8), np.full(shape, -1, dtype=np.int8)
        mask = np.zeros(shape, dtype=bool)
        scores = {name: np.full(shape, np.nan, dtype=np.float32) for name in lists.scores}
        known = np.zeros((len(numbers), len(unique)), dtype=bool)
        for i, entries in enumerate(chosen):
            n = len(entries)
            own = np.searchsorted(unique, lists.rows[entries]) if self._texts is None else starts[i] + np.arange(n)
            index[i, :n] = own
            labels[i, :n], sources[i, :n], mask[i, :n] = lists.labels[entries], lists.source[entries], True
            for name, values in lists.scores.items():
                scores[name][i, :n] = values[entries]
            known[i] = np.isin(unique, self._known[query_rows[i]])
        query_items, document_items = data.queries.item_ids[query_rows], data.corpus.item_ids[unique]
        return CandidateBatch(
            queries=texts_of(data.queries, query_rows),
            documents=self._documents(step, unique, query_rows, epochs, chosen),
            index=torch.from_numpy(index),
            labels=torch.from_numpy(labels),
            mask=torch.from_numpy(mask),
            known_positive=torch.from_numpy(known),
            sources=torch.from_numpy(sources),
            teacher_scores={name: torch.from_numpy(values) for name, values in scores.items()},
            teacher_vectors=self._vectors.of(query_items, document_items),
            query_items=[item.tobytes() for item in query_items],
            document_items=[item.tobytes() for item in document_items],
        )

    def _documents(
        self, step: int, rows: np.ndarray, query_rows: np.ndarray, epochs: np.ndarray, chosen: list[np.ndarray]
    ) -> list[str]:
        data, lists = self._bench.data, self._lists
        if self._texts is None:
            return texts_of(data.corpus, rows)
        texts: list[str] = []
        for place, (query, epoch, entries) in enumerate(zip(query_rows, epochs, chosen, strict=True)):
            request = TextRequest(
                data=data,
                query=int(query),
                rows=lists.rows[entries],
                positive=lists.labels[entries] == 1,
                step=step,
                steps=self._steps,
                epoch=int(epoch),
                rng=rng_for(self._seed, "texts", step, place),
            )
            texts += self._texts.texts(request)
        return texts
