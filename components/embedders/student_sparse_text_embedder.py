# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Embeds queries with a sparse student."""

import asyncio
from pathlib import Path
from typing import Any, Literal

from haystack import component
from haystack.dataclasses import SparseEmbedding
from haystack.utils import ComponentDevice, Secret

from haystack_integrations.components.embedders.retort.student_text_embedder import StudentTextEmbedder
from retort.students.sparse import SparseStudent, largest


@component
class StudentSparseTextEmbedder(StudentTextEmbedder):
    """
    Embeds a query with a sparse student, or with any other SPLADE-type model of sentence-transformers.

    ### Usage example

    ```python
    from haystack_integrations.components.embedders.retort import StudentSparseTextEmbedder

    embedder = StudentSparseTextEmbedder(model="runs/sparse/student")
    embedder.run(text="How do I parse JSON?")["sparse_embedding"].indices
    ```
    """

    _kind = SparseStudent

    def __init__(
        self,
        *,
        model: str | Path = "runs/sparse/student",
        device: ComponentDevice | str | None = None,
        precision: Literal["float32", "bfloat16", "auto", "int8"] | None = None,
        backend: Literal["auto", "torch", "onnx"] = "auto",
        threads: int | None = None,
        max_active_dims: int | None = None,
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
        :param max_active_dims:
            Keep so many of the largest entries.
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
        """
        StudentTextEmbedder.__init__(  # not `super()`: `component` makes the class anew
            self,
            model=model,
            device=device,
            precision=precision,
            backend=backend,
            threads=threads,
            prefix=prefix,
            suffix=suffix,
            document_prefix=document_prefix,
            document_suffix=document_suffix,
            batch_size=batch_size,
            progress_bar=progress_bar,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            trust_remote_code=trust_remote_code,
            model_kwargs=model_kwargs,
            tokenizer_kwargs=tokenizer_kwargs,
            config_kwargs=config_kwargs,
        )
        self.max_active_dims = max_active_dims

    @component.output_types(sparse_embedding=SparseEmbedding, space=str)
    def run(self, text: str) -> dict[str, Any]:
        """
        Embed a query.

        :param text:
            The query.
        :returns:
            `sparse_embedding`: the entries that are not 0; `space`: the hash that tells which indexes it can search.
        :raises TypeError:
            If `text` is not a string.
        """
        if not isinstance(text, str):
            msg = "StudentSparseTextEmbedder expects a string. For documents, use the StudentSparseDocumentEmbedder."
            raise TypeError(msg)
        student: Any = self._handle.student
        vectors = student.encode_rows([text + self.suffix], "query", prompt=self.prefix or None)
        ((indices, values),) = largest(vectors, self.max_active_dims)
        return {
            "sparse_embedding": SparseEmbedding(indices=indices, values=values),
            "space": student.space_with(self.document_prefix, self.document_suffix),
        }

    @component.output_types(sparse_embedding=SparseEmbedding, space=str)
    async def run_async(self, text: str) -> dict[str, Any]:
        """
        Embed a query in a thread, so that the event loop stays free.

        :param text:
            The query.
        :returns:
            As `run`.
        """
        return await asyncio.to_thread(self.run, text=text)
