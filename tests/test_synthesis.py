# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Training data out of documents alone."""

import json
import tracemalloc
from dataclasses import replace
from unicodedata import normalize

import numpy as np
import pytest
from haystack import Document
from haystack.dataclasses import ChatMessage

from retort.trainers.data.beir import read_beir
from retort.trainers.data.documents import documents_to_data, read_documents
from retort.trainers.data.pseudo_queries import (
    FirstSentences,
    GeneratedQuestions,
    Headings,
    KeyPhrases,
    KeySentences,
    Spans,
    Titles,
)
from retort.trainers.data.synthesis import hold_out, make_queries, write_training_data
from retort.trainers.roles import QuerySource
from retort.trainers.runtime.errors import DataError, RecipeError, TeacherError
from retort.trainers.teachers.chat_generator import ChatModel

MOCK = "haystack.components.generators.chat.mock.MockChatGenerator"


def documents(*texts: str, **meta) -> list[Document]:
    return [Document(id=f"d{i}", content=text, meta=meta) for i, text in enumerate(texts)]


def of(source, *texts: str) -> list[list[str]]:
    return source.of(documents_to_data("x", documents(*texts)))


class Fixed(QuerySource):
    """A source that gives what it is told to."""

    def __init__(self, *queries: list[str]) -> None:
        self.queries = queries

    def of(self, data):
        assert len(data.corpus) == len(self.queries)
        return list(self.queries)


class TestSources:
    def test_headings(self):
        text = (
            "# Getting started #\nRun it.\n\nInstalling from source\n\nDo this and that.\n\n- a list item\n\nThe end."
        )
        assert of(Headings(), text, "One line alone", "no heading here, just text.") == [
            ["Getting started", "Installing from source"],
            [],
            [],
        ]

    def test_spans_are_of_the_document_and_the_same_each_time(self):
        text = " ".join(f"w{i}" for i in range(40))
        (first,), (again,) = (of(Spans(most=3), text) for _ in range(2))
        assert first == again
        assert len(first) == 3
        assert all(span in text and 4 <= len(span.split()) <= 10 for span in first)
        assert of(Spans(), "too short for a span and the rest") == [[]]

    def test_key_phrases_are_what_others_lack(self):
        found = of(KeyPhrases(words=2), "the ship and the harbour", "the bread and the oven", "the and")
        assert found == [["ship harbour"], ["bread oven"], []]

    @pytest.mark.parametrize("source", [KeyPhrases(), KeySentences()])
    def test_the_words_of_a_corpus_are_not_kept(self, source):
        """A document's take about 0.1 MB."""
        data = documents_to_data("x", documents(*(" ".join(f"w{i}" for i in range(1000)) for _ in range(50))))
        tracemalloc.start()
        try:
            source.of(data)
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()

    def test_half_characters_of_an_llm_are_replaced(self, tmp_path, monkeypatch):
        """No file takes them, after the answers are paid."""
        monkeypatch.setattr(ChatModel, "_answer", lambda *_: "what \ud83d is\na \ud83d\ude00?")
        messages = [ChatMessage.from_assistant("another").to_dict()]
        spec = {"type": MOCK, "init_parameters": {"responses": messages}}
        source = GeneratedQuestions(generator=spec, cache=str(tmp_path / "answers.jsonl"))
        for _ in range(2):  # asked, and read back
            assert source.of(documents_to_data("x", documents("flour"))) == [["what \ufffd is", "a \U0001f600?"]]

    def test_questions_of_an_llm_are_asked_once(self, tmp_path, monkeypatch):
        messages = [ChatMessage.from_assistant('1. What is it?\n- How so?\n\n"Why?"\n4. Too many?').to_dict()]
        spec = {"type": MOCK, "init_parameters": {"responses": messages}}
        asked, real = [], ChatModel._answer

        def answer(self, prompt):
            if len(asked) == most:
                msg = "quota"
                raise TeacherError(msg)
            asked.append(prompt)
            return real(self, prompt)

        monkeypatch.setattr(ChatModel, "_answer", answer)
        source = GeneratedQuestions(generator=spec, cache=str(tmp_path / "answers.jsonl"))
        data = documents_to_data("x", documents("flour {most}", "waves"))
        assert source.estimate(data)["calls"] == 2
        most = 1
        with pytest.raises(TeacherError):
            source.of(data)
        most = None
        with (tmp_path / "answers.jsonl").open("a") as cut:
            cut.write('["half a li')  # by a kill
        assert source.estimate(data)["calls"] == 1
        assert source.of(data) == [["What is it?", "How so?", "Why?"]] * 2
        assert len(asked) == 2
        assert source.of(data) == [["What is it?", "How so?", "Why?"]] * 2
        assert len(asked) == 2
        assert "Write 3 short" in asked[0]
        assert "flour {most}" in asked[0]
        with pytest.raises(RecipeError, match="no {document}"):
            GeneratedQuestions(generator=spec, prompt="x")


class TestMaking:
    def test_what_is_dropped_and_why(self):
        sources = {
            "first": Fixed(
                ["Ship in the harbour!", "ship", "harbour, the ship IN"],
                ["common words", "a theorem about primes"],
                ["common words"],
                ["common words"],
                ["common words", "word " * 50],
            ),
            "second": Fixed(["in the ship harbour", "storm over sea"], [], [], [], []),
        }
        texts = ["ship harbour storm", "bread common", "oven", "salt", "soup"]
        made = make_queries(documents(*texts), sources)
        assert made.made == {"first": 9, "second": 2}
        assert made.kept == {"first": [("Ship in the harbour!", [0])], "second": [("storm over sea", [0])]}
        assert made.dropped["first"] == {
            "too short or long": 2,
            "there already": 1,
            "of too many documents": 4,
            "does not find its own document": 1,
        }
        assert made.dropped["second"] == {"there already": 1}

    def test_no_contestant_chooses_the_questions_of_dev(self):
        texts = ["ship harbour", "bread oven", "salt soup"]
        source = {"s": Fixed(["a vessel at anchor"], ["loaves get hot"], [])}
        held = np.array([True, False, False])
        made = make_queries(documents(*texts), source, held=held)
        assert made.kept["s"] == [("a vessel at anchor", [0])]
        assert made.dropped["s"] == {"does not find its own document": 1}

    @pytest.mark.parametrize("files", [1, 20, 25])
    def test_something_is_always_held_out(self, files):
        for salt in range(40):
            given = [
                Document(id=f"{salt}-{i}", content="x", meta={"file_path": f"{salt}-{i % files}"}) for i in range(50)
            ]
            held = hold_out(given, 0.01)
            assert 0 < held.sum() < 25
            if files >= 20:
                assert len({d.meta["file_path"] for d, h in zip(given, held, strict=True) if h}) < 10

    @pytest.mark.parametrize("share", [-0.1, 1.0, float("nan"), float("inf")])
    def test_a_share_that_is_none(self, share):
        with pytest.raises(DataError, match=f"dev share: {share:g}; it must lie from 0 to below 1"):
            hold_out(documents("ship", "bread"), share)

    def test_titles_do_not_run_into_sentences(self):
        many = documents("The ship is in the harbour. It waits there for the tide.", title="On ships")
        many += [Document(id="x", content="The bread is in the oven. It is hot and smells well.")]
        made = make_queries(many, {"titles": Titles(), "first": FirstSentences()})
        assert made.kept["titles"] == [("On ships", [0])]
        assert made.kept["first"] == [("The ship is in the harbour.", [0]), ("The bread is in the oven.", [1])]

    def test_a_query_is_of_every_passage_that_holds_it(self, tmp_path):
        """Passages of a file overlap: the first sentence of one is the last of the one before."""
        for i in range(3):
            sentences = [f"Word{n} of page{i} is near the term{n} of chapter{n // 3} and its end." for n in range(60)]
            (tmp_path / f"page{i}.txt").write_text(" ".join(sentences))
        passages = read_documents(tmp_path)
        held = np.arange(len(passages)) % 3 == 0
        made = make_queries(passages, {"first": FirstSentences(), "spans": Spans()}, held=held)
        shared = 0
        for text, rows in [query for kept in made.kept.values() for query in kept]:
            assert rows == [row for row, d in enumerate(passages) if text in " ".join(d.content.split())]
            shared += len(rows) > 1
        assert shared > 10
        write_training_data(passages, made, tmp_path / "data", held=held)
        train, dev = (read_beir(tmp_path / "data", split) for split in ("train", "dev"))
        assert "of the queries kept are of both sides" in (tmp_path / "data" / "card.md").read_text()
        trained = {i for judged in train.qrels.values() for i in judged}
        texts = [" ".join(d.content.split()) for d in passages if d.id in trained]
        assert len(dev.queries) and not [q for q in dev.queries.texts if any(q in text for text in texts)]

    def test_two_spellings_of_a_letter_are_one(self):
        """As in BM25: a sentence that stands in documents of both sides is not trained on."""
        text = "Ajoutez le sucre blanc et m\u00e9langez bien"
        found = make_queries(documents(text, normalize("NFD", text)), {"s": Fixed([text], [])})
        assert [rows for _, rows in found.kept["s"]] == [[0, 1]]

    @pytest.mark.parametrize(
        "query", ["the cat sat on the mat", "\u4e0a\u6d77\u6e2f\u53e3\u5f88\u5927\uff0c\u8239\u5f88\u591a"]
    )
    def test_whole_words_hold_a_query(self, query):
        texts = [f"Here {query}.", f"here\n{query.upper()}, too", f"{query[:-1]}", "another text"]
        assert make_queries(documents(*texts), {"s": Fixed([query], [], [], [])}).kept["s"] == [(query, [0, 1])]
        common = make_queries(documents(*(f"{query} {i}" for i in range(4))), {"s": Fixed([query], [], [], [])})
        assert common.kept["s"] == [] and common.dropped["s"] == {"of too many documents": 1}

    def test_a_term_is_not_of_all_that_mention_it(self):
        """Only of passages of its file, which overlap."""
        texts = {"Event loop": "a.md", "the event loop": "a.md", "an event loop, again": "b.md"}
        of_files = [Document(content=text, meta={"file_path": path}) for text, path in texts.items()]
        source = {"s": Fixed(["event loop"], [], [])}
        assert make_queries(of_files, source).kept["s"] == [("event loop", [0, 1])]
        assert make_queries(documents(*texts), source).kept["s"] == [("event loop", [0])]

    def test_another_search_may_vouch_for_a_query(self):
        texts = ["ship harbour", "bread oven", "salt soup"]
        source = {"s": Fixed(["a vessel at anchor"], [], ["a vessel at sea"])}
        assert make_queries(documents(*texts), source).kept["s"] == []

        def search(asked, depth):
            assert asked == ["a vessel at anchor", "a vessel at sea"]
            return np.array([[0], [1]])

        assert make_queries(documents(*texts), source, searches=[search], depth=1).kept["s"] == [
            ("a vessel at anchor", [0])
        ]


class TestWriting:
    @pytest.fixture
    def many(self):
        return [
            Document(
                id=f"d{i}", content=f"word{i} term{i} text", meta={"file_path": f"f{i // 2}.txt", "title": f"t{i}"}
            )
            for i in range(60)
        ]

    def made(self, many):
        return make_queries(many, {"s": Fixed(*([f"word{i} and term{i}"] for i in range(60)))})

    def test_a_split_by_file_that_can_be_read(self, many, tmp_path):
        counts = write_training_data(many, self.made(many), tmp_path / "data", held=hold_out(many, 0.3))
        assert counts["documents"] == 60
        assert counts["train"] + counts["dev"] == 60
        files = {}
        for split in ("train", "dev"):
            data = read_beir(tmp_path / "data", split)
            assert len(data.queries) == counts[split]
            positives = {i for judged in data.qrels.values() for i in judged}
            files[split] = {many[int(i[1:])].meta["file_path"] for i in positives}
        assert files["train"] and files["dev"]
        assert not files["train"] & files["dev"]
        assert data.corpus.texts[3] == "t3 word3 term3 text"
        card = (tmp_path / "data" / "card.md").read_text()
        assert "| s | 60 | 60 | none |" in card
        assert "all of them made up" in card
        assert "Queries of one file are either all for training or all for dev.\n" in card
        few = [replace(d, meta={**d.meta, "file_path": "one.md"}) for d in many]
        write_training_data(few, self.made(few), tmp_path / "few", held=hold_out(few, 0.3))
        card = (tmp_path / "few" / "card.md").read_text()
        assert "Queries of one passage are either all" in card
        assert "too few files to split by file" in card
        fewer = many[:40]
        made = make_queries(fewer, {"s": Fixed(*([f"word{i} term{i}"] for i in range(40)))})
        again = write_training_data(fewer, made, tmp_path / "less", held=hold_out(fewer, 0.3))
        assert again["documents"] == 40
        less = {i for judged in read_beir(tmp_path / "less", "dev").qrels.values() for i in judged}
        assert less == {i for judged in data.qrels.values() for i in judged if int(i[1:]) < 40}

    def test_real_queries_are_dev(self, many, tmp_path):
        asked = [("what does it say?", ["d3", "d4"]), ("and then?", ["d5"])]
        held = hold_out(many, 0.1, asked)
        counts = write_training_data(many, self.made(many), tmp_path / "data", held=held, asked=asked)
        assert counts["dev"] == 2
        train = read_beir(tmp_path / "data", "train")
        asked_files = {many[i].meta["file_path"] for i in (3, 4, 5)}
        trained = {many[int(i[1:])].meta["file_path"] for judged in train.qrels.values() for i in judged}
        assert trained == {d.meta["file_path"] for d in many} - asked_files
        dev = read_beir(tmp_path / "data", "dev")
        assert dev.queries.texts == ["what does it say?", "and then?"]
        assert dev.qrels["asked-0"] == {"d3": 1, "d4": 1}
        with pytest.raises(DataError, match="names the document 'x'"):
            write_training_data(many, self.made(many), tmp_path / "bad", held=held, asked=[("q", ["x"])])
        assert not (tmp_path / "bad").exists()

    def test_a_real_query_is_not_trained_on(self, many, tmp_path):
        """Whatever document the same words were made of."""
        asked = [("Word9, and\n term9", ["d3"])]
        held = hold_out(many, 0.1, asked)
        assert not held[9]
        write_training_data(many, self.made(many), tmp_path / "data", held=held, asked=asked)
        texts = read_beir(tmp_path / "data", "train").queries.texts
        assert "word8 and term8" in texts and "word9 and term9" not in texts

    def test_a_titles_white_space_makes_no_other_text(self, tmp_path):
        """What a teacher was paid for while queries were chosen is found again in training."""
        documents = [Document(id=f"d{i}", content=f"word{i} term{i}", meta={"title": f" t{i} "}) for i in range(9)]
        made = make_queries(documents, {"s": Fixed(*([f"word{i} and term{i}"] for i in range(9)))})
        write_training_data(documents, made, tmp_path, held=hold_out(documents, 0.3))
        assert read_beir(tmp_path, "dev").corpus.hash == documents_to_data("", documents).corpus.hash

    def test_real_queries_of_every_file(self, tmp_path):
        """Their passages alone are held out, and not all the files."""
        passages = [
            Document(id=f"d{i}", content=f"word{i} term{i} text", meta={"file_path": f"f{i // 4}"}) for i in range(100)
        ]
        made = make_queries(passages, {"s": Fixed(*([f"word{i} and term{i}"] for i in range(100)))})
        asked = [(f"query {i}?", [f"d{4 * i}"]) for i in range(25)]
        held = hold_out(passages, 0.1, asked)
        assert np.flatnonzero(held).tolist() == list(range(0, 100, 4))
        counts = write_training_data(passages, made, tmp_path / "data", held=held, asked=asked)
        assert counts == {"documents": 100, "train": 75, "dev": 25}
        card = (tmp_path / "data" / "card.md").read_text()
        assert "Queries of one passage are either all" in card
        assert "The real queries ask for too many files to hold out whole ones." in card
        assert hold_out(passages, 0.1, asked[:12]).sum() == 48  # whole files, where half of all are left

    def test_real_queries_of_all_documents(self, many, tmp_path):
        asked = [(f"query {i}?", [d.id]) for i, d in enumerate(many)]
        held = hold_out(many, 0.1, asked)
        with pytest.raises(DataError, match=r"none for train. The real queries \(--queries\) hold out 60 of") as error:
            write_training_data(many, self.made(many), tmp_path / "data", held=held, asked=asked)
        assert "--dev-share" not in str(error.value)
        made = self.made(many)
        with pytest.raises(DataError, match=r"none for dev. No real query \(--queries\) names"):
            write_training_data(many, made, tmp_path / "data", held=np.zeros(60, dtype=bool), asked=[("query?", [])])

    def test_too_little(self, tmp_path):
        few = documents("bread and butter")
        with pytest.raises(DataError, match="Of 1 documents, 0 queries were made"):
            write_training_data(few, make_queries(few, {"s": Spans()}), tmp_path / "data", held=hold_out(few, 0.1))

    def test_the_same_documents_give_the_same_folder(self, many, tmp_path):
        for name in ("a", "b"):
            write_training_data(many, self.made(many), tmp_path / name, held=hold_out(many, 0.1))
        for path in (tmp_path / "a").rglob("*.*"):
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
        first = json.loads((tmp_path / "a" / "queries.jsonl").read_text().splitlines()[0])
        assert first["_id"].startswith("s-")
