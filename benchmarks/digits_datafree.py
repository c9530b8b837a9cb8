# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
CuDFKD where its paper uses it, in small: a teacher of images, a student, and no images.

scikit-learn's digits; the teacher is a network 64-128-10 with batch norm, the student 64-32-10. A generator 32-128-64
makes inputs from noise; its loss is that of the official code. Arms differ in the curriculum alone: the schedule of the
adversarial term, the self-paced weights. Each makes as many calls of the teacher. Each seed draws the split and the
weights anew for all arms; p is of a paired t-test over seeds. The spread is the standard deviation of the accuracy over
the checkpoints of the second half.
"""

from typing import Any

import runner

SEEDS, TRAIN, TEACHER_EPOCHS, BATCH, LR = 10, 800, 60, 128, 2e-3
ROUNDS, STUDENT_STEPS, NOISE, TEMPERATURE = 150, 10, 32, 4.0
ENTROPY, SCHEDULE = 20.0, {"start": 0.0, "growth": 0.1, "begin": 0.25 * ROUNDS, "end": 0.75 * ROUNDS}
#: Per arm where inputs come from, whether the adversarial term is scheduled, and the weights of inputs.
ARMS = {
    "random inputs": ("random", False, "none"),
    "generator": ("generator", False, "none"),
    "generator, weights": ("generator", False, "log"),
    "generator, schedule": ("generator", True, "none"),
    "CuDFKD": ("generator", True, "log"),
    "training images": ("images", False, "none"),
}
BASELINES = {"generator": "random inputs"} | dict.fromkeys(list(ARMS)[2:5], "generator")


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
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(arguments.rounds):
        for arm, figures in one_seed(seed).items():
            found.setdefault(arm, []).append(figures)
    result: dict[str, Any] = {"benchmark": arguments.benchmark, "seeds": arguments.rounds, "results": {}}
    rows = []
    for arm, seeds in found.items():
        values = [figures["accuracy"] for figures in seeds]
        cell: dict[str, Any] = {"accuracy": float(np.mean(values)), "seeds": seeds}
        base = BASELINES.get(arm)
        change = ""
        if base is not None:
            others = [figures["accuracy"] for figures in found[base]]
            cell |= {"against": base, "difference": cell["accuracy"] - float(np.mean(others))}
            cell["p"] = float(ttest_rel(values, others).pvalue)
            change = f"{cell['difference']:+.4f} to {base} (p {cell['p']:.4f})"
        result["results"][arm] = cell
        spread = float(np.mean([figures["spread"] for figures in seeds]))
        rows.append([arm, f"{cell['accuracy']:.4f}", f"{spread:.4f}", change])
    result["machine"] = runner.describe_machine()
    write_json(arguments.json or runner.ROOT / "benchmarks" / "results" / f"{arguments.benchmark}.json", result)
    return format_table(["arm", "accuracy", "spread", "change"], rows)


def one_seed(seed: int) -> dict[str, dict[str, float]]:
    """Train a teacher on images, and a student each way; give accuracies on images that none was trained on."""
    import torch
    from sklearn.datasets import load_digits
    from torch import nn
    from torch.nn import functional as F

    from retort.trainers import losses
    from retort.trainers.methods.cudfkd import REACHED, adversarial_weight, worth_of

    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    x, y = torch.tensor(images / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]

    def network(*widths: int, last: Any = None) -> Any:
        first, hidden, outputs = widths
        layers = [nn.Linear(first, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs)]
        return nn.Sequential(*layers, *([] if last is None else [last]))

    def accuracy(model: Any) -> float:
        with torch.no_grad():
            return float((model.eval()(x[TRAIN:]).argmax(1) == y[TRAIN:]).double().mean())

    torch.manual_seed(seed)
    teacher = network(64, 128, 10)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=LR)
    for _ in range(TEACHER_EPOCHS):
        for rows in torch.randperm(TRAIN).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(teacher(x[rows]), y[rows]).backward()
            optimizer.step()
    teacher.eval().requires_grad_(False)

    def generator_loss(made: Any, student: Any, adversarial: float) -> Any:
        """The official code's: sure, balanced, like the data's statistics; where both agree on the class, apart."""
        states = teacher[0](made)
        theirs = teacher[1:](states)
        sure, apart = worth_of(theirs, student(made), torch.ones_like(theirs, dtype=torch.bool), detach=False)
        mean = (theirs / TEMPERATURE).softmax(-1).mean(0)
        entropy = -(mean * mean.clamp(min=1e-12).log()).sum()
        norm = teacher[1]
        statistics = (states.mean(0) - norm.running_mean).norm() + (states.var(0) - norm.running_var).norm()
        return statistics - sure.mean() - ENTROPY * entropy - adversarial * apart.mean()

    def trained(source: str, scheduled: bool, how: str) -> dict[str, float]:
        torch.manual_seed(seed)
        student, generator = network(64, 32, 10), network(NOISE, 128, 64, last=nn.Sigmoid())
        learns = torch.optim.Adam(student.parameters(), lr=LR)
        makes = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.9, 0.99))
        steps, first, seen, checkpoints = ROUNDS * STUDENT_STEPS, [], 0, []
        for number in range(ROUNDS):
            if source == "generator":
                student.eval()
                weight = adversarial_weight(number if scheduled else ROUNDS, **SCHEDULE)
                makes.zero_grad()
                generator_loss(generator(torch.randn(BATCH, NOISE)), student, weight).backward()
                makes.step()
            student.train()
            for _ in range(STUDENT_STEPS + (source != "generator")):  # the generator's step asks the teacher once
                with torch.no_grad():
                    if source == "generator":
                        inputs = generator(torch.randn(BATCH, NOISE))
                    else:
                        inputs = torch.rand(BATCH, 64) if source == "random" else x[torch.randint(TRAIN, (BATCH,))]
                    goal = teacher(inputs)
                own = student(inputs)
                loss = losses.listwise_kl(
                    own,
                    goal,
                    torch.ones_like(goal, dtype=torch.bool),
                    student_temperature=TEMPERATURE,
                    teacher_temperature=TEMPERATURE,
                )
                if how != "none":
                    if not number:
                        first.append(loss.detach())
                    low, high = torch.cat(first).quantile(torch.tensor([0.5, 0.99])).tolist()
                    pace = low + (high - low) * seen / (REACHED * steps)
                    loss = loss * losses.self_paced_weights(loss.detach(), pace, how)
                learns.zero_grad()
                loss.mean().backward()
                learns.step()
                seen += 1
            if number % 5 == 4:
                checkpoints.append(accuracy(student))
        half = torch.tensor(checkpoints[len(checkpoints) // 2 :], dtype=torch.float64)
        return {"accuracy": checkpoints[-1], "spread": float(half.std())}

    return {"teacher": {"accuracy": accuracy(teacher), "spread": 0.0}} | {n: trained(*arm) for n, arm in ARMS.items()}


if __name__ == "__main__":
    main()
