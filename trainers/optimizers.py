# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What the optimiser is told: which parameters decay, and how fast each learns at a step."""

from collections.abc import Iterable
from typing import Any

import torch


def parameter_groups(
    module: torch.nn.Module, lr: float, weight_decay: float, paces: Iterable[tuple[torch.nn.Module, float]] = ()
) -> list[dict[str, Any]]:
    """
    Split what learns into matrices, which decay, vectors and scalars, which do not, and what has a rate of its own.

    :param module:
        Holds the parameters; those without gradients are left out.
    :param lr:
        Highest learning rate of most.
    :param weight_decay:
        Of matrices.
    :param paces:
        Parts with a highest learning rate of their own; they do not decay.
    """
    apart = [{"params": list(part.parameters()), "weight_decay": 0.0, "highest": own} for part, own in paces]
    taken = {id(p) for group in apart for p in group["params"]}
    rest = [p for p in module.parameters() if p.requires_grad and id(p) not in taken]
    return [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay, "highest": lr},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0, "highest": lr},
        *apart,
    ]


def pace(warmup: float, step: int, steps: int) -> float:
    """Rise linearly to 1 over the first `warmup` share of the steps, then fall to 0: a function of the step alone."""
    rising = max(1, round(warmup * steps))
    return (step + 1) / rising if step < rising else (steps - step) / max(1, steps - rising)


def set_learning_rates(optimizer: torch.optim.Optimizer, share: float) -> float:
    """Give each group this share of its highest rate; returns the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = group["highest"] * share
    return float(optimizer.param_groups[0]["lr"])
