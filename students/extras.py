# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What the core install leaves out: it serves exported students; the extra `train` brings what training needs."""

from importlib.util import find_spec

IMAGES = "pip install 'retort-haystack[images]'"
TRAIN = "pip install 'retort-haystack[train]'"
TRAINING = frozenset(
    {
        "Stemmer", "accelerate", "bm25s", "datasets", "evaluate", "filelock", "ir_measures", "onnx", "onnxscript",
        "pandas", "pyarrow", "scipy", "sentence_transformers", "sklearn", "tenacity", "torch", "transformers",
    }
)  # fmt: skip


def has_torch() -> bool:
    """Tell whether torch is installed; a serving machine need not have it."""
    return find_spec("torch") is not None


def missing(error: ModuleNotFoundError, what: str) -> str | None:
    """Say in one line how to install what is missing; None if it is not of the extras `train` and `images`."""
    name = (error.name or "").partition(".")[0]
    if name == "PIL":
        return f"{what} needs Pillow: {IMAGES}"
    return f"{what} needs {name}: {TRAIN}" if name in TRAINING else None
