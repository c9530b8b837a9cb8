# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""An LLM as judge: any chat generator of Haystack as teacher."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from retort.students.hashing import canonical_json, hash_text
from retort.trainers.errors import RecipeError, TeacherError
from retort.trainers.teachers import Ask, ScoreTeacher
from retort.trainers.teachers.haystack import HaystackComponents

logger = logging.getLogger(__name__)

PROMPT = """\
How well does the passage answer the question? Give a whole number from 0 (has nothing to do with it) to 10 (answers \
it fully). Answer with the number alone.

Question: {query}

Passage: {document}

Number:"""
CHARACTERS_A_TOKEN = 4  # of English, about
TRIED = 20  # answers without a number before the teacher is given up
_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)?")


class ChatGeneratorTeacher(ScoreTeacher):
    """
    A Haystack chat generator, asked for a number a pair of query and document.

    Answers are kept like all scores, so that each pair is asked, and paid, once. An answer without a number between
    `lowest` and `highest` counts as none: the pair has no score, and how many there were is said at the end.

    :param generator:
        `{type, init_parameters}`: a component whose `run(messages)` gives `replies`. A temperature of 0 suits.
    :param prompt:
        What it is asked, with `{query}` and `{document}`.
    :param lowest:
        The least number.
    :param highest:
        The greatest number.
    :param price:
        Per million tokens of the prompts, in any currency, for the estimate that is logged before it is asked.
    :param revision:
        Version of the model; required where the generator has an API key.
    :param retries:
        How often a failed call is repeated; None: 5 times for remote generators, never for local ones.
    :param concurrency:
        Calls at a time.
    :param allowed_modules:
        Further modules that the component may come from (filled from `--allow`).
    :raises RecipeError:
        If the component is no chat generator, the prompt lacks a place, the range is empty, or there is an API key and
        no revision.
    """

    def __init__(
        self,
        *,
        generator: dict[str, Any],
        prompt: str = PROMPT,
        lowest: float = 0.0,
        highest: float = 10.0,
        price: float | None = None,
        revision: str | None = None,
        retries: int | None = None,
        concurrency: int = 1,
        allowed_modules: list[str] | None = None,
    ) -> None:
        if missing := [place for place in ("{query}", "{document}") if place not in prompt]:
            msg = f"prompt: it has no {' and no '.join(missing)}."
            raise RecipeError(msg)
        if not lowest < highest:
            msg = f"lowest and highest: the range from {lowest} to {highest} is empty."
            raise RecipeError(msg)
        self._components = HaystackComponents(
            {"generator": generator},
            revision=revision,
            retries=retries,
            concurrency=concurrency,
            allowed_modules=allowed_modules,
        )
        if "messages" not in self._components.parameters("generator"):
            msg = f"generator: {generator.get('type')} is no chat generator: its run takes no messages."
            raise RecipeError(msg)
        self._type = generator["type"]
        self._prompt, self._lowest, self._highest, self._price = prompt, lowest, highest, price
        self.asked = self.without_number = 0

    @property
    def key(self) -> str:
        """The component's key (see `HaystackComponents`), prompt and range."""
        return hash_text(canonical_json(["chat", self._components.key, self._prompt, self._lowest, self._highest]))

    def estimate(self, asks: list[Ask]) -> dict[str, float]:
        """Estimate `calls`, `tokens` of their prompts and, with a price, `cost`."""
        prompts = [self._fill(a.query, text) for a in asks for text in a.documents]
        tokens = sum(map(len, prompts)) / CHARACTERS_A_TOKEN
        found = {"calls": float(len(prompts)), "tokens": tokens}
        return found if self._price is None else found | {"cost": tokens * self._price / 1e6}

    def score(self, asks: list[Ask]) -> Iterator[np.ndarray]:
        """Score lists, one call a pair; see `ScoreTeacher.score`."""
        told = ", ".join(f"{value:,.0f} {name}" for name, value in self.estimate(asks).items())
        logger.info("%s is asked: %s (about)", self._type, told)
        pairs = [(ask.query, text) for ask in asks for text in ask.documents]
        answers = self._components.each(self._answer, pairs)
        for ask in asks:
            yield np.array([self._number(next(answers)) for _ in ask.documents], dtype=np.float32)
        if self.without_number:
            logger.warning(
                "%s: %d of %d answers so far had no number from %g to %g; their pairs have no score.",
                self._type,
                self.without_number,
                self.asked,
                self._lowest,
                self._highest,
            )

    def _fill(self, query: str, document: str) -> str:
        places = {"{query}": query, "{document}": document}  # not `format`: prompts and texts may hold braces
        return re.sub(r"\{query\}|\{document\}", lambda found: places[found[0]], self._prompt)

    def _answer(self, pair: tuple[str, str]) -> str:
        from haystack.dataclasses import ChatMessage

        message = ChatMessage.from_user(self._fill(*pair))
        try:
            replies = self._components.warm["generator"].run(messages=[message])["replies"]
        except Exception as error:
            msg = f"{self._type} failed on the query {pair[0]!r}: {error}"
            raise TeacherError(msg) from error
        return (replies[0].text or "") if replies else ""

    def _number(self, answer: str) -> float:
        found = _NUMBER.search(answer)
        number = float(found[0].replace(",", ".")) if found else math.nan
        self.asked += 1
        if self._lowest <= number <= self._highest:
            return number
        self.without_number += 1
        if self.without_number == self.asked == TRIED:
            msg = (
                f"{self._type} gave no number from {self._lowest:g} to {self._highest:g} in its first {TRIED} answers; "
                f"the last was {answer[:100]!r}. Change the prompt, or take a model that follows it."
            )
            raise TeacherError(msg)
        return math.nan
