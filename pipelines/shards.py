# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Blocks of documents that several processes embed: files hand them to the one that may write the index."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from haystack import Document
from haystack.dataclasses import SparseEmbedding
from safetensors.numpy import load_file, save_file

from retort.students import SENTENCES_STAMP
from retort.students.files import read_or_remove, replace_file
from retort.students.hashing import canonical_json, hash_text


class Shards:
    """
    A folder of embedded blocks. What is there is not embedded again, so a killed run goes on.

    :param folder:
        Where they are kept until they are written.
    :param stamps:
        Metadata that documents get with their embeddings; other students' blocks are other files.
    :param sentences:
        Whether documents get vectors of sentences as well; so are blocks without.
    """

    def __init__(self, folder: Path, stamps: dict[str, str], *, sentences: bool) -> None:
        self.folder = folder
        self.stamps = stamps
        self.sentences = sentences

    def put(self, block: list[Document], embed: Callable[[list[Document]], list[Document]]) -> None:
        """Embed a block and keep its vectors, unless they are there."""
        path = self._path(block)
        if read_or_remove(path, load_file) is not None:
            return
        documents = embed(block)
        tensors = {"dense": np.array([d.embedding for d in documents], dtype=np.float32)}
        if len(documents) < len(block):  # an image may be gone since it was checked
            embedded = {d.id for d in documents}
            tensors["rows"] = np.array([row for row, d in enumerate(block) if d.id in embedded], dtype=np.int64)
        sparse = [d.sparse_embedding for d in documents if d.sparse_embedding is not None]
        if sparse:
            tensors["starts"] = np.cumsum([0, *(len(s.indices) for s in sparse)])
            tensors["indices"] = np.array([i for s in sparse for i in s.indices], dtype=np.int64)
            tensors["values"] = np.array([v for s in sparse for v in s.values], dtype=np.float32)
        if self.sentences:  # packed as base64, which has no line breaks
            lines = "\n".join(d.meta.get(SENTENCES_STAMP, "") for d in documents)
            tensors["sentences"] = np.frombuffer(lines.encode(), np.uint8)
        with replace_file(path) as aside:
            save_file(tensors, aside)

    def take(self, block: list[Document]) -> list[Document]:
        """Give a block's documents with their embeddings and stamps; without those that could not be embedded."""
        kept = load_file(self._path(block))
        block = [block[row] for row in kept["rows"].tolist()] if "rows" in kept else block
        found = [
            replace(d, embedding=vector, meta={**d.meta, **self.stamps})
            for d, vector in zip(block, kept["dense"].tolist(), strict=True)
        ]
        if self.sentences:
            lines = kept["sentences"].tobytes().decode().split("\n")
            found = [
                replace(d, meta={**d.meta, SENTENCES_STAMP: line}) if line else d
                for d, line in zip(found, lines, strict=True)
            ]
        if "starts" not in kept:
            return found
        starts = kept["starts"].tolist()
        parts = [
            SparseEmbedding(kept["indices"][a:b].tolist(), kept["values"][a:b].tolist()) for a, b in pairwise(starts)
        ]
        return [replace(d, sparse_embedding=part) for d, part in zip(found, parts, strict=True)]

    def clear(self) -> None:
        """Delete what was written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, block: list[Document]) -> Path:
        seen = [self.stamps, self.sentences, [[d.id, d.content, d.meta] for d in block]]
        return self.folder / f"{hash_text(canonical_json(seen))[:32]}.safetensors"
