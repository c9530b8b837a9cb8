# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Sparse encoders that sentence-transformers itself saved, of each sort, wherever a sparse student may stand."""

import shutil

import numpy as np
import pytest
import torch
from haystack import Document
from tiny import tiny_config

from haystack_integrations.components.embedders.retort import StudentSparseDocumentEmbedder, StudentSparseTextEmbedder
from haystack_integrations.components.retrievers.retort import StudentRetriever
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.students import ManifestError, Ranker, Student
from retort.students.sparse import SparseStudent, encode_sparse, load_student
from retort.students.student import build_manifest
from retort.trainers.candidates.mining import mine
from retort.trainers.candidates.sparse import SparseMiner
from retort.trainers.context import TrainingContext
from retort.trainers.data.beir import read_beir
from retort.trainers.evaluation.rank import evaluate_model
from retort.trainers.teachers.sparse_encoder import SparseEncoderTeacher

TEXTS = ["the ship in the sea", "bread and butter", "a captain near the sea"]
SORTS = ("legacy", "splade", "inference_free", "two_towers", "autoencoder", "static", "bare")


@pytest.fixture(scope="module")
def folders(tokenizer_path, tmp_path_factory) -> dict[str, str]:
    """By sort a folder of random weights; `bare` is one of transformers, without modules."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from sentence_transformers.sparse_encoder.modules import (
        MLMTransformer,
        SparseAutoEncoder,
        SparseStaticEmbedding,
        SpladePooling,
    )
    from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

    root = tmp_path_factory.mktemp("foreign")
    bare, words = str(root / "bare"), AutoTokenizer.from_pretrained(tokenizer_path)
    words.save_pretrained(bare)
    torch.manual_seed(4)
    AutoModelForMaskedLM.from_config(AutoConfig.for_model(vocab_size=len(words), **tiny_config())).save_pretrained(bare)
    weights = torch.rand(len(words))

    def splade() -> list:
        return [Transformer(bare, transformer_task="fill-mask"), SpladePooling("max")]

    def routed(queries: list) -> list:
        return [Router.for_query_document(query_modules=queries, document_modules=splade())]

    sorts = {
        "legacy": [MLMTransformer(bare), SpladePooling("sum", activation_function="log1p_relu")],
        "splade": splade(),
        "inference_free": routed([SparseStaticEmbedding(words, weight=weights, frozen=True)]),
        "two_towers": routed(splade()),
        "autoencoder": [Transformer(bare), Pooling(16), SparseAutoEncoder(16, hidden_dim=48, k=4, k_aux=8)],
        "static": [SparseStaticEmbedding(words, weight=weights)],
    }
    for name, modules in sorts.items():
        SparseEncoder(modules=modules, device="cpu").save(str(root / name), create_model_card=False)
    return {name: str(root / name) for name in SORTS}


@pytest.fixture
def folder(request, folders) -> str:
    return folders[request.param]


def reference(folder: str, side: str, texts: list[str]) -> np.ndarray:
    """What sentence-transformers gives."""
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(folder, device="cpu")
    return getattr(model, f"encode_{side}")(texts, convert_to_tensor=True).to_dense().numpy()


@pytest.mark.parametrize("folder", SORTS, indirect=True)
def test_vectors_and_hashes(folder):
    """The dimension is known before the first text, and no hash changes with it."""
    student = SparseStudent.load(folder, device="cpu")
    before = student.manifest
    assert before.kind == "sparse"
    assert student.encode_query([]).shape == (0, student.dim)
    for side in ("query", "document"):
        expected = reference(folder, side, TEXTS)
        assert expected.shape == (3, student.dim)
        np.testing.assert_allclose(student.encode(TEXTS, side).toarray(), expected, atol=1e-5)
    assert build_manifest(student.model) == before
    assert isinstance(load_student(folder, device="cpu"), SparseStudent) is not folder.endswith("bare")


@pytest.mark.parametrize("folder", [sort for sort in SORTS if sort != "bare"], indirect=True)
def test_it_is_not_taken_for_another_kind(folder):
    """Sentence-transformers would put another head on it, of random weights."""
    with pytest.raises(ManifestError, match="has sparse vectors: take StudentSparseTextEmbedder"):
        Student.load(folder, device="cpu")
    with pytest.raises(ManifestError, match="is no ranker"):
        Ranker.load(folder, device="cpu")


def test_nor_is_another_kind_for_it(folders, trunk, tiny_model, tiny_ranker, tmp_path):
    tiny_model(1).save(str(tmp_path / "dense"), create_model_card=False)
    shutil.copytree(tiny_ranker, tmp_path / "ranker")
    (tmp_path / "ranker" / "retort.json").unlink()
    others = {tmp_path / "dense": "has dense vectors", trunk: "has dense vectors", tmp_path / "ranker": "is a ranker"}
    for other, told in others.items():
        with pytest.raises(ManifestError, match=told):
            SparseStudent.load(other, device="cpu")
    with pytest.raises(ManifestError, match="is a ranker"):
        Student.load(tmp_path / "ranker", device="cpu")
    with pytest.raises(ManifestError, match="is no ranker"):
        Ranker.load(folders["bare"], device="cpu")  # its head is one of masked words


def test_a_model_at_hand(folders):
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(folders["splade"], device="cpu")
    np.testing.assert_allclose(
        encode_sparse(model, TEXTS, "query").toarray(), reference(folders["splade"], "query", TEXTS), atol=1e-5
    )


@pytest.mark.parametrize("folder", ["legacy", "inference_free"], indirect=True)
def test_components(folder, tmp_path):
    """An index of it finds what the products of its vectors say, with no word about another space."""
    documents = StudentSparseDocumentEmbedder(model=folder, progress_bar=False).run(
        documents=[Document(id=str(i), content=text) for i, text in enumerate(TEXTS)]
    )["documents"]
    store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
    store.write_documents(documents)
    asked = StudentSparseTextEmbedder(model=folder).run(text="the captain")
    inputs = {"query_sparse_embedding": asked["sparse_embedding"], "sparse_space": asked["space"]}
    found = StudentRetriever(document_store=store, top_k=3).run(**inputs)["documents"]
    store.close()
    products = (reference(folder, "query", ["the captain"]) @ reference(folder, "document", TEXTS).T)[0]
    assert {d.id: d.score for d in found} == pytest.approx(
        {str(i): s for i, s in enumerate(products.tolist()) if s > 0}, rel=1e-3
    )


@pytest.mark.parametrize("folder", ["inference_free", "autoencoder"], indirect=True)
def test_training_and_evaluation(folder, beir, tmp_path):
    """As teacher and miner, and evaluated."""
    data = read_beir(beir, "train")
    teacher = SparseEncoderTeacher(model=folder, device="cpu")
    key = teacher.key
    context = TrainingContext(data, {"splade": teacher}, tmp_path / "cache")
    products = reference(folder, "query", data.queries.texts) @ reference(folder, "document", data.corpus.texts).T
    rows = np.array([0, 0, 3, 7]), np.array([5, 2, 2, 39])
    np.testing.assert_allclose(context.scores("splade", *rows), products[rows], rtol=1e-4, atol=1e-5)
    assert SparseEncoderTeacher(model=folder, device="cpu").key == teacher.key == key
    found, scores = mine(SparseMiner(model=folder, device="cpu", depth=4), context)
    hits = found >= 0
    np.testing.assert_allclose(scores[hits], np.take_along_axis(products, found, axis=1)[hits], rtol=1e-4, atol=1e-5)
    assert hits.sum() == np.minimum((products > 0).sum(1), 4).sum()
    evaluated = evaluate_model(SparseStudent.load(folder, device="cpu"), read_beir(beir, "dev"))
    assert 0 <= evaluated.metrics["ndcg@10"] <= 1
    assert all(score > 0 for scores in evaluated.scores.values() for score in scores)
