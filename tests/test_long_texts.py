# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Long texts are cut before they are tokenised, and the same tokens are read."""

import random

import pytest
import torch
from common_fixtures import WORDS
from tiny import tiny_config
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from retort.students import long_texts
from retort.students.create import from_config
from retort.students.encoding import encode_texts, model_inputs, read_texts, token_counts
from retort.students.long_texts import CHARACTERS, heads
from retort.trainers.methods import fgd

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ODD = ["\u0301", "n\u0303a", "\u200b", "\u4f60\u597d", "1 000", "...", "x" * 120, "[MASK]", "\x1c", "\ufb01x", "\u03a3"]
GAPS = [" "] * 6 + ["  ", "\n", "\n\n", "\t", ".\n", " - ", "\xa0", "\r\n "]
LIMIT = 24


def a_text(rng: random.Random, words: int, odd: float) -> str:
    """Draw a text of words and, at random, of what tokenizers treat in ways of their own."""
    parts = (rng.choice(ODD if rng.random() < odd else WORDS) + rng.choice(GAPS) for _ in range(words))
    return "".join(parts)


def texts(n: int = 60) -> list[str]:
    rng = random.Random(0)
    return [a_text(rng, rng.choice((5, 60, 400)), rng.choice((0.0, 0.1, 0.6))) for _ in range(n)]


def write(kind: str, folder) -> str:
    """Train a tokenizer on a few texts."""
    common = {"special_tokens": SPECIAL, "vocab_size": 400, "show_progress": False}
    if kind == "wordpiece":
        words, trainer = Tokenizer(models.WordPiece(unk_token="[UNK]")), trainers.WordPieceTrainer(**common)
        words.normalizer = normalizers.BertNormalizer(lowercase=True)
        words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    elif kind == "unigram":
        words, trainer = Tokenizer(models.Unigram()), trainers.UnigramTrainer(unk_token="[UNK]", **common)
        words.normalizer, words.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    elif kind == "joined words":  # of tokens that reach over spaces
        words, trainer = Tokenizer(models.BPE(unk_token="[UNK]")), trainers.BpeTrainer(**common)
        words.normalizer = normalizers.Replace(" ", "\u2581")
        words.pre_tokenizer = pre_tokenizers.Split(".", "isolated")
    else:
        words, trainer = Tokenizer(models.BPE()), trainers.BpeTrainer(**common)
        words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words.train_from_iterator([" ".join(WORDS)] * 3 + texts(4), trainer)
    ends = [(name, words.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=["wordpiece", "unigram", "byte-level", "joined words"])
def model(request, tmp_path_factory):
    words = write(request.param, tmp_path_factory.mktemp("tokenizer"))
    return from_config(tiny_config() | {"vocab_size": 500}, words, max_tokens={"document": LIMIT}, seed=3).eval()


class TestTokens:
    def test_the_same_are_read(self, model):
        whole = texts()
        cut, counts = read_texts(model, whole, "document")
        for text, head, count in zip(whole, cut, counts, strict=True):
            ids = model.tokenizer(text, truncation=True, max_length=LIMIT)["input_ids"]
            assert model_inputs(model, [head], "document")["input_ids"][0].tolist() == ids
            assert count == len(ids)

    def test_a_head_has_the_first_of_its_text(self, model):
        whole = texts()
        for text, head in zip(whole, heads(model.tokenizer, whole, LIMIT), strict=True):
            ids, own = (model.tokenizer(t, add_special_tokens=False, verbose=False)["input_ids"] for t in (text, head))
            assert ids[: len(own)] == own

    def test_few_tokens_in_many_characters(self, model):
        whole = ["the ship " + "_" * 30 * LIMIT * CHARACTERS, "a b" + " " * LIMIT * CHARACTERS + " ship" * 50]
        expected = [model.tokenizer(text, truncation=True, max_length=LIMIT)["input_ids"] for text in whole]
        cut, counts = read_texts(model, whole, "document")
        assert counts.tolist() == list(map(len, expected))
        assert [model_inputs(model, [t], "document")["input_ids"][0].tolist() for t in cut] == expected

    def test_pieces_of_documents(self, model, monkeypatch):
        whole, found = texts(), []
        for own in (heads, lambda _, texts, __: list(texts)):
            monkeypatch.setattr(long_texts, "heads", own)
            pieces = fgd.Pieces(passage_tokens=7)
            pieces.bind(None, model.tokenizer, 3, LIMIT)
            found.append([pieces.spans(text) for text in whole])
        assert found[0] == found[1]


class TestWhatIsTokenised:
    def test_long_texts_are_not_whole(self, tmp_path, monkeypatch):
        student = from_config(tiny_config(), write("wordpiece", tmp_path), max_tokens={"document": LIMIT}, seed=3)
        read, kind = [], type(student.tokenizer)
        real = kind.__call__

        def noted(self, text, *arguments, **options):
            read.extend([text] if isinstance(text, str) else text)
            return real(self, text, *arguments, **options)

        long = [" ".join(WORDS * 300), " ".join(WORDS[::-1] * 300)]
        monkeypatch.setattr(kind, "__call__", noted)
        for some in (long, long[:1]):
            encode_texts(student, some, "document")
        pieces = fgd.Pieces()
        pieces.bind(None, student.tokenizer, 3, LIMIT)
        pieces.spans(long[0])
        assert len(read) == 7 and max(map(len, read)) <= CHARACTERS * LIMIT

    def test_joined_words_stay_whole(self, tmp_path):
        words = PreTrainedTokenizerFast.from_pretrained(write("joined words", tmp_path))
        long = " ".join(WORDS * 300)
        assert heads(words, [long], LIMIT) == [long]

    def test_vectors(self, model):
        whole = texts()
        with torch.inference_mode():
            together = encode_texts(model, whole, "document")
            alone = torch.stack([model.encode_document(t, convert_to_tensor=True) for t in whole])
        assert torch.allclose(together, alone, atol=1e-5)

    def test_counts(self, model):
        assert token_counts(model, ["the ship " * 900], "document").tolist() == [LIMIT]
