# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Dual cross encoder: documents encoded together with questions (Li et al. 2022, arXiv 2208.04232).

A document has one vector for each of $k$ questions that were generated for it, of `query' [SEP] document`; the query
stays alone. Its score is the best of them, $s(q, d) = \\max_i q \\cdot d_i$. What stands here says which question a
document is trained with; `StudentMultiViewDocumentEmbedder` makes the vectors of an index.

The paper's scores are plain dot products: give the student `similarity_fn_name: dot`, whose scores are not scaled, as
the recipe `dual_cross_encoder` does. Cosines, as most pretrained models want them, are multiplied by 20
(`training.scale`).
"""

from __future__ import annotations

import logging
from typing import Any, Literal

from retort.students.views import QUERY_TOKENS, ViewRule
from retort.trainers.objectives import one_of
from retort.trainers.roles import QuerySource, TextRequest
from retort.trainers.views import QuestionTexts

logger = logging.getLogger(__name__)


class QuestionViews(QuestionTexts):
    """
    Puts questions before documents, in training and in evaluation.

    In training all documents of a list have the same question, hard negatives as well: with in-batch negatives alone
    the question would give the positive away, and nothing would be learned.

    :param queries:
        Where questions come from: `{type, init_parameters}` of a source of `data.pseudo_queries`, or of several, one
        after the other.
    :param train_with:
        `gold`: the list's own query, as in the paper. `pseudo`: one of the positive's other questions, drawn anew each
        time, so that training sees what an index will hold (the mismatch that CAPSTONE is about); gold where it has
        none.
    :param plain:
        Share of the lists that are trained without any question, for documents that will have none.
    :param views:
        Questions of a document in evaluation, at most; 0 evaluates without any.
    :param query_tokens:
        Cut questions after so many tokens.
    :raises ValueError:
        If a parameter is out of its range.

    ```yaml
    candidates:
      sources: [bm25]
      text:
        type: retort.trainers.methods.dual_cross_encoder.QuestionViews
        init_parameters:
          queries: {type: retort.trainers.data.pseudo_queries.KeySentences, init_parameters: {most: 10}}
          views: 10
    ```
    """

    def __init__(
        self,
        *,
        queries: dict[str, Any] | list[dict[str, Any]],
        train_with: Literal["gold", "pseudo"] = "gold",
        plain: float = 0.1,
        views: int = 3,
        query_tokens: int = QUERY_TOKENS,
    ) -> None:
        if not 0 <= plain <= 1 or views < 0 or query_tokens < 1:
            msg = (
                f"QuestionViews: 0 <= plain <= 1, views >= 0, query_tokens >= 1; not {plain}, {views}, {query_tokens}."
            )
            raise ValueError(msg)
        super().__init__(queries, ViewRule(most=views, query_tokens=query_tokens))
        self.train_with = one_of("train_with", train_with, ("gold", "pseudo"))
        self.plain = plain

    def bind(self, source: QuerySource | None, tokenizer: Any, negatives: int, room: int | None = None) -> None:
        """Warn where lists have no hard negatives."""
        super().bind(source, tokenizer, negatives, room)
        if negatives == 0:
            logger.warning("Without hard negatives of the same question, the question alone tells the positive.")

    def texts(self, request: TextRequest) -> list[str]:
        """Put one question, or none, before all documents of a list."""
        data, query = request.data, request.data.queries.texts[request.query]
        question = query
        if request.rng.random() < self.plain:
            question = ""
        elif self.train_with == "pseudo" and request.positive.any():
            own = [other for other in self.questions(data)[int(request.rows[request.positive][0])] if other != query]
            question = own[int(request.rng.integers(len(own)))] if own else query
        return [self.joined(question, text) for text in request.documents]
