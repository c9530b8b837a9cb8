# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Teacher vectors on disk: computed once, in whole blocks, shared by all runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from retort.students.files import replace_file
from retort.students.towers import Side
from retort.trainers.data.texts import TextStore
from retort.trainers.runtime.errors import CacheError

BLOCK = 1024


def cache_root(run: Path) -> Path:
    """Return the cache folder: `$RETORT_CACHE`, else `.retort-cache` beside the run."""
    return Path(os.environ.get("RETORT_CACHE") or run.resolve().parent / ".retort-cache")


class VectorCache:
    """
    The vectors of one teacher and side, by item id.

    A folder of `.npy` blocks with dtype `[("id", "V16"), ("vector", "<f4", d)]`. Each block is written aside and
    renamed, so that a kill loses at most the block in work; one process writes at a time.

    :param root:
        The cache folder (see `cache_root`).
    :param key:
        The teacher's key.
    :param side:
        `query` or `document`.
    """

    def __init__(self, root: Path, key: str, side: Side) -> None:
        self.folder = root / "vectors" / key / side
        self._where: dict[bytes, tuple[str, int]] = {}
        self._read_new()

    def _read_new(self) -> None:
        """Learn which vectors are there, also those that another process wrote meanwhile."""
        known = {name for name, _ in self._where.values()}
        for path in sorted(self.folder.glob("*.npy")):
            if path.name not in known:
                self._where.update({i.tobytes(): (path.name, row) for row, i in enumerate(np.load(path)["id"])})

    def fill(self, texts: TextStore, encode: Callable[[list[str]], np.ndarray], progress: Callable[[int], None]) -> int:
        """
        Compute what is missing.

        The missing texts are sorted by length and item id and cut into fixed blocks: the same work gives the same
        blocks, however often it was interrupted.

        :param texts:
            The texts that will be asked for.
        :param encode:
            Gives `[n, d]` vectors for a list of texts.
        :param progress:
            Called with the number of texts after each block.
        :returns:
            How many vectors were computed.
        :raises CacheError:
            If another process is writing here.
        """
        if not self._missing(texts):
            return 0
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                self._read_new()
                work = self._missing(texts)
                missing = sorted(work.items(), key=lambda pair: (-len(pair[1]), pair[0]))
                for start in range(0, len(missing), BLOCK):
                    block = missing[start : start + BLOCK]
                    vectors = np.asarray(encode([text for _, text in block]), dtype="<f4")
                    _check(vectors, len(block))
                    rows = np.empty(len(block), dtype=[("id", "V16"), ("vector", "<f4", vectors.shape[1])])
                    rows["id"] = [item for item, _ in block]
                    rows["vector"] = vectors
                    path = self.folder / f"{block[0][0].hex()}.npy"
                    with replace_file(path) as aside, aside.open("wb") as file:
                        np.save(file, rows)
                    self._where.update({item: (path.name, row) for row, (item, _) in enumerate(block)})
                    progress(len(block))
        except Timeout as error:
            msg = f"{self.folder} is being written by another process. Wait, or set RETORT_CACHE to another folder."
            raise CacheError(msg) from error
        return len(work)

    def gather(self, item_ids: np.ndarray) -> np.ndarray:
        """
        Read vectors.

        :param item_ids:
            `[n]` V16 keys (see `TextStore.item_ids`), all of them filled before.
        :returns:
            `[n, d]` float32.
        :raises KeyError:
            If a vector was never computed.
        """
        places = [self._where[item.tobytes()] for item in item_ids]
        wanted: dict[str, list[int]] = {}
        for at, (name, _) in enumerate(places):
            wanted.setdefault(name, []).append(at)
        found: np.ndarray | None = None
        for name, ats in wanted.items():
            vectors = _open_block(self.folder / name)["vector"]
            if found is None:
                found = np.empty((len(places), vectors.shape[1]), dtype=np.float32)
            found[ats] = vectors[[places[at][1] for at in ats]]
        return np.empty((0, 0), dtype=np.float32) if found is None else found

    def _missing(self, texts: TextStore) -> dict[bytes, str]:
        items = (item.tobytes() for item in texts.item_ids)
        return {i: text for i, text in zip(items, texts.texts, strict=True) if i not in self._where}


@lru_cache(maxsize=64)
def _open_block(path: Path) -> np.ndarray:
    """Map a block into memory; blocks never change, and an open one costs a file handle."""
    return np.load(path, mmap_mode="r")


def _check(vectors: np.ndarray, expected: int) -> None:
    if vectors.ndim != 2 or len(vectors) != expected:  # noqa: PLR2004
        msg = f"The teacher gave vectors of shape {vectors.shape} for {expected} texts."
        raise CacheError(msg)
    if not np.isfinite(vectors).all():
        msg = "The teacher gave vectors that are not finite. Try float32, or look at the model."
        raise CacheError(msg)
