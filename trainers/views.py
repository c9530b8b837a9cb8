# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Documents seen with questions: what transforms of their texts share, and their vectors in search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from retort.students.hashing import canonical_json, hash_text
from retort.students.views import ViewRule, mean_of_views
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.roles import QuerySource, TextTransform
from retort.trainers.runtime.errors import RecipeError


@dataclass(frozen=True)
class DocumentViews:
    """
    The texts that stand for documents in search.

    :param texts:
        Of each document by its id, one at least.
    :param rule:
        How their vectors count (`combine`), for the student's manifest.
    """

    texts: Mapping[str, list[str]]
    rule: ViewRule

    @cached_property
    def key(self) -> str:
        """Identify the texts and what becomes of them."""
        return hash_text(canonical_json([self.texts, asdict(self.rule)]))


def document_vectors(
    corpus: TextStore, encode: Callable[[list[str]], Any], similarity: str, views: DocumentViews | None = None
) -> tuple[Any, np.ndarray | None]:
    """
    Encode documents as search sees them.

    :param corpus:
        `n` documents.
    :param encode:
        Gives the vectors of texts, `[m, d]`.
    :param similarity:
        How they are compared.
    :param views:
        What stands for the documents; None: they themselves.
    :returns:
        A vector a document, `[n, d]`, and None; or those of all views, `[m, d]`, of which the best counts, and where
        each document's begin, `[n]`.
    """
    if views is None:
        return encode(corpus.items), None
    own = [views.texts[i] for i in corpus.ids]
    starts = np.cumsum([0, *map(len, own)])[:-1]
    vectors = encode([text for texts in own for text in texts])
    return (mean_of_views(vectors, starts, similarity), None) if views.rule.combine == "mean" else (vectors, starts)


class QuestionTexts(TextTransform):
    """
    Base of transforms that join documents and questions: where questions come from, and what search sees.

    :param queries:
        `{type, init_parameters}` of a source of `data.pseudo_queries`, or of several, one after the other.
    :param rule:
        How a document and its questions are joined.
    """

    def __init__(self, queries: dict[str, Any] | list[dict[str, Any]], rule: ViewRule) -> None:
        self.source_spec, self.view_rule = queries, rule
        self._source: QuerySource | None = None
        self._tokenizer: Any = None
        self._room: int | None = None
        self._of: tuple[str, list[list[str]]] = ("", [])

    def bind(self, source: QuerySource | None, tokenizer: Any, negatives: int, room: int | None = None) -> None:  # noqa: ARG002
        """Take up the source of questions, and the student's separator and length."""
        self._source, self._tokenizer, self._room = source, tokenizer, room
        self.joined("x", "x")  # a separator is needed

    def joined(self, question: str, document: str) -> str:
        """Join a question and a document; no question leaves the document as it is."""
        return self.view_rule.text(self._tokenizer, question, document, self._room)

    def questions(self, data: RetrievalData) -> list[list[str]]:
        """
        List the questions of each document.

        :raises RecipeError:
            If no document has any.
        """
        if self._of[0] != data.hash and self._source is not None:
            self._of = (data.hash, self._source.of(data))
            if not any(self._of[1]):
                msg = f"candidates.text: {type(self._source).__name__} made no question of any document."
                raise RecipeError(msg)
        return self._of[1]

    def document_views(self, data: RetrievalData) -> list[list[str]] | None:
        """List the texts that stand for each document of a corpus in search."""
        questions = self.questions(data) if self.view_rule.most else [[] for _ in data.corpus.ids]
        return [
            self.view_rule.texts(self._tokenizer, own, text, self._room)
            for own, text in zip(questions, data.corpus.texts, strict=True)
        ]
