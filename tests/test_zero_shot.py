# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What a student is worth on data that it was not trained on: `retort evaluate --zero-shot`, and the report."""

import json
import shutil

import pytest
from test_cli import fail, say
from test_report import Page

from retort.trainers.data.beir import read_beir
from retort.trainers.evaluation.rank import evaluate_bm25, evaluate_model
from retort.trainers.evaluation.zero_shot import ZeroShot
from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe


@pytest.fixture
def other(beir, tmp_path):
    """A data set of two of the questions, judged in a split `test`."""
    folder = tmp_path / "other"
    shutil.copytree(beir, folder)
    lines = (folder / "qrels" / "dev.tsv").read_text().splitlines(keepends=True)
    (folder / "qrels" / "test.tsv").write_text("".join(lines[:3]))
    return folder


def test_figures_of_each_set_and_shares_of_the_first_model(beir, other, tiny_student, other_student, capsys, tmp_path):
    out = tmp_path / "found.json"
    models = [tiny_student, other_student, "bm25"]
    arguments = ["--data", str(beir), "--split", "dev", "--zero-shot", str(other), "--json", str(out)]
    shown = say(capsys, "evaluate", *models, *arguments)
    found = ZeroShot(**json.loads(out.read_text())["zero_shot"])
    data = read_beir(other, "test")
    assert found.sets["other"] == {
        "split": "test", "queries": 2, "documents": len(data.corpus), "hash": data.hash,
    }  # fmt: skip
    assert found.models["bm25"]["other"] == evaluate_bm25(data).metrics["ndcg@10"]
    expected = evaluate_model(other_student, data).metrics["ndcg@10"]
    assert found.models[other_student] == {
        beir.name: evaluate_model(other_student, read_beir(beir, "dev")).metrics["ndcg@10"],
        "other": expected,
    }
    whole = found.models[tiny_student]["other"]
    assert f"{expected:.4f} ({expected / whole:.0%})" in shown
    assert f"{whole:.4f} (" not in shown.partition("Elsewhere")[2].splitlines()[3]


def test_the_mean_outside_leaves_the_own_data_out():
    models = {"teacher": {"mine": 0.8, "a": 0.5, "b": 0.3}, "student": {"mine": 0.8, "a": 0.4, "b": 0.2}}
    found = ZeroShot("mine", {name: {} for name in ("mine", "a", "b")}, models)
    assert found.outside("student") == pytest.approx(0.3)
    assert found.header == ["nDCG@10", "mine", "a", "b", "outside"]
    assert found.rows() == [
        ["teacher", "0.8000", "0.5000", "0.3000", "0.4000"],
        ["student", "0.8000 (100%)", "0.4000 (80%)", "0.2000 (67%)", "0.3000 (75%)"],
    ]


def test_the_report_shows_it(prod_tree, beir, other, capsys, tmp_path):
    run = tmp_path / "runs" / "mine"
    run_recipe(Recipe.from_dict(prod_tree), beir, run)
    say(capsys, "report", str(run))
    assert "Not measured: a student of one corpus forgets" in Page((run / "report.html").read_text()).text
    student = str(run / "student")
    shown = say(capsys, "evaluate", "bm25", student, "--data", str(beir), "--split", "dev", "--zero-shot", str(other))
    assert "shows this table, too" in shown
    say(capsys, "report", str(run))
    text = Page((run / "report.html").read_text()).text
    assert "Not measured: a student" not in text
    score = evaluate_model(student, read_beir(other, "test")).metrics["ndcg@10"]
    assert f"{score:.4f} (" in text.partition("On other data")[2]


def test_the_report_keeps_figures_of_the_runs_own_data_alone(recipe_tree, beir, other, capsys, tmp_path):
    run = tmp_path / "runs" / "mine"
    run_recipe(Recipe.from_dict(recipe_tree), beir, run)
    corpus = (other / "corpus.jsonl").read_text()
    (other / "corpus.jsonl").write_text(corpus.replace("ship", "boat"))
    cases = [
        (beir, other, ["--split", "train"], "it is of split train, the run's is dev"),
        (beir, other, ["--split", "dev", "--max-queries", "3"], "judged queries are not in both"),
        (beir, other, ["--split", "dev", "--dim", "4"], "vectors are cut (--dim 4)"),
        (beir, other, ["--split", "dev", "--precision", "auto"], "another form (--precision auto)"),
        (other, beir, ["--split", "dev"], "other as read here is not what the run was measured on (other texts"),
    ]
    for own, elsewhere, options, message in cases:
        data = ["--data", str(own), "--zero-shot", str(elsewhere)]
        shown = say(capsys, "evaluate", str(run / "student"), *data, *options)
        assert f"{run}: its report does not show this table: " in shown
        assert message in shown
        assert "Elsewhere" in shown
        assert not (run / "zero_shot.json").exists()


def test_a_model_that_compares_by_distance_is_refused_in_one_line(tiny_model, beir, capsys, tmp_path):
    model = tiny_model(1)
    model.similarity_fn_name = "euclidean"
    model.save(str(tmp_path / "model"))
    given = ["--data", str(beir), "--split", "dev"]
    for command in (["evaluate", tmp_path / "model"], ["compare", "bm25", tmp_path / "model"]):
        said = fail(capsys, *map(str, command), *given)
        assert "model compares vectors by euclidean: only models that compare by cosine or dot are evaluated" in said


def test_odd_folders_are_refused_before_anything_is_measured(beir, other, capsys, tmp_path):
    given = ["evaluate", "bm25", "--data", str(beir), "--split", "dev", "--zero-shot"]
    assert "these are the data of --data" in fail(capsys, *given, str(beir))
    assert f"{tmp_path / 'gone'} does not exist" in fail(capsys, *given, str(tmp_path / "gone"))
    twin = shutil.copytree(other, tmp_path / "twin" / "other")
    assert "another data set has the name 'other', too" in fail(capsys, *given, str(other), str(twin))
    twin = shutil.copytree(other, tmp_path / "twin" / beir.name)
    assert f"another data set has the name {beir.name!r}, too" in fail(capsys, *given, str(twin))
    assert "leave out --rerank" in fail(capsys, *given, str(other), "--rerank", "x")
