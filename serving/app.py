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
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import uuid4

import anyio
import yaml
from anyio.to_thread import run_sync
from fastapi import HTTPException, Query, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from hayhooks import create_app as create_hayhooks
from hayhooks.settings import settings
from haystack.core.errors import PipelineRuntimeError
from haystack.document_stores.errors import DocumentStoreError
from haystack.errors import FilterError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Route

from haystack_integrations.components.retrievers.retort import SpaceMismatchError
from retort.pipelines.filters import check_filters, parse_filters
from retort.pipelines.load import is_url, pipeline_yaml
from retort.serving.engine import Engine
from retort.serving.limits import CHATS, HIDDEN, SECURITY, Guards, refusal
from retort.serving.previews import Preview, preview_of
from retort.students import DamagedFileError, ExportError, ManifestError, PrecisionError, RemoteCodeError
from retort.students.extras import missing
from retort.students.redaction import redacted

if TYPE_CHECKING:
    from fastapi import FastAPI
    from haystack import Pipeline

logger = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page")
CHAT = "chat"
SERVED = {CHAT: "chat.Chat", "extractive_qa": "pipelines.ExtractiveQa", "search": "pipelines.Search"}
PIPELINE_FILE = """\
from retort.serving import chat, pipelines


class PipelineWrapper({wrapper}):
    pass
"""
LONGEST_QUESTION = 2000  # characters
MOST = 1000  # passages or answers at once
LONGEST_ID = 4096  # characters
READY_FOR = 2.0  # seconds
RUN_FIELDS = ("query", "filters", "top_k")  # of `pipelines.Search` and `ExtractiveQa`
MODELS = ("/v1/models", "/models")
UNANSWERED = "The question could not be answered; the server's log says why."
OK, NOT_FOUND, NOT_IMPLEMENTED, SERVER_ERROR = 200, 404, 501, 500
EVENTS = "text/event-stream"
POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
# No site that is open beside the page may find out by an <img> which documents there are.
PREVIEW = {"cache-control": "private, max-age=300", "cross-origin-resource-policy": "same-origin"}
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

Found = TypeVar("Found")


class Asked(BaseModel):
    """A question, which of two models is asked, and which documents: by a Haystack filter, or `FIELD=VALUE` each."""

    question: str = Field(min_length=1, max_length=LONGEST_QUESTION)
    other: bool = False
    top_k: int = Field(default=3, ge=1, le=MOST)
    filters: dict[str, Any] | list[str] | None = None


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
    token: str = field(default_factory=lambda: uuid4().hex, init=False)  # by which `retort ask` knows it
    _limiter: anyio.CapacityLimiter | None = field(default=None, init=False)

    def limiter(self) -> anyio.CapacityLimiter:
        """Return what bounds the threads; made within the event loop."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self.workers)
        return self._limiter

    def said(self, error: BaseException) -> str:
        """Return an error's text without secrets, and without the folders that models and indexes are in."""
        text = str(error)
        for engine in filter(None, (self.engine, self.other)):
            for place in (engine.student, engine.store):
                text = text.replace(str(Path(place).resolve()), shown(place)).replace(place, shown(place))
        return str(redacted(text))

    def close(self) -> None:
        """Let go of all models and indexes."""
        for engine in filter(None, (self.engine, self.other)):
            engine.close()
        if self.rag is not None:
            self.rag.close()


def shown(place: str) -> str:
    """Name a model or an index to those who ask: of a folder the last two names, of a server the collection."""
    if is_url(place):
        return place.rstrip("/").rpartition("/")[2]
    return "/".join(Path(place).parts[-2:]) if Path(place).is_absolute() else place


_serving: Serving | None = None


def serving() -> Serving:
    """Return what this process serves; Hayhooks makes the chat's wrapper, which asks here."""
    if _serving is None:
        msg = "Nothing is served yet: create_app has not been called."
        raise RuntimeError(msg)
    return _serving


async def run_in_thread(call: Callable[[], Found], limiter: anyio.CapacityLimiter | None = None) -> Found:
    """
    Run a call in one of the few threads that models have.

    :param call:
        The call.
    :param limiter:
        What bounds its threads instead.
    :raises HTTPException:
        If the request's filters are malformed (422), or model or index cannot answer (503).
    """
    try:
        return await run_sync(call, limiter=limiter or serving().limiter())
    except Exception as error:
        if (reason := refused(error)) is None:
            raise
        raise reason from error


def refused(error: Exception) -> HTTPException | None:
    """Return what tells the caller why, if an error is one that is foreseen."""
    cause = error.__cause__ if isinstance(error, PipelineRuntimeError) and error.__cause__ else error
    if isinstance(cause, FilterError):
        return HTTPException(422, str(cause))
    return HTTPException(503, serving().said(cause)) if isinstance(cause, _MENDABLE) else None


def read_filters(filters: Any) -> dict[str, Any] | None:
    """
    Read the filters of a request.

    :raises HTTPException:
        If they are malformed (422).
    """
    try:
        if isinstance(filters, list) and all(isinstance(condition, str) for condition in filters):
            return parse_filters(filters)
        if filters:
            check_filters(filters)
    except FilterError as error:
        raise HTTPException(422, str(error)) from error
    return filters or None


def create_app(
    served: Serving,
    *,
    api_key: str | None = None,
    max_body: int = 65536,
    max_requests: int = 256,
    body_timeout: float = 10.0,
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
    :param body_timeout:
        Seconds.
    :param hosts:
        Names that it may be called by; others are refused.
    """
    global _serving  # noqa: PLW0603 - one process serves one index
    _serving = served
    with tempfile.TemporaryDirectory() as folder:
        _write_pipelines(Path(folder))
        settings.pipelines_dir = folder
        settings.durable_mode = True  # a fixed set of pipelines: nobody can deploy code over HTTP
        settings.durable_store = "memory"
        settings.tracing_enabled = settings.monitoring_enabled = False  # they show to others what was asked
        if "HAYHOOKS_CORS_ALLOW_ORIGINS" not in os.environ:
            settings.cors_allow_origins = []  # a site that is open beside it must not read the documents
        app = create_hayhooks()
    app.title = "retort"
    schema = app.openapi

    def published() -> dict[str, Any]:
        whole = schema()
        whole["paths"] = {path: one for path, one in whole["paths"].items() if not path.startswith(HIDDEN)}
        return whole

    app.openapi = published  # type: ignore[method-assign]

    policy = {"content-security-policy": POLICY, **{k.decode(): v.decode() for k, v in SECURITY}}

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    def page() -> Any:
        return FileResponse(PAGE / "index.html", headers=policy)

    @app.get("/page/{name}", include_in_schema=False)
    def file(name: str) -> Any:
        if name not in {"app.css", "app.js"}:
            return JSONResponse({"detail": "There is no such file."}, 404)
        return FileResponse(PAGE / name, headers=policy)

    @app.head("/health", include_in_schema=False)  # uptime monitors ask so
    @app.get("/health", tags=["status"])
    def health() -> dict[str, str]:
        """Tell that the process answers."""
        return {"status": "up"}

    checked: dict[str, Any] = {"until": 0.0, "lock": asyncio.Lock()}

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", tags=["status"])
    async def ready() -> Any:
        """Tell that student and index are there and fit; looked at anew every other second at most."""
        async with checked["lock"]:
            if time.monotonic() > checked["until"]:
                try:  # in a thread of its own: a probe cannot wait for the questions before it
                    found = await run_in_thread(served.engine.check, anyio.CapacityLimiter(1))
                    places = {"student": shown(served.engine.student), "store": shown(served.engine.store)}
                    checked["said"] = (200, found | places)
                except HTTPException as error:
                    checked["said"] = (503, {"detail": error.detail})
                checked["until"] = time.monotonic() + READY_FOR
        status, said = checked["said"]
        if api_key is not None:  # anybody may ask; where things are is nobody's business
            said = {"ready": True} if status == OK else {"detail": "Not ready; the server's log says why."}
        return JSONResponse(said, status)

    @app.get("/settings", include_in_schema=False)
    def told() -> dict[str, Any]:
        other = None if served.other is None else shown(served.other.student) if api_key is None else "other"
        return {
            # With a key, which models there are is told to nobody who has none.
            "student": shown(served.engine.student) if api_key is None else "student",
            "other": other,
            "report": served.report is not None,
            "images": served.engine.shows_images,
            "key": api_key is not None,
            "token": served.token,
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
        events = engine.answer(asked.question, top_k=asked.top_k, filters=read_filters(asked.filters))
        try:
            first = await run_in_thread(partial(next, events))
        except HTTPException as error:
            if error.status_code < SERVER_ERROR:
                raise
            # As an event: the page tells it like all that goes wrong later.
            return StreamingResponse(iter([_line({"event": "error", "detail": error.detail})]), media_type=EVENTS)
        return StreamingResponse(_sent(first, events), media_type=EVENTS, headers={"cache-control": "no-store"})

    @app.get("/preview", tags=["page"], response_class=Response)
    async def preview(
        request: Request, document: Annotated[str, Query(alias="id", max_length=LONGEST_ID)], other: bool = False
    ) -> Any:
        """A small picture of a document that is an image, by its id: a JPEG."""
        engine = served.other if other else served.engine

        def small() -> Preview | None:
            there = None if engine is None else engine.document(document)
            return None if there is None else preview_of(there.meta)

        try:
            picture = await run_in_thread(small)
        except ModuleNotFoundError as error:
            if (mend := missing(error, "A preview")) is None:
                raise
            return JSONResponse({"detail": mend}, NOT_IMPLEMENTED, headers=policy)
        if picture is None:  # in the same words whatever the reason
            return JSONResponse({"detail": "There is no preview of such a document."}, NOT_FOUND, headers=policy)
        headers = policy | PREVIEW | {"etag": picture.etag}
        if request.headers.get("if-none-match") == picture.etag:
            return Response(status_code=304, headers=headers)
        return Response(picture.data, media_type="image/jpeg", headers=headers)

    created = int(time.time())

    async def models(_: Request) -> JSONResponse:
        model = {"id": CHAT, "name": CHAT, "object": "model", "created": created, "owned_by": "retort"}
        return JSONResponse({"object": "list", "data": [model]})

    # Before Hayhooks' own routes: those also list the pipelines that cannot chat.
    app.router.routes[:0] = [Route(path, models, include_in_schema=False) for path in MODELS]

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # Without the input, which is the caller's own.
        said = [{key: value for key, value in one.items() if key != "input"} for one in error.errors()]
        return JSONResponse(refusal(request.url.path, 422, jsonable_encoder(said)), 422)

    @app.exception_handler(StarletteHTTPException)
    async def explained(request: Request, error: StarletteHTTPException) -> JSONResponse:
        path, status, detail = request.url.path, error.status_code, error.detail
        if path in CHATS and status in (NOT_FOUND, NOT_IMPLEMENTED):
            status, detail = NOT_FOUND, f'There is no model of that name to chat with here. Ask for model="{CHAT}".'
        if status == SERVER_ERROR:  # Hayhooks repeats the text of an error that nobody foresaw
            detail = UNANSWERED
        return JSONResponse(refusal(path, status, detail), status, headers=error.headers)

    guards: Any = Guards
    app.add_middleware(
        guards,
        api_key=api_key,
        max_body=max_body,
        max_requests=max_requests,
        body_timeout=body_timeout,
        hosts=hosts,
        fields={"/ask": tuple(Asked.model_fields)} | dict.fromkeys(("/search/run", "/extractive_qa/run"), RUN_FIELDS),
    )
    return app


_MENDABLE = (
    DocumentStoreError,
    SpaceMismatchError,
    DamagedFileError,
    ExportError,
    ManifestError,
    PrecisionError,
    RemoteCodeError,
    OSError,
)


async def _sent(first: dict[str, Any], events: Iterator[dict[str, Any]]) -> AsyncIterator[str]:
    yield _line(first)
    try:
        while (event := await run_in_thread(partial(next, events, None))) is not None:
            yield _line(event)
    except HTTPException as error:
        yield _line({"event": "error", "detail": error.detail})
    except Exception:
        logger.exception("A question could not be answered.")
        yield _line({"event": "error", "detail": UNANSWERED})


def _line(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"


def _write_pipelines(folder: Path) -> None:
    for name, wrapper in SERVED.items():
        (folder / name).mkdir()
        (folder / name / "pipeline_wrapper.py").write_text(PIPELINE_FILE.format(wrapper=wrapper), encoding="utf-8")


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
