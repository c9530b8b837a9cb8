# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Any pair of Haystack embedders as teacher."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from retort.students.hashing import canonical_json, hash_text
from retort.students.towers import Side
from retort.trainers.roles import Teacher
from retort.trainers.runtime.errors import TeacherError
from retort.trainers.teachers.haystack import HaystackComponents


class EmbedderTeacher(Teacher):
    """
    A Haystack text embedder for queries and document embedder for documents, as YAML would name them.

    :param text_embedder:
        `{type, init_parameters}` of a component whose `run(text=...)` gives `embedding`.
    :param document_embedder:
        `{type, init_parameters}` of a component whose `run(documents=...)` gives `documents` with embeddings.
    :param similarity:
        How the vectors are compared: `cosine` or `dot`.
    :param revision:
        Version of a model behind a remote interface; its vectors are cached under it. Required where a component
        has an API key: nothing else tells when such a model changes.
    :param retries:
        How often a failed call is repeated; None: 5 times for remote components, never for local ones.
    :param concurrency:
        Calls at a time for queries, which a text embedder takes one by one.
    :param allowed_modules:
        Further modules that the components may come from (filled from `--allow`).
    :raises RecipeError:
        If a component has an API key and no revision is given.
    """

    gives = "vectors"

    def __init__(
        self,
        *,
        text_embedder: dict[str, Any],
        document_embedder: dict[str, Any],
        similarity: str = "cosine",
        revision: str | None = None,
        retries: int | None = None,
        concurrency: int = 1,
        allowed_modules: list[str] | None = None,
    ) -> None:
        self.similarity = similarity
        self._components = HaystackComponents(
            {"text": text_embedder, "document": document_embedder},
            revision=revision,
            retries=retries,
            concurrency=concurrency,
            allowed_modules=allowed_modules,
        )

    @cached_property
    def key(self) -> str:
        """The components' key (see `HaystackComponents`)."""
        return hash_text(canonical_json(["embedder", self.similarity, self._components.key]))

    @cached_property
    def dim(self) -> int:  # type: ignore[override] # asked for late
        """Dimension of the vectors, asked for once."""
        return self.encode(["dimension"], "query").shape[1]

    def encode(self, texts: list[str], side: Side) -> np.ndarray:
        """
        Give the vectors `[n, dim]` float32 of `n` texts.

        :raises TeacherError:
            If an embedder fails, or does not give a vector for each text.
        """
        if side == "query":
            return np.array(list(self._components.each(self._query, texts)), dtype=np.float32)
        return next(self._components.each(self._documents, [texts]))

    def _query(self, text: str) -> list[float]:
        try:
            return self._components.warm["text"].run(text=text)["embedding"]
        except Exception as error:
            msg = f"{self._components.specs['text']['type']} failed on the query {text!r}: {error}"
            raise TeacherError(msg) from error

    def _documents(self, texts: list[str]) -> np.ndarray:
        from haystack import Document

        documents = [Document(id=str(i), content=text) for i, text in enumerate(texts)]
        kind = self._components.specs["document"]["type"]
        try:
            given = self._components.warm["document"].run(documents=documents)["documents"]
        except Exception as error:
            msg = f"{kind} failed on a block of {len(texts)} documents: {error}"
            raise TeacherError(msg) from error
        found = {d.id: d.embedding for d in given}
        missing = [d.id for d in documents if found.get(d.id) is None]
        if missing:
            msg = f"{kind} gave no embedding for {len(missing)} of {len(texts)} documents."
            raise TeacherError(msg)
        return np.array([found[d.id] for d in documents], dtype=np.float32)
