# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The shipped pipelines over HTTP: one real `hayhooks run` for all tests of this file."""

import inspect
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import yaml
from haystack import Document, Pipeline
from haystack.utils import Secret
from tiny import MINILM, draw_shape, write_jsonl

from haystack_integrations.components.rankers.retort import StudentRanker
from retort.pipelines.load import IMAGE_STUDENT, INDEX, RANKER, SPARSE, STUDENT, pipeline_yaml
from retort.serving.app import RUN_FIELDS
from retort.serving.pipelines import ExtractiveQa, Search
from retort.students import Student, save_student
from retort.students.create import ranker, sparse
from retort.students.files import resolve_model
from retort.students.images import ImageFile
from retort.workflows import index_documents

pytestmark = pytest.mark.integration

PIPELINES = Path(__file__).parent.parent / "pipelines"
READY_WITHIN = 60
PASSAGES = {
    "badge": "Lost badges are replaced at the reception desk on the ground floor. Bring an identity card.",
    "parking": "Visitors leave their cars on level two of the garage. Level one is kept for electric vehicles.",
    "lunch": "The canteen serves warm meals between half past eleven and two o'clock.",
    "vacation": "Employees have thirty days of paid leave a year. Ask your manager two weeks ahead.",
    "sickness": "Whoever falls ill tells the team before nine in the morning. A doctor's note is due on day three.",
    "printer": "Colour pages are printed on the third floor. Paper is kept in the cupboard beside the machine.",
    "password": "A password has sixteen characters at least. It is changed by the form on the intranet.",
    "laptop": "Broken laptops are taken to the help desk, which lends another one for the time of the repair.",
    "travel": "Train tickets are booked by the assistants. Flights need the consent of the head of department.",
    "expenses": "Receipts are handed in by the fifth of the following month to be paid back with the wages.",
    "fire": "When the alarm sounds, take the stairs and gather at the fountain. Lifts stand still.",
    "visitors": "Guests sign the book at the entrance and are fetched by their host.",
    "meeting": "Rooms are reserved in the calendar. Those that stay empty for ten minutes are given away.",
    "bicycle": "Bicycles stand in the courtyard. A pump hangs beside the door of the cellar.",
    "gym": "The gym in the basement opens at six. Showers close at ten in the evening.",
    "training": "Each colleague may choose two courses a year from the catalogue of the academy.",
    "remote": "Two days a week may be worked from home, once the trial period is over.",
    "library": "Books are lent for four weeks. The reading room is silent.",
    "garden": "Herbs on the roof terrace may be picked by everybody. The beds are watered by volunteers.",
    "mail": "Parcels wait in the mail room until noon. Private ones are not accepted.",
}
SHAPES = ["circle", "square", "cross"]
QUESTIONS = {
    "Where do I get a new badge?": "badge",
    "How many days of paid leave do employees have?": "vacation",
    "How long must my password be?": "password",
    "Where do we gather when the fire alarm sounds?": "fire",
}


class Server:
    """A running `hayhooks`."""

    def __init__(self, port: int, place: Path) -> None:
        self.place = place
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)

    def get(self, path: str) -> dict:
        return self.client.get(path).json()

    def run(self, name: str, **body) -> dict:
        """The outputs by component, or `status` and `detail` of a failure. Hayhooks wants every declared input."""
        if "query" in body:
            body = {"filters": None, "top_k": None} | body
        answer = self.client.post(f"{name}/run", json=body)
        found = answer.json()
        return found["result"] if answer.is_success else {"status": answer.status_code, "detail": found["detail"]}


@pytest.fixture(scope="module")
def ranker_folder(tmp_path_factory) -> str:
    """Two layers of MiniLM under a head that has learnt the four answers by heart."""
    started = ranker(resolve_model(MINILM), layers=[0, 1], seed=3)
    encoder, classifier = started.model.bert, started.model.classifier
    pairs = [(question, text) for question in QUESTIONS for text in PASSAGES.values()]
    tokens = started.tokenizer(*map(list, zip(*pairs, strict=True)), padding=True, return_tensors="pt")
    right = torch.tensor([[*PASSAGES].index(name) for name in QUESTIONS.values()])
    with torch.no_grad():
        states = encoder(**tokens).last_hidden_state
    optimizer = torch.optim.AdamW([*encoder.pooler.parameters(), *classifier.parameters()], lr=3e-3)
    for _ in range(300):
        scores = classifier(encoder.pooler(states)).view(len(QUESTIONS), -1)
        loss = torch.nn.functional.cross_entropy(scores, right)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("ranker") / "student"
    save_student(started, path)
    return str(path)


@pytest.fixture(scope="module")
def server(tmp_path_factory, ranker_folder, image_student):
    """`hayhooks run` where the quickstart was run: all that ships, and three pipelines to places where nothing is."""
    place = tmp_path_factory.mktemp("place")
    # Hayhooks writes into the folder that it serves, hence a copy.
    shutil.copytree(PIPELINES, place / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
    for name, lost in {"student": STUDENT, "index": INDEX, "ranker": RANKER}.items():
        text = pipeline_yaml("retrieve_and_rank", **{name: lost.replace("runs", "lost")})
        (place / "pipelines" / f"no_{name}.yml").write_text(text)
    sparse_student = place / "sparse"
    save_student(sparse(MINILM, layers=[0, 5]), sparse_student)
    trained = {resolve_model(MINILM): STUDENT, ranker_folder: RANKER, sparse_student: SPARSE}
    trained |= {image_student: IMAGE_STUDENT}
    for model, path in trained.items():
        (place / path).parent.mkdir(parents=True)
        (place / path).symlink_to(model, target_is_directory=True)
    (place / "photos").mkdir()
    for shape in SHAPES:
        draw_shape(shape, "red").save(place / "photos" / f"{shape}.png")
    draw_shape("bar", "red").save(place.parent / "outside.png")
    (place / "data").mkdir()
    write_jsonl(place / "data" / "corpus.jsonl", [{"_id": i, "title": "", "text": t} for i, t in PASSAGES.items()])
    index_documents(str(place / STUDENT), place / "data", place / INDEX, sparse=str(place / SPARSE))

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "hayhooks"), "run", "--host", "127.0.0.1", "--port", str(port)]
    with (place / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=place, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "2"}
        )
        try:
            running = Server(port, place)
            _wait(running, process, place / "log")
            yield running
        finally:
            process.kill()
            process.wait()


def _wait(server: Server, process: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + READY_WITHIN
    while time.monotonic() < until and process.poll() is None:
        try:
            server.get("status")
        except httpx.TransportError:
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"hayhooks did not start within {READY_WITHIN} s:\n{log.read_text()}")


def test_every_pipeline_is_served(server):
    shipped = {path.stem for path in PIPELINES.glob("*.yml")}
    assert shipped >= {
        "image_search",
        "indexing_images",
        "indexing",
        "indexing_hybrid",
        "extractive_qa",
        "hybrid_qa",
        "rag",
        "retrieve_and_rank",
    }
    assert set(server.get("status")["pipelines"]) == shipped | {"no_student", "no_index", "no_ranker"}


@pytest.mark.parametrize(("question", "expected"), QUESTIONS.items())
def test_extractive_qa(server, question, expected):
    found = server.run("extractive_qa", query=question)
    assert found["retriever"]["documents"][0]["id"] == expected
    answer = found["answerer"]["answers"][0]
    assert answer["document"]["id"] == expected
    assert answer["data"] in PASSAGES[expected]
    assert answer["score"] == found["answerer"]["best_score"]


@pytest.mark.parametrize(("question", "expected"), QUESTIONS.items())
def test_rag(server, question, expected):
    """The generator that ships repeats the prompt."""
    found = server.run("rag", query=question)
    documents = found["retriever"]["documents"]
    assert documents[0]["id"] == expected
    prompt = found["generator"]["replies"][0]["_content"][0]["text"]
    assert prompt.rstrip().endswith(f"Question: {question}")
    places = [prompt.index(f"[{n}] {document['content']}") for n, document in enumerate(documents, 1)]
    assert places == sorted(places)


@pytest.mark.parametrize(("question", "expected"), QUESTIONS.items())
def test_retrieve_and_rank(server, ranker_folder, question, expected):
    documents = server.run("retrieve_and_rank", query=question)["ranker"]["documents"]
    assert documents[0]["id"] == expected
    passages = [Document(id=name, content=text) for name, text in PASSAGES.items()]
    best = StudentRanker(model=ranker_folder, top_k=10).run(query=question, documents=passages)["documents"]
    assert [document["score"] for document in documents] == pytest.approx([d.score for d in best], abs=1e-4)


@pytest.mark.parametrize(("question", "expected"), QUESTIONS.items())
def test_hybrid_qa(server, question, expected):
    """Both rankings are fused: the retriever's scores are sums of two between 0 and 1, each of which it found."""
    found = server.run("hybrid_qa", query=question)
    assert found["ranker"]["documents"][0]["id"] == expected
    assert found["answerer"]["answers"][0]["data"] in PASSAGES[found["answerer"]["answers"][0]["document"]["id"]]
    fused = {document["id"]: document["score"] for document in found["retriever"]["documents"]}
    assert len(fused) == len(PASSAGES)
    assert 1 < fused[expected] <= 2


@pytest.mark.parametrize(
    ("name", "component", "output"),
    [
        ("search", "searcher", "documents"),
        ("rag", "retriever", "documents"),
        ("retrieve_and_rank", "ranker", "documents"),
        ("extractive_qa", "answerer", "answers"),
        ("hybrid_qa", "answerer", "answers"),
    ],
)
def test_filters_and_top_k_are_inputs(server, name, component, output):
    """`top_k` bounds what comes out: documents, passages for the model, or answers."""
    question, expected = next(iter(QUESTIONS.items()))
    filters = {"field": "id", "operator": "in", "value": ["vacation", expected]}
    found = server.run(name, query=question, filters=filters, top_k=1)
    assert len(found[component][output]) == 1
    everything = {d["id"] for part in found.values() for d in part.get("documents", [])}
    everything |= {a["document"]["id"] for a in found.get("answerer", {}).get("answers", [])}
    assert expected in everything <= {"vacation", expected}
    assert len(server.run(name, query=question)[component][output]) > 1


def test_the_fields_that_a_body_may_have():
    """`Guards` refuses others, before Hayhooks drops them."""
    for wrapper in (Search, ExtractiveQa):
        assert tuple(inspect.signature(wrapper.run_api_async).parameters)[1:] == RUN_FIELDS


def test_many_at_once(server):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda question: server.run("rag", query=question), [*QUESTIONS] * 4))
    assert [one["retriever"]["documents"][0]["id"] for one in found] == [*QUESTIONS.values()] * 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_student", "No model at 'lost/quickstart/student'"),
        ("no_index", "There is no index at lost/quickstart/index. Build it with: retort index"),
        ("no_ranker", "No model at 'lost/ranker/student'"),
    ],
)
def test_what_is_missing_is_named_by_the_request(server, name, message):
    found = server.run(name, query="Where is the pump?")
    assert found["status"] == 500
    assert message in found["detail"]


def test_the_generator_that_the_comment_names():
    """The lines of rag.yml's comment, put in the place of the stand-in, make a pipeline; no key is needed to load it."""
    text = (PIPELINES / "rag.yml").read_text()
    tree = yaml.safe_load(text)
    comment = "\n".join(re.findall(r"^    #   (.*)$", text, re.MULTILINE))
    tree["components"]["generator"] = yaml.safe_load(comment)
    generator = Pipeline.loads(yaml.safe_dump(tree)).get_component("generator")
    assert type(generator).__name__ == "OpenAIChatGenerator"
    assert generator.api_key == Secret.from_env_var("OPENAI_API_KEY")


def test_images(server, image_student):
    """Paths arrive as JSON, those out of the folder that it was started in are left out; texts find them."""
    paths = [*(f"photos/{shape}.png" for shape in SHAPES), "photos/../../outside.png"]
    result = server.run("indexing_images", sources=paths)
    assert result["writer"]["documents_written"] == len(SHAPES)
    (skipped,) = result["embedder"]["skipped"]
    assert "leads out of" in skipped["meta"]["embedding_error"]
    student = Student.load(image_student)
    vectors = student.encode_document([ImageFile(server.place / path) for path in paths[:-1]])
    order = np.argsort(-vectors @ student.encode_query(["a red cross"])[0])
    ranked = server.run("image_search", query="a red cross")["searcher"]["documents"]
    assert [document["meta"]["file_path"] for document in ranked] == [paths[row] for row in order]
    assert len(server.run("image_search", query="a red cross", top_k=1)["searcher"]["documents"]) == 1


def test_indexing(server):
    """Documents arrive as JSON; the other pipelines of the process find them at once. The last test: it adds one."""
    document = {"id": "sauna", "content": "The sauna is heated on Fridays from five o'clock."}
    assert server.run("indexing", documents=[document])["writer"]["documents_written"] == 1
    found = server.run("extractive_qa", query="When is the sauna heated?")
    assert found["answerer"]["answers"][0]["document"]["id"] == "sauna"
