# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
NKD and TF-NKD: normalised distillation, with and without a teacher (Yang et al., arXiv 2208.10139 and 2303.13005).

Both come beside the plain `Contrastive` over lists, at weight 1. The papers classify images; here the classes are the
candidates of a query's list, and its positives the target.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.objectives import TeacherObjective
from retort.trainers.roles import Compared, Masks, Objective, StepContext, Values


def soft_target(student: Tensor, teacher: Tensor, positive: Tensor, mask: Tensor) -> Tensor:
    r"""
    NKD's target term: the teacher's confidence in the positives softens their cross-entropy.

    $$L = -\sum_{i \in P} p^T_i \log p^S_i$$

    :param student:
        `[B, N]` student scores.
    :param teacher:
        `[B, N]` teacher scores; no gradient reaches them.
    :param positive:
        `[B, N]` bool, $P$.
    :param mask:
        `[B, N]` bool, what takes part.
    :returns:
        `[B]`; 0 where nothing of $P$ takes part.
    """
    targets = losses.log_distribution(teacher.detach(), mask).exp()
    return -(targets * losses.log_distribution(student, mask)).masked_fill(~(positive & mask), 0.0).sum(-1)


def others(student: Tensor, teacher: Tensor, positive: Tensor, mask: Tensor, temperature: float | Tensor) -> Tensor:
    r"""
    NKD's distributed term: cross-entropy of the two distributions over all that is no target, each normalised anew.

    $$L = -\lambda^2 \sum_{i \notin P} N(T)_i \log N(S)_i, \quad N(X) = \mathrm{softmax}_{i \notin P}(X_i / \lambda)$$

    It is no divergence: its least value is the teacher's entropy.

    :param temperature:
        $\lambda$; a number, or a tensor that broadcasts to `[B, 1]`. The rest as in `soft_target`.
    :returns:
        `[B]`; 0 for fewer than two negatives.
    """
    mask = mask & ~positive
    p = losses.log_distribution(teacher.detach() / temperature, mask)
    factor = temperature**2
    values = -losses.expectation(losses.log_distribution(student / temperature, mask), p, mask)
    return values * (factor.reshape(-1) if isinstance(factor, Tensor) else factor)


def confidence_weights(confidence: Tensor, mean: Tensor) -> Tensor:
    r"""
    TF-NKD's weights, $w_b = S_b + 1 - \bar S$; their mean is 1, and confident queries weigh more.

    :param confidence:
        `[B]` share of each query's positives in the student's softmax.
    :param mean:
        Scalar: its mean over the queries of the step.
    """
    return (confidence + 1 - mean).detach()


class NKD(TeacherObjective):
    r"""
    Normalised distillation from a teacher's scores of lists.

    $$L = -\sum_{i \in P} p^T_i \log p^S_i
    - \gamma \lambda^2 \sum_{i \notin P} N(T)_i \log N(S)_i$$

    (see `soft_target` and `others`; Yang et al. 2023, eq. 6 and the official code.) With one positive it is the code's
    loss. Several positives, and the next paragraph, are ours.

    A query without a positive takes the teacher's best candidate for it, whose share in the teacher's softmax says how
    sure it is, so that unlabelled queries are learned from.

    :param teacher:
        As in `TeacherObjective`.
    :param gamma:
        $\gamma$; 1.5 for ImageNet in the paper.
    :param temperature:
        $\lambda$, of the distributed term alone; 1 in the paper. A stage's `temperature` takes its place.
    :param teacher_scale:
        As in `TeacherObjective`.
    :param extra_teachers:
        As in `TeacherObjective`.

    ```yaml
    - {type: retort.trainers.methods.nkd.NKD, init_parameters: {teacher: ranker, gamma: 1.5}, weight: 1.0}
    ```
    """

    needs_lists = True
    divergence = True

    def __init__(
        self,
        *,
        teacher: str | list[str],
        gamma: float = 1.5,
        temperature: float = 1.0,
        teacher_scale: float | None = None,
        extra_teachers: dict[str, float] | None = None,
    ) -> None:
        super().__init__(teacher=teacher, teacher_scale=teacher_scale, extra_teachers=extra_teachers)
        self.gamma, self.temperature = gamma, temperature

    def compared(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Compared:
        """Scores of each query's list."""
        return output.list_scores(batch), self.list_teacher(output, batch, ctx), batch.mask

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query, of both terms."""
        student, teacher, mask = self.compared(output, batch, ctx)
        mask = mask & ~teacher.isnan()
        teacher = teacher.masked_fill(~mask, 0.0)
        labelled = (batch.labels == 1) & mask
        best = teacher.masked_fill(~mask, -torch.inf).argmax(-1, keepdim=True)
        target = torch.where(
            labelled.any(-1, keepdim=True), labelled, torch.zeros_like(mask).scatter(1, best, value=True)
        )
        temperature = self.temperature if ctx.temperature is None else ctx.temperature
        distributed = others(student, teacher, target, mask, temperature)
        return {
            "nkd_target": soft_target(student, teacher, target, mask),
            "nkd_others": self.gamma * distributed,
        }

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:
        """Lists with at least two scores count, of their positives at least one if there is any."""
        scored = self.scored(batch, teacher)
        counts = (scored.sum(-1) > 1) & ((scored & (batch.labels == 1)).any(-1) | ~batch.has_positive)
        return {"nkd_target": counts, "nkd_others": counts}


class TeacherFreeNKD(Objective):
    r"""
    TF-NKD: the student's own confidence, smoothed by the batch's, softens the target.

    $$L = -\frac{1}{B} \sum_b w_b \log S_b, \quad w_b = S_b + 1 - \frac{1}{B} \sum_c S_c$$

    where $S_b$ is the positives' share of the softmax over the list (Yang et al. 2022, the official code of v1). It
    gives confident queries more weight in the labels' loss, so that false labels count less.

    A stage's `temperature` divides the scores. The mean is over a part of the step's batch: accumulation changes it a
    little, as it does in the paper's code.

    ```yaml
    - {type: retort.trainers.methods.nkd.TeacherFreeNKD, weight: 1.0}
    ```
    """

    needs_lists = True
    needs_positives = True

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query."""
        scores = output.list_scores(batch) / (1.0 if ctx.temperature is None else ctx.temperature)
        share = -losses.marginal_nll(scores, batch.labels == 1, batch.mask)
        confidence, counts = share.exp(), batch.has_positive
        mean = confidence.masked_fill(~counts, 0.0).sum() / counts.sum().clamp(min=1)
        return {"tf_nkd": -confidence_weights(confidence, mean) * share}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:  # noqa: ARG002
        """Queries with a positive count."""
        return {"tf_nkd": batch.has_positive}
