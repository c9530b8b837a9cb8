# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What a recipe may load: trusted modules, and in them what is of the right role."""

from __future__ import annotations

import fnmatch
import inspect
import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Literal

from retort.trainers.errors import RecipeError

# Haystack's own list without `builtins`, `typing` and `collections`, of which nothing belongs into a recipe.
TRUSTED = ("retort", "haystack", "haystack_integrations", "haystack_experimental")

Role = Literal["student", "teacher", "miner", "selector", "objective", "temperature", "text", "pseudo queries"]


def load_type(path: str, where: str, allow: Sequence[str] = ()) -> Any:
    """
    Import a class or function by its dotted path, if it is trusted.

    :raises RecipeError:
        If its module is not trusted, or there is no such thing; also if a trusted module merely re-exports it.
    """
    refuse_untrusted(path, where, allow)
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        msg = f"{where}: there is no {path!r} ({error})."
        raise RecipeError(msg) from error
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        msg = f"{where}: {path!r} is neither a class nor a function."
        raise RecipeError(msg)
    refuse_untrusted(f"{found.__module__}.{name}", where, allow)
    return found


def fits(made: Any, role: Role) -> bool:
    """Tell whether a trusted type is of a role: trust in a package is no leave to call all that it holds."""
    if role == "student":
        # Our own ways to start one; anything in a module that the user allowed.
        return not made.__module__.startswith("retort.") or made.__module__ == "retort.students.create"
    if role == "temperature":
        from retort.trainers.distiller import Temperature

        return inspect.isclass(made) and issubclass(made, Temperature)
    ways: dict[str, list[tuple[str, ...]]] = {
        "teacher": [("encode", "key"), ("score", "key"), ("load", "key")],
        "miner": [("mine", "key", "teachers")],
        "selector": [("keep", "teachers")],
        "objective": [("forward", "bind")],
        "text": [("bind", "training_texts", "document_views")],
        "pseudo queries": [("of",)],
    }
    return inspect.isclass(made) and any(all(hasattr(made, method) for method in way) for way in ways[role])


def refuse_untrusted(path: str, where: str, allow: Sequence[str]) -> None:
    """
    Check that a type's module may be imported.

    :raises RecipeError:
        If it is in none of the trusted modules, nor in one that was allowed.
    """
    module = path.rpartition(".")[0]
    environment = os.environ.get("HAYSTACK_DESERIALIZATION_ALLOWLIST", "").split(",")
    patterns = [*TRUSTED, *allow, *(p.strip() for p in environment if p.strip())]
    if not any(_matches(module, pattern.removesuffix(".*")) for pattern in patterns):
        msg = (
            f"{where}: {path!r} is not in a trusted module ({', '.join(TRUSTED)}). "
            f"If you trust it, pass --allow {module.split('.')[0] or path}."
        )
        raise RecipeError(msg)


def _matches(module: str, pattern: str) -> bool:
    return module == pattern or module.startswith(f"{pattern}.") or fnmatch.fnmatchcase(module, pattern)
