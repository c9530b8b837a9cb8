# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Texts of which some words are hidden, for masked language models: whole words, of any tokenizer and any script."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from retort.students.segmentation import token_spans

MASKED, PASSES = "masked", "passes"  # document extras: what the encoder reads, and the term that each text is of
IGNORED = -100  # label of tokens that are not hidden, as torch's cross entropy has it
MOST_HIDDEN = 512
REPLACED, RANDOM = 0.8, 0.1  # shares of hidden tokens that become the mask token, and any token (Devlin et al. 2019)


@dataclass(frozen=True)
class TokenizedText:
    """
    A text as a model reads it.

    :param ids:
        `[t]` token ids, special tokens among them.
    :param words:
        `[t]` number of the word that a token belongs to; -1 where it is never hidden: special tokens, and the first
        position, which decoders give to the sentence vector.
    """

    ids: np.ndarray
    words: np.ndarray

    @property
    def size(self) -> int:
        """Tokens that may be hidden."""
        return int((self.words >= 0).sum())


@dataclass(frozen=True)
class MaskedText:
    """
    A text of which some tokens are hidden.

    :param ids:
        `[t]` token ids that a model sees.
    :param labels:
        `[t]` token ids where they are hidden, else `IGNORED`.
    """

    ids: np.ndarray
    labels: np.ndarray


def tokenize(tokenizer: Any, text: str, length: int | None) -> TokenizedText:
    """
    Tokenise a text, and say which tokens are pieces of one word.

    Pieces of one word are one to the tokenizer (its `word_ids`) and to `token_spans`: tokenizers whose words end at
    white space alone would take a sentence of Han characters for a word. A tokenizer in Python has words of one token.

    :param tokenizer:
        A tokenizer of transformers.
    :param text:
        The text; what is behind `length` tokens is cut off.
    :param length:
        Tokens at most, special ones included; None: any number.
    """
    fast = tokenizer.is_fast
    options = {"truncation": length is not None, "max_length": length, "verbose": False}
    read = tokenizer(text, **options, return_offsets_mapping=fast)
    ids = np.array(read["input_ids"], dtype=np.int64)
    special = np.isin(ids, tokenizer.all_special_ids)
    special[:1] = True
    words = np.arange(len(special))
    if fast:
        starts = [start for start, _ in token_spans(text)]
        # A token may begin with the space before its word: its last character says where it belongs.
        places = [bisect_right(starts, max(0, end - 1)) for _, end in read["offset_mapping"]]
        pieces = list(zip(read.word_ids(), places, strict=True))
        words = np.cumsum([0, *(one != other for one, other in pairwise(pieces))])
    return TokenizedText(ids, np.where(special, -1, words))


def count_tokens(tokenizer: Any, texts: list[str]) -> list[int]:
    """Count the tokens of each text, without special ones."""
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]] if texts else []


def crop(tokenizer: Any, text: str, room: int, rng: np.random.Generator) -> str:
    """Take a stretch of whole words, from a random place, of `room` tokens at most; without special ones."""
    words = token_spans(text)
    before = np.cumsum([0, *count_tokens(tokenizer, [text[start:end] for start, end in words])])
    if before[-1] <= room:
        return text
    first = int(rng.integers(np.searchsorted(before, before[-1] - room, side="right")))
    end = max(first + 1, int(np.searchsorted(before, before[first] + room, side="right")) - 1)
    return text[words[first][0] : words[end - 1][1]]


def budget(size: int, share: float) -> int:
    """
    Say how many of `size` tokens are to be hidden: at least one; halves are rounded to even.

    >>> budget(50, 0.45), budget(3, 0.3)
    (22, 1)
    """
    return min(MOST_HIDDEN, max(1, round(size * share)))


def hide_words(text: TokenizedText, share: float, rng: np.random.Generator) -> np.ndarray:
    """
    Choose whole words at random; what would exceed the budget is left out, so that fewer tokens may be hidden.

    :returns:
        `[t]` bool.
    """
    sizes = np.bincount(text.words[text.words >= 0])
    chosen, left = [], budget(text.size, share)
    for word in rng.permutation(np.flatnonzero(sizes)).tolist():
        if sizes[word] <= left:
            chosen.append(word)
            left -= sizes[word]
    return np.isin(text.words, chosen)


def hide_keywords(text: TokenizedText, share: float, weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """
    Choose whole words with a probability in proportion to their weights, until the budget is met or exceeded.

    :param weights:
        Of each word of the text that may be hidden, in the order of `words_of`.
    :returns:
        `[t]` bool.
    """
    sizes = np.bincount(text.words[text.words >= 0])
    if not len(words := np.flatnonzero(sizes)):
        return np.zeros(len(text.ids), dtype=bool)
    chosen = rng.choice(words, len(words), replace=False, p=weights / weights.sum())
    enough = int(np.searchsorted(np.cumsum(sizes[chosen]), budget(text.size, share))) + 1
    return np.isin(text.words, chosen[:enough])


def words_of(text: TokenizedText) -> list[tuple[int, ...]]:
    """List the words of a text that may be hidden, each as its token ids."""
    kept = text.words >= 0
    words, ids = text.words[kept], text.ids[kept]
    borders = np.flatnonzero(np.diff(words)) + 1
    return [tuple(own.tolist()) for own in np.split(ids, borders)] if len(words) else []


def mask_tokens(text: TokenizedText, hidden: np.ndarray, tokenizer: Any, rng: np.random.Generator) -> MaskedText:
    """
    Replace hidden tokens: 80% by the mask token, 10% by any token; 10% stay, and are to be predicted as well.

    :param hidden:
        `[t]` bool.
    """
    drawn = rng.random(len(text.ids))
    others = rng.integers(0, len(tokenizer), len(text.ids))
    ids = np.where(drawn < REPLACED, tokenizer.mask_token_id, np.where(drawn < REPLACED + RANDOM, others, text.ids))
    return MaskedText(np.where(hidden, ids, text.ids), np.where(hidden, text.ids, IGNORED))


def check_mask_token(tokenizer: Any, kind: str) -> None:
    """
    Refuse a student without a tokenizer that has a mask token.

    :raises ValueError:
        If it has none; `kind` is who needs it.
    """
    if getattr(tokenizer, "mask_token_id", None) is None:
        msg = f"{kind}: the student's tokenizer has no mask token. Take a trunk that was a masked language model."
        raise ValueError(msg)
