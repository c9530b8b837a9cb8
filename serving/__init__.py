# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Serving an index over HTTP: Hayhooks with our pipelines, a page for people, and guards."""
