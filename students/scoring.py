# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Scoring pairs with a cross-encoder, in chunks of one list sorted by token count.

As in `retort.students.encoding`: one function for training and for use, the pairs of all queries in one list. Scores
are raw logits; whoever wants probabilities applies a sigmoid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retort.students.encoding import TOKENISED, collect, default_budget, in_order, on_device, plan_chunks, recomputed
from retort.students.layers import captured, evaluating, head_scores, layers_of

if TYPE_CHECKING:
    import torch
    from sentence_transformers import CrossEncoder
    from typing_extensions import TypeIs

Pair = tuple[str, str]


def is_ranker(model: Any) -> TypeIs[CrossEncoder]:
    """Tell a cross-encoder from a bi-encoder."""
    from sentence_transformers import CrossEncoder

    return isinstance(model, CrossEncoder)


def pair_prompt(model: CrossEncoder) -> str:
    """Return the prompt that a cross-encoder puts before each pair ('' if none)."""
    return model.prompts.get(model.default_prompt_name or "") or ""


def pair_token_counts(model: CrossEncoder, pairs: Sequence[Pair]) -> np.ndarray:
    """Count the tokens `[n]` of each pair after truncation."""
    prompt, limit = pair_prompt(model), model.max_seq_length
    options = {"truncation": limit is not None, "max_length": limit, "verbose": False}
    counts = np.empty(len(pairs), dtype=np.int64)
    for start in range(0, len(pairs), TOKENISED):
        part = pairs[start : start + TOKENISED]
        ids = model.tokenizer([prompt + query for query, _ in part], [document for _, document in part], **options)
        counts[start : start + len(part)] = [len(row) for row in ids["input_ids"]]
    return counts


def score_chunks(
    model: CrossEncoder,
    pairs: Sequence[Pair],
    *,
    budget: int | None = None,
    recompute: bool = False,
    layers: Sequence[int] = (),
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """
    Score pairs chunk by chunk, on the model's device, with gradients unless they are off.

    :param model:
        The cross-encoder, with one label.
    :param pairs:
        `n` pairs of query and document, in any order.
    :param budget:
        Padded tokens a chunk; by default what suits the device.
    :param recompute:
        Keep no activations for the backward pass (see `retort.students.encoding.recomputed`).
    :param layers:
        Layers, from 0, whose states the model's head scores as well.
    :returns:
        Pairs of rows `[c]` and their logits `[c]`; the rows partition `range(n)`. With `layers` they are `[c, l + 1]`,
        the model's own last.
    """
    for chunk in plan_chunks(pair_token_counts(model, pairs), budget or default_budget(model)):

        def run(part: tuple[Pair, ...] = tuple(pairs[i] for i in chunk)) -> torch.Tensor:
            features = on_device(model, model.preprocess(list(part), prompt=pair_prompt(model) or None))
            if layers:
                return _forward_layers(model, features, layers)
            return model(features)["scores"].reshape(-1)

        yield chunk, recomputed(run) if recompute else run()


def _forward_layers(model: CrossEncoder, features: dict[str, Any], layers: Sequence[int]) -> torch.Tensor:
    import torch

    inner = model[0].model
    with captured(layers_of(inner), layers) as states:
        own = model(features)["scores"].reshape(-1)
    return torch.stack([*(head_scores(inner, states[n]) for n in layers), own], dim=-1)


def score_pairs(model: CrossEncoder, pairs: Sequence[Pair], **options: Any) -> torch.Tensor:
    """Score pairs into one tensor `[n]`, or `[n, l + 1]`, in their own order; options as in `score_chunks`."""
    return in_order(score_chunks(model, pairs, **options))


def score_numpy(
    model: CrossEncoder,
    pairs: Sequence[Pair],
    *,
    budget: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """
    Score pairs for use, without gradients, whatever mode the model is in.

    :param model:
        The cross-encoder.
    :param pairs:
        `n` pairs of query and document, in any order.
    :param budget:
        Padded tokens a chunk; by default what suits the device.
    :param progress:
        Called with the number of pairs after each chunk.
    :returns:
        `[n]` float32 logits, in the order of `pairs`.
    """
    import torch

    with evaluating(model), torch.inference_mode():
        chunks = score_chunks(model, pairs, budget=budget) if pairs else ()
        return collect(((rows, scores.float().cpu().numpy()) for rows, scores in chunks), (len(pairs),), progress)
