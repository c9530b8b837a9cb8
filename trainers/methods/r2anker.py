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
    """

    sources: dict[str, float]
    mixture: float


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


def measure_joint_divergence(context: Context, miners: dict[str, Miner], teacher: str) -> JointDivergence:
    """
    Measure how near each source, and all together, are to a ranker, over the negatives that any of them found.

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
    sums, mixtures = np.zeros(len(miners)), []
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
        each, mixed = joint_divergence(_softmax(scores[span].astype(np.float64)), np.stack(given))
        sums += each
        mixtures.append(mixed)
    count = max(len(mixtures), 1)
    return JointDivergence(dict(zip(miners, (sums / count).tolist(), strict=True)), float(np.sum(mixtures)) / count)


def _softmax(scores: np.ndarray) -> np.ndarray:
    spread = scores.std()
    exponents = (scores - scores.max()) / (spread if spread > 0 else 1.0)
    return np.exp(exponents) / np.exp(exponents).sum()
