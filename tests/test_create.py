# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What all ways to start a student have in common: seeds, lengths, options of loading, architectures."""

import json

import pytest
import torch
from tiny import TINY_VISION, spec, tiny_config
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer

from retort.students import Ranker, Student, create
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
