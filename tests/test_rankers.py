# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Rankers: scoring, folders, and the component."""

import asyncio
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from haystack import Document, Pipeline
from sentence_transformers import CrossEncoder
from tiny import tiny_config

from haystack_integrations.components.rankers.retort import StudentRanker
from retort.students import ManifestError, Ranker, Student, save_student
from retort.students.create import from_config, ranker
from retort.students.hashing import fingerprint_of
from retort.students.scoring import score_pairs
from retort.students.towers import set_max_tokens

PAIRS = [
    ("what is a ship", "the ship in the sea."),
    ("ship", "bread oven flour butter sugar cake knife plate soup salt"),
    ("a song near the garden", "rose"),
    ("how", "the violin song choir drum"),
]


class TestScoring:
    def test_sorted_chunks_equal_one_pair_at_a_time(self, tiny_ranker):
        model = Ranker.load(tiny_ranker).model.double()
        alone = torch.cat([score_pairs(model, [pair]) for pair in PAIRS])
        together = score_pairs(model, PAIRS, budget=20)
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)

    def test_scores_are_the_logits_of_sentence_transformers(self, tiny_ranker):
        theirs = CrossEncoder(tiny_ranker, device="cpu").predict(PAIRS, activation_fn=torch.nn.Identity())
        np.testing.assert_allclose(Ranker.load(tiny_ranker).score(PAIRS), theirs, atol=1e-6)

    def test_recomputing_gives_the_same_gradients(self, tiny_ranker):
        model = Ranker.load(tiny_ranker).model
        found = []
        for recompute in (False, True):
            model.zero_grad()
            score_pairs(model, PAIRS, budget=20, recompute=recompute).pow(2).sum().backward()
            found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))

    def test_prompt_and_length_take_part(self, tiny_ranker):
        plain = Ranker.load(tiny_ranker)
        cut = Ranker.load(tiny_ranker, max_tokens=8)
        assert cut.fingerprint != plain.fingerprint
        assert not np.allclose(cut.score(PAIRS)[1], plain.score(PAIRS)[1])
        plain.model.prompts, plain.model.default_prompt_name = {"ask": "how "}, "ask"
        expected = plain.model.predict(PAIRS, activation_fn=torch.nn.Identity())
        np.testing.assert_allclose(plain.score(PAIRS), expected, atol=1e-6)

    def test_no_longer_than_its_positions(self, tiny_ranker, tokenizer_path, tmp_path):
        """Of RoBERTa and its like the first two are the padding's."""
        with pytest.raises(ValueError, match="max_tokens=65: the model has 64 positions"):
            Ranker.load(tiny_ranker, max_tokens=65)
        with pytest.raises(ValueError, match="max_tokens must be above 0; it is -5"):
            Ranker.load(tiny_ranker, max_tokens=-5)
        config = {**tiny_config(1), "model_type": "roberta", "max_position_embeddings": 34, "pad_token_id": 1}
        student = from_config(config, tokenizer_path)
        with pytest.raises(ValueError, match="the model's 32 positions"):
            set_max_tokens(student, document=33)
        set_max_tokens(student, document=32)
        student.encode_document(["the ship " * 40])

    def test_half_of_a_surrogate_pair(self, tiny_ranker):
        with pytest.raises(ValueError, match=r"text 3 holds half of a surrogate pair.* clean it"):
            Ranker.load(tiny_ranker).score([("a", "b"), ("c", "\ud800")])


class TestFolder:
    def test_manifest_and_round_trip(self, tiny_ranker, tmp_path):
        loaded = Ranker.load(tiny_ranker)
        assert (loaded.manifest.kind, loaded.manifest.dim, loaded.manifest.space) == ("ranker", 1, "")
        assert loaded.manifest.max_tokens["pair"] == 64
        again = save_student(loaded.model, tmp_path / "again")
        assert again.fingerprint == loaded.fingerprint == fingerprint_of(CrossEncoder(tiny_ranker, device="cpu"))

    def test_changed_weights_are_refused(self, tiny_ranker, tmp_path):
        shutil.copytree(tiny_ranker, tmp_path / "r")
        model = CrossEncoder(str(tmp_path / "r"), device="cpu")
        with torch.no_grad():
            model[0].model.classifier.weight.add_(1)
        model.save(str(tmp_path / "r"), create_model_card=False)
        with pytest.raises(ManifestError, match="does not match its retort.json"):
            Ranker.load(str(tmp_path / "r"))

    def test_other_kinds_are_refused(self, tiny_ranker, tiny_student, trunk):
        with pytest.raises(ManifestError, match="is a ranker"):
            Student.load(tiny_ranker)
        with pytest.raises(ManifestError, match="is no ranker"):
            Ranker.load(tiny_student)
        with pytest.raises(ManifestError, match="is no ranker"):
            Ranker.load(trunk)  # loads, with a head of random weights
        with pytest.raises(FileNotFoundError, match="No model at"):
            Ranker.load("/nowhere/at/all")

    def test_several_labels_are_refused(self, trunk, tmp_path):
        CrossEncoder(trunk, num_labels=3, device="cpu").save(str(tmp_path / "three"), create_model_card=False)
        with pytest.raises(ManifestError, match="gives 3 scores a pair"):
            Ranker.load(str(tmp_path / "three"))
        with pytest.raises(ValueError, match="gives 3 scores a pair"):
            ranker(str(tmp_path / "three"))


class TestCreate:
    def test_layers_and_seed(self, trunk):
        made = ranker(trunk, layers=[0, 3], seed=1)
        whole = ranker(trunk, seed=1)
        assert made[0].model.config.num_hidden_layers == 2
        assert torch.equal(made[0].model.classifier.weight, whole[0].model.classifier.weight)
        assert not torch.equal(made[0].model.classifier.weight, ranker(trunk, seed=2)[0].model.classifier.weight)
        last = made[0].model.bert.encoder.layer[1].output.dense.weight
        assert torch.equal(last, whole[0].model.bert.encoder.layer[3].output.dense.weight)

    def test_a_trained_head_is_kept(self, tiny_ranker):
        kept = ranker(tiny_ranker, layers=[1], seed=9)
        assert torch.equal(kept[0].model.classifier.weight, Ranker.load(tiny_ranker).model[0].model.classifier.weight)

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"layers": [4]}, "has 4 layers"), ({"max_tokens": 65}, "between 5 and"), ({"max_tokens": 4}, "between 5")],
    )
    def test_what_is_not_there_is_refused(self, trunk, options, message):
        with pytest.raises(ValueError, match=message):
            ranker(trunk, **options)


DOCUMENTS = [Document(id=str(i), content=text, meta={"title": "sea"}) for i, (_, text) in enumerate(PAIRS)]


class TestComponent:
    def test_ranks_by_the_model(self, tiny_ranker):
        before = [d.to_dict() for d in DOCUMENTS]
        found = StudentRanker(model=tiny_ranker, scale_score=False).run(query="a ship", documents=DOCUMENTS)[
            "documents"
        ]
        texts = [("a ship", f"sea {d.content}") for d in DOCUMENTS]  # title first, as in training
        expected = Ranker.load(tiny_ranker).score(texts)
        assert [d.id for d in found] == [str(i) for i in np.argsort(-expected)]
        np.testing.assert_allclose([d.score for d in found], sorted(expected, reverse=True), atol=1e-6)
        assert [d.to_dict() for d in DOCUMENTS] == before

    def test_scale_threshold_and_top_k(self, tiny_ranker):
        component = StudentRanker(model=tiny_ranker)
        scaled = component.run(query="a ship", documents=DOCUMENTS)["documents"]
        raw = component.run(query="a ship", documents=DOCUMENTS, scale_score=False)["documents"]
        np.testing.assert_allclose([d.score for d in scaled], [1 / (1 + np.exp(-d.score)) for d in raw])
        least = scaled[1].score
        kept = component.run(query="a ship", documents=DOCUMENTS, score_threshold=least)["documents"]
        assert [d.id for d in kept] == [d.id for d in scaled[:2]]
        assert len(component.run(query="a ship", documents=DOCUMENTS, top_k=3)["documents"]) == 3
        assert component.run(query="a ship", documents=[]) == {"documents": []}
        bounded = StudentRanker(model=tiny_ranker, score_threshold=least, top_k=1)
        assert bounded.run(query="a ship", documents=DOCUMENTS)["documents"] == scaled[:1]
        assert bounded.run(query="a ship", documents=DOCUMENTS, top_k=9)["documents"] == scaled[:2]

    def test_copies_count_once(self, tiny_ranker):
        low = Document(id="x", content="ship", score=0.1)
        high = Document(id="x", content="bread", score=0.9)
        found = StudentRanker(model=tiny_ranker).run(query="a", documents=[low, high])["documents"]
        assert [d.content for d in found] == ["bread"]
        same = [replace(high, content=text) for text in ("rose", "salt")]
        assert [d.content for d in StudentRanker(model=tiny_ranker).run(query="a", documents=same)["documents"]] == [
            "rose"
        ]

    def test_equal_scores_keep_their_order(self, tiny_ranker):
        same = [Document(id=name, content="the ship") for name in "bca"]
        assert [d.id for d in StudentRanker(model=tiny_ranker).run(query="a", documents=same)["documents"]] == [*"bca"]

    def test_length_and_separator(self, tiny_ranker, monkeypatch):
        asked, real = [], Ranker.score_heads

        def score(self, pairs, **options):
            asked.append((pairs, self.manifest.max_tokens["pair"]))
            return real(self, pairs, **options)

        monkeypatch.setattr(Ranker, "score_heads", score)
        component = StudentRanker(model=tiny_ranker, max_tokens=8, embedding_separator=" bread ")
        component.run(query="a ship", documents=DOCUMENTS)
        assert asked == [([("a ship", f"sea bread {d.content}") for d in DOCUMENTS], 8)]

    def test_async_and_yaml(self, tiny_ranker):
        pipeline = Pipeline()
        pipeline.add_component("ranker", StudentRanker(model=tiny_ranker, top_k=2, max_tokens=16))
        text = pipeline.dumps()
        assert "device: null" in text
        again = Pipeline.loads(text)
        data = {"ranker": {"query": "a ship", "documents": DOCUMENTS}}
        assert again.run(data) == pipeline.run(data) == asyncio.run(again.run_async(data))
        again.close()
        pipeline.close()

    def test_bad_input(self, tiny_ranker, tmp_path):
        component = StudentRanker(model=tiny_ranker)
        with pytest.raises(TypeError, match="string as query"):
            component.run(query=1, documents=DOCUMENTS)
        with pytest.raises(TypeError, match="list of Documents"):
            component.run(query="a", documents=["b"])
        with pytest.raises(ValueError, match="top_k must be above 0"):
            component.run(query="a", documents=DOCUMENTS, top_k=0)
        with pytest.raises(ValueError, match="top_k must be above 0"):
            StudentRanker(model=tiny_ranker, top_k=-1)
        missing = StudentRanker(model=str(tmp_path / "none" / "there"))  # reported at the first run
        with pytest.raises(FileNotFoundError, match="No model at"):
            missing.run(query="a", documents=DOCUMENTS)

    def test_components_share_the_model(self, tiny_ranker):
        first, second = StudentRanker(model=tiny_ranker), StudentRanker(model=tiny_ranker, top_k=1)
        first.warm_up()
        second.warm_up()
        assert first._handle.student is second._handle.student
        first.close()
        second.close()


def test_manifest_is_ignored_by_sentence_transformers(tiny_ranker):
    """A student is a plain folder: what others load is the same model."""
    with open(f"{tiny_ranker}/retort.json") as file:
        assert json.load(file)["kind"] == "ranker"
    assert CrossEncoder(tiny_ranker, device="cpu").num_labels == 1
