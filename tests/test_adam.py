# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""ADAM: reference values, dark examples and what they are made of, the schedule, and a killed run."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import assert_comes_back, everything, lists, log_of, spec, terms_of
from transformers import AutoTokenizer

from retort.trainers import losses
from retort.trainers.build import build_recipe
from retort.trainers.data.beir import read_beir
from retort.trainers.encoder_output import PairOutput
from retort.trainers.methods.adam import NOISY, REINFORCED, DarkExamples, DarkKL, difficulty, mask, mix, pieces
from retort.trainers.recipe import Recipe
from retort.trainers.roles import StepContext, TextRequest
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError

P, N = ([f"{letter}{i}" for i in range(1, 7)] for letter in "pn")
FULL = torch.ones(1, 4).bool()
STANDARD = np.array([[4.0, 1, 0], [1, 2, 0], [3, 2.5, 1]])
DARK = torch.tensor([[4.0, 3, 2], [1, 2.5, 1.5], [3, 2.8, 2]], dtype=torch.float64)
STUDENT = torch.tensor([[1.0, 0.9, 0.4], [0.3, 0.8, 0.6], [0.8, 0.9, 0.5]], dtype=torch.float64)
STUDENT_STANDARD = torch.tensor([[1.0, 0.5, 0.2], [0.3, 0.9, 0.1], [0.8, 0.9, 0.0]], dtype=torch.float64)
FIRST = np.array([True, False, False])


def state_of(scores=STANDARD, **options):
    """What is fixed when a stage of three lists opens."""
    own = SimpleNamespace(
        scores={"t": scores.ravel()},
        offsets=np.arange(0, scores.size + 1, 3),
        labels=np.tile([1, 0, 0], len(scores)),
    )
    context = SimpleNamespace(teachers={"t": SimpleNamespace(runs="cached")})
    return DarkKL(teacher="t", **options).open(context, own)


def mined_lists():
    """A batch of the standard lists, as mined, with two dark examples behind each; and the student's scores."""
    batch = lists(torch.cat([torch.tensor(STANDARD), DARK[:, 1:]], dim=1))
    batch.labels[:, 1:] = -1  # nobody judged them
    batch.derived, batch.derived_documents = torch.ones(3, 2, dtype=torch.int8), 6
    batch.list_rows = torch.arange(3)
    return batch, PairOutput(torch.cat([STUDENT_STANDARD, STUDENT[:, 1:]], dim=1))


def test_the_order_is_of_the_scores_that_are_trained_on():
    """Of cosines, scaled: a flat list and a sharp one differ little before."""
    cosines = np.array([[0.9, 0.8, 0.7], [0.9, 0.88, 0.1], [0.9, 0.5, 0.45]])
    own = SimpleNamespace(scores={}, offsets=np.arange(0, 10, 3), owners=None, rows=None, labels=np.tile([1, 0, 0], 3))
    context = SimpleNamespace(
        teachers={"t": SimpleNamespace(runs="cached")}, scores=lambda *_: cosines.ravel(), scale=lambda _: 20.0
    )
    found = DarkKL(teacher="t").open(context, own)["order"]
    assert found.tolist() == state_of(20.0 * cosines)["order"].tolist() != state_of(cosines)["order"].tolist()


def test_a_sure_teacher_still_tells_lists_apart():
    """In float32 the positives' shares round to 1: all would be the easiest."""
    rng = np.random.default_rng(0)
    scores = np.stack([rng.normal(9, 1, 200), *rng.normal(-10.5, 0.7, (2, 200))], axis=1).astype(np.float32)
    order = state_of(scores)["order"]
    assert sorted((200 * order).round().tolist()) == list(range(200))
    assert difficulty(scores[0], FIRST, 1.0) == pytest.approx(
        float(np.exp(scores[0, 1:] - scores[0, 0]).sum()), rel=1e-5
    )


def test_long_lists_are_not_harder():
    short, long = np.array([4.0, 1.0, 0.0]), np.array([4.0, 1.0, 0.0, 1.0, 0.0])
    positive = np.arange(5) == 0
    assert difficulty(long, positive, 1.0) > difficulty(short, positive[:3], 1.0)
    assert difficulty(long, positive, 1.0, negatives=2) == pytest.approx(difficulty(short, positive[:3], 1.0))
    assert difficulty(np.array([-50.0, np.nan, np.nan]), FIRST, 1.0) == np.inf  # nothing to compare it with


class TestReferenceValues:
    def test_softness(self):
        for scores, expected in (([6.0, -3, -4, -5], 0.001934), ([6.0, 4.5, 3, 2], 0.687215)):
            entropy = losses.entropy(torch.tensor([scores], dtype=torch.float64), FULL)
            assert float(entropy) == pytest.approx(expected, abs=1e-6)

    def test_difficulty(self):
        found = [difficulty(row, FIRST, 1.0) for row in STANDARD]
        assert found == pytest.approx([0.065884, 1.407606, 0.554957], abs=1e-6)

    def test_the_loss(self):
        """Two of three queries are kept: the second is not, of which the teacher prefers a negative."""
        batch = lists(DARK)
        batch.derived, batch.derived_documents = torch.ones(3, 2, dtype=torch.int8), 6
        batch.list_rows = torch.arange(3)
        objective = DarkKL(teacher="t", keep=(2 / 3, 2 / 3))
        ctx = StepContext("s", 0, 1, state=state_of())
        ((values, counts),) = terms_of(objective, PairOutput(STUDENT), batch, ctx).values()
        assert (values * 2 / 3).tolist() == pytest.approx([0.143672, 0, 0.033460], abs=1e-6)
        assert counts.all()
        assert ctx.logged_terms["dark_entropy"][0].tolist() == pytest.approx([0.832396, 0.905959, 1.025480], abs=1e-6)
        standard = losses.listwise_kl(STUDENT_STANDARD, torch.tensor(STANDARD), torch.ones(3, 3).bool())
        assert float(standard.mean() + values.mean()) == pytest.approx(0.302842, abs=1e-6)
        all_kept = terms_of(DarkKL(teacher="t", keep=(1, 1)), PairOutput(STUDENT), batch, ctx)["dark_kl"][0]
        assert all_kept.tolist() == pytest.approx([0.143672, 0.096347, 0.033460], abs=1e-6)

    def test_joint_lists(self):
        batch, output = mined_lists()
        objective = DarkKL(teacher="t", keep=(1, 1), joint=True)
        ctx = StepContext("s", 0, 1, state=state_of())
        values = terms_of(objective, output, batch, ctx)["dark_kl"][0]
        assert ctx.logged_terms["hard_entropy"][0].tolist() == pytest.approx([0.274313, 0.832396, 0.884452], abs=1e-6)
        assert values.tolist() == pytest.approx([0.355760, 0.117579, 0.055701], abs=1e-6)

    def test_standard_negatives_take_no_part(self):
        """Be they judged or not: the positive and its dark examples are alone."""
        batch, output = mined_lists()
        for labels in (-1, 0):
            batch.labels[:, 1:] = labels
            ctx = StepContext("s", 0, 1, state=state_of())
            values = terms_of(DarkKL(teacher="t", keep=(1, 1)), output, batch, ctx)["dark_kl"][0]
            assert values.tolist() == pytest.approx([0.143672, 0.096347, 0.033460], abs=1e-6)

    def test_a_stages_temperature_takes_the_place_of_the_own_one(self):
        batch, output = mined_lists()
        own, of_stage = (
            DarkKL(teacher="t", keep=(1, 1), **options)(
                output, batch, StepContext("s", 0, 1, state=state_of(), temperature=tau)
            )["dark_kl"]
            for options, tau in (({"temperature": 3.0}, None), ({}, torch.tensor(3.0, dtype=torch.float64)))
        )
        torch.testing.assert_close(own, of_stage)

    def test_words(self):
        assert mix(N, P[2:4], 4) == ["n1", "n2", "n3", "n4", "p3", "p4"]
        assert mix(N, P[2:4], 0) == ["p3", "p4", "n1", "n2", "n3", "n4"]
        assert mix(N, [], 3) == N
        assert mask(P, {0, 3, 4}, "[M]") == ["[M]", "p2", "p3", "[M]", "[M]", "p6"]
        assert mask(P, {0, 3, 4}, None) == ["p2", "p3", "p6"]
        assert mask(P, set(), "[M]") == P


class TestDarkExamples:
    @staticmethod
    def request(texts, positive, *, query=0, epoch=0):
        data = SimpleNamespace(corpus=SimpleNamespace(texts=texts))
        rows = np.arange(len(texts))
        rng = np.random.default_rng(0)
        return TextRequest(data, query, rows, np.array(positive), 0, 1, epoch, rng)

    def derived(self, texts=None, positive=None, epoch=0, query=0, **options):
        texts = texts or [" ".join(f"{letter}{i}" for i in range(20)) for letter in "pabc"]
        return DarkExamples(**{"reinforced": 2, "noisy": 2} | options).derived(
            self.request(texts, positive or [True] + [False] * (len(texts) - 1), query=query, epoch=epoch)
        )

    def test_kinds_and_lengths(self):
        found = self.derived()
        assert [one.kind for one in found] == [REINFORCED, REINFORCED, NOISY, NOISY]
        for one in found[:2]:
            words = one.text.split()
            own = [word for word in words if word[0] == "p"]
            places = [int(word[1:]) for word in own]
            assert len(words) == 20 and 4 <= len(own) <= 12
            assert places == list(range(places[0], places[0] + len(places)))  # a span
            assert len({word[0] for word in words}) == 2
        for one in found[2:]:
            words = one.text.split()
            assert 6 <= len(words) <= 16 and set(words) < {f"p{i}" for i in range(20)}

    def test_the_mask_token(self, tokenizer_path):
        transform = DarkExamples(mode="mask")
        transform.bind(None, AutoTokenizer.from_pretrained(tokenizer_path), 3)
        assert (transform.reinforced, transform.noisy) == (1, 2)
        texts = [" ".join(f"{letter}{i}" for i in range(20)) for letter in "pabc"]
        found = transform.derived(self.request(texts, [True, False, False, False]))
        masked = [one.text.split() for one in found if one.kind == NOISY]
        assert all(len(words) == 20 and 4 <= words.count("[MASK]") <= 14 for words in masked)

    def test_few_different_ones_come_up(self):
        """A teacher that is dear is asked for two dark lists a query, however often it is drawn."""
        texts = [tuple(one.text for one in self.derived(epoch=epoch)) for epoch in range(6)]
        assert texts[0] == texts[2] == texts[4] and texts[1] == texts[3] == texts[5] and texts[0] != texts[1]

    def test_each_query_has_draws_of_its_own(self):
        assert self.derived(query=0) != self.derived(query=1)

    def test_a_span_is_a_share_of_the_negative(self):
        """However long the positive is."""
        texts = [" ".join(f"{letter}{i}" for i in range(size)) for letter, size in (("p", 60), ("a", 20))]
        (one,) = self.derived(texts, reinforced=1, noisy=0, reinforce=(0.5, 0.5))
        assert [word[0] for word in one.text.split()].count("p") == 10

    def test_long_texts_are_cut_first(self):
        """What is put behind the model's last token would change nothing."""
        long = [" ".join(f"{letter}{i}" for i in range(500)) for letter in "pab"]
        assert all(len(one.text.split()) <= 30 for one in self.derived(long, words=30))

    @pytest.mark.parametrize(
        "texts",
        [
            [
                "面包师把新鲜的面包放在桌子上。孩子们都很高兴。",
                "船长在暴风雨中看见了港口的灯光。",
                "农民在田里种植小麦和玉米。",
            ],
            ["คนทำขนมปังวางขนมปังสดใหม่ไว้บนโต๊ะ", "กัปตันเห็นแสงไฟของท่าเรือในพายุ", "ชาวนาปลูกข้าวสาลีในทุ่งนา"],
        ],
    )
    def test_scripts_without_spaces(self, texts):
        found = self.derived(texts)
        assert [one.kind for one in found] == [REINFORCED, REINFORCED, NOISY, NOISY]
        assert not any(" " in one.text for one in found)
        assert all(len(one.text) < len(texts[0]) and set(one.text) <= set(texts[0]) for one in found[2:])
        assert all(set(one.text) & (set(texts[0]) - set(texts[1] + texts[2])) for one in found[:2])
        assert all(len(one.text) <= 16 for one in self.derived(texts, words=2))

    def test_words_and_what_is_between_them(self):
        """Joined they are the text again; the last one has room behind it, too."""
        assert pieces(" the  ship\nsails", 9) == ["the ", "ship ", "sails "]
        assert pieces("the ship sails", 2) == ["the ", "ship "]
        assert pieces("ship", 1) == ["ship "] and pieces("", 3) == []
        assert "".join(pieces("船长看见了港口。", 9)) == "船长看见了港口。"
        assert "".join(pieces("他说 hello 世界", 9)).strip() == "他说 hello 世界"

    @pytest.mark.parametrize(
        ("texts", "positive"),
        [
            (["p0 p1", "a0 a1"], [False, False]),  # without a positive
            (["", ""], [True, False]),
            (["p0", "a0"], [True, False]),  # too short for any change
        ],
    )
    def test_nothing_to_derive(self, texts, positive):
        assert self.derived(texts, positive, reinforce=(0, 0), noise=(0.0, 0.0)) == []

    def test_a_positive_alone(self):
        assert {one.kind for one in self.derived(["p0 p1 p2 p3 p4 p5"], [True])} == {NOISY}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"reinforce": (0.6, 0.2)}, "reinforce must be two shares, the lower first"),
            ({"noise": (0.2, 1.2)}, "noise must be two shares"),
            ({"words": 0}, "words and lists at least 1"),
            ({"mode": "blur"}, "mode must be one of drop, mask"),
        ],
    )
    def test_mistakes(self, options, message):
        with pytest.raises(ValueError, match=message):
            DarkExamples(**options)
        with pytest.raises(ValueError, match="no mask token; set mode: drop"):
            DarkExamples(mode="mask").bind(None, SimpleNamespace(mask_token=None), 3)


class TestSelfPacedLearning:
    def test_the_rate_rises(self):
        objective = DarkKL(teacher="t", keep=(0.5, 0.9))
        rates = [objective.keep_rate(StepContext("s", step, 11)) for step in (0, 5, 10)]
        assert rates == pytest.approx([0.5, 0.7, 0.9])
        assert objective.keep_rate(StepContext("s", 0, 1)) == 0.5

    def test_easy_queries_first(self):
        assert state_of()["order"].tolist() == pytest.approx([0, 2 / 3, 1 / 3])

    def test_a_longer_list_does_not_come_later_for_that(self):
        """Its positive is further above the negatives than that of a list with one negative only."""
        assert state_of(np.array([[4.0, 1.0, 1.0], [3.8, 1.0, np.nan]]))["order"].tolist() == [0.0, 0.5]

    def test_the_order_is_at_the_objectives_temperature(self):
        """At a high one, which negative is near the positive matters less."""
        scores = np.array([[3.0, 2.9, -9.0], [2.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
        for tau, easiest_first in ((1.0, [1, 0, 2]), (9.0, [0, 1, 2])):
            assert state_of(scores, temperature=tau)["order"].argsort().tolist() == easiest_first

    def test_queries_that_the_teacher_did_not_score_come_never(self):
        scores = STANDARD.copy()
        scores[0, 0] = np.nan
        assert state_of(scores)["order"].tolist() == pytest.approx([2.0, 0.5, 0.0])

    def test_mistakes(self):
        with pytest.raises(ValueError, match="keep must be two shares above 0"):
            DarkKL(teacher="t", keep=(0, 0.5))


def test_a_killed_run(list_tree, beir, tmp_path, monkeypatch):
    """What is fixed when the stage opens comes from the checkpoint; no teacher is asked again."""
    list_tree["stages"][0]["candidates"]["text"] = spec("retort.trainers.methods.adam.DarkExamples")
    dark = spec("retort.trainers.methods.adam.DarkKL")
    list_tree["stages"][0]["objectives"] = [spec("Contrastive"), spec("ListwiseKL"), dark]
    out = tmp_path / "whole" / "run"
    run_recipe(Recipe.from_dict(list_tree), beir, out)
    assert 0 < np.mean([line["logged_terms"]["dark_kept"] for line in log_of(out)]) < 1
    assert_comes_back(list_tree, beir, tmp_path, monkeypatch, everything(out), (3, 5))


def test_a_teacher_in_the_loop_is_refused(list_tree, beir, tmp_path, trunk):
    list_tree["teachers"]["live"] = spec("LiveTeacher", student=spec("from_layers", trunk=trunk, layers=[0]))
    list_tree["stages"][0]["objectives"] = [spec("retort.trainers.methods.adam.DarkKL", teacher="live")]
    with pytest.raises(RecipeError, match="teacher 'live' must score mined lists before training"):
        run_recipe(Recipe.from_dict(list_tree), beir, tmp_path / "run")


@pytest.mark.parametrize(
    ("teacher", "why"),
    [
        ({"type": "retort.trainers.teachers.bm25.BM25Teacher"}, "scores documents of the corpus"),
        (spec("RankerTeacher", ranker={"type": "tiny_components.WordRanker"}, listwise=True), "scores whole lists"),
    ],
)
def test_a_teacher_that_cannot_score_dark_examples_is_refused(list_tree, beir, tmp_path, teacher, why):
    """Before the first stage: what an earlier one learns and pays would be lost."""
    list_tree["teachers"]["lists"] = teacher
    dark = copy.deepcopy(list_tree["stages"][0]) | {"name": "dark", "teacher": "lists"}
    dark["candidates"]["text"] = spec("retort.trainers.methods.adam.DarkExamples")
    dark["objectives"] = [spec("ListwiseKL"), spec("retort.trainers.methods.adam.DarkKL")]
    list_tree["stages"][0]["objectives"] = [spec("Contrastive")]
    list_tree["stages"].append(dark)
    recipe = Recipe.from_dict(list_tree, allow=["tiny_components"])
    with pytest.raises(RecipeError, match=rf"stages.1: teacher 'lists' {why}"):
        run_recipe(recipe, beir, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    dark["objectives"] = [spec("ListwiseKL")]  # of standard candidates
    build_recipe(Recipe.from_dict(list_tree, allow=["tiny_components"]), read_beir(beir, "train"), tmp_path / "cache")
