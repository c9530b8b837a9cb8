# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What a kill between a file's writing and its renaming leaves: the run goes on from it and clears it away."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from tiny import everything

from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe

# What is being renamed: a block of the cache, a checkpoint, the student.
TARGETS = ["000000000.npz", "step-00000009", "student"]


def names(root: Path) -> set[str]:
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if "locks" not in p.parts}


@pytest.fixture
def states(recipe_tree, beir, tmp_path, monkeypatch) -> Path:
    """A run, and copies of its folder and cache as they were before each rename, by what was renamed last."""
    root = tmp_path / "root"

    def copying(real):
        def rename(source, target):
            place = tmp_path / "states" / Path(target).name
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(root, place)
            return real(source, target)

        return rename

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", copying(os.replace))
        patch.setattr(Path, "rename", copying(Path.rename))
        run_recipe(Recipe.from_dict(recipe_tree), beir, root / "run")
    return tmp_path / "states"


def test_goes_on_and_leaves_nothing(states, recipe_tree, beir, tmp_path):
    expected, all_names = everything(tmp_path / "root" / "run"), names(tmp_path / "root")
    assert {p.name for p in states.iterdir()} >= {*TARGETS, "metrics.json", "models.json"}
    for target in TARGETS:
        root = states / target
        assert [n for n in names(root) if Path(n).name.startswith(f".{target}.")], target
        torch.manual_seed(999)
        run_recipe(Recipe.from_dict(recipe_tree), beir, root / "run", resume=True)
        found = everything(root / "run")
        assert found.keys() == expected.keys()
        assert [name for name in found if not torch.equal(found[name], expected[name])] == [], target
        assert names(root) == all_names, target
