# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Chat over an index: passages by a student, an answer by any of Haystack's chat generators, streamed, with sources."""

import os

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")  # nothing here asks the network
os.environ.setdefault("TQDM_DISABLE", "1")

import argparse
import re
from pathlib import Path
from typing import Any

import yaml
from haystack import Pipeline
from haystack.dataclasses import ChatMessage, StreamingChunk

from retort.pipelines.load import pipeline_yaml

_PASSAGE = re.compile(r"^\[(\d+)\] (.*?)(?=^\[\d+\] |^Question: )", re.MULTILINE | re.DOTALL)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"\w+")
SENTENCES = 2


def repeat_the_best(messages: list[ChatMessage]) -> str:
    """Stand in for a language model: the sentences of the passages that share most words with the question."""
    prompt = messages[-1].text or ""
    asked = {w.lower() for w in _WORD.findall(prompt.rpartition("Question: ")[2])}
    found = []
    for number, passage in _PASSAGE.findall(prompt):
        for sentence in _SENTENCE.split(passage.strip()):
            words = {w.lower() for w in _WORD.findall(sentence)}
            found.append((len(asked & words) / (len(words) + 5), -int(number), " ".join(sentence.split())))
    best = sorted(found, reverse=True)[:SENTENCES]
    return " ".join(f"{sentence} [{-number}]" for _, number, sentence in best) or "The passages do not hold the answer."


def load(store: str, student: str, generator: Path | None) -> Pipeline:
    """Load `rag.yml`, bound to an index, with a generator in its place."""
    tree = yaml.safe_load(pipeline_yaml("rag", student=student, index=store))
    if generator is not None:
        tree["components"]["generator"] = yaml.safe_load(generator.read_text(encoding="utf-8"))
    pipeline = Pipeline.from_dict(tree)
    if generator is None:
        stand_in: Any = pipeline.get_component("generator")
        stand_in.response_fn = repeat_the_best
    return pipeline


def answer(pipeline: Pipeline, question: str) -> dict[str, Any]:
    """Print an answer as it comes, then the sources that it cites."""

    def show(chunk: StreamingChunk) -> None:
        print(chunk.content or "", end="", flush=True)

    inputs = {
        "embedder": {"text": question},
        "template": {"query": question},
        "generator": {"streaming_callback": show},
    }
    found = pipeline.run(inputs, include_outputs_from={"retriever"})
    text, passages = found["generator"]["replies"][0].text, found["retriever"]["documents"]
    cited = sorted({int(n) for n in re.findall(r"\[(\d+)\]", text) if 0 < int(n) <= len(passages)})
    print()
    for number in cited:
        meta = passages[number - 1].meta
        print(f"  [{number}] {meta.get('title') or meta.get('file_path')}")
    return {"text": text, "sources": [passages[number - 1].id for number in cited]}


def main(arguments: list[str] | None = None) -> None:
    """Answer one question, or talk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", nargs="?", help="without one, a conversation begins")
    parser.add_argument("--store", default="runs/quickstart/index", help="folder of the index, or URL of a collection")
    parser.add_argument("--student", default="runs/quickstart/student", help="the one that built the index")
    parser.add_argument("--generator", type=Path, default=None, help="YAML of a chat generator; default: a stand-in")
    given = parser.parse_args(arguments)
    pipeline = load(given.store, given.student, given.generator)
    if given.question:
        answer(pipeline, given.question)
    else:
        while question := input("\nyour question: ").strip():
            answer(pipeline, question)
    pipeline.close()


if __name__ == "__main__":
    main()
