# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""A local sparse encoder (SPLADE) as teacher: it scores lists by the products of its vectors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from retort.students.sparse import SparseStudent
from retort.trainers.roles import Ask
from retort.trainers.teachers.bi_encoder import BiEncoderTeacher


class SparseEncoderTeacher(BiEncoderTeacher):
    """
    A sentence-transformers `SparseEncoder`, or a sparse student of earlier days; parameters as of `BiEncoderTeacher`.

    It gives scores of lists: vectors over a vocabulary are too long to be kept for a whole corpus.

    ```yaml
    teachers:
      splade:
        type: retort.trainers.teachers.sparse_encoder.SparseEncoderTeacher
        init_parameters: {model: naver/splade-cocondenser-ensembledistil}
    ```
    """

    gives = "scores"
    _kind = SparseStudent

    def score(self, asks: list[Ask]) -> Iterator[np.ndarray]:
        """Score a block at once; see `Teacher.score`."""
        texts = list(dict.fromkeys(document for ask in asks for document in ask.documents))
        rows = {text: row for row, text in enumerate(texts)}
        documents = self.student.encode_document(texts)
        queries = self.student.encode_query([ask.query for ask in asks])
        for number, ask in enumerate(asks):
            own = documents[[rows[document] for document in ask.documents]]
            yield (own @ queries[[number]].T).toarray()[:, 0].astype(np.float32)
