# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Training rankers and students from Python, by the recipes that come with retort."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from scipy.stats import ttest_rel
from tiny import write_jsonl

import retort
from haystack_integrations.components.rankers.retort import StudentRanker
from retort.cli.main import main
from retort.students import Ranker, Student
from retort.trainers.data.beir import read_beir
from retort.trainers.evaluation.metrics import MEASURES, mean, per_query
from retort.trainers.evaluation.rank import evaluate_ranker, rerank
from retort.trainers.evaluation.significance import paired_seeds, paired_test, values
from retort.trainers.runtime.errors import RecipeError

SMALL = {
    "training.batch_size": 4,
    "training.dev_queries": 5,
    "training.dev_depth": 6,
    "training.evaluate_every": 0,
    "training.precision": "no",
    "training.log_every": 1,
    "stages.0.steps": 4,
    "candidates.bm25.init_parameters.depth": 8,
}


@pytest.fixture(autouse=True)
def _not_exported(monkeypatch):
    """It takes seconds, and `test_exports.py` has it."""
    monkeypatch.setattr("retort.workflows.export_to_serve", lambda *_, **__: None)


def ranker_start(trunk: str) -> dict:
    kind = "retort.students.create.ranker"
    return {"type": kind, "init_parameters": {"trunk": trunk, "layers": [0, 1], "max_tokens": 32}}


@pytest.fixture
def trained(trunk, tiny_student, beir, tmp_path):
    """A ranker trained on labels by the recipe `ranker`."""
    return retort.train(
        beir,
        tmp_path / "x" / "ranker",
        recipe="ranker",
        teacher=tiny_student,
        student=ranker_start(trunk),
        settings=SMALL | {"stages.0.steps": 60, "stages.0.lr": 5e-3, "candidates.dense.init_parameters.depth": 8},
    )


class TestRankers:
    def test_from_labels_to_a_smaller_one_to_a_student(self, trained, trunk, tiny_student, beir, tmp_path):
        """The whole chain: a ranker from labels, a smaller one from it, a bi-encoder from its component."""
        out = tmp_path / "x"
        assert isinstance(trained, Ranker)
        metrics = json.loads((out / "ranker" / "metrics.json").read_text())["dev"]
        log = [json.loads(line) for line in (out / "ranker" / "log.jsonl").read_text().splitlines()]
        losses = [line["terms"]["contrastive"] for line in log if line["event"] == "step"]
        assert np.mean(losses[-5:]) < 0.9 * np.log(6)  # which knowing nothing gives
        assert metrics["student"]["queries"] == 5
        assert metrics["candidates"]["bm25"]["ndcg@10"] > 0
        assert 0 <= metrics["query sensitivity"] <= 1
        assert trained.manifest.kind == "ranker"
        assert trained.manifest.metrics["ndcg@10"] == metrics["student"]["ndcg@10"]

        smaller = retort.train(
            beir,
            out / "smaller",
            recipe="ranker_kd",
            teacher=str(out / "ranker" / "student"),
            student=ranker_start(trunk),
            settings=SMALL,
        )
        assert smaller.manifest.teachers[0]["name"] == "ranker"
        student = retort.train(
            beir,
            out / "student",
            recipe="kd_scores",
            teacher=StudentRanker(model=str(out / "ranker" / "student")),
            student=tiny_student,
            settings=SMALL | {"candidates.own.init_parameters.depth": 8},
        )
        assert isinstance(student, Student)
        assert student.manifest.kind == "dense"
        spec = student.manifest.teachers[0]["init_parameters"]["ranker"]
        assert spec["type"].endswith("student_ranker.StudentRanker")

    def test_a_killed_ranker_run_comes_back(self, trunk, tiny_student, beir, tmp_path, monkeypatch):
        from safetensors.torch import load_file

        from retort.trainers.engine.loop import Loop

        settings = SMALL | {
            "stages.0.steps": 6,
            "training.checkpoint_every": 2,
            "candidates.dense.init_parameters.depth": 8,
        }

        def train(out, **options):
            start = ranker_start(trunk)
            found = retort.train(
                beir, out, recipe="ranker", teacher=tiny_student, student=start, settings=settings, **options
            )
            return load_file(out / "student" / "model.safetensors"), found

        expected, _ = train(tmp_path / "a" / "run")
        real, steps = Loop._step, []

        def dying(self, *rest):
            steps.append(1)
            if len(steps) == 4:
                raise KeyboardInterrupt
            return real(self, *rest)

        monkeypatch.setattr(Loop, "_step", dying)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "b" / "run")
        found, _ = train(tmp_path / "b" / "run", resume=True)
        assert all((expected[name] == found[name]).all() for name in expected)

    @pytest.mark.parametrize("objective", ["Alignment", "InBatchKL", "Contrastive"])
    def test_objectives_that_compare_vectors_are_refused(self, objective, trunk, tiny_student, beir, tmp_path):
        with pytest.raises(RecipeError, match=f"{objective} compares vectors, and the student is a ranker"):
            retort.train(
                beir,
                tmp_path / "x" / "run",
                recipe="ranker",
                teacher=tiny_student,
                student=ranker_start(trunk),
                settings={
                    "stages.0.teacher": "retriever",
                    "stages.0.objectives": [{"type": f"retort.trainers.objectives.{objective}"}],
                },
            )

    def test_a_ranker_cannot_mine(self, trunk, tiny_student, beir, tmp_path):
        with pytest.raises(RecipeError, match="the student is a ranker: it has no vectors to mine with"):
            retort.train(
                beir,
                tmp_path / "x" / "run",
                recipe="ranker",
                teacher=tiny_student,
                student=ranker_start(trunk),
                settings={"candidates.dense.init_parameters.model": "student"},
            )


class TestTrain:
    def test_names_and_errors(self, beir, tmp_path):
        assert retort.Recipe.from_yaml("kd").name == "kd"
        with pytest.raises(AttributeError, match="no attribute 'distil'"):
            _ = retort.distil
        with pytest.raises(RecipeError, match="not one teacher, nor one that is called 'teacher', but dual, ranker"):
            retort.train(beir, tmp_path, recipe="prod-small", teacher="x")
        with pytest.raises(RecipeError, match="stages.0.setps: unknown key"):
            retort.train(beir, tmp_path, settings={"stages.0.setps": 3})

    def test_it_is_the_command(self, recipe_tree, beir, tmp_path, capsys):
        """What one began the other goes on with, and would refuse were anything of the recipe different."""
        file = tmp_path / "small.yaml"
        file.write_text(yaml.safe_dump(recipe_tree))
        out, settings = tmp_path / "x" / "run", {"stages.0.steps": 2, "stages.1.lr": 1e-4, "training.warmup": 0.25}
        student = retort.train(beir, out, recipe=file, settings=settings)
        places = [part for place, value in settings.items() for part in ("--set", f"{place}={value}")]
        command = ["train", "--recipe", str(file), "--data", str(beir), "--out", str(out), "--no-export"]
        main([*command, *places, "--resume"])
        assert f"{student.manifest.metrics['ndcg@10']:.4f}" in capsys.readouterr().out
        lines = [f"{place}={value}" for place, value in settings.items()]
        assert retort.train(beir, out, recipe=str(file), settings=lines, resume=True).space == student.space
        with pytest.raises(SystemExit):
            main([*command, "--resume"])
        assert "holds a run of another recipe" in capsys.readouterr().err

    def test_a_teacher_in_a_yaml_file(self, recipe_tree, beir, tmp_path):
        recipe = retort.Recipe.from_dict(recipe_tree)
        (tmp_path / "teacher.yaml").write_text("type: retort.trainers.teachers.bi_encoder.BiEncoderTeacher\n")
        with pytest.raises(RecipeError, match="teachers.teacher.init_parameters: .*BiEncoderTeacher needs model"):
            retort.train(beir, tmp_path / "x" / "run", recipe=recipe, teacher=tmp_path / "teacher.yaml")
        (tmp_path / "teacher.yaml").write_text("- a\n")
        with pytest.raises(RecipeError, match="teacher.yaml: it needs a type"):
            retort.train(beir, tmp_path / "x" / "run", recipe=recipe, teacher=tmp_path / "teacher.yaml")

    def test_trackers(self, recipe_tree, beir, tmp_path):
        """TensorBoard through Accelerate: curves of the loss and of the dev sample."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        recipe_tree["training"]["trackers"] = ["tensorboard"]
        retort.train(beir, tmp_path / "x" / "run", recipe=retort.Recipe.from_dict(recipe_tree))
        curves = EventAccumulator(str(tmp_path / "x" / "run" / "trackers")).Reload()
        assert {"loss", "lr", "grad_norm", "dev_sample_ndcg", "in_batch_kl"} <= set(curves.Tags()["scalars"])
        assert [e.step for e in curves.Scalars("loss")] == list(range(1, 13))
        for name in ("nothing", "wandb"):
            recipe_tree["training"]["trackers"] = [name]
            with pytest.raises(RecipeError, match=rf"training.trackers: .*{name}"):
                retort.train(beir, tmp_path / "x" / name, recipe=retort.Recipe.from_dict(recipe_tree))


class TestGivenData:
    """Training data of other tools: one file with hard negatives and scores, nothing else."""

    def test_flag_embedding_scores_teach(self, tiny_student, beir, tmp_path):
        data = read_beir(beir, "train")
        texts, lines = data.corpus.texts, []
        for query, positives in zip(data.queries.texts, data.positives(), strict=True):
            negatives = [(int(positives[0]) + k) % len(texts) for k in (3, 9, 17)]
            line = {"query": query, "pos": [texts[positives[0]]], "neg": [texts[n] for n in negatives]}
            lines.append(line | {"pos_scores": [6.5], "neg_scores": [1.0, -0.5, 2.0]})
        write_jsonl(tmp_path / "mined.jsonl", lines)
        given = "retort.trainers.candidates.given.GivenMiner"
        student = retort.train(
            tmp_path / "mined.jsonl",
            tmp_path / "x" / "run",
            recipe="kd_scores",
            teacher={"type": "retort.trainers.teachers.given.GivenTeacher"},
            student=tiny_student,
            settings={
                "candidates": {"given": {"type": given}},
                "stages.0.candidates": {"sources": ["given"], "negatives": 3},
                "stages.0.steps": 5,
                "training.batch_size": 8,
                "training.log_every": 1,
                "training.precision": "no",
            },
        )
        assert isinstance(student, Student)
        lists = pq.read_table(tmp_path / "x" / "run" / "candidates" / "distil.parquet").to_pandas()
        scored = lists[lists["score.ranker"].notna()]
        assert set(scored["score.ranker"]) == {6.5, 1.0, -0.5, 2.0}
        assert (scored[scored["score.ranker"] == 6.5]["label"] == 1).all()
        log = [json.loads(line) for line in (tmp_path / "x" / "run" / "log.jsonl").read_text().splitlines()]
        assert all(line["terms"]["listwise_kl"] > 0 for line in log if line["event"] == "step")


class TestEvaluation:
    def test_rerank_by_hand(self, beir):
        data = read_beir(beir, "dev")
        rows = np.tile(np.array([[3, 1, 2]]), (len(data.queries), 1))
        scores = {data.corpus.texts[3]: 0.0, data.corpus.texts[1]: 1.0, data.corpus.texts[2]: 0.0}
        found = rerank(data, rows, lambda pairs: np.array([scores[text] for _, text in pairs]))
        assert found[0].tolist() == [1, 3, 2]  # ties keep their order

    def test_cli(self, trained, tiny_student, beir, tmp_path, capsys):
        ranker = str(tmp_path / "x" / "ranker" / "student")
        arguments = ["--data", str(beir), "--split", "dev", "--json", str(tmp_path / "t.json"), "--max-queries", "8"]
        main(["evaluate", "bm25", tiny_student, "--rerank", ranker, "--depth", "6", *arguments])
        printed = capsys.readouterr().out
        assert "bm25: ranking its first 6 anew changes nDCG@10 by" in printed
        found = json.loads((tmp_path / "t.json").read_text())["models"]
        assert list(found) == ["bm25", f"bm25 + {ranker}", tiny_student, f"{tiny_student} + {ranker}"]
        data = read_beir(beir, "dev").subset(range(8))
        from retort.trainers.evaluation.rank import evaluate_bm25

        first = evaluate_bm25(data)
        rows = np.array([[data.corpus.rows[i] for i in first.rankings[q][:6]] for q in data.queries.ids])
        reranked = evaluate_ranker(trained, data, rows)
        whole = {q: [*top, *first.rankings[q][6:]] for q, top in reranked.rankings.items()}
        expected = mean(per_query(whole, data.qrels))
        assert {name: found[f"bm25 + {ranker}"][name] for name in expected} == pytest.approx(expected)

    def test_what_is_not_reranked_stays_below(self, tiny_ranker, tiny_student, beir, tmp_path, capsys):
        """Ranking one document anew changes nothing; beyond the ranking's end there is nothing to rank."""
        arguments = [
            "evaluate",
            tiny_student,
            "--data",
            str(beir),
            "--split",
            "dev",
            "--rerank",
            tiny_ranker,
            "--depth",
        ]
        main([*arguments, "1", "--json", str(tmp_path / "t.json")])
        first, second = json.loads((tmp_path / "t.json").read_text())["models"].values()
        assert first["recall@100"] == 1.0
        assert [second[name] for name in MEASURES] == [first[name] for name in MEASURES]
        capsys.readouterr()
        main([*arguments, "100"])
        assert "ranking its first 40 anew" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            main([*arguments, "101"])
        assert "--depth 101: rankings have 100 documents" in capsys.readouterr().err

    def test_a_query_that_finds_less_than_others(self, tiny_ranker, beir, tmp_path):
        """BM25 finds only what shares a word; the ranker is not to find more than was retrieved."""
        queries, judged = beir / "queries.jsonl", beir / "qrels" / "dev.tsv"
        queries.write_text(queries.read_text().replace("what is the storm near the sea?", "zebras"))
        judged.write_text(judged.read_text().replace("d06", "d00"))
        arguments = ["--data", str(beir), "--split", "dev", "--json", str(tmp_path / "t.json")]
        main(["evaluate", "bm25", "--rerank", tiny_ranker, "--depth", "100", *arguments])
        first, second = json.loads((tmp_path / "t.json").read_text())["models"].values()
        assert second["recall@100"] == first["recall@100"] == 0.9

    def test_significance(self):
        rng = np.random.default_rng(1)
        base = rng.random(200)
        same = paired_test(base, base)
        assert (same.difference, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
        better = paired_test(base, base + rng.normal(0.1, 0.3, 200))
        assert better.low > 0
        assert better.p < 0.01
        worse = paired_test(base + rng.normal(0.1, 0.3, 200), base)
        assert worse.difference < 0 < worse.p < 0.01
        # Normal theory: 0.1 +- 1.96 * 0.3 / sqrt(200).
        assert (better.high - better.low) / 2 == pytest.approx(1.96 * 0.3 / 200**0.5, rel=0.15)
        false_alarms = [paired_test(rng.random(50), rng.random(50), draws=400, seed=i).p < 0.05 for i in range(200)]
        assert 0.01 < np.mean(false_alarms) < 0.11
        with pytest.raises(ValueError, match="two equally long lists"):
            paired_test(base, base[1:])
        assert values({"b": {"m": 2.0}, "a": {"m": 1.0}}, "m").tolist() == [1.0, 2.0]

    def test_significance_over_seeds(self):
        """One seed that is much better: questions say yes, seeds do not know; three alike: both do."""
        rng = np.random.default_rng(2)
        base = rng.random((3, 400))
        lucky = base + np.array([[0.3], [0.0], [0.0]]) + rng.normal(0, 0.1, (3, 400))
        found = paired_seeds(base, lucky)
        assert found.p_questions < 0.001
        assert found.p_seeds == pytest.approx(ttest_rel(lucky.mean(1), base.mean(1)).pvalue)
        assert found.p_seeds > 0.3
        assert not found.significant
        assert found.low <= 0.01 < found.high
        steady = paired_seeds(base, base + 0.1 + rng.normal(0, 0.1, (3, 400)))
        assert steady.significant
        assert steady.difference == pytest.approx(0.1, abs=0.01)
        assert 0 < steady.low < steady.difference < steady.high
        # Seeds alike, standard error .1 / sqrt(3 * 400) of questions and a little of seeds.
        assert steady.sees < 2.8 * 0.02
        # Other questions are drawn as well as other seeds.
        same = np.tile(rng.normal(0.1, 0.3, 200), (2, 1))
        asked = paired_seeds(np.zeros((2, 200)), same, draws=2000)
        assert (asked.high - asked.low) / 2 == pytest.approx(1.96 * 0.3 / 200**0.5, rel=0.15)
        assert asked.sees == pytest.approx(2.8 * 0.3 / 200**0.5, rel=0.15)
        draws = [paired_test(base[0], base[1], draws=50, seed=seed) for seed in (0, 0, 1)]
        assert draws[0] == draws[1] != draws[2]
        one = paired_seeds(base[:1], base[:1] + 0.1)
        assert (one.p_seeds, one.significant, one.seeds) == (None, False, 1)
        assert paired_seeds(base[:2], base[:2] + 0.1).p_seeds is None
        assert paired_seeds(base, base).p_seeds == 1.0
        with pytest.raises(ValueError, match="two equal tables"):
            paired_seeds(base, base[:2])
