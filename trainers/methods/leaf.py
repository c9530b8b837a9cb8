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
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retort.students.towers import SIDES, route
from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.objectives import Alignment
from retort.trainers.roles import Context, ModelInfo, StepContext, Values

logger = logging.getLogger(__name__)

SAMPLE = 4096  # texts


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
    unit = targets / np.linalg.norm(targets, axis=1, keepdims=True).clip(min=1e-12)
    if width >= min(unit.shape):
        return 0.0
    directions = np.linalg.svd(unit, full_matrices=False)[2][:width]
    return float(np.mean(2 - 2 * np.linalg.norm(unit @ directions.T, axis=1)))


class VectorRegression(Alignment):
    r"""
    Squared distance between the student's vectors and the teacher's, for queries and documents.

    $$L = \frac{1}{n} \sum_i \| y_i - \hat y_i \|_2^2$$

    summed over dimensions; $2 - 2 \cos$ if both are normalised. (Vujanic & Rueckstiess 2025; that it is squared is from
    secondary sources.) Mean cosines are logged.

    :param teacher:
        Name of a teacher that gives vectors. Give the student its prompts: both are to see the same text.

    ```yaml
    - {type: retort.trainers.methods.leaf.VectorRegression, init_parameters: {teacher: teacher}, weight: 1.0}
    ```
    """

    def __init__(self, *, teacher: str) -> None:
        super().__init__(teacher=teacher, distance="squared")
        self._width = 0

    def bind(self, info: ModelInfo) -> None:
        """
        Note in how many dimensions the head's vectors lie.

        :raises ValueError:
            If the student's vectors are not as long as the teacher's.
        """
        from sentence_transformers.base.modules import Dense

        super().bind(info)
        heads = [m for side in SIDES for m in route(info.student, side) if isinstance(m, Dense)]
        self._width = min((head.in_features + (head.linear.bias is not None) for head in heads), default=0)

    def open(self, context: Context, lists: CandidateLists | None) -> dict[str, Tensor]:  # noqa: ARG002
        """Say how near a head of this width can come, if it is narrower than the teacher's vectors."""
        if self._width:
            targets = np.asarray(context.vectors(str(self.teacher), "document")[:SAMPLE], dtype=np.float32)
            if (floor := rank_floor(targets, self._width)) > 0:
                message = "LEAF: the head's vectors lie in %d dimensions: documents' loss will hardly fall below %.4f."
                logger.info(message, self._width, floor)
        return {}

    def forward(self, output: Any, batch: Any, ctx: StepContext) -> Values:
        """One value a text."""
        pairs = zip((output.queries, output.documents), batch.teacher_vectors[str(self.teacher)], strict=True)
        for (name, counts), (own, theirs) in zip(self.valid(batch).items(), pairs, strict=True):
            cosines = torch.cosine_similarity(own.detach(), theirs, dim=-1)
            ctx.logged_terms[name.replace("align", "cosine")] = (cosines, counts)
        return super().forward(output, batch, ctx)
