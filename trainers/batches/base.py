# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What one step trains on."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from retort.students.encoding import TokenIds


@dataclass(kw_only=True)
class CandidateBatch:
    """
    `B` queries with `N` candidates each, over `U` unique documents; every text is encoded once.

    :param queries:
        `B` query texts.
    :param documents:
        `U` unique document texts; or token ids, special tokens among them, that the student is to read as they are.
    :param index:
        `[B, N]` int64, rows of `documents`; 0 where `mask` is False. `N` is 0 in a batch of mere texts.
    :param labels:
        `[B, N]` int8: 1 positive, 0 negative, -1 unknown.
    :param mask:
        `[B, N]` bool, False where a list is shorter than `N`.
    :param known_positive:
        `[B, U]` bool: the document is no negative of the query, in its list or not: a labelled positive, or the query
        itself (see `RetrievalData.never_negative`).
    :param sources:
        `[B, N]` int8, which candidate source a document came from (-1: the labels).
    :param teacher_scores:
        Per teacher `[B, N]`, NaN where missing.
    :param teacher_vectors:
        Per teacher the vectors of the queries `[B, d]` and of the documents `[U, d]`.
    :param query_items:
        `B` cache keys.
    :param document_items:
        `U` cache keys; of the standard documents only.
    :param list_rows:
        `[B]` int64, rows of the stage's lists; empty in a batch without lists.
    :param derived:
        `[B, D]` int8: the kinds of the derived candidates, which are the last `D` of each list.
    :param derived_documents:
        How many of the documents are derived; they are the last ones.
    :param pieces:
        `[derived_documents, 3]` int64, of derived documents that are pieces of a document: its row, and the characters
        where the piece starts and ends; -1 for a text of its own. Empty where none is a piece.
    :param query_extras:
        What a batch source adds to each query, by name: lists or tensors of length `B`.
    :param document_extras:
        The same of each document, of length `U`.
    """

    queries: list[str]
    documents: list[str] | list[TokenIds]
    index: Tensor
    labels: Tensor
    mask: Tensor
    known_positive: Tensor
    sources: Tensor
    teacher_scores: dict[str, Tensor] = field(default_factory=dict)
    teacher_vectors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    query_items: list[bytes] = field(default_factory=list)
    document_items: list[bytes] = field(default_factory=list)
    list_rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    derived: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int8))
    derived_documents: int = 0
    pieces: Tensor = field(default_factory=lambda: torch.zeros(0, 3, dtype=torch.int64))
    query_extras: dict[str, Any] = field(default_factory=dict)
    document_extras: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def without_lists(cls, queries: list[str], documents: list[str] | list[TokenIds], **more: Any) -> CandidateBatch:
        """
        Return a batch of mere texts.

        :param queries:
            `B` texts; there may be none.
        :param documents:
            `U` texts; there may be none.
        :param more:
            Further fields, such as `document_extras`.
        """
        empty = (len(queries), 0)
        return cls(
            queries=queries,
            documents=documents,
            index=torch.zeros(empty, dtype=torch.int64),
            labels=torch.zeros(empty, dtype=torch.int8),
            mask=torch.zeros(empty, dtype=torch.bool),
            known_positive=torch.zeros((len(queries), len(documents)), dtype=torch.bool),
            sources=torch.zeros(empty, dtype=torch.int8),
            **more,
        )

    @property
    def derived_candidates(self) -> int:
        """`D`: how many of each list's candidates are derived."""
        return self.derived.shape[1]

    def piece_places(self) -> Tensor:
        """`[B, D]` int64: the place in its list of the document that a derived candidate is a piece of; -1: of none."""
        d, standard = self.derived_candidates, len(self.documents) - self.derived_documents
        if not len(self.pieces):
            return torch.full_like(self.derived, -1, dtype=torch.int64)
        lists = slice(self.index.shape[1] - d)
        owners = self.pieces[(self.index[:, -d:] - standard).clamp(min=0), 0]
        same = (self.index[:, None, lists] == owners[:, :, None]) & self.mask[:, None, lists]
        there = self.mask[:, -d:] & same.any(-1)
        return same.int().argmax(-1).masked_fill(~there, -1)

    @property
    def size(self) -> int:
        """Queries of the batch."""
        return len(self.queries)

    @property
    def lists_without_positive(self) -> int:
        """How many lists have no positive; 0 in a batch without lists."""
        return int((~self.has_positive).sum()) if self.index.shape[1] else 0

    @property
    def has_positive(self) -> Tensor:
        """`[B]` bool: the list has a positive."""
        return ((self.labels == 1) & self.mask).any(-1)

    def split(self, parts: int) -> list[CandidateBatch]:
        """
        Cut the batch into parts of equally many queries, for gradient accumulation; empty parts are left out.

        A part holds the documents of its own lists only, or the first of all where these are empty; mere texts are
        divided as the queries are.
        """
        if parts == 1:
            return [self]
        rows = torch.arange(len(self.queries)).tensor_split(parts)
        texts = torch.arange(len(self.documents)).tensor_split(parts)
        if self.index.shape[1]:
            texts = tuple(map(self._listed, rows))
        found = (self.part(r, t) for r, t in zip(rows, texts, strict=True))
        return [part for part in found if part.queries or part.documents]

    def _listed(self, rows: Tensor) -> Tensor:
        """Ascending rows of the documents of some lists. Where these are empty, `index` names the first document."""
        documents = self.index[rows][self.mask[rows]].unique()
        return documents if len(documents) else self.index.new_zeros(min(1, len(rows), len(self.documents)))

    def part(self, rows: Tensor, documents: Tensor) -> CandidateBatch:
        """
        Return some queries with their lists.

        :param rows:
            `[b]` rows of the queries.
        :param documents:
            `[u]` ascending rows of the documents, those of the queries' lists among them.
        """
        index, mask = torch.searchsorted(documents, self.index[rows]), self.mask[rows]
        queries, chosen = rows.tolist(), documents.tolist()
        standard = len(self.documents) - self.derived_documents
        return CandidateBatch(
            queries=_chosen(self.queries, queries),
            documents=_chosen(self.documents, chosen),
            index=index.masked_fill(~mask, 0),
            labels=self.labels[rows],
            mask=mask,
            known_positive=self.known_positive[rows][:, documents],
            sources=self.sources[rows],
            teacher_scores={name: scores[rows] for name, scores in self.teacher_scores.items()},
            teacher_vectors={name: (q[rows], d[documents]) for name, (q, d) in self.teacher_vectors.items()},
            query_items=_chosen(self.query_items, queries) if self.query_items else [],
            document_items=_chosen(self.document_items, [d for d in chosen if d < standard])
            if self.document_items
            else [],
            list_rows=_chosen(self.list_rows, queries) if len(self.list_rows) else self.list_rows,
            derived=_chosen(self.derived, queries) if self.derived_candidates else self.derived,
            derived_documents=sum(d >= standard for d in chosen),
            pieces=_moved(self.pieces[documents[documents >= standard] - standard], documents)
            if len(self.pieces)
            else self.pieces,
            query_extras={name: _chosen(values, queries) for name, values in self.query_extras.items()},
            document_extras={name: _chosen(values, chosen) for name, values in self.document_extras.items()},
        )

    def standard(self) -> CandidateBatch:
        """Return the batch without derived candidates."""
        if not self.derived_candidates and not self.derived_documents:
            return self
        lists, texts = slice(-self.derived_candidates or None), slice(-self.derived_documents or None)
        return replace(
            self,
            documents=self.documents[texts],
            index=self.index[:, lists],
            labels=self.labels[:, lists],
            mask=self.mask[:, lists],
            known_positive=self.known_positive[:, texts],
            sources=self.sources[:, lists],
            teacher_scores={name: scores[:, lists] for name, scores in self.teacher_scores.items()},
            teacher_vectors={name: (q, d[texts]) for name, (q, d) in self.teacher_vectors.items()},
            derived=self.derived[:, :0],
            derived_documents=0,
            pieces=self.pieces[:0],
            document_extras={name: values[texts] for name, values in self.document_extras.items()},
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> CandidateBatch:
        """Move tensors to a device; scores and vectors get a dtype."""
        moved = {
            f.name: getattr(self, f.name).to(device) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)
        }
        scores = {name: t.to(device, dtype) for name, t in self.teacher_scores.items()}
        vectors = {n: (q.to(device, dtype), d.to(device, dtype)) for n, (q, d) in self.teacher_vectors.items()}
        extras: dict[str, Any] = {
            name: {n: v.to(device) if isinstance(v, Tensor) else v for n, v in getattr(self, name).items()}
            for name in ("query_extras", "document_extras")
        }
        return replace(self, **moved, **extras, teacher_scores=scores, teacher_vectors=vectors)


def _moved(pieces: Tensor, documents: Tensor) -> Tensor:
    """Number the documents that pieces are of anew: these are kept."""
    rows = torch.searchsorted(documents, pieces[:, 0].contiguous())
    return torch.cat([torch.where(pieces[:, 0] < 0, -1, rows)[:, None], pieces[:, 1:]], dim=1)


def _chosen(values: Any, rows: list[int]) -> Any:
    return values[rows] if isinstance(values, Tensor) else [values[row] for row in rows]
