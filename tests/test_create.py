# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What all ways to start a student have in common: seeds, lengths, options of loading, architectures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer, SparseEncoder
from tiny import TINY_VISION, spec, tiny_config
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer

from retort.students import Ranker, Student, create, loading, save_student
from retort.students.create import encoders, heads, images
from retort.students.encoding import encode_numpy
from retort.students.layers import layers_of
from retort.students.scoring import score_numpy
from retort.students.seeding import seeded
from retort.trainers.build import _depth

FUSION = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def tower(model: str) -> dict:
    return spec("pretrained", model=model)


class TestSeeds:
    def test_the_stream_is_that_of_torch(self):
        torch.manual_seed(7)
        wanted = torch.rand(5), torch.randn(20), torch.randperm(9)
        with seeded(7):
            found = torch.rand(5), torch.randn(20), torch.randperm(9)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, wanted, strict=True))

    def test_what_the_caller_draws_goes_on(self):
        torch.manual_seed(1)
        state = torch.get_rng_state()
        with pytest.raises(KeyError), seeded(7):
            torch.rand(5)
            raise KeyError
        assert torch.equal(torch.get_rng_state(), state)

    def test_nothing_is_seeded_but_the_cpu(
        self, tiny_student, tiny_ranker, image_student, tokenizer_path, trunk, monkeypatch
    ):
        """`torch.manual_seed` would reseed each GPU, and whoever trains there would lose their random numbers."""

        def reseed(*_):
            pytest.fail("a GPU was reseeded")

        for device in (torch.cuda, torch.mps, torch.xpu):
            monkeypatch.setattr(device, "manual_seed", reseed)
        monkeypatch.setattr(torch.cuda, "manual_seed_all", reseed)
        monkeypatch.setattr(torch.xpu, "manual_seed_all", reseed)
        state = torch.get_rng_state()
        Student.load(tiny_student, backend="torch")
        Ranker.load(tiny_ranker)
        create.pretrained(tiny_student, dim=4)
        create.from_config(tiny_config(1), tokenizer_path)
        create.lora(tiny_student)
        create.ranker(trunk)
        create.sparse(trunk)
        create.late_interaction(trunk)
        create.with_heads(tiny_student, heads=2)
        create.ranker_with_heads(trunk, heads=2)
        create.image_text(tower(tiny_student), {"config": TINY_VISION})
        create.fusion_ranker(towers=image_student, config=FUSION)
        assert torch.equal(torch.get_rng_state(), state)


def write_model(folder, tokenizer_path: str, config: dict, kind=AutoModel) -> str:
    """Write a model of random weights, as transformers does."""
    words = AutoTokenizer.from_pretrained(tokenizer_path)
    words.save_pretrained(folder)
    with seeded(5):
        whole = kind.from_config(AutoConfig.for_model(**{"vocab_size": len(words), "pad_token_id": 0} | config))
    whole.save_pretrained(folder)
    return str(folder)


class TestLengths:
    """Of RoBERTa's 34 positions the first two are the padding's; its tokenizer says 64."""

    ROBERTA = tiny_config(1) | {"model_type": "roberta", "max_position_embeddings": 34, "pad_token_id": 1}
    LONG = "the ship " * 40

    @pytest.fixture
    def roberta(self, tokenizer_path, tmp_path) -> str:
        return write_model(tmp_path / "roberta", tokenizer_path, self.ROBERTA, AutoModelForMaskedLM)

    def test_long_texts_are_cut(self, roberta, tokenizer_path, tmp_path):
        made = create.from_config(self.ROBERTA, tokenizer_path)
        assert made.max_seq_length == 32
        assert encode_numpy(made, [self.LONG], "document").shape == (1, 16)
        assert encode_numpy(create.pretrained(roberta), [self.LONG], "document").shape == (1, 16)
        create.sparse(roberta).encode([self.LONG])
        create.late_interaction(roberta).encode_document([self.LONG])
        scores = score_numpy(create.ranker(roberta), [(self.LONG, self.LONG)])
        assert scores.shape == (1,)

    def test_a_ranker_has_no_more_positions_either(self, roberta):
        with pytest.raises(ValueError, match="between 5 and the model's 32 positions"):
            create.ranker(roberta, max_tokens=33)
        assert create.ranker(roberta, max_tokens=32).max_seq_length == 32

    def test_a_length_that_is_shorter_stays(self, roberta, tmp_path):
        file = tmp_path / "roberta" / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 20}))
        assert create.pretrained(roberta).max_seq_length == create.ranker(roberta).max_seq_length == 20

    def test_sides_that_are_none(self, roberta):
        with pytest.raises(ValueError, match="max_tokens.doc: there is no such side; the sides are query and document"):
            create.pretrained(roberta, max_tokens={"doc": 20})

    def test_relative_positions_have_no_limit(self, tokenizer_path, tmp_path):
        config = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
        made = create.from_config(config, tokenizer_path, max_tokens={"document": 50})
        assert encode_numpy(made, [self.LONG], "document").shape == (1, 16)


PLACE = {"revision": "v1", "token": "secret", "local_files_only": True, "cache_folder": "downloads"}
OF_TRANSFORMERS = {"cache_dir" if name == "cache_folder" else name: value for name, value in PLACE.items()}


class TestPlaces:
    """Which revision of which model of the Hub is loaded, and from where: each loader is told."""

    @pytest.fixture
    def told(self, monkeypatch):
        """Spies on loaders: what each was told for a model, which then comes from its folder."""
        calls: dict[str, list[dict]] = {}
        within: list[str] = []  # loaders call others

        def spy(owner, name: str, names: dict) -> None:
            load = getattr(owner, name)

            def noting(*args, **kwargs):
                model = next(str(arg) for arg in args if isinstance(arg, str | Path))
                if not within:
                    calls.setdefault(model, []).append({key: kwargs.get(key) for key in names})
                within.append(name)
                try:
                    return load(*args, **{key: value for key, value in kwargs.items() if key not in names})
                finally:
                    within.pop()

            monkeypatch.setattr(owner, name, noting)

        for module in (encoders, heads, images):
            spy(module, "open_model", PLACE)
        spy(images, "load_model", PLACE)
        for owner in (
            transformers.AutoConfig,
            transformers.AutoTokenizer,
            transformers.AutoProcessor,
            transformers.AutoImageProcessor,
            transformers.AutoModelForMaskedLM,
            transformers.ViltForImageAndTextRetrieval,
        ):
            spy(owner, "from_pretrained", OF_TRANSFORMERS)
        return calls

    @staticmethod
    def whole(calls: list[dict]) -> bool:
        return bool(calls) and all(call in (PLACE, OF_TRANSFORMERS) for call in calls)

    @pytest.fixture(scope="class")
    def table(self, tiny_student, tmp_path_factory) -> str:
        folder = tmp_path_factory.mktemp("table") / "student"
        save_student(create.static(tiny_student), folder)
        return str(folder)

    def test_encoders_and_tables(self, told, tiny_student, table):
        create.static(tiny_student, **PLACE)
        create.static_with_lexical(table, corpus=["the ship"], dim=4, **PLACE)
        create.from_layers(tiny_student, [0], **PLACE)
        assert told == {tiny_student: [PLACE, PLACE], table: [PLACE]}

    def test_layers_over_a_table(self, told, tiny_student, table):
        """The revision is of the model, not of the table."""
        create.layers_on_static(table, tiny_student, [0], **PLACE)
        create.lexical_layers(table, tiny_student, corpus=["the ship"], dim=4, **PLACE)
        assert PLACE in told[tiny_student]
        assert OF_TRANSFORMERS in told[tiny_student]
        assert told[table] == [PLACE | {"revision": None}] * 2

    def test_heads(self, told, trunk):
        create.sparse(trunk, **PLACE)
        assert len(told[trunk]) >= 4  # twice the configuration, tokenizer and weights
        assert self.whole(told.pop(trunk))
        create.ranker(trunk, **PLACE)
        assert told[trunk][:2] == [OF_TRANSFORMERS, PLACE]

    def test_a_tokenizer(self, told, tokenizer_path):
        create.from_config(tiny_config(1), tokenizer_path, **PLACE)
        assert self.whole(told[tokenizer_path])

    def test_images(self, told, image_student, tiny_student, tokenizer_path, tmp_path):
        vision = tmp_path / "vision"
        image = {"config": TINY_VISION}
        create.image_text(tower(tiny_student), image)[0].sub_modules["image"][0].save(str(vision))
        create.image_text(tower(tiny_student), {"model": str(vision), **PLACE})
        assert PLACE in told[str(vision)]
        create.fusion_ranker(towers=image_student, config=FUSION, **PLACE)
        assert PLACE in told[image_student]
        sizes = {name: value for name, value in TINY_VISION.items() if name != "model_type"}
        kind = transformers.ViltForImageAndTextRetrieval
        words = AutoTokenizer.from_pretrained(tokenizer_path)
        vilt = kind(transformers.ViltConfig(vocab_size=len(words), **sizes))
        for part in (words, images._square_images(16), vilt):
            part.save_pretrained(tmp_path / "vilt")
        create.fusion_ranker(str(tmp_path / "vilt"), **PLACE)
        assert len(told[str(tmp_path / "vilt")]) == 3
        assert self.whole(told[str(tmp_path / "vilt")])

    def test_downloads_of_checked_files_lie_in_the_folder_as_well(self, monkeypatch, tiny_student):
        seen = {}

        def fetch(_, allow_patterns, **place):
            seen.update(place)
            return tiny_student

        monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
        assert loading._checked("some/model", PLACE, trust_remote_code=False) == {"revision": "tiny"}
        assert seen == OF_TRANSFORMERS

    @pytest.mark.parametrize("name", PLACE)
    def test_refused_where_nothing_is_loaded(self, name, tiny_student):
        odd = {name: PLACE[name]}
        with pytest.raises(ValueError, match=f"{name}: no model is loaded here"):
            create.two_towers(tower(tiny_student), tower(tiny_student), **odd)
        with pytest.raises(ValueError, match=f"{name}: no model is loaded here"):
            create.image_text(tower(tiny_student), {"config": TINY_VISION}, **odd)
        with pytest.raises(ValueError, match=f"image.{name}: it is of a model"):
            create.image_text(tower(tiny_student), {"config": TINY_VISION, **odd})


SMALL = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
SMALL |= {"max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 3, "num_labels": 1}
OTHERS = {
    "modernbert": SMALL | {"cls_token_id": 2, "sep_token_id": 3, "local_attention": 4},
    "qwen3": SMALL
    | {
        "num_key_value_heads": 1,
        "head_dim": 8,
        "use_sliding_window": True,
        "sliding_window": 3,
        "max_window_layers": 2,
    },
    "llama": SMALL | {"num_key_value_heads": 1},
}
OTHERS = {kind: config | {"model_type": kind} for kind, config in OTHERS.items()}
TEXTS = ["the ship in the storm near the harbour and the sea", "bread", "a rose and a bee"]


@pytest.mark.parametrize("kind", OTHERS)
class TestOtherArchitectures:
    """Layers of encoders that are built in another way than BERT."""

    @pytest.fixture
    def other(self, kind, tokenizer_path, tmp_path) -> str:
        return write_model(tmp_path / "trunk", tokenizer_path, OTHERS[kind])

    def test_encoders_come_back(self, kind, other, tmp_path):
        state = torch.get_rng_state()
        made = create.from_layers(other, [0, 1, 3])
        assert torch.equal(torch.get_rng_state(), state)
        config = made[0].model.config
        assert len(layers_of(made[0].model)) == config.num_hidden_layers == 3
        whole = AutoConfig.from_pretrained(other)
        if hasattr(whole, "layer_types"):
            assert config.layer_types == [whole.layer_types[i] for i in (0, 1, 3)]
            assert len(set(config.layer_types)) == 2
        with torch.no_grad():
            made[0].model.get_input_embeddings().weight.mul_(20)  # so that attention matters
        wanted = encode_numpy(made, TEXTS, "document")
        save_student(made, tmp_path / "student")
        np.testing.assert_allclose(Student.load(tmp_path / "student").encode_document(TEXTS), wanted, atol=1e-6)
        plain = SentenceTransformer(str(tmp_path / "student"), device="cpu")
        np.testing.assert_allclose(plain.encode_document(TEXTS), wanted, atol=1e-5)

    def test_rankers_come_back(self, kind, other, tmp_path):
        made = create.ranker(other, layers=[0, 3])
        pairs = [("the ship", text) for text in TEXTS]
        wanted = score_numpy(made, pairs)
        save_student(made, tmp_path / "ranker")
        found = Ranker.load(tmp_path / "ranker")
        assert len(layers_of(found.model[0].model)) == 2
        np.testing.assert_allclose(found.score(pairs), wanted, atol=1e-6)

    def test_states_of_single_layers_are_refused(self, kind, other):
        """They are normalised behind the last one alone."""
        with pytest.raises(ValueError, match=f"cannot be divided .* what '{kind}' does behind its last layer"):
            create.with_heads(other, heads=2)
        with pytest.raises(ValueError, match=f"what '{kind}' does behind its last layer is not known; it is for bert"):
            _depth(create.pretrained(other))


def test_sparse_students_of_other_architectures_come_back(tokenizer_path, tmp_path):
    other = write_model(tmp_path / "trunk", tokenizer_path, OTHERS["modernbert"], AutoModelForMaskedLM)
    made = create.sparse(other, layers=[0, 3])
    wanted = made.encode(TEXTS).to_dense()
    save_student(made, tmp_path / "sparse")
    found = SparseEncoder(str(tmp_path / "sparse"), device="cpu")
    assert len(layers_of(found[0].model)) == 2
    torch.testing.assert_close(found.encode(TEXTS).to_dense(), wanted)


def test_a_layer_that_would_be_built_otherwise_is_refused(tokenizer_path, tmp_path):
    """ModernBERT's first layer has no norm before attention."""
    other = write_model(tmp_path / "trunk", tokenizer_path, OTHERS["modernbert"])
    with pytest.raises(ValueError, match=r"layers=\[1, 3\]: layer 1 of .* would be number 0, which modernbert builds"):
        create.from_layers(other, [1, 3])
