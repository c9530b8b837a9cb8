# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""One run: a recipe, a data directory and a run folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml

from retort.students.files import replace_file, write_json
from retort.students.hashing import fingerprint_of
from retort.students.student import Student, build_manifest, save_student
from retort.trainers.candidates.batches import ListBatches, TextBatches, rng_for
from retort.trainers.candidates.bm25 import BM25
from retort.trainers.candidates.dense import search_vectors
from retort.trainers.candidates.lists import CandidateLists, build_lists
from retort.trainers.candidates.workbench import Workbench
from retort.trainers.checkpoints import list_checkpoints
from retort.trainers.data.beir import read_beir
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.distiller import Distiller, Spec
from retort.trainers.errors import DataError, RecipeError
from retort.trainers.evaluation.metrics import mean, per_query
from retort.trainers.evaluation.rank import Evaluation, evaluate_model, evaluate_vectors
from retort.trainers.loop import BatchSource, Loop, make_accelerator
from retort.trainers.recipe import DataSection, Recipe, Stage, TrainingSection
from retort.trainers.teachers.vector_cache import cache_root

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from retort.trainers.teachers import VectorTeacher

logger = logging.getLogger(__name__)

HELD_OUT_SHARE, HELD_OUT_MOST = 0.1, 500
BM25_NEIGHBOURS = 5


def run_recipe(recipe: Recipe, data_folder: Path, out: Path, *, resume: bool = False) -> dict[str, Any]:
    """
    Train a student by a recipe; see `Recipe.run`.

    :param recipe:
        The recipe.
    :param data_folder:
        BEIR folder.
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
    if recipe.data.hash not in {None, train.hash}:
        msg = f"data.hash: the recipe was resolved for other data than {data_folder}. Remove the line to use it here."
        raise RecipeError(msg)
    resolved = recipe.to_dict()
    resolved["data"]["hash"] = train.hash
    _claim(out, resolved, resume)
    if (out / "metrics.json").is_file():
        return json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    accelerator = make_accelerator()
    torch.manual_seed(recipe.training.seed)  # weights that objectives create
    student = recipe.create(recipe.student, "student", seed=recipe.training.seed)
    trunk = fingerprint_of(student)
    teachers: dict[str, VectorTeacher] = {
        name: recipe.create(spec, f"teachers.{name}", allowed_modules=recipe.allow or None)
        for name, spec in recipe.teachers.items()
    }
    bench = Workbench(train, teachers, cache_root(out), student)
    distiller = build_distiller(recipe, student, teachers)
    loop = Loop(
        distiller,
        recipe.stages,
        recipe.training,
        out,
        open_stage=lambda stage: open_stage(recipe, stage, bench, out),
        evaluate=dev_sampler(dev, student, recipe.training),
        accelerator=accelerator,
    )
    checkpoints = list_checkpoints(out / "checkpoints")
    progress = loop.run(checkpoints[-1] if checkpoints else None)
    metrics, evaluation = final_metrics(student, dev, bench, vars(progress))
    save_student(
        student,
        out / "student",
        recipe=_recipe_name(recipe),
        teachers=[{"name": name, "key": teacher.key} for name, teacher in teachers.items()],
        data={"name": train.name, "hash": train.hash},
        metrics=metrics["dev"]["student"],
        parents=[trunk],
    )
    _write_rankings(out, recipe.data.dev, evaluation)
    write_json(out / "metrics.json", metrics)
    return metrics


def read_train_and_dev(folder: Path, section: DataSection) -> tuple[RetrievalData, RetrievalData]:
    """
    Read what a run trains on and what it is chosen by.

    Without a dev split a fixed tenth of the training queries (500 at most) is held out, and said so.
    """
    train = read_beir(folder, section.train, empty=section.empty)
    if (folder / "qrels" / f"{section.dev}.tsv").is_file():
        dev = read_beir(folder, section.dev, empty=section.empty)
        # One corpus object: its cache keys are computed once.
        dev = RetrievalData(dev.name, train.corpus, dev.queries, dev.qrels)
    else:
        count = min(HELD_OUT_MOST, max(1, round(HELD_OUT_SHARE * len(train.queries))))
        order = rng_for("held out", train.hash).permutation(len(train.queries))
        logger.warning("%s has no %s split: %d training queries are held out for it.", folder, section.dev, count)
        dev = _subset(train, order[:count])
        train = _subset(train, order[count:])
    if section.max_queries is not None:
        train = _subset(train, np.arange(min(section.max_queries, len(train.queries))))
    if not len(train.queries) or not len(dev.queries):
        msg = (
            f"{folder}: there is no query to {'train on' if not len(train.queries) else 'choose the best student by'}."
        )
        raise DataError(msg)
    return train, dev


def build_distiller(recipe: Recipe, student: SentenceTransformer, teachers: dict[str, VectorTeacher]) -> Distiller:
    """Create the objectives of all stages and the distiller around them."""
    objectives = {
        stage.name: [
            (recipe.create(spec, f"stages.{i}.objectives.{j}", teacher=stage.teacher), spec.weight)
            for j, spec in enumerate(stage.objectives)
        ]
        for i, stage in enumerate(recipe.stages)
    }
    used = {o.teacher for pairs in objectives.values() for o, _ in pairs if o.teacher is not None}
    dim = int(student.get_embedding_dimension() or 0)
    spec = Spec(student_dim=dim, teacher_dims={name: teachers[name].dim for name in sorted(used)})
    scale = recipe.training.scale
    if scale is None:
        scale = 20.0 if student.similarity_fn_name == "cosine" else 1.0
    if student.similarity_fn_name not in {"cosine", "dot"}:
        msg = f"student: its similarity is {student.similarity_fn_name!r}; set similarity_fn_name to cosine or dot."
        raise RecipeError(msg)
    try:
        return Distiller(student, objectives, spec, scale=scale, tokens_per_chunk=recipe.training.tokens_per_chunk)
    except ValueError as error:
        msg = f"objectives: {error}"
        raise RecipeError(msg) from error


def open_stage(recipe: Recipe, stage: Stage, bench: Workbench, out: Path) -> BatchSource:
    """Make a stage's candidate lists, or read those it began with, and give its batches."""
    number = next(i for i, other in enumerate(recipe.stages) if other.name == stage.name)
    seed = f"{recipe.training.seed} {number}"
    declared = {spec.init_parameters.get("teacher", stage.teacher) for spec in stage.objectives}
    names = sorted(name for name in declared if name is not None)
    size = recipe.training.batch_size
    if stage.batches == "texts" or stage.candidates is None:
        return TextBatches(bench, batch_size=size, vector_teachers=names, seed=seed)
    path = out / "candidates" / f"{stage.name}.parquet"
    if path.is_file():
        lists = CandidateLists.load(path, bench.data)
    else:
        miners = {
            name: recipe.create(recipe.candidates[name], f"candidates.{name}") for name in stage.candidates.sources
        }
        lists = build_lists(bench, miners)
        lists.save(path, bench.data)
    return ListBatches(
        bench,
        lists,
        batch_size=size,
        negatives=stage.candidates.negatives,
        order=stage.candidates.order,
        positives=stage.candidates.positives,
        vector_teachers=names,
        seed=seed,
    )


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
    sample = _subset(dev, np.sort(order))
    rows = {int(r) for found in sample.positives() for r in found}
    near, _ = BM25(dev.corpus.texts).search(sample.queries.texts, BM25_NEIGHBOURS)
    rows |= {int(r) for r in near.ravel()}
    spare = [int(r) for r in rng.permutation(len(dev.corpus)) if int(r) not in rows]
    rows |= set(spare[: max(0, training.dev_documents - len(rows))])
    return RetrievalData(dev.name, dev.corpus.select(sorted(rows)), sample.queries, sample.qrels)


def dev_sampler(dev: RetrievalData, model: SentenceTransformer, training: TrainingSection) -> Callable[[], float]:
    """Return a function that gives the model's nDCG@10 on the dev sample."""
    sample = dev_sample(dev, training)

    def score() -> float:
        student = Student(model, build_manifest(model), "student")
        documents = student.encode_document(sample.corpus.texts)
        queries = student.encode_query(sample.queries.texts)
        rows, _ = search_vectors(queries, documents, 10, similarity=model.similarity_fn_name)
        ids = sample.corpus.ids
        rankings = {q: [ids[r] for r in found] for q, found in zip(sample.queries.ids, rows, strict=True)}
        return mean(per_query(rankings, sample.qrels))["ndcg@10"]

    return score


def final_metrics(
    student: SentenceTransformer, dev: RetrievalData, bench: Workbench, progress: dict[str, Any]
) -> tuple[dict[str, Any], Evaluation]:
    """Rank the full corpus for all dev queries with the student and each teacher."""
    loaded = Student(student, build_manifest(student), "student")
    evaluation = evaluate_model(loaded, dev)
    teachers = {}
    for name, teacher in bench.teachers.items():
        queries = bench.teacher_cache(name, "query", dev.queries).gather(dev.queries.item_ids)
        documents = bench.teacher_cache(name, "document", dev.corpus).gather(dev.corpus.item_ids)
        teachers[name] = evaluate_vectors(name, dev, queries, documents, teacher.similarity).metrics
    return {"dev": {"student": evaluation.metrics, "teachers": teachers}, "training": progress}, evaluation


def _subset(data: RetrievalData, rows: np.ndarray) -> RetrievalData:
    queries: TextStore = data.queries.select(rows)
    return RetrievalData(data.name, data.corpus, queries, {q: data.qrels[q] for q in queries.ids if q in data.qrels})


def _claim(out: Path, resolved: dict[str, Any], resume: bool) -> None:
    """Write the resolved recipe into the run folder, or check that the run there is the same."""
    path = out / "recipe.yaml"
    if path.is_file():
        if not resume:
            msg = f"{out} already holds a run. Pass --resume to go on with it, or give another --out."
            raise RecipeError(msg)
        if yaml.safe_load(path.read_text(encoding="utf-8")) != resolved:
            msg = f"{out} holds a run of another recipe or other data ({path}). Give another --out."
            raise RecipeError(msg)
        return
    with replace_file(path) as aside:
        aside.write_text(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _recipe_name(recipe: Recipe) -> str:
    return "+".join(stage.name for stage in recipe.stages)


def _write_rankings(out: Path, split: str, evaluation: Evaluation) -> None:
    import pandas as pd

    table = pd.DataFrame.from_dict(evaluation.per_query, orient="index").rename_axis("query_id").reset_index()
    (out / "per_query").mkdir(exist_ok=True)
    with replace_file(out / "per_query" / f"{split}.parquet") as aside:
        table.to_parquet(aside)
    with replace_file(out / "rankings" / f"{split}.run") as aside, aside.open("w", encoding="utf-8") as file:
        for query, ids in evaluation.rankings.items():
            for rank, document in enumerate(ids, 1):
                file.write(f"{query} Q0 {document} {rank} {len(ids) - rank + 1} student\n")
