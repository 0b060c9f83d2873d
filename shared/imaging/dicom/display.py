"""Stored DICOM values to display grey, by way of one table per transformation.

A stored value has at most 16 bits, so the whole pipeline (modality LUT or rescale, VOI LUT or window, MONOCHROME1)
is computed once for all 65,536 of them and a frame is one look-up: exact, and the floating-point arithmetic does not
grow with the picture. Sections (PS3.x) are those of the DICOM standard; `greyscale` reads its elements.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import CorruptImage
from shared.imaging.dicom.greyscale import Greyscale, Window


def to_grey(stored: NDArray[np.integer], greyscale: Greyscale) -> NDArray[np.uint8]:
    """Map the stored values (H, W) of a frame, 8 or 16 bits, to display grey.

    Raises CorruptImage for a transformation that makes no sense.
    """
    table = _known_table(greyscale, stored.dtype)
    if table is None:
        table = _stretched_table(greyscale, stored)
    if greyscale.is_inverted:
        table = 255 - table
    return np.asarray(cv2.LUT(stored.view(_unsigned(stored.dtype)), table), dtype=np.uint8)


def _unsigned(dtype: np.dtype[np.integer]) -> np.dtype[np.unsignedinteger]:
    return np.dtype(f"u{dtype.itemsize}")


# The slices of a series share one greyscale, and the table takes longer than its use.
@lru_cache(maxsize=32)
def _known_table(greyscale: Greyscale, dtype: np.dtype[np.integer]) -> NDArray[np.uint8] | None:
    """Display grey of every stored value, in the order of its bit pattern; None when it depends on the frame."""
    if greyscale.voi_lut is None and greyscale.window is None:
        return None
    values = _modality_values(_patterns(dtype), greyscale)
    if greyscale.voi_lut is not None:
        low, high = _modality_range(greyscale)
        return _scaled(greyscale.voi_lut.map(values, low, high), 0, greyscale.voi_lut.white)
    return None if greyscale.window is None else _through_window(values, greyscale.window)


def _patterns(dtype: np.dtype[np.integer]) -> NDArray[np.integer]:
    """Every value of the type, by bit pattern: serves signed values too, and no damaged frame can point outside."""
    return np.arange(1 << 8 * dtype.itemsize, dtype=_unsigned(dtype)).view(dtype)


def _stretched_table(greyscale: Greyscale, frame: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Minimum to maximum of the frame over 0 to 255; all black for a frame of one value."""
    shown = _without_padding(frame, greyscale)
    present = _modality_values(np.arange(int(shown.min()), int(shown.max()) + 1), greyscale)
    values = _modality_values(_patterns(frame.dtype), greyscale)
    if present.min() == present.max():
        return np.zeros(values.size, dtype=np.uint8)
    return _scaled(values, float(present.min()), float(present.max()))


def _without_padding(frame: NDArray[np.integer], greyscale: Greyscale) -> NDArray[np.integer]:
    """Return the values that are no padding (PS3.3 C.7.5.1.1.2); all of them when there is nothing else."""
    if greyscale.padding is None:
        return frame
    limits = as_stored(np.array(greyscale.padding, np.uint16), greyscale.bits, is_signed=greyscale.is_signed)
    first, last = sorted(int(limit) for limit in limits)
    shown = frame[(frame < first) | (frame > last)]
    return shown if shown.size else frame


def as_stored(patterns: NDArray[np.integer], bits: int, *, is_signed: bool) -> NDArray[np.integer]:
    """Return the lowest `bits` of each value as a signed or unsigned number, in the values' own width.

    What stands above them is none of the value's: overlays, or the signs of values that a codec took for unsigned.
    """
    shift = 8 * patterns.dtype.itemsize - bits
    typed = patterns.view(np.dtype(f"{'i' if is_signed else 'u'}{patterns.dtype.itemsize}"))
    return typed if shift <= 0 else np.right_shift(np.left_shift(typed, shift), shift)


def _modality_values(stored: NDArray[np.integer], greyscale: Greyscale) -> NDArray[np.float64]:
    """Modality LUT or rescale, PS3.3 C.11.1."""
    if greyscale.modality_lut is not None:
        return greyscale.modality_lut.map(stored.astype(np.float64), *greyscale.stored_range)
    values = stored.astype(np.float64) * greyscale.slope + greyscale.intercept
    if not np.isfinite(values).all():
        raise CorruptImage("The rescaled values are no finite numbers.")
    return values


def _modality_range(greyscale: Greyscale) -> tuple[float, float]:
    """Return the least and the greatest value that the modality transformation can give."""
    if greyscale.modality_lut is not None:
        return 0, (1 << 16) - 1
    ends = _modality_values(np.array(greyscale.stored_range), greyscale)
    return float(ends.min()), float(ends.max())


def _through_window(values: NDArray[np.float64], window: Window) -> NDArray[np.uint8]:
    """LINEAR, LINEAR_EXACT or SIGMOID, PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    if window.function == "SIGMOID":
        with np.errstate(over="ignore"):  # far below the centre, where the grey is 0
            return _scaled(1 / (1 + np.exp(-4 * (values - window.centre) / window.width)), 0, 1)
    centre, width = window.centre, window.width
    if window.function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return _scaled((values > centre).astype(np.float64), 0, 1)
    return _scaled(values, centre - width / 2, centre + width / 2)


def _scaled(values: NDArray[np.float64], dark: float, bright: float) -> NDArray[np.uint8]:
    """`dark` to 0 and `bright` to 255, rounded to the nearest grey."""
    return np.rint(np.clip((values - dark) / (bright - dark), 0, 1) * 255).astype(np.uint8)
