# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""A ranker: a plain `CrossEncoder` folder with a manifest, loaded and ready to score."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retort.students.backends.onnx import GraphScorer
from retort.students.checks import characters, positive
from retort.students.manifest import Manifest, ManifestError
from retort.students.scoring import Pair, score_numpy
from retort.students.student import LoadedModel
from retort.students.towers import positions_of, reads_images

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

_NO_RANKERS = ("ForMaskedLM", "ForPreTraining")  # whose weights have a head, but none that scores pairs


class Ranker(LoadedModel["CrossEncoder"]):
    """
    A loaded cross-encoder.

    ### Usage example

    ```python
    from retort.students import Ranker

    ranker = Ranker.load("runs/ranker/student")
    ranker.score([("How do I parse JSON?", "json.loads parses a string.")])  # [1] float32, a raw logit
    ```
    """

    def __init__(
        self, model: CrossEncoder | None, manifest: Manifest, name: str, scorer: GraphScorer | None = None
    ) -> None:
        super().__init__(model, manifest, name)
        self._scorer = scorer
        self._lock = threading.Lock()  # as in Student: fast tokenizers keep state

    @staticmethod
    def model_class() -> Any:
        """The class of sentence-transformers that loads it."""
        from sentence_transformers import CrossEncoder

        return CrossEncoder

    @classmethod
    def load(cls, model: str | Path, *, max_tokens: int | None = None, **options: Any) -> Ranker:
        """
        Load a ranker trained here, or any other cross-encoder with one label.

        :param model:
            A folder, a Hub id, or `package:NAME/SUBFOLDER` (see `resolve_model`).
        :param max_tokens:
            Cut pairs here instead of where the model says. It changes the fingerprint.
        :param options:
            As in `Student.load`: `device`, `precision`, `backend`, `threads`, `revision`, `token`, `local_files_only`,
            `trust_remote_code`, `model_kwargs`, `tokenizer_kwargs`, `config_kwargs`.
        :raises ManifestError:
            If the model is no ranker, or not the one that its manifest describes. Other errors as in `Student.load`.
        :raises ValueError:
            If `max_tokens` is not above 0, or more than the model has positions.
        """
        cut = None if max_tokens is None else partial(_cut, most=positive("max_tokens", max_tokens))
        loaded, manifest, scorer, _ = cls._load(model, cut=cut, **options)
        return cls(loaded, manifest, str(model), scorer)

    @classmethod
    def _refuse_other_kind(cls, kind: str, model: str) -> None:
        if kind != "ranker":
            msg = f"{model} is no ranker: it has no trained head that scores pairs. Give a CrossEncoder."
            raise ManifestError(msg)

    @classmethod
    def _check(cls, loaded: CrossEncoder, kind: str, model: str, *, stated: bool) -> None:  # noqa: ARG003
        # Any encoder loads as a cross-encoder, with a head of random weights; a trained one's class is named, such as
        # `BertForSequenceClassification`.
        config: Any = loaded.config
        # One of several modules, or of a module of ours, has its own head.
        heads = [name for name in config.architectures or [] if "For" in name and not name.endswith(_NO_RANKERS)]
        trained = len(loaded) > 1 or reads_images(loaded) or bool(heads)
        cls._refuse_other_kind(kind if trained else "", model)
        if loaded.num_labels != 1:
            msg = f"{model} gives {loaded.num_labels} scores a pair; a ranker gives one."
            raise ManifestError(msg)

    @property
    def megabytes(self) -> float:
        """Size of the weights, in the precision that runs."""
        if self._scorer is not None:
            return self._scorer.megabytes
        return sum(p.numel() * p.element_size() for p in self.model.parameters()) / 1e6

    def score(
        self,
        pairs: Sequence[Pair],
        *,
        tokens_per_chunk: int | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> np.ndarray:
        """
        Score pairs in token-sorted chunks.

        :param pairs:
            `n` pairs of query and document, in any order.
        :param tokens_per_chunk:
            Padded tokens a forward pass; by default what suits the device.
        :param progress:
            Called with the number of pairs after each chunk.
        :returns:
            `[n]` float32 raw logits, in the order of `pairs`.
        """
        return self._score(pairs, by_head=False, budget=tokens_per_chunk, progress=progress)

    def score_heads(self, pairs: Sequence[Pair], *, tokens_per_chunk: int | None = None) -> np.ndarray:
        """
        Score pairs by each head of a ranker that was made with several; parameters as in `score`.

        :returns:
            `[n, k]` float32 raw logits; `[n, 1]` of any other ranker.
        """
        return self._score(pairs, by_head=True, budget=tokens_per_chunk)

    def _score(self, pairs: Sequence[Pair], **options: Any) -> np.ndarray:
        with characters(text for pair in pairs for text in pair):
            if self._scorer is not None:
                return self._scorer.score(pairs, **options)
            with self._lock:
                return score_numpy(self.model, pairs, **options)


def _cut(loaded: CrossEncoder, *, most: int) -> None:
    limit = positions_of(loaded)
    if limit is not None and most > limit:
        msg = f"max_tokens={most}: the model has {limit} positions."
        raise ValueError(msg)
    loaded.max_seq_length = most
