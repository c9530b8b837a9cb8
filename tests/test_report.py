# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The report: one page that shows what the run folder holds, and fetches nothing."""

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from test_cli import fail, say
from tiny import pool, prod_stages, spec, stage, two_stages, write_beir, write_jsonl

from retort.trainers.data.beir import read_beir
from retort.trainers.evaluation import plots
from retort.trainers.evaluation.runs import read_per_query
from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe


class Page(HTMLParser):
    """Checks that tags close and collects text and whatever would be fetched or run."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.active: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag in {"script", "link", "img", "iframe", "object"} or {"src", "href"} & {k for k, _ in attrs}:
            self.active.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def trained(tokenizer_path, tiny_student, trunk, tmp_path_factory):
    """A folder of a run and its cache."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = Recipe.from_dict(prod_stages(two_stages(tokenizer_path, tiny_student), trunk))
    run_recipe(recipe, write_beir(folder / "data"), folder / "runs" / "a<b>")
    return folder / "runs"


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "runs") / "a<b>"


def test_the_page(run, beir, capsys, tmp_path):
    out = tmp_path / "report.html"
    others = ["--others", "bm25", "--data", str(beir)]
    assert str(out) in say(capsys, "report", str(run), "--out", str(out), *others)
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.active
    assert "url(" not in text
    assert "a<b>" in page.text  # names are shown, not interpreted
    metrics = json.loads((run / "metrics.json").read_text())
    for system in (
        metrics["dev"]["student"],
        metrics["dev"]["candidates"]["bm25"],
        metrics["dev"]["teachers"]["teacher"],
    ):
        assert f"{system['ndcg@10']:.4f}" in page.text
    for name in ("dual", "cross", "round"):
        assert name in page.text
    fitted = json.loads((run / "teachers" / "ranker" / "metrics.json").read_text())["dev"]["student"]["ndcg@10"]
    assert f"{fitted:.4f}" in page.text
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(svg)  # noqa: S314 - our own
    assert text.count("<svg") == text.count("</svg>") == 5


def test_without_data_there_are_no_texts(run, capsys):
    say(capsys, "report", str(run))
    assert 'class="text"' in (run / "report.html").read_text()
    assert "the ship" not in (run / "report.html").read_text()


def test_of_a_ranker(run, capsys):
    """Its baseline is BM25's ready rankings, which have no size and no time."""
    say(capsys, "report", str(run / "teachers" / "ranker"))
    assert "bm25" in Page((run / "teachers" / "ranker" / "report.html").read_text(encoding="utf-8")).text


def test_a_seed_is_named_with_its_arm(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "arm" / "0")
    say(capsys, "report", str(tmp_path / "arm" / "0"))
    assert "<h1>arm/0</h1>" in (tmp_path / "arm" / "0" / "report.html").read_text(encoding="utf-8")


def test_mistakes(run, tmp_path, capsys):
    assert "bm25: give --data" in fail(capsys, "report", str(run), "--others", "bm25")
    (run / "metrics.json").unlink()
    assert "is no finished run" in fail(capsys, "report", str(run))


@pytest.mark.parametrize(
    ("name", "before", "after", "message"),
    [
        ("qrels/dev.tsv", "q06\td06\t1\n", "", "1 judged queries are not in both, 'q06' among them"),
        ("corpus.jsonl", "", '{"_id": "new", "title": "", "text": "more"}\n', "41 documents, not 40"),
        ("corpus.jsonl", "in the sea.", "on the sea.", "other texts or judgements"),
        ("qrels/dev.tsv", "q06\td06\t1\n", "q06\td06\t2\n", "other texts or judgements"),
    ],
)
def test_other_data_are_refused(name, before, after, message, recipe_tree, beir, tmp_path, capsys):
    """Their figures would stand in the run's own rows."""
    run = tmp_path / "runs" / "a"
    run_recipe(Recipe.from_dict(recipe_tree), beir, run)
    path = beir / name
    path.write_text(path.read_text().replace(before, after, 1))
    error = fail(capsys, "report", str(run), "--data", str(beir), "--others", "bm25")
    assert f"data: {message}, so these are not the data that {run} was measured on" in error


def test_the_data_of_a_ranker_are_known_by_its_sample(recipe_tree, trunk, beir, tmp_path, capsys):
    run = tmp_path / "runs" / "a"
    recipe_tree |= {
        "student": spec("ranker", trunk=trunk, layers=[0]),
        "teachers": {},
        "candidates": {"bm25": recipe_tree["candidates"]["bm25"]},
        "stages": [stage("rank", 2, spec("Contrastive", scope="list"), candidates=pool("bm25", negatives=2))],
    }
    run_recipe(Recipe.from_dict(recipe_tree), beir, run)
    assert len(read_per_query(run, "dev")) == 5
    say(capsys, "report", str(run), "--data", str(beir))
    error = fail(capsys, "compare", "bm25", str(run), "--data", str(beir), "--split", "dev")
    assert "was measured on other data than data (5 judged queries are not in both" in error
    assert f"retort evaluate MODEL --rerank {run / 'student'}" in error


def test_files_of_examples_share_their_documents(recipe_tree, beir, tmp_path, capsys):
    data, run = tmp_path / "files", tmp_path / "runs" / "a"
    data.mkdir()
    for split in ("train", "dev"):
        read = read_beir(beir, split)
        pairs = zip(read.queries.texts, read.positives(), strict=True)
        write_jsonl(data / f"{split}.jsonl", [{"query": q, "positive": read.corpus.texts[r[0]]} for q, r in pairs])
    run_recipe(Recipe.from_dict(recipe_tree), data, run)
    assert json.loads((run / "metrics.json").read_text())["dev"]["student"]["documents"] == 40
    say(capsys, "report", str(run), "--data", str(data), "--others", "bm25")


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.531, 0.794), (0, 1600), (-3, 2.5), (5, 5), (0, 0), (1e-7, 3e-7)], ids=str
)
def test_ticks_cover_the_range(low, high):
    found = plots.ticks(low, high)
    steps = [b - a for a, b in pairwise(found)]
    assert found[0] <= low + 1e-12
    assert found[-1] >= high - 1e-12
    assert 2 <= len(found) <= 9
    assert max(steps) == pytest.approx(min(steps), rel=1e-3)


@pytest.mark.parametrize("end", [4e-11, 0.7000000000000001])
def test_what_differs_by_rounding_alone_is_a_level_line(end):
    plot = plots.lines({"a": [(0.0, 0.7 if end > 0.5 else 0.0), (1.0, end)]}, title="t", x="x", y="y")
    ET.fromstring(plot)  # noqa: S314 - our own


def test_the_name_of_a_short_last_stage_is_not_cut_off():
    plot = plots.lines({"a": [(0, 1), (40, 2)]}, title="t", x="x", y="y", bands={"dual": 36, "confusing": 40})
    at, anchored = re.search(r'x="([\d.]+)" y="\d+"( text-anchor="end")?>confusing<', plot).groups()
    assert anchored
    assert float(at) <= plots.WIDTH - plots.RIGHT
    assert re.search(r'y="\d+">dual<', plot)


def test_plots_escape():
    for plot in (
        plots.lines({"<a>": [(1, 2)], "b": [(2, 3)]}, title="<t>", x="<x>", y="y", bands={"<s>": 2}),
        plots.scatter({"<a>": (1, 2)}, title="<t>", x="x", y="y"),
        plots.bars({"<a>": 1}, title="<t>", x="x", y="y"),
    ):
        assert "<a>" not in plot
        assert "<t>" not in plot
        assert "&lt;a&gt;" in plot


def test_names_of_near_points_do_not_cover_each_other():
    near = {
        "two layers": (1.0, 0.5),
        "two layers, int8": (1.05, 0.501),
        "three layers": (0.95, 0.499),
        "far": (50, 0.7),
    }
    drawn = plots.scatter(near, title="t", x="x", y="y")
    found = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]+)', drawn)
    boxes = []
    for x, y, anchor, name in found:
        if name in near:
            width = plots.LETTER * len(name)
            left = float(x) - {"start": 0, "middle": width / 2, "end": width}[anchor]
            boxes.append((left, float(y) - 11, left + width, float(y) + 3))
    assert len(boxes) == 4
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])
