# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Students with sparse vectors over the vocabulary (SPLADE): few of their many dimensions are not 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from retort.students.encoding import SparseRows, collect_sparse, encode_chunks, encode_numpy, settle_dimension
from retort.students.layers import evaluating
from retort.students.loading import stated_kind
from retort.students.student import Student
from retort.students.towers import Side

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from sentence_transformers import SparseEncoder
    from typing_extensions import TypeIs


def is_sparse(model: Any) -> TypeIs[SparseEncoder]:
    """Tell a model with sparse vectors from others."""
    from sentence_transformers import SparseEncoder

    return isinstance(model, SparseEncoder)


def encode_sparse(model: Any, texts: Sequence[str], side: Side, **options: Any) -> csr_array:
    """
    Encode texts for use, without gradients, whatever mode the model is in; options as in `encode_numpy`.

    :returns:
        `[n, dim]` float32, in the order of `texts`.
    """
    return encode_rows(model, texts, side, **options).csr()


def encode_rows(
    model: Any,
    texts: Sequence[str],
    side: Side,
    *,
    budget: int | None = None,
    progress: Callable[[int], Any] | None = None,
    prompt: str | None = None,
) -> SparseRows:
    """Encode texts as `encode_sparse` does."""
    import torch

    settle_dimension(model)
    with evaluating(model), torch.inference_mode():
        chunks = encode_chunks(model, texts, side, budget=budget, prompt=prompt) if texts else ()
        found = collect_sparse(
            ((rows, v.float().cpu().numpy()) for rows, v in chunks), model.get_embedding_dimension(), progress
        )
    return found


def largest(vectors: csr_array | SparseRows, most: int | None) -> list[tuple[list[int], list[float]]]:
    """
    List each vector's entries.

    :param vectors:
        `n` vectors.
    :param most:
        Keep so many of the largest; None keeps all.
    :returns:
        Per vector ascending indices and their values.
    """
    found = []
    for start, end in zip(vectors.indptr[:-1], vectors.indptr[1:], strict=True):
        indices, values = vectors.indices[start:end], vectors.data[start:end]
        order = np.argsort(-values, kind="stable")[:most]
        order = order[np.argsort(indices[order])]
        found.append((indices[order].tolist(), values[order].tolist()))
    return found


def encode_vectors(model: Any, texts: Sequence[str], side: Side, **options: Any) -> Any:
    """Encode with a model of either kind: `[n, d]` float32, an array or a `csr_array`; options as in `encode_numpy`."""
    return (encode_sparse if is_sparse(model) else encode_numpy)(model, texts, side, **options)


class SparseStudent(Student):
    """A loaded student with sparse vectors; as `Student`, but what it encodes is a `csr_array`."""

    kinds = ("sparse",)

    @staticmethod
    def model_class() -> Any:
        """The class of sentence-transformers that loads it."""
        from sentence_transformers import SparseEncoder

        return SparseEncoder

    @classmethod
    def _check(cls, loaded: Any, kind: str, model: str, *, stated: bool) -> None:  # noqa: ARG003
        # A dense encoder loads as a sparse one, with a head of random weights.
        if not stated and any(type(module).__name__ == "SparseAutoEncoder" for module in loaded):
            cls._refuse_other_kind("dense", model)

    @staticmethod
    def encoding() -> Callable[..., Any]:
        """The function that encodes with a torch model."""
        return encode_rows

    def encode(self, texts: Sequence[str], side: Side, **options: Any) -> Any:
        """Encode texts: a `csr_array` `[n, dim]`; parameters as in `Student.encode`."""
        return self.encode_rows(texts, side, **options).csr()

    def encode_rows(self, texts: Sequence[str], side: Side, **options: Any) -> SparseRows:
        """Encode texts without scipy; parameters as in `Student.encode`."""
        return cast("SparseRows", super().encode(texts, side, **options))


def load_student(model: str, **options: Any) -> Student:
    """Load a student of either kind, as its files say; parameters and errors as in `Student.load`."""
    hub = {name: options.get(name) for name in ("revision", "token")}
    says = stated_kind(model, local_files_only=bool(options.get("local_files_only")), **hub)
    return (SparseStudent if says == "sparse" else Student).load(model, **options)
