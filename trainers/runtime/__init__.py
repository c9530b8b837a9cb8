# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The ground floor of training: errors, progress, random numbers, processes."""
