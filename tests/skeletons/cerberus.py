# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Skeleton of CERBERUS: Matsubara et al. 2022, arXiv 2201.05767. One body, one head for each teacher."""

from dataclasses import replace

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module
from torch import nn
from torch.nn import functional as F

from retort.students import create
from retort.students.loading import assemble
from retort.trainers.objectives import ListwiseKL


class Heads(Module):
    """Makes `k` vectors of a pooled one; joined, their dot product is the mean of the heads'."""

    config_keys = ("width", "heads", "dim")

    def __init__(self, width, heads, dim):
        super().__init__()
        self.width, self.heads, self.dim = width, heads, dim
        self.layers = nn.ModuleList(nn.Linear(width, dim) for _ in range(heads))

    def forward(self, features, **_options):
        own = [F.normalize(layer(features["sentence_embedding"]), dim=-1) for layer in self.layers]
        joined = torch.cat(own, dim=-1) / self.heads**0.5
        return features | {"head_embeddings": torch.stack(own, dim=1), "sentence_embedding": joined}

    def get_embedding_dimension(self):
        return self.heads * self.dim

    def save(self, output_path, *_arguments, **_options):
        self.save_config(output_path)
        self.save_torch_weights(output_path)

    @classmethod
    def load(cls, model_name_or_path, **options):
        loaded = cls(**cls.load_config(model_name_or_path, subfolder=options.get("subfolder", "")))
        return cls.load_torch_weights(model_name_or_path, subfolder=options.get("subfolder", ""), model=loaded)


def with_heads(*, heads, dim, **parameters):
    """Start from random weights, with heads after the pooling."""
    first, pooling, _ = create.from_config(**parameters)
    return assemble(SentenceTransformer, [first, pooling, Heads(pooling.get_embedding_dimension(), heads, dim)])


class HeadKL(ListwiseKL):
    """Divergence of one head's scores from its teacher's."""

    needs_vectors = True
    views = ("head",)

    def __init__(self, *, head, **parameters):
        super().__init__(**parameters)
        self.head = head

    def compared(self, output, batch, ctx):
        queries, documents = (heads[:, self.head] for heads in output.views["head"])
        own = replace(output, queries=queries, documents=documents)
        return own.list_scores(batch), self.list_teacher(own, batch, ctx), batch.mask
