# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Recipes: the YAML of a run, checked key by key before anything is loaded."""

from retort.trainers.recipe.parse import RECIPES, Recipe, component, read_yaml
from retort.trainers.recipe.schema import (
    BATCHES,
    CandidatesSection,
    Component,
    DataSection,
    Stage,
    TrainingSection,
)
from retort.trainers.recipe.tree import dump_yaml
from retort.trainers.recipe.trust import trusts_code

__all__ = [
    "BATCHES",
    "RECIPES",
    "CandidatesSection",
    "Component",
    "DataSection",
    "Recipe",
    "Stage",
    "TrainingSection",
    "component",
    "dump_yaml",
    "read_yaml",
    "trusts_code",
]
