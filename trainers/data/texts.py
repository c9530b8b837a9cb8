# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Texts and images by id, and the data set that a run trains or evaluates on."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from retort.students.images import ImageFile
from retort.trainers.runtime.errors import DataError

Item = str | ImageFile  # a text, or an image


def item_id(text: str) -> bytes:
    """Key of an item in caches: blake2b-128 of a text's NFC UTF-8 form, or of an image's bytes."""
    if isinstance(text, ImageFile):
        return text.item
    return hashlib.blake2b(unicodedata.normalize("NFC", text).encode(), digest_size=16).digest()


def shown_item(item: Item) -> str:
    """Give an item as people see it: a text, or the name of an image's file."""
    return Path(item).name if isinstance(item, ImageFile) else item


def document_text(title: str, text: str) -> str:
    """Return the string of a document that models see."""
    return f"{title} {text}".strip()


def whole_characters(text: str) -> str:
    """Join halves of surrogate pairs, and replace those without the other: a half is no character, and no file's."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class TextStore:
    """
    Texts or images by id, in a fixed order; everything else refers to them by row.

    What takes either reads `items`; what takes text alone reads `texts`, which refuses a store with images.

    :param ids:
        `n` unique ids.
    :param items:
        Their texts, or images as `ImageFile`.
    :param titles:
        The title that each text begins with, '' where it has none; None: no text has one.
    """

    def __init__(self, ids: Iterable[str], items: Iterable[Item], titles: Iterable[str] | None = None) -> None:
        self.ids = list(ids)
        self.items: list[Any] = list(items)
        self.titles = [""] * len(self.ids) if titles is None else list(titles)
        self.rows = {i: row for row, i in enumerate(self.ids)}
        if len(self.rows) != len(self.ids):
            twice = Counter(self.ids).most_common(1)[0][0]
            msg = f"The id {twice!r} occurs twice; ids must be unique."
            raise DataError(msg)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def first_image(self) -> ImageFile | None:
        """The first item that is an image, if one is."""
        return next((item for item in self.items if isinstance(item, ImageFile)), None)

    @property
    def texts(self) -> list[str]:
        """
        The items, all of which must be texts.

        :raises DataError:
            If one is an image.
        """
        if self.first_image is not None:
            msg = (
                f"{self.first_image} is an image, and something of this run reads text alone, such as BM25, a text "
                "transform, pseudo-queries or the encoder of a text student. Take it out of the recipe, or use a "
                "student and teachers that read images."
            )
            raise DataError(msg)
        return self.items

    @cached_property
    def item_ids(self) -> np.ndarray:
        """`[n]` cache keys, dtype V16."""
        return np.array([item_id(item) for item in self.items], dtype="V16")

    @cached_property
    def first_rows(self) -> np.ndarray:
        """`[n]`: for each row the first row with the same text, itself if there is none before."""
        seen: dict[bytes, int] = {}
        rows = (seen.setdefault(item.tobytes(), row) for row, item in enumerate(self.item_ids))
        return np.fromiter(rows, dtype=np.int64, count=len(self))

    @cached_property
    def hash(self) -> str:
        """Hash of all ids and items in their order."""
        digest = hashlib.sha256()
        for i, item in zip(self.ids, self.items, strict=True):
            text = f"image {item.item.hex()}" if isinstance(item, ImageFile) else item
            digest.update(f"{len(i)}:{i}{len(text)}:{text}".encode())
        return digest.hexdigest()

    def select(self, rows: Iterable[int]) -> "TextStore":
        """Return a store of these rows only."""
        rows = list(rows)
        return TextStore(*([values[r] for r in rows] for values in (self.ids, self.items, self.titles)))

    def without_titles(self) -> "TextStore":
        """Return the texts without their titles, which `titles` still holds."""
        texts = [text.removeprefix(title).lstrip() for text, title in zip(self.texts, self.titles, strict=True)]
        return TextStore(self.ids, texts, self.titles)


@dataclass
class RetrievalData:
    """
    A corpus with queries and judgements.

    `qrels` maps a query id to its judged document ids and grades; a grade above 0 is a positive. `given` maps a query
    id to the documents that came with it and the scores that a teacher gave them elsewhere, NaN where it gave none.
    `held_out` holds the ids of documents of which no stage may make queries: dev's own were made of them.
    """

    name: str
    corpus: TextStore
    queries: TextStore
    qrels: dict[str, dict[str, int]] = field(default_factory=dict)
    given: dict[str, dict[str, float]] = field(default_factory=dict)
    held_out: frozenset[str] = frozenset()

    @property
    def of_texts(self) -> bool:
        """Whether no document and no query is an image."""
        return self.corpus.first_image is None and self.queries.first_image is None

    @cached_property
    def hash(self) -> str:
        """Hash of everything in the set."""
        digest = hashlib.sha256(f"{self.corpus.hash}{self.queries.hash}".encode())
        for query, judged in sorted(self.qrels.items()):
            digest.update(f"{query}{sorted(judged.items())}".encode())
        for query, scores in sorted(self.given.items()):
            digest.update(f"given {query}{list(scores.items())}".encode())
        return digest.hexdigest()

    def held_out_rows(self) -> set[int]:
        """Return the first rows of the texts that are held out, copies counted."""
        corpus = self.corpus
        return {int(corpus.first_rows[corpus.rows[i]]) for i in self.held_out if i in corpus.rows}

    def without_held_out(self) -> "RetrievalData":
        """Return the data without the documents that are held out, and their copies."""
        held_out = self.held_out_rows()
        if not held_out:
            return self
        corpus = self.corpus.select(row for row, first in enumerate(self.corpus.first_rows) if first not in held_out)
        qrels = {q: {d: grade for d, grade in own.items() if d in corpus.rows} for q, own in self.qrels.items()}
        return RetrievalData(self.name, corpus, self.queries, qrels)

    def subset(self, rows: Iterable[int]) -> "RetrievalData":
        """Return the data of these rows of `queries` only, with the whole corpus."""
        queries = self.queries.select(rows)
        qrels = {q: self.qrels[q] for q in queries.ids if q in self.qrels}
        given = {q: self.given[q] for q in queries.ids if q in self.given}
        return RetrievalData(self.name, self.corpus, queries, qrels, given, self.held_out)

    @cached_property
    def shared_qrels(self) -> dict[str, dict[str, int]]:
        """The judgements, where queries of the same text have each other's; of two grades the higher counts."""
        joined: dict[int, dict[str, int]] = {}
        first = self.queries.first_rows.tolist()
        for row, query in zip(first, self.queries.ids, strict=True):
            own = joined.setdefault(row, {})
            for document, grade in self.qrels.get(query, {}).items():
                own[document] = max(grade, own.get(document, grade))
        return {query: joined[row] for row, query in zip(first, self.queries.ids, strict=True) if joined[row]}

    def positives(self) -> list[np.ndarray]:
        """
        For each query, the sorted corpus rows of its positives.

        Identity is by text: queries of the same text share their positives, and the first of a document's copies stands
        for all of them.
        """
        return self.judged(lambda grade: grade > 0)

    def judged(self, wanted: Callable[[int], bool]) -> list[np.ndarray]:
        """For each query, the sorted corpus rows of what was judged with such grades; identity as in `positives`."""
        rows, first, qrels = self.corpus.rows, self.corpus.first_rows, self.shared_qrels
        return [
            np.array(sorted({first[rows[d]] for d, g in qrels.get(q, {}).items() if wanted(g)}), dtype=np.int64)
            for q in self.queries.ids
        ]

    @cached_property
    def never_negative(self) -> list[np.ndarray]:
        """
        For each query, the sorted corpus rows of its positives and of documents that are the query itself.

        Those have its text, or its id, as where the queries are documents of the corpus; of copies the first.
        """
        rows, first = self.corpus.rows, self.corpus.first_rows
        asked = {item.tobytes() for item in self.queries.item_ids}
        same = {t: row for row, item in enumerate(self.corpus.item_ids) if (t := item.tobytes()) in asked}
        found = []
        for query, item, positives in zip(self.queries.ids, self.queries.item_ids, self.positives(), strict=True):
            own = [row for row in (same.get(item.tobytes()), rows.get(query)) if row is not None]
            found.append(np.union1d(positives, first[own]) if own else positives)
        return found


def share_corpus(first: RetrievalData, second: RetrievalData) -> tuple[RetrievalData, RetrievalData]:
    """
    Give two splits of a data set one corpus object, so that its cache keys are computed once.

    :param first:
        The split whose documents come first.
    :param second:
        The other; ids that both know must mean the same texts.
    :returns:
        Both, over the documents of either.
    """
    corpus = first.corpus
    new = [row for row, i in enumerate(second.corpus.ids) if i not in corpus.rows]
    if new:
        more = second.corpus.select(new)
        corpus = TextStore([*corpus.ids, *more.ids], [*corpus.items, *more.items], [*corpus.titles, *more.titles])
    return replace(first, corpus=corpus), replace(second, corpus=corpus)
