# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Random weights that depend on a seed alone, drawn without touching what the caller draws."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """
    Seed what is drawn on the CPU within; afterwards the caller's random numbers go on as if nothing had been drawn.

    New weights are drawn there, whatever device they move to. `torch.manual_seed` would reseed each GPU as well, for
    good.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
