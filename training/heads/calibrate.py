"""Out-of-fold predictions to what an answer means: a temperature, thresholds for a sensitivity, a margin for review.

Everything here is chosen on predictions of networks that did not see the images: of validation folds, never of a
test part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from shared.inference.bundle import OperatingPoint

TINY = 1e-7
SPAN = (0.25, 8.0)
SENSITIVITIES = (0.90, 0.95, 0.98)
# A person looks again where fewer than three in four of the closest calls are right, and at 15 % of images at most.
WORSE_THAN, MOST = 0.75, 0.15


def tempered(probabilities: NDArray[np.floating[Any]], temperature: float, activation: str) -> NDArray[np.float64]:
    """Probabilities (N, classes) as they would be had the logits been divided by `temperature`."""
    p = np.clip(probabilities.astype(np.float64), TINY, 1 - TINY)
    if activation == "sigmoid":
        odds = (p / (1 - p)) ** (1 / temperature)
        return np.asarray(odds / (1 + odds), dtype=np.float64)
    powers = p ** (1 / temperature)
    return np.asarray(powers / powers.sum(1, keepdims=True), dtype=np.float64)


def negative_log_likelihood(
    probabilities: NDArray[np.floating[Any]], numbers: NDArray[np.int64], activation: str
) -> float:
    """Mean surprise of the true classes; for sigmoids, of every output against its one-hot target."""
    p = np.clip(probabilities.astype(np.float64), TINY, 1 - TINY)
    truth = np.eye(p.shape[1])[numbers]
    surprise = -(truth * np.log(p)) - ((1 - truth) * np.log(1 - p) if activation == "sigmoid" else 0.0)
    return float(surprise.sum(1).mean())


def fit_temperature(probabilities: NDArray[np.floating[Any]], numbers: NDArray[np.int64], activation: str) -> float:
    """Return the temperature that surprises least on held-out examples.

    1 when none does better than leaving them alone.

    Guo et al. 2017, arXiv 1706.04599: one number that divides the logits, and never changes which class wins.
    """

    def loss(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        return negative_log_likelihood(tempered(probabilities, temperature, activation), numbers, activation)

    found = minimize_scalar(loss, bounds=np.log(SPAN), method="bounded")
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def apply_temperature(head: Any, temperature: float) -> None:
    """Divide a head's logits by the temperature, inside its last layer's weights."""
    last = head.get_layer("probabilities")
    last.set_weights([weights / temperature for weights in last.get_weights()])


def cross_tempered(
    probabilities: NDArray[np.floating[Any]],
    numbers: NDArray[np.int64],
    parts: Sequence[NDArray[np.int64]],
    activation: str,
) -> NDArray[np.float64]:
    """Out-of-fold predictions (N, classes), those of each part (row numbers) tempered with what the others say.

    So that a calibration error can be measured on images that calibration never saw, without another fold.
    """
    found = probabilities.astype(np.float64)
    for part in parts:
        others = np.setdiff1d(np.arange(len(numbers)), part)
        temperature = fit_temperature(probabilities[others], numbers[others], activation)
        found[part] = tempered(probabilities[part], temperature, activation)
    return found


def operating_points(
    probabilities: NDArray[np.floating[Any]], numbers: NDArray[np.int64], positive: int
) -> tuple[OperatingPoint, ...]:
    """For each wanted sensitivity the highest threshold on class `positive` that reaches it, and what that costs.

    A probability at or above the threshold counts as positive. The threshold lies halfway to the next lower
    probability, so that rounding cannot push an image over it. Empty without images on both sides.
    """
    scores, truth = probabilities[:, positive].astype(np.float64), numbers == positive
    if not truth.any() or truth.all():
        return ()
    points = []
    for target in SENSITIVITIES:
        wanted = int(np.ceil(target * truth.sum() - 1e-9))
        threshold = _just_below(scores, np.sort(scores[truth])[-wanted])
        said = scores >= threshold
        points.append(
            OperatingPoint(
                target_sensitivity=target,
                threshold=threshold,
                sensitivity=float(said[truth].mean()),
                specificity=float(1 - said[~truth].mean()),
            )
        )
    return tuple(points)


def _just_below(scores: NDArray[np.float64], score: float) -> float:
    """Halfway from a score to the next lower one, or to zero."""
    return float((score + np.max(scores[scores < score], initial=0.0)) / 2)


def margins(probabilities: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """How far the likeliest class is ahead of the second (N,)."""
    ordered = np.sort(probabilities.astype(np.float64), axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2], dtype=np.float64)


def review_margin(
    probabilities: NDArray[np.floating[Any]],
    numbers: NDArray[np.int64],
    *,
    worse_than: float = WORSE_THAN,
    most: float = MOST,
) -> float:
    """Return the margin below which an answer wants a second look, chosen on held-out predictions; 0 sends nothing.

    Of the closest calls, the longest run that is right less often than `worse_than`, as long as that sends no more
    than the share `most` of images to review. A sure classifier thus sends few, a doubtful one as many as allowed.
    """
    found = margins(probabilities)
    order = np.argsort(found)
    right = (probabilities.argmax(1) == numbers)[order]
    poor = np.cumsum(right) < worse_than * np.arange(1, len(right) + 1)
    allowed = np.flatnonzero(poor[: int(most * len(right))])
    if not len(allowed):
        return 0.0
    # Halfway to the next margin, for the same reason as with thresholds.
    last = int(allowed[-1])
    return float(found[order[last : last + 2]].mean())
