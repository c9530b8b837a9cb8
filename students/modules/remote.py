# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The document side of a student whose documents another component embeds; `create.remote_documents` makes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers.base.modules import InputModule

from retort.students.manifest import QUERIES_ONLY, ManifestError


class RemoteDocuments(InputModule):
    """
    Stands for a component, such as an API's embedder, that embeds the documents.

    In training it gives the vectors that a teacher has in its cache. A saved student holds the description alone: it
    encodes queries, and refuses documents.

    :param dim:
        Dimension of the vectors.
    :param source:
        What embeds the documents: parameters of `retort.students.hashing.remote_space`; None until a run knows it.
    :param teacher:
        The teacher's name, in training.
    """

    config_keys = ["dim", "source"]  # noqa: RUF012 - sentence-transformers' own
    config_file_name = "remote.json"
    save_in_root = False

    def __init__(self, *, dim: int, source: dict[str, Any] | None = None, teacher: str | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.source = source
        self.teacher = teacher
        self.encode: Callable[[list[str]], np.ndarray] | None = None

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Any]:  # noqa: ARG002
        """
        Look up the vectors of texts, `[n, dim]`: there is nothing to tokenise.

        :raises ManifestError:
            If nobody gives vectors: the student was loaded.
        """
        if self.encode is None:
            raise ManifestError(QUERIES_ONLY.replace("another component", self.described))
        return {"sentence_embedding": torch.from_numpy(np.array(self.encode(list(inputs)), dtype=np.float32))}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the vectors as they are."""
        return features

    def get_embedding_dimension(self) -> int:
        """Dimension of the vectors."""
        return self.dim

    @property
    def described(self) -> str:
        """What embeds the documents, in words."""
        source = self.source or {}
        return f"{str(source.get('provider', 'another component')).rpartition('.')[2]} ({source.get('model')})"

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the description."""
        self.save_config(output_path)
