# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""A student: a plain sentence-transformers folder with a manifest, loaded and ready to encode."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from retort.students.adapters import merge_adapters
from retort.students.backends.exports import Backend, check_form, choose, export_precision
from retort.students.backends.images import ImageGraphEncoder
from retort.students.backends.onnx import ExportError, open_export
from retort.students.backends.static import static_encoder
from retort.students.backends.torch import TorchEncoder
from retort.students.card import model_card
from retort.students.checks import characters
from retort.students.encoding import encode_numpy, image_patches, settle_dimension
from retort.students.files import replace_folder, resolve_model
from retort.students.hashing import canonical_json, fingerprint_of, hash_text, space_of
from retort.students.layers import note_word_weights
from retort.students.loading import (
    Kwargs,
    Precision,
    load_model,
    names_dtype,
    names_own_modules,
    pick_device,
    refuse_missing,
    refuse_remote_code,
    set_precision,
    stated_kind,
)
from retort.students.manifest import MANIFEST_FILE, QUERIES_ONLY, Manifest, ManifestError
from retort.students.prompts import warn_of_missing
from retort.students.redaction import redacted
from retort.students.scoring import is_ranker, pair_prompt
from retort.students.towers import (
    SIDES,
    Side,
    has_image_tower,
    max_tokens,
    prompt_for,
    reads_images,
    route,
    set_max_tokens,
)
from retort.students.views import PlainTokenizer, ViewRule, room_of

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

Model = TypeVar("Model", bound="SentenceTransformer | CrossEncoder")


def build_manifest(model: SentenceTransformer | CrossEncoder, **provenance: Any) -> Manifest:
    """
    Compute the manifest of a model, hashes included.

    :param model:
        The model, in the dtype in which it is stored.
    :param provenance:
        Further fields: `recipe`, `teachers`, `data`, `metrics`, `parents`, `views`; and `kind`, if the model does not
        tell.
        Secrets among them are redacted.
    """
    import sentence_transformers
    import torch
    import transformers

    versions = {
        "sentence_transformers": sentence_transformers.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    if not is_ranker(model):
        settle_dimension(model)
    kind = provenance.pop("kind", None)
    images = kind in {None, "image_text", "ranker"}
    described = _describe_ranker(model) if is_ranker(model) else _describe_embedder(model, images=images)
    if kind is not None:
        described["kind"] = kind
    return Manifest(
        **described, fingerprint=fingerprint_of(model, images=images), versions=versions, **redacted(provenance)
    )


def _describe_embedder(model: SentenceTransformer, *, images: bool = True) -> dict[str, Any]:
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    return {
        "kind": "sparse"
        if isinstance(model, SparseEncoder)
        else "image_text"
        if reads_images(model)
        else "static"
        if isinstance(model[0], StaticEmbedding)
        else "dense",
        "dim": int(model.get_embedding_dimension() or 0),
        "similarity": model.similarity_fn_name,
        "prompts": {side: prompt_for(model, side) for side in SIDES},
        "max_tokens": {side: max_tokens(model, side) for side in SIDES},
        "space": space_of(model, images=images),
    }


def _describe_ranker(model: CrossEncoder) -> dict[str, Any]:
    """One score a pair: a ranker has no vectors, hence no similarity and no space."""
    return {
        "kind": "ranker",
        "dim": 1,
        "similarity": "",
        "prompts": {"pair": pair_prompt(model)},
        "max_tokens": {"query": None, "document": None, "pair": model.max_seq_length},
        "space": "",
    }


def save_student(model: SentenceTransformer | CrossEncoder, path: str | Path, **provenance: Any) -> Manifest:
    """
    Save a model as a student folder, with manifest and model card: whole or not at all.

    :param model:
        The model to save; adapters of PEFT are merged into its weights, in a copy.
    :param path:
        The folder; one that is there is replaced once the new one is complete.
    :param provenance:
        Further manifest fields: `recipe`, `teachers`, `data`, `metrics`, `parents`, `views`.
    :returns:
        The manifest that was written.
    """
    model = merge_adapters(model)
    note_word_weights(model)
    manifest = build_manifest(model, **provenance)
    with replace_folder(Path(path)) as aside:
        model.save(str(aside), create_model_card=False, safe_serialization=True)
        manifest.write(aside)
        (aside / "README.md").write_text(model_card(manifest, ours=names_own_modules(str(aside))), encoding="utf-8")
    return manifest


class LoadedModel(Generic[Model]):
    """A model with its manifest: what students and rankers have in common."""

    def __init__(self, model: Model | None, manifest: Manifest, name: str) -> None:
        self._model = model
        self.manifest = manifest
        self.name = name

    @staticmethod
    def model_class() -> Any:
        """The class of sentence-transformers that loads it."""
        raise NotImplementedError

    @property
    def model(self) -> Model:
        """
        The torch model.

        :raises ExportError:
            If it runs as ONNX.
        """
        if self._model is None:
            msg = f"{self.name} runs as an ONNX graph; load it with backend='torch' to have its modules."
            raise ExportError(msg)
        return self._model

    @property
    def fingerprint(self) -> str:
        """Hash of this exact artefact."""
        return self.manifest.fingerprint

    @property
    def num_parameters(self) -> int:
        """Count of the torch model's parameters."""
        return sum(p.numel() for p in self.model.parameters())

    @classmethod
    def _load(
        cls,
        name: str | Path,
        *,
        cut: Callable[[Model], None] | None,
        device: str | None = None,
        precision: Precision | None = None,
        backend: Backend = "auto",
        threads: int | None = None,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        **kwargs: Kwargs,
    ) -> tuple[Model | None, Manifest, Any, str]:
        """
        Load a torch model or an export; parameters and errors as in `Student.load`.

        :param name:
            The model's name.
        :param cut:
            Sets other lengths than the model's; None keeps those.
        :param kwargs:
            `model_kwargs`, `tokenizer_kwargs` and `config_kwargs`.
        :returns:
            The torch model or None; the manifest; what `open_export` gives or None; the export's form or "".
        """
        check_form(precision, backend, threads)
        model, device = str(name), pick_device(device)
        folder = Path(resolve_model(model))
        known = Manifest.read(folder)
        if known is not None:
            cls._refuse_other_kind(known.kind, model)
        else:
            refuse_missing(resolve_model(model))
        backend, chosen = choose(known, backend, precision, device, changed=cut is not None, kwargs=kwargs)
        if backend == "onnx" and known is not None:
            refuse_remote_code(str(folder), trust_remote_code=trust_remote_code)
            return None, known, open_export(folder, known, export_precision(chosen), threads), f"onnx {chosen}"
        hub: dict[str, Any] = {"revision": revision, "token": token}
        opening: dict[str, Any] = {
            **hub,
            "local_files_only": local_files_only,
            "trust_remote_code": trust_remote_code,
        }
        says = stated_kind(model) if known is None and folder.is_dir() else ""
        if says:
            cls._refuse_other_kind(says, model)
        if known is not None and any(kwargs.values()):  # loaded in another way, it has hashes of its own
            verified(load_model(cls.model_class(), model, device="cpu", **opening), model)
        loaded: Model = load_model(cls.model_class(), model, device=device, **opening, **kwargs)
        manifest = verified(loaded, model, changed=any(kwargs.values()))
        if not folder.is_dir() and (says := stated_kind(model, **hub)):  # what was downloaded
            cls._refuse_other_kind(says, model)
        cls._check(loaded, manifest.kind, model, stated=known is not None or bool(says))
        if cut is not None:
            cut(loaded)
            manifest = build_manifest(loaded, kind=manifest.kind, views=manifest.views)
        if not names_dtype(*kwargs.values()):
            set_precision(loaded, chosen, device)
        return loaded, manifest, None, ""

    @classmethod
    def _refuse_other_kind(cls, kind: str, model: str) -> None:
        raise NotImplementedError

    @classmethod
    def _check(cls, loaded: Model, kind: str, model: str, *, stated: bool) -> None:
        """
        Refuse a torch model that loads but cannot serve.

        :param kind:
            As its manifest has it.
        :param stated:
            Whether its files say so; else it was made so by loading it.
        """


class Student(LoadedModel["SentenceTransformer"]):
    """
    A loaded student.

    ### Usage example

    ```python
    from retort.students import Student

    student = Student.load("runs/quickstart/student")
    queries = student.encode_query(["How do I parse JSON?"])  # [1, dim] float32
    ```
    """

    kinds: tuple[str, ...] = ("dense", "static", "multi_view", "image_text")

    def __init__(
        self,
        model: SentenceTransformer | None,
        manifest: Manifest,
        name: str,
        encoders: Mapping[Side, Encoder] | None = None,
        export: str = "",
    ) -> None:
        super().__init__(model, manifest, name)
        self._export = export
        self._encoders: dict[Side, Encoder] = dict(encoders or {})
        self._tokenizer: PlainTokenizer | None = None  # for views, where an export runs
        if model is not None:
            lock = threading.Lock()
            for side in SIDES:
                static = static_encoder(model, side) if model.device.type == "cpu" else None
                self._encoders[side] = static or TorchEncoder(model, side, self.encoding(), lock)

    @staticmethod
    def model_class() -> Any:
        """The class of sentence-transformers that loads it."""
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer

    @staticmethod
    def encoding() -> Callable[..., Any]:
        """The function that encodes with a torch model."""
        return encode_numpy

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        device: str | None = None,
        precision: Precision | None = None,
        backend: Backend = "auto",
        threads: int | None = None,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        max_query_tokens: int | None = None,
        max_document_tokens: int | None = None,
        model_kwargs: Kwargs = None,
        tokenizer_kwargs: Kwargs = None,
        config_kwargs: Kwargs = None,
    ) -> Student:
        """
        Load a student, or any other sentence-transformers model.

        :param model:
            A folder, a Hub id, or `package:NAME/SUBFOLDER` (see `resolve_model`).
        :param device:
            Torch device; None takes the best there is.
        :param precision:
            `float32`; `bfloat16`, refused where the hardware would emulate it; `auto`: bfloat16 where there is; `int8`:
            the export of that name. None takes what `retort export` found best for CPUs, else float32.
        :param backend:
            `torch`; `onnx`: an export; `auto`: as `precision` says.
        :param threads:
            Threads of an ONNX graph; None takes all cores. Torch has its own, for the whole process.
        :param revision:
            Hub revision.
        :param token:
            Hub token.
        :param local_files_only:
            Never ask the Hub.
        :param trust_remote_code:
            Run code that the model brings along.
        :param max_query_tokens:
            Cut queries here instead of where the model says. It changes the fingerprint.
        :param max_document_tokens:
            Cut documents here instead of where the model says. It changes space and fingerprint.
        :param model_kwargs:
            Passed to transformers' `from_pretrained` of the model, such as `attn_implementation` and `dtype`.
        :param tokenizer_kwargs:
            Passed to that of the tokenizer.
        :param config_kwargs:
            Passed to that of the configuration. With any of the three the torch model runs, and space and fingerprint
            are those of what was loaded; a folder with a manifest is loaded without them before, to compare it.
        :returns:
            The student. The manifest of a folder without `retort.json` is computed.
        :raises FileNotFoundError:
            If the folder is not there, or holds no model that can be loaded.
        :raises PrecisionError:
            If there is no such precision, or bfloat16 is asked for where it would be emulated.
        :raises DeviceError:
            If torch cannot use the device.
        :raises ManifestError:
            If the folder's weights or configuration are not those that its manifest names.
        :raises ExportError:
            If an export is asked for that is not there, or cannot be used.
        :raises RemoteCodeError:
            If the folder brings code along that is not trusted.
        :raises ValueError:
            If the dtype is named twice, or `transformers_kwargs` refuses what is passed on.
        """
        cut = None
        if max_query_tokens is not None or max_document_tokens is not None:
            cut = partial(set_max_tokens, query=max_query_tokens, document=max_document_tokens)
        loaded, manifest, encoders, form = cls._load(
            model,
            cut=cut,
            device=device,
            precision=precision,
            backend=backend,
            threads=threads,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            trust_remote_code=trust_remote_code,
            model_kwargs=model_kwargs,
            tokenizer_kwargs=tokenizer_kwargs,
            config_kwargs=config_kwargs,
        )
        return cls(loaded, manifest, str(model), encoders, form)

    @classmethod
    def _refuse_other_kind(cls, kind: str, model: str) -> None:
        if kind == "ranker":
            msg = f"{model} is a ranker: it scores pairs and gives no vectors. Load it as StudentRanker does."
            raise ManifestError(msg)
        if kind not in cls.kinds:
            have, take = ("sparse", "StudentSparseText") if kind == "sparse" else ("dense", "StudentText")
            msg = f"{model} has {have} vectors: take {take}Embedder and its sister for documents."
            raise ManifestError(msg)

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self.manifest.dim

    @property
    def takes_text_documents(self) -> bool:
        """Whether documents may be texts: not where images have a tower of their own, or an export is for images."""
        if self.manifest.kind != "image_text":
            return True
        return self._model is not None and not has_image_tower(self._model)

    @property
    def encodes_documents(self) -> bool:
        """Whether it has a document side: of one over documents that an API embeds it has none."""
        if self._model is None:
            return "document" in self._encoders
        from retort.students.modules.remote import RemoteDocuments

        return not isinstance(route(self._model, "document")[0], RemoteDocuments)

    @property
    def space(self) -> str:
        """Hash of the document side (see `retort.students.hashing`)."""
        return self.manifest.space

    @property
    def form(self) -> str:
        """What runs, such as `float32` or `onnx int8`: vectors of two forms are near, not equal."""
        return self._export or str(self.model.dtype).removeprefix("torch.")

    @property
    def megabytes(self) -> float:
        """Size of the weights, in the precision that runs."""
        if self._model is not None:
            return sum(p.numel() * p.element_size() for p in self._model.parameters()) / 1e6
        return sum(encoder.megabytes for encoder in self._encoders.values())

    @property
    def image_tokens(self) -> int:
        """Patches that it cuts an image into, which count as `tokens_per_chunk`; 1 where that is not known."""
        encoder = self._encoders["document"]
        if isinstance(encoder, ImageGraphEncoder):
            return encoder.preparation.patches
        return image_patches(route(self.model, "document", "image")[0])

    def encode_query(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        """Encode queries: `[n, dim]` float32. Options as in `encode`."""
        return self.encode(texts, "query", **options)

    def encode_document(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        """Encode documents: `[n, dim]` float32. Options as in `encode`."""
        return self.encode(texts, "document", **options)

    def views(
        self, questions: Sequence[str], document: str, rule: ViewRule | None = None, *, prompt: str | None = None
    ) -> list[str]:
        """
        List a document's views; safe beside threads that encode.

        :param questions:
            Its questions, best first.
        :param document:
            Its text.
        :param rule:
            How they are joined; None: as in training.
        :param prompt:
            What stands before each document; None is the model's own.
        """
        rule = self.manifest.view_rule if rule is None else rule
        limit = self.manifest.max_tokens["document"]
        before = self.manifest.prompts["document"] if prompt is None else prompt
        encoder = self._encoders["document"]
        if isinstance(encoder, TorchEncoder):
            with encoder.lock:
                tokenizer = self.model.tokenizer
                return rule.texts(tokenizer, questions, document, room_of(tokenizer, limit, before))
        if self._tokenizer is None:
            self._tokenizer = PlainTokenizer(Path(resolve_model(self.name)))
        return rule.texts(self._tokenizer, questions, document, room_of(self._tokenizer, limit, before))

    def encode(
        self,
        texts: Sequence[str],
        side: Side,
        *,
        tokens_per_chunk: int | None = None,
        progress: Callable[[int], Any] | None = None,
        prompt: str | None = None,
    ) -> np.ndarray:
        """
        Encode texts in token-sorted chunks.

        :param texts:
            `n` texts, in any order; of a student that reads images, those as `ImageFile`.
        :param side:
            `query` or `document`: chooses prompt, length and, in a Router, the tower.
        :param tokens_per_chunk:
            Padded tokens a forward pass; by default what suits the device.
        :param progress:
            Called with the number of texts after each chunk.
        :param prompt:
            Put before each text; None is the model's own for this side.
        :returns:
            `[n, dim]` float32, in the order of `texts`, as the model gives them (most normalise).
        :raises TypeError:
            If `texts` is a single text.
        :raises ValueError:
            If a text holds half of a surrogate pair.
        """
        if isinstance(texts, str):
            msg = f"texts={texts[:80]!r}: give a list of texts, such as [text]."
            raise TypeError(msg)
        if side not in self._encoders:
            raise ManifestError(QUERIES_ONLY)
        if prompt is None and not self.manifest.prompts[side]:
            warn_of_missing(self.name, side)
        with characters(texts):
            vectors: np.ndarray = self._encoders[side].encode(
                texts, budget=tokens_per_chunk, progress=progress, prompt=prompt
            )
        return vectors

    def space_with(self, prompt: str = "", suffix: str = "") -> str:
        """
        Return the space of documents that are embedded with another prompt, or with something behind them.

        :param prompt:
            Put before each document in the place of the model's own prompt; empty: the model's own.
        :param suffix:
            Put behind each document.
        """
        own = self.manifest.prompts["document"]
        if (prompt or own) == own and not suffix:
            return self.space
        return hash_text(canonical_json({"space": self.space, "prompt": prompt or own, "suffix": suffix}))


class Encoder(Protocol):
    """One side of a student, ready to encode."""

    @property
    def megabytes(self) -> float:
        """Size of its weights."""

    def encode(
        self,
        texts: Sequence[str],
        *,
        budget: int | None = None,
        progress: Callable[[int], Any] | None = None,
        prompt: str | None = None,
    ) -> Any:
        """Encode texts: `[n, dim]` float32, an array or `SparseRows`; parameters as in `Student.encode`."""


def verified(loaded: SentenceTransformer | CrossEncoder, model: str, *, changed: bool = False) -> Manifest:
    """
    Return the manifest of a loaded model; that of a folder without one is computed.

    :param loaded:
        The model.
    :param model:
        Its name.
    :param changed:
        Whether it was loaded in another way than it was saved for: its hashes are then its own.
    :raises ManifestError:
        If the model is not the one that its manifest describes.
    """
    folder = Path(resolve_model(model))
    manifest = Manifest.read(folder)
    if manifest is None:
        return build_manifest(loaded)
    from sentence_transformers import SparseEncoder

    kinds = {"ranker": is_ranker(loaded), "sparse": isinstance(loaded, SparseEncoder)}
    if any(found is not (manifest.kind == kind) for kind, found in kinds.items()):
        return manifest  # the caller says what is wrong with its kind
    if changed:
        return build_manifest(loaded, kind=manifest.kind, views=manifest.views)
    # One that reads images, saved as a student of texts, is what it was.
    found = build_manifest(loaded, **({"kind": manifest.kind} if reads_images(loaded) else {}))
    if (found.space, found.fingerprint) != (manifest.space, manifest.fingerprint):
        msg = (
            f"{folder}: the model does not match its {MANIFEST_FILE}: weights, tokenizer, prompts or lengths were "
            f"changed after it was written (fingerprint {found.fingerprint[:12]}, the manifest says "
            f"{manifest.fingerprint[:12]}). Restore the folder, or delete {MANIFEST_FILE} to accept the model as it is "
            "and rebuild the indexes made with the old one."
        )
        raise ManifestError(msg)
    return manifest
