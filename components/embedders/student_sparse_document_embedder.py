# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Embeds documents with a sparse student."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from haystack import Document, component
from haystack.dataclasses import SparseEmbedding
from haystack.utils import ComponentDevice, Secret

from haystack_integrations.components.embedders.retort.student_document_embedder import StudentDocumentEmbedder
from retort.students import SPARSE_SPACE_STAMP, SPARSE_STUDENT_STAMP
from retort.students.sparse import SparseStudent, largest


@component
class StudentSparseDocumentEmbedder(StudentDocumentEmbedder):
    """
    Embeds documents with a sparse student, or with any other SPLADE-type model of sentence-transformers.

    Dense embeddings that documents have already are kept: for hybrid retrieval, run it after `StudentDocumentEmbedder`.

    ### Usage example

    ```python
    from haystack import Document
    from haystack_integrations.components.embedders.retort import StudentSparseDocumentEmbedder

    embedder = StudentSparseDocumentEmbedder(model="runs/sparse/student")
    documents = embedder.run(documents=[Document(content="json.loads parses a string.")])["documents"]
    ```
    """

    _kind = SparseStudent
    _stamps = (SPARSE_SPACE_STAMP, SPARSE_STUDENT_STAMP)

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
        batch_size: int | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = " ",
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
            Put before each document, in the place of the model's own prompt; empty: the model's own. It is part of the
            space: name it as `document_prefix` of the text embedder.
        :param suffix:
            Put behind each document; likewise `document_suffix`.
        :param batch_size:
            A forward pass holds as many tokens as so many texts of full length; None: what suits the device.
        :param meta_fields_to_embed:
            Metadata put before the content; None is `["title"]`, as in training. Haystack's embedders embed none:
            `[]` does as they do.
        :param embedding_separator:
            What stands between them; Haystack's is a line break.
        :param progress_bar:
            Show a bar, in a terminal.
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
        StudentDocumentEmbedder.__init__(  # not `super()`: `component` makes the class anew
            self,
            model=model,
            device=device,
            precision=precision,
            backend=backend,
            threads=threads,
            prefix=prefix,
            suffix=suffix,
            batch_size=batch_size,
            meta_fields_to_embed=meta_fields_to_embed,
            embedding_separator=embedding_separator,
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

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """
        Embed documents.

        :param documents:
            The documents; they are not changed. Dictionaries, as `Document.to_dict` makes them, are taken too.
        :returns:
            `documents`: copies with the same ids, a sparse embedding and the stamps in `meta`.
        :raises TypeError:
            If `documents` is not a list of documents.
        """
        return StudentDocumentEmbedder.run(self, documents=documents)

    def _encode(self, texts: list[str], **options: Any) -> Any:
        student: Any = self._handle.student
        return student.encode_rows(texts, "document", **options)

    def _with_vectors(self, documents: list[Document], vectors: Any) -> list[Document]:
        entries = largest(vectors, self.max_active_dims)
        return [
            replace(d, sparse_embedding=SparseEmbedding(indices=indices, values=values))
            for d, (indices, values) in zip(documents, entries, strict=True)
        ]
