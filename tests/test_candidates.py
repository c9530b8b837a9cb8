# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import opened

from retort.students.hashing import hash_text
from retort.trainers import search as search_module
from retort.trainers.batches.lists import ListBatches
from retort.trainers.batches.sampling import picked
from retort.trainers.batches.texts import TextBatches
from retort.trainers.candidates.bm25 import BM25Miner
from retort.trainers.candidates.dense import DenseMiner
from retort.trainers.candidates.drawn import RandomMiner
from retort.trainers.candidates.given import GivenMiner
from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.candidates.mining import build_lists, mine
from retort.trainers.context import TrainingContext
from retort.trainers.data.beir import read_beir
from retort.trainers.data.made_texts import made_texts, whole_words
from retort.trainers.data.texts import RetrievalData, TextStore, item_id
from retort.trainers.languages import language_of
from retort.trainers.roles import Miner
from retort.trainers.runtime.errors import DataError
from retort.trainers.search import BM25, search_vectors, top_rows
from retort.trainers.teachers.bi_encoder import BiEncoderTeacher


@pytest.fixture
def context(beir, tiny_student, tiny_model, tmp_path) -> TrainingContext:
    teacher = BiEncoderTeacher(model=tiny_student, device="cpu")
    return TrainingContext(read_beir(beir, "train"), {"teacher": teacher}, tmp_path / "cache", tiny_model(9))


class TestBM25:
    def test_scores_by_hand(self):
        """Lucene's BM25: idf * tf / (tf + k1 (1 - b + b len / mean)), k1 0.9, b 0.4; the stop word does not count."""
        rows, scores = BM25(["ship ship the sea", "bread oven", "sea wave wave wave"]).search(["sea"], 3)
        idf = np.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
        mean = (3 + 2 + 4) / 3
        expected = [idf / (1 + 0.9 * (0.6 + 0.4 * length / mean)) for length in (3, 4)]
        assert rows.tolist() == [[0, 2, -1]]
        assert scores[0].tolist() == pytest.approx([*expected, np.nan], rel=1e-5, nan_ok=True)

    def test_stems(self):
        rows, scores = BM25(["running shoes", "bread"]).search(["runs"], 2)
        assert rows[0].tolist() == [0, -1]
        assert scores[0, 0] > 0

    @pytest.mark.parametrize(
        ("language", "texts", "query", "found"),
        [
            ("german", ["die häuser der stadt und das meer", "er hat das brot nicht"], "haus der bäcker", 0),
            ("russian", ["он был в домах и на море", "не хлеб, а это рыба"], "в доме", 0),
            ("english", ["die casting in an alloy", "houses by the sea"], "a house", 1),
            ("english", ["Rohrzange 12 mm", "Haus"], "häuser", -1),  # what could be any is stemmed as English
        ],
    )
    def test_stems_of_the_corpus_language(self, language, texts, query, found):
        """Told by its stop words, which find nothing themselves."""
        index = BM25(texts)
        assert index.language == language_of(texts) == language
        assert index.search([query], 2)[0].tolist() == [[found, -1]]
        assert language_of(texts * 2000) == language

    @pytest.mark.parametrize(
        ("texts", "language"),
        [
            (["Das Haus Ist Nicht Weit Und Der Weg Ist Gut"], "german"),  # headings
            (["das haus ist nicht weit und der weg ist gut"] + ["zug"] * 40, "english"),  # few of all words
            (["der zug und der weg und der see"] * 9, "english"),  # few different ones
            (["das ist nicht gut und der weg the of and a is in it to for"], "english"),  # as many English ones
            (["by the sea it is warm"] * 1000 + ["das haus ist nicht weit und der weg ist gut"] * 3000, "german"),
            ([], "english"),
        ],
    )
    def test_the_language_of_most(self, texts, language):
        assert language_of(texts) == language

    def test_lists_of_other_rules_are_others(self, context):
        data = RetrievalData("d", TextStore(["a"], ["das haus ist nicht an der see"]), context.data.queries)
        key = BM25Miner().key(SimpleNamespace(data=data))
        english = hash_text(f"bm25 hits 0.9 0.4 50 {data.corpus.hash} {data.queries.hash}")
        assert key != english
        data = RetrievalData("d", TextStore(["a"], ["a house by the sea"]), context.data.queries)
        assert BM25Miner().key(SimpleNamespace(data=data)) == hash_text(
            f"bm25 hits 0.9 0.4 50 {data.corpus.hash} {data.queries.hash}"
        )

    def test_ties_keep_the_order_and_misses_are_left_out(self):
        """Unknown words, stop words, words of another script, nothing at all."""
        rows, scores = BM25(["the b", "sea", "sea", "sea"]).search(["zebra", "the", "море", "", "sea"], 2)
        assert rows.tolist() == [[-1, -1]] * 4 + [[1, 2]]
        assert np.array_equal(np.isnan(scores), rows < 0)

    def test_a_corpus_without_a_word_gives_no_hit(self):
        assert BM25(["the", "of"]).search(["ship", ""], 2)[0].tolist() == [[-1, -1]] * 2
        assert BM25([]).search(["ship"], 2)[0].shape == (1, 0)

    def test_top_rows(self):
        assert top_rows(np.array([1.0, 3.0, 3.0, 3.0, 0.0]), 2).tolist() == [1, 2]
        assert top_rows(np.array([1.0, 3.0]), 5).tolist() == [1, 0]


class TestDense:
    def test_exact_in_blocks(self):
        rng = np.random.default_rng(0)
        q, d = rng.normal(size=(7, 4)).astype(np.float32), rng.normal(size=(20, 4)).astype(np.float32)
        rows, scores = search_vectors(q, d, 5, similarity="dot", block=3)
        assert np.array_equal(rows, np.argsort(-(q @ d.T), axis=1)[:, :5])
        assert np.allclose(scores, np.take_along_axis(q @ d.T, rows, 1), atol=1e-6)
        cosine, _ = search_vectors(q, d, 5, similarity="cosine")
        unit = d / np.linalg.norm(d, axis=1, keepdims=True)
        assert np.array_equal(cosine, np.argsort(-(q @ unit.T), axis=1)[:, :5])

    def test_ties_by_row(self):
        rows, _ = search_vectors(np.ones((1, 2), np.float32), np.ones((6, 2), np.float32), 6, similarity="dot")
        assert rows[0].tolist() == list(range(6))

    @pytest.mark.parametrize("several", [False, True], ids=["one vector", "several"])
    @pytest.mark.parametrize(("similarity", "top_k"), [("dot", 4), ("dot", 30), ("cosine", 200)])
    def test_chunks_change_nothing(self, monkeypatch, similarity, top_k, several):
        """With ties, more hits than a chunk has documents, vectors of NaN, and documents of several vectors."""
        rng = np.random.default_rng(3)
        signs = np.sign(rng.normal(size=(40, 16))).astype(np.float32)
        queries, documents = signs[:8], signs[8:]  # cosines are multiples of 1/8: all sums are exact, and many equal
        if similarity == "dot":
            queries, documents = np.array([[1, 0], [-1, 0], [2, 1]], np.float32), np.zeros((32, 2), np.float32)
            documents[:, 0] = rng.permutation(32)  # of each score two, which no cut parts
        documents = np.concatenate([documents, documents[::-1]])
        documents[[5, 58]] = np.nan
        starts = None
        if several:
            counts = rng.integers(1, 5, size=64)
            documents, starts = np.repeat(documents, counts, axis=0), np.cumsum(counts) - counts

        def search() -> tuple[np.ndarray, np.ndarray]:
            return search_vectors(queries, documents, top_k, similarity=similarity, block=5, starts=starts)

        expected = search()
        assert top_k < 64 or np.sort(expected[0][0]).tolist() == [-1, -1, *(i for i in range(64) if i not in (5, 58))]
        asked, compared = [], search_module._compared
        monkeypatch.setattr(search_module, "_compared", lambda v, *rest: asked.append(len(v)) or compared(v, *rest))
        monkeypatch.setattr(search_module, "CHUNK", 7)
        rows, scores = search()
        assert np.array_equal(scores, expected[1], equal_nan=True)
        assert np.array_equal(rows, expected[0])
        assert max(asked[1:]) <= 7
        assert sum(asked[1:]) == len(documents)

    def test_on_the_best_device_in_full_float32(self, monkeypatch):
        """But for vectors that it may not take, and where the CPU is asked for."""
        ones, devices, compared = np.ones((2, 2), np.float32), [], search_module._compared
        matmul = torch.backends.cuda.matmul

        def on_cpu(vectors, similarity, device):
            devices.append((device, matmul.fp32_precision))
            return compared(vectors, similarity, "cpu")

        monkeypatch.setattr(search_module, "_compared", on_cpu)
        monkeypatch.setattr(search_module, "pick_device", lambda device: device or "cuda")
        before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
        try:
            for vectors, options in ((ones, {}), (ones, {"device": "cpu"}), (ones.astype(np.float64), {})):
                search_vectors(vectors, vectors, 1, similarity="dot", **options)
            assert devices == [(device, "ieee") for device in ("cpu", "cuda", "cpu", "cpu", "cpu", "cpu")]
            assert matmul.fp32_precision == "tf32"
        finally:
            matmul.fp32_precision = before

    def test_unknown_similarity(self):
        with pytest.raises(ValueError, match="cosine or dot"):
            search_vectors(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32), 1, similarity="manhattan")

    def test_mined_lists_change_with_the_weights(self, context):
        miner = DenseMiner(model="student", depth=5)
        before, key = mine(miner, context)[0], miner.key(context)
        assert np.array_equal(mine(miner, context)[0], before)
        with torch.no_grad():
            for p in context._current().parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
        assert miner.key(context) != key
        assert not np.array_equal(mine(miner, context)[0], before)

    def test_queries_of_later_blocks(self, context, monkeypatch):
        miner = DenseMiner(model="teacher", depth=4)
        whole = miner.mine(context, context.data.queries)[0]
        monkeypatch.setattr("retort.trainers.candidates.mining.MINING_BLOCK", 10)
        assert np.array_equal(mine(miner, context)[0], whole)
        assert miner.key(context) != DenseMiner(model="teacher", depth=5).key(context)

    def test_the_lexical_index_is_built_once(self, context, monkeypatch):
        monkeypatch.setattr("retort.trainers.candidates.mining.MINING_BLOCK", 10)
        built = []
        real = BM25.__init__
        monkeypatch.setattr(BM25, "__init__", lambda self, texts: built.append(1) or real(self, texts))
        mine(BM25Miner(depth=4), context)
        assert len(built) == 1

    def test_mining_goes_on_after_an_interruption(self, context, monkeypatch):
        monkeypatch.setattr("retort.trainers.candidates.mining.MINING_BLOCK", 10)
        miner = BM25Miner(depth=4)
        asked: list[int] = []
        real = BM25Miner.mine

        def failing(self, context, queries):
            asked.append(len(queries))
            if len(asked) == 3:
                raise KeyboardInterrupt
            return real(self, context, queries)

        monkeypatch.setattr(BM25Miner, "mine", failing)
        with pytest.raises(KeyboardInterrupt):
            mine(miner, context)
        rows, _ = mine(miner, context)
        assert asked == [10, 10, 10, 10]
        assert np.array_equal(rows, BM25(context.data.corpus.texts).search(context.data.queries.texts, 4)[0])


class Ragged(Miner):
    """Finds as many documents as the query's number in its block, from the last row down."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers

    def key(self, context) -> str:
        return f"ragged{self.numbers}"

    def mine(self, context, queries):
        counts = [self.numbers[context.data.queries.rows[q]] for q in queries.ids]
        rows = np.full((len(counts), max(counts)), -1)
        for i, count in enumerate(counts):
            rows[i, :count] = np.arange(39, 39 - count, -1)
        return rows, np.where(rows < 0, np.nan, rows).astype(np.float32)


class TestRaggedMiners:
    NUMBERS = (0, 1, 0, 3, 2, 0, 0, 0, 0, 5)

    @pytest.fixture
    def ten(self, context, monkeypatch) -> TrainingContext:
        monkeypatch.setattr("retort.trainers.candidates.mining.MINING_BLOCK", 3)
        context.data = context.data.subset(range(10))
        return context

    def test_blocks_of_different_widths(self, ten):
        rows, scores = mine(Ragged(list(self.NUMBERS)), ten)
        assert rows.shape == scores.shape == (10, 5)
        assert rows.dtype == np.int32
        assert (rows >= 0).sum(1).tolist() == list(self.NUMBERS)
        assert rows[3].tolist() == [39, 38, 37, -1, -1]
        assert np.array_equal(np.isnan(scores), rows == -1)

    def test_lists_hold_what_was_found_and_nothing_else(self, ten):
        lists = build_lists(ten, {"ragged": Ragged(list(self.NUMBERS)), "bm25": BM25Miner(depth=2)})
        for i, count in enumerate(self.NUMBERS):
            span = slice(lists.offsets[i], lists.offsets[i + 1])
            found = lists.rows[span][lists.source[span] == 1]
            assert found.tolist() == list(range(39, 39 - count, -1))
        assert lists.rows.min() >= 0


class TestGiven:
    @pytest.fixture
    def given(self, tmp_path) -> TrainingContext:
        nan = float("nan")
        data = RetrievalData(
            "given",
            TextStore([f"d{i}" for i in range(6)], [f"text {i}" for i in range(6)]),
            TextStore(["q0", "q1", "q2"], ["a", "b", "c"]),
            {"q0": {"d5": 1, "d2": 0}},
            {"q0": {"d4": nan, "d5": 0.5, "d1": nan, "d2": 0.75, "d3": -1.0, "d0": 0.5}, "q2": {"d3": nan}},
        )
        return TrainingContext(data, {}, tmp_path / "cache")

    def test_best_score_first_then_the_order_of_the_data(self, given):
        rows, scores = mine(GivenMiner(), given)
        assert rows.tolist() == [[2, 5, 0, 3, 4, 1], [-1] * 6, [3, -1, -1, -1, -1, -1]]
        assert scores[0, :4].tolist() == [0.75, 0.5, 0.5, -1.0]
        assert np.isnan(scores[0, 4:]).all()
        assert mine(GivenMiner(depth=2), given)[0].tolist() == [[2, 5], [-1, -1], [3, -1]]

    def test_lists(self, given):
        lists = build_lists(given, {"given": GivenMiner()})
        assert lists.offsets.tolist() == [0, 6, 6, 7]
        assert lists.rows.tolist() == [5, 2, 0, 3, 4, 1, 3]
        assert lists.labels.tolist() == [1, 0, -1, -1, -1, -1, -1]

    def test_key(self, given, context):
        keys = {GivenMiner().key(given), GivenMiner(depth=3).key(given)}
        given.data = given.data.subset([0])
        assert len(keys | {GivenMiner().key(given)}) == 3
        with pytest.raises(DataError, match="data gives no documents for its queries.*Take another miner"):
            GivenMiner().key(context)


class TestRandom:
    def test_a_query_has_its_own_and_the_same_each_time(self, context):
        rows, scores = mine(RandomMiner(depth=5), context)
        assert rows.shape == (30, 5) and not scores.any()
        assert all(len({*drawn}) == 5 for drawn in rows.tolist())
        assert len({tuple(drawn) for drawn in rows.tolist()}) > 20
        again = RandomMiner(depth=5).mine(context, context.data.queries.select([3, 1]))[0]
        assert np.array_equal(again, rows[[3, 1]])
        assert not np.array_equal(mine(RandomMiner(depth=5, seed=1), context)[0], rows)

    def test_other_draws_are_other_lists(self, context):
        miners = (RandomMiner(), RandomMiner(seed=1), RandomMiner(depth=3))
        assert len({miner.key(context) for miner in miners}) == 3

    def test_a_corpus_smaller_than_the_list(self, context):
        rows = mine(RandomMiner(depth=99), context)[0]
        assert all(sorted(drawn) == list(range(40)) for drawn in rows.tolist())


class TestLists:
    @pytest.fixture
    def lists(self, context) -> CandidateLists:
        return build_lists(context, {"bm25": BM25Miner(depth=6), "dense": DenseMiner(model="teacher", depth=6)})

    def test_positives_first_then_sources_in_turn_each_document_once(self, context, lists):
        for i in range(len(lists)):
            span = slice(lists.offsets[i], lists.offsets[i + 1])
            rows, labels, source = lists.rows[span], lists.labels[span], lists.source[span]
            assert len(set(rows)) == len(rows)
            assert rows[labels == 1].tolist() == context.data.positives()[i].tolist()
            assert set(labels[labels != 1]) == {-1}
            assert labels.tolist() == sorted(labels, reverse=True)
            assert set(source[labels == 1]) == {0}
            assert {1, 2} <= set(source)

    def test_judged_irrelevant_documents_are_negatives(self, beir, context):
        with (beir / "qrels" / "train.tsv").open("a") as qrels:
            qrels.write("q00\td47\t0\n")
        context.data = read_beir(beir, "train")
        lists = build_lists(context, {"bm25": BM25Miner(depth=3)})
        rows = lists.rows[: lists.offsets[1]].tolist()
        assert rows[:2] == [context.data.corpus.rows["d00"], context.data.corpus.rows["d47"]]
        assert lists.labels[: lists.offsets[1]].tolist()[:3] == [1, 0, -1]

    def test_a_copy_of_a_positive_is_no_negative(self, beir, context):
        corpus = (beir / "corpus.jsonl").read_text()
        (beir / "corpus.jsonl").write_text(corpus + corpus.replace('"_id": "d', '"_id": "copy'))
        context.data = read_beir(beir, "train")
        lists = build_lists(context, {"bm25": BM25Miner(depth=20), "dense": DenseMiner(model="teacher", depth=20)})
        assert lists.rows.max() < 40
        batch = opened(ListBatches(), context, lists=lists, batch_size=30, negatives=5, seed=0).batch(0)
        assert len(set(batch.documents)) == len(batch.documents)

    def test_save_and_load(self, context, lists, tmp_path):
        lists.scores["t"] = np.linspace(0, 1, len(lists.rows), dtype=np.float32)
        lists.save(tmp_path / "l.parquet", context.data)
        again = CandidateLists.load(tmp_path / "l.parquet", context.data)
        for name in ("query_rows", "offsets", "rows", "labels", "source"):
            assert np.array_equal(getattr(again, name), getattr(lists, name)), name
        assert again.sources == lists.sources
        assert np.array_equal(again.scores["t"], lists.scores["t"])

    def test_scores_of_a_pool_stay_with_their_documents(self, context, tmp_path):
        """Whichever queries or documents are left, and in the file."""
        lists = build_lists(context, {"bm25": BM25Miner(depth=4)})
        lists.pool_scores = np.arange(len(lists.rows), dtype=np.float32)
        of = dict(zip(zip(lists.owners, lists.rows, strict=True), lists.pool_scores, strict=True))
        kept = lists.only(np.arange(30) % 2 == 1)
        kept = kept.entries(np.arange(len(kept.rows)) % 3 > 0)
        kept.save(tmp_path / "l.parquet", context.data)
        for found in (kept, CandidateLists.load(tmp_path / "l.parquet", context.data)):
            pairs = zip(found.owners, found.rows, strict=True)
            assert found.pool_scores.tolist() == [of[pair] for pair in pairs]

    def test_the_hash_knows_all_that_is_trained_on(self, context, lists):
        """By it a run that goes on tells whether its lists are those that it began with."""
        other = lists.found_by ^ (lists.found_by > 1) * 2
        scores = np.zeros(len(lists.rows), dtype=np.float32)
        changes = [{}, {"found_by": other}, {"scores": {"t": scores}}, {"scores": {"t": scores + 1}}]
        changes += [{"pool_scores": scores + 2}, {"pool_scores": scores + 3}, {"labels": np.abs(lists.labels)}]
        assert len({replace(lists, **change).hash for change in changes}) == len(changes)

    def test_batches_are_a_function_of_the_step(self, context, lists):
        def make(seed: int = 0) -> ListBatches:
            return opened(
                ListBatches(), context, lists=lists, batch_size=4, negatives=3, teachers=["teacher"], seed=seed
            )

        first, second = make().batch(11), make().batch(11)
        assert first.queries == second.queries
        assert torch.equal(first.index, second.index)
        assert make(1).batch(11).queries != first.queries
        assert make().batch(12).queries != first.queries

    def test_a_batch(self, context, lists):
        batch = opened(
            ListBatches(), context, lists=lists, batch_size=4, negatives=3, teachers=["teacher"], seed=0
        ).batch(0)
        data = context.data
        assert len(set(batch.documents)) == len(batch.documents)
        assert batch.index.shape == (4, 4)
        for i, query in enumerate(batch.queries):
            q = data.queries.ids[data.queries.texts.index(query)]
            listed = [data.corpus.ids[data.corpus.texts.index(batch.documents[u])] for u in batch.index[i]]
            assert data.qrels[q].get(listed[0]) == 1
            assert not set(listed[1:]) & set(data.qrels[q])
            known = [data.corpus.ids[data.corpus.texts.index(t)] in data.qrels[q] for t in batch.documents]
            assert batch.known_positive[i].tolist() == known
        queries, documents = batch.teacher_vectors["teacher"]
        expected = context.teachers["teacher"].encode(batch.documents, "document")
        assert np.allclose(documents, expected, atol=1e-6)
        assert queries.shape == (4, 16)

    def test_top_negatives_are_the_first_of_the_list(self, context, lists):
        batches = opened(ListBatches(), context, lists=lists, batch_size=30, negatives=2, order="top", seed=0)
        batch = batches.batch(0)
        where = {text: row for row, text in enumerate(context.data.corpus.texts)}
        for i, query in enumerate(batch.queries):
            number = context.data.queries.texts.index(query)
            span = slice(lists.offsets[number], lists.offsets[number + 1])
            expected = lists.rows[span][lists.labels[span] == -1][:2]
            assert [where[batch.documents[u]] for u in batch.index[i, 1:]] == expected.tolist()

    def test_an_epoch_sees_every_query_once(self):
        seen = np.concatenate([picked("s", 10, 4, step)[0] for step in range(5)])
        assert picked("s", 10, 4, 2)[1].tolist() == [0, 0, 1, 1]
        assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
        assert seen[:10].tolist() != seen[10:].tolist()

    def test_texts(self, context):
        batch = opened(TextBatches(), context, batch_size=14, teachers=["teacher"], seed=0).batch(0)
        assert (len(batch.queries), len(batch.documents)) == (6, 8)
        assert batch.index.shape == (6, 0)
        assert not batch.has_positive.any()

    def test_texts_of_random_words_are_mixed_in(self, context, tiny_model):
        """A share of the documents; teachers are asked for them, and nothing else changes."""
        tokenizer = tiny_model(1).tokenizer
        student = SimpleNamespace(tokenizer=tokenizer)
        source = opened(TextBatches(made=30, share=0.5), context, batch_size=14, teachers=["teacher"], student=student)
        plain = opened(TextBatches(), context, batch_size=14, teachers=["teacher"], student=student)
        batch = source.batch(1)
        made = batch.documents[4:]
        assert len(batch.documents) == 8
        assert batch.queries == plain.batch(1).queries
        assert set(batch.documents[:4]) <= set(context.data.corpus.texts)
        words = set(whole_words(tokenizer))
        assert all(word in words for text in made for word in text.split())
        teacher = context.teachers["teacher"]
        assert torch.equal(batch.teacher_vectors["teacher"][1][4:], torch.from_numpy(teacher.encode(made, "document")))
        assert [item_id(text) for text in made] == batch.document_items[4:]
        seen = {text for step in range(8) for text in source.batch(step).documents} - set(context.data.corpus.texts)
        assert len(seen) == len(made_texts(tokenizer, 30))  # 8 steps of 4 see all 30
        none = opened(TextBatches(made=30, share=0.05), context, batch_size=14, teachers=["teacher"], student=student)
        assert not hasattr(none, "_of_made") and none.batch(1).documents == plain.batch(1).documents  # nor asked about

    def test_made_texts_are_of_whole_words_and_the_same_each_time(self, tiny_model):
        tokenizer = tiny_model(1).tokenizer
        texts = made_texts(tokenizer, 50).texts
        assert texts == made_texts(tokenizer, 50).texts
        assert len(set(texts)) == len(texts)
        lengths = {len(text.split()) for text in texts}
        assert min(lengths) >= 2
        assert max(lengths) <= 24
        for word in whole_words(tokenizer):
            assert len(tokenizer.tokenize(word)) == 1

    def test_odd_shares_are_refused(self):
        with pytest.raises(ValueError, match="share between 0 and 1; they are 10 and 1.0"):
            TextBatches(made=10, share=1.0)


class TestParts:
    def test_parts_hold_the_same_lists(self, context):
        lists = build_lists(context, {"bm25": BM25Miner(depth=4)})
        lists.scores["words"] = np.arange(len(lists.rows), dtype=np.float32)
        source = opened(ListBatches(), context, lists=lists, batch_size=7, negatives=3, teachers=["teacher"], seed=0)
        batch = source.batch(0)
        parts = batch.split(3)
        assert [len(p.queries) for p in parts] == [3, 2, 2]

        def entries(b):
            found = {}
            queries, documents = b.teacher_vectors["teacher"]
            for i, query in enumerate(b.queries):
                rows = b.index[i][b.mask[i]].tolist()
                found[query] = (
                    [b.documents[r] for r in rows],
                    b.labels[i][b.mask[i]].tolist(),
                    b.teacher_scores["words"][i][b.mask[i]].tolist(),
                    (documents[rows] @ queries[i]).tolist(),
                    b.known_positive[i][rows].tolist(),
                    [b.document_items[r] for r in rows],
                )
            return found

        assert {q: e for p in parts for q, e in entries(p).items()} == entries(batch)
        assert all(set(p.index[p.mask].tolist()) == set(range(len(p.documents))) for p in parts)
        assert batch.split(1) == [batch]
        assert len(batch.split(20)) == 7  # no more parts than queries

    def test_texts_are_divided_too(self, context):
        batch = opened(TextBatches(), context, batch_size=9, seed=0).batch(0)
        parts = batch.split(2)
        assert [t for p in parts for t in p.documents] == batch.documents
        assert [t for p in parts for t in p.queries] == batch.queries

    def test_only_entries_that_steps_use_are_scored(self, context):
        lists = build_lists(context, {"bm25": BM25Miner(depth=8)})
        source = opened(ListBatches(), context, lists=lists, batch_size=4, negatives=2, seed=0)
        used = source.used(range(3))
        expected = set()
        for step in range(3):
            batch = source.batch(step)
            for i, query in enumerate(batch.queries):
                expected |= {(query, batch.documents[r]) for r in batch.index[i][batch.mask[i]].tolist()}
        texts, queries = context.data.corpus.texts, context.data.queries.texts
        pairs = {(queries[q], texts[d]) for q, d in zip(lists.owners[used], lists.rows[used], strict=True)}
        assert pairs == expected


class TestSources:
    def test_lists_know_all_that_found_a_document(self, context):
        """The second miner finds what the first does, and so do lists that were written and read."""
        miner = BM25Miner(depth=5)
        lists = build_lists(context, {"one": miner, "two": miner, "none": BM25Miner(depth=1)})
        mined = lists.source > 0
        assert set((lists.found_by[mined] >> 1 & 0b11).tolist()) == {0b11}
        assert 0 < (lists.found_by[mined] >> 3).sum() < mined.sum()
        assert (lists.found_by[~mined] & 1).all()

    def test_skip(self, context):
        miner = BM25Miner(depth=5)
        whole, less = build_lists(context, {"a": miner}), build_lists(context, {"a": miner}, skip=2)
        top = mine(miner, context)[0]
        for number in range(len(less)):
            span = slice(less.offsets[number], less.offsets[number + 1])
            mined = less.rows[span][less.source[span] > 0]
            assert not set(mined) & set(context.data.corpus.first_rows[top[number, :2]])
        assert len(less.rows) < len(whole.rows)

    def test_ranks_from_one_to_another(self, context):
        miner = BM25Miner(depth=5)
        some = build_lists(context, {"a": miner}, skip=1, end=3)
        top = mine(miner, context)[0]
        for number in range(len(some)):
            span = slice(some.offsets[number], some.offsets[number + 1])
            mined = {*some.rows[span][some.source[span] > 0].tolist()}
            wanted = context.data.corpus.first_rows[top[number, 1:3]]
            assert mined == {*wanted.tolist()} - {*context.data.positives()[number].tolist()}
