# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""A local sparse encoder (SPLADE) as teacher: it scores lists by the products of its vectors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np

from retort.students.hashing import canonical_json, hash_text
from retort.students.loading import Precision
from retort.students.sparse import SparseStudent
from retort.trainers.teachers import Ask, ScoreTeacher


class SparseEncoderTeacher(ScoreTeacher):
    """
    A sentence-transformers `SparseEncoder`, or a sparse student of earlier days.

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
    """

    def __init__(
        self,
        *,
        model: str,
        device: str | None = None,
        precision: Precision = "float32",
        max_query_tokens: int | None = None,
        max_document_tokens: int | None = None,
        revision: str | None = None,
        token: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.model = model
        self._options: dict[str, Any] = {
            "device": device,
            "precision": precision,
            "max_query_tokens": max_query_tokens,
            "max_document_tokens": max_document_tokens,
            "revision": revision,
            "token": token,
            "trust_remote_code": trust_remote_code,
        }

    @cached_property
    def student(self) -> SparseStudent:
        """The loaded model."""
        loaded = SparseStudent.load(self.model, **self._options)
        assert isinstance(loaded, SparseStudent)  # noqa: S101 - for the type checker
        return loaded

    @property
    def key(self) -> str:
        """The model's fingerprint (weights, tokenizer, prompts, lengths), the dtype it runs in, and the library."""
        library = version("sentence-transformers")
        return hash_text(canonical_json([self.student.fingerprint, str(self.student.model.dtype), library]))

    def score(self, asks: list[Ask]) -> Iterator[np.ndarray]:
        """Score a block at once; see `ScoreTeacher.score`."""
        texts = list(dict.fromkeys(document for ask in asks for document in ask.documents))
        rows = {text: row for row, text in enumerate(texts)}
        documents = self.student.encode_document(texts)
        queries = self.student.encode_query([ask.query for ask in asks])
        for number, ask in enumerate(asks):
            own = documents[[rows[document] for document in ask.documents]]
            yield (own @ queries[[number]].T).toarray()[:, 0].astype(np.float32)
