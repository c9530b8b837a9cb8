# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Runs `index.yaml` over a folder of text files."""

import argparse
from pathlib import Path
from typing import Any

from haystack import Pipeline


def main(arguments: list[str] | None = None) -> int:
    """Fill the index, and say how many passages it has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("documents", type=Path, help="folder of .md and .txt files")
    parser.add_argument("--pipeline", type=Path, default=Path(__file__).parent / "index.yaml")
    given = parser.parse_args(arguments)
    pipeline = Pipeline.loads(given.pipeline.read_text(encoding="utf-8"))
    sources = sorted(path for path in given.documents.iterdir() if path.suffix in {".md", ".txt"})
    written: int = pipeline.run({"text": {"sources": sources}})["writer"]["documents_written"]
    writer: Any = pipeline.get_component("writer")
    writer.document_store.close()
    print(f"{written} passages written")
    return written


if __name__ == "__main__":
    main()
