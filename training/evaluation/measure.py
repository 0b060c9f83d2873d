"""Probabilities and truth to the numbers that a model card gives, each with an interval that respects patients.

Every statistic is written once, for images that count a given number of times. The sample itself counts each image
once; a bootstrap draw counts it as often as its patient was drawn. So all draws are a few matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.inference.bundle import OperatingPoint
from training.data.images import SEED

RESAMPLES = 1000
BINS = 10
RATES = ("sensitivity", "specificity", "precision", "auc")
# Counts of one block of draws times images that are held at once: 160 MB.
BLOCK = 20_000_000

Probabilities = NDArray[np.floating[Any]]
Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Weights = NDArray[np.float64]  # (draws, N): how often each image counts
Draws = NDArray[np.float64]  # (draws,): a statistic of each draw, NaN where it says nothing
Statistics = Callable[[Weights], dict[str, Draws]]
Estimates = tuple[dict[str, float], dict[str, list[float]]]  # values by name; their 95 % intervals by name


@dataclass(frozen=True)
class Bootstrap:
    """The sample, then 1,000 draws of as many patients with replacement: a patient's images are alike, and go together.

    Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile intervals); always the same draws.
    """

    counts: NDArray[np.int64]  # (1 + draws, patients)
    owner: NDArray[np.intp]  # (N,): whose image it is

    @classmethod
    def of(cls, patients: Sequence[str] | NDArray[np.str_]) -> Bootstrap:
        """Draws of the patients whose images, one name for each, are measured."""
        names, owner = np.unique(np.asarray(patients), return_inverse=True)
        rng = np.random.default_rng(SEED)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
        return cls(np.vstack([np.ones((1, len(names)), drawn.dtype), drawn]), owner)

    def estimate(self, statistics: Statistics) -> Estimates:
        """Values and 95 % intervals of the statistics that the sample allows; the others are left out."""
        blocks = np.array_split(self.counts, 1 + len(self.counts) * len(self.owner) // BLOCK)
        parts = [statistics(block[:, self.owner].astype(np.float64)) for block in blocks]
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        found = {name: draws for name, draws in found.items() if not np.isnan(draws[0])}
        spans = {name: np.nanpercentile(draws[1:], [2.5, 97.5]) for name, draws in found.items()}
        return {name: float(draws[0]) for name, draws in found.items()}, {k: v.tolist() for k, v in spans.items()}

    def shares(self, **flags: Flags) -> Estimates:
        """Return the share of images of which each flag (N,) is true."""
        return self.estimate(lambda weights: {name: share(weights, flag) for name, flag in flags.items()})


def ratio(part: Draws, whole: Draws) -> Draws:
    """`part` / `whole`; NaN where there is nothing to divide by."""
    found = np.full(part.shape, np.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found


def share(weights: Weights, flags: Flags, among: Flags | None = None) -> Draws:
    """Return the share of images with a flag, of all or of those that another flag marks."""
    within = np.ones_like(flags) if among is None else among
    return ratio(weights @ (flags & within), weights @ within)


def measure(
    probabilities: Probabilities,
    numbers: Numbers,
    classes: Sequence[str],
    patients: Sequence[str],
    *,
    to_review: Flags | None = None,
    points: Sequence[OperatingPoint] = (),
    positive: int = 0,
) -> dict[str, Any]:
    """Everything about N predictions (N, classes) of known class numbers; intervals are 95 %, by patient.

    `to_review` marks what a person is asked to look at; `points` are thresholds on the probability of the class
    `positive`. Scores that the images do not allow (the ROC AUC of one class alone) are left out.
    """
    bootstrap, guessed = Bootstrap.of(patients), probabilities.argmax(1)
    scores, intervals = bootstrap.estimate(partial(overall, probabilities, numbers))
    found: dict[str, Any] = {
        "images": len(numbers),
        "patients": len(set(patients)),
        "scores": scores,
        "intervals": intervals,
        "classes": {name: one_class(bootstrap, probabilities, numbers, k) for k, name in enumerate(classes)},
        "confusion": {
            "rows": "truth",
            "columns": "prediction",
            "order": list(classes),
            "counts": confusions(np.ones((1, len(numbers))), numbers, guessed, len(classes))[0].astype(int).tolist(),
        },
    }
    if to_review is not None:
        found["review"] = flat(bootstrap.estimate(lambda weights: reviewed(weights, guessed == numbers, to_review)))
    if points:
        held = probabilities[:, positive]
        found["operating_points"] = [one_point(bootstrap, held, numbers == positive, point) for point in points]
    return found


def flat(estimates: Estimates) -> dict[str, Any]:
    """Values by name, with their intervals beside them under one name."""
    return {**estimates[0], "intervals": estimates[1]}


def ranged(found: Mapping[str, Any], name: str) -> str:
    """Return a value and its interval in words.

    A dash where there is none, the value alone where a card has no interval.
    """
    value, span = found.get(name), found.get("intervals", {}).get(name)
    if value is None:
        return "-"
    return f"{value:.3f} ({span[0]:.3f} to {span[1]:.3f})" if span else f"{value:.3f}"


def overall(probabilities: Probabilities, numbers: Numbers, weights: Weights) -> dict[str, Draws]:
    """Accuracy, macro F1 and ROC AUC (mean over classes, each against the rest) of the classes that occur, and ECE."""
    classes = probabilities.shape[1]
    matrix = confusions(weights, numbers, probabilities.argmax(1), classes)
    truth, guessed, hits = matrix.sum(2), matrix.sum(1), np.einsum("rkk->rk", matrix)
    f1 = ratio(2 * hits, truth + guessed)
    areas = np.stack([area(probabilities[:, k], numbers == k, weights) for k in range(classes)], 1)
    return {
        "accuracy": ratio(hits.sum(1), truth.sum(1)),
        "macro_f1": ratio(np.where(truth > 0, f1, 0).sum(1), (truth > 0).sum(1).astype(np.float64)),
        "auc": ratio(np.nansum(areas, 1), (~np.isnan(areas)).sum(1).astype(np.float64)),
        "ece": calibration_errors(probabilities, numbers, weights),
    }


def confusions(weights: Weights, numbers: Numbers, guessed: Numbers, classes: int) -> NDArray[np.float64]:
    """Return the confusion matrix of each draw (draws, truth, prediction)."""
    cell = np.eye(classes**2)[numbers * classes + guessed]
    matrices: NDArray[np.float64] = (weights @ cell).reshape(-1, classes, classes)
    return matrices


def area(scores: Probabilities, positive: Flags, weights: Weights) -> Draws:
    """Return the area under the ROC curve: how often a positive scores above a negative, ties counting half.

    Mann & Whitney 1947; NaN for draws that hold no positive or no negative.
    """
    order = np.argsort(scores)
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    above = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    below = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
    wins = (above * (below.cumsum(1) - below / 2)).sum(1)
    return ratio(wins, above.sum(1) * below.sum(1))


def calibration_errors(probabilities: Probabilities, numbers: Numbers, weights: Weights) -> Draws:
    """Compute the winning class's expected calibration error: mean distance of confidence from accuracy, in ten bins.

    Naeini et al. 2015, doi 10.1609/aaai.v29i1.9602. Drawing adds noise, and noise can only add to this error: its
    interval lies high, and may lie above the value itself.
    """
    confidence, right = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == numbers
    inside = np.eye(BINS)[np.minimum((confidence * BINS).astype(int), BINS - 1)]
    return ratio(np.abs(weights @ (inside * (confidence - right)[:, np.newaxis])).sum(1), weights.sum(1))


def calibration_error(probabilities: Probabilities, numbers: Numbers) -> float:
    """Return the expected calibration error of N predictions."""
    return float(calibration_errors(probabilities, numbers, np.ones((1, len(numbers))))[0])


def one_class(bootstrap: Bootstrap, probabilities: Probabilities, numbers: Numbers, number: int) -> dict[str, Any]:
    """Return a class against all others, with intervals; None where no image could show it."""
    truth, said = numbers == number, probabilities.argmax(1) == number
    estimates = bootstrap.estimate(
        lambda weights: {
            "sensitivity": share(weights, said, truth),
            "specificity": share(weights, ~said, ~truth),
            "precision": share(weights, truth, said),
            "auc": area(probabilities[:, number], truth, weights),
        }
    )
    return {"images": int(truth.sum()), **dict.fromkeys(RATES), **flat(estimates)}


def reviewed(weights: Weights, right: Flags, to_review: Flags) -> dict[str, Draws]:
    """Return the share sent to review, and the accuracy of those that are and of those that are not."""
    return {
        "share": share(weights, to_review),
        "accuracy_kept": share(weights, right, ~to_review),
        "accuracy_sent": share(weights, right, to_review),
    }


def one_point(bootstrap: Bootstrap, held: Probabilities, truth: Flags, point: OperatingPoint) -> dict[str, Any]:
    """Return what a threshold that was chosen elsewhere does here."""
    said = held >= point.threshold
    estimates = bootstrap.estimate(
        lambda weights: {"sensitivity": share(weights, said, truth), "specificity": share(weights, ~said, ~truth)}
    )
    return {"target_sensitivity": point.target_sensitivity, "threshold": point.threshold, **flat(estimates)}


def against_each(
    probabilities: Probabilities, numbers: Numbers, labels: Sequence[str], patients: Sequence[str], one: str
) -> dict[str, Any]:
    """Return the label `one` against each other label alone: the images of both, and the likelier of their two classes.

    Empty when there is only one other label: that would say what the whole measure says.
    """
    names, found = np.array(labels), {}
    others = sorted(set(labels) - {one})
    for other in others if one in labels and len(others) > 1 else ():
        rows = np.isin(names, [one, other])
        pair = probabilities[rows][:, [numbers[names == label][0] for label in (one, other)]]
        if probabilities.shape[1] > 2:
            pair = pair / pair.sum(1, keepdims=True)
        bootstrap = Bootstrap.of(np.array(patients)[rows].tolist())
        estimates = bootstrap.estimate(partial(overall, pair, np.where(names[rows] == one, 0, 1)))
        found[other] = {"images": int(rows.sum()), **flat(estimates)}
    return found


def summarise_folds(
    probabilities: Probabilities,
    numbers: Numbers,
    classes: Sequence[str],
    patients: Sequence[str],
    *,
    labels: Sequence[str] = (),
    against: str = "",
    note: str = "",
) -> dict[str, Any]:
    """Return a classifier's entry in the card's `cross_validation`: what `measure` says of out-of-fold predictions.

    Each of the N predictions comes from a network that saw no image of its patient. With `labels` (N), also the class
    `against` held against each other label alone; `note` says what was fitted, and on what.
    """
    found = measure(probabilities, numbers, classes, patients)
    pairs = against_each(probabilities, numbers, labels, patients, against) if labels else {}
    return found | ({"against": pairs} if pairs else {}) | ({"note": note} if note else {})
