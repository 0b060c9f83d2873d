"""Where the lungs lie on a frontal chest X-ray: cascaded regression of their boxes from gradients and grey values.

A ridge regression finds both boxes from the whole picture; two more correct them, each on a window around what the one
before found (after Dollar et al. 2010, "Cascaded pose regression", doi 10.1109/CVPR.2010.5540094, and the histograms
of oriented gradients of Dalal and Triggs 2005, doi 10.1109/CVPR.2005.177). Everything is fitted in training/lungs.py
to boxes that radiologists drew. NumPy and OpenCV alone, some milliseconds a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]
Floats = NDArray[np.float32]

SIDE = 96  # pixels of a window as the regressions see it
CELL = 8  # pixels
ORIENTATIONS = 8
COARSE = 24  # pixels of the window's own grey values
THUMBNAIL = 192  # pixels; windows are cut from a picture of this size
#: Width and height that a window adds on each side of the box around both lungs, as shares of the box.
AROUND = 0.25
#: The damping of a cell's contrast in quiet neighbourhoods, in squared grey values.
QUIET = 1e3
FEATURES = (SIDE // CELL) ** 2 * ORIENTATIONS + COARSE**2
WHOLE = np.array([0, 0, 1, 1], np.float32)


@dataclass(frozen=True)
class Box:
    """A rectangle in fractions of the picture's width and height, from its upper left corner."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Lungs:
    """The boxes of both lungs; `right` is the patient's right, which lies on the left of the picture."""

    right: Box
    left: Box

    @property
    def both(self) -> Box:
        """The smallest box that holds them, within the picture."""
        x0, y0 = min(self.right.x0, self.left.x0), min(self.right.y0, self.left.y0)
        x1, y1 = max(self.right.x1, self.left.x1), max(self.right.y1, self.left.y1)
        return Box(max(x0, 0.0), max(y0, 0.0), min(x1, 1.0), min(y1, 1.0))


@dataclass(frozen=True)
class LungFinder:
    """The fitted cascade: of each stage a kernel (FEATURES, 8) and a bias (8,)."""

    stages: Sequence[tuple[Floats, Floats]]

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.floating[Any]]]) -> Self:
        """From the arrays that training wrote, kernel_0, bias_0 and so on; ValueError when they do not fit."""
        count = sum(name.startswith("kernel_") for name in arrays)
        stages = [
            tuple(np.asarray(arrays.get(f"{part}_{stage}", []), np.float32) for part in ("kernel", "bias"))
            for stage in range(count)
        ]
        if not stages or any(kernel.shape != (FEATURES, 8) or bias.shape != (8,) for kernel, bias in stages):
            raise ValueError("not the arrays of a lung finder")
        return cls([(kernel, bias) for kernel, bias in stages])

    def arrays(self) -> dict[str, Floats]:
        """Return what `of` takes."""
        return {
            f"{part}_{stage}": values
            for stage, pair in enumerate(self.stages)
            for part, values in zip(("kernel", "bias"), pair, strict=True)
        }

    def find(self, grey: Grey) -> Lungs:
        """Return the lungs of a display-grey X-ray (H, W). It always finds some: what the picture is, the gate says."""
        small = thumbnail(grey)
        window, corners = WHOLE, np.zeros(8, np.float32)
        for kernel, bias in self.stages:
            corners = outside(features(small, window) @ kernel + bias, window)
            window = around(corners)
        right, left = (Box(*map(float, part)) for part in np.split(corners, 2))
        return Lungs(right, left)


def thumbnail(grey: Grey) -> Grey:
    """Return the picture as windows are cut from it, (THUMBNAIL, THUMBNAIL)."""
    return np.asarray(cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA), np.uint8)


def cut(small: Grey, window: Floats) -> Grey:
    """Return a window (x0, y0, x1, y1 in fractions) of a thumbnail, (SIDE, SIDE).

    Past the edge the edge is repeated.
    """
    x0, y0, x1, y1 = window
    across, down = SIDE / ((x1 - x0) * THUMBNAIL), SIDE / ((y1 - y0) * THUMBNAIL)
    matrix = np.array([[across, 0, -x0 * THUMBNAIL * across], [0, down, -y0 * THUMBNAIL * down]], np.float32)
    part = cv2.warpAffine(small, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(part, np.uint8)


def features(small: Grey, window: Floats) -> Floats:
    """Return what a regression sees of a window: FEATURES numbers, from its contrast-limited equalised picture."""
    equalised = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(4, 4)).apply(cut(small, window))
    part = np.asarray(equalised, np.uint8)
    grey = cv2.resize(part, (COARSE, COARSE), interpolation=cv2.INTER_AREA).ravel().astype(np.float32) / 255
    return np.concatenate([_gradients(part), 2 * (grey - grey.mean())])


def _gradients(part: Grey) -> Floats:
    """Histograms of unsigned gradient directions in cells of CELL pixels, relative to their neighbourhoods."""
    pixels = part.astype(np.float32)
    across, down = cv2.Sobel(pixels, cv2.CV_32F, 1, 0, ksize=1), cv2.Sobel(pixels, cv2.CV_32F, 0, 1, ksize=1)
    strength = np.hypot(across, down)
    turn = (np.arctan2(down, across) % np.pi) * (ORIENTATIONS / np.pi)
    lower = np.floor(turn)
    share = turn - lower
    first = lower.astype(np.int64) % ORIENTATIONS
    count = SIDE // CELL
    place = np.arange(SIDE) // CELL
    cell = (place[:, np.newaxis] * count + place) * ORIENTATIONS
    bins = np.zeros(count * count * ORIENTATIONS)
    for number, weight in ((first, 1 - share), ((first + 1) % ORIENTATIONS, share)):
        bins += np.bincount((cell + number).ravel(), (strength * weight).ravel(), len(bins))
    histograms = bins.reshape(count, count, ORIENTATIONS)
    energy = np.square(histograms).sum(2).astype(np.float32)
    near = np.sqrt(9 * cv2.blur(energy, (3, 3)) + QUIET)
    return np.asarray(np.sqrt(histograms / near[..., np.newaxis]).ravel(), np.float32)


def inside(corners: Floats, window: Floats) -> Floats:
    """Two boxes' corners (8,) in fractions of a window."""
    origin, size = np.tile(window[:2], 4), np.tile(window[2:] - window[:2], 4)
    return np.asarray((corners - origin) / size, np.float32)


def outside(corners: Floats, window: Floats) -> Floats:
    """Return the reverse of `inside`: fractions of the window to fractions of the picture."""
    origin, size = np.tile(window[:2], 4), np.tile(window[2:] - window[:2], 4)
    return np.asarray(corners * size + origin, np.float32)


def around(corners: Floats) -> Floats:
    """Return the window around two boxes, AROUND wider on each side."""
    points = corners.reshape(4, 2)
    low, high = points.min(0), points.max(0)
    # However a cascade errs, its next window must not vanish.
    room = AROUND * np.maximum(high - low, 0.1)
    return np.concatenate([low - room, high + room]).astype(np.float32)


def crop(grey: Grey, box: Box, margin: float) -> Grey:
    """Return the part of a picture (H, W) that a box holds, with `margin` of its width and height more on each side."""
    height, width = grey.shape
    across, down = margin * (box.x1 - box.x0), margin * (box.y1 - box.y0)
    x0, x1 = _pixels(box.x0 - across, box.x1 + across, width)
    y0, y1 = _pixels(box.y0 - down, box.y1 + down, height)
    return grey[y0:y1, x0:x1]


def _pixels(low: float, high: float, size: int) -> tuple[int, int]:
    """First pixel and the one after the last, at least one apart and within the picture."""
    first = min(max(round(low * size), 0), size - 1)
    return first, min(max(round(high * size), first + 1), size)
