# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Recipes with something in the place of their teacher, their student or single values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retort.trainers.recipe import Component, Recipe, dump_yaml
from retort.trainers.recipe.trust import load_role, load_type
from retort.trainers.runtime.errors import RecipeError

TEACHER = "teacher"  # what recipes of several teachers call the one that another may take the place of
TEACHERS = "retort.trainers.teachers"
VECTORS, SCORES = "kd_lexical", "kd_scores"  # recipes for teachers of either kind, where documents are all there is
WEAK_PAIRS = "weak-pairs"  # the stage of `with_weak_pairs`
LOCAL = "vectors", "cached", "time"
PAIRS, PAIR_STEPS, POOL = 128, 240, 2000  # of `with_weak_pairs`: pairs a step at least, steps, passages of the filter
QUICK = "static_lexical"  # in place of the first, where there is no time


def changed_recipe(
    recipe: str | Path | Recipe,
    *,
    teacher: str | dict[str, Any] | Any = None,
    student: str | dict[str, Any] | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    allow: Sequence[str] = (),
) -> Recipe:
    """
    Read a recipe with something in the place of its teacher, its student or single values.

    :param recipe:
        Name of a recipe that comes with retort, a YAML file, or a `Recipe`.
    :param teacher:
        Replaces the recipe's teacher, or of several the one that is called `teacher`; see `teacher_spec`.
    :param student:
        Replaces the recipe's student: a model's name, to start from all of it; or `{type, init_parameters}`.
    :param settings:
        Values to change, by their place: `{"stages.0.steps": 100}`, or `["stages.0.steps=100"]`, which is parsed as
        YAML.
    :param allow:
        Further modules that types may come from.
    :raises RecipeError:
        If the recipe, or what is to be changed in it, does not fit.
    """
    if isinstance(settings, Mapping):  # as on the command line: values are written as YAML, and read back
        settings = [f"{place}={dump_yaml(value, default_flow_style=True)}" for place, value in settings.items()]
    if not isinstance(recipe, Recipe):
        if teacher is None and student is None:
            return Recipe.from_yaml(recipe, overrides=settings, allow=allow)
        recipe = Recipe.from_yaml(recipe, allow=allow)
    parts: dict[str, Any] = {}
    if teacher is not None:
        names = list(recipe.teachers)
        name = names[0] if len(names) == 1 else TEACHER
        if name not in names:
            msg = (
                f"teacher: the recipe {recipe.name} has not one teacher, nor one that is called {TEACHER!r}, but "
                f"{', '.join(names) or 'none'}. Change single values (teachers.NAME...), or write a YAML file."
            )
            raise RecipeError(msg)
        parts[f"teachers.{name}"] = teacher_spec(teacher, recipe.teachers[name], allow)
    if student is not None:
        maker = {"type": "retort.students.create.pretrained", "init_parameters": {"model": student}}
        parts["student"] = maker if isinstance(student, str) else student
    return recipe.changed(parts, overrides=settings, allow=allow)


def recipe_for(
    recipe: str | Path | Recipe | None, teacher: Any, *, allow: Sequence[str] = (), **changes: Any
) -> Recipe:
    """
    Read a recipe with a teacher in its place; without a recipe it is the one for that kind of teacher.

    :param recipe:
        As of `changed_recipe`; None: `kd_lexical`, or `kd_scores` for a teacher of scores.
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
    if recipe is None:
        kind = load_role(spec["type"], "teacher", "teacher.type", allow) if isinstance(spec, dict) else None
        scores = getattr(kind, "gives", None) in {"scores", "ranks"}
        recipe = SCORES if scores else VECTORS
    return changed_recipe(recipe, teacher=spec, allow=allow, **changes)


def with_weak_pairs(recipe: Recipe) -> Recipe:
    """
    Return a recipe with a stage over the corpus' own pairs before its last one: the best student yet is fine-tuned.

    The first local teacher that gives vectors leaves out pairs that are none, and keeps the student near it.

    :param recipe:
        The recipe; a stage of it must not be called `weak-pairs`.
    """
    *first, last = recipe.to_dict()["stages"]
    kinds = {
        name: load_role(spec.type, "teacher", f"teachers.{name}.type", recipe.allow)
        for name, spec in recipe.teachers.items()
    }
    local = (name for name, kind in kinds.items() if (kind.gives, kind.runs, kind.costs) == LOCAL)
    guide = next(local, None)
    stage: dict[str, Any] = {
        "name": WEAK_PAIRS,
        "batches": "pairs",
        "queries": {"type": "retort.trainers.data.weak_pairs.WeakPairs"},
        "lr": last["lr"],
        "steps": PAIR_STEPS,
        "objectives": [{"type": "retort.trainers.objectives.Contrastive"}],
        "training": {"batch_size": max(PAIRS, recipe.training.batch_size)},
    }
    if guide is not None:
        stage["selector"] = {
            "type": "retort.trainers.methods.e5.ConsistencyFilter",
            "init_parameters": {"model": guide, "pool": POOL},
        }
        stage["objectives"].append(
            {"type": "retort.trainers.objectives.InBatchKL", "init_parameters": {"teacher": guide}}
        )
    return recipe.changed({"stages": [*first, stage, last]})


def teacher_spec(
    teacher: str | dict[str, Any] | Any, default: Component | None, allow: Sequence[str] = ()
) -> dict[str, Any]:
    """
    Describe a teacher, as recipes do.

    :param teacher:
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
    if isinstance(teacher, str):
        if default is None:
            msg = f"teacher {teacher!r}: give its type, too."
            raise RecipeError(msg)
        return asdict(default) | {"init_parameters": default.init_parameters | {"model": teacher}}
    if not isinstance(teacher, dict):
        from haystack.core.serialization import component_to_dict

        teacher = component_to_dict(teacher, "teacher")
    if {"text_embedder", "document_embedder"} <= teacher.keys():
        return {"type": f"{TEACHERS}.embedder.EmbedderTeacher", "init_parameters": teacher}
    if "type" not in teacher:
        msg = "teacher: it needs a type, with init_parameters; or text_embedder and document_embedder."
        raise RecipeError(msg)
    kind = load_type(str(teacher["type"]), "teacher.type", allow)
    if not hasattr(kind, "run"):  # no component: a teacher, which the recipe checks
        return teacher
    takes = inspect.signature(kind.run).parameters
    own = {name: teacher[name] for name in ("type", "init_parameters") if name in teacher}
    more = {name: value for name, value in teacher.items() if name not in own}
    if "messages" in takes:
        return {"type": f"{TEACHERS}.chat_generator.ChatGeneratorTeacher", "init_parameters": {"generator": own} | more}
    if {"query", "documents"} <= takes.keys():
        return {"type": f"{TEACHERS}.ranker.RankerTeacher", "init_parameters": {"ranker": own} | more}
    msg = (
        f"teacher: {teacher['type']} is neither a teacher nor a ranker nor a chat generator. Embedders come as a pair: "
        "text_embedder and document_embedder."
    )
    raise RecipeError(msg)
