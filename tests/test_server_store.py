# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Qdrant servers: the retriever, the command line and the indexing pipeline.

Over the wire the same tests run against a stand-in, which answers the REST calls that we make from an engine in memory,
and against a real server if there is one. The stand-in shows what is sent; only the server can show what that does.
"""

import asyncio
import copy
import json
import os
import pickle
import random
import re
import subprocess
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

import httpx
import numpy as np
import pytest
import yaml
from haystack import Document, Pipeline
from haystack.document_stores.errors import DocumentStoreError
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError
from haystack.utils import Secret
from qdrant_client import QdrantClient, models

from haystack_integrations.components.embedders.retort import StudentDocumentEmbedder, StudentTextEmbedder
from haystack_integrations.components.retrievers.retort import SpaceMismatchError, StudentRetriever, qdrant_server
from haystack_integrations.components.retrievers.retort.qdrant_server import ServerIndex
from haystack_integrations.components.retrievers.retort.server_filters import convert_server_filters
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.cli import main
from retort.pipelines.load import SERVER_QUANTIZATIONS, load_pipeline, pipeline_yaml, store_spec
from retort.workflows import index_documents

ROOT = Path(__file__).parent.parent
DIM = 16
DOCUMENTS = [
    Document(id="1", content="The ship is near the harbour.", meta={"title": "sea", "year": 1990}),
    Document(id="2", content="Bread of flour, butter and salt.", meta={"title": "kitchen", "year": 2000}),
    Document(id="3", content="The rose is in the garden.", meta={"title": "garden", "year": 2010}),
]
KITCHEN = {"field": "meta.title", "operator": "==", "value": "kitchen"}


class StandIn(ThreadingHTTPServer):
    """As much of Qdrant's REST interface as is called, over its client's engine in memory."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.engine = QdrantClient(":memory:")
        self.lock = threading.Lock()
        self.seen: list[tuple[str, str, dict]] = []
        self.keys: set[str | None] = set()
        self.quantizations: dict[str, dict | None] = {}  # the engine in memory has none

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, method, parts, body):
        engine, name, rest = self.engine, (parts[1:2] or [""])[0], "/".join(parts[2:])
        match f"{method} {rest}":
            case "GET exists":
                return {"exists": engine.collection_exists(name)}
            case "PUT ":
                self.quantizations[name] = body.get("quantization_config")
                return engine.create_collection(name, vectors_config=_vectors(body["vectors"]))
            case "DELETE ":
                return engine.delete_collection(name)
        if not engine.collection_exists(name):
            return None
        scope = models.Filter(**body["filter"]) if body.get("filter") else None
        match f"{method} {rest}":
            case "GET ":
                found = engine.get_collection(name).model_dump(mode="json")
                found["config"]["quantization_config"] = self.quantizations[name]
                return found
            case "PUT points":
                return engine.upsert(name, [models.PointStruct(**p) for p in body["points"]])
            case "POST points/payload":
                return engine.set_payload(name, body["payload"], body["points"], key=body.get("key"))
            case "POST points":
                return engine.retrieve(name, body["ids"], with_vectors=body.get("with_vector", False))
            case "POST points/delete":
                return engine.delete(name, models.PointIdsList(points=body["points"]))
            case "POST points/count":
                return engine.count(name, scope)
            case "POST points/scroll":
                options = {"limit": body["limit"], "offset": body.get("offset"), "scroll_filter": scope}
                points, following = engine.scroll(name, **options, with_payload=body["with_payload"])
                return {"points": points, "next_page_offset": following}
            case "POST points/query":
                return engine.query_points(
                    name,
                    query=body["query"]["nearest"],
                    using=body.get("using"),
                    query_filter=scope,
                    limit=body["limit"],
                    score_threshold=body.get("score_threshold"),
                    with_vectors=body["with_vector"],
                )
        raise NotImplementedError(method, parts)


def _vectors(given):
    if "size" in given:
        return models.VectorParams(**given)
    return {name: models.VectorParams(**one) for name, one in given.items()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or "{}")
        parts = self.path.split("?")[0].strip("/").split("/")
        with self.server.lock:
            if parts == [""]:
                found = {"title": "qdrant", "version": version("qdrant-client")}
            else:
                self.server.keys.add(self.headers.get("api-key"))
                self.server.seen.append((self.command, "/".join(parts[2:]), body))
                result = self.server.answer(self.command, parts, body)
                result = result.model_dump(mode="json") if hasattr(result, "model_dump") else result
                found = {"result": result, "status": "ok", "time": 0.0}
        data = json.dumps(found, default=lambda model: model.model_dump(mode="json")).encode()
        self.send_response(404 if found.get("result", 1) is None else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def stand_in():
    server = StandIn()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def client_of(url: str) -> tuple[QdrantClient, str]:
    """A client of the server of a collection, and the collection's name."""
    base, _, name = url.rpartition("/")
    return QdrantClient(url=base, api_key=os.environ.get("QDRANT_API_KEY")), name


def new_collection(request) -> str:
    """URL of a collection that is not there yet, and will be gone: of the stand-in, or of a real server."""
    if request.param == "server" and "QDRANT_URL" not in os.environ:
        pytest.skip("set QDRANT_URL to a Qdrant server to run it")
    base = request.getfixturevalue("stand_in").url if request.param == "stand-in" else os.environ["QDRANT_URL"]
    url = f"{base.rstrip('/')}/retort-test-{uuid4().hex}"

    def delete():
        client, name = client_of(url)
        client.delete_collection(name)
        client.close()

    request.addfinalizer(delete)
    return url


@pytest.fixture(params=["stand-in", "server"])
def collection(request) -> str:
    return new_collection(request)


@pytest.fixture(params=["edge", "stand-in", "server"])
def place(request, tmp_path) -> str:
    """What --store takes."""
    return str(tmp_path / "index") if request.param == "edge" else new_collection(request)


@pytest.fixture(params=["edge", "memory", "stand-in", "server"])
def any_store(request, tmp_path):
    """An empty document store of each kind."""
    if request.param == "edge":
        return QdrantEdgeDocumentStore(path=str(tmp_path / "edge"))
    return in_memory() if request.param == "memory" else store_at(new_collection(request))


def store_at(url: str, **options) -> QdrantDocumentStore:
    spec = store_spec(url, embedding_dim=DIM)
    return QdrantDocumentStore.from_dict(spec | {"init_parameters": spec["init_parameters"] | options})


def in_memory(**options) -> QdrantDocumentStore:
    return QdrantDocumentStore(":memory:", embedding_dim=DIM, progress_bar=False, **options)


@pytest.fixture
def embedded(tiny_student) -> list[Document]:
    return StudentDocumentEmbedder(model=tiny_student).run(documents=DOCUMENTS)["documents"]


@pytest.fixture
def query(tiny_student) -> dict:
    found = StudentTextEmbedder(model=tiny_student).run(text="the ship near the harbour")
    return {"query_embedding": found["embedding"], "space": found["space"]}


def hits(found: dict) -> list[tuple[str, float]]:
    return [(d.id, pytest.approx(d.score, abs=1e-5)) for d in found["documents"]]


class TestContract:
    """What we use of qdrant-haystack that it does not promise. A failure says what to adapt to a new version."""

    SOURCE = Path(qdrant_server.__file__)

    def test_private_names(self):
        names = set(re.findall(r"self\.store\.(_\w+)", self.SOURCE.read_text()))
        assert names == {"_client", "_prepare_client_params"}
        gone = sorted(name for name in names if name not in dir(in_memory()))
        assert not gone, (
            f"qdrant-haystack {version('qdrant-haystack')} has no QdrantDocumentStore.{', '.join(gone)} any more: "
            f"adapt components/retrievers/{self.SOURCE.name}."
        )

    def test_client_parameters(self):
        given = QdrantDocumentStore(url="http://a:1", client_kwargs={"timeout": 7})._prepare_client_params()
        assert {"location", "url", "port", "https", "api_key", "prefix", "host", "path"} <= set(given)
        assert (given["url"], given["timeout"]) == ("http://a:1", 7)

    def test_the_client_is_opened_late_and_is_the_one_in_use(self, embedded, query):
        store = in_memory()
        assert store._client is None
        store.write_documents(embedded)
        assert store._client.count(store.index).count == 3
        store.close()
        assert store._client is None

    def test_no_other_file_uses_private_names(self):
        for folder in ("components", "pipelines", "cli"):
            for path in (ROOT / folder).rglob("*.py"):
                if path.name != self.SOURCE.name:
                    assert not re.search(r"store\._(async_)?client|_prepare_client_params", path.read_text()), path


class TestAddress:
    @pytest.mark.parametrize(
        ("options", "address"),
        [
            ({}, "http://localhost:6333/Document"),
            ({"url": "http://qdrant:7000", "index": "x"}, "http://qdrant:7000/x"),
            ({"url": "https://qdrant.example.org", "index": "x"}, "https://qdrant.example.org:6333/x"),
            ({"url": "https://qdrant.example.org:443/a/b/", "index": "x"}, "https://qdrant.example.org:443/a/b/x"),
            ({"url": "http://user:word@qdrant", "index": "x"}, "http://qdrant:6333/x"),
            ({"location": "http://qdrant:7000", "index": "x"}, "http://qdrant:7000/x"),
            ({"host": "qdrant", "port": 1, "https": True, "prefix": "/p", "index": "x"}, "https://qdrant:1/p/x"),
            ({"client_kwargs": {"url": "http://other:2"}, "index": "x"}, "http://other:2/x"),
            ({"location": ":memory:", "index": "x"}, ":memory:/x"),
            ({"path": "some/folder", "index": "x"}, "some/folder/x"),
        ],
    )
    def test_address(self, options, address):
        assert ServerIndex(QdrantDocumentStore(**options)).address == address

    def test_the_address_of_a_server_is_what_the_command_line_takes(self):
        for url in ("http://qdrant:7000/x", "https://qdrant.example.org:443/a/b/x"):
            assert ServerIndex(QdrantDocumentStore.from_dict(store_spec(url))).address == url

    @pytest.mark.parametrize("url", ["http://qdrant:6333", "http://qdrant:6333/"])
    def test_a_url_without_a_collection(self, url):
        with pytest.raises(DocumentStoreError, match="names no collection"):
            store_spec(url)

    @pytest.mark.parametrize("url", ["http://qdrant:abc/x", "http://qdrant:70000/x", "http://[qdrant/x"])
    def test_no_url(self, url):
        with pytest.raises(DocumentStoreError, match=r"is no URL: .* Give http://HOST:6333/COLLECTION"):
            store_spec(url)


class TestBinding:
    """Shipped YAML, bound to other places."""

    def values(self, **places) -> dict[str, dict]:
        tree = yaml.safe_load(pipeline_yaml("retrieve_and_rank", **places))["components"]
        return {name: component["init_parameters"] for name, component in tree.items()}

    def test_folders(self):
        found = self.values(student="a/student", index="an/index", ranker="a/ranker")
        assert found["embedder"]["model"] == "a/student"
        assert found["ranker"]["model"] == "a/ranker"
        assert found["retriever"]["document_store"] == store_spec("an/index")
        assert found["retriever"]["top_k"] == self.values()["retriever"]["top_k"]

    def test_a_collection(self):
        found = self.values(index="https://qdrant:443/x", embedding_dim=5)["retriever"]["document_store"]
        assert found["type"].endswith(".QdrantDocumentStore")
        store = load_pipeline("indexing", index="https://qdrant:443/x", embedding_dim=5).get_component("writer")
        for name, value in {
            "url": "https://qdrant:443",
            "index": "x",
            "embedding_dim": 5,
            "similarity": "cosine",
        }.items():
            assert found["init_parameters"][name] == getattr(store.document_store, name) == value

    def test_no_such_pipeline(self):
        with pytest.raises(FileNotFoundError, match="no pipeline 'x'; there are: .*rag, retrieve_and_rank"):
            pipeline_yaml("x")


class TestRetriever:
    """Over the wire."""

    @pytest.fixture
    def store(self, collection, embedded):
        store = store_at(collection)
        store.write_documents(embedded)
        return store

    @pytest.fixture
    def edge(self, embedded, tmp_path):
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "edge"))
        store.write_documents(embedded)
        return store

    def test_as_from_the_embedded_engine(self, store, edge, query):
        here, there = StudentRetriever(document_store=edge), StudentRetriever(document_store=store)
        native = models.Filter(must=[models.FieldCondition(key="meta.year", range=models.Range(gte=2000))])
        year = {"field": "meta.year", "operator": ">=", "value": 2000}
        second = here.run(**query)["documents"][1].score - 1e-4
        for options in ({}, {"top_k": 2}, {"filters": KITCHEN}, {"filters": year}, {"score_threshold": second}):
            assert hits(there.run(**query, **options)) == hits(here.run(**query, **options))
        assert hits(there.run(**query, filters=native)) == hits(here.run(**query, filters=year))
        found = there.run(**query)["documents"]
        assert [(d.content, d.meta, d.embedding) for d in found] == [
            (d.content, d.meta, None) for d in here.run(**query)["documents"]
        ]
        full = StudentRetriever(document_store=store, return_embedding=True).run(**query)["documents"]
        assert np.linalg.norm(full[0].embedding) == pytest.approx(1, abs=1e-5)

    def test_filter_policies(self, store, query):
        year = {"field": "meta.year", "operator": ">=", "value": 2000}
        merged = StudentRetriever(document_store=store, filters=year, filter_policy="merge")
        assert [d.id for d in merged.run(**query, filters=KITCHEN)["documents"]] == ["2"]
        assert merged.run(**query, filters=KITCHEN | {"value": "sea"})["documents"] == []
        replaced = StudentRetriever(document_store=store, filters=year)
        assert [d.id for d in replaced.run(**query, filters=KITCHEN | {"value": "sea"})["documents"]] == ["1"]
        with pytest.raises(ValueError, match="cannot be merged"):
            merged.run(**query, filters=models.Filter())

    def test_filters_find_what_they_find_in_a_folder(self, collection, query, tmp_path):
        metas = {
            "a": {"x": 1, "y": 2, "price": 1.5, "made": "2020-01-01T00:00:00+00:00", "odd key": 1},
            "b": {"x": 1, "y": 3, "price": 2, "deep": {"k": 2.0}},
            "c": {"x": 2, "y": 2, "topic": "u", "flag": True, "size": 2**60},
        }
        documents = [
            Document(id=name, content=name, meta=meta, embedding=query["query_embedding"])
            for name, meta in metas.items()
        ]
        store, edge = store_at(collection), QdrantEdgeDocumentStore(path=str(tmp_path / "edge"))
        store.write_documents(documents)
        edge.write_documents(documents)
        both = [StudentRetriever(document_store=each, allow_unstamped=True) for each in (edge, store)]

        def where(field, operator, value):
            return {"field": field, "operator": operator, "value": value}

        def joined(operator, *conditions):
            return {"operator": operator, "conditions": list(conditions)}

        none, one = where("meta.y", "in", []), where("meta.x", "==", 1)
        expected = [
            ("", none),
            ("", joined("AND", one, none)),
            ("bc", joined("NOT", one, where("meta.y", "==", 2))),
            ("ab", where("x", "==", 1)),
            ("a", where("meta.price", "==", 1.5)),
            ("b", where("meta.price", "in", [2.0, "q", True])),
            ("ab", where("meta.topic", "==", None)),
            ("c", where("meta.topic", "!=", None)),
            ("abc", where("meta.y", "not in", [])),
            ("b", where("meta.y", "not in", [2, None])),
            ("", joined("OR")),
            ("abc", joined("AND")),
            ("", joined("NOT")),
            ("ac", where("id", "in", ["a", "c"])),
            ("b", where("meta.deep.k", ">", 1)),
            ("a", where("meta.odd key", "==", 1)),
            ("c", where("meta.size", "==", 2**60)),
            ("a", where("meta.made", ">=", "2020-01-01")),
            ("", where("meta.x", "<", None)),
            (
                "ac",
                joined(
                    "OR", joined("NOT", one), joined("AND", one, where("meta.flag", "!=", True), where("y", "<", 3))
                ),
            ),
        ]
        for found, filters in expected:
            for retriever in both:
                ids = sorted(d.id for d in retriever.run(**query, filters=filters)["documents"])
                assert "".join(ids) == found, (filters, retriever)

    @pytest.mark.parametrize(
        ("field", "operator", "value", "said"),
        [
            ("meta.x", "==", ["a"], "cannot compare with"),
            ("meta.x", "in", [{"a": 1}], "cannot compare with"),
            ("meta.x", "<", float("nan"), "it is no number"),
            ("meta", "==", "a", "cannot filter by 'meta'"),
            ('meta."x', "==", "a", "cannot filter by"),
            ("meta.x", ">", "abc", "compares numbers and ISO 8601 dates"),
        ],
    )
    def test_filters_that_a_server_cannot_take(self, store, query, field, operator, value, said):
        with pytest.raises(FilterError, match=said):
            StudentRetriever(document_store=store).run(
                **query, filters={"field": field, "operator": operator, "value": value}
            )

    def test_random_filters_find_what_they_find_in_a_folder(self, tmp_path):
        """Booleans are numbers, and dates are equal however they are written."""
        dice = random.Random(5)
        fields = ["meta.a", "meta.b", "c", "content"]
        dates = ["2024-01-01", "2024-01-01T00:00:00Z", "2023-12-31 23:00:00Z", "2024-01-01T01:00:00+01:00"]
        dates += [datetime(2024, 1, 1, tzinfo=UTC)]
        values = [None, True, False, 0, 1, -1, 2, 1.0, 1.5, 0.1, -0.0, 2**53, "", "word", "Word"]
        documents = [
            Document(
                id=f"d{i}",
                content=dice.choice(["2024-01-01T02:00:00+02:00", "word", ""]),
                meta={key: dice.choice([*values, *dates[1:4]]) for key in "abc" if dice.random() < 0.8},
                embedding=[1.0] * DIM,
            )
            for i in range(80)
        ]
        edge, memory = QdrantEdgeDocumentStore(path=str(tmp_path / "edge")), in_memory()
        both = [StudentRetriever(document_store=store, allow_unstamped=True, top_k=100) for store in (edge, memory)]

        def drawn(depth=2):
            if depth and dice.random() < 0.3:
                conditions = [drawn(depth - 1) for _ in range(dice.randrange(3))]
                return {"operator": dice.choice(["AND", "OR", "NOT"]), "conditions": conditions}
            kind, aware = dice.choice(["order", "list", "value"]), dates[1:]
            if kind == "order":
                value = dice.choice([*(v for v in values if not isinstance(v, str)), *aware])
                return {"field": dice.choice(fields), "operator": dice.choice(["<", "<=", ">", ">="]), "value": value}
            if kind == "list":
                value = dice.choices(values + aware, k=dice.randrange(4))
                return {"field": dice.choice(fields), "operator": dice.choice(["in", "not in"]), "value": value}
            return {
                "field": dice.choice(fields),
                "operator": dice.choice(["==", "!="]),
                "value": dice.choice([*values, *aware, "2024", "20240101"]),
            }

        for store in (edge, memory):
            store.write_documents(documents)
        for _ in range(300):
            filters = drawn()
            found = [
                {d.id for d in each.run(query_embedding=[1.0] * DIM, filters=filters)["documents"]} for each in both
            ]
            assert found[0] == found[1], filters

    def test_numbers_that_ranges_cannot_tell_apart(self):
        """Ranges compare float64."""
        native = convert_server_filters({"field": "meta.n", "operator": "==", "value": 2**53 + 1})
        assert native.must[0].should[0].match == models.MatchValue(value=2**53 + 1)

    def test_distances_become_similarities(self, collection, embedded, query, tmp_path):
        store, edge = (
            store_at(collection, similarity="l2"),
            QdrantEdgeDocumentStore(path=str(tmp_path), similarity="l2"),
        )
        store.write_documents(embedded)
        edge.write_documents(embedded)
        expected = StudentRetriever(document_store=edge).run(**query)
        assert hits(StudentRetriever(document_store=store).run(**query)) == hits(expected)
        limit = expected["documents"][1].score - 1e-4
        found = StudentRetriever(document_store=store, score_threshold=limit).run(**query)
        assert hits(found) == hits({"documents": expected["documents"][:2]})

    def test_async_in_one_event_loop_after_the_other(self, store, query):
        # By default the client keeps no connection to this machine, and connections are what outlives a loop.
        kept = store_at(ServerIndex(store).address, client_kwargs={"limits": httpx.Limits()})
        retriever = StudentRetriever(document_store=kept)
        expected = hits(retriever.run(**query))

        async def ask(times: int):
            found = await asyncio.gather(*(retriever.run_async(**query) for _ in range(times)))
            await asyncio.sleep(0)
            return [hits(one) for one in found]

        for _ in range(3):
            assert asyncio.run(ask(4)) == [expected] * 4

    def test_close_and_go_on(self, store, query):
        retriever = StudentRetriever(document_store=store)

        async def ask_and_close():
            found = hits(await retriever.run_async(**query))
            await retriever.close_async()
            return found

        expected = hits(retriever.run(**query))
        retriever.close()
        assert hits(retriever.run(**query)) == expected
        assert asyncio.run(ask_and_close()) == expected
        assert hits(retriever.run(**query)) == expected

    def test_copies_of_one_that_has_run(self, collection, store, query):
        retriever = StudentRetriever(document_store=store_at(collection))
        expected = hits(retriever.run(**query))
        assert hits(asyncio.run(retriever.run_async(**query))) == expected
        for each in (copy.deepcopy(retriever), pickle.loads(pickle.dumps(retriever)), retriever):  # noqa: S301
            assert hits(each.run(**query)) == expected
            each.close()

    def test_another_space_is_refused(self, store, other_student, tiny_student):
        wrong = StudentTextEmbedder(model=other_student).run(text="the ship")
        with pytest.raises(SpaceMismatchError) as error:
            StudentRetriever(document_store=store).run(query_embedding=wrong["embedding"], space=wrong["space"])
        address = ServerIndex(store).address
        assert f"The index at {address} was built by {tiny_student}" in str(error.value)
        assert f"retort index STUDENT --documents DIR --store {address}`" in str(error.value)

    def test_an_unstamped_index(self, collection, query):
        store = store_at(collection)
        store.write_documents([Document(content="a", embedding=[0.1] * DIM)])
        with pytest.raises(SpaceMismatchError, match="carry no stamp.*allow_unstamped=True"):
            StudentRetriever(document_store=store).run(**query)
        assert len(StudentRetriever(document_store=store, allow_unstamped=True).run(**query)["documents"]) == 1

    def test_the_dimension_of_the_collection_counts(self, store, query):
        """Not that of the store, whose default nobody changes who only reads."""
        default = store_at(ServerIndex(store).address, embedding_dim=768)
        assert len(StudentRetriever(document_store=default).run(**query)["documents"]) == 3
        with pytest.raises(DocumentStoreError, match=rf"shape \(5,\), but .* holds embeddings of {DIM} dimensions"):
            StudentRetriever(document_store=default).run(query_embedding=[0.1] * 5)
        with pytest.raises(DocumentStoreError, match="NaN"):
            StudentRetriever(document_store=default).run(query_embedding=[float("nan")] * DIM)

    def test_a_query_creates_and_empties_nothing(self, collection, store, query):
        emptying = StudentRetriever(document_store=store_at(collection, recreate_index=True))
        assert len(emptying.run(**query)["documents"]) == 3
        assert len(asyncio.run(emptying.run_async(**query))["documents"]) == 3
        missing = StudentRetriever(document_store=store_at(f"{collection}-missing"))
        for ask in (missing.run, lambda **q: asyncio.run(missing.run_async(**q))):
            with pytest.raises(
                DocumentStoreError, match=f"no collection at {collection}-missing. Build it with `retort"
            ):
                ask(**query)
        client, name = client_of(collection)
        assert not client.collection_exists(f"{name}-missing")

    def test_a_collection_that_goes_away(self, collection, store, query):
        retriever = StudentRetriever(document_store=store)
        retriever.run(**query)
        client, name = client_of(collection)
        client.delete_collection(name)
        with pytest.raises(DocumentStoreError, match=f"no collection at {collection}"):
            retriever.run(**query)

    def test_a_collection_of_somebody_else(self, collection, query):
        client, name = client_of(collection)
        size = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
        client.create_collection(name, vectors_config={"mine": size})
        with pytest.raises(DocumentStoreError, match="has no vectors 'text-dense'"):
            StudentRetriever(document_store=store_at(collection)).run(**query)

    def test_search_parameters_and_quantised_embeddings(self, collection, query):
        """
        The engine quantises what its optimiser has seen, so few documents need a low threshold, and a moment.
        """
        rows = np.random.default_rng(0).normal(size=(500, DIM))
        store = store_at(
            collection,
            quantization_config={"scalar": {"type": "int8", "always_ram": True}},
            optimizers_config={"indexing_threshold": 1},
            write_batch_size=500,
        )
        store.write_documents(
            [Document(id=str(i), content=str(i), embedding=row.tolist()) for i, row in enumerate(rows)]
        )

        def ask(**options):
            retriever = StudentRetriever(document_store=store, allow_unstamped=True, top_k=10, **options)
            return retriever.run(**query)

        exact = hits(ask(exact=True, ignore_quantization=True))
        cosines = rows @ np.array(query["query_embedding"]) / np.linalg.norm(rows, axis=1)
        assert [i for i, _ in exact] == [str(i) for i in np.argsort(-cosines)[:10]]
        assert hits(ask(hnsw_ef=500, rescore=True, oversampling=4.0)) == exact
        for document in ask(hnsw_ef=500, rescore=False)["documents"]:
            assert document.score == pytest.approx(cosines[int(document.id)], abs=0.05)


class TestWire:
    """What only the stand-in can show."""

    def test_search_parameters_are_sent(self, stand_in, embedded, query):
        store = store_at(f"{stand_in.url}/{uuid4().hex}")
        store.write_documents(embedded)

        def sent(**options) -> list[dict]:
            stand_in.seen.clear()
            retriever = StudentRetriever(document_store=store, **options)
            retriever.run(**query)
            asyncio.run(retriever.run_async(**query))
            return [body.get("params", {}) for _, path, body in stand_in.seen if path == "points/query"]

        assert sent() == [{}] * 2
        assert sent(hnsw_ef=64, exact=False) == [{"hnsw_ef": 64, "exact": False}] * 2
        quantization = {"rescore": True, "oversampling": 2.5, "ignore": False}
        assert sent(rescore=True, oversampling=2.5) == [{"quantization": quantization}] * 2
        assert [p["quantization"]["ignore"] for p in sent(ignore_quantization=True)] == [True] * 2

    def test_a_collection_is_created_with_its_quantization(self, stand_in, tiny_student, beir):
        url = f"{stand_in.url}/{uuid4().hex}"
        for _ in range(2):
            index_documents(tiny_student, beir, url, quantization="turbo4")
        created = [body for method, path, body in stand_in.seen if (method, path) == ("PUT", "")]
        assert created[-1]["quantization_config"] == {"turbo": {"bits": "bits4", "always_ram": True}}
        for other in ("turbo2", "int8"):
            with pytest.raises(
                DocumentStoreError, match=r"built with the quantization {'turbo': .*'bits4'.*, not with"
            ):
                index_documents(tiny_student, beir, url, quantization=other)
        index_documents(tiny_student, beir, url)
        plain = f"{stand_in.url}/{uuid4().hex}"
        index_documents(tiny_student, beir, plain)
        with pytest.raises(DocumentStoreError, match="built with the quantization None, not with {'binary'"):
            index_documents(tiny_student, beir, plain, quantization="binary")

    @pytest.mark.parametrize("name", SERVER_QUANTIZATIONS)
    def test_quantizations_are_of_qdrants_api(self, name):
        parsed = models.CreateCollection(quantization_config=SERVER_QUANTIZATIONS[name]).quantization_config
        assert parsed.model_dump(mode="json", exclude_none=True) == SERVER_QUANTIZATIONS[name]

    def test_queries_ask_for_the_collection_once(self, stand_in, embedded, query):
        store = store_at(f"{stand_in.url}/{uuid4().hex}")
        store.write_documents(embedded)
        retriever = StudentRetriever(document_store=store)
        stand_in.seen.clear()
        for _ in range(3):
            retriever.run(**query)
        assert [path for _, path, _ in stand_in.seen] == ["exists", "", *["points/query"] * 3]

    @pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
    def test_the_key_comes_from_the_environment(self, stand_in, monkeypatch):
        stand_in.keys.clear()
        monkeypatch.setenv("QDRANT_API_KEY", "secret")
        url = f"{stand_in.url}/{uuid4().hex}"
        assert ServerIndex(store_at(url)).sample_meta() is None
        assert stand_in.keys == {"secret"}
        assert "secret" not in pipeline_yaml("indexing", index=url)

    def test_no_server(self, query):
        store = store_at("http://127.0.0.1:1/x", client_kwargs={"check_compatibility": False})
        retriever, index = StudentRetriever(document_store=store), ServerIndex(store)
        for call in (
            lambda: retriever.run(**query),
            lambda: asyncio.run(retriever.run_async(**query)),
            index.sample_meta,
        ):
            with pytest.raises(DocumentStoreError, match="The Qdrant server of http://127.0.0.1:1/x failed: .*refused"):
                call()


class TestLocalModes:
    def test_both_ways_find_the_same(self, embedded, query, tmp_path):
        folder = QdrantDocumentStore(path=str(tmp_path / "q"), embedding_dim=DIM, progress_bar=False)
        for store in (in_memory(), folder, in_memory(use_sparse_embeddings=True)):
            store.write_documents(embedded)
            retriever = StudentRetriever(document_store=store)
            expected = hits(retriever.run(**query))
            assert len(expected) == 3
            assert hits(asyncio.run(retriever.run_async(**query))) == expected

    def test_a_folder_is_opened_by_the_query_and_not_emptied(self, embedded, query, tmp_path):
        options = {"path": str(tmp_path / "q"), "embedding_dim": DIM, "progress_bar": False}
        store = QdrantDocumentStore(**options)
        store.write_documents(embedded)
        store.close()
        again = QdrantDocumentStore(**options, recreate_index=True)
        retriever = StudentRetriever(document_store=again)
        assert len(asyncio.run(retriever.run_async(**query))["documents"]) == 3
        again.write_documents(embedded[:1], DuplicatePolicy.OVERWRITE)  # the same client: a folder takes only one
        assert again.count_documents() == 3
        retriever.close()

    def test_nothing_written_yet(self, embedded, query):
        store = in_memory()
        retriever = StudentRetriever(document_store=store)
        with pytest.raises(
            DocumentStoreError, match="no collection at :memory:/Document. Build it by writing documents"
        ):
            retriever.run(**query)
        assert ServerIndex(store).sample_meta() is None
        store.write_documents(embedded)  # the failed query has left nothing behind that stops it
        assert len(retriever.run(**query)["documents"]) == 3

    def test_another_space_is_refused(self, embedded, other_student):
        store = in_memory()
        store.write_documents(embedded)
        wrong = StudentTextEmbedder(model=other_student).run(text="the ship")
        with pytest.raises(SpaceMismatchError, match="Re-index by writing documents that StudentDocumentEmbedder"):
            StudentRetriever(document_store=store).run(query_embedding=wrong["embedding"], space=wrong["space"])


def test_documents_added_updated_and_deleted(any_store, tiny_student, tmp_path):
    """Through `indexing.yml`, with a search after each step."""
    indexing = load_pipeline("indexing", student=tiny_student, index=str(tmp_path / "unused"))
    indexing.get_component("writer").document_store = any_store
    embedder, retriever = StudentTextEmbedder(model=tiny_student), StudentRetriever(document_store=any_store)

    def write(**contents: str) -> None:
        documents = [Document(id=name, content=text) for name, text in contents.items()]
        found = indexing.run({"embedder": {"documents": documents}})
        assert found["writer"]["documents_written"] == len(documents)

    def same(text: str) -> list[str]:
        """Ids of the documents that say exactly this, as the search finds them."""
        found = embedder.run(text=text)
        documents = retriever.run(query_embedding=found["embedding"], space=found["space"])["documents"]
        assert [d.id for d in documents if d.content == text] == [d.id for d in documents if d.score > 1 - 1e-5]
        return [d.id for d in documents if d.content == text]

    write(a="the ship in the harbour", b="bread and butter", c="the rose and the bee")
    write(d="a violin in the choir")
    assert [same(t) for t in ("the ship in the harbour", "bread and butter", "a violin in the choir")] == [
        ["a"],
        ["b"],
        ["d"],
    ]
    write(b="salt and sugar")
    assert same("salt and sugar") == ["b"]
    assert same("bread and butter") == []
    assert any_store.count_documents() == 4
    any_store.delete_documents(["a", "d"])
    assert same("the ship in the harbour") == []
    assert same("the rose and the bee") == ["c"]
    assert any_store.count_documents() == 2


class TestCommandLine:
    def run(self, capsys, *arguments) -> str:
        main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    def fail(self, capsys, *arguments) -> str:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        assert stop.value.code == 2
        return capsys.readouterr().err

    @pytest.fixture
    def texts(self, tmp_path):
        folder = tmp_path / "texts"
        folder.mkdir()
        (folder / "a.txt").write_text("the ship in the harbour. " * 100)
        (folder / "b.txt").write_text("bread and butter.")
        (folder / "c.txt").write_text("the rose and the bee.")
        return folder

    def test_index_and_ask(self, place, texts, tiny_student, other_student, capsys):
        index = ("index", tiny_student, "--documents", texts, "--store", place)
        missing = self.fail(capsys, "ask", "the ship", "--store", place)
        assert f"retort index STUDENT --documents DIR --store {place}" in missing
        count = int(self.run(capsys, *index).split(" documents in ")[0])
        assert self.run(capsys, *index).startswith(f"{count} documents in {place} after")
        found = json.loads(self.run(capsys, "ask", "bread and butter.", "--store", place, "--json"))
        assert found["documents"][0]["title"] == "b.txt"
        assert found["documents"][0]["score"] == pytest.approx(1, abs=1e-3)
        assert found["answers"]
        refused = self.fail(capsys, "index", other_student, "--documents", texts, "--store", place)
        assert f"The index at {place} was built by {tiny_student}" in refused
        wrong = self.fail(capsys, "ask", "bread", "--store", place, "--student", other_student)
        assert f"The index at {place} was built by {tiny_student}" in wrong

    def test_prune(self, place, texts, tiny_student, capsys):
        index = ("index", tiny_student, "--documents", texts, "--store", place)
        before = int(self.run(capsys, *index).split(" documents in ")[0])
        (texts / "b.txt").unlink()
        (texts / "a.txt").write_text("the ship.")  # its first passage keeps its id
        out = self.run(capsys, *index)
        assert out.startswith("3 documents in")  # those of b.txt stay
        assert f"\n{before - 3} deleted that {texts} no longer gives" in out
        out = self.run(capsys, *index, "--prune")
        assert out.startswith("2 documents in")
        assert f"\n1 deleted that {texts} no longer gives" in out
        assert f"\n0 deleted that {texts} no longer gives" in self.run(capsys, *index, "--prune")
        found = json.loads(self.run(capsys, "ask", "bread and butter.", "--store", place, "--json"))
        assert sorted(d["title"] for d in found["documents"]) == ["a.txt", "c.txt"]

    def test_a_file_of_the_same_name_in_another_folder(self, place, texts, tiny_student, tmp_path, capsys):
        self.run(capsys, "index", tiny_student, "--documents", texts, "--store", place)
        other = tmp_path / "other"
        other.mkdir()
        (other / "b.txt").write_text("salt and sugar.")
        command = ("index", tiny_student, "--documents", other, "--store", place)
        assert f"b.txt of {other} is already there from {texts}" in self.fail(capsys, *command)
        assert self.run(capsys, *command, "--prune").startswith("1 documents in")

    def test_a_url_without_a_collection(self, texts, tiny_student, capsys):
        arguments = ("index", tiny_student, "--documents", texts, "--store", "http://127.0.0.1:1")
        assert "names no collection" in self.fail(capsys, *arguments)


ROUND_TRIP = """
import sys
from haystack import Pipeline
text = sys.stdin.read()
pipeline = Pipeline.loads(text)
assert pipeline.dumps() == text
print([type(pipeline.get_component(name).document_store).__name__ for name in ("edge", "server")])
"""


@pytest.mark.integration
def test_yaml_of_both_kinds_in_a_fresh_process(tmp_path):
    pipeline = Pipeline()
    edge = QdrantEdgeDocumentStore(path="some/folder")
    pipeline.add_component(
        "edge", StudentRetriever(document_store=edge, hnsw_ef=32, filter_policy="merge", student="x")
    )
    server = QdrantDocumentStore(
        url="http://qdrant:6333",
        index="x",
        embedding_dim=DIM,
        api_key=Secret.from_env_var("NO_SUCH_KEY", strict=False),
        quantization_config={"scalar": {"type": "int8"}},
    )
    options = {"rescore": True, "oversampling": 2.0, "ignore_quantization": False, "exact": False, "filters": KITCHEN}
    pipeline.add_component("server", StudentRetriever(document_store=server, **options))
    text = pipeline.dumps()
    written = yaml.safe_load(text)["components"]["server"]["init_parameters"]
    assert written.items() >= options.items()
    found = subprocess.run(
        [sys.executable, "-c", ROUND_TRIP], input=text, env={"HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "['QdrantEdgeDocumentStore', 'QdrantDocumentStore']"


class TestServing:
    def test_an_index_on_a_server(self, collection, tiny_student, beir):
        """Nothing is created by looking, and an index of any dimension can be served."""
        from retort.serving.engine import Engine

        engine = Engine(tiny_student, collection)
        with pytest.raises(DocumentStoreError, match="There is no document"):
            engine.check()
        engine.close()
        index_documents(tiny_student, beir, collection)
        engine = Engine(tiny_student, collection)
        assert engine.check()["documents"] == 40
        assert next(engine.answer("the ship sail"))["event"] == "passages"
        engine.close()
