# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
CERBERUS: one body, one head for each teacher (Matsubara et al. 2022, arXiv 2201.05767).

An ensemble of different teachers is better than any of them. The mean of their scores hides where they differ; heads
of their own keep it, over a body that they share. `create.with_heads` and `create.ranker_with_heads` make such
students. The paper ranks answers with a cross-encoder, and publishes its architecture, not its loss: that is ours.
"""

from __future__ import annotations

from typing import Any

import torch

from retort.students.modules.heads import HeadsOfOneBody
from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.objectives import TeacherObjective
from retort.trainers.roles import Compared, Masks, ModelInfo, StepContext, Values


class HeadKL(TeacherObjective):
    r"""
    Each head's divergence from its own teacher over candidate lists, and its loss on the labels.

    $$L = \frac1k \sum_j \tau_j^2 \, \mathrm{KL}(\mathrm{softmax}(t_j / \tau_j) \,\|\, \mathrm{softmax}(s_j / \tau_j))
    - \alpha \log \sum_{i \in P} \mathrm{softmax}(s_j)_i$$

    where $s_j$ are head $j$'s scores, $t_j$ its teacher's, $P$ the positives. No head sees another's teacher, so that
    teachers' scales need not fit each other; the body gets the mean of the heads' gradients. A query of which a teacher
    has no scores is learned by the other heads. A stage's `weighting` takes the place of $1/k$.

    :param teacher:
        Names of the teachers, one for each head, in the heads' order. A name may come again.
    :param temperature:
        $\tau$: a number, or one for each name. A stage's `temperature` takes its place; one that looks at scores sees
        the first of a teacher's heads.
    :param label_weight:
        $\alpha$; 0 leaves labels out.
    :param teacher_scale:
        As in `TeacherObjective`.
    :raises ValueError:
        If a temperature is missing or not above 0, or the student has not as many heads as there are names.

    ```yaml
    - type: retort.trainers.methods.cerberus.HeadKL
      weight: 1.0
      init_parameters: {teacher: [dense, words, ranker], temperature: {dense: 2.0, words: 4.0, ranker: 2.0}}
    ```
    """

    needs_lists = True
    divergence = True
    views = ("head",)

    def __init__(
        self,
        *,
        teacher: str | list[str],
        temperature: float | dict[str, float] = 2.0,
        label_weight: float = 0.5,
        teacher_scale: float | None = None,
    ) -> None:
        super().__init__(teacher=teacher, teacher_scale=teacher_scale)
        self.of_heads = [teacher] if isinstance(teacher, str) else list(teacher)
        self.label_weight = label_weight
        self.temperatures = temperature if isinstance(temperature, dict) else dict.fromkeys(self.of_heads, temperature)
        if self.temperatures.keys() != set(self.of_heads) or not all(tau > 0 for tau in self.temperatures.values()):
            msg = f"HeadKL: temperature must have a number above 0 for {', '.join(self.each_teacher)}."
            raise ValueError(msg)

    @property
    def each_teacher(self) -> list[str]:
        """Names of the teachers, each once."""
        return list(dict.fromkeys(self.of_heads))

    def bind(self, info: ModelInfo) -> None:
        """Compare the number of heads with that of names."""
        super().bind(info)
        for module in info.student.modules():
            if isinstance(module, HeadsOfOneBody) and module.heads != len(self.of_heads):
                names = ", ".join(self.of_heads)
                msg = f"HeadKL: the student has {module.heads} heads; `teacher` names one for each, and has {names}."
                raise ValueError(msg)

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:
        """Lists of which the teacher scored two or more count; for labels, queries with a positive."""
        labels = {"head_labels": batch.has_positive} if self.label_weight else {}
        return {"head_kl": self.scored(batch, teacher).sum(-1) > 1} | labels

    def compared(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Compared:
        """Scores of each query's list by the first of the teacher's heads."""
        head = self.of_heads.index(ctx.teacher or self.each_teacher[0])
        return output.of_head(head).list_scores(batch), self.list_teacher(output, batch, ctx), batch.mask

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query and teacher: of a teacher of several heads, that of all of them."""
        name = ctx.teacher or self.each_teacher[0]
        tau = self.temperatures[name] if ctx.temperature is None else ctx.temperature
        target = self.list_teacher(output, batch, ctx)
        heads = [number for number, owner in enumerate(self.of_heads) if owner == name]
        each = [output.of_head(number).list_scores(batch) for number in heads]
        terms = {
            "head_kl": [
                losses.listwise_kl(scores, target, batch.mask, student_temperature=tau, teacher_temperature=tau)
                for scores in each
            ]
        }
        scored = self.valid(batch, name)["head_kl"]
        ctx.logged_terms |= {f"head_kl.{n}": (kl, scored) for n, kl in zip(heads, terms["head_kl"], strict=True)}
        if self.label_weight:
            positive = batch.labels == 1
            terms["head_labels"] = [
                self.label_weight * losses.marginal_nll(scores, positive, batch.mask) for scores in each
            ]
        # The values of teachers that scored the list are averaged, whatever number of heads they have.
        known = torch.stack([self.valid(batch, owner)["head_kl"] for owner in self.of_heads])
        several = torch.stack([self.valid(batch, owner)["head_kl"] for owner in self.each_teacher])
        shares: dict[str, Any] = {
            "head_kl": several.sum(0) / known.sum(0).clamp(min=1),
            "head_labels": len(several) / len(known),
        }
        return {term: shares[term] * torch.stack(values).sum(0) for term, values in terms.items()}
