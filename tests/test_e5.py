# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""E5: reference values, what the filter keeps, prompts and pooling, and a killed run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import (
    WORDS,
    assert_comes_back,
    everything,
    lists,
    log_of,
    pool,
    spec,
    stage,
    terms_of,
    tiny_config,
    write_jsonl,
    write_tokenizer,
)
from torch.nn import functional as F

from haystack_integrations.components.embedders.retort import StudentTextEmbedder
from retort.students import Manifest, Student, create
from retort.students.encoding import encode_texts
from retort.students.hashing import hash_text
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.context import TrainingContext
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.encoder_output import DenseOutput, PairOutput
from retort.trainers.methods.e5 import ConsistencyFilter, PairContrastive, ranks
from retort.trainers.objectives import Contrastive, ListwiseKL
from retort.trainers.recipe import Recipe
from retort.trainers.roles import StepContext
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError

HERE = StepContext("s", 0, 1)
QUERIES = torch.tensor([[1.0, 0.2, 0.0], [0.8, 0.6, 0.1]], dtype=torch.float64)
PASSAGES = torch.tensor([[0.9, 0.3, 0.1], [0.9, 0.5, 0.1]], dtype=torch.float64)
COSINES = torch.tensor([[0.82, 0.80, 0.74, 0.71, 0.70], [0.78, 0.81, 0.70, 0.77, 0.69]], dtype=torch.float64)
LOGITS = torch.tensor([[5.0, 2.0, 1.0, -3.0, -4.0], [4.0, 1.0, -2.0, 3.5, -5.0]], dtype=torch.float64)
PROMPTS = {"query": "query: ", "document": "passage: "}


def of_pairs(known: torch.Tensor, passages: int | None = None) -> CandidateBatch:
    """A batch of `B` queries, whose own passages are the diagonal's."""
    n = len(known)
    batch = lists(torch.zeros(n, 1))
    batch.index, batch.known_positive = torch.arange(n)[:, None], known
    batch.documents = ["d"] * (passages or n)
    return batch


def contrastive(output: DenseOutput, batch: CandidateBatch, **options) -> torch.Tensor:
    values, counts = terms_of(PairContrastive(**options), output, batch, HERE)["contrastive"]
    assert counts.equal(batch.has_positive)
    return values


class TestReferenceValues:
    @pytest.mark.parametrize(("tau", "value"), [(0.01, 0.017922), (0.02, 0.125869), (0.05, 0.369820)])
    def test_in_batch(self, tau, value):
        output = DenseOutput(QUERIES, PASSAGES, 1 / tau, "cosine")
        batch = of_pairs(torch.eye(2).bool())
        assert float(contrastive(output, batch).mean()) == pytest.approx(value, abs=1e-6)
        same = terms_of(Contrastive(), output, batch, HERE)["contrastive"][0]
        assert contrastive(output, batch).equal(same)

    @pytest.mark.parametrize(("scale", "temperature"), [(1.0, 0.02), (50.0, 1.0)])
    def test_all_pairs(self, scale, temperature):
        """Scaled by either: so are the similarities of queries, and of passages, with each other."""
        output = DenseOutput(QUERIES, PASSAGES, scale, "cosine")
        values = contrastive(output, of_pairs(torch.eye(2).bool()), parity="code", temperature=temperature)
        assert float(values.mean()) == pytest.approx(0.707762, abs=1e-6)

    def test_the_stages_temperature_takes_the_place_of_its_own(self):
        output, batch = DenseOutput(QUERIES, PASSAGES, 1.0, "cosine"), of_pairs(torch.eye(2).bool())
        objective = PairContrastive(parity="code", temperature=7.0)
        values = objective(output, batch, replace(HERE, temperature=torch.tensor(0.02)))["contrastive"]
        assert float(values.mean()) == pytest.approx(0.707762, abs=1e-6)

    @pytest.mark.parametrize(("tau", "value"), [(0.01, 1.324827), (0.02, 0.668646)])
    def test_divergence(self, tau, value):
        """The teacher's logits as they are, the student's over tau, and no factor."""
        assert float(self.fine_tuned(tau)[0].mean()) == pytest.approx(value, abs=1e-6)

    def test_fine_tuning(self):
        kl, ce = self.fine_tuned(0.01)
        assert float(ce.mean()) == pytest.approx(1.596574, abs=1e-6)
        assert float((kl + 0.2 * ce).mean()) == pytest.approx(1.644141, abs=1e-6)

    def test_its_recipe(self):
        kl, ce = Recipe.from_yaml("e5").stages[1].objectives
        assert (kl.weight, kl.init_parameters, ce.weight) == (1.0, {"tau_squared": False}, 0.2)
        assert Recipe.from_yaml("e5").training.scale == 1 / 0.01

    def test_equal_scores_say_nothing(self):
        assert float(self.fine_tuned(0.01, LOGITS / 100)[0].abs().max()) < 1e-12

    def test_ranks(self):
        own = np.array([0.80, 0.60])
        others = np.array([[0.5, 0.79, 0.81, 0.2], [0.61, 0.62, 0.2, 0.1]])
        everyone = np.ones_like(others, dtype=bool)
        assert ranks(own, others, everyone).tolist() == [2, 3]
        assert ranks(own, own[:, None] - 5e-7, everyone[:, :1]).tolist() == [2, 2]  # as near as equal vectors may be
        own[0] = others[1, 0] = np.nan  # texts that the model gave no vector of
        assert ranks(own, others, everyone).tolist() == [5, 2]

    def fine_tuned(self, tau: float, cosines: torch.Tensor = COSINES) -> tuple[torch.Tensor, torch.Tensor]:
        output, batch = PairOutput(cosines, 1 / tau), lists(LOGITS)
        kl, ce = ListwiseKL(teacher="t", tau_squared=False), Contrastive(scope="list")
        return terms_of(kl, output, batch, HERE)["listwise_kl"][0], terms_of(ce, output, batch, HERE)["contrastive"][0]


class TestAllPairs:
    VECTORS = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def by_hand(self, negatives: dict[tuple[str, str], torch.Tensor]) -> torch.Tensor:
        """The definition, of whatever pairs are negatives."""
        sides = dict(zip("qk", F.normalize(self.VECTORS, dim=-1), strict=True))
        own = (sides["q"] * sides["k"]).sum(-1, keepdim=True)
        scores = [own]
        for (left, right), mask in negatives.items():
            scores.append((sides[left] @ sides[right].T).masked_fill(~mask, -torch.inf))
        return own[:, 0].neg() + torch.cat(scores, 1).logsumexp(1)

    def test_queries_that_share_a_passage(self):
        """The second passage is the first query's as well; the last query has no positive."""
        known = torch.eye(4).bool()
        known[0, 1], known[3, 3] = True, False
        batch = of_pairs(known)
        batch.labels[3] = 0
        apart = ~torch.eye(4).bool()
        apart[0, 1] = apart[1, 0] = False
        negatives = {
            ("q", "k"): ~known,
            ("k", "q"): apart,
            ("q", "q"): apart,
            ("k", "k"): apart & torch.tensor([True, True, True, False]),
        }
        values = contrastive(DenseOutput(*self.VECTORS, 1.0, "cosine"), batch, parity="code")
        torch.testing.assert_close(values[:3], self.by_hand(negatives)[:3])
        assert values[3] == 0

    def test_gradients_are_finite_at_a_low_temperature(self):
        vectors = self.VECTORS.clone().requires_grad_()
        output = DenseOutput(*vectors, 100.0, "cosine")
        contrastive(output, of_pairs(torch.eye(4).bool()), parity="code").sum().backward()
        assert vectors.grad.isfinite().all() and vectors.grad.abs().sum(-1).min() > 0

    def test_an_unknown_parity(self):
        with pytest.raises(ValueError, match="parity must be one of paper, code"):
            PairContrastive(parity="simlm")


class Planes:
    """A teacher whose vectors are a table."""

    gives, runs, similarity, former_key, dim, asks_for_dim = "vectors", "cached", "dot", "", 2, False

    def __init__(self, table: dict[str, list[float]]) -> None:
        self.table, self.key = table, hash_text(str(table))

    def vectors_key(self, side):
        return f"{self.key} {side}"

    def encode_parts(self, texts, side):
        from retort.trainers.roles import EncodedPart

        yield EncodedPart(list(range(len(texts))), np.array([self.table[t] for t in texts], dtype=np.float32))


OWN = {f"x{row}": [row] for row in range(5)}


class TestFilter:
    BODY = "lies in the wide blue sea"

    def kept(self, tmp_path, scores: list[float], positives: dict[str, list[int]], **options) -> list[bool]:
        """Which queries are kept; each scores the passages alike."""
        texts = [f"{name} {self.BODY}" for name in "abcdefgh"[: len(scores)]]
        qrels = {name: {str(row): 1 for row in rows} for name, rows in positives.items()}
        corpus, queries = TextStore(map(str, range(len(texts))), texts), TextStore(positives, positives)
        table = {text: [score, 0.0] for text, score in zip(texts, scores, strict=True)}
        teacher = Planes(table | {name: [1.0, 0.0] for name in positives})
        context = TrainingContext(RetrievalData("made", corpus, queries, qrels), {"noisy": teacher}, tmp_path)
        selector = ConsistencyFilter(model="noisy", **options)
        selector.check(context)
        return selector.keep(context, 1).tolist()

    def test_the_worst_rank_that_is_kept(self, tmp_path):
        """As in the worked ranks: 2 is kept and 3 dropped, where every passage is in the pool."""
        scores = [0.80, 0.5, 0.79, 0.81, 0.2]
        assert self.kept(tmp_path, scores, OWN) == [True, False, False, True, False]
        assert self.kept(tmp_path, scores, OWN, top=3) == [True, False, True, True, False]

    def test_more_pairs_than_are_ranked_at_a_time(self, tmp_path, monkeypatch):
        monkeypatch.setattr("retort.trainers.methods.e5.BLOCK", 2)
        assert self.kept(tmp_path, [0.80, 0.5, 0.79, 0.81, 0.2], OWN, top=3) == [True, False, True, True, False]

    def test_ties_count_against_a_pair(self, tmp_path):
        assert self.kept(tmp_path, [0.5] * 5, OWN) == [False] * 5
        assert self.kept(tmp_path, [0.5, 0.5, 0.1, 0.1, 0.1], OWN) == [True, True, False, False, False]

    def test_own_passages_are_not_in_the_pool(self, tmp_path):
        """A query with several is kept if all are ranked high."""
        scores, one = [0.3, 0.9, 0.8, 0.2, 0.1], {f"x{row}": [row] for row in (1, 2, 3, 4)}
        assert self.kept(tmp_path, scores, {"y": [0, 1, 2], **one})[0]
        assert not self.kept(tmp_path, scores, {"y": [0, 1], "z": [0, 4], **one}, top=1)[0]

    def test_the_pool_is_a_sample(self, tmp_path):
        """Of one passage: none but it can be above."""
        assert sum(self.kept(tmp_path, [0.5, 0.4, 0.3, 0.2, 0.1], OWN, pool=1, top=2)) == 5
        assert 1 <= sum(self.kept(tmp_path, [0.5, 0.4, 0.3, 0.2, 0.1], OWN, pool=1, top=1)) <= 5

    def test_another_seed_draws_another_pool(self, tmp_path):
        """Of one passage, so that the pairs that are kept are those above it, and its own."""
        scores = [0.5, 0.4, 0.3, 0.2, 0.1]
        kept = {tuple(self.kept(tmp_path / str(seed), scores, OWN, pool=1, top=1, seed=seed)) for seed in range(8)}
        assert len(kept) > 1

    def test_queries_without_a_passage(self, tmp_path):
        assert self.kept(tmp_path, [0.5, 0.4], {"x": [], "y": [0]}) == [False, True]
        assert self.kept(tmp_path, [0.5], {"x": []}) == [False]

    @pytest.mark.parametrize("options", [{"top": 0}, {"pool": 0}])
    def test_mistakes(self, options):
        with pytest.raises(ValueError, match="top and pool must be at least 1"):
            ConsistencyFilter(model="noisy", **options)


class TestEncoding:
    def test_pads_take_no_part(self, tiny_model):
        model = tiny_model(1)
        short, long = "the ship", " ".join(WORDS[:30])
        alone = encode_texts(model, [short], "query")
        padded = encode_texts(model, [short, long], "query", budget=10_000)
        torch.testing.assert_close(padded[:1], alone, rtol=0, atol=1e-6)

    def test_prefixes_are_part_of_a_text(self, tmp_path):
        tokenizer = write_tokenizer(tmp_path / "words", [*dict.fromkeys(WORDS), "query", "passage", ":"])
        model = create.from_config(tiny_config(2), tokenizer, prompts=PROMPTS)
        asked, given = (encode_texts(model, ["the ship"], side) for side in ("query", "document"))
        assert float((asked - given).detach().abs().max()) > 1e-3
        plain = create.from_config(tiny_config(2), tokenizer)
        torch.testing.assert_close(encode_texts(plain, ["query: the ship"], "document"), asked)
        torch.testing.assert_close(encode_texts(plain, ["passage: the ship"], "document"), given)


@pytest.fixture
def tree(list_tree):
    """The recipe over tiny models: what is random is the student's own, and it starts as the first one did."""
    student = list_tree["student"]
    student["init_parameters"]["prompts"] = PROMPTS
    write = {"batches": "pairs", "queries": spec("retort.trainers.data.weak_pairs.WeakPairs", most_documents=9)}
    loss = spec("retort.trainers.methods.e5.PairContrastive", parity="code")
    noisy = spec("TrainedInRunBiEncoder", student=student, stages=[stage("all-pairs", 5, loss, **write)])
    keep = spec("retort.trainers.methods.e5.ConsistencyFilter", model="noisy", top=4, pool=20)
    tune = [spec("ListwiseKL", tau_squared=False), spec("Contrastive", weight=0.2)]
    list_tree["teachers"] = {"ranker": list_tree["teachers"]["ranker"], "noisy": noisy}
    list_tree["training"] |= {"evaluate_every": 0}
    list_tree["stages"] = [
        stage("pairs", 5, loss, **write, selector=keep, training={"batch_size": 12, "cache_gradients": True}),
        stage("tune", 3, *tune, teacher="ranker", candidates=pool("own", negatives=3)),
    ]
    return list_tree


class TestRuns:
    def test_a_killed_run(self, tree, pages, tmp_path, monkeypatch):
        """In each of its three stretches: the first model's, the filtered pairs', the fine-tuning's."""
        out = tmp_path / "whole" / "run"
        run_recipe(Recipe.from_dict(tree), pages, out)
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        (opened,) = (line for line in lines if line["event"] == "opened")
        assert (opened["stage"], opened["step"]) == ("pairs", 0)
        assert 0 < opened["kept"] < opened["queries"]
        assert set(log_of(out)[-1]["terms"]) == {"loss", "listwise_kl", "contrastive"}
        assert_comes_back(tree, pages, tmp_path, monkeypatch, everything(out), (3, 8, 11))
        # Prompts are the student's own: whoever serves it has nothing to say.
        manifest = Manifest.read(out / "student")
        assert manifest.prompts == PROMPTS
        embedding = StudentTextEmbedder(model=str(out / "student")).run(text="the ship")["embedding"]
        bare = Student.load(str(out / "student"))
        bare.model.prompts = dict.fromkeys(PROMPTS, "")
        np.testing.assert_allclose(bare.encode_query(["query: the ship"])[0], embedding, atol=1e-6)

    def test_training_starts_again_from_the_first_weights(self, tree, pages, tmp_path):
        """With a rank that keeps all, and the same batches, the student becomes what the first model became."""
        tree["stages"] = [tree["stages"][0] | {"training": {}}]
        tree["stages"][0]["selector"]["init_parameters"]["top"] = 1000
        del tree["teachers"]["ranker"]
        tree["student"]["init_parameters"]["config"]["hidden_dropout_prob"] = 0.0
        run_recipe(Recipe.from_dict(tree), pages, tmp_path / "run")
        found = everything(tmp_path / "run")
        students = [
            {n.removeprefix(f"{place}."): t for n, t in found.items() if n.startswith(place)}
            for place in ("student", "teachers/noisy/student")
        ]
        assert students[0].keys() == students[1].keys()
        assert all(torch.equal(students[0][name], students[1][name]) for name in students[0])

    def test_a_ranker_has_no_ranks_among_random_passages(self, tree, pages, tmp_path):
        tree["stages"][0]["selector"]["init_parameters"]["model"] = "ranker"
        with pytest.raises(RecipeError, match="stages.0.selector: teacher 'ranker' scores lists; it gives no vectors"):
            run_recipe(Recipe.from_dict(tree), pages, tmp_path / "run")

    def test_the_filter_finds_wrong_pairs(self, tree, tmp_path):
        """Of pairs of which 30% are shuffled, a first model that learned them all keeps mostly good ones."""
        folder, rng = tmp_path / "data", np.random.default_rng(0)
        words = [word for word in WORDS if len(word) > 3]
        documents = [rng.choice(words, 10, replace=False).tolist() for _ in range(150)]
        wrong = rng.random(150) < 0.3
        owner = np.where(wrong, (np.arange(150) + 7) % 150, np.arange(150))
        (folder / "qrels").mkdir(parents=True)
        write_jsonl(folder / "corpus.jsonl", [{"_id": f"d{i}", "text": " ".join(d)} for i, d in enumerate(documents)])
        queries = [{"_id": f"q{i}", "text": " ".join(rng.choice(d, 3, replace=False))} for i, d in enumerate(documents)]
        write_jsonl(folder / "queries.jsonl", queries)
        for split, rows in {"train": range(140), "dev": range(140, 150)}.items():
            lines = [f"q{i}\td{owner[i] if split == 'train' else i}\t1\n" for i in rows]
            (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
        first = tree["teachers"]["noisy"]["init_parameters"]["stages"][0]
        first |= {"steps": 20, "lr": 1e-3, "training": {"batch_size": 32}}
        tree["student"]["init_parameters"] |= {"config": tiny_config(1, 32)}
        tree["stages"] = [tree["stages"][0] | {"steps": 1}]
        tree["stages"][0]["selector"]["init_parameters"] |= {"top": 2, "pool": 100}
        del first["queries"], tree["stages"][0]["queries"], tree["teachers"]["ranker"]
        run_recipe(Recipe.from_dict(tree), folder, tmp_path / "run")
        kept = np.array([int(i[1:]) for i in json.loads((tmp_path / "run" / "selected" / "pairs.json").read_text())])
        assert len(kept) > 40
        assert wrong[:140].mean() > 0.25 and wrong[kept].mean() < 0.1
