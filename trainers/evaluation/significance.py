# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Whether a difference between two systems, query by query, is more than chance."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
CHUNK = 500


@dataclass
class Paired:
    """
    The difference of two systems over the same queries.

    :param difference:
        Mean of the second minus mean of the first.
    :param low:
        Lower end of the 95% interval of the difference (paired bootstrap, percentiles).
    :param high:
        Upper end.
    :param p:
        Two-sided p of the paired randomisation test (Smucker et al. 2007): how often a difference as large appears when
        the two are swapped at random, query by query.
    """

    difference: float
    low: float
    high: float
    p: float


def paired_test(first: np.ndarray, second: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> Paired:
    """
    Compare two systems.

    :param first:
        `[q]` values of a measure, one a query.
    :param second:
        `[q]` values of the other system for the same queries.
    :param draws:
        Random draws of each test.
    :param seed:
        Their seed.
    :raises ValueError:
        If there are no queries, or not equally many.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        msg = f"paired_test: two equally long lists of values are needed, not {first.shape} and {second.shape}."
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    gaps = second - first
    observed = gaps.mean()
    means, extreme = [], 0
    for start in range(0, draws, CHUNK):  # bounds memory: [CHUNK, q] at a time
        size = min(CHUNK, draws - start)
        means.append(gaps[rng.integers(len(gaps), size=(size, len(gaps)))].mean(1))
        signs = rng.choice((-1.0, 1.0), size=(size, len(gaps)))
        extreme += int((np.abs((signs * gaps).mean(1)) >= abs(observed) - 1e-12).sum())
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return Paired(float(observed), float(low), float(high), (extreme + 1) / (draws + 1))


def values(per_query: Mapping[str, Mapping[str, float]], measure: str) -> np.ndarray:
    """`[q]` values of a measure, in the order of query ids."""
    return np.array([per_query[query][measure] for query in sorted(per_query)])
