# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Some layers of a pretrained trunk, as they are or on a static student's token vectors."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from retort.students.create.encoders import pretrained
from retort.students.layers import has_known_layers, layer_stack, layers_of
from retort.students.loading import Kwargs, assemble, take_place
from retort.students.makers import student_maker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sentence_transformers import SentenceTransformer
    from torch import nn


@student_maker
def from_layers(
    trunk: str, layers: list[int], *, max_tokens: dict[str, int] | None = None, **options: Any
) -> SentenceTransformer:
    """
    Start from some layers of a pretrained trunk; embeddings, pooling and what follows are kept.

    :param trunk:
        A folder, a Hub id, or `package:NAME/SUBFOLDER`.
    :param layers:
        Indexes of the layers to keep, from 0, in ascending order.
    :param max_tokens:
        Lengths `{query, document}` at which texts are cut.
    :param options:
        As of `pretrained`.
    :raises ValueError:
        If the layers are not there, or where this architecture keeps its layers is not known.

    ```yaml
    student:
      type: retort.students.create.from_layers
      init_parameters: {trunk: intfloat/e5-base-v2, layers: [0, 3, 7, 11], max_tokens: {query: 64, document: 256}}
    ```
    """
    started = pretrained(trunk, max_tokens=max_tokens, **options)
    cut_layers(started[0].model, layers, trunk)
    return started


@student_maker
def layers_on_static(
    table: str,
    trunk: str,
    layers: list[int],
    *,
    max_tokens: dict[str, int] | None = None,
    trust_remote_code: bool = False,
    model_kwargs: Kwargs = None,
    tokenizer_kwargs: Kwargs = None,
    config_kwargs: Kwargs = None,
    **options: Any,
) -> SentenceTransformer:
    r"""
    Start from some layers of a trunk that change nothing yet, on the token vectors of a static student.

    A table learns in minutes what its teacher makes of words; layers learn what words make of each other. Token $t$ of
    the table, $v_t$, becomes the embedding $v_t / \|v_t\|$ with the weight $\|v_t\|$ in the mean (`WordWeights` of
    sentence-transformers). Positions start at 0, and so do the maps that carry what attention and feed-forward networks
    found back into the stream: each layer then normalises what is normal already. All else is the trunk's.

    :param table:
        Folder of a static student over the trunk's vocabulary, as wide as the trunk.
    :param trunk:
        A folder, a Hub id, or `package:NAME/SUBFOLDER` of a model of BERT's kind.
    :param layers:
        Indexes of the trunk's layers to keep, from 0, in ascending order.
    :param max_tokens:
        Lengths `{query, document}` at which texts are cut.
    :param trust_remote_code:
        Run code that table and trunk bring along.
    :param model_kwargs:
        Passed to transformers for the trunk, as are the next two; see `pretrained`.
    :param tokenizer_kwargs:
        Likewise.
    :param config_kwargs:
        Likewise.
    :param options:
        `revision` of the trunk, and `token`, `local_files_only`, `cache_folder` of trunk and table; others are passed
        to `SentenceTransformer`.
    :raises ValueError:
        If the table is none, or another vocabulary's or width's, or the trunk's layers are not known.

    ```yaml
    student:
      type: retort.students.create.layers_on_static
      init_parameters: {table: runs/static/student, trunk: intfloat/e5-small-v2, layers: [0, 1]}
    ```
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, WordWeights
    from torch import nn

    kwargs: dict[str, Any] = {
        "model_kwargs": model_kwargs,
        "tokenizer_kwargs": tokenizer_kwargs,
        "config_kwargs": config_kwargs,
        **take_place(options, "revision"),
    }
    both = {"trust_remote_code": trust_remote_code, **take_place(options)}
    first: Any = from_layers(trunk, layers, max_tokens=max_tokens, **both, **kwargs)[0]
    words = first.tokenizer
    tower: Any = pretrained(table, **both)[0]
    if not isinstance(tower, StaticEmbedding):
        msg = f"layers_on_static: {table} is no static student; make one with the recipe `static`."
        raise ValueError(msg)
    vectors = tower.embedding.weight.detach()
    encoder = first.model
    width = encoder.config.hidden_size
    if tower.tokenizer.get_vocab() != words.get_vocab() or vectors.shape[1] != width:
        msg = f"layers_on_static: {table} has another vocabulary than {trunk}, or not its {width} dimensions."
        raise ValueError(msg)
    parts = dict(encoder.named_modules())
    carried = [n for n in parts if n.endswith(".output.dense")]
    if len(carried) != 2 * len(layers):
        msg = f"layers_on_static: {encoder.config.model_type!r} is not built as BERT is; give another trunk."
        raise ValueError(msg)
    norms = vectors.norm(dim=1)
    with torch.no_grad():
        for name, parameter in encoder.embeddings.named_parameters():
            if "LayerNorm" not in name:
                parameter.zero_()
        encoder.embeddings.word_embeddings.weight[: len(norms)] = vectors / norms.clamp(min=1e-12)[:, None]
        for part in parts.values():
            if isinstance(part, nn.LayerNorm):
                nn.init.ones_(part.weight)
                nn.init.zeros_(part.bias)
        for name in carried:
            nn.init.zeros_(parts[name].weight)
            nn.init.zeros_(parts[name].bias)
    vocabulary = words.convert_ids_to_tokens(list(range(len(norms))))
    weights = WordWeights(vocabulary, dict(zip(vocabulary, (norms / norms.mean()).tolist(), strict=True)))
    return assemble(SentenceTransformer, [first, weights, Pooling(width), Normalize()], **options)


def cut_layers(model: Any, layers: list[int], trunk: str) -> None:
    """
    Keep some layers of a transformers model, in place.

    :param model:
        The model, with or without a head.
    :param layers:
        Indexes of the layers to keep, from 0, in ascending order.
    :param trunk:
        Its name, for messages.
    :raises ValueError:
        If there are no such layers, where this architecture keeps its layers is not known, or a layer that is kept
        would be built otherwise at its new place.
    """
    try:
        stack = layers_of(model)
    except ValueError as error:
        msg = f"Cutting layers: {error} Use `pretrained`."
        raise ValueError(msg) from error
    if not layers or sorted(set(layers)) != layers or not 0 <= layers[0] <= layers[-1] < len(stack):
        msg = f"layers={layers}: {trunk} has {len(stack)} layers; give ascending indexes from 0 to {len(stack) - 1}."
        raise ValueError(msg)
    keep_layers(model, layers)
    if not has_known_layers(model) and (odd := _built_otherwise(model)) is not None:
        msg = (
            f"layers={layers}: layer {layers[odd]} of {trunk} would be number {odd}, which {model.config.model_type} "
            "builds otherwise, so that the student could not be loaded. Keep layers of one kind, and the first."
        )
        raise ValueError(msg)


def _built_otherwise(model: Any) -> int | None:
    """Return the first layer, if any, that a model of the same configuration has otherwise."""
    import torch

    encoder = model.base_model
    with torch.device("meta"):
        other = type(encoder)(copy.deepcopy(encoder.config))
    for place, pair in enumerate(zip(layers_of(model), layers_of(other), strict=True)):
        own, theirs = ([_facts(name, part) for name, part in layer.named_modules()] for layer in pair)
        if own != theirs:
            return place
    return None


def _facts(name: str, module: nn.Module) -> tuple[Any, ...]:
    """Say what a module is, but for the values of its weights: its class, their sizes, and its numbers and names."""
    sizes = {weight: tuple(values.shape) for weight, values in module.named_parameters(recurse=False)}
    plain = {
        attribute: value
        for attribute, value in vars(module).items()
        if isinstance(value, bool | int | float | str) and attribute != "training" and not attribute.startswith("_")
    }
    return name, type(module), sizes, plain


def keep_layers(model: Any, layers: Iterable[int]) -> None:
    """Keep some layers of a transformers model, or none, in place; errors as in `layer_stack`."""
    from torch import nn

    encoder = model.base_model  # without a ranker's head
    stack_name, count_name = layer_stack(model)
    stack, parent, leaf = layers_of(model), *stack_name.rpartition(".")[::2]
    layers = list(layers)
    kept = nn.ModuleList(stack[i] for i in layers)
    setattr(encoder.get_submodule(parent), leaf, kept)
    for name, value in encoder.config.to_dict().items():
        if "layer" in name and isinstance(value, list) and len(value) == len(stack):  # such as layer_types
            setattr(encoder.config, name, [value[i] for i in layers])
    setattr(encoder.config, count_name, len(kept))
    for place, layer in enumerate(kept):
        parts: list[Any] = list(layer.modules())
        for module in parts:
            if hasattr(module, "layer_idx"):  # where a decoder's layer finds its cache
                module.layer_idx = place
