# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What is wrong on purpose, for arms of `protocol.yaml`: is a method harmed by it, and does it notice?"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from retort.students.towers import Side
from retort.trainers.methods.ca_mkd import Confidence
from retort.trainers.roles import Ask, Context, Selector, StepContext
from retort.trainers.runtime.rng import rng_for
from retort.trainers.teachers.bi_encoder import BiEncoderTeacher


class MaliciousTeacher(BiEncoderTeacher):
    """A bi-encoder whose queries are turned around: what it puts first is what fits least."""

    @property
    def key(self) -> str:  # type: ignore[override] # the other is cached
        """That of the model, marked."""
        return f"{super().key}-negated"

    def encode(self, texts: list[str], side: Side) -> np.ndarray:
        """Turn queries around."""
        vectors = super().encode(texts, side)
        return -vectors if side == "query" else vectors


def is_spoilt(query: str, share: float) -> bool:
    """Say whether the teacher is to be wrong on this query."""
    return bool(rng_for("spoilt", query).random() < share)


def shuffled(lines: list[str], share: float) -> list[str]:
    """Give a share of the judgements, those that `is_spoilt` chooses by query, each the document of another one."""
    wrong = [place for place, line in enumerate(lines) if is_spoilt(line.split("\t")[0], share)]
    documents = [lines[place].split("\t")[1] for place in wrong]
    changed = list(lines)
    for place, document in zip(wrong, documents[1:] + documents[:1], strict=True):
        query, _, grade = lines[place].split("\t")
        changed[place] = f"{query}\t{document}\t{grade}"
    return changed


class SoundQueries(Selector):
    """Keeps the queries whose judgements `shuffled` left as they were: what a perfect filter would keep."""

    def __init__(self, *, share: float) -> None:
        self.share = share

    def keep(self, context: Context, enough: int) -> np.ndarray:  # noqa: ARG002
        """`[q]` bool."""
        return np.array([not is_spoilt(i, self.share) for i in context.data.queries.ids], dtype=bool)


class SpoiltTeacher(BiEncoderTeacher):
    """A bi-encoder that gives scores of lists, and on a share of the queries gives them to the wrong documents."""

    gives = "scores"

    def __init__(self, *, share: float, scale: float = 1.0, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.share, self.scale = share, scale
        self._kept: dict[str, np.ndarray] = {}

    @property
    def key(self) -> str:  # type: ignore[override] # the other is cached
        """That of the model, marked."""
        return f"{super().key}-spoilt-{self.share}-{self.scale}"

    def score(self, asks: list[Ask]) -> Iterator[np.ndarray]:
        """Score lists; see `Teacher.score`."""
        texts = list(dict.fromkeys(text for ask in asks for text in ask.documents if text not in self._kept))
        self._kept |= dict(zip(texts, self.encode(texts, "document"), strict=True)) if texts else {}
        queries = self.encode([ask.query for ask in asks], "query")
        for ask, query in zip(asks, queries, strict=True):
            scores = np.stack([self._kept[text] for text in ask.documents]) @ query * self.scale
            rng = rng_for("spoilt order", ask.query)
            yield (rng.permutation(scores) if is_spoilt(ask.query, self.share) else scores).astype(np.float32)


class WatchedConfidence(Confidence):
    """CA-MKD's weights, and how well that of the teacher `spoilt` tells its spoilt queries from the others (`auc`)."""

    def __init__(self, *, share: float, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.share = share

    def forward(self, scores: dict[str, torch.Tensor], batch: Any, ctx: StepContext) -> torch.Tensor:
        """`[K, B]`; see `Confidence`."""
        weights = super().forward(scores, batch, ctx)
        sound = [not is_spoilt(query, self.share) for query in batch.queries]
        if 0 < sum(sound) < len(sound):
            found = roc_auc_score(sound, weights[list(scores).index("spoilt")].tolist())
            ctx.logged_terms["auc"] = weights.new_tensor([found]), torch.tensor([True], device=weights.device)
        return weights
