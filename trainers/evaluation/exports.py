# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Making the exports of a student, and measuring on dev questions which form of it is fastest and still as good."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from retort.students.backends.exports import export_precision
from retort.students.backends.onnx import (
    FOLDER,
    ExportError,
    ExportPrecision,
    export_fingerprint,
    export_model,
    made_of,
)
from retort.students.card import model_card
from retort.students.files import remove_leftovers, replace_file
from retort.students.loading import has_bfloat16, names_own_modules
from retort.students.manifest import Manifest, student_manifest
from retort.students.ranker import Ranker
from retort.students.sparse import load_student
from retort.students.student import Student
from retort.trainers.data.texts import RetrievalData
from retort.trainers.evaluation.rank import evaluate_model, evaluate_ranker
from retort.trainers.evaluation.significance import paired_test, values
from retort.trainers.search import BM25

logger = logging.getLogger(__name__)

METRIC = "ndcg@10"
DEPTH, PAIRS_A_CALL = 20, 20
TIMED, ROUNDS = 100, 3

Wanted = Literal["auto", "float32", "int8"]


def export_student(
    folder: Path,
    data: RetrievalData | None = None,
    *,
    precision: Wanted = "auto",
    tolerance: float = 0.01,
    threads: int | None = None,
    trust_remote_code: bool = False,
) -> list[dict[str, Any]]:
    """
    Export a student as ONNX, measure all its forms, and let the fastest that is as good be the one that is served.

    Killed on the way, it leaves a student that runs without the exports that were being made; the same call makes them.

    :param folder:
        The student's folder; the exports and the table in its manifest are written there.
    :param data:
        Questions and corpus to measure on; None only exports, and chooses nothing.
    :param precision:
        `float32` or `int8` for one export; `auto` for both, and bfloat16 where the CPU has it.
    :param tolerance:
        What share of the float32 model's nDCG@10 may be lost. A form is good if the 95% interval of what it loses on
        these questions (paired bootstrap) lies within it, lossy if the interval lies beyond, else there are too few to
        tell. Of fewer than 1 / `tolerance` questions only forms in float32 can be good (see `judged`).
    :param threads:
        Threads of the graphs; None takes all cores.
    :param trust_remote_code:
        Run code that the student brings along.
    :returns:
        The manifest's entries: `file` (empty for the torch model), `precision`, `fingerprint`, `ndcg`, `ms` (median of
        a query; of a ranker: of a list of 20), `documents_per_s`, `mb`, `queries` and `documents` (on how many),
        `difference` of nDCG@10 to the float32 model with its interval's ends `low` and `high`, `good`, `lossy`,
        `chosen`. They are in the order of their speed.
    :raises PrecisionError:
        If exports have no such precision.
    :raises ExportError:
        If the model cannot be exported, or not in this precision; or the tolerance is no share.
    """
    if not 0 <= tolerance < 1:
        msg = f"tolerance={tolerance}: a share from 0 to below 1."
        raise ExportError(msg)
    wanted: tuple[ExportPrecision, ...] = ("float32", "int8") if precision == "auto" else (export_precision(precision),)
    manifest = student_manifest(folder)
    if manifest.kind == "static":  # a table of vectors
        if precision == "int8":
            msg = f"{folder}: a static student is exported in float32 alone."
            raise ExportError(msg)
        wanted = ("float32",)
    made = []
    path: Path | None = None  # int8 is made of float32
    model = _load(folder, "torch", "float32", trust_remote_code=trust_remote_code).model
    remove_leftovers(folder)
    for name in wanted:
        path = export_model(model, folder, name, traced=path)
        entry = _entry(f"{FOLDER}/{name}", name, export_fingerprint(path, manifest.fingerprint))
        made.append(entry | {"made_of": made_of(folder)})
    kept = [e for e in manifest.exports if e["file"] and e["file"] not in {m["file"] for m in made}]
    manifest = replace(manifest, exports=[*kept, *made])
    manifest.write(folder)
    if data is not None:
        own = [_entry("", name, manifest.fingerprint) for name in _torch_forms(precision)]
        options = {"threads": threads, "trust_remote_code": trust_remote_code}
        manifest = replace(manifest, exports=_measured(folder, [*own, *manifest.exports], data, tolerance, options))
    with replace_file(folder / "README.md") as aside:
        aside.write_text(model_card(manifest, ours=names_own_modules(str(folder))), encoding="utf-8")
    manifest.write(folder)  # last: what is chosen is measured and written down
    return manifest.exports


def export_to_serve(folder: Path, *, trust_remote_code: bool = False) -> None:
    """
    Export a student in float32, so that it is served where torch is not installed, and on CPUs wherever nothing is set.

    Nothing is measured: the graph gives the model's vectors, which is checked as it is made. `export_student` finds out
    whether another form is faster. What cannot be exported stays as it is, with a warning.

    :param folder:
        The student's folder; one that has exports is left alone.
    :param trust_remote_code:
        Run code that the student brings along.
    """
    if student_manifest(folder).exports:
        return
    try:
        [made] = export_student(folder, precision="float32", trust_remote_code=trust_remote_code)
    except ExportError as error:
        logger.warning("The student is not exported, so it needs torch where it is served: %s", error)
        return
    replace(student_manifest(folder), exports=[made | {"chosen": True}]).write(folder)


def _entry(file: str, precision: str, fingerprint: str) -> dict[str, Any]:
    return {"file": file, "precision": precision, "fingerprint": fingerprint, "ndcg": None, "ms": None}


def _torch_forms(precision: Wanted) -> list[str]:
    return ["float32", "bfloat16"] if precision == "auto" and has_bfloat16("cpu") else ["float32"]


def _load(folder: Path, backend: Any, precision: Any, **options: Any) -> Student | Ranker:
    manifest = Manifest.read(folder)
    ranker = manifest is not None and manifest.kind == "ranker"
    load: Any = Ranker.load if ranker else load_student
    loaded: Student | Ranker = load(str(folder), device="cpu", backend=backend, precision=precision, **options)
    return loaded


def _measured(
    folder: Path, entries: list[dict[str, Any]], data: RetrievalData, tolerance: float, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """Measure each form's quality, then all speeds in turn, so that a busy machine slows all alike."""
    forms = [_load(folder, "onnx" if e["file"] else "torch", e["precision"], **options) for e in entries]
    found = [evaluate_model(f, data) if isinstance(f, Student) else _ranked(f, data) for f in forms]
    times = _interleaved(forms, data)
    reference = next(values(f.per_query, METRIC) for f, e in zip(found, entries, strict=True) if _is_reference(e))
    measured = [
        entry
        | {
            "ndcg": f.metrics[METRIC],
            "ms": ms,
            "documents_per_s": f.metrics["documents_per_s"],
            "mb": form.megabytes,
            "queries": f.metrics["queries"],
            "documents": f.metrics["documents"],
            "threads": options["threads"],
            "chosen": False,
        }
        | judged(reference, values(f.per_query, METRIC), tolerance, exact=entry["precision"] == "float32")
        for entry, form, f, ms in zip(entries, forms, found, times, strict=True)
    ]
    measured.sort(key=lambda e: e["ms"])
    next(e for e in measured if e["good"])["chosen"] = True  # the reference is
    return measured


def judged(reference: np.ndarray, form: np.ndarray, tolerance: float, *, exact: bool = False) -> dict[str, Any]:
    r"""
    Judge what a form of a student loses.

    Where no sampled question changes, the bootstrap's interval is 0 to 0, however few they are. A form that loses all
    of nDCG@10 on a share $3t$ of questions changes none of $n \ge 1/t$ with probability
    $(1 - 3t)^n \le e^{-3} \approx .05$. With fewer questions no form passes, nor where the float32 model finds nothing
    that could be lost.

    :param reference:
        `[q]` nDCG@10 of the float32 model, one a question.
    :param form:
        `[q]` the same of the form.
    :param tolerance:
        $t$: what share of the reference's mean may be lost.
    :param exact:
        Whether the form computes the reference's vectors, so that any number of questions will do.
    :returns:
        `difference` of the means with its interval's ends `low` and `high`, `good`, `lossy`; neither: too few to tell.
    """
    test = paired_test(reference, form)
    allowed = -tolerance * float(reference.mean())
    tells = float(reference.mean()) > 0 and round(len(reference) * tolerance, 9) >= 1
    return {
        "difference": test.difference,
        "low": test.low,
        "high": test.high,
        "good": test.low >= allowed and (exact or tells),
        "lossy": test.high < allowed,
    }


def _is_reference(entry: dict[str, Any]) -> bool:
    return not entry["file"] and entry["precision"] == "float32"


def _ranked(ranker: Ranker, data: RetrievalData) -> Any:
    rows, _ = BM25(data.corpus.texts).search(data.queries.texts, DEPTH)
    return evaluate_ranker(ranker, data, rows)


def _interleaved(forms: Sequence[Student | Ranker], data: RetrievalData) -> list[float]:
    queries = data.queries.items[:: max(1, len(data.queries) // TIMED)][:TIMED]
    texts = data.corpus.items[:PAIRS_A_CALL]
    seconds: list[list[float]] = [[] for _ in forms]
    for _ in range(ROUNDS):
        for query in queries:
            for form, taken in zip(forms, seconds, strict=True):
                started = time.perf_counter()
                if isinstance(form, Student):
                    form.encode_query([query])
                else:
                    form.score([(query, text) for text in texts])
                taken.append(time.perf_counter() - started)
    return [float(np.median(taken)) * 1000 for taken in seconds]
