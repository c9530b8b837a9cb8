# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Arithmetic of vectors as numpy arrays."""

import numpy as np

SHORTEST = 1e-12  # of what vectors are divided by


def unit(vectors: np.ndarray) -> np.ndarray:
    """
    Divide vectors by their lengths.

    :param vectors:
        `[n, d]`.
    :returns:
        `[n, d]` of length 1; what is shorter than `SHORTEST` is divided by that, so that zeros stay zeros.
    """
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), SHORTEST)
