# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Wheel from sdist, complete; and uninstalling it leaves the neighbours in the namespace alone."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)  # sdist first, then the wheel from it
    assert built.returncode == 0, built.stdout + built.stderr
    return next(out.glob("*.whl"))


@pytest.mark.integration
def test_the_wheel_holds_everything(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for source, target in (
        ("students", "retort/students"),
        ("trainers", "retort/trainers"),
        ("pipelines", "retort/pipelines"),
        ("cli", "retort/cli"),
        ("examples", "retort/examples"),
        ("components/embedders", "haystack_integrations/components/embedders/retort"),
        ("components/retrievers", "haystack_integrations/components/retrievers/retort"),
        ("components/readers", "haystack_integrations/components/readers/retort"),
        ("components/document_stores", "haystack_integrations/document_stores/retort"),
    ):
        files = [p for p in (ROOT / source).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        assert files
        missing = [p for p in files if f"{target}/{p.relative_to(ROOT / source).as_posix()}" not in names]
        assert missing == []
    assert {"retort/__init__.py", "retort/indexes.py", "retort/workflows.py", "retort/py.typed"} <= names
    strangers = [n for n in names if not n.startswith(("retort/", "haystack_integrations/", "retort_haystack-"))]
    assert strangers == []
    shared = [n for n in names if n.startswith("haystack_integrations/") and "/retort/" not in n]
    assert shared == []


@pytest.mark.integration
def test_the_sdist_can_be_developed(wheel):
    """It holds what an editable install and `make check` need."""
    with tarfile.open(next(wheel.parent.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"hatch_build.py", "hatch_editable.py", "Makefile", ".ci/typecheck.py", "tests/test_editable.py"} <= names
    assert not [name for name in names if name.startswith(".typing")]


@pytest.mark.integration
def test_neighbours_survive_install_and_uninstall(wheel, tmp_path):
    """Into a bare environment beside a copy of qdrant-haystack's own files."""
    import haystack_integrations.document_stores.qdrant as neighbour

    site = tmp_path / "env" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    theirs = site / "haystack_integrations" / "document_stores" / "qdrant"
    theirs.mkdir(parents=True)
    for path in Path(neighbour.__file__).parent.glob("*.py"):
        (theirs / path.name).write_bytes(path.read_bytes())
    (theirs.parent / "py.typed").touch()

    def files() -> list[Path]:
        return sorted(p for p in (site / "haystack_integrations").rglob("*") if p.is_file())

    before = files()
    pip = [sys.executable, "-m", "pip", "--python", str(tmp_path / "env" / "bin" / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-compile", str(wheel)], check=True)
    assert (site / "haystack_integrations" / "document_stores" / "retort" / "__init__.py").is_file()
    subprocess.run([*pip, "uninstall", "--quiet", "--yes", "retort-haystack"], check=True)
    assert files() == before
    assert not [p for p in (site / "retort").rglob("*") if p.is_file()]


def test_the_compose_file_and_its_commands():
    """Docker itself cannot run here; what the file tells it to run can be parsed."""
    from retort.cli.main import build_parser

    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert set(services) == {"qdrant", "index", "app"}
    for name in ("index", "app"):
        command = [
            "quickstart/student".join(part.split("${STUDENT:-quickstart/student}"))
            for part in services[name]["command"]
        ]
        given = build_parser().parse_args(command)
        assert given.store == "http://qdrant:6333/documents"
        assert services[name]["environment"]["QDRANT_API_KEY"].startswith("${QDRANT_API_KEY:?")
    assert given.allowed_hosts == ["localhost", "127.0.0.1"]  # it listens to all, and may have no key
