# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What the documents that one retriever found count where they are fused with another's."""

from collections.abc import Sequence

RRF_K = 60  # as in the paper, and in Haystack's DocumentJoiner


def rank_points(found: int) -> list[float]:
    r"""Give $1 / (60 + r)$ for the ranks 1 to `found`: reciprocal rank fusion (Cormack et al. 2009)."""
    return [1 / (RRF_K + rank) for rank in range(1, found + 1)]


def score_points(scores: Sequence[float]) -> list[float]:
    r"""
    Give $(s - \min s) / (\max s - \min s)$ for the scores of one list; 0 where all are equal.

    Where one retriever is much better than the other its margins tell how sure it is, and ranks do not (Bruch et al.
    2023, arXiv 2210.11934).
    """
    least = min(scores, default=0.0)
    span = (max(scores, default=0.0) - least) or 1.0
    return [(score - least) / span for score in scores]
