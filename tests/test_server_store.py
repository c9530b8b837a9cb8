# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Qdrant servers: the retriever, the command line and the indexing pipeline.

Over the wire the same tests run against a stand-in, which answers the REST calls that we make from an engine in memory,
and against a real server if there is one. The stand-in shows what is sent; only the server can show what that does.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import yaml
from haystack import Document, Pipeline
from haystack.document_stores.errors import DocumentStoreError
from haystack.document_stores.types import DuplicatePolicy
from haystack.utils import Secret
from qdrant_client import QdrantClient, models

from haystack_integrations.components.embedders.retort import StudentDocumentEmbedder, StudentTextEmbedder
from haystack_integrations.components.retrievers.retort import SpaceMismatchError, StudentRetriever, qdrant_server
from haystack_integrations.components.retrievers.retort.qdrant_server import ServerIndex
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.cli import main
from retort.pipelines.load import load_pipeline, pipeline_yaml, store_spec

ROOT = Path(__file__).parent.parent
DIM = 16
DOCUMENTS = [
    Document(id="1", content="The ship is near the harbour.", meta={"title": "sea", "year": 1990}),
    Document(id="2", content="Bread of flour, butter and salt.", meta={"title": "kitchen", "year": 2000}),
    Document(id="3", content="The rose is in the garden.", meta={"title": "garden", "year": 2010}),
]
KITCHEN = {"field": "meta.title", "operator": "==", "value": "kitchen"}


class StandIn(ThreadingHTTPServer):
    """As much of Qdrant's REST interface as is called, over its client's engine in memory."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.engine = QdrantClient(":memory:")
        self.lock = threading.Lock()
        self.seen: list[tuple[str, str, dict]] = []
        self.keys: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, method, parts, body):
        engine, name, rest = self.engine, (parts[1:2] or [""])[0], "/".join(parts[2:])
        match f"{method} {rest}":
            case "GET exists":
                return {"exists": engine.collection_exists(name)}
            case "PUT ":
                return engine.create_collection(name, vectors_config=_vectors(body["vectors"]))
            case "DELETE ":
                return engine.delete_collection(name)
        if not engine.collection_exists(name):
            return None
        scope = models.Filter(**body["filter"]) if body.get("filter") else None
        match f"{method} {rest}":
            case "GET ":
                return engine.get_collection(name)
            case "PUT points":
                return engine.upsert(name, [models.PointStruct(**p) for p in body["points"]])
            case "POST points/delete":
                return engine.delete(name, models.PointIdsList(points=body["points"]))
            case "POST points/count":
                return engine.count(name, scope)
            case "POST points/scroll":
                options = {"limit": body["limit"], "offset": body.get("offset"), "scroll_filter": scope}
                points, following = engine.scroll(name, **options, with_payload=body["with_payload"])
                return {"points": points, "next_page_offset": following}
            case "POST points/query":
                nearest = engine.query_points(
                    name,
                    query=body["query"]["nearest"],
                    using=body.get("using"),
                    query_filter=scope,
                    limit=body["limit"],
                    score_threshold=body.get("score_threshold"),
                    with_vectors=body["with_vector"],
                )
                return nearest
        raise NotImplementedError(f"{method} {parts}")


def _vectors(given):
    if "size" in given:
        return models.VectorParams(**given)
    return {name: models.VectorParams(**one) for name, one in given.items()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or "{}")
        parts = self.path.split("?")[0].strip("/").split("/")
        with self.server.lock:
            if parts == [""]:
                found = {"title": "qdrant", "version": version("qdrant-client")}
            else:
                self.server.keys.add(self.headers.get("api-key"))
                self.server.seen.append((self.command, "/".join(parts[2:]), body))
                result = self.server.answer(self.command, parts, body)
                result = result.model_dump(mode="json") if hasattr(result, "model_dump") else result
                found = {"result": result, "status": "ok", "time": 0.0}
        data = json.dumps(found, default=lambda model: model.model_dump(mode="json")).encode()
        self.send_response(404 if found.get("result", 1) is None else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def log_message(self, *_):
        pass
