# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Checks of what components are given."""


def positive(name: str, value: int) -> int:
    """
    Return a count.

    :param name:
        The parameter's name, for the message.
    :param value:
        The count.
    :raises ValueError:
        If it is not above 0.
    """
    if value <= 0:
        msg = f"{name} must be above 0; it is {value}."
        raise ValueError(msg)
    return value
