# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Losses as pure functions of scores and vectors.

Each gives one value a query (or text), not a mean: the loop divides by the count of valid values over all ranks and
accumulation steps. Entries outside a mask take no part, in value or gradient.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def contrastive(scores: Tensor, positive: Tensor, mask: Tensor) -> Tensor:
    r"""
    Multi-positive contrastive loss; a positive never stands in another positive's denominator.

    $$L = \frac{1}{|P|} \sum_{p \in P} -\log \frac{e^{s_p}}{e^{s_p} + \sum_{n \in N} e^{s_n}}$$

    With one positive it is the softmax cross-entropy of DPR (Karpukhin et al. 2020, eq. 2).

    :param scores:
        `[B, N]` student scores, scale and temperature already applied.
    :param positive:
        `[B, N]` bool, the positives to learn from.
    :param mask:
        `[B, N]` bool, what takes part: positives and true negatives. Padding and known positives of the query that
        are not to be learnt from are False.
    :returns:
        `[B]`; 0 for a query without a positive.
    """
    positive = positive & mask
    low = torch.finfo(scores.dtype).min  # not -inf: a row without negatives keeps a finite gradient
    negatives = scores.masked_fill(~mask | positive, low).logsumexp(-1, keepdim=True)
    each = torch.logaddexp(scores, negatives) - scores
    return each.masked_fill(~positive, 0.0).sum(-1) / positive.sum(-1).clamp(min=1)


def listwise_kl(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    *,
    student_temperature: float | Tensor = 1.0,
    teacher_temperature: float | Tensor = 1.0,
    tau_squared: bool = True,
) -> Tensor:
    r"""
    Divergence of the student's list distribution from the teacher's.

    $$L = \tau_s^2 \sum_j p_j \log \frac{p_j}{q_j},
    \quad p = \mathrm{softmax}(T / \tau_t),\; q = \mathrm{softmax}(S / \tau_s)$$

    (Hinton et al. 2015; the factor keeps gradients comparable when the temperature changes.)

    :param student:
        `[B, N]` student scores.
    :param teacher:
        `[B, N]` teacher scores; no gradient reaches them. NaN marks a missing score.
    :param mask:
        `[B, N]` bool, what takes part; missing teacher scores are left out besides.
    :param student_temperature:
        Divides the student's scores; a number, or a tensor that broadcasts to `[B, 1]`.
    :param teacher_temperature:
        The same for the teacher's.
    :param tau_squared:
        Multiply by the squared student temperature.
    :returns:
        `[B]`; 0 where fewer than two entries take part.
    """
    mask = mask & ~teacher.isnan()
    usable = mask.sum(-1, keepdim=True) > 1
    mask = mask & usable
    # Rows without a list become uniform: finite, and without gradient.
    low = torch.finfo(student.dtype).min
    q = (student / student_temperature).masked_fill(~mask, low).masked_fill(~usable, 0.0).log_softmax(-1)
    p = (teacher.detach() / teacher_temperature).masked_fill(~mask, low).masked_fill(~usable, 0.0).log_softmax(-1)
    values = (p.exp() * (p - q)).masked_fill(~mask, 0.0).sum(-1)
    if tau_squared:
        factor = student_temperature**2
        values = values * (factor.reshape(-1) if isinstance(factor, Tensor) else factor)
    return values


def alignment(student: Tensor, teacher: Tensor, *, distance: str = "cosine") -> Tensor:
    r"""
    Distance between student and teacher vectors of the same texts.

    `cosine`: $1 - \cos(u, v)$; `l2`: $\lVert u - v \rVert_2$; `mse`: $\frac1d \lVert u - v \rVert_2^2$.

    :param student:
        `[n, d]` student vectors, projected to the teacher's dimension if need be.
    :param teacher:
        `[n, d]` teacher vectors; no gradient reaches them.
    :param distance:
        One of the three.
    :returns:
        `[n]`.
    :raises ValueError:
        If the distance is another, or the dimensions differ.
    """
    if student.shape != teacher.shape:
        shapes = f"student vectors {tuple(student.shape)}, teacher vectors {tuple(teacher.shape)}"
        msg = f"alignment: {shapes}; set projection: true."
        raise ValueError(msg)
    teacher = teacher.detach()
    if distance == "cosine":
        return 1 - F.cosine_similarity(student, teacher, dim=-1)
    if distance == "l2":
        return torch.linalg.vector_norm(student - teacher, dim=-1)
    if distance == "mse":
        return (student - teacher).pow(2).mean(-1)
    msg = f"alignment: distance must be cosine, l2 or mse; it is {distance!r}."
    raise ValueError(msg)
