# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Dual cross encoder: reference values, what lists and documents look like, the index, and a killed run."""

import asyncio
import copy
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from haystack import Document
from haystack.core.serialization import component_from_dict, component_to_dict
from tiny import everything, lists, opened, pool, run_killed, spec

from haystack_integrations.components.embedders.retort import (
    StudentDocumentEmbedder,
    StudentMultiViewDocumentEmbedder,
    StudentTextEmbedder,
)
from haystack_integrations.components.retrievers.retort import StudentRetriever
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.students import Student
from retort.students.views import ViewRule
from retort.trainers.batches.lists import ListBatches
from retort.trainers.candidates.bm25 import BM25Miner
from retort.trainers.candidates.mining import build_lists
from retort.trainers.context import TrainingContext
from retort.trainers.data.beir import read_beir
from retort.trainers.data.pseudo_queries import KeySentences, TrainingQuestions
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.encoder_output import DenseOutput
from retort.trainers.losses import contrastive
from retort.trainers.methods.dual_cross_encoder import QuestionViews
from retort.trainers.objectives import Contrastive
from retort.trainers.recipe import Recipe
from retort.trainers.roles import StepContext, TextRequest
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.search import search_vectors

# Reference 10-A: three documents, of three views, two and one.
VIEWS = {"A": [[1.0, 0.4], [0.8, 0.5], [0.0, 0.9]], "B": [[0.9, 0.2], [0.1, 0.0]], "C": [[0.5, 0.5]]}
QUERY = [1.0, 0.5]


class TestReferenceValues:
    def test_a_the_best_view_counts(self):
        """10-A: 1.2, 1.0, .75; never A twice."""
        vectors = np.array([v for views in VIEWS.values() for v in views], dtype=np.float32)
        rows, scores = search_vectors(
            np.array([QUERY], dtype=np.float32), vectors, 3, similarity="dot", starts=np.array([0, 3, 5])
        )
        assert rows[0].tolist() == [0, 1, 2]
        assert scores[0].tolist() == pytest.approx([1.2, 1.0, 0.75])

    @pytest.mark.parametrize("kind", ["edge", "server"])
    def test_a_in_an_index(self, kind, tmp_path):
        """The first two documents, not A's first two views; in a folder and in qdrant-haystack's local mode."""
        store = (
            QdrantEdgeDocumentStore(path=str(tmp_path / "index"), similarity="dot_product")
            if kind == "edge"
            else QdrantDocumentStore(":memory:", embedding_dim=2, similarity="dot_product", progress_bar=False)
        )
        store.write_documents(
            [
                Document(id=f"{name}#{n}" if n else name, content=name, embedding=v, meta={"_retort_view_of": name})
                for name, views in VIEWS.items()
                for n, v in enumerate(views)
            ]
        )
        retriever = StudentRetriever(document_store=store, top_k=2, allow_unstamped=True)
        found = retriever.run(query_embedding=QUERY, space="x")["documents"]
        assert [d.id for d in found] == ["A", "B"]
        assert [d.score for d in found] == pytest.approx([1.2, 1.0])
        everything_there = retriever.run(query_embedding=QUERY, space="x", top_k=9)["documents"]
        assert [d.id for d in everything_there] == ["A", "B", "C"]
        again = asyncio.run(retriever.run_async(query_embedding=QUERY, space="x"))["documents"]
        assert [d.id for d in again] == ["A", "B"]
        retriever.close()

    def test_b_the_loss_over_all_columns(self):
        """10-B: positive and hard negative of each query, all of them columns of both."""
        columns = torch.tensor([[1.2, 0.1], [0.7, 0.2], [0.0, 1.0], [0.3, 0.8]])
        scores = torch.eye(2) @ columns.T
        assert scores.tolist() == [pytest.approx([1.2, 0.7, 0.0, 0.3]), pytest.approx([0.1, 0.2, 1.0, 0.8])]
        positive = torch.tensor([[True, False, False, False], [False, False, True, False]])
        found = contrastive(scores, positive, torch.ones_like(positive)).mean()
        assert float(found) == pytest.approx(0.911458, abs=1e-6)

    def test_b_of_unscaled_dot_products(self):
        """10-B again, of vectors: the student of the recipe has no scale."""
        assert Recipe.from_yaml("dual_cross_encoder").student.init_parameters["similarity_fn_name"] == "dot"
        columns = torch.tensor([[1.2, 0.1], [0.7, 0.2], [0.0, 1.0], [0.3, 0.8]])
        output = DenseOutput(torch.eye(2), columns, 1.0, "dot")
        (found,) = Contrastive()(output, lists(torch.zeros(2, 2)), StepContext("s", 0, 1)).values()
        assert float(found.mean()) == pytest.approx(0.911458, abs=1e-6)


def test_a_view_more_never_lowers_a_score():
    """Four documents of three views, and of the first two of them."""
    rng = np.random.default_rng(0)
    queries, views = rng.normal(size=(5, 8)).astype(np.float32), rng.normal(size=(4, 3, 8)).astype(np.float32)
    scores = []
    for count in (2, 3):
        flat, starts = views[:, :count].reshape(-1, 8), np.arange(4) * count
        rows, found = search_vectors(queries, flat, 4, similarity="dot", starts=starts)
        scores.append(np.take_along_axis(found, np.argsort(rows, axis=1), axis=1))
    assert (scores[1] >= scores[0] - 1e-5).all()
    assert (scores[1] > scores[0] + 0.1).any()


class TestTexts:
    def test_the_tokenizers_own_separator_and_a_short_question(self, tiny_model):
        words = tiny_model(1).tokenizer
        assert ViewRule().text(words, "the ship", "a sea") == "the ship [SEP] a sea"
        assert ViewRule(query_tokens=3).text(words, "ship " * 30, "a sea") == "ship ship ship [SEP] a sea"
        assert ViewRule().text(words, " ", "a sea") == "a sea"
        assert ViewRule().texts(words, ["", "ship"], "a sea") == ["ship [SEP] a sea"]
        assert ViewRule().texts(words, [], "a sea") == ["a sea"]
        assert words(ViewRule().text(words, "ship", "sea"))["input_ids"].count(words.sep_token_id) == 2

    def test_a_tokenizer_without_one(self, tiny_model):
        words = tiny_model(1).tokenizer
        words.sep_token = None
        with pytest.raises(ValueError, match="no separator"):
            ViewRule().text(words, "ship", "sea")


class TestSources:
    DATA = RetrievalData(
        "x",
        TextStore(
            ["1", "2", "3"], ["The sea. A ship is on the sea. Rare whales sing here.", "It is on a.", "It is on a."]
        ),
        TextStore(["a", "b", "c"], ["where are ships", "who sings", "what is baked"]),
        {"a": {"1": 1}, "b": {"1": 1}, "c": {"3": 1}},
    )

    def test_training_questions(self):
        assert TrainingQuestions().of(self.DATA) == [
            ["where are ships", "who sings"],
            ["what is baked"],  # a copy of the third
            ["what is baked"],
        ]
        assert TrainingQuestions(most=1).of(self.DATA)[0] == ["where are ships"]

    def test_key_sentences(self):
        """Rare words first; a sentence of two words is no question."""
        found = KeySentences().of(self.DATA)
        assert found == [["Rare whales sing here.", "A ship is on the sea."], ["It is on a."], ["It is on a."]]
        assert KeySentences(most=1).of(self.DATA)[0] == ["Rare whales sing here."]


@pytest.fixture
def views(tiny_model):
    def make(negatives: int = 2, **parameters) -> QuestionViews:
        made = QuestionViews(queries=spec("TrainingQuestions"), **parameters)
        made.bind(TrainingQuestions(most=2), tiny_model(1).tokenizer, negatives)
        return made

    return make


class TestLists:
    @pytest.fixture
    def context(self, beir, tmp_path, tiny_model) -> TrainingContext:
        return TrainingContext(read_beir(beir, "train"), {}, tmp_path / "cache", tiny_model(9))

    def batch(self, context, texts, step=0):
        lists = build_lists(context, {"bm25": BM25Miner(depth=6)})
        source = opened(ListBatches(), context, lists=lists, batch_size=5, negatives=2, text=texts, seed=0)
        return source.batch(step)

    def test_gold(self, context, views):
        """A list's documents all have its own query; other lists have other texts of the same document."""
        batch = self.batch(context, views(plain=0.0))
        assert len(batch.documents) == int(batch.mask.sum())
        for query, index, mask in zip(batch.queries, batch.index, batch.mask, strict=True):
            own = [batch.documents[i] for i in index[mask]]
            assert all(text.startswith(f"{query} [SEP] ") for text in own)
        plain = self.batch(context, None)
        for i, row in enumerate(batch.index):
            cut = [batch.documents[n].partition(" [SEP] ")[2] for n in row[batch.mask[i]]]
            assert cut == [plain.documents[n] for n in plain.index[i][plain.mask[i]]]
        # Another list's text of a query's positive is no negative for it.
        for i, row in enumerate(batch.known_positive):
            positive = batch.documents[int(batch.index[i][0])].partition(" [SEP] ")[2]
            assert [t.partition(" [SEP] ")[2] == positive for t in batch.documents] == row.tolist()

    def test_pseudo_and_plain(self, context, views):
        questions = TrainingQuestions(most=2).of(context.data)
        batch = self.batch(context, views(train_with="pseudo", plain=0.0))
        for i in range(len(batch.queries)):
            asked, _, document = batch.documents[int(batch.index[i][0])].partition(" [SEP] ")
            assert asked in questions[context.data.corpus.texts.index(document)]
        rng = np.random.default_rng(0)
        two = replace(context.data, qrels={q: {"d00": 1} for q in context.data.queries.ids[:2]})
        request = TextRequest(two, 0, np.array([two.corpus.rows["d00"]]), np.array([True]), 0, 8, 0, rng)
        drawn = {views(train_with="pseudo", plain=0.0).texts(request)[0].partition(" [SEP] ")[0] for _ in "1234"}
        assert drawn == {two.queries.texts[1]}  # never the list's own, where there is another
        none = self.batch(context, views(plain=1.0))
        assert not any("[SEP]" in text for text in none.documents)
        some = [self.batch(context, views(plain=0.5), step) for step in range(8)]
        shares = [np.mean(["[SEP]" in text for text in b.documents]) for b in some]
        assert 0.2 < np.mean(shares) < 0.8
        assert self.batch(context, views(plain=0.5), 3).documents == some[3].documents

    def test_documents_in_search(self, context, views):
        found = views(views=2).document_views(context.data)
        by_id = dict(zip(context.data.corpus.ids, found, strict=True))
        assert by_id["d00"] == [f"{context.data.queries.texts[0]} [SEP] {context.data.corpus.texts[0]}"]
        assert by_id["d07"] == [context.data.corpus.texts[7]]  # nobody asks for it in training
        assert all(len(v) == 1 for v in views(views=0).document_views(context.data))

    def test_no_more_views_in_search_than_the_recipe_says(self, views):
        """The first document has two questions."""
        texts = {most: views(views=most).document_views(TestSources.DATA) for most in (1, 2)}
        assert {most: [len(own) for own in each] for most, each in texts.items()} == {1: [1, 1, 1], 2: [2, 1, 1]}
        assert texts[1][0][0].startswith("where are ships [SEP] The sea.")

    def test_questions_are_cut(self, views):
        first = views(views=1, query_tokens=2).document_views(TestSources.DATA)[0][0]
        assert first.startswith("where are [SEP] The sea.")

    def test_without_hard_negatives_it_warns(self, views, caplog):
        with caplog.at_level(logging.WARNING):
            views(negatives=0)
        assert "the question alone tells the positive" in caplog.text


@pytest.fixture
def tree(recipe_tree):
    tree = copy.deepcopy(recipe_tree)
    tree["stages"] = tree["stages"][1:]
    text = spec("QuestionViews", queries=spec("TrainingQuestions"), train_with="pseudo", plain=0.3)
    tree["stages"][0]["candidates"] = pool("bm25", negatives=2, text=text)
    return tree


def test_a_killed_run_and_its_student(tree, beir, tmp_path, monkeypatch, caplog):
    out, killed = tmp_path / "a" / "run", tmp_path / "b" / "run"
    metrics = run_recipe(Recipe.from_dict(tree), beir, out)
    expected = everything(out)
    run_killed(Recipe.from_dict(tree), beir, killed, monkeypatch, 4)
    found = everything(killed)
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    assert json.loads((out / "student" / "retort.json").read_text())["kind"] == "multi_view"
    assert Student.load(str(out / "student")).manifest.kind == "multi_view"
    document = Document(content="the sea")
    for embedder in (StudentDocumentEmbedder, StudentMultiViewDocumentEmbedder):
        caplog.clear()
        embedder(model=str(out / "student"), progress_bar=False).run(documents=[document])
        assert ("take the StudentMultiViewDocumentEmbedder" in caplog.text) is (embedder is StudentDocumentEmbedder)
    del tree["stages"][0]["candidates"]["text"]
    other = run_recipe(Recipe.from_dict(tree), beir, tmp_path / "c" / "run")
    assert other["training"] != metrics["training"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"plain": 2}, "0 <= plain <= 1"),
        ({"train_with": "none"}, "train_with: must be gold"),
        ({"queries": {"kind": "x"}}, "candidates.text.init_parameters.queries"),
        ({"queries": spec("BM25Miner")}, "is no query source"),
    ],
)
def test_mistakes_in_a_recipe(tree, beir, tmp_path, parameters, message):
    tree["stages"][0]["candidates"]["text"]["init_parameters"] |= parameters
    with pytest.raises(RecipeError, match=message):
        run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")


class TestComponent:
    DOCUMENTS = (
        Document(id="a", content="the ship in the sea", meta={"questions": ["what is near the ship?", "the captain"]}),
        Document(id="b", content="bread"),
    )

    def test_views(self, tiny_student):
        embedder = StudentMultiViewDocumentEmbedder(model=tiny_student, progress_bar=False)
        found = embedder.run(documents=list(self.DOCUMENTS))["documents"]
        assert [d.id for d in found] == ["a", "a#1", "b"]
        assert [d.meta["_retort_view_of"] for d in found] == ["a", "a", "b"]
        assert [d.content for d in found] == [self.DOCUMENTS[0].content] * 2 + ["bread"]
        student = Student.load(tiny_student)
        texts = [f"{q} [SEP] the ship in the sea" for q in self.DOCUMENTS[0].meta["questions"]]
        np.testing.assert_allclose([d.embedding for d in found], student.encode_document([*texts, "bread"]), atol=1e-6)
        assert {d.meta["_retort_space"] for d in found} == {student.space}
        assert "_retort_view_of" not in self.DOCUMENTS[0].meta
        one = StudentMultiViewDocumentEmbedder(model=tiny_student, views=1, progress_bar=False)
        assert [d.id for d in asyncio.run(one.run_async(documents=list(self.DOCUMENTS)))["documents"]] == ["a", "b"]

    def test_through_an_index(self, tiny_student, tmp_path):
        """A question that a view was made of finds its document first; each document comes once, under its own id."""
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
        embedder = StudentMultiViewDocumentEmbedder(model=tiny_student, progress_bar=False)
        store.write_documents(embedder.run(documents=list(self.DOCUMENTS))["documents"])
        asked = StudentTextEmbedder(model=tiny_student).run(text="the captain [SEP] the ship in the sea")
        retriever = StudentRetriever(document_store=store, top_k=2)
        found = retriever.run(query_embedding=asked["embedding"], space=asked["space"])["documents"]
        assert [d.id for d in found] == ["a", "b"]
        assert found[0].score == pytest.approx(1.0, abs=1e-5)
        retriever.close()

    def test_a_views_id_that_is_taken(self, tiny_student):
        embedder = StudentMultiViewDocumentEmbedder(model=tiny_student, progress_bar=False)
        with pytest.raises(ValueError, match="Document 'a#1' has the id of a view of document 'a'"):
            embedder.run(documents=[*self.DOCUMENTS, Document(id="a#1", content="salt")])

    def test_round_trip_and_bad_input(self, tiny_student):
        embedder = StudentMultiViewDocumentEmbedder(model=tiny_student, views=3, questions_field="asked")
        data = component_to_dict(embedder, "c")
        again = component_from_dict(StudentMultiViewDocumentEmbedder, data, "c")
        assert component_to_dict(again, "c") == data
        with pytest.raises(ValueError, match=r"meta\['asked'\] of document x must be a list"):
            embedder.run(documents=[Document(id="x", content="a", meta={"asked": "what?"})])
        for name in ("views", "query_tokens"):
            with pytest.raises(ValueError, match=f"{name} must be above 0; it is 0"):
                StudentMultiViewDocumentEmbedder(**{name: 0})
