# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""How an index names the student that built it: relative to itself."""

import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from haystack import Document
from haystack.document_stores.errors import DocumentStoreError
from sentence_transformers import SentenceTransformer
from tiny import MINILM

from haystack_integrations.components.retrievers.retort import SpaceMismatchError
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.pipelines.indexing import built_by
from retort.pipelines.load import load_pipeline, pipeline_yaml
from retort.serving.engine import Engine
from retort.students import SPACE_STAMP, STUDENT_STAMP, VIEW_OF, Student, save_student
from retort.students.files import found_from_index, relative_to_index
from retort.students.loading import assemble
from retort.trainers.data.beir import read_beir
from retort.workflows import index_documents


def stamps(index) -> set[str]:
    store = QdrantEdgeDocumentStore(path=str(index))
    try:
        return {document.meta[STUDENT_STAMP] for document in store.filter_documents()}
    finally:
        store.close()


@pytest.fixture
def run(tiny_student, beir, tmp_path):
    shutil.copytree(tiny_student, tmp_path / "run" / "student")
    index_documents(str(tmp_path / "run" / "student"), beir, tmp_path / "run" / "index")
    return tmp_path / "run"


def test_both_may_be_moved(run, tmp_path, monkeypatch):
    assert stamps(run / "index") == {"index:../student"}
    run.rename(tmp_path / "moved")
    assert built_by(str(tmp_path / "moved" / "index")) == str(tmp_path / "moved" / "student")
    monkeypatch.chdir(tmp_path)
    student = built_by("moved/index")
    assert student == "moved/student"
    engine = Engine(student, "moved/index")
    assert engine.check()["documents"] > 0
    engine.close()


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
def test_it_compares_as_the_student_does(similarity, tiny_model, beir, tmp_path):
    """Not by cosine, which the best recipes for long vectors do not learn."""
    whole = tiny_model(1)
    model = assemble(SentenceTransformer, [whole[0], whole[1]], similarity_fn_name=similarity)  # of any length
    torch.manual_seed(0)
    torch.nn.init.normal_(model[0].model.embeddings.word_embeddings.weight, std=2.0)
    for number, layer in enumerate(model[0].model.encoder.layer):
        torch.nn.init.uniform_(layer.output.LayerNorm.weight, 0.2, 4.0 + number)
    folder, index = tmp_path / "run" / "student", str(tmp_path / "run" / "index")
    save_student(model, folder)
    index_documents(str(folder), beir, index, quantization="none", storage="float32")  # the order is exact
    student, data = Student.load(folder), read_beir(beir, "dev")
    queries, documents = student.encode_query(["the ship in the storm"]), student.encode_document(data.corpus.texts)
    distances = ((documents - queries) ** 2).sum(1)
    wanted = documents @ queries[0] if similarity == "dot" else -distances
    expected = [data.corpus.ids[row] for row in np.argsort(-wanted, kind="stable")[:10]]
    cosines = wanted / np.linalg.norm(documents, axis=1) if similarity == "dot" else documents @ queries[0]
    assert expected != [data.corpus.ids[row] for row in np.argsort(-cosines, kind="stable")[:10]]
    engine = Engine(str(folder), index)
    first, *_ = engine.answer("the ship in the storm", top_k=10)
    assert {passage["id"] for passage in first["passages"]} <= set(expected)
    engine.close()
    found = load_pipeline("search", student=str(folder), index=index).run(
        {"searcher": {"query": "the ship in the storm"}}
    )
    assert [document.id for document in found["searcher"]["documents"]] == expected
    assert built_by(index) == str(folder)
    index_documents(str(folder), beir, index)  # nothing has changed
    tree = yaml.safe_load(pipeline_yaml("indexing", student=str(folder), index="http://127.0.0.1:1/x"))
    store = tree["components"]["writer"]["init_parameters"]["document_store"]
    assert store["init_parameters"]["similarity"] == {"dot": "dot_product", "euclidean": "l2"}[similarity]


def test_a_similarity_that_no_index_has(tiny_model, beir, tmp_path):
    model = tiny_model(1, similarity_fn_name="manhattan")
    save_student(model, tmp_path / "student")
    with pytest.raises(
        DocumentStoreError, match="compares by manhattan, and an index does so by cosine, dot, euclidean"
    ):
        index_documents(str(tmp_path / "student"), beir, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_an_index_of_another_student_is_refused_by_its_place(run, other_student, beir):
    with pytest.raises(Exception, match=f"was built by {run / 'student'}, not by {other_student}"):
        index_documents(other_student, beir, run / "index")
    engine = Engine(other_student, str(run / "index"))
    with pytest.raises(ValueError, match=f"was built by {run / 'student'} "):
        engine.check()
    engine.close()


def test_a_link_to_the_index(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(run / "index", target_is_directory=True)
    assert built_by(str(tmp_path / "elsewhere" / "link")) == str(run / "student")


@pytest.mark.parametrize("name", [MINILM, "sentence-transformers/all-MiniLM-L6-v2", "/gone/student"])
def test_what_is_no_folder_keeps_its_name(name, tmp_path):
    assert relative_to_index(name, str(tmp_path)) == found_from_index(name, str(tmp_path)) == name


@pytest.mark.parametrize("value", [5, True, {"a": 1}, ["a"]])
def test_stamps_that_are_no_texts(value, tiny_student, tmp_path):
    """As whoever made an index may have written them."""
    student = Student.load(tiny_student)
    good = {SPACE_STAMP: student.manifest.space, STUDENT_STAMP: tiny_student}
    embedding = student.encode_document(["a ship"])[0].tolist()
    for place, odd in (("space", {SPACE_STAMP: value, STUDENT_STAMP: value}), ("view", {VIEW_OF: value})):
        store = QdrantEdgeDocumentStore(path=str(tmp_path / place))
        store.write_documents([Document(id="a", content="a ship", embedding=embedding, meta=good | odd)])
        store.close()
    with pytest.raises(SpaceMismatchError, match=f"was built by {re.escape(str(value))}"):
        Engine(tiny_student, str(tmp_path / "space")).check()
    documents, _ = Engine(tiny_student, str(tmp_path / "view")).search("a ship")
    assert [document.content for document in documents] == ["a ship"]
