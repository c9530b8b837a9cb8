# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What the caches of vectors and of scores share: folders of earlier keys, and what a teacher refused."""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from retort.students.redaction import redacted

logger = logging.getLogger(__name__)

SHOWN = 5  # of a fill, in the log
CHARACTERS = 200  # of a text


def take_over(former: Path, folder: Path) -> None:
    """Give a cache folder of an earlier key its new name, if there is none of that name."""
    if former.is_dir() and not folder.exists():
        with suppress(OSError):  # read-only, or another process was faster
            folder.parent.mkdir(parents=True, exist_ok=True)
            former.rename(folder)


def append_line(path: Path, value: Any) -> None:
    """Append a value to a file of JSON lines, behind whatever line a kill cut."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")
        file.write(f"{json.dumps(value)}\n".encode())


class SetAside:
    """
    The items of a cache folder that its teacher refused and why, in `refused.jsonl`: `items`, `text` and `cause`.

    Whoever deletes the file has them asked for again.

    :param folder:
        The cache folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "refused.jsonl"
        self.items: set[bytes] = set()
        self._told = 0

    def read(self) -> None:
        """Learn what is there; damaged lines are passed over: what they named is asked for again."""
        self.items = set()
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                self.items |= {bytes.fromhex(item) for item in json.loads(line)["items"]}
            except (ValueError, TypeError, KeyError):
                continue

    def add(self, items: list[bytes], text: str, cause: str) -> None:
        """Keep what was refused and why, and say so."""
        cause = redacted(cause)
        line = {"items": [item.hex() for item in items], "text": text[:CHARACTERS], "cause": cause}
        append_line(self.path, line)
        self.items |= set(items)
        self._told += 1
        if self._told <= SHOWN:
            logger.warning("the teacher refuses %r, which is set aside: %s", text[:80], cause)

    def summary(self) -> None:
        """Say how many there were since the last time."""
        if self._told:
            logger.warning(
                "the teacher refused %d in all; %s names them. Delete it to have them asked for again.",
                self._told,
                self.path,
            )
        self._told = 0
