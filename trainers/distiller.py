# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
The distiller: the one module that holds everything learned, and its roles.

Whatever learns lives in it, so that wrapping, clipping, checkpoints and resuming cannot miss it. A method adds role
classes (`retort.trainers.roles`); none owns a forward pass of its own, so methods combine in one recipe.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from retort.trainers.batches.base import CandidateBatch
from retort.trainers.encoder_output import BatchEncoder, DenseOutput, EncoderOutput
from retort.trainers.roles import (
    LoggedTerms,
    Masks,
    ModelInfo,
    Objective,
    StepContext,
    TeacherWeighting,
    Temperature,
    Values,
)
from retort.trainers.runtime.distributed import ProcessGroup

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

Weighted = dict[str, tuple[Tensor, Tensor, float | None]]  # None: logged, no part of the loss
STUDENT = "student"


@dataclass
class ParameterGroup:
    """A part with a highest learning rate of its own, and whether its matrices decay as others do."""

    part: nn.Module
    lr: float
    decays: bool

    def at(self, step: int, steps: int) -> float:
        """Return the share of it at a step, on top of the schedule."""
        return self.part.lr_factor(step, steps) if isinstance(self.part, Temperature) else 1.0


class Distiller(nn.Module):
    """
    Student and objectives in one module.

    :param student:
        The model to train: a bi-encoder or a ranker.
    :param objectives:
        Per stage a list of objectives with their weights.
    :param info:
        What the objectives may need to know of the models.
    :param scale:
        Factor on the student's scores (20 suits cosines; 1 dot products and logits).
    :param temperatures:
        Per stage its temperature, where it has one.
    :param weightings:
        Per stage what weighs several teachers, where it has one; else they count alike.
    :param live:
        Teachers in the loop, by name.
    :param tokens_per_chunk:
        Padded tokens of a forward pass; None takes what suits the device.
    :param cache_gradients:
        Hold one chunk's activations at a time, for another forward pass (see `students.encoding.recomputed`).
    :param dims:
        Sizes to which the student's vectors are cut as well (Matryoshka).
    """

    def __init__(
        self,
        student: SentenceTransformer | CrossEncoder,
        objectives: dict[str, list[tuple[Objective, float]]],
        info: ModelInfo,
        *,
        scale: float,
        temperatures: dict[str, Temperature] | None = None,
        weightings: dict[str, TeacherWeighting] | None = None,
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
        self.weightings = nn.ModuleDict({f"stage_{stage}": w for stage, w in (weightings or {}).items()})
        self.stage_state: dict[str, dict[str, Tensor]] = {}  # what objectives fixed when the stage opened
        self.weights = {stage: [weight for _, weight in pairs] for stage, pairs in objectives.items()}
        self.scale = scale
        self.encoder = BatchEncoder(ProcessGroup(), tokens_per_chunk, cache_gradients)
        for pairs in objectives.values():
            for objective, _ in pairs:
                objective.bind(info)
        for stage, temperature in (temperatures or {}).items():
            temperature.bind([objective for objective, _ in objectives[stage]])
        for stage, weighting in (weightings or {}).items():
            weighting.bind(sorted({name for o, _ in objectives[stage] for name in o.each_teacher}), info)

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
        if self._wants_anchor(stage):
            self.roles["anchor"] = copy.deepcopy(self.student).requires_grad_(False).eval()

    def _wants_anchor(self, stage: str) -> bool:
        objectives = zip(self.objectives_of(stage), self.weights[stage], strict=True)
        return any(objective.needs_anchor and weight for objective, weight in objectives)

    def take_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Take up what a stage's objectives fixed when it opened, by their place (see `Objective.open`)."""
        device = next(self.student.parameters()).device
        self.stage_state = {place: {n: t.to(device) for n, t in own.items()} for place, own in state.items()}

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

    def learning_teachers(self) -> list[str]:
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

    def forward(self, batch: CandidateBatch, ctx: StepContext) -> Weighted:
        """
        Encode the batch, or score its pairs, and compute every term of the stage, or of the turn.

        :param batch:
            The batch, on the right device; the same one in every process.
        :param ctx:
            Where training stands.
        :returns:
            Per term: values, which of them count, and the objective's weight, None for what is only logged; the same
            in every process.
        """
        self.encoder.processes = ctx.processes
        turn = self.turn_at(ctx.stage, ctx.step)
        pairs = self._objectives_in(ctx.stage, turn)
        layers: dict[str, set[int]] = {}
        for objective, _ in pairs:
            for theirs, own in objective.layers(ctx):
                layers.setdefault(str(objective.teacher), set()).add(theirs)
                layers.setdefault(STUDENT, set()).add(own)
        views = tuple(sorted({view for objective, _ in pairs for view in objective.views}))

        def encoded(
            model: Any, scale: float, name: str, views: tuple[str, ...] = (), batch: CandidateBatch = batch
        ) -> EncoderOutput:
            with torch.set_grad_enabled(torch.is_grad_enabled() and any(p.requires_grad for p in model.parameters())):
                return self.encoder.encode(model, batch, scale, sorted(layers.get(name, ())), views)

        rests = turn != STUDENT  # nothing of a teacher's turn looks at the student
        output = None if rests else encoded(self.student, self.scale, STUDENT, views)
        anchor = None
        if "anchor" in self.roles and not rests:
            anchor = encoded(self.roles["anchor"], self.scale, "anchor", views)
        alone = replace(batch, pieces=batch.pieces[:0])  # teachers read pieces of documents as any text
        teachers = {
            name: encoded(self.live[name].model, self.live[name].scale, name, batch=alone)
            for name in self._live_in(ctx.stage, turn)
        }
        ctx = replace(ctx, anchor=anchor, teachers=teachers, model=self.student)
        # Autocast is for the encoder: scores and losses would lose digits that a softmax needs.
        with torch.autocast(batch.index.device.type, enabled=False):
            seen = _with_teachers(batch, teachers, self.student)
            parts, logs = [], []
            for number, objective, weight in self._used(ctx.stage, pairs):
                masks = self._valid(objective, batch)
                terms, logged = self._terms_of(objective, weight, masks, output, seen, ctx)
                parts.append((number, terms))
                logs.append((number, logged))
            names = {name for _, own in parts for name in own}
            apart = ((n, {f"logged.{k}" if k in names else k: v for k, v in own.items()}) for n, own in logs)
            return _numbered(parts) | _numbered(apart)

    def counts(self, batch: CandidateBatch, ctx: StepContext) -> dict[str, float]:
        """Count each term's valid values without encoding anything; what is valid depends on the batch alone."""
        pairs = self._objectives_in(ctx.stage, self.turn_at(ctx.stage, ctx.step))
        counted = []
        for number, objective, _ in self._used(ctx.stage, pairs):
            masks = _any_of(self._valid(objective, batch))
            counted.append((number, {f"{name}{cut}": m for cut in self._cuts(objective) for name, m in masks.items()}))
        return {name: float(mask.sum()) for name, mask in _numbered(counted).items()}

    def _used(self, stage: str, pairs: list[tuple[Any, float]]) -> Iterator[tuple[int, Any, float]]:
        """Number a turn's objectives, without those that lack the anchor, as their weight is 0."""
        for number, (objective, weight) in enumerate(pairs):
            if not objective.needs_anchor or self._wants_anchor(stage):
                yield number, objective, weight

    def _valid(self, objective: Any, batch: CandidateBatch) -> list[Masks]:
        """Per teacher of an objective which values count; of the batch as it is before teachers in the loop answer."""
        seen = batch if objective.takes_derived else batch.standard()
        return [objective.valid(seen, teacher) for teacher in objective.each_teacher or [None]]

    def _terms_of(
        self,
        objective: Any,
        weight: float,
        masks: list[Masks],
        output: Any,
        batch: CandidateBatch,
        ctx: StepContext,
    ) -> tuple[Weighted, Weighted]:
        """Compute an objective's terms, at each size of the vectors, for each teacher; and what it logs."""
        if not objective.takes_derived:
            seen_by = {name: seen.standard(batch) for name, seen in ctx.teachers.items()}
            whole = None if ctx.whole is None else ctx.whole.standard()
            ctx = replace(ctx, anchor=ctx.anchor and ctx.anchor.standard(batch), teachers=seen_by, whole=whole)
            output, batch = output and output.standard(batch), batch.standard()
        cuts, logged = self._cuts(objective), LoggedTerms()
        state = self.stage_state.get(self._place(ctx.stage, objective), {})
        shares = None
        teachers = objective.each_teacher or [None]
        if len(teachers) > 1:
            shares = self._teacher_weights(objective, teachers, output, batch, ctx, logged)
        each: list[dict[str, tuple[Tensor, Tensor]]] = []
        for teacher, counts in zip(teachers, masks, strict=True):
            step = replace(ctx, teacher=teacher, state=state, logged_terms=logged)
            step.temperature = tau = self._temperature(objective, output, batch, step)
            own_terms: dict[str, tuple[Tensor, Tensor]] = {}
            for cut, dim in cuts.items():
                seen, seen_step = output, step
                if dim:
                    anchor = ctx.anchor.cut(dim) if isinstance(ctx.anchor, DenseOutput) else ctx.anchor
                    seen, seen_step = output.cut(dim), replace(step, logged_terms={}, anchor=anchor)
                values: Values = objective(seen, batch, seen_step)
                own_terms |= {f"{name}{cut}": (v, counts[name]) for name, v in values.items()}
            each.append(own_terms)
            if tau is not None:
                own = tau.expand(len(batch.queries), 1).reshape(-1)
                name = "temperature" if shares is None else f"temperature.{teacher}"
                logged[name] = (own, torch.ones_like(own, dtype=torch.bool))
        joined = each[0] if shares is None else _joined(each, shares)
        terms: Weighted = {name: (v, m, weight / len(cuts)) for name, (v, m) in joined.items()}
        return terms, {name: (v.detach(), m, None) for name, (v, m) in logged.items()}

    def _temperature(self, objective: Any, output: Any, batch: CandidateBatch, ctx: StepContext) -> Tensor | None:
        stage = f"stage_{ctx.stage}"
        if stage not in self.temperatures or objective.turn is not None:
            return None
        found: Tensor | None = self.temperatures[stage](output, batch, ctx, objective)
        return found

    def _teacher_weights(
        self,
        objective: Any,
        teachers: list[str],
        output: Any,
        batch: CandidateBatch,
        ctx: StepContext,
        logged: LoggedTerms,
    ) -> Tensor:
        """`[K, B]`: how much each of an objective's teachers counts for each query; alike without a weighting."""
        own: Tensor | None = objective.shares(output, batch, ctx)
        if own is not None:
            return own
        scores = {name: objective.list_teacher(output, batch, replace(ctx, teacher=name)) for name in teachers}
        stage = f"stage_{ctx.stage}"
        if stage not in self.weightings:
            first = next(iter(scores.values()))
            return first.new_full((len(scores), len(first)), 1 / len(scores))
        weights: Tensor = self.weightings[stage](scores, batch, replace(ctx, logged_terms=logged))
        for name, share in zip(scores, weights, strict=True):
            logged[f"teacher_weight.{name}"] = (share.detach(), torch.ones_like(share, dtype=torch.bool))
        return weights

    def _cuts(self, objective: Any) -> dict[str, int]:
        """Sizes at which an objective sees the vectors, by what its terms' names end in; 0 is all of them."""
        whole = objective.views or not objective.scores_only or objective.turn is not None
        dims = [] if whole else self.dims
        return {"": 0} | {f"@{dim}": dim for dim in dims}

    def _place(self, stage: str, objective: Any) -> str:
        return f"{stage}.{next(i for i, other in enumerate(self.objectives_of(stage)) if other is objective)}"

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
        """List what may own parameters beside the models: objectives, temperature, weighting."""
        objectives = [objective for objective, _ in self._objectives_in(stage, turn)]
        if turn != STUDENT:
            return objectives
        own = (
            modules[f"stage_{stage}"] for modules in (self.temperatures, self.weightings) if f"stage_{stage}" in modules
        )
        return [*objectives, *own]


def _role(teacher: str) -> str:
    return f"teacher_{teacher}"


def _numbered(parts: Iterable[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """Join objectives' terms: two of one kind, say with two teachers, keep their own."""
    terms: dict[str, Any] = {}
    for number, own in parts:
        terms |= {f"{name}#{number}" if name in terms else name: term for name, term in own.items()}
    return terms


def _any_of(masks: list[Masks]) -> Masks:
    return {name: torch.stack([own[name] for own in masks]).any(0) for name in masks[0]}


def _joined(each: list[dict[str, tuple[Tensor, Tensor]]], weights: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Weigh several teachers' values; where one has none, its weight goes to the others."""
    joined = {}
    for name in each[0]:
        values, masks = (torch.stack([own[name][i] for own in each]) for i in (0, 1))
        shares = weights.masked_fill(~masks, 0.0)
        shares = shares / shares.sum(0).clamp(min=torch.finfo(shares.dtype).tiny)
        joined[name] = ((shares * values.masked_fill(~masks, 0.0)).sum(0), masks.any(0))
    return joined


def _with_teachers(batch: CandidateBatch, teachers: dict[str, EncoderOutput], student: nn.Module) -> CandidateBatch:
    """Put what live teachers gave where that of others stands, without gradients and as precise as the student's."""
    dtype = torch.promote_types(next(student.parameters()).dtype, torch.float32)
    scores, vectors = dict(batch.teacher_scores), dict(batch.teacher_vectors)
    for name, seen in teachers.items():
        if isinstance(seen, DenseOutput):
            vectors[name] = (seen.queries.detach().to(dtype), seen.documents.detach().to(dtype))
        else:
            scores[name] = seen.list_scores(batch).detach().to(dtype)
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
