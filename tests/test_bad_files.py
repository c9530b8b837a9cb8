# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Files that cannot be read, or not as they are: none stops the others, and all are named with the reason."""

import io
import logging
import os
import shutil
import zipfile
from pathlib import Path

import docx
import pytest
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from retort.cli import main
from retort.students.segmentation import sentence_spans
from retort.trainers.data.converting import LARGEST_XML
from retort.trainers.data.documents import read_documents, read_source
from retort.trainers.data.pseudo_queries import Headings
from retort.trainers.data.texts import RetrievalData, TextStore
from retort.trainers.runtime.errors import DataError

GERMAN = "Die Größe der Straße beträgt fünf Meter. Über Nacht zog Nebel auf, und das Öl wurde kälter."
RUSSIAN = "Порт Мурманска не замерзает зимой. Он был основан на берегу залива."
CHINESE = "上海港是中国最大的港口。每天早上都有船只到达。航道的水深是多少？"
JAPANESE = "横浜港は日本で最も古い港の一つです。毎朝、多くの船が到着します。"


def pdf(*lines: str, cmap: str = "", password: str = "") -> bytes:
    """A page with lines of text; `cmap` maps the letters to others."""
    writer = PdfWriter()
    page = writer.add_blank_page(600, 800)
    font = DictionaryObject(
        {
            NameObject(k): NameObject(v)
            for k, v in {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}.items()
        }
    )
    if cmap:
        stream = DecodedStreamObject()
        stream.set_data(cmap.encode())
        font[NameObject("/ToUnicode")] = writer._add_object(stream)
    page[NameObject("/Resources")] = DictionaryObject(
        {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
    )
    content = DecodedStreamObject()
    shown = "".join(f"({line}) Tj 0 -14 Td " for line in lines)
    content.set_data(f"BT /F1 12 Tf 50 700 Td {shown} ET".encode())
    page[NameObject("/Contents")] = writer._add_object(content)
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def word(*paragraphs: str, heading: str = "") -> bytes:
    document = docx.Document()
    if heading:
        document.add_heading(heading, 1)
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def packed(name: str, size: int) -> bytes:
    """A DOCX file one part of which unpacks to so many bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as parts, parts.open(name, "w") as part:
        for _ in range(size >> 20):
            part.write(b" " * (1 << 20))
    return file.getvalue()


# Name, bytes, and the reason that the user is given.
BAD = {
    "empty.txt": (b"", "empty"),
    "blank.md": (b" \n\t\n", "empty"),
    "noise.txt": (bytes(range(128, 256)) * 9 + b"\0\xff\0", "no text in any known encoding"),
    "encrypted.pdf": (pdf("A ship.", password="p"), "encrypted: remove the password"),
    "scan.pdf": (pdf(), "no text (scanned pages need text recognition first)"),
    "damaged.pdf": (pdf("A ship.")[:200], "damaged, or of another kind"),
    "encrypted.docx": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000), "encrypted, or of Word's old format"),
    "damaged.docx": (word("A ship.")[:3000], "damaged, or of another kind (BadZipFile"),
    "bomb.docx": (packed("word/document.xml", LARGEST_XML + (1 << 20)), "unpacked larger than 32 MiB of text"),
    "~$open.docx": (b"jan", "a lock file of an open document"),
    "scripts.html": (
        (
            b"<html><head><title>App</title></head><body><div id=root></div><script>draw()</script><noscript>"
            b"Please enable JavaScript to run this app.</noscript></body></html>"
        ),
        "no text (scripts may fill this page)",
    ),
    "tab\there.txt": (b"A ship.", "its name holds control characters"),
    "line\nbreak.txt": (b"A ship.", "its name holds control characters"),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """One good file among all the bad ones."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "good.txt").write_text("The ship is in the harbour.")
    for name, (data, _) in BAD.items():
        (folder / name).write_bytes(data)
    with open(os.fsencode(folder) + b"/caf\xe9.txt", "w") as file:
        file.write("Not UTF-8.")
    return folder


@pytest.fixture
def closed(monkeypatch):
    """Files that somebody else has locked, by name: the superuser may read them all."""
    names, read = set(), Path.read_bytes

    def read_bytes(path):
        if path.name in names:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    return names


class TestLeftOut:
    def test_all_are_named_once_with_the_reason(self, folder, closed, caplog):
        (folder / "locked.txt").write_text("A ship.")
        closed.add("locked.txt")
        with caplog.at_level(logging.WARNING):
            found = read_source(folder)
        assert [d.id for d in found.documents] == ["good.txt#0"]
        assert len(caplog.records) == 1
        lines = caplog.text.split("\n  ")
        assert f"{folder}: {len(BAD) + 2} files left out:" in lines[0]
        wanted = {name: reason for name, (_, reason) in BAD.items()} | {
            "locked.txt": "Permission denied",
            "caf\\udce9.txt": "its name holds control characters, or is not UTF-8: rename it",
        }
        for name, reason in wanted.items():
            shown = name.replace("\t", "\\t").replace("\n", "\\n")
            assert sum(line.startswith(f"{shown}: {reason}") for line in lines) == 1, name
        assert {"empty.txt", "blank.md", "scan.pdf", "scripts.html"} == set(found.blank)
        assert {"locked.txt", "encrypted.pdf", "damaged.docx"} < set(found.unread)

    def test_they_may_be_refused(self, folder):
        with pytest.raises(DataError, match=rf"{len(BAD) + 1} files cannot be read.*(?s:.*)scan.pdf: no text"):
            read_documents(folder, on_error="fail")

    def test_nothing_else(self, tmp_path):
        (tmp_path / "scan.pdf").write_bytes(pdf())
        with pytest.raises(DataError, match="1 files cannot be read(?s:.*)scan.pdf: no text .scanned"):
            read_documents(tmp_path)
        assert read_source(tmp_path, may_be_blank=True).blank == ["scan.pdf"]

    def test_a_folder_that_cannot_be_read(self, tmp_path, monkeypatch):
        (tmp_path / "good.txt").write_text("The ship.")
        (tmp_path / "shut").mkdir()
        scan = os.scandir

        def scandir(path):
            if Path(path).name == "shut":
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", scandir)
        assert read_source(tmp_path).unread == ["shut"]

    def test_a_million_pictures(self, tmp_path, monkeypatch):
        """What a DOCX file holds besides text is bounded as well."""
        monkeypatch.setattr("retort.trainers.data.converting.LARGEST", 3 << 20)
        (tmp_path / "a.docx").write_bytes(packed("word/media/image.png", 4 << 20))
        (tmp_path / "b.txt").write_text("word " * (1 << 20))
        with pytest.raises(DataError, match="2 files(?s:.*)a.docx: unpacked larger(?s:.*)b.txt: larger than 3 MiB"):
            read_documents(tmp_path)

    def test_a_page_that_is_nested_too_deep_is_not_blank(self, tmp_path):
        """What the index has of it stays."""
        page = "<html><body>" + "<font>" * 300 + "The ship is in the harbour." * 9
        (tmp_path / "a.html").write_text(page)
        (tmp_path / "b.txt").write_text("A ship.")
        found = read_source(tmp_path)
        assert (found.blank, found.unread) == ([], ["a.html"])

    def test_a_docx_file_whose_text_has_another_name(self, tmp_path):
        """Its other parts say which one is the text: what unpacks to XML is bounded, whatever it is called."""
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as parts:
            parts.writestr("word/media/image.png", b"<w:document>" + b" " * LARGEST_XML)
        (tmp_path / "a.docx").write_bytes(file.getvalue())
        with pytest.raises(DataError, match="a.docx: unpacked larger than 32 MiB of text"):
            read_documents(tmp_path)

    def test_documents_of_a_beir_folder(self, beir, caplog):
        with (beir / "corpus.jsonl").open("a") as corpus:
            corpus.write('{"_id": "x", "text": " "}\n{"_id": "y", "title": "", "text": ""}\n')
        with caplog.at_level(logging.WARNING):
            found = read_source(beir)
        assert (len(found.documents), found.blank) == (40, ["x", "y"])
        assert "2 documents left out:\n  x: no text\n  y: no text" in caplog.text
        with pytest.raises(DataError, match="2 documents cannot be read"):
            read_source(beir, on_error="fail")


class TestLinks:
    def test_only_those_within_the_folder_are_read(self, tmp_path, caplog):
        docs, outside = tmp_path / "docs", tmp_path / "outside"
        (docs / ".data").mkdir(parents=True)
        (docs / "sub").mkdir()
        outside.mkdir()
        (outside / "secret.txt").write_text("The secret.")
        (docs / ".data" / "kept.txt").write_text("As a cluster's volumes have it.")
        (docs / "sub" / "a.txt").write_text("The ship.")
        (docs / "inside.txt").symlink_to(docs / ".data" / "kept.txt")
        (docs / "out.txt").symlink_to(outside / "secret.txt")
        (docs / "chain.txt").symlink_to(docs / "out.txt")
        (docs / "above").symlink_to(outside)
        (docs / "sub" / "loop").symlink_to(docs)
        (docs / "self.txt").symlink_to(docs / "self.txt")
        (docs / "broken.txt").symlink_to(docs / "nowhere.txt")
        os.mkfifo(docs / "pipe.txt")
        found = read_source(docs)
        assert [d.id for d in found.documents] == ["inside.txt#0", "sub/a.txt#0"]
        wanted = {
            "above": "a link to a folder",
            "broken.txt": "a link that leads to no file",
            "chain.txt": "a link that leads out of the folder",
            "out.txt": "a link that leads out of the folder",
            "pipe.txt": "no file that can be opened",
            "self.txt": "a link that leads to no file",
            "sub/loop": "a link to a folder",
        }
        assert [line.split(": ") for line in caplog.text.strip().split("\n  ")[1:]] == [
            [*item] for item in wanted.items()
        ]
        assert not {"out.txt", "chain.txt"} & {*found.unread}  # what an index has of them goes with --prune

    def test_a_link_that_the_user_names(self, tmp_path):
        (tmp_path / "docs").mkdir()
        (tmp_path / "docs" / "a.txt").write_text("The ship.")
        (tmp_path / "link").symlink_to(tmp_path / "docs")
        (tmp_path / "b.txt").symlink_to(tmp_path / "docs" / "a.txt")
        assert [d.id for d in read_documents(tmp_path / "link")] == ["a.txt#0"]
        assert [d.id for d in read_documents(tmp_path / "b.txt")] == ["b.txt#0"]


class TestTexts:
    @pytest.mark.parametrize(
        ("text", "encoding"),
        [
            (GERMAN, "latin-1"),
            (GERMAN, "cp1252"),
            (GERMAN, "utf-16"),
            (GERMAN, "utf-16-le"),
            (GERMAN, "utf-8-sig"),
            (GERMAN, "utf-32"),
            ("Plain English is UTF-8 with zeros, too. " * 9, "utf-16-be"),
            (RUSSIAN, "cp1251"),
            (RUSSIAN, "koi8-r"),
            (CHINESE, "gb18030"),
            (CHINESE, "utf-16"),
            (JAPANESE, "shift-jis"),
        ],
    )
    @pytest.mark.parametrize("suffix", ["txt", "md", "html"])  # an HTML page names its own
    def test_encodings_are_detected(self, tmp_path, text, encoding, suffix):
        page = f"<html><head><meta charset={encoding}></head><body><p>{text}</p></body></html>"
        (tmp_path / f"a.{suffix}").write_bytes((page if suffix == "html" else text).encode(encoding))
        assert read_documents(tmp_path)[0].content == text.strip()

    @pytest.mark.parametrize(
        "text",
        [
            "The ship of Captain Müller is in the harbour and waits for the tide, which comes at noon.",
            "The naïve café.",
            "L'été, la mer est chaude. À midi, les élèves vont à l'école.",
            "Curaçao is an island. " * 20,
        ],
    )
    def test_a_few_accents_are_western(self, tmp_path, text):
        """The library's first guess is of the Baltic, or of Central Europe."""
        (tmp_path / "a.txt").write_text(text, encoding="cp1252")
        assert read_documents(tmp_path)[0].content == text.strip()

    def test_utf8_that_was_cut_off(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(CHINESE.encode()[:-1])
        assert read_documents(tmp_path)[0].content == CHINESE[:-1] + "\ufffd"

    def test_a_pdf_with_halves_of_surrogate_pairs(self, tmp_path):
        cmap = (
            "/CIDInit /ProcSet findresource begin begincmap 1 begincodespacerange <00> <ff> endcodespacerange "
            "2 beginbfchar <41> <d83d> <42> <d83dde00> endbfchar endcmap end"
        )
        (tmp_path / "a.pdf").write_bytes(pdf("A ship B.", cmap=cmap))
        content = read_documents(tmp_path)[0].content
        assert content == "\ufffd ship \U0001f600."
        assert content.encode()

    def test_a_page_gives_its_title_and_headings(self, tmp_path):
        line = "The ship is in the harbour and waits for the tide, as it does in every season of the year. "
        (tmp_path / "a.html").write_text(
            f"<html><head><title>The  Harbour</title></head><body><article><h1>Ships of Whitby</h1><p>{line * 3}</p>"
            f"<h2>Low tide</h2><p>{line * 3}</p><pre>a = 1\nb = 2</pre></article></body></html>"
        )
        (tmp_path / "b.html").write_text(f"<html><body><h1>No title</h1><p>{line}</p></body></html>")
        page, untitled = read_documents(tmp_path)
        assert (page.meta["title"], untitled.meta["title"]) == ("The Harbour", "No title")
        assert sentences(page.content) == [
            "Ships of Whitby",
            *[line.strip()] * 3,
            "Low tide",
            *[line.strip()] * 3,
            "a = 1\nb = 2",
        ]
        assert headings(page.content) == ["Ships of Whitby", "Low tide"]

    def test_headings_of_word(self, tmp_path):
        (tmp_path / "a.docx").write_bytes(
            word("The ship is in the harbour. It waits for the tide.", heading="Ships of Whitby")
        )
        content = read_documents(tmp_path)[0].content
        assert sentences(content) == ["Ships of Whitby", "The ship is in the harbour.", "It waits for the tide."]
        assert headings(content) == ["Ships of Whitby"]

    def test_headings_of_a_pdf(self, tmp_path):
        lines = (
            "Ships of the Old Whitby",
            "The ship that we saw in the morning is in the harbour and waits for",
            "the tide. It is late",
            "because of the storm that came from the north and stayed all week.",
            "What the Captain said",
            "He said nothing of all that had happened to him and his crew in it.",
        )
        (tmp_path / "a.pdf").write_bytes(pdf(*lines))
        content = read_documents(tmp_path)[0].content
        assert [" ".join(s.split()) for s in sentences(content)] == [
            lines[0],
            f"{lines[1]} the tide.",
            f"It is late {lines[3]}",
            lines[4],
            lines[5],
        ]
        assert headings(content) == [lines[0], lines[4]]


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


def headings(text: str) -> list[str]:
    return Headings().of(RetrievalData("x", TextStore(["1"], [text]), TextStore([], [])))[0]


class TestCommand:
    def test_index(self, folder, tiny_student, tmp_path, capsys, caplog):
        command = ["index", tiny_student, "--documents", str(folder), "--store", str(tmp_path / "index")]
        with pytest.raises(SystemExit):
            main([*command, "--on-error", "fail"])
        assert "scan.pdf: no text (scanned pages need text recognition first)" in capsys.readouterr().err
        assert not (tmp_path / "index").exists()
        with caplog.at_level(logging.WARNING):
            main(command)
        assert capsys.readouterr().out.startswith("1 documents in")
        assert caplog.text.count("scan.pdf") == 1

    def test_files_that_go_blank_or_shut(self, tiny_student, tmp_path, closed, capsys):
        """A blank one has lost its text; what of a locked one was indexed stays, also with --prune."""
        docs = tmp_path / "docs"
        docs.mkdir()
        for name in ("blank", "shut", "gone", "same"):
            (docs / f"{name}.txt").write_text(f"The {name} ship.")
        command = ["index", tiny_student, "--documents", str(docs), "--store", str(tmp_path / "index")]

        def index(*more: str) -> str:
            main([*command, *more])
            return capsys.readouterr().out

        assert index().startswith("4 documents")
        (docs / "blank.txt").write_text("\n")
        (docs / "gone.txt").unlink()
        closed.add("shut.txt")
        said = index()
        assert said.startswith("3 documents")
        assert "1 deleted that" in said
        assert index("--prune").startswith("2 documents")
        (docs / "same.txt").write_text("")
        (docs / "shut.txt").unlink()
        assert index().startswith("1 documents")

    def test_a_folder_that_is_shut(self, tiny_student, tmp_path, monkeypatch, capsys):
        docs, scan = tmp_path / "docs", os.scandir
        (docs / "shut").mkdir(parents=True)
        for name in ("a.txt", "shut/b.txt", "shut.txt"):
            (docs / name).write_text("The ship.")

        def scandir(path):
            if Path(path).name == "shut":
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        command = ["index", tiny_student, "--documents", str(docs), "--store", str(tmp_path / "index")]
        main(command)
        (docs / "shut.txt").unlink()
        monkeypatch.setattr(os, "scandir", scandir)
        main([*command, "--prune"])
        assert capsys.readouterr().out.splitlines()[-2].startswith("2 documents")

    def test_a_document_of_a_beir_folder_that_goes_blank(self, tiny_student, beir, tmp_path, capsys):
        command = ["index", tiny_student, "--documents", str(beir), "--store", str(tmp_path / "index")]
        main(command)
        lines = (beir / "corpus.jsonl").read_text().splitlines()
        (beir / "corpus.jsonl").write_text("\n".join(['{"_id": "d00", "text": ""}', *lines[1:]]))
        main(command)
        assert "39 documents in" in capsys.readouterr().out

    def test_documents_of_a_beir_folder_that_no_index_can_hold(self, tiny_student, tmp_path, capsys, caplog):
        """They are named before anything is embedded; what the index has of them stays, also with --prune."""
        corpus = tmp_path / "beir" / "corpus.jsonl"
        corpus.parent.mkdir()
        (corpus.parent / "queries.jsonl").touch()
        deep = "[" * 100 + "]" * 100
        bad = {"a": "NaN", "b": "1" + "0" * 400, "c": deep, "d": '"\\ud800"'}
        index = ["index", tiny_student, "--documents", str(corpus.parent), "--store", str(tmp_path / "index")]
        lines = [f'{{"_id": "{name}", "text": "the ship", "metadata": {{"n": 1}}}}\n' for name in [*bad, "good"]]
        corpus.write_text("".join(lines))
        main(index)
        lines = [line.replace("1}", f"{bad.get(name, 2)}}}") for name, line in zip([*bad, "good"], lines, strict=True)]
        corpus.write_text("".join(lines))
        main([*index, "--prune"])
        assert "5 documents in" in capsys.readouterr().out
        assert "4 documents left out:\n  Document 'a' cannot be stored: 'meta.n' is nan" in caplog.text
        assert "'d' cannot be stored: 'meta.n' holds a surrogate" in caplog.text
        with pytest.raises(SystemExit):
            main([*index, "--on-error", "fail"])
        assert "4 documents cannot be indexed. Mend or remove them:" in capsys.readouterr().err

    def test_malformed_records_of_a_beir_folder(self, tiny_student, beir, tmp_path, capsys, caplog):
        """What the index has of them stays, also with --prune."""
        index = ["index", tiny_student, "--documents", str(beir), "--store", str(tmp_path / "index")]
        main(index)
        lines = (beir / "corpus.jsonl").read_text().splitlines()
        bad = [
            '{"_id": "d00", "text": "a\\ud83d"}',
            '{"_id": "d01", "text": "a", "metadata": ["b"]}',
            '{"_id": 7, "text": "a"}',
            '{"_id": "d03", "text": "the rose"}',
        ]
        (beir / "corpus.jsonl").write_text("\n".join([*bad, *lines[3:-1]]))
        caplog.clear()
        main([*index, "--prune"])
        assert "38 documents in" in capsys.readouterr().out  # without the third and the last
        (record,) = caplog.records
        assert "4 documents left out:\n  line 1: 'd00' holds half of a surrogate pair" in record.message
        assert record.message.endswith("line 5: the id 'd03' was already used in line 4. Ids must be unique")
        with pytest.raises(SystemExit):
            main([*index, "--on-error", "fail"])
        assert "4 documents cannot be read" in capsys.readouterr().err

    def test_nothing_but_blank_files(self, tiny_student, tmp_path, capsys):
        (tmp_path / "docs").mkdir()
        (tmp_path / "docs" / "a.txt").write_text("\n")
        store = tmp_path / "index"
        with pytest.raises(SystemExit):
            main(["index", tiny_student, "--documents", str(tmp_path / "docs"), "--store", str(store)])
        assert "There is no text to index" in capsys.readouterr().err
        shutil.rmtree(store, ignore_errors=True)
