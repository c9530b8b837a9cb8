# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort compare`."""

import argparse
import logging
from pathlib import Path

from retort.cli.table import COLUMNS, format_table
from retort.students.files import write_json
from retort.students.manifest import Manifest
from retort.trainers.data.read import read_judged
from retort.trainers.data.texts import RetrievalData
from retort.trainers.evaluation.rank import evaluate_bm25, evaluate_model
from retort.trainers.evaluation.runs import Comparison, PerQuery, compare, other_data, read_per_query, write_evaluation
from retort.trainers.runtime.errors import DataError

logger = logging.getLogger(__name__)


def run(given: argparse.Namespace) -> None:
    """Compare each run with the first."""
    data = read_judged(given.data, given.split, empty=given.empty) if given.data else None
    systems = {name: figures(name, given.split, data, trust_remote_code=given.trust_remote_code) for name in given.runs}
    first, *others = systems
    if not others:
        msg = "give two runs or more: each is compared with the first."
        raise DataError(msg)
    found: dict[str, Comparison] = {}
    for name in others:
        try:
            found[name] = compare(systems[first], systems[name])
        except DataError as error:
            msg = f"{first} and {name}: {error}"
            raise DataError(msg) from error
        print(f"{name}, compared with {first} ({given.split}, {len(systems[first])} queries)")
        print(comparison_table(found[name]))
        print(
            f"first relevant at rank 1: {len(found[name].forgotten)} forgotten, {len(found[name].gained)} gained"
            f"{_examples(found[name].forgotten)}\n"
        )
    if given.json:
        comparisons = {name: comparison.to_dict() for name, comparison in found.items()}
        write_json(given.json, {"split": given.split, "baseline": first, "compared": comparisons})


def figures(name: str, split: str, data: RetrievalData | None, *, trust_remote_code: bool = False) -> PerQuery:
    """
    Read a run's figures; what has none of these data is evaluated, and a run's first ones of a split are kept in it.

    :param name:
        A run folder, `bm25`, or a model.
    :param split:
        The split.
    :param data:
        Its data, if given.
    :param trust_remote_code:
        Run code that a model brings along.
    """
    folder = Path(name)
    is_run = (folder / "recipe.yaml").is_file()
    has_figures = is_run and (folder / "per_query" / f"{split}.parquet").is_file()
    odd = other_data(folder, split, data) if has_figures and data is not None else None
    if is_run and (data is None or has_figures) and odd is None:
        return read_per_query(folder, split)
    if data is None:
        msg = f"{name} is no run folder: give --data to evaluate it."
        raise DataError(msg)
    if name == "bm25":
        return evaluate_bm25(data).per_query
    if odd is not None:
        manifest = Manifest.read(folder / "student")
        if manifest is not None and manifest.kind == "ranker":
            msg = (
                f"{name} ranks what others find, and was measured on other data than {data.name} ({odd}). Use "
                f"`retort evaluate MODEL --rerank {folder / 'student'}`."
            )
            raise DataError(msg)
        logger.warning("%s was measured on other data than %s (%s): its student is evaluated.", name, data.name, odd)
    model = str(folder / "student") if is_run else name
    evaluation = evaluate_model(model, data, trust_remote_code=trust_remote_code)
    if is_run and not has_figures:
        write_evaluation(folder, split, evaluation, data)
    return evaluation.per_query


def comparison_table(comparison: Comparison) -> str:
    """Table of a comparison, one line a measure."""
    rows = [
        [
            COLUMNS[name],
            f"{c.before:.4f}",
            f"{c.after:.4f}",
            f"{c.test.difference:+.4f}",
            f"{c.test.low:+.4f} to {c.test.high:+.4f}",
            f"{c.test.p:.4f}",
            f"{c.t_p:.4f}",
            f"{c.wins}/{c.losses}/{c.ties}",
        ]
        for name, c in comparison.changes.items()
    ]
    header = ["measure", "first", "this", "change", "95% interval", "p (randomisation)", "p (t)", "won/lost/tied"]
    return format_table(header, rows)


def _examples(queries: list[str]) -> str:
    return f"; forgotten: {', '.join(queries[:5])}{', ...' if len(queries) > 5 else ''}" if queries else ""  # noqa: PLR2004
