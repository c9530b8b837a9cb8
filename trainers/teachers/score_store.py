# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Teacher scores on disk: asked for once, kept whatever happens, shared by all runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from retort.students.files import replace_file
from retort.trainers.data.texts import RetrievalData
from retort.trainers.roles import Ask, Teacher
from retort.trainers.runtime.errors import CacheError, TeacherError

BLOCK = 2048  # pairs
PATIENCE = 60.0  # seconds after which even an unfinished block is written
PAIR = pa.binary(32)
UNKNOWN = -1  # list


class ScoreStore:
    """
    One teacher's scores, by the item ids of query and document.

    A folder of parquet blocks with the columns `pair` (32 bytes: the two ids), `score` (float32, NaN where the teacher
    has none) and `list` (int64, the list that it was asked with). Each is written aside and renamed. A later block's
    score replaces an earlier one's.

    :param root:
        The cache folder (see `retort.trainers.teachers.vector_cache.cache_root`).
    :param key:
        The teacher's key, with the corpus where it depends on that.
    """

    def __init__(self, root: Path, key: str) -> None:
        self.folder = root / "scores" / key
        self.kind: str | None = None
        self._blocks = 0
        self._read()

    def _read(self) -> None:
        paths = sorted(self.folder.glob("*.parquet"), reverse=True)  # latest first: it is found first
        tables = [pq.read_table(path) for path in paths]
        self._blocks = 1 + int(paths[0].stem) if paths else 0
        joined = pa.concat_tables([_with_lists(table) for table in tables]) if tables else _table([], [], [], "")
        self._pairs = joined["pair"].combine_chunks()
        self._scores = joined["score"].to_numpy()
        self._lists = joined["list"].to_numpy()
        self.kind = tables[0].schema.metadata[b"kind"].decode() if tables else None

    def gather(self, queries: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Look scores up.

        :param queries:
            `[m]` V16 item ids.
        :param documents:
            `[m]` V16 item ids.
        :returns:
            `[m]` float32 scores, NaN where there is none; `[m]` bool, whether the teacher was asked.
        """
        at = self._places(queries, documents)
        known = at >= 0
        scores = np.full(len(queries), np.nan, dtype=np.float32)
        scores[known] = self._scores[at[known]]
        return scores, known

    def _places(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """`[m]` rows of the pairs, -1 where there is none."""
        at = pc.index_in(_pairs(queries, documents), value_set=self._pairs)
        return pc.fill_null(at, -1).to_numpy(zero_copy_only=False).astype(np.int64)

    def fill(
        self,
        teacher: Teacher,
        data: RetrievalData,
        query_rows: np.ndarray,
        document_rows: np.ndarray,
        progress: Callable[[int], None],
    ) -> int:
        """
        Ask the teacher for what is missing.

        The work is sorted by query and cut into fixed blocks of whole lists: the same work gives the same blocks,
        however often it was interrupted. Should the teacher fail, what it gave before is kept.

        :param teacher:
            The teacher.
        :param data:
            Queries and documents.
        :param query_rows:
            `[m]` rows of queries.
        :param document_rows:
            `[m]` rows of documents, one for each entry of `query_rows`.
        :param progress:
            Called with the number of pairs after each list.
        :returns:
            How many pairs were scored.
        :raises TeacherError:
            If the teacher fails.
        :raises CacheError:
            If another process is writing here.
        """
        if not self._missing(teacher, data, query_rows, document_rows).any():
            return 0
        self.folder.mkdir(parents=True, exist_ok=True)
        done = 0
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                self._read()
                missing = self._missing(teacher, data, query_rows, document_rows)
                asks = _asks(data, query_rows[missing], document_rows[missing])
                teacher.open(data)
                for block in _blocks(asks):
                    done += self._score(teacher, data, block, progress)
        except Timeout as error:
            msg = f"{self.folder} is being written by another process. Wait, or set RETORT_CACHE to another folder."
            raise CacheError(msg) from error
        except TeacherError as error:
            self._read()
            msg = f"{error} Kept: {len(self._scores)} scores; the same command with --resume goes on from there."
            raise TeacherError(msg) from error
        self._read()
        return done

    def _missing(
        self, teacher: Teacher, data: RetrievalData, query_rows: np.ndarray, document_rows: np.ndarray
    ) -> np.ndarray:
        """`[m]` bool. Where scores depend on the list, all of it must be of one: else it is asked for as a whole."""
        at = self._places(data.queries.item_ids[query_rows], data.corpus.item_ids[document_rows])
        if not teacher.listwise and self.kind != "ranks":
            return at < 0
        lists = np.full(len(at), UNKNOWN)
        lists[at >= 0] = self._lists[at[at >= 0]]
        queries, of = np.unique(query_rows, return_inverse=True)
        low, high = np.full(len(queries), np.iinfo(np.int64).max), np.full(len(queries), UNKNOWN)
        np.minimum.at(low, of, lists)
        np.maximum.at(high, of, lists)
        return ((low != high) | (low == UNKNOWN))[of]

    def _score(self, teacher: Teacher, data: RetrievalData, asks: list[Ask], progress: Callable[[int], None]) -> int:
        pairs: list[bytes] = []
        scores: list[np.ndarray] = []
        lists: list[int] = []
        total, since = 0, time.monotonic()

        def commit() -> None:
            nonlocal total, since
            if pairs:
                with replace_file(self.folder / f"{self._blocks:08d}.parquet") as aside:
                    pq.write_table(_table(pairs, np.concatenate(scores), lists, teacher.gives), aside)
                self._blocks += 1
            total, since = total + len(pairs), time.monotonic()
            for column in (pairs, scores, lists):
                column.clear()

        try:
            for ask, found in zip(asks, teacher.score(asks), strict=True):
                query = data.queries.item_ids[data.queries.rows[ask.query_id]].tobytes()
                pairs += [query + data.corpus.item_ids[data.corpus.rows[i]].tobytes() for i in ask.document_ids]
                lists += [self._blocks * BLOCK + len(scores)] * len(found)  # a block has BLOCK lists at most
                scores.append(found)
                progress(len(found))
                if time.monotonic() - since > PATIENCE:
                    commit()
        finally:
            commit()
        return total


def _asks(data: RetrievalData, query_rows: np.ndarray, document_rows: np.ndarray) -> list[Ask]:
    """Group pairs by query. Sorted by item ids: data in another order gives the same work."""
    queries, documents = data.queries, data.corpus
    pairs = zip(query_rows.tolist(), document_rows.tolist(), strict=True)
    order = sorted({(queries.item_ids[q].tobytes(), documents.item_ids[d].tobytes(), q, d) for q, d in pairs})
    asks = []
    for _, group in groupby(order, key=itemgetter(0)):
        entries = {document: (q, d) for _, document, q, d in group}.values()  # equal texts are asked for once
        query, rows = next(iter(entries))[0], [row for _, row in entries]
        ids, texts = [documents.ids[r] for r in rows], [documents.texts[r] for r in rows]
        asks.append(Ask(queries.ids[query], queries.texts[query], ids, texts))
    return asks


def _blocks(asks: list[Ask]) -> Iterator[list[Ask]]:
    block: list[Ask] = []
    for ask in asks:
        block.append(ask)
        if sum(len(a.documents) for a in block) >= BLOCK:
            yield block
            block = []
    if block:
        yield block


def _pairs(queries: np.ndarray, documents: np.ndarray) -> pa.Array:
    joined = np.empty((len(queries), 2), dtype="V16")
    joined[:, 0], joined[:, 1] = queries, documents
    return pa.Array.from_buffers(PAIR, len(queries), [None, pa.py_buffer(joined.tobytes())])


def _table(pairs: list[bytes], scores: np.ndarray | list[float], lists: list[int], kind: str) -> pa.Table:
    columns = {
        "pair": pa.array(pairs, PAIR),
        "score": pa.array(scores, pa.float32()),
        "list": pa.array(lists, pa.int64()),
    }
    return pa.table(columns).replace_schema_metadata({"kind": kind})


def _with_lists(table: pa.Table) -> pa.Table:
    """Blocks of earlier versions do not say which list a score is of."""
    if "list" in table.column_names:
        return table
    return table.append_column("list", pa.array(np.full(len(table), UNKNOWN)))
