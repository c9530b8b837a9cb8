# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
CKD: continual distillation from teachers one after another (KA-NMT, Zhang et al. 2023, arXiv 2212.09097).

A stage for each teacher, with the student of the stage before as its anchor. The loss of stage $t$ is
`Contrastive` over lists $+ \\lambda_t$ `KnowledgeFiltration` $+ (1 - \\lambda_t)$ `prod.AnchorKL` at temperature 1,
the paper's knowledge inheritance. The public code does not hold the method, and the schedule of $\\lambda$ and
the form of `unlikelihood` could not be checked: $\\lambda_t = 1 / (t + 1)$ and what stands here are ours.

The paper translates, and a token over the vocabulary is an instance; here a query over its candidates is.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.objectives import TeacherObjective
from retort.trainers.roles import Compared, Context, Masks, StepContext, Values
from retort.trainers.temperature import MOST, fitted_temperature, mean_spread


def unlikelihood(student: Tensor, teacher: Tensor, positive: Tensor, mask: Tensor) -> Tensor:
    r"""
    Push the student away from what a teacher takes for relevant wrongly.

    $$L = -\sum_{i \notin P} \tilde p_i \log(1 - q_i), \quad \tilde p_i = \frac{p_i}{1 - \sum_{j \in P} p_j}$$

    It is at least 0, and never pushes a positive down.

    :param student:
        `[B, N]` student scores, of which $q$ is the softmax.
    :param teacher:
        `[B, N]` teacher scores, of which $p$ is; no gradient reaches them.
    :param positive:
        `[B, N]` bool, $P$.
    :param mask:
        `[B, N]` bool, what takes part.
    :returns:
        `[B]`; 0 where nothing but $P$ takes part.
    """
    wrong = mask & ~positive
    low = torch.finfo(teacher.dtype).min
    shares = teacher.detach().masked_fill(~wrong, low).softmax(-1).masked_fill(~wrong, 0.0)
    rest = (1 - losses.log_distribution(student, mask).exp()).clamp(min=1e-6)
    return -(shares * rest.log()).masked_fill(~wrong, 0.0).sum(-1)


def filtration(
    student: Tensor,
    teacher: Tensor,
    beneficial: Tensor,
    positive: Tensor,
    mask: Tensor,
    sharper: float | Tensor = 1.0,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    r"""
    Follow the teacher where it is beneficial, by $\mathrm{KL}(p \| q)$, and avoid it elsewhere, by `unlikelihood`.

    :param beneficial:
        `[B]` bool.
    :param sharper:
        What the teacher's scores are multiplied by where it is avoided. The rest as in `unlikelihood`.
    :param temperature:
        Divides both sides' scores where the teacher is followed (see `losses.listwise_kl`).
    :returns:
        `[B]`.
    """
    return torch.where(
        beneficial,
        losses.listwise_kl(student, teacher, mask, student_temperature=temperature, teacher_temperature=temperature),
        unlikelihood(student, teacher * sharper, positive, mask),
    )


def quality(scores: np.ndarray, positive: np.ndarray) -> float:
    r"""
    How well a model knows a query's labels, $\log \sum_{i \in P} p_i$.

    :param scores:
        `[n]`, NaN where missing.
    :param positive:
        `[n]` bool.
    :returns:
        At most 0; minus infinity without a scored positive.
    """
    known = ~np.isnan(scores)
    wrong, right = (scores[known & side].astype(np.float64) for side in (~positive, positive))
    if not len(right):
        return -np.inf
    # The probability itself would round to 1 where the model is sure.
    return float(-np.logaddexp(0.0, np.logaddexp.reduce(wrong, initial=-np.inf) - np.logaddexp.reduce(right)))


def accumulated_degradation(figures: list[float]) -> float:
    r"""
    How much was lost on the way, $\sum_t \max(0, m_{t-1} - m_t)$.

    :param figures:
        A metric before the first stage and after each.
    """
    return float(sum(max(0.0, before - after) for before, after in pairwise(figures)))


class KnowledgeFiltration(TeacherObjective):
    r"""
    Learns from a teacher where it knows the labels better than the last stage's student, and away from it elsewhere.

    $$L = \begin{cases} \mathrm{KL}(p \| q) & Q_T > Q_{old} \\
    -\sum_{i \notin P} \tilde p_i \log(1 - q_i) & \text{otherwise} \end{cases}, \quad Q = \log \sum_{i \in P} p_i$$

    (see `filtration`, `unlikelihood`; Zhang et al. 2023, section 3.) The split is fixed when the stage opens, and again
    at each refresh. Queries without a positive have none, and do not count. A stage's `temperature` divides the
    divergence's scores, not the split's. A teacher that is worse than none is followed nowhere (ours).

    :param teacher:
        Name of a teacher that scores lists or gives vectors; not of one in the loop.
    :param teacher_scale:
        Factor on the similarities of a teacher that gives vectors.
    :param calibrate:
        Divide the teacher's scores, and for the split the student's, by temperatures that are fitted to the labels of
        the stage's lists (see `temperature.fitted_temperature`; ours): raw scales would decide the split. In $\tilde p$
        the teacher's are divided by their mean spread over a list: of a teacher that is worse than none, whom no query
        follows, fitted scores would be flat. False takes them as they are, cosines as cosines.
    :param live:
        Split by the student as it is at each step, not by that of the stage before (ours).

    ```yaml
    - {type: retort.trainers.methods.ckd.KnowledgeFiltration, init_parameters: {teacher: second}, weight: 0.333}
    ```
    """

    needs_lists = True
    needs_positives = True
    divergence = True

    def __init__(self, *, teacher: str, teacher_scale: float = 1.0, calibrate: bool = True, live: bool = False) -> None:
        super().__init__(teacher=teacher, teacher_scale=teacher_scale)
        self.calibrate, self.live = calibrate, live

    def open(self, context: Context, lists: CandidateLists | None) -> dict[str, Tensor]:
        """
        Split the stage's queries, and fit temperatures.

        :returns:
            `beneficial`, `[q]`; what scores are divided by: the teacher's by `temperature` and `spread`, the student's
            by `own`.
        :raises RecipeError:
            If the stage has no mined lists, or the teacher is in the loop.
        """
        teacher = self.mined_scores(context, lists, str(self.teacher))
        assert lists is not None  # noqa: S101 - for the type checker
        used = ~np.isnan(teacher)
        student = np.full(len(used), np.nan, dtype=np.float32)
        scale = np.float32(context.scale("student"))
        student[used] = context.scores("student", lists.owners[used], lists.rows[used]) * scale
        cuts = lists.offsets[1:-1]
        positive = np.split(lists.labels == 1, cuts)
        taught, own = (np.split(scores, cuts) for scores in (teacher, student))
        temperature, spread, students = 1.0, 1.0, 1.0
        if self.calibrate:
            pairs = [list(zip(scores, positive, strict=True)) for scores in (taught, own)]
            temperature, students = map(fitted_temperature, pairs)
            spread = mean_spread(pairs[0]) or 1.0
        useful = _better_than_none(temperature, spread)
        better = [
            useful and quality(t / temperature, p) > quality(s / students, p)
            for t, s, p in zip(taught, own, positive, strict=True)
        ]
        found = {"temperature": temperature, "spread": spread, "own": students}
        return {"beneficial": torch.tensor(better)} | {name: torch.tensor(value) for name, value in found.items()}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:
        """Lists with a scored positive and another scored document count."""
        scored = self.scored(batch, teacher)
        positive = scored & (batch.labels == 1)
        return {"filtration": positive.any(-1) & (scored & ~positive).any(-1)}

    def compared(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Compared:
        """Scores of each query's list, the teacher's calibrated."""
        mask = self.scored(batch, ctx.teacher)
        teacher = self.list_teacher(output, batch, ctx).masked_fill(~mask, 0.0) / ctx.state["temperature"]
        return output.list_scores(batch), teacher, mask

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query; the share of beneficial ones is logged."""
        student, teacher, mask = self.compared(output, batch, ctx)
        positive = (batch.labels == 1) & mask
        if self.live:
            both = (teacher, student.detach() / ctx.state["own"])
            shares = (losses.log_distribution(scores, mask).exp() for scores in both)
            known, own = ((share * positive).sum(-1) for share in shares)
            beneficial = (known > own) & _better_than_none(ctx.state["temperature"], ctx.state["spread"])
        else:
            beneficial = ctx.state["beneficial"][batch.list_rows]
        counts = self.valid(batch, ctx.teacher)["filtration"]
        ctx.logged_terms["beneficial"] = (beneficial.to(student.dtype), counts)
        sharper = ctx.state["temperature"] / ctx.state["spread"]
        tau = 1.0 if ctx.temperature is None else ctx.temperature
        teacher = teacher.to(student.dtype)
        return {"filtration": filtration(student, teacher, beneficial, positive, mask, sharper, tau)}


def _better_than_none(temperature: Any, spread: Any) -> Any:
    """Tell whether the fit of a teacher's temperature has not ended at its bound, where scores are flat."""
    return temperature <= 0.9 * MOST * spread
