# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Runs killed at random moments, again and again, end where an uninterrupted one does."""

import os
import random
import subprocess
import sys
import time

import pytest
import torch
import yaml
from tiny import everything

KILLS = 8


@pytest.mark.integration
@pytest.mark.long
@pytest.mark.parametrize("fixture", ["prod_tree", "r2anker_tree"])
def test_training(fixture, request, beir, tmp_path):
    """Also before the first step, while lists are mined, while a teacher is trained, and while the student is saved."""
    tree = request.getfixturevalue(fixture)
    for stage in tree["stages"]:
        stage["steps"] *= 20
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "retort.cli", "train", "--recipe", str(tmp_path / "recipe.yaml")]
    command += ["--data", str(beir), "--resume", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole" / "run")], check=True, capture_output=True, env=environment)
    seconds = time.monotonic() - started
    moments = random.Random(fixture)
    out = tmp_path / "killed" / "run"
    for _ in range(KILLS):
        process = subprocess.Popen(
            [*command, str(out)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(seconds * moments.uniform(0.3, 1.0))  # before that, it imports
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    subprocess.run([*command, str(out)], check=True, capture_output=True, env=environment)
    expected, after = everything(tmp_path / "whole" / "run"), everything(out)
    assert after.keys() == expected.keys()
    assert [name for name in after if not torch.equal(after[name], expected[name])] == []
