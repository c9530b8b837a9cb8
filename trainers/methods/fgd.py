# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
FGD: fine-grained distillation for long documents (Zhou et al. 2024, arXiv 2212.10423).

A document of several topics has one vector; a ranker judges a passage. Teacher and student score the same pieces of
documents in training, so that their signals match, and search has one vector a document as before. The loss is
`Contrastive` + `PieceKL`, with `Pieces` as the candidates' `text`. Only the paper's abstract is known to us: pieces,
pooling, weights and all formulas are a reconstruction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from retort.students.long_texts import token_offsets
from retort.students.segmentation import passage_spans, sentence_spans, trimmed
from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.objectives import TeacherObjective, one_of
from retort.trainers.roles import Compared, Derived, Masks, StepContext, TextRequest, TextTransform, Values
from retort.trainers.runtime.rng import rng_for

PASSAGE, SENTENCE = 1, 2  # kinds of derived candidates

Scope = Literal["list", "intra", "both"]
Target = Literal["maxp", "whole"]
Spans = list[tuple[int, int]]


class Pieces(TextTransform):
    """
    Derives passages and sentences of documents: spans of the text that the student reads, no further.

    A teacher reads each alone. Trained on are of each document its best passage and random others, and of each list
    the best sentence of the positive and random others.

    :param passage_tokens:
        Tokens of a passage, at most; it ends with a sentence where one ends in its second half.
    :param passages:
        Passages of a document, at most.
    :param sentences:
        Sentences of a list, at most; 0: none.
    :param lists:
        Different draws a query, of pieces: after so many epochs they come again. With the candidates' `order: top` a
        teacher is asked for these alone; where negatives are drawn anew, so are their pieces.
    :raises ValueError:
        If a number is out of its range.

    ```yaml
    candidates: {sources: [bm25], negatives: 7, text: {type: retort.trainers.methods.fgd.Pieces}}
    ```
    """

    rewrites = False
    derives = True
    derives_pieces = True

    def __init__(self, *, passage_tokens: int = 64, passages: int = 8, sentences: int = 16, lists: int = 2) -> None:
        if min(passage_tokens, passages, lists) < 1 or sentences < 0:
            msg = "Pieces: passage_tokens, passages and lists are at least 1, sentences at least 0."
            raise ValueError(msg)
        self.passage_tokens, self.passages, self.sentences, self.lists = passage_tokens, passages, sentences, lists
        self._tokenizer: Any = None
        self._room: int | None = None
        self._known: dict[str, tuple[Spans, Spans]] = {}

    def bind(self, source: Any, tokenizer: Any, negatives: int, room: int | None = None) -> None:  # noqa: ARG002
        """Take up the student's tokenizer and length."""
        self._tokenizer, self._room = tokenizer, room

    def spans(self, text: str) -> tuple[Spans, Spans]:
        """
        Cut what the student reads of a document.

        :param text:
            The document.
        :returns:
            Its passages and its sentences, by the characters where they start and end.
        """
        if text not in self._known:
            tokens = trimmed(text, token_offsets(self._tokenizer, text, self._room))
            kept = text[: tokens[-1][1]] if tokens else ""
            self._known[text] = list(passage_spans(kept, self.passage_tokens, 0, tokens)), sentence_spans(kept)
        return self._known[text]

    def derived(self, request: TextRequest) -> list[Derived]:
        """Give all passages, the sentences that are drawn, and all others of positives."""
        texts = request.documents
        passages, sentences = (
            [(place, *span) for place, text in enumerate(texts) for span in self.spans(text)[level]] for level in (0, 1)
        )
        order = rng_for("pieces", request.query, request.epoch % self.lists).permutation(len(sentences))
        drawn = [sentences[i] for i in order[: self.sentences]]
        own = [s for s in sentences if self.sentences and request.positive[s[0]] and s not in drawn]
        return [
            Derived(texts[place][start:end], kind, (place, start, end))
            for kind, spans in ((PASSAGE, passages), (SENTENCE, drawn + own))
            for place, start, end in spans
        ]

    def kept(self, request: TextRequest, derived: list[Derived], scores: Mapping[str, list[float]]) -> list[Derived]:
        """Choose what to train on; of several teachers, the first decides which piece is the best."""
        rng, chosen = rng_for("pieces kept", request.query, request.epoch % self.lists), set()
        worth = np.nan_to_num(next(iter(scores.values()), [0.0] * len(derived)), nan=-np.inf)
        for place in range(len(request.rows)):
            rows = [i for i, one in enumerate(derived) if one.kind == PASSAGE and one.piece and one.piece[0] == place]
            chosen |= _best_and_others(worth, rows, rows, self.passages, rng)
        rows = [i for i, one in enumerate(derived) if one.kind == SENTENCE]
        own = [i for i in rows if (piece := derived[i].piece) and request.positive[piece[0]]]
        chosen |= _best_and_others(worth, own, rows, self.sentences, None)
        return [derived[i] for i in sorted(chosen)]


def _best_and_others(
    worth: np.ndarray, first: list[int], rows: list[int], most: int, rng: np.random.Generator | None
) -> set[int]:
    """Choose the best of `first`, and others of `rows`: random ones, or without a generator the first."""
    if len(rows) <= most:
        return set(rows)
    best = [max(first, key=lambda i: worth[i])] if first else []
    others = [i for i in (rows if rng is None else rng.permutation(rows).tolist()) if i not in best]
    return {*best, *others[: most - len(best)]}


def best_passages(scores: Tensor, places: Tensor, documents: int) -> Tensor:
    """
    Score documents by their best passage (MaxP).

    :param scores:
        `[B, D]` scores of passages.
    :param places:
        `[B, D]` int64, the document that each is of; -1: none, it takes no part.
    :param documents:
        `N`.
    :returns:
        `[B, N]`, NaN of documents without a passage.
    """
    low = scores.new_full((len(scores), documents + 1), -torch.inf)
    best = low.scatter_reduce(1, places.masked_fill(places < 0, documents), scores, "amax")[:, :documents]
    return best.masked_fill(best.isneginf(), torch.nan)


def list_kl(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Divergence over what takes part of each row, `[B]`, at one temperature (see `losses.listwise_kl`)."""
    return losses.listwise_kl(student, teacher, mask, student_temperature=temperature, teacher_temperature=temperature)


def intra_kl(
    student: Tensor, teacher: Tensor, places: Tensor, documents: int, temperature: float | Tensor = 1.0
) -> Tensor:
    """
    Mean over documents of the divergence over each one's pieces: where the evidence is, not in which document.

    :param student:
        `[B, D]` scores of pieces.
    :param teacher:
        `[B, D]` scores of pieces.
    :param places:
        As in `best_passages`.
    :param documents:
        `N`.
    :param temperature:
        A number, or a tensor that broadcasts to `[B, 1]`.
    :returns:
        `[B]`; a document of one piece adds 0 to the mean.
    """
    own = places[:, None] == torch.arange(documents, device=places.device)[:, None]  # [B, N, D]
    if isinstance(temperature, Tensor):
        temperature = temperature.expand(len(student), 1).repeat_interleave(documents, 0)
    student, teacher = (scores[:, None].expand(own.shape).flatten(0, 1) for scores in (student, teacher))
    values = list_kl(student, teacher, own.flatten(0, 1), temperature).unflatten(0, own.shape[:2])
    return values.sum(-1) / own.any(-1).sum(-1).clamp(min=1)


def piece_cosine(vectors: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """
    Average the cosines between the pieces of each document.

    :param vectors:
        `[B, D, d]`.
    :param places:
        As in `best_passages`.
    :returns:
        `[B]`, and whether a query's list has a document of two pieces, `[B]` bool.
    """
    unit = F.normalize(vectors, dim=-1)
    pairs = (places[:, :, None] == places[:, None]) & (places >= 0)[:, :, None]
    pairs = pairs & ~torch.eye(places.shape[1], dtype=torch.bool, device=places.device)
    counts = pairs.sum((1, 2))
    return ((unit @ unit.mT) * pairs).sum((1, 2)) / counts.clamp(min=1), counts > 0


class PieceKL(TeacherObjective):
    r"""
    Divergence from a teacher over documents, over their passages and over their sentences.

    $$L = L_{doc} + \lambda_p L_{psg} + \lambda_s L_{snt}, \quad L_g = \mathrm{KL}_\tau(T_g \| S_g)$$

    $L_{doc}$ is over the documents of a list. `scope` says over what the others are: there are no labels of pieces.
    The mean cosine between the passages of a document is logged: near 1 they all say the same.

    :param teacher:
        Name of a teacher that scores texts as they come: a ranker, or one that gives vectors.
    :param passages:
        $\lambda_p$.
    :param sentences:
        $\lambda_s$.
    :param scope:
        `list`: one softmax over all pieces of all documents of a query. `intra`: the mean over documents of one over
        each document's pieces. `both`: the former plus half of the latter.
    :param document:
        The teacher's score of a document: `maxp`, that of its best passage; or `whole`, it reads the document.
    :param temperature:
        $\tau$ of both sides. A stage's `temperature` takes its place; one that looks at scores sees the documents'.
    :param teacher_scale:
        As in `TeacherObjective`.
    :raises ValueError:
        If a weight is below 0.

    ```yaml
    - {type: retort.trainers.methods.fgd.PieceKL, init_parameters: {scope: list}, weight: 1.0}
    ```
    """

    needs_lists = True
    takes_derived = True
    divergence = True

    def __init__(
        self,
        *,
        teacher: str,
        passages: float = 1.0,
        sentences: float = 0.5,
        scope: Scope = "list",
        document: Target = "maxp",
        temperature: float = 1.0,
        teacher_scale: float | None = None,
    ) -> None:
        super().__init__(teacher=teacher, teacher_scale=teacher_scale)
        if min(passages, sentences) < 0:
            msg = f"PieceKL: passages and sentences are weights, at least 0; they are {passages} and {sentences}."
            raise ValueError(msg)
        self.levels = {PASSAGE: ("fgd_passages", passages), SENTENCE: ("fgd_sentences", sentences)}
        self.scope: Scope = one_of("scope", scope, ("list", "intra", "both"))
        self.document: Target = one_of("document", document, ("maxp", "whole"))
        self.scores_documents = document == "whole"
        self.within, self.temperature = 0.5 if scope == "both" else 1.0, temperature

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:
        """Lists count of which two documents, or pieces, are scored."""
        scored, documents = self.scored(batch, teacher), batch.index.shape[1] - batch.derived_candidates
        counts = scored[:, :documents].sum(-1)
        if self.document == "maxp":
            places = self._places(batch, teacher, PASSAGE)
            counts = (places[:, None] == torch.arange(documents, device=places.device)[:, None]).any(-1).sum(-1)
        own = {name: (self._places(batch, teacher, kind) >= 0).sum(-1) > 1 for kind, name in self._used()}
        return {"fgd_documents": counts > 1} | own

    def compared(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Compared:
        """Scores of each query's documents, without their pieces."""
        student, teacher = output.list_scores(batch), self.list_teacher(output, batch, ctx)
        documents = batch.index.shape[1] - batch.derived_candidates
        if self.document == "maxp":
            passages = self._places(batch, ctx.teacher, PASSAGE)
            teacher = best_passages(teacher[:, documents:].detach().nan_to_num(), passages, documents)
        return student[:, :documents], teacher[:, :documents], batch.mask[:, :documents]

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """One value a query."""
        tau = self.temperature if ctx.temperature is None else ctx.temperature
        values = {"fgd_documents": list_kl(*self.compared(output, batch, ctx), tau)}
        documents = batch.index.shape[1] - batch.derived_candidates
        both = output.list_scores(batch), self.list_teacher(output, batch, ctx)
        pieces, of_pieces = (scores[:, documents:] for scores in both)
        none = pieces.new_zeros(len(pieces))
        for kind, name in self._used():
            places = self._places(batch, ctx.teacher, kind)
            over = none if self.scope == "intra" else list_kl(pieces, of_pieces, places >= 0, tau)
            within = none if self.scope == "list" else intra_kl(pieces, of_pieces, places, documents, tau)
            values[name] = self.levels[kind][1] * (over + self.within * within)
        vectors, passages = output.documents[batch.index[:, documents:]], self._places(batch, ctx.teacher, PASSAGE)
        ctx.logged_terms["fgd_piece_cosine"] = piece_cosine(vectors.detach(), passages)
        return values

    def _used(self) -> list[tuple[int, str]]:
        return [(kind, name) for kind, (name, weight) in self.levels.items() if weight]

    def _places(self, batch: CandidateBatch, teacher: str | None, kind: int) -> Tensor:
        """`[B, D]` places of the documents of pieces of this kind that are scored; -1 of all others."""
        documents = batch.index.shape[1] - batch.derived_candidates
        counts = (batch.derived == kind) & self.scored(batch, teacher)[:, documents:]
        return batch.piece_places().masked_fill(~counts, -1)
