# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The command line on tiny models, in process."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import yaml
from haystack import Document
from haystack.dataclasses import SparseEmbedding
from tiny import write_jsonl

from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort import indexes
from retort.cli import main
from retort.pipelines import indexing
from retort.pipelines.shards import Shards
from retort.students import SENTENCES_STAMP, Manifest, Student
from retort.trainers.runtime.errors import DataError


def say(capsys, *arguments: str) -> str:
    main(list(arguments))
    return capsys.readouterr().out


def fail(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


@pytest.fixture
def indexed(tiny_student, beir, tmp_path, capsys):
    store = str(tmp_path / "index")
    out = say(capsys, "index", tiny_student, "--documents", str(beir), "--store", store)
    assert out.startswith(f"40 documents in {store}")
    return store


class TestIndexAndAsk:
    def test_ask(self, indexed, capsys):
        found = json.loads(say(capsys, "ask", "the ship sail in the sea.", "--store", indexed, "--json"))
        assert found["answers"]
        assert len(found["documents"]) == 10
        answer = found["answers"][0]
        assert answer["document"] in [d["id"] for d in found["documents"]]
        assert answer["end"] > answer["start"]
        text = say(capsys, "ask", "the ship sail in the sea.", "--store", indexed)
        assert answer["text"] in text
        assert f"{answer['document']} ({answer['start']}-{answer['end']})" in text

    def test_indexing_again_replaces(self, indexed, tiny_student, beir, capsys):
        out = say(capsys, "index", tiny_student, "--documents", str(beir), "--store", indexed)
        assert out.startswith("40 documents")

    def test_only_what_is_missing_or_changed_is_embedded(self, tiny_student, beir, tmp_path, capsys, monkeypatch):
        """After a kill in the third block of three, and after a change of one text."""
        embedded, real = [], Student.encode_document

        def encode(self, texts, **options):
            if len(embedded) == most:
                raise KeyboardInterrupt
            embedded.append(texts)
            return real(self, texts, **options)

        monkeypatch.setattr(Student, "encode_document", encode)
        monkeypatch.setattr(indexing, "BLOCK", 16)
        store, most = str(tmp_path / "index"), 2
        command = ("index", tiny_student, "--documents", str(beir), "--store", store, "--no-sentences")
        with pytest.raises(SystemExit):
            main(list(command))
        most, first = None, [text for block in embedded for text in block]
        embedded.clear()
        assert say(capsys, *command).startswith("40 documents")
        assert [len(first), *map(len, embedded)] == [32, 8]
        assert not set(first) & set(embedded[0])
        embedded.clear()
        lines = (beir / "corpus.jsonl").read_text().splitlines()
        changed = json.loads(lines[3]) | {"text": "bread in the oven."}
        (beir / "corpus.jsonl").write_text("\n".join([*lines[:3], json.dumps(changed), *lines[4:]]))
        assert say(capsys, *command).startswith("40 documents")
        assert embedded == [["sea bread in the oven."]]

    @pytest.mark.integration
    def test_two_processes_embed_and_one_writes(self, indexed, tiny_student, beir, tmp_path):
        """What a killed run had embedded is taken up; the index is that of one process."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        store = tmp_path / "together"
        code = "import sys; sys.modules['PIL'] = None; "  # texts need no Pillow
        code += "from retort.cli import main; from retort.pipelines import indexing; indexing.BLOCK = 16; main()"
        command = [sys.executable, "-c", code, "index", tiny_student, "--documents", str(beir), "--store", str(store)]
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        ranks = [
            subprocess.Popen(
                command,
                env=os.environ | place | {"RETORT_DEBUG": "1", "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        said = [rank.communicate(timeout=240) for rank in ranks]
        for rank, (_, errors) in zip(ranks, said, strict=True):
            assert rank.returncode == 0, errors
        assert said[0][0].startswith("40 documents in")
        assert said[1][0] == ""
        assert not (tmp_path / "together.shards").exists()
        alone, together = (
            {d.id: d for d in QdrantEdgeDocumentStore(path=str(p), return_embedding=True).filter_documents()}
            for p in (indexed, store)
        )
        assert alone.keys() == together.keys()
        for i, document in alone.items():
            assert together[i].meta == document.meta
            assert together[i].embedding == pytest.approx(document.embedding, abs=1e-6)

    def test_one_process_removes_what_a_killed_launch_left(self, tiny_student, beir, tmp_path, capsys):
        left = tmp_path / "index.shards"
        left.mkdir()
        (left / "0.safetensors").touch()
        say(capsys, "index", tiny_student, "--documents", str(beir), "--store", str(tmp_path / "index"))
        assert not left.exists()

    @pytest.mark.parametrize("sentences", [True, False])
    def test_blocks_of_documents_keep_all_that_is_embedded(self, tmp_path, sentences):
        documents = [Document(id=str(i), content="x", meta={"n": i}) for i in range(3)]

        def embed(block):
            found = [
                replace(d, embedding=[float(i), 1.0], sparse_embedding=SparseEmbedding(list(range(i)), [0.5] * i))
                for i, d in enumerate(block)
            ]
            kept = replace(found[1], meta={**found[1].meta, SENTENCES_STAMP: "AAAA"})  # the others have no text
            return [found[0], kept if sentences else found[1], found[2]]

        shards = Shards(tmp_path / "shards", {"stamp": "s"}, sentences=sentences)
        shards.put(documents, embed)
        shards.put(documents, None)  # not embedded again
        taken = shards.take(documents)
        wanted = [replace(d, meta={**d.meta, "stamp": "s"}) for d in embed(documents)]
        assert taken == wanted
        for stamp, kept in (("other", sentences), ("s", not sentences)):
            with pytest.raises(FileNotFoundError):
                Shards(tmp_path / "shards", {"stamp": stamp}, sentences=kept).take(documents)

    def test_another_student_cannot_add_to_an_index(self, indexed, other_student, tiny_student, beir, capsys):
        error = fail(capsys, "index", other_student, "--documents", str(beir), "--store", indexed)
        assert f"was built by {tiny_student}" in error

    def test_quantised(self, indexed, tiny_student, beir, tmp_path, capsys):
        """An index keeps what it was built with; another wish is an error, and so is a server's storage."""
        store = str(tmp_path / "bytes")
        command = ("index", tiny_student, "--documents", str(beir))
        for asked in (("--quantization", "int8", "--storage", "float16"), ()):
            assert say(capsys, *command, "--store", store, *asked).startswith("40 documents")
        with closing(QdrantEdgeDocumentStore(path=store, quantization="int8", storage="float16")) as found:
            assert found.count_documents() == 40
        assert "storage='float16', not" in fail(capsys, *command, "--store", store, "--storage", "turbo8")
        for other in ("none", "int8"):
            told = fail(capsys, *command, "--store", indexed, "--quantization", other)
            assert f"quantization='turbo4', not with {other if other == 'none' else repr(other)}" in told
        plain = str(tmp_path / "plain")
        for asked in (("--quantization", "none", "--storage", "float32"), ("--quantization", "none")):
            assert say(capsys, *command, "--store", plain, *asked).startswith("40 documents")
        for path, quantization, storage in ((indexed, "turbo4", "float16"), (plain, None, "float32")):
            with closing(QdrantEdgeDocumentStore(path=path)) as found:
                kept = found.describe()
                assert (kept["quantization"], kept["storage"]) == (quantization, storage)
        url = "http://localhost:1/books"
        assert "a server keeps embeddings by" in fail(capsys, *command, "--store", url, "--storage", "turbo8")

    def test_passages_that_a_file_no_longer_gives_are_deleted(self, tiny_student, tmp_path, capsys):
        docs, store = tmp_path / "docs", str(tmp_path / "files")
        docs.mkdir()
        (docs / "a.txt").write_text("the ship in the sea. " * 100)
        (docs / "b.txt").write_text("bread and butter.")
        command = ("index", tiny_student, "--documents", str(docs), "--store", store)
        assert say(capsys, *command).startswith("5 documents")
        (docs / "a.txt").write_text("the ship.")
        assert say(capsys, *command).startswith("2 documents")

    def test_a_file_of_the_same_name_in_another_folder(self, tiny_student, tmp_path, capsys):
        """It would overwrite the first one's passages, and delete what it has more of."""
        store = str(tmp_path / "files")
        one, two = tmp_path / "one", tmp_path / "two"
        for folder, text in ((one, "the ship in the sea. " * 100), (two, "bread and butter.")):
            folder.mkdir()
            (folder / "a.txt").write_text(text)
        (two / "z.txt").write_text("the rose.")

        def command(folder, *more):
            return ("index", tiny_student, "--documents", str(folder), "--store", store, *more)

        def passages():
            with closing(QdrantEdgeDocumentStore(path=store)) as found:
                return {d.id: d.content for d in found.filter_documents()}

        assert say(capsys, *command(one)).startswith("4 documents")
        before = passages()
        for source in (two, two / "a.txt"):
            error = fail(capsys, *command(source))
            assert f"a.txt of {two} is already there from {one}, in the index at {store}; give another" in error
            assert passages() == before
        assert say(capsys, *command(one / "a.txt")).startswith("4 documents")  # a file's folder is its root
        (two / "a.txt").rename(two / "b.txt")
        assert say(capsys, *command(two)).startswith("6 documents")
        (one / "a.txt").write_text("the ship.")
        assert say(capsys, *command(one)).startswith("3 documents")
        moved = one.rename(tmp_path / "moved")
        assert say(capsys, *command(moved, "--prune")).startswith("1 documents")
        assert say(capsys, *command(moved)).startswith("1 documents")

    def test_an_index_without_roots_goes_on(self, tiny_student, tmp_path, capsys, monkeypatch):
        """They are embedded once more, and are of that folder from then on."""
        docs, store = tmp_path / "docs", str(tmp_path / "files")
        docs.mkdir()
        (docs / "a.txt").write_text("the ship in the sea. " * 100)
        command = ("index", tiny_student, "--documents", str(docs), "--store", store)
        with monkeypatch.context() as before:
            before.setattr(indexes, "source_root", lambda source: None)
            assert say(capsys, *command).startswith("4 documents")
        assert say(capsys, *command).startswith("4 documents")
        with monkeypatch.context() as again:
            again.setattr(Student, "encode_document", None)  # nothing is embedded again
            assert say(capsys, *command).startswith("4 documents")
        (docs / "a.txt").write_text("the ship.")
        assert say(capsys, *command).startswith("1 documents")

    def test_the_wrong_student(self, indexed, other_student, tiny_student, capsys):
        error = fail(capsys, "ask", "ship", "--store", indexed, "--student", other_student)
        assert f"was built by {tiny_student}" in error

    def test_a_folder_without_a_model(self, indexed, beir, capsys):
        error = fail(capsys, "ask", "ship", "--store", indexed, "--student", str(beir))
        assert f"No model that can be loaded in the folder '{beir}'" in error

    def test_a_runs_folder(self, indexed, tiny_student, tmp_path, capsys):
        shutil.copytree(tiny_student, tmp_path / "run" / "student")
        error = fail(capsys, "ask", "ship", "--store", indexed, "--student", str(tmp_path / "run"))
        assert f"'{tmp_path / 'run'}' is a run; its model is in '{tmp_path / 'run' / 'student'}'" in error

    def test_a_folder_whose_name_is_not_utf8(self, tiny_student, tmp_path, capsys):
        """No index can hold it, whatever its files are."""
        folder = tmp_path / os.fsdecode(b"caf\xe9") / "docs"
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text("the ship")
        error = fail(capsys, "index", tiny_student, "--documents", str(folder), "--store", str(tmp_path / "i"))
        assert "caf\\udce9/docs: the name of this folder, or of one above it, is not UTF-8" in error

    def test_no_index(self, tmp_path, capsys):
        error = fail(capsys, "ask", "ship", "--store", str(tmp_path / "nowhere"))
        assert "retort index STUDENT --documents DIR --store" in error

    def test_no_documents(self, tiny_student, tmp_path, capsys):
        error = fail(capsys, "index", tiny_student, "--documents", str(tmp_path / "x"), "--store", str(tmp_path / "i"))
        assert "does not exist" in error
        assert not (tmp_path / "i").exists()

    def test_no_student(self, beir, tmp_path, capsys):
        error = fail(capsys, "index", "./nowhere", "--documents", str(beir), "--store", str(tmp_path / "i"))
        assert "No model at './nowhere'" in error


class TestEvaluate:
    def test_table_and_json(self, tiny_student, beir, tmp_path, capsys):
        out = say(
            capsys, "evaluate", "bm25", tiny_student, "--data", str(beir), "--split", "dev",
            "--json", str(tmp_path / "e.json"),
        )  # fmt: skip
        found = json.loads((tmp_path / "e.json").read_text())["models"]
        assert set(found) == {"bm25", tiny_student}
        for name, metrics in found.items():
            assert set(metrics) == {
                "ndcg@10", "mrr@10", "recall@20", "recall@100", "ms", "ms_encode", "documents_per_s", "mb", "queries",
                "documents",
            }  # fmt: skip
            assert f"{metrics['ndcg@10']:.4f}" in out
            assert name in out
        assert found["bm25"]["recall@100"] == 1.0
        assert "10 queries, 40 documents" in out

    def test_bad_data(self, beir, capsys):
        with (beir / "corpus.jsonl").open("a") as corpus:
            corpus.write("{\n")
        assert "corpus.jsonl, line 41" in fail(capsys, "evaluate", "bm25", "--data", str(beir), "--split", "dev")

    def test_bad_split(self, beir, capsys):
        assert "Splits there: dev, train" in fail(capsys, "evaluate", "bm25", "--data", str(beir), "--split", "test")


@pytest.mark.parametrize("command", [("evaluate", "bm25"), ("compare", "bm25", "STUDENT"), ("export", "STUDENT")])
def test_data_without_a_positive_measures_nothing(command, tiny_student, beir, tmp_path, capsys):
    """All forms would score 0, and so be as good as each other; nothing is made of such data."""
    student = shutil.copytree(tiny_student, tmp_path / "student")
    arguments = [str(student) if word == "STUDENT" else word for word in command]
    path = beir / "qrels" / "dev.tsv"
    path.write_text(path.read_text().replace("\t1\n", "\t0\n"))
    error = fail(capsys, *arguments, "--data", str(beir), "--split", "dev")
    assert f"{beir}, split 'dev': none of 10 queries has a positive" in error
    assert not (student / "onnx").exists()


class TestTrain:
    def test_train(self, recipe_tree, beir, tmp_path, capsys):
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe_tree))
        arguments = [
            "train",
            "--recipe",
            str(tmp_path / "r.yaml"),
            "--data",
            str(beir),
            "--out",
            str(tmp_path / "run" / "a"),
        ]
        arguments += ["--set", "stages.0.steps=1", "--set", "stages.1.steps=1"]
        out = say(capsys, *arguments)
        assert "10 queries, 40 documents" in out
        student = tmp_path / "run" / "a" / "student"
        [made] = Manifest.read(student).exports
        assert (made["file"], made["ndcg"], made["chosen"]) == ("onnx/float32", None, True)
        assert Student.load(str(student)).form == Student.load(str(student), backend="onnx", precision="float32").form
        text = ["the ship is near the harbour"]
        vectors = [Student.load(str(student), backend=name).encode_query(text) for name in ("torch", "onnx")]
        np.testing.assert_allclose(*vectors, atol=1e-5)
        before = (student / "onnx" / "float32" / "model.onnx").stat().st_mtime_ns
        assert say(capsys, *arguments, "--resume") == out
        assert (student / "onnx" / "float32" / "model.onnx").stat().st_mtime_ns == before
        assert "--resume" in fail(capsys, *arguments)
        assert "unknown key" in fail(capsys, *arguments, "--resume", "--set", "stages.0.x=1")


@pytest.mark.parametrize(
    "arguments",
    [
        *(("serve", "--store", "x", name) for name in ("--workers", "--max-body", "--max-requests")),
        *(
            ("evaluate", "bm25", "--data", "x", "--split", "dev", name)
            for name in ("--depth", "--dim", "--max-queries")
        ),
        *(("export", "x", name) for name in ("--threads", "--max-queries")),
        ("ask", "ship", "--store", "x", "--top-k"),
    ],
)
def test_counts_are_above_0(arguments, capsys):
    for count in ("0", "-2"):
        assert f"argument {arguments[-1]}: {count} is not above 0" in fail(capsys, *arguments, count)
    assert f"argument {arguments[-1]}: invalid positive value: 'x'" in fail(capsys, *arguments, "x")


def test_help_teaches(capsys):
    for command in ("train", "evaluate", "index", "ask"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert "example" in capsys.readouterr().out


def test_pydocs_corpus_and_questions(tmp_path):
    """The quickstart's data: handwritten questions, each with an answer in this Python's documentation."""
    from retort.examples.pydocs.corpus import passages, split_passages, write_beir
    from retort.trainers.data.beir import read_beir

    counts = write_beir(tmp_path / "data")
    assert 3000 < counts["passages"] < 6000
    train, dev, test = (read_beir(tmp_path / "data", split) for split in ("train", "dev", "test"))
    assert len(dev.queries) + len(test.queries) == counts["questions"]
    assert len(test.queries) >= 120
    assert len({*train.queries.texts, *dev.queries.texts, *test.queries.texts}) == len(set(train.queries.texts)) + len(
        dev.queries
    ) + len(test.queries)
    assert [r["_id"] for r in passages()] == dev.corpus.ids
    assert split_passages("Title\n\n" + "word " * 50 + "\n\n" + "more " * 90) == [
        ("Title\n\n" + "word " * 50).strip(), ("more " * 90).strip(),
    ]  # fmt: skip


def test_fewer_questions_than_a_hundred_is_an_error(monkeypatch, tmp_path):
    from retort.examples.pydocs import corpus

    monkeypatch.setattr(corpus, "QUESTIONS", tmp_path / "q.jsonl")
    write_jsonl(tmp_path / "q.jsonl", [{"_id": "q1", "text": "a?", "keys": ["json.loads"]}] * 3)
    with pytest.raises(DataError, match=r"Only 3 of 3 questions .*100 are needed"):
        corpus.write_beir(tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.integration
def test_quickstart_and_a_second_run(monkeypatch, tmp_path, capsys):
    """The whole way on a part of the documentation, with a few steps; then again, from what is finished."""
    from retort.cli.quickstart import QUESTIONS
    from retort.examples.pydocs import corpus, quickstart

    part = ("json", "random", "bool", "shutil")
    whole = list(corpus.passages())
    some = [r for r in whole if r["metadata"]["key"].split(".")[0] in part]
    monkeypatch.setattr(corpus, "passages", lambda: iter(some))
    monkeypatch.setattr(corpus, "FEWEST_QUESTIONS", 5)
    few = ["stages.0.steps=2", "stages.1.steps=1", "stages.1.candidates.negatives=1", "training.batch_size=8"]
    few.append("training.dev_documents=20")
    monkeypatch.setattr(quickstart, "TIMED_PASSAGES", 4)
    monkeypatch.setattr(quickstart, "OVERRIDES", [*quickstart.OVERRIDES, *few])
    out = tmp_path / "quick"
    first = say(capsys, "quickstart", "--out", str(out))
    assert "student: mining" in first
    for title in ("bm25", quickstart.TEACHER_ROW, quickstart.STUDENT_ROW, "through pipelines/indexing.yml", "next:"):
        assert title in first
    after = first.partition("next:")[2]
    for command in ("retort serve --store", "retort index", "--documents my-documents", "retort distill"):
        assert command in after
    assert (out / "student" / "retort.json").is_file()
    asked = json.loads(say(capsys, "ask", QUESTIONS[0], "--store", str(out / "index"), "--json"))
    assert len(asked["documents"]) == 10

    def refuse(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(corpus, "write_beir", refuse)
    monkeypatch.setattr(indexes, "read_source", refuse)
    monkeypatch.setattr(quickstart, "evaluate_bm25", refuse)
    second = say(capsys, "quickstart", "--out", str(out))
    assert "student: finished before" in second
    assert second.split("answers, through")[1].split("]")[1] == first.split("answers, through")[1].split("]")[1]


@pytest.mark.integration
@pytest.mark.long
def test_the_notebook(tmp_path):
    """The example runs through as it stands, in a folder of its own."""
    command = [sys.executable, "-m", "retort.examples.notebook"]
    found = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert found.returncode == 0, found.stderr
    assert "dense, 384 dimensions" in found.stdout
    scores = {line.split()[0]: float(line.split()[-1]) for line in found.stdout.splitlines() if "nDCG@10" in line}
    assert scores["runs/notebook/run/student"] > scores["bm25"]
    assert found.stdout.rstrip().endswith("(random.sample)")


@pytest.mark.parametrize(
    ("arguments", "usage"), [([], "usage: retort [-h]"), (["recipe"], "usage: retort recipe [-h]")]
)
def test_nothing_to_do_is_the_help(capsys, arguments, usage):
    main(arguments)
    shown = capsys.readouterr()
    assert shown.out.startswith(usage)
    assert shown.err == ""


@pytest.mark.parametrize("command", ["quickstart", "train", "distill", "evaluate", "export", "index", "serve", "ask"])
def test_help_shows_the_defaults_that_say_something(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for nothing in ("None", "[]", "False"):
        assert f"(default: {nothing})" not in shown
    if command == "serve":
        assert "port to listen on; 0: a free one (default: 1416)" in shown


def test_index_leads_to_questions_and_to_the_page(tiny_student, beir, tmp_path, capsys):
    store = tmp_path / "my index"
    main(["index", tiny_student, "--documents", str(beir), "--store", str(store)])
    lines = capsys.readouterr().err.splitlines()
    assert lines[-3:] == [
        "next:",
        f"  retort ask \"your question\" --store '{store}'",
        f"  retort serve --store '{store}'",
    ]


class TestTerminals:
    """Texts that the terminal's encoding lacks are escaped: see `retort ask` on Windows."""

    @pytest.mark.parametrize(
        ("encoding", "shown"), [("cp1252", "Ä \\u4e0a"), ("ascii", "\\xc4 \\u4e0a"), ("utf-8", "Ä 上")]
    )
    def test_what_it_cannot_show(self, monkeypatch, tiny_student, tmp_path, encoding, shown):
        (tmp_path / "docs").mkdir()
        (tmp_path / "docs" / "a.txt").write_text("Ä 上 ship.", encoding="utf-8")
        store = str(tmp_path / "index")
        main(["index", tiny_student, "--documents", str(tmp_path / "docs"), "--store", store])
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", out)
        main(["ask", "Ä 上 ship.", "--store", store])
        out.flush()
        assert shown in out.buffer.getvalue().decode(encoding)
        out.buffer.truncate(out.buffer.seek(0))
        main(["ask", "Ä 上 ship.", "--store", store, "--json"])
        out.flush()
        assert json.loads(out.buffer.getvalue().decode(encoding))["question"] == "Ä 上 ship."

    def test_streams_of_other_kinds_are_left_alone(self, monkeypatch):
        lenient, other = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace"), io.StringIO()
        monkeypatch.setattr(sys, "stdout", lenient)
        monkeypatch.setattr(sys, "stderr", other)
        main(["recipe", "list"])
        assert lenient.errors == "replace"


EARLY = """
import json
import sys
from retort.cli.main import main
for line in json.load(sys.stdin):
    try:
        main(line.split())
    except SystemExit as end:
        print(end.code)
print([name for name in ("torch", "haystack", "sentence_transformers") if name in sys.modules])
"""


def test_what_is_wrong_at_sight_is_refused_before_torch_is_imported(beir, tmp_path):
    wrong = {
        f"train --recipe kd --data nosuch --out {tmp_path}": "nosuch does not exist. Training data is",
        f"train --recipe nosuch --data {beir} --out {tmp_path}": "There is no recipe 'nosuch'",
        f"train --recipe kd --data {beir} --out {tmp_path} --set stages.0.stepz=3": "did you mean 'steps'?",
        f"train --recipe cotmae --documents nosuch --out {tmp_path}": "nosuch does not exist. Give a folder",
        f"distill --documents nosuch --out {tmp_path}": "nosuch does not exist. Give a folder",
        f"distill --documents {beir} --out {tmp_path} --recipe nosuch": "There is no recipe 'nosuch'",
        f"distill --documents {beir} --out {tmp_path} --teacher nosuch.yaml": "nosuch.yaml",
        f"index {beir} --documents nosuch --store x": "nosuch does not exist. Give a folder",
        f"index package:nosuch/x --documents {beir} --store x": "'nosuch' is not installed",
        "ask what? --store nosuch": "There is no index at nosuch. Build one",
        "serve --store nosuch": "There is no index at nosuch. Build one",
        "stamp nosuch --student x": "There is no index at nosuch. Build one",
        "export nosuch": "exports are made of a student's folder",
        "evaluate bm25 --data nosuch --split dev": "nosuch does not exist. Training data is",
        f"evaluate package:nosuch/x --data {beir} --split dev": "'nosuch' is not installed",
        "compare a b --data nosuch --split dev": "nosuch does not exist. Training data is",
        "report runs/first --data nosuch": "nosuch does not exist. Training data is",
        "recipe show nosuch": "There is no recipe 'nosuch'",
        f"train --recipe kd --data {beir} --out {beir}/corpus.jsonl": f"--out {beir}/corpus.jsonl: {beir}/corpus.jsonl is",
        f"train --recipe kd --data {beir} --out {beir}/corpus.jsonl/x": "is a file, where a folder is needed",
        f"distill --documents {beir} --out {beir}/corpus.jsonl": "is a file, where a folder is needed",
        f"quickstart --out {beir}/corpus.jsonl": "is a file, where a folder is needed",
        f"evaluate bm25 --data {beir} --split dev --json {beir}": f"--json {beir} is a folder: name a file.",
        f"compare a b --data {beir} --split dev --json {beir}": f"--json {beir} is a folder: name a file.",
        f"report runs/first --out {beir}/corpus.jsonl/x.html": "is a file, where a folder is needed",
        "ask caf\udce9 --store nosuch": "the question is not UTF-8",
        "ask what? --filter topic=caf\udce9 --store nosuch": "--filter is not UTF-8",
        f"index x --documents {beir}/\udcff --store x": "does not exist",
    }
    done = subprocess.run([sys.executable, "-c", EARLY], input=json.dumps([*wrong]), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["2"] * len(wrong) + ["[]"]
    errors = [line for line in done.stderr.splitlines() if line.startswith("retort: error: ")]
    assert len(errors) == len(wrong)
    assert [line for line, told in zip(errors, wrong.values(), strict=True) if told not in line] == []
