# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What components that load a model share: one model per process, loaded at the first run, and their YAML."""

import inspect
from copy import deepcopy
from typing import Any, Generic, Self

from haystack import default_from_dict, default_to_dict
from haystack.utils import ComponentDevice, Secret
from haystack.utils.hf import deserialize_hf_model_kwargs, serialize_hf_model_kwargs

from retort.students.handle import Loaded, StudentHandle
from retort.students.loading import KWARGS

_LOADING = ("precision", "backend", "threads", "revision", "local_files_only", "trust_remote_code", *KWARGS)


class ModelComponent(Generic[Loaded]):
    """A component that loads a model; its attributes have its parameters' names."""

    model: str
    device: ComponentDevice | None
    token: Secret | None
    _handle: StudentHandle[Loaded]

    def _share(self, kind: type[Loaded], **options: Any) -> StudentHandle[Loaded]:
        """Return the handle of the model that the attributes name; further options are those of its `load`."""
        return StudentHandle(
            kind,
            self.model,
            device=self.device.to_torch_str() if self.device else None,
            token=self.token.resolve_value if self.token else None,  # asked for when the model is loaded
            **{name: getattr(self, name) for name in _LOADING},
            **options,
        )

    def to_dict(self) -> dict[str, Any]:
        """Describe the component, for YAML; a `torch.dtype` for transformers is written as text."""
        parameters = {name: getattr(self, name) for name in inspect.signature(self.__init__).parameters}  # type: ignore[misc]
        for name in KWARGS:
            if parameters[name]:  # else torch need not be there
                parameters[name] = deepcopy(parameters[name])
                serialize_hf_model_kwargs(parameters[name])
        return default_to_dict(self, **parameters)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Create the component from its description."""
        parameters = dict(data.get("init_parameters", {}))
        for name in KWARGS:
            if parameters.get(name):
                parameters[name] = deepcopy(parameters[name])
                deserialize_hf_model_kwargs(parameters[name])
        return default_from_dict(cls, data | {"init_parameters": parameters})

    def warm_up(self) -> None:
        """Load the model, once."""
        _ = self._handle.student

    def close(self) -> None:
        """Give the model back; it leaves memory when no component uses it."""
        self._handle.release()
