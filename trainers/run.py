# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""One run: a recipe, a data directory and a run folder."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from retort.students.files import read_json, remove_leftovers, write_json
from retort.students.scoring import is_ranker
from retort.students.student import save_student
from retort.trainers.build import BuiltRecipe, build_recipe
from retort.trainers.corpus import make_corpus
from retort.trainers.data.splits import read_train_and_dev
from retort.trainers.data.texts import RetrievalData
from retort.trainers.engine.checkpoints import list_checkpoints, prune_checkpoints
from retort.trainers.engine.loop import Loop, make_accelerator
from retort.trainers.evaluation.dev import dev_sample, dev_sampler, final_metrics
from retort.trainers.evaluation.runs import MEASURE_AGAIN, write_evaluation
from retort.trainers.recipe import Recipe
from retort.trainers.run_folder import (
    former_models_of,
    models_of,
    only_writer,
    refuse_other_models,
    refuse_other_run,
    resolve,
    write_recipe,
)
from retort.trainers.runtime.distributed import ProcessGroup
from retort.trainers.stages import StageOpener
from retort.trainers.teachers.vector_cache import cache_root

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

MIN_QUERY_SENSITIVITY = 0.75  # rankers that look at queries had .89 to .99 on two sets; by the document alone it is .5


def run_recipe(recipe: Recipe, data_folder: Path, out: Path, *, resume: bool = False) -> dict[str, Any]:
    """
    Train a student by a recipe.

    :param recipe:
        The recipe.
    :param data_folder:
        A BEIR folder, or training data as `retort.trainers.data.read` reads it; or none yet, if the recipe has
        `data.corpus`.
    :param out:
        Run folder.
    :param resume:
        Go on with the run that `out` holds; a finished one is returned as it is.
    :returns:
        The run's metrics.
    :raises RecipeError:
        If `out` holds a run and `resume` is off, or holds a run of another recipe or other data.
    """
    make_corpus(recipe, data_folder, cache_root(out))
    train, dev = read_train_and_dev(data_folder, recipe.data)
    recipe = resolve(recipe, train, dev)
    refuse_other_run(recipe, out, resume=resume)
    remove_leftovers(out)
    if (out / "metrics.json").is_file() and (out / "recipe.yaml").is_file():
        metrics: dict[str, Any] = read_json(out / "metrics.json", MEASURE_AGAIN)
        return metrics
    with recipe.located():
        accelerator = make_accelerator(recipe.training, out)
    torch.manual_seed(recipe.training.seed)  # weights that objectives create
    built = build_recipe(recipe, train, cache_root(out))
    built.refuse_missing_queries(data_folder)
    models = models_of(built)
    refuse_other_models(models, out, former_models_of(built))
    processes = ProcessGroup(accelerator)
    processes.barrier()  # nobody writes before all have looked
    with only_writer(out) if processes.is_main else nullcontext():
        # Only now: a recipe that fails above leaves no run behind.
        if processes.is_main:
            write_recipe(recipe, out)
            write_json(out / "checkpoints" / "models.json", models)
        accelerator.init_trackers("trackers")
        metrics = train_built(built, out, dev, accelerator)
        for tracker in accelerator.trackers:  # not `end_training`: a notebook may train again in these processes
            tracker.finish()
        return metrics


def train_built(
    built: BuiltRecipe, out: Path, dev: RetrievalData, accelerator: Accelerator, *, home: Path | None = None
) -> dict[str, Any]:
    """
    Train what a recipe trains: the student of a run, or a teacher within one.

    :param built:
        The recipe and all that it names.
    :param out:
        The folder to write; what it holds already is gone on with.
    :param dev:
        What the best state is chosen by.
    :param accelerator:
        Device and processes.
    :param home:
        The run folder, in which teachers are trained; None: `out` is it.
    :returns:
        What it measured, the same on every rank.
    """
    recipe, context, student = built.recipe, built.context, built.distiller.student
    processes = ProcessGroup(accelerator)
    train = partial(train_teacher, built, home=home or out, dev=dev, accelerator=accelerator)
    with processes.main_first():  # it may ask for questions, and keep them in the cache
        views = built.views()
    if home is None:
        context.views = views
    loop = Loop(
        built.distiller,
        recipe,
        out,
        open_stage=StageOpener(built, out, processes, train),
        evaluate=dev_sampler(dev, student, recipe.training, views),
        accelerator=accelerator,
        tracked=home is None,  # a teacher's steps would fall among the student's
    )
    if processes.is_main:  # a run may have been killed after writing its last one, before deleting the first
        prune_checkpoints(out / "checkpoints", recipe.training.keep_checkpoints)
    checkpoints = list_checkpoints(out / "checkpoints")
    progress = loop.run(checkpoints[-1] if checkpoints else None)
    teachers = {name: context.teachers[name] for name in built.all_teachers()}
    for name in teachers:  # a run that went on after the last stage that asks one has not taken it up
        train(name)
    metrics: dict[str, Any] = {}
    if processes.is_main:
        if home is not None and not is_ranker(student):
            dev = dev_sample(dev, recipe.training)  # the run around measures it over the full corpus, by its vectors
        metrics, found = final_metrics(student, dev, context, list(teachers), recipe.training, vars(progress), views)
        _warn_of_learning_by_heart(recipe.name, metrics["dev"])
        save_student(
            student,
            out / "student",
            **({} if views is None else {"kind": "multi_view", "views": asdict(views.rule)}),
            recipe=recipe.name,
            teachers=[{"name": n, "key": t.key, **asdict(recipe.teachers[n])} for n, t in teachers.items()],
            data={"name": context.data.name, "hash": recipe.data.hash},
            metrics=metrics["dev"].get("student", {}),
            parents=[built.trunk],
        )
        for name in built.distiller.learning_teachers():
            model, parents = built.distiller.live[name].model, [teachers[name].key]
            save_student(model, out / "teachers" / name / "student", recipe=recipe.name, parents=parents)
        for name, evaluation in found.items():
            split = recipe.data.dev
            write_evaluation(out, split if name == "student" else f"{split}.{name}", evaluation, dev)
        write_json(out / "metrics.json", metrics)
    return processes.broadcast(metrics)


def train_teacher(built: BuiltRecipe, name: str, *, home: Path, dev: RetrievalData, accelerator: Accelerator) -> None:
    """Train a teacher that is trained within the run, unless it is already, in `home/teachers/NAME`."""
    teacher: Any = built.context.teachers[name]
    if teacher.runs != "trained_in_run" or teacher.is_trained:
        return
    folder, processes = home / "teachers" / name, ProcessGroup(accelerator)
    within = built.trained_in_run.pop(name)  # its memory is free afterwards
    if not processes.broadcast((folder / "metrics.json").is_file()):
        if processes.is_main:
            write_recipe(within.recipe, folder)
        teacher.train_as(within.distiller.student)
        train_built(within, folder, dev, accelerator, home=home)
    teacher.load(folder / "student")


def _warn_of_learning_by_heart(run: str, measured: dict[str, Any]) -> None:
    """Warn of rankers that hardly look at queries: the one that was trained, and those in the loop."""
    own = {run: measured["query sensitivity"]} if "query sensitivity" in measured else {}
    live = measured.get("query sensitivity of teachers", {}).items()
    for name, sensitivity in (own | {f"{run}, teacher {teacher}": value for teacher, value in live}).items():
        if sensitivity < MIN_QUERY_SENSITIVITY:
            logger.warning(
                "%s: it scores a document nearly alike whatever the query (dev positives are above the same document "
                "with another query %.0f times in 100; 50 is chance). It may have learnt by heart which documents are "
                "positives: give it more queries, fewer steps or a lower lr.",
                name,
                100 * sensitivity,
            )
