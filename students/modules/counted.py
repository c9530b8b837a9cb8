# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""A table of token vectors in which a word that comes again says little more; `create.static_with_lexical` makes it."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import StaticEmbedding


class CountedEmbedding(StaticEmbedding):
    r"""
    The mean of token vectors, the last `words` dimensions of which are saturated as BM25's counts are.

    $$\frac{1}{n} \sum_t c_t \left[v_t;\ \frac{1 + k}{c_t + k}\, w_t\right]$$

    for a text of $n$ tokens that has token $t$ $c_t$ times (Robertson & Zaragoza 2009, without the text's length). With
    $k$ large it is `StaticEmbedding`.

    :param tokenizer:
        As `StaticEmbedding`'s.
    :param embedding_weights:
        `[v, d]`: a row a token, $[v_t; w_t]$.
    :param words:
        How many dimensions $w_t$ has, from 1 to `d`.
    :param saturation:
        $k$, above 0.
    """

    config_keys = ["words", "saturation"]  # noqa: RUF012 - sentence-transformers' own
    config_file_name = "counted.json"

    def __init__(self, tokenizer: Any, embedding_weights: torch.Tensor, *, words: int, saturation: float) -> None:
        super().__init__(tokenizer, embedding_weights=embedding_weights)
        self.words = words
        self.saturation = saturation

    def forward(self, features: dict[str, torch.Tensor], **_: Any) -> dict[str, torch.Tensor]:
        """Set `sentence_embedding`, `[b, d]`, of texts that are `input_ids`, one after the other, from `offsets`."""
        ids, offsets = features["input_ids"], features["offsets"]
        lengths = torch.diff(offsets, append=offsets.new_tensor([len(ids)]))
        owner = torch.repeat_interleave(torch.arange(len(offsets), device=ids.device), lengths)
        _, kind, counts = torch.unique(owner * self.num_embeddings + ids, return_inverse=True, return_counts=True)
        share = (1 + self.saturation) / (counts + self.saturation)[kind] / lengths[owner]
        meanings, words = self.embedding.weight.split([self.embedding_dim - self.words, self.words], dim=1)
        bag = torch.nn.functional.embedding_bag
        features["sentence_embedding"] = torch.cat(
            [
                bag(ids, meanings, offsets, mode="mean"),
                bag(ids, words, offsets, mode="sum", per_sample_weights=share.to(words.dtype)),
            ],
            dim=1,
        )
        return features

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Save as `StaticEmbedding` does, and which dimensions are the words'."""
        super().save(output_path, *args, **kwargs)
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> Any:  # type: ignore[override]
        """Load what `save` wrote; names are as for `StaticEmbedding`."""
        plain = StaticEmbedding.load(model_name_or_path, subfolder=subfolder, **kwargs)
        names = ("token", "cache_folder", "revision", "local_files_only")
        given = {name: kwargs[name] for name in names if name in kwargs}
        config = cls.load_config(model_name_or_path, subfolder=subfolder, **given)
        return cls(plain.tokenizer, plain.embedding.weight.detach(), **config)
