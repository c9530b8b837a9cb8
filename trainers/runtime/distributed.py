# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
The processes of a run.

All ranks build the same batch. Each encodes its share of the texts and gathers those of the others, so that every
rank holds the vectors of the whole batch and computes the whole loss: objectives see what they would see in one
process, in-batch negatives of all ranks included, and need to know nothing about processes. A rank's gradients
through the vectors reach only the texts it encoded; what objectives own gets its full gradient everywhere.
`average_gradients` brings both to what one process would have computed.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, distributed

if TYPE_CHECKING:
    from accelerate import Accelerator

SHARED = 1024  # items a rank, that are shared out at a time
DoShare = Callable[[Any, list[Any]], Any]


class ProcessGroup:
    """
    This process and the others; a lone one by default.

    :param accelerator:
        The run's Accelerator, which launched or joined the processes.
    """

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        self.world_size = accelerator.num_processes if accelerator else 1
        self.rank = accelerator.process_index if accelerator else 0
        self._work: DoShare | None = None  # while this rank goes ahead of the others

    @property
    def is_main(self) -> bool:
        """Whether this process writes files, mines and asks remote teachers."""
        return self.rank == 0

    @property
    def leads(self) -> bool:
        """Whether this process goes ahead of others, and may share out work."""
        return self._work is not None and self.world_size > 1

    def deal(self, texts: Sequence[Any]) -> list[np.ndarray]:
        """
        Divide texts among the ranks, of all lengths alike; every rank computes the same division.

        :param texts:
            `n` texts, or anything with a length.
        :returns:
            Per rank its rows; together they are `range(n)`.
        """
        if self.world_size == 1:
            return [np.arange(len(texts))]
        order = np.argsort([-len(text) for text in texts], kind="stable")
        return [order[rank :: self.world_size] for rank in range(self.world_size)]

    def gather(self, own: Tensor, dealt: list[np.ndarray]) -> Tensor:
        """
        Collect what every rank computed of its share; gradients go back to where it was computed.

        :param own:
            `[m, ...]` for this rank's rows.
        :param dealt:
            The division, as `deal` gave it.
        :returns:
            `[n, ...]` in the order of the texts, the same on every rank.
        """
        if self.world_size == 1:
            return own
        joined: Tensor = _Gather.apply(own, self.rank, [len(rows) for rows in dealt])  # type: ignore[no-untyped-call]
        back = np.argsort(np.concatenate(dealt), kind="stable")
        return joined[torch.from_numpy(back).to(own.device)]

    def average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Average gradients over the ranks, in place; what no rank has a gradient for keeps none."""
        if self.world_size == 1:
            return
        device = parameters[0].device
        # A rank without texts has no gradients where others have some. Zeros for all would let weight decay loose on
        # parameters that one process would leave alone.
        found = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=device)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        used = [p for p, any_has in zip(parameters, found.tolist(), strict=True) if any_has]
        for p in used:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        for dtype in dict.fromkeys(p.dtype for p in used):
            gradients = [p.grad for p in used if p.dtype == dtype and p.grad is not None]
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            distributed.all_reduce(flat)
            flat /= self.world_size
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def broadcast_weights(self, module: torch.nn.Module) -> None:
        """Give every rank the first one's weights."""
        for tensor in module.state_dict().values() if self.world_size > 1 else ():
            distributed.broadcast(tensor, 0)

    def broadcast(self, value: Any) -> Any:
        """Return the first rank's value on every rank; decisions must not differ by a rounding."""
        if self.world_size == 1:
            return value
        held = [value]
        distributed.broadcast_object_list(held, 0)
        return held[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            distributed.barrier()

    @contextmanager
    def main_first(self, work: DoShare | None = None) -> Iterator[None]:
        """
        Let the first rank go ahead; the others follow once it is through. If it fails, the launcher ends them.

        :param work:
            `work(task, items)` does what the first rank shares out on its way; see `share`.
        """
        if self.is_main:
            self._work = work
            try:
                yield
            finally:
                self._work = None
            self.broadcast(None)
        else:
            while (shared := self.broadcast(None)) is not None:
                self._work_on(work, *shared)
            yield

    def share(self, task: Any, items: list[Any], sizes: Sequence[Any]) -> Iterator[tuple[np.ndarray, Any]]:
        """
        Have some work done by all ranks: the first one calls it within `main_first`, to which the work was given.

        :param task:
            What is to be done; it is pickled.
        :param items:
            What it is done with; they are pickled.
        :param sizes:
            Something of each item's length, by which they are divided; see `deal`.
        :yields:
            The rows of the items that a rank had, and what its work gave.
        :raises Exception:
            What a rank's work raised, after the others' answers.
        """
        failed = None
        for start in range(0, len(items), SHARED * self.world_size):
            part = slice(start, start + SHARED * self.world_size)
            dealt = self.deal(sizes[part])
            shares = [[items[start + row] for row in rows] for rows in dealt]
            self.broadcast((task, shares))
            for rows, answer in zip(dealt, self._work_on(self._work, task, shares), strict=True):
                if isinstance(answer, Exception):
                    failed = failed or answer
                elif len(rows):
                    yield start + rows, answer
            if failed is not None:
                raise failed

    def _work_on(self, work: DoShare | None, task: Any, shares: list[list[Any]]) -> list[Any]:
        """Do this rank's share; return every rank's answer, or what it raised."""
        own: Any = None
        try:
            if work is not None and shares[self.rank]:
                own = work(task, shares[self.rank])
        except Exception as error:
            own = _sendable(error)
        return self.all_gather(own)

    def all_gather(self, value: Any) -> list[Any]:
        """Return every rank's value, in the order of ranks."""
        if self.world_size == 1:
            return [value]
        held: list[Any] = [None] * self.world_size
        distributed.all_gather_object(held, value)
        return held


def _sendable(error: Exception) -> Exception:
    """Return an error as another process can read it, with where it was raised."""
    where = "".join(traceback.format_exception(error))
    try:
        error = pickle.loads(pickle.dumps(error))  # noqa: S301 - its own
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"Raised in a process that shares the work:\n{where}")
    return error


class _Gather(torch.autograd.Function):
    """All ranks compute one loss: each takes its slice of the gradient, times what `average_gradients` divides by."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, rank: int, sizes: list[int]) -> Tensor:
        ctx.rank, ctx.sizes = rank, sizes
        padded = own.new_zeros(max(sizes), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        start = sum(ctx.sizes[: ctx.rank])
        return gradients[0][start : start + ctx.sizes[ctx.rank]] * len(ctx.sizes), None, None
