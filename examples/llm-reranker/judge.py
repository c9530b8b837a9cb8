# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for an LLM: answers as OpenAI's chat does, and orders documents by the words shared with a query."""

import argparse
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def order(prompt: str) -> str:
    """Read the prompt of `teacher.yaml`, and answer as it asks."""
    query = re.search(r"^Query: (.*)$", prompt, re.MULTILINE)
    documents = re.split(r"^Document \d+: ", prompt, flags=re.MULTILINE)[1:]
    asked = set(re.findall(r"\w+", query[1].lower() if query else ""))
    shared = [len(asked & set(re.findall(r"\w+", text.lower()))) for text in documents]
    best = sorted(range(len(documents)), key=lambda i: -shared[i])
    return json.dumps({"documents": [{"index": i + 1} for i in best]})


class Handler(BaseHTTPRequestHandler):
    """Answers one request after another on a kept connection."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer a chat."""
        request: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = {"role": "assistant", "content": order(request["messages"][-1]["content"])}
        reply = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [{"index": 0, "message": answer, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        }
        content = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def serve(port: int) -> ThreadingHTTPServer:
    """Listen on this machine alone; port 0 is a free one."""
    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8078)
    with serve(parser.parse_args().port) as server:
        server.serve_forever()
