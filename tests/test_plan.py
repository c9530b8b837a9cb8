# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Plans of training: what generators are asked is counted, nobody is asked, nothing is written."""

import copy
import json
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from tiny import pool, spec, stage, write_jsonl

import retort
from retort.cli.main import main
from retort.trainers.data.beir import read_beir
from retort.trainers.plan import plan_run
from retort.trainers.recipe import Recipe, dump_yaml
from retort.trainers.run import run_recipe
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


def test_documents_that_are_longer_than_the_student_reads_are_no_noise(tree, beir, tmp_path, caplog):
    lines = (beir / "corpus.jsonl").read_text().splitlines()
    write_jsonl(beir / "corpus.jsonl", [json.loads(line) | {"text": "the ship " * 100} for line in lines])
    assert plan_run(Recipe.from_dict(tree), read_beir(beir, "train"), tmp_path).memory > 0
    assert "sequence length is longer" not in caplog.text


def test_a_corpus_that_is_not_made_yet(tree, tmp_path, asked):
    source = spec(f"{DATA}.made_corpus.GeneratedTexts", generator=spec(MOCK), topics=["tides", "salt"], each=3)
    tree["data"] = {"corpus": source}
    lines = retort.plan_train(tmp_path / "none", tmp_path / "run", recipe=Recipe.from_dict(tree))
    assert lines[0].startswith("corpus: retort.trainers.data.made_corpus.GeneratedTexts makes it first")
    assert lines[1].startswith("generator, data.corpus: up to 6 calls")
    assert asked == []
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_that_a_teacher_makes(tree, tmp_path, tiny_ranker, tokenizer_path):
    tree["teachers"] = {
        "ranker": spec("CrossEncoderTeacher", model=tiny_ranker, device="cpu"),
        "words": spec("BM25Teacher"),
    }
    source = spec(f"{DATA}.made_corpus.ScoredNGrams", teacher="ranker", tokenizer=tokenizer_path, texts=20, choices=7)
    tree["data"] = {"corpus": source}
    lines = retort.plan_train(tmp_path / "none", tmp_path / "run", recipe=Recipe.from_dict(tree))
    assert lines[1] == "teacher ranker: scores of 140 pairs"
    for teacher, message in (("nobody", "there is no teacher 'nobody'"), ("words", "'words' cannot be asked before")):
        source["init_parameters"]["teacher"] = teacher
        with pytest.raises(RecipeError, match=message):
            retort.plan_train(tmp_path / "none", tmp_path / "run", recipe=Recipe.from_dict(tree))


class TestCountsAreWhatIsAsked:
    """A plan's counts against those of the run, for queries that stages make."""

    @pytest.fixture
    def scored(self, monkeypatch) -> list[int]:
        """How many pairs the ranker scores, call by call."""
        from retort.trainers.teachers.cross_encoder import CrossEncoderTeacher

        pairs: list[int] = []
        score = CrossEncoderTeacher.score

        def count(self, asks):
            pairs.append(sum(len(ask.documents) for ask in asks))
            return score(self, asks)

        monkeypatch.setattr(CrossEncoderTeacher, "score", count)
        return pairs

    @pytest.fixture
    def ranked(self, tree, tiny_ranker) -> dict:
        tree["teachers"] = {"ranker": spec("CrossEncoderTeacher", model=tiny_ranker, device="cpu")}
        tree["training"] |= {"batch_size": 3}
        return tree

    def test_a_filter_scores_all_that_is_mined_for_queries_of_the_whole_corpus(self, ranked, beir, tmp_path, scored):
        only = ranked["stages"][0]
        only["queries"] = spec(f"{DATA}.pseudo_queries.KeySentences", most=2)
        only["candidates"]["filter"] = {"teacher": "ranker", "absolute_margin": 0.1}
        told = self.pairs(ranked, beir, tmp_path / "plan")
        scored.clear()
        run_recipe(Recipe.from_dict(ranked), beir, tmp_path / "run")
        assert sum(scored) / 3 <= told <= 3 * sum(scored)

    def test_a_selector_asks_beyond_the_lists(self, ranked, beir, tmp_path, scored):
        only = ranked["stages"][0]
        only["selector"] = spec("retort.trainers.methods.prod.ConfusingQueries", teacher="ranker", window=3, depth=9)
        told = self.pairs(ranked, beir, tmp_path / "plan")
        scored.clear()
        with suppress(RecipeError):  # it may keep none
            run_recipe(Recipe.from_dict(ranked), beir, tmp_path / "run")
        assert 0 < sum(scored) <= told == 9 * len(read_beir(beir, "train").queries)

    def test_proposals_are_as_many_as_the_pool_at_each_opening(self, ranked, beir, tmp_path, scored):
        only = ranked["stages"][0]
        only |= {"queries": spec(f"{DATA}.proposals.Proposals", pool=4), "refresh": 2, "teacher": "ranker"}
        only["objectives"] = [spec("ListwiseKL")]
        told = self.pairs(ranked, beir, tmp_path / "plan")
        scored.clear()
        run_recipe(Recipe.from_dict(ranked), beir, tmp_path / "run")
        assert sum(scored) <= told <= 2 * sum(scored)

    def test_vectors_of_passages_and_of_dev(self, tree, beir, tmp_path, tiny_student, monkeypatch):
        from retort.trainers.teachers.bi_encoder import BiEncoderTeacher

        encode, encoded = BiEncoderTeacher.encode, []
        tree["teachers"] = {"teacher": spec("BiEncoderTeacher", model=tiny_student, device="cpu")}
        tree["stages"] = [
            stage(
                "only",
                3,
                spec("Alignment", projection=True),
                batches="pairs",
                teacher="teacher",
            )
        ]
        train, dev = read_beir(beir, "train"), read_beir(beir, "dev")
        plan = plan_run(Recipe.from_dict(tree), train, tmp_path / "plan", dev)
        monkeypatch.setattr(
            BiEncoderTeacher, "encode", lambda self, texts, side: encoded.extend(texts) or encode(self, texts, side)
        )
        run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")
        told = int(plan.calls["teacher"].split()[2].replace(",", ""))
        assert len(encoded) <= told <= 2 * len(encoded)

    @staticmethod
    def pairs(tree, beir, cache) -> int:
        plan = plan_run(Recipe.from_dict(tree), read_beir(beir, "train"), cache)
        assert not cache.exists()
        return int(plan.calls["ranker"].split()[4].replace(",", ""))


def test_searches_of_a_server_are_counted(tree, beir, tmp_path, monkeypatch):
    """Each query once, whatever the stages; a local miner's are not."""
    from retort.trainers.candidates.bm25 import BM25Miner

    tree["stages"].append(copy.deepcopy(tree["stages"][0]) | {"name": "more"})
    data = read_beir(beir, "train")
    assert plan_run(Recipe.from_dict(tree), data, tmp_path).searches == {}
    monkeypatch.setattr(BM25Miner, "assumed_seconds", lambda _, queries: 0.5 * queries)
    plan = plan_run(Recipe.from_dict(tree), data, tmp_path)
    assert plan.searches == {"bm25": len(data.queries)}
    assert plan.seconds["retriever bm25"] == 0.5 * len(data.queries)
    assert f"retriever bm25: up to {len(data.queries)} searches" in plan.lines()


def test_the_same_prompt_is_paid_once(tree, beir, tmp_path, asked):
    """In two stages, and in a teacher that is trained within the run; another prompt is another."""
    text = spec("retort.trainers.methods.dual_cross_encoder.QuestionViews", views=1, queries=questions(price=2.0))
    tree["stages"][0]["candidates"]["text"] = text
    tree["stages"].append(copy.deepcopy(tree["stages"][0]) | {"name": "more"})
    tree["stages"].append(copy.deepcopy(tree["stages"][0]) | {"name": "other"})
    tree["stages"][2]["candidates"]["text"]["init_parameters"]["queries"] = questions(prompt="Other: {document}")
    plan = plan_run(Recipe.from_dict(tree), read_beir(beir, "train"), tmp_path)
    places = [f"stages.{i}.candidates.text.init_parameters.queries" for i in range(3)]
    assert list(plan.generators) == [", ".join(places[:2]), places[2]]
    assert asked == []


class TestTheCommand:
    def test_it_says_what_a_training_takes_and_writes_nothing(self, recipe_tree, beir, tmp_path, capsys, monkeypatch):
        monkeypatch.delenv("RETORT_CACHE", raising=False)
        recipe, out = tmp_path / "recipe.yaml", tmp_path / "runs" / "first"
        recipe.write_text(dump_yaml(recipe_tree))
        before = sorted(beir.rglob("*"))
        main(["train", "--recipe", str(recipe), "--data", str(beir), "--out", str(out), "--plan"])
        lines = capsys.readouterr().out.splitlines()
        train, dev = read_beir(beir, "train"), read_beir(beir, "dev")
        texts = len({*train.queries.texts, *dev.queries.texts}) + len(train.corpus)
        assert lines[0] == f"teacher teacher: vectors of {texts} texts"
        assert any(line.startswith("time, training: about ") for line in lines)
        assert not out.parent.exists()
        assert sorted(beir.rglob("*")) == before

    @pytest.mark.parametrize("plan", [True, False], ids=["plan", "training"])
    def test_data_that_the_recipe_makes(self, tree, tmp_path, monkeypatch, tokenizer_path, tiny_student, plan):
        """`--data` names a folder that is not there yet."""
        monkeypatch.chdir(tmp_path)
        tree["teachers"] = {"teacher": spec("BiEncoderTeacher", model=tiny_student, device="cpu")}
        source = spec(f"{DATA}.made_corpus.ScoredNGrams", teacher="teacher", tokenizer=tokenizer_path, texts=9)
        source["init_parameters"] |= {"parts": 2, "choices": 3}
        tree["data"] = {"corpus": source}
        only = stage("only", 2, spec("InBatchKL"), batches="queries", teacher="teacher")
        tree["stages"] = [only | {"queries": spec(f"{DATA}.proposals.Proposals", pool=4)}]
        tree["training"] |= {"keep": "last"}
        Path("recipe.yaml").write_text(dump_yaml(tree))
        command = ["train", "--recipe", "recipe.yaml", "--data", "made", "--out", "run", "--no-export"]
        main([*command, "--plan"] if plan else command)
        assert Path("made", "corpus.jsonl").is_file() is not plan
        assert Path("run").exists() is not plan

    def test_documents_alone(self, tree, tmp_path, monkeypatch):
        (tmp_path / "texts").mkdir()
        (tmp_path / "texts" / "a.txt").write_text("The ship sails. The harbour lies by the sea, and ships lie in it.")
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
        (tmp_path / "scratch").mkdir()
        batches = spec("retort.trainers.batches.spans.SpanBatches", length=8)
        loss = spec("retort.trainers.methods.cotmae.ContextReconstruction", layers=1)
        tree["stages"] = [stage("only", 4, loss, batches=batches)]
        recipe = Recipe.from_dict(tree)
        lines = retort.plan_train(None, tmp_path / "run", documents=tmp_path / "texts", recipe=recipe)
        assert lines[0].startswith("time, training: about ")
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "scratch", "texts"]

    def test_what_training_would_refuse(self, tree, tmp_path):
        (tmp_path / "alone").mkdir()
        write_jsonl(tmp_path / "alone" / "corpus.jsonl", [{"_id": "a", "text": "a ship"}])
        with pytest.raises(RecipeError, match=r"stages.0: .* draws from queries, and alone is a corpus alone"):
            retort.plan_train(tmp_path / "alone", tmp_path / "run", recipe=Recipe.from_dict(tree))
        with pytest.raises(DataError, match="plan_train: give data, or documents"):
            retort.plan_train(None, tmp_path / "run", recipe=Recipe.from_dict(tree))
