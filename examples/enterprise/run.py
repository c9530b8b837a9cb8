# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Runs `distill.yaml` over a folder of documents, and prints the figures before and after."""

import os

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")  # nothing here asks the network
os.environ.setdefault("TQDM_DISABLE", "1")

import argparse
import logging
from io import StringIO
from pathlib import Path
from typing import Any

from haystack import Pipeline
from haystack.core.errors import PipelineRuntimeError

HERE = Path(__file__).parent
READ = {".txt", ".md", ".html", ".htm", ".pdf", ".docx"}
REHEARSAL = {"stages.0.steps": 60, "stages.1.steps": 10, "training.evaluate_every": 0, "training.batch_size": 16}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Load the pipeline, run it, print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "documents", nargs="?", type=Path, help="folder; without one: a rehearsal on this project's own"
    )
    parser.add_argument("--out", default=None, help="default: runs/enterprise, for the rehearsal runs/rehearsal")
    given = parser.parse_args(arguments)
    out = given.out or ("runs/enterprise" if given.documents else "runs/rehearsal")
    logging.basicConfig(level=logging.WARNING)
    text = (HERE / "distill.yaml").read_text(encoding="utf-8").replace("runs/enterprise", out)
    pipeline = Pipeline.load(StringIO(text))
    if given.documents is None:
        root = HERE.parent.parent
        sources = sorted(
            path for path in root.glob("**/*.md") if ".venv" not in path.parts and "runs" not in path.parts
        )
        trainer: Any = pipeline.get_component("trainer")
        trainer.settings, trainer.dev_share = REHEARSAL, 0.3
    else:
        sources = sorted(path for path in given.documents.rglob("*") if path.suffix.lower() in READ)
    if not sources:
        parser.error(f"{given.documents}: no file that can be read ({' '.join(sorted(READ))}).")
    try:
        found = pipeline.run({"router": {"sources": sources}})
    except PipelineRuntimeError as error:
        parser.error(str(error))
    pipeline.close()
    trained = found["trainer"]
    print(f"{'model':12}{'nDCG@10':>9}{'MRR@10':>9}{'R@100':>9}")
    for name, scores in trained["metrics"].items():
        print(f"{name:12}" + "".join(f"{scores[measure]:9.4f}" for measure in ("ndcg@10", "mrr@10", "recall@100")))
    print("\n".join(["", *trained["verdict"], ""]))
    print(
        f"student: {trained['student']}; {found['writer']['documents_written']} passages indexed; {trained['report']}"
    )
    return found


if __name__ == "__main__":
    main()
