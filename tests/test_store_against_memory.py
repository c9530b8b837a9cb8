# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Random operations on the embedded index and on Haystack's `InMemoryDocumentStore`: both give the same.

But for what the document store's documentation says: `NONE` overwrites, `FAIL` writes nothing, a value that cannot be
compared makes its condition false, updates remove a field by `None`, dates become text, embeddings have length 1, and
floats 15 digits: none here has more.
"""

import copy
import json
import os
import random
import tempfile
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from haystack import Document
from haystack.dataclasses import ByteStream
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError
from haystack.utils.filters import document_matches_filter

from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108
IDS = ["", " ", "a", "A", "\u00e4", "a\u0308", "a.b", '"', "\x00", *(f"d{i}" for i in range(40))]
KEYS = [
    *(
        "a",
        "A",
        "b",
        "",
        " ",
        "x.y",
        "n[0]",
        "n[]",
        "[]",
        'q"q',
        "'",
        "\\",
        "\u00fc",
        "u\u0308",
        "*",
        "null",
        "0",
        "\x00",
    ),
    *("meta", "id", "content", "score", "embedding", "blob", "_retort_space", "_retort_file", "k" * 300),
]
INNER = ["k", "z", "a", "", "x.y"]
TEXTS = [
    *("", "a", "A", "b", "\u00e4", "a\u0308", "1", "1.0", "true", "null", "2024", "May 3, 2021", "noon", "\x00"),
    *("2024-01-01", "2024-01-01T12:00:00", "2024-01-01T12:00:00+02:00", "2024-01-01T10:00:00Z", "20240101"),
    *(
        "2024-01-01 12:00",
        "2024-01-01T24:00",
        "2024-01-02",
        "2023-12-31T23:30:00-01:00",
        "0001-01-01",
        "9999-12-31T23:59:59",
    ),
]
NUMBERS = [
    *(-1, 0, 1, 2, 3, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**53) - 1, -(2**63)),
    *(-1.0, -0.0, 0.0, 0.5, 1.0, 1.5, 0.1, 0.3, 1e-300, 1e300, 2.0**53, 1732843200123456.0, 0.1234567890123456),
    *(0.333333333333333, 6.62607015e-34, -1.1e-9, 1.05457181764616e-34, 6.02214076e23),
]
DATES = [
    *(date(2024, 1, 1), datetime.fromisoformat("2024-01-01"), datetime.fromisoformat("2024-01-01T12:00")),
    datetime(2024, 1, 1, 10, tzinfo=UTC),
    datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=2))),
]
POLICIES = list(DuplicatePolicy)


class Pair:
    """An index and its model, and the dice."""

    def __init__(self, seed: int, folder: str) -> None:
        self.dice = random.Random(seed)
        self.ours = QdrantEdgeDocumentStore(path=os.path.join(folder, "index"))
        self.theirs = InMemoryDocumentStore(embedding_similarity_function="cosine", shared=False)

    # What is written and asked

    def value(self, depth: int = 2):
        kind = self.dice.random()
        if kind < 0.12:
            return self.dice.choice([None, True, False])
        if kind < 0.4:
            return self.dice.choice(NUMBERS)
        if kind < 0.75 or not depth:
            return self.dice.choice(TEXTS)
        if kind < 0.88:
            return [self.value(depth - 1) for _ in range(self.dice.randrange(3))]
        return {self.dice.choice(INNER): self.value(depth - 1) for _ in range(self.dice.randrange(3))}

    def meta(self):
        return {self.dice.choice(KEYS): self.value() for _ in range(self.dice.randrange(6))}

    def document(self):
        blob = ByteStream(b"\x00\xff", meta=self.meta(), mime_type=self.dice.choice([None, "a/b"]))
        return Document(
            id=self.dice.choice(IDS),
            content=self.dice.choice([None, *TEXTS]),
            blob=self.dice.choice([None, None, blob]),
            meta=self.meta(),
            embedding=self.dice.choice([None, *([[self.dice.gauss(0, 1) for _ in range(4)]] * 3)]),
        )

    def field(self):
        key = self.dice.choice(KEYS)
        inner = ".".join([key, *self.dice.choices(INNER, k=self.dice.randrange(1, 3))])
        rare = ["id", "content", "blob", "meta", "blob.mime_type", "blob.meta", "meta.", ".", "", "no.such", "id.x"]
        fields = [f"meta.{key}"] * 6 + [f"meta.{inner}"] * 2 + [key, inner, self.dice.choice(rare)]
        field = self.dice.choice(fields)
        return "meta.a" if field in ("score", "embedding", "sparse_embedding") else field  # ours refuses them

    def filters(self, depth: int = 3):
        if depth and self.dice.random() < 0.35:
            conditions = [self.filters(depth - 1) for _ in range(self.dice.randrange(4))]
            return {"operator": self.dice.choice(["AND", "OR", "NOT"]), "conditions": conditions}
        field, comparison = self.field(), self.dice.choice(["==", "!=", "in", "not in", ">", ">=", "<", "<="])
        if comparison in ("in", "not in"):
            value = [self.asked() for _ in range(self.dice.randrange(4))]
        elif comparison in ("==", "!="):
            value = self.asked()
        else:
            value = self.dice.choice([*NUMBERS, *DATES[1:], "2024-01-01T12:00:00", "2024-01-01", True, None])
        return {"field": field, "operator": comparison, "value": value}

    def asked(self):
        return self.dice.choice([self.value(), self.value(), self.value(), self.dice.choice(IDS + DATES)])

    # What both do

    def matching(self, filters):
        """The model's documents; conditions that Haystack cannot compare are false."""
        return [d for d in self.theirs.storage.values() if matches(filters, d)]

    def write(self):
        docs, policy = [self.document() for _ in range(self.dice.randrange(1, 5))], self.dice.choice(POLICIES)
        taken = [d.id for d in docs if d.id in self.theirs.storage]
        if policy is DuplicatePolicy.FAIL and (taken or len({d.id for d in docs}) < len(docs)):
            with pytest.raises(DuplicateDocumentError):
                self.ours.write_documents(docs, policy=policy)
            return
        copies = copy.deepcopy(docs)
        written = self.ours.write_documents(docs, policy=policy)
        assert docs == copies
        if policy in (DuplicatePolicy.NONE, DuplicatePolicy.OVERWRITE):
            copies = list({d.id: d for d in copies}.values())
            policy = DuplicatePolicy.OVERWRITE
        assert written == self.theirs.write_documents(copies, policy=policy)

    def delete(self):
        ids = self.dice.choices([*IDS, "unknown"], k=self.dice.randrange(4))
        self.ours.delete_documents(ids)
        self.theirs.delete_documents(ids)

    def delete_by_filter(self):
        filters = self.filters()
        expected = [d.id for d in self.matching(filters)]
        if len(expected) > 10:  # else there is never much to find
            filters = {"operator": "AND", "conditions": [filters, {"field": "id", "operator": "in", "value": IDS[:12]}]}
            expected = [d.id for d in self.matching(filters)]
        assert self.ours.delete_by_filter(filters) == len(expected), filters
        self.theirs.delete_documents(expected)

    def update(self):
        filters, meta = self.filters(), self.meta()
        expected = self.matching(filters)
        assert self.ours.update_by_filter(filters, copy.deepcopy(meta)) == len(expected), filters
        for document in expected:
            document.meta.update(copy.deepcopy(meta))
            for name in [name for name in meta if meta[name] is None]:
                del document.meta[name]

    def look(self):
        filters = self.dice.choice([None, {}, *(self.filters() for _ in range(8))])
        expected = self.matching(filters) if filters else list(self.theirs.storage.values())
        try:
            assert self.theirs.filter_documents(filters) == expected
        except (FilterError, TypeError):
            pass  # it refuses to compare, and ours does not
        assert shown(self.ours.filter_documents(filters)) == shown(expected), filters

    def count(self):
        filters = self.filters()
        assert self.ours.count_documents() == self.theirs.count_documents()
        assert self.ours.count_documents_by_filter(filters) == len(self.matching(filters)), filters

    def search(self):
        filters = self.dice.choice([None, self.filters()])
        query, top_k = [self.dice.gauss(0, 1) for _ in range(4)], self.dice.choice([1, 3, 100])
        among = InMemoryDocumentStore(embedding_similarity_function="cosine", shared=False)
        among.write_documents(self.matching(filters) if filters else list(self.theirs.storage.values()))
        expected = among.embedding_retrieval(query, top_k=top_k)
        embedded = any(d.embedding is not None for d in self.theirs.storage.values())
        hits = self.ours.search(query, filters=filters, top_k=top_k) if embedded else []
        assert [hit.id for hit in hits] == [d.id for d in expected], filters
        assert [hit.score for hit in hits] == pytest.approx([d.score for d in expected], abs=1e-5)
        assert shown(hits) == shown(expected)

    def metadata(self):
        fields = [f"meta.{self.dice.choice(KEYS)}" for _ in range(2)]
        filters = self.dice.choice([None, self.filters()])
        metas = [d.meta for d in (self.matching(filters) if filters else self.theirs.storage.values())]
        names = [field.removeprefix("meta.") for field in fields]
        different = {n: {exact(m[n]) for m in metas if m.get(n) is not None} for n in names}
        counts = self.ours.count_unique_metadata_by_filter(filters, fields)
        assert counts == {n: len(different[n]) for n in names}
        values, total = self.ours.get_metadata_field_unique_values(fields[0], size=1000, filters=filters)
        assert {exact(value) for value in values} == different[names[0]]
        assert total == len(values)
        present = {name for d in self.theirs.storage.values() for name in d.meta if d.meta[name] is not None}
        assert set(self.ours.get_metadata_fields_info()) == present

    def reopen(self):
        self.ours.close()

    def clear(self):
        self.ours.delete_all_documents(recreate_index=self.dice.random() < 0.5)
        self.theirs.delete_all_documents()

    def step(self):
        often = [self.write] * 5 + [self.look] * 7 + [self.count] * 3 + [self.search] * 3 + [self.metadata]
        operations = [*often, self.delete, self.delete_by_filter, self.update]
        chance = self.dice.random()
        operation = self.reopen if chance < 0.005 else self.clear if chance < 0.007 else self.dice.choice(operations)
        operation()


def matches(filters, document) -> bool:
    if "conditions" in filters:
        parts = [matches(condition, document) for condition in filters["conditions"]]
        return {"AND": all(parts), "OR": any(parts), "NOT": not all(parts)}[filters["operator"]]
    try:
        return document_matches_filter(filters, document)
    except (FilterError, TypeError):
        return False


def exact(value) -> str:
    """JSON tells 1, 1.0 and True apart."""
    return json.dumps(value, sort_keys=True)


def shown(documents):
    return sorted(
        exact([d.id, d.content, d.meta, d.blob and [list(d.blob.data), d.blob.meta, d.blob.mime_type]])
        for d in documents
    )


def run(seed: int, operations: int) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY, ignore_cleanup_errors=True) as folder:
        pair = Pair(seed, folder)
        for _ in range(operations):
            pair.step()
        pair.ours.close()


def test_operations():
    run(0, 300)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 6))
def test_many_operations(seed):
    run(seed, 4000)
