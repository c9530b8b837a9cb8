# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Encoding in chunks of one list sorted by token count.

Padding is the main waste of encoding and training: sorting by exact token counts and cutting chunks by a token budget
brings padded tokens to within a few percent of real ones. The same function serves inference and training; each text
is encoded once, and results come back in the order of the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from retort.students.images import ImageError, image_rows, of_images, open_image
from retort.students.layers import captured, evaluating, layers_of
from retort.students.long_texts import heads
from retort.students.pieces import PIECES, piece_encoder
from retort.students.towers import SIDES, Side, max_tokens, prompt_for, reads_images, route

if TYPE_CHECKING:
    import torch
    from scipy.sparse import csr_array
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.model import BaseModel

Chunks = Iterable[tuple[np.ndarray, np.ndarray]]  # rows, and their values
TokenIds = tuple[int, ...]  # of a text, special tokens among them; models take them as they are
Texts = Sequence[str] | Sequence[TokenIds]  # an `ImageFile` among strings is an image

CPU_TOKENS = 1024  # small chunks stay in cache; 8 texts of 128 tokens beat 32 on the CPUs tried
CPU_TRAINING_TOKENS = 2048  # 1024 and 4096 took 1.1 and 1.4 times as long a step in bf16
GPU_TOKENS = 32768
VECTORS = "vectors"  # among what `encode_parts` gives
LONG = 5000  # characters of a text that is worth being cut before it is read
TOKENISED = 4096  # texts at once; what a tokenizer gives takes some 30 KB a passage


def token_counts(model: BaseModel, texts: Texts, side: Side, prompt: str | None = None) -> np.ndarray:
    """
    Count each text's tokens after truncation.

    :param model:
        The model; one without a transformers tokenizer counts characters instead, which sorts as well.
    :param texts:
        `n` texts, or token ids, or images.
    :param side:
        `query` or `document`.
    :param prompt:
        Put before each text; None is the model's own for this side.
    :returns:
        `[n]` integers; of images how many patches each is cut into.
    """
    return read_texts(model, texts, side, prompt)[1]


def read_texts(
    model: BaseModel, texts: Texts, side: Side, prompt: str | None = None
) -> tuple[Sequence[Any], np.ndarray]:
    """
    Cut long texts behind what the model reads of them, and count the tokens of all; parameters as of `token_counts`.

    :returns:
        `n` texts, or what else came, of which the model reads the same tokens; and their `token_counts`.
    """
    if of_images(texts):
        return texts, np.full(len(texts), image_patches(route(model, side, "image")[0]), dtype=np.int64)
    first = route(model, side, "text")[0]
    tokenizer = getattr(first, "tokenizer", None)
    if tokenizer is None or hasattr(tokenizer, "encode_batch") or holds_token_ids(texts):
        return texts, np.array([len(text) for text in texts], dtype=np.int64)
    prompt = prompt_for(model, side) if prompt is None else prompt
    limit = max_tokens(model, side)
    whole: list[Any] = list(texts)
    cut = heads(tokenizer, whole, limit if limit and _stops_at_limit(first, side) else None)
    counts = _counted(tokenizer, cut, prompt, limit)
    short = [i for i, text in enumerate(whole) if cut[i] is not text and limit is not None and counts[i] < limit]
    if short:
        for i in short:
            cut[i] = whole[i]
        counts[short] = _counted(tokenizer, [whole[i] for i in short], prompt, limit)
    return cut, counts


def _counted(tokenizer: Any, texts: Sequence[str], prompt: str, limit: int | None) -> np.ndarray:
    counts = np.empty(len(texts), dtype=np.int64)
    for start in range(0, len(texts), TOKENISED):
        part = [f"{prompt}{text}" for text in texts[start : start + TOKENISED]]
        ids = tokenizer(part, truncation=limit is not None, max_length=limit, verbose=False)["input_ids"]
        counts[start : start + len(part)] = [len(row) for row in ids]
    return counts


def _stops_at_limit(first: Any, side: Side) -> bool:
    """Tell whether a model's first module cuts texts at `max_tokens`, and puts nothing but a prompt before them."""
    expands = side == "query" and getattr(first, "query_expansion", None) is not None
    chats = "message" in getattr(first, "modality_config", ())
    return not (expands or chats or getattr(first, "processing_kwargs", None))


def image_patches(module: Any) -> int:
    """Count the patches that a model's first module cuts an image into; 1 where its configuration does not say."""
    config = getattr(module, "config", None)
    vision = getattr(config, "vision_config", config)
    size, patch = (getattr(vision, name, None) for name in ("image_size", "patch_size"))
    if not isinstance(size, int) or not isinstance(patch, int):
        return 1
    return max(1, (size // patch) ** 2)


def plan_chunks(counts: np.ndarray, budget: int) -> list[np.ndarray]:
    """
    Cut a list of texts into chunks of similar length.

    :param counts:
        `[n]` token counts.
    :param budget:
        Upper bound of a chunk's padded tokens; a longer single text is a chunk of its own.
    :returns:
        Index arrays that partition `range(n)`, longest texts first (the largest chunk shows a lack of memory at once).
    """
    order = np.argsort(-counts, kind="stable")
    chunks, start = [], 0
    while start < len(order):
        size = max(1, budget // max(1, int(counts[order[start]])))
        chunks.append(order[start : start + size])
        start += size
    return chunks


def forward(model: BaseModel, texts: Texts, side: Side, prompt: str | None = None) -> dict[str, Any]:
    """
    Run one chunk through the model, gradients and all; the caller chooses the mode.

    Vectors are cut to the model's `truncate_dim`, as `encode` of sentence-transformers does.

    :param prompt:
        Put before each text; None is the model's own for this side.
    """
    features: dict[str, Any] = model(on_device(model, model_inputs(model, texts, side, prompt)), task=side)
    if (dim := getattr(model, "truncate_dim", None)) is not None:
        features["sentence_embedding"] = features["sentence_embedding"][:, :dim]
    return features


def model_inputs(model: BaseModel, texts: Texts, side: Side, prompt: str | None = None) -> dict[str, Any]:
    """Give what the model reads of some texts, or of token ids, which are padded and else taken as they are."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    if of_images(texts):
        if not reads_images(model):
            msg = f"{texts[0]} is an image, and the model reads text alone. Take one that reads images."
            raise ImageError(msg)
        return model.preprocess([open_image(str(image)) for image in texts], task=side)
    if not holds_token_ids(texts):
        prompt = prompt_for(model, side) if prompt is None else prompt
        if reads_images(model):
            return _text_inputs(model, [str(text) for text in texts], side, prompt or None)
        return model.preprocess(list(texts), prompt=prompt or None, task=side)
    rows = [torch.tensor(ids) for ids in texts]
    padding = route(model, side, "text")[0].tokenizer.pad_token_id
    return {
        "input_ids": pad_sequence(rows, batch_first=True, padding_value=padding),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
    }


def _text_inputs(model: BaseModel, texts: list[str], side: Side, prompt: str | None) -> dict[str, Any]:
    """Give a model that reads images texts as texts: one that names an image's file or address would be opened."""
    from sentence_transformers.base.modules import Router

    first: Any = model[0]
    if isinstance(first, Router):
        return first.preprocess(texts, prompt=prompt, task=side, modality="text")
    return model.preprocess([{"text": text} for text in texts], prompt=prompt, task=side)


def holds_token_ids(texts: Texts) -> bool:
    """Tell token ids from texts."""
    return len(texts) > 0 and not isinstance(texts[0], str)


def settle_dimension(model: BaseModel) -> None:
    """
    Let SPLADE pooling know its dimension, which it else takes over in the first forward pass.

    Until then sentence-transformers gives the encoder's hidden size, or None; and hashes would change with that pass.
    """
    import torch
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    for side in SIDES:
        if any(isinstance(m, SpladePooling) and m.embedding_dimension is None for m in route(model, side)):
            with evaluating(model), torch.inference_mode():
                forward(model, ["a"], side)


def _forward_parts(
    model: SentenceTransformer,
    texts: Texts,
    side: Side,
    layers: Sequence[int],
    views: Sequence[str],
    length: int,
    spans: np.ndarray | None,
) -> dict[str, torch.Tensor]:
    """Run one chunk; give its vectors, states of layers pooled as the model pools its last, and further views."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Pooling

    modules = route(model, side, "image" if of_images(texts) else "text")
    parts: dict[str, torch.Tensor] = {}
    with (
        captured(layers_of(modules[0].model) if layers else torch.nn.ModuleList(), layers) as states,
        nullcontext() if spans is None else piece_encoder(model, texts, spans, side) as of_pieces,
    ):
        features = forward(model, texts, side)
        if of_pieces is not None:
            parts[PIECES] = of_pieces(features)[..., : getattr(model, "truncate_dim", None)]

    def pool(of_layer: torch.Tensor) -> torch.Tensor:
        pooling = next(place for place, module in enumerate(modules) if isinstance(module, Pooling))
        seen = {**features, "token_embeddings": of_layer}
        for module in modules[1 : pooling + 1]:  # weights of words may come before
            seen = module(seen)
        return seen["sentence_embedding"]

    def padded(tokens: torch.Tensor) -> torch.Tensor:
        missing = (0, length - tokens.shape[1])
        return torch.nn.functional.pad(tokens, (0, 0, *missing) if tokens.ndim > 2 else missing)  # noqa: PLR2004

    parts |= {layer_entry(number): pool(states[number]) for number in layers}
    for view in views:
        entry = "token_embeddings" if view == "tokens" else f"{view}_embeddings"
        if entry not in features:
            there = ", ".join(sorted(name for name in features if name.endswith("_embeddings")))
            msg = f"no module of the {side} model gives {entry}; there are: {there or 'none'}."
            raise ValueError(msg)
        if view == "token" or not isinstance(features[entry], torch.Tensor):
            msg = (
                f"the view {view!r} has no row a text of one size: take 'tokens' for the tokens' states, which are "
                "padded and come with their mask, or an objective's layers for those of layers."
            )
            raise ValueError(msg)
        if view == "tokens":
            parts["tokens"] = padded(features[entry])
            parts["token_mask"] = padded(features["attention_mask"]).bool()
            parts["token_ids"] = padded(features["input_ids"])
        else:
            parts[view] = features[entry]
    return parts | {VECTORS: features["sentence_embedding"]}


def layer_entry(number: int) -> str:
    """Name a layer's pooled states among what `encode_parts` gives."""
    return f"layer.{number}"


def on_device(model: BaseModel, features: dict[str, Any]) -> dict[str, Any]:
    """Move a chunk's tensors to the model."""
    import torch

    device = model.device
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}


def recomputed(run: Callable[[], Any]) -> Any:
    """
    Run a chunk without keeping its activations; the backward pass runs it once more, with the same dropout.

    Memory then holds one chunk's activations instead of all (gradient caching: Gao et al. 2021, "Scaling Deep
    Contrastive Learning Batch Size under Memory Limited Setup").
    """
    from torch.utils.checkpoint import checkpoint

    return checkpoint(run, use_reentrant=False)


def default_budget(model: BaseModel) -> int:
    """Padded tokens a chunk that suit the model's device, and training if gradients are on."""
    import torch

    if model.device.type != "cpu":
        return GPU_TOKENS
    return CPU_TRAINING_TOKENS if torch.is_grad_enabled() else CPU_TOKENS


def encode_chunks(
    model: SentenceTransformer,
    texts: Texts,
    side: Side,
    *,
    budget: int | None = None,
    recompute: bool = False,
    prompt: str | None = None,
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """
    Encode texts chunk by chunk, on the model's device, with gradients unless they are off.

    :param model:
        The model.
    :param texts:
        `n` texts, in any order; or token ids, which get no prompt and are not cut.
    :param side:
        `query` or `document`: chooses tower, prompt and length.
    :param budget:
        Padded tokens a chunk; by default what suits the device.
    :param recompute:
        Keep no activations for the backward pass (see `recomputed`).
    :param prompt:
        Put before each text; None is the model's own for this side.
    :returns:
        Pairs of rows `[c]` and their vectors `[c, d]` in the model's dtype; the rows partition `range(n)`.
    """
    for chunk, part in _planned(model, texts, side, budget, prompt):

        def run(part: Any = part) -> torch.Tensor:
            return forward(model, part, side, prompt)["sentence_embedding"]

        yield chunk, recomputed(run) if recompute else run()


def _planned(
    model: SentenceTransformer, texts: Texts, side: Side, budget: int | None, prompt: str | None = None
) -> Iterator[tuple[np.ndarray, Any]]:
    """Cut texts into chunks: pairs of their rows and texts."""
    images = image_rows(texts)
    if images.any() and not images.all():  # no chunk holds both
        for rows in (np.flatnonzero(images), np.flatnonzero(~images)):
            own: Any = [texts[int(i)] for i in rows]
            for chunk, part in _planned(model, own, side, budget, prompt):
                yield rows[chunk], part
        return
    counts = np.zeros(1, dtype=np.int64)
    if len(texts) != 1 or len(texts[0]) > LONG:  # a single query has nothing to sort: it is not tokenised twice
        texts, counts = read_texts(model, texts, side, prompt)
    for chunk in plan_chunks(counts, budget or default_budget(model)):
        yield chunk, [texts[i] for i in chunk]


def encode_texts(model: SentenceTransformer, texts: Texts, side: Side, **options: Any) -> torch.Tensor:
    """Encode texts into one tensor `[n, d]` in their own order; options as in `encode_chunks`."""
    return in_order(encode_chunks(model, texts, side, **options))


def encode_parts(
    model: SentenceTransformer,
    texts: Texts,
    side: Side,
    *,
    layers: Sequence[int] = (),
    views: Sequence[str] = (),
    length: int = 0,
    spans: np.ndarray | None = None,
    budget: int | None = None,
    recompute: bool = False,
) -> dict[str, torch.Tensor]:
    """
    Encode texts, and give more of what the model computes on the way; further parameters as in `encode_chunks`.

    :param layers:
        Layers, from 0, whose states are pooled as the last one's are.
    :param views:
        `tokens`, or `NAME` for what a module of the model leaves as `NAME_embeddings` in its features.
    :param length:
        For `tokens`: to how many they are padded.
    :param spans:
        `[n, m, 2]` characters where pieces of the texts start and end, `NO_PIECE` where there is none (see
        `retort.students.pieces`).
    :returns:
        By name, in the order of the texts: `VECTORS` `[n, d]`; `layer_entry(number)` `[n, h]`; `tokens`
        `[n, length, h]`, `token_mask` and `token_ids` `[n, length]`; each other view `[n, ...]`; with `spans` `PIECES`
        `[n, m, d]`.
    :raises ValueError:
        If no module of the model gives a view, or it cannot be joined over chunks: `token`, of as many rows as a chunk
        is long, and lists.
    """

    rows, parts = [], []
    for chunk, part in _planned(model, texts, side, budget):

        def run(part: Any = part, own: np.ndarray | None = None if spans is None else spans[chunk]) -> Any:
            return _forward_parts(model, part, side, layers, views, length, own)

        rows.append(chunk)
        parts.append(recomputed(run) if recompute else run())
    return {name: in_order(zip(rows, (part[name] for part in parts), strict=True)) for name in parts[0]}


def in_order(chunks: Iterable[tuple[np.ndarray, torch.Tensor]]) -> torch.Tensor:
    """Join what chunks gave, one row an item, in the order of the items."""
    import torch

    rows, values = zip(*chunks, strict=True)
    back = np.argsort(np.concatenate(rows), kind="stable")
    return torch.cat(values)[torch.from_numpy(back).to(values[0].device)]


def encode_numpy(
    model: SentenceTransformer,
    texts: Sequence[str],
    side: Side,
    *,
    budget: int | None = None,
    progress: Callable[[int], Any] | None = None,
    prompt: str | None = None,
) -> np.ndarray:
    """
    Encode texts for use, without gradients, whatever mode the model is in.

    :param model:
        The model.
    :param texts:
        `n` texts, in any order.
    :param side:
        `query` or `document`.
    :param budget:
        Padded tokens a chunk; by default what suits the device.
    :param progress:
        Called with the number of texts after each chunk.
    :param prompt:
        Put before each text; None is the model's own for this side.
    :returns:
        `[n, d]` float32, in the order of `texts`, as the model gives them (most normalise).
    """
    import torch

    shape = (len(texts), model.get_embedding_dimension() or 0)
    with evaluating(model), torch.inference_mode():
        chunks = encode_chunks(model, texts, side, budget=budget, prompt=prompt) if texts else ()
        return collect(((rows, v.float().cpu().numpy()) for rows, v in chunks), shape, progress)


def collect(chunks: Chunks, shape: tuple[int, ...], progress: Callable[[int], Any] | None) -> np.ndarray:
    """Join chunks, rows `[c]` and what was computed for them, to an array of float32 in order of rows."""
    joined = np.empty(shape, dtype=np.float32)
    for rows, values in chunks:
        joined[rows] = values
        if progress is not None:
            progress(len(rows))
    return joined


class SparseRows(NamedTuple):
    """
    `n` sparse vectors, laid out as scipy's `csr_array`; a serving machine need not have scipy.

    :param indptr:
        `[n + 1]` int64: the entries of vector `i` stand from `indptr[i]` to `indptr[i + 1]`.
    :param indices:
        Their dimensions, ascending in each vector.
    :param data:
        Their values, float32.
    :param dim:
        Dimensions of a vector.
    """

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    dim: int

    def csr(self) -> csr_array:
        """Return them as scipy's `[n, dim]`."""
        from scipy.sparse import csr_array

        return csr_array((self.data, self.indices, self.indptr), shape=(len(self.indptr) - 1, self.dim))


def collect_sparse(chunks: Chunks, dim: int, progress: Callable[[int], Any] | None) -> SparseRows:
    """Keep what is not 0 of chunks: rows `[c]` and their vectors `[c, dim]`; gives `n` vectors in order of rows."""
    entries: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for rows, vectors in chunks:
        for row, vector in zip(rows.tolist(), vectors, strict=True):
            indices = np.flatnonzero(vector)
            entries[row] = indices, vector[indices]
        if progress is not None:
            progress(len(rows))
    ordered = [entries[row] for row in sorted(entries)]
    indptr = np.cumsum([0, *(len(indices) for indices, _ in ordered)])
    indices = np.concatenate([np.empty(0, dtype=np.int64), *(own for own, _ in ordered)])
    data = np.concatenate([np.empty(0, dtype=np.float32), *(own for _, own in ordered)])
    return SparseRows(indptr, indices, data.astype(np.float32, copy=False), dim)
