# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Hybrid retrieval: two rankings into one."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

K = 60  # as in the paper, and in Haystack's DocumentJoiner


def fuse(
    first: Mapping[str, Sequence[str]], second: Mapping[str, Sequence[str]], depth: int = 100
) -> dict[str, list[str]]:
    r"""
    Reciprocal rank fusion: $s(d) = \sum_i 1 / (60 + r_i(d))$ (Cormack et al. 2009).

    :param first:
        Per query the document ids, best first.
    :param second:
        The same of another retriever.
    :param depth:
        How many to give.
    :returns:
        Per query the fused ids; ties go to the one that comes first in `first`, then in `second`.
    """
    fused = {}
    for query in first:
        scores: dict[str, float] = defaultdict(float)
        for ranking in (first, second):
            for rank, document in enumerate(ranking.get(query, ()), 1):
                scores[document] += 1 / (K + rank)
        fused[query] = sorted(scores, key=lambda d: -scores[d])[:depth]
    return fused
