# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""CERBERUS: reference values, a head for each teacher, students and rankers with heads, and a killed run."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from haystack import Document
from sentence_transformers import CrossEncoder, SentenceTransformer
from tiny import T1, T2, T3, S, assert_comes_back, everything, log_of, spec, terms_of, tiny_config
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from haystack_integrations.components.embedders.retort import StudentDocumentEmbedder, StudentTextEmbedder
from haystack_integrations.components.rankers.retort import StudentRanker
from retort.students import Ranker, Student, create, save_student
from retort.students.encoding import encode_numpy, encode_parts
from retort.students.loading import OWN_MODULES
from retort.students.modules.heads import Heads
from retort.students.scoring import mean_share, score_parts
from retort.trainers import losses
from retort.trainers.distiller import Distiller, step_loss
from retort.trainers.encoder_output import PairOutput
from retort.trainers.evaluation.exports import export_student
from retort.trainers.methods.cerberus import HeadKL
from retort.trainers.recipe import Recipe
from retort.trainers.roles import ModelInfo, StepContext
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError

HEAD_KL = "retort.trainers.methods.cerberus.HeadKL"
# The scores of three heads, `[k, B, N]`.
H = torch.stack(
    [
        S,
        torch.tensor([[1.0, 0.5, 0.9, -1.0, 0.2], [1.0, 0.2, 0.1, 1.1, -0.4]], dtype=torch.float64),
        torch.tensor([[0.4, 0.3, 0.2, 0.1, 0.0], [0.9, 0.8, -0.2, 0.3, 0.1]], dtype=torch.float64),
    ]
)
PER_HEAD = [0.381577, 0.337643, 0.320578]
TEACHERS = ["t1", "t2", "t3"]
TEXTS = ["the ship in the storm", "bread", "what is the sum of a circle and the angle near the graph?", "rose"]
PAIRS = [("the ship in the storm", "bread"), ("what", TEXTS[2]), ("rose", "soil seed")]
KINDS = {
    "bert": {},
    "roberta": {},
    "electra": {"embedding_size": 8},
    "mpnet": {},
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "pos_att_type": ["p2c", "c2p"],
        "conv_kernel_size": 3,
        "conv_act": "gelu",
    },
    "distilbert": {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32},
}


def config_of(kind: str) -> dict:
    """Three layers of some architecture."""
    known = tiny_config(3) if kind != "distilbert" else {"max_position_embeddings": 64}
    return known | {"model_type": kind} | KINDS[kind]


@pytest.fixture(scope="module")
def plain(tokenizer_path, tmp_path_factory) -> str:
    """Folder of a student of four layers with prompts, that normalises."""
    folder = tmp_path_factory.mktemp("plain") / "student"
    config = tiny_config(4)
    save_student(create.from_config(config, tokenizer_path, seed=1, prompts={"query": "what ", "document": ""}), folder)
    return str(folder)


@pytest.fixture(scope="module")
def three(plain, tmp_path_factory) -> Path:
    """Folder of a student of three different heads."""
    folder = tmp_path_factory.mktemp("three") / "student"
    options = {"heads": 3, "dim": 6, "new_layers": True, "max_tokens": {"query": 9, "document": 20}}
    save_student(create.with_heads(plain, layers=[0, 1, 3], **options), folder)
    return folder


@pytest.fixture(scope="module")
def three_rankers(tiny_ranker, tmp_path_factory) -> Path:
    """Folder of a ranker of three different heads."""
    folder = tmp_path_factory.mktemp("rankers") / "three"
    save_student(create.ranker_with_heads(tiny_ranker, heads=3, new_layers=True, max_tokens=40, seed=4), folder)
    return folder


@pytest.fixture
def per_head(toy, three_rankers, monkeypatch):
    """Give a function: the terms of the toy batch, as three heads score it."""
    student = Ranker.load(three_rankers).model

    def of(teacher=TEACHERS, batch=toy, **options):
        objective = HeadKL(teacher=teacher, **{"label_weight": 0.0} | options)
        distiller = Distiller(student, {"s": [(objective, 1.0)]}, ModelInfo(0, {}, {}, student=student), scale=1.0)
        scores = PairOutput(H.mean(0), views={"head": H.permute(1, 2, 0)})
        monkeypatch.setattr(distiller.encoder, "encode", lambda *_: scores)
        ctx = StepContext("s", 0, 1)
        terms, counts = distiller(batch, ctx), distiller.counts(batch, ctx)
        return terms, step_loss(terms, counts).item()

    return of


class TestReferenceValues:
    def test_a_head_learns_from_its_own_teacher(self, per_head):
        terms, loss = per_head()
        assert loss == pytest.approx(0.346599, abs=1e-6)
        found = [terms[f"head_kl.{j}"][0].mean().item() for j in range(3)]
        assert found == pytest.approx(PER_HEAD, abs=1e-6)

    def test_the_averaged_teacher_hides_where_they_differ(self, toy):
        target = torch.stack([(t / 2).softmax(-1) for t in (T1, T2, T3)]).mean(0).log() * 2
        mean = losses.listwise_kl(H.mean(0), target, toy.mask, student_temperature=2.0, teacher_temperature=2.0)
        assert mean.mean().item() == pytest.approx(0.035431, abs=1e-6)

    def test_means_for_serving(self):
        of_softmaxes = [0.372605, 0.206057, 0.204552, 0.089424, 0.127362]
        of_scores = [0.372924, 0.218775, 0.204665, 0.075292, 0.128343]
        assert mean_share(H[:, 0].numpy().T).tolist() == pytest.approx(of_softmaxes, abs=1e-6)
        assert H[:, 0].mean(0).softmax(-1).tolist() == pytest.approx(of_scores, abs=1e-6)
        assert mean_share(np.empty((0, 3))).shape == (0,)

    def test_the_mean_of_dots_is_the_dot_of_the_joined(self):
        queries = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        documents = torch.tensor([[0.6, 0.8], [0.8, 0.6], [0.6, 0.8]])
        heads = Heads(3, {"embedding_dimension": 6}, dim=2)
        for j, linear in enumerate(heads.maps):
            linear.weight.data = torch.eye(6)[2 * j : 2 * j + 2]
            linear.bias.data.zero_()
        mask = torch.ones(1, 1, dtype=torch.long)
        q, d = (heads({"token_embeddings": v.reshape(1, 1, 6), "attention_mask": mask}) for v in (queries, documents))
        torch.testing.assert_close(q["head_embeddings"][0], queries)
        mean = (q["head_embeddings"] * d["head_embeddings"]).sum(-1).mean()
        joined = (q["sentence_embedding"] * d["sentence_embedding"]).sum()
        assert [mean.item(), joined.item()] == pytest.approx([0.733333, 0.733333], abs=1e-6)


class TestHeadKL:
    def test_teachers_of_several_heads(self, per_head):
        """The mean is over heads, not over teachers."""
        _, loss = per_head(["t1", "t1", "t3"])
        second = losses.listwise_kl(H[1], T1, torch.ones(2, 5).bool(), student_temperature=2.0, teacher_temperature=2.0)
        assert loss == pytest.approx((PER_HEAD[0] + second.mean().item() + PER_HEAD[2]) / 3, abs=1e-6)

    @pytest.mark.parametrize("missing", ["t1", "t3"])
    def test_teachers_of_several_heads_without_scores(self, per_head, toy, missing):
        batch = copy.copy(toy)
        batch.teacher_scores = toy.teacher_scores | {missing: torch.full_like(T1, torch.nan)}
        _, loss = per_head(["t1", "t1", "t3"], batch=batch)
        full = torch.ones(2, 5).bool()
        each = [
            losses.listwise_kl(H[head], own, full, student_temperature=2.0, teacher_temperature=2.0).mean().item()
            for head, (name, own) in enumerate((("t1", T1), ("t1", T1), ("t3", T3)))
            if name != missing
        ]
        assert loss == pytest.approx(sum(each) / len(each), abs=1e-6)

    def test_a_temperature_a_teacher(self, per_head):
        terms, _ = per_head(temperature={"t1": 2.0, "t2": 1.0, "t3": 4.0})
        own = losses.listwise_kl(H[1], T2, torch.ones(2, 5).bool())
        torch.testing.assert_close(terms["head_kl.1"][0], own)
        assert terms["head_kl.0"][0].mean().item() == pytest.approx(PER_HEAD[0], abs=1e-6)

    def test_labels(self, per_head):
        """Positives share the mass; queries without one cost nothing."""
        terms, loss = per_head(label_weight=0.5)
        each = (
            [-H[j, 0].log_softmax(-1)[0] for j in range(3)],
            [-H[j, 1].softmax(-1)[[0, 3]].sum().log() for j in range(3)],
        )
        expected = 0.5 * torch.stack([torch.stack(own).mean() for own in each])
        torch.testing.assert_close(terms["head_labels"][0], expected)
        assert loss == pytest.approx(0.346599 + expected.mean().item(), abs=1e-6)

    def test_labels_count_alike_for_all_heads_whoever_teaches_them(self, per_head):
        several, _ = per_head(["t1", "t1", "t3"], label_weight=0.5)
        each, _ = per_head(label_weight=0.5)
        torch.testing.assert_close(several["head_labels"][0], each["head_labels"][0])

    def test_what_is_compared_with_a_teacher_are_its_own_heads_scores(self, toy):
        output = PairOutput(H.mean(0), views={"head": H.permute(1, 2, 0)})
        for head, name in enumerate(TEACHERS):
            ctx = StepContext("s", 0, 1, teacher=name)
            torch.testing.assert_close(HeadKL(teacher=TEACHERS).compared(output, toy, ctx)[0], H[head])

    def test_queries_without_labels_or_scores(self, per_head, toy):
        """Of a teacher that scored nothing the others' heads learn; no gradient is NaN."""
        batch = copy.copy(toy)
        batch.labels = torch.where(torch.tensor([[False], [True]]), toy.labels, -1)
        batch.teacher_scores = toy.teacher_scores | {"t2": torch.full_like(T2, torch.nan)}
        terms, loss = per_head(batch=batch, label_weight=0.5)
        assert terms["head_labels"][1].tolist() == [False, True]
        assert np.isfinite(loss)
        torch.testing.assert_close(
            terms["head_kl"][0].mean().item(), (PER_HEAD[0] + PER_HEAD[2]) / 2, atol=1e-6, rtol=0
        )
        scores = H.permute(1, 2, 0).clone().requires_grad_()
        objective = HeadKL(teacher=TEACHERS)
        for name in TEACHERS:
            output = PairOutput(scores.mean(-1), views={"head": scores})
            own = terms_of(objective, output, batch, StepContext("s", 0, 1, teacher=name))
            sum(v.masked_fill(~m, 0.0).sum() for v, m in own.values()).backward()
        assert scores.grad.isfinite().all()
        assert not scores.grad[0, :, 1].any() and scores.grad[0, :, 0].any()

    def test_a_heads_loss_leaves_the_others_alone(self, three, three_rankers):
        for model, found in (
            (m := Student.load(three).model, lambda: encode_parts(m, TEXTS, "document", views=["head"])),
            (r := Ranker.load(three_rankers).model, lambda: score_parts(r, PAIRS, views=["head"])),
        ):
            model.zero_grad()
            found()["head"][:, 1].pow(3).sum().backward()
            top = model[1]
            moved = [any(p.grad is not None and p.grad.any() for p in layers.parameters()) for layers in top.layers]
            assert moved == [False, True, False]
            assert all(
                p.grad.any() for n, p in model[0].named_parameters() if "encoder.layer" in n and "key.bias" not in n
            )

    def test_mistakes(self, per_head):
        with pytest.raises(ValueError, match="temperature must have a number above 0 for t1, t2"):
            HeadKL(teacher=["t1", "t2", "t1"], temperature={"t1": 1.0})
        with pytest.raises(ValueError, match="temperature must have a number above 0"):
            HeadKL(teacher="t", temperature=0)
        with pytest.raises(ValueError, match="the student has 3 heads; `teacher` names one for each, and has t1, t2"):
            per_head(["t1", "t2"])


class TestHeads:
    """Where they start, how large they are, and that they are served as any student."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_each_head_gives_what_the_whole_model_gives(self, kind, tokenizer_path, tmp_path):
        """Masks, positions and all."""
        whole = create.from_config(config_of(kind), tokenizer_path, seed=3)
        whole.save(str(tmp_path / "trunk"))
        model = create.with_heads(str(tmp_path / "trunk"), heads=2, head_layers=2)
        wanted = torch.from_numpy(encode_numpy(whole, TEXTS, "query"))
        with torch.inference_mode():
            found = encode_parts(model.eval(), TEXTS, "query", views=["head"])
        assert [float((found["head"][:, j] - wanted).abs().max()) for j in (0, 1)] == [0, 0]
        torch.testing.assert_close(found["vectors"], torch.cat([wanted, wanted], 1) / 2**0.5)

    def test_one_head_without_layers_is_the_plain_student(self, plain):
        whole = create.pretrained(plain)
        model = create.with_heads(plain, heads=1, head_layers=0)
        assert (model.prompts, model.similarity_fn_name) == (whole.prompts, whole.similarity_fn_name)
        np.testing.assert_array_equal(encode_numpy(model, TEXTS, "query"), encode_numpy(whole, TEXTS, "query"))

    def test_a_body_and_heads(self, plain):
        def count(model) -> int:
            return sum(p.numel() for p in model.parameters())

        body, layer = count(create.from_layers(plain, [0, 1])), count(create.from_layers(plain, [0, 1, 2]))
        layer -= body
        assert layer > 0
        for heads in (1, 2, 4):
            assert count(create.with_heads(plain, layers=[0, 1, 3], heads=heads)) == body + heads * layer
            wide = create.with_heads(plain, layers=[0, 1, 3], heads=heads, dim=5)
            assert count(wide) == body + heads * (layer + 16 * 5 + 5)
            assert wide.get_embedding_dimension() == 5 * heads

    def test_vectors_of_length_1_are_compared_by_cosines(self, plain, tmp_path):
        trunk = create.pretrained(plain, similarity_fn_name="dot")
        save_student(trunk, tmp_path / "dot")
        assert create.with_heads(str(tmp_path / "dot"), heads=2, dim=8).similarity_fn_name == "cosine"

    def test_where_heads_start(self, plain):
        """From the trunk's last layers; or each from its own random ones, the same for the same seed."""
        alike = create.with_heads(plain, heads=2)[1].layers
        new, again, other = (create.with_heads(plain, heads=2, new_layers=True, seed=s)[1].layers for s in (1, 1, 2))

        def state(model) -> torch.Tensor:
            return model.state_dict()["encoder.layer.0.attention.self.query.weight"]

        last = create.pretrained(plain)[0].model.encoder.layer[3].attention.self.query.weight
        assert torch.equal(state(alike[0]), state(alike[1])) and torch.equal(state(alike[0]), last)
        assert not torch.equal(state(new[0]), state(new[1]))
        assert torch.equal(state(new[1]), state(again[1])) and not torch.equal(state(new[1]), state(other[1]))

    def test_saved_and_loaded(self, three, tmp_path):
        student = Student.load(three)
        assert (student.dim, student.manifest.kind) == (18, "dense")
        assert student.manifest.max_tokens == {"query": 9, "document": 20}
        types = [module["type"] for module in json.loads((three / "modules.json").read_text())]
        assert types[1] == "retort.students.modules.heads.Heads" and types[1] in OWN_MODULES
        again = save_student(student.model, tmp_path / "again")
        assert (again.space, again.fingerprint) == (student.space, student.fingerprint)
        theirs = SentenceTransformer(str(three), device="cpu", trust_remote_code=True)
        np.testing.assert_allclose(student.encode_query(TEXTS), theirs.encode_query(TEXTS), atol=1e-6)
        assert "trust_remote_code=True" in (three / "README.md").read_text()
        norms = np.linalg.norm(student.encode_document(TEXTS), axis=1)
        np.testing.assert_allclose(norms, 1, atol=1e-6)
        student.model[1].pool.pooling_mode = student.model[1].pooling["pooling_mode"] = "cls"
        assert save_student(student.model, tmp_path / "other").space != student.space

    def test_a_half_precision_trunk(self, plain, tmp_path):
        """What is saved in bfloat16 comes back as it was, body and heads."""
        model = create.with_heads(plain, heads=2, dim=3, model_kwargs={"dtype": torch.bfloat16})
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        save_student(model, tmp_path / "s")
        assert Student.load(tmp_path / "s", precision="float32").encode_query(TEXTS).shape == (4, 6)

    @pytest.mark.parametrize("precision", ["float32", pytest.param("int8", marks=pytest.mark.long)])
    def test_exported(self, precision, plain, tmp_path):
        save_student(create.with_heads(plain, layers=[0, 3], heads=2, dim=6, new_layers=True), tmp_path / "s")
        export_student(tmp_path / "s", precision=precision)
        wanted = Student.load(tmp_path / "s", backend="torch", precision="float32").encode_document(TEXTS)
        found = Student.load(tmp_path / "s", backend="onnx", precision=precision).encode_document(TEXTS)
        np.testing.assert_allclose(found, wanted, atol=1e-5 if precision == "float32" else 0.05)

    def test_components(self, three):
        """Their scores are the means of the heads'."""
        query = StudentTextEmbedder(model=str(three)).run(text="the ship")["embedding"]
        documents = StudentDocumentEmbedder(model=str(three)).run(documents=[Document(content=t) for t in TEXTS])
        vectors = np.array([d.embedding for d in documents["documents"]])
        model = Student.load(three).model
        heads = [
            encode_parts(model, texts, side, views=["head"])["head"]
            for texts, side in ((["the ship"], "query"), (TEXTS, "document"))
        ]
        mean = (heads[0] * heads[1]).sum(-1).mean(-1).detach().numpy()
        np.testing.assert_allclose(vectors @ np.array(query), mean, atol=1e-6)

    def test_towers(self, three, plain, tmp_path):
        """A query tower of heads for documents of as many dimensions."""
        parts = [spec("pretrained", model=str(three)), spec("pretrained", model=plain, dim=18)]
        save_student(create.two_towers(*parts), tmp_path / "s")
        student = Student.load(tmp_path / "s")
        assert student.encode_query(TEXTS).shape == student.encode_document(TEXTS).shape == (4, 18)

    def test_mistakes(self, plain, three):
        with pytest.raises(ValueError, match="heads must be above 0"):
            create.with_heads(plain, heads=0)
        with pytest.raises(ValueError, match=r"head_layers=4: of 4 layers .* give 0 to 3"):
            create.with_heads(plain, heads=2, head_layers=4)
        with pytest.raises(ValueError, match="2 heads without anything of their own"):
            create.with_heads(plain, heads=2, head_layers=0)
        with pytest.raises(ValueError, match=r"is made of Transformer, Heads; heads need an encoder, a pooling"):
            create.with_heads(str(three), heads=2)

    def test_a_trunk_that_cannot_be_divided(self, tokenizer_path, tmp_path):
        config = {"model_type": "xlm", "emb_dim": 16, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 64}
        create.from_config(config, tokenizer_path).save(str(tmp_path / "trunk"))
        with pytest.raises(
            ValueError, match="cannot be divided into a body and heads: where 'xlm' keeps its layers is not known"
        ):
            create.with_heads(str(tmp_path / "trunk"), heads=2)


class TestRankersWithHeads:
    @pytest.mark.parametrize("kind", KINDS)
    def test_each_head_gives_what_the_whole_model_gives(self, kind, tokenizer_path, tmp_path):
        words = AutoTokenizer.from_pretrained(tokenizer_path)
        torch.manual_seed(0)
        config = AutoConfig.for_model(vocab_size=len(words), pad_token_id=0, num_labels=1, **config_of(kind))
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
        words.save_pretrained(tmp_path)
        wanted = Ranker.load(tmp_path).score(PAIRS)
        save_student(create.ranker_with_heads(str(tmp_path), heads=2, head_layers=2), tmp_path / "s")
        found = Ranker.load(tmp_path / "s")
        np.testing.assert_allclose(found.score_heads(PAIRS), np.stack([wanted, wanted], 1), atol=1e-8)
        np.testing.assert_allclose(found.score(PAIRS), wanted, atol=1e-8)

    def test_saved_and_loaded(self, three_rankers, tmp_path):
        ranker = Ranker.load(three_rankers)
        heads = ranker.score_heads(PAIRS)
        assert heads.shape == (3, 3) and ranker.score_heads([]).shape == (0, 3)
        assert ranker.manifest.max_tokens["pair"] == 40
        np.testing.assert_allclose(ranker.score(PAIRS), heads.mean(1), atol=1e-7)
        assert heads.std(1).min() > 0
        assert save_student(ranker.model, tmp_path / "again").fingerprint == ranker.fingerprint
        theirs = CrossEncoder(str(three_rankers), device="cpu", trust_remote_code=True)
        np.testing.assert_allclose(
            theirs.predict(PAIRS, activation_fn=torch.nn.Identity()), ranker.score(PAIRS), atol=1e-6
        )

    @pytest.mark.long
    def test_exported(self, three_rankers, tmp_path):
        shutil.copytree(three_rankers, tmp_path / "s")
        export_student(tmp_path / "s", precision="float32")
        plain, graph = (Ranker.load(tmp_path / "s", backend=b, precision="float32") for b in ("torch", "onnx"))
        np.testing.assert_allclose(graph.score_heads(PAIRS), plain.score_heads(PAIRS), atol=1e-5)
        np.testing.assert_allclose(graph.score(PAIRS), plain.score(PAIRS), atol=1e-5)

    def test_the_component(self, three_rankers, tiny_ranker):
        """The mean of scores, or of shares of the list."""
        documents = [Document(content=text) for text in TEXTS]
        heads = Ranker.load(three_rankers).score_heads([("ship", text) for text in TEXTS]).astype(np.float64)
        wanted = {"mean": heads.mean(1), "softmax": np.log((np.exp(heads) / np.exp(heads).sum(0)).mean(1))}
        for kind, scores in wanted.items():
            found = StudentRanker(model=str(three_rankers), heads=kind, scale_score=False).run("ship", documents)
            by_text = {d.content: d.score for d in found["documents"]}
            np.testing.assert_allclose([by_text[text] for text in TEXTS], scores, atol=1e-6)
            assert [d.score for d in found["documents"]] == sorted(by_text.values(), reverse=True)
        shares = StudentRanker(model=str(three_rankers), heads="softmax").run("ship", documents)["documents"]
        assert sum(d.score for d in shares) == pytest.approx(1)
        assert StudentRanker(model=str(three_rankers), heads="softmax").run("ship", [])["documents"] == []
        one = StudentRanker(model=tiny_ranker, heads="softmax").run("ship", documents)["documents"]
        assert [d.id for d in one] == [
            d.id for d in StudentRanker(model=tiny_ranker).run("ship", documents)["documents"]
        ]
        with pytest.raises(ValueError, match="heads='max': must be mean or softmax"):
            StudentRanker(heads="max")

    def test_mistakes(self, tiny_ranker, three_rankers):
        with pytest.raises(ValueError, match=r"head_layers=0: of 2 layers .* give 1 to 1"):
            create.ranker_with_heads(tiny_ranker, heads=2, head_layers=0)
        with pytest.raises(ValueError, match="is made of Transformer, ScoreHeads; give a plain cross-encoder"):
            create.ranker_with_heads(str(three_rankers), heads=2)


class TestRuns:
    @pytest.fixture
    def tree(self, list_tree, tiny_ranker):
        """A ranker of two heads, one learning from a bi-encoder and one from a ranker."""
        list_tree["student"] = spec("retort.students.create.ranker_with_heads", trunk=tiny_ranker, heads=2)
        list_tree["stages"][0] |= {"objectives": [spec(HEAD_KL, teacher=["teacher", "ranker"])]}
        list_tree["candidates"] = {"bm25": list_tree["candidates"]["bm25"]}
        return list_tree

    def test_a_killed_run_of_a_ranker(self, tree, beir, tmp_path, monkeypatch):
        """(tests/test_joints.py has a bi-encoder's.)"""
        out = tmp_path / "whole" / "run"
        run_recipe(Recipe.from_dict(tree), beir, out)
        assert log_of(out)[0]["terms"].keys() == {"loss", "head_kl", "head_labels"}
        assert_comes_back(tree, beir, tmp_path, monkeypatch, everything(out), (4,))
        assert Ranker.load(out / "student").score_heads(PAIRS).shape == (3, 2)

    def test_refused_before_the_first_step(self, tree, beir, tmp_path, tiny_ranker, trunk):
        plain = tree | {"student": spec("ranker", trunk=tiny_ranker)}
        with pytest.raises(
            RecipeError, match=r"stages.0.objectives.0 .*HeadKL.*: no module of the ranker gives head_scores"
        ):
            run_recipe(Recipe.from_dict(plain), beir, tmp_path / "run")
        tree["stages"][0]["objectives"] = [spec(HEAD_KL, teacher=["ranker"])]
        with pytest.raises(RecipeError, match="the student has 2 heads; `teacher` names one for each, and has ranker"):
            run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")
        tree["teachers"]["live"] = spec("LiveTeacher", student=spec("from_layers", trunk=trunk, layers=[0]))
        tree["stages"][0]["objectives"] = [spec("LayerKL", teacher="live")]
        with pytest.raises(RecipeError, match="student: it has several heads"):
            run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")
