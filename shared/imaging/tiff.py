"""TIFF directories: page sizes and extents, from a few hundred bytes anywhere in the file (TIFF 6.0, section 2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from shared.errors import CorruptImage, UnsupportedImage
from shared.imaging.headers import read_exactly

TIFF_SIGNATURES = (b"II*\0", b"MM\0*")
WIDTH, HEIGHT, BITS, PHOTOMETRIC, SAMPLE_FORMAT = 256, 257, 258, 262, 339
# (offsets, byte counts) of strips and of tiles; a page has one of the two pairs.
EXTENTS = ((273, 279), (324, 325))
WHITE_IS_ZERO = 0
UNSIGNED = 1
_MAX_VALUES = 1 << 20  # one strip per row of any picture within the limits; more is an attempt on our memory
_FORMATS = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG


@dataclass(frozen=True)
class Page:
    """One image file directory: width and height in pixels, bits per sample, and where the pixels lie."""

    width: int
    height: int
    bits: int
    white_is_zero: bool
    last_byte: int


def pages(file: BinaryIO, max_pages: int, extents: bool) -> list[Page]:
    """Read the directories, at most `max_pages` + 1 of them so that the caller sees that there are too many.

    `extents` also reads the strip tables, which a check for truncation needs and a look at the size does not.
    Raises CorruptImage for damaged directories and UnsupportedImage for samples that are not 1, 8 or 16 bits unsigned.
    """
    found: list[Page] = []
    for order, offset in _directories(file):
        found.append(_page(file, order, offset, extents))
        if len(found) > max_pages:
            break
    if not found:
        raise CorruptImage("The TIFF file has no page.")
    return found


def _directories(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Yield the byte order and the offset of each directory of the chain."""
    start = read_exactly(file, 8)
    order = "<" if start[:2] == b"II" else ">"
    (offset,) = struct.unpack(order + "I", start[4:])
    seen: set[int] = set()
    while offset:
        if offset in seen:
            raise CorruptImage("The TIFF directories form a ring.")
        seen.add(offset)
        yield order, offset
        file.seek(offset)
        (entries,) = struct.unpack(order + "H", read_exactly(file, 2))
        file.seek(12 * entries, 1)
        (offset,) = struct.unpack(order + "I", read_exactly(file, 4))


def _page(file: BinaryIO, order: str, offset: int, extents: bool) -> Page:
    file.seek(offset)
    (count,) = struct.unpack(order + "H", read_exactly(file, 2))
    table = read_exactly(file, 12 * count)
    fields = {int(entry[0]): entry for entry in struct.iter_unpack(order + "HHI4s", table)}

    def values(tag: int, default: int) -> tuple[int, ...]:
        return _values(file, order, fields[tag]) if tag in fields else (default,)

    if WIDTH not in fields or HEIGHT not in fields:
        raise CorruptImage("A TIFF page does not declare its size.")
    bits, sample_format = values(BITS, 1)[0], values(SAMPLE_FORMAT, UNSIGNED)[0]
    if bits not in (1, 8, 16) or sample_format != UNSIGNED:
        raise UnsupportedImage("TIFF samples other than unsigned integers of 1, 8 or 16 bits.")
    ends = (start + size for at, length in EXTENTS if at in fields and length in fields and extents
            for start, size in zip(values(at, 0), values(length, 0), strict=False))  # fmt: skip
    return Page(
        width=values(WIDTH, 0)[0],
        height=values(HEIGHT, 0)[0],
        bits=bits,
        white_is_zero=values(PHOTOMETRIC, 1)[0] == WHITE_IS_ZERO,
        last_byte=max(ends, default=0),
    )


def _values(file: BinaryIO, order: str, entry: tuple[int, int, int, bytes]) -> tuple[int, ...]:
    """The integers of one directory entry: in the entry itself when they fit in four bytes, else where it points."""
    _, kind, count, inline = entry
    if kind not in _FORMATS or not 1 <= count <= _MAX_VALUES:
        raise CorruptImage("A TIFF directory entry is damaged.")
    layout = f"{order}{count}{_FORMATS[kind]}"
    size = struct.calcsize(layout)
    if size <= 4:
        return struct.unpack(layout, inline[:size])
    (offset,) = struct.unpack(order + "I", inline)
    file.seek(offset)
    return struct.unpack(layout, read_exactly(file, size))
