# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Teacher vectors on disk: computed once, kept as they come, shared by all runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

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
        self._places = _Places()
        self._files: dict[str, tuple[int, int]] = {}  # blocks that are known, to tell when they are other files
        self._refused = SetAside(self.folder)
        self._read_new()

    def refresh(self) -> None:
        """Learn what changed on disk since the last look, as a new instance would."""
        if self._files.items() <= self._on_disk().items():
            self._read_new()
        else:
            self._read_anew()

    def _on_disk(self) -> dict[str, tuple[int, int]]:
        files: dict[str, tuple[int, int]] = {}
        for path in self.folder.glob("*.npy"):
            with suppress(FileNotFoundError):  # another process joined parts meanwhile
                files[path.name] = _stamp(path)
        return files

    def _read_anew(self) -> None:
        """Forget what is known, and read what is there."""
        self._places, self._files, self.dim = _Places(), {}, None
        self._read_new()

    def _read_new(self) -> None:
        """Learn which vectors are there, also those that another process wrote meanwhile."""
        self._refused.read()
        blocks: dict[str, np.ndarray] = {}
        files: dict[str, tuple[int, int]] = {}
        for path in sorted(self.folder.glob("*.npy")):
            if path.name not in self._files:
                try:
                    files[path.name], rows = _stamp(path), _open_block(path)
                except FileNotFoundError:  # another process joined parts meanwhile
                    self._read_new()
                    return
                self._take_dim(rows["vector"].shape[1], f"{path} holds")
                blocks[path.name] = np.array(rows["id"])  # a copy: else each would keep its file open
        self._places.add(blocks)
        self._files |= files

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
                f"{error} Kept: {len(self._places)} vectors; the same command (train: with --resume) goes on from "
                "there."
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
        self._places.add({path.name: rows["id"]})
        self._files[path.name] = _stamp(path)

    def _join_parts(self) -> None:
        """Join the parts of a block, also those that a kill left; while the lock is held."""
        paths = sorted(self.folder.glob(f"*{PART}"))
        for start in range(0, len(paths), BLOCK):
            some = paths[start : start + BLOCK]
            rows = np.concatenate([np.load(path) for path in some])
            self._write([item.tobytes() for item in rows["id"]], rows["vector"], ".npy")
            for path in some:
                path.unlink()
                self._files.pop(path.name, None)

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
            self._read_anew()
            return self._gather(item_ids)

    def _gather(self, item_ids: np.ndarray) -> np.ndarray:
        places = self._places
        blocks, rows = places.of(item_ids)
        for item in (one.tobytes() for one in item_ids[blocks < 0]):
            if item not in self._refused.items:
                raise KeyError(item)
        result = np.full((len(item_ids), self.dim or 0), np.nan, dtype=np.float32)
        known = np.argsort(blocks, kind="stable")[np.count_nonzero(blocks < 0) :]
        for ats in np.split(known, np.flatnonzero(np.diff(blocks[known])) + 1) if len(known) else []:
            path = self.folder / places.names[blocks[ats[0]]]
            vectors = _open_block(path)["vector"][rows[ats]]
            if not np.isfinite(vectors).all():
                msg = f"{path} is damaged: it has vectors that are not finite. {DAMAGED}"
                raise DamagedFileError(msg)
            result[ats] = vectors
        return result

    def missing(self, texts: TextStore) -> dict[bytes, str]:
        """Return the texts that the teacher was not asked for, by their ids."""
        unknown = np.flatnonzero(self._places.of(texts.item_ids)[0] < 0).tolist()
        items = {texts.item_ids[row].tobytes(): texts.items[row] for row in unknown}
        return {item: text for item, text in items.items() if item not in self._refused.items}


class _Places:
    """
    Block and row of each item's vector, in arrays sorted by id: a dictionary would take six times the memory.

    Each array is more than twice as long as the next, so that adding a block seldom sorts all items again.
    """

    def __init__(self) -> None:
        #: The blocks' file names, by number.
        self.names: list[str] = []
        self._runs: list[_Run] = []

    def add(self, blocks: Mapping[str, np.ndarray]) -> None:
        """Add the ids `[n]` V16 of blocks by name; of an item's places the last one counts."""
        added = [
            _Run(ids, np.full(len(ids), number), np.arange(len(ids)))
            for number, ids in enumerate(blocks.values(), len(self.names))
            if len(ids)
        ]
        self.names += blocks
        if added:
            runs = [*self._runs, _joined(added)]
            while len(runs) > 1 and len(runs[-2].ids) <= 2 * len(runs[-1].ids):
                runs[-2:] = [_joined(runs[-2:])]
            self._runs = runs

    def of(self, item_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers `[n]` of the items' blocks and their rows there `[n]`; -1 where unknown."""
        blocks, rows = np.full((2, len(item_ids)), -1)
        for run in reversed(self._runs):
            left = np.flatnonzero(blocks < 0)
            left = left[np.argsort(item_ids[left])]  # neighbours are near each other in memory
            at = np.searchsorted(run.ids, item_ids[left]).clip(max=len(run.ids) - 1)
            same = run.ids[at] == item_ids[left]
            blocks[left[same]], rows[left[same]] = run.blocks[at[same]], run.rows[at[same]]
        return blocks, rows

    def __len__(self) -> int:
        return len(_joined(self._runs).ids) if self._runs else 0


class _Run(NamedTuple):
    """Items with the numbers of their blocks and their rows there."""

    ids: np.ndarray
    blocks: np.ndarray
    rows: np.ndarray


def _joined(runs: list[_Run]) -> _Run:
    """Join runs, sorted by id; of an item's places the last one counts."""
    ids = np.concatenate([run.ids for run in runs])
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    last = np.append(ids[1:] != ids[:-1], True)
    blocks, rows = (np.concatenate(values, dtype=np.int32)[order[last]] for values in list(zip(*runs, strict=True))[1:])
    return _Run(ids[last], blocks, rows)


def _stamp(path: Path) -> tuple[int, int]:
    """Tell a file from another of its name."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _open_block(path: Path) -> np.ndarray:
    """Map a block into memory."""
    return _mapped(path, *_stamp(path))


@lru_cache(maxsize=64)
def _mapped(path: Path, *_: int) -> np.ndarray:
    """Keep blocks open, as long as they are the same files: each costs a file handle."""
    with reading(path, DAMAGED):
        rows = np.load(path, mmap_mode="r")
        if rows["id"].dtype != "V16" or rows["id"].ndim != 1 or rows["vector"].ndim != 2:  # noqa: PLR2004
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
