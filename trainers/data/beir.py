# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Data sets in the BEIR layout: `corpus.jsonl[.gz]`, `queries.jsonl[.gz]`, `qrels/{train,dev,test}.tsv`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from retort.trainers.data.files import read_json_lines
from retort.trainers.data.texts import RetrievalData, TextStore, document_text
from retort.trainers.runtime.errors import DataError

EmptyTexts = Literal["error", "skip"]


def read_beir(folder: str | Path, split: str | None = "train", *, empty: EmptyTexts = "error") -> RetrievalData:
    """
    Read a BEIR folder, with the queries of one split.

    :param folder:
        The folder.
    :param split:
        `train`, `dev` or `test`: only the queries that this split judges are kept. None reads the corpus alone.
    :param empty:
        What to do with a document or query without text: `error`, or `skip` it with its judgements.
    :returns:
        The data set.
    :raises DataError:
        If a file is missing or malformed (named with its line), an id occurs twice, a text is empty, or judgements
        name unknown ids.
    """
    folder = Path(folder)
    corpus = read_corpus(folder, empty=empty)
    if split is None:
        return RetrievalData(folder.name, corpus, TextStore([], []))
    queries = _read_texts(_jsonl(folder, "queries"), ("text",), empty)
    path = folder / "qrels" / f"{split}.tsv"
    qrels = _read_qrels(path)
    skipped_queries, skipped_documents = queries.skipped, corpus.skipped
    qrels = {
        q: kept
        for q, judged in qrels.items()
        if q not in skipped_queries and (kept := {d: g for d, g in judged.items() if d not in skipped_documents})
    }
    _refuse_unknown(path, "queries", [q for q in qrels if q not in queries.rows])
    unknown = list(dict.fromkeys(d for judged in qrels.values() for d in judged if d not in corpus.rows))
    _refuse_unknown(path, "documents", unknown)
    kept_queries = queries.select([row for row, q in enumerate(queries.ids) if q in qrels])
    return RetrievalData(folder.name, corpus, kept_queries, qrels)


def read_corpus(folder: str | Path, *, empty: EmptyTexts = "error") -> "_ReadTexts":
    """Read the corpus of a BEIR folder as the strings that models see (see `read_beir` for errors)."""
    return _read_texts(_jsonl(Path(folder), "corpus"), ("title", "text"), empty)


def read_records(folder: str | Path, *, empty: EmptyTexts = "error") -> Iterator[dict[str, Any]]:
    """Read the records of the corpus, metadata included, after the checks of `read_beir`."""
    kept = read_corpus(folder, empty=empty).rows
    path = _jsonl(Path(folder), "corpus")
    for number, record in _records(path):
        if not isinstance(record.get("metadata") or {}, dict):
            msg = f"{path}, line {number}: metadata must be an object."
            raise DataError(msg)
        if record["_id"] in kept:
            yield record


def is_beir(folder: str | Path) -> bool:
    """Tell whether a folder has a BEIR corpus."""
    return any((Path(folder) / f"corpus.jsonl{end}").is_file() for end in ("", ".gz"))


class _ReadTexts(TextStore):
    """A text store that remembers the ids of the empty texts it left out."""

    skipped: frozenset[str] = frozenset()


def _jsonl(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz"):
        if path.is_file():
            return path
    msg = f"{folder}: there is no {name}.jsonl or {name}.jsonl.gz. A BEIR folder has corpus, queries and qrels/."
    raise DataError(msg)


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, record in read_json_lines(path):
        if not isinstance(record, dict) or not isinstance(record.get("_id"), str):
            msg = f'{path}, line {number}: expected an object with a string "_id".'
            raise DataError(msg)
        yield number, record


def _read_texts(path: Path, fields: tuple[str, ...], empty: EmptyTexts) -> _ReadTexts:
    texts: dict[str, str] = {}
    lines: dict[str, int] = {}
    skipped = set()
    for number, record in _records(path):
        i = record["_id"]
        if i in lines:
            msg = f"{path}, line {number}: the id {i!r} was already used in line {lines[i]}. Ids must be unique."
            raise DataError(msg)
        lines[i] = number
        values = [record.get(name) or "" for name in fields]
        if not all(isinstance(value, str) for value in values):
            msg = f"{path}, line {number}: {' and '.join(fields)} must be strings."
            raise DataError(msg)
        text = document_text(*values) if len(fields) > 1 else values[0].strip()
        if not _is_unicode(text) or not _is_unicode(i):
            msg = f"{path}, line {number}: {i!r} holds half of a surrogate pair, which is no character. Mend the text."
            raise DataError(msg)
        if text:
            texts[i] = text
        elif empty == "skip":
            skipped.add(i)
        else:
            msg = f"{path}, line {number}: {i!r} has no text. Remove it, or set data.empty=skip to leave it out."
            raise DataError(msg)
    store = _ReadTexts(texts.keys(), texts.values())
    store.skipped = frozenset(skipped)
    return store


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.tsv"))
        msg = f"{path} is missing. Splits there: {', '.join(there) or 'none'}."
        raise DataError(msg)
    qrels: dict[str, dict[str, int]] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        msg = f"{path}: not UTF-8 ({error})."
        raise DataError(msg) from error
    for number, line in enumerate(lines, 1):
        cells = line.rstrip("\r").split("\t")
        if cells == [""] or (number == 1 and not cells[-1].lstrip("-").isdigit()):
            continue  # a blank line, or the header
        try:
            query, document, grade = cells
            qrels.setdefault(query, {})[document] = int(grade)
        except ValueError as error:
            msg = f"{path}, line {number}: expected query-id, corpus-id and an integer, separated by tabs."
            raise DataError(msg) from error
    return qrels


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_unknown(path: Path, what: str, unknown: list[str]) -> None:
    if unknown:
        msg = (
            f"{path}: {len(unknown)} {what} are judged that do not exist; the first: {', '.join(unknown[:5])}. "
            "Remove these lines or add the missing texts."
        )
        raise DataError(msg)
