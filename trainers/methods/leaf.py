# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
LEAF: teacher-aligned embedding regression (Vujanic & Rueckstiess 2025, arXiv 2509.12539).

The student reproduces its teacher's vectors, so that the teacher's index may be searched with the student's queries.
It needs no labels, no negatives, no large batches: each query or document (`batches: texts`) is an example of its own.
A linear head takes the student's width to the teacher's (`dim` of its maker); unlike the projection of `Alignment` it
stays in the student. What else the teacher's vectors are good for, cut dimensions and few bits, the student inherits as
far as it comes near.

`head: fitted` is ours: the head starts where least squares put it.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from retort.students.encoding import encode_parts
from retort.students.towers import SIDES, Side, normalizes, route
from retort.students.vectors import unit
from retort.trainers.candidates.lists import CandidateLists, texts_of
from retort.trainers.objectives import Alignment, one_of
from retort.trainers.roles import Context, Masks, ModelInfo, StepContext, Values
from retort.trainers.runtime.rng import rng_for

logger = logging.getLogger(__name__)

SAMPLE = 4096  # texts
FEWEST = 4  # dimensions of what enters the head, for each text that it is fitted to
RIDGE = 1e-2  # of few texts it keeps the head from learning them by heart

Head = Literal["given", "fitted"]


def rank_floor(targets: np.ndarray, width: int) -> float:
    r"""
    About the least `VectorRegression` that vectors in a subspace of `width` dimensions can reach on unit vectors.

    $$\frac{1}{n} \sum_i 2 - 2 \| P y_i \|$$

    where $P$ projects on the `width` directions in which the targets' squares are largest. What a linear head gives
    lies in as many dimensions as its input has, whatever the trunk; one with a bias adds a direction.

    :param targets:
        `[n, d]` vectors of the teacher; they are normalised.
    :param width:
        Dimensions of the subspace.
    :returns:
        0 or above; 0 for a subspace that is wide enough.
    """
    targets = unit(targets)
    if width >= min(targets.shape):
        return 0.0
    directions = np.linalg.svd(targets, full_matrices=False)[2][:width]
    return float(np.mean(2 - 2 * np.linalg.norm(targets @ directions.T, axis=1)))


def least_squares(
    states: np.ndarray, targets: np.ndarray, *, ridge: float = RIDGE, bias: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    r"""
    The linear head that comes nearest to the teacher's vectors, for a trunk that stands still.

    $$W, b = \arg\min \sum_i \| h_i W + b - y_i \|^2 + \lambda (\| W \|^2 + \| b \|^2)$$

    :param states:
        `[n, h]` what enters the head.
    :param targets:
        `[n, d]` vectors of the teacher.
    :param ridge:
        $\lambda$.
    :param bias:
        Whether there is a $b$; without, it is 0.
    :returns:
        $W$ `[h, d]` and $b$ `[d]`, float64.
    """
    wide = np.concatenate([states, np.full((len(states), 1), float(bias))], axis=1, dtype=np.float64)
    solved = np.linalg.solve(wide.T @ wide + ridge * np.eye(wide.shape[1]), wide.T @ targets.astype(np.float64))
    return solved[:-1], solved[-1]


class VectorRegression(Alignment):
    r"""
    Squared distance between the student's vectors and the teacher's, for queries and documents.

    $$L = \frac{1}{n} \sum_i \| y_i - \hat y_i \|_2^2$$

    over all texts alike, summed over dimensions; $2 - 2 \cos$ if both are normalised. (Vujanic & Rueckstiess 2025; that
    it is squared is from secondary sources.) Where the student normalises its vectors, the teacher's are normalised.
    Each side's mean cosine is logged.

    :param teacher:
        Name of a teacher that gives vectors. Give the student its prompts: both are to see the same text.
    :param head:
        How the student's head starts as the stage begins. `given`: as it is, from its maker or from the stage before.
        `fitted`: by `least_squares` over a sample of the data's texts, which the trunk as it is then reads.

    ```yaml
    - {type: retort.trainers.methods.leaf.VectorRegression, init_parameters: {teacher: teacher, head: fitted}}
    ```
    """

    def __init__(self, *, teacher: str, head: Head = "given") -> None:
        super().__init__(teacher=teacher, distance="squared")
        self.head: Head = one_of("head", head, ("given", "fitted"))
        self._widths: dict[Side, int] = {}
        self._unit: dict[Side, bool] = {}

    def bind(self, info: ModelInfo) -> None:
        """
        Note in how many dimensions the head's vectors lie.

        :raises ValueError:
            If the student's vectors are not as long as the teacher's, or there is no head to be fitted.
        """
        super().bind(info)
        heads = {side: _heads(info.student, side) for side in SIDES}
        self._widths = {
            s: min(h.in_features + (h.linear.bias is not None) for h in own) for s, own in heads.items() if own
        }
        self._unit = {side: normalizes(info.student, side) for side in SIDES}
        if self.head == "fitted" and not self._widths:
            msg = "VectorRegression: head: fitted needs a linear head: set the maker's dim, or head: given."
            raise ValueError(msg)

    def warm_start(self, student: Any, context: Context) -> None:
        """Fit the head, or that of each side; one that does not learn is left alone."""
        if self.head != "fitted":
            return
        found: dict[int, tuple[Any, list[tuple[np.ndarray, np.ndarray]]]] = {}
        for side in SIDES:
            for head in _heads(student, side)[-1:]:
                if not head.linear.weight.requires_grad:
                    continue
                found.setdefault(id(head), (head, []))[1].append(self._sample(student, head, side, context))
        for head, parts in found.values():
            states, targets = (np.concatenate(own) for own in zip(*parts, strict=True))
            if FEWEST * len(states) <= head.in_features:
                logger.warning("LEAF: %d texts are too few to fit the head; it starts as it is.", len(states))
                continue
            weight, bias = least_squares(states, targets, bias=head.linear.bias is not None)
            with torch.no_grad():
                head.linear.weight.copy_(torch.from_numpy(weight.T))
                if head.linear.bias is not None:
                    head.linear.bias.copy_(torch.from_numpy(bias))
            logger.info("LEAF: the head was fitted to %d texts.", len(states))

    def _sample(self, student: Any, head: Any, side: Side, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Give what enters the head for a sample of a side's texts, and the teacher's vectors of these."""
        store = context.data.queries if side == "query" else context.data.corpus
        rows = np.sort(rng_for("leaf head", store.hash).permutation(len(store))[: SAMPLE // 2])
        targets = np.asarray(context.vectors(str(self.teacher), side), dtype=np.float32)[rows]
        there = ~np.isnan(targets).any(1)
        rows, targets = rows[there], targets[there]
        if normalizes(student, side):
            targets = unit(targets)
        if not len(rows):
            return np.zeros((0, head.in_features)), targets

        def keep(_: Any, given: tuple[dict[str, Tensor]]) -> None:
            given[0]["headless_embeddings"] = given[0]["sentence_embedding"]

        was_training, hook = student.training, head.register_forward_pre_hook(keep)
        try:
            with torch.no_grad():
                parts = encode_parts(student.eval(), texts_of(store, rows), side, views=["headless"])
        finally:
            hook.remove()
            student.train(was_training)
        return parts["headless"].float().cpu().numpy(), targets

    def open(self, context: Context, lists: CandidateLists | None) -> dict[str, Tensor]:  # noqa: ARG002
        """Say how near a head can come that is narrower than the teacher's vectors, and that lengths will differ."""
        name = str(self.teacher)
        for side in SIDES if context.teachers[name].runs != "in_loop" else ():
            targets = context.kept_vectors(name, side, SAMPLE)  # of a side that is not trained there are none
            if (width := self._widths.get(side)) and (floor := rank_floor(targets, width)) > 0:
                message = "LEAF: the head's vectors lie in %d dimensions: the loss of a %s will hardly fall below %.4f."
                logger.info(message, width, side, floor)
            if not self._unit[side] and len(targets) and np.allclose(np.linalg.norm(targets, axis=1), 1, atol=1e-3):
                message = (
                    "LEAF: the teacher's vectors have length 1, the student's of a %s have not: set normalize: true."
                )
                logger.warning(message, side)
        return {}

    def forward(self, output: Any, batch: Any, ctx: StepContext) -> Values:
        """One value a text: queries, then documents."""
        theirs = [
            torch.nn.functional.normalize(vectors, dim=-1) if self._unit.get(side) else vectors
            for side, vectors in zip(SIDES, batch.teacher_vectors[str(self.teacher)], strict=True)
        ]
        batch = replace(batch, teacher_vectors={str(self.teacher): tuple(theirs)})
        pairs = zip(SIDES, super().valid(batch).values(), (output.queries, output.documents), theirs, strict=True)
        for side, counts, own, vectors in pairs:
            ctx.logged_terms[f"cosine_{side}"] = (torch.cosine_similarity(own.detach(), vectors, dim=-1), counts)
        return {"leaf": torch.cat([*super().forward(output, batch, ctx).values()])}

    def valid(self, batch: Any, teacher: str | None = None) -> Masks:
        """All texts count that the teacher gave a vector of."""
        return {"leaf": torch.cat([*super().valid(batch, teacher).values()])}


def _heads(student: Any, side: Side) -> list[Any]:
    """List a side's linear layers; one with an activation is none."""
    from sentence_transformers.base.modules import Dense

    layers = (module for module in route(student, side) if isinstance(module, Dense))
    return [layer for layer in layers if isinstance(layer.activation_function, torch.nn.Identity)]
