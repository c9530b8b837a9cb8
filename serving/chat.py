# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Chat as OpenAI's clients speak it: cited sentences without an LLM, or a language model's answer over passages."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException
from hayhooks import BasePipelineWrapper, async_streaming_generator, get_last_user_message

from retort.serving.app import MOST, read_filters, refused, run_in_thread, serving

if TYPE_CHECKING:
    from haystack import Pipeline

logger = logging.getLogger(__name__)

NO_MODEL = "The language model broke off; the server's log says why."
NO_TEXT = "The language model gave no text."
NO_ANSWER = "The documents do not seem to answer this."
NO_IMAGE = "There is no such image."
IMAGES = 10  # that are listed, if nobody says how many


class Chat(BasePipelineWrapper):
    """`/chat/completions` over the index that is served; Hayhooks finds it in the pipelines' folder."""

    def setup(self) -> None:
        """Take the pipeline with the language model, if there is one."""
        self.pipeline = serving().rag

    async def run_chat_completion_async(
        self,
        model: str,  # noqa: ARG002 - the name of this pipeline
        messages: list[dict],
        body: dict,
    ) -> str | AsyncGenerator:
        """
        Answer the last message of the user.

        Beside what OpenAI has, a request may hold `filters` (of Haystack, or `["FIELD=VALUE"]`) and `top_k`: the most
        answers, or with a language model the most passages (`extra_body` of OpenAI's client).
        """
        question = _text(get_last_user_message(messages)).strip()
        if not question:
            return "Ask a question."
        filters, top_k = read_filters(body.get("filters")), _top_k(body.get("top_k"))
        if self.pipeline is not None:
            retriever = {"filters": filters, "top_k": top_k}
            inputs = {"embedder": {"text": question}, "retriever": retriever, "template": {"query": question}}
            if body.get("stream"):
                return await begun(streamed(self.pipeline, inputs))
            try:
                return _reply(await self.pipeline.run_async(inputs))
            except Exception as error:
                raise _failed(error) from error
        top = {} if top_k is None else {"top_k": top_k}
        events = await run_in_thread(lambda: list(serving().engine.answer(question, filters=filters, **top)))
        pieces = list(_images(events, top_k or IMAGES) if events[0].get("images") else _pieces(events))
        return _spoken(pieces) if body.get("stream") else "".join(pieces)


async def streamed(pipeline: Pipeline, inputs: dict[str, Any]) -> AsyncGenerator[Any, None]:
    """
    Stream a language model's answer; one that is not streamed comes as one piece.

    :raises HTTPException:
        If it has no text (502).
    """
    if "streaming_callback" not in pipeline.inputs(include_components_with_connected_inputs=True)["generator"]:
        yield _reply(await pipeline.run_async(inputs))
        return
    outputs: list[dict[str, Any]] = []
    pieces = async_streaming_generator(
        pipeline=pipeline,
        pipeline_run_args=inputs,
        on_pipeline_end=outputs.append,
        allow_sync_streaming_callbacks=True,
    )
    has_text = False
    async with aclosing(pieces):
        async for piece in pieces:
            has_text = has_text or bool(getattr(piece, "content", piece))
            yield piece
    if not has_text:
        yield _reply(outputs[0])


async def begun(pieces: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    """
    Wait for the first piece of a streamed answer: until then, a status can say that there is none.

    :raises HTTPException:
        If none comes. What breaks off later ends with a sentence that says so.
    """
    try:
        first = await anext(pieces, "")
    except Exception as error:
        raise _failed(error) from error

    async def all_of_them() -> AsyncGenerator[Any, None]:
        yield first
        try:
            async for piece in pieces:
                yield piece
        except Exception as error:
            yield f"\n\n{_failed(error).detail}"

    return all_of_them()


def _reply(outputs: dict[str, Any]) -> str:
    """Return the first reply that has text: a tool call has none."""
    text = next((reply.text for reply in outputs["generator"]["replies"] if reply.text), None)
    if text is None:
        raise HTTPException(502, NO_TEXT)
    return str(text)


def _failed(error: Exception) -> HTTPException:
    logger.error("The language model or what it reads failed.", exc_info=error)
    if isinstance(error, HTTPException):
        return error
    return refused(error) or HTTPException(502, NO_MODEL)


def _top_k(value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST):
        return value
    raise HTTPException(422, f"top_k must be a number from 1 to {MOST}.")


def _text(content: Any) -> str:
    """A message's text, which may come in parts, without halves of surrogate pairs (an emoji that a client cut)."""
    if isinstance(content, list):
        content = " ".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return str(content or "").encode("utf-8", "ignore").decode("utf-8")


async def _spoken(pieces: list[str]) -> AsyncGenerator[str, None]:
    for piece in pieces:
        yield piece


def _images(events: list[dict[str, Any]], most: int) -> Iterator[str]:
    """Lines of titles and files, best first."""
    images = events[0]["passages"][:most]
    if not images:
        yield NO_IMAGE
    for image in images:
        yield f"[{image['number']}] {image['title']} ({image['file']})\n"


def _pieces(events: list[dict[str, Any]]) -> Iterator[str]:
    """Sentences with their citations, then the sources."""
    answers = [event for event in events if event["event"] == "answer"]
    passages = {p["number"]: p for p in events[0]["passages"]}
    if not answers:
        yield NO_ANSWER
        return
    cited = {number: place for place, number in enumerate(dict.fromkeys(a["passage"] for a in answers), 1)}
    for answer in answers:
        yield f"{answer['text']} [{cited[answer['passage']]}]\n"
    yield "\n"
    for number, place in cited.items():
        yield f"[{place}] {passages[number]['title']}\n"
