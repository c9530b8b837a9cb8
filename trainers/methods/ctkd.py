# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
CTKD: curriculum temperature (Li et al. 2023, arXiv 2211.16231).

The temperature of a stage's divergences is learned against the student, and turned against it little by little, so that
matching the teacher goes from easy to hard. It wraps whatever divergences the stage has.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.objectives import one_of
from retort.trainers.roles import Objective, StepContext, Temperature

FEATURES, HIDDEN = 5, 128


class CurriculumTemperature(Temperature):
    r"""
    A temperature that gradient reversal teaches to raise the divergences.

    $$\min_\phi \max_\theta \; \tau^2 \, \mathrm{KL}(p_T \| p_S), \quad
    \tau = \tau_0 + \Delta \, \sigma(\mathrm{reverse}_\lambda(\theta)), \quad
    \lambda_e = -\tfrac{1}{2} (1 - \cos(\pi \min(e, n) / n))$$

    The layer before the sigmoid multiplies $\theta$'s gradient by $\lambda$, which falls from 0 to -1 over the first
    $n$ steps $e$ of the stage. Labels' losses keep their own temperature. As the paper's code has it: `start` 1,
    `span` 20, `initial` 15.621172 ($\theta = 1$), `rise` 10 of 240 epochs.

    What differs: `per_query` is a small network on what the query's two distributions look like, without batch
    normalisation, which would let one query's temperature depend on the others and on accumulation; the temperature
    has a learning rate of its own, which follows $|\lambda|$ (AdamW divides a gradient's size out), and does not decay.

    :param granularity:
        `global`: one $\theta$ for the stage. `per_query`: one a query. `per_teacher`: one for each teacher of the
        stage's divergences, its anchor among them.
    :param start:
        $\tau_0$, the lower bound.
    :param span:
        $\Delta$; the upper bound is `start + span`.
    :param initial:
        Where it starts, between the two: best the temperature that one would have fixed.
    :param rise:
        $n$ as a share of the stage's steps; 0 turns it against the student at once.
    :param reversal:
        The last $\lambda$, negated: 1; 0 keeps the temperature fixed, -1 lets it lower the divergences.
    :param lr:
        Highest learning rate of $\theta$.
    :raises ValueError:
        If a parameter is out of its range.

    ```yaml
    temperature:
      type: retort.trainers.methods.ctkd.CurriculumTemperature
      init_parameters: {granularity: per_query, start: 1.0, span: 20.0}
    ```
    """

    def __init__(
        self,
        *,
        granularity: Literal["global", "per_query", "per_teacher"] = "global",
        start: float = 1.0,
        span: float = 20.0,
        initial: float = 4.0,
        rise: float = 0.04,
        reversal: float = 1.0,
        lr: float = 0.02,
    ) -> None:
        super().__init__()
        self.granularity = one_of("granularity", granularity, ("global", "per_query", "per_teacher"))
        if not 0 < start < initial < start + span:
            given = f"they are {start}, {initial} and {start + span}"
            msg = f"CurriculumTemperature: 0 < start < initial < start + span must hold; {given}."
            raise ValueError(msg)
        if not 0 <= rise <= 1:
            msg = f"CurriculumTemperature: rise is a share of the stage's steps, 0 to 1; it is {rise}."
            raise ValueError(msg)
        self.start, self.span, self.rise, self.reversal, self.lr = start, span, rise, reversal, lr
        self.teachers: list[str] = []
        share = (initial - start) / span
        theta = torch.tensor([math.log(share / (1 - share))])
        if granularity == "per_query":
            last = nn.Linear(HIDDEN, 1)
            nn.init.zeros_(last.weight)  # all queries start alike
            last.bias = nn.Parameter(theta)
            self.network = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), last)
        else:
            self.theta = nn.Parameter(theta)

    def bind(self, objectives: list[Objective]) -> None:
        """Count the teachers."""
        if self.granularity == "per_teacher":
            self.teachers = sorted({name for o in objectives if o.divergence for name in _teachers(o)})
            self.theta = nn.Parameter(self.theta.detach().repeat(max(1, len(self.teachers))))

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext, objective: Objective) -> Tensor | None:
        """A scalar, or `[B, 1]`; None for what is no divergence."""
        if not objective.divergence:
            return None
        if self.granularity == "per_query":
            described = features(*objective.compared(output, batch, ctx))
            theta = self.network(described.to(next(self.network.parameters()).dtype))
        else:
            teacher = ctx.teacher or _teachers(objective)[0]
            theta = self.theta[self.teachers.index(teacher) if self.teachers else 0]
        return self.start + self.span * torch.sigmoid(reverse(theta, self.strength(ctx.step, ctx.steps)))

    def strength(self, step: int, steps: int) -> float:
        r"""$\lambda$ at a step; the first step is $e = 1$."""
        n = self.rise * steps
        share = 1.0 if n == 0 else min((step + 1) / n, 1.0)
        return -self.reversal * (1 - math.cos(math.pi * share)) / 2

    def lr_factor(self, step: int, steps: int) -> float:
        r"""$|\lambda|$: the paper's SGD takes smaller steps for smaller gradients, AdamW would not."""
        return min(abs(self.strength(step, steps)), 1.0)


def _teachers(objective: Objective) -> list[str]:
    return objective.each_teacher or [""]  # an anchor has no name


def reverse(x: Tensor, factor: float) -> Tensor:
    """Return `x`; its gradient is multiplied by `factor`."""
    reversed_: Tensor = _Reverse.apply(x, factor)  # type: ignore[no-untyped-call]
    return reversed_


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def features(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """
    Describe each query's two distributions; the order and the number of candidates do not matter.

    :param student:
        `[B, N]` scores; no gradient goes back to them.
    :param teacher:
        `[B, N]` scores, NaN where missing.
    :param mask:
        `[B, N]` bool, what takes part.
    :returns:
        `[B, 5]`: entropies over the logarithm of the list's length, and highest probabilities, of teacher and student,
        and the divergence; zeros for lists of fewer than two scores.
    """
    mask = mask & ~teacher.isnan()
    teacher, student = teacher.detach(), student.detach()
    p, q = losses.log_distribution(teacher, mask), losses.log_distribution(student, mask)
    count = mask.sum(-1)
    longest = count.clamp(min=2).log().to(student.dtype)
    found = [
        losses.entropy(teacher, mask) / longest,
        losses.entropy(student, mask) / longest,
        p.amax(-1).exp(),
        q.amax(-1).exp(),
        losses.expectation(p - q, p, mask),
    ]
    return torch.stack(found, dim=-1).masked_fill(count[:, None] < 2, 0.0)  # noqa: PLR2004
