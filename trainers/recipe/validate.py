# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Says in our words what pydantic finds."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from retort.students.redaction import redacted
from retort.trainers.recipe.tree import Place, PlacedRecipeError, hint

_UNKNOWN = {"unexpected_keyword_argument", "extra_forbidden"}
_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "dict": "keys with values",
    "dataclass": "keys with values",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "above"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


Section = TypeVar("Section")


def checked(kind: TypeAdapter[Section], tree: Any, root: Any, where: Sequence[str] = ()) -> Section:
    """
    Check values against a section of a recipe.

    :param kind:
        Checks the section.
    :param tree:
        The values.
    :param root:
        The section's class, for the names of its keys.
    :param where:
        The section's place in the recipe, for errors.
    :raises PlacedRecipeError:
        Of the first error: unknown keys come first, as they explain missing ones.
    """
    try:
        return kind.validate_python(tree)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        first = min(errors, key=lambda e: e["type"] not in _UNKNOWN)
        place = [*where, *(key for key in first["loc"] if key != "[key]")]  # pydantic's word for a wrong key itself
        first["input"] = redacted({str(place[-1]) if place else "": first["input"]}).popitem()[1]
        raise PlacedRecipeError(place, _problem(first, root)) from None


def _problem(error: ErrorDetails, root: type) -> str:
    """Say what pydantic found in our words."""
    place, kind, value, context = error["loc"], error["type"], error["input"], error.get("ctx", {})
    for_all = len(place) == len(("stages", 0, "training", "seed")) and place[2] == "training"
    it_is = f"; it is {value!r}."
    if kind in _UNKNOWN and for_all and place[-1] in _keys_at(("training",), root):
        return f"it is for all stages; a stage may set {', '.join(_keys_at(place[:-1], root))}."
    if kind in _UNKNOWN:
        return f"unknown key; {hint(str(place[-1]), _keys_at(place[:-1], root))}"
    if kind == "missing":
        return "missing."
    if place == ("format",):
        return f"{value!r} is not known to this version of retort; it reads format 1."
    if kind == "literal_error":
        return f"must be {context['expected'].replace(chr(39), '')}{it_is}"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {context[name]:g}{it_is}"
    if kind in {"too_short", "string_too_short"}:
        return "there must be at least one." if kind == "too_short" else "must not be empty."
    if kind == "value_error":
        return str(context["error"])
    return f"expected {_EXPECTED.get(kind.partition('_')[0], 'another value')}{it_is}"


def _keys_at(place: Place, root: Any) -> list[str]:
    kind = root
    for key in place:
        hints = get_type_hints(kind) if hasattr(kind, "__annotations__") else {}
        kind = hints[str(key)] if hints else get_args(kind)[-1]
        if NoneType in get_args(kind):  # optional
            kind = get_args(kind)[0]
    return [name for name in get_type_hints(kind) if not name.startswith("_")]
