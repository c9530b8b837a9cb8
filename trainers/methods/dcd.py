# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
DCD: dynamic contrastive distillation (Rao et al. 2023, arXiv 2207.01426).

The teacher chooses the few hard negatives that the student sees, out of a larger pool: a stage's `candidates.pool` does
that, and serves any objective. `DynamicContrastive` then weighs two terms for each query by the teacher's uncertainty:
where it is sure the student copies its scores, elsewhere it learns from the label. The paper matches images and
captions; nothing in the method is specific to them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.objectives import TeacherObjective, one_of
from retort.trainers.roles import Masks, StepContext, Values

KDWeighting = Literal["per_sample", "released", "uniform"]
LabelWeighting = Literal["entropy", "uniform"]
Align = Literal["strict", "shift"]
LabelLoss = Literal["bce", "softmax"]
ListMeasures = tuple[Tensor, Tensor, Tensor]  # `[n]` each: the teacher's entropy, how many candidates, which count


def entropy_weights(entropy: Tensor, step: Tensor) -> Tensor:
    r"""
    Weights that grow with the teacher's uncertainty.

    $$w_i = H_i \Big/ \sum_b H_b$$

    :param entropy:
        `[B]` entropies $H$ of the teacher's softmaxes over lists, in nats.
    :param step:
        `[n]` those of all lists of the step that count.
    :returns:
        `[B]`; over the step they sum to 1. All $1/n$ where the teacher is sure of every list.
    """
    total = step.sum()
    return torch.where(total > 0, entropy / torch.where(total > 0, total, 1.0), 1 / max(1, len(step)))


def confidence_weights(entropy: Tensor, step: Tensor, sharpness: float = 1.0) -> Tensor:
    r"""
    Weights that fall with the teacher's uncertainty.

    $$r_i = \frac{e^{\beta (1 - w_i)^2}}{\sum_b e^{\beta (1 - w_b)^2}}$$

    with $w$ of `entropy_weights`. They are nearly flat at $\beta = 1$: $w = (.9, .1)$ gives $r = (.31, .69)$.

    :param sharpness:
        $\beta$; 1 in the paper, 0 weighs all alike. The rest as in `entropy_weights`.
    :returns:
        `[B]`; over the step they sum to 1.
    """
    own, all_of_step = (sharpness * (1 - entropy_weights(values, step)) ** 2 for values in (entropy, step))
    return (own - all_of_step.logsumexp(0)).exp()


def shifted(teacher: Tensor, positive: Tensor, mask: Tensor) -> Tensor:
    """
    Give the teacher's scores, best first, to the candidates in another order: positives first, then the negatives.

    Of each kind the teacher's order stays. So a positive that the teacher does not rank first gets its best score, and
    each negative above it the next lower one.

    :param teacher:
        `[B, N]` teacher scores.
    :param positive:
        `[B, N]` bool.
    :param mask:
        `[B, N]` bool, what takes part; the others' scores may end anywhere outside it.
    :returns:
        `[B, N]` scores.
    """
    ranked = teacher.masked_fill(~mask, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    negatives = ~(positive & mask).gather(-1, ranked)
    places = ranked.gather(-1, negatives.to(torch.int8).argsort(dim=-1, stable=True))
    return torch.empty_like(teacher).scatter(-1, places, teacher.gather(-1, ranked))


class DynamicContrastive(TeacherObjective):
    r"""
    Distances of scores and labels of each list, weighed against each other by the teacher's uncertainty.

    $$L = \alpha \sum_i r_i \, \mathrm{MSE}_i(T, S) + (1 - \alpha) \sum_i w_i \, \mathrm{BCE}_i(S, y), \quad
    w_i = \frac{H_i}{\sum_b H_b}, \; r = \mathrm{softmax}\big(\beta (1 - w)^2\big)$$

    with $H_i$ the entropy of the teacher's softmax over list $i$, and MSE and BCE means over the list (see
    `losses.listwise_mse`, `losses.listwise_bce`). $T$, $w$ and $r$ are constants. Lists have one positive in the paper;
    several are ours, as are $\beta$, `centred`, `label_loss: softmax` and `label_weighting: uniform`.

    The released code differs from the rule above in two ways. It multiplies one MSE over the whole batch by $r$, which
    sums to 1, so that $r$ has no effect (`kd_weighting: released`). And it leaves the teacher's scores in the teacher's
    order, while the student's begin with the positive (`align: shift`). Where the positive is not among the teacher's
    first $1 + k$, its last place has the score of a negative that is not in the list; here it is the positive's own.

    Weights sum to 1 over the lists of the whole step, whatever accumulation and the number of processes. A teacher in
    the loop has no scores of the other parts yet: with accumulation its weights sum to 1 over each part, and a part
    counts by its lists.

    Negatives are what is judged irrelevant and what nobody judged (label -1); another positive of the query takes no
    part, nor does a candidate that the teacher did not score. A list counts if a positive and a negative take part.

    How many negatives the student sees is the stage's to say: `candidates: {negatives: 7, pool: {size: 31, teacher:
    ranker}}` keeps the teacher's best 7 of 31.

    :param teacher:
        Name of the teacher.
    :param alpha:
        $\alpha$, the share of the teacher's scores; .2 in the code.
    :param kd_weighting:
        What weighs the lists' MSE. `per_sample`: $r$, as the paper says. `released`: one mean over all candidates of
        the step, as the code has it. `uniform`: every list alike, the same as `released` for lists of one length.
    :param label_weighting:
        What weighs the lists' BCE. `entropy`: $w$. `uniform`: every list alike.
    :param align:
        Which score of the teacher's a candidate is compared with. `strict`: its own. `shift`: see `shifted`.
    :param label_loss:
        `bce`, for students whose logits are calibrated; or `softmax`, `losses.contrastive` over the list, in its place.
    :param sharpness:
        $\beta$, of $r$ alone.
    :param centred:
        Compare scores without each list's mean, for a student whose scores lie elsewhere than the teacher's, such as a
        bi-encoder's beside a ranker's.
    :param teacher_scale:
        As in `TeacherObjective`.
    :raises ValueError:
        If a choice is none, $\alpha$ is no share, or the sharpness is below 0.

    ```yaml
    candidates: {sources: [bm25], negatives: 7, pool: {size: 31, teacher: ranker, keep: hardest}}
    objectives:
      - {type: retort.trainers.methods.dcd.DynamicContrastive, init_parameters: {teacher: ranker, alpha: 0.2}}
    ```
    """

    needs_positives = True
    needs_lists = True

    def __init__(
        self,
        *,
        teacher: str,
        alpha: float = 0.2,
        kd_weighting: KDWeighting = "per_sample",
        label_weighting: LabelWeighting = "entropy",
        align: Align = "strict",
        label_loss: LabelLoss = "bce",
        sharpness: float = 1.0,
        centred: bool = False,
        teacher_scale: float | None = None,
    ) -> None:
        super().__init__(teacher=teacher, teacher_scale=teacher_scale)
        self.kd_weighting: KDWeighting = one_of("kd_weighting", kd_weighting, ("per_sample", "released", "uniform"))
        self.label_weighting: LabelWeighting = one_of("label_weighting", label_weighting, ("entropy", "uniform"))
        self.align: Align = one_of("align", align, ("strict", "shift"))
        self.label_loss: LabelLoss = one_of("label_loss", label_loss, ("bce", "softmax"))
        if not 0 <= alpha <= 1 or sharpness < 0:
            msg = f"DynamicContrastive: alpha is a share, sharpness at least 0; they are {alpha} and {sharpness}."
            raise ValueError(msg)
        self.alpha, self.sharpness, self.centred = alpha, sharpness, centred

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:
        """Lists count of which a positive and a negative take part, for both terms."""
        counts = self._taking_part(batch, teacher)[1]
        return {"dcd_teacher": counts, "dcd_labels": counts}

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query and term; the teacher's entropy is logged."""
        student = output.list_scores(batch)
        mask, counts = self._taking_part(batch, ctx.teacher)
        teacher = self.list_teacher(output, batch, ctx).detach().masked_fill(~mask, 0.0)
        positive = (batch.labels == 1) & mask
        own = self._measures(output, batch, ctx)
        step = self._measures(output, self._whole(batch, ctx), ctx, like=student)
        among = step[0][step[2]], step[1][step[2]]
        # The loop divides by the number of lists that count, and these weights sum to 1.
        kd_weights, label_weights = (
            (weights * len(among[0])).masked_fill(~counts, 0.0)
            for weights in (self._kd_weights(own, *among), self._label_weights(own, among[0]))
        )
        targets = shifted(teacher, positive, mask) if self.align == "shift" else teacher
        distances = losses.listwise_mse(student, targets, mask, centred=self.centred)
        label_loss = losses.listwise_bce if self.label_loss == "bce" else losses.contrastive
        ctx.logged_terms["teacher_entropy"] = (own[0], counts)
        return {
            "dcd_teacher": self.alpha * kd_weights * distances,
            "dcd_labels": (1 - self.alpha) * label_weights * label_loss(student, positive, mask),
        }

    def _kd_weights(self, own: ListMeasures, entropy: Tensor, size: Tensor) -> Tensor:
        if self.kd_weighting == "per_sample":
            return confidence_weights(own[0], entropy, self.sharpness)
        if self.kd_weighting == "released":
            return own[1] / size.sum().clamp(min=1)
        return torch.full_like(own[0], 1 / max(1, len(entropy)))

    def _label_weights(self, own: ListMeasures, entropy: Tensor) -> Tensor:
        if self.label_weighting == "entropy":
            return entropy_weights(own[0], entropy)
        return torch.full_like(own[0], 1 / max(1, len(entropy)))

    def _taking_part(self, batch: CandidateBatch, teacher: str | None) -> tuple[Tensor, Tensor]:
        """`[B, N]` bool: which candidates take part; `[B]` bool: which lists count."""
        positive = batch.labels == 1
        others = batch.known_positive.gather(1, batch.index) & ~positive
        mask = self.scored(batch, teacher) & ~others
        return mask, (mask & positive).any(-1) & (mask & ~positive).any(-1)

    def _whole(self, batch: CandidateBatch, ctx: StepContext) -> CandidateBatch:
        """Return the batch of the whole step, or the part where the teacher is in the loop."""
        whole, name = ctx.whole, self._compared_teacher(ctx.teacher)
        known = whole is not None and name in {*whole.teacher_scores, *whole.teacher_vectors}
        return whole if whole is not None and known else batch

    def _measures(
        self, output: Any, batch: CandidateBatch, ctx: StepContext, *, like: Tensor | None = None
    ) -> ListMeasures:
        """Measure lists, on the device and in the type of `like`."""
        mask, counts = self._taking_part(batch, ctx.teacher)
        scores = self.list_teacher(output, batch, ctx).detach()
        if like is not None:
            scores, mask, counts = scores.to(like), mask.to(like.device), counts.to(like.device)
        return losses.entropy(scores, mask), mask.sum(-1).to(scores.dtype), counts
