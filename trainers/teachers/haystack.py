# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Haystack components given as YAML, for teachers and miners: loading, identity, retries."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, TypeVar

from retort.students.hashing import canonical_json, hash_text
from retort.trainers.recipe.trust import check_component
from retort.trainers.runtime.errors import RecipeError

logger = logging.getLogger(__name__)

REMOTE_RETRIES = 5
LONGEST_WAIT = 60.0  # seconds
EMBEDDERS = {"text": "text_embedder", "document": "document_embedder"}  # their short names are in keys of caches

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class HaystackComponents:
    """
    Components that belong together, such as a retriever and its embedder.

    :param specs:
        `{type, init_parameters}` by what it is: `ranker`, `retriever`, `generator`, `text_embedder` or `text`,
        `document_embedder` or `document`. All are checked before one is created (see `check_component`).
    :param revision:
        Version of what is behind a remote interface. Required where a component has an API key: nothing else tells
        when such a model changes.
    :param retries:
        How often a failed call is repeated, with growing pauses; None: 5 times for remote components, never for local
        ones, which would only fail again.
    :param concurrency:
        Calls at a time.
    :param allowed_modules:
        Further modules that the components may come from.
    :raises RecipeError:
        If a component is not trusted or not of its kind, or has an API key and no revision is given.
    """

    def __init__(
        self,
        specs: dict[str, dict[str, Any]],
        *,
        revision: str | None = None,
        retries: int | None = None,
        concurrency: int = 1,
        allowed_modules: list[str] | None = None,
    ) -> None:
        from haystack import Pipeline

        self.specs = {name: {"init_parameters": {}} | spec for name, spec in specs.items()}
        self._revision = revision
        self._concurrency = concurrency
        tree = {"components": self.specs, "connections": []}
        for name, spec in self.specs.items():
            check_component(spec, EMBEDDERS.get(name, name), allowed_modules or ())
        self._pipeline = Pipeline.from_dict(tree, allowed_modules=allowed_modules)
        self._made = {name: self._pipeline.get_component(name) for name in self.specs}
        remote = any("api_key" in inspect.signature(type(made).__init__).parameters for made in self._made.values())
        if remote and revision is None:
            msg = "name a `revision` for a model behind an API key; its answers are cached under it."
            raise RecipeError(msg)
        self._retries = (REMOTE_RETRIES if remote else 0) if retries is None else retries

    def __getitem__(self, name: str) -> Any:
        """Return a component, not warmed up."""
        return self._made[name]

    def parameters(self, name: str) -> set[str]:
        """Return the names that a component's `run` takes."""
        return set(inspect.signature(self._made[name].run).parameters)

    @cached_property
    def warm(self) -> dict[str, Any]:
        """The components, ready to run."""
        self._pipeline.warm_up()
        return self._made

    @cached_property
    def key(self) -> str:
        """Canonical YAML, content of local paths, package versions and revision."""
        parts: list[Any] = [self.specs, self._revision]
        for spec in self.specs.values():
            parts += [package_versions(spec["type"]), local_content(spec["init_parameters"])]
        return hash_text(canonical_json(parts))

    def each(self, call: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
        """
        Call for one item after the other, several at a time if the component's owner allows, and repeat what failed.

        Answers come in the order of the items; those before a failure are given.
        """
        from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt
        from tenacity import wait_random_exponential as growing

        _ = self.warm  # here, before threads ask for it

        def patiently(item: Item) -> Answer:
            again = Retrying(
                stop=stop_after_attempt(self._retries + 1),
                wait=growing(multiplier=1, max=LONGEST_WAIT),
                retry=retry_if_exception_type(Exception),
                before_sleep=before_sleep_log(logger, logging.WARNING),
                reraise=True,
            )
            return again(call, item)

        if self._concurrency == 1:
            yield from map(patiently, items)
            return
        with ThreadPoolExecutor(self._concurrency) as pool:
            try:
                yield from pool.map(patiently, items)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def local_content(parameters: Any, name: str = "") -> Any:
    """
    Hash every file and folder that init parameters name, nested components' own among them; None without any.

    Indexes are not looked into: they change by being opened, and what they are to hold is the corpus.
    """
    if isinstance(parameters, dict):
        found = {key: local_content(value, str(key)) for key, value in parameters.items() if key != "document_store"}
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
    return sorted(f"{name}=={version(name)}" for name in set(packages_distributions().get(module, [])))
