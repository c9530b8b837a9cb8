# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What components that load a model share: one model per process, loaded at the first run, and their YAML."""

import asyncio
import inspect
import logging
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Generic, Self

import numpy as np
from haystack import Document, default_from_dict, default_to_dict
from haystack.utils import ComponentDevice, Secret
from haystack.utils.hf import deserialize_hf_model_kwargs, serialize_hf_model_kwargs

from retort.students.backends.exports import Backend, check_form
from retort.students.handle import Loaded, StudentHandle
from retort.students.loading import KWARGS, Precision
from retort.students.vectors import unit

logger = logging.getLogger(__name__)

_LENGTH = 512  # tokens of a text, for models that do not cut theirs
_NOT_HERE = {"encode_kwargs", "quantization_ranges"}  # parameters of Haystack's components that these have not
_LOADING = ("precision", "backend", "threads", "revision", "local_files_only", "trust_remote_code", *KWARGS)


def device_of(device: ComponentDevice | str | None) -> ComponentDevice | None:
    """
    Return a device; a text is one of torch, such as `cpu` or `cuda:0`.

    :raises ValueError:
        If it is neither.
    """
    if not isinstance(device, ComponentDevice | str | None):
        msg = f"device={device!r}: must be a ComponentDevice, or a text such as cpu or cuda:0."
        raise ValueError(msg)
    return ComponentDevice.from_str(device) if isinstance(device, str) else device


def tokens_of(batch_size: int | None, max_tokens: int | None) -> int | None:
    """Return the tokens of `batch_size` texts of full length, which a forward pass may hold; None: the device's."""
    return None if batch_size is None else batch_size * (max_tokens or _LENGTH)


def finished(vectors: np.ndarray, truncate_dim: int | None, *, normalize: bool) -> np.ndarray:
    """Cut vectors `[n, d]` to their first dimensions and, if asked for, divide them by their lengths."""
    vectors = vectors[:, :truncate_dim]
    return unit(vectors) if normalize else vectors


class ModelComponent(Generic[Loaded]):
    """A component that loads a model; its attributes have its parameters' names."""

    model: str
    device: ComponentDevice | None
    precision: Precision | None
    backend: Backend
    threads: int | None
    token: Secret | None
    _handle: StudentHandle[Loaded]
    _said_titles = False

    def _share(self, kind: type[Loaded], **options: Any) -> StudentHandle[Loaded]:
        """
        Return the handle of the model that the attributes name; further options are those of its `load`.

        :raises ValueError:
            If there is no such precision or backend.
        """
        check_form(self.precision, self.backend, self.threads)
        return StudentHandle(
            kind,
            self.model,
            device=self.device.to_torch_str() if self.device else None,
            token=self.token.resolve_value if self.token else None,  # asked for when the model is loaded
            **{name: getattr(self, name) for name in _LOADING},
            **options,
        )

    @property
    def kind(self) -> str:
        """What kind of student the model is, as its manifest says; it is loaded if need be."""
        return self._handle.student.manifest.kind

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
        for name in (_NOT_HERE & parameters.keys()) - inspect.signature(cls.__init__).parameters.keys():
            if parameters[name] is None:  # Haystack writes its own components' like this where they were not set
                del parameters[name]
        for name in KWARGS:
            if parameters.get(name):
                parameters[name] = deepcopy(parameters[name])
                deserialize_hf_model_kwargs(parameters[name])
        return default_from_dict(cls, data | {"init_parameters": parameters})

    def _say_titles(self, documents: Sequence[Document], fields: list[str] | None) -> None:
        """Warn, once, who did not say so that titles are embedded: models of elsewhere are not trained with them."""
        if self._said_titles or fields is not None or self._handle.student.manifest.recipe is not None:
            return
        if any(document.meta.get("title") is not None for document in documents):
            self._said_titles = True
            logger.warning(
                "%s: titles are put before contents, where Haystack's own component uses contents alone. Say which: "
                "meta_fields_to_embed=['title'] or [].",
                type(self).__name__,
            )

    def warm_up(self) -> None:
        """Load the model, once."""
        _ = self._handle.student

    async def warm_up_async(self) -> None:
        """Load the model, once, in a thread: the event loop stays free."""
        await asyncio.to_thread(self.warm_up)

    def close(self) -> None:
        """Give the model back; it leaves memory when no component uses it."""
        self._handle.release()
