# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Weak pairs: what documents bring along, what is removed from passages, batches, and selected queries of a stage."""

import json
from dataclasses import replace
from unicodedata import normalize

import numpy as np
import pytest
from tiny import assert_comes_back, everything, opened, spec, stage, write_jsonl

from retort.students import Student
from retort.trainers.batches.pairs import PairBatches
from retort.trainers.context import TrainingContext
from retort.trainers.data.beir import read_beir
from retort.trainers.data.splits import read_train_and_dev
from retort.trainers.data.texts import RetrievalData, TextStore, document_text, share_corpus
from retort.trainers.data.weak_pairs import Questions, WeakPairs, pairs_of, without
from retort.trainers.recipe import Recipe
from retort.trainers.recipe.schema import DataSection
from retort.trainers.roles import Selector
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.teachers.bi_encoder import BiEncoderTeacher

PAIRS = "retort.trainers.data.weak_pairs.WeakPairs"


def corpus(*texts: str, titles=()) -> RetrievalData:
    titles = [*titles, *[""] * (len(texts) - len(titles))]
    whole = [document_text(title, text) for title, text in zip(titles, texts, strict=True)]
    return RetrievalData("made", TextStore(map(str, range(len(texts))), whole, titles), TextStore([], []))


def judged(texts: list[str], queries: dict[str, list[int]]) -> RetrievalData:
    names = [f"q{i}" for i in range(len(queries))]
    qrels = {name: {str(row): 1 for row in rows} for name, rows in zip(names, queries.values(), strict=True)}
    return replace(corpus(*texts), queries=TextStore(names, queries), qrels=qrels)


class TestKinds:
    PAGE = (
        "## Mooring a ship\n\nTie the rope to the ring. It must not chafe.\n\n"
        "How long is the rope?\n\nTwice as long as the ship, at least."
    )

    def of(self, *kinds: str) -> list[str]:
        return WeakPairs(kinds=list(kinds)).of(corpus(self.PAGE, "Bread.", titles=["Harbour rules"]))[0]

    def test_each(self):
        assert self.of("title") == ["Harbour rules"]
        assert self.of("heading") == ["Mooring a ship"]
        assert self.of("question") == ["How long is the rope?"]
        assert self.of("abstract") == ["Tie the rope to the ring. It must not chafe."]
        assert self.of("sentence") == ["Tie the rope to the ring."]

    def test_all_the_best_first(self):
        every = WeakPairs().of(corpus(self.PAGE, titles=["Harbour rules"]))[0]
        assert every[:4] == [one for kind in ("title", "heading", "question", "abstract") for one in self.of(kind)]

    def test_in_the_order_of_the_kinds(self):
        assert self.of("heading", "title") == ["Mooring a ship", "Harbour rules"]

    def test_questions_of_other_scripts_and_at_the_end(self):
        texts = ["船在哪里？船在港口里等潮水。", "The ship waits. What for?", "ما هي السفينة؟ هي في الميناء."]
        assert WeakPairs(kinds=["question"]).of(corpus(*texts)) == [["船在哪里？"], [], ["ما هي السفينة؟"]]

    def test_the_first_question_of_several(self):
        text = "Where is the ship? It is here. What is the rope for? It holds the ship."
        assert WeakPairs(kinds=["question"]).of(corpus(text)) == [["Where is the ship?"]]
        assert Questions(most=2).of(corpus(text)) == [["Where is the ship?", "What is the rope for?"]]

    def test_an_abstract_needs_a_body(self):
        assert WeakPairs(kinds=["abstract"]).of(corpus("One paragraph. It is all.", "")) == [[], []]
        long = "word " * 60 + "end.\n\nAnother paragraph. It goes on."
        assert WeakPairs(kinds=["abstract"]).of(corpus(long)) == [[" ".join(["word"] * 48)]]

    def test_an_abstract_of_two_lines(self):
        """Sentences make a paragraph, however the last one ends; the query is one line."""
        text = "Is the rope\ntied fast? It must hold the ship!\n\nAnother paragraph. It goes on."
        assert WeakPairs(kinds=["abstract"]).of(corpus(text)) == [["Is the rope tied fast? It must hold the ship!"]]

    def test_what_stands_in_many_documents_says_little(self):
        texts = [f"## About this page\n\nThe text number {i} is here." for i in range(4)]
        source = WeakPairs(kinds=["heading"])
        assert source.of(corpus(*texts)) == [[], [], [], []]
        assert source.of(corpus(*texts[:3], texts[0])) == [["About this page"]] * 4  # a copy counts once
        assert WeakPairs(kinds=["heading"], most_documents=4).of(corpus(*texts))[3] == ["About this page"]

    def test_one_word_is_no_query(self):
        assert WeakPairs(kinds=["title"]).of(corpus("The ship.", titles=["Ships"])) == [[]]

    def test_an_unknown_kind(self):
        with pytest.raises(ValueError, match="kinds: there is no 'caption'; there are: title, heading"):
            WeakPairs(kinds=["title", "caption"])


class TestWithout:
    @pytest.mark.parametrize(
        ("query", "text", "rest"),
        [
            ("Harbour rules", "Harbour rules Ships wait.", "Ships wait."),
            ("Harbour rules", "On harbour rules.\n\n# Harbour Rules #\n\nWait.", "On harbour rules.\n\n\n\nWait."),
            ("the rope", "Tie the\nrope. Then tie the rope again.", "Tie . Then tie the rope again."),
            ("art", "The party has art.", "The party has ."),
            ("C++ (new)", "C++ (new) Classes.", "Classes."),
            ("What is it?", "What is it? A ship.", "A ship."),
            ("bread", "The ship.", "The ship."),
            ("caf\u00e9", "The cafe\u0301 waits.", "The  waits."),
            ("船在哪里？", "船在哪里？船在港口里。", "船在港口里。"),
            ("船", "大船在港口里。", "大在港口里。"),
            ("القط", "القطار سريع جدا في المدينة", "القطار سريع جدا في المدينة"),
            ("القط", "القطار سريع مع القط.", "القطار سريع مع ."),
            ("שלום", "שלומי אומר שלום לך", "שלומי אומר  לך"),
            ("कल", "कला और कल की बात", "कला और  की बात"),
            ("मे", "मेरा घर", "मेरा घर"),
            ("서울", "서울에서 서울 구경", "서울에서  구경"),
            ("می", "می\u200cخواهم", "می\u200cخواهم"),
            ("a a", "ba a a b", "ba  b"),
        ],
    )
    def test_where_it_stands(self, query, text, rest):
        assert without(query, text) == rest


class TestTitles:
    def test_titles_go_with_their_texts(self, beir):
        train, dev = read_train_and_dev(beir, DataSection())
        assert train.corpus.titles[:2] == ["sea", "sea"] and train.corpus.texts[0].startswith("sea the")
        assert train.corpus.select([39, 0]).titles == ["math", "sea"]
        assert train.corpus.without_titles().texts[0].startswith("the ")
        other = replace(dev, corpus=TextStore(["x"], ["Own title text"], ["Own title"]))
        assert share_corpus(train, other)[0].corpus.titles[-1] == "Own title"


class TestPairs:
    TEXTS = (
        "On ships. They sail the wide sea at night.",
        "On bread. The oven is hot and the loaf is brown.",
        "On bread. The oven is hot and the loaf is brown.",
        "They sail the wide sea at night.",
        "On salt.",
    )

    def test_own_passages_are_never_negatives(self):
        """Of copies the first; passages of equal text; the query's own text; other passages of its document."""
        queries = {"On ships.": [0], "On bread.": [1, 2], "at night.": [0], "They sail the wide sea at night.": [4]}
        data = judged(list(self.TEXTS), {**queries, "On salt.": [4]})
        pairs = pairs_of(data)
        assert pairs.passages.texts == [
            "They sail the wide sea at night.",
            "The oven is hot and the loaf is brown.",
            "On ships. They sail the wide sea",
        ]
        assert (pairs.queries.tolist(), pairs.rows.tolist()) == ([0, 1, 2], [0, 1, 2])  # "On salt." leaves nothing
        never = pairs.never_negative(np.array([0, 1, 2, 3]), np.array([0, 1, 2]))
        assert never.tolist() == [[True, False, True], [False, True, False], [True, False, True], [True, False, False]]
        assert pairs.never_negative(np.array([0]), np.array([1])).tolist() == [[False]]

    def test_a_title_that_is_the_pages_heading_too(self):
        """As pages have it; a sentence that begins with the title's words is the text's own."""
        body = "The cabin is warm and the deck is wet."
        contents = [
            f"On ships\n\n{body}",
            f"# ON  ships\n\n{body} So is the sail.",
            f"An introduction.\n\n# On ships\n\n{body}",
        ]
        contents.append("On ships they wrote a poem and a song.")
        data = corpus(*contents, titles=["On ships"] * 4)
        data = replace(data, queries=TextStore("q", ["on SHIPS"]), qrels={"q": dict.fromkeys(data.corpus.ids, 1)})
        assert pairs_of(data).passages.texts == [
            body,
            f"{body} So is the sail.",
            f"An introduction.\n\n\n\n{body}",
            contents[3],
        ]

    def test_the_shortest_passage(self):
        data = judged(["On salt. It is white and dry.", "On salt. It is very white."], {"On salt.": [0, 1]})
        assert pairs_of(data).passages.texts == ["It is white and dry."]

    def test_what_comes_of_the_query_itself_is_no_negative(self):
        """A document with the query's id is the query."""
        data = judged(list(self.TEXTS), {"On ships.": [0], "On bread.": [1]})
        data = replace(data, queries=TextStore(["1", "q1"], data.queries.texts), qrels={"1": {"0": 1}, "q1": {"1": 1}})
        assert [own.tolist() for own in pairs_of(data).own] == [[0, 1], [1]]

    def test_a_query_in_another_spelling_is_the_passage(self):
        """Letters and accents apart, as files of macOS have them."""
        passage = "The caf\u00e9 by the sea is warm."
        data = judged([f"On bread. {passage}", "On salt."], {"On bread.": [0], normalize("NFD", passage): [1]})
        assert [own.tolist() for own in pairs_of(data).own] == [[0], [0]]

    def test_without_queries(self):
        assert pairs_of(corpus(*self.TEXTS)).rows.shape == (0,)


class TestBatches:
    @pytest.fixture
    def data(self, beir):
        """Each document with its topic, the title, as a query beside its own."""
        return read_beir(beir, "train")

    @pytest.fixture
    def source(self, data, tmp_path):
        return opened(PairBatches(), TrainingContext(data, {}, tmp_path), batch_size=8)

    def test_a_batch_depends_on_its_step_alone(self, source):
        batch, again, other = source.batch(3), source.batch(3), source.batch(4)
        assert batch.queries == again.queries != other.queries
        assert batch.documents == again.documents
        assert source.size == source.queries_with_positive == 30
        assert len({query for step in range(4) for query in source.batch(step).queries}) == 30

    def test_its_fields(self, source, data):
        batch = source.batch(0)
        for row, (query, own) in enumerate(zip(batch.queries, batch.index[:, 0].tolist(), strict=True)):
            number = data.queries.texts.index(query)
            (document,) = data.positives()[number]
            assert batch.documents[own] == data.corpus.texts[document]
            assert batch.known_positive[row].nonzero().tolist() == [[own]]
        assert batch.labels.eq(1).all() and batch.mask.all() and batch.sources.eq(-1).all()
        parts = batch.split(2)
        assert [part.size for part in parts] == [4, 4]
        assert all(len(part.documents) == 4 for part in parts)

    def test_teachers_see_the_same_passages(self, data, tmp_path, tiny_student):
        teacher = BiEncoderTeacher(model=tiny_student, device="cpu")
        source = opened(PairBatches(), TrainingContext(data, {"t": teacher}, tmp_path), batch_size=4, teachers=["t"])
        batch = source.batch(0)
        queries, passages = batch.teacher_vectors["t"]
        student = Student.load(tiny_student)
        np.testing.assert_allclose(queries, student.encode_query(batch.queries), atol=1e-6)
        np.testing.assert_allclose(passages, student.encode_document(batch.documents), atol=1e-6)


class Even(Selector):
    """Keeps every other query, or none."""

    def __init__(self, *, none: bool = False) -> None:
        self.none = none

    def keep(self, context, enough):
        assert enough == 24
        return (np.arange(len(context.data.queries)) % 2 == 0) & (not self.none)


@pytest.fixture
def tree(recipe_tree):
    """A stage over pairs of the corpus' titles and first sentences, of which half are selected."""
    write = stage("pairs", 6, spec("Contrastive"), batches="pairs", queries=spec(PAIRS, most_documents=9))
    write["selector"] = spec("test_pairs.Even")
    return recipe_tree | {"teachers": {}, "candidates": {}, "stages": [write]}


class TestRuns:
    def run(self, tree, data, out):
        return run_recipe(Recipe.from_dict(tree, allow=["test_pairs"]), data, out)

    def test_selected_queries(self, tree, pages, tmp_path, monkeypatch):
        """What was chosen is logged, and stands after a kill."""
        out = tmp_path / "whole" / "run"
        self.run(tree, pages, out)
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        (logged,) = (line for line in lines if line["event"] == "opened")
        made = [json.loads(line) for line in (out / "queries" / "pairs.jsonl").read_text().splitlines()]
        kept = json.loads((out / "selected" / "pairs.json").read_text())
        assert len({entry["text"] for entry in made}) == logged["queries"] > 40
        assert len(kept) == logged["kept"] == (logged["queries"] + 1) // 2
        assert_comes_back(tree, pages, tmp_path, monkeypatch, everything(out), (3,), allow=("test_pairs",))

    def test_none_is_left(self, tree, pages, tmp_path):
        tree["stages"][0]["selector"] = spec("test_pairs.Even", none=True)
        with pytest.raises(RecipeError, match="no query was left to train on. Look at what selects them"):
            self.run(tree, pages, tmp_path / "run")

    def test_what_dev_asks_for_is_left_out(self, tree, pages, tmp_path):
        """By the folder that `retort distill` writes; copies are left out, too."""
        records = [json.loads(line) for line in (pages / "corpus.jsonl").read_text().splitlines()]
        write_jsonl(pages / "corpus.jsonl", [*records, records[0] | {"_id": "copy"}])
        write_jsonl(pages / "held-out.jsonl", [{"_id": "d00"}, {"_id": "d11"}])
        self.run(tree, pages, tmp_path / "run")
        made = (tmp_path / "run" / "queries" / "pairs.jsonl").read_text().splitlines()
        assert {r["_id"] for r in records} - {json.loads(line)["document_id"] for line in made} == {"d00", "d11"}
        assert "copy" not in "".join(made)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"batches": "texts"}, "stages.0.selector: it is for batches of lists or pairs"),
            ({"selector": None, "queries": None, "refresh": 3}, "stages.0.refresh: there are no lists, queries or"),
            ({"queries": spec(PAIRS, kinds=["caption"])}, "queries.*kinds: there is no 'caption'"),
            ({"queries": spec(PAIRS, kinds=[])}, "queries.*WeakPairs: kinds must name one at least"),
            ({"queries": spec(PAIRS, most_documents=0)}, "most_documents be above 0; it is 0"),
        ],
    )
    def test_mistakes(self, tree, pages, tmp_path, change, message):
        tree["stages"][0] |= change
        with pytest.raises(RecipeError, match=message):
            self.run(tree, pages, tmp_path / "run")
