# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""A ranker: a plain `CrossEncoder` folder with a manifest, loaded and ready to score."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retort.students.backends.exports import Backend, choose, export_precision
from retort.students.backends.onnx import ExportError, GraphScorer, open_export
from retort.students.files import resolve_model
from retort.students.loading import (
    Kwargs,
    Precision,
    load_model,
    names_dtype,
    pick_device,
    refuse_remote_code,
    set_precision,
)
from retort.students.manifest import Manifest, ManifestError
from retort.students.scoring import Pair, score_numpy
from retort.students.student import build_manifest, verified

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class Ranker:
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
        self._model = model
        self.manifest = manifest
        self.name = name
        self._scorer = scorer
        self._lock = threading.Lock()  # as in Student: fast tokenizers keep state

    @property
    def model(self) -> CrossEncoder:
        """
        The torch model.

        :raises ExportError:
            If the ranker runs as ONNX.
        """
        if self._model is None:
            msg = f"{self.name} runs as an ONNX graph; load it with backend='torch' to have its modules."
            raise ExportError(msg)
        return self._model

    @classmethod
    def load(
        cls,
        model: str,
        *,
        device: str | None = None,
        precision: Precision | None = None,
        backend: Backend = "auto",
        threads: int | None = None,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        max_tokens: int | None = None,
        model_kwargs: Kwargs = None,
        tokenizer_kwargs: Kwargs = None,
        config_kwargs: Kwargs = None,
    ) -> Ranker:
        """
        Load a ranker trained here, or any other cross-encoder with one label.

        :param model:
            A folder, a Hub id, or `package:NAME/SUBFOLDER` (see `resolve_model`).
        :param device:
            Torch device; None takes the best there is.
        :param precision:
            As in `Student.load`.
        :param backend:
            As in `Student.load`.
        :param threads:
            As in `Student.load`.
        :param revision:
            Hub revision.
        :param token:
            Hub token.
        :param local_files_only:
            Never ask the Hub.
        :param trust_remote_code:
            Run code that the model brings along.
        :param max_tokens:
            Cut pairs here instead of where the model says. It changes the fingerprint.
        :param model_kwargs:
            As in `Student.load`.
        :param tokenizer_kwargs:
            As in `Student.load`.
        :param config_kwargs:
            As in `Student.load`.
        :raises FileNotFoundError:
            If the folder is not there.
        :raises PrecisionError:
            If bfloat16 is asked for where it would be emulated.
        :raises ManifestError:
            If the model is no ranker, or not the one that its manifest describes.
        :raises ExportError:
            If an export is asked for that is not there, or cannot be used.
        :raises RemoteCodeError:
            If the folder brings code along that is not trusted.
        :raises ValueError:
            As `Student.load`.
        """
        kwargs: dict[str, Any] = {
            "model_kwargs": model_kwargs,
            "tokenizer_kwargs": tokenizer_kwargs,
            "config_kwargs": config_kwargs,
        }
        device = pick_device(device)
        folder = Path(resolve_model(model))
        known = Manifest.read(folder) if folder.is_dir() else None
        if known is not None and known.kind != "ranker":
            raise ManifestError(_no_ranker(model))
        backend, chosen = choose(known, backend, precision, device, changed=max_tokens is not None, kwargs=kwargs)
        if backend == "onnx" and known is not None:
            refuse_remote_code(str(folder), trust_remote_code=trust_remote_code)
            scorer: Any = open_export(folder, known, export_precision(chosen), threads)
            return cls(None, known, model, scorer)
        from sentence_transformers import CrossEncoder

        loaded = load_model(
            CrossEncoder,
            model,
            device=device,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            trust_remote_code=trust_remote_code,
            **kwargs,
        )
        manifest = verified(loaded, model, changed=any(kwargs.values()))
        # Any encoder loads as a cross-encoder, with a head of random weights.
        if manifest.kind != "ranker" or not has_head(loaded):
            raise ManifestError(_no_ranker(model))
        if loaded.num_labels != 1:
            msg = f"{model} gives {loaded.num_labels} scores a pair; a ranker gives one."
            raise ManifestError(msg)
        if max_tokens is not None:
            loaded.max_seq_length = max_tokens
            manifest = build_manifest(loaded)
        if not names_dtype(model_kwargs, config_kwargs):
            set_precision(loaded, chosen, device)
        return cls(loaded, manifest, model)

    @property
    def fingerprint(self) -> str:
        """Hash of this exact artefact."""
        return self.manifest.fingerprint

    @property
    def num_parameters(self) -> int:
        """Count of the torch model's parameters."""
        return sum(p.numel() for p in self.model.parameters())

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
        if self._scorer is not None:
            return self._scorer.score(pairs, budget=tokens_per_chunk, progress=progress)
        with self._lock:
            return score_numpy(self.model, pairs, budget=tokens_per_chunk, progress=progress)


def _no_ranker(model: str) -> str:
    return f"{model} is no ranker: it has no trained head that scores pairs. Give a CrossEncoder."


def has_head(model: CrossEncoder) -> bool:
    """Tell whether a cross-encoder's head comes from its file: `BertForSequenceClassification`, not `BertModel`."""
    config: Any = model.config
    return any("For" in name for name in config.architectures or [])
