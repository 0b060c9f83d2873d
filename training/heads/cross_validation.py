"""Patient-wise cross-validation of a task: every image is answered by a head that saw none of its patient.

How strongly each branch of a task's head is shrunk, how much it has to say, and how long an upper block is trained with
it, is chosen once, on images of no test part; then each fold is trained on all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.heads.calibrate import fit_temperature, negative_log_likelihood, tempered
from training.heads.learner import EPOCHS, Learner, Rows
from training.heads.shrinkage import STRENGTHS
from training.tasks import Task
from training.views import Examples

Log = list[dict[str, Any]]
Split = tuple[Rows, Rows]  # to train on, and to validate on
#: What the logits of an ensemble's branches count in the head's: what is tried.
SHARES = ((0.5, 0.5), (0.4, 0.6), (0.3, 0.7), (0.2, 0.8), (0.1, 0.9))


@dataclass(frozen=True)
class Plan:
    """How a task is trained: its branches' inverse penalties and shares, the epochs of an upper block with its head."""

    strengths: tuple[float, ...]
    shares: tuple[float, ...] = (1.0,)
    epochs: int = 0
    log: Log = field(default_factory=list)

    def branch(self, number: int) -> Plan:
        """How a branch is trained when it answers alone."""
        return Plan((self.strengths[number],), epochs=self.epochs)


@dataclass(frozen=True)
class Trained:
    """A head, and the weights of the backbones that were trained with it."""

    head: Any
    backbones: Mapping[str, Any]


@dataclass(frozen=True)
class Folds:
    """Out-of-fold probabilities (N, classes) of a task, and what answered for the first fold."""

    probabilities: NDArray[np.float32]
    first: Trained


def splits_of(parts: Sequence[Rows]) -> list[Split]:
    """Each part to validate on, and all the others to train on."""
    everyone = np.concatenate(list(parts))
    return [(np.setdiff1d(everyone, part), part) for part in parts]


def select_hyperparameters(
    task: Task, backbones: Mapping[str, Any], examples: Examples, splits: Sequence[Split]
) -> Plan:
    """Choose the plan that serves the splits' validation parts best, each answered by what was trained on the other.

    Each branch's penalty first, by its answers alone, then their shares. How long an upper block is trained is found
    out on the first split.
    """
    count, log = len(task.backbones), Log()
    learners = [Learner(task, backbones, examples, train) for train, _ in splits]
    fitted = [
        {strength: learner.shrink([strength] * count, examples, train) for strength in STRENGTHS}
        for learner, (train, _) in zip(learners, splits, strict=True)
    ]

    def carry(strengths: Sequence[float], shares: Sequence[float]) -> None:
        for learner, found in zip(learners, fitted, strict=True):
            learner.carry([found[strength][branch] for branch, strength in enumerate(strengths)], shares)

    def loss(strengths: Sequence[float], shares: Sequence[float]) -> float:
        carry(strengths, shares)
        tried = {"stage": f"{task.name} head", "strength": " ".join(map(str, strengths)), "share": float(shares[0])}
        log.append(tried | scores(learners, examples, splits))
        return float(log[-1]["val_loss"])

    strengths = tuple(min(STRENGTHS, key=lambda one: loss([one] * count, alone)) for alone in np.eye(count).tolist())
    shares = min(SHARES, key=lambda each: loss(strengths, each)) if count > 1 else (1.0,)
    best = Plan(strengths, shares, log=log)
    learner, (train, val) = learners[0], splits[0]
    if not learner.uppers:
        return best
    carry(strengths, shares)
    found = learner.raise_upper(EPOCHS, examples, train, val)
    return replace(best, epochs=1 + int(np.argmin([row["val_loss"] for row in found])), log=log + found)


def scores(learners: Sequence[Learner], examples: Examples, splits: Sequence[Split]) -> dict[str, float]:
    """Surprise and accuracy over all splits' parts of both kinds, at the temperature that suits validation."""
    activation = learners[0].task.activation

    def answers(part: int) -> tuple[NDArray[np.float32], Rows]:
        rows = [split[part] for split in splits]
        said = [learner.predict(examples, mine) for learner, mine in zip(learners, rows, strict=True)]
        return np.concatenate(said), examples.numbers[np.concatenate(rows)]

    seen, held = answers(0), answers(1)
    temperature = fit_temperature(*held, activation)
    found = {}
    for prefix, (probabilities, numbers) in (("", seen), ("val_", held)):
        calibrated = tempered(probabilities, temperature, activation)
        found[f"{prefix}loss"] = negative_log_likelihood(calibrated, numbers, activation)
        found[f"{prefix}accuracy"] = float((probabilities.argmax(1) == numbers).mean())
    return found


def train(
    task: Task, make_backbones: Callable[[], Mapping[str, Any]], plan: Plan, examples: Examples, rows: Rows
) -> tuple[Learner, Trained]:
    """Return a task trained on `rows` by its plan, on backbones of its own."""
    backbones = make_backbones()
    learner = Learner(task, backbones, examples, rows)
    learner.carry(learner.shrink(plan.strengths, examples, rows), plan.shares)
    if plan.epochs:
        learner.raise_upper(plan.epochs, examples, rows)
    return learner, Trained(learner.head(), backbones)


def cross_validate(
    task: Task,
    make_backbones: Callable[[], Mapping[str, Any]],
    plan: Plan,
    examples: Examples,
    parts: Sequence[Rows],
    report: Callable[[str], None],
) -> Folds:
    """Return the answers for each part by what was trained on the other parts."""
    probabilities = np.zeros((len(examples.numbers), len(task.classes)), np.float32)
    found = []
    for number, (others, part) in enumerate(splits_of(parts)):
        learner, trained = train(task, make_backbones, plan, examples, others)
        probabilities[part] = learner.predict(examples, part)
        right = (probabilities[part].argmax(1) == examples.numbers[part]).mean()
        report(f"{task.name}: fold {number + 1}/{len(parts)}, accuracy {right:.3f}")
        found.append(trained)
    return Folds(probabilities, found[0])
