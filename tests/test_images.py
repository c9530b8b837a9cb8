# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Images as items: files of all kinds, data sets, students of two towers, fusion models, exports, whole runs."""

import copy
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from haystack import Document
from PIL import Image
from sentence_transformers import SentenceTransformer
from tiny import TINY_VISION, draw_shape, everything, log_of, pool, recipe, run_killed, spec, stage, write_jsonl

from haystack_integrations.components.embedders.retort import StudentDocumentEmbedder
from retort.students import Manifest, Ranker, RemoteCodeError, Student, save_student
from retort.students.backends.images import ImagePreparation
from retort.students.create import fusion_ranker, image_text
from retort.students.images import ImageError, ImageFile, checked_images, image_processor, open_image
from retort.students.student import build_manifest
from retort.trainers.data.beir import read_beir, read_corpus
from retort.trainers.data.texts import item_id
from retort.trainers.evaluation.exports import export_student
from retort.trainers.evaluation.rank import evaluate_model
from retort.trainers.plan import plan_run
from retort.trainers.recipe import Recipe
from retort.trainers.roles import TextRequest
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import DataError, RecipeError, TeacherError
from retort.trainers.teachers.embedder import EmbedderTeacher


def tiny_clip(tokenizer_path: str, folder: Path) -> Path:
    """Write a random CLIP as a sentence-transformers folder."""
    from sentence_transformers.base.modules import Transformer
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = AutoTokenizer.from_pretrained(tokenizer_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = sizes | {"vocab_size": len(words), "max_position_embeddings": 64, "eos_token_id": 3, "bos_token_id": 2}
    config = CLIPConfig(
        text_config=text | {"pad_token_id": 0},
        vision_config=sizes | {"image_size": 16, "patch_size": 4},
        projection_dim=8,
    )
    torch.manual_seed(5)
    CLIPModel(config).save_pretrained(folder / "clip")
    square = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    CLIPProcessor(CLIPImageProcessorPil(**square), words).save_pretrained(folder / "clip")
    SentenceTransformer(modules=[Transformer(str(folder / "clip"))], device="cpu").save(str(folder / "model"))
    return folder / "model"


FUSION = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def corner(path) -> tuple:
    return open_image(path).getpixel((0, 0))


class TestFiles:
    def test_modes_become_rgb(self, tmp_path):
        red, clear = Image.new("RGB", (4, 2), (200, 10, 10)), Image.new("RGBA", (4, 2), (0, 0, 0, 0))
        palette = clear.convert("RGBA").quantize(4)
        palette.save(tmp_path / "palette.png", transparency=0)
        red.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
        clear.save(tmp_path / "clear.png")
        red.convert("L").save(tmp_path / "grey.png")
        red.convert("1").save(tmp_path / "bits.png")
        Image.new("LA", (4, 2), (0, 0)).save(tmp_path / "grey-clear.png")
        Image.fromarray(np.full((2, 4), 257 * 90, dtype=np.uint16)).save(tmp_path / "deep.png")
        red.save(tmp_path / "red.webp", lossless=True)
        expected = {
            "palette.png": (255, 255, 255), "clear.png": (255, 255, 255), "grey-clear.png": (255, 255, 255),
            "deep.png": (90, 90, 90), "red.webp": (200, 10, 10),
        }  # fmt: skip
        for name, colour in expected.items():
            assert (name, corner(tmp_path / name)) == (name, colour)
        for name in ("cmyk.jpg", "grey.png", "bits.png"):
            assert open_image(tmp_path / name).mode == "RGB"
        assert np.allclose(corner(tmp_path / "cmyk.jpg"), (200, 10, 10), atol=6)

    def test_turned_images_are_upright(self, tmp_path):
        image = Image.new("RGB", (6, 3), "white")
        image.putpixel((0, 0), (0, 0, 0))
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
        image.save(tmp_path / "turned.png", exif=exif)
        upright = open_image(tmp_path / "turned.png")
        assert upright.size == (3, 6)
        assert upright.getpixel((2, 0)) == (0, 0, 0)

    def test_of_an_animation_the_first_picture(self, tmp_path):
        frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
        frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
        assert corner(tmp_path / "moving.gif") == (255, 0, 0)

    def test_refusals_name_the_file_and_a_mend(self, tmp_path, monkeypatch):
        whole = tmp_path / "whole.jpg"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole)
        (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:1500])
        draw_shape("circle", "red").save(tmp_path / "whole.png")
        (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-30])
        (tmp_path / "empty.png").touch()
        Image.new("RGB", (4, 4)).save(tmp_path / "drawn.eps")
        (tmp_path / "drawn.eps").rename(tmp_path / "program.png")  # Pillow would run Ghostscript
        (tmp_path / "text.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
        (tmp_path / "folder.png").mkdir()
        Image.new("F", (2, 2)).save(tmp_path / "numbers.tiff")
        names = [
            "cut.jpg",
            "cut.png",
            "empty.png",
            "text.png",
            "program.png",
            "folder.png",
            "numbers.tiff",
            "missing.png",
        ]
        for name in names:
            with pytest.raises(ImageError, match=name) as told:
                open_image(tmp_path / name)
            assert "." in str(told.value).partition(name)[2][1:], name
        checked = checked_images(tmp_path / name for name in [*names[:-2], "missing.png", "whole.jpg"])
        assert [isinstance(one, ImageError) for one in checked] == [True] * 7 + [False]
        monkeypatch.setattr("retort.students.images.MAX_PIXELS", 1000)
        with pytest.raises(ImageError, match=r"whole.jpg: 64 x 64 pixels; at most 1,000"):
            open_image(whole)

    def test_a_bomb_is_not_read(self, tmp_path):
        Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")  # 50 KB
        with pytest.raises(ImageError, match=r"bomb.png: .*pixels"):
            open_image(tmp_path / "bomb.png")

    def test_an_item_is_its_bytes(self, tmp_path):
        first, second, other = (tmp_path / f"{name}.png" for name in ("first", "second", "other"))
        draw_shape("circle", "red").save(first)
        shutil.copyfile(first, second)
        draw_shape("circle", "blue").save(other)
        items = [item_id(ImageFile(path)) for path in (first, second, other)]
        assert items[0] == items[1] != items[2]
        assert all(len(item) == len(item_id("a text")) for item in items)
        assert item_id(str(first)) != items[0]
        copied = pickle.loads(pickle.dumps(ImageFile(first)))  # noqa: S301 - as processes hand items on
        assert isinstance(copied, ImageFile)
        assert copied.item == items[0]

    def test_what_is_no_file_is_refused_at_once(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.png")
        for read in (open_image, ImageFile):
            with pytest.raises(ImageError, match=r"pipe.png: it is no file"):
                read(tmp_path / "pipe.png")
            with pytest.raises(ImageError, match=r"null"):
                read("a\0.png")


class TestData:
    def test_reads_images_and_texts_in_one_corpus(self, pictures):
        with (pictures / "corpus.jsonl").open("a") as file:
            file.write(json.dumps({"_id": "text", "title": "A ship", "text": "in the harbour."}) + "\n")
        data = read_beir(pictures)
        assert isinstance(data.corpus.items[0], ImageFile)
        assert data.corpus.items[-1] == "A ship in the harbour."
        assert not data.of_texts
        assert len(data.queries) == len(data.queries.texts) == 16

    def test_text_alone_is_refused_in_one_line(self, pictures):
        with pytest.raises(DataError, match=r"red-circle.png is an image, and .* reads text alone"):
            _ = read_beir(pictures).corpus.texts

    def test_a_damaged_image_is_named_with_its_line_or_skipped(self, pictures, caplog):
        (pictures / "images" / "red-cross.png").write_bytes(b"")
        with pytest.raises(DataError, match=r"corpus.jsonl, line 3: .*red-cross.png: the file is empty"):
            read_beir(pictures)
        data = read_beir(pictures, empty="skip")
        assert len(data.corpus) == 19
        assert "q-red-cross" not in data.queries.rows
        assert "red-cross.png" in caplog.text

    def test_a_record_with_text_is_a_text(self, pictures):
        write_jsonl(pictures / "corpus.jsonl", [{"_id": "a", "text": "a ship", "image": "https://127.0.0.1:9/a.png"}])
        assert read_corpus(pictures).items == ["a ship"]

    def test_the_hash_goes_by_content_wherever_it_lies(self, pictures, tmp_path):
        other = shutil.copytree(pictures, tmp_path / "moved")
        assert read_beir(other).hash == read_beir(pictures).hash
        draw_shape("bar", "pink").save(other / "images" / "red-bar.png")
        assert read_beir(other).hash != read_beir(pictures).hash

    def test_queries_may_be_images(self, image_tree, pictures, tmp_path):
        lines = [json.loads(line) for line in (pictures / "queries.jsonl").read_text().splitlines()]
        lines = [{"_id": line["_id"], "image": f"images/{line['_id'][2:]}.png"} for line in lines]
        write_jsonl(pictures / "queries.jsonl", lines)
        write_jsonl(
            pictures / "corpus.jsonl", [{"_id": line["_id"][2:], "text": f"the {line['_id'][2:]}"} for line in lines]
        )
        assert not read_beir(pictures).of_texts
        tree = copy.deepcopy(image_tree)
        tree["stages"] = tree["stages"][:1]
        tree["teachers"] = {}
        run_recipe(Recipe.from_dict(tree), pictures, tmp_path / "run")
        assert json.loads((tmp_path / "run" / "metrics.json").read_text())["dev"]["student"]["queries"] == 4

    def test_a_path_must_be_a_text(self, pictures):
        write_jsonl(pictures / "corpus.jsonl", [{"_id": "a", "image": 3}])
        with pytest.raises(DataError, match=r'line 1: "image" must be the path'):
            read_beir(pictures)


class TestStudents:
    def test_sentence_transformers_loads_it_alone(self, image_student, pictures):
        paths = sorted((pictures / "images").iterdir())[:3]
        ours = Student.load(image_student, device="cpu", backend="torch")
        theirs = SentenceTransformer(image_student, device="cpu")
        assert ours.manifest.kind == "image_text"
        images, texts = [ImageFile(path) for path in paths], ["the red ship", "a rose"]
        assert np.allclose(ours.encode_document(images), theirs.encode([Image.open(p) for p in paths]), atol=1e-6)
        assert np.allclose(ours.encode_query(texts), theirs.encode_query(texts), atol=1e-6)

    def test_a_text_that_names_an_image_stays_a_text(self, image_student, pictures):
        path = str(pictures / "images" / "red-circle.png")
        student = Student.load(image_student, device="cpu", backend="torch")
        text, image = student.encode_query([path])[0], student.encode_document([ImageFile(path)])[0]
        assert not np.allclose(text, image, atol=1e-3)
        address = "https://127.0.0.1:9/a.png"  # would be fetched
        assert np.isfinite(student.encode_query([address, "a ship"])).all()

    def test_mixed_items_keep_their_order(self, image_student, pictures):
        images = [ImageFile(path) for path in sorted((pictures / "images").iterdir())[:3]]
        student = Student.load(image_student, device="cpu", backend="torch")
        mixed = student.encode_document([images[0], "a rose", images[1], images[2], "the ship"])
        assert np.allclose(mixed[[0, 2, 3]], student.encode_document(images), atol=1e-6)
        assert np.allclose(mixed[[1, 4]], student.encode_query(["a rose", "the ship"]), atol=1e-6)

    def test_space_is_the_image_side(self, image_student):
        model = SentenceTransformer(image_student, device="cpu")
        before = build_manifest(model)

        def changed(change) -> Manifest:
            other = copy.deepcopy(model)
            change(other)
            return build_manifest(other)

        def image_side(other):
            return other[0].sub_modules["image"][0]

        def double_text(other):
            with torch.no_grad():
                other[0].sub_modules["text"][0].model.embeddings.word_embeddings.weight.mul_(2)

        text = changed(double_text)
        assert text.space == before.space
        assert text.fingerprint != before.fingerprint
        assert changed(lambda m: image_side(m).model.layernorm.weight.data.mul_(2)).space != before.space
        assert changed(lambda m: setattr(image_processor(image_side(m)), "image_mean", [0.4] * 3)).space != before.space
        assert changed(lambda _: None) == before

    def test_text_models_refuse_images(self, tiny_student, tiny_ranker, pictures):
        image = ImageFile(pictures / "images" / "red-circle.png")
        with pytest.raises(ImageError, match=r"red-circle.png is an image, and the model reads text alone"):
            Student.load(tiny_student, device="cpu").encode_document([image])
        with pytest.raises(ImageError, match=r"red-circle.png is an image, and the ranker reads text alone"):
            Ranker.load(tiny_ranker, device="cpu").score([("a ship", "the rose"), ("a ship", image)])

    def test_one_model_for_both(self, tokenizer_path, pictures, tmp_path):
        """CLIP's kind: texts stay texts, documents may be texts, and what was saved as a student of texts loads."""
        folder = tiny_clip(tokenizer_path, tmp_path / "clip")
        image = pictures / "images" / "red-circle.png"
        student = Student.load(folder, device="cpu")
        theirs = SentenceTransformer(str(folder), device="cpu")
        assert student.manifest.kind == "image_text"
        assert np.allclose(student.encode_document([ImageFile(image)]), theirs.encode([Image.open(image)]), atol=1e-6)
        assert np.allclose(student.encode_query(["a ship"]), theirs.encode(["a ship"]), atol=1e-6)
        assert not np.allclose(student.encode_query([str(image)]), student.encode_document([ImageFile(image)]))
        embedder = StudentDocumentEmbedder(model=str(folder))
        assert embedder.run(documents=[Document(content="a ship")])["documents"][0].embedding
        build_manifest(theirs, kind="dense").write(folder)
        assert Student.load(folder, device="cpu").space != student.space
        plan = recipe(
            student=spec("pretrained", model=str(folder)),
            teachers={},
            candidates={"random": spec("RandomMiner", depth=4)},
            stages=[stage("match", 1, spec("Contrastive"), candidates=pool("random", negatives=1))],
        )
        assert plan_run(Recipe.from_dict(plan), read_beir(pictures), tmp_path).memory > 0

    @pytest.mark.parametrize(
        ("image", "told"),
        [
            ({}, "either a model, or a config"),
            ({"config": {"hidden_size": 4}}, "name its model_type"),
            ({"config": TINY_VISION, "size": 3}, "image.size: unknown"),
            ({"config": {"model_type": "bert"}}, "bert reads no images"),
        ],
    )
    def test_wrong_images_are_refused(self, tiny_student, image, told):
        with pytest.raises(ValueError, match=told):
            image_text(spec("pretrained", model=tiny_student), image)


class TestExports:
    def test_gives_the_models_vectors_without_it(self, tiny_student, pictures, tmp_path):
        folder = tmp_path / "student"
        save_student(image_text(spec("static", teacher=tiny_student), {"config": TINY_VISION}, seed=3), folder)
        export_student(folder)
        images = [ImageFile(path) for path in sorted((pictures / "images").iterdir())]
        wanted = Student.load(folder, backend="torch", precision="float32").encode_document(images)
        exact, small = (Student.load(folder, backend="onnx", precision=p) for p in ("float32", "int8"))
        assert exact.space == small.space
        assert np.allclose(exact.encode_document(images), wanted, atol=1e-5)
        assert (np.sum(small.encode_document(images) * wanted, axis=1) > 0.98).all()
        assert np.array_equal(small.encode_document(images)[:1], small.encode_document(images[:1]))
        with pytest.raises(ImageError, match="is an image, and this side of the student reads text alone"):
            exact.encode_query(images)
        with pytest.raises(ImageError, match="'a ship' is a text"):
            exact.encode_document(["a ship"])

    def test_prepares_images_as_clip_does(self):
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        size = {"size": {"shortest_edge": 21}, "crop_size": {"height": 16, "width": 15}}
        own = ImagePreparation.of(CLIPImageProcessorPil(**size), 4)
        for shape in ((21, 40, 3), (9, 9, 3), (300, 21, 3)):
            image = Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8))
            wanted = np.asarray(CLIPImageProcessorPil(**size)(image, return_tensors="np")["pixel_values"])[0]
            assert np.allclose(own.pixels(image), wanted, atol=1e-5)
        with pytest.raises(ValueError, match="of several sizes"):
            ImagePreparation.of(CLIPImageProcessorPil(size={"shortest_edge": 20}, do_center_crop=False), 4)
        with pytest.raises(ValueError, match="in another way"):
            ImagePreparation.of(CLIPImageProcessorPil(**size, do_rescale=False, do_normalize=True), 4).check(
                CLIPImageProcessorPil(**size)
            )

    def test_a_fusion_model_is_not_exported(self, fusion_folder):
        with pytest.raises(Exception, match="is not exported"):
            export_student(fusion_folder)


@pytest.fixture
def fusion_folder(image_student, tmp_path) -> Path:
    """Folder of a fusion model over the towers of the tiny student, whose layers count."""
    model = fusion_ranker(towers=image_student, config=FUSION | {"intermediate_size": 32})
    torch.manual_seed(0)
    torch.nn.init.normal_(model[0].head.weight)
    save_student(model, tmp_path / "fusion")
    return tmp_path / "fusion"


class TestFusion:
    def test_scores_pairs_in_either_order_and_any_company(self, fusion_folder, pictures):
        ranker = Ranker.load(fusion_folder, device="cpu")
        first, second = (ImageFile(pictures / "images" / f"{name}.png") for name in ("red-circle", "blue-bar"))
        pairs = [("a ship", first), ("the rose near the sea", first), ("a ship", second)]
        scores = ranker.score(pairs)
        assert len(set(scores.round(4))) == 3
        assert np.allclose(ranker.score([(image, text) for text, image in pairs]), scores, atol=1e-5)
        assert np.allclose([ranker.score([pair])[0] for pair in pairs], scores, atol=1e-5)
        with pytest.raises(ValueError, match="it got 2 images"):
            ranker.score([(first, second)])

    def test_begins_where_the_towers_stand(self, image_student, pictures):
        student = Student.load(image_student, device="cpu", backend="torch")
        model = fusion_ranker(towers=image_student, config=FUSION)
        image = ImageFile(pictures / "images" / "red-circle.png")
        cosine = float(student.encode_query(["a ship"])[0] @ student.encode_document([image])[0])
        assert Ranker(model, build_manifest(model), "new").score([("a ship", image)]) == pytest.approx(20 * cosine)
        model.train()
        assert not model[0].towers.training
        assert not any(p.requires_grad for p in model[0].towers.parameters())

    def test_its_fingerprint_is_of_all_that_scores(self, fusion_folder):
        model = Ranker.load(fusion_folder, device="cpu").model
        before = build_manifest(model).fingerprint
        towers = model[0].towers
        processor = image_processor(towers[0].sub_modules["image"][0])
        for owner, name, value in ((towers, "prompts", {"query": "find: "}), (processor, "image_std", [0.4] * 3)):
            kept = getattr(owner, name)
            setattr(owner, name, value)
            assert build_manifest(model).fingerprint != before, name
            setattr(owner, name, kept)
        assert build_manifest(model).fingerprint == before

    def test_its_length_is_the_towers(self, fusion_folder, pictures):
        image = ImageFile(pictures / "images" / "red-circle.png")
        pairs = [("the red ship in the harbour near the sea with the captain", image)]
        whole, cut = Ranker.load(fusion_folder, device="cpu"), Ranker.load(fusion_folder, device="cpu", max_tokens=4)
        assert whole.fingerprint != cut.fingerprint
        assert abs(whole.score(pairs)[0] - cut.score(pairs)[0]) > 1e-4

    def test_code_that_its_configuration_names_is_refused(self, fusion_folder):
        path = fusion_folder / "0_TowerFusion" / "fusion_config.json"
        config = json.loads(path.read_text())
        config["trunk"]["attn_implementation"] = "somebody/kernel"
        path.write_text(json.dumps(config))
        with pytest.raises(RemoteCodeError, match="somebody/kernel"):
            Ranker.load(fusion_folder, device="cpu")

    def test_takes_a_published_vilt(self, tokenizer_path, pictures, tmp_path):
        from transformers import AutoTokenizer, ViltConfig, ViltForImageAndTextRetrieval
        from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

        words = AutoTokenizer.from_pretrained(tokenizer_path)
        sizes = {k: v for k, v in TINY_VISION.items() if k != "model_type"}
        torch.manual_seed(1)
        config = ViltConfig(vocab_size=len(words), **sizes | {"num_hidden_layers": 3})
        theirs = ViltForImageAndTextRetrieval(config).eval()
        processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
        for part in (words, processor, theirs):
            part.save_pretrained(tmp_path / "vilt")
        model = fusion_ranker(str(tmp_path / "vilt"))
        save_student(model, tmp_path / "ranker")
        ranker = Ranker.load(tmp_path / "ranker", device="cpu")
        paths = [pictures / "images" / f"{name}.png" for name in ("red-circle", "blue-bar")]
        scores = ranker.score([("a ship", ImageFile(path)) for path in paths])
        seen = {**words(["a ship"] * 2, return_tensors="pt")}
        pixels = processor([Image.open(path) for path in paths], return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            expected = theirs(**seen, pixel_values=pixels).logits[:, 0]
        assert scores == pytest.approx(expected.tolist(), abs=1e-5)
        assert fusion_ranker(str(tmp_path / "vilt"), layers=[0, 2])[0].config.num_hidden_layers == 2

    @pytest.mark.parametrize(
        ("parameters", "told"),
        [
            ({}, "name either model or towers"),
            ({"model": "m", "config": {}}, "config: it is of towers"),
            ({"towers": "t", "layers": [0]}, "layers: it is of model"),
            ({"towers": "t"}, "name its model_type"),
        ],
    )
    def test_wrong_parameters_are_refused(self, parameters, told):
        with pytest.raises(ValueError, match=told):
            fusion_ranker(**parameters)


@pytest.fixture
def image_tree(tiny_student, fusion_folder) -> dict:
    """A recipe for images with a fusion model as cached teacher, a pool that it chooses from, and DCD."""
    return recipe(
        student=spec(
            "image_text",
            text=spec("pretrained", model=tiny_student) | {"frozen": True},
            image={"config": TINY_VISION | {"hidden_dropout_prob": 0.1}},
        ),
        teachers={"fusion": spec("CrossEncoderTeacher", model=str(fusion_folder), device="cpu")},
        candidates={"random": spec("RandomMiner", depth=10)},
        stages=[
            stage("match", 4, spec("Contrastive"), candidates=pool("random", negatives=1), lr=3e-3),
            stage(
                "distil",
                6,
                spec("retort.trainers.methods.dcd.DynamicContrastive", teacher="fusion", label_loss="softmax"),
                candidates=pool("random", negatives=3, pool={"size": 8, "teacher": "fusion"}),
            ),
        ],
        batch_size=4,
        evaluate_every=5,
    )


class TestHaystackTeachers:
    def test_any_image_embedder_gives_its_own_vectors(self, image_student, pictures):
        kinds = ("text", "document_image")
        specs = {}
        for kind in kinds:
            name = "".join(part.title() for part in kind.split("_"))
            path = f"haystack_integrations.components.embedders.sentence_transformers.sentence_transformers_{kind}_embedder"
            path = path.replace("document_image", "doc_image")
            parameters = {"model": image_student, "device": {"type": "single", "device": "cpu"}, "progress_bar": False}
            parameters |= {"file_path_meta_field": "picture"} if kind == "document_image" else {}
            specs[kind] = spec(f"{path}.SentenceTransformers{name}Embedder", **parameters)
        teacher = EmbedderTeacher(text_embedder=specs["text"], document_embedder=specs["document_image"])
        images = [ImageFile(path) for path in sorted((pictures / "images").iterdir())[:3]]
        student = Student.load(image_student, device="cpu", backend="torch")
        assert np.allclose(teacher.encode(images, "document"), student.encode_document(images), atol=1e-5)
        assert np.allclose(teacher.encode(["a ship"], "query"), student.encode_query(["a ship"]), atol=1e-5)
        with pytest.raises(TeacherError, match="is an image; components of Haystack's take texts"):
            teacher.encode(images[:1], "query")
        of_texts = {
            "type": specs["text"]["type"].replace("text_embedder", "document_embedder").replace("Text", "Document")
        }
        of_texts |= {"init_parameters": specs["text"]["init_parameters"]}
        with pytest.raises(TeacherError, match="it has no file_path_meta_field"):
            EmbedderTeacher(text_embedder=specs["text"], document_embedder=of_texts).encode(images, "document")


class TestRuns:
    def test_trains_measures_and_resumes_bit_for_bit(self, image_tree, pictures, tmp_path, monkeypatch):
        one, two = tmp_path / "one" / "run", tmp_path / "two" / "run"
        run_recipe(Recipe.from_dict(image_tree), pictures, one)
        metrics = json.loads((one / "metrics.json").read_text())
        assert metrics["dev"]["candidates"] == {}
        assert metrics["dev"]["student"]["documents"] == 20
        assert {"dcd_teacher", "dcd_labels"} <= log_of(one)[-1]["terms"].keys()
        run_killed(Recipe.from_dict(image_tree), pictures, two, monkeypatch, after=7)
        expected, ended = everything(one), everything(two)
        assert expected.keys() == ended.keys()
        assert [name for name in expected if not torch.equal(expected[name], ended[name])] == []

    def test_a_plan_counts_patches(self, image_tree, pictures, tmp_path):
        data = read_beir(pictures)
        plan = plan_run(Recipe.from_dict(image_tree), data, tmp_path)
        assert plan.calls["fusion"]
        larger = copy.deepcopy(image_tree)
        larger["student"]["init_parameters"]["image"] = {"config": TINY_VISION | {"image_size": 64}}
        assert plan_run(Recipe.from_dict(larger), data, tmp_path).memory > plan.memory

    def test_a_fusion_model_learns_from_labels(self, image_student, pictures, tmp_path):
        tree = recipe(
            student=spec("fusion_ranker", towers=image_student, config=FUSION | {"intermediate_size": 32}),
            teachers={},
            candidates={"random": spec("RandomMiner", depth=10)},
            stages=[
                stage("match", 60, spec("Contrastive", scope="list"), candidates=pool("random", negatives=5), lr=2e-2)
            ],
            batch_size=8,
            dev_depth=8,
        )
        run_recipe(Recipe.from_dict(tree), pictures, tmp_path / "run")
        losses = [line["terms"]["contrastive"] for line in log_of(tmp_path / "run")]
        assert losses[-1] < 0.9 * losses[0]
        before, after = (
            SentenceTransformer(path, device="cpu").state_dict()
            for path in (image_student, str(tmp_path / "run" / "student" / "0_TowerFusion" / "towers"))
        )
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_a_fusion_model_teaches_in_the_loop(self, image_tree, image_student, pictures, tmp_path):
        tree = copy.deepcopy(image_tree)
        live = spec("fusion_ranker", towers=image_student, config=FUSION | {"intermediate_size": 32})
        tree["teachers"] = {"live": spec("LiveTeacher", student=live)}
        kl = spec("ListwiseKL", teacher="live")
        tree["stages"] = [stage("distil", 3, kl, candidates=pool("random", negatives=3), lr=3e-3)]
        run_recipe(Recipe.from_dict(tree), pictures, tmp_path / "run")
        assert log_of(tmp_path / "run")[-1]["terms"]["loss"] > 0

    def test_what_reads_text_alone_is_refused_before_the_first_step(self, image_tree, pictures, tmp_path):
        tree = copy.deepcopy(image_tree)
        tree["candidates"] = {"random": spec("BM25Miner", depth=3)}
        with pytest.raises(
            RecipeError, match=r"^candidates.random: .*circle.png is an image, and something of this run"
        ):
            run_recipe(Recipe.from_dict(tree), pictures, tmp_path / "run")

    def test_text_transforms_refuse_images(self, pictures):
        data = read_beir(pictures)
        request = TextRequest(
            data=data, query=0, rows=np.array([0, 1]), positive=np.array([True, False]), step=0, steps=1, epoch=0,
            rng=np.random.default_rng(0),
        )  # fmt: skip
        with pytest.raises(DataError, match="reads text alone"):
            _ = request.documents

    def test_evaluates_over_images(self, image_student, pictures):
        student = Student.load(image_student, device="cpu", backend="torch")
        found = evaluate_model(student, read_beir(pictures, "dev"))
        assert found.metrics["documents"] == 20


def test_without_pillow(monkeypatch):
    """That texts need none is seen where a process embeds them and where one trains: test_cli.py, test_loop.py."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"^Images need Pillow: pip install 'retort-haystack\[images\]'$"):
        open_image("a.png")
