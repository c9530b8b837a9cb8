# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What a run will take, before it is started: teacher calls, time, memory, disk, money. Rough, from short samples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retort.students.encoding import image_patches
from retort.students.images import of_images
from retort.students.loading import has_bfloat16
from retort.students.modules.remote import RemoteDocuments
from retort.students.scoring import is_ranker, score_numpy
from retort.students.sparse import encode_vectors
from retort.students.towers import SIDES, Side, max_tokens, route
from retort.trainers.build import BuiltRecipe, build_recipe
from retort.trainers.corpus import corpus_source
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.engine.loop import uses_bf16
from retort.trainers.recipe import Recipe, Stage
from retort.trainers.roles import Ask, CorpusSource, Miner, QuerySource, Teacher, TextRequest, TextTransform, Work
from retort.trainers.runtime.rng import rng_for
from retort.trainers.teachers.calls import CHARACTERS_A_TOKEN

SAMPLE = 32
BACKWARD = 3  # a training step against its forward pass
BASE_MEMORY = 0.9e9  # Python with torch and transformers
QUESTION = 24  # tokens, beside a document in a ranker's pair
ADAM = 4  # weights, gradients, two moments
FLOAT = 4


@dataclass
class Plan:
    """
    What a run will take.

    :param calls:
        By teacher: how many texts or pairs it is asked for, at most.
    :param seconds:
        By what takes them.
    :param memory:
        Bytes at the highest.
    :param disk:
        Bytes of the run folder with its caches.
    :param cost:
        By teacher with a price, in its currency.
    :param assumed:
        Those of `seconds` that go by an assumed time a call: remote teachers are not asked for a sample.
    :param generators:
        By their place in the recipe: what generators of texts are asked for, at most.
    :param searches:
        By remote retriever that mines: how often it searches, at most.
    :param unknown:
        Teachers and generators whose time is not known: they are not asked for a sample, as that could cost.
    """

    calls: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    memory: float = BASE_MEMORY
    disk: float = 0.0
    cost: dict[str, float] = field(default_factory=dict)
    generators: dict[str, dict[str, float]] = field(default_factory=dict)
    searches: dict[str, int] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def together(self) -> str:
        """Say how long all of it takes, as far as it is known."""
        return _duration(sum(self.seconds.values()))

    def lines(self) -> list[str]:
        """Give the plan as lines to print."""
        told = [f"teacher {name}: {calls}" for name, calls in self.calls.items()]
        for place, asked in self.generators.items():
            told.append(f"generator, {place}: up to {asked['calls']:,.0f} calls, {asked['tokens']:,.0f} tokens")
        told += [f"retriever {name}: up to {count:,} searches" for name, count in self.searches.items()]
        for what, seconds in self.seconds.items():
            how = ", as it is not asked for a sample: a usual time a call" if what in self.assumed else ""
            told.append(f"time, {what}: about {_duration(seconds)}{how}")
        left_out = f", without {', '.join(self.unknown)}" if self.unknown else ""
        told.append(f"time, together: about {self.together()}{left_out}")
        told += [f"time, {name}: not known; it is not asked for a sample" for name in self.unknown]
        told.append(f"memory: about {self.memory / 1e9:.1f} GB; disk: about {self.disk / 1e6:.0f} MB")
        told += [f"money, teacher {name}: about {cost:.4f} at its price" for name, cost in self.cost.items()]
        told += [
            f"money, generator, {place}: about {asked['cost']:.4f} at its price"
            for place, asked in self.generators.items()
            if "cost" in asked
        ]
        return told


@dataclass
class _Made:
    """
    Queries of a stage.

    :param count:
        How many there are, all refreshes together; at least 1.
    :param mined:
        How often each is mined for.
    :param own:
        How many of them the stage makes.
    """

    count: int
    mined: int
    own: int = 0


class _Stages:
    """All stages of a run, those of teachers that are trained within it among them, with their queries."""

    def __init__(self, built: BuiltRecipe, data: RetrievalData) -> None:
        self._of = [
            (within, stage, self._queries(within, stage, data))
            for within in (built, *built.trained_in_run.values())
            for stage in within.recipe.stages
        ]

    def __iter__(self) -> Iterator[tuple[BuiltRecipe, Stage, _Made]]:
        return iter(self._of)

    def asking(self, name: str) -> list[tuple[BuiltRecipe, Stage, _Made]]:
        """List those that ask a teacher."""
        return [(within, stage, made) for within, stage, made in self if name in within.teachers_of(stage)]

    @staticmethod
    def _queries(within: BuiltRecipe, stage: Stage, data: RetrievalData) -> _Made:
        openings = _openings(stage)
        source = within.queries.get(stage.name)
        if source is None:
            return _Made(max(1, len(data.queries)), openings)
        documents = data.without_held_out()
        total = source.count(documents, openings)
        once = total if openings == 1 else source.count(documents)
        return _Made(max(1, total), max(1, round(openings * once / max(1, total))), total)


def _openings(stage: Stage) -> int:
    return math.ceil(stage.steps / (stage.refresh or stage.steps))


def plan_run(recipe: Recipe, data: RetrievalData, cache: Path, dev: RetrievalData | None = None) -> Plan:
    """
    Estimate what a run will take; local models are timed on a few texts, remote ones are not called.

    :param recipe:
        The recipe.
    :param data:
        The training data.
    :param cache:
        The cache folder; nothing is written.
    :param dev:
        What the student is measured on; teachers of vectors are, too.
    """
    built = build_recipe(recipe, data, cache, ask=False)
    built.refuse_missing_queries(Path(data.name))
    stages = _Stages(built, data)
    plan = Plan(disk=float(sum(map(len, data.corpus.items))))
    sample = data.corpus.items[:: max(1, len(data.corpus) // SAMPLE)][:SAMPLE]
    for name in sorted({n for one in (built, *built.trained_in_run.values()) for n in one.all_teachers()}):
        _add_teacher(plan, built, stages, name, sample, data, dev)
    _add_generators(plan, built, data, cache)
    _add_searches(plan, stages)
    for name, within in built.trained_in_run.items():
        plan.seconds[f"training teacher {name}"] = _training_seconds(within, sample)
        plan.memory += _weights(within) * ADAM
    per_text = _seconds_a_text(built, sample)
    plan.seconds["training"] = _training_seconds(built, sample)
    plan.seconds["evaluating and indexing"] = 2 * per_text * len(data.corpus)
    weights, vectors = _weights(built), _dim(built) * FLOAT * len(data.corpus)
    plan.memory += weights * ADAM + vectors + 3 * sum(map(len, data.corpus.items))
    plan.memory += max([_activations(p, sample) for p in (built, *built.trained_in_run.values())])
    plan.disk += weights * (ADAM + 1) + 2 * vectors
    return plan


def plan_corpus(recipe: Recipe, cache: Path) -> Plan:
    """
    Estimate what making a recipe's corpus will take, where there is none yet; nobody is called.

    :param recipe:
        The recipe, with `data.corpus`.
    :param cache:
        The cache folder; nothing is written.
    """
    plan = Plan()
    with recipe.located():
        source, teachers = corpus_source(recipe)
    texts, pairs = source.asked_texts()
    for name, teacher in teachers.items():
        work = Work(documents=texts) if teacher.gives == "vectors" else Work(pairs=pairs, lists=texts)
        plan.calls[name] = f"vectors of {texts:,} texts" if work.documents else f"scores of {pairs:,} pairs"
        if teacher.price is not None:
            plan.cost[name] = (texts + 2 * pairs * (not work.documents)) * QUESTION * teacher.price / 1e6
        _add_assumed(plan, f"teacher {name}", teacher.assumed_seconds(work))
    _add_generator(plan, "data.corpus", source, source.estimate(cache))
    return plan


def _add_assumed(plan: Plan, what: str, seconds: float | None) -> None:
    """Note a time that is assumed, or that there is none to assume."""
    if seconds is None:
        plan.unknown.append(what)
    else:
        plan.seconds[what] = seconds
        plan.assumed.append(what)


def _add_generator(plan: Plan, place: str, source: QuerySource | CorpusSource, estimate: dict[str, float]) -> None:
    if not estimate:
        return
    seconds, what = source.assumed_seconds(estimate["calls"]), f"generator, {place}"
    if (before := plan.generators.get(place)) is not None:  # another generator of the same place
        estimate = {name: estimate.get(name, 0.0) + before.get(name, 0.0) for name in {**before, **estimate}}
        plan.seconds[what] = plan.seconds.get(what, 0.0) + (seconds or 0.0)
    else:
        _add_assumed(plan, what, seconds)
    plan.generators[place] = estimate


def _add_generators(plan: Plan, built: BuiltRecipe, data: RetrievalData, cache: Path) -> None:
    """Count what generators are asked: of those with the same prompt the one that is asked most, answers being kept."""
    found: dict[str, tuple[list[str], QuerySource, dict[str, float]]] = {}
    every = {"": built} | {f"teachers.{name}.init_parameters.": one for name, one in built.trained_in_run.items()}
    for where, within in every.items():
        for place, source in within.sources.items():
            stage = within.recipe.stages[int(place.split(".")[1])]
            for part in source.parts():
                estimate = part.estimate(data, cache, _openings(stage))
                if not estimate:
                    continue
                places, most, before = found.get(part.answers_key, ([], part, estimate))
                if estimate["calls"] > before["calls"]:
                    most, before = part, estimate
                found[part.answers_key] = ([*dict.fromkeys([*places, f"{where}{place}"])], most, before)
    for places, source, estimate in found.values():
        _add_generator(plan, ", ".join(places), source, estimate)


def _add_searches(plan: Plan, stages: _Stages) -> None:
    """Count what remote retrievers are asked: a query once."""
    miners: dict[str, tuple[Miner, int]] = {}
    for within, stage, made in stages:
        for name in stage.candidates.sources if stage.candidates is not None else []:
            most = max(made.count, miners[name][1] if name in miners else 0)
            miners[name] = within.miners[name], most
    for name, (miner, count) in miners.items():
        if (seconds := miner.assumed_seconds(count)) is not None:  # it asks a server
            plan.searches[name] = count
            _add_assumed(plan, f"retriever {name}", seconds)


def _add_teacher(
    plan: Plan,
    built: BuiltRecipe,
    stages: _Stages,
    name: str,
    sample: list[str],
    data: RetrievalData,
    dev: RetrievalData | None,
) -> None:
    teacher = built.context.teachers[name]
    question = data.queries.items[0] if len(data.queries) else str(sample[0])[: QUESTION * CHARACTERS_A_TOKEN]
    asks = [Ask("q", question, [str(i) for i in range(len(sample))], sample)]
    asking = stages.asking(name)
    queries, work = _asked_queries(asking, data, dev), _work(asking, name, data)
    proposed = sum(made.own for _, _, made in asking)  # queries that stages make
    texts_made = max((within.batches[stage.name].made for within, stage, _ in asking), default=0)  # the same in all
    cut = sum(made.count for within, stage, made in asking if within.batches[stage.name].cuts_passages)
    extra = texts_made + cut
    texts, pairs = len(data.corpus) + len(queries) + extra + proposed, work.pairs
    if teacher.gives == "vectors":
        plan.calls[name] = f"vectors of {texts:,} texts"
        if teacher.runs == "cached" and teacher.costs == "calls":
            caches = {side: built.context.vector_cache(name, side) for side in SIDES}
            missing = [caches["query"].missing(queries), caches["document"].missing(data.corpus)]
            work = Work(queries=len(missing[0]) + proposed, documents=len(missing[1]) + extra)
            different = sum(len(set(store.first_rows.tolist())) for store in (queries, data.corpus))
            if kept := different + extra + proposed - work.queries - work.documents:
                plan.calls[name] += f", of which {kept:,} are there"
            if teacher.price is not None:
                asked = sum(len(text) for side in missing for text in side.values())
                tokens = (asked + extra * sum(map(len, sample)) / len(sample)) / CHARACTERS_A_TOKEN
                tokens += proposed * QUESTION
                plan.calls[name] += f"; {tokens:,.0f} tokens"
                plan.cost[name] = tokens * teacher.price / 1e6
        plan.disk += texts * _dim(built) * FLOAT
    else:
        plan.calls[name] = f"scores of up to {pairs:,} pairs"
        estimate, share = teacher.estimate(asks), pairs / len(sample)
        if "tokens" in estimate:
            plan.calls[name] += f", {estimate['tokens'] * share:,.0f} tokens"
        if "cost" in estimate:
            plan.cost[name] = estimate["cost"] * share
    if teacher.costs == "calls" or teacher.runs == "in_loop":
        _add_assumed(plan, f"teacher {name}", teacher.assumed_seconds(work))
    elif teacher.costs == "time":
        untrained = built.trained_in_run.get(name)
        with nullcontext() if untrained is None else _as_it_teaches(teacher, untrained):
            if teacher.gives == "vectors":
                documents = len(data.corpus) + extra
                counts = {"query": len(queries) + proposed, "document": documents}
                plan.seconds[f"teacher {name}"] = _encoding_seconds(teacher, untrained, sample, data, counts)
            else:
                plan.seconds[f"teacher {name}"] = _seconds_a_pair(teacher, untrained, asks, data) * pairs


def _asked_queries(
    asking: list[tuple[BuiltRecipe, Stage, _Made]], data: RetrievalData, dev: RetrievalData | None
) -> TextStore:
    """List what a teacher of vectors is asked for as queries: the data's, dev's, and what stages put beside them."""
    own = [text for within, stage, _ in asking for text in within.batches[stage.name].query_texts(data)]
    texts = list(dict.fromkeys([*data.queries.items, *own, *(dev.queries.items if dev is not None else [])]))
    return TextStore(map(str, range(len(texts))), texts)


def _encoding_seconds(
    teacher: Teacher, untrained: BuiltRecipe | None, sample: list[str], data: RetrievalData, counts: dict[str, int]
) -> float:
    """Seconds to encode the corpus and the queries, which are shorter; an untrained teacher is timed by its start."""
    encode = teacher.encode if untrained is None else partial(encode_vectors, untrained.distiller.student)
    queries = data.queries.items[:: max(1, len(data.queries) // SAMPLE)][:SAMPLE] or sample
    a_document = _timed(lambda: encode(sample, "document")) / len(sample)
    a_query = _timed(lambda: encode(queries, "query")) / len(queries)
    return a_document * counts["document"] + a_query * counts["query"]


def _seconds_a_pair(teacher: Teacher, untrained: BuiltRecipe | None, asks: list[Ask], data: RetrievalData) -> float:
    documents = [document for ask in asks for document in ask.documents]
    if untrained is not None:
        return _seconds_a_text(untrained, documents)
    teacher.open(data)
    return _timed(lambda: list(teacher.score(asks))) / len(documents)


def _as_it_teaches(teacher: Any, untrained: BuiltRecipe) -> AbstractContextManager[Any]:
    """In the precision of a teacher that is not trained yet."""
    kind = untrained.distiller.student.device.type
    return torch.autocast(kind, torch.bfloat16, enabled=teacher.precision != "float32" and has_bfloat16(kind))


def _work(asking: list[tuple[BuiltRecipe, Stage, _Made]], name: str, data: RetrievalData) -> Work:
    """Count what a teacher is asked to score, at most: each epoch draws other negatives of a query's."""
    found = Work()
    judged = max(1, max(map(len, data.positives()), default=1))
    for within, stage, made in asking:
        lists = stage.candidates
        if lists is None:
            continue
        drawn, mined = stage.steps * within.recipe.training_of(stage).batch_size, made.mined
        draws = math.ceil(drawn / made.count) if lists.order == "random" else mined
        depths = (within.miners[source].depth or len(data.corpus) for source in lists.sources)
        depth = min(sum(depths), len(data.corpus))
        positives = judged if lists.positives == "all" else min(draws, judged)
        queries = min(made.count, drawn)
        named = [o for o in within.distiller.objectives_of(stage.name) if name in o.teachers]
        selector = within.selectors.get(stage.name)
        if selector is not None and name in selector.teachers:
            asked = selector.asked_pairs(made.count, depth + positives) * mined
            found.pairs += asked
            found.lists += made.count * mined * (asked > 0)
            if asked and not named:
                continue
        if lists.filter is not None and lists.filter.teacher == name:  # it scores all that is mined
            found.pairs += made.count * (depth + positives) * mined
            found.lists += made.count * mined
            if not named:
                continue
        if not named or any(o.scores_documents for o in named):
            pool = lists.pool if lists.pool is not None and lists.pool.asks == name else None
            negatives = lists.negatives if pool is None else pool.size
            found.pairs += queries * (min(depth * mined, draws * negatives) + positives)
        if stage.name in within.texts and any(o.takes_derived for o in named):
            each = _derived_a_list(within.texts[stage.name], data, lists.negatives)
            found.pairs += math.ceil(drawn / made.count) * queries * each
        found.lists += queries * mined
    return found


def _derived_a_list(text: TextTransform, data: RetrievalData, negatives: int) -> int:
    """Count the candidates that are derived of a list, on average over some of a positive and any documents."""
    positives, counts = data.positives(), [0]
    for query in [q for q, own in enumerate(positives) if len(own)][:SAMPLE]:
        rng = rng_for("plan", query)
        rows = np.concatenate([positives[query][:1], rng.integers(len(data.corpus), size=negatives)])
        request = TextRequest(data, query, rows, np.arange(len(rows)) == 0, 0, 1, 0, rng)
        counts.append(len(text.derived(request)))
    return math.ceil(sum(counts) / max(1, len(counts) - 1))


def _training_seconds(built: BuiltRecipe, sample: list[str]) -> float:
    training, device = built.recipe.training, built.distiller.student.device
    with torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(training.precision, device)):
        per_text = _seconds_a_text(built, sample)
    return sum(stage.steps * _texts_a_step(built, stage) * per_text * BACKWARD for stage in built.recipe.stages)


def _texts_a_step(built: BuiltRecipe, stage: Stage) -> float:
    negatives = stage.candidates.negatives if stage.candidates is not None else 0
    each = 1.3 + negatives if stage.takes_queries else 1.0  # a query is a third of a document
    return each * built.recipe.training_of(stage).batch_size


def _seconds_a_text(built: BuiltRecipe, sample: list[str]) -> float:
    model = built.distiller.student
    if is_ranker(model):
        return _timed(lambda: score_numpy(model, [("a question of some words", text) for text in sample])) / len(sample)
    side: Side = "query" if isinstance(route(model, "document")[0], RemoteDocuments) else "document"
    return _timed(lambda: encode_vectors(model, sample, side)) / len(sample)


def _timed(run: Callable[[], Any]) -> float:
    """Time a second run: the first one loads."""
    run()
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _activations(built: BuiltRecipe, sample: list[str]) -> float:
    """Bytes of a step's activations, in float32: 68 a token and hidden unit, 10 a token, head and token beside it."""
    from transformers import PreTrainedModel

    model = built.distiller.student
    part = model if is_ranker(model) else torch.nn.ModuleList(route(model, "document"))
    network = next((m for m in part.modules() if isinstance(m, PreTrainedModel)), None)
    if network is None:  # a table
        return 0.0
    config: Any = network.config
    if hasattr(config, "vision_config"):
        config = config.vision_config if of_images(sample) else config.get_text_config()
    length = _length(model, config, sample)
    at_once = []  # texts whose activations are held together
    for stage in built.recipe.stages:
        training = built.recipe.training_of(stage)
        at_once.append(1.0 if training.cache_gradients else _texts_a_step(built, stage) / training.accumulation)
    each = 68 * config.hidden_size + 10 * config.num_attention_heads * length
    return max(at_once) * length * each * config.num_hidden_layers


def _length(model: Any, config: Any, sample: list[str]) -> int:
    """Tokens of the longest document, with a question where a ranker reads it; patches of an image."""
    if of_images(sample):
        return image_patches(model[0] if is_ranker(model) else route(model, "document")[0]) + QUESTION * is_ranker(
            model
        )
    limit = model.max_seq_length if is_ranker(model) else max_tokens(model, "document")
    ids = (model.tokenizer(text, verbose=False)["input_ids"] for text in sample)  # some are longer than it reads
    longest = max(map(len, ids)) + QUESTION * is_ranker(model)
    return int(min(limit or config.max_position_embeddings, longest))


def _weights(built: BuiltRecipe) -> float:
    return float(sum(p.numel() for p in built.distiller.student.parameters()) * FLOAT)


def _dim(built: BuiltRecipe) -> int:
    model: Any = built.distiller.student
    return 0 if is_ranker(model) else int(model.get_embedding_dimension() or 0)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} h"  # noqa: PLR2004
