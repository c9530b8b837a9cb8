# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Teachers that are trained within a run, when a stage first asks them.

They learn on the candidates of that time: a miner of the recipe that searches with `student` gives them the errors of
the student as it is then. So teachers follow the pool, as in PROD (Lin et al. 2023). A miner that searches with a
bi-encoder in training gives it its own errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from retort.students.hashing import fingerprint_of
from retort.students.loading import Precision, check_precision
from retort.students.scoring import is_ranker
from retort.students.sparse import encode_vectors
from retort.students.student import Student
from retort.students.towers import Side
from retort.trainers.recipe import Recipe, trusts_code
from retort.trainers.roles import Ask, Teacher
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.teachers.bi_encoder import BiEncoderTeacher
from retort.trainers.teachers.cross_encoder import CrossEncoderTeacher


class TrainedInRun(Teacher):
    """
    What both kinds have in common; its model ends in `teachers/NAME/student` of the run folder.

    :param student:
        The model to start from, as a recipe's `student`.
    :param stages:
        How it is trained, as a recipe's `stages`; teachers and candidates are those of the recipe around. A miner that
        searches with this very teacher searches with the model as it is when the stage starts.
    :param training:
        As a recipe's `training`; what is left out is as in the recipe around.
    :param precision:
        In which it teaches: `float32`, `bfloat16` or `auto`.
    """

    runs = "trained_in_run"
    costs = "time"

    def __init__(
        self,
        *,
        student: dict[str, Any],
        stages: list[dict[str, Any]],
        training: dict[str, Any] | None = None,
        precision: Precision = "float32",
    ) -> None:
        check_precision(precision)
        self._student = student
        self._stages = stages
        self._training = training or {}
        self.precision: Precision = precision
        self._teacher: Any = None
        self._in_training: Any = None

    def train_as(self, model: Any) -> None:
        """Take up the model that is about to be trained."""
        self._in_training = model

    @property
    def is_trained(self) -> bool:
        """Whether it can be asked."""
        return self._teacher is not None

    @property
    def key(self) -> str:
        """Identify its weights, once it has them."""
        return self._trained.key

    @property
    def _trained(self) -> Any:
        if self._teacher is None:
            msg = "this teacher is trained when a stage asks it, and none has yet."
            raise RecipeError(msg)
        return self._teacher

    def recipe(self, around: Recipe, name: str) -> Recipe:
        """
        Return the recipe that trains it.

        :param around:
            The run's recipe.
        :param name:
            Its own name there.
        :raises RecipeError:
            If its parameters are no recipe.
        """
        whole = around.to_dict()
        tree = {
            **whole,
            "student": self._student,
            "teachers": {other: spec for other, spec in whole["teachers"].items() if other != name},
            "training": {**whole["training"], **self._training},
            "stages": self._stages,
        }
        try:
            found = Recipe.from_dict(tree, allow=around.allow, origin="")
        except RecipeError as error:
            msg = f"teachers.{name}.init_parameters.{error}"
            raise RecipeError(msg) from error
        found.name = f"{around.name}, teacher {name}"
        return found

    def look_at(self, model: Any) -> None:
        """
        Note what others must know of the model before it is trained.

        :raises ValueError:
            If it is of the other kind.
        """
        raise NotImplementedError

    @property
    def _options(self) -> dict[str, Any]:
        return {"precision": self.precision, "trust_remote_code": trusts_code(self._student)}

    def load(self, folder: Path) -> None:
        """Take up the trained model."""
        raise NotImplementedError


class TrainedInRunRanker(TrainedInRun):
    """
    A cross-encoder that is trained within the run; parameters as in `TrainedInRun`.

    ```yaml
    teachers:
      ranker:
        type: retort.trainers.teachers.trained_in_run.TrainedInRunRanker
        init_parameters:
          student: {type: retort.students.create.ranker, init_parameters: {trunk: my-encoder}}
          stages:
            - name: rank
              candidates: {sources: [bm25], negatives: 7}
              steps: 1000
              objectives: [{type: retort.trainers.objectives.Contrastive, init_parameters: {scope: list}}]
    ```
    """

    gives = "scores"

    def look_at(self, model: Any) -> None:
        """Refuse a bi-encoder."""
        if not is_ranker(model):
            msg = "TrainedInRunRanker trains a ranker; for a bi-encoder take TrainedInRunBiEncoder."
            raise ValueError(msg)

    def load(self, folder: Path) -> None:
        """Take up the trained ranker."""
        self._teacher = CrossEncoderTeacher(model=str(folder), **self._options)

    def score(self, asks: list[Ask]) -> Iterator[np.ndarray]:
        """Score lists; see `Teacher.score`."""
        yield from self._trained.score(asks)


class TrainedInRunBiEncoder(TrainedInRun):
    """
    A bi-encoder that is trained within the run; parameters as in `TrainedInRun`.

    ```yaml
    teachers:
      dual:
        type: retort.trainers.teachers.trained_in_run.TrainedInRunBiEncoder
        init_parameters:
          student: {type: retort.students.create.pretrained, init_parameters: {model: my-encoder}}
          stages:
            - name: warm-up
              candidates: {sources: [bm25], negatives: 1}
              steps: 1000
              objectives: [{type: retort.trainers.objectives.Contrastive}]
            - name: go-on
              candidates: {sources: [dual], negatives: 1}     # a DenseMiner of `model: dual`: its own errors
              steps: 250
              objectives: [{type: retort.trainers.objectives.Contrastive}]
    ```
    """

    gives = "vectors"

    @property
    def key(self) -> str:
        """Identify its weights, those that it has now while it is trained."""
        return self._trained.key if self._in_training is None else fingerprint_of(self._in_training)

    def look_at(self, model: Any) -> None:
        """Note dimension and similarity; refuse a ranker."""
        if is_ranker(model):
            msg = "TrainedInRunBiEncoder trains a bi-encoder; for a ranker take TrainedInRunRanker."
            raise ValueError(msg)
        self.dim = int(model.get_embedding_dimension() or 0)
        self.similarity = model.similarity_fn_name

    def load(self, folder: Path) -> None:
        """Take up the trained bi-encoder."""
        self._teacher, self._in_training = BiEncoderTeacher(model=str(folder), **self._options), None

    @property
    def local_student(self) -> Student:
        """The loaded model."""
        return self._trained.student

    def encode(self, texts: list[str], side: Side) -> np.ndarray:
        """Give the vectors `[n, dim]` float32 of `n` texts."""
        if self._in_training is not None:
            return encode_vectors(self._in_training, texts, side)
        return self._trained.encode(texts, side)
