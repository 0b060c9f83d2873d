"""The input gate: chest X-ray, chest CT slice, or neither, from the feature map that inference has computed anyway.

A map is averaged over a few regions, its square root taken and its length made 1 (Perronnin et al. 2010, "Improving
the Fisher kernel": so that no strong channel drowns the others). From its principal components come distances to the
training images of each modality (Mahalanobis distance on features: Lee et al. 2018, arXiv 1807.03888) and what the
components leave over (Wang et al. 2022, arXiv 2203.10807); a logistic regression that has seen pictures of other
things (outlier exposure: Hendrycks et al. 2019, arXiv 1812.04606) weighs components and distances. Everything is
fitted to the backbone in training/gate/fit.py; nothing is fixed here. NumPy alone, a tenth of a millisecond an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from shared.errors import ModelError
from shared.inference.bundle import Bundle

Kind = Literal["xray", "ct", "other"]
MODALITIES: tuple[Literal["xray"], Literal["ct"]] = ("xray", "ct")
REASON = (
    "The image is not recognised as a chest X-ray from the front, upright and with bone in white, nor as a chest CT "
    "slice."
)
TINY = 1e-12

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Verdict:
    """What an image is. `score` is in logits: above 0 a chest image, and the surer the higher; below 0 something else.

    `reason` is for the caller, and None for a chest image.
    """

    kind: Kind
    score: float
    reason: str | None = None


@dataclass(frozen=True)
class Space:
    """Where the gate looks: regions of a map, and principal components of chest images in what they hold.

    Shapes: `pools` (regions, positions), each row a weighted mean over the map's positions, row by row; `mean` and
    `scale` (regions x channels); `components` (regions x channels, k); `centres` (2, k) and `whiteners` (2, k, k) of
    X-rays and CT slices, in that order: a whitener's columns span the inverse covariance.
    """

    pools: Floats
    mean: Floats
    scale: Floats
    components: Floats
    centres: Floats
    whiteners: Floats

    def coordinates(self, held: Floats) -> Floats:
        """Coordinates (N, k + 4) of what `regions` found: components, log distances (both, the nearer), log rest."""
        spread = (held - self.mean) / self.scale
        inside = spread @ self.components
        outside = np.maximum(np.square(spread).sum(1) - np.square(inside).sum(1), TINY)
        away = [
            np.log(np.square((inside - centre) @ whitener).sum(1) + TINY)
            for centre, whitener in zip(self.centres, self.whiteners, strict=True)
        ]
        distances = np.stack([*away, np.minimum(*away), np.log(outside)], axis=1)
        return np.concatenate([inside, distances], axis=1).astype(np.float32)


def regions(maps: NDArray[np.floating[Any]], pools: Floats) -> Floats:
    """Weighted means (N, regions x channels) of maps (N, h, w, channels), as signed square roots, of length 1."""
    count, height, width, channels = maps.shape
    flat = maps.reshape(count, height * width, channels).astype(np.float32, copy=False)
    means = np.matmul(pools, flat).reshape(count, len(pools) * channels)
    roots = np.sign(means) * np.sqrt(np.abs(means))
    return np.asarray(roots / np.maximum(np.linalg.norm(roots, axis=1, keepdims=True), TINY), np.float32)


@dataclass(frozen=True)
class Gate:
    """Judges maps of `backbone`. `weights` (k + 4, 3) and `bias` (3) give logits of X-ray, CT slice and other."""

    backbone: str
    space: Space
    weights: Floats
    bias: Floats
    # Subtracted from the logit by which a chest image leads; chosen on chest images that fitting did not see.
    threshold: float

    @classmethod
    def load(cls, bundle: Bundle) -> Self:
        """Return the gate of a bundle; ModelError when it has none, or one whose arrays do not fit together."""
        part = bundle.card.gate
        if part is None:
            raise ModelError(f"model bundle {bundle.name} has no gate")
        try:
            gate = cls.of(part.backbone, bundle.load_weights(part.weights))
            gate.scored(gate.space.mean[np.newaxis])
        except (KeyError, ValueError, IndexError) as error:
            raise ModelError(f"{part.weights}: not the arrays of a gate") from error
        return gate

    @classmethod
    def of(cls, backbone: str, arrays: Mapping[str, NDArray[np.floating[Any]]]) -> Self:
        """Return a gate from the arrays that training fitted; KeyError when one is missing."""
        found = {name: np.asarray(values, np.float32) for name, values in arrays.items()}
        space = Space(**{name: found[name] for name in Space.__dataclass_fields__})
        return cls(backbone, space, found["weights"], found["bias"], float(found["threshold"][0]))

    @property
    def channels(self) -> int:
        """How many channels the backbone's map has."""
        return len(self.space.mean) // len(self.space.pools)

    def judge(self, maps: NDArray[np.floating[Any]]) -> list[Verdict]:
        """Return what each of N images is, from its map (N, h, w, channels).

        ValueError when the maps are of another shape.
        """
        if maps.ndim != 4 or (maps.shape[1] * maps.shape[2], maps.shape[3]) != (
            self.space.pools.shape[1],
            self.channels,
        ):
            raise ValueError(f"the gate takes maps of {self.backbone}, got {maps.shape}")
        scores, modalities = self.scored(regions(maps, self.space.pools))
        return [
            Verdict(MODALITIES[modality], float(score)) if score >= 0 else Verdict("other", float(score), REASON)
            for score, modality in zip(scores, modalities, strict=True)
        ]

    def scored(self, held: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """Scores as in `Verdict`, and the likelier modality's number in MODALITIES, of what `regions` found."""
        logits = self.space.coordinates(held) @ self.weights + self.bias
        chest = logits[:, :2]
        return np.asarray(chest.max(1) - logits[:, 2] - self.threshold, np.float32), chest.argmax(1)
