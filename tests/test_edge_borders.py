# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What the embedded index keeps, and what it refuses before it writes."""

import pytest
from haystack import Document
from haystack.dataclasses import ByteStream
from haystack.document_stores.errors import DocumentStoreError

from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore

EVERYTHING = {"field": "id", "operator": "!=", "value": ""}


@pytest.fixture
def store(tmp_path):
    store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"), return_embedding=True)
    yield store
    store.close()


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
