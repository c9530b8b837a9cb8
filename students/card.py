# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""The model card: a student folder's README.md, written from its manifest."""

from retort.students.manifest import Manifest

_MEASURES = {"ndcg@10": "nDCG@10", "mrr@10": "MRR@10", "recall@20": "Recall@20", "recall@100": "Recall@100"}


def model_card(manifest: Manifest) -> str:
    """
    Write the card.

    :param manifest:
        The student's manifest.
    :returns:
        Markdown with the Hub's front matter.
    """
    ranker = manifest.kind == "ranker"
    parts = [
        "---",
        "library_name: sentence-transformers",
        f"pipeline_tag: {'text-ranking' if ranker else 'sentence-similarity'}",
        "tags: [retort, haystack, sentence-transformers, distillation]",
        "---",
        "",
        f"# A {manifest.kind} student" if not ranker else "# A student that ranks",
        "",
        _what(manifest),
        "",
        *_where_from(manifest),
        *_how_good(manifest),
        *_exports(manifest),
        "## Use in Haystack",
        "",
        "```yaml",
        *(_RANKER_YAML if ranker else _EMBEDDER_YAML),
        "```",
        "",
        "## Use with sentence-transformers",
        "",
        "```python",
        *(_RANKER_PYTHON if ranker else _EMBEDDER_PYTHON),
        "```",
        "",
        "## Limits",
        "",
        *_limits(manifest),
        "",
    ]
    return "\n".join(parts)


_EMBEDDER_YAML = [
    "components:",
    "  embedder:",
    "    type: haystack_integrations.components.embedders.retort.student_text_embedder.StudentTextEmbedder",
    "    init_parameters: {model: path/to/this/folder}",
]
_RANKER_YAML = [
    "components:",
    "  ranker:",
    "    type: haystack_integrations.components.rankers.retort.student_ranker.StudentRanker",
    "    init_parameters: {model: path/to/this/folder, top_k: 10}",
]
_EMBEDDER_PYTHON = [
    "from sentence_transformers import SentenceTransformer",
    "",
    'model = SentenceTransformer("path/to/this/folder")',
    'queries, documents = model.encode_query(["..."]), model.encode_document(["..."])',
    "scores = model.similarity(queries, documents)",
]
_RANKER_PYTHON = [
    "from sentence_transformers import CrossEncoder",
    "",
    'model = CrossEncoder("path/to/this/folder")',
    'scores = model.predict([("a query", "a document")])',
]


def _what(manifest: Manifest) -> str:
    lengths = ", ".join(f"{side} {n}" for side, n in manifest.max_tokens.items() if n)
    if manifest.kind == "ranker":
        return f"A cross-encoder: it scores a query and a document together. Tokens at most: {lengths or 'not set'}."
    return (
        f"A bi-encoder of {manifest.dim} dimensions; vectors are compared by {manifest.similarity}. "
        f"Tokens at most: {lengths or 'not set'}. "
        f"Space `{manifest.space[:12]}`: an index fits every query encoder of the same space."
    )


def _where_from(manifest: Manifest) -> list[str]:
    lines = []
    if manifest.recipe:
        lines.append(f"- recipe: `{manifest.recipe}`")
    for teacher in manifest.teachers:
        model = teacher.get("init_parameters", {}).get("model")
        kind = str(teacher.get("type", "")).rpartition(".")[2]
        lines.append(f"- teacher `{teacher.get('name')}`: {kind}{f' over `{model}`' if model else ''}")
    if manifest.data:
        lines.append(f"- data: {manifest.data.get('name')} (`{str(manifest.data.get('hash'))[:12]}`)")
    lines.extend(f"- started from the model with fingerprint `{parent[:12]}`" for parent in manifest.parents)
    return ["## Where it comes from", "", *lines, ""] if lines else []


def _how_good(manifest: Manifest) -> list[str]:
    metrics = manifest.metrics
    if not metrics:
        return []
    figures = {_MEASURES[name]: f"{metrics[name]:.4f}" for name in _MEASURES if name in metrics}
    figures |= {
        "ms a query": f"{metrics.get('ms', 0):.1f}",
        "documents a second": f"{metrics.get('documents_per_s', 0):.0f}",
        "MB": f"{metrics.get('mb', 0):.0f}",
    }
    documents = f"over {metrics.get('documents', '?')} documents"
    task = "ordering BM25's first documents" if manifest.kind == "ranker" else documents
    return [
        "## How good, how fast",
        "",
        f"Measured on {metrics.get('queries', '?')} dev queries, {task}; times are the training machine's.",
        "",
        f"| {' | '.join(figures)} |",
        f"|{'---|' * len(figures)}",
        f"| {' | '.join(figures.values())} |",
        "",
    ]


def _exports(manifest: Manifest) -> list[str]:
    measured = [e for e in manifest.exports if e.get("ndcg") is not None]
    if not measured:
        return []
    rows = [
        f"| {'onnx' if e['file'] else 'torch'} {e['precision']} | {e['ndcg']:.4f} | {e['ms']:.2f} | {e['mb']:.0f} "
        f"| {'served by default' if e['chosen'] else '' if e['good'] else 'lossy'} |"
        for e in measured
    ]
    return [
        "## Its forms on a CPU",
        "",
        "| form | nDCG@10 | ms a query | MB | |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]


def _limits(manifest: Manifest) -> list[str]:
    lines = ["- It was chosen and measured on the data named above; elsewhere, measure first (`retort evaluate`)."]
    cut = {side: n for side, n in manifest.max_tokens.items() if n}
    if cut:
        lines.append(
            f"- Longer texts are cut ({', '.join(f'{side}: {n} tokens' for side, n in cut.items())}): split them."
        )
    lines.append("- What its teachers and trunk know wrongly it may have learned from them.")
    return lines
