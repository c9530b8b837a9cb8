# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: all that a bit-exact resume needs, in safetensors and JSON, whole or absent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from retort.students.files import delete_folder, read_json, reading, replace_folder, write_json
from retort.students.hashing import hash_tensors

_SEPARATOR = "::"
_TENSORS, _HASH = "state.safetensors", "sha256"


def save_checkpoint(
    folder: Path,
    module: torch.nn.Module,
    optimizers: dict[str, torch.optim.Optimizer],
    state: dict[str, Any],
    rng: list[dict[str, Tensor]],
    *,
    stage_state: dict[str, dict[str, Tensor]] | None = None,
    keep: int,
) -> None:
    """
    Write `folder/step-N` (N is `state["global_step"]`) and remove the oldest beyond `keep`.

    :param folder:
        The run's checkpoint folder.
    :param module:
        Everything learned.
    :param optimizers:
        Its optimisers, by whose turn it is; none between stages.
    :param state:
        Counters, as JSON.
    :param rng:
        Every process' random generators (see `rng_state`).
    :param stage_state:
        What the stage's objectives fixed when it opened, by their place.
    :param keep:
        How many checkpoints stay.
    """
    tensors = {f"module{_SEPARATOR}{name}": t for name, t in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, values in optimizer.state_dict()["state"].items():
            place = _SEPARATOR.join(["optimizer", name, str(index)])
            tensors |= {f"{place}{_SEPARATOR}{key}": t for key, t in values.items()}
    for place, own in (stage_state or {}).items():
        tensors |= {f"stage{_SEPARATOR}{place}{_SEPARATOR}{name}": t for name, t in own.items()}
    for rank, generators in enumerate(rng):
        tensors |= {f"rng{_SEPARATOR}{rank}{_SEPARATOR}{name}": t for name, t in generators.items()}
    with replace_folder(folder / f"step-{state['global_step']:08d}") as aside:
        save_tensors(tensors, aside / _TENSORS)
        write_json(aside / "state.json", state)
    prune_checkpoints(folder, keep)


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete the oldest checkpoints beyond `keep`."""
    for old in list_checkpoints(folder)[:-keep]:
        delete_folder(old)


def list_checkpoints(folder: Path) -> list[Path]:
    """List the complete checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step-*") if (p / "state.json").is_file())


def read_state(checkpoint: Path) -> dict[str, Any]:
    """
    Read a checkpoint's counters, and check that its tensors are those that were written.

    :raises DamagedFileError:
        If one of its files is damaged.
    """
    mend = f"Delete the folder {checkpoint}: the run goes on from the checkpoint before, or begins anew."
    load_tensors(checkpoint / _TENSORS, mend)
    state: dict[str, Any] = read_json(checkpoint / "state.json", mend)
    return state


def load_module(checkpoint: Path, module: torch.nn.Module) -> None:
    """Load everything learned."""
    module.load_state_dict(_part(checkpoint, "module"))


def load_optimizer(checkpoint: Path, name: str, optimizer: torch.optim.Optimizer) -> None:
    """Load an optimiser's state."""
    state: dict[int, dict[str, Tensor]] = {}
    for entry, tensor in _part(checkpoint, f"optimizer{_SEPARATOR}{name}").items():
        index, key = entry.split(_SEPARATOR)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def load_stage_state(checkpoint: Path) -> dict[str, dict[str, Tensor]]:
    """Return what the stage's objectives fixed when it opened, by their place."""
    state: dict[str, dict[str, Tensor]] = {}
    for entry, tensor in _part(checkpoint, "stage").items():
        place, name = entry.split(_SEPARATOR)
        state.setdefault(place, {})[name] = tensor
    return state


def load_rng(checkpoint: Path, rank: int) -> None:
    """Set a rank's random generators to where they stood; a rank that the checkpoint does not know keeps its own."""
    state = _part(checkpoint, f"rng{_SEPARATOR}{rank}")
    if "cpu" in state:
        torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


def rng_state() -> dict[str, Tensor]:
    """Return the state of this process' random generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors, with their hash among the metadata."""
    # Clones: safetensors refuses tensors that share memory, as tied weights do.
    kept = {name: t.detach().cpu().clone() for name, t in tensors.items()}
    save_file(kept, path, {_HASH: hash_tensors(kept)})


def load_tensors(path: Path, mend: str) -> dict[str, Tensor]:
    """
    Read what `save_tensors` wrote; files of 0.1.0 have no hash.

    :param path:
        The file.
    :param mend:
        What to do if it is damaged.
    :raises DamagedFileError:
        If it is.
    """
    with reading(path, mend):
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            kept = (file.metadata() or {}).get(_HASH)
        if kept not in {None, hash_tensors(tensors)}:
            msg = "other values than were written"
            raise ValueError(msg)
    return tensors


def _part(checkpoint: Path, part: str) -> dict[str, Tensor]:
    prefix = f"{part}{_SEPARATOR}"
    with safe_open(checkpoint / _TENSORS, "pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
