# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Random numbers that depend on where they are used, not on what was drawn before."""

import hashlib

import numpy as np


def rng_for(*parts: object) -> np.random.Generator:
    """Return a generator that depends on nothing but these parts."""
    digest = hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest))
