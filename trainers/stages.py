# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Opening a stage: its candidates are mined, its queries selected, what it trains on is scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from retort.trainers.batches.lists import ListBatches
from retort.trainers.batches.queries import QueryBatches
from retort.trainers.batches.texts import TextBatches
from retort.trainers.build import BuiltRecipe
from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.candidates.mining import build_lists
from retort.trainers.engine.loop import BatchSource
from retort.trainers.recipe import BATCHES, Stage
from retort.trainers.runtime.errors import RecipeError


def open_stage(parts: BuiltRecipe, stage: Stage, out: Path, *, number: int = 0) -> BatchSource:
    """
    Make a stage's candidate lists and have them scored, or read those it began with, and give its batches.

    :param parts:
        The recipe and all that it names; the teachers that the stage asks are trained.
    :param stage:
        One of its stages.
    :param out:
        Folder whose `candidates/` holds the lists, those of each refresh.
    :param number:
        How often the stage was refreshed before.
    """
    recipe, context = parts.recipe, parts.context
    place = next(i for i, other in enumerate(recipe.stages) if other.name == stage.name)
    objectives = parts.distiller.objectives_of(stage.name)
    asked = {name for o in objectives for name in o.teachers}
    names = sorted(name for name in asked if context.teachers[name].runs != "in_loop")
    scorers = [name for name in names if context.teachers[name].gives != "vectors"]
    vectors = [name for name in names if name not in scorers]
    seed, size = f"{recipe.training.seed} {place}", recipe.training.batch_size
    section = stage.candidates
    if not stage.takes_lists or section is None:
        kind = QueryBatches if stage.batches.type == BATCHES["queries"] else TextBatches
        return kind(context, batch_size=size, vector_teachers=vectors, seed=seed)

    def batches(lists: CandidateLists) -> ListBatches:
        return ListBatches(
            context,
            lists,
            batch_size=size,
            steps=stage.steps,
            negatives=section.negatives,
            order=section.order,
            sampling=section.sampling,
            positives=section.positives,
            texts=parts.texts.get(stage.name),
            vector_teachers=vectors,
            seed=seed,
        )

    path = out / "candidates" / (f"{stage.name}.{number}.parquet" if number else f"{stage.name}.parquet")
    if not path.is_file():
        first = number * (stage.refresh or 0)
        steps = range(first, min(first + (stage.refresh or stage.steps), stage.steps))
        lists = build_lists(context, {name: parts.miners[name] for name in section.sources}, skip=section.skip)
        if stage.name in parts.selectors:
            lists = lists.only(parts.selectors[stage.name].keep(context, len(steps) * size))
        if scorers and len(lists):
            used = batches(lists).used(steps)
            for name in scorers:
                lists.scores[name] = np.full(len(lists.rows), np.nan, dtype=np.float32)
                lists.scores[name][used] = context.scores(name, lists.owners[used], lists.rows[used])
                _refuse_ranks(stage, name, context.kinds[name], objectives)
        lists.save(path, context.data)
    return batches(CandidateLists.load(path, context.data))  # read back even when new: a resumed run sees the same


def _refuse_ranks(stage: Stage, name: str, kind: str, objectives: list[Any]) -> None:
    needy = [type(o).__name__ for o in objectives if name in o.teachers and (o.extra_teachers or not o.takes_ranks)]
    if kind == "ranks" and needy:
        msg = (
            f"stage {stage.name}: teacher {name!r} gives an order without scores, and {', '.join(needy)} needs scores. "
            "Use RankNet or ListMLE."
        )
        raise RecipeError(msg)
