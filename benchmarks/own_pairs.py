# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Whether `retort distill --weak-pairs` pays: a stage over titles, headings and the like before the recipe's last one.

Students of the sections of a documentation alone, with that stage and without it, else alike. They are measured on the
queries that `retort distill` makes for dev, and on the sections' own headings, which no student has seen: alone, and
fused with BM25. Each run is kept under `--work`; what is there is not run again.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import runner

SET, MEASURE = "awsdocs_headings", "ndcg@10"
ARMS = {"as it is": False, "with weak pairs": True}


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=1)
    parser.add_argument("--recipes", nargs="+", default=["static_lexical"], help="default: %(default)s")
    parser.add_argument("--documents", type=runner.positive, help="so many sections alone, those of dev among them")
    parser.add_argument("--share", type=float, default=1.0, help="of each recipe's own steps (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/own_pairs"), help="default: %(default)s")
    arguments = parser.parse_args()
    folder = runner.data_folder(SET) / SET
    os.environ.setdefault("RETORT_CACHE", str((arguments.work / "cache").resolve()))
    print(measure(arguments, folder))


def measure(arguments: argparse.Namespace, folder: Path) -> str:
    from retort.cli.table import format_table
    from retort.students.files import read_json, write_json
    from retort.trainers.data.beir import read_beir
    from retort.trainers.evaluation.significance import paired_test

    path = arguments.json or runner.ROOT / "benchmarks" / "results" / f"{arguments.benchmark}.json"
    chosen = {"recipes": arguments.recipes, "documents": arguments.documents, "share": arguments.share}
    kept = read_json(path, "Delete it.") if path.is_file() else {}
    runs: list[dict[str, Any]] = [run for run in kept.get("runs", []) if run["arguments"] != chosen]
    headings = sample(read_beir(folder, "dev"), arguments.documents)
    rows = []
    for recipe in arguments.recipes:
        scores = {arm: one_run(arguments, recipe, pairs, folder, headings) for arm, pairs in ARMS.items()}
        found: dict[str, Any] = {
            "recipe": recipe,
            "arguments": chosen,
            "documents": len(headings.corpus),
            "systems": {},
        }
        plain, paired = scores.values()
        for name in plain:
            test = paired_test(plain[name], paired[name])
            means = {arm: float(each[name].mean()) for arm, each in scores.items()}
            found["systems"][name] = {"queries": len(plain[name]), **means, "change": vars(test)}
            change = f"{test.difference:+.4f} ({test.low:+.4f} to {test.high:+.4f})"
            rows.append([recipe, name, *(f"{mean:.4f}" for mean in means.values()), change, f"{test.p:.4f}"])
        runs.append(found)
        machine = runner.describe_machine()
        write_json(path, {"benchmark": arguments.benchmark, "set": SET, "machine": machine, "runs": runs})
    return format_table(["recipe", MEASURE, *ARMS, "change (95%)", "p"], rows)


def sample(headings: Any, most: int | None) -> Any:
    """Keep so many sections: those that dev's headings stand over first."""
    if most is None:
        return headings
    asked = sorted({headings.corpus.rows[i] for judged in headings.qrels.values() for i in judged})
    others = sorted(set(range(len(headings.corpus))) - set(asked))
    rows = sorted((asked + others)[: max(most, len(asked))])
    return replace(headings, corpus=headings.corpus.select(rows))


def one_run(arguments: argparse.Namespace, name: str, pairs: bool, folder: Path, headings: Any) -> dict[str, Any]:
    """Distil as the command does, without index and export; give each query's measure by what is measured."""
    from retort.students import Student
    from retort.trainers.changes import recipe_for, with_weak_pairs
    from retort.trainers.data.documents import read_source
    from retort.trainers.evaluation.fusion import fuse_cross_fitted, relative
    from retort.trainers.evaluation.metrics import per_query
    from retort.trainers.evaluation.rank import evaluate_bm25, evaluate_model
    from retort.trainers.evaluation.runs import read_per_query
    from retort.trainers.evaluation.significance import values
    from retort.trainers.from_documents import SPLIT, distill_documents

    recipe = recipe_for(name, None)
    for stage in recipe.stages:
        stage.steps = max(1, round(stage.steps * arguments.share))
    recipe = with_weak_pairs(recipe) if pairs else recipe
    scale = f"{len(headings.corpus)}-{arguments.share:g}"
    out = arguments.work / scale / name / ("pairs" if pairs else "plain")
    documents = [d for d in read_source(folder).documents if d.id in headings.corpus.rows]
    distill_documents(documents, out, recipe=recipe, passes=None, say=print)
    student = evaluate_model(Student.load(str(out / "student"), precision="auto"), headings)
    bm25 = evaluate_bm25(headings)
    fused, _ = fuse_cross_fitted(*(relative(e.rankings, e.scores) for e in (student, bm25)), headings.qrels)
    found = {
        "made queries": read_per_query(out, SPLIT),
        "made queries, fused": read_per_query(out, f"{SPLIT}.hybrid"),
        "headings": student.per_query,
        "headings, fused": per_query(fused, headings.qrels),
    }
    return {what: values(each, MEASURE) for what, each in found.items()}


if __name__ == "__main__":
    main()
