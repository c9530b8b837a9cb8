# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""MASTER: reference values, what is hidden from whom, the bottleneck, texts of a generator, and a killed run."""

import copy

import numpy as np
import pytest
import torch
from haystack.dataclasses import ChatMessage
from tiny import assert_comes_back, everything, log_of, opened, spec, stage
from torch.nn import functional as F

from retort.students.layers import layers_of
from retort.trainers import decoders, losses
from retort.trainers.batches import masking
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.context import TrainingContext
from retort.trainers.data.read import read_data
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.distiller import step_loss
from retort.trainers.encoder_output import BatchEncoder, DenseOutput, Tokens
from retort.trainers.methods import master
from retort.trainers.recipe import Recipe
from retort.trainers.roles import ModelInfo, StepContext
from retort.trainers.run import run_recipe
from retort.trainers.runtime.rng import rng_for

PASSAGES = "retort.trainers.methods.master.PassageBatches"
LOSS = "retort.trainers.methods.master.MultiTaskReconstruction"
QUESTIONS = "retort.trainers.data.pseudo_queries.GeneratedQuestions"
MOCK = "haystack.components.generators.chat.mock.MockChatGenerator"
LONG = " ".join("ship sail harbour captain wave anchor storm fish island tide".split() * 3)


@pytest.fixture
def source(beir, tmp_path, tiny_model):
    context = TrainingContext(read_data(beir, "train"), {}, tmp_path)
    return opened(master.PassageBatches(length=16), context, batch_size=9, student=tiny_model())


def whole(text) -> list[int]:
    """What a masked text was."""
    return np.where(text.labels == masking.IGNORED, text.ids, text.labels).tolist()


def hidden(text) -> np.ndarray:
    return text.labels != masking.IGNORED


@pytest.fixture
def of_texts(tmp_path, tiny_model):
    """Give a function: a source of some passages, of which a query may ask for the first."""

    def make(*texts, batch_size=3, query=None, **options):
        queries, qrels = TextStore([], []), {}
        if query is not None:
            queries, qrels = TextStore(["q"], [query]), {"q": {"0": 1}}
        data = RetrievalData("d", TextStore(map(str, range(len(texts))), texts), queries, qrels)
        context = TrainingContext(data, {}, tmp_path)
        return opened(master.PassageBatches(**options), context, batch_size=batch_size, student=tiny_model())

    return make


class TestReferenceValues:
    def test_a_rare_words_are_hidden_first(self):
        weights = master.keyword_weights([1000, 20, 40, 10, 0], smoothing=0.0)
        assert weights.tolist() == [0.001, 0.05, 0.025, 0.1, 1.0]
        expected = [0.000850, 0.042517, 0.021259, 0.085034, 0.850340]
        assert (weights / weights.sum()).tolist() == pytest.approx(expected, abs=1e-6)
        assert master.keyword_weights([1000, 1]).tolist() == [1 / 1005, 1 / 6]
        text = masking.TokenizedText(np.arange(7), np.array([-1, 0, 1, 2, 3, 4, -1]))
        first = [masking.hide_keywords(text, 0.2, weights, rng_for(n)) for n in range(2000)]
        assert np.mean(first, axis=0)[1:-1].tolist() == pytest.approx(expected, abs=0.03)

    @pytest.mark.parametrize(
        ("size", "share", "count"), [(30, 0.3, 9), (30, 0.5, 15), (1, 0.5, 1), (5, 0.5, 2), (3, 0.5, 2)]
    )
    def test_b_how_many_are_hidden(self, size, share, count):
        assert masking.budget(size, share) == count

    def test_c_complement_of_one_draw(self, source):
        """[1,0,1,1,0,0] and [0,1,0,0,1,1]: together all tokens, none twice."""
        for step in range(4):
            extras = source.batch(step).document_extras
            for read, rest in zip(extras["masked"][2::3], extras["complement"][2::3], strict=True):
                assert whole(read) == whole(rest)
                assert (hidden(read) ^ hidden(rest)).tolist() == [False, *[True] * (len(read.ids) - 2), False]

    def test_d_the_encoder_is_reached_through_its_vector_alone(self, source, tiny_model):
        """Of each decoder, with texts that went through the encoder: exactly zero at every other state."""
        model, batch, seen = tiny_model(pooling="cls"), source.batch(0), []
        objective = master.MultiTaskReconstruction(layers=1)
        objective.bind(ModelInfo(16, {}, {}, student=model))

        def note(_module, _arguments, out):
            seen.append(out[0] if isinstance(out, tuple) else out)
            if seen[-1].requires_grad:
                seen[-1].retain_grad()

        layers_of(model[0].model)[-1].register_forward_hook(note)
        output = BatchEncoder(StepContext("s", 0, 1).processes).encode(model, batch, 20.0, views=objective.views)
        assert output.queries.shape == (0, 16) and output.views["tokens"][0].states.shape[0] == 0
        values = objective(output, batch, StepContext("s", 0, 8, model=model))
        rows = {"keywords": 0, "queries": 0, "neighbour": 1, "complement": 2}
        assert values.keys() == {*master.READ, *rows}
        (states,) = (s for s in seen if len(s) == len(batch.documents))
        for name, form in rows.items():
            states.grad = None
            values[name].sum().backward(retain_graph=True)
            reached = states.grad[:, 0].abs().sum(-1) > 0
            own = [text is not None for text in batch.document_extras[name]]
            assert sorted(reached.tolist()) == sorted(own)  # the encoder sorts its texts
            assert not any(place % 3 != form for place, is_own in enumerate(own) if is_own)
            assert float(states.grad[:, 1:].abs().max()) == 0

    def test_e_cross_entropy_of_what_is_hidden(self):
        logits = torch.tensor([[[2.0, 0.5, 0.1], [0.2, 1.0, 0.3], [1.5, 1.4, 0.0]]])
        labels = torch.tensor([[0, masking.IGNORED, 1]])
        loss = decoders.masked_losses(lambda states, _: states, logits, labels, logits).mean()
        assert float(loss) == pytest.approx(0.585973, abs=1e-6)

    def test_f_eight_terms_alike(self):
        terms = [2.1, 1.9, 2.0, 3.0, 2.5, 2.2, 3.1, 2.8]
        names = (*master.READ, *master.TASKS)
        ones = torch.ones(2, dtype=torch.bool)
        weighted = {n: (torch.full((2,), v), ones, 1.0) for n, v in zip(names, terms, strict=True)}
        assert float(step_loss(weighted, dict.fromkeys(names, 2.0))) == pytest.approx(19.6, abs=1e-5)

    def test_g_fine_tuning(self):
        """The divergence from the ranker, with its entropy, and a fifth of an in-batch loss."""
        student, ranker = torch.tensor([[1.0, 0.5, 0.2]]), torch.tensor([[2.0, 1.0, -1.0]])
        mask = torch.ones(1, 3, dtype=torch.bool)
        kl = losses.listwise_kl(student, ranker, mask, student_temperature=1.0, teacher_temperature=1.0)
        entropy = torch.distributions.Categorical(logits=ranker).entropy()
        assert float(kl + entropy + 0.2 * 0.75) == pytest.approx(1.028537, abs=1e-6)


class TestPassages:
    def test_a_batch_depends_on_its_step_alone(self, source):
        batch = source.batch(3)
        assert batch.documents == source.batch(3).documents != source.batch(4).documents
        assert len(batch.documents) == 9 and batch.document_extras["passes"] == list(master.READ) * 3

    def test_halves_are_the_passage(self, source):
        """No token is dropped, and the second half is rebuilt from the first one's own pass."""
        extras = source.batch(1).document_extras
        for place in range(0, 9, 3):
            read = whole(extras["masked"][place])
            first, second = whole(extras["masked"][place + 1]), whole(extras["neighbour"][place + 1])
            assert [*first[:-1], *second[1:]] == read
        for text in ("one", "one two", "one two three", "a  b\n\nc"):
            first, second = master.halves(text)
            assert first.split() + second.split() == text.split()
        assert master.halves("one") == ("one", "")

    def test_queries_are_joined(self, source, beir):
        data, tokenizer = read_data(beir, "train"), source._tokenizer
        queries = {int(rows[0]): text for text, rows in zip(data.queries.texts, data.positives(), strict=True)}
        source._queries[0] = "what ship [SEP] what sail"
        found = source._forms(0, rng_for(0))["queries"]
        assert whole(found[0]) == tokenizer(source._queries[0])["input_ids"]
        parting = [source._forms(0, rng_for(n))["queries"][0].ids[3] for n in range(20)]
        assert set(parting) == {tokenizer.sep_token_id}  # what parts queries is never hidden
        unasked = next(row for row in range(len(data.corpus)) if row not in queries)
        assert source._forms(unasked, rng_for(0))["queries"] == [None] * 3

    def test_long_passages_are_cropped_at_random(self, tiny_model):
        tokenizer = tiny_model().tokenizer
        words = "ship sail harbour captain wave anchor storm fish island tide".split()
        found = {masking.crop(tokenizer, " ".join(words), 4, rng_for(n)) for n in range(60)}
        assert found == {" ".join(words[n : n + 4]) for n in range(7)}
        assert masking.crop(tokenizer, "ship sail", 4, rng_for(0)) == "ship sail"

    def test_a_passage_that_comes_again_is_cropped_and_masked_anew(self, of_texts):
        for length, form in ((8, whole), (40, lambda text: hidden(text).tolist())):
            source = of_texts(LONG, length=length)
            forms = [form(source.batch(step).document_extras["masked"][0]) for step in range(8)]
            assert len(set(map(tuple, forms))) > 1

    def test_queries_are_hidden_by_the_decoders_share(self, of_texts):
        source = of_texts(LONG, query=LONG, length=40, encoder_share=0.1, decoder_share=0.9)
        extras = source.batch(0).document_extras
        encoder, decoder = (hidden(extras[name][0]).mean() for name in ("masked", "queries"))
        assert encoder < 0.3 and decoder > 0.6

    def test_smoothing_is_what_it_is_set_to(self, of_texts, monkeypatch):
        seen, real = set(), master.keyword_weights
        monkeypatch.setattr(master, "keyword_weights", lambda counts, s: seen.add(s) or real(counts, s))
        of_texts(LONG, smoothing=1.5).batch(0)
        assert seen == {1.5}

    def test_a_passage_of_one_word_has_no_neighbour(self, of_texts):
        source = of_texts("ship", "ship sail", batch_size=6)
        assert source._forms(0, rng_for(0))["neighbour"] == [None] * 3
        assert source._forms(1, rng_for(0))["neighbour"][1] is not None

    @pytest.mark.parametrize(
        "options", [{"encoder_share": 0.0}, {"decoder_share": 1.0}, {"smoothing": -1}, {"length": 2}]
    )
    def test_mistakes(self, options):
        with pytest.raises(ValueError, match="PassageBatches: shares lie between 0 and 1"):
            master.PassageBatches(**options)

    def test_a_task_that_is_none(self):
        with pytest.raises(ValueError, match="there is no task 'next'; there are keywords"):
            master.MultiTaskReconstruction(tasks=["next"])


class TestTasks:
    def objective(self, tiny_model, **options):
        torch.manual_seed(0)
        objective = master.MultiTaskReconstruction(layers=1, **options)
        objective.bind(ModelInfo(16, {}, {}, student=tiny_model()))
        return objective

    def test_each_has_a_decoder_and_all_share_the_head(self, source, tiny_model):
        objective = self.objective(tiny_model)
        assert set(objective.decoders) == set(master.TASKS)
        first, second = (objective.decoders[n].layers[0].linear1.weight for n in ("keywords", "complement"))
        assert not torch.equal(first, second)
        assert sum("head" in name for name, _ in objective.named_children()) == 1
        assert set(self.objective(tiny_model, tasks=["keywords"]).decoders) == {"keywords"}

    def test_what_is_not_there_is_left_out(self, source, tiny_model):
        """No term, rather than one of 0, and no copy of the passage in its place."""
        objective, batch = self.objective(tiny_model), source.batch(0)
        assert "continuation" not in objective.valid(batch)
        batch.document_extras["queries"] = [None] * 9
        assert "queries" not in objective.valid(batch)
        states = torch.randn(9, 16, 16)
        mask = torch.ones(9, 16, dtype=torch.bool)
        tokens = Tokens(states, mask, mask.long())
        output = DenseOutput(states[:0, 0], states[:, 0], 1.0, "cosine", views={"tokens": (tokens, tokens)})
        values = objective(output, batch, StepContext("s", 1, 8, model=tiny_model()))
        assert {name: len(v) for name, v in values.items()} == {n: len(v) for n, v in objective.valid(batch).items()}

    def test_parts_without_a_form(self, source, tiny_model):
        """Accumulation may cut a passage's forms apart."""
        objective = self.objective(tiny_model)
        parts = source.batch(0).split(9)
        assert [set(objective.valid(part)) & set(master.READ) for part in parts] == [{name} for name in master.READ] * 3
        assert isinstance(parts[0], CandidateBatch)


@pytest.fixture
def tree(recipe_tree) -> dict:
    """Pre-training with queries of a generator, and its continuations."""
    tree = copy.deepcopy(recipe_tree) | {"teachers": {}, "candidates": {}}
    answer = {"responses": [ChatMessage.from_assistant("what is a ship?\nthe ship sail").to_dict()]}
    generated = spec(QUESTIONS, generator=spec(MOCK, **answer), prompt="More: {document}")
    batches = spec(PASSAGES, length=16, continuations=generated)
    loss = spec(LOSS, layers=1, shuffle_every=2)
    tree["stages"] = [stage("pre-train", 4, loss, batches=batches, queries=copy.deepcopy(generated))]
    tree["student"]["init_parameters"]["pooling"] = "cls"
    tree["training"] |= {"batch_size": 9, "keep": "last"}
    return tree


class TestRuns:
    def test_a_killed_run(self, tree, beir, tmp_path, monkeypatch):
        """All eight terms, over a corpus alone; the generator's texts are asked for once."""
        from retort.trainers.teachers.chat_generator import ChatModel

        asked, real = [], ChatModel._answer
        monkeypatch.setattr(ChatModel, "_answer", lambda self, prompt: asked.append(prompt) or real(self, prompt))
        alone = tmp_path / "alone"
        alone.mkdir()
        (alone / "corpus.jsonl").write_bytes((beir / "corpus.jsonl").read_bytes())
        out = tmp_path / "whole" / "run"
        run_recipe(Recipe.from_dict(tree), alone, out)
        lines = log_of(out)
        assert set(lines[0]["terms"]) == {"loss", *master.READ, *master.TASKS}
        assert lines[0]["terms"]["loss"] == pytest.approx(
            sum(lines[0]["terms"][name] for name in (*master.READ, *master.TASKS)), rel=1e-5
        )
        assert {f"{n}_{kind}" for n in master.TASKS for kind in ("matched", "shuffled")} == set(
            lines[0]["logged_terms"]
        )
        assert len(asked) == len(set(asked)) == len(read_data(beir, "train").corpus)  # queries and continuations alike
        assert_comes_back(tree, alone, tmp_path, monkeypatch, everything(out), (2,))

    def test_queries_of_the_data(self, tree, beir, tmp_path):
        """Where there is no generator; and without queries the task is left out."""
        del tree["stages"][0]["queries"], tree["stages"][0]["batches"]["init_parameters"]["continuations"]
        tree["stages"][0]["steps"] = 2
        run_recipe(Recipe.from_dict(tree), beir, tmp_path / "asked" / "run")
        assert set(log_of(tmp_path / "asked" / "run")[0]["terms"]) == {
            "loss",
            *master.READ,
            *set(master.TASKS) - {"continuation"},
        }
        alone = tmp_path / "alone"
        alone.mkdir()
        (alone / "corpus.jsonl").write_bytes((beir / "corpus.jsonl").read_bytes())
        run_recipe(Recipe.from_dict(tree), alone, tmp_path / "alone" / "run")
        assert set(log_of(tmp_path / "alone" / "run")[0]["terms"]) == {
            "loss",
            *master.READ,
            *set(master.TASKS) - {"continuation", "queries"},
        }


def test_the_tie_is_kept_after_save_and_reload(tiny_model, tmp_path):
    """The head owns no table: it reads the reloaded student's own."""
    from retort.students import save_student
    from retort.students.create import pretrained

    model = tiny_model(pooling="cls")
    head = decoders.MaskedLMHead(decoders.document_encoder(model))
    with torch.no_grad():
        decoders.document_encoder(model).get_input_embeddings().weight.add_(1.0)
    save_student(model, tmp_path / "student")
    again = decoders.document_encoder(pretrained(str(tmp_path / "student")))
    table = again.get_input_embeddings().weight
    assert torch.equal(table, decoders.document_encoder(model).get_input_embeddings().weight)
    states = torch.randn(3, 16)
    body = head.body(inputs_embeds=states[None]).logits[0]
    torch.testing.assert_close(head(states, table), F.linear(body, table, head.bias))
    assert all(table.shape[0] not in t.shape or t.ndim == 1 for t in head.state_dict().values())
