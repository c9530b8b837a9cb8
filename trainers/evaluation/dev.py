# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of what is being trained: the dev sample on the way, and the final figures."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from retort.students.ranker import Ranker
from retort.students.scoring import is_ranker, score_numpy
from retort.students.sparse import SparseStudent, encode_vectors, is_sparse
from retort.students.student import Student, build_manifest
from retort.trainers.context import TrainingContext
from retort.trainers.data.texts import RetrievalData
from retort.trainers.evaluation.metrics import mean, per_query
from retort.trainers.evaluation.rank import (
    Evaluation,
    evaluate_bm25,
    evaluate_model,
    evaluate_ranker,
    evaluate_rows,
    evaluate_vectors,
    query_sensitivity,
    rankings,
    rerank,
)
from retort.trainers.recipe import TrainingSection
from retort.trainers.runtime.rng import rng_for
from retort.trainers.search import BM25, search_vectors
from retort.trainers.views import DocumentViews, document_vectors

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer


BM25_NEIGHBOURS = 5


def dev_sample(dev: RetrievalData, training: TrainingSection) -> RetrievalData:
    """
    Draw the fixed dev sample: queries, their positives, what BM25 takes for similar, and random documents.

    :param dev:
        The dev split. Only queries with a positive are drawn, if one has any: the others score 0 whatever is trained.
    :param training:
        Sizes and seed; the seed of the sample does not depend on it.
    """
    rng = rng_for("dev sample", dev.queries.hash)
    sample = _drawn(dev, rng, training.dev_queries)
    # As judged, by ids: of copies of a document, that is the one that measures look for.
    rows = {dev.corpus.rows[d] for judged in sample.qrels.values() for d, grade in judged.items() if grade > 0}
    if dev.of_texts:
        near, _ = BM25(dev.corpus.texts).search(sample.queries.texts, BM25_NEIGHBOURS)
        rows |= {int(r) for r in near[near >= 0]}
    spare = [int(r) for r in rng.permutation(len(dev.corpus)) if int(r) not in rows]
    rows |= set(spare[: max(0, training.dev_documents - len(rows))])
    return RetrievalData(dev.name, dev.corpus.select(sorted(rows)), sample.queries, sample.qrels)


def _drawn(dev: RetrievalData, rng: np.random.Generator, most: int) -> RetrievalData:
    """Draw queries with a positive, as measures look for it: by the query's own id. If none has one, draw any."""
    order = rng.permutation(len(dev.queries))
    graded = (max(dev.qrels.get(query, {}).values(), default=0) for query in dev.queries.ids)
    positive = np.fromiter((grade > 0 for grade in graded), dtype=bool, count=len(dev.queries))
    if positive.any():
        order = order[positive[order]]
    return dev.subset(np.sort(order[:most]))


def dev_sampler(
    dev: RetrievalData,
    model: SentenceTransformer | CrossEncoder,
    training: TrainingSection,
    views: DocumentViews | None = None,
) -> Callable[[], float] | None:
    """
    Return a function that gives the model's nDCG@10 on the dev sample; None if there are no dev queries.

    `views` is as in `evaluate_model`.
    """
    if not len(dev.queries):
        return None
    if is_ranker(model):
        sample, candidates = ranker_sample(dev, training)

        def reranked() -> float:
            rows = rerank(sample, candidates, lambda pairs: score_numpy(model, pairs))
            return mean(per_query(rankings(sample, rows), sample.qrels))["ndcg@10"]

        return reranked
    sample = dev_sample(dev, training)
    similarity = model.similarity_fn_name

    def score() -> float:
        documents, starts = document_vectors(
            sample.corpus, lambda texts: encode_vectors(model, texts, "document"), similarity, views
        )
        queries = encode_vectors(model, sample.queries.items, "query")
        rows, _ = search_vectors(queries, documents, 10 + 1, similarity=similarity, starts=starts)
        return mean(per_query(rankings(sample, rows), sample.qrels))["ndcg@10"]

    return score


def ranker_sample(dev: RetrievalData, training: TrainingSection) -> tuple[RetrievalData, np.ndarray]:
    """
    Draw the fixed dev sample of a ranker: queries, and BM25's first documents of the full corpus for each.

    Queries are drawn as for `dev_sample`. Where there are images, BM25 cannot say: each query has its positives and
    random documents, in random order.
    """
    sample = _drawn(dev, rng_for("dev sample", dev.queries.hash), training.dev_queries)
    if dev.of_texts:
        return sample, BM25(dev.corpus.texts).search(sample.queries.texts, training.dev_depth)[0]
    depth = min(training.dev_depth, len(dev.corpus))
    drawn = []
    for query, positives in zip(sample.queries.ids, sample.positives(), strict=True):
        rng = rng_for("dev sample", dev.queries.hash, query)
        others = rng.permutation(np.setdiff1d(np.arange(len(dev.corpus)), positives))
        drawn.append(rng.permutation(np.concatenate([positives, others])[:depth]))
    return sample, np.array(drawn)


def final_metrics(
    student: SentenceTransformer | CrossEncoder,
    dev: RetrievalData,
    context: TrainingContext,
    asked: list[str],
    training: TrainingSection,
    progress: dict[str, Any],
    views: DocumentViews | None = None,
) -> tuple[dict[str, Any], dict[str, Evaluation]]:
    """
    Measure the student, BM25 and the teachers that it asked; of images there is no BM25.

    A bi-encoder, BM25, and each teacher that gives vectors, rank the full corpus for all dev queries. A ranker ranks
    BM25's first documents for the dev sample, beside BM25 itself: all dev queries would take too long. Of a ranker it
    is also measured whether it looks at the query (`query_sensitivity`), and of rankers in the loop, which teach.

    :returns:
        The metrics, and the evaluations by name: `student`, `bm25` and teachers. Without dev queries both are empty.
    """
    if not len(dev.queries):
        return {"dev": {}, "training": progress}, {}
    manifest = build_manifest(student)
    if is_ranker(student):
        sample, candidates = ranker_sample(dev, training)
        found = {"student": evaluate_ranker(Ranker(student, manifest, "student"), sample, candidates)}
        if dev.of_texts:
            found["bm25"] = evaluate_rows("bm25", sample, candidates)
    else:
        loaded = (SparseStudent if is_sparse(student) else Student)(student, manifest, "student")
        found = {"student": evaluate_model(loaded, dev, views=views)}
        if dev.of_texts:
            found["bm25"] = evaluate_bm25(dev)
        for name in asked:
            teacher = context.teachers[name]
            if teacher.runs != "in_loop" and teacher.gives == "vectors":
                queries = context.teacher_cache(name, "query", dev.queries).gather(dev.queries.item_ids)
                documents = context.teacher_cache(name, "document", dev.corpus).gather(dev.corpus.item_ids)
                found[name] = evaluate_vectors(
                    name, dev, queries, documents, teacher.similarity, student=teacher.local_student
                )
    teachers = {name: e.metrics for name, e in found.items() if name not in {"student", "bm25"}}
    metrics: dict[str, Any] = {
        "student": found["student"].metrics,
        "teachers": teachers,
        "candidates": {"bm25": found["bm25"].metrics} if dev.of_texts else {},
    }
    if is_ranker(student):
        sensitivity = query_sensitivity(sample, partial(score_numpy, student))
        metrics |= {} if math.isnan(sensitivity) else {"query sensitivity": sensitivity}
    if live := _live_sensitivities(dev, context, asked, training):
        metrics["query sensitivity of teachers"] = live
    return {"dev": metrics, "training": progress}, found


def _live_sensitivities(
    dev: RetrievalData, context: TrainingContext, asked: list[str], training: TrainingSection
) -> dict[str, float]:
    """Say by name how well rankers in the loop look at queries of the dev sample, where that can be said."""
    live: dict[str, Any] = {name: context.teachers[name] for name in asked if context.teachers[name].runs == "in_loop"}
    models = {name: teacher.model for name, teacher in live.items() if is_ranker(teacher.model)}
    sample = dev_sample(dev, training) if models else dev
    found = {name: query_sensitivity(sample, partial(score_numpy, model)) for name, model in models.items()}
    return {name: sensitivity for name, sensitivity in found.items() if not math.isnan(sensitivity)}
