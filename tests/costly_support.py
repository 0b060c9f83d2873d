"""Small files that are long work to decode."""

from __future__ import annotations

import struct
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
