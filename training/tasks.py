"""What is trained: a task per classifier and modality, and the ensemble's branches alone, to compare it with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from training.architectures import (
    BINARY_CLASSES,
    DENSENET,
    ENSEMBLE_CLASSES,
    SIDE,
    VGG,
    binary_head,
    ensemble_head,
)
from training.data import SEED

COVID, REST = BINARY_CLASSES
# Labels that a binary head counts as "not COVID-19"; a label in no list is skipped, and said to be.
NOT_COVID = frozenset({"normal", "pneumonia", "non_covid19", REST})


@dataclass(frozen=True)
class Task:
    """A head to train: its classifier and modality (that of the folder), trunks in input order, and classes."""

    classifier: str
    modality: str
    trunks: tuple[str, ...]
    classes: tuple[str, ...]
    activation: str

    @property
    def name(self) -> str:
        """How the card calls it; a branch is called after its trunk."""
        whole = f"{self.classifier}-{self.modality}"
        return f"{whole}-{self.trunks[0]}" if self in BRANCHES else whole

    def head(self, side: int = SIDE) -> Any:
        """The untrained head for maps of `side` x `side`, the same at every call."""
        keras.utils.set_random_seed(SEED)
        if self.classifier == "binary":
            return binary_head(self.modality, side)
        return ensemble_head(self.modality, side, self.trunks)


TASKS = (
    Task("binary", "xray", (DENSENET,), BINARY_CLASSES, "sigmoid"),
    Task("binary", "ct", (DENSENET,), BINARY_CLASSES, "sigmoid"),
    Task("ensemble", "xray", (VGG, DENSENET), ENSEMBLE_CLASSES, "softmax"),
)
BRANCHES = tuple(Task("ensemble", "xray", (trunk,), ENSEMBLE_CLASSES, "softmax") for trunk in (VGG, DENSENET))


def class_numbers(labels: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """The class of each label, -1 where the classifier has none for it."""
    numbers = {name: number for number, name in enumerate(classes)}
    if REST in numbers:
        numbers |= dict.fromkeys(NOT_COVID, numbers[REST])
    return np.array([numbers.get(label, -1) for label in labels], dtype=np.int64)
