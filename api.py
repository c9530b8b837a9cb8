# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""retort: distil small, fast retrievers out of strong, slow ones. Mounted as `retort/__init__.py`."""

__version__ = "0.1.0"
