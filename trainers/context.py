# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What miners and methods may use between steps: data, teachers with their cached vectors, the current student."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import issparse

from retort.students.hashing import fingerprint_of, hash_text
from retort.students.scoring import is_ranker, score_numpy
from retort.students.sparse import encode_vectors
from retort.students.towers import Side
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.roles import Teacher
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.runtime.progress import progress_bar
from retort.trainers.search import BM25
from retort.trainers.teachers.score_store import ScoreStore
from retort.trainers.teachers.vector_cache import VectorCache

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer


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
        self.kinds: dict[str, str] = {}  # of teachers that were asked for scores: `scores` or `ranks`
        self._vectors: dict[tuple[str, str, Side], Any] = {}

    def over(self, data: RetrievalData) -> TrainingContext:
        """Return the same models over other data."""
        other = TrainingContext(data, self.teachers, self.cache, self._student)
        if data.corpus is self.data.corpus and "bm25" in vars(self):
            vars(other)["bm25"] = self.bm25
        return other

    def model_key(self, name: str) -> str:
        """Identify a model's weights: a teacher's key, or the fingerprint of the student as it is now."""
        return fingerprint_of(self._current()) if name == "student" else self.teacher(name).key

    def similarity(self, name: str) -> str:
        """Return how a model's vectors are compared."""
        return self._current().similarity_fn_name if name == "student" else self.teacher(name).similarity

    def vectors(self, name: str, side: Side) -> Any:
        """Return a model's vectors of all queries or all documents of the data, `[n, d]`; a `csr_array` if sparse."""
        texts = self.data.queries if side == "query" else self.data.corpus
        key = (name, self.model_key(name), side)
        if key not in self._vectors:
            # What an earlier state of the model gave is of no use any more.
            self._vectors = {k: v for k, v in self._vectors.items() if k[0] != name or k[1] == key[1]}
            if name == "student":
                with progress_bar(f"encoding {side} texts with the student", len(texts)) as update:
                    self._vectors[key] = encode_vectors(self._current(), texts.texts, side, progress=update)
            else:
                self._vectors[key] = self.teacher_cache(name, side, texts).gather(texts.item_ids)
        return self._vectors[key]

    def teacher_cache(self, name: str, side: Side, texts: TextStore) -> VectorCache:
        """Return a teacher's cache, filled for these texts."""
        teacher = self.teacher(name)
        cache = VectorCache(self.cache, teacher.key, side)
        with progress_bar(f"teacher {name}: {side} texts", len(texts)) as update:
            cache.fill(texts, lambda block: teacher.encode(block, side), update)
        return cache

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
            texts = [(self.data.queries.texts[q], self.data.corpus.texts[d]) for q, d in pairs]
            return score_numpy(self._student, texts)
        if name == "student" or self.teachers[name].gives == "vectors":
            return self._vector_scores(name, queries, documents)
        teacher = self.teachers[name]
        key = hash_text(teacher.key + self.data.hash) if teacher.corpus_dependent else teacher.key
        store = ScoreStore(self.cache, key)
        with progress_bar(f"teacher {name}: pairs", len(queries)) as update:
            store.fill(teacher, self.data, queries, documents, update)
        found = store.gather(self.data.queries.item_ids[queries], self.data.corpus.item_ids[documents])[0]
        self.kinds[name] = store.kind or "scores"
        return found

    def _vector_scores(self, name: str, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        left, right = self.vectors(name, "query")[queries], self.vectors(name, "document")[documents]
        self.kinds[name] = "scores"
        if issparse(left):
            return np.asarray(left.multiply(right).sum(axis=1), dtype=np.float32).ravel()
        if self.similarity(name) == "cosine":
            left, right = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (left, right))
        return np.einsum("md,md->m", left, right).astype(np.float32)

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

    def _current(self) -> SentenceTransformer:
        if self._student is None:
            msg = "There is no student yet to mine with."
            raise RuntimeError(msg)
        if is_ranker(self._student):
            msg = "the student is a ranker: it has no vectors to mine with. Name a teacher."
            raise RecipeError(msg)
        return self._student
