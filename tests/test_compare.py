# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Comparing runs, fusing rankings, and what a student folder says of itself."""

import json
import re
import shutil
from dataclasses import replace
from importlib import import_module

import pytest
import yaml
from test_cli import fail, say
from tiny import two_stages, write_beir

from retort.students import Student
from retort.students.card import model_card
from retort.students.manifest import Manifest
from retort.trainers.data.beir import read_beir
from retort.trainers.evaluation.fusion import fuse, fuse_cross_fitted, relative
from retort.trainers.evaluation.rank import Evaluation
from retort.trainers.evaluation.runs import (
    compare,
    other_data,
    read_per_query,
    read_rankings,
    read_scores,
    write_evaluation,
)
from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import DataError

BARE = Manifest(kind="dense", dim=8, similarity="dot", prompts={}, max_tokens={}, space="s", fingerprint="f")


def scores(*first_ranks: int) -> dict[str, dict[str, float]]:
    """Queries whose one relevant document is at these ranks; 0: nowhere."""
    found = {}
    for i, rank in enumerate(first_ranks):
        near = 0 < rank <= 10
        gain = 1 / rank if near else 0.0
        found[f"q{i}"] = {"ndcg@10": gain, "mrr@10": gain, "recall@20": float(rank > 0), "recall@100": float(rank > 0)}
    return found


class TestCompare:
    def test_counts(self):
        found = compare(scores(1, 1, 2, 0, 5), scores(1, 2, 1, 3, 5))
        change = found.changes["mrr@10"]
        assert (change.wins, change.losses, change.ties) == (2, 1, 2)
        assert (found.forgotten, found.gained) == (["q1"], ["q2"])
        assert change.after - change.before == pytest.approx(change.test.difference)
        assert change.test.low <= change.test.difference <= change.test.high

    def test_a_system_and_itself(self):
        change = compare(scores(1, 2, 3), scores(1, 2, 3)).changes["ndcg@10"]
        assert (change.test.difference, change.test.p, change.t_p, change.ties) == (0, 1, 1, 3)

    def test_a_clear_difference_is_told_from_chance(self):
        found = compare(scores(*[5, 4] * 20), scores(*[1, 2] * 20)).changes["ndcg@10"]
        assert found.test.p < 0.001
        assert found.t_p < 0.001
        found = compare(scores(*[1, 2] * 20), scores(*[2, 1] * 20)).changes["ndcg@10"]
        assert found.test.p > 0.5
        assert found.t_p > 0.5

    def test_other_queries_are_refused(self):
        with pytest.raises(DataError, match="different queries: 1 are not in both, 'q2'"):
            compare(scores(1, 2, 3), scores(1, 2))


@pytest.fixture(scope="module")
def trained(tokenizer_path, tiny_student, tmp_path_factory):
    """A folder of two runs, which differ in their seed."""
    folder = tmp_path_factory.mktemp("trained")
    data, tree = write_beir(folder / "data"), two_stages(tokenizer_path, tiny_student)
    for seed in (1, 2):
        tree["training"]["seed"] = seed
        run_recipe(Recipe.from_dict(tree), data, folder / "runs" / str(seed))
    return folder / "runs"


class TestCommand:
    @pytest.fixture
    def runs(self, trained, tmp_path):
        shutil.copytree(trained, tmp_path / "runs")
        return [str(tmp_path / "runs" / seed) for seed in ("1", "2")]

    def test_runs(self, runs, beir, tmp_path, capsys):
        out = say(capsys, "compare", *runs, "--split", "dev", "--json", str(tmp_path / "c.json"))
        written = json.loads((tmp_path / "c.json").read_text())
        change = written["compared"][runs[1]]["changes"]["ndcg@10"]
        metrics = [json.loads((tmp_path / "runs" / s / "metrics.json").read_text())["dev"] for s in ("1", "2")]
        assert change["before"] == pytest.approx(metrics[0]["student"]["ndcg@10"])
        assert change["after"] == pytest.approx(metrics[1]["student"]["ndcg@10"])
        assert f"{change['before']:.4f}" in out
        assert "forgotten" in out
        # The same with what is evaluated on the way.
        out = say(capsys, "compare", "bm25", f"{runs[0]}/student", runs[0], "--data", str(beir), "--split", "dev")
        lines = [line.split() for line in out.splitlines() if line.startswith("nDCG@10")]
        assert lines[0] == lines[1]
        assert lines[0][1] == f"{metrics[0]['candidates']['bm25']['ndcg@10']:.4f}"

    def test_a_split_that_the_run_does_not_have(self, runs, beir, tmp_path, capsys):
        error = fail(capsys, "compare", *runs, "--split", "train")
        assert "has no figures for split 'train' (it has: dev" in error
        assert "Give --data" in error
        say(capsys, "compare", *runs, "--split", "train", "--data", str(beir))
        assert (tmp_path / "runs" / "1" / "per_query" / "train.parquet").is_file()

    @pytest.mark.parametrize(
        ("name", "before", "after"),
        [
            ("corpus.jsonl", "", '{"_id": "new", "title": "", "text": "what is the island near the sea?"}\n'),
            ("qrels/dev.tsv", "q06\td06\t1\n", "q06\td11\t1\n"),
            ("qrels/dev.tsv", "q06\td06\t1\n", ""),
        ],
    )
    def test_figures_of_other_data_are_not_taken(self, name, before, after, runs, beir, tmp_path, capsys, caplog):
        """The run and its student are one model: compared on the data given, they are the same."""
        other = shutil.copytree(beir, tmp_path / "other")
        (other / name).write_text((other / name).read_text().replace(before, after, 1))
        kept = read_per_query(tmp_path / "runs" / "1", "dev")
        command = ("compare", f"{runs[0]}/student", runs[0], "--split", "dev", "--json", str(tmp_path / "c.json"))
        say(capsys, *command, "--data", str(other))
        assert f"{runs[0]} was measured on other data" in caplog.text
        changes = json.loads((tmp_path / "c.json").read_text())["compared"][runs[0]]["changes"]
        assert all(change["ties"] == 10 - (after == "") for change in changes.values())
        assert read_per_query(tmp_path / "runs" / "1", "dev") == kept
        caplog.clear()
        say(capsys, *command, "--data", str(beir))
        assert "other data" not in caplog.text

    def test_mistakes(self, runs, capsys):
        assert "give two runs or more" in fail(capsys, "compare", runs[0], "--split", "dev")
        assert "bm25 is no run folder: give --data" in fail(capsys, "compare", "bm25", runs[0], "--split", "dev")

    def test_what_a_run_holds(self, runs, tmp_path):
        run = tmp_path / "runs" / "1"
        for name in ("dev", "dev.bm25", "dev.teacher"):
            assert read_rankings(run, name).keys() == read_per_query(run, name).keys()

    def test_the_card(self, runs):
        folder = f"{runs[0]}/student"
        manifest = Student.load(folder).manifest
        with open(f"{folder}/README.md", encoding="utf-8") as file:
            card = file.read()
        assert f"{manifest.metrics['ndcg@10']:.4f}" in card
        assert "teacher `teacher`: `BiEncoderTeacher`" in card
        assert "StudentTextEmbedder" in card
        assert "encode_query" in card


def test_the_card_of_a_bare_model():
    card = model_card(replace(BARE, kind="ranker", max_tokens={"pair": 64}))
    assert "How good" not in card
    assert "Where it comes from" not in card
    assert "StudentRanker" in card
    assert "pair: 64 tokens" in card


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain-name", "`plain-name`"),
        ("a\n# heading\n<script>x</script>", "`a # heading <script>x</script>`"),
        ("a`b``c", "```a`b``c```"),
        ("`", "`` ` ``"),
        ("\x1b[31m\udcff", "`\ufffd[31m\ufffd`"),
    ],
)
def test_the_card_shows_names_as_they_stand(name, shown):
    teachers = [{"name": name, "type": "x.Kind", "init_parameters": {"model": name}}]
    card = model_card(replace(BARE, recipe=name, teachers=teachers, data={"name": name, "hash": "0" * 64}))
    assert f"\n- recipe: {shown}\n- teacher {shown}: `Kind` over {shown}\n- data: {shown} (`{'0' * 12}`)\n" in card


@pytest.mark.parametrize(
    ("kind", "component", "loader"),
    [
        ("dense", "student_text_embedder.StudentTextEmbedder", "SentenceTransformer"),
        ("static", "student_text_embedder.StudentTextEmbedder", "SentenceTransformer"),
        ("multi_view", "student_multi_view_document_embedder.StudentMultiViewDocumentEmbedder", "SentenceTransformer"),
        ("sparse", "student_sparse_text_embedder.StudentSparseTextEmbedder", "SparseEncoder"),
        ("ranker", "student_ranker.StudentRanker", "CrossEncoder"),
    ],
)
def test_the_card_loads_each_kind_as_what_it_is(kind, component, loader):
    card = model_card(replace(BARE, kind=kind, metrics={"ndcg@10": 0.5, "queries": 9, "documents": 90}))
    yaml_text, python = (re.search(rf"```{name}\n(.*?)```", card, re.DOTALL)[1] for name in ("yaml", "python"))
    types = [part["type"] for part in yaml.safe_load(yaml_text)["components"].values()]
    assert any(name.endswith(component) for name in types)
    for name in types:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute)
    compile(python, "card", "exec")
    assert f'model = {loader}("path' in python
    assert ("seen with their questions" in card) is (kind == "multi_view")
    assert "0.0" not in card  # costs that nobody measured


def test_the_card_says_what_was_measured_and_on_what():
    assert "measured on the data named above" not in model_card(BARE)
    form = {"file": "", "precision": "float32", "ndcg": 0.6, "ms": 1.0, "mb": 9.0, "good": True, "chosen": True}
    assert "Measured on" not in model_card(replace(BARE, exports=[form]))
    sizes = {"queries": 30, "documents": 400}
    trained = replace(BARE, data={"name": "x", "hash": "h"}, metrics={"ndcg@10": 0.5, "queries": 30, "documents": 900})
    sampled = model_card(replace(trained, exports=[form | sizes]))
    assert "measured on the data named above" in sampled
    assert "Measured on 30 queries, over 400 documents: a sample" in sampled
    whole = model_card(replace(trained, exports=[form | sizes | {"documents": 900}]))
    assert "Measured on 30 queries, over 900 documents." in whole


def test_fusion():
    """By hand: b has 1/62 + 1/61, a 1/61, c 1/62 of the second list, d 1/63."""
    found = fuse({"q": ["a", "b", "d"]}, {"q": ["b", "c"]})
    assert found == {"q": ["b", "a", "c", "d"]}
    assert fuse({"q": ["a", "b"]}, {}, depth=1) == {"q": ["a"]}


def test_fusion_of_scores():
    """By hand, over each list: a is worth 1 and b .25 of the first, b 1 of the second, where c is worth nothing."""
    first = relative({"q": ["a", "b", "d"]}, {"q": [5.0, 2.0, 1.0]})
    assert first == {"q": {"a": 1.0, "b": 0.25, "d": 0.0}}
    second = relative({"q": ["b", "c"]}, {"q": [0.9, 0.1]})
    assert fuse(first, second, weight=0.6)["q"] == ["a", "b", "d", "c"]  # .6; .15 + .4; 0; 0
    assert fuse(first, second, weight=0.4)["q"] == ["b", "a", "d", "c"]
    assert relative({"q": ["a", "b"]}, {"q": [0.0, 0.0]}) == {"q": {"a": 0.0, "b": 0.0}}


def test_fusion_of_all_that_share_a_word():
    """BM25's second hit of two is worth its score, as the rest has 0; of a list that was cut off it is the least."""
    hits = {"q": ["a", "b"]}, {"q": [8.0, 6.0]}
    assert relative(*hits, lexical_depth=3) == {"q": {"a": 1.0, "b": 0.75}}
    assert relative(*hits, lexical_depth=2) == {"q": {"a": 1.0, "b": 0.0}}


def test_fusion_takes_its_weights_from_the_other_half():
    """Half of the queries are answered by the first retriever alone, the others by the second; weights come crosswise."""
    first, second, qrels = {}, {}, {}
    for i in range(8):
        good, bad = [f"r{i}", *(f"a{j}" for j in range(20))], [f"b{j}" for j in range(20)]
        first[f"q{i}"], second[f"q{i}"] = (good, bad) if i % 2 else (bad, good)
        qrels[f"q{i}"] = {f"r{i}": 1}
    fused, weights = fuse_cross_fitted(first, second, qrels)
    assert weights == (0.5, 0.05)  # of q0, q2, ...: what is best for q1, q3, ...; ties there go to the smallest
    assert fused["q0"] == fuse(first, second, weight=weights[0])["q0"]
    assert fused["q1"] == fuse(first, second, weight=weights[1])["q1"]


def test_rankings_come_back_as_they_were(tmp_path):
    """Ids that are names of files have spaces, or what other programs take for the end of a line."""
    found = {"q 1": ["a b.md#1", "c\u2028d\x0c"], "q2": ["Q0 d", "a b.md#1"]}
    write_evaluation(tmp_path, "dev", Evaluation("a model", {}, {"q 1": {"ndcg@10": 1.0}}, found))
    assert read_rankings(tmp_path, "dev") == found
    assert not read_scores(tmp_path, "dev")
    scores = {"q 1": [0.5, 0.25], "q2": [2.0, 1.0]}
    write_evaluation(tmp_path, "dev", Evaluation("a model", {}, {"q 1": {"ndcg@10": 1.0}}, found, scores))
    assert read_scores(tmp_path, "dev") == scores
    write_evaluation(tmp_path, "dev", Evaluation("a model", {}, {"q 1": {"ndcg@10": 1.0}}, found))
    assert not read_scores(tmp_path, "dev")  # they were another ranking's
    # BM25 finds nothing where all queries are in another language than the documents.
    write_evaluation(tmp_path, "dev", Evaluation("bm25", {}, {"q 1": {"ndcg@10": 0.0}}, {"q 1": []}, {"q 1": []}))
    assert read_rankings(tmp_path, "dev") == read_scores(tmp_path, "dev") == {}


def test_figures_of_a_sample_are_of_its_queries(tmp_path, beir):
    """As of rankers, which do not rank for all dev queries."""
    data = read_beir(beir, "dev")
    sample = data.subset(range(3))
    found = dict.fromkeys(sample.queries.ids, data.corpus.ids[:2])
    write_evaluation(tmp_path, "dev", Evaluation("a model", {}, {q: {"ndcg@10": 1.0} for q in found}, found), data)
    assert other_data(tmp_path, "dev", sample) is None
    other = replace(sample, qrels={q: {"d11": 1} for q in found})
    assert other_data(tmp_path, "dev", other) == "other texts or judgements"


def test_figures_without_a_hash_are_known_by_queries_and_documents(tmp_path, beir):
    """Runs of earlier versions have none."""
    data = read_beir(beir, "dev")
    write_evaluation(tmp_path, "dev", Evaluation("a model", {}, {q: {"ndcg@10": 1.0} for q in data.qrels}, {}))
    metrics = {"dev": {"student": {"documents": 40}}}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert other_data(tmp_path, "dev", data) is None
    assert other_data(tmp_path, "dev", data.subset(range(9))) == "1 judged queries are not in both, 'q47' among them"
    fewer = replace(data, corpus=data.corpus.select(range(39)))
    assert other_data(tmp_path, "dev", fewer) == "39 documents, not 40"
