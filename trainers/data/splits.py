# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What a run trains on, and what its student is chosen by."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from retort.trainers.data.beir import is_beir, is_corpus_alone, read_corpus
from retort.trainers.data.read import has_split, read_data
from retort.trainers.data.texts import RetrievalData, TextStore, share_corpus
from retort.trainers.recipe import DataSection
from retort.trainers.runtime.errors import DataError
from retort.trainers.runtime.rng import rng_for

logger = logging.getLogger(__name__)

HELD_OUT_SHARE, HELD_OUT_MOST = 0.1, 500


def read_train_and_dev(folder: Path, section: DataSection) -> tuple[RetrievalData, RetrievalData]:
    """
    Read what a run trains on and what it is chosen by.

    Without a dev split some training queries with a positive are held out, and said so: as many as a tenth of all
    queries, but 500 and half of those with a positive at most. A corpus alone, without queries and judgements, is both:
    what trains on documents needs no more. A BEIR folder may have a dev split alone beside it.
    """
    if is_corpus_alone(folder):
        corpus = read_corpus(folder, empty=section.empty)
        alone = RetrievalData(folder.name, corpus, TextStore([], []))
        return alone, alone
    if is_beir(folder) and not any(has_split(folder, name) for name in (section.train, "train")):
        if has_split(folder, section.dev):  # documents to train on, queries to measure with
            dev = read_data(folder, section.dev, empty=section.empty)
            return replace(dev, queries=TextStore([], []), qrels={}), dev
    train = read_data(folder, section.train, empty=section.empty, unlabelled=section.unlabelled)
    if has_split(folder, section.dev):
        train, dev = share_corpus(train, read_data(folder, section.dev, empty=section.empty))
    else:
        judged = np.array([len(rows) > 0 for rows in train.positives()], dtype=bool)
        # Only those with a positive tell a good student from a bad one; half of them at most: they teach as well.
        most = min(HELD_OUT_MOST, round(HELD_OUT_SHARE * len(train.queries)), int(judged.sum()) // 2)
        order = rng_for("held out", train.hash).permutation(len(train.queries))
        order = order[np.argsort(~judged[order], kind="stable")]
        count = max(1, most)
        logger.warning("%s has no %s split: %d training queries are held out for it.", folder, section.dev, count)
        same = train.queries.first_rows  # a question is trained on or measured with, under whatever ids
        train = replace(train, qrels=train.shared_qrels)
        dev, rest = train.subset(order[:count]), order[count:]
        train = train.subset(rest[~np.isin(same[rest], same[order[:count]])])
    if section.max_queries is not None:
        train = replace(train, qrels=train.shared_qrels)  # a query keeps what its doubles know
        train = train.subset(np.arange(min(section.max_queries, len(train.queries))))
    if not len(train.queries):
        msg = f"{folder}: there is no query to train on."
        raise DataError(msg)
    if not any(len(rows) for rows in dev.positives()):
        msg = (
            f"{folder}: no query to choose the best student by has a positive. Add a split {section.dev!r} with "
            "positives (qrels, pos, or labels of 0 and 1): scores alone do not say what is relevant."
        )
        raise DataError(msg)
    return train, dev
