"""Damaged files by number: case `n` of a seed is always the same bytes, so what was found can be found again.

They begin as real files: the samples, pydicom's test files, and pictures in every format and transfer syntax that is
read. Sizes and lengths are what decoders trust most, so whole numbers are overwritten more often than bits are turned.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from imagecodecs import png_encode
from pydicom.uid import JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from shared.imaging.headers import PNG_SIGNATURE
from tests.support.files.images import LOSSLESS, NATIVE, SAMPLES, make_dicom, real_dicom

#: Larger files take longer, and say no more.
MAX_SEED_BYTES = 150_000
ALL_FILTERS = 248  # libpng's PNG_ALL_FILTERS
NUMBERS = (0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 127, 128, 255, 256, 1 << 15, (1 << 16) - 1, 1 << 31, (1 << 32) - 1)


@cache
def seeds() -> tuple[bytes, ...]:
    """The files that cases begin as."""
    found = [*_rasters(), *_dicom(), *real_dicom()]
    found += [path.read_bytes() for path in sorted(SAMPLES.iterdir()) if path.suffix in {".png", ".jpg"}]
    return tuple(data for data in found if len(data) <= MAX_SEED_BYTES)


def _rasters() -> Iterator[bytes]:
    grey = np.random.default_rng(1).integers(0, 255, (48, 64), dtype=np.uint8)
    pictures = (grey, grey.astype(np.uint16) * 257, np.dstack([grey] * 3), np.dstack([grey] * 4))
    for picture in pictures:
        yield _encoded(".png", picture)
        for compression in (1, 5, 8, 32773):  # none, LZW, deflate, PackBits
            yield _encoded(".tif", picture, cv2.IMWRITE_TIFF_COMPRESSION, compression)
    for picture in pictures[:3]:
        yield bytes(png_encode(picture, level=6, filter=ALL_FILTERS))  # OpenCV writes but one kind of row
    for options in ((), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)):
        yield _encoded(".jpg", pictures[0], *options)
        yield _encoded(".jpg", pictures[2], *options)
    yield cv2.imencodemulti(".tif", [grey, grey])[1].tobytes()


def _encoded(kind: str, picture: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(kind, picture, options)[1].tobytes()


def _dicom() -> Iterator[bytes]:
    pixels = np.random.default_rng(2).integers(0, 4095, (2, 64, 64), dtype=np.uint16)
    for syntax in (*NATIVE, *LOSSLESS, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000):
        yield make_dicom(pixels, modality="CT", bits_stored=12, transfer_syntax=syntax)
    for syntax in (*NATIVE[:2], *LOSSLESS, JPEGBaseline8Bit):
        yield make_dicom((pixels[0] >> 4).astype(np.uint8), transfer_syntax=syntax)


def case(seed: int, number: int) -> bytes:
    """The bytes of a case."""
    chance = random.Random(f"{seed} {number}")  # noqa: S311 - must be the same again
    data = bytearray(chance.choice(seeds()))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        chance.choice(MUTATIONS)(chance, data)
    if data.startswith(PNG_SIGNATURE) and chance.random() < 0.9:
        _sum_chunks(data)
    return bytes(data)


def _position(chance: random.Random, data: bytearray) -> int:
    """Anywhere, and most often near the beginning, where the headers are."""
    end = len(data) if chance.random() < 0.4 else min(len(data), chance.choice((64, 512, 2048)))
    return chance.randrange(max(end, 1))


def _number(chance: random.Random, data: bytearray) -> None:
    layout = chance.choice(("<H", ">H", "<I", ">I", "B"))
    at = _position(chance, data)
    size = struct.calcsize(layout)
    limit = (1 << 8 * size) - 1
    data[at : at + size] = struct.pack(layout, min(chance.choice(NUMBERS), limit))


def _nudge(chance: random.Random, data: bytearray) -> None:
    at = _position(chance, data)
    if at < len(data):
        data[at] = (data[at] + chance.choice((-2, -1, 1, 2, 16, 128))) % 256


def _bits(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.choice((1, 4, 32))):
        at = _position(chance, data)
        if at < len(data):
            data[at] ^= 1 << chance.randrange(8)


def _noise(chance: random.Random, data: bytearray) -> None:
    at = _position(chance, data)
    data[at : at + chance.choice((1, 4, 64))] = chance.randbytes(chance.choice((1, 4, 64)))


def _cut(chance: random.Random, data: bytearray) -> None:
    del data[chance.randrange(max(len(data), 1)) :]


def _remove(chance: random.Random, data: bytearray) -> None:
    at = _position(chance, data)
    del data[at : at + chance.choice((1, 2, 4, 100))]


def _repeat(chance: random.Random, data: bytearray) -> None:
    at = _position(chance, data)
    piece = data[at : at + chance.choice((4, 12, 100, 1000))]
    data[at:at] = piece * chance.choice((1, 2, 50))


def _splice(chance: random.Random, data: bytearray) -> None:
    other = chance.choice(seeds())
    data[_position(chance, data) :] = other[chance.randrange(len(other)) :]


MUTATIONS: tuple[Callable[[random.Random, bytearray], None], ...] = (
    _number, _number, _number, _nudge, _bits, _bits, _noise, _cut, _remove, _repeat, _splice,
)  # fmt: skip


def _sum_chunks(data: bytearray) -> None:
    """Right checksums for the chunks of a PNG: else none of them would be looked at."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            return
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4


def save(folder: Path, seed: int, number: int) -> Path:
    """Write a case to a file, to be looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{seed}-{number}.bin"
    path.write_bytes(case(seed, number))
    return path
