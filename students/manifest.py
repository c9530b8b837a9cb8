# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort.json`: what a student is, where it came from and how good it is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from retort.students.files import write_json
from retort.students.views import ViewRule

MANIFEST_FILE = "retort.json"
QUERIES_ONLY = (
    "This student encodes queries only: another component embeds its documents. Write them to the index with that "
    "component, then: retort stamp STORE --student DIR --embedder FILE.yaml."
)


_MAY_LACK = {"views", "passage_words"}


class ManifestError(ValueError):
    """A student folder and its manifest do not fit together."""


@dataclass(kw_only=True)
class Manifest:
    """
    The manifest of a student folder, format 1. Unknown fields are ignored on reading.

    `max_tokens` and `prompts` are keyed `query` and `document`; `space` and `fingerprint` are sha256 digests (see
    `retort.students.hashing`); `exports` lists other artefacts of the folder with their measured quality and speed;
    `views` says how a student of kind `multi_view` sees documents with questions; `passage_words` how long are the
    passages of files that it was made for, 0 where nothing is said.
    """

    kind: str
    dim: int
    similarity: str
    prompts: dict[str, str]
    max_tokens: dict[str, int | None]
    space: str
    fingerprint: str
    exports: list[dict[str, Any]] = field(default_factory=list)
    recipe: str | None = None
    teachers: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    parents: list[str] = field(default_factory=list)
    views: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    passage_words: int = 0
    format: int = 1

    @property
    def view_rule(self) -> ViewRule:
        """How the student sees a document and its questions; old manifests do not say, and have the defaults."""
        return ViewRule.of(self.views)

    def write(self, folder: Path) -> None:
        """Write the manifest into a student folder, whole or not at all; some fields where they say something."""
        write_json(folder / MANIFEST_FILE, {n: v for n, v in asdict(self).items() if v or n not in _MAY_LACK})

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """
        Read a folder's manifest.

        :returns:
            The manifest, or None if the folder has none.
        :raises ManifestError:
            If the file is not valid, or of a later format.
        """
        path = folder / MANIFEST_FILE
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != 1:
                msg = f"{path}: format {content['format']} is not known to this version of retort; upgrade it."
                raise ManifestError(msg)
            known = {name: content[name] for name in (f.name for f in fields(cls)) if name in content}
            for name, kind in get_type_hints(cls).items():
                plain = get_origin(kind) if get_origin(kind) in (dict, list) else kind
                if not isinstance(known.get(name), plain) and name in known:
                    msg = f"{name}: {known[name]!r}"
                    raise TypeError(msg)
            found = cls(**known)
            _ = found.view_rule  # refused here, where the file can be named
            return found
        except ManifestError:
            raise
        except (ValueError, RecursionError, KeyError, TypeError) as error:  # not JSON, not UTF-8, not ours
            said = f"{type(error).__name__}: {error}"
            msg = f"{path}: not a valid manifest ({said}). Delete the file to have it computed anew."
            raise ManifestError(msg) from error


def student_manifest(folder: Path) -> Manifest:
    """
    Read the manifest of a folder that must be a student's.

    :param folder:
        The folder.
    :raises ManifestError:
        If it has none, or not a valid one.
    """
    manifest = Manifest.read(folder) if folder.is_dir() else None
    if manifest is None:
        msg = f"{folder}: exports are made of a student's folder, with retort.json. `save_student` writes one."
        raise ManifestError(msg)
    return manifest
