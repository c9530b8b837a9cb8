# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Encoding a corpus by onnxruntime, by torch, and by OpenVINO (`pip install openvino`) in all its precisions.

OpenVINO reads the exports as they are, and runs as many chunks at a time as it likes. The student needs both exports,
of texts of one tower. `similarity` is the cosine to the vectors in float32, of the worst document.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import runner

Encode = Callable[[list[str]], np.ndarray]


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=6)
    parser.add_argument("student", help="its folder")
    parser.add_argument("--documents", required=True, help="corpus.jsonl of a BEIR folder")
    parser.add_argument("--texts", type=runner.positive, default=500, help="encoded a round (default: %(default)s)")
    parser.add_argument("--chunk", type=runner.positive, default=1024, help="OpenVINO's tokens (default: %(default)s)")
    arguments = parser.parse_args()
    lines = Path(arguments.documents).read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines[:: max(1, len(lines) // arguments.texts)]][: arguments.texts]
    texts = [f"{record.get('title', '')} {record['text']}".strip() for record in records]
    encoders = engines(Path(arguments.student), arguments.chunk)
    exact = normalised(encoders["onnxruntime float32"](texts))

    def arm(encode: Encode) -> runner.Arm:
        def run(_: Any) -> dict[str, float]:
            started = time.perf_counter()
            vectors = encode(texts)
            rate = len(texts) / (time.perf_counter() - started)
            return {"documents_per_s": rate, "similarity": float((normalised(vectors) * exact).sum(1).min())}

        encode(texts[:32])
        return runner.Arm(run)

    runner.compare(
        {name: arm(encode) for name, encode in encoders.items()},
        arguments,
        baseline="onnxruntime int8",
        better={"documents_per_s": "higher"},
    )


def normalised(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def engines(folder: Path, chunk: int) -> dict[str, Encode]:
    from retort.students import Student

    def student(backend: str, precision: str) -> Encode:
        return Student.load(str(folder), backend=backend, precision=precision, device="cpu").encode_document

    return {
        "onnxruntime int8": student("onnx", "int8"),
        "onnxruntime float32": student("onnx", "float32"),
        "torch bf16": student("torch", "auto"),
        "openvino float32": openvino(folder, "float32", "f32", chunk),
        "openvino bf16": openvino(folder, "float32", "bf16", chunk),
        "openvino int8": openvino(folder, "int8", "f32", chunk),
    }


def openvino(folder: Path, export: str, precision: str, chunk: int) -> Encode:
    """Read an export by OpenVINO, for throughput: chunks of texts of like length, several at a time."""
    import openvino as ov
    from tokenizers import Tokenizer

    from retort.students import Manifest
    from retort.students.encoding import plan_chunks

    manifest = Manifest.read(folder)
    if manifest is None:
        msg = f"{folder} is no student."
        raise SystemExit(msg)
    place = folder / "onnx" / export
    core, options = ov.Core(), {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision}
    compiled = core.compile_model(core.read_model(place / "model.onnx"), "CPU", options)
    names = [next(iter(one.names)) for one in compiled.inputs]
    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(manifest.max_tokens["document"])
    prompt, dim = manifest.prompts["document"], manifest.dim

    def encode(texts: list[str]) -> np.ndarray:
        found = np.empty((len(texts), dim), dtype=np.float32)
        queue = ov.AsyncInferQueue(compiled)

        def keep(request: Any, rows: np.ndarray) -> None:
            found[rows] = request.get_output_tensor(0).data

        queue.set_callback(keep)
        encoded = tokenizer.encode_batch_fast([prompt + text for text in texts])
        for rows in plan_chunks(np.array([len(one.ids) for one in encoded]), chunk):
            ids = np.zeros((len(rows), max(len(encoded[row].ids) for row in rows)), dtype=np.int64)
            mask = np.zeros_like(ids)
            for at, row in enumerate(rows):
                ids[at, : len(encoded[row].ids)] = encoded[row].ids
                mask[at, : len(encoded[row].ids)] = 1
            feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            queue.start_async({name: feeds[name] for name in names}, rows)
        queue.wait_all()
        return found

    return encode


if __name__ == "__main__":
    main()
