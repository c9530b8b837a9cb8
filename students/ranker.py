# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""A ranker: a plain `CrossEncoder` folder with a manifest, loaded and ready to score."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retort.students.loading import Precision, load_model, pick_device, set_precision
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

    def __init__(self, model: CrossEncoder, manifest: Manifest, name: str) -> None:
        self.model = model
        self.manifest = manifest
        self.name = name
        self._lock = threading.Lock()  # as in Student: fast tokenizers keep state

    @classmethod
    def load(
        cls,
        model: str,
        *,
        device: str | None = None,
        precision: Precision = "float32",
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        max_tokens: int | None = None,
    ) -> Ranker:
        """
        Load a ranker trained here, or any other cross-encoder with one label.

        :param model:
            A folder, a Hub id, or `package:NAME/SUBFOLDER` (see `resolve_model`).
        :param device:
            Torch device; None takes the best there is.
        :param precision:
            `float32`; `bfloat16`, refused where the hardware would emulate it; `auto`: bfloat16 where there is.
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
        :raises FileNotFoundError:
            If the folder is not there.
        :raises PrecisionError:
            If bfloat16 is asked for where it would be emulated.
        :raises ManifestError:
            If the model is no ranker, or not the one that its manifest describes.
        """
        from sentence_transformers import CrossEncoder

        device = pick_device(device)
        loaded = load_model(
            CrossEncoder,
            model,
            device=device,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            trust_remote_code=trust_remote_code,
        )
        manifest = verified(loaded, model)
        # Any encoder loads as a cross-encoder, with a head of random weights.
        if manifest.kind != "ranker" or not has_head(loaded):
            msg = f"{model} is no ranker: it has no trained head that scores pairs. Give a CrossEncoder."
            raise ManifestError(msg)
        if loaded.num_labels != 1:
            msg = f"{model} gives {loaded.num_labels} scores a pair; a ranker gives one."
            raise ManifestError(msg)
        if max_tokens is not None:
            loaded.max_seq_length = max_tokens
            manifest = build_manifest(loaded)
        set_precision(loaded, precision, device)
        return cls(loaded, manifest, model)

    @property
    def fingerprint(self) -> str:
        """Hash of this exact artefact."""
        return self.manifest.fingerprint

    @property
    def num_parameters(self) -> int:
        """Count of the model's parameters."""
        return sum(p.numel() for p in self.model.parameters())

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
        with self._lock:
            return score_numpy(self.model, pairs, budget=tokens_per_chunk, progress=progress)


def has_head(model: CrossEncoder) -> bool:
    """Tell whether a cross-encoder's head comes from its file: `BertForSequenceClassification`, not `BertModel`."""
    config: Any = model.config
    return any("For" in name for name in config.architectures or [])
