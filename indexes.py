# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What `retort index` does, in Python; it runs where nothing is installed that training needs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from retort.pipelines import indexing
from retort.students import Manifest
from retort.students.files import resolve_model
from retort.trainers.data.documents import OnError, Reading, read_source, source_root
from retort.trainers.data.images import holds_images, read_images
from retort.trainers.runtime.errors import DataError
from retort.trainers.runtime.progress import progress_bar


def index_documents(
    student: str,
    source: str | Path,
    store: str | Path,
    *,
    passage_words: int | None = None,
    sparse: str | None = None,
    prune: bool = False,
    quantization: str | None = None,
    storage: str | None = None,
    sentences: bool = True,
    trust_remote_code: bool = False,
    on_error: OnError = "skip",
) -> tuple[int, int]:
    """
    Read and index documents, with a progress bar; see `retort.pipelines.indexing.index_documents`.

    :param student:
        The student. One of kind `image_text` reads images alone, all others texts alone; a model without a manifest is
        given what the source has.
    :param source:
        What to read (see `read_source`, and `read_images` for images); files are cut as the student was made for.
    :param store:
        Folder of the index, or URL of a collection on a Qdrant server.
    :param passage_words:
        Words of a passage, at most; None: as the student was made for, else 150.
    :param sparse:
        A sparse student, whose embeddings documents get as well.
    :param prune:
        Delete every document of the index that `source` does not give.
    :param quantization:
        How the index also keeps embeddings, as there.
    :param storage:
        How a folder's index keeps embeddings themselves, as there.
    :param sentences:
        Keep vectors of sentences as well, for the answerer.
    :param trust_remote_code:
        Run code that the students bring along.
    :param on_error:
        What to do with what cannot be read or has no text: `skip` it and name it, or `fail`.
    :returns:
        Documents in the index, and how many were deleted.
    :raises DataError:
        If the student reads images and the source has texts, or the other way round; or a sparse student is named for
        images.
    """
    manifest = Manifest.read(Path(resolve_model(student)))
    if passage_words is None and manifest is not None:
        passage_words = manifest.passage_words or None
    images = holds_images(source) if manifest is None else manifest.kind == "image_text"
    if images and sparse is not None:
        msg = f"{student} reads images, which have no sparse embeddings: leave --sparse out."
        raise DataError(msg)

    def read() -> Reading:
        if images:
            return read_images(source, on_error=on_error, may_be_blank=True)
        return read_source(source, words=passage_words, on_error=on_error, may_be_blank=True)

    folder = source_root(source)
    return index_reading(
        student,
        read,
        store,
        folder=folder,
        images=(folder or Path(source)) if images else None,
        sparse=sparse,
        prune=prune,
        quantization=quantization,
        storage=storage,
        sentences=sentences,
        trust_remote_code=trust_remote_code,
        on_error=on_error,
    )


def index_reading(student: str, read: Callable[[], Reading], store: str | Path, **options: Any) -> tuple[int, int]:
    """Index what `read` gives, with a progress bar; options of `retort.pipelines.indexing.index_documents`."""

    def source() -> indexing.Source:
        reading = read()
        return indexing.Source(reading.documents, reading.blank, reading.unread)

    return indexing.index_documents(student, source, store, progress=progress_bar, **options)
