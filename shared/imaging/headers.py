"""Sizes of PNG and JPEG files from their first bytes, and whether the last byte is there.

The codec is never asked about either: it would allocate the picture to learn its size, and for a file that
was cut short it may return a picture whose lower part is grey.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from shared.errors import CorruptImage, TooCostly

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Start-of-frame markers, ITU-T T.81 table B.1: C0..CF but for DHT, JPG and DAC; F7 is JPEG-LS (T.87).
JPEG_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
JPEG_START_OF_SCAN = 0xDA
JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM and restart markers have no length (T.81, B.1.1.3)
JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff])")
#: More than a profile, an EXIF block and a few notes make; each is a step of ours.
MOST_JPEG_SEGMENTS = 10_000


@dataclass(frozen=True)
class Header:
    """Width and height in pixels, bits per sample, and of a JPEG its samples per pixel and start-of-frame marker."""

    width: int
    height: int
    bits: int
    samples: int = 0
    #: T.81, table B.1
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
    return frozenset(kind for kind, _ in png_walk(data))


def png_walk(data: bytes) -> Iterator[tuple[bytes, slice]]:
    """Each chunk's kind and place, to IEND; CorruptImage for a wrong checksum, or when IEND is not reached."""
    view, position = memoryview(data), len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(view[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise CorruptImage("A PNG chunk does not have its checksum.")
        yield kind, slice(position, end + 4)
        if kind == b"IEND":
            return
        position = end + 4
    raise CorruptImage("The PNG file is truncated.")


def jpeg_header(file: BinaryIO) -> Header:
    """Walk the segments to the start of frame (ITU-T T.81 B.2.2), seeking over EXIF, profiles and thumbnails.

    Bytes between segments are passed over, as libjpeg does.
    """
    read_exactly(file, 2)
    for _ in range(MOST_JPEG_SEGMENTS):
        marker = _next_jpeg_marker(file)
        if marker in JPEG_ALONE:
            continue
        (length,) = struct.unpack(">H", read_exactly(file, 2))
        if marker in JPEG_FRAME_MARKERS:
            bits, height, width, samples = struct.unpack(">BHHB", read_exactly(file, 6))
            return Header(width, height, bits, samples, marker)
        if marker == JPEG_START_OF_SCAN or length < 2:
            raise CorruptImage("The JPEG header is damaged.")
        file.seek(length - 2, 1)
    raise TooCostly(f"A JPEG file of more than {MOST_JPEG_SEGMENTS} segments.")


def _next_jpeg_marker(file: BinaryIO) -> int:
    """Return the next marker's code, behind any number of filling bytes (FF) and of bytes that belong to no segment."""
    while True:
        start, window = file.tell(), file.read(1 << 16)
        if match := JPEG_MARKER.search(window):
            file.seek(start + match.end())
            return match[1][0]
        if len(window) < 2:
            raise CorruptImage("The file ends inside its header.")
        # The last byte may be the first one of a marker.
        file.seek(start + len(window) - 1)
