# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Batches of queries with candidate lists."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from retort.trainers.batches.base import CandidateBatch
from retort.trainers.batches.sampling import DerivedScores, TeacherVectors, picked
from retort.trainers.candidates.lists import texts_of
from retort.trainers.candidates.sampling import draw, hardest
from retort.trainers.data.texts import item_id
from retort.trainers.roles import BatchSource, Derived, StageInputs, TextRequest
from retort.trainers.runtime.rng import rng_for


class ListBatches(BatchSource):
    """
    Queries with candidate lists: one positive and sampled negatives each, as the stage's `candidates` says.

    With a `pool`, negatives are chosen from a larger sample; a teacher's scores of it come with the lists.

    Where the stage has a text transform, it makes the texts, and candidates that it derives come last in each list.

    ```yaml
    batches: lists                                 # the default
    candidates: {sources: [bm25], negatives: 7}
    ```
    """

    needs_lists = True

    def open(self, inputs: StageInputs) -> None:
        """
        Take up a stage's lists; derived candidates of all its steps are scored now.

        :raises ValueError:
            If there are no lists.
        """
        if inputs.lists is None:
            msg = "ListBatches needs candidates."
            raise ValueError(msg)
        self._inputs, self._lists, self._section = inputs, inputs.lists, inputs.candidates
        self._data, self._text = inputs.context.data, inputs.text
        self._seed = inputs.seed
        self._keep = np.arange(len(self._lists))
        self._never = self._data.never_negative
        self._vectors = TeacherVectors(inputs.context, inputs.vector_teachers)
        self._chosen = lru_cache(maxsize=2)(self._choose)
        self._scores: DerivedScores | None = None
        self.lists_hash = self._lists.hash
        self.size = len(self._keep)
        positives = self._data.positives()
        self.queries_with_positive = sum(len(positives[self._lists.query_rows[i]]) > 0 for i in self._keep)
        teachers = [*inputs.score_teachers, *inputs.derived_vector_teachers]
        if self._text is not None and self._text.derives and teachers and self.size:
            pairs = [
                (int(query), one.text)
                for step in inputs.window
                for query, own in zip(self._query_rows(step), self._derived(step), strict=True)
                for one in own
            ]
            self._scores = DerivedScores(inputs.context, inputs.score_teachers, inputs.derived_vector_teachers, pairs)

    def _drawn(self, number: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw the positives of one list, and the negatives that it may have: its pool where there is one."""
        lists, section = self._lists, self._section
        span = np.arange(lists.offsets[number], lists.offsets[number + 1])
        positive, negative = span[lists.labels[span] == 1], span[lists.labels[span] != 1]
        rng = rng_for(self._seed, "draw", epoch, number)
        if section.positives == "random" and len(positive):
            positive = rng.choice(positive, 1)
        elif section.positives == "first":
            positive = positive[:1]
        count = section.negatives if section.pool is None else section.pool.size
        if section.order == "top":
            return positive, negative[:count]
        return positive, negative[draw(lists.found_by[negative], count, section.sampling, rng)]

    def _entries(self, number: int, epoch: int) -> np.ndarray:
        """Choose the entries of one list."""
        positive, negative = self._drawn(number, epoch)
        pool, count = self._section.pool, self._section.negatives
        if pool is not None and pool.keep == "random":
            negative = rng_for(self._seed, "keep", epoch, number).permutation(negative)[:count]
        elif pool is not None:
            if self._lists.pool_scores is None:
                msg = "ListBatches: the lists lack the pool's scores."
                raise ValueError(msg)
            negative = negative[hardest(self._lists.pool_scores[negative], count)]
        return np.concatenate([positive, negative])

    def pooled(self, steps: range) -> np.ndarray:
        """`[m]` bool: the negatives that some pool of these steps holds. Only these need scores to choose by."""
        entries = np.zeros(len(self._lists.rows), dtype=bool)
        for step in steps:
            places, epochs = picked(self._seed, len(self._keep), self._inputs.batch_size, step)
            for number, epoch in zip(self._keep[places], epochs, strict=True):
                entries[self._drawn(int(number), int(epoch))[1]] = True
        return entries

    def used(self, steps: range) -> np.ndarray:
        """`[m]` bool: the entries that some batch of these steps holds. Only these need teacher scores."""
        found = np.zeros(len(self._lists.rows), dtype=bool)
        for step in steps:
            found[np.concatenate(self._choose(step)[2])] = True
        return found

    def _choose(self, step: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Choose a step's lists, the epoch that each belongs to, and the entries of each."""
        places, epochs = picked(self._seed, len(self._keep), self._inputs.batch_size, step)
        numbers = self._keep[places]
        entries = [self._entries(int(n), int(epoch)) for n, epoch in zip(numbers, epochs, strict=True)]
        return numbers, epochs, entries

    def _query_rows(self, step: int) -> np.ndarray:
        return self._lists.query_rows[self._chosen(step)[0]]

    def _requests(self, step: int, purpose: str) -> list[TextRequest]:
        """Describe a step's lists to the text transform."""
        numbers, epochs, chosen = self._chosen(step)
        return [
            TextRequest(
                data=self._data,
                query=int(self._lists.query_rows[number]),
                rows=self._lists.rows[entries],
                positive=self._lists.labels[entries] == 1,
                step=step,
                steps=self._inputs.steps,
                epoch=int(epoch),
                rng=rng_for(self._seed, purpose, step, place),
            )
            for place, (number, epoch, entries) in enumerate(zip(numbers, epochs, chosen, strict=True))
        ]

    def _derived(self, step: int) -> list[list[Derived]]:
        if self._text is None or not self._text.derives:
            return [[] for _ in self._chosen(step)[0]]
        requests = self._requests(step, "derived")
        never = [self._never_items(request.query) for request in requests]
        derived = [self._text.derived(request) for request in requests]
        return [  # a piece is no negative, whatever it says
            [one for one in own if one.piece is not None or item_id(one.text) not in items]
            for own, items in zip(derived, never, strict=True)
        ]

    def _kept(self, step: int) -> list[list[Derived]]:
        """Choose a step's derived candidates by what teachers gave for them."""
        derived = self._derived(step)
        if self._text is None or not self._text.derives:
            return derived
        names = [*self._inputs.score_teachers, *self._inputs.derived_vector_teachers]
        kept = []
        for request, own in zip(self._requests(step, "derived"), derived, strict=True):
            texts = [one.text for one in own]
            of = self._scores.of if self._scores is not None and own else None
            kept.append(self._text.kept(request, own, {n: of(n, request.query, texts) for n in names} if of else {}))
        return kept

    def _never_items(self, query: int) -> set[bytes]:
        """Item ids of the texts that are never negatives of a query: of its positives, and its own."""
        data = self._data
        return {item.tobytes() for item in (data.queries.item_ids[query], *data.corpus.item_ids[self._never[query]])}

    def _added(self, teacher: str, texts: list[str], like: torch.Tensor) -> torch.Tensor:
        """`[n, d]` vectors of derived candidates; NaN of teachers whose objectives do not see them."""
        if self._scores is None or teacher not in self._inputs.derived_vector_teachers:
            return like.new_full((len(texts), like.shape[1]), math.nan)
        return self._scores.vectors(teacher, texts)

    def batch(self, step: int) -> CandidateBatch:
        """Build the batch of a step, on the CPU."""
        data, lists = self._data, self._lists
        numbers, _, chosen = self._chosen(step)
        query_rows = lists.query_rows[numbers]
        rows = np.concatenate([lists.rows[c] for c in chosen])
        rewrites = self._text is not None and self._text.rewrites
        unique = rows if rewrites else np.unique(rows)  # a document has a text for each list
        if not len(rows):  # as of queries without a positive, with `negatives: 0`: one that is nobody's candidate
            unique, rewrites = lists.rows[lists.offsets[numbers[:1]]], False
        derived, derived_scores = self._kept(step), self._scores
        standard, extra = max(1, *(len(c) for c in chosen)), max(map(len, derived), default=0)
        starts = np.cumsum([0, *(len(c) for c in chosen)])
        derived_starts = len(unique) + np.cumsum([0, *map(len, derived)])
        shape = (len(numbers), standard + extra)
        index = np.zeros(shape, dtype=np.int64)
        labels, sources = np.full(shape, -1, dtype=np.int8), np.full(shape, -1, dtype=np.int8)
        mask, kinds = np.zeros(shape, dtype=bool), np.zeros((len(numbers), extra), dtype=np.int8)
        names = dict.fromkeys([*lists.scores, *self._inputs.score_teachers])
        scores = {name: np.full(shape, np.nan, dtype=np.float32) for name in names}
        known = np.zeros((len(numbers), int(derived_starts[-1])), dtype=bool)
        added = [one.text for own in derived for one in own]
        added_items = [item_id(text) for text in added]
        pieces = np.full((len(added), 3), -1, dtype=np.int64)
        for i, entries in enumerate(chosen):
            n, own = len(entries), derived[i]
            index[i, :n] = starts[i] + np.arange(n) if rewrites else np.searchsorted(unique, lists.rows[entries])
            labels[i, :n], sources[i, :n], mask[i, :n] = lists.labels[entries], lists.source[entries], True
            for name, values in lists.scores.items():
                scores[name][i, :n] = values[entries]
            known[i, : len(unique)] = np.isin(unique, self._never[query_rows[i]])
            if added:
                never = self._never_items(query_rows[i])
                known[i, len(unique) :] = [item in never for item in added_items]
            last = slice(standard, standard + len(own))
            index[i, last], mask[i, last] = derived_starts[i] + np.arange(len(own)), True
            kinds[i, : len(own)] = [one.kind for one in own]
            for at, one in enumerate(own, derived_starts[i] - len(unique)):
                if one.piece is not None:
                    pieces[at] = index[i, one.piece[0]], *one.piece[1:]
            if derived_scores is not None:
                for name, values in scores.items():
                    values[i, last] = derived_scores.of(name, int(query_rows[i]), [one.text for one in own])
        of_pieces = np.flatnonzero(pieces[:, 0] >= 0)
        known[:, len(unique) + of_pieces] |= known[:, pieces[of_pieces, 0]]  # of all lists, once these stand
        query_items, document_items = data.queries.item_ids[query_rows], data.corpus.item_ids[unique]
        vectors = self._vectors.of(query_items, document_items)
        if added:
            vectors = {name: (q, torch.cat([d, self._added(name, added, d)])) for name, (q, d) in vectors.items()}
        if rewrites and self._text is not None:
            documents = [text for request in self._requests(step, "texts") for text in self._text.texts(request)]
        else:
            documents = texts_of(data.corpus, unique)
        tensors: dict[str, Any] = {
            "index": index, "labels": labels, "mask": mask, "known_positive": known, "sources": sources,
            "list_rows": numbers.astype(np.int64), "derived": kinds,
            "pieces": pieces if (pieces >= 0).any() else pieces[:0],
        }  # fmt: skip
        tensors = {name: torch.from_numpy(values) for name, values in tensors.items()}
        return CandidateBatch(
            queries=texts_of(data.queries, query_rows),
            documents=[*documents, *added],
            **tensors,
            derived_documents=len(added),
            teacher_scores={name: torch.from_numpy(values) for name, values in scores.items()},
            teacher_vectors=vectors,
            query_items=[item.tobytes() for item in query_items],
            document_items=[item.tobytes() for item in document_items],
        )
