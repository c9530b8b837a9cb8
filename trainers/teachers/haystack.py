# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Haystack components given as YAML, for teachers and miners: loading, identity, retries."""

from __future__ import annotations

import copy
import hashlib
import inspect
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache, cached_property
from importlib.metadata import packages_distributions, version
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from retort.students.hashing import canonical_json, hash_text
from retort.students.images import ImageFile
from retort.students.redaction import redacted
from retort.trainers.recipe.trust import check_component, load_type
from retort.trainers.runtime.errors import RecipeError, TeacherError
from retort.trainers.teachers.calls import Caller, Refusal, first_address

if TYPE_CHECKING:
    from haystack import Document

REMOTE_RETRIES = 5
STORE = "document_store"  # no model, wherever it is
EMBEDDERS = {"text": "text_embedder", "document": "document_embedder"}  # their short names are in keys of caches

# A component whose `__init__` takes one of these asks a server.
_REMOTE = {
    "api_key", "api_base_url", "api_base", "base_url", "api_url", "url", "api_params", "azure_endpoint", "endpoint",
}  # fmt: skip
_OF_CLOUDS = ("aws_", "gcp_", "vertex_ai_", "project_id")  # as do names that begin so
_HUB_TOKEN = "token"  # a secret that local models take as well
# Parameters of such components that do not change what a model answers: how it is reached, paid, and waited for.
INCIDENTAL = {
    "api_key", "token", "organization", "project", "headers", "extra_headers", "default_headers", "http_client_kwargs",
    "timeout", "max_retries", "retries", "batch_size", "concurrency_limit", "progress_bar", "raise_on_failure",
    "streaming_callback",
}  # fmt: skip
# Of local components: where and by what they run.
PLACES = {"device", "backend", "local_files_only", "trust_remote_code"}
NOT_OF_LOCAL = INCIDENTAL | PLACES
# The same among an LLM's `generation_kwargs`.
INCIDENTAL_GENERATION = {
    "user", "metadata", "store", "service_tier", "stream", "stream_options", "extra_headers", "timeout",
    "safety_identifier", "prompt_cache_key",
}  # fmt: skip

# The same of what asks components: teachers, miners, sources of queries.
INCIDENTAL_HERE = {"retries", "concurrency", "max_calls", "price"}

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class HaystackComponents:
    """
    Components that belong together, such as a retriever and its embedder.

    Remote ones take an API key, another secret than the Hub's `token`, a server's address or an account of a cloud; or
    they hold such a component. They are called with their own retries off, which would multiply ours, and with
    `raise_on_failure` on, else they hide why.

    :param specs:
        `{type, init_parameters}` by what it is: `ranker`, `retriever`, `generator`, `text_embedder` or `text`,
        `document_embedder` or `document`. All are checked before one is created (see `check_component`).
    :param revision:
        Version of what is behind a remote interface. Required where a component is remote: nothing else tells when
        such a model changes.
    :param retries:
        How often a failed call is repeated, if that may help (see `Caller`); None: as often as the component's
        `max_retries` says, else 5 times for remote components, never for local ones, which would only fail again.
    :param concurrency:
        Calls at a time.
    :param max_calls:
        How many calls there may be in a run; then it stops, and what came is kept. None: any number.
    :param purpose:
        What they are asked for, such as a prompt: `max_calls` counts for each purpose.
    :param overruled:
        Parameters that each call overrules.
    :param allowed_modules:
        Further modules that the components may come from.
    :param shares:
        Components whose `max_calls` counts these calls too, in place of a limit of their own.
    :raises RecipeError:
        If a component is not trusted or not of its kind, or is remote and no revision is given; or if the run asks
        another server of this machine under the same key, see `key`.
    """

    def __init__(
        self,
        specs: dict[str, dict[str, Any]],
        *,
        revision: str | None = None,
        retries: int | None = None,
        concurrency: int = 1,
        max_calls: int | None = None,
        purpose: str = "",
        overruled: Iterable[str] = (),
        allowed_modules: list[str] | None = None,
        shares: HaystackComponents | None = None,
    ) -> None:
        from haystack import Pipeline

        for name, number, least in (
            ("retries", retries, 0), ("concurrency", concurrency, 1), ("max_calls", max_calls, 0)
        ):  # fmt: skip
            if number is not None and number < least:
                msg = f"{name}: {number}; it must be {least} or more."
                raise RecipeError(msg)
        self.specs = {name: {"init_parameters": {}} | spec for name, spec in specs.items()}
        self._revision = revision
        for name, spec in self.specs.items():
            check_component(spec, EMBEDDERS.get(name, name), allowed_modules or ())
        self._allow, self._overruled = allowed_modules or (), set(overruled)
        self._remote = {name for name, spec in self.specs.items() if self._is_remote(spec)}
        called = {n: self._as_called(spec) if n in self._remote else spec for n, spec in self.specs.items()}
        self._pipeline = Pipeline.from_dict({"components": called, "connections": []}, allowed_modules=allowed_modules)
        self._made = {name: self._pipeline.get_component(name) for name in self.specs}
        if self._remote and revision is None:
            msg = "name a `revision` for a model behind an API key or an address; its answers are cached under it."
            raise RecipeError(msg)
        if retries is None:
            own = [number for spec in self.specs.values() for number in _values("max_retries", spec)]
            retries = (max(own) if own else REMOTE_RETRIES) if self._remote else 0
        self.concurrency = concurrency
        name = canonical_json([self.specs, revision, purpose, max_calls])
        self._caller: Caller = Caller(
            retries=retries,
            concurrency=concurrency,
            max_calls=max_calls,
            name=name,
            paid=self.remote,
            shares=None if shares is None else shares._caller,
        )
        for remote in sorted(self._remote):
            self._check_address(remote, purpose)

    def __getitem__(self, name: str) -> Any:
        """Return a component, not warmed up."""
        return self._made[name]

    @property
    def remote(self) -> bool:
        """Whether one of them asks a server."""
        return bool(self._remote)

    def asks_server(self, name: str) -> bool:
        """Tell whether a component is remote; not so if there is none of this name."""
        return name in self._remote

    def assumed_seconds(self, calls: int, each: float) -> float | None:
        """Say about how long calls of remote components take; local ones are not known."""
        return calls * each / self.concurrency if self.remote else None

    def parameters(self, name: str) -> set[str]:
        """Return the names that a component's `run` takes."""
        return set(inspect.signature(self._made[name].run).parameters)

    @cached_property
    def warm(self) -> dict[str, Any]:
        """
        The components, ready to run.

        :raises TeacherError:
            If one cannot be, as where the environment lacks its key.
        """
        try:
            self._pipeline.warm_up()
        except Exception as error:
            names = " and ".join(spec["type"].rpartition(".")[2] for spec in self.specs.values())
            msg = f"{names} cannot start: {error}."
            raise TeacherError(msg) from error
        return self._made

    @cached_property
    def key(self) -> str:
        """
        What decides the answers.

        Of local components it is their canonical YAML without `INCIDENTAL` parameters and `PLACES` (a local retriever's
        has them), the content of local paths and package versions; of remote ones the revision and their parameters,
        defaults included, without `INCIDENTAL` ones. Of a server's address the host, the path and the query count, as
        another provider's model may have the same name.
        """
        if self._remote:
            return hash_text(canonical_json([self.key_of(n) for n in self.specs]))
        if "retriever" in self.specs:  # mined lists and searches know no former key
            return self.former_key
        return self._key_with({n: without_incidental(s, NOT_OF_LOCAL, NOT_OF_LOCAL) for n, s in self.specs.items()})

    @cached_property
    def former_key(self) -> str:
        """The key as it was when every parameter counted; caches may still go by it."""
        return self._key_with(self.specs)

    def _key_with(self, specs: dict[str, dict[str, Any]]) -> str:
        """Hash components as described, with what their YAML does not say."""
        parts: list[Any] = [specs, self._revision]
        for spec in self.specs.values():
            parts += [package_versions(spec["type"]), local_content(spec["init_parameters"])]
        return hash_text(canonical_json(parts))

    def key_of(self, name: str) -> str:
        """Return what decides the answers of one of them, as `key` has it."""
        spec = self.specs[name]
        if name in self._remote:
            return hash_text(canonical_json([self._decisive(spec, self._overruled), self._revision]))
        parts = [spec, package_versions(spec["type"]), local_content(spec["init_parameters"])]
        return hash_text(canonical_json(parts))

    def embeds_as(self, name: str, dim: int) -> dict[str, Any]:
        """Describe what decides a document embedder's vectors: parameters of `remote_space`."""
        spec = self.specs[name]
        given = self._decisive(spec, self._overruled)["parameters"]
        parameters = {n: v for n, v in given.items() if n not in _REMOTE}
        model = str(parameters.pop("model", ""))
        return {
            "provider": spec["type"],
            "model": f"sha256 {hash_path(model)}" if is_local("model", model) else model,
            "revision": parameters.pop("revision", None) or self._revision,
            "dimensions": dim,
            "prompt": parameters.pop("prefix", ""),
            "separator": parameters.pop("embedding_separator", ""),
            "meta_fields": parameters.pop("meta_fields_to_embed", []),
            **{n: v for n, v in parameters.items() if n not in {"dimensions", "truncate_dim"} and n not in PLACES},
        }

    def answer(self, name: str, output: str, question: str, **inputs: Any) -> list[Any]:
        """
        Run a component, and return the list that it answers with.

        :param name:
            The component.
        :param output:
            The list's name in its answer: `documents` or `replies`.
        :param question:
            What messages call the inputs.
        :param inputs:
            Of its `run`.
        :returns:
            Documents, whose scores are numbers or missing; or messages.
        :raises TeacherError:
            If it fails, or its answer is no such list.
        """
        from haystack import Document
        from haystack.dataclasses import ChatMessage

        kind: Any = {"documents": Document, "replies": ChatMessage}[output]
        component = self.specs[name]["type"]
        try:
            items = self.warm[name].run(**inputs).get(output)
        except Exception as error:
            msg = f"{component} failed on {question}: {error}"
            raise TeacherError(msg) from error
        if not isinstance(items, list | tuple) or not all(isinstance(item, kind) for item in items):
            msg = f"{component} answered {question} with no list of {kind.__name__} as {output}: {repr(items)[:80]}"
            raise TeacherError(msg)
        if kind is Document and (wrong := [item for item in items if not _is_scored(item)]):
            first = wrong[0]
            msg = f"{component} answered {question} with a score that is no number: {first.id} ({first.score!r})"
            raise TeacherError(msg)
        return [*items]

    def each(
        self, call: Callable[[Item], Answer | Refusal], items: Iterable[Item], **options: Any
    ) -> Iterator[tuple[Item, Answer | Refusal]]:
        """Call for each item, see `Caller.each`; `options` are its."""
        items = list(items)
        if items:
            _ = self.warm  # here, before threads ask for it
        yield from self._caller.each(call, items, **options)

    def _class(self, spec: Mapping[str, Any]) -> Any:
        return load_type(spec["type"], "type", self._allow)

    def _is_remote(self, spec: dict[str, Any]) -> bool:
        known = _takes(self._class(spec))
        # Of a component without one (LLMRanker) the default asks a server.
        by_default = "chat_generator" in known and not spec["init_parameters"].get("chat_generator")
        named = any(name in _REMOTE or name.startswith(_OF_CLOUDS) or _is_secret(p) for name, p in known.items())
        return named or by_default or any(self._is_remote(one) for one in _within(spec))

    def _check_address(self, name: str, purpose: str) -> None:
        """Refuse a second server of this machine under the same key: their answers would be mixed."""
        here = " and ".join(_loopback_addresses(self.specs[name]))
        if (first := first_address(hash_text(f"{self.key_of(name)} {purpose}"), here)) != here:
            kind = self.specs[name]["type"].rpartition(".")[2]
            msg = (
                f"{kind} at {first} and {kind} at {here} would share one cache, as a port is not part of its key. Name "
                "another `revision` for one of the two."
            )
            raise RecipeError(msg)

    def _as_called(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Turn a component's own retries off, and its errors on; the same of those within it."""
        spec = copy.deepcopy(spec)
        for one in [spec, *_within(spec, deep=True)]:
            known = _takes(self._class(one))
            set_here = {"max_retries": 0, "raise_on_failure": True}
            one["init_parameters"] = (
                ({"progress_bar": False} if "progress_bar" in known else {})
                | one["init_parameters"]
                | {name: value for name, value in set_here.items() if name in known}
            )
        return spec

    def _decisive(self, spec: dict[str, Any], overruled: set[str]) -> dict[str, Any]:
        kind = self._class(spec)
        known = _takes(kind)
        defaults = {n: p.default for n, p in known.items() if isinstance(p.default, str | int | float)}
        out = INCIDENTAL | (overruled & inspect.signature(kind.run).parameters.keys())
        given = defaults | spec["init_parameters"]
        values = {name: self._value(name, value) for name, value in given.items() if name not in out}
        # Without what is unset: a parameter that a later version adds changes nothing by being there.
        return {"type": spec["type"], "parameters": {n: v for n, v in values.items() if v not in ("", None, {}, [])}}

    def _value(self, name: str, value: Any) -> Any:
        return _decisive_value(name, value, lambda spec: self._decisive(spec, set()))


def _is_scored(document: Document) -> bool:
    """Tell whether a document's score is a number, or missing."""
    try:
        float(0.0 if document.score is None else document.score)
    except (TypeError, ValueError):
        return False
    return True


def _decisive_value(
    name: str, value: Any, decisive: Callable[[dict[str, Any]], Any], incidental: Collection[str] = INCIDENTAL
) -> Any:
    """
    Give a parameter's value as it counts, None where it does not.

    :param decisive:
        Does that for components within.
    :param incidental:
        What does not count in a dictionary that is no component.
    """
    if name == STORE:
        return value
    if isinstance(value, str) and "://" in value:
        url = urlsplit(value)
        if url.scheme not in {"http", "https"}:
            return value
        query = "&".join(part for part in url.query.split("&") if redacted(f"?{part}") == f"?{part}")  # keys stay out
        return f"{url.hostname}{url.path.rstrip('/')}{'?' if query else ''}{query}"
    if isinstance(value, list):
        return [_decisive_value(name, one, decisive, incidental) for one in value]
    if not isinstance(value, dict):
        return value
    if value.get("type") in {"env_var", "token"}:  # a secret, whatever it is called
        return None
    if _is_component(value):
        return decisive(value)
    out = INCIDENTAL_GENERATION if name == "generation_kwargs" else incidental
    return {n: _decisive_value(n, v, decisive, incidental) for n, v in value.items() if n not in out}


def without_incidental(
    spec: dict[str, Any], incidental: Collection[str] = INCIDENTAL_HERE, within: Collection[str] = INCIDENTAL
) -> dict[str, Any]:
    """
    Describe what asks components, such as a teacher, without how they are reached, and how often they are asked.

    :param spec:
        Its `{type, init_parameters}`.
    :param incidental:
        Its parameters that do not count.
    :param within:
        The same of components within it.
    """

    def inner(component: dict[str, Any]) -> dict[str, Any]:
        return without_incidental(component, within, within)

    given = {n: v for n, v in (spec.get("init_parameters") or {}).items() if n not in incidental}
    own = {n: _decisive_value(n, v, inner, incidental) for n, v in given.items()}
    return spec | {"init_parameters": own}


def _takes(kind: Any) -> Mapping[str, inspect.Parameter]:
    """Return what a class is created with; its own signature may be that of Haystack's metaclass."""
    return inspect.signature(kind.__init__).parameters


def _is_secret(parameter: inspect.Parameter) -> bool:
    """Tell whether a parameter is a secret that a server asks for."""
    from haystack.utils import Secret

    named = re.search(r"\bSecret\b", str(parameter.annotation))  # postponed annotations are texts
    return parameter.name != _HUB_TOKEN and bool(named or isinstance(parameter.default, Secret))


def _loopback_addresses(tree: Any) -> list[str]:
    """List the hosts of this machine that addresses in a component's parameters name, with their ports."""
    if isinstance(tree, str) and "://" in tree:
        try:
            url = urlsplit(tree)
            here = url.hostname == "localhost" or ip_address(url.hostname or "").is_loopback
        except ValueError:  # another name, or no address
            return []
        return [url.netloc.rpartition("@")[2].lower()] if here else []
    named = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [address for name, value in named if name != STORE for address in _loopback_addresses(value)]


def _is_component(value: Any) -> bool:
    return isinstance(value, dict) and "." in str(value.get("type")) and isinstance(value.get("init_parameters"), dict)


def _within(spec: Any, *, deep: bool = False) -> list[dict[str, Any]]:
    """List the components in a component's parameters, document stores left out; `deep`: also those in them."""
    named = spec.items() if isinstance(spec, dict) else enumerate(spec) if isinstance(spec, list) else ()
    values = [value for name, value in named if name != STORE]
    found = []
    for value in values:
        here = _is_component(value)
        found += [value] if here else []
        found += _within(value, deep=deep) if deep or not here else []
    return found


def _values(name: str, tree: Any) -> list[Any]:
    """List the numbers that a name has anywhere in a tree."""
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    own = [tree[name]] if isinstance(tree, dict) and isinstance(tree.get(name), int) else []
    return own + [number for value in values for number in _values(name, value)]


def local_content(parameters: Any, name: str = "") -> Any:
    """
    Hash every file and folder that init parameters name, nested components' own among them; None without any.

    Indexes are not looked into: they change by being opened, and what they are to hold is the corpus.
    """
    if isinstance(parameters, dict):
        found = {key: local_content(value, str(key)) for key, value in parameters.items() if key != STORE}
        return {key: value for key, value in found.items() if value is not None} or None
    if isinstance(parameters, list):
        return [local_content(value, name) for value in parameters] or None
    return hash_path(parameters) if is_local(name, parameters) else None


def is_local(name: str, value: Any) -> bool:
    """Tell whether an init parameter is the path of something that exists; separators and prompts are not."""
    if not isinstance(value, str) or not any(word in name for word in ("model", "path", "folder", "dir")):
        return False
    try:
        return bool(value) and Path(value).exists()
    except OSError:  # longer than any path
        return False


def hash_path(value: str) -> str:
    """Hash a file, or all files of a folder, by content."""
    path = Path(value)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(path).as_posix().encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def package_versions(component_type: str) -> list[str]:
    """Versions of the distributions that a component's top module belongs to (several share a namespace)."""
    module = component_type.split(".", 1)[0]
    return sorted(f"{name}=={version(name)}" for name in set(_distributions().get(module, [])))


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Which distributions modules are of: Python reads the files of all that are installed to tell."""
    return packages_distributions()


def document_of(name: str, item: Any, field: str | None = None) -> Document:
    """
    Put a text into a document of Haystack's, or the path of an image into its metadata.

    :param name:
        The document's id.
    :param item:
        A text, or an `ImageFile`.
    :param field:
        The metadata field that the component reads paths from; None: it reads texts alone.
    :raises TeacherError:
        If it is an image, and the component reads texts alone.
    """
    from haystack import Document

    if isinstance(item, ImageFile):
        if field is None:
            msg = f"{item} is an image, and the teacher's component reads texts: it has no file_path_meta_field."
            raise TeacherError(msg)
        return Document(id=name, meta={field: os.path.realpath(item)})
    return Document(id=name, content=item)


def refuse_query(query: str) -> None:
    """
    Refuse an image as a query: components of Haystack's take texts.

    :raises TeacherError:
        If it is one.
    """
    if isinstance(query, ImageFile):
        msg = f"the query {query} is an image; components of Haystack's take texts. Take a BiEncoderTeacher."
        raise TeacherError(msg)
