# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
What the commands of the same names do, in Python: `train`, `distill`, `stamp`.

Above trainers, pipelines and components, which do not know each other. `retort.train` and `retort.distill` are these.
"""

from __future__ import annotations

import logging
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState

from retort.indexes import index_documents, index_reading
from retort.pipelines.load import pipeline_yaml
from retort.pipelines.stamping import stamp_index
from retort.students import ExportError, Manifest, Ranker, Student, read_space
from retort.students.files import replace_file, resolve_model
from retort.students.hashing import remote_space
from retort.students.loading import read_remote_documents
from retort.students.segmentation import PASSAGE_WORDS
from retort.students.sparse import load_student
from retort.trainers.changes import QUICK, changed_recipe, recipe_for, with_weak_pairs
from retort.trainers.data.beir import read_beir
from retort.trainers.data.documents import (
    OnError,
    Reading,
    Split,
    documents_to_data,
    read_source,
    source_root,
    with_usable_ids,
    without_blank,
)
from retort.trainers.data.pseudo_queries import GeneratedQuestions
from retort.trainers.data.queries import check_asked, read_asked
from retort.trainers.data.splits import read_train_and_dev
from retort.trainers.data.synthesis import hold_out, make_queries, write_training_data
from retort.trainers.evaluation.dev import dev_sample
from retort.trainers.evaluation.exports import export_student, export_to_serve
from retort.trainers.from_documents import (
    SPLIT,
    Outcome,
    Say,
    default_sources,
    distill_documents,
    passes_for,
    refuse_other_kinds,
    refuse_other_student,
    shortened,
    trains_on_pieces,
    without_empty_pairs,
)
from retort.trainers.plan import plan_corpus, plan_run
from retort.trainers.recipe import Recipe, TrainingSection, component, read_yaml, trusts_code
from retort.trainers.roles import QuerySource
from retort.trainers.run import run_recipe
from retort.trainers.run_folder import resolve, write_corpus
from retort.trainers.runtime.errors import DataError, RecipeError, TeacherError
from retort.trainers.teachers.calls import limited_calls
from retort.trainers.teachers.embedder import Embedders
from retort.trainers.teachers.vector_cache import cache_root

if TYPE_CHECKING:
    from haystack import Document

logger = logging.getLogger(__name__)

PIPELINES = ("extractive_qa", "indexing", "rag", "search")
EXPORT_SAMPLE = TrainingSection(dev_queries=300, dev_documents=4000)  # to choose by: a whole corpus takes minutes
LONGEST_DEADLINE = 366 * 24 * 60  # minutes
YAML = {".yaml", ".yml"}
GENERATOR_PARAMETERS = {"generator", "prompt", "most", "price", "revision", "retries", "concurrency", "max_calls"}


def train(
    data: str | Path | None,
    out: str | Path,
    *,
    documents: str | Path | Sequence[Document] | None = None,
    recipe: str | Path | Recipe = "kd",
    teacher: str | dict[str, Any] | Any = None,
    student: str | dict[str, Any] | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    allow: Sequence[str] = (),
    resume: bool = False,
    max_calls: int | None = None,
    export: bool = True,
) -> Student | Ranker:
    """
    Train a student by a recipe, as `retort train` does, and load it.

    ### Usage example

    ```python
    import retort

    student = retort.train("my-data", "runs/kd", recipe="kd", settings={"stages.0.steps": 2000})
    print(student.manifest.metrics)
    vectors = student.encode_query(["How long is the warranty?"])
    ```

    :param data:
        A BEIR folder, or training data as `retort.trainers.data.read` reads it; None: `documents` are trained on.
    :param out:
        Run folder to write.
    :param documents:
        Documents alone, for recipes that need no queries, such as `cotmae`; see `write_corpus`.
    :param recipe:
        Name of a recipe that comes with retort (`kd` for a teacher of vectors, `kd_scores` for one of scores, `ranker`,
        `ranker_kd`), a YAML file, or a `Recipe`.
    :param teacher:
        Replaces the recipe's teacher: a model's name; `{type, init_parameters}` of a teacher, a Haystack ranker or chat
        generator; such a component; `{text_embedder, document_embedder}`; or a YAML file of one of these.
    :param student:
        Replaces the recipe's student: a model's name, to start from all of it; or `{type, init_parameters}`.
    :param settings:
        Values of the recipe to change, by their place: `{"stages.0.steps": 100}`, or `["stages.0.steps=100"]`.
    :param allow:
        Further modules that types may come from; servers that components may ask; `trust_remote_code`, to run code that
        models bring along.
    :param resume:
        Go on with the run that `out` holds.
    :param max_calls:
        Calls of remote teachers, at most; then it stops, keeping what came, and goes on when it is resumed. None: any
        number.
    :param export:
        Export the student as ONNX in float32: it is served without torch, and by default on CPUs.
    :returns:
        The student; `student.manifest.metrics` says how good it is.
    :raises RecipeError:
        If the recipe, or what is to be changed in it, does not fit.
    :raises DataError:
        If there are both data and documents, or neither.
    :raises TeacherError:
        If a teacher fails, or all calls are made.
    """
    if (data is None) == (documents is None):
        msg = "train: give data, or documents."
        raise DataError(msg)
    spec = _from_yaml(teacher)
    changed = changed_recipe(recipe, teacher=spec, student=student, settings=settings, allow=allow)
    with limited_calls(max_calls):
        if documents is not None:
            data = write_corpus(documents, Path(out))
        run_recipe(changed, Path(str(data)), Path(out), resume=resume)
    folder = Path(out) / "student"
    processes = PartialState()
    if export and processes.is_main_process:
        export_to_serve(folder, trust_remote_code=trusts_code(changed.student.init_parameters))
    processes.wait_for_everyone()
    manifest = Manifest.read(folder)
    load = Ranker.load if manifest is not None and manifest.kind == "ranker" else load_student
    return load(str(folder), trust_remote_code=trusts_code(changed.student.init_parameters))


def distill(
    documents: str | Path | Sequence[Document],
    out: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    teacher: str | dict[str, Any] | Any = None,
    queries: str | Path | Mapping[str, Sequence[str]] | None = None,
    generator: str | Path | dict[str, Any] | Any = None,
    split: Split = "auto",
    passage_words: int | None = None,
    dev_share: float = 0.1,
    weak_pairs: bool = False,
    deadline: float | None = None,
    max_calls: int | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    allow: Sequence[str] = (),
    on_error: OnError = "skip",
    say: Say = logger.info,
) -> Outcome:
    """
    Make a student of documents alone, as `retort distill` does: measured, exported and indexed.

    The same call goes on after an interruption; what is finished is not done again. `out` gets `data/` (a BEIR folder
    and `card.md`), a run folder's files with `student/`, `index/`, `pipelines/*.yml` and `report.html`.

    ### Usage example

    ```python
    import retort

    outcome = retort.distill("handbook", "runs/handbook", deadline=30)  # minutes
    print(outcome.student, *outcome.verdict, sep="\\n")
    ```

    :param documents:
        A folder, a file or a BEIR folder, as `read_source` reads them; or Haystack documents, in passages.
    :param out:
        Folder to write.
    :param recipe:
        As of `train`; None: `kd_lexical`, or `kd_scores` for a teacher of scores. A recipe that comes with retort is
        shortened where there are few documents, unless `settings` has steps.
    :param teacher:
        As of `train`.
    :param queries:
        Real queries, which are kept for dev: a file (see `read_asked`), or per query the ids of documents that answer
        it.
    :param generator:
        Makes up questions, too: a chat generator of Haystack, or `{type, init_parameters}` of one; or `{generator}`,
        such a description, with further parameters of `GeneratedQuestions`; or a YAML file of one of these.
    :param split:
        What gets a vector. `passages`: each passage of a file. `documents`: each file; one that is longer than what the
        student reads has several. `auto`: documents, if the student reads more than a passage and nine of ten files
        fit, or if the recipe trains on pieces of documents (FGD) and `passage_words` is None. Haystack documents and
        BEIR folders are taken as they are.
    :param passage_words:
        Words of a passage, at most; None: 150. The student notes it, and `retort index` cuts alike.
    :param dev_share:
        Share of the documents whose queries are kept for dev; without effect where real ones are given.
    :param weak_pairs:
        Train before the recipe's last stage on what documents bring along: titles, headings, abstracts and the like,
        each against the rest of its document (see `retort.trainers.changes.with_weak_pairs`).
    :param deadline:
        Minutes after which it stops, keeping what is done; in the main thread of a POSIX system only.
    :param max_calls:
        Calls of remote teachers and generators, at most; then it stops, keeping what came. None: any number.
    :param settings:
        As of `train`.
    :param allow:
        As of `train`.
    :param on_error:
        What to do with what cannot be read or has no text: `skip` it and name it, or `fail`.
    :param say:
        Told what is being done.
    :returns:
        The student's folder, figures of all systems on dev, what they mean, and the report.
    :raises DataError:
        If documents or queries cannot be read, or are too few.
    :raises RecipeError:
        If the recipe does not fit, or `out` holds a student of other documents or another recipe.
    :raises TeacherError:
        If a teacher fails, the deadline has passed, or all calls are made.
    """
    out = Path(out)
    with stopping_after(deadline), limited_calls(max_calls):
        inputs = _read_inputs(
            documents,
            out,
            recipe,
            teacher,
            queries,
            generator,
            split,
            passage_words,
            weak_pairs,
            settings,
            allow,
            on_error,
        )
        if inputs.reading.cut is not None:
            say(f"index: {inputs.reading.cut.reason}")
        outcome = distill_documents(
            inputs.reading.documents,
            out,
            recipe=inputs.recipe,
            sources=inputs.sources,
            asked=inputs.queries,
            dev_share=dev_share,
            passes=inputs.passes,
            on_error=on_error,
            say=say,
        )
        trust = trusts_code(inputs.recipe.student.init_parameters)
        _export(out, say, trust_remote_code=trust)
        _note_passages(out / "student", inputs.reading)
        say("indexing ...")
        if inputs.folder is None:
            index_documents(
                str(outcome.student), out / "data", out / "index", on_error=on_error, trust_remote_code=trust
            )
        else:  # as `retort index` does: passages belong to their files, so that it can go on with this index
            index_reading(
                str(outcome.student),
                lambda: inputs.reading,
                out / "index",
                folder=inputs.folder,
                on_error=on_error,
                trust_remote_code=trust,
            )
        _write_pipelines(out, trust_remote_code=trust)
    return outcome


def plan_train(
    data: str | Path | None,
    out: str | Path,
    *,
    documents: str | Path | Sequence[Document] | None = None,
    recipe: str | Path | Recipe = "kd",
    teacher: str | dict[str, Any] | Any = None,
    student: str | dict[str, Any] | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    allow: Sequence[str] = (),
) -> list[str]:
    """
    Say what `train` takes: calls, time, memory, disk, money. Nothing is asked or written.

    Parameters and errors are those of `train`. Where a recipe makes the corpus itself, only that is planned: the rest
    goes by its texts.

    :returns:
        Lines to print.

    ### Usage example

    ```python
    import retort

    for line in retort.plan_train("my-data", "runs/kd", recipe="kd"):
        print(line)
    ```
    """
    if (data is None) == (documents is None):
        msg = "plan_train: give data, or documents."
        raise DataError(msg)
    out = Path(out)
    changed = changed_recipe(recipe, teacher=_from_yaml(teacher), student=student, settings=settings, allow=allow)
    if data is not None and changed.data.corpus is not None and not Path(data).exists():
        first = f"corpus: {changed.data.corpus.type} makes it first; plan again for the rest, which goes by its texts"
        return [first, *plan_corpus(changed, cache_root(out)).lines()]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(str(data))
        if documents is not None:  # `run`: what is locked lies beside it
            folder = write_corpus(documents, Path(scratch, "run"), leave_out=out)
        training_data, dev = read_train_and_dev(folder, changed.data)
        return plan_run(resolve(changed, training_data, dev), training_data, cache_root(out), dev).lines()


def plan_distill(
    documents: str | Path | Sequence[Document],
    out: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    teacher: str | dict[str, Any] | Any = None,
    queries: str | Path | Mapping[str, Sequence[str]] | None = None,
    generator: str | Path | dict[str, Any] | Any = None,
    split: Split = "auto",
    passage_words: int | None = None,
    dev_share: float = 0.1,
    weak_pairs: bool = False,
    settings: Mapping[str, Any] | Sequence[str] = (),
    allow: Sequence[str] = (),
    on_error: OnError = "skip",
) -> list[str]:
    """
    Say what `distill` would do and what it takes: calls, time, memory, disk, money. Nothing is asked or written.

    Queries are made in a folder for the time being, without the generator. Parameters and errors are those of
    `distill`.

    :returns:
        Lines to print.

    ### Usage example

    ```python
    import retort

    for line in retort.plan_distill("handbook", "runs/handbook", teacher="teacher.yaml", allow=["models.example.com"]):
        print(line)
    ```
    """
    out = Path(out)
    inputs = _read_inputs(
        documents, out, recipe, teacher, queries, generator, split, passage_words, weak_pairs, settings, allow, on_error
    )
    passages = inputs.reading.documents
    sources = dict(inputs.sources)
    files = len({str(d.meta.get("file_path", d.id)) for d in passages})
    lines = [f"documents: {len(passages):,} passages of {files:,} files"]
    questions = sources.pop("generator", None)
    if isinstance(questions, GeneratedQuestions):
        estimate = questions.estimate(documents_to_data("documents", passages))
        lines.append("generator of queries: " + ", ".join(f"{v:,.0f} {name}" for name, v in estimate.items()))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        held = hold_out(passages, dev_share, inputs.queries)
        made = make_queries(passages, sources, held=held)
        counts = write_training_data(passages, made, data, held=held, asked=inputs.queries)
        by = ", ".join(sources)
        lines.append(f"queries, by {by}: about {counts['train']:,} to train on, {counts['dev']:,} for dev")
        short = shortened(inputs.recipe, counts, inputs.passes)
        training_data, dev = read_train_and_dev(data, short.data)
        short = without_empty_pairs(short, training_data)
        steps = ", ".join(f"{stage.name} {stage.steps}" for stage in short.stages)
        lines.append(f"recipe {short.name}: {steps} steps, {short.training.batch_size} queries each")
        plan = plan_run(short, training_data, cache_root(out), dev)
        if isinstance(questions, GeneratedQuestions) and (seconds := questions.assumed_seconds(estimate["calls"])):
            plan.seconds["generator of queries"] = seconds
            plan.assumed.append("generator of queries")
        lines += plan.lines()
        if inputs.reading.cut is not None:
            lines.append(f"index: {inputs.reading.cut.reason}")
        if recipe is None and teacher is None and not settings:
            quick = plan_run(
                shortened(recipe_for(QUICK, None), counts, inputs.passes), training_data, cache_root(out), dev
            )
            lines.append(
                f"quicker: --recipe {QUICK} trains a table of token vectors, about {quick.together()} together"
            )
        return lines


def stamp(
    store: str | Path | Any,
    student: str | Path,
    *,
    embedder: str | Path | dict[str, Any] | Any = None,
    meta_fields: Sequence[str] | None = None,
    separator: str = " ",
    allow: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> int:
    """
    Compare an index that was made elsewhere with what a student expects, and stamp it, as `retort stamp` does.

    ### Usage example

    ```python
    import retort

    retort.stamp("http://localhost:6333/handbook", "runs/kd/student", meta_fields=[])
    ```

    :param store:
        Folder of the index, URL of a collection on a Qdrant server, or a document store.
    :param student:
        The student that is to search it.
    :param embedder:
        What embedded the documents, where the student encodes queries only: `{type, init_parameters}` of a document
        embedder, with the `revision` of an API's model beside them; a teacher's `{text_embedder, document_embedder,
        revision}`, or a YAML file of one of these.
    :param meta_fields:
        Meta fields that were embedded before the content, where the student encodes documents itself; None:
        `["title"]`, as in training. Haystack's embedders embed none unless they are told to. Of images the file that
        `file_path` names is read.
    :param separator:
        What stood between them.
    :param allow:
        Further modules that the embedder may come from; servers that it may ask.
    :param trust_remote_code:
        Run code that the student brings along.
    :returns:
        How many documents were stamped.
    :raises DocumentStoreError:
        If the embeddings differ, another student built the index, or it has none.
    :raises RecipeError:
        If the embedder is not the one that the student was trained for, or is missing.
    """
    from haystack_integrations.components.embedders.retort import StudentDocumentEmbedder, StudentDocumentImageEmbedder

    name = str(Path(student).resolve()) if Path(student).is_dir() else str(student)
    store = str(store) if isinstance(store, str | Path) else store
    remote = read_remote_documents(name)
    if remote is not None:
        components = _document_embedder(embedder, student, remote, allow)
        type_ = str(remote["provider"]).rpartition(".")[2]
        return stamp_index(store, name, remote_space(**remote), components.embed_documents, embedder=type_)
    if embedder is not None:
        msg = f"{student} encodes documents itself, by which they are compared: leave the embedder out."
        raise RecipeError(msg)
    common: dict[str, Any] = {"model": name, "progress_bar": False, "trust_remote_code": trust_remote_code}
    manifest = Manifest.read(Path(resolve_model(name)))
    own: StudentDocumentEmbedder | StudentDocumentImageEmbedder
    if manifest is not None and manifest.kind == "image_text":
        own = StudentDocumentImageEmbedder(**common)
    else:
        fields = None if meta_fields is None else list(meta_fields)
        own = StudentDocumentEmbedder(meta_fields_to_embed=fields, embedding_separator=separator, **common)
    space = read_space(name, trust_remote_code=trust_remote_code)
    return stamp_index(store, name, space, lambda found: own.run(documents=found)["documents"], embedder=str(student))


def _document_embedder(embedder: Any, student: str | Path, remote: dict[str, Any], allow: Sequence[str]) -> Embedders:
    """Create what is to embed a student's documents; refuse another than it was trained for."""
    wanted = ", ".join(f"{name} {value!r}" for name, value in remote.items() if value not in ("", None, []))
    if embedder is None:
        msg = f"{student} encodes queries only. Give the embedder of its documents (--embedder FILE.yaml): {wanted}."
        raise RecipeError(msg)
    tree = _described(_from_yaml(embedder))
    if isinstance(tree, dict) and "document_embedder" in (tree.get("init_parameters") or {}):  # an EmbedderTeacher
        tree = tree["init_parameters"]
    revision = None
    if isinstance(tree, dict):
        revision, tree = tree.get("revision"), {n: value for n, value in tree.items() if n != "revision"}
        tree = tree.get("document_embedder", tree)
    spec = component(tree, "embedder")
    described = {"type": spec.type, "init_parameters": spec.init_parameters}
    found = Embedders({"document": described}, revision=revision, allowed_modules=list(allow) or None)
    own = found.embeds_documents_as(remote["dimensions"])
    if remote_space(**own) != remote_space(**remote):
        odd = [n for n in sorted(own.keys() | remote.keys()) if own.get(n) != remote.get(n)]
        told = "; ".join(f"{n} is {own.get(n)!r} in place of {remote.get(n)!r}" for n in odd)
        msg = f"The embedder is not the one that {student} was trained for: {told}."
        raise RecipeError(msg)
    return found


def generated_questions(
    generator: str | Path | dict[str, Any] | Any, out: Path, allow: Sequence[str] = ()
) -> GeneratedQuestions:
    """
    Describe what makes up questions; what it answers is kept in the cache.

    :param generator:
        See `distill`.
    :param out:
        The run folder, whose cache it is.
    :param allow:
        As of `train`.
    :raises RecipeError:
        If it is no chat generator, or has an unknown parameter.
    """
    where = str(generator) if isinstance(generator, str | Path) else "generator"
    tree = read_yaml(Path(generator)) if isinstance(generator, str | Path) else _described(generator)
    parameters = dict(tree) if isinstance(tree, dict) and "generator" in tree else {"generator": tree}
    spec = component(_described(parameters.pop("generator")), where)
    if unknown := sorted(parameters.keys() - GENERATOR_PARAMETERS):
        known = ", ".join(sorted(GENERATOR_PARAMETERS))
        msg = f"{where}: there is no parameter {unknown[0]!r}; there are: {known}."
        raise RecipeError(msg)
    cache = cache_root(out) / "answers.jsonl"
    options = {"cache": str(cache), "allowed_modules": list(allow) or None} | parameters
    return GeneratedQuestions(generator={"type": spec.type, "init_parameters": spec.init_parameters}, **options)


@dataclass
class _Inputs:
    recipe: Recipe
    passes: int | None
    reading: Reading
    folder: Path | None  # of the files; None if documents belong to none
    queries: list[tuple[str, list[str]]]
    sources: dict[str, QuerySource]


def _read_inputs(
    documents: str | Path | Sequence[Document],
    out: Path,
    recipe: str | Path | Recipe | None,
    teacher: Any,
    queries: str | Path | Mapping[str, Sequence[str]] | None,
    generator: Any,
    split: Split,
    passage_words: int | None,
    weak_pairs: bool,
    settings: Mapping[str, Any] | Sequence[str],
    allow: Sequence[str],
    on_error: OnError,
) -> _Inputs:
    """Read what `distill` is called with, and refuse early what could not be finished."""
    changed = recipe_for(recipe, _from_yaml(teacher), settings=settings, allow=allow)
    changed = with_weak_pairs(changed) if weak_pairs else changed
    places = [place.partition("=")[0] for place in settings]
    passes = None if isinstance(recipe, Recipe) else passes_for(None if recipe is None else str(recipe), places)
    refuse_other_kinds(changed)
    refuse_other_student(changed, out, passes)
    if (out / "index").exists() and not (out / "student").exists():  # not after an hour of training
        msg = f"{out / 'index'} holds an index of another model. Give another --out, or delete it."
        raise RecipeError(msg)
    if isinstance(documents, str | Path):
        tokens = changed.student.init_parameters.get("max_tokens")
        tokens = tokens.get("document") if isinstance(tokens, dict) else tokens  # a table has one for both sides
        reading = read_source(
            documents,
            words=passage_words,
            split=split,
            tokens=tokens,
            pieces=trains_on_pieces(changed),
            on_error=on_error,
            leave_out=out,
        )
        folder = source_root(documents)
    else:
        reading, folder = without_blank(list(documents), on_error), None
    reading = with_usable_ids(reading, on_error)
    passages = reading.documents
    if isinstance(queries, str | Path):
        real = read_asked(queries, passages)
    else:
        real = check_asked(queries or {}, passages)
    sources = default_sources()
    if generator is not None:
        sources = {"generator": generated_questions(generator, out, allow), **sources}
    return _Inputs(changed, passes, reading, folder, real, sources)


def _from_yaml(teacher: Any) -> Any:
    """Read a teacher's description, if it is a YAML file's name."""
    if not isinstance(teacher, str | Path) or Path(teacher).suffix not in YAML:
        return teacher
    tree = read_yaml(Path(teacher))
    if not isinstance(tree, dict):
        msg = f"{teacher}: it needs a type, with init_parameters; or text_embedder and document_embedder."
        raise RecipeError(msg)
    return tree


def _described(spec: Any) -> Any:
    """Describe a component that was made in Python as its YAML would."""
    from haystack.core.component import Component
    from haystack.core.serialization import component_to_dict

    return component_to_dict(spec, "generator") if isinstance(spec, Component) else spec


def _export(out: Path, say: Say, *, trust_remote_code: bool) -> None:
    """Export the student, if it can be and was not before, and choose the fastest form."""
    manifest = Manifest.read(out / "student")
    if manifest is None or any(export.get("chosen") for export in manifest.exports):
        return
    say("exporting ...")
    if manifest.kind == "static":  # it has one form
        export_student(out / "student", trust_remote_code=trust_remote_code)
        return
    sample = dev_sample(read_beir(out / "data", SPLIT), EXPORT_SAMPLE)
    try:
        entries = export_student(out / "student", sample, trust_remote_code=trust_remote_code)
    except ExportError as error:
        say(f"The student is not exported, so it needs torch where it is served: {error}")
        return
    chosen = next(entry for entry in entries if entry["chosen"])
    say(f"served as {'onnx' if chosen['file'] else 'torch'} {chosen['precision']}: {chosen['ms']:.2f} ms a query")


def _note_passages(student: Path, reading: Reading) -> None:
    """Let a student's manifest say how files are cut, so that `retort index` cuts them alike."""
    manifest = Manifest.read(student)
    if (
        manifest is not None
        and reading.cut is not None
        and reading.cut.words != (manifest.passage_words or PASSAGE_WORDS)
    ):
        manifest.passage_words = reading.cut.words
        manifest.write(student)


def _write_pipelines(out: Path, *, trust_remote_code: bool) -> None:
    """Write YAML pipelines that are bound to a student and its index; they may be run from anywhere."""
    out = out.resolve()
    for name in PIPELINES:
        student, index = str(out / "student"), str(out / "index")
        text = pipeline_yaml(name, student=student, index=index, trust_remote_code=trust_remote_code)
        with replace_file(out / "pipelines" / f"{name}.yml") as aside:
            aside.write_text(text, encoding="utf-8")


class _DeadlineError(BaseException):
    """The time is over. No `Exception`: a teacher's retries must not take it for one of theirs."""


@contextmanager
def stopping_after(minutes: float | None) -> Iterator[None]:
    """Stop after so many minutes; what was done is kept."""
    if minutes is None:
        yield
        return
    if not 0 < minutes <= LONGEST_DEADLINE:
        msg = f"deadline: {minutes:g} minutes; it must be above 0, and a year at most."
        raise RecipeError(msg)
    if threading.current_thread() is not threading.main_thread():
        msg = "deadline: only the main thread can be stopped by a signal. Leave it out here."
        raise RecipeError(msg)

    def stop(*_: Any) -> None:
        raise _DeadlineError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, minutes * 60)
    try:
        yield
    except _DeadlineError:
        msg = (
            f"the deadline of {minutes:g} minutes has passed. What was done is kept: the same again goes on. A slow "
            "teacher is asked less with lower training.batch_size, stages.N.steps or data.max_queries (--set)."
        )
        raise TeacherError(msg) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
