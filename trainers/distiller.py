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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from retort.trainers.batches.base import CandidateBatch
from retort.trainers.encoder_output import BatchEncoder, DenseOutput, EncoderOutput, empty_output
from retort.trainers.runtime.distributed import ProcessGroup
from retort.trainers.runtime.rng import rng_for

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

Terms = dict[str, tuple[Tensor, Tensor]]
Weighted = dict[str, tuple[Tensor, Tensor, float | None]]  # None: watched, no part of the loss
Compared = tuple[Tensor, Tensor, Tensor]
STUDENT = "student"


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
    :param queries:
        Queries of the whole step, over all parts of its batch.
    :param seed:
        Seed of the run.
    :param processes:
        The processes; `processes.gather` joins what each computed of its share.
    :param temperature:
        What the stage's temperature gave for this batch and objective, a scalar or `[B, 1]`; None if it has none.
    :param anchor:
        The batch as the stage's frozen copy of the student sees it; None if there is none.
    :param teachers:
        The batch as live teachers see it; with gradients where they learn.
    :param logged_terms:
        What an objective wants logged besides its terms, in their form; it adds nothing to the loss.
    """

    stage: str
    step: int
    steps: int
    queries: int = 1
    seed: int = 0
    processes: ProcessGroup = field(default_factory=ProcessGroup)
    temperature: Tensor | None = None
    anchor: EncoderOutput | None = None
    teachers: dict[str, EncoderOutput] = field(default_factory=dict)
    logged_terms: Terms = field(default_factory=dict)

    def rng(self, *parts: object) -> np.random.Generator:
        """Return a generator of this step, the same however often and wherever it is asked for."""
        return rng_for(self.seed, self.stage, self.step, *parts)


@dataclass
class Spec:
    """
    What an objective may need to know before the first step.

    Of teachers that give vectors: their dimensions, and how these are compared (`cosine` or `dot`). `student_dim` is 0
    for a ranker. `teacher_scales` are the factors of live teachers' scores. `student_layers` and `teacher_layers` count
    the layers of the student and of live teachers, where an objective needs them.
    """

    student_dim: int
    teacher_dims: dict[str, int]
    teacher_similarities: dict[str, str]
    teacher_scales: dict[str, float] = field(default_factory=dict)
    student_layers: int = 0
    teacher_layers: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """The first `steps` of every `cycle` steps of a stage belong to a live teacher; the student rests."""

    steps: int
    cycle: int

    def __post_init__(self) -> None:
        """Refuse turns that leave the student no step."""
        if not 0 <= self.steps < self.cycle:
            msg = f"turn: 0 <= steps < cycle must hold; they are {self.steps} and {self.cycle}."
            raise ValueError(msg)


@dataclass
class ParameterGroup:
    """A part with a highest learning rate of its own, and whether its matrices decay as others do."""

    part: nn.Module
    lr: float
    decays: bool

    def at(self, step: int, steps: int) -> float:
        """Return the share of it at a step, besides the schedule."""
        return self.part.lr_factor(step, steps) if isinstance(self.part, Temperature) else 1.0


class Objective(nn.Module):
    """
    A term, or several, of the loss; may own parameters.

    Subclasses set `needs_positives` where a query without a positive cannot be learned from, `needs_lists` where a
    batch of mere texts will not do, `needs_vectors` where a ranker cannot be the student, `needs_teacher_vectors` where
    a teacher's scores of lists will not do, `takes_ranks` where an order will do as its scores, `needs_anchor` where
    they compare with a frozen copy of the student, `divergence` where they compare two distributions, `scores_only`
    where they look at the student's scores alone, so that cut vectors do for them, `needs_live_teacher` where their
    teacher must be in the loop, `needs_layers` where they look at its layers and the student's, `teacher` to the name
    of the teacher they learn from, `extra_teachers` to the weights of others whose scores are added to its, `turn`
    where that teacher learns from them, in steps of its own, and `lr` where their own parameters (with `turn`, the
    teacher) want a learning rate other than the stage's; parameters of their own then do not decay.
    """

    needs_positives = False
    needs_lists = False
    needs_vectors = False
    takes_ranks = False
    needs_anchor = False
    teacher: str | None = None
    extra_teachers: Mapping[str, float] = MappingProxyType({})
    divergence = False
    scores_only = True
    needs_live_teacher = False
    needs_teacher_vectors = False
    needs_layers = False
    turn: Turn | None = None
    lr: float | None = None

    @property
    def teachers(self) -> list[str]:
        """Names of the teachers that it learns from."""
        return [*([] if self.teacher is None else [str(self.teacher)]), *self.extra_teachers]

    def bind(self, spec: Spec) -> None:
        """Create what depends on dimensions; called once, before the optimiser sees the parameters."""

    def forward(self, out: Any, batch: CandidateBatch, ctx: Context) -> Terms:
        """
        Compute the terms.

        :param out:
            The student's vectors (`DenseOutput`) or a ranker's scores (`PairOutput`), of the whole batch.
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

    def layers(self, ctx: Context) -> list[tuple[int, int]]:  # noqa: ARG002
        """Choose pairs of a teacher's and a student's layer, from 0, to look at in a step."""
        return []


class Temperature(nn.Module):
    """
    What divides a stage's scores before softmaxes, the student's and the teacher's alike; may own parameters.

    `lr` is as in `Objective`.
    """

    lr: float | None = None

    def lr_factor(self, step: int, steps: int) -> float:  # noqa: ARG002
        """Return the share of `lr` at a step, besides the schedule: optimisers divide the gradient's own size out."""
        return 1.0

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
    :param live:
        Teachers in the loop, by name.
    :param tokens_per_chunk:
        Padded tokens of a forward pass; None takes what suits the device.
    :param cache_gradients:
        Hold one chunk's activations at a time, for another forward pass (see `students.encoding.recomputed`).
    :param dims:
        Sizes to which the student's vectors are cut besides (Matryoshka).
    """

    def __init__(
        self,
        student: SentenceTransformer | CrossEncoder,
        objectives: dict[str, list[tuple[Objective, float]]],
        spec: Spec,
        *,
        scale: float,
        temperatures: dict[str, Temperature] | None = None,
        live: dict[str, Any] | None = None,
        tokens_per_chunk: int | None = None,
        cache_gradients: bool = False,
        dims: list[int] | None = None,
    ) -> None:
        super().__init__()
        self._frozen = [p for p in student.parameters() if not p.requires_grad]
        self.dims = dims or []
        self.live = live or {}
        # Prefixed, as stages are below: a teacher may be called `student`, a stage `train`.
        self.roles = nn.ModuleDict({STUDENT: student} | {_role(name): t.model for name, t in self.live.items()})
        self.objectives = nn.ModuleDict(
            {f"stage_{stage}": nn.ModuleList(o for o, _ in pairs) for stage, pairs in objectives.items()}
        )
        self.temperatures = nn.ModuleDict({f"stage_{stage}": t for stage, t in (temperatures or {}).items()})
        self.weights = {stage: [weight for _, weight in pairs] for stage, pairs in objectives.items()}
        self.scale = scale
        self.encoder = BatchEncoder(ProcessGroup(), tokens_per_chunk, cache_gradients)
        for pairs in objectives.values():
            for objective, _ in pairs:
                objective.bind(spec)
        for stage, temperature in (temperatures or {}).items():
            temperature.bind([objective for objective, _ in objectives[stage]])

    @property
    def student(self) -> Any:
        """The model in training."""
        return self.roles[STUDENT]

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
        """Switch dropout on or off; never that of models that do not learn now, which are fixed targets."""
        super().train(mode)
        for role in self.roles.values():
            if not any(p.requires_grad for p in role.parameters()):
                role.eval()
        fixed = {id(p) for p in self._frozen}
        for module in self.student.modules() if fixed else ():
            if all(id(p) in fixed for p in module.parameters()) and any(True for _ in module.parameters()):
                module.eval()
        return self

    def turn_at(self, stage: str, step: int) -> str:
        """Say whose step it is: `student`, or a live teacher's role."""
        for objective in self.objectives_of(stage):
            if objective.turn is not None and step % objective.turn.cycle < objective.turn.steps:
                return _role(str(objective.teacher))
        return STUDENT

    def enter(self, stage: str, turn: str = STUDENT) -> list[nn.Parameter]:
        """Turn on the gradients of what learns in this stage and turn, turn off all others, and return the former."""
        self.requires_grad_(False)
        for part in (*self._learning(stage, turn), *self._around(stage, turn)):
            part.requires_grad_(True)
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        return [p for p in self.parameters() if p.requires_grad]

    def taught(self) -> list[str]:
        """List the live teachers that learn in any stage."""
        turns = {str(o.teacher) for pairs in self.objectives.values() for o in pairs.children() if o.turn is not None}
        return [name for name, teacher in self.live.items() if teacher.train or name in turns]

    def highest_rate(self, stage: str, turn: str, lr: float) -> float:
        """Return the highest learning rate of a turn: the stage's, or what the teacher's objective wants."""
        own = (o.lr for o, _ in self._objectives_in(stage, turn) if o.turn is not None)
        return next((rate for rate in own if rate is not None), lr)

    def parameter_groups_of(self, stage: str, turn: str = STUDENT) -> list[ParameterGroup]:
        """List what has a learning rate of its own in this stage and turn."""
        parts = (part for part in self._around(stage, turn) if not isinstance(part, Objective) or part.turn is None)
        found = [ParameterGroup(part, part.lr, decays=False) for part in parts if part.lr is not None]
        live = (self.live[name] for name in self._live_in(stage, turn) if turn == STUDENT)
        return found + [ParameterGroup(t.model, t.lr, decays=True) for t in live if t.train and t.lr is not None]

    def objectives_of(self, stage: str) -> list[Any]:
        """List a stage's objectives."""
        return list(self.objectives[f"stage_{stage}"].children())

    def forward(self, batch: CandidateBatch, ctx: Context) -> Weighted:
        """
        Encode the batch, or score its pairs, and compute every term of the stage, or of the turn.

        :param batch:
            The batch, on the right device; the same one on every rank.
        :param ctx:
            Where training stands.
        :returns:
            Per term: values, which of them count, and the objective's weight, None for what is only watched; the same
            on every rank.
        """
        self.encoder.processes = ctx.processes

        def see(model: Any, scale: float, layers: list[int]) -> EncoderOutput:
            if any(p.requires_grad for p in model.parameters()):
                return self.encoder.encode(model, batch, scale, layers)
            if model is self.student:  # it rests: nothing of the turn looks at it
                return empty_output(model, batch, scale, layers)
            with torch.no_grad():
                return self.encoder.encode(model, batch, scale, layers)

        return self._terms(batch, ctx, see)

    def counts(self, batch: CandidateBatch, ctx: Context) -> dict[str, float]:
        """Count each term's valid values without encoding anything; what is valid depends on the batch alone."""

        def see(model: Any, scale: float, layers: list[int]) -> EncoderOutput:
            return empty_output(model, batch, scale, layers)

        with torch.no_grad():
            return {name: float(mask.sum()) for name, (_, mask, _) in self._terms(batch, ctx, see).items()}

    def _terms(
        self, batch: CandidateBatch, ctx: Context, see: Callable[[Any, float, list[int]], EncoderOutput]
    ) -> Weighted:
        turn = self.turn_at(ctx.stage, ctx.step)
        pairs = self._objectives_in(ctx.stage, turn)
        wanted: dict[str, set[int]] = {}
        for objective, _ in pairs:
            for theirs, own in objective.layers(ctx):
                wanted.setdefault(str(objective.teacher), set()).add(theirs)
                wanted.setdefault(STUDENT, set()).add(own)
        layers = {name: sorted(numbers) for name, numbers in wanted.items()}
        out = see(self.student, self.scale, layers.get(STUDENT, []))
        anchor = see(self.roles["anchor"], self.scale, []) if "anchor" in self.roles and turn == STUDENT else None
        teachers = {
            name: see(self.live[name].model, self.live[name].scale, layers.get(name, []))
            for name in self._live_in(ctx.stage, turn)
        }
        ctx = replace(ctx, anchor=anchor, teachers=teachers)
        # Autocast is for the encoder: scores and losses would lose digits that a softmax needs.
        with torch.autocast(batch.index.device.type, enabled=False):
            return self._terms_of(pairs, out, _with_teachers(batch, teachers, self.student), ctx)

    def _terms_of(
        self, pairs: list[tuple[Any, float]], out: EncoderOutput, batch: CandidateBatch, ctx: Context
    ) -> Weighted:
        terms = {}
        temperatures = self.temperatures[f"stage_{ctx.stage}"] if f"stage_{ctx.stage}" in self.temperatures else None
        for number, (objective, weight) in enumerate(pairs):
            if objective.needs_anchor and ctx.anchor is None:  # its weight is 0
                continue
            tau = None
            if temperatures is not None and objective.turn is None:
                tau = temperatures(out, batch, ctx, objective)
            found: Weighted = {}
            views = self._views(objective, out)
            logged: Terms = {}
            for dim, view in views.items():
                seen = replace(ctx, temperature=tau, logged_terms={} if dim else logged)  # whole vectors are watched
                for name, (v, m) in objective(view, batch, seen).items():
                    found[f"{name}@{dim}" if dim else name] = (v, m, weight / len(views))
            if tau is not None:
                each = tau.expand(len(batch.queries), 1).reshape(-1)
                logged["temperature"] = (each, torch.ones_like(each, dtype=torch.bool))
            found |= {name: (v.detach(), m, None) for name, (v, m) in logged.items()}
            for name, term in found.items():
                # Two objectives of one kind, say with two teachers, keep their own terms.
                terms[f"{name}#{number}" if name in terms else name] = term
        return terms

    def _views(self, objective: Objective, out: EncoderOutput) -> dict[int, EncoderOutput]:
        """List what an objective is to see: all of the vectors, as 0, and their first entries."""
        views: dict[int, EncoderOutput] = {0: out}
        if isinstance(out, DenseOutput) and objective.scores_only and objective.turn is None:
            views |= {dim: out.cut(dim) for dim in self.dims}
        return views

    def _objectives_in(self, stage: str, turn: str) -> list[tuple[Any, float]]:
        pairs = zip(self.objectives_of(stage), self.weights[stage], strict=True)
        return [(o, w) for o, w in pairs if (STUDENT if o.turn is None else _role(str(o.teacher))) == turn]

    def _live_in(self, stage: str, turn: str) -> list[str]:
        asked = {name for o, _ in self._objectives_in(stage, turn) for name in o.teachers}
        return [name for name in self.live if name in asked]

    def _learning(self, stage: str, turn: str) -> list[nn.Module]:
        if turn != STUDENT:
            return [self.roles[turn]]
        return [self.student, *(self.live[n].model for n in self._live_in(stage, turn) if self.live[n].train)]

    def _around(self, stage: str, turn: str) -> list[Any]:
        objectives = [objective for objective, _ in self._objectives_in(stage, turn)]
        if turn != STUDENT or f"stage_{stage}" not in self.temperatures:
            return objectives
        return [*objectives, self.temperatures[f"stage_{stage}"]]


def _role(teacher: str) -> str:
    return f"teacher_{teacher}"


def _with_teachers(batch: CandidateBatch, teachers: dict[str, EncoderOutput], student: nn.Module) -> CandidateBatch:
    """Put what live teachers gave where that of others stands, without gradients and in the student's dtype."""
    like = next(student.parameters())
    scores, vectors = dict(batch.teacher_scores), dict(batch.teacher_vectors)
    for name, seen in teachers.items():
        if isinstance(seen, DenseOutput):
            vectors[name] = (seen.queries.detach().to(like.dtype), seen.documents.detach().to(like.dtype))
        else:
            scores[name] = seen.list_scores(batch).detach().to(like.dtype)
    return replace(batch, teacher_scores=scores, teacher_vectors=vectors)


def step_loss(terms: Weighted, counts: dict[str, float]) -> Tensor:
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
        if weight is not None
    ]
    return torch.stack(parts).sum()
