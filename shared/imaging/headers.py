"""Sizes of PNG and JPEG files from their first bytes, and whether the last byte is there.

The codec is never asked about either: it would allocate the picture to learn its size, and for a file that
was cut short it may return a picture whose lower part is grey.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from shared.errors import CorruptImage, UnsupportedImage

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Start-of-frame markers, ITU-T T.81 table B.1: C0..CF but for DHT, JPG and DAC; F7 is JPEG-LS (T.87).
JPEG_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
JPEG_START_OF_SCAN = 0xDA
JPEG_END_OF_IMAGE = 0xD9
# In entropy-coded data FF is followed by a stuffed 00 or a restart marker; a run of FF is filling.
JPEG_MARKER_IN_SCAN = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")


@dataclass(frozen=True)
class Header:
    """Width and height in pixels, bits per sample, and of a JPEG its samples per pixel and start-of-frame marker."""

    width: int
    height: int
    bits: int
    samples: int = 0
    marker: int = 0


def read_exactly(file: BinaryIO, count: int) -> bytes:
    """Read `count` bytes, or raise CorruptImage."""
    read = file.read(count)
    if len(read) < count:
        raise CorruptImage("The file ends inside its header.")
    return read


def png_header(file: BinaryIO) -> Header:
    """Read signature and IHDR (PNG specification 11.2.2), checksum included."""
    start = read_exactly(file, len(PNG_SIGNATURE) + 25)[len(PNG_SIGNATURE) :]
    length, kind, width, height, bits = struct.unpack(">I4sIIB", start[:17])
    (checksum,) = struct.unpack(">I", start[21:])
    if length != 13 or kind != b"IHDR" or zlib.crc32(start[4:21]) != checksum:
        raise CorruptImage("The PNG header is damaged.")
    return Header(width, height, bits)


def png_chunks(data: bytes) -> frozenset[bytes]:
    """Walk the chunks to IEND and compare every checksum; which kinds there are, or CorruptImage."""
    view, position, kinds = memoryview(data), len(PNG_SIGNATURE), set[bytes]()
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(view[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise CorruptImage("A PNG chunk does not have its checksum.")
        kinds.add(kind)
        if kind == b"IEND":
            return frozenset(kinds)
        position = end + 4
    raise CorruptImage("The PNG file is truncated.")


def jpeg_header(file: BinaryIO) -> Header:
    """Walk the segments to the start of frame (ITU-T T.81 B.2.2), seeking over EXIF, profiles and thumbnails."""
    read_exactly(file, 2)
    while True:
        marker = _next_jpeg_marker(file)
        (length,) = struct.unpack(">H", read_exactly(file, 2))
        if marker in JPEG_FRAME_MARKERS:
            bits, height, width, samples = struct.unpack(">BHHB", read_exactly(file, 6))
            return Header(width, height, bits, samples, marker)
        if marker == JPEG_START_OF_SCAN or length < 2:
            raise CorruptImage("The JPEG header is damaged.")
        file.seek(length - 2, 1)


def _next_jpeg_marker(file: BinaryIO) -> int:
    if read_exactly(file, 1) != b"\xff":
        raise CorruptImage("The JPEG header is damaged.")
    marker = b"\xff"
    while marker == b"\xff":  # any number of filling bytes may come before the marker's code
        marker = read_exactly(file, 1)
    return marker[0]


def check_jpeg_complete(data: bytes) -> None:
    """Walk the segments and scans to the end-of-image marker; raise CorruptImage when it is not reached.

    A search for FFD9 alone would be satisfied by the one of an EXIF thumbnail.
    """
    position, marker = 2, 0
    while match := JPEG_MARKER_IN_SCAN.search(data, position):
        marker, position = match[1][0], match.end()
        if marker == JPEG_END_OF_IMAGE:
            return
        if position + 2 > len(data):
            break
        position += struct.unpack_from(">H", data, position)[0]
    raise CorruptImage("The JPEG file is truncated.")


def check_jpeg_readable(header: Header) -> None:
    """Raise UnsupportedImage for the 12- and 16-bit JPEG files that only DICOM carries in practice."""
    if header.bits != 8:
        raise UnsupportedImage(f"JPEG of {header.bits} bits per sample; 8 are read.")
