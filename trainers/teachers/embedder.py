# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Any pair of Haystack embedders as teacher."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from retort.students.hashing import canonical_json, hash_text
from retort.students.images import of_images
from retort.students.towers import Side
from retort.trainers.roles import EncodedPart, Teacher, Work
from retort.trainers.runtime.errors import RecipeError, TeacherError
from retort.trainers.teachers.calls import SECONDS_A_CALL, Refusal
from retort.trainers.teachers.haystack import HaystackComponents, document_of, refuse_query

BATCH = 32  # documents a call, where the embedder does not say
PROBE = "text"


class Embedders:
    """
    What gives vectors, and checks them: the logic of `EmbedderTeacher`, also for what searches by vectors.

    :param specs:
        `{type, init_parameters}` of the embedders, by `text` and `document`; one may be missing where it is not asked.
    :param options:
        Of `HaystackComponents`.
    :raises RecipeError:
        If the two are to give vectors of different dimensions.
    """

    def __init__(self, specs: dict[str, dict[str, Any]], **options: Any) -> None:
        self._components = HaystackComponents(specs, **options)
        self.remote = self._components.remote
        parameters = [spec["init_parameters"] for spec in specs.values() if spec.get("init_parameters")]
        named = {own.get("dimensions") for own in parameters} - {None}
        if len(named) > 1:
            msg = f"the two embedders are to give vectors of {' and '.join(map(str, sorted(named)))} dimensions."
            raise RecipeError(msg)
        self.named_dim: int | None = next(iter(named), None)
        self._taken: Any = None  # an image that was embedded

    def vectors_key(self, side: Side) -> str:
        """Return the key of one side's vectors: the other side's embedder does not decide them."""
        return hash_text(f"embedder {self._components.key_of('text' if side == 'query' else side)}")

    def embeds_documents_as(self, dim: int) -> dict[str, Any]:
        """Describe what embeds documents, for the space of their index; see `Teacher.embeds_documents_as`."""
        return self._components.embeds_as("document", dim)

    def embed_documents(self, documents: list[Any]) -> list[Any]:
        """
        Embed documents as they are, with their meta fields.

        :raises TeacherError:
            If the embedder fails.
        """
        found = []
        for start in range(0, len(documents), BATCH):
            some = documents[start : start + BATCH]
            found += self._components.answer("document", "documents", f"{len(documents)} documents", documents=some)
        return found

    def encode(self, texts: list[str], side: Side) -> np.ndarray:
        """
        Give the vectors `[n, dim]` float32 of `n` texts.

        :raises TeacherError:
            If an embedder fails, or does not give a vector for each text.
        """
        found: dict[int, np.ndarray] = {}
        for part in self.encode_parts(texts, side):
            if part.refused:
                row, cause = next(iter(part.refused.items()))
                msg = f"{self._type(side)} refuses {texts[row][:80]!r}: {cause}"
                raise TeacherError(msg)
            found |= zip(part.rows, part.vectors, strict=True)
        return np.array([found[row] for row in range(len(texts))], dtype=np.float32)

    def encode_parts(self, texts: list[str], side: Side) -> Iterator[EncodedPart]:
        """Give the vectors of texts call by call; see `Teacher.encode_parts`."""
        size = 1 if side == "query" else self._batch_size if self.remote else max(1, len(texts))
        images, alone = of_images(texts), set[int]()

        def probe() -> Any:
            """What nobody can refuse: a word, or an image that was taken before, else one that is not in question."""
            if not images:
                return PROBE
            return self._taken or next((text for row, text in enumerate(texts) if row not in alone), texts[0])

        def ask(rows: list[int]) -> list[np.ndarray | Refusal] | Refusal:
            own = [texts[row] if row >= 0 else probe() for row in rows]
            alone.update(rows if len(rows) == 1 else ())
            found = self._checked(own, self._query(own[0]) if side == "query" else self._documents(own), side)
            if images and not isinstance(found, Refusal):
                self._taken = next((o for o, one in zip(own, found, strict=True) if not isinstance(one, Refusal)), None)
            return found

        def halves(rows: list[int]) -> list[list[int]]:
            return [] if len(rows) == 1 else [rows[: len(rows) // 2], rows[len(rows) // 2 :]]

        calls = [list(range(start, min(start + size, len(texts)))) for start in range(0, len(texts), size)]
        name = "another image" if images else repr(PROBE)
        for rows, answer in self._components.each(ask, calls, probe=[-1], probe_name=name, divide=halves):
            outcomes = dict(zip(rows, [answer] if isinstance(answer, Refusal) else answer, strict=True))
            vectors = {row: one for row, one in outcomes.items() if not isinstance(one, Refusal)}
            refused = {row: one.cause for row, one in outcomes.items() if isinstance(one, Refusal)}
            yield EncodedPart(list(vectors), np.array(list(vectors.values()), dtype=np.float32), refused)

    def assumed_seconds(self, work: Work) -> float | None:
        """Assume half a second a call."""
        calls = work.queries + math.ceil(work.documents / self._batch_size)
        return self._components.assumed_seconds(calls, SECONDS_A_CALL)

    @property
    def _batch_size(self) -> int:
        size = vars(self._components["document"]).get("batch_size")
        return size if isinstance(size, int) and size > 0 else BATCH

    def _type(self, side: Side) -> str:
        return self._components.specs["text" if side == "query" else side]["type"]

    def _query(self, text: str) -> list[Any]:
        refuse_query(text)
        try:
            return [self._components.warm["text"].run(text=text).get("embedding")]
        except Exception as error:
            msg = f"{self._type('query')} failed on the query {text[:80]!r}: {error}"
            raise TeacherError(msg) from error

    def _documents(self, texts: list[str]) -> list[Any]:
        field = vars(self._components.warm["document"]).get("file_path_meta_field")
        documents = [document_of(str(i), text, field) for i, text in enumerate(texts)]
        question = f"{len(texts)} documents, from {texts[0][:80]!r} on"
        found = self._components.answer("document", "documents", question, documents=documents)
        vectors = {d.id: d.embedding for d in found}
        if found and vectors.keys().isdisjoint(d.id for d in documents):
            msg = (
                f"{self._type('document')} answered {question} with other documents than it was given: their ids are "
                f"{', '.join(list(vectors)[:3])}. It must keep each document's id."
            )
            raise TeacherError(msg)
        return [vectors.get(d.id) for d in documents]

    def _checked(self, texts: list[str], answers: list[Any], side: Side) -> list[np.ndarray | Refusal] | Refusal:
        """
        Check vectors.

        One text whose vector is missing or malformed may be at fault itself; where all are, it is not the texts.
        """
        vectors = [_vector(text, answer) for text, answer in zip(texts, answers, strict=True)]
        wrong = [one for one in vectors if isinstance(one, Refusal)]
        if len(wrong) < len(texts):
            dims = {len(one) for one in vectors if not isinstance(one, Refusal)}
            if len(dims | ({self.named_dim} - {None})) > 1:
                told = ", ".join(map(str, sorted(dims)))
                wanted = f" in place of {self.named_dim}" if self.named_dim else " in one answer"
                which = f"for texts from {texts[0][:80]!r} on"
                msg = f"{self._type(side)} gave vectors of {told} dimensions{wanted}, {which}."
                raise TeacherError(msg)
            return vectors
        if len(texts) == 1 or all(answer is None for answer in answers):
            return wrong[0]
        msg = f"{self._type(side)} gave no vector that can be used for {len(texts)} texts: {wrong[0].cause}"
        raise TeacherError(msg)


class EmbedderTeacher(Embedders, Teacher):
    """
    A Haystack text embedder for queries and document embedder for documents, as YAML would name them.

    :param text_embedder:
        `{type, init_parameters}` of a component whose `run(text=...)` gives `embedding`.
    :param document_embedder:
        `{type, init_parameters}` of a component whose `run(documents=...)` gives `documents` with embeddings. One that
        embeds images gets their paths in the metadata field that its `file_path_meta_field` names.
    :param similarity:
        How the vectors are compared: `cosine` or `dot`.
    :param revision:
        Version of a model behind a remote interface; its vectors are cached under it. Required where a component
        has an API key: nothing else tells when such a model changes.
    :param retries:
        How often a failed call is repeated; None: as the components' `max_retries` say, else 5 times for remote
        components, never for local ones.
    :param concurrency:
        Calls at a time. A text embedder takes queries one by one, a remote document embedder its `batch_size`.
    :param max_calls:
        Calls in a run, at most; then it stops, and what came is kept. None: any number.
    :param price:
        Per million tokens of the texts, in any currency: a plan says what it comes to.
    :param allowed_modules:
        Further modules that the components may come from (filled from `--allow`).
    :raises RecipeError:
        If a component has an API key and no revision is given, or the two are to give vectors of different dimensions.

    ```yaml
    teachers:
      api:
        type: retort.trainers.teachers.embedder.EmbedderTeacher
        init_parameters:
          text_embedder:
            type: haystack.components.embedders.openai_text_embedder.OpenAITextEmbedder
            init_parameters: {model: text-embedding-3-large}
          document_embedder:
            type: haystack.components.embedders.openai_document_embedder.OpenAIDocumentEmbedder
            init_parameters: {model: text-embedding-3-large}
          revision: "2024-01-25"
    ```
    """

    gives = "vectors"
    asks_for_dim = True

    def __init__(
        self,
        *,
        text_embedder: dict[str, Any],
        document_embedder: dict[str, Any],
        similarity: str = "cosine",
        revision: str | None = None,
        retries: int | None = None,
        concurrency: int = 1,
        max_calls: int | None = None,
        price: float | None = None,
        allowed_modules: list[str] | None = None,
    ) -> None:
        super().__init__(
            {"text": text_embedder, "document": document_embedder},
            revision=revision,
            retries=retries,
            concurrency=concurrency,
            max_calls=max_calls,
            allowed_modules=allowed_modules,
        )
        self.similarity = similarity
        self.price = price

    @cached_property
    def key(self) -> str:
        """The components' key (see `HaystackComponents`)."""
        return hash_text(canonical_json(["embedder", self.similarity, self._components.key]))

    @property
    def former_key(self) -> str:  # type: ignore[override]
        """The key as it was when every parameter counted."""
        return hash_text(canonical_json(["embedder", self.similarity, self._components.former_key]))

    def vectors_key(self, side: Side) -> str:
        """Return the key of one side's vectors; of remote ones neither the other side nor the similarity decides it."""
        return super().vectors_key(side) if self.remote else self.key

    @cached_property
    def dim(self) -> int:  # type: ignore[override] # asked for late
        """Dimension of the vectors: as the embedders' `dimensions` say, else asked for once."""
        return self.named_dim or self.encode(["dimension"], "query").shape[1]


def _vector(text: str, answer: Any) -> np.ndarray | Refusal:
    """Read a vector as it came; none but that of a blank text may be of zeros."""
    if answer is None:
        return Refusal("it gave no embedding.")
    try:
        vector = np.asarray(answer, dtype=np.float32)
    except (TypeError, ValueError):
        return Refusal(f"it gave no list of numbers: {str(answer)[:80]}")
    if vector.ndim != 1 or not len(vector):
        return Refusal(f"it gave an embedding of shape {list(vector.shape)}.")
    if not np.isfinite(vector).all():
        return Refusal("it gave an embedding with numbers that are not finite.")
    return vector if vector.any() or not text.strip() else Refusal("it gave a vector of zeros.")
