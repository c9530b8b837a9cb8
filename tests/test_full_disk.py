# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""An index whose disk is full, read-only or another user's: one clear error, and nobody is told to delete it."""

import errno
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple

import pytest
from haystack import Document
from haystack.dataclasses import ByteStream, SparseEmbedding
from haystack.document_stores.errors import DocumentStoreError

from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore, shared_shard

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108
MIB = 2**20
DOCUMENTS = [Document(id=f"d{i}", content=f"text {i}", embedding=[1.0, float(i)], meta={"n": i}) for i in range(3)]
EVERYTHING = {"field": "id", "operator": "!=", "value": ""}


@pytest.fixture
def store():
    with tempfile.TemporaryDirectory(dir=MEMORY, ignore_cleanup_errors=True) as folder:
        yield QdrantEdgeDocumentStore(path=os.path.join(folder, "index"))


@pytest.fixture
def free(monkeypatch):
    """Pretends that so many MiB are free."""

    def pretend(room):
        usage = namedtuple("usage", ["total", "used", "free"])
        monkeypatch.setattr(shared_shard.shutil, "disk_usage", lambda _: usage(0, 0, int(room * MIB)))

    return pretend


def ids(store):
    return sorted(document.id for document in store.filter_documents())


class TestRoom:
    def test_no_room_to_create(self, store, free):
        free(63)
        with pytest.raises(DocumentStoreError, match=r"too little room: 63.0 MiB are free, and the index needs 64.0\."):
            store.write_documents(DOCUMENTS)
        assert os.listdir(os.path.dirname(store.path)) == []

    def test_all_or_nothing(self, store, free):
        """Not the dimension either: the next embedding may have another one."""
        store.write_documents([Document(id="before")])
        free(65)
        large = Document(id="large", content="x" * MIB, embedding=[1.0])
        with pytest.raises(DocumentStoreError, match=r"65.0 MiB are free, and the index needs 68.0\. Free space"):
            store.write_documents([*(Document(id=f"s{i}", embedding=[1.0]) for i in range(2000)), large])
        assert ids(store) == ["before"]
        store.write_documents(DOCUMENTS)
        assert ids(store) == ["before", "d0", "d1", "d2"]

    @pytest.mark.parametrize(
        "fields",
        [
            {"content": "\U0001f600" * 2**15},
            {"blob": ByteStream(b"\xff" * 2**15)},
            {"embedding": [1.0] * 2**15},
            {"sparse_embedding": SparseEmbedding(list(range(2**14)), [1.0] * 2**14)},
            {"meta": {"list": [10] * 2**15}},
        ],
        ids=lambda fields: next(iter(fields)),
    )
    def test_what_counts(self, store, free, fields):
        store.write_documents([Document(id="before")])
        free(64.2)
        with pytest.raises(DocumentStoreError, match=r"64.2 MiB are free, and the index needs 64.3\."):
            store.write_documents([Document(id="large", **fields)])
        assert ids(store) == ["before"]

    def test_updates(self, store, free):
        store.write_documents([Document(id="a", content="x" * MIB, meta={"n": 1}), Document(id="b")])
        free(65.9)
        with pytest.raises(DocumentStoreError, match=r"needs 66.0\."):
            store.update_by_filter(EVERYTHING, {"n": 2})
        assert store.update_by_filter({"field": "id", "operator": "==", "value": "b"}, {"n": 2}) == 1
        assert [d.meta for d in sorted(store.filter_documents(), key=lambda d: d.id)] == [{"n": 1}, {"n": 2}]

    def test_an_index_that_was_filled_opens(self, store, free):
        """And documents can be deleted from it. Where there is less than what opening takes, it is not tried."""
        store.write_documents(DOCUMENTS)
        store.close()
        free(33)
        assert ids(store) == ["d0", "d1", "d2"]
        store.delete_documents(["d0"])
        store.close()
        free(31)
        for look in (store.count_documents, lambda: store.write_documents(DOCUMENTS)):
            with pytest.raises(DocumentStoreError, match=r"31.0 MiB are free, .* 32.0\. Free space .* still there\."):
                look()
        free(65)
        assert ids(store) == ["d1", "d2"]

    def test_no_room_for_the_graph(self, store, free, monkeypatch, caplog):
        """Asked for, it is an error; else a warning, once: searches do without."""
        monkeypatch.setattr(shared_shard, "OPTIMIZE_THRESHOLD", 2)
        store.write_documents(DOCUMENTS)
        flushed = []
        monkeypatch.setattr(shared_shard.SharedShard, "flush", lambda _: flushed.append(1))
        free(31)
        with pytest.raises(DocumentStoreError, match="31.0 MiB are free"):
            store.optimize()
        with caplog.at_level(logging.WARNING):
            assert [d.id for d in store.search([0.0, 1.0], top_k=2)] == ["d2", "d1"]
            assert len(store.search([0.0, 1.0], top_k=2)) == 2
        assert [record.message.count("a search compares each of them") for record in caplog.records] == [1]
        store.close()
        assert len(flushed) == 3


class TestAdvice:
    """What the engine says is text that ends in the system's error."""

    @pytest.mark.parametrize(
        ("said", "advice"),
        [
            ("Failed to open mmap: No space left on device (os error 28)", r"Free space on its disk, and try again\.$"),
            ("Failed to open mmap: Read-only file system (os error 30)", "let this user write to the folder, or copy"),
            ("Failed to open mmap: Permission denied (os error 13)", "let this user write to the folder, or copy"),
            ("Too many open files (os error 24)", r"The index itself may be whole: keep it\.$"),
            ("Input/output error (os error 5)", r"The index itself may be whole: keep it\.$"),
            ("No such file or directory (os error 2)", "delete it and index the documents again"),
            ("expected value at line 1 column 1", "delete it and index the documents again"),
        ],
    )
    def test_opening(self, store, monkeypatch, said, advice):
        store.write_documents(DOCUMENTS)
        store.close()

        def fail(path):
            raise Exception(said)  # as the engine does

        engine = type("Engine", (), {"load": fail})
        with monkeypatch.context() as patch:
            patch.setattr(shared_shard, "EdgeShard", engine)
            with pytest.raises(DocumentStoreError, match=advice) as raised:
                store.count_documents()
        assert str(raised.value).startswith(f"Cannot open the index at {os.path.realpath(store.path)}: {said}. ")
        assert ("delete" in str(raised.value)) == ("delete" in advice)
        assert ids(store) == ["d0", "d1", "d2"]

    def test_creating(self, store, monkeypatch):
        def fail(path, **_):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        monkeypatch.setattr(shared_shard, "replace_folder", fail)
        with pytest.raises(
            DocumentStoreError, match="Cannot create an index at .*: .*Read-only .* let this user write"
        ):
            store.write_documents(DOCUMENTS)

    @pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="the superuser may do everything")
    def test_another_users(self, store):
        store.write_documents(DOCUMENTS)
        store.close()
        os.chmod(os.path.join(store.path, "wal"), 0)
        try:
            with pytest.raises(DocumentStoreError, match="let this user write"):
                store.count_documents()
        finally:
            os.chmod(os.path.join(store.path, "wal"), 0o700)


FILLS = """
import os, subprocess, sys
from haystack import Document
from haystack.document_stores.errors import DocumentStoreError
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore

def mount(*options):
    subprocess.run(["mount", *options, sys.argv[1]], check=True)

def block(number):
    return [Document(id=f"{number}-{i}", content="x" * 500, embedding=[1.0 + i] * 256) for i in range(500)]

mount("-t", "tmpfs", "-o", "size=110m", "tmpfs")
store = QdrantEdgeDocumentStore(path=sys.argv[1] + "/index")
written = 0
while True:
    try:
        written += store.write_documents(block(written))
    except DocumentStoreError as error:
        print("full:", error)
        break
store.close()
assert 5000 < store.count_documents() == written, written
assert store.delete_by_filter({"field": "id", "operator": "in", "value": [d.id for d in block(0)]}) == 500
store.close()
for _ in range(2):
    with open(sys.argv[1] + "/ballast", "wb") as file:  # leaves nothing
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
    try:
        store.count_documents()
    except DocumentStoreError as error:
        print("ballast:", error)
    os.remove(sys.argv[1] + "/ballast")
mount("-o", "remount,ro")
for use in (store, QdrantEdgeDocumentStore(path=sys.argv[1] + "/new")):
    try:
        use.write_documents(block(0))
    except DocumentStoreError as error:
        print("read-only:", error)
mount("-o", "remount,rw,size=400m")
assert store.write_documents(block(0)) == 500
assert store.count_documents() == written
store.close()
"""


@pytest.mark.long
@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0,
    reason="this system lets nobody mount a disk of their own",
)
def test_a_small_disk(tmp_path):
    """Filled, opened while full, made read-only, and enlarged: every document is there at the end."""
    command = ["unshare", "-rm", sys.executable, "-c", FILLS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    said = done.stdout.splitlines()
    assert [line.split(":")[0] for line in said] == ["full", "ballast", "ballast", "read-only", "read-only"]
    assert all("Free space on its disk" in line for line in said[:3])
    assert all("let this user write" in line for line in said[3:])
    assert "delete" not in done.stdout
