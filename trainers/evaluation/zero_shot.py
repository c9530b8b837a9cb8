# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What models are worth on data that none was trained on, beside the data that one was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from retort.students.files import read_json, write_json
from retort.trainers.data.read import EmptyTexts, has_split, read_judged
from retort.trainers.data.texts import RetrievalData
from retort.trainers.evaluation.rank import Evaluation
from retort.trainers.evaluation.runs import MEASURE_AGAIN
from retort.trainers.runtime.errors import DataError

Split = tuple[str, RetrievalData]
FILE = "zero_shot.json"
METRIC = "ndcg@10"
SPLITS = ("test", "dev", "train")  # where nothing is trained, one is as good as another


@dataclass
class ZeroShot:
    """
    nDCG@10 of models, on their own data and elsewhere.

    :param own:
        Name of the data that the student was trained on.
    :param sets:
        Per data set, its own first, `{split, queries, documents, hash}`.
    :param models:
        Per model its nDCG@10 on each.
    """

    own: str
    sets: dict[str, dict[str, str | int]]
    models: dict[str, dict[str, float]]

    def outside(self, model: str) -> float:
        """Mean nDCG@10 of a model over all sets but its own."""
        scores = [score for name, score in self.models[model].items() if name != self.own]
        return sum(scores) / len(scores)

    def rows(self) -> list[list[str]]:
        """Cells of a table, a line a model: each figure, and what share it is of the first model's."""
        first = next(iter(self.models))
        whole = {**self.models[first], "": self.outside(first)}
        lines = []
        for model, scores in self.models.items():
            cells = [model]
            for name, score in {**scores, "": self.outside(model)}.items():
                share = f" ({score / whole[name]:.0%})" if model != first and whole[name] else ""
                cells.append(f"{score:.4f}{share}")
            lines.append(cells)
        return lines

    @property
    def header(self) -> list[str]:
        """Names of the columns of `rows`."""
        return ["nDCG@10", *self.sets, "outside"]


def read_zero_shot_sets(own: Path, folders: Sequence[Path], *, empty: EmptyTexts = "error") -> dict[str, Split]:
    """
    Read the data sets, of each the split that is there: test, dev or train.

    :param own:
        Folder of the data that the student was trained on.
    :param folders:
        The others.
    :param empty:
        As in `read_judged`.
    :returns:
        By the folders' names, which must differ.
    :raises DataError:
        If a folder cannot be read or is the student's own, or two have one name.
    """
    found: dict[str, Split] = {}
    for folder in folders:
        if folder.resolve() == own.resolve():
            msg = f"--zero-shot {folder}: these are the data of --data; give others."
            raise DataError(msg)
        if folder.resolve().name in {*found, own.resolve().name}:
            msg = f"--zero-shot {folder}: another data set has the name {folder.name!r}, too; rename the folder."
            raise DataError(msg)
        split = next((split for split in SPLITS if has_split(folder, split)), SPLITS[0])
        found[folder.resolve().name] = split, read_judged(folder, split, empty=empty)
    return found


def measure_zero_shot(
    own: Split,
    others: dict[str, Split],
    scores: dict[str, float],
    evaluate: Callable[[str, RetrievalData], Evaluation],
) -> ZeroShot:
    """
    Evaluate models where none was trained.

    :param own:
        Split and data that the student was trained for.
    :param others:
        The others, as `read_zero_shot_sets` gives them.
    :param scores:
        nDCG@10 of each model on its own data.
    :param evaluate:
        Evaluates a model on data.
    """
    name = own[1].name
    sets = {name: own, **others}
    return ZeroShot(
        own=name,
        sets={
            name: {"split": split, "queries": len(data.queries), "documents": len(data.corpus), "hash": data.hash}
            for name, (split, data) in sets.items()
        },
        models={
            model: {name: score} | {other: evaluate(model, data).metrics[METRIC] for other, (_, data) in others.items()}
            for model, score in scores.items()
        },
    )


def write_zero_shot(run: Path, found: ZeroShot) -> None:
    """Keep the figures in a run folder, for its report."""
    write_json(run / FILE, asdict(found))


def read_zero_shot(run: Path) -> ZeroShot | None:
    """Read what `write_zero_shot` wrote; None if there is nothing."""
    return ZeroShot(**read_json(run / FILE, MEASURE_AGAIN)) if (run / FILE).is_file() else None
