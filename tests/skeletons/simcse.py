# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Skeleton of unsupervised SimCSE: Gao et al. 2021, arXiv 2104.08821.

Each document is its own positive: encoded on both sides, it differs by dropout alone. The others of the batch are
negatives.
"""

import torch

from retort.trainers.batches.base import CandidateBatch
from retort.trainers.batches.sampling import picked
from retort.trainers.roles import BatchSource


class OwnPositives(BatchSource):
    """Documents as queries, each with a list of one candidate: itself."""

    brings_lists = True

    def open(self, inputs):
        self._inputs, self._texts = inputs, list(dict.fromkeys(inputs.context.data.corpus.texts))
        self.size = self.queries_with_positive = len(self._texts)

    def batch(self, step):
        rows = dict.fromkeys(picked(self._inputs.seed, self.size, self._inputs.batch_size, step)[0].tolist())
        texts = [self._texts[row] for row in rows]
        places = torch.arange(len(texts))
        return CandidateBatch(
            queries=texts,
            documents=texts,
            index=places[:, None],
            labels=torch.ones(len(texts), 1, dtype=torch.int8),
            mask=torch.ones(len(texts), 1, dtype=torch.bool),
            known_positive=torch.eye(len(texts), dtype=torch.bool),
            sources=torch.full((len(texts), 1), -1, dtype=torch.int8),
        )
