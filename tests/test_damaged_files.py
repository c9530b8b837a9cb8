# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Each file of a run, empty, cut in half or overwritten: one error that names it and the mend, or it is made again."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from haystack import Document
from tiny import TOPICS, everything, pool, recipe, spec, stage, tiny_config, write_jsonl

from retort.cli.main import _mendable
from retort.students import DamagedFileError, Student
from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.data.beir import read_beir
from retort.trainers.engine.checkpoints import list_checkpoints, load_tensors, read_state
from retort.trainers.engine.log import read_log
from retort.trainers.evaluation.report import write_report
from retort.trainers.evaluation.runs import read_per_query, read_rankings, read_scores
from retort.trainers.from_documents import write_data
from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe
from retort.trainers.run_folder import refuse_other_models, refuse_other_run


def empty(path: Path) -> None:
    path.write_bytes(b"")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scramble(path: Path) -> None:
    """Overwrite the middle third: the size stays, and so does the beginning, which says what kind of file it is."""
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = random.Random(path.name).randbytes(third)
    path.write_bytes(bytes(content))


DAMAGES = [empty, halve, scramble]


@pytest.fixture(scope="module")
def tree(tokenizer_path, tiny_student) -> dict:
    return recipe(
        student=spec("from_config", config=tiny_config(1, 8), tokenizer=tokenizer_path, seed=5),
        teachers={"teacher": spec("BiEncoderTeacher", model=tiny_student, device="cpu")},
        candidates={"bm25": spec("BM25Miner", depth=6)},
        stages=[
            stage(
                "made",
                4,
                spec("InBatchKL"),
                teacher="teacher",
                queries=spec("retort.trainers.data.pseudo_queries.KeyPhrases"),
                candidates=pool("bm25", negatives=1),
            )
        ],
        batch_size=4,
        checkpoint_every=2,
        log_every=1,
        dev_queries=5,
        dev_documents=20,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory, tree) -> Path:
    """Data, a finished run and its cache; they are copied before they are damaged."""
    place = tmp_path_factory.mktemp("runs")
    (place / "data" / "qrels").mkdir(parents=True)
    texts = [f"the {word} in the {topic}" for topic, words in TOPICS.items() for word in words.split()]
    write_jsonl(place / "data" / "corpus.jsonl", [{"_id": f"d{i}", "text": text} for i, text in enumerate(texts)])
    write_jsonl(place / "data" / "queries.jsonl", [{"_id": f"q{i}", "text": text} for i, text in enumerate(texts)])
    for split, rows in (("train", range(20)), ("dev", range(20, 30))):
        lines = "".join(f"q{i}\td{i}\t1\n" for i in rows)
        (place / "data" / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    run_recipe(Recipe.from_dict(tree), place / "data", place / "run")
    return place


@pytest.fixture
def copied(place, tmp_path) -> Path:
    shutil.copytree(place, tmp_path / "copy")
    return tmp_path / "copy"


def resume(tree: dict, copied: Path) -> dict:
    return run_recipe(Recipe.from_dict(tree), copied / "data", copied / "run", resume=True)


READERS = {
    "recipe.yaml": lambda tree, run: refuse_other_run(Recipe.from_dict(tree), run, resume=True),
    "log.jsonl": lambda tree, run: read_log(run / "log.jsonl"),
    "metrics.json": lambda tree, run: resume(tree, run.parent),
    "checkpoints/models.json": lambda tree, run: refuse_other_models({}, run),
    "checkpoints/step-00000004/state.json": lambda tree, run: read_state(list_checkpoints(run / "checkpoints")[-1]),
    "checkpoints/step-00000004/state.safetensors": lambda tree, run: read_state(
        list_checkpoints(run / "checkpoints")[-1]
    ),
    "checkpoints/best.safetensors": lambda tree, run: load_tensors(run / "checkpoints" / "best.safetensors", "Delete"),
    "candidates/made.parquet": lambda tree, run: CandidateLists.load(
        run / "candidates" / "made.parquet", read_beir(run.parent / "data", "train")
    ),
    "per_query/dev.parquet": lambda tree, run: read_per_query(run, "dev"),
    "rankings/dev.run": lambda tree, run: read_rankings(run, "dev"),
    "rankings/dev.npy": lambda tree, run: read_scores(run, "dev"),
    **{
        f"student/{name}": lambda tree, run: Student.load(str(run / "student"), device="cpu")
        for name in ("config.json", "model.safetensors", "modules.json", "retort.json", "tokenizer.json")
    },
}


@pytest.mark.parametrize("name", READERS)
def test_named_with_the_mend(name, tree, copied):
    path = copied / "run" / name
    whole = path.read_bytes()
    for damage in DAMAGES:
        path.write_bytes(whole)
        damage(path)
        with pytest.raises(_mendable()) as error:
            READERS[name](tree, copied / "run")
        # Of values that changed within a student only its hash tells.
        assert str(path) in str(error.value) or str(path.parent) in str(error.value)
        assert any(word in str(error.value) for word in ("elete", "Restore", "No model that can be loaded"))


def test_mends_help(tree, place, copied):
    """What the messages say, one after the other, ends in the run that there was."""
    run = copied / "run"
    for name in ("metrics.json", "recipe.yaml", "log.jsonl", "checkpoints/models.json", "queries/made.jsonl"):
        scramble(run / name)
    scramble(list_checkpoints(run / "checkpoints")[-1] / "state.safetensors")
    mended = []
    for _ in range(9):
        try:
            resume(tree, copied)
            break
        except _mendable() as error:
            path = next(p for p in run.rglob("*") if p.is_file() and str(p) in str(error))
            mended.append(path.name)
            if f"Delete the folder {path.parent}" in str(error):
                shutil.rmtree(path.parent)
            else:
                path.unlink()
    assert len(mended) >= 4
    after, expected = everything(run), everything(place / "run")
    assert after.keys() == expected.keys()
    assert all(torch.equal(after[name], expected[name]) for name in after)
    write_report(run, copied / "report.html")


def test_caches_are_made_again(tree, place, copied, caplog):
    blocks = sorted((copied / ".retort-cache" / "mined").rglob("*.npz"))
    assert blocks
    for path in blocks:
        scramble(path)
    for name in ("checkpoints", "candidates"):
        shutil.rmtree(copied / "run" / name)
    (copied / "run" / "metrics.json").unlink()
    resume(tree, copied)
    assert f"{blocks[0]} is damaged" in caplog.text
    after, expected = everything(copied / "run"), everything(place / "run")
    assert all(torch.equal(after[name], expected[name]) for name in after)


@pytest.mark.parametrize("damage", DAMAGES)
def test_training_data_of_distill_are_made_again(damage, tree, tmp_path, caplog):
    documents = [
        Document(id=f"{topic} {word}", content=f"The {word} is in the {topic}. Near the {topic} is a {word}.")
        for topic, words in TOPICS.items()
        for word in words.split()
    ]

    def make() -> dict:
        return write_data(documents, tmp_path, Recipe.from_dict(tree), None, (), 0.3, lambda _: None)

    counts = make()
    files = [tmp_path / "data.json", *(p for p in (tmp_path / "data").rglob("*") if p.suffix in {".jsonl", ".tsv"})]
    assert len(files) == 6
    whole = {path: path.read_bytes() for path in files}
    for path in files:
        damage(path)
        assert make() == counts
        assert f"{path} is damaged" in caplog.text
        assert {p: p.read_bytes() for p in files} == whole


def test_a_kill_may_cut_the_last_line_of_the_log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"global_step": 1}\n{"glob')
    assert read_log(path, killed=True) == [{"global_step": 1}]
    with pytest.raises(DamagedFileError, match="Delete it"):
        read_log(path)
