# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What a run folder holds of evaluations, and comparing two of them query by query."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from retort.students.files import read_json, reading, replace_file
from retort.trainers.data.texts import RetrievalData
from retort.trainers.evaluation.metrics import MEASURES
from retort.trainers.evaluation.rank import Evaluation
from retort.trainers.evaluation.significance import Paired, paired_test, values
from retort.trainers.runtime.errors import DataError

PerQuery = dict[str, dict[str, float]]
MEASURE_AGAIN = (
    "Delete it, and metrics.json and systems.json of the run where they are: the command that wrote it (such as "
    "`retort train` with --resume) measures again."
)


def write_evaluation(run: Path, split: str, evaluation: Evaluation, data: RetrievalData | None = None) -> None:
    """
    Write `rankings/SPLIT.run` (TREC format, by rank), the scores if there are any, and `per_query/SPLIT.parquet`.

    The last one comes last, with hashes of the others: what has it is whole.

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
    rankings, scores = (run / "rankings" / f"{split}.{suffix}" for suffix in ("run", "npy"))
    with replace_file(rankings) as aside, aside.open("w", encoding="utf-8", newline="\n") as file:
        for query, ids in evaluation.rankings.items():
            for rank, document in enumerate(ids, 1):
                file.write(f"{query} Q0 {document} {rank} {len(ids) - rank + 1} {evaluation.name.replace(' ', '_')}\n")
    if evaluation.scores:
        each = [evaluation.scores[query] for query in evaluation.rankings]
        with replace_file(scores) as aside, aside.open("wb") as content:
            np.save(content, np.concatenate(each).astype(np.float32))
    else:
        scores.unlink(missing_ok=True)  # another ranking's
    table.attrs["sha256"] = {p.name: _sha256(p.read_bytes()) for p in (rankings, scores) if p.is_file()}
    with replace_file(run / "per_query" / f"{split}.parquet") as aside:
        table.to_parquet(aside, write_page_checksum=True)


def read_per_query(run: Path, split: str) -> PerQuery:
    """
    Read what `write_evaluation` wrote.

    :raises DataError:
        If the run was not evaluated on this split.
    :raises DamagedFileError:
        If the file is damaged.
    """
    path = run / "per_query" / f"{split}.parquet"
    if not path.is_file():
        found = ", ".join(sorted(p.stem for p in path.parent.glob("*.parquet"))) or "none"
        msg = f"{run} has no figures for split {split!r} (it has: {found}). Give --data to evaluate it there."
        raise DataError(msg)
    rows = _table(run, split).set_index("query_id").to_dict("index")
    return {str(query): {name: float(v) for name, v in row.items()} for query, row in rows.items()}


def _table(run: Path, split: str) -> pd.DataFrame:
    path = run / "per_query" / f"{split}.parquet"
    with reading(path, MEASURE_AGAIN):
        return pd.read_parquet(path, page_checksum_verification=True)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def _reading_ranking(run: Path, name: str) -> Iterator[bytes]:
    """Give the content of a file of `rankings/`, if it is what was written; runs of earlier versions do not say."""
    path = run / "rankings" / name
    with reading(path, MEASURE_AGAIN):
        content = path.read_bytes()
        table = run / "per_query" / f"{path.stem}.parquet"
        kept = _table(run, path.stem).attrs.get("sha256", {}) if table.is_file() else {}
        if kept.get(name, _sha256(content)) != _sha256(content):
            msg = "not what was written"
            raise ValueError(msg)
        yield content


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
    table = _table(run, split)
    if odd := data.qrels.keys() ^ set(table["query_id"]):
        return f"{len(odd)} judged queries are not in both, {min(odd)!r} among them"
    kept = table.attrs.get("data")
    if kept is None:
        kept = read_json(run / "metrics.json", MEASURE_AGAIN)["dev"]["student"]
    if len(data.corpus) != kept["documents"]:
        return f"{len(data.corpus)} documents, not {kept['documents']}"
    return "other texts or judgements" if kept.get("hash", data.hash) != data.hash else None


def read_rankings(run: Path, split: str) -> dict[str, list[str]]:
    """Read the rankings that `write_evaluation` wrote, best first."""
    found: dict[str, list[str]] = {}
    with _reading_ranking(run, f"{split}.run") as content:
        # Ids may have spaces, and whatever else `str.splitlines` takes for the end of a line.
        for line in filter(None, content.decode("utf-8").split("\n")):
            query, rest = line.split(" Q0 ", 1)
            found.setdefault(query, []).append(rest.rsplit(" ", 3)[0])
    return found


def read_scores(run: Path, split: str) -> dict[str, list[float]]:
    """Read the scores of `read_rankings`, per query in its order; empty if that ranking had none."""
    path = run / "rankings" / f"{split}.npy"
    if not path.is_file():
        return {}
    rankings = read_rankings(run, split)
    ends = np.cumsum([len(found) for found in rankings.values()])
    with _reading_ranking(run, path.name) as content:
        scores = np.load(io.BytesIO(content))
    return {q: scores[end - len(found) : end].tolist() for (q, found), end in zip(rankings.items(), ends, strict=True)}


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
