# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Skeletons of methods to come, each of which proves that a role can be filled from outside."""
