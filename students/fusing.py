# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What the documents that one retriever found count where they are fused with another's."""

from collections.abc import Sequence

RRF_K = 60  # as in the paper, and in Haystack's DocumentJoiner


def rank_points(found: int) -> list[float]:
    r"""Give $1 / (60 + r)$ for the ranks 1 to `found`: reciprocal rank fusion (Cormack et al. 2009)."""
    return [1 / (RRF_K + rank) for rank in range(1, found + 1)]


def score_points(scores: Sequence[float], least: float | None = None) -> list[float]:
    r"""
    Give $(s - l) / (\max s - l)$ for the scores of one list, where $l$ is what a document that is not in it may have.

    Where one retriever is much better than the other its margins tell how sure it is, and ranks do not (Bruch et al.
    2023, arXiv 2210.11934). Their $l$ is the least score that there can be; here it is so in a list of all documents
    that share a term with the query, and else the least of the list.

    :param scores:
        The scores.
    :param least:
        The least score that there can be; None for a list that was cut off, or where there is none.
    :returns:
        Between 0 and 1 for each. Equal scores, and that of a list of one, are the best there are: 1. But where all are
        0 nothing was found, and each is worth 0.
    """
    if not scores:
        return []
    most, low = max(scores), min(scores)
    if least is not None:
        low = min(low, least)
    if most == low:
        return [float(most != 0)] * len(scores)
    return [(score - low) / (most - low) for score in scores]
