# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Ranks documents with a distilled cross-encoder."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from haystack import Document, component
from haystack.utils import ComponentDevice, Secret

from haystack_integrations.components.embedders.retort.model_component import ModelComponent, device_of, tokens_of
from retort.students import Ranker, document_string
from retort.students.checks import positive
from retort.students.scoring import mean_share


@component
class StudentRanker(ModelComponent[Ranker]):
    """
    Ranks documents by a cross-encoder that reads query and document together.

    The model is a ranker trained by retort, or any other cross-encoder with one score a pair. All pairs are scored in
    one list sorted by length. Components of one process that name the same model share it.

    ### Usage example

    ```python
    from haystack import Document
    from haystack_integrations.components.rankers.retort import StudentRanker

    ranker = StudentRanker(model="runs/ranker/student", top_k=3)
    documents = [Document(content="json.loads parses a string."), Document(content="Bread needs flour.")]
    ranker.run(query="How do I parse JSON?", documents=documents)["documents"]
    ```
    """

    def __init__(
        self,
        *,
        model: str | Path = "runs/ranker/student",
        top_k: int = 10,
        score_threshold: float | None = None,
        scale_score: bool = True,
        heads: Literal["mean", "softmax"] = "mean",
        query_prefix: str = "",
        query_suffix: str = "",
        document_prefix: str = "",
        document_suffix: str = "",
        batch_size: int | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = " ",
        device: ComponentDevice | str | None = None,
        precision: Literal["float32", "bfloat16", "auto", "int8"] | None = None,
        backend: Literal["auto", "torch", "onnx"] = "auto",
        threads: int | None = None,
        max_tokens: int | None = None,
        revision: str | None = None,
        token: Secret | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """
        Create the ranker; the model is loaded at the first run.

        :param model:
            Folder of a ranker, Hugging Face Hub id, or `package:NAME/SUBFOLDER`.
        :param top_k:
            Documents to return, at most.
        :param score_threshold:
            Leave out documents below it, on the scale that `scale_score` chooses.
        :param scale_score:
            Scores between 0 and 1 (a sigmoid) instead of raw logits. The order is the same.
        :param heads:
            What a ranker with several heads goes by: the `mean` of their scores; or the mean of their shares of the
            list (`softmax`), in which no head with larger scores outweighs the others. Shares lie between 0 and 1; with
            `scale_score: false` their logarithms are the scores.
        :param query_prefix:
            Put before the query.
        :param query_suffix:
            Put behind the query.
        :param document_prefix:
            Put before each document.
        :param document_suffix:
            Put behind each document.
        :param batch_size:
            A forward pass holds as many tokens as so many pairs of full length; None: what suits the device.
        :param meta_fields_to_embed:
            Metadata put before the content; None is `["title"]`, as in training. Haystack's rankers read none:
            `[]` does as they do.
        :param embedding_separator:
            What stands between them; Haystack's is a line break.
        :param device:
            Where to run, such as `cpu`; None takes the best there is, on whichever machine the pipeline is loaded.
        :param precision:
            `float32`; `bfloat16` where the hardware has it; `auto`: bfloat16 if it is there; `int8`: the ONNX export of
            that name. None takes what `retort export` found best for CPUs, else float32.
        :param backend:
            `torch`; `onnx`: an export made by `retort export`; `auto`: as `precision` says.
        :param threads:
            Threads of an ONNX graph; None takes all cores. Torch has its own, for the whole process.
        :param max_tokens:
            Cut pairs here instead of where the model says.
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
            If `top_k`, `batch_size` or `max_tokens` is not above 0, or `heads` neither of the two.
        """
        if heads not in ("mean", "softmax"):
            msg = f"heads={heads!r}: must be mean or softmax."
            raise ValueError(msg)
        self.heads = heads
        self.model = str(model)
        self.top_k = positive("top_k", top_k)
        self.score_threshold = score_threshold
        self.scale_score = scale_score
        self.query_prefix = query_prefix
        self.query_suffix = query_suffix
        self.document_prefix = document_prefix
        self.document_suffix = document_suffix
        self.batch_size = None if batch_size is None else positive("batch_size", batch_size)
        self.meta_fields_to_embed = meta_fields_to_embed
        self.embedding_separator = embedding_separator
        self.device = device_of(device)
        self.precision = precision
        self.backend = backend
        self.threads = threads
        self.max_tokens = None if max_tokens is None else positive("max_tokens", max_tokens)
        self.revision = revision
        self.token = token
        self.local_files_only = local_files_only
        self.trust_remote_code = trust_remote_code
        self.model_kwargs = model_kwargs
        self.tokenizer_kwargs = tokenizer_kwargs
        self.config_kwargs = config_kwargs
        self._handle = self._share(Ranker, max_tokens=max_tokens)

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, Any]:
        """
        Rank documents.

        :param query:
            The query.
        :param documents:
            The documents; they are not changed. Of several with one id the best-scored counts, as retrievers that
            were joined may give a document twice.
        :param top_k:
            Documents to return, at most, for this query.
        :param scale_score:
            Scores between 0 and 1 instead of logits, for this query.
        :param score_threshold:
            Leave out documents below it, for this query.
        :returns:
            `documents`, best first, with the ranker's scores; equal ones keep their order.
        :raises TypeError:
            If `query` is not a string or `documents` not a list of documents.
        :raises ValueError:
            If `top_k` is not above 0.
        """
        if not isinstance(query, str):
            msg = f"StudentRanker expects a string as query, not {type(query).__name__}."
            raise TypeError(msg)
        if isinstance(documents, list):
            documents = [Document.from_dict(d) if isinstance(d, dict) else d for d in documents]
        if not isinstance(documents, list) or not all(isinstance(d, Document) for d in documents):
            msg = "StudentRanker expects a list of Documents."
            raise TypeError(msg)
        top_k = self.top_k if top_k is None else positive("top_k", top_k)
        scale_score = self.scale_score if scale_score is None else scale_score
        threshold = self.score_threshold if score_threshold is None else score_threshold
        unique = _without_copies(documents)
        ranker, fields, separator = self._handle.student, self.meta_fields_to_embed, self.embedding_separator
        query = self.query_prefix + query + self.query_suffix
        self._say_titles(unique, fields)
        texts = [document_string(d.content, d.meta, fields, separator) for d in unique]
        scores = ranker.score_heads(
            [(query, self.document_prefix + text + self.document_suffix) for text in texts],
            tokens_per_chunk=tokens_of(self.batch_size, ranker.manifest.max_tokens["pair"]),
        ).astype(np.float64)
        if self.heads == "softmax":
            shares = mean_share(scores)
            order = np.argsort(-shares, kind="stable")
            found = shares if scale_score else np.log(shares)
        else:
            logits = scores.mean(1)
            order = np.argsort(-logits, kind="stable")
            found = 1 / (1 + np.exp(-logits)) if scale_score else logits
        ranked = [replace(unique[i], score=float(found[i])) for i in order]
        if threshold is not None:
            ranked = [d for d in ranked if d.score is not None and d.score >= threshold]
        return {"documents": ranked[:top_k]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, Any]:
        """
        Rank documents in a thread, so that the event loop stays free; parameters and result as `run`.

        :param query:
            The query.
        :param documents:
            The documents.
        :param top_k:
            Documents to return, at most, for this query.
        :param scale_score:
            Scores between 0 and 1 instead of logits, for this query.
        :param score_threshold:
            Leave out documents below it, for this query.
        :returns:
            As `run`.
        """
        return await asyncio.to_thread(self.run, query, documents, top_k, scale_score, score_threshold)


def _without_copies(documents: list[Document]) -> list[Document]:
    best: dict[str, Document] = {}
    for document in documents:
        there = best.get(document.id)
        if there is None or (document.score or 0.0) > (there.score or 0.0):
            best[document.id] = document
    return list(best.values())
