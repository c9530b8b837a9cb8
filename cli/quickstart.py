# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort quickstart`: from documents to cited answers, offline."""

import argparse
import shlex
import time
from pathlib import Path

from retort.cli.ask import answers, format_answers
from retort.cli.table import evaluation_table
from retort.examples.pydocs.quickstart import (
    STUDENT_ROW,
    TEACHER_ROW,
    build_index,
    evaluate,
    train_student,
    write_documents,
)
from retort.serving.engine import Engine

QUESTIONS = [
    "Can I write my own subclass of bool?",
    "How do I pick several unique random elements from a list?",
    "How can I copy a whole directory tree?",
]


def run(given: argparse.Namespace) -> None:
    """Do what is not done yet: corpus, student, evaluation, index; then answer three questions."""
    out: Path = given.out
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - started:4.0f} s] {text}", flush=True)

    counts = write_documents(out)
    say(
        f"documents: {counts['passages']} passages from the documentation of Python {counts['python']}; "
        f"{counts['queries']} weak queries; {counts['questions']} handwritten questions ({counts['absent']} left out)"
    )
    train_student(out, say)
    build_index(out)
    say(f"index: {counts['passages']} passages in {out / 'index'}, through pipelines/indexing.yml")
    figures = evaluate(out)
    say(f"evaluation: {figures[STUDENT_ROW]['queries']:.0f} handwritten test questions over all passages")
    print(evaluation_table(figures))
    engine = Engine(str(out / "student"), str(out / "index"))
    say("answers, through pipelines/extractive_qa.yml:")
    for question in QUESTIONS:
        print(f"\n{question}\n{format_answers(answers(question, engine.answer(question, top_k=2)))}")
    engine.close()
    teacher, student = figures[TEACHER_ROW], figures[STUDENT_ROW]
    print(
        f"\nThe student keeps {student['ndcg@10'] / teacher['ndcg@10']:.1%} of its teacher's nDCG@10 at "
        f"{teacher['documents_per_s'] / student['documents_per_s']:.0%} of its encoding time, on its own corpus, both "
        "with texts cut at the student's length.\n"
        "On other corpora it keeps less (`retort evaluate --zero-shot` tells): train a student on yours.\n\nnext:\n"
        f"  {_command('serve', '--store', out / 'index')}      a page in the browser\n"
        f"  {_command('ask', 'How do I read a CSV file with named columns?', '--store', out / 'index')}\n"
        "then with your own documents, in a folder my-documents/:\n"
        f"  {_command('index', out / 'student', '--documents', 'my-documents', '--store', 'runs/mine/index')}\n"
        f"  {_command('distill', '--documents', 'my-documents', '--out', 'runs/own', '--plan')}"
        "      a student of your own: what it takes"
    )


def _command(*words: str | Path) -> str:
    return shlex.join(["retort", *map(str, words)])
