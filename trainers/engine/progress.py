# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Where a run stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class RunProgress:
    """
    Where the run stands; the whole of it goes into checkpoints.

    :param stage:
        Number of the stage, from 0.
    :param step:
        Steps of the stage that are done.
    :param global_step:
        Steps of the run that are done.
    :param best:
        Best nDCG@10 on the dev sample so far.
    :param kept:
        The same of the state that is kept: with `keep: last` it may be below `best`.
    :param best_step:
        The `global_step` that `kept` was of; -1 before the first evaluation.
    :param stage_best:
        The best one of the stage.
    :param since_best:
        Evaluations of the stage without a better one than `stage_best`: what `patience` counts. A stage may begin far
        below the best of one before, as where its lists are harder.
    :param queries_without_positive:
        How many lists without a positive were trained on.
    :param lists:
        Hash of the stage's candidate lists.
    """

    stage: int = 0
    step: int = 0
    global_step: int = 0
    best: float = -1.0
    kept: float = -1.0
    best_step: int = -1
    stage_best: float = -1.0
    since_best: int = 0
    queries_without_positive: int = 0
    lists: str = ""

    def begin_stage(self, stage: int) -> None:
        """Stand before a stage's first step."""
        self.stage, self.step, self.stage_best, self.since_best = stage, 0, -1.0, 0

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> RunProgress:
        """Take up what a checkpoint holds; in those of 0.1.0 `kept` and `stage_best` were `best`."""
        return cls(**{"kept": state["best"], "stage_best": state["best"], **state})
