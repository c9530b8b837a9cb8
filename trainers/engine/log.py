# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What a run writes down as it goes: `log.jsonl`, and the trackers that a recipe names."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retort.students.files import reading, replace_file

if TYPE_CHECKING:
    from accelerate import Accelerator

Sums = dict[str, float]


class RunLog:
    """
    The log of a run; only the main process writes.

    :param path:
        `log.jsonl`.
    :param accelerator:
        Its trackers are told as well.
    :param tracked:
        Whether they are.
    """

    def __init__(self, path: Path, accelerator: Accelerator, *, tracked: bool) -> None:
        self._path, self._accelerator, self._tracked = path, accelerator, tracked
        self._writes = accelerator.is_main_process
        self._window: list[tuple[Sums, Sums, Sums]] = []  # the steps since the last line
        self._started, self._steps = time.perf_counter(), 0

    def begin(self) -> None:
        """Begin anew."""
        if self._writes:
            self._path.unlink(missing_ok=True)

    def cut(self, global_step: int) -> None:
        """Drop what an interrupted run logged after its last checkpoint."""
        if not self._writes or not self._path.is_file():
            return
        kept = [json.dumps(e) for e in read_log(self._path, killed=True) if e["global_step"] <= global_step]
        with replace_file(self._path) as aside:
            aside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def begin_stage(self) -> None:
        """Count steps and seconds from here on."""
        self._window.clear()
        self._started, self._steps = time.perf_counter(), 0

    def add(self, terms: Sums, logged: Sums, counted: Sums) -> None:
        """
        Note a step.

        :param terms:
            The loss and its terms.
        :param logged:
            Sums of what is only logged.
        :param counted:
            How many values each of these sums has.
        """
        self._window.append((terms, logged, counted))
        self._steps += 1

    def write_steps(self, where: dict[str, Any], *, lr: float, grad_norm: float) -> None:
        """Write a line about the steps since the last one: means over those that have a term."""
        terms, logged, counted = zip(*self._window, strict=True)
        steps_with = total([dict.fromkeys(own, 1.0) for own in terms])
        entry: dict[str, Any] = {
            "lr": lr,
            "grad_norm": grad_norm,
            "terms": {name: value / steps_with[name] for name, value in total(terms).items()},
        }
        counts = total(counted)
        if means := {name: value / counts[name] for name, value in sorted(total(logged).items()) if counts[name]}:
            entry["logged_terms"] = means
        seconds = (time.perf_counter() - self._started) / self._steps
        self.write(where, event="step", **entry, seconds_per_step=seconds)
        self._window.clear()

    def write(self, where: dict[str, Any], **entry: Any) -> None:
        """
        Write a line.

        :param where:
            Where the run stands, `global_step` among it.
        :param entry:
            What happened.
        """
        if not self._writes:
            return
        figures = {**entry, **entry.get("terms", {}), **entry.get("logged_terms", {})}
        if self._tracked:
            values = {name: value for name, value in figures.items() if isinstance(value, float)}
            self._accelerator.log(values, step=where["global_step"])
        with self._path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(where | entry) + "\n")


def read_log(path: Path, *, killed: bool = False) -> list[dict[str, Any]]:
    """
    Read the log of a run.

    :param path:
        `log.jsonl`.
    :param killed:
        Whether a kill may have cut its last line, which is then left out.
    :raises DamagedFileError:
        If a line is none of a log, or there is none.
    """
    with reading(path, "Delete it: the run goes on without it, and the report has no curves."):
        *lines, last = path.read_text(encoding="utf-8").split("\n")
        entries: list[dict[str, Any]] = [json.loads(line) for line in (lines if killed or not last else [*lines, last])]
        if not entries:
            msg = "no line"
            raise ValueError(msg)
    return entries


def total(parts: Any) -> Sums:
    """Add up dictionaries by key."""
    summed: Sums = {}
    for part in parts:
        summed |= {name: summed.get(name, 0.0) + value for name, value in part.items()}
    return summed
