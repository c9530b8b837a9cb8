# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Leaving out mined documents that a teacher takes for relevant: they are the likely positives that nobody judged."""

from __future__ import annotations

import logging

import numpy as np

from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.roles import Context
from retort.trainers.runtime.errors import RecipeError

logger = logging.getLogger(__name__)


def filter_negatives(
    context: Context,
    lists: CandidateLists,
    *,
    teacher: str,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
) -> CandidateLists:
    r"""
    Keep mined documents whose score lies within bounds, as sentence-transformers' `mine_hard_negatives` has them.

    A document of score $t$ is kept if $t \le t^+ - a$, $t \le t^+ - r |t^+|$ (positive-aware mining, de Souza P.
    Moreira et al. 2024, arXiv 2407.15831) and $min \le t \le max$, where $t^+$ is the least score of the query's
    positives. What the data judge irrelevant stays; a document that the teacher did not score goes. Margins say nothing
    about queries without a scored positive. How many documents, and of how many lists, each bound takes is logged.

    :param context:
        Data and models.
    :param lists:
        The lists.
    :param teacher:
        Name of the teacher that scores them, raw: a ranker, or one that gives vectors.
    :param absolute_margin:
        $a$.
    :param relative_margin:
        $r$, a share.
    :param max_score:
        Highest score of a negative.
    :param min_score:
        Lowest score of a negative.
    :returns:
        The lists without what is left out.
    :raises RecipeError:
        If the teacher gives an order without scores.
    """
    scores = context.scores(teacher, lists.owners, lists.rows).astype(np.float64)
    if context.kinds.get(teacher) == "ranks":  # known once it has answered
        msg = f"candidates.filter: teacher {teacher!r} gives an order without scores; margins need scores."
        raise RecipeError(msg)
    places = np.repeat(np.arange(len(lists)), np.diff(lists.offsets))
    positive = lists.labels == 1
    least = np.full(len(lists), np.nan)
    np.fmin.at(least, places[positive], scores[positive])
    least = least[places]
    over = {
        "absolute_margin": None if absolute_margin is None else scores > least - absolute_margin,
        "relative_margin": None if relative_margin is None else scores > least - relative_margin * np.abs(least),
        "max_score": None if max_score is None else scores > max_score,
        "min_score": None if min_score is None else scores < min_score,
        "no score": np.isnan(scores),
    }
    mined, keep = lists.labels == -1, np.ones(len(scores), dtype=bool)
    for name, taken in over.items():
        if taken is not None and (taken := taken & mined).any():
            count, of = int(taken.sum()), len(np.unique(places[taken]))
            logger.info("candidates.filter: %s takes %d of %d documents, of %d lists", name, count, mined.sum(), of)
            keep &= ~taken
    return lists.entries(keep)
