# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What miners and methods may use between steps: data, teachers with their cached vectors, the current student."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import issparse, vstack
from scipy.sparse.linalg import norm as sparse_norm

from retort.students.hashing import fingerprint_of, hash_text
from retort.students.scoring import is_ranker, score_numpy
from retort.students.sparse import encode_vectors
from retort.students.towers import SIDES, Side
from retort.students.vectors import unit
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.encoder_output import COSINE_SCALE
from retort.trainers.roles import Ask, EncodedPart, Teacher
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.runtime.progress import progress_bar
from retort.trainers.search import BM25
from retort.trainers.teachers.score_store import ScoreStore, kept_kind
from retort.trainers.teachers.vector_cache import VectorCache
from retort.trainers.views import DocumentViews, document_vectors

PAIRS = 2**16  # of vectors, compared at a time

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    from retort.trainers.runtime.distributed import ProcessGroup


class TrainingContext:
    """
    Models and vectors at hand.

    :param data:
        The training data.
    :param teachers:
        Teachers by name.
    :param cache:
        The cache folder.
    :param student:
        The model in training; its vectors are computed anew whenever its weights changed.
    """

    def __init__(
        self,
        data: RetrievalData,
        teachers: dict[str, Teacher],
        cache: Path,
        student: SentenceTransformer | CrossEncoder | None = None,
    ) -> None:
        self.data = data
        self.teachers = teachers
        self.cache = cache
        self._student = student
        self.views: DocumentViews | None = None  # what stands for documents in search, where the student sees more
        self.progress = 0.0  # of the stage, as it opens or is refreshed
        self.student_scale = 1.0  # factor on its scores
        self.kinds: dict[str, str] = {}  # of teachers that were asked for scores: `scores` or `ranks`
        self.processes: ProcessGroup | None = None  # those of the run, which may share `work`
        self._vectors: dict[tuple[str, str, Side], Any] = {}
        #: With their keys, by teacher and side: reading a large one takes a minute.
        self._caches: dict[tuple[str, Side], tuple[str, VectorCache]] = {}

    def over(self, data: RetrievalData) -> TrainingContext:
        """Return the same models over other data."""
        other = TrainingContext(data, self.teachers, self.cache, self._student)
        other.views, other.progress, other.student_scale = self.views, self.progress, self.student_scale
        other.processes = self.processes
        other._caches = self._caches
        if data.corpus is self.data.corpus and "bm25" in vars(self):
            vars(other)["bm25"] = self.bm25
        return other

    def model_key(self, name: str) -> str:
        """Identify a model's weights, and the student's views: a teacher's key, or the student's as it is now."""
        if name != "student":
            return self.teacher(name).key
        own, views = fingerprint_of(self._current()), self._averaged()
        return own if views is None else hash_text(f"{own} {views.key}")

    def similarity(self, name: str) -> str:
        """Return how a model's vectors are compared."""
        return self._current().similarity_fn_name if name == "student" else self.teacher(name).similarity

    def scale(self, name: str) -> float:
        """
        Return the factor on a model's `scores` before a softmax, where an objective sets none.

        It is the student's own; for teachers' cosines the student's for cosines, and 1 for what others give.
        """
        if name == "student":
            return self.student_scale
        if self.teachers[name].gives != "vectors" or self.similarity(name) != "cosine":
            return 1.0
        cosines = self._student is not None and not is_ranker(self._student) and self.similarity("student") == "cosine"
        return self.student_scale if cosines else COSINE_SCALE

    def vectors(self, name: str, side: Side) -> Any:
        """
        Return a model's vectors of all queries or all documents of the data, `[n, d]`; a `csr_array` if sparse.

        A document that the student sees with questions has the mean of its views, where search has it as well.
        """
        texts = self.data.queries if side == "query" else self.data.corpus
        key = (name, self.model_key(name), side)
        if key not in self._vectors:
            # What an earlier state of the model gave is of no use any more.
            self._vectors = {k: v for k, v in self._vectors.items() if k[0] != name or k[1] == key[1]}
            if name == "student":
                self._vectors[key] = self._of_student(texts, side)
            else:
                self._vectors[key] = self.teacher_cache(name, side, texts).gather(texts.item_ids)
        return self._vectors[key]

    def teacher_cache(self, name: str, side: Side, texts: TextStore) -> VectorCache:
        """Return a teacher's cache, filled for these texts."""
        cache = self.vector_cache(name, side)
        other: Side = "document" if side == "query" else "query"
        other_dim = self.vector_cache(name, other).dim if self.teacher(name).asks_for_dim else None
        with progress_bar(f"teacher {name}: {side} texts", len(texts)) as update:

            def after_part(count: int) -> None:
                update(count)
                _check_sides(name, {side: cache.dim, other: other_dim})

            cache.fill(texts, lambda block: self._encoded_parts(name, side, block), after_part)
        return cache

    def vector_cache(self, name: str, side: Side) -> VectorCache:
        """Return a teacher's cache as it is; it is not asked."""
        teacher = self.teacher(name)
        key = teacher.vectors_key(side)
        former, cache = self._caches.get((name, side), ("", None))
        if cache is None or former != key:
            cache = VectorCache(self.cache, key, side, former_key=teacher.former_key)
        else:
            cache.refresh()
        self._caches[name, side] = key, cache
        return cache

    def kept_vectors(self, name: str, side: Side, most: int) -> np.ndarray:
        """
        Return a teacher's vectors of the first `most` texts, as far as they are kept; it is not asked.

        :returns:
            `[n, d]` float32, without texts that it refused; `[0, 0]` where none is kept.
        """
        texts = self.data.queries if side == "query" else self.data.corpus
        texts = texts.select(range(min(most, len(texts))))
        cache = self.vector_cache(name, side)
        missing = cache.missing(texts)
        items = np.array([item for item in texts.item_ids if item.tobytes() not in missing], dtype=texts.item_ids.dtype)
        vectors = cache.gather(items) if len(items) and cache.dim else np.zeros((0, 0), dtype=np.float32)
        return vectors[~np.isnan(vectors).any(axis=1)]

    def document_encoder(self, name: str) -> Callable[[list[str]], np.ndarray]:
        """Return a function that gives a teacher's vectors of documents; those of the corpus are asked for together."""
        caches: list[VectorCache] = []

        def encode(texts: list[str]) -> np.ndarray:
            if not caches:
                caches.append(self.teacher_cache(name, "document", self.data.corpus))
            store = TextStore(map(str, range(len(texts))), texts)
            caches[0].fill(store, partial(self._encoded_parts, name, "document"), lambda _: None)
            return caches[0].gather(store.item_ids)

        return encode

    def dim(self, name: str, *, ask: bool = True) -> int | None:
        """
        Return the dimension of a teacher's vectors; None where it is not known and the teacher may not be asked.

        What its vectors in the cache tell it is not asked for. Else a teacher is asked for a query and a document of
        the data, whose vectors are kept.

        :raises RecipeError:
            If the vectors that are there, of queries and documents, have different dimensions.
        """
        teacher = self.teacher(name)
        if not teacher.asks_for_dim:
            return teacher.dim
        kept = {side: cache.dim for side in SIDES if (cache := self.vector_cache(name, side)).dim is not None}
        _check_sides(name, kept)
        known = {*kept.values()} | ({teacher.named_dim} - {None})
        if len(known) > 1:
            told = ", ".join(f"{dim} of a {side}" for side, dim in kept.items())
            msg = (
                f"teacher {name!r}: its vectors differ in dimensions: kept are {told}, and its embedders name "
                f"{teacher.named_dim}. Name another `revision`."
            )
            raise RecipeError(msg)
        if known or not ask:
            return next(iter(known), None)
        dims = {side: self._dim_of_first(name, side) for side in SIDES}
        _check_sides(name, dims)
        return dims["query"] or dims["document"] or teacher.dim

    def _dim_of_first(self, name: str, side: Side) -> int | None:
        """Ask a teacher for the first text of a side; None where there is none, or it is refused."""
        texts, cache = self.data.queries if side == "query" else self.data.corpus, self.vector_cache(name, side)
        first = TextStore(texts.ids[:1], texts.items[:1])
        cache.fill(first, lambda block: self.teacher(name).encode_parts(block, side), lambda _: None)
        return cache.dim

    def scores(self, name: str, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """
        Return a teacher's scores of pairs; what was never asked for is asked for now.

        :param name:
            A teacher, or `student` as it is now; those that give vectors score by their similarity.
        :param queries:
            `[m]` rows of queries, those of a query next to each other.
        :param documents:
            `[m]` rows of documents.
        :returns:
            `[m]` float32, NaN where not given.
        """
        if name == "student" and is_ranker(self._student):
            pairs = zip(queries.tolist(), documents.tolist(), strict=True)
            texts = [(self.data.queries.items[q], self.data.corpus.items[d]) for q, d in pairs]
            return score_numpy(self._student, texts)
        if name == "student" or self.teachers[name].gives == "vectors":
            return self._vector_scores(name, queries, documents)
        teacher = self.teachers[name]
        key, former = self._store_keys(name)
        store = ScoreStore(self.cache, key, former_key=former)
        with progress_bar(f"teacher {name}: pairs", len(queries)) as update:
            store.fill(teacher, self.data, queries, documents, update, ask=partial(self._scored_parts, name))
        found = store.gather(self.data.queries.item_ids[queries], self.data.corpus.item_ids[documents])[0]
        self.kinds[name] = store.kind or "scores"
        return found

    def known_kind(self, name: str) -> str | None:
        """Tell whether a teacher gives `scores` or `ranks`, as far as that is known without asking it."""
        teacher = self.teachers[name]
        if teacher.gives != "scores" or teacher.runs != "cached":
            return teacher.gives
        kinds = [kept_kind(self.cache / "scores" / key) for key in self._store_keys(name) if key]
        return next((kind for kind in kinds if kind), None)

    def _store_keys(self, name: str) -> tuple[str, str]:
        """Return the key of a teacher's scores, and the one that they may still go by."""
        teacher = self.teachers[name]
        key, former = teacher.key, teacher.former_key
        if not teacher.corpus_dependent:
            return key, former
        formers = (hash_text(own + self.data.hash) for own in (key, former) if own)  # when all of the data counted
        kept = next((own for own in formers if (self.cache / "scores" / own).is_dir()), "")
        return hash_text(key + teacher.data_key(self.data)), kept

    def _vector_scores(self, name: str, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        asks, answers = self.vectors(name, "query"), self.vectors(name, "document")
        self.kinds[name] = "scores"
        cosine = self.similarity(name) == "cosine"
        blocks = [slice(start, start + PAIRS) for start in range(0, len(queries), PAIRS)]  # a vector each takes memory
        found = [_pair_scores(asks[queries[own]], answers[documents[own]], cosine=cosine) for own in blocks]
        return np.concatenate([np.empty(0, np.float32), *found])

    def teacher(self, name: str) -> Teacher:
        """
        Return a teacher that gives vectors.

        :raises RecipeError:
            If the recipe has none of this name, or it gives scores only.
        """
        if name not in self.teachers:
            msg = f"There is no teacher {name!r}; there are: {', '.join(self.teachers) or 'none'}, and student."
            raise RecipeError(msg)
        teacher = self.teachers[name]
        if teacher.gives != "vectors":
            msg = f"teacher {name!r} scores lists; it gives no vectors."
            raise RecipeError(msg)
        return teacher

    @cached_property
    def bm25(self) -> BM25:
        """The lexical index of the corpus, built once."""
        return BM25(self.data.corpus.texts)

    def _of_student(self, texts: TextStore, side: Side) -> Any:
        student = self._current()

        def encode(own: list[str]) -> Any:
            with progress_bar(f"encoding {side} texts with the student", len(own)) as update:
                team = self._team()
                if team is None or not own:
                    return encode_vectors(student, own, side, progress=update)
                rows, vectors = [], []
                for some, found in team.share(("student", side), own, own):
                    rows.append(some)
                    vectors.append(found)
                    update(len(some))
            joined = vstack(vectors, format="csr") if issparse(vectors[0]) else np.concatenate(vectors)
            return joined[np.argsort(np.concatenate(rows), kind="stable")]

        views = self._averaged() if side == "document" else None
        return document_vectors(texts, encode, student.similarity_fn_name, views)[0]

    def work(self, task: tuple[str, Side | None], items: list[Any]) -> Any:
        """
        Do what the processes of a run share; each has the same models.

        :param task:
            A model's name and a side; without one a teacher scores lists.
        :param items:
            Texts, or lists (`Ask`).
        :returns:
            The student's vectors, or the parts that the teacher gives.
        """
        name, side = task
        if name == "student":
            return encode_vectors(self._current(), items, side or "document")
        teacher = self.teachers[name]
        return list(teacher.score_parts(items) if side is None else teacher.encode_parts(items, side))

    def _team(self) -> ProcessGroup | None:
        """Return the processes while the others wait for work; at other times each works alone."""
        return self.processes if self.processes is not None and self.processes.leads else None

    def _encoded_parts(self, name: str, side: Side, texts: list[str]) -> Iterator[EncodedPart]:
        """Ask a teacher, in all processes if they share it; see `Teacher.encode_parts`."""
        team = self._team()
        if team is None or not self.teachers[name].shared:
            yield from self.teachers[name].encode_parts(texts, side)
            return
        for rows, parts in team.share((name, side), texts, texts):
            for part in parts:
                refused = {int(rows[row]): cause for row, cause in part.refused.items()}
                yield EncodedPart(rows[part.rows].tolist(), part.vectors, refused)

    def _scored_parts(self, name: str, asks: list[Ask]) -> Iterator[tuple[Ask, np.ndarray | str]]:
        """Ask a teacher, in all processes if they share it; see `Teacher.score_parts`."""
        team = self._team()
        if team is None or not self.teachers[name].shared:
            yield from self.teachers[name].score_parts(asks)
            return
        for _, parts in team.share((name, None), asks, [ask.documents for ask in asks]):
            yield from parts

    def _averaged(self) -> DocumentViews | None:
        return self.views if self.views is not None and self.views.rule.combine == "mean" else None

    def _current(self) -> SentenceTransformer:
        if self._student is None:
            msg = "There is no student yet to mine with."
            raise RuntimeError(msg)
        if is_ranker(self._student):
            msg = "the student is a ranker: it has no vectors to mine with. Name a teacher."
            raise RecipeError(msg)
        return self._student


def _check_sides(name: str, dims: Mapping[Side, int | None]) -> None:
    """Refuse vectors of queries and documents that cannot be compared."""
    query, document = dims.get("query"), dims.get("document")
    if query and document and query != document:
        msg = (
            f"teacher {name!r}: the text embedder gives {query} numbers, the document embedder {document}; name one "
            "model, or the same dimensions, for both. If that is so, vectors of another model are kept: name another "
            "`revision`."
        )
        raise RecipeError(msg)


def _pair_scores(left: Any, right: Any, *, cosine: bool) -> np.ndarray:
    """Compare each vector of one array, or sparse matrix, with that of the other."""
    if issparse(left):
        found = np.asarray(left.multiply(right).sum(axis=1)).ravel()
        norms = sparse_norm(left, axis=1) * sparse_norm(right, axis=1) if cosine else 1.0
        return (found / np.maximum(norms, 1e-12)).astype(np.float32)
    if cosine:
        left, right = unit(left), unit(right)
    return np.einsum("md,md->m", left, right).astype(np.float32)
