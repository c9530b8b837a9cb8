# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort stamp`."""

import argparse

from retort.students.redaction import redacted
from retort.workflows import stamp


def run(given: argparse.Namespace) -> None:
    """Compare an index with the student's space, and stamp it."""
    count = stamp(
        given.store,
        given.student,
        embedder=given.embedder,
        meta_fields=given.meta_fields,
        separator=given.separator,
        allow=given.allow,
        trust_remote_code=given.trust_remote_code,
    )
    print(f"{count} documents of {redacted(given.store)} stamped for {given.student}")
