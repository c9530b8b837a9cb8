# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Stamping an index that was made elsewhere with the space of its vectors, once these were seen to be of that space."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from haystack import Document
from haystack.document_stores.errors import DocumentStoreError

from haystack_integrations.components.retrievers.retort.qdrant_server import ServerIndex
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.pipelines.indexing import open_store, reader
from retort.students import SPACE_STAMP, STUDENT_STAMP
from retort.students.files import found_from_index, relative_to_index

SAMPLE = 20
# Rounding and an API's noise stay above. Documents with a query's prompt have .91 to .98 of e5-small's own vectors.
LEAST_COSINE = 0.995

Store = QdrantEdgeDocumentStore | QdrantDocumentStore
Embed = Callable[[list[Document]], list[Document]]


def stamp_index(
    store: str | Store, student: str, space: str, embed: Embed, *, embedder: str, least_cosine: float = LEAST_COSINE
) -> int:
    """
    Write to every document of an index which space its embedding lies in, so that `StudentRetriever` searches it.

    Up to 20 of those without a stamp are embedded anew before, and compared with what is there. Embeddings are not
    touched. A run that was interrupted may be repeated.

    :param store:
        Folder of the index, URL of a collection on a Qdrant server, or a document store.
    :param student:
        The student that is to search it; it is named in the stamps.
    :param space:
        Space of the documents (see `retort.students.hashing`).
    :param embed:
        Embeds documents as the index's were.
    :param embedder:
        What that is, for errors.
    :param least_cosine:
        How near an embedding must be to the one that is there.
    :returns:
        How many documents were stamped; those that had the stamp are not counted.
    :raises DocumentStoreError:
        If there is no document with an embedding, another student built the index, or embeddings differ.
    """
    opened = open_store(store) if isinstance(store, str) else store
    index = reader(opened)
    place = index.address if isinstance(index, ServerIndex) else index.path
    try:
        points = list(_points(index))
        for _, meta in points:
            if meta.get(SPACE_STAMP, space) != space:
                built_by = found_from_index(meta.get(STUDENT_STAMP, "another student"), place)
                msg = f"The index at {place} was built by {built_by}; its stamps stay. Search it with that student."
                raise DocumentStoreError(msg)
        bare = [point for point, meta in points if SPACE_STAMP not in meta]
        sample = _sample(index, bare or [point for point, _ in points])
        if not sample:
            msg = f"There is no document with an embedding at {place}: nothing can be compared."
            raise DocumentStoreError(msg)
        _compare(sample, embed, place, embedder, least_cosine)
        name = student if isinstance(index, ServerIndex) else relative_to_index(student, place)
        _write(index, bare, {SPACE_STAMP: space, STUDENT_STAMP: name})
        return len(bare)
    finally:
        if isinstance(store, str):
            index.close()


def _points(index: QdrantEdgeDocumentStore | ServerIndex) -> Any:
    """Go through the points of an index: what it calls each, and its meta."""
    if isinstance(index, ServerIndex):
        return index.points()
    return ((document.id, document.meta) for document in index.filter_documents())


def _sample(index: QdrantEdgeDocumentStore | ServerIndex, points: list[Any]) -> list[Document]:
    """Draw documents with their embeddings, the same ones whenever the index is the same."""
    drawn = random.Random(0).sample(points, min(SAMPLE, len(points)))  # noqa: S311 - no secret
    if isinstance(index, ServerIndex):
        found = index.documents(drawn)
    else:
        with_embeddings = QdrantEdgeDocumentStore(path=index.path, similarity=index.similarity, return_embedding=True)
        found = with_embeddings.get_documents_by_id(drawn)
        with_embeddings.close()
    return [document for document in found if document.embedding is not None]


def _compare(sample: list[Document], embed: Embed, place: str, embedder: str, least: float) -> None:
    theirs = np.array([document.embedding for document in sample], dtype=np.float64)
    again = embed([replace(document, embedding=None) for document in sample])
    if lacking := len(sample) - sum(document.embedding is not None for document in again):
        msg = f"{embedder} gave no embedding of {lacking} of {len(sample)} sampled documents. Nothing was stamped."
        raise DocumentStoreError(msg)
    ours = np.array([document.embedding for document in again], dtype=np.float64)
    if ours.shape != theirs.shape:
        msg = (
            f"The embeddings of the index at {place} have {theirs.shape[1]} dimensions, those of {embedder} have "
            f"{ours.shape[1]}: another model made them. Nothing was stamped."
        )
        raise DocumentStoreError(msg)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines = (ours * theirs).sum(axis=1) / norms.clip(min=1e-12)
    if (other := cosines < least).any():
        worst = sample[int(cosines.argmin())]
        msg = (
            f"{int(other.sum())} of {len(sample)} sampled documents of the index at {place} have other embeddings than "
            f"{embedder} gives them: cosines from {cosines[other].min():.3f} to {cosines[other].max():.3f}, at least "
            f"{least} is needed. The worst is {(worst.content or '')[:60]!r}. Another model made them, or the same one "
            "with another prompt (the queries' in place of the documents'), other meta fields, or other lengths. "
            "Nothing was stamped."
        )
        raise DocumentStoreError(msg)


def _write(index: QdrantEdgeDocumentStore | ServerIndex, points: list[Any], stamps: dict[str, str]) -> None:
    if isinstance(index, ServerIndex):
        index.set_meta(points, stamps)
    else:
        index.update_by_filter({"field": "id", "operator": "in", "value": points}, stamps)
