# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Indexing documents through a pipeline: what is embedded again, what belongs to which file, what is deleted."""

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from haystack import Document
from haystack.document_stores.errors import DocumentStoreError

from haystack_integrations.components.embedders.retort.student_document_image_embedder import image_meta, image_within
from haystack_integrations.components.retrievers.retort.qdrant_server import ServerIndex
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from haystack_integrations.document_stores.retort.edge_documents import as_kept, to_point
from haystack_integrations.document_stores.retort.shared_shard import built_similarity, index_exists
from retort.pipelines.load import (
    SIMILARITIES,
    how_to_build,
    is_url,
    load_pipeline,
    missing_index,
    store_spec,
)
from retort.pipelines.shards import Shards
from retort.students import (
    FILE_STAMP,
    IMAGE_STAMP,
    ROOT_STAMP,
    SENTENCES_STAMP,
    SPACE_STAMP,
    SPARSE_SPACE_STAMP,
    SPARSE_STUDENT_STAMP,
    STAMP_PREFIX,
    STUDENT_STAMP,
    read_manifest,
    read_space,
)
from retort.students.files import found_from_index, relative_to_index
from retort.students.hashing import canonical_json
from retort.students.images import ImageError
from retort.students.sentences import passages_of
from retort.students.sparse import SparseStudent

logger = logging.getLogger(__name__)

BLOCK = 2048
SERVER_WRITERS = 4  # requests to a server at once
# Of a new folder: faster than float32 alone, two thirds of its size, .007 of its recall@10 less (docs/performance.md).
NEW = {"quantization": "turbo4", "storage": "float16"}
SPACES = (SPACE_STAMP, SPARSE_SPACE_STAMP)


class Source(NamedTuple):
    """
    What is indexed.

    :param documents:
        Documents or passages.
    :param blank:
        Files that have no text any more, or ids of such documents of a BEIR folder: what the index has of them goes.
    :param unread:
        Files and folders that could not be read, or ids of such images of a BEIR folder: what the index has of them
        stays, also with `prune`.
    """

    documents: list[Document]
    blank: Sequence[str] = ()
    unread: Sequence[str] = ()


def index_documents(
    student: str,
    read: Callable[[], Source],
    store: str | Path,
    *,
    folder: Path | None,
    images: Path | None = None,
    progress: Callable[[str, int], AbstractContextManager[Callable[[int], Any]]],
    sparse: str | None = None,
    prune: bool = False,
    quantization: str | None = None,
    storage: str | None = None,
    sentences: bool = True,
    trust_remote_code: bool = False,
    on_error: Literal["skip", "fail"] = "skip",
) -> tuple[int, int]:
    """
    Index documents through `indexing.yml`, in blocks.

    With a sparse student it is `indexing_hybrid.yml`, for images `indexing_images.yml`.

    An interrupted run leaves whole blocks; the same command goes on after them, as documents that are in the index
    unchanged are not embedded again. Passages that a file gave before and no longer gives are deleted, all of them if
    it has no text any more. Files that are gone are left alone, unless `prune` is set; so are those of other folders,
    and those that cannot be read. The documents of a BEIR folder belong to no file: each is replaced by one of the same
    id, and deleted if it has no text any more, or by `prune`. Under `accelerate launch` all processes embed; an index
    in a folder is written by the first, a server by all.

    :param student:
        The student.
    :param read:
        Reads the documents: called after what can be refused at once, as a folder may take minutes.
    :param store:
        Folder of the index, or URL of a collection on a Qdrant server (see `store_spec`).
    :param folder:
        The folder that the documents are passages of, their files named in `file_path`; None for a BEIR folder's.
    :param images:
        Documents are images: the folder that their `file_path` is relative to. None: they are texts.
    :param progress:
        Shows how far it is: a context of what is done and of how many, that yields `update(n)`.
    :param sparse:
        A sparse student, whose embeddings documents get as well.
    :param prune:
        Delete every document of the index that is not among those read, nor of a file that could not be read.
    :param quantization:
        How the index also keeps embeddings, see `QdrantEdgeDocumentStore`; `none` for not at all. None takes an index
        as it is, and for a new folder `turbo4`.
    :param storage:
        How a folder's index keeps embeddings themselves, see there. None takes an index as it is, and for a new folder
        `float16`.
    :param sentences:
        Keep vectors of sentences as well, for the answerer: it answers sooner, and indexing takes longer. Documents in
        the index without them are embedded again; without this, unchanged documents keep theirs.
    :param trust_remote_code:
        Run code that the students bring along.
    :param on_error:
        What to do with documents that no index can hold, as for their metadata: `skip` and name them, or `fail`.
    :returns:
        Documents in the index, and how many were deleted.
    :raises DocumentStoreError:
        If there is nothing to index, another student built the index, it was built with another quantisation or
        storage, or it holds a file of the same name from another folder (but for `prune`).
    """
    state = _processes()
    first = state is None or state.is_main_process
    name, store = _absolute(student), str(store)
    trust: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    manifest = read_manifest(name, **trust)
    if manifest.similarity and manifest.similarity not in SIMILARITIES:
        msg = f"{name} compares by {manifest.similarity}, and an index does so by {', '.join(SIMILARITIES)} alone."
        raise DocumentStoreError(msg)
    quantization, storage = _kept(store, quantization, storage)
    places: dict[str, Any] = {"student": name, "index": store, "similarity": SIMILARITIES.get(manifest.similarity)}
    places |= {"embedding_dim": manifest.dim if is_url(store) else None}  # a folder takes that of the first embedding
    places |= {"quantization": quantization}
    places |= {"storage": storage, "sentences": sentences} | trust
    images = None if images is None else images.resolve()

    def named(model: str) -> str:
        return model if is_url(store) else relative_to_index(model, store)

    stamps = {SPACE_STAMP: manifest.space, STUDENT_STAMP: named(name)}
    if images is not None:
        pipeline = load_pipeline("indexing_images", **places, images=str(images))
    elif sparse is None:
        pipeline = load_pipeline("indexing", **places)
    else:
        pipeline = load_pipeline("indexing_hybrid", **places, sparse=_absolute(sparse))
        stamps |= {
            SPARSE_SPACE_STAMP: read_space(_absolute(sparse), SparseStudent, **trust),
            SPARSE_STUDENT_STAMP: named(_absolute(sparse)),
        }
    with ExitStack() as opened:  # also where something fails: an embedded index belongs to one process
        opened.callback(pipeline.close)
        root = None if folder is None else str(folder.resolve())
        source = read()
        documents = _owned(source.documents, root)
        documents = _storable(documents if images is None else _stamped(documents, images, on_error), on_error)
        files = {d.meta[FILE_STAMP] for d in documents} if root is not None else set()
        writer: Any = pipeline.get_component("writer")
        # Not `pipeline.run`: Haystack copies what runs along a connection, vectors number by number.
        embedders: list[Any] = [
            pipeline.get_component(n) for n in pipeline.graph.nodes if n not in ("converter", "writer")
        ]

        def embed(block: list[Document]) -> list[Document]:
            for embedder in embedders:
                block = embedder.run(documents=block)["documents"]
            return [replace(d, meta=d.meta | {key: stamps[key] for key in stamps if key in d.meta}) for d in block]

        target = writer.document_store
        index = reader(target)
        opened.callback(index.close)
        if quantization and isinstance(index, ServerIndex):
            index.require_quantization(target.quantization_config)
        if first or is_url(store):  # all who write look first
            there = index.sample_meta()
            if there is None and not documents:
                msg = f"There is no {'text' if images is None else 'image'} to index."
                raise DocumentStoreError(msg)
            if there is not None:
                _refuse_other_space(there, stamps, store, name, sparse)
                if root is not None and not prune:
                    _refuse_other_root(target, store, files, root)
        sentences = sentences and images is None
        shards = Shards(Path(f"{store}.shards"), stamps, sentences=sentences)
        blocks = [documents[start : start + BLOCK] for start in range(0, len(documents), BLOCK)]
        if state is None or is_url(store):  # a server is written to by all
            own = blocks if state is None else blocks[state.process_index :: state.num_processes]
            workers = SERVER_WRITERS if is_url(store) else 1
            _fill(writer, index, own, embed, stamps, progress, sentences=sentences, workers=workers)
        else:
            for block in blocks[state.process_index :: state.num_processes]:
                shards.put(block, embed)
            state.wait_for_everyone()
            if first:
                for block in blocks:
                    writer.run(documents=shards.take(block))
        if state is not None:
            state.wait_for_everyone()
        if not first:
            return 0, 0
        if prune:
            before = index.document_ids() - _unread_passages(target, source.unread, root)
        elif root is None:
            before = {d.id for d in _with_ids(target, source.blank) if _owner(d.meta) is None}
        else:
            before = set(_passages(target, files | set(source.blank), "==", root))
        stale = sorted(before - {d.id for d in source.documents})
        for start in range(0, len(stale), BLOCK):
            target.delete_documents(stale[start : start + BLOCK])
        if not is_url(store):  # a server does so by itself
            target.optimize()
            shards.clear()  # also those of a launch that was killed
        return int(target.count_documents()), len(stale)


def _kept(store: str, quantization: str | None, storage: str | None) -> tuple[str | None, str | None]:
    """Say how a store is to keep embeddings: as asked for, as it does, or as a new folder should."""
    if is_url(store):
        return (None if quantization == "none" else quantization), storage
    if not index_exists(store):
        quantization, storage = quantization or NEW["quantization"], storage or NEW["storage"]
    elif quantization == "none":
        found = QdrantEdgeDocumentStore(store)
        kept = found.describe()["quantization"]
        found.close()
        if kept is not None:
            msg = (
                f"The index at {store} was built with quantization={kept!r}, not with none. Leave the parameter out to "
                "take it as it is, or index into another folder."
            )
            raise DocumentStoreError(msg)
    return (None if quantization == "none" else quantization), storage


def _processes() -> Any:
    """Join the processes that `accelerate launch` started; None if there is one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:  # noqa: PLR2004
        return None
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())  # without, each on a CPU takes itself for the first


def _fill(
    writer: Any,
    index: Any,
    blocks: list[list[Document]],
    embed: Callable[[list[Document]], list[Document]],
    stamps: dict[str, str],
    progress: Callable[[str, int], AbstractContextManager[Callable[[int], Any]]],
    *,
    sentences: bool,
    workers: int,
) -> None:
    """Embed what is new, block by block, and write the blocks before meanwhile."""
    filled = index.sample_meta() is not None
    pending: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(workers) as pool, progress("indexing", sum(map(len, blocks))) as update:
        for block in blocks:
            fresh = _changed(writer.document_store, block, stamps, sentences=sentences) if filled else block
            if fresh:
                pending.append(pool.submit(writer.run, documents=embed(fresh)))
            while len(pending) > workers:  # bounds what waits in memory
                pending.popleft().result()
            update(len(block))
        for written in pending:
            written.result()


def open_store(store: str) -> QdrantEdgeDocumentStore | QdrantDocumentStore:
    """Create the document store of a folder or URL; nothing is opened yet."""
    kind = QdrantDocumentStore if is_url(store) else QdrantEdgeDocumentStore
    return kind.from_dict(store_spec(store, similarity=built_similarity(store) or "cosine"))


def reader(
    document_store: QdrantEdgeDocumentStore | QdrantDocumentStore,
) -> QdrantEdgeDocumentStore | ServerIndex:
    """Return what reads a document store and creates nothing."""
    return ServerIndex(document_store) if isinstance(document_store, QdrantDocumentStore) else document_store


def built_by(store: str) -> str:
    """
    Return the student that built an index.

    :param store:
        Folder of the index, or URL of a collection on a Qdrant server.
    :raises DocumentStoreError:
        If there is no index, or it is empty or was not built by retort.
    """
    if message := missing_index(store):
        raise DocumentStoreError(message)
    index = reader(open_store(store))
    try:
        meta = index.sample_meta()
    finally:
        index.close()
    if meta is None:
        msg = f"There is no document at {store}. {how_to_build(store)}"
        raise DocumentStoreError(msg)
    if STUDENT_STAMP not in meta:
        msg = f"The index at {store} does not say which student built it. Name one: --student FOLDER."
        raise DocumentStoreError(msg)
    return found_from_index(meta[STUDENT_STAMP], store)


def _owned(documents: list[Document], root: str | None) -> list[Document]:
    """Give passages of files their owner. A corpus that was read from an index may bring our keys along: they go."""
    owned = []
    for document in documents:
        owner = {} if root is None else {ROOT_STAMP: root, FILE_STAMP: document.meta["file_path"]}
        owned.append(replace(document, meta=_unstamped(document.meta) | owner))
    return owned


def _stamped(documents: list[Document], images: Path, on_error: Literal["skip", "fail"]) -> list[Document]:
    """Say of images what the embedder will: by the key of its bytes a changed one is known."""
    kept, reasons = [], []
    for document in documents:
        try:
            image = image_within(images, document.meta["file_path"])
            kept.append(replace(document, meta=document.meta | image_meta(image, "file_path", images)))
        except ImageError as error:  # it was there when it was checked
            reasons.append(f"{document.id}: {error}")
    _tell_left_out(reasons, on_error)
    return kept


def _storable(documents: list[Document], on_error: Literal["skip", "fail"]) -> list[Document]:
    """Leave out what cannot be written, and name it, before anything is embedded."""
    kept, reasons = [], []
    for document in documents:
        try:
            to_point(document, "cosine")
            kept.append(document)
        except DocumentStoreError as error:
            reasons.append(str(error))
    _tell_left_out(reasons, on_error)
    return kept


def _tell_left_out(reasons: list[str], on_error: Literal["skip", "fail"]) -> None:
    if not reasons:
        return
    lines = "".join(f"\n  {reason}" for reason in reasons)
    if on_error == "fail":
        msg = f"{len(reasons)} documents cannot be indexed. Mend or remove them:{lines}"
        raise DocumentStoreError(msg)
    logger.warning("%d documents left out:%s", len(reasons), lines)


def _unstamped(meta: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in meta.items() if not name.startswith(STAMP_PREFIX)}


def _owner(meta: dict[str, Any]) -> tuple[str, str] | None:
    """Folder and file that a passage was read from; None of a BEIR folder's document, or of somebody else's."""
    if ROOT_STAMP not in meta:
        return None
    # Earlier versions stamped the folder alone, and on passages of files only: their `file_path` is ours.
    return str(meta[ROOT_STAMP]), str(meta.get(FILE_STAMP, meta.get("file_path")))


def _passages(store: Any, files: set[str], same_root: str, root: str) -> dict[str, tuple[str, str]]:
    """Owners of the indexed passages of files, in the same folder (`==`) or in others (`!=`), by id."""
    names = [{"field": f"meta.{name}", "operator": "in", "value": sorted(files)} for name in (FILE_STAMP, "file_path")]
    rooted = {"field": f"meta.{ROOT_STAMP}", "operator": same_root, "value": root}
    near = store.filter_documents({"operator": "AND", "conditions": [rooted, {"operator": "OR", "conditions": names}]})
    owners = {d.id: _owner(d.meta) for d in near}
    return {name: owner for name, owner in owners.items() if owner is not None and owner[1] in files}


def _unread_passages(store: Any, unread: Sequence[str], root: str | None) -> set[str]:
    """Ids of the passages of files, and of all files in folders, that could not be read; a BEIR folder names ids."""
    if not unread or root is None:
        return set(unread)
    near = store.filter_documents({"field": f"meta.{ROOT_STAMP}", "operator": "==", "value": root})
    owners = {d.id: owner[1] for d in near if (owner := _owner(d.meta)) is not None}
    below = tuple(f"{name}/" for name in unread)
    return {i for i, file in owners.items() if file in unread or file.startswith(below)}


def _with_ids(store: Any, ids: Sequence[str]) -> list[Document]:
    return list(store.filter_documents({"field": "id", "operator": "in", "value": list(ids)})) if ids else []


def _changed(store: Any, documents: list[Document], stamps: dict[str, str], *, sentences: bool) -> list[Document]:
    """
    List the documents that the index has not, or has with other texts, metadata, owners or spaces.

    Where vectors of sentences are wanted, also those that lack them. Blank documents have none.
    """
    stored = {d.id: d for d in _with_ids(store, [d.id for d in documents])}

    def same(document: Document) -> bool:
        there = stored.get(document.id)
        if there is None or there.content != document.content or _owner(there.meta) != _owner(document.meta):
            return False
        if there.meta.get(IMAGE_STAMP) != document.meta.get(IMAGE_STAMP):
            return False
        if sentences and SENTENCES_STAMP not in there.meta and passages_of("", document.content or ""):
            return False
        # As JSON, which the index gives back, and with floats as the engine keeps them.
        before, now = (canonical_json(as_kept(_unstamped(meta))) for meta in (there.meta, document.meta))
        return before == now and all(there.meta.get(name) == stamps[name] for name in SPACES if name in stamps)

    return [document for document in documents if not same(document)]


def _absolute(student: str) -> str:
    """Name a folder so that it is found from anywhere."""
    return str(Path(student).resolve()) if Path(student).is_dir() else student


def _refuse_other_root(store: Any, place: str, files: set[str], root: str) -> None:
    """Ids are relative to a folder: those of another one would be overwritten and deleted."""
    taken = _passages(store, files, "!=", root)
    if taken:
        other, path = min(taken.values())
        msg = (
            f"{path} of {root} is already there from {other}, in the index at {place}; give another --store, or "
            "index the folder that holds both."
        )
        raise DocumentStoreError(msg)


def _refuse_other_space(
    meta: dict[str, Any], stamps: dict[str, str], store: str, student: str, sparse: str | None
) -> None:
    """Two spaces in one index would answer from either half, and nobody would notice."""
    mend = "Give another --store, or delete that one to build it anew."
    if meta.get(SPACE_STAMP) != stamps[SPACE_STAMP]:
        built_by = found_from_index(meta.get(STUDENT_STAMP, "something else"), store)
        msg = f"The index at {store} was built by {built_by}, not by {student}. {mend}"
        raise DocumentStoreError(msg)
    if meta.get(SPARSE_SPACE_STAMP) != stamps.get(SPARSE_SPACE_STAMP):
        built_by = found_from_index(meta.get(SPARSE_STUDENT_STAMP, "no student"), store)
        msg = f"The sparse embeddings of the index at {store} are of {built_by}, not of {sparse or 'none'}. {mend}"
        raise DocumentStoreError(msg)
