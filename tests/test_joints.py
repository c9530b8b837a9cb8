# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
The joints that methods plug into, each held by the skeleton of a method that needs it (tests/skeletons).

A skeleton is named by a recipe and its module allowed; nothing under trainers/ knows of it.
"""

import copy
import json

import pytest
import torch
from skeletons import simcse
from test_house import ROOT, code_lines
from tiny import assert_comes_back, everything, pool, spec, stage, tiny_config

from retort.students import Student, create
from retort.students.encoding import encode_parts
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.build import build_recipe
from retort.trainers.data.proposals import Proposals
from retort.trainers.data.pseudo_queries import sentences_of
from retort.trainers.data.read import read_data
from retort.trainers.distiller import step_loss
from retort.trainers.encoder_output import BatchEncoder
from retort.trainers.engine.log import total
from retort.trainers.recipe import Recipe
from retort.trainers.roles import StepContext
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.stages import open_stage

ALLOW = ["skeletons"]
SKELETONS = sorted((ROOT / "tests" / "skeletons").glob("*.py"))


@pytest.mark.parametrize("path", SKELETONS, ids=lambda path: path.stem)
def test_a_skeleton_is_small(path):
    assert code_lines(path) <= 60


def plain(recipe_tree: dict, *stages: dict, **parts) -> dict:
    """The recipe with other stages, without dropout."""
    tree = copy.deepcopy(recipe_tree) | parts | {"stages": list(stages)}
    config = tree["student"]["init_parameters"]["config"]
    config["hidden_dropout_prob"] = config["attention_probs_dropout_prob"] = 0.0
    return tree


def comes_back(tree, data, tmp_path, monkeypatch, kills=(3, 6)) -> list[dict]:
    """Run a recipe, and again with kills; returns the log's lines with terms."""
    run_recipe(Recipe.from_dict(tree, allow=ALLOW), data, tmp_path / "whole" / "run")
    expected = everything(tmp_path / "whole" / "run")
    assert_comes_back(tree, data, tmp_path, monkeypatch, expected, kills, allow=ALLOW)
    lines = (tmp_path / "whole" / "run" / "log.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "terms" in line]


def gradients(tree, data, cache, parts: int, **training) -> dict[str, torch.Tensor]:
    """Gradients of a stage's first step, in float64, of a batch that is cut into parts."""
    recipe = Recipe.from_dict(tree | {"training": tree["training"] | training}, allow=ALLOW)
    torch.manual_seed(0)
    built = build_recipe(recipe, read_data(data, "train"), cache)
    distiller, section = built.distiller.double(), recipe.stages[0]
    source = open_stage(built, section, cache / "out").source
    distiller.enter(section.name)
    ctx = StepContext(section.name, 0, section.steps)
    cut = [part.to(torch.device("cpu"), torch.float64) for part in source.batch(0).split(parts)]
    assert len(cut) == parts
    counts = total(distiller.counts(part, ctx) for part in cut)
    for part in cut:
        step_loss(distiller(part, ctx), counts).backward()
    return {name: p.grad for name, p in distiller.named_parameters() if p.grad is not None}


def assert_alike(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-10


@pytest.fixture
def master_tree(recipe_tree) -> dict:
    methods = "retort.trainers.methods.master"
    batches = spec(f"{methods}.PassageBatches", length=16)
    one = stage("passages", 8, spec(f"{methods}.MultiTaskReconstruction", layers=1), batches=batches)
    tree = plain(recipe_tree, one, teachers={}, candidates={})
    return tree | {"training": tree["training"] | {"batch_size": 12}}


class TestMaster:
    """Batches of token ids; token states; parameters of an objective."""

    def test_a_tower_without_texts_has_no_gradient(self, tokenizer_path):
        """Zeros would let weight decay loose on it."""
        tower = spec("from_config", config=tiny_config(1), tokenizer=tokenizer_path)
        model = create.two_towers(query=tower, document=tower)
        batch = CandidateBatch.without_lists([], [(2, 9, 3), (2, 8, 9, 3)])
        output = BatchEncoder(StepContext("s", 0, 1).processes).encode(model, batch, 20.0, views=("tokens",))
        (output.documents.sum() + output.queries.sum()).backward()
        learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert learned and not any("sub_modules.query" in name for name in learned)

    def test_states_of_tokens_are_asked_for_as_tokens(self, tiny_model):
        """Those of several lengths could not be joined; one text alone is refused as well, so that a recipe is."""
        for texts in (["ship"], ["ship", "a ship in the sea"]):
            with pytest.raises(ValueError, match="the view 'token' has no row a text of one size: take 'tokens'"):
                encode_parts(tiny_model(), texts, "document", views=("token",), budget=8)
        parts = encode_parts(tiny_model(), texts, "document", views=("tokens",), length=7, budget=8)
        assert parts["token_mask"].sum(1).tolist() == [3, 7]

    def test_token_ids_are_read_as_they_are(self, tiny_model):
        """As the texts that they are of; in parts of a batch, too."""
        model = tiny_model(prompts={"document": "the "})
        texts = ["a ship in the sea", "a song", "ship"]
        ids = [tuple(row) for row in model.tokenizer([f"the {text}" for text in texts])["input_ids"]]
        batch, encoder = CandidateBatch.without_lists([], ids), BatchEncoder(StepContext("s", 0, 1).processes, 8)
        vectors = encoder.encode(model, CandidateBatch.without_lists([], texts), 1.0).documents
        torch.testing.assert_close(encoder.encode(model, batch, 1.0).documents, vectors)
        second = batch.split(2)[1]
        assert second.documents == ids[2:]
        torch.testing.assert_close(encoder.encode(model, second, 1.0).documents, vectors[2:])

    def test_parts_and_cached_gradients_change_nothing(self, master_tree, beir, tmp_path):
        whole = gradients(master_tree, beir, tmp_path, 1)
        assert any("decoders.keywords.layers.0.linear1" in name for name in whole)
        assert_alike(whole, gradients(master_tree, beir, tmp_path, 2))
        assert_alike(whole, gradients(master_tree, beir, tmp_path, 2, cache_gradients=True, tokens_per_chunk=24))


@pytest.fixture
def simcse_tree(recipe_tree) -> dict:
    one = stage("pairs", 6, spec("Contrastive"), batches=spec("skeletons.simcse.OwnPositives"))
    return copy.deepcopy(recipe_tree) | {"stages": [one], "teachers": {}, "candidates": {}}  # with dropout


class TestSimCSE:
    """Batches with lists of a method's own, which no `candidates` made."""

    def test_reference_value(self, simcse_tree, beir, tmp_path):
        """Equation 4 of the paper, with both sides alike, as there is no dropout."""
        built = build_recipe(Recipe.from_dict(simcse_tree, allow=ALLOW), read_data(beir, "train"), tmp_path)
        source = open_stage(built, built.recipe.stages[0], tmp_path / "out").source
        batch, distiller = source.batch(2), built.distiller.eval()
        assert isinstance(source, simcse.OwnPositives) and batch.queries == batch.documents
        values, counts, weight = distiller(batch, StepContext("pairs", 2, 6))["contrastive"]
        vectors = torch.nn.functional.normalize(torch.from_numpy(distiller.student.encode(batch.documents)), dim=-1)
        expected = torch.logsumexp(20 * vectors @ vectors.T, dim=-1) - 20
        torch.testing.assert_close(values.detach(), expected, atol=1e-4, rtol=0)
        assert counts.all() and weight == 1.0

    def test_a_killed_run(self, simcse_tree, beir, tmp_path, monkeypatch):
        lines = comes_back(simcse_tree, beir, tmp_path, monkeypatch, (3,))
        assert len(lines) == 6 and lines[-1]["queries_without_positive"] == 0

    def test_mere_texts_have_no_lists(self, simcse_tree, beir, tmp_path):
        simcse_tree["stages"][0]["batches"] = "texts"
        with pytest.raises(RecipeError, match=r"stages.0.objectives.0: .*Contrastive needs .*lists"):
            run_recipe(Recipe.from_dict(simcse_tree, allow=ALLOW), beir, tmp_path / "run")


@pytest.fixture
def queries_tree(recipe_tree) -> dict:
    text = spec("retort.trainers.methods.capstone.Expansion", queries=spec("TrainingQuestions", most=100))
    one = stage(
        "expanded",
        8,
        spec("Contrastive", scope="list"),
        spec("ListwiseKL", teacher="teacher"),
        queries=spec("retort.trainers.data.proposals.Proposals"),
        candidates=pool("bm25", negatives=2, text=text),
        refresh=4,
    )
    return plain(recipe_tree, one, candidates={"bm25": recipe_tree["candidates"]["bm25"]})


class TestQueries:
    """Queries of a stage's own, made anew at each refresh; texts that follow the stage's progress."""

    def test_parts_change_nothing(self, queries_tree, beir, tmp_path):
        assert_alike(gradients(queries_tree, beir, tmp_path, 1), gradients(queries_tree, beir, tmp_path, 2))

    def test_a_killed_run(self, queries_tree, beir, tmp_path, monkeypatch):
        """A resumed run reads its queries back: they are made once for each refresh, whatever is killed."""
        numbers, real = [], Proposals.open

        def noted(self, context, number):
            numbers.append(number)
            real(self, context, number)

        monkeypatch.setattr(Proposals, "open", noted)
        lines = comes_back(queries_tree, beir, tmp_path, monkeypatch)
        assert numbers == [0, 1] * 3
        assert all(line["terms"]["contrastive"] > 0 for line in lines)
        kept = [
            [json.loads(line) for line in path.read_text().splitlines()]
            for path in sorted((tmp_path / "whole" / "run" / "queries").iterdir())
        ]
        assert len(kept) == 2 and kept[0] != kept[1]
        texts = read_data(beir, "train").corpus
        assert all(
            entry["text"] in texts.texts[texts.rows[entry["document_id"]]] for entry in kept[1]
        )  # of the first opening

    def test_a_query_may_hold_any_character(self, queries_tree, beir, tmp_path, monkeypatch):
        """Among them those that Unicode counts as line breaks."""
        odd = "what\u2028is\x85it\u2029"
        monkeypatch.setattr(Proposals, "of", lambda self, data: [[f"{odd} {i}"] for i in data.corpus.ids])
        built = build_recipe(Recipe.from_dict(queries_tree, allow=ALLOW), read_data(beir, "train"), tmp_path)
        source = open_stage(built, built.recipe.stages[0], tmp_path / "out").source
        assert all(query.startswith(odd) for query in source.batch(0).queries)

    def test_candidates_that_only_the_datas_queries_have(self, queries_tree, beir, tmp_path):
        """Known before the first step, not when the stage opens."""
        data = read_data(beir, "train")
        data.given = {name: {"d00": 1.0} for name in data.queries.ids}
        given = {"type": "retort.trainers.candidates.given.GivenMiner"}
        queries_tree["candidates"] = {"given": given}
        queries_tree["stages"][0]["candidates"]["sources"] = ["given"]
        with pytest.raises(RecipeError, match=r"stages.0.queries: .* no documents for its queries"):
            build_recipe(Recipe.from_dict(queries_tree, allow=ALLOW), data, tmp_path)

    @pytest.mark.parametrize("batches", ["lists", "pairs"])
    def test_positives_that_the_data_do_not_have(self, queries_tree, beir, tmp_path, batches):
        """A stage that makes its queries brings their positives along."""
        one = queries_tree["stages"][0]
        if batches == "pairs":
            del one["candidates"], one["refresh"]
            one |= {"batches": "pairs", "objectives": [spec("Contrastive")]}
        data = read_data(beir, "train")
        data.qrels = {q: dict.fromkeys(own, 0) for q, own in data.qrels.items()}
        build_recipe(Recipe.from_dict(queries_tree, allow=ALLOW), data, tmp_path)
        del one["queries"]
        if batches == "lists":
            with pytest.raises(RecipeError, match="stage expanded: Contrastive needs positives, but none of the 30"):
                build_recipe(Recipe.from_dict(queries_tree, allow=ALLOW), data, tmp_path)

    def test_no_sentence_of_what_is_held_out(self, queries_tree, beir, tmp_path, monkeypatch):
        """Dev's own queries were made of it."""
        monkeypatch.setattr(Proposals, "of", lambda self, data: [["the ship"] for _ in data.corpus.ids])
        one = queries_tree["stages"][0]
        del one["candidates"], one["refresh"]
        one |= {"batches": "queries", "objectives": [spec("Alignment", projection=True)], "teacher": "teacher"}
        data = read_data(beir, "train")
        data.held_out = frozenset(data.corpus.ids[:20])
        built = build_recipe(Recipe.from_dict(queries_tree, allow=ALLOW), data, tmp_path)
        seen, real = [], built.batches["expanded"].query_texts
        monkeypatch.setattr(built.batches["expanded"], "query_texts", lambda data: seen.extend(real(data)) or seen)
        open_stage(built, built.recipe.stages[0], tmp_path / "out")
        assert seen[0] == "the ship"
        assert not {s for text in data.corpus.texts[:20] for s in sentences_of(text)} & set(seen[1:])

    def test_a_source_without_any_query(self, queries_tree, beir, tmp_path, monkeypatch):
        monkeypatch.setattr(Proposals, "of", lambda self, data: [[] for _ in data.corpus.ids])
        with pytest.raises(RecipeError, match=r"stages.0.queries: Proposals made no query"):
            run_recipe(Recipe.from_dict(queries_tree, allow=ALLOW), beir, tmp_path / "run")


@pytest.fixture
def cerberus_tree(recipe_tree, other_student, trunk) -> dict:
    teachers = recipe_tree["teachers"] | {"other": spec("BiEncoderTeacher", model=other_student, device="cpu")}
    loss = spec("retort.trainers.methods.cerberus.HeadKL", teacher=list(teachers))
    one = stage("heads", 8, loss, candidates=pool("bm25", negatives=3))
    tree = plain(recipe_tree, one, teachers=teachers, candidates={"bm25": recipe_tree["candidates"]["bm25"]})
    tree["student"] = spec("retort.students.create.with_heads", trunk=trunk, layers=[0, 2], heads=2, dim=4)
    return tree


class TestCerberus:
    """A student with a module of its own, whose view objectives look at: one head a teacher."""

    def test_parts_and_cached_gradients_change_nothing(self, cerberus_tree, beir, tmp_path):
        whole = gradients(cerberus_tree, beir, tmp_path, 1)
        assert_alike(whole, gradients(cerberus_tree, beir, tmp_path, 2))
        assert_alike(whole, gradients(cerberus_tree, beir, tmp_path, 2, cache_gradients=True, tokens_per_chunk=24))

    def test_a_killed_run(self, cerberus_tree, beir, tmp_path, monkeypatch):
        lines = comes_back(cerberus_tree, beir, tmp_path, monkeypatch)
        assert set(lines[0]["terms"]) == {"loss", "head_kl", "head_labels"}
        assert set(lines[0]["logged_terms"]) == {"head_kl.0", "head_kl.1"}
        student = Student.load(str(tmp_path / "whole" / "run" / "student"))
        assert student.encode_query(["a ship"]).shape == (1, 8)

    def test_views_are_whole_where_vectors_are_cut(self, cerberus_tree, beir, tmp_path):
        """A term on views is computed once, whatever `training.dims` says."""
        whole = gradients(cerberus_tree, beir, tmp_path, 1)
        assert_alike(whole, gradients(cerberus_tree, beir, tmp_path, 1, dims=[3]))

    def test_a_view_that_no_module_gives(self, cerberus_tree, recipe_tree, beir, tmp_path):
        cerberus_tree["student"] = recipe_tree["student"]
        with pytest.raises(RecipeError, match=r"stages.0.objectives.0 .*HeadKL.*no module .*head_embeddings"):
            run_recipe(Recipe.from_dict(cerberus_tree), beir, tmp_path / "run")
