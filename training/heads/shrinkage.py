"""A shrunken linear classifier inside a published head: on a few hundred patients nothing that bends did better.

Patient-wise on the X-rays and the means of EfficientNet-Lite2's levels (three classes): penalised logistic regression
is right on 86.2 % of the images; the head's layers trained by gradient descent, with early stopping, weight decay,
dropout, mixed examples or another classifier's answers to imitate, on 81 to 85 %. So the regression is fitted, and the
head's layers carry it: a pair of units for each class holds its logit's positive and negative part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

Matrix = NDArray[np.float32]
Regression = tuple[Matrix, Matrix]  # kernel (D, classes) and bias (classes,)
#: Inverse penalties that are tried, the strongest shrinkage first (C in scikit-learn).
STRENGTHS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
STEPS = 500  # at most; 100 to 300 are enough


def shrunken(means: Matrix, numbers: NDArray[np.int64], weights: Matrix, strength: float, classes: int) -> Regression:
    """Return the logits of standardised `means` (N, D); rows count as their weights say."""
    model = LogisticRegression(C=strength, max_iter=STEPS, tol=1e-3).fit(means, numbers, sample_weight=weights)
    kernel, bias = model.coef_.T, model.intercept_
    if classes == 2:  # one logit, of the second class
        kernel, bias = np.hstack([-kernel, kernel]), np.concatenate([-bias, bias])
    return kernel.astype(np.float32), bias.astype(np.float32)


def carry(head: Any, first: Sequence[Any], kernel: Matrix, bias: Matrix) -> None:
    """Set the weights of `head` so that its logits are kernel and bias; `first` are its branches' first layers."""
    classes = len(bias)
    pair = np.hstack([np.eye(classes), -np.eye(classes)])
    widths = [layer.kernel.shape[0] for layer in first]
    for number, (layer, part) in enumerate(zip(first, np.split(kernel, np.cumsum(widths)[:-1]), strict=True)):
        # The positive and the negative part of each class's share; the bias goes with the first branch.
        _fill(layer, part @ pair, bias @ pair if number == 0 else np.zeros(2 * classes), [0])
    for layer in head.layers:
        if isinstance(layer, layers.Dense) and layer not in first:
            into = pair if layer is not head.layers[-1] else np.eye(classes)
            _fill(layer, pair.T @ into, np.zeros(into.shape[1]), _branches(layer, head, len(first)))


def _branches(layer: Any, head: Any, count: int) -> list[int]:
    """Where the units that count lie in a layer's input: at the start of every branch that it joins."""
    joins = any(isinstance(before, layers.Concatenate) and before.output is layer.input for before in head.layers)
    width = layer.kernel.shape[0]
    return list(range(0, width, width // count)) if joins else [0]


def _fill(layer: Any, block: NDArray[np.floating[Any]], bias: NDArray[np.floating[Any]], starts: Sequence[int]) -> None:
    """Fill a layer that computes `block` of the inputs from each of `starts` on, in its first units; others rest."""
    kernel, offset = (np.zeros(variable.shape, np.float32) for variable in (layer.kernel, layer.bias))
    for start in starts:
        kernel[start : start + len(block), : block.shape[1]] = block
    offset[: len(bias)] = bias
    layer.set_weights([kernel, offset])
