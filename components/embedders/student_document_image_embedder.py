# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Embeds documents that are images with a student."""

import asyncio
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from haystack import Document, component
from haystack.utils import ComponentDevice, Secret
from tqdm import tqdm

from haystack_integrations.components.embedders.retort.model_component import ModelComponent, device_of, finished
from retort.students import IMAGE_STAMP, SPACE_STAMP, STUDENT_STAMP, ManifestError, Student
from retort.students.checks import positive
from retort.students.extras import IMAGES
from retort.students.images import ImageError, ImageFile, checked_images

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]
PDF = "application/pdf"
EMBEDDING_SOURCE = "embedding_source"  # where Haystack's image embedder says what it embedded
EMBEDDING_ERROR = "embedding_error"


def image_meta(image: ImageFile, field: str, root: Path | None) -> dict[str, Any]:
    """
    Return what the metadata of a document says of the image that was embedded.

    :param image:
        The image.
    :param field:
        Field of the metadata that names its file.
    :param root:
        The folder, resolved, that its path lies in; None: nobody said.
    :returns:
        `embedding_source`, as Haystack's own embedder writes it. With a root also our stamp of the file, by which
        `retort serve` shows it and `retort index` sees that it changed.
    """
    meta: dict[str, Any] = {EMBEDDING_SOURCE: {"type": "image", "file_path_meta_field": field}}
    if root is not None:
        name = Path(image).relative_to(root).as_posix()
        meta[IMAGE_STAMP] = {"root": str(root), "file": name, "item": image.item.hex()}
    return meta


def image_within(root: Path, name: str | Path) -> ImageFile:
    """
    Find an image in a folder.

    :param root:
        The folder, resolved.
    :param name:
        Its path, relative to the folder or absolute.
    :returns:
        The image, under its resolved path.
    :raises ImageError:
        If there is no such file, or links or `..` lead out of the folder.
    """
    path = _resolved(root / name)
    if not path.is_relative_to(root):
        msg = f"{name} leads out of {root}, the folder of the images. Name a file in it, or set another root_path."
        raise ImageError(msg)
    return ImageFile(_file(path))


@component
class StudentDocumentImageEmbedder(ModelComponent[Student]):
    """
    Embeds documents that are images with a distilled student, or with any other model of images and texts, like CLIP.

    A document names its image's file in its metadata; its content is not read. Queries are texts, and
    `StudentTextEmbedder` embeds them with the same model. Each document is stamped with the model's space, which
    `StudentRetriever` compares with that of the query.

    It takes the parameters of Haystack's `SentenceTransformersDocumentImageEmbedder`; what differs is in
    docs/components.md. Reading images needs the extra `images`.

    ### Usage example

    ```python
    from haystack import Document
    from haystack_integrations.components.embedders.retort import StudentDocumentImageEmbedder

    embedder = StudentDocumentImageEmbedder(model="runs/images/student", root_path="photos")
    documents = embedder.run(documents=[Document(meta={"file_path": "cat.jpg"})])["documents"]
    ```
    """

    def __init__(
        self,
        *,
        file_path_meta_field: str = "file_path",
        root_path: str | Path | None = None,
        model: str | Path = "runs/images/student",
        device: ComponentDevice | str | None = None,
        precision: Literal["float32", "bfloat16", "auto", "int8"] | None = None,
        backend: Literal["auto", "torch", "onnx"] = "auto",
        threads: int | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = False,
        batch_size: int | None = None,
        on_error: OnError = "raise",
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

        :param file_path_meta_field:
            Field of the metadata that names an image's file.
        :param root_path:
            Folder that the paths are relative to. A path that leads out of it is refused; set it where metadata comes
            from others. None: paths are absolute, or relative to the working directory, and any file may be read.
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
        :param batch_size:
            Images of a forward pass; None: what suits the device.
        :param on_error:
            What to do with a document whose image cannot be read: `raise`; or `skip`: leave it out, name it in a
            warning, and return it as `skipped`.
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
            If `truncate_dim` or `batch_size` is not above 0, or `on_error` is another word.
        """
        if on_error not in get_args(OnError):
            msg = f"on_error must be 'raise' or 'skip'; it is {on_error!r}."
            raise ValueError(msg)
        self.file_path_meta_field = file_path_meta_field
        self.root_path = None if root_path is None else str(root_path)
        self.model = str(model)
        self.device = device_of(device)
        self.precision = precision
        self.backend = backend
        self.threads = threads
        self.truncate_dim = None if truncate_dim is None else positive("truncate_dim", truncate_dim)
        self.normalize_embeddings = normalize_embeddings
        self.batch_size = None if batch_size is None else positive("batch_size", batch_size)
        self.on_error = on_error
        self.progress_bar = progress_bar
        self.revision = revision
        self.token = token
        self.local_files_only = local_files_only
        self.trust_remote_code = trust_remote_code
        self.model_kwargs = model_kwargs
        self.tokenizer_kwargs = tokenizer_kwargs
        self.config_kwargs = config_kwargs
        self._handle = self._share(Student)

    def warm_up(self) -> None:
        """
        Load the model, once.

        :raises ManifestError:
            If it reads texts alone.
        :raises ModuleNotFoundError:
            If Pillow is not installed.
        """
        _ = self._loaded()

    @component.output_types(documents=list[Document], skipped=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """
        Embed documents.

        :param documents:
            The documents; they are not changed. Dictionaries, as `Document.to_dict` makes them, are taken too.
        :returns:
            `documents`: copies with the same ids, an embedding, `embedding_source` and the stamps in `meta`. `skipped`:
            copies of those whose image cannot be read, with the reason in `meta["embedding_error"]`.
        :raises TypeError:
            If `documents` is not a list of documents.
        :raises ImageError:
            With `on_error="raise"`: if a document names no image that can be read, or one out of `root_path`.
        :raises ManifestError:
            If the model reads texts alone.
        :raises ModuleNotFoundError:
            If Pillow is not installed.
        """
        if isinstance(documents, list):  # Hayhooks hands on a request's JSON as it is
            documents = [Document.from_dict(d) if isinstance(d, dict) else d for d in documents]
        if not isinstance(documents, list) or not all(isinstance(d, Document) for d in documents):
            msg = "StudentDocumentImageEmbedder expects a list of Documents. To embed a query, use StudentTextEmbedder."
            raise TypeError(msg)
        student = self._loaded()
        root = Path(self.root_path).resolve() if self.root_path else None
        images, reasons = self._images(documents, root)
        self._refuse(documents, reasons)
        quiet = not self.progress_bar or not sys.stderr.isatty()
        with tqdm(total=len(images), desc="embedding images", disable=quiet, leave=False) as bar:
            vectors, damaged = self._encode(student, images, bar.update)
        if damaged:
            self._refuse(documents, damaged)
            reasons |= damaged
        if reasons:
            lines = "".join(f"\n  {_named(documents[row], reason)}" for row, reason in sorted(reasons.items()))
            logger.warning("%d documents left out, whose images cannot be read:%s", len(reasons), lines)
        stamps = {SPACE_STAMP: student.space, STUDENT_STAMP: self.model}
        vectors = finished(vectors, self.truncate_dim, normalize=self.normalize_embeddings)
        read = [row for row in images if row not in damaged]
        metas = [
            documents[row].meta | image_meta(images[row], self.file_path_meta_field, root) | stamps for row in read
        ]
        return {
            "documents": [
                replace(documents[row], meta=meta, embedding=vector.tolist())
                for row, meta, vector in zip(read, metas, vectors, strict=True)
            ],
            "skipped": [
                replace(documents[row], meta={**documents[row].meta, EMBEDDING_ERROR: str(reason)})
                for row, reason in sorted(reasons.items())
            ],
        }

    @component.output_types(documents=list[Document], skipped=list[Document])
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
        if find_spec("PIL") is None:
            msg = f"StudentDocumentImageEmbedder needs Pillow: {IMAGES}"
            raise ModuleNotFoundError(msg, name="PIL")
        student = self._handle.student
        if student.manifest.kind != "image_text":
            msg = f"{self.model} reads texts alone: take the StudentDocumentEmbedder."
            raise ManifestError(msg)
        return student

    def _images(
        self, documents: list[Document], root: Path | None
    ) -> tuple[dict[int, ImageFile], dict[int, ImageError]]:
        """Find the image of each document, by its row, or say what is wrong with it."""
        images, reasons = {}, {}
        for row, document in enumerate(documents):
            try:
                images[row] = self._image(document.meta, root)
            except ImageError as error:
                reasons[row] = error
        return images, reasons

    def _image(self, meta: dict[str, Any], root: Path | None) -> ImageFile:
        name = meta.get(self.file_path_meta_field)
        if not isinstance(name, str | Path) or not str(name):
            msg = f"meta[{self.file_path_meta_field!r}] names no file: it is {name!r}. Put an image's path there."
            raise ImageError(msg)
        if meta.get("mime_type") == PDF or Path(name).suffix.lower() == ".pdf":
            msg = f"{name} is a PDF file, whose pages are not read. Save each page as an image, a document each."
            raise ImageError(msg)
        if root is not None:
            return image_within(root, name)
        return ImageFile(_file(Path(name)), item=b"")  # nobody asks for its key

    def _encode(
        self, student: Student, images: dict[int, ImageFile], progress: Callable[[int], Any]
    ) -> tuple[np.ndarray, dict[int, ImageError]]:
        """Encode images: the vectors of those that can be read, and what is wrong with the others, by their rows."""
        options: dict[str, Any] = {"progress": progress}
        if self.batch_size is not None:
            options["tokens_per_chunk"] = self.batch_size * student.image_tokens
        try:
            return student.encode_document(list(images.values()), **options), {}
        except ImageError:  # seldom: to read all of them before would take as long again
            checked = zip(images, checked_images(images.values()), strict=True)
            damaged = {row: error for row, error in checked if isinstance(error, ImageError)}
            if not damaged:
                raise
        if self.on_error == "raise":
            return np.empty((0, student.dim), dtype=np.float32), damaged
        rest = [image for row, image in images.items() if row not in damaged]
        return student.encode_document(rest, **options), damaged

    def _refuse(self, documents: list[Document], reasons: dict[int, ImageError]) -> None:
        if reasons and self.on_error == "raise":
            row, reason = min(reasons.items())
            more = f" {len(reasons) - 1} more cannot be read either." if len(reasons) > 1 else ""
            msg = f"{_named(documents[row], reason)}{more} Or set on_error='skip'."
            raise ImageError(msg) from reason


def _named(document: Document, reason: ImageError) -> str:
    return f"Document {document.id!r}: {reason}"


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, a name that no file can have
        raise _unreadable(path, error) from error


def _file(path: Path) -> Path:
    try:
        there = path.is_file()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not there:
        raise _unreadable(path, "there is no such file")
    return path


def _unreadable(path: Path, why: Exception | str) -> ImageError:
    return ImageError(f"{str(path)!r}: {getattr(why, 'strerror', None) or why}. Name a file that can be read.")
