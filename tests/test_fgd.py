# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""FGD: reference values, pieces of a document inside one encoding, what is asked and kept of them, and a killed run."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import assert_comes_back, everything, lists, log_of, spec, terms_of, tiny_config
from transformers import AutoTokenizer

from retort.students.encoding import VECTORS, encode_parts, forward
from retort.students.layers import evaluating
from retort.students.pieces import PIECES, check_pieces, reattend, span_means, token_masks
from retort.students.segmentation import sentence_spans
from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.build import build_recipe
from retort.trainers.data.beir import read_beir
from retort.trainers.encoder_output import BatchEncoder, DenseOutput
from retort.trainers.methods.ctkd import CurriculumTemperature
from retort.trainers.methods.fgd import PASSAGE, SENTENCE, PieceKL, Pieces, best_passages, intra_kl, piece_cosine
from retort.trainers.plan import _Stages, _work
from retort.trainers.recipe import Recipe
from retort.trainers.roles import StepContext, TextRequest
from retort.trainers.run import run_recipe
from retort.trainers.runtime.distributed import ProcessGroup
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.stages import open_stage
from retort.trainers.teachers.cross_encoder import CrossEncoderTeacher

PIECE_KL, PIECES_TEXT = "retort.trainers.methods.fgd.PieceKL", "retort.trainers.methods.fgd.Pieces"
TEXT = "The ship is in the harbour near the island. A captain sail the wave! What is the bread? Cake and soup."

# Reference 05-A: a query, two documents with three and two passages.
QUERY = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
DOCUMENTS = torch.tensor([[1.2, 0.8], [0.6, 0.4]], dtype=torch.float64)
PASSAGES = torch.tensor([[1.0, 0], [0, 1], [2, 1], [0.5, 0.5], [1, 1]], dtype=torch.float64)
TEACHER = torch.tensor([[3.5, 0.8, 0.5, -1, 4, 1, 0]], dtype=torch.float64)
PLACES = [0, 0, 0, 1, 1]
# References 05-B and 05-C: a first token and four more.
ROWS = torch.tensor([[[0.2, 0.1], [1, 0], [0, 2], [3, 1], [1, 1]]], dtype=torch.float64)
SPANS = torch.tensor([[[0, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]]).bool()


def of_pieces(places=PLACES, passages=PASSAGES, teacher=TEACHER, kinds=None, padding=0):
    """The batch of reference 05-A and what the student gives for it; pieces of any order, and padding behind them."""
    d, standard = len(places) + padding, 2
    batch = lists(torch.zeros(1, standard + d, dtype=torch.float64))
    batch.teacher_scores = {"t": torch.nn.functional.pad(teacher, (0, padding), value=torch.nan)}
    batch.labels[:, standard:] = -1
    batch.mask[:, standard + len(places) :] = False
    batch.index[:, standard + len(places) :] = 0
    batch.derived = torch.tensor([(kinds or [PASSAGE] * len(places)) + [0] * padding], dtype=torch.int8)
    batch.documents = batch.documents[: standard + len(places)]
    batch.known_positive = batch.known_positive[:, : len(batch.documents)]
    batch.derived_documents = len(places)
    batch.pieces = torch.tensor([[place, 0, 1] for place in places])
    return batch, DenseOutput(QUERY, torch.cat([DOCUMENTS, passages]), 1.0, "dot")


def values_of(batch, output, **options):
    objective = PieceKL(teacher="t", **{"document": "whole"} | options)
    ctx = StepContext("s", 0, 1)
    return {name: v[0] for name, (v, _) in terms_of(objective, output, batch, ctx).items()}, ctx.logged_terms


class TestReferenceValues:
    def test_scores(self):
        batch, output = of_pieces()
        assert output.list_scores(batch)[0].tolist() == pytest.approx([1.6, 0.8, 1.0, 0.5, 2.5, 0.75, 1.5])

    def test_the_loss(self):
        batch, output = of_pieces()
        values, _ = values_of(batch, output)
        assert float(values["fgd_documents"]) == pytest.approx(0.186408, abs=1e-6)
        assert float(values["fgd_passages"]) == pytest.approx(0.363048, abs=1e-6)
        labels = losses.contrastive(output.list_scores(batch)[:, :2], batch.labels[:, :2] == 1, batch.mask[:, :2])
        assert float(labels) == pytest.approx(0.371101, abs=1e-6)
        total = labels + values["fgd_documents"] + values["fgd_passages"]
        assert float(total) == pytest.approx(0.920556, abs=1e-6)

    def test_scopes(self):
        """Means of losses within documents are not the loss over all pieces."""
        batch, output = of_pieces()
        intra = values_of(batch, output, scope="intra")[0]["fgd_passages"]
        assert float(intra) == pytest.approx(0.272655, abs=1e-6)
        both = values_of(batch, output, scope="both", passages=2.0)[0]["fgd_passages"]
        assert float(both) == pytest.approx(2 * (0.363048 + 0.272655 / 2), abs=2e-6)

    @pytest.mark.parametrize("document", ["whole", "maxp"])
    def test_a_stages_temperature(self, document):
        batch, output = of_pieces()
        ctx = StepContext("s", 0, 1)
        objective = PieceKL(teacher="t", scope="both", document=document)
        ctx.temperature = CurriculumTemperature(granularity="per_query", initial=4.0)(output, batch, ctx, objective)
        found = {name: float(value.detach()) for name, value in objective(output, batch, ctx).items()}
        own, _ = values_of(batch, output, scope="both", document=document, temperature=4.0)
        assert found == pytest.approx({name: float(value) for name, value in own.items()})

    def test_padding_changes_nothing(self):
        batch, output = of_pieces(padding=2)
        assert float(values_of(batch, output)[0]["fgd_passages"]) == pytest.approx(0.363048, abs=1e-6)
        intra = values_of(batch, output, scope="intra")[0]["fgd_passages"]
        assert float(intra) == pytest.approx(0.272655, abs=1e-6)

    def test_masked_attention(self):
        """A layer of plain attention, without projections."""

        def attend(states, attention_mask):
            return (states @ states.mT / 2**0.5 + attention_mask[:, 0]).softmax(-1) @ states

        found = reattend(attend, ROWS, SPANS)[0]
        expected = [1.209153, 0.850016, 0.406942, 0.720826, 1.626700, 0.761705]
        assert found.flatten().tolist() == pytest.approx(expected, abs=1e-6)

    def test_span_means(self):
        whole, first, second = span_means(ROWS, SPANS)[0]
        assert [whole.tolist(), first.tolist(), second.tolist()] == [[1.25, 1], [0.5, 1], [2, 1]]
        assert torch.equal(whole, (first + second) / 2)


class TestPieceKL:
    def test_the_order_of_pieces_says_nothing(self):
        batch, output = of_pieces()
        order = [3, 0, 4, 2, 1]
        shuffled = of_pieces(
            [PLACES[i] for i in order],
            PASSAGES[order],
            torch.cat([TEACHER[:, :2], TEACHER[:, 2:][:, order]], dim=1),
        )
        for scope in ("list", "intra"):
            ours, theirs = (values_of(*given, scope=scope)[0] for given in ((batch, output), shuffled))
            assert {k: float(v) for k, v in ours.items()} == pytest.approx({k: float(v) for k, v in theirs.items()})

    def test_what_takes_no_part_gets_no_gradient(self):
        """Neither padding, nor a piece that the teacher did not score, nor one of another kind."""
        teacher = TEACHER.clone()
        teacher[0, 3] = torch.nan
        batch, output = of_pieces(teacher=teacher, kinds=[1, 1, 1, 1, 3], padding=2)
        output.documents = output.documents.clone().requires_grad_()
        sum(values_of(batch, output, scope="both", sentences=0)[0].values()).backward()
        assert (output.documents.grad.abs().sum(-1) > 0).tolist() == [True, True, True, False, True, True, False]

    def test_a_document_of_one_piece_has_no_intra_loss(self):
        batch, output = of_pieces([0, 1], PASSAGES[:2], TEACHER[:, :4])
        values, logged = values_of(batch, output, scope="intra")
        assert values["fgd_passages"] == 0 and values_of(batch, output)[0]["fgd_passages"] > 0
        assert not logged["fgd_piece_cosine"][1]
        three = torch.tensor([[0, 0, 1]])
        student, teacher = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[0.0, 3.0, 5.0]])
        alone = losses.listwise_kl(student[:, :2], teacher[:, :2], torch.ones(1, 2).bool())
        assert float(intra_kl(student, teacher, three, 2)) == pytest.approx(float(alone) / 2)

    def test_documents_without_a_piece_are_not_in_the_mean(self):
        student, teacher = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[0.0, 3.0, 5.0]])
        alone = losses.listwise_kl(student[:, :2], teacher[:, :2], torch.ones(1, 2).bool())
        assert float(intra_kl(student, teacher, torch.tensor([[0, 0, -1]]), 3)) == pytest.approx(float(alone))

    def test_within_documents_each_query_has_its_own_temperature(self):
        student, teacher = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(0))
        places, tau = torch.tensor([[0, 0, 1, 1]] * 2), torch.tensor([[1.0], [3.0]])
        rows = (slice(0, 1), slice(1, 2))
        each = [intra_kl(student[row], teacher[row], places[row], 2, float(tau[row])) for row in rows]
        torch.testing.assert_close(intra_kl(student, teacher, places, 2, tau), torch.cat(each))

    def test_the_best_passage_scores_a_document(self):
        scores, places = torch.tensor([[0.5, -1, 4, 1, 0]]), torch.tensor([[0, 0, -1, 2, 2]])
        assert best_passages(scores, places, 3).nan_to_num(-9).tolist() == [[0.5, -9, 1]]
        batch, output = of_pieces()
        batch.teacher_scores["t"][:, :2] = torch.nan  # nobody asks for these
        value = values_of(batch, output, document="maxp")[0]["fgd_documents"]
        target = torch.tensor([[4.0, 1]], dtype=torch.float64)
        student = output.list_scores(batch)[:, :2]
        assert float(value) == pytest.approx(float(losses.listwise_kl(student, target, torch.ones(1, 2).bool())))
        assert not PieceKL(teacher="t").scores_documents

    def test_a_passage_without_a_score_is_not_the_best(self):
        """Where all others' are below 0."""
        teacher = TEACHER - 10
        teacher[0, 4] = torch.nan  # else the best of the first document
        batch, output = of_pieces(teacher=teacher)
        value = values_of(batch, output, document="maxp")[0]["fgd_documents"]
        target = torch.tensor([[0.5, 1]], dtype=torch.float64)
        student = output.list_scores(batch)[:, :2]
        assert float(value) == pytest.approx(float(losses.listwise_kl(student, target, torch.ones(1, 2).bool())))

    def test_sentences_have_a_loss_of_their_own(self):
        batch, output = of_pieces(kinds=[1, 1, 2, 2, 2])
        values, _ = values_of(batch, output)
        scored = (output.list_scores(batch)[:, 4:], TEACHER[:, 4:], torch.ones(1, 3).bool())
        assert float(values["fgd_sentences"]) == pytest.approx(0.5 * float(losses.listwise_kl(*scored)))
        assert "fgd_sentences" not in values_of(batch, output, sentences=0)[0]

    def test_how_alike_the_pieces_of_a_document_are(self):
        found, there = piece_cosine(PASSAGES[None], torch.tensor([PLACES]))
        cosines = [0, 2 / 5**0.5, 1 / 5**0.5, 1]  # of the first document's three pairs, and the second's
        assert float(found) == pytest.approx(sum(cosines) / 4) and there.all()

    def test_a_temperature(self):
        batch, output = of_pieces()
        ctx = StepContext("s", 0, 1, temperature=torch.tensor([[2.0]], dtype=torch.float64))
        objective = PieceKL(teacher="t", document="whole", scope="both")
        ours = objective(output, batch, ctx)
        theirs, _ = values_of(batch, output, scope="both", temperature=2.0)
        assert {k: float(v) for k, v in ours.items()} == pytest.approx({k: float(v) for k, v in theirs.items()})

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"passages": -1.0}, "weights, at least 0"),
            ({"scope": "global"}, "scope must be one of list, intra, both"),
            ({"document": "first"}, "document must be one of maxp, whole"),
        ],
    )
    def test_mistakes(self, options, message):
        with pytest.raises(ValueError, match=message):
            PieceKL(teacher="t", **options)


def request_of(texts, positive=None, *, epoch=0):
    data = SimpleNamespace(corpus=SimpleNamespace(texts=texts))
    positive = np.array([True] + [False] * (len(texts) - 1)) if positive is None else np.array(positive)
    return TextRequest(data, 0, np.arange(len(texts)), positive, 0, 1, epoch, np.random.default_rng(0))


@pytest.fixture
def pieces(tokenizer_path):
    """Give a function that makes a transform, for a student that reads so many tokens."""

    def make(room=None, **options):
        transform = Pieces(**options)
        transform.bind(None, AutoTokenizer.from_pretrained(tokenizer_path), 3, room)
        return transform

    return make


@pytest.fixture(scope="module")
def bytes_path(tmp_path_factory):
    """A byte-level tokenizer as of ModernBERT: a word's token begins with the space before it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=letters, show_progress=False)
    words.train_from_iterator([TEXT] * 3, trainer)
    ends = [(name, words.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = dict(zip(("pad_token", "cls_token", "sep_token", "mask_token", "unk_token"), special, strict=True))
    folder = tmp_path_factory.mktemp("bytes")
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)
    return str(folder)


class TestPieces:
    def test_of_a_byte_level_tokenizer_they_are_sentences_too(self, bytes_path):
        transform = Pieces(passage_tokens=13)
        transform.bind(None, AutoTokenizer.from_pretrained(bytes_path), 3, None)
        passages, sentences = transform.spans(TEXT)
        assert {b for _, b in passages} <= {b for _, b in sentences}
        assert {a for a, _ in passages} <= {a for a, _ in sentences}
        assert len(passages) > 2

    def test_spans(self, pieces):
        passages, sentences = pieces(passage_tokens=13).spans(TEXT)
        assert [TEXT[a:b] for a, b in sentences] == [
            "The ship is in the harbour near the island.",
            "A captain sail the wave!",
            "What is the bread?",
            "Cake and soup.",
        ]
        assert [TEXT[a:b] for a, b in passages] == [
            "The ship is in the harbour near the island.",
            "A captain sail the wave! What is the bread?",
            "Cake and soup.",
        ]
        assert len(pieces(passage_tokens=4).spans(TEXT)[0]) == 7  # a longer sentence is cut

    def test_nobody_reads_what_the_student_cannot(self, pieces):
        transform = pieces(room=12, passage_tokens=6)
        read = "The ship is in the harbour near the island. A captain"
        for spans in transform.spans(TEXT):
            assert max(end for _, end in spans) == len(read)
        texts = [one.text for one in transform.derived(request_of([TEXT]))]
        assert texts and all(text in read for text in texts)

    def test_other_scripts(self, pieces):
        text = "船在港口。船长航行。面包在哪里？"
        passages, sentences = pieces(passage_tokens=5).spans(text)
        assert [text[a:b] for a, b in sentences] == ["船在港口。", "船长航行。", "面包在哪里？"]
        assert "".join(text[a:b] for a, b in passages) == text

    def test_nothing_to_cut(self, pieces):
        assert pieces().derived(request_of(["", " "])) == []

    def test_what_is_asked(self, pieces):
        """All passages and the positive's sentences; others as they are drawn, few different ones."""
        transform = pieces(passage_tokens=13, sentences=2, lists=2)
        texts = [TEXT, TEXT.lower(), TEXT.upper()]
        each = [transform.derived(request_of(texts, epoch=epoch)) for epoch in range(4)]
        for found in each:
            assert [one.piece[0] for one in found if one.kind == PASSAGE] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
            sentences = [one for one in found if one.kind == SENTENCE]
            assert sum(one.piece[0] == 0 for one in sentences) == 4 and len(sentences) <= 6
            assert all(one.text == texts[one.piece[0]][one.piece[1] : one.piece[2]] for one in found)
        assert each[0] == each[2] and each[1] == each[3] and each[0] != each[1]
        assert not [one for one in pieces(sentences=0).derived(request_of(texts)) if one.kind == SENTENCE]

    def test_what_is_kept(self, pieces):
        transform = pieces(passage_tokens=4, passages=3, sentences=2)
        request = request_of([TEXT, TEXT.lower()])
        derived = transform.derived(request)
        for best in range(7):
            scores = np.zeros(len(derived))
            passages = [[i for i, one in enumerate(derived) if one.kind == 1 and one.piece[0] == p] for p in (0, 1)]
            sentences = [i for i, one in enumerate(derived) if one.kind == 2 and one.piece[0] == 0]
            wanted = [passages[0][best], passages[1][6 - best], sentences[best % 4]]
            scores[wanted] = 1.0
            kept = transform.kept(request, derived, {"t": scores.tolist()})
            assert all(derived[i] in kept for i in wanted)
            assert [sum(one.kind == 1 and one.piece[0] == p for one in kept) for p in (0, 1)] == [3, 3]
            assert sum(one.kind == SENTENCE for one in kept) == 2
            assert kept == transform.kept(request, derived, {"t": scores.tolist()})
        assert len(transform.kept(request, derived, {})) == 8  # a teacher in the loop is asked later

    def test_the_positives_best_sentence_is_kept_though_another_documents_is_better(self, pieces):
        transform = pieces(passage_tokens=4, sentences=2)
        request = request_of([TEXT, TEXT.lower()])
        derived = transform.derived(request)
        own, others = ([i for i, x in enumerate(derived) if (x.kind, x.piece[0]) == (SENTENCE, n)] for n in (0, 1))
        scores = np.zeros(len(derived))
        scores[own[-1]], scores[others] = 1.0, 2.0
        assert derived[own[-1]] in transform.kept(request, derived, {"t": scores.tolist()})

    def test_what_is_kept_beside_the_best_is_drawn_anew(self, pieces):
        """As often as pieces are: after two epochs it comes again."""
        transform = pieces(passage_tokens=4, passages=3, sentences=0, lists=2)
        requests = [request_of([TEXT], epoch=epoch) for epoch in range(4)]
        derived = [transform.derived(request) for request in requests]
        kept = [
            transform.kept(request, own, {"t": [0.0] * len(own)})
            for request, own in zip(requests, derived, strict=True)
        ]
        assert kept[0] == kept[2] != kept[1] == kept[3]

    def test_mistakes(self):
        with pytest.raises(ValueError, match="passages and lists are at least 1, sentences at least 0"):
            Pieces(passages=0)


def spans_of(texts, *chosen):
    """`[c, m, 2]` characters of words."""
    found = np.full((len(texts), max(map(len, chosen)), 2), -1)
    for row, (text, own) in enumerate(zip(texts, chosen, strict=True)):
        for column, piece in enumerate(own):
            found[row, column] = text.index(piece), text.index(piece) + len(piece)
    return found


@pytest.fixture(params=["mean", "cls", "cls distilbert", "mean with a prompt"])
def model(request, tiny_model, tokenizer_path):
    """Models with pieces, in float64."""
    from retort.students.create import from_config

    if request.param == "cls distilbert":
        config = {"model_type": "distilbert", "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
        found = from_config(config, tokenizer_path, seed=4, pooling="cls")
    else:
        found = tiny_model(4, pooling=request.param[:4].strip())
    if "prompt" in request.param:
        found.prompts["document"] = "what is near: "
    return found.double().eval()


class TestInsideOneEncoding:
    TEXTS = ("the ship in the harbour . a wave of fish", "the bread", "the rose is in the soil near the apple hedge")

    def encoded(self, model, spans, texts=TEXTS, **options):
        with evaluating(model), torch.no_grad():
            return encode_parts(model, list(texts), "document", spans=spans, **options)

    def test_the_whole_document_is_the_document(self, model):
        parts = self.encoded(model, spans_of(self.TEXTS, *([text] for text in self.TEXTS)))
        assert float((parts[PIECES][:, 0] - parts[VECTORS]).abs().max()) < 1e-12

    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_neither_padding_nor_chunks_matter(self, model, implementation):
        model[0].model.set_attn_implementation(implementation)
        chosen = (["the ship", "harbour . a", "fish"], ["bread"], ["soil near", "hedge"])
        spans = spans_of(self.TEXTS, *chosen)
        parts = self.encoded(model, spans)
        for budget in (1, 16):
            other = self.encoded(model, spans, budget=budget)[PIECES]
            assert float((parts[PIECES] - other).abs().max()) < 1e-10
        assert len({tuple(v) for v in parts[PIECES][0].tolist()}) == 3

    def test_pieces_know_their_context(self, model):
        """They are none of their own, and what stands elsewhere changes them."""
        texts = ("the ship in the harbour", "the ship of the captain", "the ship")
        found = self.encoded(model, spans_of(texts, *[["ship"]] * 3), texts)[PIECES][:, 0]
        assert min(float((found[i] - found[j]).abs().max()) for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-4

    def test_tokens(self, model):
        texts = ["the ship in the harbour"]
        features = forward(model, texts, "document")
        masks = token_masks(model, texts, spans_of(texts, ["the ship", "in the", "harbour"]), "document",
                            features["attention_mask"])  # fmt: skip
        before = len(model.tokenizer(model.prompts.get("document", ""))["input_ids"]) - 1
        assert masks[0].sum(-1).tolist() == [before + 2, 2, 2]  # the last has the separator
        assert torch.equal(masks[0].sum(0), features["attention_mask"][0])

    @pytest.mark.parametrize("prompt", ["", "what is near: "])
    def test_tokens_of_a_byte_level_tokenizer(self, bytes_path, prompt):
        """Each is of the piece that its word is of, and none is left out."""
        from retort.students.create import from_config

        model = from_config(tiny_config() | {"vocab_size": 500}, bytes_path, seed=4).double().eval()
        model.prompts["document"] = prompt
        spans = spans_of([TEXT], [TEXT[a:b] for a, b in sentence_spans(TEXT)])
        features = forward(model, [TEXT], "document")
        masks = token_masks(model, [TEXT], spans, "document", features["attention_mask"])[0]
        read = model.tokenizer.convert_ids_to_tokens(features["input_ids"][0])
        said = ["".join(token for token, there in zip(read, mask, strict=True) if there) for mask in masks.tolist()]
        expected = [TEXT[a:b].replace(" ", "\u0120") for a, b in spans[0]]
        before, *others = expected
        assert said == ["[CLS]" + (prompt + before).replace(" ", "\u0120"), *["\u0120" + o for o in others[:-1]],
                        "\u0120" + others[-1] + "[SEP]"]  # fmt: skip
        assert torch.equal(masks.sum(0), features["attention_mask"][0])

    def test_gradients(self, model):
        """They reach all layers, the last one too, and equal those of recomputed activations."""
        spans = spans_of(self.TEXTS, ["the ship", "fish"], ["bread"], ["soil"])
        grads = []
        for recompute in (False, True):
            model.zero_grad()
            encode_parts(model, list(self.TEXTS), "document", spans=spans, recompute=recompute)[
                PIECES
            ].sin().sum().backward()
            grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        assert max(float((grads[0][n] - grads[1][n]).abs().max()) for n in grads[0]) < 1e-12
        assert {n for n in grads[0] if ".1." in n and float(grads[0][n].abs().max()) > 0} >= {
            n for n in grads[0] if ".1." in n and "weight" in n and "Norm" not in n
        }

    def test_beside_layers_and_tokens(self, model):
        spans = spans_of(self.TEXTS, *([text] for text in self.TEXTS))
        parts = self.encoded(model, spans, layers=[0, 1], views=["tokens"], length=40)
        assert parts["tokens"].shape[:2] == (3, 40)
        assert float((self.encoded(model, spans)[PIECES] - parts[PIECES]).abs().max()) < 1e-12


class TestRefusedStudents:
    def test_pooling(self, tiny_model):
        with pytest.raises(ValueError, match="need mean or cls pooling; the student's is max"):
            check_pieces(tiny_model(1, pooling="max"))

    def test_layers_with_positions_of_their_own(self, tiny_model):
        model = tiny_model(1, pooling="cls")
        model[0].config.model_type = "mpnet"
        with pytest.raises(ValueError, match="last layer of 'mpnet' cannot be run again; take mean"):
            check_pieces(model)

    def test_static(self, tiny_student, list_tree, beir, tmp_path):
        list_tree["student"] = spec("static", teacher=tiny_student)
        list_tree["stages"][0]["candidates"]["text"] = spec(PIECES_TEXT)
        list_tree["stages"][0]["objectives"] = [spec(PIECE_KL)]
        with pytest.raises(RecipeError, match=r"candidates\.text: pieces of documents need a transformer"):
            run_recipe(Recipe.from_dict(list_tree), beir, tmp_path / "run")


class TestBatches:
    def batch(self):
        """Two lists that share document 1; the last derived document is a text of its own."""
        texts = list(TestInsideOneEncoding.TEXTS)
        rows = [(0, texts[0], "the ship"), (1, texts[1], "bread"), (1, texts[1], "bread"), (2, texts[2], "soil")]
        pieces = [[owner, text.index(piece), text.index(piece) + len(piece)] for owner, text, piece in rows]
        return CandidateBatch(
            queries=["ship", "rose"],
            documents=[*texts, *(piece for _, _, piece in rows), "a wave"],
            index=torch.tensor([[0, 1, 3, 4, 7], [1, 2, 5, 6, 0]]),
            labels=torch.tensor([[1, 0, -1, -1, -1], [0, 1, -1, -1, -1]], dtype=torch.int8),
            mask=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]).bool(),
            known_positive=torch.zeros(2, 8).bool(),
            sources=torch.zeros(2, 5, dtype=torch.int8),
            derived=torch.tensor([[1, 1, 3], [1, 1, 0]], dtype=torch.int8),
            derived_documents=5,
            pieces=torch.tensor([*pieces, [-1, -1, -1]]),
        )

    def test_places(self):
        batch = self.batch()
        assert batch.piece_places().tolist() == [[0, 1, -1], [0, 1, -1]]
        first, second = batch.split(2)
        assert (first.piece_places().tolist(), second.piece_places().tolist()) == ([[0, 1, -1]], [[0, 1, -1]])
        assert second.pieces[:, 0].tolist() == [0, 1] and second.documents[0] == batch.documents[1]
        assert batch.standard().piece_places().shape == (2, 0) and not len(batch.standard().pieces)

    def test_one_encoding(self, tiny_model):
        """Each document is read once; what is no piece is read alone, by teachers in the loop all is."""
        model, batch = tiny_model(2).eval(), self.batch()
        read = []
        real = model.preprocess
        model.preprocess = lambda texts, **options: (read.extend(texts), real(texts, **options))[1]
        encoder = BatchEncoder(ProcessGroup())
        with torch.no_grad():
            seen = encoder.encode(model, batch, 1.0, layers=[0])
            assert sorted(read) == sorted([*batch.queries, *batch.documents[:3], "a wave"])
            alone = encoder.encode(model, replace(batch, pieces=batch.pieces[:0]), 1.0)
        assert seen.documents.shape == alone.documents.shape == (8, 16)
        same = (seen.documents - alone.documents).abs().amax(-1) < 1e-6
        assert same.tolist() == [True, True, True, False, False, False, False, True]
        assert torch.equal(seen.documents[4], seen.documents[5])
        standard = seen.standard(batch)
        assert len(standard.documents) == len(standard.layers[0].documents) == 3


@pytest.fixture
def fgd_tree(list_tree):
    text = spec(PIECES_TEXT, passage_tokens=4, passages=2, sentences=3)
    list_tree["stages"][0]["candidates"]["text"] = text
    list_tree["stages"][0]["objectives"] = [spec("Contrastive"), spec(PIECE_KL, scope="both")]
    return list_tree


class TestRuns:
    @pytest.mark.parametrize("pooling", ["mean", "cls"])
    def test_a_killed_run(self, fgd_tree, beir, tmp_path, monkeypatch, pooling):
        fgd_tree["student"]["init_parameters"]["pooling"] = pooling
        out = tmp_path / "whole" / "run"
        run_recipe(Recipe.from_dict(fgd_tree), beir, out)
        steps = log_of(out)
        least = 1e-6 if pooling == "mean" else -1e-6  # first tokens of random weights are all the same
        assert min(steps[0]["terms"][f"fgd_{name}"] for name in ("documents", "passages", "sentences")) > least
        assert all(-1 < step["logged_terms"]["fgd_piece_cosine"] < 1 for step in steps)
        kills = (3,) if pooling == "cls" else (3, 5)
        assert_comes_back(fgd_tree, beir, tmp_path, monkeypatch, everything(out), kills)

    def test_the_teacher_reads_pieces_alone(self, fgd_tree, beir, tmp_path, monkeypatch):
        """No whole document is asked for, unless the objective wants it; a second run asks for nothing."""
        fgd_tree["stages"][0]["candidates"]["text"]["init_parameters"]["sentences"] = (
            0  # which are whole documents here
        )
        asked, real = [], CrossEncoderTeacher.score
        monkeypatch.setattr(CrossEncoderTeacher, "score", lambda s, asks: (asked.extend(asks), real(s, asks))[1])
        monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
        run_recipe(Recipe.from_dict(fgd_tree), beir, tmp_path / "first")
        texts = {text for ask in asked for text in ask.documents}
        assert texts and not [text for text in texts if text.endswith(".") and len(text.split()) > 7]
        asked.clear()
        run_recipe(Recipe.from_dict(fgd_tree), beir, tmp_path / "second")
        assert asked == []
        fgd_tree["stages"][0]["objectives"][1]["init_parameters"]["document"] = "whole"
        run_recipe(Recipe.from_dict(fgd_tree), beir, tmp_path / "third")
        assert [text for ask in asked for text in ask.documents if len(text.split()) > 7]

    @pytest.mark.parametrize("document", ["maxp", "whole"])
    def test_a_plan_counts_pieces(self, fgd_tree, beir, tmp_path, monkeypatch, document):
        """At least those that are asked for; of whole documents where they are."""
        fgd_tree["stages"][0]["objectives"][1]["init_parameters"]["document"] = document
        fgd_tree["stages"][0]["steps"] = 20
        data = read_beir(beir, "train")
        built = build_recipe(Recipe.from_dict(fgd_tree), data, tmp_path / "cache")
        asked, real = [], CrossEncoderTeacher.score
        monkeypatch.setattr(CrossEncoderTeacher, "score", lambda s, asks: (asked.extend(asks), real(s, asks))[1])
        open_stage(built, built.recipe.stages[0], tmp_path)
        pairs = sum(len(ask.documents) for ask in asked)
        assert pairs <= _work(_Stages(built, data).asking("ranker"), "ranker", data).pairs <= 3 * pairs

    @pytest.mark.parametrize("teacher", ["teacher", "live"])
    def test_other_teachers(self, fgd_tree, beir, tmp_path, teacher):
        """One that gives vectors, and one in the loop."""
        fgd_tree["teachers"]["live"] = spec("LiveTeacher", student=copy.deepcopy(fgd_tree["student"]))
        fgd_tree["stages"][0] |= {"teacher": teacher, "steps": 2}
        fgd_tree["training"] |= {"dims": [4], "accumulation": 2, "cache_gradients": True}
        run_recipe(Recipe.from_dict(fgd_tree), beir, tmp_path / "run")
        first = log_of(tmp_path / "run")[0]["terms"]
        names = [f"fgd_{level}{cut}" for level in ("documents", "passages") for cut in ("", "@4")]
        assert min(first[name] for name in names) > 1e-6
