# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
What qdrant-haystack's `QdrantDocumentStore` does not offer: search parameters, and reading that changes nothing.

The one file that uses private names of that store; a contract test tells which of them have gone away.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from grpc import RpcError, StatusCode
from haystack import Document
from haystack.dataclasses import SparseEmbedding
from haystack.document_stores.errors import DocumentStoreError
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse
from qdrant_client.http.models import (
    Distance,
    Filter,
    QuantizationSearchParams,
    ScoredPoint,
    SearchParams,
    SparseVector,
)

from haystack_integrations.document_stores.qdrant import QdrantDocumentStore
from haystack_integrations.document_stores.qdrant.converters import (
    DENSE_VECTORS_NAME,
    SPARSE_VECTORS_NAME,
    convert_qdrant_point_to_haystack_document,
)

from .server_filters import convert_server_filters

_PAGE = 10_000


def search_params(
    *,
    hnsw_ef: int | None = None,
    exact: bool | None = None,
    rescore: bool | None = None,
    oversampling: float | None = None,
    ignore_quantization: bool | None = None,
) -> SearchParams:
    """Build Qdrant's search parameters; the parameters are those of `StudentRetriever`."""
    quantization = None
    if (rescore, oversampling, ignore_quantization) != (None, None, None):
        quantization = QuantizationSearchParams(
            rescore=rescore, oversampling=oversampling, ignore=bool(ignore_quantization)
        )
    return SearchParams(hnsw_ef=hnsw_ef, exact=exact, quantization=quantization)


class MissingCollectionError(DocumentStoreError):
    """There is no such collection on the server."""


class _Vectors(NamedTuple):
    """What a collection says of its embeddings."""

    dim: int
    sign: float
    named: bool
    sparse: bool


class ServerIndex:
    """
    The collection of a `QdrantDocumentStore`, for those who read it.

    It opens clients of its own. The store's creates a collection that is missing as soon as it is opened, empties it
    if `recreate_index` is set, and its asynchronous one serves a single event loop. A local mode allows one client
    only, so there the store's is used, or becomes the one opened here.

    :param store:
        The document store: of a Qdrant server, or in one of its local modes.
    """

    def __init__(self, store: QdrantDocumentStore) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._client: QdrantClient | None = None
        self._async_clients: dict[asyncio.AbstractEventLoop, AsyncQdrantClient] = {}  # connections belong to a loop
        self._vectors: _Vectors | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy no open client: a copy opens its own."""
        return type(self), (self.store,)

    @property
    def address(self) -> str:
        """Where the collection is; for a server its URL, as `retort index --store` takes it."""
        given = self.store._prepare_client_params()
        if self.is_local:
            return f"{given['path'] or given['location']}/{self.store.index}"
        url = given["url"] or given["location"] or given["host"] or "localhost"
        if "://" not in url:
            secure = given["api_key"] is not None if given["https"] is None else given["https"]
            url = f"{'https' if secure else 'http'}://{url}"
        parts = urlsplit(url)
        path = "/".join(filter(None, [(given["prefix"] or parts.path).strip("/"), self.store.index]))
        return f"{parts.scheme}://{parts.hostname}:{parts.port or given['port']}/{path}"

    @property
    def how_to_index(self) -> str:
        """What builds the collection, as the end of a sentence."""
        if self.is_local:  # the command line knows servers and folders of Qdrant Edge only
            return "by writing documents that StudentDocumentEmbedder embedded"
        return f"with `retort index STUDENT --documents DIR --store {self.address}`"

    def close(self) -> None:
        """Close the store and what was opened for reading; using it again opens it again."""
        with self._lock:
            client, self._client, self._vectors = self._client, None, None
        if client is not None:
            client.close()
        self.store.close()

    async def close_async(self) -> None:
        """Close everything, see `close`."""
        with self._lock:
            opened = self._async_clients.pop(asyncio.get_running_loop(), None)
        if opened is not None:
            await opened.close()
        await self.store.close_async()
        await asyncio.to_thread(self.close)

    def search(self, query_embedding: list[float] | SparseEmbedding, **options: Any) -> list[Document]:
        """
        Return the documents whose embeddings are most similar to a query's.

        :param query_embedding:
            The query. A sparse one is compared with the sparse embeddings.
        :param options:
            `top_k`, the number of documents; `params`, Qdrant's search parameters; `filters`, Haystack's or native
            ones; `return_embedding`, whether the documents have their embeddings.
        :returns:
            The documents, best first. A higher score is better (of a collection compared by distance, the negative).
        :raises DocumentStoreError:
            If the collection is missing or not one of Haystack's, if the query has another dimension or is not
            finite, or if the server fails.
        """
        with self._clear_errors():
            client, vectors = self._open()
            request = self._request(vectors, query_embedding, **options)
            return _documents(vectors, query_embedding, client.query_points(**request).points)

    async def search_async(self, query_embedding: list[float] | SparseEmbedding, **options: Any) -> list[Document]:
        """
        Return the documents whose embeddings are most similar to a query's; parameters and result as `search`.

        A second, asynchronous client of a local mode would find another collection, or its folder locked. There the
        synchronous one searches, in a thread.
        """
        if self.is_local:
            return await asyncio.to_thread(self.search, query_embedding, **options)
        with self._clear_errors():
            vectors = self._vectors or (await asyncio.to_thread(self._open))[1]
            request = self._request(vectors, query_embedding, **options)
            points = (await self._client_of_loop().query_points(**request)).points
            return _documents(vectors, query_embedding, points)

    def _client_of_loop(self) -> AsyncQdrantClient:
        """Return this event loop's client; those of loops that are closed are let go."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._async_clients:
                for closed in [other for other in self._async_clients if other.is_closed()]:
                    del self._async_clients[closed]
                self._async_clients[loop] = AsyncQdrantClient(**self.store._prepare_client_params())
            return self._async_clients[loop]

    def sample_meta(self) -> dict[str, Any] | None:
        """
        Read the meta of one document, whichever is found first.

        :returns:
            The meta, `None` where there is no document or no collection.
        :raises DocumentStoreError:
            If the server fails.
        """
        try:
            with self._clear_errors():
                records, _ = self._open()[0].scroll(self.store.index, limit=1, with_payload=["meta"])
        except MissingCollectionError:
            return None
        return (records[0].payload or {}).get("meta", {}) if records else None

    def count(self) -> int:
        """
        Count the documents; none where there is no collection.

        :raises DocumentStoreError:
            If the server fails.
        """
        try:
            with self._clear_errors():
                return int(self._open()[0].count(self.store.index).count)
        except MissingCollectionError:
            return 0

    def require_quantization(self, config: dict[str, Any]) -> None:
        """
        Refuse a collection that was built with another quantisation; a missing one is created with what is asked for.

        :param config:
            As Qdrant's `quantization_config`.
        :raises DocumentStoreError:
            If the collection has another or none, or the server fails.
        """
        try:
            with self._clear_errors():
                found = self._open()[0].get_collection(self.store.index).config.quantization_config
        except MissingCollectionError:
            return
        kept = {} if found is None else found.model_dump(mode="json", exclude_none=True)
        (kind, wanted), *_ = config.items()
        if kind not in kept or any(kept[kind].get(key) != wanted.get(key) for key in ("type", "bits")):
            msg = (
                f"The collection at {self.address} was built with the quantization {kept or None}, not with {config}. "
                "Leave the parameter out to take it as it is, or index into another collection."
            )
            raise DocumentStoreError(msg)

    def document_ids(self) -> set[str]:
        """
        Read the ids of all documents, and nothing else of them.

        :returns:
            Their Haystack ids.
        :raises DocumentStoreError:
            If the collection is missing, or the server fails.
        """
        ids: set[str] = set()
        with self._clear_errors():
            client, _ = self._open()
            offset = None
            while True:
                records, offset = client.scroll(self.store.index, limit=_PAGE, offset=offset, with_payload=["id"])
                ids |= {(record.payload or {})["id"] for record in records}
                if offset is None:
                    return ids

    def points(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """
        Go through all documents: the server's name of each, and its meta.

        :raises DocumentStoreError:
            If the collection is missing, or the server fails.
        """
        with self._clear_errors():
            client, _ = self._open()
            offset = None
            while True:
                records, offset = client.scroll(self.store.index, limit=_PAGE, offset=offset, with_payload=["meta"])
                yield from ((record.id, (record.payload or {}).get("meta", {})) for record in records)
                if offset is None:
                    return

    def documents(self, points: list[Any]) -> list[Document]:
        """
        Return documents with their embeddings.

        :param points:
            What the server calls them, as `points` says.
        :raises DocumentStoreError:
            If the server fails.
        """
        with self._clear_errors():
            client, vectors = self._open()
            found = client.retrieve(self.store.index, points, with_payload=True, with_vectors=True)
            return [convert_qdrant_point_to_haystack_document(point, vectors.named) for point in found]

    def set_meta(self, points: list[Any], meta: dict[str, Any]) -> None:
        """
        Set meta fields of documents; their other fields and their embeddings stay.

        :param points:
            What the server calls them, as `points` says.
        :param meta:
            The fields.
        :raises DocumentStoreError:
            If the server fails.
        """
        with self._clear_errors():
            client, _ = self._open()
            for start in range(0, len(points), _PAGE):
                page = points[start : start + _PAGE]
                client.set_payload(self.store.index, meta, points=page, key="meta", wait=True)

    @property
    def is_local(self) -> bool:
        """Whether it is a local mode of Qdrant's client."""
        given = self.store._prepare_client_params()
        return given["location"] == ":memory:" or given["path"] is not None

    def _open(self) -> tuple[QdrantClient, _Vectors]:
        with self._lock:
            client = self.store._client if self.is_local else self._client
            if client is not None and self._vectors is not None:
                return client, self._vectors
            opened = client or QdrantClient(**self.store._prepare_client_params())
            try:
                self._vectors = self._read_vectors(opened)
            except Exception:
                if client is None:
                    opened.close()
                raise
            if self.is_local:
                self.store._client = opened
            else:
                self._client = opened
            return opened, self._vectors

    def _read_vectors(self, client: QdrantClient) -> _Vectors:
        if not client.collection_exists(self.store.index):
            raise MissingCollectionError(self._missing())
        params = client.get_collection(self.store.index).config.params
        vectors = params.vectors
        named = isinstance(vectors, dict)
        dense = vectors.get(DENSE_VECTORS_NAME) if isinstance(vectors, dict) else vectors
        if dense is None:
            msg = f"The collection at {self.address} has no vectors '{DENSE_VECTORS_NAME}': Haystack did not build it."
            raise DocumentStoreError(msg)
        # Qdrant gives distances, of which less is better, where Qdrant Edge's store gives their negative.
        sign = -1.0 if dense.distance in (Distance.EUCLID, Distance.MANHATTAN) else 1.0
        return _Vectors(dense.size, sign, named, SPARSE_VECTORS_NAME in (params.sparse_vectors or {}))

    def _request(
        self,
        vectors: _Vectors,
        query_embedding: list[float] | SparseEmbedding,
        *,
        top_k: int,
        params: SearchParams,
        filters: dict[str, Any] | Filter | None = None,
        return_embedding: bool = False,
    ) -> dict[str, Any]:
        common = {
            "collection_name": self.store.index,
            "query_filter": convert_server_filters(filters),
            "search_params": params,
            "limit": top_k,
            "with_payload": True,
            "with_vectors": return_embedding,
        }
        if isinstance(query_embedding, SparseEmbedding):
            if not vectors.sparse:
                msg = (
                    f"The collection at {self.address} has no vectors '{SPARSE_VECTORS_NAME}': create its document "
                    "store with use_sparse_embeddings=True, and write documents with sparse embeddings."
                )
                raise DocumentStoreError(msg)
            sparse = SparseVector(indices=query_embedding.indices, values=query_embedding.values)
            return {**common, "query": sparse, "using": SPARSE_VECTORS_NAME}
        query = np.asarray(query_embedding, dtype=float)
        if query.shape != (vectors.dim,):
            msg = (
                f"The query embedding has the shape {query.shape}, but the collection at {self.address} holds "
                f"embeddings of {vectors.dim} dimensions. Was it built with another model?"
            )
            self._vectors = None  # it is looked at again
            raise DocumentStoreError(msg)
        if not np.isfinite(query).all():
            msg = "The query embedding holds NaN or infinity."
            raise DocumentStoreError(msg)
        return {
            **common,
            "query": query.tolist(),
            "using": DENSE_VECTORS_NAME if vectors.named else None,
        }

    def _missing(self) -> str:
        return f"There is no collection at {self.address}. Build it {self.how_to_index}."

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except UnexpectedResponse as error:
            self._vectors = None  # the collection may be another one by now
            if error.status_code == HTTPStatus.NOT_FOUND:  # it was deleted meanwhile
                raise MissingCollectionError(self._missing()) from error
            raise DocumentStoreError(self._failed(error)) from error
        except (ApiException, RpcError) as error:
            self._vectors = None
            if isinstance(error, RpcError) and error.code() is StatusCode.NOT_FOUND:
                raise MissingCollectionError(self._missing()) from error
            raise DocumentStoreError(self._failed(error)) from error

    def _failed(self, error: Exception) -> str:
        return f"The Qdrant server of {self.address} failed: {' '.join(str(error).split())}"


def _documents(vectors: _Vectors, query: list[float] | SparseEmbedding, points: list[ScoredPoint]) -> list[Document]:
    sign = 1.0 if isinstance(query, SparseEmbedding) else vectors.sign
    found = (convert_qdrant_point_to_haystack_document(point, vectors.named) for point in points)
    return [replace(document, score=sign * (document.score or 0.0)) for document in found]
