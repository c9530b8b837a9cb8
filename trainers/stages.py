# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Opening a stage: its candidates are mined, its queries selected, what it trains on is scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from retort.students.files import reading, replace_file
from retort.trainers.build import BuiltRecipe, refuse_ranks, refuse_without_positives
from retort.trainers.candidates.filters import filter_negatives
from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.candidates.mining import build_lists
from retort.trainers.context import TrainingContext
from retort.trainers.data.texts import TextStore
from retort.trainers.engine.loop import OpenedStage, States
from retort.trainers.recipe import Stage
from retort.trainers.roles import QuerySource, Selector, StageInputs
from retort.trainers.runtime.distributed import ProcessGroup
from retort.trainers.runtime.errors import RecipeError


@dataclass(frozen=True)
class StageOpener:
    """
    Opens the stages of a run: the loop calls it when it comes to one, and at each refresh.

    :param built:
        The recipe and all that it names.
    :param out:
        As `open_stage` takes it.
    :param processes:
        The first rank mines, and asks remote teachers; the work of local ones and of the student is shared. The others
        then find everything in the cache.
    :param train_teacher:
        Trains the teacher of a name, if it is trained within the run and is not yet.
    """

    built: BuiltRecipe
    out: Path
    processes: ProcessGroup
    train_teacher: Callable[[str], None]

    def __call__(self, stage: Stage, number: int) -> OpenedStage:
        """Open a stage that was refreshed `number` times before."""
        for name in self.built.teachers_of(stage):
            self.train_teacher(name)
        self.built.context.processes = self.processes
        with self.processes.main_first(self.built.context.work):
            return open_stage(self.built, stage, self.out, number=number)


def open_stage(built: BuiltRecipe, stage: Stage, out: Path, *, number: int = 0) -> OpenedStage:
    """
    Make a stage's queries and candidate lists and have them scored, or read those it began with; give its batches.

    :param built:
        The recipe and all that it names; the teachers that the stage asks are trained.
    :param stage:
        One of its stages.
    :param out:
        Folder whose `queries/`, `selected/` and `candidates/` hold what is made, that of each refresh.
    :param number:
        How often the stage was refreshed before.
    :raises RecipeError:
        If a teacher gives an order where its scores are needed, an objective needs positives where there are none, or
        the stage's query source makes no query.
    """
    recipe, objectives = built.recipe, built.distiller.objectives_of(stage.name)
    place = next(i for i, other in enumerate(recipe.stages) if other.name == stage.name)
    asked = {name for o in objectives for name in o.teachers}
    teachers = built.context.teachers
    names = sorted(name for name in asked if teachers[name].runs != "in_loop")
    scorers = [name for name in names if teachers[name].gives != "vectors"]
    context, first = built.context, number * (stage.refresh or 0)
    context.progress = first / stage.steps
    if stage.name in built.queries:
        path = out / "queries" / _file(stage, number, "jsonl")
        context = _with_queries(context, built.queries[stage.name], path, number, f"stages.{place}.queries")
    window = range(first, min(first + (stage.refresh or stage.steps), stage.steps))
    source = built.batches[stage.name]
    figures: dict[str, int] = {}
    if stage.name in built.selectors and not source.needs_lists:  # of lists it chooses once they are mined
        path = out / "selected" / _file(stage, number, "json")
        enough = len(window) * recipe.training_of(stage).batch_size
        context, figures = _selected(context, built.selectors[stage.name], path, enough)
    inputs = StageInputs(
        context=context,
        batch_size=recipe.training_of(stage).batch_size,
        steps=stage.steps,
        window=window,
        seed=f"{recipe.training.seed} {place}",
        candidates=stage.candidates,
        text=built.texts.get(stage.name),
        student=built.distiller.student,
    )
    if stage.candidates is not None and source.needs_lists:
        path = out / "candidates" / _file(stage, number, "parquet")
        if not path.is_file():
            documents = {name for o in objectives if o.scores_documents for name in o.teachers}
            _make_lists(built, stage, inputs, [n for n in scorers if n in documents]).save(path, context.data)
        # Read back even when new: a resumed run sees the same.
        inputs.lists = CandidateLists.load(path, context.data)
        if stage.name in built.selectors:
            figures = {"queries": len(context.data.queries), "kept": len(inputs.lists)}
    seen = {name for o in objectives if o.takes_derived for name in o.teachers}
    inputs.score_teachers = [name for name in scorers if name in seen]
    inputs.vector_teachers = [name for name in names if name not in scorers]
    inputs.derived_vector_teachers = [name for name in inputs.vector_teachers if name in seen]
    source.open(inputs)
    refuse_without_positives(stage, objectives, source.size, source.queries_with_positive)

    def fix_state(former: States) -> States:
        states = {}
        if not number:
            built.distiller.enter(stage.name)  # what does not learn is left alone
            for objective in objectives:
                objective.warm_start(built.distiller.student, context)
        for i, objective in enumerate(objectives):
            name = f"{stage.name}.{i}"
            if name in former:
                states[name] = objective.renew(former[name], context, inputs.lists)
            else:
                states[name] = objective.open(context, inputs.lists)
        return {name: state for name, state in states.items() if state}

    return OpenedStage(source, fix_state, figures)


def _file(stage: Stage, number: int, suffix: str) -> str:
    return f"{stage.name}.{number}.{suffix}" if number else f"{stage.name}.{suffix}"


def _make_lists(built: BuiltRecipe, stage: Stage, inputs: StageInputs, scorers: list[str]) -> CandidateLists:
    """Mine candidates, select queries, and have what is used scored."""
    context, section, source = inputs.context, stage.candidates, built.batches[stage.name]
    assert section is not None  # noqa: S101 - for the type checker
    miners = {name: built.miners[name] for name in section.sources}
    skip, end = section.range or (section.skip, None)
    lists = build_lists(context, miners, skip=skip, end=end)
    if section.filter is not None:
        lists = filter_negatives(context, lists, **asdict(section.filter))
    lists = lists.only(np.diff(lists.offsets) > 0)  # as `CandidateLists.load`: what is scored is trained on
    if stage.name in built.selectors:
        selector = built.selectors[stage.name]
        selector.open(lists)
        lists = lists.only(selector.keep(context, len(inputs.window) * inputs.batch_size))
    if section.pool is not None and section.pool.asks and len(lists):
        inputs.lists = lists
        source.open(inputs)
        pooled = _asked_for(source.pooled(inputs.window), lists)
        scores = np.full(len(lists.rows), np.nan, dtype=np.float32)
        scores[pooled] = context.scores(section.pool.asks, lists.owners[pooled], lists.rows[pooled])
        lists = replace(lists, pool_scores=scores)
    if scorers and len(lists):
        inputs.lists = lists
        source.open(inputs)
        used = _asked_for(source.used(inputs.window), lists)
        for name in scorers:
            lists.scores[name] = np.full(len(lists.rows), np.nan, dtype=np.float32)
            lists.scores[name][used] = context.scores(name, lists.owners[used], lists.rows[used])
            refuse_ranks(stage, name, context.kinds[name], built.distiller.objectives_of(stage.name))
    return lists


def _asked_for(entries: np.ndarray | None, lists: CandidateLists) -> np.ndarray:
    """`[m]` bool: the entries that a teacher is to score; all, where a batch source does not say which."""
    return np.ones(len(lists.rows), dtype=bool) if entries is None else entries


def _selected(
    context: TrainingContext, selector: Selector, path: Path, enough: int
) -> tuple[TrainingContext, dict[str, int]]:
    """Leave the queries that a selector keeps; once chosen, they stay."""
    queries = context.data.queries
    if not path.is_file():
        kept = [queries.ids[row] for row in np.flatnonzero(selector.keep(context, enough))]
        with replace_file(path) as aside:
            aside.write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")
    with reading(path, "Delete it: the queries are selected again."):
        rows = [queries.rows[i] for i in json.loads(path.read_text(encoding="utf-8"))]
    return context.over(context.data.subset(rows)), {"queries": len(queries), "kept": len(rows)}


def _with_queries(
    context: TrainingContext, source: QuerySource, path: Path, number: int, place: str
) -> TrainingContext:
    """
    Put a stage's own queries in the place of the data's.

    Each has the document that it was made of as positive, and what the data judge relevant for the same question. None
    is made of what is held out for dev.
    """
    corpus = context.data.corpus
    if not path.is_file():
        data = context.data.without_held_out()  # nobody asks about the others, nor takes words of theirs
        source.open(context, number)
        lines = [
            json.dumps({"document_id": i, "text": text}, ensure_ascii=False)
            for i, own in zip(data.corpus.ids, source.of(data), strict=True)
            for text in own
        ]
        if not lines:
            msg = f"{place}: {type(source).__name__} made no query of any document."
            raise RecipeError(msg)
        with replace_file(path) as aside:
            aside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    qrels: dict[str, dict[str, int]] = {}
    texts: dict[str, str] = {}  # equal queries are one, with all their documents
    with reading(path, "Delete it: the queries are made again."), path.open(encoding="utf-8") as file:
        for entry in map(json.loads, file):  # `str.splitlines` would cut texts at Unicode's line breaks
            name = texts.setdefault(entry["text"], f"{path.stem}-{len(texts)}")
            qrels.setdefault(name, {})[entry["document_id"]] = 1
        if not texts:
            msg = "no query"
            raise ValueError(msg)
    queries = TextStore(texts.values(), texts)
    asked = zip(context.data.queries.item_ids, context.data.positives(), strict=True)
    known = {item.tobytes(): [corpus.ids[row] for row in rows] for item, rows in asked}
    for name, item in zip(queries.ids, queries.item_ids, strict=True):
        qrels[name] |= dict.fromkeys(known.get(item.tobytes(), ()), 1)
    return context.over(replace(context.data, queries=queries, qrels=qrels, given={}))
