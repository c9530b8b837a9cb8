# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Data sets in the BEIR layout: `corpus.jsonl[.gz]`, `queries.jsonl[.gz]`, `qrels/{train,dev,test}.tsv`.

A document or a query may be an image: a record with `image`, a path beside the file, and no text. Its title no model
reads.
"""

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from retort.students.checks import HALF, has_half
from retort.students.images import ImageFile, checked_images
from retort.trainers.data.files import read_json_lines, read_lines
from retort.trainers.data.texts import Item, RetrievalData, TextStore, document_text
from retort.trainers.runtime.errors import DataError

logger = logging.getLogger(__name__)

EmptyTexts = Literal["error", "skip"]
HELD_OUT = "held-out.jsonl"  # beside BEIR's own files: `_id` of documents of which no stage may make queries
_GRADE = re.compile(r"\s*([+-]?\d{1,9})(?:\.0*)?\s*", re.ASCII)  # also as other tools write it: `1.0`, `+1`, `1 `


@dataclass(frozen=True)
class BadRecord:
    """
    A record of a corpus that cannot be read.

    :param line:
        Its line, from 1.
    :param id:
        Its id; None where it has none, or a record before has the same.
    :param reason:
        What is wrong, and the mend.
    """

    line: int
    id: str | None
    reason: str


def read_beir(
    folder: str | Path, split: str | None = "train", *, empty: EmptyTexts = "error", unlabelled: bool = False
) -> RetrievalData:
    """
    Read a BEIR folder, with the queries of one split.

    Judgements are lines of query id, document id and a whole number, separated by tabs, with or without a header; or
    TREC's four columns, the second of which is 0 or Q0. Ids are strings and kept as they are.

    :param folder:
        The folder.
    :param split:
        `train`, `dev` or `test`: only the queries that this split judges are kept. None reads the corpus alone.
    :param empty:
        What to do with a document or query without text, or an image that cannot be read: `error`, or `skip` it with
        its judgements. A skipped image is named in the log.
    :param unlabelled:
        Keep the queries that no split judges, too. Those of a split whose judgements are not in the folder are among
        them: take such queries out first, if they are to be measured with.
    :returns:
        The data set.
    :raises DataError:
        If a file is missing or malformed (named with its line), an id occurs twice, a text is empty, an image cannot
        be read, judgements name unknown ids, or a pair has two grades.
    """
    folder = Path(folder)
    corpus = read_corpus(folder, empty=empty)
    if split is None:
        return RetrievalData(folder.name, corpus, TextStore([], []))
    queries = _read_texts(_jsonl(folder, "queries"), ("text",), empty)
    path = folder / "qrels" / f"{split}.tsv"
    qrels = _read_qrels(path, queries)
    skipped_queries, skipped_documents = queries.skipped, corpus.skipped
    qrels = {
        q: kept
        for q, judged in qrels.items()
        if q not in skipped_queries and (kept := {d: g for d, g in judged.items() if d not in skipped_documents})
    }
    _refuse_unknown(path, "queries", [q for q in qrels if q not in queries.rows])
    unknown = list(dict.fromkeys(d for judged in qrels.values() for d in judged if d not in corpus.rows))
    _refuse_unknown(path, "documents", unknown)
    elsewhere: set[str] = set()
    if unlabelled:
        others = (other for other in sorted(path.parent.glob("*.tsv")) if other != path)
        elsewhere = {q for other in others for q in _read_qrels(other, queries)} - qrels.keys()
    kept_queries = queries.select(
        [row for row, q in enumerate(queries.ids) if q in qrels or (unlabelled and q not in elsewhere)]
    )
    held = folder / HELD_OUT
    held_out = frozenset(record["_id"] for _, record in _records(held)) if held.is_file() else frozenset()
    return RetrievalData(folder.name, corpus, kept_queries, qrels, held_out=held_out)


def read_corpus(folder: str | Path, *, empty: EmptyTexts = "error") -> "_ReadTexts":
    """Read the corpus of a BEIR folder as the strings that models see (see `read_beir` for errors)."""
    return _read_texts(_jsonl(Path(folder), "corpus"), ("title", "text"), empty)


def read_records(
    folder: str | Path, *, skipped: set[str] | None = None, bad: list[BadRecord] | None = None
) -> Iterator[dict[str, Any]]:
    """
    Read the records of the corpus, metadata included, after the checks of `read_beir`.

    :param folder:
        The folder.
    :param skipped:
        Gets the ids of documents without text, which are left out; None: they are errors.
    :param bad:
        Gets the records that are malformed, which are left out; of an id that occurs twice the first is kept. None:
        they are errors.
    :returns:
        Records in the order of the file.
    :raises DataError:
        As `read_beir`; with `bad`, if the file is damaged or there are bad records and no others.
    """
    path = _jsonl(Path(folder), "corpus")
    empty: EmptyTexts = "error" if skipped is None else "skip"
    corpus = _read_texts(path, ("title", "text"), empty, bad, metadata=True)
    if bad and not corpus.rows and not corpus.skipped:
        raise _error(path, bad[0])
    if skipped is not None:
        skipped |= corpus.skipped
    malformed = {record.line for record in bad or ()}
    for number, record in _records(path, None if bad is None else []):
        if record["_id"] in corpus.rows and number not in malformed:
            yield record


def identified_records(folder: str | Path) -> Iterator[dict[str, Any]]:
    """Read the records of the corpus that have an id, unchecked; all else is passed over."""
    return (record for _, record in _records(_jsonl(Path(folder), "corpus"), []))


def is_image(record: dict[str, Any]) -> bool:
    """Tell a record that is an image from one that is a text, whatever else it says of itself."""
    text = record.get("text")
    return record.get("image") is not None and not (isinstance(text, str) and text.strip())


def is_beir(folder: str | Path) -> bool:
    """Tell whether a folder has a BEIR corpus."""
    return any((Path(folder) / f"corpus.jsonl{end}").is_file() for end in ("", ".gz"))


def is_corpus_alone(folder: str | Path) -> bool:
    """Tell whether a folder has a BEIR corpus, and neither queries nor judgements."""
    folder = Path(folder)
    queries = any((folder / f"queries.jsonl{end}").exists() for end in ("", ".gz"))
    return is_beir(folder) and not queries and not (folder / "qrels").exists()


class _ReadTexts(TextStore):
    """A text store that remembers the ids of the empty texts it left out."""

    skipped: frozenset[str] = frozenset()


def _jsonl(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz"):
        if path.is_file():
            return path
    msg = f"{folder}: there is no {name}.jsonl or {name}.jsonl.gz. A BEIR folder has corpus, queries and qrels/."
    raise DataError(msg)


def _records(path: Path, bad: list[BadRecord] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read what has an id, with its line; `bad` gets all else, None: it is an error."""
    for number, record in read_json_lines(path) if bad is None else _json_values(path, bad):
        if isinstance(record, dict) and isinstance(record.get("_id"), str):
            yield number, record
        else:
            _refuse(path, BadRecord(number, None, 'expected an object with a string "_id".'), bad)


def _json_values(path: Path, bad: list[BadRecord]) -> Iterator[tuple[int, Any]]:
    """Read one JSON value a line; `bad` gets the lines that are none."""
    for number, line in read_lines(path):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                why = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
                bad.append(BadRecord(number, None, f"not valid JSON ({why}). Mend or remove the line."))
            else:
                yield number, value


def _refuse(path: Path, record: BadRecord, bad: list[BadRecord] | None) -> None:
    if bad is None:
        raise _error(path, record)
    bad.append(record)


def _error(path: Path, record: BadRecord) -> DataError:
    return DataError(f"{path}, line {record.line}: {record.reason}")


def _complaint(record: dict[str, Any], fields: tuple[str, ...], *, metadata: bool) -> str:
    """Say what is wrong with a record, and the mend; empty if nothing is."""
    values = _values(record, fields)
    if not all(isinstance(value, str) for value in values):
        return f"{' and '.join(fields)} must be strings."
    if has_half(record["_id"]) or any(map(has_half, values)):
        return f"{record['_id']!r} holds {HALF}. Mend the text."
    if is_image(record) and not (isinstance(record["image"], str) and record["image"]):
        return f'"image" must be the path of a file; it is {record["image"]!r}.'
    return "metadata must be an object." if metadata and not isinstance(record.get("metadata") or {}, dict) else ""


def _values(record: dict[str, Any], fields: tuple[str, ...]) -> list[Any]:
    return [record.get(name) or "" for name in fields]


def _read_texts(
    path: Path,
    fields: tuple[str, ...],
    empty: EmptyTexts,
    bad: list[BadRecord] | None = None,
    *,
    metadata: bool = False,
) -> _ReadTexts:
    """
    Read texts and images by id.

    :param path:
        The file.
    :param fields:
        What a text is made of.
    :param empty:
        As of `read_beir`.
    :param bad:
        Gets the records that are malformed; None: they are errors.
    :param metadata:
        Check the metadata, too.
    """
    texts: dict[str, Item] = {}
    titles: dict[str, str] = {}
    lines: dict[str, int] = {}
    skipped = set()
    images: dict[int, tuple[str, str]] = {}  # by line the id, and the path beside the file
    for number, record in _records(path, bad):
        i = record["_id"]
        if i in lines:
            reason = f"the id {i!r} was already used in line {lines[i]}. Ids must be unique."
            _refuse(path, BadRecord(number, None, reason), bad)
            continue
        if reason := _complaint(record, fields, metadata=metadata):
            _refuse(path, BadRecord(number, i, reason), bad)
            continue
        lines[i] = number
        values = _values(record, fields)
        text = document_text(*values) if len(fields) > 1 else values[0].strip()
        if is_image(record):
            images[number] = i, record["image"]
            texts[i] = titles[i] = ""  # keeps its place
        elif text:
            texts[i] = text
            titles[i] = values[0].strip() if len(fields) > 1 else ""
        elif empty == "skip":
            skipped.add(i)
        else:
            msg = f"{path}, line {number}: {i!r} has no text. Remove it, or set data.empty=skip to leave it out."
            raise DataError(msg)
    for (number, (i, _)), image in zip(
        images.items(), checked_images(path.parent / name for _, name in images.values()), strict=True
    ):
        if isinstance(image, ImageFile):
            texts[i] = image
        elif empty == "skip":
            logger.warning("%s, line %d: skipped: %s", path, number, image)
            skipped.add(i)
            del texts[i], titles[i]
        else:
            msg = f"{path}, line {number}: {image} Or set data.empty=skip to leave it out."
            raise DataError(msg) from image
    store = _ReadTexts(texts.keys(), texts.values(), titles.values())
    store.skipped = frozenset(skipped)
    return store


def _read_qrels(path: Path, queries: TextStore) -> dict[str, dict[str, int]]:
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.tsv"))
        msg = f"{path} is missing. Splits there: {', '.join(there) or 'none'}."
        raise DataError(msg)
    qrels: dict[str, dict[str, int]] = {}
    begun = False
    for number, line in read_lines(path):
        if not line.strip():
            continue
        cells = _qrels_cells(line.rstrip("\r\n"))
        grade = _GRADE.fullmatch(cells[-1])
        if not begun and grade is None and len(cells) > 1 and cells[0] not in queries.rows:
            begun = True  # this was the header
            continue
        begun = True
        if len(cells) != 3 or grade is None:  # noqa: PLR2004
            msg = (
                f"{path}, line {number}: expected query-id, corpus-id and an integer, separated by tabs (or TREC's "
                f"four columns: query-id, 0, corpus-id, integer); it is {line.strip()[:80]!r}."
            )
            raise DataError(msg)
        judged, document, value = qrels.setdefault(cells[0], {}), cells[1], int(grade[1])
        if judged.setdefault(document, value) != value:
            msg = (
                f"{path}, line {number}: document {document!r} was judged {judged[document]} for query {cells[0]!r} "
                f"before, and {value} here. Keep one of the lines."
            )
            raise DataError(msg)
    return qrels


def _qrels_cells(line: str) -> list[str]:
    """Cut a line of judgements; without the second of TREC's columns, which says nothing."""
    cells = line.split("\t") if "\t" in line else line.split()
    if len(cells) == 4 and cells[1] in {"0", "Q0"}:  # noqa: PLR2004
        return [cells[0], *cells[2:]]
    return cells if "\t" in line else [line]  # ids may hold spaces


def _refuse_unknown(path: Path, what: str, unknown: list[str]) -> None:
    if unknown:
        msg = (
            f"{path}: {len(unknown)} {what} are judged that do not exist; the first: {', '.join(unknown[:5])}. "
            "Remove these lines or add the missing texts."
        )
        raise DataError(msg)
