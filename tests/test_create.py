# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What all ways to start a student have in common: seeds, lengths, options of loading, architectures."""

import pytest
import torch
from tiny import TINY_VISION, spec, tiny_config

from retort.students import Ranker, Student, create
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
        with pytest.raises(ValueError, match="midway"), seeded(7):
            torch.rand(5)
            raise ValueError("midway")
        assert torch.equal(torch.get_rng_state(), state)

    def test_nothing_is_seeded_but_the_cpu(
        self, tiny_student, tiny_ranker, image_student, tokenizer_path, trunk, monkeypatch
    ):
        """`torch.manual_seed` would reseed each GPU, and whoever trains there would lose their random numbers."""

        def reseed(*_):
            raise AssertionError("a GPU was reseeded")

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
