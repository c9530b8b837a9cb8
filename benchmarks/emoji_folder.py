# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Write an image-text retrieval set: drawings of emoji are the documents, their captions the queries.

`python benchmarks/emoji_folder.py OUT`. OUT gets four folders in BEIR's layout, in which a document is an image:

    emoji-random            training images and dev images; qrels/train.tsv and qrels/dev.tsv
    emoji-random-held-out   300 other images, drawn at random; qrels/dev.tsv
    emoji-groups            as emoji-random
    emoji-groups-held-out   about 300 other images: all images of some of Unicode's subgroups; qrels/dev.tsv

An image has two queries: its name and its CLDR keywords. Each query has one relevant image: keywords that are another
image's keywords or name are left out. With 300 held-out images, a random ranking has a recall@10 of 10/300.

Needs Debian's packages fonts-noto-color-emoji, unicode-cldr-core and unicode-data, and Pillow and emoji from PyPI.
"""

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from retort.cli.main import positive
from retort.cli.table import format_table
from retort.students.files import replace_folder

FONT_SIZE = 109  # the one size in which the font has its bitmaps
SKIN_TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
VARIATION_SELECTOR = "\ufe0f"  # CLDR leaves it out
UNKNOWN_FLAG = "\U0001f1fd\U0001f1fd"  # XX, no country: the font draws a flag with a question mark
LARGEST_SUBGROUP = 3  # no subgroup makes up more than one in so many of the held-out images
DEBIAN = "apt-get install fonts-noto-color-emoji unicode-cldr-core unicode-data"
PYPI = "pip install emoji pillow"


@dataclass(frozen=True)
class Picture:
    """
    An emoji.

    :param id:
        Its code points in hexadecimal, joined by `-`.
    :param captions:
        Texts by kind: `name`, `keywords`.
    :param subgroup:
        Unicode's group and subgroup, such as `Food & Drink: food-fruit`.
    :param png:
        The content of its image file.
    """

    id: str
    captions: Mapping[str, str]
    subgroup: str
    png: bytes


class Pen:
    """
    Draws emoji.

    :param font:
        The file of a font with bitmaps of 109 pixels, such as Noto Color Emoji.
    :param size:
        Width and height of an image, in pixels.
    :raises SystemExit:
        If Pillow is missing, or cannot join code points into one emoji.
    """

    def __init__(self, font: Path, size: int) -> None:
        try:
            from PIL import ImageFont, features
        except ImportError as error:
            raise SystemExit(_missing("the Python package Pillow", PYPI)) from error
        if not features.check("raqm"):
            msg = "Pillow has no libraqm here, without which an emoji of several code points falls apart."
            raise SystemExit(msg)
        self._font = ImageFont.truetype(font, FONT_SIZE)
        self._size = size
        self._width = self._font.getlength("\U0001f600")  # all emoji are as wide as this one
        self._unknown_flag = self.draw(UNKNOWN_FLAG)

    def flaw(self, text: str) -> str | None:
        """Say why the font cannot draw an emoji; None if it can."""
        if self._font.getlength(text) > self._width:
            return "drawn as several emoji"
        image = self.draw(text)
        if image is None:
            return "not in the font"
        return "drawn as an unknown flag" if image == self._unknown_flag else None

    def draw(self, text: str) -> Any:
        """
        Draw an emoji on a white square.

        :param text:
            The emoji.
        :returns:
            An RGB image, or None if nothing was drawn.
        """
        from PIL import Image, ImageChops, ImageDraw

        square = round(self._width)
        canvas = Image.new("RGB", (3 * square, 3 * square), "white")
        ImageDraw.Draw(canvas).text((square, square), text, font=self._font, embedded_color=True)
        box = ImageChops.difference(canvas, Image.new("RGB", canvas.size, "white")).getbbox()
        if box is None:
            return None
        left = (box[0] + box[2] - square) // 2
        top = (box[1] + box[3] - square) // 2
        centred = canvas.crop((left, top, left + square, top + square))
        return centred.resize((self._size, self._size), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks/emoji_folder.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    unicode = Path("/usr/share/unicode")
    font = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder that gets the four folders")
    parser.add_argument("--size", type=positive, default=32, help="pixels along an edge (default: %(default)s)")
    parser.add_argument("--held-out", type=positive, default=300, help="images held out (default: %(default)s)")
    parser.add_argument("--dev", type=positive, default=150, help="images for early stopping (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws the held-out and dev images (default: %(default)s)")
    parser.add_argument("--font", type=Path, default=font, help="Noto Color Emoji (default: %(default)s)")
    parser.add_argument(
        "--cldr", type=Path, default=unicode / "cldr" / "common", help="CLDR's folder (default: %(default)s)"
    )
    parser.add_argument(
        "--groups",
        type=Path,
        default=unicode / "emoji" / "emoji-test.txt",
        help="emoji-test.txt (default: %(default)s)",
    )
    arguments = parser.parse_args()
    for path in (arguments.font, arguments.cldr, arguments.groups):
        if not path.exists():
            raise SystemExit(_missing(str(path), DEBIAN))
    pictures, summary = read_pictures(arguments.font, arguments.cldr, arguments.groups, arguments.size)
    if arguments.held_out + arguments.dev >= len(pictures):
        parser.error(f"--held-out and --dev leave none of {len(pictures)} images to train on")
    ordered = shuffled(pictures, arguments.seed)
    subgroups = choose_subgroups(pictures, arguments.held_out, arguments.seed)
    held_out = {
        "emoji-random": {picture.id for picture in ordered[: arguments.held_out]},
        "emoji-groups": {picture.id for picture in pictures if picture.subgroup in subgroups},
    }
    summary["held-out subgroups"] = subgroups
    summary["sets"] = {}
    rows = []
    for name, ids in held_out.items():
        others = [picture for picture in ordered if picture.id not in ids]
        dev = {picture.id for picture in others[: arguments.dev]}
        parts = {
            "train": [picture for picture in pictures if picture.id not in ids | dev],
            "dev": [picture for picture in pictures if picture.id in dev],
            "held out": [picture for picture in pictures if picture.id in ids],
        }
        write_set(arguments.out / name, {"train": parts["train"], "dev": parts["dev"]})
        write_set(arguments.out / f"{name}-held-out", {"dev": parts["held out"]})
        summary["sets"][name] = {part: count(members) for part, members in parts.items()}
        for part, counts in summary["sets"][name].items():
            rows.append([f"{name}: {part}", *map(str, counts.values())])
    print(json.dumps(summary, indent=2, ensure_ascii=False))
    print(format_table(["set", "images", "names", "keywords", "queries"], rows))


def read_pictures(font: Path, cldr: Path, groups: Path, size: int) -> tuple[list[Picture], dict[str, Any]]:
    """
    Draw and describe all emoji that the font has, without skin tones.

    :param font:
        The file of the font.
    :param cldr:
        The folder that holds CLDR's `annotations` and `annotationsDerived`.
    :param groups:
        Unicode's `emoji-test.txt`.
    :param size:
        Width and height of an image, in pixels.
    :returns:
        The pictures in the order of their ids; the numbers of what was kept, and of what was left out and why.
    """
    pen = Pen(font, size)
    subgroups, keywords = read_subgroups(groups), read_keywords(cldr)
    package = import_emoji()
    qualified = {text: entry for text, entry in package.EMOJI_DATA.items() if _is_qualified(package, entry)}
    candidates = {text: entry for text, entry in qualified.items() if SKIN_TONES.isdisjoint(text)}
    left_out = Counter({"skin tone": len(qualified) - len(candidates)})
    left_out_captions: Counter[str] = Counter()
    images: set[bytes] = set()
    drawn: list[Picture] = []
    # Of emoji with the same image the oldest stays: France rather than Clipperton Island.
    for text, entry in sorted(candidates.items(), key=lambda item: (item[1]["E"], item[0])):
        subgroup = next((subgroups[text[:end]] for end in range(len(text), 0, -1) if text[:end] in subgroups), None)
        reason = pen.flaw(text) or (None if subgroup else "no subgroup")
        if reason is None:
            image = pen.draw(text)
            digest = sha256(image.tobytes()).digest()
            reason = "same image as another" if digest in images else None
            images.add(digest)
        if reason is not None:
            left_out[reason] += 1
            continue
        name = entry["en"].strip(":").replace("_", " ")
        captions = {"name": name, "keywords": ", ".join(other_keywords(name, *keywords(text)))}
        left_out_captions["keywords: none besides the name"] += not captions["keywords"]
        png = BytesIO()
        image.save(png, "PNG")
        drawn.append(Picture(_identify(text), captions, str(subgroup), png.getvalue()))
    names = Counter(picture.captions["name"].lower() for picture in drawn)
    uses = names + Counter(picture.captions["keywords"].lower() for picture in drawn)
    pictures = []
    for picture in sorted(drawn, key=lambda picture: picture.id):
        own = {}
        for kind, caption in picture.captions.items():
            # Names all stay: `bus` is the name of one image, and the only keyword of another, a minibus.
            if (names if kind == "name" else uses)[caption.lower()] == 1:
                own[kind] = caption
            elif caption:
                left_out_captions[f"{kind}: shared with another image"] += 1
        pictures.append(Picture(picture.id, own, picture.subgroup, picture.png))
    return pictures, {
        "emoji": len(qualified),
        "emoji left out": dict(sorted(left_out.items())),
        "captions left out": dict(sorted(left_out_captions.items())),
        "kept": count(pictures),
    }


def import_emoji() -> Any:
    """
    Import the PyPI package, whose name is that of this script.

    :raises SystemExit:
        If it is missing.
    """
    here = Path(__file__).resolve().parent
    searched = list(sys.path)
    sys.path[:] = [entry for entry in searched if Path(entry).resolve() != here]
    try:
        return import_module("emoji")
    except ImportError as error:
        raise SystemExit(_missing("the Python package emoji", PYPI)) from error
    finally:
        sys.path[:] = searched


def read_subgroups(path: Path) -> dict[str, str]:
    """Read the group and subgroup of each emoji from Unicode's `emoji-test.txt`."""
    subgroups = {}
    group = subgroup = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group:"):
            group = line.partition(":")[2].strip()
        elif line.startswith("# subgroup:"):
            subgroup = line.partition(":")[2].strip()
        elif line and not line.startswith("#"):
            points = line.partition(";")[0].split()
            subgroups["".join(chr(int(point, 16)) for point in points)] = f"{group}: {subgroup}"
    return subgroups


def read_keywords(folder: Path) -> Any:
    """
    Read CLDR's English annotations.

    :param folder:
        The folder that holds `annotations` and `annotationsDerived`.
    :returns:
        A function: it takes an emoji and returns its keywords and CLDR's name of it.
    """
    keywords: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for part in ("annotations", "annotationsDerived"):
        for entry in ET.parse(folder / part / "en.xml").iter("annotation"):  # noqa: S314 # a file of Debian's
            text = entry.text or ""
            if entry.get("type") == "tts":
                names[entry.attrib["cp"]] = text
            else:
                keywords[entry.attrib["cp"]] = [keyword.strip() for keyword in text.split("|")]

    def look_up(text: str) -> tuple[list[str], str]:
        plain = text.replace(VARIATION_SELECTOR, "")
        return keywords.get(plain, []), names.get(plain, "")

    return look_up


def other_keywords(name: str, keywords: Iterable[str], cldr_name: str) -> list[str]:
    """Leave out the keywords that are the emoji's name, in either spelling."""
    return [keyword for keyword in keywords if keyword.lower() not in {name.lower(), cldr_name.lower()}]


def shuffled(pictures: Iterable[Picture], seed: int) -> list[Picture]:
    """Shuffle pictures; each one's place depends on its id and the seed alone."""
    return sorted(pictures, key=lambda picture: _draw(picture.id, seed))


def choose_subgroups(pictures: Iterable[Picture], most: int, seed: int) -> dict[str, int]:
    """
    Choose the subgroups to hold out: shuffle all, then take each that still fits.

    :param pictures:
        All pictures.
    :param most:
        The largest number of pictures to hold out. No subgroup may have more than a third of it: country flags alone
        would nearly fill the set.
    :param seed:
        The seed of the shuffle.
    :returns:
        The numbers of pictures by subgroup.
    """
    sizes = Counter(picture.subgroup for picture in pictures)
    chosen: dict[str, int] = {}
    for subgroup in sorted(sizes, key=lambda subgroup: _draw(subgroup, seed)):
        if sizes[subgroup] <= min(most - sum(chosen.values()), most // LARGEST_SUBGROUP):
            chosen[subgroup] = sizes[subgroup]
    return dict(sorted(chosen.items()))


def write_set(folder: Path, splits: Mapping[str, Sequence[Picture]]) -> None:
    """
    Write a folder in BEIR's layout, whole or not at all.

    :param folder:
        The folder, which is replaced if it exists.
    :param splits:
        The pictures by split. All of them are in the corpus; a split's captions are judged in `qrels/SPLIT.tsv`.
    """
    corpus, queries = [], []
    judgements = defaultdict(list)
    with replace_folder(folder) as aside:
        (aside / "images").mkdir()
        (aside / "qrels").mkdir()
        for split, pictures in splits.items():
            for picture in pictures:
                image = f"images/{picture.id}.png"
                (aside / image).write_bytes(picture.png)
                corpus.append({"_id": picture.id, "image": image})
                for kind, caption in picture.captions.items():
                    queries.append({"_id": f"{picture.id}-{kind}", "text": caption})
                    judgements[split].append(f"{picture.id}-{kind}\t{picture.id}\t1")
        for name, entries in (("corpus", corpus), ("queries", queries)):
            entries.sort(key=lambda entry: entry["_id"])
            _write_lines(aside / f"{name}.jsonl", [json.dumps(entry, ensure_ascii=False) for entry in entries])
        for split in splits:
            _write_lines(aside / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *judgements[split]])


def count(pictures: Sequence[Picture]) -> dict[str, int]:
    """Count images, and queries by kind and in all."""
    kinds = {kind: sum(kind in picture.captions for picture in pictures) for kind in ("name", "keywords")}
    return {
        "images": len(pictures),
        "names": kinds["name"],
        "keywords": kinds["keywords"],
        "queries": sum(kinds.values()),
    }


def _is_qualified(package: Any, entry: Mapping[str, Any]) -> bool:
    """Tell an emoji from its shorter spellings, and from components such as hair."""
    return entry["status"] == package.STATUS["fully_qualified"]


def _identify(text: str) -> str:
    return "-".join(f"{ord(character):x}" for character in text)


def _draw(name: str, seed: int) -> str:
    return sha256(f"{seed}:{name}".encode()).hexdigest()


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _missing(what: str, command: str) -> str:
    return f"{what} is missing. Run `{command}`."


if __name__ == "__main__":
    main()
