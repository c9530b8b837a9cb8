# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""`retort ask`."""

import argparse
import json
from typing import Any

from retort.pipelines.indexing import built_by
from retort.pipelines.load import load_pipeline


def run(given: argparse.Namespace) -> None:
    """Answer a question from an index."""
    student = given.student or built_by(given.store)
    places = {"student": student, "index": given.store}
    pipeline = load_pipeline("extractive_qa", **places, trust_remote_code=given.trust_remote_code)
    found = ask(pipeline, given.question, top_k=given.top_k)
    pipeline.close()
    print(json.dumps(found, indent=2, ensure_ascii=False) if given.json else format_answers(found))


def ask(pipeline: Any, question: str, *, top_k: int = 3) -> dict[str, Any]:
    """
    Ask one question through `extractive_qa.yml`.

    :returns:
        `question`, `answers` (text, score, document, title, start, end), `best_score`, `documents` (id, title, score).
    """
    inputs = {"embedder": {"text": question}, "answerer": {"query": question, "top_k": top_k}}
    found = pipeline.run(inputs, include_outputs_from={"retriever"})
    answers = [
        {
            "text": " ".join(answer.data.split()),
            "score": round(answer.score, 4),
            "document": answer.document.id,
            "title": answer.document.meta.get("title") or answer.document.meta.get("file_path"),
            "start": answer.document_offset.start,
            "end": answer.document_offset.end,
        }
        for answer in found["answerer"]["answers"]
    ]
    documents = [
        {"id": d.id, "title": d.meta.get("title") or d.meta.get("file_path"), "score": round(d.score, 4)}
        for d in found["retriever"]["documents"]
    ]
    return {
        "question": question,
        "answers": answers,
        "best_score": round(found["answerer"]["best_score"], 4),
        "documents": documents,
    }


def format_answers(found: dict[str, Any]) -> str:
    """Format answers for a terminal."""
    if not found["answers"]:
        near = ", ".join(d["id"] for d in found["documents"][:3]) or "none"
        return f"No good answer (best score {found['best_score']:.2f}). Nearest documents: {near}"
    return "\n".join(
        f"[{i}] {a['text']}\n    {a['document']} ({a['start']}-{a['end']}), score {a['score']:.2f}"
        for i, a in enumerate(found["answers"], 1)
    )
