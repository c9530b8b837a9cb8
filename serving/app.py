# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The application: Hayhooks' own routes over our pipelines, and ours beside them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import yaml
from anyio.to_thread import run_sync
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from hayhooks import create_app as create_hayhooks
from hayhooks.settings import settings
from haystack.document_stores.errors import DocumentStoreError
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from retort.pipelines.load import pipeline_yaml
from retort.serving.engine import Engine
from retort.serving.limits import SECURITY, Guards

if TYPE_CHECKING:
    from fastapi import FastAPI
    from haystack import Pipeline

logger = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page")
SERVED = ("extractive_qa", "search")
CHAT = "chat"
CHAT_FILE = """\
from retort.serving.chat import ChatWrapper


class PipelineWrapper(ChatWrapper):
    pass
"""
LONGEST_QUESTION = 2000  # characters
READY_FOR = 2.0  # seconds
OK = 200
POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

Found = TypeVar("Found")


class Asked(BaseModel):
    """A question, and which of two models is asked."""

    question: str = Field(min_length=1, max_length=LONGEST_QUESTION)
    other: bool = False
    top_k: int = Field(default=3, ge=1, le=10)


@dataclass
class Serving:
    """
    What is served.

    :param engine:
        The student with its index.
    :param other:
        Another model with its own, such as the teacher, to be asked the same.
    :param rag:
        The pipeline with a language model, if one is given.
    :param report:
        The run's page.
    :param workers:
        Questions of page and chat that are worked on at a time; others wait.
    """

    engine: Engine
    other: Engine | None = None
    rag: Pipeline | None = None
    report: Path | None = None
    workers: int = 2
    _limiter: anyio.CapacityLimiter | None = field(default=None, init=False)

    def limiter(self) -> anyio.CapacityLimiter:
        """Return what bounds the threads; made within the event loop."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self.workers)
        return self._limiter

    def close(self) -> None:
        """Let go of all models and indexes."""
        for engine in filter(None, (self.engine, self.other)):
            engine.close()
        if self.rag is not None:
            self.rag.close()


_serving: Serving | None = None


def serving() -> Serving:
    """Return what this process serves; Hayhooks makes the chat's wrapper, which asks here."""
    if _serving is None:
        msg = "Nothing is served yet: create_app has not been called."
        raise RuntimeError(msg)
    return _serving


async def run_in_thread(call: Callable[[], Found]) -> Found:
    """Run a call in one of the few threads that models have."""
    return await run_sync(call, limiter=serving().limiter())


def create_app(
    served: Serving,
    *,
    api_key: str | None = None,
    max_body: int = 65536,
    max_requests: int = 256,
    hosts: Sequence[str] = ("*",),
) -> FastAPI:
    """
    Create the application.

    :param served:
        What it serves.
    :param api_key:
        See `Guards`; so are the other limits.
    :param max_body:
        Bytes.
    :param max_requests:
        Requests at a time.
    :param hosts:
        Names that it may be called by; others are refused.
    """
    global _serving  # noqa: PLW0603 - one process serves one index
    _serving = served
    with tempfile.TemporaryDirectory() as folder:
        _write_pipelines(Path(folder), served)
        settings.pipelines_dir = folder
        settings.durable_mode = True  # a fixed set of pipelines: nobody can deploy code over HTTP
        settings.durable_store = "memory"
        if "HAYHOOKS_CORS_ALLOW_ORIGINS" not in os.environ:
            settings.cors_allow_origins = []  # a site that is open beside it must not read the documents
        app = create_hayhooks()
    app.title = "retort"

    policy = {"content-security-policy": POLICY, **{k.decode(): v.decode() for k, v in SECURITY}}

    @app.get("/", include_in_schema=False)
    def page() -> Any:
        return FileResponse(PAGE / "index.html", headers=policy)

    @app.get("/page/{name}", include_in_schema=False)
    def file(name: str) -> Any:
        if name not in {"app.css", "app.js"}:
            return JSONResponse({"detail": "There is no such file."}, 404)
        return FileResponse(PAGE / name, headers=policy)

    @app.get("/health", tags=["status"])
    def health() -> dict[str, str]:
        """Tell that the process answers."""
        return {"status": "up"}

    checked: dict[str, Any] = {"until": 0.0, "lock": asyncio.Lock()}

    @app.get("/ready", tags=["status"])
    async def ready() -> Any:
        """Tell that student and index are there and fit; looked at anew every other second at most."""
        async with checked["lock"]:
            if time.monotonic() > checked["until"]:
                try:
                    checked["said"] = (200, await run_in_thread(served.engine.check))
                except _MENDABLE as error:
                    checked["said"] = (503, {"detail": str(error)})
                checked["until"] = time.monotonic() + READY_FOR
        status, said = checked["said"]
        if api_key is not None:  # anybody may ask; where things are is nobody's business
            said = {"ready": True} if status == OK else {"detail": "Not ready; the server's log says why."}
        return JSONResponse(said, status)

    @app.get("/settings", include_in_schema=False)
    def shown() -> dict[str, Any]:
        return {
            # With a key, where models are is told to nobody who has none.
            "student": served.engine.student if api_key is None else "student",
            "other": None if served.other is None else served.other.student if api_key is None else "other",
            "report": served.report is not None,
            "key": api_key is not None,
        }

    @app.get("/report", tags=["page"])
    def report() -> Any:
        """The page about the run that made the student."""
        if served.report is None or not served.report.is_file():
            return JSONResponse({"detail": "There is no report. Name one: retort serve --report FILE."}, 404)
        return FileResponse(served.report, headers=policy | {"content-security-policy": REPORT_POLICY})

    @app.post("/ask", tags=["page"])
    async def ask(asked: Asked) -> Any:
        """Answer a question as server-sent events: passages, answers, done; or an error."""
        engine = served.other if asked.other else served.engine
        if engine is None:
            return JSONResponse({"detail": "There is no other model here: retort serve --other STORE."}, 404)
        events = engine.answer(asked.question, top_k=asked.top_k)
        return StreamingResponse(_sent(events), media_type="text/event-stream", headers={"cache-control": "no-store"})

    @app.exception_handler(RequestValidationError)
    async def refused(_: Any, error: RequestValidationError) -> JSONResponse:
        # Without the input: half of a surrogate pair, which a question may not hold, cannot be sent back either.
        said = [{key: value for key, value in one.items() if key != "input"} for one in error.errors()]
        return JSONResponse({"detail": jsonable_encoder(said)}, 422)

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    app.add_middleware(Guards, api_key=api_key, max_body=max_body, max_requests=max_requests)
    return app


_MENDABLE = (DocumentStoreError, FileNotFoundError, OSError, ValueError)


async def _sent(events: Iterator[dict[str, Any]]) -> AsyncIterator[str]:
    try:
        while (event := await run_in_thread(partial(next, events, None))) is not None:
            yield _line(event)
    except _MENDABLE as error:
        yield _line({"event": "error", "detail": str(error)})
    except Exception:
        logger.exception("A question could not be answered.")
        yield _line({"event": "error", "detail": "The question could not be answered; the server's log says why."})


def _line(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"


def _write_pipelines(folder: Path, served: Serving) -> None:
    for name in SERVED:
        text = pipeline_yaml(
            name,
            student=served.engine.student,
            index=served.engine.store,
            trust_remote_code=served.engine.trust_remote_code,
        )
        (folder / f"{name}.yml").write_text(text, encoding="utf-8")
    (folder / CHAT).mkdir()
    (folder / CHAT / "pipeline_wrapper.py").write_text(CHAT_FILE, encoding="utf-8")


def rag_pipeline(
    student: str, store: str, generator: dict[str, Any], *, allow: Sequence[str] = (), trust_remote_code: bool = False
) -> Pipeline:
    """
    Load `rag.yml` with a chat generator in its place.

    :param student:
        The student.
    :param store:
        Its index.
    :param generator:
        `{type, init_parameters}`, checked (see `check_component`).
    :param allow:
        Further modules that it may come from.
    :param trust_remote_code:
        Run code that the student brings along.
    """
    from haystack import Pipeline

    tree = yaml.safe_load(pipeline_yaml("rag", student=student, index=store, trust_remote_code=trust_remote_code))
    tree["components"]["generator"] = {"init_parameters": {}} | generator
    return Pipeline.from_dict(tree, allowed_modules=list(allow))
