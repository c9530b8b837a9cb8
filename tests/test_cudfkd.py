# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""CuDFKD: reference values, what its parts promise, and a run that is killed at a refresh and between two."""

import copy
import json
import math
import shutil
from dataclasses import replace
from itertools import chain, combinations, pairwise
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tiny import T1, S, assert_comes_back, everything, lists, log_of, pool, spec, stage

from retort.cli.main import main
from retort.students import Student
from retort.trainers import losses
from retort.trainers.build import build_recipe
from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.candidates.mining import build_lists
from retort.trainers.changes import changed_recipe
from retort.trainers.context import TrainingContext
from retort.trainers.corpus import make_corpus
from retort.trainers.data.beir import read_beir
from retort.trainers.data.made_corpus import GeneratedTexts, ScoredNGrams
from retort.trainers.data.proposals import DIFFICULTIES, Proposals, admitted
from retort.trainers.data.pseudo_queries import KeyPhrases, sentences_of
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.encoder_output import PairOutput
from retort.trainers.losses import self_paced_latent, self_paced_weights
from retort.trainers.methods.cudfkd import SelfPacedKL, UsefulQueries, adversarial_weight, best_of, scored, worth_of
from retort.trainers.recipe import Recipe, dump_yaml
from retort.trainers.roles import QuerySource, StepContext
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.stages import _with_queries, open_stage
from retort.trainers.teachers.chat_generator import ChatModel

HOWS = ["hard", "linear", "log"]
L = torch.tensor([0.0, 0.5, 1.5, 2.0, 2.5, 6.0], dtype=torch.float64)
OF_LOG = [1.000000, 0.928221, 0.706700, 0.567668, 0.428635, 0.020420]
FULL = torch.ones(2, 5, dtype=torch.bool)
CUDFKD = "retort.trainers.methods.cudfkd."
MADE = "retort.trainers.data.made_corpus."
MOCK = "haystack.components.generators.chat.mock.MockChatGenerator"
PROPOSALS = "retort.trainers.data.proposals.Proposals"


def regulariser(v, pace, how):
    """$g(v)$, of which the weights minimise $v l + g(v)$."""
    if how == "hard":
        return -pace * v
    if how == "linear":
        return pace * (v**2 / 2 - v)
    mu = 1 + math.exp(-pace) - v
    return torch.xlogy(mu, mu) + torch.xlogy(v, v) - pace * v


class TestWeights:
    @pytest.mark.parametrize(
        ("how", "expected"), [("hard", [1, 1, 1, 0, 0, 0]), ("linear", [1, 0.75, 0.25, 0, 0, 0]), ("log", OF_LOG)]
    )
    def test_reference_values(self, how, expected):
        assert self_paced_weights(L, 2.0, how).tolist() == pytest.approx(expected, abs=1e-6)

    def test_reference_values_of_the_latent_objective(self):
        found = self_paced_latent(L, 2.0, "log")
        assert found.tolist() == pytest.approx([0, 0.483102, 1.308872, 1.627822, 1.876540, 2.394170], abs=1e-6)
        majoriser = found[4] + self_paced_weights(L, 2.0, "log")[4] * (1.0 - 2.5)
        assert float(majoriser) == pytest.approx(1.233587, abs=1e-6)
        one = self_paced_latent(torch.ones(1, dtype=torch.float64), 2.0, "log")
        assert float(one) == pytest.approx(0.923784, abs=1e-6)

    @pytest.mark.parametrize("how", HOWS)
    def test_easy_lists_count_more_and_in_the_end_all_do(self, how):
        losses_ = torch.linspace(0, 5, 101, dtype=torch.float64)
        by_pace = torch.stack([self_paced_weights(losses_, pace, how) for pace in (0.1, 0.5, 1.0, 2.0, 4.0)])
        assert bool((by_pace[:, 0] == 1).all())
        assert bool((by_pace.diff(dim=1) <= 0).all())  # less with more loss
        assert bool((by_pace.diff(dim=0) >= 0).all())  # more with a higher pace
        assert bool(((by_pace >= 0) & (by_pace <= 1)).all())
        torch.testing.assert_close(self_paced_weights(losses_, 1e9, how), torch.ones_like(losses_))

    @pytest.mark.parametrize("how", HOWS)
    def test_the_weight_is_the_slope_of_the_latent_objective(self, how):
        at = torch.tensor([0.3, 1.1, 1.9, 2.4, 5.0], dtype=torch.float64)
        slope = (self_paced_latent(at + 1e-6, 2.0, how) - self_paced_latent(at - 1e-6, 2.0, how)) / 2e-6
        torch.testing.assert_close(slope, self_paced_weights(at, 2.0, how), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("how", HOWS)
    def test_weights_minimise_the_regularised_loss(self, how):
        """What they leave is the latent objective, up to a constant."""
        grid = torch.linspace(0, 1, 100_001, dtype=torch.float64)
        reached = [(grid * loss + regulariser(grid, 2.0, how)).min() for loss in L]
        weights = self_paced_weights(L, 2.0, how)
        torch.testing.assert_close(
            weights * L + regulariser(weights, 2.0, how), torch.stack(reached), atol=1e-8, rtol=0
        )
        constant = torch.stack(reached) - self_paced_latent(L, 2.0, how)
        torch.testing.assert_close(constant, constant[:1].expand(len(L)), atol=1e-8, rtol=0)

    @pytest.mark.parametrize("how", HOWS)
    def test_weighing_and_a_step_down_lower_the_latent_objective(self, how):
        """Two parabolas for one weight: alternating goes on to lower the sum."""
        at, target, found = torch.tensor(2.0, dtype=torch.float64), torch.tensor([0.0, 3.0], dtype=torch.float64), []
        for _ in range(20):
            loss = (at - target) ** 2
            found.append(float(self_paced_latent(loss, 2.0, how).sum()))
            at = at - 0.1 * (self_paced_weights(loss, 2.0, how) * 2 * (at - target)).sum()
        assert all(after <= before + 1e-12 for before, after in pairwise(found))
        assert found[-1] < found[0]

    def test_no_pace_at_all(self):
        """A student that is its teacher has no loss; nothing turns NaN."""
        for how in HOWS[1:]:
            assert self_paced_weights(torch.zeros(1), 0.0, how).tolist() == [1.0]
        assert self_paced_weights(torch.tensor([1e4]), 1.0, "log").isfinite().all()


def kl(start=0.5, steps=100, step=0, rate=0.0, **options):
    objective = SelfPacedKL(teacher="t", start=start, rate=rate, **options)
    ctx = StepContext("s", step, steps)
    return objective, lists(T1), ctx


class TestSelfPacedKL:
    def test_reference_values(self):
        objective, batch, ctx = kl()
        values = objective(PairOutput(S), batch, ctx)["self_paced_kl"]
        plain = losses.listwise_kl(S, T1, FULL)
        assert plain.tolist() == pytest.approx([0.124625, 0.559954], abs=1e-6)
        assert ctx.logged_terms["weight"][0].tolist() == pytest.approx([0.952282, 0.779193], abs=1e-6)
        assert values.mean().item() == pytest.approx(0.277495, abs=1e-6)

    def test_one_weight_a_batch(self):
        objective, batch, ctx = kl(granularity="batch")
        values = objective(PairOutput(S), batch, ctx)["self_paced_kl"]
        assert values.mean().item() == pytest.approx(0.296586, abs=1e-6)
        assert len(set(ctx.logged_terms["weight"][0].tolist())) == 1

    def test_a_list_that_does_not_count_has_no_part_in_the_batchs_weight(self):
        objective, batch, ctx = kl(granularity="batch")
        batch.teacher_scores["t"] = T1.clone()
        batch.teacher_scores["t"][1, 1:] = torch.nan
        assert objective.valid(batch)["self_paced_kl"].tolist() == [True, False]
        objective(PairOutput(S), batch, ctx)
        assert ctx.logged_terms["weight"][0][0].item() == pytest.approx(0.952282, abs=1e-6)

    def test_no_gradient_goes_through_the_weights(self):
        scores = S.clone().requires_grad_()
        objective, batch, ctx = kl()
        objective(PairOutput(scores), batch, ctx)["self_paced_kl"].sum().backward()
        again = S.clone().requires_grad_()
        weights = torch.tensor([0.952282, 0.779193], dtype=torch.float64)
        (weights * losses.listwise_kl(again, T1, FULL)).sum().backward()
        torch.testing.assert_close(scores.grad, again.grad, atol=1e-6, rtol=0)

    def test_none_is_plain_divergence(self):
        objective, batch, ctx = kl(how="none")
        assert objective(PairOutput(S), batch, ctx)["self_paced_kl"].equal(losses.listwise_kl(S, T1, FULL))
        assert ctx.logged_terms == {}

    def test_pace_of_the_paper(self):
        for step, expected in ((0, 2.0), (50_000, 7.0), (100_000, 12.0)):
            objective, _, ctx = kl(start=2.0, rate=1e-4, step=step, steps=100_000)
            assert objective.pace(ctx) == pytest.approx(expected)

    def test_pace_by_the_losses(self):
        """The 99th percentile is reached at 75% of the steps."""
        objective, _, ctx = kl(start=None, rate=None)
        state = {"pace": torch.tensor([0.5, 2.0])}
        assert [objective.pace(replace(ctx, state=state, step=step)) for step in (0, 75, 100)] == [0.5, 2.0, 2.5]


class TestAdversarialWeight:
    def test_schedule_of_the_official_code(self):
        """250 epochs, from a quarter to three quarters: 124 increments, at epochs 63 to 186."""
        values = [adversarial_weight(e, start=0.0, growth=0.5, begin=62, end=186) for e in range(250)]
        increments = [e for e in range(1, 250) if values[e] > values[e - 1]]
        assert (len(increments), increments[0], increments[-1]) == (124, 63, 186)
        assert increments == [e for e in range(250) if int(250 * 0.25) < e < int(250 * 0.75)]
        assert values[-1] == 62.0
        assert values[0] == 0.0

    def test_in_shares_of_a_stage(self):
        found = [adversarial_weight(at, start=1.0, growth=4.0, begin=0.25, end=0.75) for at in (0, 0.25, 0.5, 0.75, 1)]
        assert found == [1.0, 1.0, 2.0, 3.0, 3.0]


class TestWorth:
    def test_by_hand(self):
        """In the first list both have the same favourite, in the second they have not."""
        sure, apart = worth_of(T1, S, FULL)
        assert sure.tolist() == pytest.approx(T1.log_softmax(-1).amax(-1).tolist())
        p, q = (scores.div(3).log_softmax(-1)[0] for scores in (T1, S))
        assert apart.tolist() == pytest.approx([9 * float((p.exp() * (p - q)).sum()), 0.0])

    @pytest.mark.parametrize("detach", [True, False])
    def test_a_generator_learns_through_both(self, detach):
        teacher, student = T1.clone().requires_grad_(), S.clone().requires_grad_()
        worth_of(teacher, student, FULL, detach=detach)[1].sum().backward()
        assert float(student.grad.abs().sum()) > 0
        assert (teacher.grad is None) == detach

    def test_what_is_missing_takes_no_part(self):
        teacher, mask = T1.clone(), FULL.clone()
        teacher[0, 1], mask[0, 2] = torch.nan, False
        rest = [0, 3, 4]
        sure, apart = worth_of(teacher, S, mask)
        expected = worth_of(T1[:1, rest], S[:1, rest], FULL[:1, :3])
        assert [float(sure[0]), float(apart[0])] == pytest.approx([float(expected[0]), float(expected[1])])

    def test_the_best_set(self):
        """Of all sets of four the one with the highest sum of utilities plus the clusters' entropy."""
        rng = np.random.default_rng(0)
        utility, cluster = rng.normal(size=9), np.array([0, 0, 0, 0, 0, 1, 1, 2, 2])

        def total(chosen, balance):
            shares = np.bincount(cluster[list(chosen)]) / 4
            shares = shares[shares > 0]
            return utility[list(chosen)].mean() - balance * (shares * np.log(shares)).sum()

        for balance in (0.0, 0.3, 1.0, 20.0):
            best = max(combinations(range(9), 4), key=lambda chosen: total(chosen, balance))
            assert np.flatnonzero(best_of(utility, cluster, 4, balance)).tolist() == list(best)

    def test_a_negative_balance_collapses(self):
        """The official code's sign is inside: entropy is to be high."""
        cluster = np.repeat([0, 1], 5)
        assert best_of(np.zeros(10), cluster, 4, 20.0).reshape(2, 5).sum(1).tolist() == [2, 2]
        assert best_of(np.zeros(10), cluster, 4, 0.0).reshape(2, 5).sum(1).tolist() == [4, 0]


class TestProposals:
    def test_which_are_admitted(self):
        assert admitted(DIFFICULTIES, "easy_first", 0.0) == ["first sentence", "generated"]
        assert admitted(DIFFICULTIES, "easy_first", 0.4) == ["first sentence", "generated", "sentence", "key phrase"]
        assert admitted(DIFFICULTIES, "easy_first", 0.95) == [*DIFFICULTIES] == admitted(DIFFICULTIES, "all", 0)
        assert admitted(DIFFICULTIES, "hard_first", 0.0) == ["two documents"] == admitted(DIFFICULTIES, "hardest", 1)
        hard = ["third of a sentence", "fifth of a sentence", "two documents"]
        assert admitted(DIFFICULTIES, "hard_first", 0.3) == hard
        assert admitted(DIFFICULTIES, "easiest", 1.0) == ["first sentence", "generated"]

    @pytest.fixture
    def data(self):
        texts = [
            "The ship sails the sea today. A storm breaks the old anchor chain. The captain drinks all the tea.",
            "Bread needs flour and some salt. The oven must be very hot. Butter makes a good cake.",
            "Violin and drum.",
            "The ship sails the sea today. A storm breaks the old anchor chain. The captain drinks all the tea.",
        ]
        return RetrievalData("d", TextStore("abcd", texts), TextStore([], []))

    def proposed(self, data, tmp_path, number=0, progress=0.0, **options):
        source, context = Proposals(**options), TrainingContext(data, {}, tmp_path)
        context.progress = progress
        source.open(context, number)
        return source.of(data)

    def test_easy_ones(self, data, tmp_path):
        found = self.proposed(data, tmp_path, pool=3)
        assert found == [
            ["The ship sails the sea today."],
            ["Bread needs flour and some salt."],
            ["Violin and drum."],
            [],
        ]

    def test_as_many_as_the_pool_has(self, data, tmp_path):
        found = self.proposed(data, tmp_path, pool=2)
        assert sorted(map(len, found)) == [0, 0, 1, 1]
        more = self.proposed(data, tmp_path, pool=99, progress=0.9, most=5)
        assert 6 <= sum(map(len, more)) <= 15
        assert more[3] == []  # a copy

    def test_a_refresh_goes_on_through_the_corpus(self, data, tmp_path):
        asked = [self.proposed(data, tmp_path, number, pool=1) for number in range(4)]
        first = [next(row for row, own in enumerate(found) if own) for found in asked]
        assert sorted(first[:3]) == [0, 1, 2]
        assert first[3] == first[0]
        pairs = [self.proposed(data, tmp_path, number, pool=2) for number in range(3)]
        assert [sum(bool(found[row]) for found in pairs) for row in range(3)] == [2, 2, 2]

    def test_draws_depend_on_seed_and_refresh_alone(self, data, tmp_path):
        options = {"pool": 9, "order": "all", "most": 3}
        found = self.proposed(data, tmp_path, 2, **options)
        assert found == self.proposed(data, tmp_path, 2, **options)
        assert found != self.proposed(data, tmp_path, 3, **options)
        assert found != self.proposed(data, tmp_path, 2, seed=1, **options)

    def test_each_way(self, data, tmp_path):
        """Words are left out of a sentence, and two documents are joined."""
        words = {w for text in data.corpus.texts[:3] for w in text.split()}
        for way, share in (("half of a sentence", 0.5), ("fifth of a sentence", 0.2)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("retort.trainers.data.proposals.DIFFICULTIES", {way: 0.0})
                found = self.proposed(data, tmp_path, pool=3)
            own = found[0][0].split()
            assert set(own) <= words
            sentence = next(s for s in data.corpus.texts[0].split(".") if {w.strip(".") for w in own} <= {*s.split()})
            assert len(own) == max(2, round(share * len(sentence.split())))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("retort.trainers.data.proposals.DIFFICULTIES", {"two documents": 0.0})
            found = self.proposed(data, tmp_path, pool=3)
        assert any(
            {*found[0][0].split()} - {*data.corpus.texts[0].split()} or {*own[0].split()} - {*text.split()}
            for own, text in zip(found[:3], data.corpus.texts, strict=False)
        )

    def test_words_that_are_left_keep_their_order(self, data, tmp_path, monkeypatch):
        for way, share in (("half of a sentence", 1 / 2), ("third of a sentence", 1 / 3), ("fifth of a sentence", 0.2)):
            monkeypatch.setattr("retort.trainers.data.proposals.DIFFICULTIES", {way: 0.0})
            for number in range(3):
                query = self.proposed(data, tmp_path, number, pool=3)[0][0].split()
                fits = [
                    len(query) == max(2, round(share * len(words)))
                    for words in map(str.split, sentences_of(data.corpus.texts[0]))
                    if all(word in left for left in [iter(words)] for word in query)
                ]
                assert any(fits)

    def test_any_sentence_is_drawn(self, data, tmp_path, monkeypatch):
        monkeypatch.setattr("retort.trainers.data.proposals.DIFFICULTIES", {"sentence": 0.0})
        drawn = {self.proposed(data, tmp_path, number, pool=3)[0][0] for number in range(12)}
        assert drawn == {*sentences_of(data.corpus.texts[0])}

    def test_halves_of_two_documents(self, data, tmp_path, monkeypatch):
        monkeypatch.setattr("retort.trainers.data.proposals.DIFFICULTIES", {"two documents": 0.0})
        own, *others = ([s.split() for s in sentences_of(text)] for text in data.corpus.texts[:3])
        every = [*own, *chain.from_iterable(others)]
        halves = {" ".join(a[: (len(a) + 1) // 2] + b[len(b) // 2 :]) for a in own for b in every}
        for number in range(3):
            assert self.proposed(data, tmp_path, number, pool=3)[0][0] in halves

    def test_the_rarest_words(self, data, tmp_path, monkeypatch):
        monkeypatch.setattr("retort.trainers.data.proposals.DIFFICULTIES", {"key phrase": 0.0})
        assert self.proposed(data, tmp_path, pool=3)[:2] == [own[:1] for own in KeyPhrases().of(data)[:2]]

    def test_titles_are_no_queries_and_long_ones_are_cut(self, tmp_path):
        corpus = TextStore("a", ["Old ships The ship sails the sea today."], ["Old ships"])
        data = RetrievalData("d", corpus, TextStore([], []))
        assert self.proposed(data, tmp_path) == [["The ship sails the sea today."]]
        assert self.proposed(data, tmp_path, words=3) == [["The ship sails"]]

    def test_counts_of_queries_and_of_a_generators_questions(self, data):
        """A pool an opening, or `most` of each different document; of the documents the share that may be drawn."""
        assert [Proposals(pool=pool, most=2).count(data, 3) for pool in (5, 99)] == [3 * 5, 3 * 2 * 3]
        generator = {"type": MOCK, "init_parameters": {}}
        calls = [Proposals(pool=1, generator=generator).estimate(data, openings=n)["calls"] for n in (1, 2, 3, 9)]
        assert calls == pytest.approx([calls[3] / 3, calls[3] * 2 / 3, calls[3], calls[3]])
        assert calls[3] > 0
        assert Proposals(pool=1, generator=generator).answers_key != Proposals(pool=1).answers_key == ""

    def test_a_generator_is_asked_about_what_was_drawn_for_it(self, data, tmp_path, monkeypatch):
        asked = []

        def answer(self, prompt):
            asked.append(prompt)
            return "Who asks?"

        monkeypatch.setattr(ChatModel, "_answer", answer)
        options = {"pool": 3, "generator": {"type": MOCK, "init_parameters": {}}}
        found = [self.proposed(data, tmp_path, number, **options) for number in range(4)]
        generated = sum(own == ["Who asks?"] for lists_ in found for own in lists_)
        assert 0 < generated < 12
        assert (
            len(asked)
            == len(set(asked))
            == len({row for one in found for row in range(3) if one[row] == ["Who asks?"]})
        )
        assert (tmp_path / "answers.jsonl").is_file()

    def test_mistakes(self):
        with pytest.raises(ValueError, match="order must be one of easy_first, .*; it is 'odd'"):
            Proposals(order="odd")
        for options in ({"pool": 0}, {"most": 0}, {"words": 1}):
            with pytest.raises(ValueError, match="pool and most must be above 0, words at least 2"):
                Proposals(**options)
        with pytest.raises(ValueError, match="0 < share <= 1, clusters > 0"):
            UsefulQueries(teacher="t", share=0)

    @pytest.mark.parametrize("schedule", [{"grow": 4.0}, {"begin": 0.9, "end": 0.1}, {"end": 7}])
    def test_schedules_that_are_none(self, schedule):
        with pytest.raises(ValueError, match="adversarial: start, growth, begin <= end <= 1 alone"):
            UsefulQueries(teacher="t", adversarial=schedule)

    @pytest.mark.parametrize(
        ("place", "value"),
        [
            ("selector.init_parameters.balance", -20),
            ("selector.init_parameters.certainty", -1),
            ("selector.init_parameters.adversarial", {"growth": -4}),
            ("objectives.0.init_parameters.rate", -1),
            ("objectives.0.init_parameters.start", -5),
        ],
    )
    def test_what_would_turn_the_choice_or_the_pace_round(self, place, value):
        with pytest.raises(RecipeError, match=rf"stages.0.{place}.*must be at least 0"):
            changed_recipe("cudfkd-small", settings={f"stages.0.{place}": value})


class TestUsefulQueries:
    """Four queries over four documents, one a corner of a square around the origin."""

    CORNERS = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])

    def kept(self, queries, scores, listed=(0, 1, 2, 3), **options):
        scores = np.asarray(scores, dtype=np.float32)
        context = SimpleNamespace(
            data=RetrievalData("d", TextStore("abcd", "abcd"), TextStore("wxyz", "wxyz")),
            teachers={"t": SimpleNamespace(gives="vectors")},
            progress=0.0,
            vectors=lambda _, side: self.CORNERS if side == "document" else np.asarray(queries, dtype=float),
            similarity=lambda _: "dot",
            scale=lambda _: 1.0,
            scores=lambda _, rows, documents: scores[rows, documents],
        )
        size = 4 * len(listed)
        unknown = np.full(size, -1, dtype=np.int8)
        offsets, rows, none = np.arange(0, size + 1, 4), np.arange(size) % 4, np.zeros(size, dtype=np.int64)
        own = CandidateLists(np.array(listed), offsets, rows, unknown, unknown, none, ["labels"])
        selector = UsefulQueries(teacher="t", share=0.5, clusters=4, **{"balance": 0.0, "typical": 0.0} | options)
        selector.open(own)
        return np.flatnonzero(selector.keep(context, 99)).tolist()

    def test_of_which_the_teacher_is_sure(self):
        scores = np.eye(4) * [[1.0], [5.0], [2.0], [4.0]]
        assert self.kept(self.CORNERS, scores) == [1, 3]

    def test_that_are_like_the_corpus(self):
        """Its mean is 0 and its variance 1 in both dimensions."""
        queries = [[5, 0], [0.5, 0], [0, 0.4], [0, -9]]
        assert self.kept(queries, np.eye(4), typical=1.0) == [1, 2]

    def test_queries_without_a_list_are_passed_over(self):
        """The others keep their own vectors."""
        queries = [[0, 0.4], [5, 0], [0.5, 0], [0, 0]]
        assert self.kept(queries, np.eye(4), listed=(1, 2), typical=1.0) == [2]

    def test_from_all_over_the_corpus(self):
        """Clusters are those of the teacher's favourites, whatever the queries were made of."""
        scores = np.zeros((4, 4))
        scores[[0, 1, 2, 3], [2, 2, 2, 0]] = [5, 4, 3, 2]
        assert self.kept(self.CORNERS, scores) == [0, 1]
        assert self.kept(self.CORNERS, scores, balance=20.0) == [0, 3]

    def test_random_keeps_all(self):
        assert self.kept(self.CORNERS, np.eye(4), selection="random") == [0, 1, 2, 3]


@pytest.fixture
def cudfkd_tree(recipe_tree) -> dict:
    tree = copy.deepcopy(recipe_tree)
    tree["candidates"] |= {"random": spec("retort.trainers.candidates.drawn.RandomMiner", depth=2)}
    tree["candidates"]["own"]["init_parameters"]["depth"] = 3
    tree["training"] |= {"dropout": 0.0, "keep": "last"}
    tree["stages"] = [
        stage(
            "curriculum",
            8,
            spec(CUDFKD + "SelfPacedKL"),
            teacher="teacher",
            queries=spec(PROPOSALS, pool=16),
            selector=spec(CUDFKD + "UsefulQueries", clusters=4),
            candidates=pool("own", "random", negatives=5),
            refresh=4,
        )
    ]
    return tree


def queries_of(out, number=""):
    path = out / "candidates" / f"curriculum{number}.parquet"
    return set(pq.read_table(path)["query_id"].to_pylist())


class TestRuns:
    def test_a_killed_run(self, cudfkd_tree, beir, tmp_path, monkeypatch):
        """At the refresh, and between two; the pace is that of the first opening all along."""
        out = tmp_path / "whole" / "run"
        run_recipe(Recipe.from_dict(cudfkd_tree), beir, out)
        assert len(queries_of(out)) == len(queries_of(out, ".1")) == 8
        assert (out / "queries" / "curriculum.jsonl").read_text() != (
            out / "queries" / "curriculum.1.jsonl"
        ).read_text()
        logged = [line["logged_terms"] for line in log_of(out)]
        assert logged[0].keys() == {"weight", "pace", "latent"}
        assert logged[0]["pace"] > 0
        rises = np.diff([terms["pace"] for terms in logged])
        assert rises == pytest.approx([rises[0]] * 7, rel=1e-4)
        assert rises[0] > 0
        assert_comes_back(cudfkd_tree, beir, tmp_path, monkeypatch, everything(out), (4, 6))

    def test_all_parts_know_how_far_the_stage_has_come(self, cudfkd_tree, beir, tmp_path, monkeypatch):
        seen, real = [], (Proposals.open, UsefulQueries.keep)

        def opened(self, context, number):
            seen.append(("queries", context.progress))
            real[0](self, context, number)

        def keep(self, context, enough):
            seen.append(("selector", context.progress))
            return real[1](self, context, enough)

        monkeypatch.setattr(Proposals, "open", opened)
        monkeypatch.setattr(UsefulQueries, "keep", keep)
        built = build_recipe(Recipe.from_dict(cudfkd_tree), read_beir(beir, "train"), tmp_path)
        for number in (0, 1):
            open_stage(built, built.recipe.stages[0], tmp_path / "out", number=number)
        assert seen == [("queries", 0.0), ("selector", 0.0), ("queries", 0.5), ("selector", 0.5)]

    def test_the_pace_is_of_the_losses_that_are_trained(self, cudfkd_tree, beir, tmp_path):
        """With the student's scale, on the very lists."""
        cudfkd_tree["training"] |= {"scale": 50.0, "batch_size": 8}
        plain = spec(CUDFKD + "SelfPacedKL", how="none")
        cudfkd_tree["stages"][0]["objectives"] += [plain]
        built = build_recipe(Recipe.from_dict(cudfkd_tree), read_beir(beir, "train"), tmp_path)
        opened = open_stage(built, built.recipe.stages[0], tmp_path / "out")
        state = opened.fix_state({})
        assert state.keys() == {"curriculum.0"}
        built.distiller.take_state(state)
        with torch.no_grad():
            terms = built.distiller.eval()(opened.source.batch(0), StepContext("curriculum", 0, 8))
        values = terms["self_paced_kl#1"][0]
        assert len(values) == 8
        expected = torch.quantile(values, torch.tensor([0.5, 0.99]))
        torch.testing.assert_close(state["curriculum.0"]["pace"], expected, atol=1e-4, rtol=1e-4)

    def test_a_ranker_teaches(self, cudfkd_tree, beir, tmp_path, tiny_ranker):
        """Clusters are then of the student's vectors."""
        cudfkd_tree["teachers"] = {"teacher": spec("CrossEncoderTeacher", model=tiny_ranker, device="cpu")}
        run_recipe(Recipe.from_dict(cudfkd_tree), beir, tmp_path / "run")
        assert len(log_of(tmp_path / "run")) == 8

    def test_random_proposals_cost_as_many_calls(self, cudfkd_tree, beir, tmp_path, tiny_ranker, monkeypatch):
        """What a selection is scored for is trained on, so that a list is scored once."""
        cudfkd_tree["teachers"] = {"teacher": spec("CrossEncoderTeacher", model=tiny_ranker, device="cpu")}
        cudfkd_tree["stages"][0] |= {"steps": 4, "refresh": 4, "training": {"batch_size": 16}}
        asked = {}
        for selection in ("utility", "random"):
            monkeypatch.setenv("RETORT_CACHE", str(tmp_path / f"cache-{selection}"))
            cudfkd_tree["stages"][0]["selector"]["init_parameters"] = {"selection": selection}
            built = build_recipe(Recipe.from_dict(cudfkd_tree), read_beir(beir, "train"), tmp_path / selection)
            pairs, real = [], built.context.teachers["teacher"].score

            def score(asks, real=real, pairs=pairs):
                pairs.extend((ask.query, document) for ask in asks for document in ask.documents)
                return real(asks)

            built.context.teachers["teacher"].score = score
            opened = open_stage(built, built.recipe.stages[0], tmp_path / f"{selection}-out")
            opened.fix_state({})
            asked[selection] = sorted(pairs), opened.source.size
        assert asked["utility"][0] == asked["random"][0]
        assert len(set(asked["random"][0])) == len(asked["random"][0]) > 16 * 3
        assert (asked["utility"][1], asked["random"][1]) == (8, 16)

    def test_the_adversarial_term_comes_with_progress(self, cudfkd_tree, beir, tmp_path):
        """Late in the stage the lists are kept over which the student differs."""
        cudfkd_tree["stages"][0]["selector"]["init_parameters"] = {
            "certainty": 0.0,
            "balance": 0.0,
            "typical": 0.0,
            "adversarial": {"growth": 1.0, "begin": 0.0, "end": 1.0},
        }
        built = build_recipe(Recipe.from_dict(cudfkd_tree), read_beir(beir, "train"), tmp_path)
        context, selector = built.context, built.selectors["curriculum"]
        own = build_lists(context, {name: built.miners[name] for name in ("own", "random")})
        kept = {}
        for progress in (0.0, 0.5):
            context.progress = progress
            selector.open(own)
            kept[progress] = np.flatnonzero(selector.keep(context, 99))
        teacher, student = (
            torch.from_numpy(own.padded(20 * context.scores(name, own.owners, own.rows)))
            for name in ("teacher", "student")
        )
        apart = worth_of(teacher, student, torch.from_numpy(own.padded(True)))[1].numpy()
        assert kept[0.0].tolist() == list(range(15))  # nothing tells them apart
        assert sorted(apart[kept[0.5]]) == sorted(apart)[15:]
        assert kept[0.5].tolist() != kept[0.0].tolist()

    def test_a_corpus_alone(self, cudfkd_tree, beir, tmp_path, capsys):
        """Without queries or judgements; nothing is measured, and that is said once."""
        alone, path = tmp_path / "alone", tmp_path / "recipe.yaml"
        alone.mkdir()
        (beir / "corpus.jsonl").rename(alone / "corpus.jsonl")
        path.write_text(dump_yaml(cudfkd_tree))
        main(["train", "--recipe", str(path), "--data", str(alone), "--out", str(tmp_path / "run"), "--no-export"])
        assert capsys.readouterr().out.count("not measured") == 1
        events = [json.loads(line)["event"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
        assert events.count("step") == 8
        assert "evaluation" not in events
        assert Student.load(str(tmp_path / "run" / "student")).manifest.metrics == {}

    def test_a_corpus_with_a_dev_split_alone(self, cudfkd_tree, beir, tmp_path):
        """What is trained is the same; it is measured."""
        (beir / "qrels" / "train.tsv").unlink()
        metrics = run_recipe(Recipe.from_dict(cudfkd_tree), beir, tmp_path / "run")
        assert metrics["dev"]["student"]["queries"] == 10
        assert metrics["dev"]["student"]["documents"] == 40
        assert len(log_of(tmp_path / "run")) == 8

    def test_a_corpus_alone_is_not_enough_for_others(self, recipe_tree, beir, tmp_path):
        shutil.rmtree(beir / "qrels")
        (beir / "queries.jsonl").unlink()
        with pytest.raises(RecipeError, match=r"stages.0: .*TextBatches draws from queries, and .* is a corpus alone"):
            run_recipe(Recipe.from_dict(recipe_tree), beir, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_batches_without_lists(self, cudfkd_tree, beir, tmp_path):
        lists_of_its_own = "skeletons.simcse.OwnPositives"
        cudfkd_tree["stages"][0] |= {"batches": spec(lists_of_its_own)}
        recipe = Recipe.from_dict(cudfkd_tree, allow=["skeletons"])
        with pytest.raises(RecipeError, match=r"stages.0.selector: it goes by candidate lists, and .* takes none"):
            build_recipe(recipe, read_beir(beir, "train"), tmp_path)

    def test_sparse_vectors_have_no_clusters(self, cudfkd_tree, beir, tmp_path, tiny_ranker, trunk):
        cudfkd_tree["teachers"] = {"teacher": spec("CrossEncoderTeacher", model=tiny_ranker, device="cpu")}
        cudfkd_tree["student"] = spec("sparse", trunk=trunk, layers=[0, 1], max_tokens={"query": 16, "document": 32})
        with pytest.raises(RecipeError, match="the vectors of 'student' are sparse"):
            run_recipe(Recipe.from_dict(cudfkd_tree), beir, tmp_path / "run")

    def test_a_teacher_in_the_loop_has_no_pace(self, cudfkd_tree, beir, tmp_path, trunk):
        del cudfkd_tree["stages"][0]["selector"]
        cudfkd_tree["teachers"]["live"] = spec("LiveTeacher", student=spec("from_layers", trunk=trunk, layers=[0]))
        cudfkd_tree["stages"][0]["objectives"] = [spec(CUDFKD + "SelfPacedKL", teacher="live")]
        with pytest.raises(RecipeError, match="must score mined lists before training; or set start and rate"):
            run_recipe(Recipe.from_dict(cudfkd_tree), beir, tmp_path / "run")

    @pytest.mark.parametrize(("gives", "scale", "expected"), [("scores", 7.0, 1.0), ("vectors", 7.0, 7.0)])
    def test_a_scale_is_for_similarities(self, gives, scale, expected):
        """A ranker's scores are compared as they are, as in the loss."""
        asked = {"t": np.array([1.0, 3.0, 2.0], dtype=np.float32), "student": np.zeros(3, dtype=np.float32)}
        context = SimpleNamespace(
            teachers={"t": SimpleNamespace(gives=gives)},
            scale=lambda name: 20.0 if name == "student" or gives == "vectors" else 1.0,
            scores=lambda name, owners, rows: asked[name],
        )
        lists_ = SimpleNamespace(owners=None, rows=None, padded=lambda values: np.array([values]))
        assert scored(context, lists_, "t", scale)[0].tolist() == [[expected, 3 * expected, 2 * expected]]
        assert scored(context, lists_, "t", None)[0][0, 0] == (1.0 if gives == "scores" else 20.0)


class TestNoCorpus:
    @pytest.fixture
    def context(self, recipe_tree, tmp_path):
        recipe = Recipe.from_dict(recipe_tree)
        teacher = recipe.create(recipe.teachers["teacher"], "teacher", "teachers.teacher")
        return TrainingContext(RetrievalData("x", TextStore([], []), TextStore([], [])), {"teacher": teacher}, tmp_path)

    def test_related_n_grams_are_put_together(self, context, tokenizer_path):
        """Each text's parts are those of its choices that the teacher scores highest, the best first."""
        options = {"teacher": "teacher", "tokenizer": tokenizer_path, "texts": 30, "words": 2}
        texts = ScoredNGrams(**options, parts=4, choices=29).texts(context)
        grams = [text.split(", ")[0] for text in texts]
        teacher = context.teachers["teacher"]
        queries, documents = (teacher.encode(grams, side) for side in ("query", "document"))
        queries, documents = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, documents))
        scores = queries @ documents.T
        np.fill_diagonal(scores, -2)
        for row, text in enumerate(texts):
            own = [scores[row][grams.index(part)] for part in text.split(", ")[1:]]
            assert own == pytest.approx(sorted(scores[row], reverse=True)[:3], abs=1e-5)
        assert all(len(gram.split()) == 2 for gram in grams)

    def test_random_n_grams(self, context, tokenizer_path):
        """With as many choices as places nothing is left to the teacher; draws are the same each time."""
        source = ScoredNGrams(teacher="teacher", tokenizer=tokenizer_path, texts=9, parts=4, choices=3)
        texts = source.texts(context)
        assert texts == source.texts(context)
        assert all(len({*text.split(", ")}) == 4 for text in texts)

    def test_a_generator_is_asked_once_for_each_passage(self, context, monkeypatch):
        asked = []

        def answer(self, prompt):
            asked.append(prompt)
            return f" passage {len(asked)} \ud83d"

        monkeypatch.setattr(ChatModel, "_answer", answer)
        generator = {"type": MOCK, "init_parameters": {}}
        for _ in range(2):
            source = GeneratedTexts(generator=generator, topics=["tides", "salt"], each=2)
            assert source.texts(context) == [f"passage {i} \ufffd" for i in (1, 2, 3, 4)]
        assert len(asked) == len(set(asked)) == 4
        assert sum("about tides," in prompt for prompt in asked) == 2

    def test_a_run_without_any_data(self, cudfkd_tree, tokenizer_path, tmp_path, monkeypatch):
        """The folder is made once; a killed run goes on with it."""
        parameters = {"teacher": "teacher", "tokenizer": tokenizer_path, "texts": 24, "parts": 3, "choices": 8}
        cudfkd_tree["data"] = {"corpus": spec(MADE + "ScoredNGrams", **parameters)}
        data, out = tmp_path / "made", tmp_path / "whole" / "run"
        run_recipe(Recipe.from_dict(cudfkd_tree), data, out)
        assert [path.name for path in data.iterdir()] == ["corpus.jsonl"]
        corpus = (data / "corpus.jsonl").read_text()
        assert len(corpus.splitlines()) == 24
        assert_comes_back(cudfkd_tree, data, tmp_path, monkeypatch, everything(out), (6,))
        assert (data / "corpus.jsonl").read_text() == corpus

    def test_data_that_is_there_is_taken(self, cudfkd_tree, beir, tokenizer_path, tmp_path):
        cudfkd_tree["data"] = {"corpus": spec(MADE + "ScoredNGrams", teacher="teacher", tokenizer=tokenizer_path)}
        before = (beir / "corpus.jsonl").read_text()
        make_corpus(Recipe.from_dict(cudfkd_tree), beir, tmp_path / "cache")
        assert (beir / "corpus.jsonl").read_text() == before
        assert not (tmp_path / "cache").exists()

    def test_mistakes(self, cudfkd_tree, tokenizer_path, tmp_path):
        own = {"tokenizer": tokenizer_path, "texts": 9, "parts": 2, "choices": 3}
        cudfkd_tree["teachers"]["bm25"] = spec("BM25Teacher")
        for teacher, message in (("none", "there is no teacher 'none'"), ("bm25", "'bm25' cannot be asked before")):
            cudfkd_tree["data"] = {"corpus": spec(MADE + "ScoredNGrams", teacher=teacher, **own)}
            with pytest.raises(RecipeError, match=f"data.corpus: .*{message}"):
                run_recipe(Recipe.from_dict(cudfkd_tree), tmp_path / "made", tmp_path / "run")
        assert not (tmp_path / "made").exists()
        with pytest.raises(ValueError, match="choices at least parts - 1"):
            ScoredNGrams(teacher="t", tokenizer="x", parts=9, choices=3)
        with pytest.raises(ValueError, match="topics must name one at least"):
            GeneratedTexts(generator={"type": MOCK}, topics=[])
        cudfkd_tree["data"] = {"corpus": spec(PROPOSALS)}
        with pytest.raises(RecipeError, match="is no corpus source"):
            run_recipe(Recipe.from_dict(cudfkd_tree), tmp_path / "made", tmp_path / "run")


def test_nobody_asks_about_what_is_held_out(beir, tmp_path):
    """Nor takes words of it, or of its copy."""

    class Watched(Proposals):
        def of(self, data):
            seen.extend(data.corpus.ids)
            return super().of(data)

    class Titles(QuerySource):
        def of(self, data):
            return [[title] for title in data.corpus.titles]

    data, seen = read_beir(beir, "train"), []
    texts = [f"x{row}a x{row}b x{row}c x{row}d x{row}e" for row in range(len(data.corpus))]
    corpus = TextStore([*data.corpus.ids, "copy"], [*texts, texts[3]], ["t"] * (len(texts) + 1))
    out = {corpus.ids[3], corpus.ids[7]}
    context = TrainingContext(replace(data, corpus=corpus, held_out=frozenset(out)), {}, tmp_path)
    found = _with_queries(context, Watched(pool=200, most=3), tmp_path / "q.jsonl", 0, "x").data
    assert seen == [i for i in corpus.ids if i not in {*out, "copy"}]
    words = {word for text in found.queries.texts for word in text.split()}
    assert words and not words & {*texts[3].split(), *texts[7].split()}
    assert len(_with_queries(context, Titles(), tmp_path / "t.jsonl", 0, "x").data.queries) == 1
