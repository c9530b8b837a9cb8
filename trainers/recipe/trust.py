# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What a recipe may load: trusted modules, and in them what is of the right role; what only the user may allow."""

from __future__ import annotations

import fnmatch
import inspect
import os
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from ipaddress import ip_address
from typing import Any, Literal
from urllib.parse import urlsplit

from retort.students.makers import is_student_maker
from retort.trainers.recipe.aliases import current_type
from retort.trainers.recipe.tree import Place, PlacedRecipeError
from retort.trainers.runtime.errors import RecipeError

OWN = "retort"
# Haystack's own list without `builtins`, `typing` and `collections`, of which nothing belongs into a recipe.
TRUSTED = (OWN, "haystack", "haystack_integrations", "haystack_experimental")

# What Haystack imports of its own accord, be it a class or a function that a component then calls.
_IMPORTED = {"haystack", "haystack_integrations", "haystack_experimental", "builtins", "typing", "collections"}

# Haystack components in the parameters of ours: what they are called, and what their `run` takes, one set of these.
_COMPONENTS: dict[str, tuple[str, list[set[str]]]] = {
    "text_embedder": ("text embedder", [{"text"}]),
    "document_embedder": ("document embedder", [{"documents"}]),
    "ranker": ("ranker", [{"query", "documents"}]),
    "retriever": ("retriever", [{"query"}, {"query_embedding"}, {"query_sparse_embedding"}]),
    "generator": ("chat generator", [{"messages"}]),
}
TRUST_REMOTE_CODE = "trust_remote_code"  # as parameter of whatever loads models, and to be allowed
_ALLOWS_CODE = {TRUST_REMOTE_CODE, "allow_all_kernels"}  # unless false; `weights_only: false` lets pickles run
_ADDRESS = re.compile(r"(.*_)?(url|host|hosts|endpoint|location|proxy)")  # parameters that may leave out the scheme
_STORE = ("count_documents", "filter_documents", "write_documents")

Role = Literal[
    "student",
    "teacher",
    "miner",
    "selector",
    "objective",
    "temperature",
    "weighting",
    "text",
    "queries",
    "corpus",
    "batches",
]


# What messages call them, where that is another word.
_CALLED: dict[str, str] = {
    "weighting": "teacher weighting",
    "text": "text transform",
    "queries": "query source",
    "corpus": "corpus source",
    "batches": "batch source",
}


def trusting_places(tree: Any, place: Place = ()) -> Iterator[Place]:
    """Go through the places of a recipe that let code run which a model brings along."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        if (key in _ALLOWS_CODE and value not in (False, None)) or (key == "weights_only" and not value):
            yield (*place, key)
        yield from trusting_places(value, (*place, key))


def trusts_code(spec: Any) -> bool:
    """Say whether a student's description, or that of one of its towers, trusts code that a model brings along."""
    return any(True for _ in trusting_places(spec))


def refuse_trust(tree: Any, allow: Sequence[str], place: Place = ()) -> None:
    """
    Refuse to let code run which a model brings along, unless the user allowed it: a recipe cannot.

    Pickled weights (`weights_only: false`) and kernels of anybody (`allow_all_kernels`) are such code as well.

    :raises PlacedRecipeError:
        At the first such place.
    """
    for odd in () if TRUST_REMOTE_CODE in allow else trusting_places(tree, place):
        msg = f"code that a model brings along would run; if you trust it, pass --allow {TRUST_REMOTE_CODE}."
        raise PlacedRecipeError(odd, msg)


def load_type(path: str, where: str, allow: Sequence[str] = ()) -> Any:
    """
    Import a class or function by its dotted path, if it is trusted. It is not called.

    :raises RecipeError:
        If its module is not trusted, or there is no such thing; also if a trusted module merely re-exports it.
    """
    refuse_untrusted(path, where, allow)
    kind = _import_type(path, where)
    refuse_untrusted(_full_name(kind), where, allow)
    return kind


def load_role(path: str, role: Role, where: str, allow: Sequence[str] = ()) -> Any:
    """
    Import what fills a role of a recipe; see `refuse_other_role` for the modules that it may come from.

    A student comes from a function that is marked as one of its makers (`student_maker`), all others from a subclass of
    the role's base (see `retort.trainers.roles`). In a module that the user allowed, makers need no mark.

    :raises RecipeError:
        If its module may not fill a role, or there is no such thing, or it is of another role.
    """
    refuse_other_role(path, role, where, allow)
    kind = _import_type(path, where)
    refuse_other_role(_full_name(kind), role, where, allow)
    if not _fits(kind, role, allow):
        msg = f"{where}: {path!r} is no {_CALLED.get(role, role)}."
        raise RecipeError(msg)
    return kind


def refuse_other_role(path: str, role: Role, where: str, allow: Sequence[str]) -> None:
    """
    Check, before anything is imported, that a type's module may fill a role of a recipe.

    Ours may, and those that the user allowed for this very recipe. Haystack's may not: a recipe calls what fills its
    roles, and Haystack holds functions that send requests. Nor may those in `HAYSTACK_DESERIALIZATION_ALLOWLIST`: it
    is set for a whole process, and says which components pipelines may hold, not what recipes may call.

    :raises RecipeError:
        If it may not.
    """
    if _matches_any(path, [OWN, *allow]):
        return
    if _matches_any(path, TRUSTED):
        msg = (
            f"{where}: {path!r} is no {_CALLED.get(role, role)}: Haystack's own cannot be. Its components stand in the "
            "parameters of retort's teachers and miners, such as RankerTeacher's `ranker`."
        )
        raise RecipeError(msg)
    raise _untrusted(path, where, [OWN])


def check_component(spec: dict[str, Any], name: str, allow: Sequence[str] = ()) -> None:
    """
    Check a Haystack component, and those within it, before any of them is created.

    It must be of the kind that is asked, by what its `run` takes. Within its parameters there may be such components
    and document stores; tools, hooks, functions by their names and `unsafe: true` may not, as they run what the YAML
    says, nor `recreate_index: true`, which deletes an index. In modules that the user allowed all this may. Servers
    other than this machine must be allowed by name, as they get texts and keys, and so must `trust_remote_code`.

    :param spec:
        `{type, init_parameters}`.
    :param name:
        What it must be: `text_embedder`, `document_embedder`, `ranker`, `retriever` or `generator`.
    :param allow:
        Further modules that components may come from; servers; `trust_remote_code`.
    :raises RecipeError:
        If it, or something within it, is not trusted or not of this kind.
    """
    refuse_trust(spec, allow, (name,))
    if not isinstance(spec.get("type"), str):
        msg = f"{name}: it needs a type, the full name of a Haystack component."
        raise RecipeError(msg)
    kind = load_type(spec["type"], f"{name}.type", allow)
    if spec["type"] != _full_name(kind):
        msg = f"{name}.type: Haystack knows {spec['type']!r} by its full name; write {_full_name(kind)}."
        raise RecipeError(msg)
    takes = _run_takes(kind)
    called, ways = _COMPONENTS[name]
    if not any(way <= takes for way in ways):
        msg = f"{name}: {spec['type']} is no {called}: its run takes {', '.join(sorted(takes)) or 'nothing'}."
        raise RecipeError(msg)
    allowed = _matches_any(spec["type"], allow)
    for key, value in spec.items():
        if key != "type":
            _check_parameter(value, f"{name}.{key}", allow, allowed=allowed)


def _check_parameter(value: Any, where: str, allow: Sequence[str], *, allowed: bool) -> None:
    """Check a value in a component's parameters; `allowed`: the user allowed the component's module."""
    if isinstance(value, str):
        server = _server(where.rpartition(".")[2], value)
        if server and server not in allow:
            msg = f"{where}: texts, and keys, would be sent to {server}; if you trust it, pass --allow {server}."
            raise RecipeError(msg)
        module, dot, _ = value.rpartition(".")
        imported = module.partition(".")[0] in _IMPORTED and all(map(str.isidentifier, value.split(".")))
        if dot and imported and not _matches_any(value, allow):
            msg = f"{where}: {value!r} would be imported and called; take it out, or pass --allow {module}."
            raise RecipeError(msg)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            within = where if isinstance(item, str) else f"{where}.{i}"  # `hosts: [...]` are hosts
            _check_parameter(item, within, allow, allowed=allowed)
    elif isinstance(value, dict):
        kind = value.get("type")
        if isinstance(kind, str) and "." in kind:  # Haystack creates every such thing that it finds
            allowed = _check_nested(kind, f"{where}.type", allow)
        if value.get("unsafe") and not allowed:
            msg = f"{where}.unsafe: it would run code that stands in the YAML; take it out."
            raise RecipeError(msg)
        if value.get("recreate_index") and not allowed:
            msg = f"{where}.recreate_index: it would delete an index that is there; take it out."
            raise RecipeError(msg)
        for key, item in value.items():
            if key != "type":
                _check_parameter(item, f"{where}.{key}", allow, allowed=allowed)


def _server(name: str, value: str) -> str | None:
    """Return the server that a parameter names, if it names one that is not this machine."""
    value = value.strip()
    try:
        place = urlsplit(value if "://" in value else f"//{value}" if _ADDRESS.fullmatch(name) else "")
    except ValueError:  # no address that anything could be sent to
        return None
    # A backslash is part of the user's name to some clients, and ends the server's to others.
    host = place.netloc if "\\" in place.netloc else place.hostname
    if not host or host == "localhost":
        return None
    try:
        return None if ip_address(host).is_loopback else host
    except ValueError:  # a name
        return host


def _check_nested(path: str, where: str, allow: Sequence[str]) -> bool:
    """Check the type of something within a component's parameters; tell whether the user allowed its module."""
    kind = load_type(path, where, allow)
    if _matches_any(_full_name(kind), allow):
        return True
    takes = _run_takes(kind)
    is_component = any(way <= takes for _, ways in _COMPONENTS.values() for way in ways)
    if not is_component and not (inspect.isclass(kind) and all(hasattr(kind, method) for method in _STORE)):
        msg = (
            f"{where}: {path!r} is neither a document store nor an embedder, ranker, retriever or chat generator; "
            f"take it out, or pass --allow {kind.__module__}."
        )
        raise RecipeError(msg)
    return False


def _run_takes(kind: Any) -> set[str]:
    """Return the names that a component's `run` takes; of what is no component none."""
    from haystack import component

    component_class: Any = component.registry.get(_full_name(kind))
    return set() if component_class is None else set(inspect.signature(component_class.run).parameters) - {"self"}


def refuse_untrusted(path: str, where: str, allow: Sequence[str]) -> None:
    """
    Check that a type's module may be imported.

    :raises RecipeError:
        If it is in none of the trusted modules, nor in one that was allowed.
    """
    environment = os.environ.get("HAYSTACK_DESERIALIZATION_ALLOWLIST", "").split(",")
    if not _matches_any(path, [*TRUSTED, *allow, *(p.strip() for p in environment if p.strip())]):
        raise _untrusted(path, where, TRUSTED)


def _fits(kind: Any, role: Role, allow: Sequence[str]) -> bool:
    """Tell whether a type is of a role: trust in a package is no leave to call all that it holds."""
    if role == "student":
        return is_student_maker(kind) or _matches_any(_full_name(kind), allow)
    from retort.trainers import roles  # only here: what merely reads recipes does not load torch

    bases = {
        "teacher": roles.Teacher,
        "miner": roles.Miner,
        "selector": roles.Selector,
        "objective": roles.Objective,
        "temperature": roles.Temperature,
        "text": roles.TextTransform,
        "queries": roles.QuerySource,
        "corpus": roles.CorpusSource,
        "weighting": roles.TeacherWeighting,
        "batches": roles.BatchSource,
    }
    return inspect.isclass(kind) and issubclass(kind, bases[role]) and kind is not bases[role]


def _import_type(path: str, where: str) -> Any:
    module, _, name = current_type(path).rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        msg = f"{where}: there is no {path!r} ({error})."
        raise RecipeError(msg) from error
    if not (inspect.isclass(kind) or inspect.isfunction(kind)):
        msg = f"{where}: {path!r} is neither a class nor a function."
        raise RecipeError(msg)
    return kind


def _full_name(kind: Any) -> str:
    """Return where a type is defined, which may be elsewhere than where it was imported from."""
    return f"{kind.__module__}.{kind.__name__}"


def _untrusted(path: str, where: str, modules: Sequence[str]) -> RecipeError:
    module = path.rpartition(".")[0]
    return RecipeError(
        f"{where}: {path!r} is not in a trusted module ({', '.join(modules)}). "
        f"If you trust it, pass --allow {module.split('.')[0] or path}."
    )


def _matches_any(path: str, patterns: Sequence[str]) -> bool:
    module = path.rpartition(".")[0]
    return any(_matches(module, pattern.removesuffix(".*")) for pattern in patterns)


def _matches(module: str, pattern: str) -> bool:
    return module == pattern or module.startswith(f"{pattern}.") or fnmatch.fnmatchcase(module, pattern)
