# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Which form of a student runs: its torch model, in a precision, or one of its exports."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal, cast

from retort.students.backends.onnx import FOLDER, ExportError, ExportPrecision
from retort.students.checks import positive
from retort.students.extras import TRAIN, has_torch
from retort.students.loading import Kwargs, Precision, PrecisionError, check_precision, has_bfloat16, names_dtype
from retort.students.manifest import Manifest

logger = logging.getLogger(__name__)

Backend = Literal["auto", "torch", "onnx"]
BACKENDS = ("auto", "torch", "onnx")


def check_form(precision: Precision | None, backend: Backend, threads: int | None = None) -> None:
    """
    Refuse values that no model knows, before one is loaded.

    :param precision:
        As in `Student.load`.
    :param backend:
        Likewise.
    :param threads:
        Likewise.
    :raises PrecisionError:
        If there is no such precision.
    :raises ValueError:
        If there is no such backend, or `threads` is not above 0.
    """
    check_precision(precision)
    if backend not in BACKENDS:
        msg = f"backend={backend!r}: must be one of {', '.join(BACKENDS)}."
        raise ValueError(msg)
    if threads is not None:
        positive("threads", threads)


def choose(
    manifest: Manifest | None,
    backend: Backend,
    precision: Precision | None,
    device: str,
    *,
    changed: bool = False,
    kwargs: Mapping[str, Kwargs] | None = None,
) -> tuple[Literal["torch", "onnx"], Precision]:
    """
    Decide on backend and precision.

    :param manifest:
        The student's; None if it has none.
    :param backend:
        `auto` takes what the precision needs; without one, what `retort export` chose.
    :param precision:
        None takes what `retort export` chose for CPUs, else float32.
    :param device:
        Where it is to run; exports run on CPUs.
    :param changed:
        Whether the lengths are other than the manifest's.
    :param kwargs:
        Arguments for transformers by their names: they are for torch models.
    :raises ExportError:
        If an export is asked for that cannot be used.
    :raises PrecisionError:
        If both `precision` and the arguments name a dtype.
    """
    passed_on = [name for name, values in (kwargs or {}).items() if values]
    best = chosen_export(manifest)
    files: list[Precision] = [e["precision"] for e in (manifest.exports if manifest is not None else []) if e["file"]]
    if backend == "auto":
        if precision == "int8":
            backend = "onnx"
        elif files and precision != "bfloat16" and not has_torch():
            backend, precision = "onnx", None if precision == "auto" else precision
        elif precision is not None or best is None or device != "cpu" or changed or passed_on:
            backend = "torch"
        elif best["precision"] == "bfloat16" and not has_bfloat16(device):
            logger.warning("The student's best form is bfloat16, which this CPU would emulate; float32 runs.")
            backend = "torch"
        else:
            return ("onnx" if best["file"] else "torch"), best["precision"]
    if backend == "torch":
        if not has_torch():
            msg = f"Without torch only exports run: `retort export` makes them where torch is, or {TRAIN} here."
            raise ExportError(msg)
        if precision == "int8":
            msg = "precision='int8' is an ONNX export: use backend='onnx' or 'auto'."
            raise PrecisionError(msg)
        if precision is not None and names_dtype(*(kwargs or {}).values()):
            msg = f"precision={precision!r}: {passed_on[0]} names a dtype, too; set precision to None (YAML: null)."
            raise PrecisionError(msg)
        return "torch", precision or "float32"
    if passed_on:
        msg = f"{passed_on[0]}: an ONNX export runs as it was written. Leave it out, or set backend to torch."
        raise ExportError(msg)
    if device != "cpu":
        msg = f"ONNX exports run on the CPU, not on {device}: set device to cpu, or backend to torch."
        raise ExportError(msg)
    if manifest is None or changed:
        what = "was given other lengths than its manifest's" if changed else "has no retort.json"
        msg = f"The model {what}, so it has no ONNX export: save it with `save_student` and run `retort export`."
        raise ExportError(msg)
    if precision is None:
        only: Precision = files[0] if len(files) == 1 else "float32"
        precision = cast("Precision", best["precision"]) if best is not None and best["file"] else only
    return "onnx", precision


def chosen_export(manifest: Manifest | None) -> dict[str, Any] | None:
    """Return the entry of a manifest that `retort export` found best."""
    return next((e for e in manifest.exports if e.get("chosen")), None) if manifest is not None else None


def export_precision(precision: Precision) -> ExportPrecision:
    """
    Return a precision that exports have.

    :raises PrecisionError:
        If it is not one.
    """
    if precision in ("float32", "int8"):
        return precision  # type: ignore[return-value]
    msg = f"precision={precision!r}: {FOLDER.upper()} exports have float32 and int8."
    raise PrecisionError(msg)
