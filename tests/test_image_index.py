# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort index` and `retort ask` over folders of images; in a folder and on a server."""

import json
import logging
import re
import shutil
import sys
from contextlib import closing

import numpy as np
import pytest
import test_server_store
from haystack import Document
from haystack.document_stores.errors import DocumentStoreError
from tiny import draw_shape, write_jsonl

from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.cli import main
from retort.indexes import index_documents
from retort.pipelines.load import load_pipeline
from retort.pipelines.shards import Shards
from retort.students import FILE_STAMP, IMAGE_STAMP, ROOT_STAMP, Student
from retort.students.images import ImageFile
from retort.trainers.data.images import holds_images, readable
from retort.trainers.runtime.errors import DataError

stand_in, place = test_server_store.stand_in, test_server_store.place  # fixtures
FILES = ["1f600_grinning-face.png", "Blue  Square.JPG", "deep/er/red_cross.webp", "deep/green-bar.gif"]
TITLES = ["1f600 grinning face", "Blue Square", "red cross", "green bar"]


@pytest.fixture
def photos(tmp_path):
    """A folder of images, with what is none in it and beside it."""
    folder = tmp_path / "photos"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name, shape, colour in zip(
        FILES, ("circle", "square", "cross", "bar"), ("orange", "blue", "red", "green"), strict=True
    ):
        draw_shape(shape, colour).save(folder / name)
    draw_shape("bar", "black").save(folder / ".hidden" / "a.png")
    (folder / "notes.txt").write_text("Taken in the harbour.")
    return folder


@pytest.fixture
def indexed(place, image_student):
    """Index a source; the documents that the index then holds, by id."""

    def index(source, **options) -> dict[str, Document]:
        index_documents(image_student, source, place, **options)
        pipeline = load_pipeline("indexing_images", student=image_student, index=place, embedding_dim=16)
        with closing(pipeline.get_component("writer").document_store) as store:
            return {d.id: d for d in store.filter_documents()}

    return index


@pytest.fixture
def embedded(monkeypatch):
    """The names of images that are embedded."""
    names, real = [], Student.encode_document

    def encode(self, images, **options):
        names.extend(image.rpartition("/")[2] for image in images)
        return real(self, images, **options)

    monkeypatch.setattr(Student, "encode_document", encode)
    return names


def fail(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_only_what_is_new_or_changed_is_embedded(indexed, photos, embedded):
    first = indexed(photos)
    assert sorted(embedded) == sorted(name.rpartition("/")[2] for name in FILES)
    embedded.clear()
    assert indexed(photos) == first
    assert embedded == []
    draw_shape("cross", "black").save(photos / FILES[0])
    draw_shape("cross", "blue").save(photos / "new.png")
    again = indexed(photos)
    assert sorted(embedded) == [FILES[0], "new.png"]
    assert again.keys() == {*FILES, "new.png"}
    assert again[FILES[0]].meta[IMAGE_STAMP] != first[FILES[0]].meta[IMAGE_STAMP]


class TestFolder:
    @pytest.fixture
    def place(self, tmp_path):  # once: a server is told the same
        return str(tmp_path / "index")

    def test_a_document_an_image(self, indexed, photos):
        result = indexed(photos)
        assert result.keys() == set(FILES)
        for name, title in zip(FILES, TITLES, strict=True):
            image = {"root": str(photos), "file": name, "item": ImageFile(photos / name).item.hex()}
            wanted = {"title": title, "file_path": name, ROOT_STAMP: str(photos), FILE_STAMP: name, IMAGE_STAMP: image}
            assert wanted.items() <= result[name].meta.items()
            assert result[name].content is None

    def test_removed_emptied_and_damaged_files(self, indexed, photos):
        """As of texts: what is gone stays unless pruned, what is empty goes, what cannot be read stays."""
        indexed(photos)
        (photos / FILES[0]).unlink()
        assert indexed(photos).keys() == set(FILES)
        (photos / FILES[1]).write_bytes(b"")
        assert indexed(photos).keys() == {FILES[0], *FILES[2:]}
        (photos / FILES[2]).write_bytes(b"no image")
        assert indexed(photos).keys() == {FILES[0], *FILES[2:]}
        assert indexed(photos, prune=True).keys() == set(FILES[2:])

    def test_another_folder_with_a_file_of_that_name(self, indexed, photos, tmp_path):
        indexed(photos)
        shutil.copytree(photos, tmp_path / "copy")
        with pytest.raises(DocumentStoreError, match="is already there from"):
            indexed(tmp_path / "copy")
        assert indexed(photos / FILES[0]).keys() == set(FILES)  # one file of the folder

    def test_left_out_files_are_named_once(self, photos, place, image_student, caplog):
        outside = photos.parent / "outside.png"
        draw_shape("bar", "green").save(outside)
        (photos / "link.png").symlink_to(outside)
        (photos / "empty.png").touch()
        (photos / "page.png").write_text("<html><script>alert(1)</script>")
        (photos / "cut.png").write_bytes((photos / FILES[0]).read_bytes()[:60])
        (photos / "tab\there.png").write_bytes((photos / FILES[0]).read_bytes())
        reasons = {
            "cut.png": "", "empty.png": "the file is empty", "link.png": "a link that leads out of the folder",
            "page.png": "no image", "tab\\there.png": "its name holds control characters",
        }  # fmt: skip
        with caplog.at_level(logging.WARNING):
            assert index_documents(image_student, photos, place) == (4, 0)
        (record,) = [r for r in caplog.records if "left out" in r.message]
        first, *lines = record.getMessage().split("\n  ")
        assert first == f"{photos}: 5 images left out:"
        assert len(lines) == len(reasons)
        for name, reason in reasons.items():
            assert [line for line in lines if line.startswith(f"{name}: {reason}")], name
        with pytest.raises(DataError, match=r"5 images cannot be read\. Mend them"):
            index_documents(image_student, photos, place, on_error="fail")

    def test_one_that_goes_while_it_is_indexed(self, indexed, photos, monkeypatch, caplog):
        """After it was checked, the others are embedded all the same."""
        real = Student.encode_document

        def encode(self, images, **options):
            (photos / FILES[0]).unlink(missing_ok=True)
            return real(self, images, **options)

        monkeypatch.setattr(Student, "encode_document", encode)
        assert indexed(photos).keys() == set(FILES[1:])
        assert f"Document '{FILES[0]}'" in caplog.text


class TestCorpus:
    @pytest.fixture
    def place(self, tmp_path):  # once: a server is told the same
        return str(tmp_path / "index")

    def test_ids_and_titles_are_the_records(self, indexed, pictures, embedded):
        lines = [json.loads(line) for line in (pictures / "corpus.jsonl").read_text().splitlines()]
        lines[0] |= {"title": "A red circle", "metadata": {"year": 2020, "file_path": "elsewhere", IMAGE_STAMP: "x"}}
        write_jsonl(pictures / "corpus.jsonl", lines)
        result = indexed(pictures)
        assert result.keys() == {line["_id"] for line in lines}
        meta = result["red-circle"].meta
        assert (meta["title"], meta["year"], meta["file_path"]) == ("A red circle", 2020, "images/red-circle.png")
        assert meta[IMAGE_STAMP]["root"] == str(pictures)
        assert result["red-bar"].meta["title"] == "red bar"
        assert ROOT_STAMP not in meta
        assert len(embedded) == 20
        assert indexed(pictures) == result
        assert len(embedded) == 20

    def test_what_cannot_be_read(self, indexed, pictures, tmp_path, caplog):
        indexed(pictures)
        draw_shape("bar", "green").save(tmp_path / "outside.png")
        with (pictures / "corpus.jsonl").open("a") as corpus:
            corpus.write('{"_id": "out", "image": "../outside.png"}\n')
        (pictures / "images" / "red-circle.png").write_bytes(b"")
        (pictures / "images" / "red-bar.png").write_bytes(b"no image")
        caplog.clear()
        result = indexed(pictures, prune=True)
        assert "red-circle" not in result  # as a text that is empty by now
        assert "red-bar" in result  # as a file that cannot be read
        assert len(result) == 19
        assert "corpus.jsonl, line 1: skipped: " in caplog.text
        assert "out: ../outside.png lies out of the folder" in caplog.text
        with pytest.raises(DataError, match="3 images cannot be read"):
            indexed(pictures, on_error="fail")

    def test_malformed_records(self, indexed, pictures, caplog):
        """One that was good stays in the index; a first line that is no JSON hides no images."""
        lines = (pictures / "corpus.jsonl").read_text().splitlines()
        indexed(pictures)
        broken = json.dumps(json.loads(lines[0]) | {"metadata": ["x"]})
        (pictures / "corpus.jsonl").write_text("\n".join(["no JSON", broken, *lines[1:], lines[1], '{"_id": 7}']))
        assert holds_images(pictures)
        caplog.clear()
        assert len(indexed(pictures, prune=True)) == 20
        (record,) = [r for r in caplog.records if "left out" in r.message]
        assert re.findall(r"line \d+", record.message) == ["line 1", "line 2", "line 22", "line 3", "line 23"]

    def test_texts_among_them(self, indexed, pictures):
        with (pictures / "corpus.jsonl").open("a") as corpus:
            corpus.write('{"_id": "words", "text": "the ship"}\n')
        with pytest.raises(DataError, match="'words' is a text, where images are read"):
            indexed(pictures)


class TestRefusals:
    @pytest.fixture
    def store(self, tmp_path):
        return str(tmp_path / "index")

    def test_texts_for_a_student_of_images(self, image_student, beir, tmp_path, store, capsys):
        (tmp_path / "texts").mkdir()
        (tmp_path / "texts" / "a.md").write_text("The ship.")
        for folder, message in (
            (tmp_path / "texts", "found 1 .md, but no file"),
            (beir, "is a text, where images are"),
        ):
            assert message in fail(capsys, "index", image_student, "--documents", folder, "--store", store)

    def test_images_for_a_student_of_texts(self, tiny_student, photos, pictures, store, capsys):
        for folder, message in (
            (photos / "deep", "need a student of kind image_text"),
            (pictures, "is an image, where"),
        ):
            assert message in fail(capsys, "index", tiny_student, "--documents", folder, "--store", store)

    def test_a_model_without_a_manifest_gets_what_there_is(
        self, image_student, tiny_student, photos, tmp_path, store, capsys
    ):
        (photos / "notes.txt").unlink()
        for number, (student, message) in enumerate({image_student: "", tiny_student: "reads texts alone"}.items()):
            bare = shutil.copytree(student, tmp_path / f"bare{number}")
            (bare / "retort.json").unlink()
            if message:
                assert message in fail(capsys, "index", bare, "--documents", photos, "--store", f"{store}{number}")
            else:
                main(["index", str(bare), "--documents", str(photos), "--store", f"{store}{number}"])
                assert capsys.readouterr().out.startswith("4 documents")

    def test_an_index_of_texts(self, image_student, tiny_student, beir, photos, store, capsys):
        index_documents(tiny_student, beir, store)
        message = fail(capsys, "index", image_student, "--documents", photos, "--store", store)
        assert f"was built by {tiny_student}, not by {image_student}" in message
        shutil.rmtree(store)
        index_documents(image_student, photos, store)
        message = fail(capsys, "index", tiny_student, "--documents", beir, "--store", store)
        assert f"was built by {image_student}, not by {tiny_student}" in message

    def test_a_sparse_student_beside_it(self, image_student, sparse_student, photos, store, capsys):
        message = fail(
            capsys, "index", image_student, "--documents", photos, "--store", store, "--sparse", sparse_student
        )
        assert "images, which have no sparse embeddings" in message

    def test_a_language_model(self, image_student, photos, store, tmp_path, capsys, monkeypatch):
        from retort.serving import listening

        monkeypatch.setattr(listening.Server, "run", lambda server, sockets: None)
        index_documents(image_student, photos, store)
        (tmp_path / "llm.yaml").write_text("type: haystack.components.generators.chat.mock.MockChatGenerator\n")
        message = fail(capsys, "serve", "--store", store, "--port", "0", "--generator", tmp_path / "llm.yaml")
        assert "holds images, of which a language model reads nothing" in message

    def test_no_pillow(self, image_student, photos, store, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "PIL", None)
        message = fail(capsys, "index", image_student, "--documents", photos, "--store", store)
        assert message == "retort: error: retort index needs Pillow: pip install 'retort-haystack[images]'\n"


def test_ask_lists_images_with_their_files(image_student, photos, tmp_path, capsys):
    store = str(tmp_path / "index")
    index_documents(image_student, photos, store)
    student = Student.load(image_student)
    scores = (
        student.encode_document([ImageFile(photos / name) for name in FILES]) @ student.encode_query(["a red heart"])[0]
    )
    order = np.argsort(-scores)
    main(["ask", "a red heart", "--store", store, "--top-k", "2"])
    lines = [f"[{n}] {TITLES[row]}\n    {FILES[row]}, score {scores[row]:.2f}" for n, row in enumerate(order[:2], 1)]
    assert capsys.readouterr().out == "\n".join(lines) + "\n"
    main(["ask", "a red heart", "--store", store, "--json", "--filter", "title!=red cross"])
    result = json.loads(capsys.readouterr().out)
    assert result["answers"] == []
    assert [document["file"] for document in result["documents"]] == [FILES[row] for row in order if row != 2]
    assert result["documents"][0].keys() == {"id", "title", "file", "score"}
    assert result["best_score"] == result["documents"][0]["score"]
    main(["ask", "a red heart", "--store", store, "--filter", "title=nothing"])
    assert "Nearest documents: none" in capsys.readouterr().out


def test_blocks_of_several_processes_lack_what_is_gone(tmp_path):
    inputs = [Document(id=str(n), meta={"n": n}) for n in range(3)]
    shards = Shards(tmp_path / "shards", {"stamp": "s"}, sentences=False)
    shards.put(inputs, lambda block: [Document(id=d.id, meta=d.meta, embedding=[float(d.id), 1.0]) for d in block[::2]])
    taken = shards.take(inputs)
    assert [(d.id, d.meta, d.embedding) for d in taken] == [
        ("0", {"n": 0, "stamp": "s"}, [0.0, 1.0]),
        ("2", {"n": 2, "stamp": "s"}, [2.0, 1.0]),
    ]


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("a/1f600_grinning-face.png", "1f600 grinning face"),
        ("IMG_20200101.jpeg", "IMG 20200101"),
        ("no suffix", "no suffix"),
        ("v1.2-final.png", "v1.2 final"),
        ("--.png", "--"),
        ("漢字_画像.webp", "漢字 画像"),
    ],
)
def test_titles(name, title):
    assert readable(name) == title


def test_holds_images(photos, pictures, beir):
    assert not holds_images(photos)  # it has a text as well
    assert holds_images(photos / "deep")
    assert holds_images(photos / FILES[0])
    assert holds_images(pictures)
    assert not holds_images(beir)


def test_an_index_that_was_written_by_yaml_goes_on(image_student, photos, tmp_path):
    """Its documents are of no file that `retort index` knows, and stay."""
    store = str(tmp_path / "index")
    indexing = load_pipeline("indexing_images", student=image_student, index=store, images=str(photos))
    indexing.run({"converter": {"sources": [str(photos / FILES[0])]}})
    indexing.close()
    assert index_documents(image_student, photos, store) == (5, 0)
    with closing(QdrantEdgeDocumentStore(path=store)) as edge:
        kept = [d for d in edge.filter_documents() if ROOT_STAMP not in d.meta]
    assert [d.meta["file_path"] for d in kept] == [str(photos / FILES[0])]
