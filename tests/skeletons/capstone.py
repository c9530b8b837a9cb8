# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Skeleton of CAPSTONE: He et al. 2023, arXiv 2212.09114.

Documents are trained with pseudo-queries: first those least like the list's query, then more and more similar ones.
"""

from retort.trainers.data.pseudo_queries import TrainingQuestions
from retort.trainers.roles import QuerySource, TextTransform
from retort.trainers.runtime.rng import rng_for


class Phrases(QuerySource):
    """Phrases of each document, others at each refresh."""

    def __init__(self, *, most=4):
        self.most, self.number = most, 0

    def open(self, context, number):
        self.number = number

    def of(self, data):
        return [self._phrases(row, text.split()) for row, text in enumerate(data.corpus.texts)]

    def _phrases(self, row, words):
        starts = rng_for("phrases", self.number, row).integers(0, max(1, len(words) - 2), self.most)
        return list(dict.fromkeys(" ".join(words[start : start + 3]) for start in starts))


def part(step, steps, parts):
    """Count down from `parts`, the least similar, to 1."""
    return max(parts - step // max(1, steps // parts), 1)


def ranks(count, number, parts):
    """First and last rank, from 1, of a part of `count` ranked queries."""
    before, last = count * (number - 1) // parts, count * number // parts
    return before + 1, max(last, before + 1)


def rouge_l(first, second):
    """F1 of the longest common subsequence of words."""
    first, second = first.lower().split(), second.lower().split()
    lengths = [0] * (len(second) + 1)
    for word in first:
        before = lengths[:]
        for i, other in enumerate(second, 1):
            lengths[i] = before[i - 1] + 1 if word == other else max(before[i], lengths[i - 1])
    return 2 * lengths[-1] / (len(first) + len(second))


class Expanded(TextTransform):
    """Appends one of a document's other queries; which part of them it is drawn from depends on the step."""

    def __init__(self, *, parts=3):
        self.parts, self._of = parts, (None, [])

    def bind(self, source, tokenizer, negatives):
        self.separator = tokenizer.sep_token

    def texts(self, request):
        if self._of[0] is not request.data:
            self._of = request.data, TrainingQuestions(most=100).of(request.data)
        query, number = request.data.queries.texts[request.query], part(request.step, request.steps, self.parts)
        found = []
        for row, text in zip(request.rows, request.documents, strict=True):
            others = [other for other in self._of[1][row] if other != query]
            others.sort(key=lambda other: -rouge_l(query, other))
            first, last = ranks(len(others), number, self.parts)
            drawn = others[int(request.rng.integers(first, last + 1)) - 1 :][:1]
            found.append(f" {self.separator} ".join([text, *drawn]))
        return found
