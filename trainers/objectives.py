# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The objectives that most recipes share; a method's own stand in `methods/`."""

from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.distiller import Compared, Context, Objective, Spec, Terms, Turn
from retort.trainers.encoder_output import DenseOutput, EncoderOutput, PairOutput, similarities
from retort.trainers.runtime.errors import RecipeError

Scope = Literal["list", "in_batch"]
Choice = TypeVar("Choice", bound=str)


class Contrastive(Objective):
    """
    Multi-positive contrastive loss on labels (see `losses.contrastive`).

    :param scope:
        `list`: the query's own candidates; `in_batch`: all documents of the batch, where other known positives of
        the query are left out.
    :param temperature:
        Divides the scores, which already carry the distiller's scale.
    """

    needs_positives = True
    needs_lists = True

    def __init__(self, *, scope: Scope = "in_batch", temperature: float = 1.0) -> None:
        super().__init__()
        self.scope: Scope = one_of("scope", scope, ("list", "in_batch"))
        self.needs_vectors = scope == "in_batch"
        self.temperature = temperature

    def forward(self, out: Any, batch: CandidateBatch, ctx: Context) -> Terms:
        """One value a query; queries without a positive do not count."""
        temperature = self.temperature if ctx.temperature is None else ctx.temperature
        values = losses.contrastive(scores_of(out, batch, self.scope) / temperature, *judged(batch, self.scope))
        return {"contrastive": (values, batch.has_positive)}


class TeacherContrastive(Objective):
    """
    `Contrastive` for a live teacher: it learns from the labels.

    :param teacher:
        Its name.
    :param scope:
        As in `Contrastive`; a ranker scores lists only.
    :param turn:
        `{steps, cycle}`: the first `steps` of every `cycle` steps are the teacher's alone, with an optimiser and a
        schedule of its own; the student rests, and in its own steps the teacher does. By default both learn at once.
    :param lr:
        The teacher's highest learning rate in its turn; by default the stage's.
    """

    needs_positives = True
    needs_lists = True
    needs_live_teacher = True

    def __init__(
        self, *, teacher: str, scope: Scope = "list", turn: dict[str, int] | None = None, lr: float | None = None
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.scope: Scope = one_of("scope", scope, ("list", "in_batch"))
        self.turn = None if turn is None else Turn(**turn)
        self.lr = lr

    def forward(self, out: Any, batch: CandidateBatch, ctx: Context) -> Terms:  # noqa: ARG002
        """One value a query; queries without a positive do not count."""
        scores = scores_of(ctx.teachers[str(self.teacher)], batch, self.scope)
        return {"teacher_contrastive": (losses.contrastive(scores, *judged(batch, self.scope)), batch.has_positive)}


class TeacherObjective(Objective):
    """
    What objectives over a teacher's scores share.

    :param teacher:
        Name of the teacher: one that scores lists, or one that gives vectors.
    :param teacher_scale:
        Factor on the similarities of a teacher that gives vectors; by default the student's scale for cosines (20 if
        the student's own scores are no cosines), 1 for dot products; of a live teacher its own `scale`.
    :param extra_teachers:
        Further teachers, each with a weight: their scores (of those that give vectors, their similarities) times that
        are added to the teacher's. A sum of scores finds what each of them is sure of; two objectives with a teacher
        each would have the student believe both a little.
    :raises ValueError:
        If scores of lists are to be added where the whole batch is compared.
    """

    def __init__(
        self, *, teacher: str, teacher_scale: float | None = None, extra_teachers: dict[str, float] | None = None
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.teacher_scale = teacher_scale
        self.extra_teachers = extra_teachers or {}
        if self.extra_teachers and self.needs_teacher_vectors:
            msg = f"{type(self).__name__}: extra_teachers adds scores of lists; use ListwiseKL."
            raise ValueError(msg)
        self._similarities: dict[str, str] = {}

    def bind(self, spec: Spec) -> None:
        """Note how teachers that give vectors compare them; those that give scores have no such thing."""
        self._similarities = spec.teacher_similarities
        if self.teacher_scale is None:
            self.teacher_scale = spec.teacher_scales.get(str(self.teacher))

    def in_batch_teacher(self, out: Any, batch: CandidateBatch) -> Tensor:
        """`[B, U]` similarities of a teacher that gives vectors."""
        default = out.cosine_scale if self._similarity(str(self.teacher)) == "cosine" else 1.0
        scale = default if self.teacher_scale is None else self.teacher_scale
        return self._compared_by(str(self.teacher), batch) * scale

    def list_teacher(self, out: Any, batch: CandidateBatch) -> Tensor:
        """`[B, N]` scores of the teacher and of the extra ones, NaN where one is missing."""
        if self.teacher in batch.teacher_scores:
            found = batch.teacher_scores[self.teacher]
        else:
            found = self.in_batch_teacher(out, batch).gather(1, batch.index)
        for name, weight in self.extra_teachers.items():
            given = batch.teacher_scores.get(name)
            found = found + weight * (self._compared_by(name, batch).gather(1, batch.index) if given is None else given)
        return found

    def _similarity(self, teacher: str) -> str:
        return self._similarities.get(teacher, "cosine")

    def _compared_by(self, teacher: str, batch: CandidateBatch) -> Tensor:
        return similarities(*batch.teacher_vectors[teacher], self._similarity(teacher))


class ListwiseKL(TeacherObjective):
    """
    Divergence from a teacher's scores over each query's list (see `losses.listwise_kl`).

    :param teacher:
        Name of the teacher.
    :param student_temperature:
        Divides the student's scaled scores. A stage's `temperature` takes the place of both.
    :param teacher_temperature:
        Divides the teacher's scores; by default the student's temperature. Scores that were squeezed between 0 and 1
        want one well below 1.
    :param tau_squared:
        Multiply by the squared student temperature.
    :param teacher_scale:
        As in `TeacherObjective`.
    :param extra_teachers:
        As in `TeacherObjective`.
    """

    needs_lists = True
    divergence = True

    def __init__(
        self,
        *,
        teacher: str,
        student_temperature: float = 1.0,
        teacher_temperature: float | None = None,
        tau_squared: bool = True,
        teacher_scale: float | None = None,
        extra_teachers: dict[str, float] | None = None,
    ) -> None:
        super().__init__(teacher=teacher, teacher_scale=teacher_scale, extra_teachers=extra_teachers)
        self.student_temperature = student_temperature
        self.teacher_temperature = student_temperature if teacher_temperature is None else teacher_temperature
        self.tau_squared = tau_squared

    def _kl(self, student: Tensor, teacher: Tensor, mask: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        values = losses.listwise_kl(
            student,
            teacher,
            mask,
            student_temperature=self.student_temperature if ctx.temperature is None else ctx.temperature,
            teacher_temperature=self.teacher_temperature if ctx.temperature is None else ctx.temperature,
            tau_squared=self.tau_squared,
        )
        return values, _scored(teacher, mask).sum(-1) > 1

    def compared(self, out: Any, batch: CandidateBatch, ctx: Context) -> Compared:  # noqa: ARG002
        """Scores of each query's list."""
        return out.list_scores(batch), self.list_teacher(out, batch), batch.mask

    def forward(self, out: Any, batch: CandidateBatch, ctx: Context) -> Terms:
        """One value a query; lists with fewer than two scores do not count."""
        return {"listwise_kl": self._kl(*self.compared(out, batch, ctx), ctx)}


class InBatchKL(ListwiseKL):
    """
    Divergence from a teacher's similarities over all documents of the batch, formed from its vectors.

    Parameters as in `ListwiseKL`.
    """

    needs_lists = False
    needs_vectors = True
    needs_teacher_vectors = True

    def compared(self, out: DenseOutput, batch: CandidateBatch, ctx: Context) -> Compared:  # noqa: ARG002
        """Scores of all documents of the batch."""
        student, teacher = out.in_batch_scores(), self.in_batch_teacher(out, batch)
        return student, teacher, torch.ones_like(student, dtype=torch.bool)

    def forward(self, out: DenseOutput, batch: CandidateBatch, ctx: Context) -> Terms:
        """One value a query."""
        return {"in_batch_kl": self._kl(*self.compared(out, batch, ctx), ctx)}


class MarginMSE(TeacherObjective):
    """
    Squared difference of the student's and a teacher's margins between positives and negatives (`losses.margin_mse`).

    The teacher's scores must be raw: margins of probabilities are squashed. Parameters as in `TeacherObjective`.
    """

    needs_positives = True
    needs_lists = True

    def forward(self, out: Any, batch: CandidateBatch, ctx: Context) -> Terms:  # noqa: ARG002
        """One value a query; lists without a scored positive and negative do not count."""
        student, teacher = out.list_scores(batch), self.list_teacher(out, batch)
        positive, scored = batch.labels == 1, _scored(teacher, batch.mask)
        valid = (scored & positive).any(-1) & (scored & ~positive).any(-1)
        return {"margin_mse": (losses.margin_mse(student, teacher, positive, batch.mask), valid)}


class RankNet(TeacherObjective):
    """
    Pairwise logistic loss on the teacher's order (`losses.rank_net`); scores or mere ranks will do.

    Parameters as in `TeacherObjective`.
    """

    needs_lists = True
    takes_ranks = True

    def forward(self, out: Any, batch: CandidateBatch, ctx: Context) -> Terms:  # noqa: ARG002
        """One value a query; lists that the teacher does not order do not count."""
        student, teacher = out.list_scores(batch), self.list_teacher(out, batch)
        valid = losses.ordered_pairs(teacher, batch.mask).any(-1).any(-1)
        return {"rank_net": (losses.rank_net(student, teacher, batch.mask), valid)}


class ListMLE(TeacherObjective):
    """
    Likelihood of the teacher's order (`losses.list_mle`); scores or mere ranks will do.

    Parameters as in `TeacherObjective`.
    """

    needs_lists = True
    takes_ranks = True

    def forward(self, out: Any, batch: CandidateBatch, ctx: Context) -> Terms:  # noqa: ARG002
        """One value a query; lists with fewer than two scores do not count."""
        student, teacher = out.list_scores(batch), self.list_teacher(out, batch)
        return {"list_mle": (losses.list_mle(student, teacher, batch.mask), _scored(teacher, batch.mask).sum(-1) > 1)}


class Flops(Objective):
    r"""
    Keeps sparse vectors sparse (Paria et al. 2020; as in SPLADE, Formal et al. 2021).

    $$L = \sum_j \Big(\frac{1}{n} \sum_i |v_{ij}|\Big)^2$$

    over the vectors of a batch (with accumulation: of a part), separately for queries and documents. The weight rises
    as the square of the steps.

    :param query_weight:
        Of the queries' term, times the objective's weight.
    :param document_weight:
        Of the documents'.
    :param rise:
        Share of the stage's steps in which the weight rises.
    """

    needs_vectors = True
    scores_only = False

    def __init__(self, *, query_weight: float = 5e-3, document_weight: float = 3e-3, rise: float = 0.33) -> None:
        super().__init__()
        self.query_weight = query_weight
        self.document_weight = document_weight
        self.rise = rise

    def forward(self, out: DenseOutput, batch: CandidateBatch, ctx: Context) -> Terms:  # noqa: ARG002
        """One value a side."""
        share = 1.0 if self.rise <= 0 else min((ctx.step + 1) / (self.rise * ctx.steps), 1.0) ** 2
        terms = {}
        for name, vectors, weight in (
            ("flops_query", out.queries, self.query_weight),
            ("flops_document", out.documents, self.document_weight),
        ):
            value = (vectors.abs().mean(0) ** 2).sum()[None] * weight * share
            terms[name] = (value, torch.ones_like(value, dtype=torch.bool))
        return terms


class Alignment(Objective):
    """
    Distance between the student's vectors and a teacher's, for queries and documents (see `losses.alignment`).

    :param teacher:
        Name of a teacher that gives vectors.
    :param distance:
        `cosine`, `l2` or `mse`.
    :param projection:
        Learn a linear map from the student's to the teacher's dimension. It is left out of the exported student.
    """

    needs_vectors = True
    needs_teacher_vectors = True
    scores_only = False

    def __init__(
        self, *, teacher: str, distance: Literal["cosine", "l2", "mse"] = "cosine", projection: bool = False
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.distance = one_of("distance", distance, ("cosine", "l2", "mse"))
        self.projection: nn.Module = nn.Linear(1, 1) if projection else nn.Identity()

    def bind(self, spec: Spec) -> None:
        """
        Size the projection.

        :raises ValueError:
            If the dimensions differ and there is no projection.
        """
        theirs = spec.teacher_dims[str(self.teacher)]
        if isinstance(self.projection, nn.Linear):
            self.projection = nn.Linear(spec.student_dim, theirs, bias=False)
        elif theirs != spec.student_dim:
            msg = (
                f"Alignment: the student has {spec.student_dim} dimensions, teacher {self.teacher!r} has {theirs}. "
                "Set projection: true, or use InBatchKL, which compares scores."
            )
            raise ValueError(msg)

    def forward(self, out: DenseOutput, batch: CandidateBatch, ctx: Context) -> Terms:  # noqa: ARG002
        """One value a text."""
        queries, documents = batch.teacher_vectors[str(self.teacher)]
        pairs = {"align_query": (out.queries, queries), "align_document": (out.documents, documents)}
        terms = {}
        for name, (student, teacher) in pairs.items():
            values = losses.alignment(self.projection(student), teacher, distance=self.distance)
            terms[name] = (values, torch.ones_like(values, dtype=torch.bool))
        return terms


def scores_of(seen: EncoderOutput, batch: CandidateBatch, scope: Scope) -> Tensor:
    """
    Return what a model scored, `[B, N]` of lists or `[B, U]` in the batch.

    :raises RecipeError:
        If a ranker is to score more than its lists.
    """
    if scope == "list":
        return seen.list_scores(batch)
    if isinstance(seen, PairOutput):
        msg = "scope: in_batch compares vectors, and a ranker scores lists only; set scope: list."
        raise RecipeError(msg)
    return seen.in_batch_scores()


def judged(batch: CandidateBatch, scope: Scope) -> tuple[Tensor, Tensor]:
    """Return the positives to learn from, and what takes part beside them: other known positives do not."""
    if scope == "list":
        return batch.labels == 1, batch.mask
    positive = in_list(batch, (batch.labels == 1) & batch.mask)
    return positive, positive | ~batch.known_positive


def candidates(batch: CandidateBatch, scope: Scope) -> Tensor:
    """Return what a distribution is over, bool: `[B, N]`, or `[B, U]`."""
    return batch.mask if scope == "list" else torch.ones_like(batch.known_positive)


def in_list(batch: CandidateBatch, chosen: Tensor) -> Tensor:
    """`[B, U]` bool from `[B, N]` bool: the documents that a query's list chose."""
    found = torch.zeros_like(batch.known_positive, dtype=torch.int32)
    return found.scatter_add_(1, batch.index, chosen.to(torch.int32)) > 0


def _scored(teacher: Tensor, mask: Tensor) -> Tensor:
    return mask & ~teacher.isnan()


def one_of(name: str, value: Choice, known: tuple[Choice, ...]) -> Choice:
    """Check a parameter's value."""
    if value not in known:
        msg = f"{name} must be one of {', '.join(known)}; it is {value!r}."
        raise ValueError(msg)
    return value
