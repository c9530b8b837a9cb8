# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort index`."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from retort.trainers.candidates.workbench import progress_bar
from retort.trainers.data.documents import read_documents

BLOCK = 2048


def run(given: argparse.Namespace) -> None:
    """Read documents, embed and write them, and optimise the index."""
    started = time.perf_counter()
    student = str(Path(given.student).resolve()) if Path(given.student).is_dir() else given.student
    count = index_documents(student, given.documents, given.store)
    print(f"{count} documents in {given.store} after {time.perf_counter() - started:.0f} s")
    print(f'next: retort ask "your question" --store {given.store}', file=sys.stderr)


def index_documents(student: str, source: Path, store: Path) -> int:
    """
    Index documents through `indexing.yaml`, in blocks.

    An interrupted run leaves whole blocks; the same command replaces them and writes the rest.

    :param student:
        The student.
    :param source:
        What to read (see `read_documents`).
    :param store:
        Folder of the index.
    :returns:
        Documents in the index.
    """
    from haystack import Pipeline

    from retort.pipelines.load import load_pipeline

    documents = read_documents(source)
    pipeline: Pipeline = load_pipeline("indexing", student=student, index=str(store))
    writer: Any = pipeline.get_component("writer")
    with progress_bar("indexing", len(documents)) as update:
        for start in range(0, len(documents), BLOCK):
            pipeline.run({"embedder": {"documents": documents[start : start + BLOCK]}})
            update(len(documents[start : start + BLOCK]))
    writer.document_store.optimize()
    count = int(writer.document_store.count_documents())
    pipeline.close()
    return count
