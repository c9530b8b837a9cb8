# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Vectors of pieces of a text, in the space of its own vector, all from one encoding of the whole text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from retort.students.layers import layers_of
from retort.students.segmentation import trimmed
from retort.students.towers import Side, max_tokens, prompt_for, route

if TYPE_CHECKING:
    import torch
    from sentence_transformers.base.model import BaseModel
    from torch import Tensor, nn

PIECES = "pieces"  # among what `encode_parts` gives
NO_PIECE = -1  # fills up spans

# Architectures whose layers take states and a mask, and nothing else: positions are in the states.
_PLAIN_LAYERS = {"bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie", "distilbert"}


def check_pieces(model: BaseModel, side: Side = "document") -> None:
    """
    Refuse a model that has no vectors of pieces.

    :param model:
        A model.
    :param side:
        Which of its towers.
    :raises ValueError:
        If it is no transformer with mean or CLS pooling and a fast tokenizer, or its last layer cannot be run again.
    """
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    first, second, *_ = [*route(model, side), None]
    if not isinstance(first, Transformer) or not isinstance(second, Pooling):
        msg = "pieces of documents need a transformer with a pooling layer behind it; this student has none."
        raise ValueError(msg)
    if second.pooling_mode not in ("mean", "cls"):
        msg = f"pieces of documents need mean or cls pooling; the student's is {second.pooling_mode}."
        raise ValueError(msg)
    if not first.tokenizer.is_fast:
        msg = "pieces of documents need a fast tokenizer, which knows where each token stands in the text."
        raise ValueError(msg)
    kind = first.config.model_type
    if second.pooling_mode == "cls" and (kind not in _PLAIN_LAYERS or not second.include_prompt):
        msg = (
            f"pieces of documents with cls pooling: the last layer of {kind!r} cannot be run again; take mean pooling."
        )
        raise ValueError(msg)


def span_means(states: Tensor, masks: Tensor) -> Tensor:
    r"""
    Average the states of each piece's tokens: $v = \frac{1}{|x|} \sum_{i \in x} h_i$ (late chunking, arXiv 2409.04701).

    :param states:
        `[c, t, h]` states of the last layer.
    :param masks:
        `[c, m, t]` bool, the tokens of each piece.
    :returns:
        `[c, m, h]`; 0 for a piece without tokens.
    """
    import torch

    dtype = torch.promote_types(states.dtype, torch.float32)
    with torch.autocast(states.device.type, enabled=False):
        sums = masks.to(dtype) @ states.to(dtype)
    return (sums / masks.sum(-1, keepdim=True).clamp(min=1)).to(states.dtype)


def reattend(layer: Callable[..., Any], states: Tensor, masks: Tensor) -> Tensor:
    """
    Run a layer once more, with a first token a piece that attends to itself and to the piece's tokens alone.

    :param layer:
        The last layer: takes states `[c, s, h]` and `attention_mask`, which is added to the attention scores.
    :param states:
        `[c, t, h]`, what it took before; row 0 is the first token's.
    :param masks:
        `[c, m, t]` bool, the tokens of each piece.
    :returns:
        `[c, m, h]` states of the first tokens; of a piece of all tokens that of the whole text.
    """
    import torch

    c, m, t = masks.shape
    own = torch.eye(m + t, dtype=torch.bool, device=masks.device).repeat(c, 1, 1)
    own[:, :m, m + 1 :] = masks[:, :, 1:]  # the copy stands for the first token
    added = states.new_zeros(own.shape).masked_fill(~own, torch.finfo(states.dtype).min)
    out = layer(torch.cat([states[:, :1].expand(-1, m, -1), states], dim=1), attention_mask=added[:, None])
    first: Tensor = (out[0] if isinstance(out, tuple) else out)[:, :m]
    return first


def token_masks(model: BaseModel, texts: list[str], spans: np.ndarray, side: Side, attention: Tensor) -> Tensor:
    """
    Find the tokens of pieces.

    :param model:
        The model.
    :param texts:
        `c` texts.
    :param spans:
        `[c, m, 2]` characters where pieces start and end, `NO_PIECE` where there is none.
    :param side:
        `query` or `document`.
    :param attention:
        `[c, t]`, the model's attention mask.
    :returns:
        `[c, m, t]` bool. What a tokenizer puts before the text's first token belongs to the piece of that token, and
        what it puts behind the last to the piece of the last.
    """
    import torch

    prompt, limit = prompt_for(model, side), max_tokens(model, side)
    whole = [prompt + text for text in texts]
    read = route(model, side)[0].tokenizer(
        whole,
        truncation=limit is not None,
        max_length=limit,
        return_offsets_mapping=True,
        verbose=False,
    )
    places = np.full(attention.shape, NO_PIECE, dtype=np.int64)
    for row, (offsets, there) in enumerate(zip(read["offset_mapping"], attention.bool().cpu().numpy(), strict=True)):
        starts, ends = np.array(trimmed(whole[row], offsets)).reshape(-1, 2).T - len(prompt)
        words = np.flatnonzero((starts >= 0) & (ends > starts))
        if len(words):
            starts[: words[0]], starts[words[-1] :] = starts[words[0]], starts[words[-1]]
            places[row, there] = starts
    at = torch.from_numpy(places).to(attention.device)[:, None]
    start, end = torch.from_numpy(spans).to(attention.device).unsqueeze(-1).unbind(2)
    return (start >= 0) & (at >= start) & (at < end)


@contextmanager
def piece_encoder(
    model: BaseModel, texts: Sequence[Any], spans: np.ndarray, side: Side
) -> Iterator[Callable[..., Tensor]]:
    """
    Watch a forward pass within, for the vectors of pieces.

    With mean pooling a piece's vector is the mean of its tokens' states; with CLS pooling the last layer is run again
    (`reattend`). Both see the whole text in the layers before, and a piece that is the whole text has its vector.

    :param model:
        The model (see `check_pieces`).
    :param texts:
        `c` texts.
    :param spans:
        As in `token_masks`.
    :param side:
        `query` or `document`.
    :returns:
        A function of the pass's features that gives `[c, m, d]`.
    """
    first, pooling, *others = route(model, side)
    taken: list[Tensor] = []

    def note(_module: Any, positional: Any, named: dict[str, Any]) -> None:
        taken.append(positional[0] if positional else named["hidden_states"])

    layer: nn.Module | None = layers_of(first.model)[-1] if pooling.pooling_mode == "cls" else None
    hook = None if layer is None else layer.register_forward_pre_hook(note, with_kwargs=True)

    def vectors(features: dict[str, torch.Tensor]) -> Tensor:
        masks = token_masks(model, list(texts), spans, side, features["attention_mask"])
        if not pooling.include_prompt:
            masks[:, :, : int(features.get("prompt_length", 0))] = False
        states = span_means(features["token_embeddings"], masks) if layer is None else reattend(layer, taken[0], masks)
        seen = {"sentence_embedding": states.flatten(0, 1)}
        for module in others:
            seen = module(seen)
        return seen["sentence_embedding"].unflatten(0, states.shape[:2])

    try:
        yield vectors
    finally:
        if hook is not None:
            hook.remove()
