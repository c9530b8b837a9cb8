# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
import asyncio
import contextlib
import gc
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.components.writers import DocumentWriter
from haystack.dataclasses import ByteStream, SparseEmbedding
from haystack.document_stores.errors import DocumentStoreError, DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError
from haystack.testing import document_store as sync_tests
from haystack.testing import document_store_async as async_tests
from haystack.utils.filters import document_matches_filter

from haystack_integrations.components.retrievers.retort import StudentRetriever
from haystack_integrations.document_stores.retort import (
    QdrantEdgeDocumentStore,
    qdrant_edge_document_store,
    shared_shard,
)
from haystack_integrations.document_stores.retort.edge_documents import point_id
from haystack_integrations.document_stores.retort.edge_filters import document_matches
from haystack_integrations.document_stores.retort.shared_shard import SharedShard
from retort.students import files

TYPE = "haystack_integrations.document_stores.retort.qdrant_edge_document_store.QdrantEdgeDocumentStore"

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108


def documents(count, dim=8, start=0, **meta):
    rng = np.random.default_rng(start)
    return [
        Document(id=f"d{i:05}", content=f"text {i}", embedding=rng.standard_normal(dim).tolist(), meta={"n": i, **meta})
        for i in range(start, start + count)
    ]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "index")


@pytest.fixture
def store(path):
    store = QdrantEdgeDocumentStore(path=path)
    yield store
    store.close()


class EdgeEqualityMixin:
    """The order of documents has no meaning, and embeddings come back in single precision and with length 1."""

    @staticmethod
    def assert_documents_are_equal(received, expected):
        received, expected = (sorted(docs, key=lambda document: document.id) for docs in (received, expected))
        assert [replace(d, embedding=None) for d in received] == [replace(d, embedding=None) for d in expected]
        for mine, theirs in zip(received, expected, strict=True):
            assert (mine.embedding is None) == (theirs.embedding is None)
            if mine.embedding is not None:
                unit = np.array(theirs.embedding) / np.linalg.norm(theirs.embedding)
                np.testing.assert_allclose(mine.embedding, unit, atol=1e-5)


class HaystackFixture:
    @pytest.fixture
    def document_store(self):
        # In memory, and not closed: a hundred new indexes wait long for a busy disk.
        with tempfile.TemporaryDirectory(dir=MEMORY, ignore_cleanup_errors=True) as folder:
            yield QdrantEdgeDocumentStore(path=os.path.join(folder, "index"), return_embedding=True)


class TestHaystackContract(
    EdgeEqualityMixin,
    HaystackFixture,
    sync_tests.DocumentStoreBaseExtendedTests,
    sync_tests.CountDocumentsByFilterTest,
    sync_tests.CountUniqueMetadataByFilterTest,
    sync_tests.GetMetadataFieldsInfoTest,
    sync_tests.GetMetadataFieldMinMaxTest,
    sync_tests.GetMetadataFieldUniqueValuesTest,
):
    def test_write_documents(self, document_store):
        document = Document(id="1", content="first")
        assert document_store.write_documents([document]) == 1
        assert document_store.write_documents([replace(document, content="second")]) == 1
        assert [d.content for d in document_store.filter_documents()] == ["second"]


class TestHaystackAsyncContract(
    EdgeEqualityMixin,
    HaystackFixture,
    async_tests.CountDocumentsAsyncTest,
    async_tests.WriteDocumentsAsyncTest,
    async_tests.DeleteDocumentsAsyncTest,
    async_tests.FilterDocumentsAsyncTest,
    async_tests.DeleteAllAsyncTest,
    async_tests.DeleteByFilterAsyncTest,
    async_tests.UpdateByFilterAsyncTest,
    async_tests.CountDocumentsByFilterAsyncTest,
    async_tests.CountUniqueMetadataByFilterAsyncTest,
    async_tests.GetMetadataFieldsInfoAsyncTest,
    async_tests.GetMetadataFieldMinMaxAsyncTest,
    async_tests.GetMetadataFieldUniqueValuesAsyncTest,
):
    @pytest.mark.asyncio
    async def test_write_documents_async(self, document_store):
        assert await document_store.write_documents_async([Document(id="1")]) == 1
        assert await document_store.write_documents_async([Document(id="1")]) == 1
        assert await document_store.count_documents_async() == 1

    @pytest.mark.asyncio
    async def test_search_async(self, document_store):
        docs = documents(20)
        await document_store.write_documents_async(docs)
        hits = await asyncio.gather(*(document_store.search_async(d.embedding, top_k=1) for d in docs))
        assert [hit.id for [hit] in hits] == [d.id for d in docs]
        await document_store.close_async()


class TestSerialisation:
    def test_to_dict(self):
        store = QdrantEdgeDocumentStore(path="a/b", embedding_dim=3, similarity="l2", return_embedding=True)
        parameters = {
            "path": "a/b",
            "embedding_dim": 3,
            "similarity": "l2",
            "return_embedding": True,
            "quantization": None,
            "storage": None,
            "recreate_index": False,
        }
        assert store.to_dict() == {"type": TYPE, "init_parameters": parameters}
        assert QdrantEdgeDocumentStore.from_dict(store.to_dict()).to_dict() == store.to_dict()

    def test_path_comes_first(self, tmp_path):
        assert QdrantEdgeDocumentStore("an/index").path == "an/index"
        assert QdrantEdgeDocumentStore(tmp_path).to_dict()["init_parameters"]["path"] == str(tmp_path)

    def test_yaml(self, path):
        pipeline = Pipeline()
        pipeline.add_component("writer", DocumentWriter(QdrantEdgeDocumentStore(path=path)))
        loaded = Pipeline.loads(pipeline.dumps())
        assert loaded.run({"writer": {"documents": documents(3)}}) == {"writer": {"documents_written": 3}}
        assert QdrantEdgeDocumentStore(path=path).count_documents() == 3

    def test_init_is_light(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        QdrantEdgeDocumentStore()
        assert list(tmp_path.iterdir()) == []

    def test_unknown_similarity(self):
        with pytest.raises(ValueError, match="euclid"):
            QdrantEdgeDocumentStore(similarity="euclid")

    @pytest.mark.parametrize("dim", [0, -2])
    def test_no_dimension(self, dim):
        with pytest.raises(ValueError, match=f"embedding_dim must be above 0; it is {dim}"):
            QdrantEdgeDocumentStore(embedding_dim=dim)


class TestQuantization:
    """The engine quantises what its optimiser has built a graph of: from about 10 MB of embeddings."""

    @pytest.fixture(scope="class")
    def vectors(self):
        made = np.random.default_rng(0).standard_normal((2600, 1024)).astype(np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    @pytest.mark.parametrize("quantization", ["int8", "binary", "turbo4", "turbo2"])
    def test_rescoring_gives_the_true_scores(self, tmp_path, vectors, quantization):
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"), quantization=quantization)
        store.write_documents([Document(id=str(i), embedding=v) for i, v in enumerate(vectors.tolist())])
        store.optimize()
        assert store.describe()["quantization"] == quantization
        query = vectors[7] + 0.2 * vectors[8]
        query /= np.linalg.norm(query)
        hits = store.search(query)
        assert [hit.id for hit in hits[:2]] == ["7", "8"]
        assert hits[0].score == pytest.approx(float(vectors[7] @ query), abs=1e-4)
        rough = store.search(query, rescore=False)
        assert rough[0].id == "7"
        assert abs(rough[0].score - hits[0].score) > 1e-5
        assert store.search(query, ignore_quantization=True)[0].score == pytest.approx(hits[0].score, abs=1e-5)
        retriever = StudentRetriever(document_store=store, rescore=False, allow_unstamped=True, top_k=1)
        found = retriever.run(query_embedding=query.tolist())["documents"]
        assert found[0].score == pytest.approx(rough[0].score)
        store.close()

    def test_an_index_keeps_its_own(self, path):
        store = QdrantEdgeDocumentStore(path=path, quantization="int8")
        store.write_documents([Document(id="a", embedding=[3.0, 4.0])])
        assert QdrantEdgeDocumentStore.from_dict(store.to_dict()).quantization == "int8"
        store.close()
        again = QdrantEdgeDocumentStore(path=path)
        assert again.describe()["quantization"] == "int8"
        again.close()
        other = QdrantEdgeDocumentStore(path=path, quantization="binary")
        with pytest.raises(DocumentStoreError, match="built with quantization='int8', not with 'binary'"):
            other.count_documents()

    @pytest.mark.parametrize("quantization", [None, "int8", "turbo8", "turbo4", "turbo2"])
    @pytest.mark.parametrize(("storage", "least"), [("float32", 1 - 1e-6), ("float16", 1 - 1e-6), ("turbo8", 0.9998)])
    def test_storage(self, path, vectors, quantization, storage, least):
        """What comes back is as near as the storage is fine, in any combination, and after the index is opened anew."""
        store = QdrantEdgeDocumentStore(path=path, quantization=quantization, storage=storage)
        assert QdrantEdgeDocumentStore.from_dict(store.to_dict()).storage == storage
        store.write_documents([Document(id=str(i), embedding=v) for i, v in enumerate(vectors[:50].tolist())])
        store.close()
        again = QdrantEdgeDocumentStore(path=path, return_embedding=True)
        assert again.describe() | {"path": ""} == {
            **{"path": "", "embedding_dim": 1024, "similarity": "cosine", "quantization": quantization},
            **{"storage": storage, "documents": 50, "indexed": 0},
        }
        hit = again.search(vectors[7].tolist(), top_k=1)[0]
        assert hit.id == "7"
        assert least < float(np.dot(hit.embedding, vectors[7]) / np.linalg.norm(hit.embedding)) <= 1 + 1e-6
        again.close()
        other = QdrantEdgeDocumentStore(path=path, storage="turbo8" if storage == "float32" else "float32")
        with pytest.raises(DocumentStoreError, match=f"built with storage='{storage}', not with"):
            other.count_documents()

    def test_unknown(self):
        with pytest.raises(ValueError, match="Unknown quantization 'nibble'"):
            QdrantEdgeDocumentStore(quantization="nibble")
        with pytest.raises(ValueError, match="Unknown storage 'int4'"):
            QdrantEdgeDocumentStore(storage="int4")


class TestMissingIndex:
    def test_reading_creates_nothing(self, store, tmp_path):
        assert store.count_documents() == 0
        assert store.filter_documents() == []
        assert store.sample_meta() is None
        assert store.describe()["documents"] == 0
        store.delete_documents(["x"])
        assert store.delete_by_filter({"field": "meta.a", "operator": "==", "value": 1}) == 0
        assert store.write_documents([]) == 0
        assert list(tmp_path.iterdir()) == []

    def test_search_names_the_mend(self, store, path):
        with pytest.raises(DocumentStoreError, match=f"no index at {path}.*retort index STUDENT"):
            store.search([1.0, 2.0])

    def test_relative_path_is_resolved_when_opened(self, tmp_path, monkeypatch):
        store = QdrantEdgeDocumentStore(path="some/index")
        monkeypatch.chdir(tmp_path)
        store.write_documents(documents(1))
        assert store.describe()["path"] == str(tmp_path / "some" / "index")
        assert (tmp_path / "some" / "index").is_dir()
        store.close()

    def test_other_folder_is_refused(self, tmp_path):
        (tmp_path / "photo.jpg").touch()
        with pytest.raises(DocumentStoreError, match="exists but is no index"):
            QdrantEdgeDocumentStore(path=str(tmp_path)).write_documents(documents(1))

    def test_empty_folder_is_taken(self, tmp_path):
        store = QdrantEdgeDocumentStore(path=str(tmp_path))
        assert store.write_documents(documents(1)) == 1
        store.close()

    def test_damaged_index(self, tmp_path):
        (tmp_path / "edge_config.json").write_text("{")
        with pytest.raises(DocumentStoreError, match=r"Cannot open the index .*index the documents again"):
            QdrantEdgeDocumentStore(path=str(tmp_path)).count_documents()

    def test_interrupted_creation(self, store, path, tmp_path, monkeypatch):
        def interrupted(source, target):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(shared_shard.os, "rename", interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.write_documents(documents(1))
        assert list(tmp_path.iterdir()) == []
        assert store.write_documents(documents(1)) == 1

    def test_index_deleted_while_open(self, store, path):
        store.write_documents(documents(5))
        shutil.rmtree(path)
        again = QdrantEdgeDocumentStore(path=path)
        assert again.count_documents() == 0
        with pytest.raises(DocumentStoreError, match="no index"):
            store.search([1.0] * 8)
        assert store.write_documents(documents(2)) == 2
        assert again.count_documents() == 2
        shutil.rmtree(path)
        again.close()


class TestSharing:
    def test_one_shard_per_real_path(self, path, tmp_path):
        (tmp_path / "link").symlink_to(path)
        stores = [QdrantEdgeDocumentStore(path=p) for p in (path, str(tmp_path / "link"), f"{path}/../index")]
        for i, store in enumerate(stores):
            store.write_documents(documents(10, start=10 * i))
        assert [store.count_documents() for store in stores] == [30, 30, 30]
        assert len({id(store._shard) for store in stores}) == 1

        shard = stores[0]._shard
        stores[0].close()
        stores[0].close()
        stores[1].close()
        assert stores[2].search(documents(1)[0].embedding, top_k=1)[0].id == "d00000"
        stores[2].close()
        assert path not in shared_shard._OPEN
        assert stores[0].count_documents() == 30  # opened again
        assert stores[0]._shard is not shard
        stores[0].close()

    def test_two_paths(self, tmp_path):
        stores = [QdrantEdgeDocumentStore(path=str(tmp_path / name)) for name in "ab"]
        for i, store in enumerate(stores):
            store.write_documents(documents(i + 1, dim=i + 2))
        assert [store.count_documents() for store in stores] == [1, 2]
        for store in stores:
            store.close()

    def test_garbage_gives_the_index_back(self, path):
        store = QdrantEdgeDocumentStore(path=path)
        store.write_documents(documents(3))
        del store
        gc.collect()
        assert path not in shared_shard._OPEN
        store = QdrantEdgeDocumentStore(path=path)
        assert store.count_documents() == 3
        store.close()

    def test_threads(self, path):
        errors, stores = [], [QdrantEdgeDocumentStore(path=path) for _ in range(4)]

        def work(i):
            try:
                for step in range(10):
                    stores[i].write_documents(documents(10, start=1000 * i + 10 * step))
                    assert len(stores[i].search([1.0] * 8, top_k=5)) == 5
                    stores[i].filter_documents({"field": "meta.n", "operator": "<", "value": 5})
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert stores[0].count_documents() == 400
        for store in stores:
            store.close()

    def test_closed_by_another_thread_while_opening(self, store, monkeypatch):
        store.write_documents(documents(3))

        def closed_meanwhile(_):
            store._shard = None
            return True

        monkeypatch.setattr(shared_shard.SharedShard, "is_current", closed_meanwhile)
        assert store.count_documents() == 3

    def test_threads_fail_on_duplicates_once(self, path):
        store, outcomes = QdrantEdgeDocumentStore(path=path), []

        def write():
            try:
                outcomes.append(store.write_documents(documents(50), DuplicatePolicy.FAIL))
            except DuplicateDocumentError:
                outcomes.append("duplicate")

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(str, outcomes)) == ["50", "duplicate", "duplicate", "duplicate"]
        store.close()

    @pytest.mark.integration
    def test_other_process_and_sudden_death(self, path):
        script = f"""
import os, signal, sys
from haystack import Document
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
store = QdrantEdgeDocumentStore(path={path!r})
try:
    store.count_documents()
except Exception as error:
    print(type(error).__name__, error, flush=True)
sys.stdin.readline()
store.write_documents([Document(id=str(i), embedding=[float(i), 1.0]) for i in range(100)])
print("written", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
        store = QdrantEdgeDocumentStore(path=path)
        store.write_documents([Document(id="mine", embedding=[1.0, 2.0])])
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            message = other.stdout.readline()
            assert message.startswith("DocumentStoreError")
            assert f"{path} is in use by another process" in message
            store.close()
            other.stdin.write("\n")
            other.stdin.flush()
            assert other.stdout.readline() == "written\n"
        assert other.returncode == -9
        assert store.count_documents() == 101
        assert len(store.search([1.0, 1.0], top_k=200)) == 101
        store.close()


class TestWriting:
    def test_no_policy(self, store):
        store.write_documents([Document(id="0", content="old")])
        with pytest.raises(ValueError, match="must be a DuplicatePolicy, such as DuplicatePolicy.OVERWRITE"):
            store.write_documents([Document(id="0", content="new")], policy="overwrite")

    @pytest.mark.parametrize("policy", [DuplicatePolicy.NONE, DuplicatePolicy.OVERWRITE])
    def test_last_one_stays(self, store, policy):
        docs = [Document(id="a", content="1"), Document(id="b"), Document(id="a", content="2")]
        assert store.write_documents(docs, policy) == 2
        assert {d.id: d.content for d in store.filter_documents()} == {"a": "2", "b": None}

    def test_skip_keeps_the_first_one(self, store):
        store.write_documents([Document(id="a", content="stored")])
        docs = [Document(id="a", content="1"), Document(id="b", content="1"), Document(id="b", content="2")]
        assert store.write_documents(docs, DuplicatePolicy.SKIP) == 1
        assert {d.id: d.content for d in store.filter_documents()} == {"a": "stored", "b": "1"}

    def test_fail_writes_nothing(self, store):
        store.write_documents([Document(id=str(i)) for i in range(50)])
        with pytest.raises(DuplicateDocumentError, match=r"^50 of 51 .* '0', '1', '2', '3', '4', \.\.\.$"):
            store.write_documents([Document(id=str(i)) for i in range(51)], DuplicatePolicy.FAIL)
        with pytest.raises(DuplicateDocumentError, match=r"^1 of 2 .* 'x'$"):
            store.write_documents([Document(id="x"), Document(id="x")], DuplicatePolicy.FAIL)
        assert store.count_documents() == 50

    def test_input_is_not_changed(self, store):
        document = Document(id="a", embedding=[3.0, 4.0], meta={"when": datetime(2020, 1, 1, tzinfo=UTC)})
        before = replace(document)
        store.write_documents([document])
        assert document == before

    def test_dimension_of_the_first_embedding(self, store, path):
        store.write_documents([Document(id="none")])
        assert store.describe()["embedding_dim"] is None
        store.write_documents(documents(2, dim=4))
        store.write_documents([Document(id="none again")])
        with pytest.raises(DocumentStoreError, match=r"'d00000' has an embedding of 5 dim.* of 4 dim"):
            store.write_documents(documents(1, dim=5))
        assert store.count_documents() == 4
        store.close()
        assert store.describe() == {
            "path": path,
            "embedding_dim": 4,
            "similarity": "cosine",
            "quantization": None,
            "storage": "float32",
            "documents": 4,
            "indexed": 0,
        }

    def test_dimension_of_the_store(self, path):
        store = QdrantEdgeDocumentStore(path=path, embedding_dim=4)
        with pytest.raises(DocumentStoreError, match=r"of 5 dim.* of 4 dim"):
            store.write_documents(documents(1, dim=5))
        store.write_documents(documents(1, dim=4))
        with pytest.raises(DocumentStoreError, match=r"holds embeddings of 4 dimensions.*embedding_dim=6"):
            QdrantEdgeDocumentStore(path=path, embedding_dim=6).count_documents()
        with pytest.raises(DocumentStoreError, match="built with similarity='cosine', not with 'l2'"):
            QdrantEdgeDocumentStore(path=path, similarity="l2").count_documents()
        store.close()

    def test_dimensions_within_one_call(self, store):
        with pytest.raises(DocumentStoreError, match=r"of 5 dim.* of 4 dim"):
            store.write_documents([*documents(1, dim=4), *documents(1, dim=5, start=1)])
        assert store.count_documents() == 0

    def test_recreated_index_takes_another_dimension(self, store):
        store.write_documents(documents(3, dim=4))
        store.delete_all_documents(recreate_index=True)
        store.write_documents(documents(3, dim=6))
        store.close()
        assert store.describe()["embedding_dim"] == 6
        assert len(store.search([1.0] * 6)) == 3

    def test_empty_embedding(self, store):
        """An index of dimension 0 would never open again."""
        with pytest.raises(DocumentStoreError, match="embedding of document 'a' is empty"):
            store.write_documents([Document(id="a", embedding=[]), *documents(1)])
        store.close()
        assert store.write_documents(documents(1)) == 1

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39, "a", None])
    def test_embedding_of_no_finite_numbers(self, store, value):
        """1e39 is infinity in single precision, in which embeddings are stored."""
        with pytest.raises(DocumentStoreError, match="The embedding of document 'a'"):
            store.write_documents([Document(id="a", embedding=[1.0, value])])
        with pytest.raises(DocumentStoreError, match="The sparse embedding of document 'a'"):
            store.write_documents([Document(id="a", sparse_embedding=SparseEmbedding([0, 1], [1.0, value]))])
        assert store.count_documents() == 0

    @pytest.mark.parametrize("value", [float("nan"), {1, 2}, object(), "\ud800"])
    def test_meta_that_is_no_json(self, store, value):
        docs = [*documents(2000, dim=2), Document(id="a", meta={"key": value})]
        with pytest.raises(DocumentStoreError, match="Document 'a' cannot be stored"):
            store.write_documents(docs)
        assert store.count_documents() == 0


class TestById:
    def test_order_and_missing_ones(self, store):
        assert store.get_documents_by_id(["d00001"]) == []
        docs = documents(5)
        store.write_documents(docs)
        found = store.get_documents_by_id(["d00003", "unknown", "d00001", "d00003", ""])
        assert found == [replace(docs[i], embedding=None) for i in (3, 1, 3)]
        assert asyncio.run(store.get_documents_by_id_async(["d00003", "unknown"])) == found[:1]
        assert store.get_documents_by_id([]) == []
        with pytest.raises(DocumentStoreError, match="document id 1 is not Unicode text"):
            store.get_documents_by_id([1])

    def test_with_embeddings(self, path):
        with_them = QdrantEdgeDocumentStore(path, return_embedding=True, similarity="dot_product")
        with_them.write_documents([Document(id="a", embedding=[1.0, 2.0], blob=ByteStream(b"x"))])
        [found] = with_them.get_documents_by_id(["a"])
        assert (found.embedding, found.blob) == ([1.0, 2.0], ByteStream(b"x"))
        with_them.close()


class TestClosedByAnotherThread:
    @pytest.fixture
    def close_during(self, store, monkeypatch):
        """Close the store in another thread when something is first called, and give that thread some time."""
        closing = threading.Thread(target=store.close, daemon=True)

        def patch(owner, name):
            original = getattr(owner, name)

            def interrupted(*arguments, **options):
                if closing.ident is None:
                    closing.start()
                    closing.join(0.2)
                return original(*arguments, **options)

            monkeypatch.setattr(owner, name, interrupted)
            return closing

        store.write_documents(documents(3))
        return patch

    def test_a_search_ends_first(self, store, path, close_during):
        close_during(shared_shard.SharedShard, "optimize_if_due")
        assert len(store.search([1.0] * 8)) == 3
        assert path not in shared_shard._OPEN
        assert store.count_documents() == 3

    def test_an_update_ends_first(self, store, close_during):
        """It reads while it holds the index: each would wait for the other."""
        closing = close_during(store, "_records")
        everything = {"field": "meta.n", "operator": ">=", "value": 0}
        update = threading.Thread(target=store.update_by_filter, args=(everything, {"seen": True}), daemon=True)
        update.start()
        update.join(10)
        closing.join(10)
        assert not update.is_alive()
        assert not closing.is_alive()
        assert all(d.meta["seen"] for d in store.filter_documents())

    def test_it_opens_again_meanwhile(self, store, monkeypatch):
        """Between giving the index up and closing it."""
        store.write_documents(documents(3))
        release = qdrant_edge_document_store.release

        def interrupted(*arguments):
            count = threading.Thread(target=store.count_documents, daemon=True)
            count.start()
            count.join(0.2)
            release(*arguments)

        monkeypatch.setattr(qdrant_edge_document_store, "release", interrupted)
        store.close()
        monkeypatch.undo()
        assert store.count_documents() == 3


class TestDamaged:
    @pytest.mark.parametrize("name", ["deleted/status.dat", "page_0.dat", "chunk_0.mmap"])
    def test_an_emptied_file(self, store, path, name):
        """The engine panics at some, which is no `Exception`, and opens with others."""
        store.write_documents(documents(3))
        store.close()
        for file in Path(path).rglob(f"segments/**/{name}"):
            file.write_bytes(b"")
        with pytest.raises(DocumentStoreError, match=f"the index at {path}.* is damaged, delete it and index"):
            store.search([1.0] * 8)
        store.close()

    def test_one_that_was_replaced_is_not_called_damaged(self, store, path):
        store.write_documents(documents(3))
        with pytest.raises(DocumentStoreError) as refused, store._use():
            QdrantEdgeDocumentStore(path, recreate_index=True).write_documents(documents(1))
            raise Exception(path)
        assert "delete it" not in str(refused.value)


EVERYTHING = {"field": "meta.n", "operator": ">=", "value": 0}


class TestRecreateIndex:
    @pytest.mark.parametrize("dim", [None, 8, 6])
    def test_within_a_search(self, store, monkeypatch, dim):
        """Of another thread: the search sees the index as it is then."""
        store.write_documents(documents(3))
        made = qdrant_edge_document_store._dense_query

        def interrupted(*arguments):
            monkeypatch.undo()
            query = made(*arguments)
            store.delete_all_documents(recreate_index=True)
            if dim:
                store.write_documents(documents(1, dim=dim, start=9))
            return query

        monkeypatch.setattr(qdrant_edge_document_store, "_dense_query", interrupted)
        if dim == 6:
            with pytest.raises(DocumentStoreError, match="holds embeddings of 6 dimensions"):
                store.search([1.0] * 8)
        else:
            assert [d.id for d in store.search([1.0] * 8)] == (["d00009"] if dim else [])

    def test_by_two_threads_at_once(self, path, monkeypatch):
        """The second empties nothing that the first has written."""
        store = QdrantEdgeDocumentStore(path, recreate_index=True)
        QdrantEdgeDocumentStore(path).write_documents(documents(3))
        made = qdrant_edge_document_store.to_point
        other = threading.Thread(target=store.write_documents, args=(documents(1, start=7),), daemon=True)

        def interrupted(*arguments):
            if other.ident is None:
                other.start()
                other.join(0.2)
            return made(*arguments)

        monkeypatch.setattr(qdrant_edge_document_store, "to_point", interrupted)
        store.write_documents(documents(1, start=9))
        other.join(10)
        assert sorted(d.id for d in store.filter_documents()) == ["d00007", "d00009"]
        store.close()

    @pytest.mark.parametrize(
        ("call", "expected"),
        [
            (lambda store: store.write_documents(documents(1, start=7)), {"d00007": None, "d00009": None}),
            (lambda store: store.update_by_filter(EVERYTHING, {"seen": True}), {"d00009": True}),
            (lambda store: store.delete_documents(["d00009"]), {}),
            (lambda store: store.delete_all_documents(), {}),
            (lambda store: store.delete_all_documents(recreate_index=True), {}),
            (lambda store: store.optimize(), {"d00009": None}),
        ],
    )
    def test_another_store_writes_meanwhile(self, path, monkeypatch, call, expected):
        """It waits for the index, and finds the new one."""
        first, store = QdrantEdgeDocumentStore(path), QdrantEdgeDocumentStore(path, recreate_index=True)
        first.write_documents(documents(3))
        replaced = shared_shard.replace_folder
        other = threading.Thread(target=call, args=(first,), daemon=True)

        @contextlib.contextmanager
        def interrupted(*arguments):
            with replaced(*arguments) as aside:
                other.start()
                other.join(0.2)
                yield aside

        monkeypatch.setattr(shared_shard, "replace_folder", interrupted)
        store.write_documents(documents(1, start=9))
        other.join(10)
        found = {d.id: d.meta.get("seen") for d in store.filter_documents()}
        assert found == expected
        first.close()
        store.close()

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ({}, {"quantization": "int8", "storage": "float16", "similarity": "dot_product"}),
            ({"quantization": "int8", "storage": "turbo8"}, {"quantization": "turbo4", "storage": "float32"}),
            ({"quantization": "binary", "storage": "float16", "similarity": "l2"}, {}),
        ],
    )
    def test_it_takes_all_settings_of_the_store(self, path, before, after):
        first = QdrantEdgeDocumentStore(path, **before)
        first.write_documents(documents(3))
        store = QdrantEdgeDocumentStore(path, recreate_index=True, **after)
        assert store.write_documents(documents(2, dim=6, start=7)) == 2
        with pytest.raises(DocumentStoreError):
            QdrantEdgeDocumentStore(path).write_documents(documents(1, dim=8))
        store.write_documents(documents(1, dim=6, start=9))
        store.close()
        first.close()
        store = QdrantEdgeDocumentStore(path, **after)
        new = {"quantization": None, "storage": "float32", "similarity": "cosine"} | after
        found = store.describe()
        assert {name: found[name] for name in new} == new
        assert (found["embedding_dim"], found["documents"]) == (6, 3)
        assert sorted(d.id for d in store.search([1.0] * 6)) == ["d00007", "d00008", "d00009"]
        store.close()
        assert os.listdir(os.path.dirname(path)) == ["index"]

    def test_writing_empties_it_once(self, path):
        """Also for another dimension and similarity. Reading does not."""
        first = QdrantEdgeDocumentStore(path)
        first.write_documents(documents(3, dim=8))
        first.close()
        store = QdrantEdgeDocumentStore(path, recreate_index=True)
        assert store.count_documents() == 3
        other = QdrantEdgeDocumentStore(path, recreate_index=True, embedding_dim=4, similarity="l2")
        store.close()
        assert other.write_documents(documents(1, dim=4)) == 1
        other.write_documents(documents(1, dim=4, start=7))
        assert sorted(d.id for d in other.search([0.0] * 4)) == ["d00000", "d00007"]
        assert other.describe() | {"path": ""} == {
            **{"path": "", "embedding_dim": 4, "similarity": "l2", "quantization": None},
            **{"storage": "float32", "documents": 2, "indexed": 0},
        }
        other.close()
        assert other.to_dict()["init_parameters"]["recreate_index"] is True

    @pytest.mark.parametrize("fields", [{"meta": {"a": {1}}}, {"embedding": [float("nan")]}])
    def test_nothing_is_lost_for_what_cannot_be_written(self, store, path, fields):
        store.write_documents(documents(3))
        with pytest.raises(DocumentStoreError):
            QdrantEdgeDocumentStore(path, recreate_index=True).write_documents([Document(id="bad", **fields)])
        assert store.count_documents() == 3

    def test_nothing_is_lost_for_duplicates(self, store, path):
        store.write_documents(documents(3))
        with pytest.raises(DuplicateDocumentError, match=f"of stored ones in {path} or"):
            QdrantEdgeDocumentStore(path, recreate_index=True).write_documents(
                documents(1) * 2, policy=DuplicatePolicy.FAIL
            )
        assert store.count_documents() == 3

    @pytest.mark.parametrize(
        ("owner", "name"),
        [(shared_shard.SharedShard, "upsert"), (shared_shard.SharedShard, "flush"), (files, "_exchange")],
    )
    def test_nothing_is_lost_whatever_fails(self, store, path, monkeypatch, owner, name):
        store.write_documents(documents(3))
        recreating = QdrantEdgeDocumentStore(path, recreate_index=True, quantization="int8")

        def fail(*_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as failing:
            failing.setattr(owner, name, fail)
            with pytest.raises(DocumentStoreError, match=rf"Cannot replace the index at {path}: .*Free space"):
                recreating.write_documents(documents(1, start=7))
        assert len(store.search([1.0] * 8)) == 3
        assert recreating.write_documents(documents(1, start=7)) == 1
        recreating.close()
        store.close()
        assert os.listdir(os.path.dirname(path)) == ["index"]

    def test_a_forked_process_closes_without_writing(self, store, path, monkeypatch):
        store.write_documents(documents(4))
        optimized: list[str] = []
        monkeypatch.setattr(SharedShard, "optimize_or_warn", lambda shard: optimized.append(shard.path))
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: -1)
            store.close()
        assert optimized == []
        store.count_documents()
        store.close()
        assert optimized == [os.path.realpath(path)]

    def test_a_forked_process_replaces_nothing(self, store, path, monkeypatch):
        store.write_documents(documents(3))
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: -1)
            with pytest.raises(DocumentStoreError, match="in use by another process"):
                QdrantEdgeDocumentStore(path, recreate_index=True).write_documents(documents(1, start=7))
        assert store.count_documents() == 3

    def test_nothing_to_empty(self, path):
        store = QdrantEdgeDocumentStore(path, recreate_index=True)
        store.write_documents(documents(2))
        assert store.count_documents() == 2
        store.close()


class TestRoundTrip:
    def test_ids_are_those_of_a_server(self):
        from haystack_integrations.document_stores.qdrant.converters import convert_id

        assert [point_id(name) for name in ("", "a", "Zürich")] == [convert_id(name) for name in ("", "a", "Zürich")]

    def test_everything(self, path):
        store = QdrantEdgeDocumentStore(path=path, return_embedding=True)
        meta = {
            "null": None,
            "true": True,
            "integer": 2**60,
            "float": 1.0,
            "text": 'Zürich 東京 \U0001f600 \x00 "quoted"',
            "date": "2024-02-29T12:00:00+01:00",
            "list": [1, "a", None, [], {}],
            "nested": {"a": {"b": [{"c": 1.5}]}, "": 0},
            "id": "not the document's",
        }
        document = Document(
            id="an id, not a UUID",
            content="",
            meta=meta,
            blob=ByteStream(bytes(range(256)), meta={"file": "x"}, mime_type="image/png"),
            embedding=[0.6, 0.8],
            sparse_embedding=SparseEmbedding([3, 7], [0.5, -1.25]),
        )
        store.write_documents([document, Document(id="bare")])
        store.close()
        [bare] = store.filter_documents({"field": "id", "operator": "==", "value": "bare"})
        [full] = store.filter_documents({"field": "id", "operator": "==", "value": document.id})
        [hit] = store.search([1.0, 0.0])
        assert bare == Document(id="bare")
        np.testing.assert_allclose(full.embedding, document.embedding, atol=1e-6)
        assert replace(full, embedding=None) == replace(document, embedding=None)
        assert replace(hit, score=None) == full
        assert [type(full.meta[key]) for key in ("true", "integer", "float")] == [bool, int, float]
        assert store.sample_meta() in (meta, {})
        store.close()

    def test_python_values_become_json(self, store):
        when = datetime(2024, 2, 28, tzinfo=UTC)
        store.write_documents(
            [Document(id="a", meta={"when": when, "day": when.date(), "n": np.int64(3), "list": (1, 2), 5: np.ones(2)})]
        )
        expected = {"when": when.isoformat(), "day": "2024-02-28", "n": 3, "list": [1, 2], "5": [1.0, 1.0]}
        assert store.sample_meta() == expected
        assert store.count_documents_by_filter({"field": "meta.when", "operator": "==", "value": when}) == 1
        store.update_by_filter({"field": "id", "operator": "==", "value": "a"}, {"when": when.replace(year=2025)})
        assert store.sample_meta() == {**expected, "when": "2025-02-28T00:00:00+00:00"}

    def test_embeddings_have_length_one(self, path):
        store = QdrantEdgeDocumentStore(path=path, return_embedding=True)
        store.write_documents([Document(id="a", embedding=[3.0, 4.0])])
        np.testing.assert_allclose(store.filter_documents()[0].embedding, [0.6, 0.8], atol=1e-6)
        np.testing.assert_allclose(store.search([1.0, 1.0])[0].embedding, [0.6, 0.8], atol=1e-6)
        assert store.search([1.0, 1.0], return_embedding=False)[0].embedding is None
        store.close()

    @pytest.mark.parametrize("similarity", ["dot_product", "l2"])
    def test_other_similarities_keep_lengths(self, path, similarity):
        store = QdrantEdgeDocumentStore(path=path, similarity=similarity, return_embedding=True)
        store.write_documents([Document(id="a", embedding=[3.0, 4.0])])
        assert store.filter_documents()[0].embedding == [3.0, 4.0]
        store.close()

    def test_layout_of_qdrant_haystack(self, store):
        from haystack_integrations.document_stores.qdrant import converters

        document = Document(id="a", content="c", embedding=[1.0, 0.0], sparse_embedding=SparseEmbedding([1], [1.0]))
        store.write_documents([document])
        [theirs] = converters.convert_haystack_documents_to_qdrant_points([document], use_sparse_embeddings=True)
        [ours] = store._shard.edge.retrieve([theirs.id], True, True)
        assert set(ours.vector) == set(theirs.vector)
        assert ours.payload.items() <= theirs.payload.items()


class TestSearch:
    @pytest.mark.parametrize("as_query", [list, np.array, lambda v: np.array(v, dtype=np.float32)])
    def test_order_and_scores(self, store, as_query):
        docs = documents(300)
        store.write_documents(docs)
        query = np.random.default_rng(9).standard_normal(8)
        hits = store.search(as_query(query.tolist()), top_k=20)
        matrix = np.array([d.embedding for d in docs])
        scores = matrix @ query / np.linalg.norm(matrix, axis=1) / np.linalg.norm(query)
        assert [hit.id for hit in hits] == [docs[i].id for i in np.argsort(-scores)[:20]]
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][:20], atol=1e-5)
        assert hits[0].embedding is None
        assert hits[0].content.startswith("text")

    @pytest.mark.parametrize(("similarity", "best", "score"), [("dot_product", "far", 20.0), ("l2", "near", -1.0)])
    def test_higher_scores_are_better(self, path, similarity, best, score):
        store = QdrantEdgeDocumentStore(path=path, similarity=similarity)
        store.write_documents([Document(id="near", embedding=[2.0, 1.0]), Document(id="far", embedding=[9.0, 2.0])])
        hits = store.search([2.0, 1.0]) if similarity == "dot_product" else store.search([2.0, 2.0])
        assert hits[0].id == best
        assert hits[0].score == pytest.approx(score)
        assert [h.id for h in store.search([2.0, 2.0], score_threshold=hits[0].score)][:1] == [best]
        assert hits == sorted(hits, key=lambda hit: -hit.score)
        store.close()

    def test_score_threshold_is_inclusive(self, store):
        store.write_documents([Document(id="a", embedding=[1.0, 0.0]), Document(id="b", embedding=[0.0, 1.0])])
        assert [hit.id for hit in store.search([1.0, 0.0], score_threshold=1.0)] == ["a"]
        assert [hit.id for hit in store.search([1.0, 0.0], score_threshold=0.0)] == ["a", "b"]

    def test_ties_are_ordered_by_id(self, tmp_path):
        ids = [f"{i:03}" for i in range(300)]
        for seed in range(2):
            store = QdrantEdgeDocumentStore(path=str(tmp_path / str(seed)))
            docs = [
                Document(id=id_, embedding=[1.0, 1.0]) for id_ in np.random.default_rng(seed).permutation(ids).tolist()
            ]
            store.write_documents([*docs, Document(id="best", embedding=[1.0, 0.9])])
            hits = store.search([1.0, 0.8], top_k=5)
            assert [hit.id for hit in hits] == ["best", *ids[:4]]
            store.close()

    def test_sparse(self, store):
        docs = [Document(id=str(i), sparse_embedding=SparseEmbedding([1, i], [1.0, 2.0])) for i in range(2, 6)]
        store.write_documents(docs)
        hits = store.search(SparseEmbedding([1, 4], [1.0, 1.0]), top_k=2)
        assert [(hit.id, hit.score) for hit in hits] == [("4", 3.0), ("2", 1.0)]

    @pytest.mark.parametrize("top_k", [0, -1])
    def test_top_k_must_be_positive(self, store, top_k):
        with pytest.raises(ValueError, match="top_k"):
            store.search([1.0], top_k=top_k)

    @pytest.mark.parametrize(
        ("query", "match"), [([1.0] * 3, r"\(3,\).* 8 dim"), ([[1.0] * 8], r"\(1, 8\)"), ([float("nan")] * 8, "NaN")]
    )
    def test_bad_query(self, store, query, match):
        store.write_documents(documents(1))
        with pytest.raises(DocumentStoreError, match=match):
            store.search(query)

    def test_no_embeddings(self, store):
        store.write_documents([Document(id="a")])
        with pytest.raises(DocumentStoreError, match="have no embeddings"):
            store.search([1.0])
        store.delete_all_documents()
        assert store.search([1.0]) == []


class TestOptimisation:
    @pytest.fixture
    def optimized(self, monkeypatch):
        calls = []

        class Spy:
            """The engine's own class takes no patches."""

            def __init__(self, edge):
                self._edge = edge

            def __getattr__(self, name):
                if name == "optimize":
                    calls.append(name)
                return getattr(self._edge, name)

        load = shared_shard.EdgeShard.load
        engine = type("Engine", (), {"create": shared_shard.EdgeShard.create, "load": lambda path: Spy(load(path))})
        monkeypatch.setattr(shared_shard, "EdgeShard", engine)
        monkeypatch.setattr(shared_shard, "OPTIMIZE_THRESHOLD", 100)
        return calls

    def test_rule(self, store, optimized):
        store.write_documents(documents(100))
        store.search([1.0] * 8)
        assert optimized == []
        store.write_documents(documents(100, start=100))
        assert optimized == []
        for _ in range(3):
            store.search([1.0] * 8)
        assert len(optimized) == 1
        store.write_documents(documents(1))
        store.search([1.0] * 8)
        store.optimize()
        store.optimize()
        assert len(optimized) == 2
        store.close()
        assert len(optimized) == 2  # nothing was left to do

    def test_what_an_earlier_process_left(self, path, optimized):
        store = QdrantEdgeDocumentStore(path=path)
        store.write_documents(documents(101))
        del store  # without close, as a killed process leaves it
        gc.collect()
        store = QdrantEdgeDocumentStore(path=path)
        store.search([1.0] * 8)
        assert len(optimized) == 1
        store.close()

    def test_last_close(self, path, optimized):
        stores = [QdrantEdgeDocumentStore(path=path) for _ in range(2)]
        stores[0].write_documents(documents(10))
        assert stores[1].count_documents() == 10
        stores[0].close()
        assert optimized == []
        stores[1].close()
        assert len(optimized) == 1

    def test_graph(self, store):
        rng = np.random.default_rng(0)
        centres = rng.standard_normal((50, 384))
        vectors = centres[rng.integers(0, 50, 7500)] + 0.5 * rng.standard_normal((7500, 384))
        store.write_documents([Document(id=str(i), embedding=v) for i, v in enumerate(vectors.tolist())])
        assert store.describe()["indexed"] == 0
        query = vectors[0].tolist()
        before = [hit.id for hit in store.search(query)]
        assert before == [hit.id for hit in store.search(query, exact=True)]
        store.close()
        assert store.describe()["indexed"] == 7500
        assert [hit.id for hit in store.search(query, exact=True)] == before
        assert len(set(before) & {hit.id for hit in store.search(query, hnsw_ef=64)}) >= 9

    @pytest.mark.long
    def test_recall_where_nothing_is_set(self, store):
        rng = np.random.default_rng(0)
        spread = (1 + np.arange(384)) ** -0.32
        vectors, queries = (rng.standard_normal((n, 384)) * spread for n in (12_000, 100))
        store.write_documents([Document(id=str(i), embedding=v) for i, v in enumerate(vectors.tolist())])
        store.optimize()
        found = [[{hit.id for hit in store.search(q, exact=e)} for e in (True, False)] for q in queries.tolist()]
        assert np.mean([len(exact & near) for exact, near in found]) > 9.5  # the engine's own graph: 9.26


VALUES = [None, "soon", True, False, 0, 1, 1.0, 1.5, -3, 2**53, "a", "b", "", [], [None], [1, 2], ["a"], {"b": 1}, {"b": ["a"]}]  # fmt: skip
DATES = ["2020-01-01", "2020-01-01T00:00:00", "2020-01-01T00:00:00Z", "2020-01-01T05:00:00+05:00", "2020-01-01T00:00+01:00", "20200101", "2020-01-02T00:00:00", "9999-12-31"]  # fmt: skip


class TestFilters:
    @staticmethod
    def random_filter(rng, depth=0):
        if depth < 3 and rng.random() < 0.5:
            conditions = [TestFilters.random_filter(rng, depth + 1) for _ in range(rng.randint(0 if depth else 1, 3))]
            return {"operator": rng.choice(["AND", "OR", "NOT"]), "conditions": conditions}
        field = rng.choice(["meta.x", "meta.y", "meta.x.b", "y", "content", "id", "meta.an odd key", "meta"])
        comparison = rng.choice(["==", "!=", ">", ">=", "<", "<=", "in", "not in"])
        if comparison in ("in", "not in"):
            value = rng.sample(VALUES + DATES, rng.randint(0, 3))
        elif comparison in ("==", "!="):
            value = rng.choice(VALUES + DATES)
        else:
            value = rng.choice([None, True, 0, 1, 1.5, 2**53, *DATES])
        return {"field": field, "operator": comparison, "value": value}

    def test_same_as_in_python(self, store):
        rng = random.Random(0)
        docs = [
            Document(id=f"{i:02}", content=rng.choice(["a", "b", None]), embedding=[1.0, i / 9], meta=meta)
            for i, meta in enumerate(
                [{}] + [{"x": value, "y": rng.choice(VALUES + DATES), "an odd key": value} for value in VALUES + DATES]
            )
        ]
        store.write_documents(docs)
        for _ in range(400):
            filters = self.random_filter(rng)
            expected = [d.id for d in docs if document_matches(filters, d)]
            with contextlib.suppress(FilterError, TypeError):  # Haystack's gives up on values that cannot be compared
                assert [d.id for d in docs if document_matches_filter(filters, d)] == expected
            assert sorted(d.id for d in store.filter_documents(filters)) == expected, filters
            assert store.count_documents_by_filter(filters) == len(expected)
            assert sorted(d.id for d in store.search([1.0, 0.5], top_k=99, filters=filters)) == expected, filters
            top = [d.id for d in store.search([1.0, 0.5], top_k=2, filters=filters)]
            everything = [d.id for d in store.search([1.0, 0.5], top_k=99)]
            assert top == [id_ for id_ in everything if id_ in expected][:2]

    def test_value_that_cannot_be_compared_does_not_match(self, store):
        store.write_documents([Document(id="a", meta={"date": "soon"}), Document(id="b", meta={"date": "2024-01-01"})])
        filters = {"field": "meta.date", "operator": ">", "value": "2020-01-01"}
        assert [d.id for d in store.filter_documents(filters)] == ["b"]
        assert [d.id for d in store.filter_documents({"operator": "NOT", "conditions": [filters]})] == ["a"]

    def test_large_integers(self, store):
        store.write_documents([Document(id=str(i), meta={"n": 2**60 + i}) for i in range(3)])
        for operator, expected in {"==": ["1"], ">": ["2"], "<=": ["0", "1"], "not in": ["0", "2"]}.items():
            value = [2**60 + 1] if operator == "not in" else 2**60 + 1
            found = store.filter_documents({"field": "meta.n", "operator": operator, "value": value})
            assert sorted(d.id for d in found) == expected

    def test_numpy_numbers(self, store):
        store.write_documents(documents(5))
        assert store.count_documents_by_filter({"field": "meta.n", "operator": ">", "value": np.int64(2)}) == 2
        assert store.count_documents_by_filter({"field": "meta.n", "operator": "in", "value": [np.float32(2)]}) == 1

    @pytest.mark.parametrize(
        "filters",
        [
            "meta.x == 1",
            {"field": "meta.x"},
            {"field": "meta.x", "operator": "~", "value": 1},
            {"field": "meta.x", "operator": ">", "value": "tomorrow"},
            {"field": "meta.x", "operator": ">", "value": {}},
            {"field": "embedding", "operator": "==", "value": None},
            {"operator": "XOR", "conditions": []},
            {"operator": "AND", "conditions": ["x"]},
        ],
    )
    def test_malformed(self, store, filters):
        store.write_documents(documents(1))
        for use in (store.filter_documents, store.delete_by_filter, lambda f: store.search([1.0] * 8, filters=f)):
            with pytest.raises(FilterError):
                use(filters)
        assert store.count_documents() == 1

    @pytest.mark.parametrize("filters", [{}, None])
    def test_without_filters_nothing_is_deleted_or_updated(self, store, filters):
        """A filter that a caller left out is no wish to delete everything."""
        store.write_documents(documents(2))
        for use in (store.delete_by_filter, lambda f: store.update_by_filter(f, {"seen": True})):
            with pytest.raises(FilterError, match="No filters are given.* call delete_all_documents"):
                use(filters)
        assert store.count_documents() == 2 == len(store.filter_documents(filters))
        assert "seen" not in store.sample_meta()

    def test_ids_alone(self, store):
        assert store.document_ids() == set()
        store.write_documents(documents(700))
        assert store.document_ids() == {d.id for d in documents(700)}

    def test_tensors_are_embeddings(self, store):
        import torch

        store.write_documents([Document(id="a", content="a", embedding=torch.ones(8))])
        assert store.search([1.0] * 8, top_k=1)[0].id == "a"

    def test_selective_filter_in_search(self, store):
        docs = [*documents(500, tags=["a"]), *documents(2, start=500, tags="a")]
        store.write_documents(docs)
        hits = store.search([1.0] * 8, top_k=5, filters={"field": "meta.tags", "operator": "==", "value": "a"})
        assert {hit.id for hit in hits} == {"d00500", "d00501"}
        date = {"field": "meta.none", "operator": "==", "value": None}
        never = {"operator": "AND", "conditions": [date, {"field": "meta.n", "operator": ">=", "value": 501}]}
        assert [hit.id for hit in store.search([1.0] * 8, top_k=5, filters=never)] == ["d00501"]

    def test_delete_and_update_what_only_python_can_match(self, store):
        store.write_documents(documents(20, empty=[]))
        store.write_documents(documents(20, start=20))
        absent = {"field": "meta.empty", "operator": "==", "value": None}
        assert store.update_by_filter(absent, {"seen": "2024-01-01"}) == 20
        assert store.count_documents_by_filter({"field": "meta.seen", "operator": ">", "value": "2023-06-01"}) == 20
        assert store.delete_by_filter(absent) == 20
        assert json.dumps(store.sample_meta()["empty"]) == "[]"
