# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Mounts the flat source folders on their import packages: copied into wheels, linked by editable installs."""

import os
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def mounts(root: Path) -> dict[str, str]:
    """Source path -> import path. A component folder counts once it is a package (has an `__init__.py`)."""
    found = {"api.py": "retort/__init__.py", "py.typed": "retort/py.typed"}
    found |= {name: f"retort/{name}" for name in ("students", "trainers", "pipelines", "serving", "cli", "examples")}
    for init in sorted((root / "components").glob("*/__init__.py")):
        name = init.parent.name
        parent = "" if name == "document_stores" else "components/"
        found[f"components/{name}"] = f"haystack_integrations/{parent}{name}/retort"
    return found


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        """Copy for wheels, link for editable installs."""
        root = Path(self.root)
        if version != "editable":
            build_data["force_include"].update({str(root / source): target for source, target in mounts(root).items()})
            return
        for source, target in mounts(root).items():
            link = root / ".editable" / target
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(root / source, link.parent), target_is_directory=(root / source).is_dir())
