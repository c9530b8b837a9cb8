# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Embeds documents with a student."""

import asyncio
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from haystack import Document, component
from haystack.utils import ComponentDevice, Secret
from tqdm import tqdm

from haystack_integrations.components.embedders.retort.model_component import (
    ModelComponent,
    device_of,
    finished,
    tokens_of,
)
from retort.students import (
    SENTENCES_STAMP,
    SPACE_STAMP,
    STUDENT_STAMP,
    VIEW_OF,
    ManifestError,
    Student,
    document_string,
)
from retort.students.checks import positive
from retort.students.sentences import Passage, pack, passages_of, texts_to_keep
from retort.students.views import mean_of_views

logger = logging.getLogger(__name__)


@component
class StudentDocumentEmbedder(ModelComponent[Student]):
    """
    Embeds documents with a distilled student, or with any other sentence-transformers model.

    The document side of the model is used: its prompt, its length and, in a model with separate towers, its tower.
    Each document is stamped with the model's space, which `StudentRetriever` compares with that of the query.

    ### Usage example

    ```python
    from haystack import Document
    from haystack_integrations.components.embedders.retort import StudentDocumentEmbedder

    embedder = StudentDocumentEmbedder(model="runs/quickstart/student")
    documents = embedder.run(documents=[Document(content="json.loads parses a string.")])["documents"]
    ```
    """

    _kind = Student
    _stamps = (SPACE_STAMP, STUDENT_STAMP)

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
        batch_size: int | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = " ",
        sentences: bool = False,
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
        :param sentences:
            Embed passages and sentences as well, and keep their vectors in the metadata, by which `ExtractiveAnswerer`
            answers without embedding them for each question. It takes longer, as each sentence is read with its title.
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
            If `truncate_dim` or `batch_size` is not above 0.
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
        self.batch_size = None if batch_size is None else positive("batch_size", batch_size)
        self.meta_fields_to_embed = meta_fields_to_embed
        self.embedding_separator = embedding_separator
        self.sentences = sentences
        self.progress_bar = progress_bar
        self.revision = revision
        self.token = token
        self.local_files_only = local_files_only
        self.trust_remote_code = trust_remote_code
        self.model_kwargs = model_kwargs
        self.tokenizer_kwargs = tokenizer_kwargs
        self.config_kwargs = config_kwargs
        self._warned = False
        self._handle = self._share(self._kind)

    def warm_up(self) -> None:
        """
        Load the model, once.

        :raises ManifestError:
            If its documents are images.
        """
        _ = self._loaded()

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """
        Embed documents.

        :param documents:
            The documents; they are not changed. Dictionaries, as `Document.to_dict` makes them, are taken too.
        :returns:
            `documents`: copies with the same ids, an embedding and the stamps in `meta`.
        :raises TypeError:
            If `documents` is not a list of documents.
        :raises ManifestError:
            If the model's documents are images.
        """
        if isinstance(documents, list):  # Hayhooks hands on a request's JSON as it is
            documents = [Document.from_dict(d) if isinstance(d, dict) else d for d in documents]
        if not isinstance(documents, list) or not all(isinstance(d, Document) for d in documents):
            name, other = type(self).__name__, "Sparse" if self._kind.kinds == ("sparse",) else ""
            msg = f"{name} expects a list of Documents. To embed a query, use the Student{other}TextEmbedder."
            raise TypeError(msg)
        student = self._loaded()
        self._say_titles(documents, self.meta_fields_to_embed)
        documents, texts, starts = self._to_embed(documents)
        quiet = not self.progress_bar or not sys.stderr.isatty()
        with tqdm(total=len(texts), desc="embedding documents", disable=quiet, leave=False) as bar:
            vectors = self._encode(
                [text + self.suffix for text in texts],
                prompt=self.prefix or None,
                tokens_per_chunk=tokens_of(self.batch_size, student.manifest.max_tokens["document"]),
                progress=bar.update,
            )
        if starts is not None:
            vectors = mean_of_views(vectors, starts, student.manifest.similarity)
        space = student.space_with(self.prefix, self.suffix)
        stamps = dict(zip(self._stamps, (space, self.model), strict=True))
        stamped = [replace(d, meta={**d.meta, **stamps}) for d in documents]
        if self.sentences:
            same = not self.prefix and not self.suffix and starts is None  # else the model saw something else
            stamped = self._with_sentences(stamped, dict(zip(texts, vectors, strict=True)) if same else {})
        return {"documents": self._with_vectors(stamped, vectors)}

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """
        Embed documents in a thread, so that the event loop stays free.

        :param documents:
            The documents.
        :returns:
            As `run`.
        """
        return await asyncio.to_thread(self.run, documents=documents)

    def _loaded(self) -> Student:
        student = self._handle.student
        if not student.takes_text_documents:
            msg = f"{self.model} reads documents that are images: take the StudentDocumentImageEmbedder."
            raise ManifestError(msg)
        return student

    def _encode(self, texts: list[str], **options: Any) -> Any:
        return self._handle.student.encode_document(texts, **options)

    def _to_embed(self, documents: list[Document]) -> tuple[list[Document], list[str], np.ndarray | None]:
        """Give documents and their texts; and where the texts of each begin, if it has the mean of their vectors."""
        kind = self._handle.student.manifest.kind
        if kind == "multi_view" and not any(VIEW_OF in d.meta for d in documents) and not self._warned:
            self._warned = True
            message = "%s was trained to see documents with questions: take the StudentMultiViewDocumentEmbedder."
            logger.warning(message, self.model)
        fields, separator = self.meta_fields_to_embed, self.embedding_separator
        return documents, [document_string(d.content, d.meta, fields, separator) for d in documents], None

    def _with_sentences(self, documents: list[Document], known: dict[str, np.ndarray]) -> list[Document]:
        """Keep the vectors of passages and sentences in the documents; those of known texts are not computed again."""
        student = self._handle.student
        cut = [passages_of(str(d.meta.get("title") or ""), d.content or "") for d in documents]
        texts = [texts_to_keep(passages) for passages in cut]
        new = [text for text in dict.fromkeys(text for own in texts for text in own) if text not in known]
        quiet = not self.progress_bar or not sys.stderr.isatty()
        with tqdm(total=len(new), desc="embedding sentences", disable=quiet, leave=False) as bar:
            vectors = student.encode_document(
                new,
                tokens_per_chunk=tokens_of(self.batch_size, student.manifest.max_tokens["document"]),
                progress=bar.update,
            )
        known = known | dict(zip(new, vectors, strict=True))

        def packed(passages: list[Passage], own: list[str]) -> dict[str, str]:
            kept = np.stack([known[text] for text in own])
            return {SENTENCES_STAMP: pack(student.space, passages, kept)}

        return [
            replace(d, meta={**d.meta, **packed(passages, own)}) if own else d
            for d, passages, own in zip(documents, cut, texts, strict=True)
        ]

    def _with_vectors(self, documents: list[Document], vectors: Any) -> list[Document]:
        vectors = finished(vectors, self.truncate_dim, normalize=self.normalize_embeddings)
        return [replace(d, embedding=vector.tolist()) for d, vector in zip(documents, vectors, strict=True)]
