# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""AR2: reference values of both forms, what the paper's form does, and a whole game, killed and resumed."""

import json
import math

import pytest
import torch
from tiny import assert_comes_back, everything, lists, log_of, pool, spec, stage, terms_of

from retort.students import Student
from retort.trainers.build import build_recipe
from retort.trainers.data.read import read_data
from retort.trainers.distiller import step_loss
from retort.trainers.encoder_output import DenseOutput, PairOutput
from retort.trainers.evaluation import dev
from retort.trainers.losses import listwise_kl
from retort.trainers.methods.ar2 import Adversarial, adversarial
from retort.trainers.objectives import TeacherContrastive
from retort.trainers.recipe import Recipe
from retort.trainers.roles import StepContext
from retort.trainers.run import run_recipe

D = torch.tensor([[3.0, 1.0, 2.5, -1.0], [0.5, 1.5, -0.5, 0.0]])
G = torch.tensor([[1.0, 0.5, 2.0, -0.5], [0.2, 0.1, 0.4, 0.3]])


def values(scores: torch.Tensor, **parameters) -> torch.Tensor:
    objective = Adversarial(teacher="t", **parameters)
    ((found, mask),) = terms_of(
        objective, PairOutput(scores), lists(D), StepContext("s", 0, 1, queries=len(D))
    ).values()
    assert mask.all()
    return found


class TestReferenceValues:
    def test_a_the_codes_form(self):
        """04-A: the sum over the batch; half of it with half of the regulariser; gradients of both."""
        scores = G.clone().requires_grad_(True)
        adversarial = values(scores, form="code", reduction="sum").mean()
        assert float(adversarial.detach()) == pytest.approx(5.655668, abs=1e-5)
        adversarial.backward()
        expected = [[-0.404598, 0.048086, 0.310279, 0.046234], [-0.032907, -0.715851, 0.493157, 0.255601]]
        torch.testing.assert_close(scores.grad, torch.tensor(expected), atol=1e-5, rtol=0)
        assert float(values(G, form="code").mean()) == pytest.approx(5.655668 / 2, abs=1e-5)

        p, again = D.softmax(-1), G.clone().requires_grad_(True)
        divergence = listwise_kl(again, D, torch.ones_like(D, dtype=torch.bool)).mean()
        entropy = -(p * p.log()).sum(-1).mean()
        normal = divergence + entropy
        assert float(normal.detach()) == pytest.approx(1.348000, abs=1e-5)
        assert float(0.5 * adversarial.detach() + 0.5 * normal.detach()) == pytest.approx(3.501834, abs=1e-5)
        divergence.backward()
        expected = [[-0.174122, 0.028238, 0.126555, 0.019328], [0.011615, -0.182710, 0.105129, 0.065966]]
        torch.testing.assert_close(again.grad, torch.tensor(expected), atol=1e-5, rtol=0)

    def test_b_the_papers_form(self):
        """04-B: over the negatives alone; and the ranker's own loss."""
        scores = G.clone().requires_grad_(True)
        found = values(scores).mean()
        assert float(found.detach()) == pytest.approx(-0.517166, abs=1e-5)
        found.backward()
        expected = [[0, 0.022149, -0.033718, 0.011569], [0, -0.093102, 0.063314, 0.029789]]
        torch.testing.assert_close(scores.grad, torch.tensor(expected), atol=1e-5, rtol=0)
        ctx = StepContext("s", 0, 1, teachers={"t": PairOutput(D)})
        (own,) = TeacherContrastive(teacher="t")(None, lists(D), ctx).values()
        assert float(own.mean()) == pytest.approx(1.055712, abs=1e-5)

    @pytest.mark.parametrize(("form", "value"), [("code", 5.655668 / 2), ("paper", -0.517166)])
    def test_of_unscaled_dot_products(self, form, value):
        """04-A and 04-B again, of vectors: the student of the recipe has no scale."""
        batch = lists(D)
        batch.index = torch.arange(4).expand(2, 4)
        output = DenseOutput(torch.eye(2), G.T, 1.0, "dot")
        (found,) = Adversarial(teacher="t", form=form)(output, batch, StepContext("s", 0, 1)).values()
        assert float(found.mean()) == pytest.approx(value, abs=1e-5)

    def test_c_entropy(self):
        """04-C: of the retriever over the whole list, which is logged."""
        ctx = StepContext("s", 0, 1)
        Adversarial(teacher="t")(PairOutput(G), lists(D), ctx)
        assert ctx.logged_terms["entropy"][0].tolist() == pytest.approx([1.057255, 1.380071], abs=1e-5)


@pytest.mark.parametrize("form", ["paper", "code"])
def test_of_several_positives_the_rankers_best_counts(form):
    """It is the first of the first list, and the second of the second."""
    positive = torch.tensor([[True, True, False, False]]).expand(2, -1)
    reward = (torch.tensor([[3.0], [1.5]]) - D).sigmoid().log()
    expected = {
        "paper": (G[:, 2:].softmax(-1) * reward[:, 2:]).sum(-1),
        "code": (G.log_softmax(-1) * reward).sum(-1),
    }
    torch.testing.assert_close(adversarial(G, D, positive, ~positive, form=form), expected[form])


def test_the_sum_is_of_what_counts():
    """As many lists without a positive as there are with one change nothing, though they are in the batch."""
    terms = []
    for d, g in ((D, G), (torch.cat([D, D]), torch.cat([G, G]))):
        batch = lists(d)
        batch.labels[2:] = 0
        ctx = StepContext("s", 0, 1, queries=len(d))
        found = terms_of(Adversarial(teacher="t", reduction="sum"), PairOutput(g), batch, ctx)
        terms.append({name: (*term, 1.0) for name, term in found.items()})
    summed = [float(step_loss(t, {name: float(m.sum()) for name, (_, m, _) in t.items()})) for t in terms]
    assert summed[1] == pytest.approx(summed[0], abs=1e-6)


def test_a_sum_is_over_the_queries_of_the_whole_step():
    """The batch may be a part of it: two queries of eight."""
    ctx = StepContext("s", 0, 1, queries=8)
    total, mean = (
        Adversarial(teacher="t", reduction=reduction)(PairOutput(G), lists(D), ctx)["adversarial"]
        for reduction in ("sum", "mean")
    )
    torch.testing.assert_close(total, 8 * mean)


@pytest.mark.parametrize("form", ["paper", "code"])
def test_no_gradient_reaches_the_ranker(form):
    ranker, positive = D.clone().requires_grad_(), torch.tensor([[True, False, False, False]] * 2)
    assert not adversarial(G, ranker, positive, ~positive, form=form).requires_grad


def test_descending_raises_what_the_ranker_takes_for_the_positive():
    scores = G.clone().requires_grad_(True)
    values(scores).sum().backward()
    before, after = ((s.detach()[:, 1:]).softmax(-1) for s in (scores, scores - scores.grad))
    hardest = D[:, 1:].argmax(-1, keepdim=True)
    assert (after.gather(1, hardest) > before.gather(1, hardest)).all()


@pytest.mark.parametrize("form", ["paper", "code"])
def test_lists_that_are_short_or_not_scored(form):
    """Padding and missing scores change nothing; a list of one side only is 0, without a gradient."""
    wide = torch.cat([G, torch.full((2, 1), 7.0)], dim=1).requires_grad_(True)
    batch = lists(torch.cat([D, torch.tensor([[float("nan")], [2.0]])], dim=1))
    batch.mask[1, 4] = False
    ctx, objective = StepContext("s", 0, 1), Adversarial(teacher="t", form=form)
    (found,) = objective(PairOutput(wide), batch, ctx).values()
    torch.testing.assert_close(found, values(G, form=form))
    batch.labels[0, 0] = 0
    ((found, mask),) = terms_of(objective, PairOutput(wide), batch, ctx).values()
    assert mask.tolist() == [False, True]
    assert float(found[0].detach()) == 0
    found[0].backward()
    assert wide.grad.abs().max() == 0


@pytest.fixture
def tree(recipe_tree, trunk):
    """Two iterations of one step of the ranker and two of the retriever, on lists that are mined anew."""
    game = stage(
        "game",
        6,
        spec("TeacherContrastive", turn={"steps": 1, "cycle": 3}),
        spec("ListwiseKL", weight=0.5),
        spec("Adversarial", weight=0.5),
        lr=1e-2,
        teacher="ranker",
        refresh=3,
        candidates=pool("own", negatives=3),
    )
    ranker = spec("LiveTeacher", student=spec("ranker", trunk=trunk, layers=[0]))
    return recipe_tree | {"teachers": {"ranker": ranker}, "stages": [game]}


def test_a_game_killed_in_both_turns(tree, beir, tmp_path, monkeypatch):
    """Lists follow the student; weights, both optimisers and the lists come back bit for bit."""
    out = tmp_path / "whole" / "run"
    run_recipe(Recipe.from_dict(tree), beir, out)
    expected = everything(out)
    first, second = ((out / "candidates" / name).read_bytes() for name in ("game.parquet", "game.1.parquet"))
    assert first != second
    assert any(name.startswith("teachers/ranker/student.") for name in expected)
    assert_comes_back(tree, beir, tmp_path, monkeypatch, expected, (1, 2, 4))


def test_a_ranker_that_does_not_look_at_queries(tree, beir, tmp_path, monkeypatch, caplog):
    """It pulls the student down, and nobody else would say why."""
    for sensitivity, said in ((0.5, True), (0.98, False)):
        monkeypatch.setattr(dev, "query_sensitivity", lambda *_, sensitivity=sensitivity: sensitivity)
        caplog.clear()
        metrics = run_recipe(Recipe.from_dict(tree), beir, tmp_path / str(sensitivity) / "run")["dev"]
        assert (
            metrics["query sensitivity of teachers"] == {"ranker": sensitivity} and "query sensitivity" not in metrics
        )
        assert (", teacher ranker: it scores a document nearly alike" in caplog.text) is said


def test_a_student_of_dot_products(tree, trunk, beir, tmp_path, monkeypatch):
    """As in the paper its scores are not scaled, those of cosines are."""
    seen, forward = [], Adversarial.forward
    monkeypatch.setattr(Adversarial, "forward", lambda o, out, *rest: (seen.append(out), forward(o, out, *rest))[1])
    run_recipe(Recipe.from_dict(tree), beir, tmp_path / "cosine" / "run")
    assert {(out.similarity, out.scale) for out in seen} == {("cosine", 20.0)}
    seen.clear()
    assert Recipe.from_yaml("ar2").student.init_parameters["similarity_fn_name"] == "dot"
    tree["student"] = spec("pretrained", model=trunk, similarity_fn_name="dot")
    run_recipe(Recipe.from_dict(tree), beir, tmp_path / "dot" / "run")
    assert {(out.similarity, out.scale) for out in seen} == {("dot", 1.0)}
    torch.testing.assert_close(seen[0].in_batch_scores(), seen[0].queries @ seen[0].documents.T)
    assert not torch.allclose(seen[0].queries.norm(dim=-1), torch.ones(4))
    assert Student.load(str(tmp_path / "dot" / "run" / "student")).manifest.similarity == "dot"


def test_products_of_unit_vectors_are_scaled_as_cosines(tree, tiny_student, beir, tmp_path):
    """They lie in [-1, 1] as well: unscaled, a softmax over them would be flat."""
    for more, scale in (({}, 20.0), ({"normalize": False}, 1.0)):
        tree["student"] = spec("pretrained", model=tiny_student, similarity_fn_name="dot", **more)
        built = build_recipe(Recipe.from_dict(tree), read_data(beir, "train"), tmp_path)
        assert built.distiller.scale == scale


def test_the_ranker_begins(tree, beir, tmp_path):
    """Its steps come before each stretch of the student's, in the shipped recipes too."""
    run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")
    steps = [set(line["terms"]) for line in log_of(tmp_path / "run")]
    assert ["teacher_contrastive" in terms for terms in steps] == [True, False, False] * 2
    for name in ("ar2", "ar2-small"):
        game = Recipe.from_yaml(name).stages[-1]
        turn = game.objectives[0].init_parameters["turn"]
        assert game.refresh == turn["cycle"] == 4 * turn["steps"]


def test_a_frozen_ranker(tree, beir, tmp_path):
    """Without its objective it stays as it was, and no folder of it is written. The log has the student's entropy."""
    del tree["stages"][0]["objectives"][0]
    run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")
    assert not (tmp_path / "run" / "teachers").exists()
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(0 < line["logged_terms"]["entropy"] < math.log(5) for line in log if line["event"] == "step")
