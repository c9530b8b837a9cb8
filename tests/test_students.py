# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
import errno
import gc
import json
import os
import shutil
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from tiny import MINILM, assert_comes_back, everything, pool, spec, tiny_config
from transformers import AutoModel, AutoTokenizer

from retort.students import (
    ExportError,
    ManifestError,
    PrecisionError,
    Ranker,
    Student,
    StudentHandle,
    create,
    save_student,
)
from retort.students.create import from_config, from_layers, pretrained, two_towers
from retort.students.encoding import encode_numpy, encode_texts, plan_chunks, token_counts
from retort.students.files import replace_file, resolve_model
from retort.students.hashing import fingerprint_of, space_of
from retort.students.sparse import SparseStudent
from retort.students.towers import compares_cosines
from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe
from retort.trainers.teachers.bi_encoder import BiEncoderTeacher
from retort.trainers.teachers.cross_encoder import CrossEncoderTeacher

TEXTS = [
    "the ship in the storm.",
    "bread",
    "what is the sum of a circle and the angle near the graph?",
    "rose and bee",
    "a",
]


@pytest.mark.parametrize("encode", ["encode_query", "encode_document"])
def test_a_single_text_is_refused(tiny_student, encode):
    """Its letters would be texts."""
    with pytest.raises(TypeError, match=r"texts='a ship': give a list of texts, such as \[text\]"):
        getattr(Student.load(tiny_student), encode)("a ship")


class TestHashes:
    def test_a_plain_save_and_load_keeps_them(self, tiny_student, tmp_path):
        student = Student.load(tiny_student)
        SentenceTransformer(tiny_student).save(str(tmp_path / "plain"))
        again = Student.load(str(tmp_path / "plain"))
        assert (again.space, again.fingerprint) == (student.space, student.fingerprint)

    def test_encoding_does_not_change_them(self, tiny_student):
        student = Student.load(tiny_student)
        student.encode_query(TEXTS)
        student.encode_document(TEXTS[:2])
        assert (space_of(student.model), fingerprint_of(student.model)) == (student.space, student.fingerprint)

    def test_precision_keeps_them(self, tiny_student):
        assert Student.load(tiny_student, precision="auto").space == Student.load(tiny_student).space

    def test_a_folder_stored_in_less_is_served_and_trained_in_float32(self, tiny_model, tmp_path):
        save_student(tiny_model(1).bfloat16(), tmp_path / "half")
        student = Student.load(str(tmp_path / "half"))
        assert student.model.dtype == torch.float32
        assert pretrained(str(tmp_path / "half")).dtype == torch.float32

    def test_weights_that_a_folder_lacks_are_alike_each_time(self, trunk, tmp_path):
        """Such as the pooler of an encoder that was saved without: caches go by the fingerprint."""
        AutoModel.from_pretrained(trunk, add_pooling_layer=False).save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(trunk).save_pretrained(tmp_path)
        torch.manual_seed(5)
        first = Student.load(str(tmp_path))
        state = torch.get_rng_state()
        second = Student.load(str(tmp_path))
        assert (first.fingerprint, first.space) == (second.fingerprint, second.space)
        assert torch.equal(torch.get_rng_state(), state)

    def test_weights_change_both(self, tiny_model):
        assert space_of(tiny_model(1)) != space_of(tiny_model(2))
        assert fingerprint_of(tiny_model(1)) != fingerprint_of(tiny_model(2))
        assert fingerprint_of(tiny_model(1)) == fingerprint_of(tiny_model(1))

    @pytest.mark.parametrize(
        ("options", "same_space"),
        [
            ({"prompts": {"query": "what "}}, True),
            ({"prompts": {"document": "the "}}, False),
            ({"max_tokens": {"query": 9}}, True),
            ({"max_tokens": {"document": 9}}, False),
            ({"pooling": "cls"}, False),
        ],
    )
    def test_space_is_the_document_side(self, tiny_model, options, same_space):
        plain, changed = tiny_model(1), tiny_model(1, **options)
        assert (space_of(plain) == space_of(changed)) is same_space
        assert fingerprint_of(plain) != fingerprint_of(changed)

    def test_a_tower_keeps_its_space(self, tiny_student, tokenizer_path):
        """A small query encoder trained against frozen documents searches their index."""
        router = two_towers(
            {
                "type": "retort.students.create.from_config",
                "init_parameters": {"config": tiny_config(1), "tokenizer": tokenizer_path, "seed": 7},
            },
            {"type": "retort.students.create.pretrained", "init_parameters": {"model": tiny_student}},
        )
        assert space_of(router) == Student.load(tiny_student).space


class TestFolder:
    def test_same_vectors_through_sentence_transformers(self, tiny_student):
        plain, student = SentenceTransformer(tiny_student), Student.load(tiny_student)
        assert np.allclose(plain.encode_query(TEXTS), student.encode_query(TEXTS), atol=1e-6)
        assert np.allclose(plain.encode_document(TEXTS), student.encode_document(TEXTS), atol=1e-6)

    def test_manifest(self, tiny_student):
        manifest = json.loads((Path(tiny_student) / "retort.json").read_text())
        assert manifest["format"] == 1
        assert (manifest["kind"], manifest["dim"], manifest["similarity"]) == ("dense", 16, "cosine")
        assert manifest["max_tokens"] == {"query": 64, "document": 64}
        expected = {
            "format", "kind", "dim", "similarity", "prompts", "max_tokens", "space", "fingerprint", "exports", "recipe",
            "teachers", "data", "metrics", "parents", "versions",
        }  # fmt: skip
        assert set(manifest) == expected

    def test_unknown_fields_are_ignored(self, tiny_model, tmp_path):
        save_student(tiny_model(), tmp_path / "s")
        path = tmp_path / "s" / "retort.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"later": 1}))
        assert Student.load(str(tmp_path / "s")).dim == 16

    def test_changed_weights_are_refused(self, tiny_model, tmp_path):
        save_student(tiny_model(1), tmp_path / "s")
        manifest = (tmp_path / "s" / "retort.json").read_text()
        tiny_model(2).save(str(tmp_path / "s"))
        (tmp_path / "s" / "retort.json").write_text(manifest)
        with pytest.raises(ManifestError, match="does not match its retort.json"):
            Student.load(str(tmp_path / "s"))

    @pytest.mark.parametrize(
        ("content", "message"), [("{", "not a valid manifest"), ('{"format": 2}', "format 2"), ("{}", "not a valid")]
    )
    def test_bad_manifest(self, tiny_model, tmp_path, content, message):
        save_student(tiny_model(), tmp_path / "s")
        (tmp_path / "s" / "retort.json").write_text(content)
        with pytest.raises(ManifestError, match=message):
            Student.load(str(tmp_path / "s"))

    def test_any_model_may_be_dropped_in_with_one_warning(self, tiny_model, tmp_path, caplog):
        tiny_model().save(str(tmp_path / "plain"))
        for _ in range(2):
            handle = StudentHandle(Student, str(tmp_path / "plain"))
            assert handle.student.dim == 16
            handle.release()
        assert [r.message for r in caplog.records if "has no retort.json" in r.message] == [
            f"{tmp_path / 'plain'} has no retort.json: its space and fingerprint were computed."
        ]

    def test_missing_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="No model at"):
            Student.load(str(tmp_path / "nowhere"))

    def test_missing_package(self):
        with pytest.raises(FileNotFoundError, match="pip install no-such-package"):
            resolve_model("package:no_such_package/model")

    def test_a_full_disk_leaves_the_old_student(self, tiny_model, tmp_path, monkeypatch):
        old = save_student(tiny_model(1), tmp_path / "s")

        def full(*args, **kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        model = tiny_model(2)
        monkeypatch.setattr(model[0], "save", full)
        with pytest.raises(OSError, match="No space left"):
            save_student(model, tmp_path / "s")
        assert Student.load(str(tmp_path / "s")).fingerprint == old.fingerprint
        assert [p.name for p in tmp_path.iterdir()] == ["s"]

    def test_a_link_to_a_student_stays_a_link(self, tiny_model, tmp_path):
        save_student(tiny_model(1), tmp_path / "real")
        (tmp_path / "link").symlink_to("real")
        new = save_student(tiny_model(2), tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert Student.load(str(tmp_path / "real")).fingerprint == new.fingerprint
        assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]

    def test_an_interrupted_file_is_not_half_written(self, tmp_path):
        (tmp_path / "f").write_text("old")
        with pytest.raises(KeyboardInterrupt), replace_file(tmp_path / "f") as aside:
            aside.write_text("ne")
            raise KeyboardInterrupt
        assert (tmp_path / "f").read_text() == "old"
        assert [p.name for p in tmp_path.iterdir()] == ["f"]


EAGER = {"model_kwargs": {"attn_implementation": "eager"}}


class TestKwargs:
    @pytest.mark.parametrize(
        "make",
        [
            lambda at: create.pretrained(at["dense"], **EAGER),
            lambda at: create.from_layers(at["dense"], [0], **EAGER),
            lambda at: create.from_config(tiny_config(1), at["dense"], **EAGER),
            lambda at: create.ranker(at["ranker"], **EAGER),
            lambda at: create.sparse(at["sparse"], **EAGER),
            lambda at: create.late_interaction(at["dense"], **EAGER),
            lambda at: Student.load(at["dense"], **EAGER).model,
            lambda at: SparseStudent.load(at["sparse"], **EAGER).model,
            lambda at: Ranker.load(at["ranker"], **EAGER).model,
        ],
    )
    def test_they_reach_transformers(self, make, tiny_student, tiny_ranker, sparse_student):
        model = make({"dense": tiny_student, "ranker": tiny_ranker, "sparse": sparse_student})
        assert model[0].model.config._attn_implementation == "eager"
        assert create.pretrained(tiny_student)[0].model.config._attn_implementation == "sdpa"

    def test_the_tokenizer_and_the_configuration_have_theirs(self, tiny_student):
        student = Student.load(
            tiny_student, tokenizer_kwargs={"model_max_length": 7}, config_kwargs={"hidden_act": "relu"}
        )
        assert student.model[0].model.config.hidden_act == "relu"
        assert student.model.tokenizer.model_max_length == 7

    def test_a_table_loads_nothing_of_transformers(self, tiny_student, tmp_path):
        save_student(create.static(tiny_student, **EAGER), tmp_path / "table")
        with pytest.raises(ValueError, match="model_kwargs: no model of transformers is loaded here"):
            create.static_with_lexical(str(tmp_path / "table"), corpus=["bread"], dim=8, **EAGER)

    def test_a_dtype_is_kept(self, tiny_student):
        half = {"model_kwargs": {"dtype": torch.bfloat16}}
        assert pretrained(tiny_student, **half).dtype == torch.bfloat16
        assert Student.load(tiny_student, **half).model.dtype == torch.bfloat16
        with pytest.raises(PrecisionError, match="precision='float32': model_kwargs names a dtype, too"):
            Student.load(tiny_student, precision="float32", **half)

    def test_hashes_know_what_they_change_and_no_more(self, tiny_student):
        plain, same = Student.load(tiny_student), Student.load(tiny_student, **EAGER)
        other = Student.load(tiny_student, model_kwargs={"dtype": "bfloat16"})
        assert (same.space, same.fingerprint) == (plain.space, plain.fingerprint)
        assert {other.space, other.fingerprint}.isdisjoint({plain.space, plain.fingerprint})

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"model_kwargs": {"use_safetensors": False}}, "model_kwargs.use_safetensors: .* safetensors only"),
            ({"config_kwargs": {"trust_remote_code": True}}, "config_kwargs.trust_remote_code: leave it out"),
            ({"model_kwargs": {"allow_all_kernels": True}}, "model_kwargs.allow_all_kernels: leave it out"),
        ],
    )
    def test_they_open_no_back_door(self, tiny_student, kwargs, message):
        for load in (pretrained, Student.load):
            with pytest.raises(ValueError, match=message):
                load(tiny_student, **kwargs)

    def test_exports_refuse_them(self, tiny_student):
        with pytest.raises(ExportError, match="model_kwargs: an ONNX export runs as it was written"):
            Student.load(tiny_student, backend="onnx", **EAGER)

    def test_handles_of_the_same_ones_share_a_student(self, tiny_student):
        first, same, plain = (StudentHandle(Student, tiny_student, **kwargs) for kwargs in (EAGER, EAGER, {}))
        assert first.student is same.student
        assert first.student is not plain.student

    def test_keys_of_teachers_know_them(self, tiny_student, tiny_ranker):
        for kind, model in ((BiEncoderTeacher, tiny_student), (CrossEncoderTeacher, tiny_ranker)):
            assert kind(model=model, model_kwargs={}).key == kind(model=model).key != kind(model=model, **EAGER).key
            half = kind(model=model, precision=None, model_kwargs={"dtype": "bfloat16"})
            assert half.key not in {kind(model=model).key, kind(model=model, **EAGER).key}


class TestHandle:
    def test_one_model_for_all_and_none_after_the_last(self, tiny_student):
        first, second, third = (StudentHandle(Student, tiny_student) for _ in range(3))
        student = weakref.ref(first.student)
        assert second.student is student()
        first.release()
        first.release()
        assert third.student is student()
        second.release()
        third.release()
        gc.collect()
        assert student() is None
        assert first.student.dim == 16

    @pytest.mark.parametrize("name", [".#config.json", "gone.json"])
    def test_links_that_lead_nowhere_are_passed_over(self, tiny_student, tmp_path, name):
        """An editor's lock is one."""
        folder = tmp_path / "student"
        shutil.copytree(tiny_student, folder)
        (folder / name).symlink_to("nowhere")
        assert StudentHandle(Student, str(folder)).student.dim == 16

    def test_a_file_that_is_saved_over_is_a_change_and_a_hidden_one_is_none(self, tiny_student, tmp_path):
        folder = tmp_path / "student"
        shutil.copytree(tiny_student, folder)
        first, same, other = (StudentHandle(Student, str(folder)) for _ in range(3))
        student = first.student
        for name, handle in ((".DS_Store", same), ("config.json", other)):
            with (folder / name).open("a") as file:
                file.write(" ")
            os.utime(folder / name, (2**32, 2**32))
            assert (handle.student is student) == (handle is same)

    def test_a_handle_that_is_dropped_keeps_no_model(self, tiny_student):
        """As of components that nobody closed."""
        handle = StudentHandle(Student, tiny_student, max_query_tokens=7)  # nobody else's
        student = weakref.ref(handle.student)
        del handle
        gc.collect()
        assert student() is None

    def test_others_go_on_while_one_is_loaded(self, tiny_student, other_student, monkeypatch):
        begun, go_on = threading.Event(), threading.Event()
        ready, cold = (StudentHandle(Student, tiny_student, max_query_tokens=n) for n in (8, 9))
        slow, same = (StudentHandle(Student, other_student, max_query_tokens=8) for _ in range(2))
        student, real = ready.student, Student.load

        def load(model, **options):
            if model == other_student:
                begun.set()
                assert go_on.wait(30)
            return real(model, **options)

        monkeypatch.setattr(Student, "load", load)
        with ThreadPoolExecutor(4) as pool:
            loading = [pool.submit(lambda handle: handle.student, handle) for handle in (slow, same)]
            try:
                assert begun.wait(30)
                assert pool.submit(lambda: ready.student).result(30) is student
                assert pool.submit(lambda: cold.student).result(30) is not student
                assert not any(one.done() for one in loading)
            finally:
                go_on.set()
            assert loading[0].result() is loading[1].result()

    def test_cold_and_asked_by_many(self, tiny_student):
        handle = StudentHandle(Student, tiny_student)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: handle.student, range(24)))
        assert len(set(map(id, found))) == 1

    def test_a_retrained_folder_is_loaded_anew(self, tiny_model, tmp_path):
        save_student(tiny_model(1), tmp_path / "s")
        old, new = StudentHandle(Student, str(tmp_path / "s")), StudentHandle(Student, str(tmp_path / "s"))
        before = old.student.fingerprint
        save_student(tiny_model(2), tmp_path / "s")
        assert new.student.fingerprint != before
        assert old.student.fingerprint == before
        old.release()
        new.release()


class TestEncoding:
    def test_chunks_partition_the_texts(self):
        counts = np.array([3, 9, 1, 7, 7, 30])
        chunks = plan_chunks(counts, 16)
        assert sorted(np.concatenate(chunks)) == list(range(6))
        assert all(len(c) == 1 or len(c) * counts[c].max() <= 16 for c in chunks)
        assert chunks[0].tolist() == [5]

    def test_order_and_chunks_do_not_matter(self, tiny_student):
        student = Student.load(tiny_student)
        whole = student.encode_document(TEXTS)
        assert np.allclose(student.encode_document(TEXTS[::-1])[::-1], whole, atol=1e-6)
        assert np.allclose(student.encode_document(TEXTS, tokens_per_chunk=8), whole, atol=1e-6)
        assert np.allclose(np.concatenate([student.encode_document([t]) for t in TEXTS]), whole, atol=1e-6)

    def test_many_texts_are_tokenised_in_blocks(self, tiny_student, monkeypatch):
        student = Student.load(tiny_student)
        whole, counts = student.encode_document(TEXTS), token_counts(student.model, TEXTS, "document")
        monkeypatch.setattr("retort.students.encoding.TOKENISED", 2)
        assert np.array_equal(token_counts(student.model, TEXTS, "document"), counts)
        np.testing.assert_allclose(student.encode_document(TEXTS), whole, atol=1e-6)

    def test_encoding_gives_each_module_its_mode_back(self, tiny_student):
        model = Student.load(tiny_student).model.train()
        model[0].eval()
        encode_numpy(model, TEXTS, "document")
        assert model.training
        assert not any(module.training for module in model[0].modules())

    def test_nothing_gives_nothing(self, tiny_student):
        assert Student.load(tiny_student).encode_query([]).shape == (0, 16)

    def test_counts_are_after_truncation_and_with_the_prompt(self, tiny_model):
        model = tiny_model(max_tokens={"query": 6}, prompts={"query": "what is ", "document": ""})
        assert token_counts(model, TEXTS, "query").tolist() == [6, 5, 6, 6, 5]
        assert token_counts(model, TEXTS, "document").tolist() == [8, 3, 16, 5, 3]

    def test_lengths_and_prompts_reach_the_model(self, tiny_model):
        model = tiny_model(max_tokens={"query": 6}, prompts={"query": "what is ", "document": ""})
        prompted = encode_texts(model, ["the ship near the sea"], "query")
        assert torch.equal(prompted, encode_texts(model, ["what is the ship"], "document"))

    def test_sorted_chunks_have_the_gradients_of_one_batch(self, tiny_model):
        """Unique texts in sorted chunks against all texts at once, in float64."""

        def gradients(budget: int) -> dict[str, torch.Tensor]:
            model = tiny_model(3).double().train()
            unique = list(dict.fromkeys(TEXTS + TEXTS[1:3]))
            rows = [unique.index(t) for t in TEXTS + TEXTS[1:3]]
            vectors = encode_texts(model, unique, "document", budget=budget)[rows]
            (vectors @ vectors.T).pow(2).sum().backward()
            return {name: p.grad for name, p in model.named_parameters()}

        def naive() -> dict[str, torch.Tensor]:
            model = tiny_model(3).double().train()
            features = model.preprocess(TEXTS + TEXTS[1:3])
            vectors = model(features)["sentence_embedding"]
            (vectors @ vectors.T).pow(2).sum().backward()
            return {name: p.grad for name, p in model.named_parameters()}

        expected = naive()
        for budget in (8, 20, 10_000):
            found = gradients(budget)
            assert all(torch.allclose(found[n], g, rtol=0, atol=1e-10) for n, g in expected.items() if g is not None)
        assert sum(float(g.abs().sum()) for g in expected.values() if g is not None) > 1

    def test_a_router_routes_by_side(self, tiny_student, tokenizer_path, tmp_path):
        router = two_towers(
            {
                "type": "retort.students.create.from_config",
                "init_parameters": {"config": tiny_config(1), "tokenizer": tokenizer_path, "seed": 7},
            },
            {"type": "retort.students.create.pretrained", "init_parameters": {"model": tiny_student}},
        )
        save_student(router, tmp_path / "router")
        student, plain = Student.load(str(tmp_path / "router")), SentenceTransformer(str(tmp_path / "router"))
        documents = Student.load(tiny_student).encode_document(TEXTS)
        assert np.allclose(student.encode_document(TEXTS), documents, atol=1e-6)
        assert not np.allclose(student.encode_query(TEXTS), documents, atol=0.1)
        assert np.allclose(student.encode_query(TEXTS), plain.encode_query(TEXTS), atol=1e-6)


class TestLora:
    @pytest.fixture
    def tree(self, recipe_tree, tiny_student) -> dict:
        student = {"model": tiny_student, "r": 2, "target_modules": ["query", "value"]}
        recipe_tree["student"] = spec("retort.students.create.lora", **student)
        recipe_tree["stages"][0]["objectives"] = [spec("Contrastive", scope="in_batch")]
        recipe_tree["stages"] = [recipe_tree["stages"][0] | {"candidates": pool("bm25", negatives=2)}]
        recipe_tree["candidates"] = {"bm25": recipe_tree["candidates"]["bm25"]}
        del recipe_tree["stages"][0]["batches"], recipe_tree["stages"][0]["teacher"]
        return recipe_tree | {"teachers": {}}

    def test_adapters_learn_and_are_saved_merged(self, tree, tiny_student, beir, tmp_path, monkeypatch):
        run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")
        assert_comes_back(tree, beir, tmp_path, monkeypatch, everything(tmp_path / "run"), (3,))
        monkeypatch.setitem(sys.modules, "peft", None)  # nobody needs it any more
        folder = str(tmp_path / "run" / "student")
        before, after = Student.load(tiny_student), Student.load(folder)
        assert np.allclose(SentenceTransformer(folder).encode_query(TEXTS), after.encode_query(TEXTS), atol=1e-6)
        old, new = before.model.state_dict(), after.model.state_dict()
        assert old.keys() == new.keys()
        learned = {name for name in old if not torch.equal(old[name], new[name])}
        assert learned == {n for n in old if n.endswith(("query.weight", "value.weight"))}
        assert after.manifest.parents == [before.fingerprint]

    def test_it_is_saved_as_it_encodes(self, tiny_student, tmp_path):
        model = create.lora(tiny_student, r=2)
        assert fingerprint_of(model) == Student.load(tiny_student).fingerprint
        assert all("lora_" in name for name, p in model.named_parameters() if p.requires_grad)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_()
        manifest = save_student(model, tmp_path / "student")
        student = Student.load(str(tmp_path / "student"))
        assert student.fingerprint == manifest.fingerprint == fingerprint_of(model)
        assert np.allclose(student.encode_document(TEXTS), encode_numpy(model, TEXTS, "document"), atol=1e-5)
        assert any("lora_" in name for name, _ in model.named_parameters())  # it may learn on

    def test_changes_of_weights_in_less_learn_in_float32(self, tree, beir, tmp_path):
        tree["student"]["init_parameters"]["model_kwargs"] = {"dtype": "bfloat16"}
        model = create.lora(**tree["student"]["init_parameters"])
        dtypes = {
            learns: {p.dtype for p in model.parameters() if p.requires_grad is learns} for learns in (True, False)
        }
        assert dtypes == {True: {torch.float32}, False: {torch.bfloat16}}
        run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")
        stored = load_file(tmp_path / "run" / "student" / "model.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}

    def test_a_folder_of_an_adapter_is_loaded_and_saved_merged(self, tiny_student, tmp_path):
        model = create.lora(tiny_student, r=2)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_()
        model.save(str(tmp_path / "adapter"))
        assert not (tmp_path / "adapter" / "model.safetensors").exists()
        save_student(pretrained(str(tmp_path / "adapter")), tmp_path / "merged")
        for folder in ("adapter", "merged"):
            vectors = Student.load(str(tmp_path / folder)).encode_document(TEXTS)
            assert np.allclose(vectors, encode_numpy(model, TEXTS, "document"), atol=1e-5)

    def test_a_tower_of_them_stays_frozen_where_it_is(self, tiny_student):
        tower = {"model": tiny_student, "r": 2}
        towers = two_towers(spec("retort.students.create.lora", **tower), spec("pretrained", model=tiny_student))
        names = [name for name, p in towers[0].sub_modules["query"].named_parameters() if p.requires_grad]
        assert names
        assert all("lora_" in name for name in names)

    def test_no_such_layers(self, tiny_student, monkeypatch):
        with pytest.raises(ValueError, match="Target modules"):
            create.lora(tiny_student, target_modules=["nowhere"])
        monkeypatch.setitem(sys.modules, "peft", None)
        with pytest.raises(ValueError, match=r"retort-haystack\[peft\]"):
            create.lora(tiny_student)


class TestCreate:
    def test_layers_are_the_trunks(self, tiny_model, tmp_path):
        trunk = tiny_model(4, layers=3)
        trunk.save(str(tmp_path / "trunk"))
        cut = from_layers(str(tmp_path / "trunk"), [0, 2])
        kept = cut[0].model.encoder.layer
        assert len(kept) == cut[0].model.config.num_hidden_layers == 2
        for mine, theirs in ((0, 0), (1, 2)):
            a, b = kept[mine].state_dict(), trunk[0].model.encoder.layer[theirs].state_dict()
            assert all(torch.equal(a[k], b[k]) for k in a)
        save_student(cut, tmp_path / "cut")
        assert Student.load(str(tmp_path / "cut")).num_parameters < sum(p.numel() for p in trunk.parameters())

    @pytest.mark.parametrize("layers", [[], [2, 0], [0, 0], [0, 5], [-1]])
    def test_wrong_layers(self, tiny_student, layers):
        with pytest.raises(ValueError, match="from 0 to 1"):
            from_layers(tiny_student, layers)

    def test_unknown_architecture(self, tokenizer_path, tmp_path):
        config = {"model_type": "albert", "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
        from_config(config, tokenizer_path).save(str(tmp_path / "albert"))
        with pytest.raises(ValueError, match=r"'albert' keeps its layers is not known; it is for bert, .*roberta"):
            from_layers(str(tmp_path / "albert"), [0])

    def test_a_wrong_length(self, tiny_student):
        with pytest.raises(ValueError, match=r"max_tokens.document=65: must lie between 3 and the model's 64"):
            pretrained(tiny_student, max_tokens={"document": 65})

    @pytest.mark.parametrize(
        ("options", "cosines"),
        [
            ({}, True),
            ({"similarity_fn_name": "dot"}, True),  # of vectors of length 1 they are the same
            ({"similarity_fn_name": "dot", "normalize": False}, False),
            ({"similarity_fn_name": "euclidean"}, False),
        ],
    )
    def test_products_of_vectors_as_they_are(self, tiny_student, options, cosines):
        started, texts = pretrained(tiny_student, **options), ["alpha beta", "gamma"]
        vectors = torch.from_numpy(started.encode(texts))
        unit = torch.nn.functional.normalize(vectors, dim=-1)
        assert torch.allclose(vectors, unit) == ("normalize" not in options)
        torch.testing.assert_close(unit, torch.from_numpy(pretrained(tiny_student).encode(texts)))
        assert compares_cosines(started) == cosines

    def test_parts_that_do_not_learn(self, tiny_student):
        learn = {
            n for n, p in pretrained(tiny_student, frozen=["0.model.encoder"]).named_parameters() if p.requires_grad
        }
        assert learn
        assert all(name.startswith("0.model.") and ".encoder." not in name for name in learn)

    @pytest.mark.parametrize("frozen", [["encoder"], "encoder"])
    def test_a_part_that_is_not_there(self, tiny_student, frozen):
        with pytest.raises(ValueError, match=r"has no part 'encoder'. Its parts: .*0\.model\.encoder"):
            pretrained(tiny_student, frozen=frozen)

    def test_config_without_a_type(self, tokenizer_path):
        with pytest.raises(ValueError, match="name its model_type"):
            from_config({"hidden_size": 8}, tokenizer_path)

    def test_towers_of_two_dimensions(self, tokenizer_path):
        def tower(hidden: int) -> dict:
            parameters = {"config": tiny_config(1, hidden), "tokenizer": tokenizer_path}
            return {"type": "retort.students.create.from_config", "init_parameters": parameters}

        with pytest.raises(ValueError, match="query tower has 8 dimensions, the document tower 16"):
            two_towers(tower(8), tower(16))
        with pytest.raises(ValueError, match="document.frozen: must be true or false; it is 'no'"):
            two_towers(tower(8), tower(8) | {"frozen": "no"})


@pytest.mark.integration
def test_two_layers_of_minilm_through_sentence_transformers(tmp_path):
    save_student(from_layers(MINILM, [0, 5], max_tokens={"query": 32, "document": 128}), tmp_path / "s")
    texts = ["How do I parse JSON?", "Deserialize s (a str instance) to a Python object. " * 20, "bread"]
    student, plain = Student.load(str(tmp_path / "s")), SentenceTransformer(str(tmp_path / "s"))
    vectors = student.encode_document(texts)
    assert np.allclose(vectors, plain.encode_document(texts), atol=1e-6)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.allclose(student.encode_query(texts), plain.encode_query(texts), atol=1e-6)
    assert student.manifest.max_tokens == {"query": 32, "document": 128}


class TestLayers:
    def test_dropout(self, tiny_model):
        """Without it two passes in training mode are alike; the configuration that is saved keeps what it has."""
        import torch

        from retort.students.encoding import encode_texts
        from retort.students.layers import set_dropout

        model = tiny_model(3, dropout=0.5).train()

        def twice() -> bool:
            return torch.equal(*(encode_texts(model, ["the sea", "a ship"], "document") for _ in range(2)))

        assert not twice()
        set_dropout(model, 0.0)
        assert twice()
        assert model[0].config.hidden_dropout_prob == 0.5
        set_dropout(model, 0.5)
        assert not twice()

    @pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "deberta-v2", "electra"])
    def test_the_head_scores_the_last_layer_as_the_model_does(self, kind):
        """And another layer as a model without the layers above it would."""
        import torch
        from transformers import AutoConfig, AutoModelForSequenceClassification

        from retort.students.layers import captured, head_scores, layers_of

        small = {"num_hidden_layers": 3, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
        if kind == "distilbert":
            small = {"n_layers": 3, "dim": 8, "n_heads": 2, "hidden_dim": 8}
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, vocab_size=30, num_labels=1, max_position_embeddings=16, **small)
        model = AutoModelForSequenceClassification.from_config(config).eval()
        ids = torch.randint(5, 30, (4, 7))
        with torch.no_grad():
            with captured(layers_of(model), [1, 2]) as states:
                whole = model(ids).logits[:, 0]
            torch.testing.assert_close(head_scores(model, states[2]), whole)
            found = head_scores(model, states[1])
            del layers_of(model)[2]
            torch.testing.assert_close(found, model(ids).logits[:, 0])
