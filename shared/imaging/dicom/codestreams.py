"""Compressed frames against the header of their object, before a codec allocates a picture of the frame's own size."""

from __future__ import annotations

import struct
from io import BytesIO

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from shared.errors import CorruptImage
from shared.imaging.dicom.elements import invalid
from shared.imaging.headers import Header, jpeg_header
from shared.imaging.jpeg import walk

_JPEG_START, _JPEG2000_START = b"\xff\xd8\xff", b"\xff\x4f\xff\x51"  # SOI; SOC and SIZ
#: What the first fragment of a frame begins with; nothing inside of a codestream looks so.
STARTS = (_JPEG_START, _JPEG2000_START)
_JPEG2000 = frozenset({JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K})
_DCT = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit})
#: Start-of-frame markers that a JPEG of each syntax may have: baseline, extended or progressive; lossless; JPEG-LS.
_MARKERS: dict[UID, frozenset[int]] = {
    **dict.fromkeys(_DCT, frozenset({0xC0, 0xC1, 0xC2})),
    **dict.fromkeys((JPEGLossless, JPEGLosslessSV1), frozenset({0xC3})),
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), frozenset({0xF7})),
}
#: The codecs of JPEG-LS and JPEG 2000 say themselves that a stream ends early.
_CHECKED_MARKERS = frozenset({0xC0, 0xC1, 0xC2, 0xC3})


def check_frame(stream: bytes, syntax: UID, declared: Header, allocated: int) -> None:
    """Raise unless a frame is of its transfer syntax, whole, and has the size and samples that `declared` says.

    `declared.bits` are the bits stored. More bits than those are no fault, up to the `allocated` ones: overlays stood
    there once. Fewer are none either where a codec is lossless or chooses them; the two depths of a JPEG are fixed.
    """
    frame = _header(stream, syntax)
    if (frame.width, frame.height) != (declared.width, declared.height):
        raise CorruptImage("A compressed frame does not have the size that the header declares.")
    if frame.samples != declared.samples or not 1 < frame.bits <= allocated:
        raise CorruptImage("A compressed frame does not have the samples that the header declares.")
    if syntax in _DCT and frame.bits < declared.bits:
        raise invalid("BitsStored", f"is {declared.bits}, and a compressed frame has {frame.bits} bits")
    if frame.marker in _CHECKED_MARKERS:
        walk(stream, frame.width * frame.height)


def _header(stream: bytes, syntax: UID) -> Header:
    if syntax in _JPEG2000:
        return _jpeg2000_header(stream)
    if not stream.startswith(_JPEG_START):
        raise _other_codec(syntax)
    header = jpeg_header(BytesIO(stream))
    if header.marker not in _MARKERS[syntax]:
        raise _other_codec(syntax)
    return header


def _jpeg2000_header(stream: bytes) -> Header:
    """Read SIZ, ISO 15444-1 A.5.1."""
    at = stream.find(_JPEG2000_START, 0, 1 << 16)  # some writers keep the boxes of the JP2 format before it
    if at < 0:
        raise _other_codec(JPEG2000)
    right, bottom, left, top = struct.unpack_from(">4I", stream, at + 8)
    (samples,) = struct.unpack_from(">H", stream, at + 40)
    components = stream[at + 42 : at + 42 + 3 * samples]
    if len(components) < 3 or components != components[:3] * samples:
        raise CorruptImage("The components of a compressed frame differ in depth or size.")
    return Header(right - left, bottom - top, (components[0] & 0x7F) + 1, samples)


def _other_codec(syntax: UID) -> Exception:
    return invalid("TransferSyntaxUID", f"says {syntax.name}, and a frame is compressed in another way, or damaged")
