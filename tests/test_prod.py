# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""PROD: reference values, the anchor, the selection of queries, teachers trained within the run, and kills."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import (
    assert_comes_back,
    everything,
    lists,
    pool,
    prod_stages,
    run_killed,
    spec,
    stage,
    terms_of,
    two_stages,
    write_beir,
)

from retort.students import Student
from retort.trainers.build import build_recipe
from retort.trainers.candidates.dense import DenseMiner
from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.candidates.mining import build_lists
from retort.trainers.context import TrainingContext
from retort.trainers.data.splits import read_train_and_dev
from retort.trainers.distiller import Distiller, step_loss
from retort.trainers.encoder_output import PairOutput
from retort.trainers.engine.loop import Loop, OpenedStage, make_accelerator
from retort.trainers.methods.prod import AnchorKL, ConfusingQueries, confusing, first_ranks
from retort.trainers.objectives import Contrastive, ListwiseKL
from retort.trainers.recipe import Recipe, Stage, TrainingSection
from retort.trainers.roles import ModelInfo, StepContext
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.stages import open_stage
from retort.trainers.teachers.bi_encoder import BiEncoderTeacher

INF = np.inf


class TestReferenceValues:
    def test_a_cross_encoder_stage(self):
        """01-A: 0.1 hard + 0.9 soft + 1.0 regulariser at temperature 4, value and gradient."""
        scores = torch.tensor([[2.0, 1.0, 0.5], [0.3, 1.2, -0.4]], requires_grad=True)
        teacher = torch.tensor([[6.0, 2.0, -1.0], [1.0, 3.0, 0.0]])
        old = torch.tensor([[1.5, 1.0, 0.2], [0.8, 0.9, -0.1]])
        batch = lists(teacher)
        ctx = StepContext("tpd", 0, 1, anchor=PairOutput(old))
        objectives = [
            (Contrastive(scope="list"), 0.1),
            (ListwiseKL(teacher="t", student_temperature=4.0), 0.9),
            (AnchorKL(temperature=4.0), 1.0),
        ]
        terms = {
            name: (*term, weight)
            for o, weight in objectives
            for name, term in terms_of(o, PairOutput(scores), batch, ctx).items()
        }
        means = {name: float(values.detach().mean()) for name, (values, _, _) in terms.items()}
        assert means == pytest.approx(
            {"contrastive": 0.919825, "listwise_kl": 1.183753, "anchor_kl": 0.042404}, abs=1e-6
        )
        total = step_loss(terms, {name: float(mask.sum()) for name, (_, mask, _) in terms.items()})
        assert float(total.detach()) == pytest.approx(1.199764, abs=1e-6)
        total.backward()
        expected = [[-0.412997, 0.104554, 0.308444], [-0.041714, -0.021759, 0.063473]]
        torch.testing.assert_close(scores.grad, torch.tensor(expected), atol=1e-6, rtol=0)

    @pytest.mark.parametrize(
        ("rule", "kept"), [("windows", ["q2", "q3"]), ("above", ["q2", "q3", "q4", "q5"])], ids=["marco", "nq"]
    )
    def test_c_confusing_queries(self, rule, kept):
        """01-C; the note counts ranks from 0."""
        student = np.array([0, 1, 14, 15, 3, INF]) + 1
        teacher = np.array([0, 0, 0, 0, 2, INF]) + 1
        found = confusing(student, teacher, rule=rule, window=15)
        assert [f"q{i}" for i in np.flatnonzero(found) + 1] == kept

    def test_an_anchor_equal_to_the_student_says_nothing(self):
        scores = torch.tensor([[2.0, 1.0, 0.5]], requires_grad=True)
        out = PairOutput(scores)
        (values,) = AnchorKL()(
            out, lists(scores.detach()), StepContext("x", 0, 1, anchor=PairOutput(scores.detach()))
        ).values()
        values.sum().backward()
        assert float(values) == pytest.approx(0, abs=1e-7)
        assert scores.grad.abs().max() < 1e-7


def test_first_ranks():
    found = np.array([[False, True, True], [True, False, False], [False, False, False]])
    assert first_ranks(found).tolist() == [2, 1, INF]


class TestAnchor:
    @pytest.fixture
    def distiller(self, tiny_model):
        objectives = {"s": [(Contrastive(scope="list"), 1.0), (AnchorKL(), 1.0)]}
        return Distiller(tiny_model(dropout=0.5), objectives, ModelInfo(16, {}, {}), scale=20.0)

    def test_taken_while_the_student_trains_it_has_no_dropout(self, distiller):
        distiller.train()
        distiller.take_anchor("s")
        assert distiller.student.training
        assert not any(module.training for module in distiller.roles["anchor"].modules())

    def test_a_refresh_renews_it(self, distiller, tmp_path, monkeypatch):
        """At the first step after one it is the student itself, at others the student as it was."""
        source = SimpleNamespace(
            size=2, queries_with_positive=2, lists_hash="", batch=lambda _: lists(torch.zeros(2, 3))
        )
        training = TrainingSection(evaluate_every=0, checkpoint_every=99)
        stage = Stage(name="s", objectives=[], lr=1e-2, steps=5, refresh=2)
        recipe = SimpleNamespace(stages=[stage], training=training, training_of=lambda _: training)
        step, equal = Loop._step, []

        def watching(self, *arguments):
            pairs = zip(distiller.student.parameters(), distiller.roles["anchor"].parameters(), strict=True)
            equal.append(all(torch.equal(now, then) for now, then in pairs))
            return step(self, *arguments)

        monkeypatch.setattr(Loop, "_step", watching)
        Loop(
            distiller,
            recipe,
            tmp_path,
            open_stage=lambda *_: OpenedStage(source, dict),
            evaluate=lambda: 0.0,
            accelerator=make_accelerator(training, tmp_path),
        ).run()
        assert equal == [True, False, True, False, True]


class TestRun:
    @pytest.fixture(scope="class")
    def trained(self, tokenizer_path, tiny_student, trunk, tmp_path_factory):
        """A folder of a run and its cache."""
        folder = tmp_path_factory.mktemp("trained")
        recipe = Recipe.from_dict(prod_stages(two_stages(tokenizer_path, tiny_student), trunk))
        run_recipe(recipe, write_beir(folder / "data"), folder / "reference" / "run")
        return folder / "reference"

    @pytest.fixture
    def reference(self, trained, tmp_path):
        return shutil.copytree(trained, tmp_path / "reference") / "run"

    def test_killed_in_each_stage_and_in_the_teacher(self, reference, prod_tree, beir, tmp_path, monkeypatch):
        """Steps in the order they are made: 3 of `dual`, 4 of the teacher, 5 of `cross`, 6 of `round` in two halves."""
        expected = everything(reference)
        assert any(name.startswith("run.") for name in expected)
        assert_comes_back(prod_tree, beir, tmp_path, monkeypatch, expected, (1, 4, 8, 12, 15))

    def test_what_it_leaves_behind(self, reference):
        names = {p.name for p in (reference / "candidates").iterdir()}
        assert names == {"dual.parquet", "cross.parquet", "round.parquet", "round.1.parquet"}
        manifest = json.loads((reference / "student" / "retort.json").read_text())
        assert [t["name"] for t in manifest["teachers"]] == ["ranker", "teacher"]
        metrics = json.loads((reference / "teachers" / "ranker" / "metrics.json").read_text())
        assert metrics["dev"]["student"]["ndcg@10"] > 0
        assert not [name for name in everything(reference) if "anchor" in name]
        Student.load(str(reference / "student"))

    def test_the_teacher_learns_from_the_errors_of_the_student_as_it_was(self, reference, prod_tree, beir, tmp_path):
        """Its candidates are what the student found after the first stage, not what it found at the start."""
        prod_tree["stages"] = prod_tree["stages"][1:2]
        early = tmp_path / "early" / "run"
        run_recipe(Recipe.from_dict(prod_tree), beir, early)
        mined = [(out / "teachers/ranker/candidates/rank.parquet").read_bytes() for out in (reference, early)]
        assert mined[0] != mined[1]

    def test_the_anchor(self, prod_tree, beir, tmp_path):
        recipe = Recipe.from_dict(prod_tree)
        train, _ = read_train_and_dev(beir, recipe.data)
        distiller = build_recipe(recipe, train, tmp_path / "cache").distiller
        distiller.take_anchor("dual")
        assert "anchor" not in distiller.roles
        distiller.take_anchor("cross")
        anchor, student = distiller.roles["anchor"], distiller.student
        distiller.train()
        assert student.training
        assert not any(m.training for m in anchor.modules())
        learning = distiller.enter("cross")
        assert not {id(p) for p in anchor.parameters()} & {id(p) for p in learning}
        with torch.no_grad():
            next(student.parameters()).add_(1.0)
        assert not torch.equal(next(student.parameters()), next(anchor.parameters()))
        distiller.weights["cross"][2] = 0.0  # no copy is held for nothing
        distiller.take_anchor("cross")
        assert "anchor" not in distiller.roles

    def test_a_weight_of_0_runs_without_a_copy(self, prod_tree, beir, tmp_path):
        prod_tree["stages"] = prod_tree["stages"][1:2]
        prod_tree["stages"][0]["objectives"][2]["weight"] = 0
        run_recipe(Recipe.from_dict(prod_tree), beir, tmp_path / "x" / "run")
        log = [json.loads(line) for line in (tmp_path / "x" / "run" / "log.jsonl").read_text().splitlines()]
        assert next(set(line["terms"]) for line in log if "terms" in line) == {"loss", "contrastive", "listwise_kl"}

    def test_a_stage_without_queries_is_passed_over(self, prod_tree, beir, tmp_path, monkeypatch, caplog):
        monkeypatch.setattr(
            ConfusingQueries, "keep", lambda _, context, enough: np.zeros(len(context.data.queries), dtype=bool)
        )
        out = tmp_path / "x" / "run"
        run_recipe(Recipe.from_dict(prod_tree), beir, out)
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        assert [line["stage"] for line in log if line["event"] == "no_queries"] == ["round"]
        assert log[-1]["global_step"] == 8
        assert "stage round: no query is left to train on; it is left out." in caplog.messages
        prod_tree["stages"] = prod_tree["stages"][2:]
        with pytest.raises(RecipeError, match="stage round: no query was left to train on"):
            run_recipe(Recipe.from_dict(prod_tree), beir, tmp_path / "y" / "run")

    def test_a_stage_that_runs_out_of_queries_ends_there(self, prod_tree, beir, tmp_path, monkeypatch, caplog):
        """When they are selected anew; what it learned until then is evaluated."""
        left = iter((True, False))
        monkeypatch.setattr(
            ConfusingQueries, "keep", lambda _, context, enough: np.full(len(context.data.queries), next(left))
        )
        del prod_tree["stages"][1]
        prod_tree["training"]["evaluate_every"] = 0
        out = tmp_path / "x" / "run"
        run_recipe(Recipe.from_dict(prod_tree), beir, out)
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        assert [(line["step"], line["event"]) for line in log[-2:]] == [(3, "no_queries"), (3, "evaluation")]
        assert "stage round: no query is left to train on; it ends after 3 steps." in caplog.messages


class TestSelection:
    @pytest.fixture
    def confuses(self, monkeypatch):
        """Select from one query whose positive the student ranks second, by the teacher's scores in that ranking."""

        def keep(scores: list[float], **parameters) -> bool:
            ranking = np.arange(len(scores))[None]
            monkeypatch.setattr("retort.trainers.methods.prod.mine", lambda miner, _: (ranking[:, : miner.depth], None))
            data = SimpleNamespace(
                corpus=SimpleNamespace(first_rows=ranking[0]), positives=lambda: [np.array([1], dtype=np.int64)]
            )
            context = SimpleNamespace(data=data, scores=lambda _, __, rows: np.array(scores)[rows])
            return bool(ConfusingQueries(teacher="t", **parameters).keep(context, 1)[0])

        return keep

    def test_documents_without_a_score_come_last(self, confuses):
        assert confuses([np.nan, -5.0, -9.0])
        assert not confuses([-1.0, -5.0, np.nan])
        assert not confuses([-1.0, np.nan, np.nan])

    @pytest.mark.parametrize("rule", ["windows", "above"])
    def test_the_positive_must_be_above_all_that_was_found(self, confuses, rule):
        """The teacher's favourite is the last document that it orders, or the first beyond."""
        last = {"windows": 200, "above": 100}[rule]
        window = {} if rule == "windows" else {"window": 1}
        for place, kept in ((last, False), (last + 1, True)):
            scores = [1.0, 2.0, *[0.0] * 300]
            scores[place - 1] = 9.0
            assert confuses(scores, rule=rule, **window) is kept
        scores = [1.0, 2.0, 0.0, 9.0]
        assert confuses(scores, rule=rule, window=3 if rule == "windows" else 1, depth=3)

    def test_the_teacher_is_asked_about_the_window_alone(self, prod_tree, beir, tmp_path, monkeypatch):
        """Of queries whose positive the student ranks first, or below the window, its answer cannot matter."""
        recipe = Recipe.from_dict(prod_tree)
        train, _ = read_train_and_dev(beir, recipe.data)
        context = build_recipe(recipe, train, tmp_path / "cache").context
        ranks = np.array(([1, 2, 3, 4, INF] * len(train.queries))[: len(train.queries)])
        monkeypatch.setattr("retort.trainers.methods.prod.first_ranks", lambda relevant: ranks[: len(relevant)])
        asked = []
        monkeypatch.setattr(context, "scores", lambda _, q, d: (asked.extend(q.tolist()), np.zeros(len(d)))[1])
        for rule, expected in (("windows", {2, 3}), ("above", {2, 3, 4})):
            asked.clear()
            ConfusingQueries(teacher="teacher", rule=rule, window=3, depth=9).keep(context, 99)
            assert {float(r) for r in ranks[sorted(set(asked))]} == expected

    def test_a_window_that_the_student_does_not_fill(self):
        with pytest.raises(ValueError, match="depth must be at least the window, 15; it is 9"):
            ConfusingQueries(teacher="t", depth=9)

    def test_the_queries_that_the_student_confuses(self, prod_tree, beir, tmp_path):
        """Against the rule by hand, over the student's own ranking and the teacher's similarities."""
        recipe = Recipe.from_dict(prod_tree)
        train, _ = read_train_and_dev(beir, recipe.data)
        context = build_recipe(recipe, train, tmp_path / "cache").context
        kept = ConfusingQueries(teacher="teacher", rule="above", depth=10, window=3).keep(context, len(train.queries))
        vectors = {n: (context.vectors(n, "query"), context.vectors(n, "document")) for n in ("student", "teacher")}
        unit = {n: [v / np.linalg.norm(v, axis=1, keepdims=True) for v in pair] for n, pair in vectors.items()}
        scores = {n: q @ d.T for n, (q, d) in unit.items()}
        expected = []
        for query, positives in enumerate(train.positives()):
            found = np.argsort(-scores["student"][query], kind="stable")[:10]
            again = found[np.argsort(-scores["teacher"][query][found], kind="stable")]
            ranks = [next((i for i, r in enumerate(order, 1) if r in positives), INF) for order in (found, again)]
            expected.append(ranks[1] < ranks[0] and ranks[1] <= 3)
        assert kept.tolist() == expected
        assert 0 < sum(expected) < len(expected)

    def test_no_more_than_enough_are_looked_for(self, prod_tree, beir, tmp_path, monkeypatch):
        """The teacher is asked block by block, of queries in random order, until there are so many as the stage uses."""
        recipe = Recipe.from_dict(prod_tree)
        train, _ = read_train_and_dev(beir, recipe.data)
        context = build_recipe(recipe, train, tmp_path / "cache").context
        selector = ConfusingQueries(teacher="teacher", rule="above", depth=10, window=3)
        asked, scores = [], context.scores
        monkeypatch.setattr(
            context, "scores", lambda name, q, d: (asked.append(sorted(set(q.tolist()))), scores(name, q, d))[1]
        )
        every = selector.keep(context, len(train.queries))
        (whole,) = asked
        monkeypatch.setattr("retort.trainers.methods.prod.LEAST_BLOCK", 2)
        asked.clear()
        some = selector.keep(context, 3)
        assert 3 <= some.sum() <= 4 < every.sum()
        assert not (some & ~every).any()
        assert len(asked) < len(whole) // 2
        assert asked[0] != whole[:2]
        assert selector.keep(context, 3).tolist() == some.tolist()

    def test_only_their_lists_are_trained_on(self, prod_tree, beir, tmp_path, monkeypatch):
        recipe = Recipe.from_dict(prod_tree)
        train, _ = read_train_and_dev(beir, recipe.data)
        parts = build_recipe(recipe, train, tmp_path / "cache")
        keep = np.arange(len(train.queries)) % 3 == 0
        monkeypatch.setattr(ConfusingQueries, "keep", lambda *_: keep)
        stage = recipe.stages[2]
        for objective in list(parts.distiller.objectives_of("round")):
            objective.teacher = None
        source = open_stage(parts, stage, tmp_path).source
        assert source.size == keep.sum()
        allowed = {text for text, kept in zip(train.queries.texts, keep, strict=True) if kept}
        assert {q for step in range(6) for q in source.batch(step).queries} <= allowed


class TestBadInput:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["stages.1.anchor=null"], r"stages.1.objectives.2: .*AnchorKL compares .*set stages.1.anchor: start"),
            (["stages.1.anchor=end"], "stages.1.anchor: must be start"),
            (["stages.2.refresh=0"], "stages.2.refresh: must be at least 1"),
            (["stages.2.batches=texts"], "stages.2.selector: it is for batches of lists or pairs"),
            (["stages.2.selector.type=retort.trainers.losses.contrastive"], "is no selector"),
            (["stages.2.selector.init_parameters.teacher=rankr"], "stages.2.selector: there is no teacher 'rankr'"),
            (["stages.2.selector.init_parameters.rule=window"], "rule: must be windows or above"),
            (["teachers.ranker.init_parameters.stages=[]"], "teachers.ranker.init_parameters.stages: there must be"),
            (["teachers.ranker.init_parameters.training={batch: 3}"], "training.batch: unknown key"),
            (
                ["teachers.ranker.type=retort.trainers.teachers.trained_in_run.TrainedInRunBiEncoder"],
                "teachers.ranker: TrainedInRunBiEncoder trains a bi-encoder",
            ),
        ],
    )
    def test_mistakes_are_found_before_the_first_step(self, prod_tree, beir, tmp_path, overrides, message):
        with pytest.raises(RecipeError, match=message):
            run_recipe(Recipe.from_dict(prod_tree, overrides=overrides), beir, tmp_path / "x" / "run")
        assert not (tmp_path / "x" / "run").exists()

    def test_teachers_that_need_each_other(self, prod_tree, beir, tmp_path):
        teachers = prod_tree["teachers"]
        teachers["other"] = json.loads(json.dumps(teachers["ranker"]))
        for name, needed in (("ranker", "other"), ("other", "ranker")):
            teachers[name]["init_parameters"]["stages"][0]["objectives"] = [spec("ListwiseKL", teacher=needed)]
        with pytest.raises(RecipeError, match="teachers.other and teachers.ranker need each other"):
            run_recipe(Recipe.from_dict(prod_tree), beir, tmp_path / "x" / "run")


def test_a_dual_encoder_trained_on_the_way_mines_and_teaches(prod_tree, beir, tmp_path, tiny_student, monkeypatch):
    """`TrainedInRunBiEncoder`: as a teacher of vectors, and as a miner of the stage that it teaches."""
    warm = stage("warm", 3, spec("Contrastive"), lr=5e-5, candidates=pool("bm25", negatives=1))
    start = spec("pretrained", model=tiny_student)
    prod_tree["teachers"]["dual"] = spec("TrainedInRunBiEncoder", student=start, stages=[warm])
    prod_tree["candidates"]["dual"] = spec("DenseMiner", model="dual", depth=6)
    prod_tree["training"]["dev_documents"] = 20
    prod_tree["stages"] = prod_tree["stages"][:1]
    prod_tree["stages"][0] |= {"teacher": "dual", "candidates": pool("dual", negatives=2)}
    out = tmp_path / "x" / "run"
    metrics = run_recipe(Recipe.from_dict(prod_tree), beir, out)
    assert metrics["dev"]["teachers"]["dual"]["ndcg@10"] > 0
    alone = json.loads((out / "teachers" / "dual" / "metrics.json").read_text())["dev"]["student"]
    assert alone["documents"] < metrics["dev"]["student"]["documents"]  # the whole corpus is asked for once
    # A stage more that does not ask it: a run that goes on there must take it up for the last figures.
    more = stage("more", 3, spec("InBatchKL"), teacher="teacher", candidates=pool("bm25", negatives=1))
    prod_tree["stages"].append(more)
    steps = 3 + prod_tree["stages"][0]["steps"]
    run_killed(Recipe.from_dict(prod_tree), beir, tmp_path / "y" / "run", monkeypatch, after=steps + 1)
    again = json.loads((tmp_path / "y" / "run" / "metrics.json").read_text())
    assert again["dev"]["teachers"]["dual"]["ndcg@10"] == metrics["dev"]["teachers"]["dual"]["ndcg@10"]
    trained, before = (load_file(Path(f) / "model.safetensors") for f in (out / "teachers/dual/student", tiny_student))
    assert any(not torch.equal(trained[name], before[name]) for name in before)
    shutil.rmtree(out)


class TestSecondWarmUp:
    """A dual encoder goes on from what it finds itself, then the student from what that one finds."""

    @pytest.fixture
    def tree(self, prod_tree, tiny_student):
        first = stage("first", 3, spec("Contrastive"), lr=1e-2, candidates=pool("bm25", negatives=1))
        own = stage("own-errors", 3, spec("Contrastive"), lr=1e-2, candidates=pool("dual", negatives=2))
        start = spec("pretrained", model=tiny_student)
        prod_tree["teachers"]["dual"] = spec("TrainedInRunBiEncoder", student=start, stages=[first, own])
        prod_tree["candidates"]["dual"] = spec("DenseMiner", model="dual", depth=6)
        prod_tree["stages"] = [stage("on", 3, spec("Contrastive"), candidates=pool("dual", negatives=2))]
        return prod_tree

    def test_each_mines_with_the_dual_encoder_of_its_time(self, tree, beir, tmp_path):
        out = tmp_path / "whole" / "run"
        run_recipe(Recipe.from_dict(tree), beir, out)
        data = read_train_and_dev(beir, Recipe.from_dict(tree).data)[0]
        stages = tree["teachers"]["dual"]["init_parameters"]["stages"]
        whole = out / "teachers" / "dual"
        stages.pop()  # what the dual encoder is before it goes on
        run_recipe(Recipe.from_dict(tree), beir, tmp_path / "first" / "run")
        folders = {whole / "candidates" / "own-errors.parquet": tmp_path / "first" / "run" / "teachers" / "dual"}
        folders[out / "candidates" / "on.parquet"] = whole
        found = []
        for path, model in folders.items():
            mined = CandidateLists.load(path, data)
            context = TrainingContext(data, {"dual": BiEncoderTeacher(model=str(model / "student"))}, tmp_path / "x")
            expected = build_lists(context, {"dual": DenseMiner(model="dual", depth=6)})
            assert mined.rows.tolist() == expected.rows.tolist()
            found.append(expected.rows.tolist())
        assert found[0] != found[1]

    @pytest.mark.long
    def test_killed_in_both_of_its_stages(self, tree, beir, tmp_path, monkeypatch):
        out = tmp_path / "whole" / "run"
        run_recipe(Recipe.from_dict(tree), beir, out)
        assert_comes_back(tree, beir, tmp_path, monkeypatch, everything(out), (4, 7))

    def test_a_ranker_has_nothing_to_mine_with(self, tree, beir, tmp_path):
        """Nor can it judge queries before it has learned."""
        rank = tree["teachers"]["ranker"]["init_parameters"]["stages"][0]
        rank["selector"] = spec("ConfusingQueries", teacher="ranker")
        with pytest.raises(RecipeError, match=r"teachers.ranker need each other"):
            run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")


def test_a_ranker_that_does_not_look_at_queries(prod_tree, beir, tmp_path, monkeypatch, caplog):
    """It is said, by the ranker's name."""
    from retort.trainers.evaluation import dev

    prod_tree["stages"] = prod_tree["stages"][1:2]
    for sensitivity, said in ((0.5, True), (0.98, False)):
        monkeypatch.setattr(dev, "query_sensitivity", lambda *_, sensitivity=sensitivity: sensitivity)
        caplog.clear()
        run_recipe(Recipe.from_dict(prod_tree), beir, tmp_path / str(sensitivity) / "run")
        assert ("teacher ranker: it scores a document nearly alike" in caplog.text) is said
