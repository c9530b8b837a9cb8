# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What batch sources share: the order of items, and the teachers' vectors of them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from retort.trainers.data.texts import TextStore
from retort.trainers.encoder_output import similarities
from retort.trainers.roles import Context, Teacher
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.runtime.rng import rng_for
from retort.trainers.teachers.vector_cache import VectorCache


def picked(seed: object, size: int, batch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Walk `size` items in a new order each epoch, without a break between epochs.

    :returns:
        The items `[batch]` of a step, and the epoch `[batch]` that each belongs to.
    """
    wanted = np.arange(step * batch, (step + 1) * batch)
    epochs = wanted // size
    return np.array([_order(seed, int(at // size), size)[at % size] for at in wanted], dtype=np.int64), epochs


@lru_cache(maxsize=8)  # two epochs of a step, queries and documents
def _order(seed: object, epoch: int, size: int) -> np.ndarray:
    return rng_for(seed, "order", epoch).permutation(size)


class TeacherVectors:
    """The teachers' vectors of the training texts."""

    def __init__(self, context: Context, teachers: list[str]) -> None:
        self._caches: dict[str, tuple[VectorCache, VectorCache]] = {
            name: (
                context.teacher_cache(name, "query", context.data.queries),
                context.teacher_cache(name, "document", context.data.corpus),
            )
            for name in teachers
        }

    def of(self, query_items: np.ndarray, document_items: np.ndarray) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Per teacher the vectors of queries `[B, d]` and of documents `[U, d]`."""
        return {
            name: (torch.from_numpy(q.gather(query_items)), torch.from_numpy(d.gather(document_items)))
            for name, (q, d) in self._caches.items()
        }


def refuse_derived(name: str, teacher: Teacher, kind: str | None = None) -> None:
    """
    Refuse a teacher of scores that cannot score derived candidates.

    :param name:
        Its name.
    :param teacher:
        The teacher.
    :param kind:
        What it gives, `scores` or `ranks`; None: that is not known yet.
    :raises RecipeError:
        If it scores documents of the corpus, or whole lists, only.
    """
    if teacher.corpus_dependent:
        msg = f"teacher {name!r} scores documents of the corpus; it cannot score derived ones."
        raise RecipeError(msg)
    if teacher.listwise or kind == "ranks":
        msg = f"teacher {name!r} scores whole lists, without derived candidates; name one that scores pairs."
        raise RecipeError(msg)


class DerivedScores:
    """
    What teachers give derived candidates, asked for when a stage opens.

    :param context:
        Data and models.
    :param score_teachers:
        Teachers that score them.
    :param vector_teachers:
        Teachers whose vectors of them are wanted.
    :param pairs:
        Rows of queries, with the texts of their derived candidates.
    :raises RecipeError:
        If a teacher scores documents of the corpus, or whole lists, only.
    """

    def __init__(
        self,
        context: Context,
        score_teachers: list[str],
        vector_teachers: list[str],
        pairs: list[tuple[int, str]],
    ) -> None:
        wanted = sorted(set(pairs))
        texts = sorted({text for _, text in wanted})
        self._rows = {text: row for row, text in enumerate(texts)}
        store = TextStore(map(str, range(len(texts))), texts)
        over = context.over(replace(context.data, corpus=store, qrels={}, given={}))
        self._store = store
        self._caches = {name: over.teacher_cache(name, "document", store) for name in vector_teachers}
        self._queries = {name: over.vectors(name, "query") for name in vector_teachers}
        self._similarities = {name: context.similarity(name) for name in vector_teachers}
        queries = np.array([query for query, _ in wanted], dtype=np.int64)
        rows = np.array([self._rows[text] for _, text in wanted], dtype=np.int64)
        self._scores: dict[str, dict[tuple[int, str], float]] = {}
        teachers = context.teachers
        for name in score_teachers:
            refuse_derived(name, teachers[name])
            values = over.scores(name, queries, rows).tolist() if wanted else []
            refuse_derived(name, teachers[name], over.kinds.get(name))
            self._scores[name] = dict(zip(wanted, values, strict=True))

    def of(self, teacher: str, query: int, texts: list[str]) -> list[float]:
        """Give a teacher's scores, or similarities, of a query's derived candidates, NaN where it has none."""
        if teacher in self._caches:
            asked = torch.from_numpy(self._queries[teacher][[query]])
            return similarities(asked, self.vectors(teacher, texts), self._similarities[teacher])[0].tolist()
        own = self._scores.get(teacher, {})
        return [own.get((query, text), math.nan) for text in texts]

    def vectors(self, teacher: str, texts: list[str]) -> torch.Tensor:
        """Give a teacher's vectors of derived candidates, `[n, d]`."""
        items = self._store.item_ids[[self._rows[text] for text in texts]]
        return torch.from_numpy(self._caches[teacher].gather(items))
