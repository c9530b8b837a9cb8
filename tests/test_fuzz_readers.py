# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Damaged files of eleven kinds: each is read, or refused by name; nothing else comes of it."""

import gzip
import io
import json
import random
import zipfile
import zlib
from pathlib import Path

import pandas as pd
import pytest
from test_bad_files import pdf, word

from retort.trainers.data.beir import read_beir
from retort.trainers.data.documents import read_source
from retort.trainers.data.read import read_data
from retort.trainers.runtime.errors import DataError

SENTENCES = ("The ship is in the harbour.", "Größe und Straße.", "上海港是中国最大的港口。", "It costs 3.75 euros 🙂.")
EXAMPLES = [{"query": f"q {i}", "pos": [SENTENCES[i % 4]], "neg": [f"n {i}"]} for i in range(9)]
PAIRS = pd.DataFrame({"anchor": [f"q {i}" for i in range(9)], "positive": [f"p {i}" for i in range(9)]})


def lines(*records: dict) -> bytes:
    return "\n".join(json.dumps(record, ensure_ascii=False) for record in records).encode()


def parquet() -> bytes:
    file = io.BytesIO()
    PAIRS.to_parquet(file)
    return file.getvalue()


CORPUS = lines(*({"_id": f"d{i}", "title": "", "text": f"{SENTENCES[i % 4]} {i}"} for i in range(9)))
QUERIES = lines(*({"_id": f"q{i}", "text": f"q {i}"} for i in range(9)))
QRELS = b"query-id\tcorpus-id\tscore\n" + b"".join(b"q%d\td%d\t1\n" % (i, i) for i in range(9))
DOCUMENTS = {
    "x.txt": "\n\n".join(SENTENCES).encode(),
    "x.md": ("# A heading\n\n" + "\n\n".join(SENTENCES)).encode(),
    "x.html": f"<html><head><title>T</title></head><body><h1>H</h1><p>{' '.join(SENTENCES)}</p></body></html>".encode(),
    "x.pdf": pdf("A heading", "The ship is in the harbour and waits.", "It is late."),
    "x.docx": word(*SENTENCES, heading="A heading"),
}
BEIR = {"corpus.jsonl": CORPUS, "corpus.jsonl.gz": gzip.compress(CORPUS, mtime=0), "qrels/train.tsv": QRELS}
TRAINING = {
    "train.jsonl": lines(*EXAMPLES),
    "train.csv": PAIRS.to_csv(index=False).encode(),
    "train.parquet": parquet(),
}
KINDS = {**DOCUMENTS, **BEIR, **TRAINING}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One to three accidents."""
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice([1, 4, 64, 1024]))
        other = rng.choice([*KINDS.values()])
        cut = rng.randrange(len(other))
        data = rng.choice(
            [
                data[:start],
                data[:start] + data[end:],
                data[:start] + rng.randbytes(end - start) + data[end:],
                data[:start] + bytes(end - start) + data[end:],
                data[:end] + data[start:],
                data[:start] + other[cut : cut + 64] + data[start:],
                data[:start]
                + rng.choice([b"\xed\xa0\x80", b"\xff\xfe", b'"', b"\r", b"\0", b"\\ud800"])
                + data[start:],
            ]
        )
    return data


def damaged_within(data: bytes, rng: random.Random) -> bytes:
    """What is packed damaged before it is packed: the checksum would tell else."""
    if data.startswith(b"\x1f\x8b"):
        return gzip.compress(damaged(gzip.decompress(data), rng), mtime=0)
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as parts, zipfile.ZipFile(file, "w") as packed:
        for part in parts.infolist():
            text = parts.read(part)
            packed.writestr(part.filename, damaged(text, rng) if part.filename == "word/document.xml" else text)
    return file.getvalue()


def check(kind: str, data: bytes, folder: Path) -> bool:
    """Whether the file is read; it fails if what reads it raises anything but an error that names the file."""
    path = folder / kind
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if kind in DOCUMENTS:
        (folder / "good.txt").write_text("The good ship.")
        found = read_source(folder)
        names = {d.meta["file_path"] for d in found.documents} | {*found.blank, *found.unread}
        assert names == {"good.txt", kind}
        assert "The good ship." in [d.content for d in found.documents]
        for document in found.documents:
            assert document.content.encode().strip()
            json.dumps(document.meta)
        return kind not in {*found.blank, *found.unread}
    for name, whole in {"corpus.jsonl": CORPUS, "queries.jsonl": QUERIES, "qrels/train.tsv": QRELS}.items():
        if kind in BEIR and not kind.startswith(name):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(whole)
    try:
        data = read_beir(folder) if kind in BEIR else read_data(path)
    except DataError as error:
        # A changed id is noticed where the judgements name it.
        assert str(path) in str(error) or (kind.startswith("corpus") and "train.tsv" in str(error))
        return False
    assert all(text.encode() for text in data.corpus.texts)
    return True


def fuzz(kind: str, count: int, tmp_path: Path) -> None:
    rng = random.Random(zlib.crc32(kind.encode()))
    ways = [damaged, damaged_within] if kind.endswith((".docx", ".gz")) else [damaged]
    read = [check(kind, rng.choice(ways)(KINDS[kind], rng), tmp_path / str(number)) for number in range(count)]
    assert check(kind, KINDS[kind], tmp_path / "whole")
    if count > 100:
        assert 0 < sum(read) < count


@pytest.mark.parametrize("kind", KINDS)
def test_a_few(kind, tmp_path):
    fuzz(kind, 3, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_two_hundred(kind, tmp_path):
    fuzz(kind, 200, tmp_path)
