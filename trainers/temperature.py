# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Temperatures that a stage's objectives share."""

import math
from typing import Any

import torch
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
        return self.log_temperature.exp().clamp(self.least, self.most)
