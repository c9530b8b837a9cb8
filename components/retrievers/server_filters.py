# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Haystack filters as filters of a Qdrant server, with the outcome that they have on a folder.

qdrant-haystack's own converter drops a condition on no value (`in []` finds every document), takes `NOT` for "none of
these", and knows neither null, floats nor names without `meta.`. Three things stay the server's: a condition on a list
holds if it holds for any element, a date without a time zone is UTC, and dates are compared if they are written as
2024-01-31, alone or with a time of day below 24:00.
"""

import math
import operator
import re
from collections.abc import Callable
from datetime import datetime
from functools import partial
from numbers import Real
from typing import Any

from haystack.errors import FilterError
from qdrant_client.http.models import (
    Condition,
    DatetimeRange,
    FieldCondition,
    Filter,
    HasIdCondition,
    IsEmptyCondition,
    MatchAny,
    MatchValue,
    PayloadField,
    Range,
)

from haystack_integrations.document_stores.retort.edge_filters import ORDER, as_datetime, convert_filters, payload_path

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([Tt ]|$)")  # what Haystack takes for one where it asks for equality
_LARGEST_EXACT_INTEGER = 2**53  # ranges compare float64
_NOBODY = HasIdCondition(has_id=[])


def convert_server_filters(filters: dict[str, Any] | Filter | None) -> Filter | None:
    """
    Convert Haystack filters.

    :param filters:
        The filters; native ones stay as they are.
    :returns:
        The native filter.
    :raises FilterError:
        If the filters are malformed, or compare with what a server cannot compare: a list as a whole, a dictionary.

    ```python
    convert_server_filters({"field": "meta.topic", "operator": "in", "value": []})  # a filter that no document passes
    ```
    """
    if isinstance(filters, Filter):
        return filters
    if not filters:
        return None
    convert_filters(filters)  # what is malformed is refused as by a folder
    return Filter(must=[_convert(filters)])


def _convert(filters: dict[str, Any]) -> Condition:
    if "field" in filters:
        return _comparison(_path(filters["field"]), filters["operator"], filters["value"])
    parts = [_convert(condition) for condition in filters["conditions"]]
    if filters["operator"] == "OR":
        return _any_of(parts)
    whole = Filter(must=parts) if parts else _not(_NOBODY)
    return whole if filters["operator"] == "AND" else _not(whole)


def _any_of(parts: list[Condition]) -> Filter:
    return Filter(should=parts) if parts else Filter(must=[_NOBODY])


def _not(condition: Condition) -> Filter:
    return Filter(must_not=[condition])


def _path(field: str) -> str:
    path = payload_path(field)
    if path is None:
        msg = f"A Qdrant server cannot filter by {field!r}: name id, content or a field of meta, without quotes."
        raise FilterError(msg)
    return path


def _comparison(path: str, comparison: str, value: Any) -> Condition:
    if comparison in ORDER:
        return _ordered(path, *ORDER[comparison], value)
    values = [value] if comparison in ("==", "!=") else value
    texts = [one for one in values if isinstance(one, str)]
    parts: list[Condition] = [_field(path, match=MatchAny(any=texts))] if texts else []
    moments = [as_datetime(one) for one in texts if _DATE.match(one)]
    parts += [_at(path, moment) for moment in moments if moment is not None]
    parts += [_equal(path, one) for one in values if not isinstance(one, str)]
    return _any_of(parts) if comparison in ("==", "in") else _not(_any_of(parts))


def _equal(path: str, value: Any) -> Condition:
    if value is None:
        return IsEmptyCondition(is_empty=PayloadField(key=path))
    if isinstance(value, int) and abs(value) > _LARGEST_EXACT_INTEGER:
        return _field(path, match=MatchValue(value=value))
    if isinstance(value, Real):
        number = _finite(value)
        return _number(path, Range(gte=number, lte=number), partial(operator.eq, value))
    if isinstance(value, datetime):
        return _at(path, value)
    msg = f"A Qdrant server cannot compare with {value!r}: give a text, a number, true, false or null."
    raise FilterError(msg)


def _ordered(path: str, bound: str, holds: Callable[[Any, Any], bool], value: Any) -> Condition:
    if value is None:  # Haystack: nothing is greater or less than None
        return _NOBODY
    if isinstance(value, Real):
        limits = Range(**{bound: _finite(value)})
        return _number(path, limits, lambda flag: holds(flag, value))
    return _field(path, range=DatetimeRange(**{bound: as_datetime(value)}))


def _field(path: str, **condition: Any) -> FieldCondition:
    return FieldCondition(key=path, **condition)


def _number(path: str, limits: Range, holds: Callable[[bool], bool]) -> Condition:
    """Build a condition on numbers; in Python, hence in Haystack, booleans are numbers too."""
    flags: list[Condition] = [_field(path, match=MatchValue(value=flag)) for flag in (False, True) if holds(flag)]
    return Filter(should=[_field(path, range=limits), *flags]) if flags else _field(path, range=limits)


def _at(path: str, moment: datetime) -> Condition:
    return _field(path, range=DatetimeRange(gte=moment, lte=moment))


def _finite(value: Any) -> float:
    if not math.isfinite(value):
        msg = f"A Qdrant server cannot compare with {value!r}: it is no number."
        raise FilterError(msg)
    return float(value)
