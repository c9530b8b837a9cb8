# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The report of a run: one HTML page, made of what the run folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from retort.students.files import read_json, reading, replace_file
from retort.students.manifest import Manifest
from retort.students.redaction import redacted
from retort.trainers.data.texts import RetrievalData, shown_item
from retort.trainers.engine.log import read_log
from retort.trainers.evaluation import plots
from retort.trainers.evaluation.metrics import MEASURES
from retort.trainers.evaluation.rank import evaluate_bm25, evaluate_model
from retort.trainers.evaluation.runs import (
    MEASURE_AGAIN,
    compare,
    of_queries,
    other_data,
    read_per_query,
    read_rankings,
)
from retort.trainers.evaluation.zero_shot import read_zero_shot
from retort.trainers.recipe import dump_yaml, read_yaml
from retort.trainers.runtime.errors import DataError

TEMPLATE = Path(__file__).with_name("report.html")
SHOWN_QUERIES = 15
SURE = 0.05
LEVEL = "level with"


def write_report(
    run: Path,
    out: Path,
    *,
    data: RetrievalData | None = None,
    others: list[str] | None = None,
    trust_remote_code: bool = False,
) -> None:
    """
    Write a run's report.

    :param run:
        The run folder, of a finished run.
    :param out:
        The HTML file.
    :param data:
        The dev split, to show queries as texts and to evaluate others.
    :param others:
        Models, or `bm25`, to show beside the student; they are evaluated now.
    :param trust_remote_code:
        Run code that these models bring along.
    :raises DataError:
        If the run is not finished, others are given without data, or the data are not those that it was measured on.
    """
    if not (run / "metrics.json").is_file():
        msg = f"{run} is no finished run: it has no metrics.json. Go on with `retort train ... --out {run} --resume`."
        raise DataError(msg)
    if others and data is None:
        msg = f"{', '.join(others)}: give --data to evaluate them."
        raise DataError(msg)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        **_collected(run, data, others or [], trust_remote_code=trust_remote_code)
    )
    with replace_file(out) as aside:
        aside.write_text(page, encoding="utf-8")


def _collected(run: Path, data: RetrievalData | None, others: list[str], *, trust_remote_code: bool) -> dict[str, Any]:
    """Gather all that the page shows."""
    metrics = read_json(run / "metrics.json", MEASURE_AGAIN)
    if not metrics["dev"]:
        msg = f"{run} was not measured: its data had no dev queries. Use `retort evaluate` with data that have some."
        raise DataError(msg)
    manifest = Manifest.read(run / "student")
    if manifest is None:
        msg = f"{run / 'student'} has no manifest."
        raise DataError(msg)
    log = read_log(run / "log.jsonl") if (run / "log.jsonl").is_file() else []
    split = _split(run)
    if data is not None:
        data = _measured_on(run, split, data, sample=manifest.kind == "ranker")
    systems = {"student": metrics["dev"]["student"], **metrics["dev"]["candidates"], **metrics["dev"]["teachers"]}
    for name in others:
        assert data is not None  # noqa: S101 - the caller looked
        evaluation = (
            evaluate_bm25(data) if name == "bm25" else evaluate_model(name, data, trust_remote_code=trust_remote_code)
        )
        systems[name] = evaluation.metrics
    comparisons = _comparisons(run, split, list(systems))
    return {
        "name": "/".join(run.parts[-2:]) if run.name.isdigit() else run.name,  # a seed's folder says little
        "verdict": _verdict(comparisons),
        "split": split,
        "systems": systems,
        "measures": MEASURES,
        "manifest": manifest,
        "learning": _learning(log),
        "losses": _losses(log),
        "cost": _cost(systems),
        "comparisons": comparisons,
        "zero_shot": read_zero_shot(run),
        "agreement": _agreement(run, split, list(metrics["dev"]["teachers"])),
        "texts": dict(zip(data.queries.ids, map(shown_item, data.queries.items), strict=True)) if data else {},
        "shown": SHOWN_QUERIES,
        "fitted": {
            path.parent.name: read_json(path, MEASURE_AGAIN)["dev"]
            for path in sorted(run.glob("teachers/*/metrics.json"))
        },
        "training": metrics["training"],
        "recipe": dump_yaml(redacted(read_yaml(run / "recipe.yaml"))),  # earlier versions kept secrets there
    }


def _split(run: Path) -> str:
    """Name the split that the run was chosen by."""
    path = run / "recipe.yaml"
    with reading(path, "Delete it, and go on with the run (`retort train` with --resume): it is made again."):
        return str(read_yaml(path)["data"]["dev"])


def _measured_on(run: Path, split: str, data: RetrievalData, *, sample: bool) -> RetrievalData:
    """Refuse data whose figures and texts are not to be shown beside the run's."""
    if sample:
        data = of_queries(data, read_rankings(run, split))
    if odd := other_data(run, split, data):
        msg = (
            f"{data.name}: {odd}, so these are not the data that {run} was measured on. Give the data that it was "
            f"trained on, with --split {split}."
        )
        raise DataError(msg)
    return data


def _comparisons(run: Path, split: str, names: list[str]) -> dict[str, Any]:
    """Compare the student with whatever the run holds figures of."""
    student = read_per_query(run, split)
    return {
        name: compare(read_per_query(run, f"{split}.{name}"), student)
        for name in names
        if name != "student" and (run / "per_query" / f"{split}.{name}.parquet").is_file()
    }


def _verdict(comparisons: dict[str, Any]) -> list[str]:
    said = []
    for name, comparison in comparisons.items():
        change = comparison.changes["ndcg@10"]
        gap, side = abs(change.test.difference), side_of(change.test.difference)
        place = side if side == LEVEL else f"{gap:.4f} {side}"
        sure = "" if change.test.p < SURE or side == LEVEL else "; chance alone could do that"
        said.append(f"The student is {place} {name} in nDCG@10 (p = {change.test.p:.4f}{sure}).")
    return said


def side_of(difference: float) -> str:
    """Say where a system stands beside another: `above`, `below`, or level with it to four digits."""
    if round(difference, 4) == 0:
        return LEVEL
    return "above" if difference > 0 else "below"


def _learning(log: list[dict[str, Any]]) -> dict[str, Any]:
    """Draw the dev sample's nDCG@10 over steps, by stage."""
    points = [(e["global_step"], e["dev_sample_ndcg"], e["stage"]) for e in log if "dev_sample_ndcg" in e]
    ends = {entry["stage"]: float(entry["global_step"]) for entry in log}
    plot = plots.lines(
        {"dev sample": [(float(step), score) for step, score, _ in points]},
        title="nDCG@10 on the dev sample over training steps",
        x="step",
        y="nDCG@10",
        bands=ends,
    )
    return {"plot": Markup(plot), "rows": points}  # noqa: S704 - plots escape their texts


def _losses(log: list[dict[str, Any]]) -> dict[str, Any]:
    """Draw every term of the loss."""
    series: dict[str, list[tuple[float, float]]] = {}
    for entry in log:
        for name, value in entry.get("terms", {}).items():
            series.setdefault(name, []).append((float(entry["global_step"]), value))
    ends = {entry["stage"]: float(entry["global_step"]) for entry in log}
    plot = plots.lines(series, title="Terms of the loss over training steps", x="step", y="loss", bands=ends)
    rows = [(name, found[0][1], found[-1][1]) for name, found in series.items()]
    return {"plot": Markup(plot), "rows": rows}  # noqa: S704


def _cost(systems: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Draw quality against time and against size."""
    found: dict[str, Any] = {}
    for key, label in (("ms", "milliseconds a query"), ("mb", "MB of weights")):
        points = {n: (m[key], m["ndcg@10"]) for n, m in systems.items() if m.get(key)}
        if points:
            plot = plots.scatter(points, title=f"nDCG@10 against {label}", x=label, y="nDCG@10")
            found[key] = Markup(plot)  # noqa: S704
    return found


def _agreement(run: Path, split: str, teachers: list[str]) -> dict[str, Any]:
    """Count how many of the student's first ten are among each teacher's."""
    found = {}
    student = read_rankings(run, split)
    for name in teachers:
        theirs = read_rankings(run, f"{split}.{name}")
        shared = [len(set(ids[:10]) & set(theirs.get(q, [])[:10])) for q, ids in student.items()]
        counts = {str(n): float(shared.count(n)) for n in range(11)}
        plot = plots.bars(
            counts,
            title=f"Queries by how many of the first ten the student shares with {name}",
            x="shared",
            y="queries",
        )
        found[name] = {"plot": Markup(plot), "counts": counts, "mean": sum(shared) / max(len(shared), 1)}  # noqa: S704
    return found
