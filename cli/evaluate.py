# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort evaluate`."""

import argparse

import numpy as np

from retort.cli.table import evaluation_table
from retort.students import Ranker
from retort.students.files import write_json
from retort.trainers.data.read import read_data
from retort.trainers.evaluation.rank import evaluate_bm25, evaluate_model, evaluate_ranker
from retort.trainers.evaluation.significance import paired_test, values


def run(given: argparse.Namespace) -> None:
    """Evaluate models in one table; with `--rerank`, each also with its first documents ranked anew."""
    data = read_data(given.data, given.split, empty=given.empty)
    if given.max_queries is not None:
        data = data.subset(range(min(given.max_queries, len(data.queries))))
    form = {"precision": given.precision, "backend": given.backend, "threads": given.threads}
    ranker = Ranker.load(given.rerank, **form) if given.rerank else None
    found: dict[str, dict[str, float]] = {}
    for name in given.models:
        first = evaluate_bm25(data) if name == "bm25" else evaluate_model(name, data, dim=given.dim, **form)
        found[name] = first.metrics
        if ranker is not None:
            rows = [[data.corpus.rows[i] for i in first.rankings[q][: given.depth]] for q in data.queries.ids]
            second = evaluate_ranker(ranker, data, np.array(rows))
            found[f"{name} + {given.rerank}"] = second.metrics
            test = paired_test(*(values(e.per_query, "ndcg@10") for e in (first, second)))
            print(
                f"{name}: ranking its first {given.depth} anew changes nDCG@10 by {test.difference:+.4f} "
                f"({test.low:+.4f} to {test.high:+.4f}, p={test.p:.4f})"
            )
    print(f"{data.name} {given.split}: {len(data.queries)} queries, {len(data.corpus)} documents")
    print(evaluation_table(found))
    if given.json:
        write_json(given.json, {"data": data.name, "hash": data.hash, "split": given.split, "models": found})
