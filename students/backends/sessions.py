# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Graphs of ONNX, open to be run by onnxruntime."""

from __future__ import annotations

import os
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retort.students.extras import TRAIN

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class ExportError(ValueError):
    """A model that cannot be exported, or an export that is not there or not of this model."""


class Sessions:
    """A graph, open with all its threads for one item, and with a thread each for many beside each other."""

    def __init__(self, path: Path, threads: int | None) -> None:
        self.path = path
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.threads = threads or available or 1
        self.one = open_session(path, threads)

    @cached_property
    def each(self) -> InferenceSession:
        """Opened by the first batch: a service that embeds queries alone needs none."""
        return self.one if self.threads == 1 else open_session(self.path, 1)


def open_session(path: Path, threads: int | None = None) -> InferenceSession:
    """
    Open a graph.

    :param path:
        The file.
    :param threads:
        Threads of one call; None takes all cores.
    :raises ExportError:
        If it cannot be opened.
    """
    ort = import_for_onnx("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        found: InferenceSession = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of onnxruntime's own classes: no graph, or one whose weights lie outside its folder
        msg = f"{path}: cannot be opened as an ONNX graph: {' '.join(str(error).split())}"
        raise ExportError(msg) from error
    return found


def import_for_onnx(name: str) -> Any:
    """
    Import what exports need.

    :raises ExportError:
        If it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        msg = f"ONNX needs {name}: `{TRAIN}`."
        raise ExportError(msg) from error
