# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Runs recipes in this process, or as one of several that `accelerate launch` started; see test_ranks.py.

Each rank leaves everything it learned in `rank-N.safetensors`, as it stood at every stage's end, and in `work-N.json`
how many texts and lists it worked on for the first one, by model.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import save_file

from retort.students import create
from retort.trainers import run
from retort.trainers.context import TrainingContext
from retort.trainers.engine.loop import Loop
from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe

MEASURED = ("whole", "ranker", "prod", "images", "sparse", "dropout", "killed")


def double_student(**parameters: Any) -> Any:
    """Start from random weights in float64."""
    return create.from_config(**parameters).double()


def double_ranker(**parameters: Any) -> Any:
    """Start a ranker in float64."""
    return create.ranker(**parameters).double()


def double_sparse(**parameters: Any) -> Any:
    """Start a sparse student in float64."""
    return create.sparse(**parameters).double()


def double_towers(**parameters: Any) -> Any:
    """Start two towers in float64; what is frozen stays so."""
    return create.two_towers(**parameters).double()


def double_images(**parameters: Any) -> Any:
    """Start a student that reads images in float64."""
    return create.image_text(**parameters).double()


def double_heads(*, maker: str = "with_heads", **parameters: Any) -> Any:
    """Start a student with heads in float64."""
    return getattr(create, maker)(**parameters).double()


def run_all(jobs: dict[str, dict], data: Path, out: Path) -> None:
    torch.set_num_threads(1)
    real = Loop._save

    def saving(self: Loop, optimizer: Any) -> None:
        real(self, optimizer)
        if optimizer is None:
            state = {f"{self.progress.stage}.{name}": t.clone() for name, t in self.distiller.state_dict().items()}
            save_file(state, self.run_folder / f"rank-{self.processes.rank}-{self.progress.stage}.safetensors")

    worked: Counter[str] = Counter()
    work = TrainingContext.work

    def counting(self: TrainingContext, task: Any, items: list[Any]) -> Any:
        worked[" ".join(filter(None, task))] += len(items)
        return work(self, task, items)

    Loop._save = saving  # type: ignore[method-assign]
    TrainingContext.work = counting  # type: ignore[method-assign]
    whole = run.final_metrics
    try:
        for name, tree in jobs.items():
            # One rank alone measures: once a kind of student is enough.
            run.final_metrics = whole if name in MEASURED else lambda *_: ({"dev": {}}, {})  # type: ignore[assignment]
            build = torch.float64 if tree["student"]["type"].startswith("two_ranks.") else torch.float32
            torch.set_default_dtype(build)  # what objectives create
            folder = data / "pictures" if name == "images" else data
            run_recipe(Recipe.from_dict(tree, allow=["two_ranks", "skeletons"]), folder, out / name)
            (out / f"work-{PartialState().process_index}.json").write_text(json.dumps(worked))
    finally:
        torch.set_default_dtype(torch.float32)
        Loop._save = real  # type: ignore[method-assign]
        TrainingContext.work = work  # type: ignore[method-assign]
        run.final_metrics = whole


if __name__ == "__main__":
    import two_ranks  # under its own name, as recipes know it

    os.fsync = lambda handle: None  # as in common_fixtures.py
    jobs, data, out = sys.argv[1:]
    two_ranks.run_all(json.loads(Path(jobs).read_text()), Path(data), Path(out))
    PartialState().destroy_process_group()  # left to the end of the process, its threads may abort it
