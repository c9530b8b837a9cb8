# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Training data in any layout that is read: BEIR, FlagEmbedding, sentence-transformers."""

from pathlib import Path

from retort.trainers.data.beir import EmptyTexts, is_beir, read_beir
from retort.trainers.data.examples import read_examples
from retort.trainers.data.files import SUFFIXES, suffix_of
from retort.trainers.data.texts import RetrievalData
from retort.trainers.runtime.errors import DataError

ACCEPTED = (
    "Training data is a BEIR folder (corpus.jsonl, queries.jsonl, qrels/train.tsv), a folder with a file of examples a "
    "split (train.jsonl, dev.jsonl), or one such file. Examples are FlagEmbedding's (query, pos, neg) or columns as "
    f"sentence-transformers takes them (query, positive, negatives, score), in {', '.join(SUFFIXES)}."
)


def read_data(
    path: str | Path, split: str = "train", *, empty: EmptyTexts = "error", unlabelled: bool = False
) -> RetrievalData:
    """
    Read one split of a data set, in whatever layout it is.

    :param path:
        A BEIR folder (see `read_beir`); a folder with a file of examples for each split, as `train.jsonl`; or one file
        of examples, which is the split `train` (see `read_examples`).
    :param split:
        The split.
    :param empty:
        What to do with an empty query or document: `error`, or `skip` it.
    :param unlabelled:
        As of `read_beir`; a file of examples holds what it holds.
    :returns:
        The data set. The corpus of a file of examples is what that file names (see `share_corpus`).
    :raises DataError:
        If nothing that can be read is there, or it is malformed (named with its line).
    """
    path = Path(path)
    if is_beir(path):
        return read_beir(path, split, empty=empty, unlabelled=unlabelled)
    files = _files(path)
    if split not in files:
        msg = f"{path} has no split {split!r}; there are: {', '.join(files)}. {ACCEPTED}"
        raise DataError(msg)
    if len(files[split]) > 1:
        msg = f"{path}: {' and '.join(f.name for f in files[split])} are the same split. Keep one."
        raise DataError(msg)
    return read_examples(files[split][0], empty=empty)


def read_judged(
    path: str | Path, split: str, *, empty: EmptyTexts = "error", max_queries: int | None = None
) -> RetrievalData:
    """
    Read one split to measure on: as `read_data`, but some query must have a positive.

    :param path:
        As in `read_data`.
    :param split:
        The split.
    :param empty:
        As in `read_data`.
    :param max_queries:
        Keep the first so many queries.
    :raises DataError:
        As in `read_data`; or if no query has a positive: every model would score 0.
    """
    data = read_data(path, split, empty=empty)
    if max_queries is not None:
        data = data.subset(range(min(max_queries, len(data.queries))))
    if not any(grade > 0 for judged in data.qrels.values() for grade in judged.values()):
        msg = (
            f"{path}, split {split!r}: none of {len(data.queries)} queries has a positive to measure by. Give "
            "judgements (qrels, pos, or labels of 0 and 1): scores alone do not say what is relevant."
        )
        raise DataError(msg)
    return data


def has_split(path: str | Path, split: str) -> bool:
    """
    Tell whether a data set has a split.

    :param path:
        As in `read_data`.
    :param split:
        The split.
    :raises DataError:
        If nothing that can be read is there.
    """
    path = Path(path)
    if is_beir(path):
        return (path / "qrels" / f"{split}.tsv").is_file()
    return split in _files(path)


def require_data(path: str | Path) -> None:
    """
    Refuse a path where no training data is, before anything is read.

    :param path:
        As in `read_data`.
    :raises DataError:
        If nothing that can be read is there.
    """
    if not is_beir(Path(path)):
        _files(Path(path))


def _files(path: Path) -> dict[str, list[Path]]:
    """Return the files of examples by split."""
    if not path.exists():
        msg = f"{path} does not exist. {ACCEPTED}"
        raise DataError(msg)
    if path.is_file() and suffix_of(path):
        return {"train": [path]}
    files: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir()) if path.is_dir() else []:
        if file.is_file() and (suffix := suffix_of(file)):
            files.setdefault(file.name.removesuffix(suffix), []).append(file)
    if not files:
        msg = f"{path} holds no training data. {ACCEPTED}"
        raise DataError(msg)
    return files
