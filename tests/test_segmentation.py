# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Sentences, words and passages of texts in any script."""

import random
from itertools import accumulate, islice, pairwise
from pathlib import Path
from unicodedata import normalize

import bm25s
import numpy as np
import pytest
import Stemmer
import yaml
from haystack import Document

from haystack_integrations.components.readers.retort import ExtractiveAnswerer
from retort.students.segmentation import needs_dictionary, passage_spans, sentence_spans, token_spans, words_of
from retort.trainers.data.documents import documents_to_data, read_documents
from retort.trainers.data.pseudo_queries import FirstSentences, KeyPhrases, KeySentences, Spans, sentences_of
from retort.trainers.data.synthesis import make_queries
from retort.trainers.from_documents import default_sources
from retort.trainers.languages import stop_words
from retort.trainers.search import BM25

CUT_BY_HAND = yaml.safe_load((Path(__file__).parent / "sentences.yaml").read_text(encoding="utf-8"))
ENGLISH = (
    "The U.S. Navy lay in the outer basin. Their captain waited for orders; he asked for bread, e.g. rye.\n\n"
    "A café “by the sea” served naïve sailors at 5 p.m. Nobody paid 3.75 euros 🙂."
)


def text_of(language: str) -> str:
    return CUT_BY_HAND[language]["between"].join(CUT_BY_HAND[language]["sentences"])


class TestSentences:
    @pytest.mark.parametrize("language", CUT_BY_HAND)
    def test_as_cut_by_hand(self, language):
        """F1 of the borders within the text; short sentences join the one before, and count as missed."""
        sentences, between = CUT_BY_HAND[language]["sentences"], CUT_BY_HAND[language]["between"]
        assert len(sentences) == 20
        by_hand = set(accumulate(len(sentence + between) for sentence in sentences[:-1]))
        found = {start for start, _ in sentence_spans(text_of(language))} - {0}
        assert 2 * len(by_hand & found) / (len(by_hand) + len(found)) >= 0.9

    def test_whatever_comes(self):
        """In order, within the text, and nothing but white space outside."""
        rng = random.Random(0)
        letters = "aB .!?\"'([\n\r\t。！？「」“”…؟।;\u00a0😀é\u0301中あ09-*:/\x00\x0b\x0c\u2028\u3000\u200f«»กअ"
        for _ in range(2000):
            text = "".join(rng.choices(letters, k=rng.randint(0, 60)))
            for spans in (sentence_spans(text), token_spans(text)):
                ends = [0, *(end for _, end in spans)]
                gaps = [text[end:start] for end, (start, _) in zip(ends, spans, strict=False)]
                assert not "".join([*gaps, text[ends[-1] :]]).strip()
                assert all(start < end for start, end in spans)

    @pytest.mark.parametrize("text", ["\u201c" * 100_000, "a. " * 100_000, "中" * 100_000, "\n" * 300_000])
    def test_long_ones_take_no_quadratic_time(self, text):
        assert sum(end - start for start, end in sentence_spans(text)) <= len(text)

    def test_a_long_paragraph_is_cut_at_sentences_alone(self):
        text = "The ship that we saw is in the harbour now. " * 1000
        spans = sentence_spans(text)
        assert {text[start:end] for start, end in spans} == {"The ship that we saw is in the harbour now."}
        assert len(spans) == 1000

    def test_an_answer_in_chinese_is_a_sentence(self, tiny_student):
        document = Document(content=text_of("zh"))
        found = ExtractiveAnswerer(model=tiny_student, score_threshold=-1.0, top_k=30).run("票价", [document])
        assert "博物馆建于1892年。" in [answer.data for answer in found["answers"]]
        assert len(found["answers"]) == 19


class TestWords:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("Don't e-mail x_1!", ["Don", "t", "e", "mail", "x_1"]),
            ("上海港口的博物馆。", ["上海", "港口", "的", "博物", "馆"]),
            ("横浜港に行きました", ["横浜", "港", "に", "行き", "ま", "した"]),
            ("เรือออกจากท่าเรือ", ["เรือ", "ออก", "จาก", "ท่าเรือ"]),
            ("हिन्दी भाषा में।", ["हिन्दी", "भाषा", "में"]),
            ("שָׁלוֹם לכולם", ["שָׁלוֹם", "לכולם"]),
            ("부산항은 크다.", ["부산항은", "크다"]),
        ],
    )
    def test_of(self, text, words):
        assert words_of(text) == words

    def test_english_is_tokenised_as_ever(self):
        """Also with letters and signs that are not ASCII: figures of benchmarks hang on it."""
        texts = [ENGLISH, "", "the of", "Größe und Straße", "Порт Мурманска", "λιμάνι"]
        assert not any(map(needs_dictionary, texts))
        stemmer = Stemmer.Stemmer("porter")
        wanted = bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)
        assert BM25(["a text"])._tokens(texts) == wanted

    @pytest.mark.parametrize("language", CUT_BY_HAND)
    def test_a_word_finds_its_sentence(self, language):
        """By BM25: of each sentence its longest word finds it, or another that has the word or its stem."""
        index = BM25(CUT_BY_HAND[language]["sentences"])
        stopped = stop_words(index.language)
        words = [[w for w in words_of(s) if w.lower() not in stopped] for s in CUT_BY_HAND[language]["sentences"]]
        asked = [max(own, key=len) for own in words if own]
        assert len(asked) >= 19
        sentences = CUT_BY_HAND[language]["sentences"]
        rows, scores = index.search(asked, 1)
        assert np.all(scores > 0)
        pairs = zip(asked, rows[:, 0], strict=True)
        assert all(word.lower().removesuffix("s") in sentences[row].lower() for word, row in pairs)

    @pytest.mark.parametrize("text", ["café crème", "tiếng Việt", "Ёлка и йод", "ελληνικά ή όχι"])
    def test_accents_that_stand_alone(self, text):
        """Files of macOS and PDFs hold letters and accents apart: `\\w` cut such words into pieces."""
        apart = normalize("NFD", text)
        assert words_of(apart) == words_of(text) == text.split()
        index = BM25([apart, text, "bread"])
        for query in (apart, text):
            assert index.search([query], 3)[0].tolist() == [[0, 1, -1]]

    def test_latin_words_are_the_same_beside_other_scripts(self):
        assert words_of("中文 e-mail 12.5 don't 海") == ["中文", *words_of("e-mail 12.5 don't"), "海"]
        assert BM25(["水深为12.5米。"])._tokens(["水深为12.5米，e-mail"]) == [["水深", "为", "12", "米", "mail"]]


class TestPassages:
    @pytest.mark.parametrize("language", CUT_BY_HAND)
    @pytest.mark.parametrize("words", [7, 30, 150])
    def test_none_is_longer(self, language, words):
        """They overlap, leave nothing out, and end with a sentence if one ends in their second half."""
        text = text_of(language)
        spans = list(passage_spans(text, words, 3))
        assert max(len(token_spans(text[start:end])) for start, end in spans) <= words
        assert (spans[0][0], spans[-1][1]) == (0, len(text))
        assert all(a < c <= b + 1 for (a, b), (c, _) in pairwise(spans))

    def test_they_end_with_sentences(self):
        sentence = "The ship is in the harbour now. "  # seven words
        text = sentence * 50
        spans = list(passage_spans(text, 30, 10))
        assert [text[start:end] for start, end in spans[:-1]] == [(sentence * 4).strip()] * 16
        assert spans[1][0] == 3 * len(sentence)  # one sentence fits into the overlap

    def test_an_overlap_as_long_as_a_passage(self):
        """Each passage begins after the one before."""
        assert [*islice(passage_spans("a b c d e f", 3, 3), 9)] == [(0, 5), (2, 7), (4, 9), (6, 11)]

    def test_a_sentence_that_ends_in_the_first_half_ends_no_passage(self):
        for words, first in ((5, 10), (6, 6)):
            text = "word " * (words - 1) + "end. And " + "goes on " * 10
            (_, end), *_ = passage_spans(text, 10, 0)
            assert len(text[:end].split()) == first

    @pytest.mark.parametrize(
        ("text", "passages"),
        [("word " * 400, 3), ("word\n" * 400, 3), ("b64+/" * 4000, 4), ("中" * 300, 3), ("字\u3000" * 400, 3)],
    )
    def test_of_what_has_no_sentences(self, text, passages):
        spans = list(passage_spans(text, 150, 20))
        assert len(spans) == passages
        assert max(end - start for start, end in spans) <= 150 * 40

    def test_a_chinese_file(self, tmp_path):
        """17,490 characters were one passage."""
        text = (text_of("zh") * 82)[:17490]
        (tmp_path / "海.txt").write_text(text, encoding="utf-8")
        documents = read_documents(tmp_path)
        assert len(documents) > 60
        assert max(len(d.content) for d in documents) <= 300
        assert all(d.content[-1] in "。！？…”" for d in documents[:-1])
        assert [text[d.meta["split_idx_start"] :][: len(d.content)] for d in documents] == [
            d.content for d in documents
        ]


class TestQueries:
    @pytest.mark.parametrize("language", CUT_BY_HAND)
    def test_every_source_gives_some(self, language):
        """And they survive: of the right length, and found by BM25 in their own document."""
        sentences, between = CUT_BY_HAND[language]["sentences"], CUT_BY_HAND[language]["between"]
        documents = [
            Document(id=str(i), content=between.join([*sentences[i : i + 5], *sentences[i : i + 2]]))
            for i in range(0, 20, 5)
        ]
        data = documents_to_data(language, documents)
        for source in (FirstSentences(), KeyPhrases(), KeySentences(), Spans()):
            assert sum(map(bool, source.of(data))) >= 3
        made = make_queries(documents, default_sources())
        assert len(made.kept["first-sentences"]) >= 3
        assert len(made.kept["key-phrases"]) >= 3

    def test_of_chinese(self):
        documents = [
            Document(content="上海港口很大，港口很老。许多船只每天到达港口。"),
            Document(content="面包很好吃。水手在这里买面包。"),
        ]
        data = documents_to_data("zh", documents)
        assert FirstSentences(words=4).of(data)[0] == ["上海港口很大，港口"]
        assert KeyPhrases(words=2).of(data)[0] == ["上海 港口"]
        assert sentences_of(documents[0].content) == ["上海港口很大，港口很老。", "许多船只每天到达港口。"]
