# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Somebody's own Haystack components, as a user's module would hold them; not in a trusted namespace."""

import math
from dataclasses import replace
from typing import Any, ClassVar

from haystack import Document, component


def overlap(query: str, document: str) -> float:
    """Words in common, and a little for shortness: no two documents of the tests tie by chance."""
    asked, words = set(query.lower().split()), document.lower().split()
    return len(asked & set(words)) - 0.01 * len(words)


@component
class WordRanker:
    """ProcessGroup by words in common. `fault` makes it misbehave."""

    calls: ClassVar[list[str]] = []
    dies_after: ClassVar[int | None] = None  # calls, for all instances

    def __init__(self, *, fault: str = "none", fails_after: int | None = None, model: str | None = None) -> None:
        self.fault = fault
        self.fails_after = fails_after
        self.model = model

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, Any]:
        limit = self.dies_after if self.fails_after is None else self.fails_after
        if limit is not None and len(self.calls) >= limit:
            msg = "the line is dead"
            raise ConnectionError(msg)
        self.calls.append(query)
        scored = [replace(d, score=overlap(query, d.content or "")) for d in documents]
        ranked = sorted(scored, key=lambda d: -(d.score or 0.0))[:top_k]
        faults = {
            "none": lambda: ranked,
            "cuts": lambda: ranked[:-1],
            "twice": lambda: [*ranked, ranked[0]],
            "nan": lambda: [replace(ranked[0], score=math.nan), *ranked[1:]],
            "ranks": lambda: [replace(d, score=None) for d in ranked],
            "some": lambda: [replace(ranked[0], score=None), *ranked[1:]],
            "others": lambda: [*ranked, Document(id="elsewhere", content="x", score=1.0)],
            "nothing": lambda: None,
            "dicts": lambda: [d.to_dict() for d in ranked],
            "words": lambda: [replace(d, score="high") for d in ranked],
            "squashed": lambda: [replace(d, score=1 / (1 + math.exp(-(d.score or 0.0)))) for d in ranked],
        }
        return {"documents": faults[self.fault]()}


@component
class RemoteRanker:
    """Behind an API key; its line is bad `failures` times."""

    def __init__(self, *, api_key: str = "none", failures: int = 0) -> None:
        self.api_key = api_key
        self.failures = failures

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document]) -> dict[str, Any]:
        if self.failures:
            self.failures -= 1
            msg = "try again"
            raise TimeoutError(msg)
        return {"documents": [replace(d, score=overlap(query, d.content or "")) for d in documents]}


@component
class StubbornRanker:
    """Scales and cuts as it was made, whatever a call says."""

    def __init__(self, *, scale_score: bool = True, score_threshold: float | None = None) -> None:
        self.scale_score = scale_score
        self.score_threshold = score_threshold

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document]) -> dict[str, Any]:
        return {"documents": [replace(d, score=overlap(query, d.content or "")) for d in documents]}


def judge(messages):
    """Answer for an LLM: how many words question and passage share."""
    question, passage = (set(part.lower().split()) for part in messages[-1].text.split("Passage:"))
    return str(len(question & passage))
