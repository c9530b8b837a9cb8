# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The component that embeds images, and what else a pipeline of images needs."""

import asyncio
import copy
import logging
import sys

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.components.writers import DocumentWriter
from tiny import draw_shape

from haystack_integrations.components.embedders.retort import (
    StudentDocumentEmbedder,
    StudentDocumentImageEmbedder,
    StudentMultiViewDocumentEmbedder,
    StudentTextEmbedder,
)
from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersDocumentImageEmbedder
from haystack_integrations.components.retrievers.retort import SpaceMismatchError, StudentRetriever
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort import stamp
from retort.pipelines.load import load_pipeline
from retort.students import IMAGE_STAMP, SPACE_STAMP, STUDENT_STAMP, ManifestError, Student
from retort.students.images import ImageError, ImageFile

NAMES = [f"{colour}-{shape}.png" for colour in ("red", "blue") for shape in ("circle", "square", "cross")]
SOURCE = {"type": "image", "file_path_meta_field": "file_path"}


@pytest.fixture
def folder(tmp_path):
    """Shapes that were drawn."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    for name in NAMES:
        colour, shape = name.removesuffix(".png").split("-")
        draw_shape(shape, colour).save(folder / name)
    return folder


def documents(names=NAMES, **meta) -> list[Document]:
    return [Document(id=name, content="not read", meta={"file_path": name, **meta}) for name in names]


def embeddings(result) -> np.ndarray:
    return np.array([document.embedding for document in result])


class TestStudentDocumentImageEmbedder:
    def test_embeds_and_stamps_copies(self, image_student, folder):
        student = Student.load(image_student)
        inputs = documents(page=1)
        before = copy.deepcopy(inputs)
        result = StudentDocumentImageEmbedder(model=image_student, root_path=folder).run(documents=inputs)
        assert inputs == before
        assert result["skipped"] == []
        wanted = student.encode_document([ImageFile(folder / name) for name in NAMES])
        np.testing.assert_allclose(embeddings(result["documents"]), wanted, atol=1e-6)
        for document, name in zip(result["documents"], NAMES, strict=True):
            image = {"root": str(folder), "file": name, "item": ImageFile(folder / name).item.hex()}
            stamps = {SPACE_STAMP: student.space, STUDENT_STAMP: image_student, IMAGE_STAMP: image}
            assert document.meta == {"file_path": name, "page": 1, "embedding_source": SOURCE, **stamps}
            assert (document.id, document.content) == (name, "not read")

    def test_as_haystacks_own_does(self, image_student, folder):
        inputs = [Document(id=name, meta={"file_path": str(folder / name)}) for name in NAMES]
        theirs = SentenceTransformersDocumentImageEmbedder(model=image_student, progress_bar=False).run(inputs)
        ours = StudentDocumentImageEmbedder(model=image_student).run(documents=inputs)
        np.testing.assert_allclose(embeddings(ours["documents"]), embeddings(theirs["documents"]), atol=1e-5)
        for own, other in zip(ours["documents"], theirs["documents"], strict=True):
            assert {k: v for k, v in own.meta.items() if not k.startswith("_retort_")} == other.meta
            assert IMAGE_STAMP not in own.meta  # without a root nobody says where it may be shown from

    def test_run_async_dictionaries_and_another_field(self, image_student, folder):
        embedder = StudentDocumentImageEmbedder(model=image_student, root_path=folder, file_path_meta_field="picture")
        inputs = [Document(id=name, meta={"picture": name}) for name in NAMES]
        first = embedder.run(documents=inputs)["documents"]
        again = asyncio.run(embedder.run_async(documents=[document.to_dict() for document in inputs]))["documents"]
        assert again == first
        assert first[0].meta["embedding_source"]["file_path_meta_field"] == "picture"

    def test_survives_yaml(self, image_student, folder):
        pipeline = Pipeline()
        options = {"root_path": folder, "truncate_dim": 3, "batch_size": 2, "on_error": "skip", "backend": "torch"}
        pipeline.add_component("it", StudentDocumentImageEmbedder(model=image_student, **options))
        again = Pipeline.loads(pipeline.dumps()).get_component("it")
        assert {name: getattr(again, name) for name in options} == options | {"root_path": str(folder)}
        assert StudentDocumentImageEmbedder().to_dict()["init_parameters"]["root_path"] is None

    def test_vectors_are_cut_then_normalised(self, image_student, folder):
        whole = embeddings(
            StudentDocumentImageEmbedder(model=image_student, root_path=folder).run(documents())["documents"]
        )
        options = {"root_path": folder, "truncate_dim": 3, "normalize_embeddings": True}
        short = embeddings(StudentDocumentImageEmbedder(model=image_student, **options).run(documents())["documents"])
        wanted = whole[:, :3] / np.linalg.norm(whole[:, :3], axis=1, keepdims=True)
        np.testing.assert_allclose(short, wanted, atol=1e-6)

    def test_batch_size_counts_images(self, image_student, folder, monkeypatch):
        sizes, real = [], Student.encode_document
        student = Student.load(image_student)
        plain = embeddings(
            StudentDocumentImageEmbedder(model=image_student, root_path=folder).run(documents())["documents"]
        )
        preprocess = type(student.model).preprocess

        def counted(self, inputs, *arguments, **options):
            sizes.append(len(inputs))
            return preprocess(self, inputs, *arguments, **options)

        monkeypatch.setattr(type(student.model), "preprocess", counted)
        monkeypatch.setattr(Student, "encode_document", lambda self, images, **o: real(student, images, **o))
        embedder = StudentDocumentImageEmbedder(model=image_student, root_path=folder, batch_size=4)
        np.testing.assert_allclose(embeddings(embedder.run(documents())["documents"]), plain, atol=1e-6)
        assert sizes == [4, 2]

    @pytest.mark.parametrize("bad", ["image", ["image"], Document(content="x")])
    def test_what_is_no_list_of_documents(self, bad):
        with pytest.raises(TypeError, match="expects a list of Documents"):
            StudentDocumentImageEmbedder().run(documents=bad)

    def test_wrong_parameters(self):
        with pytest.raises(ValueError, match="on_error must be 'raise' or 'skip'; it is 'ignore'"):
            StudentDocumentImageEmbedder(on_error="ignore")
        with pytest.raises(ValueError, match="batch_size must be above 0"):
            StudentDocumentImageEmbedder(batch_size=0)


@pytest.fixture
def bad(folder) -> dict[str, tuple[Document, str]]:
    """Documents whose image cannot be read: by id, with the reason."""
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("<svg/>")
    (folder / "cut.png").write_bytes((folder / NAMES[0]).read_bytes()[:70])
    (folder / "scan.pdf").write_bytes(b"%PDF-1.7")
    outside = folder.parent / "outside.png"
    draw_shape("bar", "green").save(outside)
    (folder / "link.png").symlink_to(outside)
    (folder / "circle.png").symlink_to(folder / "circle.png")
    leads_out = "leads out of"
    names = {
        "empty.png": "the file is empty", "text.png": "no image", "cut.png": "cut.png: ",
        "scan.pdf": "is a PDF file, whose pages are not read", "gone.png": "there is no such file",
        "../outside.png": leads_out, str(outside): leads_out, "link.png": leads_out, "": "names no file",
        "a\0b.png": "null byte", "x" * 300: "too long", ".": "there is no such file", "circle.png": "circle.png",
        "sub/../../outside.png": leads_out,
    }  # fmt: skip
    result = {
        f"d{n}": (Document(id=f"d{n}", meta={"file_path": name}), why) for n, (name, why) in enumerate(names.items())
    }
    result["none"] = (Document(id="none"), "meta['file_path'] names no file: it is None")
    result["number"] = (Document(id="number", meta={"file_path": 5}), "names no file: it is 5")
    page = Document(id="page", meta={"file_path": NAMES[0], "mime_type": "application/pdf", "page_number": 1})
    result["page"] = (page, "is a PDF file")
    return result


class TestImagesThatCannotBeRead:
    def test_each_is_named_with_its_document(self, image_student, folder, bad):
        embedder = StudentDocumentImageEmbedder(model=image_student, root_path=folder)
        for document, why in bad.values():
            with pytest.raises(ImageError) as refused:
                embedder.run(documents=[*documents(), document])
            message = str(refused.value)
            assert message.startswith(f"Document {document.id!r}: ")
            assert why in message
            assert "\n" not in message

    def test_the_others_are_embedded(self, image_student, folder, bad, caplog):
        embedder = StudentDocumentImageEmbedder(model=image_student, root_path=folder, on_error="skip")
        good = embedder.run(documents=documents())["documents"]
        mixed = documents()
        mixed[2:2] = [document for document, _ in bad.values()]
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            result = embedder.run(documents=mixed)
        assert result["documents"] == good
        assert [document.id for document in result["skipped"]] == [*bad]
        for document in result["skipped"]:
            assert bad[document.id][1] in document.meta["embedding_error"]
            assert document.embedding is None
        assert [record.message.count("\n") for record in caplog.records] == [len(bad)]
        assert "embedding_error" not in bad["d0"][0].meta

    def test_none_is_left(self, image_student, folder, bad):
        embedder = StudentDocumentImageEmbedder(model=image_student, root_path=folder, on_error="skip")
        result = embedder.run(documents=[document for document, _ in bad.values()])
        assert result["documents"] == []
        assert len(result["skipped"]) == len(bad)
        assert embedder.run(documents=[]) == {"documents": [], "skipped": []}

    def test_several_are_counted(self, image_student, folder, bad):
        embedder = StudentDocumentImageEmbedder(model=image_student, root_path=folder)
        with pytest.raises(
            ImageError, match=r"'d0': .*empty.png.*2 more cannot be read either\. Or set on_error='skip'"
        ):
            embedder.run(documents=[bad[name][0] for name in ("d0", "d1", "d2")])

    def test_without_a_root_any_file_is_read(self, image_student, folder, bad, monkeypatch):
        monkeypatch.chdir(folder)
        embedder = StudentDocumentImageEmbedder(model=image_student)
        names = [NAMES[0], str(folder / NAMES[0]), f"../{folder.name}/{NAMES[0]}"]
        same = embeddings(embedder.run(documents=documents(names))["documents"])
        np.testing.assert_array_equal(same[1:], same[:-1])
        assert len(embedder.run(documents=documents(["../outside.png", "link.png"]))["documents"]) == 2

    def test_floating_point_pixels_are_known_before_work_is_done(self, folder):
        """What `checked_images` lets through can be encoded."""
        from PIL import Image

        from retort.students.images import checked_images

        Image.new("F", (4, 4)).save(folder / "float.tif")
        (result,) = checked_images([folder / "float.tif"])
        assert "floating-point" in str(result)


class TestTheRightComponent:
    def test_a_student_of_texts(self, tiny_student):
        embedder = StudentDocumentImageEmbedder(model=tiny_student)
        for refused in (embedder.warm_up, lambda: embedder.run(documents=documents())):
            with pytest.raises(ManifestError, match=r"^\S+ reads texts alone: take the StudentDocumentEmbedder\.$"):
                refused()

    @pytest.mark.parametrize("kind", [StudentDocumentEmbedder, StudentMultiViewDocumentEmbedder])
    def test_a_student_of_images(self, image_student, kind):
        embedder = kind(model=image_student)
        for refused in (embedder.warm_up, lambda: embedder.run(documents=[Document(content="a ship")])):
            with pytest.raises(ManifestError, match=r"^\S+ reads .* images: take the StudentDocumentImageEmbedder\.$"):
                refused()

    def test_no_pillow(self, image_student, monkeypatch):
        monkeypatch.setitem(sys.modules, "PIL", None)
        with pytest.raises(ModuleNotFoundError) as missing:
            StudentDocumentImageEmbedder(model=image_student).run(documents=documents())
        assert str(missing.value) == "StudentDocumentImageEmbedder needs Pillow: pip install 'retort-haystack[images]'"

    def test_the_card_names_both_embedders(self, image_student):
        import yaml

        card = f"{image_student}/README.md"
        with open(card, encoding="utf-8") as file:
            text = file.read()
        shown = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["components"]
        for component in shown.values():
            component["init_parameters"]["model"] = image_student
        pipeline = Pipeline.from_dict({"components": shown, "connections": []})
        assert {type(pipeline.get_component(name)).__name__ for name in shown} == {
            "StudentTextEmbedder",
            "StudentDocumentImageEmbedder",
        }


class TestPipelines:
    def test_the_retriever_refuses_an_index_of_another_student(self, image_student, tiny_student, folder, tmp_path):
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
        embedder = StudentDocumentImageEmbedder(model=image_student, root_path=folder)
        store.write_documents(embedder.run(documents=documents())["documents"])
        retriever = StudentRetriever(document_store=store, top_k=3)
        query = StudentTextEmbedder(model=image_student).run(text="the ship")
        ranked = retriever.run(query_embedding=query["embedding"], space=query["space"])["documents"]
        student = Student.load(image_student)
        scores = student.encode_document([ImageFile(folder / name) for name in NAMES]) @ query["embedding"]
        assert [document.id for document in ranked] == [NAMES[row] for row in np.argsort(-scores)[:3]]
        other = StudentTextEmbedder(model=tiny_student).run(text="the ship")
        with pytest.raises(SpaceMismatchError, match="was built by"):
            retriever.run(query_embedding=other["embedding"], space=other["space"])
        store.close()

    def test_shipped_yaml_indexes_and_searches(self, image_student, folder, tmp_path):
        (folder / "broken.png").write_text("no image")
        places = {"student": image_student, "index": str(tmp_path / "index")}
        indexing = load_pipeline("indexing_images", **places, images=str(folder))
        sources = [str(folder / name) for name in (*NAMES, "broken.png")]
        done = indexing.run({"converter": {"sources": sources}})
        assert done["writer"]["documents_written"] == len(NAMES)
        assert [d.meta["file_path"] for d in done["embedder"]["skipped"]] == [str(folder / "broken.png")]
        result = load_pipeline("image_search", **places).run({"searcher": {"query": "the ship"}})["searcher"][
            "documents"
        ]
        student = Student.load(image_student)
        scores = student.encode_document([ImageFile(folder / n) for n in NAMES]) @ student.encode_query(["the ship"])[0]
        assert [d.meta["file_path"] for d in result] == [str(folder / NAMES[row]) for row in np.argsort(-scores)]

    def test_shipped_yaml_reads_nothing_outside(self, image_student, folder, tmp_path, monkeypatch):
        """Over HTTP anybody may name any file: those out of the folder that Hayhooks was started in are left out."""
        monkeypatch.chdir(folder)
        outside = tmp_path / "outside.png"
        draw_shape("bar", "green").save(outside)
        indexing = load_pipeline("indexing_images", student=image_student, index=str(tmp_path / "index"))
        done = indexing.run({"converter": {"sources": [NAMES[0], str(outside), "../outside.png"]}})
        assert done["writer"]["documents_written"] == 1
        assert [d.meta["file_path"] for d in done["embedder"]["skipped"]] == [str(outside), "../outside.png"]

    def test_an_index_of_haystacks_embedder_is_stamped(self, image_student, folder, tmp_path):
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
        theirs = SentenceTransformersDocumentImageEmbedder(
            model=image_student, root_path=str(folder), progress_bar=False
        )
        inputs = [Document(id=name, meta={"file_path": str(folder / name)}) for name in NAMES]
        DocumentWriter(store).run(documents=theirs.run(inputs)["documents"])
        store.close()
        assert stamp(tmp_path / "index", image_student) == len(NAMES)
        search = load_pipeline("image_search", student=image_student, index=str(tmp_path / "index"))
        assert len(search.run({"searcher": {"query": "the ship"}})["searcher"]["documents"]) == len(NAMES)
