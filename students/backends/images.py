# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The image side of an exported student: files are read with Pillow and brought to size as its processor does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retort.students.encoding import CPU_TOKENS, collect
from retort.students.images import ImageError, ImageFile, open_image

if TYPE_CHECKING:
    from PIL.Image import Image

    from retort.students.backends.sessions import Sessions

PREPARATION = "images.json"
_SETTINGS = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "default_to_square"}
_RANDOM_SIZES = ((40, 23), (17, 90), (64, 64))
_EXACT, _BY_TORCHVISION = 1e-4, 0.05  # torchvision, where it is installed, rounds in another place


@dataclass(frozen=True, kw_only=True)
class ImagePreparation:
    """
    What is done to an image before a model reads it.

    :param size:
        `{height, width}`; or `{shortest_edge}`, which keeps the sides' ratio. None: it keeps its size.
    :param resample:
        Pillow's number of the filter.
    :param crop:
        `{height, width}` of what is cut out of the middle; None: the whole image.
    :param factor:
        What values of 0 to 255 are multiplied by.
    :param mean:
        Per channel what is subtracted then.
    :param std:
        Per channel what it is divided by.
    :param patches:
        How many patches the model cuts an image into: how many images are run at once goes by it.
    """

    size: dict[str, int] | None
    resample: int
    crop: dict[str, int] | None
    factor: float
    mean: list[float]
    std: list[float]
    patches: int = 1

    @classmethod
    def of(cls, processor: Any, patches: int) -> ImagePreparation:
        """
        Do as an image processor of transformers does.

        :raises ValueError:
            If it does something else besides: found by comparing both on a few images.
        """
        settings = processor.to_dict()
        does = {name: bool(settings.get(name)) for name in _SETTINGS}
        own = cls(
            size=_sides(settings.get("size")) if does["do_resize"] else None,
            resample=int(settings.get("resample") or 0),
            crop=_sides(settings.get("crop_size")) if does["do_center_crop"] else None,
            factor=float(settings.get("rescale_factor") or 1.0) if does["do_rescale"] else 1.0,
            mean=list(settings.get("image_mean") or [0.0]) if does["do_normalize"] else [0.0],
            std=list(settings.get("image_std") or [1.0]) if does["do_normalize"] else [1.0],
            patches=patches,
        )
        if "longest_edge" in (own.size or {}) or ("shortest_edge" in (own.size or {}) and own.crop is None):
            msg = f"{type(processor).__name__} gives images of several sizes, which no export takes."
            raise ValueError(msg)
        own.check(processor)
        return own

    def check(self, processor: Any) -> None:
        """Compare with an image processor on a few images."""
        from PIL import Image

        allowed = _EXACT if processor.backend == "pil" else _BY_TORCHVISION
        rng = np.random.default_rng(0)
        for height, width in _RANDOM_SIZES:
            image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            wanted = processor(image, return_tensors="np")
            seen = np.asarray(wanted["pixel_values"])[0]
            if set(wanted) != {"pixel_values"} or (got := self.pixels(image)).shape != seen.shape:
                msg = f"{type(processor).__name__} gives images of several sizes or a mask, which no export has."
                raise ValueError(msg)
            if (apart := float(np.abs(got - seen).max())) > allowed:
                msg = f"{type(processor).__name__} prepares images in another way than an export can ({apart:.2g})."
                raise ValueError(msg)

    @classmethod
    def load(cls, folder: Path) -> ImagePreparation:
        """Read what `save` wrote."""
        stored = json.loads((folder / PREPARATION).read_text(encoding="utf-8"))
        return cls(**{f.name: stored[f.name] for f in fields(cls)})

    def save(self, folder: Path) -> None:
        """Write it beside a graph."""
        (folder / PREPARATION).write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")

    def pixels(self, image: Image) -> np.ndarray:
        """`[3, height, width]` float32 of an RGB image."""
        if self.size is not None:
            image = image.resize(self._target(image.size), resample=self.resample)  # type: ignore[arg-type]
        values = np.asarray(image, dtype=np.uint8)
        if self.crop is not None:
            values = _middle(values, self.crop["height"], self.crop["width"])
        mean, std = (np.array(part, dtype=np.float32) for part in (self.mean, self.std))
        scaled = (values.astype(np.float32) * np.float32(self.factor) - mean) / std
        return np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32)

    def _target(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height."""
        wanted = self.size or {}
        if "shortest_edge" not in wanted:
            return wanted["width"], wanted["height"]
        short, long = wanted["shortest_edge"], int(wanted["shortest_edge"] * max(size) / min(size))
        return (short, long) if size[0] <= size[1] else (long, short)


def _sides(size: Any) -> dict[str, int] | None:
    """Take a size as transformers has it, a number or an object, without what is unset."""
    if isinstance(size, int):
        return {"shortest_edge": size}
    return {name: int(value) for name, value in dict(size).items() if value is not None} if size else None


def _middle(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut `[height, width, 3]` out of the middle; what an image lacks is black."""
    missing = [max(0, wanted - has) for wanted, has in zip((height, width), values.shape[:2], strict=True)]
    values = np.pad(values, [*(((m + 1) // 2, m // 2) for m in missing), (0, 0)])
    top, left = (values.shape[0] - height) // 2, (values.shape[1] - width) // 2
    return values[top : top + height, left : left + width]


class ImageGraphEncoder:
    """
    The image side of a student as a graph.

    :param folder:
        What `export_model` wrote for this side.
    :param sessions:
        Its graph, open.
    :param dim:
        Dimension of its vectors.
    :param alone:
        Run each image by itself, as `Graph` does texts.
    """

    def __init__(self, folder: Path, sessions: Sessions, dim: int, *, alone: bool = False) -> None:
        self.preparation = ImagePreparation.load(folder)
        self.sessions = sessions
        self.dim = dim
        self.megabytes = sessions.path.stat().st_size / 1e6
        self._alone = alone

    def encode(
        self,
        texts: Sequence[str],
        *,
        budget: int | None = None,
        progress: Callable[[int], Any] | None = None,
        prompt: str | None = None,  # noqa: ARG002 - of texts
    ) -> np.ndarray:
        """Encode images, `[n, d]` float32; parameters as in `Student.encode`."""
        if odd := [text for text in texts if not isinstance(text, ImageFile)]:
            msg = f"{odd[0][:80]!r} is a text, and this side of the export reads images. Take backend='torch'."
            raise ImageError(msg)
        return collect(self._chunks(texts, budget), (len(texts), self.dim), progress)

    def _chunks(self, images: Sequence[str], budget: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        size = 1 if self._alone else max(1, (budget or CPU_TOKENS) // self.preparation.patches)
        starts = range(0, len(images), size)

        def run(start: int) -> np.ndarray:
            session = self.sessions.one if len(images) <= size else self.sessions.each
            pixels = np.stack([self.preparation.pixels(open_image(i)) for i in images[start : start + size]])
            vectors: np.ndarray = session.run(None, {"pixel_values": pixels})[0]
            return vectors

        with ThreadPoolExecutor(self.sessions.threads) as pool:  # reading and preparing takes as long as the graph
            for start, vectors in zip(starts, pool.map(run, starts), strict=True):
                yield np.arange(start, start + len(vectors)), vectors[:, : self.dim]
