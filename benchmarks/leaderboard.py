# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Methods against each other under equal budgets: the same start, queries, list sizes, steps, learning rates, teachers.

Each arm and seed is a run of its own process, kept under `--work`; what is there is not run again, and the result is
written anew as each ends. Teachers are trained once, on BM25's and the dual encoder's candidates, and teach all arms.
Students are compared on all dev questions over the full corpus; `results/LEADERBOARD.md` has p over questions and over
seeds (`boards.py`). Hybrids fuse scores with BM25's; the weight for one half of the questions is the best for the other
half.

`DATA/` (in RETORT_DATA) is a BEIR folder: `wiki` by default.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import peers
import runner
from arms import (
    GROUPS,
    MINILM,
    OTHER,
    PEER,
    RANKERS,
    START,
    rankers_of,
    recipe_for,
    start_recipe,
    teacher_recipe,
)
from boards import write_boards

RERANKED, DEPTH = 200, 50  # dev questions and documents of each, in the matrix of a ranker's generators


def command_line() -> argparse.ArgumentParser:
    parser = runner.parser(__file__, __doc__, rounds=1)
    parser.add_argument("--data", default="wiki", help="folder in RETORT_DATA (default: %(default)s)")
    parser.add_argument(
        "--group", choices=list(GROUPS), default="leaderboard", help="of arms, see arms.py (default: %(default)s)"
    )
    parser.add_argument(
        "--arms", nargs="+", help="of the group; default: all, of the leaderboard those without BM25 as teacher"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--baseline", help="arm that the others are compared with (default: the group's)")
    parser.add_argument("--queries", type=runner.positive, default=1500, help="training queries (default: %(default)s)")
    parser.add_argument("--steps", type=runner.positive, default=200, help="of each arm (default: %(default)s)")
    parser.add_argument("--batch-size", type=runner.positive, default=16, help="lists a step (default: %(default)s)")
    parser.add_argument("--negatives", type=runner.positive, default=7, help="of a list (default: %(default)s)")
    parser.add_argument(
        "--lr", type=float, default=3e-4, help="of all stages but the last, a fifth (default: %(default)s)"
    )
    parser.add_argument("--tokens", nargs=2, type=int, default=[24, 64], help="query and document (default: 24 64)")
    parser.add_argument(
        "--served-tokens", type=runner.positive, help="of documents where students are compared (default: as trained)"
    )
    parser.add_argument("--layers", nargs="+", type=int, default=[0, 5], help="of MiniLM, the student's (default: 0 5)")
    parser.add_argument(
        "--align", type=int, default=0, help="steps of alignment to MiniLM before all arms, once (default: %(default)s)"
    )
    parser.add_argument(
        "--start", help="student that all arms start from, in the place of an alignment (default: none)"
    )
    parser.add_argument(
        "--frozen", nargs="+", metavar="PART", help="parts of the start that do not learn, as in `create.pretrained`"
    )
    parser.add_argument(
        "--lexical", action="store_true", help="BM25 teaches beside the other teachers, and the rankers among them"
    )
    parser.add_argument(
        "--extra-teachers",
        type=float,
        help="weight of BM25's scores, which are added to those of each teacher of students (default: none)",
    )
    parser.add_argument(
        "--shared-lists",
        action="store_true",
        default=None,  # not among the settings of runs that were made before it was there
        help="lists are BM25's and the dual encoder's; PROD's last stage alone mines the student's own",
    )
    parser.add_argument(
        "--keep", choices=["best", "last"], default="last", help="state of each run that is compared (default: last)"
    )
    parser.add_argument("--teacher-steps", type=runner.positive, default=400, help="of 8 lists (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/leaderboard"), help="default: %(default)s")
    parser.add_argument("--report", action="store_true", help="make results/LEADERBOARD.md of the JSON, and no more")
    parser.add_argument("--one", nargs=2, metavar=("ARM", "SEED"), help=argparse.SUPPRESS)
    return parser


def parsed(command: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; a group says which arms there are."""
    parser = command_line()
    arguments = parser.parse_args(command)
    group = GROUPS[arguments.group]
    arguments.arms = arguments.arms or list(group.arms)[: group.default]
    arguments.baseline = arguments.baseline or group.baseline
    if odd := [arm for arm in (*arguments.arms, arguments.baseline) if arm not in group.arms]:
        parser.error(f"{', '.join(odd)}: the group {arguments.group} has {', '.join(group.arms)}")
    return arguments


def main() -> None:
    arguments = parsed()
    if arguments.report:
        write_boards(runner.ROOT / "benchmarks" / "results")
        return
    folder = runner.data_folder(arguments.data) / arguments.data
    work = arguments.work / arguments.data
    os.environ.setdefault("RETORT_CACHE", str((work / "cache").resolve()))  # teachers are asked once for all arms
    if arguments.one:
        run_one(arguments, folder, work, arguments.one[0], int(arguments.one[1]))
        return
    refuse_other_settings(arguments, work)
    for name in (*rankers_of(arguments, work), *([START] if arguments.align or arguments.start else [])):
        child(work, name, 0)
    references(folder, work)
    if arguments.group == "r2anker":
        child(work, OTHER, 0)
    for seed in arguments.seeds:
        for arm in arguments.arms:
            child(work, arm, seed)
            print(write_result(arguments, work), flush=True)
    print(write_result(arguments, work))


def refuse_other_settings(arguments: argparse.Namespace, work: Path) -> None:
    """Runs of other sizes are not to be mixed."""
    from retort.students.files import write_json

    free = {"benchmark", "json", "one", "work", "rounds", "group", "arms", "seeds", "baseline", "report"}
    settings = {k: v for k, v in vars(arguments).items() if k not in free and v is not None}
    path = work / "settings.json"
    if path.is_file() and (found := json.loads(path.read_text())) != settings:
        odd = ", ".join(k for k in settings if found.get(k) != settings[k])
        print(f"{work} holds runs of other settings ({odd}): give another --work.", file=sys.stderr)
        raise SystemExit(2)
    write_json(path, settings)


def child(work: Path, arm: str, seed: int) -> None:
    """Run an arm in a process of its own, whose memory is the arm's."""
    if row_path(work, arm, seed).is_file():
        return
    print(f"{arm}, seed {seed}", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, *sys.argv[1:], "--one", arm, str(seed)]
    if (status := subprocess.run(command, check=False).returncode) != 0:  # noqa: S603 - this file
        print(f"{arm}, seed {seed} ended with status {status}; run it again to go on.", file=sys.stderr)
        raise SystemExit(status)


def row_path(work: Path, arm: str, seed: int) -> Path:
    return work / "rows" / f"{arm}-{seed}.json"


def run_one(arguments: argparse.Namespace, folder: Path, work: Path, arm: str, seed: int) -> None:
    """Train, evaluate, and write the arm's row; a run that was interrupted goes on."""
    from retort.students.files import write_json
    from retort.trainers.data.beir import read_beir
    from retort.trainers.evaluation.metrics import mean, per_query
    from retort.trainers.evaluation.rank import Evaluation, evaluate_bm25
    from retort.trainers.evaluation.runs import read_per_query, read_rankings, read_scores
    from retort.trainers.run import run_recipe

    started = time.perf_counter()
    out = work / arm / str(seed)
    if arm in RANKERS:
        recipe = teacher_recipe(arguments, arm)
        metrics = run_recipe(recipe, folder, out, resume=out.exists())["dev"]
        row: dict[str, Any] = {"metrics": metrics["student"], "bm25": metrics["candidates"]["bm25"]}
    elif arm == START and arguments.start:
        row = {"metrics": served(arguments, arguments.start, read_beir(folder, "dev")).metrics}
    else:
        recipe = start_recipe(arguments) if arm == START else recipe_for(arguments, work, arm, seed)
        with evaluated_as_served(arguments):
            if arm == PEER:
                train_peer(arguments, recipe, folder, out)
            else:
                run_recipe(recipe, folder, out, resume=out.exists())
        trained = time.perf_counter() - started
        dev = read_beir(folder, "dev")
        found = Evaluation(
            arm,
            json.loads((out / "metrics.json").read_text())["dev"]["student"],
            read_per_query(out, "dev"),
            read_rankings(out, "dev"),
            read_scores(out, "dev"),
        )
        fused, weights = hybrid_of(found, evaluate_bm25(dev), dev)
        hybrid = per_query(fused, dev.qrels)
        write_json(out / "dev.json", {"student": found.per_query, "hybrid": hybrid})
        row = {"metrics": found.metrics, "hybrid": mean(hybrid), "weights": weights, "training_s": trained}
        if arguments.group == "r2anker" and arm != OTHER:
            row["reranked"], each = rerank_all(out / "teachers" / "ranker" / "student", work, dev)
            write_json(out / "reranked.json", each)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row |= {"arm": arm, "seed": seed, "wall_s": time.perf_counter() - started, "peak_mb": peak}
    write_json(row_path(work, arm, seed), row)


@contextmanager
def evaluated_as_served(arguments: argparse.Namespace) -> Iterator[None]:
    """Have a run evaluate its student with documents as they will be given: to do it again may cost as much as it."""
    from retort.students.student import save_student
    from retort.trainers.evaluation import dev as measuring

    def evaluate(student: Any, dev: Any, **_: Any) -> Any:
        with TemporaryDirectory() as folder:  # the run saves it as it was trained
            save_student(student.model, Path(folder))
            return served(arguments, folder, dev)

    before = measuring.evaluate_model
    if arguments.served_tokens:
        measuring.evaluate_model = evaluate
    try:
        yield
    finally:
        measuring.evaluate_model = before


def served(arguments: argparse.Namespace, student: str, dev: Any) -> Any:
    """Evaluate a student with documents as long as it will be given."""
    from retort.students import Student
    from retort.trainers.evaluation.rank import evaluate_model

    return evaluate_model(Student.load(student, max_document_tokens=arguments.served_tokens), dev)


def hybrid_of(found: Any, bm25: Any, dev: Any) -> tuple[dict[str, list[str]], tuple[float, float]]:
    """Fuse with BM25 by scores; one half of the questions has the weight that is best for the other."""
    from retort.trainers.evaluation.fusion import fuse_cross_fitted, relative

    worth = (relative(e.rankings, e.scores) for e in (found, bm25))
    return fuse_cross_fitted(*worth, dev.qrels)


def references(folder: Path, work: Path) -> None:
    """Measure BM25, the untrained MiniLM, and both together, once."""
    from retort.students.files import write_json
    from retort.trainers.data.beir import read_beir
    from retort.trainers.evaluation.metrics import mean, per_query
    from retort.trainers.evaluation.rank import Evaluation, evaluate_bm25, evaluate_model
    from retort.trainers.evaluation.runs import write_evaluation

    if (work / "rankings" / "both.run").is_file():
        return
    dev = read_beir(folder, "dev")
    found = {"bm25": evaluate_bm25(dev), "minilm": evaluate_model(MINILM, dev)}
    fused, _ = hybrid_of(found["minilm"], found["bm25"], dev)
    hybrid = per_query(fused, dev.qrels)
    for name, e in {**found, "both": Evaluation("both", mean(hybrid), hybrid, fused)}.items():
        write_evaluation(work, name, e)
    for name, e in found.items():
        both = {"hybrid": hybrid, "hybrid metrics": mean(hybrid)} if name == "minilm" else {}
        write_json(work / f"{name}.json", {"metrics": e.metrics, "per_query": e.per_query, **both})


def rerank_all(model: Path, work: Path, dev: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Order what each retriever found, one that none learned from (`both`) among them: means, and by question."""
    import numpy as np

    from retort.students import Ranker
    from retort.trainers.evaluation.metrics import mean
    from retort.trainers.evaluation.rank import evaluate_rows, rerank
    from retort.trainers.evaluation.runs import read_rankings
    from retort.trainers.runtime.rng import rng_for

    ranker = Ranker.load(str(model), precision="auto")
    chosen = np.sort(rng_for("rerank", dev.queries.hash).permutation(len(dev.queries))[:RERANKED])
    sample = dev.subset(chosen)
    places = {n: (work, n) for n in ("bm25", "minilm", "both")} | {OTHER: (work / OTHER / "0", "dev")}
    found = {name: runner.rows_of(read_rankings(*place), sample, DEPTH) for name, place in places.items()}
    asked = [np.unique(np.concatenate(rows)) for rows in zip(*found.values(), strict=True)]
    pairs = [(q, sample.corpus.texts[r]) for q, rows in zip(sample.queries.texts, asked, strict=True) for r in rows]
    scores = dict(zip(pairs, ranker.score(pairs), strict=True))  # each once, however many found it
    means, each = {}, {}
    for name, rows in found.items():
        after = evaluate_rows(
            name, sample, rerank(sample, rows, lambda pairs: np.array([scores[p] for p in pairs]))
        ).per_query
        means[name] = {"before": mean(evaluate_rows(name, sample, rows).per_query), "after": mean(after)}
        each[name] = after
    return means, each


def train_peer(arguments: argparse.Namespace, recipe: Any, folder: Path, out: Path) -> None:
    """MultipleNegativesRankingLoss on the lists of the warm-up, then DistillKLDivLoss."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from retort.students.files import write_json
    from retort.students.student import save_student
    from retort.trainers.build import build_recipe
    from retort.trainers.data.splits import read_train_and_dev
    from retort.trainers.evaluation.dev import dev_sampler
    from retort.trainers.evaluation.runs import write_evaluation
    from retort.trainers.stages import open_stage
    from retort.trainers.teachers.vector_cache import cache_root

    train, dev = read_train_and_dev(folder, recipe.data)
    parts = build_recipe(recipe, train, cache_root(out))
    model, (warm, distil) = parts.distiller.student, recipe.stages
    score, best = dev_sampler(dev, model, recipe.training), -1.0
    plan: list[tuple[Any, Any, Callable[[Any], Any] | None]] = [
        (warm, MultipleNegativesRankingLoss(model, scale=peers.SCALE), None),
        (distil, peers.distillation_loss(model), partial(scores_of, recipe=recipe)),
    ]
    for stage, loss, scores in plan:
        rows = peers.rows_of(open_stage(parts, stage, out).source, stage.steps, scores)
        peers.train_sentence_transformers(model, rows, loss, recipe=recipe, stage=stage, out=out / "trainer")
        if (found := score()) > best or recipe.training.keep == "last":
            best = found
            save_student(model, out / "student")
    evaluation = served(arguments, str(out / "student"), dev)
    write_evaluation(out, "dev", evaluation)
    write_json(out / "metrics.json", {"dev": {"student": evaluation.metrics}})


def scores_of(batch: Any, recipe: Any) -> Any:
    """Give the larger ranker's scores of a batch's lists; with others added, at the student's temperature of 1."""
    soft = next(o.init_parameters for o in recipe.stages[-1].objectives if o.type.endswith("ListwiseKL"))
    found = batch.teacher_scores["large-ranker"]
    if "extra_teachers" not in soft:
        return found
    added = sum(weight * batch.teacher_scores[name] for name, weight in soft["extra_teachers"].items())
    return (found + added) * soft["student_temperature"] / soft["teacher_temperature"]


def write_result(arguments: argparse.Namespace, work: Path) -> str:
    """Write what is there of the result, and return it as a table."""
    import numpy as np

    from retort.cli.table import format_table
    from retort.students.files import write_json
    from retort.trainers.evaluation.significance import paired_test, values

    kept = {n: json.loads((work / f"{n}.json").read_text()) for n in ("bm25", "minilm")}
    rows = {
        arm: [
            json.loads(row_path(work, arm, s).read_text()) for s in arguments.seeds if row_path(work, arm, s).is_file()
        ]
        for arm in arguments.arms
    }
    rows = {arm: found for arm, found in rows.items() if found}

    def per_question(arm: str, what: str, seeds: list[int]) -> Any:
        files = [json.loads((work / arm / str(seed) / "dev.json").read_text())[what] for seed in seeds]
        return np.mean([values(f, "ndcg@10") for f in files], axis=0)

    def against(arm: str, other: Any, what: str = "student") -> dict[str, float]:
        return vars(paired_test(other, per_question(arm, what, [r["seed"] for r in rows[arm]])))

    bm25, minilm = (values(kept[n]["per_query"], "ndcg@10") for n in ("bm25", "minilm"))
    arms: dict[str, Any] = {}
    for arm, found in rows.items():
        scores = [row["metrics"]["ndcg@10"] for row in found]
        arms[arm] = {
            "ndcg@10": {"mean": float(np.mean(scores)), "spread": float(np.ptp(scores)), "seeds": scores},
            "seed numbers": [row["seed"] for row in found],
            "mrr@10": float(np.mean([row["metrics"]["mrr@10"] for row in found])),
            "hybrid ndcg@10": float(np.mean([row["hybrid"]["ndcg@10"] for row in found])),
            "against minilm": against(arm, minilm),
            "hybrid against bm25": against(arm, bm25, "hybrid"),
            "wall_s": [row["wall_s"] for row in found],
            "peak_mb": max(row["peak_mb"] for row in found),
        }
        for other in rows:
            common = [r["seed"] for r in found if r["seed"] in {o["seed"] for o in rows[other]}]
            if other != arm and common:
                pair = (per_question(name, "student", common) for name in (other, arm))
                arms[arm][f"against {other}"] = vars(paired_test(*pair)) | {"seeds": len(common)}

    def reranked(arm: str, generator: str, seeds: list[int]) -> Any:
        files = [json.loads((work / arm / str(seed) / "reranked.json").read_text()) for seed in seeds]
        names = list(files[0]) if generator == "all" else [generator]
        return np.mean([values(f[name], "ndcg@10") for f in files for name in names], axis=0)

    for arm, found in arms.items():
        for generator in [*rows[arm][0]["reranked"], "all"] if "reranked" in rows[arm][0] else []:
            seeds = [[r["seed"] for r in rows.get(name, [])] for name in (arm, arguments.baseline)]
            own = reranked(arm, generator, seeds[0])
            cell: dict[str, Any] = {"ndcg@10": float(own.mean())}
            if common := [seed for seed in seeds[0] if seed in seeds[1]]:
                pair = (reranked(name, generator, common) for name in (arguments.baseline, arm))
                cell["change"] = vars(paired_test(*pair))
            found.setdefault("reranked", {})[generator] = cell
    if row_path(work, START, 0).is_file():
        kept[START] = json.loads(row_path(work, START, 0).read_text())
    teachers = {n: json.loads(row_path(work, n, 0).read_text()) for n in RANKERS if row_path(work, n, 0).is_file()}
    given = {
        k: v for k, v in vars(arguments).items() if k not in {"benchmark", "json", "one", "work", "rounds", "report"}
    } | GROUPS[arguments.group].sizes
    result = {
        "benchmark": "leaderboard",
        "arguments": given,
        "machine": runner.describe_machine(),
        "references": {n: kept[n]["metrics"] for n in kept} | {"minilm + bm25": kept["minilm"]["hybrid metrics"]},
        "teachers": teachers,
        "arms": arms,
    }
    name = f"{arguments.group}-{arguments.data}-{given['queries'] or 'all'}-{arguments.steps}.json"
    write_json(arguments.json or runner.ROOT / "benchmarks" / "results" / name, result)
    if arguments.json is None:
        write_boards(runner.ROOT / "benchmarks" / "results")
    lines = [[n, f"{m['ndcg@10']:.4f}", *["-"] * 7] for n, m in result["references"].items()]
    for arm, found in arms.items():
        test = found.get(f"against {arguments.baseline}")
        lines.append(
            [
                arm,
                f"{found['ndcg@10']['mean']:.4f}",
                f"{found['ndcg@10']['spread']:.4f}",
                str(len(found["ndcg@10"]["seeds"])),
                f"{test['difference']:+.4f} (p={test['p']:.4f})" if test else "-",
                f"{found['against minilm']['difference']:+.4f} (p={found['against minilm']['p']:.4f})",
                f"{found['hybrid ndcg@10']:.4f} (p={found['hybrid against bm25']['p']:.4f})",
                f"{np.mean(found['wall_s']):.0f}",
                f"{found['peak_mb']:.0f}",
            ]
        )
    header = [
        "arm",
        "nDCG@10",
        "spread",
        "seeds",
        f"to {arguments.baseline}",
        "to MiniLM",
        "hybrid (p to BM25)",
        "s",
        "MB",
    ]
    return format_table(header, lines)


if __name__ == "__main__":
    main()
