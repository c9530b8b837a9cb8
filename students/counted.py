# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Where saved students of earlier versions look for `CountedEmbedding`; sentence-transformers imports it by itself."""

from retort.students.modules.counted import CountedEmbedding

__all__ = ["CountedEmbedding"]
