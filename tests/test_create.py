# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What all ways to start a student have in common: seeds, lengths, options of loading, architectures."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from tiny import TINY_VISION, spec, tiny_config
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer

from retort.students import Ranker, Student, create, loading, save_student
from retort.students.create import encoders, heads, images
from retort.students.encoding import encode_numpy
from retort.students.scoring import score_numpy
from retort.students.seeding import seeded

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
