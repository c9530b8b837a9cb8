# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Previews of images over HTTP: nothing but the indexed ones; and the page in a real browser."""

import io
import os
import shutil
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import test_serve
from PIL import Image
from test_images import tiny_clip
from tiny import draw_shape

from haystack_integrations.document_stores.retort import QdrantEdgeDocumentStore
from retort.indexes import index_documents
from retort.serving import previews
from retort.students import IMAGE_STAMP, Student
from retort.students.images import ImageFile

browser = test_serve.browser  # a fixture
KEY = "a-key-of-the-tests"
FORMATS = ("png", "jpg", "webp", "gif", "bmp", "tif")
NAMES = [f"big/{shape}.{suffix}" for suffix, shape in zip(FORMATS, ("circle", "square", "cross") * 2, strict=True)]
MISSING = {"detail": "There is no preview of such a document."}


@pytest.fixture(scope="module")
def built(image_student, tmp_path_factory):
    """A folder of images of all formats, 800 pixels wide, and its index."""
    place = tmp_path_factory.mktemp("built")
    (place / "photos" / "big").mkdir(parents=True)
    for name in NAMES:
        wide = draw_shape(name.split("/")[1].split(".")[0], "red", size=800).crop((0, 200, 800, 600))
        wide.save(place / "photos" / name)
    Image.new("RGBA", (40, 20), (0, 0, 255, 0)).save(place / "photos" / "clear <b>.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    draw_shape("circle", "red", 64).crop((0, 0, 64, 32)).save(place / "photos" / "turned.jpg", exif=exif)
    index_documents(image_student, place / "photos", place / "index")
    shutil.copytree(place / "photos", place / "before")
    return place


@pytest.fixture
def place(built):
    """The folder, as it was when it was indexed; what a test changes of it is put back."""
    previews._made.cache_clear()
    yield built
    shutil.rmtree(built / "photos")
    shutil.copytree(built / "before", built / "photos")


@pytest.fixture(scope="module")
def served(built, image_student):
    from retort.serving.app import Serving
    from retort.serving.engine import Engine

    served = Serving(Engine(image_student, str(built / "index")))
    yield served
    served.close()


@pytest.fixture(scope="module")
def app(served):
    from retort.serving.app import create_app

    return create_app(served)


@pytest.fixture
def client(app, place):
    from starlette.testclient import TestClient

    return TestClient(app)


@pytest.fixture
def edit(place):
    """Changes what the index says of an image, as somebody else's index may; it is put back."""
    before = []

    def changed(name: str, **stamp) -> None:
        with closing(QdrantEdgeDocumentStore(path=str(place / "index"), return_embedding=True)) as store:
            before.extend(store.get_documents_by_id([name]))
            meta = {**before[-1].meta, IMAGE_STAMP: before[-1].meta[IMAGE_STAMP] | stamp}
            store.write_documents([replace(before[-1], meta=meta)])

    yield changed
    with closing(QdrantEdgeDocumentStore(path=str(place / "index"))) as store:
        store.write_documents(before)


def get(client, name: str, **options):
    return client.get("/preview", params={"id": name}, **options)


def image_of(response) -> Image.Image:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/jpeg"
    return Image.open(io.BytesIO(response.content))


class TestPreviews:
    @pytest.mark.parametrize("name", NAMES)
    def test_small_jpegs_of_all_formats(self, client, name):
        small = image_of(get(client, name))
        assert (small.format, small.size) == ("JPEG", (320, 160))
        red = np.asarray(small.convert("RGB"))[80, 160]
        assert red[0] > 180
        assert red[1:].max() < 90

    def test_small_ones_stay_small_and_clear_ones_become_white(self, client):
        small = image_of(get(client, "clear <b>.png"))
        assert small.size == (40, 20)
        assert small.getpixel((5, 5)) == (255, 255, 255)

    def test_turned_ones_are_upright(self, client):
        assert image_of(get(client, "turned.jpg")).size == (32, 64)

    def test_headers(self, client, place):
        first = get(client, NAMES[0])
        page = client.get("/")
        for name in ("content-security-policy", "x-content-type-options", "referrer-policy", "x-frame-options"):
            assert first.headers[name] == page.headers[name]
        assert first.headers["x-content-type-options"] == "nosniff"
        assert first.headers["cross-origin-resource-policy"] == "same-origin"
        assert first.headers["cache-control"].startswith("private, max-age=")
        again = get(client, NAMES[0], headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
        assert get(client, NAMES[1]).headers["etag"] != first.headers["etag"]
        assert ImageFile(place / "photos" / NAMES[0]).item.hex() not in str(first.headers)  # it is the index's own

    @pytest.mark.parametrize(
        "name",
        [
            "unknown", "", "../secret.png", "big/../../secret.png", "/etc/passwd", "big", "big/../" + NAMES[0], "\0",
            "%2e%2e/secret.png", "x" * 4000, "clear%20%3Cb%3E.png", "photos/" + NAMES[0], "*", '{"field": "id"}',
        ],
    )  # fmt: skip
    def test_unknown_ids(self, client, place, name):
        """What a request says is looked up, and never a part of a path."""
        draw_shape("bar", "green").save(place / "secret.png")
        draw_shape("bar", "green").save(place / "photos" / "unknown", "PNG")
        response = get(client, name)
        assert (response.status_code, response.json()) == (404, MISSING)

    def test_ids_that_are_too_long_or_none(self, client):
        assert get(client, "x" * 5000).status_code == 422
        assert client.get("/preview").status_code == 422
        assert client.get("/preview?id=%ff%fe%ed%a0%80").status_code == 404
        assert client.get("/preview", params={"id": NAMES[0], "other": "true"}).status_code == 404  # there is no other
        assert client.post("/preview", params={"id": NAMES[0]}).status_code == 405

    @pytest.mark.parametrize(
        "content",
        [
            b"", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
            b"<!doctype html><script>alert(1)</script>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"GIF89a",
            b"P6 1 1 255 \xff\x00\x00",  # Pillow would read it
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("known", [False, True])
    def test_a_file_that_is_no_image_any_more(self, client, place, edit, content, known):
        """Also where the index itself, which may come from anybody, names the key of these bytes."""
        (place / "photos" / NAMES[0]).write_bytes(content)
        if known:
            edit(NAMES[0], item=ImageFile(place / "photos" / NAMES[0]).item.hex())
        response = get(client, NAMES[0])
        assert (response.status_code, response.json()) == (404, MISSING)
        assert get(client, NAMES[1]).status_code == 200

    def test_another_image_than_the_indexed_one(self, client, place, edit):
        path = place / "photos" / NAMES[0]
        before = get(client, NAMES[0]).content
        draw_shape("bar", "green", 800).save(path)
        os.utime(path, (1, 1))
        assert get(client, NAMES[0]).status_code == 404
        edit(NAMES[0], item=ImageFile(path).item.hex())
        assert image_of(get(client, NAMES[0])).size == (320, 320)
        assert get(client, NAMES[0]).content != before

    def test_a_removed_file(self, client, place):
        (place / "photos" / NAMES[0]).unlink()
        assert get(client, NAMES[0]).status_code == 404
        (place / "photos" / NAMES[0]).mkdir()
        assert get(client, NAMES[0]).status_code == 404

    @pytest.mark.parametrize("above", [False, True])
    def test_a_link_out_of_the_folder(self, client, place, tmp_path, above):
        """The same bytes: a link in the file's place, or in that of the folder that it is in."""
        path = place / "photos" / NAMES[0]
        kept = shutil.copy(path, tmp_path / path.name)
        if above:
            shutil.rmtree(path.parent)
            path.parent.symlink_to(tmp_path)
        else:
            path.unlink()
            path.symlink_to(kept)
        assert path.read_bytes()
        response = get(client, NAMES[0])
        assert (response.status_code, response.json()) == (404, MISSING)

    def test_a_link_within_the_folder(self, client, place):
        path = place / "photos" / NAMES[0]
        path.rename(place / "photos" / "moved.png")
        path.symlink_to("../moved.png")
        assert get(client, NAMES[0]).status_code == 200

    @pytest.mark.parametrize(
        "stamp",
        [
            {"file": "../secret.png"}, {"file": "big/../../secret.png"}, {"file": "{place}/secret.png"}, {"file": ""},
            {"file": "\0"}, {"file": "x" * 300}, {"root": ""}, {"root": "."}, {"root": "{place}/gone"}, {"file": 5},
            {"root": ["{place}"]}, {"item": None}, {"item": ""}, {"root": "{place}/secret.png", "file": "."},
        ],
    )  # fmt: skip
    def test_an_index_that_names_other_files(self, client, place, edit, stamp, monkeypatch):
        """Even where it knows their bytes."""
        monkeypatch.chdir(place)
        draw_shape("bar", "green").save(place / "secret.png")
        item = {"item": ImageFile(place / "secret.png").item.hex()} if "item" not in stamp else {}
        filled = {k: v.format(place=place) if isinstance(v, str) else v for k, v in stamp.items()}
        if filled.get("root") not in (None, ""):
            filled = {"file": "secret.png"} | filled
        edit(NAMES[0], **item, **filled)
        response = get(client, NAMES[0])
        assert (response.status_code, response.json()) == (404, MISSING)

    def test_too_many_pixels(self, client, monkeypatch):
        monkeypatch.setattr(previews, "MAX_PIXELS", 800 * 400 - 1)
        assert get(client, NAMES[0]).status_code == 404
        monkeypatch.setattr(previews, "MAX_PIXELS", 800 * 400)
        previews._made.cache_clear()
        assert get(client, NAMES[0]).status_code == 200

    def test_made_once(self, client, monkeypatch):
        first = get(client, NAMES[0]).content
        monkeypatch.setattr(previews, "_jpeg", None)
        assert get(client, NAMES[0]).content == first

    def test_no_pillow(self, client, monkeypatch):
        monkeypatch.setitem(sys.modules, "PIL", None)
        response = get(client, NAMES[0])
        assert (response.status_code, response.json()["detail"]) == (
            501,
            "A preview needs Pillow: pip install 'retort-haystack[images]'",
        )

    def test_the_index_is_gone(self, client, served, monkeypatch):
        monkeypatch.setattr(served.engine, "store", "nowhere")
        assert get(client, NAMES[0]).status_code == 503

    def test_a_key(self, served, place):
        from starlette.testclient import TestClient

        from retort.serving.app import create_app

        client = TestClient(create_app(served, api_key=KEY))
        assert get(client, NAMES[0]).status_code == 401
        assert get(client, NAMES[0], headers={"authorization": f"Bearer {KEY}"}).status_code == 200

    def test_another_index_beside_it(self, client, served, monkeypatch):
        monkeypatch.setattr(served, "other", served.engine)
        assert client.get("/preview", params={"id": NAMES[0], "other": "true"}).status_code == 200

    def test_a_document_that_is_a_text(self, place):
        assert previews.preview_of({}) is None
        assert previews.preview_of({"file_path": str(place / "photos" / NAMES[0]), IMAGE_STAMP: "x"}) is None


class TestAsking:
    def test_events_pipelines_and_chat(self, client, place, image_student):
        student = Student.load(image_student)
        ids = [*NAMES, "clear <b>.png", "turned.jpg"]
        vectors = student.encode_document([ImageFile(place / "photos" / name) for name in ids])
        scores = dict(zip(ids, (vectors @ student.encode_query(["the ship"])[0]).tolist(), strict=True))
        events = client.post("/ask", json={"question": "the ship"}).text
        assert events.count('"event": "answer"') == 0
        assert '"images": true' in events
        result = client.post("/search/run", json={"query": "the ship"}).json()["result"]["searcher"]["documents"]
        assert {d["id"] for d in result} == set(ids)
        assert [scores[d["id"]] for d in result] == pytest.approx(sorted(scores.values(), reverse=True), abs=1e-3)
        read = client.post("/extractive_qa/run", json={"query": "the ship"}).json()["result"]
        assert read["answerer"] == {"answers": [], "best_score": pytest.approx(result[0]["score"])}
        chat = {"model": "chat", "messages": [{"role": "user", "content": "the ship"}], "top_k": 2}
        response = client.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]["content"]
        assert [line.split("(")[1] for line in response.splitlines()] == [f"{d['id']})" for d in result[:2]]
        for text in (events, str(result), str(read), response, client.get("/settings").text):
            assert "_retort_" not in text
            assert str(place) not in text

    def test_no_image_is_said_in_a_chat(self, client):
        chat = {"model": "chat", "messages": [{"role": "user", "content": "the ship"}], "filters": ["title=nothing"]}
        response = client.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]["content"]
        assert response == "There is no such image."


@pytest.fixture
def running(served, place):
    """Starts a server in a thread: its URL."""
    import uvicorn

    from retort.serving.app import create_app

    started = []

    def start(**options) -> str:
        config = uvicorn.Config(create_app(served, **options), port=0, log_level="error", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        started.append((server, thread))
        while not server.started:
            time.sleep(0.02)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield start
    for server, thread in started:
        server.should_exit = True
        thread.join(30)


def wait_for_images(page) -> None:
    """Not by `wait_for_function`: the page's policy forbids what it does."""
    until = time.monotonic() + 20
    while not page.locator(".images img").evaluate_all("all => all.every((i) => i.naturalWidth > 0)"):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_texts_of_a_model_of_images_are_answered_from(tokenizer_path, tmp_path):
    """A CLIP, of one module for both, alone does not say what was indexed."""
    from haystack import Document

    from haystack_integrations.components.embedders.retort import StudentDocumentEmbedder
    from retort.serving.engine import Engine

    model = str(tiny_clip(tokenizer_path, tmp_path / "clip"))
    texts = [Document(id="1", content="Roses are red."), Document(id="2", content="The sea is blue.")]
    with closing(QdrantEdgeDocumentStore(path=str(tmp_path / "index"))) as store:
        engine = Engine(model, str(tmp_path / "index"))
        assert engine.shows_images  # nothing is there yet
        store.write_documents(StudentDocumentEmbedder(model=model).run(texts)["documents"])
    assert not engine.shows_images
    first, *_ = engine.answer("What is red?")
    assert not first["images"]
    assert {passage["text"] for passage in first["passages"]} == {text.content for text in texts}
    engine.close()


class TestPage:
    @pytest.mark.parametrize(("width", "columns"), [(1280, 7), (390, 2)])
    def test_a_grid_of_previews(self, browser, running, place, width, columns):
        from playwright.sync_api import expect

        (place / "photos" / NAMES[0]).write_text("no image")
        page = browser.new_page(viewport={"width": width, "height": 800})
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(running())
        expect(page.get_by_role("heading", level=1)).to_have_text("Find images")
        page.keyboard.type("a red cross")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_text("8 images, best first.")
        expect(page.locator(".images li")).to_have_count(8)
        for item in page.locator(".images li").all():
            item.scroll_into_view_if_needed()
        expect(page.locator(".images .missing")).to_have_count(1)
        expect(page.locator(".images .missing")).to_have_attribute("aria-label", "circle, no preview")
        wait_for_images(page)
        alternatives = page.locator(".images img").evaluate_all("all => all.map((i) => i.alt)")
        assert sorted(alternatives) == sorted(["clear <b>", "turned", "circle", "square", "square", "cross", "cross"])
        assert page.locator(".images b").count() == 0  # a name is text
        boxes = page.locator(".images figure > :first-child").evaluate_all(
            "all => all.map((i) => { const b = i.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })"
        )
        tops = [round(top) for _, top, _, _ in boxes]
        assert tops.count(min(tops)) == columns
        assert all(abs(w - h) < 1 and w > 100 for _, _, w, h in boxes)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator(".none").is_hidden()
        assert page.locator(".answers li, .passages li").count() == 0
        page.get_by_text("Only some documents").click()
        page.get_by_label("Conditions").fill("title=nothing")
        page.get_by_role("button", name="Ask").click()
        expect(page.get_by_role("status")).to_have_text("No image.")
        expect(page.locator(".none")).to_have_text("There is no such image.")
        assert errors == []
        page.close()

    def test_with_a_key(self, browser, running):
        from playwright.sync_api import expect

        page = browser.new_page()
        page.goto(running(api_key=KEY))
        page.get_by_label("Key").fill(KEY)
        page.get_by_label("Your question").fill("a red cross")
        page.keyboard.press("Enter")
        expect(page.locator(".images li")).to_have_count(8)
        wait_for_images(page)
        assert page.locator(".missing").count() == 0
        assert KEY not in page.locator(".images img").first.get_attribute("src")
        page.close()

    def test_a_question_asked_while_the_page_starts_is_asked_once(self, browser, running):
        from playwright.sync_api import expect

        page = browser.new_page()
        asked, ready = [], []
        page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/ask") else None)

        def hold(route) -> None:
            ready.append(route)

        page.route("**/ready", hold)
        page.goto(running())
        page.get_by_label("Your question").fill("a red cross")
        page.keyboard.press("Enter")
        expect(page.locator(".images li")).to_have_count(8)
        first = page.locator(".images li").first.element_handle()
        while not ready:
            page.wait_for_timeout(20)
        ready[0].continue_()
        page.wait_for_timeout(300)
        assert len(asked) == 1
        assert first.evaluate("item => item.isConnected")
        page.close()
