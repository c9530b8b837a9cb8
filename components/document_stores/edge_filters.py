# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Haystack filters as Qdrant Edge filters.

The engine and Haystack disagree in places. A condition on a list holds for the engine if it holds for any element; for
Haystack the list is compared as a whole. A date without a time zone is UTC for the engine; for Haystack it takes the
other date's zone, and Haystack reads more ways of writing one. So each filter becomes a native one that lets every
matching document through and, only where that one lets others through as well, a check in Python of what came back.
"""

import operator
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from dateutil.parser import isoparse
from haystack import Document
from haystack.errors import FilterError
from haystack.utils.filters import COMPARISON_OPERATORS, LOGICAL_OPERATORS, document_matches_filter
from qdrant_edge import (
    FieldCondition,
    Filter,
    IsEmptyCondition,
    MatchAny,
    MatchValue,
    RangeDateTime,
    RangeFloat,
)

from .edge_documents import as_kept

ORDER: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    ">": ("gt", operator.gt),
    ">=": ("gte", operator.ge),
    "<": ("lt", operator.lt),
    "<=": ("lte", operator.le),
}
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_DEPTH = 64  # levels of conditions; at some hundreds Python gives up, and with a higher limit the process ends
_NOT_STORED = ("score", "embedding", "sparse_embedding")
_SMALLEST_KEPT = 1e-8
_LARGEST_EXACT_INTEGER = 2**53  # the engine compares numbers as float64
_LARGEST_ZONE_SHIFT = timedelta(days=1)
_EVER = RangeDateTime(gte="0001-01-01")


class _Native(NamedTuple):
    condition: Filter
    exact: bool


_ANYTHING = _Native(Filter(), exact=False)
_NOTHING = _Native(Filter(must_not=[Filter()]), exact=True)


def convert_filters(filters: dict[str, Any] | None) -> tuple[Filter | None, Callable[[Document], bool] | None]:
    """
    Convert Haystack filters.

    :param filters:
        The filters, see Haystack's documentation of metadata filtering.
    :returns:
        The native filter, and the check that a document which passes it still needs (`None`: none).
    :raises FilterError:
        If the filters are malformed.
    """
    if not filters:
        return None, None
    native = _convert(filters)
    filters = as_kept(filters)
    return native.condition, None if native.exact else partial(document_matches, filters)


def document_matches(filters: dict[str, Any], document: Document) -> bool:
    """
    Evaluate filters in Python.

    Unlike Haystack's function a value that cannot be compared makes its condition false, as in the engine, instead of
    failing the whole query.

    :param filters:
        Well-formed Haystack filters.
    :param document:
        The document.
    :returns:
        Whether the document matches.
    """
    if "field" in filters:
        try:
            return document_matches_filter(filters, document)
        except (FilterError, TypeError):
            return False
    results = (document_matches(condition, document) for condition in filters["conditions"])
    if filters["operator"] == "OR":
        return any(results)
    return all(results) == (filters["operator"] == "AND")


def _convert(filters: dict[str, Any], room: int = _DEPTH) -> _Native:
    if not room:
        msg = f"Filters are nested more than {_DEPTH} levels deep: join their conditions."
        raise FilterError(msg)
    if not isinstance(filters, dict):
        msg = f"Filters must be dictionaries, got {filters!r}"
        raise FilterError(msg)
    return _comparison(filters) if "field" in filters else _logic(filters, room)


def _require(filters: dict[str, Any], key: str) -> Any:
    if key not in filters:
        msg = f"'{key}' key missing in {filters}"
        raise FilterError(msg)
    return filters[key]


def _logic(filters: dict[str, Any], room: int) -> _Native:
    logical = _require(filters, "operator")
    parts = [_convert(condition, room - 1) for condition in _require(filters, "conditions")]
    if logical not in LOGICAL_OPERATORS:
        msg = f"Unknown logical operator '{logical}'. Valid operators are: {sorted(LOGICAL_OPERATORS)}"
        raise FilterError(msg)
    if logical == "OR":
        return _any_of(parts)
    native = _Native(Filter(must=[part.condition for part in parts]), all(part.exact for part in parts))
    return native if logical == "AND" else _negated(native)


def _any_of(parts: list[_Native]) -> _Native:
    if not parts:  # the engine takes an empty list of alternatives for no condition at all
        return _NOTHING
    return _Native(Filter(should=[part.condition for part in parts]), all(part.exact for part in parts))


def _negated(native: _Native) -> _Native:
    # What lets too much through lets too little through once it is negated.
    return _Native(Filter(must_not=[native.condition]), exact=True) if native.exact else _ANYTHING


def _comparison(filters: dict[str, Any]) -> _Native:
    field, comparison, value = (_require(filters, key) for key in ("field", "operator", "value"))
    value = as_kept(value)
    if comparison not in COMPARISON_OPERATORS:
        msg = f"Unknown comparison operator '{comparison}'. Valid operators are: {sorted(COMPARISON_OPERATORS)}"
        raise FilterError(msg)
    if field in _NOT_STORED:
        msg = f"Documents cannot be filtered by '{field}', only by id, content, blob and meta."
        raise FilterError(msg)
    path = payload_path(field)
    if comparison in ORDER:
        return _ordered(path, comparison, value)
    if comparison in ("==", "!="):
        value = [value]
    elif not isinstance(value, list):
        msg = f"The value of operator '{comparison}' must be a list, got {value!r}"
        raise FilterError(msg)
    native = _one_of(path, value)
    return native if comparison in ("==", "in") else _negated(native)


def payload_path(field: str) -> str | None:
    """
    Return Qdrant's path of a field; None if it has none, so that only Python can look it up.
    """
    root, *keys = field.split(".")
    if not keys and root in ("id", "content"):
        return root
    if not keys and root not in ("meta", "blob"):
        root, keys = "meta", [root]  # as Haystack reads a name that is no field of a document
    if root != "meta" or not keys or any('"' in key or "\\" in key for key in keys):
        return None
    return ".".join(["meta", *(key if _PLAIN.fullmatch(key) else f'"{key}"' for key in keys)])


def _one_of(path: str | None, values: list[Any]) -> _Native:
    if path is None:
        return _ANYTHING
    parts: list[_Native] = []
    if strings := [value for value in values if isinstance(value, str)]:
        parts.append(_Native(_scalar(path, match=MatchAny(strings)), exact=True))
    for value in values:
        if value is None:  # empty lists are empty too
            parts.append(_Native(Filter(must=[IsEmptyCondition(path)]), exact=False))
        elif _is_number(value):
            limits = RangeFloat(gte=float(value), lte=float(value))
            parts.append(_Native(_number(path, limits, partial(operator.eq, value)), exact=True))
        elif (moment := as_datetime(value)) is not None:
            parts.append(_moment(path, after=moment, before=moment))
        elif not isinstance(value, str):
            return _ANYTHING
    return _any_of(parts)


def _ordered(path: str | None, comparison: str, value: Any) -> _Native:
    bound, holds = ORDER[comparison]
    if value is None:  # Haystack: nothing is greater or less than None
        return _NOTHING
    if isinstance(value, Real):
        if path is None or not _is_number(value):
            return _ANYTHING
        limits = RangeFloat(**{bound: float(value)})
        return _Native(_number(path, limits, lambda flag: holds(flag, value)), exact=True)
    moment = as_datetime(value)
    if moment is None:
        msg = f"Operator '{comparison}' compares numbers and ISO 8601 dates, got {value!r}"
        raise FilterError(msg)
    if path is None:
        return _ANYTHING
    return _moment(path, after=moment) if bound in ("gt", "gte") else _moment(path, before=moment)


def _scalar(path: str, **condition: Any) -> Filter:
    """
    Build a condition that no list fulfils by one of its elements.
    """
    return Filter(must=[FieldCondition(path, **condition)], must_not=[FieldCondition(f"{path}[]", **condition)])


def _number(path: str, limits: RangeFloat, holds: Callable[[bool], bool]) -> Filter:
    """
    Build a condition on numbers; in Python, hence in Haystack, booleans are numbers too.
    """
    # MatchValue(True) is taken for the integer 1 by the bindings and then matches no boolean. NumPy's passes.
    flags: list[Any] = [np.bool_(flag) for flag in (False, True) if holds(flag)]
    return Filter(should=[_scalar(path, range=limits), *(_scalar(path, match=MatchValue(flag)) for flag in flags)])


def _is_number(value: Any) -> bool:
    # Of smaller ones the engine does not keep 15 digits.
    return isinstance(value, Real) and bool(value == 0 or _SMALLEST_KEPT <= abs(value) < _LARGEST_EXACT_INTEGER)  # type: ignore[operator]


def as_datetime(value: Any) -> datetime | None:
    """Read a date as Haystack does; None if it is none."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        try:
            return isoparse(value)  # as Haystack: it knows 24:00
        except (ValueError, OverflowError):
            return None


def _moment(path: str, *, after: datetime | None = None, before: datetime | None = None) -> _Native:
    """
    Build a condition on dates that is wide enough for every time zone, and passes what the engine reads as no date.
    """
    try:
        limits = RangeDateTime(
            gte=(after.replace(tzinfo=None) - _LARGEST_ZONE_SHIFT).isoformat() if after else None,
            lte=(before.replace(tzinfo=None) + _LARGEST_ZONE_SHIFT).isoformat() if before else None,
        )
    except OverflowError:  # the first or the last day of the calendar
        return _ANYTHING
    unread = Filter(must_not=[IsEmptyCondition(path), FieldCondition(path, range=_EVER)])
    return _Native(Filter(should=[FieldCondition(path, range=limits), unread]), exact=False)
