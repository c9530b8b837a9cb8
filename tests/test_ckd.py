# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""CKD: reference values, the split and its calibration, the paper's own objective, and killed runs."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny import T1, T2, T3, S, assert_comes_back, everything, log_of, spec, terms_of

from retort.trainers import losses
from retort.trainers.encoder_output import PairOutput
from retort.trainers.engine.checkpoints import list_checkpoints
from retort.trainers.methods.ckd import (
    KnowledgeFiltration,
    accumulated_degradation,
    filtration,
    quality,
    unlikelihood,
)
from retort.trainers.recipe import Recipe
from retort.trainers.roles import StepContext
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.temperature import fitted_temperature

FILTRATION = "retort.trainers.methods.ckd.KnowledgeFiltration"
BEFORE = torch.tensor([[1.0, 1.2, 0.3, -0.2, 0.1], [0.1, 1.0, 0.0, 0.8, 0.2]], dtype=torch.float64)
POSITIVE = torch.tensor([[True, False, False, False, False], [True, False, False, True, False]])
FULL = torch.ones_like(POSITIVE)
BENEFICIAL = {"t1": [True, True], "t2": [False, True], "t3": [False, False]}


def values_of(objective, batch, beneficial, temperature=1.0, spread=None, own=1.0, student=S, tau=None):
    batch.list_rows = torch.arange(2)
    divisors = {"temperature": temperature, "spread": temperature if spread is None else spread, "own": own}
    state = {"beneficial": torch.tensor(beneficial)} | {name: torch.tensor(value) for name, value in divisors.items()}
    ctx = StepContext("s", 0, 1, state=state, temperature=tau)
    ((values, counts),) = terms_of(objective, PairOutput(student), batch, ctx).values()
    assert counts.all()
    return values


class TestReferenceValues:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [("t1", [0.124625, 0.559954]), ("t2", [0.184184, 0.595675]), ("t3", [0.127654, 0.407299])],
    )
    def test_filtration(self, toy, name, expected):
        """Teacher 2 is avoided on the first query and followed on the second; teacher 3 is avoided on both."""
        values = values_of(KnowledgeFiltration(teacher=name), toy, BENEFICIAL[name])
        assert values.tolist() == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(
        ("stage", "name", "expected"), [(1, "t1", 1.031608), (2, "t2", 1.005489), (3, "t3", 0.949907)]
    )
    def test_the_whole_loss(self, toy, stage, name, expected):
        labels = -losses.log_distribution(S, FULL).masked_fill(~POSITIVE, -torch.inf).logsumexp(-1)
        followed = values_of(KnowledgeFiltration(teacher=name), toy, BENEFICIAL[name])
        inherited = losses.listwise_kl(S, BEFORE, FULL)
        assert float(inherited.mean()) == pytest.approx(0.090296, abs=1e-6)
        share = 1 / (stage + 1)
        total = labels.mean() + share * followed.mean() + (1 - share) * inherited.mean()
        assert float(total) == pytest.approx(expected, abs=1e-6)

    def test_the_gradient_of_unlikelihood(self):
        scores = S.clone().requires_grad_()
        unlikelihood(scores, T2, POSITIVE, FULL)[0].backward()
        expected = [-0.113091, 0.122835, 0.008107, -0.005139, -0.012712]
        assert scores.grad[0].tolist() == pytest.approx(expected, abs=1e-6)

    def test_degradation(self):
        assert accumulated_degradation([30.0, 30.5, 30.2, 30.9, 30.1]) == pytest.approx(1.1)


def test_positives_are_never_pushed_down():
    rng = torch.Generator().manual_seed(0)
    for _ in range(50):
        student, teacher = (torch.randn(2, 5, generator=rng, dtype=torch.float64) * 3 for _ in range(2))
        student.requires_grad_()
        unlikelihood(student, teacher, POSITIVE, FULL).sum().backward()
        assert (student.grad[POSITIVE] <= 0).all()


def test_certain_students_and_teachers_stay_finite():
    """All mass on a wrong candidate, or on the positive."""
    sure = torch.tensor([[0.0, 1e4, 0.0], [1e4, 0.0, 0.0]], dtype=torch.float64)
    positive, mask = torch.tensor([[True, False, False]] * 2), torch.ones(2, 3).bool()
    for student, teacher in ((sure, sure), (sure, sure.flip(0)), (-sure, sure)):
        scores = student.clone().requires_grad_()
        values = unlikelihood(scores, teacher, positive, mask)
        values.sum().backward()
        assert values.isfinite().all() and (values >= 0).all() and scores.grad.isfinite().all()


def test_unlikelihood_is_bounded():
    """A wrong candidate that the student is sure of costs no more than one with a share of 1 - 1e-6."""
    sure = torch.tensor([[0.0, 1e4, 0.0]], dtype=torch.float64)
    found = unlikelihood(sure, sure, POSITIVE[:1, :3], FULL[:1, :3])
    assert float(found) == pytest.approx(-np.log(1e-6))


def test_no_gradient_reaches_the_teacher():
    assert not unlikelihood(S, T2.clone().requires_grad_(), POSITIVE, FULL).requires_grad


def test_a_batch_of_tokens_is_the_papers_objective():
    """An instance is a token over the vocabulary, with one label: divergence, or the same unlikelihood written out."""
    rng = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(6, 30, generator=rng, dtype=torch.float64) for _ in range(2))
    gold = torch.randint(30, (6,), generator=rng)
    positive = torch.zeros(6, 30).bool().scatter(1, gold[:, None], value=True)
    beneficial = torch.tensor([True, False] * 3)
    found = filtration(student, teacher, beneficial, positive, torch.ones_like(positive))
    p, q = teacher.softmax(-1), student.softmax(-1)
    for token in range(6):
        others = [i for i in range(30) if i != gold[token]]
        if beneficial[token]:
            expected = sum(p[token, i] * (p[token, i] / q[token, i]).log() for i in range(30))
        else:
            rest = 1 - p[token, gold[token]]
            expected = -sum(p[token, i] / rest * (1 - q[token, i]).log() for i in others)
        assert float(found[token]) == pytest.approx(float(expected))


def test_all_beneficial_is_plain_distillation(toy):
    plain = losses.listwise_kl(S, T2, FULL)
    torch.testing.assert_close(values_of(KnowledgeFiltration(teacher="t2"), toy, [True, True]), plain)


class TestTheSplit:
    @staticmethod
    def opened(scores, student=BEFORE, scale=1.0, **options):
        labels = POSITIVE.numpy().astype(np.int8)
        own = SimpleNamespace(
            scores={"t": np.asarray(scores, dtype=np.float64).ravel()},
            offsets=np.array([0, 5, 10]),
            labels=labels.ravel(),
            owners=np.repeat([0, 1], 5),
            rows=np.arange(10),
        )
        context = SimpleNamespace(
            scores=lambda name, owners, _rows: {"student": np.asarray(student).ravel()[-len(owners) :]}[name],
            teachers={"t": SimpleNamespace(runs="cached")},
            scale=lambda _: scale,
        )
        return KnowledgeFiltration(teacher="t", **options).open(context, own)

    @pytest.mark.parametrize(("scores", "name"), [(T1, "t1"), (T2, "t2"), (T3, "t3")])
    def test_by_the_positives_share(self, scores, name):
        state = self.opened(scores, calibrate=False)
        assert state["beneficial"].tolist() == BENEFICIAL[name]
        assert float(state["temperature"]) == 1

    def test_scale_says_nothing_after_calibration(self):
        """A good teacher whose scores are squeezed, or stretched, stays beneficial."""
        raw = [self.opened(T1 * factor, calibrate=False)["beneficial"].tolist() for factor in (0.01, 1.0)]
        assert raw == [[False, True], [True, True]]  # two of five positives: even no knowledge gives them .4
        states = [self.opened(T1 * factor) for factor in (0.01, 1.0, 30.0)]
        assert all(state["beneficial"].tolist() == [True, True] for state in states)
        found = [float(state["temperature"]) for state in states]
        assert [t / found[1] for t in found] == pytest.approx([0.01, 1, 30], rel=1e-3)

    def test_nor_does_the_students_scale(self):
        """A better student with flat scores would know less than the teacher, were they not calibrated."""
        for factor in (0.01, 1.0, 30.0):
            assert self.opened(S, student=T1 * factor)["beneficial"].tolist() == [False, False]

    def test_missing_scores(self):
        scores = T1.clone()
        scores[0] = torch.nan
        assert self.opened(scores, calibrate=False)["beneficial"].tolist() == [False, True]

    @pytest.mark.parametrize("student", [T1, T2])
    def test_a_malicious_teacher_is_beneficial_nowhere(self, student):
        """On the first query the second student is worse than flat scores, which are what fits such a teacher."""
        assert self.opened(-T1, student=student)["beneficial"].tolist() == [False, False]

    def test_not_even_where_the_student_is_worse_than_no_knowledge(self):
        """Its fitted scores are flat, which is better than wrong; what it takes for relevant is still seen."""
        state = self.opened(-T1, student=-10 * T1)
        assert state["beneficial"].tolist() == [False, False]
        flat, seen = ((-T1[0, 1:] / float(state[name])).softmax(-1) for name in ("temperature", "spread"))
        assert float(flat.max() / flat.min()) < 1.1
        assert float(seen.max() / seen.min()) > 2

    def test_where_it_is_avoided_its_spread_counts(self, toy):
        found = values_of(KnowledgeFiltration(teacher="t1"), toy, [True, False], temperature=4.0, spread=0.5)
        expected = [losses.listwise_kl(S, T1 / 4, FULL)[0], unlikelihood(S, T1 / 0.5, POSITIVE, FULL)[1]]
        torch.testing.assert_close(found, torch.stack(expected))

    def test_of_two_that_are_sure_the_surer_one_knows_more(self):
        """In float32 both shares would round to 1."""
        first = np.array([True, False, False])
        sure, surer = (quality(np.array(s, dtype=np.float32), first) for s in ([10, -8, -8], [14, -9, -9]))
        assert surer > sure
        assert sure == pytest.approx(-2 * np.exp(-18), rel=1e-6)

    def test_by_the_student_as_it_is(self, toy):
        """`live`: what the student knows better by now is no longer followed."""
        objective = KnowledgeFiltration(teacher="t1", live=True)
        followed = values_of(objective, toy, [False, False])
        torch.testing.assert_close(followed, losses.listwise_kl(S, T1, FULL))
        known = 50.0 * POSITIVE.double()
        avoided = values_of(objective, toy, [True, True], student=known)
        torch.testing.assert_close(avoided, unlikelihood(known, T1, POSITIVE, FULL))

    def test_a_malicious_teacher_is_followed_nowhere_even_so(self, toy):
        """Its flat scores know more than a student that is worse than none."""
        toy.teacher_scores["t1"], worse = -T1, -10 * T1
        state = {name: float(v) for name, v in self.opened(-T1, student=worse).items() if name != "beneficial"}
        objective = KnowledgeFiltration(teacher="t1", live=True)
        for own in (state["own"], 1.0):  # the student's scores made flat, too, or as wrong as they are
            found = values_of(objective, toy, [True, True], student=worse, **state | {"own": own})
            torch.testing.assert_close(found, unlikelihood(worse, -T1 / state["spread"], POSITIVE, FULL))

    def test_the_student_as_it_is_has_a_temperature_too(self, toy):
        objective = KnowledgeFiltration(teacher="t1", live=True)
        cold = values_of(objective, toy, [False, False], student=50.0 * S, own=50.0)
        torch.testing.assert_close(cold, losses.listwise_kl(50.0 * S, T1, FULL))
        scaled, plain = (float(self.opened(T1, scale=scale)["own"]) for scale in (20.0, 1.0))
        assert scaled == pytest.approx(20 * plain, rel=1e-3)

    def test_a_temperature_divides_the_teachers_scores(self, toy):
        found = values_of(KnowledgeFiltration(teacher="t1"), toy, [True, True], temperature=2.0)
        torch.testing.assert_close(found, losses.listwise_kl(S, T1 / 2, FULL))

    def test_a_stages_temperature_divides_both_sides(self, toy):
        found = values_of(KnowledgeFiltration(teacher="t1"), toy, [True, True], tau=torch.tensor(2.0))
        expected = losses.listwise_kl(S, T1, FULL, student_temperature=2.0, teacher_temperature=2.0)
        torch.testing.assert_close(found, expected)


class TestFittedTemperature:
    def test_it_minimises_the_loss_on_labels(self):
        rng = np.random.default_rng(0)
        logits = rng.normal(size=(400, 6))
        drawn = [rng.choice(6, p=np.exp(row) / np.exp(row).sum()) for row in logits]
        lists = [(7.0 * row, np.arange(6) == label) for row, label in zip(logits, drawn, strict=True)]
        assert fitted_temperature(lists) == pytest.approx(7, rel=0.15)

    def test_scores_worse_than_none_are_flattened(self):
        lists = [(np.array([0.0, 1.0, 2.0]), np.array([True, False, False]))]
        assert fitted_temperature(lists) > 50

    def test_where_nothing_is_known(self):
        nothing = [
            (np.array([1.0, 2.0]), np.array([False, False])),
            (np.array([1.0, np.nan]), np.array([True, False])),
            (np.array([2.0, 2.0]), np.array([True, False])),
        ]
        assert fitted_temperature(nothing) == 1
        assert fitted_temperature([]) == 1

    def test_quality(self):
        scores = np.array([1.0, np.nan, 0.0])
        assert quality(scores, np.array([True, False, False])) == pytest.approx(-np.log(1 + np.exp(-1)))
        assert quality(scores, np.array([False, True, False])) == -np.inf


@pytest.fixture
def tree(list_tree):
    """Two stages of four steps: a cross-encoder, then a bi-encoder, whose vectors are compared."""
    tree = copy.deepcopy(list_tree)
    first = tree["stages"][0] | {"steps": 4, "anchor": "start"}
    anchor = spec("AnchorKL", temperature=1.0, weight=0.5)
    objectives = [spec("Contrastive", scope="list"), spec(FILTRATION, weight=0.5), anchor]
    tree["stages"] = [
        first | {"name": "first", "objectives": objectives},
        first | {"name": "second", "teacher": "teacher", "objectives": copy.deepcopy(objectives)},
    ]
    tree["training"] |= {"keep": "last"}
    return tree


def test_a_killed_run(tree, beir, tmp_path, monkeypatch):
    """The split is fixed once for each opening, not again on the way, and comes from the checkpoint."""
    tree["stages"][0] |= {"steps": 8, "refresh": 4}
    opened, real = [], KnowledgeFiltration.open
    monkeypatch.setattr(KnowledgeFiltration, "open", lambda *given: opened.append(1) or real(*given))
    out = tmp_path / "whole" / "run"
    run_recipe(Recipe.from_dict(tree), beir, out)
    assert len(opened) == 3
    expected = everything(out)
    for kill, opened_again in ((3, 3), (4, 4), (11, 3)):  # after four steps it is refreshed
        opened.clear()
        assert_comes_back(tree, beir, tmp_path, monkeypatch, expected, (kill,))
        assert len(opened) == opened_again
    assert {"beneficial", "filtration"} <= {*log_of(out)[0]["logged_terms"], *log_of(out)[0]["terms"]}


def test_it_is_in_the_checkpoint(tree, beir, tmp_path):
    tree["stages"] = tree["stages"][:1]
    tree["training"] |= {"keep_checkpoints": 9}
    run_recipe(Recipe.from_dict(tree), beir, tmp_path / "x" / "run")
    names = [
        {name for name in safe_open(path / "state.safetensors", "pt").keys() if name.startswith("stage::")}
        for path in list_checkpoints(tmp_path / "x" / "run" / "checkpoints")
    ]
    state = {f"stage::first.1::{name}" for name in ("beneficial", "temperature", "spread", "own")}
    assert names[:-1] == [state] * (len(names) - 1)
    assert names[-1] == set()  # the stage is over


def test_a_teacher_in_the_loop_is_refused(tree, beir, tmp_path, trunk):
    tree["teachers"]["live"] = spec("LiveTeacher", student=spec("from_layers", trunk=trunk, layers=[0]))
    tree["stages"][0]["teacher"] = "live"
    with pytest.raises(RecipeError, match="teacher 'live' must score mined lists before training"):
        run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")
