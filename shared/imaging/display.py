"""Stored DICOM values to display grey, by way of one table per transformation.

A stored value has at most 16 bits, so the whole pipeline (modality LUT or rescale, VOI LUT or window, MONOCHROME1)
is computed once for all 65,536 of them and a frame is one look-up: exact, and the floating-point arithmetic does not
grow with the picture. Sections (PS3.x) are those of the DICOM standard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_modality_lut, apply_windowing

from shared.errors import CorruptImage, UnsupportedDicom

# A CT that brings no window is shown with the usual lung window, centre and width in Hounsfield units.
LUNG_WINDOW = (-600, 1500)

_RESCALE_KEYWORDS = ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence")
_VIEW_KEYWORDS = ("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "PixelPaddingValue")
_GROUP_KEYWORDS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
# The macros of enhanced objects that replace the elements above, PS3.3 C.7.6.16.2.9 and C.7.6.16.2.10.
_MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
DISPLAY_KEYWORDS = (*_RESCALE_KEYWORDS, *_VIEW_KEYWORDS, *_GROUP_KEYWORDS)
_STORED_KEYWORDS = ("PhotometricInterpretation", "BitsStored", "PixelRepresentation")


class Display:
    """The grey-scale pipeline of one object (PS3.4 N.2), first view of each kind.

    VOI LUT if there is one, else the first usable window; without either, the lung window for a CT in Hounsfield
    units (one with a rescale), and the frame's own minimum to maximum, padding left out, for everything else.
    A window whose width the standard forbids counts as none.
    """

    def __init__(self, dataset: Dataset, *, hounsfield: bool) -> None:
        self._dataset = dataset
        self._hounsfield = hounsfield
        self._view: Dataset | None = None
        self._table: NDArray[np.uint8] | None = None

    def grey(self, frame: NDArray[np.integer], index: int) -> NDArray[np.uint8]:
        """Map the stored values (H, W) of the frame at `index`, 8 or 16 bits, to display grey.

        Raises CorruptImage and UnsupportedDicom for transformations that make no sense or that we do not know.
        """
        view = self._view_of(index)
        if view != self._view:
            self._view, self._table = view, _known_table(view, frame.dtype)
        table = _stretched_table(view, frame) if self._table is None else self._table
        if view.PhotometricInterpretation == "MONOCHROME1":
            table = 255 - table
        return np.asarray(cv2.LUT(frame.view(_unsigned(frame.dtype)), table), dtype=np.uint8)

    def _view_of(self, index: int) -> Dataset:
        """The elements that decide about one frame: the object's, then its shared, then its own functional groups."""
        view = Dataset()
        view.set_original_encoding(*self._dataset.original_encoding)
        for keyword in (*_STORED_KEYWORDS, *_RESCALE_KEYWORDS, *_VIEW_KEYWORDS):
            if self._dataset.get(keyword) not in (None, ""):
                view[keyword] = self._dataset[keyword]
        shared, own = (self._dataset.get(keyword) or [] for keyword in _GROUP_KEYWORDS)
        for group in (*shared[:1], *own[index : index + 1]):
            for macro in _MACROS:
                for item in (group.get(macro) or [])[:1]:
                    view.update(item)
        if self._hounsfield and "RescaleSlope" in view and not _has_lut(view) and not _has_window(view):
            view.WindowCenter, view.WindowWidth = LUNG_WINDOW
            view.VOILUTFunction = "LINEAR"
        return view


def _unsigned(dtype: np.dtype[np.integer]) -> np.dtype[np.unsignedinteger]:
    return np.dtype(f"u{dtype.itemsize}")


@dataclass(frozen=True)
class _Look:
    """A view without look-up tables, equal to another when every element has the same value."""

    elements: tuple[tuple[int, str], ...]
    dtype: np.dtype[np.integer]
    view: Dataset = field(compare=False)


def _known_table(view: Dataset, dtype: np.dtype[np.integer]) -> NDArray[np.uint8] | None:
    """`_windowed_table`, remembered: the slices of a series share one view, and the table takes longer than its use."""
    if _has_lut(view) or "ModalityLUTSequence" in view:
        return _windowed_table(view, dtype)
    return _remembered_table(_Look(tuple((element.tag, str(element.value)) for element in view), dtype, view))


@lru_cache(maxsize=32)
def _remembered_table(look: _Look) -> NDArray[np.uint8] | None:
    return _windowed_table(look.view, look.dtype)


def _windowed_table(view: Dataset, dtype: np.dtype[np.integer]) -> NDArray[np.uint8] | None:
    """Display grey of every stored value, in the order of its bit pattern; None when it depends on the frame."""
    # A table over the bit patterns serves signed values too, and no damaged frame can point outside of it.
    values = _modality_values(np.arange(1 << 8 * dtype.itemsize, dtype=_unsigned(dtype)).view(dtype), view)
    if _has_lut(view):
        return _through_lut(values, view)
    if _has_window(view):
        return _through_window(values, view)
    return None


def _stretched_table(view: Dataset, frame: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Minimum to maximum of the frame over 0 to 255; all black for a frame of one value."""
    shown = frame
    if "PixelPaddingValue" in view and (frame != view.PixelPaddingValue).any():
        shown = frame[frame != view.PixelPaddingValue]
    present = _modality_values(np.arange(int(shown.min()), int(shown.max()) + 1), view)
    patterns = np.arange(1 << 8 * frame.dtype.itemsize, dtype=_unsigned(frame.dtype))
    values = _modality_values(patterns.view(frame.dtype), view)
    if present.min() == present.max():
        return np.zeros(values.size, dtype=np.uint8)
    return _scaled(values, float(present.min()), float(present.max()))


def _modality_values(stored: NDArray[np.integer], view: Dataset) -> NDArray[np.float64]:
    """Modality LUT or rescale, PS3.3 C.11.1."""
    values = np.asarray(apply_modality_lut(stored.astype(np.int32), view), dtype=np.float64)
    if not np.isfinite(values).all():
        raise CorruptImage("The rescale slope or intercept is no finite number.")
    return values


def _has_lut(view: Dataset) -> bool:
    items = view.get("VOILUTSequence")
    return bool(items) and "LUTDescriptor" in items[0] and "LUTData" in items[0]


def _has_window(view: Dataset) -> bool:
    """Whether the first window is one that PS3.3 C.11.2.1.2 allows: a width of at least 1, or above 0 if not LINEAR."""
    centre, width = _first_number(view, "WindowCenter"), _first_number(view, "WindowWidth")
    if centre is None or width is None or not math.isfinite(centre + width):
        return False
    return width >= 1 if view.get("VOILUTFunction", "LINEAR") == "LINEAR" else width > 0


def _first_number(view: Dataset, keyword: str) -> float | None:
    value = view.get(keyword)
    if isinstance(value, MultiValue):
        value = value[0]
    return None if value in (None, "") else float(value)


def _through_window(values: NDArray[np.float64], view: Dataset) -> NDArray[np.uint8]:
    """LINEAR, LINEAR_EXACT or SIGMOID, PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    if view.get("VOILUTFunction", "LINEAR") not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise UnsupportedDicom("Unknown VOI LUT Function.")
    # pydicom's output range follows from the bits stored and the rescale; the two infinities are its ends.
    dark, bright = apply_windowing(np.array([-np.inf, np.inf]), view)
    return _scaled(apply_windowing(values, view), dark, bright)


def _through_lut(values: NDArray[np.float64], view: Dataset) -> NDArray[np.uint8]:
    """First VOI LUT, PS3.3 C.11.2.1.1.

    Not pydicom's `apply_voi`: that keeps indices in the type of the entries, so a table of 8-bit entries
    loses all but its first 256.
    """
    item = view.VOILUTSequence[0]
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    entries = entries or 1 << 16
    table = _lut_entries(item.LUTData, entries, little_endian=view.original_encoding[1] is not False)
    if table.size < entries:
        raise CorruptImage("The VOI LUT is shorter than its descriptor says.")
    indices = np.clip(np.rint(values) - first, 0, entries - 1).astype(np.int64)
    return _scaled(table[indices].astype(np.float64), 0, (1 << bits) - 1)


def _lut_entries(data: bytes | MultiValue[int] | int, entries: int, *, little_endian: bool) -> NDArray[np.integer]:
    """LUT Data is numbers (VR US) or words of the object's byte order (VR OW), in which 8-bit entries may be packed."""
    if not isinstance(data, bytes):
        return np.atleast_1d(np.asarray(data, dtype=np.int64))
    if len(data) < 2 * entries:
        return np.frombuffer(data, dtype=np.uint8)
    return np.frombuffer(data[: 2 * entries], dtype="<u2" if little_endian else ">u2")


def _scaled(values: NDArray[np.float64], dark: float, bright: float) -> NDArray[np.uint8]:
    """`dark` to 0 and `bright` to 255, rounded to the nearest grey."""
    if dark == bright:
        raise CorruptImage("The rescale slope is zero.")
    return np.rint(np.clip((values - dark) / (bright - dark), 0, 1) * 255).astype(np.uint8)
