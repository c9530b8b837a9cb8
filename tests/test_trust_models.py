# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Model folders that bring code along: it runs only where the user said so."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from haystack.core.serialization import component_to_dict
from huggingface_hub import constants
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Router

from haystack_integrations.components.embedders.retort import StudentTextEmbedder
from haystack_integrations.components.rankers.retort import StudentRanker
from haystack_integrations.components.retrievers.retort import StudentRetriever
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.cli.main import main
from retort.pipelines.load import pipeline_yaml
from retort.students import DamagedFileError, ExportError, ManifestError, Ranker, RemoteCodeError, Student, save_student
from retort.students import create as make
from retort.students.backends.sessions import open_session
from retort.students.files import resolve_model
from retort.students.loading import load_model
from retort.students.modules.counted import CountedEmbedding
from retort.students.sparse import SparseStudent
from retort.trainers.teachers.bi_encoder import BiEncoderTeacher
from retort.trainers.teachers.cross_encoder import CrossEncoderTeacher
from retort.trainers.teachers.sparse_encoder import SparseEncoderTeacher

OURS = "retort.students.modules.counted.CountedEmbedding"
NORMALIZE = "sentence_transformers.base.modules.normalize.Normalize"
EVIL = """\
from pathlib import Path
Path({place!r}).touch()
from transformers import BertConfig, BertForSequenceClassification
class Evil(BertConfig): pass
class EvilModel(BertForSequenceClassification): pass
"""


@pytest.fixture
def ran(tmp_path) -> Path:
    """What is there once a folder's code ran."""
    return tmp_path / "ran"


def spoiled(folder: str, place: Path, ran: Path) -> Path:
    """Copy a model folder, with code of its own beside it."""
    shutil.copytree(folder, place)
    (place / "evil.py").write_text(EVIL.format(place=str(ran)))
    return place


def change(file: Path, **values) -> None:
    tree = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(tree | values))


def name_own(folder: Path, *more: str) -> None:
    """Let a folder's modules.json name a class of ours, and others."""
    kinds = [OURS, *more]
    (folder / "modules.json").write_text(
        json.dumps([{"idx": i, "name": str(i), "path": "", "type": kind} for i, kind in enumerate(kinds)])
    )


@pytest.fixture
def evil(tiny_ranker, tmp_path, ran) -> str:
    """A ranker whose modules.json names ours, and whose config.json names its own code."""
    folder = spoiled(tiny_ranker, tmp_path / "evil", ran)
    name_own(folder)
    change(folder / "config.json", auto_map={"AutoConfig": "evil.Evil"}, model_type="evil")
    (folder / "retort.json").unlink()
    (folder / "config_sentence_transformers.json").unlink()  # a cross-encoder then goes by config.json
    return str(folder)


LOADS = {
    "Ranker": Ranker.load,
    "StudentRanker": lambda m: StudentRanker(model=m).warm_up(),
    "StudentTextEmbedder": lambda m: StudentTextEmbedder(model=m).warm_up(),
    "Student": Student.load,
    "SparseStudent": SparseStudent.load,
    "BiEncoderTeacher": lambda m: BiEncoderTeacher(model=m).student,
    "CrossEncoderTeacher": lambda m: CrossEncoderTeacher(model=m).key,
    "SparseEncoderTeacher": lambda m: SparseEncoderTeacher(model=m).student,
    "pretrained": make.pretrained,
    "from_layers": lambda m: make.from_layers(m, [0]),
    "ranker": make.ranker,
    "sparse": make.sparse,
    "late_interaction": make.late_interaction,
    "static": make.static,
    "from_config": lambda m: make.from_config({"model_type": "bert"}, m),
    "static_with_lexical": lambda m: make.static_with_lexical(m, corpus=["a"]),
}


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
def test_code_of_a_folder_is_refused_wherever_it_is_opened(evil, ran, load):
    with pytest.raises(RemoteCodeError, match=r"evil/config.json: 'auto_map' names evil.Evil.*trust_remote_code=True"):
        load(evil)
    assert not ran.exists()


def test_evaluate_refuses_a_ranker_with_code(evil, ran, beir, capsys):
    arguments = ["evaluate", "bm25", "--rerank", evil, "--data", str(beir), "--split", "dev"]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "config.json: 'auto_map' names evil.Evil" in capsys.readouterr().err
    assert not ran.exists()


class TestPlaces:
    """All files that can name code; each beside modules that are trusted."""

    @pytest.fixture
    def counting(self, tiny_student, tmp_path) -> str:
        save_student(make.static(tiny_student), tmp_path / "table")
        table = make.static_with_lexical(str(tmp_path / "table"), corpus=["the ship", "bread"], dim=8, saturation=0.25)
        save_student(table, tmp_path / "counting", recipe="words")
        return str(tmp_path / "counting")

    @pytest.mark.parametrize("own", ["evil.Evil", "retort.students.create.pretrained", "os.system"])
    def test_a_class_beside_ours(self, counting, tmp_path, ran, own):
        folder = spoiled(counting, tmp_path / "spoiled", ran)
        name_own(folder, NORMALIZE, own)
        with pytest.raises(RemoteCodeError, match=rf"modules.json: 'type' names {own}"):
            Student.load(str(folder))
        assert not ran.exists()

    @pytest.mark.parametrize(
        ("file", "values"),
        [
            ("tokenizer_config.json", {"auto_map": ["evil.Evil", None]}),
            ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}),
            ("processor_config.json", {"image_processor": {"auto_map": {"AutoImageProcessor": "evil.Evil"}}}),
            ("1_Normalize/config.json", {"auto_map": {"AutoModel": "other/repo--evil.Evil"}}),
            ("1_Normalize/router_config.json", {"types": {"a": "evil.Evil"}, "structure": {"q": ["a"]}}),
        ],
    )
    def test_a_file_beside_ours(self, counting, tmp_path, ran, file, values):
        folder = spoiled(counting, tmp_path / "spoiled", ran)
        (folder / file).parent.mkdir(exist_ok=True)
        change(folder / file, **values)
        with pytest.raises(RemoteCodeError, match=rf"{file}: .* names .*evil.Evil"):
            make.pretrained(str(folder))
        assert not ran.exists()

    def test_an_auto_map_of_nothing_is_let_through(self, tiny_student, tmp_path):
        shutil.copytree(tiny_student, tmp_path / "s")
        change(tmp_path / "s" / "tokenizer_config.json", auto_map={})
        assert Student.load(str(tmp_path / "s")).fingerprint == Student.load(tiny_student).fingerprint

    def test_a_file_that_is_no_json_is_named(self, counting):
        Path(counting, "modules.json").write_text("[{")
        with pytest.raises(FileNotFoundError, match=r"counting'?: modules.json is not valid JSON"):
            load_model(SentenceTransformer, counting, device="cpu")


def test_what_the_user_trusts_runs(tiny_ranker, tmp_path, ran, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = spoiled(tiny_ranker, tmp_path / "trusted", ran)
    change(folder / "config.json", auto_map={"AutoModelForSequenceClassification": "evil.EvilModel"})
    with pytest.raises(RemoteCodeError):
        Ranker.load(str(folder))
    assert not ran.exists()
    (folder / "retort.json").unlink()  # it is of the ranker without that code
    trusted = Ranker.load(str(folder), trust_remote_code=True)
    assert ran.exists()
    pairs = [("ship", "a sail"), ("bread", "the oven")]
    assert (trusted.score(pairs) == Ranker.load(tiny_ranker).score(pairs)).all()


class TestModulesOfOurs:
    """They are put together without sentence-transformers' flag, as it would have put them together."""

    @pytest.fixture
    def words(self, tiny_student):
        tokenizer = SentenceTransformer(tiny_student, device="cpu").tokenizer.backend_tokenizer
        rows = torch.randn(tokenizer.get_vocab_size(), 12, generator=torch.Generator().manual_seed(0))
        return CountedEmbedding(tokenizer, rows, words=4, saturation=0.5)

    def test_all_that_the_configuration_says_is_kept(self, words, tmp_path):
        prompts = {"query": "what ", "document": "the ", "other": "of "}
        model = SentenceTransformer(
            modules=[words, Normalize()],
            device="cpu",
            prompts=prompts,
            default_prompt_name="other",
            similarity_fn_name="euclidean",
            truncate_dim=6,
        )
        folder = str(tmp_path / "s")
        model.save(folder)
        theirs = SentenceTransformer(folder, device="cpu", trust_remote_code=True)
        ours = load_model(SentenceTransformer, folder, device="cpu")
        for name in ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim"):
            assert getattr(ours, name) == getattr(theirs, name) == getattr(model, name)
        assert (ours.encode(["the ship"]) == theirs.encode(["the ship"])).all()
        assert ours.trust_remote_code is False
        started = make.pretrained(folder, prompts={"query": "how "}, similarity_fn_name="dot")
        assert started.prompts == prompts | {"query": "how "}
        assert started.similarity_fn_name == "dot"

    def test_they_may_stand_in_a_router(self, words, tmp_path):
        router = Router.for_query_document(query_modules=[words], document_modules=[words])
        save_student(SentenceTransformer(modules=[router, Normalize()], device="cpu"), tmp_path / "s")
        student = Student.load(str(tmp_path / "s"))
        theirs = SentenceTransformer(str(tmp_path / "s"), device="cpu", trust_remote_code=True)
        assert (student.model.encode_query(["the ship"]) == theirs.encode_query(["the ship"])).all()
        assert "trust_remote_code=True" in (tmp_path / "s" / "README.md").read_text()


class TestTheOption:
    """Whoever names a model can trust it."""

    @pytest.fixture
    def trusted(self, tiny_student, tmp_path) -> str:
        """A student that asks to be trusted, and has no manifest to read its space from."""
        shutil.copytree(tiny_student, tmp_path / "asking")
        change(tmp_path / "asking" / "tokenizer_config.json", auto_map={"AutoModelForCausalLM": "evil.Evil"})
        (tmp_path / "asking" / "retort.json").unlink()
        return str(tmp_path / "asking")

    def test_of_a_retriever(self, trusted, tmp_path):
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
        with pytest.raises(RemoteCodeError):
            StudentRetriever(document_store=store, student=trusted).warm_up()
        retriever = StudentRetriever(document_store=store, student=trusted, trust_remote_code=True)
        retriever.warm_up()
        assert component_to_dict(retriever, "retriever")["init_parameters"]["trust_remote_code"] is True

    @pytest.mark.parametrize("name", ["extractive_qa", "hybrid_qa", "indexing_hybrid", "retrieve_and_rank", "search"])
    def test_of_pipelines(self, name):
        """Each part that names a model has it, and no other."""
        plain, trusting = (yaml.safe_load(pipeline_yaml(name, trust_remote_code=t)) for t in (False, True))

        def parts(node):
            if isinstance(node, dict):
                if "init_parameters" in node:
                    yield node["init_parameters"]
                for value in node.values():
                    yield from parts(value)

        assert not any("trust_remote_code" in part for part in parts(plain))
        for part in parts(trusting):
            assert part.get("trust_remote_code", False) is ("model" in part or "student" in part)

    def test_of_commands(self, trusted, beir, tmp_path, capsys):
        flag, index = "--trust-remote-code", str(tmp_path / "index")
        shared = ["--data", str(beir), "--split", "dev"]
        commands = [
            ["evaluate", trusted, *shared],
            ["compare", "bm25", trusted, *shared],
            ["index", trusted, "--documents", str(beir), "--store", index],
            ["ask", "what is the ship?", "--store", index],
        ]
        for command in commands:
            with pytest.raises(SystemExit):
                main(command)
            assert "(--trust-remote-code)" in capsys.readouterr().err
            main([*command, flag])
            capsys.readouterr()


class TestOtherCode:
    """What a folder lets others run: calls of torch, kernels of the Hub, packages that only are installed."""

    @pytest.mark.parametrize(
        ("file", "values"),
        [
            ("config.json", {"sbert_ce_default_activation_function": "torch.utils.collect_env.main"}),
            ("config.json", {"sentence_transformers": {"activation_fn": "torch.distributed.run.main"}}),
            ("config_sentence_transformers.json", {"activation_fn": "torch.nn.init.warnings.warn"}),
            ("config.json", {"attn_implementation": "evil/kernel"}),
            ("config.json", {"_attn_implementation": {"text_config": "evil/kernel@main:forward"}}),
            ("sentence_bert_config.json", {"model_args": {"attn_implementation": "evil/kernel"}}),
        ],
    )
    def test_refused(self, tiny_ranker, tmp_path, file, values):
        shutil.copytree(tiny_ranker, tmp_path / "r")
        change(tmp_path / "r" / file, **values)
        with pytest.raises(RemoteCodeError, match=rf"{file}: '.*(activation|attn).*' names (torch|evil)"):
            Ranker.load(str(tmp_path / "r"))

    @pytest.mark.parametrize("name", ["use_kernels", "kernel_config", "allow_all_kernels", "weights_only"])
    def test_arguments_that_a_folder_gives(self, tiny_student, tmp_path, name):
        shutil.copytree(tiny_student, tmp_path / "s")
        value, harmless = (False, True) if name == "weights_only" else (True, None)
        change(tmp_path / "s" / "sentence_bert_config.json", model_args={name: value})
        with pytest.raises(RemoteCodeError, match=f"sentence_bert_config.json: '{name}' names (kernels of|pickled)"):
            Student.load(str(tmp_path / "s"))
        change(tmp_path / "s" / "sentence_bert_config.json", model_args={name: harmless})
        assert Student.load(str(tmp_path / "s")).fingerprint == Student.load(tiny_student).fingerprint

    @pytest.mark.parametrize(
        ("file", "values"),
        [
            ("config.json", {"sentence_transformers": {"activation_fn": "torch.utils.collect_env.main"}}),
            ("sentence_bert_config.json", {"model_args": {"allow_all_kernels": True}}),
            ("2_Dense/config.json", {"activation_function": "torch.hub.load"}),
        ],
    )
    def test_of_models_of_the_hub(self, tiny_ranker, tmp_path, monkeypatch, file, values):
        """Whoever made an index names its model, and may name one of the Hub."""
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        model = tmp_path / "models--some--ranker"
        shutil.copytree(tiny_ranker, model / "snapshots" / ("1" * 40))
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text("1" * 40)
        change(model / "snapshots" / ("1" * 40) / "config.json", auto_map={"AutoModel": "other/repo--mine.Model"})
        plain = Ranker.load("some/ranker", local_files_only=True)
        assert plain.score([("a", "b")]).shape == (1,)
        (model / "snapshots" / ("1" * 40) / file).parent.mkdir(exist_ok=True)
        change(model / "snapshots" / ("1" * 40) / file, **values)
        with pytest.raises(RemoteCodeError, match=rf"snapshots/1+/{file}: .* names"):
            Ranker.load("some/ranker", local_files_only=True)

    @pytest.mark.parametrize("name", ["base.model.pickle", "util.misc.importlib", "util.file_io.http_get", "x os.Path"])
    def test_what_stands_beside_the_modules_of_sentence_transformers(self, tiny_student, tmp_path, name):
        shutil.copytree(tiny_student, tmp_path / "s")
        name_own(tmp_path / "s", f"sentence_transformers.{name}")
        with pytest.raises(RemoteCodeError, match=f"'type' names sentence_transformers.{name}, code that is part of"):
            Student.load(str(tmp_path / "s"))

    def test_a_folder_behind_a_link(self, tiny_student, tmp_path):
        shutil.copytree(tiny_student, tmp_path / "s")
        (tmp_path / "elsewhere").mkdir()
        change(tmp_path / "elsewhere" / "config.json", activation_function="torch.hub.load")
        (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "s")
        (tmp_path / "s" / "3_Dense").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(RemoteCodeError, match="3_Dense/config.json: 'activation_function' names torch.hub.load"):
            Student.load(str(tmp_path / "s"))

    def test_the_model_that_an_adapter_is_for(self, tiny_student, tmp_path):
        shutil.copytree(tiny_student, tmp_path / "base")
        change(tmp_path / "base" / "config.json", attn_implementation="evil/kernel")
        (tmp_path / "adapter").mkdir()
        change(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "base"))
        with pytest.raises(RemoteCodeError, match="base/config.json: 'attn_implementation' names evil/kernel"):
            Student.load(str(tmp_path / "adapter"))

    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            ("x_config.json", b"[" * 100_000, "x_config.json is not valid JSON"),
            ("x_config.json", b'"\xe9"', "x_config.json is not valid JSON"),
            ("model.safetensors", b"", "SafetensorError: .*header too small"),
            ("model.safetensors", b"x" * 100, "SafetensorError: .*header too large"),
            ("1_Pooling/config.json", b'{"pooling_mode": 3}', "Error: "),
            ("retort.json", b"\xff", "retort.json: not a valid manifest"),
            ("retort.json", b"[" * 100_000, "retort.json: not a valid manifest"),
            ("retort.json", b"[]", "retort.json: not a valid manifest"),
            ("retort.json", b'{"format": 1, "kind": []}', r"retort.json: not a valid manifest .*kind: \[\]"),
        ],
        ids=range(9),
    )
    def test_damaged_files(self, tiny_student, tmp_path, file, content, message):
        """One line that names folder or file."""
        shutil.copytree(tiny_student, tmp_path / "s")
        (tmp_path / "s" / file).write_bytes(content)
        with pytest.raises((FileNotFoundError, DamagedFileError, ManifestError), match=f"{tmp_path / 's'}.*{message}"):
            Student.load(str(tmp_path / "s"))

    def test_another_model_than_the_manifests_is_refused_however_it_is_loaded(
        self, tiny_student, other_student, tmp_path
    ):
        shutil.copytree(tiny_student, tmp_path / "s")
        eager = {"attn_implementation": "eager"}
        assert Student.load(str(tmp_path / "s"), model_kwargs=eager).dim == 16
        shutil.copy(Path(other_student, "model.safetensors"), tmp_path / "s")
        with pytest.raises(ManifestError, match="the model does not match its retort.json"):
            Student.load(str(tmp_path / "s"), model_kwargs=eager)

    @pytest.mark.parametrize("device", ["cuda:99", "gpu", "cpu:x", "meta"])
    def test_a_device_that_is_not_there(self, tiny_student, device):
        with pytest.raises(ValueError, match=f"device='{device}': torch cannot use it here .*or set cpu"):
            Student.load(tiny_student, device=device)

    @pytest.mark.parametrize("place", ["../secret.bin", "/secret.bin", "link.bin"])
    def test_weights_of_a_graph_outside_its_folder(self, tmp_path, place):
        """onnxruntime refuses them; the message is ours."""
        onnx = pytest.importorskip("onnx")
        (tmp_path / "secret.bin").write_bytes(b"\0" * 16)
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "link.bin").symlink_to(tmp_path / "secret.bin")
        weights = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
        for key, value in (("location", place), ("offset", "0"), ("length", "16")):
            weights.external_data.add(key=key, value=value)
        x, y = (onnx.helper.make_tensor_value_info(name, 1, [4]) for name in "xy")
        graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weights])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
        (tmp_path / "m" / "model.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(ExportError, match="m/model.onnx: cannot be opened as an ONNX graph: .*xternal data"):
            open_session(tmp_path / "m" / "model.onnx")

    def test_a_folder_that_is_called_as_a_file(self, tiny_student, tmp_path):
        shutil.copytree(tiny_student, tmp_path / "s")
        (tmp_path / "s" / "my_config.json").mkdir()
        assert Student.load(str(tmp_path / "s")).dim == 16

    @pytest.mark.parametrize("name", ["torch.nn.Identity", "torch.nn.modules.activation.Sigmoid", "mine.Activation"])
    def test_let_through(self, tiny_ranker, tmp_path, name):
        """The last is no code that would run: sentence-transformers passes it by."""
        shutil.copytree(tiny_ranker, tmp_path / "r")
        change(tmp_path / "r" / "config_sentence_transformers.json", activation_fn=name)
        change(tmp_path / "r" / "config.json", attn_implementation="eager")
        (tmp_path / "r" / "retort.json").unlink()
        assert Ranker.load(str(tmp_path / "r")).score([("a", "b")]).shape == (1,)

    @pytest.mark.parametrize("modules", [{}, [1], [{"type": NORMALIZE}], [{"type": 1, "path": ""}]])
    def test_modules_that_are_no_list(self, tiny_student, tmp_path, modules):
        shutil.copytree(tiny_student, tmp_path / "s")
        (tmp_path / "s" / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(FileNotFoundError, match=r"s': modules.json is no list of modules"):
            Student.load(str(tmp_path / "s"))

    def test_a_path_out_of_the_folder(self, tmp_path):
        (tmp_path / "s").mkdir()
        name_own(tmp_path / "s")
        modules = json.loads((tmp_path / "s" / "modules.json").read_text())
        for path in ("../other", "/other", "a/../../other"):
            (tmp_path / "s" / "modules.json").write_text(json.dumps([modules[0] | {"path": path}]))
            with pytest.raises(FileNotFoundError, match=f"the path '{path}' leads out of the folder"):
                load_model(SentenceTransformer, str(tmp_path / "s"), device="cpu")

    def test_a_package_that_is_named_is_not_imported(self, tmp_path, ran, monkeypatch):
        package = tmp_path / "packages" / "evil_package" / "inner"
        package.mkdir(parents=True)
        (package.parent / "__init__.py").write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\n")
        monkeypatch.syspath_prepend(tmp_path / "packages")
        assert resolve_model("package:evil_package/inner") == str(package)
        for name in ("evil_package.inner", ".evil_package", "__main__", "", "."):
            with pytest.raises(FileNotFoundError, match=f"package:{name}/x: '{name}' is no package's name"):
                resolve_model(f"package:{name}/x")
        assert not ran.exists()
