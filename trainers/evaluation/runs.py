# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What a run folder holds of evaluations, and comparing two of them query by query."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from retort.students.files import replace_file
from retort.trainers.data.texts import RetrievalData
from retort.trainers.evaluation.metrics import MEASURES
from retort.trainers.evaluation.rank import Evaluation
from retort.trainers.evaluation.significance import Paired, paired_test, values
from retort.trainers.runtime.errors import DataError

PerQuery = dict[str, dict[str, float]]


def write_evaluation(run: Path, split: str, evaluation: Evaluation, data: RetrievalData | None = None) -> None:
    """
    Write `per_query/SPLIT.parquet`, `rankings/SPLIT.run` (TREC format, by rank) and, if there are any, the scores.

    :param run:
        The run folder.
    :param split:
        The split's name; of others than the student `SPLIT.NAME`.
    :param evaluation:
        What was found.
    :param data:
        What it was found on, for `other_data` to ask.
    """
    table = pd.DataFrame.from_dict(evaluation.per_query, orient="index").rename_axis("query_id").reset_index()
    if data is not None:
        data = of_queries(data, evaluation.rankings)
        table.attrs["data"] = {"hash": data.hash, "documents": len(data.corpus)}
    with replace_file(run / "per_query" / f"{split}.parquet") as aside:
        table.to_parquet(aside)
    with (
        replace_file(run / "rankings" / f"{split}.run") as aside,
        aside.open("w", encoding="utf-8", newline="\n") as file,
    ):
        for query, ids in evaluation.rankings.items():
            for rank, document in enumerate(ids, 1):
                file.write(f"{query} Q0 {document} {rank} {len(ids) - rank + 1} {evaluation.name.replace(' ', '_')}\n")
    kept = run / "rankings" / f"{split}.npy"
    if not evaluation.scores:
        kept.unlink(missing_ok=True)  # another ranking's
        return
    each = [evaluation.scores[query] for query in evaluation.rankings]
    with replace_file(kept) as aside, aside.open("wb") as scores:
        np.save(scores, np.concatenate(each).astype(np.float32))


def read_per_query(run: Path, split: str) -> PerQuery:
    """
    Read what `write_evaluation` wrote.

    :raises DataError:
        If the run was not evaluated on this split.
    """
    path = run / "per_query" / f"{split}.parquet"
    if not path.is_file():
        found = ", ".join(sorted(p.stem for p in path.parent.glob("*.parquet"))) or "none"
        msg = f"{run} has no figures for split {split!r} (it has: {found}). Give --data to evaluate it there."
        raise DataError(msg)
    table = pd.read_parquet(path).set_index("query_id")
    return {str(query): {name: float(v) for name, v in row.items()} for query, row in table.to_dict("index").items()}


def of_queries(data: RetrievalData, queries: Mapping[str, Any]) -> RetrievalData:
    """Keep these queries of a data set: rankers are measured on a sample."""
    return data.subset(row for row, query in enumerate(data.queries.ids) if query in queries)


def other_data(run: Path, split: str, data: RetrievalData) -> str | None:
    """
    Say how data differ from those that a run's figures are of.

    :param run:
        The run folder, with figures of this split.
    :param split:
        The split.
    :param data:
        The data.
    :returns:
        What is different, or None. Runs of earlier versions kept no hash: of theirs only queries and the number of
        documents are known.
    """
    table = pd.read_parquet(run / "per_query" / f"{split}.parquet")
    if odd := data.qrels.keys() ^ set(table["query_id"]):
        return f"{len(odd)} judged queries are not in both, {min(odd)!r} among them"
    kept = table.attrs.get("data")
    if kept is None:
        kept = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["dev"]["student"]
    if len(data.corpus) != kept["documents"]:
        return f"{len(data.corpus)} documents, not {kept['documents']}"
    return "other texts or judgements" if kept.get("hash", data.hash) != data.hash else None


def read_rankings(run: Path, split: str) -> dict[str, list[str]]:
    """Read the rankings that `write_evaluation` wrote, best first."""
    found: dict[str, list[str]] = {}
    # Ids may have spaces, and whatever else `str.splitlines` takes for the end of a line.
    with (run / "rankings" / f"{split}.run").open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            query, rest = line.rstrip("\n").split(" Q0 ", 1)
            found.setdefault(query, []).append(rest.rsplit(" ", 3)[0])
    return found


def read_scores(run: Path, split: str) -> dict[str, list[float]]:
    """Read the scores of `read_rankings`, per query in its order; empty if that ranking had none."""
    path = run / "rankings" / f"{split}.npy"
    if not path.is_file():
        return {}
    rankings = read_rankings(run, split)
    ends = np.cumsum([len(found) for found in rankings.values()])[:-1]
    return {q: part.tolist() for q, part in zip(rankings, np.split(np.load(path), ends), strict=True)}


@dataclass
class Change:
    """
    What changed from one system to another, in one measure.

    :param before:
        Mean of the first.
    :param after:
        Mean of the second.
    :param test:
        Interval of the difference and its p (see `paired_test`).
    :param t_p:
        Two-sided p of the paired t-test.
    :param wins:
        Queries for which the second is better.
    :param losses:
        Queries for which it is worse.
    :param ties:
        All others.
    """

    before: float
    after: float
    test: Paired
    t_p: float
    wins: int
    losses: int
    ties: int


@dataclass
class Comparison:
    """
    Two systems over the same queries.

    :param changes:
        By measure.
    :param forgotten:
        Queries whose first relevant document was at rank 1 before, and is not after.
    :param gained:
        The reverse.
    """

    changes: dict[str, Change]
    forgotten: list[str]
    gained: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON would have it."""
        return asdict(self)


def compare(before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]) -> Comparison:
    """
    Compare two systems query by query.

    :param before:
        Per query the measures of the first.
    :param after:
        The same of the second.
    :raises DataError:
        If they are not of the same queries.
    """
    from scipy.stats import ttest_rel

    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())
        msg = f"they were evaluated on different queries: {len(odd)} are not in both, {odd[0]!r} among them."
        raise DataError(msg)
    changes = {}
    for name in MEASURES:
        first, second = values(before, name), values(after, name)
        gaps = second - first
        t_p = float(ttest_rel(second, first).pvalue) if np.ptp(gaps) > 0 else 1.0
        wins, losses = int((gaps > 0).sum()), int((gaps < 0).sum())
        changes[name] = Change(
            before=float(first.mean()),
            after=float(second.mean()),
            test=paired_test(first, second),
            t_p=t_p,
            wins=wins,
            losses=losses,
            ties=len(gaps) - wins - losses,
        )
    right = {q: (before[q]["mrr@10"] == 1.0, after[q]["mrr@10"] == 1.0) for q in before}
    return Comparison(
        changes=changes,
        forgotten=sorted(q for q, (was, is_now) in right.items() if was and not is_now),
        gained=sorted(q for q, (was, is_now) in right.items() if is_now and not was),
    )
