# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort index`."""

import argparse
import os
import sys
import time
from pathlib import Path

from retort.pipelines import indexing
from retort.trainers.data.documents import read_documents, source_root
from retort.trainers.runtime.progress import progress_bar


def run(given: argparse.Namespace) -> None:
    """Read documents, embed and write them, and optimise the index."""
    started = time.perf_counter()
    count, deleted = index_documents(
        given.student,
        given.documents,
        given.store,
        sparse=given.sparse,
        prune=given.prune,
        quantization=given.quantization,
        trust_remote_code=given.trust_remote_code,
    )
    if int(os.environ.get("RANK", "0")) > 0:  # the first process speaks for all
        return
    print(f"{count} documents in {given.store} after {time.perf_counter() - started:.0f} s")
    if given.prune or deleted:
        print(f"{deleted} deleted that {given.documents} no longer gives")
    print(f'next: retort ask "your question" --store {given.store}', file=sys.stderr)


def index_documents(
    student: str,
    source: Path,
    store: str | Path,
    *,
    sparse: str | None = None,
    prune: bool = False,
    quantization: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[int, int]:
    """
    Read and index documents, with a progress bar; see `retort.pipelines.indexing.index_documents`.

    :param student:
        The student.
    :param source:
        What to read (see `read_documents`).
    :param store:
        Folder of the index, or URL of a collection on a Qdrant server.
    :param sparse:
        A sparse student, whose embeddings documents get besides.
    :param prune:
        Delete every document of the index that `source` does not give.
    :param quantization:
        `int8` or `binary`: how a folder's index keeps embeddings besides; None leaves an index as it is.
    :param trust_remote_code:
        Run code that the students bring along.
    :returns:
        Documents in the index, and how many were deleted.
    """
    return indexing.index_documents(
        student,
        lambda: read_documents(source),
        store,
        folder=source_root(source),
        progress=progress_bar,
        sparse=sparse,
        prune=prune,
        quantization=quantization,
        trust_remote_code=trust_remote_code,
    )
