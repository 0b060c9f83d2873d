"""DICOM objects: which are accepted, and where their pixels lie. `display` says how stored values become grey.

The dataset is read up to the pixels and only in the elements named here, so neither memory nor error texts ever hold
a patient's name. Sections (PS3.x) are those of the DICOM standard.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from io import SEEK_CUR, SEEK_END, BytesIO
from typing import Any, BinaryIO, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
)

from shared.errors import CorruptImage, NoPixelData, ProgramInPreamble, UnsupportedDicom
from shared.imaging.codecs import JPEG2000_PLUGIN, JPEG_LOSSLESS_PLUGIN, JPEG_PLUGIN
from shared.imaging.display import DISPLAY_KEYWORDS, Display
from shared.imaging.headers import Header, jpeg_header
from shared.imaging.info import ImageInfo, Limits, MediaType
from shared.imaging.vendor import vendor_errors

SIGNATURE = b"DICM"
PREAMBLE_BYTES = 128
# Windows (PE), Linux (ELF), macOS (Mach-O of both orders and widths, and of several processors), and scripts.
_PROGRAMS = (
    b"MZ", b"\x7fELF", b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe", b"\xca\xfe\xba\xbf", b"#!",
)  # fmt: skip

# One plugin per transfer syntax: the pixels must not depend on what else is installed. The deflated syntax is left
# out because its header cannot be read without inflating the whole object.
_PLUGINS: dict[str, str] = {
    ImplicitVRLittleEndian: "",
    ExplicitVRLittleEndian: "",
    ExplicitVRBigEndian: "",
    RLELossless: "pydicom",
    JPEGBaseline8Bit: JPEG_PLUGIN,
    JPEGExtended12Bit: JPEG_PLUGIN,
    JPEGLossless: JPEG_LOSSLESS_PLUGIN,
    JPEGLosslessSV1: JPEG_LOSSLESS_PLUGIN,
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    JPEG2000Lossless: JPEG2000_PLUGIN,
    JPEG2000: JPEG2000_PLUGIN,
}
# "DR" is no defined term of PS3.3 C.7.3.1.1.1, and devices write it all the same; RG is a scanned film.
_MODALITIES: dict[str, Literal["xray", "ct"]] = {"CR": "xray", "DX": "xray", "DR": "xray", "RG": "xray", "CT": "ct"}
_COLOURS = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
_GREYS = frozenset({"MONOCHROME1", "MONOCHROME2"})

_PIXEL_DATA = 0x7FE00010
_PIXEL_TAGS = frozenset({_PIXEL_DATA, 0x7FE00009, 0x7FE00008})  # the others are of floating point
_ITEM, _SEQUENCE_END, _UNDEFINED_LENGTH = 0xFFFEE000, 0xFFFEE0DD, 0xFFFFFFFF
_HEADER_TAGS: tuple[BaseTag, ...] = tuple(Tag(keyword) for keyword in (
    "Modality", "StudyInstanceUID", "SeriesInstanceUID", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "BurnedInAnnotation",
))  # fmt: skip
_JPEG2000_START = b"\xff\x4f\xff\x51"  # SOC, SIZ
_PIXEL_HEADER_TAGS = (
    *_HEADER_TAGS,
    *(Tag(keyword) for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths", *DISPLAY_KEYWORDS)),
)
_DEFER_BYTES = 16 << 20  # an element beyond this is no header; it is skipped instead of read

# These libraries report what becomes a CorruptImage anyway, and pydicom would quote values of the object.
for _name in ("pydicom", "openjpeg"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def probe(file: BinaryIO, limits: Limits) -> ImageInfo:
    """As `decode.probe`, for a DICOM object; ProgramInPreamble too."""
    with vendor_errors():
        _check_preamble(file)
        dataset, _ = read_header(file, _HEADER_TAGS)
        return _inspect(dataset, limits)


def frames(data: bytes, limits: Limits, first: int = 0) -> Iterator[NDArray[np.uint8]]:
    """As `decode.frames`, for a DICOM object, from the frame of index `first`; IndexError when there is none."""
    file = BytesIO(data)
    with vendor_errors():
        dataset, syntax = read_header(file, _PIXEL_HEADER_TAGS)
        info = _inspect(dataset, limits)
        options = _pixel_options(file, dataset, syntax, len(data))
        _check_codestreams(file, info, options)
    if not 0 <= first < info.frames:
        raise IndexError(f"no frame {first}")
    display = Display(dataset, hounsfield=info.modality == "ct")
    stored = _stored_frames(file, options, range(first, info.frames))
    for index in range(first, info.frames):
        with vendor_errors():
            frame = next(stored)
            grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if frame.ndim == 3 else display.grey(frame, index)
        yield np.asarray(grey, dtype=np.uint8)


def _check_preamble(file: BinaryIO) -> None:
    """The preamble is anybody's (PS3.10 7.1): what a system starts as a program must not come in as a picture."""
    file.seek(0)
    if file.read(PREAMBLE_BYTES).startswith(_PROGRAMS):
        raise ProgramInPreamble


def read_header(file: BinaryIO, tags: tuple[BaseTag, ...] | None) -> tuple[Dataset, UID]:
    """Read the named elements, or all of them, up to the pixel data, where `file` is left; their tag has not been read.

    Values that are too large for a header are skipped.

    Raises NoPixelData, and UnsupportedDicom for a transfer syntax that is not in the list.
    """
    size = file.seek(0, SEEK_END)
    file.seek(PREAMBLE_BYTES + len(SIGNATURE))
    meta = read_dataset(file, False, True, stop_when=_after_meta, defer_size=_DEFER_BYTES)  # always so, PS3.10 7.1
    syntax = UID(str(meta.get("TransferSyntaxUID", "")))
    if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise NoPixelData("A DICOMDIR: an index of files, not one of them.")
    if syntax not in _PLUGINS:
        raise UnsupportedDicom("Transfer syntax unknown.")
    dataset = read_dataset(
        file, syntax.is_implicit_VR, syntax.is_little_endian, stop_when=_at_pixels, defer_size=_DEFER_BYTES,
        specific_tags=None if tags is None else list(tags),
    )  # fmt: skip
    if file.tell() > size:  # the last element was skipped over, beyond the end
        raise CorruptImage("The DICOM object is truncated.")
    if file.tell() == size:
        raise NoPixelData
    return dataset, syntax


def _after_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 0x0002


def _at_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag in _PIXEL_TAGS


def _inspect(dataset: Dataset, limits: Limits) -> ImageInfo:
    """Hold the header to the limits and to what `frames` can show."""
    modality = _MODALITIES.get(str(dataset.get("Modality")))
    if modality is None:
        raise UnsupportedDicom("Modality other than CR, DX, DR, RG or CT.")
    rows, columns, count = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames") or 1)
    limits.check(columns, rows, count)
    _check_samples(dataset)
    study, series = dataset.get("StudyInstanceUID"), dataset.get("SeriesInstanceUID")
    return ImageInfo(
        MediaType.DICOM, columns, rows, count, modality,
        series_uid=str(series) if series else None,
        study_uid=str(study) if study else None,
        burned_in=str(dataset.get("BurnedInAnnotation") or "").strip().upper() == "YES",
    )  # fmt: skip


def _check_samples(dataset: Dataset) -> None:
    """Raise UnsupportedDicom for samples other than grey of up to 16 bits and colour of 8 (PS3.3 C.7.6.3)."""
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if dataset.SamplesPerPixel == 1:
        readable = dataset.PhotometricInterpretation in _GREYS and allocated in (8, 16) and 1 <= stored <= allocated
    else:
        readable = dataset.PhotometricInterpretation in _COLOURS and allocated == stored == 8
    if not readable:
        raise UnsupportedDicom("Photometric interpretation or bit depth that is not read.")
    # Retired in PS3.5 8.1.1, and pydicom would take the wrong bits.
    if int(dataset.get("HighBit", stored - 1)) != stored - 1:
        raise UnsupportedDicom("High bit other than bits stored - 1.")


def _pixel_options(file: BinaryIO, dataset: Dataset, syntax: UID, size: int) -> dict[str, Any]:
    """Enter the pixel data element, check that the file holds all of it, and describe it to pydicom's decoders.

    `file` is left at the first byte of the value.
    """
    vr, length = _enter_pixels(file, dataset, syntax)
    start = file.tell()
    if syntax.is_encapsulated:
        _check_fragments(file, size)
    elif start + length > size:
        raise CorruptImage("The pixel data are truncated.")
    file.seek(start)
    return as_pixel_options(dataset, pixel_keyword="PixelData", pixel_vr=vr, transfer_syntax_uid=syntax)


def _enter_pixels(file: BinaryIO, dataset: Dataset, syntax: UID) -> tuple[str, int]:
    """Read the pixel data element's head: its value representation and its length."""
    implicit, little_endian = dataset.original_encoding
    order = "<" if little_endian else ">"
    group, element = struct.unpack(order + "HH", file.read(4))
    if group << 16 | element != _PIXEL_DATA:
        raise UnsupportedDicom("Pixels of floating point.")
    vr = "OW" if implicit else file.read(4)[:2].decode("ascii")
    (length,) = struct.unpack(order + "I", file.read(4))
    if syntax.is_encapsulated != (length == _UNDEFINED_LENGTH):
        raise CorruptImage("The pixel data are not encoded as the transfer syntax says.")
    return vr, length


def end_of_pixels(file: BinaryIO, dataset: Dataset, syntax: UID) -> int:
    """Where the pixel data element ends, for a `file` that stands before it; CorruptImage when it is not all there."""
    start, size = file.tell(), file.seek(0, SEEK_END)
    file.seek(start)
    _, length = _enter_pixels(file, dataset, syntax)
    if length != _UNDEFINED_LENGTH:
        end = file.tell() + length
        if end > size:
            raise CorruptImage("The pixel data are truncated.")
        return end
    _check_fragments(file, size)
    return file.tell()


def _check_fragments(file: BinaryIO, size: int) -> None:
    """Walk the fragments to the delimiter (PS3.5 A.4): some codecs would show half a picture without complaint."""
    while True:
        group, element, length = struct.unpack("<HHI", file.read(8))
        if group << 16 | element == _SEQUENCE_END:
            return
        if group << 16 | element != _ITEM or file.seek(length, SEEK_CUR) > size:
            raise CorruptImage("The pixel data are truncated.")


def _check_codestreams(file: BinaryIO, info: ImageInfo, options: dict[str, Any]) -> None:
    """Compare every frame's own size with the header's, by which the limits were checked, before a codec allocates it.

    Native and RLE frames have no size of their own.
    """
    syntax = options["transfer_syntax_uid"]
    if not syntax.is_encapsulated or syntax == RLELossless:
        return
    start, count = file.tell(), 0
    offsets = options.get("extended_offsets")
    for stream in generate_frames(file, number_of_frames=info.frames, extended_offsets=offsets):
        frame = _codestream_header(stream)
        if (frame.width, frame.height) != (info.width, info.height):
            raise CorruptImage("A compressed frame does not have the size that the header declares.")
        if frame.samples != options["samples_per_pixel"] or not 1 < frame.bits <= options["bits_allocated"]:
            raise CorruptImage("A compressed frame does not have the samples that the header declares.")
        count += 1
    if count < info.frames:
        raise CorruptImage("There are fewer frames than the header declares.")
    file.seek(start)


def _codestream_header(stream: bytes) -> Header:
    at = stream.find(_JPEG2000_START, 0, 1 << 16)  # some writers keep the boxes of the JP2 format before it
    if at >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", stream, at + 8)  # SIZ, ISO 15444-1 A.5.1
        samples, depth = struct.unpack_from(">HB", stream, at + 40)
        return Header(right - left, bottom - top, (depth & 0x7F) + 1, samples)
    return jpeg_header(BytesIO(stream))


def _stored_frames(file: BinaryIO, options: dict[str, Any], indices: range) -> Iterator[NDArray[Any]]:
    """Yield stored values (H, W), or RGB (H, W, 3), per frame."""
    syntax = options["transfer_syntax_uid"]
    plugin = _PLUGINS[syntax]
    decoder = get_decoder(syntax)
    # Without indices the fragments are walked once instead of once per frame.
    wanted = list(indices) if indices.start else None
    for frame, _ in decoder.iter_array(file, indices=wanted, decoding_plugin=plugin, **options):
        yield frame
