# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""KA-NMT's skeleton: a stage's teacher is followed where it knows better than the student of before, and avoided elsewhere."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.objectives import TeacherObjective
from retort.trainers.roles import Context, Masks, StepContext, Values


class KnowledgeFiltration(TeacherObjective):
    """
    Divergence from the teacher on beneficial queries; elsewhere unlikelihood of what it takes for relevant wrongly.

    Which queries are beneficial is fixed when the stage opens: where the teacher gives the positives a larger share
    than the student does as it then is.
    """

    needs_lists = True
    needs_positives = True

    def open(self, context: Context, lists: CandidateLists | None) -> dict[str, Tensor]:
        """Split the stage's queries."""
        used = ~np.isnan(lists.scores[self.teacher])
        student = np.full(len(used), np.nan, dtype=np.float32)
        student[used] = context.scores("student", lists.owners[used], lists.rows[used])
        quality = [self._quality(lists, scores) for scores in (lists.scores[self.teacher], student)]
        return {"beneficial": torch.from_numpy(quality[0] > quality[1])}

    @staticmethod
    def _quality(lists: CandidateLists, scores: np.ndarray) -> np.ndarray:
        """`[q]`: logarithm of the positives' share of each list's softmax."""
        found = []
        for start, end in zip(lists.offsets, lists.offsets[1:], strict=False):
            own, positive = scores[start:end], lists.labels[start:end] == 1
            known = ~np.isnan(own)
            best = np.logaddexp.reduce(own[known & positive]) if (known & positive).any() else -np.inf
            found.append(best - np.logaddexp.reduce(own[known]) if known.any() else 0.0)
        return np.array(found)

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:
        """Lists with a scored positive and another scored document count."""
        scored = self.scored(batch, teacher)
        return {"knowledge": (scored & (batch.labels == 1)).any(-1) & (scored.sum(-1) > 1)}

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query."""
        scores, teacher = output.list_scores(batch), self.list_teacher(output, batch, ctx)
        mask, positive = self.scored(batch, ctx.teacher), batch.labels == 1
        beneficial = ctx.state["beneficial"][batch.list_rows]
        follow = losses.listwise_kl(scores, teacher, mask)
        own, theirs = (losses.log_distribution(s, mask).exp() for s in (scores, teacher.detach()))
        wrong = (theirs * (mask & ~positive)) / (1 - (theirs * positive).sum(-1, keepdim=True)).clamp(min=1e-6)
        avoid = -(wrong * (1 - own).clamp(min=1e-6).log()).sum(-1)
        return {"knowledge": torch.where(beneficial, follow, avoid)}
