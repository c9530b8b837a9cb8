# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort export`."""

import argparse
import sys
from typing import Any

from retort.cli.table import format_table
from retort.students.backends.sessions import ExportError
from retort.students.card import verdict
from retort.trainers.data.read import read_judged
from retort.trainers.evaluation.exports import export_student


def run(given: argparse.Namespace) -> None:
    """Export, measure, and say what will be served."""
    data = None
    if given.data:
        data = read_judged(given.data, given.split, empty=given.empty, max_queries=given.max_queries)
    entries = export_student(
        given.student,
        data,
        precision=given.precision,
        tolerance=given.tolerance,
        threads=given.threads,
        trust_remote_code=given.trust_remote_code,
    )
    if data is None:
        files = ", ".join(e["file"] for e in entries if e["file"])
        print(f"{given.student}: {files}. Not measured, so not chosen: give --data, or set backend: onnx.")
        return
    print(f"{data.name} {given.split}: {len(data.queries)} queries, {len(data.corpus)} documents")
    print(_table(entries))
    chosen = next(e for e in entries if e["chosen"])
    print(f"served by default on CPUs: {_name(chosen)}")
    refused = [e for e in entries if e["file"] and not e["good"]]
    if given.precision != "auto":
        refused = [e for e in refused if e["precision"] == given.precision]
        if refused:
            raise ExportError(_why_not(refused[0], given.tolerance))
    for entry in refused:
        print(f"note: {_why_not(entry, given.tolerance)}", file=sys.stderr)
    print("next: use the student as before; to name a form, set precision and backend", file=sys.stderr)


def _name(entry: dict[str, Any]) -> str:
    return f"{'onnx' if entry['file'] else 'torch'} {entry['precision']}"


def _why_not(entry: dict[str, Any], tolerance: float) -> str:
    served = "so it is not served unless it is asked for by name (precision: int8)"
    if entry["lossy"]:
        return (
            f"{_name(entry)} loses more than {tolerance:.1%} of nDCG@10, {served}. If that loss is fine, give a higher "
            "--tolerance."
        )
    return (
        f"{entry['queries']} questions are too few to tell whether {_name(entry)} loses more than {tolerance:.1%} of "
        f"nDCG@10 (the difference lies between {entry['low']:+.4f} and {entry['high']:+.4f}), {served}. Give more "
        "questions, or a higher --tolerance."
    )


def _table(entries: list[dict[str, Any]]) -> str:
    rows = [
        [
            _name(e),
            f"{e['ndcg']:.4f}",
            f"{e['ms']:.2f}",
            f"{e['documents_per_s']:.0f}",
            f"{e['mb']:.0f}",
            f"{e['low']:+.4f} to {e['high']:+.4f}",
            "chosen" if e["chosen"] else verdict(e),
        ]
        for e in entries
    ]
    return format_table(["form", "nDCG@10", "ms a query", "docs/s", "MB", "difference (95%)", ""], rows)
