# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Queries of a corpus that nobody has asked about, from easy ones to hard ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from retort.students.segmentation import token_spans
from retort.trainers.data.pseudo_queries import GeneratedQuestions, KeyPhrases, sentences_of
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.roles import Context, QuerySource
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.runtime.rng import rng_for

Order = Literal["easy_first", "hard_first", "all", "easiest", "hardest"]
ORDERS: tuple[Order, ...] = ("easy_first", "hard_first", "all", "easiest", "hardest")
FEWEST_WORDS = 2

#: Difficulty of each way to make a query, from 0 to 1.
DIFFICULTIES = {
    "first sentence": 0.0,
    "generated": 0.0,
    "sentence": 0.2,
    "key phrase": 0.4,
    "half of a sentence": 0.5,
    "third of a sentence": 0.65,
    "fifth of a sentence": 0.8,
    "two documents": 0.9,
}


def admitted(difficulties: dict[str, float], order: Order, progress: float) -> list[str]:
    """
    Say which ways to make a query are admitted.

    :param difficulties:
        By way, 0 to 1.
    :param order:
        `easy_first`: those whose difficulty is at most `progress`, the easiest always; `hard_first`: the same from the
        other end; `all`; `easiest` and `hardest` alone.
    :param progress:
        How far training has come, 0 to 1.
    """
    least, most = min(difficulties.values()), max(difficulties.values())
    bounds = {
        "easy_first": (least, max(progress, least)),
        "hard_first": (min(most - progress, most), most),
        "all": (least, most),
        "easiest": (least, least),
        "hardest": (most, most),
    }
    low, high = bounds[order]
    return [way for way, difficulty in difficulties.items() if low <= difficulty <= high]


class Proposals(QuerySource):
    """
    Proposes queries of documents, others at each refresh, easy ones first (for CuDFKD, which has no training queries).

    A way to make a query has a difficulty: the document's first sentence 0, any sentence 0.2, its rarest words 0.4, a
    sentence without half, two thirds or four fifths of its words 0.5, 0.65 and 0.8, halves of two documents' sentences
    0.9. A generator's questions are admitted like first sentences. Each refresh goes on through the corpus, and gives
    each document the query of one way, drawn from those that are admitted.

    :param pool:
        Queries a refresh.
    :param order:
        Which ways are admitted when (see `admitted`).
    :param words:
        Words of a query, at most.
    :param most:
        Queries a document and refresh, at most, where the corpus is smaller than the pool.
    :param generator:
        `{type, init_parameters}` of a chat generator of Haystack, which makes up questions, too; its answers are kept
        in the cache folder.
    :param revision:
        The generator's, as of `GeneratedQuestions`.
    :param allowed_modules:
        As of `GeneratedQuestions`.
    :param seed:
        Seed of all draws.
    :raises ValueError:
        If a number or the order is none.

    ```yaml
    queries: {type: retort.trainers.data.proposals.Proposals, init_parameters: {pool: 1024}}
    ```
    """

    def __init__(
        self,
        *,
        pool: int = 1024,
        order: Order = "easy_first",
        words: int = 16,
        most: int = 4,
        generator: dict[str, Any] | None = None,
        revision: str | None = None,
        allowed_modules: list[str] | None = None,
        seed: int = 0,
    ) -> None:
        if min(pool, most) < 1 or words < FEWEST_WORDS:
            msg = f"Proposals: pool and most must be above 0, words at least {FEWEST_WORDS}."
            raise ValueError(msg)
        if order not in ORDERS:
            msg = f"order must be one of {', '.join(ORDERS)}; it is {order!r}."
            raise ValueError(msg)
        self.pool, self.order, self.words, self.most, self.seed = pool, order, words, most, seed
        self._generator = None
        if generator is not None:
            self._generator = GeneratedQuestions(
                generator=generator, most=most, revision=revision, allowed_modules=allowed_modules
            )
        self._number, self._progress = 0, 0.0

    def open(self, context: Context, number: int) -> None:
        """Note which refresh it is, and how far the stage has come."""
        self._number, self._progress = number, context.progress
        if self._generator is not None:
            self._generator.open(context, number)

    @property
    def answers_key(self) -> str:  # type: ignore[override]
        """The generator's."""
        return "" if self._generator is None else self._generator.answers_key

    def count(self, data: RetrievalData, openings: int = 1) -> int:
        """Count the pool of each opening, or `most` queries of each document."""
        return openings * min(self.pool, self.most * len(np.unique(data.corpus.first_rows)))

    def estimate(self, data: RetrievalData, cache: Path | None = None, openings: int = 1) -> dict[str, float]:
        """Estimate what questions of as many documents as may be drawn take."""
        if self._generator is None:
            return {}
        documents = len(np.unique(data.corpus.first_rows))
        share = min(1.0, self.pool * openings / max(1, documents))
        return {name: share * value for name, value in self._generator.estimate(data, cache).items()}

    def assumed_seconds(self, calls: float) -> float | None:
        """Assume what the generator's calls take."""
        return None if self._generator is None else self._generator.assumed_seconds(calls)

    def of(self, data: RetrievalData) -> list[list[str]]:
        """
        List this refresh's queries of each document; of copies of a document the first has them.

        :raises RecipeError:
            If there is no document.
        """
        if not len(data.corpus):
            msg = "Proposals: the corpus is empty."
            raise RecipeError(msg)
        drawn = _Drawing(self, data, self._number)
        ways = {w: d for w, d in DIFFICULTIES.items() if w != "generated" or self._generator is not None}
        return drawn.queries(admitted(ways, self.order, self._progress), self._generator)


class _Drawing:
    """One refresh's draw."""

    def __init__(self, source: Proposals, data: RetrievalData, number: int) -> None:
        self._source, self._data, self._number = source, data, number
        different = np.unique(data.corpus.first_rows)
        order = rng_for(source.seed, "proposals", data.corpus.hash).permutation(different)
        self._order = np.roll(order, -(number * source.pool) % len(order))  # all of them before any twice

    def queries(self, ways: list[str], generator: GeneratedQuestions | None) -> list[list[str]]:
        source, corpus = self._source, self._data.corpus
        picked: list[tuple[int, str, np.random.Generator]] = []
        for round_ in range(source.most):
            for row in self._order[: source.pool - len(picked)].tolist():
                rng = rng_for(source.seed, "proposal", self._number, round_, corpus.ids[row])
                picked.append((row, ways[int(rng.integers(len(ways)))], rng))
        questions = self._questions({row for row, way, _ in picked if way == "generated"}, generator)
        queries: list[dict[str, None]] = [{} for _ in corpus.ids]
        for row, way, rng in picked:
            text = self._made(row, way, rng, questions)
            queries[row].setdefault(text)
        return [list(own) for own in queries]

    def _questions(self, rows: set[int], generator: GeneratedQuestions | None) -> dict[int, list[str]]:
        """Ask for questions of the documents alone that were drawn for it."""
        if generator is None or not rows:
            return {}
        corpus = self._data.corpus.select(sorted(rows))
        questions = generator.of(RetrievalData(self._data.name, corpus, TextStore([], [])))
        return dict(zip(sorted(rows), questions, strict=True))

    def _made(self, row: int, way: str, rng: np.random.Generator, questions: dict[int, list[str]]) -> str:
        if way == "generated" and questions[row]:
            return questions[row][int(rng.integers(len(questions[row])))]
        if way == "key phrase" and self._phrases[row]:
            return self._phrases[row][0]
        makers: dict[str, Callable[[], list[str]]] = {
            "sentence": lambda: self._sentence(row, rng),
            "half of a sentence": lambda: self._some(row, rng, 0.5),
            "third of a sentence": lambda: self._some(row, rng, 1 / 3),
            "fifth of a sentence": lambda: self._some(row, rng, 0.2),
            "two documents": lambda: self._two(row, rng),
        }
        words = makers[way]() if way in makers else self._sentences(row)[0]
        return " ".join(words)

    @cached_property
    def _contents(self) -> list[str]:
        return self._data.corpus.without_titles().texts

    def _sentences(self, row: int) -> list[list[str]]:
        """A document's sentences as words; where it has none, the whole of it."""
        text = self._contents[row] or self._data.corpus.texts[row]
        cut = self._source.words
        return [[s[a:b] for a, b in token_spans(s)[:cut]] for s in sentences_of(text) or [text]]

    def _sentence(self, row: int, rng: np.random.Generator) -> list[str]:
        sentences = self._sentences(row)
        return sentences[int(rng.integers(len(sentences)))]

    def _some(self, row: int, rng: np.random.Generator, share: float) -> list[str]:
        words = self._sentence(row, rng)
        kept = max(min(FEWEST_WORDS, len(words)), round(share * len(words)))
        return [words[place] for place in sorted(rng.permutation(len(words))[:kept].tolist())]

    def _two(self, row: int, rng: np.random.Generator) -> list[str]:
        own, other = self._sentence(row, rng), self._sentence(int(rng.choice(self._order)), rng)
        return own[: (len(own) + 1) // 2] + other[len(other) // 2 :]

    @cached_property
    def _phrases(self) -> list[list[str]]:
        return KeyPhrases().of(self._data)
