# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""A document side that is a teacher behind an API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retort.students.loading import assemble
from retort.students.makers import student_maker

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@student_maker
def remote_documents(*, teacher: str, dim: int, similarity: str = "cosine") -> SentenceTransformer:
    """
    Leave documents to a teacher's embedder: for the document side of `two_towers`, whose student encodes queries only.

    An index of that embedder's is searched with the student's queries, once `retort stamp` has compared the two.

    ```yaml
    student:
      type: retort.students.create.two_towers
      init_parameters:
        query: {type: retort.students.create.from_layers, init_parameters: {trunk: ..., layers: [0, 5], dim: 1536}}
        document: {type: retort.students.create.remote_documents, init_parameters: {teacher: api, dim: 1536}}
    ```

    :param teacher:
        Name of a teacher that embeds documents by a Haystack component (`EmbedderTeacher`).
    :param dim:
        Dimension of its vectors.
    :param similarity:
        How they are compared, as the teacher says: `cosine` or `dot`.
    """
    from sentence_transformers import SentenceTransformer

    from retort.students.modules.remote import RemoteDocuments

    module = RemoteDocuments(dim=dim, teacher=teacher)
    return assemble(SentenceTransformer, [module], similarity_fn_name=similarity)
