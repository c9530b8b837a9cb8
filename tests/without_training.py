# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Index, search and answer in a process that cannot import what training needs: `without_training.py FOLDER`."""

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

BLOCKED = {
    "accelerate", "bm25s", "datasets", "evaluate", "ir_measures", "onnx", "onnxscript", "pandas", "pyarrow", "scipy",
    "sentence_transformers", "sklearn", "Stemmer", "torch", "transformers",
}  # fmt: skip


def error(run: Callable[[], object]) -> str:
    """Run what fails, and give its message; of a command what it printed."""
    with redirect_stderr(StringIO()) as printed:
        try:
            run()
        except (ValueError, ImportError, OSError) as error:
            return str(error)
        except SystemExit:
            return printed.getvalue()
    return ""


def main(folder: Path) -> None:
    """Write what was got to `got.json`."""
    sys.modules |= dict.fromkeys(BLOCKED)  # `import` and `find_spec` then find nothing
    from haystack import Document

    import retort
    from haystack_integrations.components.embedders.retort import (
        StudentDocumentImageEmbedder,
        StudentMultiViewDocumentEmbedder,
        StudentTextEmbedder,
    )
    from haystack_integrations.components.trainers.retort import DistillationTrainer
    from retort.cli import main as command
    from retort.pipelines.load import load_pipeline
    from retort.serving.engine import Engine
    from retort.serving.previews import preview_of
    from retort.students import Ranker, Student
    from retort.students.sparse import SparseStudent, largest

    def output(*words: str) -> str:
        with redirect_stdout(StringIO()) as out:
            status = command([*words])
        assert not status, (words, status)
        return out.getvalue()

    texts = json.loads((folder / "texts.json").read_text())
    got: dict[str, object] = {}
    for kind in ("dense", "static"):
        student = Student.load(folder / kind)
        got[kind] = [student.encode(texts, side).tolist() for side in ("query", "document")]
    sparse = SparseStudent.load(folder / "sparse")
    got["sparse"] = [largest(sparse.encode_rows(texts, side), None) for side in ("query", "document")]
    got["ranker"] = Ranker.load(folder / "ranker").score([(texts[0], text) for text in texts]).tolist()
    views = StudentMultiViewDocumentEmbedder(model=folder / "dense")
    got["views"] = views.run(documents=[Document(content=text) for text in texts])["documents"][0].embedding
    index, dense, sparse_folder = (str(folder / name) for name in ("index", "dense", "sparse"))
    output("index", dense, "--documents", str(folder / "documents"), "--sparse", sparse_folder, "--store", index)
    got["answers"] = json.loads(output("ask", "what is bread", "--store", index, "--json"))
    pipeline = load_pipeline(
        "hybrid_qa", student=dense, sparse=sparse_folder, ranker=str(folder / "ranker"), index=index
    )
    question = {name: {"text": "what is bread"} for name in ("embedder", "sparse_embedder")}
    result = pipeline.run(question | {name: {"query": "what is bread"} for name in ("ranker", "answerer")})
    got["hybrid"] = [answer.data for answer in result["answerer"]["answers"]]
    images, pictures, shapes = str(folder / "images"), str(folder / "pictures"), folder / "shapes"
    embedder = StudentDocumentImageEmbedder(model=images, root_path=shapes)
    documents = [Document(meta={"file_path": path.name}) for path in sorted(shapes.iterdir())]
    seen = {"vectors": [document.embedding for document in embedder.run(documents=documents)["documents"]]}
    output("index", images, "--documents", str(shapes), "--store", pictures)
    asking = ("ask", "what is bread", "--store", pictures, "--json", "--top-k", "4")
    seen["ranked"] = json.loads(output(*asking))["documents"]
    engine = Engine(images, pictures)
    small = preview_of(engine.document("circle.png").meta)
    seen["preview"] = small.data.hex()
    engine.close()
    got["images"] = seen
    got["errors"] = [error(lambda: Student.load(folder / "plain")), error(lambda: retort.distill)]
    got["errors"].append(error(lambda: command(["train", "--recipe", "kd", "--data", "x", "--out", str(folder / "y")])))
    got["errors"].append(error(lambda: StudentTextEmbedder(model="runs/typo").run(text="a")))
    got["errors"].append(error(lambda: DistillationTrainer().run(documents=[Document(content="a")])))
    got["imported"] = sorted(name for name in BLOCKED if sys.modules[name] is not None)
    (folder / "got.json").write_text(json.dumps(got))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
