# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
What a student learns without any data (CuDFKD's `ScoredNGrams`), measured on real questions.

Texts of word sequences that the teacher takes for related, against texts of random ones. In both arms the teacher
encodes as many n-grams before training, and as many proposals and texts in it.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import runner

RECIPE, TEACHER, MEASURE = "cudfkd-made", "teacher", "ndcg@10"
START, RANDOM, SCORED = "start", "random n-grams", "related n-grams"


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=3)
    parser.add_argument(
        "--data", nargs="+", default=["fairytaleqa"], help="where it is measured (default: %(default)s)"
    )
    parser.add_argument("--share", type=float, default=0.5, help="of the recipe's steps (default: %(default)s)")
    print(measure(parser.parse_args()))


def measure(arguments: argparse.Namespace) -> str:
    from retort.cli.table import format_table
    from retort.students import Student
    from retort.students.files import write_json
    from retort.trainers.data.beir import read_beir
    from retort.trainers.evaluation.significance import paired_seeds

    folder = runner.data_folder(*arguments.data)
    sets = {name: read_beir(folder / name, "dev") for name in arguments.data}
    result: dict[str, Any] = {"benchmark": arguments.benchmark, "recipe": RECIPE, "share": arguments.share, "sets": {}}
    with tempfile.TemporaryDirectory() as work:
        students = {
            arm: [one_run(Path(work), arm, seed, arguments.share) for seed in range(rounds)]
            for arm, rounds in {START: 1, RANDOM: arguments.rounds, SCORED: arguments.rounds}.items()
        }
        loaded = {arm: [Student.load(str(own), precision="auto") for own in each] for arm, each in students.items()}
        scores = {
            name: {arm: np.stack([evaluated(s, dev) for s in each]) for arm, each in loaded.items()}
            for name, dev in sets.items()
        }
    rows = []
    for name, arms in scores.items():
        change = paired_seeds(arms[RANDOM], arms[SCORED])
        means = {arm: found.mean(1).tolist() for arm, found in arms.items()}
        result["sets"][name] = {"queries": len(sets[name].queries), MEASURE: means, "change": vars(change)}
        gap = f"{change.difference:+.4f} ({change.low:+.4f} to {change.high:+.4f})"
        p_seeds = "" if change.p_seeds is None else f"{change.p_seeds:.3f}"
        rows.append([name, *(f"{np.mean(m):.4f}" for m in means.values()), gap, f"{change.p_questions:.4f}", p_seeds])
    result["machine"] = runner.describe_machine()
    write_json(arguments.json or runner.ROOT / "benchmarks" / "results" / f"{arguments.benchmark}.json", result)
    return format_table([MEASURE, START, RANDOM, SCORED, "change (95%)", "p, questions", "p, seeds"], rows)


def one_run(work: Path, arm: str, seed: int, share: float) -> Path:
    """Train a student from nothing; `START` is the one before its first step, up to a step of no size."""
    from retort.trainers.changes import changed_recipe
    from retort.trainers.corpus import make_corpus
    from retort.trainers.run import run_recipe

    recipe = changed_recipe(RECIPE)
    settings = {
        "training.seed": seed,
        "training.evaluate_every": 0,
        "data.corpus.init_parameters.seed": seed,
        "stages.0.steps": max(1, round(recipe.stages[0].steps * share)),
    }
    if arm == START:
        settings |= {"stages.0.steps": 1, "stages.0.lr": 1e-12}
    elif arm == RANDOM:
        settings["data.corpus.init_parameters.choices"] = 5  # none is left to choose from
    recipe = changed_recipe(recipe, settings=settings)
    out = work / f"{arm}-{seed}"
    make_corpus(recipe, out / "data", out / "cache")
    run_recipe(recipe, out / "data", out / "run")
    return out / "run" / "student"


def evaluated(student: Any, dev: Any) -> np.ndarray:
    """Give each question's measure."""
    from retort.trainers.evaluation.rank import evaluate_model
    from retort.trainers.evaluation.significance import values

    return values(evaluate_model(student, dev).per_query, MEASURE)


if __name__ == "__main__":
    main()
