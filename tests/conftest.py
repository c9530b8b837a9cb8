# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Tiny models and data, made on the spot: nothing is fetched, nothing is slow."""

import copy
import json
import os
from pathlib import Path

import pytest
import torch
from tiny import (
    TINY_VISION,
    TOPICS,
    WORDS,
    pool,
    recipe,
    spec,
    stage,
    tiny_config,
    toy_batch,
    write_jsonl,
    write_pictures,
    write_tokenizer,
)

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"


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
    folder = tmp_path / "data"
    (folder / "qrels").mkdir(parents=True)
    corpus, queries = [], []
    judged: dict[str, list[str]] = {"train": [], "dev": []}
    for t, (topic, words) in enumerate(TOPICS.items()):
        names = words.split()
        for i in range(8):
            chosen = " ".join(names[(i + k) % 10] for k in range(2 + i % 5))
            corpus.append({"_id": f"d{t}{i}", "title": topic, "text": f"the {chosen} in the {topic}."})
            query = {"_id": f"q{t}{i}", "text": f"what is the {names[i]} near the {topic}?"}
            queries.append(query)
            split = "dev" if i >= 6 else "train"
            judged[split].append(f"{query['_id']}\td{t}{i}\t1\n")
    write_jsonl(folder / "corpus.jsonl", corpus)
    write_jsonl(folder / "queries.jsonl", queries)
    for split, lines in judged.items():
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


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
    return recipe(
        student=spec("from_config", config=tiny_config(1, 8, 0.1), tokenizer=tokenizer_path, seed=5),
        teachers={"teacher": spec("BiEncoderTeacher", model=tiny_student, device="cpu")},
        candidates={"bm25": spec("BM25Miner", depth=6), "own": spec("DenseMiner", model="student", depth=6)},
        stages=[
            stage("align", 5, spec("Alignment", projection=True), batches="texts", teacher="teacher"),
            stage(
                "distil",
                7,
                spec("Alignment", projection=True, distance="mse"),
                spec("InBatchKL", weight=0.5),
                spec("ListwiseKL", weight=0.5, student_temperature=2.0),
                spec("Contrastive", scope="in_batch"),
                teacher="teacher",
                candidates=pool("bm25", "own", negatives=3),
            ),
        ],
        batch_size=4,
        evaluate_every=3,
        checkpoint_every=2,
        log_every=1,
        dev_queries=5,
        dev_documents=20,
    )


@pytest.fixture
def prod_tree(recipe_tree, trunk) -> dict:
    """PROD over tiny models: warm-up, a dual-encoder stage, a ranker trained on the way, a round that may be refreshed."""
    ranker = spec(
        "TrainedInRunRanker",
        student=spec("ranker", trunk=trunk, layers=[0]),
        training={"batch_size": 3, "dev_depth": 5},
        stages=[stage("rank", 4, spec("Contrastive", scope="list"), candidates=pool("own", negatives=2))],
    )
    loss = [
        spec("Contrastive", scope="list", weight=0.1),
        spec("ListwiseKL", student_temperature=4.0, weight=0.9),
        spec("AnchorKL", weight=1.0),
    ]
    return recipe_tree | {
        "teachers": {**recipe_tree["teachers"], "ranker": ranker},
        "stages": [
            stage(
                "dual",
                3,
                spec("InBatchKL", student_temperature=4.0),
                teacher="teacher",
                candidates=pool("bm25", negatives=1),
            ),
            stage("cross", 5, *loss, teacher="ranker", anchor="start", candidates=pool("own", negatives=3)),
            stage(
                "round",
                6,
                *loss,
                teacher="ranker",
                anchor="start",
                refresh=3,
                selector=spec("ConfusingQueries", rule="above", depth=30),
                candidates=pool("own", negatives=3, order="top"),
            ),
        ],
    }


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
