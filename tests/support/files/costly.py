"""Small files that are long work to decode."""

from __future__ import annotations

import struct
import zlib
from functools import cache
from io import BytesIO

import tifffile
from imagecodecs import lzma_encode


def tiff_of(strip: bytes, pages: int, side: int) -> bytes:
    """Pages of one LZMA strip each, which all of them share."""
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for _ in range(pages):
            one = iter([strip[:1]])
            writer.write(one, shape=(side, side), dtype="uint8", compression="lzma", rowsperstrip=side, metadata=None)
    data = bytearray(file.getvalue()) + strip
    with tifffile.TiffFile(BytesIO(file.getvalue())) as found:
        for page in found.pages:
            for code, value in ((273, len(data) - len(strip)), (279, len(strip))):
                tag = page.aspage().tags[code]
                struct.pack_into({3: "<H", 4: "<I"}[tag.dtype], data, tag.valueoffset, value)
    return bytes(data)


@cache
def black_pages(pages: int) -> bytes:
    """So many pages of 16 million pixels, in some 20 kB: each a tenth of a second or more."""
    return tiff_of(bytes(lzma_encode(bytes(16_000_000))), pages, 4000)


def tiny_tiles(side: int = 8000) -> bytes:
    """A page of a quarter of a million tiles of 16 x 16 pixels, which all of them share: seconds, for one picture."""
    tile = zlib.compress(bytes(256))
    count = (side // 16) ** 2
    tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1),
            (322, 4, 1, 16), (323, 4, 1, 16)]  # fmt: skip
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    offsets, sizes = start + len(tile), start + len(tile) + 4 * count
    tags += [(324, 4, count, offsets), (325, 4, count, sizes)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    tables = struct.pack("<I", start) * count + struct.pack("<I", len(tile)) * count
    return b"II*\0" + struct.pack("<I", 8) + directory + tile + tables
