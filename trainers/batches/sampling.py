# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What batch sources share: the order of items, and the teachers' vectors of them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from retort.trainers.context import TrainingContext
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

    def __init__(self, context: TrainingContext, teachers: list[str]) -> None:
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
