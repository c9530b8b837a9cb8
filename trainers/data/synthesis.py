# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Training data out of documents alone: made-up queries, cleaned, checked and split, as a BEIR folder with a card."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retort.students.files import replace_folder
from retort.trainers.candidates.bm25 import BM25
from retort.trainers.data.documents import documents_to_data
from retort.trainers.data.pseudo_queries import PseudoQueries
from retort.trainers.errors import DataError

if TYPE_CHECKING:
    from haystack import Document

Search = Callable[[Sequence[str], int], np.ndarray]

_WORD = re.compile(r"\w+")
FEWEST_WORDS, MOST_WORDS = 2, 40
MOST_OWNERS = 3  # a heading such as "Introduction" stands over too many documents to be a question
SAMPLES = 5


@dataclass
class Made:
    """
    What was made, and what became of it.

    :param made:
        Queries by source, as they came.
    :param dropped:
        How many were dropped, by source and reason.
    :param kept:
        Queries by source that stayed: text, and rows of the documents that they were made of.
    """

    made: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    kept: dict[str, list[tuple[str, list[int]]]] = field(default_factory=dict)


def make_queries(
    documents: list[Document], sources: Mapping[str, PseudoQueries], *, searches: Sequence[Search] = (), depth: int = 20
) -> Made:
    """
    Make queries, and keep those that are worth learning from.

    A query is dropped if it is too short or long, the same as another up to case, order and punctuation (those of
    several sources go to the first), made of more than three documents, or not answered by its own document: that must
    be among the first of BM25 or of one of the other searches.

    :param documents:
        The documents.
    :param sources:
        Where queries come from, by name.
    :param searches:
        Besides BM25: each gives the rows `[q, depth]` that it finds for `q` texts.
    :param depth:
        How far down a query's own document may stand.
    """
    data = documents_to_data("documents", documents)
    owners: dict[str, list[int]] = defaultdict(list)
    first: dict[str, tuple[str, str]] = {}  # the normal form of a query to its source and its text
    result = Made()
    for name, source in sources.items():
        result.dropped[name], result.kept[name] = Counter(), []
        found = [(row, " ".join(text.split())) for row, texts in enumerate(source.of(data)) for text in texts]
        result.made[name] = len(found)
        for row, text in found:
            words = [w.lower() for w in _WORD.findall(text)]
            form = " ".join(sorted(set(words)))
            if not FEWEST_WORDS <= len(words) <= MOST_WORDS:
                result.dropped[name]["too short or long"] += 1
            elif first.setdefault(form, (name, text))[0] != name or row in owners[form]:
                result.dropped[name]["there already"] += 1
            else:
                owners[form].append(row)
    asked = [(name, text, owners[form]) for form, (name, text) in first.items() if owners[form]]
    common = [item for item in asked if len(item[2]) > MOST_OWNERS]
    asked = [item for item in asked if len(item[2]) <= MOST_OWNERS]
    for name, _, rows in common:
        result.dropped[name]["of too many documents"] += len(rows)
    index = BM25(data.corpus.texts)
    texts = [text for _, text, _ in asked]
    best, scores = index.search(texts, depth)
    ranked = [np.where(scores > 0, best, -1), *(search(texts, depth) for search in searches)]
    for number, (name, text, own) in enumerate(asked):
        if any(set(own) & set(found[number].tolist()) for found in ranked):
            result.kept[name].append((text, own))
        else:
            result.dropped[name]["does not find its own document"] += len(own)
    return result


def write_training_data(
    documents: list[Document],
    made: Made,
    out: Path,
    *,
    asked: Sequence[tuple[str, Sequence[str]]] = (),
    dev_share: float = 0.1,
) -> dict[str, int]:
    """
    Write a BEIR folder: the documents, the queries, `train` and `dev`, and `card.md`, a page about it all.

    The split is by document (by file, where documents are parts of files): no text that dev asks for is trained on
    with a label. Real queries, if there are any, are dev; else a share of the made ones.

    :param documents:
        The documents.
    :param made:
        What `make_queries` gave.
    :param out:
        The folder; one that is there is replaced once the new one is complete.
    :param asked:
        Real queries with the ids of documents that answer them.
    :param dev_share:
        Share of the documents whose queries are kept for dev.
    :returns:
        How many `documents`, `train` and `dev` queries there are.
    :raises DataError:
        If a real query names a document that is not there, or a split has no query.
    """
    ids = [d.id for d in documents]
    known = set(ids)
    for text, positives in asked:
        if unknown := [i for i in positives if i not in known]:
            msg = f"The query {text!r} names the document {unknown[0]!r}, which is not there."
            raise DataError(msg)
    queries: list[dict[str, str]] = []
    judged: dict[str, list[str]] = {"train": [], "dev": []}

    def add(split: str, name: str, text: str, positives: Sequence[str]) -> None:
        queries.append({"_id": name, "text": text})
        judged[split] += [f"{name}\t{i}\t1" for i in positives]

    for number, (text, positives) in enumerate(asked):
        add("dev", f"asked-{number}", text, positives)
    for name, kept in made.kept.items():
        for number, (text, rows) in enumerate(kept):
            held = [_held_out(documents[row], dev_share) for row in rows]
            if any(held) and not all(held):
                continue  # of documents on both sides
            if not held[0]:
                add("train", f"{name}-{number}", text, [ids[row] for row in rows])
            elif not asked:
                add("dev", f"{name}-{number}", text, [ids[row] for row in rows])
    counts = {split: len({line.split("\t")[0] for line in lines}) for split, lines in judged.items()}
    for split, count in counts.items():
        if not count:
            msg = (
                f"Of {len(documents)} documents, {sum(made.made.values())} queries were made and "
                f"{sum(map(len, made.kept.values()))} kept, none for {split}. "
                "More or longer documents are needed, other sources of queries, or real ones."
            )
            raise DataError(msg)
    with replace_folder(out) as aside:
        (aside / "qrels").mkdir()
        _write_lines(aside / "corpus.jsonl", (json.dumps(_record(d), ensure_ascii=False) for d in documents))
        _write_lines(aside / "queries.jsonl", (json.dumps(q, ensure_ascii=False) for q in queries))
        for split, lines in judged.items():
            _write_lines(aside / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *lines])
        (aside / "card.md").write_text(_card(documents, made, counts, len(asked)), encoding="utf-8")
    return {"documents": len(documents), **counts}


def _held_out(document: Document, share: float) -> bool:
    """Decide by the name of the file that a document is of: the same in every run, whatever else is there."""
    name = str(document.meta.get("file_path") or document.id)
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") < share * 2**64


def _record(document: Document) -> dict[str, Any]:
    title = str(document.meta.get("title") or "")
    return {"_id": document.id, "title": title, "text": document.content or ""}


def _write_lines(path: Path, lines: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def _card(documents: list[Document], made: Made, counts: dict[str, int], asked: int) -> str:
    lines = [
        "# Training data made of documents",
        "",
        f"{len(documents)} documents, {counts['train']} queries to train on, {counts['dev']} for dev"
        + (f", of which {asked} are real." if asked else ", all of them made up: judge figures on them as such."),
        "Queries of one document, or of one file, are either all for training or all for dev.",
        "",
        "| source | made | kept | dropped |",
        "|---|---|---|---|",
    ]
    for name, count in made.made.items():
        dropped = ", ".join(f"{n} {reason}" for reason, n in sorted(made.dropped[name].items())) or "none"
        lines.append(f"| {name} | {count} | {len(made.kept[name])} | {dropped} |")
    for name, kept in made.kept.items():
        if kept:
            step = max(1, len(kept) // SAMPLES)
            lines += ["", f"## {name}", "", *(f"- {text}" for text, _ in kept[::step][:SAMPLES])]
    return "\n".join([*lines, ""])
