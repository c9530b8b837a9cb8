# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
The YAML of recipes, as YAML 1.2 reads it, in trees whose nodes know their file and line.

`5e-5` is a number here, `no` and `2024-08-06` are text. PyYAML itself reads YAML 1.1.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import yaml
from yaml.nodes import MappingNode, ScalarNode, SequenceNode

from retort.students.redaction import redacted
from retort.trainers.runtime.errors import RecipeError

Place = tuple[str | int, ...]

_DEEPEST = 64  # levels of lists and mappings
_MOST_VALUES = 100_000  # with all that anchors repeat

_INT = re.compile(r"[-+]?[0-9]+$")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")
_BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)$")
_PLAIN = {str, int, float, bool, NoneType}
_YAML_1_1 = {f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "timestamp", "value")}


@dataclass(frozen=True)
class Node:
    """
    A value of a recipe, and where it was written.

    :param value:
        A plain value; of a mapping or a list the values are nodes.
    :param mark:
        `FILE:LINE`, or `--set TEXT`; empty if it comes from Python.
    """

    value: Any
    mark: str = ""


class _Loader(yaml.SafeLoader):
    """Constructs nodes, and refuses keys that stand twice in one mapping."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way
        first: [pair for pair in pairs if pair[0] not in _YAML_1_1]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if (name := str(key.value)) in lines:
                msg = f"{self.mark(key)}: {name}: the key is on line {lines[name]} already."
                raise RecipeError(msg)
            lines[name] = key.start_mark.line + 1
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Say where a value stands that is not what its tag says, such as `!!int foo`."""
        try:
            return super().construct_object(node, deep)
        except (AttributeError, LookupError, TypeError, ValueError) as error:  # PyYAML's own readers raise all of them
            problem = f"a value cannot be read as {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error

    def measure(self, node: Any, around: tuple[int, ...], known: dict[int, tuple[int, int]]) -> tuple[int, int]:
        """Count values and levels, anchored ones wherever they are used; refuse what never ends, or only far away."""
        if isinstance(node, ScalarNode):
            return 1, 0
        if id(node) in around:
            msg = f"{self.mark(node)}: an anchor holds itself."
            raise RecipeError(msg)
        if id(node) not in known and len(around) < _DEEPEST:
            items = node.value if isinstance(node, SequenceNode) else [item for pair in node.value for item in pair]
            inner = [self.measure(item, (*around, id(node)), known) for item in items]
            known[id(node)] = 1 + sum(size for size, _ in inner), 1 + max((levels for _, levels in inner), default=0)
        size, levels = known.get(id(node), (1, 1))
        if len(around) + levels > _DEEPEST:
            msg = f"{self.mark(node)}: lists and mappings may nest {_DEEPEST} levels deep; there are more."
            raise RecipeError(msg)
        if size > _MOST_VALUES:
            msg = f"{self.mark(node)}: a recipe may hold {_MOST_VALUES:,} values; anchors make more of it."
            raise RecipeError(msg)
        return size, levels

    def mark(self, node: Any) -> str:
        return self.name if self.name.startswith("--set ") else f"{self.name}:{node.start_mark.line + 1}"

    def mapping(self, node: MappingNode) -> dict[Any, Node]:
        tree = self.construct_mapping(node, deep=True)  # also puts what `<<` merges in its place
        marks = {self.construct_object(key): self.mark(key) for key, _ in node.value}
        return {key: Node(value, marks[key]) for key, value in tree.items()}

    def sequence(self, node: SequenceNode) -> list[Node]:
        return [Node(self.construct_object(item, deep=True), self.mark(item)) for item in node.value]


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would not read as text, and writes no anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


for _tag, _pattern, _first in (
    ("bool", _BOOL, "tTfF"),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
):
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.mapping)
_Loader.add_constructor("tag:yaml.org,2002:seq", _Loader.sequence)


class PlacedRecipeError(RecipeError):
    """
    Something wrong at a place of a recipe, before it is said in which file.

    :param place:
        Keys and indexes that lead there.
    :param message:
        What is wrong.
    """

    def __init__(self, place: Iterable[str | int], message: str) -> None:
        self.place: Place = tuple(place)
        super().__init__(f"{dotted(self.place)}: {message}" if self.place else message)


class LocatedRecipeError(RecipeError):
    """Something wrong in a recipe; the message begins with file and line."""


def dotted(place: Iterable[str | int]) -> str:
    """Write a place as `--set` does: `stages.0.steps`."""
    return ".".join(map(str, place))


def hint(name: str, known: Iterable[str]) -> str:
    """Say which of the known names is nearest, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known) or 'none'}."


def read_nodes(text: str, name: str) -> Node:
    """
    Read YAML.

    :param text:
        The YAML.
    :param name:
        Where it comes from, for errors.
    :raises RecipeError:
        If it is not valid, a key stands twice in one mapping, or it is too deep or too large.
    """
    try:
        loader = _Loader(text, name)
        if root := loader.get_single_node():
            loader.measure(root, (), {})
        return Node(loader.construct_document(root), loader.mark(root)) if root else Node(None, name)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        msg = f"{name}:{line}: not valid YAML: {error.problem}."
        raise RecipeError(msg) from error
    except yaml.YAMLError as error:
        msg = f"{name}: not valid YAML: {' '.join(str(error).split())}"
        raise RecipeError(msg) from error
    except RecursionError as error:
        msg = f"{name}: lists and mappings may nest {_DEEPEST} levels deep; there are more."
        raise RecipeError(msg) from error


def read_file(path: Path) -> Node:
    """
    Read a file of YAML.

    :raises RecipeError:
        If it is none.
    """
    try:
        return read_nodes(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        msg = f"{path}: not UTF-8 text: {error}"
        raise RecipeError(msg) from error


def nodes_of(tree: Any) -> Node:
    """Return the nodes of values that come from Python."""
    if isinstance(tree, dict):
        return Node({key: nodes_of(value) for key, value in tree.items()})
    return Node([nodes_of(value) for value in tree] if isinstance(tree, list | tuple) else tree)


def values(node: Node, place: Place = ()) -> Any:
    """
    Return the values of a tree.

    :raises PlacedRecipeError:
        If they are not all plain: keys that are no text, numbers that are not finite.
    """
    value = node.value
    if isinstance(value, dict):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise PlacedRecipeError(place, f"keys are text; {odd[0]!r} is none: write it in quotes.")
        return {key: values(inner, (*place, key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [values(inner, (*place, i)) for i, inner in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise PlacedRecipeError(place, f"must be a finite number; it is {value}.")
    if type(value) not in _PLAIN:
        raise PlacedRecipeError(place, f"must be a number, text, a list or a mapping; it is {value!r}.")
    return value


def dump_yaml(tree: Any, **options: Any) -> str:
    """Write plain values as YAML that reads back equal, as YAML 1.1 and 1.2."""
    return str(yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **options))


@contextmanager
def located(node: Node, origin: str = "") -> Iterator[None]:
    """
    Say of errors in which file and line of a tree, or in which `--set`, the place stands that they name.

    :param node:
        The tree.
    :param origin:
        What to say of a place that neither has.
    """
    try:
        yield
    except LocatedRecipeError:  # nearer to where it stands
        raise
    except RecipeError as error:
        named = re.match(r"[^:(]*[^:( ]", str(error))  # what goes before a colon, or a type in brackets
        place = error.place if isinstance(error, PlacedRecipeError) else named[0].split(".") if named else ()
        mark = node.mark
        for part in place:
            key = int(part) if isinstance(node.value, list) and str(part).isdecimal() else part
            try:
                node = node.value[key]
            except (LookupError, TypeError):  # the nearest around it will do
                break
            mark = node.mark
        if mark:
            msg = f"{mark}: {error}"
            raise LocatedRecipeError(msg) from error
        if not origin:
            raise
        msg = f"{origin}: {error}"
        raise RecipeError(msg) from error


def with_value(node: Node, text: str) -> Node:
    """
    Return a tree with one value changed; the others stay, of an anchor's too.

    :param node:
        The tree.
    :param text:
        `a.b=value`: dots, integer indexes, the value as YAML.
    :raises RecipeError:
        If the text or its place does not fit.
    """
    path, equals, value = text.partition("=")
    shown = redacted({path.rpartition(".")[2]: value}).popitem()[1]
    name = f"--set {path}{equals}{shown}"
    if not equals:
        msg = f"{name}: expected a.b=value."
        raise RecipeError(msg)
    try:
        new = read_nodes(value, name)
    except RecipeError as error:
        msg = f"{name}: the value is not valid YAML."
        raise RecipeError(msg) from error
    return with_node(node, path, new)


def with_node(node: Node, place: str, new: Node) -> Node:
    """Return a tree with another node at a place, such as `teachers.teacher`; see `with_value`."""
    return _set(node, place.split("."), new, ())


def _set(node: Node, path: list[str], new: Node, before: Place) -> Node:
    if not path:
        return new
    part, *rest = path
    tree = {} if node.value is None else node.value
    if isinstance(tree, list):
        if not part.isdecimal() or int(part) >= len(tree):
            msg = f"{new.mark}: {part!r} is not an index below {len(tree)}."
            raise RecipeError(msg)
        items = list(tree)
        items[int(part)] = _set(items[int(part)], rest, new, (*before, part))
        return Node(items, node.mark)
    if not isinstance(tree, dict):
        msg = f"{new.mark}: {dotted(before) or 'the recipe'} is a plain value."
        raise RecipeError(msg)
    inner = tree.get(part, Node(None, new.mark))
    return Node(tree | {part: _set(inner, rest, new, (*before, part))}, node.mark)


def merged(base: Node, changes: Node, key: str = "") -> Node:
    """
    Return a tree with the changes of another in it.

    Mappings are merged key by key, `stages` by their names, `objectives` by their positions; all else is replaced, and
    so is a `{type, init_parameters}` by one of another type. A null takes its key out: the default holds again.

    :param base:
        The tree that is changed.
    :param changes:
        What differs.
    :param key:
        Under which key both stand.
    """
    old, new = base.value, changes.value
    if isinstance(old, list) and isinstance(new, list) and key in {"stages", "objectives"}:
        items = list(old)
        names = [_text(item, "name") for item in items]
        for i, item in enumerate(new):
            name = _text(item, "name")
            at = i if key == "objectives" else names.index(name) if name in names else len(items)
            items[at : at + 1] = [merged(items[at], item) if at < len(items) else item]
        return Node(items, changes.mark)
    kinds = {_text(base, "type"), _text(changes, "type")} - {None}
    if not isinstance(old, dict) or not isinstance(new, dict) or len(kinds) > 1:
        return changes
    tree = dict(old)
    for name, node in new.items():
        if name in old and node.value is None:
            del tree[name]
        else:
            tree[name] = merged(old[name], node, name) if name in old else node
    return Node(tree, changes.mark)


def _text(node: Node, key: str) -> str | None:
    value = node.value[key].value if isinstance(node.value, dict) and key in node.value else None
    return value if isinstance(value, str) else None
