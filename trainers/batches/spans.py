# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Batches of spans: stretches of whole sentences of one document, two at a time, each to be rebuilt from the other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal, get_args

import numpy as np

from retort.students.segmentation import sentence_spans, token_spans
from retort.students.towers import max_tokens
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.batches.masking import (
    MASKED,
    PASSES,
    check_mask_token,
    count_tokens,
    hide_words,
    mask_tokens,
    tokenize,
)
from retort.trainers.batches.sampling import picked
from retort.trainers.data.texts import TextStore
from retort.trainers.roles import BatchSource, StageInputs
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.runtime.rng import rng_for

SpanContext = Literal["mixed", "nearby", "overlap", "random", "self"]
MIXED: tuple[SpanContext, ...] = ("nearby", "overlap", "random")
NEAR = 100  # spans between which `random` chooses, to both sides
Range = tuple[int, int]


@dataclass(frozen=True)
class Document:
    """
    A document in sentences, and these in spans.

    :param text:
        Its text.
    :param sentences:
        Character offsets of its sentences, in order.
    :param counts:
        Tokens of each.
    :param spans:
        Ranges of sentences, in order: together they are all.
    """

    text: str
    sentences: list[Range]
    counts: list[int]
    spans: list[Range]

    def text_of(self, sentences: Range) -> str:
        """Give the text of a range of sentences."""
        first, end = sentences
        return self.text[self.sentences[first][0] : self.sentences[end - 1][1]]


def join_passages(corpus: TextStore, group: str | None) -> list[str]:
    """
    Join the passages of each document.

    :param corpus:
        Passages.
    :param group:
        A pattern: passages whose ids match it, with the same first group, are one document, in their order. None: each
        is a document of its own.
    :returns:
        Texts, with a blank line between passages.
    """
    joined: dict[tuple[str, ...], list[str]] = {}
    for name, text in zip(corpus.ids, corpus.texts, strict=True):
        match = re.fullmatch(group, name) if group else None
        joined.setdefault(("group", match[1]) if match else ("id", name), []).append(text)
    return ["\n\n".join(texts) for texts in joined.values()]


def pack(counts: Sequence[int], targets: Iterator[int]) -> list[Range]:
    """
    Put neighbours together as long as their tokens fit a target, one more target a range.

    :returns:
        Ranges in order, which together are all; one that is longer than its target alone is a range of its own.
    """
    ranges, first, total, target = [], 0, 0, next(targets)
    for place, count in enumerate(counts):
        if place > first and total + count > target:
            ranges.append((first, place))
            first, total, target = place, 0, next(targets)
        total += count
    return [*ranges, (first, len(counts))] if counts else []


def cut_document(text: str, tokenizer: Any, room: int, targets: Iterator[int]) -> Document:
    """
    Cut a text into sentences and spans. A sentence of more than `room` tokens is cut between words.

    :param text:
        The text.
    :param tokenizer:
        The student's.
    :param room:
        Tokens of a span, at most.
    :param targets:
        The same of each of its spans.
    """
    whole = sentence_spans(text)
    sentences, counts = [], []
    for (start, end), count in zip(whole, count_tokens(tokenizer, [text[i:j] for i, j in whole]), strict=True):
        pieces, sizes = [(start, end)], [count]
        if count > room:
            words = [(start + left, start + right) for left, right in token_spans(text[start:end])]
            own = count_tokens(tokenizer, [text[left:right] for left, right in words])
            ranges = pack(own, repeat(room))
            pieces = [(words[first][0], words[last - 1][1]) for first, last in ranges]
            sizes = [sum(own[first:last]) for first, last in ranges]
        sentences += pieces
        counts += sizes
    return Document(text, sentences, counts, pack(counts, targets))


def context_of(document: Document, span: int, kind: SpanContext, room: int, rng: np.random.Generator) -> Range:
    """
    Choose the sentences that are to be restored from a span.

    :param document:
        The document; it has two spans at least.
    :param span:
        The span.
    :param kind:
        `nearby`: the span before or after. `overlap`: the span's last sentences, up to half of them, and what follows
        as far as there is room; of the last span its first, and what is before; where the span is one sentence, or
        nothing else has room, as `nearby`. `random`: any other span among the 100 to either side.
    :param room:
        Tokens at most.
    :param rng:
        Where the draws come from.
    """
    spans, counts = document.spans, document.counts
    if kind == "nearby":
        return spans[rng.choice([n for n in (span - 1, span + 1) if 0 <= n < len(spans)])]
    if kind == "random":
        near = [n for n in range(max(0, span - NEAR), min(len(spans), span + NEAR + 1)) if n != span]
        return spans[rng.choice(near)]
    first, end = spans[span]
    shared = int(rng.integers(1, max(1, (end - first) // 2) + 1))
    last = span == len(spans) - 1
    order = range(first + shared - 1, -1, -1) if last else range(end - shared, len(counts))
    total = np.cumsum([counts[place] for place in order])
    fitting = int(np.searchsorted(total, room, side="right"))
    if end - first < 2 or fitting <= shared:  # noqa: PLR2004 - else it would be the span itself, or a part of it
        return context_of(document, span, "nearby", room, rng)
    return (order[fitting - 1], order[0] + 1) if last else (order[0], order[fitting - 1] + 1)


def swapped(pairs: list[Any]) -> list[Any]:
    """
    Exchange the two of each pair: what the encoder reads of one, the decoder rebuilds of the other.

    >>> swapped(["A1", "B1", "A2", "B2"])
    ['B1', 'A1', 'B2', 'A2']
    """
    return [pairs[place ^ 1] for place in range(len(pairs))]


class SpanBatches(BatchSource):
    """
    Pairs of masked spans, for `retort.trainers.methods.cotmae.ContextReconstruction`.

    Documents are cut into spans of whole sentences; a document of fewer than two is left out. In an epoch each gives
    one span, at random, with a context of it. Of both the encoder reads one masked form, and a decoder rebuilds another
    from the other's vector. `batch_size` counts spans, two a document.

    :param context:
        What is rebuilt from a span (see `context_of`). `mixed`: any of the three. `self`: as `mixed`, but each span is
        rebuilt from its own vector, for comparison.
    :param length:
        Tokens of a span, at most, special ones included; no more than the student reads.
    :param short:
        Share of spans whose length is drawn evenly below that.
    :param encoder_share:
        Share of tokens that are hidden from the encoder.
    :param decoder_share:
        The same of decoders.
    :param group:
        As of `join_passages`; by default passages that retort cut, `FILE#0`, `FILE#1`, are one document.
    :raises ValueError:
        If a number is out of its range, or `group` is no pattern with a group.

    ```yaml
    batches: {type: retort.trainers.batches.spans.SpanBatches, init_parameters: {context: mixed, length: 128}}
    ```
    """

    documents_alone = True

    def __init__(
        self,
        *,
        context: SpanContext = "mixed",
        length: int = 128,
        short: float = 0.15,
        encoder_share: float = 0.3,
        decoder_share: float = 0.45,
        group: str | None = r"(.+)#\d+",
    ) -> None:
        if context not in get_args(SpanContext):
            msg = f"SpanBatches: context must be one of {', '.join(get_args(SpanContext))}; it is {context!r}."
            raise ValueError(msg)
        if not (0 <= short <= 1 and 0 < encoder_share < 1 and 0 < decoder_share < 1 and length > 4):  # noqa: PLR2004
            msg = "SpanBatches: shares lie between 0 and 1, and length is above 4."
            raise ValueError(msg)
        if group is not None and re.compile(group).groups < 1:
            msg = f"SpanBatches: group={group!r} needs a group in brackets, which names the document."
            raise ValueError(msg)
        self.context, self.length, self.short, self.group = context, length, short, group
        self.encoder_share, self.decoder_share = encoder_share, decoder_share

    def open(self, inputs: StageInputs) -> None:
        """
        Cut the documents.

        :raises RecipeError:
            If none has two spans, or the student cannot read masked texts.
        """
        self._seed, self._tokenizer = inputs.seed, inputs.student.tokenizer
        check_mask_token(self._tokenizer, "SpanBatches")
        self._pairs = max(1, inputs.batch_size // 2)
        self._length = min(self.length, max_tokens(inputs.student, "document") or self.length)
        self._room = self._length - self._tokenizer.num_special_tokens_to_add()
        if self._room < 2:  # noqa: PLR2004 - a span has two tokens
            msg = f"SpanBatches: the student reads {self._length} tokens of a document; raise max_tokens.document."
            raise RecipeError(msg)
        texts = join_passages(inputs.context.data.corpus, self.group)
        documents = (
            cut_document(text, self._tokenizer, self._room, self._targets(row)) for row, text in enumerate(texts)
        )
        self._documents = [document for document in documents if len(document.spans) > 1]
        self.size = len(self._documents)
        if not self.size:
            msg = (
                f"SpanBatches: none of {len(texts)} documents is longer than a span of {self._length} tokens. Lower "
                "`length`, or let `group` join the passages of a document."
            )
            raise RecipeError(msg)

    def _targets(self, row: int) -> Iterator[int]:
        rng = rng_for(self._seed, "lengths", row)
        while True:
            yield int(rng.integers(2, self._room + 1)) if rng.random() < self.short else self._room

    def pair_texts(self, row: int, epoch: int) -> tuple[str, str]:
        """Give the two texts of a document in an epoch."""
        document, rng = self._documents[row], rng_for(self._seed, "span", row, epoch)
        span = int(rng.integers(len(document.spans)))
        kind = MIXED[rng.integers(len(MIXED))] if self.context in {"mixed", "self"} else self.context
        other = context_of(document, span, kind, self._room, rng)
        return document.text_of(document.spans[span]), document.text_of(other)

    def batch(self, step: int) -> CandidateBatch:
        """Build the batch of a step, on the CPU."""
        rows, epochs = picked(self._seed, self.size, self._pairs, step)
        texts = [
            tokenize(self._tokenizer, text, self._length)
            for row, epoch in zip(rows.tolist(), epochs.tolist(), strict=True)
            for text in self.pair_texts(row, epoch)
        ]

        def masked(share: float, purpose: str) -> list[Any]:
            rng = rng_for(self._seed, purpose, step)
            return [mask_tokens(text, hide_words(text, share, rng), self._tokenizer, rng) for text in texts]

        seen, rebuilt = masked(self.encoder_share, "encoder"), masked(self.decoder_share, "decoder")
        return CandidateBatch.without_lists(
            [],
            [tuple(text.ids.tolist()) for text in seen],
            document_extras={
                MASKED: seen,
                PASSES: ["mlm"] * len(seen),
                "context": rebuilt if self.context == "self" else swapped(rebuilt),
            },
        )
