# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Sparse students: how they start, are trained, mine, teach, and are used in Haystack."""

import asyncio
import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from haystack import Document
from haystack.core.serialization import component_from_dict, component_to_dict
from haystack.dataclasses import SparseEmbedding
from scipy.sparse import csr_array, issparse
from tiny import MINILM, everything, pool, run_killed, spec, tiny_config

import retort
from haystack_integrations.components.embedders.retort import (
    StudentDocumentEmbedder,
    StudentSparseDocumentEmbedder,
    StudentSparseTextEmbedder,
    StudentTextEmbedder,
)
from haystack_integrations.components.retrievers.retort import StudentRetriever
from haystack_integrations.components.retrievers.retort.student_retriever import SpaceMismatchError
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.students import ManifestError, Student
from retort.students.create import sparse
from retort.students.sparse import SparseStudent, encode_sparse, largest, load_student
from retort.trainers.candidates.sparse import SparseMiner
from retort.trainers.context import TrainingContext
from retort.trainers.data.beir import read_beir
from retort.trainers.encoder_output import DenseOutput
from retort.trainers.evaluation.rank import evaluate_model
from retort.trainers.objectives import Flops
from retort.trainers.recipe import Recipe
from retort.trainers.roles import StepContext
from retort.trainers.run import run_recipe
from retort.trainers.search import search_vectors
from retort.trainers.teachers.sparse_encoder import SparseEncoderTeacher

TEXTS = ["the ship in the sea", "bread and butter", "a captain near the sea"]


class TestStart:
    def test_a_new_head_starts_with_the_words_of_the_text(self):
        """Without any training, the heaviest words of a question are its own; few others get through."""
        model = sparse(MINILM, layers=[0, 5])
        vectors = encode_sparse(
            model, ["ships sail on the ocean", "a sailing boat at sea", "the oven bakes bread"], "query"
        )
        words = model.tokenizer.convert_ids_to_tokens(vectors.indices[np.argsort(-vectors[[0]].data)[:15]].tolist())
        assert {"ships", "sail", "ocean"} <= set(words)
        assert vectors.nnz / vectors.shape[0] < 0.1 * vectors.shape[1]
        near = (vectors @ vectors.T).toarray()
        assert near[0, 1] > 1.5 * near[0, 2]

    def test_a_trained_head_is_kept(self, tmp_path, tokenizer_path):
        from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

        words = AutoTokenizer.from_pretrained(tokenizer_path)
        words.save_pretrained(tmp_path)
        trained = AutoModelForMaskedLM.from_config(AutoConfig.for_model(vocab_size=len(words), **tiny_config()))
        trained.save_pretrained(tmp_path)
        head = trained.cls.predictions.transform.dense.weight
        assert torch.equal(sparse(str(tmp_path))[0].model.cls.predictions.transform.dense.weight, head)


class TestStudent:
    def test_a_folder(self, sparse_student):
        student = load_student(sparse_student)
        assert isinstance(student, SparseStudent)
        assert (student.manifest.kind, student.manifest.similarity) == ("sparse", "dot")
        found = student.encode_document(TEXTS)
        assert issparse(found)
        assert found.shape == (3, student.dim)
        assert found.dtype == np.float32
        with torch.no_grad():
            one = student.model(student.model.preprocess(TEXTS[2:], task="document"), task="document")
        np.testing.assert_allclose(found[[2]].toarray(), one["sentence_embedding"].numpy(), atol=1e-6)
        assert student.encode_query([]).shape == (0, student.dim)

    def test_the_other_kind_is_refused(self, sparse_student, tiny_student):
        with pytest.raises(ManifestError, match="has sparse vectors: take StudentSparseTextEmbedder"):
            Student.load(sparse_student)
        with pytest.raises(ManifestError, match="has dense vectors: take StudentTextEmbedder"):
            SparseStudent.load(tiny_student)

    def test_a_model_that_is_not_there(self):
        """The Hub is not reached here: the loading says so, not the look at its files."""
        with pytest.raises(FileNotFoundError, match="No model at 'nobody/nothing'"):
            load_student("nobody/nothing", local_files_only=True)

    def test_largest(self):
        vectors = csr_array(np.array([[0.0, 2.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0]]))
        assert largest(vectors, None) == [([1, 2, 3], [2.0, 1.0, 3.0]), ([], [])]
        assert largest(vectors, 2)[0] == ([1, 3], [2.0, 3.0])

    @pytest.mark.parametrize("similarity", ["dot", "cosine"])
    def test_search_is_that_of_dense_vectors(self, similarity):
        rng = np.random.default_rng(0)
        queries, documents = ((rng.random((n, 30)) * (rng.random((n, 30)) > 0.7)).astype(np.float32) for n in (7, 50))
        rows, scores = search_vectors(queries, documents, 9, similarity=similarity, block=3)
        found = search_vectors(csr_array(queries), csr_array(documents), 9, similarity=similarity, block=3)
        np.testing.assert_array_equal(rows, found[0])
        np.testing.assert_allclose(scores, found[1], rtol=1e-5)


def test_flops():
    """By hand: means of absolute values by dimension, squared, summed; the weight rises as the square of the steps."""
    queries, documents = torch.tensor([[1.0, 0.0], [3.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    out = DenseOutput(queries, documents, 1.0, "dot")
    objective = Flops(query_weight=1.0, document_weight=2.0, rise=0.5)
    half, whole = (objective(out, None, StepContext("s", step, 8)) for step in (1, 6))
    assert float(whole["flops_query"][0]) == pytest.approx(2**2 + 1)
    assert float(whole["flops_document"][0]) == pytest.approx(2.0)
    assert float(half["flops_query"][0]) == pytest.approx(5 / 4)


@pytest.fixture
def tree(recipe_tree, trunk, sparse_student):
    """Distillation from a sparse teacher, on lists of a sparse miner and the student's own."""
    tree = copy.deepcopy(recipe_tree)
    tree["student"] = spec("sparse", trunk=trunk, layers=[0], max_tokens={"query": 16, "document": 32})
    tree["teachers"] = {"teacher": spec("SparseEncoderTeacher", model=sparse_student)}
    tree["candidates"]["splade"] = spec("SparseMiner", model=sparse_student, depth=6)
    (stage,) = tree["stages"] = tree["stages"][1:]
    stage["candidates"] = pool("splade", "own", negatives=3, sampling="balanced")
    stage["objectives"] = [spec("ListwiseKL"), spec("Contrastive"), spec("Flops")]
    return tree


def test_training(tree, beir, tmp_path, monkeypatch):
    """It ends in a sparse folder, is measured as one, and a killed run comes back."""
    out, killed = tmp_path / "a" / "run", tmp_path / "b" / "run"
    metrics = run_recipe(Recipe.from_dict(tree), beir, out)
    expected = everything(out)
    run_killed(Recipe.from_dict(tree), beir, killed, monkeypatch, 5)
    found = everything(killed)
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    assert json.loads((out / "student" / "retort.json").read_text())["kind"] == "sparse"
    again = evaluate_model(str(out / "student"), read_beir(beir, "dev"))
    assert again.metrics["ndcg@10"] == metrics["dev"]["student"]["ndcg@10"] > 0
    assert isinstance(retort.train(beir, out, recipe=Recipe.from_dict(tree), resume=True, export=False), SparseStudent)


def test_flops_make_it_sparser(tree, beir, tmp_path):
    entries = []
    for weight in (0.0, 3.0):
        tree["stages"][0]["objectives"][2]["weight"] = weight
        tree["stages"][0] |= {"steps": 20, "lr": 1e-2}
        out = tmp_path / str(weight) / "run"
        run_recipe(Recipe.from_dict(tree), beir, out)
        last = everything(out)
        student = load_student(str(out / "student"))
        student.model.load_state_dict(
            {k.removeprefix("run.module::roles.student."): t for k, t in last.items() if "roles.student." in k}
        )
        entries.append(student.encode_document(TEXTS).sum())
    assert entries[1] < 0.8 * entries[0]


class TestTeacher:
    def test_scores_and_mined_lists_are_products(self, beir, sparse_student, tmp_path):
        data = read_beir(beir, "train")
        context = TrainingContext(data, {"splade": SparseEncoderTeacher(model=sparse_student)}, tmp_path / "cache")
        student = load_student(sparse_student)
        products = (student.encode_query(data.queries.texts) @ student.encode_document(data.corpus.texts).T).toarray()
        rows = np.array([0, 0, 3, 7]), np.array([5, 2, 2, 39])
        np.testing.assert_allclose(context.scores("splade", *rows), products[rows], rtol=1e-5)
        found, scores = SparseMiner(model=sparse_student, depth=4).mine(context, data.queries)
        np.testing.assert_allclose(scores, -np.sort(-products, axis=1)[:, :4], rtol=1e-5)
        np.testing.assert_allclose(np.take_along_axis(products, found, axis=1), scores, rtol=1e-5)

    def test_mined_lists_change_with_the_corpus_and_the_depth(self, beir, sparse_student, tmp_path):
        data = read_beir(beir, "train")
        fewer = replace(data, corpus=data.corpus.select(range(9, -1, -1)))
        whole, part = (TrainingContext(d, {}, tmp_path / "cache") for d in (data, fewer))
        miner = SparseMiner(model=sparse_student, depth=4)
        miner.mine(whole, data.queries)
        found = miner.mine(part, data.queries)  # a stage with a corpus of its own comes next
        np.testing.assert_array_equal(found, SparseMiner(model=sparse_student, depth=4).mine(part, data.queries))
        assert found[0].max() < 10
        keys = {miner.key(whole), miner.key(part), SparseMiner(model=sparse_student, depth=5).key(whole)}
        assert len(keys) == 3


class TestComponents:
    @pytest.fixture
    def documents(self, sparse_student, tiny_student):
        """With both embeddings."""
        found = [Document(id=str(i), content=text) for i, text in enumerate(TEXTS)]
        for embedder in (
            StudentDocumentEmbedder(model=tiny_student, progress_bar=False),
            StudentSparseDocumentEmbedder(model=sparse_student, progress_bar=False),
        ):
            found = embedder.run(documents=found)["documents"]
        return found

    @pytest.fixture
    def asked(self, sparse_student, tiny_student):
        dense = StudentTextEmbedder(model=tiny_student).run(text="captain")
        lexical = StudentSparseTextEmbedder(model=sparse_student).run(text="captain")
        return {
            "query_embedding": dense["embedding"],
            "space": dense["space"],
            "query_sparse_embedding": lexical["sparse_embedding"],
            "sparse_space": lexical["space"],
        }

    def test_embeddings(self, documents, sparse_student, asked):
        student = load_student(sparse_student)
        expected = largest(student.encode_document(TEXTS), None)
        assert [(d.sparse_embedding.indices, d.sparse_embedding.values) for d in documents] == expected
        assert all(d.embedding and d.meta["_retort_sparse_space"] == student.space for d in documents)
        assert len({d.meta["_retort_space"] for d in documents} | {student.space}) == 2
        assert asked["sparse_space"] == student.space
        assert isinstance(asked["query_sparse_embedding"], SparseEmbedding)

    def test_options(self, sparse_student):
        embedder = StudentSparseTextEmbedder(model=sparse_student, max_active_dims=2)
        assert len(embedder.run(text="the captain")["sparse_embedding"].indices) == 2
        for component in (embedder, StudentSparseDocumentEmbedder(model=sparse_student, max_active_dims=3)):
            data = component_to_dict(component, "c")
            assert data["init_parameters"]["max_active_dims"] == component.max_active_dims
            assert "truncate_dim" not in data["init_parameters"]
            again = component_from_dict(type(component), data, "c")
            assert component_to_dict(again, "c") == data
        with pytest.raises(TypeError, match="StudentSparseTextEmbedder expects a string"):
            embedder.run(text=["a"])
        with pytest.raises(TypeError, match=r"StudentSparseDocumentEmbedder expects .* the StudentSparseTextEmbedder"):
            StudentSparseDocumentEmbedder(model=sparse_student).run(documents="a")
        asyncio.run(embedder.run_async(text="sea"))

    @pytest.fixture(params=["edge", "server"])
    def retriever(self, request, documents, tmp_path):
        """Over both kinds of stores; the server's is qdrant-haystack's local mode."""
        if request.param == "edge":
            store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
        else:
            store = QdrantDocumentStore(
                ":memory:", embedding_dim=16, similarity="cosine", use_sparse_embeddings=True, progress_bar=False
            )
        store.write_documents(documents)
        found = StudentRetriever(document_store=store, top_k=2)
        yield found
        found.close()

    def test_each_alone_and_both(self, retriever, asked):
        dense = retriever.run(**{k: v for k, v in asked.items() if "sparse" not in k}, top_k=3)["documents"]
        lexical = retriever.run(**{k: v for k, v in asked.items() if "sparse" in k}, top_k=3)["documents"]
        query = dict(zip(asked["query_sparse_embedding"].indices, asked["query_sparse_embedding"].values, strict=True))
        for document in lexical:
            own = zip(document.sparse_embedding.indices, document.sparse_embedding.values, strict=True)
            assert document.score == pytest.approx(sum(v * query.get(i, 0.0) for i, v in own), rel=1e-4)
        both = retriever.run(**asked)["documents"]
        ranks = [{d.id: rank for rank, d in enumerate(found, 1)} for found in (dense, lexical)]
        scores = {i: sum(1 / (60 + r[i]) for r in ranks if i in r) for i in "012"}
        expected = sorted(scores, key=lambda i: (-scores[i], i))[:2]
        assert [d.id for d in both] == expected
        assert [d.score for d in both] == pytest.approx([scores[i] for i in expected])
        assert asyncio.run(retriever.run_async(**asked))["documents"] == both
        retriever.fusion = "scores"
        worth: dict[str, float] = {"0": 0.0, "1": 0.0, "2": 0.0}
        for found, least in ((dense, dense[-1].score), (lexical, 0.0)):  # what shares no term with the query has 0
            most = found[0].score
            for document in found:
                worth[document.id] += (document.score - least) / (most - least)
        best = sorted(worth, key=lambda i: (-worth[i], i))[:2]
        found = retriever.run(**asked)["documents"]
        assert [d.id for d in found] == best
        assert [d.score for d in found] == pytest.approx([worth[i] for i in best])
        retriever.fusion_weights = [0.0, 1.0]
        assert [d.id for d in retriever.run(**asked)["documents"]] == [d.id for d in lexical][:2]

    @pytest.fixture(autouse=True)
    def with_embeddings(self, monkeypatch):
        """Documents come back with what they were scored by."""
        real = StudentRetriever._arguments
        monkeypatch.setattr(StudentRetriever, "_arguments", lambda *a, **k: real(*a, **k) | {"return_embedding": True})

    def test_an_index_without_sparse_embeddings(self, asked, tiny_student, tmp_path):
        """Half of a hybrid search would not be one."""
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "dense"))
        dense = StudentDocumentEmbedder(model=tiny_student, progress_bar=False)
        store.write_documents(dense.run(documents=[Document(content=TEXTS[0])])["documents"])
        with pytest.raises(SpaceMismatchError, match="have no sparse embeddings. Re-index with .*--sparse STUDENT"):
            StudentRetriever(document_store=store).run(**asked)
        store.close()

    def test_another_sparse_space_is_refused(self, retriever, asked):
        with pytest.raises(SpaceMismatchError, match="was built by .*tiny"):
            retriever.run(**asked | {"sparse_space": "f" * 64})

    def test_bad_input(self, retriever):
        with pytest.raises(ValueError, match="needs query_embedding, query_sparse_embedding, or both"):
            retriever.run()
        for parameters, message in (
            ({"fusion": "votes"}, "fusion must be 'ranks' or 'scores'; it is 'votes'"),
            ({"fusion_weights": [1.0]}, "two numbers"),
            ({"fusion_weights": [1.0, -1.0]}, "two numbers"),
            ({"fusion_depth": 0}, "fusion_depth must be above 0"),
        ):
            with pytest.raises(ValueError, match=message):
                StudentRetriever(document_store=retriever.document_store, **parameters)

    def test_a_collection_without_sparse_vectors(self, asked, documents):
        store = QdrantDocumentStore(":memory:", embedding_dim=16, similarity="cosine", progress_bar=False)
        store.write_documents(documents)
        with pytest.raises(Exception, match="use_sparse_embeddings=True"):
            StudentRetriever(document_store=store).run(**asked)
