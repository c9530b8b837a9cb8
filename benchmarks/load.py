# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort serve` under load: concurrent callers who ask one question after the other, latency, errors, memory."""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx
import runner

SAMPLES = 12  # of memory


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=1)
    parser.add_argument("--store", required=True, help="folder of the index")
    parser.add_argument("--questions", type=Path, required=True, help="queries.jsonl of a BEIR folder")
    parser.add_argument("--callers", type=runner.positive, default=50, help="at a time (default: %(default)s)")
    parser.add_argument("--seconds", type=runner.positive, default=120, help="default: %(default)s")
    parser.add_argument("--path", choices=["/ask", "/search/run"], default="/ask", help="default: %(default)s")
    given = parser.parse_args()
    questions = [json.loads(line)["text"] for line in given.questions.read_text(encoding="utf-8").splitlines()][:1000]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "retort.cli", "serve", "--store", given.store, "--port", str(port)]
    command += ["--host", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:  # noqa: S603 - ours
        try:
            row = asyncio.run(measured(f"http://127.0.0.1:{port}", server.pid, questions, given))
        finally:
            server.terminate()
    for name, value in row.items():
        print(f"{name}: {value}")
    path = given.json or Path(__file__).parent / "results" / "load.json"
    found = {"benchmark": "load", "machine": runner.describe_machine(), "path": given.path, "callers": given.callers}
    path.write_text(json.dumps(found | row, indent=2) + "\n", encoding="utf-8")


async def measured(url: str, pid: int, questions: list[str], given: argparse.Namespace) -> dict:
    times: list[float] = []
    errors: list[str] = []
    memory: list[float] = []
    limits = httpx.Limits(max_connections=given.callers)
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, limits=limits) as client:
        await ready(client)
        key = "question" if given.path == "/ask" else "query"
        begun = time.monotonic()
        until = begun + given.seconds

        async def caller(number: int) -> None:
            at = number
            while time.monotonic() < until:
                started = time.perf_counter()
                answer = await client.post(given.path, json={key: questions[at % len(questions)]})
                times.append(1e3 * (time.perf_counter() - started))
                if answer.status_code != 200 or '"event": "error"' in answer.text:
                    errors.append(answer.text[:200])
                at += given.callers

        async def watcher() -> None:
            while time.monotonic() < until:
                memory.append(resident(pid))
                await asyncio.sleep(given.seconds / SAMPLES)

        await asyncio.gather(watcher(), *(caller(n) for n in range(given.callers)))
        taken = time.monotonic() - begun  # the last answers come after the time
    times.sort()
    return {
        "requests": len(times),
        "a_second": len(times) / taken,
        "errors": len(errors),
        "first_error": errors[0] if errors else None,
        "p50_ms": statistics.median(times),
        "p99_ms": times[int(0.99 * len(times))],
        "memory_mb": [round(m) for m in memory],
    }


async def ready(client: httpx.AsyncClient) -> None:
    for _ in range(300):
        try:
            if (await client.get("/ready")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.2)
    msg = "the server did not get ready"
    raise SystemExit(msg)


def resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
