"""More than two classes, a source left out: shrunken regressions of each backbone's means, joined as logits.

The counterpart of training/heads/left_out_sources.py for the ensemble. The published ensemble joins two
backbones; each gets a regression of its own, so that the one with more channels does not speak for both
(training/heads/learner.py), and the weight of each is chosen by what they say of sources that neither was fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shared.inference.heads import softmax
from training.data.folders import Flags, Rows, weights_of
from training.heads.calibrate import fit_temperature, negative_log_likelihood
from training.heads.left_out_sources import Study, spread_of
from training.heads.rounding import bearing
from training.heads.shrinkage import Regression, shrunken

Matrix = NDArray[np.float32]
#: Weights of the first backbone's logits that are tried; the second has the rest.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass
class ClassStudy:
    """A study's images with their class numbers (N,) and the means of each backbone (N, D) by name.

    `rounding` is as the study's, by backbone.
    """

    study: Study
    means: Mapping[str, Matrix]
    numbers: Rows
    classes: int
    strength: float
    rounding: Mapping[str, Matrix] = field(default_factory=dict)
    _bearing: dict[str, tuple[Matrix, Matrix]] = field(default_factory=dict)
    _fitted: dict[str, list[Regression]] = field(default_factory=dict)

    def fit(self, left_out: str = "") -> list[Regression]:
        """One regression for each backbone on its raw means, without a source and its kin."""
        if left_out not in self._fitted:
            rows = self.study.without(left_out) if left_out else self.study.without()
            self._fitted[left_out] = [self._regression(name, rows) for name in self.means]
        return self._fitted[left_out]

    def _regression(self, name: str, rows: Flags) -> Regression:
        seen, turned = self._seen(name, rows)
        centre, numbers = seen.mean(0), self.numbers[rows]
        weights = weights_of(self.study.cells[rows], numbers, self.study.how.evenness).astype(np.float32)
        kernel, bias = shrunken(seen - centre, numbers, weights, self.strength, self.classes)
        return (turned @ kernel).astype(np.float32), (bias - centre @ kernel).astype(np.float32)

    def _seen(self, name: str, rows: Flags) -> tuple[Matrix, Matrix]:
        """Return what a backbone's regression is fitted to, (N, D), and the axes (D, D) that the means are given in."""
        if name in self.rounding:
            if name not in self._bearing:
                _, deviation = spread_of(self.means[name])
                self._bearing[name] = bearing(self.means[name], deviation, self.rounding[name], self.strength)
            means, turned = self._bearing[name]
            return means[rows], turned
        means = self.means[name][rows].astype(np.float32)
        _, deviation = spread_of(means)
        return means / deviation, np.diag(1 / deviation)

    def held_logits(self) -> list[NDArray[np.float64]]:
        """Of each backbone the logits (N, classes) by a regression that does not know the image's source.

        NaN for images of a source without which a class has no image left.
        """
        found = [np.full((len(self.numbers), self.classes), np.nan) for _ in self.means]
        for source in np.unique(self.study.sources).tolist():
            if len(np.unique(self.numbers[self.study.without(source)])) < self.classes:
                continue
            rows = self.study.sources == source
            for held, means, (kernel, bias) in zip(found, self.means.values(), self.fit(source), strict=True):
                held[rows] = means[rows] @ kernel + bias
        return found


@dataclass(frozen=True)
class Joined:
    """What left-out sources chose, and their answers: probabilities (N, classes), NaN where there are none."""

    shares: tuple[float, ...]
    temperature: float
    held: NDArray[np.float64]


def join(study: ClassStudy) -> Joined:
    """Return the weights of the backbones and the temperature that surprise least on left-out sources."""
    held = study.held_logits()
    known: Flags = np.asarray(~np.isnan(held[0]).any(axis=1))
    choices = [(share, 1 - share) for share in SHARES] if len(held) == 2 else [(1.0,)]
    tried = [_joined(held, known, study.numbers, shares) for shares in choices]
    return min(tried, key=lambda one: negative_log_likelihood(one.held[known], study.numbers[known], "softmax"))


def _joined(held: Sequence[NDArray[np.float64]], known: Flags, numbers: Rows, shares: tuple[float, ...]) -> Joined:
    logits = np.sum([share * part for share, part in zip(shares, held, strict=True)], axis=0)
    temperature = fit_temperature(softmax(logits[known]), numbers[known], "softmax")
    return Joined(shares, temperature, softmax(logits / temperature))
