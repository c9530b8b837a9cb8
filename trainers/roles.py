# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Every contract that a method may fill: read this file first.

A method is one file with classes of these roles, named by a recipe. None owns a forward pass, a loop or a reader, so
that methods combine in one recipe:

| role | what it decides | key of a recipe |
|---|---|---|
| `Objective` | a term of the loss | `stages[].objectives` |
| `Temperature` | what divides scores before a softmax | `stages[].temperature` |
| `TeacherWeighting` | how much each of several teachers counts | `stages[].weighting` |
| `Teacher` | what is learned from | `teachers` |
| `Miner` | which documents become candidates | `candidates` |
| `Selector` | which queries a stage trains on | `stages[].selector` |
| `QuerySource` | where queries come from | `stages[].queries` |
| `CorpusSource` | where texts come from, if there are none | `data.corpus` |
| `TextTransform` | the texts of a list, and candidates made of them | `stages[].candidates.text` |
| `BatchSource` | what a step trains on | `stages[].batches` |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor, nn

from retort.students.towers import Side
from retort.students.views import ViewRule
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.encoder_output import EncoderOutput
from retort.trainers.runtime.distributed import ProcessGroup
from retort.trainers.runtime.rng import rng_for

Values = dict[str, Tensor]  # per term its values `[n]`
State = dict[str, Tensor]  # what an objective fixed for a stage, by name
Masks = dict[str, Tensor]  # per term which of its values count, `[n]` bool
LoggedTerms = dict[str, tuple[Tensor, Tensor]]  # per name its values and which of them count
Compared = tuple[Tensor, Tensor, Tensor]

Gives = Literal["vectors", "scores", "ranks"]
Runs = Literal["cached", "trained_in_run", "in_loop"]
Costs = Literal["nothing", "time", "calls"]


class Context(Protocol):
    """What roles may ask for between steps; `retort.trainers.context.TrainingContext` is it."""

    #: The stage's corpus, queries and judgements.
    data: RetrievalData
    #: The recipe's teachers, by name.
    teachers: dict[str, Teacher]
    #: The cache folder.
    cache: Path
    #: Of teachers that were asked for scores: `scores`, or `ranks` where they gave an order alone.
    kinds: dict[str, str]
    #: How far the stage has come as it opens or is refreshed, from 0 to below 1.
    progress: float

    @property
    def bm25(self) -> Any:
        """The lexical index of the corpus, `retort.trainers.search.BM25`."""

    def model_key(self, name: str) -> str:
        """Identify the weights of a teacher, or of the `student` as it is now."""

    def similarity(self, name: str) -> str:
        """Return how a model's vectors are compared: `cosine` or `dot`."""

    def scale(self, name: str) -> float:
        """Return the factor on a model's `scores` before a softmax, where an objective sets none."""

    def vectors(self, name: str, side: Side) -> Any:
        """Return a model's vectors of all queries or all documents, `[n, d]`; a `csr_array` if sparse."""

    def kept_vectors(self, name: str, side: Side, most: int) -> np.ndarray:
        """Return a teacher's vectors of the first `most` texts, `[n, d]`, as far as they are kept; it is not asked."""

    def scores(self, name: str, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Return a model's scores of pairs, `[m]` float32 of `[m]` rows each; NaN where it gives none."""

    def teacher_cache(self, name: str, side: Side, texts: TextStore) -> Any:
        """Return a teacher's `VectorCache`, filled for these texts."""

    def over(self, data: RetrievalData) -> Context:
        """Return the same models over other data."""


@dataclass
class StepContext:
    """
    Where training stands in a step.

    :param stage:
        Name of the stage.
    :param step:
        Step within it, from 0.
    :param steps:
        How many it has.
    :param queries:
        Queries of the whole step, over all parts of its batch.
    :param seed:
        Seed of the run.
    :param processes:
        The processes; `processes.gather` joins what each computed of its share.
    :param whole:
        The batch of the whole step, on the CPU and without what teachers in the loop give; `batch` is a part of it
        where `training.accumulation` cuts it. None: `batch` is all of it.
    :param teacher:
        The teacher that the objective is to compare with now; None if it has none.
    :param temperature:
        What the stage's temperature gave for this batch and objective, a scalar or `[B, 1]`; None if it has none.
    :param anchor:
        The batch as the stage's frozen copy of the student sees it; None if there is none.
    :param teachers:
        The batch as teachers in the loop see it; with gradients where they learn.
    :param state:
        What the objective fixed when the stage opened (see `Objective.open`), on the device.
    :param model:
        The student itself, for objectives that use parts of it, such as its token embeddings.
    :param logged_terms:
        What an objective wants logged apart from its terms; it adds nothing to the loss. A term's name becomes
        `logged.NAME`.
    """

    stage: str
    step: int
    steps: int
    queries: int = 1
    seed: int = 0
    processes: ProcessGroup = field(default_factory=ProcessGroup)
    whole: CandidateBatch | None = None
    teacher: str | None = None
    temperature: Tensor | None = None
    anchor: EncoderOutput | None = None
    teachers: dict[str, EncoderOutput] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    model: Any = None
    logged_terms: LoggedTerms = field(default_factory=dict)

    def rng(self, *parts: object) -> np.random.Generator:
        """Return a generator of this step, the same however often and wherever it is asked for."""
        return rng_for(self.seed, self.stage, self.step, *parts)


@dataclass
class ModelInfo:
    """
    What an objective may need to know of the models before the first step.

    :param student_dim:
        Dimension of the student's vectors; 0 for a ranker.
    :param teacher_dims:
        Of teachers that give vectors.
    :param teacher_similarities:
        How these are compared: `cosine` or `dot`.
    :param teacher_scales:
        Factors on the scores of teachers in the loop.
    :param student_layers:
        How many layers the student has, where an objective needs them.
    :param teacher_layers:
        The same of teachers in the loop.
    :param student:
        The student itself, to create modules that fit it. An objective must not keep it as an attribute: it would
        become a part of the objective. In a step it is `StepContext.model`.
    """

    student_dim: int
    teacher_dims: dict[str, int]
    teacher_similarities: dict[str, str]
    teacher_scales: dict[str, float] = field(default_factory=dict)
    student_layers: int = 0
    teacher_layers: dict[str, int] = field(default_factory=dict)
    student: Any = None


@dataclass(frozen=True)
class Turn:
    """The first `steps` of every `cycle` steps of a stage belong to a teacher in the loop; the student rests."""

    steps: int
    cycle: int

    def __post_init__(self) -> None:
        """Refuse turns that leave the student no step."""
        if not 0 <= self.steps < self.cycle:
            msg = f"turn: 0 <= steps < cycle must hold; they are {self.steps} and {self.cycle}."
            raise ValueError(msg)


class Objective(nn.Module):
    """A term, or several, of the loss; may own parameters, which decay as the student's do unless it has an `lr`."""

    #: A query without a positive cannot be learned from.
    needs_positives = False
    #: A batch without candidate lists will not do.
    needs_lists = False
    #: A ranker, which has no vectors, cannot be the student.
    needs_vectors = False
    #: The teacher must give vectors; scores of lists will not do.
    needs_teacher_vectors = False
    #: The teacher must be in the loop.
    needs_live_teacher = False
    #: It looks at layers of the teacher and of the student (see `layers`).
    needs_layers = False
    #: It compares with a frozen copy of the student, as it was when the stage opened.
    needs_anchor = False
    #: An order without scores will do as the teacher's scores.
    takes_ranks = False
    #: It wants candidates that a text transform derived; others never see them.
    takes_derived = False
    #: It wants its teacher's scores of documents; False: of derived candidates alone.
    scores_documents = True
    #: It compares two distributions over candidates (see `compared`).
    divergence = False
    #: It looks at scores alone, so that cut vectors do for it (`training.dims`).
    scores_only = True
    #: What it needs of the student's output beyond vectors, always whole: `tokens`, or `NAME` of a module's
    #: `NAME_embeddings`.
    views: tuple[str, ...] = ()
    #: The teacher that it learns from, or several, each weighed by the stage's `weighting`.
    teacher: str | list[str] | None = None
    #: Weights of further teachers whose scores are added to that teacher's.
    extra_teachers: Mapping[str, float] = MappingProxyType({})
    #: The teacher learns from it, in steps of its own.
    turn: Turn | None = None
    #: Highest learning rate of its own parameters (with `turn`: of the teacher), if it is not the stage's.
    lr: float | None = None

    def __init__(self) -> None:
        """Take no parameters; without this a recipe would read torch's signature, which takes any."""
        super().__init__()

    @property
    def each_teacher(self) -> list[str]:
        """Names of the teachers that it compares with, one at a time."""
        return [self.teacher] if isinstance(self.teacher, str) else list(self.teacher or [])

    @property
    def teachers(self) -> list[str]:
        """Names of all teachers that it asks."""
        return [*self.each_teacher, *self.extra_teachers]

    def bind(self, info: ModelInfo) -> None:
        """Create what depends on the models; called once, before the optimiser sees the parameters."""

    def open(self, context: Context, lists: CandidateLists | None) -> State:  # noqa: ARG002
        """
        Fix what is to hold for the whole stage, such as a split or a quantile; called when it opens or is refreshed.

        :param context:
            Data and models.
        :param lists:
            The stage's candidate lists; `batch.list_rows` are rows of them. None if it has none.
        :returns:
            Tensors, which go into checkpoints and come back as `StepContext.state`.
        """
        return {}

    def warm_start(self, student: Any, context: Context) -> None:
        """
        Set weights of the student before a stage's first step; the first process does, the others get them.

        :param student:
            The model.
        :param context:
            Data and models.
        """

    def renew(self, state: State, context: Context, lists: CandidateLists | None) -> State:  # noqa: ARG002
        """
        Say what is to hold after a refresh; by default what `open` fixes anew.

        :param state:
            What held before.
        """
        return self.open(context, lists)

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:
        """
        Say which values count: the loss divides by how many there are in the whole step.

        :param batch:
            A part of the step's batch. Teachers in the loop have not been asked yet.
        :param teacher:
            The teacher in question; None: the only one.
        :returns:
            Per term that `forward` gives, `[n]` bool.
        """
        raise NotImplementedError

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """
        Compute the terms.

        :param output:
            The student's vectors (`DenseOutput`) or a ranker's scores (`PairOutput`), of the whole batch.
        :param batch:
            The batch.
        :param ctx:
            Where training stands.
        :returns:
            Per term its values, `[n]`: one a query, or any number that depends on the batch alone.
        """
        raise NotImplementedError

    def compared(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Compared:
        """
        Give what a divergence between two distributions compares.

        :returns:
            The student's scores, those that it is compared with, and which take part, each `[B, N]`.
        """
        raise NotImplementedError

    def shares(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Tensor | None:  # noqa: ARG002
        """
        Say how much each of its teachers counts, if the stage's `weighting` is not to.

        :returns:
            `[K, B]`, in the order of `teacher`; None leaves it to the stage.
        """
        return None

    def layers(self, ctx: StepContext) -> list[tuple[int, int]]:  # noqa: ARG002
        """Choose pairs of a teacher's and a student's layer, from 0, to look at in a step."""
        return []


class Temperature(nn.Module):
    """What divides a stage's scores before softmaxes, the student's and the teacher's alike; may own parameters."""

    #: Highest learning rate of its own parameters, if it is not the stage's.
    lr: float | None = None

    def __init__(self) -> None:
        """Take no parameters."""
        super().__init__()

    def lr_factor(self, step: int, steps: int) -> float:  # noqa: ARG002
        """Return the share of `lr` at a step, on top of the schedule: AdamW divides the gradient's own size out."""
        return 1.0

    def bind(self, objectives: list[Objective]) -> None:
        """Create what depends on the stage's objectives; called once, before the optimiser sees the parameters."""

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext, objective: Objective) -> Tensor | None:
        """
        Compute the temperature.

        :param output:
            As for objectives.
        :param batch:
            The batch.
        :param ctx:
            Where training stands; `ctx.teacher` is the teacher that the objective compares with.
        :param objective:
            Whose scores it is to divide.
        :returns:
            A scalar, or one value a query, `[B, 1]`; None leaves the objective its own.
        """
        raise NotImplementedError


class TeacherWeighting(nn.Module):
    """How much each of several teachers counts for each query; may own parameters."""

    #: Highest learning rate of its own parameters, if it is not the stage's.
    lr: float | None = None

    def __init__(self) -> None:
        """Take no parameters."""
        super().__init__()

    def bind(self, teachers: list[str], info: ModelInfo) -> None:
        """Create what depends on the teachers; called once, before the optimiser sees the parameters."""

    def forward(self, scores: dict[str, Tensor], batch: CandidateBatch, ctx: StepContext) -> Tensor:
        """
        Compute the weights.

        :param scores:
            Per teacher its scores of the lists, `[B, N]`, NaN where missing; `K` of them.
        :param batch:
            The batch.
        :param ctx:
            Where training stands; its `logged_terms` are logged.
        :returns:
            `[K, B]`, in the order of `scores`. Where a teacher has no valid value, its weight goes to the others.
        """
        raise NotImplementedError


@dataclass
class Ask:
    """One query, and the documents that are to be scored for it, as the teacher sees them."""

    query_id: str
    query: str
    document_ids: list[str]
    documents: list[str]


@dataclass
class EncodedPart:
    """
    Some of the vectors that were asked for.

    :param rows:
        Which texts they are of.
    :param vectors:
        `[len(rows), d]` float32.
    :param refused:
        Texts that the teacher gives no vector of, by their rows, and why. The others go on without them.
    """

    rows: list[int]
    vectors: np.ndarray
    refused: dict[int, str] = field(default_factory=dict)


@dataclass
class Work:
    """What a teacher is to be asked for: vectors of so many `queries` and `documents`, or scores of `lists`."""

    queries: int = 0
    documents: int = 0
    lists: int = 0
    pairs: int = 0


class Teacher:
    """
    What a student learns from: it gives vectors of texts, or scores of documents for a query.

    Nothing else asks for a teacher's class: it says what it gives, when it is asked and what that costs.
    """

    #: `vectors` of texts; `scores` of lists; `ranks`: scores of which the order alone counts.
    gives: Gives
    #: `cached`: asked before a stage, once for all runs; `trained_in_run`: the same, once its own recipe has trained
    #: it, as a `TrainedInRun`; `in_loop`: asked at every step, as a `LiveTeacher`.
    runs: Runs = "cached"
    #: `nothing`; `time`: a model on this machine, which a plan may try on a few texts; `calls`: a remote one.
    costs: Costs = "calls"
    #: A document's score depends on the list that it stands in, so that whole lists are asked for.
    listwise = False
    #: Scores depend on the corpus: its hash is added to the key (see `data_key`).
    corpus_dependent = False
    #: How vectors are compared: `cosine` or `dot`.
    similarity: str = "cosine"
    #: Dimension of its vectors; 0 if it gives none.
    dim: int = 0
    #: `dim` asks the model.
    asks_for_dim = False
    #: What its dimension must be, where that is known without asking it.
    named_dim: int | None = None
    #: Per million tokens that it is asked about, in any currency; None if it is not paid so, or nobody said.
    price: float | None = None
    #: The key by which caches of earlier versions go; '' if it is the same.
    former_key: str = ""

    @property
    def key(self) -> str:
        """Identify everything that decides what it gives: caches go by it."""
        raise NotImplementedError

    def vectors_key(self, side: Side) -> str:  # noqa: ARG002
        """Identify what decides the vectors of one side; by default the whole."""
        return self.key

    def data_key(self, data: RetrievalData) -> str:
        """Identify what of the data decides scores beside the texts; by default the corpus, if they depend on it."""
        return data.corpus.hash if self.corpus_dependent else ""

    def check(self, data: RetrievalData) -> None:
        """
        Refuse data that it cannot teach of, before a run begins.

        :raises TeacherError:
            If it cannot.
        """

    def keep_in(self, cache: Path) -> None:
        """Keep what is paid on the way to scores in a cache folder; called before `open`."""

    def open(self, data: RetrievalData) -> None:
        """Get ready for queries and documents of this data; called before `score`."""

    def encode(self, texts: list[str], side: Side) -> np.ndarray:
        """Give the vectors `[n, dim]` float32 of `n` texts."""
        raise NotImplementedError

    def encode_parts(self, texts: list[str], side: Side) -> Iterator[EncodedPart]:
        """
        Give the vectors of `n` texts in parts, in any order; what was given before an error is kept.

        By default all at once.
        """
        yield EncodedPart(list(range(len(texts))), self.encode(texts, side))

    def embeds_documents_as(self, dim: int) -> dict[str, Any] | None:  # noqa: ARG002
        """
        Describe what embeds documents, where an index of its vectors may be made without retort.

        :param dim:
            Dimension of the vectors.
        :returns:
            Parameters of `retort.students.hashing.remote_space`; None if it is no component of Haystack's.
        """
        return None

    def score(self, asks: list[Ask]) -> Iterator[np.ndarray]:
        """
        Score lists one after the other; what was given before an error is kept.

        :param asks:
            A block of work.
        :returns:
            Per ask `[N]` float32: raw scores, or negated ranks; NaN where the teacher has none.
        :raises TeacherError:
            If the teacher fails, or its answer cannot be used.
        """
        raise NotImplementedError

    def score_parts(self, asks: list[Ask]) -> Iterator[tuple[Ask, np.ndarray | str]]:
        """
        Score lists in any order, or parts of them: what was asked with its scores, or why the teacher refuses it.

        What was given before an error is kept. By default as `score` does.
        """
        yield from zip(asks, self.score(asks), strict=True)

    @property
    def shared(self) -> bool:
        """Whether the processes of a run share its work: a model on this machine, which need not be opened before."""
        return self.costs == "time" and type(self).open is Teacher.open

    @property
    def local_student(self) -> Any:
        """The loaded bi-encoder, if it is one on this machine; a run then measures what its queries cost."""
        return None

    def assumed_seconds(self, work: Work) -> float | None:  # noqa: ARG002
        """Say about how long some work takes, where trying it would cost money; None where that is not known."""
        return None

    def estimate(self, asks: list[Ask]) -> dict[str, float]:  # noqa: ARG002
        """Estimate `calls`, `tokens` and `cost` of what it was not asked before; empty where that is not known."""
        return {}


class Miner:
    """Ranks the corpus for each query."""

    #: Names of the recipe's teachers that it asks.
    teachers: tuple[str, ...] = ()
    #: Documents a query, at most; None: as many as there are.
    depth: int | None = None

    def key(self, context: Context) -> str:
        """Identify the mined lists: they change with whatever decides them, a model's weights among it."""
        raise NotImplementedError

    def assumed_seconds(self, queries: int) -> float | None:  # noqa: ARG002
        """Assume how long a remote retriever takes for so many queries; None: none is asked."""
        return None

    def mine(self, context: Context, queries: TextStore) -> tuple[np.ndarray, np.ndarray]:
        """
        Rank the corpus for each query.

        :param context:
            Data and models.
        :param queries:
            `q` queries.
        :returns:
            Rows `[q, depth]` and scores `[q, depth]`, best first, positives included; where fewer were found, rows of
            -1 with NaN for a score.
        """
        raise NotImplementedError


class Selector:
    """Chooses the queries that a stage trains on, when it opens or is refreshed."""

    #: It goes by the stage's candidate lists; other batches will not do.
    needs_lists = False
    #: Names of the recipe's teachers that it asks.
    teachers: tuple[str, ...] = ()

    def check(self, context: Context) -> None:
        """Refuse models that it cannot ask, before a run begins."""

    def open(self, lists: CandidateLists) -> None:
        """Take up the stage's candidate lists, without teachers' scores; called before `keep`."""

    def asked_pairs(self, queries: int, listed: int) -> int:  # noqa: ARG002
        """
        Count the pairs that it has teachers score as a stage opens or is refreshed, at most.

        :param queries:
            Queries of the stage.
        :param listed:
            Candidates of each.
        """
        return 0

    def keep(self, context: Context, enough: int) -> np.ndarray:
        """
        Choose queries.

        :param context:
            Data and models.
        :param enough:
            How many the stage can use.
        :returns:
            `[q]` bool, by the rows of the data's queries.
        """
        raise NotImplementedError


class QuerySource:
    """Makes queries of documents: weak pairs, pseudo-queries, a generator's."""

    #: Names of the recipe's teachers that it asks.
    teachers: tuple[str, ...] = ()

    def open(self, context: Context, number: int) -> None:
        """
        Get ready, where a recipe names it.

        :param context:
            Data and models.
        :param number:
            How often the stage was refreshed, where it is its `queries`; 0 where a text transform needs it.
        """

    #: Identifies whose answers it takes: sources of one key ask about each document once. '' of one without generator.
    answers_key: str = ""

    def parts(self) -> list[QuerySource]:
        """List the sources that it consists of."""
        return [self]

    def count(self, data: RetrievalData, openings: int = 1) -> int:  # noqa: ARG002
        """
        Count the queries that it makes of a corpus, at most; a generator is not asked.

        :param data:
            The corpus.
        :param openings:
            How often the stage is opened or refreshed.
        """
        return sum(map(len, self.of(data)))

    def estimate(self, data: RetrievalData, cache: Path | None = None, openings: int = 1) -> dict[str, float]:  # noqa: ARG002
        """
        Estimate the `calls` of a generator, `tokens` of their prompts and `cost`, at most; it is not asked.

        :param data:
            Whose documents it would be asked about.
        :param cache:
            Folder where a run keeps answers: what is there is not asked again.
        :param openings:
            As of `count`.
        :returns:
            Empty of a source that asks no generator.
        """
        return {}

    def assumed_seconds(self, calls: float) -> float | None:  # noqa: ARG002
        """Assume how long so many calls take; None: it is not known."""
        return None

    def of(self, data: RetrievalData) -> list[list[str]]:
        """List the queries of each document of a corpus, `n` lists, best first; some may be empty."""
        raise NotImplementedError


class CorpusSource:
    """Makes the texts of a corpus, where there is none."""

    #: Names of the recipe's teachers that it asks.
    teachers: tuple[str, ...] = ()

    def asked_texts(self) -> tuple[int, int]:
        """Count the texts and the pairs that it asks each of its teachers about: those of vectors, those of scores."""
        return 0, 0

    def estimate(self, cache: Path) -> dict[str, float]:  # noqa: ARG002
        """Estimate what a generator is asked for, as of `QuerySource`."""
        return {}

    def assumed_seconds(self, calls: float) -> float | None:  # noqa: ARG002
        """Assume how long so many calls take; None: it is not known."""
        return None

    def texts(self, context: Context) -> list[str]:
        """
        List the texts.

        :param context:
            Its teachers and the cache, without any data.
        """
        raise NotImplementedError


@dataclass
class TextRequest:
    """
    A list whose texts are wanted.

    :param data:
        The stage's data.
    :param query:
        Row of the query.
    :param rows:
        `[n]` rows of the documents.
    :param positive:
        `[n]` bool.
    :param step:
        Step of the stage, from 0.
    :param steps:
        How many it has.
    :param epoch:
        How often the query was drawn before.
    :param rng:
        Generator of this list and step. A transform that derives candidates for a teacher that is dear to ask draws
        from `rng_for` with the epoch instead, so that few different ones come up.
    """

    data: RetrievalData
    query: int
    rows: np.ndarray
    positive: np.ndarray
    step: int
    steps: int
    epoch: int
    rng: np.random.Generator

    @property
    def documents(self) -> list[str]:
        """The documents as they are."""
        return [self.data.corpus.texts[row] for row in self.rows]

    @property
    def progress(self) -> float:
        """How far the stage has come, from 0 at its first step to 1 at its last."""
        return self.step / max(1, self.steps - 1)


@dataclass(frozen=True)
class Derived:
    """
    A candidate that is made of a list's texts: it has no label.

    :param text:
        What teachers read, alone.
    :param kind:
        Tells it from others, from 1.
    :param piece:
        Of a piece of a document: the document's place in the list, and the characters where the piece starts and ends.
        The student takes its vector out of that document's own encoding (see `retort.students.pieces`).
    """

    text: str
    kind: int = 1
    piece: tuple[int, int, int] | None = None


class TextTransform:
    """
    Makes the texts of lists. Teachers score documents as they are, and derived candidates as they are made.

    In training, `texts` and `derived` are asked for; `document_views` gives what stands for documents in search.
    """

    #: Texts depend on the list, so that a document has one for each that it stands in.
    rewrites = True
    #: It adds candidates, which objectives with `takes_derived` see.
    derives = False
    #: These are pieces of documents, of which the student must have vectors.
    derives_pieces = False
    #: `{type, init_parameters}` of a `QuerySource` that it needs, or of several, one after the other; None: of none.
    source_spec: dict[str, Any] | list[dict[str, Any]] | None = None
    #: How `document_views` sees documents, for the student's manifest.
    view_rule: ViewRule = ViewRule()

    def bind(self, source: QuerySource | None, tokenizer: Any, negatives: int, room: int | None = None) -> None:
        """
        Take up what it needs, before the first stage.

        :param source:
            What `source_spec` describes.
        :param tokenizer:
            The student's.
        :param negatives:
            Negatives of a list.
        :param room:
            Tokens that the student reads of a document; None: all.
        """

    def texts(self, request: TextRequest) -> list[str]:
        """Give the texts of a list's `n` documents."""
        return request.documents

    def derived(self, request: TextRequest) -> list[Derived]:  # noqa: ARG002
        """Give further candidates of a list, for teachers to score; by default none."""
        return []

    def kept(
        self,
        request: TextRequest,  # noqa: ARG002
        derived: list[Derived],
        scores: Mapping[str, list[float]],  # noqa: ARG002
    ) -> list[Derived]:
        """
        Choose which of a list's derived candidates to train on, once they are scored; by default all.

        :param request:
            The same as for `derived`.
        :param derived:
            `n` candidates.
        :param scores:
            Per teacher its `n` scores, NaN where it has none; those of teachers in the loop are not known yet.
        """
        return derived

    def document_views(self, data: RetrievalData) -> list[list[str]] | None:  # noqa: ARG002
        """Give the texts that stand for each document in search, several of one; None: documents as they are."""
        return None


@dataclass
class StageInputs:
    """
    What a batch source draws from.

    :param context:
        Data and models.
    :param batch_size:
        Queries (or texts) a step, over all processes and accumulation steps.
    :param steps:
        Steps of the stage.
    :param window:
        The steps whose batches are asked for until the stage ends or is refreshed.
    :param seed:
        Seed of orders and draws.
    :param vector_teachers:
        Teachers whose vectors the stage needs.
    :param score_teachers:
        Teachers whose scores of derived candidates the stage needs.
    :param derived_vector_teachers:
        Teachers whose vectors of derived candidates the stage needs; the others are not asked for any.
    :param lists:
        The candidate lists; None if the stage has none.
    :param candidates:
        The recipe's section about them: `negatives`, `order`, `sampling`, `pool`, `positives`.
    :param text:
        What makes the lists' texts; None takes documents as they are.
    :param student:
        The student itself, for what depends on its tokenizer. Its weights change, so that batches must not depend on
        them.
    """

    context: Context
    batch_size: int
    steps: int
    window: range
    seed: object
    vector_teachers: list[str] = field(default_factory=list)
    score_teachers: list[str] = field(default_factory=list)
    derived_vector_teachers: list[str] = field(default_factory=list)
    lists: CandidateLists | None = None
    candidates: Any = None
    text: TextTransform | None = None
    student: Any = None


class BatchSource:
    """
    Gives the batch of any step: a pure function of seed, stage and step, so that a run resumes anywhere.

    `retort.trainers.batches.base.CandidateBatch` describes the fields of a batch, and
    `retort.trainers.batches.sampling.picked` walks items epoch by epoch.
    """

    #: The stage must have `candidates`.
    needs_lists = False
    #: Its batches have lists (`index`) without `candidates`, so that objectives which need lists take them.
    brings_lists = False
    #: It draws from documents: a corpus without queries will do.
    documents_alone = False
    #: Names of the recipe's teachers that it asks.
    teachers: tuple[str, ...] = ()
    #: Queries (or texts) that it draws from; a stage without any is passed over.
    size: int = 0
    #: How many of these have a positive; at 0, objectives with `needs_positives` are refused.
    queries_with_positive: int = 0
    #: Hash of what a resumed stage must find again; '' if it depends on the data alone.
    lists_hash: str = ""
    #: By its own parameters' names, `{type, init_parameters}` of query sources that it needs.
    source_specs: Mapping[str, Any] = MappingProxyType({})

    def bind(self, sources: dict[str, QuerySource]) -> None:
        """Take up what `source_specs` describes, before the first stage."""

    #: How many documents of its own it asks the stage's teachers of vectors about, at most.
    made: int = 0
    #: It asks them about passages, each a document without one of its queries.
    cuts_passages = False

    def query_texts(self, data: RetrievalData) -> list[str]:
        """List the texts of which it takes teachers' vectors as those of queries."""
        return data.queries.items

    def open(self, inputs: StageInputs) -> None:
        """Take up what the stage draws from; called when it opens or is refreshed."""
        raise NotImplementedError

    def batch(self, step: int) -> CandidateBatch:
        """Build the batch of a step, on the CPU."""
        raise NotImplementedError

    def pooled(self, steps: range) -> np.ndarray | None:  # noqa: ARG002
        """`[m]` bool: the lists' entries among which a teacher chooses (`candidates.pool`); None: all of them."""
        return None

    def used(self, steps: range) -> np.ndarray | None:  # noqa: ARG002
        """`[m]` bool: the lists' entries that some batch of these steps holds; None: all of them."""
        return None


__all__ = [
    "Ask", "BatchSource", "Context", "CorpusSource", "Derived", "EncodedPart", "Masks", "Miner", "ModelInfo",
    "Objective", "QuerySource", "Selector", "StageInputs", "State", "StepContext", "Teacher", "TeacherWeighting",
    "Temperature", "TextRequest", "TextTransform", "Turn", "Values", "Work",
]  # fmt: skip
