# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Answers with the sentences of the retrieved documents that a student finds nearest to the question."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby
from math import log1p
from pathlib import Path
from typing import Any, Literal

import numpy as np
from haystack import Document, ExtractedAnswer, component
from haystack.utils import ComponentDevice, Secret

from haystack_integrations.components.embedders.retort.model_component import ModelComponent, device_of
from retort.students import SENTENCES_STAMP, Student
from retort.students.checks import positive
from retort.students.segmentation import words_of
from retort.students.sentences import Passage, passages_of, unpack
from retort.students.vectors import unit


@component
class ExtractiveAnswerer(ModelComponent[Student]):
    r"""
    Cites the best sentences of the top documents: an answer without an LLM.

    The student embeds every sentence of the first `max_documents` documents, together with the document's title, and
    ranks them by $(1 - w) \cos(q, s) + w \cos(q, d)$: sentence against question, and document against question, since a
    good sentence of a wrong document answers another question. Documents of more than 300 words are cut into passages
    of 150, and the `max_documents` passages nearest to the question take the documents' place. Each answer names its
    document, the sentence's offsets in it, and as its context the passage. Nothing is answered below `score_threshold`.

    Vectors that `StudentDocumentEmbedder` kept in the documents (`sentences`) are used if they are of this student and
    of the text as it is; what has none is embedded.

    A student that encodes queries only, as of an index that an API filled, has no vectors of sentences. Each of the
    first `max_documents` documents then gives one answer, in their order: of its sentences the one that shares most
    words with the question, rare words weighing more. Its score is the document's, and no threshold applies: what
    cosines of another model say is not known.

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
            How many of the given documents to read, and how many passages of these.
        :param score_threshold:
            No answer below it: cosines of this student that low are chance. Without effect where the student encodes
            queries only; so is `document_weight`.
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
        if not 0 <= document_weight <= 1:
            msg = f"document_weight must be between 0 and 1; it is {document_weight}."
            raise ValueError(msg)
        self.model = str(model)
        self.top_k = positive("top_k", top_k)
        self.max_documents = positive("max_documents", max_documents)
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
            one), so that a caller can tell how near it was. Where the student encodes queries only, `answers` in the
            order of the documents, and the `best_score` of a document that is read.
        :raises TypeError:
            If `query` is not a string.
        :raises ValueError:
            If `top_k` is not above 0.
        """
        if not isinstance(query, str):
            msg = f"ExtractiveAnswerer expects a string as query, not {type(query).__name__}."
            raise TypeError(msg)
        documents = [Document.from_dict(d) if isinstance(d, dict) else d for d in documents]
        top_k = self.top_k if top_k is None else positive("top_k", top_k)
        student = self._handle.student
        read = [part for document in documents[: self.max_documents] for part in _read(document, student)]
        if not read:
            return {"answers": [], "best_score": 0.0}
        if not student.encodes_documents:
            best_score = max(part.document.score or 0.0 for part in read)
            return {"answers": _by_words(query, read)[:top_k], "best_score": best_score}
        asked = unit(student.encode_query([query]))[0]
        near = _passages(read, student) @ asked
        if len(read) > self.max_documents:
            nearest = np.sort(np.argsort(-near, kind="stable")[: self.max_documents])
            read, near = [read[i] for i in nearest], near[nearest]
        weight = self.document_weight
        sentences = zip(_sentences(read, student), near, strict=True)
        scores = np.concatenate([(1 - weight) * vectors @ asked + weight * score for vectors, score in sentences])
        spans = [(part, *span) for part in read for span in part.spans]
        best = np.argsort(-scores, kind="stable")[:top_k]
        answers = [
            part.answer(query, start, end, float(scores[b]))
            for b, (part, start, end) in ((b, spans[b]) for b in best)
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


@dataclass
class _Part:
    """A passage that is read; the vector `[d]` and those of its sentences `[n, d]` if the index keeps them."""

    document: Document
    passage: Passage
    vector: np.ndarray | None = None
    sentences: np.ndarray | None = None

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """Where its sentences start and end in the passage."""
        return self.passage.sentences()

    def answer(self, query: str, start: int, end: int, score: float) -> ExtractedAnswer:
        """Cite a sentence."""
        passage = self.passage
        return ExtractedAnswer(
            query=query,
            score=score,
            data=passage.text[start:end],
            document=self.document,
            document_offset=ExtractedAnswer.Span(passage.start + start, passage.start + end),
            context=passage.text,
            context_offset=ExtractedAnswer.Span(start, end),
        )


def _by_words(query: str, parts: list[_Part]) -> list[ExtractedAnswer]:
    r"""
    Cite of each document the sentence that shares most words with the question.

    A word that stands in $n$ of all $N$ sentences weighs $\log(1 + (N - n + 1/2) / (n + 1/2))$, as in BM25. Ties go to
    the earlier sentence.

    :param query:
        The question.
    :param parts:
        Passages of documents, each document's together.
    :returns:
        One answer a document, in their order.
    """
    asked = set(words_of(query.casefold()))
    spans = [(part, *span) for part in parts for span in part.spans]
    shared = [asked & set(words_of(part.passage.text[start:end].casefold())) for part, start, end in spans]
    counts = Counter(chain.from_iterable(shared))
    weights = {word: log1p((len(spans) - n + 0.5) / (n + 0.5)) for word, n in counts.items()}
    scores = [sum(weights[word] for word in sorted(words)) for words in shared]
    answers = []
    for _, rows in groupby(range(len(spans)), key=lambda row: id(spans[row][0].document)):
        part, start, end = spans[max(rows, key=scores.__getitem__)]
        answers.append(part.answer(query, start, end, part.document.score or 0.0))
    return answers


def _read(document: Document, student: Student) -> list[_Part]:
    """Cut a document into passages, with the vectors that the index keeps of them, if they are this student's."""
    passages = passages_of(str(document.meta.get("title") or ""), document.content or "")
    parts = [_Part(document, passage) for passage in passages]
    kept = unpack(document.meta.get(SENTENCES_STAMP), student.space, student.dim, passages)
    if kept is not None:
        for part, vector in zip(parts, kept, strict=False):
            part.vector = vector
        if len(parts) == 1 and len(kept) == 1 + len(parts[0].spans):
            parts[0].sentences = kept[1:]
    return parts


def _passages(parts: list[_Part], student: Student) -> np.ndarray:
    """Return the passages' vectors `[n, d]`: those that are kept, the others embedded."""
    texts = [part.passage.seen() for part in parts if part.vector is None]
    embedded = iter(unit(student.encode_document(texts)) if texts else ())
    return np.stack([next(embedded) if part.vector is None else part.vector for part in parts])


def _sentences(parts: list[_Part], student: Student) -> list[np.ndarray]:
    """Return the vectors of each passage's sentences `[n, d]`: those that are kept, the others embedded."""
    missing = [part for part in parts if part.sentences is None]
    embedded: Iterator[np.ndarray] = iter(())
    if missing:
        texts = [part.passage.seen(*span) for part in missing for span in part.spans]
        ends = np.cumsum([len(part.spans) for part in missing])[:-1]
        embedded = iter(np.split(unit(student.encode_document(texts)), ends))
    return [next(embedded) if part.sentences is None else part.sentences for part in parts]
