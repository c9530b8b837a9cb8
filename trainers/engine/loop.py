# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
The training loop, the only one: stages, optimiser, schedule, clipping, checkpoints.

It knows nothing of methods or batches: `distiller(batch, ctx) -> terms` is all that it calls.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from retort.students.layers import attend_step_by_step, collect_rows, join_rows
from retort.students.loading import has_bfloat16
from retort.trainers.distiller import Distiller, step_loss
from retort.trainers.engine.checkpoints import (
    load_module,
    load_rng,
    load_stage_state,
    read_state,
    rng_state,
    save_checkpoint,
)
from retort.trainers.engine.log import RunLog, Sums, total
from retort.trainers.engine.optimizers import AlternatingOptimizers
from retort.trainers.engine.progress import RunProgress
from retort.trainers.engine.validation import Validation
from retort.trainers.recipe import Recipe, Stage, TrainingSection
from retort.trainers.roles import BatchSource, State, StepContext
from retort.trainers.runtime.distributed import ProcessGroup
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.runtime.progress import progress_bar

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

States = dict[str, State]  # what objectives fixed for a stage, by their place


@dataclass
class OpenedStage:
    """
    A stage that is ready to train.

    :param source:
        Its batches.
    :param fix_state:
        Has its objectives set weights, if the stage begins, and asks them what is to hold from now on, with what held
        before a refresh.
    :param figures:
        What is logged about it, by name: how many queries there are, and how many a selector kept.
    """

    source: BatchSource
    fix_state: Callable[[States], States]
    figures: dict[str, int] = field(default_factory=dict)


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


class Loop:
    """
    Trains a distiller through the stages of a recipe.

    :param distiller:
        Everything that learns.
    :param recipe:
        Its stages, and how to train.
    :param run:
        Run folder: `log.jsonl` and `checkpoints/` are written there.
    :param open_stage:
        Called when a stage starts, and whenever it is refreshed, with how often it was before.
    :param evaluate:
        Gives the dev sample's nDCG@10 of the student as it is; None: there are no dev queries.
    :param accelerator:
        Device and processes.
    :param tracked:
        Whether trackers are told.
    """

    def __init__(
        self,
        distiller: Distiller,
        recipe: Recipe,
        run: Path,
        *,
        open_stage: Callable[[Stage, int], OpenedStage],
        evaluate: Callable[[], float] | None,
        accelerator: Accelerator,
        tracked: bool = True,
    ) -> None:
        self.distiller = distiller.to(accelerator.device)
        self.recipe = recipe
        self.run_folder = run
        self.open_stage = open_stage
        self.accelerator = accelerator
        self.processes = ProcessGroup(accelerator)
        self._bf16 = uses_bf16(recipe.training.precision, accelerator.device)
        if accelerator.device.type == "cpu":
            collect_rows(self.distiller)
            if self._bf16:
                attend_step_by_step(self.distiller)
        self.progress = RunProgress()
        self._counts: Sums = {}  # valid values of a stage's terms, of the steps trained here
        self.log = RunLog(run / "log.jsonl", accelerator, tracked=tracked)
        best = run / "checkpoints" / "best.safetensors"
        self.validation = Validation(self.distiller, evaluate, best, self.log, self.processes)

    def run(self, checkpoint: Path | None = None) -> RunProgress:
        """
        Train all stages, then load the student that `training.keep` names.

        :param checkpoint:
            A checkpoint to go on from, bit for bit.
        :returns:
            Where the run ended.
        :raises RecipeError:
            If no stage had anything to train on, or a resumed one has other candidate lists than it began with.
        """
        stages, seed = self.recipe.stages, self.recipe.training.seed + self.processes.rank
        if checkpoint is None:
            self.processes.broadcast_weights(self.distiller)
            torch.manual_seed(seed)  # each process' dropout is its own
            self.log.begin()
            self.log.write(self._where, event="start", dev_sample_ndcg=self.validation.score())
        else:
            self.progress = RunProgress.from_state(read_state(checkpoint))
            if self.progress.step > 0:
                self.distiller.take_anchor(stages[self.progress.stage].name)  # its weights come next
            load_module(checkpoint, self.distiller)
            torch.manual_seed(seed)  # for processes that the checkpoint does not know
            self.log.cut(self.progress.global_step)
        while self.progress.stage < len(stages):
            self._train_stage(stages[self.progress.stage], checkpoint)
            checkpoint = None
        if self.progress.best_step < 0:
            names = ", ".join(stage.name for stage in stages)
            msg = (
                f"stage {names}: no query was left to train on. Look at what selects them, or at what they are made "
                "of: pairs need five words beside the query."
            )
            raise RecipeError(msg)
        self.validation.load_best()
        return self.progress

    def _train_stage(self, stage: Stage, checkpoint: Path | None) -> None:
        progress, training = self.progress, self.recipe.training_of(stage)
        self.distiller.encoder.cache_gradients = training.cache_gradients
        every, opened = stage.refresh or stage.steps, progress.step
        source = self._opened(stage, checkpoint)
        optimizers = AlternatingOptimizers(self.distiller, stage, training)
        if checkpoint is not None:
            if progress.step > 0:
                optimizers.load(checkpoint)
            load_rng(checkpoint, self.processes.rank)  # last: whatever was made above may have drawn numbers
        self.distiller.train()
        self.log.begin_stage()
        self._counts = {}
        with progress_bar(f"stage {stage.name}", stage.steps) as update:
            update(progress.step)
            while progress.step < stage.steps:
                if progress.step % every == 0:
                    if progress.step > opened:
                        source = self._opened(stage, None)
                    self.distiller.take_anchor(stage.name)
                if not source.size:
                    self.log.write(self._where, event="no_queries")
                    if self.processes.is_main:
                        left = "is left out" if progress.step == 0 else f"ends after {progress.step} steps"
                        logger.warning("stage %s: no query is left to train on; it %s.", stage.name, left)
                    if progress.step > 0:
                        self.validation.run(progress, self._where, training)
                    break
                lr = optimizers.take(progress.step)
                _, norm = self._step(optimizers, source, stage, training)
                progress.step += 1
                progress.global_step += 1
                update(1)
                ends = progress.step == stage.steps
                if progress.step % training.log_every == 0 or ends:
                    self.log.write_steps(self._where, lr=lr, grad_norm=norm)
                if self._is_due(optimizers, training) or ends:
                    self.validation.run(progress, self._where, training)
                    if optimizers.is_students and self._patience_lost(training):
                        break
                if progress.step % training.checkpoint_every == 0 and not ends:
                    self._save(optimizers)
        self._warn_of_nothing_learned(stage, progress.step - opened)
        self.distiller.drop_anchor()
        self.distiller.take_state({})
        progress.begin_stage(progress.stage + 1)
        self._save(None)  # the next stage begins with an optimiser of its own

    def _warn_of_nothing_learned(self, stage: Stage, steps: int) -> None:
        if steps and self._counts and not any(self._counts.values()) and self.processes.is_main:
            logger.warning(
                "stage %s: nothing was learned in %d steps: no query or text had what %s compares, such as two scored "
                "documents in its list. Give more documents or candidates, or look at what the teacher scores.",
                stage.name,
                steps,
                ", ".join(self._counts),
            )

    def _opened(self, stage: Stage, checkpoint: Path | None) -> BatchSource:
        """Open a stage, or refresh it; with a checkpoint go on from there."""
        progress, every = self.progress, stage.refresh or stage.steps
        former = self.distiller.stage_state if checkpoint is None else load_stage_state(checkpoint)
        cuda = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        with torch.random.fork_rng(cuda):  # a teacher may be trained now, or may have been before a kill
            opened = self.open_stage(stage, progress.step // stage.refresh if stage.refresh else 0)
            source = opened.source
            if progress.step % every:
                if source.lists_hash != progress.lists:
                    msg = (
                        f"stage {stage.name}: its candidate lists are not those that it began with; give another --out."
                    )
                    raise RecipeError(msg)
                state = former
            else:
                fixes = source.size and self.processes.is_main
                state = self.processes.broadcast(opened.fix_state(former) if fixes else {})
                if not progress.step:
                    self.processes.broadcast_weights(self.distiller)  # objectives may have set some
                if opened.figures:
                    self.log.write(self._where, event="opened", **opened.figures)
        self.distiller.take_state(state)
        progress.lists = source.lists_hash
        return source

    def _step(
        self, optimizers: AlternatingOptimizers, source: BatchSource, stage: Stage, training: TrainingSection
    ) -> tuple[Sums, float]:
        """Train one step; return the loss and its terms, and the gradient's norm."""
        progress, device = self.progress, self.accelerator.device
        batch = source.batch(progress.step)
        progress.queries_without_positive += batch.lists_without_positive
        ctx = StepContext(
            stage.name, progress.step, stage.steps, batch.size, training.seed, self.processes, whole=batch
        )
        dtype = torch.promote_types(next(self.distiller.student.parameters()).dtype, torch.float32)
        parts = [part.to(device, dtype) for part in batch.split(training.accumulation)]
        # Each part's loss is divided by what counts in the whole step, so this must be known before the first.
        counts = total(self.distiller.counts(part, ctx) for part in parts)
        self._counts = total((self._counts, counts))
        found: list[Sums] = []
        logged: list[Sums] = []
        counted: list[Sums] = []
        for part in parts:
            with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
                terms = self.distiller(part, ctx)
                loss = step_loss(terms, counts)
            self._refuse_not_finite("loss", float(loss.detach()))
            self.accelerator.backward(loss)
            sums = {name: float(v.detach().masked_fill(~m, 0.0).sum()) for name, (v, m, _) in terms.items()}
            found.append(
                {"loss": float(loss.detach())} | {n: sums[n] / max(counts[n], 1.0) for n in counts if n in sums}
            )
            only_logged = {name: m for name, (_, m, weight) in terms.items() if weight is None}
            logged.append({name: sums[name] for name in only_logged})
            counted.append({name: float(m.sum()) for name, m in only_logged.items()})
        terms_of_step = total(found)
        self.log.add(terms_of_step, total(logged), total(counted))
        join_rows(optimizers.learning)
        self.processes.average_gradients(optimizers.learning)
        norm = float(self.accelerator.clip_grad_norm_(optimizers.learning, training.clip or float("inf")))
        self._refuse_not_finite("gradient's norm", norm)
        optimizers.optimizer.step()
        optimizers.optimizer.zero_grad(set_to_none=True)
        return terms_of_step, norm

    def _refuse_not_finite(self, what: str, value: float) -> None:
        """Stop before the weights, and then the checkpoints, are spoilt."""
        if not math.isfinite(value):
            msg = (
                f"stage {self.recipe.stages[self.progress.stage].name}, step {self.progress.step}: the {what} is "
                f"{value}. Lower lr, or look at the teacher's vectors. The last checkpoint stands."
            )
            raise FloatingPointError(msg)

    def _is_due(self, optimizers: AlternatingOptimizers, training: TrainingSection) -> bool:
        """Whether the student is to be evaluated within the stage."""
        every = training.evaluate_every
        return optimizers.is_students and every > 0 and self.progress.step % every == 0

    def _patience_lost(self, training: TrainingSection) -> bool:
        lost = 0 < training.patience <= self.progress.since_best
        if lost:
            self.log.write(self._where, event="early_stop", best_step=self.progress.best_step)
        return lost

    def _save(self, optimizers: AlternatingOptimizers | None) -> None:
        rng = self.processes.all_gather(rng_state())
        if self.processes.is_main:
            save_checkpoint(
                self.run_folder / "checkpoints",
                self.distiller,
                optimizers.optimizers if optimizers else {},
                vars(self.progress),
                rng,
                stage_state=self.distiller.stage_state,
                keep=self.recipe.training.keep_checkpoints,
            )

    @property
    def _where(self) -> dict[str, Any]:
        """Where the run stands, for the log."""
        progress, stages = self.progress, self.recipe.stages
        return {
            "stage": stages[min(progress.stage, len(stages) - 1)].name,
            "step": progress.step,
            "global_step": progress.global_step,
            "queries_without_positive": progress.queries_without_positive,
        }
