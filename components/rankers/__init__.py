# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
from haystack_integrations.components.rankers.retort.student_ranker import StudentRanker

__all__ = ["StudentRanker"]
