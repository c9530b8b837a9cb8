# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The passages and sentences of a document that answers are chosen from, and their vectors as an index keeps them."""

from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain

import numpy as np

from retort.students.segmentation import PASSAGE_WORDS, answer_spans, passage_spans, token_spans
from retort.students.vectors import SHORTEST, unit

# By bits, the levels above 0 that keep most of normally distributed numbers: Max, Quantizing for minimum distortion,
# 1960.
_UPPER = {
    2: [0.4528, 1.5104],
    3: [0.2451, 0.7560, 1.3439, 2.1520],
    4: [0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326],
}
_LEVELS = {bits: np.array([-x for x in reversed(upper)] + upper, np.float32) for bits, upper in _UPPER.items()}
_DIGEST = 8  # bytes
_SHARE = 0.6  # of what the document takes in the index otherwise
_ENTRY = 500  # bytes that its id, metadata and entries in the engine's tables take there


@dataclass
class Passage:
    """
    A part of a document that is read, of a short document all of it.

    :param title:
        The document's title, empty where it has none.
    :param content:
        The document's text.
    :param start:
        Where the passage begins in it.
    :param end:
        Where it ends.
    """

    title: str
    content: str
    start: int
    end: int

    @property
    def text(self) -> str:
        """The passage's own text."""
        return self.content[self.start : self.end]

    def seen(self, start: int = 0, end: int | None = None) -> str:
        """Return what the student reads of the passage, or of a sentence of it: the document's title comes first."""
        return f"{self.title} {self.text[start:end]}".strip()

    def sentences(self) -> list[tuple[int, int]]:
        """List where the passage's sentences start and end in it."""
        return answer_spans(self.text)


def passages_of(title: str, content: str) -> list[Passage]:
    """
    Cut a document of more words than two passages have.

    :param title:
        Its title, or nothing.
    :param content:
        Its text.
    :returns:
        Its passages; none if it has no text.
    """
    words = token_spans(content)
    if len(words) > 2 * PASSAGE_WORDS:
        return [Passage(title, content, *span) for span in passage_spans(content, PASSAGE_WORDS, 0, words)]
    return [Passage(title, content, 0, len(content))] if words else []


def texts_to_keep(passages: list[Passage]) -> list[str]:
    """
    List the texts of a document whose vectors an index keeps.

    :param passages:
        The document's.
    :returns:
        What the student sees of each passage and, of a document of one passage, of each sentence: longer ones would
        have many times as many bytes in vectors as in text.
    """
    texts = [passage.seen() for passage in passages]
    return texts + [passages[0].seen(*span) for span in passages[0].sentences()] if len(passages) == 1 else texts


def pack(space: str, passages: list[Passage], vectors: np.ndarray) -> str:
    """
    Write vectors as ASCII text, which neither JSON nor Haystack's copying makes slow.

    A passage's vector takes 8 bits a dimension, as it counts for all of its sentences. A sentence's takes 4, or 3, if
    that keeps the text within six tenths of what the document takes in the index without it; else 2.

    :param space:
        Of the student.
    :param passages:
        The document's.
    :param vectors:
        Of `texts_to_keep(passages)`, `[n, d]`.
    """
    d = vectors.shape[1]
    whole, parts = vectors[: len(passages)], vectors[len(passages) :]
    longest = np.maximum(np.abs(whole).max(axis=1, keepdims=True), SHORTEST)
    packed = np.rint(whole / longest * 127).astype(np.int8).tobytes()
    room = _SHARE * (4 * d + len(passages[0].content.encode(errors="replace")) + _ENTRY) * 3 / 4 - _DIGEST - len(packed)
    bits = next((bits for bits in (4, 3) if bits * parts.size <= 8 * room), 2)
    if len(parts):
        deviation = np.maximum(np.sqrt((parts**2).mean(axis=1, keepdims=True)), SHORTEST)
        codes = np.searchsorted((_LEVELS[bits][1:] + _LEVELS[bits][:-1]) / 2, parts / deviation)
        packed += np.packbits(codes[..., None] >> np.arange(bits) & 1).tobytes()
    return b64encode(_digest(space, d, passages) + bytes([bits]) + packed).decode("ascii")


def unpack(text: object, space: str, d: int, passages: list[Passage]) -> np.ndarray | None:
    """
    Read what `pack` wrote.

    :param text:
        The text, or anything else that a document's metadata has in its place.
    :param space:
        Of the student that asks.
    :param d:
        Its dimension.
    :param passages:
        The document's.
    :returns:
        The vectors of passages and, if they are kept, sentences, `[n, d]`, of length 1. None if these are not of this
        student, or not of this document as it is.
    """
    if not isinstance(text, str):
        return None
    try:
        packed = b64decode(text, validate=True)
    except ValueError:
        return None
    start = _DIGEST + 1
    end = start + len(passages) * d
    if packed[:_DIGEST] != _digest(space, d, passages) or len(packed) < end:
        return None
    whole = np.frombuffer(packed[start:end], np.int8).reshape(-1, d).astype(np.float32)
    bits = packed[_DIGEST]
    n = 8 * (len(packed) - end) // (bits * d)
    flags = np.unpackbits(np.frombuffer(packed, np.uint8, offset=end), count=n * d * bits)
    codes = (flags.reshape(n, d, bits) << np.arange(bits, dtype=np.uint8)).sum(axis=2)
    return unit(np.concatenate([whole, _LEVELS[bits][codes]]))


def _digest(space: str, d: int, passages: list[Passage]) -> bytes:
    """Tell vectors of another student or another text, whoever changed it between the index and the answer."""
    parts = chain((space, str(d)), (part for p in passages[:1] for part in (p.title, p.content)))
    return blake2b("\0".join(parts).encode(errors="replace"), digest_size=_DIGEST).digest()
