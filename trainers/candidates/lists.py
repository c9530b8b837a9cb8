# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Candidate lists: per query the documents it trains on, by id, with labels, sources and teacher scores."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retort.students.files import reading, replace_file
from retort.students.hashing import hash_text
from retort.trainers.data.texts import RetrievalData, TextStore

LABELS = "labels"  # the source of a document that only the judgements name


@dataclass
class CandidateLists:
    """
    Ragged lists over the rows of a corpus.

    Query `i` owns the entries `offsets[i]:offsets[i + 1]`: positives first, then what was judged irrelevant, then
    each source's documents from its best to its worst, sources in turn.

    :param query_rows:
        `[q]` rows of the queries.
    :param offsets:
        `[q + 1]`.
    :param rows:
        `[m]` rows of the documents.
    :param labels:
        `[m]` int8: 1 positive, 0 negative, -1 unknown.
    :param source:
        `[m]` int8, index into `sources`: the first that a document came from.
    :param found_by:
        `[m]` int64, all that it came from: bit `g` is source `g`.
    :param sources:
        Names of the sources; the first is `labels`.
    :param scores:
        Per teacher `[m]` float32, NaN where missing.
    :param pool_scores:
        `[m]` float32, by which a teacher chooses among a query's pool (`candidates.pool`), NaN where missing; None
        where none does.
    """

    query_rows: np.ndarray
    offsets: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    source: np.ndarray
    found_by: np.ndarray
    sources: list[str]
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    pool_scores: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.query_rows)

    @property
    def owners(self) -> np.ndarray:
        """`[m]` rows of the queries that the entries belong to."""
        return np.repeat(self.query_rows, np.diff(self.offsets))

    @cached_property
    def hash(self) -> str:
        """Hash of who trains on what."""
        parts = [self.query_rows, self.offsets, self.rows, self.labels, self.found_by, *self.scores.values()]
        parts += [] if self.pool_scores is None else [self.pool_scores]
        return hash_text("".join(hashlib.sha256(p.tobytes()).hexdigest() for p in parts))

    def only(self, keep: np.ndarray) -> CandidateLists:
        """Return the lists of some queries: `keep` `[q]` bool, by the rows of the data's queries."""
        chosen = keep[self.query_rows]
        lengths = np.diff(self.offsets)
        entries = np.repeat(chosen, lengths)
        return CandidateLists(
            query_rows=self.query_rows[chosen],
            offsets=np.concatenate([[0], np.cumsum(lengths[chosen])]),
            rows=self.rows[entries],
            labels=self.labels[entries],
            source=self.source[entries],
            found_by=self.found_by[entries],
            sources=self.sources,
            scores={name: values[entries] for name, values in self.scores.items()},
            pool_scores=None if self.pool_scores is None else self.pool_scores[entries],
        )

    def entries(self, keep: np.ndarray) -> CandidateLists:
        """Return all lists with some of their entries: `keep` `[m]` bool."""
        ends = np.concatenate([[0], np.cumsum(keep)])
        return replace(
            self,
            offsets=ends[self.offsets],
            rows=self.rows[keep],
            labels=self.labels[keep],
            source=self.source[keep],
            found_by=self.found_by[keep],
            scores={name: values[keep] for name, values in self.scores.items()},
            pool_scores=None if self.pool_scores is None else self.pool_scores[keep],
        )

    def padded(self, values: Any) -> np.ndarray:
        """`[q, n]` of `[m]` values of the entries, or of one for all: lists below each other, zeros behind each."""
        lengths = np.diff(self.offsets)
        there = np.arange(lengths.max(initial=0)) < lengths[:, None]
        values = np.broadcast_to(values, len(self.rows))
        found = np.zeros(there.shape, dtype=values.dtype)
        found[there] = values
        return found

    def save(self, path: Path, data: RetrievalData) -> None:
        """Write the lists as parquet, one line a candidate, with ids instead of rows."""
        columns = {
            "query_id": pa.array([data.queries.ids[r] for r in self.owners]),
            "document_id": pa.array([data.corpus.ids[r] for r in self.rows]),
            "label": pa.array(self.labels),
            "source": pa.array([self.sources[s] for s in self.source]),
            "found_by": pa.array(self.found_by),
            **{f"score.{name}": pa.array(values) for name, values in self.scores.items()},
        }
        if self.pool_scores is not None:
            columns["pool_score"] = pa.array(self.pool_scores)
        table = pa.table(columns).replace_schema_metadata({"sources": json.dumps(self.sources)})
        with replace_file(path) as aside:
            pq.write_table(table, aside, write_page_checksum=True)

    @classmethod
    def load(cls, path: Path, data: RetrievalData) -> CandidateLists:
        """
        Read lists that `save` wrote for this data; queries without any candidate are left out.

        :param path:
            The file.
        :param data:
            The data.
        :raises DamagedFileError:
            If the file is damaged.
        """
        mend = (
            "Delete it: the lists are made again. If the student mined them, delete the checkpoints beside its folder "
            "as well, and the run begins anew."
        )
        with reading(path, mend):
            table = pq.read_table(path, page_checksum_verification=True)
        owner = np.array([data.queries.rows[q] for q in table["query_id"].to_pylist()], dtype=np.int64)
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        sources = json.loads(table.schema.metadata[b"sources"])
        return cls(
            query_rows=owner[starts],
            offsets=np.append(starts, len(owner)),
            rows=np.array([data.corpus.rows[d] for d in table["document_id"].to_pylist()], dtype=np.int64),
            labels=table["label"].to_numpy(),
            source=np.array([sources.index(name) for name in table["source"].to_pylist()], dtype=np.int8),
            found_by=table["found_by"].to_numpy(),
            sources=sources,
            scores={n[6:]: table[n].to_numpy() for n in table.column_names if n.startswith("score.")},
            pool_scores=table["pool_score"].to_numpy() if "pool_score" in table.column_names else None,
        )


def texts_of(store: TextStore, rows: Any) -> list[str]:
    """Look up items by row."""
    return [store.items[r] for r in rows]
