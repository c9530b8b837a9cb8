# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Where a server listens: sockets that are bound before anything is loaded, and connections that must say something."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEAD_TIMEOUT = 10.0  # seconds that the head of a request may take
HEAD_BYTES = 65536  # that it may have
CLIENT_CONNECTIONS = 512  # at a time; half the files that a process may usually have open
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def is_loopback(one: socket.socket) -> bool:
    """Tell whether only this machine can reach a socket."""
    return ipaddress.ip_address(one.getsockname()[0].partition("%")[0]).is_loopback


def address(host: str, sockets: list[socket.socket]) -> str:
    """Write a host as URLs and `Host` headers do (`[::1]`); one that stands for all addresses is called localhost."""
    if ipaddress.ip_address(sockets[0].getsockname()[0].partition("%")[0]).is_unspecified:
        return "localhost"
    return f"[{host.replace('%', '%25')}]" if ":" in host else host


def bind(host: str, port: int) -> list[socket.socket]:
    """
    Bind all addresses of a host; nobody can connect yet.

    :param host:
        A name or address.
    :param port:
        The port; 0: a free one.
    :returns:
        A socket for each address, all on one port.
    :raises OSError:
        If the host has no address here, or the port is taken or not allowed; what to do is said.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        msg = f"--host {host}: there is no such host ({error})."
        raise OSError(msg) from error
    sockets: list[socket.socket] = []
    errors: list[OSError] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        taken = sockets[0].getsockname()[1] if sockets else port
        try:
            sockets.append(_bound(family, kind, protocol, (address[0], taken, *address[2:])))
        except OSError as error:
            errors.append(error)
    # `localhost` may have an address of a kind that this machine has not.
    serious = [error for error in errors if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)]
    if serious or not sockets:
        for one in sockets:
            one.close()
        first = (serious or errors)[0]
        raise _explained(first, host, port) from first
    return sockets


def _bound(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    one = socket.socket(family, kind, protocol)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
    except OSError:
        one.close()
        raise
    return one


def _explained(error: OSError, host: str, port: int) -> OSError:
    if error.errno == errno.EADDRINUSE:
        return OSError(f"Port {port} of {host} is in use. Stop what listens there, or give another --port.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return OSError(f"Port {port} of {host} is not allowed to this user. Give a --port above 1023.")
    if error.errno == errno.EADDRNOTAVAIL:
        return OSError(f"{host} is no address of this machine. Give one of its own as --host, or 0.0.0.0 for all.")
    return OSError(f"Cannot listen on port {port} of {host}: {os.strerror(error.errno or 0)}.")


class _Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """HTTP, from clients that send a short head of a request in time and have not too many connections."""

    _clients: ClassVar[Counter[str]] = Counter()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._peer = self.client[0] if self.client else ""
        self._head: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._clients[self._peer] += 1
        if self._clients[self._peer] > CLIENT_CONNECTIONS:
            transport.abort()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clients[self._peer] -= 1
        if not self._clients[self._peer]:
            del self._clients[self._peer]
        if self._head is not None:
            self._head.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # In pieces, so that no parser keeps more of a head: httptools has no bound of its own.
        while data and not self.transport.is_closing():
            before, piece = self.cycle, data[: HEAD_BYTES - self._head_bytes]
            data = data[len(piece) :]
            super().data_received(piece)
            waits = self.cycle is before and (before is None or before.response_complete or not before.more_body)
            self._head_bytes = self._head_bytes + len(piece) if waits else 0
            if self._head_bytes >= HEAD_BYTES:
                if before is None or before.response_complete:  # else it would cut into an answer
                    self.transport.write(TOO_LARGE)
                self.transport.close()
        self._watch()

    def _watch(self) -> None:
        """Between two requests, give the next one's head a time to arrive."""
        if self.cycle is None or self.cycle.response_complete:
            if self._head is None:
                self._head = self.loop.call_later(HEAD_TIMEOUT, self._give_up, self.cycle)
        elif self._head is not None:
            self._head.cancel()
            self._head = None

    def _give_up(self, before: Any) -> None:
        self._head = None
        if self.cycle is before:  # no request has begun since
            self.transport.abort()
        else:
            self._watch()


class Server(uvicorn.Server):
    """
    A server that says when it listens, and when it no longer does.

    :param app:
        The application.
    :param started:
        Called as soon as clients can connect.
    :param stopped:
        Called when all has been answered. After that, uvicorn may end the process by the signal that stopped it.
    """

    def __init__(self, app: Any, started: Callable[[], None], stopped: Callable[[], None]) -> None:
        # Who an address is from stands in a header that anybody can send, so it is believed where that is asked for.
        trusted = bool(os.environ.get("FORWARDED_ALLOW_IPS"))
        config = uvicorn.Config(
            app,
            http=_Protocol,
            h11_max_incomplete_event_size=HEAD_BYTES,
            ws="none",
            proxy_headers=trusted,
            log_level="warning",
            timeout_graceful_shutdown=10,
        )
        super().__init__(config)
        self._started, self._stopped = started, stopped

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, answer what is under way, then say so."""
        await super().shutdown(sockets)
        self._stopped()
