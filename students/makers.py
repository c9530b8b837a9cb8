# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The mark of functions that recipes may call for a student."""

from collections.abc import Callable
from typing import Any, TypeVar

Maker = TypeVar("Maker", bound=Callable[..., Any])


def student_maker(function: Maker) -> Maker:
    """Mark a function of ours as one that recipes may name as `student`; it is returned as it is."""
    function.__retort_student_maker__ = True  # type: ignore[attr-defined]
    return function


def is_student_maker(kind: Any) -> bool:
    """Tell whether something has the mark."""
    return getattr(kind, "__retort_student_maker__", False) is True
