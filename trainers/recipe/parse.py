# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Recipes: the YAML of a run, checked key by key before anything is loaded."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml

from retort.trainers.recipe.aliases import with_current_names
from retort.trainers.recipe.schema import BATCHES, STAGE_TRAINING, Component, DataSection, Stage, TrainingSection
from retort.trainers.recipe.trust import Role, load_role, refuse_other_role
from retort.trainers.runtime.errors import RecipeError

RECIPES = Path(__file__).parent.parent / "recipes"

RESERVED_NAMES = {"student", "hybrid", "untrained"}  # by what figures tell apart
MINIMA = {
    "batch_size": 1, "accumulation": 1, "dev_depth": 1,
    "log_every": 1, "checkpoint_every": 1, "keep_checkpoints": 1, "dev_queries": 1, "dev_documents": 1,
    "evaluate_every": 0, "patience": 0, "clip": 0, "weight_decay": 0,
}  # fmt: skip


@dataclass(kw_only=True)
class Recipe:
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

    format: int
    student: Component
    stages: list[Stage]
    teachers: dict[str, Component] = field(default_factory=dict)
    candidates: dict[str, Component] = field(default_factory=dict)
    data: DataSection = field(default_factory=DataSection)
    training: TrainingSection = field(default_factory=TrainingSection)
    # Not keys of the file: a recipe can neither name itself nor widen what it may load.
    name: str = field(default="recipe", init=False, compare=False)
    allow: list[str] = field(default_factory=list, init=False, compare=False)

    @classmethod
    def from_yaml(cls, name_or_path: str | Path, *, overrides: Sequence[str] = (), allow: Sequence[str] = ()) -> Recipe:
        """
        Read and check a recipe.

        :param name_or_path:
            A recipe that comes with retort (`kd`), or the path of a YAML file.
        :param overrides:
            `a.b=value`: dots, integer indexes, the value parsed as YAML.
        :param allow:
            Further modules that types may come from.
        :returns:
            The recipe.
        :raises RecipeError:
            If the file is missing or malformed, or a key, type or value is not known or not trusted.
        """
        path = find_recipe(name_or_path)
        recipe = cls.from_dict(read_yaml(path), overrides=overrides, allow=allow, origin=str(path))
        recipe.name = path.stem
        return recipe

    @classmethod
    def from_dict(
        cls, tree: Any, *, overrides: Sequence[str] = (), allow: Sequence[str] = (), origin: str = "recipe"
    ) -> Recipe:
        """Check a recipe given as a dictionary (see `from_yaml`)."""
        tree = copy.deepcopy(tree)
        for override in overrides:
            _override(tree, override)
        try:
            recipe: Recipe = _build(cls, with_current_names(tree), "")
            recipe.allow = list(allow)
            recipe._check()
        except RecipeError as error:
            msg = f"{origin}: {error}"
            raise RecipeError(msg) from error
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe with every default written out."""
        return {key: value for key, value in asdict(self).items() if key not in {"name", "allow"}}

    def training_of(self, stage: Stage) -> TrainingSection:
        """Return `training` with what a stage sets of its own."""
        return replace(self.training, **stage.training)

    def create(self, spec: Component, role: Role, where: str, **extra: Any) -> Any:
        """
        Create what a `{type, init_parameters}` describes.

        :param spec:
            The description.
        :param role:
            What it must be.
        :param where:
            Its place in the recipe, for errors.
        :param extra:
            Parameters to give besides, where the type takes them and the description and None do not say otherwise.
        :raises RecipeError:
            If the type is not trusted, not there or of another role, or does not take these parameters.
        """
        made = load_role(spec.type, role, f"{where}.type", self.allow)
        if "allowed_modules" in spec.init_parameters:
            msg = f"{where}.init_parameters.allowed_modules: a recipe cannot widen what it may load; pass --allow."
            raise RecipeError(msg)
        known = inspect.signature(made).parameters
        flexible = any(p.kind is p.VAR_KEYWORD for p in known.values())
        for name in spec.init_parameters:
            if name not in known and not flexible:
                msg = f"{where}.init_parameters: {spec.type} takes no {name!r}.{_hint(name, known)}"
                raise RecipeError(msg)
        defaults = {name: value for name, value in extra.items() if name in known and value is not None}
        given = defaults | spec.init_parameters
        missing = [
            n for n, p in known.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD and n not in given
        ]
        if missing:
            msg = f"{where}.init_parameters: {spec.type} needs {', '.join(missing)}."
            raise RecipeError(msg)
        try:
            return made(**given)
        except (ValueError, TypeError, OSError) as error:
            msg = f"{where} ({spec.type}): {error}"
            raise RecipeError(msg) from error

    def _check(self) -> None:
        if self.format != 1:
            msg = f"format: {self.format} is not known to this version of retort; it reads format 1."
            raise RecipeError(msg)
        if not self.stages:
            msg = "stages: there must be at least one."
            raise RecipeError(msg)
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names) or any("." in name or "/" in name for name in names):
            msg = f"stages: names must differ and have no dot or slash; they are {', '.join(names)}."
            raise RecipeError(msg)
        if odd := [name for name in (*self.teachers, *self.candidates) if "." in name or "/" in name]:
            msg = f"teachers, candidates: names must have no dot or slash; one is {odd[0]!r}."
            raise RecipeError(msg)
        if odd := sorted(RESERVED_NAMES & self.teachers.keys()):
            msg = f"teachers.{odd[0]}: figures of that name are another system's; give the teacher another name."
            raise RecipeError(msg)
        for i, stage in enumerate(self.stages):
            where = f"stages.{i}"
            for objective in stage.objectives:
                given = objective.init_parameters
                each = given.get("teacher", stage.teacher)
                for teacher in (*(each if isinstance(each, list) else [each]), *(given.get("extra_teachers") or {})):
                    if teacher is not None and teacher not in self.teachers:
                        msg = f"{where}: there is no teacher {teacher!r}.{_hint(str(teacher), self.teachers)}"
                        raise RecipeError(msg)
            if stage.batches.type == BATCHES["lists"] and stage.candidates is None:
                msg = f"{where}.candidates: needed for batches of lists, for example {{sources: [bm25], negatives: 7}}."
                raise RecipeError(msg)
            for name in ("negatives", "skip") if stage.candidates else ():
                if getattr(stage.candidates, name) < 0:
                    msg = f"{where}.candidates.{name}: must be at least 0; it is {getattr(stage.candidates, name)}."
                    raise RecipeError(msg)
            for name in stage.candidates.sources if stage.candidates else []:
                if name not in self.candidates:
                    msg = f"{where}.candidates.sources: there is no {name!r}.{_hint(name, self.candidates)}"
                    raise RecipeError(msg)
            if not stage.takes_lists and (stage.selector or (stage.refresh is not None and not stage.queries)):
                msg = f"{where}: selector and refresh are for batches of lists."
                raise RecipeError(msg)
            if stage.refresh is not None and stage.refresh < 1:
                msg = f"{where}.refresh: must be at least 1; it is {stage.refresh}. Leave it out to mine once."
                raise RecipeError(msg)
            if stage.steps < 1 or stage.lr <= 0 or not stage.objectives:
                msg = f"{where}: steps and lr must be above 0, and there must be an objective."
                raise RecipeError(msg)
        if self.training.dropout is not None and not 0 <= self.training.dropout < 1:
            msg = f"training.dropout: must lie from 0 to below 1; it is {self.training.dropout}."
            raise RecipeError(msg)
        sections = {"training": self.training}
        for i, stage in enumerate(self.stages):
            where = f"stages.{i}.training"
            if odd := [key for key in stage.training if key not in STAGE_TRAINING]:
                msg = f"{where}.{odd[0]}: a stage may set {', '.join(STAGE_TRAINING)} only."
                raise RecipeError(msg)
            _build(TrainingSection, stage.training, where)
            sections[where] = self.training_of(stage)
        for where, section in sections.items():
            for name, least in MINIMA.items():
                if getattr(section, name) < least:
                    msg = f"{where}.{name}: must be at least {least}; it is {getattr(section, name)}."
                    raise RecipeError(msg)
            if not 0 <= section.warmup < 1:
                msg = f"{where}.warmup: must be a share from 0 to below 1; it is {section.warmup}."
                raise RecipeError(msg)
        specs: dict[str, tuple[Component, Role]] = {"student": (self.student, "student")}
        specs |= {f"teachers.{n}": (c, "teacher") for n, c in self.teachers.items()}
        specs |= {f"candidates.{n}": (c, "miner") for n, c in self.candidates.items()}
        for i, stage in enumerate(self.stages):
            where = f"stages.{i}"
            specs |= {f"{where}.objectives.{j}": (o, "objective") for j, o in enumerate(stage.objectives)}
            if stage.temperature:
                specs[f"{where}.temperature"] = (stage.temperature, "temperature")
            specs[f"{where}.batches"] = (stage.batches, "batches")
            if stage.queries:
                specs[f"{where}.queries"] = (stage.queries, "queries")
            if stage.weighting:
                specs[f"{where}.weighting"] = (stage.weighting, "weighting")
            if stage.selector:
                specs[f"{where}.selector"] = (stage.selector, "selector")
            if stage.candidates and stage.candidates.text:
                specs[f"{where}.candidates.text"] = (stage.candidates.text, "text")
        for where, (spec, role) in specs.items():
            refuse_other_role(spec.type, role, f"{where}.type", self.allow)
            for name, value in spec.init_parameters.items():
                if isinstance(value, int | float) and (name == "depth" or name.endswith("temperature")) and value <= 0:
                    msg = f"{where}.{name}: must be above 0; it is {value}."
                    raise RecipeError(msg)


def find_recipe(name_or_path: str | Path) -> Path:
    """
    Find a recipe by its name or path.

    :raises RecipeError:
        If there is none.
    """
    own = RECIPES / f"{name_or_path}.yaml"
    path = own if own.is_file() else Path(name_or_path)
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        msg = f"There is no recipe {str(name_or_path)!r}. Give a YAML file or one of: {names}."
        raise RecipeError(msg)
    return path


def read_yaml(path: Path) -> Any:
    """
    Read a file of YAML.

    :raises RecipeError:
        If it is none.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"{path}: not valid YAML: {error}"
        raise RecipeError(msg) from error


def component(tree: Any, where: str) -> Component:
    """
    Read a `{type, init_parameters}` that stands within another piece's parameters.

    :raises RecipeError:
        If it is none.
    """
    found: Component = _build(Component, tree, where)
    return found


def trusts_code(spec: Any) -> bool:
    """Say whether a student's description, or that of one of its towers, trusts code that a model brings along."""
    return isinstance(spec, dict) and (
        spec.get("trust_remote_code") is True or any(trusts_code(value) for value in spec.values())
    )


def _override(tree: Any, text: str) -> None:
    path, equals, value = text.partition("=")
    if not equals:
        msg = f"--set {text}: expected a.b=value."
        raise RecipeError(msg)
    *parents, last = path.split(".")
    node = tree
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        msg = f"--set {text}: the value is not valid YAML."
        raise RecipeError(msg) from error
    for part in parents:
        node = _child(node, part, text)
    if isinstance(node, list):
        _child(node, last, text)
        node[int(last)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        msg = f"--set {text}: {'.'.join(parents)} is a plain value."
        raise RecipeError(msg)


def _child(node: Any, part: str, text: str) -> Any:
    if isinstance(node, list):
        if not part.isdigit() or int(part) >= len(node):
            msg = f"--set {text}: {part!r} is not an index below {len(node)}."
            raise RecipeError(msg)
        return node[int(part)]
    if isinstance(node, dict):
        child = node.setdefault(part, {})
        if child is None:
            child = node[part] = {}
        return child
    msg = f"--set {text}: {part!r} lies within a plain value."
    raise RecipeError(msg)


def _hint(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(known) or 'none'}."


def _build(kind: Any, value: Any, where: str) -> Any:
    """Check a value against a section's types and make the section of it."""
    if kind is Component and where.endswith(".batches") and isinstance(value, str):
        if value not in BATCHES and "." not in value:
            msg = f"{where}: must be one of {', '.join(BATCHES)}, or a batch source's type; it is {value!r}."
            raise RecipeError(msg)
        value = {"type": BATCHES.get(value, value)}
    if not isinstance(value, dict):
        msg = f"{where or 'recipe'}: expected keys with values, found {value!r}."
        raise RecipeError(msg)
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind) if f.init}
    prefix = f"{where}." if where else ""
    for key in value:
        if key not in known:
            msg = f"{prefix}{key}: unknown key.{_hint(str(key), known)}"
            raise RecipeError(msg)
    for name, f in known.items():
        if name not in value and f.default is MISSING and f.default_factory is MISSING:
            msg = f"{prefix}{name}: missing."
            raise RecipeError(msg)
    return kind(**{key: _convert(hints[key], inner, f"{prefix}{key}") for key, inner in value.items()})


def _plain(value: Any) -> Any:
    """Turn dates into text: YAML reads them, as a revision such as 2024-08-06, and JSON has none."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value.isoformat() if isinstance(value, date) else value


def _convert(hint: Any, value: Any, where: str) -> Any:
    options = get_args(hint)
    origin = getattr(hint, "__origin__", None)
    if hint is type(None):
        if value is not None:
            msg = f"{where}: nothing fills this role yet; leave it out."
            raise RecipeError(msg)
        return None
    if type(None) in options:
        return None if value is None else _convert(next(o for o in options if o is not type(None)), value, where)
    if origin is Literal:
        if value not in options and not (value is False and "no" in options):  # YAML reads a bare `no` as false
            msg = f"{where}: must be one of {', '.join(map(str, options))}; it is {value!r}."
            raise RecipeError(msg)
        return value or "no"
    if origin is list and isinstance(value, list):
        return [_convert(options[0], inner, f"{where}.{i}") for i, inner in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: _convert(options[1], inner, f"{where}.{key}") for key, inner in value.items()}
    if hasattr(hint, "__dataclass_fields__"):
        return _build(hint, value, where)
    if hint is Any:
        return _plain(value)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 5e-5 as a string
        except ValueError:
            pass
    elif isinstance(hint, type) and isinstance(value, hint) and not isinstance(value, bool):
        return value
    msg = f"{where}: expected {getattr(hint, '__name__', hint)}, found {value!r}."
    raise RecipeError(msg)
