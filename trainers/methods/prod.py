# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
PROD: progressive distillation (Lin et al. 2023, arXiv 2209.13335).

Stronger and stronger teachers, each trained on the pool of its time (`TrainedInRunRanker`), then rounds on the queries
that still confuse the student. A stage's loss is $0.1 L_h + 0.9 L_s + 1.0 L_r$: `Contrastive` on the list, `ListwiseKL`
at temperature 4, and the regulariser below at the same. What stands here is what the other methods do not share.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from retort.trainers import losses, roles
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.candidates.dense import DenseMiner
from retort.trainers.candidates.mining import mine
from retort.trainers.objectives import one_of
from retort.trainers.roles import Compared, Masks, Objective, StepContext, Values
from retort.trainers.runtime.rng import rng_for

LEAST_BLOCK = 256  # queries that the teacher is asked at a time
DEPTHS = {"windows": 200, "above": 100}  # what each rule's teacher orders, of what the student finds


class AnchorKL(Objective):
    r"""
    Divergence of the student's lists from those of its own frozen copy, so that a stage forgets less of the last.

    $$L_r = \tau^2 \sum_j p_j \log \frac{p_j}{q_j},
    \quad p = \mathrm{softmax}(S_{old}/\tau),\; q = \mathrm{softmax}(S/\tau)$$

    (PROD's regulariser, `LwF` in its code.) The copy is taken when the stage starts, and is in evaluation mode.

    :param temperature:
        $\tau$.

    ```yaml
    anchor: start                                  # the copy is made as the stage begins
    objectives:
      - {type: retort.trainers.methods.prod.AnchorKL, init_parameters: {temperature: 4.0}}
    ```
    """

    needs_lists = True
    needs_anchor = True
    divergence = True

    def __init__(self, *, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def compared(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Compared:
        """Scores of each query's list."""
        if ctx.anchor is None:
            msg = "AnchorKL needs the stage's anchor."
            raise RuntimeError(msg)
        return output.list_scores(batch), ctx.anchor.list_scores(batch), batch.mask

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query."""
        tau = self.temperature if ctx.temperature is None else ctx.temperature
        compared = self.compared(output, batch, ctx)
        values = losses.listwise_kl(*compared, student_temperature=tau, teacher_temperature=tau)
        return {"anchor_kl": values}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:  # noqa: ARG002
        """Lists of two candidates or more count."""
        return {"anchor_kl": batch.mask.sum(-1) > 1}


class ConfusingQueries(roles.Selector):
    """
    Selects the queries that the student confuses and the teacher does not (PROD's data progression).

    The student searches the corpus, the teacher orders what it found; compared are the ranks, from 1, of the first
    relevant document. `windows` (MS MARCO in the official code): the student's is 2 to `window`, the teacher's 1.
    `above` (Natural Questions there): the teacher's is smaller than the student's and at most `window`.

    With `windows` the teacher is asked about queries alone whose rank lies in the window, but about all `depth`
    documents of each: it must put a relevant one above everything that the student found. Fewer documents cost less,
    and let queries through for which the teacher likes a document further down better.

    :param teacher:
        The teacher that orders.
    :param rule:
        `windows` or `above`.
    :param window:
        See above.
    :param depth:
        How many documents the student finds and the teacher orders, at least `window`; None takes the official code's
        200 for `windows`, and 100 for `above`.
    :param model:
        Who searches: `student`, or a teacher with vectors.
    :raises ValueError:
        If there is no such rule, or window and depth do not fit it.

    ```yaml
    selector:
      type: retort.trainers.methods.prod.ConfusingQueries
      init_parameters: {rule: windows, window: 15, depth: 200}
    ```
    """

    def __init__(
        self,
        *,
        teacher: str,
        rule: Literal["windows", "above"] = "windows",
        window: int = 15,
        depth: int | None = None,
        model: str = "student",
    ) -> None:
        self.teacher = teacher
        self.rule = one_of("rule", rule, ("windows", "above"))
        self.window = window
        least = 2 if rule == "windows" else 1
        if window < least:
            msg = f"window must be at least {least} for rule {rule}; it is {window}."
            raise ValueError(msg)
        depth = DEPTHS[rule] if depth is None else depth
        if rule == "windows" and depth < window:
            msg = f"depth must be at least the window, {window}; it is {depth}."
            raise ValueError(msg)
        self._miner = DenseMiner(model=model, depth=depth)
        self.teachers = (teacher, *self._miner.teachers)

    def asked_pairs(self, queries: int, listed: int) -> int:  # noqa: ARG002
        """All that is mined, of queries in the window."""
        return queries * (self._miner.depth or 0)

    def keep(self, context: roles.Context, enough: int) -> np.ndarray:
        """
        Choose the queries.

        :param context:
            Data and models.
        :param enough:
            How many the stage can use. The teacher is asked in random order, until there are so many.
        :returns:
            `[q]` bool: all that were found, a few more than enough among them.
        """
        mined = mine(self._miner, context)[0]
        found = np.where(mined < 0, -1, context.data.corpus.first_rows[mined])
        relevant = relevant_in(found, context.data.positives())
        student = first_ranks(relevant)
        # The teacher is asked only where its best answer would do.
        best = confusing(student, np.ones_like(student), rule=self.rule, window=self.window)
        open_rows = np.flatnonzero(best & np.isfinite(student))
        # Another order each round. ProcessGroup, not weights, which another number of processes would round otherwise.
        order = rng_for("confusing", student.tobytes()).permutation(open_rows)
        size = max(LEAST_BLOCK, enough // 4)
        kept = np.zeros(len(student), dtype=bool)
        for start in range(0, len(order), size):
            rows = np.sort(order[start : start + size])
            there = found[rows] >= 0
            scores = np.full(there.shape, np.nan, dtype=np.float32)
            scores[there] = context.scores(self.teacher, rows[np.nonzero(there)[0]], found[rows][there])
            # Equal scores keep the student's order; what has no score comes last.
            first = -np.nan_to_num(scores, nan=-np.inf)
            ordered = np.take_along_axis(relevant[rows], np.argsort(first, axis=1, kind="stable"), axis=1)
            kept[rows] = confusing(student[rows], first_ranks(ordered), rule=self.rule, window=self.window)
            if kept.sum() >= enough:
                break
        return kept


def confusing(student: np.ndarray, teacher: np.ndarray, *, rule: str, window: int = 15) -> np.ndarray:
    """
    Apply a rule of `ConfusingQueries`.

    :param student:
        `[q]` ranks of the first relevant document, from 1; inf where none was found.
    :param teacher:
        The teacher's.
    :param rule:
        `windows` or `above`.
    :param window:
        See `ConfusingQueries`.
    :returns:
        `[q]` bool.
    """
    if rule == "windows":
        return (student >= 2) & (student <= window) & (teacher == 1)  # noqa: PLR2004
    return (teacher < student) & (teacher <= window)


def relevant_in(found: np.ndarray, positives: list[np.ndarray]) -> np.ndarray:
    """`[q, k]` bool: which of the documents found, `[q, k]` rows, are positives of their query."""
    return np.stack([np.isin(rows, own) for rows, own in zip(found, positives, strict=True)])


def first_ranks(relevant: np.ndarray) -> np.ndarray:
    """`[q]` rank, from 1, of the first relevant one in `[q, k]` bool; inf where there is none."""
    return np.where(relevant.any(1), relevant.argmax(1) + 1.0, np.inf)
