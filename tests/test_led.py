# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""LED: reference values, ties, what is no pair, and a killed run."""

import copy

import pytest
import torch
from sentence_transformers.sparse_encoder.modules import SpladePooling
from tiny import assert_comes_back, everything, lists, pool, spec, stage, terms_of

from retort.students import create
from retort.trainers.encoder_output import DenseOutput, PairOutput
from retort.trainers.losses import contrastive, listwise_kl
from retort.trainers.methods.led import RankConsistency
from retort.trainers.objectives import Flops
from retort.trainers.recipe import Recipe
from retort.trainers.roles import ModelInfo, StepContext
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError

S = torch.tensor([[1.0, 1.4, 0.3, 0.9]], dtype=torch.float64)
X = torch.tensor([[8.0, 5.0, 6.5, 2.0]], dtype=torch.float64)
HERE = StepContext("s", 0, 1)


def loss(student: torch.Tensor, teacher: torch.Tensor, **options) -> tuple[torch.Tensor, int]:
    """Give the mean over pairs, and their number."""
    batch = lists(teacher)
    ((values, counts),) = terms_of(RankConsistency(teacher="t", **options), PairOutput(student), batch, HERE).values()
    return values[counts].mean(), int(counts.sum())


class TestReferenceValues:
    @pytest.mark.parametrize(
        ("options", "value", "pairs"),
        [
            ({}, 0.35, 6),
            ({"positives": False}, 0.566667, 3),
            ({"margin": 0.1}, 0.4, 6),
            ({"min_gap": 2.0}, 0.25, 4),
            ({"min_gap": 3.0}, 0.25, 4),  # 8 and 5 are just as far apart
        ],
    )
    def test_a_list(self, options, value, pairs):
        found, count = loss(S, X, **options)
        assert float(found) == pytest.approx(value, abs=1e-6)
        assert count == pairs

    def test_its_gradient(self):
        scores = S.clone().requires_grad_()
        loss(scores, X)[0].backward()
        assert scores.grad[0].tolist() == pytest.approx([-1 / 6, 1 / 3, -1 / 3, 1 / 6], abs=1e-6)

    def test_the_whole_loss(self):
        """Two queries with a negative each, of which one is a conflict of teacher and label."""
        whole = torch.tensor([[1.5, 1.16, 0.44, 1.04], [0.15, 0.9, 1.22, 0.79]], dtype=torch.float64)
        own = torch.stack([whole[0, :2], whole[1, 2:]])
        positive = torch.tensor([[True, False, False, False], [False, False, True, False]])
        labels = contrastive(whole, positive, torch.ones_like(positive)).mean()
        order, pairs = loss(own, torch.tensor([[9.0, 3.0], [7.0, 7.5]], dtype=torch.float64))
        ranker = torch.tensor([[5.0, 1.0], [2.0, 3.0]], dtype=torch.float64)
        kl = listwise_kl(own, ranker, torch.ones(2, 2).bool(), student_temperature=3.0, teacher_temperature=3.0).mean()
        assert float(labels) == pytest.approx(0.994934, abs=1e-6)
        assert (float(order), pairs) == (pytest.approx(0.215, abs=1e-6), 2)
        assert float(labels + order) == pytest.approx(1.209934, abs=1e-6)
        assert float(labels + 1.5 * kl + 1.2 * order) == pytest.approx(2.452541, abs=1e-6)

    def test_a_sparse_vector_and_its_regulariser(self, trunk):
        """08-C: what the lexical teacher, a student like any other, makes of two tokens' logits over three words."""
        (pool,) = [module for module in create.sparse(trunk) if isinstance(module, SpladePooling)]
        logits = torch.tensor([[[0.5, -1.0, 3.0], [2.0, 0.0, 1.0]]])
        seen = pool({"token_embeddings": logits, "attention_mask": torch.ones(1, 2, dtype=torch.int64)})
        vector = seen["sentence_embedding"]
        assert vector[0].tolist() == pytest.approx([1.098612, 0, 1.386294], abs=1e-6)
        documents = torch.cat([vector, torch.tensor([[0.0, 0.5, 0.1]])])
        objective = Flops(query_weight=6e-4, document_weight=8e-4, rise=0)  # as in its authors' code
        terms = objective(DenseOutput(vector, documents, 1.0, "dot"), lists(X), HERE)
        assert float(terms["flops_document"]) / 8e-4 == pytest.approx(0.916505, abs=1e-6)
        assert float(terms["flops_query"]) / 6e-4 == pytest.approx(1.098612**2 + 1.386294**2, abs=1e-5)


def test_pairs_against_the_labels_can_be_left_out():
    teacher = torch.tensor([[7.0, 7.5, 1.0]], dtype=torch.float64)
    scores = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
    assert [float(v) for v in loss(scores, teacher)] == [pytest.approx(1 / 3), 3]
    assert loss(scores, teacher, protect_positives=True) == (0, 2)


def test_ties_missing_scores_and_padding_are_no_pairs():
    teacher = torch.tensor([[3.0, 3.0, torch.nan, 1.0, 0.0]], dtype=torch.float64)
    batch = lists(teacher)
    batch.mask[0, 4] = False
    pairs = RankConsistency(teacher="t").pairs(batch)
    assert pairs.nonzero().tolist() == [[0, 0, 3], [0, 1, 3]]
    assert not RankConsistency(teacher="t", min_gap=2.5).pairs(batch).any()


def test_a_gap_is_of_the_teachers_own_similarities():
    """Of a teacher that gives vectors, without the scale that divergences give them."""
    batch = lists(X)
    angles = torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=torch.float64)
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    batch.teacher_scores, batch.teacher_vectors = {}, {"t": (vectors[:1], vectors)}
    objective = RankConsistency(teacher="t", min_gap=0.3)
    objective.bind(ModelInfo(2, {"t": 2}, {"t": "cosine"}))
    gaps = angles.cos()[:, None] - angles.cos()
    assert torch.equal(objective.pairs(batch)[0], gaps >= 0.3)


def test_the_mean_is_over_pairs_not_queries():
    """A list of one pair counts as much as any other pair."""
    teacher = torch.tensor([[3.0, 2.0, 1.0], [2.0, 1.0, torch.nan]], dtype=torch.float64)
    scores = torch.tensor([[0.0, 1.0, 2.0], [0.0, 3.0, 0.0]], dtype=torch.float64)
    assert [float(v) for v in loss(scores, teacher)] == [pytest.approx((1 + 1 + 2 + 3) / 4), 4]


@pytest.mark.parametrize(("options", "ranks"), [({}, True), ({"min_gap": 1.0}, False)])
def test_mere_ranks_will_do_without_a_gap(options, ranks):
    assert RankConsistency(teacher="t", **options).takes_ranks is ranks


@pytest.mark.parametrize("options", [{"margin": -0.1}, {"min_gap": -1.0}])
def test_numbers_below_zero(options):
    with pytest.raises(ValueError, match="margin and min_gap are at least 0"):
        RankConsistency(teacher="t", **options)


def test_a_teacher_in_the_loop_is_refused():
    batch = lists(X)
    batch.teacher_scores = {}
    with pytest.raises(RecipeError, match="teacher 't' is in the loop"):
        RankConsistency(teacher="t").valid(batch)


def test_a_killed_run(recipe_tree, beir, tmp_path, monkeypatch):
    """With both lexical and dense negatives, of which some are drawn more often."""
    tree = copy.deepcopy(recipe_tree)
    tree["teachers"]["words"] = spec("BM25Teacher")
    objectives = (spec("Contrastive"), spec("retort.trainers.methods.led.RankConsistency", teacher="words"))
    candidates = pool("bm25", "own", negatives=3, sampling="multiset")
    tree["stages"] = [stage("lexicon", 6, *objectives, candidates=candidates)]
    run_recipe(Recipe.from_dict(tree), beir, tmp_path / "whole" / "run")
    assert_comes_back(tree, beir, tmp_path, monkeypatch, everything(tmp_path / "whole" / "run"), (4,))
