# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The recipe that chains pre-training, weak pairs, distillation and PROD's progression, killed in each of its stages."""

import json

import pytest
from tiny import everything, run_killed

from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe

STEPS = {"pre-train": 2, "weak-pairs": 2, "distil": 2, "ranker": 2, "confusing": 2}


@pytest.fixture
def recipe(trunk, tiny_student) -> Recipe:
    """The recipe that is shipped, of tiny models and steps."""
    inside = "teachers.ranker.init_parameters"
    changes = {
        "student.init_parameters": {"trunk": trunk, "layers": [0, 1], "max_tokens": {"query": 16, "document": 32}},
        "teachers.teacher.init_parameters": {"model": tiny_student},
        f"{inside}.student.init_parameters": {"trunk": trunk, "layers": [0]},
        f"{inside}.training": {"batch_size": 3, "dev_depth": 5},
        f"{inside}.stages.0.steps": 2,
        "training.batch_size": 4,
        "training.evaluate_every": 0,
        "training.keep": "last",
        "training.seed": 2,  # of these tiny ones, some query must confuse the student at the end
        "training.checkpoint_every": 1,
        "training.log_every": 1,
        "stages.0.batches.init_parameters": {"length": 12},
        "stages.0.training": {"batch_size": 8},
        "stages.1.training": {"batch_size": 8},
        "stages.1.selector.init_parameters.top": 12,
        "stages.4.selector.init_parameters": {"rule": "above", "depth": 30},
        **{f"stages.{i}.steps": steps for i, steps in enumerate(STEPS.values())},
    }
    return Recipe.from_yaml("chain", overrides=[f"{place}={json.dumps(value)}" for place, value in changes.items()])


@pytest.mark.long
def test_a_kill_in_each_stage(recipe, pages, tmp_path, monkeypatch):
    run_recipe(recipe, pages, tmp_path / "whole" / "run")
    lines = [json.loads(line) for line in (tmp_path / "whole" / "run" / "log.jsonl").read_text().splitlines()]
    taken = [line["stage"] for line in lines if line["event"] == "step"]
    assert list(dict.fromkeys(taken)) == list(STEPS)
    expected = everything(tmp_path / "whole" / "run")
    for after in range(1, 2 * len(STEPS) + 2, 2):  # in the middle of each stage, the ranker's own among them
        out = tmp_path / f"killed-{after}" / "run"
        run_killed(recipe, pages, out, monkeypatch, after)
        found = everything(out)
        assert found.keys() == expected.keys()
        assert [name for name in found if not found[name].equal(expected[name])] == [], after
