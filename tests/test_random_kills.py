# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Commands killed at random moments, again and again, end where uninterrupted ones do, and leave nothing behind."""

import os
import random
import shutil
from pathlib import Path

import pytest
import yaml
from killable import Killable

from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.students import Manifest, Student, save_student

pytestmark = [pytest.mark.integration, pytest.mark.long]

# The same bytes each time; other files have times in them.
SAME = {".npy", ".npz", ".onnx", ".parquet", ".run", ".safetensors", ".tsv", ".yaml", ".yml"}
SCALE = float(os.environ.get("RETORT_KILL_SHARE", "1"))  # share of the 50 kills, for a slow machine


@pytest.fixture(scope="module")
def killable():
    with Killable() as server:
        yield server


def index_of(folder: Path) -> dict:
    store = QdrantEdgeDocumentStore(path=str(folder))
    try:
        return {d.id: d.to_dict() for d in store.filter_documents()}
    finally:
        store.close()


def snapshot(root: Path) -> dict:
    """All names below a folder, and what must be the same; an engine's folder counts by its documents."""
    found: dict = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if "locks" in path.parts or any(p.startswith("index/") for p in (name, name.partition("/")[2])):
            continue
        found[name] = path.read_bytes() if path.is_file() and path.suffix in SAME else None
        if path.name == "index":
            found[name] = index_of(path)
        elif path.name == "retort.json":
            found[name] = sorted((e["file"], e.get("fingerprint")) for e in Manifest.read(path.parent).exports)
    return found


def assert_survives(killable, command, root: Path, kills: int, *, after=lambda: None) -> None:
    """
    Kill a command `kills` times, at random changes of files or after random processor times, going on in between.

    :param root:
        What it writes; as it is before, it is put back for each new start.
    :param after:
        Called after each kill.
    """
    traced, before = root.parent / "traced", root.parent / "before"
    traced.mkdir(exist_ok=True)
    shutil.copytree(root, before)
    whole = killable.run(command, root, traced)
    assert whole["status"] == 0, whole["said"]
    expected, moments, done = snapshot(root), random.Random(str(command[0])), 0
    while done < kills * SCALE:
        shutil.rmtree(root)
        shutil.copytree(before, root)
        status = -9
        while status == -9:
            # Both kinds of moments: nothing is seen of what native code writes.
            moment = {"event": moments.randint(1, whole["events"])}
            if whole["events"] < 20 or moments.random() < 0.5:
                moment = {"seconds": moments.uniform(0.0, whole["seconds"])}
            run = killable.run(command, root, traced, **(moment if done < kills * SCALE else {}))
            status = run["status"]
            assert status in {0, -9}, (moment, run["said"])
            if status == -9:
                done += 1
                after()
        found = snapshot(root)
        assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
        assert [name for name in found if found[name] != expected[name]] == []


@pytest.fixture
def train(tmp_path, beir):
    """The command that trains by a recipe, in `root`."""

    def command(tree: dict) -> list:
        root = tmp_path / "root"
        root.mkdir()
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
        return [
            "train",
            "--no-export",
            "--recipe",
            tmp_path / "recipe.yaml",
            "--data",
            beir,
            "--resume",
            "--out",
            root / "run",
        ]

    return command


@pytest.mark.parametrize("fixture", ["prod_tree", "r2anker_tree"])
def test_train(fixture, request, killable, train, tmp_path):
    """Also while lists are mined, while a teacher is trained, and while the student is saved."""
    assert_survives(killable, train(request.getfixturevalue(fixture)), tmp_path / "root", 8)


def test_distill(killable, recipe_tree, tmp_path):
    """Queries, training, figures, exports, index, pipelines and report."""
    documents = tmp_path / "handbook"
    documents.mkdir()
    for topic in ("sea", "kitchen", "garden", "music", "math"):
        for i in range(8):
            text = f"# The {topic} {i}\n\nThe {topic} is near the number {i}. What is a {topic} with {i + 7} numbers?"
            (documents / f"{topic} {i}.md").write_text(text)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_tree))
    (tmp_path / "root").mkdir()
    command = ["distill", "--documents", documents, "--recipe", tmp_path / "recipe.yaml", "--dev-share", "0.3"]
    assert_survives(killable, [*command, "--out", tmp_path / "root" / "out"], tmp_path / "root", 14)


def test_index(killable, beir, tiny_student, tmp_path):
    (tmp_path / "root").mkdir()
    command = ["index", tiny_student, "--documents", beir, "--store", tmp_path / "root" / "index"]
    assert_survives(killable, command, tmp_path / "root", 12)


def test_export_again(killable, beir, tiny_model, tmp_path):
    """A student with exports of before can be loaded after each kill."""
    student = tmp_path / "root" / "student"
    save_student(tiny_model(1), student)
    (tmp_path / "traced").mkdir()
    first = killable.run(["export", student, "--data", beir], tmp_path / "root", tmp_path / "traced")
    assert first["status"] == 0, first["said"]

    def load() -> None:
        assert Student.load(str(student), device="cpu").encode_query(["the sea"]).shape == (1, 16)

    assert_survives(killable, ["export", student, "--data", beir], tmp_path / "root", 8, after=load)
