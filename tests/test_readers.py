# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Training data in the layouts of FlagEmbedding and sentence-transformers."""

import csv
import gzip
import json
import math

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from tiny import write_jsonl

from retort.trainers.data.beir import read_beir
from retort.trainers.data.read import has_split, read_data
from retort.trainers.data.texts import RetrievalData, TextStore, item_id, share_corpus
from retort.trainers.runtime.errors import DataError

# A query's documents in their order: text, grade (None unknown), score (None missing).
Lists = dict[str, list[tuple[str, int | None, float | None]]]


def lists_of(data: RetrievalData) -> Lists:
    texts = dict(zip(data.corpus.ids, data.corpus.texts, strict=True))
    assert set(data.qrels) <= set(data.given) == set(data.queries.ids)
    found = {}
    for q, query in zip(data.queries.ids, data.queries.texts, strict=True):
        assert set(data.qrels.get(q, {})) <= set(data.given[q])
        found[query] = [
            (texts[d], data.qrels.get(q, {}).get(d), None if math.isnan(score) else score)
            for d, score in data.given[q].items()
        ]
    return found


@pytest.fixture
def read(tmp_path):
    """Writes records, or lines as they are, and reads them."""

    def make(records: list, name: str = "train.jsonl", **options) -> RetrievalData:
        lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return read_data(tmp_path / name, **options)

    return make


FLAG = {"query": "q", "pos": ["p"], "neg": ["n"]}
TRIPLET = {"anchor": "q", "positive": "p", "negative": "n"}


class TestFlagEmbedding:
    def test_reads(self, read):
        lines = [
            {"query": " q ", "pos": ["p1", "p2"], "neg": ["n1"], "pos_scores": [2, 1.5], "neg_scores": [-1.0]},
            {"query": "r", "pos": ["p1"], "neg": [], "id": "x", "type": "normal"},
            {"query": "s", "pos": ["p3"], "pos_scores": None},
        ]
        data = read(lines)
        assert lists_of(data) == {
            "q": [("p1", 1, 2.0), ("p2", 1, 1.5), ("n1", 0, -1.0)],
            "r": [("p1", 1, None)],
            "s": [("p3", 1, None)],
        }
        assert data.corpus.ids == [item_id(t).hex() for t in ("p1", "p2", "n1", "p3")]
        assert data.name == "train"

    def test_lines_with_one_query_are_joined(self, read, caplog):
        lines = [
            FLAG,
            {"query": "r", "pos": ["n"], "neg": ["p"]},
            {"query": "q", "pos": ["p", "p2"], "neg": ["n2", "n2"], "pos_scores": [0.5, 0.25]},
            FLAG,
        ]
        assert lists_of(read(lines)) == {
            "q": [("p", 1, 0.5), ("n", 0, None), ("p2", 1, 0.25), ("n2", 0, None)],
            "r": [("n", 1, None), ("p", 0, None)],
        }
        assert not caplog.records

    def test_the_first_score_counts_and_others_are_told_once(self, read, caplog):
        scored = [{**FLAG, "pos_scores": [s]} for s in (0.5, 0.5, 0.75, 0.25)]
        assert lists_of(read(scored))["q"][0] == ("p", 1, 0.5)
        assert len(caplog.records) == 1
        assert "2 times a document" in caplog.text
        assert "line 3, line 4" in caplog.text

    def test_two_spellings_are_one_text(self, read):
        data = read([{"query": "caf\u00e9", "pos": ["\u00fc"]}, {"query": "cafe\u0301", "pos": ["u\u0308"]}])
        assert lists_of(data) == {"caf\u00e9": [("\u00fc", 1, None)]}

    def test_a_prompt_is_told_once(self, read, caplog):
        read([{**FLAG, "prompt": "find:"}, {**FLAG, "prompt": ""}, {**FLAG, "query": "r", "prompt": "find:"}])
        assert [r.getMessage().split(";")[0].split(": ")[1] for r in caplog.records] == [
            "the prompts of 2 lines are not used"
        ]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"query": "q", ', r"train.jsonl, line 2: not valid JSON .*column"),
            ('["q"]', "line 2: expected an object"),
            ('{"query": ' + "9" * 5000 + "}", "line 2: this JSON cannot be read"),
            ('{"query": ' + "[" * 100_000, "line 2: this JSON cannot be read"),
            ({"pos": ["p"]}, "line 2: the query is empty or missing.*data.empty=skip"),
            ({"query": "q"}, "line 2: pos must be a list of texts"),
            ({**FLAG, "query": 5}, "line 2: the query must be a text; it is '5'"),
            ({**FLAG, "pos": "p"}, "line 2: pos must be a list of texts"),
            ({**FLAG, "neg": "n"}, "line 2: neg must be a list of texts"),
            ({**FLAG, "neg": ["n", None]}, "line 2: document 3 is empty or missing"),
            ({**FLAG, "neg": [["n"]]}, "line 2: document 2 must be a text"),
            ({**FLAG, "pos": ["  "]}, "line 2: document 1 is empty or missing.*data.empty=skip"),
            ({**FLAG, "pos": [], "neg": []}, "line 2: the query has no document"),
            ({**FLAG, "pos_scores": [1, 2]}, "line 2: pos_scores must be a list of 1 numbers"),
            ({**FLAG, "neg_scores": 1}, "line 2: neg_scores must be a list of 1 numbers"),
            ({**FLAG, "neg_scores": ["1"]}, "line 2: neg_scores must hold finite numbers only; there is '1'"),
            ({**FLAG, "neg_scores": [None]}, "line 2: neg_scores must hold finite numbers"),
            ('{"query": "q", "pos": ["p"], "pos_scores": [NaN]}', "line 2: pos_scores must hold finite .* 'nan'"),
            ('{"query": "q", "pos": ["p"], "pos_scores": [-Infinity]}', "line 2: pos_scores must hold finite"),
            ({**FLAG, "pos_scores": [10**400]}, "line 2: pos_scores must hold finite"),
            ('{"query": "q", "pos": ["a\\ud800"]}', "line 2: a text holds half of a surrogate pair"),
            ({**FLAG, "neg": ["p"]}, r"train.jsonl: 1 times .* both positive and negative .* first: line 2\."),
            ({**FLAG, "pos": ["n"], "neg": ["p"]}, r"2 times .* both positive and negative .* first: line 2\."),
        ],
    )
    def test_a_bad_line(self, read, line, message):
        with pytest.raises(DataError, match=message):
            read([FLAG, line])

    def test_two_spellings_on_two_sides(self, read):
        with pytest.raises(DataError, match="both positive and negative .* first: line 1"):
            read([{"query": "q", "pos": ["\u00fc"], "neg": ["u\u0308"]}])

    def test_empty_texts_can_be_skipped(self, read):
        lines = [
            {"query": "q", "pos": ["p", " "], "neg": ["", "n"], "pos_scores": [1, 2], "neg_scores": [3, 4]},
            {"query": "", "pos": ["only here"]},
            {"query": "r", "pos": [""]},
            {"query": "s", "pos": []},
        ]
        data = read(lines, empty="skip")
        assert lists_of(data) == {"q": [("p", 1, 1.0), ("n", 0, 4.0)]}
        assert data.corpus.texts == ["p", "n"]

    def test_an_empty_file(self, read):
        with pytest.raises(DataError, match="train.jsonl: there is no record in it"):
            read([""])
        with pytest.raises(DataError, match="there is no query with a document in it"):
            read([{"query": "", "pos": ["p"]}], empty="skip")

    def test_gzip(self, tmp_path):
        text = "".join(json.dumps({**FLAG, "query": f"q{i * i}"}) + "\n" for i in range(500)).encode()
        path = tmp_path / "train.jsonl.gz"
        path.write_bytes(gzip.compress(text))
        assert len(read_data(path).queries) == 500
        path.write_bytes(gzip.compress(text)[:-20])
        with pytest.raises(DataError, match=r"train.jsonl.gz, after line \d+: the file is damaged"):
            read_data(path)
        path.write_bytes(text)
        with pytest.raises(DataError, match=r"train.jsonl.gz, after line 0: the file is damaged"):
            read_data(path)

    def test_not_utf8(self, tmp_path):
        (tmp_path / "train.jsonl").write_bytes(b'{"query": "\xff", "pos": ["p"]}\n')
        with pytest.raises(DataError, match="damaged or not UTF-8"):
            read_data(tmp_path / "train.jsonl")


WRITERS = {
    "jsonl": lambda dataset, path: dataset.to_json(path),
    "jsonl.gz": lambda dataset, path: dataset.to_json(path, compression="gzip"),
    "csv": lambda dataset, path: dataset.to_csv(path),
    "tsv": lambda dataset, path: dataset.to_csv(path, sep="\t"),
    "parquet": lambda dataset, path: dataset.to_parquet(path),
}
TEXT = 'a "quoted", text\r\nof three\nlines\tand é'
TABLES: dict[str, tuple[dict, Lists]] = {
    "pairs": (
        {"title": ["q", "q", "r"], "body": ["p", TEXT, "p"]},
        {"q": [("p", 1, None), (TEXT, 1, None)], "r": [("p", 1, None)]},
    ),
    "triplets": (
        {"anchor": ["q", "q"], "positive": ["p", "p"], "negative": ["None", "NA"]},
        {"q": [("p", 1, None), ("None", 0, None), ("NA", 0, None)]},
    ),
    "triplets with FlagEmbedding's names": (
        {"query": ["q"], "pos": ["p"], "neg": ["n"]},
        {"q": [("p", 1, None), ("n", 0, None)]},
    ),
    "several negatives": (
        {"dataset_name": ["x", "x"], "a": ["q", "r"], "b": ["p", "o"], "c": ["m", "m"], "d": ["n", "p"]},
        {"q": [("p", 1, None), ("m", 0, None), ("n", 0, None)], "r": [("o", 1, None), ("m", 0, None), ("p", 0, None)]},
    ),
    "binary labels": (
        {"label": [1, 0, 0], "sentence1": ["q", "q", "r"], "sentence2": ["p", "n", "p"]},
        {"q": [("p", 1, None), ("n", 0, None)], "r": [("p", 0, None)]},
    ),
    "boolean labels": (
        {"q": ["q", "q"], "d": ["p", "n"], "labels": [True, False]},
        {"q": [("p", 1, None), ("n", 0, None)]},
    ),
    "scored pairs": (
        {"sentence1": ["q", "q"], "sentence2": ["a", "b"], "label": [0.5, 1.0]},
        {"q": [("a", None, 0.5), ("b", None, 1.0)]},
    ),
    "whole scores": (
        {"sentence1": ["q", "q"], "sentence2": ["a", "b"], "score": [5, 0]},
        {"q": [("a", None, 5.0), ("b", None, 0.0)]},
    ),
    "scored lists": (
        {"query": ["q", "r"], "doc_1": ["a", "a"], "doc_2": ["b", "c"], "scores": [[1.5, -2.0], [0.25, 1.0]]},
        {"q": [("a", None, 1.5), ("b", None, -2.0)], "r": [("a", None, 0.25), ("c", None, 1.0)]},
    ),
    "labelled lists": (
        {"query": ["q"], "doc_1": ["a"], "doc_2": ["b"], "labels": [[0, 1]]},
        {"q": [("a", 0, None), ("b", 1, None)]},
    ),
    "scored triplets": (
        {"query": ["q"], "answer": ["a"], "negative": ["b"], "scores": [[1.5, -2.0]]},
        {"q": [("a", 1, 1.5), ("b", 0, -2.0)]},
    ),
}
LIST_TABLES: dict[str, tuple[dict, Lists]] = {
    "lists with scores": (
        {"query": ["q", "r"], "docs": [["a", "b"], ["c"]], "labels": [[0.5, 2.0], [1.0]]},
        {"q": [("a", None, 0.5), ("b", None, 2.0)], "r": [("c", None, 1.0)]},
    ),
    "lists with labels": (
        {"query": ["q", "r"], "docs": [["a", "b"], ["c"]], "labels": [[1, 0], [1]]},
        {"q": [("a", 1, None), ("b", 0, None)], "r": [("c", 1, None)]},
    ),
    "FlagEmbedding": (
        {"query": ["q"], "pos": [["a"]], "neg": [["b", "c"]], "pos_scores": [[0.5]], "neg_scores": [[0.25, 0.0]]},
        {"q": [("a", 1, 0.5), ("b", 0, 0.25), ("c", 0, 0.0)]},
    ),
}


class TestColumns:
    @pytest.mark.parametrize("kind", WRITERS)
    @pytest.mark.parametrize("table", TABLES)
    def test_what_datasets_writes(self, tmp_path, table, kind):
        columns, expected = TABLES[table]
        WRITERS[kind](Dataset.from_dict(columns), tmp_path / f"train.{kind}")
        assert lists_of(read_data(tmp_path)) == expected

    @pytest.mark.parametrize("kind", ["jsonl", "parquet"])
    @pytest.mark.parametrize("table", LIST_TABLES)
    def test_lists_that_datasets_writes(self, tmp_path, table, kind):
        columns, expected = LIST_TABLES[table]
        WRITERS[kind](Dataset.from_dict(columns), tmp_path / f"train.{kind}")
        assert lists_of(read_data(tmp_path)) == expected

    @pytest.mark.parametrize("kind", ["csv", "tsv"])
    def test_lists_of_texts_do_not_fit_into_csv(self, tmp_path, kind):
        WRITERS[kind](Dataset.from_dict(LIST_TABLES["lists with scores"][0]), tmp_path / f"train.{kind}")
        with pytest.raises(DataError, match=r"train.[ct]sv, line 2: 'labels' holds 2 numbers for 1 documents"):
            read_data(tmp_path)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (["text"], r"has the columns 'text': an example needs a query and a document"),
            (["query;positive"], "separated by commas"),
            (["query", "label"], "an example needs a query and a document"),
            (["q", "d", "label", "score"], "'label' and 'score' are all names of labels. Keep one"),
            (["", "query", "positive"], "index=False"),
            (["query_id", "positive_id", "score"], "'query_id' and 'positive_id' look like ids"),
            (["sentence1", "sentence2", "Label"], "'Label' would be read as a text. Name it 'label' or 'score'"),
            (["a", "b", "similarity_score", "label"], "'similarity_score' would be read as a text"),
            (["id", "query", "positive"], "'id' look like ids"),
            (["answer", "question"], "the first is taken for the query, but 'question' is number 2"),
            (["query", "text", "Positive"], "order must be query, positive, negatives, but 'Positive' is number 3"),
            (["query", "positive_1", "positive_2"], "'positive_2' is number 3.*write a record for each"),
            (["anchor", "negative", "positive"], "'negative' is number 2"),
            (["query", "positive", "other", "scores"], "of all documents or of none .*positive, negative_1"),
            (["query", "doc", "other", "negative", "scores"], "of all documents or of none"),
        ],
    )
    def test_unclear_columns(self, read, columns, message):
        with pytest.raises(DataError, match=message):
            read([dict.fromkeys(columns, "x")])

    @pytest.mark.parametrize(
        ("record", "message"),
        [
            ({"q": "q", "d": "d", "label": "yes"}, "line 2: label must hold finite numbers only; there is 'yes'"),
            ({"q": "q", "d": "d"}, "line 2: label must hold finite numbers only; there is 'None'"),
            ('{"q": "q", "d": "d", "label": NaN}', "line 2: label must hold finite .* 'nan'"),
            ({"q": "q", "d": "d", "label": 1, "more": ""}, "line 2: the first record has no 'more'"),
            ({"q": "q", "d": 3, "label": 1}, "line 2: document 1 must be a text; it is '3'"),
            ({"q": ["q"], "d": "d", "label": 1}, "line 2: the query must be a text"),
            ({"q": "q", "d": ["d", "e", "f"], "label": [1, 0]}, "line 2: 'label' holds 2 numbers for 3 .*margins"),
            (
                {"q": "q", "d": ["d"], "label": [1, 0]},
                "line 2: 'label' holds 2 numbers for 1 documents; give each.*own score.$",
            ),
            ({"q": "r", "d": "d", "label": 0}, "1 times .* both positive and negative .* first: line 2"),
        ],
    )
    def test_a_bad_record(self, read, record, message):
        with pytest.raises(DataError, match=message):
            read([{"q": "r", "d": "d", "label": 1}, record])

    @pytest.mark.parametrize("label", [0.5, [0.5]])
    def test_margins_are_refused(self, read, label):
        with pytest.raises(DataError, match="line 1: 'score' holds 1 numbers for 2 documents.*margins"):
            read([{"query": "q", "d1": "a", "d2": "b", "score": label}])

    def test_lists_without_labels(self, read):
        with pytest.raises(DataError, match="line 1: 'docs' holds lists. Add a column 'labels'.*'query', 'pos' and"):
            read([{"query": "q", "docs": ["a"]}])

    @pytest.mark.parametrize("labels", [[0, 1, 2], [1, -1]])
    def test_whole_numbers_may_be_classes(self, read, labels):
        records = [{"q": "q", "d": f"d{i}", "label": label} for i, label in enumerate(labels)]
        with pytest.raises(DataError, match="'label' holds whole numbers.*rename the column to 'score'"):
            read(records)
        # One fraction is enough to show that they are scores.
        assert len(lists_of(read([{"q": "r", "d": "d", "label": 0.5}, *records]))) == 2
        scores = [{"q": r["q"], "d": r["d"], "score": r["label"]} for r in records]
        assert [score for *_, score in lists_of(read(scores))["q"]] == labels

    def test_keys_may_come_in_any_order_after_the_first_line(self, read):
        data = read([TRIPLET, {"negative": "n", "positive": "p", "anchor": "r"}])
        assert lists_of(data)["r"] == [("p", 1, None), ("n", 0, None)]

    def test_missing_cells(self, tmp_path):
        path = tmp_path / "train.csv"
        path.write_text('query,positive,negative\n"q\nq",p,\n,p,n\nr,,n\n')
        with pytest.raises(DataError, match="train.csv, line 2: document 2 is empty or missing.*data.empty=skip"):
            read_data(path)
        assert lists_of(read_data(path, empty="skip")) == {"q\nq": [("p", 1, None)], "r": [("n", 0, None)]}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('query,doc\n"a\nb",c\n\na,b,c\n', "line 5: 3 cells, but the first line names 2 columns"),
            ("query,doc\na\n", "line 2: 1 cells"),
            ('query,doc\na,b\n"a"b,c\n', "line 3: not valid CSV"),
            ('query,doc\na,b\n"a,c\n', "line 3: not valid CSV"),
            ("q,q\na,b\n", "line 1: a column's name occurs twice"),
            ("query,doc\n", "no record"),
            ("query,doc,label\na,b,\n", "line 2: label must hold finite numbers only; there is ''"),
            ("query,doc,label\na,b,nan\n", "line 2: label must hold finite numbers"),
        ],
    )
    def test_bad_csv(self, tmp_path, text, message):
        (tmp_path / "train.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            read_data(tmp_path)

    @pytest.mark.parametrize("name", ["train.csv", "train.tsv", "train.csv.gz"])
    @pytest.mark.parametrize("rows", [["what is it|the thing", "who|me"], ["what is it|the thing|1", "who|me|0"]])
    def test_a_first_line_that_may_be_data_is_refused(self, tmp_path, name, rows):
        """Its pair would be lost without a word."""
        text = "\n".join(rows).replace("|", "\t" if "tsv" in name else ",").encode()
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
        with pytest.raises(DataError, match=f"{name} has the columns 'what is it', 'the thing'.*first line must name"):
            read_data(tmp_path)

    def test_headers_as_people_write_them(self, tmp_path):
        for header in ("query, positive", "Question,Answer", "sentence1,sentence2", "anchor ,reply", "frage,text"):
            (tmp_path / "train.csv").write_text(f"{header}\n007,1e5\n")
            data = read_data(tmp_path)
            assert (data.queries.texts, data.corpus.texts) == (["007"], ["1e5"])

    def test_a_cell_of_any_length(self, tmp_path):
        limit = csv.field_size_limit()
        for name, separator in (("train.csv", ","), ("dev.tsv", "\t")):
            (tmp_path / name).write_text(f"query{separator}positive\nq{separator}{'x' * 200_000}\n")
            assert [len(text) for text in read_data(tmp_path, name[:-4]).corpus.texts] == [200_000]
        assert csv.field_size_limit() == limit

    def test_a_parquet_file_with_two_columns_of_a_name(self, tmp_path):
        table = pa.table([pa.array(["q"]), pa.array(["a"]), pa.array(["b"])], names=["query", "positive", "positive"])
        pq.write_table(table, tmp_path / "train.parquet")
        with pytest.raises(DataError, match="train.parquet: a column's name occurs twice"):
            read_data(tmp_path)

    def test_csv_from_excel(self, tmp_path):
        (tmp_path / "train.csv").write_bytes(b"\xef\xbb\xbfscore,query,positive\r\n0.5,q,p\r\n")
        assert lists_of(read_data(tmp_path)) == {"q": [("p", None, 0.5)]}

    def test_pandas_row_numbers(self, tmp_path):
        pd.DataFrame({"query": ["q"], "positive": ["p"]}).to_csv(tmp_path / "train.csv")
        with pytest.raises(DataError, match="index=False"):
            read_data(tmp_path)

    @pytest.mark.parametrize(
        "odd",
        [
            pa.array([2**62], pa.timestamp("us")),
            pa.array([2**30], pa.date32()),
            pa.array([0], pa.timestamp("us", tz="Mars/Olympus")),
        ],
    )
    def test_a_parquet_file_with_values_that_python_has_not(self, tmp_path, odd):
        table = pa.table({"query": ["a"], "positive": ["b"], "when": odd})
        pq.write_table(table, tmp_path / "train.parquet")
        with pytest.raises(DataError, match=r"train.parquet, after row 0: .*odd values"):
            read_data(tmp_path)

    def test_bad_parquet(self, tmp_path):
        path = tmp_path / "train.parquet"
        Dataset.from_dict({"q": ["a", None], "d": ["b", "c"]}).to_parquet(path)
        with pytest.raises(DataError, match="train.parquet, row 2: the query is empty or missing"):
            read_data(path)
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(DataError, match="train.parquet, after row 0: the file is damaged"):
            read_data(path)


class TestReadData:
    def test_beir(self, beir):
        assert read_data(beir, "dev").hash == read_beir(beir, "dev").hash
        assert has_split(beir, "dev")
        assert not has_split(beir, "test")

    def test_splits_of_a_folder(self, tmp_path):
        write_jsonl(tmp_path / "train.jsonl", [FLAG])
        (tmp_path / "dev.tsv").write_text("query\tpositive\nq\tp\n")
        (tmp_path / "README.md").write_text("")
        assert lists_of(read_data(tmp_path, "dev")) == {"q": [("p", 1, None)]}
        assert [has_split(tmp_path, split) for split in ("train", "dev", "README")] == [True, True, False]
        with pytest.raises(DataError, match="has no split 'test'; there are: dev, train. Training data is a BEIR"):
            read_data(tmp_path, "test")

    def test_a_file_is_the_training_split(self, tmp_path):
        path = tmp_path / "some.data.jsonl"
        write_jsonl(path, [FLAG])
        assert read_data(path).name == "some.data"
        assert has_split(path, "train")
        assert not has_split(path, "dev")
        with pytest.raises(DataError, match="has no split 'dev'; there are: train"):
            read_data(path, "dev")

    def test_two_files_of_one_split(self, tmp_path):
        write_jsonl(tmp_path / "train.jsonl", [FLAG])
        write_jsonl(tmp_path / "train.json", [FLAG])
        with pytest.raises(DataError, match="train.json and train.jsonl are the same split. Keep one"):
            read_data(tmp_path)

    def test_nothing_fits(self, tmp_path):
        accepted = r"Training data is a BEIR folder .*train.jsonl, dev.jsonl.*\.parquet, \.jsonl, \.jsonl\.gz"
        (tmp_path / "train.txt").write_text("")
        for path, what in ((tmp_path, "holds no"), (tmp_path / "train.txt", "holds no"), (tmp_path / "x", "not exist")):
            for call in (read_data, lambda p: has_split(p, "dev")):
                with pytest.raises(DataError, match=f"{what}.*{accepted}"):
                    call(path)


class TestRetrievalData:
    def test_what_is_given_takes_part_in_the_hash(self, read):
        def hash_of(**scores: list) -> str:
            return read([{"query": "q", "pos": ["p"], "neg": ["n"], **scores}]).hash

        plain = read([FLAG])
        without = RetrievalData(plain.name, plain.corpus, plain.queries, plain.qrels)
        hashes = {plain.hash, without.hash, hash_of(pos_scores=[1]), hash_of(pos_scores=[2]), hash_of(neg_scores=[1])}
        assert len(hashes) == 5
        assert hash_of(pos_scores=[1]) == hash_of(pos_scores=[1.0])

    def test_the_hash_of_other_data_stays(self):
        data = RetrievalData("x", TextStore(["d"], ["a"]), TextStore(["q"], ["b"]), {"q": {"d": 1}})
        assert data.hash == "91a8695ad84f94a94638a727831f3d27b5047c19f1805f63ed598de65fd774b2"

    def test_a_subset_keeps_what_is_given(self, read):
        data = read([FLAG, {"query": "r", "pos": ["o"], "pos_scores": [3]}, {"query": "s", "pos": ["p"]}])
        assert lists_of(data.subset([1])) == {"r": [("o", 1, 3.0)]}
        assert data.subset([1]).corpus is data.corpus

    def test_two_splits_share_a_corpus(self, read):
        train, dev = read([FLAG]), read([{"query": "r", "pos": ["new"], "neg": ["n"]}])
        before = lists_of(train), lists_of(dev)
        train, dev = share_corpus(train, dev)
        assert train.corpus is dev.corpus
        assert train.corpus.texts == ["p", "n", "new"]
        assert (lists_of(train), lists_of(dev)) == before
        assert share_corpus(train, dev)[0].corpus is train.corpus
