# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""A local bi-encoder as teacher: the fast path, by the student's own encoding."""

from __future__ import annotations

import numpy as np

from retort.students.loading import Kwargs, Precision
from retort.students.student import Student
from retort.students.towers import Side
from retort.trainers.roles import Gives
from retort.trainers.teachers.local_model import LocalModelTeacher


class BiEncoderTeacher(LocalModelTeacher):
    """
    A sentence-transformers model, or a student of earlier days.

    :param model:
        A folder, a Hub id, or `package:NAME/SUBFOLDER`.
    :param device:
        Torch device; None takes the best there is.
    :param precision:
        `float32`, `bfloat16` or `auto`.
    :param max_query_tokens:
        Cut queries here; None: where the model does.
    :param max_document_tokens:
        Cut documents here; None: where the model does.
    :param revision:
        Hub revision.
    :param token:
        Hub token.
    :param trust_remote_code:
        Run code that the model brings along.
    :param model_kwargs:
        Passed to transformers, see `Student.load`; one that names a dtype needs `precision: null`.
    :param tokenizer_kwargs:
        Likewise.
    :param config_kwargs:
        Likewise.

    ```yaml
    teachers:
      teacher:
        type: retort.trainers.teachers.bi_encoder.BiEncoderTeacher
        init_parameters: {model: BAAI/bge-m3, max_document_tokens: 512, precision: auto}
    ```
    """

    gives: Gives = "vectors"
    _kind = Student

    def __init__(
        self,
        *,
        model: str,
        device: str | None = None,
        precision: Precision | None = "float32",
        max_query_tokens: int | None = None,
        max_document_tokens: int | None = None,
        revision: str | None = None,
        token: str | None = None,
        trust_remote_code: bool = False,
        model_kwargs: Kwargs = None,
        tokenizer_kwargs: Kwargs = None,
        config_kwargs: Kwargs = None,
    ) -> None:
        super().__init__(
            model,
            device=device,
            precision=precision,
            max_query_tokens=max_query_tokens,
            max_document_tokens=max_document_tokens,
            revision=revision,
            token=token,
            trust_remote_code=trust_remote_code,
            model_kwargs=model_kwargs,
            tokenizer_kwargs=tokenizer_kwargs,
            config_kwargs=config_kwargs,
        )

    @property
    def student(self) -> Student:
        """The loaded model."""
        student: Student = self._loaded
        return student

    @property
    def local_student(self) -> Student:
        """The loaded model."""
        return self.student

    @property
    def similarity(self) -> str:  # type: ignore[override] # the model need not be loaded before
        """How its vectors are compared."""
        return self.student.manifest.similarity

    @property
    def dim(self) -> int:  # type: ignore[override] # the model need not be loaded before
        """Dimension of its vectors."""
        return self.student.dim

    def encode(self, texts: list[str], side: Side) -> np.ndarray:
        """Give the vectors `[n, dim]` float32 of `n` texts."""
        return self.student.encode(texts, side)
