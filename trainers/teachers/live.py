# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Teachers that are asked at every step, in the loop: their layers can be looked at, and they may learn themselves."""

from __future__ import annotations

from typing import Any

from retort.students.hashing import fingerprint_of
from retort.students.late_interaction import is_late_interaction
from retort.students.scoring import is_ranker
from retort.students.towers import compares_cosines
from retort.trainers.encoder_output import COSINE_SCALE
from retort.trainers.roles import Gives, Teacher
from retort.trainers.runtime.errors import RecipeError


class LiveTeacher(Teacher):
    """
    A model beside the student. It costs a forward pass a step; whatever only needs its scores asks another kind.

    What it gave for a batch stands where other teachers' scores and vectors do, without gradients, and for objectives
    that teach it, or look at its layers, in `Context.teachers`. One that learns ends in `teachers/NAME/student`.

    :param student:
        The model, as a recipe's `student`: a bi-encoder, a ranker, or a model with a vector a token.
    :param train:
        It learns in the student's steps, from objectives that do not detach what it gave. Objectives with turns of
        their own (AR2) teach it in these.
    :param lr:
        Its highest learning rate then; by default the stage's.
    :param scale:
        Factor on its scores; by default 20 for cosines, otherwise 1.

    ```yaml
    teachers:
      teacher:
        type: retort.trainers.teachers.live.LiveTeacher
        init_parameters:
          student: {type: retort.students.create.pretrained, init_parameters: {model: intfloat/e5-base-v2}}
          train: true
    ```
    """

    runs = "in_loop"
    costs = "time"

    def __init__(
        self, *, student: dict[str, Any], train: bool = False, lr: float | None = None, scale: float | None = None
    ) -> None:
        if lr is not None and not train:
            msg = (
                "LiveTeacher: lr is of a teacher that learns; set train: true (in turns, set lr at TeacherContrastive)."
            )
            raise ValueError(msg)
        self.student_spec = student
        self.train = train
        self.lr = lr
        self._scale = scale
        self._model: Any = None
        self._key = ""

    def load(self, model: Any) -> None:
        """Take up the model."""
        self._model = model
        self._key = fingerprint_of(model)

    @property
    def model(self) -> Any:
        """The model, which may be learning."""
        if self._model is None:
            msg = "a live teacher has its model from the recipe around it."
            raise RecipeError(msg)
        return self._model

    @property
    def key(self) -> str:
        """Identify the weights that it started from."""
        return self._key

    @property
    def gives(self) -> Gives:  # type: ignore[override] # as its model does
        """Vectors, or scores where the model is a ranker or has a vector a token."""
        return "scores" if is_ranker(self.model) or is_late_interaction(self.model) else "vectors"

    @property
    def similarity(self) -> str:  # type: ignore[override]
        """How its vectors are compared."""
        return self.model.similarity_fn_name

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Dimension of its vectors; 0 if it gives scores."""
        return int(self.model.get_embedding_dimension() or 0) if self.gives == "vectors" else 0

    @property
    def scale(self) -> float:
        """Factor on its scores."""
        if self._scale is not None:
            return self._scale
        return COSINE_SCALE if self.gives == "vectors" and compares_cosines(self.model) else 1.0
