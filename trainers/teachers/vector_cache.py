# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Teacher vectors on disk: computed once, kept as they come, shared by all runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from retort.students.files import DamagedFileError, reading, replace_file
from retort.students.towers import Side
from retort.trainers.data.texts import TextStore
from retort.trainers.roles import EncodedPart
from retort.trainers.runtime.errors import CacheError, TeacherError
from retort.trainers.runtime.locks import sole_writer
from retort.trainers.teachers.cache_folder import SetAside, take_over

BLOCK = 1024
PART = ".part.npy"
DAMAGED = "Delete it: its vectors are then computed again."
Encode = Callable[[list[str]], np.ndarray | Iterable[EncodedPart]]


def cache_root(run: Path) -> Path:
    """Return the cache folder: `$RETORT_CACHE`, else `.retort-cache` beside the run."""
    return Path(os.environ.get("RETORT_CACHE") or run.resolve().parent / ".retort-cache")


class VectorCache:
    """
    The vectors of one teacher and side, by item id.

    A folder of `.npy` blocks with dtype `[("id", "V16"), ("vector", "<f4", d)]`. Each block is written aside and
    renamed. What a remote teacher gives is written call by call (`.part.npy`), and joined into blocks later: a kill
    loses the calls in work. Texts that the teacher refused stand in `refused.jsonl`. One process writes at a time.

    :param root:
        The cache folder (see `cache_root`).
    :param key:
        The teacher's key of this side.
    :param side:
        `query` or `document`.
    :param former_key:
        The key that the folder may still go by; it is then renamed.
    :raises DamagedFileError:
        If a block cannot be read.
    :raises CacheError:
        If the blocks' dimensions differ.
    """

    def __init__(self, root: Path, key: str, side: Side, *, former_key: str = "") -> None:
        self.folder = root / "vectors" / key / side
        if former_key:
            take_over(root / "vectors" / former_key / side, self.folder)
        #: Dimension of the vectors; None while there are none.
        self.dim: int | None = None
        self._where: dict[bytes, tuple[str, int]] = {}
        self._refused = SetAside(self.folder)
        self._read_new()

    def _read_new(self) -> None:
        """Learn which vectors are there, also those that another process wrote meanwhile."""
        self._refused.read()
        known = {name for name, _ in self._where.values()}
        for path in sorted(self.folder.glob("*.npy")):
            if path.name not in known:
                try:
                    rows = _open_block(path)
                except FileNotFoundError:  # another process joined parts meanwhile
                    self._read_new()
                    return
                self._take_dim(rows["vector"].shape[1], f"{path} holds")
                self._where.update({i.tobytes(): (path.name, row) for row, i in enumerate(rows["id"])})

    def _take_dim(self, dim: int, who: str) -> None:
        if self.dim not in {None, dim}:
            msg = (
                f"{who} vectors of {dim} dimensions; those kept in {self.folder} have {self.dim}. Is it another model? "
                "Name another `revision`; or delete the folder, or in it the files that are wrong."
            )
            raise CacheError(msg)
        self.dim = dim

    def fill(self, texts: TextStore, encode: Encode, progress: Callable[[int], None]) -> int:
        """
        Compute what is missing.

        The missing texts are sorted by length and item id and cut into fixed blocks: the same work gives the same
        blocks, however often it was interrupted. Should the teacher fail, what it gave before is kept. Another process
        that is writing here is waited for.

        :param texts:
            The texts that will be asked for.
        :param encode:
            Gives `[n, d]` vectors for a list of texts, or parts of them as they come (see `Teacher.encode_parts`).
        :param progress:
            Called with the number of texts after each part.
        :returns:
            How many vectors were computed.
        :raises CacheError:
            If the vectors are not like those that are there.
        :raises TeacherError:
            If the teacher fails.
        """
        if not self.missing(texts):
            return 0
        self.folder.mkdir(parents=True, exist_ok=True)
        done = 0
        try:
            with sole_writer(self.folder, self.folder / ".lock"):
                self._read_new()
                missing = sorted(self.missing(texts).items(), key=lambda pair: (-len(pair[1]), pair[0]))
                try:
                    for start in range(0, len(missing), BLOCK):
                        for count in self._compute(missing[start : start + BLOCK], encode):
                            done += count
                            progress(count)
                finally:
                    self._join_parts()
                    self._refused.summary()
        except TeacherError as error:
            msg = (
                f"{error} Kept: {len(self._where)} vectors; the same command (train: with --resume) goes on from there."
            )
            raise TeacherError(msg) from error
        return done

    def _compute(self, block: list[tuple[bytes, str]], encode: Encode) -> Iterator[int]:
        """Compute a block, and keep each part of it as it comes."""
        answer = encode([text for _, text in block])
        parts = [EncodedPart(list(range(len(block))), answer)] if isinstance(answer, np.ndarray) else answer
        for part in parts:
            vectors = np.asarray(part.vectors, dtype="<f4")
            if part.rows:
                _check(vectors, len(part.rows))
                self._take_dim(vectors.shape[1], "The teacher gave")
                items = [block[row][0] for row in part.rows]
                self._write(items, vectors, ".npy" if len(items) == len(block) else PART)
            for row, cause in part.refused.items():
                self._refused.add([block[row][0]], block[row][1], cause)
            yield len(part.rows) + len(part.refused)
        self._join_parts()

    def _write(self, items: list[bytes], vectors: np.ndarray, suffix: str) -> None:
        rows = np.empty(len(items), dtype=[("id", "V16"), ("vector", "<f4", vectors.shape[1])])
        rows["id"], rows["vector"] = items, vectors
        path = self.folder / f"{items[0].hex()}{suffix}"
        with replace_file(path) as aside, aside.open("wb") as file:
            np.save(file, rows)
        self._where.update({item: (path.name, row) for row, item in enumerate(items)})

    def _join_parts(self) -> None:
        """Join the parts of a block, also those that a kill left; while the lock is held."""
        paths = sorted(self.folder.glob(f"*{PART}"))
        for start in range(0, len(paths), BLOCK):
            some = paths[start : start + BLOCK]
            rows = np.concatenate([np.load(path) for path in some])
            self._write([item.tobytes() for item in rows["id"]], rows["vector"], ".npy")
            for path in some:
                path.unlink()

    def gather(self, item_ids: np.ndarray) -> np.ndarray:
        """
        Read vectors.

        :param item_ids:
            `[n]` V16 keys (see `TextStore.item_ids`), all of them filled before.
        :returns:
            `[n, d]` float32; NaN where the teacher refused the text.
        :raises KeyError:
            If a vector was never computed.
        """
        try:
            return self._gather(item_ids)
        except FileNotFoundError:  # another process joined parts meanwhile
            self._where.clear()
            self._read_new()
            return self._gather(item_ids)

    def _gather(self, item_ids: np.ndarray) -> np.ndarray:
        wanted: dict[str, tuple[list[int], list[int]]] = {}
        for at, item in enumerate(one.tobytes() for one in item_ids):
            if item in self._where or item not in self._refused.items:
                name, row = self._where[item]
                for column, value in zip(wanted.setdefault(name, ([], [])), (at, row), strict=True):
                    column.append(value)
        found = np.full((len(item_ids), self.dim or 0), np.nan, dtype=np.float32)
        for name, (ats, rows) in wanted.items():
            vectors = _open_block(self.folder / name)["vector"][rows]
            if not np.isfinite(vectors).all():
                msg = f"{self.folder / name} is damaged: it has vectors that are not finite. {DAMAGED}"
                raise DamagedFileError(msg)
            found[ats] = vectors
        return found

    def missing(self, texts: TextStore) -> dict[bytes, str]:
        """Return the texts that the teacher was not asked for, by their ids."""
        items = (item.tobytes() for item in texts.item_ids)
        where, refused = self._where, self._refused.items
        return {i: t for i, t in zip(items, texts.items, strict=True) if i not in where and i not in refused}


def _open_block(path: Path) -> np.ndarray:
    """Map a block into memory."""
    file = path.stat()
    return _mapped(path, file.st_ino, file.st_mtime_ns)


@lru_cache(maxsize=64)
def _mapped(path: Path, *_: int) -> np.ndarray:
    """Keep blocks open, as long as they are the same files: each costs a file handle."""
    with reading(path, DAMAGED):
        rows = np.load(path, mmap_mode="r")
        if rows["id"].ndim != 1 or rows["vector"].ndim != 2:  # noqa: PLR2004
            msg = f"it holds {rows.dtype}"
            raise ValueError(msg)
        return rows


def _check(vectors: np.ndarray, expected: int) -> None:
    if vectors.ndim != 2 or len(vectors) != expected:  # noqa: PLR2004
        msg = f"The teacher gave vectors of shape {vectors.shape} for {expected} texts."
        raise CacheError(msg)
    if not np.isfinite(vectors).all():
        msg = "The teacher gave vectors that are not finite. Try float32, or look at the model."
        raise CacheError(msg)
