# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from os import PathLike, fspath
from typing import Any, Literal

import numpy as np
from haystack import Document, default_from_dict, default_to_dict
from haystack.dataclasses import SparseEmbedding
from haystack.document_stores.errors import DocumentStoreError, DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError
from qdrant_edge import (
    PayloadSelector,
    QuantizationSearchParams,
    Query,
    QueryRequest,
    Record,
    ScrollRequest,
    SearchParams,
    UpdateOperation,
)

from .edge_documents import (
    DENSE_VECTOR,
    SPARSE_VECTOR,
    as_compared,
    as_json,
    embedding_dimension,
    most_bytes,
    point_id,
    sparse_vector,
    to_document,
    to_point,
)
from .edge_filters import convert_filters
from .shared_shard import (
    DISTANCES,
    OPEN_LOCK,
    QUANTIZATIONS,
    ROOM_TO_WRITE,
    STORAGES,
    SharedShard,
    acquire,
    create_index,
    in_call,
    is_of_engine,
    release,
    replace_index,
    require_room,
)

_PAGE = 1000
_TIE_WINDOW = 1000
# How many times as many as are asked for are found by quantised embeddings, to choose from by the true ones.
_OVERSAMPLING = {"int8": 2.0, "binary": 4.0, "turbo8": 2.0, "turbo4": 3.0, "turbo2": 4.0}
_META = PayloadSelector.Include(["meta"])
_ID = PayloadSelector.Include(["id"])


class QdrantEdgeDocumentStore:
    """
    The Qdrant engine inside the process: a document store that is a folder, with no server.

    All stores of a process whose `path` leads to the same folder share one open index, so several pipelines may use
    it; another process gets an error while it is open. `close()` gives it back. Once `write_documents` returns, its
    documents outlive the process, however it ends. A power failure may take those not flushed yet: `close()` and
    `optimize()` flush, and so does every 50,000th document.

    Embeddings are searched one by one, exactly, until the search graph (HNSW) is built. Writing never builds it:
    `optimize()` does, `close()` of the last store does, and so does the first search with more than 10,000 unindexed
    documents. The engine builds no graph for less than about 10 MB of embeddings. It holds Python's global lock
    throughout a call: threads do not speed it up, and the process waits while the graph is built.

    With `similarity="cosine"` the engine normalises embeddings when they are written: **the embeddings it returns have
    length 1**. They are kept in single precision unless `storage` says otherwise.

    Meta is kept as JSON: dates become ISO 8601 text, keys text, tuples and arrays lists. Floats of more than 15 digits
    are rounded where the engine would change them, in filters as well. What JSON cannot hold is refused, and so are
    integers of more than 64 bits and more than 64 levels of nesting.

    ### Usage example

    ```python
    from haystack import Document
    from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore

    document_store = QdrantEdgeDocumentStore(path="my-index")
    document_store.write_documents([Document(content="Ein Apfel", embedding=[0.1, 0.9], meta={"lang": "de"})])
    hits = document_store.search([0.2, 0.8], filters={"field": "meta.lang", "operator": "==", "value": "de"})
    document_store.close()
    ```
    """

    def __init__(
        self,
        path: str | PathLike[str] = "runs/quickstart/index",
        *,
        embedding_dim: int | None = None,
        similarity: Literal["cosine", "dot_product", "l2"] = "cosine",
        return_embedding: bool = False,
        quantization: Literal["int8", "binary", "turbo8", "turbo4", "turbo2"] | None = None,
        storage: Literal["float32", "float16", "turbo8"] | None = None,
        recreate_index: bool = False,
    ) -> None:
        """
        Create the document store. Nothing is opened until it is used, and no folder is created until it is written to.

        :param path:
            The folder of the index. A relative one is resolved against the working directory when it is opened.
        :param embedding_dim:
            The dimension of the embeddings. `None` takes that of the existing index, or of the first embedding written.
        :param similarity:
            How embeddings are compared. An existing index keeps the one it was built with, and must be opened with it.
        :param return_embedding:
            Whether documents are returned with their embeddings, dense and sparse.
        :param quantization:
            Keep embeddings also in a byte (`int8`, `turbo8`), half of one (`turbo4`), a quarter (`turbo2`) or a bit
            (`binary`) a dimension: what the search graph is built and searched by. What that finds is scored once more
            by the embeddings themselves. `turbo` is Qdrant's TurboQuant. An existing index keeps what it was built
            with; `None` takes it as it is.
        :param storage:
            How embeddings themselves are kept: in four bytes a dimension (`float32`), in two (`float16`), or in one
            (`turbo8`: a cosine of .9998 or more to what was written). `None` takes an index as it is, and builds a
            new one with `float32`.
        :param recreate_index:
            Whether the first writing replaces the index, whatever it was built for, by a new one of this store's
            settings. If the documents cannot be written, the index stays as it is. Reading replaces nothing.
        :raises ValueError:
            If `similarity`, `quantization` or `storage` is unknown, or `embedding_dim` is not above 0.
        """
        if similarity not in DISTANCES:
            msg = f"Unknown similarity '{similarity}'. Valid values are: {sorted(DISTANCES)}"
            raise ValueError(msg)
        for name, value, known in (("quantization", quantization, QUANTIZATIONS), ("storage", storage, STORAGES)):
            if value is not None and value not in known:
                msg = f"Unknown {name} '{value}'. Valid values are: {sorted(known)}"
                raise ValueError(msg)
        if embedding_dim is not None and embedding_dim <= 0:
            msg = f"embedding_dim must be above 0; it is {embedding_dim}."
            raise ValueError(msg)
        self.path = fspath(path)
        self.embedding_dim = embedding_dim
        self.similarity = similarity
        self.return_embedding = return_embedding
        self.quantization = quantization
        self.storage = storage
        self.recreate_index = recreate_index
        self._is_recreated = False
        self._shard: SharedShard | None = None

    def to_dict(self) -> dict[str, Any]:
        """
        Serialise the document store.

        :returns:
            The dictionary.
        """
        return default_to_dict(
            self,
            path=self.path,
            embedding_dim=self.embedding_dim,
            similarity=self.similarity,
            return_embedding=self.return_embedding,
            quantization=self.quantization,
            storage=self.storage,
            recreate_index=self.recreate_index,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "QdrantEdgeDocumentStore":
        """
        Deserialise the document store.

        :param data:
            The dictionary.
        :returns:
            The document store.
        """
        return default_from_dict(cls, data)

    # The index

    def __getstate__(self) -> dict[str, Any]:
        """
        Copy no open index: a copy opens it when it is used.
        """
        return vars(self) | {"_shard": None}

    def close(self) -> None:
        """
        Give the index back. The last store of the process to do so optimises it and lets other processes open it.

        May be called repeatedly. Calls of other threads end first. Using the store again opens the index again.
        """
        with OPEN_LOCK:
            shard, self._shard = self._shard, None
            if shard is not None:
                release(self, shard)

    async def close_async(self) -> None:
        """
        Give the index back, see `close`.
        """
        await asyncio.to_thread(self.close)

    def optimize(self) -> None:
        """
        Build what is missing of the search graph now, and flush what was written to the disk.
        """
        with self._writing() as shard:
            if shard:
                shard.optimize()

    def describe(self) -> dict[str, Any]:
        """
        Describe the index.

        :returns:
            Its real or future `path`, `embedding_dim` (`None`: not known yet), `similarity`, `quantization`,
            `storage`, the number of `documents` and of those `indexed`, whose embeddings are in the search graph.
        """
        with self._use() as shard:
            return {
                "path": shard.path if shard else self.path,
                "embedding_dim": shard.embedding_dim if shard and shard.embedding_dim else self.embedding_dim,
                "similarity": self.similarity,
                "quantization": shard.quantization if shard else self.quantization,
                "storage": (shard.storage if shard else None) or self.storage,
                "documents": shard.count() if shard else 0,
                "indexed": shard.count_indexed() if shard else 0,
            }

    def sample_meta(self) -> dict[str, Any] | None:
        """
        Read the meta of one document, whichever is found first.

        :returns:
            The meta, `None` where there is no document.
        """
        record = next(self._records(with_payload=_META, page=1), None)
        return None if record is None else (record.payload or {})["meta"]

    @contextmanager
    def _use(self, *, check: bool = True) -> Iterator[SharedShard | None]:
        """
        Open the index for a call, or yield `None` where there is none: reading creates nothing.
        """
        with OPEN_LOCK:
            shard = self._shard
            if shard is None or not shard.is_current():
                shard = self._shard = acquire(self, check=check)
            elif check:
                shard.check(self.embedding_dim, self.similarity, self.quantization, self.storage)
            if shard is not None:
                shard.calls += 1
        if shard is None:
            yield None
        else:
            with in_call(shard):
                yield shard

    @contextmanager
    def _writing(self) -> Iterator[SharedShard | None]:
        """
        Open the index for a call during which no other thread writes; yield `None` where there is none.
        """
        while True:
            with self._use() as shard:
                if shard is None:
                    yield None
                    return
                with shard.lock:
                    if shard.is_current():  # else another store replaced it meanwhile
                        yield shard
                        return

    # Writing

    def _recreate(self, documents: list[Document], policy: DuplicatePolicy) -> int | None:
        """
        Write documents to a new index, and put it in the place of the one that is there.

        Return their number, or `None` where there is nothing to replace, or no longer.
        """
        while True:
            with self._use(check=False) as shard:  # what it was built for need not fit
                if shard is None:
                    self._is_recreated = True
                    return None
                shard.check_process()
                with shard.lock:
                    if self._is_recreated:  # another thread did so, and may have written meanwhile
                        return None
                    if not shard.is_current():  # another store replaced it meanwhile
                        continue
                    with replace_index(shard, self.quantization) as fresh:
                        written = self._write(fresh, documents, policy)
                    self._is_recreated = True
            if self._shard is shard:  # else closed meanwhile
                with self._use():  # held from now on, as after any writing
                    pass
            return written

    def _write(self, shard: SharedShard, documents: list[Document], policy: DuplicatePolicy) -> int:
        documents = self._resolve_duplicates(shard, documents, policy)
        dim = embedding_dimension(documents, shard.embedding_dim or self.embedding_dim, shard.path)
        points = [to_point(document, self.similarity) for document in documents]
        require_room(shard.path, ROOM_TO_WRITE + sum(most_bytes(document) for document in documents))
        if dim is not None and shard.embedding_dim is None:
            shard.create_vectors(dim, self.similarity, self.storage or "float32")
        shard.upsert(points)
        return len(documents)

    def write_documents(self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """
        Write documents, with or without embeddings. All of them or, if one cannot be written, none.

        :param documents:
            The documents.
        :param policy:
            What to do with documents whose id is stored already, or occurs twice in the list. `NONE` and `OVERWRITE`:
            the last one stays. `SKIP`: the first one stays. `FAIL`: an error.
        :returns:
            The number of documents written.
        :raises ValueError:
            If `documents` is not a list of documents.
        :raises DuplicateDocumentError:
            If `policy` is `FAIL` and there are duplicates.
        :raises DocumentStoreError:
            If an embedding is empty, has another dimension than the index or is not finite in single precision, if
            something in a document cannot be kept as it is, if the disk has no room for them all, or if the index is in
            use by another process.
        """
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            msg = "`documents` must be a list of Documents."
            raise ValueError(msg)
        if not isinstance(policy, DuplicatePolicy):
            msg = f"`policy` must be a DuplicatePolicy, such as DuplicatePolicy.OVERWRITE; it is {policy!r}."
            raise ValueError(msg)
        if not documents:
            return 0
        if self.recreate_index and not self._is_recreated:
            written = self._recreate(documents, policy)
            if written is not None:
                return written
        while True:
            with self._writing() as shard:
                if shard:
                    return self._write(shard, documents, policy)
            create_index(self.path, self.quantization)

    async def write_documents_async(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """
        Write documents, see `write_documents`.

        :param documents:
            The documents.
        :param policy:
            What to do with duplicates.
        :returns:
            The number of documents written.
        """
        return await asyncio.to_thread(self.write_documents, documents, policy)

    def _resolve_duplicates(
        self, shard: SharedShard, documents: list[Document], policy: DuplicatePolicy
    ) -> list[Document]:
        if policy in (DuplicatePolicy.NONE, DuplicatePolicy.OVERWRITE):
            return list({document.id: document for document in documents}.values())
        ids: list[Any] = [point_id(document.id) for document in documents]
        taken = {str(record.id).replace("-", "") for record in shard.edge.retrieve(ids, False, False)}
        fresh: list[Document] = []
        duplicates: list[Document] = []
        for document, id_ in zip(documents, ids, strict=True):
            (duplicates if id_ in taken else fresh).append(document)
            taken.add(id_)
        if duplicates and policy == DuplicatePolicy.FAIL:
            shown = ", ".join(f"'{document.id}'" for document in duplicates[:5])
            msg = (
                f"{len(duplicates)} of {len(documents)} documents are duplicates, of stored ones in {shard.path} or of "
                f"each other; nothing was written. Their ids: {shown}{', ...' if len(duplicates) > 5 else ''}"  # noqa: PLR2004
            )
            raise DuplicateDocumentError(msg)
        return fresh

    def delete_documents(self, document_ids: list[str]) -> None:
        """
        Delete documents by id. Ids that are not stored are ignored.

        :param document_ids:
            The ids.
        """
        with self._writing() as shard:
            if shard:
                shard.update(UpdateOperation.delete_points([point_id(document_id) for document_id in document_ids]))

    async def delete_documents_async(self, document_ids: list[str]) -> None:
        """
        Delete documents by id, see `delete_documents`.

        :param document_ids:
            The ids.
        """
        await asyncio.to_thread(self.delete_documents, document_ids)

    def delete_all_documents(self, recreate_index: bool = False) -> None:
        """
        Delete all documents.

        :param recreate_index:
            Whether to forget the dimension of the embeddings too, so that those of another model can be written.
        """
        with self._writing() as shard:
            if shard:
                shard.clear(recreate_index=recreate_index)

    async def delete_all_documents_async(self, recreate_index: bool = False) -> None:
        """
        Delete all documents, see `delete_all_documents`.

        :param recreate_index:
            Whether to forget the dimension of the embeddings too.
        """
        await asyncio.to_thread(self.delete_all_documents, recreate_index)

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """
        Delete the documents that match.

        :param filters:
            Haystack filters.
        :returns:
            The number of documents deleted.
        :raises FilterError:
            If the filters are malformed, or none are given: see `delete_all_documents`.
        """
        return self._update_matching(filters, UpdateOperation.delete_points)

    async def delete_by_filter_async(self, filters: dict[str, Any]) -> int:
        """
        Delete the documents that match, see `delete_by_filter`.

        :param filters:
            Haystack filters.
        :returns:
            The number of documents deleted.
        """
        return await asyncio.to_thread(self.delete_by_filter, filters)

    def update_by_filter(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """
        Update the meta of the documents that match.

        :param filters:
            Haystack filters.
        :param meta:
            The fields to set; a document's other fields stay. `None` removes a field.
        :returns:
            The number of documents updated.
        :raises FilterError:
            If the filters are malformed, or none are given.
        :raises DocumentStoreError:
            If the fields cannot be stored, or the disk has no room for all documents with them.
        """
        if not isinstance(meta, dict):
            msg = f"The update is of type {type(meta).__name__}, not a dictionary."
            raise DocumentStoreError(msg)
        payload = as_json({"meta": meta}, "The update")["meta"]
        more = most_bytes(Document(id="", meta=payload))

        def size(record: Record) -> int:  # a document's whole payload is written anew
            return more + most_bytes(to_document(record))

        return self._update_matching(filters, lambda ids: UpdateOperation.set_payload(ids, payload, "meta"), size)

    async def update_by_filter_async(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """
        Update the meta of the documents that match, see `update_by_filter`.

        :param filters:
            Haystack filters.
        :param meta:
            The fields to set.
        :returns:
            The number of documents updated.
        """
        return await asyncio.to_thread(self.update_by_filter, filters, meta)

    def _update_matching(
        self,
        filters: dict[str, Any],
        operation: Callable[[list[Any]], UpdateOperation],
        size: Callable[[Record], int] | None = None,
    ) -> int:
        if not filters:
            msg = "No filters are given, which would be all documents. For those, call delete_all_documents()."
            raise FilterError(msg)
        with self._writing() as shard:
            if shard is None:
                return 0
            ids, room = [], 0
            for record in self._records(filters, with_payload=size is not None):
                ids.append(record.id)
                room += size(record) if size else 0
            if room:
                require_room(shard.path, ROOM_TO_WRITE + room)
            if ids:
                shard.update(operation(ids))
            return len(ids)

    # Reading

    def count_documents(self) -> int:
        """
        Count the documents.

        :returns:
            The number, 0 where there is no index.
        """
        with self._use() as shard:
            return shard.count() if shard else 0

    async def count_documents_async(self) -> int:
        """
        Count the documents, see `count_documents`.

        :returns:
            The number.
        """
        return await asyncio.to_thread(self.count_documents)

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """
        Return the documents that match.

        Filters follow Haystack's: see its documentation of metadata filtering. Dates are compared if they are ISO 8601
        strings; a value that cannot be compared with the filter's does not match.

        :param filters:
            Haystack filters, `None` for all documents.
        :returns:
            The documents, in an order of no meaning that stays the same.
        :raises FilterError:
            If the filters are malformed.
        """
        records = self._records(filters, with_payload=True, with_vector=self.return_embedding)
        return [to_document(record) for record in records]

    async def filter_documents_async(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """
        Return the documents that match, see `filter_documents`.

        :param filters:
            Haystack filters.
        :returns:
            The documents.
        """
        return await asyncio.to_thread(self.filter_documents, filters)

    def get_documents_by_id(self, ids: list[str]) -> list[Document]:
        """
        Return documents by id.

        :param ids:
            The ids.
        :returns:
            The documents in the order of their ids; there is none for an id that is not stored.
        """
        points: list[Any] = [point_id(document_id) for document_id in ids]
        with self._use() as shard:
            if shard is None:
                return []
            records = [to_document(record) for record in shard.edge.retrieve(points, True, self.return_embedding)]
        stored = {document.id: document for document in records}
        return [stored[document_id] for document_id in ids if document_id in stored]

    async def get_documents_by_id_async(self, ids: list[str]) -> list[Document]:
        """
        Return documents by id, see `get_documents_by_id`.

        :param ids:
            The ids.
        :returns:
            The documents.
        """
        return await asyncio.to_thread(self.get_documents_by_id, ids)

    def search(
        self,
        query_embedding: list[float] | np.ndarray | SparseEmbedding,
        *,
        top_k: int = 10,
        filters: dict[str, Any] | None = None,
        score_threshold: float | None = None,
        return_embedding: bool | None = None,
        hnsw_ef: int | None = None,
        exact: bool | None = None,
        rescore: bool | None = None,
        oversampling: float | None = None,
        ignore_quantization: bool | None = None,
    ) -> list[Document]:
        """
        Return the documents whose embeddings are most similar to a query's.

        :param query_embedding:
            The query, of shape `(embedding_dim,)`. A sparse one is compared with the sparse embeddings.
        :param top_k:
            The number of documents.
        :param filters:
            Haystack filters, as in `filter_documents`.
        :param score_threshold:
            The least score of a document.
        :param return_embedding:
            Whether the documents have their embeddings. `None`: as the store was set.
        :param hnsw_ef:
            The number of candidates that the search graph keeps: more is more accurate and slower.
        :param exact:
            Whether to compare the query with every embedding, passing the graph by.
        :param rescore:
            In a quantised index, whether what was found is scored by the embeddings themselves; it is by default.
        :param oversampling:
            In a quantised index, how many times `top_k` are found to choose from; by default 2 (`int8`, `turbo8`),
            3 (`turbo4`) or 4 (`turbo2`, `binary`).
        :param ignore_quantization:
            Whether to search by the embeddings themselves.
        :returns:
            The documents, best first, with scores of which a higher one is better (with `similarity="l2"` the negative
            distance). Among the first 1,000, equal scores are ordered by document id.
        :raises ValueError:
            If `top_k` is not positive.
        :raises FilterError:
            If the filters are malformed.
        :raises DocumentStoreError:
            If there is no index, if it holds documents but no embeddings, if the query has another dimension or is not
            finite, or if the index is in use by another process.
        """
        if top_k <= 0:
            msg = f"top_k must be positive, got {top_k}"
            raise ValueError(msg)
        condition, check = convert_filters(filters)

        def hits_of(shard: SharedShard | None) -> list[Document]:
            if shard is None:
                msg = (
                    f"There is no index at {self.path}. Build it with: "
                    f"retort index STUDENT --documents DIR --store {self.path}"
                )
                raise DocumentStoreError(msg)
            sparse, dim = isinstance(query_embedding, SparseEmbedding), shard.embedding_dim
            if not sparse and dim is None:
                if shard.count() == 0:
                    return []
                msg = (
                    f"The documents in the index at {shard.path} have no embeddings: "
                    "run them through a document embedder before they are written."
                )
                raise DocumentStoreError(msg)
            quantized = None
            if shard.quantization is not None and not sparse:
                quantized = QuantizationSearchParams(
                    ignore=bool(ignore_quantization),
                    rescore=True if rescore is None else rescore,
                    oversampling=oversampling
                    or _OVERSAMPLING.get(shard.quantization, 2.0),  # an index may be made elsewhere
                )
            request = partial(
                QueryRequest,
                query=_sparse_query(query_embedding)
                if sparse
                else _dense_query(query_embedding, dim, shard.path, self.similarity),
                filter=condition,
                params=SearchParams(hnsw_ef=hnsw_ef, exact=bool(exact), quantization=quantized),
                with_payload=True,
                with_vector=self.return_embedding if return_embedding is None else return_embedding,
            )
            sign = -1.0 if self.similarity == "l2" and not sparse else 1.0
            shard.optimize_if_due()

            limit = top_k + 1
            while True:
                points = shard.edge.query(request(limit))
                hits = [to_document(point, score=sign * point.score) for point in points]
                if check:
                    hits = [hit for hit in hits if check(hit)]
                # Look further while the filter's check leaves too few, or while equal scores straddle the end.
                tied = len(hits) > top_k and hits[top_k - 1].score == hits[top_k].score and limit < _TIE_WINDOW
                if len(points) < limit or (len(hits) > top_k and not tied):
                    return hits
                limit *= 4

        try:
            with self._use() as shard:
                hits = hits_of(shard)
        except DocumentStoreError as error:
            if not is_of_engine(error.__cause__):
                raise
            # Another thread may have changed or replaced the index within the call. Look again while nobody can.
            with self._writing() as shard:
                hits = hits_of(shard)
        ranked = sorted(((hit.score or 0.0, hit) for hit in hits), key=lambda pair: (-pair[0], pair[1].id))[:top_k]
        return [hit for score, hit in ranked if score_threshold is None or score >= score_threshold]

    async def search_async(
        self,
        query_embedding: list[float] | np.ndarray | SparseEmbedding,
        *,
        top_k: int = 10,
        filters: dict[str, Any] | None = None,
        score_threshold: float | None = None,
        return_embedding: bool | None = None,
        hnsw_ef: int | None = None,
        exact: bool | None = None,
        rescore: bool | None = None,
        oversampling: float | None = None,
        ignore_quantization: bool | None = None,
    ) -> list[Document]:
        """
        Return the documents whose embeddings are most similar to a query's, see `search`.

        :param query_embedding:
            The query.
        :param top_k:
            The number of documents.
        :param filters:
            Haystack filters.
        :param score_threshold:
            The least score of a document.
        :param return_embedding:
            Whether the documents have their embeddings.
        :param hnsw_ef:
            The number of candidates that the search graph keeps.
        :param exact:
            Whether to compare the query with every embedding.
        :param rescore:
            Whether to score once more what a quantised index found.
        :param oversampling:
            How many times `top_k` a quantised index finds.
        :param ignore_quantization:
            Whether to search by the embeddings themselves.
        :returns:
            The documents, best first.
        """
        return await asyncio.to_thread(
            self.search,
            query_embedding,
            top_k=top_k,
            filters=filters,
            score_threshold=score_threshold,
            return_embedding=return_embedding,
            hnsw_ef=hnsw_ef,
            exact=exact,
            rescore=rescore,
            oversampling=oversampling,
            ignore_quantization=ignore_quantization,
        )

    def document_ids(self) -> set[str]:
        """
        Read the ids of all documents, and nothing else of them.

        :returns:
            The ids.
        """
        return {(record.payload or {})["id"] for record in self._records(with_payload=_ID)}

    def _records(
        self,
        filters: dict[str, Any] | None = None,
        *,
        with_payload: bool | PayloadSelector = False,
        with_vector: bool = False,
        page: int = _PAGE,
    ) -> Iterator[Record]:
        """
        Iterate over the stored points that match.
        """
        condition, check = convert_filters(filters)
        with self._use() as shard:
            if shard is None:
                return
            offset = None
            while True:
                request = ScrollRequest(
                    offset=offset,
                    limit=page,
                    filter=condition,
                    with_payload=True if check else with_payload,
                    with_vector=with_vector,
                )
                records, offset = shard.edge.scroll(request)
                yield from (record for record in records if check is None or check(to_document(record)))
                if offset is None:
                    return

    # Metadata

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        """
        Count the documents that match.

        :param filters:
            Haystack filters.
        :returns:
            The number.
        :raises FilterError:
            If the filters are malformed.
        """
        return sum(1 for _ in self._records(filters))

    async def count_documents_by_filter_async(self, filters: dict[str, Any]) -> int:
        """
        Count the documents that match, see `count_documents_by_filter`.

        :param filters:
            Haystack filters.
        :returns:
            The number.
        """
        return await asyncio.to_thread(self.count_documents_by_filter, filters)

    def count_unique_metadata_by_filter(self, filters: dict[str, Any], metadata_fields: list[str]) -> dict[str, int]:
        """
        Count the different values of meta fields among the documents that match.

        :param filters:
            Haystack filters.
        :param metadata_fields:
            The fields, with or without `meta.`.
        :returns:
            The number of different values of each field.
        """
        names = [field.removeprefix("meta.") for field in metadata_fields]
        values: dict[str, set[tuple[str, str]]] = {name: set() for name in names}
        for meta in self._metas(filters):
            for name in names:
                if meta.get(name) is not None:
                    values[name].add(_identity(meta[name]))
        return {name: len(different) for name, different in values.items()}

    async def count_unique_metadata_by_filter_async(
        self, filters: dict[str, Any], metadata_fields: list[str]
    ) -> dict[str, int]:
        """
        Count the different values of meta fields, see `count_unique_metadata_by_filter`.

        :param filters:
            Haystack filters.
        :param metadata_fields:
            The fields.
        :returns:
            The number of different values of each field.
        """
        return await asyncio.to_thread(self.count_unique_metadata_by_filter, filters, metadata_fields)

    def get_metadata_fields_info(self) -> dict[str, dict[str, str]]:
        """
        Return the meta fields that occur.

        :returns:
            The `type` of each: `keyword`, `long`, `float` or `boolean`, that of the first value found.
        """
        types = {bool: "boolean", int: "long", float: "float"}
        info: dict[str, dict[str, str]] = {}
        for meta in self._metas():
            for name, value in meta.items():
                if value is not None and name not in info:
                    info[name] = {"type": types.get(type(value), "keyword")}
        return info

    async def get_metadata_fields_info_async(self) -> dict[str, dict[str, str]]:
        """
        Return the meta fields that occur, see `get_metadata_fields_info`.

        :returns:
            The `type` of each.
        """
        return await asyncio.to_thread(self.get_metadata_fields_info)

    def get_metadata_field_min_max(self, metadata_field: str) -> dict[str, Any]:
        """
        Return the least and the greatest value of a meta field.

        :param metadata_field:
            The field, with or without `meta.`.
        :returns:
            `min` and `max`, both `None` if no document has the field or its values cannot be compared.
        """
        name = metadata_field.removeprefix("meta.")
        values = [meta[name] for meta in self._metas() if isinstance(meta.get(name), (int, float, str))]
        try:
            return {"min": min(values, default=None), "max": max(values, default=None)}
        except TypeError:
            return {"min": None, "max": None}

    async def get_metadata_field_min_max_async(self, metadata_field: str) -> dict[str, Any]:
        """
        Return the least and the greatest value of a meta field, see `get_metadata_field_min_max`.

        :param metadata_field:
            The field.
        :returns:
            `min` and `max`.
        """
        return await asyncio.to_thread(self.get_metadata_field_min_max, metadata_field)

    def get_metadata_field_unique_values(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: dict[str, Any] | None = None,
    ) -> tuple[list[Any], int]:
        """
        Return the different values of a meta field, page by page.

        :param metadata_field:
            The field, with or without `meta.`.
        :param search_term:
            Only values that contain it, in upper or lower case.
        :param from_:
            The first value to return.
        :param size:
            The number of values to return.
        :param filters:
            Haystack filters: only the values of documents that match.
        :returns:
            The values, ordered as strings, and their number on all pages.
        """
        name = metadata_field.removeprefix("meta.")
        values = [meta[name] for meta in self._metas(filters) if meta.get(name) is not None]
        different = {_identity(value): value for value in values}
        if search_term:
            different = {key: value for key, value in different.items() if search_term.lower() in str(value).lower()}
        ordered = sorted(different, key=lambda key: (str(different[key]), key))
        return [different[key] for key in ordered[from_ : from_ + size]], len(ordered)

    async def get_metadata_field_unique_values_async(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: dict[str, Any] | None = None,
    ) -> tuple[list[Any], int]:
        """
        Return the different values of a meta field, see `get_metadata_field_unique_values`.

        :param metadata_field:
            The field.
        :param search_term:
            Only values that contain it.
        :param from_:
            The first value to return.
        :param size:
            The number of values to return.
        :param filters:
            Haystack filters.
        :returns:
            The values and their number on all pages.
        """
        return await asyncio.to_thread(
            self.get_metadata_field_unique_values, metadata_field, search_term, from_, size, filters
        )

    def _metas(self, filters: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        for record in self._records(filters, with_payload=_META):
            yield (record.payload or {})["meta"]


def _dense_query(query_embedding: Any, dim: int | None, path: str, similarity: str) -> Query:
    vector = np.asarray(query_embedding, dtype=float)
    if vector.shape != (dim,):
        msg = (
            f"The query embedding has the shape {vector.shape}, but the index at {path} holds embeddings of "
            f"{dim} dimensions. Was it built with another model?"
        )
        raise DocumentStoreError(msg)
    vector = np.asarray(as_compared(vector, similarity), dtype=np.float32)
    if not np.isfinite(vector).all():
        msg = "The query embedding holds NaN or infinity."
        raise DocumentStoreError(msg)
    return Query.Nearest(vector, using=DENSE_VECTOR)  # type: ignore[arg-type]  # arrays pass, the stub omits them


def _sparse_query(query_embedding: Any) -> Query:
    return Query.Nearest(sparse_vector(query_embedding, "of the query"), using=SPARSE_VECTOR)


def _identity(value: Any) -> tuple[str, str]:
    """
    Tell apart what Python holds for equal, such as 1, 1.0 and True.
    """
    return type(value).__name__, json.dumps(value, sort_keys=True)
