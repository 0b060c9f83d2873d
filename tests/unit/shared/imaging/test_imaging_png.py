"""Two decoders for PNG: what the faster one says is what OpenCV says, and the rest is left to OpenCV."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from imagecodecs import png_encode
from numpy.typing import NDArray

from shared.errors import CorruptImage
from shared.imaging.decode import Limits, decode_one, frames
from shared.imaging.headers import png_chunks
from shared.imaging.png import MOST_BYTES, decode_plain, still
from tests.support.files.images import SAMPLES

END_OF_HEADER = 33
NONE, SUB, UP, AVERAGE, PAETH, ALL = 8, 16, 32, 64, 128, 248  # libpng's names of row filters
GREY_NOISE = np.random.default_rng(1).integers(0, 256, (61, 83), dtype=np.uint8)
GREY = np.asarray(cv2.blur(GREY_NOISE, (9, 9)), np.uint8)
DEEP = GREY.astype(np.uint16) * 16 + 5
COLOUR = np.stack([GREY, np.roll(GREY, 5, axis=0), 255 - GREY], axis=2)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(png: bytes, kind: bytes, body: bytes) -> bytes:
    return png[:END_OF_HEADER] + chunk(kind, body) + png[END_OF_HEADER:]


def encoded(picture: NDArray[np.integer], level: int = 6, row_filter: int = ALL) -> bytes:
    return bytes(png_encode(np.ascontiguousarray(picture), level=level, filter=row_filter))


def whole(header: bytes, *chunks: bytes) -> bytes:
    return b"".join((b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *chunks, chunk(b"IEND", b"")))


def by_opencv(png: bytes) -> NDArray[Any]:
    deep = png[24] > 8
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_ANYDEPTH if deep else cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    return picture


def by_the_other(png: bytes) -> NDArray[np.integer] | None:
    return decode_plain(png, png_chunks(png))


@pytest.mark.parametrize("row_filter", [NONE, SUB, UP, AVERAGE, PAETH, ALL])
@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize(
    ("picture", "levels_off"),
    [
        (GREY, 0),
        (GREY_NOISE, 0),
        (GREY[:1], 0),
        (GREY[:, :1], 0),
        (DEEP, 0),
        (np.stack([GREY] * 3, axis=2), 0),
        (COLOUR, 1),
    ],
    ids=["grey", "noise", "a row", "a column", "16 bits", "grey as RGB", "colour"],
)
def test_plain_pictures_have_the_pixels_that_opencv_gives(
    picture: NDArray[np.integer], levels_off: int, level: int, row_filter: int
) -> None:
    png = encoded(picture, level, row_filter)

    found, wanted = by_the_other(png), by_opencv(png)

    assert found is not None
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert np.abs(found.astype(int) - wanted.astype(int)).max() <= levels_off


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.png")), ids=lambda path: path.name)
def test_the_samples_have_the_pixels_that_opencv_gives(path: Path) -> None:
    png = path.read_bytes()

    assert np.abs(decode_one(png, Limits()).astype(int) - by_opencv(png).astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"gAMA", struct.pack(">I", 20_000)),
        (b"sRGB", b"\0"),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
        (b"sBIT", b"\x05"),
        (b"bKGD", b"\0\x80"),
        (b"pHYs", struct.pack(">IIB", 4000, 2000, 1)),
        (b"tIME", struct.pack(">HBBBBB", 2024, 2, 29, 12, 0, 0)),
        (b"tEXt", b"Comment\0from the modality"),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"from the modality")),
    ],
)
def test_chunks_that_say_nothing_of_grey_pixels_change_none(kind: bytes, body: bytes) -> None:
    png = with_chunk(encoded(GREY), kind, body)

    found = by_the_other(png)

    assert found is not None
    assert (found == by_opencv(png)).all()
    assert (found == GREY).all()


def interlaced() -> bytes:
    """Two by two pixels, interlaced (PNG, third edition, 8.1): three passes have a pixel or two."""
    passes = zlib.compress(bytes([0, 10, 0, 20, 0, 30, 40]))
    return whole(struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 1), chunk(b"IDAT", passes))


def palette() -> bytes:
    colours = chunk(b"PLTE", bytes([10, 10, 10, 200, 200, 200]))
    pixels = chunk(b"IDAT", zlib.compress(bytes([0, 1, 0])))
    return whole(struct.pack(">IIBBBBB", 2, 1, 8, 3, 0, 0, 0), colours, pixels)


def two_bits() -> bytes:
    pixels = chunk(b"IDAT", zlib.compress(bytes([0, 0b00011011])))
    return whole(struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0), pixels)


@pytest.mark.parametrize(
    ("png", "pixels"),
    [(interlaced(), [[10, 20], [30, 40]]), (palette(), [[200, 10]]), (two_bits(), [[0, 85, 170, 255]])],
    ids=["interlaced", "palette", "two bits"],
)
def test_what_is_not_plain_is_left_to_opencv(png: bytes, pixels: list[list[int]]) -> None:
    assert by_the_other(png) is None
    assert decode_one(png, Limits()).tolist() == pixels


@pytest.mark.parametrize(
    "png",
    [
        with_chunk(encoded(GREY), b"tRNS", b"\0\x40"),
        with_chunk(encoded(GREY), b"eXIf", b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
        with_chunk(encoded(GREY), b"acTL", struct.pack(">II", 2, 0)),
        with_chunk(encoded(GREY), b"heLP", b"of no standard"),
        with_chunk(encoded(COLOUR), b"gAMA", struct.pack(">I", 20_000)),
        encoded(np.insert(COLOUR, 3, 128, axis=2)),
        encoded(np.stack([GREY] * 2, axis=2)),
        encoded(COLOUR.astype(np.uint16) * 257),
    ],
    ids=["tRNS", "eXIf", "acTL", "unknown", "gAMA of colour", "alpha", "grey and alpha", "colour of 16 bits"],
)
def test_what_may_change_pixels_is_left_to_opencv(png: bytes) -> None:
    assert by_the_other(png) is None
    [picture] = frames(png, Limits())
    assert picture.dtype == np.uint8


def test_a_large_picture_does_not_keep_the_interpreter_s_lock() -> None:
    large = np.zeros((MOST_BYTES // 4000, 4000), np.uint8)

    assert by_the_other(encoded(large, 1)) is not None
    assert by_the_other(encoded(np.vstack([large, large[:1]]), 1)) is None


def test_many_threads_that_decode_do_not_wait_for_each_other_and_get_the_same_pixels() -> None:
    png = encoded(GREY)

    for threads in (1, 2, 3, 64):
        [picture] = frames(png, Limits(), threads=threads)
        assert (picture == GREY).all()


@pytest.mark.parametrize("body", [b"", b"not deflated", zlib.compress(bytes(61 * 84))[:-20], zlib.compress(bytes(100))])
def test_damage_that_the_checksums_do_not_show_is_found_as_opencv_finds_it(body: bytes) -> None:
    png = encoded(GREY)[:END_OF_HEADER] + chunk(b"IDAT", body) + chunk(b"IEND", b"")

    assert by_the_other(png) is None
    theirs = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    if theirs is None:
        with pytest.raises(CorruptImage):
            decode_one(png, Limits())
    else:
        assert (decode_one(png, Limits()) == theirs).all()


def test_texts_and_profiles_are_not_inflated() -> None:
    """A megabyte of each out of a kilobyte, a hundred times over: OpenCV's reader would inflate them all."""
    bomb = zlib.compress(bytes(1_000_000))
    png = encoded(np.insert(COLOUR, 3, 128, axis=2))
    plain = decode_one(png, Limits())
    for kind, body in ((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")):
        png = with_chunk(png, kind, body + bomb)

    assert still(png) == still(encoded(np.insert(COLOUR, 3, 128, axis=2)))
    assert np.array_equal(decode_one(png, Limits()), plain)


def test_rows_that_are_missing_are_not_made_up() -> None:
    """The checksums are right, and the data end before the picture does: of grey, and of what only OpenCV reads."""
    for colour, samples in ((0, 1), (4, 2)):
        rows = zlib.compress(b"\0" + bytes(4 * samples))
        png = whole(struct.pack(">IIBBBBB", 4, 4, 8, colour, 0, 0, 0), chunk(b"IDAT", rows))
        with pytest.raises(CorruptImage):
            decode_one(png, Limits())
