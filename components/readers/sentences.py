# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Cutting a text into sentences that can be cited."""

import re

# A sentence ends at a blank line, before a list item, or after a full stop that a capital or a digit follows.
_BREAK = re.compile(
    r"\n\s*\n"
    r"|\n(?=\s*(?:[-*\u2022]|\d+[.)]|:param|:return|>>>)\s)"
    r"|(?:(?<=[.!?])|(?<=[.!?][\"'\u201d)]))\s+(?=[\"'\u201c(]*[A-Z0-9])"
)
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|Mr|Mrs|Dr|No|Fig|approx|St)\.|\b[A-Z]\.)$")
_FEWEST_WORDS = 3


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """
    Find the sentences of a text.

    :param text:
        The text.
    :returns:
        Character offsets `(start, end)` in order, without surrounding white space. A piece of fewer than three words
        joins the one before.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for match in [*_BREAK.finditer(text), None]:
        end = match.start() if match else len(text)
        if match and _ABBREVIATION.search(text[start:end]) and "\n\n" not in match.group():
            continue
        piece = text[start:end]
        left, right = start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
        if left < right:
            if spans and len(text[left:right].split()) < _FEWEST_WORDS:
                spans[-1] = (spans[-1][0], right)
            else:
                spans.append((left, right))
        start = match.end() if match else end
    return spans
