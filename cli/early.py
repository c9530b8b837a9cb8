# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What is refused before torch is imported, which takes seconds: wrong paths, recipes and `--set`."""

import argparse
import os
from importlib.util import find_spec
from pathlib import Path

from retort.pipelines.load import missing_index
from retort.students.checks import has_half
from retort.students.files import resolve_model
from retort.students.manifest import student_manifest
from retort.trainers.changes import changed_recipe
from retort.trainers.data.documents import require_source, shown
from retort.trainers.data.read import require_data
from retort.trainers.recipe import read_yaml
from retort.trainers.runtime.errors import DataError

YAML = {".yaml", ".yml"}
TRAINING = {"train", "distill", "export", "evaluate", "compare", "report", "quickstart"}


def check(given: argparse.Namespace) -> None:
    """
    Refuse what a command would refuse after its imports, in the same words.

    :param given:
        The parsed command line.
    :raises ModuleNotFoundError:
        If only what serves is installed, and the command needs more.
    """
    if given.command in TRAINING and find_spec("torch") is None:
        raise ModuleNotFoundError(name="torch")
    checks = {"train": _train, "distill": _distill, "index": _index, "ask": _ask, "serve": _ask, "export": _export}
    checks |= {"evaluate": _evaluate, "compare": _compare, "report": _report, "stamp": _ask}
    checks |= {"quickstart": lambda given: _new_folder("--out", given.out)}
    if given.command in checks:
        checks[given.command](given)


def _train(given: argparse.Namespace) -> None:
    if not given.plan:
        _new_folder("--out", given.out)
    recipe = changed_recipe(given.recipe, settings=given.set, allow=given.allow)
    if given.documents:
        require_source(given.documents)
    if recipe.data.corpus is None or (given.data and given.data.exists()):  # else it is made
        _data(given)


def _distill(given: argparse.Namespace) -> None:
    if not given.plan:
        _new_folder("--out", given.out)
    require_source(given.documents)
    teacher = given.teacher
    if teacher and Path(teacher).suffix in YAML:
        read_yaml(Path(teacher))
    if given.recipe:  # a value may be of what takes the teacher's place
        changed_recipe(given.recipe, settings=() if teacher else given.set, allow=given.allow)


def _index(given: argparse.Namespace) -> None:
    require_source(given.documents)
    if has_half(str(Path(given.documents).resolve())):
        msg = f"{shown(str(given.documents))}: the name of this folder, or of one above it, is not UTF-8. Rename it."
        raise DataError(msg)
    for model in filter(None, (given.student, given.sparse)):
        resolve_model(model)


def _ask(given: argparse.Namespace) -> None:
    if has_half(getattr(given, "question", "")):
        msg = "the question is not UTF-8: the terminal has another encoding (see `locale`)."
        raise DataError(msg)
    if any(map(has_half, getattr(given, "filter", ()))):
        msg = "--filter is not UTF-8: the terminal has another encoding (see `locale`)."
        raise DataError(msg)
    if message := missing_index(given.store):
        raise DataError(message)


def _export(given: argparse.Namespace) -> None:
    student_manifest(given.student)
    _data(given)


def _evaluate(given: argparse.Namespace) -> None:
    _new_file("--json", given.json)
    for model in given.models:
        resolve_model(model)
    _data(given)


def _compare(given: argparse.Namespace) -> None:
    _new_file("--json", given.json)
    _data(given)


def _report(given: argparse.Namespace) -> None:
    _new_file("--out", given.out)
    _data(given)


def _new_file(option: str, path: Path | None) -> None:
    if path is not None and path.is_dir():
        msg = f"{option} {path} is a folder: name a file."
        raise DataError(msg)
    if path is not None:
        _new_folder(option, path.parent, path)


def _new_folder(option: str, path: Path, named: Path | None = None) -> None:
    """Refuse a place that cannot be written: a file, or what stands below one or below a folder that is closed."""
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not there.is_dir():
        msg = f"{option} {named or path}: {there} is a file, where a folder is needed. Name another place."
        raise DataError(msg)
    if not os.access(there, os.W_OK | os.X_OK):
        msg = f"{option} {named or path}: nothing can be written in {there}. Name another place, or open it."
        raise DataError(msg)


def _data(given: argparse.Namespace) -> None:
    if given.data:
        require_data(given.data)
