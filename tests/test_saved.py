# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
What version 0.1.0 saved goes on loading: students, recipes, runs, caches and an index.

The archive was made once, at commit e092b0a, by the script `make.py` in it; it is never made again.
"""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from haystack_integrations.components.embedders.retort import StudentTextEmbedder
from haystack_integrations.components.retrievers.retort import StudentRetriever
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.students import Manifest, Ranker, Student
from retort.students.sparse import SparseStudent
from retort.students.student import build_manifest
from retort.trainers.evaluation.report import write_report
from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe

ARCHIVE = Path(__file__).parent / "saved" / "0.1.0.tar.xz"
KINDS = {"sparse": SparseStudent, "ranker": Ranker}
STUDENTS = ("counted", "dense", "ranker", "sparse", "static", "towers", "views")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def saved(unpacked, tmp_path, monkeypatch) -> Path:
    """A copy to write in; its recipes name folders relative to it."""
    folder = tmp_path / "saved"
    shutil.copytree(unpacked, folder, ignore=shutil.ignore_patterns("index"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def expected(unpacked) -> dict:
    return json.loads((unpacked / "expected.json").read_text())


@pytest.mark.parametrize("name", STUDENTS)
def test_students_load_with_the_same_hashes_and_vectors(unpacked, expected, name):
    before, texts = expected["students"][name], expected["texts"]
    folder = unpacked / "students" / name
    student = KINDS.get(name, Student).load(str(folder), backend="torch")  # refuses weights that do not match
    manifest = build_manifest(student.model)
    assert (manifest.space, manifest.fingerprint) == (before["space"], before["fingerprint"])
    if name == "ranker":
        np.testing.assert_allclose(student.score([(texts[0], text) for text in texts]), before["scores"], atol=1e-5)
        return
    for side in ("query", "document"):
        vectors = student.encode(texts, side)
        vectors = vectors.toarray() if name == "sparse" else vectors
        np.testing.assert_allclose(vectors, before[side], atol=1e-5)


def test_all_students_are_tested(expected):
    assert tuple(sorted(expected["students"])) == STUDENTS


def test_an_export_runs(unpacked, expected):
    student = Student.load(str(unpacked / "students" / "dense"), precision="int8", threads=1)
    vectors = student.encode(expected["texts"], "query")
    assert (vectors * np.array(expected["students"]["dense"]["query"])).sum(1).min() > 0.9


def test_sentence_transformers_loads_a_module_of_ours_by_its_saved_path(unpacked, expected):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(unpacked / "students" / "counted"), trust_remote_code=True, device="cpu")
    vectors = model.encode_query(expected["texts"])
    np.testing.assert_allclose(vectors, expected["students"]["counted"]["query"], atol=1e-5)


@pytest.mark.parametrize("name", ["prod", "lead"])
def test_a_killed_run_is_resumed(saved, name):
    """Caches are taken up, too: no teacher is asked again for what it gave."""
    cache = saved / "runs" / ".retort-cache"
    documents = sorted(cache.glob("vectors/*/document/*.npy"))
    recipe = Recipe.from_yaml(saved / "recipes" / f"{name}.yaml")
    run_recipe(recipe, Path("data"), saved / "runs" / name, resume=True)
    after = load_file(saved / "runs" / name / "student" / "model.safetensors")
    before = load_file(saved / "runs" / f"{name}.safetensors")
    assert after.keys() == before.keys()
    assert max(float((after[k] - before[k]).abs().max()) for k in after) < 1e-4  # rounding differs between CPUs
    assert sorted(cache.glob("vectors/*/document/*.npy")) == documents


def test_a_finished_run_is_read(saved, expected):
    out = saved / "runs" / "finished"
    metrics = run_recipe(Recipe.from_yaml(out / "recipe.yaml"), Path("data"), out, resume=True)
    assert metrics == json.loads((out / "metrics.json").read_text())
    assert Manifest.read(out / "student").fingerprint == expected["runs"]["finished"]
    write_report(out, saved / "report.html")
    assert "<svg" in (saved / "report.html").read_text()


def test_the_index_is_searched(unpacked, tmp_path):
    shutil.copytree(unpacked / "index", tmp_path / "index")
    store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
    assert store.count_documents() == 20
    document = store.filter_documents({"field": "meta.n", "operator": "==", "value": 3})[0]
    assert document.meta["file_path"] == "sea.txt"
    embedder = StudentTextEmbedder(model=str(unpacked / "students" / "dense"))
    query = embedder.run(text=f"{document.meta['title']} {document.content}")
    retriever = StudentRetriever(document_store=store, top_k=20)
    ranked = retriever.run(query_embedding=query["embedding"], space=query["space"])["documents"]
    assert len(ranked) == 20
    assert ranked[0].score > 0.9
    assert ranked[0].id == document.id
    torch.testing.assert_close(ranked[0].score, max(d.score for d in ranked))
    store.close()
