# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Vectors that may be cut (Matryoshka)."""

import json

import numpy as np
import pytest
import torch
from tiny import lists, terms_of

from retort.cli import main
from retort.students import Student
from retort.trainers.distiller import Distiller
from retort.trainers.encoder_output import DenseOutput
from retort.trainers.methods.prod import AnchorKL
from retort.trainers.objectives import Alignment, Contrastive, ListwiseKL
from retort.trainers.recipe import Recipe
from retort.trainers.roles import ModelInfo, StepContext
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError


@pytest.fixture
def seen() -> DenseOutput:
    torch.manual_seed(0)
    return DenseOutput(torch.randn(2, 16), torch.randn(6, 16), 20.0, "cosine")


def test_scores_are_compared_at_each_size(tiny_model, seen, monkeypatch):
    batch = lists(torch.randn(2, 3))
    objectives = [(Contrastive(), 1.0), (ListwiseKL(teacher="t"), 0.5)]
    distiller = Distiller(tiny_model(1), {"s": objectives}, ModelInfo(16, {}, {}), scale=20.0, dims=[8, 4])
    monkeypatch.setattr(distiller.encoder, "encode", lambda *_: seen)
    terms = distiller(batch, StepContext("s", 0, 1))
    assert set(terms) == {f"{name}{cut}" for name in ("contrastive", "listwise_kl") for cut in ("", "@8", "@4")}
    for cut, dim in (("", 16), ("@8", 8), ("@4", 4)):
        cut_to = DenseOutput(seen.queries[:, :dim], seen.documents[:, :dim], 20.0, "cosine")
        alone, mask = terms_of(Contrastive(), cut_to, batch, StepContext("s", 0, 1))["contrastive"]
        values, counts, weight = terms[f"contrastive{cut}"]
        torch.testing.assert_close(values, alone)
        assert torch.equal(counts, mask)
        assert weight == pytest.approx(1 / 3)
        assert terms[f"listwise_kl{cut}"][2] == pytest.approx(0.5 / 3)
    assert set(distiller.counts(batch, StepContext("s", 0, 1))) == set(terms)


def test_an_anchor_is_cut_as_the_student_is(tiny_model, seen, monkeypatch):
    """Of its own copy it learns nothing, at any size."""
    distiller = Distiller(tiny_model(1), {"s": [(AnchorKL(), 1.0)]}, ModelInfo(16, {}, {}), scale=20.0, dims=[4])
    monkeypatch.setattr(distiller.encoder, "encode", lambda *_: seen)
    distiller.take_anchor("s")
    terms = distiller(lists(torch.randn(2, 3)), StepContext("s", 0, 1))
    assert set(terms) == {"anchor_kl", "anchor_kl@4"}
    assert all(float(values.abs().max()) < 1e-6 for values, _, _ in terms.values())


def test_vectors_are_compared_whole(tiny_model, seen, monkeypatch):
    batch = lists(torch.randn(2, 3))
    batch.teacher_vectors["v"] = (torch.randn(2, 16), torch.randn(6, 16))
    distiller = Distiller(
        tiny_model(1),
        {"s": [(Alignment(teacher="v"), 1.0)]},
        ModelInfo(16, {"v": 16}, {"v": "cosine"}),
        scale=20.0,
        dims=[8],
    )
    monkeypatch.setattr(distiller.encoder, "encode", lambda *_: seen)
    assert {name: weight for name, (_, _, weight) in distiller(batch, StepContext("s", 0, 1)).items()} == {
        "align_query": 1.0,
        "align_document": 1.0,
    }


def test_a_recipe_trains_them_and_they_are_evaluated_cut(recipe_tree, beir, tmp_path, capsys):
    recipe_tree["training"]["dims"] = [4, 2]
    run_recipe(Recipe.from_dict(recipe_tree), beir, tmp_path / "run")
    logged = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    terms = next(line["terms"] for line in reversed(logged) if "terms" in line)
    assert {"in_batch_kl", "in_batch_kl@4", "in_batch_kl@2"} <= set(terms)
    assert "align_query@4" not in terms
    student = str(tmp_path / "run/student")
    main(
        ["evaluate", student, "--data", str(beir), "--split", "dev", "--dim", "2", "--json", str(tmp_path / "cut.json")]
    )
    found = json.loads((tmp_path / "cut.json").read_text())["models"][student]
    assert 0 < found["ndcg@10"] <= 1
    assert Student.load(student).dim == 8
    whole = Student.load(student).encode_query(["the ship"])
    assert np.linalg.norm(whole) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("dims", [[8], [0], [4, 99]])
def test_sizes_that_are_none(recipe_tree, beir, tmp_path, dims):
    recipe_tree["training"]["dims"] = dims
    with pytest.raises(RecipeError, match="training.dims"):
        run_recipe(Recipe.from_dict(recipe_tree), beir, tmp_path / "run")
