# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Plots as SVG: they take their colours from the page, so that they follow it into the dark, and scale to a phone.

All text is escaped. Every plot has a title for those who do not see it; the numbers stand in a table beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 68, 12, 14, 44
LETTER = 6.4  # width of a letter, about
Points = Sequence[tuple[float, float]]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Choose about `count` round numbers that cover a range."""
    if high - low <= 1e-9 * max(1.0, abs(low)):  # ticks are rounded to ten digits
        high = low + (abs(low) or 1.0) * 0.1
    raw = (high - low) / count
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(m * base for m in (1, 2, 2.5, 5, 10) if m * base >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def lines(series: Mapping[str, Points], *, title: str, x: str, y: str, bands: Mapping[str, float] | None = None) -> str:
    """
    Draw lines with their points.

    :param series:
        Points by name.
    :param title:
        What it shows, in a sentence.
    :param x:
        Label of the horizontal axis.
    :param y:
        Label of the vertical axis.
    :param bands:
        Stretches of the horizontal axis by name, with their ends, in order.
    """
    points = [p for found in series.values() for p in found]
    ends = list((bands or {}).values())
    across = ticks(min([0.0, *(p[0] for p in points)]), max([1.0, *(p[0] for p in points), *ends]))
    heights = [p[1] for p in points] or [0.0]
    up = ticks(min(heights), max(heights))
    place_x, place_y = _scale(across, LEFT, WIDTH - RIGHT), _scale(up, HEIGHT - BOTTOM, TOP)
    parts = []
    start = 0.0
    for number, (name, end) in enumerate((bands or {}).items()):
        left, right = place_x(start), place_x(end)
        shade = "band odd" if number % 2 else "band"
        parts.append(
            f'<rect class="{shade}" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"/>'
        )
        height = TOP + 12 + 13 * (number % 3)
        if left + 3 + LETTER * len(name) <= WIDTH:
            parts.append(f'<text class="small" x="{left + 3:.1f}" y="{height}">{escape(name)}</text>')
        else:  # a short last stage's name would be cut off
            parts.append(f'<text class="small" x="{right:.1f}" y="{height}" text-anchor="end">{escape(name)}</text>')
        start = end
    parts += _axes(across, up, place_x, place_y, x, y)
    for number, (name, found) in enumerate(series.items()):
        path = " ".join(f"{place_x(a):.1f},{place_y(b):.1f}" for a, b in found)
        parts.append(f'<polyline class="line c{number % 6}" points="{path}"><title>{escape(name)}</title></polyline>')
        if len(found) <= 60:  # noqa: PLR2004 - more would hide the line
            parts += [
                f'<circle class="dot c{number % 6}" cx="{place_x(a):.1f}" cy="{place_y(b):.1f}" r="3"/>'
                for a, b in found
            ]
    return _svg(title, parts) + (_legend(list(series)) if len(series) > 1 else "")


def scatter(points: Mapping[str, tuple[float, float]], *, title: str, x: str, y: str) -> str:
    """Draw named points, the horizontal axis logarithmic; parameters as in `lines`."""
    logs = {name: (math.log10(max(a, 1e-3)), b) for name, (a, b) in points.items()}
    low, high = math.floor(min(a for a, _ in logs.values())), math.ceil(max(a for a, _ in logs.values()))
    across = [float(p) for p in range(low, max(high, low + 1) + 1)]
    up = ticks(min(b for _, b in logs.values()), max(b for _, b in logs.values()))
    place_x, place_y = _scale(across, LEFT + 14, WIDTH - RIGHT - 14), _scale(up, HEIGHT - BOTTOM, TOP + 8)
    parts = _axes(across, up, place_x, place_y, x, y, show_x=lambda p: f"{10**p:g}")
    dots = {name: (place_x(a), place_y(b)) for name, (a, b) in logs.items()}
    taken = [(at - 6, height - 6, at + 6, height + 6) for at, height in dots.values()]
    for number, (name, (at, height)) in enumerate(dots.items()):
        left, base, anchor = _free_place(at, height, LETTER * len(name), taken)
        parts.append(f'<circle class="dot c{number % 6}" cx="{at:.1f}" cy="{height:.1f}" r="6"/>')
        parts.append(f'<text x="{left:.1f}" y="{base:.1f}" text-anchor="{anchor}">{escape(name)}</text>')
    return _svg(title, parts)


def _free_place(
    at: float, height: float, width: float, taken: list[tuple[float, float, float, float]]
) -> tuple[float, float, str]:
    """Choose where a dot's name stands, beside it, above or below: where it covers least. The place is then taken."""
    beside = [(at + 10, height + 4, "start"), (at - 10, height + 4, "end")]
    near = [
        (x, height + y, anchor) for y in (-10, 18) for x, anchor in ((at, "middle"), (at - 6, "start"), (at + 6, "end"))
    ]
    found: list[tuple[float, int, tuple[float, float, float, float], tuple[float, float, str]]] = []
    for x, base, anchor in beside + near:
        left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * width
        box = (left, base - 11, left + width, base + 3)
        outside = max(0.0, LEFT - box[0]) + max(0.0, box[2] - WIDTH)
        covered = sum(
            max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
            * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
            for other in taken
        )
        found.append((covered + 100 * outside, len(found), box, (x, base, anchor)))
    best = min(found)
    taken.append(best[2])
    return best[3]


def bars(values: Mapping[str, float], *, title: str, x: str, y: str) -> str:
    """Draw a column a name; parameters as in `lines`."""
    up = ticks(0.0, max([1.0, *values.values()]))
    place_y = _scale(up, HEIGHT - BOTTOM, TOP)
    room = (WIDTH - LEFT - RIGHT) / max(len(values), 1)
    parts = _axes([], up, lambda v: v, place_y, x, y)
    for number, (name, value) in enumerate(values.items()):
        left = LEFT + number * room
        parts.append(
            f'<rect class="bar" x="{left + room * 0.15:.1f}" y="{place_y(value):.1f}" width="{room * 0.7:.1f}" '
            f'height="{HEIGHT - BOTTOM - place_y(value):.1f}"><title>{escape(name)}: {value:g}</title></rect>'
        )
        middle = left + room / 2
        parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(name)}</text>')
    return _svg(title, parts)


def _scale(marks: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, high = marks[0], marks[-1]
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _axes(
    across: Sequence[float],
    up: Sequence[float],
    place_x: Callable[[float], float],
    place_y: Callable[[float], float],
    x: str,
    y: str,
    *,
    show_x: Callable[[float], str] = "{:g}".format,
) -> list[str]:
    floor = HEIGHT - BOTTOM
    parts = []
    for mark in up:
        at = place_y(mark)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{mark:g}</text>')
    for mark in across:
        at = place_x(mark)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{floor}" y2="{floor + 4}"/>')
        parts.append(f'<text x="{at:.1f}" y="{floor + 18}" text-anchor="middle">{show_x(mark)}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>')
    middle = (TOP + floor) / 2
    parts.append(
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{escape(y)}</text>'
    )
    return parts


def _svg(title: str, parts: list[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _legend(names: list[str]) -> str:
    keys = "".join(f'<li><span class="key c{i % 6}"></span>{escape(name)}</li>' for i, name in enumerate(names))
    return f'<ul class="legend">{keys}</ul>'
