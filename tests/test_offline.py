# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Models of the Hub on a machine that cannot reach it."""

import time

import pytest
from huggingface_hub import constants

from retort.cli import main
from retort.students import Student
from retort.students.loading import load_tokenizer

HUB_ID = "no-such-people/no-such-model"
MESSAGE = f"No model '{HUB_ID}': it is no folder, and this machine is offline"


def unreachable(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


def switched_off(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("offline", [unreachable, switched_off])
def test_offline_is_said_at_once(offline, monkeypatch):
    offline(monkeypatch)
    started = time.monotonic()
    with pytest.raises(FileNotFoundError, match=MESSAGE):
        Student.load(HUB_ID)
    assert time.monotonic() - started < 20  # with the Hub's own retries it is a minute


@pytest.mark.parametrize("name", ["no model", "--x", "a..b", "\x1b[31mred", "a/b@c", "\0"])
def test_what_is_no_id_of_the_hub(name, monkeypatch):
    switched_off(monkeypatch)
    with pytest.raises(FileNotFoundError, match="^No model '"):
        Student.load(name)
    with pytest.raises(FileNotFoundError, match="is neither a folder nor a Hugging Face Hub id"):
        load_tokenizer(name)


def test_the_command_line(tmp_path, monkeypatch, capsys, tiny_student):
    switched_off(monkeypatch)
    from retort.indexes import index_documents

    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "a.txt").write_text("The stairs lead to the fountain.")
    index_documents(tiny_student, tmp_path / "documents", tmp_path / "index")
    with pytest.raises(SystemExit):
        main(["ask", "Where?", "--store", str(tmp_path / "index"), "--student", HUB_ID])
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"retort: error: {MESSAGE}")
