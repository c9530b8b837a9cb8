# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
r"""
MASTER: multi-task pre-trained bottlenecked masked auto-encoders (Zhou et al. 2023, arXiv 2212.07841).

One task cannot press all that a passage means into its vector. The encoder reads a passage in three masked forms, and
five weak decoders rebuild different texts from the vectors:

| the encoder reads | a decoder rebuilds | hidden from it |
|---|---|---|
| the passage, 30% hidden (`mlm`) | the passage (`keywords`) | 50%, rare words first |
| | the passage's queries (`queries`) | 50% |
| | a generator's continuation (`continuation`) | 50% |
| its first half, 30% hidden (`mlm_half`) | its second half (`neighbour`) | 50%, rare words first |
| the passage, 50% hidden (`mlm_complement`) | the passage (`complement`) | what the encoder saw |

$$L = \sum_{3} \mathrm{MLM} + \sum_{5} \mathrm{CE}(\mathrm{dec}_k([v; \mathrm{Emb}(\tilde y_k)_{1:}]), y_k)$$

all weights 1. As the official code (microsoft/SimXNS, `MASTER/pretrain`), but for this: budgets count tokens without
special ones; a rare word's weight is $1 / (f + 5)$, as with $1 / f$ words that come once decide alone; keywords are
drawn one by one; a passage without queries or continuation has no such task, where the code takes the passage itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from retort.students.segmentation import token_spans
from retort.students.towers import max_tokens
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.batches.masking import (
    MASKED,
    PASSES,
    MaskedText,
    TokenizedText,
    check_mask_token,
    crop,
    hide_keywords,
    hide_words,
    mask_tokens,
    tokenize,
    words_of,
)
from retort.trainers.batches.sampling import picked
from retort.trainers.data.pseudo_queries import TrainingQuestions
from retort.trainers.decoders import Reconstruction
from retort.trainers.roles import BatchSource, QuerySource, StageInputs
from retort.trainers.runtime.rng import rng_for

READ = ("mlm", "mlm_half", "mlm_complement")
TASKS = ("keywords", "queries", "continuation", "neighbour", "complement")


def keyword_weights(counts: Sequence[int], smoothing: float = 5.0) -> np.ndarray:
    """
    Weigh words by how rare they are: `1 / (count + smoothing)`, one that is not counted as if it came once.

    >>> keyword_weights([1000, 20, 40, 10, 0], smoothing=0.0).tolist()
    [0.001, 0.05, 0.025, 0.1, 1.0]
    """
    return 1 / (np.maximum(counts, 1) + smoothing)


def halves(text: str) -> tuple[str, str]:
    """Cut a text in two between words; the first half is the longer, and all of one word."""
    words = token_spans(text)
    place = (len(words) + 1) // 2
    border = words[place][0] if place < len(words) else len(text)
    return text[:border].rstrip(), text[border:]


class PassageBatches(BatchSource):
    """
    Passages in three masked forms, and what decoders are to rebuild of each, for `MultiTaskReconstruction`.

    `batch_size` counts forms, three a passage. A passage's queries are those of the stage: of the data, or of the
    stage's `queries`, such as `GeneratedQuestions` with any generator of Haystack; those that the data have none of are
    left out.

    :param length:
        Tokens of a passage, at most, special ones included; a longer one is cropped at random.
    :param encoder_share:
        Share of tokens that are hidden from the encoder.
    :param decoder_share:
        The same of decoders, and of the complementary form.
    :param smoothing:
        As of `keyword_weights`.
    :param continuations:
        `{type, init_parameters}` of a query source whose texts continue passages, as `GeneratedQuestions` with a
        prompt for that; None: there are none.
    :raises ValueError:
        If a number is out of its range.

    ```yaml
    batches: {type: retort.trainers.methods.master.PassageBatches, init_parameters: {length: 128}}
    queries:
      type: retort.trainers.data.pseudo_queries.GeneratedQuestions
      init_parameters: {generator: {type: haystack.components.generators.chat.openai.OpenAIChatGenerator}, revision: v1}
    ```
    """

    documents_alone = True

    def __init__(
        self,
        *,
        length: int = 128,
        encoder_share: float = 0.3,
        decoder_share: float = 0.5,
        smoothing: float = 5.0,
        continuations: dict[str, Any] | None = None,
    ) -> None:
        if not (0 < encoder_share < 1 and 0 < decoder_share < 1 and smoothing >= 0 and length > 4):  # noqa: PLR2004
            msg = "PassageBatches: shares lie between 0 and 1, smoothing is at least 0, and length above 4."
            raise ValueError(msg)
        self.length, self.smoothing = length, smoothing
        self.encoder_share, self.decoder_share = encoder_share, decoder_share
        self.source_specs = {} if continuations is None else {"continuations": continuations}
        self._sources: dict[str, QuerySource] = {}

    def bind(self, sources: dict[str, QuerySource]) -> None:
        """Take up what continues passages."""
        self._sources = sources

    def open(self, inputs: StageInputs) -> None:
        """
        Take up the passages, count their words, and ask for what else is rebuilt.

        :raises ValueError:
            If the student's tokenizer has no mask token.
        """
        self._seed, self._tokenizer, data = inputs.seed, inputs.student.tokenizer, inputs.context.data
        check_mask_token(self._tokenizer, "PassageBatches")
        self._passages = max(1, inputs.batch_size // len(READ))
        self._length = min(self.length, max_tokens(inputs.student, "document") or self.length)
        self._room = self._length - self._tokenizer.num_special_tokens_to_add()
        self._texts, self.size = data.corpus.texts, len(data.corpus)
        self._counts = Counter(word for text in self._texts for word in words_of(tokenize(self._tokenizer, text, None)))
        of = {"queries": TrainingQuestions(most=len(data.queries)).of(data)}
        for name, source in self._sources.items():
            source.open(inputs.context, 0)
            of[name] = source.of(data)
        separator = f" {self._tokenizer.sep_token or ''} "
        self._queries = [separator.join(texts) for texts in of["queries"]]
        self._continuations = [" ".join(texts) for texts in of.get("continuations", [[]] * self.size)]

    def batch(self, step: int) -> CandidateBatch:
        """Build the batch of a step, on the CPU."""
        rows, _ = picked(self._seed, self.size, self._passages, step)
        extras: dict[str, list[Any]] = {name: [] for name in (MASKED, *TASKS)}
        for place, row in enumerate(rows.tolist()):
            for name, values in self._forms(row, rng_for(self._seed, "passage", step, place)).items():
                extras[name] += values
        documents = [tuple(text.ids.tolist()) for text in extras[MASKED]]
        return CandidateBatch.without_lists([], documents, document_extras={**extras, PASSES: list(READ) * len(rows)})

    def _forms(self, row: int, rng: np.random.Generator) -> dict[str, list[MaskedText | None]]:
        """Give the three forms of a passage, and per task what is rebuilt of each."""

        def words(text: TokenizedText, share: float) -> MaskedText:
            return self._masked(text, hide_words(text, share, rng), rng)

        def keywords(text: TokenizedText) -> MaskedText:
            weights = keyword_weights([self._counts[word] for word in words_of(text)], self.smoothing)
            return self._masked(text, hide_keywords(text, self.decoder_share, weights, rng), rng)

        text = crop(self._tokenizer, self._texts[row], self._room, rng)
        first, second = halves(text)
        passage, half = self._read(text), self._read(first)
        drawn = hide_words(passage, self.decoder_share, rng)
        others = (
            self._read(crop(self._tokenizer, of[row], self._room, rng)) if of[row] else None
            for of in (self._queries, self._continuations)
        )
        queries, continuation = (None if of is None else words(of, self.decoder_share) for of in others)
        rest = self._masked(passage, ~drawn & (passage.words >= 0), rng)
        return {
            MASKED: [
                words(passage, self.encoder_share),
                words(half, self.encoder_share),
                self._masked(passage, drawn, rng),
            ],
            "keywords": [keywords(passage), None, None],
            "queries": [queries, None, None],
            "continuation": [continuation, None, None],
            "neighbour": [None, keywords(self._read(second)) if second else None, None],
            "complement": [None, None, rest],
        }

    def _read(self, text: str) -> TokenizedText:
        return tokenize(self._tokenizer, text, self._length)

    def _masked(self, text: TokenizedText, hidden: np.ndarray, rng: np.random.Generator) -> MaskedText:
        return mask_tokens(text, hidden, self._tokenizer, rng)


class MultiTaskReconstruction(Reconstruction):
    """
    Three masked-LM losses and those of up to five decoders, named as in the table above.

    :param layers:
        Layers of each decoder.
    :param weight:
        Weight of the decoders' terms; 0 leaves them out.
    :param tasks:
        Which decoders there are.
    :param shuffle_every:
        As of `Reconstruction`: every so many steps, `TASK_shuffled` and `TASK_matched` are logged.
    :raises ValueError:
        If there is no such task, or a number is out of its range.

    ```yaml
    objectives: [{type: retort.trainers.methods.master.MultiTaskReconstruction, init_parameters: {layers: 2}}]
    ```
    """

    passes = READ

    def __init__(
        self, *, layers: int = 2, weight: float = 1.0, tasks: Sequence[str] = TASKS, shuffle_every: int = 10
    ) -> None:
        super().__init__(layers=layers, weight=weight, shuffle_every=shuffle_every)
        if odd := [task for task in tasks if task not in TASKS]:
            msg = f"MultiTaskReconstruction: there is no task {odd[0]!r}; there are {', '.join(TASKS)}."
            raise ValueError(msg)
        self.tasks = tuple(tasks)
