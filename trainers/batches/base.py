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

    def split(self, parts: int) -> list[CandidateBatch]:
        """
        Cut the batch into parts of equally many queries, for gradient accumulation; empty parts are left out.

        A part holds the documents of its own lists only; mere texts are divided as the queries are.
        """
        if parts == 1:
            return [self]
        rows = torch.arange(len(self.queries)).tensor_split(parts)
        texts = torch.arange(len(self.documents)).tensor_split(parts)
        lists = self.index.shape[1] > 0
        found = (
            self.part(r, self.index[r][self.mask[r]].unique() if lists else t) for r, t in zip(rows, texts, strict=True)
        )
        return [part for part in found if part.queries or part.documents]

    def part(self, rows: Tensor, documents: Tensor) -> CandidateBatch:
        """
        Return some queries with their lists.

        :param rows:
            `[b]` rows of the queries.
        :param documents:
            `[u]` ascending rows of the documents, those of the queries' lists among them.
        """
        index, mask = torch.searchsorted(documents, self.index[rows]), self.mask[rows]
        query_items = [self.query_items[r] for r in rows.tolist()] if self.query_items else []
        document_items = [self.document_items[r] for r in documents.tolist()] if self.document_items else []
        return CandidateBatch(
            queries=[self.queries[r] for r in rows.tolist()],
            documents=[self.documents[r] for r in documents.tolist()],
            index=index.masked_fill(~mask, 0),
            labels=self.labels[rows],
            mask=mask,
            known_positive=self.known_positive[rows][:, documents],
            sources=self.sources[rows],
            teacher_scores={name: scores[rows] for name, scores in self.teacher_scores.items()},
            teacher_vectors={name: (q[rows], d[documents]) for name, (q, d) in self.teacher_vectors.items()},
            query_items=query_items,
            document_items=document_items,
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> CandidateBatch:
        """Move tensors to a device; scores and vectors get the student's dtype."""
        moved = {
            f.name: getattr(self, f.name).to(device) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)
        }
        scores = {name: t.to(device, dtype) for name, t in self.teacher_scores.items()}
        vectors = {n: (q.to(device, dtype), d.to(device, dtype)) for n, (q, d) in self.teacher_vectors.items()}
        return replace(self, **moved, teacher_scores=scores, teacher_vectors=vectors)
