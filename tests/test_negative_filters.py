# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Mined documents that a teacher takes for relevant are no negatives."""

import logging
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tiny import pool, spec, stage

from retort.trainers.candidates.filters import filter_negatives
from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError

# Two queries: a positive, one judged irrelevant, and mined ones; the second has no positive.
LABELS = [1, 0, -1, -1, -1, -1, 0, -1, -1]
SCORES = [10.0, 9.9, 9.8, 9.0, 5.0, np.nan, 9.0, 9.0, 1.0]
OFFSETS = [0, 6, 9]


def lists() -> CandidateLists:
    rows = np.arange(9)
    return CandidateLists(
        query_rows=np.arange(2),
        offsets=np.array(OFFSETS),
        rows=rows,
        labels=np.array(LABELS, dtype=np.int8),
        source=np.ones(9, dtype=np.int8),
        found_by=np.full(9, 2),
        sources=["labels", "bm25"],
        scores={"t": np.array(SCORES, dtype=np.float32)},
    )


def kept(scores=SCORES, **bounds) -> list[int]:
    context = SimpleNamespace(scores=lambda *_: np.array(scores, dtype=np.float32), kinds={"t": "scores"})
    found = filter_negatives(context, lists(), teacher="t", **bounds)
    assert found.offsets[-1] == len(found.rows) == len(found.scores["t"])
    assert [found.rows[a:b].tolist() for a, b in zip(found.offsets, found.offsets[1:], strict=False)] == [
        [r for r in found.rows.tolist() if r < 6],
        [r for r in found.rows.tolist() if r >= 6],
    ]
    return found.rows.tolist()


@pytest.mark.parametrize(
    ("bounds", "taken"),
    [
        ({}, {5}),  # what has no score is not known to be a negative
        ({"absolute_margin": 0.5}, {2, 5}),
        ({"absolute_margin": 1.5}, {2, 3, 5}),
        ({"absolute_margin": 1.0}, {2, 5}),  # at a bound it stays
        ({"relative_margin": 0.1}, {2, 5}),
        ({"relative_margin": 0.05}, {2, 5}),
        ({"relative_margin": 0.2}, {2, 3, 5}),
        ({"max_score": 8.0}, {2, 3, 5, 7}),
        ({"min_score": 5.0}, {5, 8}),
        ({"min_score": 2.0, "max_score": 9.0, "absolute_margin": 1.5}, {2, 3, 5, 8}),
    ],
)
def test_what_is_taken(bounds, taken):
    """The judged stay; margins say nothing where no positive is scored."""
    assert kept(**bounds) == [row for row in range(9) if row not in taken]


def test_scores_below_zero():
    """A margin of a share lies below the positive, whatever its sign."""
    scores = [-1.0, -1.0, -1.01, -1.2, -3.0, -9.0, -1.0, -1.0, -1.0]
    assert kept(scores, relative_margin=0.05) == [0, 1, 3, 4, 5, 6, 7, 8]


def test_the_least_of_several_positives():
    scores = [10.0, 7.0, 8.0, 6.0, 5.0, 5.0, 9.0, 9.0, 1.0]
    found = lists()
    found.labels[1] = 1
    context = SimpleNamespace(scores=lambda *_: np.array(scores, dtype=np.float32), kinds={})
    assert filter_negatives(context, found, teacher="t", absolute_margin=0.0).rows.tolist() == [0, 1, 3, 4, 5, 6, 7, 8]


def test_what_each_bound_takes_is_logged(caplog):
    with caplog.at_level(logging.INFO, "retort"):
        kept(max_score=8.0, absolute_margin=0.5)
    assert "absolute_margin takes 1 of 6 documents, of 1 lists" in caplog.text
    assert "max_score takes 3 of 6 documents, of 2 lists" in caplog.text


def test_an_order_will_not_do():
    context = SimpleNamespace(scores=lambda *_: np.zeros(9, dtype=np.float32), kinds={"t": "ranks"})
    with pytest.raises(RecipeError, match="'t' gives an order without scores"):
        filter_negatives(context, lists(), teacher="t", max_score=1.0)


class TestRecipe:
    @pytest.fixture
    def tree(self, recipe_tree, tiny_ranker):
        recipe_tree["teachers"]["ranker"] = spec("CrossEncoderTeacher", model=tiny_ranker, device="cpu")
        candidates = pool("bm25", negatives=3, filter={"teacher": "ranker", "absolute_margin": 0.0})
        recipe_tree["stages"] = [stage("lists", 3, spec("Contrastive"), candidates=candidates)]
        return recipe_tree

    def test_a_run(self, tree, beir, tmp_path):
        """A teacher of no objective; its scores bound the lists that the run keeps."""
        tree["candidates"]["bm25"] = spec("BM25Miner", depth=8)
        run_recipe(Recipe.from_dict(tree), beir, tmp_path / "filtered" / "run")
        del tree["stages"][0]["candidates"]["filter"]
        run_recipe(Recipe.from_dict(tree), beir, tmp_path / "whole" / "run")
        tables = [pd.read_parquet(tmp_path / n / "run/candidates/lists.parquet") for n in ("filtered", "whole")]
        pairs = [set(zip(t["query_id"], t["document_id"], strict=True)) for t in tables]
        assert pairs[0] < pairs[1]
        positives = [set(t[t["label"] == 1]["query_id"]) for t in tables]
        assert positives[0] == positives[1]

    def test_ranks_of_each_source(self, tree, beir, tmp_path):
        tree["stages"][0]["candidates"] = pool("bm25", negatives=3, range=[1, 3])
        run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")
        table = pd.read_parquet(tmp_path / "run/candidates/lists.parquet")
        assert table[table["label"] == -1].groupby("query_id").size().max() <= 2

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"filter": {"teacher": "rankr"}}, "candidates.filter: there is no teacher 'rankr'"),
            ({"filter": {"teacher": "ranker", "margin": 1}}, "filter.margin: unknown key"),
            ({"filter": {"absolute_margin": 1}}, "filter.teacher"),
            ({"range": [3, 3]}, "range: the first rank must lie before the end"),
            ({"range": [1, 3], "skip": 1}, "skip must not stand beside it"),
        ],
    )
    def test_mistakes(self, tree, beir, tmp_path, change, message):
        tree["stages"][0]["candidates"] = pool("bm25", negatives=3, **change)
        with pytest.raises(RecipeError, match=message):
            run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")
