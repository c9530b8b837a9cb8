# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Dense mining: the passages that a bi-encoder takes for relevant."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse.linalg import norm

from retort.students.hashing import hash_text
from retort.trainers.data.texts import TextStore

if TYPE_CHECKING:
    import torch

    from retort.trainers.context import Workbench


def search_vectors(
    queries: Any, documents: Any, top_k: int, *, similarity: str, block: int = 256, starts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """
    Search exactly, in blocks of queries; ties go to the earlier document.

    :param queries:
        `[q, d]` vectors: an array, or a `csr_array` of sparse ones.
    :param documents:
        `[n, d]` vectors of the same kind.
    :param top_k:
        Documents a query, at most.
    :param similarity:
        `cosine` or `dot`.
    :param block:
        Queries at a time: the score block is `[block, n]`.
    :param starts:
        `[m]` ascending, where documents have several vectors: document `i` has those from `starts[i]` on, and the
        best of their scores.
    :returns:
        Rows `[q, k]` int64 and scores `[q, k]` float32, best first.
    :raises ValueError:
        If the similarity is another.
    """
    if similarity not in {"cosine", "dot"}:
        msg = f"similarity must be cosine or dot to search; it is {similarity!r}."
        raise ValueError(msg)
    score = _scorer(queries, documents, similarity, starts)
    top_k = min(top_k, documents.shape[0] if starts is None else len(starts))
    rows = np.empty((queries.shape[0], top_k), dtype=np.int64)
    scores = np.empty((queries.shape[0], top_k), dtype=np.float32)
    for start in range(0, queries.shape[0], block):
        part = score(slice(start, start + block))
        best, where = part.topk(top_k)
        # topk leaves the order of equal scores open: sort by score, then row.
        where = where.gather(1, where.argsort(dim=1, stable=True))
        best = part.gather(1, where)
        order = best.argsort(dim=1, descending=True, stable=True)
        rows[start : start + block] = where.gather(1, order).numpy()
        scores[start : start + block] = best.gather(1, order).numpy()
    return rows, scores


def _scorer(
    queries: Any, documents: Any, similarity: str, starts: np.ndarray | None
) -> Callable[[slice], torch.Tensor]:
    """Return what scores some queries against all documents, `[block, n]`."""
    import torch

    if starts is not None:
        each = _scorer(queries, documents, similarity, None)
        return lambda part: torch.from_numpy(np.maximum.reduceat(each(part).numpy(), starts, axis=1))
    if isinstance(documents, np.ndarray):
        corpus, asked = (torch.from_numpy(np.ascontiguousarray(v)) for v in (documents, queries))
        if similarity == "cosine":
            corpus, asked = torch.nn.functional.normalize(corpus), torch.nn.functional.normalize(asked)
        return lambda part: asked[part] @ corpus.T
    if similarity == "cosine":
        queries, documents = (
            v.multiply(1 / np.maximum(norm(v, axis=1), 1e-12)[:, None]).tocsr() for v in (queries, documents)
        )
    return lambda part: torch.from_numpy((documents @ queries[part].T).toarray().T)


class DenseMiner:
    """
    Mines with a bi-encoder, dense or sparse: a teacher by its vectors, or the student as it is at the stage's start.

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
