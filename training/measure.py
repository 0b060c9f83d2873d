"""Probabilities and truth to the numbers that a model card gives, with intervals that respect patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

from training.data import SEED

RESAMPLES = 1000
BINS = 10

Probabilities = NDArray[np.floating[Any]]
Numbers = NDArray[np.int64]


def measure(
    probabilities: Probabilities, numbers: Numbers, classes: Sequence[str], patients: Sequence[str]
) -> dict[str, Any]:
    """Everything about N predictions (N, classes) of known class numbers; intervals are 95 %, by patient."""
    guessed = probabilities.argmax(1)
    matrix = confusion_matrix(numbers, guessed, labels=range(len(classes)))
    return {
        "images": len(numbers),
        "patients": len(set(patients)),
        "scores": scores(probabilities, numbers),
        "intervals": intervals(probabilities, numbers, patients),
        "ece": calibration_error(probabilities, numbers),
        "classes": {name: one_class(matrix, number) for number, name in enumerate(classes)},
        "confusion": {"rows": "truth", "columns": "prediction", "order": list(classes), "counts": matrix.tolist()},
    }


def scores(probabilities: Probabilities, numbers: Numbers) -> dict[str, float]:
    """Accuracy, macro F1 and ROC AUC (mean over classes, each against the rest) of the classes that occur."""
    guessed, present = probabilities.argmax(1), np.unique(numbers)
    found = {
        "accuracy": float((guessed == numbers).mean()),
        "macro_f1": float(f1_score(numbers, guessed, labels=present, average="macro", zero_division=0)),
    }
    if len(present) > 1:
        found["auc"] = float(np.mean([roc_auc_score(numbers == k, probabilities[:, k]) for k in present]))
    return found


def intervals(probabilities: Probabilities, numbers: Numbers, patients: Sequence[str]) -> dict[str, list[float]]:
    """95 % percentile bootstrap of `scores`; whole patients are drawn, since their images are alike."""
    rng = np.random.default_rng(SEED)
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    rows = [np.flatnonzero(owner == number) for number in range(owner.max() + 1)]
    drawn = [np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))]) for _ in range(RESAMPLES)]
    samples = [scores(probabilities[part], numbers[part]) for part in drawn]
    names = scores(probabilities, numbers)
    return {
        name: [float(q) for q in np.percentile([s[name] for s in samples if name in s], [2.5, 97.5])] for name in names
    }


def calibration_error(probabilities: Probabilities, numbers: Numbers) -> float:
    """Expected calibration error of the winning class: mean distance of confidence from accuracy, in ten bins."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == numbers
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs(float(confidence[bins == b].sum() - right[bins == b].sum())) for b in range(BINS)]
    return sum(gaps) / len(numbers)


def one_class(matrix: NDArray[np.int64], number: int) -> dict[str, float | None]:
    """Sensitivity and specificity of a class against all others; None where no image could show it."""
    hit, truth, guessed, total = matrix[number, number], matrix[number].sum(), matrix[:, number].sum(), matrix.sum()
    rest = total - truth
    return {
        "sensitivity": float(hit / truth) if truth else None,
        "specificity": float(1 - (guessed - hit) / rest) if rest else None,
    }
