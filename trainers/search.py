# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Exact search: BM25 over words, nearest vectors, the rows of the highest scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import numpy as np
from scipy.sparse.linalg import norm

from retort.students.segmentation import needs_dictionary, words_of
from retort.trainers.languages import language_of, stemmer_name, stop_words

if TYPE_CHECKING:
    import torch


K1, B = 0.9, 0.4


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
    queries: Any, documents: Any, top_k: int, *, similarity: str, block: int = 256, starts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """
    Search exactly, in blocks of queries; ties go to the earlier document, but for those at the cut.

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
        Rows `[q, k]` int64 and scores `[q, k]` float32, best first; -1 and NaN where nothing is found: of sparse
        vectors where fewer documents score above 0, as in an inverted index, and where vectors are NaN.
    :raises ValueError:
        If the similarity is another.
    """
    if similarity not in {"cosine", "dot"}:
        msg = f"similarity must be cosine or dot to search; it is {similarity!r}."
        raise ValueError(msg)
    score = scorer(queries, documents, similarity, starts)
    top_k = min(top_k, documents.shape[0] if starts is None else len(starts))
    rows = np.empty((queries.shape[0], top_k), dtype=np.int64)
    scores = np.empty((queries.shape[0], top_k), dtype=np.float32)
    for start in range(0, queries.shape[0], block):
        part = score(slice(start, start + block)).nan_to_num_(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        best, where = part.topk(top_k)
        # topk leaves the order of equal scores open: sort by score, then row.
        where = where.gather(1, where.argsort(dim=1, stable=True))
        best = part.gather(1, where)
        order = best.argsort(dim=1, descending=True, stable=True)
        rows[start : start + block] = where.gather(1, order).numpy()
        scores[start : start + block] = best.gather(1, order).numpy()
    if (nothing := np.isneginf(scores)).any():
        rows[nothing], scores[nothing] = -1, np.nan
    return (rows, scores) if isinstance(documents, np.ndarray) else _only_hits(rows, scores)


def scorer(
    queries: Any, documents: Any, similarity: str, starts: np.ndarray | None = None
) -> Callable[[slice], torch.Tensor]:
    """Return what scores some queries, a slice of them, against all documents, `[block, n]`; see `search_vectors`."""
    import torch

    if starts is not None:
        each = scorer(queries, documents, similarity)
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
