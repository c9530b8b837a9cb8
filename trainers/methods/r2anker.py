# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
R2ANKER: a robust ranker from several retrievers' negatives (Zhou et al. 2023, arXiv 2206.08063).

A ranker that learns on one retriever's negatives learns that retriever's mistakes. Here it learns on the joint
negatives of retrievers of different kinds: a stage's `candidates` names several sources, and its `sampling` how they
are mixed (`candidates.sampling`). The student is then distilled over the same pool. What stands here is the paper's
argument as a measure: how near the mixture of the retrievers is to the ranker's own distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retort.trainers.candidates.mining import build_lists, mine
from retort.trainers.roles import Context, Miner


@dataclass
class JointDivergence:
    """
    How far sources are from a ranker.

    :param sources:
        Per source $KL(p_{ranker} || p_g)$, mean over queries.
    :param mixture:
        The same for the mean of the sources' distributions; by convexity at most the mean of theirs.
    :param uniform:
        A control: the same for a distribution that knows nothing. Where it is as near as the mixture, the mixture may
        be near for being flat.
    :param tempered:
        A control per source: the same for it alone, at the temperature at which its entropy is the mixture's. Where one
        is as near as the mixture, other sources add nothing.
    """

    sources: dict[str, float]
    mixture: float
    uniform: float
    tempered: dict[str, float]


LARGEST_GAP = 700.0  # of logarithms whose exponentials float64 still tells from 0


def joint_divergence(ranker: np.ndarray, sources: np.ndarray) -> tuple[np.ndarray, float]:
    r"""
    Compare one query's distributions: $D_g = \sum_j p_j \log(p_j / p_{gj})$, and for $\bar p = \frac{1}{G} \sum_g p_g$.

    :param ranker:
        `[n]` probabilities.
    :param sources:
        `[g, n]` probabilities.
    :returns:
        `[g]` divergences, and that of the mixture.
    """

    def from_ranker(others: np.ndarray) -> np.ndarray:
        return (ranker * (np.log(ranker) - np.log(others))).sum(-1)

    return from_ranker(sources), float(from_ranker(sources.mean(0)))


def tempered_to(distribution: np.ndarray, entropy: float) -> np.ndarray:
    r"""
    Flatten or sharpen a distribution, $p_j^{1/\tau} / \sum_i p_i^{1/\tau}$, until it has an entropy.

    :param distribution:
        `[n]` probabilities above 0.
    :param entropy:
        In nats, at most $\log n$.
    :returns:
        `[n]` probabilities above 0. Where several are the highest, the entropy may be out of reach: then they are about
        as near as can be, and those that are all alike stay so.
    """
    logs = np.log(distribution)
    # log(tau); the entropy rises with it, and below the least the lowest probability would be 0.
    low, high = max(-7.0, np.log(max(np.ptp(logs), 1e-9) / LARGEST_GAP)), 7.0
    for _ in range(50):
        middle = (low + high) / 2
        found = _normalised(logs / np.exp(middle))
        low, high = (middle, high) if _entropy(found) < entropy else (low, middle)
    return found


def measure_joint_divergence(context: Context, miners: dict[str, Miner], teacher: str) -> JointDivergence:
    """
    Measure how near each source, and all together, are to a ranker, over the negatives that any of them found.

    Controls say whether it is the sources' being together, or their mixture's being flat.

    Each source's scores are divided by their spread over the query's documents, as the ranker's are (a choice of
    ours): BM25's and cosines have no common scale. What a source did not find has its lowest score.

    :param context:
        Data and models.
    :param miners:
        The sources by name.
    :param teacher:
        The ranker: a teacher that gives scores.
    :raises ValueError:
        If a source gives no scores.
    """
    lists = build_lists(context, miners)
    kept = (lists.labels != 1) & (lists.found_by > 1)  # bit 0: only the judgements name it
    owners, documents = lists.owners[kept], lists.rows[kept]
    scores = context.scores(teacher, owners, documents)
    first = context.data.corpus.first_rows
    found = [mine(miner, context) for miner in miners.values()]
    for name, (ids, values) in zip(miners, found, strict=True):
        if np.isnan(values[ids >= 0]).any():
            msg = f"{name} gives no scores: how near it is to a ranker cannot be said."
            raise ValueError(msg)
    measured: list[list[float]] = []
    for query in lists.query_rows:
        span = slice(*np.searchsorted(owners, [query, query + 1]))
        rows = documents[span]
        if len(rows) < 2 or np.isnan(scores[span]).any():  # noqa: PLR2004 - nothing to compare
            continue
        given = []
        for ids, values in found:
            own = {int(first[d]): float(v) for d, v in zip(ids[query], values[query], strict=True) if d >= 0}
            lowest = min(own.values(), default=0.0)
            given.append(_softmax(np.array([own.get(int(row), lowest) for row in rows])))
        ranker, each = _softmax(scores[span].astype(np.float64)), np.stack(given)
        alone, mixture = joint_divergence(ranker, each)
        entropy = _entropy(each.mean(0))
        controls = [np.full(len(rows), 1 / len(rows)), *(tempered_to(source, entropy) for source in given)]
        measured.append([*alone, *joint_divergence(ranker, np.stack(controls))[0], mixture])
    count = len(miners)
    means = (np.mean(measured, axis=0) if measured else np.zeros(2 * count + 2)).tolist()
    return JointDivergence(
        sources=dict(zip(miners, means[:count], strict=True)),
        mixture=means[-1],
        uniform=means[count],
        tempered=dict(zip(miners, means[count + 1 : -1], strict=True)),
    )


def _softmax(scores: np.ndarray) -> np.ndarray:
    spread = scores.std()
    return _normalised(scores / (spread if spread > 0 else 1.0))


def _normalised(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()


def _entropy(distribution: np.ndarray) -> float:
    there = distribution[distribution > 0]  # a sharp one may have underflowed
    return float(-(there * np.log(there)).sum())
