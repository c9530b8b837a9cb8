# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Texts are known by what they say: known positives and the query itself are never negatives; misses are no hits."""

import json
import unicodedata
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import TOPICS, opened, pool, recipe, spec, stage

from retort.trainers import losses
from retort.trainers.batches.lists import ListBatches
from retort.trainers.build import build_recipe
from retort.trainers.candidates.bm25 import BM25Miner
from retort.trainers.candidates.dense import DenseMiner
from retort.trainers.candidates.given import GivenMiner
from retort.trainers.candidates.mining import build_lists, mine
from retort.trainers.candidates.retriever import RetrieverMiner
from retort.trainers.candidates.sparse import SparseMiner
from retort.trainers.context import TrainingContext
from retort.trainers.data.pseudo_queries import TrainingQuestions
from retort.trainers.data.splits import read_train_and_dev
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.evaluation.dev import dev_sample, dev_sampler, ranker_sample
from retort.trainers.evaluation.metrics import per_query
from retort.trainers.evaluation.rank import (
    DEPTH,
    evaluate_bm25,
    evaluate_model,
    evaluate_ranker,
    evaluate_vectors,
    rerank,
)
from retort.trainers.methods.prod import ConfusingQueries
from retort.trainers.objectives import judged
from retort.trainers.recipe import DataSection, Recipe, TrainingSection
from retort.trainers.roles import Derived, TextTransform
from retort.trainers.runtime.rng import rng_for
from retort.trainers.search import search_vectors
from retort.trainers.stages import _with_queries, open_stage
from retort.trainers.teachers.bi_encoder import BiEncoderTeacher

QUESTION = "what is the ship near the café?"
MISSES = ["this is the", "zeppelin", "корабль в море", "船"]  # stop words, unknown words, other scripts


@pytest.fixture
def data() -> RetrievalData:
    """
    One question under two ids and two spellings, each with a positive of its own, `one` and `two`.

    The first documents are a copy of a positive, and the question itself; of the misses no word is in the corpus.
    """
    others = {
        f"{topic}{i}": f"the {word} in the {topic}" for topic, w in TOPICS.items() for i, word in enumerate(w.split())
    }
    texts = {
        "copy": unicodedata.normalize("NFD", "the captain of the ship, in the café"),
        "itself": unicodedata.normalize("NFD", QUESTION),
        "one": "the captain of the ship, in the café",
        "two": "a ship in the harbour",
        **others,
    }
    asked = {"a": QUESTION, "b": unicodedata.normalize("NFD", QUESTION), "bread": "bread in the oven"}
    asked |= {f"miss{i}": text for i, text in enumerate(MISSES)}
    qrels = {"a": {"one": 1, "two": 0}, "b": {"two": 1, "itself": 0}, "bread": {"kitchen0": 1}}
    given = {"a": dict.fromkeys(texts, float("nan"))}
    return RetrievalData("d", TextStore(texts, texts.values()), TextStore(asked, asked.values()), qrels, given)


@pytest.fixture
def context(data, tiny_student, tiny_model, tmp_path) -> TrainingContext:
    teacher = BiEncoderTeacher(model=tiny_student, device="cpu")
    return TrainingContext(data, {"teacher": teacher}, tmp_path / "cache", tiny_model(9))


MINERS = {
    "bm25": lambda _: BM25Miner(depth=50),
    "teacher": lambda _: DenseMiner(model="teacher", depth=50),
    "student": lambda _: DenseMiner(model="student", depth=50),
    "sparse": lambda folder: SparseMiner(model=folder, depth=50),
    "given": lambda _: GivenMiner(),
    "retriever": lambda _: in_memory("BM25L"),
}


def in_memory(algorithm: str) -> RetrieverMiner:
    """Haystack's own BM25."""
    store = {
        "type": "haystack.document_stores.in_memory.document_store.InMemoryDocumentStore",
        "init_parameters": {"bm25_algorithm": algorithm},
    }
    kind = "haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever"
    return RetrieverMiner(retriever={"type": kind, "init_parameters": {"document_store": store}}, depth=50)


def names(data: RetrievalData, rows: np.ndarray) -> list[str]:
    return [data.corpus.ids[row] for row in rows]


class TestPositives:
    def test_equal_queries_share_them(self, data):
        assert [names(data, rows) for rows in data.positives()[:3]] == [["copy", "two"], ["copy", "two"], ["kitchen0"]]
        assert [names(data, r) for r in data.never_negative[:3]] == [["copy", "itself", "two"]] * 2 + [["kitchen0"]]
        assert data.shared_qrels["a"] == data.shared_qrels["b"] == {"one": 1, "two": 1, "itself": 0}

    def test_a_document_with_the_id_of_the_query_is_the_query(self, data):
        data = replace(data, queries=TextStore(["sea0"], ["which ships are there?"]), qrels={})
        assert [names(data, rows) for rows in data.never_negative] == [["sea0"]]

    def test_a_document_has_a_question_once(self, data):
        assert TrainingQuestions().of(data)[0] == [QUESTION, unicodedata.normalize("NFD", QUESTION)]
        same = replace(data, queries=TextStore("ab", [QUESTION] * 2))
        assert TrainingQuestions().of(same)[0] == [QUESTION]


class TestMining:
    @pytest.mark.parametrize("name", MINERS)
    def test_no_known_positive_and_no_query_is_mined_as_a_negative(self, context, sparse_student, name):
        lists = build_lists(context, {name: MINERS[name](sparse_student)})
        for i in range(2):
            span = slice(lists.offsets[i], lists.offsets[i + 1])
            rows, labels = lists.rows[span], lists.labels[span]
            assert names(context.data, rows[labels == 1]) == ["copy", "two"]
            assert not set(names(context.data, rows[labels != 1])) & {"copy", "itself", "one", "two"}
            assert name == "given" or (labels == -1).any()

    def test_what_is_left_moves_up(self, context):
        """The query itself was the first hit; it takes no place of what `skip` leaves out."""
        rows, scores = mine(BM25Miner(depth=5), context)
        raw, worth = context.bm25.search(context.data.queries.texts, 5)
        assert "itself" in names(context.data, raw[0][:3])
        others = [r != context.data.corpus.rows["itself"] for r in raw[0]]
        assert rows[0].tolist() == [*raw[0][others], -1]
        assert scores[0, :4].tolist() == worth[0][others].tolist()
        assert np.isnan(scores[0, 4])
        assert np.isfinite(scores[0, :4]).all()

    def test_misses_are_not_mined(self, context, sparse_student):
        rows, scores = mine(BM25Miner(depth=5), context)
        assert rows[3:].tolist() == [[-1] * 5] * 4
        assert np.isnan(scores[3:]).all()
        assert rows[2].tolist() == [*(context.data.corpus.rows[i] for i in ("kitchen0", "kitchen1")), -1, -1, -1]
        lists = build_lists(context, {"bm25": BM25Miner(depth=5)})
        assert np.diff(lists.offsets)[3:].tolist() == [0] * 4
        for algorithm in ("BM25L", "BM25Plus", "BM25Okapi"):  # Okapi gives the corpus's first ones, with the score 0
            assert set(mine(in_memory(algorithm), context)[0][4:].ravel()) == {-1}

    def test_sparse_misses(self):
        from scipy.sparse import csr_array

        queries = csr_array(np.array([[1, 0, 0], [0, 0, 0]], dtype=np.float32))
        documents = csr_array(np.array([[0, 1, 0], [2, 0, 0], [0, 0, 1]], dtype=np.float32))
        for similarity in ("dot", "cosine"):
            rows, scores = search_vectors(queries, documents, 3, similarity=similarity)
            assert rows.tolist() == [[1, -1, -1], [-1, -1, -1]]
            assert np.isnan(scores[rows < 0]).all()

    def test_a_selector_passes_over_what_was_not_found(self, context, sparse_student, monkeypatch):
        monkeypatch.setattr(
            DenseMiner, "mine", lambda self, context, queries: BM25Miner(depth=9).mine(context, queries)
        )
        monkeypatch.setattr(DenseMiner, "key", lambda self, context: "bm25")
        asked = []

        def scores(name, queries, documents):
            asked.extend(zip(queries.tolist(), documents.tolist(), strict=True))
            return np.arange(len(queries), dtype=np.float32)

        monkeypatch.setattr(context, "scores", scores)
        kept = ConfusingQueries(teacher="teacher", rule="above", depth=9).keep(context, 10)
        assert not kept[3:].any()
        assert all(document >= 0 for _, document in asked)
        assert context.data.corpus.rows["itself"] not in {d for q, d in asked if q < 2}


class TestBatches:
    def test_equal_queries_and_the_query_itself_in_one_batch(self, context):
        """`bread` brings `itself` along; for the two spellings it is no negative, nor is the other's positive."""
        data = context.data
        data.qrels["bread"]["itself"] = 0
        context.data = data = replace(data)
        lists = build_lists(context, {"bm25": BM25Miner(depth=5)})
        source = opened(ListBatches(), context, lists=lists, batch_size=3, negatives=5, positives="first", order="top")
        batches = (source.batch(step) for step in range(20))
        batch = next(b for b in batches if {QUESTION, "bread in the oven"} <= set(b.queries))
        known = dict(zip(batch.queries, batch.known_positive, strict=True))[QUESTION]
        own = [text for text, is_known in zip(batch.documents, known.tolist(), strict=True) if is_known]
        assert set(own) >= {data.corpus.texts[0], data.corpus.texts[1]}
        row = batch.queries.index(QUESTION)
        positive, takes_part = (mask[row] for mask in judged(batch, "in_batch"))
        assert not (takes_part & ~positive & known).any()
        scores = torch.zeros_like(batch.known_positive, dtype=torch.float64)
        rivals = int((takes_part & ~positive).sum())
        assert losses.contrastive(scores, *judged(batch, "in_batch"))[row] == pytest.approx(np.log(1 + rivals))

    def test_derived_texts(self, context):
        """One that is a positive, or the query, is left out of its own list, and no negative in another's."""

        class Pieces(TextTransform):
            rewrites = False
            derives = True

            def derived(self, request):
                return [
                    Derived(unicodedata.normalize("NFC", text)) for text in (*request.documents[:1], QUESTION, "new")
                ]

        lists = build_lists(context, {"bm25": BM25Miner(depth=5)})
        source = opened(
            ListBatches(), context, lists=lists, batch_size=3, negatives=2, positives="first", text=Pieces()
        )
        batches = (source.batch(step) for step in range(20))
        batch = next(b for b in batches if {QUESTION, "bread in the oven"} <= set(b.queries))
        row, other = batch.queries.index(QUESTION), batch.queries.index("bread in the oven")
        count = batch.derived_candidates
        derived = [[batch.documents[d] for d in batch.index[i, -count:][batch.mask[i, -count:]]] for i in (row, other)]
        assert derived == [["new"], [QUESTION, "new"]]
        known = [batch.documents[d] for d in torch.nonzero(batch.known_positive[row]).ravel()]
        assert QUESTION in known
        assert "new" not in known

    def test_made_queries_know_what_is_judged_of_the_same_question(self, context, tmp_path):
        path = tmp_path / "queries" / "s.jsonl"
        path.parent.mkdir()
        lines = [{"document_id": "sea3", "text": QUESTION}, {"document_id": "sea4", "text": "a wave?"}]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        made = _with_queries(context, TrainingQuestions(), path, 0, "stages.0.queries").data
        assert [names(made, rows) for rows in made.positives()] == [["copy", "two", "sea3"], ["sea4"]]

    def test_queries_without_any_candidate_are_left_out_before_teachers_are_asked(
        self, tmp_path, tiny_ranker, tiny_student
    ):
        """What is scored is what batches hold: both pass over the same queries."""
        lines = [
            {"query": q, "document": d, "score": 0.5}
            for q in (*MISSES, "the ship", "a song")
            for d in ("a ship", "song")
        ]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (tmp_path / "dev.jsonl").write_text(json.dumps({"query": "ships", "pos": ["a ship"]}))
        tree = recipe(
            student=spec("pretrained", model=tiny_student),
            teachers={"ranker": spec("CrossEncoderTeacher", model=tiny_ranker, device="cpu")},
            candidates={"bm25": spec("BM25Miner", depth=3)},
            stages=[stage("s", 1, spec("ListwiseKL"), teacher="ranker", candidates=pool("bm25", negatives=2))],
            batch_size=2,
        )
        train, _ = read_train_and_dev(tmp_path, DataSection())
        built = build_recipe(Recipe.from_dict(tree), train, tmp_path / "cache")
        source = open_stage(built, built.recipe.stages[0], tmp_path / "run").source
        batch = source.batch(0)
        assert set(batch.queries) == {"the ship", "a song"}
        assert not batch.teacher_scores["ranker"][batch.mask].isnan().any()


class TestHeldOut:
    def test_a_question_is_trained_on_or_measured_with(self, beir):
        (beir / "qrels" / "dev.tsv").unlink()
        queries = [json.loads(line) for line in (beir / "queries.jsonl").read_text().splitlines()]
        twins = [q | {"_id": f"twin-{q['_id']}"} for q in queries]
        (beir / "queries.jsonl").write_text("".join(json.dumps(q) + "\n" for q in [*queries, *twins]))
        lines = (beir / "qrels" / "train.tsv").read_text().splitlines()[1:]
        more = [f"twin-{q}\td47\t1" for q, _, _ in (line.split("\t") for line in lines)]
        (beir / "qrels" / "train.tsv").write_text("\n".join([*lines, *more]) + "\n")
        train, dev = read_train_and_dev(beir, DataSection())
        assert len(dev.queries) == 6
        assert not set(train.queries.texts) & set(dev.queries.texts)
        assert {len(judged) for judged in (*train.qrels.values(), *dev.qrels.values())} <= {1, 2}
        few, _ = read_train_and_dev(beir, DataSection(max_queries=3))
        assert all("d47" in judged for judged in few.qrels.values())


class TestEvaluation:
    @pytest.fixture
    def numbered(self) -> RetrievalData:
        """150 documents that are the queries 0 to 149; each answered by the next. `7` answers itself, `9` does not."""
        ids = [str(i) for i in range(150)]
        texts = [f"ship {'wave ' * (i % 9)}harbour{i} harbour{(i + 1) % 150}" for i in range(150)]
        qrels = {q: {str((int(q) + 1) % 150): 1} for q in ids[:20]} | {"7": {"7": 1}, "9": {"9": 0, "10": 1}}
        return RetrievalData("n", TextStore(ids, texts), TextStore(ids[:20], texts[:20]), qrels)

    @pytest.mark.parametrize("system", ["bm25", "model", "vectors", "sparse"])
    def test_a_querys_own_document_is_not_ranked(self, numbered, system, tiny_student, sparse_student):
        """BEIR's rule; one that is judged relevant is no copy."""
        if system == "bm25":
            found = evaluate_bm25(numbered)
        elif system == "vectors":
            documents = np.eye(150, dtype=np.float32)
            queries = (documents + np.roll(documents, 1, 1) / 2)[:20]
            found = evaluate_vectors("v", numbered, queries, documents, "cosine")
        else:
            found = evaluate_model(tiny_student if system == "model" else sparse_student, numbered)
        for query, ranked in found.rankings.items():
            assert (query in ranked) == (query == "7")
            assert len(ranked) == DEPTH
            assert len(found.scores[query]) == DEPTH
            assert found.scores[query] == sorted(found.scores[query], reverse=True)
        if system == "vectors":
            assert found.metrics["mrr@10"] == 1.0
            assert found.rankings["3"][0] == "4"
            assert found.scores["3"][0] == pytest.approx(0.5 / 1.25**0.5)  # its own, not that of what was left out

    def test_misses_are_not_ranked(self, data):
        data.qrels.update({f"miss{i}": {"copy": 1} for i in range(4)})
        found = evaluate_bm25(data)
        assert [found.rankings[f"miss{i}"] for i in range(4)] == [[]] * 4
        assert found.per_query["miss1"]["ndcg@10"] == 0
        assert found.rankings["bread"] == ["kitchen0", "kitchen1"]

    def test_a_ranker_ranks_hits_alone(self, data, tiny_ranker):
        data.qrels.update({f"miss{i}": {"copy": 1} for i in range(4)})
        training = TrainingSection(dev_queries=50, dev_depth=4, dev_documents=5)
        sample, candidates = ranker_sample(data, training)
        asked: list = []
        rows = rerank(sample, candidates, lambda pairs: asked.extend(pairs) or np.arange(len(pairs), dtype=np.float32))
        assert not {query for query, _ in asked} & set(MISSES)
        assert np.array_equal(np.sort(rows), np.sort(candidates))
        assert all(list(row[row >= 0]) == list(c[c >= 0][::-1]) for row, c in zip(rows, candidates, strict=True))
        found = evaluate_ranker(tiny_ranker, sample, candidates)
        assert {q: len(ranked) for q, ranked in found.rankings.items() if q.startswith("miss")} == dict.fromkeys(
            ("miss0", "miss1", "miss2", "miss3"), 0
        )
        assert set(found.rankings["bread"]) == {"kitchen0", "kitchen1"}

    def test_the_dev_sample_has_the_copy_that_is_judged(self, data):
        """Without it nothing that a model finds would count. `copy` is the same text, before it."""
        data = replace(data.subset([2]), qrels={"bread": {"one": 1, "two": 0}})
        sample = dev_sample(data, TrainingSection(dev_queries=1, dev_documents=1))
        assert sample.corpus.ids == ["one", "kitchen0", "kitchen1"]
        assert per_query({"bread": sample.corpus.ids}, sample.qrels)["bread"]["ndcg@10"] == 1.0

    @pytest.mark.parametrize("of_ranker", [False, True])
    @pytest.mark.parametrize("every", [1, 3, 7])
    def test_the_dev_sample_asks_what_tells_students_apart(self, numbered, every, of_ranker):
        """Queries without a positive score 0, whatever is trained. Where all have one, the draw goes by nothing else."""
        qrels = {q: {d: int(i % every == 0) for d in own} for i, (q, own) in enumerate(numbered.qrels.items())}
        data, training = replace(numbered, qrels=qrels), TrainingSection(dev_queries=4, dev_documents=5)
        sample = ranker_sample(data, training)[0] if of_ranker else dev_sample(data, training)
        order = rng_for("dev sample", data.queries.hash).permutation(len(data.queries))
        positive = [row for row in order if row % every == 0]
        assert sample.queries.ids == [data.queries.ids[row] for row in sorted(positive[:4])]

    def test_a_querys_own_document_takes_no_place_of_the_first_ten(self, monkeypatch):
        """The document that answers `0` is the tenth after it."""
        ids = [str(i) for i in range(12)]
        data = RetrievalData("n", TextStore(ids, ids), TextStore(["0"], ["x"]), {"0": {"10": 1}})
        vectors = {"query": np.ones((1, 1)), "document": np.arange(12, 0, -1.0)[:, None]}
        monkeypatch.setattr("retort.trainers.evaluation.dev.encode_vectors", lambda *given: vectors[given[2]])
        score = dev_sampler(data, SimpleNamespace(similarity_fn_name="dot"), TrainingSection())
        assert score() == pytest.approx(1 / np.log2(11))

    def test_a_sample_for_a_ranker_of_images_is_in_random_order(self, numbered, monkeypatch):
        """BM25 cannot order them. With the positives first, one that ranks nothing would look perfect."""
        monkeypatch.setattr(RetrievalData, "of_texts", False)
        sample, candidates = ranker_sample(numbered, TrainingSection(dev_queries=20, dev_depth=5))
        positives = [rows.tolist() for rows in sample.positives()]
        assert all(
            {*own} <= {*row} and len({*row}) == 5 for own, row in zip(positives, candidates.tolist(), strict=True)
        )
        first = [row[0] in own for own, row in zip(positives, candidates.tolist(), strict=True)]
        assert 0 < sum(first) < 15

    @pytest.mark.parametrize("draw", [dev_sample, lambda *given: ranker_sample(*given)[0]])
    def test_a_dev_sample_of_queries_without_any_positive(self, numbered, draw):
        data = replace(numbered, qrels={q: dict.fromkeys(own, 0) for q, own in numbered.qrels.items()})
        assert len(draw(data, TrainingSection(dev_queries=4, dev_documents=5)).queries) == 4

    def test_the_dev_sample_takes_no_misses_for_neighbours(self, data):
        data = data.subset([3, 4])
        data.qrels.update({q: {"two": 1} for q in data.queries.ids})
        sample = dev_sample(data, TrainingSection(dev_queries=2, dev_documents=1))
        assert sample.corpus.ids == ["two"]
