# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Training by sentence-transformers on lists that retort drew: same texts, order, learning rates and lengths."""

import time
from pathlib import Path
from typing import Any

SCALE = 20.0


def rows_of(source: Any, steps: int, scores: Any = None) -> list[dict[str, Any]]:
    """
    Write the batches of a stage as a data set's rows, in their order.

    :param source:
        Batches of lists that all have the same length.
    :param steps:
        How many.
    :param scores:
        Gives a batch's teacher scores `[B, N]`, for the column `label`.
    """
    rows = []
    for step in range(steps):
        batch = source.batch(step)
        labels = scores(batch).tolist() if scores else [None] * len(batch.queries)
        for question, index, label in zip(batch.queries, batch.index.tolist(), labels, strict=True):
            row = {"query": question} | {f"doc_{i}": batch.documents[at] for i, at in enumerate(index, 1)}
            rows.append(row if label is None else row | {"label": label})
    return rows


def train_sentence_transformers(
    model: Any,
    rows: list[dict[str, Any]],
    loss: Any,
    *,
    recipe: Any,
    stage: Any,
    out: Path,
    losses: list[float] | None = None,
) -> float:
    """
    Train with `SentenceTransformerTrainer`.

    :param model:
        A `SentenceTransformer`.
    :param rows:
        As `rows_of` gives them.
    :param loss:
        One of its losses.
    :param recipe:
        Gives batch size, seed, clipping and weight decay.
    :param stage:
        Gives steps and learning rate.
    :param out:
        Folder for its files.
    :param losses:
        Gets the loss of each step.
    :returns:
        Seconds.
    """
    import datasets
    import torch
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from torch.utils.data import SequentialSampler

    from retort.trainers.engine.optimizers import parameter_groups, schedule_factor

    def in_order(dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> DefaultBatchSampler:
        return DefaultBatchSampler(SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last)

    training = recipe.training
    settings = SentenceTransformerTrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=training.batch_size,
        max_steps=stage.steps,
        max_grad_norm=training.clip,
        seed=training.seed,
        batch_sampler=in_order,
        # Without a task for its column a text is cut at the model's length, not at the side's.
        router_mapping={name: "query" if name == "query" else "document" for name in rows[0] if name != "label"},
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no" if losses is None else "steps",
        logging_steps=1,
    )
    # Their own schedule makes its first step with a learning rate of 0.
    optimizer = torch.optim.AdamW(parameter_groups(model, stage.lr, training.weight_decay), lr=stage.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: schedule_factor(stage.schedule, training.warmup, step, stage.steps)
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=settings,
        train_dataset=datasets.Dataset.from_list(rows),
        loss=loss,
        optimizers=(optimizer, schedule),
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    model.eval()
    if losses is not None:
        losses += [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return seconds


def distillation_loss(model: Any) -> Any:
    """`DistillKLDivLoss` on cosines as retort scales them."""
    from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss
    from sentence_transformers.util import pairwise_cos_sim

    return DistillKLDivLoss(model, similarity_fct=lambda a, b: SCALE * pairwise_cos_sim(a, b), temperature=1.0)
