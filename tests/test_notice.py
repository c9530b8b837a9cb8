# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The notice beside a served index: whoever made the index may have made it as well."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from retort.cli import main
from retort.serving.notice import Notice, put_up, read_key, read_notice

KEY = "a-key-of-the-tests"


# As the server tells it: characters at which Python would cut lines stand there as they are.
PASSAGE = '{"number": 1, "id": "a\u2028b", "title": "c\u0085d", "score": 1}'
SAID = f'data: {{"event": "passages", "passages": [{PASSAGE}]}}\n\ndata: {{"event": "done", "best_score": 0}}\n\n'


@pytest.fixture
def server():
    """What answers as `retort serve` does, and keeps the keys that it gets."""
    keys, bodies = [], []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.answer(b'{"token": "t"}')

        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            keys.append(self.headers["authorization"])
            self.answer(SAID.encode())

        def log_message(self, *_):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.keys, running.bodies, running.url = keys, bodies, f"http://127.0.0.1:{running.server_port}"
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def index(tmp_path, monkeypatch) -> str:
    """An index that cannot be opened, so that whoever asks looks at its notice."""
    monkeypatch.setenv("RETORT_API_KEY", KEY)
    (tmp_path / "index").mkdir()
    return str(tmp_path / "index")


@pytest.mark.parametrize("own", [None, "another-key", KEY])
def test_the_key_goes_to_nobody_who_has_not_got_it(server, index, own):
    put_up(index, server.url, "t", own)
    main(["ask", "Who reads this?", "--store", index])
    assert server.keys == [f"Bearer {KEY}" if own == KEY else None]


@pytest.mark.parametrize("key", ["kl\xfcssel", "two words", "a\nb", "tab\t", " \n", "caf\udce9"])
def test_a_key_that_no_header_can_carry(server, index, key, monkeypatch, capsys):
    put_up(index, server.url, "t", "another-key")
    monkeypatch.setenv("RETORT_API_KEY", key)
    for command in (["ask", "Who reads this?"], ["serve"]):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--store", index])
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("retort: error: RETORT_API_KEY may hold ASCII letters, digits and signs only")
        assert said.count("\n") == 1
    assert not server.bodies


@pytest.mark.parametrize(
    ("held", "key"), [(KEY, KEY), (f"{KEY}\n", KEY), (f"{KEY}\r\n", KEY), ("\n", None), ("", None)]
)
def test_a_key_from_a_file_ends_with_its_line(held, key, monkeypatch):
    monkeypatch.setenv("RETORT_API_KEY", held)
    assert read_key() == key
    monkeypatch.delenv("RETORT_API_KEY")
    assert read_key() is None


@pytest.mark.parametrize("other", [False, True])
def test_the_index_that_is_asked(server, index, other):
    put_up(index, server.url, "t", None, other=other)
    main(["ask", "Who reads this?", "--store", index])
    assert [body["other"] for body in server.bodies] == [other]


def test_what_it_says(server, index, capsys):
    put_up(index, server.url, "t", None)
    main(["ask", "Who reads this?", "--store", index, "--json"])
    (document,) = json.loads(capsys.readouterr().out)["documents"]
    assert (document["id"], document["title"]) == ("a\u2028b", "c\u0085d")


def test_a_notice_does_not_prove_it_for_another_address(server, index):
    put_up(index, "http://127.0.0.1:9", "t", KEY)
    told = json.loads(open(f"{index}.served.json").read())
    assert KEY not in str(told)
    with open(f"{index}.served.json", "w") as file:
        json.dump(told | {"url": server.url}, file)
    assert read_notice(index) == Notice(server.url, knows_key=False)


@pytest.mark.parametrize("url", ["http://192.0.2.1:80", "http://[2001:db8::1]", "http://127.0.0.1@192.0.2.1"])
def test_another_machine_is_not_asked(index, url, monkeypatch):
    asked = []
    monkeypatch.setattr(
        httpx, "get", lambda *given, **_: asked.append(given) or httpx.Response(200, json={"token": "t"})
    )
    put_up(index, url, "t", KEY)
    assert read_notice(index) is None
    assert not asked


@pytest.mark.parametrize(
    "content", ["", "5", "[]", "{}", '{"url": 5, "token": "t"}', '{"url": "http://["}', "[" * 100_000]
)
def test_what_is_no_notice(index, content):
    with open(f"{index}.served.json", "w") as file:
        file.write(content)
    assert read_notice(index) is None


def test_a_pipe_holds_nobody_up(index):
    os.mkfifo(f"{index}.served.json")
    assert read_notice(index) is None
