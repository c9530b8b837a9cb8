# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""MTD: reference values, who agrees, what each kind of query learns from, and a killed run."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import T1, T3, S, assert_comes_back, everything, log_of, spec

from retort.trainers import losses
from retort.trainers.data.beir import read_beir
from retort.trainers.distiller import Distiller
from retort.trainers.encoder_output import PairOutput
from retort.trainers.methods.mtd import ConsensusAndDifference, consensus
from retort.trainers.recipe import Recipe
from retort.trainers.roles import ModelInfo, StepContext
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError

PAPER = {"confidence": 0.0, "margin": 0.0, "negatives": 1.0}
FULL = torch.ones(2, 5, dtype=torch.bool)
MTD = "retort.trainers.methods.mtd.ConsensusAndDifference"


@pytest.fixture
def per_query(toy, tiny_model, monkeypatch):
    """Give a function: the loss of each query of the toy batch, whose labels are not known, and what is logged."""

    def of(teachers, labels=False, **options):
        batch = copy.copy(toy)
        if not labels:
            batch.labels = torch.full_like(toy.labels, -1)
        objective = ConsensusAndDifference(teacher=teachers, **PAPER | options)
        distiller = Distiller(tiny_model(1), {"s": [(objective, 1.0)]}, ModelInfo(16, {}, {}), scale=1.0)
        monkeypatch.setattr(distiller.encoder, "encode", lambda *_: PairOutput(S))
        distiller.stage_state = {"s.0": {"temperatures": torch.ones(len(objective.each_teacher))}}
        terms = distiller(batch, StepContext("s", 0, 1))
        assert distiller.counts(batch, StepContext("s", 0, 1)) == {"mtd_labels": 2, "mtd_teachers": 2}
        values = terms["mtd_labels"][0] + terms["mtd_teachers"][0]
        return values, {n: (v[0] * v[1]).tolist() for n, v in terms.items()}

    return of


class TestReferenceValues:
    def test_two_that_disagree(self, per_query):
        values, terms = per_query(["t1", "t2"])
        assert values.tolist() == pytest.approx([0.207425, 0.382190], abs=1e-6)
        assert terms["consensus"] == [0, 0]

    def test_two_that_agree_on_one(self, per_query):
        values, terms = per_query(["t1", "t3"])
        assert terms["consensus"] == [1, 0]
        assert values.tolist() == pytest.approx([0.732597, 0.314549], abs=1e-6)
        assert float(values.mean()) == pytest.approx(0.523573, abs=1e-6)

    @pytest.mark.parametrize(
        ("soft_on", "expected"),
        [("difference", [0.592459, 0.314549]), ("labelled_and_consensus", [0.732597, 0.0])],
    )
    def test_where_teachers_are_followed(self, per_query, soft_on, expected):
        assert per_query(["t1", "t3"], soft_on=soft_on)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_labels_override(per_query):
    """Several positives share the mass, and no consensus is looked for."""
    values, terms = per_query(["t1", "t3"], labels=True, soft_on="difference")
    assert (terms["labelled"], terms["consensus"]) == ([1, 1], [0, 0])
    assert terms["consensus_right"] == [1, 0]  # they agree on the first query alone, on its positive
    assert per_query(["t1", "t3"])[1]["consensus_right"] == [0, 0]  # without labels nobody can tell
    assert values.tolist() == pytest.approx([0.592459, 1.038171], abs=1e-6)


def test_one_teacher_alone_is_consensus(per_query):
    assert per_query("t2")[1]["consensus"] == [1, 1]


class TestConsensus:
    def test_the_order_of_candidates_says_nothing(self):
        order = torch.tensor([3, 1, 4, 0, 2])
        agree, best = consensus(torch.stack([T1, T3]), FULL)
        moved, place = consensus(torch.stack([T1, T3])[:, :, order], FULL)
        assert agree.tolist() == moved.tolist() == [True, False]
        assert order[place[0]] == best[0] == 0

    def test_who_puts_two_first_has_chosen_none(self):
        tied = torch.tensor([[[3.0, 1.0, 0.0]], [[0.0, 0.0, 0.0]]])
        for order in ([0, 1, 2], [1, 0, 2]):
            assert not consensus(tied[:, :, order], torch.ones(1, 3, dtype=torch.bool))[0].item()

    def test_sure_enough(self):
        """Each teacher must be: T3's first two shares are .24 and .22, T1's .76 and .10."""
        scores = torch.stack([T1, T3])[:, :1]
        mask = FULL[:1]
        assert consensus(scores, mask)[0].item()
        assert consensus(scores, mask, confidence=0.2, margin=0.02)[0].item()
        assert not consensus(scores, mask, confidence=0.3)[0].item()
        assert not consensus(scores, mask, margin=0.05)[0].item()

    def test_what_a_teacher_did_not_score_takes_no_part(self):
        scores = torch.stack([T1, T3])
        scores[1, 0, 0] = torch.nan
        agree, best = consensus(scores, FULL)
        assert agree[0].item() and best[0].item() == 1
        scores[1, 0, 1:] = torch.nan
        assert not consensus(scores, FULL)[0][0].item()

    def test_unsure_candidates_are_no_negatives(self, per_query):
        """With T1 and T3 on the first query, candidate 1's mean share is .16, the others' below .14."""
        values, _ = per_query(["t1", "t3"], negatives=0.15, soft_on="difference")
        mask = torch.tensor([[True, False, True, True, True]])
        expected = -losses.log_distribution(S[:1], mask)[0, 0]
        assert float(values[0]) == pytest.approx(float(expected))

    def test_unsure_candidates_stay_in_the_soft_term(self, per_query):
        few, all_ = (per_query(["t1", "t3"], negatives=share)[1]["mtd_teachers"] for share in (0.15, 1.0))
        assert few == all_


class TestMissingScores:
    @staticmethod
    def terms(toy, **options):
        objective = ConsensusAndDifference(teacher=["t1", "t3"], **PAPER | options)
        state = {"temperatures": torch.ones(2)}
        ctx = [StepContext("s", 0, 1, teacher=name, state=state) for name in ("t1", "t3")]
        each = [objective(PairOutput(S), toy, own) for own in ctx]
        return objective, each

    def test_labels_need_no_teacher(self, toy):
        toy.teacher_scores = {"t1": torch.full_like(T1, torch.nan), "t3": torch.full_like(T3, torch.nan)}
        objective, (first, _) = self.terms(toy)
        counts = objective.valid(toy, "t1")
        assert counts["mtd_labels"].tolist() == [True, True] and counts["mtd_teachers"].tolist() == [False, False]
        assert float(first["mtd_labels"][0]) == pytest.approx(0.592459, abs=1e-6)

    def test_the_soft_term_is_the_sum_over_those_that_scored(self, toy):
        _, (whole, _) = self.terms(toy)
        toy.teacher_scores["t3"] = torch.full_like(T3, torch.nan)
        _, (alone, _) = self.terms(toy)
        torch.testing.assert_close(alone["mtd_teachers"], whole["mtd_teachers"] / 2)

    def test_what_a_teacher_did_not_score_is_no_negative(self, toy):
        toy.labels[:] = -1
        toy.teacher_scores["t3"] = T3.clone()
        toy.teacher_scores["t3"][0, 1] = torch.nan
        _, (found, _) = self.terms(toy)
        mask = torch.tensor([[True, False, True, True, True]])
        expected = -losses.log_distribution(S[:1], mask)[0, 0]
        assert float(found["mtd_labels"][0]) == pytest.approx(float(expected))


def test_mistakes():
    with pytest.raises(ValueError, match="confidence is a share, 0 to 1; it is 3"):
        ConsensusAndDifference(teacher="t", confidence=3)
    with pytest.raises(ValueError, match="soft_on must be one of"):
        ConsensusAndDifference(teacher="t", soft_on="none")


def test_a_killed_run(list_tree, beir, tmp_path, monkeypatch):
    """The teachers' temperatures come from the checkpoint."""
    list_tree["stages"][0]["objectives"] = [spec(MTD, teacher=["teacher", "ranker"], confidence=0.0, margin=0.0)]
    out = tmp_path / "whole" / "run"
    run_recipe(Recipe.from_dict(list_tree), beir, out)
    assert log_of(out)[0]["logged_terms"].keys() == {"labelled", "consensus", "consensus_right"}
    assert_comes_back(list_tree, beir, tmp_path, monkeypatch, everything(out), (4,))


def test_queries_without_labels_are_trained_on(list_tree, beir, tmp_path):
    """All that no split judges; those of dev stay apart."""
    path = beir / "qrels" / "train.tsv"
    head, *lines = path.read_text().splitlines(keepends=True)
    path.write_text(head + "".join(lines[::2]))
    list_tree["stages"][0] |= {"objectives": [spec(MTD, teacher=["teacher", "ranker"], confidence=0.0, margin=0.0)]}
    list_tree["stages"][0]["steps"] = 12
    labelled = {}
    for kept in (False, True):
        run_recipe(Recipe.from_dict(list_tree | {"data": {"unlabelled": kept}}), beir, tmp_path / f"{kept}" / "run")
        labelled[kept] = [line["logged_terms"]["labelled"] for line in log_of(tmp_path / f"{kept}" / "run")]
    assert set(labelled[False]) == {1.0}
    assert 0 < sum(labelled[True]) / 12 < 1
    train, dev = read_beir(beir, "train", unlabelled=True), read_beir(beir, "dev")
    assert len(train.queries) == len(lines)
    assert not set(train.queries.ids) & set(dev.queries.ids)
    assert len(read_beir(beir, "train").queries) == len(lines[::2])


def test_a_teacher_in_the_loop_is_refused(list_tree, beir, tmp_path, trunk):
    list_tree["teachers"]["live"] = spec("LiveTeacher", student=spec("from_layers", trunk=trunk, layers=[0]))
    list_tree["stages"][0]["objectives"] = [spec(MTD, teacher=["live", "ranker"])]
    with pytest.raises(RecipeError, match="teacher 'live' must score mined lists before training"):
        run_recipe(Recipe.from_dict(list_tree), beir, tmp_path / "run")


@pytest.mark.parametrize(("teacher_scale", "expected"), [(None, 20.0), (5.0, 5.0)])
def test_temperatures_are_of_the_scores_that_are_trained_on(teacher_scale, expected):
    """Cosines are scaled before they are compared: what is fitted to them must be of that scale, too."""
    rng = np.random.default_rng(0)
    positive = np.tile([True, False, False, False], 50)
    cosines = (0.8 + 0.03 * positive + 0.05 * rng.standard_normal(200)).astype(np.float32)
    own = SimpleNamespace(scores={}, offsets=np.arange(0, 201, 4), owners=None, rows=None, labels=positive.astype(int))
    context = SimpleNamespace(
        teachers={"t": SimpleNamespace(runs="cached")}, scores=lambda *_: cosines.copy(), scale=lambda _: 20.0
    )
    state = ConsensusAndDifference(teacher=["t"], teacher_scale=teacher_scale).open(context, own)
    own.scores = {"t": cosines * np.float32(expected)}
    fitted = ConsensusAndDifference(teacher=["t"]).open(context, own)["temperatures"]
    torch.testing.assert_close(state["temperatures"], fitted)
    assert fitted != 1.0


def test_each_teacher_has_a_temperature_of_its_own(toy):
    objective = ConsensusAndDifference(teacher=["t1", "t3"])
    state = {"temperatures": torch.tensor([2.0, 5.0])}
    for name, expected in (("t1", T1 / 2), ("t3", T3 / 5)):
        _, own, _ = objective.compared(PairOutput(S), toy, StepContext("s", 0, 1, teacher=name, state=state))
        torch.testing.assert_close(own, expected)
