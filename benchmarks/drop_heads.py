# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
What each head of a student is worth (CERBERUS): its ranking by every choice of its heads, without training again.

A vector holds one head after the other, so a choice of heads is a choice of entries.
"""

from itertools import combinations
from typing import Any

import runner


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=1)
    parser.add_argument("student", help="a bi-encoder of several heads, such as the recipe `cerberus` gives")
    parser.add_argument("--names", nargs="+", required=True, metavar="TEACHER", help="the heads' teachers, in order")
    parser.add_argument("--data", default="fairytaleqa", help="folder in RETORT_DATA (default: %(default)s)")
    arguments = parser.parse_args()
    folder = runner.data_folder(arguments.data) / arguments.data

    from retort.cli.table import format_table
    from retort.students import Student
    from retort.students.files import write_json
    from retort.trainers.data.beir import read_beir
    from retort.trainers.evaluation.rank import evaluate_vectors
    from retort.trainers.evaluation.significance import paired_test, values

    dev, student = read_beir(folder, "dev"), Student.load(arguments.student, device="cpu", precision="auto")
    heads = len(arguments.names)
    queries, documents = (
        vectors.reshape(len(vectors), heads, -1)
        for vectors in (student.encode_query(dev.queries.texts), student.encode_document(dev.corpus.texts))
    )
    found: dict[tuple[int, ...], Any] = {}
    for size in range(heads, 0, -1):
        for kept in combinations(range(heads), size):
            own = (vectors[:, kept].reshape(len(vectors), -1) for vectors in (queries, documents))
            found[kept] = evaluate_vectors("student", dev, *own, "cosine")
    whole = values(found[tuple(range(heads))].per_query, "ndcg@10")
    rows = []
    for kept, evaluation in found.items():
        each = values(evaluation.per_query, "ndcg@10")
        p = paired_test(each, whole).p if len(kept) < heads else None
        rows.append({"heads": [arguments.names[j] for j in kept], "ndcg@10": float(each.mean()), "p": p})
    result = {
        "benchmark": arguments.benchmark,
        "arguments": {"names": arguments.names, "data": arguments.data},
        "machine": runner.describe_machine(),
        "results": rows,
    }
    write_json(arguments.json or runner.ROOT / "benchmarks" / "results" / f"{arguments.benchmark}.json", result)
    cells = [[", ".join(r["heads"]), f"{r['ndcg@10']:.4f}", "" if r["p"] is None else f"{r['p']:.4f}"] for r in rows]
    print(format_table(["heads", "nDCG@10", "p to all of them"], cells))


if __name__ == "__main__":
    main()
