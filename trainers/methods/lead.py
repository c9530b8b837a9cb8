# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
LEAD: liberal feature-based distillation (Sun et al. 2023, arXiv 2212.05225).

Every layer of teacher and student is turned into a distribution over the same candidates, and these are matched; so the
two need to share neither width, depth, tokenizer nor kind. The teacher is a `LiveTeacher`, which may learn as well. The
loss is `Contrastive` of the student + `TeacherContrastive` (if the teacher learns) + `MutualKL` + `LayerKL`, all of
weight 1 in the official code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.encoder_output import DenseOutput, EncoderOutput, MultiVectorOutput
from retort.trainers.objectives import Scope, candidates, judged, one_of, scores_of
from retort.trainers.roles import Compared, Masks, ModelInfo, Objective, StepContext, Values
from retort.trainers.runtime.rng import rng_for


class LiveKL(Objective):
    """
    What divergences from a teacher in the loop have in common; parameters as of `LayerKL`.

    :raises ValueError:
        If there is no such scope.
    """

    needs_lists = True
    needs_live_teacher = True
    divergence = True

    def __init__(self, *, teacher: str, temperature: float, scope: Scope, detach_targets: bool) -> None:
        super().__init__()
        self.teacher, self.temperature, self.detach_targets = teacher, temperature, detach_targets
        self.scope: Scope = one_of("scope", scope, ("list", "in_batch"))

    def compared(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Compared:
        """Scores of the last layers."""
        scores, target = (scores_of(seen, batch, self.scope) for seen in (output, ctx.teachers[str(self.teacher)]))
        return scores, target, candidates(batch, self.scope)

    def options(self, ctx: StepContext) -> dict[str, Any]:
        """Say how `listwise_kl` is to compare: at the stage's temperature, if it has one."""
        tau = self.temperature if ctx.temperature is None else ctx.temperature
        return {"student_temperature": tau, "teacher_temperature": tau, "detach": self.detach_targets}


class LayerKL(LiveKL):
    r"""
    Divergence between paired layers' distributions over the candidates.

    $$L_{lyr} = \sum_k w_k \, \mathrm{KL}(p^T_{a_k} \| p^S_{b_k}), \quad
    w = \mathrm{softmax}_k(-\mathrm{NLL}(t_{a_k}, y) / \tau_L)$$

    $w$, which carries no gradient, gives more weight to layers of the teacher that rank the positives well; it is each
    query's own, and uniform for queries without a positive.

    :param teacher:
        Name of a live teacher.
    :param pairs:
        $K$: how many layers; as many as the shallower of the two has, if that is less.
    :param choose:
        `random`: drawn without replacement on both sides, and paired in order; `last`: the last ones; `skip`: evenly
        spaced ones.
    :param redraw:
        Draw anew every so many steps.
    :param weight_temperature:
        $\tau_L$; at 10 the weights are nearly even. None makes them even, $w_k = 1$.
    :param temperature:
        Divides both sides' scores, unless the stage has a temperature.
    :param scope:
        `list`: each query's own candidates, all that a ranker as teacher scores; `in_batch`: all documents.
    :param similarity:
        `model`: layers' vectors are compared and scaled as the model's own are. `dot`: by their dot products, as in
        the official code; those of layers that were never trained so can be huge.
    :param detach_targets:
        A teacher that learns is not moved towards the student.

    ```yaml
    - {type: retort.trainers.methods.lead.LayerKL, init_parameters: {pairs: 3, choose: last, scope: in_batch}}
    ```
    """

    scores_only = False
    needs_layers = True

    def __init__(
        self,
        *,
        teacher: str,
        pairs: int = 5,
        choose: Literal["random", "last", "skip"] = "random",
        redraw: int = 10,
        weight_temperature: float | None = 10.0,
        temperature: float = 1.0,
        scope: Scope = "list",
        similarity: Literal["model", "dot"] = "model",
        detach_targets: bool = False,
    ) -> None:
        super().__init__(teacher=teacher, temperature=temperature, scope=scope, detach_targets=detach_targets)
        if pairs < 1 or redraw < 1:
            msg = f"LayerKL: pairs and redraw must be at least 1; they are {pairs} and {redraw}."
            raise ValueError(msg)
        self.pairs, self.redraw = pairs, redraw
        self.choose = one_of("choose", choose, ("random", "last", "skip"))
        self.similarity = one_of("similarity", similarity, ("model", "dot"))
        self.weight_temperature = weight_temperature
        self._depths = (0, 0)

    def bind(self, info: ModelInfo) -> None:
        """Note how many layers there are."""
        self._depths = (info.teacher_layers[str(self.teacher)], info.student_layers)

    def layers(self, ctx: StepContext) -> list[tuple[int, int]]:
        """Pair layers, ascending on both sides."""
        count = min(self.pairs, *self._depths)
        if self.choose == "random":
            rng = rng_for(ctx.seed, ctx.stage, "layers", ctx.step // self.redraw)
            drawn = [np.sort(rng.choice(depth, size=count, replace=False)).tolist() for depth in self._depths]
        elif self.choose == "last":
            drawn = [list(range(depth - count, depth)) for depth in self._depths]
        else:
            drawn = [[(k + 1) * depth // count - 1 for k in range(count)] for depth in self._depths]
        return list(zip(*drawn, strict=True))

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query. Logs layers' entropies and weights."""
        teacher, positive, mask = ctx.teachers[str(self.teacher)], *judged(batch, self.scope)
        everything, options, pairs = candidates(batch, self.scope), self.options(ctx), self.layers(ctx)
        many = everything.sum(-1) > 1
        divergences, misfits = [], []
        for theirs, own in pairs:
            target = scores_of(self._as_asked(teacher.layers[theirs]), batch, self.scope)
            scores = scores_of(self._as_asked(output.layers[own]), batch, self.scope)
            misfits.append(losses.contrastive(target.detach(), positive, mask))
            divergences.append(losses.listwise_kl(scores, target, everything, **options))
            ctx.logged_terms[f"layer_entropy.{self.teacher}.{theirs}"] = (losses.entropy(target, everything), many)
        values = torch.stack(divergences, dim=-1)
        if self.weight_temperature is not None:
            weights = (-torch.stack(misfits, dim=-1) / self.weight_temperature).softmax(-1)
            values = values * weights
            for k, (theirs, _) in enumerate(pairs):
                ctx.logged_terms[f"layer_weight.{self.teacher}.{theirs}"] = (weights[:, k], many)
        return {"layer_kl": values.sum(-1)}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:  # noqa: ARG002
        """Lists of two candidates or more count."""
        return {"layer_kl": candidates(batch, self.scope).sum(-1) > 1}

    def _as_asked(self, seen: EncoderOutput) -> EncoderOutput:
        if isinstance(seen, MultiVectorOutput):
            if self.similarity == "dot":
                return replace(seen, scale=1.0)
            queries, documents = (F.normalize(vectors, dim=-1) for vectors in (seen.queries, seen.documents))
            return replace(seen, queries=queries, documents=documents)  # as its own vectors are
        if self.similarity == "dot" and isinstance(seen, DenseOutput):
            return replace(seen, similarity="dot", scale=1.0)
        return seen


class MutualKL(LiveKL):
    r"""
    Divergence of the last layers' distributions, in both directions if the teacher learns.

    $$L_{rep} = \mathrm{KL}(p_T \| p_S) + \mathrm{KL}(p_S \| p_T)$$

    :param teacher:
        Name of a live teacher.
    :param both:
        The second term too; as in the official code, set it for a teacher that learns.
    :param temperature:
        Divides both sides' scores, unless the stage has a temperature.
    :param scope:
        As in `LayerKL`.
    :param detach_targets:
        Each term moves one of the two only. The official code lets the first move the teacher as well, and the second
        the student.

    ```yaml
    - {type: retort.trainers.methods.lead.MutualKL, init_parameters: {both: true, scope: in_batch}}
    ```
    """

    def __init__(
        self,
        *,
        teacher: str,
        both: bool = False,
        temperature: float = 1.0,
        scope: Scope = "list",
        detach_targets: bool = False,
    ) -> None:
        super().__init__(teacher=teacher, temperature=temperature, scope=scope, detach_targets=detach_targets)
        self.both = both

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query."""
        scores, target, mask = self.compared(output, batch, ctx)
        options = self.options(ctx)
        values = losses.listwise_kl(scores, target, mask, **options)
        if self.both:
            values = values + losses.listwise_kl(target, scores, mask, **options)
        return {"mutual_kl": values}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:  # noqa: ARG002
        """Lists of two candidates or more count."""
        return {"mutual_kl": candidates(batch, self.scope).sum(-1) > 1}
