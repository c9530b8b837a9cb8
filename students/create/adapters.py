# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Pretrained models of which only adapters learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retort.students.create.encoders import pretrained
from retort.students.makers import student_maker
from retort.students.seeding import seeded

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@student_maker
def lora(
    model: str,
    *,
    r: int = 16,
    alpha: int | None = None,
    dropout: float = 0.0,
    target_modules: str | list[str] = "all-linear",
    seed: int = 0,
    **options: Any,
) -> SentenceTransformer:
    r"""
    Start from a pretrained model whose weights stay, and let low-rank changes of them learn (LoRA, Hu et al. 2021).

    $$W' = W + \frac{\alpha}{r} B A$$

    with $B$ starting at 0. The student is saved with them merged, as a plain folder.

    ```yaml
    student:
      type: retort.students.create.lora
      init_parameters: {model: intfloat/e5-base-v2, r: 8, target_modules: [query, value]}
    ```

    :param model:
        A folder, a Hub id, or `package:NAME/SUBFOLDER`.
    :param r:
        Rank of the changes.
    :param alpha:
        $\alpha$; None is $2r$.
    :param dropout:
        Share of $A$'s inputs that is dropped in training.
    :param target_modules:
        Names, or ends of names, of the linear layers that are changed; `all-linear`: all of the encoder's.
    :param seed:
        Seed of $A$.
    :param options:
        As of `pretrained`.
    :raises ValueError:
        If the extra `peft` is not installed, or the model has no such layers.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        msg = "lora needs peft: `pip install 'retort-haystack[peft]'`."
        raise ValueError(msg) from error
    started = pretrained(model, **options)
    config = LoraConfig(
        r=r, lora_alpha=2 * r if alpha is None else alpha, lora_dropout=dropout, target_modules=target_modules
    )
    with seeded(seed):
        started.add_adapter(config)
    for name, parameter in started.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()  # small steps are lost in less; the weights may be stored in it
    return started
