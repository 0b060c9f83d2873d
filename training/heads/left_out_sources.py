"""Left-one-source-out: every image is answered by a head that knows nothing of its source.

For each source a head is fitted to all others; its scale and offset (Platt 1999) and its margin for review are fitted
to answers that are themselves left-source-out: within the others, each source in turn is answered by a head that knows
neither. So no label, image or threshold of the tested source has a part in its answers (the nested cross-validation of
Varma and Simon 2006, doi 10.1186/1471-2105-7-91, with sources for folds).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from training.data.folders import Flags, Kinship, Rows, cells, weights_of
from training.data.images import FOLDS, SEED, Record
from training.heads.calibrate import MOST, review_margin
from training.heads.rounding import bearing

Matrix = NDArray[np.float32]
Logits = NDArray[np.float64]
STEPS = 300
#: Bounds of the scale's logarithm and of the offset.
SCALES, OFFSETS = (-3.0, 2.0), (-6.0, 6.0)
#: A channel that hardly ever fires is not blown up to the size of the others.
LEAST_DEVIATION = 0.1


@dataclass(frozen=True)
class Fit:
    """How heads are fitted: the inverse penalty (for weights that are 1 on average) and the cells' evenness.

    `most` is the largest share of images that a margin may send to review; `counts` says of which sources an image
    counts more, and how many times.
    """

    strength: float = 3e-3
    evenness: float = 1.0
    most: float = MOST
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Linear:
    """A logit for COVID-19 from a backbone's means (N, D): `means @ kernel + bias`."""

    kernel: NDArray[np.float64]
    bias: float

    def logits(self, means: Matrix) -> Logits:
        """(N,)"""
        return np.asarray(means.astype(np.float64) @ self.kernel + self.bias)

    def scaled(self, scale: float, offset: float) -> Linear:
        """Return the same, its logits times `scale` plus `offset`."""
        return Linear(self.kernel * scale, self.bias * scale + offset)


def spread_of(means: Matrix) -> tuple[Matrix, Matrix]:
    """Mean and deviation (D,) of each channel of means (N, D); a channel that hardly varies is not blown up."""
    deviation = means.std(0)
    return means.mean(0), np.maximum(deviation, LEAST_DEVIATION * float(np.median(deviation)))


@dataclass(frozen=True)
class Calibrated:
    """A head, with what left-out sources within its own training images said about it."""

    head: Linear
    margin: float
    held_logits: Logits  # (N,), calibrated; NaN for images that were not held out
    scale: float
    offset: float


@dataclass
class Study:
    """Images of one modality: backbone means (N, D), records, whether each shows COVID-19, and near-copy groups (N,).

    `rounding` (M, D): how far the means of some images are from those of another engine that has to agree.
    """

    means: Matrix
    records: Sequence[Record]
    positive: Flags
    kinship: Kinship
    copies: Rows
    how: Fit = Fit()
    rounding: Matrix | None = None
    _out: dict[str, Flags] = field(default_factory=dict)
    _fitted: dict[frozenset[str], Linear | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cells = cells(self.records)
        self.sources = np.array([record.source for record in self.records])
        for source in np.unique(self.sources).tolist():
            out = self.kinship.left_out(self.records, source)
            self._out[source] = out | np.isin(self.copies, self.copies[self.sources == source])

    @property
    def numbers(self) -> Rows:
        """1 where an image shows COVID-19."""
        return self.positive.astype(np.int64)

    def without(self, *sources: str) -> Flags:
        """Return the images (N,) that a head may be fitted to when these sources are left out."""
        return ~np.any([self._out[source] for source in sources], axis=0) if sources else np.ones(len(self.cells), bool)

    def fit(self, *left_out: str) -> Linear | None:
        """Return a head fitted without these sources and their kin; None when that leaves one class alone."""
        key = frozenset(left_out)
        if key not in self._fitted:
            rows = self.without(*left_out)
            both = len(np.unique(self.positive[rows])) == 2
            self._fitted[key] = self.fit_rows(rows) if both else None
        return self._fitted[key]

    def fit_rows(self, rows: Flags) -> Linear:
        """Return a head fitted to these images (N,) alone."""
        seen, turned = self._seen(rows)
        centre = seen.mean(0)
        model = LogisticRegression(C=self.how.strength, max_iter=STEPS, tol=1e-3)
        model.fit(seen - centre, self.numbers[rows], sample_weight=self._weights(rows))
        weights = model.coef_[0].astype(np.float64)
        return Linear(turned @ weights, float(model.intercept_[0]) - float(centre @ weights))

    def _seen(self, rows: Flags) -> tuple[Matrix, Matrix]:
        """Return what a head is fitted to, (N, D), and the axes (D, D) that the means are given in."""
        if self.rounding is not None:
            means, turned = self._bearing_rounding
            return means[rows], turned
        means = self.means[rows].astype(np.float32)
        _, deviation = spread_of(means)
        return means / deviation, np.diag(1 / deviation)

    @cached_property
    def _bearing_rounding(self) -> tuple[Matrix, Matrix]:
        """Return all means in axes that bear `rounding`, and these; scaled by all images, whatever their labels."""
        _, deviation = spread_of(self.means)
        return bearing(self.means, deviation, np.asarray(self.rounding), self.how.strength)

    def _weights(self, rows: Flags) -> Matrix:
        """Return how much each of these images counts in a fit, 1 on average."""
        counts = np.array([self.how.counts.get(source, 1.0) for source in self.sources[rows].tolist()])
        weights = counts * weights_of(self.cells[rows], self.numbers[rows], self.how.evenness)
        return np.asarray(weights / weights.mean(), np.float32)

    def calibrated(self, *left_out: str) -> Calibrated | None:
        """Return a head without these sources, its calibration and margin from the others left out in turn."""
        head, known = self.fit(*left_out), self.without(*left_out)
        if head is None:
            return None
        held = np.full(len(known), np.nan)
        for source in np.unique(self.sources[known]).tolist():
            inner = self.fit(*left_out, source)
            rows = known & (self.sources == source)
            if inner is not None:
                held[rows] = inner.logits(self.means[rows])
        rows = ~np.isnan(held)
        if len(np.unique(self.positive[rows])) < 2:
            return Calibrated(head, 0.0, held, 1.0, 0.0)
        return self._on_held(head, held)

    def calibrated_by_patient(self) -> Calibrated:
        """Fit a head on all images, calibrated by patient-wise cross-validation: for sources that it knows."""
        held = np.full(len(self.records), np.nan)
        patients = [record.patient for record in self.records]
        splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
        for seen, rows in splitter.split(held, self.cells, patients):
            held[rows] = self.fit_rows(np.isin(np.arange(len(held)), seen)).logits(self.means[rows])
        return self._on_held(self.fit_rows(self.without()), held)

    def _on_held(self, head: Linear, held: Logits) -> Calibrated:
        """Return the head with scale, offset and margin from the logits (N,) of held-out images (NaN: not)."""
        rows = ~np.isnan(held)
        weights = weights_of(self.cells[rows], self.numbers[rows])
        scale, offset = platt(held[rows], self.positive[rows], weights)
        held = held * scale + offset
        share = two_columns(held[rows])
        margin = review_margin(share, np.where(self.positive[rows], 0, 1).astype(np.int64), most=self.how.most)
        return Calibrated(head.scaled(scale, offset), margin, held, scale, offset)


@dataclass(frozen=True)
class LeftOut:
    """Probabilities of COVID-19 (N,) by heads that do not know each image's source, and who is sent to review (N,).

    NaN for images of a source without which one class alone was left.
    """

    probabilities: NDArray[np.float64]
    to_review: Flags
    margins: Mapping[str, float]


def answer(study: Study) -> LeftOut:
    """Leave out every source in turn."""
    found, review, margins = np.full(len(study.records), np.nan), np.zeros(len(study.records), bool), {}
    for source in np.unique(study.sources).tolist():
        rows, answering = study.sources == source, study.calibrated(source)
        if answering is None:
            continue
        found[rows] = probability(answering.head.logits(study.means[rows]))
        review[rows] = np.abs(2 * found[rows] - 1) < answering.margin
        margins[source] = answering.margin
    return LeftOut(found, review, margins)


def platt(logits: Logits, positive: Flags, weights: NDArray[np.float64]) -> tuple[float, float]:
    """Scale and offset of the logits that surprise least on held-out examples (Platt 1999)."""

    def loss(parameters: NDArray[np.float64]) -> float:
        scaled = np.exp(parameters[0]) * logits + parameters[1]
        return float(np.average(np.logaddexp(0, scaled) - positive * scaled, weights=weights))

    found = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=[SCALES, OFFSETS])
    return float(np.exp(found.x[0])), float(found.x[1])


def probability(logits: Logits) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0, -logits))


def two_columns(logits: Logits) -> NDArray[np.float64]:
    """Probabilities (N, 2) of COVID-19 and of its absence, in the order of the binary classifier's classes."""
    found = probability(logits)
    return np.stack([found, 1 - found], axis=1)
