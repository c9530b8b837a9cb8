# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Running miners over all queries, and joining what they found with the judgements."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retort.students.files import read_or_remove, replace_file
from retort.trainers.candidates.lists import LABELS, CandidateLists
from retort.trainers.roles import Context, Miner
from retort.trainers.runtime.progress import progress_bar

MINING_BLOCK = 2048


def mine(miner: Miner, context: Context) -> tuple[np.ndarray, np.ndarray]:
    """
    Run a miner over all queries, or read what it found before.

    Fixed blocks of queries are committed whole, so that a kill loses at most one; a damaged one is made again. What a
    server finds is also kept query by query (see `RetrieverMiner`).

    :param miner:
        The miner.
    :param context:
        Data and models.
    :returns:
        Rows `[q, k]` int32 and scores `[q, k]` float32, best first, positives included, documents that are the query
        itself left out (see `RetrievalData.never_negative`); where fewer than `k` documents were found, rows of -1 with
        NaN for a score.
    """
    folder = context.cache / "mined" / miner.key(context)
    queries = context.data.queries
    blocks = []
    with progress_bar("mining", len(queries)) as update:
        for start in range(0, len(queries), MINING_BLOCK):
            path = folder / f"{start:09d}.npz"
            part = queries.select(range(start, min(start + MINING_BLOCK, len(queries))))
            if (block := read_or_remove(path, _read)) is None:
                rows, scores = miner.mine(context, part)
                with replace_file(path) as aside, aside.open("wb") as file:
                    np.savez(file, rows=rows.astype(np.int32), scores=scores)
                block = _read(path)
            blocks.append(block)
            update(len(part))
    width = max(rows.shape[1] for rows, _ in blocks)
    rows, scores = _joined([r for r, _ in blocks], width, -1), _joined([s for _, s in blocks], width, np.nan)
    return _without_own(context, rows, scores)


def _without_own(context: Context, rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take each query's own documents out of its list; what follows moves up."""
    first = context.data.corpus.first_rows
    own = map(np.setdiff1d, context.data.never_negative, context.data.positives())
    for query, documents in enumerate(own):
        taken = (rows[query] >= 0) & np.isin(first[rows[query]], documents)
        if taken.any():
            order = np.argsort(taken, kind="stable")  # what is taken out comes last
            rows[query], scores[query] = rows[query][order], scores[query][order]
            rows[query, -taken.sum() :], scores[query, -taken.sum() :] = -1, np.nan
    return rows, scores


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as block:
        return block["rows"], block["scores"]


def _joined(blocks: list[np.ndarray], width: int, fill: float) -> np.ndarray:
    """Put blocks of lists under each other, padded to one width."""
    return np.concatenate([np.pad(b, ((0, 0), (0, width - b.shape[1])), constant_values=fill) for b in blocks])


def build_lists(context: Context, miners: dict[str, Miner], *, skip: int = 0, end: int | None = None) -> CandidateLists:
    """
    Join the judgements and what the miners found into one list a query, each document once.

    Labels are 1 for a positive, 0 for a document judged irrelevant, -1 (unknown) for one that was mined.

    :param context:
        Data and models.
    :param miners:
        The sources by name.
    :param skip:
        How many documents at the top of each source to leave out: the more likely ones to be positives unknown.
    :param end:
        Leave out those from this rank on, from 0; None: none.
    """
    # Copies of a text count as one document: a positive's copy is no negative.
    first, never = context.data.corpus.first_rows, context.data.never_negative
    found = [mine(miner, context)[0][:, skip:end] for miner in miners.values()]
    mined = [np.where(rows < 0, -1, first[rows]) for rows in found]
    refuted = context.data.judged(lambda grade: grade <= 0)
    rows: list[int] = []
    labels: list[int] = []
    source: list[int] = []
    found_by: list[int] = []
    offsets = [0]
    for query, positives in enumerate(context.data.positives()):
        negatives = np.setdiff1d(refuted[query], never[query]).tolist()
        entries: dict[int, int] = dict.fromkeys([*positives.tolist(), *negatives], 0)
        finders = dict.fromkeys(entries, 1)
        judged = len(entries)
        depth = max((m.shape[1] for m in mined), default=0)
        for rank in range(depth):
            for number, ranked in enumerate(mined, 1):
                if rank < ranked.shape[1] and ranked[query, rank] >= 0:
                    document = int(ranked[query, rank])
                    entries.setdefault(document, number)
                    finders[document] = finders.get(document, 0) | 1 << number
        rows.extend(entries)
        labels.extend([1] * len(positives) + [0] * (judged - len(positives)) + [-1] * (len(entries) - judged))
        source.extend(entries.values())
        found_by.extend(finders.values())
        offsets.append(len(rows))
    return CandidateLists(
        query_rows=np.arange(len(context.data.queries)),
        offsets=np.array(offsets, dtype=np.int64),
        rows=np.array(rows, dtype=np.int64),
        labels=np.array(labels, dtype=np.int8),
        source=np.array(source, dtype=np.int8),
        found_by=np.array(found_by, dtype=np.int64),
        sources=[LABELS, *miners],
    )
