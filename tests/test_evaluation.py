# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from retort.students import Student
from retort.trainers.data.beir import read_beir
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.evaluation.metrics import RetrievalMetric, mean, per_query
from retort.trainers.evaluation.rank import evaluate_bm25, evaluate_model, evaluate_vectors, query_sensitivity
from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe


class TestMetrics:
    def test_by_hand(self):
        rankings = {"a": ["x", "p", "y", "g"], "b": ["x"], "c": []}
        qrels = {"a": {"p": 1, "g": 2, "z": 0}, "b": {"p": 1}, "c": {"p": 1}, "d": {"p": 1}}
        found = per_query(rankings, qrels)
        ideal = 2 / math.log2(2) + 1 / math.log2(3)
        assert found["a"]["ndcg@10"] == pytest.approx((1 / math.log2(3) + 2 / math.log2(5)) / ideal)
        assert found["a"]["mrr@10"] == 0.5
        assert found["a"]["recall@20"] == 1.0
        for query in "bcd":
            assert set(found[query].values()) == {0.0}
        assert mean(found)["mrr@10"] == 0.125

    def test_cut_offs(self):
        ids = [f"d{i}" for i in range(100)]
        found = per_query({"q": ids}, {"q": {"d9": 1, "d10": 1, "d19": 1, "d20": 1, "d99": 1}})["q"]
        assert found["mrr@10"] == pytest.approx(0.1)
        assert found["recall@20"] == pytest.approx(3 / 5)
        assert found["recall@100"] == 1.0

    def test_the_order_given_is_the_order_scored(self):
        """trec_eval breaks ties by id, downwards; rank scores leave it none."""
        for ids in (["a", "b"], ["b", "a"]):
            assert per_query({"q": ids}, {"q": {"a": 1}})["q"]["mrr@10"] == 1 / (ids.index("a") + 1)

    def test_as_an_evaluate_metric(self):
        metric = RetrievalMetric()
        found = metric.compute(
            predictions=[["x", "p"], ["p"]],
            references=[{"ids": ["p"], "grades": [1]}, {"ids": ["p", "q"], "grades": [1, 1]}],
        )
        assert found["mrr@10"] == 0.75
        metric.add(prediction=["p"], reference={"ids": ["p"], "grades": [1]})
        assert metric.compute()["ndcg@10"] == 1.0


class TestRanking:
    def test_model_and_vectors_agree(self, beir, tiny_student):
        data, student = read_beir(beir, "dev"), Student.load(tiny_student)
        found = evaluate_model(tiny_student, data)
        vectors = student.encode_query(data.queries.texts), student.encode_document(data.corpus.texts)
        assert evaluate_vectors("x", data, *vectors, "cosine").rankings == found.rankings
        assert all(len(ids) == 40 for ids in found.rankings.values())
        assert found.metrics["mb"] > 0
        assert found.metrics["ms"] >= found.metrics["ms_encode"] > 0

    def test_bm25_finds_shared_words(self, beir):
        found = evaluate_bm25(read_beir(beir, "dev"))
        assert found.metrics["recall@100"] == 1.0
        assert found.metrics["ndcg@10"] > 0.5

    def test_bm25_finds_nothing_where_no_word_is_shared(self, beir):
        """An index gives no document then; the first of the corpus are no better than others."""
        data = read_beir(beir, "dev")
        queries = TextStore(["q"], ["zxqv"])
        found = evaluate_bm25(RetrievalData("x", data.corpus, queries, {"q": {data.corpus.ids[0]: 1}}))
        assert found.rankings == {"q": []}
        assert found.scores == {"q": []}
        assert found.metrics["ndcg@10"] == 0.0

    def test_random_vectors_are_random(self, beir):
        data = read_beir(beir, "dev")
        rng = np.random.default_rng(0)
        found = evaluate_vectors("x", data, rng.normal(size=(10, 4)), rng.normal(size=(40, 4)), "dot")
        assert found.metrics["mrr@10"] < 0.5


class TestHeedOfQueries:
    def test_what_looks_at_queries_and_what_does_not(self, beir):
        data = read_beir(beir, "dev")
        assert (
            query_sensitivity(data, lambda pairs: np.array([len(set(q.split()) & set(d.split())) for q, d in pairs]))
            > 0.9
        )
        assert query_sensitivity(data, lambda pairs: np.array([len(d) for _, d in pairs])) == 0.5
        assert query_sensitivity(data, lambda pairs: np.array([-(q in data.queries.texts[:5]) for q, _ in pairs])) < 0.6

    def test_queries_of_one_document(self):
        store = TextStore(["a", "b"], ["one", "two"])
        data = RetrievalData("x", TextStore(["1"], ["doc"]), store, {"a": {"1": 1}, "b": {"1": 1}})
        assert math.isnan(query_sensitivity(data, lambda pairs: np.zeros(len(pairs))))

    def test_a_ranker_and_one_dev_query(self, beir, tmp_path, trunk, tiny_student):
        """There is nothing to measure: the run ends as any other."""
        ranker = {"type": "retort.students.create.ranker", "init_parameters": {"trunk": trunk, "layers": [0]}}
        tree = Recipe.from_yaml("ranker").to_dict() | {"student": ranker}
        overrides = ["stages.0.steps=1", "training.batch_size=2", "training.dev_queries=1", "training.precision=no"]
        overrides.append(f"teachers.retriever.init_parameters.model={tiny_student}")
        metrics = run_recipe(Recipe.from_dict(tree, overrides=overrides), beir, tmp_path / "x" / "run")
        assert "query sensitivity" not in metrics["dev"]
