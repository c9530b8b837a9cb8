# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Tables: a text's vector is the mean of its tokens'."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from retort.students.create.encoders import pretrained
from retort.students.loading import Kwargs, assemble, take_place
from retort.students.makers import student_maker

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TOKENS_A_PASS = 1024


@student_maker
def static(
    teacher: str,
    *,
    dim: int | None = None,
    sif: float = 1e-5,
    trust_remote_code: bool = False,
    model_kwargs: Kwargs = None,
    tokenizer_kwargs: Kwargs = None,
    config_kwargs: Kwargs = None,
    **options: Any,
) -> SentenceTransformer:
    r"""
    Start a student that is a table: a text's vector is the mean of its tokens', of length 1.

    Each token of the teacher's vocabulary is passed through it alone (Model2Vec, Tulkens & van Dongen 2024); with `dim`
    the vectors are centred and cut to their main directions; they are weighted so that frequent tokens count less
    (Arora et al. 2017): $w = a / (a + p)$, where the probability $p$ of token number $r$ is taken as $1 / (r \ln v)$
    (Zipf), vocabularies being ordered by frequency. The number counts each token that is not special, also those that
    no text has, such as BERT's `[unused1]`.

    :param teacher:
        A folder, a Hub id, or `package:NAME/SUBFOLDER` of a bi-encoder with a fast tokenizer.
    :param dim:
        Dimension; None keeps the teacher's and its axes, so that the vectors lie near the teacher's own.
    :param sif:
        The $a$ above.
    :param trust_remote_code:
        Run code that the teacher brings along.
    :param model_kwargs:
        Passed to transformers for the teacher, as are the next two; see `pretrained`.
    :param tokenizer_kwargs:
        Likewise.
    :param config_kwargs:
        Likewise.
    :param options:
        `revision`, `token`, `local_files_only`, `cache_folder` of the teacher; others are passed to
        `SentenceTransformer`, such as `prompts`.
    :raises ValueError:
        If the dimension is not one, or the teacher's tokenizer not fast.

    ```yaml
    student:
      type: retort.students.create.static
      init_parameters: {teacher: BAAI/bge-m3, dim: 256}
    ```
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    kwargs: dict[str, Any] = {
        "model_kwargs": model_kwargs,
        "tokenizer_kwargs": tokenizer_kwargs,
        "config_kwargs": config_kwargs,
    }
    model = pretrained(teacher, trust_remote_code=trust_remote_code, **kwargs, **take_place(options)).eval()
    words = model.tokenizer
    if not getattr(words, "is_fast", False):
        msg = f"static: {teacher} has no fast tokenizer."
        raise ValueError(msg)
    width = int(model.get_embedding_dimension() or 0)
    if dim is not None and not 1 <= dim <= width:
        msg = f"static: dim={dim} must lie from 1 to the teacher's {width}."
        raise ValueError(msg)
    special = set(words.all_special_ids)
    ids = torch.tensor([i for i in range(len(words)) if i not in special])
    before, behind = _around_a_text(words, ids.tolist())
    table = torch.zeros(len(words), width, dtype=torch.float32)
    with torch.inference_mode():
        for block in ids.split(TOKENS_A_PASS):
            around = [[torch.full_like(block, i) for i in special_ids] for special_ids in (before, behind)]
            texts = torch.stack([*around[0], block, *around[1]], dim=1)
            seen = model({"input_ids": texts, "attention_mask": torch.ones_like(texts), "modality": "text"})
            table[block] = seen["sentence_embedding"].float()
    if dim is not None:
        own = table[ids] - table[ids].mean(0)
        axes = torch.linalg.svd(own.T @ own).U[:, :dim]
        table = torch.zeros(len(words), dim, dtype=torch.float32).index_copy(0, ids, own @ axes)
    rank = torch.ones_like(table[:, 0]).index_copy(0, ids, torch.arange(1, len(ids) + 1).to(table.dtype))
    table *= (sif / (sif + 1 / (rank * math.log(max(len(ids), 2)))))[:, None]
    table /= table.norm(dim=1).mean().clamp(min=1e-12)  # a learning rate then suits any teacher
    words.backend_tokenizer.no_truncation()  # a table reads any length
    tower = StaticEmbedding(words.backend_tokenizer, embedding_weights=table.clone())
    similarity = {"similarity_fn_name": model.similarity_fn_name}
    return assemble(SentenceTransformer, [tower, Normalize()], **similarity | options)


def _around_a_text(tokenizer: Any, ids: list[int]) -> tuple[list[int], list[int]]:
    """List the special tokens that a tokenizer puts before a text, and behind it; `ids` are those of its words."""
    for text in map(tokenizer.decode, ids):
        own = tokenizer(text, add_special_tokens=False)["input_ids"]
        if own:  # some tokens are no text
            whole = tokenizer(text)["input_ids"]
            start = next(i for i in range(len(whole)) if whole[i : i + len(own)] == own)
            return whole[:start], whole[start + len(own) :]
    return [], []
