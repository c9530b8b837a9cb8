# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""A batch as a model sees it: vectors, several vectors a text, or scores of pairs; and the model's layers, if asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from retort.students.encoding import VECTORS, encode_parts, encode_texts, layer_entry
from retort.students.late_interaction import encode_tokens, is_late_interaction, longest
from retort.students.pieces import NO_PIECE, PIECES
from retort.students.scoring import SCORES, is_ranker, score_parts
from retort.students.towers import Side, route
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.runtime.distributed import ProcessGroup

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer

COSINE_SCALE = 20.0  # cosines lie in [-1, 1], too narrow for a softmax


@dataclass
class DenseOutput:
    """
    A batch as a bi-encoder sees it.

    :param queries:
        `[B, d]` pooled vectors.
    :param documents:
        `[U, d]` pooled vectors.
    :param scale:
        Factor on similarities.
    :param similarity:
        `cosine` or `dot`.
    :param layers:
        The same of layers that were asked for, by their number from 0.
    :param views:
        What else was asked for, of queries and of documents: `Tokens` as `tokens`; under another name what a module
        of the student left as `NAME_embeddings`, `[B, ...]` and `[U, ...]`.
    """

    queries: Tensor
    documents: Tensor
    scale: float
    similarity: str
    layers: dict[int, DenseOutput] = field(default_factory=dict)
    views: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def cosine_scale(self) -> float:
        """Factor that makes a teacher's cosines comparable with these scores."""
        return self.scale if self.similarity == "cosine" else COSINE_SCALE

    def cut(self, dim: int) -> DenseOutput:
        """Keep the first entries of all vectors; layers and views are left out."""
        return DenseOutput(self.queries[:, :dim], self.documents[:, :dim], self.scale, self.similarity)

    def of_head(self, number: int) -> DenseOutput:
        """See the batch as one head of the student does, from 0; the view `head` must have been asked for."""
        queries, documents = (precise(heads[:, number]) for heads in self.views["head"])
        return DenseOutput(queries, documents, self.scale, self.similarity)

    def standard(self, batch: CandidateBatch) -> DenseOutput:
        """Leave out derived candidates; views are left whole."""
        if not batch.derived_documents:
            return self
        layers = {number: layer.standard(batch) for number, layer in self.layers.items()}
        kept = slice(len(batch.documents) - batch.derived_documents)  # layers have no pieces, which come later
        return replace(self, documents=self.documents[kept], layers=layers)

    def in_batch_scores(self) -> Tensor:
        """`[B, U]` scores of every query against every document of the batch."""
        return similarities(self.queries, self.documents, self.similarity) * self.scale

    def list_scores(self, batch: CandidateBatch) -> Tensor:
        """`[B, N]` scores of every query against its own list."""
        return self.in_batch_scores().gather(1, batch.index)


@dataclass
class PairOutput:
    """
    A batch as a ranker sees it: pairs, not vectors.

    :param scores:
        `[B, N]` scores of every query against its own list; 0 where the list is shorter.
    :param scale:
        Factor on the logits.
    :param layers:
        The same of layers that were asked for, by their number from 0.
    :param views:
        What else was asked for: under `NAME` what a module of the ranker left as `NAME_scores`, `[B, N, ...]`.
    """

    scores: Tensor
    scale: float = 1.0
    cosine_scale: float = COSINE_SCALE
    layers: dict[int, PairOutput] = field(default_factory=dict)
    views: dict[str, Tensor] = field(default_factory=dict)

    def of_head(self, number: int) -> PairOutput:
        """See the batch as one head of the ranker does, from 0; the view `head` must have been asked for."""
        return PairOutput(precise(self.views["head"][..., number]), self.scale)

    def standard(self, batch: CandidateBatch) -> PairOutput:
        """Leave out derived candidates."""
        if not batch.derived_candidates:
            return self
        kept = slice(-batch.derived_candidates)
        layers = {number: layer.standard(batch) for number, layer in self.layers.items()}
        views = {name: view[:, kept] for name, view in self.views.items()}
        return replace(self, scores=self.scores[:, kept], layers=layers, views=views)

    def list_scores(self, batch: CandidateBatch) -> Tensor:  # noqa: ARG002
        """`[B, N]` scores of every query against its own list."""
        return self.scores * self.scale


@dataclass
class MultiVectorOutput:
    """
    A batch as a model with a vector a token sees it.

    :param queries:
        `[B, t, d]` vectors.
    :param query_mask:
        `[B, t]` bool, which count.
    :param documents:
        `[U, s, d]` vectors.
    :param document_mask:
        `[U, s]` bool, which count.
    :param scale:
        Factor on the scores.
    :param layers:
        The same of layers that were asked for, by their number from 0.
    """

    queries: Tensor
    query_mask: Tensor
    documents: Tensor
    document_mask: Tensor
    scale: float = 1.0
    cosine_scale: float = COSINE_SCALE
    layers: dict[int, MultiVectorOutput] = field(default_factory=dict)

    def standard(self, batch: CandidateBatch) -> MultiVectorOutput:
        """Leave out derived candidates."""
        if not batch.derived_documents:
            return self
        layers = {number: layer.standard(batch) for number, layer in self.layers.items()}
        kept = slice(-batch.derived_documents)
        return replace(self, documents=self.documents[kept], document_mask=self.document_mask[kept], layers=layers)

    def in_batch_scores(self) -> Tensor:
        r"""`[B, U]` scores of every query against every document: $\sum_i \max_j q_i \cdot d_j$ (MaxSim)."""
        low = torch.finfo(self.queries.dtype).min
        rows = []
        for query, counts in zip(self.queries, self.query_mask, strict=True):  # one at a time bounds memory
            best = (self.documents @ query[counts].T).masked_fill(~self.document_mask[:, :, None], low).amax(1)
            rows.append(best.sum(-1))
        return torch.stack(rows) * self.scale

    def list_scores(self, batch: CandidateBatch) -> Tensor:
        """`[B, N]` scores of every query against its own list."""
        return self.in_batch_scores().gather(1, batch.index)


@dataclass
class Tokens:
    """
    What a model makes of each token.

    :param states:
        `[n, t, h]` states of the last layer.
    :param mask:
        `[n, t]` bool, which are there.
    :param ids:
        `[n, t]` int64 token ids; 0 where none is.
    """

    states: Tensor
    mask: Tensor
    ids: Tensor


EncoderOutput = DenseOutput | PairOutput | MultiVectorOutput


@dataclass
class PiecePlan:
    """
    Which of a batch's documents are encoded, and which are pieces of these.

    :param texts:
        `[n]` rows of the documents that are encoded; the standard ones come first.
    :param spans:
        `[n, m, 2]` int64, where pieces of each start and end; `NO_PIECE` where there are fewer.
    :param pieces:
        `[p]` rows of the documents that are pieces.
    :param owners:
        `[p]` rows of `spans`.
    :param places:
        `[p]` columns of `spans`.
    """

    texts: Tensor
    spans: np.ndarray
    pieces: Tensor
    owners: Tensor
    places: Tensor

    @classmethod
    def of(cls, batch: CandidateBatch) -> PiecePlan:
        """Sort a batch's documents; equal pieces, of two lists, are computed once."""
        device, first = batch.pieces.device, len(batch.documents) - batch.derived_documents
        rows = batch.pieces.tolist()
        pieces = [at for at, (owner, _, _) in enumerate(rows) if owner >= 0]
        texts = [*range(first), *(first + at for at, (owner, _, _) in enumerate(rows) if owner < 0)]
        known: list[dict[tuple[int, int], int]] = [{} for _ in texts]
        places = [known[rows[at][0]].setdefault((rows[at][1], rows[at][2]), len(known[rows[at][0]])) for at in pieces]
        spans = np.full((len(texts), max(map(len, known)), 2), NO_PIECE, dtype=np.int64)
        for own, of in zip(known, spans, strict=True):
            of[: len(own)] = list(own) or NO_PIECE
        tensors = ([first + at for at in pieces], [rows[at][0] for at in pieces], places)
        moved = (torch.tensor(values, dtype=torch.int64, device=device) for values in tensors)
        return cls(torch.tensor(texts, dtype=torch.int64, device=device), spans, *moved)

    def joined(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put the vectors of pieces among those of texts; of pieces there is nothing else."""
        order = torch.cat([self.texts, self.pieces]).argsort()
        of_pieces = parts[PIECES][self.owners, self.places]
        return parts | {VECTORS: torch.cat([parts[VECTORS], of_pieces])[order]}


def precise(values: Tensor) -> Tensor:
    """Give float32 of lower precisions, in which a softmax over scores would lose what tells them apart."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def similarities(queries: Tensor, documents: Tensor, similarity: str) -> Tensor:
    """`[B, U]` similarities of `[B, d]` and `[U, d]`, `cosine` or `dot`."""
    if similarity == "cosine":
        queries, documents = F.normalize(queries, dim=-1), F.normalize(documents, dim=-1)
    return queries @ documents.T


@dataclass
class BatchEncoder:
    """
    How models look at a batch.

    :param processes:
        The processes, which share the work.
    :param tokens_per_chunk:
        Padded tokens of a forward pass; None takes what suits the device.
    :param cache_gradients:
        Hold one chunk's activations at a time, for another forward pass (see `students.encoding.recomputed`).
    """

    processes: ProcessGroup
    tokens_per_chunk: int | None = None
    cache_gradients: bool = False

    def encode(
        self,
        model: SentenceTransformer | CrossEncoder | MultiVectorEncoder,
        batch: CandidateBatch,
        scale: float,
        layers: Sequence[int] = (),
        views: Sequence[str] = (),
    ) -> EncoderOutput:
        """
        Encode the batch's texts, or score its pairs.

        :param model:
            A bi-encoder, a ranker, or a model with a vector a token.
        :param batch:
            The batch, the same on every rank.
        :param scale:
            Factor on the scores.
        :param layers:
            Layers, from 0, to look at as well.
        :param views:
            What else is wanted (see `DenseOutput.views` and `PairOutput.views`).
        :returns:
            The whole batch, the same in every process, in float32 at least but for views. A bi-encoder's vectors of
            pieces come out of their documents' encodings; of these there are no layers and views.
        """
        if is_ranker(model):
            own = self._score(model, batch, layers, views)
            seen = {number: PairOutput(precise(own[layer_entry(number)]), scale) for number in layers}
            return PairOutput(precise(own[SCORES]), scale, layers=seen, views={name: own[name] for name in views})
        sides: list[tuple[list[Any], Side]] = [(batch.queries, "query"), (batch.documents, "document")]
        if is_late_interaction(model):
            asked, given = (
                precise(self._tokens(model, texts, side, layers)).split([*_widths(model, layers), 1], dim=-1)
                for texts, side in sides
            )
            masks = [part[-1].squeeze(-1) > 0 for part in (asked, given)]
            *parts, last_part = (
                MultiVectorOutput(q, masks[0], d, masks[1], scale) for q, d in zip(asked[:-1], given[:-1], strict=True)
            )
            last_part.layers = dict(zip(layers, parts, strict=True))
            return last_part
        pieces = PiecePlan.of(batch) if len(batch.pieces) else None
        asked = self._encode(model, batch.queries, "query", layers, views)
        given = self._encode(model, batch.documents, "document", layers, views, pieces)

        def output(name: str) -> DenseOutput:
            return DenseOutput(precise(asked[name]), precise(given[name]), scale, model.similarity_fn_name)

        whole = output(VECTORS)
        whole.layers = {number: output(layer_entry(number)) for number in layers}
        whole.views = {name: (_view(asked, name), _view(given, name)) for name in views}
        return whole

    def _encode(
        self,
        model: Any,
        texts: list[Any],
        side: Side,
        layers: Sequence[int],
        views: Sequence[str],
        pieces: PiecePlan | None = None,
    ) -> dict[str, Tensor]:
        options: dict[str, Any] = {"budget": self.tokens_per_chunk, "recompute": self.cache_gradients}
        if not layers and not views and pieces is None:
            found = self._shared(
                model,
                texts,
                texts,
                lambda own: encode_texts(model, own, side, **options),
                (int(model.get_embedding_dimension()),),
            )
            return {VECTORS: found}
        options |= {"layers": layers, "views": views}
        if "tokens" in views:
            options["length"] = longest(model, texts, side) if texts else 0
        if pieces is None:

            def alone(own: list[str]) -> dict[str, Tensor]:
                return encode_parts(model, own, side, **options)

            return self._shared_parts(model, texts or [""], texts, alone)
        texts = [texts[row] for row in pieces.texts.tolist()]

        def with_pieces(own: list[tuple[str, np.ndarray]]) -> dict[str, Tensor]:
            spans = np.stack([of for _, of in own])
            return encode_parts(model, [text for text, _ in own], side, spans=spans, **options)

        items = list(zip(texts, pieces.spans, strict=True))
        return pieces.joined(self._shared_parts(model, items, texts, with_pieces))

    def _tokens(self, model: Any, texts: list[str], side: Side, layers: Sequence[int]) -> Tensor:
        length = longest(model, texts, side)

        def work(own: list[str]) -> Tensor:
            return encode_tokens(
                model,
                own,
                side,
                length=length,
                budget=self.tokens_per_chunk,
                recompute=self.cache_gradients,
                layers=layers,
            )

        return self._shared(model, texts, texts, work, (length, sum(_widths(model, layers)) + 1))

    def _score(
        self, model: Any, batch: CandidateBatch, layers: Sequence[int], views: Sequence[str]
    ) -> dict[str, Tensor]:
        """By name `[B, N, ...]`."""
        places = batch.mask.nonzero()
        rows, columns = places[:, 0], places[:, 1]
        documents = batch.index[rows, columns].tolist()
        pairs = [(batch.queries[q], batch.documents[d]) for q, d in zip(rows.tolist(), documents, strict=True)]

        options: dict[str, Any] = {"budget": self.tokens_per_chunk, "recompute": self.cache_gradients}
        options |= {"layers": layers, "views": views}
        texts = [q + d for q, d in pairs]
        found = self._shared_parts(model, pairs or [("", "")], texts, lambda own: score_parts(model, own, **options))
        return {
            name: part.new_zeros(*batch.mask.shape, *part.shape[1:]).index_put((rows, columns), part)
            for name, part in found.items()
        }

    def _shared_parts(
        self, model: Any, items: list[Any], texts: list[str], work: Callable[[list[Any]], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Do this rank's share of some items, one a text, and gather that of all, by name; of no text there is one."""
        dealt = self.processes.deal(texts)
        if own := [items[row] for row in dealt[self.processes.rank]]:
            parts = work(own)
        else:
            # One item tells the shapes of what is gathered. Without gradients: zeros for a tower that no text went
            # through would let weight decay loose on it.
            with torch.no_grad():
                shapes = work(items[:1])
            parts = {name: part[:0].requires_grad_(part.is_floating_point()) for name, part in shapes.items()}
        like = next(model.parameters())
        return {
            name: self.processes.gather(part.to(like.dtype) if part.is_floating_point() else part, dealt)
            for name, part in parts.items()
        }

    def _shared(
        self,
        model: Any,
        items: list[Any],
        texts: list[str],
        work: Callable[[list[Any]], Tensor],
        shape: tuple[int, ...],
    ) -> Tensor:
        """Do this rank's share, and gather that of all, `[n, *shape]` in the model's dtype."""
        like, dealt = next(model.parameters()), self.processes.deal(texts)
        own = [items[row] for row in dealt[self.processes.rank]]
        if own:
            found = work(own).to(like.dtype)
        else:  # fewer texts than processes
            found = like.new_zeros(0, *shape, requires_grad=True)
        return self.processes.gather(found, dealt)


def _view(parts: dict[str, Tensor], name: str) -> Any:
    if name != "tokens":
        return parts[name]
    return Tokens(parts["tokens"], parts["token_mask"], parts["token_ids"])


def _widths(model: Any, layers: Sequence[int]) -> list[int]:
    """Sizes of the pooled states of some layers, and of the vectors."""
    hidden = route(model, "query")[0].config.get_text_config().hidden_size if layers else 0
    return [*[hidden] * len(layers), int(model.get_embedding_dimension())]
