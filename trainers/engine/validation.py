# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Evaluation during training: the best student so far, and when to give up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from retort.students.files import replace_file
from retort.trainers.distiller import Distiller
from retort.trainers.engine.checkpoints import load_tensors, save_tensors
from retort.trainers.engine.log import RunLog
from retort.trainers.engine.progress import RunProgress
from retort.trainers.recipe.schema import TrainingSection
from retort.trainers.runtime.distributed import ProcessGroup


class Validation:
    """
    Evaluates the student on the dev sample, and keeps its best state.

    :param distiller:
        Holds the student.
    :param evaluate:
        Gives the dev sample's nDCG@10 of the student as it is; None: there are no dev queries, and the last state is
        kept.
    :param path:
        Where the best state is kept.
    :param log:
        Where it is written down.
    :param processes:
        The processes; the main one evaluates.
    """

    def __init__(
        self,
        distiller: Distiller,
        evaluate: Callable[[], float] | None,
        path: Path,
        log: RunLog,
        processes: ProcessGroup,
    ) -> None:
        self._distiller, self._evaluate, self._path = distiller, evaluate, path
        self._log, self._processes = log, processes

    def score(self) -> float | None:
        """Evaluate the student, the same result in every process; None without dev queries."""
        if self._evaluate is None:
            return None
        self._distiller.eval()
        score: float = self._processes.broadcast(self._evaluate() if self._processes.is_main else None)
        self._distiller.train()
        return score

    def run(self, progress: RunProgress, where: dict[str, Any], training: TrainingSection) -> None:
        """
        Evaluate, and keep the student if it is the one that `training.keep` names so far.

        :param progress:
            Where the run stands; its best figures are renewed.
        :param where:
            The same for the log.
        :param training:
            The stage's.
        """
        score = self.score()
        if score is not None:
            self._log.write(where, event="evaluation", dev_sample_ndcg=score, best_before=progress.best)
            progress.since_best = 0 if score > progress.stage_best else progress.since_best + 1
            progress.stage_best = max(score, progress.stage_best)
            progress.best = max(score, progress.best)
        if score is None or training.keep == "last" or score > progress.kept:
            progress.kept = progress.kept if score is None else score
            progress.best_step = progress.global_step
            if self._processes.is_main:
                with replace_file(self._path) as aside:
                    save_tensors(self._distiller.student.state_dict(), aside)

    def load_best(self) -> None:
        """Give the student the state that was kept."""
        self._processes.barrier()  # the main process may still be writing it
        mend = f"Delete the folder {self._path.parent}: the run begins anew."
        self._distiller.student.load_state_dict(load_tensors(self._path, mend))
        self._distiller.student.eval()
