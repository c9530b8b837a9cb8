# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Answers with the sentences of the retrieved documents that a student finds nearest to the question."""

import asyncio
from pathlib import Path
from typing import Any, Literal

import numpy as np
from haystack import Document, ExtractedAnswer, component
from haystack.utils import ComponentDevice, Secret

from haystack_integrations.components.embedders.retort.model_component import ModelComponent, device_of
from retort.students import Student
from retort.students.checks import positive
from retort.students.segmentation import sentence_spans


@component
class ExtractiveAnswerer(ModelComponent[Student]):
    r"""
    Cites the best sentences of the top documents: an answer without an LLM.

    The student embeds every sentence of the first `max_documents` documents, together with the document's title, and
    ranks them by $(1 - w) \cos(q, s) + w \cos(q, d)$: sentence against question, and document against question, since a
    good sentence of a wrong document answers another question. Each answer names its document and the sentence's
    offsets in it. Nothing is answered below `score_threshold`.

    ### Usage example

    ```python
    from haystack import Document
    from haystack_integrations.components.readers.retort import ExtractiveAnswerer

    answerer = ExtractiveAnswerer(model="runs/quickstart/student")
    found = answerer.run(query="Who wrote Emma?", documents=[Document(content="Emma is by Jane Austen.")])
    found["answers"][0].data
    ```
    """

    def __init__(
        self,
        *,
        model: str | Path = "runs/quickstart/student",
        top_k: int = 3,
        max_documents: int = 5,
        score_threshold: float = 0.4,
        document_weight: float = 0.5,
        device: ComponentDevice | str | None = None,
        precision: Literal["float32", "bfloat16", "auto", "int8"] | None = None,
        backend: Literal["auto", "torch", "onnx"] = "auto",
        threads: int | None = None,
        revision: str | None = None,
        token: Secret | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """
        Create the answerer; the model is loaded at the first run.

        :param model:
            Student folder, Hugging Face Hub id, or `package:NAME/SUBFOLDER`.
        :param top_k:
            Answers to return, at most.
        :param max_documents:
            How many of the given documents to read.
        :param score_threshold:
            No answer below it: cosines of this student that low are chance.
        :param document_weight:
            The weight $w$ of the document's similarity, between 0 and 1.
        :param device:
            Where to run, such as `cpu`; None takes the best there is, on whichever machine the pipeline is loaded.
        :param precision:
            `float32`; `bfloat16` where the hardware has it; `auto`: bfloat16 if it is there; `int8`: the ONNX export of
            that name. None takes what `retort export` found best for CPUs, else float32.
        :param backend:
            `torch`; `onnx`: an export made by `retort export`; `auto`: as `precision` says.
        :param threads:
            Threads of an ONNX graph; None takes all cores. Torch has its own, for the whole process.
        :param revision:
            Hub revision.
        :param token:
            Hub token.
        :param local_files_only:
            Never ask the Hub.
        :param trust_remote_code:
            Run code that the model brings along.
        :param model_kwargs:
            Passed to transformers' `from_pretrained` of the model, such as `attn_implementation` and `dtype`.
        :param tokenizer_kwargs:
            Passed to that of the tokenizer.
        :param config_kwargs:
            Passed to that of the configuration. With any of the three the torch model runs.
        :raises ValueError:
            If a count is not above 0 or the weight is not between 0 and 1.
        """
        if top_k <= 0 or max_documents <= 0 or not 0 <= document_weight <= 1:
            msg = (
                f"top_k ({top_k}) and max_documents ({max_documents}) must be above 0, document_weight "
                f"({document_weight}) between 0 and 1."
            )
            raise ValueError(msg)
        self.model = str(model)
        self.top_k = top_k
        self.max_documents = max_documents
        self.score_threshold = score_threshold
        self.document_weight = document_weight
        self.device = device_of(device)
        self.precision = precision
        self.backend = backend
        self.threads = threads
        self.revision = revision
        self.token = token
        self.local_files_only = local_files_only
        self.trust_remote_code = trust_remote_code
        self.model_kwargs = model_kwargs
        self.tokenizer_kwargs = tokenizer_kwargs
        self.config_kwargs = config_kwargs
        self._handle = self._share(Student)

    @component.output_types(answers=list[ExtractedAnswer], best_score=float)
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, Any]:
        """
        Find the sentences that answer a question.

        :param query:
            The question.
        :param documents:
            Documents, best first.
        :param top_k:
            Answers to return, at most, for this question.
        :returns:
            `answers`, best first, empty if no sentence reaches the threshold; `best_score` of any sentence (0 without
            one), so that a caller can tell how near it was.
        :raises ValueError:
            If `top_k` is not above 0.
        """
        top_k = self.top_k if top_k is None else positive("top_k", top_k)
        student = self._handle.student
        read = documents[: self.max_documents]
        spans = [(i, *span) for i, document in enumerate(read) for span in sentence_spans(document.content or "")]
        if not spans:
            return {"answers": [], "best_score": 0.0}
        titles = [str(document.meta.get("title") or "") for document in read]
        contents = [document.content or "" for document in read]
        sentences = [f"{titles[i]} {contents[i][start:end]}".strip() for i, start, end in spans]
        wholes = [f"{title} {content}".strip() for title, content in zip(titles, contents, strict=True)]
        asked = _unit(student.encode_query([query]))[0]
        texts = _unit(student.encode_document([*sentences, *wholes])) @ asked
        owners = np.array([i for i, _, _ in spans])
        weight = self.document_weight
        scores = (1 - weight) * texts[: len(spans)] + weight * texts[len(spans) :][owners]
        best = np.argsort(-scores, kind="stable")[:top_k]
        answers = [
            _answer(query, read[spans[b][0]], spans[b][1], spans[b][2], float(scores[b]))
            for b in best
            if scores[b] >= self.score_threshold
        ]
        return {"answers": answers, "best_score": float(scores[best[0]])}

    @component.output_types(answers=list[ExtractedAnswer], best_score=float)
    async def run_async(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, Any]:
        """
        Find the sentences that answer a question, in a thread; parameters and result as `run`.

        :param query:
            The question.
        :param documents:
            Documents, best first.
        :param top_k:
            Answers to return, at most, for this question.
        :returns:
            As `run`.
        """
        return await asyncio.to_thread(self.run, query=query, documents=documents, top_k=top_k)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _answer(query: str, document: Document, start: int, end: int, score: float) -> ExtractedAnswer:
    span = ExtractedAnswer.Span(start, end)
    content = document.content or ""
    return ExtractedAnswer(
        query=query,
        score=score,
        data=content[start:end],
        document=document,
        document_offset=span,
        context=content,
        context_offset=span,
    )
