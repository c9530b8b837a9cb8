# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
r"""
CoT-MAE: contextual masked auto-encoder pre-training (Wu et al. 2023, arXiv 2208.07670).

Masked language modelling alone puts no pressure on the sentence vector. Here a weak decoder must restore a neighbouring
span $B$ of the document, 45% of it hidden, from the vector of span $A$, of which the encoder saw 70%:

$$L = \mathrm{MLM}(A) + \mathrm{CE}(\mathrm{head}(\mathrm{dec}([v_A; \mathrm{Emb}(\tilde B)_{1:}])), B)$$

Spans and masks are those of `retort.trainers.batches.spans`, the decoder is that of `retort.trainers.decoders`. What is
saved is the encoder, a trunk for any other recipe.

As the official code (caskcsg/ir, `cotmae`), but for this: a span ends before the sentence that would make it too long,
so that no token is cut off; each text is truncated once, where the code draws two crops, one for the mask and one for
the input; epochs draw their spans and contexts anew, where the code stores one context of each kind.
"""

from __future__ import annotations

from retort.trainers.decoders import Reconstruction


class ContextReconstruction(Reconstruction):
    """
    Masked language modelling, and each span restored from the vector of its context: terms `mlm` and `context`.

    :param layers:
        Layers of the decoder.
    :param weight:
        Weight of `context`; 0 leaves the decoder out.
    :param shuffle_every:
        As of `Reconstruction`: every so many steps, `context_shuffled` and `context_matched` are logged.

    ```yaml
    batches: {type: retort.trainers.batches.spans.SpanBatches}
    objectives: [{type: retort.trainers.methods.cotmae.ContextReconstruction, init_parameters: {layers: 2}}]
    ```
    """

    tasks = ("context",)

    def __init__(self, *, layers: int = 2, weight: float = 1.0, shuffle_every: int = 10) -> None:
        super().__init__(layers=layers, weight=weight, shuffle_every=shuffle_every)
