"""What a DICOM object says about the display of its stored values: modality LUT or rescale, VOI LUT or window, padding.

A chest CT in Hounsfield units goes into the lung window, which the classifier was trained with, whatever views the
file brings. Sections (PS3.x) are those of the DICOM standard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from pydicom import Dataset
from pydicom.tag import Tag

from shared.errors import UnsupportedDicom
from shared.imaging.dicom.elements import (
    decimal,
    decimals,
    element_name,
    has_value,
    invalid,
    items,
    text,
    texts,
    unsigned,
    words,
)
from shared.imaging.dicom.lookup_table import LookupTable, first_table

_STORED_KEYWORDS = ("PhotometricInterpretation", "BitsStored", "PixelRepresentation")
_RESCALE_KEYWORDS = ("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence")
_VIEW_KEYWORDS = ("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence")
_PADDING_KEYWORDS = ("PixelPaddingValue", "PixelPaddingRangeLimit")
_GROUP_KEYWORDS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
# The macros of enhanced objects that replace the elements above, PS3.3 C.7.6.16.2.9 and C.7.6.16.2.10.
_MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
DISPLAY_KEYWORDS = (*_RESCALE_KEYWORDS, *_VIEW_KEYWORDS, *_PADDING_KEYWORDS, *_GROUP_KEYWORDS)
_FUNCTIONS = frozenset({"LINEAR", "LINEAR_EXACT", "SIGMOID"})


@dataclass(frozen=True)
class Window:
    """A window and its VOI LUT function (PS3.3 C.11.2.1.2); centre and width in the units of the rescaled values."""

    centre: float
    width: float
    function: str = "LINEAR"

    @property
    def is_usable(self) -> bool:
        """True if the standard allows the width: at least 1, or above 0 if not LINEAR."""
        return self.width >= 1 if self.function == "LINEAR" else self.width > 0

    @property
    def is_of_lungs(self) -> bool:
        """True if it is one of those that radiology reads lungs in, by its numbers."""
        return -800 <= self.centre <= -300 and 800 <= self.width <= 2200


#: The usual lung window, in Hounsfield units; the CT sample and the shipped bundle know no other.
LUNG_WINDOW = Window(-600, 1500)


@dataclass(frozen=True)
class Greyscale:
    """How the stored values of a frame become grey; equal when it is the same for all of them.

    `padding` are the bit patterns of PixelPaddingValue and PixelPaddingRangeLimit. Without `window` and `voi_lut` a
    frame is stretched from its minimum to its maximum.
    """

    bits: int
    is_signed: bool
    is_inverted: bool
    slope: float
    intercept: float
    modality_lut: LookupTable | None
    window: Window | None
    voi_lut: LookupTable | None
    padding: tuple[int, int] | None
    #: False: a slice of a CT, and not shown in a lung window, because it has no Hounsfield units
    in_lung_window: bool

    @property
    def stored_range(self) -> tuple[int, int]:
        """The least and the greatest value that the stored bits can hold."""
        half = 1 << self.bits - 1
        return (-half, half - 1) if self.is_signed else (0, 2 * half - 1)


def read_greyscale(dataset: Dataset, frame: int, *, is_ct: bool) -> Greyscale:
    """Read the greyscale of the frame of this index: first view of each kind (PS3.4 N.2).

    The lung window for a CT in Hounsfield units (one with a rescale). For everything else the VOI LUT if there is one,
    else the first usable window, else the frame's own minimum to maximum, padding left out.

    Raises InvalidDicom for elements that make no sense, UnsupportedDicom for an unknown VOI LUT function.
    """
    view = _view_of(dataset, frame)
    slope, intercept = decimal(view, "RescaleSlope"), decimal(view, "RescaleIntercept")
    if slope == 0:
        raise invalid("RescaleSlope", "is zero")
    modality_lut = first_table(view, "ModalityLUTSequence")
    hounsfield = is_ct and modality_lut is None and not (slope is intercept is None) and _is_hounsfield(view)
    voi_lut = None if hounsfield else first_table(view, "VOILUTSequence")
    window = LUNG_WINDOW if hounsfield else _file_window(view, is_ct=is_ct) if voi_lut is None else None
    return Greyscale(
        bits=unsigned(view, "BitsStored"),
        is_signed=unsigned(view, "PixelRepresentation") == 1,
        is_inverted=text(view, "PhotometricInterpretation") == "MONOCHROME1",
        slope=1.0 if slope is None else slope,
        intercept=intercept or 0.0,
        modality_lut=modality_lut,
        window=window,
        voi_lut=voi_lut,
        padding=_padding(view),
        in_lung_window=not is_ct or (window is not None and window.is_of_lungs),
    )


def _view_of(dataset: Dataset, frame: int) -> Dataset:
    """List what decides about one frame: the object's elements, then its shared, then its own functional groups."""
    view = Dataset()
    view.set_original_encoding(*dataset.original_encoding)
    for keyword in (*_STORED_KEYWORDS, *_RESCALE_KEYWORDS, *_VIEW_KEYWORDS, *_PADDING_KEYWORDS):
        element = dataset.get_item(Tag(keyword), keep_deferred=True)
        if element is not None:
            view[Tag(keyword)] = element
    shared, own = (items(dataset, keyword) for keyword in _GROUP_KEYWORDS)
    for group in (*shared[:1], *own[frame : frame + 1]):
        for macro in _MACROS:
            for item in items(group, macro)[:1]:
                view.update(item)
    return view


def _is_hounsfield(view: Dataset) -> bool:
    """Return True if rescaled values of a CT are Hounsfield units: unless their type says otherwise (PS3.3 C.8.2.1)."""
    return text(view, "RescaleType") in {"", "HU"}


def _file_window(view: Dataset, *, is_ct: bool) -> Window | None:
    """Return the first usable window of the file; of a CT the first for lungs, if there is one."""
    windows = list(_windows(view))
    lungs = next((window for window in windows if is_ct and window.is_of_lungs), None)
    window = lungs or next(iter(windows), None)
    if window is not None and window.function not in _FUNCTIONS:
        raise UnsupportedDicom(f"{element_name('VOILUTFunction')} is other than LINEAR, LINEAR_EXACT and SIGMOID.")
    return window


def _windows(view: Dataset) -> Iterator[Window]:
    """Yield the usable windows. Some writers give a function for each, where the standard has one for all."""
    pairs = zip(decimals(view, "WindowCenter"), decimals(view, "WindowWidth"), strict=False)
    functions = [function.upper() or "LINEAR" for function in texts(view, "VOILUTFunction")] or ["LINEAR"]
    for index, (centre, width) in enumerate(pairs):
        window = Window(centre, width, next(islice(functions, index, None), functions[0]))
        if window.is_usable:
            yield window


def _padding(view: Dataset) -> tuple[int, int] | None:
    """Return padding value and range limit (PS3.3 C.7.5.1.1.2), as bits: their representation is often another."""
    if not has_value(view, "PixelPaddingValue"):
        return None
    patterns = [words(view, keyword) for keyword in _PADDING_KEYWORDS]
    value, limit = (None if pattern is None or not len(pattern) else int(pattern[0]) for pattern in patterns)
    return None if value is None else (value, value if limit is None else limit)
