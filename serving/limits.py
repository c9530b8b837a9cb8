# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Guards in front of an application: a key, a greatest body, and a bound on what runs at once."""

from __future__ import annotations

import hmac
import json
from typing import Any

OPEN = ("/", "/page/app.css", "/page/app.js", "/health", "/ready", "/settings")
# Hayhooks draws pipelines by a service on the internet, and leaves a file open for each.
HIDDEN = ("/draw",)
SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]


class Guards:
    """
    ASGI middleware.

    :param app:
        The application.
    :param api_key:
        Required as `Authorization: Bearer KEY` on all paths but the page, health and readiness; None: no key.
    :param max_body:
        Bytes of a request's body.
    :param max_requests:
        Requests at a time; those beyond get 503 at once, with `Retry-After`.
    """

    def __init__(self, app: Any, *, api_key: str | None, max_body: int, max_requests: int) -> None:
        self._app = app
        self._key = b"Bearer " + api_key.encode() if api_key else None
        self._max_body = max_body
        self._max_requests = max_requests
        self._running = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Refuse what is not allowed, and hand on the rest."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if scope["path"].startswith(HIDDEN):
            await _refuse(send, 404, "There is no such path.")
            return
        preflight = scope["method"] == "OPTIONS" and b"access-control-request-method" in headers
        if scope["path"] in OPEN or preflight:
            await self._app(scope, receive, send)
            return
        if self._key is not None and not hmac.compare_digest(headers.get(b"authorization", b""), self._key):
            detail = "This server wants a key: Authorization: Bearer KEY."
            await _refuse(send, 401, detail, [(b"www-authenticate", b"Bearer")])
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._max_body:
            await _refuse(send, 413, f"The request is longer than {self._max_body} bytes.")
            return
        if self._running >= self._max_requests:
            await _refuse(send, 503, "Too many requests at once. Try again in a second.", [(b"retry-after", b"1")])
            return
        self._running += 1
        try:
            await self._bounded(scope, receive, send)
        finally:
            self._running -= 1

    async def _bounded(self, scope: Any, receive: Any, send: Any) -> None:
        """Read a body without a declared length only so far; whatever the application says then, it is too long."""
        read = 0

        async def received() -> Any:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            return {"type": "http.disconnect"} if read > self._max_body else message

        async def sent(message: Any) -> None:
            if read <= self._max_body:
                await send(message)

        try:
            await self._app(scope, received, sent)
        finally:
            if read > self._max_body:
                await _refuse(send, 413, f"The request is longer than {self._max_body} bytes.")


async def _refuse(send: Any, status: int, detail: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    start = [(b"content-type", b"application/json"), *SECURITY, *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()})
