# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""CA-MKD: reference values, weights with and without labels, features, mistakes, and a killed run."""

import copy

import pytest
import torch
from tiny import T1, T2, T3, S, assert_comes_back, everything, lists, log_of, spec, terms_of

from retort.trainers import losses
from retort.trainers.distiller import Distiller
from retort.trainers.encoder_output import DenseOutput, PairOutput
from retort.trainers.methods.ca_mkd import Confidence, FeatureDistance, confidence
from retort.trainers.objectives import ListwiseKL
from retort.trainers.recipe import Recipe
from retort.trainers.roles import ModelInfo, StepContext
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError

CONFIDENCE = "retort.trainers.methods.ca_mkd.Confidence"
HERE = StepContext("s", 0, 1)


def weights_of(batch, **options) -> torch.Tensor:
    return Confidence(**{"calibration": "none"} | options)(batch.teacher_scores, batch, HERE)


class TestSeveralTeachers:
    def terms(self, toy, tiny_model, monkeypatch, **options):
        objective = ListwiseKL(teacher=["t1", "t2", "t3"], student_temperature=4.0)
        distiller = Distiller(tiny_model(1), {"s": [(objective, 1.0)]}, ModelInfo(16, {}, {}), scale=1.0, **options)
        monkeypatch.setattr(distiller.encoder, "encode", lambda *_: PairOutput(S))
        terms = distiller(toy, StepContext("s", 0, 1))
        assert distiller.counts(toy, StepContext("s", 0, 1)) == {"listwise_kl": float(terms["listwise_kl"][1].sum())}
        return terms

    def test_reference_values(self, toy, tiny_model, monkeypatch):
        terms = self.terms(toy, tiny_model, monkeypatch, weightings={"s": Confidence(calibration="none")})
        weights = torch.stack([terms[f"teacher_weight.{name}"][0] for name in ("t1", "t2", "t3")], dim=1)
        assert weights[0].tolist() == pytest.approx([0.451962, 0.202545, 0.345493], abs=1e-6)
        assert weights[1].tolist() == pytest.approx([0.457835, 0.459034, 0.083131], abs=1e-6)
        assert float(terms["listwise_kl"][0].mean()) == pytest.approx(0.450024, abs=1e-6)

    def test_without_a_weighting_they_count_alike(self, toy, tiny_model, monkeypatch):
        terms = self.terms(toy, tiny_model, monkeypatch)
        assert float(terms["listwise_kl"][0].mean()) == pytest.approx(0.453377, abs=1e-6)
        assert set(terms) == {"listwise_kl"}

    def test_what_a_weighting_logs(self, toy, tiny_model, monkeypatch):
        class Talking(Confidence):
            def forward(self, scores, batch, ctx):
                weights = super().forward(scores, batch, ctx)
                ctx.logged_terms["most"] = weights.amax(0), torch.ones(len(batch.queries), dtype=torch.bool)
                return weights

        terms = self.terms(toy, tiny_model, monkeypatch, weightings={"s": Talking(calibration="none")})
        assert terms["most"][0].tolist() == pytest.approx([0.451962, 0.459034], abs=1e-6)

    def test_the_weight_of_one_that_says_nothing_goes_to_the_others(self, toy, tiny_model, monkeypatch):
        toy.teacher_scores["t2"] = toy.teacher_scores["t2"].clone()
        toy.teacher_scores["t2"][0] = torch.nan
        values, counts, _ = self.terms(toy, tiny_model, monkeypatch)["listwise_kl"]
        assert float(values[0]) == pytest.approx((0.185040 + 0.278332) / 2, abs=1e-6)
        assert counts.all()

    def test_a_killed_run(self, list_tree, beir, tmp_path, monkeypatch):
        list_tree["stages"][0] |= {
            "weighting": spec(CONFIDENCE),
            "objectives": [
                spec("ListwiseKL", teacher=["teacher", "ranker"], teacher_temperature={"teacher": 1.0, "ranker": 2.0}),
                spec("retort.trainers.methods.ca_mkd.FeatureDistance", teacher=["teacher", "other"]),
                spec("Contrastive", weight=0.1),
            ],
        }
        list_tree["teachers"]["other"] = copy.deepcopy(list_tree["teachers"]["teacher"])
        out = tmp_path / "whole" / "run"
        run_recipe(Recipe.from_dict(list_tree), beir, out)
        shares = log_of(out)[0]["logged_terms"]
        assert shares["teacher_weight.teacher"] + shares["teacher_weight.ranker"] == pytest.approx(1, abs=1e-6)
        assert_comes_back(list_tree, beir, tmp_path, monkeypatch, everything(out), (3,))

    @pytest.mark.parametrize(
        ("objective", "change", "message"),
        [
            ("ListwiseKL", {"teacher": "ranker"}, "weighting: no objective of the stage names several teachers"),
            ("Alignment", {"teacher": ["teacher", "ranker"]}, "init_parameters.teacher: expected text; it is"),
            ("ListwiseKL", {"teacher": ["teacher", "rankr"]}, "there is no teacher 'rankr'"),
        ],
    )
    def test_mistakes(self, list_tree, beir, tmp_path, objective, change, message):
        list_tree["stages"][0] |= {
            "weighting": spec(CONFIDENCE),
            "objectives": [spec(objective, **change)],
        }
        with pytest.raises(RecipeError, match=message):
            run_recipe(Recipe.from_dict(list_tree), beir, tmp_path / "run")

    def test_scores_of_lists_are_needed(self, list_tree, beir, tmp_path):
        list_tree["stages"][0] |= {
            "weighting": spec(CONFIDENCE),
            "objectives": [spec("InBatchKL", teacher=["teacher", "ranker"])],
            "batches": "texts",
            "candidates": None,
        }
        with pytest.raises(
            RecipeError, match="weighting: it goes by scores of candidate lists; .*TextBatches gives mere"
        ):
            run_recipe(Recipe.from_dict(list_tree), beir, tmp_path / "run")


class TestConfidence:
    def test_reference_values(self):
        """The losses on the labels; several positives share the mass."""
        positive = torch.tensor([[True, False, False, False, False], [True, False, False, True, False]])
        found = [losses.marginal_nll(scores, positive, torch.ones_like(positive)).tolist() for scores in (T1, T2, T3)]
        first, second = zip(*found, strict=True)
        assert first == pytest.approx([0.251166, 2.074438, 1.419416], abs=1e-6)
        assert second == pytest.approx([0.226435, 0.197589, 2.517619], abs=1e-6)

    def test_a_single_label(self, toy):
        toy.labels[1, 3] = 0
        assert weights_of(toy)[:, 1].tolist() == pytest.approx([0.475746, 0.419596, 0.104657], abs=1e-6)
        kl = torch.stack(
            [losses.listwise_kl(S, t, toy.mask, student_temperature=4.0, teacher_temperature=4.0) for t in (T1, T2, T3)]
        )
        assert float((weights_of(toy) * kl).sum() / (2 * 3)) == pytest.approx(0.148905, abs=1e-6)  # the code's 1/K

    def test_its_properties(self):
        misfits = torch.rand(4, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5
        usable = torch.ones_like(misfits, dtype=torch.bool)
        found = confidence(misfits, usable)
        torch.testing.assert_close(found.sum(0), torch.ones(50).double())
        assert float(found.max()) <= 1 / 3 and float(found.min()) >= 0
        order = torch.tensor([2, 0, 3, 1])
        torch.testing.assert_close(confidence(misfits[order], usable), found[order])
        torch.testing.assert_close(confidence(misfits * 0 + 2, usable), torch.full((4, 50), 0.25).double())
        misfits[1] = 1e9
        assert not confidence(misfits, usable)[1].any()
        two = confidence(torch.tensor([[1.0], [3.0]]), torch.ones(2, 1).bool())
        assert float(two[0]) == pytest.approx(float(torch.sigmoid(torch.tensor(2.0))))

    def test_teachers_without_scores(self, toy):
        """$K$ counts those that have some: of two the rule is the sigmoid, one has all, and none has nothing to say."""
        toy.teacher_scores = {name: scores.clone() for name, scores in toy.teacher_scores.items()}
        toy.teacher_scores["t2"][0] = torch.nan
        first = weights_of(toy)[:, 0]
        assert first.tolist() == pytest.approx(
            [float(torch.sigmoid(torch.tensor(1.419416 - 0.251166))), 0.0, 0.237171], abs=1e-6
        )
        toy.teacher_scores["t3"][0] = torch.nan
        assert weights_of(toy)[:, 0].tolist() == [1, 0, 0]
        toy.teacher_scores["t1"][0] = torch.nan
        assert weights_of(toy)[:, 0].tolist() == [0, 0, 0]

    @pytest.mark.parametrize("unlabelled", [None, "entropy", "mean", "uniform"])
    def test_teachers_are_compared_over_what_all_scored(self, toy, unlabelled):
        """Of two that know nothing the one with the shorter list is no better; one without scores changes nothing."""
        if unlabelled:
            toy.labels[:] = -1
        options = {"unlabelled": unlabelled} if unlabelled else {}
        short = torch.zeros_like(T1)
        short[:, 2:] = torch.nan
        toy.teacher_scores = {"long": torch.zeros_like(T1), "short": short}
        assert weights_of(toy, **options)[:, 0].tolist() == [0.5, 0.5]
        toy.teacher_scores = {"t1": T1, "t2": T2}
        alone = weights_of(toy, **options)
        toy.teacher_scores = {"t1": T1, "none": torch.full_like(T1, torch.nan), "t2": T2}
        with_another = weights_of(toy, **options)
        torch.testing.assert_close(with_another[[0, 2]], alone)
        assert not with_another[1].any()
        apart = T2.clone()
        apart[:, :4] = torch.nan
        toy.teacher_scores = {"t1": torch.where(apart.isnan(), T1, torch.nan), "t2": apart}
        assert weights_of(toy, **options).tolist() in ([[0.5] * 2] * 2, [[1.0] * 2, [0.0] * 2])

    def test_queries_without_labels(self, toy):
        toy.labels[0] = -1
        entropies = torch.stack([losses.entropy(t, toy.mask)[0] for t in (T1, T2, T3)])
        expected = (1 - entropies / entropies.sum()) / 2
        torch.testing.assert_close(weights_of(toy)[:, 0], expected)
        assert weights_of(toy)[:, 1].tolist() == pytest.approx([0.457835, 0.459034, 0.083131], abs=1e-6)
        assert weights_of(toy, unlabelled="uniform")[:, 0].tolist() == pytest.approx([1 / 3] * 3)
        mean = torch.stack([t.softmax(-1)[0] for t in (T1, T2, T3)]).mean(0)
        crossed = torch.stack([-(mean * t.log_softmax(-1)[0]).sum() for t in (T1, T2, T3)])
        torch.testing.assert_close(weights_of(toy, unlabelled="mean")[:, 0], (1 - crossed.softmax(0)) / 2)

    def test_calibration(self, toy):
        """Standardised, a teacher's scale and offset say nothing; a temperature does."""
        plain = weights_of(toy, calibration="standardize")
        toy.teacher_scores["t1"] = T1 * 30 - 7
        torch.testing.assert_close(weights_of(toy, calibration="standardize"), plain)
        assert not torch.allclose(weights_of(toy), plain)
        hot = weights_of(toy, calibration="standardize", temperatures={"t1": 50.0})
        assert float(hot[0, 0]) < float(plain[0, 0])

    def test_padding_changes_no_weight(self, toy):
        """Scores are standardised over the list alone."""
        plain = weights_of(toy, calibration="standardize")

        def padded(values, fill):
            return torch.nn.functional.pad(values, (0, 3), value=fill)

        toy.teacher_scores = {name: padded(scores + 5, 0.0) for name, scores in toy.teacher_scores.items()}
        toy.labels, toy.mask, toy.index = padded(toy.labels, -1), padded(toy.mask, False), padded(toy.index, 0)
        torch.testing.assert_close(weights_of(toy, calibration="standardize"), plain)

    def test_no_gradient_reaches_the_teachers(self, toy):
        toy.teacher_scores = {name: scores.clone().requires_grad_() for name, scores in toy.teacher_scores.items()}
        assert not weights_of(toy).requires_grad

    def test_a_spoilt_teacher_is_told(self):
        """A copy whose scores are shuffled for some queries weighs less on these."""
        rng = torch.Generator().manual_seed(0)
        good = torch.randn(200, 8, generator=rng, dtype=torch.float64)
        good[:, 0] += 3
        spoilt = good.clone()
        spoilt[:80] = good[:80][:, torch.randperm(8, generator=rng)]
        batch = lists(good)
        batch.teacher_scores = {
            "good": good,
            "other": good + 0.3 * torch.randn(200, 8, generator=rng),
            "spoilt": spoilt,
        }
        weights = weights_of(batch)[2]
        shuffled, kept = weights[:80], weights[80:]
        auc = (shuffled[:, None] < kept[None]).double().mean()
        assert float(auc) > 0.8

    def test_mistakes(self):
        with pytest.raises(ValueError, match="temperatures must be above 0; that of 'a' is 0"):
            Confidence(temperatures={"a": 0})
        with pytest.raises(ValueError, match="temperatures names 'z'; the stage's objectives have a, b"):
            Confidence(temperatures={"z": 1.0}).bind(["a", "b"], ModelInfo(1, {}, {}))


class TestFeatures:
    FEATURES = torch.tensor([[1.0, 0.0, 0.5], [0.2, 0.1, 0.0]], dtype=torch.float64)

    def test_reference_values(self):
        """The official class, run: a single label, and its division by the number of teachers."""
        features = torch.stack([self.FEATURES + 0.1, self.FEATURES - 0.5, self.FEATURES * 2])
        squares = torch.stack([losses.alignment(self.FEATURES, t, distance="mse") for t in features])
        single = torch.tensor([[True, False, False, False, False]] * 2)
        everything_ = torch.ones_like(single)
        misfits = torch.stack([losses.marginal_nll(t, single, everything_) for t in (T1, T2, T3)])
        weights = confidence(misfits, torch.ones(3, 2).bool())
        assert float((weights * squares).sum() / (2 * 3)) == pytest.approx(0.051752, abs=1e-6)

    @pytest.fixture
    def vectors(self, toy):
        """The toy batch with vectors of two teachers; the student has three dimensions."""
        rng = torch.Generator().manual_seed(0)

        def random(*shape):
            return torch.randn(*shape, generator=rng, dtype=torch.float64)

        toy.teacher_vectors = {"a": (random(2, 4), random(10, 4)), "b": (random(2, 5), random(10, 5))}
        toy.teacher_scores = {}
        return toy, DenseOutput(random(2, 3).requires_grad_(), random(10, 3), 20.0, "cosine")

    def objective(self, **options):
        found = FeatureDistance(teacher=["a", "b"], **options)
        torch.manual_seed(1)
        found.bind(ModelInfo(3, {"a": 4, "b": 5}, {"a": "cosine", "b": "dot"}))
        return found.double()

    def test_its_values(self, vectors):
        batch, output = vectors
        batch.mask[1, 2:] = False
        objective = self.objective()
        ctx = StepContext("s", 0, 1, teacher="a")
        ((values, counts),) = terms_of(objective, output, batch, ctx).values()
        adapter, (queries, documents) = objective.adapters[0], batch.teacher_vectors["a"]
        for row, width in ((0, 5), (1, 2)):
            parts = [(adapter(output.queries[row]) - queries[row]).pow(2).mean()]
            for place in batch.index[row, :width]:
                parts.append((adapter(output.documents[place]) - documents[place]).pow(2).mean())
            assert float(values[row].detach()) == pytest.approx(float(torch.stack(parts).mean().detach()))
        assert counts.all()

    def test_texts_that_a_teacher_refused_take_no_part(self, vectors):
        batch, output = vectors
        whole, objective = copy.deepcopy(batch), self.objective()
        (queries, documents), lost = batch.teacher_vectors["a"], int(batch.index[1, 2])
        queries[0], documents[lost] = torch.nan, torch.nan
        ctx = StepContext("s", 0, 1, teacher="a")
        ((values, counts),) = terms_of(objective, output, batch, ctx).values()
        assert counts.all()
        whole.mask[1, 2] = False
        expected = objective(output, whole, ctx)["feature_distance"]
        torch.testing.assert_close(values[1], expected[1])
        values.sum().backward()
        assert output.queries.grad.isfinite().all() and not output.queries.grad[0].any()
        assert all(p.grad.isfinite().all() for p in objective.adapters[0].parameters())
        documents[:], queries[:] = torch.nan, torch.nan
        assert not objective.valid(batch, "a")["feature_distance"].any()
        assert objective.valid(batch, "b")["feature_distance"].all()

    def test_any_name_and_any_precision(self, vectors):
        """`train` is a module's method; a student in bfloat16 has vectors of it, adapters have not."""
        batch, output = vectors
        objective = FeatureDistance(teacher="train")
        objective.bind(ModelInfo(3, {"train": 4}, {"train": "cosine"}))
        batch.teacher_vectors = {"train": tuple(v.bfloat16() for v in batch.teacher_vectors["a"])}
        half = DenseOutput(output.queries.bfloat16(), output.documents.bfloat16(), 20.0, "cosine")
        assert objective(half, batch, HERE)["feature_distance"].isfinite().all()

    def test_its_weights(self, vectors):
        """By the adapted vectors' similarities, as each teacher compares its own; even for queries without a label."""
        batch, output = vectors
        objective = self.objective(teacher_scale=3.0)
        found = objective.shares(output, batch, HERE)
        misfits = []
        for name, adapter in zip(("a", "b"), objective.adapters, strict=True):
            q, d = (adapter(v) for v in (output.queries, output.documents))
            scores = 3 * (torch.cosine_similarity(q[:, None], d[None], dim=-1) if name == "a" else q @ d.T)
            misfits.append(losses.marginal_nll(scores.gather(1, batch.index), batch.labels == 1, batch.mask))
        expected = torch.sigmoid(torch.stack([misfits[1] - misfits[0], misfits[0] - misfits[1]]))
        torch.testing.assert_close(found, expected)
        assert not found.requires_grad
        assert self.objective(detach_weights=False).shares(output, batch, HERE).requires_grad
        batch.labels[0] = -1
        assert objective.shares(output, batch, HERE)[:, 0].tolist() == [0.5, 0.5]

    def test_the_distiller_weighs_by_them(self, vectors, tiny_model, monkeypatch):
        """Without a weighting of the stage, and whatever that is."""
        batch, output = vectors
        info = ModelInfo(3, {"a": 4, "b": 5}, {"a": "cosine", "b": "dot"})
        objective = FeatureDistance(teacher=["a", "b"])
        distiller = Distiller(tiny_model(1), {"s": [(objective, 1.0)]}, info, scale=1.0)
        objective.double()
        monkeypatch.setattr(distiller.encoder, "encode", lambda *_: output)
        values, counts, _ = distiller(batch, HERE)["feature_distance"]
        each = torch.stack(
            [objective(output, batch, StepContext("s", 0, 1, teacher=n))["feature_distance"] for n in ("a", "b")]
        )
        torch.testing.assert_close(values, (objective.shares(output, batch, HERE) * each).sum(0))
        assert counts.all()
