# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The examples, each at a small size, as their READMEs run them."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from haystack import Pipeline
from tiny import MINILM, write_jsonl

from retort.cli import main
from retort.examples.pydocs import corpus
from retort.indexes import index_documents

EXAMPLES = Path(__file__).parent.parent / "examples"
PARTS = ("shutil", "bool")
QUESTION = "How can I copy a whole directory tree?"

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def pydocs(tmp_path_factory) -> Path:
    """A part of this Python's documentation, with its handwritten questions, indexed with MiniLM."""
    place = tmp_path_factory.mktemp("pydocs")
    data = place / "data"
    (data / "qrels").mkdir(parents=True)
    records = [r for r in corpus.passages() if r["metadata"]["key"].split(".")[0] in PARTS]
    by_key: dict[str, list] = {}
    for record in records:
        by_key.setdefault(record["metadata"]["key"], []).append(record)
    asked = [json.loads(line) for line in corpus.QUESTIONS.read_text().splitlines()]
    asked = [q for q in asked if corpus.answers(q, by_key)]
    write_jsonl(data / "corpus.jsonl", records)
    write_jsonl(data / "queries.jsonl", [{"_id": q["_id"], "text": q["text"]} for q in asked])
    lines = [f"{q['_id']}\t{i}\t1" for q in asked for i in corpus.answers(q, by_key)]
    (data / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines, ""]))
    index_documents(MINILM, data, place / "index")
    return place


def test_pydocs(pydocs, capsys):
    main(["ask", QUESTION, "--store", str(pydocs / "index"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["answers"][0]["title"] == "shutil.copytree"


def example(name: str):
    return runpy.run_path(str(EXAMPLES / name))


def test_rag_chat(pydocs, capsys):
    run = example("rag-chat/chat.py")
    pipeline = run["load"](str(pydocs / "index"), MINILM, None)
    found = run["answer"](pipeline, "Which function recursively copies an entire directory tree?")
    said = capsys.readouterr().out
    assert found["text"] in said
    assert re.search(r"copy.*directory tree.*\[\d\]", found["text"])
    assert any(i.startswith("shutil.copytree") for i in found["sources"])
    assert "] shutil.copytree" in said
    pipeline.close()


@pytest.mark.parametrize("path", sorted((EXAMPLES / "rag-chat" / "generators").glob("*.yaml")), ids=lambda p: p.stem)
def test_generators(path, pydocs, monkeypatch):
    """Those that are installed load in the pipeline's place; the others say what to install."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    tree = yaml.safe_load(path.read_text())
    assert tree.keys() == {"type", "init_parameters"}
    if not tree["type"].startswith("haystack."):
        assert "pip install" in path.read_text()
        return
    pipeline = example("rag-chat/chat.py")["load"](str(pydocs / "index"), MINILM, path)
    assert "streaming_callback" in pipeline.get_component("generator").run.__code__.co_varnames


def test_image_search(tmp_path, tiny_student, capsys):
    """From drawn pictures to a search over them; a tiny model reads captions, a tiny one images."""
    data, run, store = tmp_path / "data", tmp_path / "run", tmp_path / "index"
    example("image-search/draw.py")["write"](data, 40)
    small = ["stages.0.steps=3", "training.batch_size=8", "training.evaluate_every=3"]
    small += [f"student.init_parameters.text.init_parameters.model={tiny_student}"]
    main(
        ["train", "--recipe", "image_text", "--data", str(data), "--out", str(run), "--no-export"]
        + [part for one in small for part in ("--set", one)]
    )
    main(["index", str(run / "student"), "--documents", str(data / "images"), "--store", str(store)])
    capsys.readouterr()
    main(["ask", "a red star above a blue circle", "--store", str(store), "--json"])
    pictures = json.loads(capsys.readouterr().out)["documents"]
    assert pictures
    assert all((data / "images" / picture["file"]).is_file() for picture in pictures)


def test_swap_in(pydocs, tmp_path, capsys):
    run = example("swap-in/compare.py")
    assert len(run["edited"]()) == 3
    assert [line.split(":")[0].strip() for line in run["edited"]()] == ["x-store", "embedder", "retriever"]
    figures = run["main"](
        ["--data", str(pydocs / "data"), "--student", MINILM, "--work", str(tmp_path / "swap"), "--split", "test"]
    )
    # The same model on both sides here: the same quality, through other components and another engine.
    assert figures["before"]["ndcg@10"] > 0.5
    assert abs(figures["before"]["ndcg@10"] - figures["after"]["ndcg@10"]) < 0.02
    assert "times as fast" in capsys.readouterr().out


@pytest.mark.long
def test_enterprise(tmp_path):
    """From files to a filled index through `Pipeline.load`, in a process of its own."""
    folder = tmp_path / "handbook"
    folder.mkdir()
    kept = [r for r in corpus.passages() if r["metadata"]["key"].split(".")[0] in PARTS]
    names = sorted({r["metadata"]["key"] for r in kept})
    for name in names:
        text = "\n\n".join(r["text"] for r in kept if r["metadata"]["key"] == name)
        (folder / f"{name}.{'md' if len(name) % 2 else 'txt'}").write_text(f"# About {name}\n\n{text}")
    script = EXAMPLES / "enterprise" / "run.py"
    code = f"""
import runpy
from haystack_integrations.components.trainers.retort import DistillationTrainer
real = DistillationTrainer.__init__
def small(self, **given):
    real(self, **given)
    self.dev_share = 0.3
    self.settings = {{"stages.0.steps": 4, "stages.1.steps": 2, "training.batch_size": 8}}
DistillationTrainer.__init__ = small
runpy.run_path({str(script)!r})["main"]([{str(folder)!r}])
"""
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert found.returncode == 0, found.stderr[-3000:]
    for name in ("bm25", "teacher", "student", "hybrid"):
        assert f"\n{name} " in found.stdout
    assert "All these queries were made up" in found.stdout
    run = tmp_path / "runs" / "enterprise"
    assert (run / "report.html").is_file()
    written = int(re.search(r"(\d+) passages indexed", found.stdout)[1])
    assert written >= len(names)
    asked = subprocess.run(
        [sys.executable, "-m", "retort.cli", "ask", QUESTION, "--store", str(run / "index"), "--json"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    documents = [d["id"] for d in json.loads(asked.stdout)["documents"]]
    assert len(documents) == 10


def test_the_enterprise_pipeline_names_what_it_needs():
    tree = yaml.safe_load((EXAMPLES / "enterprise" / "distill.yaml").read_text())
    assert {"inputs", "outputs"} <= tree.keys()
    Pipeline.from_dict(tree)
