# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort distill`: from a folder of documents to a student, an index, pipelines and a report."""

from __future__ import annotations

import argparse
import shlex
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retort.cli.index import index_documents
from retort.cli.table import COLUMNS, format_table
from retort.pipelines.load import pipeline_yaml
from retort.students.files import replace_file
from retort.students.manifest import Manifest
from retort.trainers.data.beir import read_beir
from retort.trainers.data.documents import documents_to_data, read_documents
from retort.trainers.data.pseudo_queries import GeneratedQuestions
from retort.trainers.data.queries import read_asked
from retort.trainers.data.synthesis import hold_out, make_queries, write_training_data
from retort.trainers.distill import recipe_for
from retort.trainers.from_documents import (
    SPLIT,
    default_sources,
    distill_documents,
    passes_for,
    refuse_other_student,
    shortened,
)
from retort.trainers.plan import plan_run
from retort.trainers.recipe import Recipe, TrainingSection, component, read_yaml
from retort.trainers.roles import QuerySource
from retort.trainers.run import dev_sample, read_train_and_dev
from retort.trainers.runtime.errors import RecipeError, TeacherError
from retort.trainers.teachers.vector_cache import cache_root

if TYPE_CHECKING:
    from haystack import Document

PIPELINES = ("extractive_qa", "indexing", "rag", "search")
EXPORT_SAMPLE = TrainingSection(dev_queries=300, dev_documents=4000)  # to choose by: a whole corpus takes minutes


def run(given: argparse.Namespace) -> None:
    """Do what is not done yet of the whole way."""
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - started:4.0f} s] {text}", flush=True)

    out: Path = given.out
    recipe = make_recipe(given.recipe, given.teacher, given.set, given.allow)
    passes = passes_for(given.recipe, [place.partition("=")[0] for place in given.set])
    refuse_other_student(recipe, out, passes)
    if (out / "index").exists() and not (out / "student").exists():  # not after an hour of training
        msg = f"{out / 'index'} holds an index of another model. Give another --out, or delete it."
        raise RecipeError(msg)
    documents = read_documents(given.documents, unreadable="skip", leave_out=out)
    asked = read_asked(given.queries, documents) if given.queries else []
    sources = default_sources(documents)
    if given.generator:
        sources = {"generator": _generator(given, out), **sources}
    if given.plan:
        print("\n".join(_plan(recipe, documents, sources, asked, out, given.dev_share, passes)))
        return
    with _deadline(given.deadline):
        found = distill_documents(
            documents,
            out,
            recipe=recipe,
            sources=sources,
            asked=asked,
            dev_share=given.dev_share,
            passes=passes,
            say=say,
        )
        _export(out, say)
        say("indexing ...")
        count, _ = index_documents(str(found.student), out / "data", out / "index")
        write_pipelines(out)
    say(f"{count} documents in {out / 'index'}; pipelines in {out / 'pipelines'}; report: {found.report}")
    rows = [[name, *(f"{scores[key]:.4f}" for key in COLUMNS)] for name, scores in found.metrics.items()]
    queries = "real" if asked else "made-up"
    print(f"\n{found.metrics['student']['queries']:.0f} {queries} dev queries over all {count} documents")
    print(format_table(["model", *COLUMNS.values()], rows))
    print("\n" + "\n".join(found.verdict))
    folder = shlex.quote(str(out))
    print(f'\nnext:\n  retort ask "your question" --store {folder}/index\n  retort serve --store {folder}/index')


def make_recipe(name: str | None, teacher: str | None, settings: list[str], allow: list[str]) -> Recipe:
    """
    Read the recipe with the teacher in its place; without a name it is the one for that kind of teacher.

    :param name:
        A recipe's name or file.
    :param teacher:
        A YAML file (see `teacher_spec`), or a model's name.
    :param settings:
        `a.b=value`, as `--set` gives them.
    :param allow:
        Further modules that types may come from.
    :raises RecipeError:
        If they do not fit.
    """
    spec: Any = teacher
    if teacher is not None and Path(teacher).suffix in {".yaml", ".yml"}:
        tree = read_yaml(Path(teacher))
        if not isinstance(tree, dict):
            msg = f"{teacher}: it needs a type, with init_parameters; or text_embedder and document_embedder."
            raise RecipeError(msg)
        spec = tree
    return recipe_for(name, spec, overrides=settings, allow=allow)


def write_pipelines(out: Path) -> None:
    """Write YAML pipelines that are bound to a student and its index; they may be run from anywhere."""
    out = out.resolve()
    for name in PIPELINES:
        text = pipeline_yaml(name, student=str(out / "student"), index=str(out / "index"))
        with replace_file(out / "pipelines" / f"{name}.yml") as aside:
            aside.write_text(text, encoding="utf-8")


def _generator(given: argparse.Namespace, out: Path) -> GeneratedQuestions:
    """Read a chat generator, alone or with further parameters of `GeneratedQuestions`, such as `prompt`."""
    tree = read_yaml(given.generator)
    parameters = dict(tree) if isinstance(tree, dict) and "generator" in tree else {"generator": tree}
    spec = component(parameters.pop("generator"), str(given.generator))
    known = {"generator", "prompt", "most", "price", "revision", "retries", "concurrency"}
    if unknown := sorted(parameters.keys() - known):
        msg = f"{given.generator}: there is no parameter {unknown[0]!r}; there are: {', '.join(sorted(known))}."
        raise RecipeError(msg)
    cache = cache_root(out) / "answers.jsonl"
    cache.parent.mkdir(parents=True, exist_ok=True)
    options = {"cache": str(cache), "allowed_modules": given.allow or None} | parameters
    return GeneratedQuestions(generator={"type": spec.type, "init_parameters": spec.init_parameters}, **options)


def _plan(
    recipe: Recipe,
    documents: list[Document],
    sources: dict[str, QuerySource],
    asked: Any,
    out: Path,
    dev_share: float,
    passes: int | None,
) -> list[str]:
    """Make queries in a folder for the time being, without asking a generator, and estimate the rest."""
    files = len({d.meta.get("file_path", d.id) for d in documents})
    told = [f"documents: {len(documents):,} passages of {files:,} files"]
    generator = sources.pop("generator", None)
    if isinstance(generator, GeneratedQuestions):
        estimate = generator.estimate(documents_to_data("documents", documents))
        told.append("generator of queries: " + ", ".join(f"{v:,.0f} {name}" for name, v in estimate.items()))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        held = hold_out(documents, dev_share, asked)
        made = make_queries(documents, sources, held=held)
        counts = write_training_data(documents, made, data, held=held, asked=asked)
        told.append(
            f"queries, by {', '.join(sources)}: about {counts['train']:,} to train on, {counts['dev']:,} for dev"
        )
        train, _ = read_train_and_dev(data, recipe.data)
        recipe = shortened(recipe, counts, passes)
        steps = ", ".join(f"{stage.name} {stage.steps}" for stage in recipe.stages)
        told.append(f"recipe {recipe.name}: {steps} steps, {recipe.training.batch_size} queries each")
        told += plan_run(recipe, train, cache_root(out)).lines()
    return told


def _export(out: Path, say: Any) -> None:
    """Write the student as graphs and choose the fastest form, if the extra is installed and it was not done before."""
    manifest = Manifest.read(out / "student")
    if manifest is None or manifest.exports:
        return
    from importlib.util import find_spec

    if not all(find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript")):
        say('not exported: pip install "retort-haystack[onnx]" makes the student faster on CPUs')
        return
    from retort.trainers.evaluation.exports import export_student

    say("exporting ...")
    sample = dev_sample(read_beir(out / "data", SPLIT), EXPORT_SAMPLE)
    entries = export_student(out / "student", sample)
    chosen = next(entry for entry in entries if entry["chosen"])
    say(f"served as {'onnx' if chosen['file'] else 'torch'} {chosen['precision']}: {chosen['ms']:.2f} ms a query")


class _DeadlineError(BaseException):
    """The time is over. No `Exception`: a teacher's retries must not take it for one of theirs."""


@contextmanager
def _deadline(minutes: float | None) -> Iterator[None]:
    """Stop after so many minutes; what was done is kept."""
    if minutes is None:
        yield
        return
    if minutes <= 0:
        msg = f"--deadline {minutes:g}: must be above 0."
        raise RecipeError(msg)

    def stop(*_: Any) -> None:
        raise _DeadlineError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, minutes * 60)
    try:
        yield
    except _DeadlineError:
        msg = (
            f"the deadline of {minutes:g} minutes has passed. What was done is kept: the same command goes on. "
            "A slow teacher is asked less with --set training.batch_size, stages.N.steps, or data.max_queries."
        )
        raise TeacherError(msg) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
