# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort ask`."""

import argparse
import json
import sys
from collections.abc import Iterable
from typing import Any

from haystack.document_stores.errors import DocumentStoreError
from haystack.errors import FilterError

from retort.pipelines.filters import parse_filters
from retort.pipelines.indexing import built_by
from retort.serving.engine import Engine
from retort.serving.notice import Notice, read_key, read_notice


def run(given: argparse.Namespace) -> None:
    """Answer a question from an index."""
    try:
        filters = parse_filters(given.filter)
    except FilterError as error:
        msg = f"--filter: {error}"
        raise FilterError(msg) from error
    found = answers(given.question, _events(given, filters), given.top_k)
    ascii_only = "utf" not in (sys.stdout.encoding or "utf").lower()  # what a terminal lacks is escaped as JSON has it
    print(json.dumps(found, indent=2, ensure_ascii=ascii_only) if given.json else format_answers(found))


def _events(given: argparse.Namespace, filters: dict[str, Any] | None) -> list[dict[str, Any]]:
    try:
        student = given.student or built_by(given.store)
        engine = Engine(student, given.store, trust_remote_code=given.trust_remote_code)
        try:
            return list(engine.answer(given.question, top_k=given.top_k, filters=filters))
        finally:
            engine.close()
    except DocumentStoreError as error:
        if (notice := read_notice(given.store)) is None:
            raise
        if given.student is not None:
            msg = (
                f"The index at {given.store} is held by retort serve ({notice.url}), which asks with its own student. "
                "Leave --student out, or stop it."
            )
            raise DocumentStoreError(msg) from error
        return _asked_of(notice, given, filters)


def _asked_of(notice: Notice, given: argparse.Namespace, filters: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Ask the `retort serve` that holds the index."""
    import httpx

    url = notice.url
    body = {"question": given.question, "other": notice.other, "top_k": given.top_k, "filters": filters}
    headers = {"authorization": f"Bearer {read_key()}"} if notice.knows_key else {}
    try:  # straight: it is on this machine
        said = httpx.post(f"{url}/ask", json=body, headers=headers, timeout=60, trust_env=False)
        lines = [line.removeprefix("data: ") for line in said.text.split("\n") if line.startswith("data: ")]
    except httpx.HTTPError as error:
        msg = f"The index at {given.store} is held by retort serve at {url}, which does not answer: {error}"
        raise DocumentStoreError(msg) from error
    events = [json.loads(line) for line in lines] if said.is_success else [{"event": "error"} | said.json()]
    for event in events:
        if event["event"] == "error":
            detail = event["detail"]
            if isinstance(detail, list):  # of what is no request of its
                detail = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in detail)
            msg = f"retort serve, which holds the index at {given.store} ({url}): {detail}"
            raise DocumentStoreError(msg)
    return events


def answers(question: str, events: Iterable[dict[str, Any]], top_k: int | None = None) -> dict[str, Any]:
    """
    Sum up what `Engine.answer` told step by step.

    :param question:
        The question.
    :param events:
        What was told.
    :param top_k:
        Images to give, at most; None: all.
    :returns:
        `question`, `answers` (text, score, document, title, start, end), `best_score`, `documents` (id, title, score).
        Of images there are no `answers`, and `documents` have their `file`.
    """
    passages, *told, done = events
    documents = {passage["number"]: passage for passage in passages["passages"]}
    keys = ["id", "title", "score"]
    if passages.get("images"):  # an older server does not say
        documents = {number: document for number, document in documents.items() if number <= (top_k or number)}
        keys.insert(2, "file")
    return {
        "question": question,
        "answers": [
            {
                "text": answer["text"],
                "score": answer["score"],
                "document": documents[answer["passage"]]["id"],
                "title": documents[answer["passage"]]["title"],
                "start": answer["start"],
                "end": answer["end"],
            }
            for answer in told
        ],
        "best_score": done["best_score"],
        "documents": [{key: passage[key] for key in keys} for passage in documents.values()],
    }


def format_answers(found: dict[str, Any]) -> str:
    """Format answers for a terminal, or the files of images."""
    if found["documents"] and "file" in found["documents"][0]:
        return "\n".join(
            f"[{i}] {d['title']}\n    {d['file']}, score {d['score']:.2f}" for i, d in enumerate(found["documents"], 1)
        )
    if not found["answers"]:
        near = ", ".join(d["id"] for d in found["documents"][:3]) or "none"
        return f"No good answer (best score {found['best_score']:.2f}). Nearest documents: {near}"
    return "\n".join(
        f"[{i}] {a['text']}\n    {a['document']} ({a['start']}-{a['end']}), score {a['score']:.2f}"
        for i, a in enumerate(found["answers"], 1)
    )
