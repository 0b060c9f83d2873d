"""What hospital A sends."""

from __future__ import annotations

import struct
import zlib
from functools import cache

import cv2
import numpy as np

from tests.support.files.costly import black_pages, tiny_tiles

#: Of a PNG: its signature and its first chunk.
HEADER_BYTES = 33


def plain_file(number: int) -> bytes:
    """A small picture that is like no other."""
    grey = np.full((64, 64), 100, np.uint8)
    cv2.putText(grey, str(number), (2, 40), cv2.FONT_HERSHEY_PLAIN, 1.5, 220)
    png: bytes = cv2.imencode(".png", grey)[1].tobytes()
    return png


@cache
def costly_files() -> tuple[bytes, ...]:
    """Small files that are long work, one of each kind that was found."""
    return (black_pages(200), tiny_tiles(), many_scans(2_000), with_text(plain_file(0), 100, 8_000_000))


def many_scans(scans: int, side: int = 512) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    grey = np.random.default_rng(1).integers(0, 255, (side, side), dtype=np.uint8)
    data = cv2.imencode(".jpg", grey, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1))[1].tobytes()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + data[-2:]


def with_text(png: bytes, chunks: int, inflated: int) -> bytes:
    """The PNG with text that inflates to so many bytes, so many times."""
    body = b"Comment\0\0" + zlib.compress(bytes(inflated), 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    return png[:HEADER_BYTES] + chunk * chunks + png[HEADER_BYTES:]
