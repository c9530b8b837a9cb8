# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Where questions to a document come from, when nobody asks yet."""

from __future__ import annotations

import re
from collections import Counter
from math import log
from typing import Protocol

from retort.trainers.data.texts import RetrievalData

_WORD = re.compile(r"\w+")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
SHORTEST_SENTENCE = 4  # words


class PseudoQueries(Protocol):
    """Gives questions to documents."""

    def of(self, data: RetrievalData) -> list[list[str]]:
        """List the questions of each document of a corpus, `n` lists, best first; some may be empty."""
        ...


class TrainingQuestions:
    """
    The training questions that a document answers: what a good generator would ask.

    :param most:
        Questions a document, at most.
    """

    def __init__(self, *, most: int = 3) -> None:
        self.most = most

    def of(self, data: RetrievalData) -> list[list[str]]:
        """List the questions of each document; copies of a document share theirs."""
        found: list[list[str]] = [[] for _ in data.corpus.ids]
        for text, rows in zip(data.queries.texts, data.positives(), strict=True):
            for row in rows:
                if len(found[row]) < self.most:
                    found[row].append(text)
        return [found[first] for first in data.corpus.first_rows]


class KeySentences:
    """
    A document's most telling sentences, by the mean rarity of their words in the corpus; its heading is among them.

    :param most:
        Sentences a document, at most.
    """

    def __init__(self, *, most: int = 3) -> None:
        self.most = most

    def of(self, data: RetrievalData) -> list[list[str]]:
        """List the sentences of each document."""
        documents = [{w.lower() for w in _WORD.findall(text)} for text in data.corpus.texts]
        frequencies = Counter(word for words in documents for word in words)

        def weight(sentence: str) -> float:
            words = [w.lower() for w in _WORD.findall(sentence)]
            rarity = sum(log(1 + len(documents) / frequencies[w]) for w in set(words) if w in frequencies)
            return rarity / max(len(words), SHORTEST_SENTENCE)

        found = []
        for text in data.corpus.texts:
            sentences = [s for s in _SENTENCE.split(text) if len(_WORD.findall(s)) >= SHORTEST_SENTENCE]
            found.append(sorted(dict.fromkeys(sentences), key=weight, reverse=True)[: self.most])
        return found
