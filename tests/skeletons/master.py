# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Skeleton of MASTER: Zhou et al. 2023, arXiv 2212.07841.

Its neighbour task: a weak decoder rebuilds a document's second half from the vector of its masked first half.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from retort.trainers.batches.base import CandidateBatch
from retort.trainers.batches.sampling import picked
from retort.trainers.roles import BatchSource, Objective
from retort.trainers.runtime.rng import rng_for


def masked(count, share, rng):
    """`[count]` bool: at least one is masked."""
    return np.isin(np.arange(count), rng.choice(count, max(1, round(share * count)), replace=False))


class Spans(BatchSource):
    """First halves of documents, some words masked; with them the `first` half as it was, and the `target`, the other."""

    def open(self, inputs):
        self._inputs, self._texts = inputs, inputs.context.data.corpus.texts
        self.size = len(self._texts)

    def batch(self, step):
        tokenizer, seed, seen, first, target = self._inputs.student.tokenizer, self._inputs.seed, [], [], []
        rows = np.unique(picked(seed, self.size, self._inputs.batch_size, step)[0])
        for row in rows.tolist():
            words = self._texts[row].split()
            half = (len(words) + 1) // 2
            hidden = masked(half, 0.3, rng_for(seed, "mask", step, row))
            pieces = [" ".join([tokenizer.mask_token] * len(tokenizer.tokenize(word))) for word in words[:half]]
            seen.append(" ".join(np.where(hidden, pieces, words[:half])))
            first.append(" ".join(words[:half]))
            target.append(" ".join(words[half:]))
        extras = {"first": first, "target": target, "row": torch.from_numpy(rows)}
        return CandidateBatch.without_lists([], seen, document_extras=extras)


class Decoder(Objective):
    """
    Cross entropy of masked tokens, through the student's own word embeddings, in two terms.

    `decoder` rebuilds the target, read off a layer over [vector ; the target, half of it masked]; `mlm` the first half.
    """

    needs_vectors = True
    views = ("tokens",)

    def bind(self, info):
        self.tokenizer = info.student.tokenizer
        self.layer = nn.TransformerEncoderLayer(info.student_dim, 2, 32, dropout=0.0, batch_first=True)

    def valid(self, batch, teacher=None):
        own = torch.tensor(
            [bool(t) for t in batch.document_extras["target"]], dtype=torch.bool, device=batch.index.device
        )
        return {"decoder": own, "mlm": torch.ones_like(own)}

    def forward(self, output, batch, ctx):
        encoder, tokens = ctx.model[0].model, output.views["tokens"][1]

        def loss(states, ids, hidden):
            logits = states @ encoder.get_input_embeddings().weight.T
            each = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
            return each.masked_fill(~hidden, 0.0).sum(-1) / hidden.sum(-1).clamp(min=1)

        first, ids = (
            self.tokenizer(batch.document_extras[name], padding=True, return_tensors="pt").to(batch.index.device)
            for name in ("first", "target")
        )
        ids, counts = ids["input_ids"], ids["attention_mask"].bool()
        hidden = torch.zeros_like(counts)
        for i, row in enumerate(batch.document_extras["row"].tolist()):
            if (count := int(counts[i].sum()) - 2) > 0:
                hidden[i, 1 : count + 1] = torch.from_numpy(masked(count, 0.5, ctx.rng(row)))
        embedded = encoder.embeddings(input_ids=ids.masked_fill(hidden, self.tokenizer.mask_token_id))
        seen = torch.cat([output.documents[:, None], embedded[:, 1:]], dim=1)  # the vector in the place of [CLS]
        decoded = self.layer(seen, src_key_padding_mask=~counts)
        mlm = loss(tokens.states, first["input_ids"], tokens.ids == self.tokenizer.mask_token_id)
        return {"decoder": loss(decoded, ids, hidden), "mlm": mlm}
