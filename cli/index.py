# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort index`."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from retort.students import SPACE_STAMP, STUDENT_STAMP, read_space
from retort.trainers.candidates.workbench import progress_bar
from retort.trainers.data.documents import read_documents

BLOCK = 2048


def run(given: argparse.Namespace) -> None:
    """Read documents, embed and write them, and optimise the index."""
    started = time.perf_counter()
    count = index_documents(given.student, given.documents, given.store)
    print(f"{count} documents in {given.store} after {time.perf_counter() - started:.0f} s")
    print(f'next: retort ask "your question" --store {given.store}', file=sys.stderr)


def index_documents(student: str, source: Path, store: Path) -> int:
    """
    Index documents through `indexing.yaml`, in blocks.

    An interrupted run leaves whole blocks; the same command replaces them and writes the rest. Passages that a file
    gave before and no longer gives are deleted; files that are gone are left alone.

    :param student:
        The student.
    :param source:
        What to read (see `read_documents`).
    :param store:
        Folder of the index.
    :returns:
        Documents in the index.
    :raises DocumentStoreError:
        If another student built the index.
    """
    from retort.pipelines.load import load_pipeline

    documents = read_documents(source)
    name = str(Path(student).resolve()) if Path(student).is_dir() else student  # to be found from anywhere
    pipeline = load_pipeline("indexing", student=name, index=str(store))
    writer: Any = pipeline.get_component("writer")
    index = writer.document_store
    _refuse_other_space(index, name)
    with progress_bar("indexing", len(documents)) as update:
        for start in range(0, len(documents), BLOCK):
            pipeline.run({"embedder": {"documents": documents[start : start + BLOCK]}})
            update(len(documents[start : start + BLOCK]))
    if files := sorted({d.meta["file_path"] for d in documents if "file_path" in d.meta}):
        there = index.filter_documents({"field": "meta.file_path", "operator": "in", "value": files})
        if stale := {d.id for d in there} - {d.id for d in documents}:
            index.delete_documents(sorted(stale))
    index.optimize()
    count = int(index.count_documents())
    pipeline.close()
    return count


def _refuse_other_space(index: Any, student: str) -> None:
    """Two spaces in one index would answer from either half, and nobody would notice."""
    from haystack.document_stores.errors import DocumentStoreError

    meta = index.sample_meta()
    if meta is not None and meta.get(SPACE_STAMP) != read_space(student):
        msg = (
            f"The index at {index.path} was built by {meta.get(STUDENT_STAMP, 'something else')}, not by {student}. "
            "Give another --store, or delete that folder to build it anew."
        )
        raise DocumentStoreError(msg)
