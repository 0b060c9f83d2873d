"""DICOM objects: which are accepted, and their frames. `display` says how stored values become grey.

The dataset is read up to the pixels and only in the elements named here, so neither memory nor error texts ever hold
a patient's name. Sections (PS3.x) are those of the DICOM standard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, BinaryIO, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import BaseTag, Tag
from pydicom.uid import RLELossless

from shared.errors import CorruptImage, UnsupportedDicom
from shared.imaging import headers
from shared.imaging.dicom import codestreams
from shared.imaging.dicom.display import as_stored, to_grey
from shared.imaging.dicom.elements import count, element_name, invalid, text, texts, unsigned
from shared.imaging.dicom.file import Header, check_preamble, read_header
from shared.imaging.dicom.greyscale import DISPLAY_KEYWORDS, Greyscale, read_greyscale
from shared.imaging.dicom.pixel_data import Layout, PixelData, check_length, check_offset_tables, locate
from shared.imaging.dicom.transfer_syntaxes import PLUGINS
from shared.imaging.dicom.vendor import vendor_errors
from shared.imaging.info import ImageInfo, Limits, MediaType, Picture

# "DR" is no defined term of PS3.3 C.7.3.1.1.1, and devices write it all the same; RG is a scanned film.
_MODALITIES: dict[str, Literal["xray", "ct"]] = {"CR": "xray", "DX": "xray", "DR": "xray", "RG": "xray", "CT": "ct"}
_COLOURS = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
_GREYS = frozenset({"MONOCHROME1", "MONOCHROME2"})

_HEADER_TAGS: tuple[BaseTag, ...] = tuple(Tag(keyword) for keyword in (
    "Modality", "StudyInstanceUID", "SeriesInstanceUID", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "BurnedInAnnotation",
))  # fmt: skip
_PIXEL_HEADER_TAGS = (
    *_HEADER_TAGS,
    *(Tag(keyword) for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths", *DISPLAY_KEYWORDS)),
)


@dataclass(frozen=True)
class _Pixels:
    """The image pixel module (PS3.3 C.7.6.3)."""

    layout: Layout
    photometric: str
    allocated: int
    stored: int
    is_signed: bool
    planar: int

    def options(self, header: Header, representation: str) -> dict[str, Any]:
        """Return the same as pydicom's decoders take it.

        What they would do about signs and unused bits, `as_stored` does.
        """
        return {
            "transfer_syntax_uid": header.syntax,
            "pixel_keyword": "PixelData",
            "pixel_vr": representation,
            "rows": self.layout.rows,
            "columns": self.layout.columns,
            "number_of_frames": self.layout.frames,
            "samples_per_pixel": self.layout.samples,
            "photometric_interpretation": self.photometric,
            "planar_configuration": self.planar,
            "bits_allocated": self.allocated,
            "bits_stored": self.stored,
            "pixel_representation": int(self.is_signed),
            "correct_unused_bits": False,
        }


def probe(file: BinaryIO, limits: Limits) -> ImageInfo:
    """As `decode.probe`, for a DICOM object; ProgramInPreamble too."""
    with vendor_errors():
        check_preamble(file)
        header = read_header(file, _HEADER_TAGS)
        return _inspect(header.dataset, limits)[0]


def pictures(data: bytes, limits: Limits, first: int = 0) -> Iterator[Picture]:
    """Yield the frames from the one of index `first`, as `decode.frames` does; IndexError when there is none."""
    with vendor_errors():
        header = read_header(BytesIO(data), _PIXEL_HEADER_TAGS)
        info, pixels = _inspect(header.dataset, limits)
        file = _in_memory(header)
        value = locate(file, header)
        file.seek(value.start)
        _check_value(file, header, value, pixels)
        options = pixels.options(header, value.representation)
    if not 0 <= first < info.frames:
        raise IndexError(f"no frame {first}")
    greyscale = partial(read_greyscale, header.dataset, is_ct=info.modality == "ct")
    stored = _stored_frames(file, options, range(first, info.frames))
    for index in range(first, info.frames):
        with vendor_errors():
            yield _picture(next(stored), pixels, partial(greyscale, index))


def _in_memory(header: Header) -> BinaryIO:
    """Return the header's file; frames are not read one by one from a deflated one, which begins anew for each."""
    if not header.deflated:
        return header.file
    at = header.file.tell()
    header.file.seek(0)
    whole = BytesIO(header.file.read())
    whole.seek(at)
    return whole


def _picture(frame: NDArray[Any], pixels: _Pixels, greyscale: Callable[[], Greyscale]) -> Picture:
    if frame.ndim == 3:
        return Picture(np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), dtype=np.uint8))
    shown = greyscale()
    return Picture(to_grey(as_stored(frame, pixels.stored, is_signed=pixels.is_signed), shown), shown.in_lung_window)


def _inspect(dataset: Dataset, limits: Limits) -> tuple[ImageInfo, _Pixels]:
    """Hold the header to the limits and to what `frames` can show."""
    modality = _MODALITIES.get(text(dataset, "Modality"))
    if modality is None:
        raise UnsupportedDicom(f"{element_name('Modality')} is other than CR, DX, DR, RG and CT.")
    rows, columns, number = unsigned(dataset, "Rows"), unsigned(dataset, "Columns"), count(dataset, "NumberOfFrames")
    limits.check(columns, rows, number or 1)
    pixels = _pixels(dataset, rows, columns, number or 1)
    study, series = (next(iter(texts(dataset, f"{level}InstanceUID")), None) for level in ("Study", "Series"))
    info = ImageInfo(
        MediaType.DICOM, columns, rows, number or 1, modality,
        series_uid=series or None,
        study_uid=study or None,
        burned_in=text(dataset, "BurnedInAnnotation") == "YES",
    )  # fmt: skip
    return info, pixels


def _pixels(dataset: Dataset, rows: int, columns: int, frames: int) -> _Pixels:
    """Read the image pixel module; UnsupportedDicom for other than grey of up to 16 bits and colour of 8."""
    samples, allocated, stored = (
        unsigned(dataset, keyword) for keyword in ("SamplesPerPixel", "BitsAllocated", "BitsStored")
    )
    photometric = text(dataset, "PhotometricInterpretation")
    if not photometric:
        raise invalid("PhotometricInterpretation", "is missing")
    grey = samples == 1 and photometric in _GREYS and allocated in (8, 16) and 1 <= stored <= allocated
    colour = samples == 3 and photometric in _COLOURS and allocated == stored == 8
    if not (grey or colour):
        raise UnsupportedDicom(
            "Only grey (MONOCHROME1, MONOCHROME2) of up to 16 bits and colour (RGB, YBR) of 8 bits are read: see "
            "PhotometricInterpretation (0028,0004), SamplesPerPixel (0028,0002), BitsAllocated (0028,0100) and "
            "BitsStored (0028,0101)."
        )
    _check_high_bit(dataset, stored)
    representation = unsigned(dataset, "PixelRepresentation")
    if representation not in (0, 1) or (colour and representation):
        raise invalid("PixelRepresentation", "is other than 0 and 1, or 1 for colour")
    planar = unsigned(dataset, "PlanarConfiguration") if colour else 0
    if planar not in (0, 1):
        raise invalid("PlanarConfiguration", "is other than 0 and 1")
    # Subsampled without compression is retired; two samples of chrominance stand for two pixels.
    layout = Layout(rows, columns, samples, allocated // 8, frames, photometric == "YBR_FULL_422")
    return _Pixels(layout, photometric, allocated, stored, representation == 1, planar)


def _check_high_bit(dataset: Dataset, stored: int) -> None:
    """Other high bits are retired in PS3.5 8.1.1, and pydicom would take the wrong bits."""
    if Tag("HighBit") in dataset and unsigned(dataset, "HighBit") != stored - 1:
        raise UnsupportedDicom(f"{element_name('HighBit')} is other than {element_name('BitsStored')} - 1.")


def _check_value(file: BinaryIO, header: Header, value: PixelData, pixels: _Pixels) -> None:
    """Hold the pixel data to the header: their length, the number of frames, and each frame's own words."""
    if not value.encapsulated:
        check_length(value, pixels.layout)
        return
    check_offset_tables(value, header, pixels.layout.frames)
    if pixels.layout.frames == 1 and value.fragments_like(file, codestreams.STARTS) > 1:
        raise invalid("NumberOfFrames", "is 1, and the pixel data have more frames")
    _check_frames(file, header, pixels)
    file.seek(value.start)


def _check_frames(file: BinaryIO, header: Header, pixels: _Pixels) -> None:
    layout, found = pixels.layout, 0
    declared = headers.Header(layout.columns, layout.rows, pixels.stored, layout.samples)
    for stream in generate_frames(file, number_of_frames=layout.frames):
        if header.syntax != RLELossless:  # its frames have no size of their own
            codestreams.check_frame(stream, header.syntax, declared, pixels.allocated)
        found += 1
    if found < layout.frames:
        raise CorruptImage("There are fewer frames than the header declares.")
    if found > layout.frames:
        raise invalid("NumberOfFrames", f"is {layout.frames}, and the pixel data have more frames")


def _stored_frames(file: BinaryIO, options: dict[str, Any], indices: range) -> Iterator[NDArray[Any]]:
    """Yield stored values (H, W), or RGB (H, W, 3), per frame."""
    syntax = options["transfer_syntax_uid"]
    # Without indices the fragments are walked once instead of once per frame.
    wanted = list(indices) if indices.start else None
    for frame, _ in get_decoder(syntax).iter_array(file, indices=wanted, decoding_plugin=PLUGINS[syntax], **options):
        yield frame.astype(frame.dtype.newbyteorder("="), copy=False)
