# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The page of the leaderboards, `results/LEADERBOARD.md`, made from their JSON."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from report import shown

Tree = dict[str, Any]
INTRODUCTION = """\
# Leaderboards

Made by `benchmarks/leaderboard.py --report` from `*.json` beside it; do not edit. What each arm is stands in
`benchmarks/arms.py`. nDCG@10 of all dev questions over the full corpus. p over questions: paired randomisation of seed
means, with its 95% interval; p over seeds: paired t. A difference counts where both p are below .05; of fewer than
three seeds it is a direction. Hybrids add scores, those of `leaderboard-wiki-1500-200` ranks; p to MiniLM-L6 and to
BM25 are over questions. Rankers order the first 50 documents of 200 questions. Where a start is a table, students read
whole texts, and lengths are the rankers'.

PROD ran without its second warm-up and with lists of 15 documents for its confusing queries, LEAD with a frozen
teacher: both were corrected later. Newer methods stand in [REPORT.md](REPORT.md).
"""
LEVEL = 0.05


def write_boards(results: Path) -> None:
    """Write the results' `LEADERBOARD.md`."""
    from retort.students.files import replace_file

    with replace_file(results / "LEADERBOARD.md") as aside:
        aside.write_text(boards(results), encoding="utf-8")


def boards(results: Path) -> str:
    lines = [INTRODUCTION.rstrip()]
    for path in sorted(results.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["benchmark"] == "leaderboard":
            lines += ["", f"## {path.stem}", "", *board(result)]
    return "\n".join(lines) + "\n"


def board(result: Tree) -> list[str]:
    """Tables of one group on one set: its arms, their differences, and what its rankers order."""
    arms = result["arms"]
    lines = [
        settings(result),
        "",
        "| arm | nDCG@10 (spread), seeds | to MiniLM-L6 | with BM25 (to BM25) |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {metrics['ndcg@10']:.4f} | | |" for name, metrics in result["references"].items()]
    for name, arm in arms.items():
        score = arm["ndcg@10"]
        cells = [
            name,
            f"{score['mean']:.4f} ({score['spread']:.4f}), {len(score['seeds'])}",
            change(arm["against minilm"]),
            f"{arm['hybrid ndcg@10']:.4f} ({change(arm['hybrid against bm25'])})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for name, row in result["teachers"].items():
        score, bm25 = row["metrics"]["ndcg@10"], row["bm25"]["ndcg@10"]
        there = f"{score:.4f} on {row['metrics']['queries']} questions, BM25 {bm25:.4f}"
        lines.append(f"| teacher `{name}`, ordering BM25's first 20 | {there} | | |")
    names = list(arms)
    pairs = [(name, other) for i, name in enumerate(names) for other in names[:i] if f"against {other}" in arms[name]]
    if pairs:
        lines += [
            "",
            "| arm | against | difference (95%) | p, questions | p, seeds | counts |",
            "|---|---|---|---|---|---|",
        ]
        lines += [difference(name, other, arms) for name, other in pairs]
    reranked = {name: arm["reranked"] for name, arm in arms.items() if "reranked" in arm}
    if reranked:
        generators = list(next(iter(reranked.values())))
        lines += ["", f"| its ranker, on lists of | {' | '.join(generators)} |", f"|{'---|' * (len(generators) + 1)}"]
        for name, cells_of in reranked.items():
            first = name == result["arguments"]["baseline"]
            cells = [
                f"{cell['ndcg@10']:.4f}" + ("" if first or "change" not in cell else f" ({change(cell['change'])})")
                for cell in cells_of.values()
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def settings(result: Tree) -> str:
    """Say in one line what the arms of a group have in common."""
    given = result["arguments"]
    query, document = given["tokens"]
    parts = [
        f"`{given['data']}` dev: {given['queries'] or 'all'} training queries",
        f"{given['steps']} steps of {given['batch_size']} lists of 1 + {given['negatives']}",
        f"start `{Path(given['start']).name}`" if given.get("start") else f"layers {given['layers']} of MiniLM",
        f"{query}/{document} tokens"
        + (f", {given['served_tokens']} of documents where compared" if given.get("served_tokens") else ""),
        "the last state of each run" if given.get("keep") == "last" else "the best state on a dev sample",
    ]
    if weight := given.get("extra_teachers", given.get("besides")):
        parts.append(f"{weight:g} times BM25's scores added to those of students' teachers")
    elif given.get("lexical"):
        parts.append("BM25 beside every other teacher")
    if given.get("shared_lists"):
        parts.append("lists of BM25 and MiniLM that arms share")
    return "; ".join(parts) + "."


def scores_by_seed(arm: Tree) -> dict[int, float]:
    """Scores by the number of their seed; results of earlier versions name none, and have the first ones."""
    scores = arm["ndcg@10"]["seeds"]
    return dict(zip(arm.get("seed numbers", range(len(scores))), scores, strict=True))


def change(test: Tree) -> str:
    return f"{test['difference']:+.4f}, p {shown(test['p'])}"


def difference(name: str, other: str, arms: dict[str, Tree]) -> str:
    """One line: an arm against another, over the seeds that both have."""
    from retort.trainers.evaluation.significance import paired_seeds

    test = arms[name][f"against {other}"]
    first, second = (scores_by_seed(arms[arm]) for arm in (other, name))
    common = sorted(first.keys() & second.keys())
    pair = (np.array([[scores[seed]] for seed in common]) for scores in (first, second))
    p_seeds = paired_seeds(*pair, draws=1).p_seeds
    counts = "direction" if p_seeds is None else "yes" if max(p_seeds, test["p"]) < LEVEL else "no"
    cells = [
        name,
        other,
        f"{test['difference']:+.4f} ({test['low']:+.4f} to {test['high']:+.4f})",
        shown(test["p"]),
        shown(p_seeds),
        f"{counts} ({len(common)})",
    ]
    return f"| {' | '.join(cells)} |"
