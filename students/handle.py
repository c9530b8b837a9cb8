# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""One loaded student for all components of a process."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from retort.students.files import resolve_model
from retort.students.hashing import canonical_json
from retort.students.manifest import MANIFEST_FILE, Manifest
from retort.students.ranker import Ranker
from retort.students.student import Student

logger = logging.getLogger(__name__)

Loaded = TypeVar("Loaded", Student, Ranker)

# Weak: a model lives as long as a handle holds it, and a handle that is garbage holds nothing.
_shared: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()
_loading: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()  # a lock for each that is being loaded
_shared_lock = threading.Lock()
_warned: set[str] = set()


class StudentHandle(Generic[Loaded]):
    """
    A student that components of one process share, loaded when it is first asked for.

    Handles of the same folder and options give the same model; it leaves memory when the last one is released, or is
    garbage. Safe to use from several threads; while one model is loaded, others can be asked for.

    :param kind:
        `Student` or `Ranker`.
    :param model:
        As its `load`.
    :param options:
        Further arguments of its `load`; a callable is called when the student is loaded.
    """

    def __init__(self, kind: type[Loaded], model: str, **options: Any) -> None:
        self._kind: Any = kind
        self._model = model
        self._options = options
        self._student: Loaded | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copy no model: a copy takes the shared one when it is first asked."""
        return vars(self) | {"_student": None}

    @property
    def student(self) -> Loaded:
        """The student; loads it if need be."""
        student = self._student  # another thread may release it meanwhile
        if student is None:
            student = self._student = self._shared_or_loaded()
        return student

    def release(self) -> None:
        """Give the student back; safe to call twice, and the handle can be used again."""
        self._student = None

    def _shared_or_loaded(self) -> Loaded:
        real, stamp = _identity(self._model)
        options: dict[str, Any] = {name: value() if callable(value) else value for name, value in self._options.items()}
        # Arguments for transformers are dictionaries, which a key cannot hold.
        key: tuple[Any, ...] = (self._kind, real, stamp)
        key += tuple((name, canonical_json(v) if isinstance(v, dict) else v) for name, v in sorted(options.items()))
        with _shared_lock:
            loading = _loading.setdefault(key, threading.Lock())
        with loading:
            with _shared_lock:
                student: Loaded | None = _shared.get(key)
            if student is None:
                student = self._kind.load(self._model, **options)
                with _shared_lock:
                    _shared[key] = student
                if stamp and not (Path(real) / MANIFEST_FILE).is_file() and real not in _warned:
                    _warned.add(real)
                    message = "%s has no %s: its space and fingerprint were computed."
                    logger.warning(message, self._model, MANIFEST_FILE)
        return student


def read_manifest(model: str, kind: type[Student] = Student, *, trust_remote_code: bool = False) -> Manifest:
    """Return the manifest of a student: from its folder if it has one, else by loading it as `kind`."""
    manifest = Manifest.read(Path(resolve_model(model)))
    return manifest if manifest is not None else kind.load(model, trust_remote_code=trust_remote_code).manifest


def read_space(model: str, kind: type[Student] = Student, *, trust_remote_code: bool = False) -> str:
    """Return the space of a student; parameters as in `read_manifest`."""
    return read_manifest(model, kind, trust_remote_code=trust_remote_code).space


def _identity(model: str) -> tuple[str, int]:
    """Real path of a folder and time of the last change of what is not hidden; other names as they are, with 0."""
    folder = Path(resolve_model(model))
    if not folder.is_dir():
        return model, 0
    times = [1]
    for path in folder.glob("[!.]*"):
        with suppress(OSError):  # a link that leads nowhere, or a file that vanishes meanwhile
            times.append(path.stat().st_mtime_ns)
    return str(folder.resolve()), max(times)
