# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
What a serving machine needs: the core install with an exported student, against `sentence-transformers-haystack`.

Each is installed into a fresh environment, in the tested versions. Then a new process, several times, imports an
embedder, loads the same student and embeds one query: megabytes on disk, packages, seconds to the first vector,
resident memory. It needs pip's network; the student (`--student`) must be exported (`retort export`).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import runner

ARMS = {
    "retort": (
        [str(runner.ROOT)],
        "haystack_integrations.components.embedders.retort",
        "StudentTextEmbedder(model=folder, precision='int8')",
    ),
    "sentence-transformers-haystack": (
        ["torch", "sentence-transformers-haystack"],
        "haystack_integrations.components.embedders.sentence_transformers",
        "SentenceTransformersTextEmbedder(model=folder, progress_bar=False)",
    ),
}
PROGRAM = """
import json, resource, sys, time
folder, started = sys.argv[1], time.perf_counter()
from {module} import {name}
imported = time.perf_counter() - started
embedder = {call}
embedder.warm_up()
embedding = embedder.run("How do I parse JSON?")["embedding"]
print(json.dumps({{
    "import_s": imported,
    "first_vector_s": time.perf_counter() - started,
    "resident_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "torch": "torch" in sys.modules,
    "dim": len(embedding),
}}))
"""
MEGABYTE = 2**20


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=5)
    parser.add_argument("--student", type=Path, required=True, help="folder of an exported student")
    arguments = parser.parse_args()
    print(measure(arguments))


def measure(arguments: argparse.Namespace) -> str:
    from retort.cli.table import format_table
    from retort.students.files import write_json

    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        pythons = {name: install(Path(scratch) / name, packages) for name, (packages, *_) in ARMS.items()}
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
        for number in range(arguments.rounds + 1):
            for name, (_, module, call) in ARMS.items():
                program = PROGRAM.format(module=module, name=call.partition("(")[0], call=call)
                command = [str(pythons[name]), "-c", program, str(arguments.student.resolve())]
                printed = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
                if number:  # the first reads the disk
                    runs[name].append(json.loads(printed.stdout.splitlines()[-1]))
        for name, python in pythons.items():
            own = {key: statistics.median(run[key] for run in runs[name]) for key in runs[name][0]}
            figures[name] = size(python) | own
    path = arguments.json or runner.ROOT / "benchmarks" / "results" / f"{arguments.benchmark}.json"
    head = {"benchmark": arguments.benchmark, "rounds": arguments.rounds, "machine": runner.describe_machine()}
    write_json(path, {**head, "arms": figures})
    columns = ("disk_mb", "packages", "import_s", "first_vector_s", "resident_mb")
    rows = [[name, *(f"{own[column]:.4g}" for column in columns)] for name, own in figures.items()]
    return format_table(["", *columns], rows)


def install(folder: Path, packages: list[str]) -> Path:
    """Make an environment with these packages in the tested versions; give its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "-q", "-c", str(runner.ROOT / "constraints.txt")]
    for package in packages:  # torch alone and first, as in the Makefile
        print(f"installing {Path(package).name}", file=sys.stderr)
        subprocess.run([*command, package], check=True)  # noqa: S603
    return python


def size(python: Path) -> dict[str, float]:
    """Count megabytes and packages of an environment, pip left out."""
    places = list(python.parent.parent.glob("lib/python*/site-packages/*"))
    places = [place for place in places if not place.name.startswith(("pip", "setuptools", "_distutils"))]
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*"))]
    total = sum(file.stat().st_size for file in files if file.is_file())
    return {
        "disk_mb": total / MEGABYTE,
        "packages": sum(place.name.endswith(".dist-info") for place in places),
    }


if __name__ == "__main__":
    main()
