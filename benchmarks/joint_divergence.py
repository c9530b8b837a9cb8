# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
How near retrievers, each and all together, are to rankers: R2ANKER's argument for joint negatives, measured.

Per ranker the divergence from it of each retriever's distribution over the negatives that any of them found, and of
their mixture (`retort.trainers.methods.r2anker.measure_joint_divergence`), on questions of dev; as controls that of a
uniform distribution, and of each retriever alone made as flat as the mixture. The retrievers are those of
`leaderboard.py --group r2anker`.
"""

from pathlib import Path

import runner
from arms import MINILM


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=1)
    parser.add_argument("--data", default="wiki", help="folder in RETORT_DATA (default: %(default)s)")
    parser.add_argument("--other", required=True, help="folder of the third retriever, a student")
    parser.add_argument("--rankers", required=True, nargs="+", metavar="NAME=FOLDER", help="rankers by name")
    parser.add_argument("--queries", type=runner.positive, default=60, help="of dev (default: %(default)s)")
    parser.add_argument("--depth", type=runner.positive, default=50, help="of each retriever (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/joint_divergence"), help="default: %(default)s")
    arguments = parser.parse_args()
    folder = runner.data_folder(arguments.data) / arguments.data

    from retort.cli.table import format_table
    from retort.students.files import write_json
    from retort.trainers.candidates.bm25 import BM25Miner
    from retort.trainers.candidates.dense import DenseMiner
    from retort.trainers.context import TrainingContext
    from retort.trainers.data.beir import read_beir
    from retort.trainers.methods.r2anker import measure_joint_divergence
    from retort.trainers.runtime.rng import rng_for
    from retort.trainers.teachers.bi_encoder import BiEncoderTeacher
    from retort.trainers.teachers.cross_encoder import CrossEncoderTeacher

    dev = read_beir(folder, "dev")
    data = dev.subset(sorted(rng_for("joint", dev.queries.hash).permutation(len(dev.queries))[: arguments.queries]))
    named = dict(item.split("=", 1) for item in arguments.rankers)
    dense = {"dual": MINILM, "other": arguments.other}
    teachers = {name: BiEncoderTeacher(model=model, precision="auto") for name, model in dense.items()}
    teachers |= {name: CrossEncoderTeacher(model=model, precision="auto") for name, model in named.items()}
    context = TrainingContext(data, teachers, arguments.work / "cache")
    miners = {"bm25": BM25Miner(depth=arguments.depth)}
    miners |= {name: DenseMiner(model=name, depth=arguments.depth) for name in dense}
    found = {}
    for name in named:
        measured = measure_joint_divergence(context, miners, name)
        controls = {f"{source}, tempered": value for source, value in measured.tempered.items()}
        found[name] = measured.sources | {"mixture": measured.mixture, "uniform": measured.uniform} | controls
    result = {
        "benchmark": arguments.benchmark,
        "arguments": {n: getattr(arguments, n) for n in ("data", "other", "rankers", "queries", "depth")},
        "machine": runner.describe_machine(),
        "results": found,
    }
    write_json(arguments.json or runner.ROOT / "benchmarks" / "results" / "joint_divergence.json", result)
    header = ["ranker", *miners, "mixture", "uniform", *(f"{name}, tempered" for name in miners)]
    print(format_table(header, [[name, *(f"{v:.3f}" for v in row.values())] for name, row in found.items()]))


if __name__ == "__main__":
    main()
