# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
CA-MKD: confidence-aware multi-teacher distillation (Zhang et al. 2022, arXiv 2201.00007).

Each of several teachers counts for a query by how well it predicts that query's labels. The loss is `Contrastive` over
lists + `ListwiseKL` that names all teachers, with `Confidence` as the stage's weighting, + 50 / K `FeatureDistance`
where all K of them give vectors. The paper classifies images; here the classes are the candidates of a query's list.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.encoder_output import DenseOutput
from retort.trainers.objectives import TeacherObjective, one_of, there
from retort.trainers.roles import Masks, ModelInfo, StepContext, TeacherWeighting, Values

Unlabelled = Literal["entropy", "mean", "uniform"]


def confidence(misfits: Tensor, usable: Tensor) -> Tensor:
    r"""
    Weights of teachers by their losses on the labels.

    $$w_k = \frac{1 - \mathrm{softmax}_k(c)}{K - 1}$$

    (Zhang et al. 2022, eq. 3.) The rule silences the worst teacher; none gets more than $1 / (K - 1)$.

    :param misfits:
        `[K, B]` losses $c$.
    :param usable:
        `[K, B]` bool; $K$ counts the usable teachers of each query.
    :returns:
        `[K, B]`, which sum to 1 over usable teachers; a single one has 1. All 0 where there is none.
    """
    count = usable.sum(0)
    shares = misfits.masked_fill(~usable, -torch.inf).masked_fill(count == 0, 0.0).softmax(0)
    weights = torch.where(count > 1, (1 - shares) / (count - 1).clamp(min=1), 1.0)
    return weights.masked_fill(~usable, 0.0)


class Confidence(TeacherWeighting):
    r"""
    Weighs teachers by how well each predicts the labels of a query (see `confidence`).

    $c_k$ is the `losses.marginal_nll` of teacher $k$'s scores, at temperature 1 after calibration: raw logits and
    cosines must not be compared. Teachers are compared over the candidates that all of them scored, but for teachers
    that scored none; where these are fewer than two, they count alike. The paper takes one label; several, queries
    without one, and calibration are ours.

    :param calibration:
        `standardize`: each list's scores are divided by their standard deviation. `none`: as they are.
    :param temperatures:
        Per teacher what its scores are divided by, after calibration; 1 by default.
    :param unlabelled:
        What queries without a scored positive go by. `entropy`: sure teachers count more,
        $w_k = (1 - H_k / \sum_j H_j) / (K - 1)$ (EBKD, Kwon et al. 2020). `mean`: $c_k$ is the cross-entropy with the
        mean of the teachers' distributions. `uniform`.
    :raises ValueError:
        If a choice or a temperature is none.

    ```yaml
    weighting: {type: retort.trainers.methods.ca_mkd.Confidence}
    ```
    """

    def __init__(
        self,
        *,
        calibration: Literal["standardize", "none"] = "standardize",
        temperatures: dict[str, float] | None = None,
        unlabelled: Unlabelled = "entropy",
    ) -> None:
        super().__init__()
        self.calibration = one_of("calibration", calibration, ("standardize", "none"))
        self.unlabelled: Unlabelled = one_of("unlabelled", unlabelled, ("entropy", "mean", "uniform"))
        self.temperatures = temperatures or {}
        if bad := [name for name, value in self.temperatures.items() if not value > 0]:
            msg = f"Confidence: temperatures must be above 0; that of {bad[0]!r} is {self.temperatures[bad[0]]}."
            raise ValueError(msg)

    def bind(self, teachers: list[str], info: ModelInfo) -> None:  # noqa: ARG002
        """
        Check the names.

        :raises ValueError:
            If a temperature is for no teacher of the stage.
        """
        if unknown := sorted(self.temperatures.keys() - set(teachers)):
            msg = f"Confidence: temperatures names {unknown[0]!r}; the stage's objectives have {', '.join(teachers)}."
            raise ValueError(msg)

    def forward(self, scores: dict[str, Tensor], batch: CandidateBatch, ctx: StepContext) -> Tensor:  # noqa: ARG002
        """`[K, B]`, without a gradient."""
        scored = torch.stack([batch.mask & ~own.isnan() for own in scores.values()])
        usable = scored.sum(-1) > 1
        scored = (scored | ~usable[:, :, None]).all(0) & usable[:, :, None]
        each = [
            self._calibrated(name, own.detach(), mask) for (name, own), mask in zip(scores.items(), scored, strict=True)
        ]
        positive = batch.labels == 1
        misfits = torch.stack(
            [losses.marginal_nll(own, positive, mask) for own, mask in zip(each, scored, strict=True)]
        )
        labelled = (scored & positive).any(-1) & (scored.sum(-1) > 1)
        weights = confidence(misfits, labelled)
        return torch.where(labelled.any(0), weights, self._without_labels(each, scored, usable))

    def _calibrated(self, name: str, scores: Tensor, mask: Tensor) -> Tensor:
        scores = scores.masked_fill(~mask, 0.0)
        if self.calibration == "standardize":
            count = mask.sum(-1, keepdim=True).clamp(min=1)
            centred = (scores - scores.sum(-1, keepdim=True) / count).masked_fill(~mask, 0.0)
            spread = (centred.pow(2).sum(-1, keepdim=True) / count).sqrt()
            scores = centred / torch.where(spread > 0, spread, 1.0)
        return scores / self.temperatures.get(name, 1.0)

    def _without_labels(self, each: list[Tensor], scored: Tensor, usable: Tensor) -> Tensor:
        if self.unlabelled == "entropy":
            entropies = torch.stack([losses.entropy(own, mask) for own, mask in zip(each, scored, strict=True)])
            total = entropies.masked_fill(~usable, 0.0).sum(0)
            count = usable.sum(0)
            shares = entropies / torch.where(total > 0, total, 1.0)
            weights = torch.where(
                (count > 1) & (total > 0), (1 - shares) / (count - 1).clamp(min=1), 1 / count.clamp(min=1)
            )
            return weights.masked_fill(~usable, 0.0)
        if self.unlabelled == "mean":
            logs = torch.stack([losses.log_distribution(own, mask) for own, mask in zip(each, scored, strict=True)])
            mean = (logs.exp() * usable[:, :, None]).sum(0) / usable.sum(0).clamp(min=1)[:, None]
            return confidence(-(mean * logs).masked_fill(~scored, 0.0).sum(-1), usable)
        return usable / usable.sum(0).clamp(min=1)


class FeatureDistance(TeacherObjective):
    r"""
    Distance of the student's adapted vectors from each teacher's, weighed by how well they do in that teacher's place.

    $$L = \sum_k v_k \, \frac{1}{1 + N} \Big(\overline{(r_k(q) - q^{T_k})^2}
    + \sum_j \overline{(r_k(d_j) - d_j^{T_k})^2}\Big)$$

    where $r_k$ is a learned linear map, the bar a mean over dimensions, and $v$ are `confidence` weights of the
    `losses.marginal_nll` of $r_k$'s similarities, as teacher $k$ compares vectors. (Zhang et al. 2022, eqs. 5 to 7. The
    paper adapts feature maps by convolutions, and runs the teacher's classifier on them.) Texts that a teacher refused
    take no part. The adapters are left out of the exported student. The official code divides by $K$ besides; a weight
    of $50 / K$ is its 50.

    :param teacher:
        Names of teachers that give vectors.
    :param teacher_scale:
        Factor on the adapted vectors' similarities in $v$; as in `TeacherObjective`.
    :param detach_weights:
        No gradient goes through $v$. False is what the official code does.

    ```yaml
    - {type: retort.trainers.methods.ca_mkd.FeatureDistance, init_parameters: {teacher: [minilm, e5]}, weight: 1.0}
    ```
    """

    needs_lists = True
    needs_vectors = True
    needs_teacher_vectors = True
    scores_only = False

    def __init__(
        self, *, teacher: str | list[str], teacher_scale: float | None = None, detach_weights: bool = True
    ) -> None:
        super().__init__(teacher=teacher, teacher_scale=teacher_scale)
        self.detach_weights = detach_weights
        self.adapters = nn.ModuleList()

    def bind(self, info: ModelInfo) -> None:
        """Size the adapters."""
        super().bind(info)
        self.adapters.extend(nn.Linear(info.student_dim, info.teacher_dims[name]) for name in self.each_teacher)

    def shares(self, output: DenseOutput, batch: CandidateBatch, ctx: StepContext) -> Tensor:  # noqa: ARG002
        """`[K, B]`: the adapted vectors' confidence in each teacher's place."""
        mask, positive = batch.mask, batch.labels == 1
        usable = (batch.has_positive & (mask.sum(-1) > 1)).expand(len(self.each_teacher), -1)
        misfits = torch.stack(
            [losses.marginal_nll(self._adapted_scores(n, output, batch), positive, mask) for n in self.each_teacher]
        )
        weights = torch.where(usable, confidence(misfits.masked_fill(~usable, 0.0), usable), 1 / len(usable))
        return weights.detach() if self.detach_weights else weights

    def _adapted_scores(self, name: str, output: DenseOutput, batch: CandidateBatch) -> Tensor:
        """`[B, N]`, as `list_teacher` scales the teacher's own."""
        pairs = (self._adapted(name, output.queries), self._adapted(name, output.documents))
        seen = replace(batch, teacher_vectors={name: pairs})
        return self.in_batch_teacher(output, seen, StepContext("", 0, 1, teacher=name)).gather(1, batch.index)

    def forward(self, output: DenseOutput, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query."""
        name = ctx.teacher or self.each_teacher[0]
        ours = (self._adapted(name, output.queries), self._adapted(name, output.documents))
        query, document = (
            losses.alignment(own, theirs.nan_to_num(), distance="mse")
            for own, theirs in zip(ours, batch.teacher_vectors[name], strict=True)
        )
        each = torch.cat([query[:, None], document[batch.index]], dim=1)
        known = self._known(batch, name)
        return {"feature_distance": each.masked_fill(~known, 0.0).sum(-1) / known.sum(-1).clamp(min=1)}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:
        """Queries count of which, or of a document of which, the teacher gave a vector; of one in the loop all."""
        return {"feature_distance": self._known(batch, teacher or self.each_teacher[0]).any(-1)}

    def _adapted(self, name: str, vectors: Tensor) -> Tensor:
        adapter = self.adapters[self.each_teacher.index(name)]
        adapted: Tensor = adapter(vectors.to(next(adapter.parameters()).dtype))
        return adapted

    @staticmethod
    def _known(batch: CandidateBatch, name: str) -> Tensor:
        """`[B, 1 + N]` bool: the query, and the documents of its list, that have a vector of the teacher."""
        mask = torch.cat([torch.ones_like(batch.has_positive)[:, None], batch.mask], dim=1)
        if name not in batch.teacher_vectors:
            return mask
        queries, documents = map(there, batch.teacher_vectors[name])
        return mask & torch.cat([queries[:, None], documents[batch.index]], dim=1)
