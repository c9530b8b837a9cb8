# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Make `results/REPORT.md` of what `protocol.py` wrote: each arm against its baselines, from each question's nDCG@10.

Two p, for two claims: over questions (would other questions say the same of these very students?) and over seeds (would
other students?). The interval is a bootstrap over both at once. "Yes" needs both p below .05; fewer than three seeds
give a direction; of a difference that is not there it is said how small a one would have been found four times in five.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

PROTOCOL = Path(__file__).with_name("protocol.yaml")
START = "first"  # what arms call the start, which mines for them
SHUFFLED = "_shuffled"
LOGGED = {  # of logged terms what is said of each, and may name others
    "auc": "its weights tell the spoilt lists from the others with an AUC of {:.3f}.",
    "consensus_right": "where the teachers agree on a labelled query, they are right in {:.1%}.",
    "beneficial": "the last stage follows its teacher on {:.1%} of the queries.",
    "dark_entropy": "the teacher's entropy is {:.3f} nats over dark lists, {hard_entropy:.3f} over standard ones.",
}
LEAST_P = 0.001  # smaller ones are not told apart
Tree = dict[str, Any]


def write_report(results: Path) -> None:
    """Write the results' `REPORT.md`."""
    from retort.students.files import replace_file

    with replace_file(results / "REPORT.md") as aside:
        aside.write_text(report(results), encoding="utf-8")


def report(results: Path) -> str:
    found: dict[str, dict[str, Tree]] = {}
    order = ["start", *yaml.safe_load(PROTOCOL.read_text(encoding="utf-8"))["arms"]]
    paths = (results / "protocol").glob("*/*.json")
    for path in sorted(paths, key=lambda path: (path.parent.name, order.index(path.stem))):
        found.setdefault(path.parent.name, {})[path.stem] = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "# Methods by one protocol",
        "",
        "Made by `benchmarks/protocol.py --report` from `protocol/*/*.json`; do not edit. What each arm is stands in",
        "`benchmarks/protocol.yaml`. nDCG@10 of all dev questions over the full corpus. p over questions: paired",
        "randomisation of seed means; p over seeds: paired t; 95% interval: bootstrap over seeds and questions. A",
        "difference counts where both p are below .05; of fewer than three seeds it is a direction. The last column",
        "says what would have been found four times in five; s is the mean time of runs that were not interrupted, on",
        "machines that ran others beside them. Each machine trained a start of its own: seeds of one are compared.",
    ]
    for name, arms in found.items():
        lines += ["", f"## {name}", "", *section(arms)]
    return "\n".join(lines) + "\n"


def section(arms: dict[str, Tree]) -> list[str]:
    """Tables of a data set: all arms, then what is compared."""
    first = next(iter(arms.values()))
    known = {"BM25": first["bm25"]["ndcg@10"]}
    known |= {
        f"teacher {name}": score
        for arm in arms.values()
        for name, score in first_row(arm)["teachers"].items()
        if name != START
    }
    scored = ", ".join(f"{name} {score:.4f}" for name, score in known.items())
    lines = [
        f"{first['queries']} questions, {first['documents']} documents. {scored}",
        "",
        "| arm | what | nDCG@10 (spread), seeds | overlap@10 with BM25 | s |",
        "|---|---|---|---|---|",
    ]
    for name, arm in arms.items():
        scores = [row["metrics"]["ndcg@10"] for row in arm["seeds"].values()]
        overlap = np.mean([row["overlap with bm25"] for row in arm["seeds"].values()])
        whole = [row["wall_s"] for row in arm["seeds"].values() if row["wall_s"] is not None]
        seconds = f"{np.mean(whole):.0f}" if whole else ""
        what = arm.get("what", "where all others start" if name == "start" else "")
        score = f"{np.mean(scores):.4f} ({np.ptp(scores):.4f}), {len(scores)}"
        lines.append(f"| {name} | {what} | {score} | {overlap:.3f} | {seconds} |")
    lines += [line for name, arm in arms.items() for line in logged(name, arm)]
    pairs = [
        (name, other)
        for name, arm in arms.items()
        for other in arm.get("against", [])
        if other in arms and common(arm, arms[other])
    ]
    if pairs:
        lines += ["", "| arm | against | difference (95%) | p, questions | p, seeds | counts | would be seen |"]
        lines += ["|---|---|---|---|---|---|---|", *(change(name, other, arms) for name, other in pairs)]
    if "places" in first:
        lines += ["", *halves(arms, pairs)]
    lines += [*on_the_way(arms), *at_checkpoints(arms)]
    spaces = {name: first_row(arm)["asymmetric"] for name, arm in arms.items() if "asymmetric" in first_row(arm)}
    if spaces:
        kinds = [(kind, form) for kind, forms in next(iter(spaces.values())).items() for form in forms]
        lines += [
            "",
            "Share of the teacher's nDCG@10, mean of seeds, whole, in 8 bits and cut; in brackets nDCG@10:",
            "",
        ]
        lines += [f"| arm | {' | '.join(f'{kind}, {form}' for kind, form in kinds if kind != 'teacher')} |"]
        lines += [f"|---|{'---|' * sum(kind != 'teacher' for kind, _ in kinds)}"]
        lines += [shares(name, arms[name], kinds) for name in spaces]
        teacher = next(iter(spaces.values()))["teacher"]
        lines += [
            "",
            "The teacher itself: " + ", ".join(f"{form} {score:.4f}" for form, score in teacher.items()) + ".",
        ]
    return lines


def logged(name: str, arm: Tree) -> list[str]:
    """What the last quarter of an arm's steps says beside the loss, mean of seeds, a paragraph each."""
    rows = [row["logged"] for row in arm["seeds"].values()]
    found = {term: float(np.mean([row[term] for row in rows])) for term in rows[0] if all(term in row for row in rows)}
    lines = [sentence.format(found[term], **found) for term, sentence in LOGGED.items() if term in found]
    shuffled = {term.removesuffix(SHUFFLED): value for term, value in found.items() if term.endswith(SHUFFLED)}
    more = [f"{term} {value / found[f'{term}_matched'] - 1:.1%}" for term, value in shuffled.items()]
    lines += [f"with other documents' vectors the decoders' losses rise: {', '.join(more)}."] if more else []
    return [f"\n{name}: {line}" for line in lines]


def on_the_way(arms: dict[str, Tree]) -> list[str]:
    """Table of the dev sample at the end of each stage, for arms that have several, mean of seeds."""
    from retort.trainers.methods.ckd import accumulated_degradation

    lines = []
    for name, arm in arms.items():
        each = [ends_of_stages(row["dev sample"]) for row in arm["seeds"].values()]
        if len(each[0]) < 3:
            continue
        means = {stage: float(np.mean([own[stage] for own in each])) for stage in each[0]}
        lost = np.mean([accumulated_degradation([*own.values()]) for own in each])
        lines.append(f"| {name} | {', '.join(f'{s} {v:.3f}' for s, v in means.items())} | {lost:.3f} |")
    if not lines:
        return []
    head = ["| arm | nDCG@10 on a sample of dev, at the start and at each stage's end | accumulated degradation |"]
    return ["", *head, "|---|---|---|", *lines]


def at_checkpoints(arms: dict[str, Tree]) -> list[str]:
    """Table of the dev sample at the checkpoints of arms that are watched within their one stage, mean of seeds."""
    lines = []
    for name, arm in arms.items():
        found = [[line for line in row["dev sample"] if line.get("global_step")] for row in arm["seeds"].values()]
        stages = {line["stage"] for own in found for line in own}
        each = [{line["global_step"]: line["dev_sample_ndcg"] for line in own} for own in found]
        if len(stages) > 1 or len(each[0]) < 3 or any(own.keys() != each[0].keys() for own in each):
            continue
        scores = np.array([[*own.values()] for own in each])
        steps = ", ".join(f"{step}: {score:.3f}" for step, score in zip(each[0], scores.mean(0), strict=True))
        lines.append(f"| {name} | {steps} | {np.ptp(scores, axis=1).mean():.3f} |")
    head = ["", "| arm | nDCG@10 on a sample of dev, by steps | from lowest to highest |", "|---|---|---|"]
    return [*head, *lines] if lines else []


def ends_of_stages(found: list[Tree]) -> dict[str, float]:
    """The first figure of all as `start`, then each stage's last."""
    own = [line for line in found if "dev_sample_ndcg" in line]
    return {"start": own[0]["dev_sample_ndcg"]} | {line["stage"]: line["dev_sample_ndcg"] for line in own[1:]}


def first_row(arm: Tree) -> Tree:
    """The first seed's row."""
    return dict(next(iter(arm["seeds"].values())))


def halves(arms: dict[str, Tree], pairs: list[tuple[str, str]]) -> list[str]:
    """Tables of the questions whose evidence stands in a document's second half, and of the others."""
    second = np.array(next(iter(arms.values()))["places"]) > 0.5
    lines = [
        f"Apart: the {second.sum()} questions whose evidence stands in its document's second half.",
        "",
        "| arm | first half | second half |",
        "|---|---|---|",
    ]
    for name, arm in arms.items():
        scores = np.mean([row["questions"] for row in arm["seeds"].values()], axis=0)
        lines.append(f"| {name} | {scores[~second].mean():.4f} | {scores[second].mean():.4f} |")
    if pairs:
        lines += [
            "",
            "| second half: arm | against | difference (95%) | p, questions | p, seeds | counts | would be seen |",
        ]
        lines += ["|---|---|---|---|---|---|---|", *(change(name, other, arms, second) for name, other in pairs)]
    return lines


def common(arm: Tree, other: Tree) -> list[str]:
    """List the seeds that two arms have run on the same machine."""
    return [seed for seed, row in arm["seeds"].items() if row["cpu"] == other["seeds"].get(seed, {}).get("cpu")]


def change(name: str, other: str, arms: dict[str, Tree], rows: Any = slice(None)) -> str:
    """One line: an arm against another on some questions, by the seeds that both have."""
    from retort.trainers.evaluation.significance import paired_seeds

    seeds = common(arms[name], arms[other])
    first, second = (np.array([arms[a]["seeds"][s]["questions"] for s in seeds])[:, rows] for a in (other, name))
    found = paired_seeds(first, second)
    counts = "direction" if found.p_seeds is None else "yes" if found.significant else "no"
    cells = [
        name,
        other,
        f"{found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f})",
        shown(found.p_questions),
        shown(found.p_seeds),
        f"{counts} ({found.seeds})",
        "" if counts == "yes" else f"{found.sees:.4f}",
    ]
    return f"| {' | '.join(cells)} |"


def shown(p: float | None) -> str:
    return "-" if p is None else "< .001" if p < LEAST_P else f"{p:.3f}"


def shares(name: str, arm: Tree, kinds: list[tuple[str, str]]) -> str:
    """One line: what a student has of its own teacher's nDCG@10 at the same size."""
    rows = [row["asymmetric"] for row in arm["seeds"].values()]
    cells = []
    for kind, form in kinds:
        if kind != "teacher":
            score = np.mean([row[kind][form] for row in rows])
            share = np.mean([row[kind][form] / row["teacher"][form] for row in rows])
            cells.append(f"{share:.1%} ({score:.4f})")
    return f"| {name} | {' | '.join(cells)} |"
