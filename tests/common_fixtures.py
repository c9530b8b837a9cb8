# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all tests: tiny models and data, made on the spot. Nothing is fetched, nothing is slow."""

import copy
import gc
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from tiny import (
    TINY_VISION,
    WORDS,
    pool,
    prod_stages,
    spec,
    stage,
    tiny_config,
    toy_batch,
    two_stages,
    write_beir,
    write_jsonl,
    write_pictures,
    write_tokenizer,
)

gc.disable()  # until all is imported and collected: none of that goes away


def pytest_collection_finish():
    """Collect garbage of the tests alone."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory) -> str:
    """A WordPiece tokenizer of about 70 words."""
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"), [*dict.fromkeys(WORDS), *".?,:"])


@pytest.fixture(scope="session")
def letters_path(tmp_path_factory) -> str:
    """A tokenizer of another vocabulary: letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return write_tokenizer(
        tmp_path_factory.mktemp("letters"), [*letters, *(f"##{letter}" for letter in letters), *".?,:"]
    )


@pytest.fixture(scope="session")
def tiny_model(tokenizer_path):
    """Makes tiny random models."""
    from retort.students.create import from_config

    def make(seed: int = 0, *, layers: int = 2, hidden: int = 16, dropout: float = 0.0, **options):
        return from_config(tiny_config(layers, hidden, dropout), tokenizer_path, seed=seed, **options)

    return make


@pytest.fixture(scope="session")
def tiny_student(tiny_model, tmp_path_factory) -> str:
    """Folder of a tiny student."""
    from retort.students import save_student

    path = tmp_path_factory.mktemp("students") / "tiny"
    save_student(tiny_model(1), path)
    return str(path)


@pytest.fixture(scope="session")
def trunk(tokenizer_path, tmp_path_factory) -> str:
    """Folder of a tiny encoder of four random layers, for rankers."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    path = tmp_path_factory.mktemp("trunk")
    words = AutoTokenizer.from_pretrained(tokenizer_path)
    words.save_pretrained(path)
    torch.manual_seed(11)
    AutoModel.from_config(AutoConfig.for_model(vocab_size=len(words), **tiny_config(4))).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="session")
def tiny_ranker(trunk, tmp_path_factory) -> str:
    """Folder of a tiny ranker."""
    from retort.students import save_student
    from retort.students.create import ranker

    path = tmp_path_factory.mktemp("rankers") / "tiny"
    save_student(ranker(trunk, layers=[0, 2], seed=3), path)
    return str(path)


@pytest.fixture(scope="session")
def sparse_student(trunk, tmp_path_factory) -> str:
    """Folder of a tiny sparse student."""
    from retort.students import save_student
    from retort.students.create import sparse

    path = tmp_path_factory.mktemp("sparse") / "tiny"
    model = sparse(trunk, layers=[0, 1], max_tokens={"query": 16, "document": 32})
    torch.nn.init.zeros_(model[0].model.get_output_embeddings().bias)  # of so few words more may get through
    save_student(model, path)
    return str(path)


@pytest.fixture(scope="session")
def image_student(tiny_student, tmp_path_factory) -> str:
    """Folder of a tiny student that reads texts and images of 16 pixels."""
    from retort.students import save_student
    from retort.students.create import image_text

    path = tmp_path_factory.mktemp("students") / "images"
    text = spec("pretrained", model=tiny_student) | {"frozen": True}
    save_student(image_text(text, {"config": TINY_VISION}, seed=3), path)
    return str(path)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A BEIR folder of 20 drawn shapes with a caption each, 4 of them for dev."""
    return write_pictures(tmp_path / "pictures")


@pytest.fixture(scope="session")
def other_student(tiny_model, tmp_path_factory) -> str:
    """Folder of a tiny student of the same dimension and another space."""
    from retort.students import save_student

    path = tmp_path_factory.mktemp("students") / "other"
    save_student(tiny_model(2), path)
    return str(path)


@pytest.fixture
def beir(tmp_path) -> Path:
    """A BEIR folder of 40 documents in 5 topics, 30 training and 10 dev queries."""
    return write_beir(tmp_path / "data")


@pytest.fixture
def pages(beir):
    """Documents of two sentences, with titles of two words."""
    records = [json.loads(line) for line in (beir / "corpus.jsonl").read_text().splitlines()]
    for i, record in enumerate(records):
        record["title"] = f"{record['title']} {record['text'].split()[1]}"
        record["text"] += f" a {'ship rose bread proof'.split()[i % 4]} is near the harbour with the captain."
    write_jsonl(beir / "corpus.jsonl", records)
    return beir


@pytest.fixture
def recipe_tree(tokenizer_path, tiny_student) -> dict:
    """A two-stage recipe over tiny models that uses every objective, dropout and a learned projection."""
    return two_stages(tokenizer_path, tiny_student)


@pytest.fixture
def prod_tree(recipe_tree, trunk) -> dict:
    """PROD over tiny models, see `prod_stages`."""
    return prod_stages(recipe_tree, trunk)


@pytest.fixture
def r2anker_tree(recipe_tree, prod_tree, sparse_student) -> dict:
    """R2ANKER over tiny models: a ranker of three retrievers' joint negatives, and a student of it over the same pool."""
    candidates = pool("bm25", "dense", "sparse", negatives=3, sampling="balanced")
    ranker = copy.deepcopy(prod_tree["teachers"]["ranker"])
    ranker["init_parameters"]["stages"][0]["candidates"] = candidates
    return recipe_tree | {
        "teachers": {"dense": recipe_tree["teachers"]["teacher"], "ranker": ranker},
        "candidates": {
            "bm25": recipe_tree["candidates"]["bm25"],
            "dense": spec("DenseMiner", model="dense", depth=6),
            "sparse": spec("SparseMiner", model=sparse_student, depth=6),
        },
        "stages": [
            stage(
                "distil",
                6,
                spec("ListwiseKL"),
                spec("Contrastive", weight=0.2),
                teacher="ranker",
                candidates=dict(candidates),
            )
        ],
    }


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny matrices gain nothing from threads, and lose much on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk():
    """What is written outlives a killed process anyway; test_files.py looks at what is on the disk when."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _each_graph_traced_once(tmp_path_factory, request):
    """Keep ONNX graphs for the whole session, and for all of its processes: a trace takes seconds."""
    from retort.students.backends import onnx

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(request.config, "workerinput") else base) / "traced"
    folder.mkdir(exist_ok=True)
    real = onnx._trace

    def trace(modules, output, path, inputs, modality):
        kept = folder / f"{traced_key(modules, output, inputs, modality)}.onnx"
        if kept.is_file():
            shutil.copyfile(kept, path)
            return
        real(modules, output, path, inputs, modality)
        aside = kept.with_suffix(f".{os.getpid()}")
        shutil.copyfile(path, aside)
        aside.replace(kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "_trace", trace)
        yield


def traced_key(modules, output, inputs, modality) -> str:
    """Hash all that decides a graph: inputs, code, settings and weights."""
    parts = [output, modality, [(name, str(value.dtype), tuple(value.shape)) for name, value in inputs.items()]]
    for place, top in enumerate(modules):
        top.eval()  # as tracing does
        for name, module in top.named_modules():
            settings = {key: value for key, value in vars(module).items() if key not in NOT_TRACED}
            config = getattr(module, "config", None)
            config = config.to_dict() if hasattr(config, "to_dict") else {}
            config.pop("_name_or_path", None)
            parts.append((place, name, type_name(module), plain(settings), plain(config)))
        for name, tensor in [*top.named_parameters(remove_duplicate=False), *top.named_buffers()]:
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            parts.append((name, str(tensor.dtype), tuple(tensor.shape), hashlib.sha256(content).hexdigest()))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


# Paths and lengths, and what torch itself looks after.
NOT_TRACED = {"name_or_path", "query_length", "document_length", "_parameters", "_buffers", "_modules", "config"}


def type_name(value) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def plain(value):
    """Give what two processes write alike; of other objects their type."""
    if isinstance(value, dict):
        return sorted((str(key), plain(inner)) for key, inner in value.items() if key != "_name_or_path")
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, set | frozenset):
        return sorted(str(plain(inner)) for inner in value)
    return value if value is None or isinstance(value, str | int | float) else type_name(value)


@pytest.fixture
def toy():
    """The methods' toy batch, with three teachers' scores."""
    return toy_batch()


@pytest.fixture
def list_tree(recipe_tree, tiny_ranker):
    """One stage over lists, with a bi-encoder (`teacher`) and a cross-encoder (`ranker`) as teachers."""
    tree = copy.deepcopy(recipe_tree)
    tree["teachers"]["ranker"] = spec("CrossEncoderTeacher", model=tiny_ranker, device="cpu")
    tree["training"] |= {"dropout": 0.0}
    candidates = pool("bm25", negatives=3)
    tree["stages"] = [stage("lists", 6, teacher="ranker", candidates=candidates)]
    return tree
