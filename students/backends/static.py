# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Static sides: a text's vector is the mean of its tokens' vectors, looked up without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retort.students.images import refuse_images
from retort.students.towers import Side, prompt_for, route
from retort.students.vectors import unit

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

WEIGHTS, TOKENIZER = "static.safetensors", "tokenizer.json"
BLOCK = 4096  # texts that are tokenised at once
GATHERED = 200_000  # tokens whose vectors are looked up at once: documents are not cut


class StaticEncoder:
    """
    Encodes with a table of token vectors, in a twentieth of a millisecond a query.

    :param table:
        `[v, d]` float32, a row a token.
    :param tokenizer:
        Its own, which may cut texts: padding is switched off. Safe to use from several threads.
    :param prompt:
        Put before each text.
    :param words:
        How many of the last dimensions saturate, as `CountedEmbedding` says; 0: none.
    :param saturation:
        Its `k`.
    :param normalize:
        Whether vectors get length 1.
    :param dim:
        Entries of a vector that are kept, after `normalize`; None keeps all.
    """

    def __init__(
        self,
        table: np.ndarray,
        tokenizer: Tokenizer,
        prompt: str = "",
        words: int = 0,
        saturation: float = 0.0,
        *,
        normalize: bool,
        dim: int | None = None,
    ) -> None:
        self.table = table
        self.dim = dim
        self.words = words
        self.saturation = saturation
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.normalize = normalize
        tokenizer.no_padding()

    @property
    def megabytes(self) -> float:
        """Size of the table."""
        return self.table.nbytes / 1e6

    def encode(
        self,
        texts: Sequence[str],
        *,
        budget: int | None = None,  # noqa: ARG002 - nothing is padded
        progress: Callable[[int], Any] | None = None,
        prompt: str | None = None,
    ) -> np.ndarray:
        """Encode texts: `[n, d]` float32, zeros where a text has no token."""
        refuse_images(texts)
        prompt = self.prompt if prompt is None else prompt
        found = np.zeros((len(texts), self.table.shape[1]), dtype=np.float32)
        for start in range(0, len(texts), BLOCK):
            block = texts[start : start + BLOCK]
            found[start : start + len(block)] = self._means([prompt + text for text in block])
            if progress is not None:
                progress(len(block))
        return np.ascontiguousarray(found[:, : self.dim])

    def _means(self, texts: list[str]) -> np.ndarray:
        if len(texts) == 1:
            ids = self.tokenizer.encode(texts[0], add_special_tokens=False).ids
            none = np.zeros((1, self.table.shape[1]), np.float32)
            means = self._vectors(np.array(ids), np.zeros(len(ids), int)).mean(0, keepdims=True) if ids else none
        else:
            rows = [e.ids for e in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
            counts = np.array([len(ids) for ids in rows])
            full = np.flatnonzero(counts)
            means = np.zeros((len(texts), self.table.shape[1]), dtype=np.float32)
            for part in np.split(full, np.flatnonzero(np.diff(counts[full].cumsum() // GATHERED)) + 1):
                if len(part):
                    starts = np.cumsum([0, *counts[part][:-1]])
                    tokens = np.fromiter((t for i in part for t in rows[i]), dtype=np.int64, count=counts[part].sum())
                    vectors = self._vectors(tokens, np.repeat(np.arange(len(part)), counts[part]))
                    means[part] = np.add.reduceat(vectors, starts) / counts[part, None]
        return unit(means) if self.normalize else means

    def _vectors(self, tokens: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """Look up tokens; those that their text has more than once share what a word weighs."""
        vectors = self.table[tokens]
        if self.words:
            _, kind, counts = np.unique(owner * len(self.table) + tokens, return_inverse=True, return_counts=True)
            share = ((1 + self.saturation) / (counts + self.saturation)).astype(np.float32)
            vectors[:, -self.words :] *= share[kind, None]
        return vectors

    def with_prompt(self, prompt: str) -> StaticEncoder:
        """Return an encoder of the same table with another prompt."""
        other = copy(self)
        other.prompt = prompt
        return other

    def save(self, folder: Path) -> None:
        """Write table and tokenizer; prompt and lengths are the manifest's."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        words = {"words": np.array(self.words), "saturation": np.array(self.saturation)} if self.words else {}
        save_file({"table": self.table, "normalize": np.array(self.normalize), **words}, folder / WEIGHTS)
        self.tokenizer.save(str(folder / TOKENIZER))

    @classmethod
    def load(cls, folder: Path, prompt: str = "", dim: int | None = None) -> StaticEncoder:
        """Read what `save` wrote; further parameters as in the class."""
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        kept = load_file(folder / WEIGHTS)
        words = Tokenizer.from_file(str(folder / TOKENIZER))
        own = (int(kept["words"]), float(kept["saturation"])) if "words" in kept else (0, 0.0)
        return cls(kept["table"], words, prompt, *own, normalize=bool(kept["normalize"]), dim=dim)


def static_encoder(model: SentenceTransformer, side: Side) -> StaticEncoder | None:
    """Return a model's side as a static encoder, sharing its weights; None if it is more than a table."""
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    from retort.students.modules.counted import CountedEmbedding

    first, *rest = route(model, side)
    if not isinstance(first, StaticEmbedding) or [type(module) for module in rest] not in ([], [Normalize]):
        return None
    table = first.embedding.weight.detach().float().cpu().numpy()
    words = Tokenizer.from_str(first.tokenizer.to_str())
    given = (first.words, first.saturation) if isinstance(first, CountedEmbedding) else (0, 0.0)
    dim = getattr(model, "truncate_dim", None)
    return StaticEncoder(table, words, prompt_for(model, side), *given, normalize=bool(rest), dim=dim)
