# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What teachers that are local models share: how they are loaded, and their keys."""

from __future__ import annotations

from functools import cached_property
from importlib.metadata import version
from typing import Any

from retort.students.hashing import canonical_json, hash_text
from retort.students.loading import Kwargs, Precision, check_precision
from retort.students.ranker import Ranker
from retort.students.student import Student
from retort.trainers.roles import Teacher


class LocalModelTeacher(Teacher):
    """
    A local sentence-transformers model as teacher, loaded when it is first asked.

    :param model:
        A folder, a Hub id, or `package:NAME/SUBFOLDER`.
    :param precision:
        `float32`, `bfloat16` or `auto`.
    :param model_kwargs:
        Passed to transformers, see `Student.load`; part of the key, as are the next two.
    :param tokenizer_kwargs:
        Likewise.
    :param config_kwargs:
        Likewise.
    :param options:
        Further ones of `load`.
    """

    costs = "time"
    _kind: type[Student | Ranker]

    def __init__(
        self,
        model: str,
        *,
        precision: Precision | None,
        model_kwargs: Kwargs,
        tokenizer_kwargs: Kwargs,
        config_kwargs: Kwargs,
        **options: Any,
    ) -> None:
        check_precision(precision)
        self.model = model
        kwargs = {"model_kwargs": model_kwargs, "tokenizer_kwargs": tokenizer_kwargs, "config_kwargs": config_kwargs}
        self._kwargs = {name: values for name, values in kwargs.items() if values}
        self._options: dict[str, Any] = {"precision": precision, "backend": "torch", **options, **self._kwargs}

    @cached_property
    def _loaded(self) -> Any:
        return self._kind.load(self.model, **self._options)

    @cached_property
    def key(self) -> str:
        """The model's fingerprint (weights, tokenizer, prompts, lengths), its dtype, the library, and kwargs."""
        library = version("sentence-transformers")
        parts = [self._loaded.fingerprint, str(self._loaded.model.dtype), library, self._kwargs]
        return hash_text(canonical_json(parts if self._kwargs else parts[:-1]))
