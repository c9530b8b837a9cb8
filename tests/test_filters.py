# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Filters as people write them, and those that come from outside."""

import json

import pytest
from haystack.errors import FilterError

from retort.pipelines.filters import check_filters, parse_filters


def condition(field, operator, value):
    return {"field": field, "operator": operator, "value": value}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("topic=cats", condition("meta.topic", "==", "cats")),
        (" topic == big cats ", condition("meta.topic", "==", "big cats")),
        ("topic!=cats", condition("meta.topic", "!=", "cats")),
        ("year>=2020", condition("meta.year", ">=", 2020)),
        ("year < 2020.5", condition("meta.year", "<", 2020.5)),
        ("day>2024-01-31", condition("meta.day", ">", "2024-01-31")),
        ("meta.author.name=Ann", condition("meta.author.name", "==", "Ann")),
        ("id=a", condition("id", "==", "a")),
        ("id=1", condition("id", "==", "1")),
        ("id!=007", condition("id", "!=", "007")),
        ('id="1"', condition("id", "==", "1")),
        ("id=true", condition("id", "==", "true")),
        ("id=null", condition("id", "==", None)),
        ('id=[1, 2.50, "a", null, true]', condition("id", "in", ["1", "2.50", "a", None, "true"])),
        ("content!=[3]", condition("content", "not in", ["3"])),
        ("content=3", condition("content", "==", "3")),
        ("done=true", condition("meta.done", "==", True)),
        ("end=null", condition("meta.end", "==", None)),
        ('code="3"', condition("meta.code", "==", "3")),
        ('topic=["cats", "dogs"]', condition("meta.topic", "in", ["cats", "dogs"])),
        ('topic!=["cats"]', condition("meta.topic", "not in", ["cats"])),
        ("url=http://a/b?c=d", condition("meta.url", "==", "http://a/b?c=d")),
        ("grade=NaN", condition("meta.grade", "==", "NaN")),
        ("topic=", condition("meta.topic", "==", "")),
        ('{"field": "meta.topic", "operator": "in", "value": ["a"]}', condition("meta.topic", "in", ["a"])),
    ],
)
def test_conditions(text, expected):
    assert parse_filters([text]) == expected


def test_all_must_hold():
    assert parse_filters(["a=1", " ", "b=2"]) == {
        "operator": "AND",
        "conditions": [condition("meta.a", "==", 1), condition("meta.b", "==", 2)],
    }
    assert parse_filters([]) is None


@pytest.mark.parametrize("text", ["topic", "=cats", "two words=cats", "topic~cats", "{", '{"field": NaN}', "{" * 5000])
def test_what_is_no_condition(text):
    with pytest.raises(FilterError, match=r"Write FIELD=VALUE"):
        parse_filters([text])


@pytest.mark.parametrize("text", ["topic=caf\udce9", "caf\udce9=1", 'topic="\\ud83d"', "\ud83d", '{"\udce9": '])
def test_what_is_no_character(text):
    with pytest.raises(FilterError, match=r"holds half of a surrogate pair, .* Write it in UTF-8") as error:
        parse_filters([text])
    str(error.value).encode()


NESTED = condition("meta.a", "==", 1)
for _ in range(64):
    NESTED = {"operator": "NOT", "conditions": [NESTED]}


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ([], "A filter is an object"),
        ("topic=cats", "A filter is an object"),
        ({}, "A filter's 'operator' must be a text"),
        ({"operator": "AND"}, "A filter's 'conditions' must be a list"),
        ({"operator": "AND", "conditions": "abc"}, "A filter's 'conditions' must be a list"),
        ({"operator": "AND", "conditions": [1]}, "A filter is an object, not 1"),
        ({"operator": "XOR", "conditions": []}, "Unknown logical operator 'XOR'"),
        ({"field": 5, "operator": "==", "value": 1}, "A filter's 'field' must be a text"),
        ({"field": "meta.a", "operator": ["=="], "value": 1}, "A filter's 'operator' must be a text"),
        ({"field": "meta.a", "operator": "==", "values": 1}, "A condition needs a value"),
        (condition("meta.a", "like", 1), "Unknown comparison operator 'like'"),
        (condition("meta.a", "in", "abc"), "must be a list"),
        (condition("meta.a", ">", "abc"), "compares numbers and ISO 8601 dates"),
        (condition("meta._retort_root", "==", "/home"), "are the index's own"),
        (condition("_retort_root", "!=", "/home"), "are the index's own"),
        (condition('meta."_retort_root"', ">", 1), "are the index's own"),
        ({"operator": "NOT", "conditions": [condition("meta._retort_file", "in", [])]}, "are the index's own"),
        (condition("meta.\ud83d", "==", 1), "holds half of a surrogate pair"),
        (condition("meta.a", "\ud83d", 1), "holds half of a surrogate pair"),
        (condition("meta.a", "in", ["a", "\ud83d"]), "holds half of a surrogate pair"),
        ({"operator": "NOT", "conditions": [condition("id", "==", "\ud83d")]}, "holds half of a surrogate pair"),
        (NESTED, "nested more than 64 levels deep"),
    ],
)
def test_what_is_no_filter(filters, message):
    with pytest.raises(FilterError, match=message):
        check_filters(filters)
    with pytest.raises(FilterError):
        parse_filters([json.dumps(filters) if isinstance(filters, dict) else "["])
