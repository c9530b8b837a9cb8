# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Loading models: by name, on a device, in a precision, and only if they are what their manifest says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from retort.students.files import resolve_model

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel

    Model = TypeVar("Model", bound=BaseModel)


class PrecisionError(ValueError):
    """The hardware has no such arithmetic."""


Precision = Literal["float32", "bfloat16", "auto", "int8"]


def pick_device(device: str | None) -> str:
    """Return `device`, or for None the best there is: CUDA, then Apple's GPU, then the CPU."""
    import torch

    if device is not None:
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def has_bfloat16(device: str) -> bool:
    """Tell whether the hardware multiplies in bfloat16; emulated, it is far slower than float32."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return False


def load_model(
    kind: type[Model],
    model: str,
    *,
    device: str,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    trust_remote_code: bool = False,
) -> Model:
    """
    Load a model of sentence-transformers, in evaluation mode and the dtype in which it is stored.

    :param kind:
        `SentenceTransformer` or `CrossEncoder`.
    :param model:
        A folder, a Hub id, or `package:NAME/SUBFOLDER` (see `resolve_model`).
    :param device:
        Torch device.
    :param revision:
        Hub revision.
    :param token:
        Hub token.
    :param local_files_only:
        Never ask the Hub.
    :param trust_remote_code:
        Run code that the model brings along.
    :raises FileNotFoundError:
        If the folder is not there, or holds no model that can be loaded.
    """
    path = resolve_model(model)
    folder = Path(path)
    msg = f"No model at {path!r}. Give a model folder, a Hugging Face Hub id, or 'package:NAME/SUBFOLDER'."
    if not folder.is_dir() and (path.count("/") > 1 or ("/" in path and folder.parent.is_dir())):  # no Hub id
        raise FileNotFoundError(msg)
    try:
        loaded = kind(
            path,
            device=device,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            trust_remote_code=trust_remote_code or counts_words(path),
            model_kwargs={"use_safetensors": True},
        )
    except ValueError as error:
        if not folder.is_dir():
            raise
        msg = f"No model that can be loaded in the folder {path!r}: {error}"
        raise FileNotFoundError(msg) from error
    except OSError as error:
        if folder.is_dir():
            raise
        raise FileNotFoundError(msg) from error
    loaded.eval()
    return loaded


def counts_words(model: str) -> bool:
    """
    Say whether a folder is a table that counts words (`CountedEmbedding`) and nothing more.

    Sentence-transformers asks for `trust_remote_code` to import a class of ours; such a folder brings no other code.
    """
    path = Path(model) / "modules.json"
    if not path.is_file():
        return False
    kinds = [str(module.get("type", "")) for module in json.loads(path.read_text(encoding="utf-8"))]
    normalize = "sentence_transformers.base.modules.normalize.Normalize"
    return kinds[:1] == ["retort.students.counted.CountedEmbedding"] and kinds[1:] in ([], [normalize])


def set_precision(model: BaseModel, precision: Precision, device: str) -> None:
    """
    Convert a model to the arithmetic it is to run in.

    :param model:
        The model.
    :param precision:
        `float32`; `bfloat16`; `auto`: bfloat16 where the hardware has it.
    :param device:
        Where it runs.
    :raises PrecisionError:
        If bfloat16 is asked for where it would be emulated.
    """
    import torch

    available = has_bfloat16(device)
    if precision == "bfloat16" and not available:
        msg = f"precision='bfloat16': {device} would emulate it, slower than float32. Use 'auto' or 'float32'."
        raise PrecisionError(msg)
    # A folder may be stored in less than it is to run in.
    model.to(torch.bfloat16 if precision != "float32" and available else torch.float32)
