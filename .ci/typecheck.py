# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Type-check our packages, or those named as arguments; errors name the real files.

Type checkers look modules up in folders only, so they get a folder of links, `.typing`, in which the source folders
have their import packages' names. mypy would name the links, so its output is translated.
"""

import os
import shutil
import sys
from pathlib import Path

from mypy import api

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))

from hatch_build import mounts, packages  # noqa: E402

LINKS = ".typing"


def link() -> None:
    """Make the links anew."""
    shutil.rmtree(ROOT / LINKS, ignore_errors=True)
    for source, target in mounts(ROOT).items():
        path = ROOT / LINKS / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(os.path.relpath(ROOT / source, path.parent), target_is_directory=(ROOT / source).is_dir())


def main() -> int:
    """Run mypy on each package."""
    link()
    os.chdir(ROOT)
    names = sys.argv[1:] or [name for name in packages(ROOT) if not name.startswith("retort.")]  # `retort` has those
    output, errors, status = api.run([part for name in names for part in ("-p", name)])
    for source, target in mounts(ROOT).items():
        output = output.replace(f"{LINKS}/{target}", source)
    print(output, end="")
    print(errors, end="", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
