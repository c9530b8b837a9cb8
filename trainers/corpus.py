# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""A corpus for a run that has none: its recipe says where the texts come from."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from filelock import FileLock

from retort.students.files import replace_folder
from retort.trainers.context import TrainingContext
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.recipe import Recipe
from retort.trainers.roles import CorpusSource, Teacher
from retort.trainers.runtime.errors import RecipeError

logger = logging.getLogger(__name__)


def make_corpus(recipe: Recipe, folder: Path, cache: Path) -> None:
    """
    Write a corpus into a data folder that is not there yet, if the recipe has `data.corpus`.

    :param recipe:
        The recipe.
    :param folder:
        The data folder; one that is there stays as it is.
    :param cache:
        The cache folder, for what teachers and generators give.
    :raises RecipeError:
        If the source cannot be created, asks a teacher that cannot be asked before training, or makes no text.
    """
    if recipe.data.corpus is None or folder.exists():
        return
    cache.mkdir(parents=True, exist_ok=True)
    with recipe.located(), FileLock(cache / "made-corpus.lock"):  # several processes of one run come here at once
        if folder.exists():
            return
        source, teachers = corpus_source(recipe)
        nothing = RetrievalData(folder.name, TextStore([], []), TextStore([], []))
        drawn = source.texts(TrainingContext(nothing, teachers, cache))
        texts = [text for text in dict.fromkeys(drawn) if text]
        if not texts:
            msg = f"data.corpus: {type(source).__name__} made no text."
            raise RecipeError(msg)
        lines = [json.dumps({"_id": f"made-{i}", "text": text}, ensure_ascii=False) for i, text in enumerate(texts)]
        with replace_folder(folder, new=True) as aside:
            (aside / "corpus.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        logger.info("%s: made a corpus of %d texts", folder, len(texts))


def corpus_source(recipe: Recipe) -> tuple[CorpusSource, dict[str, Teacher]]:
    """
    Create a recipe's `data.corpus`, and the teachers that it asks.

    :raises RecipeError:
        If the source cannot be created, or asks a teacher that cannot be asked before training.
    """
    if recipe.data.corpus is None:
        msg = "data.corpus: the recipe has none."
        raise RecipeError(msg)
    source: CorpusSource = recipe.create(recipe.data.corpus, "corpus", "data.corpus")
    if unknown := [name for name in source.teachers if name not in recipe.teachers]:
        names = ", ".join(recipe.teachers) or "none"
        msg = f"data.corpus: there is no teacher {unknown[0]!r}; there are: {names}."
        raise RecipeError(msg)
    teachers = {name: recipe.create(recipe.teachers[name], "teacher", f"teachers.{name}") for name in source.teachers}
    for name, teacher in teachers.items():
        if teacher.runs != "cached" or teacher.corpus_dependent:
            msg = f"data.corpus: teacher {name!r} cannot be asked before there is a corpus; name another one."
            raise RecipeError(msg)
    return source, teachers
