# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
r"""
E5: weakly supervised contrastive pre-training (Wang et al. 2022, arXiv 2212.03533).

Pairs that a corpus brings along (`data.weak_pairs.WeakPairs`, `batches: pairs`) train a first model. The pairs that it
ranks high train a second one from the same initial weights; so networks fit clean labels before noise. Fine-tuning on
labels follows, with $KL(teacher \| student) + 0.2 L$: `ListwiseKL` with `tau_squared: false`, and the contrastive loss.

The official code has the evaluation alone. Its authors refer to SimLM's training (`parity: code`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from retort.students.towers import SIDES
from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.data.weak_pairs import pairs_of
from retort.trainers.encoder_output import DenseOutput, similarities
from retort.trainers.objectives import Contrastive, judged, one_of
from retort.trainers.roles import Context, Selector, StepContext, Values
from retort.trainers.runtime.rng import rng_for
from retort.trainers.search import scorer

BLOCK = 64  # queries that are ranked at a time
ROUNDING = 1e-6  # scores of equal vectors differ by less


class ConsistencyFilter(Selector):
    """
    Keeps the queries whose own passages a model, trained on the noisy pairs, ranks high among random ones.

    The model should have seen each pair once at most: what it sees again it learns by heart, wrong pairs too.

    Passages are those of `batches: pairs`, without the query's text. A query with several needs all of them ranked
    high. The pool is drawn once for all queries; a query's own documents, and equal texts, are left out of it.

    :param model:
        Who ranks: a teacher with vectors, such as a `TrainedInRunBiEncoder`, or `student`.
    :param top:
        $k$: the worst rank that is kept, from 1.
    :param pool:
        Random passages, at most; 1,000,000 in the paper.
    :param seed:
        Seed of the pool.
    :raises ValueError:
        If `top` or `pool` is below 1.

    ```yaml
    selector:
      type: retort.trainers.methods.e5.ConsistencyFilter
      init_parameters: {model: noisy, top: 2, pool: 2000}
    ```
    """

    def __init__(self, *, model: str, top: int = 2, pool: int = 1_000_000, seed: int = 0) -> None:
        if top < 1 or pool < 1:
            msg = f"ConsistencyFilter: top and pool must be at least 1; they are {top} and {pool}."
            raise ValueError(msg)
        self.model, self.top, self.pool, self.seed = model, top, pool, seed
        self.teachers = () if model == "student" else (model,)

    def check(self, context: Context) -> None:
        """Refuse a model without vectors."""
        context.similarity(self.model)

    def keep(self, context: Context, enough: int) -> np.ndarray:  # noqa: ARG002
        """Choose queries, `[q]` bool; see `Selector.keep`."""
        data, pairs = context.data, pairs_of(context.data)
        kept = np.zeros(len(data.queries), dtype=bool)
        if not len(pairs.rows):
            return kept
        kept[pairs.queries] = True
        seen = context.over(replace(data, corpus=pairs.passages, qrels={}, given={}, held_out=frozenset()))
        order = rng_for("consistency", self.seed, pairs.passages.hash).permutation(len(pairs.passages))
        pool, similarity = np.sort(order[: self.pool]), context.similarity(self.model)
        queries, passages = (seen.vectors(self.model, side) for side in SIDES)
        queries = queries[pairs.queries]
        score_pool = scorer(queries, passages[pool], similarity)
        for start in range(0, len(pairs.rows), BLOCK):
            block = slice(start, start + BLOCK)
            own = scorer(queries[block], passages[pairs.rows[block]], similarity)(slice(None)).numpy().diagonal()
            others = ~pairs.never_negative(pairs.queries[block], pool)
            kept[pairs.queries[block][ranks(own, score_pool(block).numpy(), others) > self.top]] = False
        return kept


def ranks(own: np.ndarray, pool: np.ndarray, mask: np.ndarray) -> np.ndarray:
    r"""
    Rank each query's own passage among others; ties count against it. Without a vector (NaN) it comes last.

    $$r = 1 + |\{x : s(q, x) \ge s(q, p)\}|$$

    :param own:
        `[n]` scores $s(q, p)$.
    :param pool:
        `[n, m]` scores $s(q, x)$.
    :param mask:
        `[n, m]` bool, what takes part: the pool without the query's own passages.
    :returns:
        `[n]`, from 1.
    """
    return 1 + (mask & ~np.isnan(pool) & ~(pool < own[:, None] - ROUNDING)).sum(-1)


class PairContrastive(Contrastive):
    r"""
    Contrastive loss of queries and passages of a batch.

    $$L = -\log \frac{e^{s(q_i, p_i)}}{e^{s(q_i, p_i)} + \sum_{x \in C_i} e^{s_x}}$$

    `paper`: $C_i$ are the scores of the query and the other passages of the batch, as in `Contrastive`. `code`, SimLM's
    default: also those of its passage and the other queries, of the query and these, and of its passage and theirs.
    Queries that share a passage, and their passages, are not compared.

    $s$ has the recipe's `training.scale`, which is $1 / \tau$ for cosines: 100 in the paper, 50 in SimLM's scripts.

    :param parity:
        `paper` or `code`.
    :param temperature:
        Divides the scores further.

    ```yaml
    batches: pairs
    objectives: [{type: retort.trainers.methods.e5.PairContrastive, init_parameters: {parity: paper}}]
    ```
    """

    def __init__(self, *, parity: Literal["paper", "code"] = "paper", temperature: float = 1.0) -> None:
        super().__init__(scope="in_batch", temperature=temperature)
        self.parity = one_of("parity", parity, ("paper", "code"))

    def forward(self, output: DenseOutput, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query."""
        if self.parity == "paper":
            return super().forward(output, batch, ctx)
        positive, mask = judged(batch, "in_batch")
        column = ((batch.labels == 1) & batch.mask).int().argmax(-1, keepdim=True)
        own = batch.index.gather(1, column)[:, 0]  # the first positive
        queries, passages = output.queries, output.documents[own]
        shared = batch.known_positive[:, own]
        apart = ~(shared | shared.T)
        blocks = [
            (similarities(passages, queries, output.similarity), apart),
            (similarities(queries, queries, output.similarity), apart),
            (similarities(passages, passages, output.similarity), apart & batch.has_positive),
        ]
        scores = torch.cat([output.in_batch_scores(), *(values * output.scale for values, _ in blocks)], dim=1)
        negatives = torch.cat([allowed for _, allowed in blocks], dim=1)
        scores = scores / (self.temperature if ctx.temperature is None else ctx.temperature)
        positive = torch.cat([positive, torch.zeros_like(negatives)], dim=1)
        return {"contrastive": losses.contrastive(scores, positive, torch.cat([mask, negatives], dim=1))}
