# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Embeds queries with a student."""

import asyncio
from pathlib import Path
from typing import Any, Literal

from haystack import component
from haystack.utils import ComponentDevice, Secret

from haystack_integrations.components.embedders.retort.model_component import ModelComponent, device_of, finished
from retort.students import Student
from retort.students.checks import positive


@component
class StudentTextEmbedder(ModelComponent[Student]):
    """
    Embeds a query with a distilled student, or with any other sentence-transformers model.

    The query side of the model is used: its prompt, its length and, in a model with separate towers, its tower.
    Components of one process that name the same model share it.

    It takes the parameters of Haystack's `SentenceTransformersTextEmbedder`; what differs is in docs/components.md.

    ### Usage example

    ```python
    from haystack_integrations.components.embedders.retort import StudentTextEmbedder

    embedder = StudentTextEmbedder(model="runs/quickstart/student")
    found = embedder.run(text="How do I parse JSON?")
    found["embedding"], found["space"]
    ```
    """

    _kind = Student

    def __init__(
        self,
        *,
        model: str | Path = "runs/quickstart/student",
        device: ComponentDevice | str | None = None,
        precision: Literal["float32", "bfloat16", "auto", "int8"] | None = None,
        backend: Literal["auto", "torch", "onnx"] = "auto",
        threads: int | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = False,
        prefix: str = "",
        suffix: str = "",
        document_prefix: str = "",
        document_suffix: str = "",
        batch_size: int | None = None,
        progress_bar: bool = True,
        revision: str | None = None,
        token: Secret | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """
        Create the embedder; the model is loaded at the first run.

        :param model:
            Student folder, Hugging Face Hub id, or `package:NAME/SUBFOLDER`.
        :param device:
            Where to run, such as `cpu`; None takes the best there is, on whichever machine the pipeline is loaded.
        :param precision:
            The model's arithmetic (in Haystack's own embedders it is the embeddings' quantization): `float32`;
            `bfloat16` where the hardware has it; `auto`: bfloat16 if it is there; `int8`: the ONNX export of that name.
            None takes what `retort export` found best for CPUs, else float32.
        :param backend:
            `torch`; `onnx`: an export made by `retort export`; `auto`: as `precision` says.
        :param threads:
            Threads of an ONNX graph; None takes all cores. Torch has its own, for the whole process.
        :param truncate_dim:
            Keep the first so many dimensions.
        :param normalize_embeddings:
            Divide the embedding by its length; most models do so themselves.
        :param prefix:
            Put before the query, in the place of the model's own prompt; empty: the model's own.
        :param suffix:
            Put behind the query.
        :param document_prefix:
            The `prefix` that the documents were embedded with. It is part of `space`.
        :param document_suffix:
            The `suffix` that the documents were embedded with.
        :param batch_size:
            Changes nothing for one query; taken as Haystack's embedders take it.
        :param progress_bar:
            Likewise.
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
            If `truncate_dim` is not above 0.
        """
        self.model = str(model)
        self.device = device_of(device)
        self.precision = precision
        self.backend = backend
        self.threads = threads
        self.truncate_dim = None if truncate_dim is None else positive("truncate_dim", truncate_dim)
        self.normalize_embeddings = normalize_embeddings
        self.prefix = prefix
        self.suffix = suffix
        self.document_prefix = document_prefix
        self.document_suffix = document_suffix
        self.batch_size = batch_size
        self.progress_bar = progress_bar
        self.revision = revision
        self.token = token
        self.local_files_only = local_files_only
        self.trust_remote_code = trust_remote_code
        self.model_kwargs = model_kwargs
        self.tokenizer_kwargs = tokenizer_kwargs
        self.config_kwargs = config_kwargs
        self._handle = self._share(self._kind)

    @component.output_types(embedding=list[float], space=str)
    def run(self, text: str) -> dict[str, Any]:
        """
        Embed a query.

        :param text:
            The query.
        :returns:
            `embedding`: the vector; `space`: the hash that tells which indexes it can search.
        :raises TypeError:
            If `text` is not a string.
        """
        if not isinstance(text, str):
            msg = "StudentTextEmbedder expects a string. To embed documents, use the StudentDocumentEmbedder."
            raise TypeError(msg)
        student = self._handle.student
        vectors = student.encode_query([text + self.suffix], prompt=self.prefix or None)
        (vector,) = finished(vectors, self.truncate_dim, normalize=self.normalize_embeddings)
        return {
            "embedding": vector.tolist(),
            "space": student.space_with(self.document_prefix, self.document_suffix),
        }

    @component.output_types(embedding=list[float], space=str)
    async def run_async(self, text: str) -> dict[str, Any]:
        """
        Embed a query in a thread, so that the event loop stays free.

        :param text:
            The query.
        :returns:
            As `run`.
        """
        return await asyncio.to_thread(self.run, text=text)
