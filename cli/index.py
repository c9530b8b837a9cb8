# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort index`."""

import argparse
import os
import shlex
import sys
import time

from retort.indexes import index_documents
from retort.students.redaction import redacted


def run(given: argparse.Namespace) -> None:
    """Read documents, embed and write them, and optimise the index."""
    started = time.perf_counter()
    count, deleted = index_documents(
        given.student,
        given.documents,
        given.store,
        passage_words=given.passage_words,
        sparse=given.sparse,
        prune=given.prune,
        quantization=given.quantization,
        storage=given.storage,
        sentences=given.sentences,
        trust_remote_code=given.trust_remote_code,
        on_error=given.on_error,
    )
    if int(os.environ.get("RANK", "0")) > 0:  # the first process speaks for all
        return
    store = redacted(given.store)
    print(f"{count} documents in {store} after {time.perf_counter() - started:.0f} s")
    if given.prune or deleted:
        print(f"{deleted} deleted that {given.documents} no longer gives")
    store = shlex.quote(store)
    print(f'next:\n  retort ask "your question" --store {store}\n  retort serve --store {store}', file=sys.stderr)
