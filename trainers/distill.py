# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Training from Python, in one call."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from retort.students import Manifest, Ranker, Student
from retort.trainers.recipe import Component, Recipe, trusts_code
from retort.trainers.recipe.trust import load_role, load_type
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError

EMBEDDERS = {"dense", "static"}
TEACHER = "teacher"  # what recipes of several teachers call the one that another may take the place of
TEACHERS = "retort.trainers.teachers"
VECTORS, SCORES = "kd_lexical", "kd_scores"  # recipes for teachers of either kind, where documents are all there is


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
        Takes the place of the recipe's teacher; see `teacher_spec`.
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
    changed = changed_recipe(recipe, teacher=teacher, student=student, settings=settings, allow=allow)
    run_recipe(changed, Path(data), Path(out), resume=resume)
    folder = Path(out) / "student"
    manifest = Manifest.read(folder)
    kind = Student if manifest is None or manifest.kind in EMBEDDERS else Ranker
    return kind.load(str(folder), trust_remote_code=trusts_code(changed.student.init_parameters))


def changed_recipe(
    recipe: str | Path | Recipe,
    *,
    teacher: str | dict[str, Any] | Any = None,
    student: str | dict[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    allow: Sequence[str] = (),
) -> Recipe:
    """
    Read a recipe with something in the place of its teacher, its student or single values; parameters as of `distill`.

    Of several teachers the one that is called `teacher` is replaced. `overrides` are as of `Recipe.from_yaml`.

    :raises RecipeError:
        If the recipe, or what is to be changed in it, does not fit.
    """
    if not isinstance(recipe, Recipe):
        recipe = Recipe.from_yaml(recipe, allow=allow)
    tree = recipe.to_dict()
    if teacher is not None:
        names = list(tree["teachers"])
        name = names[0] if len(names) == 1 else TEACHER
        if name not in names:
            msg = (
                f"distill(teacher=...): the recipe has not one teacher, nor one that is called {TEACHER!r}, but "
                f"{', '.join(names) or 'none'}; use settings, or a YAML file."
            )
            raise RecipeError(msg)
        tree["teachers"][name] = teacher_spec(teacher, recipe.teachers[name], allow)
    if student is not None:
        made = {"type": "retort.students.create.pretrained", "init_parameters": {"model": student}}
        tree["student"] = made if isinstance(student, str) else student
    # As on the command line: values are written as YAML, and read back.
    changes = [f"{place}={yaml.safe_dump(value, default_flow_style=True)}" for place, value in (settings or {}).items()]
    changed = Recipe.from_dict(
        tree, overrides=[*changes, *overrides], allow=[*recipe.allow, *allow], origin=recipe.name
    )
    changed.name = recipe.name
    return changed


def recipe_for(name: str | None, teacher: Any, *, allow: Sequence[str] = (), **changes: Any) -> Recipe:
    """
    Read a recipe with a teacher in its place; without a name it is the one for that kind of teacher.

    :param name:
        A recipe's name or file.
    :param teacher:
        See `teacher_spec`; None: the recipe's own.
    :param allow:
        Further modules that types may come from.
    :param changes:
        Further parameters of `changed_recipe`.
    :raises RecipeError:
        If they do not fit.
    """
    spec = teacher if teacher is None or isinstance(teacher, str) else teacher_spec(teacher, None, allow)
    if name is None:
        kind = load_role(spec["type"], "teacher", "teacher.type", allow) if isinstance(spec, dict) else None
        scores = getattr(kind, "gives", None) in {"scores", "ranks"}
        name = SCORES if scores else VECTORS
    return changed_recipe(name, teacher=spec, allow=allow, **changes)


def teacher_spec(
    given: str | dict[str, Any] | Any, default: Component | None, allow: Sequence[str] = ()
) -> dict[str, Any]:
    """
    Describe a teacher, as recipes do.

    :param given:
        A model's name, for `default`'s own `model`; `{type, init_parameters}` of a teacher, or of a Haystack component:
        a ranker or a chat generator, beside which the teacher's own parameters may stand (`revision`, `price`,
        `prompt`, ...); `{text_embedder, document_embedder}`, both such; or a component made in Python.
    :param default:
        The teacher whose place it takes.
    :param allow:
        Further modules that types may come from.
    :raises RecipeError:
        If it is nothing that can teach.
    """
    if isinstance(given, str):
        if default is None:
            msg = f"teacher {given!r}: give its type, too."
            raise RecipeError(msg)
        return asdict(default) | {"init_parameters": default.init_parameters | {"model": given}}
    if not isinstance(given, dict):
        from haystack.core.serialization import component_to_dict

        given = component_to_dict(given, "teacher")
    if {"text_embedder", "document_embedder"} <= given.keys():
        return {"type": f"{TEACHERS}.embedder.EmbedderTeacher", "init_parameters": given}
    if "type" not in given:
        msg = "teacher: it needs a type, with init_parameters; or text_embedder and document_embedder."
        raise RecipeError(msg)
    kind = load_type(str(given["type"]), "teacher.type", allow)
    if not hasattr(kind, "run"):  # no component: a teacher, which the recipe checks
        return given
    takes = inspect.signature(kind.run).parameters
    own = {name: given[name] for name in ("type", "init_parameters") if name in given}
    more = {name: value for name, value in given.items() if name not in own}
    if "messages" in takes:
        return {"type": f"{TEACHERS}.chat_generator.ChatGeneratorTeacher", "init_parameters": {"generator": own} | more}
    if {"query", "documents"} <= takes.keys():
        return {"type": f"{TEACHERS}.ranker.RankerTeacher", "init_parameters": {"ranker": own} | more}
    msg = (
        f"teacher: {given['type']} is neither a teacher nor a ranker nor a chat generator. Embedders come as a pair: "
        "text_embedder and document_embedder."
    )
    raise RecipeError(msg)
