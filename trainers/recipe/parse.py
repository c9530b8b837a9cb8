# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Reads recipes and checks them, before anything that they name is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from retort.trainers.recipe.aliases import with_current_names
from retort.trainers.recipe.create import create
from retort.trainers.recipe.schema import BATCHES, MOST, Component, RecipeSections, Stage, TrainingSection, adapter
from retort.trainers.recipe.tree import (
    Node,
    Place,
    PlacedRecipeError,
    dotted,
    hint,
    located,
    merged,
    nodes_of,
    read_file,
    values,
    with_node,
    with_value,
)
from retort.trainers.recipe.trust import OWN, Role, refuse_other_role, refuse_trust
from retort.trainers.recipe.validate import checked
from retort.trainers.runtime.errors import RecipeError

RECIPES = Path(__file__).parent.parent / "recipes"

RESERVED_NAMES = {"student", "hybrid", "untrained"}  # names in metrics.json
_MOST_EXTENDED = 32
_ABOVE_0 = re.compile(
    r"(.*_)?(temperature|scale|tokens)|alpha|concurrency|depth|dim|initial|least|lr|most|pairs|parts|r|redraw|saturation|sif|"
    "span|window|words"
)
_AT_LEAST_0 = re.compile("(.*_)?weight|balance|begin|certainty|growth|price|rate|retries|start|typical|views")
_NOT_EMPTY = {"model", "trunk", "teacher", "tokenizer"}  # parameters that name something


@dataclass(kw_only=True)
class Recipe(RecipeSections):
    """
    A checked recipe.

    ### Usage example

    ```python
    from pathlib import Path

    from retort.trainers.recipe import Recipe
    from retort.trainers.run import run_recipe

    recipe = Recipe.from_yaml("kd", overrides=["stages.0.steps=100"])
    run_recipe(recipe, Path("my-data"), Path("runs/first"))
    ```
    """

    # Not keys of the file: a recipe can neither name itself nor widen what it may load.
    name: str = field(default="recipe", init=False, compare=False)
    allow: list[str] = field(default_factory=list, init=False, compare=False)
    _nodes: Node = field(default=Node(None), init=False, compare=False, repr=False)

    @classmethod
    def from_yaml(cls, name_or_path: str | Path, *, overrides: Sequence[str] = (), allow: Sequence[str] = ()) -> Recipe:
        """
        Read and check a recipe.

        :param name_or_path:
            A recipe that comes with retort (`kd`), or the path of a YAML file.
        :param overrides:
            `a.b=value`: dots, integer indexes, the value parsed as YAML.
        :param allow:
            Further modules that types may come from; names of servers that components may ask; `trust_remote_code`, to
            run code that models bring along.
        :returns:
            The recipe.
        :raises RecipeError:
            If the file is missing or malformed, or a key, type or value is not known or not trusted.
        """
        path = find_recipe(name_or_path)
        recipe = cls._from_nodes(_extended(read_file(path), path), overrides, allow, str(path))
        recipe.name = path.stem
        return recipe

    @classmethod
    def from_dict(
        cls, tree: Any, *, overrides: Sequence[str] = (), allow: Sequence[str] = (), origin: str = "recipe"
    ) -> Recipe:
        """Check a recipe given as a dictionary (see `from_yaml`); `origin` is what errors call it."""
        return cls._from_nodes(_extended(nodes_of(tree), Path(origin)), overrides, allow, origin)

    @classmethod
    def _from_nodes(cls, nodes: Node, overrides: Sequence[str], allow: Sequence[str], origin: str) -> Recipe:
        for override in overrides:
            nodes = with_value(nodes, override)
        with located(nodes, origin):
            tree = with_current_names(values(nodes))
            recipe = cls(**vars(checked(adapter(), tree, RecipeSections)))
            refuse_trust(tree, allow)
            recipe.allow, recipe._nodes = list(allow), nodes
            for place, spec, role in recipe._components():
                refuse_other_role(spec.type, role, dotted((*place, "type")), allow)
            recipe._check()
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe with every default written out."""
        return {key: value for key, value in asdict(self).items() if key not in {"name", "allow", "_nodes"}}

    def changed(self, parts: Mapping[str, Any], *, overrides: Sequence[str] = (), allow: Sequence[str] = ()) -> Recipe:
        """
        Return this recipe with other values; errors go on naming the file and line of all else.

        :param parts:
            Values by their places, with dots.
        :param overrides:
            As of `from_yaml`, made after them.
        :param allow:
            What is allowed besides.
        :raises RecipeError:
            If they do not fit.
        """
        allowed = [*self.allow, *allow]
        nodes = self._nodes
        if nodes.value is None or Recipe._from_nodes(nodes, (), self.allow, self.name) != self:  # changed in Python
            nodes = nodes_of(self.to_dict())
        for place, value in parts.items():
            nodes = with_node(nodes, place, nodes_of(value))
        recipe = self._from_nodes(nodes, overrides, allowed, self.name)
        recipe.name = self.name
        return recipe

    def located(self) -> AbstractContextManager[None]:
        """Let errors within name the file and line of the place that they begin with."""
        return located(self._nodes)

    def training_of(self, stage: Stage) -> TrainingSection:
        """Return `training` with what a stage sets of its own."""
        return replace(self.training, **stage.training)

    def create(self, spec: Component, role: Role, where: str, **extra: Any) -> Any:
        """
        Create what a `{type, init_parameters}` of this recipe describes; parameters as of `create.create`.

        What calls components of others may call those that the user allowed for this recipe.

        :raises RecipeError:
            If it cannot be created; the message says in which file and line it stands.
        """
        with self.located():
            return create(spec, role, where, self.allow, allowed_modules=self.allow or None, **extra)

    def _components(self) -> Iterator[tuple[Place, Component, Role]]:
        yield ("student",), self.student, "student"
        if self.data.corpus:
            yield ("data", "corpus"), self.data.corpus, "corpus"
        for name, spec in self.teachers.items():
            yield ("teachers", name), spec, "teacher"
        for name, spec in self.candidates.items():
            yield ("candidates", name), spec, "miner"
        roles: tuple[Role, ...] = ("batches", "temperature", "weighting", "selector", "queries")
        for i, stage in enumerate(self.stages):
            for j, objective in enumerate(stage.objectives):
                yield ("stages", i, "objectives", j), objective, "objective"
            yield from ((("stages", i, role), spec, role) for role in roles if (spec := getattr(stage, role)))
            if stage.candidates and stage.candidates.text:
                yield ("stages", i, "candidates", "text"), stage.candidates.text, "text"

    def _check(self) -> None:
        """Check what no type of a value says: names, and what fits to what."""
        names = [stage.name for stage in self.stages]
        for i, name in enumerate(names):
            if name in names[:i]:
                message = f"names must differ; stage {names.index(name)} has it, too."
                raise PlacedRecipeError(("stages", i, "name"), message)
        for name in sorted(RESERVED_NAMES & self.teachers.keys()):
            message = "figures of that name are another system's; give the teacher another name."
            raise PlacedRecipeError(("teachers", name), message)
        for place, spec, _ in self._components():
            _check_parameters({"type": spec.type, "init_parameters": spec.init_parameters}, place)
        for i, stage in enumerate(self.stages):
            self._check_stage(stage, ("stages", i))

    def _check_stage(self, stage: Stage, place: Place) -> None:
        _known(stage.teacher, self.teachers, (*place, "teacher"), "teacher ")
        for j, objective in enumerate(stage.objectives):
            parameters, inside = objective.init_parameters, (*place, "objectives", j, "init_parameters")
            each = parameters.get("teacher")
            for name in each if isinstance(each, list) else [each]:
                _known(name, self.teachers, (*inside, "teacher"), "teacher ")
            extra = parameters.get("extra_teachers")
            for name in extra if isinstance(extra, dict) else ():
                _known(name, self.teachers, (*inside, "extra_teachers"), "teacher ")
        if stage.batches.type == BATCHES["lists"] and stage.candidates is None:
            message = "needed for batches of lists, for example {sources: [bm25], negatives: 7}."
            raise PlacedRecipeError((*place, "candidates"), message)
        for j, name in enumerate(stage.candidates.sources if stage.candidates else []):
            _known(name, self.candidates, (*place, "candidates", "sources", j))
        if stage.candidates is not None and stage.candidates.range is not None:
            first, end = stage.candidates.range
            if first >= end or stage.candidates.skip:
                message = (
                    f"the first rank must lie before the end, and skip must not stand beside it; it is {[first, end]}."
                )
                raise PlacedRecipeError((*place, "candidates", "range"), message)
        if stage.candidates is not None and (pool := stage.candidates.pool) and pool.size < stage.candidates.negatives:
            message = f"the pool must hold the {stage.candidates.negatives} negatives of a list; it is {pool.size}."
            raise PlacedRecipeError((*place, "candidates", "pool", "size"), message)
        if stage.selector and not stage.takes_queries:
            raise PlacedRecipeError((*place, "selector"), "it is for batches of lists or pairs.")
        if stage.refresh and not (stage.takes_lists or stage.queries or stage.selector):
            raise PlacedRecipeError((*place, "refresh"), "there are no lists, queries or selector to refresh.")


def find_recipe(name_or_path: str | Path, folder: Path | None = None) -> Path:
    """
    Find a recipe by its name or path.

    :param name_or_path:
        A recipe that comes with retort, or a file.
    :param folder:
        Where else it may lie, with or without its ending.
    :raises RecipeError:
        If there is none.
    """
    places = [RECIPES / f"{name_or_path}.yaml", Path(name_or_path)]
    if folder is not None:
        places[1:] = [folder / name_or_path, folder / f"{name_or_path}.yaml"]
    for path in places:
        if os.path.isfile(path):  # false, too, of what can be no file's name
            return path
    names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
    msg = f"There is no recipe {str(name_or_path)!r}. Give a YAML file or one of: {names}."
    raise RecipeError(msg)


def read_yaml(path: Path) -> Any:
    """
    Read a file of YAML.

    :raises RecipeError:
        If it is none, or holds other than plain values.
    """
    nodes = read_file(path)
    with located(nodes):
        return values(nodes)


def component(tree: Any, where: str) -> Component:
    """
    Read a `{type, init_parameters}` that stands within another piece's parameters.

    :raises RecipeError:
        If it is none.
    """
    return checked(TypeAdapter(Component), tree, Component, [where])


def _extended(nodes: Node, path: Path, around: tuple[Path, ...] = ()) -> Node:
    """Merge a recipe into the one that it extends."""
    if not isinstance(nodes.value, dict) or "extends" not in nodes.value:
        return nodes
    own = dict(nodes.value)
    with located(nodes, str(path)):
        try:
            if path.resolve() in around:
                msg = "the recipe extends itself."
                raise RecipeError(msg)
            if len(around) == _MOST_EXTENDED:
                msg = f"more than {_MOST_EXTENDED} recipes extend one another."
                raise RecipeError(msg)
            base = find_recipe(str(values(own.pop("extends"))), path.parent)
        except RecipeError as error:
            raise PlacedRecipeError(("extends",), str(error)) from error
    return merged(_extended(read_file(base), base, (*around, path.resolve())), Node(own, nodes.mark))


def _known(name: Any, known: dict[str, Any], place: Place, what: str = "") -> None:
    if name is not None and not (isinstance(name, str) and name in known):
        raise PlacedRecipeError(place, f"there is no {what}{name!r}; {hint(str(name), known)}")


def _check_parameters(spec: Any, place: Place) -> None:
    """Check numbers and names among the parameters of what is ours; Haystack's components mean other things by them."""
    if isinstance(spec, list):
        for i, item in enumerate(spec):
            _check_parameters(item, (*place, i))
    if not isinstance(spec, dict) or not str(spec.get("type", OWN)).startswith(OWN):
        return
    for name, value in spec.items():
        if isinstance(value, int | float):
            if _ABOVE_0.fullmatch(name) and value <= 0:
                raise PlacedRecipeError((*place, name), f"must be above 0; it is {value}.")
            if _AT_LEAST_0.fullmatch(name) and value < 0:
                raise PlacedRecipeError((*place, name), f"must be at least 0; it is {value}.")
            if value > MOST and (_ABOVE_0.fullmatch(name) or _AT_LEAST_0.fullmatch(name)):
                raise PlacedRecipeError((*place, name), f"must be at most {MOST:g}; it is {value}.")
        if value == "" and name in _NOT_EMPTY:
            raise PlacedRecipeError((*place, name), "must not be empty.")
        _check_parameters(value, (*place, name))
