# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
DCD on drawings: does a fusion model teach an image-text student more than labels do, and by which of DCD's parts?

`python benchmarks/image_text.py FOLDER`, with the folder that `emoji_folder.py` wrote. For each of its two sets, images
held out at random and by Unicode's subgroups: a pair of towers learns by contrast, a fusion model learns over them and
is the teacher; a smaller student learns by contrast and is the start of all arms. An arm then takes as many steps as
any other, over as many images a step, with each seed. Measured over the held-out images alone.

Parts that are done are kept in `--work`, so that a killed run goes on. `--arms` limits what is trained; the result says
of how many seeds a figure is.
"""

import argparse
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import runner

SETS = ("emoji-random", "emoji-groups")
DEPTHS = (1, 10)
POOL, SEEN, BATCH, STEPS, LR = 31, 7, 16, 150, 3e-4
TOWERS = {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 384}
FUSION_STEPS, TOWER_STEPS, START_STEPS = 400, 400, 100
TIMED_QUERIES = 20
RANKED_BY_FUSION = 3  # every third query: it takes minutes for each hundred

CONTRAST = "retort.trainers.objectives.Contrastive"
DCD = "retort.trainers.methods.dcd.DynamicContrastive"
OF_LISTS = {"teacher": "fusion", "label_loss": "softmax", "centred": True}  # a bi-encoder beside a ranker

#: Per arm: which negatives of the pool the student sees, its objective, and what differs of its parameters.
ARMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "contrast": ("random", CONTRAST, {}),  # all images of the batch are negatives
    "labels": ("random", CONTRAST, {"scope": "list"}),
    "labels-hardest": ("hardest", CONTRAST, {"scope": "list"}),
    "dcd-random": ("random", DCD, OF_LISTS),
    "dcd": ("hardest", DCD, OF_LISTS),
    "dcd-equal-weights": ("hardest", DCD, OF_LISTS | {"kd_weighting": "uniform", "label_weighting": "uniform"}),
    "dcd-shift": ("hardest", DCD, OF_LISTS | {"align": "shift"}),
    "dcd-released": ("hardest", DCD, OF_LISTS | {"kd_weighting": "released", "align": "shift"}),
}
#: An arm, and one that it is compared with.
PAIRS = (
    ("dcd", "contrast"),
    ("dcd", "labels"),
    ("dcd", "dcd-random"),
    ("labels-hardest", "labels"),
    ("dcd-equal-weights", "dcd"),
    ("dcd-shift", "dcd"),
    ("dcd-released", "dcd"),
)


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=3)
    parser.add_argument("folder", type=Path, help="what emoji_folder.py wrote")
    parser.add_argument("--work", type=Path, default=Path("runs/image_text"), help="where runs are kept")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    parser.add_argument("--scale", type=float, default=1.0, help="share of all steps, to try the script")
    arguments = parser.parse_args()
    for name in arguments.sets:
        if not (arguments.folder / name / "corpus.jsonl").is_file():
            parser.error(f"there is no {arguments.folder / name}: write it with benchmarks/emoji_folder.py")
    print(measure(arguments))


def measure(arguments: argparse.Namespace) -> str:
    from retort.students.files import write_json

    path = arguments.json or runner.ROOT / "benchmarks" / "results" / f"{arguments.benchmark}.json"
    result: dict[str, Any] = {
        "benchmark": arguments.benchmark,
        "steps": {"towers": TOWER_STEPS, "fusion": FUSION_STEPS, "start": START_STEPS, "arm": STEPS},
        "images a step": BATCH * (SEEN + 1),
        "scale": arguments.scale,
        "machine": runner.describe_machine(),
        "sets": {},
    }
    for name in arguments.sets:
        result["sets"][name] = one_set(arguments, name)
        write_json(path, result)
    return table(result)


def one_set(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """Train and measure all of one set."""
    work, data = arguments.work / name, arguments.folder / name
    held_out = arguments.folder / f"{name}-held-out"

    def steps(count: int) -> int:
        return max(2, round(count * arguments.scale))

    towers = trained(work / "towers", data, towers_recipe(steps(TOWER_STEPS)))
    fusion = trained(work / "fusion", data, fusion_recipe(towers, steps(FUSION_STEPS)))
    start = trained(work / "start", data, start_recipe(steps(START_STEPS)))
    cell: dict[str, Any] = {
        "chance": {f"r@{k}": k / documents(held_out) for k in DEPTHS},
        "models": {model: mean(evaluated(path, held_out)) for model, path in (("towers", towers), ("start", start))},
        "arms": {},
        "pairs": [],
    }
    ranked = evaluated(fusion, held_out)
    same = {query: own for query, own in evaluated(towers, held_out).items() if query in ranked}
    cell["models"] |= {"fusion, every third query": mean(ranked), "towers, the same queries": mean(same)}
    ranks: dict[str, list[dict[str, dict[str, float]]]] = {}
    for arm in arguments.arms:
        for seed in range(arguments.rounds):
            recipe = arm_recipe(start, fusion, arm, seed, steps(STEPS))
            student = trained(work / f"{arm}-{seed}", data, recipe)
            ranks.setdefault(arm, []).append(evaluated(student, held_out))
        cell["arms"][arm] = {m: [mean(found)[m] for found in ranks[arm]] for m in mean(ranks[arm][0])}
    cell["pairs"] = [
        pair(ranks, arm, base, m) for arm, base in PAIRS if {arm, base} <= ranks.keys() for m in ("r@1", "r@10")
    ]
    cell["cost"] = costs(fusion, start, held_out)
    cell["teacher"] = entropies(work) | {"quantiles": weights(work / "dcd-0")}
    return cell


def trained(out: Path, data: Path, tree: dict[str, Any]) -> Path:
    """Train a recipe, unless it is done; return its student."""
    from retort.trainers.recipe import Recipe
    from retort.trainers.run import run_recipe

    if not (out / "metrics.json").is_file():
        print(out, flush=True)
        run_recipe(Recipe.from_dict(tree), data, out, resume=(out / "checkpoints").is_dir())
    return out / "student"


def shipped(name: str) -> dict[str, Any]:
    """Read a recipe that is shipped, as a tree to be changed."""
    import yaml

    tree: dict[str, Any] = yaml.safe_load((runner.ROOT / "trainers" / "recipes" / f"{name}.yaml").read_text())
    return tree


def towers_recipe(steps: int) -> dict[str, Any]:
    tree = start_recipe(steps)
    tree["student"]["init_parameters"]["image"]["config"] |= TOWERS
    return tree


def start_recipe(steps: int) -> dict[str, Any]:
    tree = shipped("image_text")
    tree["stages"][0]["steps"] = steps
    return tree


def fusion_recipe(towers: Path, steps: int) -> dict[str, Any]:
    tree = shipped("fusion")
    tree["student"]["init_parameters"]["towers"] = str(towers)
    tree["stages"][0]["steps"] = steps
    return tree


def arm_recipe(start: Path, fusion: Path, arm: str, seed: int, steps: int) -> dict[str, Any]:
    """Describe an arm: from the start, with as many steps and images as any other."""
    keep, kind, parameters = ARMS[arm]
    objective = {"type": kind, "init_parameters": dict(parameters)}
    tree = shipped("image_text")
    tree["student"] = {
        "type": "retort.students.create.pretrained",
        "init_parameters": {"model": str(start), "frozen": ["0.sub_modules.text"]},
    }
    tree["teachers"] = {
        "fusion": {
            "type": "retort.trainers.teachers.cross_encoder.CrossEncoderTeacher",
            "init_parameters": {"model": str(fusion)},
        }
    }
    tree["candidates"]["random"]["init_parameters"]["depth"] = POOL + 1
    tree["training"] |= {"batch_size": BATCH, "seed": seed, "evaluate_every": max(1, steps // 4)}
    pool = {"size": POOL, "teacher": "fusion", "keep": keep}
    candidates = {"sources": ["random"], "negatives": SEEN, "pool": pool}
    tree["stages"] = [{"name": "match", "candidates": candidates, "lr": LR, "steps": steps, "objectives": [objective]}]
    return tree


def documents(folder: Path) -> int:
    return sum(1 for line in (folder / "corpus.jsonl").read_text().splitlines() if line)


def evaluated(model: Path, folder: Path) -> dict[str, dict[str, float]]:
    """
    Per query nDCG@10 and recall at some depths, over the held-out images; kept beside the model.

    A fusion model ranks all images, for every third query.
    """
    import numpy as np

    from retort.students import Manifest, Ranker
    from retort.students.files import write_json
    from retort.trainers.data.beir import read_beir
    from retort.trainers.evaluation.rank import evaluate_model, evaluate_rows, rerank

    kept = model.parent / f"held-out-{folder.name}.json"
    if kept.is_file():
        stored: dict[str, dict[str, float]] = json.loads(kept.read_text())
        return stored
    data, manifest = read_beir(folder, "dev"), Manifest.read(model)
    if manifest is not None and manifest.kind == "ranker":
        ranker = Ranker.load(model, device="cpu")
        data = data.subset(range(0, len(data.queries), RANKED_BY_FUSION))
        every = np.tile(np.arange(len(data.corpus)), (len(data.queries), 1))
        found = evaluate_rows("fusion", data, rerank(data, every, ranker.score))
    else:
        found = evaluate_model(str(model), data, device="cpu", backend="torch")
    scored = {}
    for query, measures in found.per_query.items():
        positives = {d for d, grade in data.qrels[query].items() if grade > 0}
        recall = {f"r@{k}": len(positives & set(found.rankings[query][:k])) / len(positives) for k in DEPTHS}
        scored[query] = {"ndcg@10": measures["ndcg@10"], **recall}
    write_json(kept, scored)
    return scored


def mean(per_query: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    names = next(iter(per_query.values()))
    return {name: sum(own[name] for own in per_query.values()) / len(per_query) for name in names}


def pair(ranks: Mapping[str, list[Any]], arm: str, base: str, measure: str) -> dict[str, Any]:
    """Compare an arm with its baseline over questions and seeds."""
    import numpy as np

    from retort.trainers.evaluation.significance import paired_seeds, values

    first, second = (np.stack([values(found, measure) for found in ranks[name]]) for name in (base, arm))
    return {"arm": arm, "against": base, "measure": measure, **asdict(paired_seeds(first, second))}


def costs(fusion: Path, student: Path, folder: Path) -> dict[str, float]:
    """Seconds to rank all held-out images for all queries: by the student once, by the fusion model pair by pair."""
    from retort.students import Ranker, Student
    from retort.trainers.data.beir import read_beir
    from retort.trainers.search import search_vectors

    data = read_beir(folder, "dev")
    small, large = Student.load(student, device="cpu", backend="torch"), Ranker.load(fusion, device="cpu")
    started = time.perf_counter()
    images = small.encode_document(data.corpus.items)
    search_vectors(small.encode_query(data.queries.texts), images, 10, similarity="cosine")
    by_student = time.perf_counter() - started
    queries = data.queries.texts[:: max(1, len(data.queries) // TIMED_QUERIES)][:TIMED_QUERIES]
    started = time.perf_counter()
    for query in queries:
        large.score([(query, image) for image in data.corpus.items])
    by_fusion = (time.perf_counter() - started) / len(queries) * len(data.queries)
    return {
        "student_seconds": by_student,
        "fusion_seconds": by_fusion,
        "fusion_timed_queries": len(queries),
        "ratio": by_fusion / by_student,
    }


def entropies(work: Path) -> dict[str, Any]:
    """Say how unsure the teacher is of the lists that it chose: mean entropy in nats, as the runs logged it."""
    logs = sorted(work.glob("dcd-[0-9]*/log.jsonl"))
    lines = [json.loads(line) for path in logs for line in path.read_text().splitlines()]
    own = [
        line["logged_terms"]["teacher_entropy"] for line in lines if "teacher_entropy" in line.get("logged_terms", {})
    ]
    return {"entropy": sum(own) / len(own), "steps logged": len(own)} if own else {}


def weights(run: Path) -> dict[str, dict[str, float]]:
    """
    Describe how DCD weighs the lists of a run: quantiles over all of them, in batches of `BATCH` drawn at random.

    Entropies are in nats; weights are times the batch's size, so that 1 is an equal weight.
    """
    import numpy as np
    import pyarrow.parquet as pq
    import torch

    from retort.trainers.methods.dcd import confidence_weights, entropy_weights

    path = run / "candidates" / "match.parquet"
    if not path.is_file():
        return {}
    lists: dict[str, tuple[list[float], list[float]]] = {}
    for row in pq.read_table(path).to_pylist():
        negatives, positives = lists.setdefault(row["query_id"], ([], []))
        if row["label"] > 0:
            positives.append(row["score.fusion"])
        elif not math.isnan(row["pool_score"]):  # it is in the pool
            negatives.append(row["pool_score"])
    seen = [positives[:1] + sorted(negatives)[-SEEN:] for negatives, positives in lists.values()]
    scores = torch.tensor([own for own in seen if len(own) == 1 + SEEN])
    entropy = torch.distributions.Categorical(logits=scores).entropy()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(entropy)))
    batches = entropy[order[: len(order) // BATCH * BATCH]].reshape(-1, BATCH)
    of_labels = torch.cat([entropy_weights(own, own) for own in batches]) * BATCH
    of_teacher = torch.cat([confidence_weights(own, own) for own in batches]) * BATCH
    found = {"teacher_entropy": entropy, "label_weight": of_labels, "teacher_weight": of_teacher}
    return {
        name: {str(q): float(np.quantile(values.numpy(), q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)}
        for name, values in found.items()
    }


def table(result: Mapping[str, Any]) -> str:
    from retort.cli.table import format_table

    rows = []
    for name, cell in result["sets"].items():
        for model, measures in cell["models"].items():
            rows.append([name, model, f"{measures['r@1']:.3f}", f"{measures['r@10']:.3f}", ""])
        for arm, measures in cell["arms"].items():
            means = [sum(measures[m]) / len(measures[m]) for m in ("r@1", "r@10")]
            rows.append([name, arm, *(f"{m:.3f}" for m in means), changes(cell["pairs"], arm)])
        rows.append([name, "fusion's seconds over the student's", "", f"{cell['cost']['ratio']:.0f}", ""])
    return format_table(["set", "arm", "R@1", "R@10", "change of R@10 (p over questions; over seeds)"], rows)


def changes(pairs: list[dict[str, Any]], arm: str) -> str:
    own = [p for p in pairs if p["arm"] == arm and p["measure"] == "r@10"]
    said = []
    for p in own:
        seeds = "-" if p["p_seeds"] is None else f"{p['p_seeds']:.3f}"
        said.append(f"{p['difference']:+.3f} to {p['against']} ({p['p_questions']:.3f}; {seeds})")
    return ", ".join(said)


if __name__ == "__main__":
    main()
