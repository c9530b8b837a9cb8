# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Words as such beside what they mean: in a table, or counted by layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from retort.students.create.encoders import from_config, pretrained
from retort.students.loading import PLACE, assemble, take_place
from retort.students.makers import student_maker

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from sentence_transformers import SentenceTransformer

TEXTS_A_PASS = 1024
HEAD = 64  # dimensions of a head, as BERT has them
SATURATION = 0.25  # BM25's k of counts
SAME = 30.0  # attention score of two tokens of one kind; of others around 0, seldom above 15
STEADY = 3.0  # how much longer a row is than what is taken off it may be


@student_maker
def static_with_lexical(
    table: str,
    *,
    corpus: Sequence[str] | None = None,
    dim: int = 384,
    weight: float = 0.5,
    saturation: float | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    **options: Any,
) -> SentenceTransformer:
    r"""
    Start from a static student that knows meanings, and give it words as such beside them.

    Token $t$ gets, beside its own vector $v_t$, one of `dim` random directions $r_t$:

    $$[v_t;\ c \cdot \mathrm{idf}_t\, r_t], \quad \mathrm{idf}_t = \ln(1 + (N - n_t + 1/2) / (n_t + 1/2))$$

    where $n_t$ of the corpus' $N$ texts have the token, as in BM25 (Robertson & Zaragoza 2009, in Lucene's form, which
    stays above 0); special tokens, which are no words, get 0. Random directions are nearly at right angles, so the
    second half's cosine is that of tf-idf, up to about $1 / \sqrt{dim}$ (Johnson & Lindenstrauss 1984).

    :param table:
        Folder of a static student.
    :param corpus:
        Texts to count words in. A recipe gives those it trains on.
    :param dim:
        Dimensions of the second half.
    :param weight:
        Mean length of the second half, that of the first being 1, over the first 1,024 texts; $c$ follows.
    :param saturation:
        BM25's $k$ of counts, such as 0.25: a word that comes again says little more (`CountedEmbedding`). The student
        then loads where retort is installed; `lexical_layers` writes it as layers, which sentence-transformers has.
        None: words weigh as often as they come.
    :param seed:
        Seed of the directions.
    :param trust_remote_code:
        Run code that the table brings along.
    :param options:
        `revision`, `token`, `local_files_only`, `cache_folder` of the table; others are passed to
        `SentenceTransformer`, such as `prompts`.
    :raises ValueError:
        If the table is none, or there are no texts, or a number is not above 0.

    ```yaml
    student:
      type: retort.students.create.static_with_lexical
      init_parameters: {table: runs/static/student, dim: 256, weight: 0.3}
    ```
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    from retort.students.modules.counted import CountedEmbedding

    if saturation is not None and not saturation > 0:
        msg = f"static_with_lexical: saturation={saturation} must be above 0."
        raise ValueError(msg)
    once = saturation is not None
    started = pretrained(table, trust_remote_code=trust_remote_code, **take_place(options))
    meanings, words = _meanings_and_words("static_with_lexical", table, started, corpus, dim, weight, seed, once=once)
    tower: Any = started[0]
    if once:
        words = words - words.mean(dim=1, keepdim=True)  # as `lexical_layers` needs them
    rows = torch.cat([meanings, words], dim=1)
    both = (
        StaticEmbedding(tower.tokenizer, embedding_weights=rows)
        if saturation is None
        else CountedEmbedding(tower.tokenizer, rows, words=dim, saturation=saturation)
    )
    given = {"prompts": started.prompts, "similarity_fn_name": started.similarity_fn_name}
    return assemble(SentenceTransformer, [both, Normalize()], **given | options)


def _meanings_and_words(
    name: str,
    table: str,
    started: SentenceTransformer,
    corpus: Sequence[str] | None,
    dim: int,
    weight: float,
    seed: int,
    *,
    once: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give a static student's vectors and those of words; `weight` counts each word of a text once, or as often."""
    import numpy as np
    import torch
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tower: Any = started[0]
    if not isinstance(tower, StaticEmbedding):
        msg = f"{name}: {table} is no static student; make one with the recipe `static`."
        raise ValueError(msg)
    if not corpus or isinstance(corpus, str):
        msg = f"{name}: needs a corpus, a list of texts to count words in. In a recipe leave it out: it has its own."
        raise ValueError(msg)
    if dim < 1 or not weight > 0:
        msg = f"{name}: dim={dim} and weight={weight} must be above 0."
        raise ValueError(msg)
    meanings = tower.embedding.weight.detach().float()
    directions = torch.randn(len(meanings), dim, generator=torch.Generator().manual_seed(seed))
    counts = np.zeros(len(meanings))
    first: list[torch.Tensor] = []
    for i in range(0, len(corpus), TEXTS_A_PASS):
        found = tower.tokenizer.encode_batch(list(corpus[i : i + TEXTS_A_PASS]), add_special_tokens=False)
        first = first or [torch.tensor(text.ids, dtype=torch.long) for text in found]
        for text in found:
            counts[np.unique(text.ids).astype(int)] += 1
    idf = torch.from_numpy(np.log1p((len(corpus) - counts + 0.5) / (counts + 0.5))).float()
    words = torch.nn.functional.normalize(directions, dim=1) * idf[:, None]
    words[[i for i, token in tower.tokenizer.get_added_tokens_decoder().items() if token.special]] = 0  # such as [UNK]
    lengths = torch.zeros(2)
    for ids in first:
        lengths += torch.stack([meanings[ids].sum(0).norm(), words[ids.unique() if once else ids].sum(0).norm()])
    words *= weight * lengths[0] / lengths[1].clamp(min=1e-12)
    return meanings, words


@student_maker
def lexical_layers(
    table: str,
    tokenizer: str,
    *,
    corpus: Sequence[str] | None = None,
    layers: int = 2,
    dim: int = 384,
    weight: float = 0.5,
    max_tokens: dict[str, int] | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    **options: Any,
) -> SentenceTransformer:
    r"""
    Start from layers that count words: `static_with_lexical`, where a word that comes again says little more.

    As in BM25, $c$ occurrences of a word weigh $c / (c + k)$, which no table can do, but attention can. In the first
    layer a token finds those of its own kind by a random code, and the first token, whose score is $\ln k$ less; so
    $k / (c + k)$ of its word vector is left after what it found is taken off. A text's vector starts as

    $$\sum_t c_t \left[v_t;\ \frac{1 + k}{c_t + k}\, w_t\right]$$

    with $v_t$ the table's vector, $w_t$ that of `static_with_lexical`, $k = 1/4$. All else in the layers is random and
    changes nothing yet: the maps that carry it into the stream are 0. The last 65 to 128 dimensions are the codes';
    they start at 0 in the student's vectors, so that `truncate_dim` takes them off at no loss. The layers are BERT's.

    :param table:
        Folder of a static student. Of `static_with_lexical` with a saturation of 1/4 the words are taken as they are,
        but for their mean over dimensions, which is 0 until it learns; `corpus`, `dim` and `weight` are then not used.
    :param tokenizer:
        Folder, Hub id or `package:` name of a model or tokenizer with the same vocabulary, which puts a token of its
        own before a text.
    :param corpus:
        Texts to count words in. A recipe gives those it trains on.
    :param layers:
        How many.
    :param dim:
        Dimensions of the words; see `static_with_lexical`.
    :param weight:
        Mean length of the words, that of the meanings being 1; see `static_with_lexical`.
    :param max_tokens:
        Lengths `{query, document}` at which texts are cut.
    :param seed:
        Seed of the directions and of all that is random.
    :param trust_remote_code:
        Run code that table and tokenizer bring along.
    :param options:
        As of `from_config`: `revision` is the tokenizer's. `token`, `local_files_only` and `cache_folder` are the
        table's as well.
    :raises ValueError:
        If the table is none, or another vocabulary's, or there are no texts, or a number is not above 0.

    ```yaml
    student:
      type: retort.students.create.lexical_layers
      init_parameters: {table: runs/static/student, tokenizer: intfloat/e5-small-v2, layers: 2, weight: 0.3}
    ```
    """
    import torch

    from retort.students.modules.counted import CountedEmbedding

    if layers < 1 or dim <= 1:
        msg = f"lexical_layers: layers={layers} must be above 0, and dim={dim} above 1."
        raise ValueError(msg)
    place = {name: options[name] for name in PLACE if name in options and name != "revision"}
    started = pretrained(table, trust_remote_code=trust_remote_code, **place)
    if isinstance(started[0], CountedEmbedding):
        counted: Any = started[0]
        if counted.saturation != SATURATION:
            msg = f"lexical_layers: {table} has saturation={counted.saturation}; layers are written for {SATURATION}."
            raise ValueError(msg)
        dim = counted.words
        meanings, words = counted.embedding.weight.detach().float().tensor_split([-dim], dim=1)
    else:
        meanings, words = _meanings_and_words("lexical_layers", table, started, corpus, dim, weight, seed, once=True)
    tower: Any = started[0]
    words = words - words.mean(dim=1, keepdim=True)  # so that taking some of them off leaves a stream's mean at 0
    both = torch.cat([meanings, words], dim=1)
    used = both.shape[1]
    width = (used // HEAD + 2) * HEAD  # 62 codes or more, the sink, two to balance
    config = {
        "model_type": "bert",
        "hidden_size": width,
        "intermediate_size": width // 4,  # BERT's would be as much work again as all else
        "num_hidden_layers": layers,
        "num_attention_heads": width // HEAD,
    }
    given = {"prompts": started.prompts, "similarity_fn_name": started.similarity_fn_name}
    options = given | options | {"trust_remote_code": trust_remote_code}
    student = from_config(config, tokenizer, max_tokens=max_tokens, seed=seed, **options)
    first: Any = student[0]
    if first.tokenizer.get_vocab() != tower.tokenizer.get_vocab() or first.tokenizer.cls_token_id is None:
        msg = f"lexical_layers: {tokenizer} has another vocabulary than {table}, or puts no token before a text."
        raise ValueError(msg)
    sink = first.tokenizer.cls_token_id
    for token in {sink, first.tokenizer.sep_token_id} - {None}:
        both[token] = 0  # a table's texts have none
    codes = torch.randn(len(both), HEAD - 2, generator=torch.Generator().manual_seed(seed + 1))
    codes = torch.nn.functional.normalize(codes, dim=1) * both.norm(dim=1).max()
    codes[sink] = 0
    beside = torch.zeros(len(both), width - used - codes.shape[1])
    beside[sink, 0] = both.norm(dim=1).max()
    rows = torch.cat([both, codes, beside], dim=1)
    # The last two dimensions give all rows one length and the mean 0: normalising changes none of them.
    total, square = rows.sum(1), rows.square().sum(1)
    length = STEADY * (square + total.square() / 2).max().sqrt()
    apart = ((length**2 - square) / 2 - total.square() / 4).sqrt()
    rows[:, -2], rows[:, -1] = apart - total / 2, -apart - total / 2
    _count_words(first.model, rows, used - dim, dim, float(width**0.5 * both.norm(dim=1).max() / length))
    return student


def _count_words(encoder: Any, rows: torch.Tensor, start: int, dim: int, size: float) -> None:
    """Write into a BERT what `lexical_layers` says; codes and sink have the length `size` once they are normalised."""
    import torch
    from torch import nn

    used = start + dim
    codes = slice(used, used + HEAD - 2)
    with torch.no_grad():
        for name, parameter in encoder.embeddings.named_parameters():
            if "LayerNorm" not in name:
                parameter.zero_()
        encoder.embeddings.word_embeddings.weight[: len(rows)] = rows
        for name, part in encoder.named_modules():
            if name.endswith(".output.dense"):
                nn.init.zeros_(part.weight)
        layer = encoder.encoder.layer[0].attention
        attention, back = layer.self, layer.output.dense
        gain = (SAME * HEAD**0.5) ** 0.5 / size
        for i in range(0, dim, HEAD):  # a head for every 64 dimensions of the words
            head = slice(i, i + HEAD)
            own = torch.arange(i, min(i + HEAD, dim))
            for part in (attention.query, attention.key, attention.value):
                part.weight[head] = 0
            for part in (attention.query, attention.key):
                part.weight[i : i + HEAD - 2, codes] = gain * torch.eye(HEAD - 2)
            attention.query.bias[i + HEAD - 1] = 1.0
            attention.key.weight[i + HEAD - 1, codes.stop] = (SAME + math.log(SATURATION)) * HEAD**0.5 / size
            attention.value.weight[own, start + own] = 1.0
            back.weight[start + own, own] = -1.0
        last = encoder.encoder.layer[-1].output.LayerNorm
        last.weight[start:used] = (1 + SATURATION) / SATURATION
        last.weight[used:] = 0
