# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort evaluate`."""

import argparse

from retort.cli.table import evaluation_table
from retort.students import Ranker
from retort.students.files import write_json
from retort.trainers.data.read import read_judged
from retort.trainers.evaluation.rank import DEPTH, evaluate_bm25, evaluate_model, evaluate_reranked
from retort.trainers.evaluation.significance import paired_test, values
from retort.trainers.runtime.errors import DataError


def run(given: argparse.Namespace) -> None:
    """Evaluate models in one table; with `--rerank`, each also with its first documents ranked anew."""
    if given.rerank and given.depth > DEPTH:
        msg = f"--depth {given.depth}: rankings have {DEPTH} documents; give {DEPTH} at most."
        raise DataError(msg)
    data = read_judged(given.data, given.split, empty=given.empty, max_queries=given.max_queries)
    form = {
        "precision": given.precision,
        "backend": given.backend,
        "threads": given.threads,
        "trust_remote_code": given.trust_remote_code,
    }
    ranker = Ranker.load(given.rerank, **form) if given.rerank else None
    figures: dict[str, dict[str, float]] = {}
    for name in given.models:
        first = evaluate_bm25(data) if name == "bm25" else evaluate_model(name, data, dim=given.dim, **form)
        figures[name] = first.metrics
        if ranker is not None:
            second = evaluate_reranked(ranker, data, first, given.depth)
            figures[f"{name} + {given.rerank}"] = second.metrics
            test = paired_test(*(values(each.per_query, "ndcg@10") for each in (first, second)))
            depth = min(given.depth, max(map(len, first.rankings.values()), default=0))  # a small corpus has fewer
            print(
                f"{name}: ranking its first {depth} anew changes nDCG@10 by {test.difference:+.4f} "
                f"({test.low:+.4f} to {test.high:+.4f}, p={test.p:.4f})"
            )
    print(f"{data.name} {given.split}: {len(data.queries)} queries, {len(data.corpus)} documents")
    print(evaluation_table(figures))
    if given.json:
        write_json(given.json, {"data": data.name, "hash": data.hash, "split": given.split, "models": figures})
