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
from training.data.images import SEED

COVID, REST = BINARY_CLASSES
# Labels that a binary head counts as "not COVID-19" when it is trained; another one is an error there.
NOT_COVID = frozenset({"normal", "pneumonia", "non_covid19", "tuberculosis", REST})
# How others write our labels, in lower case and with underscores.
SPELLINGS = {
    **dict.fromkeys(("covid", "covid_19", "covid19_pneumonia", "covid_19_pneumonia", "sars_cov_2"), COVID),
    **dict.fromkeys(("non_covid", "non_covid_19", "not_covid", "no_covid"), "non_covid19"),
    **dict.fromkeys(("healthy", "no_finding"), "normal"),
}


@dataclass(frozen=True)
class Task:
    """A head to train: its classifier and modality (that of the folder), backbones in input order, and classes."""

    classifier: str
    modality: str
    backbones: tuple[str, ...]
    classes: tuple[str, ...]
    activation: str

    @property
    def name(self) -> str:
        """How the card calls it; a branch is called after its backbone."""
        whole = f"{self.classifier}-{self.modality}"
        return f"{whole}-{self.backbones[0]}" if self in BRANCHES else whole

    def head(self, side: int = SIDE) -> Any:
        """Return the untrained head for maps of `side` x `side`, the same at every call."""
        keras.utils.set_random_seed(SEED)
        if self.classifier == "binary":
            return binary_head(self.modality, side)
        return ensemble_head(self.modality, side, self.backbones)


TASKS = (
    Task("binary", "xray", (DENSENET,), BINARY_CLASSES, "sigmoid"),
    Task("binary", "ct", (DENSENET,), BINARY_CLASSES, "sigmoid"),
    Task("ensemble", "xray", (VGG, DENSENET), ENSEMBLE_CLASSES, "softmax"),
)
BRANCHES = tuple(Task("ensemble", "xray", (backbone,), ENSEMBLE_CLASSES, "softmax") for backbone in (VGG, DENSENET))


def plain_label(label: str) -> str:
    """Return a label as we write it: in lower case, with underscores, and other names of ours replaced."""
    plain = "_".join(label.lower().replace("-", " ").replace("_", " ").split())
    return SPELLINGS.get(plain, plain)


def class_numbers(labels: Sequence[str], classes: Sequence[str], *, any_label: bool = False) -> NDArray[np.int64]:
    """Return the class of each label, -1 where the classifier has none for it.

    With `any_label`, as images are measured, a binary classifier has a class for every label that is not empty: what
    is called something else than COVID-19 is not COVID-19 to whoever called it so.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    plain = [plain_label(label) for label in labels]
    if REST in numbers:
        numbers |= dict.fromkeys(NOT_COVID, numbers[REST])
        if any_label:
            numbers = {label: numbers[REST] for label in plain if label} | numbers
    return np.array([numbers.get(label, -1) for label in plain], dtype=np.int64)
