# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""NKD and TF-NKD: reference values, what each term does not see, queries without labels, and a killed run."""

import copy

import pytest
import torch
from tiny import T1, S, assert_comes_back, everything, lists, pool, spec, stage, terms_of

from retort.trainers import losses
from retort.trainers.encoder_output import PairOutput
from retort.trainers.methods.nkd import NKD, TeacherFreeNKD, confidence_weights, others, soft_target
from retort.trainers.recipe import Recipe
from retort.trainers.roles import StepContext
from retort.trainers.run import run_recipe

FULL = torch.ones(2, 5, dtype=torch.bool)
FIRST = torch.tensor([[True, False, False, False, False]] * 2)  # the official code's single label
BOTH = FIRST | torch.tensor([[False] * 5, [False, False, False, True, False]])
HERE = StepContext("s", 0, 1)


def batch_of(positive: torch.Tensor, teacher: torch.Tensor = T1):
    batch = lists(teacher)
    batch.labels = positive.to(torch.int8)
    return batch


def nkd(scores, positive, teacher=T1, **options) -> dict[str, torch.Tensor]:
    terms = terms_of(NKD(teacher="t", **options), PairOutput(scores), batch_of(positive, teacher), HERE)
    return {name: values for name, (values, _) in terms.items()}


class TestReferenceValues:
    def test_two_positives(self):
        found = nkd(S, BOTH)
        assert found["nkd_target"].tolist() == pytest.approx([0.460870, 1.496729], abs=1e-6)
        assert found["nkd_others"].tolist() == pytest.approx([1.887354, 1.482609], abs=1e-6)
        assert float(sum(found.values()).mean()) == pytest.approx(2.663781, abs=1e-6)

    def test_a_temperature(self):
        found = nkd(S, BOTH, gamma=3.5, temperature=3.0)
        assert found["nkd_others"].tolist() == pytest.approx([43.078345, 34.088887], abs=1e-5)
        assert found["nkd_target"].tolist() == pytest.approx([0.460870, 1.496729], abs=1e-6)  # always at 1

    @pytest.mark.parametrize(("gamma", "temperature", "value"), [(1.5, 1.0, 2.688019), (3.5, 3.0, 43.820792)])
    def test_the_official_class(self, gamma, temperature, value):
        found = nkd(S, FIRST, gamma=gamma, temperature=temperature)
        assert float(sum(found.values()).mean()) == pytest.approx(value, abs=1e-5)

    def test_the_gradient(self):
        scores = S.clone().requires_grad_()
        sum(nkd(scores, BOTH).values()).mean().backward()
        expected = [
            [-0.173872, 0.064919, 0.124214, 0.045696, -0.060957],
            [-0.201322, 0.262582, 0.019699, -0.056188, -0.024770],
        ]
        torch.testing.assert_close(scores.grad, torch.tensor(expected).double(), atol=1e-6, rtol=0)

    def test_the_least_value_is_the_teachers_entropy(self):
        found = others(S, S, BOTH, FULL, 1.0)
        assert found.tolist() == pytest.approx([1.245050, 0.847249], abs=1e-6)
        torch.testing.assert_close(found, losses.entropy(S, ~BOTH))

    def test_without_a_teacher(self):
        shares = S.softmax(-1)[:, 0]
        weights = confidence_weights(shares, shares.mean())
        assert weights.tolist() == pytest.approx([1.217735, 0.782265], abs=1e-6)
        ((values, counts),) = terms_of(TeacherFreeNKD(), PairOutput(S), batch_of(FIRST), HERE).values()
        assert float(values.mean()) == pytest.approx(1.198283, abs=1e-6)
        assert counts.all()
        warm = StepContext("s", 0, 1, temperature=torch.tensor(2.0))
        divided = terms_of(TeacherFreeNKD(), PairOutput(2 * S), batch_of(FIRST), warm)["tf_nkd"][0]
        torch.testing.assert_close(divided, values)


@pytest.mark.parametrize("width", [5, 9])
def test_a_positive_alone_is_certain(width):
    """Its share is 1, however wide the batch is; the others' weights know that."""
    scores = torch.nn.functional.pad(torch.cat([S, S[:1]]), (0, width - 5))
    batch = lists(scores)
    batch.labels = torch.zeros_like(scores, dtype=torch.int8)
    batch.labels[:, 0] = 1
    batch.mask = torch.zeros_like(scores, dtype=torch.bool)
    batch.mask[:2, :5] = batch.mask[2, :1] = True
    ((values, _),) = terms_of(TeacherFreeNKD(), PairOutput(scores), batch, HERE).values()
    shares = torch.cat([S.softmax(-1)[:, 0], torch.ones(1)])
    torch.testing.assert_close(values, -confidence_weights(shares, shares.mean()) * shares.log())
    assert losses.marginal_nll(scores, batch.labels == 1, batch.mask)[2] == 0


def test_queries_without_labels_have_no_part_in_the_mean_confidence():
    """The only query that has one weighs 1."""
    batch = batch_of(FIRST & torch.tensor([[False], [True]]))
    values = terms_of(TeacherFreeNKD(), PairOutput(S), batch, HERE)["tf_nkd"][0]
    assert float(values[1]) == pytest.approx(-float(S[1].log_softmax(-1)[0]))


def test_positives_never_compete_with_each_other():
    """What the positives score changes nothing of the distributed term."""
    moved = S + 3.0 * BOTH
    torch.testing.assert_close(others(moved, T1 - 2.0 * BOTH, BOTH, FULL, 1.0), others(S, T1, BOTH, FULL, 1.0))
    assert not torch.allclose(soft_target(moved, T1, BOTH, FULL), soft_target(S, T1, BOTH, FULL))


def test_one_negative_has_no_distribution():
    assert float(others(S[:1, :2], T1[:1, :2], FIRST[:1, :2], FULL[:1, :2], 1.0)) == 0


def test_nothing_reaches_the_teacher_nor_the_weights():
    teacher, scores = T1.clone().requires_grad_(), S.clone().requires_grad_()
    sum(v.sum() for v in nkd(scores, BOTH, teacher).values()).backward()
    assert teacher.grad is None
    shares = S.softmax(-1)[:, 0].requires_grad_()
    weights = confidence_weights(shares, shares.mean())
    assert not weights.requires_grad and float(weights.mean()) == pytest.approx(1)


def test_a_query_without_labels_takes_the_teachers_best():
    unlabelled = BOTH & torch.tensor([[False], [True]])
    assert {n: v.tolist() for n, v in nkd(S, unlabelled).items()} == {n: v.tolist() for n, v in nkd(S, BOTH).items()}


def test_padding_is_never_the_teachers_best():
    """Not even of scores that are all below 0, which padding has."""
    teacher, scores = (torch.nn.functional.pad(values, (0, 1)) for values in (T1 - 9, S))
    batch = batch_of(torch.zeros_like(teacher, dtype=torch.bool), teacher)
    batch.mask[:, 5] = False
    terms = terms_of(NKD(teacher="t"), PairOutput(scores), batch, HERE)
    torch.testing.assert_close({name: values for name, (values, _) in terms.items()}, nkd(S, FIRST & False))


@pytest.mark.parametrize("tau", [[3.0], [3.0, 2.0]])
def test_a_stages_temperature_takes_the_place_of_the_own_one(tau):
    """One for all queries, or one for each."""
    warm = StepContext("s", 0, 1, temperature=torch.tensor(tau, dtype=torch.float64)[:, None])
    terms = terms_of(NKD(teacher="t"), PairOutput(S), batch_of(BOTH), warm)
    for row in (0, 1):
        expected = nkd(S, BOTH, temperature=tau[row % len(tau)])
        assert {n: float(v[row]) for n, (v, _) in terms.items()} == pytest.approx(
            {n: float(v[row]) for n, v in expected.items()}
        )


def test_scores_of_two_teachers_are_summed():
    batch = batch_of(FIRST)
    batch.teacher_scores["u"] = T1.flip(0, 1)
    both = terms_of(NKD(teacher="t", extra_teachers={"u": 0.3}), PairOutput(S), batch, HERE)
    expected = nkd(S, FIRST, T1 + 0.3 * T1.flip(0, 1))
    assert {name: values.tolist() for name, (values, _) in both.items()} == {n: v.tolist() for n, v in expected.items()}


def test_what_counts():
    """A positive that the teacher did not score is no reason to take another for it."""
    teacher = T1.clone()
    teacher[0, 0] = torch.nan
    batch = batch_of(BOTH, teacher)
    scores = S.clone().requires_grad_()
    terms = terms_of(NKD(teacher="t"), PairOutput(scores), batch, HERE)
    assert {name: counts.tolist() for name, (_, counts) in terms.items()} == {
        "nkd_target": [False, True],
        "nkd_others": [False, True],
    }
    sum((v * c).sum() for v, c in terms.values()).backward()
    assert scores.grad.isfinite().all() and not scores.grad[0].any()
    batch.labels[0] = 0
    scores.grad = None
    ((values, counts),) = terms_of(TeacherFreeNKD(), PairOutput(scores), batch, HERE).values()
    assert counts.tolist() == [False, True]
    (values * counts).sum().backward()
    assert scores.grad.isfinite().all() and not scores.grad[0].any()


def test_a_killed_run(recipe_tree, tiny_ranker, beir, tmp_path, monkeypatch):
    tree = copy.deepcopy(recipe_tree)
    tree["teachers"]["ranker"] = spec("CrossEncoderTeacher", model=tiny_ranker, device="cpu")
    names = ("retort.trainers.methods.nkd.NKD", "retort.trainers.methods.nkd.TeacherFreeNKD")
    objectives = (spec("Contrastive", scope="list"), spec(names[0], teacher="ranker"), spec(names[1]))
    tree["stages"] = [stage("distil", 6, *objectives, candidates=pool("bm25", negatives=3))]
    run_recipe(Recipe.from_dict(tree), beir, tmp_path / "whole" / "run")
    assert_comes_back(tree, beir, tmp_path, monkeypatch, everything(tmp_path / "whole" / "run"), (4,))
