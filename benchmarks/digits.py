# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
NKD and TF-NKD where their papers use them, in small: classes of images, a wide network that teaches a narrow one.

scikit-learn's digits; teacher 64-256-10, student 64-16-10. A class is a candidate, so that the losses are those that
retrievers are trained with. With clean labels, and with 30% of the training labels flipped (the teacher's, too). Each
seed draws the split, the weights and the flips anew for all arms; p is of a paired t-test over seeds.
"""

from collections.abc import Callable
from typing import Any

import runner

SEEDS, TRAIN, FLIPPED, EPOCHS, BATCH, LR = 20, 400, 0.3, 60, 32, 2e-3
KD_TEMPERATURE = 4.0
BASELINES = {"CE + KD": "CE", "CE + NKD": "CE + KD", "CE + TF-NKD": "CE"}


def main() -> None:
    parser = runner.parser(__file__, __doc__, rounds=SEEDS)
    print(measure(parser.parse_args()))


def measure(arguments: Any) -> str:
    import numpy as np
    import torch
    from scipy.stats import ttest_rel

    from retort.cli.table import format_table
    from retort.students.files import write_json

    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(arguments.rounds):
        for labels, share in (("clean", 0.0), ("30% flipped", FLIPPED)):
            for arm, accuracy in one_seed(seed, share).items():
                found.setdefault(labels, {}).setdefault(arm, []).append(accuracy)
    result: dict[str, Any] = {"benchmark": arguments.benchmark, "seeds": arguments.rounds, "results": {}}
    rows = []
    for labels, arms in found.items():
        for arm, values in arms.items():
            cell: dict[str, Any] = {"accuracy": float(np.mean(values)), "seeds": values}
            base = BASELINES.get(arm)
            if base is not None:
                cell |= {"against": base, "difference": cell["accuracy"] - float(np.mean(arms[base]))}
                cell["p"] = float(ttest_rel(values, arms[base]).pvalue)
            result["results"].setdefault(labels, {})[arm] = cell
            change = f"{cell['difference']:+.4f} to {base} (p {cell['p']:.4f})" if base else ""
            rows.append([f"{labels}: {arm}", f"{cell['accuracy']:.4f}", change])
    result["machine"] = runner.describe_machine()
    write_json(arguments.json or runner.ROOT / "benchmarks" / "results" / f"{arguments.benchmark}.json", result)
    return format_table(["labels: arm", "accuracy", "change"], rows)


def one_seed(seed: int, flipped: float) -> dict[str, float]:
    """Train a teacher and a student each way; give accuracies on what none was trained on."""
    import torch
    from sklearn.datasets import load_digits
    from torch.nn import functional as F

    from retort.trainers import losses
    from retort.trainers.methods import nkd

    images, labels = load_digits(return_X_y=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    x, y = torch.tensor(images / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]
    given = y[:TRAIN].clone()
    wrong = torch.rand(TRAIN, generator=generator) < flipped
    given[wrong] = (given[wrong] + torch.randint(1, 10, (int(wrong.sum()),), generator=generator)) % 10

    def trained(width: int, loss: Callable[[Any, Any, Any], Any]) -> Any:
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=LR)
        batches = torch.Generator().manual_seed(seed)
        for _ in range(EPOCHS):
            for rows in torch.randperm(TRAIN, generator=batches).split(BATCH):
                optimizer.zero_grad()
                loss(model(x[rows]), rows, given[rows]).backward()
                optimizer.step()
        return model

    def ce(scores: Any, _: Any, target: Any) -> Any:
        return F.cross_entropy(scores, target)

    teacher = trained(256, ce)
    with torch.no_grad():
        taught = teacher(x[:TRAIN])

    def parts(scores: Any, rows: Any, target: Any) -> tuple[Any, ...]:
        return scores, taught[rows], F.one_hot(target, 10).bool(), torch.ones_like(scores, dtype=torch.bool)

    def with_kd(scores: Any, rows: Any, target: Any) -> Any:
        student, goal, _, mask = parts(scores, rows, target)
        tau = {"student_temperature": KD_TEMPERATURE, "teacher_temperature": KD_TEMPERATURE}
        return ce(scores, rows, target) + losses.listwise_kl(student, goal, mask, **tau).mean()

    def with_nkd(scores: Any, rows: Any, target: Any) -> Any:
        student, goal, positive, mask = parts(scores, rows, target)
        far = nkd.others(student, goal, positive, mask, 1.0)
        return ce(scores, rows, target) + (nkd.soft_target(student, goal, positive, mask) + 1.5 * far).mean()

    def teacher_free(scores: Any, rows: Any, target: Any) -> Any:
        own = scores.softmax(-1).gather(1, target[:, None])[:, 0]
        weights = nkd.confidence_weights(own, own.mean())
        return ce(scores, rows, target) - (weights * own.log()).mean()

    arms = {"CE": ce, "CE + KD": with_kd, "CE + NKD": with_nkd, "CE + TF-NKD": teacher_free}
    models = {"teacher": teacher} | {name: trained(16, loss) for name, loss in arms.items()}
    with torch.no_grad():
        return {n: float((m(x[TRAIN:]).argmax(1) == y[TRAIN:]).double().mean()) for n, m in models.items()}


if __name__ == "__main__":
    main()
