# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
Losses as pure functions of scores and vectors.

Each gives one value a query (or text), not a mean: the loop divides by the count of valid values over all ranks and
accumulation steps. Entries outside a mask take no part, in value or gradient.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Pacing = Literal["log", "linear", "hard"]


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


def marginal_nll(scores: Tensor, positive: Tensor, mask: Tensor) -> Tensor:
    r"""
    $-\log \sum_{i \in P} p_i$: several positives may share the mass. With one it is the cross-entropy.

    :param scores:
        `[B, N]`, scale and temperature already applied.
    :param positive:
        `[B, N]` bool, $P$.
    :param mask:
        `[B, N]` bool, what takes part.
    :returns:
        `[B]`; 0 where no positive takes part, or nothing else.
    """
    positive = positive & mask
    logs = log_distribution(scores, mask).masked_fill(~positive, torch.finfo(scores.dtype).min)
    return -logs.logsumexp(-1).masked_fill(~positive.any(-1) | (mask.sum(-1) < 2), 0.0)  # noqa: PLR2004


def log_distribution(scores: Tensor, mask: Tensor) -> Tensor:
    """
    Logarithm of the softmax over each row's entries that take part.

    :param scores:
        `[B, N]`.
    :param mask:
        `[B, N]` bool, what takes part.
    :returns:
        `[B, N]`; rows of fewer than two entries are uniform: finite, and without a gradient.
    """
    usable = mask.sum(-1, keepdim=True) > 1
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).masked_fill(~usable, 0.0).log_softmax(-1)


def expectation(values: Tensor, logs: Tensor, mask: Tensor) -> Tensor:
    r"""$\sum_j e^{l_j} v_j$ over what takes part of each row, `[B]`; 0 for rows of fewer than two entries."""
    mask = mask & (mask.sum(-1, keepdim=True) > 1)
    return (logs.exp() * values).masked_fill(~mask, 0.0).sum(-1)


def entropy(scores: Tensor, mask: Tensor) -> Tensor:
    """Entropy of each row's softmax over what takes part, in nats: `[B]`; 0 for rows of fewer than two entries."""
    logs = log_distribution(scores, mask)
    return -expectation(logs, logs, mask)


def listwise_kl(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    *,
    student_temperature: float | Tensor = 1.0,
    teacher_temperature: float | Tensor = 1.0,
    tau_squared: bool = True,
    detach: bool = True,
) -> Tensor:
    r"""
    Divergence of the student's list distribution from the teacher's.

    $$L = \tau_s^2 \sum_j p_j \log \frac{p_j}{q_j},
    \quad p = \mathrm{softmax}(T / \tau_t),\; q = \mathrm{softmax}(S / \tau_s)$$

    (Hinton et al. 2015; the factor keeps gradients comparable when the temperature changes.)

    :param student:
        `[B, N]` student scores.
    :param teacher:
        `[B, N]` teacher scores. NaN marks a missing score.
    :param mask:
        `[B, N]` bool, what takes part; missing teacher scores are left out, too.
    :param student_temperature:
        Divides the student's scores; a number, or a tensor that broadcasts to `[B, 1]`.
    :param teacher_temperature:
        The same for the teacher's.
    :param tau_squared:
        Multiply by the squared student temperature.
    :param detach:
        No gradient reaches the teacher's scores.
    :returns:
        `[B]`; 0 where fewer than two entries take part.
    """
    mask = mask & ~teacher.isnan()
    q = log_distribution(student / student_temperature, mask)
    teacher = (teacher.detach() if detach else teacher).masked_fill(
        ~mask, 0.0
    )  # before dividing: a learned temperature would turn NaN
    p = log_distribution(teacher / teacher_temperature, mask)
    values = expectation(p - q, p, mask)
    if tau_squared:
        factor = student_temperature**2
        values = values * (factor.reshape(-1) if isinstance(factor, Tensor) else factor)
    return values


def margin_mse(student: Tensor, teacher: Tensor, positive: Tensor, mask: Tensor) -> Tensor:
    r"""
    Squared difference of margins, mean over all pairs of a positive and a negative.

    $$L = \frac{1}{|P||N|} \sum_{p \in P, n \in N} \big((s_p - s_n) - (t_p - t_n)\big)^2$$

    (Hofstätter et al. 2020, "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
    Distillation", eq. 2.)

    :param student:
        `[B, N]` student scores.
    :param teacher:
        `[B, N]` raw teacher scores; no gradient reaches them. NaN marks a missing score.
    :param positive:
        `[B, N]` bool.
    :param mask:
        `[B, N]` bool, what takes part; missing teacher scores are left out, too.
    :returns:
        `[B]`; 0 where there is no such pair.
    """
    mask = mask & ~teacher.isnan()
    gap = (student - teacher.detach()).masked_fill(~mask, 0.0)
    pairs = (mask & positive)[:, :, None] & (mask & ~positive)[:, None, :]
    squares = (gap[:, :, None] - gap[:, None, :]).pow(2).masked_fill(~pairs, 0.0)
    return squares.sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)


def listwise_mse(student: Tensor, teacher: Tensor, mask: Tensor, *, centred: bool = False) -> Tensor:
    r"""
    Squared difference of the student's and the teacher's scores, mean over each list.

    $$L = \frac{1}{N} \sum_j (s_j - t_j)^2$$

    No temperature is needed: $\tau^2$ times the difference of scores that are divided by $\tau$ is the same.

    :param student:
        `[B, N]` student scores.
    :param teacher:
        `[B, N]` teacher scores; no gradient reaches them. NaN marks a missing score.
    :param mask:
        `[B, N]` bool, what takes part; missing teacher scores are left out, too.
    :param centred:
        Subtract each list's mean from the scores of both first: what is left is the differences within a list.
    :returns:
        `[B]`; 0 where nothing takes part.
    """
    mask = mask & ~teacher.isnan()
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    gap = (student - teacher.detach()).masked_fill(~mask, 0.0)
    if centred:
        gap = (gap - gap.sum(-1, keepdim=True) / count).masked_fill(~mask, 0.0)
    return gap.pow(2).sum(-1) / count.squeeze(-1)


def listwise_bce(scores: Tensor, positive: Tensor, mask: Tensor) -> Tensor:
    r"""
    Binary cross-entropy of each candidate's label, mean over each list.

    $$L = -\frac{1}{N} \Big(\sum_{i \in P} \log \sigma(s_i) + \sum_{j \notin P} \log \sigma(-s_j)\Big)$$

    :param scores:
        `[B, N]` student scores, as logits: at 0 a candidate is as likely relevant as not.
    :param positive:
        `[B, N]` bool, $P$.
    :param mask:
        `[B, N]` bool, what takes part.
    :returns:
        `[B]`; 0 where nothing takes part.
    """
    each = F.softplus(torch.where(positive, -scores, scores)).masked_fill(~mask, 0.0)
    return each.sum(-1) / mask.sum(-1).clamp(min=1)


def ordered_pairs(teacher: Tensor, mask: Tensor) -> Tensor:
    """`[B, N, N]` bool: the teacher puts the former before the latter. NaN marks a missing score."""
    mask = mask & ~teacher.isnan()
    return mask[:, :, None] & mask[:, None, :] & (teacher[:, :, None] > teacher[:, None, :])


def rank_net(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    r"""
    Pairwise logistic loss on the order of the teacher's scores, mean over all pairs that it orders.

    $$L = \frac{1}{|O|} \sum_{(i, j) \in O} \log(1 + e^{-(s_i - s_j)}), \quad O = \{(i, j) : t_i > t_j\}$$

    (Burges et al. 2005, with target probability 1.)

    :param student:
        `[B, N]` student scores.
    :param teacher:
        `[B, N]` scores, or negated ranks: only their order counts. NaN marks a missing score.
    :param mask:
        `[B, N]` bool, what takes part.
    :returns:
        `[B]`; 0 where the teacher orders nothing.
    """
    pairs = ordered_pairs(teacher, mask)
    each = F.softplus(student[:, None, :] - student[:, :, None]).masked_fill(~pairs, 0.0)
    return each.sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)


def list_mle(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    r"""
    Negative log-likelihood of the teacher's order under Plackett and Luce's model, divided by the list's length.

    $$L = -\frac1n \sum_{i=1}^{n} \log \frac{e^{s_{\pi(i)}}}{\sum_{k=i}^{n} e^{s_{\pi(k)}}}$$

    where $\pi$ sorts the teacher's scores, best first (Xia et al. 2008; the paper does not divide). Equal scores keep
    the order of the list.

    :param student:
        `[B, N]` student scores.
    :param teacher:
        `[B, N]` scores, or negated ranks: only their order counts. NaN marks a missing score.
    :param mask:
        `[B, N]` bool, what takes part.
    :returns:
        `[B]`; 0 where fewer than two entries take part.
    """
    mask = mask & ~teacher.isnan()
    order = teacher.masked_fill(~mask, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    sorted_mask = mask.gather(-1, order)
    scores = student.gather(-1, order)
    # Not logcumsumexp: its gradient is NaN where entries are left out.
    after = torch.ones_like(mask[0]).repeat(len(order[0]), 1).triu() & sorted_mask[:, None, :]
    rest = scores[:, None, :].masked_fill(~after, torch.finfo(student.dtype).min).logsumexp(-1)
    each = (rest - scores).masked_fill(~sorted_mask, 0.0)
    return each.sum(-1) / mask.sum(-1).clamp(min=1)


def alignment(student: Tensor, teacher: Tensor, *, distance: str = "cosine") -> Tensor:
    r"""
    Distance between student and teacher vectors of the same texts.

    `cosine`: $1 - \cos(u, v)$; `l2`: $\lVert u - v \rVert_2$; `squared`: $\lVert u - v \rVert_2^2$, of unit vectors
    $2 - 2 \cos(u, v)$; `mse`: $\frac1d \lVert u - v \rVert_2^2$.

    :param student:
        `[n, d]` student vectors, projected to the teacher's dimension if need be.
    :param teacher:
        `[n, d]` teacher vectors; no gradient reaches them.
    :param distance:
        One of the four.
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
    if distance == "squared":
        return (student - teacher).pow(2).sum(-1)
    if distance == "mse":
        return (student - teacher).pow(2).mean(-1)
    msg = f"alignment: distance must be cosine, l2, squared or mse; it is {distance!r}."
    raise ValueError(msg)


def self_paced_weights(loss: Tensor, pace: float | Tensor, how: Pacing) -> Tensor:
    r"""
    Self-paced weights of losses $l$ at a pace $\lambda$; the minimisers of $v l + g(v)$.

    `hard`: $v = [l < \lambda]$, $g = -\lambda v$. `linear`: $v = \max(0, 1 - l / \lambda)$,
    $g = \lambda (v^2 / 2 - v)$. `log`: $v = (1 + e^{-\lambda}) / (1 + e^{l - \lambda})$,
    $g = \mu \log \mu + v \log v - \lambda v$ with $\mu = 1 + e^{-\lambda} - v$. (CuDFKD, Li et al. 2023; `curr_v` in
    its code.)

    :param loss:
        `[B]`, at least 0.
    :param pace:
        $\lambda$, in the unit of the losses.
    :param how:
        One of the three.
    :returns:
        `[B]`, 0 to 1: 1 at no loss, less with more, more with a higher pace.
    """
    pace = torch.as_tensor(pace, dtype=loss.dtype, device=loss.device)
    if how == "hard":
        return (loss < pace).to(loss.dtype)
    if how == "linear":
        return (1 - loss / pace.clamp(min=torch.finfo(loss.dtype).tiny)).clamp(min=0)
    return (1 + (-pace).exp()) * (pace - loss).sigmoid()


def self_paced_latent(loss: Tensor, pace: float | Tensor, how: Pacing) -> Tensor:
    r"""
    What self-paced weights make of the loss: $F_\lambda(l) = \int_0^l v_\lambda(u) \, du$.

    $v l + g(v)$ majorises it up to a constant, so that weighing and a step down on $\sum v l$ lower $\sum F$.

    :param loss:
        `[B]`, at least 0.
    :param pace:
        $\lambda$.
    :param how:
        As in `self_paced_weights`.
    :returns:
        `[B]`.
    """
    pace = torch.as_tensor(pace, dtype=loss.dtype, device=loss.device)
    if how == "hard":
        return loss.minimum(pace)
    if how == "linear":
        reached = loss.minimum(pace)
        return reached - reached**2 / (2 * pace.clamp(min=torch.finfo(loss.dtype).tiny))
    return (1 + (-pace).exp()) * (loss - F.softplus(loss - pace) + F.softplus(-pace))
