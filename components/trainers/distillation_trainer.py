# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning as a step of a pipeline: documents in, a student and its figures out."""

import asyncio
from pathlib import Path
from typing import Any

from haystack import Document, component, default_to_dict
from haystack.core.serialization import component_to_dict

from haystack_integrations.components.embedders.retort import StudentDocumentEmbedder
from retort.students.extras import missing

_PARAMETERS = (
    "out",
    "recipe",
    "teacher",
    "generator",
    "generator_options",
    "settings",
    "dev_share",
    "weak_pairs",
    "allow",
)


@component
class DistillationTrainer:
    """
    Trains a student on the documents that come in, and gives them on, embedded by it.

    Queries are made up from the documents; real ones, if there are any, decide how good the student is. The student is
    written to `out`, with a report; when the pipeline is run again over the same documents, or was interrupted, what is
    finished is not done again.

    ### Usage example

    ```python
    from haystack import Document
    from haystack_integrations.components.trainers.retort import DistillationTrainer

    trainer = DistillationTrainer(out="runs/handbook")
    found = trainer.run(documents=[Document(content="..."), ...])
    found["student"], found["metrics"]["student"]["ndcg@10"], found["verdict"]
    ```
    """

    def __init__(
        self,
        *,
        out: str = "runs/distilled",
        recipe: str | None = None,
        teacher: str | dict[str, Any] | Any = None,
        generator: dict[str, Any] | Any = None,
        generator_options: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        dev_share: float = 0.1,
        weak_pairs: bool = False,
        allow: list[str] | None = None,
    ) -> None:
        """
        Create the trainer; nothing is loaded before the first run.

        :param out:
            Folder to write: student, data, figures, report.
        :param recipe:
            Name of a recipe that comes with retort, or a YAML file; None: `kd_lexical`, or `kd_scores` for a teacher of
            scores.
        :param teacher:
            Takes the place of the recipe's teacher: a model's name; `{type, init_parameters}` of a teacher, a Haystack
            ranker or chat generator, or such a component; or `{text_embedder, document_embedder}`.
        :param generator:
            `{type, init_parameters}` of a chat generator that makes up further questions.
        :param generator_options:
            Further parameters of `GeneratedQuestions`, such as `prompt`, `most` and `revision`.
        :param settings:
            Values of the recipe to change, by their place: `{"stages.0.steps": 100}`.
        :param dev_share:
            Share of the documents whose queries it is chosen by, and not trained on.
        :param weak_pairs:
            Train before the last stage on titles, headings and the like, each against the rest of its document.
        :param allow:
            What recipe, teacher and generator may not without: modules that types come from besides Haystack's, servers
            that are asked, `trust_remote_code`.
        """
        self.out = out
        self.recipe = recipe
        self.teacher = _described(teacher)
        self.generator = _described(generator)
        self.generator_options = generator_options
        self.settings = settings
        self.dev_share = dev_share
        self.weak_pairs = weak_pairs
        self.allow = allow

    def to_dict(self) -> dict[str, Any]:
        """Describe the component, for YAML."""
        return default_to_dict(self, **{name: getattr(self, name) for name in _PARAMETERS})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "DistillationTrainer":
        """
        Create the component from its description.

        Teacher and generator stay descriptions: Haystack would load them here, and again in each copy.
        """
        return cls(**data.get("init_parameters", {}))

    @component.output_types(
        student=str, metrics=dict[str, dict[str, float]], verdict=list[str], report=str, documents=list[Document]
    )
    def run(
        self,
        documents: list[Document],
        queries: dict[str, str] | None = None,
        qrels: dict[str, dict[str, int]] | None = None,
    ) -> dict[str, Any]:
        """
        Train, unless it is done.

        :param documents:
            What is to be searched, in passages.
        :param queries:
            Real queries by id.
        :param qrels:
            By query id the ids of documents that answer it, with grades above 0.
        :returns:
            `student`, its folder; `metrics` of all systems on dev; `verdict`, sentences on what they mean; `report`, a
            page; `documents`, embedded by the student.
        :raises ModuleNotFoundError:
            If what trains is not installed.
        :raises DataError:
            If the documents are too few, or a query names one that is not there.
        :raises RecipeError:
            If the recipe does not fit, or `out` holds a student of other documents.
        :raises ValueError:
            If there are queries without judgements, or the other way round.
        """
        try:  # here, as only trainers need what trains
            from retort.trainers.changes import recipe_for, with_weak_pairs
            from retort.trainers.data.pseudo_queries import GeneratedQuestions
            from retort.trainers.from_documents import default_sources, distill_documents, passes_for
            from retort.trainers.recipe import trusts_code
            from retort.trainers.teachers.vector_cache import cache_root
        except ModuleNotFoundError as error:
            if (mend := missing(error, "DistillationTrainer")) is None:
                raise
            raise ModuleNotFoundError(mend, name=error.name) from error

        documents = [Document.from_dict(d) if isinstance(d, dict) else d for d in documents]
        if (queries or {}).keys() != (qrels or {}).keys():
            msg = "queries and qrels must have the same ids: a query without a document that answers it tells nothing."
            raise ValueError(msg)
        asked = [
            (text, [d for d, grade in (qrels or {})[i].items() if grade > 0]) for i, text in (queries or {}).items()
        ]
        sources = default_sources()
        if self.generator is not None:
            former = Path(self.out) / "answers.jsonl"
            cache = former if former.is_file() else cache_root(Path(self.out)) / "answers.jsonl"
            cache.parent.mkdir(parents=True, exist_ok=True)
            options = {"cache": str(cache), "allowed_modules": self.allow} | (self.generator_options or {})
            sources = {"generator": GeneratedQuestions(generator=self.generator, **options), **sources}
        recipe = recipe_for(self.recipe, self.teacher, settings=self.settings or {}, allow=self.allow or [])
        recipe = with_weak_pairs(recipe) if self.weak_pairs else recipe
        found = distill_documents(
            documents,
            self.out,
            recipe=recipe,
            sources=sources,
            asked=asked,
            dev_share=self.dev_share,
            passes=passes_for(self.recipe, self.settings or {}),
        )
        trust = trusts_code(recipe.student.init_parameters)
        embedder = StudentDocumentEmbedder(model=str(found.student), trust_remote_code=trust)
        embedded = embedder.run(documents=documents)["documents"]
        embedder.close()
        return {
            "student": str(found.student),
            "metrics": found.metrics,
            "verdict": found.verdict,
            "report": str(found.report),
            "documents": embedded,
        }

    @component.output_types(
        student=str, metrics=dict[str, dict[str, float]], verdict=list[str], report=str, documents=list[Document]
    )
    async def run_async(
        self,
        documents: list[Document],
        queries: dict[str, str] | None = None,
        qrels: dict[str, dict[str, int]] | None = None,
    ) -> dict[str, Any]:
        """
        Train in a thread, so that the event loop stays free.

        :param documents:
            As of `run`.
        :param queries:
            As of `run`.
        :param qrels:
            As of `run`.
        :returns:
            As `run`.
        """
        return await asyncio.to_thread(self.run, documents=documents, queries=queries, qrels=qrels)


def _described(given: Any) -> Any:
    """Take a component that was made in Python as its YAML would describe it."""
    return given if given is None or isinstance(given, str | dict) else component_to_dict(given, "given")
