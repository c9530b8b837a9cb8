# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
import math
from dataclasses import replace

import pytest
import torch
from sentence_transformers.cross_encoder.losses import ListMLELoss, RankNetLoss
from sentence_transformers.sentence_transformer.losses import (
    DistillKLDivLoss,
    EmbedDistillLoss,
    MarginMSELoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sparse_encoder.losses import FlopsLoss
from tiny import lists, terms_of

from retort.trainers.batches.base import CandidateBatch
from retort.trainers.encoder_output import BatchEncoder, DenseOutput, PairOutput
from retort.trainers.losses import alignment, contrastive, list_mle, listwise_kl, margin_mse, rank_net
from retort.trainers.objectives import Alignment, Contrastive, Flops, InBatchKL, ListwiseKL, MarginMSE
from retort.trainers.roles import ModelInfo, StepContext
from retort.trainers.runtime.distributed import ProcessGroup
from retort.trainers.temperature import LearnedTemperature

S = [[2.0, 1.0, 0.5], [0.3, 1.2, -0.4]]
T = [[6.0, 2.0, -1.0], [1.0, 3.0, 0.0]]
OLD = [[1.5, 1.0, 0.2], [0.8, 0.9, -0.1]]
FULL = torch.ones(2, 3, dtype=torch.bool)
FIRST = torch.tensor([[True, False, False]] * 2)


class TestParity:
    """Reference values of the method notes, 01-A and 01-B."""

    def test_cross_encoder_stage(self):
        s = torch.tensor(S, dtype=torch.float64, requires_grad=True)
        t, old = torch.tensor(T, dtype=torch.float64), torch.tensor(OLD, dtype=torch.float64)
        hard = contrastive(s, FIRST, FULL).mean()
        soft = listwise_kl(s, t, FULL, student_temperature=4.0, teacher_temperature=4.0).mean()
        reg = listwise_kl(s, old, FULL, student_temperature=4.0, teacher_temperature=4.0).mean()
        total = 0.1 * hard + 0.9 * soft + reg
        assert [round(float(x.detach()), 6) for x in (hard, soft, reg, total)] == [
            0.919825,
            1.183753,
            0.042404,
            1.199764,
        ]
        total.backward()
        expected = torch.tensor([-0.412997, 0.104554, 0.308444, -0.041714, -0.021759, 0.063473], dtype=torch.float64)
        assert torch.allclose(s.grad.flatten(), expected, atol=1e-6)

    def test_dual_encoder_stage(self):
        q = torch.eye(2, dtype=torch.float64)
        d = torch.tensor([[2, 0.5], [0.5, 0.2], [0.1, 1.5], [1, 0.3]], dtype=torch.float64)
        tq = torch.tensor([[1, 0.5], [0.2, 1]], dtype=torch.float64)
        td = torch.tensor([[3, 0], [1, 0.4], [0, 2], [0.5, 1]], dtype=torch.float64)
        everything = torch.ones(2, 4, dtype=torch.bool)
        positive = torch.zeros(2, 4, dtype=torch.bool)
        positive[0, 0] = positive[1, 2] = True
        hard = contrastive(q @ d.T, positive, everything).mean()
        soft = listwise_kl(q @ d.T, tq @ td.T, everything, student_temperature=4.0, teacher_temperature=4.0).mean()
        found = [round(float(x), 6) for x in (hard, soft, 0.1 * hard + 0.9 * soft)]
        assert found == [0.608866, 0.051998, 0.107685]


class FixedRanker(torch.nn.Module):
    """What the ranker losses of sentence-transformers ask of a `CrossEncoder`; its scores are fixed."""

    num_labels = 1
    device = torch.device("cpu")

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = scores

    def preprocess(self, pairs: list[tuple[str, str]], **_: object) -> dict:
        return {}

    def forward(self, _: dict) -> dict[str, torch.Tensor]:
        return {"scores": self.scores}


class TestSentenceTransformers:
    """Values and gradients of its losses: two queries, each with a positive and two negatives."""

    CTX = StepContext("s", 0, 1)

    @pytest.fixture
    def columns(self) -> list[torch.Tensor]:
        torch.manual_seed(0)
        return [torch.randn(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(4)]

    def encoded(self, columns: list[torch.Tensor], similarity: str = "cosine", scale: float = 20.0) -> DenseOutput:
        return DenseOutput(columns[0], torch.stack(columns[1:], dim=1).flatten(0, 1), scale, similarity)

    def assert_equal(self, ours: torch.Tensor, theirs: torch.Tensor, leaves: list[torch.Tensor]) -> None:
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
        assert ours > 1e-3
        gradients = (torch.autograd.grad(loss, leaves, retain_graph=True) for loss in (ours, theirs))
        for mine, other in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, other, atol=1e-6, rtol=0)

    @pytest.mark.parametrize(
        ("theirs", "objective", "similarity", "scale"),
        [
            (MultipleNegativesRankingLoss(None), Contrastive(), "cosine", 20.0),
            (MarginMSELoss(None), MarginMSE(teacher="t"), "dot", 1.0),
            (DistillKLDivLoss(None), ListwiseKL(teacher="t"), "dot", 1.0),
            (
                DistillKLDivLoss(None, student_temperature=4.0, teacher_temperature=2.0),
                ListwiseKL(teacher="t", student_temperature=4.0, teacher_temperature=2.0),
                "dot",
                1.0,
            ),
        ],
        ids=["multiple-negatives", "margin-mse", "kl", "kl-temperatures"],
    )
    def test_losses_of_lists(self, columns, theirs, objective, similarity, scale):
        teacher = torch.tensor(T, dtype=torch.float64)
        out = self.encoded(columns, similarity, scale)
        (values,) = objective(out, lists(teacher), self.CTX).values()
        self.assert_equal(values.mean(), theirs.compute_loss_from_embeddings(columns, teacher), columns)

    @pytest.mark.parametrize("distance", ["cosine", "l2", "mse"])
    def test_alignment(self, columns, distance):
        teacher = [torch.randn(2, 4, dtype=torch.float64) for _ in columns]
        out, target = self.encoded(columns), self.encoded(teacher)
        batch = lists(torch.tensor(T))
        batch.teacher_vectors["t"] = target.queries, target.documents
        terms = Alignment(teacher="t", distance=distance)(out, batch, self.CTX)
        ours = torch.cat(list(terms.values())).mean()
        theirs = EmbedDistillLoss(None, distance_metric=distance).compute_loss_from_embeddings(columns, teacher)
        self.assert_equal(ours, theirs, columns)

    def test_flops(self, columns):
        """SPLADE's vectors, which are nowhere negative."""
        out, theirs = self.encoded([column.relu() for column in columns]), FlopsLoss(None)
        objective = Flops(query_weight=1.0, document_weight=1.0, rise=0.0)
        terms = terms_of(objective, out, lists(torch.tensor(T)), self.CTX)
        query, document = (theirs.compute_loss_from_embeddings(vectors) for vectors in (out.queries, out.documents))
        self.assert_equal(terms["flops_query"][0].sum(), query, columns[:1])
        self.assert_equal(terms["flops_document"][0].sum(), document, columns[1:])

    def test_flops_of_a_side_that_is_not_there(self, columns):
        """A part of a batch may have documents alone."""
        out = self.encoded([column.relu() for column in columns])
        out.queries, batch = out.queries[:0], lists(torch.tensor(T))
        batch.queries = []
        terms = terms_of(Flops(rise=0.0), out, batch, self.CTX)
        assert {name: bool(counts) for name, (_, counts) in terms.items()} == {
            "flops_query": False,
            "flops_document": True,
        }
        assert all(values.isfinite().all() for values, _ in terms.values())

    @pytest.mark.parametrize("row", [0, 1])
    def test_losses_of_a_rankers_lists(self, row):
        """One list at a time: its RankNet is a mean over all pairs of a batch. Its ListMLE is a sum over a list."""
        scores, teacher = torch.tensor(S[row], requires_grad=True), torch.tensor(T[row])
        inputs = [["q"], [["a", "b", "c"]]], [teacher]
        theirs = RankNetLoss(FixedRanker(scores), reduction_log="natural", mini_batch_size=-1)(*inputs)
        self.assert_equal(rank_net(scores[None], teacher[None], FULL[:1])[0], theirs, [scores])
        theirs = ListMLELoss(FixedRanker(scores), respect_input_order=False, mini_batch_size=-1)(*inputs)
        self.assert_equal(3 * list_mle(scores[None], teacher[None], FULL[:1])[0], theirs, [scores])


class TestContrastive:
    def test_a_positive_is_not_a_negative_of_another(self):
        scores = torch.tensor([[3.0, 1.0, 0.5, -1.0]])
        positive = torch.tensor([[True, True, False, False]])
        mask = torch.ones_like(positive)
        parts = [-(s - torch.logsumexp(torch.tensor([s, 0.5, -1.0]), 0)) for s in (3.0, 1.0)]
        assert torch.allclose(contrastive(scores, positive, mask), torch.stack(parts).mean()[None])

    def test_masked_entries_take_no_part(self):
        scores = torch.tensor([[1.0, 0.0, 50.0]], requires_grad=True)
        mask = torch.tensor([[True, True, False]])
        value = contrastive(scores, FIRST[:1], mask)
        short = contrastive(scores[:, :2], FIRST[:1, :2], mask[:, :2])
        assert torch.equal(value, short)
        value.sum().backward()
        assert scores.grad[0, 2] == 0

    @pytest.mark.parametrize("positive", [[False, False, False], [True, True, True]])
    def test_degenerate_rows_are_finite(self, positive):
        scores = torch.tensor([[1.0, 0.0, 2.0]], requires_grad=True)
        value = contrastive(scores, torch.tensor([positive]), torch.ones(1, 3, dtype=torch.bool))
        value.sum().backward()
        assert value.detach().tolist() == [0]
        assert torch.equal(scores.grad, torch.zeros(1, 3))


class TestListwiseKL:
    def test_zero_and_without_gradient_at_the_teacher(self):
        s = torch.tensor(T, requires_grad=True)
        value = listwise_kl(s, torch.tensor(T), FULL)
        value.sum().backward()
        assert value.abs().max() < 1e-6
        assert s.grad.abs().max() < 1e-6

    def test_tau_squared(self):
        s, t = torch.tensor(S), torch.tensor(T)
        plain = listwise_kl(s, t, FULL, student_temperature=3.0, teacher_temperature=2.0, tau_squared=False)
        assert torch.allclose(listwise_kl(s, t, FULL, student_temperature=3.0, teacher_temperature=2.0), 9 * plain)

    def test_missing_scores_are_left_out(self):
        s, t = torch.tensor(S, requires_grad=True), torch.tensor(T)
        t[:, 2] = torch.nan
        values = listwise_kl(s, t, FULL)
        assert torch.allclose(values, listwise_kl(torch.tensor(S)[:, :2], torch.tensor(T)[:, :2], FULL[:, :2]))
        values.sum().backward()
        assert s.grad.isfinite().all()
        assert torch.equal(s.grad[:, 2], torch.zeros(2))

    def test_a_row_without_a_list_is_zero(self):
        s, t = torch.tensor(S, requires_grad=True), torch.full((2, 3), torch.nan)
        values = listwise_kl(s, t, FULL)
        values.sum().backward()
        assert torch.equal(values, torch.zeros(2))
        assert torch.equal(s.grad, torch.zeros(2, 3))

    def test_no_gradient_reaches_the_teacher(self):
        t = torch.tensor(T, requires_grad=True)
        listwise_kl(torch.tensor(S, requires_grad=True), t, FULL).sum().backward()
        assert t.grad is None


class TestObjectives:
    def test_a_student_in_bfloat16_is_compared_in_float32(self, tiny_model):
        """Its vectors are as they are; scores of them, and of teachers, keep what tells candidates apart."""
        model = tiny_model(1).bfloat16()
        batch = lists(torch.tensor([[10.01, 10.02, 10.0], [10.0, 10.02, 10.01]]))
        batch = replace(batch, queries=["the ship", "bread"], documents=[f"the {w}" for w in "a b c d e f".split()])
        output = BatchEncoder(ProcessGroup()).encode(model, batch, 20.0)
        assert output.queries.dtype == output.list_scores(batch).dtype == torch.float32
        moved = batch.to(torch.device("cpu"), torch.promote_types(torch.bfloat16, torch.float32))
        assert moved.teacher_scores["t"].unique().numel() == 3

    def test_a_temperature_leaves_its_bounds(self):
        """Beyond them it would have no gradient, and stay."""
        temperature = LearnedTemperature(initial=1.0, most=2.0)
        optimizer = torch.optim.AdamW(temperature.parameters(), lr=0.05)
        found = []
        for step in range(60):
            optimizer.zero_grad()
            tau = temperature(None, None, None, None)
            found.append(float(tau.detach()))
            (-tau if step < 30 else tau).backward()
            optimizer.step()
        assert max(found) == pytest.approx(2)
        assert found[-1] < 1.5

    @pytest.mark.parametrize("similarity", ["cosine", "dot"])
    def test_no_divergence_from_an_equal_teacher(self, similarity):
        """A teacher is compared by its own similarity."""
        queries, documents = torch.tensor([[1.0, 0.0], [0.3, 0.4]]), torch.tensor([[1.0, 0.0], [5.0, 5.0], [0.0, 2.0]])
        batch = CandidateBatch(
            queries=["a", "b"],
            documents=["x", "y", "z"],
            index=torch.tensor([[0, 1], [2, 0]]),
            labels=torch.zeros(2, 2, dtype=torch.int8),
            mask=torch.ones(2, 2, dtype=torch.bool),
            known_positive=torch.zeros(2, 3, dtype=torch.bool),
            sources=torch.zeros(2, 2, dtype=torch.int8),
            teacher_vectors={"t": (queries, documents)},
        )
        out = DenseOutput(queries, documents, 20.0 if similarity == "cosine" else 1.0, similarity)
        for objective in (InBatchKL(teacher="t"), ListwiseKL(teacher="t")):
            objective.bind(ModelInfo(2, {"t": 2}, {"t": similarity}))
            ((values, mask),) = terms_of(objective, out, batch, StepContext("s", 0, 1)).values()
            assert values.abs().max() < 1e-6
            assert mask.all()

    def test_a_known_positive_of_another_list_is_no_negative(self):
        """Document 2, the second list's positive, answers the first query as well."""
        batch = lists(torch.zeros(2, 2))
        batch.known_positive[0, 2] = True
        scores = torch.tensor([[1.0, 0.5, 3.0, -1.0], [0.2, 0.4, 1.5, 0.1]])
        out = DenseOutput(torch.eye(2), scores.T, 1.0, "dot")
        (values,) = Contrastive(scope="in_batch")(out, batch, StepContext("s", 0, 1)).values()
        expected = [scores[0, [0, 1, 3]].logsumexp(0) - scores[0, 0], scores[1].logsumexp(0) - scores[1, 2]]
        torch.testing.assert_close(values, torch.stack(expected))

    def test_scores_of_several_teachers_add_up(self):
        """By hand: one teacher's scores, twice a second one's, thrice the similarities of a third; NaN where one has none."""
        vectors = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        batch = CandidateBatch(
            queries=["a"],
            documents=["x", "y"],
            index=torch.tensor([[1, 0, 1]]),
            labels=torch.zeros(1, 3, dtype=torch.int8),
            mask=torch.ones(1, 3, dtype=torch.bool),
            known_positive=torch.zeros(1, 2, dtype=torch.bool),
            sources=torch.zeros(1, 3, dtype=torch.int8),
            teacher_scores={"t": torch.tensor([[1.0, 2.0, 3.0]]), "words": torch.tensor([[10.0, 20.0, math.nan]])},
            teacher_vectors={"v": vectors},
        )
        objective = ListwiseKL(teacher="t", extra_teachers={"words": 2.0, "v": 3.0})
        objective.bind(ModelInfo(2, {"v": 2}, {"v": "cosine"}))
        assert objective.teachers == ["t", "words", "v"]
        found = objective.list_teacher(PairOutput(torch.zeros(1, 3)), batch, StepContext("s", 0, 1))
        torch.testing.assert_close(found, torch.tensor([[21.0, 45.0, math.nan]]), equal_nan=True)
        with pytest.raises(ValueError, match="extra_teachers adds scores of lists; use ListwiseKL"):
            InBatchKL(teacher="v", extra_teachers={"words": 1.0})


class TestAlignment:
    @pytest.mark.parametrize(("distance", "expected"), [("cosine", 1.0), ("l2", 2**0.5), ("mse", 1.0)])
    def test_distances(self, distance, expected):
        value = alignment(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), distance=distance)
        assert float(value) == pytest.approx(expected)

    def test_wrong_distance(self):
        with pytest.raises(ValueError, match="cosine, l2, squared or mse"):
            alignment(torch.zeros(1, 2), torch.zeros(1, 2), distance="angle")

    def test_dimensions_differ(self):
        with pytest.raises(ValueError, match="projection: true"):
            alignment(torch.zeros(1, 2), torch.zeros(1, 3))


class TestGivenScores:
    """Losses over a teacher's scores of lists, against loops over their definitions."""

    GONE = float("nan")
    STUDENT = torch.tensor([[2.0, 1.0, 0.5, 9.0], [0.3, 1.2, -0.4, 0.1]], dtype=torch.float64)
    TEACHER = torch.tensor([[6.0, 2.0, -1.0, 9.0], [1.0, 3.0, GONE, 1.0]], dtype=torch.float64)
    MASK = torch.tensor([[True, True, True, False], [True, True, True, True]])
    POSITIVE = torch.tensor([[True, False, False, False], [True, True, False, False]])

    def entries(self):
        for s, t, m, p in zip(self.STUDENT, self.TEACHER, self.MASK, self.POSITIVE, strict=True):
            yield [(float(a), float(b), bool(d)) for a, b, c, d in zip(s, t, m, p, strict=True) if c and not b.isnan()]

    def test_margin_mse(self):
        expected = []
        for entries in self.entries():
            pairs = [(p, n) for p in entries for n in entries if p[2] and not n[2]]
            expected.append(sum(((p[0] - n[0]) - (p[1] - n[1])) ** 2 for p, n in pairs) / len(pairs))
        assert margin_mse(self.STUDENT, self.TEACHER, self.POSITIVE, self.MASK).tolist() == pytest.approx(expected)

    def test_rank_net(self):
        expected = []
        for entries in self.entries():
            pairs = [(a[0], b[0]) for a in entries for b in entries if a[1] > b[1]]
            expected.append(sum(torch.tensor(b - a).exp().log1p().item() for a, b in pairs) / len(pairs))
        assert rank_net(self.STUDENT, self.TEACHER, self.MASK).tolist() == pytest.approx(expected)

    def test_list_mle(self):
        expected = []
        for entries in self.entries():
            scores = [s for s, _, _ in sorted(entries, key=lambda e: -e[1])]
            terms = [torch.tensor(scores[i:], dtype=torch.float64).logsumexp(0) - scores[i] for i in range(len(scores))]
            expected.append(float(sum(terms)) / len(scores))
        assert list_mle(self.STUDENT, self.TEACHER, self.MASK).tolist() == pytest.approx(expected)

    @pytest.mark.parametrize("loss", ["margin_mse", "rank_net", "list_mle", "listwise_kl"])
    def test_what_is_left_out_has_no_gradient_and_none_is_nan(self, loss):
        from retort.trainers import losses

        student = self.STUDENT.clone().requires_grad_()
        gone = torch.cat([self.TEACHER[:1], torch.full((1, 4), float("nan"), dtype=torch.float64)])  # a row without any
        for teacher in (self.TEACHER, gone):
            student.grad = None
            more = (self.POSITIVE,) if loss == "margin_mse" else ()
            getattr(losses, loss)(student, teacher, *more, self.MASK).sum().backward()
            left_out = ~self.MASK | teacher.isnan()
            assert student.grad.isfinite().all()
            assert (student.grad[left_out] == 0).all()
            assert (student.grad[0, :3] != 0).all()

    def test_a_learned_temperature_survives_missing_scores(self):
        temperature = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

        def value(tau):
            options = {"student_temperature": tau, "teacher_temperature": tau}
            return listwise_kl(self.STUDENT, self.TEACHER, self.MASK, **options).sum()

        value(temperature).backward()
        step = 1e-6
        expected = (value(temperature.detach() + step) - value(temperature.detach() - step)) / (2 * step)
        assert float(temperature.grad) == pytest.approx(float(expected), rel=1e-6)

    def test_only_the_order_counts(self):
        ranks = torch.tensor([[-0.0, -1.0, -2.0, 0.0], [-1.0, 0.0, float("nan"), -1.0]], dtype=torch.float64)
        for loss in (rank_net, list_mle):
            assert torch.equal(loss(self.STUDENT, self.TEACHER, self.MASK), loss(self.STUDENT, ranks, self.MASK))
