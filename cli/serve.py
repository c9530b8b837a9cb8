# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort serve`."""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retort.pipelines.indexing import built_by
from retort.pipelines.load import is_url
from retort.trainers.recipe import component, read_yaml
from retort.trainers.recipe.trust import check_component
from retort.trainers.runtime.errors import RecipeError

KEY = "RETORT_API_KEY"
LOCAL = {"localhost", "127.0.0.1", "::1"}


def run(given: argparse.Namespace) -> None:
    """Check that everything is there and fits, then serve until stopped."""
    try:
        import uvicorn

        from retort.serving.app import create_app
    except ImportError as error:
        msg = f'serving needs `pip install "retort-haystack[serve]"` ({error.name} is missing).'
        raise RecipeError(msg) from error
    served = open_serving(given)
    found = served.engine.check()
    if served.other is not None:
        served.other.check()
    key = os.environ.get(KEY) or None
    local = given.host in LOCAL
    # Without a key, a site of another name that was led here must not read the documents.
    guarded = given.host in {"localhost", "127.0.0.1"} and key is None
    hosts = given.allowed_hosts or (("localhost", "127.0.0.1") if guarded else ("*",))
    app = create_app(served, api_key=key, max_body=given.max_body, max_requests=given.max_requests, hosts=hosts)
    url = f"http://{given.host}:{given.port}"
    print(f"{found['documents']} documents of {given.store}, by {found['student']}")
    print(f"page: {url}/    chat: {url}/v1/chat/completions (model: chat)    API: {url}/docs")
    if key is None and not local:
        print(f"no key is asked for: set {KEY} if others can reach {given.host}", file=sys.stderr)
    sys.stdout.flush()
    try:
        uvicorn.run(app, host=given.host, port=given.port, log_level="warning", timeout_graceful_shutdown=10)
    finally:
        served.close()


def open_serving(given: argparse.Namespace) -> Any:
    """Open what the command line names; nothing is loaded yet."""
    from retort.serving.app import Serving, rag_pipeline
    from retort.serving.engine import Engine

    if given.report is not None and not given.report.is_file():
        msg = (
            f"There is no report at {given.report}. Give the page of a run (retort report RUN), or leave --report out."
        )
        raise FileNotFoundError(msg)
    student = given.student or built_by(given.store)
    threads = max(1, (os.cpu_count() or 1) // given.workers)
    options: dict[str, Any] = {"threads": threads, "trust_remote_code": given.trust_remote_code}
    other = Engine(built_by(given.other), given.other, **options) if given.other else None
    rag = None
    if given.generator:
        tree = asdict(component(read_yaml(given.generator), str(given.generator)))
        check_component(tree, "generator", given.allow)
        rag = rag_pipeline(student, given.store, tree, allow=given.allow, trust_remote_code=given.trust_remote_code)
    report = given.report
    if report is None and not is_url(given.store):
        beside = Path(given.store).resolve().parent / "report.html"
        report = beside if beside.is_file() else None
    return Serving(Engine(student, given.store, **options), other, rag, report, workers=given.workers)
