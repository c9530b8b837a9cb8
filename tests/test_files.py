# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Files and folders are whole or absent, on the disk before they are renamed, and leave nothing behind when killed."""

import errno
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from haystack import Document
from safetensors.numpy import save_file
from tiny import killed
from tokenizers import Tokenizer, models

from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.students import files
from retort.students.files import (
    DamagedFileError,
    delete_folder,
    read_json,
    read_or_remove,
    reading,
    remove_leftovers,
    replace_file,
    replace_folder,
    visible_files,
)


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def write_file(path: Path) -> None:
    with replace_file(path) as aside:
        aside.write_text("new")


def write_folder(path: Path) -> None:
    with replace_folder(path) as aside:
        (aside / "in").mkdir()
        (aside / "in" / "b").write_text("new")


class TestKilled:
    def test_file(self, tmp_path):
        path = tmp_path / "a"
        path.write_text("old")
        killed(lambda: write_file(path), 1)
        assert path.read_text() == "old"
        assert len(names(tmp_path)) == 2
        write_file(path)
        assert names(tmp_path) == ["a"]
        assert path.read_text() == "new"

    @pytest.mark.parametrize("renames", [1, 2])
    def test_folder(self, tmp_path, renames):
        """Also between the two renames, when nothing is in its place."""
        path = tmp_path / "run" / "student"
        path.mkdir(parents=True)
        (path / "b").write_text("old")
        killed(lambda: write_folder(path), renames)
        assert path.exists() is (renames == 1)
        remove_leftovers(tmp_path)
        assert names(tmp_path) == ["run", "run/student", "run/student/b"]
        assert (path / "b").read_text() == "old"
        killed(lambda: write_folder(path), renames)
        write_folder(path)
        assert names(tmp_path) == ["run", "run/student", "run/student/in", "run/student/in/b"]

    def test_deleted_folder_leaves_no_part_in_its_place(self, tmp_path, monkeypatch):
        path = tmp_path / "step-1"
        write_folder(path)
        monkeypatch.setattr(files.shutil, "rmtree", lambda *_, **__: os._exit(9))
        killed_in = os.fork()
        if killed_in == 0:
            delete_folder(path)
        os.waitpid(killed_in, 0)
        monkeypatch.undo()
        assert not path.exists()
        assert names(tmp_path)
        remove_leftovers(tmp_path)
        assert names(tmp_path) == []


class TestLeftovers:
    def test_beside_an_index(self, tmp_path):
        left = tmp_path / f".index.{'0' * 32}"
        (left / "segments").mkdir(parents=True)
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
        store.write_documents([Document(id="1", content="x")])
        store.close()
        assert [p.name for p in tmp_path.iterdir()] == ["index"]

    def test_new_folders_replace_nothing(self, tmp_path):
        write_folder(tmp_path / "a")
        with pytest.raises(OSError), replace_folder(tmp_path / "a", new=True):
            pass
        assert names(tmp_path) == ["a", "a/in", "a/in/b"]

    def test_what_is_being_written_stays(self, tmp_path):
        """Two write the same at once: neither takes the other's for one of a killed process."""
        path = tmp_path / "a"
        with replace_file(path) as one:
            one.write_text("one")
            with replace_file(path) as other:
                other.write_text("other")
                remove_leftovers(tmp_path)
            assert path.read_text() == "other"
        assert path.read_text() == "one"
        with replace_folder(tmp_path / "f") as one:
            remove_leftovers(tmp_path)
            write_folder(tmp_path / "f")
            (one / "c").write_text("one")
        assert names(tmp_path) == ["a", "f", "f/c"]

    def test_where_nothing_can_be_locked(self, tmp_path, monkeypatch):
        def refuse(*_):
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(files.fcntl, "flock", refuse)
        write_file(tmp_path / "a")
        write_folder(tmp_path / "f")
        with replace_file(tmp_path / "b") as aside:
            aside.write_text("new")
            remove_leftovers(tmp_path)  # it may be in use: it stays
        assert names(tmp_path) == ["a", "b", "f", "f/in", "f/in/b"]

    @pytest.mark.parametrize(("replace", "create"), [(replace_file, "touch"), (replace_folder, "mkdir")])
    def test_what_has_just_been_created_is_created_again(self, tmp_path, monkeypatch, replace, create):
        """Until it is locked, a process that tidies up takes it for a killed one's."""
        original, created = getattr(Path, create), []

        def interrupted(path, *arguments, **options):
            original(path, *arguments, **options)
            created.append(path)
            if len(created) == 1:
                remove_leftovers(tmp_path)

        with monkeypatch.context() as patch:
            patch.setattr(Path, create, interrupted)
            with replace(tmp_path / "new") as aside:
                assert aside.exists()
        assert len(created) == 2
        assert names(tmp_path) == ["new"]

    def test_folders_that_vanish_meanwhile_are_passed_over(self, tmp_path, monkeypatch):
        """As those do that another process writes aside."""
        scandir = os.scandir

        def interrupted(path):
            if Path(path).name == "b":
                Path(path).rmdir()
            return scandir(path)

        (tmp_path / "a" / "b").mkdir(parents=True)
        write_folder(tmp_path / "c")
        monkeypatch.setattr(os, "scandir", interrupted)
        assert visible_files(tmp_path) == [tmp_path / "c" / "in" / "b"]
        (tmp_path / "a" / "b").mkdir()
        remove_leftovers(tmp_path)

    def test_hidden_files_are_not_listed(self, tmp_path):
        for name in (".git/index", "a/.git/index", "a/b", "a/.b", ".c", "d"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "link").symlink_to("nowhere")
        assert visible_files(tmp_path) == [tmp_path / "a" / "b", tmp_path / "d"]

    def test_other_hidden_files_stay(self, tmp_path):
        kept = [".lock", ".a.b", f".{'0' * 32}", f"a.{'0' * 32}", f".a.{'0' * 31}"]
        for name in kept:
            (tmp_path / name).write_text("")
        (tmp_path / f".a.{'0' * 32}").write_text("")
        write_file(tmp_path / "a")
        remove_leftovers(tmp_path)
        assert names(tmp_path) == sorted([*kept, "a"])


def test_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    """Each file and folder that is written, then the rename, then the folder that it is in."""
    done: list[str] = []
    name = {}
    real_open, real_replace, real_rename = os.open, os.replace, Path.rename

    def opened(path, *arguments):
        handle = real_open(path, *arguments)
        name[handle] = Path(path).name
        return handle

    monkeypatch.setattr(files.os, "open", opened)
    monkeypatch.setattr(files.os, "fsync", lambda handle: done.append(name[handle]))
    monkeypatch.setattr(files.os, "replace", lambda *a: done.append("renamed") or real_replace(*a))
    monkeypatch.setattr(Path, "rename", lambda *a: done.append("renamed") or real_rename(*a))
    write_file(tmp_path / "a")
    assert done[0].startswith(".a.")
    assert done[1:] == ["renamed", tmp_path.name]
    done.clear()
    write_folder(tmp_path / "f")
    assert done[:2] == ["in", "b"]
    assert done[2].startswith(".f.")
    assert done[3:] == ["renamed", tmp_path.name]


def save_tensors(path: Path) -> None:
    save_file({"a": np.zeros(10_000)}, path)


def save_tokenizer(path: Path) -> None:
    Tokenizer(models.WordLevel({f"word{i}": i for i in range(1000)}, "word0")).save(str(path))


@contextmanager
def small_files():
    """Let no file have more than 1,000 bytes: a disk that is full answers in the same way."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestFullDisk:
    @pytest.mark.parametrize("write", [save_tensors, save_tokenizer, lambda path: path.write_bytes(bytes(10_000))])
    def test_errors_of_libraries_are_the_systems(self, tmp_path, write):
        with small_files():
            with pytest.raises(OSError, match="File too large") as file, replace_file(tmp_path / "a") as aside:
                write(aside)
            with pytest.raises(OSError, match="File too large") as folder, replace_folder(tmp_path / "f") as aside:
                write(aside / "in")
        assert file.value.errno == folder.value.errno == errno.EFBIG
        assert names(tmp_path) == []

    def test_that_numpy_forgets_the_number_of(self, tmp_path):
        """It says `2000 requested and 42 written`."""
        with (
            small_files(),
            pytest.raises(OSError, match="No space") as error,
            replace_file(tmp_path / "a.npy") as aside,
            open(aside, "wb") as file,
        ):
            np.save(file, np.zeros(2000))
        assert error.value.filename == str(tmp_path / "a.npy")
        assert names(tmp_path) == []

    def test_the_place_is_named(self, tmp_path):
        with pytest.raises(OSError, match="No space") as error, replace_folder(tmp_path / "f"):
            raise OSError(errno.ENOSPC, "No space left on device")
        assert error.value.filename == str(tmp_path / "f")

    def test_other_errors_stay(self, tmp_path):
        with pytest.raises(RuntimeError), replace_file(tmp_path / "a"):
            raise RuntimeError
        with pytest.raises(OSError, match="no place") as error, replace_file(tmp_path / "a"):
            raise OSError(errno.EIO, "no place")
        assert error.value.filename is None
        other = "its server failed: No such file or directory (os error 2)"
        with pytest.raises(RuntimeError, match="its server"), replace_file(tmp_path / "a"):
            raise RuntimeError(other)


class TestDamaged:
    def test_the_file_and_the_mend_are_named(self, tmp_path):
        path = tmp_path / "a.json"
        path.write_bytes(b'{"a": "\xff"}')
        with pytest.raises(DamagedFileError) as error:
            read_json(path, "Delete it.")
        assert str(error.value).startswith(f"{path} is damaged (UnicodeDecodeError: ")
        assert str(error.value).endswith("). Delete it.")

    def test_errors_of_the_system_stay(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            read_json(tmp_path / "a.json", "Delete it.")
        with pytest.raises(PermissionError), reading(tmp_path / "a", "Delete it."):
            raise PermissionError(13, "Permission denied")
        msg = "Corrupt snappy compressed data."
        with pytest.raises(DamagedFileError, match="Corrupt snappy"), reading(tmp_path / "a", "Delete it."):
            raise OSError(msg)  # as Parquet's reader does

    def test_what_can_be_made_again_is_removed(self, tmp_path, caplog):
        path = tmp_path / "a"
        assert read_or_remove(path, Path.read_text) is None
        path.write_text("x")
        assert read_or_remove(path, Path.read_text) == "x"
        path.write_bytes(b"\xff")
        assert read_or_remove(path, Path.read_text) is None
        assert not path.exists()
        assert f"{path} is damaged" in caplog.text
