# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The keys of a recipe, and what their values may be."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict, TypeAdapter, with_config
from typing_extensions import TypedDict  # pydantic's; Python 3.11's own will not do for it

#: Short names of batch sources.
BATCHES = {
    "lists": "retort.trainers.batches.lists.ListBatches",
    "texts": "retort.trainers.batches.texts.TextBatches",
    "queries": "retort.trainers.batches.queries.QueryBatches",
    "pairs": "retort.trainers.batches.pairs.PairBatches",
}


def _number(value: Any) -> Any:
    """Read text as a number where it is one: readers of YAML 1.1, Haystack's among them, take `5e-5` for text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _written_out(value: Any) -> Any:
    """Write out the short name of a batch source."""
    if not isinstance(value, str):
        return value
    if value not in BATCHES and "." not in value:
        msg = f"must be one of {', '.join(BATCHES)}, or a batch source's type; it is {value!r}."
        raise ValueError(msg)
    return {"type": BATCHES.get(value, value)}


def _without_dots(name: str) -> str:
    if "." in name or "/" in name:
        msg = f"names must have no dot or slash; one is {name!r}."
        raise ValueError(msg)
    return name


def _file_name(name: str) -> str:
    if "/" in name or not name.isprintable() or len(name) > LONGEST_NAME:
        msg = f"must be at most {LONGEST_NAME} printable characters, without a slash; it is {name!r}."
        raise ValueError(msg)
    return name


LONGEST_NAME = 100
Text = Annotated[str, Field(min_length=1)]
Split = Annotated[Text, AfterValidator(_file_name)]
Name = Annotated[Text, AfterValidator(_without_dots), AfterValidator(_file_name)]
Flag = Annotated[bool, Strict()]
MOST = 10**9  # of anything that is counted
Seed = Annotated[int, Strict(), Field(ge=-(2**63), le=2**63 - 1)]  # as torch takes them
Count = Annotated[int, Strict(), Field(ge=1, le=MOST)]
Amount = Annotated[int, Strict(), Field(ge=0, le=MOST)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False), BeforeValidator(_number)]
NotNegative = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, lt=1)]
# YAML 1.1 reads a bare `no` as false.
Precision = Annotated[Literal["no", "bf16", "auto"], BeforeValidator(lambda value: "no" if value is False else value)]


class _Section:
    """A mapping of a recipe: other keys than its own are refused."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@dataclass(kw_only=True)
class Component(_Section):
    """
    A pluggable piece, written as Haystack writes it.

    :param type:
        Full name of the class, or of the function that makes a student.
    :param init_parameters:
        Its parameters.
    """

    type: Text
    init_parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class WeightedComponent(Component):
    """
    An objective with its weight in the loss.

    :param type:
        Full name of the class.
    :param init_parameters:
        Its parameters.
    :param weight:
        What its terms are multiplied by.
    """

    weight: NotNegative = 1.0


@dataclass(kw_only=True)
class DataSection(_Section):
    """
    Which part of the data directory is used for what.

    :param train:
        Split to train on.
    :param dev:
        Split to choose the best checkpoint by. If it is not there, a share of the training queries is held out.
    :param empty:
        What to do with empty texts: `error` or `skip`.
    :param max_queries:
        Train on the first so many queries only.
    :param unlabelled:
        Train on the queries of a BEIR folder that no split judges, too, where a method learns from them.
    :param corpus:
        Where texts come from if there is no data folder: a `CorpusSource`, which makes one of a corpus alone. null:
        from nowhere.
    :param hash:
        Hash of the training data, as a run writes it into its resolved recipe; other data is then refused.
    """

    train: Split = "train"
    dev: Split = "dev"
    empty: Literal["error", "skip"] = "error"
    max_queries: Count | None = None
    unlabelled: Flag = False
    corpus: Component | None = None
    hash: str | None = None


@dataclass(kw_only=True)
class TrainingSection(_Section):
    """
    How to train, for all stages.

    :param batch_size:
        Queries (or texts) a step, over all processes and accumulation steps.
    :param accumulation:
        Parts into which a step's batch is cut, one after the other, to save memory. In-batch negatives come from the
        part.
    :param cache_gradients:
        Hold one chunk's activations at a time and compute them once more for the backward pass: memory no longer
        grows with the batch, and in-batch negatives still come from all of it.
    :param seed:
        Seed of every order, draw and dropout.
    :param precision:
        `no` (float32), `bf16` (autocast), or `auto`: bf16 where the hardware has it.
    :param dropout:
        Of all models in training, for this run; by default what each has in its configuration. On CPUs a step without
        takes up to a third less time.
    :param dims:
        Train not only whole vectors but also their first so many entries, for students whose vectors may be cut
        (Matryoshka, Kusupati et al. 2022). All terms that compare scores are computed at each and averaged; terms that
        compare the vectors themselves see them whole.
    :param scale:
        Factor on the student's scores; by default 20 for cosines, which dot products of vectors of
        length 1 are, too; 1 for other dot products and a ranker's logits.
    :param weight_decay:
        AdamW's, on matrices only.
    :param warmup:
        Share of a stage's steps in which the learning rate rises; it then goes on as the stage's `schedule` says.
    :param lr_floor:
        Where a schedule that falls ends, as a share of the highest learning rate: the last step has it. With 0 the step
        after the last would.
    :param clip:
        Bound of the gradient's norm over all that learns; 0 turns it off.
    :param tokens_per_chunk:
        Padded tokens of one forward pass; null takes what suits the device.
    :param evaluate_every:
        Steps between evaluations on the dev sample; 0 evaluates at the ends of stages only.
    :param patience:
        Stop a stage after so many evaluations without a better one in the same stage; 0 never does.
    :param keep:
        Which state becomes the student: the `best` one on the dev sample, or the `last`, as papers count steps.
    :param checkpoint_every:
        Steps between checkpoints; there is one at the end of each stage, too.
    :param keep_checkpoints:
        How many checkpoints stay, the newest first.
    :param log_every:
        Steps between lines of the log.
    :param dev_queries:
        Queries of the fixed dev sample.
    :param dev_documents:
        Documents of the fixed dev sample.
    :param dev_depth:
        For rankers: how many documents of BM25's each query of the sample has ranked.
    :param trackers:
        Further logs beside `log.jsonl`: names that Accelerate knows, such as `tensorboard`.
    """

    batch_size: Count = 32
    accumulation: Count = 1
    cache_gradients: Flag = False
    seed: Seed = 0
    precision: Precision = "no"
    dropout: Share | None = None
    dims: list[Count] = field(default_factory=list)
    scale: Positive | None = None
    weight_decay: NotNegative = 0.01
    warmup: Share = 0.1
    lr_floor: Share = 0.0
    clip: NotNegative = 1.0
    tokens_per_chunk: Count | None = None
    evaluate_every: Amount = 0
    patience: Amount = 0
    keep: Literal["best", "last"] = "best"
    checkpoint_every: Count = 200
    keep_checkpoints: Count = 1
    log_every: Count = 10
    dev_queries: Count = 200
    dev_documents: Count = 2000
    dev_depth: Count = 20
    trackers: list[Text] = field(default_factory=list)


@with_config(ConfigDict(extra="forbid"))
class StageTraining(TypedDict, total=False):
    """What a stage may set of its own in place of the recipe's `training`."""

    batch_size: Count
    accumulation: Count
    cache_gradients: Flag
    warmup: Share
    lr_floor: Share
    weight_decay: NotNegative
    clip: NotNegative
    evaluate_every: Amount
    patience: Amount
    keep: Literal["best", "last"]


@dataclass(kw_only=True)
class FilterSection(_Section):
    """
    Which mined documents are no negatives, by a teacher's scores (see `candidates.filters.filter_negatives`).

    :param teacher:
        Name of the teacher.
    :param absolute_margin:
        How far below the positive's score a negative must lie.
    :param relative_margin:
        The same as a share of the positive's score: .05 keeps what has 95% of it at most.
    :param max_score:
        Highest score of a negative.
    :param min_score:
        Lowest score of a negative.
    """

    teacher: Text
    absolute_margin: Number | None = None
    relative_margin: Number | None = None
    max_score: Number | None = None
    min_score: Number | None = None


@dataclass(kw_only=True)
class PoolSection(_Section):
    """
    A pool of negatives, of which the student sees the few that a teacher scores best.

    The pool is drawn as `order` and `sampling` say; with `order: random` anew each epoch. The teacher scores it before
    the stage, once for all runs. So the student scores `negatives` documents a query, whatever the pool's size.

    :param size:
        Negatives of a query's pool.
    :param keep:
        Which `negatives` of the pool enter the list. `hardest`: those that the teacher scores best; what it does not
        score is left out. `random`: any, which asks no teacher; it is the baseline of `hardest`.
    :param teacher:
        Name of the teacher that scores the pool: one that is asked before training.
    """

    size: Count
    teacher: Text
    keep: Literal["hardest", "random"] = "hardest"

    @property
    def asks(self) -> str | None:
        """The teacher that must score the pool; None if none must."""
        return self.teacher if self.keep == "hardest" else None


@dataclass(kw_only=True)
class CandidatesSection(_Section):
    """
    The candidate lists of a stage.

    :param sources:
        Names of the recipe's `candidates` to draw negatives from, in turn.
    :param negatives:
        Negatives a query and step.
    :param order:
        `random`, or `top` of the list.
    :param sampling:
        How `random` draws from several sources: `union`, every document alike; `multiset`, in proportion to how many
        found it; `balanced`, a source first, then one of its documents.
    :param skip:
        Leave out so many documents at the top of each source: they are the most likely unlabelled positives.
    :param range:
        `[first, end]`: take the documents at these ranks of each source alone, from 0, the end excluded; it is `skip`
        with an end.
    :param filter:
        Leave out documents that a teacher scores too high, or too low.
    :param pool:
        Draw more negatives than the student sees, and keep those that a teacher scores best.
    :param positives:
        `random` (one), `first` or `all` of a query's positives.
    :param text:
        What makes documents' texts of a list, by default the documents alone: `QuestionViews`.
    """

    sources: Annotated[list[Text], Field(min_length=1)]
    negatives: Amount = 7
    order: Literal["random", "top"] = "random"
    sampling: Literal["union", "multiset", "balanced"] = "union"
    skip: Amount = 0
    range: tuple[Amount, Amount] | None = None
    filter: FilterSection | None = None
    pool: PoolSection | None = None
    positives: Literal["random", "first", "all"] = "random"
    text: Component | None = None


@dataclass(kw_only=True)
class Stage(_Section):
    """
    A stretch of training with fixed teacher, candidates and objectives.

    :param name:
        Name in logs and checkpoints, unique in the recipe.
    :param batches:
        What a step trains on: `{type, init_parameters}` of a `BatchSource`, or a short name. `lists`: queries with
        candidates; `texts`: any queries and documents, for objectives that need no lists; `queries`: any queries, and
        sentences of the corpus in their place, where documents have nothing to learn; `pairs`: queries, each with the
        rest of a document that it stands in, for contrastive pre-training.
    :param queries:
        Where the stage's queries come from, made when it opens or is refreshed: a `QuerySource`; null: the data's.
    :param teacher:
        Teacher of the objectives that name none.
    :param candidates:
        The candidate lists (for `batches: lists`).
    :param objectives:
        Terms of the loss.
    :param lr:
        Highest learning rate.
    :param schedule:
        How the learning rate goes on after its warm-up: `linear` or `cosine` to 0 (or `training.lr_floor`), or
        `constant`.
    :param steps:
        Optimiser steps.
    :param temperature:
        Divides the scores of all objectives that have a softmax, in place of their own temperatures.
    :param weighting:
        How much each of several teachers of an objective counts: a `TeacherWeighting`.
    :param selector:
        Chooses the queries to train on when the stage opens; a stage that none is left for is passed over. How many
        it kept is logged.
    :param refresh:
        Steps after which candidates are mined, queries selected and lists scored anew, and the anchor is taken anew.
    :param anchor:
        `start`: keep a frozen copy of the student as it was when the stage opened, for objectives that compare with it.
    :param training:
        What differs from the recipe's `training` in this stage: `batch_size`, `accumulation`, `cache_gradients`,
        `warmup`, `lr_floor`, `weight_decay`, `clip`, `evaluate_every`, `patience`, `keep`.
    """

    name: Name
    steps: Count
    objectives: Annotated[list[WeightedComponent], Field(min_length=1)]
    lr: Positive = 5e-5
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    batches: Annotated[
        Component,
        BeforeValidator(_written_out, json_schema_input_type=Literal["lists", "texts", "queries", "pairs"] | Component),
    ] = field(default_factory=lambda: Component(type=BATCHES["lists"]))
    queries: Component | None = None
    teacher: Text | None = None
    candidates: CandidatesSection | None = None
    temperature: Component | None = None
    selector: Component | None = None
    refresh: Count | None = None
    anchor: Literal["start"] | None = None
    weighting: Component | None = None
    training: StageTraining = field(default_factory=StageTraining)

    @property
    def takes_lists(self) -> bool:
        """Whether candidate lists are made for it."""
        others = {kind for name, kind in BATCHES.items() if name != "lists"}
        return self.candidates is not None and self.batches.type not in others

    @property
    def takes_queries(self) -> bool:
        """Whether it learns from queries with their positives, among which a selector may choose."""
        return self.takes_lists or self.batches.type == BATCHES["pairs"]


@dataclass(kw_only=True)
class RecipeSections(_Section):
    """
    The keys of a recipe.

    :param format:
        1: the version of the format.
    :param student:
        What is trained.
    :param stages:
        How, one after the other.
    :param teachers:
        What it learns from, by name.
    :param candidates:
        What mines negatives, by name.
    :param data:
        Which part of the data is used for what.
    :param training:
        How to train, for all stages.
    """

    format: Literal[1]
    student: Component
    stages: Annotated[list[Stage], Field(min_length=1)]
    teachers: dict[Name, Component] = field(default_factory=dict)
    candidates: dict[Name, Component] = field(default_factory=dict)
    data: DataSection = field(default_factory=DataSection)
    training: TrainingSection = field(default_factory=TrainingSection)


@cache
def adapter() -> TypeAdapter[RecipeSections]:
    """Return what checks the values of a whole recipe."""
    return TypeAdapter(RecipeSections)
