# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Separate towers for queries and documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retort.students.create.encoders import from_config, pretrained
from retort.students.create.layers import from_layers
from retort.students.create.tables import static
from retort.students.makers import student_maker

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@student_maker
def two_towers(query: dict[str, Any], document: dict[str, Any], **options: Any) -> SentenceTransformer:
    """
    Start from separate query and document towers, routed by side.

    :param query:
        `{type, init_parameters}` of the query tower: one of the functions of this module. With `frozen: true` it does
        not learn: a new query tower may be trained for an index that is there, whose space it then has.
    :param document:
        The same for the document tower.
    :param options:
        Passed to `SentenceTransformer`.
    :raises ValueError:
        If a tower is of another type, or the dimensions differ.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    towers = {side: _tower(side, spec) for side, spec in (("query", query), ("document", document))}
    dims = {side: tower.get_embedding_dimension() for side, tower in towers.items()}
    if dims["query"] != dims["document"]:
        msg = f"two_towers: the query tower has {dims['query']} dimensions, the document tower {dims['document']}."
        raise ValueError(msg)
    router = Router.for_query_document(
        query_modules=[*_modules(towers["query"])], document_modules=[*_modules(towers["document"])]
    )
    prompts = {side: tower.prompts.get(side, "") for side, tower in towers.items()}
    similarity = towers["document"].similarity_fn_name
    return SentenceTransformer(
        modules=[router], device="cpu", **{"prompts": prompts, "similarity_fn_name": similarity} | options
    )


def _modules(tower: SentenceTransformer) -> list[Any]:
    return list(tower.children())


def _tower(side: str, spec: dict[str, Any]) -> SentenceTransformer:
    from retort.students.modules.counted import CountedEmbedding

    makers = {f"retort.students.create.{f.__name__}": f for f in (pretrained, from_layers, from_config, static)}
    if spec.get("type") not in makers:
        msg = f"two_towers: {side}.type must be one of {', '.join(makers)}; it is {spec.get('type')!r}."
        raise ValueError(msg)
    tower = makers[spec["type"]](**spec.get("init_parameters", {}))
    if isinstance(tower[0], CountedEmbedding):
        msg = f"two_towers: {side}: a table that counts words is no tower; `lexical_layers` writes one as layers."
        raise ValueError(msg)
    return tower.requires_grad_(not spec.get("frozen", False))
