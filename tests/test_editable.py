# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""An editable install: each module is its real file, though import packages and folders have different names."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path
from pkgutil import walk_packages

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES: dict[str, str] = runpy.run_path(str(ROOT / "hatch_build.py"))["packages"](ROOT)
BUILD_FILES = ("hatch_build.py", "hatch_editable.py", "pyproject.toml", "README.md", "LICENSE", "py.typed")
SOURCE = '"""A module."""\n\n\ndef where() -> str:\n    return __file__\n\n\nhere = where()\n'


def test_every_module_is_its_real_file():
    """Of the install that the tests run in."""
    pytest.importorskip("_retort_editable", reason="retort is not installed editable here")
    packages = {init.parent for path in PACKAGES.values() for init in Path(path).rglob("__init__.py")}
    expected = {path for path in PACKAGES.values() if path.endswith(".py")}
    expected |= {str(path) for package in packages for path in package.glob("*.py")}
    names = set(PACKAGES)
    for name in PACKAGES:
        folders = find_spec(name).submodule_search_locations or []
        names |= {module.name for module in walk_packages(folders, f"{name}.")}
    assert find_spec("retort.workflows").submodule_search_locations is None  # a module, no package
    assert {find_spec(name).origin for name in names} == expected


class Install:
    """A small checkout of our shape, installed editable in an environment of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkout = folder / "checkout"
        self.checkout.mkdir()
        for name in BUILD_FILES:
            shutil.copyfile(ROOT / name, self.checkout / name)
        for path in PACKAGES.values():
            target = self.checkout / Path(path).relative_to(ROOT)
            if path.endswith(".py"):
                target.write_text(SOURCE)
            else:
                target.mkdir(parents=True)
                (target / "__init__.py").write_text(SOURCE)
                (target / "plain.py").write_text(SOURCE)
        with (self.checkout / "api.py").open("a") as file:
            file.write('__version__ = "1.2"\n')
        venv.create(folder / "env", symlinks=os.name != "nt")
        self.python = folder / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.site = Path(self.json("import sysconfig; print(json.dumps(sysconfig.get_path('purelib')))"))
        self.install()

    def install(self) -> None:
        """Do what pip does: have hatchling build a wheel, and unpack it."""
        before = sorted(self.checkout.rglob("*"))
        wheels = self.folder / "wheels"
        code = f"from hatchling.build import build_editable; build_editable({str(wheels)!r})"
        subprocess.run([sys.executable, "-B", "-c", code], cwd=self.checkout, check=True)
        assert sorted(self.checkout.rglob("*")) == before
        (wheel,) = wheels.iterdir()
        zipfile.ZipFile(wheel).extractall(self.site)

    def run(self, code: str) -> subprocess.CompletedProcess:
        """Run code in a new interpreter."""
        (self.folder / "script.py").write_text(f"import json\n{code}")
        return subprocess.run([str(self.python), "-B", str(self.folder / "script.py")], capture_output=True, text=True)

    def json(self, code: str):
        """Run code in a new interpreter, and return what it prints as JSON."""
        done = self.run(code)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def install(tmp_path_factory) -> Install:
    return Install(tmp_path_factory.mktemp("editable"))


def test_breakpoints_stop_at_real_paths(install):
    """In plain modules, and in `__init__` files under either name."""
    paths = [
        str(install.checkout / name) for name in ("api.py", "workflows.py", "students/__init__.py", "trainers/plain.py")
    ]
    code = f"""
import bdb
class Debugger(bdb.Bdb):
    def user_line(self, frame):
        if self.get_break(frame.f_code.co_filename, frame.f_lineno):
            stops.append(frame.f_code.co_filename)
stops, debugger = [], Debugger()
for path in {paths}:
    assert debugger.set_break(path, 5) is None
debugger.run("import retort.workflows, retort.students, retort.trainers.plain")
print(json.dumps(stops))
"""
    assert install.json(code) == paths


def test_namespaces_stay_shared(install):
    """With another distribution's packages in them, or with none."""
    neighbour = install.site / "haystack_integrations" / "components" / "embedders" / "neighbour.py"
    neighbour.parent.mkdir(parents=True)
    neighbour.touch()
    code = """
import haystack_integrations.components.embedders.neighbour as theirs
import haystack_integrations.components.embedders.retort.plain as ours
import haystack_integrations.components.readers.retort as alone
import haystack_integrations.components.embedders as shared, haystack_integrations.components.readers as unshared
print(json.dumps([getattr(m, "__file__", None) for m in (theirs, ours, alone, shared, unshared)]))
"""
    components = install.checkout / "components"
    real = [neighbour, components / "embedders" / "plain.py", components / "readers" / "__init__.py"]
    assert install.json(code) == [*map(str, real), None, None]


def test_the_standard_librarys_ways_to_modules(install):
    code = """
import inspect, multiprocessing, pkgutil, runpy
from importlib import metadata, resources
import retort, retort.trainers.plain as plain
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        spawned = pool.apply(plain.where)
    print(json.dumps({
        "modules": {module.name: module.ispkg for module in pkgutil.iter_modules(retort.__path__)},
        "source": inspect.getsource(retort),
        "resource": resources.files("retort").joinpath("py.typed").is_file(),
        "run": runpy.run_module("retort.trainers.plain")["here"],
        "spawned": spawned,
        "version": metadata.version("retort-haystack"),
    }))
"""
    trainer = str(install.checkout / "trainers" / "plain.py")
    assert install.json(code) == {
        "modules": {
            name.removeprefix("retort."): not path.endswith(".py")
            for name, path in PACKAGES.items()
            if name.startswith("retort.")
        },
        "source": (install.checkout / "api.py").read_text(),
        "resource": True,
        "run": trainer,
        "spawned": trainer,
        "version": "1.2",
    }


def test_edits_and_new_files_need_no_reinstall(install):
    package = install.checkout / "students" / "new"
    package.mkdir()
    for text in ("first", "second"):
        (package / "__init__.py").write_text(f"text = {text!r}")
        assert install.json("from retort.students.new import text; print(json.dumps(text))") == text


def test_a_moved_checkout_says_so_until_it_is_reinstalled(install):
    old, new = install.checkout, install.folder / "m\u00f6ved"
    old.rename(new)
    try:
        assert install.run("").stderr == ""  # Python itself starts
        for name in ("retort", "haystack_integrations.components.readers.retort"):
            last = install.run(f"import {name}").stderr.splitlines()[-1]
            assert last.startswith(f"ModuleNotFoundError: {name} is no longer at {old}")
            assert "pip install -e ." in last
        install.checkout = new
        install.install()
        assert install.json("import retort; print(json.dumps(retort.here))") == str(new / "api.py")
    finally:
        new.rename(old)
        install.checkout = old
        install.install()


@pytest.mark.integration
def test_type_errors_name_the_real_file(install):
    """mypy sees links only."""
    shutil.copytree(ROOT / ".ci", install.checkout / ".ci")
    for name in ("api.py", "students/plain.py"):
        with (install.checkout / name).open("a") as file:
            file.write('number: int = ""\n')
    command = [sys.executable, str(install.checkout / ".ci" / "typecheck.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert sorted(line.partition(":")[0] for line in done.stdout.splitlines()[:-1]) == ["api.py", "students/plain.py"]
