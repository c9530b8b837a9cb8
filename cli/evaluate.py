# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort evaluate`."""

import argparse

import numpy as np

from retort.cli.table import evaluation_table
from retort.students import Ranker
from retort.students.files import write_json
from retort.trainers.data.read import read_judged
from retort.trainers.data.texts import RetrievalData
from retort.trainers.evaluation.metrics import mean, per_query
from retort.trainers.evaluation.rank import DEPTH, Evaluation, evaluate_bm25, evaluate_model, evaluate_ranker
from retort.trainers.evaluation.runs import PerQuery
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
    found: dict[str, dict[str, float]] = {}
    for name in given.models:
        first = evaluate_bm25(data) if name == "bm25" else evaluate_model(name, data, dim=given.dim, **form)
        found[name] = first.metrics
        if ranker is not None:
            second, scores, depth = _reranked(ranker, data, first, given.depth)
            found[f"{name} + {given.rerank}"] = second | mean(scores)
            test = paired_test(*(values(s, "ndcg@10") for s in (first.per_query, scores)))
            print(
                f"{name}: ranking its first {depth} anew changes nDCG@10 by {test.difference:+.4f} "
                f"({test.low:+.4f} to {test.high:+.4f}, p={test.p:.4f})"
            )
    print(f"{data.name} {given.split}: {len(data.queries)} queries, {len(data.corpus)} documents")
    print(evaluation_table(found))
    if given.json:
        write_json(given.json, {"data": data.name, "hash": data.hash, "split": given.split, "models": found})


def _reranked(
    ranker: Ranker, data: RetrievalData, first: Evaluation, depth: int
) -> tuple[dict[str, float], PerQuery, int]:
    """Rank the first documents anew, above the rest: what it costs, per query its measures, and how many they were."""
    tops = {q: found[:depth] for q, found in first.rankings.items()}
    depth = max(1, *map(len, tops.values()))  # a small corpus has fewer
    rows = np.zeros((len(data.queries), depth), dtype=np.int64)  # where a query found fewer: taken out below
    for row, q in zip(rows, data.queries.ids, strict=True):
        row[: len(tops[q])] = [data.corpus.rows[i] for i in tops[q]]
    second = evaluate_ranker(ranker, data, rows)
    whole = {
        q: [*(i for i in dict.fromkeys(ranked) if i in tops[q]), *first.rankings[q][depth:]]
        for q, ranked in second.rankings.items()
    }
    return second.metrics, per_query(whole, data.qrels), depth
