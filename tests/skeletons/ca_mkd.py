# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""CA-MKD's skeleton: several teachers, each weighed by how well it fits a query's labels."""

import torch
from torch import Tensor

from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.roles import StepContext, TeacherWeighting


class Confidence(TeacherWeighting):
    r"""
    $w_k = (1 - \mathrm{softmax}_k(c)) / (K - 1)$, where $c_k$ is teacher $k$'s loss on the labels; uniform without one.

    :param temperatures:
        Per teacher what its scores are divided by.
    """

    def __init__(self, *, temperatures: dict[str, float] | None = None) -> None:
        super().__init__()
        self.temperatures = temperatures or {}

    def forward(self, scores: dict[str, Tensor], batch: CandidateBatch, ctx: StepContext) -> Tensor:
        """`[K, B]`."""
        misfits = []
        for name, own in scores.items():
            scored = batch.mask & ~own.isnan()
            positive = scored & (batch.labels == 1)
            nll = marginal_nll(own / self.temperatures.get(name, 1.0), positive, scored)
            misfits.append(nll.masked_fill(~positive.any(-1), torch.inf))
        weights = (1 - torch.stack(misfits).softmax(0)) / (len(misfits) - 1)
        return torch.where(batch.has_positive, weights, 1 / len(misfits)).detach()


def marginal_nll(scores: Tensor, positive: Tensor, mask: Tensor) -> Tensor:
    """`[B]`: minus the logarithm of the positives' share of the softmax."""
    shares = losses.log_distribution(scores, mask)
    return -shares.masked_fill(~positive, -torch.inf).logsumexp(-1)
