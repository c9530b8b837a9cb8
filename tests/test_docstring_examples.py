# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Examples in docstrings: YAML makes a recipe, whose components are created; Python calls what there is."""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

import retort
import retort.trainers
from retort.students import create
from retort.trainers import roles
from retort.trainers.recipe import Recipe

ROOT = Path(__file__).parents[1]
ROLES = (
    roles.BatchSource,
    roles.CorpusSource,
    roles.Miner,
    roles.Objective,
    roles.QuerySource,
    roles.Selector,
    roles.Teacher,
    roles.TeacherWeighting,
    roles.Temperature,
    roles.TextTransform,
)
# What others are made of, and no recipe names.
BASES = {"Joined", "LiveKL", "LocalModelTeacher", "QuestionTexts", "Reconstruction", "TeacherObjective", "TrainedInRun"}
STAGE = {"name": "example", "teacher": "teacher", "steps": 10, "candidates": {"sources": ["bm25"], "negatives": 7}}
BASE: dict[str, Any] = {
    "student": {"type": "retort.students.create.pretrained", "init_parameters": {"model": "my-encoder"}},
    "teachers": {
        name: {"type": "retort.trainers.teachers.bm25.BM25Teacher"}
        for name in ("teacher", "ranker", "bm25", "dense", "words", "minilm", "e5", "second")
    },
    "candidates": {
        "bm25": {"type": "retort.trainers.candidates.bm25.BM25Miner"},
        "own": {"type": "retort.trainers.candidates.dense.DenseMiner", "init_parameters": {"model": "student"}},
    },
}


def named() -> list[Any]:
    """List all that a recipe may name by `type`."""
    found: list[Any] = []
    for module in pkgutil.walk_packages(retort.trainers.__path__, "retort.trainers."):
        for kind in vars(importlib.import_module(module.name)).values():
            own = inspect.isclass(kind) and kind.__module__ == module.name and not kind.__name__.startswith("_")
            if own and kind not in ROLES and any(base in kind.__mro__ for base in ROLES) and kind.__name__ not in BASES:
                found.append(kind)
    return [*found, *(getattr(create, name) for name in create.__all__)]


def examples(kind: Any) -> list[Any]:
    texts = re.findall(r"^```yaml\n(.*?)^```", inspect.getdoc(kind) or "", re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(text) for text in texts]


def recipe_of(example: Any) -> Recipe:
    """Put an example where it belongs: objectives and keys of a stage into one, the rest beside it."""
    parts = {"objectives": example} if isinstance(example, list) else dict(example)
    of_recipe = {"student", "teachers", "data"}
    if "sources" not in parts.get("candidates", {"sources": []}):
        of_recipe.add("candidates")
    tree, stage = dict(BASE), STAGE | {"objectives": [{"type": "retort.trainers.objectives.Contrastive"}]}
    for key, value in parts.items():
        if key not in of_recipe:
            stage[key] = value
        elif key in ("teachers", "candidates"):
            tree[key] = tree[key] | value
        else:
            tree[key] = value
    return Recipe.from_dict(tree | {"format": 1, "stages": [stage]}, allow=["api.openai.com"])


def makers_of(student: Any) -> list[Any]:
    """List a student's maker and those within, whose parameters must fit; none is called, as models are not here."""
    if isinstance(student, list):
        return [maker for item in student for maker in makers_of(item)]
    if not isinstance(student, dict):
        return []
    found = [maker for value in student.values() for maker in makers_of(value)]
    if str(student.get("type", "")).startswith("retort.students.create."):
        maker = getattr(create, student["type"].rpartition(".")[-1])
        inspect.signature(maker).bind(**student.get("init_parameters", {}))
        found.append(maker)
    return found


@pytest.mark.parametrize("kind", named(), ids=lambda kind: kind.__name__)
def test_an_example_makes_a_recipe_and_its_components(kind):
    found = examples(kind)
    assert found, "no example"
    for example in found:
        recipe = recipe_of(example)
        created = []
        for place, spec, role in recipe._components():
            if role == "student":
                created += makers_of({"type": spec.type, "init_parameters": spec.init_parameters})
            else:
                created.append(type(recipe.create(spec, role, ".".join(map(str, place)), teacher="teacher")))
        assert kind in created


SOURCES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if path.relative_to(ROOT).parts[0] in {"components", "indexes.py", "students", "trainers", "workflows.py"}
]
PYTHON = [
    pytest.param(textwrap.dedent(text), id=f"{path.stem}-{i}")
    for path in SOURCES
    for i, text in enumerate(
        re.findall(r"^ *```python\n(.*?)^ *```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    )
]


@pytest.mark.parametrize("text", PYTHON)
def test_python_imports_what_there_is_and_calls_it_as_it_may_be_called(text):
    tree = ast.parse(text)
    names: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            names |= {alias.name: getattr(module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name: importlib.import_module(alias.name) for alias in node.names}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if (called := found_in(names, call.func)) is not None:
            inspect.signature(called).bind(*call.args, **{word.arg: None for word in call.keywords if word.arg})


def found_in(names: dict[str, Any], node: ast.expr) -> Any:
    """Look up what a name or its attribute is; None for what the example makes itself."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    owner = found_in(names, node.value) if isinstance(node, ast.Attribute) else None
    return None if owner is None else getattr(owner, node.attr)


@pytest.mark.parametrize("name", [name for name in retort.__all__ if name.islower() and name != "__version__"])
def test_a_function_of_the_package_shows_a_call_of_itself(name):
    text = inspect.getdoc(getattr(retort, name)) or ""
    assert re.findall(r"^### Usage example$", text, re.MULTILINE) == ["### Usage example"]
    assert set(re.findall(r"\bretort\.(\w+)\(", text)) == {name}
