# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Scores that the training data brings along, as a teacher."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from retort.trainers.data.texts import RetrievalData
from retort.trainers.roles import Ask, Teacher
from retort.trainers.runtime.errors import TeacherError


class GivenTeacher(Teacher):
    """
    The scores in the training data (see `retort.trainers.data.read`); documents without one have none.

    ```yaml
    teachers: {given: {type: retort.trainers.teachers.given.GivenTeacher}}
    ```
    """

    gives = "scores"
    costs = "nothing"
    corpus_dependent = True

    def __init__(self) -> None:
        self._given: dict[str, dict[str, float]] = {}

    @property
    def key(self) -> str:
        """Identify what gives the scores; which ones says `data_key`."""
        return "given"

    def data_key(self, data: RetrievalData) -> str:
        """Identify the data, the scores among it."""
        return data.hash

    def open(self, data: RetrievalData) -> None:
        """
        Take the data's scores.

        :raises TeacherError:
            If it has none.
        """
        self.check(data)
        self._given = data.given

    def check(self, data: RetrievalData) -> None:
        """
        Refuse data without scores.

        :raises TeacherError:
            If it has none.
        """
        if not any(np.isfinite(score) for scores in data.given.values() for score in scores.values()):
            msg = f"{data.name}: the training data gives no scores. Name another teacher."
            raise TeacherError(msg)

    def score(self, asks: list[Ask]) -> Iterator[np.ndarray]:
        """Look scores up; see `Teacher.score`."""
        for ask in asks:
            scores = self._given.get(ask.query_id, {})
            yield np.array([scores.get(i, np.nan) for i in ask.document_ids], dtype=np.float32)
