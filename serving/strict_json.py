# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""JSON from outside, without what one parser lets through and the next one breaks on."""

import json
import math
from typing import Any

LEVELS = 64
LARGEST = 2**63


def parse(body: bytes) -> Any:
    """
    Parse JSON that all further on can work with.

    :param body:
        What was sent, in UTF-8, UTF-16 or UTF-32.
    :returns:
        The value. Its texts may hold halves of surrogate pairs.
    :raises ValueError:
        If it is no JSON, has a key twice, a number that is not finite or an integer beyond 64 bits, or is nested more
        than `LEVELS` deep.
    """
    try:
        value = json.loads(
            body, parse_constant=_constant, parse_float=_float, parse_int=_int, object_pairs_hook=_unique
        )
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level = [value]
    for _ in range(LEVELS):
        level = [
            item
            for node in level
            if isinstance(node, dict | list)
            for item in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return value
    raise ValueError(_TOO_DEEP)


_TOO_DEEP = f"it is nested more than {LEVELS} levels deep"


def _constant(text: str) -> float:
    msg = f"{text} is no number"
    raise ValueError(msg)


def _float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        msg = f"the number {text[:30]} is too large"
        raise ValueError(msg)
    return value


def _int(text: str) -> int:
    # The length first: Python takes minutes for millions of digits, or refuses them in words of its own.
    if len(text) > len(str(LARGEST)) + 1 or not -LARGEST <= (value := int(text)) < LARGEST:
        msg = f"the integer {text[:30]} has more than 64 bits"
        raise ValueError(msg)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, item in pairs:
        if name in value:
            msg = f"the key {name[:30]!a} stands twice in one object"
            raise ValueError(msg)
        value[name] = item
    return value
