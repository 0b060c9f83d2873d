"""JPEG (ITU-T T.81) and JPEG-LS (T.87): the walk over a file's segments, and its pixels.

libjpeg-turbo, through simplejpeg, decodes; unlike OpenCV's copy of it, this one says when data end before the picture
does, instead of filling the rest with grey. The walk comes first: it counts the scans, each of which costs a pass over
the whole picture, and finds what lies between segments, which decoders pass over.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from shared.errors import CorruptImage, ImageError, TooCostly, UnsupportedEncoding
from shared.imaging.depth import orient, to_display
from shared.imaging.headers import JPEG_ALONE, JPEG_MARKER, JPEG_START_OF_SCAN, MOST_JPEG_SEGMENTS, Header

ADOBE = b"Adobe"
#: Progressive files have about ten. Each is a pass over the picture, of which a large one takes tens of milliseconds.
MOST_SCANS, MOST_SCANNED_PIXELS = 100, 2_000_000_000
_END_OF_IMAGE, _APP1 = 0xD9, 0xE1
# In entropy-coded data FF is followed by a stuffed 00 or a restart marker; a run of FF is filling.
_MARKER_IN_SCAN = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_LS = 0xF7
#: Baseline, extended, progressive, lossless, JPEG-LS.
READ_PROCESSES = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive", 0xC3: "lossless", _LS: "JPEG-LS"}
#: Arithmetic coding has no way to tell that data end early: its decoder goes on with zeros (T.81, D.2).
REFUSED_PROCESSES = {
    0xC5: "hierarchical", 0xC6: "hierarchical progressive", 0xC7: "hierarchical lossless", 0xC9: "arithmetic-coded",
    0xCA: "arithmetic-coded progressive", 0xCB: "arithmetic-coded lossless", 0xCD: "arithmetic-coded hierarchical",
    0xCE: "arithmetic-coded hierarchical progressive", 0xCF: "arithmetic-coded hierarchical lossless",
}  # fmt: skip
_EXIF = b"Exif\0\0"


@dataclass
class Walk:
    """What lies in a file: its scans, its orientation (EXIF), and stretches that belong to no segment."""

    scans: int = 0
    orientation: int = 1
    junk: list[slice] = field(default_factory=list)


def check_readable(header: Header) -> None:
    """Raise UnsupportedEncoding for the kinds of JPEG that only DICOM carries in practice."""
    if header.marker not in READ_PROCESSES:
        raise UnsupportedEncoding(f"JPEG that is {REFUSED_PROCESSES[header.marker]} is not read.")
    if header.marker == _LS:
        if header.samples not in (1, 3) or not 2 <= header.bits <= 16:
            raise UnsupportedEncoding(f"JPEG-LS of {header.samples} components of {header.bits} bits is not read.")
    elif header.bits != 8:
        raise UnsupportedEncoding(f"JPEG of {header.bits} bits per sample; 8 are read, up to 16 in DICOM.")
    elif header.samples not in (1, 3, 4):
        raise UnsupportedEncoding(f"JPEG of {header.samples} components; 1, 3 and 4 are read.")


def is_sequential(header: Header) -> bool:
    """Whether it is of the common kind, decoded row by row; the others go over the picture many times, or slowly."""
    return header.marker in (0xC0, 0xC1)


def walk(data: bytes, pixels: int = 0) -> Walk:
    """Walk the segments and scans of a picture of so many pixels to the end-of-image marker.

    A search for FFD9 alone would be satisfied by the one of an EXIF thumbnail. Raises CorruptImage when the end is not
    reached, and TooCostly for more scans or segments than any program writes.
    """
    found, position, segments, scanning = Walk(), 2, 0, False
    while match := (_MARKER_IN_SCAN if scanning else JPEG_MARKER).search(data, position):
        marker = match[1][0]
        if not scanning and match.start() > position:
            found.junk.append(slice(position, match.start()))
        position = match.end()
        if marker == _END_OF_IMAGE:
            return found
        if marker in JPEG_ALONE:
            continue
        if position + 2 > len(data):
            break
        end = position + int.from_bytes(data[position : position + 2])
        segments += 1
        scanning = marker == JPEG_START_OF_SCAN
        found.scans += scanning
        if marker == _APP1 and found.orientation == 1:
            found.orientation = _orientation(data[position + 2 : end])
        if found.scans > _most(pixels):
            raise TooCostly(f"A JPEG file of {found.scans} scans or more; for {pixels} pixels at most {_most(pixels)}.")
        if segments > MOST_JPEG_SEGMENTS:
            raise TooCostly(f"A JPEG file of more than {MOST_JPEG_SEGMENTS} segments.")
        position = end
    raise CorruptImage("The JPEG file is truncated.")


def _most(pixels: int) -> int:
    """How many scans a picture of so many pixels may have."""
    return min(MOST_SCANS, MOST_SCANNED_PIXELS // max(pixels, 1))


def _orientation(segment: bytes) -> int:
    """Return the Orientation of an EXIF segment (EXIF 2.32, 4.5.4); 1 where it has none, or a damaged one."""
    from shared.imaging.tiff import reader as tiff

    if not segment.startswith(_EXIF):
        return 1
    try:
        return tiff.orientation(BytesIO(segment[len(_EXIF) :]))
    except ImageError:
        return 1


def picture(data: bytes, header: Header, reduced_by: int = 1) -> NDArray[np.uint8]:
    """Decode the display grey (H, W) of a JPEG file, a power of two smaller on request, turned as its EXIF says.

    Raises CorruptImage when it is damaged or ends early, and TooCostly.
    """
    if header.marker == _LS:  # its markers are others within a scan (T.87, A.1), and its decoder notices a cut itself
        return _jpeg_ls(data, header)
    found = walk(data, header.width * header.height)
    clean = data
    for junk in reversed(found.junk):
        clean = clean[: junk.start] + clean[junk.stop :]
    grey = decode_stream(clean, "GRAY", (-(-header.height // reduced_by), -(-header.width // reduced_by)))
    return orient(grey[:, :, 0], found.orientation)


def decode_stream(data: bytes, colours: str, least: tuple[int, int] = (0, 0)) -> NDArray[np.uint8]:
    """Decode to (H, W, C) in the colours that simplejpeg calls so, not smaller than `least` (height, width) if given.

    Raises CorruptImage for all that libjpeg warns of: the picture would be made up in part.
    """
    import simplejpeg

    height, width = least
    reduced = {"min_height": height, "min_width": width, "min_factor": 1} if height else {}
    try:
        decoded: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colours, **reduced)
    except ValueError as error:
        raise CorruptImage(f"The JPEG data are damaged: {error}.") from error
    return decoded


def _jpeg_ls(data: bytes, header: Header) -> NDArray[np.uint8]:
    import cv2
    from imagecodecs import JpeglsError, jpegls_decode

    try:
        samples = jpegls_decode(data)
    except (JpeglsError, ValueError) as error:
        raise CorruptImage("The JPEG-LS data are damaged.") from error
    if samples.shape[:2] != (header.height, header.width):
        raise CorruptImage("The JPEG-LS picture does not have the size that its header says.")
    return to_display(cv2.cvtColor(samples, cv2.COLOR_RGB2GRAY) if samples.ndim == 3 else samples, header.bits)


def with_transform(stream: bytes, transform: int) -> bytes:
    """Return the stream with an Adobe segment that says whether its colours are YCbCr (1) or RGB (0), if it has none.

    A JFIF segment goes before it, and means YCbCr. Without either, libjpeg would guess by the names of the components.
    """
    if ADOBE in stream[:2000]:
        return stream
    segment = b"\xff\xee" + struct.pack(">H5sHHHB", 14, ADOBE, 100, 0, 0, transform)
    return stream[:2] + segment + stream[2:]
