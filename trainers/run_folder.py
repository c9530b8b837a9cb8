# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Whose a run folder is: the recipe, data and models that a run began with, and its one writer."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from retort.students.files import read_json, replace_file, replace_folder, write_json
from retort.students.hashing import canonical_json, hash_text
from retort.students.redaction import redacted
from retort.trainers.build import BuiltRecipe
from retort.trainers.data.beir import is_beir
from retort.trainers.data.documents import OnError, list_files, read_source, without_blank
from retort.trainers.data.synthesis import write_documents
from retort.trainers.data.texts import RetrievalData, whole_characters
from retort.trainers.recipe import Recipe, dump_yaml
from retort.trainers.roles import Teacher
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.teachers.haystack import without_incidental

if TYPE_CHECKING:
    from haystack import Document

SOURCE = "source.json"  # of a corpus of documents: what it was made of


def resolve(recipe: Recipe, train: RetrievalData, dev: RetrievalData) -> Recipe:
    """
    Return a copy of the recipe that names its data.

    :raises RecipeError:
        If it named other data before.
    """
    found = hash_text(train.hash + dev.hash)
    if recipe.data.hash not in {None, found}:
        msg = "data.hash: the recipe was resolved for other data. Remove the line to use it here."
        with recipe.located():
            raise RecipeError(msg)
    resolved = copy.deepcopy(recipe)
    resolved.data.hash = found
    return resolved


def refuse_other_run(recipe: Recipe, out: Path, *, resume: bool) -> None:
    """
    Check that a run folder is free, or holds the run that is to go on.

    :param recipe:
        The resolved recipe (see `resolve`). Two recipes are the same if their values are, defaults included; secrets
        are not written down, and not compared, nor how servers are reached and how often they may be asked.
    :param out:
        The run folder.
    :param resume:
        Whether the run there is to go on.
    :raises RecipeError:
        If it holds a run and `resume` is off, or the run of another recipe or other data.
    """
    path = out / "recipe.yaml"
    if not path.is_file():
        return
    if not resume:
        msg = f"{out} already holds a run. Pass --resume to go on with it, or give another --out."
        raise RecipeError(msg)
    try:
        before = Recipe.from_yaml(path, allow=recipe.allow)
    except RecipeError as error:
        msg = f"{error} It is what the run began with; delete it if --recipe and --data are the same: it is made again."
        raise RecipeError(msg) from error
    if _compared(before) != _compared(recipe):
        msg = f"{out} holds a run of another recipe or other data ({path}). Give another --out."
        raise RecipeError(msg)


def _compared(recipe: Recipe) -> dict[str, Any]:
    tree = redacted(recipe.to_dict())
    for part in ("teachers", "candidates"):
        tree[part] = {name: without_incidental(spec) for name, spec in tree[part].items()}
    tree["data"] = _decisive(tree["data"])
    for stage in tree["stages"]:
        stage |= {name: _decisive(stage[name]) for name in ("queries", "candidates", "batches", "selector")}
    return tree


def _decisive(node: Any) -> Any:
    """Describe a part of a recipe without how often, and at which price, its components ask, wherever they stand."""
    if isinstance(node, list):
        return [_decisive(one) for one in node]
    if not isinstance(node, dict):
        return node
    found = {name: _decisive(value) for name, value in node.items()}
    return without_incidental(found) if isinstance(found.get("type"), str) else found


def models_of(built: BuiltRecipe) -> dict[str, str]:
    """Identify what a run begins with: the student's start, and the teachers that are not trained within it."""
    return {"student": built.trunk} | {f"teacher {name}": teacher.key for name, teacher in _cached(built).items()}


def former_models_of(built: BuiltRecipe) -> dict[str, str]:
    """Identify the teachers as runs of earlier versions did, where that differs."""
    return {f"teacher {name}": t.former_key for name, t in _cached(built).items() if t.former_key}


def _cached(built: BuiltRecipe) -> dict[str, Teacher]:
    every = (built, *built.trained_in_run.values())
    asked = {n for within in every for stage in within.recipe.stages for n in within.teachers_of(stage)}
    teachers = {n: built.context.teachers[n] for n in sorted(asked)}
    return {name: teacher for name, teacher in teachers.items() if teacher.runs != "trained_in_run"}


def refuse_other_models(models: dict[str, str], out: Path, former: dict[str, str] | None = None) -> None:
    """
    Check that a run goes on with the models that it began with: a recipe names folders, whose content may change.

    :param models:
        What `models_of` gives.
    :param former:
        What `former_models_of` gives.
    :param out:
        The run folder.
    :raises RecipeError:
        If one is another.
    """
    path = out / "checkpoints" / "models.json"
    mend = "Delete it if the models that the recipe names are those that the run began with: it is made again."
    before = read_json(path, mend) if path.is_file() else models
    known = former or {}
    if odd := [name for name in models if before.get(name) not in {models[name], known.get(name, models[name])}]:
        msg = f"{odd[0]}: it is not the model that the run in {out} began with ({path}). Give another --out."
        raise RecipeError(msg)


def write_corpus(
    documents: str | Path | Sequence[Document], out: Path, *, on_error: OnError = "skip", leave_out: Path | None = None
) -> Path:
    """
    Write documents into a run folder, as a corpus alone. What a run began with stays: it goes on with that.

    :param documents:
        A folder, a file or a BEIR folder, as `read_source` reads them; or Haystack documents.
    :param out:
        The run folder.
    :param on_error:
        As of `read_source`.
    :param leave_out:
        A folder whose files are not read, where it lies among the documents; None: the run folder.
    :returns:
        The data folder within, for `run_recipe`. Passages of one file are `FILE#0`, `FILE#1`, and share no words.
    :raises DataError:
        If no text can be read.
    :raises RecipeError:
        If a run there began with other documents.
    """
    folder = out / "data"
    with _lock(out, timeout=-1):  # several processes of one run come here at once
        source = _source_of(documents, out)
        kept = read_json(folder / SOURCE, "Delete it.") if (folder / SOURCE).is_file() else None
        began = (out / "recipe.yaml").is_file()
        same = kept == source or bool(kept and source["place"] and kept["place"] == source["place"])
        if began and kept and not same:
            msg = f"{out} holds a run of other documents ({kept['place'] or 'given in Python'}). Give another --out."
            raise RecipeError(msg)
        if not is_beir(folder) or not (began or kept == source):
            if isinstance(documents, str | Path):
                documents = read_source(documents, overlap=0, on_error=on_error, leave_out=leave_out or out).documents
            else:
                documents = without_blank(documents, on_error).documents
            with replace_folder(folder) as aside:
                write_documents(aside, documents)
                write_json(aside / SOURCE, source)
    return folder


def _source_of(documents: str | Path | Sequence[Document], out: Path) -> dict[str, str]:
    """Identify documents without reading them: by their place, and by names, sizes and times of files."""
    if not isinstance(documents, str | Path):
        texts = [[d.id, d.content, str(d.meta.get("title", ""))] for d in documents]
        return {"place": "", "content": hash_text(whole_characters(canonical_json(texts)))}
    place = Path(documents).resolve()
    of_folder = place.glob("corpus.*") if is_beir(place) else (path for path, _ in list_files(place, out))
    files = [place] if place.is_file() else sorted(filter(os.path.isfile, of_folder))
    found = [[str(file), (seen := file.stat()).st_size, seen.st_mtime_ns] for file in files]
    return {"place": str(place), "content": hash_text(canonical_json(found))}


def _lock(out: Path, timeout: float) -> FileLock:
    locks = out.resolve().parent / ".retort-cache" / "locks"  # never $RETORT_CACHE: others may have another
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / hash_text(str(out.resolve()))[:16], timeout=timeout)


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Keep other processes off a run folder."""
    try:
        with _lock(out, timeout=0):
            yield
    except Timeout as error:
        msg = f"{out} is being written by another process. Wait for it, or give another --out."
        raise RecipeError(msg) from error


def write_recipe(recipe: Recipe, out: Path) -> None:
    """Write the resolved recipe without its secrets, whole or not at all."""
    with replace_file(out / "recipe.yaml") as aside:
        aside.write_text(dump_yaml(redacted(recipe.to_dict())), encoding="utf-8")
