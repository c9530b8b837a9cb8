# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
One open Qdrant Edge shard per folder and process.

The engine locks its folder, even against a second shard of the same process. So all document stores on one folder
share one shard, kept here for as long as one of them uses it.
"""

import errno
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakSet, WeakValueDictionary

from haystack.document_stores.errors import DocumentStoreError
from qdrant_edge import (
    BinaryQuantizationConfig,
    CountRequest,
    Distance,
    EdgeConfig,
    EdgeShard,
    EdgeSparseVectorParams,
    Filter,
    HasVectorCondition,
    HnswIndexConfig,
    Point,
    ScalarQuantizationConfig,
    ScalarType,
    TurboQuantBitSize,
    TurboQuantQuantizationConfig,
    UpdateOperation,
    VectorStorageDatatype,
)

from retort.students.files import replace_folder

from .edge_documents import DENSE_VECTOR, SPARSE_VECTOR

DISTANCES = {"cosine": "Cosine", "dot_product": "Dot", "l2": "Euclid"}
# Kept in memory, beside the embeddings themselves: they exist to be fast.
QUANTIZATIONS: dict[str, ScalarQuantizationConfig | BinaryQuantizationConfig | TurboQuantQuantizationConfig] = {
    "int8": ScalarQuantizationConfig(ScalarType.Int8, quantile=0.99, always_ram=True),
    "binary": BinaryQuantizationConfig(always_ram=True),
    "turbo8": TurboQuantQuantizationConfig(always_ram=True, bits=TurboQuantBitSize.Bits8),
    "turbo4": TurboQuantQuantizationConfig(always_ram=True, bits=TurboQuantBitSize.Bits4),
    "turbo2": TurboQuantQuantizationConfig(always_ram=True, bits=TurboQuantBitSize.Bits2),
}
STORAGES: dict[str, VectorStorageDatatype | None] = {
    "float32": None,  # the engine's own
    "float16": VectorStorageDatatype.Float16,
    "turbo8": VectorStorageDatatype.Turbo8,
}
# Twice the engine's own edges: recall@10 of .99 instead of .98 over 20,000 real passages where nothing is set, for half
# a second more to build. A search looks at `ef_construct` candidates where no `hnsw_ef` is given.
HNSW = HnswIndexConfig(m=32, ef_construct=128, full_scan_threshold=10_000)
BATCH_SIZE = 1000
OPTIMIZE_THRESHOLD = 10_000
FLUSH_THRESHOLD = 50_000
# The engine writes to memory maps of sparse files: on a full disk the process dies of SIGBUS, and no error is raised.
# To open an index it replays its log, which took up to 24 MiB in trials. What writes must leave more, so that an index
# that filled the disk can be opened.
ROOM_TO_OPEN = 2**25
ROOM_TO_WRITE = 2 * ROOM_TO_OPEN
_CONFIG_FILE = "edge_config.json"
_IF_DAMAGED = "If it is damaged, delete it and index the documents again."
_UNWRITABLE = "The engine writes to an index to open it: let this user write to the folder, or copy it elsewhere."
# What the system's errors ask for. None of them says that the index is damaged, as a missing file does (ENOENT).
_MENDS = {
    errno.ENOSPC: "Free space on its disk, and try again.",
    errno.EROFS: _UNWRITABLE,
    errno.EACCES: _UNWRITABLE,
    errno.EPERM: _UNWRITABLE,
}

logger = logging.getLogger(__name__)

# Weak: a shard lives as long as a store holds it. Dropping it releases the folder; nothing written is lost, as the
# engine's log survives the end of the process and is replayed.
_OPEN: "WeakValueDictionary[str, SharedShard]" = WeakValueDictionary()
OPEN_LOCK = threading.RLock()


class ShardUser(Protocol):
    """A document store, as far as a shard knows it."""

    @property
    def path(self) -> str:
        """The folder of the index."""

    @property
    def embedding_dim(self) -> int | None:
        """The dimension, None for any."""

    @property
    def similarity(self) -> str:
        """How embeddings are compared."""

    @property
    def quantization(self) -> str | None:
        """How embeddings are also kept, None for as the index has it."""

    @property
    def storage(self) -> str | None:
        """How embeddings themselves are kept, None for as the index has it."""


class SharedShard:
    """
    An open shard and what the engine does not tell about it.

    The engine's calls hold Python's global lock and are atomic, so readers take no lock of ours. `lock` is for those
    who look before they write.

    :param path:
        The real path of an existing index.
    :raises DocumentStoreError:
        If the index is in use by another process, or cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._folder: tuple[int, int] | None = _identity(path)
        self.lock = threading.RLock()
        self.stores: WeakSet[ShardUser] = WeakSet()
        self.calls = 0  # in flight: the last of them closes what no store holds any more
        self._process = os.getpid()
        require_room(path, ROOM_TO_OPEN)
        with _clear_errors(f"open the index at {path}", _IF_DAMAGED):
            try:
                self.edge = EdgeShard.load(path)
            except Exception as error:
                if "WouldBlock" in str(error):
                    raise DocumentStoreError(_in_use(path)) from error
                raise
            with open(os.path.join(path, _CONFIG_FILE), encoding="utf-8") as file:
                config = json.load(file)
                dense = config["vectors"].get(DENSE_VECTOR, {})
        self.embedding_dim: int | None = dense.get("size")
        self._distance: str | None = dense.get("distance")
        self.storage: str | None = dense.get("datatype", "float32") if dense else None
        self.quantization = _quantization(config.get("quantization_config") or {})
        self.unindexed = self.count(_having(DENSE_VECTOR)) - self.count_indexed()
        self._unflushed = 0

    def is_current(self) -> bool:
        """
        Tell whether the folder is still there: a shard whose folder was deleted or replaced goes on without a word.

        :returns:
            Whether it is.
        """
        try:
            return _identity(self.path) == self._folder
        except OSError:
            return False

    def check_process(self) -> None:
        """
        Check that this process opened the index.

        :raises DocumentStoreError:
            If the process was forked after that.
        """
        if not self.is_of_this_process():
            raise DocumentStoreError(_in_use(self.path))

    def is_of_this_process(self) -> bool:
        """Tell whether this process opened it; one that was forked after that must not write."""
        return self._process == os.getpid()

    def retire(self) -> None:
        """
        Let go of the folder, which is about to be replaced: whoever uses the index next opens it anew.

        `OPEN_LOCK` must be held, by a call on this shard. Other calls in flight go on with what they have open.
        """
        self._folder = None
        self.stores.clear()
        _OPEN.pop(self.path, None)
        if self.calls == 1:  # Windows renames no folder whose files are open
            self.edge.close()

    def check(self, embedding_dim: int | None, similarity: str, quantization: str | None, storage: str | None) -> None:
        """
        Check that a store and the index agree.

        :param embedding_dim:
            The store's dimension, `None` for any.
        :param similarity:
            The store's similarity.
        :param quantization:
            The store's quantisation, `None` for any.
        :param storage:
            The store's storage, `None` for any.
        :raises DocumentStoreError:
            If they do not, or if the process was forked after the index was opened.
        """
        self.check_process()
        self._check_kept("quantization", quantization, self.quantization)
        if self.embedding_dim is None:
            return
        self._check_kept("storage", storage, self.storage)
        if embedding_dim not in (None, self.embedding_dim):
            msg = (
                f"The index at {self.path} holds embeddings of {self.embedding_dim} dimensions, "
                f"but the document store was set to embedding_dim={embedding_dim}."
            )
            raise DocumentStoreError(msg)
        if self._distance != DISTANCES[similarity]:
            built = next((name for name, distance in DISTANCES.items() if distance == self._distance), self._distance)
            msg = f"The index at {self.path} was built with similarity='{built}', not with '{similarity}'. "
            msg += "Set the store's similarity to that, or index into another folder."
            raise DocumentStoreError(msg)

    def _check_kept(self, parameter: str, wanted: str | None, kept: str | None) -> None:
        if wanted not in (None, kept):
            msg = (
                f"The index at {self.path} was built with {parameter}={kept!r}, not with {wanted!r}. Leave the "
                "parameter out to take it as it is, or index into another folder."
            )
            raise DocumentStoreError(msg)

    def create_vectors(self, embedding_dim: int, similarity: str, storage: str) -> None:
        """
        Make room for embeddings, once their dimension is known.

        :param embedding_dim:
            The dimension.
        :param similarity:
            The similarity.
        :param storage:
            How they are kept.
        """
        distance = DISTANCES[similarity]
        self.update(
            UpdateOperation.create_dense_vector(
                DENSE_VECTOR, embedding_dim, getattr(Distance, distance), datatype=STORAGES[storage]
            )
        )
        self.embedding_dim, self._distance, self.storage = embedding_dim, distance, storage

    def clear(self, *, recreate_index: bool) -> None:
        """
        Delete all points.

        :param recreate_index:
            Whether to forget the dimension as well: the next embedding decides it anew.
        """
        with self.lock:
            self.update(UpdateOperation.delete_points_by_filter(Filter()))
            if recreate_index and self.embedding_dim is not None:
                self.update(UpdateOperation.delete_vector_name(DENSE_VECTOR))
                self.embedding_dim, self._distance, self.storage = None, None, None

    def upsert(self, points: list[Point]) -> None:
        """
        Write points.

        :param points:
            The points. Those with the id of a stored one replace it.
        """
        for start in range(0, len(points), BATCH_SIZE):
            batch = points[start : start + BATCH_SIZE]
            self.update(UpdateOperation.upsert_points(batch), size=len(batch))
            self.unindexed += len(batch)

    def update(self, operation: UpdateOperation, *, size: int = 1) -> None:
        """
        Apply an operation. It outlives the process at once, and the machine once it is flushed.

        :param operation:
            The operation.
        :param size:
            The number of points in it.
        :raises DocumentStoreError:
            If the engine refuses it.
        """
        require_room(self.path, ROOM_TO_OPEN)  # others may fill the disk meanwhile
        with _clear_errors(f"write to the index at {self.path}"):
            self.edge.update(operation)
        self._unflushed += size
        # Bounds what is replayed after a crash; each flush waits for the disk.
        if self._unflushed >= FLUSH_THRESHOLD:
            self.flush()

    def flush(self) -> None:
        """
        Let what was written outlive the machine.

        :raises DocumentStoreError:
            If it cannot. It outlives the process all the same.
        """
        if self._unflushed:
            require_room(self.path, ROOM_TO_OPEN)
            with _clear_errors(f"flush the index at {self.path}"):
                self.edge.flush()
            self._unflushed = 0

    def count(self, condition: Filter | None = None) -> int:
        """
        Count points.

        :param condition:
            Which ones, `None` for all.
        :returns:
            The exact number.
        """
        return self.edge.count(CountRequest(exact=True, filter=condition))

    def count_indexed(self) -> int:
        """
        Count the dense embeddings in the search graph.

        :returns:
            The number. Too high by those deleted since the last optimisation: the engine goes on counting them.
        """
        # The engine counts sparse embeddings too; they are all indexed as they are written.
        indexed = self.edge.info().indexed_vectors_count - self.count(_having(SPARSE_VECTOR))
        return min(max(0, indexed), self.count(_having(DENSE_VECTOR)))

    def optimize(self) -> None:
        """
        Build what is missing of the search graph, and flush.

        The whole process waits: the engine holds Python's global lock.

        :raises DocumentStoreError:
            If it cannot: there must be room for a second copy of the embeddings. All that was written stays, and is
            searched without the graph.
        """
        with self.lock:
            try:
                if self.unindexed:
                    require_room(self.path, ROOM_TO_OPEN)
                    with _clear_errors(f"build the search graph of the index at {self.path}"):
                        self.edge.optimize()
                    self.unindexed = 0
            finally:
                self.flush()

    def optimize_or_warn(self) -> None:
        """
        Optimise, or say why not and do without the graph until more is written.
        """
        try:
            self.optimize()
        except DocumentStoreError as error:
            logger.warning("%s All documents are there, and a search compares each of them.", error)
            self.unindexed = 0

    def optimize_if_due(self) -> None:
        """
        Optimise if so much is unindexed that one search after the other would pay for it.
        """
        if self.unindexed > OPTIMIZE_THRESHOLD:
            self.optimize_or_warn()


def _quantization(config: dict[str, Any]) -> str | None:
    """Name what the engine wrote of a quantisation: `{"turbo": {"bits": "bits4", ...}}` is `turbo4`."""
    if "turbo" in config:
        return f"turbo{config['turbo'].get('bits', '').removeprefix('bits')}"
    return next((name for key, name in (("scalar", "int8"), ("binary", "binary")) if key in config), None)


def acquire(store: ShardUser, *, check: bool = True) -> SharedShard | None:
    """
    Open a store's index, or join those who have it open.

    :param store:
        The store, counted as a user of the shard until `release`, or until it is garbage.
    :param check:
        Whether the index must fit the store.
    :returns:
        The shard, `None` where there is no index.
    :raises DocumentStoreError:
        If the index cannot be opened or does not fit the store.
    """
    path = os.path.realpath(store.path)
    with OPEN_LOCK:
        if not index_exists(path):
            return None
        shard = _OPEN.get(path)
        if shard is None or not shard.is_current():
            shard = _OPEN[path] = SharedShard(path)
        if check:
            shard.check(store.embedding_dim, store.similarity, store.quantization, store.storage)
        shard.stores.add(store)
        return shard


def create_index(path: str, quantization: str | None) -> None:
    """
    Create an empty index beside its place and move it there, so that an interrupted one is never taken for an index.

    :param path:
        The folder, missing or empty.
    :param quantization:
        How embeddings are also kept, `None` for not at all.
    :raises DocumentStoreError:
        If it cannot be created there.
    """
    path = os.path.realpath(path)
    with _clear_errors(f"create an index at {path}"):
        _create_index(path, quantization)


def _create_index(path: str, quantization: str | None) -> None:
    try:
        with replace_folder(Path(path), new=True) as aside:
            _create_shard(aside, quantization)
    except OSError:
        if not index_exists(path):  # else somebody else was faster
            raise


def _create_shard(folder: Path, quantization: str | None) -> None:
    # The engine wants one kind of vector at least; dense ones follow once their dimension is known.
    config = EdgeConfig(
        sparse_vectors={SPARSE_VECTOR: EdgeSparseVectorParams()},
        hnsw_config=HNSW,
        quantization_config=QUANTIZATIONS[quantization] if quantization else None,
    )
    require_room(str(folder), ROOM_TO_WRITE)
    EdgeShard.create(str(folder), config).close()


@contextmanager
def replace_index(shard: SharedShard, quantization: str | None) -> Iterator[SharedShard]:
    """
    Yield an empty index beside another one; on success it takes that one's place, on any error it is removed.

    :param shard:
        The index to replace. A call on it must be in flight, with its `lock` held.
    :param quantization:
        As of `create_index`.
    :raises DocumentStoreError:
        If it cannot be replaced. The index that was there stays as it is.
    """
    with (
        _clear_errors(f"replace the index at {shard.path}"),
        ExitStack() as lock,
        replace_folder(Path(shard.path)) as aside,
    ):
        _create_shard(aside, quantization)
        fresh = SharedShard(str(aside))
        fresh.path = shard.path  # what messages name
        try:
            yield fresh
            fresh.flush()
        finally:
            fresh.edge.close()
        lock.enter_context(OPEN_LOCK)  # until the folders are exchanged, nobody may open the index or create one
        shard.retire()


def release(store: ShardUser, shard: SharedShard) -> None:
    """
    Give a shard back; the last store, or the last call in flight, optimises and closes it.

    :param store:
        The store.
    :param shard:
        The shard that it acquired.
    """
    with OPEN_LOCK:
        shard.stores.discard(store)
        _close_unused(shard)


@contextmanager
def in_call(shard: SharedShard) -> Iterator[None]:
    """
    End a call that was counted in `shard.calls` when it began: until then the shard stays open.

    :param shard:
        The shard.
    :raises DocumentStoreError:
        If the engine cannot read what it has to.
    """
    try:
        yield
    except BaseException as error:
        if not is_of_engine(error):
            raise
        with _clear_errors(f"use the index at {shard.path}", _IF_DAMAGED if shard.is_current() else ""):
            raise
    finally:
        with OPEN_LOCK:
            shard.calls -= 1
            _close_unused(shard)


def _close_unused(shard: SharedShard) -> None:
    if shard.stores or shard.calls:
        return
    try:
        if _OPEN.get(shard.path) is shard:
            del _OPEN[shard.path]
            if shard.is_current() and shard.is_of_this_process():
                shard.optimize_or_warn()
    finally:
        shard.edge.close()


def built_similarity(path: str) -> str | None:
    """
    Read how an index compares embeddings, without opening it.

    :param path:
        The folder.
    :returns:
        As `QdrantEdgeDocumentStore` has it; None where there are no embeddings, or no index that can be read.
    """
    try:
        with open(os.path.join(path, _CONFIG_FILE), encoding="utf-8") as file:
            distance = json.load(file)["vectors"][DENSE_VECTOR]["distance"]
    except (OSError, ValueError, LookupError, TypeError):  # opening it says what is wrong
        return None
    return next((name for name, own in DISTANCES.items() if own == distance), None)


def index_exists(path: str) -> bool:
    """
    Tell whether a folder is an index.

    :param path:
        The folder.
    :returns:
        Whether it is; false where there is nothing.
    :raises DocumentStoreError:
        If something else is there.
    """
    occupied = os.path.exists(path) and (not os.path.isdir(path) or bool(os.listdir(path)))
    # Looked for second: somebody else may be moving an index here just now.
    if os.path.isfile(os.path.join(path, _CONFIG_FILE)):
        return True
    if occupied:
        msg = f"{path} exists but is no index. Give the path of an index, or of a folder that is empty or missing."
        raise DocumentStoreError(msg)
    return False


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def require_room(path: str, size: int) -> None:
    """
    Look for space on a disk before something is written to it.

    :param path:
        An existing folder of the disk.
    :param size:
        How many bytes must be free.
    :raises DocumentStoreError:
        If they are not.
    """
    free = shutil.disk_usage(path).free
    if free < size:
        msg = (
            f"The disk of {path} has too little room: {free / 2**20:,.1f} MiB are free, and the index needs "
            f"{size / 2**20:,.1f}. {_MENDS[errno.ENOSPC]} All documents of the index are still there."
        )
        raise DocumentStoreError(msg)


@contextmanager
def _clear_errors(doing: str, else_mend: str = "") -> Iterator[None]:
    """Name what failed and what mends it. The engine's errors have the system's as text."""
    try:
        yield
    except DocumentStoreError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_of_engine(error):
            raise
        code = re.search(r"os error (\d+)|\[Errno (\d+)\]", str(error))
        number = int(code[1] or code[2]) if code else None
        if number in (None, errno.ENOENT):
            mend = else_mend
        else:
            mend = _MENDS.get(number, "The index itself may be whole: keep it.")
        msg = f"Cannot {doing}: {str(error).rstrip('.')}. {mend}".rstrip()
        raise DocumentStoreError(msg) from error


def is_of_engine(error: BaseException | None) -> bool:
    """Tell the engine's errors: plain exceptions, and panics, which are none and cannot be imported."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


def _having(vector_name: str) -> Filter:
    return Filter(must=[HasVectorCondition(vector_name)])


def _in_use(path: str) -> str:
    return (
        f"The index at {path} is in use by another process, and Qdrant Edge serves one process at a time. "
        "Stop the other one or give this one its own copy of the folder; to share an index between processes use "
        "a Qdrant server and QdrantDocumentStore."
    )
