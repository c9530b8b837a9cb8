# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Training data out of documents alone: made-up queries, cleaned, checked and split, as a BEIR folder with a card."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import numpy as np

from retort.students.files import replace_folder
from retort.students.segmentation import words_of
from retort.trainers.data.beir import HELD_OUT
from retort.trainers.data.documents import documents_to_data
from retort.trainers.data.pseudo_queries import SHORTEST_SENTENCE, GeneratedQuestions
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.roles import QuerySource
from retort.trainers.runtime.errors import DataError
from retort.trainers.search import BM25

if TYPE_CHECKING:
    from haystack import Document

Search = Callable[[Sequence[str], int], np.ndarray]

FEWEST_WORDS, MOST_WORDS = 2, 40
MOST_OWNERS = 3  # a heading such as "Introduction" stands over too many documents to be a question
SAMPLES = 5
FEWEST_FILES = 20  # below, the split is by passage: one handbook has to do for both sides
FEWEST_TRAINED = 0.5  # share of the documents; whole files are not held out if they leave less
# What is compared: words, and from Thai on single characters, as a script without spaces has no sure borders.
_UNIT = re.compile(r"[^\W\u0e00-\U0003ffff]+|\w")


@dataclass
class Made:
    """
    What was made, and what became of it.

    :param made:
        Queries by source, as they came.
    :param dropped:
        How many were dropped, by source and reason.
    :param kept:
        Queries by source that stayed: text, and rows of the documents that they were made of or stand in.
    """

    made: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    kept: dict[str, list[tuple[str, list[int]]]] = field(default_factory=dict)


def make_queries(
    documents: list[Document],
    sources: Mapping[str, QuerySource],
    *,
    held: np.ndarray | None = None,
    searches: Sequence[Search] = (),
    depth: int = 20,
) -> Made:
    """
    Make queries, and keep those that are worth learning from.

    A query is dropped if it is too short or long, the same as another up to case, order and punctuation (those of
    several sources go to the first), of more than three documents, or not answered by its own document: that must be
    among the first of BM25 or of one of the other searches. Queries of documents that are held out for dev are not
    asked for the last: those who are compared there must not choose the questions.

    A query is of every document that it was made of, and of every other in which it stands word by word: passages of a
    file overlap. One of fewer than four words is a term that others mention: of them, only passages of its file count.

    :param documents:
        The documents.
    :param sources:
        Where queries come from, by name.
    :param held:
        `[n]` bool, the documents that are held out for dev (see `hold_out`); None: none is.
    :param searches:
        Besides BM25: each gives the rows `[q, depth]` that it finds for `q` texts.
    :param depth:
        How far down a query's own document may stand.
    """
    data = documents_to_data("documents", documents)
    # A title would run into the first sentence; an LLM wants to see it.
    alone = TextStore(data.corpus.ids, [d.content or "" for d in documents], data.corpus.titles)
    contents = RetrievalData(data.name, alone, data.queries)
    owners: dict[str, list[int]] = defaultdict(list)
    first: dict[str, tuple[str, str]] = {}  # the normal form of a query to its source and its text
    result = Made()
    for name, source in sources.items():
        result.dropped[name], result.kept[name] = Counter(), []
        given = source.of(data if isinstance(source, GeneratedQuestions) else contents)
        found = [(row, " ".join(text.split())) for row, texts in enumerate(given) for text in texts]
        result.made[name] = len(found)
        for row, text in found:
            words = [w.lower() for w in words_of(text)]
            form = " ".join(sorted(set(words)))
            if not FEWEST_WORDS <= len(words) <= MOST_WORDS:
                result.dropped[name]["too short or long"] += 1
            elif first.setdefault(form, (name, text))[0] != name or row in owners[form]:
                result.dropped[name]["there already"] += 1
            else:
                owners[form].append(row)
    unique = {form: query for form, query in first.items() if owners[form]}
    holders = _holders(data.corpus.texts, (text for _, text in unique.values()))
    files = [str(d.meta.get("file_path") or "") for d in documents]
    first_rows = data.corpus.first_rows  # copies of a document count once
    asked: list[tuple[str, str, list[int], int]] = []  # the last: how many documents it was made of
    for (form, (name, text)), holding in zip(unique.items(), holders, strict=True):
        is_term = len(words_of(text)) < SHORTEST_SENTENCE
        own_files = {files[row] for row in owners[form]} - {""}
        others = (row for row in holding if not is_term or files[row] in own_files)
        rows = sorted({*owners[form], *others})
        if len(set(first_rows[rows])) > MOST_OWNERS:
            result.dropped[name]["of too many documents"] += len(owners[form])
        else:
            asked.append((name, text, rows, len(owners[form])))
    index = BM25(data.corpus.texts)

    def lexical(texts: Sequence[str], depth: int) -> np.ndarray:
        return index.search(texts, depth)[0]

    kept_back = np.zeros(len(documents), dtype=bool) if held is None else held
    is_found = np.array([bool(kept_back[own].all()) for _, _, own, _ in asked], dtype=bool)
    for search in (lexical, *searches):
        lost = np.flatnonzero(~is_found)  # a further search is asked for what those before did not find
        if len(lost):
            for number, rows in zip(lost, search([asked[n][1] for n in lost], depth), strict=True):
                is_found[number] = bool(set(asked[number][2]) & set(rows.tolist()))
    for (name, text, own, count), kept in zip(asked, is_found, strict=True):
        if kept:
            result.kept[name].append((text, own))
        else:
            result.dropped[name]["does not find its own document"] += count
    return result


def _holders(texts: Sequence[str], queries: Iterable[str]) -> list[set[int]]:
    """List the rows of the texts in which each query stands word by word, up to case and punctuation."""
    forms = [_form(query) for query in queries]
    rows: dict[tuple[str, ...], set[int]] = {form: set() for form in forms}
    lengths: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for form in rows:
        lengths[form[:2]].add(len(form))
    for row, text in enumerate(texts):
        units = _form(text)
        for at, begin in enumerate(pairwise(units)):
            for length in lengths.get(begin, ()):
                if (holding := rows.get(units[at : at + length])) is not None:
                    holding.add(row)
    return [rows[form] for form in forms]


def _form(text: str) -> tuple[str, ...]:
    """Return the words of a text; case, punctuation and two spellings of a letter in Unicode do not count."""
    return tuple(_UNIT.findall(normalize("NFC", text).lower()))


def write_training_data(
    documents: list[Document],
    made: Made,
    out: Path,
    *,
    held: np.ndarray,
    asked: Sequence[tuple[str, Sequence[str]]] = (),
) -> dict[str, int]:
    """
    Write a BEIR folder: the documents, the queries, `train` and `dev`, and `card.md`, a page about it all.

    A query whose documents are held out is dev, another one train; those with documents of both kinds are left out, so
    no text that dev asks for is trained on with a label. Real queries, if there are any, are dev in place of made ones,
    and what is asked in their words is not trained on.

    :param documents:
        The documents.
    :param made:
        What `make_queries` gave.
    :param out:
        The folder; one that is there is replaced once the new one is complete.
    :param asked:
        Real queries with the ids of documents that answer them.
    :param held:
        `[n]` bool, the documents that are held out for dev (see `hold_out`).
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
    real = {_form(text) for text, _ in asked}
    for name, kept in made.kept.items():
        for number, (text, rows) in enumerate(kept):
            if (held[rows].any() and not held[rows].all()) or _form(text) in real:
                continue  # of documents on both sides, or what a real query asks
            if not held[rows[0]]:
                add("train", f"{name}-{number}", text, [ids[row] for row in rows])
            elif not asked:
                add("dev", f"{name}-{number}", text, [ids[row] for row in rows])
    counts = {split: len({line.split("\t")[0] for line in lines}) for split, lines in judged.items()}
    for split, count in counts.items():
        if not count:
            msg = (
                f"Of {len(documents)} documents, {sum(made.made.values())} queries were made and "
                f"{sum(map(len, made.kept.values()))} kept, none for {split}. {_mend(split, held, real=bool(asked))}"
            )
            raise DataError(msg)
    with replace_folder(out) as aside:
        (aside / "qrels").mkdir()
        write_documents(aside, documents)
        _write_lines(aside / "queries.jsonl", (json.dumps(q, ensure_ascii=False) for q in queries))
        for split, lines in judged.items():
            _write_lines(aside / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *lines])
        if held_out := [i for i, kept_back in zip(ids, held, strict=True) if kept_back]:
            _write_lines(aside / HELD_OUT, (json.dumps({"_id": i}, ensure_ascii=False) for i in held_out))
        (aside / "card.md").write_text(_card(documents, made, counts, len(asked), held), encoding="utf-8")
    return {"documents": len(documents), **counts}


def _mend(split: str, held: np.ndarray, *, real: bool) -> str:
    """Say what to change where a split has no query."""
    if real and split == "train":
        return (
            f"The real queries (--queries) hold out {held.sum()} of the documents: more documents are needed, or fewer "
            "real queries."
        )
    if real:
        return "No real query (--queries) names a document that answers it."
    share = "a smaller --dev-share" if split == "train" else "real ones (--queries), or a larger --dev-share"
    return f"More or longer documents are needed, other sources of queries, {share}."


def write_documents(folder: Path, documents: Sequence[Document]) -> None:
    """Write the corpus of a BEIR folder."""
    _write_lines(folder / "corpus.jsonl", (json.dumps(_record(d), ensure_ascii=False) for d in documents))


def hold_out(documents: list[Document], share: float, asked: Sequence[tuple[str, Sequence[str]]] = ()) -> np.ndarray:
    """
    Choose the documents that are held out for dev.

    All of a file are or none is; where there are fewer than twenty files, passages are chosen one by one. It is decided
    by names: the same in every run, whatever else is there. With real queries it is the documents that they ask for:
    their files, or these passages alone if less than half of all would be left.

    :param documents:
        The documents.
    :param share:
        How many, as a share; one at least.
    :param asked:
        Real queries with the ids of documents that answer them.
    :returns:
        `[n]` bool.
    :raises DataError:
        If the share is none.
    """
    if not asked and not 0 <= share < 1:
        msg = f"dev share: {share:g}; it must lie from 0 to below 1."
        raise DataError(msg)
    by_file = _unit(documents) == "file"
    names = [str(d.meta["file_path"]) if by_file and d.meta.get("file_path") else d.id for d in documents]
    if asked:
        wanted = {i for _, ids in asked for i in ids}
        chosen = {name for name, d in zip(names, documents, strict=True) if d.id in wanted}
        if sum(name not in chosen for name in names) < FEWEST_TRAINED * len(names):
            return np.array([d.id in wanted for d in documents], dtype=bool)
    else:
        places = {name: _place(name) for name in names}
        chosen = {name for name, place in places.items() if place < share} or {min(places, key=lambda n: places[n])}
    return np.array([name in chosen for name in names], dtype=bool)


def _unit(documents: list[Document]) -> str:
    files = {str(d.meta["file_path"]) for d in documents if d.meta.get("file_path")}
    return "file" if len(files) >= FEWEST_FILES else "passage"


def _place(name: str) -> float:
    """Give a name a fixed place between 0 and 1."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64


def _record(document: Document) -> dict[str, Any]:
    meta = {name: value for name, value in document.meta.items() if name != "title" and _is_plain(value)}
    title = str(document.meta.get("title") or "").strip()  # as `documents_to_data`: a text's vector is paid for once
    return {"_id": document.id, "title": title, "text": document.content or "", "metadata": meta}


def _is_plain(value: Any) -> bool:
    """Tell what JSON gives back as it was."""
    return value is None or isinstance(value, str | int | float | bool)


def _write_lines(path: Path, lines: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def _card(documents: list[Document], made: Made, counts: dict[str, int], asked: int, held: np.ndarray) -> str:
    unit, why = _unit(documents), ""
    if unit == "passage" and "file_path" in documents[0].meta:
        why = " There are too few files to split by file."
    files = [str(document.meta.get("file_path", "")) for document in documents]
    dev, train = ({files[row] for row in np.flatnonzero(side)} for side in (held, ~held))
    if unit == "file" and (dev & train) - {""}:
        unit, why = "passage", " The real queries ask for too many files to hold out whole ones."
    sides = [held[rows] for kept in made.kept.values() for _, rows in kept]
    if mixed := sum(bool(side.any() and not side.all()) for side in sides):
        why += f" {mixed} of the queries kept are of both sides, and left out."
    lines = [
        "# Training data made of documents",
        "",
        f"{len(documents)} documents, {counts['train']} queries to train on, {counts['dev']} for dev"
        + (f", of which {asked} are real." if asked else ", all of them made up: judge figures on them as such."),
        f"Queries of one {unit} are either all for training or all for dev.{why}",
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
