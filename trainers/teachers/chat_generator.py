# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""LLMs: any chat generator of Haystack, asked one prompt after the other; as teacher, a judge of pairs."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from retort.students.hashing import canonical_json, hash_text
from retort.trainers.roles import Ask, Teacher, Work
from retort.trainers.runtime.errors import RecipeError, TeacherError
from retort.trainers.runtime.locks import sole_writer
from retort.trainers.teachers.cache_folder import append_line
from retort.trainers.teachers.calls import CHARACTERS_A_TOKEN, SECONDS_AN_ANSWER, Refusal
from retort.trainers.teachers.haystack import HaystackComponents

logger = logging.getLogger(__name__)

PROMPT = """\
How well does the passage answer the question? Give a whole number from 0 (has nothing to do with it) to 10 (answers \
it fully). Answer with the number alone.

Question: {query}

Passage: {document}

Number:"""
PROBE = "Answer with the number 1."
TRIED = 20  # answers without a number, or without text, before the model is given up
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
        self._components = HaystackComponents({"generator": generator}, purpose=prompt, **options)
        self._type = generator["type"]
        self._prompt, self._price = prompt, price
        self._cache = Path(cache) if cache is not None else None
        self._answered = self._empty = 0

    @property
    def key(self) -> str:
        """The component's key (see `HaystackComponents`), and the prompt."""
        return hash_text(canonical_json(["chat", self._components.key, self._prompt]))

    @property
    def former_key(self) -> str:
        """The key as it was when every parameter counted."""
        return hash_text(canonical_json(["chat", self._components.former_key, self._prompt]))

    def fill(self, places: dict[str, str]) -> str:
        """Fill the prompt's places; braces in texts stay as they are."""
        return re.sub(r"\{(\w+)\}", lambda found: places.get(found[1], found[0]), self._prompt)

    def assumed_seconds(self, calls: int) -> float | None:
        """Assume a second a call of a remote model."""
        return self._components.assumed_seconds(calls, SECONDS_AN_ANSWER)

    def estimate(self, asked: list[dict[str, str]]) -> dict[str, float]:
        """Estimate `calls`, `tokens` of their prompts and, with a price, `cost`, of what is not kept yet."""
        kept = self._kept()
        prompts = self._unknown(map(self.fill, asked), kept)
        tokens = sum(map(len, prompts)) / CHARACTERS_A_TOKEN
        found = {"calls": float(len(prompts)), "tokens": tokens}
        return found if self._price is None else found | {"cost": tokens * self._price / 1e6}

    def answers(self, asked: list[dict[str, str]]) -> Iterator[tuple[int, str | Refusal]]:
        """
        Ask each prompt once: numbers of what was asked, in any order, with the answers.

        What was given before an error is kept, and so is what was refused. Answers without text are kept as soon as
        one has text: until then it is the model that may fail.

        :raises TeacherError:
            If the component fails, after its retries, or its first answers are all without text.
        """
        before, empty_before = self._answered, self._empty
        numbers: dict[str, list[int]] = {}
        for number, places in enumerate(asked):
            numbers.setdefault(self.fill(places), []).append(number)
        with self._only_writer():
            kept = self._kept()
            for prompt, own in numbers.items():
                if (known := self._find(prompt, kept)) is not None:
                    yield from ((number, known) for number in own)
            waiting: list[tuple[str, str | Refusal]] = []
            try:
                for prompt, answer in self._components.each(self._answer, self._unknown(numbers, kept), probe=PROBE):
                    waiting.append((prompt, answer))
                    self._count(answer)
                    if self._empty < self._answered or isinstance(answer, Refusal):
                        self._keep(waiting)
                    yield from ((number, answer) for number in numbers[prompt])
                self._keep(waiting)
            except TeacherError as error:
                if self._cache is None:
                    raise
                count = len(self._kept())
                msg = f"{error} Kept: {count} answers in {self._cache}; the same command goes on from there."
                raise TeacherError(msg) from error
        if empty := self._empty - empty_before:
            kept_in = f"; to ask again delete their lines, which end in empty quotes, in {self._cache}"
            told = kept_in if self._cache else ""
            logger.warning("%s gave no text in %d of %d answers%s.", self._type, empty, self._answered - before, told)

    def _count(self, answer: str | Refusal) -> None:
        if isinstance(answer, Refusal):
            return
        self._answered += 1
        self._empty += not answer.strip()
        if self._empty == self._answered == TRIED:
            msg = (
                f"{self._type} gave no text in its first {TRIED} answers. Change the prompt, or raise what limits the "
                "length of its answers."
            )
            raise TeacherError(msg)

    @contextmanager
    def _only_writer(self) -> Iterator[None]:
        """Keep other processes off the file of answers, which would ask for the same."""
        if self._cache is None:
            yield
            return
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        with sole_writer(self._cache, Path(f"{self._cache}.lock")):
            yield

    def _keep(self, waiting: list[tuple[str, str | Refusal]]) -> None:
        """Keep answers, and take them off the list."""
        for prompt, answer in waiting:
            line: list[Any] = [self._name(prompt), answer if isinstance(answer, str) and answer.strip() else ""]
            if isinstance(answer, Refusal):
                line = [self._name(prompt), None, answer.cause]
                logger.warning("%s refuses %r, which is passed over: %s", self._type, prompt[-80:], answer.cause)
            if self._cache is not None:
                append_line(self._cache, line)
        waiting.clear()

    def _answer(self, prompt: str) -> str:
        from haystack.dataclasses import ChatMessage

        message = ChatMessage.from_user(prompt)
        replies = self._components.answer("generator", "replies", repr(prompt[-200:]), messages=[message])
        return (replies[0].text or "") if replies else ""

    def _name(self, prompt: str) -> str:
        return hash_text(f"{self._components.key} {prompt}")[:32]

    def keep_in(self, folder: Path) -> None:
        """Keep answers in a cache folder, unless they are kept elsewhere."""
        if self._cache is None:
            self._cache = folder / "answers.jsonl"

    def _unknown(self, prompts: Iterable[str], kept: dict[str, str | Refusal]) -> list[str]:
        """List the prompts that have no answer yet, each once."""
        return [prompt for prompt in dict.fromkeys(prompts) if self._find(prompt, kept) is None]

    def _find(self, prompt: str, kept: dict[str, str | Refusal]) -> str | Refusal | None:
        found = kept.get(self._name(prompt))
        # Files of earlier versions go by another key.
        return kept.get(hash_text(f"{self._components.former_key} {prompt}")[:32]) if found is None else found

    def _kept(self) -> dict[str, str | Refusal]:
        if self._cache is None or not self._cache.is_file():
            return {}
        kept: dict[str, str | Refusal] = {}
        for number, line in enumerate(self._cache.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            spoilt = "\0" in line or "\ufffd" in line  # by a disk: answers are written in ASCII
            if line and not line.startswith("[") and not spoilt:
                msg = f"{self._cache}:{number}: this is no answer; give `cache` a file that holds nothing else."
                raise RecipeError(msg)
            with suppress(ValueError, TypeError, LookupError):  # spoilt, or cut by a kill
                name, answer, *cause = json.loads(line)
                if cause or isinstance(answer, str):
                    kept[name] = answer if isinstance(answer, str) else Refusal(str(cause[0]))
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
        How often a failed call is repeated; None: as the generator's `max_retries` says, else 5 times for remote
        generators, never for local ones.
    :param concurrency:
        Calls at a time.
    :param max_calls:
        Calls in a run, at most; then it stops, and what came is kept. None: any number.
    :param allowed_modules:
        Further modules that the component may come from (filled from `--allow`).
    :raises RecipeError:
        If the component is no chat generator, the prompt lacks a place, the range is empty, or there is an API key and
        no revision.

    ```yaml
    teachers:
      judge:
        type: retort.trainers.teachers.chat_generator.ChatGeneratorTeacher
        init_parameters:
          generator:
            type: haystack.components.generators.chat.openai.OpenAIChatGenerator
            init_parameters: {model: gpt-4o-mini}
          revision: "2024-07-18"
          concurrency: 8
    ```
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
        max_calls: int | None = None,
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
            max_calls=max_calls,
            allowed_modules=allowed_modules,
        )
        self._type = generator["type"]
        self._lowest, self._highest = lowest, highest
        self.asked = self.without_number = 0

    @property
    def key(self) -> str:
        """The model's key (see `ChatModel`), and the range."""
        return hash_text(canonical_json(["judge", self._model.key, self._lowest, self._highest]))

    @property
    def former_key(self) -> str:  # type: ignore[override]
        """The key as it was when every parameter counted."""
        return hash_text(canonical_json(["judge", self._model.former_key, self._lowest, self._highest]))

    def estimate(self, asks: list[Ask]) -> dict[str, float]:
        """Estimate `calls`, `tokens` of their prompts and, with a price, `cost`."""
        return self._model.estimate(_places(asks))

    def assumed_seconds(self, work: Work) -> float | None:
        """Assume a second a call."""
        return self._model.assumed_seconds(work.pairs)

    def score(self, asks: list[Ask]) -> Iterator[np.ndarray]:
        """Score lists, one call a pair; see `Teacher.score`."""
        found: dict[tuple[str, str], float] = {}
        for ask, scores in self.score_parts(asks):
            if isinstance(scores, str):
                raise TeacherError(scores)
            found[ask.query, ask.documents[0]] = scores[0]
        for ask in asks:
            yield np.array([found[ask.query, text] for text in ask.documents], dtype=np.float32)

    def score_parts(self, asks: list[Ask]) -> Iterator[tuple[Ask, np.ndarray | str]]:
        """Score pairs, one call each; see `Teacher.score_parts`."""
        told = ", ".join(f"{value:,.0f} {name}" for name, value in self.estimate(asks).items())
        logger.info("%s is asked: %s (about)", self._type, told)
        pairs = [replace(a, document_ids=[i], documents=[d]) for a in asks for i, d in _documents(a)]
        for number, answer in self._model.answers(_places(asks)):
            if isinstance(answer, Refusal):
                yield pairs[number], answer.cause
            else:
                yield pairs[number], np.array([self._number(answer)], dtype=np.float32)
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


def _documents(ask: Ask) -> Iterator[tuple[str, str]]:
    return zip(ask.document_ids, ask.documents, strict=True)
