# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
MTD: learn from the consensus and from the disagreement of teachers (Li & Qian 2021, arXiv 2112.01048).

Queries without labels are data. Where all teachers put the same candidate first, it becomes a label; elsewhere, which
is where they know different things, the student learns their distributions. The paper classifies relations; here the
classes are the candidates of a query's list.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.objectives import TeacherObjective, one_of
from retort.trainers.roles import Compared, Context, Masks, StepContext, Values
from retort.trainers.temperature import fitted_temperature

SoftOn = Literal["difference", "labelled_and_consensus", "all"]


def consensus(scores: Tensor, mask: Tensor, *, confidence: float = 0.0, margin: float = 0.0) -> tuple[Tensor, Tensor]:
    r"""
    Find the queries of which all teachers put the same candidate first.

    :param scores:
        `[K, B, N]` calibrated scores, NaN where missing. A candidate that some teacher did not score takes no part.
    :param mask:
        `[B, N]` bool, what takes part.
    :param confidence:
        Least share of the first candidate in each teacher's softmax (0 in the paper).
    :param margin:
        Least distance of the first two shares, of each teacher (0 in the paper). One that puts two first chooses none.
    :returns:
        Per query whether they agree, `[B]` bool, and the first teacher's first candidate, `[B]`.
    """
    mask = mask & ~scores.isnan().any(0)
    shares = torch.stack([losses.log_distribution(own.masked_fill(~mask, 0.0), mask).exp() for own in scores])
    shares = shares.masked_fill(~mask, -1.0)
    best = shares.argmax(-1)
    top = shares.topk(min(2, shares.shape[-1]), dim=-1).values
    gap = top[..., 0] - top[..., -1].clamp(min=0)
    sure = (top[..., 0] >= confidence) & (gap >= margin) & (gap > 0)
    agree = (best == best[0]).all(0) & sure.all(0) & (mask.sum(-1) > 1)
    return agree, best[0]


class ConsensusAndDifference(TeacherObjective):
    r"""
    Labels, the teachers' consensus as further labels, and their distributions.

    $$L_{hard} = -\log \sum_{i \in P} q_i, \quad
    L_{soft} = w \sum_k \tau^2 \, \mathrm{KL}(p_k \| q)$$

    $P$ are the positives, or for a query without any the candidate that all teachers put first. The soft term is a sum
    over the teachers that scored the list, as in the official code. The paper has it where they disagree; its released
    code, which never trains on these, where labels or consensus are: `soft_on` says which. Calibration, `confidence`,
    `margin` and `negatives` are ours.

    :param teacher:
        Names of the teachers; of one alone all is consensus.
    :param soft_weight:
        $w$; .3 in the code.
    :param temperature:
        $\tau$ of the soft term; 2.4 in the code. A stage's `temperature` takes its place.
    :param soft_on:
        `difference`: queries without labels of which the teachers disagree (paper). `labelled_and_consensus`: all
        others (code). `all`: every query.
    :param confidence:
        As in `consensus`: a list without any relevant candidate should make no label.
    :param margin:
        As in `consensus`.
    :param negatives:
        Of a pseudo-label's list, candidates whose mean share among the teachers is above this are no negatives, nor are
        those that some teacher did not score: they take no part. 1 takes all that are scored.
    :param calibrate:
        Divide each teacher's scores by a temperature that is fitted to the labels of the stage's lists.
    :param teacher_scale:
        As in `TeacherObjective`.
    :raises ValueError:
        If a share is none.

    ```yaml
    - type: retort.trainers.methods.mtd.ConsensusAndDifference
      weight: 1.0
      init_parameters: {teacher: [dense, ranker]}
    ```
    """

    needs_lists = True
    divergence = True

    def __init__(
        self,
        *,
        teacher: str | list[str],
        soft_weight: float = 0.3,
        temperature: float = 2.4,
        soft_on: SoftOn = "all",
        confidence: float = 0.3,
        margin: float = 0.1,
        negatives: float = 0.1,
        calibrate: bool = True,
        teacher_scale: float | None = None,
    ) -> None:
        super().__init__(teacher=teacher, teacher_scale=teacher_scale)
        self.soft_on: SoftOn = one_of("soft_on", soft_on, ("difference", "labelled_and_consensus", "all"))
        for name, value in {"confidence": confidence, "margin": margin, "negatives": negatives}.items():
            if not 0 <= value <= 1:
                msg = f"ConsensusAndDifference: {name} is a share, 0 to 1; it is {value}."
                raise ValueError(msg)
        self.soft_weight, self.temperature = soft_weight, temperature
        self.confidence, self.margin, self.negatives, self.calibrate = confidence, margin, negatives, calibrate

    def open(self, context: Context, lists: CandidateLists | None) -> dict[str, Tensor]:
        """
        Fit the teachers' temperatures.

        :returns:
            `temperatures`, `[K]`.
        :raises RecipeError:
            If the stage has no mined lists, or a teacher is in the loop.
        """
        lists = self.mined_lists(context, lists, self.each_teacher)
        cuts = lists.offsets[1:-1]
        positive = np.split(lists.labels == 1, cuts)
        fitted = []
        for name in self.each_teacher if self.calibrate else []:
            scores = self.mined_scores(context, lists, name)
            fitted.append(fitted_temperature(list(zip(np.split(scores, cuts), positive, strict=True))))
        return {"temperatures": torch.tensor(fitted or [1.0] * len(self.each_teacher))}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:
        """
        Lists of which the teacher scored two or more count, and for labels those with a positive.

        What a query does not take part in costs it nothing.
        """
        counts = self.scored(batch, teacher).sum(-1) > 1
        return {"mtd_labels": counts | (batch.has_positive & (batch.mask.sum(-1) > 1)), "mtd_teachers": counts}

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """
        One value a query and teacher.

        Logged are the shares of queries with labels and with consensus, and of labelled ones that the teachers agree on
        the share whose first candidate is a positive.
        """
        student, positive = output.list_scores(batch), (batch.labels == 1) & batch.mask
        scores = torch.stack([self._calibrated(output, batch, ctx, name) for name in self.each_teacher])
        agree, best = consensus(scores, batch.mask, confidence=self.confidence, margin=self.margin)
        labelled = positive.any(-1)
        both, agree = agree & labelled, agree & ~labelled
        chosen = torch.zeros_like(positive).scatter(1, best[:, None], agree[:, None])
        unsure = (self._mean_share(scores, batch.mask) > self.negatives) | scores.isnan().any(0)
        mask = batch.mask & ~(agree[:, None] & unsure & ~chosen)
        target = positive | chosen
        hard = losses.marginal_nll(student, target, mask)
        tau = self.temperature if ctx.temperature is None else ctx.temperature
        own = scores[self._place(ctx)]
        soft = losses.listwise_kl(student, own, batch.mask, student_temperature=tau, teacher_temperature=tau)
        known = target.any(-1)
        shown = {"difference": ~known, "labelled_and_consensus": known, "all": torch.ones_like(known)}[self.soft_on]
        counts = self.valid(batch, ctx.teacher)["mtd_labels"]
        ctx.logged_terms["labelled"] = (labelled.to(hard.dtype), counts)
        ctx.logged_terms["consensus"] = (agree.to(hard.dtype), counts)
        ctx.logged_terms["consensus_right"] = (positive.gather(1, best[:, None])[:, 0].to(hard.dtype), counts & both)
        # The values of teachers that scored the list are averaged; the soft term is their sum.
        many = torch.stack([self.scored(batch, name).sum(-1) > 1 for name in self.each_teacher]).sum(0)
        return {"mtd_labels": hard, "mtd_teachers": self.soft_weight * many * soft * shown}

    def compared(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Compared:
        """Scores of each query's list, the teacher's calibrated."""
        own = self._calibrated(output, batch, ctx, self.each_teacher[self._place(ctx)])
        return output.list_scores(batch), own, batch.mask

    def _place(self, ctx: StepContext) -> int:
        return self.each_teacher.index(ctx.teacher or self.each_teacher[0])

    def _calibrated(self, output: Any, batch: CandidateBatch, ctx: StepContext, name: str) -> Tensor:
        raw = self.list_teacher(output, batch, StepContext("", 0, 1, teacher=name))
        return raw / ctx.state["temperatures"].to(raw.dtype)[self.each_teacher.index(name)]

    @staticmethod
    def _mean_share(scores: Tensor, mask: Tensor) -> Tensor:
        """`[B, N]`: the mean of the teachers' softmaxes."""
        scored = mask & ~scores.isnan()
        known = zip(scores.masked_fill(~scored, 0.0), scored, strict=True)
        return (torch.stack([losses.log_distribution(own, m).exp() for own, m in known]) * scored).mean(0)

    def shares(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Tensor:  # noqa: ARG002
        """`[K, B]`: all alike, whatever the stage's weighting."""
        k = len(self.each_teacher)
        return output.list_scores(batch).new_full((k, len(batch.queries)), 1 / k)
