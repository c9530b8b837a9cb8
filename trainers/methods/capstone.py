# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
CAPSTONE: curriculum sampling of pseudo-queries for document expansion (He et al. 2023, arXiv 2212.09114).

A document is trained with one of its pseudo-queries behind it: first with those least like the list's query, then with
more and more similar ones, so that attention goes from the document to document and query. Trained with the query
itself, it would learn to read nothing else. In search a document has the mean of its vectors with several
pseudo-queries: one vector, so the index does not grow. The loss is any of lists, in the paper `Contrastive`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal
from unicodedata import normalize

from Stemmer import Stemmer

from retort.students.segmentation import words_of
from retort.students.views import Combine, ViewRule
from retort.trainers.data.texts import RetrievalData
from retort.trainers.objectives import one_of
from retort.trainers.roles import TextRequest
from retort.trainers.views import QuestionTexts

TrainWith = Literal["curriculum", "random", "top", "gold", "none"]

KEPT = 1 << 16  # texts and rankings in memory


def part(step: int, steps: int, parts: int) -> int:
    r"""
    Say which part of the ranked pseudo-queries a step draws from.

    $$k = \max(N - \lfloor s / \lfloor S / N \rfloor \rfloor, 1)$$

    :param step:
        $s$, from 0.
    :param steps:
        $S$.
    :param parts:
        $N$.
    :returns:
        From `parts`, the least similar, down to 1, the most similar.
    """
    return max(parts - step // max(1, steps // parts), 1)


def ranks(count: int, number: int, parts: int) -> tuple[int, int]:
    r"""
    Say which ranks are in a part.

    $$\lfloor n (k - 1) / N \rfloor + 1, \ldots, \lfloor n k / N \rfloor$$

    :param count:
        $n$ ranked pseudo-queries, one at least.
    :param number:
        $k$, from 1.
    :param parts:
        $N$.
    :returns:
        The first and the last rank, from 1; of an empty part twice the one after those before it.
    """
    before, last = count * (number - 1) // parts, count * number // parts
    return before + 1, max(last, before + 1)


def rouge_l(first: Sequence[str], second: Sequence[str]) -> float:
    r"""
    Compute ROUGE-L's F1: how much of two texts is their longest common subsequence $c$.

    $$F_1 = \frac{2 c}{|a| + |b|}$$

    :param first:
        Words $a$.
    :param second:
        Words $b$.
    :returns:
        0 to 1; 0 where there are no words.
    """
    lengths = [0] * (len(second) + 1)
    for word in first:
        before = lengths[:]
        for i, other in enumerate(second, 1):
            lengths[i] = before[i - 1] + 1 if word == other else max(before[i], lengths[i - 1])
    return 2 * lengths[-1] / max(1, len(first) + len(second))


def plain_words(text: str) -> tuple[str, ...]:
    """List a text's words without case and punctuation: texts with the same ones are the same query."""
    return tuple(words_of(normalize("NFC", text).casefold()))


class Expansion(QuestionTexts):
    r"""
    Puts one of a document's pseudo-queries behind it, in training and in search; `document [SEP] query`.

    Pseudo-queries are ranked by their ROUGE-L with the list's query, those of negatives as well, and cut into `parts`.
    The curriculum draws evenly from the part whose turn it is (see `part` and `ranks`). As the official code; ours:
    pseudo-queries that differ in case or punctuation alone are one, and none is the list's query; equal similarities
    keep the source's order; documents are cut so that the pseudo-query fits.

    A document whose only pseudo-query is the list's query stands alone. Where that befalls positives more often than
    negatives, as with `TrainingQuestions` alone, it gives them away: name further sources.

    Cached teachers score documents without pseudo-queries.

    :param queries:
        Where pseudo-queries come from: `{type, init_parameters}` of a source of `data.pseudo_queries`, or of several,
        one after the other.
    :param train_with:
        `curriculum`; or for the whole stage: `random`, any pseudo-query; `top`, one of the most similar part; `gold`,
        the list's query; `none`, documents alone.
    :param parts:
        $N$; 3 in the paper's first stage, 4 in the second.
    :param most:
        Pseudo-queries of a document to choose from in training, at most: the first.
    :param stem:
        Compare stems, not words (Porter's, for English).
    :param views:
        Pseudo-queries of a document in search, at most: the first; 0: documents alone.
    :param combine:
        What a document has of its vectors with each: `mean`, or all of which the best counts, `max`.
    :param query_tokens:
        Cut pseudo-queries after so many tokens.
    :raises ValueError:
        If a parameter is out of its range.

    ```yaml
    candidates:
      sources: [bm25]
      negatives: 7
      text:
        type: retort.trainers.methods.capstone.Expansion
        init_parameters:
          queries: {type: retort.trainers.data.pseudo_queries.KeySentences, init_parameters: {most: 10}}
    ```
    """

    def __init__(
        self,
        *,
        queries: dict[str, Any] | list[dict[str, Any]],
        train_with: TrainWith = "curriculum",
        parts: int = 3,
        most: int = 20,
        stem: bool = True,
        views: int = 3,
        combine: Combine = "mean",
        query_tokens: int = 32,
    ) -> None:
        if parts < 1 or most < 1:
            msg = f"Expansion: parts and most must be above 0; they are {parts} and {most}."
            raise ValueError(msg)
        rule = ViewRule(most=views, query_tokens=query_tokens, question="after", combine=combine)
        super().__init__(queries, rule)
        self.train_with = one_of("train_with", train_with, ("curriculum", "random", "top", "gold", "none"))
        self.rewrites = train_with != "none"
        self.parts, self.most = parts, most
        stems = Stemmer("porter").stemWords if stem else list
        self._words = lru_cache(KEPT)(plain_words)
        self._stems = lru_cache(KEPT)(lambda text: stems(self._words(text)))
        self._ranked = lru_cache(KEPT)(self._rank)

    def texts(self, request: TextRequest) -> list[str]:
        """Put a pseudo-query behind each document of a list."""
        query = request.data.queries.texts[request.query]
        if self.train_with in {"gold", "none"}:
            return [self.joined(query if self.train_with == "gold" else "", text) for text in request.documents]
        questions, found = self.questions(request.data), []
        for row, document in zip(request.rows.tolist(), request.documents, strict=True):
            ranked = self._ranked(query, tuple(questions[row][: self.most]))
            first, last = self._range(len(ranked), request)
            place = int(request.rng.integers(first, last + 1))
            found.append(self.joined(ranked[place - 1] if ranked else "", document))
        return found

    def document_views(self, data: RetrievalData) -> list[list[str]] | None:
        """List the texts that stand for each document in search; None where pseudo-queries play no part."""
        return super().document_views(data) if self.view_rule.most or self.train_with != "none" else None

    def _range(self, count: int, request: TextRequest) -> tuple[int, int]:
        """Give the first and the last rank to draw from."""
        if self.train_with == "random":
            return 1, max(1, count)
        number = 1 if self.train_with == "top" else part(request.step, request.steps, self.parts)
        return ranks(count, number, self.parts)

    def _rank(self, query: str, questions: tuple[str, ...]) -> list[str]:
        """Order questions by their similarity to a query, the most similar first; without the query itself."""
        unique: dict[tuple[str, ...], str] = {}
        for question in questions:
            unique.setdefault(self._words(question), question)
        for none in ((), self._words(query)):
            unique.pop(none, None)
        asked = self._stems(query)
        return sorted(unique.values(), key=lambda question: -rouge_l(asked, self._stems(question)))
