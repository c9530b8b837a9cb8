# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""From documents alone to a student that was measured: queries are made, a recipe is run, and it is said how good."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retort.students import Student
from retort.students.files import read_json, read_or_remove, resolve_model, write_json
from retort.students.hashing import canonical_json, hash_text
from retort.trainers.build import refuse_unknown_parts
from retort.trainers.changes import WEAK_PAIRS
from retort.trainers.context import TrainingContext
from retort.trainers.data.beir import read_beir
from retort.trainers.data.documents import OnError, documents_to_data, with_usable_ids, without_blank
from retort.trainers.data.pseudo_queries import (
    FirstSentences,
    GeneratedQuestions,
    Headings,
    KeyPhrases,
    Spans,
    Titles,
)
from retort.trainers.data.splits import read_train_and_dev
from retort.trainers.data.synthesis import Search, hold_out, make_queries, write_training_data
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.data.weak_pairs import brings_pairs
from retort.trainers.evaluation.fusion import Rankings, fuse_cross_fitted, relative
from retort.trainers.evaluation.metrics import mean, per_query
from retort.trainers.evaluation.rank import DEPTH, Evaluation, evaluate_model
from retort.trainers.evaluation.report import LEVEL, side_of, write_report
from retort.trainers.evaluation.runs import (
    MEASURE_AGAIN,
    compare,
    read_per_query,
    read_rankings,
    read_scores,
    write_evaluation,
)
from retort.trainers.recipe import Recipe, Stage, trusts_code
from retort.trainers.recipe.trust import load_role
from retort.trainers.roles import QuerySource
from retort.trainers.run import run_recipe
from retort.trainers.run_folder import refuse_other_run, resolve
from retort.trainers.runtime.errors import DataError, RecipeError
from retort.trainers.search import search_vectors
from retort.trainers.teachers.vector_cache import cache_root
from retort.trainers.views import QuestionTexts

if TYPE_CHECKING:
    from haystack import Document

logger = logging.getLogger(__name__)

SURE = 0.05
FEW = 20  # queries
WORDS_OF_THEIR_OWN = (
    " But queries that are made of a document's own words are BM25's home ground: people's may turn this round."
)
SPLIT = "dev"
PASSES = 10  # chosen, not measured; over few documents a recipe's steps would be a hundred
NOT_INDEXED = {"ranker", "ranker_with_heads", "fusion_ranker", "sparse", "late_interaction"}
FOREIGN_SHARE = 0.1

Say = Callable[[str], None]
Asked = Sequence[tuple[str, Sequence[str]]]


@dataclass
class Outcome:
    """
    What came out.

    :param student:
        The student's folder.
    :param metrics:
        Of each system its measures on dev: `bm25`, `student`, `hybrid`, the teachers, and `untrained`, the model that
        the student was cut from, if it is another than a teacher.
    :param verdict:
        What the figures say, in sentences; the last ones advise.
    :param report:
        The page about the run.
    """

    student: Path
    metrics: dict[str, dict[str, float]]
    verdict: list[str]
    report: Path


def default_sources() -> dict[str, QuerySource]:
    """List what queries are made of where nothing else is said: no model is asked."""
    return {
        "titles": Titles(),
        "headings": Headings(),
        "first-sentences": FirstSentences(),
        "key-phrases": KeyPhrases(),
        "spans": Spans(),
    }


def distill_documents(
    documents: list[Document],
    out: str | Path,
    *,
    recipe: Recipe,
    sources: Mapping[str, QuerySource] | None = None,
    asked: Asked = (),
    dev_share: float = 0.1,
    passes: int | None = PASSES,
    on_error: OnError = "skip",
    say: Say = logger.info,
) -> Outcome:
    """
    Make queries, train, evaluate against BM25, the teachers and the untrained model, and write a report.

    The same call goes on after an interruption; what is finished is not done again.

    :param documents:
        What is to be searched, in passages.
    :param out:
        Folder to write: `data/` (a BEIR folder and `card.md`), and a run folder's files.
    :param recipe:
        The recipe.
    :param sources:
        What queries are made of, by name; None takes `default_sources`.
    :param asked:
        Real queries with the ids of documents that answer them: dev, in place of made ones.
    :param dev_share:
        Share of the documents whose queries are kept for dev; without effect where real ones are given.
    :param passes:
        See `shortened`.
    :param on_error:
        What to do with documents without text: `skip` them and name them, or `fail`.
    :param say:
        Told what is being done.
    :raises DataError:
        If the documents do not give enough queries, or with `fail`, if one has no text.
    :raises RecipeError:
        If `out` holds a run of other documents or another recipe, or this is one of several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        msg = (
            "distilling of documents runs in one process: each of several would make the data. Run it alone; then "
            f"`accelerate launch -m retort.cli train --data {Path(out) / 'data'}` trains in several."
        )
        raise RecipeError(msg)
    refuse_other_kinds(recipe)
    out = Path(out)
    documents = with_usable_ids(without_blank(documents, on_error), on_error).documents
    counts = write_data(documents, out, recipe, sources, asked, dev_share, say)
    told = f"{counts['documents']} documents; {counts['train']} queries to train on, {counts['dev']} for dev"
    say(f"{told} ({out / 'data' / 'card.md'})")
    recipe = fitted(recipe, out, counts, passes)
    done = (out / "metrics.json").is_file()
    say("the student is trained already" if done else f"training by the recipe {recipe.name} ...")
    run_recipe(recipe, out / "data", out, resume=True)
    metrics = measure(recipe, out, say)
    verdict = judge(out, metrics, made_up=not asked)
    report = out / "report.html"
    write_report(out, report, data=read_beir(out / "data", SPLIT))
    write_json(out / "verdict.json", {"metrics": metrics, "verdict": verdict})
    return Outcome(out / "student", metrics, verdict, report)


def write_data(
    documents: list[Document],
    out: Path,
    recipe: Recipe,
    sources: Mapping[str, QuerySource] | None,
    asked: Asked,
    dev_share: float,
    say: Say,
) -> dict[str, int]:
    """Make the training data, unless it is there; see `distill_documents`."""
    if not documents:
        msg = "There are no documents to learn from."
        raise DataError(msg)
    plain = documents_to_data("documents", documents)
    _warn_of_scripts(plain)
    given = default_sources() if sources is None else sources
    identity, former = (
        hash_text(canonical_json([plain.corpus.hash, names, [[q, list(ids)] for q, ids in asked], dev_share]))
        for names in (
            [[name, type(source).__qualname__, _settings(source, key)] for name, source in given.items()]
            for key in ("key", "former_key")
        )
    )
    if (kept := _kept_data(out)) is not None:
        if kept["identity"] in {identity, former}:
            counts: dict[str, int] = kept["counts"]
            return counts
        msg = f"{out} holds a student of other documents, queries or sources. Give another --out."
        raise RecipeError(msg)
    say(f"making queries of {len(documents)} documents: {', '.join(given)} ...")
    held = hold_out(documents, dev_share, asked)
    made = make_queries(documents, given, held=held, searches=_teacher_searches(recipe, plain, out))
    counts = write_training_data(documents, made, out / "data", held=held, asked=asked)
    write_json(out / "data.json", {"identity": identity, "counts": counts, "sha256": _hashes(out / "data")})
    return counts


def _kept_data(out: Path) -> dict[str, Any] | None:
    """Describe the training data that a folder holds; None if there are none, or damaged ones, which are made again."""
    kept: dict[str, Any] | None = read_or_remove(out / "data.json", lambda path: json.loads(path.read_text("utf-8")))
    if kept is None or not (out / "data").is_dir():
        return None
    hashes = _hashes(out / "data")
    odd = {name for name, digest in kept.get("sha256", {}).items() if hashes.get(name) != digest}  # 0.1.0 had none
    if odd:
        logger.warning("%s is damaged or was changed; the training data are made again.", out / "data" / min(odd))
        return None
    return kept


def _hashes(folder: Path) -> dict[str, str]:
    """Hash what is read again of a BEIR folder."""
    found = {}
    for path in sorted([*folder.glob("*.jsonl*"), *folder.glob("qrels/*.tsv")]):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def measure(recipe: Recipe, out: Path, say: Say = logger.info) -> dict[str, dict[str, float]]:
    """
    Give the figures of all systems on dev: those of the run, the untrained model's, and the student's with BM25.

    The hybrid adds scores, or points for ranks where none were kept; its weights are chosen on one half of the queries
    and used on the other.
    """
    found = read_json(out / "metrics.json", MEASURE_AGAIN)["dev"]
    metrics = {"bm25": found["candidates"]["bm25"], **found["teachers"], "student": found["student"]}
    path = out / "systems.json"
    if path.is_file():
        more: dict[str, dict[str, float]] = read_json(path, MEASURE_AGAIN)
        return metrics | more
    data = read_beir(out / "data", SPLIT)
    more = {}
    if trunk := untrained_model(recipe):
        say(f"evaluating {trunk} as it was ...")
        untrained = evaluate_model(
            Student.load(trunk, precision="auto", trust_remote_code=trusts_code(recipe.student.init_parameters)), data
        )
        write_evaluation(out, f"{SPLIT}.untrained", untrained)
        more["untrained"] = untrained.metrics
    (own, scores), (bm25, words) = (
        (read_rankings(out, name), read_scores(out, name)) for name in (SPLIT, f"{SPLIT}.bm25")
    )
    first: Rankings = own
    second: Rankings = bm25
    if scores and words:  # runs of earlier versions have none
        first, second = relative(own, scores), relative(bm25, words, lexical_depth=DEPTH)
    rankings, weights = fuse_cross_fitted(first, second, data.qrels)
    measures = per_query(rankings, data.qrels)
    counts = {name: found["student"][name] for name in ("queries", "documents")}
    more["hybrid"] = mean(measures) | counts | {"weight_of_student": sum(weights) / 2}
    write_evaluation(out, f"{SPLIT}.hybrid", Evaluation("hybrid", more["hybrid"], measures, rankings))
    write_json(path, more)
    return metrics | more


def judge(out: Path, metrics: Mapping[str, Mapping[str, float]], *, made_up: bool) -> list[str]:
    """Say in sentences what the figures on dev mean, and what to do."""
    student = read_per_query(out, SPLIT)
    said, below = [], []
    if len(student) < FEW:
        said.append(f"{len(student)} queries are too few to tell: what follows may be chance.")
    for name in metrics:
        if name in {"student", "hybrid"}:
            continue
        change = compare(read_per_query(out, f"{SPLIT}.{name}"), student).changes["ndcg@10"]
        side = side_of(change.test.difference)
        by_chance = change.test.p >= SURE and side != LEVEL
        sure = f"p = {change.test.p:.4f}" + (": chance alone could do that" if by_chance else "")
        said.append(f"The student ({change.after:.3f}) is {side} {name} ({change.before:.3f}) in nDCG@10, {sure}.")
        if side == "below" and name in {"bm25", "untrained"} and change.test.p < SURE:
            below.append(name)
    best = max(("bm25", "student"), key=lambda name: metrics[name]["ndcg@10"])
    before = student if best == "student" else read_per_query(out, f"{SPLIT}.bm25")
    change = compare(before, read_per_query(out, f"{SPLIT}.hybrid")).changes["ndcg@10"]
    hybrid_helps = change.test.difference > 0 and change.test.p < SURE
    side = "above" if change.test.difference > 0 else "not above"
    said.append(
        f"The two fused ({change.after:.3f}) are {side} the better of them, "
        f"{best} ({change.before:.3f}), p = {change.test.p:.4f}."
    )
    if below:
        rival = max(below, key=lambda name: metrics[name]["ndcg@10"])
        fused = compare(read_per_query(out, f"{SPLIT}.{rival}"), read_per_query(out, f"{SPLIT}.hybrid"))
        test = fused.changes["ndcg@10"].test
        worth_it = hybrid_helps and test.difference > 0 and test.p < SURE
        said.append(
            f"NOT WORTH IT ALONE: the student is below {' and '.join(below)}. "
            + ("Serve it together with BM25. " if worth_it else f"Stay with {rival}. ")
            + "For a better one: a stronger teacher, or more steps."
            + (WORDS_OF_THEIR_OWN if made_up and "bm25" in below else "")
        )
    elif hybrid_helps:
        said.append("Served together with BM25 it finds more than either alone.")
    if made_up:
        said.append(
            "All these queries were made up from your documents, several from one, and the best checkpoint was chosen "
            "on them: p is too sure of itself. Put real ones in (--queries) to be sure."
        )
    else:
        said.append("The best checkpoint was chosen on these queries: p is too sure of itself.")
    return said


def untrained_model(recipe: Recipe) -> str | None:
    """Name the embedding model that a student was cut from, unless a teacher is the same."""
    parameters = recipe.student.init_parameters
    trunk = parameters.get("trunk") or parameters.get("model")
    taught = {spec.init_parameters.get("model") for spec in recipe.teachers.values()}
    if not isinstance(trunk, str) or trunk in taught:
        return None
    try:
        folder = Path(resolve_model(trunk))
    except FileNotFoundError:
        return None
    return trunk if (folder / "modules.json").is_file() else None


def shortened(recipe: Recipe, counts: Mapping[str, int], passes: int | None) -> Recipe:
    """
    Return the recipe with fewer steps, of its own stages and of teachers', where there is little to learn from.

    :param recipe:
        The recipe.
    :param counts:
        How many `documents` there are, and queries to `train` on.
    :param passes:
        How often a stage may see everything, at most: queries, and documents if it needs no lists. None: as often as
        the recipe says.
    """
    if passes is None:
        return recipe
    recipe = copy.deepcopy(recipe)
    for name, spec in recipe.teachers.items():
        kind = load_role(spec.type, "teacher", f"teachers.{name}.type", recipe.allow)
        if kind.runs == "trained_in_run":
            teacher = recipe.create(spec, "teacher", f"teachers.{name}")
            within = _shorten(teacher.recipe(recipe, name), counts, passes)
            for tree, stage in zip(spec.init_parameters["stages"], within.stages, strict=True):
                tree["steps"] = stage.steps
    return _shorten(recipe, counts, passes)


def trains_on_pieces(recipe: Recipe) -> bool:
    """Tell whether a stage trains on pieces of documents, so that these should be long (FGD)."""
    return any(
        load_role(stage.candidates.text.type, "text", f"stages.{i}.candidates.text.type", recipe.allow).derives_pieces
        for i, stage in enumerate(recipe.stages)
        if stage.candidates and stage.candidates.text
    )


def _shorten(recipe: Recipe, counts: Mapping[str, int], passes: int) -> Recipe:
    for stage in recipe.stages:
        there = counts["train"] + (counts["documents"] if not stage.takes_lists else 0)
        stage.steps = min(stage.steps, math.ceil(passes * there / recipe.training_of(stage).batch_size))
    return recipe


def refuse_other_kinds(recipe: Recipe) -> None:
    """
    Refuse a recipe whose student cannot be indexed and searched as it was measured.

    :raises RecipeError:
        If it makes no embeddings of texts, or compares with documents that have questions beside them; or if a part
        of a stage cannot be created, which the training would tell only after the queries are made.
    """
    kind = recipe.student.type.rpartition(".")[2]
    if kind in NOT_INDEXED:
        msg = f"recipe {recipe.name}: it makes a {kind} student, and an index needs embeddings. Use `retort train`."
        raise RecipeError(msg)
    if kind == "image_text":
        msg = f"recipe {recipe.name}: its student reads images, and these documents are texts. Use `retort train`."
        raise RecipeError(msg)
    refuse_unknown_parts(recipe)
    for i, stage in enumerate(recipe.stages):
        spec = stage.candidates.text if stage.candidates else None
        if spec and isinstance(recipe.create(spec, "text", f"stages.{i}.candidates.text"), QuestionTexts):
            msg = (
                f"recipe {recipe.name}: it is measured on documents with questions beside them, and the index would "
                "hold them alone. Use `retort train`, and StudentMultiViewDocumentEmbedder for the index."
            )
            raise RecipeError(msg)


def fitted(recipe: Recipe, out: Path, counts: Mapping[str, int], passes: int | None) -> Recipe:
    """Return the recipe as it fits the training data of a folder: see `shortened` and `without_empty_pairs`."""
    recipe = shortened(recipe, counts, passes)
    if not any(map(_is_of_weak_pairs, recipe.stages)):
        return recipe
    return without_empty_pairs(recipe, read_train_and_dev(out / "data", recipe.data)[0])


def without_empty_pairs(recipe: Recipe, data: RetrievalData) -> Recipe:
    """Leave the stage over weak pairs out where the documents have none: no title, heading or sentence with a rest."""
    if any(map(_is_of_weak_pairs, recipe.stages)) and not brings_pairs(data.without_held_out()):
        logger.warning(
            "The documents have no weak pairs, such as titles with texts of five words: that stage is left out."
        )
        recipe = copy.deepcopy(recipe)
        recipe.stages = [stage for stage in recipe.stages if not _is_of_weak_pairs(stage)]
    return recipe


def _is_of_weak_pairs(stage: Stage) -> bool:
    """Tell the stage of `with_weak_pairs`."""
    return stage.name == WEAK_PAIRS and stage.queries is not None and stage.queries.type.endswith(".WeakPairs")


def passes_for(recipe: str | None, changed: Iterable[str]) -> int | None:
    """Say for how long to train: None if the user's own recipe, or a changed place in it, says it."""
    own = Path(recipe or "").suffix in {".yaml", ".yml"}
    return None if own or any(place.endswith(".steps") for place in changed) else PASSES


def refuse_other_student(recipe: Recipe, out: Path, passes: int | None) -> None:
    """Check early that a run folder is free, or holds this recipe's run; see `refuse_other_run`."""
    if (out / "recipe.yaml").is_file() and (kept := _kept_data(out)) is not None:
        train, dev = read_train_and_dev(out / "data", recipe.data)
        recipe = without_empty_pairs(shortened(recipe, kept["counts"], passes), train)
        refuse_other_run(resolve(recipe, train, dev), out, resume=True)


def _teacher_searches(recipe: Recipe, data: RetrievalData, out: Path) -> list[Search]:
    """Search with the first teacher that gives vectors; what it gave of documents is kept for the training."""
    for name, spec in recipe.teachers.items():
        teacher = recipe.create(spec, "teacher", f"teachers.{name}")
        if teacher.runs != "cached" or teacher.gives != "vectors":
            continue
        context = TrainingContext(data, {name: teacher}, cache_root(out))

        def search(
            texts: Sequence[str], depth: int, name: str = name, context: TrainingContext = context
        ) -> np.ndarray:
            asked = TextStore(map(str, range(len(texts))), texts)
            queries = context.teacher_cache(name, "query", asked).gather(asked.item_ids)  # kept for the training
            return search_vectors(
                queries, context.vectors(name, "document"), depth, similarity=context.similarity(name)
            )[0]

        return [search]
    return []


def _settings(source: QuerySource, key: str) -> dict[str, Any]:
    """What decides the queries of a source, as far as it can be written down; a generator's `key` or `former_key`."""
    if isinstance(source, GeneratedQuestions):
        return {"key": getattr(source, key)}
    return {k: v for k, v in vars(source).items() if isinstance(v, str | int | float | bool | None)}


def _warn_of_scripts(data: RetrievalData) -> None:
    """Say so where many texts are in a script that English models and BM25's stemmer do not know."""
    texts = data.corpus.texts[:: max(1, len(data.corpus) // 2000)]
    letters = [[c for c in text[:500] if c.isalpha()] for text in texts]
    foreign = sum(sum(c > "\u024f" for c in found) > len(found) / 2 for found in letters if found)
    if foreign > FOREIGN_SHARE * len(texts):
        logger.warning(
            "%d of %d texts looked at are not in Latin script. BM25 here stems English, and the default teacher reads "
            "English: name a teacher and a trunk that know these languages.",
            foreign,
            len(texts),
        )
