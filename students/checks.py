# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Checks of what components are given."""

from numbers import Integral


def positive(name: str, value: int) -> int:
    """
    Return a count.

    :param name:
        The parameter's name, for the message.
    :param value:
        The count.
    :raises ValueError:
        If it is no whole number above 0.
    """
    if not isinstance(value, Integral):
        msg = f"{name} must be a whole number; it is {value!r}."
        raise ValueError(msg)
    if value <= 0:
        msg = f"{name} must be above 0; it is {value}."
        raise ValueError(msg)
    return value
