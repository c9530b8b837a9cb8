# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""CoT-MAE: reference values, spans and masks, the bottleneck, a corpus alone, a trunk for others, and a killed run."""

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from haystack import Document
from tiny import (
    TOPICS,
    assert_comes_back,
    everything,
    log_of,
    opened,
    spec,
    stage,
    tiny_config,
    write_jsonl,
    write_tokenizer,
)
from torch import nn

import retort
from retort.cli.main import main
from retort.students import Student, save_student
from retort.students.create import from_layers, pretrained
from retort.students.encoding import encode_parts
from retort.trainers import decoders
from retort.trainers.batches import masking, spans
from retort.trainers.context import TrainingContext
from retort.trainers.data.read import read_data
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.encoder_output import BatchEncoder
from retort.trainers.evaluation.report import write_report
from retort.trainers.methods.cotmae import ContextReconstruction
from retort.trainers.recipe import Recipe
from retort.trainers.roles import ModelInfo, StepContext
from retort.trainers.run import run_recipe
from retort.trainers.run_folder import write_corpus
from retort.trainers.runtime.errors import DataError, RecipeError
from retort.trainers.runtime.rng import rng_for

SPANS = "retort.trainers.batches.spans.SpanBatches"
LOSS = "retort.trainers.methods.cotmae.ContextReconstruction"
GROUP = r"(d\d)\d"  # the eight documents of a topic are one


@pytest.fixture(autouse=True)
def _not_exported(monkeypatch):
    """It takes seconds, and `test_exports.py` has it."""
    monkeypatch.setattr("retort.workflows.export_to_serve", lambda *_, **__: None)


def span_stage(name: str = "pre-train", steps: int = 6, **options) -> dict:
    batches = spec(SPANS, length=16, group=GROUP, **options)
    return stage(name, steps, spec(LOSS, layers=1, shuffle_every=2), batches=batches)


@pytest.fixture
def tree(recipe_tree) -> dict:
    """Pre-training alone, with dropout."""
    tree = copy.deepcopy(recipe_tree) | {"teachers": {}, "candidates": {}, "stages": [span_stage()]}
    tree["student"]["init_parameters"]["pooling"] = "cls"
    tree["training"] |= {"batch_size": 8, "keep": "last"}
    return tree


@pytest.fixture
def source(beir, tmp_path, tiny_model):
    context = TrainingContext(read_data(beir, "train"), {}, tmp_path)
    return opened(spans.SpanBatches(length=16, group=GROUP), context, batch_size=6, student=tiny_model())


@pytest.fixture
def computed(source, tiny_model):
    """A batch, what the encoder makes of it, and the objective that looks at it."""
    torch.manual_seed(3)
    model, batch = tiny_model(pooling="cls"), source.batch(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(10 if weights.ndim > 1 else 1)  # else all vectors are nearly the same
    objective = ContextReconstruction(layers=2, shuffle_every=1)
    objective.bind(ModelInfo(16, {}, {}, student=model))
    ctx = StepContext("s", 0, 8, model=model)
    return model, batch, BatchEncoder(ctx.processes).encode(model, batch, 1.0, views=objective.views), objective, ctx


def hidden(text) -> np.ndarray:
    return text.labels != masking.IGNORED


class TestReferenceValues:
    @pytest.mark.parametrize(("size", "encoder", "decoder"), [(126, 38, 57), (100, 30, 45), (50, 15, 22), (3, 1, 1)])
    def test_how_many_are_hidden(self, size, encoder, decoder):
        assert (masking.budget(size, 0.3), masking.budget(size, 0.45)) == (encoder, decoder)

    def test_cross_entropy_of_what_is_hidden(self):
        logits = torch.tensor([[[1.0, 0.0, -1.0], [0.5, 0.5, 0.0], [0.0, 2.0, 1.0]]])
        labels = torch.tensor([[0, masking.IGNORED, 2]])
        loss = decoders.masked_losses(lambda states, _: states, logits, labels, logits).mean()
        assert float(loss) == pytest.approx(0.907606, abs=1e-6)
        assert 2.0 + 1.0 * float(loss) == pytest.approx(2.907606, abs=1e-6)

    def test_what_is_rebuilt_from_what(self):
        assert spans.swapped(["A1", "B1", "A2", "B2", "A3", "B3"]) == ["B1", "A1", "B2", "A2", "B3", "A3"]


class TestSpans:
    def test_no_token_is_dropped(self, beir, tokenizer_path, tiny_model):
        """Spans in order are the document, and each fits."""
        tokenizer = tiny_model().tokenizer
        texts = spans.join_passages(read_data(beir, "train").corpus, GROUP)
        assert len(texts) == len(TOPICS)
        texts += ["ship " * 40 + "is it. A song.", "the sea"]  # one sentence of several spans; one span
        for text in texts:
            document = spans.cut_document(text, tokenizer, 9, itertools.repeat(9))
            joined = " ".join(document.text_of(span) for span in document.spans)
            assert joined.split() == text.split()
            for span in document.spans:
                assert len(tokenizer(document.text_of(span))["input_ids"]) <= 9 + 2
        assert len(document.spans) == 1

    def test_neighbours_are_packed_up_to_their_targets(self):
        assert spans.pack([4, 4, 4, 9, 1], itertools.cycle([8, 5])) == [(0, 2), (2, 3), (3, 4), (4, 5)]
        assert spans.pack([], itertools.repeat(5)) == []

    def test_contexts(self):
        """Six sentences of 4 tokens, two a span, with room for 12."""
        document = spans.Document("", [(0, 1)] * 6, [4] * 6, [(0, 2), (2, 4), (4, 6)])

        def drawn(span, kind, room=12):
            return {spans.context_of(document, span, kind, room, rng_for(n)) for n in range(30)}

        assert drawn(1, "nearby") == {(0, 2), (4, 6)} and drawn(0, "nearby") == {(2, 4)}
        assert drawn(0, "random") == {(2, 4), (4, 6)}
        assert drawn(0, "overlap") == {(1, 4)}  # its last sentence, and two more
        assert drawn(2, "overlap") == {(2, 5)}  # of the last span: its first, and two before
        long = spans.Document("", [(0, 1)] * 12, [4] * 12, [(0, 6), (6, 12)])
        found = {spans.context_of(long, 0, "overlap", 100, rng_for(n)) for n in range(30)}
        assert found == {(5, 12), (4, 12), (3, 12)}  # at most half of the span

    def test_no_context_is_the_span_itself(self):
        """Of one sentence, or with room for no more, the span beside it is."""
        single = spans.Document("", [(0, 1)] * 3, [40] * 3, [(0, 1), (1, 2), (2, 3)])
        tight = spans.Document("", [(0, 1)] * 4, [20, 20, 40, 5], [(0, 2), (2, 3), (3, 4)])
        for document, span, beside in ((single, 0, 1), (single, 1, None), (single, 2, 1), (tight, 0, 1)):
            found = {spans.context_of(document, span, "overlap", 46, rng_for(n)) for n in range(20)}
            assert found == {own for n, own in enumerate(document.spans) if n == beside or (beside is None and n != 1)}

    def test_a_batch_depends_on_its_step_alone(self, source):
        batch = source.batch(3)
        assert batch.documents == source.batch(3).documents != source.batch(4).documents
        assert len(batch.documents) == 6 and batch.queries == []
        again = source.batch(3).document_extras
        for name in ("masked", "context"):
            assert all((a.ids == b.ids).all() for a, b in zip(batch.document_extras[name], again[name], strict=True))

    def test_pairs_are_swapped(self, source):
        """What the decoder rebuilds is the other text of the pair; with `self` it is the same text, hidden otherwise."""

        def whole(text):
            return np.where(text.labels == masking.IGNORED, text.ids, text.labels).tolist()

        def sides(context):
            source.context = context
            extras = source.batch(0).document_extras
            return [[whole(text) for text in extras[name]] for name in ("masked", "context")], extras

        (seen, rebuilt), extras = sides("mixed")
        assert rebuilt == spans.swapped(seen) != seen
        own, _ = sides("self")
        assert own == [seen, seen]
        masks = [[hidden(text) for text in extras[name]] for name in ("masked", "context")]
        assert any((a != b).any() for a, b in zip(masks[0], spans.swapped(masks[1]), strict=True))

    def test_encoder_and_decoder_have_draws_of_their_own(self, source):
        """By a common one all that is hidden from the encoder would be hidden from the decoder, too."""
        contained = []
        for step in range(8):
            extras = source.batch(step).document_extras
            for own, other in zip(extras["masked"], spans.swapped(extras["context"]), strict=True):
                contained.append((hidden(other) | ~hidden(own)).all())
        assert np.mean(contained) < 0.6

    def test_shares_of_encoder_and_decoder(self, source):
        source.encoder_share, source.decoder_share = 0.1, 0.9
        extras = source.batch(0).document_extras
        encoder, decoder = (np.mean([hidden(t).mean() for t in extras[name]]) for name in ("masked", "context"))
        assert encoder < 0.3 and decoder > 0.5

    def test_a_text_that_comes_again_is_masked_anew(self, source, monkeypatch):
        monkeypatch.setattr(source, "pair_texts", lambda *_: ("the ship sail in the harbour wave.",) * 2)
        masks = {tuple(hidden(source.batch(step).document_extras["masked"][0]).tolist()) for step in range(5)}
        assert len(masks) > 1

    def test_each_epoch_draws_a_span_and_its_context(self, source, monkeypatch):
        """The latter of any kind."""
        assert len({source.pair_texts(0, epoch) for epoch in range(12)}) > 2
        kinds = []
        monkeypatch.setattr(spans, "context_of", lambda d, span, kind, *_: kinds.append(kind) or d.spans[span])
        for epoch in range(40):
            source.pair_texts(0, epoch)
        assert set(kinds) == {"nearby", "overlap", "random"}

    def test_parts_have_their_own(self, source):
        whole = source.batch(0)
        parts = whole.split(2)
        for name in ("masked", "context", "passes"):
            assert [text for part in parts for text in part.document_extras[name]] == whole.document_extras[name]

    def test_documents_of_one_span_are_refused(self, beir, tmp_path, tiny_model):
        context = TrainingContext(read_data(beir, "train"), {}, tmp_path)
        with pytest.raises(
            RecipeError, match="none of 40 documents is longer than a span of 64 tokens. Lower `length`"
        ):
            opened(spans.SpanBatches(), context, batch_size=4, student=tiny_model())

    def test_a_student_that_reads_one_token(self, beir, tmp_path, tiny_model):
        context = TrainingContext(read_data(beir, "train"), {}, tmp_path)
        with pytest.raises(RecipeError, match=r"the student reads 3 tokens of a document; raise max_tokens.document"):
            opened(spans.SpanBatches(), context, batch_size=4, student=tiny_model(max_tokens={"document": 3}))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"context": "far"}, "context must be one of"),
            ({"decoder_share": 1.0}, "shares lie between 0 and 1"),
            ({"group": r"d\d"}, "needs a group in brackets"),
        ],
    )
    def test_mistakes(self, options, message):
        with pytest.raises(ValueError, match=message):
            spans.SpanBatches(**options)


def tokenizer_of(kind: str, folder):
    """Tiny tokenizers of three families, over letters and some merges."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if kind == "wordpiece":
        return AutoTokenizer.from_pretrained(write_tokenizer(folder, ["sea", "##side", "ship", "."]))
    special = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    if kind == "byte-level":
        words = ["\u0120", "s", "e", "a", "i", "d", "h", "p", ".", "\u0120s", "ea", "id", "hip"]
        merges = [("\u0120", "s"), ("e", "a"), ("i", "d"), ("i", "p"), ("h", "ip")]
        vocabulary = {w: i for i, w in enumerate([*special, *words, "ip"])}
        made = Tokenizer(models.BPE(vocabulary, merges))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    else:
        pieces = ["\u2581", "\u2581sea", "side", "\u2581ship", ".", *"\u6211\u4eec\u559c\u6b22\u6d77\u8fb9"]
        made = Tokenizer(models.Unigram([*((w, 0.0) for w in special), *((w, -1.0) for w in pieces)], unk_id=1))
        made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    names = dict(zip(("pad", "unk", "bos", "eos", "mask"), special, strict=True))
    tokens = {f"{name}_token": token for name, token in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=made, cls_token="<s>", sep_token="</s>", **tokens)


class TestMasks:
    @pytest.mark.parametrize(
        ("kind", "text", "words"),
        [
            ("wordpiece", "seaside ship.", [["sea", "##side"], ["ship"], ["."]]),
            ("byte-level", "seaside ship.", [["\u0120s", "ea", "s", "id", "e"], ["\u0120s", "hip"], ["."]]),
            ("sentencepiece", "seaside ship.", [["\u2581sea", "side"], ["\u2581ship", "."]]),
            # No space between words: the tokenizer takes all for one.
            (
                "sentencepiece",
                "\u6211\u4eec\u559c\u6b22\u6d77\u8fb9",
                [["\u2581", "\u6211", "\u4eec"], ["\u559c", "\u6b22"], ["\u6d77", "\u8fb9"]],
            ),
        ],
    )
    def test_pieces_of_a_word(self, kind, text, words, tmp_path):
        tokenizer = tokenizer_of(kind, tmp_path)
        read = masking.tokenize(tokenizer, text, 32)
        assert read.words[0] == read.words[-1] == -1
        tokens = tokenizer.convert_ids_to_tokens(read.ids.tolist())
        own = [
            [t for t, of in zip(tokens, read.words, strict=True) if of == w] for w in np.unique(read.words) if w >= 0
        ]
        assert own == words

    def test_whole_words_within_the_budget(self, tmp_path):
        read = masking.tokenize(tokenizer_of("wordpiece", tmp_path), "seaside ship seaside ship ship.", 32)
        counts = set()
        for n in range(40):
            hidden = masking.hide_words(read, 0.5, rng_for(n))
            counts.add(int(hidden.sum()))
            assert not hidden[0] and not hidden[-1]
            for word in np.unique(read.words):
                assert len(set(hidden[read.words == word])) == 1
        assert max(counts) == 4 and min(counts) >= 3  # of 8

    def test_most_are_masked_and_some_stay(self, tokenizer_path, tiny_model):
        tokenizer = tiny_model().tokenizer
        ids = np.full(4000, 30)
        hidden = np.arange(4000) % 2 == 0
        found = masking.mask_tokens(masking.TokenizedText(ids, ids), hidden, tokenizer, rng_for(1))
        assert (found.labels[hidden] == 30).all() and (found.labels[~hidden] == masking.IGNORED).all()
        assert (found.ids[~hidden] == 30).all()
        own = found.ids[hidden]
        assert (own == tokenizer.mask_token_id).mean() == pytest.approx(0.8, abs=0.03)
        assert (own == 30).mean() == pytest.approx(0.1, abs=0.03)

    def test_a_text_without_a_word(self, tiny_model):
        read = masking.tokenize(tiny_model().tokenizer, "", 8)
        assert not masking.hide_words(read, 0.3, rng_for(0)).any()
        assert not masking.hide_keywords(read, 0.3, np.array([]), rng_for(0)).any()

    def test_the_first_token_is_never_hidden(self):
        """Be it no special one: decoders put the vector in its place."""

        class Plain:
            is_fast, all_special_ids = False, [0]

            def __call__(self, text, **_):
                return {"input_ids": [7, 8, 9]}

        assert masking.tokenize(Plain(), "the ship sail", None).words.tolist() == [-1, 1, 2]

    def test_a_tokenizer_without_a_mask_token(self):
        with pytest.raises(ValueError, match="SpanBatches: the student's tokenizer has no mask token"):
            masking.check_mask_token(object(), "SpanBatches")


class TestBottleneck:
    def test_the_encoder_is_reached_through_its_vector_alone(self, computed):
        _, batch, output, objective, ctx = computed
        tokens = output.views["tokens"][1]
        tokens.states = states = tokens.states.detach().requires_grad_()
        values = objective(output, batch, ctx)
        values["context"].sum().backward(retain_graph=True)
        assert bool((states.grad[:, 0].abs().sum(-1) > 0).all())
        assert float(states.grad[:, 1:].abs().max()) == 0
        values["mlm"].sum().backward()
        assert float(states.grad[:, 1:].abs().max()) > 0

    def test_the_first_position_is_the_vector_bit_for_bit(self, computed):
        model, batch, output, objective, ctx = computed
        seen = []
        objective.decoders["context"].layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        objective(output, batch, ctx)
        states = encode_parts(model, batch.documents, "document", views=("tokens",), length=16)["tokens"]
        assert torch.equal(seen[0][:, 0], states[:, 0])
        ids = nn.utils.rnn.pad_sequence(
            [torch.from_numpy(text.ids) for text in batch.document_extras["context"]], batch_first=True
        )
        assert torch.equal(seen[0][:, 1:], model[0].model.embeddings(input_ids=ids)[:, 1:])
        assert torch.equal(seen[1][:, 0], states[:, 0].roll(3, 0))  # the logged one

    def test_the_first_position_is_never_scored(self, source):
        for step in range(5):
            for name in ("masked", "context"):
                assert all(text.labels[0] == masking.IGNORED for text in source.batch(step).document_extras[name])

    def test_only_the_vectors_matter(self, computed):
        _, batch, output, objective, ctx = computed
        tokens = output.views["tokens"][1]
        whole = objective(output, batch, ctx)["context"]
        logged = {name: values for name, (values, _) in ctx.logged_terms.items()}
        assert torch.equal(logged["context_matched"], whole)
        tokens.states = torch.cat([tokens.states[:, :1], tokens.states[:, 1:].flip(0)], dim=1)
        assert torch.equal(objective(output, batch, ctx)["context"], whole)
        tokens.states = tokens.states.roll(3, 0)
        moved = objective(output, batch, ctx)["context"]
        assert float((moved - whole).detach().abs().max()) > 1e-3
        torch.testing.assert_close(logged["context_shuffled"], moved)

    def test_a_masked_mean_does_as_well(self, source, tiny_model):
        model, batch = tiny_model(pooling="mean"), source.batch(0)
        parts = encode_parts(model, batch.documents, "document", views=("tokens",), length=16)
        vectors = decoders.pool_tokens(model, parts["tokens"], parts["token_mask"])
        mask = parts["token_mask"][..., None]
        torch.testing.assert_close(vectors, (parts["tokens"] * mask).sum(1) / mask.sum(1))

    def test_pads_take_no_part_in_the_mean(self, source, tiny_model):
        """Nor in what a decoder rebuilds from it."""
        torch.manual_seed(3)
        model, batch = tiny_model(pooling="mean"), source.batch(0)
        objective = ContextReconstruction(layers=1)
        objective.bind(ModelInfo(16, {}, {}, student=model))
        objective.eval()
        ctx = StepContext("s", 1, 8, model=model)
        output = BatchEncoder(ctx.processes).encode(model, batch, 1.0, views=objective.views)
        tokens = output.views["tokens"][1]
        values, there = objective(output, batch, ctx)["context"], tokens.mask.bool()
        assert not there.all()
        tokens.states = tokens.states.where(there[..., None], 99.0)
        torch.testing.assert_close(objective(output, batch, ctx)["context"], values)

    def test_decoders_do_not_look_at_pads(self, tiny_model):
        encoder = decoders.document_encoder(tiny_model())
        torch.manual_seed(0)
        decoder, vectors, embedded = decoders.WeakDecoder(encoder, 1).eval(), torch.randn(1, 16), torch.randn(1, 6, 16)
        there = torch.tensor([[True] * 4 + [False] * 2])
        alone = decoder(vectors, embedded[:, :4], there[:, :4])
        torch.testing.assert_close(decoder(vectors, embedded, there)[:, :4], alone)

    def test_a_decoder_is_a_layer_of_bert(self, tokenizer_path):
        """In its widths, with the same weights in its states, and in where it drops."""
        from transformers import BertConfig, BertModel

        config = BertConfig(**tiny_config() | {"hidden_dropout_prob": 0.3, "intermediate_size": 40})
        torch.manual_seed(0)
        encoder = BertModel(config)
        theirs, ours = encoder.encoder.layer[0], decoders.WeakDecoder(encoder, 1).layers[0]
        own = theirs.attention.self
        joined = {
            f"self_attn.in_proj_{kind}": torch.cat([getattr(part, kind) for part in (own.query, own.key, own.value)])
            for kind in ("weight", "bias")
        }
        names = {
            "self_attn.out_proj": theirs.attention.output.dense,
            "linear1": theirs.intermediate.dense,
            "linear2": theirs.output.dense,
            "norm1": theirs.attention.output.LayerNorm,
            "norm2": theirs.output.LayerNorm,
        }
        ours.load_state_dict(joined | {f"{n}.{k}": v for n, m in names.items() for k, v in m.state_dict().items()})
        states = torch.randn(2, 5, config.hidden_size)
        found = theirs.eval()(states)
        torch.testing.assert_close(ours.eval()(states), found[0] if isinstance(found, tuple) else found)
        dropped = [m.p for m in ours.modules() if isinstance(m, torch.nn.Dropout)]
        assert sorted(dropped) == [0.0, 0.3, 0.3]  # none within the feed-forward part

    def test_without_decoders_it_is_masked_language_modelling(self, source, tiny_model):
        objective = ContextReconstruction(weight=0.0)
        objective.bind(ModelInfo(16, {}, {}, student=tiny_model()))
        assert set(objective.valid(source.batch(0))) == {"mlm"}
        assert not any("decoders" in name for name, _ in objective.named_parameters())

    @pytest.mark.parametrize("options", [{"layers": 0}, {"weight": -1.0}, {"shuffle_every": 0}])
    def test_mistakes(self, options):
        with pytest.raises(ValueError, match="ContextReconstruction: layers and shuffle_every are at least 1"):
            ContextReconstruction(**options)


def tiny_encoder(kind: str, size: int):
    from transformers import AutoConfig

    config = tiny_config() | {"model_type": kind, "vocab_size": size, "pad_token_id": 0}
    if kind == "distilbert":
        config |= {"dim": 16, "n_heads": 2, "n_layers": 2, "hidden_dim": 32}
    if kind in {"electra", "albert"}:
        config |= {"embedding_size": 8}
    return AutoConfig.for_model(**config)


KINDS = ["bert", "roberta", "distilbert", "xlm-roberta", "mpnet", "electra", "albert", "modernbert"]


class TestHead:
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_trunk_of_any_architecture_brings_its_own(self, kind, tokenizer_path, tmp_path):
        """Its logits are those of the whole model, decoders read its embeddings, and a trunk without a head has a new one."""
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        torch.manual_seed(4)
        words = AutoTokenizer.from_pretrained(tokenizer_path)
        whole = AutoModelForMaskedLM.from_config(tiny_encoder(kind, len(words))).eval()
        torch.nn.init.normal_(whole.get_output_embeddings().bias)
        whole.save_pretrained(tmp_path / "mlm")
        words.save_pretrained(tmp_path / "mlm")
        student = pretrained(str(tmp_path / "mlm"), pooling="cls")
        encoder = decoders.document_encoder(student)
        head = decoders.MaskedLMHead(encoder)
        ids = torch.tensor([[2, 10, 11, 3]])
        states = encoder(input_ids=ids).last_hidden_state
        table = encoder.get_input_embeddings().weight
        torch.testing.assert_close(head(states[0], table), whole(input_ids=ids).logits[0])
        assert not any(table.shape[0] in p.shape and p.ndim > 1 for p in head.parameters())  # tied: it has no table
        decoder = decoders.WeakDecoder(encoder, 1).eval()
        embedded = decoders.embed_tokens(encoder, ids)
        assert decoder(states[:, 0], embedded, torch.ones(1, 4, dtype=torch.bool)).shape == (1, 4, 16)
        assert (decoder.positions is None) == (kind != "modernbert")
        encoder.config.architectures = None
        fresh = decoders.MaskedLMHead(encoder)
        assert float((fresh(states[0], table) - head(states[0], table)).detach().abs().max()) > 0.1

    def test_a_fresh_one_knows_how_often_tokens_occur(self, tiny_model, beir, tmp_path):
        """Else the table that it is tied to would learn it, which the encoder reads; one of the trunk's own stays."""
        student, corpus = tiny_model(), read_data(beir, "train").corpus
        context = TrainingContext(RetrievalData("d", corpus, TextStore([], [])), {}, tmp_path)
        objective = ContextReconstruction(layers=1)
        objective.bind(ModelInfo(16, {}, {}, student=student))
        assert objective.head.fresh and not objective.head.bias.any()
        objective.warm_start(student, context)
        ids = [i for text in corpus.texts for i in student.tokenizer(text, add_special_tokens=False)["input_ids"]]
        counts = np.bincount(ids, minlength=len(student.tokenizer)) + 1
        np.testing.assert_allclose(objective.head.bias.softmax(0).detach(), counts / counts.sum(), rtol=1e-5)
        objective.head.fresh = False
        torch.nn.init.zeros_(objective.head.bias)
        objective.warm_start(student, context)
        assert not objective.head.bias.any()

    def test_the_table_that_it_is_tied_to_learns(self, computed):
        """Not by way of the encoder alone."""
        model, batch, output, objective, ctx = computed
        tokens = output.views["tokens"][1]
        tokens.states = tokens.states.detach()
        table = decoders.document_encoder(model).get_input_embeddings().weight
        objective(output, batch, ctx)["mlm"].sum().backward()
        assert table.grad.any()

    def test_the_weight_is_of_decoders_alone(self, computed):
        """What the encoder predicts itself counts as it is."""
        _, batch, output, objective, ctx = computed
        plain = objective.eval()(output, batch, ctx)
        objective.weight = 2.0
        heavier = objective(output, batch, ctx)
        torch.testing.assert_close(heavier["context"], 2 * plain["context"])
        torch.testing.assert_close(heavier["mlm"], plain["mlm"])

    def test_it_is_loaded_as_the_encoder_was(self, tokenizer_path, tmp_path, monkeypatch):
        from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

        words = AutoTokenizer.from_pretrained(tokenizer_path)
        for part in (AutoModelForMaskedLM.from_config(tiny_encoder("bert", len(words))), words):
            part.save_pretrained(tmp_path)
        asked, load = [], AutoModelForMaskedLM.from_pretrained
        monkeypatch.setattr(
            AutoModelForMaskedLM, "from_pretrained", lambda name, **o: asked.append((name, o)) or load(name)
        )
        place = {"revision": "0123abcd", "token": "secret", "local_files_only": True}
        trunk, folders = str(tmp_path), {"cache_folder": str(tmp_path / "cache")}
        decoders.MaskedLMHead(
            copy.deepcopy(decoders.document_encoder(pretrained(trunk, trust_remote_code=True, **place, **folders)))
        )
        decoders.MaskedLMHead(decoders.document_encoder(from_layers(trunk, [0])))
        decoders.MaskedLMHead(AutoModel.from_pretrained(trunk))
        cache = {"cache_dir": folders["cache_folder"]}
        safe = {"use_safetensors": True}
        assert asked == [
            (trunk, safe | place | cache | {"trust_remote_code": True}),
            (trunk, safe | {"trust_remote_code": False}),
            (trunk, safe),
        ]

    def test_a_token_is_not_saved(self, tiny_student, tmp_path):
        save_student(pretrained(tiny_student, token="hf_secret"), tmp_path / "s")
        assert not [
            file for file in (tmp_path / "s").rglob("*") if file.is_file() and b"hf_secret" in file.read_bytes()
        ]

    def test_what_has_none(self, tiny_student, sparse_student):
        from retort.students.create import sparse, static

        for student in (static(tiny_student), sparse(sparse_student)):
            with pytest.raises(ValueError, match="ContextReconstruction: the student must be a dense encoder"):
                ContextReconstruction().bind(ModelInfo(16, {}, {}, student=student))

    def test_embeddings_of_another_width(self, tiny_model, monkeypatch):
        monkeypatch.setattr(decoders, "embed_tokens", lambda *_: torch.zeros(1, 1, 8))
        with pytest.raises(ValueError, match="bert reads embeddings of 8 entries, and its states have 16"):
            ContextReconstruction().bind(ModelInfo(16, {}, {}, student=tiny_model()))

    def test_pooling_in_several_ways(self, tiny_model):
        with pytest.raises(ValueError, match="the student pools in several ways at once"):
            ContextReconstruction().bind(ModelInfo(32, {}, {}, student=tiny_model(pooling=["cls", "mean"])))


class TestRuns:
    def test_a_killed_run(self, tree, beir, tmp_path, monkeypatch):
        tree["training"] |= {"accumulation": 2, "cache_gradients": True}
        out = tmp_path / "whole" / "run"
        run_recipe(Recipe.from_dict(tree), beir, out)
        lines = log_of(out)
        assert set(lines[0]["terms"]) == {"loss", "mlm", "context"}
        assert set(lines[0]["logged_terms"]) == {"context_matched", "context_shuffled"}
        assert "logged_terms" not in lines[1]
        assert_comes_back(tree, beir, tmp_path, monkeypatch, everything(out), (3,))

    def test_a_corpus_alone_gives_a_trunk_for_others(self, tree, beir, tiny_student, tmp_path):
        """Without queries nothing is measured; the folder is an encoder of transformers, and a recipe's trunk."""
        from transformers import AutoModel, AutoTokenizer

        alone = tmp_path / "alone"
        alone.mkdir()
        (alone / "corpus.jsonl").write_bytes((beir / "corpus.jsonl").read_bytes())
        metrics = run_recipe(Recipe.from_dict(tree), alone, tmp_path / "a" / "run")
        assert metrics["dev"] == {} and metrics["training"]["best_step"] == 6
        folder = tmp_path / "a" / "run" / "student"
        assert json.loads((folder / "retort.json").read_text())["metrics"] == {}
        encoder, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        text = "the ship in the sea."
        states = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0]
        vector = Student.load(str(folder)).encode_document([text])[0]
        torch.testing.assert_close(torch.nn.functional.normalize(states, dim=0), torch.from_numpy(vector))
        assert not any("decoder" in name or "head" in name for name, _ in encoder.named_parameters())
        with pytest.raises(DataError, match="was not measured: its data had no dev queries"):
            write_report(tmp_path / "a" / "run", tmp_path / "report.html")
        trunk = from_layers(str(folder), [0])
        first = next(trunk[0].model.encoder.layer.parameters())
        assert torch.equal(first, next(encoder.encoder.layer.parameters()))

        kd = Recipe.from_yaml(
            "kd",
            overrides=[
                f"student.init_parameters.trunk={folder}",
                "student.init_parameters.layers=[0]",
                "student.init_parameters.max_tokens={query: 16, document: 32}",
                f"teachers.teacher.init_parameters.model={tiny_student}",
                "stages.0.steps=2",
                "stages.1.steps=2",
                "stages.0.objectives.0.init_parameters={projection: true}",
                "stages.1.objectives.0.init_parameters={projection: true}",
            ],
        )
        after = run_recipe(kd, beir, tmp_path / "b" / "run")
        assert after["training"]["global_step"] == 4 and after["dev"]["student"]["queries"] == 10

    def test_documents_alone(self, tree, tmp_path, capsys):
        """Files are read whole, once; the command says that nothing is measured."""
        import yaml

        (tmp_path / "texts").mkdir()
        for topic, words in TOPICS.items():
            text = " ".join(f"the {word} is in the {topic}." for word in words.split())
            (tmp_path / "texts" / f"{topic}.txt").write_text(text)
        del tree["stages"][0]["batches"]["init_parameters"]["group"]
        tree["stages"][0]["steps"] = 2
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
        out = tmp_path / "run"
        command = ["train", "--recipe", str(tmp_path / "recipe.yaml"), "--out", str(out), "--no-export"]
        main([*command, "--documents", str(tmp_path / "texts")])
        assert f"student: {out / 'student'}  (not measured: there are no dev queries)" in capsys.readouterr().out
        kept = read_corpus_ids(out / "data")
        assert kept == [f"{topic}.txt#0" for topic in sorted(TOPICS)]
        (tmp_path / "texts" / "sea.txt").unlink()
        main([*command, "--documents", str(tmp_path / "texts"), "--resume"])
        assert read_corpus_ids(out / "data") == kept
        (tmp_path / "others").mkdir()
        (tmp_path / "others" / "sea.txt").write_text("the ship is in the sea.")
        with pytest.raises(SystemExit):
            main([*command, "--documents", str(tmp_path / "others"), "--resume"])
        assert f"holds a run of other documents ({tmp_path / 'texts'})" in capsys.readouterr().err
        assert read_corpus_ids(out / "data") == kept
        (out / "recipe.yaml").unlink()  # as if it had failed before it began
        write_corpus(tmp_path / "others", out)
        assert read_corpus_ids(out / "data") == ["sea.txt#0"]
        with pytest.raises(SystemExit):
            main([*command, "--documents", "a", "--data", "b"])

    def test_documents_of_haystack(self, tree, tmp_path):
        texts = [
            " ".join(f"the {word} is in the {topic}." for word in words.split()) for topic, words in TOPICS.items()
        ]
        documents = [Document(content=text) for text in texts]
        tree["stages"][0]["steps"] = 1
        student = retort.train(None, tmp_path / "run", documents=documents, recipe=Recipe.from_dict(tree))
        assert student.manifest.recipe and student.manifest.metrics == {}
        for wrong in ({"data": None}, {"data": "data", "documents": documents}):
            with pytest.raises(DataError, match="give data, or documents"):
                retort.train(out=tmp_path / "other", recipe="cotmae-small", **wrong)

    def test_the_vector_is_used(self, tree, tokenizer_path, tmp_path):
        """A span of one word over and over, nearly all of it hidden: the log shows what another's vector would cost."""
        (tmp_path / "words").mkdir()
        words = TOPICS["sea"].split()[:6]
        texts = [{"_id": word, "text": " ".join([f"{word} {word} {word} {word}."] * 4)} for word in words]
        write_jsonl(tmp_path / "words" / "corpus.jsonl", texts)
        tree["student"]["init_parameters"] |= {"config": tiny_config(1)}
        batches = spec(SPANS, length=8, short=0.0, decoder_share=0.99)
        tree["stages"] = [stage("pre-train", 100, spec(LOSS, layers=1), lr=2e-2, batches=batches)]
        tree["training"] |= {"batch_size": 12, "checkpoint_every": 100, "log_every": 10}
        run_recipe(Recipe.from_dict(tree), tmp_path / "words", tmp_path / "run")
        logged = log_of(tmp_path / "run")[-1]["logged_terms"]
        assert logged["context_shuffled"] > 1.05 * logged["context_matched"]

    def test_what_needs_queries_is_told_so(self, recipe_tree, beir, tmp_path):
        for path in ("queries.jsonl", "qrels/train.tsv", "qrels/dev.tsv"):
            (beir / path).unlink()
        with pytest.raises(DataError, match=r"there is no queries.jsonl"):
            run_recipe(Recipe.from_dict(recipe_tree), beir, tmp_path / "run")
        (beir / "qrels").rmdir()
        with pytest.raises(RecipeError, match=r"stages.0: .*TextBatches draws from queries, and .* is a corpus alone"):
            run_recipe(Recipe.from_dict(recipe_tree), beir, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_queries_are_measured_with_where_there_are_some(self, tree, beir, tmp_path):
        tree["stages"][0]["steps"] = 2
        assert run_recipe(Recipe.from_dict(tree), beir, tmp_path / "run")["dev"]["student"]["queries"] == 10


def read_corpus_ids(folder) -> list[str]:
    return [json.loads(line)["_id"] for line in (folder / "corpus.jsonl").read_text().splitlines()]


def test_passages_of_a_document_are_joined():
    corpus = TextStore(["a#0", "b", "a#1", "c#2x"], ["one", "two", "three", "four"])
    assert spans.join_passages(corpus, r"(.+)#\d+") == ["one\n\nthree", "two", "four"]
    assert spans.join_passages(corpus, None) == ["one", "two", "three", "four"]
    assert RetrievalData("d", corpus, TextStore([], [])).hash
