# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Secrets of a recipe are in nothing that is written down or printed; a run goes on all the same."""

import json
import logging

import pytest
from haystack import Document, component
from starlette.testclient import TestClient
from test_recipe import changed
from tiny import pool, spec, stage

from retort.cli.main import _quiet, main
from retort.serving.app import Serving, create_app
from retort.serving.engine import Engine
from retort.students.files import write_json
from retort.students.redaction import redacted
from retort.trainers.recipe import Recipe
from retort.trainers.run import run_recipe
from retort.trainers.runtime.errors import RecipeError
from retort.trainers.teachers.cache_folder import SetAside

PASSWORD, HEADER, KEY = "w0rd-of-mine", "h3ader-of-mine", "k3y-of-mine"


@component
class Ranker:
    """A ranker behind a server, as far as its parameters go."""

    def __init__(self, url: str, headers: dict[str, str], api_key: str) -> None:
        self.url, self.headers, self.api_key = url, headers, api_key

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int = 10):
        if self.headers.get("fail"):
            msg = f"401 for {self.url}"
            raise OSError(msg)
        scores = [float(len(set(query.split()) & set((d.content or "").split()))) for d in documents]
        return {"documents": [Document(id=d.id, score=s) for d, s in zip(documents, scores, strict=True)][:top_k]}


@pytest.fixture
def tree(recipe_tree):
    parameters = {"url": f"http://me:{PASSWORD}@127.0.0.1:9/v1", "headers": {"x-own": HEADER}, "api_key": KEY}
    teacher = spec(
        "RankerTeacher", ranker={"type": "test_redaction.Ranker", "init_parameters": parameters}, revision="1"
    )
    stages = [stage("s", 2, spec("ListwiseKL"), teacher="remote", candidates=pool("bm25", negatives=2))]
    candidates = {"bm25": recipe_tree["candidates"]["bm25"]}
    return recipe_tree | {"teachers": {"remote": teacher}, "candidates": candidates, "stages": stages}


def test_nothing_of_a_run_holds_them(tree, beir, tmp_path, capsys):
    out = tmp_path / "run"
    recipe = Recipe.from_dict(tree, allow=["test_redaction"])
    metrics = run_recipe(recipe, beir, out)
    main(["report", str(out)])
    files = [file for file in tmp_path.rglob("*") if file.is_file() and beir not in file.parents]
    assert {"recipe.yaml", "retort.json", "report.html", "README.md", "log.jsonl"} <= {file.name for file in files}
    for secret in (PASSWORD, HEADER, KEY):
        assert not [file for file in files if secret.encode() in file.read_bytes()]
    assert "http://***@127.0.0.1:9/v1" in (out / "recipe.yaml").read_text()
    kept = json.loads((out / "student" / "retort.json").read_text())["teachers"][0]["init_parameters"]["ranker"]
    assert kept["init_parameters"] == {
        "url": "http://***@127.0.0.1:9/v1",
        "headers": {"x-own": "***"},
        "api_key": "***",
    }
    assert run_recipe(recipe, beir, out, resume=True) == metrics
    for place, value in (("url", "http://me:other@127.0.0.1:9/v1"), ("api_key", "another")):
        change = f"teachers.remote.init_parameters.ranker.init_parameters.{place}={value}"
        changed = Recipe.from_dict(tree, overrides=[change], allow=["test_redaction"])
        assert run_recipe(changed, beir, out, resume=True) == metrics  # a new password is no other run
    place = "teachers.remote.init_parameters.ranker.init_parameters.url"
    with pytest.raises(RecipeError, match="holds a run of another recipe"):
        other = Recipe.from_dict(tree, overrides=[f"{place}=http://127.0.0.1:9/v2"], allow=["test_redaction"])
        run_recipe(other, beir, out, resume=True)


def test_no_message_holds_them(tree, beir, tmp_path, capsys):
    tree["teachers"]["remote"]["init_parameters"]["ranker"]["init_parameters"]["headers"]["fail"] = "now"
    (tmp_path / "r.yaml").write_text(json.dumps(tree))
    command = ["train", "--recipe", str(tmp_path / "r.yaml"), "--data", str(beir), "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        main([*command, "--allow", "test_redaction", "--set", "teachers.remote.init_parameters.retries=0"])
    told = capsys.readouterr().err
    assert "401 for http://***@127.0.0.1:9/v1" in told
    assert PASSWORD not in told


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            "teachers.remote.init_parameters.ranker",
            [{"api_key": KEY}],
            "ranker: expected .* it is \\[{'api_key': '\\*\\*\\*'}",
        ),
        ("student.init_parameters.config", {"token": KEY, "hidden_size": 0}, "config|ZeroDivisionError|hidden"),
        ("teachers.remote.type", {"password": KEY}, "type: expected text; it is {'password': '\\*\\*\\*'}"),
    ],
)
def test_no_complaint_about_a_value_holds_them(tree, place, value, message):
    with pytest.raises(RecipeError, match=message) as error:
        recipe = Recipe.from_dict(changed(tree, place, value), allow=["test_redaction"])
        recipe.create(recipe.student, "student", "student")
        recipe.create(recipe.teachers["remote"], "teacher", "teachers.remote")
    assert KEY not in str(error.value)


def test_no_setting_holds_them(tree):
    with pytest.raises(
        RecipeError, match=r"--set teachers.remote.api_key=\*\*\*: teachers.remote.api_key: unknown key"
    ):
        Recipe.from_dict(tree, overrides=[f"teachers.remote.api_key={KEY}"], allow=["test_redaction"])


def test_no_line_of_the_log_holds_them(monkeypatch, capsys):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    _quiet()
    logging.getLogger("anybody").warning("again after %s", OSError(f"401 for http://me:{PASSWORD}@host/"))
    assert capsys.readouterr().err == "retort: again after 401 for http://***@host/\n"


def test_no_recipe_that_is_shown_holds_them(tree, tmp_path, capsys):
    (tmp_path / "r.yaml").write_text(json.dumps(tree))
    main(["recipe", "show", str(tmp_path / "r.yaml"), "--allow", "test_redaction"])
    shown = capsys.readouterr().out
    assert "http://***@127.0.0.1:9/v1" in shown
    assert not [secret for secret in (PASSWORD, HEADER, KEY) if secret in shown]


def test_keys_that_a_server_repeats(tmp_path, monkeypatch, caplog):
    """What a teacher refuses is kept with the server's words."""
    monkeypatch.setenv("ANY_API_KEY", KEY)
    SetAside(tmp_path).add([b"1"], "a text", f"400 for http://me:{PASSWORD}@host/: no such key: {KEY}")
    kept = json.loads((tmp_path / "refused.jsonl").read_text())["cause"]
    assert kept == "400 for http://***@host/: no such key: ***"
    assert caplog.messages == [f"the teacher refuses 'a text', which is set aside: {kept}"]


def test_secrets_of_the_environment(monkeypatch):
    values = {
        "MY_API_KEY": "w-value-",
        "HF_TOKEN": "hf_value",
        "A_TOKEN": "any-value",
        "PWD": "/w/value",
        "B_SECRET": "x",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert redacted([f"in {value}" for value in values.values()]) == [
        "in ***",
        "in ***",
        "in ***",
        "in /w/value",
        "in x",
    ]


def test_no_address_of_a_store_holds_them(tiny_student, monkeypatch, capsys):
    store = f"http://me:{PASSWORD}@127.0.0.1:9/handbook/"
    monkeypatch.setattr("retort.cli.index.index_documents", lambda *_, **__: (1, 0))
    main(["index", "student", "--documents", "docs", "--store", store])
    told = capsys.readouterr()
    assert told.out.startswith("1 documents in http://***@127.0.0.1:9/handbook/ after")
    assert PASSWORD not in told.err
    with TestClient(create_app(Serving(Engine(tiny_student, store)))) as client:
        said = client.post("/ask", json={"question": "Who reads this?"}).text
    assert "The Qdrant server of" in said
    assert PASSWORD not in said


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("http://user:p@w@host:80/a?x=1", "http://***@host:80/a?x=1"),
        ("postgresql://user@host/db and http://x/y@z", "postgresql://***@host/db and http://x/y@z"),
        ("http://h/?api_key=1&max_tokens=5&sig=2#x", "http://h/?api_key=***&max_tokens=5&sig=***#x"),
        ("Authorization: Bearer sk-12345678, go", "Authorization: Bearer ***, go"),
        ("a ring bearer followed; me@host; git@host:a/b", "a ring bearer followed; me@host; git@host:a/b"),
        ({"api_key": {"type": "env_var", "env_vars": ["KEY"], "strict": True}}, None),
        ({"api_key": {"type": "token", "token": "x"}}, {"api_key": {"type": "***", "token": "***"}}),
        ({"pad_token": "[PAD]", "max_tokens": 5, "tokenizer": "x", "key": "v", "author": "w", "token_ids": [1]}, None),
        ({"use_auth_token": True, "secret": None, "password": "", "api_key_env_var": "KEY"}, None),
        (
            {"headers": [["a", "b"]], "http_headers": {"n": 1}},
            {"headers": [["***", "***"]], "http_headers": {"n": "***"}},
        ),
        (
            {"HF_TOKEN": "x", "x-api-key": "y", "auth": ["u", 2]},
            {"HF_TOKEN": "***", "x-api-key": "***", "auth": ["***"] * 2},
        ),
        ([{"a": [{"client_secret": "x"}]}, 1.5], [{"a": [{"client_secret": "***"}]}, 1.5]),
    ],
)
def test_what_is_redacted(value, shown):
    """None: nothing."""
    assert redacted(value) == (value if shown is None else shown)
    assert redacted(redacted(value)) == redacted(value)


def test_names_that_are_no_utf8_are_written_and_read_back(tmp_path):
    write_json(tmp_path / "x.json", {"name": "\udcff", "sign": "ü"})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"name": "\udcff", "sign": "ü"}
