# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort report`."""

import argparse

from retort.trainers.data.beir import is_beir
from retort.trainers.data.read import has_split, read_data
from retort.trainers.data.texts import RetrievalData, share_corpus
from retort.trainers.evaluation.report import write_report


def run(given: argparse.Namespace) -> None:
    """Write the page and say where it is."""
    data = _data(given) if given.data else None
    out = given.out or given.run / "report.html"
    write_report(given.run, out, data=data, others=given.others, trust_remote_code=given.trust_remote_code)
    print(f"{out} ({out.stat().st_size / 1024:.0f} KB): open it in a browser.")


def _data(given: argparse.Namespace) -> RetrievalData:
    """Read the split over the corpus that a run ranks: the documents of both files, where it was trained on files."""
    data = read_data(given.data, given.split, empty=given.empty)
    if is_beir(given.data) or not has_split(given.data, "train"):
        return data
    return share_corpus(read_data(given.data, "train", empty=given.empty), data)[1]
