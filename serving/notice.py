# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
A notice beside an index: where the process that holds it answers questions.

An index may come from somebody else, and a notice with it: what it names is asked only if it is on this machine, and
gets no key that it does not know already.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import socket
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from retort.pipelines.load import is_url
from retort.students.files import write_json

KEY = "RETORT_API_KEY"  # of the environment
WITHIN = 5.0  # seconds


def _path(store: str) -> Path:
    return Path(f"{os.path.realpath(store)}.served.json")


class Notice(NamedTuple):
    """Where an index is served, whether that server has the key of this process, and whether it is its other index."""

    url: str
    knows_key: bool
    other: bool = False


def read_key() -> str | None:
    """
    Read the key of the environment; None: there is none.

    :raises OSError:
        If a header cannot carry it.
    """
    key = os.environ.get(KEY, "").rstrip("\r\n")  # files of secrets end with one
    if not re.fullmatch("[!-~]*", key):
        msg = f"{KEY} may hold ASCII letters, digits and signs only, without spaces. Set another key."
        raise OSError(msg)
    return key or None


def put_up(store: str, url: str, token: str, key: str | None, *, other: bool = False) -> None:
    """
    Say where an index is served.

    :param store:
        The index. A server's has no notice: everybody may open it. Nor has one beside which nothing can be written.
    :param url:
        Where.
    :param token:
        What `/settings` there tells as `token`.
    :param key:
        What the server asks for. The notice proves that it is known, and does not tell it.
    :param other:
        Whether it is the server's other index.
    """
    if not is_url(store):
        proof = None if key is None else _proof(key, url, token)
        with suppress(OSError):
            write_json(_path(store), {"url": url, "token": token, "proof": proof, "other": other})


def take_down(store: str) -> None:
    """Remove the notice of an index."""
    with suppress(OSError):
        _path(store).unlink(missing_ok=True)


def read_notice(store: str) -> Notice | None:
    """
    Read where an index is served; None if there is no notice, an old one, or one of another machine.

    :raises OSError:
        If it is served, and no header can carry the key of this process.
    """
    import httpx

    path = _path(store)
    try:
        if not path.is_file():
            return None
        told = json.loads(path.read_text(encoding="utf-8"))
        url, token = str(told["url"]), str(told["token"])
        _refuse_elsewhere(url)
        said = httpx.get(f"{url}/settings", timeout=WITHIN, trust_env=False)  # straight: it is on this machine
        if said.json()["token"] != token:
            return None
        proof, other = told.get("proof"), told.get("other") is True
    except (OSError, ValueError, LookupError, TypeError, RecursionError, httpx.HTTPError, httpx.InvalidURL):
        return None
    key = read_key()
    return Notice(url, bool(key and proof == _proof(key, url, token)), other)


def _proof(key: str, url: str, token: str) -> str:
    return hmac.new(key.encode(), f"{url} {token}".encode(), hashlib.sha256).hexdigest()


def _refuse_elsewhere(url: str) -> None:
    """Raise OSError if a URL is not of this machine."""
    for family, kind, _, _, address in socket.getaddrinfo(urlsplit(url).hostname, 0, type=socket.SOCK_STREAM):
        if not ip_address(str(address[0]).partition("%")[0]).is_loopback:
            with socket.socket(family, kind) as one:
                one.bind(address)
