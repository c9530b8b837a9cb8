# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Roles filled from outside over candidate lists: derived candidates, several teachers, what a stage fixes."""

import copy

import numpy as np
import pytest
import torch
from tiny import S, log_of, opened, pool, spec, stage

from retort.students import Ranker
from retort.trainers.batches.lists import ListBatches
from retort.trainers.candidates.bm25 import BM25Miner
from retort.trainers.candidates.mining import build_lists
from retort.trainers.context import TrainingContext
from retort.trainers.data.beir import read_beir
from retort.trainers.distiller import Distiller
from retort.trainers.encoder_output import PairOutput
from retort.trainers.methods.adam import NOISY, REINFORCED, DarkExamples, DarkKL
from retort.trainers.objectives import ListwiseKL
from retort.trainers.recipe import Recipe
from retort.trainers.roles import Derived, ModelInfo, StepContext
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.teachers.bi_encoder import BiEncoderTeacher
from retort.trainers.teachers.cross_encoder import CrossEncoderTeacher

ALLOW = ("skeletons",)


class TestDerivedCandidates:
    @pytest.fixture
    def dark(self, list_tree):
        list_tree["stages"][0]["candidates"]["text"] = spec("retort.trainers.methods.adam.DarkExamples")
        list_tree["stages"][0]["objectives"] = [
            spec("Contrastive"),
            spec("ListwiseKL"),
            spec("retort.trainers.methods.adam.DarkKL"),
        ]
        return list_tree

    def test_a_batch(self, beir, tmp_path, tiny_ranker):
        """Derived texts come last, are scored as they are made, and only some objectives see them."""
        teacher = CrossEncoderTeacher(model=tiny_ranker, device="cpu")
        context = TrainingContext(read_beir(beir, "train"), {"ranker": teacher}, tmp_path / "cache")
        plain = build_lists(context, {"bm25": BM25Miner(depth=5)})
        plain.scores["ranker"] = context.scores("ranker", plain.owners, plain.rows)
        source = opened(
            ListBatches(),
            context,
            lists=plain,
            batch_size=3,
            negatives=2,
            text=DarkExamples(reinforced=2, noisy=1),
            scorers=["ranker"],
        )
        batch = source.batch(1)
        assert batch.derived.tolist() == [[REINFORCED, REINFORCED, NOISY]] * 3
        assert batch.documents[-9:] == [text for row in batch.index[:, -3:] for text in np.array(batch.documents)[row]]
        assert not set(batch.documents[-9:]) & set(context.data.corpus.texts)
        assert (batch.labels[:, -3:] == -1).all()
        pairs = [
            (q, batch.documents[d]) for q, row in zip(batch.queries, batch.index[:, -3:], strict=True) for d in row
        ]
        expected = Ranker.load(tiny_ranker).score(pairs).reshape(3, 3)
        np.testing.assert_allclose(batch.teacher_scores["ranker"][:, -3:], expected, atol=1e-5)
        standard = batch.standard()
        bare = opened(ListBatches(), context, lists=plain, batch_size=3, negatives=2).batch(1)
        assert standard.documents == bare.documents
        assert torch.equal(standard.index, bare.index)
        torch.testing.assert_close(standard.teacher_scores["ranker"], bare.teacher_scores["ranker"])
        (part,) = batch.split(3)[1:2]
        assert part.derived_documents == 3
        assert part.documents[-3:] == batch.documents[-6:-3]
        assert part.standard().documents == bare.split(3)[1].documents

    def test_other_objectives_do_not_see_them(self, dark, beir, tmp_path):
        run_recipe(Recipe.from_dict(dark), beir, tmp_path / "dark" / "run")
        without = copy.deepcopy(dark)
        del without["stages"][0]["candidates"]["text"]
        without["stages"][0]["objectives"].pop()
        run_recipe(Recipe.from_dict(without), beir, tmp_path / "without" / "run")
        first, plain = (log_of(tmp_path / name / "run")[0]["terms"] for name in ("dark", "without"))
        for name in ("contrastive", "listwise_kl"):
            assert first[name] == pytest.approx(plain[name], abs=1e-6)
        assert first["dark_kl"] > 0

    @pytest.mark.parametrize(
        ("objective", "model", "scope"),
        [
            ("TeacherContrastive", spec("ranker", trunk="TRUNK", layers=[0]), "list"),
            ("MutualKL", spec("from_layers", trunk="TRUNK", layers=[0]), "in_batch"),
            ("MutualKL", spec("late_interaction", model="TRUNK"), "in_batch"),
        ],
    )
    def test_nor_of_a_teacher_in_the_loop(self, dark, beir, tmp_path, trunk, objective, model, scope):
        options = {k: trunk if v == "TRUNK" else v for k, v in model["init_parameters"].items()}
        dark["teachers"]["live"] = spec("LiveTeacher", student=spec(model["type"], **options), train=True)
        dark["stages"][0]["objectives"] = [
            spec("Contrastive"),
            spec(objective, teacher="live", scope=scope),
            spec("retort.trainers.methods.adam.DarkKL"),
        ]
        run_recipe(Recipe.from_dict(dark), beir, tmp_path / "dark" / "run")
        without = copy.deepcopy(dark)
        del without["stages"][0]["candidates"]["text"]
        without["stages"][0]["objectives"].pop()
        run_recipe(Recipe.from_dict(without), beir, tmp_path / "without" / "run")
        first, plain = (log_of(tmp_path / name / "run")[0]["terms"] for name in ("dark", "without"))
        names = plain.keys() - {"loss"}
        assert len(names) == 2 and {n: first[n] for n in names} == pytest.approx({n: plain[n] for n in names}, abs=1e-5)

    def test_only_teachers_of_objectives_that_see_them_are_asked(self, dark, beir, tmp_path):
        """BM25 cannot score derived texts, and need not."""
        dark["teachers"]["words"] = spec("BM25Teacher")
        dark["stages"][0]["objectives"].append(spec("ListwiseKL", teacher="words"))
        run_recipe(Recipe.from_dict(dark), beir, tmp_path / "run")
        assert log_of(tmp_path / "run")[0]["terms"]["listwise_kl#3"] > 0
        dark["stages"][0]["objectives"].append(spec("retort.trainers.methods.adam.DarkKL", teacher="words"))
        with pytest.raises(RecipeError, match="'words' scores documents of the corpus"):
            run_recipe(Recipe.from_dict(dark), beir, tmp_path / "other")

    def test_nor_are_vectors_asked_for_in_vain(self, dark, beir, tmp_path, monkeypatch):
        """A teacher of vectors whose objective never sees derived texts is not paid for them."""
        asked: list[str] = []
        real = BiEncoderTeacher.encode
        monkeypatch.setattr(BiEncoderTeacher, "encode", lambda s, t, side: (asked.extend(t), real(s, t, side))[1])
        dark["stages"][0]["objectives"].append(spec("InBatchKL", teacher="teacher"))
        run_recipe(Recipe.from_dict(dark, allow=ALLOW), beir, tmp_path / "run")
        assert log_of(tmp_path / "run")[0]["terms"]["in_batch_kl"] > 0
        known = [read_beir(beir, split) for split in ("train", "dev")]
        assert set(asked) <= {text for data in known for text in (*data.queries.texts, *data.corpus.texts)}

    def test_equal_texts_in_other_unicode_forms(self, dark, beir, tmp_path, monkeypatch):
        """Caches take them for one text, as they do everywhere."""
        forms = [Derived("caf\u00e9"), Derived("cafe\u0301")]
        monkeypatch.setattr(DarkExamples, "derived", lambda self, request: forms)
        run_recipe(Recipe.from_dict(dark), beir, tmp_path / "run")
        assert log_of(tmp_path / "run")[0]["terms"]["dark_kl"] > 0

    @pytest.mark.parametrize("kind", ["listwise", "ranks"])
    def test_scores_that_depend_on_the_list(self, kind, dark, beir, tmp_path, monkeypatch):
        """Derived candidates stand in a list of their own: their scores are not comparable with those of the others."""
        monkeypatch.setattr(CrossEncoderTeacher, *{"listwise": ("listwise", True), "ranks": ("gives", "ranks")}[kind])
        monkeypatch.setattr(DarkKL, "takes_ranks", True)
        dark["stages"][0]["objectives"].pop(1)
        with pytest.raises(RecipeError, match="teacher 'ranker' scores whole lists, without derived"):
            run_recipe(Recipe.from_dict(dark), beir, tmp_path / "run")


def test_what_an_objective_logs_hides_no_term(toy, tiny_model, monkeypatch):
    """Not its own of that name, nor another objective's: a term that is logged alone teaches nothing."""

    class Logging(ListwiseKL):
        def forward(self, output, batch, ctx):
            values = super().forward(output, batch, ctx)
            ctx.logged_terms["listwise_kl"] = (torch.zeros(2), torch.ones(2, dtype=torch.bool))
            return values

    pairs = [(Logging(teacher="t1"), 1.0), (ListwiseKL(teacher="t2"), 1.0)]
    distiller = Distiller(tiny_model(1), {"s": pairs}, ModelInfo(16, {}, {}), scale=1.0)
    monkeypatch.setattr(distiller.encoder, "encode", lambda *_: PairOutput(S))
    terms, counts = (call(toy, StepContext("s", 0, 1)) for call in (distiller, distiller.counts))
    learned = {name for name, (_, _, weight) in terms.items() if weight is not None}
    assert learned == counts.keys() and len(learned) == 2 and len(terms) == 3


def test_a_stage_has_its_own_training_and_schedule(list_tree, beir, tmp_path):
    list_tree["stages"] = [
        stage("first", 4, spec("Contrastive"), candidates=pool("bm25", negatives=2), training={"batch_size": 2}),
        stage(
            "second",
            4,
            spec("Contrastive"),
            candidates=pool("bm25", negatives=2),
            schedule="constant",
            training={"warmup": 0.5, "accumulation": 2, "cache_gradients": True},
        ),
    ]
    run_recipe(Recipe.from_dict(list_tree), beir, tmp_path / "run")
    rates = [line["lr"] / 1e-3 for line in log_of(tmp_path / "run")]
    assert rates == pytest.approx([1.0, 1.0, 2 / 3, 1 / 3, 0.5, 1.0, 1.0, 1.0])
