# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Several heads over one body (CERBERUS, Matsubara et al. 2022, arXiv 2201.05767); `create.with_heads` makes them."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers.base.modules import Module
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn
from torch.nn import functional as F


class _States(nn.Module):
    """Takes the place of a model's embeddings: gives back the states that are passed in instead of token ids."""

    def forward(self, input_ids: Any = None, inputs_embeds: Tensor | None = None, *_: Any, **__: Any) -> Any:  # noqa: ARG002
        return inputs_embeds


def top_layers(trunk: dict[str, Any], model_class: Any) -> Any:
    """
    Create a transformers model without embeddings: what it is called with as `inputs_embeds` are another's states.

    It prepares masks and relative positions as the whole model does.

    :param trunk:
        Its configuration, with its `model_type`.
    :param model_class:
        An auto class of transformers.
    :returns:
        The model, of random weights.
    """
    from transformers import AutoConfig

    model = model_class.from_config(AutoConfig.for_model(**trunk))
    model.base_model.embeddings = _States()
    return model


class HeadsOfOneBody(Module):
    """What students with several heads have in common: how many, and how they are saved and loaded."""

    heads: int

    def save(self, output_path: str, *_: Any, safe_serialization: bool = True, **__: Any) -> None:
        """Save configuration and weights."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> Any:  # type: ignore[override]
        """Load what `save` wrote; of `kwargs` those that say where it lies."""
        names = ("token", "cache_folder", "revision", "local_files_only")
        place: dict[str, Any] = {name: kwargs[name] for name in names if name in kwargs} | {"subfolder": subfolder}
        weights = cls.load_torch_weights(model_name_or_path, **place)
        loaded = cls(**cls.load_config(model_name_or_path, **place))
        for stored in weights.values():
            loaded.to(stored.dtype)
        loaded.load_state_dict(weights)
        return loaded


class Heads(HeadsOfOneBody):
    r"""
    Top layers, pooling and a linear map for each of $k$ heads, over the states of one body.

    $$v = \frac{1}{\sqrt k} [h_1; \dots; h_k], \quad q \cdot d = \frac1k \sum_j h_j(q) \cdot h_j(d)$$

    for vectors $h_j$ of length 1, so that an index of one vector a document ranks by the mean of the heads. The first
    entries of $v$ are the first heads.

    :param heads:
        $k$.
    :param pooling:
        Parameters of sentence-transformers' `Pooling`, the same for each head.
    :param trunk:
        Configuration of a head's layers; without it heads have none.
    :param dim:
        Dimension of $h_j$, by a linear map; without it there is none.
    """

    config_keys = ["heads", "pooling", "trunk", "dim"]  # noqa: RUF012 - sentence-transformers' own

    def __init__(
        self,
        heads: int,
        pooling: dict[str, Any],
        trunk: dict[str, Any] | None = None,
        dim: int | None = None,
    ) -> None:
        from transformers import AutoModel

        super().__init__()
        self.heads, self.pooling, self.trunk, self.dim = heads, pooling, trunk, dim
        self.pool = Pooling(**pooling)
        layers = [top_layers(trunk, AutoModel) for _ in range(heads)] if trunk else []
        for model in layers:
            model.pooler = None  # of BERT's kind: it is for classification
        self.layers = nn.ModuleList(layers)
        width = self.pool.get_embedding_dimension()
        self.maps = nn.ModuleList([nn.Linear(width, dim) for _ in range(heads)] if dim else [])

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Set `head_embeddings`, `[b, k, d]`, and `sentence_embedding`, `[b, k * d]`, from `token_embeddings`."""
        own = []
        for j in range(self.heads):
            states = features["token_embeddings"]
            if self.layers:
                layers = self.layers[j]
                states = layers(inputs_embeds=states, attention_mask=features["attention_mask"]).last_hidden_state
            pooled = self.pool({**features, "token_embeddings": states})["sentence_embedding"]
            own.append(F.normalize(self.maps[j](pooled) if self.maps else pooled, dim=-1))
        joined = torch.cat(own, dim=-1) / self.heads**0.5
        return features | {"head_embeddings": torch.stack(own, dim=1), "sentence_embedding": joined}

    def get_embedding_dimension(self) -> int:
        """Dimension of the joined vectors."""
        return self.heads * (self.dim or self.pool.get_embedding_dimension())


class ScoreHeads(HeadsOfOneBody):
    r"""
    Top layers and a score for each of $k$ heads of a ranker, over the states of one body; their mean is the score.

    :param heads:
        $k$.
    :param trunk:
        Configuration of a head: of a transformers model for sequence classification with one label.
    """

    config_keys = ["heads", "trunk"]  # noqa: RUF012 - sentence-transformers' own

    def __init__(self, heads: int, trunk: dict[str, Any]) -> None:
        from transformers import AutoModelForSequenceClassification

        super().__init__()
        self.heads, self.trunk = heads, trunk
        self.layers = nn.ModuleList(top_layers(trunk, AutoModelForSequenceClassification) for _ in range(heads))

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Set `head_scores`, `[b, k]`, and `scores`, `[b, 1]`, from `token_embeddings`."""
        states, mask = features["token_embeddings"], features["attention_mask"]
        own = torch.cat([layers(inputs_embeds=states, attention_mask=mask).logits for layers in self.layers], dim=1)
        return features | {"head_scores": own, "scores": own.mean(1, keepdim=True)}
