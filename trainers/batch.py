# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What one step trains on."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor


@dataclass(kw_only=True)
class CandidateBatch:
    """
    `B` queries with `N` candidates each, over `U` unique documents; every text is encoded once.

    :param queries:
        `B` query texts.
    :param documents:
        `U` unique document texts.
    :param index:
        `[B, N]` int64, rows of `documents`; 0 where `mask` is False. `N` is 0 in a batch of mere texts.
    :param labels:
        `[B, N]` int8: 1 positive, 0 negative, -1 unknown.
    :param mask:
        `[B, N]` bool, False where a list is shorter than `N`.
    :param known_positive:
        `[B, U]` bool: the document is a labelled positive of the query, in its list or not.
    :param sources:
        `[B, N]` int8, which candidate source a document came from (-1: the labels).
    :param teacher_scores:
        Per teacher `[B, N]`, NaN where missing.
    :param teacher_vectors:
        Per teacher the vectors of the queries `[B, d]` and of the documents `[U, d]`.
    :param query_items:
        `B` cache keys.
    :param document_items:
        `U` cache keys.
    """

    queries: list[str]
    documents: list[str]
    index: Tensor
    labels: Tensor
    mask: Tensor
    known_positive: Tensor
    sources: Tensor
    teacher_scores: dict[str, Tensor] = field(default_factory=dict)
    teacher_vectors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    query_items: list[bytes] = field(default_factory=list)
    document_items: list[bytes] = field(default_factory=list)

    @property
    def has_positive(self) -> Tensor:
        """`[B]` bool: the list has a positive."""
        return ((self.labels == 1) & self.mask).any(-1)

    def to(self, device: torch.device, dtype: torch.dtype) -> CandidateBatch:
        """Move tensors to a device; scores and vectors get the student's dtype."""
        moved = {
            f.name: getattr(self, f.name).to(device) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)
        }
        scores = {name: t.to(device, dtype) for name, t in self.teacher_scores.items()}
        vectors = {n: (q.to(device, dtype), d.to(device, dtype)) for n, (q, d) in self.teacher_vectors.items()}
        return replace(self, **moved, teacher_scores=scores, teacher_vectors=vectors)
