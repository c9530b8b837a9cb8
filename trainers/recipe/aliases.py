# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Names that recipes of earlier versions use, and what they are called now. None is ever taken out."""

from typing import Any

TYPES: dict[str, str] = {
    "retort.trainers.teachers.fitted.FittedRanker": "retort.trainers.teachers.trained_in_run.TrainedInRunRanker",
    "retort.trainers.teachers.fitted.FittedBiEncoder": "retort.trainers.teachers.trained_in_run.TrainedInRunBiEncoder",
    "retort.students.create.with_words": "retort.students.create.static_with_lexical",
    "retort.students.create.from_words": "retort.students.create.lexical_layers",
    "retort.students.create.from_table": "retort.students.create.layers_on_static",
}
PARAMETERS: dict[str, str] = {
    "besides": "extra_teachers",
}


def current_type(path: str) -> str:
    """Return what a type is called now."""
    return TYPES.get(path, path)


def with_current_names(tree: Any) -> Any:
    """
    Return a recipe's tree with the names of now in the place of old ones, at any depth.

    :param tree:
        What YAML gave; it stays as it is.
    """
    if isinstance(tree, list):
        return [with_current_names(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    renamed = {name: with_current_names(value) for name, value in tree.items()}
    if isinstance(kind := renamed.get("type"), str):
        renamed["type"] = current_type(kind)
        parameters = renamed.get("init_parameters")
        if isinstance(parameters, dict) and kind.startswith("retort."):
            renamed["init_parameters"] = {PARAMETERS.get(name, name): value for name, value in parameters.items()}
    return renamed
