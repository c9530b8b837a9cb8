# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
import ast
import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from haystack import Document, component
from tiny import pool, spec, stage, write_pictures

from retort.students import save_student
from retort.students.images import ImageFile
from retort.trainers.build import build_recipe
from retort.trainers.context import TrainingContext
from retort.trainers.data.beir import read_beir
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.plan import plan_run
from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe
from retort.trainers.runtime import locks
from retort.trainers.runtime.errors import CacheError, RecipeError
from retort.trainers.teachers import vector_cache
from retort.trainers.teachers.bi_encoder import BiEncoderTeacher
from retort.trainers.teachers.cross_encoder import CrossEncoderTeacher
from retort.trainers.teachers.embedder import EmbedderTeacher
from retort.trainers.teachers.haystack import HaystackComponents, is_local
from retort.trainers.teachers.vector_cache import VectorCache

TEXTS = TextStore(["1", "2", "3", "4", "5"], ["the ship", "bread", "rose and bee", "the sea", "a b c ship"])
EMBEDDERS = "haystack_integrations.components.embedders"


@component
class NestedRanker:
    """A ranker that may hold another."""

    def __init__(self, *, model: object = None, batch_size: int = 8, backend: str = "torch") -> None:
        self.model, self.batch_size, self.backend = model, batch_size, backend

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict:
        return {"documents": documents}


def fake(texts: list[str]) -> np.ndarray:
    return np.array([[len(t), hash(t) % 7] for t in texts], dtype=np.float32)


class TestVectorCache:
    def test_computes_once_and_reads_back(self, tmp_path):
        asked = []
        cache = VectorCache(tmp_path, "k", "query")

        def encode(texts):
            asked.extend(texts)
            return fake(texts)

        assert cache.fill(TEXTS, encode, lambda n: None) == 5
        assert VectorCache(tmp_path, "k", "query").fill(TEXTS, encode, lambda n: None) == 0
        assert sorted(asked) == sorted(TEXTS.texts)
        order = TEXTS.item_ids[[3, 0, 0]]
        assert np.array_equal(
            VectorCache(tmp_path, "k", "query").gather(order), fake(["the sea", "the ship", "the ship"])
        )

    def test_sides_and_keys_are_apart(self, tmp_path):
        VectorCache(tmp_path, "k", "query").fill(TEXTS, fake, lambda n: None)
        for key, side in (("k", "document"), ("other", "query")):
            with pytest.raises(KeyError):
                VectorCache(tmp_path, key, side).gather(TEXTS.item_ids)

    def test_work_done_is_kept(self, tmp_path, monkeypatch):
        monkeypatch.setattr("retort.trainers.teachers.vector_cache.BLOCK", 2)
        asked = []

        def failing(texts):
            asked.append(texts)
            if len(asked) == 2:
                raise ConnectionError
            return fake(texts)

        with pytest.raises(ConnectionError):
            VectorCache(tmp_path, "k", "query").fill(TEXTS, failing, lambda n: None)
        assert VectorCache(tmp_path, "k", "query").fill(TEXTS, failing, lambda n: None) == 3
        assert asked[2] == asked[1]
        assert not [p for p in (tmp_path / "vectors").rglob(".*.npy*")]

    def test_many_blocks_cost_few_file_handles(self, tmp_path, monkeypatch):
        monkeypatch.setattr("retort.trainers.teachers.vector_cache.BLOCK", 1)
        texts = TextStore(map(str, range(150)), [f"text {i}" for i in range(150)])
        cache = VectorCache(tmp_path, "k", "query")
        cache.fill(texts, fake, lambda n: None)
        before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
        assert np.array_equal(cache.gather(texts.item_ids), fake(texts.texts))
        assert before == 0 or len(os.listdir("/proc/self/fd")) - before <= 64

    def test_what_another_process_wrote_is_not_computed_again(self, tmp_path):
        early = VectorCache(tmp_path, "k", "query")
        VectorCache(tmp_path, "k", "query").fill(TEXTS, fake, lambda n: None)
        assert early.fill(TEXTS, fake, lambda n: None) == 0

    def test_a_context_reads_a_cache_once(self, tmp_path, monkeypatch):
        """And what comes later; a cache that was deleted and filled anew it reads as one that is new."""
        opened, real = [], vector_cache._open_block
        monkeypatch.setattr(vector_cache, "_open_block", lambda path: opened.append(path) or real(path))
        teacher = SimpleNamespace(gives="vectors", vectors_key=lambda side: "k", former_key="")
        context = TrainingContext(RetrievalData("d", TEXTS, TEXTS), {"t": teacher}, tmp_path)
        VectorCache(tmp_path, "k", "query").fill(TEXTS.select([0, 1]), fake, lambda n: None)
        cache = context.vector_cache("t", "query")
        assert len(cache.missing(TEXTS)) == len(TEXTS) - 2
        opened.clear()
        assert context.over(context.data).vector_cache("t", "query") is cache
        assert opened == []
        VectorCache(tmp_path, "k", "query").fill(TEXTS, fake, lambda n: None)
        assert not context.vector_cache("t", "query").missing(TEXTS)
        name = min(path.name for path in cache.folder.glob("*.npy"))
        shutil.rmtree(cache.folder)
        assert context.vector_cache("t", "query").dim is None
        VectorCache(tmp_path, "k", "query").fill(TEXTS, lambda texts: np.ones((len(texts), 3)), lambda n: None)
        assert context.vector_cache("t", "query").gather(TEXTS.item_ids).tolist() == [[1, 1, 1]] * len(TEXTS)
        next(cache.folder.glob("*.npy")).rename(cache.folder / name)
        assert len(context.vector_cache("t", "query").gather(TEXTS.item_ids)) == len(TEXTS)

    def test_places_are_those_of_a_dictionary(self):
        """Of an item that stands in several blocks the last one counts."""
        rng = np.random.default_rng(0)
        places, expected = vector_cache._Places(), {}
        known = np.frombuffer(rng.bytes(16 * 300), "V16")
        for number in range(60):
            blocks = {f"{number}{part}": rng.permutation(known)[: rng.integers(0, 9)] for part in "ab"}
            places.add(blocks)
            for name, ids in blocks.items():
                expected |= {item.tobytes(): (name, row) for row, item in enumerate(ids)}
            found = zip(*(values.tolist() for values in places.of(known)), strict=True)
            at = {i.tobytes(): (places.names[b], row) for i, (b, row) in zip(known, found, strict=True) if b >= 0}
            assert at == expected
            assert len(places) == len(expected)
        assert len(places._runs) < 10

    def test_one_writer(self, tmp_path, monkeypatch, caplog):
        """Another waits for it, and has nothing left to do."""
        monkeypatch.setattr(locks, "SOON", 0.05)
        begun, may = threading.Event(), threading.Event()

        def slow(some):
            begun.set()
            assert may.wait(10)
            return fake(some)

        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(VectorCache(tmp_path, "k", "query").fill, TEXTS, slow, lambda n: None)
            assert begun.wait(10)
            second = pool.submit(VectorCache(tmp_path, "k", "query").fill, TEXTS, slow, lambda n: None)
            while "is being written by another process; waiting" not in caplog.text:
                time.sleep(0.01)
            may.set()
            assert (first.result(), second.result()) == (len(TEXTS), 0)

    @pytest.mark.parametrize(
        ("vectors", "message"), [(np.full((5, 2), np.nan), "not finite"), (np.ones((4, 2)), r"shape \(4, 2\) for 5")]
    )
    def test_bad_vectors_are_refused_and_not_stored(self, tmp_path, vectors, message):
        cache = VectorCache(tmp_path, "k", "query")
        with pytest.raises(CacheError, match=message):
            cache.fill(TEXTS, lambda texts: vectors, lambda n: None)
        assert not list(cache.folder.glob("*.npy"))


@pytest.mark.parametrize("kind", [BiEncoderTeacher, CrossEncoderTeacher])
@pytest.mark.parametrize(
    ("kwargs", "key"),
    [
        ({}, "1d37cd80990a8db620326c211b069363d2f4ed316eaa4e6956042558ea8af66d"),
        ({"num_labels": 1}, "a376075331211a5ec37ae04935b6604fb9912a3ae6522825d4f67a0dd632a418"),
    ],
)
def test_keys_of_local_models_stay(monkeypatch, kind, kwargs, key):
    """What is kept under the keys of earlier versions is found again."""
    monkeypatch.setattr("retort.trainers.teachers.local_model.version", lambda _: "5.6.0")
    teacher = kind(model="m", model_kwargs=kwargs, tokenizer_kwargs={}, device="cpu", revision="1")
    vars(teacher)["_loaded"] = SimpleNamespace(fingerprint="f1", model=SimpleNamespace(dtype=torch.float32))
    assert teacher.key == key


class TestBiEncoderTeacher:
    def test_key_follows_weights_and_lengths(self, tiny_model, tmp_path):
        save_student(tiny_model(1), tmp_path / "t")
        path = str(tmp_path / "t")
        first = BiEncoderTeacher(model=path).key
        assert BiEncoderTeacher(model=path).key == first
        assert BiEncoderTeacher(model=path, max_document_tokens=8).key != first
        save_student(tiny_model(2), tmp_path / "t")
        assert BiEncoderTeacher(model=path).key != first


class TestEmbedderTeacher:
    @pytest.fixture
    def spec(self, tiny_student):
        return {
            side: {"type": f"{EMBEDDERS}.retort.student_{side}_embedder.Student{side.title()}Embedder",
                   "init_parameters": {"model": tiny_student}}
            for side in ("text", "document")
        }  # fmt: skip

    def test_same_vectors_as_the_fast_path(self, spec, tiny_student):
        teacher = EmbedderTeacher(text_embedder=spec["text"], document_embedder=spec["document"])
        fast = BiEncoderTeacher(model=tiny_student, device="cpu")
        assert teacher.dim == fast.dim == 16
        for side in ("query", "document"):
            assert np.allclose(teacher.encode(TEXTS.texts, side), fast.encode(TEXTS.texts, side), atol=1e-6)

    @pytest.mark.parametrize("similarity", ["cos", "euclidean"])
    def test_a_similarity_that_nobody_learns_from(self, spec, similarity, recipe_tree, beir, tmp_path):
        """Before anything is done: the student could not be compared with it at the end."""
        given = {"text_embedder": spec["text"], "document_embedder": spec["document"], "similarity": similarity}
        recipe_tree["teachers"]["teacher"] = {
            "type": "retort.trainers.teachers.embedder.EmbedderTeacher",
            "init_parameters": given,
        }
        with pytest.raises(RecipeError, match=f"teachers.teacher: its similarity is '{similarity}'; a student learns"):
            run_recipe(Recipe.from_dict(recipe_tree), beir, tmp_path / "run")
        assert not (tmp_path / "run" / "recipe.yaml").exists()

    @pytest.mark.parametrize("first", [False, True])
    def test_an_image_that_is_refused(self, spec, first, tmp_path):
        """It is set aside, also where it would have been what nobody can refuse."""
        images = [ImageFile(path) for path in sorted((write_pictures(tmp_path / "p") / "images").iterdir())[:6]]
        bad = images[0 if first else 3]

        def documents(given):
            if bad in given:
                error = RuntimeError("no image")
                error.status_code = 400
                raise error
            return [[1.0, 2.0]] * len(given)

        teacher = EmbedderTeacher(text_embedder=spec["text"], document_embedder=spec["document"])
        teacher._documents = documents
        parts = [*teacher.encode_parts(images, "document")]
        assert {row: cause for part in parts for row, cause in part.refused.items()} == {images.index(bad): "no image"}
        assert sorted(row for part in parts for row in part.rows) == [n for n in range(6) if images[n] != bad]
        (alone,) = teacher.encode_parts([bad], "document")  # an image that was taken before tells
        assert alone.refused == {0: "no image"}

    def test_another_makers_components(self, tiny_student):
        """House embedders of sentence-transformers, by YAML."""
        kind = f"{EMBEDDERS}.sentence_transformers.sentence_transformers"
        spec = yaml.safe_load(f"""
            text_embedder:
              type: {kind}_text_embedder.SentenceTransformersTextEmbedder
              init_parameters: {{model: {tiny_student}, progress_bar: false}}
            document_embedder:
              type: {kind}_document_embedder.SentenceTransformersDocumentEmbedder
              init_parameters: {{model: {tiny_student}, progress_bar: false}}
        """)
        teacher = EmbedderTeacher(**spec)
        fast = BiEncoderTeacher(model=tiny_student, device="cpu")
        assert np.allclose(teacher.encode(TEXTS.texts, "document"), fast.encode(TEXTS.texts, "document"), atol=1e-5)

    def test_key_follows_the_content_of_a_local_model(self, tiny_model, tmp_path):
        save_student(tiny_model(1), tmp_path / "t")
        specs = {
            f"{side}_embedder": {
                "type": f"{EMBEDDERS}.retort.student_{side}_embedder.Student{side.title()}Embedder",
                "init_parameters": {"model": str(tmp_path / "t")},
            }
            for side in ("text", "document")
        }
        first = EmbedderTeacher(**specs).key
        save_student(tiny_model(2), tmp_path / "t")
        assert EmbedderTeacher(**specs).key != first

    @pytest.mark.parametrize(
        "more",
        [
            {"batch_size": 4},
            {"progress_bar": False},
            {"device": {"type": "single", "device": "cpu"}},
            {"encode_kwargs": {"batch_size": 4}, "local_files_only": True},
        ],
    )
    def test_the_key_of_local_models_goes_by_what_they_answer(self, tiny_student, tmp_path, more):
        """Whoever runs out of memory goes on with smaller batches, or elsewhere."""

        def embedders(**parameters):
            kind = f"{EMBEDDERS}.sentence_transformers.sentence_transformers"
            parameters = {"model": tiny_student, "encode_kwargs": {}} | parameters
            return EmbedderTeacher(
                text_embedder={"type": f"{kind}_text_embedder.SentenceTransformersTextEmbedder",
                               "init_parameters": parameters},
                document_embedder={"type": f"{kind}_document_embedder.SentenceTransformersDocumentEmbedder",
                                   "init_parameters": parameters},
            )  # fmt: skip

        one, other = embedders(), embedders(**more)
        assert one.key == other.key
        assert one.key != embedders(**more, normalize_embeddings=True).key
        assert one.former_key != other.former_key != other.key
        VectorCache(tmp_path, other.former_key, "document").fill(TEXTS, fake, lambda _: None)
        kept = VectorCache(tmp_path, other.vectors_key("document"), "document", former_key=other.former_key)
        assert not kept.missing(TEXTS)

    def test_what_stands_within_a_local_component(self):
        def key(**parameters):
            within = {"type": "test_teachers.NestedRanker", "init_parameters": {"model": "m"} | parameters}
            ranker = {"type": "test_teachers.NestedRanker", "init_parameters": {"model": within}}
            return HaystackComponents({"ranker": ranker}, allowed_modules=["test_teachers"]).key

        assert key() == key(batch_size=4, backend="onnx") != key(model="n")

    def test_searches_of_a_local_retriever_are_found(self):
        """What is kept of them knows no former key."""
        store = {"type": "haystack.document_stores.in_memory.document_store.InMemoryDocumentStore"}
        store |= {"init_parameters": {}}
        kind = "haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever"
        spec = {"type": kind, "init_parameters": {"document_store": store, "scale_score": False, "top_k": 3}}
        components = HaystackComponents({"retriever": spec})
        assert components.key == components.former_key

    def test_untrusted_components_are_refused(self):
        spec = {"type": "subprocess.Popen", "init_parameters": {"args": "true"}}
        with pytest.raises(Exception, match="subprocess"):
            EmbedderTeacher(text_embedder=spec, document_embedder=spec)

    def test_a_remote_teacher_names_a_revision(self, spec):
        """Told by the component's own signature: its key often comes from the environment, unnamed in the YAML."""
        remote = {"type": "haystack.components.embedders.openai_text_embedder.OpenAITextEmbedder"}
        with pytest.raises(RecipeError, match="name a `revision`"):
            EmbedderTeacher(text_embedder=remote, document_embedder=spec["document"])
        keys = {
            EmbedderTeacher(text_embedder=remote, document_embedder=spec["document"], revision=revision).key
            for revision in ("2026-01", "2026-02")
        }
        assert len(keys) == 2

    def test_only_paths_are_paths(self, tmp_path):
        assert is_local("model", str(tmp_path))
        assert not is_local("separator", "/")
        assert not is_local("model_prompt", "long " * 200)
        assert not is_local("model", None)


class TestSomebodysOwn:
    """Whoever uses a teacher asks it what it gives, when it runs and what it costs."""

    @pytest.fixture
    def tree(self, recipe_tree) -> dict:
        lists = pool("bm25", negatives=2)
        return recipe_tree | {
            "teachers": {
                "vectors": {"type": "tiny_teachers.HashedWords"},
                "scores": {"type": "tiny_teachers.CommonWords"},
                "ranks": {"type": "tiny_teachers.CommonWords", "init_parameters": {"order_only": True}},
            },
            "candidates": {"bm25": spec("BM25Miner", depth=6), "theirs": spec("DenseMiner", model="vectors", depth=6)},
            "stages": [
                stage("align", 2, spec("Alignment", projection=True), batches="texts", teacher="vectors"),
                stage("scored", 2, spec("ListwiseKL"), teacher="scores", candidates=lists),
                stage("ranked", 2, spec("RankNet"), teacher="ranks", candidates=pool("theirs", negatives=2)),
            ],
        }

    def test_in_a_run(self, tree, beir, tmp_path):
        run_recipe(Recipe.from_dict(tree, allow=["tiny_teachers"]), beir, tmp_path / "run")
        measured = json.loads((tmp_path / "run" / "metrics.json").read_text())["dev"]["teachers"]
        assert set(measured) == {"vectors"}  # those that give scores rank no corpus
        assert measured["vectors"]["ndcg@10"] > 0
        for stage_name, teacher in (("scored", "scores"), ("ranked", "ranks")):
            lists = pq.read_table(tmp_path / "run" / "candidates" / f"{stage_name}.parquet")
            scores = lists[f"score.{teacher}"].to_numpy()
            assert np.isfinite(scores).any()
            assert (scores[np.isfinite(scores)] <= 0).all() == (teacher == "ranks")

    def test_in_a_plan(self, tree, beir, tmp_path):
        """One that costs time is timed; one that costs nothing is passed over."""
        plan = plan_run(Recipe.from_dict(tree, allow=["tiny_teachers"]), read_beir(beir, "train"), tmp_path)
        assert {name for name in plan.seconds if name.startswith("teacher")} == {"teacher vectors"}
        assert {name: calls.partition(" of ")[0] for name, calls in plan.calls.items()} == {
            "vectors": "vectors",
            "scores": "scores",
            "ranks": "scores",
        }
        assert plan.unknown == []

    def test_an_order_is_no_scores(self, tree, beir, tmp_path):
        tree["stages"][1]["teacher"] = "ranks"
        with pytest.raises(RecipeError, match="stage scored: teacher 'ranks' gives an order without scores"):
            run_recipe(Recipe.from_dict(tree, allow=["tiny_teachers"]), beir, tmp_path / "run")

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            (
                "Speechless",
                "teachers.vectors: tiny_teachers.Speechless must say what it gives: vectors, scores, ranks.",
            ),
            ("overlap", "teachers.vectors.type: 'tiny_teachers.overlap' is no teacher."),
        ],
    )
    def test_what_is_no_teacher(self, tree, beir, tmp_path, kind, message):
        tree["teachers"]["vectors"]["type"] = f"tiny_teachers.{kind}"
        with pytest.raises(RecipeError) as error:
            build_recipe(Recipe.from_dict(tree, allow=["tiny_*"]), read_beir(beir, "train"), tmp_path)
        assert str(error.value) == message


# What is built of a teacher, and asks for no other's class.
BUILT_OF_ONE = {"candidates/sparse.py": {"SparseEncoderTeacher"}}


def test_nobody_asks_for_a_teachers_class():
    trainers = Path(__file__).parent.parent / "trainers"
    classes = {
        node.name
        for path in (trainers / "teachers").glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and ("Teacher" in node.name or "TrainedInRun" in node.name)
    }
    assert {"BiEncoderTeacher", "LiveTeacher", "TrainedInRun", "RankerTeacher"} <= classes
    for folder in (trainers, trainers.parent / "cli", trainers.parent / "components"):
        for path in folder.rglob("*.py"):
            if path.parent != trainers / "teachers":
                tree = ast.parse(path.read_text())
                names = {a.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for a in node.names}
                own = BUILT_OF_ONE.get(path.relative_to(folder).as_posix(), set())
                assert not names & classes - own, path
