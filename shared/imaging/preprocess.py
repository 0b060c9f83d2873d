"""Display grey to the tensor that a model bundle's card asks for.

Training and serving share these functions, and the decoders before them: a change of one pixel is a change of the
model's input, so it comes with a new `InputSpec.version`, which the bundle's card records. Version 2 brought the lung
window to every CT in Hounsfield units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class InputSpec:
    """What a model takes: `size` x `size` pixels, the grey repeated over `channels`."""

    size: int = 224
    channels: int = 3
    interpolation: Literal["area"] = "area"
    version: str = "2"


def prepare(grey: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    """Resize display grey (H, W) to (size, size), ignoring the aspect ratio as both source papers do.

    Each axis is averaged (INTER_AREA) where it shrinks and interpolated (INTER_LINEAR) where it grows.
    Raises ValueError when `grey` is not a non-empty two-dimensional uint8 array.
    """
    if grey.ndim != 2 or grey.dtype != np.uint8 or grey.size == 0:
        raise ValueError(f"prepare takes a non-empty (H, W) uint8 array, got {grey.shape} {grey.dtype}")
    height, width = grey.shape
    # cv2 would treat both axes as growing as soon as one of them does, and alias the other: hence two steps.
    shrunk = cv2.resize(grey, (min(width, spec.size), min(height, spec.size)), interpolation=cv2.INTER_AREA)
    grown = cv2.resize(shrunk, (spec.size, spec.size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(grown, dtype=np.uint8)


def to_tensor(images: Sequence[NDArray[np.uint8]], spec: InputSpec) -> NDArray[np.float32]:
    """Stack prepared images into (N, size, size, channels), float32, 0 to 255.

    Normalisation is part of the model's graph, so nobody can apply a different one here.
    Raises ValueError when an image does not have the shape that `prepare` returns.
    """
    tensor = np.empty((len(images), spec.size, spec.size, spec.channels), dtype=np.float32)
    for row, image in zip(tensor, images, strict=True):
        if image.shape != (spec.size, spec.size):
            raise ValueError(f"to_tensor takes prepared images of {spec.size} x {spec.size}, got {image.shape}")
        row[:] = image[:, :, np.newaxis]
    return tensor
