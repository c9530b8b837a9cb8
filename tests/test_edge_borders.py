# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What the embedded index keeps, and what it refuses before it writes."""

import os
import tempfile
import types
from collections import UserDict, deque
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from haystack import Document
from haystack.dataclasses import ByteStream, SparseEmbedding
from haystack.document_stores.errors import DocumentStoreError
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError

from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108
EVERYTHING = {"field": "id", "operator": "!=", "value": ""}


@pytest.fixture
def store():
    # In memory: a hundred new indexes wait long for a busy disk.
    with tempfile.TemporaryDirectory(dir=MEMORY, ignore_cleanup_errors=True) as folder:
        yield QdrantEdgeDocumentStore(path=os.path.join(folder, "index"), return_embedding=True)


def nest(levels, kinds):
    """A value of so many levels, the kinds of which alternate."""
    value = 1
    for level in range(levels):
        value = [value] if kinds[level % len(kinds)] == "list" else {"key": value}
    return value


def refused(store, document, match):
    """A bad document among good ones is refused by name, nothing is written, and the index still opens."""
    store.write_documents([Document(id="before")])
    with pytest.raises(DocumentStoreError, match=match):
        store.write_documents([Document(id="first"), document, Document(id="last")])
    store.close()
    assert [d.id for d in store.filter_documents()] == ["before"]


KINDS = pytest.mark.parametrize("kinds", [["list"], ["dict"], ["list", "dict"]], ids="-".join)


class TestDepth:
    @KINDS
    def test_deepest(self, store, kinds):
        meta = {"tree": nest(63, kinds)}
        store.write_documents([Document(id="a", meta=meta, blob=ByteStream(b"x", meta={"tree": nest(62, kinds)}))])
        store.update_by_filter(EVERYTHING, {"other": meta["tree"]})
        store.close()
        [document] = store.filter_documents()
        assert document.meta == {**meta, "other": meta["tree"]}

    @KINDS
    @pytest.mark.parametrize("levels", [64, 125])
    def test_too_deep(self, store, kinds, levels):
        """The engine writes 125 levels, and never opens the index again."""
        refused(store, Document(id="a", meta={"tree": nest(levels, kinds)}), r"Document 'a' .*'meta\.tree.*json\.dumps")

    def test_too_deep_beside_what_is_rewritten(self, store):
        refused(
            store, Document(id="a", meta={"list": (1, 2), "tree": nest(125, ["list"])}), r"Document 'a' .*meta\.tree"
        )

    def test_too_deep_in_a_blob(self, store):
        blob = ByteStream(b"x", meta={"tree": nest(125, ["dict"])})
        refused(store, Document(id="a", blob=blob), r"Document 'a' .*blob\.meta\.tree")

    def test_too_deep_in_an_update(self, store):
        store.write_documents([Document(id="a", meta={"n": 1})])
        with pytest.raises(DocumentStoreError, match=r"The update cannot be stored: 'meta\.tree"):
            store.update_by_filter(EVERYTHING, {"n": 2, "tree": nest(125, ["list"])})
        store.close()
        assert store.sample_meta() == {"n": 1}

    def test_circle(self, store):
        circle = []
        circle += [circle, circle]
        refused(store, Document.from_dict({"id": "a", "meta": {"circle": circle}}), "nested more than 64 levels")


class TestKept:
    def test_odd_documents(self, store):
        keys = [
            "",
            " ",
            "a.b",
            "a[0]",
            "a[]",
            '"q"',
            "\\",
            "\\u0041",
            "_retort_space",
            "\x00",
            "\ufeff",
            "meta",
            "id",
            "\U0001f600",
        ]
        docs = [
            Document(id="", content="", meta={key: {key: [key]} for key in keys}),
            Document(id="\x00", content="\x00", meta={"k": [2**64 - 1, -(2**63), 2**53 + 1, 1e308, 5e-324, -0.0]}),
            Document(id="a" * 10_000, content="\U0010ffff" * 10_000, meta={"k" * 10_000: [None, {}, [], [[]], ""]}),
            Document(id="blob", blob=ByteStream(b"", meta={"k": [2**64 - 1, {"": None}]}, mime_type="")),
            Document(id="sparse", sparse_embedding=SparseEmbedding([0, 2**32 - 1], [1.0, -2.0])),
            Document(id="empty", sparse_embedding=SparseEmbedding([], []), embedding=[0.0, 0.0]),
        ]
        store.write_documents(docs)
        store.close()
        stored = {document.id: document for document in store.filter_documents()}
        assert [repr(stored[document.id]) for document in docs] == [repr(document) for document in docs]
        assert [stored[document.id] for document in docs] == docs

    @pytest.mark.parametrize(
        ("value", "kept"),
        [
            (UserDict(a=1), {"a": 1}),
            (types.MappingProxyType({"a": 1}), {"a": 1}),
            (deque([1]), [1]),
            (range(2), [0, 1]),
            (np.uint64(2**64 - 1), 2**64 - 1),
            (np.float16(0.5), 0.5),
            (np.longdouble(0.5), 0.5),
            (np.str_("a"), "a"),
            (np.bool_(True), True),
            (np.zeros((2, 0)), [[], []]),
            (np.datetime64("2024-02-29"), "2024-02-29"),
            (np.array(["2024-02-29T12:00:00.5"], "datetime64[ns]"), ["2024-02-29T12:00:00.500000"]),
            (np.datetime64("1970-01-01T12:00:00.5", "ps"), "1970-01-01T12:00:00.500000"),
            ({1: "a", 1.5: "b", "t": "c", None: "d"}, {"1": "a", "1.5": "b", "t": "c", "null": "d"}),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_rewritten(self, store, value, kept):
        store.write_documents([Document(id="a", meta={"key": value, "list": [value]})])
        assert store.sample_meta() == {"key": kept, "list": [kept]}
        store.update_by_filter(EVERYTHING, {"other": value})
        assert store.sample_meta() == {"key": kept, "list": [kept], "other": kept}


class TestFloats:
    """The engine reads numbers of 17 digits as others, a few units in the last place away, and finds them no more."""

    @pytest.mark.parametrize(
        ("value", "kept"),
        [
            (0.5, 0.5),
            (1732843200123456.0, 1732843200123456.0),
            (0.1234567890123456, 0.1234567890123456),
            (2.0**60, 2.0**60),
            (6.62607015e-34, 6.62607015e-34),
            (0.10793126209409987, 0.1079312620941),
            (-382.94114614453804, -382.941146144538),
            (1 / 3, 0.3333333333333333),
            (0.30000000000000004, 0.30000000000000004),
            (1.05457181764615678e-34, 1.05457181764616e-34),
        ],
    )
    def test_written_read_and_found(self, store, value, kept):
        store.write_documents([Document(id="a", meta={"x": value, "in": [value]}), Document(id="b", meta={"x": 9e22})])
        store.update_by_filter(EVERYTHING, {"y": np.float64(value)})
        store.close()
        assert next(d.meta for d in store.filter_documents() if d.id == "a") == {"x": kept, "in": [kept], "y": kept}
        for name in ("x", "y"):
            for filters in (
                {"field": f"meta.{name}", "operator": "==", "value": value},
                {"field": f"meta.{name}", "operator": "in", "value": [value]},
                {"field": f"meta.{name}", "operator": ">=", "value": value},
                {"field": f"meta.{name}", "operator": "<=", "value": kept},
            ):
                assert "a" in [d.id for d in store.filter_documents(filters)], filters
            assert store.count_documents_by_filter({"field": f"meta.{name}", "operator": "<", "value": value}) == 0


class TestShortEmbeddings:
    @pytest.mark.parametrize("length", [1e-2, 3e-4, 1e-10, 1e-24, 1e-46, 1e-300, 5e-324])
    def test_cosine(self, store, length):
        """The engine takes what is shorter than 3.5e-4 for zero, and its cosine with everything was about 0."""
        store.write_documents([Document(id="a", embedding=[length, 0.0]), Document(id="b", embedding=[1.0, 1.0])])
        for query in ([1.0, 0.0], [length, 0.0], np.array([length, 0.0])):
            hits = store.search(query)
            assert [(d.id, pytest.approx(d.score, abs=1e-6)) for d in hits] == [("a", 1.0), ("b", 0.5**0.5)]
        assert hits[0].embedding == [1.0, 0.0]

    def test_others_keep_their_lengths(self, store):
        store.similarity = "dot_product"
        store.write_documents([Document(id="a", embedding=[2.0**-60, 0.0])])
        assert store.search([2.0**-10, 0.0])[0].score == 2.0**-70
        assert store.search([2.0**-10, 0.0])[0].embedding == [2.0**-60, 0.0]


class TestRefused:
    @pytest.mark.parametrize("beside", [{}, {"tuple": ()}], ids=["plain", "rewritten"])
    @pytest.mark.parametrize(
        ("value", "match"),
        [
            (2**64, "integer"),
            (-(2**63) - 1, "integer"),
            (10**400, "integer"),
            (float("nan"), "is nan"),
            (float("-inf"), "is -inf"),
            (np.float32("nan"), "is nan"),
            ("\ud800", "surrogate"),
            ({"\udfff": 1}, "surrogate"),
            ({(1, 2): 3}, "key of type tuple"),
            ({1: "a", "1": "b"}, "two keys"),
            (b"a", "type bytes"),
            (Decimal(1), "type Decimal"),
            ({1}, "type set"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_meta(self, store, value, match, beside):
        store.write_documents([Document(id="before")])
        for name, fields in {
            r"meta\.key": {"meta": {**beside, "key": value}},
            r"meta\.key\[0\]": {"meta": {**beside, "key": [value]}},
            r"blob\.meta\.key": {"blob": ByteStream(b"", meta={"key": value})},
        }.items():
            with pytest.raises(DocumentStoreError, match=rf"Document 'a' .*'{name}' .*{match}"):
                store.write_documents([Document(id="first"), Document(id="a", **fields)])
        assert store.count_documents() == 1
        with pytest.raises(DocumentStoreError, match=rf"The update .*'meta\.key' .*{match}"):
            store.update_by_filter(EVERYTHING, {**beside, "key": value})
        assert store.sample_meta() == {}

    @pytest.mark.parametrize(
        ("fields", "match"),
        [
            ({"id": "\ud800"}, r"id '\\ud800' is not Unicode text"),
            ({"id": 1}, "id 1 is not Unicode text"),
            ({"content": "\ud800"}, "'content' holds a surrogate"),
            ({"meta": [1]}, "meta of document 'a' is of type list"),
            ({"blob": {"data": b""}}, "blob of document 'a' is of type dict, not a ByteStream"),
            ({"embedding": (number for number in [1.0])}, "embedding of document 'a'"),
            ({"embedding": np.array(1.0)}, "embedding of document 'a'"),
            ({"blob": ByteStream("text")}, "blob of document 'a' holds str, not bytes"),
            ({"blob": ByteStream(b"", mime_type="\ud800")}, "'blob.mime_type' holds a surrogate"),
            ({"embedding": 1.0}, "embedding of document 'a'"),
            ({"embedding": [[1.0]]}, "embedding of document 'a'"),
            ({"embedding": [2e19]}, "embedding of document 'a'"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    @pytest.mark.parametrize("policy", list(DuplicatePolicy), ids=lambda policy: policy.name)
    def test_field(self, store, fields, match, policy):
        with pytest.raises(DocumentStoreError, match=match):
            store.write_documents([Document(id="first"), Document(**{"id": "a", **fields})], policy=policy)
        assert store.count_documents() == 0

    @pytest.mark.parametrize(
        ("indices", "values"),
        [
            ([1, 2], [1.0]),
            ([1], [1.0, 2.0]),
            ([1, 1], [1.0, 2.0]),
            ([-1], [1.0]),
            ([2**32], [1.0]),
            ([1.0], [1.0]),
            (["a"], [1.0]),
            ([1], [2e19]),
        ],
    )
    @pytest.mark.filterwarnings("ignore:Mutating attribute")
    def test_sparse(self, store, indices, values):
        """The engine wrote an index that has no value, and never opened the index again."""
        embedding = SparseEmbedding([1], [1.0])
        embedding.indices, embedding.values = indices, values
        refused(store, Document(id="a", sparse_embedding=embedding), "sparse embedding of document 'a'")

    def test_overwriting_keeps_the_old_one(self, store):
        document = Document(id="a", content="old")
        store.write_documents([document])
        with pytest.raises(DocumentStoreError):
            store.write_documents([replace(document, content="new"), Document(id="b", meta={"key": 2**64})])
        assert store.filter_documents() == [document]

    @pytest.mark.parametrize("embedding", [{1.0: 2.0}, {1.0, 2.0}, b"ab", bytearray(b"ab")])
    def test_embeddings_of_other_kinds(self, store, embedding):
        refused(store, Document(id="a", embedding=embedding), "embedding of document 'a' holds something else")

    @pytest.mark.parametrize(
        ("value", "match"),
        [
            (np.datetime64("10000-01-01"), "years 1 to 9999"),
            (np.array(["2024-01-01", "0000-12-31"], "datetime64[s]"), "years 1 to 9999"),
            (np.timedelta64(1, "s"), "type timedelta"),
            (np.timedelta64(1, "ns"), "type timedelta64"),
        ],
        ids=str,
    )
    def test_times_that_numpy_makes_integers_of(self, store, value, match):
        refused(store, Document(id="a", meta={"key": value}), rf"Document 'a' .*'meta\.key' .*{match}")

    @pytest.mark.parametrize("meta", [None, [1], "a"])
    def test_an_update_that_is_no_dictionary(self, store, meta):
        store.write_documents([Document(id="a")])
        with pytest.raises(DocumentStoreError, match=f"The update is of type {type(meta).__name__}, not a dictionary"):
            store.update_by_filter(EVERYTHING, meta)


class TestQueries:
    @pytest.mark.parametrize(
        ("indices", "values"),
        [([1, 1], [1.0, 1.0]), ([1], [1.0, 2.0]), ([1, 2], [1.0]), ([-1], [1.0]), ([1.5], [1.0]), ([1], [np.nan])],
    )
    @pytest.mark.filterwarnings("ignore:Mutating attribute")
    def test_sparse(self, store, indices, values):
        """As documents have them: the engine passed over what had no index, or no value."""
        store.write_documents([Document(id="a", sparse_embedding=SparseEmbedding([1], [1.0]))])
        query = SparseEmbedding([1], [1.0])
        query.indices, query.values = indices, values
        with pytest.raises(DocumentStoreError, match="The sparse embedding of the query"):
            store.search(query)

    @pytest.mark.parametrize("key", ["\\", "a\\b", '"', "\x00", "[]", "a[0]", " ", ""])
    def test_odd_keys(self, store, key):
        """The engine's paths have no way to write some of them."""
        store.write_documents([Document(id="a", meta={key: 1}), Document(id="b", meta={"other": {key: "x"}})])
        for filters, expected in [
            ({"field": f"meta.{key}", "operator": "==", "value": 1}, ["a"]),
            ({"field": f"meta.{key}", "operator": "<", "value": 2}, ["a"]),
            ({"field": f"meta.{key}", "operator": "!=", "value": 1}, ["b"]),
            ({"field": f"meta.other.{key}", "operator": "in", "value": ["x"]}, ["b"]),
        ]:
            assert [d.id for d in store.filter_documents(filters)] == expected, filters

    @pytest.mark.parametrize("kind", ["AND", "OR", "NOT"])
    def test_deep_filters(self, store, kind):
        store.write_documents([Document(id="a")])
        filters = EVERYTHING
        for _ in range(62):
            filters = {"operator": kind, "conditions": [filters]}
        assert [d.id for d in store.filter_documents(filters)] == ["a"]
        for _ in range(1000):
            filters = {"operator": kind, "conditions": [filters]}
        for look in (store.filter_documents, store.delete_by_filter, store.count_documents_by_filter):
            with pytest.raises(FilterError, match="nested more than 64 levels deep"):
                look(filters)
