# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Exact search: BM25 over words, nearest vectors, the rows of the highest scores."""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import numpy as np
from scipy.sparse.linalg import norm

from retort.students.loading import pick_device
from retort.students.segmentation import needs_dictionary, words_of
from retort.trainers.languages import language_of, stemmer_name, stop_words

if TYPE_CHECKING:
    import torch


K1, B = 0.9, 0.4
CHUNK = 2**18  # document vectors that are compared at a time


class BM25:
    """
    Lucene's BM25 with k1 0.9, b 0.4, over `bm25s`; words of any script, of languages with spaces and without.

    Words are stemmed, and stop words left out, as the documents' language has them (`languages.language_of`): one of
    `LANGUAGES`, or else English, with Porter's stemmer.

    :param texts:
        The documents.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s
        import Stemmer

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # importing it sets DEBUG
        self.language = language_of(texts)
        self._stemmer = Stemmer.Stemmer(stemmer_name(self.language))
        self._index = bm25s.BM25(method="lucene", k1=K1, b=B)
        self._size = len(texts)
        tokens = self._tokens(texts)
        self._has_words = any(tokens)
        if self._has_words:  # bm25s cannot index nothing
            self._index.index(tokens, show_progress=False)

    def _tokens(self, texts: Sequence[str]) -> list[list[str]]:
        import bm25s

        stopped = stop_words(self.language)
        texts = [normalize("NFC", text) for text in texts]  # two spellings of a word are one
        tokens = bm25s.tokenize(
            texts,
            stopwords=list(stopped),
            stemmer=self._stemmer,
            return_ids=False,
            show_progress=False,
        )
        for i, text in enumerate(texts):
            if needs_dictionary(text):  # its pattern takes a Chinese sentence for one word, and cuts Hindi ones up
                words = [word for word in words_of(text.lower()) if len(word) > 1 or needs_dictionary(word)]
                tokens[i] = self._stemmer.stemWords([word for word in words if word not in stopped])
        return tokens

    def search(self, queries: Sequence[str], top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """
        Find the best documents that share a word with the query; ties go to the earlier document.

        :param queries:
            `q` query texts.
        :param top_k:
            Documents a query, at most.
        :returns:
            Rows `[q, k]` int64 and scores `[q, k]` float32, best first; -1 and NaN where fewer share a word.
        """
        top_k = min(top_k, self._size)
        rows = np.empty((len(queries), top_k), dtype=np.int64)
        scores = np.empty((len(queries), top_k), dtype=np.float32)
        for i, found in enumerate(self.scores(queries)):
            rows[i] = best = top_rows(found, top_k)
            scores[i] = found[best]
        return _only_hits(rows, scores)

    def scores(self, queries: Sequence[str]) -> Iterator[np.ndarray]:
        """Score all documents, `[n]` float32, for one query after the other."""
        for tokens in self._tokens(queries):
            known = [t for t in tokens if t in self._index.vocab_dict] if self._has_words else []
            yield self._index.get_scores(known) if known else np.zeros(self._size, dtype=np.float32)


def _only_hits(rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out what scores 0, which is no word in common: rows of -1, scores of NaN."""
    return np.where(scores > 0, rows, -1), np.where(scores > 0, scores, np.float32(np.nan))


def top_rows(scores: np.ndarray, top_k: int) -> np.ndarray:
    """Return the rows of the `top_k` highest scores, best first, ties by row (also at the cut)."""
    if top_k >= len(scores):
        return np.argsort(-scores, kind="stable")
    cut = np.partition(scores, len(scores) - top_k)[len(scores) - top_k]
    above, at = np.flatnonzero(scores > cut), np.flatnonzero(scores == cut)
    chosen = np.concatenate([above, at[: top_k - len(above)]])
    return chosen[np.lexsort((chosen, -scores[chosen]))]


def search_vectors(
    queries: Any,
    documents: Any,
    top_k: int,
    *,
    similarity: str,
    block: int = 256,
    starts: np.ndarray | None = None,
    device: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Search exactly, in chunks of documents and blocks of queries; ties go to the earlier document, but at the cut.

    :param queries:
        `[q, d]` vectors: an array, or a `csr_array` of sparse ones.
    :param documents:
        `[n, d]` vectors of the same kind.
    :param top_k:
        Documents a query, at most.
    :param similarity:
        `cosine` or `dot`.
    :param block:
        Queries at a time: the score block is `[block, n]`, of dense vectors at most `[block, CHUNK]`.
    :param starts:
        `[m]` ascending, where documents have several vectors: document `i` has those from `starts[i]` on, and the
        best of their scores.
    :param device:
        Torch device that compares dense float32 vectors; None takes the best there is. Others stay on the CPU.
    :returns:
        Rows `[q, k]` int64 and scores `[q, k]` float32, best first; -1 and NaN where nothing is found: of sparse
        vectors where fewer documents score above 0, as in an inverted index, and where vectors are NaN.
    :raises ValueError:
        If the similarity is another.
    """
    if similarity not in {"cosine", "dot"}:
        msg = f"similarity must be cosine or dot to search; it is {similarity!r}."
        raise ValueError(msg)
    top_k = min(top_k, documents.shape[0] if starts is None else len(starts))
    rows = np.empty((queries.shape[0], top_k), dtype=np.int64)
    scores = np.empty((queries.shape[0], top_k), dtype=np.result_type(documents.dtype, np.float32))
    dense = isinstance(documents, np.ndarray)
    if dense:
        device = pick_device(device) if documents.dtype == queries.dtype == np.float32 else "cpu"
        chunks = _dense_chunks(queries, documents, similarity, starts, device)
    else:
        chunks = iter([(0, scorer(queries, documents, similarity, starts))])
    with _full_float32():
        for first, score in chunks:
            seen = min(first, top_k)  # columns that the chunks before have filled
            for start in range(0, queries.shape[0], block):
                own = slice(start, start + block)
                so_far = rows[own, :seen], scores[own, :seen]
                best_rows, best = _best(score(own), first, so_far, top_k)
                rows[own, : best.shape[1]], scores[own, : best.shape[1]] = best_rows, best
    scores = scores.astype(np.float32, copy=False)
    if (nothing := np.isneginf(scores)).any():
        rows[nothing], scores[nothing] = -1, np.nan
    return (rows, scores) if dense else _only_hits(rows, scores)


def _best(
    part: torch.Tensor, first: int, so_far: tuple[np.ndarray, np.ndarray], top_k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Join the best of a chunk's scores `[block, c]`, whose first row is `first`, with rows and scores before it."""
    import torch

    part = part.nan_to_num_(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    where = part.topk(min(top_k, part.shape[1])).indices
    # topk leaves the order of equal scores open: sort by score, then row.
    where = where.gather(1, where.argsort(dim=1, stable=True))
    best = part.gather(1, where)
    earlier_rows, earlier = (torch.from_numpy(values).to(part.device) for values in so_far)
    rows, scores = torch.cat([earlier_rows, where + first], dim=1), torch.cat([earlier, best], dim=1)
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :top_k]
    return rows.gather(1, order).cpu().numpy(), scores.gather(1, order).cpu().numpy()


def _dense_chunks(
    queries: np.ndarray, documents: np.ndarray, similarity: str, starts: np.ndarray | None, device: str
) -> Iterator[tuple[int, Callable[[slice], torch.Tensor]]]:
    """Yield the first document of each chunk, and what scores a slice of the queries against it, `[block, c]`."""
    asked = _compared(queries, similarity, "cpu")
    edges = range(len(documents) + 1) if starts is None else np.append(starts, len(documents))
    first = 0
    while first < len(edges) - 1:
        # Whole documents: as many as have `CHUNK` vectors together, one at least.
        last = max(first + 1, bisect_right(edges, edges[first] + CHUNK) - 1)
        begin = edges[first] if first else 0
        corpus = _compared(documents[begin : edges[last]], similarity, device)
        own = None if starts is None else starts[first:last] - begin
        yield first, _dense_scorer(asked, corpus, own)
        first = last


def _compared(vectors: np.ndarray, similarity: str, device: str) -> torch.Tensor:
    """Return vectors on a device, for cosines divided by their lengths."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(vectors)).to(device)
    return torch.nn.functional.normalize(tensor) if similarity == "cosine" else tensor


def _dense_scorer(
    asked: torch.Tensor, corpus: torch.Tensor, starts: np.ndarray | None
) -> Callable[[slice], torch.Tensor]:
    return lambda part: _best_of_each(asked[part].to(corpus.device) @ corpus.T, starts)


def _best_of_each(scores: torch.Tensor, starts: np.ndarray | None) -> torch.Tensor:
    """Return the best score of each document that has several vectors, NaN where one is NaN."""
    import torch

    if starts is None:
        return scores
    owners = np.repeat(np.arange(len(starts)), np.diff(starts, append=scores.shape[1]))
    scores = scores[:, scores.shape[1] - len(owners) :]
    index = torch.from_numpy(owners).to(scores.device).expand_as(scores)
    return scores.new_full((len(scores), len(starts)), -math.inf).scatter_reduce_(1, index, scores, "amax")


@contextmanager
def _full_float32() -> Iterator[None]:
    """Multiply matrices in full float32 on GPUs, whatever precision the process has chosen (TF32 has 10 bits)."""
    import torch

    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def scorer(
    queries: Any, documents: Any, similarity: str, starts: np.ndarray | None = None
) -> Callable[[slice], torch.Tensor]:
    """Return what scores some queries, a slice of them, against all documents, `[block, n]`; see `search_vectors`."""
    import torch

    if isinstance(documents, np.ndarray):
        asked, corpus = (_compared(v, similarity, "cpu") for v in (queries, documents))
        return _dense_scorer(asked, corpus, starts)
    if similarity == "cosine":
        queries, documents = (
            v.multiply(1 / np.maximum(norm(v, axis=1), 1e-12)[:, None]).tocsr() for v in (queries, documents)
        )
    return lambda part: _best_of_each(torch.from_numpy((documents @ queries[part].T).toarray().T), starts)
