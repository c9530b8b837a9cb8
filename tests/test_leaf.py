# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""LEAF: reference values, the head and where it goes, the least loss of a narrow one, and a killed run."""

import copy
import logging
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from tiny import WORDS, assert_comes_back, everything, lists, log_of, spec, stage, terms_of, tiny_config
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoTokenizer

from retort.students import Student, create, save_student
from retort.trainers.context import TrainingContext
from retort.trainers.data.splits import read_train_and_dev
from retort.trainers.data.texts import TextStore
from retort.trainers.encoder_output import DenseOutput
from retort.trainers.engine.optimizers import schedule_factor
from retort.trainers.evaluation.exports import export_student
from retort.trainers.methods.leaf import VectorRegression, least_squares, rank_floor
from retort.trainers.recipe import Recipe
from retort.trainers.recipe.schema import DataSection
from retort.trainers.roles import ModelInfo, StepContext
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.search import search_vectors
from retort.trainers.teachers.bi_encoder import BiEncoderTeacher
from retort.trainers.teachers.vector_cache import VectorCache

LEAF = "retort.trainers.methods.leaf.VectorRegression"
# Two queries and two documents: pooled states, the head, and what the teacher gives.
STATES = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.8, 0.2], [0.1, 1.2]], dtype=torch.float64)
WEIGHT = torch.tensor([[0.9, 0.1, 0.2, -0.1], [0.0, 0.8, 0.4, 0.3]], dtype=torch.float64)
HEAD = STATES @ WEIGHT + torch.tensor([0.05, -0.05, 0.0, 0.1], dtype=torch.float64)
RAW = torch.tensor(
    [[2.0, 0.8, 0.6, 0.0], [-1.0, 1.6, 0.5, 0.6], [1.8, 0.3, 0.5, 0.2], [0.2, 1.9, 0.9, 0.4]], dtype=torch.float64
)
OURS, THEIRS = F.normalize(HEAD, dim=-1), F.normalize(RAW, dim=-1)


def loss(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """Give the loss of each text, and what is logged: the first two are queries."""
    batch = lists(torch.zeros(2, 1))
    batch.teacher_vectors = {"t": (teacher[:2], teacher[2:])}
    ctx = StepContext("s", 0, 1)
    terms = terms_of(VectorRegression(teacher="t"), DenseOutput(student[:2], student[2:], 1.0, "cosine"), batch, ctx)
    ((values, counts),) = terms.values()  # the mean is over all texts alike
    assert counts.all()
    return values, ctx.logged_terms


class TestReferenceValues:
    def test_unit_vectors(self):
        found, logged = loss(OURS, THEIRS)
        assert found.tolist() == pytest.approx([0.029341, 0.042855, 0.006156, 0.050314], abs=1e-6)
        assert float(found.mean()) == pytest.approx(0.032167, abs=1e-6)
        cosines = torch.cat([logged["cosine_query"][0], logged["cosine_document"][0]])
        assert cosines.tolist() == pytest.approx([0.985329, 0.978573, 0.996922, 0.974843], abs=1e-6)
        torch.testing.assert_close(found, 2 - 2 * cosines)

    def test_lengths_that_differ(self):
        assert float(loss(HEAD, RAW)[0].mean()) == pytest.approx(1.200375, abs=1e-6)
        assert float(loss(HEAD, THEIRS)[0].mean()) == pytest.approx(0.051709, abs=1e-6)

    def test_the_gradient_is_tangential(self):
        head = HEAD.clone().requires_grad_()
        loss(F.normalize(head, dim=-1), THEIRS)[0][0].backward()
        assert head.grad[0].tolist() == pytest.approx([-0.122449, 0.058163, 0.139285, 0.229591], abs=1e-6)
        assert float(HEAD[0] @ head.grad[0]) == pytest.approx(0, abs=1e-12)

    def test_scores_of_either_index(self):
        """Over the teacher's documents queries err by their own distance alone."""
        whole, asymmetric = THEIRS[:2] @ THEIRS[2:].T, OURS[:2] @ THEIRS[2:].T
        symmetric = OURS[:2] @ OURS[2:].T
        assert asymmetric.flatten().tolist() == pytest.approx([0.961148, 0.600680, -0.146174, 0.814680], abs=1e-6)
        assert float((asymmetric - whole).abs().max()) == pytest.approx(0.098339, abs=1e-6)
        assert float((symmetric - whole).abs().max()) == pytest.approx(0.161610, abs=1e-6)
        assert float((asymmetric - whole).abs().max()) <= float(loss(OURS, THEIRS)[0][:2].sqrt().max())

    def test_cut_vectors_come_as_near(self):
        """A prefix errs no more than the whole, before it is normalised."""
        cut = loss(OURS[:, :2], THEIRS[:, :2])[0]
        assert cut.tolist() == pytest.approx([0.004777, 0.009939, 0.005424, 0.007681], abs=1e-6)
        pairs = [F.normalize(vectors[:, :2], dim=-1) for vectors in (OURS, THEIRS)]
        assert float(loss(*pairs)[0].mean()) == pytest.approx(0.003351, abs=1e-6)

    def test_an_index_of_bytes_or_bits(self):
        """21-E: documents of the teacher in 255 steps, and by their signs alone; queries are the student's."""

        def scores(documents: torch.Tensor) -> list[list[float]]:
            rows, found = search_vectors(OURS[:2].numpy(), documents.numpy(), 2, similarity="dot")
            return np.take_along_axis(found, rows.argsort(1), 1).tolist()

        low, high = float(THEIRS.min()), float(THEIRS.max())
        assert (low, high) == (pytest.approx(-0.489702, abs=1e-6), pytest.approx(0.946059, abs=1e-6))
        step = (high - low) / 255
        rounded = ((THEIRS[2:] - low) / step).round() * step + low
        whole, bytes_, bits = map(np.array, map(scores, (THEIRS[2:], rounded, THEIRS[2:].sign() / 2)))
        assert float(np.abs(bytes_ - whole).max()) == pytest.approx(0.001726, abs=1e-6)
        np.testing.assert_allclose(bits, [[0.859273] * 2, [0.540778] * 2], atol=1e-6)

    def test_a_head_by_least_squares(self, tokenizer_path):
        """21-F: in the head that students get, which is linear and has a bias."""
        weight, bias = least_squares(STATES.numpy(), THEIRS.numpy(), ridge=1e-6)
        head = create.from_config(tiny_config(1, 2), tokenizer_path, dim=4)[2].double()
        with torch.no_grad():
            head.linear.weight.copy_(torch.from_numpy(weight.T))
            head.linear.bias.copy_(torch.from_numpy(bias))
        vectors = head({"sentence_embedding": STATES})["sentence_embedding"].detach()
        found = float(loss(F.normalize(vectors, dim=-1), THEIRS)[0].mean())
        assert found == pytest.approx(0.002766, abs=1e-6)
        # The bias is a direction more than the states have.
        assert rank_floor(THEIRS.numpy(), 3) < found < rank_floor(THEIRS.numpy(), 2)

    def test_a_head_without_bias(self):
        weight, bias = least_squares(STATES.numpy(), THEIRS.numpy(), ridge=0.1, bias=False)
        states, width = STATES.numpy(), STATES.shape[1]
        np.testing.assert_allclose((states.T @ states + 0.1 * np.eye(width)) @ weight, states.T @ THEIRS.numpy())
        assert not bias.any()

    def test_the_bias_is_held_back_as_the_weights_are(self):
        solved = np.vstack(least_squares(STATES.numpy(), THEIRS.numpy(), ridge=0.1))
        wide = np.concatenate([STATES.numpy(), np.ones((4, 1))], axis=1)
        np.testing.assert_allclose((wide.T @ wide + 0.1 * np.eye(3)) @ solved, wide.T @ THEIRS.numpy())

    def test_a_cycles_learning_rate(self):
        """21-G: of the recipe, were its cycles of 1,000 steps; each begins anew."""
        recipe = Recipe.from_yaml("leaf")
        assert len(recipe.stages) == 3
        for cycle in recipe.stages:
            training = recipe.training_of(cycle)
            schedule = partial(schedule_factor, cycle.schedule, training.warmup, steps=1000, floor=training.lr_floor)
            rates = [cycle.lr * schedule(step=step) for step in (0, 499, 500, 999)]
            assert rates == pytest.approx([1e-4, 5.5045e-5, 5.4955e-5, 1e-5], abs=1e-9)


class TestTheFloor:
    def test_no_head_comes_nearer(self):
        """The best that gradient descent finds for any two-dimensional states."""
        rng = np.random.default_rng(0)
        targets = rng.normal(size=(40, 6))
        unit = torch.tensor(targets / np.linalg.norm(targets, axis=1, keepdims=True))
        torch.manual_seed(0)
        states = torch.randn(40, 2, dtype=torch.float64, requires_grad=True)
        head = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([states, head], lr=0.05)
        for _ in range(600):
            optimizer.zero_grad()
            value = (F.normalize(states @ head, dim=-1) - unit).pow(2).sum(-1).mean()
            value.backward()
            optimizer.step()
        floor = rank_floor(targets, 2)
        assert floor - 0.05 <= value.item() <= floor + 0.05

    def test_wide_enough(self):
        targets = np.random.default_rng(0).normal(size=(40, 6))
        assert rank_floor(targets, 6) == 0
        assert rank_floor(targets, 5) > 0
        assert rank_floor(targets[:, :3] @ np.ones((3, 6)), 1) == pytest.approx(0, abs=1e-6)


@pytest.fixture
def tree(recipe_tree, tiny_student):
    """A student of another width than its teacher's, with a head."""
    tree = copy.deepcopy(recipe_tree)
    parameters = tree["student"]["init_parameters"]
    parameters["dim"] = Student.load(tiny_student).dim
    parameters["config"] = parameters["config"] | {"hidden_size": 8}
    tree["teachers"] = {"teacher": spec("BiEncoderTeacher", model=tiny_student, device="cpu")}
    tree["candidates"] = {}
    tree["stages"] = [stage("align", 8, spec(LEAF), batches="texts", teacher="teacher")]
    return tree


class TestTheHead:
    def test_it_stays_in_the_student(self, tree, tiny_student, beir, tmp_path, caplog):
        """Saved, loaded by sentence-transformers alone; and it is linear. The learning rate ends at its floor."""
        tree["training"]["lr_floor"] = 0.25
        with caplog.at_level(logging.INFO, "retort"):
            run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")
        targets = Student.load(tiny_student).encode_document(read_train_and_dev(beir, DataSection())[0].corpus.texts)
        expected = f"lie in 9 dimensions: the loss of a document will hardly fall below {rank_floor(targets, 9):.4f}"
        assert expected in caplog.text  # 8 of the states, and the head's bias
        folder = tmp_path / "run" / "student"
        plain = SentenceTransformer(str(folder), device="cpu")
        assert [type(module).__name__ for module in plain] == ["Transformer", "Pooling", "Dense", "Normalize"]
        assert isinstance(plain[2].activation_function, torch.nn.Identity)
        texts = ["a ship near the harbour", "bread"]
        own = Student.load(str(folder))
        assert own.dim == tree["student"]["init_parameters"]["dim"] == 16
        np.testing.assert_allclose(own.encode_document(texts), plain.encode_document(texts), atol=1e-6)
        log = log_of(tmp_path / "run")
        assert log[-1]["logged_terms"]["cosine_document"] > log[0]["logged_terms"]["cosine_document"]
        assert log[-1]["lr"] == pytest.approx(0.25 * tree["stages"][0]["lr"])

    @pytest.mark.long
    def test_it_is_exported(self, tree, tmp_path):
        """In both precisions: a head turns its matrix, and shapes noted before would not fit."""
        model = create.from_config(**tree["student"]["init_parameters"])
        save_student(model, tmp_path / "student")
        export_student(tmp_path / "student")
        for precision, least in (("float32", 0.99999), ("int8", 0.95)):
            exported = Student.load(str(tmp_path / "student"), backend="onnx", precision=precision)
            pair = (
                model.encode_document(["a ship near the harbour"]),
                exported.encode_document(["a ship near the harbour"]),
            )
            assert float(np.sum(pair[0] * pair[1])) > least

    def test_a_killed_run(self, tree, beir, tmp_path, monkeypatch):
        run_recipe(Recipe.from_dict(tree), beir, tmp_path / "whole" / "run")
        assert_comes_back(tree, beir, tmp_path, monkeypatch, everything(tmp_path / "whole" / "run"), (5,))

    def test_queries_and_documents_count_alike(self):
        """One query and three documents: the mean over four texts."""
        batch = lists(torch.zeros(1, 3))
        batch.teacher_vectors = {"t": (THEIRS[:1], THEIRS[1:])}
        output = DenseOutput(OURS[:1], OURS[1:], 1.0, "cosine")
        ((values, counts),) = terms_of(VectorRegression(teacher="t"), output, batch, StepContext("s", 0, 1)).values()
        assert float((values * counts).sum() / counts.sum()) == pytest.approx(0.032167, abs=1e-6)

    def test_a_text_that_the_teacher_refused(self, tree, beir, tmp_path, monkeypatch):
        """The floor is of the others."""
        gather = VectorCache.gather

        def refused(self, *arguments):
            vectors = gather(self, *arguments)
            vectors[3:4] = np.nan
            return vectors

        monkeypatch.setattr(VectorCache, "gather", refused)
        run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")
        assert np.isfinite(log_of(tmp_path / "run")[-1]["terms"]["leaf"])

    def test_a_side_that_is_not_trained_is_not_asked_for(self, tiny_student, trunk, beir, tmp_path, monkeypatch):
        """A paid teacher would embed the corpus for a line in the log."""
        monkeypatch.setattr(BiEncoderTeacher, "encode_parts", lambda *_: pytest.fail("it was asked"))
        teacher = BiEncoderTeacher(model=tiny_student, device="cpu")
        context = TrainingContext(read_train_and_dev(beir, DataSection())[0], {"t": teacher}, tmp_path)
        objective = VectorRegression(teacher="t")
        student = create.from_layers(trunk, [0], dim=16)
        objective.bind(ModelInfo(16, {"t": 16}, {}, student=student))
        assert objective.open(context, None) == {}

    def test_lengths(self, trunk, tiny_student, caplog):
        """A student of length 1 learns directions; one of any length from unit vectors is warned about."""
        bare = create.from_layers(trunk, [0], dim=16)
        assert [type(m).__name__ for m in bare] == ["Transformer", "Pooling", "Dense"]
        unit = create.from_layers(trunk, [0], dim=16, normalize=True)
        assert type(unit[3]).__name__ == "Normalize" and len(unit) == 4
        assert len(create.pretrained(tiny_student, normalize=True)) == len(create.pretrained(tiny_student))
        context = SimpleNamespace(
            teachers={"t": SimpleNamespace(runs="cached")}, kept_vectors=lambda *_: np.eye(16, dtype=np.float32)
        )
        for student, warned in ((bare, True), (unit, False)):
            caplog.clear()
            objective = VectorRegression(teacher="t")
            objective.bind(ModelInfo(16, {"t": 16}, {}, student=student))
            objective.open(context, None)
            assert ("set normalize: true" in caplog.text) == warned
        batch = lists(torch.zeros(2, 1))
        batch.teacher_vectors = {"t": (RAW[:2], RAW[2:])}
        objective.bind(ModelInfo(4, {"t": 4}, {}, student=unit))
        found = objective(DenseOutput(OURS[:2], OURS[2:], 1.0, "cosine"), batch, StepContext("s", 0, 1))["leaf"]
        assert float(found.mean()) == pytest.approx(0.032167, abs=1e-6)

    def test_the_recipes_student_has_length_1(self, tmp_path, tokenizer_path):
        """Of an encoder of Hugging Face, too, which `leaf` names."""
        AutoModel.from_config(
            AutoConfig.for_model(vocab_size=80, **tiny_config(6) | {"max_position_embeddings": 512})
        ).save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(tokenizer_path).save_pretrained(tmp_path)
        recipe = Recipe.from_yaml("leaf", overrides=[f"student.init_parameters.trunk={tmp_path}"])
        assert type(recipe.create(recipe.student, "student", "student")[-1]).__name__ == "Normalize"

    def test_without_one(self, tree, beir, tmp_path):
        del tree["student"]["init_parameters"]["dim"]
        with pytest.raises(RecipeError, match=r"8 dimensions, .* has 16\. Give the student a head .*dim: 16"):
            run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")

    def test_its_seed_and_its_size(self, trunk):
        heads = [create.from_layers(trunk, [0], dim=5, seed=seed)[2].linear.weight for seed in (0, 0, 1)]
        assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
        with pytest.raises(ValueError, match="dim=0: a vector has at least one dimension"):
            create.pretrained(trunk, dim=0)

    def test_queries_alone_keep_the_teachers_space(self, trunk, tiny_student, beir, tmp_path):
        """An index of the teacher's is searched with a query tower of another width, through its head."""
        document = spec("pretrained", model=tiny_student) | {"frozen": True}
        query = spec("from_layers", trunk=trunk, layers=[0], dim=16)
        tree = {
            "format": 1,
            "student": spec("two_towers", query=query, document=document),
            "teachers": {"teacher": spec("BiEncoderTeacher", model=tiny_student, device="cpu")},
            "training": {"batch_size": 8, "evaluate_every": 0},
            "stages": [stage("align", 2, spec(LEAF), batches="queries", teacher="teacher")],
        }
        run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")
        ours, theirs = Student.load(str(tmp_path / "run" / "student")), Student.load(tiny_student)
        assert ours.manifest.space == theirs.manifest.space
        np.testing.assert_allclose(ours.encode_document(["a rose"]), theirs.encode_document(["a rose"]), atol=1e-6)


class TestAFittedHead:
    @pytest.fixture
    def tree(self, tree):
        tree["stages"] = [stage("align", 4, spec(LEAF, head="fitted"), batches="texts", teacher="teacher")]
        return tree

    def test_it_is_nearest(self, tree, beir, tmp_path, caplog):
        """No step is taken: what the run leaves is what least squares found, of this trunk and these texts."""
        tree["stages"][0] |= {"lr": 1e-12, "steps": 1}
        with caplog.at_level(logging.INFO, "retort"):
            run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")
        data = read_train_and_dev(beir, DataSection())[0]
        assert f"fitted to {len(data.corpus) + len(data.queries)} texts" in caplog.text
        student = SentenceTransformer(str(tmp_path / "run" / "student"), device="cpu")
        teacher = Student.load(tree["teachers"]["teacher"]["init_parameters"]["model"])
        states, targets = [], []
        for texts, encode in ((data.queries.texts, teacher.encode_query), (data.corpus.texts, teacher.encode_document)):
            features = student.preprocess(texts)
            with torch.no_grad():
                states.append(student[1](student[0](features))["sentence_embedding"].numpy())
            targets.append(encode(texts))
        weight, bias = least_squares(np.concatenate(states), np.concatenate(targets))
        np.testing.assert_allclose(student[2].linear.weight.detach().numpy(), weight.T, atol=2e-3)
        np.testing.assert_allclose(student[2].linear.bias.detach().numpy(), bias, atol=2e-3)

    def test_a_killed_run(self, tree, beir, tmp_path, monkeypatch):
        """It is not fitted again in the middle of a stage; it is where the stage has not begun."""
        run_recipe(Recipe.from_dict(tree), beir, tmp_path / "whole" / "run")
        assert_comes_back(tree, beir, tmp_path, monkeypatch, everything(tmp_path / "whole" / "run"), (0, 2))

    def test_what_is_frozen_stays(self, tree, trunk, beir, tmp_path):
        """The tower of documents is the teacher's, whose space its own head spans."""
        run_recipe(Recipe.from_dict(tree), beir, tmp_path / "teacher")
        teacher = str(tmp_path / "teacher" / "student")
        document = spec("pretrained", model=teacher) | {"frozen": True}
        query = spec("from_layers", trunk=trunk, layers=[0], dim=16)
        tree |= {"student": spec("two_towers", query=query, document=document)}
        tree["teachers"] = {"teacher": spec("BiEncoderTeacher", model=teacher, device="cpu")}
        tree["stages"] = [stage("align", 1, spec(LEAF, head="fitted"), batches="queries", teacher="teacher")]
        run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")
        assert Student.load(str(tmp_path / "run" / "student")).manifest.space == Student.load(teacher).manifest.space

    VECTORS = 3 * np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    TEXTS = tuple(" ".join(WORDS[row : row + 5]) for row in range(40))

    @staticmethod
    def fitted(student, vectors=VECTORS, texts=TEXTS) -> torch.Tensor:
        """Give the last head's weights after it was fitted to what a teacher gives for some texts."""
        store = TextStore(map(str, range(len(texts))), texts)
        context = SimpleNamespace(data=SimpleNamespace(queries=store, corpus=store), vectors=lambda *_: vectors)
        VectorRegression(teacher="t", head="fitted").warm_start(student, context)
        return [module for module in student if isinstance(module, Dense)][-1].linear.weight.detach().clone()

    def test_a_student_of_length_1_is_fitted_to_directions(self, trunk):
        unit = self.VECTORS / np.linalg.norm(self.VECTORS, axis=1, keepdims=True)
        student = create.from_layers(trunk, [0], dim=3, normalize=True)
        torch.testing.assert_close(self.fitted(student), self.fitted(student, unit))

    def test_a_text_that_the_teacher_refused_takes_no_part(self, trunk):
        refused = self.VECTORS.copy()
        refused[2] = np.nan
        student, others = create.from_layers(trunk, [0], dim=3), np.arange(40) != 2
        expected = self.fitted(student, self.VECTORS[others], np.array(self.TEXTS)[others].tolist())
        torch.testing.assert_close(self.fitted(student, refused), expected, atol=1e-4, rtol=1e-4)

    def test_a_student_in_training_goes_on_training(self, trunk):
        student = create.from_layers(trunk, [0], dim=3).train()
        self.fitted(student)
        assert student.training

    def test_of_several_heads_the_last_is_fitted(self, trunk):
        last = Dense(in_features=8, out_features=3, activation_function=torch.nn.Identity())
        student = SentenceTransformer(modules=[*create.from_layers(trunk, [0], dim=8), last])
        first, second = (student[place].linear.weight.detach().clone() for place in (-2, -1))
        assert not torch.equal(self.fitted(student), second)
        assert torch.equal(student[-2].linear.weight, first)

    def test_without_a_head(self, tree, beir, tmp_path):
        tree["student"]["init_parameters"] |= {"dim": None, "config": tiny_config(1, 2) | {"hidden_size": 16}}
        with pytest.raises(RecipeError, match="head: fitted needs a linear head"):
            run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")

    def test_a_layer_with_an_activation_is_none(self, tree, tiny_student):
        """Least squares knows of no activation."""
        model = create.from_config(**tree["student"]["init_parameters"])
        bent = Dense(in_features=16, out_features=16)  # a hyperbolic tangent, where nothing is said
        info = ModelInfo(
            16, {"t": 16}, {"t": "cosine"}, {}, student=SentenceTransformer(modules=[*list(model)[:2], bent])
        )
        with pytest.raises(ValueError, match="needs a linear head"):
            VectorRegression(teacher="t", head="fitted").bind(info)

    def test_too_few_texts(self, tree, beir, tmp_path, caplog, monkeypatch):
        monkeypatch.setattr("retort.trainers.methods.leaf.SAMPLE", 2)
        with caplog.at_level(logging.WARNING, "retort"):
            run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")
        assert "2 texts are too few to fit the head" in caplog.text
