# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Weak pairs: queries that documents bring along, each with the rest of its document as passage."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from unicodedata import category, normalize

import numpy as np

from retort.students.segmentation import UNSPACED, sentence_spans, token_spans, words_of
from retort.trainers.data.pseudo_queries import FirstSentences, Headings, Joined, Titles
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.roles import QuerySource

_BLANK_LINE = re.compile(r"\n\s*\n")
_OF_WORDS = "_\u200c\u200d"  # the last two are joiners
_QUESTION_MARKS = "?\uff1f\u061f"
FEWEST_WORDS = 2  # of a query
SHORTEST_PASSAGE = 5  # words


class Questions(QuerySource):
    """
    Questions that a document asks and then answers, as pages of frequent questions do.

    :param most:
        Questions a document, at most.

    ```yaml
    queries: {type: retort.trainers.data.weak_pairs.Questions, init_parameters: {most: 5}}
    ```
    """

    def __init__(self, *, most: int = 1) -> None:
        self.most = most

    def of(self, data: RetrievalData) -> list[list[str]]:
        """List the questions of each document that are not its end."""
        questions = []
        for text in data.corpus.texts:
            sentences = [text[start:end] for start, end in sentence_spans(text)]
            own = [s for s in sentences[:-1] if s.endswith(tuple(_QUESTION_MARKS))]
            questions.append(list(dict.fromkeys(own))[: self.most])
        return questions


class FirstParagraphs(QuerySource):
    """
    A document's first paragraph, its abstract, where others follow.

    :param words:
        Words that are kept, at most.

    ```yaml
    queries: {type: retort.trainers.data.weak_pairs.FirstParagraphs, init_parameters: {words: 32}}
    ```
    """

    def __init__(self, *, words: int = 48) -> None:
        self.words = words

    def of(self, data: RetrievalData) -> list[list[str]]:
        """List one paragraph a document; none where it has but one. Headings are no paragraphs."""
        firsts = []
        for text in data.corpus.texts:
            paragraphs = [p.strip() for p in _BLANK_LINE.split(text)]
            paragraphs = [p for p in paragraphs if len(sentence_spans(p)) > 1 or p.endswith((".", "\u3002"))]
            first = []
            if len(paragraphs) > 1 and (spans := token_spans(paragraphs[0])[: self.words]):
                first = [paragraphs[0][spans[0][0] : spans[-1][1]]]
            firsts.append(first)
        return firsts


KINDS: dict[str, type[QuerySource]] = {
    "title": Titles,
    "heading": Headings,
    "question": Questions,
    "abstract": FirstParagraphs,
    "sentence": FirstSentences,
}


class WeakPairs(QuerySource):
    """
    All that documents bring along as queries; with `batches: pairs` the rest of the document is the passage.

    :param kinds:
        Some of `title`, `heading`, `question`, `abstract` and `sentence` (the first one), best first; None: all.
    :param most_documents:
        Leave out what stands in more documents, such as the heading "Introduction".
    :raises ValueError:
        If there is no such kind, or none is named.

    ```yaml
    queries:
      type: retort.trainers.data.weak_pairs.WeakPairs
      init_parameters: {kinds: [title, heading]}
    ```
    """

    def __init__(self, *, kinds: list[str] | None = None, most_documents: int = 3) -> None:
        self.kinds = list(KINDS) if kinds is None else kinds
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            msg = f"kinds: there is no {unknown[0]!r}; there are: {', '.join(KINDS)}."
            raise ValueError(msg)
        if not self.kinds or most_documents < 1:
            msg = f"WeakPairs: kinds must name one at least, and most_documents be above 0; it is {most_documents}."
            raise ValueError(msg)
        self.most_documents = most_documents

    def of(self, data: RetrievalData) -> list[list[str]]:
        """List the queries of each document, in one line each."""
        contents = replace(data, corpus=data.corpus.without_titles())
        lists = Joined([KINDS[kind]() for kind in self.kinds]).of(contents)
        lists = [list(dict.fromkeys(" ".join(text.split()) for text in own)) for own in lists]
        distinct = [own for row, own in enumerate(lists) if data.corpus.first_rows[row] == row]
        owners = Counter(text for own in distinct for text in own)
        return [
            [text for text in own if len(words_of(text)) >= FEWEST_WORDS and owners[text] <= self.most_documents]
            for own in lists
        ]


@dataclass
class Pairs:
    """
    Queries with passages.

    :param queries:
        `[n]` rows of the data's queries.
    :param rows:
        `[n]` rows of the passages.
    :param passages:
        Documents without their query, each text once.
    :param own:
        Per query of the data the ascending rows of passages that are none of its negatives: those that come from its
        positives, and the query itself.
    """

    queries: np.ndarray
    rows: np.ndarray
    passages: TextStore
    own: list[np.ndarray]

    def never_negative(self, queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
        """
        Tell which passages are no negatives.

        :param queries:
            `[B]` rows of queries.
        :param passages:
            `[U]` ascending rows of passages, at least one.
        :returns:
            `[B, U]` bool.
        """
        never = np.zeros((len(queries), len(passages)), dtype=bool)
        for marks, query in zip(never, queries, strict=True):
            rows = self.own[query]
            places = np.searchsorted(passages, rows).clip(max=len(passages) - 1)
            marks[places[passages[places] == rows]] = True
        return never


def pairs_of(data: RetrievalData) -> Pairs:
    """
    Pair each query with each of its positives, from which its own text is removed: else copying would be learned.

    That is the title, if it is the same, and headings; or what `without` says. Passages of fewer than five words are
    left out.
    """
    pairs: list[tuple[int, int]] = []
    rows: dict[str, int] = {}
    of_document: dict[int, set[int]] = defaultdict(set)
    bodies = data.corpus.without_titles()
    for query, (text, documents) in enumerate(zip(data.queries.texts, data.positives(), strict=True)):
        for document in documents.tolist():
            if passage := _passage(text, document, data.corpus, bodies):
                pairs.append((query, rows.setdefault(passage, len(rows))))
                of_document[document].add(pairs[-1][1])
    own = []
    for text, documents in zip(data.queries.texts, data.never_negative, strict=True):
        same = {row} if (row := rows.get(normalize("NFC", text))) is not None else set()
        own.append(np.array(sorted(same.union(*(of_document.get(d, ()) for d in documents.tolist()))), dtype=np.int64))
    queries, chosen = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return Pairs(queries, chosen, TextStore(map(str, range(len(rows))), rows), own)


def brings_pairs(data: RetrievalData) -> bool:
    """Tell whether any document has a text that `pairs_of` would pair with its rest."""
    bodies = data.corpus.without_titles()
    own = enumerate(WeakPairs().of(data))
    return any(_passage(text, document, data.corpus, bodies) for document, texts in own for text in texts)


def _passage(query: str, document: int, corpus: TextStore, bodies: TextStore) -> str:
    """Take a query out of a document; '' if hardly anything is left."""
    entitled = query.casefold().split() == corpus.titles[document].casefold().split()
    passage = without(query, (bodies if entitled else corpus).texts[document], lines=entitled)
    return passage if len(words_of(passage)) >= SHORTEST_PASSAGE else ""


def without(query: str, text: str, *, lines: bool = False) -> str:
    """
    Remove a query from a text, whatever its case and white space.

    :param query:
        What is removed: all lines that hold nothing else, a heading's marks not counted; if there is none, the place
        where it first stands as whole words. Elsewhere a title's words belong to the text.
    :param text:
        The text.
    :param lines:
        Remove lines alone.
    """
    query, text = normalize("NFC", query), normalize("NFC", text)
    words = r"\s+".join(map(re.escape, query.split()))
    line = re.compile(rf"^[# \t]*{words}[# \t]*$", re.IGNORECASE | re.MULTILINE)
    rest, count = line.subn("", text)
    if words and not count and not lines:
        rest = _without_words(re.compile(words, re.IGNORECASE), text)
    return rest.strip()


def _without_words(query: re.Pattern[str], text: str) -> str:
    """Remove a query where it first stands as whole words; where words stand without spaces, where it first stands."""
    found = query.search(text)
    while found is not None:
        start, end = found.span()
        if UNSPACED.search(found.group()) or not (_within_word(text, start) or _within_word(text, end)):
            return text[:start] + text[end:]
        found = query.search(text, start + 1)
    return text


def _within_word(text: str, place: int) -> bool:
    """Tell whether a place lies within a word. Marks, such as vowel signs, and joiners belong to their words."""
    sides = text[max(0, place - 1) : place + 1]
    return len(sides) > 1 and all(c.isalnum() or c in _OF_WORDS or category(c).startswith("M") for c in sides)
