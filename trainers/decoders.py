# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Weak decoders over a sentence vector: what bottlenecked masked auto-encoders share.

A decoder of one or two fresh layers rebuilds a masked text of which too little is visible, so that the vector in its
first position must hold the rest (RetroMAE, CoT-MAE, MASTER). Decoders and masked-LM head learn with the student, are
in its checkpoints, and are not part of what is saved as the student.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retort.students.loading import loaded_with
from retort.students.sparse import is_sparse
from retort.students.towers import route
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.batches.masking import IGNORED, MASKED, PASSES, MaskedText
from retort.trainers.candidates.lists import texts_of
from retort.trainers.roles import Context, Masks, ModelInfo, Objective, StepContext, Values
from retort.trainers.runtime.rng import rng_for

Targets = list[MaskedText | None]

SAMPLE = 4096  # documents whose tokens are counted


def document_encoder(model: Any) -> Any:
    """
    Return the transformer that reads a bi-encoder's documents.

    :raises ValueError:
        If it reads them in another way, or has no module `embeddings`.
    """
    from sentence_transformers.base.modules import Transformer

    first = route(model, "document")[0]
    if not isinstance(first, Transformer) or is_sparse(model) or not hasattr(first.model, "embeddings"):
        msg = "the student must be a dense encoder of transformers with a module `embeddings`, such as BERT's kin."
        raise ValueError(msg)
    return first.model


def embed_tokens(encoder: Any, ids: Tensor) -> Tensor:
    """`[n, t, h]`: what an encoder's first layer reads of token ids `[n, t]`, positions and normalisation included."""
    embedded = encoder.embeddings(input_ids=ids)
    if hasattr(encoder, "embeddings_project"):  # ELECTRA's, where the two widths differ
        return encoder.embeddings_project(embedded)
    widen = getattr(getattr(encoder, "encoder", None), "embedding_hidden_mapping_in", None)  # ALBERT's
    return embedded if widen is None else widen(embedded)


def pool_tokens(model: Any, states: Tensor, mask: Tensor) -> Tensor:
    """`[n, h]`: states `[n, t, h]` pooled as the model pools documents, without what follows, such as a norm."""
    features = {"token_embeddings": states, "attention_mask": mask.long()}
    pooled: Tensor = _pooling(model)(features)["sentence_embedding"]
    return pooled


def _pooling(model: Any) -> Any:
    from sentence_transformers.sentence_transformer.modules import Pooling

    return next(module for module in route(model, "document") if isinstance(module, Pooling))


class _Skipped(nn.Module):
    """Stands in the place of an encoder, or of the map to the vocabulary: passes on what it is fed."""

    bias = None

    def forward(self, states: Tensor | None = None, *_: Any, inputs_embeds: Tensor | None = None, **__: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        return BaseModelOutput(last_hidden_state=inputs_embeds) if states is None else states


class MaskedLMHead(nn.Module):
    """
    The masked-LM head of an encoder's architecture, tied to word embeddings that it does not own.

    It has the weights of the checkpoint that the encoder was loaded from, where that has such a head; else fresh ones,
    and `fresh` says so.

    :param encoder:
        A model of transformers.
    :raises ValueError:
        If its architecture has no masked-LM head.
    """

    def __init__(self, encoder: Any) -> None:
        from transformers import AutoModelForMaskedLM

        super().__init__()
        config = encoder.config
        own = any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in config.architectures or ())
        self.fresh = not own
        whole: Any
        if own:
            whole = AutoModelForMaskedLM.from_pretrained(
                config.name_or_path, use_safetensors=True, **loaded_with(encoder)
            )
        else:
            whole = AutoModelForMaskedLM.from_config(copy.deepcopy(config))
        words = whole.get_output_embeddings()
        size = words.weight.shape[0]
        self.bias = nn.Parameter(torch.zeros(size) if words.bias is None else words.bias.detach().clone())
        whole.set_output_embeddings(_Skipped())
        setattr(whole, whole.base_model_prefix, _Skipped())
        self.body = whole
        self.to(encoder.dtype)

    def forward(self, states: Tensor, words: Tensor) -> Tensor:
        """
        Compute logits.

        :param states:
            `[m, h]`.
        :param words:
            `[v, e]` the encoder's word embeddings.
        :returns:
            `[m, v]`.
        """
        return F.linear(self.body(inputs_embeds=states[None]).logits[0], words, self.bias)


def masked_losses(head: MaskedLMHead, states: Tensor, labels: Tensor, words: Tensor) -> Tensor:
    """
    Cross entropy of each hidden token, in nats.

    :param states:
        `[n, t, h]`.
    :param labels:
        `[n, t]` token ids, `IGNORED` where nothing is hidden.
    :param words:
        As of `MaskedLMHead`.
    :returns:
        `[m]`, row by row; the vocabulary is looked at for these tokens alone.
    """
    hidden = labels != IGNORED
    return F.cross_entropy(head(states[hidden], words), labels[hidden], reduction="none")


class WeakDecoder(nn.Module):
    r"""
    A few fresh transformer layers over $[v; \mathrm{Emb}(\tilde y)_{1:}]$, with attention in both directions.

    :param encoder:
        The encoder whose embeddings it reads: widths, heads and dropout are its, the layers those of BERT.
    :param layers:
        How many; one or two keep it weak.
    """

    def __init__(self, encoder: Any, layers: int) -> None:
        super().__init__()
        config = encoder.config
        width = config.hidden_size
        dropout = next((m.p for m in encoder.modules() if isinstance(m, nn.Dropout)), 0.0)
        inner = getattr(config, "intermediate_size", 4 * width)
        stack = [
            nn.TransformerEncoderLayer(
                width, config.num_attention_heads, inner, dropout, "gelu", layer_norm_eps=1e-12, batch_first=True
            )
            for _ in range(layers)
        ]
        for layer in stack:
            layer.dropout.p = 0.0  # within the feed-forward part, where BERT has none
        self.layers = nn.ModuleList(stack)
        # Encoders that rotate positions in their layers have none in their embeddings.
        placed = any("position" in name for name, _ in encoder.embeddings.named_parameters())
        self.positions = None if placed else nn.Embedding(config.max_position_embeddings, width)
        self.to(encoder.dtype)

    def forward(self, vectors: Tensor, embedded: Tensor, mask: Tensor) -> Tensor:
        """
        Rebuild texts.

        :param vectors:
            `[n, h]` sentence vectors, which take the first position as they are.
        :param embedded:
            `[n, t, h]` embeddings of the masked texts (see `embed_tokens`).
        :param mask:
            `[n, t]` bool, which tokens are there.
        :returns:
            `[n, t, h]` states.
        """
        if self.positions is not None:
            embedded = embedded + self.positions.weight[: embedded.shape[1]]
        states = torch.cat([vectors[:, None], embedded[:, 1:]], dim=1)
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=~mask)
        return states


class Reconstruction(Objective):
    r"""
    Masked language modelling, and texts that weak decoders rebuild from sentence vectors.

    $$L = \sum_p \mathrm{MLM}_p + w \sum_k \mathrm{CE}(\mathrm{dec}_k([v; \mathrm{Emb}(\tilde y_k)_{1:}]), y_k)$$

    each a mean over its hidden tokens. $v$ is the student's pooled state, with its gradient: decoders reach the encoder
    through it alone. The head is shared by all.

    Batches have, of each document, `masked`, a `MaskedText`, and `passes`, the name of its term; and under the name of
    each task the `MaskedText` to rebuild from it, or None. A term that no document has is left out.

    :param layers:
        Layers of a decoder.
    :param weight:
        $w$; 0 leaves decoders out, which is masked language modelling.
    :param shuffle_every:
        Every so many steps, `TASK_shuffled` is logged: a decoder's loss with the vectors of other documents; and
        `TASK_matched`, that of the same step with their own. The difference is what the vectors are worth.
    :raises ValueError:
        If a number is out of its range.
    """

    needs_vectors = True
    views = ("tokens",)
    #: Terms of the encoder's own passes.
    passes: tuple[str, ...] = ("mlm",)
    #: What decoders rebuild, each by its own.
    tasks: tuple[str, ...] = ()

    def __init__(self, *, layers: int, weight: float = 1.0, shuffle_every: int = 10) -> None:
        super().__init__()
        if layers < 1 or weight < 0 or shuffle_every < 1:
            msg = f"{type(self).__name__}: layers and shuffle_every are at least 1, weight at least 0."
            raise ValueError(msg)
        self.count, self.weight, self.shuffle_every = layers, weight, shuffle_every

    def bind(self, info: ModelInfo) -> None:
        """
        Create head and decoders.

        :raises ValueError:
            If the student is no dense encoder with a masked-LM head, or its pooled states are wider than its own.
        """
        try:
            encoder = document_encoder(info.student)
            self.head = MaskedLMHead(encoder)
        except ValueError as error:
            msg = f"{type(self).__name__}: {error}"
            raise ValueError(msg) from error
        if _pooling(info.student).get_embedding_dimension() != encoder.config.hidden_size:
            msg = f"{type(self).__name__}: the student pools in several ways at once; set one, such as pooling: cls."
            raise ValueError(msg)
        self.padding = info.student.tokenizer.pad_token_id
        read = embed_tokens(encoder, torch.tensor([[self.padding]], device=encoder.device)).shape[-1]
        if read != encoder.config.hidden_size:
            msg = (
                f"{type(self).__name__}: {encoder.config.model_type} reads embeddings of {read} entries, and its "
                f"states have {encoder.config.hidden_size}; take another architecture."
            )
            raise ValueError(msg)
        tasks = self.tasks if self.weight else ()
        self.decoders = nn.ModuleDict({task: WeakDecoder(encoder, self.count) for task in tasks})

    def warm_start(self, student: Any, context: Context) -> None:
        r"""
        Start a fresh head's bias at the logarithm of how often each token occurs.

        $$b_v = \log (n_v + 1) - \log \sum_w (n_w + 1)$$

        The bias alone would take thousands of steps to learn this. The tied table would learn it in its place, and the
        encoder reads that table: all vectors would be of frequencies.
        """
        if not self.head.fresh:
            return
        corpus, tokenizer = context.data.corpus, student.tokenizer
        rows = rng_for("token frequencies", corpus.hash).permutation(len(corpus))[:SAMPLE]
        texts = texts_of(corpus, np.sort(rows))
        ids = np.concatenate(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]).astype(np.int64)
        counts = np.bincount(ids, minlength=len(self.head.bias)) + 1.0
        with torch.no_grad():
            self.head.bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))

    def _targets(self, batch: CandidateBatch) -> dict[str, Targets]:
        """Per term that has any, the texts whose hidden tokens are predicted: one of each document, or None."""
        extras = batch.document_extras
        own = list(zip(extras[MASKED], extras[PASSES], strict=True))
        targets: dict[str, Targets] = {
            name: [text if of == name else None for text, of in own] for name in self.passes
        } | {task: extras[task] for task in self.decoders}
        return {name: texts for name, texts in targets.items() if any(text is not None for text in texts)}

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:  # noqa: ARG002
        """Every hidden token counts."""
        device = batch.index.device
        return {
            name: torch.ones(
                sum(int((text.labels != IGNORED).sum()) for text in targets if text is not None),
                dtype=torch.bool,
                device=device,
            )
            for name, targets in self._targets(batch).items()
        }

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a hidden token."""
        tokens, encoder = output.views["tokens"][1], document_encoder(ctx.model)
        words, device = encoder.get_input_embeddings().weight, batch.index.device
        vectors = pool_tokens(ctx.model, tokens.states, tokens.mask)
        values: Values = {}
        for name, targets in self._targets(batch).items():
            rows = [row for row, text in enumerate(targets) if text is not None]
            texts = [text for text in targets if text is not None]
            labels = _padded([text.labels for text in texts], IGNORED, device)
            if name in self.passes:
                states = tokens.states[rows][:, : labels.shape[1]]
                values[name] = masked_losses(self.head, states, labels, words)
                continue
            embedded = embed_tokens(encoder, _padded([text.ids for text in texts], self.padding, device))
            there = _padded([np.ones_like(text.ids) for text in texts], 0, device).bool()
            seen = vectors[rows]
            states = self.decoders[name](seen, embedded, there)
            values[name] = self.weight * masked_losses(self.head, states, labels, words)
            if ctx.step % self.shuffle_every == 0 and len(rows) > 2:  # noqa: PLR2004 - of two, a pair of spans, each has seen the other
                with torch.no_grad():
                    states = self.decoders[name](seen.roll(len(rows) // 2, 0), embedded, there)
                    shuffled = self.weight * masked_losses(self.head, states, labels, words)
                counts = torch.ones_like(shuffled, dtype=torch.bool)
                ctx.logged_terms[f"{name}_matched"] = (values[name], counts)
                ctx.logged_terms[f"{name}_shuffled"] = (shuffled, counts)
        return values


def _padded(rows: list[np.ndarray], value: int, device: torch.device) -> Tensor:
    tensors = [torch.from_numpy(row) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value).to(device)
