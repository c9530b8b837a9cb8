# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What stands behind a recipe's names: teachers, miners, selectors, and the distiller with student and objectives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from retort.students.encoding import encode_parts
from retort.students.hashing import fingerprint_of
from retort.students.images import ImageFile
from retort.students.late_interaction import is_late_interaction
from retort.students.layers import check_states, evaluating, layers_of, set_dropout
from retort.students.modules.heads import HeadsOfOneBody
from retort.students.modules.remote import RemoteDocuments
from retort.students.pieces import check_pieces
from retort.students.scoring import is_ranker, score_parts
from retort.students.sparse import is_sparse
from retort.students.towers import PROMPT_NAMES, SIDES, compares_cosines, max_tokens, prompt_for, route
from retort.students.views import room_of
from retort.trainers.batches.sampling import refuse_derived
from retort.trainers.context import TrainingContext
from retort.trainers.data.pseudo_queries import Joined
from retort.trainers.data.texts import RetrievalData
from retort.trainers.distiller import Distiller
from retort.trainers.encoder_output import COSINE_SCALE
from retort.trainers.objectives import TeacherObjective
from retort.trainers.recipe import Component, Recipe, Stage, component
from retort.trainers.recipe.create import in_one_line
from retort.trainers.roles import (
    BatchSource,
    Gives,
    Miner,
    ModelInfo,
    Objective,
    QuerySource,
    Selector,
    Teacher,
    TextTransform,
)
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.views import DocumentViews

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

StageRole = Literal["selector", "batches", "queries", "temperature", "weighting"]


@dataclass
class BuiltRecipe:
    """
    A recipe with all that it names.

    :param recipe:
        The recipe.
    :param context:
        Data and models; its student is the run's, whatever this recipe trains.
    :param miners:
        By name.
    :param selectors:
        By stage, where it has one.
    :param queries:
        By stage where its queries come from, where they are not the data's.
    :param batches:
        By stage where its batches come from.
    :param sources:
        By their place in the recipe all sources of queries, those of batches and texts among them.
    :param texts:
        By stage what makes the texts of its lists, where it is not the documents alone.
    :param distiller:
        What learns.
    :param trunk:
        Fingerprint of the model that it starts from.
    :param trained_in_run:
        Of teachers that are trained within the run: their built recipes, until they are.
    :param in_training:
        The bi-encoder among these that this recipe trains: it is asked as it is, and need not be trained before.
    """

    recipe: Recipe
    context: TrainingContext
    miners: dict[str, Miner]
    selectors: dict[str, Selector]
    queries: dict[str, QuerySource]
    sources: dict[str, QuerySource]
    batches: dict[str, BatchSource]
    texts: dict[str, TextTransform]
    distiller: Distiller
    trunk: str
    trained_in_run: dict[str, BuiltRecipe] = field(default_factory=dict)
    in_training: str = ""

    def views(self) -> DocumentViews | None:
        """Texts that stand for each document in search, where the student sees more than the document."""
        data, transform = self.context.data, next(reversed(self.texts.values()), None)
        views = None if transform is None else transform.document_views(data)
        if transform is None or views is None:
            return None
        if is_sparse(self.distiller.student):
            msg = (
                "candidates.text: a sparse student cannot be served with questions beside documents; take a dense one."
            )
            raise RecipeError(msg)
        return DocumentViews(dict(zip(data.corpus.ids, views, strict=True)), transform.view_rule)

    def refuse_missing_queries(self, folder: Path) -> None:
        """
        Refuse a corpus alone where a stage draws from queries.

        :param folder:
            The data, for the message.
        :raises RecipeError:
            If a stage does, and makes none of its own.
        """
        if len(self.context.data.queries):
            return
        for i, stage in enumerate(self.recipe.stages):
            if not self.batches[stage.name].documents_alone and stage.name not in self.queries:
                msg = (
                    f"stages.{i}: {stage.batches.type} draws from queries, and {folder} is a corpus alone. Add "
                    f"queries.jsonl and qrels/train.tsv, or make queries: `retort distill`, or stages.{i}.queries."
                )
                with self.recipe.located():
                    raise RecipeError(msg)

    def all_teachers(self) -> list[str]:
        """List the teachers that any stage needs, those of teachers trained within the run not counted."""
        return sorted({name for stage in self.recipe.stages for name in self.teachers_of(stage)})

    def teachers_of(self, stage: Stage) -> list[str]:
        """List the teachers that a stage needs: for its objectives, candidates, queries and batches."""
        names = {name for o in self.distiller.objectives_of(stage.name) for name in o.teachers}
        if stage.candidates is not None and stage.candidates.filter is not None:
            names.add(stage.candidates.filter.teacher)
        if stage.candidates is not None and stage.candidates.pool is not None and stage.candidates.pool.asks:
            names.add(stage.candidates.pool.asks)
        roles: list[Any] = [self.miners[source] for source in (stage.candidates.sources if stage.candidates else [])]
        roles += [own[stage.name] for own in (self.selectors, self.queries, self.batches) if stage.name in own]
        return sorted(names.union(*(role.teachers for role in roles)) - {self.in_training})


def build_recipe(recipe: Recipe, data: RetrievalData, cache: Path, *, ask: bool = True) -> BuiltRecipe:
    """
    Create everything that a recipe names; whatever is wrong with it shows here, before the first step.

    :param recipe:
        The recipe.
    :param data:
        The training data.
    :param cache:
        The cache folder.
    :param ask:
        Remote teachers may be asked for the dimension of their vectors, where the cache does not tell it; else it is
        taken to be the student's.
    :raises RecipeError:
        If a piece cannot be created, or does not fit the others.
    """
    with recipe.located():
        return _build(recipe, data, cache, ask=ask)


def _build(recipe: Recipe, data: RetrievalData, cache: Path, *, ask: bool) -> BuiltRecipe:
    words = [item for item in data.corpus.items if not isinstance(item, ImageFile)]  # what makers may count
    extra = {"seed": recipe.training.seed, "corpus": words}
    _check_prompts(recipe)
    student = recipe.create(recipe.student, "student", "student", **extra)
    teachers: dict[str, Any] = {
        name: recipe.create(spec, "teacher", f"teachers.{name}") for name, spec in recipe.teachers.items()
    }
    for name, teacher in teachers.items():
        if teacher.runs == "in_loop":
            where = f"teachers.{name}.student"
            spec = component(teacher.student_spec, where)
            teacher.load(recipe.create(spec, "student", where, seed=recipe.training.seed))
        if getattr(teacher, "gives", None) not in get_args(Gives):
            msg = f"teachers.{name}: {recipe.teachers[name].type} must say what it gives: {', '.join(get_args(Gives))}."
            raise RecipeError(msg)
    _check_room(student)
    context = TrainingContext(data, teachers, cache, student)
    context.student_scale = _scale(recipe, student)
    if not is_ranker(student) and isinstance(remote := route(student, "document")[0], RemoteDocuments):
        _bind_documents(remote, student, context, ask=ask)
    miners = {name: recipe.create(spec, "miner", f"candidates.{name}") for name, spec in recipe.candidates.items()}
    for name, miner in miners.items():
        _check_names(f"candidates.{name}", miner.teachers, teachers)
        if not any(teachers[teacher].runs == "trained_in_run" for teacher in miner.teachers):
            _checked(f"candidates.{name}", miner.key, context)
    trained_in_run: dict[str, BuiltRecipe] = {}
    for name, teacher in teachers.items():
        if teacher.runs == "trained_in_run":
            within = teacher.recipe(recipe, name)
            model = within.create(within.student, "student", f"teachers.{name}.student", seed=within.training.seed)
            _checked(f"teachers.{name}", teacher.look_at, model)
            own = name if teacher.gives == "vectors" else ""
            trained_in_run[name] = _built(within, model, context, miners, trained_in_run, ask=ask, in_training=own)
    _check_order(trained_in_run)
    return _built(recipe, student, context, miners, trained_in_run, ask=ask)


def _built(
    recipe: Recipe,
    student: Any,
    context: TrainingContext,
    miners: dict[str, Miner],
    trained_in_run: dict[str, BuiltRecipe],
    *,
    ask: bool,
    in_training: str = "",
) -> BuiltRecipe:
    selectors, batches = _by_stage(recipe, "selector"), _by_stage(recipe, "batches")
    queries = _by_stage(recipe, "queries")
    texts: dict[str, TextTransform] = {}
    sources: dict[str, QuerySource] = {}  # by place
    for i, stage in enumerate(recipe.stages):
        if stage.name in queries:
            sources[f"stages.{i}.queries"] = queries[stage.name]
        specs, where = batches[stage.name].source_specs, f"stages.{i}.batches.init_parameters"
        own = {name: _query_source(recipe, spec, f"{where}.{name}") for name, spec in specs.items()}
        bound = {name: source for name, source in own.items() if source is not None}
        batches[stage.name].bind(bound)
        sources |= {f"{where}.{name}": source for name, source in bound.items()}
        if stage.name in selectors:
            where, selector = f"stages.{i}.selector", selectors[stage.name]
            _check_names(where, selector.teachers, context.teachers)
            _checked(where, selector.check, context)
            if selector.needs_lists and not batches[stage.name].needs_lists:
                msg = f"{where}: it goes by candidate lists, and {stage.batches.type} takes none."
                raise RecipeError(msg)
        if stage.candidates is None and batches[stage.name].needs_lists:
            msg = f"stages.{i}.candidates: needed by {stage.batches.type}."
            raise RecipeError(msg)
        if stage.candidates is not None and stage.candidates.filter is not None:
            _check_filter(f"stages.{i}.candidates.filter", stage.candidates.filter.teacher, context.teachers)
        if stage.candidates is not None and stage.candidates.pool is not None:
            _check_names(f"stages.{i}.candidates.pool", (stage.candidates.pool.teacher,), context.teachers)
        if stage.candidates is not None and stage.candidates.text is not None:
            where, negatives = f"stages.{i}.candidates.text", stage.candidates.negatives
            transform, source = _text_transform(recipe, stage.candidates.text, where, student, negatives, context)
            texts[stage.name] = transform
            if source is not None:
                sources[f"{where}.init_parameters.queries"] = source
        if stage.queries is not None:
            _check_sources(f"stages.{i}.queries", stage, miners, context)
    distiller = _build_distiller(recipe, student, context, batches, ask=ask)
    for i, stage in enumerate(recipe.stages):
        objectives = distiller.objectives_of(stage.name)
        if stage.name in texts and texts[stage.name].derives:
            _check_derived(f"stages.{i}", objectives, context)
        if stage.name not in queries and batches[stage.name].needs_lists and not batches[stage.name].brings_lists:
            labelled = sum(map(bool, map(len, context.data.positives())))
            refuse_without_positives(stage, objectives, len(context.data.queries), labelled)
    return BuiltRecipe(
        recipe=recipe,
        context=context,
        miners=miners,
        selectors=selectors,
        queries=queries,
        sources=sources,
        batches=batches,
        texts=texts,
        distiller=distiller,
        trunk=fingerprint_of(student),
        trained_in_run=trained_in_run,
        in_training=in_training,
    )


def _bind_documents(remote: RemoteDocuments, student: Any, context: TrainingContext, *, ask: bool) -> None:
    """Take the student's documents from the teacher that `remote_documents` names."""
    where, name = "student.init_parameters.document", str(remote.teacher)
    _check_names(where, (name,), context.teachers)
    teacher = context.teachers[name]
    source = teacher.embeds_documents_as(remote.dim)
    if source is None:
        msg = f"{where}: teacher {name!r} is no EmbedderTeacher. Take its model as the tower: `pretrained`, frozen."
        raise RecipeError(msg)
    if student.similarity_fn_name != teacher.similarity:
        msg = f"{where}: teacher {name!r} compares by {teacher.similarity}: set similarity: {teacher.similarity}."
        raise RecipeError(msg)
    if (dim := context.dim(name, ask=ask) or remote.dim) != remote.dim:
        msg = f"{where}: teacher {name!r} gives vectors of {dim} dimensions: set dim: {dim}, for the query tower too."
        raise RecipeError(msg)
    remote.source, remote.encode = source, context.document_encoder(name)


def _check_prompts(recipe: Recipe) -> None:
    """Refuse prompts that no side has, and what is no text."""
    options, where = recipe.student.init_parameters, "student.init_parameters.prompts"
    prompts, known = options.get("prompts") or {}, (*PROMPT_NAMES, options.get("default_prompt_name"))
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        msg = f"{where}: must be a mapping of sides to texts; it is {prompts!r}."
        raise RecipeError(msg)
    if odd := [name for name in prompts if name not in known]:
        msg = f"{where}: there is no side {odd[0]!r}; there are: {', '.join(PROMPT_NAMES)}."
        raise RecipeError(msg)


def _check_room(student: Any) -> None:
    """Refuse prompts that leave no room for a text: all vectors would be alike."""
    for side in () if is_ranker(student) else SIDES:
        prompt, most = prompt_for(student, side), max_tokens(student, side)
        room = room_of(student.tokenizer, most, prompt) if prompt else None
        if room is not None and room < 1:
            msg = f"student: the prompt of its {side} side leaves no room for a text in {most} tokens: {prompt[:60]!r}."
            raise RecipeError(msg)


def _by_stage(recipe: Recipe, role: StageRole) -> dict[str, Any]:
    """Create what fills a role, by the names of the stages that have it."""
    return {
        stage.name: recipe.create(spec, role, f"stages.{i}.{role}", teacher=stage.teacher)
        for i, stage in enumerate(recipe.stages)
        if (spec := getattr(stage, role)) is not None
    }


def refuse_unknown_parts(recipe: Recipe) -> None:
    """
    Create the parts of all stages that need no data, and forget them.

    :raises RecipeError:
        If one cannot be created.
    """
    for role in get_args(StageRole):
        _by_stage(recipe, role)
    for i, stage in enumerate(recipe.stages):
        for j, spec in enumerate(stage.objectives):
            recipe.create(spec, "objective", f"stages.{i}.objectives.{j}", teacher=stage.teacher)


def _text_transform(
    recipe: Recipe, spec: Component, where: str, student: Any, negatives: int, context: TrainingContext
) -> tuple[TextTransform, QuerySource | None]:
    """Create a transform, and where it gets questions from."""
    if is_ranker(student):
        msg = f"{where}: a ranker reads queries with documents already."
        raise RecipeError(msg)
    transform: TextTransform = recipe.create(spec, "text", where)
    if transform.derives_pieces:
        _checked(where, check_pieces, student)
    source = _query_source(recipe, transform.source_spec, f"{where}.init_parameters.queries")
    if source is not None:
        source.open(context, 0)
    tokenizer = student.tokenizer
    room = room_of(tokenizer, max_tokens(student, "document"), prompt_for(student, "document"))
    _checked(where, transform.bind, source, tokenizer, negatives, room)
    return transform, source


def _query_source(recipe: Recipe, spec: Any, where: str) -> QuerySource | None:
    """Create a source of queries, or several as one."""
    if isinstance(spec, list):
        sources = (_query_source(recipe, own, f"{where}.{i}") for i, own in enumerate(spec))
        return Joined([source for source in sources if source is not None])
    return None if spec is None else recipe.create(component(spec, where), "queries", where)


def _check_sources(where: str, stage: Stage, miners: dict[str, Miner], context: TrainingContext) -> None:
    """Refuse miners that look up what only the data's own queries have."""
    data = context.data
    without = context.over(replace(data, qrels={}, given={}))
    for name in stage.candidates.sources if stage.candidates else []:
        if not any(context.teachers[asked].runs == "trained_in_run" for asked in miners[name].teachers):
            _checked(where, miners[name].key, without)


def _check_order(trained_in_run: dict[str, BuiltRecipe]) -> None:
    """Refuse teachers of which each must be trained before the other."""
    needs = {
        name: {n for s in p.recipe.stages for n in p.teachers_of(s) if n in trained_in_run}
        for name, p in trained_in_run.items()
    }
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        names = " and ".join(f"teachers.{name}" for name in sorted(set(error.args[1])))
        msg = f"{names} need each other: neither can be trained first."
        raise RecipeError(msg) from error


def _check_filter(where: str, teacher: str, teachers: dict[str, Teacher]) -> None:
    _check_names(where, (teacher,), teachers)
    if teachers[teacher].gives == "ranks":
        msg = f"{where}: teacher {teacher!r} gives an order without scores; margins need scores."
        raise RecipeError(msg)


def _check_names(where: str, names: tuple[str, ...], teachers: dict[str, Teacher]) -> None:
    for name in names:
        if name not in teachers:
            msg = f"{where}: there is no teacher {name!r}; there are: {', '.join(teachers) or 'none'}, and student."
            raise RecipeError(msg)
        if teachers[name].runs == "in_loop":
            msg = f"{where}: teacher {name!r} is asked at every step, and cannot be in advance; name another one."
            raise RecipeError(msg)


def _build_distiller(
    recipe: Recipe,
    student: SentenceTransformer | CrossEncoder,
    context: TrainingContext,
    batches: dict[str, BatchSource],
    *,
    ask: bool,
) -> Distiller:
    """Create the objectives of all stages and the distiller around them."""
    teachers = context.teachers
    ranker = is_ranker(student)
    dimension = 0 if is_ranker(student) else int(student.get_embedding_dimension() or 0)
    objectives: dict[str, list[tuple[Objective, float]]] = {}
    for i, stage in enumerate(recipe.stages):
        objectives[stage.name] = []
        source = batches[stage.name]
        has_lists = source.needs_lists or source.brings_lists
        if stage.weighting and not has_lists:
            msg = f"stages.{i}.weighting: it goes by scores of candidate lists; {stage.batches.type} gives mere texts."
            raise RecipeError(msg)
        for j, spec in enumerate(stage.objectives):
            where = f"stages.{i}.objectives.{j}"
            objective: Objective = recipe.create(spec, "objective", where, teacher=stage.teacher)
            if objective.needs_lists and not has_lists:
                msg = f"{where}: {spec.type} needs candidate lists; {stage.batches.type} gives batches of mere texts."
                raise RecipeError(msg)
            if objective.needs_vectors and ranker:
                msg = f"{where}: {spec.type} compares vectors, and the student is a ranker, which has none."
                raise RecipeError(msg)
            if objective.views:
                _checked(f"{where} ({spec.type})", _look_at_views, student, objective.views)
            for name in objective.each_teacher:
                _check_objective(where, spec.type, objective, student, name, teachers[name])
            if objective.needs_anchor and spec.weight and stage.anchor is None:
                msg = f"{where}: {spec.type} compares with a frozen copy of the student; set stages.{i}.anchor: start."
                raise RecipeError(msg)
            objectives[stage.name].append((objective, spec.weight))
        _check_turns(f"stages.{i}", stage, [o for o, _ in objectives[stage.name]])
        for name in {name for o, _ in objectives[stage.name] for name in o.teachers}:
            if teachers[name].runs == "cached":
                refuse_ranks(stage, name, context.known_kind(name), [o for o, _ in objectives[stage.name]])
    used = sorted({name for pairs in objectives.values() for o, _ in pairs for name in o.teachers})
    for name in used:
        _checked(f"teachers.{name}", teachers[name].check, context.data)
        if teachers[name].runs != "trained_in_run":  # it has no weights yet
            _checked(f"teachers.{name}", getattr, teachers[name], "key")
    live: dict[str, Any] = {n: teachers[n] for n in used if teachers[n].runs == "in_loop"}
    vectors = {n: teachers[n] for n in used if teachers[n].gives == "vectors"}
    if "bm25" in vectors:
        msg = "teachers.bm25: figures of that name are BM25's; give the teacher another name."
        raise RecipeError(msg)
    for name, t in vectors.items():
        if t.similarity not in {"cosine", "dot"}:
            msg = f"teachers.{name}: its similarity is {t.similarity!r}; a student learns from cosine or dot alone."
            raise RecipeError(msg)
    deep = any(o.needs_layers for pairs in objectives.values() for o, _ in pairs)
    info = ModelInfo(
        student_dim=dimension,
        teacher_dims={
            name: t.dim if t.runs == "in_loop" else context.dim(name, ask=ask) or dimension
            for name, t in vectors.items()
        },
        teacher_similarities={name: t.similarity for name, t in vectors.items()},
        teacher_scales={name: t.scale for name, t in live.items()},
        student_layers=_checked("student", _depth, student) if deep else 0,
        teacher_layers={n: _checked(f"teachers.{n}", _depth, t.model) for n, t in live.items()} if deep else {},
        student=student,
    )
    if is_late_interaction(student):
        msg = "student: a model with a vector a token can teach (LiveTeacher); it cannot be trained as a student yet."
        raise RecipeError(msg)
    if not ranker and student.similarity_fn_name not in {"cosine", "dot"}:
        msg = f"student: its similarity is {student.similarity_fn_name!r}; set similarity_fn_name to cosine or dot."
        raise RecipeError(msg)
    for i, stage in enumerate(recipe.stages):
        if stage.weighting and not any(len(o.each_teacher) > 1 for o, _ in objectives[stage.name]):
            msg = f"stages.{i}.weighting: no objective of the stage names several teachers; give `teacher` a list."
            raise RecipeError(msg)
    if recipe.training.dropout is not None:
        for model in (student, *(t.model for t in live.values())):
            set_dropout(model, recipe.training.dropout)
    try:
        return Distiller(
            student,
            objectives,
            info,
            scale=_scale(recipe, student),
            temperatures=_by_stage(recipe, "temperature"),
            weightings=_by_stage(recipe, "weighting"),
            live=live,
            tokens_per_chunk=recipe.training.tokens_per_chunk,
            cache_gradients=recipe.training.cache_gradients,
            dims=_dims(recipe.training.dims, 0 if is_sparse(student) else dimension),
        )
    except ValueError as error:
        msg = f"objectives: {error}"
        raise RecipeError(msg) from error


def _scale(recipe: Recipe, student: SentenceTransformer | CrossEncoder) -> float:
    """Return the factor on a student's scores."""
    cosines = not is_ranker(student) and compares_cosines(student)
    return recipe.training.scale or (COSINE_SCALE if cosines else 1.0)


def _check_objective(where: str, kind: str, objective: Objective, student: Any, name: str, teacher: Teacher) -> None:
    """Refuse what could only fail once the stage begins."""
    live: Any = teacher if teacher.runs == "in_loop" else None
    if len(objective.each_teacher) > 1 and not isinstance(objective, TeacherObjective):
        msg = f"{where}: {kind} takes one teacher; give each of {', '.join(objective.each_teacher)} an objective."
        raise RecipeError(msg)
    if objective.needs_live_teacher and live is None:
        msg = f"{where}: {kind} needs its teacher in the loop; make {name!r} a LiveTeacher."
        raise RecipeError(msg)
    if objective.needs_teacher_vectors and teacher.gives != "vectors":
        msg = f"{where}: {kind} needs vectors, and teacher {name!r} scores lists."
        raise RecipeError(msg)
    in_batch = objective.needs_live_teacher and vars(objective).get("scope") == "in_batch"
    if in_batch and (is_ranker(student) or (live is not None and is_ranker(live.model))):
        msg = f"{where}: scope: in_batch compares vectors, and a ranker scores lists only; set scope: list."
        raise RecipeError(msg)
    if live is not None and objective.lr is not None and objective.turn is None:
        msg = f"{where}: lr is the teacher's in its turn; without `turn` set it at the teacher, beside `train: true`."
        raise RecipeError(msg)


def _check_derived(where: str, objectives: list[Objective], context: TrainingContext) -> None:
    """Refuse teachers of scores that cannot score the candidates that a text transform derives."""
    for name in sorted({name for o in objectives if o.takes_derived for name in o.teachers}):
        if context.teachers[name].runs != "in_loop" and context.teachers[name].gives != "vectors":
            _checked(where, refuse_derived, name, context.teachers[name], context.known_kind(name))


def refuse_without_positives(stage: Stage, objectives: list[Objective], queries: int, with_positive: int) -> None:
    """
    Refuse objectives that need positives where none of a stage's queries has one.

    :raises RecipeError:
        If there are queries, and such an objective.
    """
    needy = [type(o).__name__ for o in objectives if o.needs_positives]
    if needy and queries and not with_positive:
        msg = (
            f"stage {stage.name}: {', '.join(needy)} needs positives, but none of the {queries} queries has one. Give "
            "qrels, or use objectives that need no labels (InBatchKL, ListwiseKL, Alignment)."
        )
        raise RecipeError(msg)


def refuse_ranks(stage: Stage, name: str, kind: str | None, objectives: list[Any]) -> None:
    """Refuse a teacher that gives an order where an objective needs its scores."""
    needy = [type(o).__name__ for o in objectives if name in o.teachers and (o.extra_teachers or not o.takes_ranks)]
    if kind == "ranks" and needy:
        msg = (
            f"stage {stage.name}: teacher {name!r} gives an order without scores, and {', '.join(needy)} needs scores. "
            "Use RankNet or ListMLE."
        )
        raise RecipeError(msg)


def _look_at_views(student: Any, views: tuple[str, ...]) -> None:
    """Encode one text, or score a pair: what a student's modules give shows only then."""
    with evaluating(student), torch.no_grad():
        if is_ranker(student):
            score_parts(student, [("text", "text")], views=views)
            return
        for side in SIDES:
            encode_parts(student, ["text"], side, views=views)


def _check_turns(where: str, stage: Stage, objectives: list[Objective]) -> None:
    turns = [o.turn for o in objectives if o.turn is not None]
    if len(taking := sorted({str(o.teacher) for o in objectives if o.turn is not None})) > 1:
        msg = f"{where}: {' and '.join(taking)} have turns, which fall on the same steps. One teacher a stage can."
        raise RecipeError(msg)
    students = [step for step in range(stage.steps) if all(step % t.cycle >= t.steps for t in turns)]
    if turns and students and len(turns) == len(objectives):
        msg = f"{where}: step {students[0]} is the student's, and no objective teaches it. Add one, or fewer steps."
        raise RecipeError(msg)


def _depth(model: Any) -> int:
    """
    Count the layers, of two towers the fewer.

    :raises ValueError:
        If the architecture is not known, two towers have states of different widths, or there are several heads.
    """
    if any(isinstance(module, HeadsOfOneBody) for module in model.modules()):
        msg = "it has several heads, each with last layers of its own; there is no one stack to compare layer by layer."
        raise ValueError(msg)
    encoders = [route(model, side)[0] for side in SIDES]
    if len({encoder.config.get_text_config().hidden_size for encoder in encoders}) > 1:
        msg = "its two towers have states of different widths, which cannot be compared layer by layer."
        raise ValueError(msg)
    for encoder in encoders:
        check_states(encoder.model)
    return min(len(layers_of(encoder.model)) for encoder in encoders)


def _dims(dims: list[int], most: int) -> list[int]:
    if dims and not most:
        msg = "training.dims: only students with dense vectors have dimensions to cut."
        raise RecipeError(msg)
    if dims and max(dims) >= most:
        msg = f"training.dims: {max(dims)} does not lie from 1 to below the student's {most} dimensions."
        raise RecipeError(msg)
    return sorted(set(dims), reverse=True)


def _checked(where: str, look: Callable[..., Any], *arguments: Any) -> Any:
    """Find out early, and say where, what a teacher or miner cannot do."""
    try:
        return look(*arguments)
    except Exception as error:  # as of what is created
        msg = f"{where}: {in_one_line(error)}"
        raise RecipeError(msg) from error
