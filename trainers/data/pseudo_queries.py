# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Where questions to a document come from, when nobody asks yet."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

from retort.students.segmentation import needs_dictionary, sentence_spans, token_spans, words_of
from retort.trainers.data.texts import RetrievalData, whole_characters
from retort.trainers.roles import Context, QuerySource
from retort.trainers.runtime.rng import rng_for

_WORD = re.compile(r"\w+")
# What ends a sentence or a part of it: ASCII, Chinese and Japanese, Arabic, Devanagari.
_MARKS = ".,;:!?\u3002\uff0c\uff1b\uff1a\uff01\uff1f\u3001\u2026\u061f\u061b\u060c\u0964"
_HEADING = re.compile(
    rf"^(?:#{{1,6}}\s+(?P<marked>.+?)\s*#*|(?P<plain>[^\s#>|*-].{{2,80}}[^\s{_MARKS}]))$", re.MULTILINE
)
SHORTEST_SENTENCE = 4  # words
LONGEST_HEADING = 12  # words


class TrainingQuestions(QuerySource):
    """
    The training questions that a document answers: what a good generator would ask.

    :param most:
        Questions a document, at most.

    ```yaml
    queries: {type: retort.trainers.data.pseudo_queries.TrainingQuestions, init_parameters: {most: 10}}
    ```
    """

    def __init__(self, *, most: int = 3) -> None:
        self.most = most

    def of(self, data: RetrievalData) -> list[list[str]]:
        """List the questions of each document; copies of a document share theirs."""
        found: list[list[str]] = [[] for _ in data.corpus.ids]
        for text, rows in zip(data.queries.texts, data.positives(), strict=True):
            for row in rows:
                if len(found[row]) < self.most and text not in found[row]:
                    found[row].append(text)
        return [found[first] for first in data.corpus.first_rows]


class Titles(QuerySource):
    """
    Documents' titles, which texts have at their beginning and do not mark.

    ```yaml
    queries: {type: retort.trainers.data.pseudo_queries.Titles}
    ```
    """

    def of(self, data: RetrievalData) -> list[list[str]]:
        """List the title of each document."""
        return [[title] if title else [] for title in data.corpus.titles]


class Joined(QuerySource):
    """
    What several sources give of a document, one after the other, each query once.

    :param sources:
        The sources, best first.
    """

    def __init__(self, sources: Sequence[QuerySource]) -> None:
        self.sources = sources

    def open(self, context: Context, number: int) -> None:
        """Get all of them ready."""
        for source in self.sources:
            source.open(context, number)

    def parts(self) -> list[QuerySource]:
        """List the sources, those of sources among them."""
        return [part for source in self.sources for part in source.parts()]

    def count(self, data: RetrievalData, openings: int = 1) -> int:
        """Add up what all of them make."""
        return sum(source.count(data, openings) for source in self.sources)

    def of(self, data: RetrievalData) -> list[list[str]]:
        """List the queries of each document."""
        return [
            list(dict.fromkeys(query for own in lists for query in own))
            for lists in zip(*(source.of(data) for source in self.sources), strict=True)
        ]


class KeySentences(QuerySource):
    """
    A document's most telling sentences, by the mean rarity of their words in the corpus; its heading is among them.

    :param most:
        Sentences a document, at most.

    ```yaml
    queries: {type: retort.trainers.data.pseudo_queries.KeySentences, init_parameters: {most: 10}}
    ```
    """

    def __init__(self, *, most: int = 3) -> None:
        self.most = most

    def of(self, data: RetrievalData) -> list[list[str]]:
        """List the sentences of each document."""
        frequencies = _document_frequencies(data)

        def weight(sentence: str) -> float:
            words = _words(sentence)
            rarity = sum(log(1 + len(data.corpus) / frequencies[w]) for w in set(words) if w in frequencies)
            return rarity / max(len(words), SHORTEST_SENTENCE)

        found = []
        for text in data.corpus.texts:
            found.append(sorted(dict.fromkeys(sentences_of(text)), key=weight, reverse=True)[: self.most])
        return found


def _words(text: str) -> list[str]:
    return [word.lower() for word in words_of(text)]


def _document_frequencies(data: RetrievalData) -> Counter[str]:
    """Count in how many documents a word is; one at a time, as the words of a large corpus fill the memory."""
    return Counter(word for text in data.corpus.texts for word in set(_words(text)))


def _stretch(text: str, spans: list[tuple[int, int]]) -> str:
    """Return what neighbouring spans of a text cover, in one line."""
    return " ".join(text[spans[0][0] : spans[-1][1]].split())


def sentences_of(text: str) -> list[str]:
    """List a text's sentences of at least four words, in their order."""
    spans = sentence_spans(text)
    return [s for s in (text[start:end] for start, end in spans) if len(words_of(s)) >= SHORTEST_SENTENCE]


class Headings(QuerySource):
    """
    A document's headings: lines marked as such (`# ...`), and short lines alone between empty ones.

    :param most:
        Headings a document, at most.

    ```yaml
    queries: {type: retort.trainers.data.pseudo_queries.Headings, init_parameters: {most: 3}}
    ```
    """

    def __init__(self, *, most: int = 2) -> None:
        self.most = most

    def of(self, data: RetrievalData) -> list[list[str]]:
        """List the headings of each document, in their order."""
        found = []
        for text in data.corpus.texts:
            lines = ["", *text.splitlines(), ""]
            own = []
            for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
                heading = _HEADING.match(line.strip())
                if heading is None or len(words_of(line)) > LONGEST_HEADING or line.strip() == text.strip():
                    continue
                if heading["marked"] or not (before.strip() or after.strip()):
                    own.append(heading["marked"] or heading["plain"])
            found.append(list(dict.fromkeys(own))[: self.most])
        return found


class FirstSentences(QuerySource):
    """
    A document's first sentence, which often says what it is about.

    :param words:
        Words that are kept, at most.

    ```yaml
    queries: {type: retort.trainers.data.pseudo_queries.FirstSentences, init_parameters: {words: 12}}
    ```
    """

    def __init__(self, *, words: int = 16) -> None:
        self.words = words

    def of(self, data: RetrievalData) -> list[list[str]]:
        """List one sentence a document; none where it has but one."""
        found = []
        for text in data.corpus.texts:
            sentences = sentences_of(text)
            first = [_stretch(sentences[0], token_spans(sentences[0])[: self.words])] if len(sentences) > 1 else []
            found.append(first)
        return found


class Spans(QuerySource):
    """
    Stretches of a document, as the inverse cloze task has them (Lee et al. 2019): a query that the rest answers.

    :param words:
        Least and greatest length.
    :param most:
        Spans a document.
    :param seed:
        Seed of their places.

    ```yaml
    queries: {type: retort.trainers.data.pseudo_queries.Spans, init_parameters: {words: [6, 12], most: 2}}
    ```
    """

    def __init__(self, *, words: tuple[int, int] = (4, 10), most: int = 1, seed: int = 0) -> None:
        self.least, self.longest = words
        self.most = most
        self.seed = seed

    def of(self, data: RetrievalData) -> list[list[str]]:
        """List spans of each document; one shorter than two spans has none."""
        found = []
        for i, text in zip(data.corpus.ids, data.corpus.texts, strict=True):
            words, rng = token_spans(text), rng_for(self.seed, "span", i)
            own = []
            for _ in range(self.most if len(words) >= 2 * self.longest else 0):
                length = int(rng.integers(self.least, self.longest + 1))
                start = int(rng.integers(0, len(words) - length + 1))
                own.append(_stretch(text, words[start : start + length]).strip(_MARKS + "()[]\"'"))
            found.append(own)
        return found


class KeyPhrases(QuerySource):
    """
    What a searcher might type: a document's rarest words that occur in it more than once, in their order.

    :param words:
        Words a phrase.

    ```yaml
    queries: {type: retort.trainers.data.pseudo_queries.KeyPhrases, init_parameters: {words: 3}}
    ```
    """

    def __init__(self, *, words: int = 4) -> None:
        self.words = words

    def of(self, data: RetrievalData) -> list[list[str]]:
        """List one phrase a document; none where fewer than two words stand out."""
        frequencies = _document_frequencies(data)
        found = []
        for text in data.corpus.texts:
            words = _words(text)
            counts = Counter(w for w in words if not w.isdigit() and len(w) > (1 if needs_dictionary(w) else 2))
            weights = {w: n * log(len(data.corpus) / frequencies[w]) for w, n in counts.items()}
            best = set(sorted(weights, key=lambda w: (-weights[w], w))[: self.words])
            phrase = [w for w in dict.fromkeys(words) if w in best and weights[w] > 0]
            found.append([" ".join(phrase)] if len(phrase) > 1 else [])
        return found


QUESTION_PROMPT = """\
Write {most} short questions that somebody who searches for this passage might type, one a line, without numbers or \
quotes. They are to be answered by it, and not to copy its words.

{document}"""


class GeneratedQuestions(QuerySource):
    """
    Questions that an LLM makes up: any chat generator of Haystack.

    :param generator:
        `{type, init_parameters}`: a component whose `run(messages)` gives `replies`.
    :param prompt:
        What it is asked, with `{document}` and, if it likes, `{most}`.
    :param most:
        Questions a document, at most.
    :param cache:
        A file that answers are kept in, one a line: a run that was interrupted goes on. None: in a recipe one in the
        cache folder; else none is kept.
    :param options:
        As of `ChatGeneratorTeacher`: `revision`, `retries`, `concurrency`, `max_calls`.
    :param allowed_modules:
        Further modules that components may come from, such as `my_package`.
    :raises RecipeError:
        If the component is no chat generator, or the prompt has no place for the document.

    ```yaml
    queries:
      type: retort.trainers.data.pseudo_queries.GeneratedQuestions
      init_parameters:
        generator:
          type: haystack.components.generators.chat.openai.OpenAIChatGenerator
          init_parameters: {model: gpt-4o-mini}
        revision: "2024-07-18"
    ```
    """

    def __init__(
        self,
        *,
        generator: dict[str, Any],
        prompt: str = QUESTION_PROMPT,
        most: int = 3,
        cache: str | None = None,
        allowed_modules: list[str] | None = None,
        **options: Any,
    ) -> None:
        from retort.trainers.teachers.chat_generator import ChatModel

        options["allowed_modules"] = allowed_modules
        self._model = ChatModel(generator, prompt, ("document",), cache=cache, **options)
        self.most = most

    @property
    def key(self) -> str:
        """Identify everything that decides the questions."""
        return f"{self._model.key} {self.most}"

    @property
    def former_key(self) -> str:
        """The key as it was when every parameter counted."""
        return f"{self._model.former_key} {self.most}"

    def open(self, context: Context, number: int) -> None:  # noqa: ARG002
        """Keep answers in the cache folder, where no other place is named."""
        self._model.keep_in(context.cache)

    @property
    def answers_key(self) -> str:  # type: ignore[override]
        """Identify the generator with its prompt and how many questions it is to give."""
        return self.key

    def count(self, data: RetrievalData, openings: int = 1) -> int:  # noqa: ARG002
        """Count `most` questions a document."""
        return self.most * len(data.corpus)

    def estimate(self, data: RetrievalData, cache: Path | None = None, openings: int = 1) -> dict[str, float]:  # noqa: ARG002
        """Estimate `calls`, `tokens` and, with a price, `cost` of what is not kept yet."""
        if cache is not None:
            self._model.keep_in(cache)
        return self._model.estimate([{"document": text, "most": str(self.most)} for text in data.corpus.texts])

    def assumed_seconds(self, calls: float) -> float | None:
        """Assume a second a call of a remote model."""
        return self._model.assumed_seconds(round(calls))

    def of(self, data: RetrievalData) -> list[list[str]]:
        """List the questions of each document: the lines of the answer, without bullets and numbers."""
        asked = [{"document": text, "most": str(self.most)} for text in data.corpus.texts]
        found: list[list[str]] = [[] for _ in asked]  # of documents that are refused none
        for row, answer in self._model.answers(asked):
            text = whole_characters(answer) if isinstance(answer, str) else ""
            lines = [re.sub(r"^\s*(?:[-*•]|\d+[.)])\s*", "", line).strip(" \"'") for line in text.splitlines()]
            found[row] = [line for line in lines if _WORD.search(line)][: self.most]
        return found
