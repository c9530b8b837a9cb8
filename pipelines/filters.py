# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Filters as people write them (`topic=cats`), and a check of those that come from outside."""

import json
import re
from collections.abc import Sequence
from typing import Any

from haystack.errors import FilterError

from haystack_integrations.document_stores.retort.edge_filters import convert_filters
from retort.students import STAMP_PREFIX
from retort.students.checks import HALF, has_half

_TEXTS = ("id", "content")  # fields of a document whose values are texts
_DEPTH = 64  # levels, as document stores have it
_OPERATORS = {"=": "==", "==": "==", "!=": "!=", ">": ">", ">=": ">=", "<": "<", "<=": "<="}
_CONDITION = re.compile(r"\s*(?P<field>[^=!<>\s]+)\s*(?P<operator>==|!=|>=|<=|=|>|<)(?P<value>.*)", re.DOTALL)
_WHAT = 'Write FIELD=VALUE (also != > >= < <=), such as topic=cats, or a filter of Haystack: {"field": ...}.'


def parse_filters(conditions: Sequence[str]) -> dict[str, Any] | None:
    """
    Read filters as people write them.

    :param conditions:
        Each `FIELD=VALUE` (also `!=`, `>`, `>=`, `<`, `<=`), or a Haystack filter in JSON. A document must meet all. A
        field without a dot is one of the metadata, but for `id` and `content`. A value that is JSON is what it says:
        `3`, `true`, `null`, `["a", "b"]` (one of them; with `!=` none of them); all else is a text. Those of `id` and
        `content` are texts, numbers as well.
    :returns:
        Haystack filters; None for no condition.
    :raises FilterError:
        If a condition is malformed.
    """
    parsed = [_parse(condition) for condition in conditions if condition.strip()]
    if not parsed:
        return None
    return parsed[0] if len(parsed) == 1 else {"operator": "AND", "conditions": parsed}


def _parse(text: str) -> dict[str, Any]:
    _refuse_halves(text)
    if text.lstrip().startswith("{"):
        try:
            filters = json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            msg = f"{_shortened(text)} is no JSON: {error}. {_WHAT}"
            raise FilterError(msg) from error
        check_filters(filters)
        return dict(filters)
    match = _CONDITION.fullmatch(text)
    if match is None:
        msg = f"{_shortened(text)} is no condition. {_WHAT}"
        raise FilterError(msg)
    field, operator = match["field"], _OPERATORS[match["operator"]]
    value = (_text_value if field in _TEXTS else _value)(match["value"].strip())
    if isinstance(value, list):
        operator = {"==": "in", "!=": "not in"}.get(operator, operator)
    found = {"field": field if "." in field or field in _TEXTS else f"meta.{field}"}
    found |= {"operator": operator, "value": value}
    check_filters(found)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return text


def _text_value(text: str) -> Any:
    """Read the value of a field of texts: a text, null or a list of these; numbers stay as they are written."""
    value = _value(text)
    if isinstance(value, list):
        items = json.loads(text, parse_int=str, parse_float=str)
        return [json.dumps(item) if isinstance(item, bool) else item for item in items]
    return value if value is None or isinstance(value, str) else text


def _no_number(text: str) -> float:
    msg = f"{text} is no number"
    raise ValueError(msg)


def check_filters(filters: Any) -> None:
    """
    Check filters that come from outside, before anything is asked.

    :param filters:
        What should be Haystack filters.
    :raises FilterError:
        If they are malformed, hold what is no character, or ask for what an index keeps for itself.
    """
    _refuse_halves(filters)
    todo = [(filters, 1)]
    while todo:
        node, depth = todo.pop()
        if not isinstance(node, dict):
            msg = f"A filter is an object, not {_shortened(json.dumps(node))}. {_WHAT}"
            raise FilterError(msg)
        if depth > _DEPTH:
            msg = f"Filters are nested more than {_DEPTH} levels deep: join their conditions."
            raise FilterError(msg)
        if "field" in node:
            keys: dict[str, type] = {"field": str, "operator": str}
            if "value" not in node:
                msg = f"A condition needs a value: {_shortened(json.dumps(node))}."
                raise FilterError(msg)
        else:
            keys = {"operator": str, "conditions": list}
        for key, kind in keys.items():
            if not isinstance(node.get(key), kind):
                wanted = "a text" if kind is str else "a list"
                msg = f"A filter's {key!r} must be {wanted}: {_shortened(json.dumps(node))}. {_WHAT}"
                raise FilterError(msg)
        if STAMP_PREFIX in node.get("field", ""):
            msg = f"No filter may name {_shortened(node['field'])}: keys with {STAMP_PREFIX} are the index's own."
            raise FilterError(msg)
        todo.extend((condition, depth + 1) for condition in node.get("conditions", ()) if "field" not in node)
    convert_filters(filters)


def _refuse_halves(filters: Any) -> None:
    todo = [filters]
    while todo:
        part = todo.pop()
        if isinstance(part, str) and has_half(part):
            msg = f"{_shortened(ascii(part))} holds {HALF}. Write it in UTF-8 (a terminal's encoding: see `locale`)."
            raise FilterError(msg)
        if isinstance(part, dict):
            todo += [*part, *part.values()]
        elif isinstance(part, list):
            todo += part


def _shortened(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}..."  # noqa: PLR2004
