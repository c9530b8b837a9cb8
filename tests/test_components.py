# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
import asyncio
import copy
import logging
import pickle
import threading

import numpy as np
import pytest
import torch
import yaml
from haystack import Document, Pipeline
from haystack.components.writers import DocumentWriter
from haystack.dataclasses import SparseEmbedding
from haystack.utils import ComponentDevice, Secret

from haystack_integrations.components.embedders import retort as embedders
from haystack_integrations.components.embedders.retort import StudentDocumentEmbedder, StudentTextEmbedder
from haystack_integrations.components.rankers.retort import StudentRanker
from haystack_integrations.components.readers.retort import ExtractiveAnswerer
from haystack_integrations.components.retrievers.retort import SpaceMismatchError, StudentRetriever
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.students import SPACE_STAMP, STUDENT_STAMP, Student
from retort.students.backends import exports
from retort.students.segmentation import sentence_spans

DOCUMENTS = [
    Document(id="1", content="The ship is near the harbour. The captain is in the storm.", meta={"title": "sea"}),
    Document(id="2", content="Bread of flour, butter and salt.", meta={"title": "kitchen"}),
    Document(id="3", content="The rose is in the garden.\n\nThe bee is near the rose."),
]


def loaded(component):
    """The component after a round trip through YAML."""
    pipeline = Pipeline()
    pipeline.add_component("it", component)
    return Pipeline.loads(pipeline.dumps()).get_component("it")


def index(path, student: str, **options) -> QdrantEdgeDocumentStore:
    store = QdrantEdgeDocumentStore(path=str(path))
    store.write_documents(StudentDocumentEmbedder(model=student, **options).run(documents=DOCUMENTS)["documents"])
    return store


@pytest.mark.parametrize(
    "kind", [*(getattr(embedders, name) for name in embedders.__all__), StudentRanker, ExtractiveAnswerer]
)
def test_arguments_for_transformers_survive_yaml(kind):
    kwargs = {
        "model_kwargs": {"dtype": torch.bfloat16, "attn_implementation": "eager"},
        "tokenizer_kwargs": {"model_max_length": 9},
        "config_kwargs": {"hidden_act": "relu"},
    }
    component = kind(**copy.deepcopy(kwargs))
    text = _dumps(component)
    assert "dtype: torch.bfloat16" in text
    for there in (Pipeline.loads(text).get_component("it"), component):
        assert {name: getattr(there, name) for name in kwargs} == kwargs
    assert loaded(kind()).model_kwargs is None


class TestStudentTextEmbedder:
    def test_default_needs_nothing_and_keeps_the_device_open(self):
        found = yaml.safe_load(_dumps(StudentTextEmbedder()))["components"]["it"]
        assert found["init_parameters"]["device"] is None
        assert found["init_parameters"]["model"] == "runs/quickstart/student"

    def test_round_trip(self, tiny_student):
        embedder = StudentTextEmbedder(
            model=tiny_student,
            device=ComponentDevice.from_str("cpu"),
            token=Secret.from_env_var("NO_SUCH_TOKEN", strict=False),
            truncate_dim=4,
        )
        again = loaded(embedder)
        assert (again.model, again.device, again.token, again.truncate_dim) == (
            tiny_student, embedder.device, embedder.token, 4,
        )  # fmt: skip

    def test_run(self, tiny_student):
        student = Student.load(tiny_student)
        found = StudentTextEmbedder(model=tiny_student).run(text="the ship")
        assert found["space"] == student.space
        assert np.allclose(found["embedding"], student.encode_query(["the ship"])[0], atol=1e-6)
        assert all(type(x) is float for x in found["embedding"])

    def test_arguments_for_transformers_reach_the_model(self, tiny_student):
        half = {"model_kwargs": {"dtype": torch.bfloat16}, "tokenizer_kwargs": {"model_max_length": 9}}
        for kind in (StudentTextEmbedder, StudentDocumentEmbedder):
            embedder = loaded(kind(model=tiny_student, **half))
            model = embedder._handle.student.model
            assert (model.dtype, model.tokenizer.model_max_length) == (torch.bfloat16, 9)

    def test_query_side(self, tiny_model, tmp_path):
        from retort.students import save_student

        save_student(tiny_model(1, prompts={"query": "what is ", "document": "the "}), tmp_path / "s")
        student = Student.load(str(tmp_path / "s"))
        query = StudentTextEmbedder(model=str(tmp_path / "s")).run(text="ship")["embedding"]
        document = StudentDocumentEmbedder(model=str(tmp_path / "s")).run(documents=[Document(content="ship")])
        assert np.allclose(query, student.encode(["ship"], "query")[0], atol=1e-6)
        assert np.allclose(document["documents"][0].embedding, student.encode(["ship"], "document")[0], atol=1e-6)
        assert not np.allclose(query, document["documents"][0].embedding, atol=1e-2)

    def test_truncate_dim(self, tiny_student):
        whole = StudentTextEmbedder(model=tiny_student).run(text="a ship")["embedding"]
        assert StudentTextEmbedder(model=tiny_student, truncate_dim=5).run(text="a ship")["embedding"] == whole[:5]
        for embedder in (StudentTextEmbedder, StudentDocumentEmbedder):
            for dim in (0, -2):
                with pytest.raises(ValueError, match=f"truncate_dim must be above 0; it is {dim}"):
                    embedder(truncate_dim=dim)

    def test_async(self, tiny_student):
        embedder = StudentTextEmbedder(model=tiny_student)
        assert asyncio.run(embedder.run_async(text="a ship")) == embedder.run(text="a ship")

    def test_many_callers_at_once(self, tiny_student):
        embedder = StudentTextEmbedder(model=tiny_student)

        async def ask():
            return await asyncio.gather(*(embedder.run_async(text=f"the ship {'sea ' * i}") for i in range(40)))

        found = asyncio.run(ask())
        assert found == [embedder.run(text=f"the ship {'sea ' * i}") for i in range(40)]

    def test_warm_up_and_close_twice(self, tiny_student):
        embedder = StudentTextEmbedder(model=tiny_student)
        for _ in range(2):
            embedder.warm_up()
            handle = embedder._handle
            embedder.warm_up()
            assert embedder._handle is handle
        embedder.close()
        embedder.close()
        assert embedder.run(text="a")["embedding"]

    def test_wrong_input(self, tiny_student):
        with pytest.raises(TypeError, match="use the StudentDocumentEmbedder"):
            StudentTextEmbedder(model=tiny_student).run(text=DOCUMENTS)

    def test_a_missing_student_is_reported_at_the_first_run(self):
        embedder = StudentTextEmbedder(model="./nowhere")
        with pytest.raises(FileNotFoundError, match="No model at './nowhere'"):
            embedder.run(text="a")

    def test_a_missing_student_is_named_without_torch(self, monkeypatch):
        monkeypatch.setattr(exports, "has_torch", lambda: False)
        with pytest.raises(FileNotFoundError, match="No model at './nowhere'"):
            StudentTextEmbedder(model="./nowhere").run(text="a")

    def test_the_event_loop_stays_free_while_a_pipeline_loads_it(self, tiny_student, monkeypatch):
        """Haystack warms components up before the first run: in the loop, where they have no other way."""
        threads: list[int] = []
        warm_up = StudentTextEmbedder.warm_up

        def noted(embedder: StudentTextEmbedder) -> None:
            threads.append(threading.get_ident())
            warm_up(embedder)

        monkeypatch.setattr(StudentTextEmbedder, "warm_up", noted)
        pipeline = Pipeline()
        pipeline.add_component("embedder", StudentTextEmbedder(model=tiny_student))
        assert asyncio.run(pipeline.run_async({"embedder": {"text": "a"}}))["embedder"]["embedding"]
        assert threads and threading.get_ident() not in threads


class TestStudentDocumentEmbedder:
    def test_run(self, tiny_student):
        student = Student.load(tiny_student)
        before = copy.deepcopy(DOCUMENTS)
        found = StudentDocumentEmbedder(model=tiny_student).run(documents=DOCUMENTS)["documents"]
        assert before == DOCUMENTS
        assert [d.id for d in found] == ["1", "2", "3"]
        assert {d.meta[SPACE_STAMP] for d in found} == {student.space}
        assert {d.meta[STUDENT_STAMP] for d in found} == {tiny_student}
        texts = [f"sea {DOCUMENTS[0].content}", f"kitchen {DOCUMENTS[1].content}", DOCUMENTS[2].content]
        assert np.allclose([d.embedding for d in found], student.encode_document(texts), atol=1e-6)

    def test_meta_fields(self, tiny_student):
        student = Student.load(tiny_student)
        embedder = StudentDocumentEmbedder(model=tiny_student, meta_fields_to_embed=[], truncate_dim=3)
        found = embedder.run(documents=DOCUMENTS)["documents"]
        expected = student.encode_document([d.content for d in DOCUMENTS])[:, :3]
        assert np.allclose([d.embedding for d in found], expected, atol=1e-6)

    def test_nothing(self, tiny_student):
        assert StudentDocumentEmbedder(model=tiny_student).run(documents=[]) == {"documents": []}

    @pytest.mark.parametrize("wrong", ["text", ["text"], None])
    def test_wrong_input(self, tiny_student, wrong):
        with pytest.raises(TypeError, match="use the StudentTextEmbedder"):
            StudentDocumentEmbedder(model=tiny_student).run(documents=wrong)

    def test_round_trip_and_async(self, tiny_student):
        again = loaded(StudentDocumentEmbedder(model=tiny_student, meta_fields_to_embed=["x"]))
        assert again.meta_fields_to_embed == ["x"]
        found = asyncio.run(again.run_async(documents=DOCUMENTS))["documents"]
        assert [d.id for d in found] == ["1", "2", "3"]


class TestStudentRetriever:
    @pytest.fixture
    def store(self, tiny_student, tmp_path):
        return index(tmp_path / "index", tiny_student)

    @pytest.fixture
    def query(self, tiny_student):
        return StudentTextEmbedder(model=tiny_student).run(text="the ship near the harbour")

    def arguments(self, query):
        return {"query_embedding": query["embedding"], "space": query["space"]}

    def test_run(self, store, query, tiny_student):
        found = StudentRetriever(document_store=store, top_k=2).run(**self.arguments(query))["documents"]
        student = Student.load(tiny_student)
        scores = student.encode_document(
            [f"{d.meta.get('title', '')} {d.content}".strip() for d in DOCUMENTS]
        ) @ np.array(query["embedding"])
        assert [d.id for d in found] == [DOCUMENTS[i].id for i in np.argsort(-scores)[:2]]
        assert np.allclose([d.score for d in found], np.sort(scores)[::-1][:2], atol=1e-5)

    def test_arguments_of_a_run(self, store, query):
        retriever = StudentRetriever(
            document_store=store, filters={"field": "meta.title", "operator": "==", "value": "sea"}
        )
        arguments = self.arguments(query)
        assert [d.id for d in retriever.run(**arguments)["documents"]] == ["1"]
        kitchen = {"field": "meta.title", "operator": "==", "value": "kitchen"}
        assert [d.id for d in retriever.run(**arguments, filters=kitchen)["documents"]] == ["2"]
        everything = StudentRetriever(document_store=store)
        assert len(everything.run(**arguments, top_k=1)["documents"]) == 1
        assert everything.run(**arguments, score_threshold=1.1)["documents"] == []
        second = everything.run(**arguments)["documents"][1].score
        assert len(everything.run(**arguments, score_threshold=second)["documents"]) == 2
        assert everything.run(**arguments)["documents"][0].embedding is None
        assert len(everything.run(**arguments, return_embedding=True)["documents"][0].embedding) == 16
        with_them = StudentRetriever(document_store=store, return_embedding=True)
        assert with_them.run(**arguments, return_embedding=False)["documents"][0].embedding is None
        for top_k in (0, -1):
            for more in ({}, {"query_sparse_embedding": SparseEmbedding([0], [1.0])}):
                with pytest.raises(ValueError, match=f"top_k must be above 0; it is {top_k}"):
                    everything.run(**arguments, **more, top_k=top_k)

    def test_another_space_is_refused(self, store, query, other_student, tiny_student):
        wrong = StudentTextEmbedder(model=other_student).run(text="the ship")
        with pytest.raises(SpaceMismatchError) as error:
            StudentRetriever(document_store=store).run(**self.arguments(wrong))
        assert tiny_student in str(error.value)
        assert "retort index STUDENT --documents DIR --store" in str(error.value)

    @pytest.mark.parametrize(
        "options",
        [{"score_threshold": 1.1}, {"filters": {"field": "meta.title", "operator": "==", "value": "nowhere"}}],
    )
    def test_another_space_is_refused_where_nothing_is_left(self, store, query, other_student, options):
        """An empty result would look as if the documents had no answer."""
        right, wrong = (self.arguments(q) for q in (query, StudentTextEmbedder(model=other_student).run(text="ship")))
        retriever = StudentRetriever(document_store=store, **options)
        assert retriever.run(**right)["documents"] == []
        assert asyncio.run(retriever.run_async(**right))["documents"] == []
        with pytest.raises(SpaceMismatchError, match="was built by"):
            retriever.run(**wrong)
        with pytest.raises(SpaceMismatchError, match="was built by"):
            asyncio.run(retriever.run_async(**wrong))

    def test_student_in_init_serves_pipelines_without_the_connection(self, store, query, other_student, tiny_student):
        right = StudentRetriever(document_store=store, student=tiny_student)
        assert right.run(query_embedding=query["embedding"])["documents"]
        with pytest.raises(SpaceMismatchError):
            StudentRetriever(document_store=store, student=other_student).run(query_embedding=query["embedding"])
        connected = StudentRetriever(document_store=store, student=other_student)
        assert connected.run(**self.arguments(query))["documents"]  # whoever made the embedding says so

    def test_with_neither_it_warns_once(self, store, query, caplog):
        retriever = StudentRetriever(document_store=store)
        with caplog.at_level(logging.WARNING):
            retriever.run(query_embedding=query["embedding"])
            retriever.run(query_embedding=query["embedding"])
        assert caplog.text.count("does not know which model embedded the query") == 1
        with pytest.raises(Exception, match="16"):
            retriever.run(query_embedding=[0.0, 1.0])

    def test_an_unstamped_index(self, query, tmp_path):
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "bare"))
        store.write_documents([Document(content="a", embedding=[0.1] * 16)])
        with pytest.raises(SpaceMismatchError, match="carry no stamp.*allow_unstamped=True"):
            StudentRetriever(document_store=store).run(**self.arguments(query))
        retriever = StudentRetriever(document_store=store, allow_unstamped=True)
        assert len(retriever.run(**self.arguments(query))["documents"]) == 1

    def test_truncated_dimensions_share_the_space(self, tiny_student, tmp_path):
        store = index(tmp_path / "short", tiny_student, truncate_dim=8)
        query = StudentTextEmbedder(model=tiny_student, truncate_dim=8).run(text="the ship")
        assert len(StudentRetriever(document_store=store).run(**self.arguments(query))["documents"]) == 3

    def test_async(self, store, query):
        retriever = StudentRetriever(document_store=store)
        arguments = self.arguments(query)
        found = asyncio.run(retriever.run_async(**arguments))["documents"]
        assert [d.id for d in found] == [d.id for d in retriever.run(**arguments)["documents"]]

    def test_round_trip(self, store):
        again = loaded(StudentRetriever(document_store=store, top_k=3, hnsw_ef=32, filter_policy="merge", student="x"))
        assert (again.top_k, again.hnsw_ef, again.student) == (3, 32, "x")
        assert again.filter_policy == "merge"
        assert again.document_store.path == store.path

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"top_k": 0}, "top_k must be above 0"),
            ({"document_store": 3}, "QdrantEdgeDocumentStore or a QdrantDocumentStore, not int"),
            ({"oversampling": 0.5}, "oversampling must be 1 or more"),
            ({"hnsw_ef": -1}, "hnsw_ef must be above 0; it is -1"),
        ],
    )
    def test_bad_parameters(self, store, options, message):
        with pytest.raises(ValueError, match=message):
            StudentRetriever(**({"document_store": store} | options))


class TestSentences:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("One is here now. Two is there now! Is three?", ["One is here now.", "Two is there now! Is three?"]),
            ("See e.g. Smith for more. It is long enough.", ["See e.g. Smith for more.", "It is long enough."]),
            ("A first line\nof one sentence.\n\nA new paragraph here", ["A first line\nof one sentence.", "A new paragraph here"]),
            ("Items to see:\n- the first item\n- the second item", ["Items to see:", "- the first item", "- the second item"]),
            ("f(a, b=1.5) gives 2.5 at once. Next sentence comes.", ["f(a, b=1.5) gives 2.5 at once.", "Next sentence comes."]),
            ('He said "all is well." Then he left us.', ['He said "all is well."', "Then he left us."]),
            ("   ", []),
            ("", []),
        ],
    )  # fmt: skip
    def test_spans(self, text, expected):
        assert [text[start:end] for start, end in sentence_spans(text)] == expected


class TestExtractiveAnswerer:
    def test_run(self, tiny_student):
        answerer = ExtractiveAnswerer(model=tiny_student, score_threshold=-1.0, top_k=3)
        found = answerer.run(query="The bee is near the rose.", documents=DOCUMENTS)
        answers = found["answers"]
        assert len(answers) == 3
        assert [a.score for a in answers] == sorted((a.score for a in answers), reverse=True)
        assert found["best_score"] == answers[0].score
        for answer in answers:
            span = answer.document_offset
            assert answer.document.content[span.start : span.end] == answer.data
        best = next(a for a in answers if a.document.id == "3")
        assert best.data == "The bee is near the rose."

    def test_scores_are_the_equation(self, tiny_student):
        student = Student.load(tiny_student)
        question, document = "the ship", DOCUMENTS[0]
        sentences = ["sea The ship is near the harbour.", "sea The captain is in the storm."]
        texts = student.encode_document([*sentences, f"sea {document.content}"])
        similarities = texts @ student.encode_query([question])[0]
        answerer = ExtractiveAnswerer(model=tiny_student, score_threshold=-1.0, document_weight=0.25)
        found = {a.data: a.score for a in answerer.run(query=question, documents=[document])["answers"]}
        for i, sentence in enumerate(sentences):
            expected = 0.75 * similarities[i] + 0.25 * similarities[2]
            assert found[sentence.removeprefix("sea ")] == pytest.approx(expected, abs=1e-5)

    def test_long_documents_are_read_by_passages(self, tiny_student):
        """The nearest ones, wherever they stand; each answer's context is the passage, its offsets are the document's."""
        filler = "the bread in the oven is near the sugar and the salt of the kitchen. "
        content = filler * 30 + "The bee is near the rose. " * 25 + filler * 30
        long = Document(id="long", content=content, meta={"title": "kitchen"})
        answerer = ExtractiveAnswerer(model=tiny_student, score_threshold=-1.0, top_k=50, max_documents=2)
        answers = answerer.run(query="The bee is near the rose.", documents=[long, DOCUMENTS[0]])["answers"]
        assert "The bee is near the rose." in {a.data for a in answers}
        assert {len({a.context for a in answers}), len(answers)} == {2, 27}  # passages and short documents compete
        for answer in answers:
            offset, within = answer.document_offset, answer.context_offset
            assert answer.document.content[offset.start : offset.end] == answer.data
            assert answer.context[within.start : within.end] == answer.data
            assert answer.document is not long or len(answer.context.split()) <= 150
        whole = Document(content=filler * 20, meta={"title": "kitchen"})
        assert answerer.run(query="x", documents=[whole])["answers"][0].context == whole.content

    def test_no_good_answer(self, tiny_student):
        found = ExtractiveAnswerer(model=tiny_student, score_threshold=1.01).run(query="the ship", documents=DOCUMENTS)
        assert found["answers"] == []
        assert 0 < found["best_score"] <= 1
        bound = ExtractiveAnswerer(model=tiny_student, score_threshold=found["best_score"])
        assert len(bound.run(query="the ship", documents=DOCUMENTS)["answers"]) == 1

    def test_documents_of_a_request_and_queries_of_another_kind(self, tiny_student):
        answerer = ExtractiveAnswerer(model=tiny_student, score_threshold=-1.0)
        found, expected = (
            answerer.run(query="the ship", documents=own) for own in ([d.to_dict() for d in DOCUMENTS], DOCUMENTS)
        )
        assert [a.data for a in found["answers"]] == [a.data for a in expected["answers"]]
        with pytest.raises(TypeError, match="expects a string as query, not NoneType"):
            answerer.run(query=None, documents=DOCUMENTS)

    @pytest.mark.parametrize("documents", [[], [Document(content="")], [Document(content=None)]])
    def test_nothing_to_read(self, tiny_student, documents):
        found = ExtractiveAnswerer(model=tiny_student).run(query="x", documents=documents)
        assert found == {"answers": [], "best_score": 0.0}

    def test_only_the_first_documents_are_read(self, tiny_student):
        answerer = ExtractiveAnswerer(model=tiny_student, max_documents=1, score_threshold=-1.0)
        question = "The bee is near the rose."  # the third has it
        assert {a.document.id for a in answerer.run(query=question, documents=DOCUMENTS)["answers"]} == {"1"}

    def test_round_trip_and_async(self, tiny_student):
        again = loaded(ExtractiveAnswerer(model=tiny_student, score_threshold=0.1, top_k=1))
        found = asyncio.run(again.run_async(query="the ship", documents=DOCUMENTS))
        assert [a.data for a in found["answers"]] == [
            a.data for a in again.run(query="the ship", documents=DOCUMENTS)["answers"]
        ]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"top_k": 0}, "top_k must be above 0; it is 0"),
            ({"top_k": 1.5}, "top_k must be a whole number; it is 1.5"),
            ({"max_documents": 0}, "max_documents must be above 0"),
            ({"max_documents": "3"}, "max_documents must be a whole number"),
            ({"document_weight": 2.0}, "document_weight must be between 0 and 1; it is 2.0"),
        ],
    )
    def test_bad_parameters(self, options, message):
        with pytest.raises(ValueError, match=message):
            ExtractiveAnswerer(**options)


class TestTogether:
    @staticmethod
    def asking(student: str, path) -> Pipeline:
        pipeline = Pipeline()
        pipeline.add_component("embedder", StudentTextEmbedder(model=student))
        store = QdrantEdgeDocumentStore(path=str(path))
        pipeline.add_component("retriever", StudentRetriever(document_store=store))
        pipeline.connect("embedder.embedding", "retriever.query_embedding")
        pipeline.connect("embedder.space", "retriever.space")
        return pipeline

    def test_three_pipelines_on_one_path(self, tiny_student, tmp_path):
        path = tmp_path / "index"
        writing = Pipeline()
        writing.add_component("embedder", StudentDocumentEmbedder(model=tiny_student))
        writing.add_component("writer", DocumentWriter(document_store=QdrantEdgeDocumentStore(path=str(path))))
        writing.connect("embedder", "writer")
        writing.run({"embedder": {"documents": DOCUMENTS}})
        first, second = self.asking(tiny_student, path), self.asking(tiny_student, path)
        question = {"embedder": {"text": "the ship"}}
        found = first.run(question)["retriever"]["documents"]
        assert [d.id for d in second.run(question)["retriever"]["documents"]] == [d.id for d in found]
        writing.run({"embedder": {"documents": [Document(id="4", content="the ship")]}})
        assert first.run(question)["retriever"]["documents"][0].id == "4"
        assert asyncio.run(second.run_async(question))["retriever"]["documents"][0].id == "4"
        asyncio.run(writing.run_async({"embedder": {"documents": [Document(id="5", content="the sea")]}}))
        assert len(second.run(question)["retriever"]["documents"]) == 5
        for pipeline in (first, second, writing):
            pipeline.close()

    def test_copies_of_a_pipeline_that_has_run(self, tiny_student, tmp_path):
        store = index(tmp_path / "index", tiny_student)
        pipeline, question = self.asking(tiny_student, tmp_path / "index"), {"embedder": {"text": "the ship"}}
        found = pipeline.run(question)["retriever"]["documents"]
        copies = [copy.deepcopy(pipeline), pickle.loads(pickle.dumps(pipeline)), pipeline]  # noqa: S301
        for each in copies:
            assert each.run(question)["retriever"]["documents"] == found
        for each in copies:
            each.close()
        ranker = StudentRanker(model=tiny_student)
        ranker._handle._student = threading.Lock()  # as a session of onnxruntime, it cannot be copied
        assert copy.deepcopy(ranker)._handle._student is None
        writing = pickle.loads(pickle.dumps(store))  # noqa: S301
        writing.delete_documents(["1"])
        assert store.count_documents() == copy.deepcopy(store).count_documents() == 2

    def test_two_stores_in_one_pipeline(self, tiny_student, tmp_path):
        stores = [index(tmp_path / name, tiny_student) for name in ("a", "b")]
        stores[1].delete_documents(["1"])
        pipeline = Pipeline()
        pipeline.add_component("embedder", StudentTextEmbedder(model=tiny_student))
        for i, store in enumerate(stores):
            pipeline.add_component(f"r{i}", StudentRetriever(document_store=store))
            pipeline.connect("embedder.embedding", f"r{i}.query_embedding")
            pipeline.connect("embedder.space", f"r{i}.space")
        question = {"embedder": {"text": "the ship"}}
        for found in (pipeline.run(question), asyncio.run(pipeline.run_async(question))):
            assert [len(found[f"r{i}"]["documents"]) for i in range(2)] == [3, 2]


def _dumps(component) -> str:
    pipeline = Pipeline()
    pipeline.add_component("it", component)
    return pipeline.dumps()
