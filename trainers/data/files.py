# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Files of records, read as a stream: JSON lines, CSV, TSV (each plain or gzipped) and parquet."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retort.trainers.runtime.errors import DataError

SUFFIXES = (".parquet", *(f"{kind}{end}" for kind in (".jsonl", ".json", ".csv", ".tsv") for end in ("", ".gz")))
HEADED = (".csv", ".csv.gz", ".tsv", ".tsv.gz")  # those whose first line names the columns
# What sentence-transformers takes for a label; any other column is text to it.
LABEL_COLUMNS = ("label", "labels", "score", "scores")
LONGEST_CELL = 2**31 - 1  # characters; Python's own limit of 131,072 is for all readers of a process


def suffix_of(path: Path) -> str | None:
    """Return the end of the name that says what the file is, or None if it is none of `SUFFIXES`."""
    return next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """
    Read a text file, gzipped or not.

    :param path:
        The file.
    :returns:
        Line numbers from 1, and lines.
    :raises DataError:
        If the file is damaged or not UTF-8.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as lines:  # Excel begins UTF-8 files with a mark
            for number, line in enumerate(lines, 1):
                yield number, line
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        msg = f"{path}, after line {number}: the file is damaged or not UTF-8 ({error})."
        raise DataError(msg) from error


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Read one JSON value a line, with line numbers; blank lines are left out (see `read_lines` for errors)."""
    for number, line in read_lines(path):
        if line.strip():
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                msg = (
                    f"{path}, line {number}: not valid JSON ({error.msg}, column {error.colno}). "
                    "Each line must be a JSON value of its own: mend or remove this one."
                )
                raise DataError(msg) from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, or a thousand brackets
                msg = f"{path}, line {number}: this JSON cannot be read ({error}). Mend or remove the line."
                raise DataError(msg) from error
            yield number, value


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """
    Read the records of a file of any kind in `SUFFIXES`.

    :param path:
        The file.
    :returns:
        The place (`line 3`, or `row 3` of a parquet file) and the record, its keys in the file's order. Cells of a CSV
        file are strings, except for numbers in the label columns.
    :raises DataError:
        If the file is damaged or malformed (named with its line).
    """
    suffix = suffix_of(path)
    if suffix == ".parquet":
        return _read_parquet(path)
    if suffix in {".csv", ".csv.gz"}:
        return _read_csv(path, ",")
    if suffix in {".tsv", ".tsv.gz"}:
        return _read_csv(path, "\t")
    return _read_objects(path)


def _read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, record in read_json_lines(path):
        if not isinstance(record, dict):
            msg = f"{path}, line {number}: expected an object with one example, as {{...}}."
            raise DataError(msg)
        yield f"line {number}", record


def _read_csv(path: Path, separator: str) -> Iterator[tuple[str, dict[str, Any]]]:
    # Not pandas: it names no lines, fills short rows in silence and takes the text "None" for a missing one.
    reader = csv.reader((line for _, line in read_lines(path)), delimiter=separator, strict=True)
    header: list[str] = []
    while True:
        number = reader.line_num + 1
        limit = csv.field_size_limit(LONGEST_CELL)
        try:
            cells = next(reader, None)
        except csv.Error as error:
            msg = (
                f"{path}, line {number}: not valid CSV ({error}). Put cells that hold quotes, separators or line "
                'breaks in quotes and double the quotes in them (""), or write JSON lines or parquet.'
            )
            raise DataError(msg) from error
        finally:
            csv.field_size_limit(limit)
        if cells is None:
            return
        if not cells:
            continue  # a blank line
        if not header:
            header = [cell.strip() for cell in cells]
            if len(set(header)) < len(header):
                msg = f"{path}, line {number}: a column's name occurs twice. The first line must name the columns."
                raise DataError(msg)
        elif len(cells) != len(header):
            msg = (
                f"{path}, line {number}: {len(cells)} cells, but the first line names {len(header)} columns. "
                "Put cells that hold the separator in quotes."
            )
            raise DataError(msg)
        else:
            record = zip(header, cells, strict=True)
            yield f"line {number}", {k: _as_numbers(v) if k in LABEL_COLUMNS else v for k, v in record}


def _as_numbers(cell: str) -> Any:
    """Turn a label's cell into a number, or a list of them as JSON or numpy print it; leave it as it is otherwise."""
    try:
        if cell.startswith("[") and cell.endswith("]"):
            return [_as_number(part) for part in cell[1:-1].replace(",", " ").split()]
        return _as_number(cell)
    except ValueError:
        return cell


def _as_number(text: str) -> float:
    if text in {"True", "False"}:  # as pandas writes them
        return text == "True"
    return int(text) if text.lstrip("-").isdecimal() else float(text)


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):  # rows are dicts: one would take the other's place
                msg = f"{path}: a column's name occurs twice among {', '.join(names)}. Rename or remove one."
                raise DataError(msg)
            for batch in file.iter_batches(batch_size=1024):
                for record in batch.to_pylist():
                    number += 1
                    yield f"row {number}", record
    except Exception as error:  # pyarrow's own; or those of Python's dates, zones and texts, which hold less
        msg = f"{path}, after row {number}: the file is damaged, no parquet file, or holds odd values ({error})."
        raise DataError(msg) from error
