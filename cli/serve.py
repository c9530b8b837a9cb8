# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort serve`."""

import argparse
import os
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from haystack.document_stores.errors import DocumentStoreError

from retort.pipelines.indexing import built_by
from retort.pipelines.load import is_url
from retort.serving.notice import KEY, put_up, read_key, read_notice, take_down
from retort.students.redaction import redacted
from retort.trainers.recipe import component, read_yaml
from retort.trainers.recipe.trust import check_component
from retort.trainers.runtime.errors import RecipeError


def run(given: argparse.Namespace) -> None:
    """Check that everything is there and fits, then serve until stopped."""
    try:
        from retort.serving.app import create_app
        from retort.serving.listening import Server, address, bind, is_loopback
    except ImportError as error:
        msg = f'serving needs `pip install "retort-haystack[serve]"` ({error.name} is missing).'
        raise RecipeError(msg) from error
    key = read_key()
    with ExitStack() as stack:
        sockets = [stack.enter_context(one) for one in bind(given.host, given.port)]
        served = open_serving(given)
        stack.callback(served.close)
        found = served.engine.check()
        if served.other is not None:
            served.other.check()
        if served.rag is not None and served.engine.shows_images:
            msg = f"--generator: {given.store} holds images, of which a language model reads nothing. Leave it out."
            raise RecipeError(msg)
        local = all(is_loopback(one) for one in sockets)
        names = ["localhost", "127.0.0.1", "[::1]", address(given.host, sockets)]  # by the last `retort ask` calls
        if given.allowed_hosts:
            names += given.allowed_hosts
        elif key is not None or not local:  # else a site of another name that was led here must not read the documents
            names = ["*"]
        app = create_app(
            served,
            api_key=key,
            max_body=given.max_body,
            max_requests=given.max_requests,
            body_timeout=given.body_timeout,
            hosts=names,
        )
        url = f"http://{address(given.host, sockets)}:{sockets[0].getsockname()[1]}"

        def started() -> None:
            for store, other in ((given.other, True), (given.store, False)):
                if store:
                    put_up(store, url, served.token, key, other=other)
                    stack.callback(take_down, store)
            print(f"{found['documents']} documents of {redacted(given.store)}, by {found['student']}")
            api = f"    API: {url}/docs" if key is None else ""  # a browser sends no key there
            print(f"page: {url}/    chat: {url}/v1/chat/completions (model: chat){api}")
            if key is None and not local:
                print(f"no key is asked for: set {KEY} if others can reach {given.host}", file=sys.stderr)
            sys.stdout.flush()

        Server(app, started, stack.close).run(sockets)


def _built_by(store: str) -> str:
    try:
        return built_by(store)
    except DocumentStoreError as error:
        if (notice := read_notice(store)) is None:
            raise
        msg = f"{error} It is served at {notice.url} already."
        raise DocumentStoreError(msg) from error


def _read_generator(given: argparse.Namespace) -> dict[str, Any] | None:
    """Read the chat generator and check it, before anything is opened."""
    if given.generator is None:
        return None
    if not given.generator.is_file():
        msg = f"There is no file {given.generator}. Give --generator a YAML file: {{type, init_parameters}}."
        raise FileNotFoundError(msg)
    tree = asdict(component(read_yaml(given.generator), str(given.generator)))
    check_component(tree, "generator", given.allow)
    return tree


def open_serving(given: argparse.Namespace) -> Any:
    """Open what the command line names; nothing is loaded yet."""
    from retort.serving.app import Serving, rag_pipeline
    from retort.serving.engine import Engine

    if given.report is not None and not given.report.is_file():
        msg = (
            f"There is no report at {given.report}. Give the page of a run (retort report RUN), or leave --report out."
        )
        raise FileNotFoundError(msg)
    generator = _read_generator(given)
    student = given.student or _built_by(given.store)
    threads = max(1, (os.cpu_count() or 1) // given.workers)
    options: dict[str, Any] = {"threads": threads, "trust_remote_code": given.trust_remote_code}
    other = Engine(_built_by(given.other), given.other, **options) if given.other else None
    rag = None
    if generator is not None:
        rag = rag_pipeline(
            student, given.store, generator, allow=given.allow, trust_remote_code=given.trust_remote_code
        )
    report = given.report
    if report is None and not is_url(given.store):
        beside = Path(given.store).resolve().parent / "report.html"
        report = beside if beside.is_file() else None
    return Serving(Engine(student, given.store, **options), other, rag, report, workers=given.workers)
