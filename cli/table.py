# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Tables of figures for a terminal."""

from collections.abc import Mapping, Sequence

COLUMNS = {"ndcg@10": "nDCG@10", "mrr@10": "MRR@10", "recall@20": "R@20", "recall@100": "R@100"}


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align a table: the first column to the left, figures to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first, *rest = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join([first, *rest]).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])


def evaluation_table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Table of evaluations: quality, size and speed, one line a model."""
    rows = [
        [
            name,
            *(f"{metrics[key]:.4f}" for key in COLUMNS),
            f"{metrics['mb']:.0f}" if metrics["mb"] else "-",
            f"{metrics['ms']:.1f} ({metrics['ms_encode']:.1f})",
            f"{metrics['documents_per_s']:.0f}",
        ]
        for name, metrics in found.items()
    ]
    return format_table(["model", *COLUMNS.values(), "MB", "ms a query", "docs/s"], rows)
