"""Samples of any depth to the 8 bits of display grey, and pictures turned as their orientation says."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def to_display(samples: NDArray[Any], bits: int = 0) -> NDArray[np.uint8]:
    """Scale grey (H, W), uint8 or uint16, to 8 bits by the full range of `bits`.

    Where the depth is not known (0), or 16, which exports use for detectors of 10, 12 and 14 bits: by the full range of
    the smallest even depth, at least 8, that holds the brightest pixel.
    """
    if samples.dtype == np.uint8 and bits in (0, 8):
        return np.asarray(samples, dtype=np.uint8)
    if bits in (0, 16):
        brightest = max(8, int(samples.max()).bit_length())
        bits = brightest + brightest % 2
    table = _table(bits)
    return np.asarray(cv2.LUT(samples, table if samples.dtype == np.uint16 else table[:256]), dtype=np.uint8)


@lru_cache(maxsize=9)
def _table(bits: int) -> NDArray[np.uint8]:
    """For each 16-bit value, value x 255 / (2^bits - 1), rounded."""
    table: NDArray[np.uint8] = np.rint(np.arange(1 << 16) * (255 / ((1 << bits) - 1))).clip(max=255).astype(np.uint8)
    return table


def orient(picture: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn and mirror a picture by the numbers of TIFF's and EXIF's Orientation (274), so that it is to be shown."""
    turned = picture.T if orientation >= 5 else picture
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)
