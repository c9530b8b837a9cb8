# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The README and the pages: their length, links, commands, YAML and Python."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from haystack.core.serialization import import_class_by_name

from retort.cli.main import build_parser
from retort.trainers.recipe import RECIPES

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "METHODS.md", *sorted((ROOT / "docs").rglob("*.md"))]


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(there), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_are_ones_that_retort_knows(page):
    commands = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    for line in commands:
        words = shlex.split(line, comments=True)
        if words[:1] == ["retort"]:
            build_parser().parse_args(words[1 : words.index(">") if ">" in words else None])


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_compiles_and_yaml_names_what_there_is(page):
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")
    for block in blocks(page, "yaml"):
        yaml.safe_load(block)
        for name in re.findall(r"type: (haystack_integrations\.\S+\.retort\.[\w.]+)", block):
            import_class_by_name(name)


def test_every_recipe_that_comes_with_retort_has_its_row():
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    found = set()
    for cell in named:
        first, *more = re.findall(r"`([^`]+)`", cell)
        found |= {first, *(first + name if name.startswith("-") else name for name in more)}
    assert found == {path.stem for path in RECIPES.glob("*.yaml")}


def test_every_method_has_its_row():
    """A row names the recipe of a file in `trainers/methods/`, and only recipes that there are."""
    rows = [line.split(" | ") for line in (ROOT / "METHODS.md").read_text(encoding="utf-8").splitlines()]
    cells = [re.findall(r"`([^`]+)`", row[2]) for row in rows if len(row) > 4]
    recipes = {names[0] for names in cells if names}
    for first, *more in filter(None, cells):
        for name in (first, *(first + name if name.startswith("-") else name for name in more)):
            assert (RECIPES / f"{name}.yaml").is_file(), name
    methods = {path.stem for path in (ROOT / "trainers" / "methods").glob("[a-z]*.py")}
    assert methods <= recipes
