# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
The import finder of an editable install. Copied into site-packages, where a `.pth` file calls `install` at start-up.

Import packages and source folders have different names, so no folder on `sys.path` can hold both. This puts one
entry on `sys.path` that no folder stands behind, and answers for it. The import system does the rest: it merges this
entry with other distributions' shares of `haystack_integrations`, and gives every module its real `__file__`.
"""

import os
import sys
from importlib.machinery import ModuleSpec

ENTRY = os.path.splitext(__file__)[0]


class Finder:
    """Finds what is directly in one package (PEP 451's path entry finder)."""

    def __init__(self, sources: dict[str, str], package: str) -> None:
        """
        Look in one package.

        :param sources:
            Import package -> its folder, or its file: a renamed `__init__`, or a plain module.
        :param package:
            The package to look in; empty for the top level.
        """
        self.sources = sources
        self.package = package

    def find_spec(self, fullname: str, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        """Find a package, or our share of a namespace package."""
        source, has_packages = self.sources.get(fullname), self.has_packages(fullname)
        if source is None:
            if not has_packages:
                return None
            namespace = ModuleSpec(fullname, None, is_package=True)
            namespace.submodule_search_locations = [os.path.join(ENTRY, fullname)]
            return namespace
        if not os.path.exists(source):
            msg = f"{fullname} is no longer at {source}: run `pip install -e .` again in the checkout of retort"
            raise ModuleNotFoundError(msg, name=fullname, path=source)

        from importlib.util import spec_from_file_location  # not above: every Python process loads this module

        if not source.endswith(".py"):
            init = os.path.join(source, "__init__.py")
            return spec_from_file_location(fullname, init, submodule_search_locations=[source])
        folders = [os.path.join(ENTRY, fullname)] if has_packages else None
        return spec_from_file_location(fullname, source, submodule_search_locations=folders)

    def has_packages(self, fullname: str) -> bool:
        """Tell whether any of the packages lies in this one."""
        return any(name.startswith(f"{fullname}.") for name in self.sources)

    def iter_modules(self, prefix: str = "") -> list[tuple[str, bool]]:
        """List the packages for `pkgutil`, which asks for pairs of a name and whether it is a package."""
        return [
            (prefix + name.rpartition(".")[2], not source.endswith(".py") or self.has_packages(name))
            for name, source in self.sources.items()
            if name.rpartition(".")[0] == self.package
        ]


def install(sources: dict[str, str]) -> None:
    """
    Make packages importable from their source folders.

    :param sources:
        Import package -> its folder, or its `__init__` file under another name.
    """

    def hook(path: str) -> Finder:
        if path != ENTRY and not path.startswith(ENTRY + os.sep):
            raise ImportError(path)
        return Finder(sources, path[len(ENTRY) + 1 :])

    if ENTRY not in sys.path:  # a virtual environment runs each `.pth` file twice
        sys.path_hooks.append(hook)
        sys.path.append(ENTRY)
