# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort train`."""

import argparse

from accelerate import PartialState

from retort.cli.table import COLUMNS, format_table
from retort.trainers.changes import changed_recipe
from retort.trainers.evaluation.exports import export_to_serve
from retort.trainers.recipe import trusts_code
from retort.trainers.run import run_recipe
from retort.trainers.run_folder import write_corpus
from retort.trainers.teachers.calls import limited_calls
from retort.workflows import plan_train


def run(given: argparse.Namespace) -> None:
    """Train a student by a recipe, as `retort.train` does before it loads it, and print how good it is; or the plan."""
    if given.plan:
        options = {"recipe": given.recipe, "settings": given.set, "allow": given.allow}
        print("\n".join(plan_train(given.data, given.out, documents=given.documents, **options)))
        return
    recipe = changed_recipe(given.recipe, settings=given.set, allow=given.allow)
    with limited_calls(given.max_calls):
        data = given.data or write_corpus(given.documents, given.out)
        metrics = run_recipe(recipe, data, given.out, resume=given.resume)
    processes = PartialState()
    processes.destroy_process_group()
    if not processes.is_main_process:
        return
    if given.export:
        trusted = trusts_code(recipe.student.init_parameters)
        export_to_serve(given.out / "student", trust_remote_code=trusted)
    dev = metrics["dev"]
    if not dev:
        print(f"student: {given.out / 'student'}  (not measured: there are no dev queries)")
        return
    models = {"student": dev["student"], **dev["teachers"], **dev.get("candidates", {})}
    student = models["student"]
    print(f"student: {given.out / 'student'}  ({student['queries']:.0f} queries, {student['documents']:.0f} documents)")
    rows = [[name, *(f"{scores[key]:.4f}" for key in COLUMNS)] for name, scores in models.items()]
    print(format_table(["model", *COLUMNS.values()], rows))
