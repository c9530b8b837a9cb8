# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of recipes, by which editors complete and check them."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

from retort.trainers.recipe import schema

_PARAMETER = re.compile(r":param (\w+):\n(.*?)(?=\n:|\Z)", re.DOTALL)
_EXTENDS = {"type": "string", "description": "A recipe that this one differs from in values only: a name, or a file."}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe, and of one that `extends` another."""
    whole = schema.adapter().json_schema()
    definitions = whole.pop("$defs") | {"Recipe": whole}
    for name, definition in definitions.items():
        _describe(definition, getattr(schema, "RecipeSections" if name == "Recipe" else name))
    changes = {f"{name}Changes": _changes(definition) for name, definition in definitions.items()}
    changes["RecipeChanges"]["properties"]["extends"] = _EXTENDS
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe of retort",
        "if": {"type": "object", "required": ["extends"]},
        "then": {"$ref": "#/$defs/RecipeChanges"},
        "else": {"$ref": "#/$defs/Recipe"},
        "$defs": definitions | changes,
    }


def _describe(definition: dict[str, Any], section: Any) -> None:
    """Take descriptions from a section's docstring."""
    text = inspect.getdoc(section) or ""
    definition["description"] = text.partition("\n\n")[0]
    for name, description in _PARAMETER.findall(text):
        if name in definition["properties"]:
            definition["properties"][name]["description"] = " ".join(description.split())


def _changes(definition: dict[str, Any]) -> dict[str, Any]:
    """Return what may differ: nothing is missing, and null takes a key out."""
    tree: dict[str, Any] = json.loads(re.sub(r'("#/\$defs/\w+)"', r'\1Changes"', json.dumps(definition)))
    tree.pop("required", None)
    for name, value in tree["properties"].items():
        if isinstance(value.get("additionalProperties"), dict):
            value["additionalProperties"] = _or_null(value["additionalProperties"])
        tree["properties"][name] = _or_null(value)
    return tree


def _or_null(tree: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [tree, {"type": "null"}]}
