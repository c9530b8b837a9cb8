# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""One writer at a time, where several runs share a cache."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

SOON = 5.0  # seconds after which waiting is worth a word


@contextmanager
def sole_writer(place: Path, lock: Path) -> Iterator[None]:
    """
    Keep other processes off a place, and wait for one that is there: what it writes need not be asked for again.

    :param place:
        What is written, for the log.
    :param lock:
        The lock's file.
    """
    held = FileLock(lock)
    try:
        held.acquire(timeout=SOON)
    except Timeout:
        logger.warning("%s is being written by another process; waiting for it. RETORT_CACHE names another.", place)
        held.acquire()
    try:
        yield
    finally:
        held.release()
