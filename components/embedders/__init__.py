# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
from haystack_integrations.components.embedders.retort.student_document_embedder import StudentDocumentEmbedder
from haystack_integrations.components.embedders.retort.student_document_image_embedder import (
    StudentDocumentImageEmbedder,
)
from haystack_integrations.components.embedders.retort.student_multi_view_document_embedder import (
    StudentMultiViewDocumentEmbedder,
)
from haystack_integrations.components.embedders.retort.student_sparse_document_embedder import (
    StudentSparseDocumentEmbedder,
)
from haystack_integrations.components.embedders.retort.student_sparse_text_embedder import StudentSparseTextEmbedder
from haystack_integrations.components.embedders.retort.student_text_embedder import StudentTextEmbedder

__all__ = [
    "StudentDocumentEmbedder",
    "StudentDocumentImageEmbedder",
    "StudentMultiViewDocumentEmbedder",
    "StudentSparseDocumentEmbedder",
    "StudentSparseTextEmbedder",
    "StudentTextEmbedder",
]
