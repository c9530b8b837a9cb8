# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Real queries that a user has: a log of what was searched for and opened."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retort.students.checks import HALF, has_half
from retort.trainers.data.files import read_records
from retort.trainers.runtime.errors import DataError

if TYPE_CHECKING:
    from haystack import Document


def read_asked(path: str | Path, documents: list[Document]) -> list[tuple[str, list[str]]]:
    """
    Read queries with the documents that answer them.

    :param path:
        `.jsonl` with `query` and `documents` (a list) or `document` a line; `.csv` or `.tsv` with the columns `query`
        and `document`, one click a row. A document is an id, or a file's path below the folder of documents: all its
        passages then count.
    :param documents:
        The documents.
    :returns:
        Each query once, with ids.
    :raises DataError:
        If a line lacks something, or names a document that is not there.
    """
    path = Path(path)
    asked = _asked(((f"{path}, {place}", record) for place, record in read_records(path)), documents)
    if not asked:
        msg = f"{path}: there is no query."
        raise DataError(msg)
    return asked


def check_asked(queries: Mapping[str, str | Sequence[str]], documents: list[Document]) -> list[tuple[str, list[str]]]:
    """
    Check queries that are given in Python.

    :param queries:
        Per query the ids or file paths of the documents that answer it, or one of them.
    :param documents:
        The documents.
    :returns:
        As `read_asked`.
    :raises DataError:
        If one lacks something, or names a document that is not there.
    """
    given = (
        (query, names if names is None or isinstance(names, str) else list(names)) for query, names in queries.items()
    )
    return _asked(
        ((f"queries[{query!r:.60}]", {"query": query, "documents": names}) for query, names in given), documents
    )


def _asked(records: Iterable[tuple[str, dict[str, Any]]], documents: list[Document]) -> list[tuple[str, list[str]]]:
    passages: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        passages[document.id].append(document.id)
        if "file_path" in document.meta:
            passages[str(document.meta["file_path"])].append(document.id)
    asked: dict[str, dict[str, None]] = defaultdict(dict)
    for place, record in records:
        query = record.get("query")
        names = record.get("documents") or record.get("document")
        names = [names] if isinstance(names, str) else names
        if not isinstance(query, str) or not query.strip() or not isinstance(names, list) or not all(names):
            found = ", ".join(record) or "nothing"
            msg = f'{place}: expected "query" and "documents", both filled; there is {found}.'
            raise DataError(msg)
        if has_half(query):
            msg = f"{place}: the query holds {HALF}. Mend the text."
            raise DataError(msg)
        if odd := [name for name in names if not isinstance(name, str)]:
            msg = f"{place}: documents are named by ids or paths, as texts; there is {odd[0]!r}."
            raise DataError(msg)
        for name in names:
            if name not in passages:
                example = next(iter(passages), "none")
                msg = f"{place}: there is no document {name!r} (there is {example!r}, for example)."
                raise DataError(msg)
            asked[query.strip()] |= dict.fromkeys(passages[name])
    return [(query, list(ids)) for query, ids in asked.items()]
