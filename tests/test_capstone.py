# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""CAPSTONE: reference values, which pseudo-query a document gets, the mean of views as served, and a killed run."""

import copy
import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from haystack import Document
from haystack.core.serialization import component_from_dict, component_to_dict
from tiny import assert_comes_back, everything, opened, pool, spec, stage

from haystack_integrations.components.embedders.retort import StudentMultiViewDocumentEmbedder, StudentTextEmbedder
from haystack_integrations.components.retrievers.retort import StudentRetriever
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.students import Manifest, Student, save_student
from retort.students.card import model_card
from retort.students.manifest import ManifestError
from retort.students.views import ViewRule, mean_of_views, room_of
from retort.trainers.batches.lists import ListBatches
from retort.trainers.build import build_recipe
from retort.trainers.candidates.bm25 import BM25Miner
from retort.trainers.candidates.dense import DenseMiner
from retort.trainers.candidates.mining import build_lists
from retort.trainers.context import TrainingContext
from retort.trainers.data.beir import read_beir
from retort.trainers.data.pseudo_queries import Joined, KeyPhrases, KeySentences, TrainingQuestions
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.evaluation.metrics import mean, per_query
from retort.trainers.methods import capstone
from retort.trainers.methods.capstone import Expansion, part, plain_words, ranks, rouge_l
from retort.trainers.recipe import Recipe
from retort.trainers.roles import QuerySource, TextRequest
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.search import search_vectors
from retort.trainers.views import DocumentViews, document_vectors

GOLD = "what is the boiling point of water"
EXPANSION = "retort.trainers.methods.capstone.Expansion"
VIEWS = np.array([[0.5, 0.0], [0.0, 1.0], [1.0, 0.5]], dtype=np.float32)
QUERY = np.array([[1.0, 2.0]], dtype=np.float32)


class TestReferenceValues:
    @pytest.mark.parametrize(
        ("steps", "parts", "expected"),
        [
            (20000, 3, {0: 3, 6665: 3, 6666: 2, 13331: 2, 13332: 1, 19999: 1}),
            (25000, 4, {0: 4, 6249: 4, 6250: 3, 12500: 2, 18750: 1, 24999: 1}),
            (2, 3, {0: 3, 1: 2}),  # fewer steps than parts
        ],
    )
    def test_parts_count_down(self, steps, parts, expected):
        assert {step: part(step, steps, parts) for step in expected} == expected

    def test_ranks(self):
        assert [ranks(10, number, 3) for number in (3, 2, 1)] == [(7, 10), (4, 6), (1, 3)]
        assert [ranks(2, number, 4) for number in (4, 3, 2, 1)] == [(2, 2), (2, 2), (1, 1), (1, 1)]

    @pytest.mark.parametrize(
        ("other", "value"),
        [
            ("what is the boiling point of water at altitude", 0.875),
            ("boiling point water celsius", 0.545455),
            ("why does water boil at 100 degrees", 0.142857),
            ("who discovered oxygen", 0.0),
        ],
    )
    def test_rouge_l(self, other, value):
        assert rouge_l(plain_words(GOLD), plain_words(other)) == pytest.approx(value, abs=1e-6)
        assert rouge_l((), ()) == 0.0

    def test_the_best_and_the_mean_of_views(self):
        best = search_vectors(QUERY, VIEWS, 1, similarity="dot", starts=np.array([0]))[1]
        averaged = mean_of_views(VIEWS, np.array([0]), "dot")
        assert float(best[0, 0]) == pytest.approx(2.0, abs=1e-6)
        assert float(averaged[0] @ QUERY[0]) == pytest.approx(1.5, abs=1e-6)


def test_case_and_the_way_accents_are_written_make_no_other_words():
    assert plain_words("Straße café") == plain_words(normalize("NFD", "STRASSE CAFÉ"))


@pytest.mark.parametrize(("steps", "parts"), [(20000, 3), (25000, 4), (10, 3), (3, 5), (1, 1)])
def test_a_part_never_rises(steps, parts):
    found = [part(step, steps, parts) for step in range(steps)]
    assert found[0] == parts
    assert all(after in (before, before - 1) for before, after in pairwise(found))
    assert found[-1] == max(1, parts - steps + 1)


@pytest.mark.parametrize("parts", [1, 3, 4])
def test_parts_hold_every_rank_once(parts):
    for count in range(parts, 30):
        spans = [ranks(count, number, parts) for number in range(1, parts + 1)]
        assert [rank for first, last in spans for rank in range(first, last + 1)] == list(range(1, count + 1))


def test_means():
    """Of documents with one, two and three views; of length 1 where they are compared by cosine."""
    vectors = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    starts = np.array([0, 1, 3])
    plain = mean_of_views(vectors, starts, "dot")
    expected = [vectors[:1].mean(0), vectors[1:3].mean(0), vectors[3:].mean(0)]
    np.testing.assert_allclose(plain, expected, atol=1e-6)
    by_cosine = mean_of_views(vectors, starts, "cosine")
    np.testing.assert_allclose(by_cosine, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)
    assert by_cosine.dtype == np.float32
    assert mean_of_views(vectors[:0], np.zeros(0, dtype=np.int64), "cosine").shape == (0, 4)


class TestTexts:
    def test_the_document_is_cut_so_that_the_question_fits(self, tiny_model):
        model = tiny_model(1)
        words, document = model.tokenizer, "ship sea " * 40
        rule = ViewRule(query_tokens=3, question="after")
        room = room_of(words, 16)
        found = rule.text(words, "what is near the captain", document, room)
        assert (room, found) == (14, f"{'ship sea ' * 5}".strip() + " [SEP] what is near")
        assert len(words(found)["input_ids"]) == 16
        assert rule.text(words, "what is", "ship", room) == "ship [SEP] what is"
        assert rule.text(words, "what is", document) == f"{document} [SEP] what is"
        assert room_of(words, 16, "a ship: ") == 11
        assert room_of(words, None) is None

    def test_questions_count_once_and_the_first_are_taken(self, tiny_model):
        words = tiny_model(1).tokenizer
        rule = ViewRule(most=2, question="after")
        assert rule.texts(words, ["a", " ", "a", "of", "in"], "ship") == ["ship [SEP] a", "ship [SEP] of"]
        assert rule.texts(words, ["a"], "ship") == ["ship [SEP] a"]
        assert rule.texts(words, [], "ship") == ["ship"]
        assert replace(rule, most=0).texts(words, ["a"], "ship") == ["ship"]

    def test_bad_rules(self):
        for bad in ({"combine": "median"}, {"question": "around"}, {"most": -1}, {"query_tokens": 0}):
            with pytest.raises(ValueError, match=next(iter(bad)) if "most" not in bad else "views"):
                ViewRule(**bad)


class Listed(QuerySource):
    """Questions by document."""

    def __init__(self, found):
        self.found, self.asked = found, 0

    def of(self, data):
        self.asked += 1
        return self.found


QUESTIONS = [
    "What is the BOILING point of water?",  # the training query, but for case and punctuation
    "who discovered oxygen",
    "what is the boiling point of water at altitude",
    "Who discovered oxygen?",  # as the second
    "?!",
    "boiling point water celsius",
    "why does water boil at 100 degrees",
]
RANKED = [QUESTIONS[2], QUESTIONS[5], QUESTIONS[6], QUESTIONS[1]]
DATA = RetrievalData(
    "x",
    TextStore(["1", "2", "3"], ["water boils", "steel melts", "nothing is asked"]),
    TextStore(["a"], [GOLD]),
    {"a": {"1": 1}},
)


@pytest.fixture
def expansion(tiny_model):
    def make(found=None, room=None, **parameters):
        made = Expansion(queries=spec("TrainingQuestions"), **parameters)
        made.bind(Listed([QUESTIONS, QUESTIONS[1:], []] if found is None else found), tiny_model(1).tokenizer, 1, room)
        return made

    return make


def drawn(transform, step, steps=9, draws=60) -> list[set[str]]:
    """Per document all that many draws of a step put behind it; '' where it stands alone."""
    found = [set(), set(), set()]
    for seed in range(draws):
        positive = np.array([True, False, False])
        request = TextRequest(DATA, 0, np.arange(3), positive, step, steps, 0, np.random.default_rng(seed))
        for own, text, document in zip(found, transform.texts(request), DATA.corpus.texts, strict=True):
            assert text.startswith(document)
            own.add(text.removeprefix(document).removeprefix(" [SEP] "))
    return found


class TestCurriculum:
    def test_from_the_least_to_the_most_similar(self, expansion):
        """The first and the last of three phases; the third document has no pseudo-query."""
        transform = expansion(stem=False)
        for step, expected in {0: RANKED[2:], 2: RANKED[2:], 3: RANKED[1:2], 6: RANKED[:1], 8: RANKED[:1]}.items():
            assert drawn(transform, step) == [set(expected), set(expected), {""}]

    def test_the_list_s_query_is_never_drawn(self, expansion):
        for train_with in ("curriculum", "random", "top"):
            for step in (0, 4, 8):
                positive, negative, _ = drawn(expansion(train_with=train_with), step, draws=10)
                assert GOLD not in {" ".join(plain_words(text)) for text in positive | negative}

    def test_negatives_are_ranked_by_the_list_s_query(self, expansion):
        """And are in the same part as the positive, at every step."""
        transform = expansion(parts=4)
        for step in range(8):
            positive, negative, _ = drawn(transform, step, 8, draws=20)
            assert positive == negative == {RANKED[part(step, 8, 4) - 1]}

    def test_equal_similarities_keep_the_source_s_order(self, expansion):
        others = ["red", "blue", "Red!", "green", "white", "black"]
        transform = expansion([others, others, others], parts=5)
        assert [next(iter(drawn(transform, step, 5, 3)[0])) for step in range(5)] == [
            "black",
            "white",
            "green",
            "blue",
            "red",
        ]

    def test_stems(self, expansion):
        """With stems `boil` and `boiling` are one word: the third question comes before the second."""
        others = [["boil points", "boiling of steel"]] * 3
        for stem, best in ((True, "boil points"), (False, "boiling of steel")):
            assert drawn(expansion(others, stem=stem, parts=2), 8)[0] == {best}

    def test_the_query_of_a_list_has_stems_as_well(self, expansion):
        """Its `boiling` is the `boils` of the first question."""
        others = [["boils red", "sky over red green blue water"]] * 3
        assert drawn(expansion(others, parts=2), 8)[0] == {"boils red"}

    def test_pseudo_queries_are_cut(self, expansion):
        transform = expansion([["ship sail wave storm"]] * 3, query_tokens=2, train_with="random")
        assert drawn(transform, 0, draws=1)[0] == {"ship sail"}

    def test_the_other_ways_to_train(self, expansion):
        assert drawn(expansion(train_with="random"), 0)[:2] == [set(RANKED)] * 2
        assert drawn(expansion(train_with="top", parts=2), 0)[:2] == [set(RANKED[:2])] * 2
        assert drawn(expansion(train_with="gold"), 0) == [{GOLD}] * 3
        assert drawn(expansion(train_with="none"), 0) == [{""}] * 3

    def test_the_first_pseudo_queries_are_enough(self, expansion):
        assert drawn(expansion(train_with="random", most=3), 0)[:2] == [set(RANKED[:1]) | {RANKED[3]}] * 2

    def test_similarities_are_computed_once(self, expansion, monkeypatch):
        calls = []
        monkeypatch.setattr(capstone, "rouge_l", lambda *words: calls.append(words) or rouge_l(*words))
        transform = expansion()
        drawn(transform, 0)
        assert len(calls) == 2 * len(RANKED)
        assert transform._source.asked == 1

    def test_documents_in_search(self, expansion):
        """The first pseudo-queries of each; fewer, where there are fewer; the plain text, where there are none."""
        found = expansion([QUESTIONS, QUESTIONS[:1], []], views=2).document_views(DATA)
        assert found[0] == [f"water boils [SEP] {question}" for question in QUESTIONS[:2]]
        assert found[1:] == [[f"steel melts [SEP] {QUESTIONS[0]}"], ["nothing is asked"]]
        assert expansion(views=0).document_views(DATA) == [[text] for text in DATA.corpus.texts]
        assert expansion(views=0, train_with="none").document_views(DATA) is None

    def test_mistakes(self, expansion):
        with pytest.raises(ValueError, match="parts and most must be above 0; they are 0 and 20"):
            expansion(parts=0)
        with pytest.raises(
            ValueError, match="train_with must be one of curriculum, random, top, gold, none; it is 'gradual'"
        ):
            expansion(train_with="gradual")
        with pytest.raises(ValueError, match="combine must be one of max, mean; it is 'sum'"):
            expansion(combine="sum")
        with pytest.raises(RecipeError, match="Listed made no question of any document"):
            expansion([[], [], []]).document_views(DATA)


def test_several_sources():
    """One after the other, each question once."""
    sources = [Listed([["a", "b"], [], []]), Listed([["b", "c"], ["d"], []])]
    assert Joined(sources).of(DATA) == [["a", "b", "c"], ["d"], []]


class TestLists:
    @pytest.fixture
    def context(self, beir, tmp_path, tiny_model) -> TrainingContext:
        return TrainingContext(read_beir(beir, "train"), {}, tmp_path / "cache", tiny_model(9))

    def test_teachers_score_documents_as_they_are(self, context, tiny_model):
        """What is expanded keeps the items by which teachers' scores and vectors are kept."""
        transform = Expansion(queries={}, parts=2)
        transform.bind(Joined([TrainingQuestions(), KeySentences()]), tiny_model(1).tokenizer, 2)
        lists = build_lists(context, {"bm25": BM25Miner(depth=6)})
        lists.scores["t"] = np.arange(len(lists.rows), dtype=np.float32)
        expanded, plain = (
            opened(ListBatches(), context, lists=lists, batch_size=5, negatives=2, text=text, seed=0).batch(0)
            for text in (transform, None)
        )
        assert all(" [SEP] " in text for text in expanded.documents)
        assert expanded.teacher_scores["t"].equal(plain.teacher_scores["t"])
        seen = [expanded.documents[i].partition(" [SEP] ")[0] for i in expanded.index[expanded.mask]]
        assert seen == [plain.documents[i] for i in plain.index[plain.mask]]
        items = [expanded.document_items[i] for i in expanded.index[expanded.mask]]
        assert items == [plain.document_items[i] for i in plain.index[plain.mask]]

    def test_own_negatives_are_mined_as_search_finds_them(self, context):
        """By the mean of each document's views; and what was mined without them is not taken up."""
        miner, corpus = DenseMiner(model="student", depth=5), context.data.corpus
        plain, key = context.vectors("student", "document"), miner.key(context)
        pairs = zip(corpus.ids, corpus.texts, strict=True)
        texts = {i: [f"{text} [SEP] {word}" for word in ("ship", "oven")] for i, text in pairs}
        context.views = DocumentViews(texts, ViewRule(combine="mean"))
        assert miner.key(context) != key
        found = context.over(context.data).vectors("student", "document")
        views = context._student.encode_document([text for i in corpus.ids for text in texts[i]])
        expected = views.reshape(len(corpus), 2, -1).mean(1)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.abs(found - plain).max() > 1e-3
        context.views = DocumentViews(texts, ViewRule(combine="max"))
        assert miner.key(context) == key


@pytest.fixture
def tree(recipe_tree):
    """Two stages, of which the second one's negatives are mined by the student."""
    tree = copy.deepcopy(recipe_tree)
    options = {
        "queries": [spec("TrainingQuestions"), spec("retort.trainers.data.pseudo_queries.KeyPhrases")],
        "views": 2,
    }
    tree["stages"] = [
        stage(
            name,
            5,
            spec("Contrastive"),
            candidates=pool(source, negatives=2, text=spec(EXPANSION, parts=parts, **options)),
        )
        for name, source, parts in (("first", "bm25", 3), ("second", "own", 4))
    ]
    return tree | {"teachers": {}}


@pytest.fixture
def questions(beir):
    """Per document the questions that the sources of `tree` give."""
    data = read_beir(beir, "train")
    return dict(zip(data.corpus.ids, Joined([TrainingQuestions(), KeyPhrases()]).of(data), strict=True))


def test_a_killed_run_and_its_student(tree, beir, questions, tmp_path, monkeypatch):
    """What is served is what was measured: a vector a document, and the same ranking."""
    out, mined_by, mine = tmp_path / "whole" / "run", [], DenseMiner.mine
    with monkeypatch.context() as patch:
        patch.setattr(DenseMiner, "mine", lambda *given: mined_by.append(given[1].views.rule.combine) or mine(*given))
        metrics = run_recipe(Recipe.from_dict(tree), beir, out)
    assert mined_by == ["mean"]
    assert_comes_back(tree, beir, tmp_path, monkeypatch, everything(out), (3, 7))
    folder, dev = str(out / "student"), read_beir(beir, "dev")
    manifest = json.loads((out / "student" / "retort.json").read_text())
    assert manifest["kind"] == "multi_view"
    assert manifest["views"] == {"most": 2, "query_tokens": 32, "question": "after", "combine": "mean"}
    assert "the mean of those" in (out / "student" / "README.md").read_text()
    documents = [
        Document(id=i, content=text, meta={"questions": questions[i]})
        for i, text in zip(dev.corpus.ids, dev.corpus.texts, strict=True)
    ]
    embedder = StudentMultiViewDocumentEmbedder(model=folder, progress_bar=False)
    store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
    store.write_documents(embedder.run(documents=documents)["documents"])
    assert store.count_documents() == len(dev.corpus)
    text_embedder, retriever = StudentTextEmbedder(model=folder), StudentRetriever(document_store=store, top_k=40)
    rankings = {}
    for name, text in zip(dev.queries.ids, dev.queries.texts, strict=True):
        asked = text_embedder.run(text=text)
        found = retriever.run(query_embedding=asked["embedding"], space=asked["space"])["documents"]
        rankings[name] = [d.id for d in found if d.id != name]
    retriever.close()
    measured = metrics["dev"]["student"]["ndcg@10"]
    assert mean(per_query(rankings, dev.qrels))["ndcg@10"] == pytest.approx(measured, abs=1e-6)
    # Loaded with other lengths, it still knows how it sees documents.
    cut = Student.load(folder, max_document_tokens=12)
    assert (cut.manifest.kind, cut.manifest.view_rule) == ("multi_view", ViewRule.of(manifest["views"]))


def test_plain_documents(tree, beir, tmp_path):
    """The baseline of an experiment, by values alone: a student like any other."""
    for one in tree["stages"]:
        one["candidates"]["text"]["init_parameters"] |= {"train_with": "none", "views": 0}
    found = run_recipe(Recipe.from_dict(tree), beir, tmp_path / "none" / "run")
    manifest = Manifest.read(tmp_path / "none" / "run" / "student")
    assert (manifest.kind, manifest.views) == ("dense", {})
    for one in tree["stages"]:
        del one["candidates"]["text"]
    plain = run_recipe(Recipe.from_dict(tree), beir, tmp_path / "plain" / "run")
    assert found["training"] == plain["training"]


def test_sources_may_keep_what_they_pay_for(tree, beir, tmp_path, monkeypatch):
    """They are opened in the cache folder, before they are asked."""
    opened_in = []
    monkeypatch.setattr(TrainingQuestions, "open", lambda _, context, number: opened_in.append((context.cache, number)))
    build_recipe(Recipe.from_dict(tree), read_beir(beir, "train"), tmp_path / "cache")
    assert opened_in == [(tmp_path / "cache", 0)] * 2


def test_a_sparse_student_is_refused(tree, beir, tmp_path, trunk):
    tree["student"] = spec("sparse", trunk=trunk, layers=[0], max_tokens={"query": 16, "document": 32})
    tree["stages"] = tree["stages"][:1]
    with pytest.raises(RecipeError, match="a sparse student cannot be served with questions"):
        run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"parts": 0}, "parts: must be above 0"),
        ({"views": -1}, "views: must be at least 0"),
        ({"train_with": "gradual"}, "train_with: must be curriculum"),
        ({"queries": [spec("KeyErrors")]}, r"candidates.text.init_parameters.queries.0.type"),
        ({"queries": [{"kind": "x"}]}, r"candidates.text.init_parameters.queries.0"),
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

    @pytest.fixture(scope="class")
    def averaging(self, tiny_model, tmp_path_factory) -> str:
        path = tmp_path_factory.mktemp("students") / "mean"
        rule = ViewRule(most=2, query_tokens=4, question="after", combine="mean")
        save_student(tiny_model(1), path, kind="multi_view", views=asdict(rule))
        return str(path)

    def vectors(self, student, *texts):
        return mean_of_views(student.encode_document(list(texts)), np.array([0]), student.manifest.similarity)[0]

    def test_one_vector_a_document(self, averaging):
        """As the manifest says: no view of its own, and the document's own id."""
        embedder = StudentMultiViewDocumentEmbedder(model=averaging, progress_bar=False)
        found = embedder.run(documents=list(self.DOCUMENTS))["documents"]
        assert [d.id for d in found] == ["a", "b"]
        assert all("_retort_view_of" not in d.meta for d in found)
        student = Student.load(averaging)
        a = self.vectors(student, "the ship in the sea [SEP] what is near the", "the ship in the sea [SEP] the captain")
        np.testing.assert_allclose(found[0].embedding, a, atol=1e-6)
        np.testing.assert_allclose(found[1].embedding, self.vectors(student, "bread"), atol=1e-6)
        assert found[0].meta["_retort_space"] == student.space
        assert embedder.run(documents=[])["documents"] == []

    def test_parameters_come_before_the_manifest(self, averaging, tiny_student):
        best = StudentMultiViewDocumentEmbedder(model=averaging, combine="max", progress_bar=False)
        assert [d.id for d in best.run(documents=list(self.DOCUMENTS))["documents"]] == ["a", "a#1", "b"]
        one = StudentMultiViewDocumentEmbedder(model=averaging, views=1, query_tokens=1, progress_bar=False)
        found = one.run(documents=list(self.DOCUMENTS))["documents"]
        expected = self.vectors(Student.load(averaging), "the ship in the sea [SEP] what")
        np.testing.assert_allclose(found[0].embedding, expected, atol=1e-6)
        # An old manifest says nothing: views as they were, which may be averaged as well.
        old = StudentMultiViewDocumentEmbedder(model=tiny_student, combine="mean", progress_bar=False)
        found = old.run(documents=list(self.DOCUMENTS))["documents"]
        texts = [f"{q} [SEP] the ship in the sea" for q in self.DOCUMENTS[0].meta["questions"]]
        np.testing.assert_allclose(found[0].embedding, self.vectors(Student.load(tiny_student), *texts), atol=1e-6)

    def test_saved_yaml_goes_on_loading(self, tiny_student):
        embedder = StudentMultiViewDocumentEmbedder(model=tiny_student, combine="mean")
        data = component_to_dict(embedder, "c")
        assert data["init_parameters"]["combine"] == "mean"
        old = copy.deepcopy(data)
        del old["init_parameters"]["combine"]
        old["init_parameters"] |= {"views": 10, "query_tokens": 16}
        again = component_from_dict(StudentMultiViewDocumentEmbedder, old, "c")
        assert (again.views, again.query_tokens, again.combine) == (10, 16, None)
        with pytest.raises(ValueError, match="combine must be one of max, mean; it is 'sum'"):
            StudentMultiViewDocumentEmbedder(combine="sum")

    def test_a_manifest_with_a_rule_that_cannot_be(self, averaging, tmp_path):
        content = json.loads((Path(averaging) / "retort.json").read_text())
        content["views"] = {"combine": "median", "unknown": 1}
        (tmp_path / "retort.json").write_text(json.dumps(content))
        with pytest.raises(
            ManifestError, match=r"retort.json: not a valid manifest .*combine must be one of max, mean"
        ):
            Manifest.read(tmp_path)
        content["views"] = {"combine": "mean", "unknown": 1}
        (tmp_path / "retort.json").write_text(json.dumps(content))
        assert Manifest.read(tmp_path).view_rule == ViewRule(combine="mean")

    def test_the_card_averages(self, averaging):
        card = model_card(Manifest.read(Path(averaging)))
        assert "views.mean(0, keepdims=True)" in card
        assert 'f"a document that answers it {model.tokenizer.sep_token} a question"' in card


def test_vectors_of_documents_without_views():
    corpus = TextStore(["1", "2"], ["a", "b"])
    vectors, starts = document_vectors(corpus, lambda texts: np.array([[len(t), ord(t)] for t in texts]), "dot")
    assert (vectors.tolist(), starts) == ([[1, 97], [1, 98]], None)
