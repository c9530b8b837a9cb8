# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Teachers: anything that gives vectors or scores to learn from."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from retort.students.towers import Side
from retort.trainers.data.texts import RetrievalData


class VectorTeacher(Protocol):
    """
    A teacher that gives vectors.

    `key` identifies everything that decides its vectors; `similarity` is `cosine` or `dot`; `dim` their dimension.
    """

    key: str
    similarity: str
    dim: int

    def encode(self, texts: list[str], side: Side) -> np.ndarray:
        """Give the vectors `[n, dim]` float32 of `n` texts."""
        ...


@dataclass
class Ask:
    """One query, and the documents that are to be scored for it, as the teacher sees them."""

    query_id: str
    query: str
    document_ids: list[str]
    documents: list[str]


class ScoreTeacher:
    """
    A teacher that scores lists.

    `kind` is `scores`, or `ranks` where only their order means
    something; None as long as it is not known. `listwise`: a document's score depends on the list it stands in, so that
    whole lists are asked for. `corpus_dependent`: scores depend on the corpus.
    """

    kind: Literal["scores", "ranks"] | None = "scores"
    listwise = False
    corpus_dependent = False

    @property
    def key(self) -> str:
        """Identify everything that decides the scores."""
        raise NotImplementedError

    def open(self, data: RetrievalData) -> None:
        """Get ready to score queries and documents of this data; called before `score`."""

    def score(self, asks: list[Ask]) -> Iterator[np.ndarray]:
        """
        Score lists one after the other; what was given before an error is kept.

        :param asks:
            A block of work.
        :returns:
            Per ask `[N]` float32: raw scores, or negated ranks; NaN where the teacher has none.
        :raises TeacherError:
            If the teacher fails, or its answer cannot be used.
        """
        raise NotImplementedError


AnyTeacher = VectorTeacher | ScoreTeacher  # or one in the loop, `live.LiveTeacher`
