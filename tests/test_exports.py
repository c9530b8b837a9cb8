# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Students as ONNX graphs and as tables: what they give, and who is given them."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from common_fixtures import traced_key
from haystack import Document
from sentence_transformers import SentenceTransformer
from tiny import killed, tiny_config, write_jsonl

from haystack_integrations.components.embedders.retort import StudentDocumentEmbedder, StudentTextEmbedder
from haystack_integrations.components.rankers.retort import StudentRanker
from retort.cli import main
from retort.students import ExportError, Manifest, PrecisionError, Ranker, Student, save_student
from retort.students.backends import onnx
from retort.students.backends.exports import choose
from retort.students.backends.onnx import export_fingerprint, export_model
from retort.students.create import sparse, static, two_towers
from retort.students.encoding import VECTORS, encode_parts
from retort.students.sparse import SparseStudent
from retort.students.student import build_manifest
from retort.trainers.evaluation import exports
from retort.trainers.evaluation.exports import export_student

TEXTS = ["the ship in the storm.", "bread", "what is the sum of a circle and the angle near the graph?", "", "  rose "]


@pytest.fixture(scope="module")
def exported(tiny_model, tmp_path_factory) -> Path:
    """A student with prompts and lengths of its own, exported in both precisions, not measured."""
    folder = tmp_path_factory.mktemp("exported") / "student"
    save_student(
        tiny_model(
            1, layers=1, max_tokens={"query": 7, "document": 12}, prompts={"query": "what ", "document": "the "}
        ),
        folder,
    )
    export_student(folder)
    return folder


@pytest.fixture
def as_exported(monkeypatch):
    """What a copy of `exported` holds counts as made anew: tracing is tested apart from choosing."""
    monkeypatch.setattr(exports, "export_model", lambda _, folder, precision, **__: folder / "onnx" / precision)


class TestGraphs:
    @pytest.mark.parametrize("side", ["query", "document"])
    def test_float32_gives_the_models_vectors(self, exported, side):
        """Prompts, lengths, padding and order included."""
        torch_student, graph = (Student.load(str(exported), backend=b, precision="float32") for b in ("torch", "onnx"))
        wanted = torch_student.encode(TEXTS * 3, side)
        np.testing.assert_allclose(graph.encode(TEXTS * 3, side, tokens_per_chunk=24), wanted, atol=1e-5)
        np.testing.assert_allclose(graph.encode(TEXTS[2:3], side), wanted[2:3], atol=1e-5)
        other = torch_student.encode(TEXTS, side, prompt="bread ")
        np.testing.assert_allclose(graph.encode(TEXTS, side, prompt="bread "), other, atol=1e-5)
        assert not np.allclose(other, wanted[: len(TEXTS)], atol=1e-3)
        assert graph.encode([], side).shape == (0, 16)

    def test_int8_is_near_and_smaller(self, exported):
        plain, graph, small = (
            Student.load(str(exported), backend=b, precision=p)
            for b, p in (("torch", "float32"), ("onnx", "float32"), ("onnx", "int8"))
        )
        cosines = (plain.encode_document(TEXTS[:3]) * small.encode_document(TEXTS[:3])).sum(1)
        assert cosines.min() > 0.98
        assert not np.allclose(plain.encode_document(TEXTS[:3]), small.encode_document(TEXTS[:3]), atol=1e-6)
        assert small.megabytes < graph.megabytes
        assert small.space == plain.space

    def test_int8_alone_is_what_it_is_beside_float32(self, exported, tmp_path):
        """It is made of the graph in float32, which is traced once for both."""
        folder = tmp_path / "student"
        shutil.copytree(exported, folder)
        shutil.rmtree(folder / "onnx")
        export_student(folder, precision="int8")
        files = [folder / "onnx" / "int8" / name for name in ("model.onnx", "tokenizer.json")]
        assert sorted(p for p in (folder / "onnx").rglob("*") if p.is_file()) == files
        for file in files:
            assert file.read_bytes() == (exported / file.relative_to(folder)).read_bytes()

    def test_views_need_no_torch_model(self, exported):
        graph, plain = (Student.load(str(exported), backend=b, precision="float32") for b in ("onnx", "torch"))
        assert graph.views(["what is bread"], "flour") == plain.views(["what is bread"], "flour")
        with pytest.raises(ExportError, match="backend='torch'"):
            _ = graph.model

    def test_threads_share_a_graph(self, exported):
        student = Student.load(str(exported), backend="onnx", precision="int8", threads=1)
        wanted = [student.encode_query([text]) for text in TEXTS]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda i: student.encode_query([TEXTS[i % len(TEXTS)]]), range(40)))
        for i, vector in enumerate(found):
            np.testing.assert_array_equal(vector, wanted[i % len(TEXTS)])

    def test_a_ranker(self, tiny_ranker, tmp_path):
        folder = tmp_path / "ranker"
        shutil.copytree(tiny_ranker, folder)
        export_student(folder, precision="float32")
        pairs = [("what is bread", text) for text in TEXTS] + [("ship", "the storm and the wave near the island")]
        plain, graph = (Ranker.load(str(folder), backend=b) for b in ("torch", "onnx"))
        np.testing.assert_allclose(graph.score(pairs), plain.score(pairs), atol=1e-5)
        documents = [Document(content=text) for text in TEXTS[:3]]
        orders = [
            [
                d.content
                for d in StudentRanker(model=str(folder), backend=b).run(query="ship", documents=documents)["documents"]
            ]
            for b in ("torch", "onnx")
        ]
        assert orders[0] == orders[1]

    @pytest.mark.long
    def test_a_ranker_in_int8(self, tiny_ranker, tmp_path):
        """Its head turns its matrix, and shapes that the graph notes from before would not fit."""
        folder = tmp_path / "ranker"
        shutil.copytree(tiny_ranker, folder)
        export_student(folder, precision="int8")
        pairs = [("what is bread", text) for text in TEXTS]
        found = [
            Ranker.load(str(folder), backend=b, precision=p).score(pairs)
            for b, p in (("torch", None), ("onnx", "int8"))
        ]
        np.testing.assert_allclose(*found, atol=0.05)

    def test_a_sparse_student(self, trunk, tmp_path):
        folder = tmp_path / "sparse"
        save_student(sparse(trunk, layers=[0], seed=1, max_tokens={"query": 16, "document": 32}), folder)
        export_student(folder, precision="float32")
        plain, graph = (SparseStudent.load(str(folder), backend=b) for b in ("torch", "onnx"))
        wanted = plain.encode_document(TEXTS)
        np.testing.assert_allclose(graph.encode_document(TEXTS).toarray(), wanted.toarray(), atol=1e-5)
        assert wanted.nnz > 0

    def test_two_towers_are_two_graphs(self, tokenizer_path, tmp_path):
        towers = [
            {
                "type": "retort.students.create.from_config",
                "init_parameters": {"config": tiny_config(layers), "tokenizer": tokenizer_path, "seed": 1},
            }
            for layers in (1, 2)
        ]
        folder = tmp_path / "towers"
        save_student(two_towers(*towers), folder)
        export_student(folder, precision="float32")
        plain, graph = (Student.load(str(folder), backend=b) for b in ("torch", "onnx"))
        for side in ("query", "document"):
            np.testing.assert_allclose(graph.encode(TEXTS, side), plain.encode(TEXTS, side), atol=1e-5)
        assert not np.allclose(graph.encode_query(TEXTS[:1]), graph.encode_document(TEXTS[:1]), atol=1e-3)


def test_which_models_the_tests_trace_once(tiny_model):
    """Those of the same weights and settings: see `_each_graph_traced_once`."""
    inputs = {"input_ids": torch.zeros(2, 3, dtype=torch.int64)}

    def key(change=lambda _: None, output="sentence_embedding", modality="text", inputs=inputs, **options):
        model = tiny_model(1, layers=1, **options)
        change(model)
        return traced_key(list(model), output, inputs, modality)

    assert key() == key() == key(prompts={"query": "what "}) == key(max_tokens={"query": 7, "document": 12})
    others = [
        key(lambda model: next(model.parameters()).data[0, 0].add_(1e-3)),
        key(lambda model: model.append(torch.nn.Identity())),
        key(lambda model: setattr(model[0].model.config, "layer_norm_eps", 1e-3)),
        key(lambda model: model.half()),
        key(pooling="cls"),
        key(output="scores"),
        key(modality="image"),
        key(inputs={"input_ids": inputs["input_ids"][:1]}),
        key(inputs={"pixel_values": inputs["input_ids"]}),
    ]
    assert len({key(), *others}) == 1 + len(others)


@pytest.mark.parametrize("own", ["truncation_side", "processing_kwargs"])
def test_texts_prepared_in_another_way(tiny_model, tmp_path, own):
    """It is part of the space; and a graph, which knows a length and a prompt alone, would give other vectors."""
    kwargs = {"tokenizer_kwargs": {"truncation_side": "left"}} if own == "truncation_side" else {}
    model, plain = tiny_model(1, layers=1, **kwargs), tiny_model(1, layers=1)
    if own == "processing_kwargs":
        model[0].processing_kwargs = {"text": {"max_length": 6}}
    folder = tmp_path / "student"
    assert save_student(model, folder).space != save_student(plain, tmp_path / "plain").space
    with pytest.raises(ExportError, match=f"prepares texts in its own way \\({own}\\)"):
        export_student(folder)
    assert Student.load(folder, device="cpu").form == "float32"


@pytest.mark.parametrize("prompts", [{"query": "in and : "}, {}])
def test_a_pooling_that_leaves_prompts_out_is_not_exported(tiny_model, tmp_path, caplog, prompts):
    """A graph pools all tokens, also those of a prefix that comes with a call."""
    folder = tmp_path / "student"
    model = tiny_model(1, pooling="mean", prompts=prompts)
    model.set_pooling_include_prompt(False)
    save_student(model, folder)
    with pytest.raises(ExportError, match=r"leaves out the prompt's tokens \(include_prompt=False\)"):
        export_student(folder)
    exports.export_to_serve(folder)
    assert "it needs torch where it is served: The model's pooling" in caplog.text
    student = Student.load(str(folder), device="cpu")
    assert student.form == "float32"
    wanted = SentenceTransformer(str(folder), device="cpu").encode_query(TEXTS, prompt="in and : ")
    np.testing.assert_allclose(student.encode_query(TEXTS, prompt="in and : "), wanted, atol=1e-5)


class TestCut:
    @pytest.fixture(params=["dense", "static", pytest.param("two towers", marks=pytest.mark.long)])
    def folder(self, request, tiny_model, tiny_student, tokenizer_path, tmp_path) -> str:
        """A model of sentence-transformers that cuts its vectors of 16 to 6 dimensions."""
        tower = {"type": "retort.students.create.from_config"}
        towers = [
            tower | {"init_parameters": {"config": tiny_config(layers), "tokenizer": tokenizer_path, "seed": 1}}
            for layers in (1, 2)
        ]
        made = {
            "dense": lambda: tiny_model(1, layers=1, prompts={"query": "what "}),
            "static": lambda: static(tiny_student),
            "two towers": lambda: two_towers(*towers),
        }
        model = made[request.param]()
        model.truncate_dim = 6
        model.save(str(tmp_path / "plain"))
        return str(tmp_path / "plain")

    def test_vectors_are_those_of_sentence_transformers(self, folder, tmp_path):
        plain = SentenceTransformer(folder, device="cpu")
        texts = [text for text in TEXTS if text]
        loaded = Student.load(folder, device="cpu")
        save_student(loaded.model, tmp_path / "student")
        export_student(tmp_path / "student", precision="float32")
        graph = Student.load(tmp_path / "student", backend="onnx")
        for side, encode in (("query", plain.encode_query), ("document", plain.encode_document)):
            wanted = encode(texts)
            for student in (loaded, graph):
                assert student.dim == wanted.shape[1] == 6
                np.testing.assert_allclose(student.encode(texts, side), wanted, atol=1e-5)
                np.testing.assert_allclose(student.encode(texts[:1], side), wanted[:1], atol=1e-5)
                assert student.encode([], side).shape == (0, 6)

    def test_it_is_another_space(self, folder):
        whole = SentenceTransformer(folder, device="cpu")
        cut = build_manifest(whole)
        whole.truncate_dim = None
        for name in ("space", "fingerprint"):
            assert getattr(build_manifest(whole), name) != getattr(cut, name)

    def test_training_sees_the_same_vectors(self, folder):
        model = SentenceTransformer(folder, device="cpu")
        found = encode_parts(model, TEXTS[:2], "document")[VECTORS].detach().numpy()
        np.testing.assert_allclose(found, model.encode_document(TEXTS[:2]), atol=1e-5)


class TestChanged:
    @pytest.mark.usefixtures("as_exported")
    def test_weights_that_were_saved_over_are_not_served_from_an_old_graph(self, exported, beir, tmp_path):
        folder = tmp_path / "student"
        shutil.copytree(exported, folder)
        main(["export", str(folder), "--data", str(beir), "--tolerance", "0.5", "--precision", "int8"])
        before = Student.load(str(folder), backend="onnx", precision="float32").encode_query(TEXTS)
        model = SentenceTransformer(str(folder), device="cpu")
        for parameter in model.parameters():
            parameter.data.mul_(1.5)
        model.save(str(folder))
        with pytest.raises(ExportError, match="was made of another model.safetensors than the student now has"):
            Student.load(str(folder), backend="onnx", precision="float32")
        (folder / "model.safetensors").unlink()  # an export needs no weights
        again = Student.load(str(folder), backend="onnx", precision="float32").encode_query(TEXTS)
        np.testing.assert_array_equal(again, before)

    def test_files_that_are_no_part_of_the_model_decide_nothing(self, exported, tmp_path):
        """Those that an export of an earlier version names: it named all."""
        folder = tmp_path / "student"
        shutil.copytree(exported, folder)
        foreign = [".git/index", ".DS_Store", "1_Pooling/.config.json", "notes.txt", "onnx/int8/.DS_Store"]
        foreign += ["onnx/int8/Thumbs.db", "onnx/int8/.git/config.json"]
        for name in foreign:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("{}")
        (folder / ".#config.json").symlink_to("nowhere")
        manifest = Manifest.read(folder)
        own = manifest.exports[0]["made_of"]
        assert onnx.made_of(folder) == own
        assert own.keys() == {
            p.relative_to(folder).as_posix()
            for p in folder.rglob("*.json")
            if "onnx" not in p.parts and not p.name.startswith((".", "retort."))
        } | {"model.safetensors"}
        earlier = own | dict.fromkeys([*foreign, ".gone", "gone.md"], "0" * 64)
        replace(manifest, exports=[e | {"made_of": earlier} for e in manifest.exports]).write(folder)
        for precision in ("float32", "int8"):
            Student.load(str(folder), backend="onnx", precision=precision)

    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "modules.json", "1_Pooling/config.json"])
    def test_each_file_of_the_model_decides(self, exported, tmp_path, name):
        folder = tmp_path / "student"
        shutil.copytree(exported, folder)
        with (folder / name).open("a") as file:
            file.write(" ")
        with pytest.raises(ExportError, match=f"was made of another {name} than the student now has"):
            Student.load(str(folder), backend="onnx", precision="float32")


@pytest.mark.parametrize("threads", [1, 2])
def test_an_int8_vector_hangs_on_no_text_beside_it(exported, threads):
    """Its numbers are rounded by the largest of a run, which in a batch may be another text's."""
    student = Student.load(str(exported), precision="int8", threads=threads)
    texts = ["the ship", "the bee is near the rose in the garden of the captain", "bread", "x " * 40]
    alone = np.concatenate([student.encode_document([text]) for text in texts])
    np.testing.assert_array_equal(student.encode_document(texts), alone)
    np.testing.assert_array_equal(student.encode_document(texts[::-1])[::-1], alone)


class TestAfterTraining:
    """`retort train` exports what it trained; test_cli.py has the command."""

    def test_what_is_exported_is_left_alone(self, exported, monkeypatch):
        monkeypatch.setattr(exports, "export_student", lambda *_, **__: pytest.fail("it exports anew"))
        exports.export_to_serve(exported)

    def test_what_cannot_be_exported_stays_as_it_is(self, tiny_student, tmp_path, monkeypatch, caplog):
        def fail(*_, **__):
            msg = "a layer has no ONNX operator"
            raise ExportError(msg)

        folder = tmp_path / "student"
        shutil.copytree(tiny_student, folder)
        monkeypatch.setattr(exports, "export_model", fail)
        exports.export_to_serve(folder)
        told = "The student is not exported, so it needs torch where it is served: a layer has no ONNX operator"
        assert told in caplog.text
        assert Manifest.read(folder).exports == []
        assert Student.load(str(folder)).encode_query(["the ship"]).shape == (1, Manifest.read(folder).dim)


class TestChoice:
    def test_the_fastest_good_form_is_served(self, exported, beir, tmp_path, capsys):
        folder = tmp_path / "student"
        shutil.copytree(exported, folder)
        main(["export", str(folder), "--data", str(beir), "--tolerance", "0.5", "--threads", "1"])
        entries = Manifest.read(folder).exports
        assert {(e["file"], e["precision"]) for e in entries} >= {
            ("", "float32"),
            ("onnx/float32", "float32"),
            ("onnx/int8", "int8"),
        }
        chosen = next(e for e in entries if e["chosen"])
        assert chosen["ms"] == min(e["ms"] for e in entries if e["good"])
        assert "served by default" in capsys.readouterr().out
        card = (folder / "README.md").read_text()
        assert "served by default" in card
        assert "Measured on 10 queries, over 40 documents." in card
        assert choose(Manifest.read(folder), "auto", None, "cpu")[1] == chosen["precision"]
        assert choose(Manifest.read(folder), "auto", "float32", "cpu") == ("torch", "float32")
        assert choose(Manifest.read(folder), "auto", None, "cuda") == ("torch", "float32")

    def test_a_form_that_another_cpu_has_not_is_not_asked_for(self, exported, monkeypatch, caplog):
        best = {"file": "", "precision": "bfloat16", "chosen": True}
        manifest = replace(Manifest.read(exported), exports=[best])
        monkeypatch.setattr("retort.students.backends.exports.has_bfloat16", lambda _: True)
        assert choose(manifest, "auto", None, "cpu") == ("torch", "bfloat16")
        monkeypatch.setattr("retort.students.backends.exports.has_bfloat16", lambda _: False)
        assert choose(manifest, "auto", None, "cpu") == ("torch", "float32")
        assert "bfloat16, which this CPU would emulate" in caplog.text

    def test_a_lossy_form_is_measured_and_refused(self, exported, tiny_model, beir, tmp_path, capsys, monkeypatch):
        folder = tmp_path / "student"
        shutil.copytree(exported, folder)
        corpus = [json.loads(line) for line in (beir / "corpus.jsonl").read_text().splitlines()]
        found = {
            d["_id"].replace("d", "q", 1): f"{d['title']} {d['text']}" for d in corpus
        }  # by any model but the broken
        write_jsonl(beir / "queries.jsonl", [{"_id": name, "text": text} for name, text in found.items()])
        broken = tiny_model(1, layers=1)
        for parameter in broken.parameters():
            parameter.data.zero_()
        monkeypatch.setattr(exports, "export_model", lambda _, *place, **__: export_model(broken, *place))
        with pytest.raises(SystemExit) as end:
            main(["export", str(folder), "--data", str(beir), "--precision", "int8"])
        assert end.value.code == 2
        assert "loses more than 1.0% of nDCG@10" in capsys.readouterr().err
        entries = {(e["file"], e["precision"]): e for e in Manifest.read(folder).exports}
        assert entries["onnx/int8", "int8"]["ndcg"] < entries["", "float32"]["ndcg"] * 0.99
        assert not entries["onnx/int8", "int8"]["good"]
        assert entries["onnx/int8", "int8"]["lossy"]
        assert not entries["onnx/int8", "int8"]["chosen"]

    @pytest.mark.long
    def test_of_too_few_questions_it_says_so(self, exported, tiny_model, beir, tmp_path, capsys, monkeypatch):
        """The export is of another model: better for some questions, worse for others."""
        folder = tmp_path / "student"
        shutil.copytree(exported, folder)
        monkeypatch.setattr(exports, "export_model", lambda _, *place, **__: export_model(tiny_model(2), *place))
        with pytest.raises(SystemExit):
            main(["export", str(folder), "--data", str(beir), "--precision", "int8"])
        told = "10 questions are too few to tell whether onnx int8 loses more than 1.0% of nDCG@10"
        assert told in capsys.readouterr().err
        entry = next(e for e in Manifest.read(folder).exports if e["precision"] == "int8")
        assert entry["low"] < entry["difference"] < entry["high"]
        assert (entry["good"], entry["lossy"], entry["chosen"]) == (False, False, False)
        assert "too few questions to tell" in (folder / "README.md").read_text()
        main(["export", str(folder), "--data", str(beir)])
        found = capsys.readouterr()
        assert f"note: {told}" in found.err
        assert "too few questions to tell" in found.out

    @pytest.mark.parametrize("questions", [5, 20, 50, 99, 100, 124])
    def test_a_form_that_loses_three_times_the_tolerance_seldom_passes(self, questions):
        """It loses all of a question in 33, which few questions seldom show."""
        rng = np.random.default_rng(questions)
        reference = np.full(questions, 0.6)
        accepted = [
            exports.judged(reference, np.where(rng.random(questions) < 0.03, 0.0, reference), 0.01)["good"]
            for _ in range(60)
        ]
        assert np.mean(accepted) <= 0.1  # .05, and twice its standard error

    @pytest.mark.parametrize(("questions", "tolerance"), [(100, 0.01), (50, 0.02), (2, 0.5)])
    def test_an_unchanged_form_passes_of_enough_questions(self, questions, tolerance):
        reference = np.random.default_rng(0).random(questions)
        assert exports.judged(reference, reference, tolerance)["good"]
        fewer = exports.judged(reference[1:], reference[1:], tolerance)
        assert (fewer["good"], fewer["lossy"]) == (False, False)
        assert exports.judged(reference[1:], reference[1:], tolerance, exact=True)["good"]

    def test_of_a_model_that_finds_nothing_no_loss_can_be_told(self):
        nothing = np.zeros(200)
        judged = exports.judged(nothing, nothing, 0.01)
        assert (judged["good"], judged["lossy"]) == (False, False)
        assert exports.judged(nothing, nothing, 0.01, exact=True)["good"]  # something must be served

    @pytest.mark.usefixtures("as_exported")
    def test_of_few_questions_float32_is_served(self, exported, beir, tmp_path, capsys):
        """int8 changes none of ten questions here, which says little."""
        folder = tmp_path / "student"
        shutil.copytree(exported, folder)
        main(["export", str(folder), "--data", str(beir)])
        entries = Manifest.read(folder).exports
        assert {e["precision"] for e in entries if e["good"]} == {"float32"}
        assert "10 questions are too few to tell whether onnx int8" in capsys.readouterr().err

    def test_components_take_what_was_chosen(self, exported, tmp_path):
        folder = tmp_path / "student"
        shutil.copytree(exported, folder)
        content = json.loads((folder / "retort.json").read_text())
        next(e for e in content["exports"] if e["precision"] == "int8")["chosen"] = True
        (folder / "retort.json").write_text(json.dumps(content))
        small = Student.load(str(folder), precision="int8")
        query = StudentTextEmbedder(model=str(folder)).run(text=TEXTS[0])
        assert query["embedding"] == small.encode_query(TEXTS[:1])[0].tolist()
        plain = StudentTextEmbedder(model=str(folder), precision="float32").run(text=TEXTS[0])
        assert plain["embedding"] != query["embedding"]
        assert plain["space"] == query["space"]
        found = StudentDocumentEmbedder(model=str(folder), progress_bar=False).run([Document(content=TEXTS[0])])
        assert found["documents"][0].embedding == small.encode_document(TEXTS[:1])[0].tolist()

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"backend": "onnx", "precision": "bfloat16"}, PrecisionError, "float32 and int8"),
            ({"backend": "torch", "precision": "int8"}, PrecisionError, "backend='onnx'"),
            ({"backend": "onnx", "max_query_tokens": 5}, ExportError, "other lengths"),
            ({"backend": "tensorflow"}, ValueError, "backend"),
        ],
    )
    def test_what_does_not_go_together(self, exported, options, error, message):
        with pytest.raises(error, match=message):
            Student.load(str(exported), **options)

    def test_an_export_that_is_not_there_or_not_of_this_student(self, exported, tiny_student, tmp_path):
        with pytest.raises(ExportError, match="retort export"):
            Student.load(tiny_student, precision="int8")
        folder = tmp_path / "student"
        shutil.copytree(exported, folder)
        with (folder / "onnx" / "int8" / "model.onnx").open("ab") as graph:
            graph.write(b"x")
        with pytest.raises(ExportError, match="Make it anew"):
            Student.load(str(folder), precision="int8")

    def test_folders_without_a_manifest_are_refused(self, tiny_model, tmp_path):
        tiny_model(1).save(str(tmp_path / "plain"))
        with pytest.raises(ValueError, match="retort.json"):
            export_student(tmp_path / "plain")


@pytest.mark.parametrize("renames", [1, 2, 3])
def test_a_kill_while_exporting_again_leaves_a_student_that_loads(tiny_model, tmp_path, monkeypatch, renames):
    """The renames: the manifest that no longer names the export, the old export's out of the way, the new one's."""
    folder, file = tmp_path / "student", "onnx/float32"
    manifest = save_student(tiny_model(1), folder)
    monkeypatch.setattr(onnx, "_write", lambda modules, output, place, *_: (place / "graph").write_text("x"))
    model = tiny_model(1)
    export_model(model, folder, "float32")
    fingerprint = export_fingerprint(folder / file, manifest.fingerprint)
    entry = {"file": file, "precision": "float32", "fingerprint": fingerprint, "chosen": True}
    replace(manifest, exports=[entry]).write(folder)
    killed(lambda: export_model(model, folder, "float32"), renames)
    if renames == 1:  # nothing was changed
        assert Manifest.read(folder).exports == [entry]
        assert export_fingerprint(folder / file, manifest.fingerprint) == fingerprint
    else:
        assert Manifest.read(folder).exports == []
        assert Student.load(str(folder), device="cpu").form == "float32"
    export_model(model, folder, "float32")
    assert sorted(p.name for p in folder.rglob("*") if "onnx" in p.parts) == ["float32", "graph", "onnx"]
    assert list(folder.glob(".*")) == []
