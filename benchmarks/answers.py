# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
From a question to a cited answer: with the vectors of sentences that the index keeps, and with sentences embedded anew.

`--run` is the quickstart's folder; its student answers, as int8 on one thread. Both forms ask one index, in turns.

- quality: the share of first answers that are right. Of the quickstart's questions: a sentence of a passage that was
  judged relevant and, where the question names its evidence, one that holds it. Of wiki: one that holds an answer.
- time: an index of `--documents` passages, of wiki and awsdocs_headings; questions that nothing was trained on.
- growth: the bytes of an index with and without, of the quickstart's corpus and of each data set.
"""

import argparse
import gzip
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import runner
import yaml

SETS = ("wiki", "awsdocs_headings")  # the questions are those of the first
GROWTH_DOCUMENTS = 4000
WARM_UP = 20
FORMS = ("kept", "anew")


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=3)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="default: %(default)s")
    parser.add_argument("--documents", type=runner.positive, default=20_000, help="default: %(default)s")
    parser.add_argument("--questions", type=runner.positive, default=200, help="timed (default: %(default)s)")
    parser.add_argument("--judged", type=runner.positive, default=1000, help="of wiki (default: %(default)s)")
    print(measure(parser.parse_args()))


def measure(arguments: argparse.Namespace) -> str:
    from retort.cli.table import format_table
    from retort.students import Student
    from retort.students.files import write_json

    folder = runner.data_folder(*SETS)
    student = Student.load(str(arguments.run / "student"), precision="int8", threads=1)
    result: dict[str, Any] = {
        "benchmark": arguments.benchmark,
        "arguments": {name: getattr(arguments, name) for name in ("documents", "questions", "judged", "rounds")},
        "student": student.fingerprint,
        "machine": runner.describe_machine(),
    }
    corpora = {"quickstart": read(arguments.run / "data"), **{name: read(folder / name) for name in SETS}}
    with tempfile.TemporaryDirectory(prefix="retort-answers-") as scratch:
        embedded = {
            # The quickstart's questions need all of its own.
            name: embed(arguments.run / "student", corpus[: arguments.documents] if name in SETS else corpus)
            for name, (corpus, _) in corpora.items()
        }
        result["growth"] = {
            name: growth(documents[:GROWTH_DOCUMENTS], Path(scratch) / name) for name, documents in embedded.items()
        }
        asked, right = quickstart_questions(arguments.run)
        with pipelines(arguments.run / "student", embedded["quickstart"], Path(scratch) / "own") as forms:
            result["quickstart"] = quality(forms, asked, right)
        both = [replace(d, id=f"{name}/{d.id}") for name in SETS for d in embedded[name]][: arguments.documents]
        asked, right = wiki_questions(corpora["wiki"][1], folder / "wiki", arguments.judged)
        with pipelines(arguments.run / "student", both, Path(scratch) / "all") as forms:
            result["ms"] = times(forms, list(asked.values())[: arguments.questions], arguments.rounds)
            result["wiki"] = quality(forms, asked, right)
    write_json(arguments.json or runner.ROOT / "benchmarks" / "results" / f"{arguments.benchmark}.json", result)
    rows = [
        [
            form,
            *(f"{result[name]['accuracy'][form]:.3f}" for name in ("quickstart", "wiki")),
            f"{result['ms'][form]:.1f}",
        ]
        for form in FORMS
    ]
    lines = [f"{name}: the index grows by {found['share']:.0%}" for name, found in result["growth"].items()]
    return "\n".join([format_table(["sentences", "quickstart", "wiki", "ms, p50"], rows), *lines])


def read(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read the records of a BEIR folder, corpus and queries, with their metadata."""
    found = []
    for name in ("corpus", "queries"):
        packed = folder / f"{name}.jsonl.gz"
        path = packed if packed.is_file() else folder / f"{name}.jsonl"
        with (gzip.open if packed.is_file() else open)(path, "rt", encoding="utf-8") as lines:
            found.append([json.loads(line) for line in lines])
    return found[0], found[1]


def embed(student: Path, corpus: list[dict[str, Any]]) -> list[Any]:
    """Embed records as `indexing.yml` does, sentences too."""
    from haystack import Document

    from haystack_integrations.components.embedders.retort import StudentDocumentEmbedder

    embedder = StudentDocumentEmbedder(model=student, precision="int8", sentences=True)
    documents = [Document(id=r["_id"], content=r["text"], meta={"title": r.get("title", "")}) for r in corpus]
    embedded: list[Any] = embedder.run(documents=documents)["documents"]
    return embedded


def growth(documents: list[Any], folder: Path) -> dict[str, float]:
    """Write an index with and without the vectors of sentences, and compare their bytes."""
    from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
    from retort.students import SENTENCES_STAMP

    bare = [replace(d, meta={k: v for k, v in d.meta.items() if k != SENTENCES_STAMP}) for d in documents]
    sizes = {}
    for form, written in (("kept", documents), ("anew", bare)):
        store = QdrantEdgeDocumentStore(path=folder / form)
        store.write_documents(written)
        store.close()
        sizes[form] = sum(path.stat().st_blocks * 512 for path in (folder / form).rglob("*")) / 1e6
    return {"documents": len(documents), "mb": sizes["kept"], "mb without": sizes["anew"],
            "share": sizes["kept"] / sizes["anew"] - 1}  # fmt: skip


@contextmanager
def pipelines(student: Path, documents: list[Any], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield `extractive_qa.yml` over one index, and the same with a step that takes the kept vectors away."""
    from haystack import Pipeline

    from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
    from retort.pipelines.load import pipeline_yaml

    store = QdrantEdgeDocumentStore(path=folder)
    for start in range(0, len(documents), 2048):
        store.write_documents(documents[start : start + 2048])
    store.optimize()
    spec = yaml.safe_load(pipeline_yaml("extractive_qa", student=str(student), index=str(folder)))
    parts = spec["components"]
    for part in (parts["retriever"]["init_parameters"]["text_embedder"], parts["answerer"]):
        part["init_parameters"] |= {"precision": "int8", "threads": 1}
    parts["answerer"]["init_parameters"]["score_threshold"] = -1.0
    kept, anew = Pipeline.from_dict(spec), Pipeline.from_dict(spec)
    answerer: Any = anew.get_component("answerer")
    answer = answerer.run

    def without_vectors(*, query: str, documents: list[Any], top_k: int | None = None) -> Any:
        for document in documents:  # the run's own copies
            document.meta.pop("_retort_sentences", None)
        return answer(query=query, documents=documents, top_k=top_k)

    answerer.run = without_vectors
    try:
        yield {"kept": kept, "anew": anew}
    finally:
        kept.close()
        anew.close()
        store.close()


def ask(pipeline: Any, text: str) -> Any:
    return pipeline.run({"retriever": {"query": text}, "answerer": {"query": text}})["answerer"]["answers"][0]


def times(forms: dict[str, Any], questions: list[str], rounds: int) -> dict[str, float]:
    """Milliseconds from a question to its answers: the median, of questions not asked before in this form."""
    taken: dict[str, list[float]] = {form: [] for form in FORMS}
    for text in questions[:WARM_UP]:
        for pipeline in forms.values():
            ask(pipeline, text)
    for number in range(rounds):
        for text in questions[WARM_UP:][number::rounds]:
            for form in FORMS:
                started = time.perf_counter()
                ask(forms[form], text)
                taken[form].append(1000 * (time.perf_counter() - started))
    return {form: statistics.median(found) for form, found in taken.items()} | {
        f"{form}, p95": sorted(found)[int(0.95 * len(found))] for form, found in taken.items()
    }


def quality(forms: dict[str, Any], asked: dict[str, str], right: Callable[[str, Any], bool]) -> dict[str, Any]:
    import numpy as np

    from retort.trainers.evaluation.significance import paired_test

    hits = {form: np.array([float(right(q, ask(p, t))) for q, t in asked.items()]) for form, p in forms.items()}
    return {
        "questions": len(asked),
        "accuracy": {form: float(found.mean()) for form, found in hits.items()},
        "kept against anew": vars(paired_test(hits["anew"], hits["kept"])),
    }


def quickstart_questions(run: Path) -> tuple[dict[str, str], Callable[[str, Any], bool]]:
    """Take the test questions; right is a judged passage's sentence that holds the evidence, if any is named."""
    from retort.examples.pydocs.corpus import QUESTIONS
    from retort.trainers.data.beir import read_beir

    data = read_beir(run / "data", "test")
    records = map(json.loads, QUESTIONS.read_text(encoding="utf-8").splitlines())
    evidence = {record["_id"]: " ".join(record.get("evidence", "").lower().split()) for record in records}

    def right(question: str, answer: Any) -> bool:
        return answer.document.id in data.qrels[question] and evidence[question] in " ".join(
            answer.data.lower().split()
        )

    return dict(zip(data.queries.ids, data.queries.texts, strict=True)), right


def wiki_questions(
    queries: list[dict[str, Any]], folder: Path, most: int
) -> tuple[dict[str, str], Callable[[str, Any], bool]]:
    """Take dev questions that have answers, spread over the split; right is a sentence that holds one, word by word."""
    from retort.trainers.data.beir import read_beir

    answers = {q["_id"]: [words(a) for a in q.get("metadata", {}).get("answers", [])] for q in queries}
    data = read_beir(folder, "dev").queries
    every = [(i, text) for i, text in zip(data.ids, data.texts, strict=True) if answers.get(i)]
    asked = dict(every[:: max(1, len(every) // most)][:most])
    return asked, lambda question, answer: any(a in words(answer.data) for a in answers[question] if a.strip())


def words(text: str) -> str:
    """As SQuAD compares answers: lower case, no punctuation, no articles; blanks around, so that words are whole."""
    kept = re.sub(r"\b(a|an|the)\b", " ", re.sub(r"[^\w\s]", "", text.lower()))
    return f" {' '.join(kept.split())} "


if __name__ == "__main__":
    main()
