# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Models with a vector a token (ColBERT), encoded as in `retort.students.encoding`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from retort.students.encoding import (
    Texts,
    default_budget,
    in_order,
    model_inputs,
    on_device,
    plan_chunks,
    read_texts,
    recomputed,
    token_counts,
)
from retort.students.layers import captured, layers_of
from retort.students.towers import Side, prompt_for

if TYPE_CHECKING:
    import torch
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.model import BaseModel
    from typing_extensions import TypeIs


def is_late_interaction(model: Any) -> TypeIs[MultiVectorEncoder]:
    """Tell a model with a vector a token from others."""
    from sentence_transformers import MultiVectorEncoder

    return isinstance(model, MultiVectorEncoder)


def encode_tokens(
    model: MultiVectorEncoder,
    texts: Sequence[str],
    side: Side,
    *,
    length: int,
    budget: int | None = None,
    recompute: bool = False,
    layers: Sequence[int] = (),
) -> torch.Tensor:
    """
    Encode texts into a vector a token.

    :param model:
        The model.
    :param texts:
        `n` texts, in any order.
    :param side:
        `query` or `document`.
    :param length:
        Tokens that the longest text has at least, see `longest`.
    :param budget:
        Padded tokens a chunk; by default what suits the device.
    :param recompute:
        Keep no activations for the backward pass (see `retort.students.encoding.recomputed`).
    :param layers:
        Layers, from 0, whose states are given as well.
    :returns:
        `[n, length, l * h + d + 1]`: each layer's states, the model's vectors, and 1 where a token counts.
    """
    import torch

    def run(part: list[str]) -> torch.Tensor:
        features = on_device(model, model.preprocess(part, prompt=prompt_for(model, side) or None, task=side))
        with captured(layers_of(model[0].model), layers) as states:
            found = model(features, task=side)
        vectors = found["token_embeddings"]
        mask = found["attention_mask"].to(vectors.dtype).unsqueeze(-1)
        joined = torch.cat([*(states[n].to(vectors.dtype) for n in layers), vectors, mask], dim=-1)
        return torch.nn.functional.pad(joined, (0, 0, 0, length - joined.shape[1]))

    texts, counts = read_texts(model, texts, side)
    plan = plan_chunks(counts, budget or default_budget(model))
    parts = [[texts[i] for i in chunk] for chunk in plan]
    return in_order(zip(plan, (recomputed(partial(run, p)) if recompute else run(p) for p in parts), strict=True))


def longest(model: BaseModel, texts: Texts, side: Side) -> int:
    """Count the tokens of the longest text, after truncation; special tokens and a query's expansion included."""
    row = int(token_counts(model, texts, side).argmax())
    return int(model_inputs(model, texts[row : row + 1], side)["input_ids"].shape[1])
