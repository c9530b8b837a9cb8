# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort recipe`."""

import argparse
import json

from retort.students.redaction import redacted
from retort.trainers.recipe import RECIPES, Recipe, dump_yaml
from retort.trainers.recipe.json_schema import json_schema


def run(given: argparse.Namespace) -> None:
    """List the recipes that come with retort, show one with all its defaults, or print their JSON Schema."""
    if given.action == "schema":
        print(json.dumps(json_schema(), indent=2))
    elif given.action == "show":
        recipe = Recipe.from_yaml(given.name, overrides=given.set, allow=given.allow)
        print(dump_yaml(redacted(recipe.to_dict())), end="")
    else:
        files = sorted(RECIPES.glob("*.yaml"), key=lambda path: path.stem)
        width = max(len(path.stem) for path in files)
        for path in files:
            first = path.read_text(encoding="utf-8").partition("\n")[0]
            print(f"{path.stem:<{width}}  {first.removeprefix('# ')}")
