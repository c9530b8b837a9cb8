# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
from .qdrant_edge_document_store import QdrantEdgeDocumentStore

__all__ = ["QdrantEdgeDocumentStore"]
