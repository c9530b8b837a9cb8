# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
The training loop, the only one: stages, optimiser, schedule, clipping, evaluation, checkpoints, log.

It knows nothing of methods: `distiller(batch, ctx) -> terms` is all that it calls.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors.torch import load_file, save_file

from retort.students.files import replace_file
from retort.students.layers import attend_step_by_step, collect_rows, join_rows
from retort.students.loading import has_bfloat16
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.distiller import Context, Distiller, step_loss
from retort.trainers.engine.checkpoints import load_module, load_rng, read_state, rng_state, save_checkpoint
from retort.trainers.engine.optimizers import AlternatingOptimizers
from retort.trainers.recipe import Stage, TrainingSection
from retort.trainers.runtime.distributed import ProcessGroup
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.runtime.progress import progress_bar

if TYPE_CHECKING:
    from accelerate import Accelerator


class BatchSource(Protocol):
    """Gives the batch of any step."""

    @property
    def size(self) -> int: ...  # noqa: D102

    @property
    def queries_with_positive(self) -> int: ...  # noqa: D102

    @property
    def lists_hash(self) -> str: ...  # noqa: D102

    def batch(self, step: int) -> CandidateBatch: ...  # noqa: D102


@dataclass
class Progress:
    """Where the run stands; the whole of it goes into checkpoints."""

    stage: int = 0
    step: int = 0
    global_step: int = 0
    best: float = -1.0
    best_step: int = -1
    since_best: int = 0
    queries_without_positive: int = 0
    lists: str = ""


def make_accelerator(training: TrainingSection, out: Path) -> Accelerator:
    """
    Create the Accelerator of a run; it joins the processes that `accelerate launch` started.

    :param training:
        Names the trackers.
    :param out:
        The run folder; trackers that write files write under it.
    :raises RecipeError:
        If a tracker is not known or not installed, or the processes did not find each other.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.tracking import filter_trackers

    try:
        known = {str(tracker) for tracker in filter_trackers(list(training.trackers), str(out))}
    except (ValueError, ImportError) as error:
        msg = f"training.trackers: {error}"
        raise RecipeError(msg) from error
    if missing := [name for name in training.trackers if name not in known]:
        msg = f"training.trackers: install the package of {', '.join(missing)} (`pip install {' '.join(missing)}`)."
        raise RecipeError(msg)
    accelerator = Accelerator(
        # Its mixed precision is fixed once for a whole process, and bf16 needs no gradient scaler: we use ours.
        mixed_precision="no",
        log_with=list(training.trackers) or None,
        project_dir=str(out),
        # The first rank mines and asks teachers while the others wait.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=7))],
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        msg = (
            f"{launched} processes were launched, and this one works with {accelerator.num_processes}. "
            "Without GPUs, set ACCELERATE_USE_CPU=true."
        )
        raise RecipeError(msg)
    return accelerator


def uses_bf16(precision: str, device: torch.device) -> bool:
    """
    Decide on bf16 autocast.

    :param precision:
        `no`, `bf16` or `auto` (see `TrainingSection`).
    :param device:
        Where training runs.
    :raises RecipeError:
        If bf16 is asked for where it would be emulated.
    """
    available = has_bfloat16(device.type)
    if precision == "bf16" and not available:
        msg = f"training.precision: {device.type} would emulate bf16, slower than float32; use auto or no."
        raise RecipeError(msg)
    return precision != "no" and available


def total(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    """Add up dictionaries by key."""
    summed: dict[str, float] = {}
    for part in parts:
        summed |= {name: summed.get(name, 0.0) + value for name, value in part.items()}
    return summed


class Loop:
    """
    Trains a distiller through its stages.

    :param distiller:
        Everything that learns.
    :param stages:
        The stages of the recipe.
    :param training:
        How to train.
    :param run:
        Run folder: `log.jsonl` and `checkpoints/` are written there.
    :param open_stage:
        Called when a stage starts, and whenever it is refreshed, with how often it was before; gives its batches.
    :param evaluate:
        Gives the dev sample's nDCG@10 of the student as it is.
    :param accelerator:
        Device and processes.
    :param tracked:
        Whether trackers are told.
    """

    def __init__(
        self,
        distiller: Distiller,
        stages: list[Stage],
        training: TrainingSection,
        run: Path,
        *,
        open_stage: Callable[[Stage, int], BatchSource],
        evaluate: Callable[[], float],
        accelerator: Accelerator,
        tracked: bool = True,
    ) -> None:
        self.tracked = tracked
        self.distiller = distiller.to(accelerator.device)
        self.stages = stages
        self.training = training
        self.run_folder = run
        self.open_stage = open_stage
        self.evaluate = evaluate
        self.accelerator = accelerator
        self.processes = ProcessGroup(accelerator)
        self._bf16 = uses_bf16(training.precision, accelerator.device)
        if accelerator.device.type == "cpu":
            collect_rows(self.distiller)
            if self._bf16:
                attend_step_by_step(self.distiller)
        self.progress = Progress()
        self._logged_terms: set[str] = set()
        self._log_path = run / "log.jsonl"
        self._best_path = run / "checkpoints" / "best.safetensors"

    def run(self, checkpoint: Path | None = None) -> Progress:
        """
        Train all stages, then load the student that `training.keep` names.

        :param checkpoint:
            A checkpoint to go on from, bit for bit.
        :returns:
            Where the run ended.
        """
        if checkpoint is None:
            self.processes.broadcast_weights(self.distiller)
            torch.manual_seed(self.training.seed + self.processes.rank)  # each rank's dropout is its own
            if self.processes.is_main:
                self._log_path.unlink(missing_ok=True)
            self._log(event="start", dev_sample_ndcg=self._evaluated())
        else:
            self.progress = Progress(**read_state(checkpoint))
            if self.progress.step > 0:
                self.distiller.take_anchor(self.stages[self.progress.stage].name)  # its weights come next
            load_module(checkpoint, self.distiller)
            torch.manual_seed(self.training.seed + self.processes.rank)  # for ranks that the checkpoint does not know
            if self.processes.is_main:
                self._cut_log()
        while self.progress.stage < len(self.stages):
            self._train_stage(self.stages[self.progress.stage], checkpoint)
            checkpoint = None
        if self.progress.best_step < 0:
            names = ", ".join(stage.name for stage in self.stages)
            msg = f"stage {names}: no query was left to train on. Look at the selector."
            raise RecipeError(msg)
        self.processes.broadcast(None)  # the first rank may still be writing it
        self.distiller.student.load_state_dict(load_file(self._best_path))
        self.distiller.student.eval()
        return self.progress

    def _train_stage(self, stage: Stage, checkpoint: Path | None) -> None:
        progress, training = self.progress, self.training
        every, opened = stage.refresh or stage.steps, progress.step
        source = self._opened(stage)
        if opened % every and source.lists_hash != progress.lists:
            msg = f"stage {stage.name}: its candidate lists are not those that it began with; give another --out."
            raise RecipeError(msg)
        progress.lists = source.lists_hash
        turns = AlternatingOptimizers(self.distiller, stage, training)
        if checkpoint is not None:
            if progress.step > 0:
                turns.load(checkpoint)
            load_rng(checkpoint, self.processes.rank)  # last: whatever was made above may have drawn numbers
        self.distiller.train()
        started, first = time.perf_counter(), progress.step
        window: list[dict[str, float]] = []  # the steps since the last line of the log
        with progress_bar(f"stage {stage.name}", stage.steps) as update:
            update(progress.step)
            while progress.step < stage.steps:
                if progress.step % every == 0:
                    if progress.step > opened:
                        source = self._opened(stage)
                        progress.lists = source.lists_hash
                    self.distiller.take_anchor(stage.name)
                if not source.size:
                    self._log(event="no_queries")
                    if progress.step > 0:
                        self._evaluates(stage, due=True)
                    break
                lr = turns.take(progress.step)
                terms, norm = self._step(turns, source, stage)
                window.append(terms)
                progress.step += 1
                progress.global_step += 1
                update(1)
                if progress.step % training.log_every == 0 or progress.step == stage.steps:
                    seconds = (time.perf_counter() - started) / (progress.step - first)
                    made = total(dict.fromkeys(terms, 1.0) for terms in window)
                    means = {name: value / made[name] for name, value in total(window).items()}
                    seen = {name: means.pop(name) for name in sorted(self._logged_terms & means.keys())}
                    watched = {"logged_terms": seen} if seen else {}
                    self._log(event="step", lr=lr, grad_norm=norm, terms=means, **watched, seconds_per_step=seconds)
                    window.clear()
                if (turns.is_students or progress.step == stage.steps) and self._evaluates(stage):
                    if turns.is_students and self._patience_lost():
                        break
                if progress.step % training.checkpoint_every == 0 and progress.step < stage.steps:
                    self._save(turns)
        self.distiller.drop_anchor()
        progress.stage, progress.step, progress.since_best = progress.stage + 1, 0, 0
        self._save(None)  # the next stage begins with an optimiser of its own

    def _opened(self, stage: Stage) -> BatchSource:
        cuda = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        with torch.random.fork_rng(cuda):  # a teacher may be trained now, or may have been before a kill
            source = self.open_stage(stage, self.progress.step // stage.refresh if stage.refresh else 0)
        if source.size:
            self._refuse_hopeless(stage, source)
        return source

    def _step(self, turns: AlternatingOptimizers, source: BatchSource, stage: Stage) -> tuple[dict[str, float], float]:
        progress, training, device = self.progress, self.training, self.accelerator.device
        batch = source.batch(progress.step)
        if stage.takes_lists:
            progress.queries_without_positive += int((~batch.has_positive).sum())
        ctx = Context(stage.name, progress.step, stage.steps, len(batch.queries), training.seed, self.processes)
        dtype = next(self.distiller.student.parameters()).dtype
        parts = [part.to(device, dtype) for part in batch.split(training.accumulation)]
        # Each part's loss is divided by what counts in the whole step, so this must be known before the first.
        counts = total(self.distiller.counts(part, ctx) for part in parts)
        found: list[dict[str, float]] = []
        for part in parts:
            with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
                terms = self.distiller(part, ctx)
                loss = step_loss(terms, counts)
            self._refuse_not_finite("loss", float(loss.detach()))
            self.accelerator.backward(loss)
            self._logged_terms |= {name for name, (_, _, weight) in terms.items() if weight is None}
            sums = {name: float(v.detach().masked_fill(~m, 0.0).sum()) for name, (v, m, _) in terms.items()}
            found.append({"loss": float(loss.detach())} | {n: s / max(counts[n], 1.0) for n, s in sums.items()})
        join_rows(turns.learning)
        self.processes.average_gradients(turns.learning)
        norm = float(self.accelerator.clip_grad_norm_(turns.learning, training.clip or float("inf")))
        self._refuse_not_finite("gradient's norm", norm)
        turns.optimizer.step()
        turns.optimizer.zero_grad(set_to_none=True)
        return total(found), norm

    def _refuse_not_finite(self, what: str, value: float) -> None:
        """Stop before the weights, and then the checkpoints, are spoilt."""
        if not math.isfinite(value):
            msg = (
                f"stage {self.stages[self.progress.stage].name}, step {self.progress.step}: the {what} is {value}. "
                "Lower lr, or look at the teacher's vectors. The last checkpoint stands."
            )
            raise FloatingPointError(msg)

    def _refuse_hopeless(self, stage: Stage, source: BatchSource) -> None:
        needy = [type(o).__name__ for o in self.distiller.objectives_of(stage.name) if o.needs_positives]
        if needy and source.queries_with_positive == 0:
            msg = (
                f"stage {stage.name}: {', '.join(needy)} needs positives, but none of the {source.size} queries has "
                "one. Give qrels, or use objectives that need no labels (InBatchKL, ListwiseKL, Alignment)."
            )
            raise RecipeError(msg)

    def _evaluates(self, stage: Stage, *, due: bool = False) -> bool:
        every = self.training.evaluate_every
        due = due or self.progress.step == stage.steps or (every > 0 and self.progress.step % every == 0)
        if due:
            score = self._evaluated()
            self._log(event="evaluation", dev_sample_ndcg=score, best_before=self.progress.best)
            better = score > self.progress.best
            self.progress.since_best = 0 if better else self.progress.since_best + 1
            if better or self.training.keep == "last":
                self.progress.best, self.progress.best_step = max(score, self.progress.best), self.progress.global_step
                if self.processes.is_main:
                    state = {k: t.detach().cpu().clone() for k, t in self.distiller.student.state_dict().items()}
                    with replace_file(self._best_path) as aside:
                        save_file(state, aside)
        return due

    def _evaluated(self) -> float:
        self.distiller.eval()
        score = self.processes.broadcast(self.evaluate() if self.processes.is_main else None)
        self.distiller.train()
        return score

    def _patience_lost(self) -> bool:
        lost = 0 < self.training.patience <= self.progress.since_best
        if lost:
            self._log(event="early_stop", best_step=self.progress.best_step)
        return lost

    def _save(self, turns: AlternatingOptimizers | None) -> None:
        folder = self.run_folder / "checkpoints"
        keep = self.training.keep_checkpoints
        rng = self.processes.all_gather(rng_state())
        if self.processes.is_main:
            save_checkpoint(
                folder, self.distiller, turns.optimizers if turns else {}, vars(self.progress), rng, keep=keep
            )

    def _log(self, **entry: Any) -> None:
        if not self.processes.is_main:
            return
        figures = {**entry, **entry.get("terms", {}), **entry.get("logged_terms", {})}
        figures = {n: v for n, v in figures.items() if isinstance(v, float)}
        if self.tracked:
            self.accelerator.log(figures, step=self.progress.global_step)
        stage = min(self.progress.stage, len(self.stages) - 1)
        entry = {
            "stage": self.stages[stage].name,
            "step": self.progress.step,
            "global_step": self.progress.global_step,
            "queries_without_positive": self.progress.queries_without_positive,
            **entry,
        }
        with self._log_path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")

    def _cut_log(self) -> None:
        """Drop what an interrupted run logged after its last checkpoint."""
        lines = self._log_path.read_text(encoding="utf-8").splitlines()
        kept = []
        for line in lines:
            try:
                if json.loads(line)["global_step"] <= self.progress.global_step:
                    kept.append(line)
            except json.JSONDecodeError:  # the kill cut this line
                break
        with replace_file(self._log_path) as aside:
            aside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
