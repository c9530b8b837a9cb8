# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
ADAM: dense retrieval distillation with adaptive dark examples (Tao et al. 2024, arXiv 2212.10192).

A strong ranker gives the positive of a list of hard negatives all the mass, and nothing is left to learn. Dark examples
lie between: negatives that hold a piece of the positive, and positives of which words are missing. The loss is
0.1 `Contrastive` + `ListwiseKL` over the list + `DarkKL`, with `DarkExamples` as the candidates' `text`. No official
code is known; the formulas of the mixing, the confidence and its schedule are ours, along the abstract.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from retort.students.segmentation import token_spans
from retort.trainers import losses
from retort.trainers.batches.base import CandidateBatch
from retort.trainers.candidates.lists import CandidateLists
from retort.trainers.objectives import TeacherObjective, one_of
from retort.trainers.roles import Compared, Context, Derived, Masks, StepContext, TextRequest, TextTransform, Values
from retort.trainers.runtime.rng import rng_for

REINFORCED, NOISY = 1, 2  # kinds of derived candidates


def mix(negative: list[str], span: list[str], place: int) -> list[str]:
    """
    Put a span of the positive into a negative, whose last words make room for it: the length stays.

    :param negative:
        Words.
    :param span:
        Words, no more than the negative has.
    :param place:
        Before which of the words that are left, from 0.
    """
    kept = negative[: len(negative) - len(span)]
    return [*kept[:place], *span, *kept[place:]]


def pieces(text: str, most: int) -> list[str]:
    """Cut a text into words that joined are the text again: each with a blank behind it, if white space follows it."""
    spans = token_spans(text)[: most + 1]
    ends = [start for start, _ in spans[1:]]
    blanks = ["" if end == after else " " for (_, end), after in zip(spans, ends, strict=False)]
    if len(spans) <= most:  # the last word: as all others, that another may come behind it
        blanks.append(" " if " " in blanks or len(spans) == 1 else "")
    return [text[start:end] + blank for (start, end), blank in zip(spans, blanks, strict=False)]


def mask(words: list[str], places: set[int], token: str | None) -> list[str]:
    """Replace words by the mask token, or without one leave them out."""
    if token is None:
        return [word for place, word in enumerate(words) if place not in places]
    return [token if place in places else word for place, word in enumerate(words)]


class DarkExamples(TextTransform):
    r"""
    Derives reinforced negatives and noisy positives, which the teacher scores as they are made.

    A reinforced negative holds a span of the positive of $\rho$ of its own length, at a random place; a noisy positive
    lacks $\mu$ of its words. Both shares are drawn evenly from their bounds.

    :param reinforced:
        Reinforced negatives a list, at most one for each negative; by default half of the list's negatives.
    :param noisy:
        Noisy positives a list; by default the other half.
    :param reinforce:
        Bounds of $\rho$.
    :param noise:
        Bounds of $\mu$.
    :param mode:
        `drop`: words are left out. `mask`: the student's mask token takes their place, for teachers that know it.
    :param words:
        Texts are cut after so many words first: what is put behind the model's last token changes nothing. Scripts
        without spaces have words, too (see `segmentation.token_spans`).
    :param lists:
        Different draws a query, of spans, places and words: after so many epochs they come again. With the candidates'
        `order: top` a teacher is asked for these alone; where negatives are drawn anew, so are reinforced ones.
    :raises ValueError:
        If a number is out of its range.

    ```yaml
    candidates: {sources: [bm25], negatives: 7, text: {type: retort.trainers.methods.adam.DarkExamples}}
    ```
    """

    rewrites = False
    derives = True

    def __init__(
        self,
        *,
        reinforced: int | None = None,
        noisy: int | None = None,
        reinforce: tuple[float, float] = (0.2, 0.6),
        noise: tuple[float, float] = (0.2, 0.7),
        mode: Literal["drop", "mask"] = "drop",
        words: int = 96,
        lists: int = 2,
    ) -> None:
        for name, (low, high) in {"reinforce": reinforce, "noise": noise}.items():
            if not 0 <= low <= high <= 1:
                msg = f"DarkExamples: {name} must be two shares, the lower first; it is {[low, high]}."
                raise ValueError(msg)
        if min(reinforced or 0, noisy or 0) < 0 or words < 1 or lists < 1:
            msg = "DarkExamples: reinforced and noisy are at least 0, words and lists at least 1."
            raise ValueError(msg)
        self.reinforced, self.noisy = reinforced, noisy
        self.reinforce: tuple[float, float] = (reinforce[0], reinforce[1])  # a recipe gives lists
        self.noise: tuple[float, float] = (noise[0], noise[1])
        self.mode = one_of("mode", mode, ("drop", "mask"))
        self.words, self.lists = words, lists
        self._token: str | None = None

    def bind(self, source: Any, tokenizer: Any, negatives: int, room: int | None = None) -> None:  # noqa: ARG002
        """
        Take up the mask token, and halve the negatives.

        :raises ValueError:
            If the tokenizer has no mask token, and `mode` wants one.
        """
        if self.mode == "mask":
            if tokenizer.mask_token is None:
                msg = "DarkExamples: the student's tokenizer has no mask token; set mode: drop."
                raise ValueError(msg)
            self._token = f"{tokenizer.mask_token} "
        self.reinforced = negatives // 2 if self.reinforced is None else self.reinforced
        self.noisy = negatives - negatives // 2 if self.noisy is None else self.noisy

    def derived(self, request: TextRequest) -> list[Derived]:
        """Give reinforced negatives, then noisy positives; none without a positive, or where nothing changes."""
        if not request.positive.any():
            return []
        rng = rng_for("dark", request.query, request.epoch % self.lists)
        texts = [pieces(text, self.words) for text in request.documents]
        positive = texts[int(request.positive.argmax())]
        negatives = [words for words, own in zip(texts, request.positive, strict=True) if not own]
        found = []
        for row in rng.permutation(len(negatives))[: self.reinforced]:
            negative = negatives[row]
            size = min(round(rng.uniform(*self.reinforce) * len(negative)), len(positive))
            start = int(rng.integers(0, len(positive) - size + 1))
            place = int(rng.integers(0, len(negative) - size + 1))
            found.append(Derived("".join(mix(negative, positive[start : start + size], place)).strip(), REINFORCED))
        for _ in range(self.noisy or 0):
            size = round(rng.uniform(*self.noise) * len(positive))
            places = set(rng.permutation(len(positive))[:size].tolist())
            found.append(Derived("".join(mask(positive, places, self._token)).strip(), NOISY))
        originals = set(request.documents)
        return [one for one in found if one.text and one.text not in originals]


def difficulty(scores: np.ndarray, positive: np.ndarray, temperature: float, *, negatives: int | None = None) -> float:
    r"""
    $u = -\log \sum_{i \in P} \mathrm{softmax}(T / \tau)_i$: how unsure a teacher is of a list's positives.

    :param scores:
        `[n]`, NaN where missing.
    :param positive:
        `[n]` bool.
    :param temperature:
        $\tau$.
    :param negatives:
        As if the list had so many, as hard on the whole as those that it has: long lists are not harder for that.
    :returns:
        Above 0; infinite without a scored positive and another.
    """
    known = ~np.isnan(scores)
    wrong, right = (scores[known & side].astype(np.float64) / temperature for side in (~positive, positive))
    if not (len(wrong) and len(right)):
        return np.inf
    gap = np.logaddexp.reduce(wrong) - np.logaddexp.reduce(right)
    # The probabilities themselves would round to 1 where the teacher is sure.
    return float(np.logaddexp(0.0, gap + np.log((negatives or len(wrong)) / len(wrong))))


class DarkKL(TeacherObjective):
    r"""
    Divergence over the positive and its dark examples, for queries of whose standard list the teacher is sure.

    $$L_i = \frac{v_i}{k_e} \, \mathrm{KL}_\tau(T(\tilde D_i) \| S(\tilde D_i)), \quad v_i = [u_i < \lambda_e]$$

    $\lambda_e$ is the quantile of all difficulties $u$ at a keep rate $k_e$ that rises over the stage: self-paced
    learning in closed form, easy queries first. Dividing by $k_e$ makes it the mean over those that are kept.
    `difficulty` comes from the standard candidates: on the dark ones it is high by design.

    :param teacher:
        Name of a teacher that scores texts as they come: a ranker, or one that gives vectors.
    :param temperature:
        $\tau$, of both sides. A stage's `temperature` takes its place, but for the order of difficulties.
    :param keep:
        Keep rates at the stage's first and last step.
    :param joint:
        Compare over the standard list and the dark examples together.
    :param teacher_scale:
        As in `TeacherObjective`.
    :raises ValueError:
        If a keep rate is no share.

    ```yaml
    - {type: retort.trainers.methods.adam.DarkKL, init_parameters: {keep: [0.5, 0.9]}, weight: 1.0}
    ```
    """

    needs_lists = True
    needs_positives = True
    takes_derived = True
    divergence = True

    def __init__(
        self,
        *,
        teacher: str,
        temperature: float = 1.0,
        keep: tuple[float, float] = (0.5, 0.9),
        joint: bool = False,
        teacher_scale: float | None = None,
    ) -> None:
        super().__init__(teacher=teacher, teacher_scale=teacher_scale)
        if not all(0 < rate <= 1 for rate in keep):
            msg = f"DarkKL: keep must be two shares above 0; it is {list(keep)}."
            raise ValueError(msg)
        self.temperature, self.keep, self.joint = temperature, tuple(keep), joint

    def open(self, context: Context, lists: CandidateLists | None) -> dict[str, Tensor]:
        """
        Rank the stage's queries by how sure the teacher is of them.

        :returns:
            `order`: per list the share of lists that are easier, `[q]`; it is kept while that is below the keep rate.
        :raises RecipeError:
            If the stage has no mined lists, or the teacher is in the loop.
        """
        scores = self.mined_scores(context, lists, str(self.teacher))
        assert lists is not None  # noqa: S101 - for the type checker
        cuts = lists.offsets[1:-1]
        pairs = zip(np.split(scores, cuts), np.split(lists.labels == 1, cuts), strict=True)
        hard = np.array([difficulty(own, positive, self.temperature, negatives=1) for own, positive in pairs])
        known, order = np.flatnonzero(np.isfinite(hard)), np.full(len(hard), 2.0)
        order[known[np.argsort(hard[known], kind="stable")]] = np.arange(len(known)) / max(1, len(known))
        return {"order": torch.from_numpy(order).float()}

    def keep_rate(self, ctx: StepContext) -> float:
        """$k_e$ at a step."""
        first, last = self.keep
        return first + (last - first) * ctx.step / max(1, ctx.steps - 1)

    def valid(self, batch: CandidateBatch, teacher: str | None = None) -> Masks:
        """Lists with scored dark examples beside what they are compared with count."""
        dark = self._dark(batch, teacher)
        return {"dark_kl": (dark & self._derived(batch)).any(-1) & (dark.sum(-1) > 1)}

    def compared(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Compared:
        """Scores of the positives and the dark examples."""
        return output.list_scores(batch), self.list_teacher(output, batch, ctx), self._dark(batch, ctx.teacher)

    def forward(self, output: Any, batch: CandidateBatch, ctx: StepContext) -> Values:
        """
        One value a query.

        Logged are the share of the kept, and the teacher's entropy in nats over standard and dark lists, at temperature
        1: the method needs the second to be far above the first.
        """
        rate, counts = self.keep_rate(ctx), self.valid(batch, ctx.teacher)["dark_kl"]
        kept = ctx.state["order"][batch.list_rows] < rate
        student, teacher, dark = self.compared(output, batch, ctx)
        tau = self.temperature if ctx.temperature is None else ctx.temperature
        values = losses.listwise_kl(student, teacher, dark, student_temperature=tau, teacher_temperature=tau)
        hard = self.scored(batch, ctx.teacher) & ~self._derived(batch)
        ctx.logged_terms["dark_kept"] = (kept.to(values.dtype), counts)
        ctx.logged_terms["hard_entropy"] = (losses.entropy(teacher, hard), counts)
        ctx.logged_terms["dark_entropy"] = (losses.entropy(teacher, dark), counts)
        return {"dark_kl": values * kept / rate}

    def _derived(self, batch: CandidateBatch) -> Tensor:
        places = torch.arange(batch.index.shape[1], device=batch.index.device)
        return (places >= batch.index.shape[1] - batch.derived_candidates)[None]

    def _dark(self, batch: CandidateBatch, teacher: str | None) -> Tensor:
        """`[B, N]` bool: the positives and the dark examples; with `joint` all that is scored."""
        scored = self.scored(batch, teacher)
        return scored if self.joint else scored & (self._derived(batch) | (batch.labels == 1))
