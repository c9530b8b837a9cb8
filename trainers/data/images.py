# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Images as documents: a folder of image files, or a BEIR folder whose records name them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retort.students.images import IMAGE_SUFFIXES, ImageFile, checked_images
from retort.trainers.data.beir import BadRecord, identified_records, is_beir, is_image, read_records
from retort.trainers.data.converting import SUFFIXES
from retort.trainers.data.documents import (
    OnError,
    Reading,
    list_files,
    nothing_to_read,
    reasons_of,
    refused_name,
    require_source,
    shown,
    source_root,
    tell_left_out,
)
from retort.trainers.runtime.errors import DataError

if TYPE_CHECKING:
    from haystack import Document


def read_images(source: str | Path, *, on_error: OnError = "skip", may_be_blank: bool = False) -> Reading:
    """
    Read what a user wants indexed of images: each becomes a document without content.

    Links to files are read if they stay within the folder; links to folders, and links that lead out, are left out.

    :param source:
        Folder of images (`IMAGE_SUFFIXES`, searched deeply, but for hidden folders and files), one of them, or a BEIR
        folder all of whose documents are images.
    :param on_error:
        What to do with an image, or a record of a BEIR folder, that cannot be read: `skip` it and name it with the
        reason in a warning, or `fail`.
    :param may_be_blank:
        Return no document, rather than raise, if all files are empty: an index loses the last that it had.
    :returns:
        Documents with stable ids and, in `meta`, `title` and `file_path`, relative to the folder; and what was left
        out: empty files as `blank`, others as `unread`.
    :raises DataError:
        If no image can be read; if a BEIR folder's file is damaged or holds texts; with `fail`, if anything was left
        out.
    """
    from haystack import Document

    source, root = Path(source), source_root(source)
    if root is None:
        return _of_corpus(source, on_error, may_be_blank=may_be_blank)
    require_source(source)
    seen: Counter[str] = Counter()
    paths: dict[str, Path] = {}
    reasons: dict[str, str] = {}
    result = Reading([])
    files = list_files(source, None, IMAGE_SUFFIXES) if source.is_dir() else iter([(source, "")])
    for path, refused in sorted(files):
        seen[path.suffix or "no suffix"] += 1
        if path.suffix.lower() not in IMAGE_SUFFIXES and not refused:
            continue
        name = path.relative_to(root).as_posix()
        if refused or (refused := refused_name(name)):
            reasons[shown(name)] = refused
            result.unread += [name] if path.is_dir() else []
        else:
            paths[name] = path
    if not paths and not reasons:
        raise DataError(nothing_to_read(source, seen, IMAGE_SUFFIXES))
    for name, image in zip(paths, checked_images(paths.values()), strict=True):
        if isinstance(image, ImageFile):
            result.documents.append(Document(id=name, meta={"title": readable(name), "file_path": name}))
        else:
            reasons[name] = str(image).removeprefix(f"{paths[name]}: ")
            (result.blank if _is_empty(paths[name]) else result.unread).append(name)
    may_lack = result.documents or (result.blank and may_be_blank)
    tell_left_out(source, reasons, "images", on_error if may_lack else "fail")
    return result


def holds_images(source: str | Path) -> bool:
    """
    Tell whether a source has images for documents, and no text.

    :param source:
        As of `read_images`. Names of files are looked at, and the first record of a BEIR folder.
    """
    source = Path(source)
    if is_beir(source):
        return is_image(next(identified_records(source), {}))
    files = list_files(source, None) if source.is_dir() else iter([(source, "")])
    suffixes = {path.suffix.lower() for path, _ in files}
    return bool(suffixes & set(IMAGE_SUFFIXES)) and not suffixes & set(SUFFIXES)


def readable(name: str) -> str:
    """Make a title of a file's name: `images/1f600_grinning-face.png` is `1f600 grinning face`."""
    stem = Path(name).stem
    return re.sub(r"[\s_-]+", " ", stem).strip() or stem


def _of_corpus(folder: Path, on_error: OnError, *, may_be_blank: bool) -> Reading:
    """Read the images that a corpus names; `read_records` warns of each that cannot be read."""
    unread: set[str] = set()
    bad: list[BadRecord] = []
    result, reasons, inside = Reading([]), {}, folder.resolve()
    for record in read_records(folder, skipped=unread, bad=bad):
        name = str(record.get("image") or "")
        if not is_image(record):
            msg = f"{folder}: {record['_id']!r} is a text, where images are read. Take a student that reads texts."
            raise DataError(msg)
        if (folder / name).resolve().is_relative_to(inside):
            result.documents.append(_from_record(record))
        else:
            reasons[record["_id"]] = f"{name} lies out of the folder"
            result.unread.append(record["_id"])
    reasons |= reasons_of(bad)
    result.unread += [record.id for record in bad if record.id is not None]
    left = set(unread)
    for record in identified_records(folder) if left else ():
        if (i := record["_id"]) in left:
            left.discard(i)
            (result.blank if _is_empty(folder / str(record.get("image") or "")) else result.unread).append(i)
    if on_error == "fail" or not result.documents:
        reasons |= dict.fromkeys(sorted(unread), "it cannot be read, as said above")
    may_lack = result.documents or (result.blank and may_be_blank)
    tell_left_out(folder, reasons, "images", on_error if may_lack else "fail")
    return result


def _from_record(record: dict[str, Any]) -> Document:
    from haystack import Document

    name = record["image"]
    title = record.get("title") or readable(name)
    return Document(id=record["_id"], meta={**(record.get("metadata") or {}), "title": title, "file_path": name})


def _is_empty(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size == 0
    except OSError:
        return False
