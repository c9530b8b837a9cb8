# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""LEAD and teachers in the loop: reference values, pairs of layers, kinds of teachers, who learns, killed runs."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny import assert_comes_back, everything, lists, pool, run_killed, spec, stage, terms_of, tiny_config
from torch.nn.functional import normalize

from retort.trainers.distiller import step_loss
from retort.trainers.encoder_output import DenseOutput, MultiVectorOutput, PairOutput
from retort.trainers.losses import contrastive, listwise_kl
from retort.trainers.methods.lead import LayerKL, MutualKL
from retort.trainers.objectives import Contrastive, TeacherContrastive
from retort.trainers.recipe import Recipe
from retort.trainers.roles import ModelInfo, StepContext
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError

TEACHER_LAYERS = [[1.0, 0.8, 0.2], [2.0, 0.5, 0.0], [0.2, 1.0, 0.4]]
STUDENT_LAYERS = [[0.5, 0.5, 0.1], [1.0, 0.2, 0.3], [0.7, 0.6, 0.0]]


def scored(last: torch.Tensor, layers: list[list[float]]) -> PairOutput:
    return PairOutput(last, layers={i: PairOutput(torch.tensor([scores])) for i, scores in enumerate(layers)})


def bound(teacher: int = 3, student: int = 3, **parameters) -> LayerKL:
    objective = LayerKL(teacher="t", **parameters)
    objective.bind(ModelInfo(4, {}, {}, student_layers=student, teacher_layers={"t": teacher}))
    return objective


class TestReferenceValues:
    def test_a_layers(self):
        """02-A: the teacher's own loss by layer, the divergences, their sum with weights at 10 and without."""
        batch, mask = lists(torch.zeros(1, 3)), torch.ones(1, 3, dtype=torch.bool)
        positive = batch.labels == 1
        own = [float(contrastive(torch.tensor([scores]), positive, mask)) for scores in TEACHER_LAYERS]
        assert own == pytest.approx([0.818925, 0.306356, 1.492217], abs=1e-6)
        assert (-torch.tensor(own) / 10).softmax(0).tolist() == pytest.approx([0.334730, 0.352335, 0.312935], abs=1e-6)
        assert (-torch.tensor(own)).softmax(0).tolist() == pytest.approx([0.314505, 0.525089, 0.160406], abs=1e-6)
        ctx = StepContext("s", 0, 1, teachers={"t": scored(torch.zeros(1, 3), TEACHER_LAYERS)})
        out = scored(torch.zeros(1, 3), STUDENT_LAYERS)
        found = {
            tau: float(bound(pairs=3, choose="last", weight_temperature=tau)(out, batch, ctx)["layer_kl"])
            for tau in (10.0, 1.0, None)
        }
        by_layer = 0.314505 * 0.011832 + 0.525089 * 0.114889 + 0.160406 * 0.081458
        assert found == pytest.approx({10.0: 0.069931, 1.0: by_layer, None: 0.208180}, abs=1e-6)

    def test_b_everything(self):
        """02-B: a teacher that learns, with targets that are not detached; value and both gradients."""
        theirs = torch.tensor([[3.0, 1.0, 0.5]], requires_grad=True)
        own = torch.tensor([[1.2, 0.9, 0.1]], requires_grad=True)
        batch = lists(torch.zeros(1, 3))
        ctx = StepContext("s", 0, 1, teachers={"t": scored(theirs, TEACHER_LAYERS)})
        out = scored(own, STUDENT_LAYERS)
        objectives = [
            Contrastive(scope="list"),
            TeacherContrastive(teacher="t"),
            MutualKL(teacher="t", both=True),
            bound(pairs=3, choose="last"),
        ]
        terms = {name: (*term, 1.0) for o in objectives for name, term in terms_of(o, out, batch, ctx).items()}
        found = {name: float(values.detach()) for name, (values, _, _) in terms.items()}
        expected = {"contrastive": 0.729329, "teacher_contrastive": 0.196734}
        expected |= {"mutual_kl": 0.249218 + 0.299454, "layer_kl": 0.069931}
        assert found == pytest.approx(expected, abs=1e-6)
        loss = step_loss(terms, dict.fromkeys(terms, 1.0))
        assert float(loss.detach()) == pytest.approx(1.544666, abs=1e-6)
        loss.backward()
        assert own.grad[0].tolist() == pytest.approx([-1.258185, 0.913400, 0.344785], abs=1e-6)
        assert theirs.grad[0].tolist() == pytest.approx([0.393354, -0.292395, -0.100959], abs=1e-6)

    @pytest.mark.parametrize("frozen", [False, True])
    def test_b_by_the_recipe(self, frozen):
        """02-B again, of the objectives that the recipe has; and what it says of a frozen teacher."""
        changes = ["teachers.teacher.init_parameters.train=false", "stages.1.objectives.1.weight=0"]
        changes += ["stages.1.objectives.2.init_parameters.both=false"]
        recipe = Recipe.from_yaml("lead", overrides=changes if frozen else [])
        assert recipe.teachers["teacher"].init_parameters["train"] is not frozen
        theirs = torch.tensor([[3.0, 1.0, 0.5]], requires_grad=not frozen)
        own = torch.tensor([[1.2, 0.9, 0.1]], requires_grad=True)

        def seen(last: torch.Tensor, layers: list[list[float]]) -> DenseOutput:
            each = {i: seen(torch.tensor([scores]), []) for i, scores in enumerate(layers)}
            return DenseOutput(last, torch.eye(3), 1.0, "dot", layers=each)

        ctx = StepContext("layers", 0, 1, teachers={"teacher": seen(theirs, TEACHER_LAYERS)})
        terms = {}
        for described in recipe.stages[1].objectives:
            objective = recipe.create(described, "objective", "x", teacher="teacher")
            objective.bind(ModelInfo(3, {}, {}, student_layers=3, teacher_layers={"teacher": 3}))
            found = terms_of(objective, seen(own, STUDENT_LAYERS), lists(torch.zeros(1, 3)), ctx)
            terms |= {name: (*term, described.weight) for name, term in found.items()}
        loss = step_loss(terms, dict.fromkeys(terms, 1.0))
        expected = 0.729329 + 0.249218 + 0.069931 if frozen else 1.544666
        assert float(loss.detach()) == pytest.approx(expected, abs=1e-6)
        loss.backward()
        if not frozen:
            assert own.grad[0].tolist() == pytest.approx([-1.258185, 0.913400, 0.344785], abs=1e-6)
            assert theirs.grad[0].tolist() == pytest.approx([0.393354, -0.292395, -0.100959], abs=1e-6)

    def test_detached_targets(self):
        theirs = torch.tensor([[3.0, 1.0, 0.5]], requires_grad=True)
        own = torch.tensor([[1.2, 0.9, 0.1]], requires_grad=True)
        ctx, batch = StepContext("s", 0, 1, teachers={"t": PairOutput(theirs)}), lists(torch.zeros(1, 3))
        MutualKL(teacher="t", detach_targets=True)(PairOutput(own), batch, ctx)["mutual_kl"].sum().backward()
        assert theirs.grad is None
        assert own.grad is not None

    def test_c_late_interaction(self):
        """02-C: the best match of each query token; padding matches nothing."""
        documents = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [9.0, 9.0]]])
        mask = torch.tensor([[True, True], [True, False]])
        seen = MultiVectorOutput(torch.eye(2)[None], torch.ones(1, 2, dtype=torch.bool), documents, mask)
        assert seen.in_batch_scores().tolist() == [[3.0, 1.0]]

    def test_layers_of_late_interaction(self):
        """Compared as the model's own vectors, of length 1; or by raw products, without the scale."""
        torch.manual_seed(0)
        there = torch.ones(1, 2, dtype=torch.bool), torch.ones(3, 2, dtype=torch.bool)
        raw = MultiVectorOutput(8 * torch.randn(1, 2, 4), there[0], 8 * torch.randn(3, 2, 4), there[1], scale=20.0)
        batch, student = lists(torch.zeros(1, 3)), torch.tensor([[1.0, 0.2, 0.3]])
        output = PairOutput(student, layers={0: PairOutput(student)})
        unit = replace(raw, queries=normalize(raw.queries, dim=-1), documents=normalize(raw.documents, dim=-1))
        for similarity, seen in (("model", unit), ("dot", replace(raw, scale=1.0))):
            ctx = StepContext("s", 0, 1, teachers={"t": replace(raw, layers={0: raw})})
            objective = bound(1, 1, similarity=similarity, weight_temperature=None)
            expected = listwise_kl(student, seen.list_scores(batch), batch.mask)
            torch.testing.assert_close(objective(output, batch, ctx)["layer_kl"], expected)


class TestLayers:
    def test_drawn_pairs_are_sorted_unique_and_redrawn(self):
        objective = bound(12, 6, pairs=4, redraw=10)
        drawn = [objective.layers(StepContext("s", step, 100)) for step in range(100)]
        for pairs in drawn:
            for side, depth in zip(zip(*pairs, strict=True), (12, 6), strict=True):
                assert list(side) == sorted(set(side))
                assert len(side) == 4
                assert max(side) < depth
        assert all(drawn[i] == drawn[i - i % 10] for i in range(100))
        assert len({tuple(pairs) for pairs in drawn}) > 5
        assert max(pairs[-1][1] for pairs in drawn) == 5  # the last layer can be drawn

    def test_each_stage_draws_pairs_of_its_own(self):
        steps, objective = (0, 10, 20), bound(12, 6, pairs=3)
        first, second = ([objective.layers(StepContext(name, step, 100)) for step in steps] for name in "ab")
        assert first != second

    def test_other_choices(self):
        assert bound(12, 6, pairs=3, choose="last").layers(StepContext("s", 0, 1)) == [(9, 3), (10, 4), (11, 5)]
        assert bound(12, 6, pairs=3, choose="skip").layers(StepContext("s", 0, 1)) == [(3, 1), (7, 3), (11, 5)]
        assert len(bound(12, 2, pairs=5).layers(StepContext("s", 0, 1))) == 2

    def test_weights_carry_no_gradient(self):
        """Otherwise the loss would fall by moving weight to layers that agree already."""
        theirs = [torch.tensor([scores], requires_grad=True) for scores in TEACHER_LAYERS]
        own = [torch.tensor([scores]) for scores in STUDENT_LAYERS]
        batch, everything = lists(torch.zeros(1, 3)), torch.ones(1, 3, dtype=torch.bool)
        teacher, student = (
            PairOutput(torch.zeros(1, 3), layers={i: PairOutput(layer) for i, layer in enumerate(layers)})
            for layers in (theirs, own)
        )
        ctx = StepContext("s", 0, 1, teachers={"t": teacher})
        objective = bound(pairs=3, choose="last", weight_temperature=1.0)
        found = torch.autograd.grad(objective(student, batch, ctx)["layer_kl"].sum(), theirs)
        fixed = [0.314505, 0.525089, 0.160406]  # of 02-A
        pairs = zip(fixed, own, theirs, strict=True)
        total = sum(w * listwise_kl(s, t, everything, detach=False).sum() for w, s, t in pairs)
        for mine, expected in zip(found, torch.autograd.grad(total, theirs), strict=True):
            assert expected.abs().max() > 1e-3
            torch.testing.assert_close(mine, expected, atol=1e-6, rtol=0)

    def test_what_is_logged(self):
        """Of each layer of the teacher: its entropy and its weight."""
        ctx = StepContext("s", 0, 1, teachers={"t": scored(torch.zeros(1, 3), TEACHER_LAYERS)})
        bound(pairs=3, choose="last")(scored(torch.zeros(1, 3), STUDENT_LAYERS), lists(torch.zeros(1, 3)), ctx)
        found = {name: float(values) for name, (values, _) in ctx.logged_terms.items()}
        assert [found[f"layer_weight.t.{n}"] for n in range(3)] == pytest.approx(
            [0.334730, 0.352335, 0.312935], abs=1e-6
        )
        p = torch.tensor(TEACHER_LAYERS).softmax(-1)
        expected = (-(p * p.log()).sum(-1)).tolist()
        assert [found[f"layer_entropy.t.{n}"] for n in range(3)] == pytest.approx(expected, abs=1e-6)

    def test_a_stages_temperature(self):
        """It divides the scores of layers as those of any divergence."""
        ctx = StepContext("s", 0, 1, teachers={"t": scored(torch.zeros(1, 3), TEACHER_LAYERS)})
        out, batch = scored(torch.zeros(1, 3), STUDENT_LAYERS), lists(torch.zeros(1, 3))
        expected = bound(pairs=3, choose="last", temperature=3.0)(out, batch, ctx)["layer_kl"]
        ctx.temperature = torch.tensor(3.0)
        objective = bound(pairs=3, choose="last")
        assert float(objective(out, batch, ctx)["layer_kl"]) == pytest.approx(float(expected), abs=1e-7)
        assert objective.divergence

    def test_equal_models_have_nothing_to_learn(self):
        layer = torch.tensor([[1.0, 0.3, 0.2]], requires_grad=True)
        other = torch.tensor([[0.1, 0.9, 0.2]], requires_grad=True)
        teacher = PairOutput(layer, layers={0: PairOutput(layer), 1: PairOutput(other)})
        ctx = StepContext("s", 0, 1, teachers={"t": teacher})
        values = bound(2, 2, pairs=2, weight_temperature=1.0)(teacher, lists(torch.zeros(1, 3)), ctx)["layer_kl"]
        assert float(values.detach()) == pytest.approx(0, abs=1e-7)
        values.sum().backward()
        assert max(layer.grad.abs().max(), other.grad.abs().max()) < 1e-7


class TestInBatch:
    """Two models' vectors of two queries and four documents, of which the third answers both queries."""

    @pytest.fixture
    def models(self) -> list[DenseOutput]:
        torch.manual_seed(0)
        return [
            DenseOutput(torch.randn(2, 8), torch.randn(4, 8), scale, "cosine", layers={0: layer})
            for scale in (20.0, 5.0)
            for layer in [DenseOutput(3 * torch.randn(2, 6), torch.randn(4, 6), scale, "cosine")]
        ]

    @pytest.fixture
    def divergence(self, models):
        batch = lists(torch.zeros(2, 2))
        batch.known_positive[0, 2] = True
        ctx = StepContext("s", 0, 1, teachers={"t": models[1]})
        return lambda objective: next(iter(objective(models[0], batch, ctx).values()))

    def test_distributions_are_over_all_documents(self, models, divergence):
        """Those that labels leave out too."""
        every = torch.ones(2, 4, dtype=torch.bool)
        last = listwise_kl(*(model.in_batch_scores() for model in models), every)
        layer = listwise_kl(*(model.layers[0].in_batch_scores() for model in models), every)
        torch.testing.assert_close(divergence(MutualKL(teacher="t", scope="in_batch")), last)
        torch.testing.assert_close(divergence(bound(1, 1, scope="in_batch")), layer)

    def test_dot_products_of_layers(self, models, divergence):
        """As they are, without the models' scales."""
        layers = [model.layers[0] for model in models]
        expected = listwise_kl(
            *(layer.queries @ layer.documents.T for layer in layers), torch.ones(2, 4, dtype=torch.bool)
        )
        torch.testing.assert_close(divergence(bound(1, 1, scope="in_batch", similarity="dot")), expected)


@pytest.fixture
def tree(recipe_tree, trunk, letters_path):
    """A student of two layers; teachers of three kinds, and one of them reads letters, not words."""
    models = {
        "dual": spec("from_config", config=tiny_config(), tokenizer=letters_path, seed=1),
        "ranker": spec("ranker", trunk=trunk, layers=[0, 1, 2]),
        "late": spec("late_interaction", model=trunk),
    }
    tree = copy.deepcopy(recipe_tree)
    tree["student"]["init_parameters"]["config"] = tiny_config(2, 8, 0.1)
    tree["teachers"] |= {name: spec("LiveTeacher", student=model) for name, model in models.items()}
    tree["stages"] = [
        stage(
            name,
            4,
            spec("Contrastive", scope="list"),
            spec("MutualKL"),
            spec("LayerKL", pairs=2, redraw=2),
            teacher=name,
            candidates=pool("bm25", negatives=2),
        )
        for name in models
    ]
    return tree


def weights(found: dict[str, torch.Tensor], teacher: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in found.items() if f"roles.teacher_{teacher}." in name}


@pytest.mark.parametrize("in_batch", [False, True])
def test_frozen_teachers_of_three_kinds(tree, beir, tmp_path, in_batch):
    """They stay as they are, and teach: without them the student ends elsewhere."""
    if in_batch:
        del tree["stages"][1]  # a ranker scores lists only
        for stage in tree["stages"]:
            for objective in stage["objectives"]:
                objective.setdefault("init_parameters", {})["scope"] = "in_batch"
    out = tmp_path / "a" / "run"
    run_recipe(Recipe.from_dict(tree), beir, out)
    found = everything(out)
    assert weights(found, "dual")
    ends = sorted((out / "checkpoints").glob("step-*"))
    before = load_file(ends[0] / "state.safetensors")
    for name in ("dual", "late"):
        mine = weights(found, name)
        assert all(torch.equal(t, before[k.removeprefix("run.")]) for k, t in mine.items())
    for stage in tree["stages"]:
        stage["objectives"] = stage["objectives"][:1]
    run_recipe(Recipe.from_dict(tree), beir, tmp_path / "b" / "run")
    alone = everything(tmp_path / "b" / "run")
    assert not [name for name in alone if "teacher_" in name]
    assert any(not torch.equal(t, alone[k]) for k, t in found.items() if k.startswith("student."))


@pytest.mark.parametrize("kind", ["dual", "ranker"])
def test_a_teacher_that_learns_and_a_kill(tree, beir, tmp_path, monkeypatch, kind):
    """Its weights are in the checkpoint, come back bit for bit, and end in a folder of their own."""
    (stage,) = tree["stages"] = [s for s in tree["stages"] if s["name"] == kind]
    stage["objectives"][1]["init_parameters"] = {"both": True}
    stage["objectives"].append(spec("TeacherContrastive"))
    tree["teachers"][kind]["init_parameters"] |= {"train": True, "lr": 5e-3}
    out, killed = tmp_path / "a" / "run", tmp_path / "b" / "run"
    run_recipe(Recipe.from_dict(tree), beir, out)
    expected = everything(out)
    run_killed(Recipe.from_dict(tree), beir, killed, monkeypatch, 3)
    found = everything(killed)
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    mine = weights(expected, kind)
    assert mine
    saved = [name for name in expected if name.startswith(f"teachers/{kind}/student")]
    assert saved
    tree["teachers"][kind]["init_parameters"] |= {"train": False, "lr": None}
    run_recipe(Recipe.from_dict(tree), beir, tmp_path / "c" / "run")
    frozen = weights(everything(tmp_path / "c" / "run"), kind)
    assert any(not torch.equal(mine[name], frozen[name]) for name in mine)


def test_turns(tree, beir, tmp_path, monkeypatch):
    """In the teacher's steps the student rests, and the other way round; each has an optimiser that counts its own."""
    (stage,) = tree["stages"] = [s for s in tree["stages"] if s["name"] == "ranker"]
    stage |= {"steps": 8, "objectives": stage["objectives"][:1]}
    stage["objectives"] += [
        spec("ListwiseKL"),
        spec("TeacherContrastive", turn={"steps": 1, "cycle": 4}, lr=1e-2),
    ]
    seen = []
    from retort.trainers.engine.loop import Loop

    real = Loop._step

    def watching(self, turns, *rest):
        before = {name: t.clone() for name, t in self.distiller.state_dict().items()}
        terms = real(self, turns, *rest)
        after = self.distiller.state_dict()
        moved = {name.split(".")[1] for name in after if not torch.equal(before[name], after[name])}
        seen.append((moved, turns.optimizer.param_groups[0]["lr"], set(terms[0]) - {"loss"}))
        return terms

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", watching)
        run_recipe(Recipe.from_dict(tree), beir, tmp_path / "a" / "run")
    student = ({"student"}, {"contrastive", "listwise_kl"})
    teacher = ({"teacher_ranker"}, {"teacher_contrastive"})
    assert [(moved, terms) for moved, _, terms in seen] == [teacher, student, student, student] * 2
    assert [rate for moved, rate, _ in seen if moved == {"teacher_ranker"}] == pytest.approx([1e-2, 1e-2])
    assert [rate for moved, rate, _ in seen if moved == {"student"}] == pytest.approx(
        [1e-3 * share for share in (1, 1, 0.8, 0.6, 0.4, 0.2)]
    )
    expected = everything(tmp_path / "a" / "run")
    assert_comes_back(tree, beir, tmp_path, monkeypatch, expected, (1, 2, 5))


class TestBadInput:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["stages.0.teacher=teacher"], "stages.0.objectives.1: .*MutualKL needs its teacher in the loop"),
            (["stages.0.objectives.2.init_parameters.pairs=0"], r"pairs: must be above 0; it is 0"),
            (["stages.1.objectives.1.init_parameters={scope: in_batch}"], r"stages.1.objectives.1: .*a ranker scores"),
            (["teachers.dual.init_parameters.lr=0.1"], "set train: true"),
            (
                ["stages.1.objectives.1.type=retort.trainers.objectives.Alignment"],
                "needs vectors, and teacher 'ranker'",
            ),
            (
                ["stages.1.objectives.1.type=retort.trainers.objectives.InBatchKL"],
                "needs vectors, and teacher 'ranker'",
            ),
            (
                [
                    "stages.1.objectives.1={type: retort.trainers.objectives.TeacherContrastive, init_parameters: {lr: 1}}"
                ],
                "lr is the teacher's in its turn",
            ),
            (
                [
                    "stages.0.objectives=[{type: retort.trainers.objectives.TeacherContrastive, init_parameters: "  # noqa: ISC004
                    "{turn: {steps: 2, cycle: 4}}}]"
                ],
                "stages.0: step 2 is the student's, and no objective teaches it",
            ),
            (["student={type: retort.students.create.late_interaction, init_parameters: {model: x}}"], "student"),
            (["candidates.own.init_parameters.model=dual"], "'dual' is asked at every step"),
            (["teachers.dual.init_parameters.student={kind: x}"], "teachers.dual.student"),
        ],
    )
    def test_mistakes(self, tree, beir, tmp_path, overrides, message):
        with pytest.raises(RecipeError, match=message):
            run_recipe(Recipe.from_dict(tree, overrides=overrides), beir, tmp_path / "run")


def test_a_late_interaction_model_sees_its_prompts(trunk, tmp_path):
    """Markers such as ColBERT's are prompts, which sentence-transformers adds in `encode` only."""
    from sentence_transformers import MultiVectorEncoder

    from retort.students.late_interaction import encode_tokens, longest

    model = MultiVectorEncoder(trunk, device="cpu", prompts={"query": "what: ", "document": "the "}).eval()
    for side, encode in (("query", model.encode_query), ("document", model.encode_document)):
        texts = ["ship", "bread in the oven"]
        with torch.no_grad():
            found = encode_tokens(model, texts, side, length=longest(model, texts, side))
        for own, expected in zip(found, encode(texts), strict=True):
            kept = own[own[:, -1] > 0, :-1]
            torch.testing.assert_close(kept, torch.as_tensor(expected), atol=1e-5, rtol=1e-4)


def test_an_order_to_which_a_teacher_in_the_loop_adds(tree, beir, tmp_path):
    """What counts is known before it answers."""
    tree["teachers"]["words"] = spec("BM25Teacher")
    del tree["stages"][1:]
    tree["stages"][0]["objectives"] = [spec("RankNet", teacher="words", extra_teachers={"dual": 0.5})]
    run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(line["terms"]["rank_net"] > 0 for line in lines if line["event"] == "step")


def test_patience_waits_for_the_student(tree, beir, tmp_path):
    """In the teacher's turn no evaluation could be better."""
    (stage,) = tree["stages"] = [s for s in tree["stages"] if s["name"] == "ranker"]
    turns = spec("TeacherContrastive", turn={"steps": 4, "cycle": 6})
    stage |= {"steps": 6, "objectives": [stage["objectives"][0], turns]}
    tree["training"] |= {"evaluate_every": 1, "patience": 1}
    metrics = run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")
    assert metrics["training"]["global_step"] >= 5


def test_layers_of_two_towers(trunk):
    """Pairs are drawn from as many layers as the shallower tower has."""
    from retort.students.create import two_towers
    from retort.trainers.build import _depth

    towers = [spec("from_layers", trunk=trunk, layers=layers) for layers in ([0], [0, 1, 2])]
    assert _depth(two_towers(*towers)) == 1
