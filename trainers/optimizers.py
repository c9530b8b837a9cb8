# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What optimisers are told: which parameters decay, how fast each learns at a step, and whose step it is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from retort.trainers.checkpoints import load_optimizer
from retort.trainers.distiller import Distiller
from retort.trainers.recipe import Stage, TrainingSection


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
    apart: list[dict[str, Any]] = [
        {"params": list(part.parameters()), "weight_decay": 0.0, "highest": own} for part, own in paces
    ]
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


class Turns:
    """
    Whose step it is, with an optimiser and a schedule each: the student alone, or a live teacher in turns with it.

    :param distiller:
        Everything that learns.
    :param stage:
        The stage.
    :param training:
        How to train.
    """

    def __init__(self, distiller: Distiller, stage: Stage, training: TrainingSection) -> None:
        self._distiller, self._stage, self._training = distiller, stage, training
        self._whose = [distiller.turn_at(stage.name, step) for step in range(stage.steps)]
        self._turn = ""
        self.learning: list[torch.nn.Parameter] = []
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        for turn in dict.fromkeys(self._whose):
            distiller.enter(stage.name, turn)
            highest = distiller.highest_rate(stage.name, turn, stage.lr)
            groups = parameter_groups(distiller, highest, training.weight_decay, distiller.paces(stage.name, turn))
            # Half a CPU step goes to the unfused one.
            self.optimizers[turn] = torch.optim.AdamW(groups, lr=highest, fused=True)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of this turn."""
        return self.optimizers[self._turn]

    def take(self, step: int) -> float:
        """Make ready for a step: gradients, modes and learning rates, of which the first group's is returned."""
        turn = self._whose[step]
        if turn != self._turn:
            self._turn = turn
            self.learning = self._distiller.enter(self._stage.name, turn)
            self._distiller.train()
        share = pace(self._training.warmup, self._whose[:step].count(turn), self._whose.count(turn))
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest"] * share
        return float(self.optimizer.param_groups[0]["lr"])

    def load(self, checkpoint: Path) -> None:
        """Load the optimisers' states."""
        for name, optimizer in self.optimizers.items():
            load_optimizer(checkpoint, name, optimizer)
