"""A backbone in a few lines of NumPy, and drawn stand-ins for chest images, to fit a real gate to in seconds."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE, GRID = 56, 7


def maps(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 7, 7, 24): how bright each place is, how far from grey, and its edges by direction and fineness."""
    stacks = []
    for image in images:
        grey = image.astype(np.float32) / 255
        layers = [grey, 1 - grey, np.abs(grey - 0.5), np.square(grey)]
        for sigma in (0.5, 1, 2, 4, 8):
            soft = cv2.GaussianBlur(grey, (0, 0), sigma)
            x, y = cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)
            layers += [np.maximum(edge, 0) for edge in (x, -x, y, -y)]
        stacks.append(cv2.resize(np.stack(layers, -1), (GRID, GRID), interpolation=cv2.INTER_AREA))
    return np.stack(stacks)


def chest(modality: str, count: int, seed: int) -> NDArray[np.uint8]:
    """Two lungs and a heart: from the front with ribs, or in an oval slice."""
    rng = np.random.default_rng(seed)
    return np.stack([_front(rng) if modality == "xray" else _slice(rng) for _ in range(count)])


def _front(rng: np.random.Generator) -> NDArray[np.uint8]:
    picture = np.full((SIDE, SIDE), int(rng.integers(150, 190)), np.uint8)
    for centre in (18, 38):
        _oval(picture, rng, (centre, 27), (8, 18), int(rng.integers(40, 70)))
    for row in range(12, 44, 6):
        cv2.line(picture, (8, row), (48, row + 2), int(rng.integers(100, 130)), 1)
    _oval(picture, rng, (30, 36), (7, 8), 200)
    return _noisy(picture, rng)


def _slice(rng: np.random.Generator) -> NDArray[np.uint8]:
    picture = np.zeros((SIDE, SIDE), np.uint8)
    _oval(picture, rng, (28, 28), (26, 20), int(rng.integers(160, 190)))
    for centre in (17, 39):
        _oval(picture, rng, (centre, 28), (8, 14), int(rng.integers(50, 80)))
    cv2.circle(picture, (28, 42), 3, 255, -1)
    return _noisy(picture, rng)


def _oval(picture: NDArray[np.uint8], rng: np.random.Generator, at: Any, axes: Any, level: int) -> None:
    jitter = rng.integers(-1, 2, 4).tolist()
    centre, size = (at[0] + jitter[0], at[1] + jitter[1]), (axes[0] + jitter[2], axes[1] + jitter[3])
    cv2.ellipse(picture, centre, size, float(rng.uniform(-4, 4)), 0, 360, level, -1)


def _noisy(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    noise = rng.normal(0, 3, picture.shape)
    return np.asarray(np.clip(cv2.GaussianBlur(picture, (0, 0), 0.8) + noise, 0, 255), np.uint8)
