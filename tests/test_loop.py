# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The training loop: what a run leaves behind, and that a kill at any point changes nothing."""

import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tiny import pool, run_killed, spec, stage, tiny_config, two_stages, write_beir

from retort.cli import main
from retort.students import Student
from retort.students.files import DamagedFileError
from retort.students.layers import collect_rows, join_rows
from retort.trainers.build import build_recipe
from retort.trainers.data.splits import read_train_and_dev
from retort.trainers.distiller import step_loss
from retort.trainers.engine import checkpoints
from retort.trainers.engine import loop as loop_module
from retort.trainers.engine.checkpoints import list_checkpoints, load_rng, rng_state, save_checkpoint
from retort.trainers.engine.log import RunLog, read_log
from retort.trainers.engine.loop import Loop, make_accelerator, uses_bf16
from retort.trainers.engine.optimizers import AlternatingOptimizers, schedule_factor
from retort.trainers.engine.progress import RunProgress
from retort.trainers.engine.validation import Validation
from retort.trainers.recipe import DataSection, Recipe, TrainingSection
from retort.trainers.roles import StepContext
from retort.trainers.run import run_recipe
from retort.trainers.run_folder import _decisive
from retort.trainers.runtime.distributed import ProcessGroup
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.stages import open_stage


def final_state(out: Path) -> dict[str, torch.Tensor]:
    """Everything at the end: weights, projections, optimiser, random generators; and the exported student."""
    last = list_checkpoints(out / "checkpoints")[-1]
    exported = load_file(out / "student" / "model.safetensors")
    return load_file(last / "state.safetensors") | {f"student.{k}": v for k, v in exported.items()}


def log_of(out: Path) -> list[dict]:
    """The log without times."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds_per_step"} for line in lines]


def assert_equal_runs(a: Path, b: Path) -> None:
    first, second = final_state(a), final_state(b)
    assert first.keys() == second.keys()
    assert [k for k in first if not torch.equal(first[k], second[k])] == []
    assert log_of(a) == log_of(b)
    mine, theirs = (json.loads((out / "metrics.json").read_text()) for out in (a, b))
    assert mine["training"] == theirs["training"]
    quality = ("ndcg@10", "mrr@10", "recall@20", "recall@100")
    assert all(mine["dev"]["student"][k] == theirs["dev"]["student"][k] for k in quality)


@pytest.fixture(scope="module")
def trained(tokenizer_path, tiny_student, tmp_path_factory):
    """A folder of a run and its cache."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = Recipe.from_dict(two_stages(tokenizer_path, tiny_student))
    run_recipe(recipe, write_beir(folder / "data"), folder / "reference" / "run")
    return folder / "reference"


@pytest.fixture
def reference(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "reference") / "run"


class TestRun:
    def test_what_it_leaves_behind(self, reference, beir):
        names = {p.name for p in reference.iterdir()}
        expected = {
            "recipe.yaml", "student", "checkpoints", "candidates", "log.jsonl", "metrics.json", "per_query", "rankings",
        }  # fmt: skip
        assert names == expected
        resolved = yaml.safe_load((reference / "recipe.yaml").read_text())
        assert resolved["training"]["weight_decay"] == 0.01
        assert Recipe.from_yaml(reference / "recipe.yaml").data.hash == resolved["data"]["hash"]
        student = Student.load(str(reference / "student"))
        assert student.manifest.data["name"] == beir.name
        assert student.manifest.metrics["ndcg@10"] > 0
        assert student.manifest.teachers[0]["name"] == "teacher"
        assert len((reference / "rankings" / "dev.run").read_text().splitlines()) == 10 * 40
        assert not (beir / ".retort-cache").exists()
        assert (reference.parent / ".retort-cache" / "vectors").is_dir()
        assert not [p for p in reference.rglob(".*")]

    def test_the_log(self, reference):
        log = log_of(reference)
        assert log[0]["event"] == "start"
        steps = [(e["stage"], e["step"]) for e in log if e["event"] == "step"]
        assert steps == [("align", i) for i in range(1, 6)] + [("distil", i) for i in range(1, 8)]
        evaluated = [(e["stage"], e["step"]) for e in log if e["event"] == "evaluation"]
        assert evaluated == [("align", 3), ("align", 5), ("distil", 3), ("distil", 6), ("distil", 7)]
        terms = {"loss", "align_query", "align_document", "in_batch_kl", "listwise_kl", "contrastive"}
        assert set(log[-2]["terms"]) == terms
        rates = [1e-3 * schedule_factor("linear", 0.1, step, steps) for steps in (5, 7) for step in range(steps)]
        assert [e["lr"] for e in log if e["event"] == "step"] == pytest.approx(rates)
        found = [(e["best_before"], e["dev_sample_ndcg"]) for e in log if e["event"] == "evaluation"]
        assert [before for before, _ in found] == [max([-1.0, *(new for _, new in found[:i])]) for i in range(5)]

    def test_the_exported_student_is_the_best(self, reference):
        best = max((e for e in log_of(reference) if e["event"] == "evaluation"), key=lambda e: e["dev_sample_ndcg"])
        training = json.loads((reference / "metrics.json").read_text())["training"]
        assert training["best"] == best["dev_sample_ndcg"]
        assert training["best_step"] == best["global_step"]
        exported = load_file(reference / "student" / "model.safetensors")
        saved = load_file(reference / "checkpoints" / "best.safetensors")
        assert all(torch.equal(saved[f"0.model.{k}"], v) for k, v in exported.items())

    def test_the_last_state_where_it_is_asked_for(self, recipe_tree, beir, tmp_path):
        steps = {}
        for keep in ("best", "last"):
            settings = [f"training.keep={keep}", "stages.1.lr=1.0", "training.clip=0"]  # ruins what it learned
            run_recipe(Recipe.from_dict(recipe_tree, overrides=settings), beir, tmp_path / keep)
            training = json.loads((tmp_path / keep / "metrics.json").read_text())["training"]
            steps[keep] = training["best_step"], training["best"]
        assert steps["best"][0] < steps["last"][0] == 12
        assert steps["best"][1] == steps["last"][1]
        states = [load_file(tmp_path / keep / "student" / "model.safetensors") for keep in steps]
        assert not all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    def test_the_best_of_the_last_and_what_follows(self, tmp_path):
        """A stage that keeps its last state sets what a later one has to beat, not its best, which is gone."""
        student = torch.nn.Linear(1, 1)
        scores = iter([0.5, 0.4, 0.45])
        log, path = SimpleNamespace(write=lambda *_, **__: None), tmp_path / "best.safetensors"
        distiller = SimpleNamespace(student=student, train=lambda: None, eval=lambda: None)
        validation = Validation(distiller, lambda: next(scores), path, log, ProcessGroup())
        progress = RunProgress()
        for step, keep in enumerate(("last", "last", "best")):
            torch.nn.init.constant_(student.weight, step)
            progress.global_step = step
            validation.run(progress, {}, TrainingSection(keep=keep))
        assert load_file(path)["weight"].item() == 2
        assert (progress.best_step, progress.best, progress.since_best) == (2, 0.5, 2)

    def test_an_equal_state_is_no_better_one(self, tmp_path):
        student, scores = torch.nn.Linear(1, 1), iter([0.5, 0.5, 0.5])
        log, path = SimpleNamespace(write=lambda *_, **__: None), tmp_path / "best.safetensors"
        learning = []
        distiller = SimpleNamespace(
            student=student, train=lambda: learning.append(True), eval=lambda: learning.append(False)
        )
        validation, progress = Validation(distiller, lambda: next(scores), path, log, ProcessGroup()), RunProgress()
        for step in range(3):
            torch.nn.init.constant_(student.weight, step)
            progress.global_step = step
            validation.run(progress, {}, TrainingSection())
        assert load_file(path)["weight"].item() == progress.best_step == 0
        assert progress.since_best == 2
        assert learning == [False, True] * 3  # dropout is on again

    def test_patience_counts_within_the_stage(self, recipe_tree, beir, tmp_path, monkeypatch):
        """The second stage begins below the first's best and rises: it is not stopped, also after a kill."""
        scores = [0.1, 0.9, 0.9, 0.2, 0.3, 0.4, 0.3, 0.3]
        settings = ["training.evaluate_every=2", "training.patience=2", "training.checkpoint_every=1"]
        recipe = Recipe.from_dict(recipe_tree, overrides=[*settings, "stages.0.steps=4", "stages.1.steps=20"])
        ends = []
        for kill in (None, 7):
            left = iter(scores)
            monkeypatch.setattr(Validation, "score", lambda self, left=left: next(left))
            out = tmp_path / str(kill) / "run"
            if kill is None:
                run_recipe(recipe, beir, out)
            else:
                run_killed(recipe, beir, out, monkeypatch, kill)
            training = json.loads((out / "metrics.json").read_text())["training"]
            (stop,) = [e for e in log_of(out) if e["event"] == "early_stop"]
            ends.append((stop["stage"], stop["step"], training["best"], training["best_step"]))
        assert ends == [("distil", 10, 0.9, 2)] * 2

    def test_a_checkpoint_of_an_earlier_version(self):
        """It does not say what is kept; without it, the first evaluation would replace the best state."""
        assert RunProgress.from_state({"stage": 1, "best": 0.5}) == RunProgress(
            stage=1, best=0.5, kept=0.5, stage_best=0.5
        )

    def test_the_projection_is_left_out_of_the_student(self, reference):
        assert Student.load(str(reference / "student")).dim == 8

    def test_a_second_run_needs_resume_and_the_same_recipe(self, reference, recipe_tree, beir):
        with pytest.raises(RecipeError, match="already holds a run. Pass --resume"):
            run_recipe(Recipe.from_dict(recipe_tree), beir, reference)
        metrics = run_recipe(Recipe.from_dict(recipe_tree), beir, reference, resume=True)
        assert metrics == json.loads((reference / "metrics.json").read_text())
        with pytest.raises(RecipeError, match="another recipe or other data"):
            run_recipe(Recipe.from_dict(recipe_tree, overrides=["training.seed=1"]), beir, reference, resume=True)

    def test_a_stage_that_teaches_nothing_says_so(self, list_tree, beir, tmp_path, monkeypatch, caplog):
        """Lists of one document each have nothing to compare; of two they have."""
        list_tree["stages"][0]["objectives"] = [spec("ListwiseKL")]
        list_tree["stages"].append(list_tree["stages"][0] | {"name": "pairs", "candidates": pool("bm25", negatives=1)})
        list_tree["stages"][0]["candidates"] = pool("bm25", negatives=0)
        list_tree["training"]["accumulation"] = 2
        run_recipe(Recipe.from_dict(list_tree), beir, tmp_path / "whole")
        said = [message for message in caplog.messages if "nothing was learned" in message]
        assert len(said) == 1
        assert said[0].startswith("stage lists: nothing was learned in 6 steps: no query or text had what listwise_kl")
        caplog.clear()
        run_killed(Recipe.from_dict(list_tree), beir, tmp_path / "killed", monkeypatch, 3)
        assert "stage lists: nothing was learned in 4 steps" in caplog.text
        assert "stage pairs: nothing" not in caplog.text

    def test_how_often_is_asked_is_no_part_of_a_recipe(self):
        """Wherever what asks may stand: a run that stopped at its limit goes on with a higher one."""

        def at_most(calls, texts=3):
            generator = {"type": "haystack.Some", "init_parameters": {"timeout": calls, "model": "m"}}
            asked = {"generator": generator, "max_calls": calls, "concurrency": calls, "most": texts}
            source = {"type": "retort.Source", "init_parameters": asked}
            return _decisive({"text": {"type": "retort.Views", "init_parameters": {"queries": [source], "views": 2}}})

        assert at_most(10) == at_most(20) != at_most(20, texts=4)
        assert at_most(10)["text"]["init_parameters"]["views"] == 2
        trained = [
            _decisive({"type": "retort.Trained", "init_parameters": {"training": {"batch_size": n}}}) for n in (3, 4)
        ]
        assert trained[0] != trained[1]  # of a teacher that is trained within the run it counts

    def test_a_resolved_recipe_refuses_other_data(self, reference, beir, tmp_path):
        with (beir / "qrels" / "train.tsv").open("a") as qrels:
            qrels.write("q00\td01\t1\n")
        with pytest.raises(RecipeError, match="resolved for other data"):
            run_recipe(Recipe.from_yaml(reference / "recipe.yaml"), beir, tmp_path / "x" / "run")

    def test_a_changed_dev_split_is_another_run(self, reference, recipe_tree, beir):
        with (beir / "qrels" / "dev.tsv").open("a") as qrels:
            qrels.write("q06\td01\t1\n")
        with pytest.raises(RecipeError, match="another recipe or other data"):
            run_recipe(Recipe.from_dict(recipe_tree), beir, reference, resume=True)

    def test_a_default_written_out_or_not_is_the_same_run(self, reference, recipe_tree, beir):
        path = reference / "recipe.yaml"
        tree = yaml.safe_load(path.read_text())
        del tree["training"]["weight_decay"]
        path.write_text(yaml.safe_dump(tree))
        assert run_recipe(Recipe.from_dict(recipe_tree), beir, reference, resume=True)

    def test_a_recipe_that_fails_leaves_no_run(self, recipe_tree, beir, tmp_path):
        out = tmp_path / "x" / "run"
        wrong = Recipe.from_dict(recipe_tree, overrides=["student.init_parameters.pooling=best"])
        with pytest.raises(RecipeError, match="student"):
            run_recipe(wrong, beir, out)
        assert not out.exists()

    def test_one_writer(self, recipe_tree, beir, tmp_path, monkeypatch):
        """Whatever cache the other process has."""
        from filelock import FileLock

        from retort.students.hashing import hash_text

        monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
        out = tmp_path / "x" / "run"
        locks = tmp_path / "x" / ".retort-cache" / "locks"
        locks.mkdir(parents=True)
        with FileLock(locks / hash_text(str(out.resolve()))[:16]), pytest.raises(RecipeError, match="another process"):
            run_recipe(Recipe.from_dict(recipe_tree), beir, out)

    def test_what_a_stage_sets_itself_holds_in_it(self, recipe_tree, beir, tmp_path, monkeypatch):
        """As if all stages had it."""
        real, opened, cached, logs, openings = Loop._step, Loop._opened, [], [], []
        own = {"accumulation": 2, "clip": 1e-3, "cache_gradients": True, "lr_floor": 0.5, "weight_decay": 1.0}

        def step(self, *arguments):
            cached.append(self.distiller.encoder.cache_gradients)
            return real(self, *arguments)

        monkeypatch.setattr(Loop, "_step", step)
        monkeypatch.setattr(Loop, "_opened", lambda *arguments: openings.append(1) or opened(*arguments))
        recipe_tree["stages"] = recipe_tree["stages"][1:]
        recipe_tree["stages"][0]["steps"] = 3
        recipe_tree["training"]["log_every"] = 2
        of_all = recipe_tree | {"training": recipe_tree["training"] | own}
        of_one = recipe_tree | {"stages": [recipe_tree["stages"][0] | {"training": own}]}
        for name, tree in (("all", of_all), ("one", of_one)):
            run_recipe(Recipe.from_dict(tree), beir, tmp_path / name / "run")
            logs.append(log_of(tmp_path / name / "run"))
        assert cached == [True] * 6
        assert logs[0] == logs[1]
        assert [e["step"] for e in logs[0] if e["event"] == "step"] == [2, 3]  # the last has a line, too
        assert len(openings) == 2  # lists are made once a run

    def test_the_seed_changes_the_run(self, reference, recipe_tree, beir, tmp_path):
        out = tmp_path / "other" / "run"
        run_recipe(Recipe.from_dict(recipe_tree, overrides=["training.seed=1"]), beir, out)
        assert log_of(out)[1]["terms"] != log_of(reference)[1]["terms"]


def interrupt(*_, **__):
    raise KeyboardInterrupt


class TestCheckpoints:
    @pytest.fixture
    def save(self, tmp_path):
        def save(step: int, rng=(), keep: int = 9):
            module = torch.nn.Linear(1, 1)
            checkpoints.save_checkpoint(tmp_path, module, {}, {"global_step": step}, [*rng], keep=keep)
            return tmp_path / f"step-{step:08d}"

        return save

    def test_the_newest_whole_ones_stay(self, save, tmp_path):
        folders = [save(step, keep=2) for step in (2, 10, 9)]
        assert list_checkpoints(tmp_path) == [folders[2], folders[1]]
        (tmp_path / "step-00000011").mkdir()  # of another program
        assert list_checkpoints(tmp_path) == [folders[2], folders[1]]

    def test_each_process_has_its_own_random_numbers(self, save):
        states, drawn = [], []
        for seed in (1, 2):
            torch.manual_seed(seed)
            states.append(checkpoints.rng_state())
            drawn.append(torch.rand(3))
        checkpoint = save(1, states)
        for rank in (0, 1):
            checkpoints.load_rng(checkpoint, rank)
            assert torch.equal(torch.rand(3), drawn[rank])
        torch.manual_seed(2)
        checkpoints.load_rng(checkpoint, 2)  # unknown: it keeps its own
        assert torch.equal(torch.rand(3), drawn[1])

    def test_other_values_than_were_written_are_refused(self, save):
        checkpoint = save(1)
        path = checkpoint / "state.safetensors"
        with safe_open(path, "pt") as file:
            kept = file.metadata()
        tensors = load_file(path)
        tensors["module::bias"] += 1
        save_file(tensors, path, kept)
        with pytest.raises(DamagedFileError, match="other values than were written"):
            checkpoints.read_state(checkpoint)
        save_file(tensors, path)  # as version 0.1.0 did
        assert checkpoints.read_state(checkpoint) == {"global_step": 1}


class TestResume:
    @pytest.mark.parametrize("killed_at", [1, 4, 6, 9, 12])
    def test_bit_for_bit_after_a_kill_at_step(self, reference, recipe_tree, beir, tmp_path, monkeypatch, killed_at):
        """Before the first checkpoint, inside each stage, between them, and after the last step."""
        real = Loop._step
        taken = []

        def killing(self, *args):
            if len(taken) == killed_at:
                raise KeyboardInterrupt
            taken.append(1)
            return real(self, *args)

        out = tmp_path / "killed" / "run"
        monkeypatch.setattr(Loop, "_step", killing)
        if killed_at < 12:
            with pytest.raises(KeyboardInterrupt):
                run_recipe(Recipe.from_dict(recipe_tree), beir, out)
        else:
            monkeypatch.setattr("retort.trainers.run.save_student", lambda *a, **k: killing(None))
            with pytest.raises(KeyboardInterrupt):
                run_recipe(Recipe.from_dict(recipe_tree), beir, out)
        assert not (out / "metrics.json").exists()
        monkeypatch.undo()
        torch.manual_seed(999)
        np.random.seed(999)
        run_recipe(Recipe.from_dict(recipe_tree), beir, out, resume=True)
        assert_equal_runs(reference, out)

    def test_no_checkpoint_too_many_stays(self, reference, recipe_tree, beir, tmp_path, monkeypatch):
        """Of a run that was killed between writing its last one and deleting the first."""
        out = tmp_path / "killed" / "run"
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr("retort.trainers.engine.checkpoints.prune_checkpoints", lambda *_: None)
            patched.setattr("retort.trainers.run.save_student", interrupt)
            run_recipe(Recipe.from_dict(recipe_tree), beir, out)
        kept = [{p.name for p in (run / "checkpoints").glob("step-*")} for run in (reference, out)]
        assert kept[0] < kept[1]
        run_recipe(Recipe.from_dict(recipe_tree), beir, out, resume=True)
        assert {p.name for p in (out / "checkpoints").glob("step-*")} == kept[0]

    @pytest.mark.parametrize(
        "overrides", [["training.precision=auto", "training.keep=last"], ["training.patience=1", "stages.1.lr=1e-9"]]
    )
    def test_in_other_settings(self, recipe_tree, beir, tmp_path, monkeypatch, overrides):
        """bf16 where the hardware has it; and an early stop, with its count of evaluations."""
        recipe = Recipe.from_dict(recipe_tree, overrides=overrides)
        run_recipe(recipe, beir, tmp_path / "a" / "run")
        real = Loop._step
        taken = []

        def killing(self, *args):
            if len(taken) == 6:
                raise KeyboardInterrupt
            taken.append(1)
            return real(self, *args)

        monkeypatch.setattr(Loop, "_step", killing)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, beir, tmp_path / "b" / "run")
        monkeypatch.undo()
        run_recipe(recipe, beir, tmp_path / "b" / "run", resume=True)
        assert_equal_runs(tmp_path / "a" / "run", tmp_path / "b" / "run")
        stopped = [e for e in log_of(tmp_path / "a" / "run") if e["event"] == "early_stop"]
        assert bool(stopped) is ("training.patience=1" in overrides)

    def test_a_tower_that_does_not_learn_has_no_dropout(self, recipe_tree, beir, tmp_path, tokenizer_path, monkeypatch):
        """Neither after lists are mined anew with the student, nor after a kill."""

        def tower(seed: int) -> dict:
            return spec("from_config", config=tiny_config(1, 8, 0.3), tokenizer=tokenizer_path, seed=seed)

        recipe_tree["student"] = spec("two_towers", query=tower(1), document=tower(2) | {"frozen": True})
        recipe_tree["training"]["evaluate_every"] = 0
        lists = pool("own", negatives=2)
        recipe_tree["stages"] = [stage("s", 6, spec("Contrastive"), lr=1e-2, refresh=3, candidates=lists)]
        recipe = Recipe.from_dict(recipe_tree)
        run_recipe(recipe, beir, tmp_path / "a" / "run")
        run_killed(recipe, beir, tmp_path / "b" / "run", monkeypatch, after=5)
        assert log_of(tmp_path / "a" / "run") == log_of(tmp_path / "b" / "run")

    def test_another_model_in_a_teachers_folder(self, recipe_tree, beir, tmp_path, tiny_student, other_student):
        folder = tmp_path / "teacher"
        shutil.copytree(tiny_student, folder)
        recipe_tree["teachers"]["teacher"]["init_parameters"]["model"] = str(folder)
        recipe, out = Recipe.from_dict(recipe_tree), tmp_path / "x" / "run"
        run_recipe(recipe, beir, out)
        (out / "metrics.json").unlink()
        shutil.rmtree(folder)
        shutil.copytree(other_student, folder)
        with pytest.raises(RecipeError, match="teacher teacher: it is not the model that the run .* began with"):
            run_recipe(recipe, beir, out, resume=True)

    def test_lists_that_were_changed_are_refused(self, recipe_tree, beir, tmp_path, monkeypatch):
        from retort.trainers.candidates.lists import CandidateLists

        out = tmp_path / "x" / "run"
        real = Loop._step
        taken = []

        def killing(self, *args):
            if len(taken) == 8:
                raise KeyboardInterrupt
            taken.append(1)
            return real(self, *args)

        monkeypatch.setattr(Loop, "_step", killing)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(Recipe.from_dict(recipe_tree), beir, out)
        monkeypatch.undo()
        train, _ = read_train_and_dev(beir, Recipe.from_dict(recipe_tree).data)
        path = out / "candidates" / "distil.parquet"
        lists = CandidateLists.load(path, train)
        lists.rows = lists.rows[::-1].copy()
        lists.save(path, train)
        with pytest.raises(RecipeError, match="candidate lists are not those"):
            run_recipe(Recipe.from_dict(recipe_tree), beir, out, resume=True)

    @pytest.mark.parametrize(
        "error",
        [
            OSError(28, "No space left on device"),
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        ],
        ids=["of Python", "of safetensors"],
    )
    def test_a_full_disk_keeps_the_last_checkpoint(
        self, reference, recipe_tree, beir, tmp_path, monkeypatch, capsys, error
    ):
        real = checkpoints.save_tensors
        saved = []

        def full(tensors, path):
            saved.append(path)
            if len(saved) == 3:
                Path(path).write_bytes(b"half")
                raise error
            return real(tensors, path)

        out = tmp_path / "full" / "run"
        monkeypatch.setattr(checkpoints, "save_tensors", full)
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe_tree))
        with pytest.raises(SystemExit) as ended:
            main(["train", "--recipe", str(tmp_path / "r.yaml"), "--data", str(beir), "--out", str(out), "--no-export"])
        monkeypatch.undo()
        assert ended.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"retort: error: [Errno 28] No space left on device: '{out / 'checkpoints' / 'step-00000005'}'. "
            "Free space on the disk, and run the same command again (train: with --resume)."
        )
        assert [p.name for p in (out / "checkpoints").glob(".*")] == []
        assert [p.name for p in list_checkpoints(out / "checkpoints")] == ["step-00000004"]
        run_recipe(Recipe.from_dict(recipe_tree), beir, out, resume=True)
        assert_equal_runs(reference, out)

    @pytest.mark.integration
    def test_bit_for_bit_after_a_real_sigkill(self, reference, recipe_tree, beir, tmp_path):
        out = tmp_path / "sigkill" / "run"
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe_tree))
        code = "import sys; sys.modules['PIL'] = None; from retort.cli import main; main()"  # texts need no Pillow
        command = [sys.executable, "-c", code, "train", "--no-export", "--recipe", str(tmp_path / "r.yaml")]
        command += ["--data", str(beir), "--out", str(out)]
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        process = subprocess.Popen(command, env=os.environ | threads, start_new_session=True)
        deadline = time.monotonic() + 120
        while not list_checkpoints(out / "checkpoints") and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (out / "metrics.json").exists()
        run_recipe(Recipe.from_dict(recipe_tree), beir, out, resume=True)
        assert_equal_runs(reference, out)
        assert not list((out / "checkpoints").glob(".*"))


class TestBadInput:
    def test_no_positives_where_they_are_needed(self, recipe_tree, beir, tmp_path):
        path = beir / "qrels" / "train.tsv"
        path.write_text(path.read_text().replace("\t1\n", "\t0\n"))
        recipe = Recipe.from_dict(recipe_tree)
        with pytest.raises(RecipeError, match=r"stage distil: Contrastive needs positives, but none of the 30 queries"):
            run_recipe(recipe, beir, tmp_path / "x" / "run")
        assert not (tmp_path / "x" / "run").exists()  # known before the first stage

    @pytest.mark.parametrize(
        ("prompts", "message"),
        [
            ({"querry": "query: "}, "there is no side 'querry'; there are: query, document, passage, corpus"),
            ({"query": 3}, "must be a mapping of sides to texts"),
            (
                {"query": "word " * 40},
                "the prompt of its query side leaves no room for a text in 16 tokens: 'word word",
            ),
        ],
    )
    def test_prompts_that_no_text_would_get(self, recipe_tree, beir, tmp_path, prompts, message):
        recipe_tree["student"]["init_parameters"] |= {"prompts": prompts, "max_tokens": {"query": 16}}
        with pytest.raises(RecipeError, match=f"student.*{message}"):
            run_recipe(Recipe.from_dict(recipe_tree), beir, tmp_path / "x" / "run")

    def test_a_prompt_of_the_models_own_name(self, recipe_tree, beir, tmp_path):
        recipe_tree["student"]["init_parameters"] |= {"prompts": {"pair": "the "}, "default_prompt_name": "pair"}
        built = build_recipe(Recipe.from_dict(recipe_tree), read_train_and_dev(beir, DataSection())[0], tmp_path)
        assert built.distiller.student.default_prompt_name == "pair"

    def test_queries_without_a_positive_are_masked_and_counted(self, recipe_tree, beir, tmp_path):
        path = beir / "qrels" / "train.tsv"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line.replace("\t1\n", "\t0\n") if i % 2 else line for i, line in enumerate(lines)))
        run_recipe(Recipe.from_dict(recipe_tree), beir, tmp_path / "x" / "run")
        log = log_of(tmp_path / "x" / "run")
        assert 4 < log[-1]["queries_without_positive"] < 7 * 4  # of all steps: a batch has 4 queries

    def test_a_loss_that_is_not_finite_stops_the_run(self, recipe_tree, beir, tmp_path, monkeypatch):
        monkeypatch.setattr(loop_module, "step_loss", lambda terms, counts: torch.tensor(float("nan")))
        with pytest.raises(FloatingPointError, match=r"stage align, step 0: the loss is nan. Lower lr"):
            run_recipe(Recipe.from_dict(recipe_tree), beir, tmp_path / "x" / "run")

    def test_a_gradient_that_is_not_finite_spoils_no_weights(self, recipe_tree, beir, tmp_path, monkeypatch):
        out = tmp_path / "x" / "run"
        real = Loop._step
        taken = []

        def poisoned(self, turns, *rest):
            taken.append(1)
            hook = turns.learning[0].register_hook(lambda g: g * float("nan")) if len(taken) == 8 else None
            try:
                return real(self, turns, *rest)
            finally:
                if hook:
                    hook.remove()

        monkeypatch.setattr(Loop, "_step", poisoned)
        with pytest.raises(FloatingPointError, match="stage distil, step 2: the gradient's norm is nan"):
            run_recipe(Recipe.from_dict(recipe_tree), beir, out)
        state = load_file(list_checkpoints(out / "checkpoints")[-1] / "state.safetensors")
        assert all(t.isfinite().all() for t in state.values() if t.is_floating_point())

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["candidates.own.init_parameters.model=techer"], "candidates.own: there is no teacher 'techer'"),
            (["candidates.bm25.init_parameters.dept=3"], "takes no 'dept'; did you mean 'depth'"),
            (["stages.0.teacher=null"], "stages.0.objectives.0.init_parameters: .*needs teacher"),
            (
                ["stages.1.batches=texts"],
                "stages.1.objectives.2: retort.trainers.objectives.ListwiseKL needs candidate lists",
            ),
            (
                ["teachers.teacher.init_parameters.max_document_tokens=1024"],
                "teachers.teacher: max_tokens.document=1024: must lie between 3 and the model's 64",
            ),
            (["student.type=retort.cli.main.main"], "is no student"),
        ],
    )
    def test_mistakes_are_found_before_the_first_step(self, recipe_tree, beir, tmp_path, overrides, message):
        with pytest.raises(RecipeError, match=message):
            run_recipe(Recipe.from_dict(recipe_tree, overrides=overrides), beir, tmp_path / "x" / "run")
        assert not (tmp_path / "x" / "run").exists()

    def test_dimensions_that_differ_need_a_projection(self, recipe_tree, beir, tmp_path):
        overrides = ["stages.0.objectives.0.init_parameters.projection=false"]
        with pytest.raises(
            RecipeError, match="8 dimensions, teacher 'teacher' has 16. Give the student a head .* set projection: true"
        ):
            run_recipe(Recipe.from_dict(recipe_tree, overrides=overrides), beir, tmp_path / "x" / "run")


class TestQueriesWithoutCandidates:
    """Those that have no positive, where `negatives` is 0."""

    @pytest.fixture
    def few(self, recipe_tree, beir) -> dict:
        path = beir / "qrels" / "train.tsv"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line.replace("\t1\n", "\t0\n") if i % 8 else line for i, line in enumerate(lines)))
        recipe_tree["training"] |= {"batch_size": 2, "evaluate_every": 0}
        recipe_tree["candidates"].pop("own")
        recipe_tree["stages"] = [stage("few", 8, teacher="teacher", candidates=pool("bm25", negatives=0))]
        return recipe_tree

    @pytest.mark.parametrize(
        ("objective", "parts"),
        [
            ("Contrastive", 2),
            ("InBatchKL", 2),
            ("retort.trainers.methods.nkd.NKD", 1),
            ("retort.trainers.methods.mtd.ConsensusAndDifference", 1),
            ("retort.trainers.methods.ar2.Adversarial", 1),
        ],
    )
    def test_they_teach_nothing(self, few, beir, tmp_path, objective, parts):
        few["stages"][0]["objectives"] = [spec(objective)]
        few["training"]["accumulation"] = parts
        if "mtd" in objective:
            few["stages"][0]["objectives"] = [spec(objective, teacher=["teacher"])]
        run_recipe(Recipe.from_dict(few), beir, tmp_path / "run")
        steps = [line for line in log_of(tmp_path / "run") if line["event"] == "step"]
        assert len(steps) == 8 and any(line["grad_norm"] == 0 for line in steps)

    def test_texts_that_depend_on_the_list(self, few, beir, tmp_path):
        few["stages"][0]["candidates"]["text"] = spec(
            "retort.trainers.methods.capstone.Expansion", queries=spec("TrainingQuestions", most=100)
        )
        few["stages"][0]["objectives"] = [spec("Contrastive")]
        built = build_recipe(Recipe.from_dict(few), read_train_and_dev(beir, DataSection())[0], tmp_path / "cache")
        source = open_stage(built, built.recipe.stages[0], tmp_path / "out").source
        batches = [source.batch(step) for step in range(8)]
        empty = [batch for batch in batches if not batch.mask.any()]
        assert empty and all(batch.index.shape == (2, 1) and len(batch.documents) == 1 for batch in empty)
        assert [len(part.documents) for part in empty[0].split(2)] == [1, 1]
        assert len(empty[0].split(3)) == 2


class TestStep:
    @pytest.fixture
    def parts(self, recipe_tree, beir, tmp_path):
        recipe = Recipe.from_dict(recipe_tree)
        recipe.student.init_parameters["config"]["hidden_dropout_prob"] = 0.0
        recipe.student.init_parameters["config"]["attention_probs_dropout_prob"] = 0.0
        train, _ = read_train_and_dev(beir, recipe.data)
        torch.manual_seed(0)
        parts = build_recipe(recipe, train, tmp_path / "cache")
        distiller = parts.distiller.double()
        source = open_stage(parts, recipe.stages[1], tmp_path).source
        return distiller, source.batch(0).to(torch.device("cpu"), torch.float64)

    @staticmethod
    def gradients(distiller, batch, factor: float) -> dict[str, torch.Tensor]:
        distiller.enter("distil")
        distiller.zero_grad()
        terms = distiller(batch, StepContext("distil", 0, 1))
        counts = {name: float(mask.sum()) for name, (_, mask, _) in terms.items()}
        # As an accumulation of 1 / factor steps would: through the counts, not by scaling what comes out.
        step_loss(terms, {name: count / factor for name, count in counts.items()}).backward()
        return {n: p.grad.clone() for n, p in distiller.named_parameters() if p.grad is not None}

    def test_a_loss_by_k_gives_gradients_by_k(self, parts):
        """Of learned projections, too."""
        whole, quarter = self.gradients(*parts, 1.0), self.gradients(*parts, 0.25)
        assert any("objectives.stage_distil.0.projection" in name for name in whole)
        for name, gradient in whole.items():
            assert torch.allclose(quarter[name], gradient / 4, rtol=0, atol=1e-14), name

    def test_parts_of_a_batch_add_up(self, parts):
        """Terms over lists, counted over the whole step: two halves give the gradient of the whole."""
        distiller, batch = parts
        distiller.objectives["stage_distil"] = torch.nn.ModuleList([distiller.objectives["stage_distil"][2]])
        distiller.weights["distil"] = [1.0]
        distiller.enter("distil")

        def terms_of(part):
            return distiller(part, StepContext("distil", 0, 1))

        def gradients():
            found = {n: p.grad.clone() for n, p in distiller.named_parameters() if p.grad is not None}
            distiller.zero_grad()
            return found

        whole = terms_of(batch)
        counts = {name: float(mask.sum()) for name, (_, mask, _) in whole.items()}
        assert distiller.counts(batch, StepContext("distil", 0, 1)) == counts
        step_loss(whole, counts).backward()
        expected = gradients()
        for part in batch.split(3):
            assert len(part.documents) < len(batch.documents)
            step_loss(terms_of(part), counts).backward()
        for name, gradient in gradients().items():
            assert torch.allclose(gradient, expected[name], rtol=0, atol=1e-10), name

    @pytest.mark.parametrize("batches", ["texts", "queries"])
    def test_parts_of_mere_texts_are_all_of_them(self, recipe_tree, beir, tmp_path, batches):
        """A side may have fewer texts than there are parts, or none."""
        recipe_tree["student"]["init_parameters"]["config"] |= {"hidden_size": 16}
        recipe_tree["stages"] = [stage("align", 2, spec("Alignment"), batches=batches, teacher="teacher")]
        recipe_tree["training"] |= {"batch_size": 5, "dropout": 0.0}
        logs = []
        for parts in (1, 3):
            recipe_tree["training"]["accumulation"] = parts
            run_recipe(Recipe.from_dict(recipe_tree), beir, tmp_path / str(parts) / "run")
            logs.append([e for e in log_of(tmp_path / str(parts) / "run") if e["event"] == "step"])
        assert logs[0][-1]["grad_norm"] > 0
        assert logs[1][-1]["grad_norm"] == pytest.approx(logs[0][-1]["grad_norm"], rel=1e-4)
        assert logs[1][-1]["terms"] == pytest.approx(logs[0][-1]["terms"], rel=1e-4)

    def test_two_objectives_of_a_kind_keep_their_terms(self, recipe_tree, beir, tmp_path):
        recipe_tree["stages"] = recipe_tree["stages"][:1]
        recipe_tree["stages"][0]["objectives"] = [
            spec("Alignment", weight=5.0, projection=True, distance="mse"),
            spec("Alignment", projection=True),
        ]
        run_recipe(Recipe.from_dict(recipe_tree), beir, tmp_path / "x" / "run")
        terms = log_of(tmp_path / "x" / "run")[1]["terms"]
        assert set(terms) == {"loss", "align_query", "align_document", "align_query#1", "align_document#1"}
        expected = 5 * (terms["align_query"] + terms["align_document"])
        assert terms["loss"] == pytest.approx(expected + terms["align_query#1"] + terms["align_document#1"], rel=1e-5)

    def test_scores_are_not_rounded_under_autocast(self, parts):
        distiller, batch = parts
        distiller.float()
        batch = batch.to(torch.device("cpu"), torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            terms = distiller(batch, StepContext("distil", 0, 1))
        assert {values.dtype for values, _, _ in terms.values()} == {torch.float32}

    def test_another_stages_parameters_have_no_gradient(self, parts):
        assert not [name for name in self.gradients(*parts, 1.0) if "objectives.stage_align" in name]

    def test_chunks_do_not_change_gradients(self, parts):
        distiller, batch = parts
        distiller.encoder.tokens_per_chunk = 10_000
        whole = self.gradients(distiller, batch, 1.0)
        distiller.encoder.tokens_per_chunk = 12
        for name, gradient in self.gradients(distiller, batch, 1.0).items():
            assert torch.allclose(gradient, whole[name], rtol=0, atol=1e-10), name

    @pytest.mark.parametrize("kind", ["network", "tied", "table"])
    def test_gradients_of_rows_join_to_those_of_tables(self, kind):
        """In two chunks, as a step has them; a tied table gets a gradient of all its rows, too."""
        torch.manual_seed(0)
        table = (torch.nn.EmbeddingBag if kind == "table" else torch.nn.Embedding)(50, 4).double()
        chunks = [torch.tensor([[1, 2, 2], [7, 1, 0]]), torch.tensor([[2, 49, 3]])]

        def gradient() -> torch.Tensor:
            table.zero_grad()
            for ids in chunks:
                vectors = table(ids).tanh()
                loss = (vectors @ table.weight.T).square().sum() if kind == "tied" else vectors.square().sum()
                loss.backward()
            return table.weight.grad

        expected = gradient()
        collect_rows(torch.nn.ModuleList([table]))
        rows = gradient()
        assert rows.is_sparse == (kind != "tied")
        join_rows([table.weight])
        assert torch.allclose(table.weight.grad, expected, rtol=0, atol=1e-12)

    def test_each_unique_text_is_encoded_once(self, parts, monkeypatch):
        distiller, batch = parts
        seen = []
        real = distiller.student.preprocess
        monkeypatch.setattr(distiller.student, "preprocess", lambda t, **k: seen.extend(t) or real(t, **k))
        distiller(batch, StepContext("distil", 0, 1))
        assert sorted(seen) == sorted([*batch.queries, *batch.documents])


def test_learning_rate_is_a_function_of_the_step():
    rates = {s: [schedule_factor(s, 0.2, step, 10) for step in range(10)] for s in ("linear", "cosine", "constant")}
    assert rates["linear"] == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    assert rates["constant"] == [0.5, *[1.0] * 9]
    ends = {s: [schedule_factor(s, 0.2, step, 10, 0.2) for step in range(10)] for s in rates}
    assert ends["linear"] == pytest.approx([0.5, *(1 - 0.1 * x for x in range(9))])  # the last step has the floor
    assert ends["cosine"][5] == pytest.approx(0.6)
    assert ends["cosine"][9] == pytest.approx(0.2)
    assert ends["constant"] == [0.5, *[1.0] * 9]
    assert [schedule_factor("linear", 0.0, step, 10) for step in (0, 1, 9)] == pytest.approx([1, 1, 1 / 9])
    assert rates["cosine"][:3] == [0.5, 1.0, 1.0]
    assert rates["cosine"][6] == pytest.approx(0.5)
    assert rates["cosine"][9] == pytest.approx((1 - math.cos(math.pi / 8)) / 2)


class TwoTurns(torch.nn.Linear):
    """Two steps of the student, then one of a live teacher, and so on."""

    turns = ("student", "student", "live")

    def turn_at(self, stage: str, step: int) -> str:
        return self.turns[step % 3]

    def enter(self, stage: str, turn: str) -> list:
        return list(self.parameters())

    def parameter_groups_of(self, stage: str, turn: str) -> list:
        return []

    def highest_rate(self, stage: str, turn: str, lr: float) -> float:
        return lr if turn == "student" else 2 * lr


def test_each_turn_has_a_schedule_of_its_own_steps():
    """Whose last step costs no more than its first."""
    steps = 20_000
    plan = SimpleNamespace(name="s", steps=steps, lr=0.5, schedule="cosine")
    training = SimpleNamespace(weight_decay=0.0, warmup=0.1, lr_floor=0.1)
    optimizers = AlternatingOptimizers(TwoTurns(2, 2), plan, training)
    of_all = [TwoTurns.turns[step % 3] for step in range(steps)]
    for step in (0, 1, 2, 3, 4, 1999, 2000, 12_345, steps - 2, steps - 1):
        turn = of_all[step]
        share = schedule_factor("cosine", 0.1, of_all[:step].count(turn), of_all.count(turn), 0.1)
        assert optimizers.take(step) == (0.5 if turn == "student" else 1.0) * share
    tracemalloc.start()
    optimizers.take(steps - 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000  # bytes: the steps before are not gone through


def test_a_checkpoint_holds_the_random_state_of_apples_gpus(tmp_path, monkeypatch):
    now = torch.tensor([1, 2, 3], dtype=torch.uint8)
    taken = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: now)
    monkeypatch.setattr(torch.mps, "set_rng_state", taken.append)
    save_checkpoint(tmp_path, torch.nn.Linear(1, 1), {}, {"global_step": 1}, [rng_state()], keep=1)
    (checkpoint,) = list_checkpoints(tmp_path)
    load_rng(checkpoint, 0)
    assert torch.equal(taken.pop(), now)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    load_rng(checkpoint, 0)
    assert not taken
    assert "mps" not in rng_state()


def test_without_a_terminal_long_work_says_how_far_it_is(monkeypatch, caplog):
    from retort.trainers.runtime import progress

    clock = iter([0.0, 1.0, 59.0, 61.0, 100.0, 122.0, 130.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress.sys, "stderr", io.StringIO())
    with caplog.at_level("INFO", "retort.trainers.runtime.progress"), progress.progress_bar("texts", 1000) as update:
        for n in (100, 200, 61, 0, 61, 578):  # 100 were there
            update(n)
    assert caplog.messages == ["texts: 361 of 1000, 2 min to go", "texts: 422 of 1000, 4 min to go"]


def test_a_term_that_nothing_was_counted_for_is_not_logged(tmp_path):
    """Its mean would be 0, which says something else; of the others it is over all that was counted."""
    log = RunLog(tmp_path / "log.jsonl", SimpleNamespace(is_main_process=True), tracked=False)
    log.add({"loss": 9.0}, {"a": 9.0}, {"a": 1})  # of a stage that was stopped: no part of the next one's
    log.begin_stage()
    for sums, counts in (({"a": 3.0, "b": 0.0}, {"a": 2, "b": 0}), ({"a": 0.0, "b": 0.0}, {"a": 1, "b": 0})):
        log.add({"loss": 1.0}, sums, counts)
    log.write_steps({"global_step": 2}, lr=0.1, grad_norm=1.0)
    log.add({"loss": 2.0, "c": 1.0}, {}, {})
    log.add({"loss": 3.0}, {}, {})
    log.write_steps({"global_step": 4}, lr=0.1, grad_norm=1.0)
    first, second = read_log(tmp_path / "log.jsonl")
    assert first["terms"] == {"loss": 1.0} and first["logged_terms"] == {"a": 1.0}
    assert second["terms"] == {"loss": 2.5, "c": 1.0}  # over the steps that have it
    assert "logged_terms" not in second


@pytest.mark.parametrize(
    ("precision", "there", "used"),
    [("no", True, False), ("auto", True, True), ("auto", False, False), ("bf16", True, True), ("bf16", False, None)],
)
def test_bf16_is_for_hardware_that_has_it(monkeypatch, precision, there, used):
    monkeypatch.setattr(loop_module, "has_bfloat16", lambda _: there)
    if used is None:
        with pytest.raises(RecipeError, match="training.precision: cpu would emulate bf16"):
            uses_bf16(precision, torch.device("cpu"))
    else:
        assert uses_bf16(precision, torch.device("cpu")) == used


def test_more_processes_than_work_together_are_refused(tmp_path, monkeypatch):
    """Each would train a student of its own."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        RecipeError, match="2 processes were launched, and this one works with 1. Without GPUs, set ACC"
    ):
        make_accelerator(TrainingSection(), tmp_path)
