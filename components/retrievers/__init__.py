# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
from haystack_integrations.components.retrievers.retort.student_retriever import SpaceMismatchError, StudentRetriever

__all__ = ["SpaceMismatchError", "StudentRetriever"]
