# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
from haystack_integrations.components.readers.retort.extractive_answerer import ExtractiveAnswerer

__all__ = ["ExtractiveAnswerer"]
