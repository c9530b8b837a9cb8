# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Which negatives of a query are drawn, where several sources found them, and which of these a teacher keeps."""

from typing import Literal, get_args

import numpy as np

Sampling = Literal["union", "multiset", "balanced"]
SAMPLINGS = get_args(Sampling)


def draw(found_by: np.ndarray, count: int, how: Sampling, rng: np.random.Generator) -> np.ndarray:
    """
    Draw documents without replacement.

    `union`: each alike. `multiset`: in proportion to how many sources found it. `balanced`: a source that has documents
    left, each alike, then one of these, each alike.

    :param found_by:
        `[n]` int64; bit `g` says that source `g` found the document. Source 0 are the judgements.
    :param count:
        How many; fewer if there are fewer.
    :param how:
        `union`, `multiset` or `balanced`.
    :param rng:
        Generator.
    :returns:
        Indexes of documents, in the order drawn.
    """
    count = min(count, len(found_by))
    if count == 0:
        return np.empty(0, dtype=np.int64)
    if how == "union":
        return rng.choice(len(found_by), count, replace=False)
    finders = (found_by[:, None] >> np.arange(64)) & 1  # [n, 64]
    if how == "multiset":
        times = finders.sum(1)
        return rng.choice(len(found_by), count, replace=False, p=times / times.sum())
    # A source's documents in random order: the first that nobody drew yet is a uniform draw of what it has left.
    queues = [rng.permutation(np.flatnonzero(found)).tolist() for found in finders.T if found.any()]
    taken: dict[int, None] = {}
    while len(taken) < count:
        queue = queues[rng.integers(len(queues))]
        while queue and queue[-1] in taken:
            queue.pop()
        if queue:
            taken[queue.pop()] = None
        else:
            queues.remove(queue)
    return np.array(list(taken), dtype=np.int64)


def hardest(scores: np.ndarray, count: int) -> np.ndarray:
    """
    Choose the negatives that a teacher scores best (DCD, Rao et al. 2023).

    :param scores:
        `[n]` the teacher's scores of a pool of negatives; NaN where it has none.
    :param count:
        How many; fewer if fewer have a score.
    :returns:
        Indexes into the pool, best first; equal scores keep the pool's order. What has no score is never chosen.
    """
    order = np.argsort(-scores, kind="stable")  # NaN comes last
    return order[~np.isnan(scores[order])][:count]
