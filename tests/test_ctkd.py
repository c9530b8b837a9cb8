# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""CTKD: reference values, the reversal's sign, what it leaves alone, and a killed run."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from tiny import assert_comes_back, everything, lists, spec

from retort.trainers.distiller import Distiller
from retort.trainers.encoder_output import PairOutput
from retort.trainers.engine.optimizers import parameter_groups
from retort.trainers.losses import listwise_kl
from retort.trainers.methods.adam import DarkKL
from retort.trainers.methods.cerberus import HeadKL
from retort.trainers.methods.ckd import KnowledgeFiltration
from retort.trainers.methods.ctkd import CurriculumTemperature, features
from retort.trainers.methods.cudfkd import SelfPacedKL
from retort.trainers.methods.mtd import ConsensusAndDifference
from retort.trainers.methods.nkd import NKD
from retort.trainers.methods.prod import AnchorKL
from retort.trainers.objectives import Contrastive, ListwiseKL
from retort.trainers.recipe import Recipe
from retort.trainers.roles import ModelInfo, StepContext
from retort.trainers.run import run_recipe

S = torch.tensor([[2.0, 1.0, 0.5, -0.5, 0.0], [0.2, 1.5, -0.3, 0.9, 0.4]], dtype=torch.float64)
T = torch.tensor([[3.0, 1.0, 0.0, -1.0, 0.5], [2.0, 0.5, -1.0, 1.5, 0.0]], dtype=torch.float64)
ONE = torch.ones(1)
PAPER = {"initial": 15.621172, "rise": 10 / 240}  # theta = 1


def at(step: int, steps: int = 240) -> StepContext:
    """A step of which one is an epoch of the paper's 240; the first is 0 here, 1 there."""
    return StepContext("s", step, steps)


def loss(temperature: CurriculumTemperature, ctx: StepContext, scores: torch.Tensor) -> torch.Tensor:
    objective = ListwiseKL(teacher="t")
    batch, out = lists(T), PairOutput(scores)
    ctx.temperature = temperature(out, batch, ctx, objective)
    (values,) = objective(out, batch, ctx).values()
    return values.mean()


def module(**parameters) -> CurriculumTemperature:
    return CurriculumTemperature(**parameters).double()


class TestReferenceValues:
    def test_the_curriculum(self):
        found = [CurriculumTemperature(**PAPER).strength(epoch - 1, 240) for epoch in (0, 1, 2, 5, 9, 10, 240)]
        assert found == pytest.approx([0, -0.024472, -0.095492, -0.5, -0.975528, -1, -1], abs=1e-6)
        assert CurriculumTemperature(rise=0).strength(0, 240) == -1
        assert CurriculumTemperature(reversal=-1).strength(239, 240) == 1

    @pytest.mark.parametrize(
        ("tau", "value"), [(1.0, 0.342290), (2.0, 0.381577), (4.0, 0.374651), (15.621172, 0.355538), (21.0, 0.353351)]
    )
    def test_the_divergence(self, tau, value):
        mask = torch.ones_like(S, dtype=torch.bool)
        found = listwise_kl(S, T, mask, student_temperature=tau, teacher_temperature=tau).mean()
        assert float(found) == pytest.approx(value, abs=1e-6)

    def test_the_divergence_far_out_and_without_its_factor(self):
        """The limit; and what a factor outside the graph would leave, which falls all the way."""
        mask = torch.ones_like(S, dtype=torch.bool)
        far, alone = (
            listwise_kl(S, T, mask, student_temperature=tau, teacher_temperature=tau, tau_squared=squared).mean()
            for tau, squared in ((1e5, True), (15.621172, False))
        )
        assert float(far) == pytest.approx(0.346600, abs=1e-5)
        assert float(alone) == pytest.approx(0.001457, abs=1e-6)

    @pytest.mark.parametrize(
        ("theta", "tau", "gradient"),
        [
            (1.0, 15.621172, -0.002113),
            (-1.0, 6.378828, -0.009994),
            (-3.0, 1.948517, 0.004880),
            (-6.0, 1.049452, 0.005093),
        ],
    )
    def test_the_adversary_sees_the_opposite_sign(self, theta, tau, gradient):
        """The factor tau^2 is part of the graph: without it all four would have one sign."""
        temperature = module(**PAPER)
        temperature.theta.data.fill_(theta)
        ctx = at(100)
        loss(temperature, ctx, S).backward()
        assert float(ctx.temperature.detach()) == pytest.approx(tau, abs=1e-6)
        assert float(temperature.theta.grad) == pytest.approx(-gradient, abs=1e-6)

    def test_at_epoch_5(self):
        temperature, scores = module(**PAPER), S.clone().requires_grad_(True)
        assert float(temperature.theta.detach()) == pytest.approx(1.0, abs=1e-6)
        loss(temperature, at(4), scores).backward()
        assert float(temperature.theta.grad) == pytest.approx(0.001056, abs=1e-6)
        torch.optim.SGD(temperature.parameters(), lr=0.05).step()
        assert float(temperature.theta.detach()) == pytest.approx(0.999947, abs=1e-6)
        expected = [-0.097314, 0.013607, 0.061583, 0.057765, -0.035641]
        assert scores.grad[0].tolist() == pytest.approx(expected, abs=1e-6)
        without = S.clone().requires_grad_(True)
        loss(module(**PAPER, reversal=0.0), at(4), without).backward()
        torch.testing.assert_close(without.grad, scores.grad)

    def test_it_settles_where_the_divergence_is_greatest(self):
        """T = 2.209, where it is .381961, from both sides."""
        for initial in (1.2, 6.0):
            temperature = module(initial=initial, rise=0)
            optimizer = torch.optim.Adam(temperature.parameters(), lr=0.05)
            for _ in range(400):
                optimizer.zero_grad()
                ctx = at(0)
                value = loss(temperature, ctx, S)
                value.backward()
                optimizer.step()
            assert float(ctx.temperature.detach()) == pytest.approx(2.209, abs=0.01)
            assert float(value.detach()) == pytest.approx(0.381961, abs=1e-6)


def test_no_reversal_is_a_fixed_temperature():
    temperature, ctx = module(initial=4.0, reversal=0.0), at(100)
    value = loss(temperature, ctx, S)
    value.backward()
    assert float(value.detach()) == pytest.approx(0.374651, abs=1e-6)
    assert temperature.theta.grad.abs().max() == 0


def test_only_divergences_are_divided():
    batch, out, ctx = lists(T), PairOutput(S), StepContext("s", 0, 10, anchor=PairOutput(S))
    objectives = [Contrastive(scope="list"), ListwiseKL(teacher="t"), AnchorKL(), ListwiseKL(teacher="other")]
    temperature = module(granularity="per_teacher")
    temperature.bind(objectives)
    temperature.theta.data += torch.tensor([0.0, 1.0, 2.0])  # the anchor, other, t
    first, t, anchor, other = (temperature(out, batch, ctx, o) for o in objectives)
    assert first is None
    assert float(anchor.detach()) == pytest.approx(4.0)
    assert anchor < other < t


@pytest.mark.parametrize("granularity", ["global", "per_query"])
@pytest.mark.parametrize(
    ("objective", "own", "state"),
    [
        (ListwiseKL(teacher="t1"), 1.0, {}),
        (NKD(teacher="t1"), 1.0, {}),
        (DarkKL(teacher="t1", keep=(1, 1), joint=True), 1.0, {"order": torch.zeros(2)}),
        (
            KnowledgeFiltration(teacher="t1"),
            1.0,
            {"temperature": ONE, "spread": ONE, "own": ONE, "beneficial": ONE.bool().repeat(2)},
        ),
        (ConsensusAndDifference(teacher=["t1", "t2"]), 2.4, {"temperatures": ONE.repeat(2)}),
        (HeadKL(teacher=["t1"]), 2.0, {}),
        (SelfPacedKL(teacher="t1", how="none"), 1.0, {}),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, torch.nn.Module) else "",
)
def test_all_divergences_are_divided(toy, objective, own, state, granularity):
    """By the stage's temperature, in the place of their own."""
    toy.list_rows = torch.arange(2)
    out = PairOutput(S, views={"head": S[..., None]})
    temperature, ctx = module(granularity=granularity, initial=4.0), StepContext("s", 0, 10, teacher="t1", state=state)
    values = {}
    for tau in (None, own, temperature(out, toy, ctx, objective)):
        ctx.temperature = tau
        values[tau] = sum(v.detach() for v in objective(out, toy, ctx).values())
    plain, same, divided = values.values()
    torch.testing.assert_close(plain, same)
    assert (plain - divided).abs().min() > 1e-5


class TestPerQuery:
    def test_features(self):
        """By hand for two candidates; their order, and what is missing, do not matter."""
        nan = float("nan")
        student = torch.tensor([[0.0, 0.0, 9.0], [9.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
        teacher = torch.tensor([[1.0, 0.0, nan], [nan, 0.0, 1.0], [1.0, nan, nan]])
        found = features(student, teacher, torch.ones_like(student, dtype=torch.bool))
        p = torch.tensor([1.0, 0.0]).softmax(0)
        entropy = float(-(p * p.log()).sum() / torch.tensor(2.0).log())
        assert found[0].tolist() == pytest.approx([entropy, 1, float(p[0]), 0.5, float((p * (2 * p).log()).sum())])
        torch.testing.assert_close(found[0], found[1])
        assert found[2].tolist() == [0] * 5

    def test_one_temperature_a_query(self):
        temperature, scores, ctx = module(granularity="per_query"), S.clone().requires_grad_(True), at(100)
        with torch.no_grad():
            assert loss(temperature, ctx, S) == pytest.approx(0.374651, abs=1e-6)  # all start at `initial`
        torch.manual_seed(0)
        torch.nn.init.normal_(temperature.network[-1].weight)
        loss(temperature, ctx, scores).backward()
        assert ctx.temperature.shape == (2, 1)
        assert ctx.temperature[0] != ctx.temperature[1]
        # The student's gradient is that at these temperatures: none goes through the network.
        fixed = S.clone().requires_grad_(True)
        tau = ctx.temperature.detach()
        mask = torch.ones_like(S, dtype=torch.bool)
        listwise_kl(fixed, T, mask, student_temperature=tau, teacher_temperature=tau).mean().backward()
        torch.testing.assert_close(scores.grad, fixed.grad)

    def test_its_matrices_do_not_decay(self, tiny_model):
        temperature = CurriculumTemperature(granularity="per_query")
        objectives = {"s": [(ListwiseKL(teacher="t"), 1.0)]}
        distiller = Distiller(
            tiny_model(), objectives, ModelInfo(16, {}, {}), scale=20.0, temperatures={"s": temperature}
        )
        distiller.enter("s")
        groups = parameter_groups(distiller, 1e-3, 0.5, distiller.parameter_groups_of("s"))
        decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
        assert [decay[id(p)] for p in temperature.parameters()] == [0.0] * 4
        assert {decay[id(p)] for p in distiller.student.parameters() if p.ndim > 1} == {0.5}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"initial": 21.0}, "start < initial < start . span must hold; they are 1.0, 21.0 and 21.0"),
        ({"start": 0.0}, "0 < start < .* they are 0.0, 4.0 and 20.0"),
        ({"rise": 1.5}, "rise is a share"),
        ({"granularity": "layer"}, "granularity must be one of"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        CurriculumTemperature(**parameters)


@pytest.fixture
def tree(prod_tree):
    """PROD's stages, each with a temperature of another kind."""
    tree = copy.deepcopy(prod_tree)
    kinds = [{"rise": 0.5}, {"granularity": "per_query"}, {"granularity": "per_teacher"}]
    for stage, parameters in zip(tree["stages"], kinds, strict=True):
        stage["temperature"] = spec("CurriculumTemperature", **parameters)
    return tree


def test_a_killed_run_and_what_is_kept(tree, beir, tmp_path, monkeypatch):
    """In PROD's stages: checkpoints hold the temperatures, the student does not."""
    out = tmp_path / "whole" / "run"
    run_recipe(Recipe.from_dict(tree), beir, out)
    expected = everything(out)
    assert_comes_back(tree, beir, tmp_path, monkeypatch, expected, (2, 9, 14))
    names = [name for name in expected if "temperatures" in name]
    assert len([name for name in names if "module" in name]) == 1 + 4 + 1
    assert all(name.startswith("run.") for name in names)
    assert expected["run.module::temperatures.stage_dual.theta"] != CurriculumTemperature(rise=0.5).theta
    assert set(load_file(out / "student" / "model.safetensors")) == {
        name.removeprefix("student.") for name in expected if name.startswith("student.")
    }
    steps = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    logged = [line["logged_terms"] for line in steps if line["event"] == "step"]
    assert all(1 < watched["temperature"] < 21 for watched in logged)
    assert "temperature#2" in logged[-1]  # the anchor's


def test_its_own_learning_rate(tree, beir, tmp_path):
    """With none for the student, the temperature moves; it never decays."""
    tree["training"]["weight_decay"] = 0.5
    tree["stages"] = [tree["stages"][0] | {"lr": 1e-30}]
    out = tmp_path / "a" / "run"
    run_recipe(Recipe.from_dict(tree), beir, out)
    moved = everything(out)["run.module::temperatures.stage_dual.theta"] - CurriculumTemperature().theta
    assert 1e-3 < float(moved.detach().abs()) < 0.06  # three steps of 0.02 at most


def test_the_curriculum_slows_the_temperature(tree, beir, tmp_path):
    """AdamW makes steps of one size whatever the gradient's: the learning rate must follow the curriculum."""
    moved = []
    for rise in (0.0, 1.0):
        stage = tree["stages"][0] | {"lr": 1e-30, "steps": 6}
        stage["temperature"] = spec("CurriculumTemperature", rise=rise)
        out = tmp_path / str(rise) / "run"
        run_recipe(Recipe.from_dict(tree | {"stages": [stage]}), beir, out)
        end = everything(out)["run.module::temperatures.stage_dual.theta"]
        moved.append(float((end - CurriculumTemperature().theta).detach().abs()))
    assert moved[1] < 0.6 * moved[0]
