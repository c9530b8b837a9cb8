# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Where a server listens, with real sockets."""

import asyncio
import socket
import time
from contextlib import suppress

import pytest

from retort.serving import listening
from retort.serving.listening import HEAD_BYTES, Server, address, bind, is_loopback

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
WITHIN = 5  # seconds


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{kind}"
            await send({"type": f"lifespan.{kind}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"up"})


def serve(check, host="127.0.0.1", served=app):
    """Serve until a check, run in a thread on the port, has ended; its result."""
    sockets = bind(host, 0)
    port = sockets[0].getsockname()[1]

    async def both():
        started = asyncio.Event()
        ended = []
        server = Server(served, started.set, lambda: ended.append(port))
        running = asyncio.create_task(server.serve(sockets))
        await asyncio.wait_for(started.wait(), WITHIN)
        try:
            return await asyncio.to_thread(check, port)
        finally:
            server.should_exit = True
            await running
            assert ended == [port]

    return asyncio.run(both())


def ask(port, host="127.0.0.1", **options):
    with socket.create_connection((host, port), timeout=WITHIN, **options) as one:
        one.sendall(REQUEST)
        return answer(one)


def answer(one):
    said = b""
    while not said.endswith(b"up") and (part := one.recv(1000)):
        said += part
    return said


def has_ipv6() -> bool:
    try:
        bind("::1", 0)[0].close()
    except OSError:
        return False
    return True


class TestBinding:
    def test_a_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            message = f"^Port {port} of 127.0.0.1 is in use. Stop what listens there, or give another --port.$"
            with pytest.raises(OSError, match=message):
                bind("127.0.0.1", port)
            with pytest.raises(OSError, match=f"^Port {port} of localhost is in use"):
                bind("localhost", port)

    @pytest.mark.parametrize(
        ("host", "message"),
        [
            ("no-such-host.invalid", "--host no-such-host.invalid: there is no such host"),
            ("x" * 70, "there is no such host"),
            ("192.0.2.1", "192.0.2.1 is no address of this machine"),
        ],
    )
    def test_a_host_that_is_not_here(self, host, message):
        with pytest.raises(OSError, match=message):
            bind(host, 0)

    def test_nobody_can_connect_before_it_listens(self):
        (one,) = bind("127.0.0.1", 0)
        with one, pytest.raises(ConnectionRefusedError):
            socket.create_connection(one.getsockname(), timeout=WITHIN)

    @pytest.mark.parametrize(
        ("host", "shown", "local"),
        [("127.0.0.1", "127.0.0.1", True), ("127.0.0.2", "127.0.0.2", True), ("0.0.0.0", "localhost", False)],  # noqa: S104
    )
    def test_what_it_is_called(self, host, shown, local):
        (one,) = bind(host, 0)
        with one:
            assert (address(host, [one]), is_loopback(one)) == (shown, local)

    @pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
    def test_ipv6(self):
        (one,) = bind("::1", 0)
        with one:
            assert (address("::1", [one]), is_loopback(one)) == ("[::1]", True)
        assert serve(lambda port: ask(port, host="::1"), host="::1").endswith(b"up")


class TestServer:
    @pytest.fixture(params=["httptools_impl.HttpToolsProtocol", "h11_impl.H11Protocol"])
    def parser(self, request):
        """Which of the two reads HTTP."""
        module, name = request.param.split(".")
        base = getattr(pytest.importorskip(f"uvicorn.protocols.http.{module}"), name)
        own, listening._Protocol.__bases__ = listening._Protocol.__bases__, (base,)
        yield
        listening._Protocol.__bases__ = own

    def test_it_says_that_it_listens_once_it_does(self):
        assert serve(ask).endswith(b"up")

    @pytest.mark.parametrize(
        ("before", "beginning"), [(0, b""), (0, b"GET / HT"), (0, REQUEST[:-2]), (1, b"GET / HT"), (2, REQUEST[:-2])]
    )
    def test_a_head_that_does_not_arrive(self, before, beginning, monkeypatch):
        monkeypatch.setattr(listening, "HEAD_TIMEOUT", 0.2)

        def slow(port):
            with socket.create_connection(("127.0.0.1", port), timeout=WITHIN) as one:
                for _ in range(before):
                    one.sendall(REQUEST)
                    assert answer(one).endswith(b"up")
                one.sendall(beginning)
                started = time.monotonic()
                with suppress(ConnectionResetError):
                    assert one.recv(1000) == b""
                return time.monotonic() - started

        assert 0.1 < serve(slow) < 2

    def test_a_head_in_pieces(self, monkeypatch):
        monkeypatch.setattr(listening, "HEAD_TIMEOUT", 1.0)

        def twice(port):
            with socket.create_connection(("127.0.0.1", port), timeout=WITHIN) as one:
                for _ in range(2):
                    one.sendall(REQUEST[:10])
                    time.sleep(0.05)
                    one.sendall(REQUEST[10:])
                    assert answer(one).endswith(b"up")
            return True

        assert serve(twice)

    @pytest.mark.usefixtures("parser")
    @pytest.mark.parametrize("before", [0, 1])
    def test_a_head_without_an_end(self, before):
        """It ends at a bound, whichever parser is there."""
        head = REQUEST[:-2] + b"x: "

        def long(port):
            said = []
            for size in (HEAD_BYTES // 2, HEAD_BYTES):
                with socket.create_connection(("127.0.0.1", port), timeout=WITHIN) as one:
                    for _ in range(before):
                        one.sendall(REQUEST)
                        assert answer(one).endswith(b"up")
                    one.sendall(head.ljust(size, b"x"))
                    if size < HEAD_BYTES:
                        one.sendall(b"\r\n\r\n")
                    said.append(answer(one))
            return said

        short, endless = serve(long)
        assert short.endswith(b"up")
        assert endless.startswith(b"HTTP/1.1 431 ")

    @pytest.mark.usefixtures("parser")
    def test_a_long_body_is_no_head(self):
        size = 5 * HEAD_BYTES

        async def reads(scope, receive, send):
            if scope["type"] == "http":
                got = 0
                while got < size:
                    got += len((await receive())["body"])
            await app(scope, receive, send)

        def twice(port):
            with socket.create_connection(("127.0.0.1", port), timeout=WITHIN) as one:
                for _ in range(2):
                    one.sendall(REQUEST.replace(b"GET", b"POST")[:-2] + b"Content-Length: %d\r\n\r\n" % size)
                    one.sendall(b"x" * size)
                    assert answer(one).endswith(b"up")
            return True

        assert serve(twice, served=reads)

    def test_connections_of_one_client(self, monkeypatch):
        monkeypatch.setattr(listening, "CLIENT_CONNECTIONS", 3)

        def many(port):
            held = [socket.create_connection(("127.0.0.1", port), timeout=WITHIN) for _ in range(3)]
            try:
                time.sleep(0.1)
                with suppress(ConnectionResetError):
                    assert ask(port) == b""
                assert ask(port, source_address=("127.0.0.3", 0)).endswith(b"up")
            finally:
                for one in held:
                    one.close()
            time.sleep(0.1)
            return ask(port)

        assert serve(many).endswith(b"up")
