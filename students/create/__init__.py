# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Ways to start a student: a pretrained model, some of its layers, random weights, several heads, tables, towers, LoRA.

Recipes name each as `retort.students.create.NAME`, wherever in this package it is defined.
"""

from retort.students.create.adapters import lora
from retort.students.create.encoders import from_config, pretrained
from retort.students.create.heads import late_interaction, ranker, sparse
from retort.students.create.images import fusion_ranker, image_text
from retort.students.create.layers import from_layers, layers_on_static
from retort.students.create.lexical import lexical_layers, static_with_lexical
from retort.students.create.remote import remote_documents
from retort.students.create.several_heads import ranker_with_heads, with_heads
from retort.students.create.tables import static
from retort.students.create.towers import two_towers

__all__ = [
    "from_config",
    "from_layers",
    "fusion_ranker",
    "image_text",
    "late_interaction",
    "layers_on_static",
    "lexical_layers",
    "lora",
    "pretrained",
    "ranker",
    "ranker_with_heads",
    "remote_documents",
    "sparse",
    "static",
    "static_with_lexical",
    "two_towers",
    "with_heads",
]
