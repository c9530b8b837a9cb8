# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Guards in front of an application: names, a key, what a body may be, and bounds on what runs at once."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from retort.serving.strict_json import parse

OPEN = ("/", "/page/app.css", "/page/app.js", "/health", "/ready", "/settings")
# Hayhooks draws pipelines by a service on the internet, and leaves a file open for each; files it takes and drops;
# nothing here answers OpenAI's newer responses.
HIDDEN = ("/draw", "/v1/files", "/files", "/traces", "/v1/responses", "/responses")
CHATS = ("/v1/chat/completions", "/chat/completions")
SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:@/]+)(?::[0-9]*)?")
BODIES = 256  # of one client, under way at a time
CLOSE = (b"connection", b"close")  # else a body that nobody waits for keeps its connection
RETRY = (b"retry-after", b"1")


class Guards:
    """
    ASGI middleware.

    A body is read as a whole before anything else is done for a request, so one that comes slowly holds nothing that
    others need.

    :param app:
        The application.
    :param api_key:
        Required as `Authorization: Bearer KEY` on all paths but the page, health and readiness; None: no key.
    :param max_body:
        Bytes of a request's body.
    :param max_requests:
        Requests at a time; those beyond get 503 at once, with `Retry-After`. Half of them from one client; those beyond
        get 429. A client may have as many bodies under way; with each further one the oldest is given up (408).
    :param body_timeout:
        Seconds that a body may take to arrive (then 408), and a client to take a piece of the answer.
    :param hosts:
        Names that the server may be called by, without a port, `*.example.com` for all below; `*`: any.
    :param fields:
        By path all fields that a body may have: a misspelt filter would be no filter.
    """

    def __init__(
        self,
        app: Any,
        *,
        api_key: str | None,
        max_body: int,
        max_requests: int,
        body_timeout: float,
        hosts: Sequence[str] = ("*",),
        fields: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._app = app
        self._key = api_key.encode() if api_key else None
        self._max_body = max_body
        self._max_requests = max_requests
        self._timeout = body_timeout
        self._fields = fields or {}
        self._hosts = [host.lower() for host in hosts]
        self._share = max(1, max_requests // 2)
        self._running: Counter[str] = Counter()
        self._waiting: defaultdict[str, list[asyncio.Timeout]] = defaultdict(list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Refuse what is not allowed, and hand on the rest."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":  # there are no websockets here
                await self._app(scope, receive, send)
            return
        if not self._is_called_by_name([value for name, value in scope["headers"] if name == b"host"]):
            await _refuse(scope, send, 400, "This server is not called by that name: see retort serve --allowed-hosts.")
            return
        headers = dict(scope["headers"])
        if scope["path"].startswith(HIDDEN):
            await _refuse(scope, send, 404, "There is no such path.")
            return
        preflight = scope["method"] == "OPTIONS" and b"access-control-request-method" in headers
        if scope["path"] in OPEN or preflight:
            await self._app(scope, receive, send)
            return
        if self._key is not None and not _has_key(headers.get(b"authorization", b""), self._key):
            detail = "This server wants a key: Authorization: Bearer KEY."
            await _refuse(scope, send, 401, detail, (b"www-authenticate", b"Bearer"), CLOSE)
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._max_body:
            await self._refuse_long(scope, send)
            return
        client = scope["client"][0] if scope.get("client") else ""
        try:
            body = await self._read(client, receive)
        except TimeoutError:
            await _refuse(scope, send, 408, f"The body did not arrive in time ({self._timeout:g} seconds).", CLOSE)
            return
        if body is None:  # the client went away
            return
        if len(body) > self._max_body:
            await self._refuse_long(scope, send)
            return
        if body:
            try:  # in a chat, a client may have cut an emoji in two
                halves = "ignore" if scope["path"] in CHATS else "strict"
                body = _checked(body, halves, self._fields.get(scope["path"]))
            except ValueError as error:
                await _refuse(scope, send, 422, f"The body cannot be used: {error}.")
                return
        if self._running.total() >= self._max_requests:
            await _refuse(scope, send, 503, "Too many requests at once. Try again in a second.", RETRY)
            return
        if self._running[client] >= self._share:
            await _refuse(scope, send, 429, "Too many requests of yours at once. Try again in a second.", RETRY)
            return
        self._running[client] += 1
        try:
            await self._answered(scope, body, receive, send)
        finally:
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]

    def _is_called_by_name(self, given: list[bytes]) -> bool:
        if "*" in self._hosts:
            return True
        match = _HOST.fullmatch(given[0].decode("latin-1").lower()) if len(given) == 1 else None
        if match is None:
            return False
        host = match[1]
        return any(host == own or (own.startswith("*.") and host.endswith(own[1:])) for own in self._hosts)

    async def _read(self, client: str, receive: Any) -> bytes | None:
        """Read a body, in time and one of not too many of its client: the oldest that is still awaited makes room."""
        waiting = self._waiting[client]
        async with asyncio.timeout(self._timeout) as deadline:
            if len(waiting) >= BODIES:
                waiting.pop(0).reschedule(0)
            waiting.append(deadline)
            try:
                return await self._body(receive)
            finally:
                if deadline in waiting:
                    waiting.remove(deadline)
                if not waiting:
                    self._waiting.pop(client, None)

    async def _body(self, receive: Any) -> bytes | None:
        """Read the body, or what shows that it is too long; None without a client."""
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_body or not message.get("more_body"):
                return b"".join(parts)

    async def _answered(self, scope: Any, body: bytes, receive: Any, send: Any) -> None:
        """Run the application over a body that was read; a client that does not take its answer loses it."""
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        lost = False

        async def received() -> Any:
            return messages.pop() if messages else await receive()

        async def sent(message: Any) -> None:
            nonlocal lost
            try:
                async with asyncio.timeout(self._timeout):
                    await send(message)
            except TimeoutError:
                lost = True
                raise

        try:
            await self._app(scope, received, sent)
        except Exception:
            if not lost:
                raise

    async def _refuse_long(self, scope: Any, send: Any) -> None:
        await _refuse(scope, send, 413, f"The request is longer than {self._max_body} bytes.", CLOSE)


def _has_key(authorization: bytes, key: bytes) -> bool:
    scheme, _, credentials = authorization.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(credentials.strip(b" "), key)


def _checked(body: bytes, halves: str, fields: Sequence[str] | None) -> bytes:
    value = parse(body)
    if fields is not None and isinstance(value, dict) and (odd := [name for name in value if name not in fields]):
        msg = f"there is no field {odd[0]!r}; there are: {', '.join(fields)}"
        raise ValueError(msg)
    try:
        return json.dumps(value, ensure_ascii=False).encode("utf-8", halves)
    except UnicodeEncodeError as error:
        msg = "a text holds half of a surrogate pair"
        raise ValueError(msg) from error


def refusal(path: str, status: int, detail: Any) -> dict[str, Any]:
    """Say why a request is refused; to OpenAI's clients in their words, too."""
    said = {"detail": detail}
    if path in CHATS:
        kind = "invalid_request_error" if status < 500 else "server_error"  # noqa: PLR2004
        message = detail if isinstance(detail, str) else json.dumps(detail)
        said["error"] = {"message": message, "type": kind, "param": None, "code": None}
    return said


async def _refuse(scope: Any, send: Any, status: int, detail: str, *headers: tuple[bytes, bytes]) -> None:
    start = [(b"content-type", b"application/json"), *SECURITY, *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": json.dumps(refusal(scope["path"], status, detail)).encode()})
