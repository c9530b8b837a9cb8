# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Draw small pictures with captions: `python examples/image-search/draw.py FOLDER`.

A picture has two things on coloured ground, of some shape, colour and size, one beside or above the other. FOLDER is
then training data in BEIR's layout, where a document is an image.
"""

import argparse
import json
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw

from retort.students.files import replace_folder

SIDE = 64
COLOURS = {
    "red": "#d62828", "orange": "#f77f00", "yellow": "#f5c800", "green": "#2a9d3f", "blue": "#1d6fd6",
    "purple": "#7b2cbf", "pink": "#ff6fae", "black": "#202020",
}  # fmt: skip
GROUNDS = {"white": "#ffffff", "grey": "#c9ccd1", "sand": "#ead7b0", "sky": "#bfe3f5"}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "bar", "heart")
SIZES = {"small": 8, "large": 14}
PLACES = {"above": ((32, 17), (32, 47)), "left of": ((17, 32), (47, 32))}
DEV_SHARE = 0.1


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--number", type=int, default=1500, help="pictures (default: %(default)s)")
    arguments = parser.parse_args()
    write(arguments.folder, arguments.number)
    print(f"{arguments.folder}: {arguments.number} pictures, with a caption each")


def write(folder: Path, number: int) -> None:
    """Write pictures, captions and judgements."""
    rng = random.Random(0)  # noqa: S311 - for pictures
    scenes: dict[str, Image.Image] = {}
    while len(scenes) < number:
        caption, picture = scene(rng)
        scenes.setdefault(caption, picture)
    with replace_folder(folder) as aside:
        (aside / "images").mkdir()
        (aside / "qrels").mkdir()
        corpus, queries = [], []
        judged: dict[str, list[str]] = {"train": [], "dev": []}
        for place, (caption, picture) in enumerate(scenes.items()):
            name = f"{place:05d}"
            picture.save(aside / "images" / f"{name}.png")
            corpus.append({"_id": name, "image": f"images/{name}.png"})
            queries.append({"_id": f"q{name}", "text": caption})
            judged["dev" if place < number * DEV_SHARE else "train"].append(f"q{name}\t{name}\t1\n")
        for file, records in (("corpus", corpus), ("queries", queries)):
            (aside / f"{file}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        for split, lines in judged.items():
            (aside / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))


def scene(rng: random.Random) -> tuple[str, Image.Image]:
    """Draw one picture, and say what is on it."""
    ground, place = rng.choice(list(GROUNDS)), rng.choice(list(PLACES))
    picture = Image.new("RGB", (SIDE, SIDE), GROUNDS[ground])
    pen, things = ImageDraw.Draw(picture), []
    for centre in PLACES[place]:
        size, colour, shape = rng.choice(list(SIZES)), rng.choice(list(COLOURS)), rng.choice(SHAPES)
        draw(pen, shape, centre, SIZES[size], COLOURS[colour], GROUNDS[ground])
        things.append(f"a {size} {colour} {shape}")
    return f"{things[0]} {place} {things[1]} on {ground}", picture


def draw(pen: ImageDraw.ImageDraw, shape: str, centre: tuple[int, int], r: int, colour: str, ground: str) -> None:
    """Draw one thing, `r` pixels from its centre to its edge."""
    x, y = centre
    box = (x - r, y - r, x + r, y + r)
    if shape in ("circle", "ring"):
        pen.ellipse(box, fill=colour)
        if shape == "ring":
            half = r // 2
            pen.ellipse((x - half, y - half, x + half, y + half), fill=ground)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    elif shape == "triangle":
        pen.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=colour)
    elif shape == "star":
        corners = [(r if i % 2 == 0 else r * 0.4, math.pi * (i / 5 - 0.5)) for i in range(10)]
        pen.polygon([(x + far * math.cos(turn), y + far * math.sin(turn)) for far, turn in corners], fill=colour)
    elif shape == "cross":
        pen.rectangle((x - r, y - r // 3, x + r, y + r // 3), fill=colour)
        pen.rectangle((x - r // 3, y - r, x + r // 3, y + r), fill=colour)
    elif shape == "bar":
        pen.rectangle((x - r, y - r // 3, x + r, y + r // 3), fill=colour)
    else:
        pen.pieslice((x - r, y - r, x, y + r // 2), 180, 360, fill=colour)
        pen.pieslice((x, y - r, x + r, y + r // 2), 180, 360, fill=colour)
        pen.polygon([(x - r, y - r // 4), (x + r, y - r // 4), (x, y + r)], fill=colour)


if __name__ == "__main__":
    main()
