# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
The distiller: the one module that holds everything learned, and its roles.

Whatever learns lives in it, so that wrapping, clipping, checkpoints and resuming cannot miss it. A method adds role
classes; none owns a forward pass of its own, so methods combine in one recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retort.students.encoding import encode_texts
from retort.trainers.batch import CandidateBatch

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Terms = dict[str, tuple[Tensor, Tensor]]


@dataclass
class Context:
    """Where training stands: `progress` runs from 0 to 1 within the stage."""

    stage: str
    step: int
    progress: float


@dataclass
class Spec:
    """What an objective may need to know before the first step; `teacher_similarities` are `cosine` or `dot`."""

    student_dim: int
    teacher_dims: dict[str, int]
    teacher_similarities: dict[str, str]


@dataclass
class Encoded:
    """
    A batch as the student sees it.

    :param queries:
        `[B, d]` pooled vectors.
    :param documents:
        `[U, d]` pooled vectors.
    :param scale:
        Factor on similarities: scores of normalised vectors lie in [-1, 1], too narrow for a softmax.
    :param similarity:
        `cosine` or `dot`.
    """

    queries: Tensor
    documents: Tensor
    scale: float
    similarity: str

    def in_batch_scores(self) -> Tensor:
        """`[B, U]` scores of every query against every document of the batch."""
        return similarities(self.queries, self.documents, self.similarity) * self.scale

    def list_scores(self, batch: CandidateBatch) -> Tensor:
        """`[B, N]` scores of every query against its own list."""
        return self.in_batch_scores().gather(1, batch.index)


def similarities(queries: Tensor, documents: Tensor, similarity: str) -> Tensor:
    """`[B, U]` similarities of `[B, d]` and `[U, d]`, `cosine` or `dot`."""
    if similarity == "cosine":
        queries, documents = F.normalize(queries, dim=-1), F.normalize(documents, dim=-1)
    return queries @ documents.T


class Objective(nn.Module):
    """
    A term, or several, of the loss; may own parameters.

    Subclasses set `needs_positives` where a query without a positive cannot be learned from, `needs_lists` where a
    batch of mere texts will not do, and `teacher` to the name of the teacher they learn from.
    """

    needs_positives = False
    needs_lists = False
    teacher: str | None = None

    def bind(self, spec: Spec) -> None:
        """Create what depends on dimensions; called once, before the optimiser sees the parameters."""

    def forward(self, out: Encoded, batch: CandidateBatch, ctx: Context) -> Terms:
        """
        Compute the terms.

        :param out:
            The student's vectors.
        :param batch:
            The batch.
        :param ctx:
            Where training stands.
        :returns:
            Per term its values and which of them count, both `[B]` (or any equal length).
        """
        raise NotImplementedError


class Distiller(nn.Module):
    """
    Student and objectives in one module.

    :param student:
        The model to train.
    :param objectives:
        Per stage a list of objectives with their weights.
    :param spec:
        Dimensions for the objectives.
    :param scale:
        Factor on the student's similarities (20 suits cosine, 1 suits dot products).
    :param tokens_per_chunk:
        Padded tokens of a forward pass; None takes what suits the device.
    """

    def __init__(
        self,
        student: SentenceTransformer,
        objectives: dict[str, list[tuple[Objective, float]]],
        spec: Spec,
        *,
        scale: float,
        tokens_per_chunk: int | None = None,
    ) -> None:
        super().__init__()
        self.roles = nn.ModuleDict({"student": student})
        # Prefixed: a stage may be called `train` or `type`, as a module's own attributes are.
        self.objectives = nn.ModuleDict(
            {f"stage_{stage}": nn.ModuleList(o for o, _ in pairs) for stage, pairs in objectives.items()}
        )
        self.weights = {stage: [weight for _, weight in pairs] for stage, pairs in objectives.items()}
        self.scale = scale
        self.tokens_per_chunk = tokens_per_chunk
        for pairs in objectives.values():
            for objective, _ in pairs:
                objective.bind(spec)

    @property
    def student(self) -> Any:
        """The model in training."""
        return self.roles["student"]

    def enter(self, stage: str) -> list[nn.Parameter]:
        """Turn on the gradients of what learns in this stage, turn off all others, and return the former."""
        self.requires_grad_(False)
        for part in (self.student, *self.objectives_of(stage)):
            part.requires_grad_(True)
        return [p for p in self.parameters() if p.requires_grad]

    def objectives_of(self, stage: str) -> list[Any]:
        """List a stage's objectives."""
        return list(self.objectives[f"stage_{stage}"].children())

    def forward(self, batch: CandidateBatch, ctx: Context) -> dict[str, tuple[Tensor, Tensor, float]]:
        """
        Encode the batch and compute every term of the stage.

        :param batch:
            The batch, on the right device.
        :param ctx:
            Where training stands.
        :returns:
            Per term: values, which of them count, and the objective's weight.
        """
        queries = encode_texts(self.student, batch.queries, "query", budget=self.tokens_per_chunk)
        documents = encode_texts(self.student, batch.documents, "document", budget=self.tokens_per_chunk)
        terms = {}
        # Autocast is for the encoder: scores and losses would lose digits that a softmax needs.
        with torch.autocast(queries.device.type, enabled=False):
            dtype = next(self.student.parameters()).dtype
            similarity = self.student.similarity_fn_name
            out = Encoded(queries.to(dtype), documents.to(dtype), self.scale, similarity)
            objectives = self.objectives_of(ctx.stage)
            for number, (objective, weight) in enumerate(zip(objectives, self.weights[ctx.stage], strict=True)):
                for name, (values, mask) in objective(out, batch, ctx).items():
                    # Two objectives of one kind, say with two teachers, keep their own terms.
                    terms[f"{name}#{number}" if name in terms else name] = (values, mask, weight)
        return terms


def step_loss(terms: dict[str, tuple[Tensor, Tensor, float]], counts: dict[str, float]) -> Tensor:
    r"""
    Weighted sum of the terms: $\sum_k w_k \sum_i v_{ki} / c_k$.

    :param terms:
        What the distiller gave for a part of the step's batch.
    :param counts:
        Per term the valid values of the whole step, over all parts and ranks.
    :returns:
        A scalar; terms without any valid value add 0.
    """
    parts = [
        weight * values.masked_fill(~mask, 0.0).sum() / max(counts[name], 1.0)
        for name, (values, mask, weight) in terms.items()
    ]
    return torch.stack(parts).sum()
