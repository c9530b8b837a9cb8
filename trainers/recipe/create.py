# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Creates what a `{type, init_parameters}` describes."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter

from retort.trainers.recipe.schema import Component
from retort.trainers.recipe.tree import hint
from retort.trainers.recipe.trust import Role, load_role
from retort.trainers.recipe.validate import checked
from retort.trainers.runtime.errors import RecipeError

_PLAIN = {bool, int, float, str, NoneType, Any}
_VARIABLE = {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
_HOLDERS = {list, dict, Sequence, Mapping, Union, UnionType}


def create(spec: Component, role: Role, where: str, allow: Sequence[str] = (), **extra: Any) -> Any:
    """
    Create what a `{type, init_parameters}` describes.

    :param spec:
        The description.
    :param role:
        What it must be.
    :param where:
        Its place in the recipe, for errors.
    :param allow:
        Further modules that types may come from.
    :param extra:
        Further parameters, where the type takes them and the description and None do not say otherwise.
    :raises RecipeError:
        If the type is not trusted, not there or of another role, or does not take these parameters.
    """
    kind = load_role(spec.type, role, f"{where}.type", allow)
    inside = f"{where}.init_parameters"
    if "allowed_modules" in spec.init_parameters:
        msg = f"{inside}.allowed_modules: a recipe cannot widen what it may load; pass --allow."
        raise RecipeError(msg)
    known = inspect.signature(kind).parameters
    flexible = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for name, value in spec.init_parameters.items():
        if name in known:
            _check_type(kind, known[name], value, f"{inside}.{name}")
        elif not flexible:
            msg = f"{inside}.{name}: {spec.type} takes no {name!r}; {hint(name, known)}"
            raise RecipeError(msg)
    defaults = {name: value for name, value in extra.items() if name in known and value is not None}
    parameters = defaults | spec.init_parameters
    needed = [name for name, p in known.items() if p.default is p.empty and p.kind not in _VARIABLE]
    if missing := [name for name in needed if name not in parameters]:
        msg = f"{inside}: {spec.type} needs {', '.join(missing)}."
        raise RecipeError(msg)
    try:
        return kind(**parameters)
    except Exception as error:  # whatever a model's own code raises of values that it cannot take
        msg = f"{where} ({spec.type}): {in_one_line(error)}"
        raise RecipeError(msg) from error


def in_one_line(error: Exception) -> str:
    """Say what an error says, with its type where that is not for users."""
    expected = isinstance(error, ValueError | TypeError | OSError)
    text = str(error) if expected else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def _check_type(kind: Any, parameter: inspect.Parameter, value: Any, where: str) -> None:
    """Check a value against its annotation, if that speaks of plain values alone."""
    annotations = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        annotation = get_type_hints(annotations, vars(sys.modules[kind.__module__]))[parameter.name]
    except NameError:  # what only type checkers import is no plain value
        return
    if _is_plain(annotation):
        checked(TypeAdapter(annotation, config=ConfigDict(strict=True)), value, annotation, where.split("."))


def _is_plain(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is Literal:
        return True
    options = get_args(annotation)
    if origin in {Union, UnionType} and len(options) > len((annotation, None)):
        return False  # which of several it fails to be is no clear message
    return annotation in _PLAIN or (origin in _HOLDERS and all(map(_is_plain, options)))
