# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Plans of training: what generators are asked is counted, nobody is asked, nothing is written."""

import copy

import pytest
from tiny import pool, spec, stage, write_jsonl

import retort
from retort.cli.main import main
from retort.trainers.data.beir import read_beir
from retort.trainers.plan import plan_run
from retort.trainers.recipe import Recipe, dump_yaml
from retort.trainers.runtime.errors import DataError, RecipeError
from retort.trainers.teachers.chat_generator import ChatModel

MOCK = "haystack.components.generators.chat.mock.MockChatGenerator"
DATA = "retort.trainers.data"


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The prompts that are put to a generator."""
    prompts: list[str] = []
    monkeypatch.setattr(ChatModel, "_answer", lambda _, prompt: prompts.append(prompt) or "what is a ship")
    return prompts


@pytest.fixture
def tree(recipe_tree) -> dict:
    """One stage of lists."""
    tree = copy.deepcopy(recipe_tree)
    tree["stages"] = [stage("only", 4, spec("Contrastive"), candidates=pool("bm25", negatives=2))]
    tree["teachers"] = {}
    return tree


def questions(**parameters) -> dict:
    return spec(f"{DATA}.pseudo_queries.GeneratedQuestions", generator=spec(MOCK), **parameters)


PLACES = {
    "candidates.text": ("stages.0.candidates.text.init_parameters.queries", 1),
    "several": ("stages.0.candidates.text.init_parameters.queries", 2),
    "queries": ("stages.0.queries", 1),
    "batches": ("stages.0.batches.init_parameters.continuations", 1),
}


@pytest.mark.parametrize("kind", PLACES)
def test_a_generator_is_counted_wherever_it_stands(tree, beir, tmp_path, asked, kind):
    if kind in ("candidates.text", "several"):
        text = spec("retort.trainers.methods.dual_cross_encoder.QuestionViews", views=1)
        text["init_parameters"]["queries"] = questions()
        if kind == "several":
            text["init_parameters"]["queries"] = [questions(), questions(prompt="Other: {document}")]
        tree["stages"][0]["candidates"]["text"] = text
    elif kind == "queries":
        tree["stages"][0]["queries"] = spec(f"{DATA}.proposals.Proposals", generator=spec(MOCK))
    else:
        batches = spec("retort.trainers.methods.master.PassageBatches", length=16, continuations=questions())
        loss = spec("retort.trainers.methods.master.MultiTaskReconstruction", layers=1)
        tree["stages"] = [stage("only", 4, loss, batches=batches)]
    data, cache = read_beir(beir, "train"), tmp_path / "cache"
    plan = plan_run(Recipe.from_dict(tree), data, cache)
    place, sources = PLACES[kind]
    different = len(set(data.corpus.texts))
    assert plan.generators[place]["calls"] == sources * different
    characters = sum(map(len, dict.fromkeys(data.corpus.texts)))
    assert plan.generators[place]["tokens"] > characters * sources / 4
    assert any(line.startswith(f"generator, {place}: up to {sources * different} calls") for line in plan.lines())
    assert asked == []
    assert not cache.exists()


def test_answers_that_are_kept_are_not_counted_and_the_rest_has_a_price(tree, beir, tmp_path, asked):
    data = read_beir(beir, "train")
    text = spec("retort.trainers.methods.dual_cross_encoder.QuestionViews", views=1, queries=questions(price=2.0))
    tree["stages"][0]["candidates"]["text"] = text
    first = plan_run(Recipe.from_dict(tree), data, tmp_path)
    place = PLACES["candidates.text"][0]
    assert first.generators[place]["cost"] == pytest.approx(first.generators[place]["tokens"] * 2e-6)
    assert any(line.startswith(f"money, generator, {place}: about 0.0") for line in first.lines())
    recipe = Recipe.from_dict(tree)
    source = recipe.create(recipe.stages[0].candidates.text, "text", "text").source_spec
    made = recipe.create(type(recipe.student)(**source), "queries", "queries")
    made.estimate(data, tmp_path)
    made.of(data.subset([0]))
    assert len(asked) == first.generators[place]["calls"]
    assert plan_run(Recipe.from_dict(tree), data, tmp_path).generators[place]["calls"] == 0


def test_a_corpus_that_is_not_made_yet(tree, tmp_path, asked):
    source = spec(f"{DATA}.made_corpus.GeneratedTexts", generator=spec(MOCK), topics=["tides", "salt"], each=3)
    tree["data"] = {"corpus": source}
    lines = retort.plan_train(tmp_path / "none", tmp_path / "run", recipe=Recipe.from_dict(tree))
    assert lines[0].startswith("corpus: retort.trainers.data.made_corpus.GeneratedTexts makes it first")
    assert lines[1].startswith("generator, data.corpus: up to 6 calls")
    assert asked == []
    assert list(tmp_path.iterdir()) == []


class TestTheCommand:
    def test_it_says_what_a_training_takes_and_writes_nothing(self, recipe_tree, beir, tmp_path, capsys, monkeypatch):
        monkeypatch.delenv("RETORT_CACHE", raising=False)
        recipe, out = tmp_path / "recipe.yaml", tmp_path / "runs" / "first"
        recipe.write_text(dump_yaml(recipe_tree))
        before = sorted(beir.rglob("*"))
        main(["train", "--recipe", str(recipe), "--data", str(beir), "--out", str(out), "--plan"])
        lines = capsys.readouterr().out.splitlines()
        texts = len(read_beir(beir, "train").queries) + len(read_beir(beir, "train").corpus)
        assert lines[0] == f"teacher teacher: vectors of {texts} texts"
        assert any(line.startswith("time, training: about ") for line in lines)
        assert not out.parent.exists()
        assert sorted(beir.rglob("*")) == before

    def test_documents_alone(self, tree, tmp_path, capsys):
        (tmp_path / "texts").mkdir()
        (tmp_path / "texts" / "a.txt").write_text("The ship sails. The harbour lies by the sea, and ships lie in it.")
        batches = spec("retort.trainers.batches.spans.SpanBatches", length=8)
        loss = spec("retort.trainers.methods.cotmae.ContextReconstruction", layers=1)
        tree["stages"] = [stage("only", 4, loss, batches=batches)]
        recipe = Recipe.from_dict(tree)
        lines = retort.plan_train(None, tmp_path / "run", documents=tmp_path / "texts", recipe=recipe)
        assert lines[0].startswith("time, training: about ")
        assert [path.name for path in tmp_path.iterdir()] == ["texts"]

    def test_what_training_would_refuse(self, tree, tmp_path):
        (tmp_path / "alone").mkdir()
        write_jsonl(tmp_path / "alone" / "corpus.jsonl", [{"_id": "a", "text": "a ship"}])
        with pytest.raises(RecipeError, match=r"stages.0: .* draws from queries, and alone is a corpus alone"):
            retort.plan_train(tmp_path / "alone", tmp_path / "run", recipe=Recipe.from_dict(tree))
        with pytest.raises(DataError, match="plan_train: give data, or documents"):
            retort.plan_train(None, tmp_path / "run", recipe=Recipe.from_dict(tree))
