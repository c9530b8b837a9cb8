# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What Haystack users expect of a retriever, from both kinds of stores."""

import asyncio
import math
import os
import tempfile
from dataclasses import replace

import pytest
from haystack import Document, Pipeline, component
from haystack.core.errors import PipelineConnectError
from haystack.dataclasses import SparseEmbedding

from haystack_integrations.components.retrievers.retort import SpaceMismatchError, StudentRetriever
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.students import SPACE_STAMP, SPARSE_SPACE_STAMP
from retort.students.fusing import score_points

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108
# Cosines with (1, 0), best first: .99, .95, .9, .8, .6, .3
COSINES = {"a": 0.99, "b": 0.95, "c": 0.9, "d": 0.8, "e": 0.6, "f": 0.3}
FILES = {"a": "x", "b": "x", "c": "x", "d": "y", "e": ["y", "z"], "f": None}
QUERY = [1.0, 0.0]


def documents():
    return [
        Document(
            id=name,
            content=name,
            meta={} if FILES[name] is None else {"file": FILES[name], "deep": {"file": FILES[name]}},
            embedding=[cosine, math.sqrt(1 - cosine**2)],
            sparse_embedding=SparseEmbedding([1], [5.0]) if name == "e" else None,
        )
        for name, cosine in COSINES.items()
    ]


@pytest.fixture(params=["edge", "server"])
def store(request):
    if request.param == "server":
        yield QdrantDocumentStore(":memory:", embedding_dim=2, use_sparse_embeddings=True, progress_bar=False)
        return
    with tempfile.TemporaryDirectory(dir=MEMORY, ignore_cleanup_errors=True) as folder:
        yield QdrantEdgeDocumentStore(os.path.join(folder, "index"))


@pytest.fixture
def retriever(store):
    store.write_documents(documents())
    return StudentRetriever(document_store=store, top_k=3)


def ids(found):
    return [document.id for document in found["documents"]]


class TestScaleScore:
    def test_cosine(self, retriever):
        """As Haystack: (s + 1) / 2. A threshold is compared with s."""
        found = retriever.run(query_embedding=QUERY, scale_score=True, score_threshold=0.93)["documents"]
        assert [(d.id, pytest.approx(d.score, abs=1e-5)) for d in found] == [("a", 0.995), ("b", 0.975)]
        assert retriever.run(query_embedding=QUERY)["documents"][0].score == pytest.approx(0.99, abs=1e-5)

    def test_sparse(self, retriever):
        query = SparseEmbedding([1], [20.0])
        [hit] = retriever.run(query_sparse_embedding=query, scale_score=True)["documents"]
        assert (hit.id, hit.score) == ("e", pytest.approx(1 / (1 + math.exp(-1))))

    def test_other_similarities(self, tmp_path):
        store = QdrantEdgeDocumentStore(tmp_path / "index", similarity="dot_product")
        store.write_documents([Document(id="a", embedding=[50.0]), Document(id="b", embedding=[-1e6])])
        retriever = StudentRetriever(document_store=store, scale_score=True)
        assert [d.score for d in retriever.run(query_embedding=[2.0])["documents"]] == [
            pytest.approx(1 / (1 + math.exp(-1))),
            pytest.approx(0.0),
        ]
        assert retriever.run(query_embedding=[2.0], scale_score=False)["documents"][0].score == 100.0
        store.close()

    def test_fused_scores_are_not_scaled(self, retriever):
        both = {"query_embedding": QUERY, "query_sparse_embedding": SparseEmbedding([1], [1.0])}
        with pytest.raises(ValueError, match="scales the scores of one embedding"):
            retriever.run(**both, scale_score=True)


class TestGroups:
    def test_a_value_that_a_document_has_twice(self, tmp_path):
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "twice"))
        tagged = [Document(id=i, embedding=QUERY, meta={"tags": ["a", "a"]}) for i in "xyz"]
        store.write_documents(tagged)
        retriever = StudentRetriever(document_store=store, group_by="tags", group_size=None)
        assert ids(retriever.run(query_embedding=QUERY)) == ["x", "y", "z"]

    @pytest.mark.parametrize("field", ["file", "meta.file", "meta.deep.file"])
    def test_best_of_each_value(self, retriever, field):
        """c is the third of x, e is of y and of z, f of none. Group after group, as from a server."""
        found = retriever.run(query_embedding=QUERY, group_by=field, group_size=2)
        assert ids(found) == ["a", "b", "d", "e", "e"]
        assert ids(retriever.run(query_embedding=QUERY, group_by=field, group_size=1)) == ["a", "d", "e"]
        assert ids(retriever.run(query_embedding=QUERY, group_by=field, group_size=1, top_k=2)) == ["a", "d"]
        assert asyncio.run(retriever.run_async(query_embedding=QUERY, group_by=field, group_size=2)) == found

    def test_set_once(self, store):
        store.write_documents(documents())
        retriever = StudentRetriever(document_store=store, top_k=2, group_by="file", group_size=1)
        assert ids(retriever.run(query_embedding=QUERY)) == ["a", "d"]
        assert ids(retriever.run(query_embedding=QUERY, score_threshold=0.85)) == ["a"]
        assert ids(retriever.run(query_embedding=QUERY, group_by="")) == ["a", "b"]  # for once not

    def test_searches_on(self, store):
        """A file of many passages leaves room for others."""
        many = [Document(id=f"m{i:03}", meta={"file": "many"}, embedding=[1.0, i / 1000]) for i in range(60)]
        store.write_documents([*many, *documents()])
        retriever = StudentRetriever(document_store=store, top_k=3, group_by="file", group_size=2)
        assert ids(retriever.run(query_embedding=QUERY)) == ["m000", "m001", "a", "b", "d", "e"]

    def test_searches_on_for_the_rest_of_a_group(self, retriever):
        """The first four are three of x and one of y."""
        found = retriever.run(query_embedding=QUERY, group_by="file", group_size=2, top_k=2)
        assert ids(found) == ["a", "b", "d", "e"]

    def test_a_number_and_its_text_are_two_values(self, store):
        store.write_documents([Document(id=i, embedding=QUERY, meta={"n": n}) for i, n in (("x", 1), ("y", "1"))])
        retriever = StudentRetriever(document_store=store, group_by="n", group_size=1)
        assert sorted(ids(retriever.run(query_embedding=QUERY))) == ["x", "y"]

    @pytest.mark.parametrize("size", [0, -1])
    def test_size(self, retriever, size):
        with pytest.raises(ValueError, match="group_size must be"):
            retriever.run(query_embedding=QUERY, group_by="file", group_size=size)
        with pytest.raises(ValueError, match="group_size must be"):
            StudentRetriever(document_store=retriever.document_store, group_size=size)


class TestFusionOfScores:
    def test_points(self):
        """The least that there can be is worth nothing, the best 1: also where it is the only one."""
        assert score_points([]) == []
        assert score_points([9.0]) == score_points([9.0], 0.0) == [1.0]
        assert score_points([2.0, 2.0]) == [1.0, 1.0]
        assert score_points([0.0, 0.0]) == [0.0, 0.0]
        assert score_points([-0.2]) == [1.0]
        assert score_points([5.0, 2.0, 1.0]) == [1.0, 0.25, 0.0]
        assert score_points([8.0, 4.0, 2.0], 0.0) == [1.0, 0.5, 0.25]
        assert score_points([3.0, -1.0], 0.0) == [1.0, 0.0]

    def test_the_only_one_with_a_word_counts(self, retriever):
        """It was worth nothing, as if it had not been found. e: 3/7 (its cosine between .3 and .99: .435) + 1."""
        retriever.fusion = "scores"
        both = {"query_embedding": QUERY, "query_sparse_embedding": SparseEmbedding([1], [1.0])}
        found = retriever.run(**both)["documents"]
        expected = [("e", 1 + 0.3 / 0.69), ("a", 1.0), ("b", 0.65 / 0.69)]
        assert [(d.id, pytest.approx(d.score, abs=1e-5)) for d in found] == expected

    def test_more_documents_than_are_fused(self, retriever):
        """As many of each ranking as are asked for, at least."""
        retriever.fusion_depth = 1
        both = {"query_embedding": QUERY, "query_sparse_embedding": SparseEmbedding([1], [1.0])}
        assert sorted(ids(retriever.run(**both))) == ["a", "b", "e"]

    @pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [math.nan, 1.0], [1.0, math.inf]])
    def test_weights(self, store, weights):
        with pytest.raises(ValueError, match="fusion_weights must be two numbers"):
            StudentRetriever(document_store=store, fusion_weights=weights)

    @pytest.mark.parametrize("fusion", ["ranks", "scores"])
    def test_a_query_without_any_known_term(self, retriever, fusion):
        """Documents that something else embedded carry no stamp: that nothing is found tells nothing about them."""
        retriever.fusion, retriever.allow_unstamped = fusion, True
        found = retriever.run(query_embedding=QUERY, query_sparse_embedding=SparseEmbedding([99], [1.0]))
        assert ids(found) == ["a", "b", "c"]
        retriever.allow_unstamped = False
        with pytest.raises(SpaceMismatchError, match="no sparse embeddings.*or set allow_unstamped=True"):
            retriever.run(query_embedding=QUERY, query_sparse_embedding=SparseEmbedding([99], [1.0]))

    def test_a_query_without_any_known_term_of_another_sparse_model(self, store):
        """That it finds nothing is no answer: the index tells by a sample that another model filled it."""
        stamps = {SPACE_STAMP: "own", SPARSE_SPACE_STAMP: "others"}
        store.write_documents([replace(d, meta={**d.meta, **stamps}) for d in documents()])
        retriever = StudentRetriever(document_store=store)
        both = {"query_embedding": QUERY, "space": "own", "query_sparse_embedding": SparseEmbedding([99], [1.0])}
        assert len(retriever.run(**both, sparse_space="others")["documents"]) == 6
        with pytest.raises(SpaceMismatchError, match="was built by"):
            retriever.run(**both, sparse_space="own")
        with pytest.raises(SpaceMismatchError, match="was built by"):
            asyncio.run(retriever.run_async(**both, sparse_space="own"))

    def test_a_list_that_was_cut_off(self, store):
        """Its least is worth nothing: others may have nearly as much. One that holds all it could is not cut off."""
        docs = [
            Document(id=str(i), sparse_embedding=SparseEmbedding([1], [4.0 - i]), embedding=QUERY) for i in range(4)
        ]
        store.write_documents(docs)
        both = {"query_embedding": QUERY, "query_sparse_embedding": SparseEmbedding([1], [1.0])}
        for depth, expected in ((3, [1.0, 0.5, 0.0]), (5, [1.0, 0.75, 0.5])):
            retriever = StudentRetriever(
                document_store=store, top_k=3, fusion="scores", fusion_depth=depth, fusion_weights=[0.0, 1.0]
            )
            assert [d.score for d in retriever.run(**both)["documents"]] == pytest.approx(expected)


@component
class Embedder:
    @component.output_types(embedding=list[float], space=str)
    def run(self, text: str):
        return {"embedding": QUERY, "space": "s"}


@component
class SparseEmbedder:
    @component.output_types(sparse_embedding=SparseEmbedding, space=str)
    def run(self, text: str):
        return {"sparse_embedding": SparseEmbedding([1], [1.0]), "space": "s"}


@component
class OthersEmbedder:
    @component.output_types(embedding=list[float], meta=dict)
    def run(self, text: str):
        return {"embedding": QUERY, "meta": {}}


class TestConnecting:
    @pytest.fixture
    def pipeline(self, retriever):
        retriever.allow_unstamped = True
        pipeline = Pipeline()
        for name, part in {
            "embedder": Embedder(),
            "sparse": SparseEmbedder(),
            "other": OthersEmbedder(),
            "retriever": retriever,
        }.items():
            pipeline.add_component(name, part)
        return pipeline

    def run(self, pipeline):
        for name in set(pipeline.graph.nodes) - {n for edge in pipeline.graph.edges for n in edge[:2]}:
            pipeline.remove_component(name)
        texts = {name: {"text": "a"} for name in pipeline.graph.nodes if name != "retriever"}
        return ids(pipeline.run(texts)["retriever"])

    @pytest.mark.parametrize(
        ("sender", "names"),
        [
            ("embedder", r"embedder\.embedding', 'retriever\.query_embedding"),
            ("sparse", r"sparse\.sparse_embedding', 'retriever\.query_sparse_embedding"),
        ],
    )
    def test_two_names_alone_are_refused(self, pipeline, sender, names):
        """`space` alone was connected, the sparse one's to the dense."""
        with pytest.raises(PipelineConnectError, match=names):
            pipeline.connect(sender, "retriever")

    def test_an_embedder_without_a_space(self, pipeline):
        """There is but one way to connect it."""
        pipeline.connect("other", "retriever")
        assert self.run(pipeline) == ["a", "b", "c"]

    def test_both_embeddings(self, pipeline):
        pipeline.connect("embedder.embedding", "retriever.query_embedding")
        pipeline.connect("embedder.space", "retriever.space")
        pipeline.connect("sparse.sparse_embedding", "retriever.sparse_embedding")
        pipeline.connect("sparse.space", "retriever.sparse_space")
        assert self.run(pipeline)[0] == "e"

    @pytest.mark.parametrize(
        ("sender", "space", "names"),
        [
            ("embedder", "space", r"embedder\.embedding', 'RETRIEVER\.query_embedding"),
            ("sparse", "sparse_space", r"sparse\.sparse_embedding', 'RETRIEVER\.query_sparse_embedding"),
        ],
    )
    def test_a_space_without_its_embedding(self, pipeline, sender, space, names, monkeypatch):
        """Before anything runs."""
        for kind in (Embedder, SparseEmbedder):
            monkeypatch.setattr(kind, "run", lambda *_, **__: pytest.fail("it ran"))
        pipeline.connect(f"{sender}.space", f"retriever.{space}")
        with pytest.raises(ValueError, match=names):
            self.run(pipeline)

    def test_one_embedding_under_two_names(self, retriever):
        with pytest.raises(ValueError, match="got query_embedding and embedding, which are the same"):
            retriever.run(query_embedding=QUERY, embedding=QUERY)
        assert ids(retriever.run(embedding=QUERY)) == ["a", "b", "c"]
