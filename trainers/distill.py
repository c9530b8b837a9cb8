# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Training from Python, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from retort.students import Manifest, Ranker, Student
from retort.trainers.errors import RecipeError
from retort.trainers.recipe import Component, Recipe

EMBEDDERS = {"dense", "static"}


def distill(
    data: str | Path,
    out: str | Path,
    *,
    recipe: str | Path | Recipe = "kd",
    teacher: str | dict[str, Any] | Any = None,
    student: str | dict[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    allow: Sequence[str] = (),
    resume: bool = False,
) -> Student | Ranker:
    """
    Train a student, and load it.

    :param data:
        A BEIR folder, or training data as `retort.trainers.data.read` reads it.
    :param out:
        Run folder to write.
    :param recipe:
        Name of a recipe that comes with retort (`kd` for a teacher of vectors, `kd_scores` for one of scores, `ranker`,
        `ranker_kd`), a YAML file, or a `Recipe`.
    :param teacher:
        Takes the place of the recipe's teacher: a model's name for the teacher's own `model`; a Haystack ranker; or
        `{type, init_parameters}`.
    :param student:
        Takes the place of the recipe's student: a model's name, to start from all of it; or `{type, init_parameters}`.
    :param settings:
        Values to change, by their place: `{"stages.0.steps": 100}`.
    :param allow:
        Further modules that types may come from.
    :param resume:
        Go on with the run that `out` holds.
    :returns:
        The student, a `Student` or a `Ranker`; `student.manifest.metrics` says how good it is.
    :raises RecipeError:
        If the recipe, or what is to be changed in it, does not fit.
    """
    if not isinstance(recipe, Recipe):
        recipe = Recipe.from_yaml(recipe, allow=allow)
    tree = recipe.to_dict()
    if teacher is not None:
        if len(tree["teachers"]) != 1:
            names = ", ".join(tree["teachers"]) or "none"
            msg = f"distill(teacher=...): the recipe has not one teacher but {names}; use settings, or a YAML file."
            raise RecipeError(msg)
        name = next(iter(tree["teachers"]))
        tree["teachers"][name] = _teacher(teacher, recipe.teachers[name])
    if student is not None:
        made = {"type": "retort.students.create.pretrained", "init_parameters": {"model": student}}
        tree["student"] = made if isinstance(student, str) else student
    # As on the command line: values are written as YAML, and read back.
    changes = [f"{place}={yaml.safe_dump(value, default_flow_style=True)}" for place, value in (settings or {}).items()]
    changed = Recipe.from_dict(tree, overrides=changes, allow=[*recipe.allow, *allow], origin=recipe.name)
    changed.name = recipe.name
    changed.run(data, out, resume=resume)
    folder = Path(out) / "student"
    manifest = Manifest.read(folder)
    kind = Student if manifest is None or manifest.kind in EMBEDDERS else Ranker
    return kind.load(str(folder))


def _teacher(given: Any, default: Component) -> dict[str, Any]:
    if isinstance(given, dict):
        return given
    if isinstance(given, str):
        return asdict(default) | {"init_parameters": default.init_parameters | {"model": given}}
    from haystack.core.serialization import component_to_dict

    # A component that was made in Python: a ranker, as its YAML would describe it.
    spec = component_to_dict(given, "teacher")
    return {"type": "retort.trainers.teachers.ranker.RankerTeacher", "init_parameters": {"ranker": spec}}
