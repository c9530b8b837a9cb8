# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The objectives that most recipes share; a method's own stand in `methods/`."""

from types import SimpleNamespace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.encoder_output import DenseOutput, EncoderOutput, PairOutput, similarities
from retort.trainers.roles import Compared, Context, Masks, ModelInfo, Objective, StepContext, Turn, Values
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

    ```yaml
    - {type: retort.trainers.objectives.Contrastive, init_parameters: {scope: list}, weight: 0.2}
    ```
    """

    needs_positives = True
    needs_lists = True

    def __init__(self, *, scope: Scope = "in_batch", temperature: float = 1.0) -> None:
        super().__init__()
        self.scope: Scope = one_of("scope", scope, ("list", "in_batch"))
        self.needs_vectors = scope == "in_batch"
        self.temperature = temperature

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query."""
        temperature = self.temperature if ctx.temperature is None else ctx.temperature
        scores = scores_of(output, batch, self.scope) / temperature
        return {"contrastive": losses.contrastive(scores, *judged(batch, self.scope))}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:  # noqa: ARG002
        """Queries with a positive count."""
        return {"contrastive": batch.has_positive}


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

    ```yaml
    - {type: retort.trainers.objectives.TeacherContrastive, init_parameters: {turn: {steps: 500, cycle: 2000}}}
    ```
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

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:  # noqa: ARG002
        """One value a query."""
        scores = scores_of(ctx.teachers[str(self.teacher)], batch, self.scope)
        return {"teacher_contrastive": losses.contrastive(scores, *judged(batch, self.scope))}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:  # noqa: ARG002
        """Queries with a positive count."""
        return {"teacher_contrastive": batch.has_positive}


class TeacherObjective(Objective):
    """
    What objectives over a teacher's scores share.

    :param teacher:
        Name of the teacher, which scores lists or gives vectors; or several names: the term is then computed with each,
        and the stage's `weighting` says how much each counts for a query (without one they count alike).
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
        self,
        *,
        teacher: str | list[str],
        teacher_scale: float | None = None,
        extra_teachers: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.teacher_scale = teacher_scale
        self.extra_teachers = extra_teachers or {}
        if self.extra_teachers and self.needs_teacher_vectors:
            msg = f"{type(self).__name__}: extra_teachers adds scores of lists; use ListwiseKL."
            raise ValueError(msg)
        self._similarities: dict[str, str] = {}
        self._scales: dict[str, float] = {}

    def bind(self, info: ModelInfo) -> None:
        """Note how teachers that give vectors compare them; those that give scores have no such thing."""
        self._similarities, self._scales = info.teacher_similarities, info.teacher_scales

    def in_batch_teacher(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Tensor:
        """`[B, U]` similarities of a teacher that gives vectors."""
        teacher = self._compared_teacher(ctx.teacher)
        scale = self._scales.get(teacher) if self.teacher_scale is None else self.teacher_scale
        if scale is None:
            scale = output.cosine_scale if self._similarity(teacher) == "cosine" else 1.0
        return self._compared_by(teacher, batch) * scale

    def list_teacher(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Tensor:
        """`[B, N]` scores of the teacher and of the extra ones, NaN where one is missing."""
        teacher = self._compared_teacher(ctx.teacher)
        if teacher in batch.teacher_scores:
            scores = batch.teacher_scores[teacher]
        else:
            scores = self.in_batch_teacher(output, batch, ctx).gather(1, batch.index)
        for name, weight in self.extra_teachers.items():
            own = batch.teacher_scores.get(name)
            scores = scores + weight * (self._compared_by(name, batch).gather(1, batch.index) if own is None else own)
        return scores

    def mined_lists(
        self, context: Context, lists: CandidateLists | None, teachers: list[str], remedy: str = ""
    ) -> CandidateLists:
        """
        Return a stage's mined lists, which teachers score before training, for `open`.

        :param context:
            As of `open`.
        :param lists:
            As of `open`.
        :param teachers:
            Some of the objective's teachers.
        :param remedy:
            What else the recipe may do, for the message.
        :raises RecipeError:
            If the stage has no mined lists, or a teacher is in the loop.
        """
        in_loop = [name for name in teachers if context.teachers[name].runs == "in_loop"]
        if lists is None or in_loop:
            reason = "It is in the loop." if in_loop else "The stage has none."
            told = f"{type(self).__name__}: teacher {[*in_loop, *teachers][0]!r}"
            msg = f"{told} must score mined lists before training{remedy}. {reason}"
            raise RecipeError(msg)
        return lists

    def mined_scores(self, context: Context, lists: CandidateLists | None, teacher: str) -> np.ndarray:
        """
        Return a teacher's scores of a stage's lists as training compares them, for `open`.

        :param context:
            As of `open`.
        :param lists:
            As of `open`; `m` candidates in all.
        :param teacher:
            One of the objective's teachers.
        :returns:
            `[m]` float32, NaN where it has none. Similarities are scaled as in `list_teacher`.
        :raises RecipeError:
            If the stage has no mined lists, or the teacher is in the loop.
        """
        lists = self.mined_lists(context, lists, [teacher])
        if teacher in lists.scores:
            return lists.scores[teacher]
        scale = context.scale(teacher) if self.teacher_scale is None else self.teacher_scale
        return context.scores(teacher, lists.owners, lists.rows) * np.float32(scale)

    def scored(self, batch: CandidateBatch, teacher: str | None) -> Tensor:
        """`[B, N]` bool: what the teacher and the extra ones score; teachers in the loop score all."""
        mask = batch.mask
        for name in (self._compared_teacher(teacher), *self.extra_teachers):
            if name in batch.teacher_scores:
                mask = mask & ~batch.teacher_scores[name].isnan()
            elif name in batch.teacher_vectors:
                mask = mask & self._compared_in_batch(name, batch).gather(1, batch.index)
        return mask

    def _compared_in_batch(self, teacher: str, batch: CandidateBatch) -> Tensor:
        """`[B, U]` bool: both texts have a vector; those that the teacher refused have none."""
        queries, documents = (there(vectors) for vectors in batch.teacher_vectors[teacher])
        return queries[:, None] & documents

    def _compared_teacher(self, teacher: str | None) -> str:
        return self.each_teacher[0] if teacher is None else teacher

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
        want one well below 1. Of several teachers, a number for each name: their scores have scales of their own.
    :param tau_squared:
        Multiply by the squared student temperature.
    :param teacher_scale:
        As in `TeacherObjective`.
    :param extra_teachers:
        As in `TeacherObjective`.

    ```yaml
    - {type: retort.trainers.objectives.ListwiseKL, init_parameters: {student_temperature: 4.0, tau_squared: false}}
    ```
    """

    needs_lists = True
    divergence = True

    def __init__(
        self,
        *,
        teacher: str | list[str],
        student_temperature: float = 1.0,
        teacher_temperature: float | dict[str, float] | None = None,
        tau_squared: bool = True,
        teacher_scale: float | None = None,
        extra_teachers: dict[str, float] | None = None,
    ) -> None:
        super().__init__(teacher=teacher, teacher_scale=teacher_scale, extra_teachers=extra_teachers)
        self.student_temperature = student_temperature
        own = teacher_temperature if isinstance(teacher_temperature, dict) else {}
        if own and own.keys() != set(self.each_teacher):
            msg = f"{type(self).__name__}: teacher_temperature must have a number for {', '.join(self.each_teacher)}."
            raise ValueError(msg)
        common = teacher_temperature if isinstance(teacher_temperature, int | float) else student_temperature
        self.teacher_temperatures = {name: own.get(name, common) for name in self.each_teacher}
        self.tau_squared = tau_squared

    def _kl(self, student: Tensor, teacher: Tensor, mask: Tensor, ctx: StepContext) -> Tensor:
        return losses.listwise_kl(
            student,
            teacher,
            mask,
            student_temperature=self.student_temperature if ctx.temperature is None else ctx.temperature,
            teacher_temperature=(
                self.teacher_temperatures[self._compared_teacher(ctx.teacher)]
                if ctx.temperature is None
                else ctx.temperature
            ),
            tau_squared=self.tau_squared,
        )

    def compared(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Compared:
        """Scores of each query's list."""
        return output.list_scores(batch), self.list_teacher(output, batch, ctx), batch.mask

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query."""
        return {"listwise_kl": self._kl(*self.compared(output, batch, ctx), ctx)}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:
        """Lists with at least two scores count."""
        return {"listwise_kl": self.scored(batch, teacher).sum(-1) > 1}


class InBatchKL(ListwiseKL):
    """
    Divergence from a teacher's similarities over all documents of the batch, formed from its vectors.

    Parameters as in `ListwiseKL`.

    ```yaml
    - {type: retort.trainers.objectives.InBatchKL, init_parameters: {teacher_scale: 20.0}}
    ```
    """

    needs_lists = False
    needs_vectors = True
    needs_teacher_vectors = True

    def compared(self, output: DenseOutput, batch: CandidateBatch, ctx: StepContext) -> Compared:
        """Scores of all documents of the batch."""
        student, teacher = output.in_batch_scores(), self.in_batch_teacher(output, batch, ctx)
        return student, teacher, torch.ones_like(student, dtype=torch.bool)

    def forward(self, output: DenseOutput, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query."""
        return {"in_batch_kl": self._kl(*self.compared(output, batch, ctx), ctx)}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:
        """Queries with two documents to compare count."""
        compared = self._compared_teacher(teacher)
        if compared not in batch.teacher_vectors:  # it is in the loop
            return {"in_batch_kl": torch.full_like(batch.has_positive, len(batch.documents) > 1)}
        return {"in_batch_kl": self._compared_in_batch(compared, batch).sum(-1) > 1}


class MarginMSE(TeacherObjective):
    """
    Squared difference of the student's and a teacher's margins between positives and negatives (`losses.margin_mse`).

    The teacher's scores must be raw: margins of probabilities are squashed. Parameters as in `TeacherObjective`.

    ```yaml
    - {type: retort.trainers.objectives.MarginMSE, init_parameters: {teacher: ranker}, weight: 0.05}
    ```
    """

    needs_positives = True
    needs_lists = True

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query."""
        student, teacher = output.list_scores(batch), self.list_teacher(output, batch, ctx)
        return {"margin_mse": losses.margin_mse(student, teacher, batch.labels == 1, batch.mask)}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:
        """Lists with a scored positive and a scored negative count."""
        positive, scored = batch.labels == 1, self.scored(batch, teacher)
        return {"margin_mse": (scored & positive).any(-1) & (scored & ~positive).any(-1)}


class RankNet(TeacherObjective):
    """
    Pairwise logistic loss on the teacher's order (`losses.rank_net`); scores or mere ranks will do.

    Parameters as in `TeacherObjective`.

    ```yaml
    - {type: retort.trainers.objectives.RankNet, init_parameters: {teacher: ranker}}
    ```
    """

    needs_lists = True
    takes_ranks = True

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query."""
        student, teacher = output.list_scores(batch), self.list_teacher(output, batch, ctx)
        return {"rank_net": losses.rank_net(student, teacher, batch.mask)}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:
        """Lists that the teacher orders count; of teachers in the loop all of two documents or more."""
        names, known = (
            (self._compared_teacher(teacher), *self.extra_teachers),
            {*batch.teacher_scores, *batch.teacher_vectors},
        )
        if not known.issuperset(names):
            return {"rank_net": self.scored(batch, teacher).sum(-1) > 1}
        # Any positive scale gives the same order.
        scores = self.list_teacher(SimpleNamespace(cosine_scale=1.0), batch, StepContext("", 0, 1, teacher=teacher))
        return {"rank_net": losses.ordered_pairs(scores, batch.mask).any(-1).any(-1)}


class ListMLE(TeacherObjective):
    """
    Likelihood of the teacher's order (`losses.list_mle`); scores or mere ranks will do.

    Parameters as in `TeacherObjective`.

    ```yaml
    - {type: retort.trainers.objectives.ListMLE, init_parameters: {teacher: ranker, extra_teachers: {bm25: 0.1}}}
    ```
    """

    needs_lists = True
    takes_ranks = True

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query."""
        student, teacher = output.list_scores(batch), self.list_teacher(output, batch, ctx)
        return {"list_mle": losses.list_mle(student, teacher, batch.mask)}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:
        """Lists with at least two scores count."""
        return {"list_mle": self.scored(batch, teacher).sum(-1) > 1}


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

    ```yaml
    - {type: retort.trainers.objectives.Flops, init_parameters: {query_weight: 0.01, document_weight: 0.005}}
    ```
    """

    needs_vectors = True
    scores_only = False

    def __init__(self, *, query_weight: float = 5e-3, document_weight: float = 3e-3, rise: float = 0.33) -> None:
        super().__init__()
        self.query_weight = query_weight
        self.document_weight = document_weight
        self.rise = rise

    def forward(self, output: DenseOutput, batch: CandidateBatch, ctx: StepContext) -> Values:  # noqa: ARG002
        """One value a side."""
        share = 1.0 if self.rise <= 0 else min((ctx.step + 1) / (self.rise * ctx.steps), 1.0) ** 2
        sides = {
            "flops_query": (output.queries, self.query_weight),
            "flops_document": (output.documents, self.document_weight),
        }
        return {
            name: ((vectors.abs().sum(0) / max(1, len(vectors))) ** 2).sum()[None] * weight * share
            for name, (vectors, weight) in sides.items()
        }

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:  # noqa: ARG002
        """Both count, but for a side that a part of the batch has nothing of."""
        there = {"flops_query": batch.queries, "flops_document": batch.documents}
        return {name: batch.index.new_full((1,), len(texts) > 0, dtype=torch.bool) for name, texts in there.items()}


class Alignment(Objective):
    """
    Distance between the student's vectors and a teacher's, for queries and documents (see `losses.alignment`).

    :param teacher:
        Name of a teacher that gives vectors.
    :param distance:
        `cosine`, `l2`, `squared` or `mse`.
    :param projection:
        Learn a linear map from the student's to the teacher's dimension. It is left out of the exported student.

    ```yaml
    - {type: retort.trainers.objectives.Alignment, init_parameters: {distance: l2, projection: true}}
    ```
    """

    needs_vectors = True
    needs_teacher_vectors = True
    scores_only = False

    def __init__(
        self,
        *,
        teacher: str,
        distance: Literal["cosine", "l2", "squared", "mse"] = "cosine",
        projection: bool = False,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.distance = one_of("distance", distance, ("cosine", "l2", "squared", "mse"))
        self.projection: nn.Module = nn.Linear(1, 1) if projection else nn.Identity()

    def bind(self, info: ModelInfo) -> None:
        """
        Size the projection.

        :raises ValueError:
            If the dimensions differ and there is no projection.
        """
        theirs = info.teacher_dims[str(self.teacher)]
        if isinstance(self.projection, nn.Linear):
            self.projection = nn.Linear(info.student_dim, theirs, bias=False)
        elif theirs != info.student_dim:
            msg = (
                f"Alignment: the student has {info.student_dim} dimensions, teacher {self.teacher!r} has {theirs}. "
                f"Give the student a head that it keeps (its maker's dim: {theirs}), set projection: true for one that "
                "is left out of it, or use InBatchKL, which compares scores."
            )
            raise ValueError(msg)

    def forward(self, output: DenseOutput, batch: CandidateBatch, ctx: StepContext) -> Values:  # noqa: ARG002
        """One value a text."""
        queries, documents = batch.teacher_vectors[str(self.teacher)]
        pairs = {"align_query": (output.queries, queries), "align_document": (output.documents, documents)}
        return {
            name: losses.alignment(self._projected(student), teacher.nan_to_num(), distance=self.distance)
            for name, (student, teacher) in pairs.items()
        }

    def _projected(self, vectors: Tensor) -> Tensor:
        """In the projection's own precision, which a student in bfloat16 has not."""
        own = next(self.projection.parameters(), vectors)
        projected: Tensor = self.projection(vectors.to(own.dtype))
        return projected

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:  # noqa: ARG002
        """All texts count that the teacher gave a vector of; of one in the loop all."""
        sizes = {"align_query": len(batch.queries), "align_document": len(batch.documents)}
        if (vectors := batch.teacher_vectors.get(str(self.teacher))) is None:
            return {name: batch.index.new_ones(size, dtype=torch.bool) for name, size in sizes.items()}
        return {name: there(own) for name, own in zip(sizes, vectors, strict=True)}


def there(vectors: Tensor) -> Tensor:
    """`[n]` bool of `[n, d]`: texts that a teacher refused have no vector, but NaN."""
    return ~vectors.isnan().any(-1)


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


def one_of(name: str, value: Choice, known: tuple[Choice, ...]) -> Choice:
    """Check a parameter's value."""
    if value not in known:
        msg = f"{name} must be one of {', '.join(known)}; it is {value!r}."
        raise ValueError(msg)
    return value
