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

from retort.students.encoding import (
    TOKENISED,
    collect,
    default_budget,
    image_patches,
    in_order,
    layer_entry,
    on_device,
    plan_chunks,
    recomputed,
)
from retort.students.images import ImageError, ImageFile, image_rows, open_image
from retort.students.layers import captured, evaluating, head_scores, layers_of
from retort.students.towers import reads_images

if TYPE_CHECKING:
    import torch
    from sentence_transformers import CrossEncoder
    from typing_extensions import TypeIs

Pair = tuple[str, str]  # a text and an image (`ImageFile`) of a ranker that reads both
SCORES = "scores"  # among what `score_chunks` gives


def is_ranker(model: Any) -> TypeIs[CrossEncoder]:
    """Tell a cross-encoder from a bi-encoder."""
    from sentence_transformers import CrossEncoder

    return isinstance(model, CrossEncoder)


def pair_prompt(model: CrossEncoder) -> str:
    """Return the prompt that a cross-encoder puts before each pair ('' if none)."""
    return model.prompts.get(model.default_prompt_name or "") or ""


def pair_token_counts(model: CrossEncoder, pairs: Sequence[Pair]) -> np.ndarray:
    """Count the tokens `[n]` of each pair after truncation."""
    if image_rows(item for pair in pairs for item in pair).any():
        words = [next((str(item) for item in pair if not isinstance(item, ImageFile)), "") for pair in pairs]
        ids = model.tokenizer(words, truncation=True, max_length=model.max_seq_length, verbose=False)["input_ids"]
        return np.array([len(row) for row in ids], dtype=np.int64) + image_patches(model[0])
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
    views: Sequence[str] = (),
) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
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
    :param views:
        `NAME` for what a module of the model leaves as `NAME_scores` in its features.
    :returns:
        Pairs of rows `[c]`, which partition `range(n)`, and what was computed for them, by name: `SCORES`, the logits
        `[c]`; `layer_entry(number)` `[c]`; each view `[c, ...]`.
    :raises ValueError:
        If no module of the model gives a view.
    """
    from sentence_transformers.base.modules import Transformer

    images = [item for pair in pairs for item in pair if isinstance(item, ImageFile)]
    if images and not reads_images(model):
        msg = f"{images[0]} is an image, and the ranker reads text alone. Take one that reads images."
        raise ImageError(msg)
    foreign = reads_images(model) and isinstance(model[0], Transformer)
    for chunk in plan_chunks(pair_token_counts(model, pairs), budget or default_budget(model)):

        def run(part: tuple[Pair, ...] = tuple(pairs[i] for i in chunk)) -> dict[str, torch.Tensor]:
            read = [told_apart(pair) for pair in part] if foreign else list(part)
            features = on_device(model, model.preprocess(read, prompt=pair_prompt(model) or None))
            return _forward_parts(model, features, layers, views)

        yield chunk, recomputed(run) if recompute else run()


def told_apart(pair: Pair) -> tuple[Any, Any]:
    """Say what both of a pair are: sentence-transformers would open a text that names an image's file or address."""
    first, second = ({"image": open_image(i)} if isinstance(i, ImageFile) else {"text": i} for i in pair)
    return first, second


def _forward_parts(
    model: CrossEncoder, features: dict[str, Any], layers: Sequence[int], views: Sequence[str]
) -> dict[str, torch.Tensor]:
    import torch

    inner = model[0].model
    with captured(layers_of(inner) if layers else torch.nn.ModuleList(), layers) as states:
        found = model(features)
    parts = {layer_entry(number): head_scores(inner, states[number]) for number in layers}
    for view in views:
        if (entry := f"{view}_scores") not in found:
            msg = f"no module of the ranker gives {entry}."
            raise ValueError(msg)
        parts[view] = found[entry]
    return parts | {SCORES: found["scores"].reshape(-1)}


def score_parts(model: CrossEncoder, pairs: Sequence[Pair], **options: Any) -> dict[str, torch.Tensor]:
    """Score pairs in their own order: by name `[n, ...]`; options and names as in `score_chunks`."""
    rows, parts = zip(*score_chunks(model, pairs, **options), strict=True)
    return {name: in_order(zip(rows, (part[name] for part in parts), strict=True)) for name in parts[0]}


def score_pairs(model: CrossEncoder, pairs: Sequence[Pair], **options: Any) -> torch.Tensor:
    """Score pairs into one tensor `[n]`, in their own order; options as in `score_chunks`."""
    return score_parts(model, pairs, **options)[SCORES]


def number_of_heads(model: CrossEncoder) -> int:
    """Count the heads of a ranker: 1 unless it was made with several."""
    from retort.students.modules.heads import ScoreHeads

    return model[-1].heads if isinstance(model[-1], ScoreHeads) else 1


def mean_share(scores: np.ndarray) -> np.ndarray:
    r"""
    Mean shares of a list's documents: $\frac1k \sum_j \mathrm{softmax}(s_j)$, as CERBERUS's published models rank.

    :param scores:
        `[n, k]` scores of a query's documents by `k` heads.
    :returns:
        `[n]`, which sum to 1.
    """
    shares = np.exp(scores - scores.max(0, initial=-np.inf))
    means: np.ndarray = (shares / shares.sum(0)).mean(1)
    return means


def score_numpy(
    model: CrossEncoder,
    pairs: Sequence[Pair],
    *,
    by_head: bool = False,
    budget: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """
    Score pairs for use, without gradients, whatever mode the model is in.

    :param model:
        The cross-encoder.
    :param pairs:
        `n` pairs of query and document, in any order.
    :param by_head:
        Give the scores of each head.
    :param budget:
        Padded tokens a chunk; by default what suits the device.
    :param progress:
        Called with the number of pairs after each chunk.
    :returns:
        `[n]` float32 logits, in the order of `pairs`; `[n, k]` by head.
    """
    import torch

    heads = number_of_heads(model)
    name, views = ("head", ["head"]) if by_head and heads > 1 else (SCORES, [])
    with evaluating(model), torch.inference_mode():
        parts = score_chunks(model, pairs, budget=budget, views=views) if pairs else ()
        chunks = ((rows, part[name].float().cpu().numpy()) for rows, part in parts)
        scores = collect(chunks, (len(pairs), heads) if views else (len(pairs),), progress)
    return scores[:, None] if by_head and not views else scores
