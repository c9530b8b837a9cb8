# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort report`."""

import argparse

from retort.trainers.data.read import read_data
from retort.trainers.evaluation.report import write_report


def run(given: argparse.Namespace) -> None:
    """Write the page and say where it is."""
    data = read_data(given.data, given.split, empty=given.empty) if given.data else None
    out = given.out or given.run / "report.html"
    write_report(given.run, out, data=data, others=given.others)
    print(f"{out} ({out.stat().st_size / 1024:.0f} KB): open it in a browser.")
