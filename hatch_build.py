# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Mounts the flat source folders on their import packages: copied into wheels, looked up by editable installs."""

from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def mounts(root: Path) -> dict[str, str]:
    """Source path -> import path. A component folder counts once it is a package (has an `__init__.py`)."""
    targets = {"api.py": "retort/__init__.py", "py.typed": "retort/py.typed"}
    targets |= {name: f"retort/{name}" for name in ("indexes.py", "workflows.py")}
    targets |= {name: f"retort/{name}" for name in ("students", "trainers", "pipelines", "serving", "cli", "examples")}
    for init in sorted((root / "components").glob("*/__init__.py")):
        name = init.parent.name
        parent = "" if name == "document_stores" else "components/"
        targets[f"components/{name}"] = f"haystack_integrations/{parent}{name}/retort"
    return targets


def packages(root: Path) -> dict[str, str]:
    """Import package -> absolute path of its folder, or of its file: a renamed `__init__`, or a plain module."""
    targets = {
        source: target.removesuffix("/__init__.py").removesuffix(".py") for source, target in mounts(root).items()
    }
    del targets["py.typed"]  # of `retort`, and beside its `__init__` file already
    return {target.replace("/", "."): str(root / source) for source, target in targets.items()}


def start_up(root: Path) -> str:
    """Return the line of an editable install's `.pth` file, in ASCII: Python reads it in the locale's encoding."""
    return f"import _retort_editable; _retort_editable.install({packages(root)!a})\n"


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        """Copy the folders into a wheel; give an editable install the finder that knows where they are."""
        root = Path(self.root)
        if version != "editable":
            build_data["force_include"].update({str(root / source): target for source, target in mounts(root).items()})
            return
        self.pth.write_text(start_up(root), encoding="ascii")
        build_data["force_include_editable"] = {
            str(root / "hatch_editable.py"): "_retort_editable.py",
            str(self.pth): "_retort_editable.pth",
        }

    def finalize(self, version: str, build_data: dict, artifact_path: str) -> None:  # noqa: ARG002
        """Leave only the wheel in the output folder."""
        self.pth.unlink(missing_ok=True)

    @property
    def pth(self) -> Path:
        """Where the `.pth` file waits to be packed."""
        return Path(self.directory) / "_retort_editable.pth"
