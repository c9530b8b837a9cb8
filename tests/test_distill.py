# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""From documents alone: `retort distill`, and the trainer as a component."""

import copy
import json
import logging
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import tiny
import yaml
from haystack import Document, Pipeline
from haystack.components.generators.chat.mock import MockChatGenerator
from haystack.core.serialization import component_from_dict, component_to_dict
from haystack.dataclasses import ChatMessage
from tiny import TOPICS

import retort
from haystack_integrations.components.rankers.retort import StudentRanker
from haystack_integrations.components.trainers.retort import DistillationTrainer
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort import workflows
from retort.cli import main
from retort.students import Manifest, Student, read_space, save_student
from retort.students.create import pretrained, static
from retort.trainers import changes
from retort.trainers.changes import changed_recipe, recipe_for, teacher_spec, with_weak_pairs
from retort.trainers.data.beir import read_beir, read_corpus
from retort.trainers.data.documents import choose_cut, read_documents
from retort.trainers.data.queries import check_asked, read_asked
from retort.trainers.evaluation.fusion import fuse_cross_fitted
from retort.trainers.evaluation.runs import read_rankings
from retort.trainers.from_documents import distill_documents, judge, shortened, untrained_model
from retort.trainers.recipe import Recipe
from retort.trainers.run_folder import write_corpus
from retort.trainers.runtime.errors import DataError, RecipeError
from retort.workflows import stopping_after

MOCK = "haystack.components.generators.chat.mock.MockChatGenerator"
RANKER = "haystack_integrations.components.rankers.retort.student_ranker.StudentRanker"


@pytest.fixture
def handbook(tmp_path) -> Path:
    """Sixty small files of five topics."""
    folder = tmp_path / "handbook"
    for topic, words in TOPICS.items():
        names = words.split()
        (folder / topic).mkdir(parents=True)
        for i in range(12):
            first, second, third = (names[(i + k) % 10] for k in (0, 3, 7))
            text = (
                f"# The {first} and the {second} {i}\n\nThe {first} is near the {second} in the {topic}. "
                f"What is the {third} with a {first}? How near is the {names[i % 10]} of the {topic} and the {third}."
            )
            (folder / topic / f"page {i}.md").write_text(text)
    return folder


@pytest.fixture
def recipe(recipe_tree, tmp_path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(recipe_tree))
    return str(path)


def distill(*arguments: str | Path) -> None:
    main(["distill", *map(str, arguments)])


def fails(capsys, *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as stop:
        distill(*arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


@pytest.fixture
def without_export(monkeypatch):
    """Students that are not exported, which takes most of the time."""
    monkeypatch.setattr(workflows, "_export", lambda *_, **__: None)


class TestCommand:
    def test_the_whole_way_and_again(self, handbook, recipe, tmp_path, capsys, monkeypatch):
        out = tmp_path / "out"
        command = ["--documents", handbook, "--out", out, "--recipe", recipe, "--dev-share", "0.3"]
        distill(*command)
        said = capsys.readouterr().out
        for name in ("bm25", "teacher", "student", "hybrid"):
            assert f"\n{name} " in said
        assert "made up from your documents" in said
        found = json.loads((out / "verdict.json").read_text())
        assert found["metrics"]["hybrid"]["queries"] == found["metrics"]["student"]["queries"] > 0
        assert Manifest.read(out / "student").exports
        assert (out / "report.html").stat().st_size > 5000
        assert "The student" in (out / "report.html").read_text()
        for path in sorted((out / "pipelines").glob("*.yml")):
            Pipeline.loads(path.read_text())
        main(["ask", "what is the violin near the music?", "--store", str(out / "index"), "--json"])
        answers = json.loads(capsys.readouterr().out)
        assert len(answers["documents"]) == 10
        # Passages belong to their files: `retort index` goes on with the index, and needs no --prune.
        index, page = (
            ["index", out / "student", "--documents", handbook, "--store", out / "index"],
            handbook / "sea" / "page 0.md",
        )
        text = page.read_text()
        with monkeypatch.context() as again:
            again.setattr(Student, "encode_document", None)  # nothing is embedded again
            main([*map(str, index)])
        for content, count in (("", 59), (text, 60)):
            page.write_text(content)
            main([*map(str, index)])
            assert f"{count} documents in" in capsys.readouterr().out
        # Again: nothing is done twice. Runs of earlier versions kept no scores: their hybrid is one of ranks.
        (out / "systems.json").unlink()
        (out / "rankings" / "dev.npy").unlink()
        before = {p: p.stat().st_mtime_ns for p in (out / "student").rglob("*") if p.is_file()}
        distill(*command)
        assert "the student is trained already" in capsys.readouterr().out
        rankings = (read_rankings(out, name) for name in ("dev", "dev.bm25"))
        fused, _ = fuse_cross_fitted(*rankings, read_beir(out / "data", "dev").qrels)
        assert read_rankings(out, "dev.hybrid") == fused
        assert before == {p: p.stat().st_mtime_ns for p in (out / "student").rglob("*") if p.is_file()}
        # `retort.distill` is the command: it would be refused here, were anything different.
        for documents in (handbook, read_documents(handbook)):
            outcome = retort.distill(documents, out, recipe=recipe, dev_share=0.3)
            assert outcome.metrics == found["metrics"] | {"hybrid": outcome.metrics["hybrid"]}
            assert (outcome.student, outcome.report) == (out / "student", out / "report.html")
        assert before == {p: p.stat().st_mtime_ns for p in (out / "student").rglob("*") if p.is_file()}
        # Other documents, another recipe, or a folder that holds another model's index, are refused.
        shutil.copytree(out / "index", tmp_path / "other" / "index")
        other = ["--documents", handbook, "--out", tmp_path / "other", "--recipe", recipe]
        assert "holds an index of another model" in fails(capsys, *other)
        assert "holds a student of other documents" in fails(capsys, *command[2:], "--documents", handbook / "sea")
        assert "another recipe" in fails(capsys, *command, "--set", "stages.0.steps=9")

    @pytest.mark.usefixtures("without_export")
    def test_killed_and_gone_on_with(self, handbook, recipe, tmp_path, monkeypatch):
        command = ["--documents", handbook, "--recipe", recipe, "--dev-share", "0.3", "--out"]
        distill(*command, tmp_path / "whole")

        class Killed(BaseException):
            pass

        calls = []

        def killing(patch, module, name, at):
            real = getattr(module, name)

            def call(*args, **kwargs):
                calls.append(name)
                if len(calls) == at:
                    raise Killed
                return real(*args, **kwargs)

            patch.setattr(module, name, call)

        from retort.trainers import from_documents
        from retort.trainers.engine.loop import Loop

        for module, name in ((from_documents, "make_queries"), (Loop, "_step"), (from_documents, "write_report")):
            calls.clear()
            with monkeypatch.context() as within, pytest.raises(Killed):
                killing(within, module, name, 4 if name == "_step" else 1)
                distill(*command, tmp_path / "killed")
        distill(*command, tmp_path / "killed")
        whole, killed = (json.loads((tmp_path / n / "metrics.json").read_text())["dev"] for n in ("whole", "killed"))
        for name in ("ndcg@10", "recall@100", "queries"):
            assert whole["student"][name] == killed["student"][name]
        assert read_space(str(tmp_path / "whole" / "student")) == read_space(str(tmp_path / "killed" / "student"))

    @pytest.mark.usefixtures("without_export")
    def test_weak_pairs(self, handbook, tmp_path, recipe, capsys, monkeypatch):
        """A stage before the last one; nothing is made of what dev asks for, and the same command goes on."""
        monkeypatch.setattr(changes, "PAIR_STEPS", 3)
        out = tmp_path / "run"
        command = ["--documents", handbook, "--out", out, "--recipe", recipe, "--weak-pairs"]
        distill(*command, "--plan")
        assert "align 5, weak-pairs 3, distil 7 steps" in capsys.readouterr().out
        distill(*command)
        distill(*command)
        assert "the student is trained already" in capsys.readouterr().out
        asked = read_beir(out / "data", "dev")
        dev = {i for judged in asked.qrels.values() for i in judged}
        made = [json.loads(line) for line in (out / "queries" / "weak-pairs.jsonl").read_text().splitlines()]
        assert dev <= asked.held_out and not asked.held_out & {entry["document_id"] for entry in made}
        assert len({entry["document_id"] for entry in made}) > 40
        assert "another recipe" in fails(capsys, *command[:-1])

    @pytest.mark.usefixtures("without_export")
    @pytest.mark.parametrize("text", ["{0} {1} of number{2} by the gate{2}", "# On {0} number{2}\n\n{1} gate{2}."])
    def test_weak_pairs_that_there_are_none_of(self, tmp_path, recipe, caplog, text):
        """One sentence without a title has nothing to be paired with; a title over two words hardly anything."""
        documents = [
            Document(id=f"{topic}{i}", content=text.format(topic, words.split()[i % 9], i))
            for topic, words in TOPICS.items()
            for i in range(12)
        ]
        said = retort.plan_distill(documents, tmp_path / "out", recipe=recipe, weak_pairs=True)
        assert "align 5, distil 7 steps" in "\n".join(said)
        for _ in range(2):
            found = retort.distill(documents, tmp_path / "out", recipe=recipe, weak_pairs=True, dev_share=0.3)
            assert found.metrics["student"]["queries"] > 0
        assert "that stage is left out" in caplog.text

    def test_what_cannot_be_created_is_refused_before_queries_are_made(self, handbook, tmp_path, recipe, capsys):
        command = ["--documents", handbook, "--out", tmp_path / "out", "--recipe", recipe]
        said = fails(capsys, *command, "--set", "stages.0.objectives.0.type=retort.trainers.objectives.No")
        assert "stages.0.objectives.0.type: there is no" in said
        assert not (tmp_path / "out" / "data").exists()

    def test_one_process_alone(self, handbook, tmp_path, recipe, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(RecipeError, match="distilling of documents runs in one process"):
            distill_documents(read_documents(handbook), tmp_path / "out", recipe=Recipe.from_yaml(recipe))

    def test_few_documents_are_not_seen_a_hundred_times(self, handbook, tmp_path, capsys):
        """Unless the user says so."""
        recipe = Recipe.from_yaml("kd_lexical")
        few, many = {"documents": 60, "train": 100}, {"documents": 9000, "train": 9000}

        def steps(counts: dict[str, int], passes: int | None) -> list[int]:
            return [stage.steps for stage in shortened(recipe, counts, passes).stages]

        assert steps(few, 10) == [10 * 160 // 32, 32]  # the second stage sees queries alone
        assert steps(many, 10) == steps(few, None) == [stage.steps for stage in recipe.stages] == [4000, 240]
        taught = Recipe.from_yaml("prod-small")  # so are stages of teachers that are trained in the run
        before = {name: copy.deepcopy(spec.init_parameters.get("stages")) for name, spec in taught.teachers.items()}
        for name, spec in shortened(taught, few, 10).teachers.items():
            for stage, old in zip(spec.init_parameters.get("stages") or (), before[name] or (), strict=True):
                assert stage["steps"] < old["steps"] and {**stage, "steps": 0} == {**old, "steps": 0}
        assert {name: spec.init_parameters.get("stages") for name, spec in taught.teachers.items()} == before
        short = "student.init_parameters.max_tokens={query: 8, document: 16}"  # a plan times a step
        command = ["--documents", handbook, "--out", tmp_path / "out", "--plan", "--set", short]
        distill(*command, "--set", "stages.1.steps=500")
        said = capsys.readouterr().out
        assert "align 4000, words 500 steps" in said
        assert "quicker" not in said

    @pytest.mark.long
    def test_a_plan_names_what_is_quicker(self, handbook, tmp_path, capsys):
        """It makes the table of the other recipe to time it."""
        distill("--documents", handbook, "--out", tmp_path / "out", "--plan")
        said = capsys.readouterr().out
        assert int(re.search(r"align (\d+), words", said)[1]) < 200
        assert re.search(r"\nquicker: --recipe static_lexical trains a table of token vectors, about .+ together", said)

    def test_plan_does_nothing(self, handbook, recipe, tmp_path, capsys):
        generator = tmp_path / "llm.yaml"
        generator.write_text(yaml.safe_dump({"type": MOCK}))
        distill(
            "--documents", handbook, "--out", tmp_path / "out", "--recipe", recipe, "--generator", generator, "--plan"
        )
        said = capsys.readouterr().out
        assert "60 passages of 60 files" in said
        assert "generator of queries: 60 calls" in said
        assert "recipe small: align 5, distil 7 steps, 4 queries each" in said
        assert "teacher teacher: vectors of " in said
        assert "time, together: about" in said
        assert "memory: about" in said
        assert "index: one vector a passage of 150 words" in said
        assert not list((tmp_path / "out").rglob("*.jsonl"))
        # `retort.plan_distill` says the same, of documents and components made in Python, too.
        documents = read_documents(handbook)
        generator = MockChatGenerator()
        lines = retort.plan_distill(documents, tmp_path / "out", recipe=recipe, generator=generator)
        assert lines[:5] == said.splitlines()[:5]
        queries = {"where is the ship?": [documents[0].id, documents[1].id]}
        lines = retort.plan_distill(
            handbook,
            tmp_path / "out",
            queries=queries,
            generator={"generator": generator, "most": 1},
            settings={"stages.0.steps": 3},
        )
        assert "1 for dev" in lines[2]
        assert any("align 3, " in line for line in lines)
        with pytest.raises(DataError, match="nowhere"):
            retort.plan_distill(handbook, tmp_path / "out", recipe=recipe, queries={"a?": ["nowhere"]})

    @pytest.mark.usefixtures("without_export")
    def test_a_language_model_makes_questions_by_a_prompt_of_ones_own(self, handbook, recipe, tmp_path, capsys):
        file = tmp_path / "llm.yaml"
        reply = ChatMessage.from_assistant("where is the ship and the anchor?").to_dict()
        generator = {"type": MOCK, "init_parameters": {"responses": [reply]}}
        file.write_text(yaml.safe_dump({"generator": generator, "prompt": "Ask about {document}", "most": 1}))
        out = tmp_path / "out"
        command = ["--documents", handbook, "--out", out, "--recipe", recipe, "--dev-share", "0.3", "--generator", file]
        distill(*command)
        assert "| generator | 60 |" in (out / "data" / "card.md").read_text()
        file.write_text(yaml.safe_dump({"generator": generator, "promt": "x"}))
        assert "there is no parameter 'promt'; there are: " in fails(capsys, *command)

    def test_money_and_pairs_of_a_judge(self, handbook, tmp_path, capsys, tiny_student):
        judge_file = tmp_path / "judge.yaml"
        teacher = "retort.trainers.teachers.chat_generator.ChatGeneratorTeacher"
        parameters = {"generator": {"type": MOCK}, "price": 2.0}
        judge_file.write_text(yaml.safe_dump({"type": teacher, "init_parameters": parameters}))
        student = [
            "student.init_parameters={model: " + tiny_student + "}",
            "student.type=retort.students.create.pretrained",
        ]
        sets = [part for s in student for part in ("--set", s)]
        distill("--documents", handbook, "--out", tmp_path / "out", "--teacher", judge_file, "--plan", *sets)
        said = capsys.readouterr().out
        assert "recipe kd_scores" in said
        assert "scores of up to" in said
        assert "money, teacher ranker: about" in said
        assert "not known" in said

    @pytest.mark.usefixtures("without_export")
    def test_a_deadline_keeps_what_is_done(self, handbook, recipe, tmp_path, capsys, monkeypatch):
        from retort.trainers.engine.loop import Loop

        out, real, steps = tmp_path / "out", Loop._step, []

        def step(self, *arguments, **options):
            steps.append(1)
            if len(steps) == 2:
                signal.raise_signal(signal.SIGALRM)  # as the clock does
            return real(self, *arguments, **options)

        command = ["--documents", handbook, "--out", out, "--recipe", recipe, "--dev-share", "0.3"]
        with monkeypatch.context() as late:
            late.setattr(Loop, "_step", step)
            error = fails(capsys, *command, "--deadline", 60)
        assert len(steps) == 2
        assert "the deadline of 60 minutes has passed. What was done is kept" in error
        assert (out / "data" / "card.md").is_file()
        distill(*command)
        assert (out / "student" / "retort.json").is_file()

    def test_a_deadline_is_not_a_failure_to_retry(self):
        from retort.trainers.runtime.errors import TeacherError
        from retort.trainers.teachers.haystack import HaystackComponents

        calls = []

        def slow(item):
            calls.append(item)
            try:
                time.sleep(0.2)
            except Exception as error:  # as teachers do
                msg = "failed"
                raise TeacherError(msg) from error

        components = HaystackComponents({"generator": {"type": MOCK}}, retries=5)
        with pytest.raises(TeacherError, match="deadline"), stopping_after(0.3 / 60):
            list(components.each(slow, range(50), probe=-1))
        assert len(calls) < 5
        for odd in (0, -1, float("nan"), float("inf"), 1e300):
            with pytest.raises(RecipeError, match="deadline: .* minutes; it must be above 0, and a year at most"):
                stopping_after(odd).__enter__()

    def test_a_deadline_ends_with_its_work(self):
        """Nothing is stopped later, and another's handler of the signal is back."""
        before = signal.getsignal(signal.SIGALRM)
        with stopping_after(1):
            assert 55 < signal.getitimer(signal.ITIMER_REAL)[0] <= 60
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
        assert signal.getsignal(signal.SIGALRM) is before

    def test_a_deadline_in_a_thread_is_refused(self, tmp_path):
        with ThreadPoolExecutor(1) as pool, pytest.raises(RecipeError, match="only the main thread"):
            pool.submit(retort.distill, tmp_path, tmp_path / "out", deadline=1).result()

    @pytest.mark.usefixtures("without_export")
    def test_what_it_writes_is_not_read(self, handbook, recipe, tmp_path):
        command = [
            "--documents",
            handbook,
            "--out",
            handbook / "runs" / "mine",
            "--recipe",
            recipe,
            "--dev-share",
            "0.3",
        ]
        distill(*command)
        distill(*command)  # would be refused, were card.md a document


class TestSplit:
    @pytest.mark.parametrize(
        ("split", "tokens", "lengths", "words", "reason"),
        [
            ("auto", None, [400], 150, "one vector a passage of 150 words"),
            ("auto", 160, [100] * 9, 150, "a passage of 150 words: 9 of 9 files fit into the 160 tokens"),
            (
                "auto",
                512,
                [300] * 9 + [900],
                365,
                "a file, several of a longer one: 9 of 10 files fit into the 512 tokens",
            ),
            ("auto", 512, [300] * 8 + [900], 150, "a passage of 150 words: 8 of 9 files fit"),
            ("documents", 160, [900], 114, "0 of 1 files fit"),
            ("passages", 512, [300], 150, "one vector a passage"),
        ],
    )
    def test_what_is_chosen(self, split, tokens, lengths, words, reason):
        found = choose_cut(split, tokens, lengths)
        assert found.words == words and reason in found.reason

    def test_recipes_that_train_on_pieces(self):
        found = choose_cut("auto", 512, [900], pieces=True)
        assert found.words == 365 and "trains on pieces of documents" in found.reason
        others = [("auto", 512, 75), ("passages", 512, None), ("auto", None, None)]
        assert [choose_cut(s, t, [900], w, pieces=True).words for s, t, w in others] == [75, 150, 150]

    @pytest.mark.usefixtures("without_export")
    def test_fgd_learns_from_documents_and_answers_with_passages(self, list_tree, tmp_path, capsys):
        folder, text = tmp_path / "long", tiny.spec("retort.trainers.methods.fgd.Pieces", passage_tokens=9, passages=3)
        folder.mkdir()
        for topic, words in TOPICS.items():
            names = words.split()
            for i in range(6):
                page = " ".join(f"The {names[k % 10]} is near the {names[(i + k) % 10]}." for k in range(i, i + 24))
                (folder / f"{topic} {i}.txt").write_text(f"{topic} {names[i]}\n\n{page}")
        list_tree["stages"][0]["steps"] = 2
        list_tree["stages"][0]["candidates"]["text"] = text
        list_tree["stages"][0]["objectives"] = [
            tiny.spec("Contrastive"),
            tiny.spec("retort.trainers.methods.fgd.PieceKL"),
        ]
        list_tree["student"]["init_parameters"]["max_tokens"] = {"query": 16, "document": 60}
        (tmp_path / "fgd.yaml").write_text(yaml.safe_dump(list_tree))
        out = tmp_path / "out"
        distill("--documents", folder, "--out", out, "--recipe", tmp_path / "fgd.yaml", "--dev-share", "0.3")
        assert "index: one vector a file, several of a longer one: the recipe trains on" in capsys.readouterr().out
        assert Manifest.read(out / "student").passage_words == 42
        main(["ask", "what is the violin near the music?", "--store", str(out / "index"), "--json"])
        found = json.loads(capsys.readouterr().out)
        assert len(found["documents"]) == 10 and found["answers"]
        ids = {document["id"] for document in found["documents"]}
        for answer in found["answers"]:
            assert answer["document"] in ids
            assert answer["text"] in (folder / answer["title"]).read_text()

    def test_passages_of_another_length(self):
        assert choose_cut("passages", 512, [], 75).words == choose_cut("auto", 160, [300], 75).words == 75
        assert choose_cut("auto", 160, [100], 75).words == 114  # the file fits, and is longer than a passage

    @pytest.mark.parametrize(
        ("split", "words", "message"),
        [
            ("documents", None, "set max_tokens.document"),
            ("pages", None, "one of auto"),
            ("documents", 75, "passage_words: 75; with split: documents there are no passages"),
        ],
    )
    def test_mistakes(self, split, words, message):
        with pytest.raises(DataError, match=message):
            choose_cut(split, None, [100], words)

    def test_short_passages_share_a_quarter_at_most(self, tmp_path):
        (tmp_path / "a.txt").write_text(" ".join(f"word{i}" for i in range(40)))
        found = [d.content.split() for d in read_documents(tmp_path, words=8)]
        assert max(map(len, found)) == 8
        assert {len(set(one) & set(other)) for one, other in pairwise(found)} == {2}
        with pytest.raises(ValueError, match="passage_words must be above 0"):
            read_documents(tmp_path, words=0)

    @pytest.mark.usefixtures("without_export")
    @pytest.mark.parametrize(
        ("how", "reason", "words"),
        [
            (["--split", "documents"], "file, several of a longer one: 0 of 60 files fit into the 30 tokens", 21),
            (["--passage-words", "18"], "passage of 18 words: 0 of 60 files fit into the 30 tokens", 18),
        ],
    )
    def test_what_is_cut_otherwise_is_trained_and_served(
        self, handbook, recipe_tree, tmp_path, capsys, how, reason, words
    ):
        """As long as the student reads, or as the user says; `retort index` cuts files as the student was made for."""
        recipe_tree["student"]["init_parameters"]["max_tokens"] = {"query": 16, "document": 30}
        for stage in recipe_tree["stages"]:
            stage["steps"] = 1
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe_tree))
        out = tmp_path / "out"
        options = ["--documents", handbook, "--out", out, "--recipe", tmp_path / "small.yaml", "--dev-share", "0.3"]
        distill(*options, *how)
        said = capsys.readouterr().out
        assert f"one vector a {reason}" in said
        count = int(re.search(r"(\d+) documents;", said)[1])
        assert count > 100 and Manifest.read(out / "student").passage_words == words
        main(["index", str(out / "student"), "--documents", str(handbook), "--store", str(out / "index")])
        assert f"{count} documents in" in capsys.readouterr().out
        short = ["--documents", str(handbook), "--store", str(tmp_path / "short"), "--passage-words", "9"]
        main(["index", str(out / "student"), *short])
        assert int(capsys.readouterr().out.split()[0]) > 1.5 * count
        main(["index", str(out / "student"), *short[:4]])  # cut anew: of the shorter passages nothing is left
        assert f"{count} documents in" in capsys.readouterr().out
        assert "other documents" in fails(capsys, *options)


class TestBadInput:
    def test_empty_and_single(self, tmp_path, recipe, capsys):
        (tmp_path / "none").mkdir()
        command = ["--out", tmp_path / "out", "--recipe", recipe, "--documents"]
        assert "found nothing, but no file that can be read" in fails(capsys, *command, tmp_path / "none")
        (tmp_path / "none" / "one.txt").write_text("The ship is in the harbour. It waits for the tide.")
        assert "none for" in fails(capsys, *command, tmp_path / "none")
        assert not (tmp_path / "out" / "student").exists()

    def test_what_cannot_be_read_is_left_out_and_named(self, handbook, caplog):
        from pypdf import PdfWriter

        writer = PdfWriter()
        writer.add_blank_page(200, 200)
        writer.write(handbook / "scan.pdf")
        (handbook / "junk.docx").write_bytes(bytes(range(256)) * 40)
        (handbook / "picture.png").write_bytes(b"\x89PNG")
        with caplog.at_level(logging.WARNING):
            found = read_documents(handbook)
        assert len({d.meta["file_path"] for d in found}) == 60
        assert "2 files left out:\n  junk.docx: damaged" in caplog.text
        assert "\n  scan.pdf: no text (scanned pages need text recognition first)" in caplog.text
        with pytest.raises(DataError, match=r"junk\.docx: damaged"):
            read_documents(handbook, on_error="fail")
        shutil.move(handbook / "scan.pdf", handbook.parent / "scan.pdf")
        with pytest.raises(DataError, match="1 files cannot be read(?s:.*)scan.pdf: no text"):
            read_documents(handbook.parent / "scan.pdf")

    @pytest.mark.usefixtures("without_export")
    def test_blank_haystack_documents_are_left_out_and_named(self, handbook, tmp_path, recipe, caplog):
        """As files are, before queries are made of the others."""
        documents = read_documents(handbook)
        with_blank = [*documents, Document(id="blank", content=" "), Document(id="none")]
        out = tmp_path / "out"
        for call in (retort.distill, retort.plan_distill):
            with pytest.raises(DataError, match="2 documents cannot be read(?s:.*)\n  blank: no text\n  none: no text"):
                call(with_blank, out, recipe=recipe, on_error="fail")
        with pytest.raises(DataError, match="blank: no text"):
            retort.distill(with_blank[-2:], out, recipe=recipe)
        assert not (out / "data").exists()
        with caplog.at_level(logging.WARNING):
            outcome = retort.distill(with_blank, out, recipe=recipe, dev_share=0.3)
        assert caplog.text.count("2 documents left out:\n  blank: no text") == 1
        assert outcome.metrics["student"]["documents"] == len(documents)
        caplog.clear()
        distill_documents(
            with_blank, out, recipe=Recipe.from_yaml(recipe), dev_share=0.3
        )  # goes on: the same documents
        assert "blank: no text" in caplog.text
        with pytest.raises(DataError, match="blank: no text"):
            write_corpus(with_blank, tmp_path / "corpus", on_error="fail")
        assert len(read_corpus(write_corpus(with_blank, tmp_path / "corpus"))) == len(documents)

    def test_one_id_and_texts_that_no_file_holds(self, tmp_path, caplog):
        """The id of a Haystack document is of its content: copies have one."""
        twins = [Document(content="the ship waits"), Document(content="the ship waits")]
        half = Document(id="half", content="a \ud800 b")
        folder = write_corpus([*twins, half], tmp_path / "corpus")
        assert read_corpus(folder).texts == ["the ship waits"]
        assert "half: it holds half of a surrogate pair" in caplog.text
        with pytest.raises(DataError, match="half: it holds half of a surrogate pair"):
            write_corpus([*twins, half], tmp_path / "other", on_error="fail")
        with pytest.raises(DataError, match="Two documents have the id 'a', and other texts"):
            write_corpus([Document(id="a", content=text) for text in ("one", "two")], tmp_path / "other")

    def test_other_scripts_are_pointed_out(self, caplog, tmp_path, recipe_tree):
        from retort.trainers.from_documents import write_data

        texts = [f"Корабль стоит в гавани номер {i}. Он ждёт прилива и ветра на море {i}." for i in range(40)]
        documents = [Document(id=str(i), content=text) for i, text in enumerate(texts)]
        recipe = Recipe.from_dict(recipe_tree)
        with caplog.at_level(logging.WARNING):
            counts = write_data(documents, tmp_path / "out", recipe, None, (), 0.3, lambda _: None)
        assert "40 of 40 texts looked at are not in Latin script" in caplog.text
        assert counts["documents"] == 40

    def test_copies_of_documents_keep_their_queries(self, handbook, tmp_path, recipe_tree):
        from retort.trainers.from_documents import write_data

        single = read_documents(handbook)
        for i in range(5):
            shutil.copytree(handbook / "sea", handbook / f"copy{i}")
        recipe = Recipe.from_dict(recipe_tree)
        counts = {}
        for name, documents in (("once", single), ("copies", read_documents(handbook))):
            counts[name] = write_data(documents, tmp_path / name, recipe, None, (), 0.3, lambda _: None)
        assert counts["copies"]["documents"] == 120
        assert counts["copies"]["train"] + counts["copies"]["dev"] > 0.6 * (
            counts["once"]["train"] + counts["once"]["dev"]
        )

    def test_ids_and_paths_of_other_documents(self, handbook, recipe, tmp_path, caplog):
        """No judgement holds a tab; and metadata may be anything."""
        documents = [replace(d, meta=d.meta | {"file_path": [d.meta["file_path"]]}) for d in read_documents(handbook)]
        documents[0] = replace(documents[0], id="a\tb")
        lines = retort.plan_distill(documents, tmp_path / "out", recipe=recipe)
        assert lines[0] == f"documents: {len(documents) - 1:,} passages of {len(documents) - 1:,} files"
        assert "a\\tb: its id holds control characters" in caplog.text
        with pytest.raises(DataError, match="its id holds control characters"):
            retort.plan_distill(documents, tmp_path / "out", recipe=recipe, on_error="fail")

    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("ranker", {}, "it makes a ranker student, and an index needs embeddings"),
            ("ranker", {"student.type": "retort.students.create.ranker_with_heads"}, "it makes a ranker_with_heads"),
            ("image_text", {}, "its student reads images, and these documents are texts"),
            ("capstone", {}, "it is measured on documents with questions beside them"),
        ],
    )
    def test_a_student_that_would_not_be_searched_as_it_was_measured(self, handbook, tmp_path, name, change, message):
        for call in (retort.distill, retort.plan_distill):
            with pytest.raises(RecipeError, match=f"recipe {name}: {message}"):
                call(handbook, tmp_path / "out", recipe=name, settings=change)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("queries", "message"),
        [
            ({" ": ["sea/page 0.md"]}, r"queries\[' '\]: expected"),
            ({"x": []}, r"queries\['x'\]: expected"),
            ({"x": None}, r"queries\['x'\]: expected"),
            ({"x": "nowhere.md"}, r"queries\['x'\]: there is no document 'nowhere.md'"),
            ({"x \ud800": "sea/page 0.md"}, "the query holds half of a surrogate pair"),
        ],
    )
    def test_queries_given_in_python(self, handbook, tmp_path, recipe, queries, message):
        """Before anything is made."""
        with pytest.raises(DataError, match=message):
            retort.distill(handbook, tmp_path / "out", recipe=recipe, queries=queries)
        assert not (tmp_path / "out" / "data").exists()


class TestQueries:
    def test_forms(self, handbook, tmp_path):
        documents = read_documents(handbook)
        (tmp_path / "q.jsonl").write_text(
            '{"query": "where is the ship?", "documents": ["sea/page 0.md", "sea/page 1.md#0"]}\n'
            '{"query": "a song?", "document": "music/page 2.md"}\n'
        )
        (tmp_path / "q.csv").write_text(
            "\ufeffquery,document\nwhere is the ship?,sea/page 0.md\nwhere is the ship?,sea/page 1.md\n"
        )
        assert read_asked(tmp_path / "q.jsonl", documents) == [
            ("where is the ship?", ["sea/page 0.md#0", "sea/page 1.md#0"]),
            ("a song?", ["music/page 2.md#0"]),
        ]
        assert read_asked(tmp_path / "q.csv", documents) == [
            ("where is the ship?", ["sea/page 0.md#0", "sea/page 1.md#0"])
        ]
        given = {"where is the ship?": ["sea/page 0.md", "sea/page 1.md#0"], "a song?": "music/page 2.md"}
        assert check_asked(given, documents) == read_asked(tmp_path / "q.jsonl", documents)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"query": "x", "document": "nowhere.md"}', "line 1: there is no document 'nowhere.md'"),
            (
                '{"document": "sea/page 0.md"}',
                'line 1: expected "query" and "documents", both filled; there is document',
            ),
            ('{"query": " ", "document": "sea/page 0.md"}', "both filled"),
            ('["a", "b"]', "line 1: expected an object"),
            ("", "there is no query"),
            ("{", "line 1"),
            ('{"query": "x", "documents": [{"id": "sea/page 0.md"}]}', "line 1: documents are named by ids or paths"),
            ('{"query": "x", "documents": [["sea/page 0.md"]]}', "line 1: documents are named by ids or paths"),
            ('{"query": "\\ud800 x", "document": "sea/page 0.md"}', "line 1: the query holds half of a surrogate pair"),
        ],
    )
    def test_bad(self, handbook, tmp_path, text, message):
        (tmp_path / "q.jsonl").write_text(text)
        with pytest.raises(DataError, match=message):
            read_asked(tmp_path / "q.jsonl", read_documents(handbook))


class TestTeacher:
    def test_what_may_teach(self):
        recipe = Recipe.from_yaml("kd_lexical")
        assert teacher_spec("my-model", recipe.teachers["teacher"])["init_parameters"]["model"] == "my-model"
        assert changed_recipe(recipe, teacher="my-model").teachers["teacher"].init_parameters["model"] == "my-model"
        kinds = {
            "RankerTeacher": {"type": RANKER},
            "ChatGeneratorTeacher": {"type": MOCK},
            "EmbedderTeacher": {"text_embedder": {"type": "a"}, "document_embedder": {"type": "b"}},
            "BiEncoderTeacher": {"type": "retort.trainers.teachers.bi_encoder.BiEncoderTeacher"},
        }
        paid = teacher_spec({"type": MOCK, "revision": "5", "price": 1.5}, None)["init_parameters"]
        assert paid == {"generator": {"type": MOCK}, "revision": "5", "price": 1.5}
        for name, spec in kinds.items():
            assert teacher_spec(spec, None)["type"].endswith(f".{name}")
        with pytest.raises(RecipeError, match="neither a teacher nor a ranker nor a chat generator"):
            teacher_spec({"type": "haystack.components.writers.document_writer.DocumentWriter"}, None)
        with pytest.raises(RecipeError, match="it needs a type"):
            teacher_spec({"model": "x"}, None)

    def test_the_recipe_follows_the_teacher(self):
        assert recipe_for(None, None).name == "kd_lexical"
        assert recipe_for(None, "my-model").teachers["teacher"].init_parameters["model"] == "my-model"
        assert recipe_for(None, {"type": RANKER}).name == "kd_scores"
        assert recipe_for("kd", None, settings=["stages.0.steps=3"]).stages[0].steps == 3

    def test_weak_pairs_come_before_the_last_stage(self, recipe_tree):
        """A local teacher guides them: one that is paid would be asked for all passages."""
        stages = with_weak_pairs(Recipe.from_yaml("kd_lexical")).stages
        assert [stage.name for stage in stages] == ["align", "weak-pairs", "words"]
        assert stages[1].selector.init_parameters["model"] == "teacher"
        assert [o.type.rpartition(".")[2] for o in stages[1].objectives] == ["Contrastive", "InBatchKL"]
        assert with_weak_pairs(Recipe.from_yaml("static")).stages[1].training["batch_size"] == 256
        (pairs, _) = with_weak_pairs(Recipe.from_yaml("kd_scores")).stages
        assert (pairs.selector, len(pairs.objectives)) == (None, 1)

    def test_untrained_model_is_the_trunk_unless_it_teaches(self, tiny_student):
        recipe = Recipe.from_yaml("kd")
        assert untrained_model(recipe) is None
        recipe.student.init_parameters["trunk"] = tiny_student
        assert untrained_model(recipe) == tiny_student
        recipe.student.init_parameters["trunk"] = "package:not_there/model"
        assert untrained_model(recipe) is None


class TestVerdict:
    @pytest.mark.parametrize(
        ("student", "bm25", "untrained", "hybrid", "advice"),
        [
            (0.3, 0.8, 0.2, 0.9, "NOT WORTH IT ALONE: the student is below bm25. Serve it together with BM25."),
            (0.3, 0.8, 0.2, 0.6, "NOT WORTH IT ALONE: the student is below bm25. Stay with bm25."),
            (0.3, 0.4, 0.7, 0.5, "NOT WORTH IT ALONE: the student is below bm25 and untrained. Stay with untrained."),
            (0.8, 0.3, 0.2, 0.9, "Served together with BM25 it finds more than either alone."),
        ],
    )
    def test_says_what_the_figures_say(self, tmp_path, student, bm25, untrained, hybrid, advice):
        from retort.trainers.evaluation.metrics import MEASURES
        from retort.trainers.evaluation.rank import Evaluation
        from retort.trainers.evaluation.runs import write_evaluation

        metrics = {}
        levels = {"student": student, "bm25": bm25, "untrained": untrained, "hybrid": hybrid}
        for name, level in levels.items():
            scores = {f"q{i}": dict.fromkeys(MEASURES, level + 0.001 * (i % 7)) for i in range(100)}
            metrics[name] = {"ndcg@10": level}
            write_evaluation(
                tmp_path, "dev" if name == "student" else f"dev.{name}", Evaluation(name, {}, scores, {"q0": ["d"]})
            )
        said = judge(tmp_path, metrics, made_up=True)
        assert any(line.startswith(advice) for line in said)
        assert "Put real ones in" in said[-1] and "checkpoint" in said[-1]
        assert "--queries" not in " ".join(said[:-1])
        real = judge(tmp_path, metrics, made_up=False)
        assert "made up" not in " ".join(real) and "--queries" not in " ".join(real)
        assert real[-1] == "The best checkpoint was chosen on these queries: p is too sure of itself."

    def measured(self, folder, levels):
        """Write figures: per system the level of each of 100 queries."""
        from retort.trainers.evaluation.metrics import MEASURES
        from retort.trainers.evaluation.rank import Evaluation
        from retort.trainers.evaluation.runs import write_evaluation

        for name, values in levels.items():
            scores = {f"q{i}": dict.fromkeys(MEASURES, value) for i, value in enumerate(values)}
            where = "dev" if name == "student" else f"dev.{name}"
            write_evaluation(folder, where, Evaluation(name, {}, scores, {"q0": ["d"]}))
        return {name: {"ndcg@10": sum(values) / len(values)} for name, values in levels.items()}

    def test_few_queries_tell_nothing(self, tmp_path):
        levels = {"bm25": [0.4] * 19, "student": [0.5] * 19, "hybrid": [0.6] * 19}
        said = judge(tmp_path, self.measured(tmp_path, levels), made_up=True)
        assert said[0] == "19 queries are too few to tell: what follows may be chance."
        more = {name: values + values[:1] for name, values in levels.items()}
        assert "too few" not in " ".join(judge(tmp_path, self.measured(tmp_path, more), made_up=True))

    def test_chance_alone_advises_nothing(self, tmp_path):
        """The hybrid is above the untrained model, but not surely."""
        noise = [0.3 if i % 2 else -0.3 for i in range(100)]
        hybrid = [0.636 + value for value in noise]
        levels = {"bm25": [0.4] * 100, "student": [0.54] * 100, "untrained": [0.632] * 100, "hybrid": hybrid}
        said = " ".join(judge(tmp_path, self.measured(tmp_path, levels), made_up=True))
        assert "below untrained. Stay with untrained." in said
        assert "Serve it together" not in said

    def test_equal_figures_are_level(self, tmp_path):
        from retort.trainers.evaluation.report import _comparisons, _verdict

        levels = {name: [0.5] * 100 for name in ("bm25", "student", "hybrid")}
        said = judge(tmp_path, self.measured(tmp_path, levels), made_up=True)
        assert said[0] == "The student (0.500) is level with bm25 (0.500) in nDCG@10, p = 1.0000."
        assert "NOT WORTH IT" not in " ".join(said)
        report = _verdict(_comparisons(tmp_path, "dev", ["student", "bm25"]))
        assert report == ["The student is level with bm25 in nDCG@10 (p = 1.0000)."]


class TestComponent:
    def test_a_pipeline_from_documents_to_an_index(self, handbook, recipe, tmp_path):
        pipeline = Pipeline()
        trainer = DistillationTrainer(out=str(tmp_path / "out"), recipe=recipe, dev_share=0.3)
        from haystack.components.writers import DocumentWriter

        pipeline.add_component("trainer", trainer)
        store = QdrantEdgeDocumentStore(path=str(tmp_path / "index"))
        pipeline.add_component("writer", DocumentWriter(store))
        pipeline.connect("trainer.documents", "writer.documents")
        pipeline = Pipeline.loads(pipeline.dumps())
        documents = read_documents(handbook)
        queries = {"a": "where is the ship?", "b": "which song?"}
        qrels = {"a": {"sea/page 0.md#0": 1}, "b": {"music/page 2.md#0": 2, "sea/page 1.md#0": 0}}
        found = pipeline.run({"trainer": {"documents": documents, "queries": queries, "qrels": qrels}})
        assert found["writer"]["documents_written"] == 60
        assert found["trainer"]["metrics"]["student"]["queries"] == 2
        student = Student.load(found["trainer"]["student"])
        assert documents[0].embedding is None
        stored = pipeline.get_component("writer").document_store.filter_documents()
        assert {d.meta["_retort_space"] for d in stored} == {student.space}
        assert Path(found["trainer"]["report"]).is_file()
        with pytest.raises(ValueError, match="must have the same ids"):
            trainer.run(documents=documents, queries=queries)

    def test_serialisation(self):
        trainer = DistillationTrainer(
            out="x", teacher={"type": RANKER}, settings={"stages.0.steps": 3}, weak_pairs=True
        )
        again = component_from_dict(DistillationTrainer, component_to_dict(trainer, "trainer"), "trainer")
        names = ("out", "recipe", "teacher", "settings", "dev_share", "weak_pairs")
        assert [getattr(again, n) for n in names] == [getattr(trainer, n) for n in names]
        made = DistillationTrainer(teacher=StudentRanker(model="x"))
        assert made.teacher["type"] == RANKER


def test_pipelines_may_be_run_from_anywhere(tmp_path, monkeypatch):
    """Wherever the folder was named from."""
    monkeypatch.chdir(tmp_path)
    workflows._write_pipelines(Path("out"), trust_remote_code=False)
    for name in workflows.PIPELINES:
        text = (tmp_path / "out" / "pipelines" / f"{name}.yml").read_text()
        assert str(tmp_path / "out" / "student") in text and str(tmp_path / "out" / "index") in text


def test_a_generator_may_call_what_the_user_allowed(handbook, tmp_path, recipe):
    generator = {"type": MOCK, "init_parameters": {"response_fn": "tiny_components.judge"}}
    lines = retort.plan_distill(
        handbook, tmp_path / "out", recipe=recipe, generator=generator, allow=["tiny_components"]
    )
    assert lines[1].startswith("generator of queries: ")


def test_a_table_is_exported_without_being_measured(tiny_student, tmp_path):
    """The quick recipe's student: it has one form."""
    save_student(static(tiny_student), tmp_path / "student")
    said: list[str] = []
    workflows._export(tmp_path, said.append, trust_remote_code=False)
    assert said == ["exporting ..."]
    assert Student.load(tmp_path / "student", backend="onnx").form == "onnx float32"


def test_what_cannot_be_exported_is_served_by_torch(tiny_student, beir, tmp_path):
    """Its pooling leaves the prompt's tokens out."""
    model = pretrained(tiny_student)
    model[1].include_prompt = False
    save_student(model, tmp_path / "student")
    said: list[str] = []
    workflows._export(tmp_path, said.append, trust_remote_code=False)
    assert said[0] == "exporting ..."
    assert "needs torch where it is served: The model's pooling leaves out" in said[1]
    assert not Manifest.read(tmp_path / "student").exports
