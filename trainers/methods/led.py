# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
LED: lexicon-enlightened dense retrieval (Zhang et al. 2023, arXiv 2208.13661).

A lexical retriever, SPLADE or BM25, teaches a dense one by weak signals alone: its documents are negatives, and the
order of its scores, never their size, is to be kept. The loss is `Contrastive` (`scope: in_batch`) over negatives of
several retrievers (`sampling: multiset`: what two of them found is drawn more often) + `RankConsistency`, both of
weight 1; with a ranker as a second teacher + 1.5 `ListwiseKL` at temperature 3, where `RankConsistency` has weight 1.2
and `positives: false`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.objectives import TeacherObjective
from retort.trainers.roles import Masks, StepContext, Values
from retort.trainers.runtime.errors import RecipeError


def rank_consistency(student: Tensor, pairs: Tensor, margin: float = 0.0) -> Tensor:
    r"""
    Hinge on the order of pairs.

    $$L_{ij} = \max(0, m - (s_i - s_j))$$

    where the teacher puts $i$ before $j$. With $m = 0$ equal scores cost nothing, so it needs a contrastive loss beside
    it.

    :param student:
        `[B, N]` student scores.
    :param pairs:
        `[B, N, N]` bool: the former is to come before the latter.
    :param margin:
        $m$.
    :returns:
        `[B, N, N]`; 0 for what is no pair.
    """
    return (margin - (student[:, :, None] - student[:, None, :])).relu().masked_fill(~pairs, 0.0)


class RankConsistency(TeacherObjective):
    r"""
    The order of a lexical teacher's scores over each list, as a hinge; mean over all pairs of the step.

    $$L = \frac{1}{|O|} \sum_{(i, j) \in O} \max(0, m - (s_i - s_j)), \quad
    O = \{(i, j) : t_i > t_j, t_i - t_j \ge g\}$$

    As the official code, but that ties are no pairs: the code keeps them in the order of its sort.

    :param teacher:
        Name of the teacher; scores or mere ranks will do, and so will vectors. It is cached: teachers in the loop score
        too late to count pairs.
    :param margin:
        $m$, in the student's scaled scores; 0 in the paper.
    :param min_gap:
        $g$, in the teacher's scores; 0 in the paper. Near-ties are noise, and each pair counts alike.
    :param positives:
        Let positives take part at the teacher's rank (in the code `with_pos`). The code's recipe without a ranker does,
        the one with a ranker does not.
    :param protect_positives:
        Leave out pairs that put another document before a positive (ours), which work against the labels.
    :raises ValueError:
        If the margin or the gap is below 0.

    ```yaml
    - {type: retort.trainers.methods.led.RankConsistency, init_parameters: {teacher: bm25}, weight: 1.0}
    ```
    """

    needs_lists = True
    takes_ranks = True

    def __init__(
        self,
        *,
        teacher: str,
        margin: float = 0.0,
        min_gap: float = 0.0,
        positives: bool = True,
        protect_positives: bool = False,
    ) -> None:
        super().__init__(teacher=teacher)
        if margin < 0 or min_gap < 0:
            msg = f"RankConsistency: margin and min_gap are at least 0; they are {margin} and {min_gap}."
            raise ValueError(msg)
        self.margin, self.min_gap = margin, min_gap
        self.positives, self.protect_positives = positives, protect_positives
        self.takes_ranks = min_gap == 0

    def pairs(self, batch: CandidateBatch) -> Tensor:
        """
        Find what the teacher puts before what.

        :returns:
            `[B, N, N]` bool.
        :raises RecipeError:
            If the teacher is in the loop.
        """
        name = str(self.teacher)
        if name not in {*batch.teacher_scores, *batch.teacher_vectors}:
            msg = f"RankConsistency: teacher {name!r} is in the loop; name one that is asked before training."
            raise RecipeError(msg)
        if name in batch.teacher_scores:
            scores = batch.teacher_scores[name]
        else:  # at the teacher's own scale: `min_gap` is in its scores
            scores = self._compared_by(name, batch).gather(1, batch.index)
        positive = batch.labels == 1
        pairs = losses.ordered_pairs(scores, batch.mask if self.positives else batch.mask & ~positive)
        if self.min_gap > 0:
            pairs = pairs & (scores[:, :, None] - scores[:, None, :] >= self.min_gap)
        if self.protect_positives:
            pairs = pairs & ~(positive[:, None, :] & ~positive[:, :, None])
        return pairs

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:  # noqa: ARG002
        """One value a pair of places."""
        values = rank_consistency(output.list_scores(batch), self.pairs(batch), self.margin)
        return {"rank_consistency": values.flatten()}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:  # noqa: ARG002
        """Pairs that the teacher orders count."""
        return {"rank_consistency": self.pairs(batch).flatten()}
