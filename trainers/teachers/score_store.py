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

from retort.students.files import reading, replace_file
from retort.trainers.data.texts import RetrievalData
from retort.trainers.roles import Ask, Teacher
from retort.trainers.runtime.errors import TeacherError
from retort.trainers.runtime.locks import sole_writer
from retort.trainers.teachers.cache_folder import SetAside, take_over

BLOCK = 2048  # pairs
PATIENCE = {"nothing": 60.0, "time": 60.0, "calls": 1.0}  # seconds after which an unfinished block is written
PAIR = pa.binary(32)
DAMAGED = "Delete it: its pairs are then scored again."
UNKNOWN = -1  # list
AskParts = Callable[[list[Ask]], Iterator[tuple[Ask, np.ndarray | str]]]


class ScoreStore:
    """
    One teacher's scores, by the item ids of query and document.

    A folder of parquet blocks with the columns `pair` (32 bytes: the two ids), `score` (float32, NaN where the teacher
    has none) and `list` (int64, the list that it was asked with). Each is written aside and renamed. A later block's
    score replaces an earlier one's. Pairs that the teacher refused stand in `refused.jsonl`.

    :param root:
        The cache folder (see `retort.trainers.teachers.vector_cache.cache_root`).
    :param key:
        The teacher's key, with the corpus where it depends on that.
    :param former_key:
        The key that the folder may still go by; it is then renamed.
    """

    def __init__(self, root: Path, key: str, *, former_key: str = "") -> None:
        self._root, self.folder = root, root / "scores" / key
        if former_key:
            take_over(root / "scores" / former_key, self.folder)
        self._refused = SetAside(self.folder)
        self.kind: str | None = None
        self._blocks = 0
        self._read()

    def _read(self) -> None:
        self._refused.read()
        paths = sorted(self.folder.glob("*.parquet"), reverse=True)  # latest first: it is found first
        try:
            tables = [_read_block(path) for path in paths]
        except FileNotFoundError:  # another process joined parts meanwhile
            self._read()
            return
        self._blocks = 1 + int(paths[0].stem) if paths else 0
        joined = pa.concat_tables(tables) if tables else _table([], [], [], "")
        self._pairs = joined["pair"].combine_chunks()
        self._scores = joined["score"].to_numpy()
        self._lists = joined["list"].to_numpy()
        self.kind = _kind(tables[0].schema) if tables else None

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
        there = at >= 0
        scores = np.full(len(queries), np.nan, dtype=np.float32)
        scores[there] = self._scores[at[there]]
        return scores, there | self._is_refused(queries, documents)

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
        *,
        ask: AskParts | None = None,
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
        :param ask:
            Does what the teacher's `score_parts` does; None takes that.
        :returns:
            How many pairs were scored.
        :raises TeacherError:
            If the teacher fails.
        """
        if not self._missing(teacher, data, query_rows, document_rows).any():
            return 0
        self.folder.mkdir(parents=True, exist_ok=True)
        done = 0
        try:
            with sole_writer(self.folder, self.folder / ".lock"):
                self._read()
                missing = self._missing(teacher, data, query_rows, document_rows)
                asks = _asks(data, query_rows[missing], document_rows[missing])
                teacher.keep_in(self._root)
                teacher.open(data)
                try:
                    for block in _blocks(asks):
                        done += self._score(teacher, data, block, progress, ask or teacher.score_parts)
                finally:
                    self._refused.summary()
        except TeacherError as error:
            self._read()
            msg = (
                f"{error} Kept: {len(self._scores)} scores; the same command (train: with --resume) goes on from there."
            )
            raise TeacherError(msg) from error
        self._read()
        return done

    def _missing(
        self, teacher: Teacher, data: RetrievalData, query_rows: np.ndarray, document_rows: np.ndarray
    ) -> np.ndarray:
        """`[m]` bool. Where scores depend on the list, all of it must be of one: else it is asked for as a whole."""
        items = data.queries.item_ids[query_rows], data.corpus.item_ids[document_rows]
        at, refused = self._places(*items), self._is_refused(*items)
        if not teacher.listwise and self.kind != "ranks":
            return (at < 0) & ~refused
        lists = np.full(len(at), UNKNOWN)
        lists[at >= 0] = self._lists[at[at >= 0]]
        queries, of = np.unique(query_rows, return_inverse=True)
        low, high = np.full(len(queries), np.iinfo(np.int64).max), np.full(len(queries), UNKNOWN)
        np.minimum.at(low, of, lists)
        np.maximum.at(high, of, lists)
        asked = np.zeros(len(queries), dtype=bool)  # lists that are refused, wholly
        np.logical_or.at(asked, of, ~refused)
        return ((low != high) | (low == UNKNOWN))[of] & asked[of]

    def _is_refused(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """`[m]` bool."""
        items = self._refused.items
        if not items:
            return np.zeros(len(queries), dtype=bool)
        return np.array(
            [q.tobytes() + d.tobytes() in items for q, d in zip(queries, documents, strict=True)], dtype=bool
        )

    def _score(
        self,
        teacher: Teacher,
        data: RetrievalData,
        asks: list[Ask],
        progress: Callable[[int], None],
        score_parts: AskParts,
    ) -> int:
        pairs: list[bytes] = []
        scores: list[np.ndarray] = []
        lists: list[int] = []
        parts: list[Path] = []
        total, since = 0, time.monotonic()

        def commit() -> None:
            nonlocal total, since
            if pairs:
                path = self.folder / f"{self._blocks:08d}.parquet"
                with replace_file(path) as aside:
                    pq.write_table(_table(pairs, np.concatenate(scores), lists, teacher.gives), aside)
                parts.append(path)
                self._blocks += 1
            total, since = total + len(pairs), time.monotonic()
            for column in (pairs, scores, lists):
                column.clear()

        try:
            for ask, found in score_parts(asks):
                query = data.queries.item_ids[data.queries.rows[ask.query_id]].tobytes()
                items = [query + data.corpus.item_ids[data.corpus.rows[i]].tobytes() for i in ask.document_ids]
                if isinstance(found, str):
                    self._refused.add(items, f"{ask.query} | {ask.documents[0]}", found)
                else:
                    pairs += items
                    lists += [self._blocks * BLOCK + len(scores)] * len(found)  # a block has BLOCK lists at most
                    scores.append(found)
                progress(len(items))
                if time.monotonic() - since > PATIENCE[teacher.costs]:
                    commit()
        finally:
            commit()
            _join(parts)
        return total


def kept_kind(folder: Path) -> str | None:
    """Tell whether a store holds `scores` or `ranks`, without reading them."""
    latest = max(folder.glob("*.parquet"), default=None)
    if latest is None:
        return None
    with reading(latest, DAMAGED):
        return _kind(pq.read_schema(latest))


def _join(parts: list[Path]) -> None:
    """Join the parts of a block into the last of them: no later one counts less than it did."""
    if len(parts) > 1:
        joined = pa.concat_tables([pq.read_table(path) for path in parts])
        with replace_file(parts[-1]) as aside:
            pq.write_table(joined, aside)
        for path in parts[:-1]:
            path.unlink()


def _read_block(path: Path) -> pa.Table:
    with reading(path, DAMAGED):
        table = pq.read_table(path)
        columns = _table([], [], [], _kind(table.schema)).schema
        return _with_lists(table).select(columns.names).cast(columns)


def _kind(schema: pa.Schema) -> str:
    return schema.metadata[b"kind"].decode()


def _asks(data: RetrievalData, query_rows: np.ndarray, document_rows: np.ndarray) -> list[Ask]:
    """Group pairs by query. Sorted by item ids: data in another order gives the same work."""
    queries, documents = data.queries, data.corpus
    pairs = zip(query_rows.tolist(), document_rows.tolist(), strict=True)
    order = sorted({(queries.item_ids[q].tobytes(), documents.item_ids[d].tobytes(), q, d) for q, d in pairs})
    asks = []
    for _, group in groupby(order, key=itemgetter(0)):
        entries = {document: (q, d) for _, document, q, d in group}.values()  # equal texts are asked for once
        query, rows = next(iter(entries))[0], [row for _, row in entries]
        ids, texts = [documents.ids[r] for r in rows], [documents.items[r] for r in rows]
        asks.append(Ask(queries.ids[query], queries.items[query], ids, texts))
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
