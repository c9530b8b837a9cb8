# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Teachers that score lists: any ranker and retriever of Haystack, cross-encoders, given scores; and their store."""

import copy
import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from filelock import FileLock
from haystack import Document
from scipy.sparse import csr_array
from tiny import pool, spec, stage
from tiny_components import WordRanker, overlap

from retort.students import Ranker, save_student
from retort.students.create import ranker as make_ranker
from retort.trainers.candidates.bm25 import BM25Miner
from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.candidates.mining import build_lists
from retort.trainers.candidates.retriever import RetrieverMiner
from retort.trainers.context import TrainingContext
from retort.trainers.data.beir import read_beir
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.recipe import Recipe
from retort.trainers.roles import Ask
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError, TeacherError
from retort.trainers.search import search_vectors
from retort.trainers.teachers.bm25 import BM25Teacher
from retort.trainers.teachers.cross_encoder import CrossEncoderTeacher
from retort.trainers.teachers.given import GivenTeacher
from retort.trainers.teachers.ranker import RankerTeacher
from retort.trainers.teachers.retriever import RetrieverTeacher
from retort.trainers.teachers.score_store import ScoreStore

ST_RANKER = (
    "haystack_integrations.components.rankers.sentence_transformers."
    "sentence_transformers_similarity.SentenceTransformersSimilarityRanker"
)
OUR_RANKER = "haystack_integrations.components.rankers.retort.student_ranker.StudentRanker"
ASK = Ask("q", "the ship in the harbour", ["a", "b", "c"], ["bread and butter", "a ship", "the ship in the harbour"])


def words(**parameters) -> dict:
    return {"type": "tiny_components.WordRanker", "init_parameters": parameters}


def word_teacher(**parameters) -> RankerTeacher:
    return RankerTeacher(ranker=words(**parameters), allowed_modules=["tiny_components"])


@pytest.fixture(autouse=True)
def _fresh():
    WordRanker.calls.clear()


@pytest.fixture
def context(beir, tmp_path):
    return TrainingContext(read_beir(beir, "train"), {}, tmp_path / "cache")


@pytest.fixture
def lists(context) -> CandidateLists:
    return build_lists(context, {"bm25": BM25Miner(depth=4)})


def scores_of(context, name, lists, wanted) -> np.ndarray:
    found = np.full(len(lists.rows), np.nan, dtype=np.float32)
    found[wanted] = context.scores(name, lists.owners[wanted], lists.rows[wanted])
    return found


def everything(lists: CandidateLists) -> np.ndarray:
    return np.ones(len(lists.rows), dtype=bool)


class TestRankerTeacher:
    def test_matches_by_id_not_by_place(self):
        (scores,) = word_teacher().score([ASK])
        assert scores.tolist() == pytest.approx([overlap(ASK.query, text) for text in ASK.documents])

    def test_asks_for_raw_scores_of_all(self, tiny_ranker):
        """The component's own defaults would scale, and cut at 10."""
        texts = [f"{'ship ' * i}bread" for i in range(12)]
        ask = Ask("q", "a ship", [str(i) for i in range(12)], texts)
        expected = Ranker.load(tiny_ranker).score([(ask.query, text) for text in texts])
        for kind in (ST_RANKER, OUR_RANKER):
            (found,) = RankerTeacher(ranker={"type": kind, "init_parameters": {"model": tiny_ranker}}).score([ask])
            np.testing.assert_allclose(found, expected, atol=1e-5)

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            ("cuts", r"asked to rank 3 documents for the query 'the ship in the harbour', left out 1: a\. .* top_k"),
            ("twice", "gave some of them twice: c"),
            ("nan", r"not finite: c \(nan\)"),
            ("some", "gave a score to 2; it must score all documents of all lists, or none"),
            ("others", "gave others: elsewhere"),
            ("nothing", "WordRanker answered the query 'the ship in the harbour' with no list of Document .*: None"),
            ("dicts", "WordRanker answered the query 'the ship in the harbour' with no list of Document as documents"),
            ("words", r"WordRanker answered the query 'the ship in the harbour' with a score .*: c \('high'\)"),
        ],
    )
    def test_bad_answers_are_refused(self, fault, message):
        with pytest.raises(TeacherError, match=message):
            list(word_teacher(fault=fault).score([ASK]))

    def test_an_order_without_scores(self):
        teacher = word_teacher(fault="ranks")
        (scores,) = teacher.score([ASK])
        assert scores.tolist() == [-2.0, -1.0, 0.0]
        assert teacher.gives == "ranks"

    def test_told_to_scale_and_cut(self, tiny_ranker):
        """What the call can overrule is overruled; what it cannot must be set right."""
        init = {"model": tiny_ranker, "scale_score": True, "score_threshold": 0.9, "top_k": 1}
        (found,) = RankerTeacher(ranker={"type": ST_RANKER, "init_parameters": init}).score([ASK])
        expected = Ranker.load(tiny_ranker).score([(ASK.query, text) for text in ASK.documents])
        np.testing.assert_allclose(found, expected, atol=1e-5)
        spec = {"type": "tiny_components.StubbornRanker", "init_parameters": {}}
        for given, message in (
            ({}, "set scale_score: false"),
            ({"scale_score": False, "score_threshold": 0.5}, "set score_threshold: null"),
        ):
            with pytest.raises(RecipeError, match=message):
                RankerTeacher(ranker=spec | {"init_parameters": given}, allowed_modules=["tiny_components"])
        right = spec | {"init_parameters": {"scale_score": False}}
        (scores,) = RankerTeacher(ranker=right, allowed_modules=["tiny_components"]).score([ASK])
        assert scores.tolist() == pytest.approx([overlap(ASK.query, text) for text in ASK.documents])

    def test_squashed_scores_are_noticed(self, caplog):
        with caplog.at_level(logging.WARNING):
            list(word_teacher(fault="squashed").score([ASK, ASK]))
        assert [r.message for r in caplog.records if "may be squashed" in r.message] != []
        assert len(caplog.records) == 1

    def test_no_ranker(self, tiny_student):
        kind = "haystack_integrations.components.embedders.retort.student_text_embedder.StudentTextEmbedder"
        with pytest.raises(RecipeError, match="is no ranker: its run takes text"):
            RankerTeacher(ranker={"type": kind, "init_parameters": {"model": tiny_student}})

    def test_retries_remote_calls_only(self, monkeypatch):
        naps = []
        monkeypatch.setattr("retort.trainers.teachers.calls._wait", lambda seconds, _: naps.append(seconds))
        spec = {"type": "tiny_components.RemoteRanker", "init_parameters": {"failures": 3}}
        with pytest.raises(RecipeError, match="name a `revision`"):
            RankerTeacher(ranker=spec, allowed_modules=["tiny_components"])
        teacher = RankerTeacher(ranker=spec, revision="v1", allowed_modules=["tiny_components"])
        (scores,) = teacher.score([ASK])
        assert scores.tolist() == pytest.approx([overlap(ASK.query, text) for text in ASK.documents])
        assert len(naps) == 3
        with pytest.raises(TeacherError, match="failed on the query .*: the line is dead"):
            list(word_teacher(fails_after=0).score([ASK]))
        assert len(naps) == 3

    def test_several_calls_at_a_time_keep_their_order(self):
        asks = [Ask(str(i), f"ship number {i}", ["a", "b"], [f"number {i}", "bread"]) for i in range(20)]
        teacher = RankerTeacher(ranker=words(), concurrency=4, allowed_modules=["tiny_components"])
        for ask, scores in zip(asks, teacher.score(asks), strict=True):
            assert scores.tolist() == pytest.approx([overlap(ask.query, text) for text in ask.documents])

    def test_key_follows_the_files_under_a_path(self, trunk, tmp_path):
        path = str(tmp_path / "r")
        save_student(make_ranker(trunk, seed=1), path)
        spec = {"type": ST_RANKER, "init_parameters": {"model": path}}
        first = RankerTeacher(ranker=spec).key
        assert RankerTeacher(ranker=spec).key == first
        save_student(make_ranker(trunk, seed=2), path)
        assert RankerTeacher(ranker=spec).key != first


class TestScoreStore:
    def test_asks_once(self, context, lists):
        context.teachers["words"] = word_teacher()
        found = scores_of(context, "words", lists, everything(lists))
        corpus, queries = context.data.corpus, context.data.queries
        expected = [overlap(queries.texts[q], corpus.texts[d]) for q, d in zip(lists.owners, lists.rows, strict=True)]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        asked = len(WordRanker.calls)
        assert asked == len(queries)
        assert np.array_equal(scores_of(context, "words", lists, everything(lists)), found)
        assert len(WordRanker.calls) == asked

    def test_only_what_is_wanted(self, context, lists):
        context.teachers["words"] = word_teacher()
        wanted = np.arange(len(lists.rows)) % 3 == 0
        found = scores_of(context, "words", lists, wanted)
        assert np.array_equal(np.isfinite(found), wanted)

    def test_an_error_midway_keeps_what_was_scored(self, context, lists, monkeypatch):
        monkeypatch.setattr("retort.trainers.teachers.score_store.BLOCK", 20)
        context.teachers["words"] = word_teacher(fails_after=11)
        with pytest.raises(TeacherError, match=r"the line is dead Kept: \d+ scores; .* --resume") as error:
            scores_of(context, "words", lists, everything(lists))
        kept = int(str(error.value).split("Kept: ")[1].split()[0])
        sizes = np.diff(lists.offsets)
        assert kept >= 11 * sizes.min()
        before = list(WordRanker.calls)
        assert len(before) == 11
        # The same component without the fault: another key, so its store is put in the place of the first.
        whole = word_teacher()
        cache = context.cache / "scores"
        shutil.move(cache / context.teachers["words"].key, cache / whole.key)
        context.teachers["words"] = whole
        found = scores_of(context, "words", lists, everything(lists))
        assert np.isfinite(found).all()
        assert len(WordRanker.calls) == len(context.data.queries)  # each query once over both runs
        assert not set(before) & set(WordRanker.calls[11:])

    def test_a_changed_teacher_is_asked_anew(self, context, lists, trunk, tmp_path):
        path = str(tmp_path / "r")
        found = []
        for seed in (1, 2):
            save_student(make_ranker(trunk, layers=[0], seed=seed), path)
            spec = {"type": OUR_RANKER, "init_parameters": {"model": path}}
            context.teachers["ranker"] = RankerTeacher(ranker=spec)
            found.append(scores_of(context, "ranker", lists, everything(lists)))
            pairs = [
                (context.data.queries.texts[q], context.data.corpus.texts[d])
                for q, d in zip(lists.owners, lists.rows, strict=True)
            ]
            np.testing.assert_allclose(found[-1], Ranker.load(path).score(pairs), atol=1e-5)
        assert not np.allclose(*found)

    def test_lists_of_ranks_are_asked_for_as_a_whole(self, context, lists):
        context.teachers["words"] = word_teacher(fault="ranks")
        first = np.arange(len(lists.rows)) % 2 == 0
        scores_of(context, "words", lists, first)
        assert context.kinds["words"] == "ranks"
        found = scores_of(context, "words", lists, everything(lists))
        for start, end in zip(lists.offsets, lists.offsets[1:], strict=False):
            assert sorted(-found[start:end]) == list(range(end - start))

    def test_ranks_of_several_lists_are_not_mixed(self, context, lists):
        """A list that is the union of two is asked for; and so is one whose documents stand in both."""
        context.teachers["words"] = word_teacher(fault="ranks")
        odd = np.arange(len(lists.rows)) % 2 == 1
        scores_of(context, "words", lists, odd)
        scores_of(context, "words", lists, ~odd)
        for wanted in (everything(lists), np.arange(len(lists.rows)) % 3 > 0):
            found = scores_of(context, "words", lists, wanted)
            for start, end in zip(lists.offsets, lists.offsets[1:], strict=False):
                own = found[start:end][wanted[start:end]]
                assert len(set(own)) == len(own)

    def test_one_writer(self, context, lists):
        """Another waits for it, and has nothing left to do."""
        stores = [ScoreStore(context.cache, word_teacher().key) for _ in range(2)]
        wanted = (context.data, lists.owners, lists.rows, lambda n: None)
        stores[0].folder.mkdir(parents=True)
        with ThreadPoolExecutor(2) as pool:
            with FileLock(stores[0].folder / ".lock"):
                both = [pool.submit(store.fill, word_teacher(), *wanted) for store in stores]
                assert not any(one.done() for one in both)
            assert sorted(one.result() for one in both)[0] == 0

    def test_interrupted_blocks_are_the_same_blocks(self, context, lists, monkeypatch, tiny_ranker, tmp_path):
        """A local cross-encoder's last digits depend on what it scores together: fixed blocks keep them."""
        monkeypatch.setattr("retort.trainers.teachers.score_store.BLOCK", 20)
        teacher = CrossEncoderTeacher(model=tiny_ranker, device="cpu")
        whole = ScoreStore(tmp_path / "a", "k")
        whole.fill(teacher, context.data, lists.owners, lists.rows, lambda n: None)
        real, blocks = teacher.score, []

        def dying(asks):
            blocks.append(asks)
            if len(blocks) == 3:
                raise KeyboardInterrupt
            return real(asks)

        monkeypatch.setattr(teacher, "score", dying)
        killed = ScoreStore(tmp_path / "b", "k")
        with pytest.raises(KeyboardInterrupt):
            killed.fill(teacher, context.data, lists.owners, lists.rows, lambda n: None)
        ScoreStore(tmp_path / "b", "k").fill(teacher, context.data, lists.owners, lists.rows, lambda n: None)
        names = sorted(p.name for p in whole.folder.glob("*.parquet"))
        assert len(names) > 3
        assert names == sorted(p.name for p in killed.folder.glob("*.parquet"))
        assert all((whole.folder / n).read_bytes() == (killed.folder / n).read_bytes() for n in names)


BM25 = {
    "type": "haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever",
    "init_parameters": {
        "document_store": {
            "type": "haystack.document_stores.in_memory.document_store.InMemoryDocumentStore",
            "init_parameters": {"bm25_algorithm": "BM25Plus"},
        }
    },
}


def test_scores_of_a_corpus_outlive_other_queries_and_judgements(context, lists, monkeypatch):
    """Of teachers that depend on the corpus; given scores are the data's own."""
    context.teachers["bm25"] = BM25Teacher()
    asked, real = [], BM25Teacher.score
    monkeypatch.setattr(BM25Teacher, "score", lambda self, asks: asked.extend(asks) or real(self, asks))
    first = scores_of(context, "bm25", lists, everything(lists))
    calls = len(asked)
    data = context.data
    for other in (data.subset(range(len(data.queries))), replace(data, qrels=data.qrels | {"x": {"d": 1}})):
        assert np.array_equal(scores_of(context.over(other), "bm25", lists, everything(lists)), first)
    assert len(asked) == calls
    teacher, changed = GivenTeacher(), replace(data, given={"q": {"d": 1.0}})
    assert teacher.data_key(data) != teacher.data_key(changed)
    assert BM25Teacher().data_key(data) == BM25Teacher().data_key(changed)


def test_scores_of_sparse_vectors_are_those_that_search_compares(context):
    queries, documents = csr_array([[3.0, 4.0, 0.0]]), csr_array([[6.0, 8.0, 0.0], [0.0, 5.0, 12.0]])
    for similarity in ("cosine", "dot"):
        context.vectors = lambda _, side: queries if side == "query" else documents
        context.similarity = lambda _, own=similarity: own
        rows, expected = search_vectors(queries, documents, 2, similarity=similarity)
        found = context.scores("student", np.zeros(2, dtype=int), rows[0])
        np.testing.assert_allclose(found, expected[0], rtol=1e-6)


class TestRetriever:
    def test_mines_an_index_that_it_fills(self, context):
        found = build_lists(context, {"theirs": RetrieverMiner(retriever=BM25, depth=5)})
        best, _ = RetrieverMiner(retriever=BM25, depth=5).mine(context, context.data.queries)
        for query, rows in enumerate(best[:, :3]):
            topic = context.data.queries.texts[query].rsplit(maxsplit=1)[-1].strip("?")
            assert topic in context.data.corpus.texts[rows[0]]
        assert len(found.rows) > len(context.data.queries)

    def test_fewer_than_asked_for(self, context):
        rows, scores = RetrieverMiner(retriever=BM25, depth=60).mine(context, context.data.queries)
        short = rows[:, -1] == -1  # the corpus has 40 documents
        assert short.all()
        assert np.isnan(scores[:, -1]).all()
        lists = build_lists(context, {"theirs": RetrieverMiner(retriever=BM25, depth=60)})
        assert lists.rows.min() >= 0

    @pytest.mark.parametrize("documents", [None, [{"id": "a"}], [Document(id="a", score="high")]])
    def test_answers_of_another_kind(self, context, monkeypatch, documents):
        miner = RetrieverMiner(retriever=BM25, depth=5)
        component = miner._retriever._components.warm["retriever"]
        monkeypatch.setattr(component, "run", lambda **_: {"documents": documents})
        with pytest.raises(TeacherError, match="InMemoryBM25Retriever answered the query '.*' with"):
            miner.mine(context, context.data.queries)

    def test_embedding_retriever_and_teacher(self, context, lists, tiny_student):
        kind = "haystack_integrations.components.embedders.retort.student_{0}_embedder.Student{1}Embedder"
        store = {
            "type": "haystack.document_stores.in_memory.document_store.InMemoryDocumentStore",
            "init_parameters": {"embedding_similarity_function": "cosine"},
        }
        spec = {
            "retriever": {
                "type": "haystack.components.retrievers.in_memory.embedding_retriever.InMemoryEmbeddingRetriever",
                "init_parameters": {"document_store": store},
            },
            "text_embedder": {"type": kind.format("text", "Text"), "init_parameters": {"model": tiny_student}},
            "document_embedder": {
                "type": kind.format("document", "Document"),
                "init_parameters": {"model": tiny_student},
            },
        }
        context.teachers["theirs"] = RetrieverTeacher(**spec, depth=10)
        found = scores_of(context, "theirs", lists, everything(lists))
        from retort.students import Student

        student = Student.load(tiny_student)
        q, d = student.encode_query(context.data.queries.texts), student.encode_document(context.data.corpus.texts)
        expected = (q @ d.T)[lists.owners, lists.rows]
        retrieved = np.isfinite(found)
        assert 0 < retrieved.sum() < len(found)
        np.testing.assert_allclose(found[retrieved], expected[retrieved], atol=1e-5)
        depth = np.sort(q @ d.T, axis=1)[:, -10]
        assert np.array_equal(retrieved, expected >= depth[lists.owners] - 1e-6)
        del spec["text_embedder"]
        with pytest.raises(RecipeError, match="takes an embedding; name the text_embedder"):
            RetrieverTeacher(**spec)

    def test_a_fill_that_was_interrupted_goes_on(self, context, tmp_path, tiny_student, monkeypatch):
        monkeypatch.setattr("retort.trainers.candidates.retriever.WRITE_BLOCK", 16)
        ours = "haystack_integrations.components.{0}.retort"
        store = {
            "type": "haystack_integrations.document_stores.retort.qdrant_edge_document_store.QdrantEdgeDocumentStore",
            "init_parameters": {"path": str(tmp_path / "index")},
        }
        retriever = f"{ours.format('retrievers')}.student_retriever.StudentRetriever"
        embedder = f"{ours.format('embedders')}.student_{{0}}_embedder.Student{{1}}Embedder"
        spec = {
            "retriever": {"type": retriever, "init_parameters": {"document_store": store}},
            "text_embedder": {"type": embedder.format("text", "Text"), "init_parameters": {"model": tiny_student}},
            "document_embedder": {
                "type": embedder.format("document", "Document"),
                "init_parameters": {"model": tiny_student},
            },
        }
        miner = RetrieverMiner(**copy.deepcopy(spec), depth=30)
        key = miner.key(context)
        made = miner._retriever._components
        real, blocks = made.warm["document_embedder"].run, []

        def dying(documents):
            blocks.append(documents)
            if len(blocks) == 2:
                raise KeyboardInterrupt
            return real(documents=documents)

        monkeypatch.setattr(made.warm["document_embedder"], "run", dying)
        with pytest.raises(KeyboardInterrupt):
            miner.mine(context, context.data.queries)
        made["retriever"].document_store.close()
        again = RetrieverMiner(**copy.deepcopy(spec), depth=40)
        assert (
            RetrieverMiner(**copy.deepcopy(spec), depth=30).key(context) == key
        )  # an index that is used is the same index
        rows, _ = again.mine(context, context.data.queries)
        assert len(np.unique(rows)) == len(context.data.corpus) == 40
        again._retriever._components["retriever"].document_store.close()

    def test_an_index_of_something_else(self, context, tmp_path):
        miner = RetrieverMiner(retriever=BM25, depth=5)
        miner.mine(context, context.data.queries)
        other = TextStore(["x"], ["the ship"])
        elsewhere = TrainingContext(RetrievalData("other", other, context.data.queries), {}, tmp_path / "other")
        with pytest.raises(TeacherError, match="which is not in the corpus"):
            miner.mine(elsewhere, context.data.queries)


def test_bm25_teaches_what_it_finds(context, lists):
    own = TrainingContext(context.data, {"bm25": BM25Teacher()}, context.cache)
    found = scores_of(own, "bm25", lists, everything(lists))
    rows, scores = context.bm25.search(context.data.queries.texts, 40)
    expected = [dict(zip(r, s, strict=True)) for r, s in zip(rows.tolist(), scores.tolist(), strict=True)]
    wanted = [expected[q][d] for q, d in zip(lists.owners.tolist(), lists.rows.tolist(), strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert found.max() > found.min() >= 0


def test_bm25_of_another_language_has_scores_of_its_own():
    """English corpora keep those that they have."""
    german = ["Der Hund ist in dem Haus und die Katze ist auf dem Dach", "Das ist nicht der Hund, und es ist spät"]
    for texts, own in ((german, " german"), (["the dog is in the house", "a cat on the roof"], "")):
        corpus = TextStore(map(str, range(len(texts))), texts)
        assert BM25Teacher().data_key(RetrievalData("d", corpus, corpus)) == corpus.hash + own
    assert BM25Teacher().key == "bm25-0.9-0.4"


def test_bm25_scores_the_corpus_that_it_was_opened_for_last(context):
    teacher, ids = BM25Teacher(), ["a", "b"]
    queries = context.data.queries
    asks = [Ask("q", "ship", ids, ["", ""])]
    for texts, best in ((["the ship", "bread", "butter"], 0), (["bread", "the ship", "butter"], 1)):
        data = RetrievalData("one", TextStore([*ids, "c"], texts), queries)
        teacher.open(data)
        assert next(teacher.score(asks)).argmax() == best
        index = teacher._index
        teacher.open(replace(data, qrels={"x": {"a": 1}}))  # the same corpus
        assert teacher._index is index


def test_given_scores(context, lists):
    with pytest.raises(TeacherError, match="gives no scores"):
        GivenTeacher().open(context.data)
    query = context.data.queries.ids[0]
    inside = [context.data.corpus.ids[r] for r in lists.rows[: lists.offsets[1]]]
    data = RetrievalData(
        context.data.name,
        context.data.corpus,
        context.data.queries,
        context.data.qrels,
        given={query: {inside[1]: 2.5}},
    )
    own = TrainingContext(data, {"given": GivenTeacher()}, context.cache)
    found = scores_of(own, "given", lists, everything(lists))
    assert found[1] == 2.5
    assert np.isfinite(found).sum() == 1


class TestTraining:
    """Students trained from rankers of every kind."""

    @pytest.fixture
    def tree(self, recipe_tree):
        objectives = [spec("ListwiseKL"), spec("MarginMSE", weight=0.1), spec("RankNet", weight=0.1)]
        distil = stage("distil", 4, *objectives, teacher="ranker", candidates=pool("bm25", negatives=3))
        return recipe_tree | {"stages": [distil]}

    def run(self, tree, ranker, beir, out, **options) -> dict:
        tree = tree | {"teachers": {"ranker": spec("RankerTeacher", ranker=ranker)}}
        return run_recipe(Recipe.from_dict(tree, **options), beir, out)

    @pytest.mark.parametrize("kind", [ST_RANKER, OUR_RANKER])
    def test_a_ranker_given_by_yaml(self, tree, kind, tiny_ranker, beir, tmp_path):
        metrics = self.run(tree, spec(kind, model=tiny_ranker), beir, tmp_path / "x" / "run")
        lists = CandidateLists.load(tmp_path / "x" / "run" / "candidates" / "distil.parquet", read_beir(beir, "train"))
        assert metrics["training"]["global_step"] == 4
        scored = np.isfinite(lists.scores["ranker"])
        assert 0 < scored.sum() < len(lists.rows)  # only what the four steps use
        manifest = json.loads((tmp_path / "x" / "run" / "student" / "retort.json").read_text())
        assert manifest["teachers"][0]["init_parameters"]["ranker"]["type"] == kind

    def test_a_ranker_that_somebody_wrote(self, tree, beir, tmp_path):
        out = tmp_path / "x" / "run"
        self.run(tree, words(), beir, out, allow=["tiny_components"])
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        assert {"listwise_kl", "margin_mse", "rank_net"} <= log[1]["terms"].keys()
        with pytest.raises(RecipeError, match=r"teachers.ranker .*If you trust it, pass --allow tiny_components"):
            self.run(tree, words(), beir, tmp_path / "y" / "run")

    def test_a_run_goes_on_from_the_scores_that_were_kept(self, tree, beir, tmp_path, monkeypatch):
        out = tmp_path / "x" / "run"
        monkeypatch.setattr(WordRanker, "dies_after", 7)
        with pytest.raises(TeacherError, match="Kept"):
            self.run(tree, words(), beir, out, allow=["tiny_components"])
        before = len(WordRanker.calls)
        monkeypatch.setattr(WordRanker, "dies_after", None)
        tree = tree | {"teachers": {"ranker": spec("RankerTeacher", ranker=words())}}
        run_recipe(Recipe.from_dict(tree, allow=["tiny_components"]), beir, out, resume=True)
        assert before == 7
        assert len(set(WordRanker.calls)) == len(WordRanker.calls)  # nobody was asked twice

    def test_ranks_suit_order_objectives_only(self, tree, beir, tmp_path):
        with pytest.raises(RecipeError, match=r"gives an order without scores, and ListwiseKL, MarginMSE needs scores"):
            self.run(tree, words(fault="ranks"), beir, tmp_path / "x" / "run", allow=["tiny_components"])
        tree["stages"][0]["objectives"] = [spec("RankNet", extra_teachers={"ranker": 1.0})]
        with pytest.raises(RecipeError, match="and RankNet needs scores"):  # ranks cannot be added to anything
            self.run(tree, words(fault="ranks"), beir, tmp_path / "z" / "run", allow=["tiny_components"])
        tree["stages"][0]["objectives"] = [spec("RankNet"), spec("ListMLE")]
        metrics = self.run(tree, words(fault="ranks"), beir, tmp_path / "y" / "run", allow=["tiny_components"])
        assert metrics["training"]["global_step"] == 4

    def test_scores_do_not_serve_where_vectors_are_needed(self, tree, beir, tmp_path):
        tree["stages"][0]["objectives"] = [spec("Alignment")]
        with pytest.raises(RecipeError, match="Alignment needs vectors, and teacher 'ranker' scores lists"):
            self.run(tree, words(), beir, tmp_path / "x" / "run", allow=["tiny_components"])
