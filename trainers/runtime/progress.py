# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""How far long work has come: a bar in a terminal, a line a minute elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

EVERY_S = 60.0

logger = logging.getLogger(__name__)


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Any]:
    """
    Show a bar in a terminal; elsewhere log a line a minute (level INFO, which retort's command shows).

    :param what:
        What is being done.
    :param total:
        How many there are of it.
    :returns:
        Yields `update(n)`: so many more are done.
    """
    if sys.stderr.isatty():
        with tqdm(total=total, desc=what, leave=False, smoothing=0.1) as bar:
            yield bar.update
        return
    started = shown = time.monotonic()
    done = first = 0

    def update(n: int) -> None:
        nonlocal done, first, shown
        now = time.monotonic()
        if not done:
            first = n  # may have been done before, by a run that was interrupted
        done += n
        if now - shown >= EVERY_S and done < total:
            shown = now
            pace = (done - first) / (now - started)
            left = f", {(total - done) / pace / 60:.0f} min to go" if pace else ""
            logger.info("%s: %d of %d%s", what, done, total, left)

    yield update
