# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Which language a corpus is in, by its stop words, and how that language's words are stemmed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import chain

import numpy as np

# Those that both Snowball stems and bm25s has stop words of; English is stemmed as Porter did, as is all else.
LANGUAGES = (
    "danish",
    "dutch",
    "french",
    "german",
    "italian",
    "norwegian",
    "portuguese",
    "russian",
    "spanish",
    "swedish",
    "turkish",
)
ENGLISH = "english"
SAMPLE, CHARACTERS = 1000, 1000  # texts, and the first characters of each, that are looked at
LEAST_WORDS = 5  # of a language's stop words, that occur: each may be a word of another language
LEAST_SHARE = 0.15  # of all words, that are a language's stop words
MARGIN = 2.0  # times as many as English ones: languages share short words


@cache
def stop_words(language: str) -> frozenset[str]:
    """Return a language's stop words, in lower case."""
    from bm25s import stopwords

    name = "EN" if language == ENGLISH else language.upper()
    return frozenset(word.lower() for word in getattr(stopwords, f"STOPWORDS_{name}"))


def stemmer_name(language: str) -> str:
    """Return Snowball's name of a language's stemmer."""
    return "porter" if language == ENGLISH else language


def language_of(texts: Sequence[str]) -> str:
    """
    Tell the language that most of some texts are in.

    :param texts:
        The texts; of many a sample, the same each time.
    :returns:
        One of `LANGUAGES`, if its stop words are common in the texts; otherwise `english`.
    """
    rows = np.linspace(0, len(texts) - 1, min(len(texts), SAMPLE)).astype(int)
    words = Counter(chain.from_iterable(texts[row][:CHARACTERS].lower().split() for row in rows))
    counts = {name: sum(words[word] for word in stop_words(name)) for name in (ENGLISH, *LANGUAGES)}
    best = max(LANGUAGES, key=lambda name: counts[name])
    common = counts[best] >= max(LEAST_SHARE * words.total(), MARGIN * counts[ENGLISH])
    return best if common and len(words.keys() & stop_words(best)) >= LEAST_WORDS else ENGLISH
