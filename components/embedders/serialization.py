# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""YAML of components that load a model: a `torch.dtype` in their arguments for transformers is written as text."""

import inspect
from copy import deepcopy
from typing import Any, TypeVar

from haystack import default_from_dict, default_to_dict
from haystack.utils.hf import deserialize_hf_model_kwargs, serialize_hf_model_kwargs

from retort.students.loading import KWARGS

Component = TypeVar("Component")


def describe(component: Any) -> dict[str, Any]:
    """Return what `to_dict` of a component does, whose attributes have its parameters' names."""
    parameters = {name: getattr(component, name) for name in inspect.signature(component.__init__).parameters}
    for name in KWARGS:
        if parameters[name]:  # else torch need not be there
            parameters[name] = deepcopy(parameters[name])
            serialize_hf_model_kwargs(parameters[name])
    return default_to_dict(component, **parameters)


def create(kind: type[Component], data: dict[str, Any]) -> Component:
    """Return the component that `describe` described."""
    data = data | {"init_parameters": dict(data.get("init_parameters", {}))}
    parameters = data["init_parameters"]
    for name in KWARGS:
        if parameters.get(name):
            parameters[name] = deepcopy(parameters[name])
            deserialize_hf_model_kwargs(parameters[name])
    return default_from_dict(kind, data)
