# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Loading the pipelines that come with retort, bound to a student and a store."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from haystack import Pipeline

STUDENT = "runs/quickstart/student"
INDEX = "runs/quickstart/index"


def pipeline_yaml(name: str, *, student: str = STUDENT, index: str = INDEX) -> str:
    """
    Return the YAML of a pipeline with its two places filled in.

    :param name:
        Name of a YAML file of this package, such as `extractive_qa`.
    :param student:
        Takes the place of the quickstart's student.
    :param index:
        Takes the place of the quickstart's index.
    :raises FileNotFoundError:
        If there is no such pipeline.
    """
    path = Path(__file__).parent / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        msg = f"There is no pipeline {name!r}; there are: {names}."
        raise FileNotFoundError(msg)
    places = {STUDENT: student, INDEX: index}
    return yaml.safe_dump(_replaced(yaml.safe_load(path.read_text(encoding="utf-8")), places), sort_keys=False)


def load_pipeline(name: str, *, student: str = STUDENT, index: str = INDEX) -> "Pipeline":
    """Load a pipeline with its two places filled in (see `pipeline_yaml`)."""
    from haystack import Pipeline

    return Pipeline.loads(pipeline_yaml(name, student=student, index=index))


def _replaced(node: Any, places: dict[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _replaced(value, places) for key, value in node.items()}
    if isinstance(node, list):
        return [_replaced(value, places) for value in node]
    return places.get(node, node) if isinstance(node, str) else node
