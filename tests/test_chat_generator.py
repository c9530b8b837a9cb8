# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""An LLM as judge: Haystack's own mock answers here; what it answers, and what it costs, is what matters."""

import logging
import math

import numpy as np
import pytest
from haystack.dataclasses import ChatMessage
from tiny import everything, run_killed, spec

from retort.trainers.recipe import Recipe
from retort.trainers.roles import Ask
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError, TeacherError
from retort.trainers.teachers.chat_generator import ChatGeneratorTeacher, ChatModel

MOCK = "haystack.components.generators.chat.mock.MockChatGenerator"
ASKS = [Ask("q1", "what is {bread}", ["a", "b"], ["flour {query}", "ship"]), Ask("q2", "sail", ["c"], ["wave"])]


def generator(*responses: str) -> dict:
    messages = [ChatMessage.from_assistant(text).to_dict() for text in responses]
    return {"type": MOCK, "init_parameters": {"responses": messages} if messages else {}}


class TestAnswers:
    @pytest.mark.parametrize(
        ("answer", "number"),
        [("7", 7), ("Score: 3.5.", 3.5), ("4/10", 4), ("0", 0), ("zehn", None), ("", None), ("11", None), ("-1", None)],
    )
    def test_a_number_or_none(self, answer, number, caplog):
        teacher = ChatGeneratorTeacher(generator=generator(answer))
        found = np.concatenate(list(teacher.score(ASKS)))
        assert len(found) == 3
        if number is None:
            assert np.isnan(found).all()
            assert "3 of 3 answers so far had no number from 0 to 10" in caplog.text
        else:
            np.testing.assert_array_equal(found, np.float32(number))
            assert not caplog.text

    def test_the_prompt_holds_texts_as_they_are(self):
        """Braces in texts are no places; the mock repeats what it was asked."""
        teacher = ChatGeneratorTeacher(generator=generator(), prompt="[{query}] ({document}) 5")
        asked = [{"query": "what is {bread}", "document": "flour {query}"}]
        assert list(teacher._model.answers(asked)) == [(0, "[what is {bread}] (flour {query}) 5")]

    def test_an_estimate_comes_first(self, caplog):
        caplog.set_level(logging.INFO)
        teacher = ChatGeneratorTeacher(generator=generator("1"), prompt="{query} {document}", price=2.0)
        found = teacher.estimate(ASKS)
        characters = sum(len(f"{a.query} {text}") for a in ASKS for text in a.documents)
        assert found == {"calls": 3, "tokens": characters / 4, "cost": characters / 4 * 2e-6}
        list(teacher.score(ASKS))
        assert "3 calls" in caplog.text

    def test_a_model_that_never_gives_a_number_is_given_up(self):
        teacher = ChatGeneratorTeacher(generator=generator("I am a teapot."))
        asks = [Ask("q", "q", [str(i) for i in range(30)], ["d"] * 30)]
        with pytest.raises(TeacherError, match=r"no number from 0 to 10 in its first 20 answers.*teapot"):
            list(teacher.score(asks))

    def test_the_key_knows_prompt_range_and_model(self):
        keys = {
            ChatGeneratorTeacher(generator=generator(answer), **options).key
            for answer in "12"
            for options in ({}, {"prompt": "{query}{document}"}, {"highest": 5})
        }
        assert len(keys) == 6
        assert ChatGeneratorTeacher(generator=generator("1")).key in keys


PLACES = [{"query": str(i), "document": "d"} for i in range(25)]


class TestWithoutText:
    """Nothing was said: by one answer, or by the model."""

    def model(self, monkeypatch, tmp_path, *says) -> ChatModel:
        model = ChatModel(generator("1"), "{query} {document}", ("query",), cache=str(tmp_path / "a.jsonl"))
        left = [[ChatMessage.from_assistant(text)] if text is not None else [] for text in says]
        monkeypatch.setattr(model._components.warm["generator"], "run", lambda **_: {"replies": left.pop(0)})
        return model

    @pytest.mark.parametrize("nothing", [None, "", " \n"])
    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_is_told_and_kept(self, tmp_path, monkeypatch, caplog, nothing, place):
        says = ["one", "two", "three"]
        says[place] = nothing
        model = self.model(monkeypatch, tmp_path, *says)
        expected = [(n, "" if n == place else text) for n, text in enumerate(says)]
        assert [(n, text.strip()) for n, text in model.answers(PLACES[:3])] == expected
        assert (
            "gave no text in 1 of 3 answers; to ask again delete their lines, which end in empty quotes, in"
            in caplog.text
        )
        again = self.model(monkeypatch, tmp_path)  # it is asked for nothing: other processes see the same
        assert sorted(again.answers(PLACES[:3])) == expected
        lines = (tmp_path / "a.jsonl").read_text().splitlines()
        (tmp_path / "a.jsonl").write_text("".join(f"{line}\n" for line in lines if not line.endswith('""]')))
        asked = self.model(monkeypatch, tmp_path, "now")
        assert dict(asked.answers(PLACES[:3]))[place] == "now"

    def test_a_model_that_never_says_anything_is_given_up(self, tmp_path, monkeypatch):
        model = self.model(monkeypatch, tmp_path, *[None] * 25)
        with pytest.raises(TeacherError, match=r"gave no text in its first 20 answers.* Kept: 0 answers"):
            list(model.answers(PLACES))
        model = self.model(monkeypatch, tmp_path, *[None] * 19, *["x"] * 6)
        assert len(list(model.answers(PLACES))) == 25


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"prompt": "{query}"}, "no {document}"),
            ({"lowest": 5, "highest": 5}, "empty"),
            ({"generator": {"type": "haystack.components.builders.prompt_builder.PromptBuilder",
                            "init_parameters": {"template": "x"}}}, "no chat generator"),
            ({"generator": {"type": "haystack.components.generators.chat.openai.OpenAIChatGenerator"}}, "revision"),
        ],
    )  # fmt: skip
    def test_parameters(self, options, message, monkeypatch):
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        with pytest.raises(RecipeError, match=message):
            ChatGeneratorTeacher(**({"generator": generator("1")} | options))

    def test_a_failure_names_the_query(self, monkeypatch):
        teacher = ChatGeneratorTeacher(generator=generator("1"))

        def fail(**_):
            msg = "quota"
            raise OSError(msg)

        monkeypatch.setattr(teacher._model._components.warm["generator"], "run", fail)
        with pytest.raises(TeacherError, match="failed on .*what is {bread}.*: quota"):
            list(teacher.score(ASKS))

    @pytest.mark.parametrize("replies", [None, "7", ["7"]])
    def test_answers_of_another_kind(self, monkeypatch, replies):
        teacher = ChatGeneratorTeacher(generator=generator("1"))
        monkeypatch.setattr(teacher._model._components.warm["generator"], "run", lambda **_: {"replies": replies})
        with pytest.raises(TeacherError, match="what is {bread}.* with no list of ChatMessage as replies"):
            list(teacher.score(ASKS))


def test_a_student_learns_from_it_and_no_pair_is_asked_twice(recipe_tree, beir, tmp_path, monkeypatch):
    """Killed and resumed; the answers of the first run serve the second."""
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    generator = spec(MOCK, response_fn="tiny_components.judge")
    recipe_tree["teachers"]["judge"] = spec("ChatGeneratorTeacher", generator=generator)
    recipe_tree["stages"] = [recipe_tree["stages"][1] | {"teacher": "judge", "objectives": [spec("ListwiseKL")]}]
    asked, real = [], ChatModel._answer
    monkeypatch.setattr(ChatModel, "_answer", lambda self, prompt: (asked.append(prompt), real(self, prompt))[1])
    recipe = Recipe.from_dict(recipe_tree, allow=["tiny_components"])
    run_killed(recipe, beir, tmp_path / "killed", monkeypatch, after=4)
    assert asked
    assert len(asked) == len(set(asked))
    first = len(asked)
    run_recipe(recipe, beir, tmp_path / "again")
    assert len(asked) == first
    killed, again = everything(tmp_path / "killed"), everything(tmp_path / "again")
    assert all(bool((killed[name] == again[name]).all()) for name in again)
    assert not math.isnan(float(next(iter(again.values())).float().sum()))
