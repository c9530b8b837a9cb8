# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The beginning of long texts: enough for what a model reads, so that the rest is not tokenised."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

CHARACTERS = 10  # a token of most texts has fewer
_LETTER = r"[^\W\d_]"
# The last space between two letters: no mark, number or line break stands there that a tokenizer may join.
_LAST_GAP = re.compile(rf".*{_LETTER}(?= {_LETTER})", re.DOTALL)


def heads(tokenizer: Any, texts: Sequence[str], tokens: int | None) -> list[str]:
    """
    Cut long texts after a word, so far behind that what is left most likely has as many tokens as are read.

    A head's tokens are the first of its text's. So one with fewer than `tokens` says too little: take the text.

    :param tokenizer:
        Of transformers. Texts stay whole with one that may join words, and one that is none of `tokenizers`.
    :param texts:
        `n` texts.
    :param tokens:
        How many of each are read, special ones among them; None: all.
    :returns:
        `n` texts; those that are not cut are the same objects.
    """
    most = None if tokens is None else CHARACTERS * tokens
    if most is None or all(len(text) <= most for text in texts) or not _splits_words(tokenizer):
        return list(texts)
    return [_head(text, most) for text in texts]


def token_offsets(tokenizer: Any, text: str, tokens: int | None) -> list[tuple[int, int]]:
    """
    Find the first tokens of a text, without special ones and those of no character.

    :param tokenizer:
        Of transformers.
    :param text:
        The text.
    :param tokens:
        How many, at most; None: all.
    :returns:
        Character offsets `(start, end)` in order.
    """
    offsets: list[tuple[int, int]] = []
    for part in dict.fromkeys((*heads(tokenizer, [text], tokens), text)):
        read = tokenizer(part, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = [(start, end) for start, end in read["offset_mapping"] if end > start][:tokens]
        if len(offsets) == tokens:
            break
    return offsets


def _head(text: str, most: int) -> str:
    gap = _LAST_GAP.match(text, 0, most) if len(text) > most else None
    return text if gap is None else gap.group()


def _splits_words(tokenizer: Any) -> bool:
    """Tell whether no token reaches over a space, and the first ones are kept."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if getattr(backend, "pre_tokenizer", None) is None or tokenizer.truncation_side != "right":
        return False
    said = "a b" if backend.normalizer is None else backend.normalizer.normalize_str("a b")
    pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(said)]
    apart = not any("a" in piece and "b" in piece for piece in pieces)
    return apart and not any(" " in word for word in tokenizer.get_added_vocab())
