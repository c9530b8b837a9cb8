# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Ranking a whole corpus with a student, any bi-encoder or BM25, and measuring quality, speed and size."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retort.students.backends.exports import Backend
from retort.students.loading import Precision
from retort.students.ranker import Ranker
from retort.students.sparse import load_student
from retort.students.student import Student
from retort.students.vectors import unit
from retort.trainers.data.texts import RetrievalData
from retort.trainers.evaluation.metrics import mean, per_query
from retort.trainers.runtime.errors import DataError
from retort.trainers.runtime.progress import progress_bar
from retort.trainers.search import BM25, search_vectors
from retort.trainers.views import DocumentViews, document_vectors

logger = logging.getLogger(__name__)

DEPTH = 100
TIMED_QUERIES = 100
TIMED_LISTS = 20


@dataclass
class Evaluation:
    """
    What an evaluation found.

    :param name:
        What was evaluated.
    :param metrics:
        Means over queries, and `queries`, `documents`, `ms` (median of a query from text to top 100, one by one),
        `ms_encode` (the encoding in it), `documents_per_s`, `mb` (its weights, in the precision evaluated).
    :param per_query:
        Per query its measures.
    :param rankings:
        Per query the ranked ids.
    :param scores:
        Per query their scores, where the ranking came with any.
    """

    name: str
    metrics: dict[str, float]
    per_query: dict[str, dict[str, float]] = field(repr=False)
    rankings: dict[str, list[str]] = field(repr=False)
    scores: dict[str, list[float]] = field(repr=False, default_factory=dict)


def evaluate_bm25(data: RetrievalData) -> Evaluation:
    """Evaluate BM25 (`search.BM25`: Lucene, k1 0.9, b 0.4) over the whole corpus."""
    started = time.perf_counter()
    index = BM25(data.corpus.texts)
    rate = len(data.corpus) / (time.perf_counter() - started)
    found = index.search(data.queries.texts, DEPTH + 1)  # one of them may be the query's own
    ms = _median_ms(lambda text: index.search([text], DEPTH), data.queries.texts)
    costs = {"ms": ms, "ms_encode": 0.0, "documents_per_s": rate, "mb": 0.0}
    return _scored("bm25", data, *found, costs=costs)


def evaluate_model(
    model: str | Student,
    data: RetrievalData,
    *,
    precision: Precision | None = "float32",
    device: str | None = None,
    backend: Backend = "auto",
    threads: int | None = None,
    dim: int | None = None,
    views: DocumentViews | None = None,
    trust_remote_code: bool = False,
) -> Evaluation:
    """
    Evaluate a student, or any sentence-transformers model, over the whole corpus by exact search.

    :param model:
        A loaded student; or a folder, a Hub id, or `package:NAME/SUBFOLDER`.
    :param data:
        Corpus, queries and judgements.
    :param precision:
        As in `Student.load`; so are `backend` and `threads`.
    :param device:
        Torch device; None takes the best there is.
    :param backend:
        See above.
    :param threads:
        See above.
    :param dim:
        Keep the first so many entries of all vectors.
    :param views:
        The texts that stand for documents; None takes the documents.
    :param trust_remote_code:
        Run code that the model brings along.
    :raises DataError:
        If the model compares vectors by neither cosine nor dot product.
    """
    options: dict[str, Any] = {"precision": precision, "device": device, "backend": backend, "threads": threads}
    options["trust_remote_code"] = trust_remote_code
    student = model if isinstance(model, Student) else load_student(model, **options)
    if (similarity := student.manifest.similarity) not in {"cosine", "dot"}:
        msg = (
            f"{student.name} compares vectors by {similarity}: only models that compare by cosine or dot are evaluated."
        )
        raise DataError(msg)
    if views is None and student.manifest.kind == "multi_view":
        logger.warning("%s was trained to see documents with questions; here it sees them without.", student.name)

    def encode(texts: list[str]) -> Any:
        with progress_bar("encoding documents", len(texts)) as update:
            return student.encode_document(texts, progress=update)

    started = time.perf_counter()
    documents, starts = document_vectors(data.corpus, encode, similarity, views)
    documents = documents[:, :dim]
    rate = len(data.corpus) / (time.perf_counter() - started)
    queries = student.encode_query(data.queries.items)[:, :dim]
    found = search_vectors(queries, documents, DEPTH + 1, similarity=similarity, starts=starts)  # as for BM25
    costs = {**query_costs(student, documents, data.queries.items), "documents_per_s": rate}
    return _scored(student.name, data, *found, costs=costs)


def evaluate_vectors(
    name: str,
    data: RetrievalData,
    queries: np.ndarray,
    documents: np.ndarray,
    similarity: str,
    *,
    student: Student | None = None,
) -> Evaluation:
    """Evaluate ready vectors, `[q, d]` and `[n, d]`, over the whole corpus; with times, if their model is given."""
    costs = query_costs(student, documents, data.queries.items) if student else {}
    return _scored(name, data, *search_vectors(queries, documents, DEPTH + 1, similarity=similarity), costs=costs)


def evaluate_rows(name: str, data: RetrievalData, rows: np.ndarray) -> Evaluation:
    """Evaluate ready rankings: rows of the corpus `[q, k]`, best first; -1 where there are fewer."""
    return _scored(name, data, rows)


def evaluate_ranker(
    model: str | Ranker,
    data: RetrievalData,
    candidates: np.ndarray,
    *,
    precision: Precision = "float32",
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Evaluation:
    """
    Evaluate a ranker on what a first stage retrieved.

    :param model:
        A loaded ranker; or a folder, a Hub id, or `package:NAME/SUBFOLDER`.
    :param data:
        Corpus, queries and judgements.
    :param candidates:
        `[q, k]` rows of the corpus for each query; -1 where there are fewer.
    :param precision:
        `float32`, `bfloat16` or `auto`.
    :param device:
        Torch device; None takes the best there is.
    :param trust_remote_code:
        Run code that the model brings along.
    :returns:
        `ms` is the median of ranking one query's list, one by one; `documents_per_s` counts pairs.
    """
    options: dict[str, Any] = {"precision": precision, "device": device, "trust_remote_code": trust_remote_code}
    ranker = model if isinstance(model, Ranker) else Ranker.load(model, **options)
    started = time.perf_counter()
    rows = rerank(data, candidates, ranker.score)
    rate = np.count_nonzero(candidates >= 0) / (time.perf_counter() - started)
    found = zip(data.queries.items, candidates, strict=True)
    lists = {query: own for query, rows in found if (own := [data.corpus.items[r] for r in rows if r >= 0])}
    ms = _median_ms(lambda query: ranker.score([(query, text) for text in lists[query]]), list(lists)[:TIMED_LISTS])
    costs = {"ms": ms, "ms_encode": ms, "documents_per_s": rate, "mb": ranker.megabytes}
    return _scored(ranker.name, data, rows, costs=costs)


def evaluate_reranked(ranker: Ranker, data: RetrievalData, first: Evaluation, depth: int) -> Evaluation:
    """
    Evaluate a retriever's rankings whose first documents a ranker ranks anew; the rest stays below.

    :param ranker:
        The ranker.
    :param data:
        Corpus, queries and judgements.
    :param first:
        The retriever's evaluation.
    :param depth:
        Documents a query that are ranked anew, at most.
    :returns:
        Measures of the whole rankings; times and size are the ranker's (see `evaluate_ranker`).
    """
    tops = {query: ranked[:depth] for query, ranked in first.rankings.items()}
    rows = np.full((len(data.queries), max(1, *map(len, tops.values()))), -1, dtype=np.int64)
    for row, query in zip(rows, data.queries.ids, strict=True):
        row[: len(tops[query])] = [data.corpus.rows[i] for i in tops[query]]
    second = evaluate_ranker(ranker, data, rows)
    whole = {query: [*ranked, *first.rankings[query][depth:]] for query, ranked in second.rankings.items()}
    scores = per_query(whole, data.qrels)
    return Evaluation(f"{first.name} + {ranker.name}", second.metrics | mean(scores), scores, whole)


def query_sensitivity(data: RetrievalData, score: Callable[[list[tuple[str, str]]], np.ndarray]) -> float:
    """
    Say how often a ranker scores a positive above the same document with another query; equal scores count half.

    One that has learnt by heart which documents are positives looks well on the queries it learnt from, and gives .5.

    :param data:
        Corpus, queries and judgements.
    :param score:
        Gives `[n]` scores for `n` pairs of query and document.
    :returns:
        A share; NaN if there is no query of another document.
    """
    asked = [(q, p.tolist()) for q, p in zip(data.queries.items, data.positives(), strict=True) if len(p)]
    pairs, half = [], len(asked) // 2  # neighbours often ask for neighbouring documents
    for (query, positives), (other, others) in zip(asked, asked[half:] + asked[:half], strict=True):
        if positives[0] not in others:
            pairs += [(q, data.corpus.items[positives[0]]) for q in (query, other)]
    if not pairs:
        return float("nan")
    own, others = score(pairs).reshape(-1, 2).T
    return float(np.mean((own > others) + 0.5 * (own == others)))


def rerank(
    data: RetrievalData, candidates: np.ndarray, score: Callable[[list[tuple[str, str]]], np.ndarray]
) -> np.ndarray:
    """
    Order each query's candidates by a score of pairs; equal scores keep the order of the first stage.

    :param data:
        Corpus and queries.
    :param candidates:
        `[q, k]` rows of the corpus; -1 where there are fewer.
    :param score:
        Gives `[n]` scores for `n` pairs of query and document.
    :returns:
        `[q, k]` rows, best first, those of -1 last.
    """
    items = data.corpus.items
    there = candidates >= 0
    pairs = [(q, items[r]) for q, found in zip(data.queries.items, candidates, strict=True) for r in found if r >= 0]
    scores = np.full(candidates.shape, -np.inf)
    if pairs:
        scores[there] = score(pairs)
    return np.take_along_axis(candidates, np.argsort(-scores, axis=1, kind="stable"), axis=1)


def rankings(data: RetrievalData, rows: np.ndarray) -> dict[str, list[str]]:
    """
    Turn rows of the corpus into ids by query.

    :param data:
        Corpus, queries and judgements.
    :param rows:
        `[q, k]`, best first; -1 is left out, and so is a query's own document (see `own_rows`).
    """
    ids, own = data.corpus.ids, own_rows(data)
    pairs = zip(data.queries.ids, rows, own, strict=True)
    return {q: [ids[r] for r in found if r not in (-1, left_out)] for q, found, left_out in pairs}


def own_rows(data: RetrievalData) -> np.ndarray:
    """
    `[q]` rows of the queries' own documents, -1 where there is none: BEIR's rule, by ids.

    As there, a document with the id of the query is not counted as retrieved (in ArguAna and Quora queries are
    documents of the corpus). One that is judged relevant is no copy of its query: it stays, where queries and documents
    are numbered alike.
    """
    own = (-1 if data.qrels.get(q, {}).get(q, 0) > 0 else data.corpus.rows.get(q, -1) for q in data.queries.ids)
    return np.fromiter(own, dtype=np.int64, count=len(data.queries))


def encoding_rates(students: dict[str, Student], texts: list[str], *, rounds: int = 3) -> dict[str, float]:
    """
    Time how many documents a second several models encode, in turn, so that a busy machine slows all alike.

    :param students:
        The models by name.
    :param texts:
        Documents to encode.
    :param rounds:
        How often each encodes them; the median counts.
    :returns:
        Documents a second by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in students}
    for _ in range(rounds):
        for name, student in students.items():
            started = time.perf_counter()
            student.encode_document(texts)
            seconds[name].append(time.perf_counter() - started)
    return {name: len(texts) / float(np.median(taken)) for name, taken in seconds.items()}


def query_costs(student: Student, documents: Any, queries: list[str]) -> dict[str, float]:
    """Time single queries: `ms` from text to the top 100 of `documents` `[n, d]`, `ms_encode` of it; and `mb`."""
    if student.manifest.similarity == "cosine" and isinstance(documents, np.ndarray):  # once, as an index does
        documents = unit(documents)

    timed = []
    for text in _spread(queries):
        started = time.perf_counter()
        vector = student.encode_query([text])[:, : documents.shape[1]]
        encoded = time.perf_counter()
        search_vectors(vector, documents, DEPTH, similarity="dot", device="cpu")
        timed.append((time.perf_counter() - started, encoded - started))
    ms, ms_encode = np.median(timed, axis=0) * 1000
    return {"ms": float(ms), "ms_encode": float(ms_encode), "mb": student.megabytes}


def _scored(
    name: str,
    data: RetrievalData,
    rows: np.ndarray,
    scores: np.ndarray | None = None,
    *,
    costs: Mapping[str, float] | None = None,
) -> Evaluation:
    """Measure rankings, of `DEPTH` documents at most."""
    kept = (rows >= 0) & (rows != own_rows(data)[:, None])
    ranked = {q: found[:DEPTH] for q, found in rankings(data, rows).items()}
    each: dict[str, list[float]] = {}
    if scores is not None:
        each = {q: s[k][:DEPTH].tolist() for q, s, k in zip(data.queries.ids, scores, kept, strict=True)}
    measures = per_query(ranked, data.qrels)
    sizes = {"queries": len(data.queries), "documents": len(data.corpus)}
    return Evaluation(name, {**mean(measures), **(costs or {}), **sizes}, measures, ranked, each)


def _spread(texts: list[str]) -> list[str]:
    return texts[:: max(1, len(texts) // TIMED_QUERIES)][:TIMED_QUERIES]


def _median_ms(run: Callable[[str], Any], texts: list[str]) -> float:
    timed = []
    for text in _spread(texts):
        started = time.perf_counter()
        run(text)
        timed.append((time.perf_counter() - started) * 1000)
    return float(np.median(timed)) if timed else 0.0
