# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""A side of a torch model, ready to encode."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from retort.students.towers import Side

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class TorchEncoder:
    """A side of a torch model."""

    megabytes = 0.0  # the model's are counted once

    def __init__(self, model: SentenceTransformer, side: Side, run: Callable[..., Any], lock: threading.Lock) -> None:
        self._model, self._side, self._run = model, side, run
        # Fast tokenizers keep the truncation of the last call: two threads at once raise 'Already borrowed'.
        self.lock = lock

    def encode(
        self,
        texts: Sequence[str],
        *,
        budget: int | None = None,
        progress: Callable[[int], Any] | None = None,
        prompt: str | None = None,
    ) -> Any:
        """Encode texts, one thread at a time."""
        with self.lock:
            return self._run(self._model, texts, self._side, budget=budget, progress=progress, prompt=prompt)
