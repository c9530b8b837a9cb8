# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
The YAML of recipes, as YAML 1.2 reads it, in trees whose nodes know their file and line.

`5e-5` is a number here, `no` and `2024-08-06` are text. PyYAML itself reads YAML 1.1.
"""

from __future__ import annotations

import difflib
import io
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from retort.trainers.runtime.errors import RecipeError

Place = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]+$")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")
_BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)$")
_YAML_1_1 = {f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "timestamp", "value")}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way
        first: [pair for pair in pairs if pair[0] not in _YAML_1_1]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


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
        self.message = message
        super().__init__(f"{dotted(self.place)}: {message}" if self.place else message)


def dotted(place: Iterable[str | int]) -> str:
    """Write a place as `--set` does: `stages.0.steps`."""
    return ".".join(map(str, place))


def hint(name: str, known: Iterable[str]) -> str:
    """Say which of the known names is nearest, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known) or 'none'}."


def compose(text: str, name: str) -> Node:
    """
    Read YAML.

    :param text:
        The YAML.
    :param name:
        Where it comes from, for errors.
    :raises RecipeError:
        If it is not valid, or a key stands twice in one mapping.
    """
    try:
        loader = _Loader(text)
        loader.name = name
        node = loader.get_single_node() or ScalarNode("tag:yaml.org,2002:null", "")
        _refuse_twins(node, (), set())
        _Loader("").construct_document(node)  # also puts what `<<` merges in its place
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        msg = f"{name}:{line}: not valid YAML: {error.problem}."
        raise RecipeError(msg) from error
    except yaml.YAMLError as error:
        msg = f"{name}: not valid YAML: {' '.join(str(error).split())}"
        raise RecipeError(msg) from error
    return node


def read_nodes(path: Path) -> Node:
    """
    Read a file of YAML.

    :raises RecipeError:
        If it is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        msg = f"{path}: not UTF-8 text: {error}"
        raise RecipeError(msg) from error
    return compose(text, str(path))


def nodes_of(tree: Any) -> Node:
    """
    Return the nodes of plain values.

    :raises RecipeError:
        If there are others among them.
    """
    try:
        return _Dumper(io.StringIO()).represent_data(tree)
    except yaml.representer.RepresenterError as error:
        msg = f"a recipe holds plain values: numbers, text, lists and mappings; {error.args[-1]!r} is none."
        raise RecipeError(msg) from error


def values(node: Node) -> Any:
    """
    Return the values of a tree.

    :raises PlacedRecipeError:
        If they are not all plain: keys that are no text, numbers that are not finite.
    """
    tree = _Loader("").construct_document(node)
    _refuse_odd(tree, ())
    return tree


def dump_yaml(tree: Any, **options: Any) -> str:
    """Write plain values as YAML that reads back equal, as YAML 1.1 and 1.2."""
    return str(yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **options))


def child(node: Node, key: str | int) -> tuple[Any, Node] | None:
    """Return the mark and the node of a key or an index; None if there is none."""
    if isinstance(node, MappingNode):
        return next(((k.start_mark, v) for k, v in reversed(node.value) if k.value == str(key)), None)
    if isinstance(node, SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key].start_mark, node.value[key]
    return None


def locate(node: Node, place: Place) -> str:
    """Return `FILE:LINE`, or `--set TEXT`, of a place or of what is nearest around it; '' of what has no file."""
    mark = node.start_mark
    for key in place:
        step = child(node, key)
        if step is None:
            break
        mark, node = step
    if mark is None:
        return ""
    return mark.name if mark.name.startswith("--set ") else f"{mark.name}:{mark.line + 1}"


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
    if not equals:
        msg = f"--set {text}: expected a.b=value."
        raise RecipeError(msg)
    name = f"--set {text}"
    try:
        new = compose(value, name)
    except RecipeError as error:
        msg = f"{name}: the value is not valid YAML."
        raise RecipeError(msg) from error
    key_mark = yaml.Mark(name, 0, 0, 0, None, 0)
    new.start_mark = new.start_mark or key_mark
    return _set(node, path.split("."), new, text, key_mark, ())


def _set(node: Node, path: list[str], new: Node, text: str, mark: Any, before: Place) -> Node:
    if not path:
        return new
    part, *rest = path
    if isinstance(node, SequenceNode):
        if not part.isdigit() or int(part) >= len(node.value):
            msg = f"--set {text}: {part!r} is not an index below {len(node.value)}."
            raise RecipeError(msg)
        items = list(node.value)
        items[int(part)] = _set(items[int(part)], rest, new, text, mark, (*before, int(part)))
        return SequenceNode(node.tag, items, node.start_mark)
    if isinstance(node, ScalarNode) and node.tag.endswith(":null"):
        node = MappingNode("tag:yaml.org,2002:map", [], mark)
    if not isinstance(node, MappingNode):
        msg = f"--set {text}: {dotted(before) or 'the recipe'} is a plain value."
        raise RecipeError(msg)
    step = child(node, part)
    inner = step[1] if step else MappingNode("tag:yaml.org,2002:map", [], mark)
    changed = _set(inner, rest, new, text, mark, (*before, part))
    key = ScalarNode("tag:yaml.org,2002:str", part, mark)
    if step and rest:
        key = next(k for k, _ in node.value if k.value == part)
    pairs = [(key, changed) if k.value == part else (k, v) for k, v in node.value]
    return MappingNode(node.tag, pairs if step else [*pairs, (key, changed)], node.start_mark)


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
    if isinstance(base, SequenceNode) and isinstance(changes, SequenceNode) and key in {"stages", "objectives"}:
        items = list(base.value)
        names = [_scalar(item, "name") for item in items]
        for i, item in enumerate(changes.value):
            name = _scalar(item, "name")
            at = i if key == "objectives" else names.index(name) if name in names else len(items)
            if at < len(items):
                items[at] = merged(items[at], item)
            else:
                items.append(item)
        return SequenceNode(base.tag, items, changes.start_mark)
    if not isinstance(base, MappingNode) or not isinstance(changes, MappingNode):
        return changes
    kinds = _scalar(base, "type"), _scalar(changes, "type")
    if None not in kinds and kinds[0] != kinds[1]:
        return changes
    pairs = {k.value: (k, v) for k, v in base.value}
    for k, v in changes.value:
        null = isinstance(v, ScalarNode) and v.tag.endswith(":null")
        if null and k.value in pairs:
            del pairs[k.value]
        else:
            pairs[k.value] = (k, merged(pairs[k.value][1], v, k.value) if k.value in pairs else v)
    return MappingNode(base.tag, list(pairs.values()), changes.start_mark)


def without(node: Node, key: str) -> Node:
    """Return a mapping without a key."""
    if not isinstance(node, MappingNode):
        return node
    return MappingNode(node.tag, [(k, v) for k, v in node.value if k.value != key], node.start_mark)


def _scalar(node: Node, key: str) -> str | None:
    step = child(node, key)
    return step[1].value if step and isinstance(step[1], ScalarNode) else None


def _refuse_twins(node: Node, around: tuple[int, ...], done: set[int]) -> None:
    """Refuse keys that stand twice, and anchors that hold themselves."""
    if id(node) in around:
        msg = f"{node.start_mark.name}:{node.start_mark.line + 1}: an anchor holds itself."
        raise RecipeError(msg)
    if id(node) in done or isinstance(node, ScalarNode):
        return
    done.add(id(node))
    inside = (*around, id(node))
    if isinstance(node, SequenceNode):
        for item in node.value:
            _refuse_twins(item, inside, done)
        return
    seen: dict[Any, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if isinstance(key, ScalarNode):
            if key.value in seen:
                msg = f"{key.start_mark.name}:{line}: {key.value}: the key is on line {seen[key.value]} already."
                raise RecipeError(msg)
            seen[key.value] = line
        _refuse_twins(value, inside, done)


def _refuse_odd(value: Any, place: Place) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise PlacedRecipeError(place, f"keys are text; {key!r} is none: write it in quotes.")
            _refuse_odd(inner, (*place, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _refuse_odd(inner, (*place, i))
    elif isinstance(value, float) and not math.isfinite(value):
        raise PlacedRecipeError(place, f"must be a finite number; it is {value}.")
    elif not isinstance(value, str | int | float | None):
        raise PlacedRecipeError(place, f"must be a number, text, a list or a mapping; it is {value!r}.")
