# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What an index owns: passages of files by our own keys, never by a user's metadata; in a folder and on a server."""

from contextlib import closing
from dataclasses import replace

import pytest
import test_server_store
from haystack import Document
from haystack.document_stores.errors import DocumentStoreError
from tiny import write_jsonl

from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.indexes import index_documents
from retort.pipelines.load import load_pipeline
from retort.students import FILE_STAMP, ROOT_STAMP, SENTENCES_STAMP, Student

stand_in, place = test_server_store.stand_in, test_server_store.place  # fixtures
LONG = "the ship in the sea. " * 100  # four passages


def write_corpus(folder, **documents: dict):
    """A BEIR folder: by id the metadata of documents, and their text beside it."""
    folder.mkdir(exist_ok=True)
    records = [
        {"_id": name, "text": meta.pop("text", f"the {name}."), "metadata": meta} for name, meta in documents.items()
    ]
    write_jsonl(folder / "corpus.jsonl", records)
    (folder / "queries.jsonl").touch()
    return folder


def write_files(folder, **texts: str):
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


@pytest.fixture
def indexed(place, tiny_student):
    """Index a source; the documents that the index then holds, by id."""

    def index(source, **options) -> dict[str, Document]:
        index_documents(tiny_student, source, place, **options)
        pipeline = load_pipeline("indexing", student=tiny_student, index=place, embedding_dim=16)
        with closing(pipeline.get_component("writer").document_store) as store:
            return {d.id: d for d in store.filter_documents()}

    return index


class TestFoldersOfDocuments:
    def test_two_with_the_same_metadata(self, indexed, tmp_path):
        """Nothing of a document that its author wrote says that the index may delete it."""
        jan = write_corpus(tmp_path / "jan", j1={"file_path": "log.pdf"}, j2={"file_path": "log.pdf"})
        feb = write_corpus(tmp_path / "feb", f1={"file_path": "log.pdf"})
        indexed(jan)
        assert indexed(feb).keys() == {"j1", "j2", "f1"}
        assert indexed(jan).keys() == {"j1", "j2", "f1"}

    def test_the_same_again(self, indexed, tmp_path):
        """Documents of the same id are replaced; those that are gone go with `prune`."""
        write_corpus(tmp_path / "jan", j1={"file_path": "log.pdf"}, j2={"file_path": "log.pdf"})
        indexed(tmp_path / "jan")
        stored = indexed(write_corpus(tmp_path / "jan", j1={"file_path": "log.pdf", "text": "bread."}))
        assert {name: d.content for name, d in stored.items()} == {"j1": "bread.", "j2": "the j2."}
        assert indexed(tmp_path / "jan", prune=True).keys() == {"j1"}

    def test_numbers_that_the_engine_rounds_are_no_change(self, indexed, tmp_path, monkeypatch):
        corpus = write_corpus(tmp_path / "jan", j1={"weight": 1.2148024123512429, "all": [1.2148024123512429]})
        first = indexed(corpus)
        monkeypatch.setattr(Student, "encode_document", None)  # nothing is embedded again
        assert indexed(corpus).keys() == first.keys()

    def test_vectors_of_sentences_come_later_and_stay(self, indexed, tmp_path, monkeypatch):
        """A document of a title alone has none."""
        corpus = write_corpus(tmp_path / "corpus", d1={}, d2={"title": "sea"})
        with (corpus / "corpus.jsonl").open("a") as file:
            file.write('{"_id": "d3", "title": "ship", "text": ""}')
        assert not any(SENTENCES_STAMP in d.meta for d in indexed(corpus, sentences=False).values())
        found = indexed(corpus)
        assert {name for name, d in found.items() if SENTENCES_STAMP in d.meta} == {"d1", "d2"}
        monkeypatch.setattr(Student, "encode_document", None)  # nothing is embedded again
        assert indexed(corpus) == indexed(corpus, sentences=False) == found

    def test_beside_a_file_of_that_name(self, indexed, tmp_path):
        files = write_files(tmp_path / "files", a="the ship.")
        indexed(files)
        corpus = write_corpus(tmp_path / "corpus", d1={"file_path": "a.txt"}, d2={"file_path": "a.txt"})
        assert indexed(corpus).keys() == {"a.txt#0", "d1", "d2"}
        write_files(files, a="the rose.")
        again = indexed(files)
        assert again.keys() == {"a.txt#0", "d1", "d2"}
        assert again["a.txt#0"].content == "the rose."

    def test_our_keys_in_their_metadata(self, indexed, tmp_path):
        """As a corpus has them that was read from an index: what they say is not true of this one."""
        files = write_files(tmp_path / "files", a="the ship.")
        keys = {ROOT_STAMP: str(files.resolve()), FILE_STAMP: "a.txt"}
        indexed(write_corpus(tmp_path / "corpus", d1=keys))
        stored = indexed(files)
        assert stored.keys() == {"a.txt#0", "d1"}
        assert not keys.keys() & stored["d1"].meta.keys()
        assert keys.items() <= stored["a.txt#0"].meta.items()

    def test_one_that_takes_the_id_of_a_passage(self, indexed, tmp_path):
        """It is the last folder's from then on, and the file's no more."""
        files = write_files(tmp_path / "files", a=LONG)
        passages = indexed(files)
        last = max(passages)
        meta = {k: v for k, v in passages[last].meta.items() if not k.startswith("_retort_")}
        indexed(write_corpus(tmp_path / "corpus", **{last: meta | {"text": passages[last].content}}))
        write_files(files, a="the ship.")
        assert indexed(files).keys() == {"a.txt#0", last}

    def test_an_empty_one_with_the_id_of_a_passage(self, indexed, tmp_path):
        """It empties a document of its own kind, and none of a file."""
        files = write_files(tmp_path / "files", a="the ship.")
        indexed(files)
        meta = {"_retort_root": str(files.resolve()), "_retort_file": "a.txt", "file_path": "a.txt"}
        indexed(write_corpus(tmp_path / "corpus", d1={}, **{"a.txt#0": meta | {"text": ""}}))
        corpus = write_corpus(tmp_path / "corpus", d1={"text": ""}, d2={}, **{"a.txt#0": meta | {"text": ""}})
        assert indexed(corpus).keys() == {"a.txt#0", "d2"}


class TestNamesOfOneFolder:
    @pytest.fixture
    def place(self, tmp_path):  # once: a server is told the same
        return str(tmp_path / "index")

    def test_slashes_dots_and_links(self, indexed, tmp_path, monkeypatch):
        """However it is named, it is the same: its passages are replaced, and none is left."""
        files = write_files(tmp_path / "files", a=LONG, b="bread.")
        (tmp_path / "link").symlink_to(files)
        monkeypatch.chdir(tmp_path)
        assert len(indexed(f"{files}/")) == 5
        write_files(files, a="the ship.")
        for name in ("files/../files/.", tmp_path / "link", files / "a.txt", tmp_path / "link" / "a.txt"):
            assert indexed(name).keys() == {"a.txt#0", "b.txt#0"}

    def test_a_link_that_leads_elsewhere_by_now(self, indexed, tmp_path):
        """It is another folder: nothing of the first is taken for its own."""
        first, second = write_files(tmp_path / "first", a="a.", b="b."), write_files(tmp_path / "second", a="c.")
        link = tmp_path / "link"
        link.symlink_to(first)
        indexed(link)
        link.unlink()
        link.symlink_to(second)
        with pytest.raises(DocumentStoreError, match=rf"a.txt of {second} is already there from {first}"):
            indexed(link)
        stored = indexed(link, prune=True)
        assert {name: d.content for name, d in stored.items()} == {"a.txt#0": "c."}

    def test_two_of_one_name(self, indexed, tmp_path):
        for parent in ("x", "y"):
            (tmp_path / parent).mkdir()
        one = write_files(tmp_path / "x" / "docs", a=LONG)
        two = write_files(tmp_path / "y" / "docs", b="b.")
        before = indexed(one)
        assert indexed(two).keys() == {*before, "b.txt#0"}
        write_files(two, b="")
        with pytest.raises(DocumentStoreError, match="already there"):
            indexed(write_files(two, a="a."))
        (two / "a.txt").unlink()
        assert indexed(two).keys() == before.keys()

    def test_moved(self, indexed, tmp_path):
        """Where it was, another may stand: its passages are not those of the first."""
        files = write_files(tmp_path / "old", a="a.", b="b.")
        indexed(files)
        files.rename(tmp_path / "new")
        with pytest.raises(DocumentStoreError, match=rf"is already there from {tmp_path / 'old'}"):
            indexed(tmp_path / "new")
        assert indexed(write_files(tmp_path / "old", z="z.")).keys() == {"a.txt#0", "b.txt#0", "z.txt#0"}
        assert indexed(tmp_path / "new", prune=True).keys() == {"a.txt#0", "b.txt#0"}


class TestFoldersOfFiles:
    def test_the_same_name_in_two(self, indexed, tmp_path):
        one, two = (write_files(tmp_path / name, log=LONG) for name in ("one", "two"))
        before = indexed(one)
        assert len(before) == 4
        with pytest.raises(DocumentStoreError, match=rf"log.txt of {two} is already there from {one}"):
            indexed(two)
        assert indexed(one) == before

    def test_changed_and_removed_files(self, indexed, tmp_path):
        files = write_files(tmp_path / "files", a=LONG, b="bread.", c="the rose.")
        assert len(indexed(files)) == 6
        write_files(files, a="the ship.")
        (files / "b.txt").unlink()
        assert indexed(files).keys() == {"a.txt#0", "b.txt#0", "c.txt#0"}
        assert indexed(files, prune=True).keys() == {"a.txt#0", "c.txt#0"}

    def test_a_path_that_somebody_edited_in_the_index(self, indexed, place, tiny_student, tmp_path):
        """A passage is its file's, whatever its `file_path` says by now."""
        files = write_files(tmp_path / "files", a=LONG, b="bread.")
        stored = indexed(files)
        (files / "b.txt").unlink()
        pipeline = load_pipeline("indexing", student=tiny_student, index=place, embedding_dim=16)
        edited = replace(stored["b.txt#0"], meta={**stored["b.txt#0"].meta, "file_path": "a.txt"})
        pipeline.run({"embedder": {"documents": [edited]}})
        pipeline.close()
        write_files(files, a="the ship.")
        assert indexed(files).keys() == {"a.txt#0", "b.txt#0"}


def test_an_index_of_an_earlier_version_goes_on(tiny_student, tmp_path, monkeypatch):
    """It names the folder of its passages, but their files in `file_path` alone."""
    store = tmp_path / "index"

    def rewrite(change):
        with closing(QdrantEdgeDocumentStore(path=str(store), return_embedding=True)) as edge:
            documents = edge.filter_documents()
            edge.write_documents([replace(d, meta=change(d.meta)) for d in documents])
            return {d.id for d in documents}

    def index(*arguments):
        index_documents(tiny_student, *arguments, store)
        return rewrite(lambda meta: meta)

    files, other = write_files(tmp_path / "files", a=LONG, b="bread."), write_files(tmp_path / "other", a="the rose.")
    corpus = write_corpus(tmp_path / "corpus", d1={"file_path": "a.txt"})
    index(corpus)
    before = index(files)
    rewrite(lambda meta: {name: value for name, value in meta.items() if name != FILE_STAMP})
    with monkeypatch.context() as again:
        again.setattr(Student, "encode_document", None)  # nothing is embedded again
        assert index(files) == before
    with pytest.raises(DocumentStoreError, match=rf"a.txt of {other} is already there from {files}"):
        index(other)
    write_files(files, a="the ship.")
    assert index(files) == {"a.txt#0", "b.txt#0", "d1"}
