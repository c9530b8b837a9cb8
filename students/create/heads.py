# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Encoders with another head: rankers, sparse vectors, a vector a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retort.students.create.layers import cut_layers
from retort.students.files import resolve_model
from retort.students.loading import (
    PLACE,
    Kwargs,
    assemble,
    in_training_dtype,
    open_model,
    place_for_transformers,
    refuse_remote_code,
    take_place,
    transformers_kwargs,
)
from retort.students.makers import student_maker
from retort.students.seeding import seeded
from retort.students.towers import limit_length, longest_text, set_max_tokens

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, MultiVectorEncoder, SparseEncoder

FEWEST_PAIR_TOKENS = 5  # three special ones and two words
VOCABULARY_SAMPLE, VOCABULARY_SHARE = 200, 0.01


@student_maker
def ranker(
    trunk: str,
    *,
    layers: list[int] | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    **options: Any,
) -> CrossEncoder:
    """
    Start a ranker: a cross-encoder with one score a pair.

    :param trunk:
        A cross-encoder, whose head is kept; or any Hugging Face or sentence-transformers encoder, which gets a new
        head. A folder, a Hub id, or `package:NAME/SUBFOLDER`.
    :param layers:
        Indexes of the layers to keep, from 0, in ascending order; by default all.
    :param max_tokens:
        Length at which a pair is cut, special tokens included.
    :param seed:
        Seed of a new head.
    :param trust_remote_code:
        Run code that the trunk brings along.
    :param options:
        Passed to `CrossEncoder`, such as `revision`, `model_kwargs`, `tokenizer_kwargs` and `config_kwargs`.
    :raises ValueError:
        If the layers or the length are not there, or the trunk gives several scores a pair.

    ```yaml
    student:
      type: retort.students.create.ranker
      init_parameters: {trunk: intfloat/e5-small-v2, layers: [0, 3, 7, 11], max_tokens: 256}
    ```
    """
    from sentence_transformers import CrossEncoder

    path = resolve_model(trunk)
    place = {name: options[name] for name in PLACE if name in options}
    with seeded(seed):
        heads = _architectures(path, place, trust_remote_code=trust_remote_code)
        scores_pairs = any("For" in name for name in heads)
        started = open_model(
            CrossEncoder,
            path,
            device="cpu",
            num_labels=None if scores_pairs else 1,  # a new head must be asked for
            trust_remote_code=trust_remote_code,
            **options,
        )
    if started.num_labels != 1:
        msg = f"ranker: {trunk} gives {started.num_labels} scores a pair; a ranker gives one."
        raise ValueError(msg)
    if layers is not None:
        cut_layers(started[0].model, layers, trunk)
    limit_length(started)
    if max_tokens is not None:
        limit = longest_text(started[0])
        if not FEWEST_PAIR_TOKENS <= max_tokens <= limit:
            between = f"between {FEWEST_PAIR_TOKENS} and the model's {limit} positions"
            msg = f"max_tokens={max_tokens}: must lie {between}."
            raise ValueError(msg)
        started.max_seq_length = max_tokens
    return in_training_dtype(started, options)


def _architectures(path: str, place: dict[str, Any], *, trust_remote_code: bool) -> list[str]:
    """Look up for which tasks a model has heads already."""
    from transformers import AutoConfig

    refuse_remote_code(path, trust_remote_code=trust_remote_code)
    loading = place_for_transformers(place)
    return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **loading).architectures or []


@student_maker
def late_interaction(
    model: str, *, max_tokens: dict[str, int] | None = None, seed: int = 0, **options: Any
) -> MultiVectorEncoder:
    """
    Start from a model with a vector a token (ColBERT), or make one of an encoder, with a new projection.

    :param model:
        A folder, a Hub id, or `package:NAME/SUBFOLDER`.
    :param max_tokens:
        Lengths `{query, document}` at which texts are cut.
    :param seed:
        Seed of a new projection.
    :param options:
        Passed to `MultiVectorEncoder`, such as `revision`, `trust_remote_code`, `model_kwargs`, `tokenizer_kwargs` and
        `config_kwargs`.

    ```yaml
    student:
      type: retort.students.create.late_interaction
      init_parameters: {model: colbert-ir/colbertv2.0, max_tokens: {query: 32, document: 180}}
    ```
    """
    from sentence_transformers import MultiVectorEncoder

    with seeded(seed):
        started = open_model(MultiVectorEncoder, resolve_model(model), device="cpu", **options)
    limit_length(started)
    set_max_tokens(started, **(max_tokens or {}))
    return in_training_dtype(started, options)


@student_maker
def sparse(
    trunk: str,
    *,
    layers: list[int] | None = None,
    max_tokens: dict[str, int] | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    model_kwargs: Kwargs = None,
    tokenizer_kwargs: Kwargs = None,
    config_kwargs: Kwargs = None,
    **options: Any,
) -> SparseEncoder:
    r"""
    Start a student with sparse vectors over the vocabulary (SPLADE, Formal et al. 2021).

    $$v_j = \max_i \log(1 + \mathrm{ReLU}(w_{ij}))$$

    where $w_{ij}$ is what the masked-language-model head gives token $i$ for word $j$.

    :param trunk:
        Any Hugging Face or sentence-transformers encoder. One without that head gets a new one, which compares states
        with word embeddings and lets through one word in a hundred: texts start as their own words and near ones. A
        folder, a Hub id, or `package:NAME/SUBFOLDER`.
    :param layers:
        Indexes of the layers to keep, from 0, in ascending order; by default all.
    :param max_tokens:
        Lengths `{query, document}` at which texts are cut.
    :param seed:
        Seed of what else is new.
    :param trust_remote_code:
        Run code that the trunk brings along.
    :param model_kwargs:
        Passed to transformers, as are the next two; see `pretrained`.
    :param tokenizer_kwargs:
        Likewise.
    :param config_kwargs:
        Likewise.
    :param options:
        `revision`, `token`, `local_files_only`, `cache_folder` of the trunk; others are passed to `SparseEncoder`, such
        as `prompts`.
    :raises ValueError:
        If the layers or the lengths are not there.

    ```yaml
    student:
      type: retort.students.create.sparse
      init_parameters: {trunk: distilbert/distilbert-base-uncased, max_tokens: {query: 32, document: 256}}
    ```
    """
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    path = resolve_model(trunk)
    place = take_place(options)
    heads = _architectures(path, place, trust_remote_code=trust_remote_code)
    has_head = any(name.endswith("ForMaskedLM") for name in heads)
    kwargs = transformers_kwargs(
        model_kwargs=model_kwargs, tokenizer_kwargs=tokenizer_kwargs, config_kwargs=config_kwargs
    )
    loading: dict[str, Any] = {
        name: {**place_for_transformers(place), **values, "trust_remote_code": trust_remote_code}
        for name, values in kwargs.items()
    }
    loading["transformer_task"] = "fill-mask"
    with seeded(seed):
        try:
            first = Transformer(path, **loading)
        except ValueError:  # a folder of modules: the first is the encoder
            first = Transformer(f"{path}/0_Transformer", **loading)
    if layers is not None:
        cut_layers(first.model, layers, trunk)
    pool = SpladePooling(pooling_strategy="max", embedding_dimension=first.config.get_text_config().vocab_size)
    started = assemble(SparseEncoder, [first, pool], **options)
    started = in_training_dtype(started, {"model_kwargs": model_kwargs, "config_kwargs": config_kwargs})
    if not has_head:
        _start_vocabulary_head(first)
    limit_length(started)
    set_max_tokens(started, **(max_tokens or {}))
    return started


def _start_vocabulary_head(encoder: Any) -> None:
    """Let a new head compare states with word embeddings; what most words give each other counts as nothing."""
    import torch

    parts = dict(encoder.model.named_modules())
    dense = next((m for n, m in parts.items() if n.endswith(("transform.dense", "lm_head.dense"))), None)
    words = encoder.model.get_output_embeddings()
    if dense is None or words.bias is None:
        return
    vocabulary = sorted(encoder.tokenizer.get_vocab())
    some = [word for word in vocabulary if word.isalpha()][:: max(1, len(vocabulary) // VOCABULARY_SAMPLE)]
    with torch.no_grad():
        dense.weight.copy_(torch.eye(len(dense.weight)))
        dense.bias.zero_()
        logits = encoder(encoder.preprocess(some))["token_embeddings"].amax(1)
        place = round((1 - VOCABULARY_SHARE) * logits.numel())
        words.bias.fill_(-float(logits.flatten().kthvalue(place).values))
