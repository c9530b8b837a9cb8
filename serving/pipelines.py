# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`extractive_qa.yml` and `search.yml` over HTTP, on the components that page and chat have."""

import base64
from typing import Annotated, Any

from fastapi.encoders import jsonable_encoder
from hayhooks import BasePipelineWrapper
from pydantic import Field

from retort.serving.app import LONGEST_QUESTION, MOST, read_filters, run_in_thread, serving
from retort.students import STAMP_PREFIX

Query = Annotated[str, Field(min_length=1, max_length=LONGEST_QUESTION)]
Filters = dict[str, Any] | list[str] | None
TopK = Annotated[int, Field(ge=1, le=MOST)] | None


class Search(BasePipelineWrapper):
    """`/search/run`."""

    def setup(self) -> None:
        """Everything is there."""

    async def run_api_async(self, query: Query, filters: Filters = None, top_k: TopK = None) -> dict:
        """
        Find passages.

        :param query: The question.
        :param filters: A Haystack filter, or a list of conditions such as "topic=cats" that all must hold.
        :param top_k: Passages, at most.
        """
        chosen = read_filters(filters)
        documents, _ = await run_in_thread(lambda: serving().engine.search(query, top_k=top_k, filters=chosen))
        return public({"searcher": {"documents": documents}})


class ExtractiveQa(BasePipelineWrapper):
    """`/extractive_qa/run`."""

    def setup(self) -> None:
        """Everything is there."""

    async def run_api_async(self, query: Query, filters: Filters = None, top_k: TopK = None) -> dict:
        """
        Find the sentences that answer a question.

        :param query: The question.
        :param filters: A Haystack filter, or a list of conditions such as "topic=cats" that all must hold.
        :param top_k: Answers, at most.
        """
        engine, chosen = serving().engine, read_filters(filters)

        def run() -> dict[str, Any]:
            documents, _ = engine.search(query, filters=chosen)
            return {"retriever": {"documents": documents}, "answerer": engine.read(query, documents, top_k=top_k)}

        return public(await run_in_thread(run))


def public(found: dict[str, Any]) -> dict[str, Any]:
    """Return a pipeline's outputs as JSON, without what an index keeps for itself."""
    plain = jsonable_encoder(found, custom_encoder={bytes: lambda value: base64.b64encode(value).decode()})
    return _stripped(plain)  # type: ignore[no-any-return]


def _stripped(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _stripped(value) for key, value in node.items() if not str(key).startswith(STAMP_PREFIX)}
    return [_stripped(item) for item in node] if isinstance(node, list) else node
