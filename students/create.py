# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Ways to start a student: a pretrained model, some of its layers, random weights, tables, layers on them, towers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from retort.students.files import resolve_model
from retort.students.layers import layer_stack, layers_of
from retort.students.loading import load_tokenizer, open_model, refuse_remote_code
from retort.students.makers import student_maker
from retort.students.towers import set_max_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder

FEWEST_PAIR_TOKENS = 5  # three special ones and two words
VOCABULARY_SAMPLE, VOCABULARY_SHARE = 200, 0.01
TOKENS_A_PASS = 1024
TEXTS_A_PASS = 1024
HEAD = 64  # dimensions of a head, as BERT has them
SATURATION = 0.25  # BM25's k of counts
SAME = 30.0  # attention score of two tokens of one kind; of others around 0, seldom above 15
STEADY = 3.0  # how much longer a row is than what is taken off it may be


@student_maker
def pretrained(
    model: str, *, max_tokens: dict[str, int] | None = None, frozen: Sequence[str] = (), **options: Any
) -> SentenceTransformer:
    """
    Start from a whole pretrained model: any sentence-transformers model or Hugging Face encoder.

    :param model:
        A folder, a Hub id, or `package:NAME/SUBFOLDER`.
    :param max_tokens:
        Lengths `{query, document}` at which texts are cut.
    :param frozen:
        Parts that do not learn, by their names among the model's modules, such as `0.model.encoder`.
    :param options:
        Passed to `SentenceTransformer`, such as `revision`, `prompts`, `similarity_fn_name`, `trust_remote_code`.
    :raises ValueError:
        If there is no part of such a name.
    """
    from sentence_transformers import SentenceTransformer

    started = open_model(SentenceTransformer, resolve_model(model), device="cpu", **options)
    set_max_tokens(started, **(max_tokens or {}))
    parts = dict(started.named_modules())
    for name in [frozen] if isinstance(frozen, str) else frozen:
        if name not in parts:
            shown = ", ".join(n for n in parts if n.count(".") in (0, 1, 2) and n)
            msg = f"frozen: {model} has no part {name!r}. Its parts: {shown}, and theirs."
            raise ValueError(msg)
        parts[name].requires_grad_(False)
    return started.float()  # a folder may be stored in less than training needs


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
        Passed to `SentenceTransformer`, such as `trust_remote_code`.
    :raises ValueError:
        If the layers are not there, or where this architecture keeps its layers is not known.
    """
    started = pretrained(trunk, max_tokens=max_tokens, **options)
    _cut_layers(started[0].model, layers, trunk)
    return started


@student_maker
def from_table(
    table: str,
    trunk: str,
    layers: list[int],
    *,
    max_tokens: dict[str, int] | None = None,
    trust_remote_code: bool = False,
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
    :param options:
        Passed to `SentenceTransformer`.
    :raises ValueError:
        If the table is none, or another vocabulary's or width's, or the trunk's layers are not known.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, WordWeights
    from torch import nn

    first: Any = from_layers(trunk, layers, max_tokens=max_tokens, trust_remote_code=trust_remote_code)[0]
    words = first.tokenizer
    tower: Any = pretrained(table, trust_remote_code=trust_remote_code)[0]
    if not isinstance(tower, StaticEmbedding):
        msg = f"from_table: {table} is no static student; make one with the recipe `static`."
        raise ValueError(msg)
    vectors = tower.embedding.weight.detach()
    encoder = first.model
    width = encoder.config.hidden_size
    if tower.tokenizer.get_vocab() != words.get_vocab() or vectors.shape[1] != width:
        msg = f"from_table: {table} has another vocabulary than {trunk}, or not its {width} dimensions."
        raise ValueError(msg)
    parts = dict(encoder.named_modules())
    carried = [n for n in parts if n.endswith(".output.dense")]
    if len(carried) != 2 * len(layers):
        msg = f"from_table: {encoder.config.model_type!r} is not built as BERT is; give another trunk."
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
    return SentenceTransformer(modules=[first, weights, Pooling(width), Normalize()], device="cpu", **options)


def _cut_layers(model: Any, layers: list[int], trunk: str) -> None:
    from torch import nn

    encoder = model.base_model  # without a ranker's head
    try:
        stack_name, count_name = layer_stack(model)
    except ValueError as error:
        msg = f"Cutting layers: {error} Use `pretrained`."
        raise ValueError(msg) from error
    stack = layers_of(model)
    if not layers or sorted(set(layers)) != layers or not 0 <= layers[0] <= layers[-1] < len(stack):
        msg = f"layers={layers}: {trunk} has {len(stack)} layers; give ascending indexes from 0 to {len(stack) - 1}."
        raise ValueError(msg)
    parent, _, leaf = stack_name.rpartition(".")
    setattr(encoder.get_submodule(parent), leaf, nn.ModuleList(stack[i] for i in layers))
    setattr(encoder.config, count_name, len(layers))


@student_maker
def from_config(
    config: dict[str, Any],
    tokenizer: str,
    *,
    pooling: str = "mean",
    max_tokens: dict[str, int] | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
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
    :param seed:
        Seed of the weights.
    :param trust_remote_code:
        Run code that the tokenizer brings along.
    :param options:
        Passed to `SentenceTransformer`.
    :raises ValueError:
        If the configuration names no `model_type`.
    """
    import tempfile

    import torch
    from safetensors.torch import save_model
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import AutoConfig, AutoModel

    if "model_type" not in config:
        msg = "config: name its model_type, for example {model_type: bert, hidden_size: 128, num_hidden_layers: 2}."
        raise ValueError(msg)
    words = load_tokenizer(tokenizer, trust_remote_code=trust_remote_code)
    fields = {"vocab_size": len(words), "pad_token_id": words.pad_token_id} | config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = AutoModel.from_config(AutoConfig.for_model(**fields))
    with tempfile.TemporaryDirectory() as folder:  # the Transformer module only loads from a folder or the Hub
        # Not `encoder.save_pretrained`: in a run of several processes it writes on the first alone.
        encoder.config.to_json_file(f"{folder}/config.json", use_diff=False)
        save_model(encoder, f"{folder}/model.safetensors", metadata={"format": "pt"})
        words.save_pretrained(folder)
        first = Transformer(folder)
    positions = encoder.config.max_position_embeddings
    if not first.max_seq_length or first.max_seq_length > positions:
        first.max_seq_length = positions
    pool = Pooling(first.get_embedding_dimension(), pooling_mode=pooling)
    started = SentenceTransformer(modules=[first, pool, Normalize()], device="cpu", **options)
    set_max_tokens(started, **(max_tokens or {}))
    return started


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
        Passed to `CrossEncoder`, such as `revision`.
    :raises ValueError:
        If the layers or the length are not there, or the trunk gives several scores a pair.
    """
    import torch
    from sentence_transformers import CrossEncoder

    path = resolve_model(trunk)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scores_pairs = any("For" in name for name in _architectures(path, trust_remote_code=trust_remote_code))
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
        _cut_layers(started[0].model, layers, trunk)
    if max_tokens is not None:
        limit = started[0].config.get_text_config().max_position_embeddings
        if not FEWEST_PAIR_TOKENS <= max_tokens <= limit:
            between = f"between {FEWEST_PAIR_TOKENS} and the model's {limit} positions"
            msg = f"max_tokens={max_tokens}: must lie {between}."
            raise ValueError(msg)
        started.max_seq_length = max_tokens
    return started.float()


def _architectures(path: str, *, trust_remote_code: bool) -> list[str]:
    """Look up for which tasks a model has heads already."""
    from transformers import AutoConfig

    refuse_remote_code(path, trust_remote_code=trust_remote_code)
    return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code).architectures or []


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
        Passed to `MultiVectorEncoder`, such as `revision` and `trust_remote_code`.
    """
    import torch
    from sentence_transformers import MultiVectorEncoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        started = open_model(MultiVectorEncoder, resolve_model(model), device="cpu", **options)
    set_max_tokens(started, **(max_tokens or {}))
    return started.float()


@student_maker
def sparse(
    trunk: str,
    *,
    layers: list[int] | None = None,
    max_tokens: dict[str, int] | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
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
    :param options:
        Passed to `SparseEncoder`, such as `revision`.
    :raises ValueError:
        If the layers or the lengths are not there.
    """
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    path = resolve_model(trunk)
    has_head = any(name.endswith("ForMaskedLM") for name in _architectures(path, trust_remote_code=trust_remote_code))
    trust = {"trust_remote_code": trust_remote_code}
    loading: dict[str, Any] = {
        "transformer_task": "fill-mask",
        "model_kwargs": {"use_safetensors": True, **trust},
        "processor_kwargs": dict(trust),
        "config_kwargs": dict(trust),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            first = Transformer(path, **loading)
        except ValueError:  # a folder of modules: the first is the encoder
            first = Transformer(f"{path}/0_Transformer", **loading)
    if layers is not None:
        _cut_layers(first.model, layers, trunk)
    pool = SpladePooling(pooling_strategy="max", embedding_dimension=first.config.get_text_config().vocab_size)
    started = SparseEncoder(modules=[first, pool], device="cpu", **options).float()
    if not has_head:
        _start_vocabulary_head(first)
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


@student_maker
def static(
    teacher: str, *, dim: int | None = None, sif: float = 1e-5, trust_remote_code: bool = False, **options: Any
) -> SentenceTransformer:
    r"""
    Start a student that is a table: a text's vector is the mean of its tokens', of length 1.

    Each token of the teacher's vocabulary is passed through it alone (Model2Vec, Tulkens & van Dongen 2024); with `dim`
    the vectors are centred and cut to their main directions; they are weighted so that frequent tokens count less
    (Arora et al. 2017): $w = a / (a + p)$, where the probability $p$ of token number $r$ is taken as $1 / (r \ln v)$
    (Zipf), vocabularies being ordered by frequency.

    :param teacher:
        A folder, a Hub id, or `package:NAME/SUBFOLDER` of a bi-encoder with a fast tokenizer.
    :param dim:
        Dimension; None keeps the teacher's and its axes, so that the vectors lie near the teacher's own.
    :param sif:
        The $a$ above.
    :param trust_remote_code:
        Run code that the teacher brings along.
    :param options:
        Passed to `SentenceTransformer`, such as `prompts`.
    :raises ValueError:
        If the dimension is not one, or the teacher's tokenizer not fast.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    model = pretrained(teacher, trust_remote_code=trust_remote_code).eval()
    words = model.tokenizer
    if not getattr(words, "is_fast", False):
        msg = f"static: {teacher} has no fast tokenizer."
        raise ValueError(msg)
    width = int(model.get_embedding_dimension() or 0)
    if dim is not None and not 1 <= dim <= width:
        msg = f"static: dim={dim} must lie from 1 to the teacher's {width}."
        raise ValueError(msg)
    first, *rest = words("")["input_ids"]
    special = set(words.all_special_ids)
    ids = torch.tensor([i for i in range(len(words)) if i not in special])
    table = torch.zeros(len(words), width, dtype=torch.float32)
    with torch.inference_mode():
        for block in ids.split(TOKENS_A_PASS):
            rows = [torch.full_like(block, i) for i in (first, *rest)]
            given = torch.stack([rows[0], block, *rows[1:]], dim=1)
            seen = model({"input_ids": given, "attention_mask": torch.ones_like(given), "modality": "text"})
            table[block] = seen["sentence_embedding"]
    if dim is not None:
        own = table[ids] - table[ids].mean(0)
        axes = torch.linalg.svd(own.T @ own).U[:, :dim]
        table = torch.zeros(len(words), dim, dtype=torch.float32).index_copy(0, ids, own @ axes)
    rank = torch.ones_like(table[:, 0]).index_copy(0, ids, torch.arange(1, len(ids) + 1).to(table.dtype))
    table *= (sif / (sif + 1 / (rank * math.log(max(len(ids), 2)))))[:, None]
    table /= table.norm(dim=1).mean().clamp(min=1e-12)  # a learning rate then suits any teacher
    tower = StaticEmbedding(words.backend_tokenizer, embedding_weights=table.clone())
    similarity = {"similarity_fn_name": model.similarity_fn_name}
    return SentenceTransformer(modules=[tower, Normalize()], device="cpu", **similarity | options)


@student_maker
def with_words(
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
        then loads where retort is installed; `from_words` writes it as layers, which sentence-transformers has. None:
        words weigh as often as they come.
    :param seed:
        Seed of the directions.
    :param trust_remote_code:
        Run code that the table brings along.
    :param options:
        Passed to `SentenceTransformer`, such as `prompts`.
    :raises ValueError:
        If the table is none, or there are no texts, or a number is not above 0.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    from retort.students.modules.counted import CountedEmbedding

    if saturation is not None and not saturation > 0:
        msg = f"with_words: saturation={saturation} must be above 0."
        raise ValueError(msg)
    once = saturation is not None
    started = pretrained(table, trust_remote_code=trust_remote_code)
    meanings, words = _meanings_and_words("with_words", table, started, corpus, dim, weight, seed, once=once)
    tower: Any = started[0]
    if once:
        words = words - words.mean(dim=1, keepdim=True)  # as `from_words` needs them
    rows = torch.cat([meanings, words], dim=1)
    both = (
        StaticEmbedding(tower.tokenizer, embedding_weights=rows)
        if saturation is None
        else CountedEmbedding(tower.tokenizer, rows, words=dim, saturation=saturation)
    )
    given = {"prompts": started.prompts, "similarity_fn_name": started.similarity_fn_name}
    return SentenceTransformer(modules=[both, Normalize()], device="cpu", **given | options)


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
def from_words(
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
    Start from layers that count words: `with_words`, where a word that comes again says little more.

    As in BM25, $c$ occurrences of a word weigh $c / (c + k)$, which no table can do, but attention can. In the first
    layer a token finds those of its own kind by a random code, and the first token, whose score is $\ln k$ less; so
    $k / (c + k)$ of its word vector is left after what it found is taken off. A text's vector starts as

    $$\sum_t c_t \left[v_t;\ \frac{1 + k}{c_t + k}\, w_t\right]$$

    with $v_t$ the table's vector, $w_t$ that of `with_words`, $k = 1/4$. All else in the layers is random and changes
    nothing yet: the maps that carry it into the stream are 0. The last 65 to 128 dimensions are the codes'; they start
    at 0 in the student's vectors, so that `truncate_dim` takes them off at no loss. The layers are BERT's.

    :param table:
        Folder of a static student. Of `with_words` with a saturation of 1/4 the words are taken as they are, but for
        their mean over dimensions, which is 0 until it learns; `corpus`, `dim` and `weight` are then not asked for.
    :param tokenizer:
        Folder, Hub id or `package:` name of a model or tokenizer with the same vocabulary, which puts a token of its
        own before a text.
    :param corpus:
        Texts to count words in. A recipe gives those it trains on.
    :param layers:
        How many.
    :param dim:
        Dimensions of the words; see `with_words`.
    :param weight:
        Mean length of the words, that of the meanings being 1; see `with_words`.
    :param max_tokens:
        Lengths `{query, document}` at which texts are cut.
    :param seed:
        Seed of the directions and of all that is random.
    :param trust_remote_code:
        Run code that table and tokenizer bring along.
    :param options:
        Passed to `SentenceTransformer`.
    :raises ValueError:
        If the table is none, or another vocabulary's, or there are no texts, or a number is not above 0.
    """
    import torch

    from retort.students.modules.counted import CountedEmbedding

    if layers < 1 or dim <= 1:
        msg = f"from_words: layers={layers} must be above 0, and dim={dim} above 1."
        raise ValueError(msg)
    started = pretrained(table, trust_remote_code=trust_remote_code)
    if isinstance(started[0], CountedEmbedding):
        counted: Any = started[0]
        if counted.saturation != SATURATION:
            msg = f"from_words: {table} has saturation={counted.saturation}; layers are written for {SATURATION}."
            raise ValueError(msg)
        dim = counted.words
        meanings, words = counted.embedding.weight.detach().float().tensor_split([-dim], dim=1)
    else:
        meanings, words = _meanings_and_words("from_words", table, started, corpus, dim, weight, seed, once=True)
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
        msg = f"from_words: {tokenizer} has another vocabulary than {table}, or puts no token before a text."
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
    """Write into a BERT what `from_words` says; codes and sink have the length `size` once they are normalised."""
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


@student_maker
def two_towers(query: dict[str, Any], document: dict[str, Any], **options: Any) -> SentenceTransformer:
    """
    Start from separate query and document towers, routed by side.

    :param query:
        `{type, init_parameters}` of the query tower: one of the functions of this module. With `frozen: true` it does
        not learn: a new query tower may be trained for an index that is there, whose space it then has.
    :param document:
        The same for the document tower.
    :param options:
        Passed to `SentenceTransformer`.
    :raises ValueError:
        If a tower is of another type, or the dimensions differ.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    towers = {side: _tower(side, spec) for side, spec in (("query", query), ("document", document))}
    dims = {side: tower.get_embedding_dimension() for side, tower in towers.items()}
    if dims["query"] != dims["document"]:
        msg = f"two_towers: the query tower has {dims['query']} dimensions, the document tower {dims['document']}."
        raise ValueError(msg)
    router = Router.for_query_document(
        query_modules=[*_modules(towers["query"])], document_modules=[*_modules(towers["document"])]
    )
    prompts = {side: tower.prompts.get(side, "") for side, tower in towers.items()}
    similarity = towers["document"].similarity_fn_name
    return SentenceTransformer(
        modules=[router], device="cpu", **{"prompts": prompts, "similarity_fn_name": similarity} | options
    )


def _modules(tower: SentenceTransformer) -> list[Any]:
    return list(tower.children())


def _tower(side: str, spec: dict[str, Any]) -> SentenceTransformer:
    from retort.students.modules.counted import CountedEmbedding

    makers = {f"retort.students.create.{f.__name__}": f for f in (pretrained, from_layers, from_config, static)}
    if spec.get("type") not in makers:
        msg = f"two_towers: {side}.type must be one of {', '.join(makers)}; it is {spec.get('type')!r}."
        raise ValueError(msg)
    tower = makers[spec["type"]](**spec.get("init_parameters", {}))
    if isinstance(tower[0], CountedEmbedding):
        msg = f"two_towers: {side}: a table that counts words is no tower; `from_words` writes it as layers, which are."
        raise ValueError(msg)
    return tower.requires_grad_(not spec.get("frozen", False))
