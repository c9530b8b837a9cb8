# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The command `retort`."""

from retort.cli.main import main

__all__ = ["main"]
