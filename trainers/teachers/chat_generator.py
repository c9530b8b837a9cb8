# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""LLMs: any chat generator of Haystack, asked one prompt after the other; as teacher, a judge of pairs."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from retort.students.hashing import canonical_json, hash_text
from retort.trainers.roles import Ask, Teacher
from retort.trainers.runtime.errors import RecipeError, TeacherError
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


class ChatModel:
    """
    A chat generator with a prompt.

    :param generator:
        `{type, init_parameters}`: a component whose `run(messages)` gives `replies`.
    :param prompt:
        With places in braces.
    :param needed:
        Places that it must have.
    :param price:
        Per million tokens of the prompts, in any currency.
    :param cache:
        A `.jsonl` file that answers are kept in, one a line, by model and prompt. None keeps none.
    :param options:
        Of `HaystackComponents`.
    :raises RecipeError:
        If the component is no chat generator, the prompt lacks a place, or the file's name ends otherwise.
    """

    def __init__(
        self,
        generator: dict[str, Any],
        prompt: str,
        needed: tuple[str, ...],
        *,
        price: float | None = None,
        cache: str | None = None,
        **options: Any,
    ) -> None:
        if missing := [f"{{{place}}}" for place in needed if f"{{{place}}}" not in prompt]:
            msg = f"prompt: it has no {' and no '.join(missing)}."
            raise RecipeError(msg)
        if cache is not None and Path(cache).suffix != ".jsonl":  # a shell would run what is answered into its profile
            msg = f"cache: {cache}: answers are kept in a .jsonl file; give the name of one."
            raise RecipeError(msg)
        self._components = HaystackComponents({"generator": generator}, **options)
        self._type = generator["type"]
        self._prompt, self._price = prompt, price
        self._cache = Path(cache) if cache is not None else None

    @property
    def key(self) -> str:
        """The component's key (see `HaystackComponents`), and the prompt."""
        return hash_text(canonical_json(["chat", self._components.key, self._prompt]))

    def fill(self, places: dict[str, str]) -> str:
        """Fill the prompt's places; braces in texts stay as they are."""
        return re.sub(r"\{(\w+)\}", lambda found: places.get(found[1], found[0]), self._prompt)

    def estimate(self, asked: list[dict[str, str]]) -> dict[str, float]:
        """Estimate `calls`, `tokens` of their prompts and, with a price, `cost`, of what is not kept yet."""
        kept = self._kept()
        prompts = [prompt for prompt in map(self.fill, asked) if self._name(prompt) not in kept]
        tokens = sum(map(len, prompts)) / CHARACTERS_A_TOKEN
        found = {"calls": float(len(prompts)), "tokens": tokens}
        return found if self._price is None else found | {"cost": tokens * self._price / 1e6}

    def answers(self, asked: list[dict[str, str]]) -> Iterator[str]:
        """
        Ask, one answer after the other, in their order; what was given before an error is kept.

        :raises TeacherError:
            If the component fails, after its retries.
        """
        kept = self._kept()
        prompts = [self.fill(places) for places in asked]
        fresh = self._components.each(self._answer, [p for p in prompts if self._name(p) not in kept])
        if self._cache is not None and self._cache.is_file() and not self._cache.read_bytes().endswith(b"\n"):
            with self._cache.open("a", encoding="utf-8") as file:
                file.write("\n")  # a kill cut the last line; the next answer needs one of its own
        for prompt in prompts:
            answer = kept.get(self._name(prompt))
            if answer is None:
                answer = next(fresh)
                if self._cache is not None:
                    with self._cache.open("a", encoding="utf-8") as file:
                        file.write(json.dumps([self._name(prompt), answer]) + "\n")
            yield answer

    def _answer(self, prompt: str) -> str:
        from haystack.dataclasses import ChatMessage

        message = ChatMessage.from_user(prompt)
        try:
            replies = self._components.warm["generator"].run(messages=[message])["replies"]
        except Exception as error:
            msg = f"{self._type} failed on {prompt[-200:]!r}: {error}"
            raise TeacherError(msg) from error
        return (replies[0].text or "") if replies else ""

    def _name(self, prompt: str) -> str:
        return hash_text(f"{self._components.key} {prompt}")[:32]

    def _kept(self) -> dict[str, str]:
        if self._cache is None or not self._cache.is_file():
            return {}
        kept = {}
        for number, line in enumerate(self._cache.read_text(encoding="utf-8").splitlines(), 1):
            if line and not line.startswith("["):
                msg = f"{self._cache}:{number}: this is no answer; give `cache` a file that holds nothing else."
                raise RecipeError(msg)
            try:
                name, answer = json.loads(line)
            except ValueError:  # the line that a kill cut
                continue
            kept[name] = answer
        return kept


class ChatGeneratorTeacher(Teacher):
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

    gives = "scores"

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
        if not lowest < highest:
            msg = f"lowest and highest: the range from {lowest} to {highest} is empty."
            raise RecipeError(msg)
        self._model = ChatModel(
            generator,
            prompt,
            ("query", "document"),
            price=price,
            revision=revision,
            retries=retries,
            concurrency=concurrency,
            allowed_modules=allowed_modules,
        )
        self._type = generator["type"]
        self._lowest, self._highest = lowest, highest
        self.asked = self.without_number = 0

    @property
    def key(self) -> str:
        """The model's key (see `ChatModel`), and the range."""
        return hash_text(canonical_json(["judge", self._model.key, self._lowest, self._highest]))

    def estimate(self, asks: list[Ask]) -> dict[str, float]:
        """Estimate `calls`, `tokens` of their prompts and, with a price, `cost`."""
        return self._model.estimate(_places(asks))

    def score(self, asks: list[Ask]) -> Iterator[np.ndarray]:
        """Score lists, one call a pair; see `Teacher.score`."""
        told = ", ".join(f"{value:,.0f} {name}" for name, value in self.estimate(asks).items())
        logger.info("%s is asked: %s (about)", self._type, told)
        answers = self._model.answers(_places(asks))
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


def _places(asks: list[Ask]) -> list[dict[str, str]]:
    return [{"query": ask.query, "document": text} for ask in asks for text in ask.documents]
