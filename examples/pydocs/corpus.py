# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
A corpus that every Python has: the documentation of its own standard library.

Docstrings of public modules, classes, functions and methods, and the language topics behind `help()`. Weak training
queries come from the texts themselves; the questions to evaluate on are written by hand (`questions.jsonl`).
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import json
import platform
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from retort.students.files import replace_folder
from retort.trainers.runtime.errors import DataError

QUESTIONS = Path(__file__).parent / "questions.jsonl"
FEWEST_QUESTIONS = 100
PASSAGE_WORDS = 120
LONGEST_WORDS = 200
HEADING_WORDS = 8
FEWEST_WORDS = 7
# Packages whose parts are documented one level down.
SUBMODULES = (
    "asyncio", "collections.abc", "concurrent.futures", "email.message", "email.mime.text", "email.utils",
    "html.parser", "http.client", "http.server", "http.cookies", "http.cookiejar", "importlib.metadata",
    "importlib.resources", "importlib.util", "json.tool", "logging.config", "logging.handlers", "multiprocessing.pool",
    "multiprocessing.shared_memory", "os.path", "unittest.mock", "urllib.error", "urllib.parse", "urllib.request",
    "urllib.robotparser", "wsgiref.simple_server", "xml.dom.minidom", "xml.etree.ElementTree", "xml.sax",
    "xmlrpc.client", "xmlrpc.server", "curses.ascii", "sqlite3", "zoneinfo", "tomllib", "ctypes.util", "encodings.idna",
)  # fmt: skip
# Not for readers, or with effects on import.
SKIPPED = {
    "antigravity", "this", "idlelib", "lib2to3", "test", "turtledemo", "tkinter", "turtle", "pydoc_data", "nt",
    "msilib", "winreg", "winsound", "msvcrt", "ntpath", "nturl2path", "posix", "pyexpat", "sre_compile",
    "sre_constants", "sre_parse", "distutils", "ensurepip", "venv", "opcode", "genericpath", "curses", "pdb", "bdb",
    "symtable", "mailbox", "imaplib", "tracemalloc", "dbm", "pty", "tty", "readline", "rlcompleter", "optparse",
    "getopt", "lib", "pydoc",
    # Removed in Python 3.12 or 3.13.
    "aifc", "asynchat", "asyncore", "audioop", "cgi", "cgitb", "chunk", "crypt", "imghdr", "imp", "mailcap", "nis",
    "nntplib", "ossaudiodev", "pipes", "smtpd", "sndhdr", "spwd", "sunau", "telnetlib", "uu", "xdrlib",
}  # fmt: skip
# How docstrings begin, in the imperative; some say `returns` for `return`.
_VERBS = frozenset(
    (
        "add append apply build call change check clear close compare compute convert copy count create decode "
        "define delete determine disable emit enable encode ensure enter execute exit extract fetch find format "
        "generate get give handle initialize insert iterate join list load lock log look make merge modify move "
        "open parse pop print process produce provide put raise read receive record register release remove "
        "rename replace report represent reset retrieve return reverse run search send set show skip sort split "
        "start stop store strip take test transform try turn update use wait wrap write yield"
    ).split()
)
_BOILERPLATE = re.compile(r"copyright|permission is hereby granted|warranty|<intro stuff", re.IGNORECASE)
# Topics that only repeat others, or document a module that is left out.
_SKIPPED_TOPICS = {"specialnames", "compound", "execmodel", "debugger"}


def passages() -> Iterator[dict[str, Any]]:
    """
    Yield the corpus as BEIR records.

    `_id` is the qualified name, or `topic:NAME`, with `#2`, `#3` ... for the further passages of a long text;
    `metadata.key` is the same without that number. A text that stands in several places is kept once.
    """
    seen: set[str] = set()
    kept: dict[str, list[str]] = {}
    # Short names first: `random.shuffle` before `random.Random.shuffle`.
    for key, text in sorted([*_docstrings(), *_topics()], key=lambda entry: (len(entry[0]), entry[0])):
        parts = [part for part in split_passages(text) if _normal(part) not in seen and not _BOILERPLATE.search(part)]
        seen.update(map(_normal, parts))
        if parts and key not in kept:
            kept[key] = parts
    for key, parts in sorted(kept.items()):
        for number, part in enumerate(parts, 1):
            yield {
                "_id": key if number == 1 else f"{key}#{number}",
                "title": key.removeprefix("topic:"),
                "text": part,
                "metadata": {"key": key},
            }


def split_passages(text: str) -> list[str]:
    """
    Cut a text at blank lines into passages of about `PASSAGE_WORDS` words.

    A heading or other short block begins the passage of what follows it; a very long block is cut between lines.
    """
    blocks: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        lines = block.split("\n")
        size = len(lines) if len(block.split()) <= LONGEST_WORDS else 1 + PASSAGE_WORDS // 10
        blocks.extend("\n".join(lines[i : i + size]) for i in range(0, len(lines), size))
    parts: list[str] = []
    heading = ""
    for block in blocks:
        if len(block.split()) < HEADING_WORDS:
            heading += block + "\n\n"
        elif parts and not heading and len(parts[-1].split()) + len(block.split()) <= PASSAGE_WORDS:
            parts[-1] += "\n\n" + block
        else:
            parts.append(heading + block)
            heading = ""
    if heading:
        parts = [*parts[:-1], f"{parts[-1]}\n\n{heading}"] if parts else [heading]
    return [part.strip() for part in parts if part.strip()]


def weak_queries(record: dict[str, Any]) -> list[str]:
    """
    Make training queries out of a passage: a question from its first sentence, and its name in words.

    :param record:
        A record of `passages`.
    """
    key = record["metadata"]["key"]
    if record["_id"] != key:
        return []
    sentence = re.split(r"(?<=[.!?:])\s", " ".join(record["text"].split()), maxsplit=1)[0].rstrip(".:!")
    queries = []
    words = sentence.split()
    if 4 <= len(words) <= 30:  # noqa: PLR2004
        first = words[0].lower()
        if first in _VERBS or first.removesuffix("s") in _VERBS:
            queries.append(f"how do I {first if first in _VERBS else first.removesuffix('s')} {' '.join(words[1:])}?")
        else:
            queries.append(f"what is {sentence[0].lower()}{sentence[1:]}?")
    name = re.sub(r"[._:]+", " ", key.removeprefix("topic:"))
    queries.append(f"{name} {' '.join(words[:6])}" if words else name)
    return queries


def answers(question: dict[str, Any], by_key: dict[str, list[dict[str, Any]]]) -> list[str]:
    """List the passages that answer a question: those of its keys, with its evidence (if any) word by word."""
    evidence = " ".join(question.get("evidence", "").lower().split())
    return [
        record["_id"]
        for key in question["keys"]
        for record in by_key.get(key, [])
        if evidence in " ".join(record["text"].lower().split())
    ]


def questions(by_key: dict[str, list[dict[str, Any]]]) -> tuple[list[dict[str, Any]], int]:
    """
    Read the handwritten questions.

    :param by_key:
        The records of the corpus by key; docstrings differ from one Python version to the next.
    :returns:
        The questions with an answer in the corpus, as `{"_id", "text", "keys", "evidence"?}`, and the number of the
        others.
    :raises DataError:
        If fewer than `FEWEST_QUESTIONS` are left.
    """
    every = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    there = [q for q in every if answers(q, by_key)]
    if len(there) < FEWEST_QUESTIONS:
        msg = (
            f"Only {len(there)} of {len(every)} questions have their answer in the documentation of Python "
            f"{platform.python_version()}; {FEWEST_QUESTIONS} are needed. Was Python built without docstrings (-OO)?"
        )
        raise DataError(msg)
    return there, len(every) - len(there)


def write_beir(folder: Path) -> dict[str, int]:
    """
    Write corpus, weak training queries and handwritten questions as a BEIR folder.

    Every fourth question goes into `dev`, which chooses the best checkpoint; the others are `test`.

    :param folder:
        The folder to write, whole or not at all.
    :returns:
        Counts: `passages`, `queries`, `questions`, `absent` (questions whose answer this Python does not document).
    """
    corpus = list(passages())
    by_key: dict[str, list[dict[str, Any]]] = {}
    for record in corpus:
        by_key.setdefault(record["metadata"]["key"], []).append(record)
    asked, absent = questions(by_key)
    weak = [(f"w{i}.{j}", text, r["_id"]) for i, r in enumerate(corpus) for j, text in enumerate(weak_queries(r))]
    queries = [{"_id": i, "text": text} for i, text, _ in weak]
    queries += [{"_id": q["_id"], "text": q["text"]} for q in asked]
    with replace_folder(folder) as aside:
        for name, records in {"corpus": corpus, "queries": queries}.items():
            lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            (aside / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        (aside / "qrels").mkdir()
        judged = {
            "train": [(i, passage) for i, _, passage in weak],
            "dev": [(q["_id"], passage) for q in asked if _is_dev(q) for passage in answers(q, by_key)],
            "test": [(q["_id"], passage) for q in asked if not _is_dev(q) for passage in answers(q, by_key)],
        }
        for split, pairs in judged.items():
            table = "".join(f"{query}\t{passage}\t1\n" for query, passage in pairs)
            (aside / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{table}", encoding="utf-8")
    return {"passages": len(corpus), "queries": len(weak), "questions": len(asked), "absent": absent}


def _is_dev(question: dict[str, Any]) -> bool:
    return int(question["_id"][1:]) % 4 == 0


def _docstrings() -> Iterator[tuple[str, str]]:
    modules = {
        name: module
        for name in sorted({*sys.stdlib_module_names, *SUBMODULES})
        if not name.startswith("_") and name.split(".")[0] not in SKIPPED and (module := _import(name)) is not None
    }
    for name, module in modules.items():
        yield from _entry(name, module)
        for attribute in sorted(getattr(module, "__all__", None) or vars(module)):
            thing = getattr(module, attribute, None)
            if attribute.startswith("_") or not (inspect.isclass(thing) or inspect.isroutine(thing)):
                continue
            if getattr(thing, "__name__", attribute) != attribute and hasattr(module, thing.__name__):
                continue  # a second name in this module
            if thing.__module__ != name and thing.__module__ in modules and name != "builtins":
                continue  # borrowed from a module that documents it
            full = attribute if name == "builtins" else f"{name}.{attribute}"
            yield from _entry(full, thing)
            if inspect.isclass(thing) and not issubclass(thing, BaseException):
                yield from _members(full, thing)


def _members(name: str, kind: type) -> Iterator[tuple[str, str]]:
    # With the members of the C classes behind it.
    own = {a for base in kind.__mro__ if base is kind or base.__module__.startswith("_") for a in vars(base)}
    for attribute in sorted(own):
        thing = getattr(kind, attribute, None)
        documented = inspect.isroutine(thing) or isinstance(thing, property) or inspect.isgetsetdescriptor(thing)
        if documented and not attribute.startswith("_"):
            yield from _entry(f"{name}.{attribute}", thing)


def _entry(name: str, thing: Any) -> Iterator[tuple[str, str]]:
    """Yield name and text; no text that shows addresses of this process."""
    text = inspect.cleandoc(thing.__doc__) if isinstance(getattr(thing, "__doc__", None), str) else ""
    if len(text.split()) < FEWEST_WORDS or " at 0x" in text:
        return
    yield name, text


def _topics() -> Iterator[tuple[str, str]]:
    from pydoc_data.topics import topics

    for name, text in topics.items():
        if name not in _SKIPPED_TOPICS:
            yield f"topic:{name}", text.strip()


def _normal(text: str) -> str:
    return " ".join(text.split()).lower()


def _import(name: str) -> ModuleType | None:
    """Import quietly; a module that this system cannot import has no documentation here."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            return None
