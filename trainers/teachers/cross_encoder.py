# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""A local cross-encoder as teacher: the fast path, by the student's own scoring."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from retort.students.loading import Kwargs, Precision
from retort.students.ranker import Ranker
from retort.trainers.roles import Ask
from retort.trainers.runtime.errors import TeacherError
from retort.trainers.teachers.local_model import LocalModelTeacher


class CrossEncoderTeacher(LocalModelTeacher):
    """
    A sentence-transformers `CrossEncoder`, or a ranker of earlier days; the pairs of a whole block in one sorted list.

    :param model:
        A folder, a Hub id, or `package:NAME/SUBFOLDER`.
    :param device:
        Torch device; None takes the best there is.
    :param precision:
        `float32`, `bfloat16` or `auto`.
    :param max_tokens:
        Cut pairs here; None: where the model does.
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
      ranker:
        type: retort.trainers.teachers.cross_encoder.CrossEncoderTeacher
        init_parameters: {model: BAAI/bge-reranker-v2-m3, max_tokens: 512, precision: auto}
    ```
    """

    gives = "scores"
    _kind = Ranker

    def __init__(
        self,
        *,
        model: str,
        device: str | None = None,
        precision: Precision | None = "float32",
        max_tokens: int | None = None,
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
            max_tokens=max_tokens,
            revision=revision,
            token=token,
            trust_remote_code=trust_remote_code,
            model_kwargs=model_kwargs,
            tokenizer_kwargs=tokenizer_kwargs,
            config_kwargs=config_kwargs,
        )

    def score(self, asks: list[Ask]) -> Iterator[np.ndarray]:
        """Score a block at once; see `Teacher.score`."""
        scores = self._loaded.score([(ask.query, document) for ask in asks for document in ask.documents])
        if not np.isfinite(scores).all():
            msg = f"{self.model} gave scores that are not finite. Try precision float32, or look at the model."
            raise TeacherError(msg)
        yield from np.split(scores, np.cumsum([len(ask.documents) for ask in asks])[:-1])
