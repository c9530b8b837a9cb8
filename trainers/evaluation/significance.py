# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Whether a difference between two systems, query by query, is more than chance."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
CHUNK = 500
LEAST_SEEDS = 3  # of two, a t-test says little
SEEN = 1.96 + 0.84  # standard errors: what is found at the 5% level four times in five


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


@dataclass
class PairedSeeds:
    """
    The difference of two trained systems, of which each was trained with several seeds.

    :param difference:
        Mean of the second minus mean of the first.
    :param low:
        Lower end of its 95% interval: percentiles of a bootstrap over seeds and questions at once.
    :param high:
        Upper end.
    :param p_questions:
        Of the paired randomisation test on each question's mean over seeds: would other questions say the same of these
        very students?
    :param p_seeds:
        Of a paired t-test on the means of the seeds: would other students of these two say the same? None of fewer
        than three.
    :param sees:
        Smallest difference that would have been found four times in five, at the 5% level: 2.8 standard errors.
    :param seeds:
        How many seeds.
    """

    difference: float
    low: float
    high: float
    p_questions: float
    p_seeds: float | None
    sees: float
    seeds: int

    @property
    def significant(self) -> bool:
        """Whether both tests say so; of fewer than three seeds nothing is."""
        return self.p_seeds is not None and max(self.p_questions, self.p_seeds) < 0.05  # noqa: PLR2004


def paired_seeds(first: np.ndarray, second: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> PairedSeeds:
    """
    Compare two systems over questions and over seeds; see `PairedSeeds`.

    :param first:
        `[s, q]` values of a measure: one row a seed, in the order of the other's seeds.
    :param second:
        `[s, q]` values of the other system.
    :param draws:
        Random draws of the randomisation test and of the bootstrap.
    :param seed:
        Their seed.
    :raises ValueError:
        If the two are not of the same shape, or empty.

    ```python
    paired_seeds(np.array([[0.5, 0.2], [0.4, 0.2]]), np.array([[0.6, 0.3], [0.6, 0.2]])).difference  # 0.1
    ```
    """
    if first.shape != second.shape or first.ndim != 2 or not first.size:  # noqa: PLR2004
        msg = f"paired_seeds: two equal tables [seeds, questions] are needed, not {first.shape} and {second.shape}."
        raise ValueError(msg)
    from scipy.stats import ttest_1samp

    gaps = second - first
    seeds, questions = gaps.shape
    each = gaps.mean(1)
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(draws):
        drawn = gaps[rng.integers(seeds, size=seeds)].mean(0)
        means.append(drawn[rng.integers(questions, size=questions)].mean())
    low, high = np.percentile(means, (2.5, 97.5))
    return PairedSeeds(
        difference=float(each.mean()),
        low=float(low),
        high=float(high),
        p_questions=paired_test(first.mean(0), second.mean(0), draws=draws, seed=seed).p,
        p_seeds=(float(ttest_1samp(each, 0.0).pvalue) if each.any() else 1.0) if seeds >= LEAST_SEEDS else None,
        sees=SEEN * float(np.std(means)),
        seeds=seeds,
    )


def values(per_query: Mapping[str, Mapping[str, float]], measure: str) -> np.ndarray:
    """`[q]` values of a measure, in the order of query ids."""
    return np.array([per_query[query][measure] for query in sorted(per_query)])
