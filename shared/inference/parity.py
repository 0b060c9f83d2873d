"""The check that an engine answers as the bundle was measured: reference images, and TensorFlow's float32 answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from shared.errors import ModelError
from shared.inference.bundle import Bundle
from shared.inference.gate import Gate
from shared.inference.heads import Array, HeadNetwork

IMAGES = "images"
CLEAR_MARGIN = 0.1  # between the two likeliest classes: with less, rounding may decide the label
MAX_MEAN_DIFFERENCE = 0.03  # of probabilities, per head
MAX_REJECTED = 0.1  # of the reference images, by the gate


class Backbones(Protocol):
    """The part of an engine that the check needs."""

    def feature_maps(self, images: NDArray[np.uint8], backbones: Collection[str]) -> dict[str, Array]:
        """Feature maps by backbone."""


@dataclass(frozen=True)
class Reference:
    """What a bundle's parity file holds: images (K, size, size) and each head's probabilities (K, classes)."""

    images: NDArray[np.uint8]
    probabilities: Mapping[str, Array]

    @classmethod
    def read(cls, bundle: Bundle) -> Self | None:
        """Return the bundle's reference; None when it has none, ModelError when its file does not fit the bundle."""
        if bundle.card.parity is None:
            return None
        arrays = bundle.load_weights(bundle.card.parity)
        size = bundle.input.size
        images = cast(NDArray[np.uint8], arrays.pop(IMAGES, np.empty(0, np.uint8)))
        if images.dtype != np.uint8 or images.shape[1:] != (size, size) or not len(images):
            raise ModelError(f"{bundle.card.parity}: its images are not ones that the bundle takes")
        shapes = {name: (len(images), len(head.classes)) for name, head in bundle.heads.items()}
        if {name: part.shape for name, part in arrays.items()} != shapes:
            raise ModelError(f"{bundle.card.parity}: not one row of probabilities per image and head")
        return cls(images, {name: part.astype(np.float32) for name, part in arrays.items()})

    def dump(self) -> bytes:
        """Return the parity file's content."""
        return save({IMAGES: self.images, **self.probabilities})


def disagreement(engine: Backbones, bundle: Bundle, reference: Reference) -> str | None:
    """In what the engine's answers are not the reference's; None when they agree.

    They agree when every image whose reference margin is clear gets the same label, and no head's probabilities are
    off by more than MAX_MEAN_DIFFERENCE in the mean, and the gate takes them for what they are: chest images.
    """
    maps = engine.feature_maps(reference.images, bundle.card.backbones.keys())
    if endless := [backbone for backbone, part in sorted(maps.items()) if not np.isfinite(part).all()]:
        return f"{', '.join(endless)}: maps that are not finite numbers"
    for name, head in bundle.heads.items():
        found, wanted = HeadNetwork.load(bundle, head).predict(maps), reference.probabilities[name]
        changed = int((clear(wanted) & (found.argmax(1) != wanted.argmax(1))).sum())
        if changed:
            return f"{name}: another label for {changed} of {len(wanted)} reference images"
        if (difference := float(np.abs(found - wanted).mean())) > MAX_MEAN_DIFFERENCE:
            return f"{name}: probabilities are off by {difference:.3f} in the mean"
    return _turned_away(maps, bundle)


def _turned_away(maps: Mapping[str, Array], bundle: Bundle) -> str | None:
    """Return what the gate does to the reference images, all of which are chest images."""
    if bundle.card.gate is None:
        return None
    kinds = [verdict.kind for verdict in Gate.load(bundle).judge(maps[bundle.card.gate.backbone])]
    others = kinds.count("other")
    return f"the gate rejects {others} of {len(kinds)} chest images" if others > MAX_REJECTED * len(kinds) else None


def clear(probabilities: Array) -> NDArray[np.bool_]:
    """Which rows' likeliest class leads by more than CLEAR_MARGIN."""
    ranked = np.sort(probabilities, axis=1)
    return np.asarray(ranked[:, -1] - ranked[:, -2] > CLEAR_MARGIN)
