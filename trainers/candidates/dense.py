# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Dense mining: the passages that a bi-encoder takes for relevant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from retort.students.hashing import hash_text
from retort.trainers.data.texts import TextStore

if TYPE_CHECKING:
    from retort.trainers.candidates.workbench import Workbench


def search_vectors(
    queries: np.ndarray, documents: np.ndarray, top_k: int, *, similarity: str, block: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """
    Search exactly, in blocks of queries; ties go to the earlier document.

    :param queries:
        `[q, d]` vectors.
    :param documents:
        `[n, d]` vectors.
    :param top_k:
        Documents a query, at most.
    :param similarity:
        `cosine` or `dot`.
    :param block:
        Queries at a time: the score block is `[block, n]`.
    :returns:
        Rows `[q, k]` int64 and scores `[q, k]` float32, best first.
    :raises ValueError:
        If the similarity is another.
    """
    import torch

    if similarity not in {"cosine", "dot"}:
        msg = f"similarity must be cosine or dot to search; it is {similarity!r}."
        raise ValueError(msg)
    corpus = torch.from_numpy(np.ascontiguousarray(documents))
    asked = torch.from_numpy(np.ascontiguousarray(queries))
    if similarity == "cosine":
        corpus, asked = torch.nn.functional.normalize(corpus), torch.nn.functional.normalize(asked)
    top_k = min(top_k, len(documents))
    rows = np.empty((len(queries), top_k), dtype=np.int64)
    scores = np.empty((len(queries), top_k), dtype=np.float32)
    for start in range(0, len(queries), block):
        part = asked[start : start + block] @ corpus.T
        best, where = part.topk(top_k)
        # topk leaves the order of equal scores open: sort by score, then row.
        where = where.gather(1, where.argsort(dim=1, stable=True))
        best = part.gather(1, where)
        order = best.argsort(dim=1, descending=True, stable=True)
        rows[start : start + block] = where.gather(1, order).numpy()
        scores[start : start + block] = best.gather(1, order).numpy()
    return rows, scores


class DenseMiner:
    """
    Mines with a bi-encoder: a teacher by its cached vectors, or the student as it is at the stage's start.

    :param model:
        Name of a teacher of the recipe, or `student`.
    :param depth:
        Passages a query.
    """

    teachers: tuple[str, ...] = ()

    def __init__(self, *, model: str, depth: int = 50) -> None:
        self.model = model
        self.depth = depth
        self.teachers = () if model == "student" else (model,)

    def key(self, bench: Workbench) -> str:
        """Identify the mined lists: they change with corpus, queries and the model's weights."""
        weights = bench.model_key(self.model)
        return hash_text(f"dense {weights} {self.depth} {bench.data.corpus.hash} {bench.data.queries.hash}")

    def mine(self, bench: Workbench, queries: TextStore) -> tuple[np.ndarray, np.ndarray]:
        """
        Rank the corpus for each query.

        :param bench:
            Data and models at hand.
        :param queries:
            `q` queries.
        :returns:
            Rows `[q, depth]` and scores `[q, depth]`, best first, positives included.
        """
        documents = bench.vectors(self.model, "document")
        asked = bench.vectors(self.model, "query")[[bench.data.queries.rows[i] for i in queries.ids]]
        return search_vectors(asked, documents, self.depth, similarity=bench.similarity(self.model))
