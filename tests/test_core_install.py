# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The core install serves: exported students run where nothing that training needs can be imported."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import WORDS, draw_shape

from retort.students import Ranker, Student, save_student
from retort.students.create import sparse, static
from retort.students.images import ImageFile
from retort.students.sparse import SparseStudent
from retort.trainers.evaluation.exports import export_student

SHAPES = ["bar", "circle", "cross", "square"]
TEXTS = [
    "what is bread",
    "the ship in the storm.",
    "bread",
    "",
    "  rose ",
    "Ünï\u0301cödé \u200b 漢字 🙂",
    "bread " * 60,
]


@pytest.fixture(scope="module")
def served(tiny_model, tiny_student, tiny_ranker, image_student, trunk, tmp_path_factory):
    """Folder of exported students of each kind, and what the process without training's packages got of them."""
    folder = tmp_path_factory.mktemp("served")
    lengths = {"query": 16, "document": 32}
    models = {
        "dense": tiny_model(1, layers=1, max_tokens=lengths, prompts={"query": "what ", "document": "the "}),
        "static": static(tiny_student),
        "sparse": sparse(trunk, layers=[0], seed=1, max_tokens=lengths),
    }
    for kind, model in models.items():
        save_student(model, folder / kind)
        export_student(folder / kind, precision="float32")
    for kind, ready in (("ranker", tiny_ranker), ("images", image_student)):
        shutil.copytree(ready, folder / kind)
        export_student(folder / kind, precision="float32")
    (folder / "shapes").mkdir()
    for shape in SHAPES:
        draw_shape(shape, "red").save(folder / "shapes" / f"{shape}.png")
    save_student(tiny_model(1), folder / "plain")
    (folder / "texts.json").write_text(json.dumps(TEXTS))
    (folder / "documents").mkdir()
    for i in range(3):
        (folder / "documents" / f"{i}.txt").write_text(f"The bread is here, number {i}. The ship is in the {WORDS[i]}.")
    program = Path(__file__).with_name("without_training.py")
    done = subprocess.run([sys.executable, program, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads((folder / "got.json").read_text())


@pytest.mark.parametrize("kind", ["dense", "static"])
def test_vectors(served, kind):
    folder, got = served
    student = Student.load(folder / kind, backend="torch", device="cpu")
    for side, vectors in zip(("query", "document"), got[kind], strict=True):
        np.testing.assert_allclose(vectors, student.encode(TEXTS, side), atol=1e-5)


def test_sparse_vectors(served):
    folder, got = served
    student = SparseStudent.load(folder / "sparse", backend="torch", device="cpu")
    for side, vectors in zip(("query", "document"), got["sparse"], strict=True):
        dense = np.zeros((len(TEXTS), student.dim))
        for row, (indices, values) in enumerate(vectors):
            dense[row, indices] = values
        np.testing.assert_allclose(dense, student.encode(TEXTS, side).toarray(), atol=1e-5)
        assert dense.any()


def test_a_ranker(served):
    folder, got = served
    wanted = Ranker.load(folder / "ranker", backend="torch", device="cpu").score([(TEXTS[0], t) for t in TEXTS])
    np.testing.assert_allclose(got["ranker"], wanted, atol=1e-5)


def test_answers(served):
    _, got = served
    assert "bread" in got["answers"]["answers"][0]["text"].lower()
    assert any("bread" in answer.lower() for answer in got["hybrid"])
    assert got["imported"] == []


def test_images(served):
    """Embedded by the component, indexed, asked for and shown small."""
    folder, got = served
    student = Student.load(folder / "images", backend="torch", device="cpu")
    vectors = student.encode_document([ImageFile(folder / "shapes" / f"{shape}.png") for shape in SHAPES])
    np.testing.assert_allclose(got["images"]["vectors"], vectors, atol=1e-5)
    wanted = [SHAPES[row] for row in np.argsort(-vectors @ student.encode_query(["what is bread"])[0])]
    assert [document["title"] for document in got["images"]["ranked"]] == wanted
    assert bytes.fromhex(got["images"]["preview"]).startswith(b"\xff\xd8\xff")


def test_what_is_missing_is_named_in_one_line(served):
    _, got = served
    plain, distill, train, typo, trainer = got["errors"]
    assert plain.startswith("Without torch only exports run")
    assert distill == "retort.distill needs accelerate: pip install 'retort-haystack[train]'"
    assert train == "retort: error: retort train needs torch: pip install 'retort-haystack[train]'\n"
    mend = "needs torch: pip install 'retort-haystack[train]'"
    assert typo == f"There is no folder 'runs/typo'. A model of the Hugging Face Hub {mend}"
    assert trainer == f"DistillationTrainer {mend}"
