# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Any Haystack ranker as teacher."""

from __future__ import annotations

import inspect
import logging
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from retort.students.hashing import hash_text
from retort.trainers.roles import Ask, Gives, Teacher, Work
from retort.trainers.runtime.errors import RecipeError, TeacherError
from retort.trainers.teachers.calls import CHARACTERS_A_TOKEN, SECONDS_A_CALL, Refusal, in_order
from retort.trainers.teachers.haystack import HaystackComponents, document_of, refuse_query

if TYPE_CHECKING:
    from haystack import Document

logger = logging.getLogger(__name__)

SHOWN = 5  # ids in a message
OVERRULED = ("top_k", "scale_score", "score_threshold")  # at each call
PROBE = Ask("", "text", ["0"], ["text"])


class RankerTeacher(Teacher):
    """
    A Haystack ranker, as YAML would name it: a component whose `run(query, documents)` gives `documents`.

    It must answer with every document that it was given. Where its `run` takes them, it is called with `top_k` the
    length of the list, `scale_score` off and no `score_threshold`. A ranker that gives an order without scores is a
    teacher of ranks.

    :param ranker:
        `{type, init_parameters}`.
    :param listwise:
        Scores depend on the whole list, as an LLM's do: a list of which something is missing is asked for anew.
    :param revision:
        Version of a model behind a remote interface; required where the ranker has an API key.
    :param retries:
        How often a failed call is repeated; None: as the ranker's `max_retries` says, else 5 times for remote rankers,
        never for local ones.
    :param concurrency:
        Calls at a time.
    :param max_calls:
        Calls in a run, at most; then it stops, and what came is kept. None: any number.
    :param price:
        Per million tokens of the texts, in any currency: a plan says what it comes to.
    :param allowed_modules:
        Further modules that the component may come from (filled from `--allow`).
    :raises RecipeError:
        If the component is no ranker, scales or cuts whatever it is told, or has an API key and no revision is given.

    ```yaml
    teachers:
      ranker:
        type: retort.trainers.teachers.ranker.RankerTeacher
        init_parameters:
          ranker:
            type: haystack_integrations.components.rankers.retort.student_ranker.StudentRanker
            init_parameters: {model: runs/ranker/student}
    ```
    """

    gives: Gives = "scores"  # until an answer is an order without scores

    def __init__(
        self,
        *,
        ranker: dict[str, Any],
        listwise: bool = False,
        revision: str | None = None,
        retries: int | None = None,
        concurrency: int = 1,
        max_calls: int | None = None,
        price: float | None = None,
        allowed_modules: list[str] | None = None,
    ) -> None:
        self.listwise = listwise
        self.price = price
        self._components = HaystackComponents(
            {"ranker": ranker},
            revision=revision,
            retries=retries,
            concurrency=concurrency,
            max_calls=max_calls,
            overruled=OVERRULED,
            allowed_modules=allowed_modules,
        )
        self._takes = self._components.parameters("ranker")
        self._type = ranker["type"]
        self._refuse_cuts(ranker.get("init_parameters") or {})
        self._answered = self._warned = False

    def _refuse_cuts(self, given: dict[str, Any]) -> None:
        """What `run` takes is given at each call; what only `__init__` takes must be right there."""
        known = inspect.signature(type(self._components["ranker"]).__init__).parameters
        for name, right, harm in (
            ("scale_score", False, "squash its scores"),
            ("score_threshold", None, "cut its lists"),
        ):
            if name in known and name not in self._takes and given.get(name, known[name].default) != right:
                msg = f"ranker: set {name}: {str(right).lower()} in its init_parameters; it would {harm}."
                raise RecipeError(msg.replace("none", "null"))

    @property
    def key(self) -> str:
        """The component's key (see `HaystackComponents`)."""
        return hash_text(f"ranker {self.listwise} {self._components.key}")

    @property
    def former_key(self) -> str:  # type: ignore[override]
        """The key as it was when every parameter counted."""
        return hash_text(f"ranker {self.listwise} {self._components.former_key}")

    def estimate(self, asks: list[Ask]) -> dict[str, float]:
        """Estimate `calls`, and of remote rankers `tokens` of the texts, without a prompt, and with a price `cost`."""
        if not self._components.remote:
            return {}
        tokens = sum(len(text) for ask in asks for text in (ask.query, *ask.documents)) / CHARACTERS_A_TOKEN
        found = {"calls": float(len(asks)), "tokens": tokens}
        return found if self.price is None else found | {"cost": tokens * self.price / 1e6}

    def score(self, asks: list[Ask]) -> Iterator[np.ndarray]:
        """Score lists, one call each; see `Teacher.score`."""
        answers = self._components.each(lambda one: self._answer(one[1]), list(enumerate(asks)), probe=(-1, PROBE))
        for answer in in_order((number, answer) for (number, _), answer in answers):
            if isinstance(answer, Refusal):
                raise TeacherError(answer.cause)
            yield answer

    def score_parts(self, asks: list[Ask]) -> Iterator[tuple[Ask, np.ndarray | str]]:
        """
        Score lists, one call each; see `Teacher.score_parts`.

        A list that is refused is divided, unless its order matters: one document may be at fault.
        """

        def halves(ask: Ask) -> list[Ask]:
            if self.listwise or len(ask.documents) == 1 or ask is PROBE:
                return []
            if not self._answered:  # it may be one that gives ranks
                return [PROBE, ask]
            middle = len(ask.documents) // 2
            parts = (slice(middle), slice(middle, None)) if self.gives == "scores" else ()
            return [replace(ask, document_ids=ask.document_ids[p], documents=ask.documents[p]) for p in parts]

        for ask, answer in self._components.each(self._answer, asks, probe=PROBE, divide=halves):
            if ask is not PROBE:
                yield ask, answer.cause if isinstance(answer, Refusal) else answer

    def assumed_seconds(self, work: Work) -> float | None:
        """Assume half a second a call."""
        return self._components.assumed_seconds(work.lists, SECONDS_A_CALL)

    def _answer(self, ask: Ask) -> np.ndarray:
        refuse_query(ask.query)
        documents = [document_of(i, text) for i, text in zip(ask.document_ids, ask.documents, strict=True)]
        # None would mean the ranker's own default, which may cut.
        wanted = dict(zip(OVERRULED, (len(documents), False, -math.inf), strict=True))
        options = {name: value for name, value in wanted.items() if name in self._takes}
        question = f"the query {ask.query!r}"
        inputs = {"query": ask.query, "documents": documents, **options}
        found = self._components.answer("ranker", "documents", question, **inputs)
        scores = self._scores(ask, found)
        self._warn_of_scaling(scores, ask)
        return scores

    def _scores(self, ask: Ask, found: list[Document]) -> np.ndarray:
        counts = Counter(document.id for document in found)
        asked = set(ask.document_ids)
        told = f"{self._type}, asked to rank {len(asked)} documents for the query {ask.query!r},"
        if twice := [i for i, count in counts.items() if count > 1]:
            msg = f"{told} gave some of them twice: {', '.join(twice[:SHOWN])}."
            raise TeacherError(msg)
        if missing := [i for i in ask.document_ids if i not in counts]:
            msg = (
                f"{told} left out {len(missing)}: {', '.join(missing[:SHOWN])}. A teacher must score all that it is "
                "given: raise its top_k, and turn off whatever filters in it."
            )
            raise TeacherError(msg)
        if strange := [i for i in counts if i not in asked]:
            msg = f"{told} gave others: {', '.join(strange[:SHOWN])}."
            raise TeacherError(msg)
        unscored = sum(document.score is None for document in found)
        gives = self.gives if self._answered else ("ranks" if unscored else "scores")
        if unscored not in {0, len(found)} or (unscored > 0) is not (gives == "ranks"):
            msg = f"{told} gave a score to {len(found) - unscored}; it must score all documents of all lists, or none."
            raise TeacherError(msg)
        values = {d.id: float(-rank if d.score is None else d.score) for rank, d in enumerate(found)}
        if bad := [i for i, value in values.items() if not math.isfinite(value)]:
            msg = f"{told} gave scores that are not finite: {', '.join(f'{i} ({values[i]})' for i in bad[:SHOWN])}."
            raise TeacherError(msg)
        self.gives, self._answered = gives, True
        return np.array([values[i] for i in ask.document_ids], dtype=np.float32)

    def _warn_of_scaling(self, scores: np.ndarray, ask: Ask) -> None:
        if (
            not self._warned
            and "scale_score" not in self._takes
            and len(scores) > 1
            and 0 <= scores.min() < scores.max() <= 1
        ):
            self._warned = True
            logger.warning(
                "%s: all scores for the query %r lie between 0 and 1, so they may be squashed. Margins then mean "
                "little; give ListwiseKL a teacher_temperature well below 1.",
                self._type,
                ask.query,
            )
