# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
CuDFKD: data-free distillation from easy to hard (Li et al. 2023, arXiv 2208.13648).

There are no training queries. The paper's generator of images is replaced by proposals of queries, easy ones first
(`data.proposals.Proposals`), of which those stay that the teacher is sure of, that cover the corpus, and later those
over which the student still differs from it (`UsefulQueries`). The loss is `SelfPacedKL` over lists alone: hard queries
count little at first. The curriculum, its weights and schedules are those of the official code; the rest is ours.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from scipy.sparse import issparse
from torch import Tensor

from retort.students.vectors import unit
from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.objectives import ListwiseKL, one_of
from retort.trainers.roles import Context, Masks, Selector, State, StepContext, Values
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.runtime.rng import rng_for

DISAGREEMENT_TEMPERATURE = 3.0  # of the adversarial term
SAMPLE = 1024  # lists, for the pace
REACHED = 0.75  # of a stage's steps, when the pace has come to its last value


def adversarial_weight(at: float, *, start: float, growth: float, begin: float, end: float) -> float:
    """Weight of the adversarial term: `start`, and from `begin` to `end` `growth` more for each unit of `at`."""
    return start + growth * (min(max(at, begin), end) - begin)


def worth_of(teacher: Tensor, student: Tensor, mask: Tensor, *, detach: bool = True) -> tuple[Tensor, Tensor]:
    r"""
    How sure the teacher is of a list, and how far the student is from it where both have the same favourite.

    $$\log \max_i p_i, \qquad [\arg\max p = \arg\max q] \; 9 \, \mathrm{KL}_3(p \| q)$$

    where $p$ and $q$ are the teacher's and the student's distributions over the list: `oh` and `adv` of the official
    code's generator. Without the condition, lists would be worth most of which the teacher knows nothing.

    :param teacher:
        `[P, N]` scores, NaN where missing.
    :param student:
        `[P, N]` scores.
    :param mask:
        `[P, N]` bool.
    :param detach:
        No gradient reaches the teacher's scores; a generator learns through both, and wants it.
    :returns:
        `[P]` each.
    """
    mask, tau = mask & ~teacher.isnan(), DISAGREEMENT_TEMPERATURE
    sure = losses.log_distribution(teacher.masked_fill(~mask, 0.0), mask).masked_fill(~mask, -torch.inf)
    agree = sure.argmax(-1) == student.masked_fill(~mask, -torch.inf).argmax(-1)
    apart = losses.listwise_kl(student, teacher, mask, student_temperature=tau, teacher_temperature=tau, detach=detach)
    return sure.amax(-1), agree * apart


def best_of(utility: np.ndarray, cluster: np.ndarray, most: int, balance: float) -> np.ndarray:
    r"""
    Choose queries of high utility from all clusters.

    It maximises $\sum_i u_i / M + w H(n / M)$ over sets of $M$, where $n$ counts the chosen of each cluster: the
    $k$-th of a cluster, from 0, costs $w ((k + 1) \log (k + 1) - k \log k)$. Costs rise, so the cheapest are best.

    :param utility:
        `[P]`, $u$.
    :param cluster:
        `[P]`.
    :param most:
        $M$.
    :param balance:
        $w$, `-lmda_ent` in the official code.
    :returns:
        `[P]` bool.
    """
    order = np.lexsort((np.arange(len(utility)), -utility, cluster))
    starts = np.flatnonzero(np.diff(cluster[order], prepend=-1))
    place = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    cost = (place + 1) * np.log(place + 1) - place * np.log(np.maximum(place, 1))
    worth = np.empty(len(order))
    worth[order] = utility[order] - balance * cost
    return np.isin(np.arange(len(worth)), np.argsort(-worth, kind="stable")[:most])


def scored(context: Context, lists: CandidateLists, teacher: str, scale: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Score whole lists: the teacher's and the student's scores as a loss takes them, and the mask, `[P, N]` each."""
    given = scale is not None and context.teachers[teacher].gives == "vectors"  # as in `TeacherObjective`
    factors = {teacher: scale if given else context.scale(teacher), "student": context.scale("student")}
    both = [lists.padded(context.scores(n, lists.owners, lists.rows) * np.float32(f)) for n, f in factors.items()]
    return torch.from_numpy(both[0]), torch.from_numpy(both[1]), torch.from_numpy(lists.padded(True))


class UsefulQueries(Selector):
    r"""
    Keeps a share of the proposed queries: those that are worth most, from all over the corpus (see `best_of`).

    $$u = a \log \max_i p_i - b \, m + c \, [\arg\max p = \arg\max q] \; 9 \, \mathrm{KL}_3(p \| q)$$

    It is the negated loss of the paper's generator (see `worth_of`).
    The teacher scores the lists of all proposals as the stage opens or is refreshed. Clusters are k-means of document
    vectors; a query belongs to that of the teacher's favourite. How unlike the corpus a query is says
    $m = \frac1d \sum_j (z_j - \mu_j)^2 / \sigma_j^2$, of its vector $z$ and the documents' mean and variance. Vectors
    are the teacher's, or where it gives none the student's.

    :param teacher:
        Name of the teacher.
    :param share:
        How many are kept.
    :param selection:
        `utility`, or `random`: the whole pool, itself a random draw. Then as many lists are scored, and all are trained
        on: the baseline at equal calls.
    :param certainty:
        Weight of the teacher's certainty.
    :param balance:
        Weight of the clusters' entropy.
    :param typical:
        Weight of the distance from the corpus.
    :param adversarial:
        Weight of lists over which teacher and student agree on the first, and differ otherwise:
        `{start, growth, begin, end}`, in shares of the stage (see `adversarial_weight`).
    :param clusters:
        How many, at most.
    :param teacher_scale:
        As in `TeacherObjective`.
    :raises ValueError:
        If the share or the schedule is none.

    ```yaml
    selector: {type: retort.trainers.methods.cudfkd.UsefulQueries, init_parameters: {share: 0.5}}
    ```
    """

    needs_lists = True

    def __init__(
        self,
        *,
        teacher: str,
        share: float = 0.5,
        selection: Literal["utility", "random"] = "utility",
        certainty: float = 1.0,
        balance: float = 20.0,
        typical: float = 1.0,
        adversarial: dict[str, float] | None = None,
        clusters: int = 32,
        teacher_scale: float | None = None,
    ) -> None:
        schedule = {"start": 0.0, "growth": 10.0, "begin": 0.25, "end": 0.75} | (adversarial or {})
        known = len(schedule) == 4 and schedule["begin"] <= schedule["end"] <= 1  # noqa: PLR2004
        if not 0 < share <= 1 or clusters < 1 or not known:
            msg = "UsefulQueries: 0 < share <= 1, clusters > 0; adversarial: start, growth, begin <= end <= 1 alone."
            raise ValueError(msg)
        self.selection = one_of("selection", selection, ("utility", "random"))
        self.teacher, self.share, self.teacher_scale = teacher, share, teacher_scale
        self.certainty, self.balance, self.typical, self.clusters = certainty, balance, typical, clusters
        self.adversarial = schedule
        self.teachers = (teacher,)

    def asked_pairs(self, queries: int, listed: int) -> int:
        """The lists of all proposals."""
        return queries * listed

    def open(self, lists: CandidateLists) -> None:
        """Take up the lists."""
        self._lists = lists

    def keep(self, context: Context, enough: int) -> np.ndarray:  # noqa: ARG002
        """
        Choose queries.

        :raises RecipeError:
            If the vectors for clusters are sparse.
        """
        lists, kept = self._lists, np.zeros(len(context.data.queries), dtype=bool)
        if self.selection == "random" or not len(lists):
            return ~kept
        teacher, student, mask = scored(context, lists, self.teacher, self.teacher_scale)
        queries, documents = self._vectors(context)
        mean, variance = documents.mean(0), documents.var(0)
        untypical = ((queries[lists.query_rows] - mean) ** 2 / np.maximum(variance, 1e-12)).mean(1)
        seed = rng_for("clusters", context.data.corpus.hash)
        count = min(self.clusters, len(np.unique(context.data.corpus.first_rows)))
        cluster = kmeans2(documents, count, minit="++", rng=seed, missing="warn")[1]
        best = teacher.nan_to_num(nan=-torch.inf).masked_fill(~mask, -torch.inf).argmax(-1).numpy()
        sure, apart = worth_of(teacher, student, mask)
        utility = self.certainty * sure + adversarial_weight(context.progress, **self.adversarial) * apart
        utility = utility.numpy() - self.typical * untypical
        favourites = cluster[lists.rows[lists.offsets[:-1] + best]]
        most = max(1, round(self.share * len(lists)))
        kept[lists.query_rows[best_of(utility, favourites, most, self.balance)]] = True
        return kept

    def _vectors(self, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of queries and documents, as they are compared."""
        name = self.teacher if context.teachers[self.teacher].gives == "vectors" else "student"
        both = [context.vectors(name, side) for side in ("query", "document")]
        if issparse(both[0]):
            msg = f"UsefulQueries: the vectors of {name!r} are sparse; it needs dense ones for clusters."
            raise RecipeError(msg)
        if context.similarity(name) == "cosine":
            both = [unit(vectors) for vectors in both]
        queries, documents = map(np.nan_to_num, both)  # of refused texts there is none
        return queries, documents


class SelfPacedKL(ListwiseKL):
    r"""
    `ListwiseKL` with self-paced weights: lists that the student is far off count little at first.

    $$L = \sum_b v_{\lambda_t}(l_b) \, l_b, \quad \lambda_t = \lambda_0 + a t$$

    without a gradient through $v$ (see `losses.self_paced_weights`). By default $\lambda_0$ is the median of the
    student's losses on the stage's lists as it opens, and $a$ such that $\lambda$ comes to their 99th percentile at 75%
    of the stage's steps. Refreshes leave both as they are. The mean weight, $\lambda$ and $F_\lambda$ (see
    `losses.self_paced_latent`) are logged.

    :param teacher:
        Name of the teacher.
    :param temperature:
        Divides both sides' scores. A stage's `temperature` takes its place, but for measuring $\lambda$ at the start.
    :param how:
        `log` (as the official scripts), `linear` or `hard`; `none` weighs all lists alike.
    :param granularity:
        `query`: each list has its weight. `batch`: all of a batch have that of its mean loss, as in the official code;
        where `training.accumulation` cuts a batch, all of a part.
    :param start:
        $\lambda_0$.
    :param rate:
        $a$.
    :param teacher_scale:
        As in `TeacherObjective`.

    ```yaml
    - {type: retort.trainers.methods.cudfkd.SelfPacedKL, init_parameters: {temperature: 1.0}, weight: 1.0}
    ```
    """

    def __init__(
        self,
        *,
        teacher: str,
        temperature: float = 1.0,
        how: Literal["log", "linear", "hard", "none"] = "log",
        granularity: Literal["query", "batch"] = "query",
        start: float | None = None,
        rate: float | None = None,
        teacher_scale: float | None = None,
    ) -> None:
        super().__init__(teacher=teacher, student_temperature=temperature, teacher_scale=teacher_scale)
        self.how = one_of("how", how, ("log", "linear", "hard", "none"))
        self.granularity = one_of("granularity", granularity, ("query", "batch"))
        self.start, self.rate, self.temperature = start, rate, temperature

    def open(self, context: Context, lists: CandidateLists | None) -> State:
        """
        Measure the student's losses.

        :returns:
            `pace`: their median and 99th percentile, `[2]`.
        :raises RecipeError:
            If they are needed, and there are no mined lists, or the teacher is in the loop.
        """
        if self.how == "none" or (self.start is not None and self.rate is not None):
            return {}
        name = str(self.teacher)
        lists = self.mined_lists(context, lists, [name], "; or set start and rate")
        keep = np.zeros(len(context.data.queries), dtype=bool)
        keep[lists.query_rows[:: max(1, len(lists) // SAMPLE)]] = True
        teacher, student, mask = scored(context, lists.only(keep), name, self.teacher_scale)
        usable = (mask & ~teacher.isnan()).sum(-1) > 1
        values = self._kl(student, teacher, mask, StepContext("", 0, 1))[usable]
        return {"pace": values.quantile(values.new_tensor([0.5, 0.99]))} if len(values) else {}

    def renew(self, state: State, context: Context, lists: CandidateLists | None) -> State:  # noqa: ARG002
        """Leave it as it is."""
        return state

    def pace(self, ctx: StepContext) -> float:
        r"""$\lambda_t$ at a step."""
        first, last = ctx.state["pace"].tolist() if "pace" in ctx.state else (0.0, 0.0)
        start = first if self.start is None else self.start
        rate = (last - start) / (REACHED * ctx.steps) if self.rate is None else self.rate
        return start + rate * ctx.step

    def forward(self, output: object, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query."""
        loss = self._kl(*self.compared(output, batch, ctx), ctx)
        if self.how == "none":
            return {"self_paced_kl": loss}
        counts, pace = self.valid(batch, ctx.teacher)["self_paced_kl"], self.pace(ctx)
        known = loss.detach()
        if self.granularity == "batch":
            known = (known * counts).sum().div(counts.sum().clamp(min=1)).expand_as(known)
        weight = losses.self_paced_weights(known, pace, self.how)
        logged = {
            "weight": weight,
            "pace": torch.full_like(known, pace),
            "latent": losses.self_paced_latent(known, pace, self.how),
        }
        ctx.logged_terms.update({name: (values, counts) for name, values in logged.items()})
        return {"self_paced_kl": weight * loss}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:
        """Lists with at least two scores count."""
        return {"self_paced_kl": self.scored(batch, teacher).sum(-1) > 1}
