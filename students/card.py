# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The model card: a student folder's README.md, written from its manifest."""

import re
from typing import Any

from retort.students.manifest import Manifest

_MEASURES = {"ndcg@10": "nDCG@10", "mrr@10": "MRR@10", "recall@20": "Recall@20", "recall@100": "Recall@100"}
_COSTS = {"ms": ("ms a query", 1), "documents_per_s": ("documents a second", 0), "mb": ("MB", 0)}  # label, decimals


def model_card(manifest: Manifest, *, ours: bool = False) -> str:
    """
    Write the card.

    :param manifest:
        The student's manifest.
    :param ours:
        Whether a class of retort's is in it, for which sentence-transformers asks.
    :returns:
        Markdown with the Hub's front matter.
    """
    kind = manifest.kind
    parts = [
        "---",
        "library_name: sentence-transformers",
        f"pipeline_tag: {_TASKS.get(kind, 'sentence-similarity')}",
        "tags: [retort, haystack, sentence-transformers, distillation]",
        "---",
        "",
        f"# {_TITLES.get(kind, f'A {kind} student')}",
        "",
        _what(manifest),
        "",
        *_where_from(manifest),
        *_how_good(manifest),
        *_exports(manifest),
        "## Use in Haystack",
        "",
        "```yaml",
        "components:",
        *_YAML.get(kind, _EMBEDDER_YAML),
        "```",
        "",
        "## Use with sentence-transformers",
        "",
        "```python",
        *_python(manifest, ours=ours),
        "```",
        "",
        "## Limits",
        "",
        *_limits(manifest),
        "",
    ]
    return "\n".join(parts)


def _embedder_python(loader: str, *, ours: bool = False) -> list[str]:
    trust = ", trust_remote_code=True)  # a class of retort's, which must be installed" if ours else ")"
    return [
        f"from sentence_transformers import {loader}",
        "",
        f'model = {loader}("path/to/this/folder"{trust}',
        'queries, documents = model.encode_query(["..."]), model.encode_document(["..."])',
        "scores = model.similarity(queries, documents)",
    ]


def _component(name: str, place: str, more: str = "") -> list[str]:
    return [
        f"  {name}:",
        f"    type: haystack_integrations.components.{place}",
        f"    init_parameters: {{model: path/to/this/folder{more}}}",
    ]


_EMBEDDER_YAML = _component("embedder", "embedders.retort.student_text_embedder.StudentTextEmbedder")
_VIEWS = "embedders.retort.student_multi_view_document_embedder.StudentMultiViewDocumentEmbedder"
# What kinds have of their own; the others are used alike.
_TASKS = {"ranker": "text-ranking", "sparse": "feature-extraction"}
_IMAGES = "embedders.retort.student_document_image_embedder.StudentDocumentImageEmbedder"
_TITLES = {
    "ranker": "A student that ranks",
    "multi_view": "A student of several views",
    "image_text": "A student that finds pictures by texts",
}
_YAML = {
    "ranker": _component("ranker", "rankers.retort.student_ranker.StudentRanker", ", top_k: 10"),
    "sparse": _component("embedder", "embedders.retort.student_sparse_text_embedder.StudentSparseTextEmbedder"),
    # `questions`: where in a document's metadata they are.
    "multi_view": [*_EMBEDDER_YAML, *_component("document_embedder", _VIEWS, ", questions_field: questions")],
    "image_text": [*_EMBEDDER_YAML, *_component("document_embedder", _IMAGES, ", file_path_meta_field: file_path")],
}
_PYTHON = {
    "ranker": [
        "from sentence_transformers import CrossEncoder",
        "",
        'model = CrossEncoder("path/to/this/folder")',
        'scores = model.predict([("a query", "a document")])',
    ],
    "sparse": _embedder_python("SparseEncoder"),
    "image_text": [
        "from PIL import Image",
        "from sentence_transformers import SentenceTransformer",
        "",
        'model = SentenceTransformer("path/to/this/folder")',
        'queries, pictures = model.encode_query(["..."]), model.encode_document([Image.open("picture.png")])',
        "scores = model.similarity(queries, pictures)",
    ],
}


def _python(manifest: Manifest, *, ours: bool) -> list[str]:
    if manifest.kind != "multi_view":
        return _PYTHON.get(manifest.kind, _embedder_python("SentenceTransformer", ours=ours))
    rule, parts = manifest.view_rule, ["a question", "a document that answers it"]
    first, second = parts if rule.question == "before" else reversed(parts)
    scores = {
        "max": "model.similarity(queries, views)  # a document has the best score of its views",
        "mean": "model.similarity(queries, views.mean(0, keepdims=True))  # a document has one vector",
    }
    return [
        "from sentence_transformers import SentenceTransformer",
        "",
        'model = SentenceTransformer("path/to/this/folder")',
        f'view = f"{first} {{model.tokenizer.sep_token}} {second}"  # one for each of its questions',
        'queries, views = model.encode_query(["..."]), model.encode_document([view])',
        f"scores = {scores[rule.combine]}",
    ]


def _what(manifest: Manifest) -> str:
    lengths = ", ".join(f"{side} {n}" for side, n in manifest.max_tokens.items() if n)
    if manifest.kind == "ranker":
        return f"A cross-encoder: it scores a query and a document together. Tokens at most: {lengths or 'not set'}."
    views = ""
    if manifest.kind == "multi_view":
        views = {
            "max": " A document has a vector for each question that it answers.",
            "mean": " A document's vector is the mean of those that it has with each question that it answers.",
        }[manifest.view_rule.combine]
    return (
        f"A bi-encoder of {manifest.dim} dimensions{', most of them 0' if manifest.kind == 'sparse' else ''}; "
        f"vectors are compared by {manifest.similarity}.{views} "
        f"Tokens at most: {lengths or 'not set'}. "
        f"Space `{manifest.space[:12]}`: an index fits every query encoder of the same space."
    )


def _where_from(manifest: Manifest) -> list[str]:
    lines = []
    if manifest.recipe:
        lines.append(f"- recipe: {_code(manifest.recipe)}")
    for teacher in manifest.teachers:
        model = teacher.get("init_parameters", {}).get("model")
        kind = str(teacher.get("type", "")).rpartition(".")[2]
        lines.append(f"- teacher {_code(teacher.get('name'))}: {_code(kind)}{f' over {_code(model)}' if model else ''}")
    if manifest.data:
        lines.append(f"- data: {_code(manifest.data.get('name'))} ({_code(str(manifest.data.get('hash'))[:12])})")
    lines.extend(f"- started from the model with fingerprint {_code(parent[:12])}" for parent in manifest.parents)
    return ["## Where it comes from", "", *lines, ""] if lines else []


def _code(name: Any) -> str:
    """Write a name that others chose as code on one line: Markdown shows it as it stands, HTML and links as well."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(str(name).split()))
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def _how_good(manifest: Manifest) -> list[str]:
    metrics = manifest.metrics
    if not metrics:
        return []
    figures = {_MEASURES[name]: f"{metrics[name]:.4f}" for name in _MEASURES if name in metrics}
    figures |= {label: f"{metrics[name]:.{digits}f}" for name, (label, digits) in _COSTS.items() if name in metrics}
    return [
        "## How good, how fast",
        "",
        f"{_measured_on(manifest, metrics, 'dev queries', 'with')}; times are the training machine's.",
        "",
        f"| {' | '.join(figures)} |",
        f"|{'---|' * len(figures)}",
        f"| {' | '.join(figures.values())} |",
        "",
    ]


def _measured_on(manifest: Manifest, sizes: dict[str, Any], queries: str, views: str) -> str:
    told = f"Measured on {sizes.get('queries', '?')} {queries}, "
    if manifest.kind == "ranker":
        return f"{told}ordering BM25's first documents"
    seen = f", seen {views} their questions" if manifest.kind == "multi_view" else ""
    return f"{told}over {sizes.get('documents', '?')} documents{seen}"


def _exports(manifest: Manifest) -> list[str]:
    measured = [e for e in manifest.exports if e.get("ndcg") is not None]
    if not measured:
        return []
    rows = [
        f"| {'onnx' if e['file'] else 'torch'} {e['precision']} | {e['ndcg']:.4f} | {e['ms']:.2f} | {e['mb']:.0f} "
        f"| {'served by default' if e['chosen'] else verdict(e)} |"
        for e in measured
    ]
    return [
        "## Its forms on a CPU",
        "",
        *_sample(manifest, measured[0]),
        f"| form | nDCG@10 | ms a {'list' if manifest.kind == 'ranker' else 'query'} | MB | |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]


def verdict(entry: dict[str, Any]) -> str:
    """Say of a form that was measured whether it is as good as the float32 model."""
    if entry["good"]:
        return "good"
    return "lossy" if entry.get("lossy", True) else "too few questions to tell"  # earlier versions knew no interval


def _sample(manifest: Manifest, entry: dict[str, Any]) -> list[str]:
    if "queries" not in entry:  # of an earlier version
        return []
    told = _measured_on(manifest, entry, "queries", "without")
    if any(entry[name] < manifest.metrics.get(name, 0) for name in ("queries", "documents")):
        told += ": a sample, so compare the forms with each other, not with the figures above"
    return [f"{told}.", ""]


def _limits(manifest: Manifest) -> list[str]:
    if manifest.data and manifest.metrics:
        lines = ["- It was chosen and measured on the data named above; elsewhere, measure first (`retort evaluate`)."]
    else:
        lines = ["- It is not known how good it is on your data: measure first (`retort evaluate`)."]
    cut = {side: n for side, n in manifest.max_tokens.items() if n}
    if cut:
        lines.append(
            f"- Longer texts are cut ({', '.join(f'{side}: {n} tokens' for side, n in cut.items())}): split them."
        )
    lines.append("- What its teachers and trunk know wrongly it may have learned from them.")
    return lines
