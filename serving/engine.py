# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Answers questions step by step, with the time of each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from haystack import Document, Pipeline
from haystack.document_stores.errors import DocumentStoreError

from haystack_integrations.components.embedders.retort.student_document_image_embedder import EMBEDDING_SOURCE
from haystack_integrations.components.retrievers.retort.qdrant_server import ServerIndex
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore
from haystack_integrations.document_stores.retort.edge_documents import point_id
from retort.pipelines.load import is_url, pipeline_yaml
from retort.students import IMAGE_STAMP

EXTRACTS = "extractive_qa"
IMAGES = 24  # that are shown: full rows of two, three, four and six


class Engine:
    """
    One model with its index, through `extractive_qa.yml`. An index of images has no sentences: it is searched alone.

    The components are run one by one: their times are what a page shows, and what a pipeline hands on is copied.

    :param student:
        The model: a folder, or a name.
    :param store:
        Its index: a folder, or the URL of a collection.
    :param threads:
        Of an exported student: as many as cores for each question that is worked on at a time. None: all cores.
    :param trust_remote_code:
        Run code that the model brings along.
    """

    def __init__(
        self, student: str, store: str, *, threads: int | None = None, trust_remote_code: bool = False
    ) -> None:
        self.student, self.store, self.trust_remote_code = student, store, trust_remote_code
        text = pipeline_yaml(EXTRACTS, student=student, index=store, trust_remote_code=trust_remote_code)
        tree = yaml.safe_load(text)
        for part in (
            tree["components"]["retriever"]["init_parameters"]["text_embedder"],
            tree["components"]["answerer"],
        ):
            part["init_parameters"]["threads"] = threads
        self._pipeline = Pipeline.from_dict(tree)
        searcher: Any = self._pipeline.get_component("retriever")
        self._embedder, self._retriever = searcher.text_embedder, searcher.retriever
        self._answerer: Any = self._pipeline.get_component("answerer")
        target = self._retriever.document_store
        # A server's store would create what is missing as soon as it is opened.
        self._server = ServerIndex(target) if isinstance(target, QdrantDocumentStore) else None
        self._of_images: bool | None = None

    @property
    def shows_images(self) -> bool:
        """
        Whether the documents are images; the model is loaded if need be.

        A model of images and texts may have embedded texts alone: the first document tells, once there is one.
        """
        if self._embedder.kind != "image_text":
            return False
        if self._of_images is None:
            with suppress(DocumentStoreError):  # the search says what is wrong
                meta = (self._server or self._retriever.document_store).sample_meta()
                self._of_images = None if meta is None else EMBEDDING_SOURCE in meta or IMAGE_STAMP in meta
        return self._of_images is not False

    def check(self) -> dict[str, Any]:
        """
        See that model and index are there and fit, with a question that is asked of both.

        :returns:
            `student`, `store`, `documents` (how many).
        :raises DocumentStoreError:
            If the index is gone, empty, or of another model.
        """
        self._refuse_missing()
        store = self._retriever.document_store
        count = self._server.count() if self._server else store.count_documents()
        if not count:
            msg = f"There is no document at {self.store}. {_build('STUDENT', self.store)}"
            raise DocumentStoreError(msg)
        self.search("ready?", top_k=1)
        return {"student": self.student, "store": self.store, "documents": count}

    def search(
        self, question: str, *, top_k: int | None = None, filters: dict[str, Any] | None = None
    ) -> tuple[list[Document], dict[str, float]]:
        """
        Find passages.

        :param question:
            The question.
        :param top_k:
            Passages, at most; None: as `extractive_qa.yml` says.
        :param filters:
            Haystack filters.
        :returns:
            Passages, best first, and milliseconds by step: `embed` and `search`.
        :raises DocumentStoreError:
            If the index is gone, or of another model.
        :raises FilterError:
            If the filters are malformed.
        """
        self._refuse_missing()
        started = time.perf_counter()
        embedded = self._embedder.run(text=question)
        searched = time.perf_counter()
        documents = self._retriever.run(
            query_embedding=embedded["embedding"], space=embedded["space"], filters=filters, top_k=top_k
        )["documents"]
        ended = time.perf_counter()
        return documents, {"embed": 1e3 * (searched - started), "search": 1e3 * (ended - searched)}

    def read(self, question: str, documents: list[Document], *, top_k: int | None = None) -> dict[str, Any]:
        """
        Find the sentences of passages that answer a question.

        :param question:
            The question.
        :param documents:
            The passages.
        :param top_k:
            Answers, at most; None: as `extractive_qa.yml` says.
        :returns:
            `answers` and `best_score`; of images there are none.
        """
        if self.shows_images:
            return {"answers": [], "best_score": _best_score(documents)}
        found: dict[str, Any] = self._answerer.run(query=question, documents=documents, top_k=top_k)
        return found

    def answer(
        self, question: str, *, top_k: int = 3, filters: dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """
        Answer a question.

        :param question:
            The question.
        :param top_k:
            Answers, at most.
        :param filters:
            Haystack filters of the passages.
        :returns:
            First `{event: passages, images, passages: [...], ms: {...}}`, then an `{event: answer, ...}` for each
            sentence that answers, then `{event: done, best_score, ms}`. With `images` the passages are images, 24 or as
            many as `top_k` if that is more, and there is no answer.
        :raises DocumentStoreError:
            If the index is gone, or of another model.
        :raises FilterError:
            If the filters are malformed.
        """
        images = self.shows_images
        documents, ms = self.search(question, top_k=max(top_k, IMAGES) if images else None, filters=filters)
        passages = [_passage(d, n) for n, d in enumerate(documents, 1)]
        yield {"event": "passages", "images": images, "passages": passages, "ms": ms}
        if images:
            yield {"event": "done", "best_score": round(_best_score(documents), 4), "ms": ms}
            return
        started = time.perf_counter()
        found = self.read(question, documents, top_k=top_k)
        ms = ms | {"answer": 1e3 * (time.perf_counter() - started)}
        numbers = {d.id: n for n, d in enumerate(documents, 1)}
        for answer in found["answers"]:
            yield {
                "event": "answer",
                "text": " ".join(answer.data.split()),
                "score": round(answer.score, 4),
                "passage": numbers[answer.document.id],
                "start": answer.document_offset.start,
                "end": answer.document_offset.end,
            }
        yield {"event": "done", "best_score": round(found["best_score"], 4), "ms": ms}

    def document(self, document_id: str) -> Document | None:
        """
        Look up a document.

        :param document_id:
            Its id, from anybody.
        :returns:
            The document; None if the index has none of this id.
        :raises DocumentStoreError:
            If the index is gone, or the server fails.
        """
        self._refuse_missing()
        try:
            point = point_id(document_id)
        except DocumentStoreError:  # not Unicode
            return None
        if self._server:
            documents = self._server.documents([point])
        else:
            documents = self._retriever.document_store.get_documents_by_id([document_id])
        return next((document for document in documents if document.id == document_id), None)

    def close(self) -> None:
        """Let go of model and index."""
        self._pipeline.close()
        if self._server:
            self._server.close()

    def _refuse_missing(self) -> None:
        if not is_url(self.store) and not Path(self.store).is_dir():
            msg = f"The index at {self.store} is gone. {_build(self.student, self.store)}"
            raise DocumentStoreError(msg)


def _build(student: str, store: str) -> str:
    return f"Build it: retort index {student} --documents DIR --store {store}"


def _best_score(documents: list[Document]) -> float:
    return documents[0].score or 0.0 if documents else 0.0


def _passage(document: Document, number: int) -> dict[str, Any]:
    meta = document.meta
    return {
        "number": number,
        "id": document.id,
        "title": str(meta.get("title") or meta.get("file_path") or document.id),
        "file": meta.get("file_path"),
        "url": meta.get("url"),
        "page": meta.get("page_number"),
        "text": document.content or "",
        "preview": IMAGE_STAMP in meta,
        "score": round(document.score or 0.0, 4),
    }
