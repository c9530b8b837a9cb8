# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort evaluate`."""

import argparse

from retort.cli.table import evaluation_table
from retort.students.files import write_json
from retort.trainers.data.beir import read_beir
from retort.trainers.evaluation.rank import evaluate_bm25, evaluate_model


def run(given: argparse.Namespace) -> None:
    """Evaluate models in one table."""
    data = read_beir(given.data, given.split, empty=given.empty)
    found = {
        name: (evaluate_bm25(data) if name == "bm25" else evaluate_model(name, data, precision=given.precision)).metrics
        for name in given.models
    }
    print(f"{data.name} {given.split}: {len(data.queries)} queries, {len(data.corpus)} documents")
    print(evaluation_table(found))
    if given.json:
        write_json(given.json, {"data": data.name, "hash": data.hash, "split": given.split, "models": found})
