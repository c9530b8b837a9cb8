# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""ADAM's skeleton: dark examples are derived from a list's texts, and queries that the teacher is sure of learn them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.objectives import TeacherObjective
from retort.trainers.roles import Context, Derived, Masks, StepContext, TextRequest, TextTransform, Values
from retort.trainers.runtime.rng import rng_for

REINFORCED, NOISY = 1, 2
DARK_LISTS = 2  # different ones a query, so that a teacher is not asked without end


class DarkExamples(TextTransform):
    """Puts words of the positive into each negative, and leaves words of the positive out."""

    rewrites = False
    derives = True

    def derived(self, request: TextRequest) -> list[Derived]:
        """Give a reinforced negative for each negative, and one noisy positive."""
        if not request.positive.any():
            return []
        rng = rng_for("dark", request.query, request.epoch % DARK_LISTS)
        positive = request.documents[int(request.positive.argmax())].split()
        kept = rng.random(len(positive)) < 0.5
        negatives = [t.split() for t, p in zip(request.documents, request.positive, strict=True) if not p]
        mixed = [" ".join([*words[: -len(words) // 3], *positive[: len(words) // 3]]) for words in negatives]
        noisy = " ".join(word for word, keep in zip(positive, kept, strict=True) if keep)
        return [*(Derived(text, REINFORCED) for text in mixed), Derived(noisy, NOISY)]


class DarkKL(TeacherObjective):
    """Divergence over the positive and its dark examples, for the queries of which the teacher is surer than a quantile."""

    needs_lists = True
    takes_derived = True

    def __init__(self, *, teacher: str, keep: float = 0.5) -> None:
        super().__init__(teacher=teacher)
        self.keep = keep

    def open(self, context: Context, lists: CandidateLists | None) -> dict[str, Tensor]:
        """Fix which queries count: by the teacher's confidence in the positive, over the whole stage."""
        sure = [_confidence(own[~np.isnan(own)]) for own in np.split(lists.scores[self.teacher], lists.offsets[1:-1])]
        return {"counts": torch.tensor(sure) >= float(np.quantile(sure, 1 - self.keep))}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:
        """All lists count that have dark examples; those of unsure queries weigh nothing."""
        return {"dark_kl": self._dark(batch).sum(-1) > 1}

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query."""
        teacher = self.list_teacher(output, batch, ctx)
        values = losses.listwise_kl(output.list_scores(batch), teacher, self._dark(batch))
        ctx.logged_terms["dark"] = (ctx.state["counts"][batch.list_rows].float(), batch.has_positive)
        return {"dark_kl": values * ctx.state["counts"][batch.list_rows]}

    def _dark(self, batch: CandidateBatch) -> Tensor:
        standard = batch.index.shape[1] - batch.derived_candidates
        derived = torch.arange(batch.index.shape[1], device=batch.index.device) >= standard
        return batch.mask & (derived | (batch.labels == 1))


def _confidence(scores: np.ndarray) -> float:
    """Give the softmax's share of the first score, the positive's."""
    return float(np.exp(scores[0] - np.logaddexp.reduce(scores))) if len(scores) else 0.0
