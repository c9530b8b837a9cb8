# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort evaluate`."""

import argparse
from pathlib import Path

from retort.cli.table import evaluation_table, format_table
from retort.students import Ranker
from retort.students.files import write_json
from retort.trainers.data.read import read_judged
from retort.trainers.data.texts import RetrievalData
from retort.trainers.evaluation.rank import DEPTH, Evaluation, evaluate_bm25, evaluate_model, evaluate_reranked
from retort.trainers.evaluation.runs import other_data
from retort.trainers.evaluation.significance import paired_test, values
from retort.trainers.evaluation.zero_shot import METRIC, measure_zero_shot, read_zero_shot_sets, write_zero_shot
from retort.trainers.recipe import read_yaml
from retort.trainers.runtime.errors import DataError


def run(given: argparse.Namespace) -> None:
    """Evaluate models in one table; with `--rerank`, each also with its first documents ranked anew."""
    if given.rerank and given.depth > DEPTH:
        msg = f"--depth {given.depth}: rankings have {DEPTH} documents; give {DEPTH} at most."
        raise DataError(msg)
    if given.rerank and given.zero_shot:
        msg = "--zero-shot measures models alone: leave out --rerank."
        raise DataError(msg)
    data = read_judged(given.data, given.split, empty=given.empty, max_queries=given.max_queries)
    others = read_zero_shot_sets(given.data, given.zero_shot, empty=given.empty)
    form = {
        "precision": given.precision,
        "backend": given.backend,
        "threads": given.threads,
        "trust_remote_code": given.trust_remote_code,
    }
    ranker = Ranker.load(given.rerank, **form) if given.rerank else None
    figures: dict[str, dict[str, float]] = {}

    def evaluate(name: str, data: RetrievalData) -> Evaluation:
        if name == "bm25":
            return evaluate_bm25(data)
        return evaluate_model(name, data, dim=given.dim, **form)

    for name in given.models:
        first = evaluate(name, data)
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
    written = {"data": data.name, "hash": data.hash, "split": given.split, "models": figures}
    if others:
        scores = {name: found[METRIC] for name, found in figures.items()}
        found = measure_zero_shot((given.split, data), others, scores, evaluate)
        print(f"\nElsewhere, in brackets the share of {given.models[0]}:")
        print(format_table(found.header, found.rows()))
        for run in {run for name in given.models if (run := run_of(name))}:
            if odd := _unlike_the_run(run, given, data):
                print(f"{run}: its report does not show this table: {odd}.")
                continue
            write_zero_shot(run, found)
            print(f"{run}: `retort report {run}` shows this table, too.")
        written["zero_shot"] = vars(found)
    if given.json:
        write_json(given.json, written)


def _unlike_the_run(run: Path, given: argparse.Namespace, data: RetrievalData) -> str | None:
    """Say why figures are not of what a run's own figures are of: its data, its split, its student as it is."""
    split = str(read_yaml(run / "recipe.yaml")["data"]["dev"])
    if given.split != split:
        return f"it is of split {given.split}, the run's is {split}"
    if not (run / "per_query" / f"{split}.parquet").is_file():
        return "the run has no figures of its own"
    if odd := other_data(run, split, data):
        return f"{data.name} as read here is not what the run was measured on ({odd})"
    if given.dim is not None:
        return f"vectors are cut (--dim {given.dim})"
    return None if given.precision == "float32" else f"the student runs in another form (--precision {given.precision})"


def run_of(model: str) -> Path | None:
    """Return the run folder that a student lies in."""
    folder = Path(model).resolve().parent
    return folder if Path(model).name == "student" and (folder / "metrics.json").is_file() else None
