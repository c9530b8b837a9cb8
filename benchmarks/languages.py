# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
BM25 by each corpus' own stemmer and stop words against BM25 by English ones, on manual pages in other languages.

A page's one-line summary is the question, the page without it the document. The pages are Debian's: unpack
`manpages-de` and its like below one folder (`dpkg-deb -x PACKAGE FOLDER`), and name that.
"""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import runner

MEASURE = "ndcg@10"
LONGEST, SHORTEST, LEAST_WORDS = 6000, 200, 3  # characters of a document, words of a question
FEWEST = 50  # pages of a language that is measured


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=1)
    parser.add_argument("--pages", type=Path, required=True, help="folder that the packages were unpacked in")
    arguments = parser.parse_args()
    print(measure(arguments))


def measure(arguments: Any) -> str:
    from retort.cli.table import format_table
    from retort.students.files import write_json
    from retort.trainers import search
    from retort.trainers.languages import ENGLISH, language_of

    found: dict[str, Any] = {}
    for folder in sorted(arguments.pages.rglob("usr/share/man/*")):
        data = pages(folder)
        if len(data.queries) < FEWEST:
            continue
        own = per_question(data)
        search.language_of = lambda _: ENGLISH
        english = per_question(data)
        search.language_of = language_of
        found[folder.name] = {"language": language_of(data.corpus.texts), "english": english, "own": own}
    found["all"] = {which: [x for one in found.values() for x in one[which]] for which in ("english", "own")}
    result = {"benchmark": arguments.benchmark, "machine": runner.describe_machine(), "languages": found}
    write_json(arguments.json or runner.ROOT / "benchmarks" / "results" / f"{arguments.benchmark}.json", result)
    rows = [row_of(name, one) for name, one in found.items()]
    return format_table(["nDCG@10", "told as", "questions", "English rules", "its own", "difference (95%)", "p"], rows)


def row_of(name: str, found: dict[str, Any]) -> list[str]:
    """Compare the two, question by question."""
    from retort.trainers.evaluation.significance import paired_test

    english, own = np.array(found["english"]), np.array(found["own"])
    test = paired_test(english, own)
    difference = f"{test.difference:+.4f} ({test.low:+.4f} to {test.high:+.4f})"
    means = (f"{english.mean():.4f}", f"{own.mean():.4f}")
    return [name, found.get("language", ""), str(len(own)), *means, difference, f"{test.p:.4f}"]


def per_question(data: Any) -> list[float]:
    """Rank by BM25; each question's nDCG@10."""
    from retort.trainers.evaluation.rank import evaluate_bm25

    scores = evaluate_bm25(data).per_query
    return [round(scores[i][MEASURE], 4) for i in data.queries.ids]


def pages(folder: Path) -> Any:
    """Read the pages below a folder; of those with the same summary the first."""
    from retort.trainers.data.texts import RetrievalData, TextStore

    found: dict[str, tuple[str, str]] = {}
    summaries = set()
    for path in sorted(folder.glob("man*/*.gz")):
        page = read_page(gzip.decompress(path.read_bytes()).decode("utf-8", "replace"))
        if page is not None and page[0] not in summaries:
            summaries.add(page[0])
            found[path.name.removesuffix(".gz")] = page
    ids = list(found)
    corpus, queries = TextStore(ids, [found[i][1] for i in ids]), TextStore(ids, [found[i][0] for i in ids])
    return RetrievalData(folder.name, corpus, queries, {i: {i: 1} for i in ids})


def read_page(source: str) -> tuple[str, str] | None:
    """Return a page's summary and what follows it; None if it has no summary of a few words, or little else."""
    parts = re.split(r"^\.S[hH]\b.*$", re.sub(r"^[.']\\\".*$", "", source, flags=re.MULTILINE), flags=re.MULTILINE)
    if len(parts) < 3:
        return None
    summary = plain(parts[1]).partition(" - ")[2]
    text = " ".join(map(plain, parts[2:]))[:LONGEST]
    return (summary, text) if len(summary.split()) >= LEAST_WORDS and len(text) >= SHORTEST else None


def plain(source: str) -> str:
    """Take out roff's requests and escapes."""
    return " ".join(re.sub(r"\\\(..|\\\[[^\]]*\]|\\.", " ", "\n".join(_lines(source))).split())


def _lines(source: str) -> Iterator[str]:
    for line in source.splitlines():
        text = re.sub(r"^\.(B|I|BR|IR|RB|RI|BI|IB|SM|SS)\s+", "", line)
        if not text.startswith("."):
            yield re.sub(r"\\f.", "", text).replace("\\-", "-").replace("\\&", "")


if __name__ == "__main__":
    main()
