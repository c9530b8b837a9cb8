# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
The distiller: the one module that holds everything learned, and its roles.

Whatever learns lives in it, so that wrapping, clipping, checkpoints and resuming cannot miss it. A method adds role
classes; none owns a forward pass of its own, so methods combine in one recipe.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retort.students.encoding import encode_texts
from retort.students.scoring import is_ranker, score_pairs
from retort.students.sides import Side
from retort.trainers.batch import CandidateBatch
from retort.trainers.ranks import Ranks
from retort.trainers.rng import rng_for

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

Terms = dict[str, tuple[Tensor, Tensor]]
Compared = tuple[Tensor, Tensor, Tensor]
COSINE_SCALE = 20.0  # cosines lie in [-1, 1], too narrow for a softmax


@dataclass
class Context:
    """
    Where training stands.

    :param stage:
        Name of the stage.
    :param step:
        Step within it.
    :param steps:
        How many it has.
    :param seed:
        Seed of the run.
    :param ranks:
        The processes; `ranks.gather` joins what each computed of its share.
    :param temperature:
        What the stage's temperature gave for this batch and objective, a scalar or `[B, 1]`; None if it has none.
    :param anchor:
        The batch as the stage's frozen copy of the student sees it; None if there is none.
    """

    stage: str
    step: int
    steps: int
    seed: int = 0
    ranks: Ranks = field(default_factory=Ranks)
    temperature: Tensor | None = None
    anchor: Encoded | Scored | None = None

    def rng(self, *parts: object) -> np.random.Generator:
        """Return a generator of this step, the same however often and wherever it is asked for."""
        return rng_for(self.seed, self.stage, self.step, *parts)


@dataclass
class Spec:
    """
    What an objective may need to know before the first step.

    Of teachers that give vectors: their dimensions, and how these are compared (`cosine` or `dot`). `student_dim` is 0
    for a ranker.
    """

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
        Factor on similarities.
    :param similarity:
        `cosine` or `dot`.
    """

    queries: Tensor
    documents: Tensor
    scale: float
    similarity: str

    @property
    def cosine_scale(self) -> float:
        """Factor that makes a teacher's cosines comparable with these scores."""
        return self.scale if self.similarity == "cosine" else COSINE_SCALE

    def in_batch_scores(self) -> Tensor:
        """`[B, U]` scores of every query against every document of the batch."""
        return similarities(self.queries, self.documents, self.similarity) * self.scale

    def list_scores(self, batch: CandidateBatch) -> Tensor:
        """`[B, N]` scores of every query against its own list."""
        return self.in_batch_scores().gather(1, batch.index)


@dataclass
class Scored:
    """
    A batch as a ranker sees it: pairs, not vectors.

    :param scores:
        `[B, N]` scores of every query against its own list; 0 where the list is shorter.
    :param scale:
        Factor on the logits.
    """

    scores: Tensor
    scale: float = 1.0
    cosine_scale: float = COSINE_SCALE

    def list_scores(self, batch: CandidateBatch) -> Tensor:  # noqa: ARG002
        """`[B, N]` scores of every query against its own list."""
        return self.scores * self.scale


def similarities(queries: Tensor, documents: Tensor, similarity: str) -> Tensor:
    """`[B, U]` similarities of `[B, d]` and `[U, d]`, `cosine` or `dot`."""
    if similarity == "cosine":
        queries, documents = F.normalize(queries, dim=-1), F.normalize(documents, dim=-1)
    return queries @ documents.T


class Objective(nn.Module):
    """
    A term, or several, of the loss; may own parameters.

    Subclasses set `needs_positives` where a query without a positive cannot be learned from, `needs_lists` where a
    batch of mere texts will not do, `needs_vectors` where a ranker cannot be the student, `takes_ranks` where an order
    will do as a teacher's scores, `needs_anchor` where they compare with a frozen copy of the student, `divergence`
    where they compare two distributions, `teacher` to the name of the teacher they learn from, and `lr` where their own
    parameters want a learning rate other than the stage's; these do not decay.
    """

    needs_positives = False
    needs_lists = False
    needs_vectors = False
    takes_ranks = False
    needs_anchor = False
    teacher: str | None = None
    divergence = False
    lr: float | None = None

    def bind(self, spec: Spec) -> None:
        """Create what depends on dimensions; called once, before the optimiser sees the parameters."""

    def forward(self, out: Any, batch: CandidateBatch, ctx: Context) -> Terms:
        """
        Compute the terms.

        :param out:
            The student's vectors (`Encoded`) or a ranker's scores (`Scored`), of the whole batch.
        :param batch:
            The batch.
        :param ctx:
            Where training stands.
        :returns:
            Per term its values and which of them count, both `[B]` (or any equal length). What counts depends on the
            batch alone, never on `out`: it is asked for in advance.
        """
        raise NotImplementedError

    def compared(self, out: Any, batch: CandidateBatch, ctx: Context) -> Compared:
        """
        Give what a divergence between two distributions compares.

        :returns:
            The student's scores, those that it is compared with, and which take part, each `[B, N]`.
        """
        raise NotImplementedError


class Temperature(nn.Module):
    """
    What divides a stage's scores before softmaxes, the student's and the teacher's alike; may own parameters.

    `lr` is as in `Objective`.
    """

    lr: float | None = None

    def bind(self, objectives: list[Objective]) -> None:
        """Create what depends on the stage's objectives; called once, before the optimiser sees the parameters."""

    def forward(self, out: Any, batch: CandidateBatch, ctx: Context, objective: Objective) -> Tensor | None:
        """
        Compute the temperature.

        :param out:
            As for objectives.
        :param batch:
            The batch.
        :param ctx:
            Where training stands.
        :param objective:
            Whose scores it is to divide.
        :returns:
            A scalar, or one value a query, `[B, 1]`; None leaves the objective its own.
        """
        raise NotImplementedError


class Distiller(nn.Module):
    """
    Student and objectives in one module.

    :param student:
        The model to train: a bi-encoder or a ranker.
    :param objectives:
        Per stage a list of objectives with their weights.
    :param spec:
        Dimensions for the objectives.
    :param scale:
        Factor on the student's scores (20 suits cosines; 1 dot products and logits).
    :param temperatures:
        Per stage its temperature, where it has one.
    :param tokens_per_chunk:
        Padded tokens of a forward pass; None takes what suits the device.
    :param cache_gradients:
        Hold one chunk's activations at a time, for another forward pass (see `students.encoding.recomputed`).
    """

    def __init__(
        self,
        student: SentenceTransformer | CrossEncoder,
        objectives: dict[str, list[tuple[Objective, float]]],
        spec: Spec,
        *,
        scale: float,
        temperatures: dict[str, Temperature] | None = None,
        tokens_per_chunk: int | None = None,
        cache_gradients: bool = False,
    ) -> None:
        super().__init__()
        self.roles = nn.ModuleDict({"student": student})
        # Prefixed: a stage may be called `train` or `type`, as a module's own attributes are.
        self.objectives = nn.ModuleDict(
            {f"stage_{stage}": nn.ModuleList(o for o, _ in pairs) for stage, pairs in objectives.items()}
        )
        self.temperatures = nn.ModuleDict({f"stage_{stage}": t for stage, t in (temperatures or {}).items()})
        self.weights = {stage: [weight for _, weight in pairs] for stage, pairs in objectives.items()}
        self.scale = scale
        self.tokens_per_chunk = tokens_per_chunk
        self.cache_gradients = cache_gradients
        self._dim = spec.student_dim
        for pairs in objectives.values():
            for objective, _ in pairs:
                objective.bind(spec)
        for stage, temperature in (temperatures or {}).items():
            temperature.bind([objective for objective, _ in objectives[stage]])

    @property
    def student(self) -> Any:
        """The model in training."""
        return self.roles["student"]

    def drop_anchor(self) -> None:
        """Let go of the frozen copy of the student."""
        if "anchor" in self.roles:
            del self.roles["anchor"]

    def take_anchor(self, stage: str) -> None:
        """Freeze a copy of the student as it is now, if an objective of the stage with any weight needs one."""
        self.drop_anchor()
        objectives = zip(self.objectives_of(stage), self.weights[stage], strict=True)
        if any(objective.needs_anchor and weight for objective, weight in objectives):
            self.roles["anchor"] = copy.deepcopy(self.student).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Distiller:
        """Switch dropout on or off; never the anchor's, which is a fixed target."""
        super().train(mode)
        if "anchor" in self.roles:
            self.roles["anchor"].eval()
        return self

    def enter(self, stage: str) -> list[nn.Parameter]:
        """Turn on the gradients of what learns in this stage, turn off all others, and return the former."""
        self.requires_grad_(False)
        for part in (self.student, *self._around(stage)):
            part.requires_grad_(True)
        return [p for p in self.parameters() if p.requires_grad]

    def paces(self, stage: str) -> list[tuple[nn.Module, float]]:
        """List what has a learning rate of its own in this stage, with it."""
        return [(part, part.lr) for part in self._around(stage) if part.lr is not None]

    def _around(self, stage: str) -> list[Any]:
        temperature = [self.temperatures[f"stage_{stage}"]] if f"stage_{stage}" in self.temperatures else []
        return [*self.objectives_of(stage), *temperature]

    def objectives_of(self, stage: str) -> list[Any]:
        """List a stage's objectives."""
        return list(self.objectives[f"stage_{stage}"].children())

    def forward(self, batch: CandidateBatch, ctx: Context) -> dict[str, tuple[Tensor, Tensor, float]]:
        """
        Encode the batch, or score its pairs, and compute every term of the stage.

        :param batch:
            The batch, on the right device; the same one on every rank.
        :param ctx:
            Where training stands.
        :returns:
            Per term: values, which of them count, and the objective's weight; the same on every rank.
        """
        out = self._seen_by(self.student, batch, ctx.ranks)
        if "anchor" in self.roles:
            with torch.no_grad():
                ctx = replace(ctx, anchor=self._seen_by(self.roles["anchor"], batch, ctx.ranks))
        # Autocast is for the encoder: scores and losses would lose digits that a softmax needs.
        with torch.autocast(batch.index.device.type, enabled=False):
            return self._terms(out, batch, ctx)

    def counts(self, batch: CandidateBatch, ctx: Context) -> dict[str, float]:
        """Count each term's valid values without encoding anything; what is valid depends on the batch alone."""
        like = next(self.student.parameters())
        out: Encoded | Scored
        if is_ranker(self.student):
            out = Scored(like.new_zeros(batch.index.shape), self.scale)
        else:
            queries, documents = (like.new_zeros(len(texts), self._dim) for texts in (batch.queries, batch.documents))
            out = Encoded(queries, documents, self.scale, self.student.similarity_fn_name)
        if "anchor" in self.roles:
            ctx = replace(ctx, anchor=out)
        with torch.no_grad():
            return {name: float(mask.sum()) for name, (_, mask, _) in self._terms(out, batch, ctx).items()}

    def _terms(
        self, out: Encoded | Scored, batch: CandidateBatch, ctx: Context
    ) -> dict[str, tuple[Tensor, Tensor, float]]:
        terms = {}
        temperatures = self.temperatures[f"stage_{ctx.stage}"] if f"stage_{ctx.stage}" in self.temperatures else None
        objectives = self.objectives_of(ctx.stage)
        for number, (objective, weight) in enumerate(zip(objectives, self.weights[ctx.stage], strict=True)):
            if objective.needs_anchor and ctx.anchor is None:  # its weight is 0
                continue
            tau = None if temperatures is None else temperatures(out, batch, ctx, objective)
            found = {n: (v, m, weight) for n, (v, m) in objective(out, batch, replace(ctx, temperature=tau)).items()}
            if tau is not None:  # of weight 0: for the log
                each = tau.detach().expand(len(batch.queries), 1).reshape(-1)
                found["temperature"] = (each, torch.ones_like(each, dtype=torch.bool), 0.0)
            for name, term in found.items():
                # Two objectives of one kind, say with two teachers, keep their own terms.
                terms[f"{name}#{number}" if name in terms else name] = term
        return terms

    def _seen_by(self, model: Any, batch: CandidateBatch, ranks: Ranks) -> Encoded | Scored:
        if is_ranker(model):
            return Scored(self._score(model, batch, ranks), self.scale)
        queries = self._encode(model, batch.queries, "query", ranks)
        documents = self._encode(model, batch.documents, "document", ranks)
        return Encoded(queries, documents, self.scale, model.similarity_fn_name)

    def _encode(self, model: Any, texts: list[str], side: Side, ranks: Ranks) -> Tensor:
        """Encode this rank's share of the texts, and gather the vectors of all."""
        like, dealt = next(model.parameters()), ranks.deal(texts)
        own = [texts[row] for row in dealt[ranks.index]]
        if own:
            vectors = encode_texts(model, own, side, budget=self.tokens_per_chunk, recompute=self.cache_gradients).to(
                like.dtype
            )
        else:  # fewer texts than ranks
            vectors = like.new_zeros(0, self._dim, requires_grad=True)
        return ranks.gather(vectors, dealt)

    def _score(self, model: Any, batch: CandidateBatch, ranks: Ranks) -> Tensor:
        """Score this rank's share of the pairs, and gather the scores of all, `[B, N]`."""
        like, places = next(model.parameters()), batch.mask.nonzero()
        rows, columns = places[:, 0], places[:, 1]
        documents = batch.index[rows, columns].tolist()
        pairs = [(batch.queries[q], batch.documents[d]) for q, d in zip(rows.tolist(), documents, strict=True)]
        dealt = ranks.deal([query + document for query, document in pairs])
        own = [pairs[row] for row in dealt[ranks.index]]
        if own:
            scores = score_pairs(model, own, budget=self.tokens_per_chunk, recompute=self.cache_gradients).to(
                like.dtype
            )
        else:
            scores = like.new_zeros(0, requires_grad=True)
        return like.new_zeros(batch.mask.shape).index_put((rows, columns), ranks.gather(scores, dealt))


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
