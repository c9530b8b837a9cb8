# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Hybrid retrieval: two rankings into one."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from retort.students.fusing import rank_points, score_points
from retort.trainers.evaluation.metrics import mean, per_query

WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Per query: document ids, best first; or what each document is worth (`relative`).
Rankings = Mapping[str, Sequence[str] | Mapping[str, float]]


def relative(
    rankings: Mapping[str, Sequence[str]], scores: Mapping[str, Sequence[float]], *, lexical_depth: int | None = None
) -> Rankings:
    """
    Say what documents are worth by their scores, between 0 and 1 (see `score_points`).

    :param rankings:
        Per query the document ids.
    :param scores:
        Per query their scores, in the same order.
    :param lexical_depth:
        Of BM25: the length at which its rankings were cut off. A shorter one has all documents that share a word with
        the query, so that what is not in it has the score 0.
    """

    def points(found: Sequence[float]) -> list[float]:
        return score_points(found, 0.0 if lexical_depth is not None and len(found) < lexical_depth else None)

    return {q: dict(zip(found, points(scores[q]), strict=True)) for q, found in rankings.items()}


def fuse(first: Rankings, second: Rankings, depth: int = 100, weight: float = 0.5) -> dict[str, list[str]]:
    r"""
    Weighted sum of what two retrievers think of a document, $s(d) = \sum_i w_i p_i(d)$.

    Of a ranking, $p_i = 1 / (60 + r_i(d))$: reciprocal rank fusion (Cormack et al. 2009; without $w$ there). Where
    documents have a worth, $p_i$ is that.

    :param first:
        Per query the document ids, best first; or their worth.
    :param second:
        The same of another retriever.
    :param depth:
        How many to give.
    :param weight:
        Of `first`, between 0 and 1; `second` has the rest. Haystack's DocumentJoiner takes the two as its `weights`.
    :returns:
        Per query the fused ids; ties go to the one that comes first in `first`, then in `second`.
    """
    fused = {}
    for query in first:
        scores: dict[str, float] = defaultdict(float)
        for share, ranking in ((weight, first), (1 - weight, second)):
            for document, points in _points(ranking.get(query, ())).items():
                scores[document] += share * points
        fused[query] = sorted(scores, key=lambda d: -scores[d])[:depth]
    return fused


def _points(found: Sequence[str] | Mapping[str, float]) -> Mapping[str, float]:
    if isinstance(found, Mapping):
        return found
    return dict(zip(found, rank_points(len(found)), strict=True))


def fuse_cross_fitted(
    first: Rankings, second: Rankings, qrels: Mapping[str, Mapping[str, int]], depth: int = 100
) -> tuple[dict[str, list[str]], tuple[float, float]]:
    """
    Fuse with weights that were not chosen on the queries that they are used for: each half's come from the other half.

    :param first:
        Per query the document ids, best first; or their worth.
    :param second:
        The same of another retriever.
    :param qrels:
        Per query, the relevant documents' grades.
    :param depth:
        How many to give.
    :returns:
        Per query the fused ids, and the weights of `first` (of `WEIGHTS`; best nDCG@10) for the two halves.
    """
    queries = sorted(first)
    halves = queries[::2], queries[1::2]
    tried = {w: fuse(first, second, depth, w) for w in WEIGHTS}
    scores = {w: per_query(rankings, qrels) for w, rankings in tried.items()}

    def best(half: Sequence[str]) -> float:
        return max(WEIGHTS, key=lambda w: mean({q: scores[w][q] for q in half if q in scores[w]})["ndcg@10"])

    weights = best(halves[1]), best(halves[0])
    fused = {q: tried[w][q] for w, half in zip(weights, halves, strict=True) for q in half}
    return fused, weights
