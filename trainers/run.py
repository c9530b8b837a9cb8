# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""One run: a recipe, a data directory and a run folder."""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from filelock import FileLock, Timeout

from retort.students.files import replace_file, write_json
from retort.students.hashing import hash_text
from retort.students.ranker import Ranker
from retort.students.scoring import is_ranker, score_numpy
from retort.students.sparse import SparseStudent, encode_vectors, is_sparse
from retort.students.student import Student, build_manifest, save_student
from retort.trainers.build import BuiltRecipe, build_recipe
from retort.trainers.context import TrainingContext
from retort.trainers.data.read import has_split, read_data
from retort.trainers.data.texts import RetrievalData, share_corpus
from retort.trainers.engine.checkpoints import list_checkpoints
from retort.trainers.engine.loop import Loop, OpenedStage, make_accelerator
from retort.trainers.evaluation.metrics import mean, per_query
from retort.trainers.evaluation.rank import (
    Evaluation,
    evaluate_bm25,
    evaluate_model,
    evaluate_ranker,
    evaluate_rows,
    evaluate_vectors,
    flattened,
    query_sensitivity,
    rankings,
    rerank,
)
from retort.trainers.evaluation.runs import write_evaluation
from retort.trainers.recipe import DataSection, Recipe, Stage, TrainingSection
from retort.trainers.runtime.distributed import ProcessGroup
from retort.trainers.runtime.errors import DataError, RecipeError
from retort.trainers.runtime.rng import rng_for
from retort.trainers.search import BM25, search_vectors
from retort.trainers.stages import open_stage
from retort.trainers.teachers.vector_cache import cache_root

if TYPE_CHECKING:
    from accelerate import Accelerator
    from sentence_transformers import CrossEncoder, SentenceTransformer

logger = logging.getLogger(__name__)

HELD_OUT_SHARE, HELD_OUT_MOST = 0.1, 500
BM25_NEIGHBOURS = 5
MIN_QUERY_SENSITIVITY = 0.75  # rankers that look at queries had .89 to .99 on two sets; by the document alone it is .5


def run_recipe(recipe: Recipe, data_folder: Path, out: Path, *, resume: bool = False) -> dict[str, Any]:
    """
    Train a student by a recipe.

    :param recipe:
        The recipe.
    :param data_folder:
        A BEIR folder, or training data as `retort.trainers.data.read` reads it.
    :param out:
        Run folder.
    :param resume:
        Go on with the run that `out` holds; a finished one is returned as it is.
    :returns:
        The run's metrics.
    :raises RecipeError:
        If `out` holds a run and `resume` is off, or holds a run of another recipe or other data.
    """
    train, dev = read_train_and_dev(data_folder, recipe.data)
    recipe = resolve(recipe, train, dev)
    refuse_other_run(recipe, out, resume=resume)
    if (out / "metrics.json").is_file():
        return json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    accelerator = make_accelerator(recipe.training, out)
    torch.manual_seed(recipe.training.seed)  # weights that objectives create
    parts = build_recipe(recipe, train, cache_root(out))
    models = models_of(parts)
    refuse_other_models(models, out)
    processes = ProcessGroup(accelerator)
    processes.barrier()  # nobody writes before all have looked
    with _only_writer(out) if processes.is_main else nullcontext():
        # Only now: a recipe that fails above leaves no run behind.
        if processes.is_main:
            _write_recipe(recipe, out)
            write_json(out / "checkpoints" / "models.json", models)
        accelerator.init_trackers("trackers")
        metrics = train_built(parts, out, dev, accelerator)
        for tracker in accelerator.trackers:  # not `end_training`: a notebook may train again in these processes
            tracker.finish()
        return metrics


def train_built(
    parts: BuiltRecipe, out: Path, dev: RetrievalData, accelerator: Accelerator, *, home: Path | None = None
) -> dict[str, Any]:
    """
    Train what a recipe trains: the student of a run, or a teacher within one.

    :param parts:
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
    recipe, context, student = parts.recipe, parts.context, parts.distiller.student
    processes = ProcessGroup(accelerator)

    def opened(stage: Stage, number: int) -> OpenedStage:
        for name in parts.asked(stage):
            train_teacher(parts, name, home or out, dev, accelerator)
        # The first rank mines and asks teachers; the others then find everything in the cache.
        with processes.main_first():
            return open_stage(parts, stage, out, number=number)

    views = parts.views()
    loop = Loop(
        parts.distiller,
        recipe,
        out,
        open_stage=opened,
        evaluate=dev_sampler(dev, student, recipe.training, views),
        accelerator=accelerator,
        tracked=home is None,  # a teacher's steps would fall among the student's
    )
    checkpoints = list_checkpoints(out / "checkpoints")
    progress = loop.run(checkpoints[-1] if checkpoints else None)
    teachers = {n: context.teachers[n] for n in sorted({n for stage in recipe.stages for n in parts.asked(stage)})}
    for name in teachers:  # a run that went on after the last stage that asks one has not taken it up
        train_teacher(parts, name, home or out, dev, accelerator)
    metrics: dict[str, Any] = {}
    if processes.is_main:
        if home is not None and not is_ranker(student):
            dev = dev_sample(dev, recipe.training)  # the run around measures it over the full corpus, by its vectors
        metrics, found = final_metrics(student, dev, context, list(teachers), recipe.training, vars(progress), views)
        if (sensitivity := metrics["dev"].get("query sensitivity", 1.0)) < MIN_QUERY_SENSITIVITY:
            logger.warning(
                "%s: it scores a document nearly alike whatever the query (dev positives are above the same document "
                "with another query %.0f times in 100; 50 is chance). It may have learnt by heart which documents are "
                "positives: give it more queries, fewer steps or a lower lr.",
                recipe.name,
                100 * sensitivity,
            )
        save_student(
            student,
            out / "student",
            kind=None if views is None else "multi_view",
            recipe=recipe.name,
            teachers=[{"name": n, "key": t.key, **asdict(recipe.teachers[n])} for n, t in teachers.items()],
            data={"name": context.data.name, "hash": recipe.data.hash},
            metrics=metrics["dev"]["student"],
            parents=[parts.trunk],
        )
        for name in parts.distiller.taught():
            model, parents = parts.distiller.live[name].model, [teachers[name].key]
            save_student(model, out / "teachers" / name / "student", recipe=recipe.name, parents=parents)
        for name, evaluation in found.items():
            split = recipe.data.dev
            write_evaluation(out, split if name == "student" else f"{split}.{name}", evaluation, dev)
        write_json(out / "metrics.json", metrics)
    return processes.broadcast(metrics)


def train_teacher(parts: BuiltRecipe, name: str, home: Path, dev: RetrievalData, accelerator: Accelerator) -> None:
    """Train a teacher that is trained within the run, unless it is already, in `home/teachers/NAME`."""
    teacher: Any = parts.context.teachers[name]
    if teacher.runs != "trained_in_run" or teacher.is_trained:
        return
    folder, processes = home / "teachers" / name, ProcessGroup(accelerator)
    within = parts.trained_in_run.pop(name)  # its memory is free afterwards
    if not processes.broadcast((folder / "metrics.json").is_file()):
        if processes.is_main:
            _write_recipe(within.recipe, folder)
        train_built(within, folder, dev, accelerator, home=home)
    teacher.load(folder / "student")


def read_train_and_dev(folder: Path, section: DataSection) -> tuple[RetrievalData, RetrievalData]:
    """
    Read what a run trains on and what it is chosen by.

    Without a dev split some training queries with a positive are held out, and said so: as many as a tenth of all
    queries, but 500 and half of those with a positive at most.
    """
    train = read_data(folder, section.train, empty=section.empty)
    if has_split(folder, section.dev):
        train, dev = share_corpus(train, read_data(folder, section.dev, empty=section.empty))
    else:
        judged = np.array([len(rows) > 0 for rows in train.positives()], dtype=bool)
        # Only those with a positive tell a good student from a bad one; half of them at most: they teach as well.
        most = min(HELD_OUT_MOST, round(HELD_OUT_SHARE * len(train.queries)), int(judged.sum()) // 2)
        order = rng_for("held out", train.hash).permutation(len(train.queries))
        order = order[np.argsort(~judged[order], kind="stable")]
        count = max(1, most)
        logger.warning("%s has no %s split: %d training queries are held out for it.", folder, section.dev, count)
        dev = train.subset(order[:count])
        train = train.subset(order[count:])
    if section.max_queries is not None:
        train = train.subset(np.arange(min(section.max_queries, len(train.queries))))
    if not len(train.queries):
        msg = f"{folder}: there is no query to train on."
        raise DataError(msg)
    if not any(len(rows) for rows in dev.positives()):
        msg = (
            f"{folder}: no query to choose the best student by has a positive. Add a split {section.dev!r} with "
            "positives (qrels, pos, or labels of 0 and 1): scores alone do not say what is relevant."
        )
        raise DataError(msg)
    return train, dev


def dev_sample(dev: RetrievalData, training: TrainingSection) -> RetrievalData:
    """
    Draw the fixed dev sample: queries, their positives, what BM25 takes for similar, and random documents.

    :param dev:
        The dev split.
    :param training:
        Sizes and seed; the seed of the sample does not depend on it.
    """
    rng = rng_for("dev sample", dev.queries.hash)
    order = rng.permutation(len(dev.queries))[: training.dev_queries]
    sample = dev.subset(np.sort(order))
    rows = {int(r) for found in sample.positives() for r in found}
    near, _ = BM25(dev.corpus.texts).search(sample.queries.texts, BM25_NEIGHBOURS)
    rows |= {int(r) for r in near.ravel()}
    spare = [int(r) for r in rng.permutation(len(dev.corpus)) if int(r) not in rows]
    rows |= set(spare[: max(0, training.dev_documents - len(rows))])
    return RetrievalData(dev.name, dev.corpus.select(sorted(rows)), sample.queries, sample.qrels)


def dev_sampler(
    dev: RetrievalData,
    model: SentenceTransformer | CrossEncoder,
    training: TrainingSection,
    views: Mapping[str, list[str]] | None = None,
) -> Callable[[], float]:
    """Return a function that gives the model's nDCG@10 on the dev sample; `views` as in `evaluate_model`."""
    if is_ranker(model):
        sample, candidates = ranker_sample(dev, training)

        def reranked() -> float:
            rows = rerank(sample, candidates, lambda pairs: score_numpy(model, pairs))
            return mean(per_query(rankings(sample, rows), sample.qrels))["ndcg@10"]

        return reranked
    sample = dev_sample(dev, training)
    texts, starts = sample.corpus.texts, None
    if views is not None:
        texts, starts = flattened(views, sample.corpus.ids)

    def score() -> float:
        documents = encode_vectors(model, texts, "document")
        queries = encode_vectors(model, sample.queries.texts, "query")
        rows, _ = search_vectors(queries, documents, 10, similarity=model.similarity_fn_name, starts=starts)
        return mean(per_query(rankings(sample, rows), sample.qrels))["ndcg@10"]

    return score


def ranker_sample(dev: RetrievalData, training: TrainingSection) -> tuple[RetrievalData, np.ndarray]:
    """Draw the fixed dev sample of a ranker: queries, and BM25's first documents of the full corpus for each."""
    order = rng_for("dev sample", dev.queries.hash).permutation(len(dev.queries))[: training.dev_queries]
    sample = dev.subset(np.sort(order))
    return sample, BM25(dev.corpus.texts).search(sample.queries.texts, training.dev_depth)[0]


def final_metrics(
    student: SentenceTransformer | CrossEncoder,
    dev: RetrievalData,
    context: TrainingContext,
    asked: list[str],
    training: TrainingSection,
    progress: dict[str, Any],
    views: Mapping[str, list[str]] | None = None,
) -> tuple[dict[str, Any], dict[str, Evaluation]]:
    """
    Measure the student, BM25 and the teachers that it asked.

    A bi-encoder, BM25, and each teacher that gives vectors, rank the full corpus for all dev queries. A ranker ranks
    BM25's first documents for the dev sample, beside BM25 itself: all dev queries would take too long. Of a ranker it
    is measured besides whether it looks at the query (`query_sensitivity`).

    :returns:
        The metrics, and the evaluations by name: `student`, `bm25` and teachers.
    """
    manifest = build_manifest(student)
    if is_ranker(student):
        sample, candidates = ranker_sample(dev, training)
        found = {
            "student": evaluate_ranker(Ranker(student, manifest, "student"), sample, candidates),
            "bm25": evaluate_rows("bm25", sample, candidates),
        }
    else:
        loaded = (SparseStudent if is_sparse(student) else Student)(student, manifest, "student")
        found = {"student": evaluate_model(loaded, dev, views=views), "bm25": evaluate_bm25(dev)}
        for name in asked:
            teacher = context.teachers[name]
            if teacher.runs != "in_loop" and teacher.gives == "vectors":
                queries = context.teacher_cache(name, "query", dev.queries).gather(dev.queries.item_ids)
                documents = context.teacher_cache(name, "document", dev.corpus).gather(dev.corpus.item_ids)
                found[name] = evaluate_vectors(
                    name, dev, queries, documents, teacher.similarity, student=teacher.local_student
                )
    teachers = {name: e.metrics for name, e in found.items() if name not in {"student", "bm25"}}
    metrics: dict[str, Any] = {
        "student": found["student"].metrics,
        "teachers": teachers,
        "candidates": {"bm25": found["bm25"].metrics},
    }
    if is_ranker(student):
        sensitivity = query_sensitivity(sample, lambda pairs: score_numpy(student, pairs))
        metrics |= {} if math.isnan(sensitivity) else {"query sensitivity": sensitivity}
    return {"dev": metrics, "training": progress}, found


def resolve(recipe: Recipe, train: RetrievalData, dev: RetrievalData) -> Recipe:
    """
    Return a copy of the recipe that names its data.

    :raises RecipeError:
        If it named other data before.
    """
    found = hash_text(train.hash + dev.hash)
    if recipe.data.hash not in {None, found}:
        msg = "data.hash: the recipe was resolved for other data. Remove the line to use it here."
        raise RecipeError(msg)
    resolved = copy.deepcopy(recipe)
    resolved.data.hash = found
    return resolved


def refuse_other_run(recipe: Recipe, out: Path, *, resume: bool) -> None:
    """
    Check that a run folder is free, or holds the run that is to go on.

    :param recipe:
        The resolved recipe (see `resolve`). Two recipes are the same if their values are, defaults included.
    :param out:
        The run folder.
    :param resume:
        Whether the run there is to go on.
    :raises RecipeError:
        If it holds a run and `resume` is off, or the run of another recipe or other data.
    """
    path = out / "recipe.yaml"
    if not path.is_file():
        return
    if not resume:
        msg = f"{out} already holds a run. Pass --resume to go on with it, or give another --out."
        raise RecipeError(msg)
    if Recipe.from_yaml(path, allow=recipe.allow) != recipe:
        msg = f"{out} holds a run of another recipe or other data ({path}). Give another --out."
        raise RecipeError(msg)


def models_of(parts: BuiltRecipe) -> dict[str, str]:
    """Identify what a run begins with: the student's start, and the teachers that are not trained within it."""
    every = (parts, *parts.trained_in_run.values())
    asked = {n for within in every for stage in within.recipe.stages for n in within.asked(stage)}
    teachers = {n: parts.context.teachers[n] for n in sorted(asked)}
    keys = {f"teacher {n}": t.key for n, t in teachers.items() if t.runs != "trained_in_run"}
    return {"student": parts.trunk} | keys


def refuse_other_models(models: dict[str, str], out: Path) -> None:
    """
    Check that a run goes on with the models that it began with: a recipe names folders, whose content may change.

    :param models:
        What `models_of` gives.
    :param out:
        The run folder.
    :raises RecipeError:
        If one is another.
    """
    path = out / "checkpoints" / "models.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else models
    if odd := [name for name in models if models[name] != before.get(name)]:
        msg = f"{odd[0]}: it is not the model that the run in {out} began with ({path}). Give another --out."
        raise RecipeError(msg)


@contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    """Keep other processes off a run folder."""
    locks = out.resolve().parent / ".retort-cache" / "locks"  # never $RETORT_CACHE: others may have another
    locks.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(locks / hash_text(str(out.resolve()))[:16], timeout=0):
            yield
    except Timeout as error:
        msg = f"{out} is being written by another process. Wait for it, or give another --out."
        raise RecipeError(msg) from error


def _write_recipe(recipe: Recipe, out: Path) -> None:
    with replace_file(out / "recipe.yaml") as aside:
        aside.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")
