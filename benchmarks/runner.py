# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
The common runner: arms take turns, round by round, so that a busy machine slows all of them alike.

An arm is compared with the baseline of its own round. The ratio of two medians would mix good rounds with bad ones.
"""

import argparse
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from retort.cli.main import positive
from retort.cli.table import format_table
from retort.students.files import write_json

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = (
    "retort-haystack", "haystack-ai", "qdrant-haystack", "qdrant-client", "qdrant-edge-py", "sentence-transformers",
    "transformers", "torch", "numpy",
)  # fmt: skip

Figures = dict[str, float]


class ArmError(RuntimeError):
    """An arm failed; the message names it and says where the finished rounds are."""


@dataclass(frozen=True)
class Arm:
    """
    One of the things compared.

    :param run:
        What is measured. It gets what `around` yields and returns its figures by name; if it returns None, its
        `seconds` are taken.
    :param around:
        Makes what `run` needs, anew in each round, and clears it away: a function that returns a context manager.
    """

    run: Callable[[Any], Mapping[str, float] | None]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


def parser(script: str, description: str | None, *, rounds: int = 5) -> argparse.ArgumentParser:
    """Make a script's command line: `--rounds` and `--json`, to which it adds its own."""
    name = Path(script).stem
    made = argparse.ArgumentParser(
        prog=f"benchmarks/{name}.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=positive, default=rounds, help="rounds (default: %(default)s)")
    made.add_argument("--json", type=Path, help=f"result file (default: benchmarks/results/{name}.json)")
    made.set_defaults(benchmark=name)
    return made


def rows_of(rankings: Mapping[str, Sequence[str]], data: Any, depth: int) -> Any:
    """Give each query's first documents as rows of the corpus, `[q, depth]`; others fill up where fewer were found."""
    import numpy as np

    rows = []
    for query in data.queries.ids:
        found = [data.corpus.rows[i] for i in rankings.get(query, ())[:depth]]
        spare = (row for row in range(len(data.corpus)) if row not in found)
        rows.append([*found, *islice(spare, depth - len(found))])
    return np.array(rows)


def data_folder(*names: str) -> Path:
    """Return the folder of the data sets; where it or one of those named is missing, say so and exit with status 2."""
    folder = Path(os.environ.get("RETORT_DATA") or ROOT.parent / "shared" / "data")
    for wanted in (folder, *(folder / name for name in names)):
        if not wanted.is_dir():
            print(f"There is no {wanted}. Set RETORT_DATA to the folder of the data sets.", file=sys.stderr)
            raise SystemExit(2)
    return folder


def compare(
    arms: Mapping[str, Arm],
    arguments: argparse.Namespace,
    *,
    baseline: str,
    better: Mapping[str, Literal["higher", "lower"]],
    device: str = "cpu",
) -> dict[str, Any]:
    """
    Run the arms in rounds, print what they measured and write it as JSON, anew after each round.

    Over as many rounds as there are arms each of them has each turn once and, if their number is even, comes once
    after each other arm: what one leaves behind, in caches and on the disk, falls on all of them alike.

    :param arms:
        The arms by name.
    :param arguments:
        The parsed command line of `parser`; all but the path goes into the result.
    :param baseline:
        The arm that the others are compared with.
    :param better:
        The figures to compare, and which direction is good: all ratios say how many times better an arm is.
    :param device:
        Torch device that the arms compute on, for the record.
    :returns:
        What was written.
    :raises ArmError:
        If an arm fails. The finished rounds are kept.
    """
    given = vars(arguments)
    path = given["json"] or ROOT / "benchmarks" / "results" / f"{given['benchmark']}.json"
    result: dict[str, Any] = {
        "benchmark": given["benchmark"],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": False,
        "arguments": {name: value for name, value in given.items() if name not in {"benchmark", "json"}},
        "machine": describe_machine(device),
        "baseline": baseline,
        "better": dict(better),
    }
    names, rounds = list(arms), []
    for number in range(given["rounds"]):
        order = _order(names, number)
        load, figures = os.getloadavg()[0], {}
        for name in order:
            print(f"round {number + 1} of {given['rounds']}: {name}", file=sys.stderr, flush=True)
            try:
                figures[name] = _measure(arms[name])
            except Exception as error:
                kept = f"the {number} finished rounds are in {path}" if number else "no round was finished"
                msg = f"Arm {name!r} failed in round {number + 1}: {type(error).__name__}: {error} ({kept})."
                raise ArmError(msg) from error
        rounds.append({"order": order, "load_average": round(load, 2), "figures": {n: figures[n] for n in names}})
        complete = len(rounds) == given["rounds"]
        write_json(path, result := {**result, "complete": complete, **summarise(rounds, baseline, better)})
    print(format_result(result))
    return result


def summarise(rounds: list[dict[str, Any]], baseline: str, better: Mapping[str, str]) -> dict[str, Any]:
    """Return the `summary` of each arm's figures and the `ratios` to the baseline: median, min and max over rounds."""
    summary: dict[str, Any] = {}
    ratios: dict[str, Any] = {}
    for name, first in rounds[0]["figures"].items():
        mine = [done["figures"][name] for done in rounds]
        summary[name] = {figure: _spread(one[figure] for one in mine) for figure in first}
        if name != baseline:
            base = [done["figures"][baseline] for done in rounds]
            ratios[name] = {
                figure: _spread(
                    one[figure] / other[figure] if good == "higher" else other[figure] / one[figure]
                    for one, other in zip(mine, base, strict=True)
                )
                for figure, good in better.items()
            }
    return {"summary": summary, "ratios": ratios, "rounds": rounds}


def format_result(result: Mapping[str, Any]) -> str:
    """Format a result as two tables: medians with their range, and how many times better than the baseline."""
    columns = list(result["summary"][result["baseline"]])
    rows = [[name, *(_cell(found[c]) for c in columns)] for name, found in result["summary"].items()]
    title = f"median of {len(result['rounds'])} rounds (least to most)"
    tables = [title, format_table(["", *columns], rows)]
    if result["ratios"]:
        rows = [[name, *map(_cell, found.values())] for name, found in result["ratios"].items()]
        tables += [f"\ntimes better than {result['baseline']}", format_table(["", *result["better"]], rows)]
    return "\n".join(tables)


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """Describe hardware and libraries, without names of hosts or paths."""
    torch = sys.modules.get("torch")  # a benchmark that does not use torch need not load it
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads() if torch else None,
        "device": torch.cuda.get_device_name(device) if torch and device.startswith("cuda") else device,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def _order(names: list[str], number: int) -> list[str]:
    """Return a row of a Latin square: 0, 1, -1, 2, -2 ... and in the next round one further each."""
    zigzag = ((place + 1) // 2 * (1 if place % 2 else -1) for place in range(len(names)))
    return [names[(step + number) % len(names)] for step in zigzag]


def _measure(arm: Arm) -> Figures:
    gc.collect()  # what the arm before left behind is not this one's work
    with arm.around() as given:
        started = time.perf_counter()
        figures = arm.run(given)
        seconds = time.perf_counter() - started
    return {"seconds": seconds} if figures is None else {name: float(value) for name, value in figures.items()}


def _spread(values: Iterable[float]) -> Figures:
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _cell(spread: Figures) -> str:
    if spread["min"] == spread["max"]:
        return _number(spread["median"])
    return f"{_number(spread['median'])} ({_number(spread['min'])} to {_number(spread['max'])})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
