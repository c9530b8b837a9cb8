# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Any pair of Haystack embedders as teacher."""

from __future__ import annotations

import hashlib
import inspect
from functools import cached_property
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np

from retort.students.hashing import canonical_json, hash_text
from retort.students.sides import Side
from retort.trainers.errors import RecipeError


class EmbedderTeacher:
    """
    A Haystack text embedder for queries and document embedder for documents, as YAML would name them.

    :param text_embedder:
        `{type, init_parameters}` of a component whose `run(text=...)` gives `embedding`.
    :param document_embedder:
        `{type, init_parameters}` of a component whose `run(documents=...)` gives `documents` with embeddings.
    :param similarity:
        How the vectors are compared: `cosine` or `dot`.
    :param revision:
        Version of a model behind a remote interface; its vectors are cached under it. Required where a component
        has an API key: nothing else tells when such a model changes.
    :param allowed_modules:
        Further modules that the components may come from (filled from `--allow`).
    :raises RecipeError:
        If a component has an API key and no revision is given.
    """

    def __init__(
        self,
        *,
        text_embedder: dict[str, Any],
        document_embedder: dict[str, Any],
        similarity: str = "cosine",
        revision: str | None = None,
        allowed_modules: list[str] | None = None,
    ) -> None:
        from haystack import Pipeline

        self._specs = {"text": text_embedder, "document": document_embedder}
        self.similarity = similarity
        self._revision = revision
        specs = {name: {"init_parameters": {}} | spec for name, spec in self._specs.items()}
        self._pipeline = Pipeline.from_dict({"components": specs, "connections": []}, allowed_modules=allowed_modules)
        if revision is None and any(_is_remote(self._pipeline.get_component(name)) for name in specs):
            msg = "name a `revision` for a model behind an API key; its vectors are cached under it."
            raise RecipeError(msg)

    @cached_property
    def _components(self) -> dict[str, Any]:
        self._pipeline.warm_up()
        return {name: self._pipeline.get_component(name) for name in self._specs}

    @cached_property
    def key(self) -> str:
        """Canonical YAML, content of local paths, package versions and revision."""
        parts: list[Any] = [self._specs, self._revision, self.similarity]
        for spec in self._specs.values():
            parts.append(_package_version(spec["type"]))
            given = spec.get("init_parameters") or {}
            parts.append({name: hash_path(value) for name, value in given.items() if is_local(name, value)})
        return hash_text(canonical_json(["embedder", *parts]))

    @cached_property
    def dim(self) -> int:
        """Dimension of the vectors, asked for once."""
        return self.encode(["dimension"], "query").shape[1]

    def encode(self, texts: list[str], side: Side) -> np.ndarray:
        """
        Give the vectors `[n, dim]` float32 of `n` texts.

        :raises ValueError:
            If the embedder does not give a vector for each text.
        """
        if side == "query":
            run = self._components["text"].run
            return np.array([run(text=text)["embedding"] for text in texts], dtype=np.float32)
        from haystack import Document

        documents = [Document(id=str(i), content=text) for i, text in enumerate(texts)]
        found = {d.id: d.embedding for d in self._components["document"].run(documents=documents)["documents"]}
        missing = [d.id for d in documents if found.get(d.id) is None]
        if missing:
            msg = f"{self._specs['document']['type']} gave no embedding for {len(missing)} of {len(texts)} documents."
            raise ValueError(msg)
        return np.array([found[d.id] for d in documents], dtype=np.float32)


def is_local(name: str, value: Any) -> bool:
    """Tell whether an init parameter is the path of something that exists; separators and prompts are not."""
    if not isinstance(value, str) or not any(word in name for word in ("model", "path", "folder", "dir")):
        return False
    try:
        return bool(value) and Path(value).exists()
    except OSError:  # longer than any path
        return False


def _is_remote(component: Any) -> bool:
    return "api_key" in inspect.signature(type(component).__init__).parameters


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


def _package_version(component_type: str) -> list[str]:
    """Versions of the distributions that a component's top module belongs to (several share a namespace)."""
    module = component_type.split(".", 1)[0]
    return sorted(f"{name}=={version(name)}" for name in set(packages_distributions().get(module, [])))
