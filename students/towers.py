# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The two sides of a bi-encoder: which modules, prompt and length a query or a document goes through."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel
    from torch import nn

Side = Literal["query", "document"]
Modality = Literal["text", "image"]
SIDES: tuple[Side, Side] = ("query", "document")

_FEWEST_TOKENS = 3  # two special ones and a word

# In the order in which sentence-transformers' encode_query and encode_document look them up.
_PROMPT_NAMES = {"query": ("query",), "document": ("document", "passage", "corpus")}
PROMPT_NAMES = tuple(chain.from_iterable(_PROMPT_NAMES.values()))


def reads_images(model: BaseModel) -> bool:
    """Tell a model that places images and texts in one space from one that reads texts alone."""
    return "image" in model.modalities


def modality_of(model: BaseModel, side: Side) -> Modality:
    """Say what a side is made for: where images have a tower of their own, the document side is theirs."""
    return "image" if side == "document" and has_image_tower(model) else "text"


def has_image_tower(model: BaseModel) -> bool:
    """Tell a model that sends images through other modules than texts; of CLIP's kind one module reads both."""
    from sentence_transformers.base.modules import Router

    if not reads_images(model) or not isinstance(model[0], Router):
        return False
    return route(model, "document", "image")[0] is not route(model, "document", "text")[0]


def route(model: BaseModel, side: Side, modality: Modality | None = None) -> list[Any]:
    """
    List the modules that an item of this side passes, a Router's tower unfolded.

    :param model:
        The model.
    :param side:
        The side.
    :param modality:
        What the item is; None: what the side is made for (`modality_of`).
    """
    from sentence_transformers.base.modules import Router

    modality = modality or modality_of(model, side)

    modules: list[Any] = []
    for module in model.children():
        if isinstance(module, Router):
            # The one private name of sentence-transformers that we use; a test compares towers with encode_query.
            name = module._resolve_route_name(task=side, modality=modality) or module.default_route
            modules.extend(module.sub_modules[str(name)].children())
        else:
            modules.append(module)
    return modules


def normalizes(model: BaseModel, side: Side) -> bool:
    """Say whether the vectors of a side have length 1."""
    from sentence_transformers.base.modules import Normalize

    return any(isinstance(module, Normalize) for module in route(model, side))


def compares_cosines(model: BaseModel) -> bool:
    """Say whether a bi-encoder's scores are cosines, in name or because its vectors have length 1."""
    if model.similarity_fn_name == "dot":
        return all(normalizes(model, side) for side in SIDES)
    return bool(model.similarity_fn_name == "cosine")


def prompt_for(model: BaseModel, side: Side) -> str:
    """Return the prompt that sentence-transformers puts before a text of this side ('' if none)."""
    prompts = (model.prompts[name] for name in _PROMPT_NAMES[side] if name in model.prompts)
    return next(prompts, None) or ""


def max_tokens(model: BaseModel, side: Side) -> int | None:
    """Return where a text of this side is cut, special tokens included; None if it is not, or the side is of images."""
    from sentence_transformers.base.modules import Transformer

    first = route(model, side)[0]
    if not isinstance(first, Transformer) or modality_of(model, side) == "image":
        return None
    own = first.query_length if side == "query" else first.document_length
    return own or first.max_seq_length


def positions_of(model: Any) -> int | None:
    """Count the tokens that a model has vectors of positions for; None where it has none of these."""
    found = [module for name, module in model.named_modules() if name.endswith("position_embeddings")]
    tables = [table for table in found if hasattr(table, "num_embeddings")]
    # RoBERTa and its like count from behind the padding's.
    return min((t.num_embeddings - (-1 if t.padding_idx is None else t.padding_idx) - 1 for t in tables), default=None)


def longest_text(encoder: Any) -> float:
    """Return the most tokens that an encoder is made for: those it has positions for; infinity if it states none."""
    stated = getattr(encoder.config.get_text_config(), "max_position_embeddings", None)
    limits = (limit for limit in (stated, positions_of(encoder)) if limit and limit > 0)  # XLNet states -1
    return min(limits, default=math.inf)


def limit_length(model: nn.Module) -> None:
    """Let no encoder of a model read more tokens than it has vectors of positions for, in place: it would fail."""
    from sentence_transformers.base.modules import Transformer

    for module in model.modules():
        if isinstance(module, Transformer) and (limit := positions_of(module)):
            module.max_seq_length = min(module.max_seq_length or limit, limit)


def set_max_tokens(model: BaseModel, **lengths: int | None) -> None:
    """
    Set the lengths at which texts are cut; they are saved with the model.

    :param model:
        The model.
    :param lengths:
        Tokens of a `query` and of a `document`; None, or left out: as the model has it.
    :raises ValueError:
        If there is no such side, or the model cannot cut texts, or not at this length.
    """
    from sentence_transformers.base.modules import Transformer

    if odd := sorted(lengths.keys() - set(SIDES)):
        msg = f"max_tokens.{odd[0]}: there is no such side; the sides are {' and '.join(SIDES)}."
        raise ValueError(msg)
    for side in SIDES:
        if (length := lengths.get(side)) is None:
            continue
        first = route(model, side)[0]
        if not isinstance(first, Transformer) or modality_of(model, side) == "image":
            what = type(first).__name__ if not isinstance(first, Transformer) else "images"
            msg = f"max_tokens.{side}={length}: the {side} side starts with {what}, which has no length."
            raise ValueError(msg)
        limit = longest_text(first)
        if not _FEWEST_TOKENS <= length <= limit:
            msg = f"max_tokens.{side}={length}: must lie between {_FEWEST_TOKENS} and the model's {limit} positions."
            raise ValueError(msg)
        if side == "query":
            first.query_length = length
        else:
            first.document_length = length


def document_string(
    content: str | None, meta: Mapping[str, Any], fields: Sequence[str] | None = None, separator: str = " "
) -> str:
    """
    Return the string of a document that models see.

    :param content:
        Its text.
    :param meta:
        Its metadata.
    :param fields:
        Metadata put before the content; None is `["title"]`, as in training.
    :param separator:
        What stands between the parts.
    """
    parts = [str(meta[name]) for name in (["title"] if fields is None else fields) if meta.get(name) is not None]
    return separator.join([*parts, content or ""]).strip()
