# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Temperatures that a stage's objectives share, and one that is fitted to labels."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from retort.trainers.batches.base import CandidateBatch
from retort.trainers.roles import Objective, StepContext, Temperature


class LearnedTemperature(Temperature):
    r"""
    One temperature, learned with the student (as in CLIP, Radford et al. 2021).

    $$\tau = \mathrm{clip}(e^{\theta}, \tau_{min}, \tau_{max})$$

    It suits contrastive terms; a divergence alone is least at the highest temperature.

    :param initial:
        Where it starts.
    :param least:
        Its lower bound.
    :param most:
        Its upper bound.
    :raises ValueError:
        If the three are not above 0 and in order.

    ```yaml
    temperature: {type: retort.trainers.temperature.LearnedTemperature, init_parameters: {initial: 0.5, least: 0.1}}
    ```
    """

    def __init__(self, *, initial: float = 1.0, least: float = 0.05, most: float = 10.0) -> None:
        super().__init__()
        if not 0 < least <= initial <= most:
            msg = f"LearnedTemperature: 0 < least <= initial <= most must hold; they are {least}, {initial}, {most}."
            raise ValueError(msg)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(initial)))
        self.least = least
        self.most = most

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext, objective: Objective) -> Tensor:  # noqa: ARG002
        """A scalar."""
        with torch.no_grad():  # not what it gives: beyond its bounds it would have no gradient, and stay there
            self.log_temperature.clamp_(math.log(self.least), math.log(self.most))
        return self.log_temperature.exp()


MOST = 100.0  # times the spread of scores


def fitted_temperature(lists: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    r"""
    Fit what scores are to be divided by, so that their softmax predicts labels (Guo et al. 2017, temperature scaling).

    $$\hat\tau = \arg\min_\tau \sum_q -\log \sum_{i \in P_q} \mathrm{softmax}(T_q / \tau)_i$$

    :param lists:
        Per query its scores `[n]`, NaN where missing, and which are of positives, `[n]` bool. Lists without a scored
        positive, or with nothing beside, say nothing.
    :returns:
        The temperature, from 1 / `MOST` to `MOST` times the scores' `mean_spread`; 1 where no list says anything.
        Scores that are worse than none end at the upper bound.
    """
    useful, spread = _useful(lists), mean_spread(lists)
    if spread == 0:
        return 1.0

    def misfit(log_temperature: float) -> float:
        scaled = [(scores / (spread * np.exp(log_temperature)), positive) for scores, positive in useful]
        return float(np.mean([np.logaddexp.reduce(s) - np.logaddexp.reduce(s[p]) for s, p in scaled]))

    found = minimize_scalar(misfit, bounds=(-math.log(MOST), math.log(MOST)), method="bounded")
    return spread * math.exp(found.x)


def mean_spread(lists: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the mean standard deviation of scores over lists that say something (see `fitted_temperature`), or 0."""
    return float(np.mean([scores.std() for scores, _ in useful])) if (useful := _useful(lists)) else 0.0


def _useful(lists: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    known = [(scores[~np.isnan(scores)], positive[~np.isnan(scores)]) for scores, positive in lists]
    return [
        (scores.astype(np.float64), positive) for scores, positive in known if positive.any() and not positive.all()
    ]
