# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Plain documents: a folder of files read and split by Haystack's own converters and splitter."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from retort.trainers.data.beir import is_beir, read_records
from retort.trainers.data.texts import RetrievalData, TextStore, document_text
from retort.trainers.runtime.errors import DataError

if TYPE_CHECKING:
    from haystack import Document

logger = logging.getLogger(__name__)

SHOWN = 5  # names in a warning
# Suffix -> Haystack converter. All but the first need `pip install "retort-haystack[files]"`.
_CONVERTERS = {
    ".txt": "haystack.components.converters.txt.TextFileToDocument",
    ".md": "haystack.components.converters.markdown.MarkdownToDocument",
    ".html": "haystack.components.converters.html.HTMLToDocument",
    ".htm": "haystack.components.converters.html.HTMLToDocument",
    ".pdf": "haystack.components.converters.pypdf.PyPDFToDocument",
    ".docx": "haystack.components.converters.docx.DOCXToDocument",
}


def read_documents(
    source: str | Path,
    *,
    words: int = 150,
    overlap: int = 20,
    unreadable: Literal["error", "skip"] = "error",
    leave_out: Path | None = None,
) -> list[Document]:
    """
    Read what a user wants indexed: a BEIR folder (its passages as they are) or a folder or file of documents.

    :param source:
        BEIR folder, folder of `.txt`, `.md`, `.html`, `.pdf` and `.docx` files (searched deeply, but for hidden
        folders), or one such file.
    :param words:
        Length of the passages into which files are split; BEIR passages are not split.
    :param overlap:
        Words that two passages share.
    :param unreadable:
        What to do with a file that cannot be read: `error`, or `skip` it and say so.
    :param leave_out:
        A folder within that is not read, such as the one that is written to.
    :returns:
        Documents with stable ids. `meta` holds `title` or `file_path`, and what the source gave.
    :raises DataError:
        If nothing can be read, or a file cannot be read (named), or no file has any text.
    """
    source, root = Path(source), source_root(source)
    if root is None:
        return [_from_record(record) for record in read_records(source)]
    if not source.exists():
        msg = f"{source} does not exist. Give a folder of documents or a BEIR folder."
        raise DataError(msg)
    if source.is_file() and is_beir(source.parent) and source.name.startswith("corpus.jsonl"):
        msg = f"{source}: give the BEIR folder around it, {source.parent}."
        raise DataError(msg)
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    if source.is_dir():
        files = [p for p in files if not any(part.startswith(".") for part in p.relative_to(source).parts)]
        files = [p for p in files if leave_out is None or leave_out.resolve() not in p.resolve().parents]
    known = [p for p in files if p.suffix.lower() in _CONVERTERS]
    if not known:
        seen = Counter(p.suffix or "no suffix" for p in files)
        found = ", ".join(f"{n} {suffix}" for suffix, n in seen.most_common(5)) or "nothing"
        msg = f"{source}: found {found}, but no file that can be read ({', '.join(_CONVERTERS)})."
        raise DataError(msg)
    documents = _convert(known, root, unreadable)
    if not documents:
        msg = f"{source}: none of {len(known)} files has any text. Scanned pages need text recognition (OCR) first."
        raise DataError(msg)
    return _split(documents, words, overlap)


def source_root(source: str | Path) -> Path | None:
    """Return the folder that the `file_path` of a source's documents is relative to; None for a BEIR folder."""
    source = Path(source)
    if is_beir(source):
        return None
    return source if source.is_dir() else source.parent


def documents_to_data(name: str, documents: list[Document]) -> RetrievalData:
    """Turn documents into a data set without queries; the text is title and content."""
    texts = [document_text(str(d.meta.get("title") or ""), d.content or "") for d in documents]
    return RetrievalData(name, TextStore([d.id for d in documents], texts), TextStore([], []))


def _from_record(record: dict[str, Any]) -> Document:
    from haystack import Document

    title = record.get("title") or ""
    meta = {**(record.get("metadata") or {}), **({"title": title} if title else {})}
    return Document(id=record["_id"], content=record.get("text") or "", meta=meta)


def _convert(files: list[Path], root: Path, unreadable: Literal["error", "skip"]) -> list[Document]:
    from haystack.core.serialization import import_class_by_name

    converters: dict[str, Any] = {}
    documents: list[Document] = []
    empty: list[str] = []
    failed: list[str] = []
    for path in files:
        kind = _CONVERTERS[path.suffix.lower()]
        relative = path.relative_to(root).as_posix()
        try:
            if kind not in converters:
                quiet = {"progress_bar": False} if path.suffix.lower() == ".md" else {}  # one a file otherwise
                converters[kind] = import_class_by_name(kind)(**quiet)
            found = converters[kind].run(sources=[path])["documents"]
        except ImportError as error:
            msg = f'{path}: reading {path.suffix} files needs `pip install "retort-haystack[files]"` ({error}).'
            raise DataError(msg) from error
        # Haystack's converters log a file they cannot read and go on; a missing document is an error here.
        if not found:
            if unreadable == "error":
                msg = f"{path}: this file cannot be read. Repair it, or move it out of the folder."
                raise DataError(msg)
            failed.append(relative)
        # Set here: converters shorten a `file_path` that they are given to the file's name.
        texts = [replace(d, meta={**d.meta, "file_path": relative}) for d in found if (d.content or "").strip()]
        if found and not texts:
            empty.append(relative)
        documents.extend(texts)
    for names, what in (
        (failed, "cannot be read"),
        (empty, "have no text (scanned pages need text recognition first)"),
    ):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            logger.warning("left out, as they %s: %s%s", what, ", ".join(names[:SHOWN]), more)
    return documents


def _split(documents: list[Document], words: int, overlap: int) -> list[Document]:
    from haystack.components.preprocessors import DocumentSplitter

    splitter = DocumentSplitter(split_by="word", split_length=words, split_overlap=overlap)
    splitter.warm_up()
    counts: Counter[str] = Counter()
    passages = []
    for passage in splitter.run(documents=documents)["documents"]:
        path = passage.meta["file_path"]
        # Ids by place: the passages of a changed file take the places of its old ones.
        passages.append(replace(passage, id=f"{path}#{counts[path]}"))
        counts[path] += 1
    return passages
