# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can mend."""


class DataError(ValueError):
    """A data file is malformed or does not fit its neighbours; the message names file and line."""


class RecipeError(ValueError):
    """A recipe has an unknown key, type or value; the message names its place in the recipe."""


class CacheError(ValueError):
    """A cache is held by another process or does not fit what is asked of it."""


class TeacherError(ValueError):
    """A teacher failed, or its answer cannot be used."""
