"""Patient-wise cross-validation of the X-ray tasks: every image is answered by a head that saw none of its patient.

How strongly a task's head is shrunk, how much each branch of an ensemble has to say, and how long an upper block is
trained with it, is settled once, on the validation part of the main split; then each fold is trained on all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.calibrate import fit_temperature, negative_log_likelihood, tempered
from training.heads import EPOCHS, Learner, Rows
from training.shrinkage import STRENGTHS
from training.tasks import Task
from training.views import Examples

Log = list[dict[str, Any]]
#: What is tried, by the number of branches: what each branch's logits count in the head's.
SHARES: dict[int, tuple[tuple[float, ...], ...]] = {
    1: ((1.0,),),
    2: ((0.5, 0.5), (0.4, 0.6), (0.3, 0.7), (0.2, 0.8), (0.1, 0.9)),
}


@dataclass(frozen=True)
class Plan:
    """How a task is trained: its head's inverse penalty, its branches' shares, the epochs of an upper block with it."""

    strength: float
    shares: tuple[float, ...] = (1.0,)
    epochs: int = 0
    log: Log = field(default_factory=list)


@dataclass(frozen=True)
class Trained:
    """A head, and the weights of the trunks that were trained with it."""

    head: Any
    trunks: Mapping[str, Any]


@dataclass(frozen=True)
class Folds:
    """Out-of-fold probabilities (N, classes) of a task, and what answered for the first fold."""

    probabilities: NDArray[np.float32]
    first: Trained


def settle(task: Task, trunks: Mapping[str, Any], examples: Examples, train: Rows, val: Rows) -> Plan:
    """The plan that serves the validation part best, found out by training on `train` alone."""
    learner = Learner(task, trunks, examples, train)
    log: Log = []
    plans: list[Plan] = []
    for strength in STRENGTHS:
        regressions = learner.shrink(strength, examples, train)
        for shares in SHARES[len(task.trunks)]:
            learner.carry(regressions, shares)
            tried = {"stage": f"{task.name} head", "strength": strength, "share": shares[0]}
            log.append(tried | scores(learner, examples, train, val))
            plans.append(Plan(strength, shares))
    best = plans[int(np.argmin([row["val_loss"] for row in log]))]
    if not learner.uppers:
        return replace(best, log=log)
    learner.carry(learner.shrink(best.strength, examples, train), best.shares)
    found = learner.raise_upper(EPOCHS, examples, train, val)
    return replace(best, epochs=1 + int(np.argmin([row["val_loss"] for row in found])), log=log + found)


def scores(learner: Learner, examples: Examples, train: Rows, val: Rows) -> dict[str, float]:
    """Surprise and accuracy on both parts, at the temperature that suits the validation part."""
    found, activation = {}, learner.task.activation
    held = learner.predict(examples, val)
    temperature = fit_temperature(held, examples.numbers[val], activation)
    for prefix, probabilities, rows in (("", learner.predict(examples, train), train), ("val_", held, val)):
        numbers = examples.numbers[rows]
        calibrated = tempered(probabilities, temperature, activation)
        found[f"{prefix}loss"] = negative_log_likelihood(calibrated, numbers, activation)
        found[f"{prefix}accuracy"] = float((probabilities.argmax(1) == numbers).mean())
    return found


def train(
    task: Task, make_trunks: Callable[[], Mapping[str, Any]], plan: Plan, examples: Examples, rows: Rows
) -> tuple[Learner, Trained]:
    """A task trained on `rows` by its plan, on trunks of its own."""
    trunks = make_trunks()
    learner = Learner(task, trunks, examples, rows)
    learner.carry(learner.shrink(plan.strength, examples, rows), plan.shares)
    if plan.epochs:
        learner.raise_upper(plan.epochs, examples, rows)
    return learner, Trained(learner.head(), trunks)


def cross_validate(
    task: Task,
    make_trunks: Callable[[], Mapping[str, Any]],
    plan: Plan,
    examples: Examples,
    parts: Sequence[Rows],
    report: Callable[[str], None],
) -> Folds:
    """The answers for each part by what was trained on the other parts."""
    probabilities = np.zeros((len(examples.numbers), len(task.classes)), np.float32)
    found = []
    for number, part in enumerate(parts):
        others = np.setdiff1d(np.concatenate(list(parts)), part)
        learner, trained = train(task, make_trunks, plan, examples, others)
        probabilities[part] = learner.predict(examples, part)
        right = (probabilities[part].argmax(1) == examples.numbers[part]).mean()
        report(f"{task.name}: fold {number + 1}/{len(parts)}, accuracy {right:.3f}")
        found.append(trained)
    return Folds(probabilities, found[0])
