# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort distill`: from a folder of documents to a student, an index, pipelines and a report."""

import argparse
import shlex
import time
from pathlib import Path
from typing import Any

from retort.cli.table import COLUMNS, format_table
from retort.workflows import distill, plan_distill


def run(given: argparse.Namespace) -> None:
    """Do what is not done yet of the whole way, and print how good the student is; or print the plan."""
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - started:4.0f} s] {text}", flush=True)

    out: Path = given.out
    options: dict[str, Any] = {
        "recipe": given.recipe,
        "teacher": given.teacher,
        "queries": given.queries,
        "generator": given.generator,
        "split": given.split,
        "passage_words": given.passage_words,
        "dev_share": given.dev_share,
        "weak_pairs": given.weak_pairs,
        "settings": given.set,
        "allow": given.allow,
        "on_error": given.on_error,
    }
    if given.plan:
        print("\n".join(plan_distill(given.documents, out, **options)))
        return
    outcome = distill(given.documents, out, deadline=given.deadline, max_calls=given.max_calls, say=say, **options)
    student = outcome.metrics["student"]
    count = f"{student['documents']:.0f} documents"
    say(f"{count} in {out / 'index'}; pipelines in {out / 'pipelines'}; report: {outcome.report}")
    rows = [[name, *(f"{scores[key]:.4f}" for key in COLUMNS)] for name, scores in outcome.metrics.items()]
    print(f"\n{student['queries']:.0f} {'real' if given.queries else 'made-up'} dev queries over all {count}")
    print(format_table(["model", *COLUMNS.values()], rows))
    print("\n" + "\n".join(outcome.verdict))
    folder = shlex.quote(str(out))
    print(f'\nnext:\n  retort ask "your question" --store {folder}/index\n  retort serve --store {folder}/index')
