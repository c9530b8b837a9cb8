# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Images as items: a file that stands where a text does, and how it is read. Pillow comes with the extra `images`."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retort.students.extras import IMAGES

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
# What these suffixes stand for, and phones' JPEGs of several pictures. For some others, as EPS, Pillow runs programs.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 80_000_000  # 320 MB once it is read; a file of some KB may claim any number
READERS = 4  # at a time: each may hold a large image
DIGEST = 16


class ImageError(ValueError):
    """A file is no image that can be read; the message names it and the mend."""


class ImageFile(str):
    """
    An image where an item may be a text or an image: the string is the path of its file.

    Two are the same item if their bytes are the same, wherever they lie: `item` is the key of both.

    :param path:
        The file.
    :param item:
        blake2b-128 of its bytes; None reads it.
    :raises ImageError:
        If `item` is None and the file cannot be read.

    ### Usage example

    ```python
    from retort.students import Student
    from retort.students.images import ImageFile

    student = Student.load("runs/images/student")
    student.encode_document([ImageFile("photos/cat.jpg")])  # [1, dim] float32
    student.encode_query(["a cat"])
    ```
    """

    item: bytes

    def __new__(cls, path: str | Path, item: bytes | None = None) -> ImageFile:
        """Take the path as a string."""
        new = super().__new__(cls, path)
        new.item = _bytes_key(Path(path)) if item is None else item
        return new

    def __getnewargs__(self) -> tuple[str, bytes]:  # type: ignore[override]
        return str(self), self.item


def of_images(items: Any) -> bool:
    """Tell a list of images from one of texts, by its first item."""
    return len(items) > 0 and isinstance(items[0], ImageFile)


def refuse_images(items: Iterable[Any]) -> None:
    """
    Refuse images where texts alone are read.

    :raises ImageError:
        If an item is one.
    """
    if (image := next((item for item in items if isinstance(item, ImageFile)), None)) is not None:
        msg = f"{image} is an image, and this side of the student reads text alone."
        raise ImageError(msg)


def image_rows(items: Iterable[Any]) -> np.ndarray:
    """`[n]` bool: which items are images."""
    return np.array([isinstance(item, ImageFile) for item in items], dtype=bool)


def checked_images(paths: Iterable[str | Path]) -> list[ImageFile | ImageError]:
    """
    Read every file once, several at a time: what is damaged is known before work is done.

    :param paths:
        `n` files.
    :returns:
        Per file an item, or what is wrong with it.
    """

    def checked(path: str | Path) -> ImageFile | ImageError:
        try:
            _decoded(Path(path), check=True)
            return ImageFile(path)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(checked, paths))


def open_image(path: str | Path) -> Image:
    """
    Read an image as models take it: RGB, upright, 8 bits a channel.

    Of an animation the first picture is read. What is transparent becomes white. An image that its EXIF data says is
    turned is turned back. CMYK, palettes, grey and 16 bits are converted.

    :param path:
        The file; its format is told by its content.
    :raises ImageError:
        If there is no such file, it is empty, damaged or no image, or has more than `MAX_PIXELS` pixels.
    """
    return _decoded(Path(path))


def image_processor(module: Any) -> Any:
    """Return what prepares images for the first module of a model; None if it reads none."""
    own = getattr(module, "image_processor", None) or getattr(module, "processor", None)
    return getattr(own, "image_processor", own) if own is not None else None


def _bytes_key(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST)
    try:
        _require_file(path)
        with path.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # no name of a file can hold a NUL
        msg = f"{path}: {getattr(error, 'strerror', None) or error}. Name a file that can be read."
        raise ImageError(msg) from error
    return digest.digest()


def _require_file(path: Path) -> None:
    """Refuse what is there and is no file: reading from a pipe would not end."""
    if path.exists() and not path.is_file():
        msg = f"{path}: it is no file. Name an image."
        raise ImageError(msg)


def _decoded(path: Path, *, check: bool = False) -> Image:
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ModuleNotFoundError as error:
        msg = f"Images need Pillow: {IMAGES}"
        raise ModuleNotFoundError(msg, name=error.name) from error

    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]  # a Pillow may lack one
    try:
        _require_file(path)
        if path.stat().st_size == 0:
            msg = f"{path}: the file is empty. Restore it or leave it out."
            raise ImageError(msg)
        with Image.open(path, formats=known) as image:
            if (pixels := image.width * image.height) > MAX_PIXELS:
                msg = (
                    f"{path}: {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read. Make it smaller."
                )
                raise ImageError(msg)
            if check and pixels:
                image.draft("RGB", (1, 1))  # of a JPEG an eighth; all of its bytes are read the same
            image.load()
            if check:
                image.thumbnail((1, 1))  # what it becomes is tried on a small one
            return flattened(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        msg = (
            f"{path}: no image of a kind that is read ({', '.join(FORMATS)}). Save it as PNG or JPEG, or leave it out."
        )
        raise ImageError(msg) from error
    except Image.DecompressionBombError as error:
        msg = f"{path}: more than {MAX_PIXELS:,} pixels. Make it smaller."
        raise ImageError(msg) from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, OverflowError, struct.error) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        msg = f"{path}: {why}. Restore the file or leave it out."
        raise ImageError(msg) from error


def flattened(image: Image) -> Image:
    """
    Convert whatever Pillow gives to RGB; what is transparent becomes white.

    :param image:
        The image, read.
    :raises ValueError:
        If its pixels are floating-point numbers.
    """
    from PIL import Image

    if image.mode == "RGB":
        return image.copy() if "transparency" not in image.info else _on_white(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = (np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "F":
        msg = "its pixels are floating-point numbers of no known range; convert it to 8 bits"
        raise ValueError(msg)
    if ("A" in image.mode.upper() and image.mode != "LAB") or "transparency" in image.info:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image) -> Image:
    from PIL import Image

    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")
