# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Documents seen through questions that they answer: one text, and so one vector, a question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

QUERY_TOKENS = 16  # a long question would leave no room for the document


def view_text(tokenizer: Any, query: str, document: str, most: int = QUERY_TOKENS) -> str:
    """
    Put a question before a document: `query [SEP] document`, with the tokenizer's own separator.

    :param tokenizer:
        Of transformers.
    :param query:
        The question; cut after its first `most` tokens.
    :param document:
        The document; alone if the question is empty.
    :param most:
        Tokens of the question.
    :raises ValueError:
        If the tokenizer has no separator.
    """
    if not query.strip():
        return document
    if tokenizer.sep_token is None:
        msg = "The model's tokenizer has no separator token to put between a question and a document."
        raise ValueError(msg)
    ids = tokenizer(query, add_special_tokens=False, return_offsets_mapping=True)
    if len(ids["input_ids"]) > most:
        query = query[: ids["offset_mapping"][most - 1][1]]
    return f"{query} {tokenizer.sep_token} {document}"


def view_texts(tokenizer: Any, queries: Sequence[str], document: str, most: int = QUERY_TOKENS) -> list[str]:
    """List a document's views, one a question; without questions the document as it is."""
    return [view_text(tokenizer, query, document, most) for query in queries if query.strip()] or [document]
