# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Students as ONNX graphs, for CPUs: made with torch alone, run by onnxruntime without torch.

An export is a folder in the student's, `onnx/PRECISION`, with a graph and a tokenizer, or such a folder a side where
the sides are different towers. It shares the student's space. int8 keeps each weight matrix in whole numbers with a
factor a column, and rounds what enters it as it comes (dynamic quantisation): what it costs depends on model and data,
so nobody is given it who has not had it measured (`retort export`).
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from retort.students.backends.images import PREPARATION, ImageGraphEncoder, ImagePreparation
from retort.students.backends.sessions import ExportError, Sessions, import_for_onnx, open_session
from retort.students.backends.static import WEIGHTS, StaticEncoder, static_encoder
from retort.students.encoding import CPU_TOKENS, TOKENISED, collect, collect_sparse, image_patches, plan_chunks
from retort.students.files import replace_folder, visible_files
from retort.students.hashing import own_preparation
from retort.students.images import image_processor, refuse_images
from retort.students.layers import attend_step_by_step
from retort.students.loading import NO_QUANTIZATION
from retort.students.manifest import MANIFEST_FILE, Manifest
from retort.students.scoring import Pair, is_ranker, number_of_heads
from retort.students.towers import SIDES, Modality, Side, reads_images, route

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

ExportPrecision = Literal["float32", "int8"]
FOLDER, GRAPH, TOKENIZER = "onnx", "model.onnx", "tokenizer.json"
_SAMPLE = ["a text", "another text that is longer than the first", "and one more"]
_TOLERANCE = 1e-3  # float32 in another order of operations
# Weights, graphs, configuration, tokenizers and code. Other files in a student's folder decide nothing.
_SUFFIXES = {".safetensors", ".bin", ".onnx", ".json", ".model", ".jinja", ".py"}
_VOCABULARIES = {"vocab.txt", "merges.txt"}


class Graph:
    """
    A graph with its tokenizer.

    Safe to use from several threads.

    :param folder:
        What `export_model` wrote, for both sides or one.
    :param prompt:
        Put before each text.
    :param max_tokens:
        Where texts are cut, special tokens included; None if they are not.
    :param threads:
        Threads of one call; None takes all cores.
    :param sessions:
        The graph, if it is open already: for the other side, which has its own prompt and length.
    :param alone:
        Run each text by itself, as many at a time as there are threads. int8 rounds by the largest number in a batch,
        so that a vector would hang on the texts beside it.
    """

    def __init__(
        self,
        folder: Path,
        prompt: str,
        max_tokens: int | None,
        threads: int | None = None,
        sessions: Sessions | None = None,
        *,
        alone: bool = False,
    ) -> None:
        from tokenizers import Tokenizer

        self._alone = alone

        self.sessions = sessions or Sessions(folder / GRAPH, threads)
        self.session = self.sessions.one
        self.megabytes = 0.0 if sessions else (folder / GRAPH).stat().st_size / 1e6
        self._inputs = [i.name for i in self.session.get_inputs()]
        self._prompt = prompt
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._pad = (self._tokenizer.padding or {}).get("pad_id", 0)
        self._tokenizer.no_padding()
        if max_tokens is None:
            self._tokenizer.no_truncation()
        else:
            self._tokenizer.enable_truncation(max_tokens)

    def chunks(
        self, texts: Sequence[Any], budget: int | None, prompt: str | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """
        Run texts, or pairs, chunk by chunk, sorted by tokens; as `retort.students.encoding.encode_chunks`.

        :returns:
            Rows `[c]` and what the graph gives for them, `[c, d]` or `[c]`.
        """
        refuse_images(part for text in texts for part in (text if isinstance(text, tuple) else (text,)))
        prompt = self._prompt if prompt is None else prompt
        if len(texts) == 1:
            text = texts[0]
            pair = (prompt + text[0], text[1]) if isinstance(text, tuple) else (prompt + text,)
            yield np.zeros(1, dtype=np.int64), self._run([self._tokenizer.encode(*pair)])
            return
        prompted = [(prompt + t[0], t[1]) if isinstance(t, tuple) else prompt + t for t in texts]
        for start in range(0, len(prompted), TOKENISED):
            # One call for many: the tokenizer spreads it over the cores.
            encoded = self._tokenizer.encode_batch_fast(prompted[start : start + TOKENISED])
            counts = np.array([len(e.ids) for e in encoded], dtype=np.int64)
            if self._alone:
                for row, found in enumerate(self._each(encoded), start):
                    yield np.array([row]), found
                continue
            for chunk in plan_chunks(counts, budget or CPU_TOKENS):
                yield start + chunk, self._run([encoded[i] for i in chunk])

    def _each(self, encoded: list[Any]) -> Iterator[np.ndarray]:
        session = self.sessions.each
        with ThreadPoolExecutor(self.sessions.threads) as pool:
            yield from pool.map(lambda one: self._run([one], session), encoded)

    def _run(self, encoded: list[Any], session: InferenceSession | None = None) -> np.ndarray:
        width = max([1, *(len(e.ids) for e in encoded)])
        ids = np.full((len(encoded), width), self._pad, dtype=np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for row, e in enumerate(encoded):
            ids[row, : len(e.ids)] = e.ids
            mask[row, : len(e.ids)] = 1
            types[row, : len(e.ids)] = e.type_ids
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        found: np.ndarray = (session or self.session).run(None, {name: feeds[name] for name in self._inputs})[0]
        return found


class GraphEncoder:
    """
    One side of a student as a graph.

    :param graph:
        The graph.
    :param dim:
        Dimension of its vectors.
    :param sparse:
        Whether they are to be kept sparse.
    """

    def __init__(self, graph: Graph, dim: int, *, sparse: bool = False) -> None:
        self.graph = graph
        self.megabytes = graph.megabytes
        self.dim = dim
        self.sparse = sparse

    def encode(
        self,
        texts: Sequence[str],
        *,
        budget: int | None = None,
        progress: Callable[[int], Any] | None = None,
        prompt: str | None = None,
    ) -> Any:
        """Encode texts: `[n, d]` float32, an array or `SparseRows`, in the order of `texts`."""
        chunks = self.graph.chunks(texts, budget, prompt) if texts else ()
        if self.sparse:
            return collect_sparse(chunks, self.dim, progress)
        cut = ((rows, vectors[:, : self.dim]) for rows, vectors in chunks)  # the model's truncate_dim
        return collect(cut, (len(texts), self.dim), progress)


class GraphScorer:
    """A ranker as a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.megabytes = graph.megabytes

    def score(
        self,
        pairs: Sequence[Pair],
        *,
        by_head: bool = False,
        budget: int | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> np.ndarray:
        """Score pairs: `[n]` float32 raw logits, in the order of `pairs`; `[n, k]` by head."""
        chunks = self.graph.chunks([tuple(p) for p in pairs], budget) if pairs else ()
        heads = self.graph.session.get_outputs()[0].shape[-1]
        scores = collect(chunks, (len(pairs), heads), progress)
        return scores if by_head else scores.mean(1)


def open_export(
    student: Path, manifest: Manifest, precision: ExportPrecision, threads: int | None = None
) -> dict[Side, GraphEncoder | ImageGraphEncoder | StaticEncoder] | GraphScorer:
    """
    Open an export.

    :param student:
        The student's folder.
    :param manifest:
        Its manifest.
    :param precision:
        Which one.
    :param threads:
        Threads of one call; None takes all cores.
    :returns:
        An encoder a side, of queries alone where something else embeds documents; of a ranker its scorer.
    :raises ExportError:
        If there is none, it is not of this student, or onnxruntime is not installed.
    """
    folder = student / FOLDER / precision
    entry = next((e for e in manifest.exports if e.get("file") == f"{FOLDER}/{precision}"), None)
    if entry is None or not folder.is_dir():
        msg = f"{student} has no {precision} export. Make it: `retort export {student} --precision {precision}`."
        if precision == "int8":
            msg += NO_QUANTIZATION
        raise ExportError(msg)
    if entry["fingerprint"] != export_fingerprint(folder, manifest.fingerprint):
        msg = (
            f"{folder} is not the export that the manifest names: files were changed, or the student was trained "
            f"again. Make it anew: `retort export {student} --precision {precision}`."
        )
        raise ExportError(msg)
    # Earlier versions recorded every file.
    made = {name: digest for name, digest in entry.get("made_of", {}).items() if _is_of_model(name)}
    if odd := [name for name, digest in made.items() if _sha256(student / name) not in {digest, None}]:
        msg = (
            f"{folder} was made of another {odd[0]} than the student now has. Make it anew: "
            f"`retort export {student} --precision {precision}`."
        )
        raise ExportError(msg)
    alone = precision == "int8"
    if manifest.kind == "ranker":
        return GraphScorer(Graph(folder, manifest.prompts["pair"], manifest.max_tokens["pair"], threads, alone=alone))
    sessions: Sessions | None = None
    static: StaticEncoder | None = None
    found: dict[Side, GraphEncoder | ImageGraphEncoder | StaticEncoder] = {}
    remote = (folder / "query").is_dir() and not (folder / "document").is_dir()
    for side in SIDES[:1] if remote else SIDES:
        own, prompt, limit = folder / side, manifest.prompts[side], manifest.max_tokens[side]
        own = own if own.is_dir() else folder
        if (own / WEIGHTS).is_file():
            static = static if own == folder and static else StaticEncoder.load(own, dim=manifest.dim)
            found[side] = static.with_prompt(prompt)
            continue
        if (own / PREPARATION).is_file():
            found[side] = ImageGraphEncoder(own, Sessions(own / GRAPH, threads), manifest.dim, alone=alone)
            continue
        graph = Graph(own, prompt, limit, threads, sessions, alone=alone)
        sessions = graph.sessions if own == folder else None  # one copy of the weights for both sides
        found[side] = GraphEncoder(graph, manifest.dim, sparse=manifest.kind == "sparse")
    return found


def made_of(student: Path) -> dict[str, str]:
    """Hash the files that decide a student's model: saving over them leaves manifest and exports as they are."""
    names = [path.relative_to(student).as_posix() for path in visible_files(student)]
    hashes = {name: _sha256(student / name) for name in names if _is_of_model(name)}
    return {name: digest for name, digest in hashes.items() if digest is not None}


def _is_of_model(name: str) -> bool:
    """Tell whether a file, named as in a student's folder, decides what the student's model computes."""
    path = PurePosixPath(name)
    if FOLDER in path.parts or path.name == MANIFEST_FILE or any(part.startswith(".") for part in path.parts):
        return False
    return path.suffix in _SUFFIXES or path.name in _VOCABULARIES


def _sha256(path: Path) -> str | None:
    """Hash a file; one that is not there says nothing: an export runs without the weights."""
    if not path.is_file():
        return None
    with suppress(FileNotFoundError), path.open("rb") as content:  # it may vanish meanwhile
        return hashlib.file_digest(content, "sha256").hexdigest()
    return None


def export_fingerprint(folder: Path, parent: str) -> str:
    """Hash an export's files, and the fingerprint of the student it was made of."""
    digest = hashlib.sha256(parent.encode())
    for path in visible_files(folder):
        if _is_of_model(path.relative_to(folder).as_posix()):
            with suppress(FileNotFoundError):  # it may vanish meanwhile, and the hash is another one
                content = path.read_bytes()
                digest.update(str(path.relative_to(folder)).encode())
                digest.update(content)
    return digest.hexdigest()


def export_model(model: Any, student: Path, precision: ExportPrecision, *, traced: Path | None = None) -> Path:
    """
    Write a model as ONNX into a student's folder: whole or not at all.

    The manifest no longer names an export that is replaced, so that a kill leaves a student that can be loaded.

    :param model:
        The loaded model, float32, on the CPU: a bi-encoder, a sparse one, or a ranker. Its attention is changed to
        plain products, which give the leaner graph.
    :param student:
        The student's folder.
    :param precision:
        `float32`, checked against the model; or `int8`, per channel, made of it.
    :param traced:
        The float32 export of this very model, of which int8 is then made: tracing takes most of the time.
    :returns:
        The folder of the export.
    :raises ExportError:
        If the model cannot be exported, or the extra `onnx` is not installed.
    """
    from retort.students.modules.remote import RemoteDocuments

    import_for_onnx("onnx")
    import_for_onnx("onnxscript")
    attend_step_by_step(model)
    folder = student / FOLDER / precision
    with replace_folder(folder) as aside, _quiet():
        if is_ranker(model):
            if reads_images(model):
                msg = "A ranker of texts with images is not exported: it is what image-text students are made of."
                raise ExportError(msg)
            output = "head_scores" if number_of_heads(model) > 1 else "scores"
            _write(list(model.children()), output, aside, precision, traced)
        else:
            towers = [route(model, side) for side in SIDES]
            pictures = reads_images(model)  # a side each, even where one module has both
            same = (
                not pictures and all(a is b for a, b in zip(*towers, strict=False)) and len(towers[0]) == len(towers[1])
            )
            for side, modules in zip(SIDES, towers, strict=True):
                if isinstance(modules[0], RemoteDocuments):  # nothing to run
                    continue
                if same and side == "query":
                    continue
                place = aside if same else aside / side
                of_side = traced if same or traced is None else traced / side
                if pictures and side == "document":
                    _write_images(modules, place, precision, of_side)
                elif (static := static_encoder(model, side)) is not None:
                    static.save(place)
                else:
                    _write(modules, "sentence_embedding", place, precision, of_side)
        if (manifest := Manifest.read(student)) is not None:
            kept = [e for e in manifest.exports if e["file"] != f"{FOLDER}/{precision}"]
            replace(manifest, exports=kept).write(student)
    return folder


def _write_images(modules: list[Any], folder: Path, precision: ExportPrecision, traced: Path | None) -> None:
    """Write the image side: its graph, and what is done to images before."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    processor = image_processor(modules[0])
    try:
        preparation = ImagePreparation.of(processor, image_patches(modules[0]))
    except ValueError as error:
        raise ExportError(str(error)) from error
    preparation.save(folder)
    rng = np.random.default_rng(0)
    pixels = np.stack([preparation.pixels(_noise(rng, preparation)) for _ in _SAMPLE])
    inputs = {"pixel_values": torch.from_numpy(pixels)}
    _write_graph(folder, precision, traced, lambda path: _trace(modules, "sentence_embedding", path, inputs, "image"))


def _noise(rng: np.random.Generator, preparation: ImagePreparation) -> Any:
    from PIL import Image

    side = max([64, *(preparation.size or {}).values()])
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))


def _write(modules: list[Any], output: str, folder: Path, precision: ExportPrecision, traced: Path | None) -> None:
    if not all(getattr(module, "include_prompt", True) for module in modules):
        msg = (
            "The model's pooling leaves out the prompt's tokens (include_prompt=False), which an ONNX graph cannot do: "
            "it runs in torch alone."
        )
        raise ExportError(msg)
    if own := ", ".join(own_preparation(modules[0])):
        msg = f"The model prepares texts in its own way ({own}), which an ONNX graph cannot do: it runs in torch alone."
        raise ExportError(msg)
    tokenizer = modules[0].tokenizer
    if not getattr(tokenizer, "is_fast", False):
        msg = f"{type(tokenizer).__name__}: only models with a fast tokenizer can be exported."
        raise ExportError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # lengths are set where it is loaded
    backend.enable_padding(pad_id=tokenizer.pad_token_id or 0, pad_token=str(tokenizer.pad_token))
    backend.save(str(folder / TOKENIZER))
    backend.no_padding()
    of_pairs = output != "sentence_embedding"
    features = modules[0].preprocess([(t, t) for t in _SAMPLE] if of_pairs else _SAMPLE)
    names = [n for n in ("input_ids", "attention_mask", "token_type_ids") if n in features]
    if not of_pairs and "token_type_ids" in names:  # all 0 for a text alone
        names.remove("token_type_ids")
    inputs = {name: features[name] for name in names}
    _write_graph(folder, precision, traced, lambda path: _trace(modules, output, path, inputs, "text"))


def _write_graph(folder: Path, precision: ExportPrecision, traced: Path | None, trace: Callable[[Path], None]) -> None:
    """Write a graph; in int8 it is made of the one in float32, which is traced if no folder has it."""
    if precision == "float32":
        trace(folder / GRAPH)
    elif traced is not None:
        _quantize(traced / GRAPH, folder / GRAPH)
    else:
        plain = folder / "plain.onnx"
        trace(plain)
        _quantize(plain, folder / GRAPH)
        plain.unlink()


def _quantize(plain: Path, path: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(plain)
    del graph.graph.value_info[:]  # a head's shapes stand there as they were before its matrix was turned
    quantize_dynamic(graph, path, per_channel=True, weight_type=QuantType.QInt8)


def _trace(modules: list[Any], output: str, path: Path, inputs: dict[str, Any], modality: Modality) -> None:
    import torch
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    class Traced(torch.nn.Module):
        """The modules of one side, from token ids or pixels to vectors."""

        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList(modules)

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            features: dict[str, Any] = dict(zip(names, tensors, strict=True)) | {"modality": modality}
            for part in self.parts:
                features = _pool_words(part, features) if isinstance(part, SpladePooling) else part(features)
            return features[output]

    names, tensors = list(inputs), tuple(inputs.values())
    batch, tokens = torch.export.Dim("batch", min=1), torch.export.Dim("tokens", min=1)
    shapes = tuple({0: batch, 1: tokens} if modality == "text" else {0: batch} for _ in names)
    traced = Traced().eval()
    with torch.inference_mode():
        wanted = traced(*tensors)
    try:
        program: Any = torch.onnx.export(
            traced,
            tensors,
            None,
            dynamo=True,
            dynamic_shapes=(shapes,),
            input_names=names,
            output_names=["output"],
            verbose=False,
        )
        program.save(str(path), external_data=False)
    except Exception as error:
        msg = f"{type(modules[0].model).__name__} cannot be exported to ONNX: {str(error).splitlines()[0]}"
        raise ExportError(msg) from error
    session = open_session(path)
    for part in (slice(None), slice(0, 1)):
        given = {n: t[part].numpy() for n, t in zip(names, tensors, strict=True)}
        found = session.run(None, given)[0]
        if (apart := float(np.abs(found - wanted[part].numpy()).max())) > _TOLERANCE:
            msg = f"The ONNX graph of {type(modules[0].model).__name__} differs from the model by {apart:.2g}."
            raise ExportError(msg)


def _pool_words(pooling: Any, features: dict[str, Any]) -> dict[str, Any]:
    """Do what `SpladePooling` does, without its loop over chunks of tokens, which would fix their number."""
    found = (features["token_embeddings"] * features["attention_mask"].unsqueeze(-1)).relu().log1p()
    if pooling.activation_function == "log1p_relu":
        found = found.log1p()
    return {"sentence_embedding": found.amax(1) if pooling.pooling_strategy == "max" else found.sum(1)}


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of what it does in many warnings; what matters is checked afterwards."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
