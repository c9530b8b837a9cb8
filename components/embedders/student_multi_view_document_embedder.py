# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Embeds documents together with questions that they answer."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from haystack import Document, component
from haystack.utils import ComponentDevice, Secret

from haystack_integrations.components.embedders.retort.student_document_embedder import StudentDocumentEmbedder
from retort.students import VIEW_OF, document_string
from retort.students.checks import positive
from retort.students.views import Combine, ViewRule


@component
class StudentMultiViewDocumentEmbedder(StudentDocumentEmbedder):
    """
    Embeds documents with a student of several views: a document is encoded once with each of its first questions.

    A document with fewer questions than `views` has as many views as questions; one without any has one, the document
    alone.

    With `combine="mean"` a document keeps its id and has one vector, the mean of its views: divided by its length
    where the model compares by cosine. The index is no larger than one of documents without questions.

    With `combine="max"` a document becomes one for each view. The first keeps the document's id, further ones have
    `ID#1`, `ID#2`, ...; all name the document in `meta["_retort_view_of"]`, by which `StudentRetriever` gives each
    document once, with the best score of its views. Written again with fewer questions, or with `combine="mean"`, a
    document leaves views behind: delete it by `meta._retort_view_of` first.

    ### Usage example

    ```python
    from haystack import Document
    from haystack_integrations.components.embedders.retort import StudentMultiViewDocumentEmbedder

    embedder = StudentMultiViewDocumentEmbedder(model="runs/views/student")
    document = Document(content="json.loads parses a string.", meta={"questions": ["How do I parse JSON?"]})
    views = embedder.run(documents=[document])["documents"]
    ```
    """

    def __init__(
        self,
        *,
        model: str | Path = "runs/views/student",
        questions_field: str = "questions",
        views: int | None = None,
        query_tokens: int | None = None,
        combine: Combine | None = None,
        device: ComponentDevice | str | None = None,
        precision: Literal["float32", "bfloat16", "auto", "int8"] | None = None,
        backend: Literal["auto", "torch", "onnx"] = "auto",
        threads: int | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = False,
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
        :param questions_field:
            Field of the metadata that lists a document's questions.
        :param views:
            Views of a document, at most: the first questions are taken. None: as many as the student was measured
            with; 10 where its manifest does not say.
        :param query_tokens:
            Cut questions after so many tokens. None: as in training; 16 where the manifest does not say.
        :param combine:
            `max`: a vector a view, of which the best counts. `mean`: one vector a document. None: as the student was
            measured; `max` where its manifest does not say.
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
            Divide embeddings by their lengths; most models do so themselves. It is not part of the space.
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
        :raises ValueError:
            If `views`, `query_tokens`, `truncate_dim` or `batch_size` is not above 0, or `combine` is another word.
        """
        ViewRule(combine=combine or "max")  # refused here, not at the first run
        StudentDocumentEmbedder.__init__(  # not `super()`: `component` makes the class anew
            self,
            model=model,
            device=device,
            precision=precision,
            backend=backend,
            threads=threads,
            truncate_dim=truncate_dim,
            normalize_embeddings=normalize_embeddings,
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
        self.questions_field = questions_field
        self.views = None if views is None else positive("views", views)
        self.query_tokens = None if query_tokens is None else positive("query_tokens", query_tokens)
        self.combine = combine

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """
        Embed documents.

        :param documents:
            The documents; they are not changed. Dictionaries, as `Document.to_dict` makes them, are taken too.
        :returns:
            `documents`: a copy of each, or with `combine="max"` of each view, with an embedding and the stamps in
            `meta`.
        :raises TypeError:
            If `documents` is not a list of documents.
        :raises ValueError:
            If a document's questions are not a list of strings, or a view's id is that of another document.
        """
        return StudentDocumentEmbedder.run(self, documents=documents)

    def _to_embed(self, documents: list[Document]) -> tuple[list[Document], list[str], np.ndarray | None]:
        changes: dict[str, Any] = {"most": self.views, "query_tokens": self.query_tokens, "combine": self.combine}
        changes = {name: value for name, value in changes.items() if value is not None}
        rule = replace(self._handle.student.manifest.view_rule, **changes)
        found = list(zip(documents, self._views(documents, rule), strict=True))
        texts = [text for _, own in found for text in own]
        if rule.combine == "mean":
            return documents, texts, np.cumsum([0, *(len(own) for _, own in found)])[:-1]
        ids = {document.id for document in documents}
        seen = []
        for document, own in found:
            further = [f"{document.id}#{n}" for n in range(1, len(own))]
            if taken := ids.intersection(further):
                msg = (
                    f"Document {min(taken)!r} has the id of a view of document {document.id!r}, and one would take the "
                    "other's place. Give the documents other ids."
                )
                raise ValueError(msg)
            meta = {**document.meta, VIEW_OF: document.id}
            seen += [replace(document, id=name, meta=meta) for name in (document.id, *further)]
        return seen, texts, None

    def _views(self, documents: list[Document], rule: ViewRule) -> Iterator[list[str]]:
        """List the views of each document."""
        for document in documents:
            questions = document.meta.get(self.questions_field) or []
            if not isinstance(questions, list) or not all(isinstance(q, str) for q in questions):
                msg = f"meta[{self.questions_field!r}] of document {document.id} must be a list of questions."
                raise ValueError(msg)
            text = document_string(document.content, document.meta, self.meta_fields_to_embed, self.embedding_separator)
            yield self._handle.student.views(questions, text, rule, prompt=self.prefix or None)
