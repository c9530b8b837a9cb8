# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Previews of images: small JPEGs of files that an index names.

An index may come from somebody else, and its files may have been replaced since. So a file is shown only if it lies in
the folder that the index says it was read from, has the very bytes that were indexed, and is an image of a few formats
by its content. What is sent is made anew of its pixels.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from retort.students import IMAGE_STAMP
from retort.students.images import DIGEST, FORMATS, MAX_PIXELS, flattened

if TYPE_CHECKING:
    from typing import BinaryIO

SIDE = 320  # pixels
KEPT = 1024  # of some 20 KB each
QUALITY = 85


class Preview(NamedTuple):
    """A JPEG, and a name of its content for caches."""

    data: bytes
    etag: str


def preview_of(meta: Mapping[str, Any]) -> Preview | None:
    """
    Make the preview of a document's image, at most `SIDE` pixels wide and high; the last ones are kept.

    :param meta:
        The document's metadata. The stamp in it names folder, file and key; nothing else of it is looked at.
    :returns:
        The preview; None if there is no such image, or it is not the one that was indexed.
    :raises ModuleNotFoundError:
        If Pillow is not installed.
    """
    stamp = meta.get(IMAGE_STAMP)
    if not isinstance(stamp, dict) or not all(isinstance(stamp.get(name), str) for name in ("root", "file", "item")):
        return None
    path = _within(stamp["root"], stamp["file"])
    if path is None:
        return None
    try:
        state = path.stat()
    except OSError:
        return None
    return _made(path, state.st_mtime_ns, state.st_size, stamp["item"])


def _within(root: str, name: str) -> Path | None:
    """Resolve a file with all links, and see that it lies in its folder."""
    try:
        folder = Path(root)
        if not folder.is_absolute():
            return None
        folder = folder.resolve(strict=True)
        path = (folder / name).resolve(strict=True)
        return path if folder.is_dir() and path.is_relative_to(folder) and path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # gone, a circle of links, a name that no file can have
        return None


@lru_cache(maxsize=KEPT)
def _made(path: Path, changed: int, size: int, item: str) -> Preview | None:  # noqa: ARG001 - they tell a new file
    try:
        with path.open("rb") as file:  # opened once: what is checked is what is shown
            if hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST)).hexdigest() != item:
                return None
            file.seek(0)
            data = _jpeg(file)
    except OSError:
        return None
    return None if data is None else Preview(data, f'"{hashlib.blake2b(data, digest_size=DIGEST).hexdigest()}"')


def _jpeg(file: BinaryIO) -> bytes | None:
    from PIL import Image, ImageOps

    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]  # else Pillow reads vectors, too, by other programs
    try:
        with Image.open(file, formats=known) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            image.draft("RGB", (SIDE, SIDE))
            image.load()
            small = flattened(ImageOps.exif_transpose(image))
        small.thumbnail((SIDE, SIDE))
        data = io.BytesIO()
        small.save(data, "JPEG", quality=QUALITY)
        return data.getvalue()
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, OverflowError, struct.error):
        return None
    except Image.DecompressionBombError:
        return None
