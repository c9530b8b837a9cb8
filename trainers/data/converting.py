# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""One file to its text, by Haystack's own converters, or the reason why there is none."""

from __future__ import annotations

import io
import logging
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retort.trainers.data.texts import whole_characters
from retort.trainers.runtime.errors import DataError

if TYPE_CHECKING:
    from haystack import Document

# Suffix -> Haystack converter with its parameters. All but the first need `pip install "retort-haystack[files]"`.
_HTML = ("haystack.components.converters.html.HTMLToDocument", {"extraction_kwargs": {"prune_xpath": "//noscript"}})
_CONVERTERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".txt": ("haystack.components.converters.txt.TextFileToDocument", {}),
    ".md": ("haystack.components.converters.markdown.MarkdownToDocument", {"progress_bar": False}),
    ".html": _HTML,
    ".htm": _HTML,
    ".docx": ("haystack.components.converters.docx.DOCXToDocument", {}),
}
SUFFIXES = (*_CONVERTERS, ".pdf")
LARGEST = 2**30  # bytes of a file, and of a DOCX file unpacked
LARGEST_XML = 2**25  # bytes of the texts of a DOCX file; a million paragraphs would take minutes and gigabytes
_OLE = b"\xd0\xcf\x11\xe0"  # what Office encrypts, and what it wrote before 2007
_XML = (b"<", b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe")  # or the marks of UTF-8 and UTF-16
_DAMAGED = 10  # in other encodings most of what is not ASCII is no UTF-8
_BLANK = {
    ".pdf": "no text (scanned pages need text recognition first)",
    ".html": "no text (scripts may fill this page)",
    ".htm": "no text (scripts may fill this page)",
}
_SHORT_LINE = 0.6  # of a page's longest line: paragraphs and headings end with such lines


class LeftOutError(Exception):
    """
    Why a file is left out.

    :param reason:
        For its user.
    :param is_blank:
        Whether it was read, and has no text.
    """

    def __init__(self, reason: str, *, is_blank: bool = False) -> None:
        super().__init__(reason)
        self.is_blank = is_blank


def read_file(path: Path, name: str) -> Document:
    """
    Read a file.

    :param path:
        The file, with one of `SUFFIXES`.
    :param name:
        Its path for `file_path`.
    :returns:
        Its text, headings in lines of their own between blank ones; `title` in `meta` for HTML that has one.
    :raises LeftOutError:
        If it cannot be read or has no text.
    :raises DataError:
        If a package is not installed.
    """
    from haystack import Document

    suffix = path.suffix.lower()
    try:
        if path.stat().st_size > LARGEST:
            msg = f"larger than {LARGEST >> 20} MiB: divide it"
            raise LeftOutError(msg)
        data = path.read_bytes()
    except OSError as error:
        raise LeftOutError(error.strerror or type(error).__name__) from error
    if not data.strip():
        msg = "empty"
        raise LeftOutError(msg, is_blank=True)
    if suffix in {".txt", ".md"}:
        data = _as_utf8(data)
    if suffix == ".docx":
        _refuse_large(data)
    try:
        text, meta = _read_pdf(data) if suffix == ".pdf" else _convert(data, suffix)
    except ImportError as error:
        msg = f'{path}: reading {suffix} files needs `pip install "retort-haystack[files]"` ({error}).'
        raise DataError(msg) from error
    if not text.strip():
        raise LeftOutError(_BLANK.get(suffix, "no text"), is_blank=True)
    return Document(content=text, meta={**meta, "file_path": name})


def _convert(data: bytes, suffix: str) -> tuple[str, dict[str, Any]]:
    from haystack.dataclasses import ByteStream

    converter = _converter(suffix)
    with _errors(type(converter).__module__) as errors:
        # Haystack's converters log a file they cannot read and go on.
        found = converter.run(sources=[ByteStream(data)])["documents"]
        if not found and (error := next((error for error in errors if error is not None), None)):
            raise LeftOutError(_reason(error)) from error
        text, meta = (found[0].content or "", found[0].meta) if found else ("", {})
        if suffix == ".docx":
            text = re.sub(r"(?<!\r)\n", "\n\n", text)  # lines are paragraphs; those of tables end with \r\n
        elif text and suffix in {".html", ".htm"}:
            text, title = _with_html_headings(text, data)
            meta |= {"title": title} if title else {}
        elif suffix in {".html", ".htm"}:
            _refuse_too_deep(data)
    return text, meta


def _read_pdf(data: bytes) -> tuple[str, dict[str, Any]]:
    """Read pages with pypdf: Haystack's converter of the same fails at half of a surrogate pair."""
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError, WrongPasswordError

    try:
        with _errors(__name__):
            pages = [page.extract_text() for page in PdfReader(io.BytesIO(data)).pages]
    except (DependencyError, FileNotDecryptedError, WrongPasswordError) as error:
        msg = "encrypted: remove the password"
        raise LeftOutError(msg) from error
    except Exception as error:  # of damaged files it raises whatever came up
        raise LeftOutError(_reason(error)) from error
    text = "\f".join(map(_with_short_lines_apart, pages))
    return whole_characters(text), {}


@cache
def _converter(suffix: str) -> Any:
    from haystack.core.serialization import import_class_by_name

    kind, parameters = _CONVERTERS[suffix]
    return import_class_by_name(kind)(**parameters)


def _as_utf8(data: bytes) -> bytes:
    """
    Detect the encoding of a text: UTF-8 if it is that but for a few bytes, else what charset-normalizer takes it for.

    Of what suits it as well it takes Western Europe's: a few accents in English suit a dozen encodings.
    """
    text = data.decode("utf-8", "replace")
    damaged, others = text.count("\ufffd"), sum(not letter.isascii() for letter in text)
    if "\0" not in text and others >= _DAMAGED * damaged:  # UTF-16 of plain English is UTF-8 with zeros
        return text.encode()
    import charset_normalizer

    matches = charset_normalizer.from_bytes(data)
    best = matches.best()
    if best is None:
        msg = "no text in any known encoding: save it as UTF-8"
        raise LeftOutError(msg)
    western = (m for m in matches if "cp1252" in m.could_be_from_charset and m.chaos <= best.chaos)
    return str(next(western, best)).encode("utf-8", "replace")


def _refuse_large(data: bytes) -> None:
    """Refuse a DOCX file that would fill the memory once it is unpacked; and one that cannot be."""
    if data.startswith(_OLE):
        msg = "encrypted, or of Word's old format: remove the password, or save it as DOCX"
        raise LeftOutError(msg)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            parts = packed.infolist()
            texts = sum(part.file_size for part in parts if _may_be_xml(packed.open(part).read(64)))
    except Exception as error:  # of damaged archives zipfile and zlib raise half a dozen kinds
        raise LeftOutError(_reason(error)) from error
    if texts > LARGEST_XML or sum(part.file_size for part in parts) > LARGEST:
        msg = f"unpacked larger than {LARGEST_XML >> 20} MiB of text or {LARGEST >> 20} MiB in all: divide it"
        raise LeftOutError(msg)


def _may_be_xml(beginning: bytes) -> bool:
    """Tell by what is in it: the other parts say which one is the text, however it is named."""
    return not beginning.strip() or beginning.lstrip().startswith(_XML)


@contextmanager
def _errors(module: str) -> Iterator[list[Exception | None]]:
    """Collect what a converter logs, and silence what libraries log beneath it: they name no file."""
    found: list[Exception | None] = []

    def collect(record: logging.LogRecord) -> bool:
        found.append(getattr(record, "error", None))
        return False

    own, beneath = logging.getLogger(module), [logging.getLogger(name) for name in ("pypdf", "trafilatura")]
    levels = [log.level for log in beneath]
    own.addFilter(collect)
    for log in beneath:
        log.setLevel(logging.CRITICAL + 1)
    try:
        yield found
    finally:
        own.removeFilter(collect)
        for log, level in zip(beneath, levels, strict=True):
            log.setLevel(level)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return f"damaged, or of another kind ({type(error).__name__}{': ' if text else ''}{text})"


def _with_html_headings(text: str, data: bytes) -> tuple[str, str]:
    """Put blank lines around headings, and return the page's title or first heading with it."""
    from trafilatura import load_html

    tree = load_html(data)
    found = [] if tree is None else [_text_of(e) for e in tree.iter("h1", "h2", "h3", "h4", "h5", "h6")]
    titles = [] if tree is None else [_text_of(e) for e in tree.iter("title")]
    headings = set(found)
    lines = (f"\n{line}\n" if " ".join(line.split()) in headings else line for line in text.split("\n"))
    return "\n".join(lines).strip("\n"), next(filter(None, [*titles, *found]), "")


def _refuse_too_deep(data: bytes) -> None:
    """Tell a page whose text the parser leaves out from one without text."""
    from lxml import etree

    parser = etree.HTMLParser()
    etree.parse(io.BytesIO(data), parser)
    if any("Excessive depth" in error.message for error in parser.error_log):
        msg = "its elements are nested too deep to be read: close its open tags"
        raise LeftOutError(msg)


def _text_of(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


def _with_short_lines_apart(page: str) -> str:
    """Tell headings and ends of paragraphs by their length: a PDF file has lines alone."""
    lines = page.split("\n")
    short = _SHORT_LINE * max(map(len, lines))
    parts = [lines[0]]
    for line, following in pairwise(lines):
        text, after = line.strip(), following.strip()
        ends = 0 < len(text) < short and text[-1] not in ",;-\u00ad"
        is_heading = text[-1:] in ".!?:" and 0 < len(after) < short and after[-1] not in ".!?:,;-\u00ad"
        parts += ["\n\n" if (ends or is_heading) and not after[:1].islower() else "\n", following]
    return "".join(parts)
