# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Documents seen through questions that they answer: one text a question, each a view of the document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from retort.students.files import read_json, reading
from retort.students.vectors import unit

QUERY_TOKENS = 16  # a long question would leave no room for the document

Combine = Literal["max", "mean"]
Place = Literal["before", "after"]


@dataclass(frozen=True, kw_only=True)
class ViewRule:
    """
    How a student sees a document and its questions. Its manifest keeps the rule as `views`: it is served as measured.

    :param most:
        Views of a document, at most; 0: the document alone.
    :param query_tokens:
        Cut questions after so many tokens.
    :param question:
        The question stands `before` the document or `after` it.
    :param combine:
        `max`: a document has a vector for each view, and the best of their scores. `mean`: it has one vector, their
        mean.
    :raises ValueError:
        If a value is out of its range.

    ```python
    rule = ViewRule(most=3, combine="mean")
    ```
    """

    most: int = 10
    query_tokens: int = QUERY_TOKENS
    question: Place = "before"
    combine: Combine = "max"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.most < 0 or self.query_tokens < 1:
            msg = f"views must be at least 0 and query_tokens above 0; they are {self.most} and {self.query_tokens}."
            raise ValueError(msg)
        for name, value, known in (
            ("question", self.question, get_args(Place)),
            ("combine", self.combine, get_args(Combine)),
        ):
            if value not in known:
                msg = f"{name} must be one of {', '.join(known)}; it is {value!r}."
                raise ValueError(msg)

    @classmethod
    def of(cls, views: Mapping[str, Any]) -> ViewRule:
        """Read a manifest's `views`; unknown fields are ignored, and those of old manifests have their defaults."""
        return cls(**{f.name: views[f.name] for f in fields(cls) if f.name in views})

    def texts(self, tokenizer: Any, questions: Sequence[str], document: str, room: int | None = None) -> list[str]:
        """
        List a document's views, one for each of its first questions; without any the document as it is.

        :param tokenizer:
            Of transformers, or a `PlainTokenizer`; its separator stands between a question and a document.
        :param questions:
            The questions, best first; each is cut after its first `query_tokens` tokens.
        :param document:
            The document.
        :param room:
            Tokens that the model reads (see `room_of`): a document before the question is cut so that this fits. None
            cuts nothing.
        :raises ValueError:
            If the tokenizer has no separator.
        """
        asked = [q for q in dict.fromkeys(questions) if q.strip()][: self.most]
        if not asked:
            return [document]
        if tokenizer.sep_token is None:
            msg = "The model's tokenizer has no separator token to put between a question and a document."
            raise ValueError(msg)
        separator, found = f" {tokenizer.sep_token} ", []
        ends = [] if self.question == "before" or room is None else _ends(tokenizer, document)
        for question in asked:
            own = _ends(tokenizer, question)
            before, after = _cut(question, own, self.query_tokens), document
            if self.question == "after":
                left = len(ends) if room is None else max(1, room - min(len(own), self.query_tokens) - 1)
                before, after = _cut(document, ends, left), before
            found.append(before + separator + after)
        return found

    def text(self, tokenizer: Any, question: str, document: str, room: int | None = None) -> str:
        """Give the view of one question; the document as it is where that is empty."""
        return replace(self, most=1).texts(tokenizer, [question], document, room)[0]


class PlainTokenizer:
    """
    What views need of a student's tokenizer, read without transformers.

    :param folder:
        The student's folder.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        words, mend = folder / "tokenizer.json", "Restore it, or save the student again."
        with reading(words, mend):
            self._tokenizer = Tokenizer.from_file(str(words))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        config = folder / "tokenizer_config.json"
        separator = read_json(config, mend).get("sep_token") if config.is_file() else None  # not of a table
        self.sep_token: str | None = separator["content"] if isinstance(separator, dict) else separator

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        """Tokenise a text without special tokens."""
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return {"input_ids": encoded.ids, "offset_mapping": encoded.offsets}

    def num_special_tokens_to_add(self) -> int:
        """Count the special tokens of a text."""
        return int(self._tokenizer.num_special_tokens_to_add(is_pair=False))


def _ends(tokenizer: Any, text: str) -> list[int]:
    """List where the tokens of a text end."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return [end for _, end in offsets]


def _cut(text: str, ends: list[int], most: int) -> str:
    """Cut a text after its first tokens, which end there."""
    return text if len(ends) <= most else text[: ends[most - 1]]


def room_of(tokenizer: Any, max_tokens: int | None, prompt: str = "") -> int | None:
    """
    Count the tokens of a document that a model reads, special ones and the prompt's not among them.

    :param tokenizer:
        Of transformers.
    :param max_tokens:
        Where the model cuts documents; None: it does not.
    :param prompt:
        What stands before each document.
    :returns:
        None where there is no limit.
    """
    if max_tokens is None:
        return None
    before = len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) if prompt else 0
    return max_tokens - int(tokenizer.num_special_tokens_to_add()) - before


def mean_of_views(vectors: np.ndarray, starts: np.ndarray, similarity: str) -> np.ndarray:
    """
    Average the vectors of each document's views.

    :param vectors:
        `[m, d]`, the views of a document next to each other.
    :param starts:
        `[n]` ascending, where those of each document begin; each has one at least.
    :param similarity:
        `cosine`: means are divided by their lengths, which would else depend on how much the views differ.
    :returns:
        `[n, d]` float32.
    """
    counts = np.diff(np.append(starts, len(vectors)))
    means = np.add.reduceat(vectors, starts, axis=0) / counts[:, None]
    if similarity == "cosine":
        means = unit(means)
    return means.astype(np.float32)
