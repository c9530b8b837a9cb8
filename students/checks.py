# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Checks of what components are given."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral

HALF = "half of a surrogate pair, which is no character"
_HALF = re.compile("[\ud800-\udfff]")


def has_half(text: str) -> bool:
    """Tell whether a text holds half of a surrogate pair: no tokenizer takes it, and no file."""
    return _HALF.search(text) is not None


@contextmanager
def characters(texts: Iterable[object]) -> Iterator[None]:
    """
    Turn what tokenizers say of half of a surrogate pair into one error.

    :param texts:
        What is encoded.
    :raises ValueError:
        If it failed, and a text holds such a half.
    """
    try:
        yield
    except (TypeError, UnicodeEncodeError) as error:
        for number, text in enumerate(texts):
            if isinstance(text, str) and has_half(text):
                msg = f"text {number} holds {HALF}: clean it with .encode(errors='replace').decode()."
                raise ValueError(msg) from error
        raise


def positive(name: str, value: int) -> int:
    """
    Return a count.

    :param name:
        The parameter's name, for the message.
    :param value:
        The count.
    :raises ValueError:
        If it is no whole number above 0.
    """
    if not isinstance(value, Integral):
        msg = f"{name} must be a whole number; it is {value!r}."
        raise ValueError(msg)
    if value <= 0:
        msg = f"{name} must be above 0; it is {value}."
        raise ValueError(msg)
    return value
