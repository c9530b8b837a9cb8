# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What stands before the application: bodies, names and bounds, on an application that repeats what it is sent."""

import asyncio
import json

import pytest

from retort.serving.limits import BODIES, Guards
from retort.serving.strict_json import LEVELS, parse

SOON = 0.05  # seconds
NESTED = LEVELS - 1


async def echo(scope, receive, send):
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


class Caller:
    """Calls guards as a server does."""

    def __init__(self, app=echo, **options) -> None:
        self.guards = Guards(
            app, **{"api_key": None, "max_body": 10_000, "max_requests": 4, "body_timeout": SOON} | options
        )

    async def __call__(self, *parts, path="/ask", host="localhost", client="10.0.0.1", headers=(), taking=None):
        """The status, headers and body of the answer; a part that is no bytes is awaited."""
        waiting = list(parts)
        answer = []

        async def receive():
            part = waiting.pop(0) if waiting else asyncio.Event().wait()
            if not isinstance(part, bytes):
                part = await part
            if part is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": part, "more_body": bool(waiting)}

        async def send(message):
            if taking is not None:
                await taking(message)
            answer.append(message)

        names = [(b"host", host.encode("latin-1"))] if isinstance(host, str) else [(b"host", h) for h in host]
        scope = {"type": "http", "method": "POST", "path": path, "headers": [*names, *headers], "client": (client, 1)}
        await self.guards(scope, receive, send)
        start, *rest = answer or [{"status": None}]
        body = b"".join(message.get("body", b"") for message in rest)
        return start["status"], dict(start.get("headers", ())), body


def never():
    return asyncio.Event().wait()


class TestBodies:
    def test_one_that_does_not_arrive(self):
        status, headers, body = asyncio.run(Caller()(b'{"a":', never()))
        assert status == 408
        assert headers[b"connection"] == b"close"
        assert json.loads(body)["detail"] == "The body did not arrive in time (0.05 seconds)."

    def test_slow_ones_take_no_place(self):
        """As many as the server has places, and more, of one client: another is answered at once, and so is this."""

        async def flooded():
            call = Caller(body_timeout=60)
            slow = [asyncio.create_task(call(b"{", never())) for _ in range(BODIES)]
            await asyncio.sleep(0)
            answers = [(await call(b'{"a": 1}', client=client))[0] for client in ("10.0.0.2", "10.0.0.1")]
            left = len(call.guards._waiting["10.0.0.1"])
            await asyncio.sleep(SOON)
            for task in slow:
                task.cancel()
            return answers, left, await asyncio.gather(*slow, return_exceptions=True)

        answers, left, slow = asyncio.run(flooded())
        assert answers == [200, 200]
        assert left == BODIES - 1  # the oldest made room
        assert [one[0] for one in slow if isinstance(one, tuple)] == [408]

    def test_a_client_that_goes_away(self):
        async def gone():
            return None

        call = Caller()
        assert asyncio.run(call(b"{", gone()))[0] is None
        assert not call.guards._waiting

    @pytest.mark.parametrize("declared", [True, False])
    def test_long_ones(self, declared):
        headers = [(b"content-length", b"10001")] if declared else []
        status, _, body = asyncio.run(Caller()(b"x" * 6000, b"x" * 6000, headers=headers))
        assert (status, json.loads(body)["detail"]) == (413, "The request is longer than 10000 bytes.")

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (b"{", "Expecting property name"),
            (b"\xff\xfe\xff", "codec can't decode"),
            (b'{"a": NaN}', "NaN is no number"),
            (b'{"a": -Infinity}', "-Infinity is no number"),
            (b'{"a": 1e999}', "the number 1e999 is too large"),
            (b'{"a": 9223372036854775808}', "the integer 9223372036854775808 has more than 64 bits"),
            (b'{"a": ' + b"9" * 9000 + b"}", "has more than 64 bits"),
            (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice in one object"),
            (b'{"a": "\\ud83d ship"}', "half of a surrogate pair"),
            (b'{"\\ude00": 1}', "half of a surrogate pair"),
            (b"[" * (NESTED + 2) + b"]" * (NESTED + 2), f"nested more than {LEVELS} levels deep"),
            (b"[" * 5000, f"nested more than {LEVELS} levels deep"),
        ],
    )
    def test_json_that_is_refused(self, body, reason):
        status, _, said = asyncio.run(Caller()(body))
        assert status == 422
        detail = json.loads(said)["detail"]
        assert detail.startswith("The body cannot be used: ")
        assert reason in detail

    def test_json_that_is_handed_on(self):
        values = {"a": [-(2**63), 2**63 - 1, 1.5, "🔒", None, True], "deep": 0}
        for _ in range(NESTED - 1):
            values["deep"] = [values["deep"]]
        for body in (json.dumps(values).encode(), json.dumps(values, ensure_ascii=False).encode("utf-16")):
            status, _, echoed = asyncio.run(Caller()(body))
            assert status == 200
            assert json.loads(echoed) == values

    def test_a_chat_may_hold_half_an_emoji(self):
        _, _, echoed = asyncio.run(Caller()(b'{"a": "\\ud83d ship"}', path="/v1/chat/completions"))
        assert json.loads(echoed) == {"a": " ship"}

    def test_many_keys_take_no_time(self):
        many = json.dumps({f"{i}": i for i in range(20_000)}).encode()
        assert len(parse(many)) == 20_000


class TestNames:
    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("localhost", 200),
            ("LOCALHOST:1416", 200),
            ("[::1]:1416", 200),
            ("[::1]", 200),
            ("docs.example.com", 200),
            ("example.com", 400),
            ("evil.example", 400),
            ("localhost.evil.example", 400),
            ("localhost:1416.evil.example", 400),
            ("evil.example@localhost", 400),
            ("[::1].evil.example", 400),
            ("[::2]:1416", 400),
            ("::1", 400),
            ("", 400),
            ("l\xf6calhost", 400),
            ([], 400),
            ([b"localhost", b"evil.example"], 400),
        ],
    )
    def test_hosts(self, host, status):
        call = Caller(hosts=("localhost", "[::1]", "*.example.com"))
        assert asyncio.run(call(b"{}", host=host))[0] == status
        assert asyncio.run(call(b"{}", host=host, path="/"))[0] == status  # the page, too


class TestKey:
    @pytest.mark.parametrize(
        ("authorization", "status"),
        [
            (b"Bearer the-key", 200),
            (b"bearer the-key", 200),
            (b"BEARER  the-key ", 200),
            (b"Bearer the-kez", 401),
            (b"bearer The-Key", 401),
            (b"Basic the-key", 401),
            (b"Bearer", 401),
            (b"the-key", 401),
            (b"Bearer \xff", 401),
            (b"", 401),
        ],
    )
    def test_the_scheme_is_read_in_any_case(self, authorization, status):
        call = Caller(api_key="the-key")
        assert asyncio.run(call(b"{}", headers=[(b"authorization", authorization)]))[0] == status


class TestBounds:
    def test_half_of_the_places_is_for_others(self):
        async def full():
            freed = asyncio.Event()

            async def waits(scope, receive, send):
                await freed.wait()
                await echo(scope, receive, send)

            call = Caller(waits)
            running = [asyncio.create_task(call(b"{}", client=f"10.0.0.{i // 2}")) for i in range(4)]
            await asyncio.sleep(SOON)
            refused = [(await call(b"{}", client="10.0.0.9"))[0]]
            running.pop().cancel()
            await asyncio.sleep(0)
            refused.append((await call(b"{}", client="10.0.0.0"))[0])
            freed.set()
            answered = [one[0] for one in await asyncio.gather(*running)]
            return refused, answered, call.guards._running

        assert asyncio.run(full()) == ([503, 429], [200] * 3, {})

    def test_an_answer_that_is_not_taken_gives_its_place_back(self):
        async def stalls(message):
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        call = Caller()
        assert asyncio.run(call(b"{}", taking=stalls))[0] == 200
        assert not call.guards._running
