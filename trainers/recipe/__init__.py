# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Recipes: the YAML of a run, checked key by key before anything is loaded."""

from retort.trainers.recipe.parse import RECIPES, Recipe, component, find_recipe, read_yaml, trusts_code
from retort.trainers.recipe.schema import (
    BATCHES,
    CandidatesSection,
    Component,
    DataSection,
    Stage,
    TrainingSection,
    WeightedComponent,
)

__all__ = [
    "BATCHES",
    "RECIPES",
    "CandidatesSection",
    "Component",
    "DataSection",
    "Recipe",
    "Stage",
    "TrainingSection",
    "WeightedComponent",
    "component",
    "find_recipe",
    "read_yaml",
    "trusts_code",
]
