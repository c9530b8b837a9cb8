# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
`hybrid_qa.yml` against its parts: passages found by meaning and by words, fused, and the dense and sparse ones alone.

The index is written by `indexing_hybrid.yml`; the questions are those of dev. The students and the ranker are those
that `retort train` made on the same data: of any recipe, `--recipe splade` and `--recipe ranker`.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import runner

if TYPE_CHECKING:
    from retort.trainers.data.texts import TextStore


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=1)
    parser.add_argument("--data", default="fairytaleqa", help="folder in RETORT_DATA (default: %(default)s)")
    parser.add_argument("--student", required=True, help="folder of a dense student")
    parser.add_argument("--sparse", required=True, help="folder of a sparse student")
    parser.add_argument("--ranker", required=True, help="folder of a ranker")
    parser.add_argument("--queries", type=runner.positive, help="of dev, spread over it (default: all)")
    arguments = parser.parse_args()
    print(measure(arguments, runner.data_folder(arguments.data) / arguments.data))


def measure(arguments: argparse.Namespace, folder: Path) -> str:
    from retort.cli.table import format_table
    from retort.students.files import write_json
    from retort.trainers.data.beir import read_beir
    from retort.trainers.evaluation.metrics import mean, per_query
    from retort.trainers.evaluation.rank import evaluate_bm25
    from retort.trainers.evaluation.significance import paired_test, values
    from retort.workflows import index_documents

    data = read_beir(folder, "dev")
    if arguments.queries:
        step = max(1, len(data.queries) // arguments.queries)
        data = data.subset(range(0, len(data.queries), step))
    scratch = Path(tempfile.mkdtemp(prefix="retort-hybrid-"))
    try:
        index_documents(arguments.student, folder, scratch / "index", sparse=arguments.sparse)
        rankings = ask(arguments, data.queries, str(scratch / "index"))
    finally:
        shutil.rmtree(scratch)
    found = {"bm25": evaluate_bm25(data).per_query} | {n: per_query(r, data.qrels) for n, r in rankings.items()}
    result: dict[str, Any] = {
        "benchmark": arguments.benchmark,
        "arguments": {"data": arguments.data, "queries": len(data.queries)},
        "models": {name: getattr(arguments, name) for name in ("student", "sparse", "ranker")},
        "machine": runner.describe_machine(),
        "results": {},
    }
    rows = []
    for name, scores in found.items():
        test = paired_test(*(values(one, "ndcg@10") for one in (scores, found["hybrid"])))
        kept = {measure: mean(scores)[measure] for measure in ("ndcg@10", "mrr@10")}
        result["results"][name] = kept | {"hybrid above it by": vars(test)}
        above = f"{test.difference:+.4f} ({test.low:+.4f} to {test.high:+.4f})"
        rows.append([name, *(f"{value:.4f}" for value in kept.values()), above, f"{test.p:.4f}"])
    write_json(arguments.json or runner.ROOT / "benchmarks" / "results" / "hybrid.json", result)
    return format_table(["retrieval", "nDCG@10", "MRR@10", "hybrid above it by (95%)", "p"], rows)


def ask(arguments: argparse.Namespace, queries: "TextStore", index: str) -> dict[str, dict[str, list[str]]]:
    """Put the questions to the whole pipeline, and to its retriever with one embedding at a time: ids by question."""
    from tqdm import tqdm

    from retort.pipelines.load import load_pipeline

    models = {name: getattr(arguments, name) for name in ("student", "sparse", "ranker")}
    pipeline = load_pipeline("hybrid_qa", **models, index=index)
    retriever = pipeline.get_component("retriever")
    found: dict[str, dict[str, list[str]]] = {name: {} for name in ("dense", "sparse", "hybrid", "hybrid, ranked")}
    for key, question in tqdm(zip(queries.ids, queries.texts, strict=True), total=len(queries)):
        inputs = {name: {"text": question} for name in ("embedder", "sparse_embedder")}
        inputs |= {name: {"query": question} for name in ("ranker", "answerer")}
        parts = {"embedder", "sparse_embedder", "retriever", "ranker"}
        made = pipeline.run(inputs, include_outputs_from=parts)
        dense, sparse = made["embedder"], made["sparse_embedder"]
        alone = {
            "dense": {"query_embedding": dense["embedding"], "space": dense["space"]},
            "sparse": {"query_sparse_embedding": sparse["sparse_embedding"], "sparse_space": sparse["space"]},
        }
        lists = {name: retriever.run(**one)["documents"] for name, one in alone.items()}
        lists |= {"hybrid": made["retriever"]["documents"], "hybrid, ranked": made["ranker"]["documents"]}
        for name, documents in lists.items():
            found[name][key] = [document.id for document in documents]
    pipeline.close()
    return found


if __name__ == "__main__":
    main()
