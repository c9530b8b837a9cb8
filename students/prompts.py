# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Prompts of well-known models whose folders do not name them."""

import logging
import re
from pathlib import Path

from retort.students.towers import Side

logger = logging.getLogger(__name__)

# By what the name of a folder or Hub id contains; as the models' own cards say.
_KNOWN: list[tuple[str, dict[Side, str]]] = [
    (r"\be5[-_](?!.*instruct)", {"query": "query: ", "document": "passage: "}),
    (r"\bbge-(small|base|large)-en", {"query": "Represent this sentence for searching relevant passages: "}),
    (r"\bnomic-embed-text", {"query": "search_query: ", "document": "search_document: "}),
]
_warned: set[tuple[str, Side]] = set()


def known_prompt(model: str, side: Side) -> str:
    """
    Return the prompt that a model was trained with, as far as its name tells.

    :param model:
        Its name: a folder or a Hub id.
    :param side:
        `query` or `document`.
    :returns:
        The prompt; '' if the name says nothing.
    """
    own = Path(model).name.lower()
    return next((prompts.get(side, "") for pattern, prompts in _KNOWN if re.search(pattern, own)), "")


def warn_of_missing(model: str, side: Side) -> None:
    """Warn, once, of a model that is used without the prompt that its name calls for."""
    prompt = known_prompt(model, side)
    if prompt and (model, side) not in _warned:
        _warned.add((model, side))
        message = (
            "%s names no prompt for its %s side, and models of this name want %r: they find less without. Save it with "
            "prompts (`create.pretrained(MODEL, prompts=...)`), or set `prefix` of the embedders."
        )
        logger.warning(message, model, side, prompt)
