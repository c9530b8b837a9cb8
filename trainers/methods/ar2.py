# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
AR2: adversarial retriever-ranker (Zhang et al. 2022, arXiv 2110.03611).

Retriever and ranker learn in turns on what the retriever finds now: a stage's `refresh` renews the lists, a live
teacher is the ranker, and `TeacherContrastive` with a `turn` trains it, before each stretch of the retriever's. That
one learns from the term below and from `ListwiseKL`, which is the paper's regulariser: the cross-entropy
$H(p_D, p_G)$ less the ranker's own entropy, which moves nothing. Without `TeacherContrastive` the ranker is frozen;
with weight 0 the term below is gone.

The paper's retriever scores by plain dot products: give the student `similarity_fn_name: dot`, whose scores are not
scaled, as the recipe `ar2` does. Cosines, as most pretrained models want them, are multiplied by 20 (`training.scale`).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.objectives import TeacherObjective, one_of
from retort.trainers.roles import Masks, StepContext, Values


class Adversarial(TeacherObjective):
    r"""
    The retriever looks for documents that the ranker takes for as good as the positive.

    With $r_i = \log \sigma(D_+ - D_i)$ from the ranker's scores, which carry no gradient:

    $$J_{paper} = \sum_{i \in N} p_G(i) \, r_i, \quad J_{code} = \sum_{i \in \{+\} \cup N} r_i \log p_G(i)$$

    where $p_G$ is the retriever's distribution over the negatives $N$ alone (paper, eq. 9 and 10), or over the whole
    list (official code), which acts like a second distillation: the two can pull a document in opposite directions.

    :param teacher:
        Name of the ranker.
    :param form:
        `paper` or `code`.
    :param reduction:
        `mean` over the queries that count; `sum`, as in the official code, weighs the term by how many they are.
    :param teacher_scale:
        As in `TeacherObjective`.

    ```yaml
    - {type: retort.trainers.methods.ar2.Adversarial, init_parameters: {form: paper}, weight: 0.5}
    ```
    """

    needs_positives = True
    needs_lists = True

    def __init__(
        self,
        *,
        teacher: str,
        form: Literal["paper", "code"] = "paper",
        reduction: Literal["mean", "sum"] = "mean",
        teacher_scale: float | None = None,
    ) -> None:
        super().__init__(teacher=teacher, teacher_scale=teacher_scale)
        self.form = one_of("form", form, ("paper", "code"))
        self.reduction = one_of("reduction", reduction, ("mean", "sum"))

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query. Logs the student's entropy."""
        own, ranker = output.list_scores(batch), self.list_teacher(output, batch, ctx)
        positive, negative = self._judged(batch, ctx.teacher)
        ctx.logged_terms["entropy"] = (losses.entropy(own, batch.mask), batch.mask.sum(-1) > 1)
        values = adversarial(own, ranker, positive, negative, form=self.form)
        if self.reduction == "sum":  # of what is 0 for lists that do not count: the mean over all, times all
            values = values * ctx.queries
        return {"adversarial": values}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:
        """Lists with a scored positive and a scored negative count; for a sum all do."""
        positive, negative = self._judged(batch, teacher)
        usable = positive.any(-1) & negative.any(-1)
        return {"adversarial": torch.ones_like(usable) if self.reduction == "sum" else usable}

    def _judged(self, batch: CandidateBatch, teacher: str | None) -> tuple[Tensor, Tensor]:
        scored = self.scored(batch, teacher)
        return scored & (batch.labels == 1), scored & (batch.labels != 1)


def adversarial(retriever: Tensor, ranker: Tensor, positive: Tensor, negative: Tensor, *, form: str) -> Tensor:
    """
    Compute `Adversarial`.

    :param retriever:
        `[B, N]` scores.
    :param ranker:
        `[B, N]` scores; no gradient reaches them.
    :param positive:
        `[B, N]` bool; of several, the one that the ranker likes best stands for the positive.
    :param negative:
        `[B, N]` bool.
    :param form:
        `paper` or `code`.
    :returns:
        `[B]`; 0 for lists without a positive or without a negative.
    """
    usable = (positive.any(-1) & negative.any(-1))[:, None]
    over = usable & (negative if form == "paper" else positive | negative)
    low = torch.finfo(retriever.dtype).min
    best = ranker.detach().masked_fill(~positive, low).amax(-1, keepdim=True)
    reward = F.logsigmoid((best - ranker.detach()).masked_fill(~over, 0.0))
    logs = retriever.masked_fill(~over, low).masked_fill(~usable, 0.0).log_softmax(-1)
    values = logs.exp() * reward if form == "paper" else reward * logs
    return values.masked_fill(~over, 0.0).sum(-1)
