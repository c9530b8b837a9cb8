# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Training examples as FlagEmbedding and sentence-transformers write them: a query and its documents a record."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from retort.students.checks import HALF
from retort.trainers.data.beir import EmptyTexts
from retort.trainers.data.files import HEADED, LABEL_COLUMNS, read_records, suffix_of
from retort.trainers.data.texts import RetrievalData, TextStore, item_id
from retort.trainers.runtime.errors import DataError

logger = logging.getLogger(__name__)

NAN = math.nan  # one object for all missing scores
_QUERY_NAMES = {"query", "question", "anchor"}
_POSITIVE_NAME = re.compile(r"pos(itives?)?[ _-]?\d*", re.IGNORECASE)
_NEGATIVE_NAME = re.compile(r"(hard[ _-]?)?neg(atives?)?[ _-]?\d*", re.IGNORECASE)
_ID_NAME = re.compile(r"(.+_)?(id|ids|idx)", re.IGNORECASE)
# What columns of texts are called, so that a first line without any such name is taken for data.
_TEXT_NAME = re.compile(
    r"(query|question|anchor|document|doc|passage|text|sentence|answer|response|context|premise|hypothesis|title|body|"
    r"content|dataset)([ _-]?(text|name|[a-z]|\d+))?",
    re.IGNORECASE,
)
_NUMBERS_NAME = re.compile(r".*(label|score|similarity|relevance|margin).*", re.IGNORECASE)

# A text (yet to be checked), its grade or None if it is unknown, its score or NaN.
Candidate = tuple[Any, int | None, float]


def read_examples(path: str | Path, *, empty: EmptyTexts = "error") -> RetrievalData:
    """
    Read a file of examples: JSON lines, CSV or TSV with a header (each plain or gzipped), or parquet.

    Texts are known by their content: records with the same query are joined, and the corpus is every different
    document of the file. Two Unicode spellings of one text are one. A document's first score counts.

    **FlagEmbedding**: records with `query` and a list `pos`. `pos` and `neg` are lists of texts, `pos_scores` and
    `neg_scores` lists of a teacher's scores, as long as theirs. `neg` and the scores may be missing. `prompt` is not
    used; other keys are passed over.

    **sentence-transformers**: any other records. As there, the *order* of the columns counts (in JSON lines: the order
    of the first line's keys). The label column is the one named `label`, `labels`, `score` or `scores`, wherever it
    stands; `dataset_name` is passed over; the first other column is the query, the rest are its documents.

    | columns | label column | read as |
    |---|---|---|
    | query, positive | none | a positive |
    | query, positive, negative, ... | none | a positive, and negatives |
    | query, document | a number | a judgement or a score |
    | query, document, document, ... | as many numbers as documents | judgements or scores |
    | query, list of documents | as many numbers as documents | judgements or scores |

    Numbers are judgements if the whole file has no others than 0 and 1: positive and negative. Otherwise they are a
    teacher's scores, and nothing is known of relevance, unless all documents but the first are named `negative...`
    (`neg_2`, `negative`, ...): then the first is the positive. Refused, because it could mean two things:

    - a CSV or TSV file whose first line has no usual name of a column: it may be data;
    - several label columns, or one with almost such a name (`Label`, `similarity_score`); one named like an id;
    - `query`, `question` or `anchor` that is not first while the first column is none of these, `positive` that is not
      second, `negative` that is second;
    - with labels: `positive` or `negative` among names that do not say which is which;
    - whole numbers other than 0 and 1 under `label` or `labels`: classes, grades or scores? Under `score` or
      `scores` they are scores;
    - one number fewer than documents: margins (as `MarginMSELoss` also takes), from which no score follows.

    :param path:
        The file.
    :param empty:
        What to do with a query or document that is empty or missing: `error`, or `skip` it.
    :returns:
        The data set. Positives have grade 1 in `qrels` and negatives 0; `given` holds every document of a query, in
        the file's order, with its score or NaN. All ids are hashes of the texts.
    :raises DataError:
        If the file is malformed (named with its line or row), ambiguous as above, without any query, or calls one
        document of a query both positive and negative.
    """
    path = Path(path)
    merged = _Merged(empty)
    layout: _Layout | None = None
    for where, record in read_records(path):
        if layout is None:
            layout = _layout_of(path, record)
        try:
            merged.add(where, *layout.read(record))
        except DataError as error:
            msg = f"{path}, {where}: {error}"
            raise DataError(msg) from error
    if layout is None or not merged.given:
        msg = f"{path}: there is no {'record' if layout is None else 'query with a document'} in it."
        raise DataError(msg)
    layout.finish(path, merged)
    return merged.data(path)


class _Layout(Protocol):
    """How a file's records are laid out."""

    def read(self, record: dict[str, Any]) -> tuple[Any, list[Candidate]]:
        """Return a record's query and documents."""
        ...

    def finish(self, path: Path, merged: _Merged) -> None:
        """Decide what only the whole file tells."""
        ...


def _layout_of(path: Path, record: dict[str, Any]) -> _Layout:
    if {"query", "pos"} <= record.keys() and not isinstance(record["pos"], str):
        return _FlagEmbedding()
    try:
        if suffix_of(path) in HEADED and not any(_is_usual(name) for name in record):
            msg = (
                "the first line must name the columns, and none of these is a usual name. If it is data, put a line "
                "such as query,positive above it; if these are names, call the first one 'query'. (Columns of a CSV "
                "file are separated by commas, those of a TSV file by tabs.)"
            )
            raise DataError(msg)
        return _Columns(list(record))
    except DataError as error:
        msg = f"{path} has the columns {', '.join(map(repr, record))}: {error}"
        raise DataError(msg) from error


def _is_usual(name: str) -> bool:
    known = (_TEXT_NAME, _POSITIVE_NAME, _NEGATIVE_NAME)
    return name in LABEL_COLUMNS or any(pattern.fullmatch(name) for pattern in known)


class _FlagEmbedding:
    def __init__(self) -> None:
        self._prompts = 0

    def read(self, record: dict[str, Any]) -> tuple[Any, list[Candidate]]:
        self._prompts += bool(record.get("prompt"))
        return record.get("query"), [*self._list(record, "pos", 1), *self._list(record, "neg", 0)]

    def finish(self, path: Path, merged: _Merged) -> None:  # noqa: ARG002
        if self._prompts:
            logger.warning(
                "%s: the prompts of %d lines are not used; a student's prompts belong to the student.",
                path,
                self._prompts,
            )

    def _list(self, record: dict[str, Any], name: str, grade: int) -> list[Candidate]:
        texts = record.get(name)
        if texts is None and name == "neg":
            texts = []
        if not isinstance(texts, list):
            msg = f"{name} must be a list of texts, also if it is one text."
            raise DataError(msg)
        scores = record.get(f"{name}_scores")
        if scores is None:
            return [(text, grade, NAN) for text in texts]
        if not isinstance(scores, list) or len(scores) != len(texts):
            msg = f"{name}_scores must be a list of {len(texts)} numbers, one for each text of {name}."
            raise DataError(msg)
        return [(text, grade, _number(s, f"{name}_scores")) for text, s in zip(texts, scores, strict=True)]


class _Columns:
    def __init__(self, columns: list[str]) -> None:
        self._known = set(columns)
        labels = [c for c in columns if c in LABEL_COLUMNS]
        texts = [c for c in columns if c not in (*LABEL_COLUMNS, "dataset_name")]
        _check_names(texts, labels)
        self._label = labels[0] if labels else None
        self._query, *self._documents = texts
        count = len(self._documents)
        negatives = [_NEGATIVE_NAME.fullmatch(c) is not None for c in self._documents]
        named = count > 1 and all(negatives[1:])
        if labels and not named and (any(negatives) or (count > 1 and _POSITIVE_NAME.fullmatch(self._documents[0]))):
            msg = (
                f"beside a {self._label!r} column the names must say of all documents or of none which are negatives. "
                "Rename them: positive, negative_1, negative_2, ...; or document_1, document_2, ..."
            )
            raise DataError(msg)
        self._grades = [1] + [0] * (count - 1) if named or not labels else None
        # What the whole file's labels are.
        self._binary = self._whole = True

    def read(self, record: dict[str, Any]) -> tuple[Any, list[Candidate]]:
        if not self._known.issuperset(record):
            new = ", ".join(repr(key) for key in record if key not in self._known)
            msg = f"the first record has no {new}. All must have the same keys."
            raise DataError(msg)
        query = record.get(self._query)
        texts: list[Any] = [record.get(c) for c in self._documents]
        if len(texts) == 1 and isinstance(texts[0], list):
            texts = texts[0]
            if self._label is None:
                msg = (
                    f"{self._documents[0]!r} holds lists. Add a column 'labels' with a number for each document, or "
                    "name the columns 'query', 'pos' and 'neg' if they are lists of positives and negatives."
                )
                raise DataError(msg)
        grades: Sequence[int | None] = self._grades or [None] * len(texts)
        if self._label is None:
            return query, [(text, grade, NAN) for text, grade in zip(texts, grades, strict=True)]
        scores = self._scores(record.get(self._label), len(texts))
        return query, list(zip(texts, grades, scores, strict=True))

    def finish(self, path: Path, merged: _Merged) -> None:
        if self._label is None:
            return
        if self._binary:
            merged.turn_scores_into_grades()
        elif self._whole and self._label in {"label", "labels"}:
            msg = (
                f"{path}: {self._label!r} holds whole numbers, and others than 0 and 1. If they are a teacher's "
                "scores, rename the column to 'score'; if they are classes or grades, write 1 for positives and 0 for "
                "negatives."
            )
            raise DataError(msg)

    def _scores(self, labels: Any, count: int) -> list[float]:
        values = labels if isinstance(labels, list) else [labels]
        scores = [_number(value, str(self._label)) for value in values]
        if len(scores) != count:
            msg = (
                f"{self._label!r} holds {len(scores)} numbers for {count} documents; give each document its own score."
            )
            if len(scores) == count - 1:
                msg += " One fewer looks like margins, from which no score follows."
            raise DataError(msg)
        self._binary = self._binary and all(score in {0, 1} for score in scores)
        self._whole = self._whole and all(isinstance(value, int) for value in values)
        return scores


def _check_names(texts: list[str], labels: list[str]) -> None:
    """Refuse columns that do not say clearly what is what."""
    if len(labels) > 1:
        msg = f"{' and '.join(map(repr, labels))} are all names of labels. Keep one, and remove the others."
        raise DataError(msg)
    numbers = [c for c in texts if _NUMBERS_NAME.fullmatch(c)]
    if numbers:
        msg = (
            f"{numbers[0]!r} would be read as a text. Name it 'label' or 'score' if it holds the labels, and remove it "
            "or rename it otherwise."
        )
        raise DataError(msg)
    if any(not c.strip() or c.startswith("Unnamed:") for c in texts):
        msg = "one has no name, as the row numbers have that pandas writes. Write the file with index=False."
        raise DataError(msg)
    ids = [c for c in texts if _ID_NAME.fullmatch(c)]
    if ids:
        msg = (
            f"{' and '.join(map(repr, ids))} look like ids. Remove them, or put the texts that they stand for in them."
        )
        raise DataError(msg)
    if len(texts) < 2:  # noqa: PLR2004
        msg = (
            "an example needs a query and a document, in two columns of text or more (a CSV file's columns are "
            "separated by commas, a TSV file's by tabs)."
        )
        raise DataError(msg)
    for place, name in enumerate(texts):
        if place and name.lower() in _QUERY_NAMES and texts[0].lower() not in _QUERY_NAMES:
            msg = (
                f"the first is taken for the query, but {name!r} is number {place + 1}. Move it to the front, or "
                "rename it."
            )
            raise DataError(msg)
        if (place != 1 and _POSITIVE_NAME.fullmatch(name)) or (place <= 1 and _NEGATIVE_NAME.fullmatch(name)):
            msg = (
                f"the order must be query, positive, negatives, but {name!r} is number {place + 1}. Move it, or rename "
                "it. For several positives a query, write a record for each."
            )
            raise DataError(msg)


def _number(value: Any, name: str) -> float:
    try:
        number = float(value) if isinstance(value, (int, float)) else NAN
    except OverflowError:
        number = NAN
    if not math.isfinite(number):
        msg = f"{name} must hold finite numbers only; there is {str(value)[:40]!r}."
        raise DataError(msg)
    return number


class _Texts:
    """Different texts by the hash of their content."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._texts: dict[str, str] = {}

    def id_of(self, text: str) -> str:
        found = self._ids.get(text)
        if found is None:
            try:
                found = item_id(text).hex()
            except UnicodeEncodeError as error:
                msg = f"a text holds {HALF}. Mend the text."
                raise DataError(msg) from error
            self._ids[text] = found
            self._texts.setdefault(found, text)
        return found

    def store(self) -> TextStore:
        return TextStore(self._texts.keys(), self._texts.values())


class _Merged:
    """Records joined by their query."""

    def __init__(self, empty: EmptyTexts) -> None:
        self._skip = empty == "skip"
        self._queries, self._corpus = _Texts(), _Texts()
        self._qrels: dict[str, dict[str, int]] = {}
        self.given: dict[str, dict[str, float]] = {}
        # Where a document is positive and negative, or has two scores.
        self._contradictions: list[str] = []
        self._other_scores: list[str] = []

    def add(self, where: str, query: Any, candidates: list[Candidate]) -> None:
        """Add a record; `where` is its place in the file."""
        asked = self._text(query, 0)
        checked = [(self._text(raw, n), grade, score) for n, (raw, grade, score) in enumerate(candidates, 1)]
        kept = [candidate for candidate in checked if candidate[0]]
        if not candidates and not self._skip:
            msg = "the query has no document. Add one, or set data.empty=skip to leave the query out."
            raise DataError(msg)
        if not asked or not kept:
            return
        q = self._queries.id_of(asked)
        given = self.given.setdefault(q, {})
        for text, grade, score in kept:
            document = self._corpus.id_of(text)
            if grade is not None and self._qrels.setdefault(q, {}).setdefault(document, grade) != grade:
                self._contradictions.append(where)
            known = given.get(document, NAN)
            if math.isnan(known):
                given[document] = score
            elif not math.isnan(score) and score != known:
                self._other_scores.append(where)

    def turn_scores_into_grades(self) -> None:
        """Take all scores, which are 0 or 1, for judgements."""
        self._qrels = {q: {d: int(score) for d, score in scores.items()} for q, scores in self.given.items()}
        self.given = {q: dict.fromkeys(scores, NAN) for q, scores in self.given.items()}
        self._contradictions, self._other_scores = self._other_scores, []

    def data(self, path: Path) -> RetrievalData:
        """Return the data set."""
        if self._contradictions:
            msg = (
                f"{path}: {len(self._contradictions)} times a document is called both positive and negative for one "
                f"query; the first: {_first(self._contradictions)}. Remove it from one side."
            )
            raise DataError(msg)
        if self._other_scores:
            logger.warning(
                "%s: %d times a document that a query had before comes with another score; its first score is kept. "
                "The first of these: %s.",
                path,
                len(self._other_scores),
                _first(self._other_scores),
            )
        name = path.name.removesuffix(suffix_of(path) or "")
        return RetrievalData(name, self._corpus.store(), self._queries.store(), self._qrels, self.given)

    def _text(self, value: Any, number: int) -> str:
        """Return a text without outer blanks, of document `number` or the query (0); empty if it is to be skipped."""
        text = "" if value is None else value
        if isinstance(text, str) and (text.strip() or self._skip):
            return text.strip()
        what = f"document {number}" if number else "the query"
        if isinstance(text, str):
            msg = f"{what} is empty or missing. Fill it in, or set data.empty=skip to leave it out."
        else:
            msg = f"{what} must be a text; it is {str(value)[:40]!r}."
        raise DataError(msg)


def _first(places: list[str]) -> str:
    return ", ".join(list(dict.fromkeys(places))[:5])
