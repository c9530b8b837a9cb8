# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Loading models: by name, on a device, in a precision, and without running code that they bring along."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from retort.students.extras import TRAIN, has_torch
from retort.students.files import read_json, reading, resolve_model, visible_files
from retort.students.seeding import seeded

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel

    Model = TypeVar("Model", bound=BaseModel)


class PrecisionError(ValueError):
    """There is no such arithmetic, here or at all."""


class DeviceError(ValueError):
    """There is no such device."""


class RemoteCodeError(ValueError):
    """A model folder brings code along, and the user did not say that it may run."""


HUB_TIMEOUT = 5  # seconds
STOCK = re.compile(r"sentence_transformers(\.\w+)*\.[A-Z]\w*")  # classes: modules have, at the same places, functions
# All that a folder may name besides; the second is where earlier versions had the first.
REMOTE_DOCUMENTS = "retort.students.modules.remote.RemoteDocuments"
OWN_MODULES = frozenset(
    {
        "retort.students.modules.counted.CountedEmbedding",
        "retort.students.counted.CountedEmbedding",
        "retort.students.modules.fusion.FusionScorer",
        "retort.students.modules.fusion.TowerFusion",
        "retort.students.modules.heads.Heads",
        "retort.students.modules.heads.ScoreHeads",
        REMOTE_DOCUMENTS,
    }
)
MODULES, CONFIG = "modules.json", "config_sentence_transformers.json"
_OF_A_STUDENT = (MODULES, "config.json")
_STATED = {"SentenceTransformer": "dense", "SparseEncoder": "sparse", "CrossEncoder": "ranker"}
GIVE = "Give a model folder, a Hugging Face Hub id, or 'package:NAME/SUBFOLDER'."
PROMPTS = ("prompts", "default_prompt_name")  # in CONFIG
SAVED = (*PROMPTS, "similarity_fn_name", "truncate_dim")  # likewise, of encoders

Precision = Literal["float32", "bfloat16", "auto", "int8"]
QUANTIZATIONS = ("int8", "uint8", "binary", "ubinary")  # what `precision` is of other embedders
NO_QUANTIZATION = (
    " Here precision is the model's arithmetic; the `precision` of Haystack's own embedders is the embeddings' "
    "quantization, which an index has here (its `quantization`)."
)
Kwargs = dict[str, Any] | None
# Arguments for transformers, and what sentence-transformers calls them.
KWARGS = {
    "model_kwargs": "model_kwargs",
    "tokenizer_kwargs": "processor_kwargs",
    "config_kwargs": "config_kwargs",
}
# Where a model is read from: of the Hub, and what a file that was downloaded before lies in.
PLACE = ("revision", "token", "local_files_only", "cache_folder")
_LOADED_WITH = "retort_loaded_with"  # attribute of encoders in memory: it may hold a token
_RUNS_CODE = ("trust_remote_code", "allow_all_kernels")
# What else arguments for transformers let in, and where: a folder has its own, in sentence_bert_config.json.
_KERNELS, _PICKLES = {"use_kernels", "kernel_config", "allow_all_kernels"}, {"weights_only", "use_safetensors"}
ADAPTER = "adapter_config.json"
# What configurations may call of torch: `import_from_string("torch...")()` is how sentence-transformers reads them.
_ACTIVATIONS = re.compile(r"torch\.nn\.(modules\.\w+\.)?[A-Z]\w*")


def check_precision(precision: str | None) -> None:
    """
    Refuse a precision that is none of `Precision`, or None.

    :raises PrecisionError:
        If it is another.
    """
    if precision is not None and precision not in get_args(Precision):
        msg = f"precision={precision!r}: must be one of {', '.join(get_args(Precision))}, or None."
        raise PrecisionError(msg + (NO_QUANTIZATION if precision in QUANTIZATIONS else ""))


def pick_device(device: str | None) -> str:
    """
    Return `device`, or for None the best there is: CUDA, then Apple's GPU, then the CPU, as also without torch.

    :raises DeviceError:
        If torch is there and cannot use it.
    """
    if device == "cpu":
        return device
    if device is not None:
        _check_device(device)
        return device
    try:
        import torch
    except ImportError:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_device(device: str) -> None:
    try:
        import torch
    except ImportError:  # exports run on CPUs, and say so
        return
    try:
        torch.empty(0, device=device).cpu()  # of `meta` nothing can be read
    except (RuntimeError, AssertionError, TypeError) as error:  # NotImplementedError is a RuntimeError
        reason = str(error).splitlines()[0].rstrip(".")
        msg = f"device={device!r}: torch cannot use it here ({reason}). Leave it out for the best there is, or set cpu."
        raise DeviceError(msg) from error


def has_bfloat16(device: str) -> bool:
    """Tell whether the hardware multiplies in bfloat16; emulated, it is far slower than float32."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return False


def transformers_kwargs(
    *, model_kwargs: Kwargs = None, tokenizer_kwargs: Kwargs = None, config_kwargs: Kwargs = None
) -> dict[str, dict[str, Any]]:
    """
    Return arguments for transformers as sentence-transformers takes them; weights come from safetensors alone.

    :param model_kwargs:
        For the model's `from_pretrained`, such as `attn_implementation` and `dtype`.
    :param tokenizer_kwargs:
        For the tokenizer's `from_pretrained`.
    :param config_kwargs:
        For the configuration's `from_pretrained`.
    :raises ValueError:
        If they allow foreign code or pickled weights.
    """
    kwargs = {
        "model_kwargs": {"use_safetensors": True} | (model_kwargs or {}),
        "tokenizer_kwargs": dict(tokenizer_kwargs or {}),
        "config_kwargs": dict(config_kwargs or {}),
    }
    if kwargs["model_kwargs"]["use_safetensors"] is not True:
        msg = "model_kwargs.use_safetensors: weights are read from safetensors only; leave it out."
        raise ValueError(msg)
    if odd := [f"{place}.{name}" for place, values in kwargs.items() for name in _RUNS_CODE if name in values]:
        msg = f"{odd[0]}: leave it out; whether code that a model brings along runs, `trust_remote_code` alone says."
        raise ValueError(msg)
    return {KWARGS[place]: values for place, values in kwargs.items()}


def take_place(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """Take what says where a model is read from (`PLACE`, or those named) out of a maker's options."""
    return {name: options.pop(name) for name in names or PLACE if name in options}


def place_for_transformers(place: Mapping[str, Any]) -> dict[str, Any]:
    """Return `PLACE` arguments as transformers and the Hub's client name them; those that are None are left out."""
    named = {"cache_dir" if name == "cache_folder" else name: value for name, value in place.items()}
    return {name: value for name, value in named.items() if value is not None}


def names_dtype(*kwargs: Kwargs) -> bool:
    """Tell whether arguments for transformers name the dtype in which a model is loaded."""
    return any(name in (values or {}) for values in kwargs for name in ("dtype", "torch_dtype"))


def refuse_missing(path: str) -> None:
    """
    Refuse a folder that is not there, or is a run with its student within; a Hub id may be anywhere.

    :param path:
        As `resolve_model` gives it.
    :raises FileNotFoundError:
        If it is neither a folder of a model nor a Hub id.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file() and any((folder / "student" / name).is_file() for name in _OF_A_STUDENT):
        msg = f"{path!r} is a run; its model is in {str(folder / 'student')!r}."
        raise FileNotFoundError(msg)
    if not folder.is_dir() and (path.count("/") > 1 or ("/" in path and folder.parent.is_dir())):  # no Hub id
        msg = f"No model at {path!r}. {GIVE}"
        raise FileNotFoundError(msg)
    if not folder.is_dir() and not has_torch():
        msg = f"There is no folder {path!r}. A model of the Hugging Face Hub needs torch: {TRAIN}"
        raise FileNotFoundError(msg)


def load_model(
    kind: type[Model],
    model: str,
    *,
    device: str,
    **options: Any,
) -> Model:
    """
    Load a model of sentence-transformers, in evaluation mode and the dtype in which it is stored.

    :param kind:
        `SentenceTransformer` or `CrossEncoder`.
    :param model:
        A folder, a Hub id, or `package:NAME/SUBFOLDER` (see `resolve_model`).
    :param device:
        Torch device.
    :param options:
        As of `open_model`, such as `revision`, `token` and `local_files_only`.
    :raises FileNotFoundError:
        If the folder is not there, or holds no model that can be loaded.
    :raises RemoteCodeError:
        If the folder brings code along that is not trusted.
    :raises ValueError:
        If arguments for transformers are refused, or are none that it takes.
    :raises DamagedFileError:
        If it cannot be loaded because a file of the folder is damaged.
    """
    path = resolve_model(model)
    folder = Path(path)
    # What is wrong with them is no fault of the folder's.
    transformers_kwargs(**{name: options.get(name) for name in KWARGS})
    refuse_missing(path)
    msg = f"No model at {path!r}. {GIVE}"
    if not folder.is_dir() and not options.get("local_files_only") and is_offline():
        options["local_files_only"] = True  # else each of its files is asked for again and again
        msg = (
            f"No model {path!r}: it is no folder, and this machine is offline: the Hugging Face Hub cannot be "
            "reached, and it was not downloaded before. Give a folder or 'package:NAME/SUBFOLDER', or connect."
        )
    try:
        # Weights that a folder lacks, such as a pooler that nobody uses, are drawn: alike each time, as fingerprints
        # must be.
        with seeded(0):
            loaded = open_model(kind, path, device=device, **options)
    except RemoteCodeError:
        raise
    except OSError as error:
        if not folder.is_dir():
            raise FileNotFoundError(msg) from error
        if not isinstance(error, FileNotFoundError):
            _refuse_damaged(folder)
        raise
    except Exception as error:  # of a damaged file each library says something else, and none its name
        what = "" if isinstance(error, ValueError | ImportError) else f"{type(error).__name__}: "
        if folder.is_dir():
            _refuse_damaged(folder)
        if what and (named := [name for name in KWARGS if options.get(name)]):
            msg = f"{', '.join(named)}: {what}{error}"
            raise ValueError(msg) from error
        if not folder.is_dir():
            raise
        msg = f"No model that can be loaded in the folder {path!r}: {what}{error}"
        raise FileNotFoundError(msg) from error
    loaded.eval()
    return loaded


def is_offline() -> bool:
    """Tell whether the Hugging Face Hub is switched off (`HF_HUB_OFFLINE`) or cannot be reached."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return True
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT)
    except Exception:  # whose errors they are depends on the client that it has
        return True
    return False


def _refuse_damaged(folder: Path) -> None:
    """Look for the file because of which a model cannot be loaded."""
    from safetensors import safe_open
    from tokenizers import Tokenizer

    mend = (
        "Restore it, or save the model again: a run saves its student once its metrics.json is deleted and it is "
        "resumed (`retort train` with --resume)."
    )
    for file in visible_files(folder):
        if file.suffix == ".safetensors":
            with reading(file, mend), safe_open(file, "np"):
                pass
        elif file.name == "tokenizer.json":
            with reading(file, mend):
                Tokenizer.from_file(str(file))
        elif file.suffix == ".json":
            read_json(file, mend)


def open_model(
    kind: type[Model],
    path: str,
    *,
    trust_remote_code: bool = False,
    **options: Any,
) -> Model:
    """
    Create a model of sentence-transformers from a folder or a Hub id, with weights in safetensors only.

    A folder that names modules of ours is put together here: sentence-transformers imports them only where all code of
    the folder is trusted.

    :param kind:
        Its class.
    :param path:
        A folder or a Hub id (see `resolve_model`).
    :param trust_remote_code:
        Run code that the model brings along.
    :param options:
        Passed to `kind`; `model_kwargs`, `tokenizer_kwargs` and `config_kwargs` as `transformers_kwargs` gives them.
    :raises ValueError:
        As `transformers_kwargs`.
    :raises RemoteCodeError:
        If the folder brings code along that is not trusted.
    """
    from sentence_transformers import CrossEncoder, SentenceTransformer

    options |= _checked(path, options, trust_remote_code=trust_remote_code)
    options |= transformers_kwargs(**{name: options.pop(name, None) for name in KWARGS})
    if kind in (SentenceTransformer, CrossEncoder) and not trust_remote_code and names_own_modules(path):
        return _put_together(kind, Path(path), **options)
    loaded = kind(path, trust_remote_code=trust_remote_code, **options)
    _note_loading(loaded, path, options, trust_remote_code=trust_remote_code)
    return loaded


def _note_loading(model: Any, path: str, options: Mapping[str, Any], *, trust_remote_code: bool) -> None:
    """Note on a model's encoders how they were loaded; an adapter's base came from elsewhere."""
    from transformers import PreTrainedModel

    place = place_for_transformers({name: options.get(name) for name in PLACE})
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.name_or_path == path:
            setattr(module, _LOADED_WITH, {"trust_remote_code": trust_remote_code, **place})


def loaded_with(encoder: Any) -> dict[str, Any]:
    """Return how a transformers model was loaded by `open_model`, for others of its checkpoint; empty if it was not."""
    return dict(getattr(encoder, _LOADED_WITH, {}))


def load_tokenizer(model: str, *, trust_remote_code: bool = False, **kwargs: Any) -> Any:
    """Load a model's tokenizer, as transformers has it with `kwargs`; parameters and errors as in `load_model`."""
    from transformers import AutoTokenizer

    path = resolve_model(model)
    kwargs |= _checked(path, kwargs, trust_remote_code=trust_remote_code)
    place = place_for_transformers(take_place(kwargs))
    return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, **kwargs, **place)


def assemble(kind: type[Model], modules: list[Any], **options: Any) -> Model:
    """
    Create a model of sentence-transformers from modules.

    :param kind:
        Its class.
    :param modules:
        The modules.
    :param options:
        Passed to `kind`.
    :raises ValueError:
        If there are arguments for loading a model among them, which nobody would see.
    """
    if odd := sorted(KWARGS.keys() & options.keys()):
        msg = f"{odd[0]}: no model of transformers is loaded here."
        raise ValueError(msg)
    if odd := sorted(name for name in PLACE if options.get(name)):
        msg = f"{odd[0]}: no model is loaded here; set it where the model is named."
        raise ValueError(msg)
    return kind(modules=modules, device="cpu", **options)


def in_training_dtype(model: Model, options: Mapping[str, Any]) -> Model:
    """Convert a model to float32, unless its loading options name a dtype: folders may be stored in less."""
    return model if names_dtype(options.get("model_kwargs"), options.get("config_kwargs")) else model.float()


def _checked(path: str, options: Mapping[str, Any], *, trust_remote_code: bool) -> dict[str, str]:
    """
    Refuse a model that brings code along; of one of the Hub return the revision that was checked.

    What the Hub's models have under `auto_map` is left to transformers: it has classes of its own for many of them.
    """
    if trust_remote_code or Path(path).is_dir():
        refuse_remote_code(path, trust_remote_code=trust_remote_code)
        return {}
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    fetching = place_for_transformers({name: options.get(name) for name in PLACE})
    try:
        folder = snapshot_download(path, allow_patterns=[MODULES, "*config*.json"], **fetching)
    except HFValidationError as error:
        msg = f"{path!r} is neither a folder nor a Hugging Face Hub id."
        raise FileNotFoundError(msg) from error
    _refuse_code(named for named in _code_named_in(Path(folder)) if named[1] != "auto_map")
    return {"revision": Path(folder).name}


def refuse_remote_code(path: str, *, trust_remote_code: bool = False) -> None:
    """
    Refuse a folder that names code of its own, or of packages that are neither sentence-transformers nor ours.

    Only small JSON files are read; of an adapter, those of the model that it is for as well.

    :param path:
        A folder; anything else is let through.
    :param trust_remote_code:
        The user trusts the folder's code: nothing is refused.
    :raises RemoteCodeError:
        If it does; the first place is named.
    :raises FileNotFoundError:
        If a configuration is not valid JSON, or modules.json is no list of modules.
    """
    folder = Path(path)
    if trust_remote_code or not folder.is_dir():
        return
    _refuse_code(named for part in (folder, *_bases(folder)) for named in _code_named_in(part))


def _refuse_code(places: Iterable[tuple[Path, str, str]]) -> None:
    for file, key, name in places:
        if not (key == "type" and (STOCK.fullmatch(name) or name in OWN_MODULES)):
            msg = (
                f"{file}: {key!r} names {name}, code that is part of neither sentence-transformers nor retort. If you "
                "trust it, load the model with trust_remote_code=True (--trust-remote-code)."
            )
            raise RemoteCodeError(msg)


def names_own_modules(path: str) -> bool:
    """Say whether a folder's modules are partly of `OWN_MODULES`."""
    folder = Path(path)
    return folder.is_dir() and any(name in OWN_MODULES for _, name in _module_types(folder))


def _code_named_in(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Go through all places that say which code runs: the file, the key such as `type`, and what it names."""
    for file, name in _module_types(folder):
        yield file, "type", name
    for file in _configurations(folder):
        for key, name in _configured(read_config(file)):
            yield file, key, name


def _bases(folder: Path) -> list[Path]:
    """List the folders of the models that a folder's adapters are for."""
    adapters = [read_config(file) for file in _configurations(folder) if file.name == ADAPTER]
    bases = [adapter.get("base_model_name_or_path") for adapter in adapters if isinstance(adapter, dict)]
    return [Path(base) for base in bases if isinstance(base, str) and Path(base).is_dir()]


def _configurations(folder: Path) -> list[Path]:
    """List the folder's files of configuration, those behind symlinks as well, as whoever loads them finds them."""
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [Path(place, name) for name in names if name.endswith(".json") and "config" in name]
    return sorted(file for file in found if file.is_file())


def _module_types(folder: Path) -> Iterator[tuple[Path, str]]:
    """List the modules' classes, with the file that names each: the model's own, and those of its routers."""
    if (file := folder / MODULES).is_file():
        modules = read_config(file)
        if not isinstance(modules, list) or not all(
            isinstance(m, dict) and all(isinstance(m.get(name), str) for name in ("type", "path")) for m in modules
        ):
            msg = f"No model that can be loaded in the folder '{folder}': {MODULES} is no list of modules."
            raise FileNotFoundError(msg)
        for module in modules:
            yield file, module["type"]
    for file in _configurations(folder):
        # The latter is what old routers have.
        config = read_config(file) if file.name in {"router_config.json", "config.json"} else None
        if isinstance(config, dict) and isinstance(config.get("types"), dict) and "structure" in config:
            for name in config["types"].values():
                yield file, str(name)


def _configured(node: Any) -> Iterator[tuple[str, str]]:
    """List what a configuration runs, at any depth: its own classes, calls of torch, kernels of the Hub, pickles."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "auto_map":
                yield from ((key, name) for name in _texts(value))
            elif "activation" in key and isinstance(value, str):
                if value.startswith("torch.") and not _ACTIVATIONS.fullmatch(value):
                    yield key, value
            elif key.endswith("attn_implementation"):
                yield from ((key, name) for name in _texts(value) if "/" in name)
            elif key in _KERNELS and value:
                yield key, "kernels of the Hub"
            elif key in _PICKLES and value is False:
                yield key, "pickled weights"
            else:
                yield from _configured(value)
    elif isinstance(node, list):
        for value in node:
            yield from _configured(value)


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _texts(value)


def read_config(file: Path) -> Any:
    """
    Read a configuration of a model.

    :raises FileNotFoundError:
        If it is not valid JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        msg = f"No model that can be loaded in the folder '{file.parent}': {file.name} is not valid JSON ({error})."
        raise FileNotFoundError(msg) from error


def read_remote_documents(model: str) -> dict[str, Any] | None:
    """
    Read what embeds the documents of a student that encodes queries only.

    :param model:
        A model's name (see `resolve_model`).
    :returns:
        Parameters of `retort.students.hashing.remote_space`; None if the model encodes documents.
    """
    folder = Path(resolve_model(model))
    routed = folder / "router_config.json"
    if not routed.is_file():
        return None
    types = read_config(routed)["types"]
    name = next((name for name, kind in types.items() if kind == REMOTE_DOCUMENTS), None)
    source: dict[str, Any] | None = read_config(folder / name / "remote.json")["source"] if name else None
    return source


def _put_together(kind: type[Model], folder: Path, **options: Any) -> Model:
    """Load the modules one by one, each by its own `load`, and the rest of the model from its configuration."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router
    from sentence_transformers.util import import_from_string

    own = {name: import_from_string(name) for name in OWN_MODULES}
    loading = {name: value for name, value in options.items() if name not in (*SAVED, "device")}
    modules = []
    for module in read_config(folder / MODULES):
        if Path(module["path"]).is_absolute() or ".." in Path(module["path"]).parts:  # as sentence-transformers does
            msg = f"{MODULES}: the path {module['path']!r} leads out of the folder."
            raise ValueError(msg)
        module_class: Any = own.get(module["type"]) or import_from_string(module["type"])
        more = {"module_classes": own} if module_class is Router else {}
        modules.append(module_class.load(str(folder), subfolder=module["path"], **loading, **more))
    config = read_config(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    saved = {name: config.get(name) for name in (SAVED if issubclass(kind, SentenceTransformer) else PROMPTS)}
    wanted = {name: value for name, value in options.items() if value is not None}
    prompts = (saved["prompts"] or {}) | (options.get("prompts") or {})
    return kind(modules=modules, **saved | wanted | {"prompts": prompts})


def stated_kind(
    model: str, *, revision: str | None = None, token: str | None = None, local_files_only: bool = True
) -> str:
    """
    Read what kind a model says it is: sentence-transformers makes one of another without a word.

    :param model:
        As in `resolve_model`; of a Hub id, one file is asked for.
    :returns:
        `dense`, `sparse` or `ranker`; empty where nothing is said.
    """
    path = resolve_model(model)
    if Path(path).is_dir():
        config = Path(path, CONFIG)
    else:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        hub: dict[str, Any] = {"revision": revision, "token": token, "local_files_only": local_files_only}
        try:
            config = Path(hf_hub_download(path, CONFIG, **hub))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):  # the loading says what is wrong
            return ""
    if not config.is_file():
        return ""
    default = "SentenceTransformer" if config.with_name(MODULES).is_file() else ""  # of versions that knew no other
    return _STATED.get(read_config(config).get("model_type", default), "")


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
