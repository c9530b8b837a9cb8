# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
import gzip
import json
import re

import numpy as np
import pytest
from tiny import write_jsonl

from retort.trainers.data.beir import read_beir
from retort.trainers.data.documents import documents_to_data, read_documents, read_source
from retort.trainers.data.splits import read_train_and_dev
from retort.trainers.data.texts import TextStore, document_text, item_id
from retort.trainers.evaluation.rank import evaluate_rows
from retort.trainers.evaluation.runs import read_per_query, read_rankings, write_evaluation
from retort.trainers.recipe import DataSection
from retort.trainers.runtime.errors import DataError


def append(path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


class TestBeir:
    def test_reads(self, beir):
        data = read_beir(beir, "train")
        assert (len(data.corpus), len(data.queries), len(data.qrels)) == (40, 30, 30)
        assert data.corpus.texts[0] == "sea the ship sail in the sea."
        assert [data.corpus.ids[r] for r in data.positives()[0]] == ["d00"]

    def test_gzip_and_no_header(self, beir):
        plain = read_beir(beir, "dev")
        for name in ("corpus", "queries"):
            path = beir / f"{name}.jsonl"
            with gzip.open(beir / f"{name}.jsonl.gz", "wt") as file:
                file.write(path.read_text())
            path.unlink()
        qrels = beir / "qrels" / "dev.tsv"
        qrels.write_text(qrels.read_text().split("\n", 1)[1])
        assert read_beir(beir, "dev").hash == plain.hash

    def test_hash_changes_with_a_text_a_judgement_or_the_order(self, beir):
        before = read_beir(beir, "dev").hash
        append(beir / "qrels" / "dev.tsv", "q06\td00\t1\n")
        after = read_beir(beir, "dev").hash
        append(beir / "corpus.jsonl", '{"_id": "x", "text": "more"}\n')
        assert len({before, after, read_beir(beir, "dev").hash}) == 3

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"_id": "x", "text": ', r"corpus.jsonl, line 41: not valid JSON .*column"),
            ('["x"]', r'line 41: expected an object with a string "_id"'),
            ('{"text": "a"}', r'line 41: expected an object with a string "_id"'),
            ('{"_id": "d00", "text": "a"}', r"line 41: the id 'd00' was already used in line 1"),
            ('{"_id": "x", "title": "", "text": "  "}', r"line 41: 'x' has no text.*data.empty=skip"),
            ('{"_id": "x", "text": "a\\ud800"}', r"line 41: 'x' holds half of a surrogate pair"),
            ('{"_id": "x", "text": 5}', r"line 41: title and text must be strings"),
        ],
    )
    def test_bad_corpus_line(self, beir, line, message):
        append(beir / "corpus.jsonl", line + "\n")
        with pytest.raises(DataError, match=message):
            read_beir(beir, "train")

    def test_bad_query_line(self, beir):
        append(beir / "queries.jsonl", '\n{"_id": "x"}\n')
        with pytest.raises(DataError, match=r"queries.jsonl, line 42: 'x' has no text"):
            read_beir(beir, "train")

    def test_damaged_gzip(self, beir):
        (beir / "corpus.jsonl").unlink()
        (beir / "corpus.jsonl.gz").write_bytes(gzip.compress(b'{"_id": "a", "text": "b"}\n' * 1)[:-6])
        with pytest.raises(DataError, match="damaged"):
            read_beir(beir, "train")
        whole = bytearray(
            gzip.compress("".join(f'{{"_id": "{i}", "text": "b{i * i}"}}\n' for i in range(500)).encode())
        )
        whole[len(whole) // 2 : len(whole) // 2 + 9] = b"\xff" * 9
        (beir / "corpus.jsonl.gz").write_bytes(whole)
        with pytest.raises(DataError, match="damaged|not valid JSON"):
            read_beir(beir, "train")

    def test_judgements_that_are_not_utf8(self, beir):
        (beir / "qrels" / "train.tsv").write_bytes(b"q00\td\xff0\t1\n")
        with pytest.raises(DataError, match="train.tsv, after line 0: .*not UTF-8"):
            read_beir(beir, "train")

    def test_unknown_ids_are_counted_and_the_first_five_named(self, beir):
        append(beir / "qrels" / "train.tsv", "".join(f"q00\tz{i}\t1\n" for i in range(7)))
        with pytest.raises(DataError, match=r"train.tsv: 7 documents .* the first: z0, z1, z2, z3, z4\."):
            read_beir(beir, "train")

    def test_unknown_queries(self, beir):
        append(beir / "qrels" / "train.tsv", "nobody\td00\t1\n")
        with pytest.raises(DataError, match="1 queries are judged that do not exist; the first: nobody"):
            read_beir(beir, "train")

    @pytest.mark.parametrize("line", ["q00\td00", "q00\td00\tyes", "q00 d00 1"])
    def test_bad_judgement(self, beir, line):
        append(beir / "qrels" / "train.tsv", line + "\n")
        with pytest.raises(DataError, match=r"train.tsv, line 32: expected query-id"):
            read_beir(beir, "train")

    @pytest.mark.parametrize("grade", ["1", "1 ", " 1", "+1", "1.0", "1."])
    @pytest.mark.parametrize(
        "header", ["", "\ufeff", "\n", "query-id\tcorpus-id\tscore\n", "\ufeffqid\tdid\trelevance\n"]
    )
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_the_first_judgement_is_read(self, beir, grade, header, end):
        text = f"{header}q00\td00\t{grade}\nq01\td01\t-1\n".replace("\n", end)
        (beir / "qrels" / "train.tsv").write_bytes(text.encode())
        assert read_beir(beir, "train").qrels == {"q00": {"d00": 1}, "q01": {"d01": -1}}

    @pytest.mark.parametrize("line", ["q00\t0\td00\t1", "q00 0 d00 1", "q00\tQ0\td00\t1", "q00  Q0  d00   2"])
    def test_trec_columns(self, beir, line):
        (beir / "qrels" / "train.tsv").write_text(f"{line}\nq01 0 d01 0\n")
        assert read_beir(beir, "train").qrels == {"q00": {"d00": int(line[-1])}, "q01": {"d01": 0}}

    @pytest.mark.parametrize("line", ["q00\td00\tx", "q00\td00\t0.5", "q00\td00\tnan", "q00\td00\t1_0", "q00,d00,1"])
    def test_a_bad_first_line_is_no_header(self, beir, line):
        (beir / "qrels" / "train.tsv").write_text(f"{line}\nq01\td01\t1\n")
        with pytest.raises(DataError, match=r"train.tsv, line 1: expected query-id.*it is 'q00"):
            read_beir(beir, "train")

    def test_two_grades_of_one_pair(self, beir):
        append(beir / "qrels" / "train.tsv", "q00\td00\t1\nq00\td00\t0\n")
        with pytest.raises(DataError, match=r"line 33: document 'd00' was judged 1 for query 'q00' before, and 0 here"):
            read_beir(beir, "train")

    def test_ids_stay_strings(self, tmp_path):
        """Those that look like numbers, with blanks, or with what Unicode calls the end of a line; to the rankings."""
        ids = [
            "007",
            "7",
            "7.0",
            "1e5",
            " 7",
            "a b",
            "+7",
            "-0",
            "0x1",
            "nan",
            "None",
            "True",
            "x\u2028y",
            "x\x0by",
            "z\x85",
        ]
        (tmp_path / "qrels").mkdir()
        for name in ("corpus", "queries"):
            texts = [{"_id": i, "text": f"word{n} {name}"} for n, i in enumerate(ids)]
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(t) + "\n" for t in texts))
        turned = dict(zip(ids, [*ids[1:], ids[0]], strict=True))
        lines = (f"{q}\t{d}\t1\n" for q, d in turned.items())
        (tmp_path / "qrels" / "dev.tsv").write_text("".join(lines), encoding="utf-8")
        data = read_beir(tmp_path, "dev")
        assert (data.corpus.ids, data.queries.ids) == (ids, ids)
        assert data.qrels == {q: {d: 1} for q, d in turned.items()}
        found = evaluate_rows("r", data, np.array([[(row + 1) % len(ids), 0] for row in range(len(ids))]))
        assert {measures["mrr@10"] for measures in found.per_query.values()} == {1.0}
        write_evaluation(tmp_path / "run", "dev", found, data)
        assert read_per_query(tmp_path / "run", "dev") == found.per_query
        assert read_rankings(tmp_path / "run", "dev") == found.rankings

    def test_missing_split_and_files(self, beir, tmp_path):
        with pytest.raises(DataError, match=r"test.tsv is missing. Splits there: dev, train"):
            read_beir(beir, "test")
        with pytest.raises(DataError, match=r"no corpus.jsonl"):
            read_beir(tmp_path, "test")

    def test_empty_texts_can_be_skipped_with_their_judgements(self, beir):
        append(beir / "corpus.jsonl", '{"_id": "x", "text": ""}\n')
        append(beir / "qrels" / "train.tsv", "q00\tx\t1\n")
        data = read_beir(beir, "train", empty="skip")
        assert len(data.corpus) == 40
        assert data.qrels["q00"] == {"d00": 1}

    def test_without_a_dev_split_queries_are_held_out(self, beir, caplog):
        (beir / "qrels" / "dev.tsv").unlink()
        train, dev = read_train_and_dev(beir, DataSection())
        assert (len(train.queries), len(dev.queries)) == (27, 3)
        assert not set(train.queries.ids) & set(dev.queries.ids)
        assert "3 training queries are held out" in caplog.text
        assert read_train_and_dev(beir, DataSection())[1].queries.ids == dev.queries.ids

    def test_few_queries_with_a_positive_are_not_all_held_out(self, beir):
        (beir / "qrels" / "dev.tsv").unlink()
        path = beir / "qrels" / "train.tsv"
        first, *lines = path.read_text().splitlines()
        path.write_text("\n".join([first, *lines[:2], *(f"{line[:-1]}0" for line in lines[2:])]) + "\n")
        train, dev = read_train_and_dev(beir, DataSection())
        assert (len(train.queries), len(dev.queries)) == (29, 1)
        assert sum(map(len, train.positives())) == sum(map(len, dev.positives())) == 1


class TestTexts:
    def test_item_id_is_of_the_normal_form(self):
        assert item_id("é") == item_id("e\u0301") != item_id("e")
        assert len(item_id("a")) == 16

    def test_document_text(self):
        assert document_text("Title", "text") == "Title text"
        assert document_text("", "text") == "text"

    def test_ids_are_unique(self):
        with pytest.raises(DataError, match="'b' occurs twice"):
            TextStore(["a", "b", "b"], ["", "", ""])


class TestDocuments:
    def test_beir_passages_are_kept(self, beir):
        documents = read_documents(beir)
        assert [d.id for d in documents[:2]] == ["d00", "d01"]
        assert documents[0].meta == {"title": "sea"}
        assert documents_to_data("x", documents).corpus.hash == read_beir(beir, "dev").corpus.hash

    def test_a_beir_corpus_alone_names_its_folder(self, beir):
        with pytest.raises(DataError, match=r"corpus.jsonl: give the BEIR folder around it"):
            read_documents(beir / "corpus.jsonl")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"_id": "d00", "text": "a"}', "line 41: the id 'd00' was already used in line 1"),
            ('{"_id": "x", "text": "a", "metadata": "b"}', "line 41: metadata must be an object"),
            ('{"_id": "x", "text": "a", "metadata": ["b"]}', "line 41: metadata must be an object"),
            ('{"_id": "x", "text": "a\\ud800"}', "line 41: 'x' holds half of a surrogate pair"),
            ('{"_id": "x\\ud800", "text": "a"}', r"line 41: 'x\\ud800' holds half of a surrogate pair"),
            ('{"_id": "x", "title": 5, "text": "a"}', "line 41: title and text must be strings"),
            ('{"_id": 7, "text": "a"}', 'line 41: expected an object with a string "_id"'),
            ('["x"]', 'line 41: expected an object with a string "_id"'),
            ('{"_id": "x", "text": ', "line 41: not valid JSON .*column"),
        ],
    )
    def test_bad_beir_records_are_left_out(self, beir, line, message, caplog):
        append(beir / "corpus.jsonl", line + '\n{"_id": "last", "text": "the ship"}\n')
        documents = read_documents(beir)
        assert [d.id for d in documents[38:]] == ["d46", "d47", "last"]
        assert "the" in documents[0].content  # of two with one id the first
        (record,) = caplog.records
        assert re.search(rf"1 documents left out:\n  {message}", record.message)
        with pytest.raises(DataError, match=message):
            read_documents(beir, on_error="fail")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("Once upon a time\nthere was a ship.\n", "line 1: not valid JSON"),
            ('{"_id": 1}\n[]\n', "line 1: expected an obj"),
        ],
    )
    def test_a_beir_corpus_without_a_good_record(self, beir, text, message):
        (beir / "corpus.jsonl").write_text(text)
        with pytest.raises(DataError, match=message):
            read_source(beir, may_be_blank=True)

    def test_a_folder_of_files(self, tmp_path):
        from docx import Document as Docx

        folder = tmp_path / "docs"
        (folder / "sub").mkdir(parents=True)
        (folder / "a.txt").write_text(" ".join(f"word{i}" for i in range(400)))
        (folder / "b.md").write_text("# Ships\n\nA ship sails.")
        (folder / "sub" / "c.html").write_text("<html><body><p>Bread needs an oven.</p></body></html>")
        docx = Docx()
        docx.add_paragraph("Roses like water.")
        docx.save(str(folder / "d.docx"))
        (folder / "e.bin").write_bytes(b"\0")
        documents = read_documents(folder)
        assert [d.id for d in documents] == ["a.txt#0", "a.txt#1", "a.txt#2", "b.md#0", "d.docx#0", "sub/c.html#0"]
        assert documents[-1].content.strip() == "Bread needs an oven."
        assert documents[-1].meta["file_path"] == "sub/c.html"
        assert documents[1].content.split()[0] == "word130"

    def test_nothing_to_read(self, tmp_path):
        (tmp_path / "x.bin").write_bytes(b"")
        with pytest.raises(DataError, match=r"found 1 .bin, but no file that can be read \(.txt, .md"):
            read_documents(tmp_path)
        with pytest.raises(DataError, match="does not exist"):
            read_documents(tmp_path / "nowhere")

    def test_a_damaged_file_is_named(self, tmp_path):
        (tmp_path / "x.pdf").write_bytes(b"not a pdf")
        with pytest.raises(DataError, match=r"1 files cannot be read(?s:.*)x.pdf: damaged, or of another kind"):
            read_documents(tmp_path)


def test_jsonl_helper_writes_what_the_reader_reads(tmp_path):
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "1", "text": "a"}])
    assert json.loads((tmp_path / "corpus.jsonl").read_text()) == {"_id": "1", "text": "a"}
    assert read_beir(tmp_path, None).corpus.texts == ["a"]
