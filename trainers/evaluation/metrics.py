# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Retrieval metrics: trec_eval's, through `ir_measures`, behind the interface of `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import ir_measures

MEASURES = {"ndcg@10": "nDCG@10", "mrr@10": "RR@10", "recall@20": "R@20", "recall@100": "R@100"}


def per_query(
    rankings: Mapping[str, Sequence[str]], qrels: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, float]]:
    """
    Score rankings query by query.

    :param rankings:
        Per query the document ids, best first. Their order is all that counts: trec_eval would break ties its own way,
        so ranks are turned into strictly decreasing scores.
    :param qrels:
        Per query the judged documents and grades; queries without a ranking score 0.
    :returns:
        Per query the measures of `MEASURES`.
    """
    parsed = {name: ir_measures.parse_measure(text) for name, text in MEASURES.items()}
    names = {measure: name for name, measure in parsed.items()}
    run = {q: {d: float(len(ids) - rank) for rank, d in enumerate(ids)} for q, ids in rankings.items()}
    judged = {q: dict(docs) for q, docs in qrels.items()}
    found: dict[str, dict[str, float]] = {q: dict.fromkeys(MEASURES, 0.0) for q in judged}
    for metric in ir_measures.iter_calc(list(parsed.values()), judged, run):
        if metric.query_id in found:
            found[metric.query_id][names[metric.measure]] = float(metric.value)
    return found


def mean(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Average the measures over queries."""
    return {name: sum(s[name] for s in scores.values()) / max(len(scores), 1) for name in MEASURES}


class RetrievalMetric(evaluate.Metric):
    """
    nDCG@10, MRR@10, Recall@20 and Recall@100 as an `evaluate` metric; nothing is fetched.

    `predictions`: per query the ranked document ids; `references`: per query the judged ids and their grades.

    ### Usage example

    ```python
    from retort.trainers.evaluation.metrics import RetrievalMetric

    metric = RetrievalMetric()
    metric.compute(predictions=[["d3", "d1"]], references=[{"ids": ["d1"], "grades": [1]}])
    ```
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(keep_in_memory=True, **options)

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Retrieval quality by trec_eval's definitions.",
            citation="",
            inputs_description="Ranked document ids, and judged ids with grades, per query.",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(text),
                    "references": {
                        "ids": datasets.Sequence(text),
                        "grades": datasets.Sequence(datasets.Value("int32")),
                    },
                }
            ),
        )

    def _compute(self, predictions: list[list[str]], references: list[dict[str, list[Any]]]) -> dict[str, float]:
        rankings = {str(i): ids for i, ids in enumerate(predictions)}
        qrels = {str(i): dict(zip(r["ids"], r["grades"], strict=True)) for i, r in enumerate(references)}
        return mean(per_query(rankings, qrels))
