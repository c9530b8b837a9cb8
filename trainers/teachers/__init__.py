# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Teachers: anything that gives vectors or scores to learn from."""

from typing import Protocol

import numpy as np

from retort.students.sides import Side


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
