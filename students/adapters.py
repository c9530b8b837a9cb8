# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Adapters of PEFT within a model: a student is saved, hashed and served with them merged into its weights."""

from __future__ import annotations

import sys
from copy import deepcopy
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel

    Model = TypeVar("Model", bound=BaseModel)


def merge_adapters(model: Model) -> Model:
    """Return a copy of a model with its adapters merged into its weights; a model without any as it is."""
    if "peft" not in sys.modules:  # nobody has made one
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import PreTrainedModel

    if not any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        return model
    merged = deepcopy(model)
    for name, module in list(merged.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            merged.set_submodule(name, module.get_base_layer())
        elif isinstance(module, PreTrainedModel):
            # Private names, as there are no others: else transformers saves the adapters alone, or the weights under
            # the names that they have in an adapter's file. Tests save both kinds of model.
            module._hf_peft_config_loaded = False
            module._weight_conversions = None  # type: ignore[assignment]
    return merged
