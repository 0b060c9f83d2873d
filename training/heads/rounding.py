"""What another engine does to a backbone's means, as a penalty: a head must not hang on it.

The int8 engine must give the labels that float32 gives (shared/inference/parity.py), so what it does to a mean is put
on top of the mean, exaggerated, while a head is fitted (training/views.py says how far, and why). Here that is done
without the views: noise on what is seen is a quadratic penalty on the weights (Bishop 1995, doi
10.1162/neco.1995.7.1.108), and in axes in which that penalty and the usual one make a sphere together, any penalised
regression bears both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from training.views import EXAGGERATION

Matrix = NDArray[np.float32]
#: The greatest curvature of a logistic loss in its logit.
CURVATURE = 0.25


def axes(differences: Matrix, strength: float, images: int) -> Matrix:
    """Return axes (D, D) for a regression on so many images with the inverse penalty `strength`.

    `differences` (M, D) are those between two engines' means of the same images, on the scale of what is fitted to. Fit
    to `means @ axes`; what is found is `axes @ weights` on the means themselves.
    """
    noise = EXAGGERATION**2 * (differences.T @ differences).astype(np.float64) / len(differences)
    penalty = np.eye(len(noise)) + strength * images * CURVATURE * noise
    lower = np.linalg.cholesky(penalty)
    return np.asarray(solve_triangular(lower, np.eye(len(noise)), lower=True).T, np.float32)


def bearing(means: Matrix, deviation: Matrix, differences: Matrix, strength: float) -> tuple[Matrix, Matrix]:
    """Return all means (N, D) in axes that bear `differences`, channels scaled by their deviation, and these axes."""
    turned = axes(differences / deviation, strength, len(means)) / deviation[:, np.newaxis]
    return means @ turned, turned
