# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""A source of a stage's queries that gives others at each refresh."""

from retort.trainers.roles import QuerySource
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
