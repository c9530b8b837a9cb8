# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Vectors of sentences that an index keeps for the answerer, and what counts as a sentence."""

from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
from haystack import Document, Pipeline

from haystack_integrations.components.embedders.retort import StudentDocumentEmbedder
from haystack_integrations.components.readers.retort import ExtractiveAnswerer
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.indexes import index_documents
from retort.pipelines.load import load_pipeline
from retort.students import SENTENCES_STAMP, Student
from retort.students.segmentation import answer_spans, sentence_spans
from retort.students.sentences import pack, passages_of, texts_to_keep, unpack
from retort.students.vectors import unit

SEA = "The ship is near the harbour. The captain is in the storm. The bread is in the oven."
FILLER = "the bread in the oven is near the sugar and the salt of the kitchen. "


def random_vectors(n: int, d: int = 384) -> np.ndarray:
    return unit(np.random.default_rng(0).standard_normal((n, d)).astype(np.float32))


def test_unit_vectors():
    vectors = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
    vectors[1] = 0
    found = unit(vectors)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 0, 1, 1], rtol=1e-6)
    assert np.isnan(unit(np.array([[np.nan, 1.0]]))).all()


@pytest.fixture(scope="module")
def kept(tiny_student):
    documents = [
        Document(id="sea", content=SEA, meta={"title": "sea"}),
        Document(id="rose", content="The rose is in the garden.\n\nThe bee is near the rose."),
        Document(id="long", content=FILLER * 30 + "The bee is near the rose. " * 25, meta={"title": "kitchen"}),
        Document(id="empty", content=""),
        Document(id="none", content=None),
    ]
    return StudentDocumentEmbedder(model=tiny_student, sentences=True, progress_bar=False).run(documents)["documents"]


class TestPacking:
    @pytest.mark.parametrize(("sentences", "lost"), [(1, 0.009497), (3, 0.03454), (8, 0.1175), (40, 0.1175)])
    def test_vectors_come_back_as_near_as_there_is_room_for(self, sentences, lost):
        """Of normally distributed numbers, Max's 16, 8 and 4 levels lose so much (his table I)."""
        passages = passages_of("sea", SEA)
        vectors = random_vectors(1 + sentences)
        found = unpack(pack("a space", passages, vectors), "a space", 384, passages)
        cosines = (found * vectors).sum(axis=1)
        assert cosines[0] > 0.9999
        assert cosines[1:].mean() == pytest.approx((1 - lost) ** 0.5, abs=0.004)

    def test_it_takes_six_tenths_of_the_document_where_two_bits_allow(self):
        found = {}
        for n in range(1, 12):
            packed = pack("s", passages_of("", "x " * 250), random_vectors(1 + n))
            found[n] = b64decode(packed)[8]
            assert len(packed) <= 0.6 * (4 * 384 + 500 + 500) + 4 or found[n] == 2
        assert found == dict.fromkeys((1, 2, 3), 4) | {4: 3, 5: 3} | dict.fromkeys(range(6, 12), 2)

    @pytest.mark.parametrize("d", [1, 7, 33])
    def test_any_dimension(self, d):
        passages = passages_of("", "one two three. four five six.")
        vectors = random_vectors(3, d)
        found = unpack(pack("s", passages, vectors), "s", d, passages)
        assert found.shape == (3, d)
        assert np.abs(found[0] - vectors[0]).max() < 0.01

    def test_nothing_else_is_taken_for_it(self):
        passages = passages_of("t", SEA)
        text = pack("space", passages, random_vectors(4))
        assert unpack(text, "space", 384, passages) is not None
        assert unpack(text, "another", 384, passages) is None
        assert unpack(text, "space", 192, passages) is None
        assert unpack(text, "space", 384, passages_of("u", SEA)) is None
        assert unpack(text, "space", 384, passages_of("t", SEA.replace("oven", "pot"))) is None
        assert unpack(text, "space", 384, []) is None
        for other in (None, 3, ["a"], "", "AAAA", "no base64!", text[:40], "é" + text):
            assert unpack(other, "space", 384, passages) is None

    def test_zero_vectors_are_vectors(self):
        passages = passages_of("", SEA)
        assert np.isfinite(unpack(pack("s", passages, np.zeros((4, 8), np.float32)), "s", 8, passages)).all()


class TestAnswers:
    def test_what_is_kept(self, kept, tiny_student):
        student = Student.load(tiny_student)
        for document, n in zip(kept[:2], (4, 3), strict=True):
            passages = passages_of(document.meta.get("title", ""), document.content)
            found = unpack(document.meta[SENTENCES_STAMP], student.space, student.dim, passages)
            wanted = unit(student.encode_document(texts_to_keep(passages)))
            assert found.shape == (n, student.dim)
            assert ((found * wanted).sum(axis=1) > 0.97).all()
        assert texts_to_keep(passages_of("sea", SEA))[:2] == [f"sea {SEA}", "sea The ship is near the harbour."]
        long = passages_of("kitchen", kept[2].content)
        assert (
            len(texts_to_keep(long))
            == len(long)
            == len(unpack(kept[2].meta[SENTENCES_STAMP], student.space, student.dim, long))
        )
        assert not any(SENTENCES_STAMP in document.meta for document in kept[3:])

    @pytest.mark.parametrize(
        ("options", "times"),
        [({}, 1), ({"prefix": "about "}, 2), ({"suffix": " now"}, 2), ({"meta_fields_to_embed": []}, 2)],
    )
    def test_a_text_that_was_embedded_is_not_embedded_again(self, kept, tiny_student, monkeypatch, options, times):
        """The document itself is the passage, if the model saw it alike: else the passage is another text."""
        seen, real = [], Student.encode_document

        def encode(self, texts, **rest):
            seen.extend(texts)
            return real(self, texts, **rest)

        monkeypatch.setattr(Student, "encode_document", encode)
        document = Document(id="sea", content=SEA, meta={"title": "sea"})
        embedder = StudentDocumentEmbedder(model=tiny_student, sentences=True, progress_bar=False, **options)
        found = embedder.run([document, replace(document, id="again")])["documents"]
        assert sum(SEA in text for text in seen) == 2 + times - 1
        assert seen.count("sea The ship is near the harbour.") == 1
        assert {d.meta[SENTENCES_STAMP] for d in found} == {kept[0].meta[SENTENCES_STAMP]}

    def test_the_same_answers_without_embedding_a_text(self, kept, tiny_student, monkeypatch):
        bare = [replace(d, meta={k: v for k, v in d.meta.items() if k != SENTENCES_STAMP}) for d in kept]
        answerer = ExtractiveAnswerer(model=tiny_student, score_threshold=-1.0, top_k=9)
        question = "The bee is near the rose."
        anew = answerer.run(query=question, documents=bare[:2])["answers"]
        long = answerer.run(query=question, documents=bare)["answers"]
        found = answerer.run(query=question, documents=kept)["answers"]
        assert found[0].data == long[0].data == question
        assert {a.data for a in found} <= {
            a.data for a in answerer.run(query=question, documents=bare, top_k=99)["answers"]
        }
        monkeypatch.setattr(Student, "encode_document", lambda *_, **__: pytest.fail("it embeds anew"))
        read = answerer.run(query=question, documents=kept[:2])["answers"]
        assert {a.data for a in read} == {a.data for a in anew}
        scores = {a.data: a.score for a in anew}
        assert all(a.score == pytest.approx(scores[a.data], abs=0.1) for a in read)
        assert read[0].data == question

    def test_another_students_vectors_are_left_alone(self, kept, tiny_student, other_student):
        other = ExtractiveAnswerer(model=other_student, score_threshold=-1.0, top_k=9)
        bare = [replace(d, meta={"title": d.meta.get("title")}) for d in kept]
        found, wanted = (other.run(query="the bee", documents=d)["answers"] for d in (kept, bare))
        assert [(a.data, a.score) for a in found] == [(a.data, a.score) for a in wanted]

    def test_an_edited_document_is_embedded_anew(self, kept, tiny_student):
        edited = replace(kept[0], content="The rose is in the garden. " + SEA)
        answerer = ExtractiveAnswerer(model=tiny_student, score_threshold=-1.0, top_k=9)
        found = answerer.run(query="The rose is in the garden.", documents=[edited])["answers"]
        assert (len(found), found[0].data) == (4, "The rose is in the garden.")

    @pytest.mark.parametrize("sentences", [True, False])
    def test_an_index_keeps_them_unless_told_otherwise(self, tiny_student, tmp_path, sentences):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "sea.txt").write_text(SEA, encoding="utf-8")
        index = tmp_path / "index"
        index_documents(tiny_student, tmp_path / "in", index, sentences=sentences)
        store = QdrantEdgeDocumentStore(path=index)
        assert [SENTENCES_STAMP in d.meta for d in store.filter_documents()] == [sentences]
        store.close()
        pipeline: Pipeline = load_pipeline("extractive_qa", student=tiny_student, index=str(index))
        pipeline.get_component("answerer").score_threshold = -1.0
        question = "The captain is in the storm."
        found = pipeline.run({"retriever": {"query": question}, "answerer": {"query": question}})
        pipeline.close()
        assert found["answerer"]["answers"][0].data == question


class TestHeadings:
    @pytest.mark.parametrize(
        ("text", "left"),
        [
            ("Return policy\n\nYou may return it within a month.", ["You may return it within a month."]),
            ("# What is it?\n\nIt is a harbour, as all know.", ["It is a harbour, as all know."]),
            ("What is the return policy?\n\nA month, at the counter.", ["A month, at the counter."]),
            ("It is in the harbour now.\n\nPage 3 of 12\n\nIt was at sea.", ["It is in the harbour now.", "It was at sea."]),
            ("It is in the harbour.\n\n17", ["It is in the harbour."]),
            ("One two three four five six seven eight nine ten\n\nIt is in the harbour.", ["It is in the harbour."]),
            ("It is here.\n\n© 2026 The Harbour Company. All rights reserved.", ["It is here."]),
            ("退货政策\n\n您可以在一个月内退货。", ["您可以在一个月内退货。"]),
            ("退货政策以及您在本店购物的所有权利\n\n您可以退货。", ["您可以退货。"]),  # 17 characters
            ("Политика возврата\n\nТовар можно вернуть за месяц.", ["Товар можно вернуть за месяц."]),
            ("वापसी नीति\n\nआप एक महीने में लौटा सकते हैं।", ["आप एक महीने में लौटा सकते हैं।"]),
            # not headings
            ("It takes:\n\n- one loaf of bread\n- two onions, cut", ["- one loaf of bread", "- two onions, cut"]),
            ("A ship is here. And a tail that was cut", ["A ship is here.", "And a tail that was cut"]),
            ('He said (as one says) "all is well."', ['He said (as one says) "all is well."']),
            ("Opening hours 9 to 5", ["Opening hours 9 to 5"]),
            ("- two onions\n\nIt is in the harbour.", ["- two onions", "It is in the harbour."]),
            ("“It is so.”\n\nIt is in the harbour.", ["“It is so.”", "It is in the harbour."]),
            ("I II III IV V VI VII VIII IX X XI\n\nIt is here.", ["I II III IV V VI VII VIII IX X XI", "It is here."]),
            ("Return policy\n\nContents", ["Return policy", "Contents"]),
            ("", []),
        ],
    )  # fmt: skip
    def test_are_no_answers_unless_there_is_nothing_else(self, text, left):
        assert [text[start:end] for start, end in answer_spans(text)] == left

    def test_only_sentences_are_left(self):
        for text in (SEA, FILLER * 9, "a\n\nb c d e.\n\n\n"):
            assert set(answer_spans(text)) <= set(sentence_spans(text))
