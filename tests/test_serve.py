# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort serve`: one real process for all tests of this file; the page in a real browser."""

import asyncio
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from haystack import Pipeline, component
from haystack.dataclasses import ChatMessage, StreamingChunk, ToolCall
from haystack.errors import FilterError
from tiny import MINILM, write_jsonl

from retort.cli import main
from retort.serving.limits import HIDDEN
from retort.students.files import resolve_model
from retort.workflows import index_documents

pytestmark = pytest.mark.integration

READY_WITHIN = 60
PASSAGES = {
    "badge": "Lost badges are replaced at the reception desk on the ground floor. Bring an identity card.",
    "vacation": "Employees have thirty days of paid leave a year. Ask your manager two weeks ahead.",
    "password": "🔒 A password has sixteen characters at least. It is changed by the form on the intranet.",
    "fire": "When the alarm sounds, take the stairs and gather at the fountain. Lifts stand still.",
    "lunch": "The canteen serves warm meals between half past eleven and two o'clock. <b>Cash</b> is not taken.",
}
QUESTION = "Where do we gather when the fire alarm sounds?"
ANSWER = "When the alarm sounds, take the stairs and gather at the fountain."
KEY = "a-key-of-the-tests"
SECRET = "what nobody else should read"
UNANSWERED = "The question could not be answered; the server's log says why."
ANY = "0.0.0.0"  # noqa: S104


class Running:
    """A running `retort serve`."""

    def __init__(self, place: Path, *arguments: str, key: str | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = place / f"log-{port}"
        command = [sys.executable, "-m", "retort.cli", "serve", "--host", "127.0.0.1", "--port", str(port), *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "2"} | ({"RETORT_API_KEY": key} if key else {})
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=place, stdout=log, stderr=log, env=environment)
        self.client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        until = time.monotonic() + READY_WITHIN
        while True:
            assert self.process.poll() is None and time.monotonic() < until, self.log.read_text()
            try:
                self.client.get("/health").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.2)

    def ask(self, question: str, **body) -> list[dict]:
        with self.client.stream("POST", "/ask", json={"question": question, **body}) as answer:
            lines = list(answer.iter_lines())
        return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("place")
    (place / "data").mkdir()
    rows = [{"_id": i, "title": i, "text": t, "metadata": {"letters": len(i)}} for i, t in PASSAGES.items()]
    write_jsonl(place / "data" / "corpus.jsonl", rows)
    shutil.copytree(resolve_model(MINILM), place / "student")
    index_documents(str(place / "student"), place / "data", place / "index")
    shutil.copytree(place / "index", place / "other")
    (place / "report.html").write_text("<!doctype html><title>The run</title><p>How good it is.")
    return place


@pytest.fixture(scope="module")
def light(place) -> Path:
    """An index of an exported student, which is served without torch."""
    with tarfile.open(Path(__file__).parent / "saved" / "0.1.0.tar.xz") as archive:
        kept = [member for member in archive.getmembers() if "students/dense" in member.name]
        archive.extractall(place, members=kept, filter="data")
    index_documents(str(place / "students" / "dense"), place / "data", place / "light")
    return place / "light"


@pytest.fixture(scope="module")
def server(place):
    options = ["--max-requests", "8", "--max-body", "5000", "--body-timeout", "5"]
    running = Running(place, "--store", "index", "--other", "other", *options)
    yield running
    notices = {False: place / "index.served.json", True: place / "other.served.json"}
    for other, notice in notices.items():
        content = json.loads(notice.read_text())
        assert (content["url"], content["other"]) == (running.url, other)
    assert running.stop() in {0, -signal.SIGTERM}
    assert not any(notice.exists() for notice in notices.values())


class TestApi:
    def test_asking(self, server):
        assert server.client.get("/ready").json()["documents"] == 5
        assert f"API: {server.url}/docs\n" in server.log.read_text()
        passages, *answers, done = server.ask(QUESTION)
        assert [event["event"] for event in (passages, *answers, done)] == [
            "passages",
            *["answer"] * len(answers),
            "done",
        ]
        best = answers[0]
        assert best["text"] == ANSWER
        passage = passages["passages"][best["passage"] - 1]
        assert passage["id"] == "fire"
        assert passage["text"][best["start"] : best["end"]] == ANSWER
        assert {"embed", "search", "answer"} == set(done["ms"])
        assert all(ms > 0 for ms in done["ms"].values())
        assert [e["event"] for e in server.ask(QUESTION, other=True)][-1] == "done"

    def test_limits(self, server):
        assert server.client.post("/ask", json={"question": ""}).status_code == 422
        assert server.client.post("/ask", json={"question": "x" * 2001}).status_code == 422
        answer = server.client.post("/ask", json={"question": "x" * 6000})
        assert (answer.status_code, answer.json()["detail"]) == (413, "The request is longer than 5000 bytes.")
        chunks = (b"x" * 1000 for _ in range(8))  # without a length
        assert server.client.post("/ask", content=chunks).status_code == 413
        with ThreadPoolExecutor(40) as pool:
            codes = list(pool.map(lambda _: httpx.post(f"{server.url}/ask", json={"question": QUESTION}, timeout=60).status_code, range(40)))  # fmt: skip
        assert set(codes) <= {200, 429}  # half of the places are for others
        assert codes.count(429) > 0
        assert server.ask(QUESTION)[-1]["event"] == "done"

    def test_slow_bodies_hold_nothing(self, server):
        """More of them than there are places, from the very address that another asks from."""
        head = b"POST /ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        place = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        slow = [socket.create_connection(place, timeout=30) for _ in range(100)]
        for one in slow:
            one.sendall(head)
        assert server.ask(QUESTION)[-1]["event"] == "done"
        assert not select.select(slow, [], [], 0)[0]  # none has been given up yet
        for one in slow:
            assert b" 408 " in one.recv(20)
            one.close()

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({"field": "meta.title", "operator": "==", "value": "lunch"}, ["lunch"]),
            (["letters>4", "title!=badge"], ["lunch", "password", "vacation"]),
            (["letters>4", '{"field": "id", "operator": "in", "value": ["fire", "badge"]}'], ["badge"]),
            ([], [*PASSAGES]),
            ({}, [*PASSAGES]),
            (None, [*PASSAGES]),
        ],
    )
    def test_filters(self, server, filters, expected):
        run = {"query": QUESTION, "filters": filters}
        found = server.client.post("/search/run", json=run).json()["result"]["searcher"]["documents"]
        assert sorted(d["id"] for d in found) == sorted(expected)
        found = server.client.post("/extractive_qa/run", json=run).json()["result"]["retriever"]["documents"]
        assert sorted(d["id"] for d in found) == sorted(expected)
        for other in (False, True):
            passages = server.ask(QUESTION, filters=filters, other=other)[0]["passages"]
            assert sorted(p["id"] for p in passages) == sorted(expected)

    def test_filters_in_a_chat(self, server):
        messages = [{"role": "user", "content": "When does the canteen serve meals, and how is a password changed?"}]
        for stream in (False, True):
            extra = {"filters": ["title=password"], "top_k": 1, "stream": stream}
            said = server.client.post("/v1/chat/completions", json={"model": "chat", "messages": messages, **extra})
            assert "[1] password" in said.text
            assert "canteen" not in said.text

    @pytest.mark.parametrize(
        ("filters", "reason"),
        [
            ({"field": "meta.title", "operator": "like", "value": "lunch"}, "Unknown comparison operator"),
            ({"operator": "AND"}, "'conditions' must be a list"),
            ({"field": "meta.a", "operator": ">", "value": "b"}, "compares numbers and ISO 8601 dates"),
            (["letters"], "letters is no condition. Write FIELD=VALUE"),
            (["_retort_root=/home"], "are the index's own"),
            ("title=lunch", "dict"),
            ([1], "string"),
        ],
    )
    def test_filters_that_are_malformed(self, server, filters, reason):
        chat = {"model": "chat", "messages": [{"role": "user", "content": QUESTION}]}
        for path, body in {
            "/ask": {"question": QUESTION},
            "/search/run": {"query": QUESTION},
            "/extractive_qa/run": {"query": QUESTION},
            "/v1/chat/completions": chat,
            "/chat/completions": chat | {"stream": True},
        }.items():
            said = server.client.post(path, json=body | {"filters": filters})
            assert said.status_code == 422, path
            if "chat" not in path or reason not in ("dict", "string"):
                assert reason in said.text
            if "chat" in path:
                assert said.json()["error"]["message"] == said.json()["detail"]

    @pytest.mark.parametrize("path", ["/ask", "/search/run", "/extractive_qa/run"])
    def test_a_misspelt_filter_is_refused(self, server, path):
        body = {"question" if path == "/ask" else "query": QUESTION, "filter": ["title=lunch"]}
        said = server.client.post(path, json=body)
        assert said.status_code == 422
        assert "there is no field 'filter'; there are: " in said.json()["detail"]

    @pytest.mark.parametrize("path", ["/", "/health", "/ready"])
    def test_a_look_whether_it_is_up(self, server, path):
        assert server.client.head(path).status_code == 200
        operations = [one["operationId"] for p in server.client.get("/openapi.json").json()["paths"].values() for one in p.values()]  # fmt: skip
        assert len(operations) == len(set(operations))

    @pytest.mark.parametrize("top_k", [1, 2, None])
    def test_top_k(self, server, top_k):
        run = {"query": QUESTION, "top_k": top_k}
        result = server.client.post("/search/run", json=run).json()["result"]
        assert len(result["searcher"]["documents"]) == (top_k or 5)
        result = server.client.post("/extractive_qa/run", json=run | {"query": PASSAGES["fire"]}).json()["result"]
        assert len(result["retriever"]["documents"]) == 5
        assert len(result["answerer"]["answers"]) == min(2, top_k or 2)

    @pytest.mark.parametrize("top_k", [0, -1, 1001, 2**62, 1.5, "two", True, [1]])
    def test_top_k_that_is_none(self, server, top_k):
        for path in ("/search/run", "/extractive_qa/run"):
            said = server.client.post(path, json={"query": QUESTION, "top_k": top_k})
            assert said.status_code == (422 if top_k is not True else 200) or top_k is True
        chat = {"model": "chat", "messages": [{"role": "user", "content": QUESTION}], "top_k": top_k}
        said = server.client.post("/v1/chat/completions", json=chat)
        assert (said.status_code, said.json()["error"]["message"]) == (422, "top_k must be a number from 1 to 1000.")

    def test_what_an_index_keeps_for_itself_stays_there(self, server, place):
        """Neither its keys nor where anything is."""
        chat = {"model": "chat", "messages": [{"role": "user", "content": QUESTION}]}
        said = [
            server.client.get(path).text for path in ("/ready", "/settings", "/status", "/v1/models", "/openapi.json")
        ]
        said += [
            server.client.post(f"/{name}/run", json={"query": QUESTION}).text for name in ("search", "extractive_qa")
        ]
        said += [server.client.post("/v1/chat/completions", json=chat).text, str(server.ask(QUESTION, other=True))]
        assert "gather at the fountain" in said[-4]
        for text in said:
            assert "_retort_" not in text
            assert str(place) not in text

    @pytest.mark.parametrize("path", ["/ask", "/search/run", "/extractive_qa/run", "/v1/chat/completions"])
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"null",
            b"[]",
            b'"text"',
            b"{}",
            b'{"query": null, "question": null, "messages": null, "model": null}',
            b'{"query": {}, "question": [], "messages": "x", "model": 5}',
            b'{"query": "\\ud800", "question": "\\ud800", "messages": [{"\\ud800": 1}], "model": "\\ud800"}',
            b'{"query": "a", "question": "a", "messages": [[]], "model": "chat", "filters": 5}',
            b'{"query": "a", "question": "a", "messages": [1], "model": "chat", "filters": {"field": {}}}',
            b'{"query": "a", "question": "a", "messages": [{"role": {}}], "model": {}, "top_k": 1e400}',
            b'{"query": "a", "question": "a", "messages": [{"role": "user", "content": [[1]]}], "model": "c", "top_k": 0}',
            b'{"query": "", "question": "", "messages": [], "model": "\\u0000", "stream": []}',
        ],
    )
    def test_odd_bodies(self, server, path, body):
        for kind in ("application/json", "text/plain", "multipart/form-data", ""):
            said = server.client.post(path, content=body, headers={"content-type": kind})
            assert 400 <= said.status_code < 500, (kind, said.text)
            assert said.json()["detail"]

    @pytest.mark.parametrize("content", [None, 5, {}, [], [1, None, {"type": "text"}], " \n", "\u0000", "\u202e" * 500])
    def test_odd_messages(self, server, content):
        chat = {"model": "chat", "messages": [{"role": "user", "content": content}, {"role": "assistant"}]}
        said = server.client.post("/v1/chat/completions", json=chat)
        assert said.status_code == 200
        assert isinstance(said.json()["choices"][0]["message"]["content"], str)

    @pytest.mark.parametrize(
        "target",
        [
            b"/page/../app.py",
            b"/page/..%2f..%2fapp.py",
            b"/page/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
            b"//etc/passwd",
            b"/page/app.js%00.html",
            b"/%ff%fe",
            b"/status/%ed%a0%80",
            b"/report/../../../etc/passwd",
            b"http://evil.example/page/app.py",
        ],
    )
    def test_odd_paths(self, server, target):
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=30) as one:
            one.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            said = b"".join(iter(lambda: one.recv(4096), b""))
        assert said.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ", b"HTTP/1.1 405 "))
        assert b"root:" not in said
        assert b"import" not in said

    def test_asking_while_it_holds_the_index(self, server, place, capsys, monkeypatch):
        """`retort ask` goes to the server, and says the same as on a copy of its own."""
        monkeypatch.chdir(place)
        shutil.copytree(place / "index", place / "copy", ignore=shutil.ignore_patterns("*.lock"))
        options = [QUESTION, "--top-k", "1", "--json", "--filter", "letters<6"]
        answers = []
        for store in ("index", "other", "copy"):
            main(["ask", "--store", store, *options])
            answers.append(json.loads(capsys.readouterr().out))
        assert answers[0] == answers[1] == answers[2]
        assert answers[0]["answers"][0]["text"] == ANSWER
        assert {d["id"] for d in answers[0]["documents"]} == {"badge", "fire", "lunch"}
        for arguments, message in [
            (["ask", "--store", "index", QUESTION, "--student", "student"], "Leave --student out"),
            (["ask", "--store", "index", QUESTION, "--filter", "letters"], "--filter: letters is no condition"),
            (["serve", "--store", "index", "--port", "0"], f"It is served at {server.url} already."),
            (
                ["serve", "--store", "copy", "--student", "student", "--other", "other", "--port", "0"],
                f"It is served at {server.url} already.",
            ),
        ]:
            with pytest.raises(SystemExit):
                main(arguments)
            said = capsys.readouterr()
            assert message in said.err
            assert said.err.count("\n") == 1
            assert not said.out

    def test_nobody_deploys_code(self, server):
        assert server.client.get("/draw/search").status_code == 404
        for path in ("/deploy_files", "/deploy-yaml", "/undeploy/search"):
            assert server.client.post(path, json={"name": "x", "files": {}}).status_code == 404
        assert (
            "access-control-allow-origin" not in server.client.get("/ready", headers={"origin": "http://evil"}).headers
        )

    def test_another_name_is_refused(self, server):
        """A site that resolves to this machine must not read the documents."""
        for path in ("/ask", "/search/run", "/v1/models"):
            assert server.client.post(path, json={}, headers={"host": "evil.example:1416"}).status_code == 400
        assert server.client.get("/ready", headers={"host": "evil.example"}).status_code == 400

    def test_pipelines(self, server):
        found = server.client.post("/search/run", json={"query": QUESTION}).json()["result"]
        assert found["searcher"]["documents"][0]["id"] == "fire"

    def test_openai_client(self, server):
        from openai import NotFoundError, OpenAI

        client = OpenAI(base_url=f"{server.url}/v1", api_key="none", http_client=httpx.Client(trust_env=False))
        messages = [{"role": "user", "content": QUESTION}]
        whole = client.chat.completions.create(model="chat", messages=messages).choices[0].message.content
        assert whole.startswith(f"{ANSWER} [1]\n")
        assert "\n[1] fire\n" in whole
        pieces = [c.choices[0].delta.content or "" for c in client.chat.completions.create(model="chat", messages=messages, stream=True)]  # fmt: skip
        assert len(pieces) > 2
        assert "".join(pieces) == whole
        parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
        assert client.chat.completions.create(model="chat", messages=parts).choices[0].message.content == whole
        assert [model.id for model in client.models.list()] == ["chat"]
        for name in ("gpt-4o", "search", "\u202e"):
            with pytest.raises(NotFoundError, match='Ask for model="chat"'):
                client.chat.completions.create(model=name, messages=messages)
        broken = rb'{"model": "chat", "messages": [{"role": "user", "content": "\ud83d QUESTION"}]}'  # half an emoji
        content = broken.replace(b"QUESTION", QUESTION.encode())
        said = server.client.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
        assert said.json()["choices"][0]["message"]["content"] == whole

    def test_report(self, server):
        assert "How good it is" in server.client.get("/report").text


def test_a_key_and_a_language_model(place, light):
    generator = place / "llm.yaml"
    generator.write_text("type: haystack.components.generators.chat.mock.MockChatGenerator\n")
    shutil.copytree(light, place / "rag")  # an index belongs to one process
    running = Running(place, "--store", "rag", "--generator", str(generator), key=KEY)
    try:
        assert running.client.get("/").status_code == 200
        assert running.client.get("/settings").json()["key"] is True
        assert "(model: chat)\n" in running.log.read_text()  # without /docs, which a browser opens without the key
        for headers in ({}, {"authorization": "Bearer wrong"}):
            answer = running.client.post("/ask", json={"question": QUESTION}, headers=headers)
            assert answer.status_code == 401
            assert "wants a key" in answer.json()["detail"]
        assert running.client.get("/ready").json() == {"ready": True}  # and not where things are
        preflight = {"access-control-request-method": "POST", "origin": "http://elsewhere"}
        assert running.client.options("/ask", headers=preflight).status_code != 401
        asked = {"model": "chat", "messages": [{"role": "user", "content": QUESTION}]}
        headers = {"authorization": f"Bearer {KEY}"}
        answer = running.client.post("/v1/chat/completions", json=asked, headers=headers).json()
        assert "gather at the fountain" in answer["choices"][0]["message"]["content"]  # the stand-in says the prompt
        with running.client.stream(
            "POST", "/v1/chat/completions", json=asked | {"stream": True}, headers=headers
        ) as said:
            lines = [line for line in said.iter_lines() if line.startswith("data: {")]
        text = "".join(json.loads(line[6:])["choices"][0]["delta"]["content"] or "" for line in lines)
        assert "gather at the fountain" in text
    finally:
        running.stop()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with playwright.sync_playwright() as running:
        try:
            made = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {error.message.splitlines()[0]}")
        yield made
        made.close()


class TestPage:
    @pytest.fixture
    def page(self, browser, server):
        context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark")
        page = context.new_page()
        self.errors = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.goto(server.url)
        yield page
        context.close()

    def test_with_the_keyboard_alone_on_a_phone(self, page):
        from playwright.sync_api import expect

        page.keyboard.type(QUESTION)
        page.keyboard.press("Enter")
        expect(page.locator(".answers li").first).to_contain_text(ANSWER)
        expect(page.get_by_role("status")).to_contain_text("answer")
        assert page.locator("mark").first.inner_text() == ANSWER
        assert "embed" in page.locator(".times").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        # On to the first citation, which leads to its source.
        link = page.locator(".answers a").first
        for _ in range(12):
            page.keyboard.press("Tab")
            if link.evaluate("e => e === document.activeElement"):
                break
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
        page.get_by_label("Your question").focus()
        page.keyboard.press("ControlOrMeta+a")
        page.keyboard.type("How many days of paid leave do employees have?")
        page.keyboard.press("Enter")
        expect(page.locator(".answers li").first).to_contain_text("thirty days")
        assert not self.errors

    def test_two_models_and_texts_as_they_are(self, page):
        from playwright.sync_api import expect

        named = page.locator("#names").inner_text().split(" and ")
        assert all(name.count("/") <= 1 or name.startswith("package:") for name in named)  # not where folders are
        page.get_by_label("Ask both models").check()
        page.get_by_label("Your question").fill("When does the canteen serve meals?")
        page.get_by_role("button", name="Ask").click()
        expect(page.locator(".column")).to_have_count(2)
        for column in page.locator(".column").all():
            expect(column.locator(".answers li").first).to_contain_text("between half past eleven")
        assert page.locator("main b").count() == 0  # a document's tags are text
        page.get_by_label("Your question").fill("How many characters has a password?")
        page.keyboard.press("Enter")
        expect(page.locator("mark").first).to_have_text("🔒 A password has sixteen characters at least.")
        assert not self.errors

    def test_filters(self, page, server):
        from playwright.sync_api import expect

        page.get_by_label("Your question").fill("When does the canteen serve meals, and how long is a password?")
        page.get_by_text("Only some documents").click()
        page.get_by_label("Conditions").fill("letters>4\ntitle!=lunch")
        page.get_by_role("button", name="Ask").click()
        expect(page.locator(".passages li")).to_have_count(3)
        expect(page.locator(".passages")).not_to_contain_text("canteen")
        address = page.url
        page.get_by_label("Conditions").fill('{"field": "id",\n "operator": "in", "value": ["fire"]}')
        page.get_by_role("button", name="Ask").click()
        expect(page.locator(".passages li")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert not self.errors
        page.get_by_label("Conditions").fill("letters")
        page.get_by_role("button", name="Ask").click()
        expect(page.get_by_role("alert")).to_contain_text("letters is no condition. Write FIELD=VALUE")
        page.goto(address)
        page.reload()
        expect(page.get_by_label("Conditions")).to_have_value("letters>4\ntitle!=lunch")
        expect(page.locator(".passages li")).to_have_count(3)
        page.goto(f"{server.url}/#q=100%25%&f=%")
        page.reload()
        expect(page.get_by_label("Your question")).to_have_value("100%%")

    def test_no_answer_and_a_shared_address(self, page, server):
        from playwright.sync_api import expect

        page.goto(f"{server.url}/#q=qqq%20zzz")
        page.reload()
        expect(page.get_by_label("Your question")).to_have_value("qqq zzz")
        expect(page.get_by_role("status")).to_have_text("No answer.")
        expect(page.locator(".none")).to_be_visible()

    def test_the_index_gone_and_the_server_gone(self, browser, place, light):
        from playwright.sync_api import expect

        shutil.copytree(light, place / "lost")
        running = Running(place, "--store", "lost")
        try:
            page = browser.new_page()
            page.goto(running.url)
            expect(page.get_by_role("alert")).to_be_empty()
            shutil.rmtree(place / "lost")
            time.sleep(2.1)  # what /ready said is kept for two seconds
            page.get_by_label("Your question").fill(QUESTION)
            page.keyboard.press("Enter")
            expect(page.get_by_role("alert")).to_contain_text("The index at lost is gone. Build it: retort index")
            assert running.client.get("/ready").status_code == 503
            assert running.client.get("/health").status_code == 200
        finally:
            running.stop()
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("cannot be reached")


class TestStarting:
    @pytest.fixture(autouse=True)
    def _mine(self, place):
        shutil.copytree(place / "index", place / "mine")
        yield
        shutil.rmtree(place / "mine")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--store", "nowhere"], "There is no index at nowhere. Build one"),
            (["--store", "mine", "--student", "no-such-folder/student"], "no-such-folder/student"),
            (["--store", "mine", "--other", "nowhere"], "There is no index at nowhere"),
            (["--store", "mine", "--report", "nope.html"], "There is no report at nope.html"),
            (["--store", "mine", "--generator", "nope.yaml"], "There is no file nope.yaml. Give --generator"),
            (["--store", "mine", "--generator", "."], "There is no file ."),
            (["--store", "mine", "--generator", "ranker.yaml"], "is no chat generator"),
            (["--store", "mine", "--generator", "text.yaml"], "text.yaml"),
            (["--store", "mine", "--port", "{taken}"], "Port {taken} of localhost is in use."),
            (["--store", "mine", "--host", "192.0.2.1"], "192.0.2.1 is no address of this machine"),
            (["--store", "mine", "--host", "no-such-host.invalid"], "--host no-such-host.invalid"),
        ],
    )
    def test_what_is_missing_is_said_at_once(self, place, arguments, message, capsys, monkeypatch, server):
        monkeypatch.chdir(place)
        port = server.url.rpartition(":")[2]
        arguments, message = [a.format(taken=port) for a in arguments], message.format(taken=port)
        (place / "ranker.yaml").write_text(
            "type: haystack_integrations.components.rankers.retort.student_ranker.StudentRanker\n"
        )
        (place / "text.yaml").write_text("just a text\n")
        with pytest.raises(SystemExit) as stop:
            main(["serve", *arguments])
        assert stop.value.code == 2
        said = capsys.readouterr()
        assert message in said.err
        assert said.err.count("\n") == 1
        assert not said.out

    def test_another_student_than_the_indexs(self, place, tiny_student, capsys, monkeypatch):
        monkeypatch.chdir(place)
        with pytest.raises(SystemExit):
            main(["serve", "--store", "mine", "--student", tiny_student])
        assert "Was it built with another model?" in capsys.readouterr().err


class TestWaiting:
    """Within this process, on an engine that answers when it is let."""

    def test_readiness_waits_for_no_question(self):
        from retort.serving.app import Serving, create_app

        class Slow:
            student, store, trust_remote_code = "student", "index", False
            freed = threading.Event()

            def answer(self, *_, **__):
                assert self.freed.wait(30)
                yield {"event": "done"}

            def check(self):
                return {"documents": 1}

        engine = Slow()

        async def probe():
            transport = httpx.ASGITransport(create_app(Serving(engine, workers=1)))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                questions = [asyncio.create_task(client.post("/ask", json={"question": "ship"})) for _ in range(3)]
                try:
                    await asyncio.sleep(0.1)
                    return (await asyncio.wait_for(client.get("/ready"), 5)).json()["documents"]
                finally:
                    engine.freed.set()
                    await asyncio.gather(*questions)

        assert in_a_thread(probe()) == 1


class TestFailing:
    """Within this process, on an engine that breaks after its first event."""

    @pytest.fixture
    def client(self):
        from starlette.testclient import TestClient

        from retort.serving.app import Serving, create_app
        from retort.students import ExportError

        class Breaking:
            student, store, trust_remote_code = "student", "index", False

            def answer(self, question, top_k, filters):
                yield {"event": "passages", "passages": [question, top_k]}
                raise RuntimeError(SECRET)

            def search(self, question, **_):
                raise {"ship": RuntimeError, "filter": FilterError, "export": ExportError}[question](SECRET)

        return TestClient(create_app(Serving(Breaking())))

    def test_half_a_surrogate_pair(self, client):
        said = client.post(
            "/ask", content=rb'{"question": "\ud83d ship"}', headers={"content-type": "application/json"}
        )
        assert said.status_code == 422
        assert said.json()["detail"] == "The body cannot be used: a text holds half of a surrogate pair."

    def test_a_stream_that_breaks_ends_with_an_error(self, client, caplog):
        said = client.post("/ask", json={"question": "ship"})
        events = [json.loads(line[6:]) for line in said.text.splitlines() if line]
        assert [event["event"] for event in events] == ["passages", "error"]
        assert events[1]["detail"] == UNANSWERED
        assert SECRET in caplog.text

    @pytest.mark.parametrize("name", ["search", "extractive_qa"])
    def test_what_nobody_foresaw_is_not_told(self, client, name):
        said = client.post(f"/{name}/run", json={"query": "ship"})
        assert (said.status_code, said.json()["detail"]) == (500, UNANSWERED)
        for question, status in (("filter", 422), ("export", 503)):
            said = client.post(f"/{name}/run", json={"query": question})
            assert (said.status_code, said.json()["detail"]) == (status, SECRET)

    def test_what_is_not_answered_is_not_published(self, client):
        published = client.get("/openapi.json").json()["paths"]
        assert "/v1/chat/completions" in published
        assert not [path for path in published if "responses" in path or path.startswith(HIDDEN)]
        for path in ("/v1/responses", "/responses"):
            assert client.post(path, json={"model": "chat", "input": QUESTION}).status_code == 404

    def test_nor_in_a_chat(self, client):
        for stream in (False, True):
            chat = {"model": "chat", "messages": [{"role": "user", "content": "ship"}], "top_k": 1, "stream": stream}
            said = client.post("/v1/chat/completions", json=chat)
            assert (said.status_code, said.json()["error"]["message"]) == (500, UNANSWERED)


def in_a_thread(awaited):
    """Run a coroutine where no loop runs: the browser's stays in the main thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, awaited).result()


class TestStreams:
    """Answers of a language model that fails."""

    async def pieces(self, *texts):
        for text in texts:
            yield text
        raise RuntimeError(SECRET)

    def test_before_its_first_word(self, caplog):
        from fastapi import HTTPException

        from retort.serving.chat import begun

        with pytest.raises(HTTPException) as refused:
            in_a_thread(begun(self.pieces()))
        assert (refused.value.status_code, SECRET in refused.value.detail) == (502, False)
        assert SECRET in caplog.text

    def test_after_its_first_word(self):
        from retort.serving.chat import NO_MODEL, begun

        async def said():
            return [piece async for piece in await begun(self.pieces("a", "b"))]

        assert in_a_thread(said()) == ["a", "b", f"\n\n{NO_MODEL}"]


@component
class Asking:
    """In the place of embedder, retriever and template."""

    @component.output_types(prompt=list[ChatMessage])
    def run(self, text: str = "", query: str = "", filters: dict | None = None, top_k: int | None = None):
        return {"prompt": [ChatMessage.from_user(query)]}


class Replying:
    """A chat generator."""

    def __init__(self, *texts):
        self.replies = [ChatMessage.from_assistant(text, tool_calls=[ToolCall("t", {})]) for text in texts]


@component
class Whole(Replying):
    """It cannot stream."""

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage]):
        assert messages[0].text == QUESTION
        return {"replies": self.replies}


@component
class Silent(Replying):
    """It could stream, and does not."""

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage], streaming_callback=None):
        return {"replies": self.replies}

    @component.output_types(replies=list[ChatMessage])
    async def run_async(self, messages: list[ChatMessage], streaming_callback=None):
        return self.run(messages, streaming_callback)


@component
class InStep(Replying):
    """It streams, but not asynchronously."""

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage], streaming_callback=None):
        for word in (self.replies[0].text or "").split(" ") if streaming_callback and self.replies else ():
            streaming_callback(StreamingChunk(f"{word} " if word else ""))
        return {"replies": self.replies}


class TestReplies:
    """A language model's answers, whole and as a stream."""

    @pytest.fixture
    def said(self):
        from starlette.testclient import TestClient

        from retort.serving.app import Serving, create_app

        def said(generator, *, stream):
            pipeline = Pipeline()
            for name in ("embedder", "retriever", "template"):
                pipeline.add_component(name, Asking())
            pipeline.add_component("generator", generator)
            pipeline.connect("template.prompt", "generator.messages")
            body = {"model": "chat", "messages": [{"role": "user", "content": QUESTION}], "stream": stream}
            client = TestClient(create_app(Serving(None, rag=pipeline)))
            answer = client.post("/v1/chat/completions", json=body)
            if not stream or not answer.is_success:
                found = answer.json()
                return found["error"]["message"] if "error" in found else found["choices"][0]["message"]["content"]
            chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
            return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)

        return said

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("kind", [Whole, Silent, InStep])
    def test_an_answer(self, said, kind, stream):
        assert said(kind("the fountain"), stream=stream).strip() == "the fountain"
        assert said(kind(None, "the fountain"), stream=stream) == "the fountain"

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("kind", [Whole, Silent, InStep])
    @pytest.mark.parametrize("texts", [[], [None], [""]])
    def test_no_text(self, said, kind, texts, stream):
        assert said(kind(*texts), stream=stream).strip() == "The language model gave no text."


class TestTiny:
    """Within this process, on an index of a tiny student."""

    @pytest.fixture
    def store(self, tiny_student, beir, tmp_path):
        index_documents(tiny_student, beir, tmp_path / "index")
        return str(tmp_path / "index")

    def test_another_student_of_the_same_dimension(self, store, tiny_student, other_student, capsys):
        with pytest.raises(SystemExit) as stop:
            main(["serve", "--store", store, "--student", other_student])
        assert stop.value.code == 2
        assert f"was built by {tiny_student}" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("options", "refused"),
        [
            ([], True),
            (["--host", "::1"], True),
            (["--host", "127.0.0.2"], True),
            (["--host", ANY], False),
            (["--host", ANY, "--allowed-hosts", "localhost"], True),
            (["--allowed-hosts", "docs.example"], True),  # `retort ask` calls it localhost all the same
        ],
    )
    def test_names_that_it_may_be_called_by(self, store, options, refused, monkeypatch):
        """In a container it listens to all, and a site that resolves to it must not read the documents all the same."""
        from starlette.testclient import TestClient

        from retort.serving import listening

        codes = []

        def served(server, _):
            app = server.config.app
            client = TestClient(app)
            codes.extend(
                client.get("/health", headers={"host": h}).status_code for h in ("localhost:1", "evil.example")
            )

        monkeypatch.delenv("RETORT_API_KEY", raising=False)
        monkeypatch.setattr(listening.Server, "run", served)
        main(["serve", "--store", store, "--port", "0", *options])
        assert codes == [200, 400 if refused else 200]
