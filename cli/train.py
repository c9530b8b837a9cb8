# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort train`."""

import argparse

from accelerate import PartialState

from retort.cli.table import COLUMNS, format_table
from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe


def run(given: argparse.Namespace) -> None:
    """Train a student by a recipe and print how good it became."""
    recipe = Recipe.from_yaml(given.recipe, overrides=given.set, allow=given.allow)
    metrics = run_recipe(recipe, given.data, given.out, resume=given.resume)
    processes = PartialState()
    processes.destroy_process_group()
    if not processes.is_main_process:
        return
    dev = metrics["dev"]
    found = {"student": dev["student"], **dev["teachers"], **dev.get("candidates", {})}
    student = found["student"]
    print(f"student: {given.out / 'student'}  ({student['queries']:.0f} queries, {student['documents']:.0f} documents)")
    rows = [[name, *(f"{scores[key]:.4f}" for key in COLUMNS)] for name, scores in found.items()]
    print(format_table(["model", *COLUMNS.values()], rows))
