"""Patient-wise cross-validation of the X-ray tasks: every image is answered by a head that saw none of its patient.

A task's epochs are settled once, on the validation part of the main split; then each fold is trained on all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.heads import HEAD, UPPER, Learner, Rows, Stage
from training.tasks import Task
from training.views import Examples

Log = list[dict[str, Any]]
Weights = dict[str, Any]
WARM = 4  # epochs of the head alone before a trunk's upper block moves


@dataclass(frozen=True)
class Plan:
    """How long a task is trained: its stages and their epochs."""

    stages: tuple[tuple[Stage, int], ...]
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


def settle(task: Task, trunks: Mapping[str, Any], examples: Examples, train: Rows, val: Rows) -> tuple[Plan, Learner]:
    """How many epochs serve the validation part best; and the learner that found out, trained on `train` alone."""
    learner = Learner(task, trunks, examples, train)
    last = UPPER if learner.uppers else HEAD
    log = learner.fit(HEAD, WARM, examples, train) if learner.uppers else []
    log += (found := learner.fit(last, last.epochs, examples, train, val))
    best = 1 + int(np.argmin([row["val_loss"] for row in found]))
    stages = ((HEAD, WARM), (UPPER, best)) if learner.uppers else ((HEAD, best),)
    return Plan(stages, log), learner


def train(
    task: Task, make_trunks: Callable[[], Mapping[str, Any]], plan: Plan, examples: Examples, rows: Rows
) -> tuple[Learner, Trained]:
    """A task trained on `rows` by its plan, on trunks of its own."""
    trunks = make_trunks()
    learner = Learner(task, trunks, examples, rows)
    for stage, epochs in plan.stages:
        learner.fit(stage, epochs, examples, rows)
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
