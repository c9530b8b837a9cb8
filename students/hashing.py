# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
The two hashes of a student.

`space` identifies the document side: vectors of two students with one space can be compared. `fingerprint` identifies
one exact artefact and backend. Both are sha256 over tensors (name, dtype, shape, bytes) and canonical JSON of what
decides a model's function, never over file bytes, so that a plain save and load keeps them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retort.students.adapters import merge_adapters
from retort.students.images import image_processor
from retort.students.scoring import is_ranker, pair_prompt
from retort.students.towers import Side, max_tokens, prompt_for, route

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from torch import nn

# Configuration that says where a model came from or how it was trained, not what it computes.
_NOT_SEMANTIC = {
    "transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path", "name_or_path", "use_cache",
    "initializer_range", "gradient_checkpointing", "tokenizer_class", "tie_word_embeddings", "hidden_dropout_prob",
    "attention_probs_dropout_prob", "classifier_dropout", "dropout", "attention_dropout", "embd_pdrop",
}  # fmt: skip

# What an image processor does to an image.
_IMAGE_SETTINGS = {
    "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize",
    "image_mean", "image_std", "do_convert_rgb", "do_pad", "size_divisor",
}  # fmt: skip


def space_of(model: SentenceTransformer, *, images: bool = True) -> str:
    """
    Hash the document side's weights, tokenizer, pooling, prompt and length: what decides an index's vectors.

    :param model:
        The model.
    :param images:
        Whether how it prepares images counts, of a model that reads them; earlier versions took such for text alone.
    """
    from retort.students.modules.remote import RemoteDocuments

    first = route(model, "document")[0]
    if isinstance(first, RemoteDocuments):
        if first.source is None:
            msg = "remote_documents: what embeds the documents is known once a recipe with this teacher was trained."
            raise ValueError(msg)
        return remote_space(**first.source)
    model = merge_adapters(model)
    sides = {"document": _side(model, "document", images=images)}
    return _digest(route(model, "document"), {"sides": sides} | _truncation(model))


def remote_space(
    *,
    provider: str,
    model: str,
    revision: str | None,
    dimensions: int,
    prompt: str = "",
    separator: str = "",
    meta_fields: Sequence[str] = (),
    **more: Any,
) -> str:
    """
    Hash what decides the vectors of documents that a component outside embeds, as an API does.

    :param provider:
        Type of the component.
    :param model:
        Its name for the model.
    :param revision:
        The model's version, as the user names it; None of local ones.
    :param dimensions:
        Length of the vectors.
    :param prompt:
        Put before each document.
    :param separator:
        Stands between meta fields and content; without meta fields it decides nothing.
    :param meta_fields:
        Meta fields that are embedded, in their order.
    :param more:
        What else decides the vectors, such as a suffix or a kind of input.
    """
    described = {
        "provider": provider,
        "model": model,
        "revision": revision,
        "dimensions": dimensions,
        "prompt": prompt,
        "separator": separator if meta_fields else "",
        "meta_fields": list(meta_fields),
    }
    return hash_text(canonical_json(described | more))


def fingerprint_of(model: SentenceTransformer | CrossEncoder, *, backend: str = "torch", images: bool = True) -> str:
    """
    Hash everything that decides what this exact artefact computes, on both sides (of a ranker: for a pair).

    :param model:
        The model.
    :param backend:
        What runs it.
    :param images:
        As of `space_of`.
    """
    model = merge_adapters(model)
    if is_ranker(model):
        pair = {"prompt": pair_prompt(model), "max_tokens": model.max_seq_length}
        config = {"backend": backend, "pair": {**pair, "modules": [_semantics(module) for module in model.children()]}}
        return _digest(list(model.children()), config)
    sides = {side: _side(model, side, images=images) for side in ("query", "document")}
    similarity = model.similarity_fn_name
    config = {"backend": backend, "sides": sides, "similarity": similarity} | _truncation(model)
    return _digest(list(model.children()), config)


def _truncation(model: SentenceTransformer) -> dict[str, Any]:
    """Name the dimension to which a model cuts its vectors; nothing if it keeps them whole."""
    dim: int | None = getattr(model, "truncate_dim", None)  # sparse models have none
    return {} if dim is None else {"truncate_dim": dim}


def hash_text(text: str) -> str:
    """Hash a canonical text to 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def _side(model: SentenceTransformer, side: Side, *, images: bool = True) -> dict[str, Any]:
    return {
        "prompt": prompt_for(model, side),
        "max_tokens": max_tokens(model, side),
        "modules": [_semantics(module, images=images) for module in route(model, side)],
    }


def _digest(modules: Iterable[nn.Module], config: dict[str, Any]) -> str:
    """Module positions, not a Router's names, prefix the tensor names: a tower has one hash wherever it stands."""
    tensors = {f"{i}.{name}": t for i, module in enumerate(modules) for name, t in module.state_dict().items()}
    return hash_tensors(tensors, canonical_json(config))


def hash_tensors(tensors: Mapping[str, Any], text: str = "") -> str:
    """Hash tensors and their names, after a text, to 64 hexadecimal digits."""
    import torch

    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _semantics(module: Any, *, images: bool = True) -> dict[str, Any]:
    from sentence_transformers.base.modules import Transformer

    from retort.students.modules.fusion import FusionScorer, TowerFusion

    found: dict[str, Any] = {"class": type(module).__name__}
    if isinstance(module, Transformer):
        found["config"] = _clean(module.config.to_dict())
        found["task"] = module.transformer_task
    elif hasattr(module, "get_config_dict"):
        found["config"] = _clean(module.get_config_dict())
    if isinstance(module, FusionScorer):
        found["model"] = _clean(module.config.to_dict())
    if isinstance(module, TowerFusion):
        found["towers"] = {side: _side(module.towers, side) for side in ("query", "document")}
    tokenizer = getattr(module, "tokenizer", None)
    if tokenizer is not None:
        found["tokenizer"] = hash_text(_tokenizer_json(tokenizer))
    if own := own_preparation(module):
        found["preparation"] = own
    if images and "image" in getattr(module, "modalities", ()) and (pictures := image_processor(module)) is not None:
        # Not its class, nor what the run of it needs: a machine with torchvision has another, which does the same.
        settings = pictures.to_dict()
        found["images"] = {name: settings[name] for name in sorted(_IMAGE_SETTINGS & settings.keys())}
    return found


def own_preparation(module: Any) -> dict[str, Any]:
    """
    List what a module does to texts before its weights see them, beside its prompt and its length.

    :returns:
        Empty of all but a few models.
    """
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    found = {name: getattr(module, name, None) for name in ("processing_kwargs", "query_expansion")}
    tokenizer: Any = getattr(module, "tokenizer", None)
    if getattr(tokenizer, "truncation_side", "right") != "right":
        found["truncation_side"] = tokenizer.truncation_side
    if isinstance(module, StaticEmbedding) and tokenizer.truncation:
        found["truncation"] = tokenizer.truncation
    return {name: value for name, value in found.items() if value}


def _clean(config: dict[str, Any]) -> dict[str, Any]:
    """Drop what is unset too: libraries add unset fields from one version to the next."""
    return {
        key: _clean(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _NOT_SEMANTIC and value is not None and value is not False
    }


def _tokenizer_json(tokenizer: Any) -> str:
    if not hasattr(tokenizer, "to_str"):  # a transformers tokenizer: fast ones wrap a tokenizers.Tokenizer
        if not tokenizer.is_fast:
            return canonical_json([type(tokenizer).__name__, tokenizer.get_vocab(), tokenizer.special_tokens_map])
        tokenizer = tokenizer.backend_tokenizer
    config = json.loads(tokenizer.to_str())
    # State of the last call, not of the tokenizer.
    return canonical_json({key: value for key, value in config.items() if key not in {"truncation", "padding"}})
