# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""A notice beside an index: where the process that holds it answers questions."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from retort.pipelines.load import is_url
from retort.students.files import write_json

KEY = "RETORT_API_KEY"  # of the environment
WITHIN = 5.0  # seconds


def _path(store: str) -> Path:
    return Path(f"{os.path.realpath(store)}.served.json")


def put_up(store: str, url: str, token: str) -> None:
    """
    Say where an index is served.

    :param store:
        The index. A server's has no notice: everybody may open it. Nor has one beside which nothing can be written.
    :param url:
        Where.
    :param token:
        What `/settings` there tells as `token`.
    """
    if not is_url(store):
        with suppress(OSError):
            write_json(_path(store), {"url": url, "token": token})


def take_down(store: str) -> None:
    """Remove the notice of an index."""
    with suppress(OSError):
        _path(store).unlink(missing_ok=True)


def served_at(store: str) -> str | None:
    """Return the URL of the `retort serve` that holds an index; None if there is no notice, or an old one."""
    import httpx

    try:
        told = json.loads(_path(store).read_text(encoding="utf-8"))
        said = httpx.get(f"{told['url']}/settings", timeout=WITHIN, trust_env=False)  # straight: it is on this machine
        return str(told["url"]) if said.json()["token"] == told["token"] else None
    except (OSError, ValueError, KeyError, TypeError, httpx.HTTPError, httpx.InvalidURL):
        return None
