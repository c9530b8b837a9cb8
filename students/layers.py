# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Where an encoder keeps its layers, what they put out, and what a model's head makes of that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

# Where an architecture keeps its stack of equal layers, and which configuration field counts them.
_LAYERS = {
    **dict.fromkeys(
        ["bert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet", "deberta-v2", "ernie", "vilt"],
        ("encoder.layer", "num_hidden_layers"),
    ),
    "distilbert": ("transformer.layer", "n_layers"),
}


def layer_stack(model: Any) -> tuple[str, str]:
    """
    Name where a transformers model, with or without a head, keeps its layers, and the field that counts them.

    Of an architecture that is not listed here it is the one list of as many modules as the configuration counts.

    :raises ValueError:
        If there is no such list, or several.
    """
    encoder = model.base_model
    kind = encoder.config.model_type
    if kind in _LAYERS:
        return _LAYERS[kind]
    count: str = (getattr(encoder.config, "attribute_map", None) or {}).get("num_hidden_layers", "num_hidden_layers")
    stacks = _lists_of(encoder, getattr(encoder.config, count, None))
    if len(stacks) != 1:
        msg = (
            f"where {kind!r} keeps its layers is not known; it is for {_known()}, and where one list alone has as many "
            f"modules as {count} says."
        )
        raise ValueError(msg)
    return stacks[0], count


def _lists_of(encoder: nn.Module, size: int | None) -> list[str]:
    """Name the lists of so many modules; of lists within lists the outer one."""
    from torch import nn

    found: list[str] = []
    for name, module in encoder.named_modules():
        if (
            isinstance(module, nn.ModuleList)
            and len(module) == size
            and not name.startswith(tuple(f"{n}." for n in found))
        ):
            found.append(name)
    return found


def _known() -> str:
    return ", ".join(sorted(_LAYERS))


def has_known_layers(model: Any) -> bool:
    """Tell whether a transformers model's architecture is among those listed here."""
    return model.base_model.config.model_type in _LAYERS


def check_states(model: Any) -> None:
    """
    Refuse a transformers model whose layers' states may not be what its head reads.

    Many architectures normalise states only behind the last layer.

    :raises ValueError:
        If its architecture is not among those listed here.
    """
    if not has_known_layers(model):
        kind = model.base_model.config.model_type
        msg = f"what {kind!r} does behind its last layer is not known; it is for {_known()}."
        raise ValueError(msg)


def layers_of(model: Any) -> nn.ModuleList:
    """Return a transformers model's stack of layers; errors as in `layer_stack`."""
    stack: nn.ModuleList = model.base_model.get_submodule(layer_stack(model)[0])
    return stack


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within; then each module has its own mode back: what is frozen may be in another."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def set_dropout(model: nn.Module, share: float) -> None:
    """Set the dropout of a whole model; its configuration, and so what is saved, stays."""
    from torch.nn import Dropout

    for module in model.modules():
        if isinstance(module, Dropout):
            module.p = share
        for name in ("dropout_prob", "attention_dropout"):  # attention that is computed in one piece has a number
            if isinstance(module.__dict__.get(name), float):
                setattr(module, name, share)


def attend_step_by_step(model: nn.Module) -> None:
    """
    Let every transformer in a model compute attention with plain matrix products.

    The fused kernels for CPUs are slow at the backward pass in bf16; a step takes up to 1.8 times as long with them.
    """
    from transformers import PreTrainedModel

    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.set_attn_implementation("eager")


def collect_rows(model: nn.Module) -> None:
    """
    Let the token embeddings of a whole model give gradients of the rows that were looked up, not of whole tables.

    A table's gradient is as large as the table, and every chunk of texts writes one: on CPUs 8% of a step of short
    texts. `join_rows` makes one of them, once a step.
    """
    from torch.nn import Embedding, EmbeddingBag

    for module in model.modules():
        if isinstance(module, Embedding | EmbeddingBag):
            module.sparse = True


def join_rows(parameters: Iterable[Tensor]) -> None:
    """Turn gradients of rows into what they would have been without `collect_rows`, in place."""
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.to_dense()


def note_word_weights(model: nn.Module) -> None:
    """Copy learned weights of words into their module's configuration: sentence-transformers loads them from there."""
    from sentence_transformers.sentence_transformer.modules import WordWeights

    for module in model.modules():
        if isinstance(module, WordWeights):
            weights = module.emb_layer.weight.detach()[:, 0].tolist()
            module.word_weights = dict(zip(module.vocab, weights, strict=True))


@contextmanager
def captured(stack: nn.ModuleList, wanted: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """
    Note what some layers put out in forward passes within.

    :param stack:
        The layers.
    :param wanted:
        Which, from 0.
    :returns:
        Filled in the forward pass: per layer its states `[c, t, h]`.
    """
    states: dict[int, Tensor] = {}

    def noting(number: int) -> Any:
        def note(_module: Any, _given: Any, out: Any) -> None:
            states[number] = out[0] if isinstance(out, tuple) else out

        return note

    hooks = [stack[number].register_forward_hook(noting(number)) for number in wanted]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def head_scores(model: Any, states: Tensor) -> Tensor:
    """
    Score states with a sequence classification model's head, as it scores its last layer's.

    :param model:
        A transformers model for sequence classification.
    :param states:
        `[c, t, h]` states of any of its layers.
    :returns:
        `[c]`, of its first label.
    :raises ValueError:
        As `check_states`.
    """
    check_states(model)
    parts, base = dict(model.named_children()), dict(model.base_model.named_children())
    pooler = base.get("pooler") or parts.get("pooler")
    if "pre_classifier" in parts:  # DistilBERT
        states = parts["pre_classifier"](states[:, 0]).relu()
    elif pooler is not None:  # BERT, DeBERTa
        states = pooler(states)
    # Heads of RoBERTa's kind choose the first token themselves.
    dropped = parts["dropout"](states) if "dropout" in parts else states
    scores: Tensor = parts["classifier"](dropped)
    return scores[:, 0]
