# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Haystack documents to Qdrant Edge points and back."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from datetime import MAXYEAR, MINYEAR, date
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
_SHORT = 1e-3
_LONGEST = 1e19  # the engine squares lengths in single precision, where more than this is infinity, or zero
_NOT_FINITE = f"something else than finite numbers, or is longer than {_LONGEST:.0e}"
# How deep lists and dictionaries may nest, the meta itself counted. The engine writes any depth but reads about 120
# levels: an index with one deeper document never opens again. At some thousands, or in a circle, the process crashes.
_DEPTH = 64
_LEAST, _GREATEST = -(2**63), 2**64 - 1  # the engine makes floats of integers outside
_EXACT_POWER = 22  # the largest power of ten that double precision holds
_SCALARS = frozenset({str, bool, type(None)})
_FEWEST = 512  # bytes of an empty document, its id and entries in the engine's tables
_SHOWN = 80  # characters of the name of a bad value in its message
_ID_NAMESPACE = UUID("3896d314-1e95-4a3a-b45a-945f9f0b541d")


def point_id(document_id: str) -> str:
    """
    Return the id of the point that holds a document: Qdrant takes no arbitrary strings.

    :param document_id:
        The Haystack id.
    :returns:
        The same UUID for the same id, everywhere, as 32 hexadecimal digits.
    :raises DocumentStoreError:
        If the id is not Unicode text.
    """
    try:
        return uuid5(_ID_NAMESPACE, document_id).hex  # the engine reads text several times faster than a UUID
    except (TypeError, UnicodeEncodeError) as error:
        msg = f"The document id {document_id!r} is not Unicode text."
        raise DocumentStoreError(msg) from error


def as_compared(embedding: Any, similarity: str) -> Any:
    """
    Give a short embedding length 1, for cosines: below 3.5e-4 the engine takes it for zero, and leaves it as it is.

    :param embedding:
        The embedding, of finite numbers.
    :param similarity:
        How embeddings are compared.
    :returns:
        The embedding as the engine is to have it.
    """
    length = math.hypot(*embedding) if similarity == "cosine" else 0
    return [number / length for number in embedding] if 0 < length < _SHORT else embedding


def to_point(document: Document, similarity: str) -> Point:
    """
    Convert a document to a point.

    Unlike `Document.to_dict` it copies neither the embedding nor the meta.

    :param document:
        The document. Its score is not stored.
    :param similarity:
        How embeddings are compared.
    :returns:
        The point: the embeddings as vectors, the rest as payload.
    :raises DocumentStoreError:
        If the document holds something that JSON cannot, or that the engine would change or not read again.
    """
    if not isinstance(document.meta, dict):
        msg = f"The meta of document {document.id!r} is of type {type(document.meta).__name__}, not a dictionary."
        raise DocumentStoreError(msg)
    vector: dict[str, Any] = {}
    if document.embedding is not None:
        embedding: Any = document.embedding
        own = embedding if isinstance(embedding, list) else np.asarray(embedding, dtype=np.float32)
        vector[DENSE_VECTOR] = as_compared(own, similarity)
    if document.sparse_embedding is not None:
        vector[SPARSE_VECTOR] = sparse_vector(document.sparse_embedding, f"of document {document.id!r}")

    payload: dict[str, Any] = {"id": document.id, "content": document.content, "meta": document.meta}
    if document.blob is not None:
        if not isinstance(document.blob, ByteStream):
            msg = f"The blob of document {document.id!r} is of type {type(document.blob).__name__}, not a ByteStream."
            raise DocumentStoreError(msg)
        if not isinstance(document.blob.data, (bytes, bytearray)):  # else reading it fails, and all others with it
            msg = f"The blob of document {document.id!r} holds {type(document.blob.data).__name__}, not bytes."
            raise DocumentStoreError(msg)
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


def most_bytes(document: Document) -> int:
    """
    Say how many bytes a document takes on the disk, at most: once in the log of the engine and once in its place.

    :param document:
        A document that can be stored.
    :returns:
        The number.
    """
    payload = (document.content, document.meta, document.blob and (document.blob.data, document.blob.meta))
    size = _FEWEST + len(str(payload).encode(errors="replace"))
    if document.embedding is not None:
        size += 4 * len(document.embedding)
    if document.sparse_embedding is not None:
        size += 8 * len(document.sparse_embedding.indices)
    return 2 * size


def as_kept(value: Any) -> Any:
    """
    Round floats that the engine would change to 15 digits, which it keeps.

    It reads a number as an integer times or by a power of ten, in double precision. That is exact if both are; else the
    last digits differ, and a filter by the value finds nothing.

    :param value:
        A float, or a list or a dictionary with floats in it. Other values stay as they are.
    :returns:
        The value as it can be written, read and compared.
    """
    if isinstance(value, list):
        return [as_kept(item) for item in value]
    if isinstance(value, dict):
        return {key: as_kept(item) for key, item in value.items()}
    if not isinstance(value, (float, np.floating)) or not math.isfinite(value):
        return value
    digits, _, exponent = repr(float(value)).partition("e")
    whole, _, decimals = digits.partition(".")
    integer, power = int(whole + decimals), int(exponent or 0) - len(decimals)
    if int(float(integer)) == integer and abs(power) <= _EXACT_POWER:
        return value
    rounded = float(f"{value:.15g}")
    return rounded if math.isfinite(rounded) else value  # the largest float is rounded up to infinity


def _is_plain(values: Iterable[Any], room: int = _DEPTH) -> bool:
    """
    Tell whether the engine takes values as they are. Text and keys are left to the engine, which is faster.
    """
    for value in values:
        kind = type(value)
        if kind in _SCALARS:
            continue
        if (kind is int and _LEAST <= value <= _GREATEST) or (kind is float and as_kept(value) == value):
            continue
        if kind is not dict and kind is not list:
            return False
        if not room or not _is_plain(value.values() if kind is dict else value, room - 1):
            return False
    return True


def sparse_vector(embedding: SparseEmbedding, owner: str) -> SparseVector:
    """
    Convert a sparse embedding. With an index that has no value, the engine never opens the index again.

    :param embedding:
        The embedding.
    :param owner:
        What it belongs to, for the message.
    :returns:
        The vector.
    :raises DocumentStoreError:
        If its indices are not different integers of 32 bits, with a finite value for each.
    """
    if not _is_finite(embedding.values):
        msg = f"The sparse embedding {owner} holds {_NOT_FINITE}."
        raise DocumentStoreError(msg)
    indices = embedding.indices
    try:
        vector = SparseVector(indices, embedding.values)
        if len(embedding.values) == len(indices) == len(set(indices)):
            return vector
        error = None
    except (TypeError, OverflowError) as caught:
        error = caught
    msg = (
        f"The sparse embedding {owner} must have different integers from 0 to 2**32 - 1 for indices, and a value "
        "for each."
    )
    raise DocumentStoreError(msg) from error


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
        If it holds something that JSON cannot, or that the engine would change or not read again.
    """

    def refuse(name: str, reason: str) -> NoReturn:
        shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
        msg = f"{owner} cannot be stored: {shown!r} {reason}."
        raise DocumentStoreError(msg)

    def convert(value: Any, name: str, room: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind == "m":
            refuse(name, "is of type timedelta64: meta may hold only what JSON can, and dates")
        if isinstance(value, (int, np.integer)):
            if not _LEAST <= value <= _GREATEST:
                refuse(name, "is an integer below -2**63 or above 2**64 - 1: store it as text (str)")
            return int(value)
        if isinstance(value, (float, np.floating)):
            if not math.isfinite(value):
                refuse(name, f"is {float(value)}, which is no number: leave it out, or use None")
            return as_kept(float(value))
        if isinstance(value, str):
            return text(value, name)
        if isinstance(value, date):
            return value.isoformat()
        if isinstance(value, (np.generic, np.ndarray)):
            return convert((dates(value, name) if value.dtype.kind == "M" else value).tolist(), name, room)
        if not isinstance(value, (Mapping, Sequence)) or isinstance(value, (bytes, bytearray, memoryview)):
            refuse(name, f"is of type {type(value).__name__}: meta may hold only what JSON can, and dates")
        if not room:
            refuse(name, f"is nested more than {_DEPTH} levels deep: flatten it, or store it as text (json.dumps)")
        if isinstance(value, Sequence):
            return [convert(item, f"{name}[{index}]", room - 1) for index, item in enumerate(value)]
        items: dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, (str, int, float, bool, type(None))):
                refuse(name, f"has a key of type {type(key).__name__}: keys must be text")
            written = text(key, name) if isinstance(key, str) else json.dumps(key)
            if written in items:
                refuse(name, f"has two keys that are written {written!r}: JSON knows only text")
            items[written] = convert(item, f"{name}.{written}", room - 1)
        return items

    def dates(value: Any, name: str) -> Any:
        """Keep NumPy from making integers of dates, as it does of years that Python has not, and of nanoseconds."""
        if np.datetime_data(value.dtype)[0] in ("ns", "ps", "fs", "as"):
            return value.astype("M8[us]")
        years = value.astype("M8[Y]").astype(int) + 1970
        if (~np.isnat(value) & ((years < MINYEAR) | (years > MAXYEAR))).any():
            refuse(name, f"is a date outside of the years {MINYEAR} to {MAXYEAR}: store it as text (str)")
        return value

    def text(value: str, name: str) -> str:
        try:
            return value.encode().decode()
        except UnicodeEncodeError:
            refuse(name, "holds a surrogate, half a character: clean the text with .encode(errors='replace').decode()")

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
        meta=as_kept(payload.get("meta") or {}),
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
        if document.embedding is None:
            continue
        # Qdrant stores NaN without a word and never finds it again.
        if not _is_finite(document.embedding):
            msg = f"The embedding of document '{document.id}' holds {_NOT_FINITE}."
            raise DocumentStoreError(msg)
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
    return expected


def _is_finite(numbers: Any) -> bool:
    # These have numbers as well, but in no order, or others, or only once.
    if isinstance(numbers, (Mapping, Set, bytes, bytearray)) or not isinstance(numbers, Collection):
        return False
    try:
        return math.hypot(*numbers) <= _LONGEST  # their length: large or NaN if an entry is, and faster than a loop
    except (TypeError, OverflowError):
        return False
