# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Separate towers for queries and documents."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from retort.students.loading import assemble
from retort.students.makers import is_student_maker, student_maker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sentence_transformers import SentenceTransformer


@student_maker
def two_towers(
    query: dict[str, Any], document: dict[str, Any], *, corpus: Sequence[str] | None = None, **options: Any
) -> SentenceTransformer:
    """
    Start from separate query and document towers, routed by side.

    :param query:
        `{type, init_parameters}` of the query tower: any maker of retort's that gives a text one dense vector. With
        `frozen: true` it does not learn.
    :param document:
        The same for the document tower. A new query tower may be trained for an existing index: the frozen tower that
        embedded it keeps its space. `remote_documents` leaves documents to an API.
    :param corpus:
        For towers that count words, such as `static_with_lexical`: their corpus, unless they name one themselves.
    :param options:
        Passed to `SentenceTransformer`.
    :raises ValueError:
        If a tower's type is no maker or makes something else, or the dimensions differ.

    ```yaml
    student:
      type: retort.students.create.two_towers
      init_parameters:
        query: {type: retort.students.create.static, init_parameters: {teacher: BAAI/bge-m3}}
        document: {type: retort.students.create.pretrained, init_parameters: {model: BAAI/bge-m3}, frozen: true}
    ```
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    towers = {
        side: tower("two_towers", side, spec, corpus) for side, spec in (("query", query), ("document", document))
    }
    dims = {side: own.get_embedding_dimension() for side, own in towers.items()}
    if dims["query"] != dims["document"]:
        msg = f"two_towers: the query tower has {dims['query']} dimensions, the document tower {dims['document']}."
        raise ValueError(msg)
    router = Router.for_query_document(
        query_modules=modules_of(towers["query"]), document_modules=modules_of(towers["document"])
    )
    prompts = {side: own.prompts.get(side, "") for side, own in towers.items()}
    similarity = towers["document"].similarity_fn_name
    return assemble(SentenceTransformer, [router], **{"prompts": prompts, "similarity_fn_name": similarity} | options)


def modules_of(tower: SentenceTransformer) -> list[Any]:
    """List a tower's modules, to be put into another model."""
    return list(tower.children())


def tower(maker: str, side: str, spec: dict[str, Any], corpus: Sequence[str] | None) -> SentenceTransformer:
    """
    Make one tower of a student of several.

    :param maker:
        What makes the student, for errors.
    :param side:
        Its key there.
    :param spec:
        `{type, init_parameters, frozen}`.
    :param corpus:
        As of `two_towers`.
    :raises ValueError:
        As `two_towers`.
    """
    from sentence_transformers import SentenceTransformer, SparseEncoder
    from sentence_transformers.base.modules import Router

    from retort.students.modules.counted import CountedEmbedding
    from retort.students.modules.remote import RemoteDocuments

    made_by = _maker(maker, side, spec.get("type"))
    if not isinstance(spec.get("frozen", False), bool):
        msg = f"{maker}: {side}.frozen: must be true or false; it is {spec['frozen']!r}."
        raise ValueError(msg)
    options = {"corpus": corpus} if "corpus" in inspect.signature(made_by).parameters else {}
    own = made_by(**options | spec.get("init_parameters", {}))
    if not isinstance(own, SentenceTransformer) or isinstance(own, SparseEncoder) or isinstance(own[0], Router):
        msg = f"{maker}: {side}: {spec['type']} makes no single tower with one dense vector a text."
        raise ValueError(msg)
    if isinstance(own[0], CountedEmbedding):
        msg = f"{maker}: {side}: a table that counts words is no tower; `lexical_layers` writes one as layers."
        raise ValueError(msg)
    if side != "document" and isinstance(own[0], RemoteDocuments):
        msg = f"{maker}: {side}: {spec['type']} is for documents only: there is nothing to train."
        raise ValueError(msg)
    return own.requires_grad_(False) if spec.get("frozen", False) else own  # parts of it may stay all the same


def _maker(name_of_maker: str, side: str, path: Any) -> Any:
    """Import a maker of ours: nobody checked before whether this path is trusted."""
    module, _, name = str(path).rpartition(".")
    try:
        maker = getattr(import_module(module), name, None) if module.startswith("retort.") else None
    except ModuleNotFoundError:
        maker = None
    if not is_student_maker(maker):
        msg = f"{name_of_maker}: {side}.type: {path!r} is no maker, such as retort.students.create.pretrained."
        raise ValueError(msg)
    return maker
