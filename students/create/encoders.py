# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Whole encoders: pretrained, or of random weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from retort.students.files import resolve_model
from retort.students.loading import (
    Kwargs,
    assemble,
    in_training_dtype,
    load_tokenizer,
    open_model,
    take_place,
    transformers_kwargs,
)
from retort.students.makers import student_maker
from retort.students.seeding import seeded
from retort.students.towers import limit_length, longest_text, set_max_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sentence_transformers import SentenceTransformer


@student_maker
def pretrained(
    model: str,
    *,
    max_tokens: dict[str, int] | None = None,
    pooling: str | None = None,
    frozen: Sequence[str] = (),
    dim: int | None = None,
    normalize: bool | None = None,
    seed: int = 0,
    **options: Any,
) -> SentenceTransformer:
    """
    Start from a whole pretrained model: any sentence-transformers model or Hugging Face encoder.

    :param model:
        A folder, a Hub id, or `package:NAME/SUBFOLDER`.
    :param max_tokens:
        Lengths `{query, document}` at which texts are cut.
    :param pooling:
        A pooling mode of sentence-transformers, such as `cls`, in place of the model's own. An encoder of Hugging Face
        has none, and pools by `mean`.
    :param frozen:
        Parts that do not learn, by their names among the model's modules, such as `0.model.encoder`.
    :param dim:
        Give it a new head, a linear map to vectors of so many dimensions, such as a teacher's; it stays in the student.
    :param normalize:
        True gives its vectors length 1, where the model does not yet: an encoder of Hugging Face does not. False leaves
        them as they are before, for plain dot products; where directions alone were trained, lengths rank badly at
        first. By default as the model has it.
    :param seed:
        Seed of the head.
    :param options:
        Passed to `SentenceTransformer`, such as `revision`, `prompts`, `similarity_fn_name`, `trust_remote_code`, and
        to transformers, as `model_kwargs`, `tokenizer_kwargs`, `config_kwargs`. A dtype that these name is kept; else
        it is float32.
    :raises ValueError:
        If there is no part of such a name, `dim` is not above 0, or the model does not pool tokens.

    ```yaml
    student:
      type: retort.students.create.pretrained
      init_parameters: {model: intfloat/e5-small-v2, prompts: {query: "query: ", document: "passage: "}, dim: 256}
    ```
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize

    started = open_model(SentenceTransformer, resolve_model(model), device="cpu", **options)
    limit_length(started)
    set_max_tokens(started, **(max_tokens or {}))
    if pooling is not None:
        _set_pooling(started, model, pooling)
    if dim is not None:
        _put_head(started, dim, seed)
    if normalize and not any(isinstance(module, Normalize) for module in started):
        started.append(Normalize())
    elif normalize is False and isinstance(started[-1], Normalize):
        started.pop(-1)
    parts = dict(started.named_modules())
    for name in [frozen] if isinstance(frozen, str) else frozen:
        if name not in parts:
            shown = ", ".join(n for n in parts if n.count(".") in (0, 1, 2) and n)
            msg = f"frozen: {model} has no part {name!r}. Its parts: {shown}, and theirs."
            raise ValueError(msg)
        parts[name].requires_grad_(False)
    return in_training_dtype(started, options)


@student_maker
def from_config(
    config: dict[str, Any],
    tokenizer: str,
    *,
    pooling: str = "mean",
    max_tokens: dict[str, int] | None = None,
    dim: int | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    model_kwargs: Kwargs = None,
    tokenizer_kwargs: Kwargs = None,
    config_kwargs: Kwargs = None,
    **options: Any,
) -> SentenceTransformer:
    """
    Start from random weights.

    :param config:
        A transformers configuration, with its `model_type`; `vocab_size` is taken from the tokenizer if not given.
    :param tokenizer:
        Folder, Hub id or `package:` name of a model or tokenizer to take the tokenizer from.
    :param pooling:
        A pooling mode of sentence-transformers; vectors are then normalised.
    :param max_tokens:
        Lengths `{query, document}` at which texts are cut.
    :param dim:
        As of `pretrained`.
    :param seed:
        Seed of the weights.
    :param trust_remote_code:
        Run code that the tokenizer brings along.
    :param model_kwargs:
        Passed to transformers with the weights, such as `attn_implementation`.
    :param tokenizer_kwargs:
        Passed to transformers with the tokenizer's name.
    :param config_kwargs:
        Passed to transformers with the configuration.
    :param options:
        `revision`, `token`, `local_files_only`, `cache_folder` of the tokenizer; others are passed to
        `SentenceTransformer`.
    :raises ValueError:
        If the configuration names no `model_type`.

    ```yaml
    student:
      type: retort.students.create.from_config
      init_parameters:
        config: {model_type: bert, hidden_size: 128, num_hidden_layers: 2, num_attention_heads: 2}
        tokenizer: google-bert/bert-base-multilingual-cased
        max_tokens: {query: 64, document: 256}
    ```
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import AutoConfig, AutoModel

    if "model_type" not in config:
        msg = "config: name its model_type, for example {model_type: bert, hidden_size: 128, num_hidden_layers: 2}."
        raise ValueError(msg)
    kwargs = transformers_kwargs(
        model_kwargs=model_kwargs, tokenizer_kwargs=tokenizer_kwargs, config_kwargs=config_kwargs
    )
    loading = kwargs.pop("processor_kwargs") | take_place(options)
    words = load_tokenizer(tokenizer, trust_remote_code=trust_remote_code, **loading)
    fields = {"vocab_size": len(words), "pad_token_id": words.pad_token_id} | config
    with seeded(seed):
        encoder = AutoModel.from_config(AutoConfig.for_model(**fields))
    first = encoder_module(encoder, words, **kwargs)
    if (limit := longest_text(encoder)) < (first.max_seq_length or math.inf):
        first.max_seq_length = int(limit)
    pool = Pooling(first.get_embedding_dimension(), pooling_mode=pooling)
    started = assemble(SentenceTransformer, [first, pool, Normalize()], **options)
    set_max_tokens(started, **(max_tokens or {}))
    if dim is not None:
        _put_head(started, dim, seed)
    return started


def encoder_module(encoder: Any, tokenizer: Any, **kwargs: Any) -> Any:
    """Wrap an encoder of transformers for sentence-transformers; `kwargs` as `transformers_kwargs` gives them."""
    import tempfile

    from safetensors.torch import save_model
    from sentence_transformers.base.modules import Transformer

    with tempfile.TemporaryDirectory() as folder:  # it only loads from a folder or the Hub
        # Not `encoder.save_pretrained`: in a run of several processes it writes on the first alone.
        encoder.config.to_json_file(f"{folder}/config.json", use_diff=False)
        save_model(encoder, f"{folder}/model.safetensors", metadata={"format": "pt"})
        tokenizer.save_pretrained(folder)
        return Transformer(folder, **kwargs)


def _set_pooling(model: SentenceTransformer, name: str, mode: str) -> None:
    """Let a model pool in another way, in place."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    place = next((place for place, module in enumerate(model) if isinstance(module, Pooling)), None)
    if place is None:
        msg = f"pooling: {name} pools no tokens."
        raise ValueError(msg)
    former: Any = model[place]
    model[place] = Pooling(former.embedding_dimension, pooling_mode=mode, include_prompt=former.include_prompt)


def _put_head(model: SentenceTransformer, dim: int, seed: int) -> None:
    """Put a linear map behind a model, in place; what normalises vectors stays last."""
    from sentence_transformers.base.modules import Dense, Normalize

    if dim < 1:
        msg = f"dim={dim}: a vector has at least one dimension."
        raise ValueError(msg)
    width = int(model.get_embedding_dimension() or 0)
    place = len(model) - isinstance(model[-1], Normalize)
    with seeded(seed):
        model.insert(place, Dense(width, dim, activation_function=None))
