# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What optimisers are told: which parameters decay, how fast each learns at a step, and whose step it is."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from retort.trainers.distiller import STUDENT, Distiller, ParameterGroup
from retort.trainers.engine.checkpoints import load_optimizer
from retort.trainers.recipe import Stage, TrainingSection


def parameter_groups(
    module: torch.nn.Module, lr: float, weight_decay: float, parameter_groups_of: Iterable[ParameterGroup] = ()
) -> list[dict[str, Any]]:
    """
    Split what learns into matrices, which decay, and vectors and scalars, which do not.

    :param module:
        Holds the parameters; those without gradients are left out.
    :param lr:
        Highest learning rate of most.
    :param weight_decay:
        Of matrices.
    :param parameter_groups_of:
        Parts with a highest learning rate of their own: two groups each, after those of the rest.
    """

    def two(parameters: list[torch.nn.Parameter], highest: float, decay: float) -> list[dict[str, Any]]:
        return [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay, "highest": highest},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "highest": highest},
        ]

    apart = [(list(own.part.parameters()), own.lr, weight_decay if own.decays else 0.0) for own in parameter_groups_of]
    taken = {id(p) for parameters, _, _ in apart for p in parameters}
    rest = [p for p in module.parameters() if p.requires_grad and id(p) not in taken]
    return [group for parts in ((rest, lr, weight_decay), *apart) for group in two(*parts)]


def schedule_factor(schedule: str, warmup: float, step: int, steps: int, floor: float = 0.0) -> float:
    r"""
    Return the share of the highest learning rate at a step: a function of the step alone.

    It rises linearly to 1 over the warm-up; then with $x$ from 0 to 1 over the other steps `linear` is $1 - x$,
    `cosine` $(1 + \cos \pi x) / 2$, `constant` 1. With a floor $f$ it is $f + (1 - f)$ times that, and the last step
    has $x = 1$; without one the step after it would have, so that no step is made for nothing.

    :param schedule:
        `linear`, `cosine` or `constant`.
    :param warmup:
        Share of the steps in which it rises.
    :param step:
        The step, from 0.
    :param steps:
        How many there are.
    :param floor:
        $f$, below 1.
    """
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    left = (steps - step - (floor > 0)) / max(1, steps - rising)
    share = {"linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant": 1.0}[schedule]
    return floor + (1 - floor) * share


class AlternatingOptimizers:
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
        # Steps a turn, and for each step how many of its turn come before it.
        self._steps: Counter[str] = Counter()
        self._done = array("q")
        for turn in self._whose:
            self._done.append(self._steps[turn])
            self._steps[turn] += 1
        self._turn = ""
        self.learning: list[torch.nn.Parameter] = []
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._groups = {turn: distiller.parameter_groups_of(stage.name, turn) for turn in dict.fromkeys(self._whose)}
        for turn in dict.fromkeys(self._whose):
            distiller.enter(stage.name, turn)
            highest = distiller.highest_rate(stage.name, turn, stage.lr)
            groups = parameter_groups(distiller, highest, training.weight_decay, self._groups[turn])
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
        done, steps = self._done[step], self._steps[turn]
        training = self._training
        share = schedule_factor(self._stage.schedule, training.warmup, done, steps, training.lr_floor)
        own = [part.at(step, self._stage.steps) for part in self._groups[turn] for _ in range(2)]  # two groups each
        for group, slower in zip(self.optimizer.param_groups, [1.0, 1.0, *own], strict=True):
            group["lr"] = group["highest"] * share * slower
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def is_students(self) -> bool:
        """Whether the student learns in this step."""
        return self._turn == STUDENT

    def load(self, checkpoint: Path) -> None:
        """Load the optimisers' states."""
        for name, optimizer in self.optimizers.items():
            load_optimizer(checkpoint, name, optimizer)
