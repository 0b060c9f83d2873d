"""The raster rows of the table of odd files that real systems send, each by its name: pixels of its twin, or refused.

Each file is made here from a sample; `samples/` has none of them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from imagecodecs import jpegls_encode
from numpy.typing import NDArray

from shared.imaging.decode import Limits, MediaType, decode_one, probe
from tests.support.files.images import SAMPLES

LIMITS = Limits()


def sample() -> NDArray[np.uint8]:
    whole = decode_one((SAMPLES / "xray-normal.png").read_bytes(), LIMITS)
    return np.asarray(cv2.resize(whole, (512, 384), interpolation=cv2.INTER_AREA), np.uint8)


PNG8 = sample()
DEEP = np.asarray(PNG8, np.uint16) * 257
RGB16 = np.dstack([DEEP] * 3)


def png(picture: NDArray[Any]) -> bytes:
    return cv2.imencode(".png", picture)[1].tobytes()


def jpeg() -> bytes:
    return cv2.imencode(".jpg", PNG8)[1].tobytes()


def tiff(picture: NDArray[Any], **options: Any) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, picture, metadata=None, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def apng_default_hidden() -> bytes:
    """The default picture has no fcTL before it, so it is no frame; the one frame is another picture."""
    base = png(PNG8)
    height, width = PNG8.shape
    control = struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 10, 0, 0)
    rows = np.insert(255 - PNG8, 0, 0, axis=1).tobytes()
    frame = chunk(b"fcTL", control) + chunk(b"fdAT", struct.pack(">I", 1) + zlib.compress(rows))
    end = chunk(b"IEND", b"")
    return base[:33] + chunk(b"acTL", struct.pack(">II", 1, 0)) + base[33 : -len(end)] + frame + end


def jpeg_junk_between_segments() -> bytes:
    data = jpeg()
    end_of_first = 4 + int.from_bytes(data[4:6])
    return data[:end_of_first] + b"\x00\x11\x22\x33" + data[end_of_first:]


def jpeg_junk_before_all_segments() -> bytes:
    return jpeg()[:2] + b"\x00\x11\x22\x33" + jpeg()[2:]


#: Case, the file, the file whose pixels it must have, and how many grey levels they may differ by.
CASES: list[tuple[str, Callable[[], bytes], Callable[[], bytes], int]] = [
    ("apng-default-hidden.png", apng_default_hidden, lambda: png(PNG8), 1),
    ("jpeg-junk-between-segments.jpg", jpeg_junk_between_segments, jpeg, 1),
    ("junk before all segments", jpeg_junk_before_all_segments, jpeg, 1),
    ("jpeg-ls.jpg", lambda: bytes(jpegls_encode(PNG8)), lambda: png(PNG8), 1),
    ("tiff-bigtiff.tif", lambda: tiff(PNG8, bigtiff=True), lambda: png(PNG8), 1),
    ("tiff8-jpeg2000.tif", lambda: tiff(PNG8, compression="jpeg2000"), lambda: png(PNG8), 3),
    ("tiff8-zstd.tif", lambda: tiff(PNG8, compression="zstd"), lambda: png(PNG8), 3),
    (
        "tiffrgb16-planar.tif",
        lambda: tiff(np.moveaxis(RGB16, 2, 0), photometric="rgb", planarconfig="separate"),
        lambda: png(DEEP),
        2,
    ),
    ("tiffrgb16.tif", lambda: tiff(RGB16, photometric="rgb"), lambda: png(DEEP), 2),
]


@pytest.mark.parametrize(("file", "twin", "tolerance"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_an_odd_file_has_the_pixels_of_its_plain_twin(
    file: Callable[[], bytes], twin: Callable[[], bytes], tolerance: int
) -> None:
    data = file()

    assert probe(BytesIO(data), LIMITS).media_type in MediaType
    found, wanted = decode_one(data, LIMITS), decode_one(twin(), LIMITS)
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= tolerance
    assert np.array_equal(found, decode_one(data, LIMITS))  # nothing of what was in memory before
