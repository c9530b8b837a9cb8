# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Texts that nobody wrote, for what a corpus does not say: words of a tokenizer's vocabulary, in random order."""

from __future__ import annotations

from typing import Any

from retort.trainers.data.texts import TextStore
from retort.trainers.runtime.errors import DataError
from retort.trainers.runtime.rng import rng_for

LEAST, MOST = 2, 24  # words of a text
FEWEST_WORDS = 20


def whole_words(tokenizer: Any) -> list[str]:
    """
    List the words of at least two letters that a tokenizer has as one token, in the order of its vocabulary.

    :param tokenizer:
        One of transformers.
    """
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    words = [(tokenizer.convert_tokens_to_string([token]).strip(), place) for token, place in tokens]
    words = [(word, place) for word, place in words if len(word) > 1 and word.isalpha()]
    cut = tokenizer([word for word, _ in words], add_special_tokens=False)["input_ids"]
    return [word for (word, place), places in zip(words, cut, strict=True) if places == [place]]


def made_texts(tokenizer: Any, count: int) -> TextStore:
    """
    Draw texts of random words, the same each time.

    A student of one corpus learns its words alone, and forgets what its teacher makes of others; these have all.

    :param tokenizer:
        The student's, one of transformers.
    :param count:
        How many texts.
    :returns:
        At most so many: doubles are left out.
    :raises DataError:
        If the vocabulary has hardly any whole words.
    """
    words = whole_words(tokenizer)
    if len(words) < FEWEST_WORDS:
        msg = f"made texts: the student's vocabulary has {len(words)} whole words; {FEWEST_WORDS} are needed."
        raise DataError(msg)
    rng = rng_for("made texts", len(words))
    lengths = rng.integers(LEAST, MOST + 1, count)
    drawn = (" ".join(words[i] for i in rng.integers(len(words), size=length)) for length in lengths)
    texts = list(dict.fromkeys(drawn))
    return TextStore(map(str, range(len(texts))), texts)
