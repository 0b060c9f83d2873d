"""Temperature scaling (Guo et al. 2017, arXiv 1706.04599): one number that makes probabilities mean what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

TINY = 1e-7
SPAN = (0.25, 8.0)


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
    """The temperature that surprises least on held-out examples; 1 when none does better than leaving them alone."""

    def loss(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        return negative_log_likelihood(tempered(probabilities, temperature, activation), numbers, activation)

    found = minimize_scalar(loss, bounds=np.log(SPAN), method="bounded")
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def cool(head: Any, temperature: float) -> None:
    """Divide a head's logits by the temperature, inside its last layer's weights."""
    last = head.get_layer("probabilities")
    last.set_weights([weights / temperature for weights in last.get_weights()])
