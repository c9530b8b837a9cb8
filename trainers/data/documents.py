# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Plain documents: a folder of files, read by Haystack's own converters and cut into passages."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from retort.students.checks import HALF, has_half, positive
from retort.students.images import IMAGE_SUFFIXES
from retort.students.segmentation import PASSAGE_WORDS, passage_spans, token_spans
from retort.trainers.data.beir import BadRecord, is_beir, is_image, read_records
from retort.trainers.data.converting import SUFFIXES, LeftOutError, read_file
from retort.trainers.data.texts import RetrievalData, TextStore, document_text
from retort.trainers.runtime.errors import DataError

if TYPE_CHECKING:
    from haystack import Document

logger = logging.getLogger(__name__)

OnError = Literal["skip", "fail"]
Split = Literal["auto", "passages", "documents"]
OVERLAP = 20  # words
TOKENS_A_WORD = 1.4  # at most, of most texts: what a student reads is known in tokens
MOST_FIT = 0.9  # of the files, to have one vector each
UNUSABLE_ID = "its id holds control characters, or is not UTF-8: change it"
# What ids, judgements and messages cannot hold: control characters, and bytes of a name that are not UTF-8.
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass
class Reading:
    """
    What a source gives.

    :param documents:
        Its passages.
    :param blank:
        Files without any text, or ids of such documents of a BEIR folder: what they once gave is gone.
    :param unread:
        Files and folders that could not be read, or ids of such records of a BEIR folder: what they once gave may still
        be there. Links, lock files and names that cannot be used are not among them: the source does not have them.
    """

    documents: list[Document]
    blank: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    cut: Cut | None = None


@dataclass(frozen=True)
class Cut:
    """
    How files were cut into documents of an index; a BEIR folder's documents are not.

    :param words:
        Words of each, at most.
    :param reason:
        Why, in a sentence.
    """

    words: int = PASSAGE_WORDS
    reason: str = ""


def choose_cut(
    split: Split, tokens: int | None, lengths: list[int], words: int | None = None, *, pieces: bool = False
) -> Cut:
    """
    Choose what gets a vector: a passage, or as much of a file as the student reads.

    :param split:
        `passages` and `documents` as they say. `auto`: documents, if the student reads more than a passage and nine of
        ten files fit into that, or if `pieces` and not `words`.
    :param tokens:
        How many the student reads of a document; None: that is not known.
    :param lengths:
        Words of each file.
    :param words:
        Of a passage, at most; None: `PASSAGE_WORDS`.
    :param pieces:
        Whether the student learns from pieces of documents.
    :raises DataError:
        If documents are wanted, and it is not known how long they may be, or `words` says it of passages.
    """
    if split not in get_args(Split):
        msg = f"split: {split!r}; it is one of {', '.join(get_args(Split))}."
        raise DataError(msg)
    most = 0 if tokens is None else int(tokens / TOKENS_A_WORD)
    passage = words or PASSAGE_WORDS
    if split == "documents" and words:
        msg = f"passage_words: {words}; with split: documents there are no passages. Leave one of the two out."
        raise DataError(msg)
    if split == "documents" and not most:
        msg = "split: documents; the recipe does not say how much of one the student reads: set max_tokens.document."
        raise DataError(msg)
    fit = sum(length <= most for length in lengths)
    figures = f"{fit:,} of {len(lengths):,} files fit into the {tokens} tokens that the student reads"
    if split == "auto" and pieces and most and not words:
        why = "the recipe trains on pieces of documents (--split passages: one vector a passage)"
        return Cut(most, f"one vector a file, several of a longer one: {why}; {figures}")
    if split == "documents" or (split == "auto" and most > passage and fit >= MOST_FIT * len(lengths)):
        return Cut(most, f"one vector a file, several of a longer one: {figures}")
    why = f": {figures}" if split == "auto" and most else ""
    return Cut(passage, f"one vector a passage of {passage} words{why}")


def read_documents(source: str | Path, **options: Any) -> list[Document]:
    """Read the documents of a source; see `read_source`, whose options these are."""
    return read_source(source, **options).documents


def require_source(source: str | Path) -> None:
    """
    Refuse a path where nothing is.

    :param source:
        As of `read_source`.
    :raises DataError:
        If it does not exist.
    """
    if not Path(source).exists():
        msg = f"{source} does not exist. Give a folder of documents or a BEIR folder."
        raise DataError(msg)


def read_source(
    source: str | Path,
    *,
    words: int | None = None,
    overlap: int = OVERLAP,
    split: Split = "passages",
    tokens: int | None = None,
    pieces: bool = False,
    on_error: OnError = "skip",
    leave_out: Path | None = None,
    may_be_blank: bool = False,
) -> Reading:
    """
    Read what a user wants indexed: a BEIR folder (its passages as they are) or a folder or file of documents.

    Links to files are read if they stay within the folder; links to folders, and links that lead out, are left out.

    :param source:
        BEIR folder, folder of `.txt`, `.md`, `.html`, `.pdf` and `.docx` files (searched deeply, but for hidden
        folders and files), or one such file.
    :param words:
        Length of the passages into which files are cut, at most; they end with a sentence where one ends in their
        second half. BEIR passages are not cut. None: `PASSAGE_WORDS`.
    :param overlap:
        Words that two passages share, at most if whole sentences fit, else so many; of short ones a quarter at most.
    :param split:
        Other than `passages`: what is chosen in place of `words` (see `choose_cut`).
    :param tokens:
        How many the student reads of a document, where `split` depends on it.
    :param pieces:
        Whether the student learns from pieces of documents, where `split` depends on it.
    :param on_error:
        What to do with a file that cannot be read or has no text, and with an empty document or a malformed record of a
        BEIR folder: `skip` it and name it with the reason in one warning at the end, or `fail` then.
    :param leave_out:
        A folder within that is not read, such as the one that is written to.
    :param may_be_blank:
        Return no document, rather than raise, if there is no text at all: an index loses the last that it had.
    :returns:
        Documents with stable ids, `title` or `file_path` in their `meta` beside what the source gave; and what was
        left out.
    :raises DataError:
        If no text can be read; if a BEIR folder's file is damaged; with `fail`, if anything was left out.
    :raises ValueError:
        If `words` is not above 0.
    """
    source, root = Path(source), source_root(source)
    if words is not None:
        positive("passage_words", words)
    if root is None:
        blank: set[str] = set()
        bad: list[BadRecord] = []
        documents = [_from_record(record, source) for record in read_records(source, skipped=blank, bad=bad)]
        has_some = documents or may_be_blank
        reasons = dict.fromkeys(sorted(blank), "no text") | reasons_of(bad)
        tell_left_out(source, reasons, "documents", on_error if has_some else "fail")
        return Reading(documents, sorted(blank), [record.id for record in bad if record.id is not None])
    require_source(source)
    if source.is_file() and is_beir(source.parent) and source.name.startswith("corpus.jsonl"):
        msg = f"{source}: give the BEIR folder around it, {source.parent}."
        raise DataError(msg)
    seen: Counter[str] = Counter()
    documents, reasons, result = [], {}, Reading([])
    for path, refused in sorted(list_files(source, leave_out)) if source.is_dir() else [(source, "")]:
        seen[path.suffix or "no suffix"] += 1
        if path.suffix.lower() not in SUFFIXES and not refused:
            continue
        name = path.relative_to(root).as_posix()
        try:
            if refused or (refused := refused_name(name)):
                raise LeftOutError(refused)
            documents.append(read_file(path, name))
        except LeftOutError as error:
            reasons[shown(name)] = str(error)
            if error.is_blank:
                result.blank.append(name)
            elif not refused or path.is_dir():
                result.unread.append(name)
    if not documents and not reasons:
        raise DataError(nothing_to_read(source, seen, SUFFIXES))
    tell_left_out(source, reasons, "files", on_error if documents or (result.blank and may_be_blank) else "fail")
    lengths = [len(token_spans(document.content or "")) for document in documents] if split != "passages" else []
    result.cut = choose_cut(split, tokens, lengths, words, pieces=pieces)
    words, overlap = result.cut.words, min(overlap, result.cut.words // 4)
    result.documents = [passage for document in documents for passage in _passages(document, words, overlap)]
    return result


def without_blank(documents: Sequence[Document], on_error: OnError = "skip") -> Reading:
    """
    Leave out and name the documents that have neither a title nor a text, or one that no file can hold.

    Of documents with one id and one text the first is kept.

    :param documents:
        Haystack documents.
    :param on_error:
        `skip` them and name them in one warning, or `fail`.
    :raises DataError:
        With `fail`, or if no other document is left, if there are any. If two documents of one id have other texts.
    """
    kept: dict[str, str] = {}
    result, reasons = Reading([]), {}
    for document in documents:
        text = document_text(str(document.meta.get("title") or ""), document.content or "")
        if not text.strip() or has_half(text):
            reasons[shown(document.id)] = f"it holds {HALF}: mend the text" if text.strip() else "no text"
            (result.unread if text.strip() else result.blank).append(document.id)
        elif document.id not in kept:
            kept[document.id] = text
            result.documents.append(document)
        elif kept[document.id] != text:
            msg = f"Two documents have the id {shown(document.id)!r}, and other texts: give each an id of its own."
            raise DataError(msg)
    tell_left_out("Haystack documents", reasons, "documents", on_error if kept else "fail")
    return result


def with_usable_ids(reading: Reading, on_error: OnError = "skip") -> Reading:
    """
    Leave out and name the documents whose ids no judgement can hold.

    :param reading:
        What was read.
    :param on_error:
        `skip` them and name them in one warning, or `fail`.
    :raises DataError:
        With `fail`, or if no other document is left, if there are any.
    """
    odd = {document.id for document in reading.documents if _UNUSABLE.search(document.id)}
    kept = [document for document in reading.documents if document.id not in odd]
    reasons = dict.fromkeys(map(shown, sorted(odd)), UNUSABLE_ID)
    tell_left_out("documents", reasons, "documents", on_error if kept else "fail")
    return replace(reading, documents=kept)


def source_root(source: str | Path) -> Path | None:
    """Return the folder that the `file_path` of a source's documents is relative to; None for a BEIR folder."""
    source = Path(source)
    if is_beir(source):
        return None
    return source if source.is_dir() else source.parent


def documents_to_data(name: str, documents: list[Document]) -> RetrievalData:
    """Turn documents into a data set without queries; the text is title and content."""
    titles = [str(d.meta.get("title") or "").strip() for d in documents]
    texts = [document_text(title, d.content or "") for title, d in zip(titles, documents, strict=True)]
    return RetrievalData(name, TextStore([d.id for d in documents], texts, titles), TextStore([], []))


def _from_record(record: dict[str, Any], source: Path) -> Document:
    from haystack import Document

    if is_image(record):
        msg = f"{source}: {record['_id']!r} is an image, where texts are read. Take a student of kind image_text."
        raise DataError(msg)
    title = record.get("title") or ""
    meta = {**(record.get("metadata") or {}), **({"title": title} if title else {})}
    return Document(id=record["_id"], content=record.get("text") or "", meta=meta)


def list_files(
    source: Path, leave_out: Path | None, suffixes: tuple[str, ...] = SUFFIXES
) -> Iterator[tuple[Path, str]]:
    """
    List the files of a folder and of those in it, in any order; hidden ones are left out.

    :param source:
        The folder.
    :param leave_out:
        A folder within that is passed over.
    :param suffixes:
        Of files that are to be read: those that cannot be opened are listed as well.
    :returns:
        Each with the reason why it is not to be read, or none; and folders that cannot be read.
    """
    inside, written = source.resolve(), None if leave_out is None else leave_out.resolve()
    closed: list[OSError] = []
    for folder, folders, names in os.walk(source, onerror=closed.append):
        here = Path(folder)
        folders[:] = [name for name in folders if not name.startswith(".") and (here / name).resolve() != written]
        for name in folders:
            if (here / name).is_symlink():
                yield here / name, "a link to a folder"
        for path in (here / name for name in names if not name.startswith(".")):
            is_link, is_file = path.is_symlink(), os.path.isfile(path)  # unlike Path's, it never raises
            if is_link and not is_file:
                yield path, "a link that leads to no file"
            elif is_link and not path.resolve().is_relative_to(inside):
                yield path, "a link that leads out of the folder"
            elif is_file:
                yield path, "a lock file of an open document" if path.name.startswith("~$") else ""
            elif path.suffix.lower() in suffixes:
                yield path, "no file that can be opened"
    for error in closed:
        yield Path(error.filename), f"this folder cannot be read ({error.strerror})"


def refused_name(name: str) -> str:
    """Say why no id can hold a file's name; empty if one can."""
    return "its name holds control characters, or is not UTF-8: rename it" if _UNUSABLE.search(name) else ""


def shown(name: str) -> str:
    """Write a file's name so that it can be printed."""
    return _UNUSABLE.sub(lambda odd: odd.group().encode("unicode_escape").decode(), name)


def nothing_to_read(source: Path, seen: Counter[str], suffixes: tuple[str, ...]) -> str:
    """Say what a source holds in place of files that can be read."""
    there = ", ".join(f"{n} {suffix}" for suffix, n in seen.most_common(5)) or "nothing"
    mend = ""
    if suffixes == SUFFIXES and any(suffix.lower() in IMAGE_SUFFIXES for suffix in seen):
        mend = " Images need a student of kind image_text."
    elif suffixes == IMAGE_SUFFIXES and any(suffix.lower() in SUFFIXES for suffix in seen):
        mend = " Texts need a student of another kind than image_text."
    return f"{source}: found {there}, but no file that can be read ({', '.join(suffixes)}).{mend}"


def tell_left_out(source: str | Path, reasons: dict[str, str], what: str, on_error: OnError) -> None:
    """
    Name all that was left out, once.

    :param source:
        What was read.
    :param reasons:
        Why, by the names of files or documents.
    :param what:
        What they are, in the plural.
    :param on_error:
        `skip` warns, `fail` raises.
    :raises DataError:
        With `fail`, if there are any.
    """
    if not reasons:
        return
    lines = "".join(f"\n  {name}: {reason}" for name, reason in reasons.items())
    if on_error == "fail":
        msg = f"{source}: {len(reasons)} {what} cannot be read. Mend them, or take them out:{lines}"
        raise DataError(msg)
    logger.warning("%s: %d %s left out:%s", source, len(reasons), what, lines)


def reasons_of(bad: Sequence[BadRecord]) -> dict[str, str]:
    """Name the records of a BEIR folder that cannot be read, for `tell_left_out`."""
    return {f"line {record.line}": record.reason.removesuffix(".") for record in bad}


def _passages(document: Document, words: int, overlap: int) -> Iterator[Document]:
    from haystack import Document as Passage

    text, path = document.content or "", document.meta["file_path"]
    for number, (start, end) in enumerate(passage_spans(text, words, overlap)):
        place = {
            "source_id": document.id,
            "split_id": number,
            "split_idx_start": start,
            "page_number": text.count("\f", 0, start) + 1,
        }
        # Ids by place: the passages of a changed file take the places of its old ones.
        yield Passage(id=f"{path}#{number}", content=text[start:end], meta=deepcopy(document.meta) | place)
