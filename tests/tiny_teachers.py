# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Somebody's own teachers, as a user's module would hold them; not in a trusted namespace."""

import zlib
from collections.abc import Iterator

import numpy as np
from tiny_components import overlap

from retort.students.towers import Side
from retort.trainers.roles import Ask, Teacher


class HashedWords(Teacher):
    """Vectors that count a text's words, by what they hash to."""

    gives = "vectors"
    costs = "time"
    dim = 8
    key = "hashed words"

    def encode(self, texts: list[str], side: Side) -> np.ndarray:
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in text.lower().split():
                vector[zlib.crc32(word.encode()) % self.dim] += 1
        return vectors


class CommonWords(Teacher):
    """Scores by words in common; `order_only` gives ranks."""

    costs = "nothing"

    def __init__(self, *, order_only: bool = False) -> None:
        self.gives = "ranks" if order_only else "scores"

    @property
    def key(self) -> str:
        return f"common words {self.gives}"

    def score(self, asks: list[Ask]) -> Iterator[np.ndarray]:
        for ask in asks:
            scores = np.array([overlap(ask.query, document) for document in ask.documents], dtype=np.float32)
            yield -np.argsort(np.argsort(-scores)).astype(np.float32) if self.gives == "ranks" else scores


class Speechless(Teacher):
    """Does not say what it gives."""

    key = "speechless"
