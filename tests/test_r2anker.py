# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""R2ANKER: reference values of its draws, losses and diagnostic, what its ranker learns from, and a killed run."""

from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from tiny import assert_comes_back, everything

from retort.trainers.candidates.bm25 import BM25Miner
from retort.trainers.candidates.dense import DenseMiner
from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.candidates.mining import build_lists
from retort.trainers.candidates.sampling import SAMPLINGS, draw
from retort.trainers.context import TrainingContext
from retort.trainers.data.beir import read_beir
from retort.trainers.losses import contrastive, listwise_kl
from retort.trainers.methods.r2anker import joint_divergence, measure_joint_divergence, tempered_to
from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe
from retort.trainers.teachers.bi_encoder import BiEncoderTeacher


class TestSampling:
    """09-A: bm25 found a b c, dense b d, splade e b a."""

    FOUND_BY = np.array([0b101, 0b111, 0b001, 0b010, 0b100]) << 1  # a b c d e
    FIRST: ClassVar = {
        "multiset": [0.25, 0.375, 0.125, 0.125, 0.125],
        "union": [0.2] * 5,
        "balanced": [0.222222, 0.388889, 0.111111, 0.166667, 0.111111],
    }

    @pytest.mark.parametrize("how", SAMPLINGS)
    def test_first_draws(self, how):
        rng = np.random.default_rng(0)
        drawn = [int(draw(self.FOUND_BY, 1, how, rng)[0]) for _ in range(4_000)]
        assert np.bincount(drawn, minlength=5) / len(drawn) == pytest.approx(self.FIRST[how], abs=0.02)

    @pytest.mark.parametrize("how", SAMPLINGS)
    def test_without_replacement(self, how):
        rng = np.random.default_rng(0)
        assert draw(self.FOUND_BY[:0], 3, how, rng).tolist() == []
        for count in (3, 5, 9):
            drawn = draw(self.FOUND_BY, count, how, rng).tolist()
            assert len(drawn) == len(set(drawn)) == min(count, 5)

    def test_second_draws_are_balanced_over_what_is_left(self):
        """After b: bm25 has a and c, dense d alone, splade e and a; so d comes next once in three."""
        rng = np.random.default_rng(0)
        pairs = [draw(self.FOUND_BY, 2, "balanced", rng).tolist() for _ in range(8_000)]
        after = [second for first, second in pairs if first == 1]
        share = np.bincount(after, minlength=5) / len(after)
        assert share == pytest.approx([1 / 3, 0, 1 / 6, 1 / 3, 1 / 6], abs=0.02)


class TestJointDivergence:
    def test_reference_value(self):
        """09-C; by convexity the mixture is never farther than the sources are on average."""
        ranker = np.array([0.3, 0.1, 0.1, 0.5])
        sources = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7], [0.25] * 4])
        each, mixture = joint_divergence(ranker, sources)
        assert each.tolist() == pytest.approx([0.550530, 0.161348, 0.218012], abs=1e-6)
        assert mixture == pytest.approx(0.050999, abs=1e-6)
        rng = np.random.default_rng(0)
        for _ in range(50):
            p, *q = rng.dirichlet(np.ones(6), size=4)
            each, mixture = joint_divergence(p, np.stack(q))
            assert mixture <= each.mean() + 1e-12

    @pytest.mark.parametrize("tau", [0.2, 1.0, 3.0])
    def test_a_distribution_as_flat_as_another(self, tau):
        """From its own at any temperature; one that says nothing has no other entropy."""
        logits = np.array([2.0, 1.0, 0.5, -0.5])
        start, expected = (torch.tensor(logits / t).softmax(-1).numpy() for t in (1.0, tau))
        entropy = float(-(expected * np.log(expected)).sum())
        assert tempered_to(start, entropy).tolist() == pytest.approx(expected.tolist(), abs=1e-6)
        assert tempered_to(np.full(4, 0.25), entropy).tolist() == [0.25] * 4

    def test_controls_by_hand(self, pooled):
        """09-C's third source is uniform; a source alone is made as flat as the mixture."""
        ranker = np.log([0.3, 0.1, 0.1, 0.5])
        scores = {"a": np.log([0.7, 0.1, 0.1, 0.1]), "b": np.log([0.1, 0.1, 0.1, 0.7])}
        measured = pooled(ranker, {name: ([[0, 1, 2, 3]], [own]) for name, own in scores.items()})
        p, a, b = (torch.tensor(x / x.std()).softmax(-1) for x in (ranker, *scores.values()))
        mixture = (a + b) / 2
        assert measured.uniform == pytest.approx(float((p * (p / 0.25).log()).sum()))
        # Both sources are permutations of one another: they are equally flat at one temperature.
        taus = np.linspace(1.0, 4.0, 30_001)
        flat = [torch.tensor(scores["a"] / scores["a"].std() / tau).softmax(-1) for tau in taus]
        gaps = [abs(float((q * q.log()).sum() - (mixture * mixture.log()).sum())) for q in flat]
        q = flat[int(np.argmin(gaps))]
        for name, own in (("a", q), ("b", q.flip(0))):
            assert measured.tempered[name] == pytest.approx(float((p * (p / own).log()).sum()), abs=1e-4)

    def test_a_mixture_that_is_near_for_being_flat_alone(self, pooled):
        """The ranker flattens one source; what the other adds to it is nothing that its temperature would not."""
        one, other = np.array([3.0, 2.0, 1.0, 0.0]), np.array([0.0, 3.0, 0.0, 3.0])
        found = {"one": ([[0, 1, 2, 3]], [one]), "other": ([[0, 1, 2, 3]], [other])}
        measured = pooled(one, found)
        assert measured.tempered["one"] < measured.mixture < measured.sources["other"]
        assert measured.mixture < measured.uniform

    def test_over_mined_lists(self, beir, tiny_student, tmp_path):
        """A source that is the ranker itself is at no distance; the mixture lies between."""
        teachers = {name: BiEncoderTeacher(model=tiny_student, device="cpu") for name in ("dense", "ranker")}
        context = TrainingContext(read_beir(beir, "train"), teachers, tmp_path / "cache")
        miners = {"bm25": BM25Miner(depth=40), "dense": DenseMiner(model="dense", depth=40)}
        found = measure_joint_divergence(context, miners, "ranker")
        assert found.sources["dense"] == pytest.approx(0, abs=1e-6)
        assert 0 < found.mixture < found.sources["bm25"]

    @pytest.fixture
    def pooled(self, monkeypatch):
        """Measure from the ranker's scores and what each source found; by default one query with four documents."""

        def measure(ranker, mined, owners=(0, 0, 0, 0), rows=(0, 1, 2, 3), first_rows=(0, 1, 2, 3)):
            pool = SimpleNamespace(
                labels=np.full(len(rows), -1),
                found_by=np.full(len(rows), 2),
                owners=np.array(owners),
                rows=np.array(rows),
                query_rows=[*dict.fromkeys(owners)],
            )
            corpus = SimpleNamespace(first_rows=np.array(first_rows))
            context = SimpleNamespace(data=SimpleNamespace(corpus=corpus), scores=lambda *_: ranker)
            monkeypatch.setattr("retort.trainers.methods.r2anker.build_lists", lambda *_: pool)
            monkeypatch.setattr(
                "retort.trainers.methods.r2anker.mine", lambda name, _: tuple(map(np.array, mined[name]))
            )
            return measure_joint_divergence(context, {name: name for name in mined}, "ranker")

        return measure

    def test_a_control_that_cannot_be_sharp_enough_is_finite(self):
        """Ten that are tied have more entropy than the mixture with a source that is sure."""
        tied, sure = np.repeat([1.0, 0.0], 10), np.eye(20)[0] * 30
        tied, sure = (np.exp(s) / np.exp(s).sum() for s in (tied, sure))
        found = tempered_to(tied, 2.142)
        assert (found > 0).all()
        assert found[:10] == pytest.approx(0.1)
        assert np.isfinite(joint_divergence(sure, np.stack([found, tied]))[0]).all()

    @pytest.mark.parametrize("factor", [1.0, 10.0])
    def test_scores_that_are_missing_and_scales(self, pooled, factor):
        """What a source did not find has the lowest score that it gave; each spread is divided out."""
        ranker = np.array([2.0, 1.0, 0.0, -1.0])
        mined = {"a": ([[0, 1, -1]], [[-1.0, -3.0, np.nan]]), "b": ([[3, 2, 1]], [[7.0, 5.0, 4.0]])}
        whole = [np.array([-1.0, -3.0, -3.0, -3.0]), np.array([4.0, 4.0, 5.0, 7.0])]
        p, a, b = (torch.tensor(x / x.std()).softmax(-1) for x in (ranker, *whole))
        expected = [float((p * (p / q).log()).sum()) for q in (a, b, (a + b) / 2)]
        scaled = {name: (rows, [[factor * s for s in own] for own in scores]) for name, (rows, scores) in mined.items()}
        measured = pooled(factor * ranker, scaled)
        assert [*measured.sources.values(), measured.mixture] == pytest.approx(expected)

    def test_queries_that_cannot_be_compared_are_passed_over(self, pooled):
        """One negative, or one that the ranker did not score, says nothing. Where no query is left all is 0."""
        mined = {"a": ([[0, 1], [2, -1], [0, 1]], [[2.0, 1.0], [1.0, np.nan], [1.0, 5.0]])}
        scores = np.array([3.0, 7.0, 1.0, np.nan, 2.0])
        measured = pooled(scores, mined, owners=(0, 0, 1, 2, 2), rows=(0, 1, 2, 0, 1))
        assert measured == pooled(scores[:2], mined, owners=(0, 0), rows=(0, 1))
        assert measured.mixture > 0
        nothing = pooled(scores[2:3], mined, owners=(1,), rows=(2,))
        assert (nothing.sources, nothing.mixture, nothing.uniform, nothing.tempered) == ({"a": 0}, 0, 0, {"a": 0})

    def test_a_copy_counts_as_the_first(self, pooled):
        """The pool holds the first of equal documents; a source may find another."""
        ranker, scores = np.array([2.0, 1.0, 0.0, -1.0]), [[1.0, 5.0, 2.0, 0.0]]
        expected = pooled(ranker, {"a": ([[0, 1, 2, 3]], scores)})
        assert pooled(ranker, {"a": ([[4, 1, 2, 3]], scores)}, first_rows=(0, 1, 2, 3, 0)) == expected

    def test_it_is_over_negatives(self, beir, tiny_student, tmp_path):
        """Positives, and what nobody but the judgements names, say nothing of sources."""
        teachers = {"ranker": BiEncoderTeacher(model=tiny_student, device="cpu")}
        data = read_beir(beir, "train")
        grades = {q: {**judged, "d00": 0} if q == "q44" else judged for q, judged in data.qrels.items()}
        context = TrainingContext(replace(data, qrels=grades), teachers, tmp_path / "cache")
        miners = {"bm25": BM25Miner(depth=3)}
        asked = []
        context.scores = lambda _, owners, rows: (
            asked.extend(zip(owners, rows, strict=True)) or np.arange(len(rows)) * 1.0
        )
        measure_joint_divergence(context, miners, "ranker")
        lists = build_lists(context, miners)
        mined = lists.labels == -1
        assert set(asked) == set(zip(lists.owners[mined], lists.rows[mined], strict=True))
        assert set(lists.labels.tolist()) == {1, 0, -1}

    def test_a_source_without_scores(self, beir, tiny_student, tmp_path):
        class Mute(BM25Miner):
            def mine(self, *arguments):
                rows, scores = super().mine(*arguments)
                return rows, np.full_like(scores, np.nan)

        teachers = {"ranker": BiEncoderTeacher(model=tiny_student, device="cpu")}
        context = TrainingContext(read_beir(beir, "train"), teachers, tmp_path / "cache")
        with pytest.raises(ValueError, match="mute gives no scores"):
            measure_joint_divergence(context, {"mute": Mute(depth=3)}, "ranker")


def test_losses():
    """09-B: a ranker's listwise loss, divergence from it, and both for the student."""
    ranker = torch.tensor([[2.0, 1.5, 0.0, -1.0], [0.5, 1.0, 0.2, 0.1]])
    student = torch.tensor([[1.0, 0.9, 0.1, 0.0], [0.3, 0.4, 0.2, 0.1]])
    positive, mask = torch.zeros(2, 4, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)
    positive[:, 0] = True
    divergence = listwise_kl(student, ranker, mask).mean()
    assert float(contrastive(ranker, positive, mask).mean()) == pytest.approx(0.992144, abs=1e-6)
    assert float(divergence) == pytest.approx(0.081322, abs=1e-6)
    assert float(divergence + contrastive(student, positive, mask).mean()) == pytest.approx(1.245365, abs=1e-6)


class TestRun:
    def test_ranker_and_student_learn_from_one_pool(self, r2anker_tree, beir, tmp_path):
        """Both learn from what any of the retrievers found, and their lists say which ones did."""
        out = tmp_path / "a" / "run"
        run_recipe(Recipe.from_dict(r2anker_tree), beir, out)
        train = read_beir(beir, "train")
        paths = ("candidates/distil.parquet", "teachers/ranker/candidates/rank.parquet")
        ours, its = (CandidateLists.load(out / path, train) for path in paths)
        assert ours.sources == its.sources == ["labels", "bm25", "dense", "sparse"]
        mined = [set(zip(p.owners.tolist(), p.rows.tolist(), p.found_by.tolist(), strict=True)) for p in (ours, its)]
        assert mined[0] & mined[1]
        finders = {bits >> 1 for pool in mined for _, _, bits in pool}
        assert {0b001, 0b010, 0b100, 0b111} <= finders  # some are one retriever's alone, some all three's

    def test_a_killed_run(self, r2anker_tree, beir, tmp_path, monkeypatch):
        """Killed while the ranker learns (4 steps), and while the student does."""
        out = tmp_path / "whole" / "run"
        run_recipe(Recipe.from_dict(r2anker_tree), beir, out)
        expected = everything(out)
        assert any(name.startswith("teachers/ranker/student.") for name in expected)
        assert_comes_back(r2anker_tree, beir, tmp_path, monkeypatch, expected, (2, 4, 7))
