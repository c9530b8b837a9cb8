# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Haystack documents to Qdrant Edge points and back."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, NoReturn
from uuid import UUID, uuid5

import numpy as np
from haystack import Document
from haystack.dataclasses import ByteStream, SparseEmbedding
from haystack.document_stores.errors import DocumentStoreError
from qdrant_edge import Point, Record, ScoredPoint, SparseVector

# Vector names, id namespace and payload layout are qdrant-haystack's: the same document has the same id on a server.
DENSE_VECTOR = "text-dense"
SPARSE_VECTOR = "text-sparse"
_LARGEST = float(np.finfo(np.float32).max)  # the engine keeps single precision, and makes infinity of more
# How deep lists and dictionaries may nest, the meta itself counted. The engine writes any depth but reads about 120
# levels: an index with one deeper document never opens again. At some thousands, or in a circle, the process crashes.
_DEPTH = 64
_SCALARS = frozenset({str, int, float, bool, type(None)})
_SHOWN = 80  # characters of the name of a bad value in its message
_ID_NAMESPACE = UUID("3896d314-1e95-4a3a-b45a-945f9f0b541d")


def point_id(document_id: str) -> str:
    """
    Return the id of the point that holds a document: Qdrant takes no arbitrary strings.

    :param document_id:
        The Haystack id.
    :returns:
        The same UUID for the same id, everywhere, as 32 hexadecimal digits.
    """
    return uuid5(_ID_NAMESPACE, document_id).hex  # the engine reads text several times faster than a UUID


def to_point(document: Document) -> Point:
    """
    Convert a document to a point.

    Unlike `Document.to_dict` it copies neither the embedding nor the meta.

    :param document:
        The document. Its score is not stored.
    :returns:
        The point: the embeddings as vectors, the rest as payload.
    :raises DocumentStoreError:
        If the document holds something that JSON cannot, or is nested too deeply.
    """
    vector: dict[str, Any] = {}
    if document.embedding is not None:
        vector[DENSE_VECTOR] = document.embedding
    if document.sparse_embedding is not None:
        vector[SPARSE_VECTOR] = SparseVector(document.sparse_embedding.indices, document.sparse_embedding.values)

    payload: dict[str, Any] = {"id": document.id, "content": document.content, "meta": document.meta}
    if document.blob is not None:
        payload["blob"] = {"meta": document.blob.meta, "mime_type": document.blob.mime_type}
    try:
        if _is_plain(payload.values()):
            return _point(document, vector, payload)
    except (TypeError, ValueError):
        pass  # `as_json` says what it is, or mends it
    return _point(document, vector, as_json(payload, f"Document {document.id!r}"))


def _point(document: Document, vector: dict[str, Any], payload: dict[str, Any]) -> Point:
    if document.blob is not None:
        payload = {**payload, "blob": {**payload["blob"], "data": document.blob.data}}
    return Point(point_id(document.id), vector, payload)


def _is_plain(values: Iterable[Any], room: int = _DEPTH) -> bool:
    """
    Tell whether the engine takes values as they are. Text, floats and keys are left to the engine, which is faster.
    """
    for value in values:
        kind = type(value)
        if kind in _SCALARS:
            continue
        if kind is not dict and kind is not list:
            return False
        if not room or not _is_plain(value.values() if kind is dict else value, room - 1):
            return False
    return True


def as_json(payload: dict[str, Any], owner: str) -> dict[str, Any]:
    """
    Rewrite what JSON can express in another form: dates as ISO 8601 strings, keys as strings, arrays as lists.

    :param payload:
        The payload.
    :param owner:
        What it belongs to, for the message.
    :returns:
        A copy of JSON's own types.
    :raises DocumentStoreError:
        If it holds something that JSON cannot, or is nested too deeply.
    """

    def refuse(name: str, reason: str) -> NoReturn:
        shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
        msg = f"{owner} cannot be stored: {shown!r} {reason}."
        raise DocumentStoreError(msg)

    def convert(value: Any, name: str, room: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (int, np.integer)):
            return int(value)
        if isinstance(value, (float, np.floating)):
            if not math.isfinite(value):
                refuse(name, f"is {float(value)}, which is no number: leave it out, or use None")
            return float(value)
        if isinstance(value, str):
            try:
                return value.encode().decode()
            except UnicodeEncodeError:
                refuse(name, "holds a surrogate, half a character: clean the text with .encode(errors='replace')")
        if isinstance(value, date):
            return value.isoformat()
        if isinstance(value, (np.generic, np.ndarray)):
            return convert(value.tolist(), name, room)
        if isinstance(value, (Mapping, Sequence)):
            if not room:
                refuse(name, f"is nested more than {_DEPTH} levels deep: flatten it, or store it as text (json.dumps)")
            if isinstance(value, Sequence):
                return [convert(item, f"{name}[{index}]", room - 1) for index, item in enumerate(value)]
            return {
                key if isinstance(key, str) else json.dumps(key): convert(item, f"{name}.{key}", room - 1)
                for key, item in value.items()
            }
        return refuse(name, f"is of type {type(value).__name__}: meta may hold only what JSON can, and dates")

    return {key: convert(value, key, _DEPTH) for key, value in payload.items()}


def to_document(point: Record | ScoredPoint, *, score: float | None = None) -> Document:
    """
    Convert a point back to a document.

    :param point:
        The point, with its payload; its vectors become the embeddings where it has them.
    :param score:
        The score to set.
    :returns:
        The document, under its own id.
    """
    payload = point.payload or {}  # each access converts the whole payload anew: once only
    vector = point.vector
    named: dict[str, Any] = vector if isinstance(vector, dict) else {}
    blob, sparse = payload.get("blob"), named.get(SPARSE_VECTOR)
    return Document(
        id=payload["id"],
        content=payload.get("content"),
        blob=ByteStream.from_dict(blob) if blob else None,
        meta=payload.get("meta") or {},
        score=score,
        embedding=named.get(DENSE_VECTOR),
        sparse_embedding=SparseEmbedding(sparse.indices, sparse.values) if sparse is not None else None,
    )


def embedding_dimension(documents: list[Document], expected: int | None, path: str) -> int | None:
    """
    Check the embeddings of documents that are to be written.

    :param documents:
        The documents.
    :param expected:
        The dimension that the index has, `None` where it has none yet: the first embedding then decides.
    :param path:
        The index, for the message.
    :returns:
        The dimension, `None` where it stays open.
    :raises DocumentStoreError:
        If an embedding is empty, has another dimension, or is not finite in single precision.
    """
    for document in documents:
        sparse = document.sparse_embedding
        if sparse is not None and not _is_finite(sparse.values):
            msg = f"The sparse embedding of document '{document.id}' holds something else than finite numbers."
            raise DocumentStoreError(msg)
        if document.embedding is None:
            continue
        size = len(document.embedding)
        if size == 0:  # the engine takes 0 for a dimension, and then never opens the index again
            msg = f"The embedding of document '{document.id}' is empty: leave it out, or embed the document."
            raise DocumentStoreError(msg)
        if expected is None:
            expected = size
        if size != expected:
            msg = (
                f"Document '{document.id}' has an embedding of {size} dimensions, but the index at {path} "
                f"holds embeddings of {expected} dimensions."
            )
            raise DocumentStoreError(msg)
        if not _is_finite(document.embedding):  # Qdrant stores NaN without a word and never finds it again
            msg = f"The embedding of document '{document.id}' holds something else than finite numbers."
            raise DocumentStoreError(msg)
    return expected


def _is_finite(numbers: list[float]) -> bool:
    try:
        return math.hypot(*numbers) <= _LARGEST  # their length: large or NaN if an entry is, and faster than a loop
    except (TypeError, OverflowError):
        return False
